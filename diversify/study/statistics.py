"""Means, intervals and paired differences over seeds and networks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Literal

import torch
from scipy.special import stdtr, stdtrit

from ..functional import draws
from ..functional.stats import interval

Network = int | str
"""The backbone that a run names, or its seed where it has a network of its own."""

CONFIDENCE = 0.95
FEWEST_FOR_P, FEWEST_FOR_BOOTSTRAP = 3, 6  # networks
BOOTSTRAPS = 10_000

Verdict = Literal["ahead", "behind", "open"]


# Numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number over networks: its values network by network, their mean, and its 95% t interval, NaN with fewer than 2.

    Attributes:
        by_seed: The value of every seed that has one.
        values: Of every network, mean over its seeds, in the order of their first ones.
        low: With `high` the ends of the interval; those of a share lie where shares end, at 0 and 1, at the farthest.
    """

    by_seed: Mapping[int, float]
    values: tuple[float, ...]
    mean: float
    low: float
    high: float

    @classmethod
    def of(
        cls, by_seed: Mapping[int, float], *, networks: Mapping[int, Network] | None = None, share: bool = False
    ) -> Estimate:
        """From a value per seed; seeds without one are left out, and those that `networks` does not name have their own."""
        known = {seed: by_seed[seed] for seed in sorted(by_seed) if math.isfinite(by_seed[seed])}
        grouped: dict[Network, list[float]] = {}
        for seed, value in known.items():
            grouped.setdefault((networks or {}).get(seed, seed), []).append(value)
        values = tuple(map(fmean, grouped.values()))
        low, high = mean_interval(values)
        if share and len(values) > 1:
            low, high = max(low, 0.0), min(high, 1.0)
        return cls(by_seed=known, values=values, mean=fmean(values) if values else math.nan, low=low, high=high)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those that have a value."""
        return tuple(self.by_seed)

    @property
    def half(self) -> float:
        """How far the interval reaches from the mean, to its farther end."""
        return max(self.high - self.mean, self.mean - self.low)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """A method less a reference, over the seeds that both have.

    Attributes:
        paired: The differences seed by seed and network by network, their mean and its t interval.
        bootstrap_low: With `bootstrap_high` the percentile bootstrap's; NaN with fewer than 6 networks.
        p: Of the two-sided paired t test; NaN with fewer than 3 networks.
        p_holm: The same, adjusted for all methods that are compared with this reference in this suite; NaN outside of
            such a family.
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
        """Whether the t interval leaves out 0, and on which side it lies; higher is called ahead.

        Always open with fewer than 3 networks: two differences that agree by chance have an interval of no width.
        """
        if len(self.paired.values) < FEWEST_FOR_P:
            return "open"
        return "ahead" if self.paired.low > 0 else "behind" if self.paired.high < 0 else "open"


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Low and high end of Student's interval for the mean; NaN with fewer than 2 values."""
    if len(values) < 2:
        return math.nan, math.nan
    half = float(stdtrit(len(values) - 1, 0.5 + confidence / 2)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def paired_p(values: Sequence[float]) -> float:
    """Of the two-sided t test that paired differences have mean 0; NaN with fewer than 3, 1 where all are 0."""
    if len(values) < FEWEST_FOR_P:
        return math.nan
    mean, spread = fmean(values), stdev(values)
    if not spread:
        return 0.0 if mean else 1.0
    return min(1.0, 2 * float(stdtr(len(values) - 1, -abs(mean) / spread * math.sqrt(len(values)))))


def holm(raw: Mapping[str, float]) -> dict[str, float]:
    """The p values adjusted for their number (Holm 1979), never below the raw ones; NaN stays and is not counted."""
    known = sorted((p, name) for name, p in raw.items() if not math.isnan(p))
    adjusted = dict.fromkeys(raw, math.nan)
    least = 0.0
    for place, (p, name) in enumerate(known):
        least = max(least, min(1.0, (len(known) - place) * p))
        adjusted[name] = least
    return adjusted


def bootstrap_interval(values: Sequence[float], draws_made: int = BOOTSTRAPS) -> tuple[float, float]:
    """95% percentile interval of the mean, over `values` drawn with replacement; NaN with fewer than 6."""
    if len(values) < FEWEST_FOR_BOOTSTRAP:
        return math.nan, math.nan
    size = len(values)
    rows = draws.integers(size, "study bootstrap", torch.arange(draws_made)[:, None], torch.arange(size))
    low, high = interval(torch.tensor(values, dtype=torch.float64)[rows].mean(1), CONFIDENCE)
    return float(low), float(high)


def difference(
    method: str,
    reference: str,
    one: Mapping[int, float],
    other: Mapping[int, float],
    networks: Mapping[int, Network] | None = None,
) -> Difference:
    """`one` less `other`, both a value per seed, over the seeds that both have, and then over their `networks`."""
    paired = Estimate.of({seed: one[seed] - other[seed] for seed in one if seed in other}, networks=networks)
    low, high = bootstrap_interval(paired.values)
    return Difference(
        method=method,
        reference=reference,
        paired=paired,
        bootstrap_low=low,
        bootstrap_high=high,
        p=paired_p(paired.values),
    )
