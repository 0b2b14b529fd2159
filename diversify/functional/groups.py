"""Groups of rows that depend on each other, such as the images of one patient, and intervals that count groups, not rows."""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from ..errors import must
from .counts import class_counts
from .stats import bootstrap_class_mean, wilson_interval


def group_numbers(name: str, groups: object, *, rows: int | None = None) -> Tensor:
    """Return one integer per row, equal for rows of one group.

    The number of a group depends on its value alone, so the groups of training and held-out rows can be compared.

    Args:
        name: What errors call the groups.
        groups: One value per row: integers, or text, whose numbers are digests; an array, tensor, list or pandas Series.
        rows: Number of rows; None if it is not known.

    Returns:
        `(N,)` int64.

    Raises:
        InputError: They are neither integers nor text, there is not one per row, or one is missing.

    Example:
        >>> group_numbers("groups", [7, 7, 9]).tolist()
        [7, 7, 9]
        >>> first, second = group_numbers("groups", ["anna", "ben", "anna"]), group_numbers("groups", ["ben"])
        >>> bool(first[0] == first[2]), bool(first[1] == second[0])
        (True, True)
    """
    values = groups.detach().cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise must(name, "be one value per row", f"shape {values.shape}")
    if rows is not None and len(values) != rows:
        raise must(name, f"be one value per row, {rows}", len(values))
    if values.dtype.kind in "iub":
        return torch.from_numpy(values.astype(np.int64))
    if values.dtype.kind == "f" and len(values) and bool((values == np.trunc(values)).all()):
        return torch.from_numpy(values.astype(np.int64))
    if values.dtype.kind in "OSU":
        return torch.tensor([_number(name, row, value) for row, value in enumerate(values.tolist())], dtype=torch.int64)
    raise must(name, "be integers or text", str(values.dtype))


def require_one_kind(train: object, heldout: object) -> None:
    """Raise an InputError if the groups of one side are text and those of the other integers, so that none could be the same.

    Args:
        train: Groups of training rows, as for `group_numbers`; None if there are none.
        heldout: Groups of held-out rows.

    Raises:
        InputError: One side is text and the other is not.

    Example:
        >>> require_one_kind(["anna", "ben"], ["eve"])
    """
    if train is None or heldout is None:
        return
    kinds = ["text" if _is_text(side) else "integers" for side in (train, heldout)]
    if kinds[0] != kinds[1]:
        law = "be integers on both sides or text on both, so that a group has one value"
        raise must("groups", law, f"{kinds[0]} for training and {kinds[1]} for held-out images")


def _is_text(groups: object) -> bool:
    values = groups.detach().cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)
    first = values.reshape(-1)[:1].tolist()
    return bool(first) and isinstance(first[0], str | bytes)


def _number(name: str, row: int, value: object) -> int:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, int):
        return value
    if not isinstance(value, str) or not value:
        raise must(name, "be integers or text", f"{value!r} at row {row}")
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "big") >> 1


