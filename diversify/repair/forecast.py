"""What a repaired head is expected to change on new images, class by class."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist

import torch
from torch import Tensor

from ..functional import counts, stats
from ..functional.empirical_bayes import LEAST, shrink_to_mean
from .metric import class_sums

_Z = NormalDist().inv_cdf(0.975)
_COMMON = 10  # rows of all classes' kind that each class is given where the noise of its measurement is estimated


def hit_sums(before: Tensor, after: Tensor, nested: Tensor, labels: Tensor, num_classes: int) -> dict[str, Tensor]:
    """Return what `head_forecast` needs to know about held-out rows.

    Args:
        before: Share of repeats in which the untouched head predicts each row correctly, `(N,)`.
        after: The same for the recommended head.
        nested: The same for the head that is best on the folds that do not hold the row.
        labels: Classes of the rows, `(N,)`.
        num_classes: C.

    Returns:
        `(C,)` float64 each: the number of `rows`, the sums of `before`, `after` and `nested`, of `both` (before times after), and
        of `squares` of the change.
    """
    values = {
        "before": before,
        "after": after,
        "nested": nested,
        "both": before * after,
        "squares": (after - before).square(),
    }
    found = {name: class_sums(value, labels, num_classes) for name, value in values.items()}
    return {"rows": counts.class_counts(labels, num_classes).double(), **found}


def head_forecast(sums: Mapping[str, Tensor], *, untouched: bool = False) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the change of recall to expect of the recommended head, and that of the balanced accuracy.

    The best of many candidates is slightly lucky on the rows that chose it. How lucky is measured: `nested` chose anew for every
    fold, on the other folds. What it gains less in mean recall is taken off the gains of the classes, most where most is left to
    chance. The low end of an interval is lowered as far: how lucky the choice was is not known exactly.

    From 6 classes on, classes borrow from each other: the recall before and the gain of a class are shrunk toward the means of all
    classes, the more the fewer rows it has. So a gain is not the measured change, `after` is not the measured recall, and the
    gains of the classes have another mean than the gain of the balanced accuracy. With fewer classes gains are the measured
    changes less the luck, with the interval of the paired difference. The form was settled on records of `benchmarks.forecasts`.

    Args:
        sums: Of the held-out rows; see `hit_sums`.
        untouched: Whether the untouched head is recommended, so that nothing changes.

    Returns:
        By name, `(C,)` float64: the expected `gain` in recall and the recall `after`, each with `_low` and `_high`, the ends of a 95%
        interval for many new images; NaN for a class without rows. And `gain`, `gain_low` and `gain_high` of the balanced accuracy.

    References:
        Newcombe (1998), Improved confidence intervals for the difference between binomial proportions based on paired data.
        Efron and Morris (1972), Empirical Bayes on vector observations: an extension of Stein's method.

    Example:
        >>> labels = torch.tensor([0] * 20 + [1] * 20)
        >>> before, after = torch.ones(40), torch.ones(40)
        >>> before[30:], after[38:] = 0.0, 0.0
        >>> columns, whole = head_forecast(hit_sums(before, after, after, labels, 2))
        >>> [round(value, 2) for value in columns["gain"].tolist()], round(whole["gain"], 2)
        ([0.0, 0.4], 0.2)
    """
    rows, before, after = (sums[name] for name in ("rows", "before", "after"))
    if untouched:
        low, high = stats.wilson_interval(after, rows)
        nothing = torch.where(rows > 0, 0.0, torch.nan).double()
        ends = {"gain_low": nothing, "gain_high": nothing, "after_low": low, "after_high": high}
        return {"gain": nothing, "after": after / rows, **ends}, {"gain": 0.0, "gain_low": 0.0, "gain_high": 0.0}
    held, lucky = rows > 0, _luck(sums)
    columns = _borrowed(sums, lucky) if int(held.sum()) >= LEAST else _paired(sums, lucky)
    reach = _Z * float(_variance(sums)[held].sum().sqrt()) / int(held.sum())
    whole = float(((after - before) / rows)[held].mean())
    ends_of_mean = {"gain_low": max(-1.0, whole - lucky - reach), "gain_high": min(1.0, whole + reach)}
    return columns, {"gain": whole - lucky, **ends_of_mean}


def _paired(sums: Mapping[str, Tensor], lucky: float) -> dict[str, Tensor]:
    """The columns of a few classes, each by its own rows alone."""
    rows, before, after = (sums[name] for name in ("rows", "before", "after"))
    variance = _variance(sums)
    less = lucky * variance / variance[rows > 0].mean()
    gain_low, gain_high = stats.paired_difference_interval(before, after, sums["both"], rows)
    low, high = stats.wilson_interval(after, rows)
    return {
        "gain": ((after - before) / rows - less).clamp(min=-1),
        "gain_low": (gain_low - less).clamp(min=-1),
        "gain_high": gain_high,
        "after": (after / rows - less).clamp(min=0),
        "after_low": (low - less).clamp(min=0),
        "after_high": high,
    }


def _borrowed(sums: Mapping[str, Tensor], lucky: float) -> dict[str, Tensor]:
    """The columns of classes that borrow from each other."""
    rows, before, after = (sums[name] for name in ("rows", "before", "after"))
    measured = torch.stack([before, after - before], 1) / rows[:, None]
    shrunk, covariance = shrink_to_mean(measured, _noise(sums))
    (recall, gain), variance = shrunk.T, covariance[:, 1, 1]
    less = lucky * variance / variance[rows > 0].mean()
    recall, later = recall.clamp(0, 1), recall + gain
    reach, reach_after = _Z * variance.sqrt(), _Z * covariance.sum((1, 2)).sqrt()
    expected = (later - less).clamp(0, 1)
    change = expected - recall
    return {
        "gain": change,
        "gain_low": torch.minimum((gain - reach - less).clamp(min=-1), change),
        "gain_high": torch.maximum((gain + reach).clamp(max=1), change),
        "after": expected,
        "after_low": (later - reach_after - less).clamp(0, 1),
        "after_high": (later + reach_after).clamp(0, 1),
    }


def _noise(sums: Mapping[str, Tensor]) -> Tensor:
    """The covariance of the noise in each class's recall before and gain, `(C, 2, 2)`."""
    rows, before, after, both = (sums[name] for name in ("rows", "before", "after", "both"))
    cells = torch.stack([both, before - both, after - both, rows - before - after + both], 1)
    common = (cells.sum(0) + 0.25) / (rows.sum() + 1)
    kept, lost, won, _ = ((cells + _COMMON * common) / (rows + _COMMON)[:, None]).T
    recall, gain = kept + lost, won - lost
    joint = -lost - recall * gain
    first, second = torch.stack([recall * (1 - recall), joint], 1), torch.stack([joint, won + lost - gain.square()], 1)
    return torch.stack([first, second], 1) / rows[:, None, None]


def _variance(sums: Mapping[str, Tensor]) -> Tensor:
    """The variance of each class's gain, with one row added on each side, as in `balanced_difference`."""
    more = sums["rows"] + 2
    return ((sums["squares"] + 1) / more - ((sums["after"] - sums["before"]) / more).square()) / more


def _luck(sums: Mapping[str, Tensor]) -> float:
    """How much of the gain in mean recall is lost if the rows that judge took no part in the choice; at least 0."""
    rows = sums["rows"]
    lost = ((sums["after"] - sums["nested"]) / rows)[rows > 0].mean()
    return max(0.0, float(lost))
