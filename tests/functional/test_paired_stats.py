"""Intervals and tests over independent repetitions agree with scipy and with their definitions."""

import math
from collections.abc import Mapping
from statistics import fmean

import numpy as np
import pytest
import scipy.stats

from diversify.functional.stats import bootstrap_mean_interval, holm, mean_interval, paired_t_test


@pytest.mark.parametrize("size", [2, 3, 5, 10])
def test_the_interval_of_a_mean_is_students(size: int) -> None:
    values = np.random.default_rng(size).normal(0.6, 0.05, size)
    low, high = scipy.stats.t.interval(0.95, size - 1, loc=values.mean(), scale=scipy.stats.sem(values))
    assert mean_interval(values.tolist()) == pytest.approx((low, high))


@pytest.mark.parametrize("size", [2, 3, 5, 10])
def test_the_p_value_is_that_of_the_paired_t_test(size: int) -> None:
    draw = np.random.default_rng(size)
    one, other = draw.normal(0.6, 0.05, size), draw.normal(0.55, 0.05, size)
    assert paired_t_test((one - other).tolist()) == pytest.approx(scipy.stats.ttest_rel(one, other).pvalue)


def test_one_value_has_no_interval_and_no_p_value() -> None:
    assert all(map(math.isnan, mean_interval([0.5])))
    assert math.isnan(paired_t_test([0.1]))
    assert all(map(math.isnan, bootstrap_mean_interval([], name="test")))


def test_equal_values_have_an_interval_without_width() -> None:
    assert mean_interval([0.25, 0.25, 0.25]) == (0.25, 0.25)
    assert paired_t_test([0.25, 0.25, 0.25]) == 0
    assert paired_t_test([0.0, 0.0, 0.0]) == 1


def test_the_bootstrap_interval_is_close_to_scipys() -> None:
    values = [0.031, 0.052, -0.004, 0.022, 0.047, 0.013, 0.038, 0.06]
    oracle = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", random_state=np.random.default_rng(0)
    ).confidence_interval
    low, high = bootstrap_mean_interval(values, name="test")
    assert (low, high) == pytest.approx(tuple(oracle), abs=1e-3)
    assert min(values) <= low < fmean(values) < high <= max(values)
    assert bootstrap_mean_interval(values, name="test") == (low, high)


def stepwise(raw: Mapping[str, float]) -> dict[str, float]:
    """Holm's definition: the largest (m - j + 1) p_(j) up to a place, at most 1."""
    known = {name: p for name, p in raw.items() if p == p}
    return {
        name: min(
            1.0, max((len(known) - sum(q < r for q in known.values())) * r for r in known.values() if r <= known[name])
        )
        if name in known
        else math.nan
        for name in raw
    }


def test_holms_adjustment_follows_its_definition() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    for turn in range(20):
        draw = np.random.default_rng(turn)
        raw = {f"m{place}": float(p) for place, p in enumerate(draw.random(draw.integers(1, 9)) ** 3)} | {
            "none": math.nan
        }
        found = holm(raw)
        assert found == pytest.approx(stepwise(raw), nan_ok=True)
        names = sorted((name for name in raw if name != "none"), key=lambda name: raw[name])
        assert [found[name] for name in names] == sorted(found[name] for name in names)
        assert all(raw[name] <= found[name] <= 1 for name in names)
        assert math.isnan(found["none"])
        assert holm(dict(reversed(raw.items()))) == pytest.approx(found, nan_ok=True)
