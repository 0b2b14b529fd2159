"""What a repaired head is expected to change: the luck of the choice is taken off, and nothing changes where nothing is done."""

import dataclasses

import pytest
import torch

import diversify as dv
from diversify.errors import InputError
from diversify.functional import draws
from diversify.repair.choice import HeadChoice
from diversify.repair.forecast import head_forecast, hit_sums

LABELS = torch.tensor([0] * 40 + [1] * 10)


def _sums(nested: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    before, after = torch.zeros(50), torch.zeros(50)
    before[:30], after[:28], after[40:47] = 1.0, 1.0, 1.0
    return hit_sums(before, after, after if nested is None else nested, LABELS, 3)


def test_without_luck_the_forecast_is_the_measured_change() -> None:
    columns, whole = head_forecast(_sums())
    assert torch.allclose(columns["gain"][:2], torch.tensor([-0.05, 0.7], dtype=torch.float64))
    assert bool(columns["gain"][2].isnan())  # a class without rows
    assert whole["gain"] == pytest.approx(0.325)
    assert bool(
        (columns["gain_low"][:2] < columns["gain"][:2]).all() & (columns["gain"][:2] < columns["gain_high"][:2]).all()
    )


def test_the_luck_of_the_choice_is_taken_off_most_where_few_rows_leave_most_to_chance() -> None:
    nested = torch.zeros(50)
    nested[:28], nested[40:45] = 1.0, 1.0  # two rows of the small class are lost: 0.1 of the mean recall
    sure, (lucky, whole) = head_forecast(_sums())[0], head_forecast(_sums(nested))
    lost = (sure["gain"] - lucky["gain"])[:2]
    assert float(lost.mean()) == pytest.approx(0.1)
    assert float(lost[1]) > 3 * float(lost[0]) > 0
    assert whole["gain"] == pytest.approx(0.225)
    assert torch.equal(lucky["gain_high"][:2], sure["gain_high"][:2])
    assert bool((lucky["gain_low"] < sure["gain_low"])[:2].all())


def test_bad_luck_is_not_added() -> None:
    assert head_forecast(_sums(torch.ones(50)))[1]["gain"] == pytest.approx(0.325)


def test_an_untouched_head_changes_nothing() -> None:
    columns, whole = head_forecast(_sums(), untouched=True)
    assert columns["gain"][:2].tolist() == columns["gain_high"][:2].tolist() == [0.0, 0.0]
    assert set(whole.values()) == {0.0}


def test_the_choice_carries_its_forecast_through_its_file() -> None:
    train, heldout, head = dv.make_embeddings()
    choice = dv.choose_head(train, heldout, head, dv.default_candidates(train, head)[:2])
    again = HeadChoice.from_dict(choice.to_dict())
    assert torch.allclose(again.forecast["gain_low"], choice.forecast["gain_low"], atol=1e-4)
    assert again.expected_in_words() == choice.expected_in_words()
    assert "points (95% interval" in choice.expected_in_words()
    older = {name: value for name, value in choice.to_dict().items() if not name.startswith("forecast")}
    assert HeadChoice.from_dict(older).forecast == {}
    assert HeadChoice.from_dict(older).expected_in_words() == ""
    short = choice.to_dict() | {"forecast": {"gain": [0.0]}}
    with pytest.raises(InputError, match="one per class"):
        HeadChoice.from_dict(short)
    assert dataclasses.replace(choice, recommended=0).expected_in_words() == ""


def _of_ten(changes: list[int], rows: list[int]) -> dict[str, torch.Tensor]:
    """Sums of 10 classes whose first half of rows is recognised before, and in which so many more are recognised after."""
    labels = torch.arange(10).repeat_interleave(torch.tensor(rows))
    before, after, start = torch.zeros(len(labels)), torch.zeros(len(labels)), 0
    for more, count in zip(changes, rows, strict=True):
        before[start : start + count // 2] = 1.0
        after[start : start + count // 2 + more] = 1.0
        start += count
    return hit_sums(before, after, after, labels, 10)


def test_a_class_of_few_rows_borrows_from_the_others_and_one_of_many_does_not() -> None:
    rows = [4, *[100] * 9]
    columns, _ = head_forecast(_of_ten([2, *[10] * 9], rows))
    assert float(columns["gain"][0]) < 0.35  # 2 of 4 rows, where all others gain a tenth
    assert float(columns["gain"][9]) == pytest.approx(0.1, abs=0.03)
    several, _ = head_forecast(_of_ten([2, *[10] * 3, *[30] * 3, *[0] * 3], rows))
    apart = several["gain"][1:] - torch.tensor([0.1] * 3 + [0.3] * 3 + [0.0] * 3)
    assert float(apart.abs().max()) < 0.05
    alone = head_forecast({name: values[:4] for name, values in _of_ten([2, *[10] * 9], rows).items()})[0]
    assert float(alone["gain"][0]) == pytest.approx(0.5)  # four classes are too few to borrow from


def test_recall_after_lies_in_its_interval_and_the_gain_leads_to_it() -> None:
    sums = _of_ten([1, 0, 2, 1, 0, 3, 1, 0, 1, 2], [6, 8, 10, 6, 8, 10, 6, 8, 10, 0])
    columns, _ = head_forecast(sums)
    before = columns["after"] - columns["gain"]
    assert bool(((before >= 0) & (before <= 1))[:9].all())
    assert float((before - sums["before"] / sums["rows"])[:9].abs().max()) < 0.1
    for name in ("gain", "after"):
        low, middle, high = (columns[name + end][:9] for end in ("_low", "", "_high"))
        assert bool(((low < middle) & (middle < high)).all()), name
    assert all(bool(value[9].isnan()) for value in columns.values())


def _many(count: int, rows: int, kept: torch.Tensor, lost: torch.Tensor, won: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sums of classes whose rows are right before and after, before only, or after only, with these probabilities."""
    draw = draws.uniform("many classes", torch.arange(count)[:, None], torch.arange(rows))
    before = (draw < (kept + lost)[:, None]).double()
    after = (
        (draw < kept[:, None]) | ((draw >= (kept + lost)[:, None]) & (draw < (kept + lost + won)[:, None]))
    ).double()
    labels = torch.arange(count).repeat_interleave(rows)
    return hit_sums(before.flatten(), after.flatten(), after.flatten(), labels, count)


@pytest.mark.parametrize("rows", [3, 10, 50])
@pytest.mark.parametrize("falls", [True, False])
def test_intervals_hold_with_very_many_classes(rows: int, falls: bool) -> None:
    """Chance in the recall before and in the gain is opposed: whoever predicts the one from the other is misled, and surely so."""
    rising, count = torch.linspace(0, 1, 1000), 1000
    kept = 0.1 + 0.6 * rising if falls else torch.full((count,), 0.4)
    lost = torch.full((count,), 0.05 if falls else 0.1)
    won = 0.05 + 0.25 * (1 - rising) if falls else torch.full((count,), 0.1)
    columns, _ = head_forecast(_many(count, rows, kept, lost, won))
    true = won - lost
    held = (columns["gain_low"] <= true) & (true <= columns["gain_high"])
    assert float(held.double().mean()) >= 0.92
    assert float((columns["gain_high"] - columns["gain_low"]).mean()) < {3: 0.3, 10: 0.25, 50: 0.13}[rows]
