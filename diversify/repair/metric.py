"""The metric of a repair: one number of the predictions on held-out rows, with its standard error."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from ..errors import must, unknown
from ..functional import counts, stats
from ..functional.labels import in_class_order
from .post_hoc import NEVER

TITLES = {
    "balanced": "balanced accuracy",
    "prior": "accuracy under the target prior",
    "macro-f1": "macro F1",
    "worst": "recall of the worst class",
    "cost": "negative expected cost",
}
OBJECTIVE_TITLES = {
    "worst third": "mean recall of the worst third of classes",
    "mean and worst": "mean recall moved toward the worst class",
}
OBJECTIVES = ("mean", "worst", "worst third")  # besides a number between 0 and 1
Objective = str | float
_TOLERANCE = 1e-3  # of the sum of a prior: what rounding to a few digits may leave
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, kw_only=True, eq=False)
class Metric:
    """The number that `choose_head` maximises. `metric_of` makes one and checks it.

    Attributes:
        name: `balanced`, the mean recall; `prior`, the recalls weighted by the target prior, which is the accuracy where
            classes have these shares; `macro-f1`, the mean F1 score; `worst`, the lowest recall; or `cost`, minus the
            mean cost of a prediction. An objective adds two: `worst third`, the mean of the lowest third of recalls; and
            `mean and worst`, the mean recall and the lowest one, weighted by `toward_worst`. Classes without held-out rows
            are left out.
        target_prior: Share of each class where the model will be used, `(C,)` float64. `macro-f1` and `cost` weigh rows
            by it; without it, F1 takes the rows as they are, and cost weighs all classes equally.
        cost: Cost of predicting a row of class i as class j, `(C, C)` float64.
        toward_worst: For `mean and worst`, the weight of the lowest recall in [0, 1]; the mean recall has the rest.

    Example:
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> predicted = torch.tensor([[0, 0, 0, 1]])  # one repeat
        >>> [float(Metric(name=name).value(predicted, labels, 2)) for name in ("balanced", "worst")]
        [0.75, 0.5]
        >>> prior = Metric(name="prior", target_prior=torch.tensor([0.9, 0.1], dtype=torch.float64))
        >>> round(float(prior.value(predicted, labels, 2)), 4)
        0.95
    """

    name: str = "balanced"
    target_prior: Tensor | None = None
    cost: Tensor | None = None
    toward_worst: float = 0.0

    @property
    def title(self) -> str:
        """The metric in words, for reports."""
        return (TITLES | OBJECTIVE_TITLES)[self.name]

    @property
    def log_target(self) -> Tensor | None:
        """Logarithm of the target prior over an equal share, `(C,)` float32; None without a target prior.

        A class with a share of 0 has a value so low that it is never predicted.
        """
        if self.target_prior is None:
            return None
        share = len(self.target_prior) * self.target_prior
        return torch.where(share > 0, share.log(), NEVER).float()

    @property
    def largest_difference(self) -> float:
        """The largest possible difference of two values."""
        return 1.0 if self.cost is None else float((self.cost.amax(1) - self.cost.amin(1)).max())

    def value(self, predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        """Return the metric of predictions that are pooled over repeats.

        Args:
            predicted: Predicted classes, `(..., R, N)`, of R repeats.
            labels: Classes of the rows, `(N,)`.
            num_classes: C.

        Returns:
            `(...)` float64.
        """
        rows = counts.class_counts(labels, num_classes).double()
        held = rows > 0
        if self.name == "macro-f1":
            hits, named, size = self._confused(predicted, labels, rows)
            return (2 * hits / (size + named))[..., size > 0].mean(-1)
        mean = class_sums(self._scores(predicted, labels), labels, num_classes) / rows
        if self.name == "balanced":
            return mean.nanmean(-1)
        if self.looks_at_lowest:
            recall = mean[..., held]
            return (self._lowest_weights(recall) * recall).sum(-1)
        return (mean[..., held] * self.class_weights(rows)[held]).sum(-1)

    def ranked(self, predicted: Tensor, labels: Tensor, num_classes: int) -> list[tuple[float, ...]]:
        """Return `value` for comparing options, with 12 digits, so that rounding does not decide between equals.

        The lowest recall of few rows is often 0 for all. So equals in it are compared by the lowest third of recalls, and
        equals in that by the mean recall.
        """
        names = {"worst": ("worst third", "balanced"), "worst third": ("balanced",)}.get(self.name, ())
        metrics = [self, *(Metric(name=name) for name in names)]
        columns = [metric.value(predicted, labels, num_classes).tolist() for metric in metrics]
        return [
            one if self.name == "balanced" else tuple(round(each, 12) for each in one)
            for one in zip(*columns, strict=True)
        ]

    def interval(self, predicted: Tensor, labels: Tensor, num_classes: int) -> tuple[float, float]:
        """Return a 95% interval of `value` over held-out rows.

        For shares it combines the Wilson intervals of the recalls. For `worst` the lower end is the lowest lower end, and
        the upper end the lowest upper end of intervals so wide that all hold at once (Bonferroni). For `worst third` and
        `mean and worst` the classes that are lowest here are taken as given. For `macro-f1` and
        `cost` it is made by the delta method, with one unlike row added to each class.

        Args:
            predicted: Predicted classes, `(R, N)`.
            labels: Classes of the rows, `(N,)`.
            num_classes: C.
        """
        rows = counts.class_counts(labels, num_classes).double()
        held = rows > 0
        value = float(self.value(predicted, labels, num_classes))
        if self.name in ("macro-f1", "cost"):
            terms, units = self._terms(predicted, labels, num_classes)
            total, squares = (class_sums(each, labels, num_classes) for each in (terms, terms.square()))
            unlike = (squares - total.square() / rows)[held].clamp(min=0) + units[held].square()
            error = float((unlike / (rows[held] + 2).square()).sum().sqrt())
            least, most = self._range(rows)
            return max(least, value - _Z * error), min(most, value + _Z * error)
        hits = class_sums(self._scores(predicted, labels), labels, num_classes)[held]
        recall, size = hits / rows[held], rows[held]
        low, high = stats.wilson_interval(hits, size)
        if self.name == "balanced":
            return stats.mean_share_interval(recall, low, high)
        if self.name == "worst":
            _, together = stats.wilson_interval(hits, size, 1 - 0.05 / len(hits))
            return float(low.min()), float(together.min())
        weight = self._lowest_weights(recall) if self.looks_at_lowest else self.class_weights(rows)[held]
        down, up = (float((weight * (end - recall)).square().sum().sqrt()) for end in (low, high))
        return max(0.0, value - down), min(1.0, value + up)

    def difference(self, one: Tensor, other: Tensor, labels: Tensor, num_classes: int) -> tuple[float, float]:
        """Return the metric of one classifier minus that of another on the same rows, and the standard error of this difference.

        The error is that of `balanced_difference`, for each row's share in the metric (the delta method): a row that both
        predict alike adds nothing, and one row is added on each side of every class that counts.

        Args:
            one: Predicted classes, `(R, N)`.
            other: Those of the other classifier, `(R, N)`.
            labels: Classes of the rows, `(N,)`.
            num_classes: C.
        """
        if self.name == "balanced":
            first, second = ((each == labels).double().mean(-2) for each in (one, other))
            return balanced_difference(first, second, labels, num_classes)
        total = self.value(one, labels, num_classes) - self.value(other, labels, num_classes)
        (one_terms, units), (other_terms, others) = (self._terms(each, labels, num_classes) for each in (one, other))
        difference, unit = one_terms - other_terms, units.maximum(others)
        rows = counts.class_counts(labels, num_classes).double()
        sums, squares = (class_sums(each, labels, num_classes) for each in (difference, difference.square()))
        more = rows + 2
        variance = ((squares + unit.square()) / more - (sums / more).square()) / more
        return float(total), float(variance[rows > 0].sum().clamp(min=0).sqrt())

    def _scores(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """Return the score of each row, `(..., N)`: the share of repeats that are right, or minus the mean cost."""
        if self.name == "cost" and self.cost is not None:
            return -self.cost[labels, predicted.long()].mean(-2)
        return (predicted == labels).double().mean(-2)

    @property
    def looks_at_lowest(self) -> bool:
        """Whether the value depends on the classes with the lowest recalls, which are few rows."""
        return self.name in ("worst", *OBJECTIVE_TITLES)

    def _lowest_weights(self, recall: Tensor) -> Tensor:
        """Return the weight of each recall `(..., C)` of classes with rows: large for the lowest ones, and 1 in total."""
        classes = recall.shape[-1]
        lowest = max(1, classes // 3) if self.name == "worst third" else 1
        toward = self.toward_worst if self.name == "mean and worst" else 1.0
        weight = torch.full_like(recall, (1 - toward) / classes)
        first = recall.argsort(dim=-1, stable=True)[..., :lowest]
        return weight.scatter_add(-1, first, torch.full_like(first, 1, dtype=recall.dtype) * toward / lowest)

    @property
    def weighs_likelihood(self) -> bool:
        """Whether the likelihood decides between candidates of about the same value: where it is a weighted mean of recalls."""
        return self.name in ("balanced", "prior")

    def class_weights(self, rows: Tensor) -> Tensor:
        """Return the weight of each class's mean score, `(C,)`; 0 for a class without rows, and 1 in total.

        Args:
            rows: Rows of each class, `(C,)`.
        """
        rows = rows.double()
        share = torch.ones_like(rows) if self.target_prior is None else self.target_prior
        share = share * (rows > 0)
        return share / share.sum()

    def _row_weights(self, rows: Tensor) -> Tensor:
        """Return what one row of each class counts for in F1, `(C,)`; 1 without a target prior."""
        if self.target_prior is None:
            return torch.ones_like(rows)
        return torch.where(rows > 0, self.class_weights(rows) * rows.sum() / rows, 0.0)

    def _confused(self, predicted: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weighted rows of each class that are right, and that are predicted as it, `(..., C)`, and all, `(C,)`."""
        weight, repeats = self._row_weights(rows), predicted.shape[-2]
        hits = weight * class_sums((predicted == labels).double().mean(-2), labels, len(rows))
        flat = predicted.reshape(-1, repeats * len(labels)).long()
        named = torch.zeros(len(flat), len(rows), dtype=torch.float64)
        named.scatter_add_(1, flat, weight[labels].repeat(repeats).expand_as(flat) / repeats)
        return hits, named.view(hits.shape), weight * rows

    def _terms(self, predicted: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Return each row's share in the metric, `(N,)`, and the size of the change if it is predicted otherwise, `(C,)`.

        A class's mean share is what the class adds to the metric, or to its linear approximation.
        """
        rows = counts.class_counts(labels, num_classes).double()
        if self.name == "macro-f1":
            hits, named, size = self._confused(predicted, labels, rows)
            counted = size > 0
            gain = torch.where(counted, 2 / (size + named), 0.0)
            loss = torch.where(counted, 2 * hits / (size + named).square(), 0.0)
            each = (gain[labels] * (predicted == labels) - loss[predicted.long()]).mean(-2) / counted.sum()
            return size[labels] * each, counted / counted.sum()
        scores = self._scores(predicted, labels)
        if self.looks_at_lowest:
            held = rows > 0
            weight = torch.zeros_like(rows)
            weight[held] = self._lowest_weights((class_sums(scores, labels, num_classes) / rows)[held])
        else:
            weight = self.class_weights(rows)
        wide = (self.cost.amax(1) - self.cost.amin(1)) if self.name == "cost" and self.cost is not None else 1.0
        return weight[labels] * scores, weight * wide

    def _range(self, rows: Tensor) -> tuple[float, float]:
        """Return the lowest and the highest value that the metric can have."""
        if self.name != "cost" or self.cost is None:
            return 0.0, 1.0
        weight = self.class_weights(rows)
        return -float((weight * self.cost.amax(1)).sum()), -float((weight * self.cost.amin(1)).sum())


def metric_of(
    name: str = "balanced",
    *,
    target_prior: Sequence[float] | Tensor | None = None,
    cost: Sequence[Sequence[float]] | Tensor | None = None,
    heldout_counts: Tensor,
) -> Metric:
    """Return the metric of this name, with its numbers checked.

    Args:
        name: See `Metric`.
        target_prior: Share of each class where the model will be used, in the order of the classes.
        cost: Cost of predicting a row of class i as class j; not negative.
        heldout_counts: Held-out rows per class, `(C,)`.

    Raises:
        InputError: The name is unknown; the metric needs a target prior or a cost and has none, or has one that it does
            not use; the prior is not C shares that sum to 1 within 0.001, or gives one to a class without held-out rows;
            the cost is not C x C numbers from 0 on, or is the same whatever is predicted.

    Example:
        >>> import diversify as dv
        >>> rows = torch.tensor([5, 5])
        >>> metric_of("prior", target_prior=[0.9, 0.1], heldout_counts=rows).title
        'accuracy under the target prior'
        >>> try:
        ...     metric_of("prior", target_prior=[0.9, 0.3], heldout_counts=rows)
        ... except dv.InputError as error:
        ...     print(error)
        target_prior must sum to 1 within 0.001, got 1.2
    """
    if name not in TITLES:
        raise unknown("metric", str(name), TITLES)
    if name == "prior" and target_prior is None:
        raise must("target_prior", "be given for metric=prior", "none")
    if name == "cost" and cost is None:
        raise must("cost", "be given for metric=cost", "none")
    if target_prior is not None and name in ("balanced", "worst"):
        raise must("target_prior", f"be left out for metric={name}, which does not use it", "one", "use metric=prior")
    if cost is not None and name != "cost":
        raise must("cost", f"be left out for metric={name}, which does not use it", "one", "use metric=cost")
    return Metric(
        name=name,
        target_prior=None if target_prior is None else _shares(target_prior, heldout_counts.cpu()),
        cost=None if cost is None else _costs(cost, len(heldout_counts)),
    )


def plain_objective(objective: Objective) -> Objective:
    """Return the objective with a space where the command line has a hyphen.

    Example:
        >>> plain_objective("worst-third"), plain_objective(0.5)
        ('worst third', 0.5)
    """
    return objective.replace("-", " ") if isinstance(objective, str) else objective


def objective_of(metric: str, objective: Objective) -> Metric | None:
    """Return the metric of an objective; None for `mean`, where the metric decides alone.

    Args:
        metric: The name of the metric.
        objective: `mean`; `worst`, the lowest recall; `worst third`, the mean of the lowest third of recalls; or a number
            in [0, 1], the weight of the lowest recall beside the mean recall. 0 is `mean`, and 1 is `worst`.

    Raises:
        InputError: The objective is none of these, or the metric is not `balanced`.

    Example:
        >>> objective_of("balanced", 0.5).title
        'mean recall moved toward the worst class'
        >>> objective_of("balanced", 1).name, objective_of("macro-f1", "mean")
        ('worst', None)
    """
    if isinstance(objective, str):
        name, toward = str(plain_objective(objective)), 0.0
        if name not in OBJECTIVES:
            raise must("objective", f"be one of {', '.join(OBJECTIVES)}, or a number in [0, 1]", repr(objective))
    else:
        real = isinstance(objective, numbers.Real) and not isinstance(objective, bool)
        if not real or not 0 <= float(objective) <= 1:
            raise must("objective", f"be one of {', '.join(OBJECTIVES)}, or a number in [0, 1]", repr(objective))
        toward = float(objective)
        name = {0.0: "mean", 1.0: "worst"}.get(toward, "mean and worst")
    if name == "mean":
        return None
    if metric != "balanced":
        raise must("objective", f"be mean for metric={metric}", objective, "use metric=balanced")
    return Metric(name=name, toward_worst=toward if name == "mean and worst" else 0.0)


def _numbers(name: str, values: object) -> Tensor:
    """Return the values as float64 on the CPU.

    Raises:
        InputError: One is not a finite number of at least 0, or the rows are of different lengths.
    """
    try:
        given = values.to_numpy(copy=True) if hasattr(values, "to_numpy") else values
        found = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise must(name, "hold numbers, in rows of one length", repr(values)[:60]) from None
    wrong = found[~(found.isfinite() & (found >= 0))]
    if len(wrong):
        raise must(name, "hold finite numbers that are not negative", f"{float(wrong[0]):g}")
    return found


def _shares(values: object, heldout_counts: Tensor) -> Tensor:
    classes = len(heldout_counts)
    found = _numbers("target_prior", in_class_order("target_prior", values, classes))
    if found.shape != (classes,):
        raise must("target_prior", f"hold a share for each of the {classes} classes", _size(found))
    total = float(found.sum())
    if abs(total - 1) > _TOLERANCE:
        raise must("target_prior", f"sum to 1 within {_TOLERANCE:g}", f"{total:g}")
    unseen = ((found > 0) & (heldout_counts == 0)).nonzero().flatten().tolist()
    if unseen:
        law = "give a share only to classes with held-out rows, since the recall of others is unknown"
        got = f"{float(found[unseen[0]]):g} for class {unseen[0]}, which has none"
        raise must("target_prior", law, got, "add held-out images of it")
    return found / total


def _costs(values: object, classes: int) -> Tensor:
    if hasattr(values, "columns") and hasattr(values, "index"):
        values = _in_order_of_frame(values, classes)
    found = _numbers("cost", values)
    if found.shape != (classes, classes):
        raise must("cost", f"have {classes} rows of {classes} numbers, one for each class", _size(found))
    if bool((found == found[:, :1]).all()):
        raise must("cost", "depend on what is predicted", "rows of equal numbers")
    return found


def _in_order_of_frame(frame: Any, classes: int) -> object:
    """The numbers of a pandas DataFrame, by the numbers of the classes in its index and columns."""
    wanted = list(range(classes))
    if sorted(map(str, frame.index)) != sorted(map(str, wanted)) or set(frame.columns) != set(wanted):
        law = f"have the classes' numbers in [0, {classes - 1}] as index and columns"
        raise must("cost", law, f"{list(frame.columns)[:4]}", "pass frame.to_numpy(), in the order of the classes")
    return frame.loc[wanted, wanted]


def _size(values: Tensor) -> str:
    return " x ".join(map(str, values.shape)) if values.ndim else "one number"


def class_sums(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Sum values `(..., N)` over the rows of each class; `(..., C)` float64.

    Example:
        >>> class_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 1, 1]), 3).tolist()
        [1.0, 6.0, 0.0]
    """
    sums = torch.zeros(*values.shape[:-1], num_classes, dtype=torch.float64)
    return sums.index_add_(-1, labels, values.double())


def balanced_difference(one: Tensor, other: Tensor, labels: Tensor, num_classes: int) -> tuple[float, float]:
    """Return the difference of two balanced accuracies on the same rows, and its standard error.

    The error within a class is that of a paired difference of proportions with one row added on each side, so that it
    does not vanish for a class of few rows that both predict alike.

    Args:
        one: Share of repeats in which each row is predicted correctly, `(N,)`.
        other: The same for the other classifier, `(N,)`.
        labels: Classes of the rows, `(N,)`.
        num_classes: Number of classes.

    Returns:
        `one` minus `other`, and the standard error.

    References:
        Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions".

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> one, other = torch.ones(6), torch.tensor([1.0, 1, 1, 0, 1, 0])
        >>> [round(value, 3) for value in balanced_difference(one.double(), other.double(), labels, 2)]
        [0.375, 0.2]
    """
    difference = one - other
    rows = counts.class_counts(labels, num_classes).double()
    held = rows > 0
    total, squares = (
        torch.zeros(num_classes, dtype=torch.float64).index_add_(0, labels, values)
        for values in (difference, difference.square())
    )
    more = rows + 2
    variance = ((squares + 1) / more - (total / more).square()) / more
    number = int(held.sum())
    return float((total / rows)[held].mean()), float(variance[held].sum().sqrt()) / number
