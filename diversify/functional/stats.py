"""Statistics: intervals, tests, rank correlations, the fit on log n, and the rows of a comparison at matched n.

scipy computes ranks, t tests and quantiles of t. What is written out here is batched over tensors, takes fractional
counts, draws by key instead of from a generator, or is missing in scipy.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

import numpy as np
import scipy
import torch
from scipy.special import stdtr, stdtrit
from torch import Tensor

from ..errors import must
from .counts import class_counts
from .draws import bits, integers

_BLOCK = 1 << 22  # numbers drawn at a time: 32 MB per int64 temporary
_CACHED = 1 << 18  # the same on the CPU: 2 MB
_UNCORRELATED = 1e-12  # a residual smaller than this share of a variable is rounding


def wilson_interval(successes: Tensor, totals: Tensor, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
    """Return Wilson's score interval of proportions, without continuity correction.

    `scipy.stats.binomtest` has it for one proportion of whole counts; here it is computed for many at once, and counts
    may be fractions.

    Args:
        successes: Successes, of any shape.
        totals: Trials, of the same shape.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        Low and high ends in [0, 1], float64, of the shape of `successes`; NaN where the total is 0.

    References:
        Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    Example:
        >>> low, high = wilson_interval(torch.tensor([8, 0]), torch.tensor([10, 10]))
        >>> [(round(a, 2), round(b, 2)) for a, b in zip(low.tolist(), high.tolist())]
        [(0.49, 0.94), (0.0, 0.28)]
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    total = totals.double()
    share = successes.double() / total
    shrink = 1 + z**2 / total
    middle = (share + z**2 / (2 * total)) / shrink
    half = z / shrink * (share * (1 - share) / total + (z / (2 * total)) ** 2).sqrt()
    defined = total > 0
    low = torch.where(successes > 0, (middle - half).clamp(0, 1), 0.0)  # exactly 0 and 1 at the ends
    high = torch.where(successes < totals, (middle + half).clamp(0, 1), 1.0)
    return torch.where(defined, low, torch.nan), torch.where(defined, high, torch.nan)


