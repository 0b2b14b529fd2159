"""Shrinkage toward a line agrees with its formulas, and its variances are those of the true values."""

import pytest
import torch
from scipy.stats import norm

from diversify.functional import draws
from diversify.functional.empirical_bayes import LEAST, shrink_to_line


def drawn(name: str, count: int, replicates: int) -> torch.Tensor:
    return draws.normal(name, torch.arange(replicates)[:, None], torch.arange(count)).double()


def test_the_spread_is_that_of_paule_and_mandel_and_values_move_by_their_noise() -> None:
    values = torch.tensor([0.5, -0.2, 0.1, 0.9, -0.6, 0.3], dtype=torch.float64)
    noise = torch.tensor([0.01, 0.02, 0.05, 0.01, 0.03, 0.02], dtype=torch.float64)
    shrunk, _ = shrink_to_line(values, noise, torch.ones(6))
    residual, free = values - values.mean(), 5
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if float((residual**2 / (noise + middle)).sum()) > free else (low, middle)
    moved = noise / (noise + low) * (free - 2) / free
    torch.testing.assert_close(shrunk, values - moved * residual)


def test_values_on_a_line_stay_and_a_line_is_followed() -> None:
    line = torch.linspace(0, 1, 8)
    shrunk, variance = shrink_to_line(0.3 * line + 0.1, torch.full((8,), 0.02), line)
    torch.testing.assert_close(shrunk, (0.3 * line + 0.1).double())
    assert float(variance.max()) < 0.02


def test_noise_alone_shrinks_most_and_spread_shrinks_little() -> None:
    noise = torch.full((50,), 0.04)
    same, _ = shrink_to_line(0.2 * drawn("noise alone", 50, 1)[0], noise, torch.ones(50))
    far, _ = shrink_to_line(20 * drawn("far apart", 50, 1)[0], noise, torch.ones(50))
    assert float(same.std()) < 0.05
    torch.testing.assert_close(far, 20 * drawn("far apart", 50, 1)[0], atol=0.01, rtol=1e-3)


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.5])
def test_intervals_hold_as_often_as_they_say_and_are_narrower_than_the_noise(spread: float) -> None:
    count, replicates = 10, 400
    predictor = drawn("predictor", count, 1)[0]
    noise = 0.01 + 0.09 * torch.arange(count) / count
    true = 0.3 + 0.2 * predictor + spread * drawn("true", count, replicates)
    seen = true + noise.sqrt() * drawn("seen", count, replicates)
    held, width = 0.0, 0.0
    for own, value in zip(true, seen, strict=True):
        shrunk, variance = shrink_to_line(value, noise, predictor)
        reach = norm.ppf(0.975) * variance.sqrt()
        held += float(((own - shrunk).abs() <= reach).double().mean()) / replicates
        width += float((variance / noise).sqrt().mean()) / replicates
    assert 0.93 <= held <= 0.99
    assert width < 1


def test_few_values_and_unknown_ones_are_left() -> None:
    few = torch.tensor([0.1, 0.5, -0.2, torch.nan, 0.3])
    shrunk, variance = shrink_to_line(few, torch.full((5,), 0.1), torch.arange(5))
    assert len(few) - 1 < LEAST
    torch.testing.assert_close(shrunk, few.double(), equal_nan=True)
    assert variance.tolist() == pytest.approx([0.1] * 5)
    more = torch.cat([few, torch.tensor([0.2, 0.0])])
    shrunk, _ = shrink_to_line(more, torch.full((7,), 0.1), torch.arange(7))
    assert shrunk.isnan().tolist() == [False, False, False, True, False, False, False]
