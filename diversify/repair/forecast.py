"""What a repaired head is expected to change on new images, class by class."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist

import torch
from torch import Tensor

from ..functional import counts, stats
from ..functional.empirical_bayes import LEAST, shrink_to_line
from .metric import class_sums

_Z = NormalDist().inv_cdf(0.975)
_COMMON = 2  # rows that each class is given with the share of changed predictions of all classes


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
    fold, on the other folds. What it gains less in mean recall is taken off the gains of the classes, most where most is
    left to chance. The low end of an interval is lowered as far: how lucky the choice was is not known exactly. From 5 classes
    on, a class's gain is shrunk toward what the recall before predicts of it, as the gains of the other classes tell, the more
    the fewer rows it has. With fewer classes its interval is that of the paired difference. The form was settled on the
    development half of `benchmarks.forecasts`.

    Args:
        sums: Of the held-out rows; see `hit_sums`.
        untouched: Whether the untouched head is recommended, so that nothing changes.

    Returns:
        By name, `(C,)` float64: the expected `gain` in recall and the recall `after`, each with `_low` and `_high`, the ends of a 95%
        interval for many new images; NaN for a class without rows. And `gain`, `gain_low` and `gain_high` of the balanced accuracy.

    References:
        Newcombe (1998), Improved confidence intervals for the difference between binomial proportions based on paired data.
        Morris (1983), Parametric empirical Bayes inference: theory and applications.

    Example:
        >>> labels = torch.tensor([0] * 20 + [1] * 20)
        >>> before, after = torch.ones(40), torch.ones(40)
        >>> before[30:], after[38:] = 0.0, 0.0
        >>> columns, whole = head_forecast(hit_sums(before, after, after, labels, 2))
        >>> [round(value, 2) for value in columns["gain"].tolist()], round(whole["gain"], 2)
        ([0.0, 0.4], 0.2)
    """
    rows, before, after = (sums[name] for name in ("rows", "before", "after"))
    low, high = stats.wilson_interval(after, rows)
    if untouched:
        nothing = torch.where(rows > 0, 0.0, torch.nan).double()
        ends = {"gain_low": nothing, "gain_high": nothing, "after_low": low, "after_high": high}
        return {"gain": nothing, "after": after / rows, **ends}, {"gain": 0.0, "gain_low": 0.0, "gain_high": 0.0}
    held, lucky = rows > 0, _luck(sums)
    gain, gain_low, gain_high, variance = _class_gains(sums)
    less = lucky * variance / variance[held].mean()
    expected = (gain - less).clamp(-1, 1)
    recall = (before / rows + expected).clamp(0, 1)
    columns = {
        "gain": expected,
        "gain_low": (gain_low - less).clamp(min=-1),
        "gain_high": gain_high.clamp(max=1),
        "after": recall,
        "after_low": torch.minimum((low - less).clamp(min=0), recall),
        "after_high": torch.maximum(high, recall),
    }
    reach = _Z * float(_variance(sums)[held].sum().sqrt()) / int(held.sum())
    whole = float(((after - before) / rows)[held].mean())
    ends_of_mean = {"gain_low": max(-1.0, whole - lucky - reach), "gain_high": min(1.0, whole + reach)}
    return columns, {"gain": whole - lucky, **ends_of_mean}


def _class_gains(sums: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gain of each class, the ends of its interval, and its variance, `(C,)` each."""
    rows, before, after = (sums[name] for name in ("rows", "before", "after"))
    measured = (after - before) / rows
    if int((rows > 0).sum()) < LEAST:
        return measured, *stats.paired_difference_interval(before, after, sums["both"], rows), _variance(sums)
    gain, variance = shrink_to_line(measured, _common_variance(sums), (before + 1) / (rows + 2))
    reach = _Z * variance.sqrt()
    return gain, gain - reach, gain + reach, variance


def _variance(sums: Mapping[str, Tensor]) -> Tensor:
    """The variance of each class's gain, with one row added on each side, as in `balanced_difference`."""
    more = sums["rows"] + 2
    return ((sums["squares"] + 1) / more - ((sums["after"] - sums["before"]) / more).square()) / more


def _common_variance(sums: Mapping[str, Tensor]) -> Tensor:
    """The variance of each class's gain, by its share of changed predictions, of few rows pulled toward that of all classes."""
    rows, squares = sums["rows"], sums["squares"]
    common = (squares.sum() + 1) / (rows.sum() + 2)
    return (squares + _COMMON * common) / (rows + _COMMON) / rows


def _luck(sums: Mapping[str, Tensor]) -> float:
    """How much of the gain in mean recall is lost if the rows that judge took no part in the choice; at least 0."""
    rows = sums["rows"]
    lost = ((sums["after"] - sums["nested"]) / rows)[rows > 0].mean()
    return max(0.0, float(lost))
