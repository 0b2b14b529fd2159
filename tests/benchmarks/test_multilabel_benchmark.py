"""The benchmark of several labels per image: its canvases, and its table of known records."""

import pytest
import torch

from benchmarks import multilabel


def record(method: str, seed: int, score: float) -> dict[str, object]:
    return {"method": method, "seed": seed, **dict.fromkeys(multilabel.COLUMNS, score)}


RECORDS = [record("bce", seed, 0.5 + seed / 10) for seed in range(3)]
RECORDS += [record("focal", seed, 0.6 + seed / 10 + shift) for seed, shift in enumerate((-0.01, 0.0, 0.01))]


def test_differences_are_paired_by_seed() -> None:
    gain, low, high = multilabel.difference(RECORDS, "focal", "macro_f1")
    assert gain == pytest.approx(0.1)
    assert (low + high) / 2 == pytest.approx(0.1)
    assert (high - low) / 2 == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-5)


def test_the_table_and_the_text_say_what_is_surely_better() -> None:
    row = next(line for line in multilabel.table(RECORDS).splitlines() if line.startswith("| `focal`"))
    assert row.startswith("| `focal` | 70.0 (+10.0, +7.5 to +12.5) |")
    assert multilabel.text(RECORDS).startswith("6 runs, 3 seeds;")
    assert "By tuned macro F1, `focal` surely better" in multilabel.text(RECORDS)
    assert multilabel.table([]) == multilabel.text([]) == multilabel.NO_RECORDS


def test_canvases_show_the_classes_of_both_halves_as_often_as_wanted() -> None:
    images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1)
    labels = torch.arange(40) % 4
    shares = multilabel.shares_of(4, seed=1, ratio=8.0)
    assert float(shares.max() / shares.min()) == pytest.approx(8.0)
    made = multilabel.Canvases.drawn(images, labels, shares, 4000, name="test", seed=0)
    for side in range(2):
        shown = made.images[:, 0, 0, side].long() % 4
        assert bool(made.labels[torch.arange(4000), shown].all())
        assert (shown.bincount(minlength=4) / 4000).tolist() == pytest.approx(shares.tolist(), abs=0.03)
    assert int(made.labels.sum(1).max()) == 2
