"""Ways of training compared: gains, and intervals over seeds and images."""

import math

import pytest
import torch

from diversify.functional import draws
from diversify.study.outcome import TrainingWay, outcome_of


def way(name: str, right: list[list[int]]) -> TrainingWay:
    rows = torch.tensor(right, dtype=torch.float64)
    return TrainingWay(name=name, meaning="", source="", balanced_accuracy_val=(0.5,) * len(rows), right=rows)


def test_a_gain_is_the_mean_over_classes_and_seeds() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1])
    first = way("first", [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    second = way("second", [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
    found = outcome_of([first, second], labels, 2)
    assert found.accuracy.tolist() == [[0.5, 0.25], [1.0, 0.5]]
    assert found.recall.tolist() == [[0.75, 0.0], [1.0, 0.5]]
    assert float(found.gain[1, 0]) == pytest.approx(0.375)
    assert found.seed_gain(1, 0) == [0.5, 0.25]
    assert float(found.gain_low[1, 0]) < 0.375 < float(found.gain_high[1, 0])
    assert float(found.gain_low[0, 0]) < 0 < float(found.gain_high[0, 0])


def test_an_interval_of_a_gain_grows_with_the_differences_between_seeds() -> None:
    labels = torch.arange(40) % 2
    none = [[0] * 40] * 2
    half = [int(place % 4 < 2) for place in range(40)]
    steady = outcome_of([way("none", none), way("half", [half, half])], labels, 2)
    uneven = outcome_of([way("none", none), way("half", [[0] * 40, [1] * 40])], labels, 2)
    assert float(steady.gain[1, 0]) == float(uneven.gain[1, 0]) == 0.5
    widths = [float(one.gain_high[1, 0] - one.gain_low[1, 0]) for one in (steady, uneven)]
    assert widths[1] > 2 * widths[0]
    alone = outcome_of([way("none", none[:1]), way("half", [half])], labels, 2)
    assert math.isfinite(float(alone.gain_high[1, 0])), "one seed: over images alone"


@pytest.mark.parametrize("seed_spread", [0.0, 0.5])
@pytest.mark.slow
def test_the_interval_of_a_gain_covers_the_true_gain_as_often_as_it_says(seed_spread: float) -> None:
    """Two ways of equal accuracy: 5 seeds, 200 images; images are easy or hard, and seeds are good or bad."""
    labels = torch.arange(200) % 10
    covered, widths, gains = 0, [], []
    trials = 150
    for trial in range(trials):
        ease = draws.uniform("ease", trial, torch.arange(200))
        rows = []
        for name in ("one", "other"):
            skill = seed_spread * (draws.uniform("skill", trial, name, torch.arange(5)) - 0.5)
            chance = draws.uniform("chance", trial, name, torch.arange(1000)).view(5, 200)
            rows.append((chance < (0.2 + 0.6 * ease + skill.unsqueeze(1))).int().tolist())
        found = outcome_of([way("one", rows[0]), way("other", rows[1])], labels, 10)
        low, high = float(found.gain_low[1, 0]), float(found.gain_high[1, 0])
        covered += low <= 0 <= high
        widths.append(high - low)
        gains.append(float(found.gain[1, 0]))
    assert 0.90 <= covered / trials <= 1.0
    spread = torch.tensor(gains).std()
    assert float(torch.tensor(widths).mean()) < 2 * 1.96 * float(spread) * 1.7, "not far wider than needed"
