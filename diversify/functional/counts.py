"""How many images each class has, the profiles that imbalance benchmarks use, and means per class."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import must

_BLOCK = 1 << 16  # rows converted to float64 at a time, so that memory-mapped features stay on the disk


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """`(C,)` int64: rows per class."""
    return torch.bincount(labels, minlength=num_classes)


def class_mean(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """`(C, ...)`: the mean of `values` `(N, ...)` over the rows of each class; NaN for an absent class.

    Summed in float64, so that the mean of a large class does not drift with the order of its rows.
    """
    dtype = values.dtype if values.is_floating_point() else torch.get_default_dtype()
    total = values.new_zeros((num_classes, *values.shape[1:]), dtype=torch.float64)
    for block, block_labels in zip(values.split(_BLOCK), labels.split(_BLOCK), strict=True):
        total.index_add_(0, block_labels, block.double())
    counts = class_counts(labels, num_classes).view(-1, *[1] * (values.ndim - 1))
    return (total / counts).to(dtype)


def imbalance_ratio(counts: Tensor) -> float:
    """Largest count over smallest, over the classes that are present; >= 1."""
    present = counts[counts > 0]
    return float(present.max() / present.min())


def exponential_profile(num_classes: int, ratio: float, n_max: int) -> list[int]:
    """Images per rank, largest class first: `int(n_max * (1 / ratio) ** (rank / (C - 1)))`.

    The long-tailed profile of Cao et al. 2019 (LDAM-DRW), whose `imb_factor` is `1 / ratio`.
    """
    if ratio < 1:
        raise must("imbalance ratio", "be at least 1", ratio)
    factor = 1 / ratio
    return [int(n_max * factor ** (rank / max(num_classes - 1, 1))) for rank in range(num_classes)]


def step_profile(num_classes: int, ratio: float, fraction: float, n_max: int) -> list[int]:
    """Images per rank: `n_max` for the head, `int(n_max / ratio)` for the last `fraction` of the classes."""
    if ratio < 1:
        raise must("imbalance ratio", "be at least 1", ratio)
    if not 0 < fraction < 1:
        raise must("step fraction", "lie strictly between 0 and 1", fraction)
    minority = round(num_classes * fraction)
    return [n_max] * (num_classes - minority) + [int(n_max / ratio)] * minority


def effective_number(counts: Tensor, beta: float = 0.9999) -> Tensor:
    """`(C,)`: (1 - beta^n) / (1 - beta), Cui et al. 2019 eq. 3; float64."""
    return (1 - torch.pow(torch.tensor(beta, dtype=torch.float64), counts.double())) / (1 - beta)


def shares_for_counts(shares: Tensor, counts: Tensor, other: Tensor) -> Tensor:
    """`(C,)` float64: the shares of the draws when classes have `other` counts, by the rule that `shares` follow.

    A share is taken as `f_c n_c^g`: g is fitted over the classes by least squares on logarithms, and each class keeps its
    own factor f_c (the geometric mean of the others' where it had no image to tell it). So natural shares stay natural,
    even ones even, square-root ones square-root, and where all counts change by one factor nothing changes. With one count
    for all, g is 1. A class of `other` count 0, or one that had images and no share, gets none.
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
    """`(C,)` int64: 0 many (> 100 training images), 1 medium (20 to 100), 2 few (< 20)."""
    return (counts <= 100).long() + (counts < 20).long()


def count_thirds(counts: Tensor) -> Tensor:
    """`(C,)` int64: 0, 1, 2 for the largest, middle and smallest third of the classes.

    -1 for classes of one count that would fall into several thirds, and for all where there are fewer than 3 classes.
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
