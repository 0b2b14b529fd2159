"""The statements of the demo's report."""

from types import SimpleNamespace

import torch

from diversify.report.demo import _what_got_weaker

NAMES = ("cat", "dog", "emu", "fox")
FRAGILE = (1.0, 1.0, 1.0, 0.0)


def weaker_of(before: tuple[float, ...], after: tuple[float, ...]) -> list[str]:
    """The texts on classes with these top-K ratios before and after; all but the fox are fragile."""
    sides = [
        {"ce_magnitude_ratio": torch.tensor(ratios, dtype=torch.float64), "fragile": torch.tensor(FRAGILE)}
        for ratios in (before, after)
    ]
    demo = SimpleNamespace(before=sides[0], after=sides[1])
    return [one.text for one in _what_got_weaker(demo, NAMES)]  # type: ignore[arg-type]


def test_fragile_classes_whose_ratio_fell_are_listed_with_both_values() -> None:
    (text,) = weaker_of((0.62, 0.60, 0.55, 0.9), (0.58, 0.70, 0.41, 0.2))
    assert "cat from 62% to 58%, emu from 55% to 41%." in text
    assert "dog" not in text, "its ratio rose"
    assert "fox" not in text, "it is not fragile"


def test_a_fall_below_a_point_or_an_unknown_ratio_is_not_mentioned() -> None:
    unknown = float("nan")
    assert weaker_of((0.62, 0.60, 0.55, 0.9), (0.615, 0.60, 0.60, 0.2)) == []
    assert weaker_of((0.62, unknown, 0.55, 0.9), (unknown, 0.2, 0.55, 0.2)) == []
