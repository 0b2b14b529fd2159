"""Shrinkage toward the mean agrees with its formulas, and intervals by its covariances hold."""

import pytest
import torch

from diversify.functional import draws
from diversify.functional.empirical_bayes import LEAST, shrink_to_mean

REACH = 1.959964


def drawn(name: str, *shape: int) -> torch.Tensor:
    return draws.normal(
        name, *(torch.arange(n).view(-1, *[1] * (len(shape) - 1 - k)) for k, n in enumerate(shape))
    ).double()


def test_single_numbers_with_equal_noise_are_those_of_james_and_stein() -> None:
    values = torch.tensor([0.5, -0.2, 0.1, 0.9, -0.6, 0.3, 0.0], dtype=torch.float64)
    shrunk, covariance = shrink_to_mean(values[:, None], torch.full((7, 1, 1), 0.05))
    residual = values - values.mean()
    way = 0.05 * (7 - 3) / float(residual.square().sum())  # the James-Stein estimate around the mean
    torch.testing.assert_close(shrunk[:, 0], values - way * residual)
    expected = 0.05 * (1 - way) + way**2 * (values.var() / 7 + residual.square() * 2 / 4)
    torch.testing.assert_close(covariance[:, 0, 0], expected)


def test_two_numbers_with_correlated_noise_are_those_of_a_plain_loop() -> None:
    values = torch.stack([drawn("first", 9), drawn("second", 9)], 1)
    noise = torch.stack(
        [torch.tensor([[a, -a / 2], [-a / 2, b]]) for a, b in zip(range(1, 10), range(9, 0, -1), strict=True)]
    )
    noise = noise.double() / 100
    shrunk, covariance = shrink_to_mean(values, noise)
    mean = values.mean(0)
    spread = torch.cov(values.T) - noise.mean(0)
    of_mean = sum(spread + one for one in noise) / 81
    for value, own, found, around in zip(values, noise, shrunk, covariance, strict=True):
        way = own @ torch.linalg.inv(spread + own) * 5 / 8
        moved = way @ (value - mean)
        torch.testing.assert_close(found, value - moved)
        rest = way @ of_mean @ way.T + 2 / 5 * torch.outer(moved, moved)
        torch.testing.assert_close(around, own - way @ own + rest)


def test_noise_alone_shrinks_most_and_spread_shrinks_little() -> None:
    noise = torch.full((50, 1, 1), 0.04)
    same, _ = shrink_to_mean(0.2 * drawn("noise alone", 50, 1), noise)
    far, _ = shrink_to_mean(20 * drawn("far apart", 50, 1), noise)
    assert float(same.std()) < 0.05
    torch.testing.assert_close(far, 20 * drawn("far apart", 50, 1), atol=0.01, rtol=1e-3)


@pytest.mark.parametrize("spread", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("count", [10, 100, 1000])
def test_intervals_hold_as_often_as_they_say_and_are_narrower_than_the_noise(count: int, spread: float) -> None:
    """The noise of the second number is opposed to that of the first, as that of a gain is to that of the recall before."""
    times = 2000 // count
    size = (0.01 + 0.09 * torch.arange(count) / count).sqrt()
    shape = torch.tensor([[1.0, 0.0], [-0.6, 0.8]], dtype=torch.float64)
    factors = size[:, None, None] * shape
    held, width = 0.0, 0.0
    for turn in range(times):
        true = 0.3 + spread * drawn(f"true {turn}", count, 2)
        seen = true + (factors @ drawn(f"seen {turn}", count, 2)[:, :, None])[:, :, 0]
        shrunk, covariance = shrink_to_mean(seen, factors @ factors.mT)
        variance = covariance.diagonal(dim1=1, dim2=2)
        held += float(((true - shrunk).abs() <= REACH * variance.sqrt()).double().mean()) / times
        width += float((variance / size.square()[:, None]).sqrt().mean()) / times
    assert 0.92 <= held <= (1.0 if spread == 0 else 0.98)
    assert width < 1


def test_few_vectors_and_unknown_ones_are_left() -> None:
    few = torch.tensor([[0.1, 1.0], [0.5, 0.0], [-0.2, 2.0], [torch.nan, 0.0], [0.3, 1.0], [0.9, 0.5]])
    noise = 0.1 * torch.eye(2).repeat(6, 1, 1)
    shrunk, covariance = shrink_to_mean(few, noise)
    assert int((~few.isnan().any(1)).sum()) < LEAST
    torch.testing.assert_close(shrunk, few.double(), equal_nan=True)
    torch.testing.assert_close(covariance, noise.double())
    shrunk, _ = shrink_to_mean(torch.cat([few, few[:1]]), 0.1 * torch.eye(2).repeat(7, 1, 1))
    assert shrunk.isnan().any(1).tolist() == [False, False, False, True, False, False, False]
    assert float((shrunk - torch.cat([few, few[:1]])).abs().nan_to_num(0).max()) > 0.01
