"""The curve of recall over labels: its rise, what classes share, and its forecast."""

import math

import pytest
import torch

from diversify.functional import draws
from diversify.functional import learning_curve as curve


def certain(value: float, variance: float = 1e-3) -> curve.Rise:
    return curve.Rise(torch.tensor([value], dtype=torch.float64), torch.tensor([[variance]], dtype=torch.float64))


def test_the_rise_is_that_of_the_log_odds_with_half_an_image_on_either_side() -> None:
    hits = torch.tensor([[1.0] * 4 + [0.0] * 16, [1.0] * 10 + [0.0] * 10])
    found = curve.measured_rise(hits)
    assert float(found.value) == pytest.approx(math.log(10.5 / 10.5) - math.log(4.5 / 16.5))
    paired = float(found.covariance)
    apart = float(curve.measured_rise(torch.stack([hits[0], hits[1].flip(0)])).covariance)
    assert paired < apart  # the same images are judged in both rows


def test_rows_of_one_group_count_once() -> None:
    one = torch.tensor([[1.0, 0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0, 0.0]])
    alone, repeated = (
        curve.measured_rise(one),
        curve.measured_rise(one.repeat(1, 6), groups=torch.arange(5).repeat(6)),
    )
    torch.testing.assert_close(alone.value, repeated.value)
    torch.testing.assert_close(alone.covariance, repeated.covariance)


def test_a_class_with_few_images_follows_the_others() -> None:
    added, counts = [torch.tensor([20])] * 3, [20, 20, 20]
    steep, flat = ([certain(value)] * 2 + [certain(0.0, 100.0)] for value in (0.7, 0.15))
    assert curve.fit_curves(steep, added, counts).slope[2] > curve.fit_curves(flat, added, counts).slope[2] + 0.1


def test_images_that_are_alike_are_worth_few() -> None:
    """A rise that the number of training images cannot explain lowers what they are worth, not only the slope."""
    found = curve.fit_curves([certain(1.0), certain(0.08)], [torch.tensor([30])] * 2, [300, 300])
    assert float(found.worth[0]) < 30 < 100 < float(found.worth[1])
    weights = found.weights
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(2, dtype=torch.float64))


def test_the_forecast_is_the_present_recall_without_new_images_and_rises_with_them() -> None:
    weights = curve.fit_curves([certain(0.6)], [torch.tensor([15])], [12]).weights[0]
    more = torch.tensor([0, 10, 40, 100])
    found = curve.forecast_recall(0.5, 40, more, weights=weights, count=12)
    assert float(found.value[0]) == pytest.approx(0.5)
    assert bool((found.value.diff() > 0).all())
    assert bool((found.low < found.value).all())
    assert bool((found.value < found.high).all())
    half = 1.96 * (2 / 20.5) ** 0.5
    assert float(found.low[0]) == pytest.approx(1 / (1 + math.exp(half)), abs=0.01)
    sure = curve.forecast_recall(0.5, 4000, more, weights=weights, count=12)
    assert bool((sure.high - sure.low < found.high - found.low).all())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_image_recognised_or_all_is_no_certainty(share: float) -> None:
    hits = torch.full((3, 15), share)
    found = curve.measured_rise(hits)
    assert bool((found.covariance.diagonal() > 0.1).all())
    weights = curve.fit_curves([found], [torch.tensor([4, 11])], [8]).weights[0]
    ends = curve.forecast_recall(share, 15, torch.tensor([40]), weights=weights, count=8)
    assert 0 < float(ends.low) < float(ends.high) < 1


def test_intervals_cover_what_such_classes_come_to() -> None:
    """Classes drawn from the model itself, with noise from few images: about 95% lie in their intervals."""
    size, more = 100, torch.tensor([40])
    slope = (0.6 + 0.2 * draws.normal("slope", torch.arange(size)).double()).clamp(min=0)
    recall = 0.2 + 0.6 * draws.uniform("recall", torch.arange(size)).double()
    covered = 0
    for k in range(size):
        gains = slope[k] * torch.log1p(torch.tensor([0.0, 4.0, 15.0]) / 12)
        shares = (recall[k].logit() + gains).sigmoid()
        hits = (draws.uniform("hits", k, torch.arange(20)).double() < shares[:, None]).double()
        curves = curve.fit_curves([curve.measured_rise(hits, seed=k)], [torch.tensor([4, 15])], [12])
        found = curve.forecast_recall(float(hits[0].mean()), 20, more, weights=curves.weights[0], count=12)
        real = (recall[k].logit() + slope[k] * torch.log1p(more / 12)).sigmoid()
        covered += int(bool(found.low <= real) and bool(real <= found.high))
    assert 0.9 < covered / size < 0.995