def paired_difference_interval(
    first: Tensor, second: Tensor, both: Tensor, totals: Tensor, confidence: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Return an interval for the difference of two proportions of the same units, `second` minus `first`.

    It combines the Wilson intervals of both shares with their correlation, so its width is never 0.

    Args:
        first: Units where the first is true, of any shape.
        second: Units where the second is true.
        both: Units where both are true.
        totals: All units. A unit that was observed several times may count as a fraction.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        Low and high ends in [-1, 1], float64; NaN where the total is 0.

    References:
        Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data",
        1998, method 10.

    Example:
        >>> first, second, both, total = (torch.tensor(count) for count in (60, 75, 55, 100))
        >>> low, high = paired_difference_interval(first, second, both, total)
        >>> round(float(low), 2), round(float(high), 2)
        (0.05, 0.24)
    """
    one, two, shared, total = (each.double() for each in (first, second, both, totals))
    (low_one, high_one), (low_two, high_two) = (wilson_interval(each, total, confidence) for each in (one, two))
    share_one, share_two = one / total, two / total
    product = shared * (total - one - two + shared) - (one - shared) * (two - shared)
    product = torch.where(product > 0, (product - total / 2).clamp(min=0), product)
    spread = (one * (total - one) * two * (total - two)).clamp(min=0).sqrt()
    correlation = torch.where(spread > 0, product / spread, 0.0)

    def ends(down: Tensor, up: Tensor) -> Tensor:
        return (down.square() - 2 * correlation * down * up + up.square()).clamp(min=0).sqrt()

    difference = share_two - share_one
    low = difference - ends(share_two - low_two, high_one - share_one)
    high = difference + ends(high_two - share_two, share_one - low_one)
    return low.clamp(-1, 1), high.clamp(-1, 1)


def difference_interval(
    first: Tensor, first_ends: tuple[Tensor, Tensor], second: Tensor, second_ends: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the ends, in [-1, 1], of an interval for `second - first`, two independent proportions, from their intervals.

    Args:
        first: The first proportions, of any shape.
        first_ends: Low and high ends of their intervals.
        second: The second proportions.
        second_ends: Low and high ends of their intervals.

    References:
        Newcombe (1998), Interval estimation for the difference between independent proportions, Statistics in Medicine 17,
        method 10.

    Example:
        >>> shares = torch.tensor([0.5]), torch.tensor([0.7])
        >>> ends = [wilson_interval(share * 50, torch.tensor([50])) for share in shares]
        >>> low, high = difference_interval(shares[0], ends[0], shares[1], ends[1])
        >>> round(float(low), 2), round(float(high), 2)
        (0.01, 0.37)
    """
    down_first, up_first = ((end - first).square() for end in first_ends)
    down_second, up_second = ((end - second).square() for end in second_ends)
    difference = second - first
    low, high = difference - (down_second + up_first).sqrt(), difference + (up_second + down_first).sqrt()
    return low.clamp(-1, 1), high.clamp(-1, 1)


def mean_share_interval(share: Tensor, low: Tensor, high: Tensor, least: float = 0.0) -> tuple[float, float]:
    """Return an interval for the mean of independent proportions from the interval of each.

    NaN proportions are left out. The distances to the ends are added in squares. So the interval keeps its width where
    classes have a single image, where a bootstrap interval would have width 0.

    Args:
        share: `(C,)` proportions.
        low: `(C,)` low ends.
        high: `(C,)` high ends.
        least: The smallest possible mean: 0, or -1 for differences of proportions.

    Returns:
        Low and high end; NaN where all proportions are NaN.

    References:
        Zou and Donner, "Construction of confidence limits about effect measures: a general approach" (MOVER), 2008.

    Example:
        >>> hits, totals = torch.tensor([9, 5]), torch.tensor([10, 10])
        >>> low, high = mean_share_interval(hits / totals, *wilson_interval(hits, totals))
        >>> round(low, 2), round(high, 2)
        (0.5, 0.84)
    """
    known = ~share.isnan()
    count = int(known.sum())
    if count == 0:
        return math.nan, math.nan
    mean = float(share[known].mean())
    down, up = ((end - share)[known].square().sum().sqrt() / count for end in (low, high))
    return max(least, mean - float(down)), min(1.0, mean + float(up))


def bootstrap_class_mean(
    values: Tensor, labels: Tensor, num_classes: int, draws: int = 200, *, seed: int, name: str
) -> Tensor:
    """Return class means over rows drawn with replacement inside each class.

    The draws of a class depend on (name, seed, class, draw, position within the class), not on the other classes, and
    are independent of theirs. To restrict the mean to a group, for example to true positives, filter the rows first.

    Args:
        values: `(N,)`.
        labels: `(N,)`.
        num_classes: C.
        draws: Number of draws.
        seed: Seed of the draws.
        name: First part of the key of the draws.

    Returns:
        `(draws, C)` float64; NaN for an absent class. A class of one row gives its value in every draw.

    See Also:
        interval: The percentile interval of these draws.

    Example:
        >>> values, labels = torch.tensor([0.0, 1.0, 1.0, 1.0]), torch.tensor([0, 0, 0, 1])
        >>> means = bootstrap_class_mean(values, labels, 2, draws=500, seed=0, name="example")
        >>> means.shape, round(float(means[:, 0].mean()), 1), float(means[:, 1].min())
        (torch.Size([500, 2]), 0.7, 1.0)
    """
    order = torch.argsort(labels, stable=True)
    label, value = labels[order], values[order].double()
    counts = class_counts(labels, num_classes)
    start = (counts.cumsum(0) - counts)[label]
    position = torch.arange(len(label), device=labels.device) - start
    size = counts[label]
    total = torch.zeros(num_classes, draws, dtype=torch.float64, device=values.device)
    draw = torch.arange(draws, device=labels.device)
    elements = _CACHED if labels.device.type == "cpu" else _BLOCK
    for part in torch.arange(len(label), device=labels.device).split(max(1, elements // draws)):
        own, width = label[part, None], size[part, None]
        row = start[part, None] + integers(width, name, seed, own, position[part, None], draw)  # (N, B)
        total.index_add_(0, label[part], value.index_select(0, row.view(-1)).view_as(row))
    return (total / counts[:, None]).T


def interval(draws: Tensor, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
    """Return the percentile interval of draws.

    Args:
        draws: `(B, ...)`; NaN draws are left out.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        Low and high ends, each `(...)`; NaN where all draws are NaN.

    Example:
        >>> low, high = interval(torch.arange(101.0), confidence=0.9)
        >>> round(float(low), 1), round(float(high), 1)
        (5.0, 95.0)
    """
    tail = (1 - confidence) / 2
    ends = torch.nanquantile(draws, torch.tensor([tail, 1 - tail], dtype=draws.dtype, device=draws.device), dim=0)
    return ends[0], ends[1]


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 1, `(N,)` float64; equal values share the mean of their ranks."""
    return torch.from_numpy(scipy.stats.rankdata(values.cpu().numpy()))


def _correlation(first: Tensor, second: Tensor) -> float:
    """Pearson's correlation of two float64 vectors; NaN if one is constant."""
    first, second = first - first.mean(), second - second.mean()
    scale = float(first.norm() * second.norm())
    return max(-1.0, min(1.0, float(first @ second) / scale)) if scale > 0 else math.nan


def spearman(first: Tensor, second: Tensor) -> float:
    """Return Spearman's rank correlation over the positions where both values are finite; ties get average ranks.

    Args:
        first: `(C,)`.
        second: `(C,)`.

    Returns:
        In [-1, 1]; NaN with fewer than 3 such positions, or where one side is constant.

    References:
        Spearman, "The proof and measurement of association between two things", 1904.

    Example:
        >>> round(spearman(torch.tensor([1.0, 2.0, 3.0, torch.nan]), torch.tensor([10.0, 30.0, 20.0, 0.0])), 2)
        0.5
    """
    both = torch.isfinite(first) & torch.isfinite(second)
    if int(both.sum()) < 3:
        return math.nan
    return _correlation(_ranks(first[both]), _ranks(second[both]))


def partial_spearman(first: Tensor, second: Tensor, given: Tensor) -> float:
    """Return the rank correlation of two variables after a third is removed linearly from the ranks of both.

    Only positions where all three are finite count. A constant `given` removes nothing.

    Args:
        first: `(C,)`.
        second: `(C,)`.
        given: `(C,)`.

    Returns:
        In [-1, 1]; NaN with fewer than 4 such positions, where `first` or `second` is constant, or where `given`
        explains one of them completely.

    Example:
        >>> size = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
        >>> first, second = torch.tensor([2.0, 1.0, 3.0, 5.0, 4.0]), torch.tensor([1.0, 3.0, 2.0, 4.0, 5.0])
        >>> round(spearman(first, second), 2), round(partial_spearman(first, second, size), 2)
        (0.6, -0.46)
    """
    every = torch.isfinite(first) & torch.isfinite(second) & torch.isfinite(given)
    if int(every.sum()) < 4:
        return math.nan
    one, two, known = (_ranks(values[every]) for values in (first, second, given))
    between, with_one, with_two = _correlation(one, two), _correlation(one, known), _correlation(two, known)
    if math.isnan(with_one) or math.isnan(with_two):  # `given` is constant, or another one is: then `between` is NaN
        return between
    left = (1 - with_one**2) * (1 - with_two**2)
    if left < _UNCORRELATED:
        return math.nan
    return max(-1.0, min(1.0, (between - with_one * with_two) / math.sqrt(left)))


@dataclass(frozen=True, kw_only=True)
class LogCountFit:
    """A least-squares line of a value of each class on the natural logarithm of its count.

    Attributes:
        slope: Change of the value per unit of log n.
        intercept: The line's value at n = 1.
        r_squared: In [0, 1]; NaN where all values are equal.
        scatter: Standard deviation of the classes about the line, with n - 2 degrees of freedom.
        predicted: `(C,)`, the line at each class's count; NaN for a class without images.

    Example:
        >>> fit = fit_log_count(torch.tensor([0.9, 0.8, 0.6, 0.5, 0.3]), torch.tensor([1000, 400, 100, 40, 10]))
        >>> round(fit.slope, 2), round(fit.r_squared, 2)
        (0.13, 1.0)
    """

    slope: float
    intercept: float
    r_squared: float
    scatter: float
    predicted: Tensor


def fit_log_count(values: Tensor, counts: Tensor) -> LogCountFit | None:
    """Fit a line of `values` on log n, over the classes with a finite value and a count above 0.

    Args:
        values: `(C,)`, for example recalls.
        counts: `(C,)`.

    Returns:
        The fit; None with fewer than 5 such classes, or where their counts are all equal.

    Example:
        >>> counts = torch.tensor([1000, 400, 100, 40, 10])
        >>> fit = fit_log_count(0.1 * counts.log(), counts)
        >>> round(fit.slope, 3), [round(value, 2) for value in fit.predicted.tolist()]
        (0.1, [0.69, 0.6, 0.46, 0.37, 0.23])
    """
    used = torch.isfinite(values) & (counts > 0)
    if int(used.sum()) < 5 or bool(counts[used].min() == counts[used].max()):
        return None
    log_count, value = counts[used].double().log(), values[used].double()
    centred, deviation = log_count - log_count.mean(), value - value.mean()
    slope = float(centred @ deviation) / float(centred @ centred)
    intercept = float(value.mean()) - slope * float(log_count.mean())
    constant = bool(value.min() == value.max())
    unexplained = float((deviation - slope * centred).square().sum())
    r_squared = math.nan if constant else max(0.0, 1 - unexplained / float(deviation @ deviation))
    predicted = torch.where(counts > 0, intercept + slope * counts.double().log(), torch.nan)
    return LogCountFit(
        slope=slope,
        intercept=intercept,
        r_squared=r_squared,
        scatter=math.sqrt(unexplained / (len(value) - 2)),
        predicted=predicted.to(values.dtype),
    )


def matched_rows(labels: Tensor, num_classes: int, n: int = 20, draws: int = 50, *, seed: int, name: str) -> Tensor:
    """Draw n different rows of each class, several times.

    A class's draw depends on (seed, name, draw, position of the row within its class) and on nothing else, so neither
    other classes nor renumbering them changes it.

    Args:
        labels: `(N,)`.
        num_classes: C.
        n: Rows per class and draw.
        draws: Number of draws.
        seed: Seed of the draws.
        name: First part of the key of the draws.

    Returns:
        `(C, draws, n)` int64; -1 for a class with fewer than n rows.

    Raises:
        InputError: n is below 1.

    Example:
        >>> matched_rows(torch.tensor([0, 0, 0, 1]), 2, n=2, draws=2, seed=0, name="example").tolist()
        [[[0, 1], [2, 1]], [[-1, -1], [-1, -1]]]
    """
    if n < 1:
        raise must("n", "be at least 1", n)
    order = torch.argsort(labels, stable=True)
    counts = class_counts(labels, num_classes).tolist()
    rows = labels.new_full((num_classes, draws, n), -1, dtype=torch.int64)
    position = torch.arange(max(counts, default=0), device=labels.device)
    for block in torch.arange(draws, device=labels.device).split(max(1, _BLOCK // max(len(position), 1))):
        words = bits(name, seed, block[:, None], position)  # shared by the classes: the key has no class in it
        start = 0
        for index, count in enumerate(counts):
            if count >= n:
                chosen = words[:, :count].topk(n, dim=1, largest=False).indices
                rows[index, block] = order[start + chosen]
            start += count
    return rows


_EXACT = 9  # classes up to which the distribution of a rank correlation is enumerated


@functools.cache
def critical_correlation(classes: int, given: int = 0) -> float:
    """Return the rank correlation beyond which the two-sided p value is at most 0.05.

    It is exact, over all orders, up to 9 classes, and uses the t approximation beyond.

    Args:
        classes: Number of classes that are correlated.
        given: Number of variables that are partialled out; each counts as one class less.

    Returns:
        In [0, 1]; 1 where no correlation is significant.

    Example:
        >>> round(critical_correlation(10), 2), round(critical_correlation(5), 2)
        (0.63, 0.9)
    """
    if (size := classes - given) <= _EXACT:
        return _exact_critical(size)
    freedom = size - 2
    t = float(stdtrit(freedom, 0.975))
    return t / math.sqrt(t * t + freedom)


def _exact_critical(classes: int) -> float:
    """The largest absolute rank correlation that at least 5% of all orders reach."""
    if classes < 3:
        return 1.0
    orders = np.array(list(itertools.permutations(range(classes))), dtype=np.int16)
    distance = ((orders - np.arange(classes, dtype=np.int16)) ** 2).sum(1)
    size = np.sort(np.abs(1 - 6 * distance / (classes * (classes**2 - 1))))[::-1]
    return float(min(1.0, size[int(0.05 * len(size))] + 1e-9))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student's t interval for the mean of independent values.

    Args:
        values: One number per independent repetition, for example per trained network.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        The low and the high end; NaN with fewer than 2 values. Equal values have an interval of width 0.

    Example:
        >>> low, high = mean_interval([0.70, 0.74, 0.72])
        >>> round(low, 3), round(high, 3)
        (0.67, 0.77)
    """
    if len(values) < 2:
        return math.nan, math.nan
    # the same as `scipy.stats.ttest_1samp(values, 0).confidence_interval()`, which takes ten times as long
    mean = fmean(values)
    half = float(stdtrit(len(values) - 1, 0.5 + confidence / 2)) * stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def paired_t_test(differences: Sequence[float]) -> float:
    """The two-sided p value of the paired t test, whose null hypothesis is that differences have mean 0.

    Args:
        differences: One paired difference per independent repetition.

    Returns:
        A p value in [0, 1]; NaN with fewer than 2 differences. Equal differences give 1 if they are 0, and 0 otherwise.

    Example:
        >>> round(paired_t_test([0.02, 0.03, 0.01, 0.04]), 3)
        0.03
    """
    if len(differences) < 2:
        return math.nan
    mean, spread = fmean(differences), stdev(differences)
    if not spread:
        return 0.0 if mean else 1.0
    # the same as `scipy.stats.ttest_1samp(differences, 0).pvalue`, which takes ten times as long
    t = abs(mean) / spread * math.sqrt(len(differences))
    return min(1.0, 2 * float(stdtr(len(differences) - 1, -t)))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """The p values adjusted for multiple comparisons by Holm's step-down method.

    Args:
        p_values: Raw p values by name. NaN stays NaN and does not count as a comparison.

    Returns:
        Adjusted p values by name, in the order of `p_values`; never below the raw ones and at most 1.

    References:
        Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Example:
        >>> holm({"focal": 0.01, "ldam": 0.04, "vs": 0.03})
        {'focal': 0.03, 'ldam': 0.06, 'vs': 0.06}
    """
    known = sorted((p, name) for name, p in p_values.items() if not math.isnan(p))
    adjusted = dict.fromkeys(p_values, math.nan)
    least = 0.0
    for place, (p, name) in enumerate(known):
        least = max(least, min(1.0, (len(known) - place) * p))
        adjusted[name] = least
    return adjusted


def bootstrap_mean_interval(
    values: Sequence[float], draws: int = 10_000, confidence: float = 0.95, *, name: str
) -> tuple[float, float]:
    """The percentile bootstrap interval for the mean of independent values.

    Resamples depend on `name` and on the number of values alone, so a comparison that is rendered again shows the same
    interval. That is why `scipy.stats.bootstrap`, which takes a generator, is not used here.

    Args:
        values: One number per independent repetition.
        draws: Resamples.
        confidence: Coverage of the interval, in (0, 1).
        name: First part of the key of every draw.

    Returns:
        The low and the high end; NaN without values. The interval never leaves the range of the values, so it is too
        narrow when there are few of them.

    Example:
        >>> low, high = bootstrap_mean_interval([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], name="example")
        >>> round(low, 2), round(high, 2)
        (0.22, 0.48)
    """
    size = len(values)
    if size == 0:
        return math.nan, math.nan
    rows = integers(size, name, torch.arange(draws)[:, None], torch.arange(size))
    low, high = interval(torch.tensor(values, dtype=torch.float64)[rows].mean(1), confidence)
    return float(low), float(high)
