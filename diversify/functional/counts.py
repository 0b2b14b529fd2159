"""Class counts: the profiles that imbalance benchmarks use, groups of classes by size, and means per class."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import must

_BLOCK = 1 << 20  # numbers converted to float64 at a time (8 MB), so that memory-mapped features stay on the disk


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Count the rows of each class.

    Args:
        labels: `(N,)` int64 in [0, C).
        num_classes: C.

    Returns:
        `(C,)` int64.

    Example:
        >>> class_counts(torch.tensor([0, 2, 0, 0]), 3).tolist()
        [3, 0, 1]
    """
    return torch.bincount(labels, minlength=num_classes)


def class_mean(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Average values over the rows of each class.

    Sums are in float64, so that the mean of a large class does not depend on the order of its rows.

    Args:
        values: `(N, ...)`.
        labels: `(N,)` int64 in [0, C).
        num_classes: C.

    Returns:
        `(C, ...)`; NaN for an absent class.

    Example:
        >>> class_mean(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([0, 0, 2]), 3).tolist()
        [[2.0, 3.0], [nan, nan], [5.0, 6.0]]
    """
    dtype = values.dtype if values.is_floating_point() else torch.get_default_dtype()
    total = values.new_zeros((num_classes, *values.shape[1:]), dtype=torch.float64)
    size = max(1, _BLOCK // max(values[:1].numel(), 1))
    for block, block_labels in zip(values.split(size), labels.split(size), strict=True):
        total.index_add_(0, block_labels, block.double())
    counts = class_counts(labels, num_classes).view(-1, *[1] * (values.ndim - 1))
    return (total / counts).to(dtype)


def class_moments(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return each class's mean and the mean squared distance of its rows to it, in one pass over the rows.

    Sums are taken in float64 about the first row of each class, so that nothing cancels where the rows of a class are close.

    Args:
        features: `(N, D)`.
        labels: `(N,)` int64 in [0, C).
        num_classes: C.

    Returns:
        The means `(C, D)` in the dtype of the features, and the mean squared distances `(C,)` float64; NaN for an absent class.

    Example:
        >>> means, squares = class_moments(torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0]]), torch.tensor([0, 0, 1]), 3)
        >>> means.tolist(), squares.tolist()
        ([[1.0, 0.0], [5.0, 5.0], [nan, nan]], [1.0, 0.0, nan])
    """
    rows = torch.arange(len(labels), device=labels.device)
    first = torch.zeros(num_classes, dtype=torch.int64, device=labels.device)
    first.scatter_reduce_(0, labels, rows, "amin", include_self=False)
    about = features[first] if len(rows) else features.new_zeros(num_classes, features.shape[1])
    total = features.new_zeros(num_classes, features.shape[1], dtype=torch.float64)
    squares = total.new_zeros(num_classes)
    size = max(1, _BLOCK // max(features.shape[1], 1))
    for block, own in zip(features.split(size), labels.split(size), strict=True):
        rest = block.double() - about[own]
        total.index_add_(0, own, rest)
        squares.index_add_(0, own, rest.square_().sum(1))
    counts = class_counts(labels, num_classes)
    shift = total / counts[:, None]
    means = (shift + about.double()).to(features.dtype)
    return means, (squares / counts - shift.square().sum(1)).clamp(min=0)


def imbalance_ratio(counts: Tensor) -> float:
    """Divide the largest class count by the smallest; classes without images are left out.

    Args:
        counts: `(C,)`.

    Returns:
        A ratio of at least 1.

    Example:
        >>> imbalance_ratio(torch.tensor([100, 20, 5, 0]))
        20.0
    """
    present = counts[counts > 0]
    return float(present.max() / present.min())


def exponential_profile(num_classes: int, ratio: float, n_max: int) -> list[int]:
    """Return a long-tailed profile: images per rank, largest class first.

    Rank r gets `int(n_max * (1 / ratio) ** (r / (C - 1)))`.

    Args:
        num_classes: C.
        ratio: Imbalance ratio, at least 1; the paper's `imb_factor` is `1 / ratio`.
        n_max: Images of the largest class.

    Raises:
        InputError: `ratio` is below 1.

    References:
        Cao et al., "Learning imbalanced datasets with label-distribution-aware margin loss", 2019.

    Example:
        >>> exponential_profile(5, 100, 1000)
        [1000, 316, 100, 31, 10]
    """
    if ratio < 1:
        raise must("imbalance ratio", "be at least 1", ratio)
    factor = 1 / ratio
    return [int(n_max * factor ** (rank / max(num_classes - 1, 1))) for rank in range(num_classes)]


def step_profile(num_classes: int, ratio: float, fraction: float, n_max: int) -> list[int]:
    """Return a step profile: images per rank, `n_max` for large classes and `int(n_max / ratio)` for small ones.

    Args:
        num_classes: C.
        ratio: Imbalance ratio, at least 1.
        fraction: Fraction of the classes that are small, strictly between 0 and 1.
        n_max: Images of a large class.

    Raises:
        InputError: `ratio` or `fraction` is out of its range.

    References:
        Buda, Maki and Mazurowski, "A systematic study of the class imbalance problem in convolutional neural networks",
        2018.

    Example:
        >>> step_profile(4, 10, 0.5, 500)
        [500, 500, 50, 50]
    """
    if ratio < 1:
        raise must("imbalance ratio", "be at least 1", ratio)
    if not 0 < fraction < 1:
        raise must("step fraction", "lie strictly between 0 and 1", fraction)
    minority = round(num_classes * fraction)
    return [n_max] * (num_classes - minority) + [int(n_max / ratio)] * minority


def effective_number(counts: Tensor, beta: float = 0.9999) -> Tensor:
    """Return the effective number of images, `(1 - beta^n) / (1 - beta)`.

    Args:
        counts: `(C,)`.
        beta: In [0, 1); 0 gives 1 for every class, and toward 1 the result approaches n.

    Returns:
        `(C,)` float64.

    References:
        Cui et al., "Class-balanced loss based on effective number of samples", 2019, equation 3.

    Example:
        >>> [round(number, 1) for number in effective_number(torch.tensor([10, 1000]), beta=0.99).tolist()]
        [9.6, 100.0]
    """
    return (1 - torch.pow(torch.tensor(beta, dtype=torch.float64), counts.double())) / (1 - beta)


def shares_for_counts(shares: Tensor, counts: Tensor, other: Tensor) -> Tensor:
    """Carry a rule for the shares of draws over to other class counts.

    The rule is `share_c = f_c n_c^g`: g is fitted over the classes by least squares on logarithms, and each class keeps
    its own factor f_c. So natural shares stay natural, even shares even and square-root shares square-root, and nothing
    changes where all counts change by one factor. If all classes have the same count, g is 1.

    Args:
        shares: Shares of the draws at `counts`, `(C,)`.
        counts: Images per class that `shares` were made for, `(C,)`.
        other: Images per class to make shares for, `(C,)`.

    Returns:
        `(C,)` float64 that sums to 1. A class without images in `counts` gets the geometric mean of the other classes'
        factors. A class without images in `other`, or with images in `counts` but no share, gets 0.

    Example:
        >>> shares = shares_for_counts(torch.tensor([0.8, 0.2]), torch.tensor([80, 20]), torch.tensor([50, 50]))
        >>> [round(share, 2) for share in shares.tolist()]
        [0.5, 0.5]
    """
    fitted = (shares > 0) & (counts > 0)
    size, rate = counts[fitted].double().log(), shares[fitted].double().log()
    deviation = size - size.mean()
    spread = deviation.square().sum()
    exponent = (deviation * rate).sum() / spread if spread > 0 else torch.ones_like(spread)
    factor = (rate - exponent * size).mean().expand(len(shares)).clone()
    factor[fitted] = rate - exponent * size
    weights = (factor + exponent * other.clamp(min=1).double().log()).exp()
    weights = weights.where((other > 0) & (fitted | (counts == 0)), 0.0)
    return weights / weights.sum()


def shot_groups(counts: Tensor) -> Tensor:
    """Group classes by training images: 0 many-shot (> 100), 1 medium-shot (20 to 100), 2 few-shot (< 20).

    Args:
        counts: `(C,)`.

    Returns:
        `(C,)` int64.

    References:
        Liu et al., "Large-scale long-tailed recognition in an open world", 2019.

    Example:
        >>> shot_groups(torch.tensor([500, 100, 20, 3])).tolist()
        [0, 1, 1, 2]
    """
    return (counts <= 100).long() + (counts < 20).long()


def count_thirds(counts: Tensor) -> Tensor:
    """Group classes by rank: 0, 1 and 2 for the largest, middle and smallest third of the classes.

    Args:
        counts: `(C,)`.

    Returns:
        `(C,)` int64; -1 for classes of equal count that would fall into several thirds, and for all classes where there
        are fewer than 3.

    Example:
        >>> count_thirds(torch.tensor([500, 3, 100, 20, 60, 9])).tolist()
        [0, 2, 0, 1, 1, 2]
    """
    order = torch.argsort(counts, descending=True, stable=True)
    thirds = torch.empty_like(order)
    thirds[order] = torch.arange(len(order), device=order.device) * 3 // max(len(order), 1)
    if len(order) < 3:
        return torch.full_like(thirds, -1)
    group = torch.unique(counts, return_inverse=True)[1]
    ends = [
        torch.zeros_like(thirds).scatter_reduce(0, group, thirds, reduce, include_self=False)[group]
        for reduce in ("amin", "amax")
    ]
    return thirds.where(ends[0] == ends[1], -1)