def clusters(labels: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cluster of each row, `(N,)`, and the class of each cluster: the rows of one group in one class are a cluster.

    Args:
        labels: `(N,)`, the class of each row.
        groups: `(N,)`, the group of each row.

    Example:
        >>> cluster, classes = clusters(torch.tensor([0, 0, 1, 0]), torch.tensor([5, 5, 5, 6]))
        >>> cluster.tolist(), classes.tolist()
        ([0, 0, 2, 1], [0, 0, 1])
    """
    pairs, cluster = torch.unique(torch.stack([labels, groups]), dim=1, return_inverse=True)
    return cluster, pairs[0]


def cluster_share_interval(
    hits: Tensor, labels: Tensor, groups: Tensor, num_classes: int, confidence: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Return an interval of the share of hits in each class where rows of one group depend on each other.

    It is Wilson's interval for the number of independent rows that would make the share as certain: the variance between
    groups says how many they are, and Student's t allows for few groups. Where all rows are hits, or none, each group
    counts as one row.

    Args:
        hits: `(N,)` bool.
        labels: `(N,)`.
        groups: `(N,)`.
        num_classes: C.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        Low and high ends, `(C,)` float64: 0 and 1 for a class with one group, NaN for an absent class.

    References:
        Korn and Graubard (1998), Confidence intervals for proportions with small expected number of positive counts
        estimated from survey data, Survey Methodology 24.

    Example:
        >>> hits, groups = torch.arange(100) % 20 < 14, torch.arange(100) // 5
        >>> labels = torch.zeros(100, dtype=torch.int64)
        >>> [round(float(end), 2) for end in cluster_share_interval(hits, labels, groups, 1)]
        [0.48, 0.85]
        >>> [round(float(end), 2) for end in wilson_interval(torch.tensor(70), torch.tensor(100))]
        [0.6, 0.78]
    """
    cluster, classes = clusters(labels, groups)
    total = class_counts(labels, num_classes).double()
    share = class_counts(labels[hits], num_classes).double() / total
    size = torch.bincount(cluster, minlength=len(classes)).double()
    own = torch.bincount(cluster[hits], minlength=len(classes)).double()
    number = torch.bincount(classes, minlength=num_classes).double()
    excess = (own - share[classes] * size).square()
    variance = torch.zeros_like(total).index_add_(0, classes, excess) * number / (number - 1) / total.square()
    rows = torch.where(variance > 0, share * (1 - share) / variance, number).minimum(total)
    freedom = (number - 1).clamp(min=1).cpu().numpy()
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    student = torch.from_numpy(np.asarray(stdtrit(freedom, 0.5 + confidence / 2))).to(rows.device)
    rows = rows * (z / student).square()
    low, high = wilson_interval(share.nan_to_num(0.0) * rows, rows, confidence)
    one, absent = number == 1, number == 0
    low, high = low.masked_fill(one, 0.0), high.masked_fill(one, 1.0)
    return low.masked_fill(absent, torch.nan), high.masked_fill(absent, torch.nan)


def bootstrap_group_mean(
    values: Tensor, labels: Tensor, groups: Tensor, num_classes: int, draws: int = 200, *, seed: int, name: str
) -> Tensor:
    """Return class means over groups drawn with replacement inside each class (the cluster bootstrap).

    A group is drawn with all its rows of the class. The draws are spread about the mean by the factor by which Student's t
    exceeds the normal quantile at 95%, because few groups vary too little among themselves.

    Args:
        values: `(N,)`.
        labels: `(N,)`.
        groups: `(N,)`.
        num_classes: C.
        draws: Number of draws.
        seed: Seed of the draws.
        name: First part of the key of the draws.

    Returns:
        `(draws, C)` float64; NaN for a class with fewer than two groups.

    Example:
        >>> values, groups = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([3, 3, 4, 4])
        >>> means = bootstrap_group_mean(values, torch.zeros(4, dtype=torch.int64), groups, 1, seed=0, name="example")
        >>> means.shape, round(float(means.mean()), 1)
        (torch.Size([200, 1]), 0.5)
    """
    cluster, classes = clusters(labels, groups)
    sums = torch.zeros(len(classes), dtype=torch.float64, device=values.device).index_add_(0, cluster, values.double())
    size = torch.bincount(cluster, minlength=len(classes)).double()
    parts = [bootstrap_class_mean(each, classes, num_classes, draws, seed=seed, name=name) for each in (sums, size)]
    number = torch.bincount(classes, minlength=num_classes)
    centre = torch.zeros(num_classes, dtype=torch.float64, device=values.device).index_add_(0, classes, sums)
    centre = centre / class_counts(labels, num_classes)
    freedom = (number - 1).clamp(min=1).cpu().numpy()
    student = np.asarray(stdtrit(freedom, 0.975)) / NormalDist().inv_cdf(0.975)
    wider = torch.from_numpy(student).to(values.device) * (number / (number - 1).clamp(min=1)).sqrt()
    drawn = centre + wider * (parts[0] / parts[1] - centre)
    return drawn.masked_fill(number < 2, math.nan)


def group_counts(labels: Tensor, groups: Tensor, num_classes: int) -> Tensor:
    """Return the number of groups with rows in each class, `(C,)` int64.

    Args:
        labels: `(N,)`.
        groups: `(N,)`.
        num_classes: C.

    Example:
        >>> group_counts(torch.tensor([0, 0, 1, 0]), torch.tensor([5, 5, 5, 6]), 3).tolist()
        [2, 1, 0]
    """
    return torch.bincount(clusters(labels, groups)[1], minlength=num_classes)
