"""Estimates over networks, and paired differences between two methods."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from statistics import fmean
from typing import Literal

from ..functional.stats import bootstrap_mean_interval, mean_interval, paired_t_test

Network = int | str
"""The frozen backbone that a run names, or the seed of a run that trained a network of its own."""

CONFIDENCE = 0.95
FEWEST_FOR_P = 3
"""Networks from which on a paired t test is reported; with 2 its interval is too wide to say anything."""
FEWEST_FOR_BOOTSTRAP = 6
"""Networks from which on a bootstrap interval is reported."""

Verdict = Literal["ahead", "behind", "open"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number that was measured on several networks, with its mean and 95% t interval.

    Attributes:
        by_seed: The value of every seed that has one.
        values: The value of every network, averaged over its seeds, in the order in which the networks first appear.
        mean: Mean over the networks; NaN without any.
        low: Low end of the t interval over the networks; NaN with fewer than 2. Clipped to what the number can be.
        high: High end, in the same way.

    Example:
        >>> accuracy = Estimate.of({0: 0.70, 1: 0.74, 2: 0.72}, limits=(0.0, 1.0))
        >>> round(accuracy.mean, 2), round(accuracy.low, 2), round(accuracy.high, 2)
        (0.72, 0.67, 0.77)
    """

    by_seed: Mapping[int, float]
    values: tuple[float, ...]
    mean: float
    low: float
    high: float

    @classmethod
    def of(
        cls,
        by_seed: Mapping[int, float],
        *,
        networks: Mapping[int, Network] | None = None,
        limits: tuple[float, float] = (-math.inf, math.inf),
    ) -> Estimate:
        """Return the estimate from one value per seed.

        Args:
            by_seed: Value per seed. Seeds whose value is not finite are left out.
            networks: The network of each seed. A seed that is not listed has a network of its own.
            limits: The least and the greatest value that the number can have; its interval is clipped to them.
        """
        known = {seed: by_seed[seed] for seed in sorted(by_seed) if math.isfinite(by_seed[seed])}
        grouped: dict[Network, list[float]] = {}
        for seed, value in known.items():
            grouped.setdefault((networks or {}).get(seed, seed), []).append(value)
        values = tuple(map(fmean, grouped.values()))
        low, high = mean_interval(values, CONFIDENCE)
        if len(values) > 1:
            low, high = max(low, limits[0]), min(high, limits[1])
        return cls(by_seed=known, values=values, mean=fmean(values) if values else math.nan, low=low, high=high)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that have a value."""
        return tuple(self.by_seed)

    @property
    def half(self) -> float:
        """The distance from the mean to the farther end of the interval."""
        return max(self.high - self.mean, self.mean - self.low)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """The score of a method minus that of a reference, over the seeds that both have.

    Attributes:
        method: Name of the method.
        reference: Name of the reference.
        paired: The differences by seed and by network, with their mean and t interval.
        bootstrap_low: Low end of the percentile bootstrap interval; NaN with fewer than 6 networks.
        bootstrap_high: High end, in the same way.
        p: The p value of the two-sided paired t test; NaN with fewer than 3 networks.
        p_holm: `p` adjusted by Holm's method for all methods compared with this reference in this suite; NaN if the
            difference belongs to no such family.

    Example:
        >>> found = difference("vs", "ce", {0: 0.63, 1: 0.66, 2: 0.64}, {0: 0.52, 1: 0.54, 2: 0.53})
        >>> round(found.paired.mean, 3), found.verdict
        (0.113, 'ahead')
    """

    method: str
    reference: str
    paired: Estimate
    bootstrap_low: float
    bootstrap_high: float
    p: float
    p_holm: float = math.nan

    @property
    def verdict(self) -> Verdict:
        """Return "ahead" or "behind" if the t interval excludes 0, else "open".

        Always "open" with fewer than 3 networks: two differences that agree by chance have an interval of width 0.
        """
        if len(self.paired.values) < FEWEST_FOR_P:
            return "open"
        return "ahead" if self.paired.low > 0 else "behind" if self.paired.high < 0 else "open"


def difference(
    method: str,
    reference: str,
    one: Mapping[int, float],
    other: Mapping[int, float],
    networks: Mapping[int, Network] | None = None,
) -> Difference:
    """Return the paired difference `one - other`.

    Args:
        method: Name that `one` belongs to.
        reference: Name that `other` belongs to.
        one: Value per seed.
        other: Value per seed. Only seeds in both are compared.
        networks: The network of each seed; differences of one network are averaged first.
    """
    paired = Estimate.of({seed: one[seed] - other[seed] for seed in one if seed in other}, networks=networks)
    size = len(paired.values)
    low, high = math.nan, math.nan
    if size >= FEWEST_FOR_BOOTSTRAP:
        low, high = bootstrap_mean_interval(paired.values, confidence=CONFIDENCE, name="study bootstrap")
    return Difference(
        method=method,
        reference=reference,
        paired=paired,
        bootstrap_low=low,
        bootstrap_high=high,
        p=paired_t_test(paired.values) if size >= FEWEST_FOR_P else math.nan,
    )
