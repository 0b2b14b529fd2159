"""Make a balanced training set imbalanced, and cut a validation set from it."""

from __future__ import annotations

import bisect
import dataclasses
import math
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, must, unknown
from ..functional import counts, draws
from .stratify import multilabel_holdout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imbalance:
    """A profile of training images per class.

    Attributes:
        kind: "none"; "exp", where counts fall exponentially from the largest class to the smallest; or "step", where the
            smaller classes all have the same count.
        ratio: Count of the largest class over that of the smallest, at least 1.
        fraction: For "step", the share of classes that are small, in (0, 1).
        n_max: For "exp", the count of the largest class; by default the largest count for which every class has enough
            images.

    Raises:
        InputError: A number is out of its range.

    References:
        Cui, Jia, Lin, Song and Belongie (2019), Class-balanced loss based on effective number of samples, CVPR (exp).
        Buda, Maki and Mazurowski (2018), A systematic study of the class imbalance problem, Neural Networks 106 (step).

    Example:
        >>> import diversify as dv
        >>> dv.Imbalance(kind="exp", ratio=100).profile(num_classes=5, n_max=1000)
        [1000, 316, 100, 31, 10]
        >>> str(dv.Imbalance.parse("step:10:0.4"))
        'step:10:0.4'
    """

    kind: str = "none"
    ratio: float = 1.0
    fraction: float = 0.5
    n_max: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("none", "exp", "step"):
            raise unknown("kind of imbalance", self.kind, ("none", "exp", "step"))
        if not 1 <= self.ratio < math.inf:
            raise must("ratio of imbalance", "be at least 1 and finite", self.ratio)
        if not 0 < self.fraction < 1:
            raise must("fraction of imbalance", "lie strictly between 0 and 1", self.fraction)
        if self.n_max is not None and self.n_max < 1:
            raise must("n_max of imbalance", "be at least 1", self.n_max)

    @classmethod
    def parse(cls, text: str) -> Imbalance:
        """Return the profile that `none`, `exp:RATIO[:NMAX]` or `step:RATIO:FRACTION` describes.

        Raises:
            InputError: The text has another form, or a number is out of its range.
        """
        kind, *rest = text.split(":")
        try:
            if kind == "none" and not rest:
                return cls()
            if kind == "exp" and len(rest) in (1, 2):
                return cls(kind=kind, ratio=float(rest[0]), n_max=int(rest[1]) if rest[1:] else None)
            if kind == "step" and len(rest) == 2:
                return cls(kind=kind, ratio=float(rest[0]), fraction=float(rest[1]))
        except InputError:
            raise
        except ValueError:
            pass
        raise must("imbalance", "be exp:RATIO[:NMAX], step:RATIO:FRACTION or none", repr(text))

    def profile(self, num_classes: int, n_max: int) -> list[int]:
        """Return the number of images of each class, largest first; `n_max` is the count of the largest."""
        if self.kind == "step":
            return counts.step_profile(num_classes, self.ratio, self.fraction, n_max)
        return counts.exponential_profile(num_classes, self.ratio, n_max)

    def __str__(self) -> str:
        if self.kind == "none":
            return "none"
        if self.kind == "step":
            return f"step:{self.ratio:g}:{self.fraction:g}"
        return f"exp:{self.ratio:g}" + (f":{self.n_max}" if self.n_max else "")


def class_order(tail_order: str, num_classes: int) -> list[int]:
    """Return the classes from the largest to the smallest.

    Args:
        tail_order: "canonical" for 0, 1, ...; or a seed, as text, for a random permutation.
        num_classes: Number of classes.

    Raises:
        InputError: `tail_order` is neither.

    Example:
        >>> from diversify.data import class_order
        >>> class_order("canonical", 4), sorted(class_order("7", 4))
        ([0, 1, 2, 3], [0, 1, 2, 3])
    """
    if tail_order == "canonical":
        return list(range(num_classes))
    if not (tail_order.isascii() and tail_order.isdigit()):
        raise must("tail_order", "be canonical or a seed", repr(tail_order))
    return cast("list[int]", draws.permutation(num_classes, "tail order", int(tail_order)).tolist())


def imbalance_indices(labels: Tensor, imbalance: Imbalance, tail_order: str = "canonical") -> Tensor:
    """Return the indices `(M,)` of an imbalanced subset, class by class.

    For each class in turn, `numpy.random.RandomState(0)` shuffles its indices and the first n are used, as in the code of Cao
    et al., so that long-tailed CIFAR is the usual benchmark, index for index. A permuted tail uses the same shuffles.

    Args:
        labels: `(N,)` int64.
        imbalance: The profile.
        tail_order: Which classes are rare: "canonical" for the last ones, or a seed that permutes the classes.

    Raises:
        InputError: A class has fewer images than the profile needs, or the profile leaves a class without images.

    References:
        Cao, Wei, Gaidon, Arechiga and Ma (2019), Learning imbalanced datasets with label-distribution-aware margin loss,
        NeurIPS, arXiv:1906.07413; their code.

    Example:
        >>> import torch, diversify as dv
        >>> labels = torch.arange(3).repeat_interleave(100)
        >>> labels[dv.imbalance_indices(labels, dv.Imbalance.parse("exp:10"))].bincount().tolist()
        [100, 31, 10]
    """
    if imbalance.kind == "none":
        return torch.arange(len(labels))
    num_classes = int(labels.max()) + 1
    order = class_order(tail_order, num_classes)
    available = counts.class_counts(labels, num_classes).tolist()

    def wanted(n_max: int) -> dict[int, int]:
        return dict(zip(order, imbalance.profile(num_classes, n_max), strict=True))

    n_max = imbalance.n_max
    if n_max is None:  # the wanted counts grow with n_max: count how many of n_max = 2, 3, ... every class can meet
        candidates = range(2, max(available) + 1)
        unmet = bisect.bisect_left(
            candidates, True, key=lambda n: any(want > available[c] for c, want in wanted(n).items())
        )
        n_max = 1 + unmet
    take = wanted(n_max)
    for c, want in take.items():
        if want > available[c]:
            raise must(f"class {c}", f"have the {want} images that {imbalance} needs", available[c], "lower n_max")
        if want < 1:
            raise must(f"class {c}", "keep at least one image", 0, f"lower the ratio of {imbalance} or raise n_max")
    shuffle = np.random.RandomState(0)
    chosen = []
    for c, rows in enumerate(_rows_per_class(labels, num_classes)):
        indices = rows.numpy()
        shuffle.shuffle(indices)
        chosen.append(torch.from_numpy(indices[: take[c]]))
    return torch.cat(chosen)


def _rows_per_class(labels: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    """Return the rows of each class, ascending; in one pass, however many classes there are."""
    sizes = torch.bincount(labels, minlength=num_classes)
    return torch.split(torch.argsort(labels, stable=True), sizes.tolist())


def holdout_indices(labels: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Return the positions that are kept and those that are held out: `round(n * fraction)` images of each class.

    Every class keeps at least one image. The result depends on the labels alone, so two runs on the same data agree. Of images
    with several labels each, every label is held out in proportion; see `multilabel_holdout`.

    Args:
        labels: `(N,)` int64; or `(N, C)`, 0 or 1 for each label.
        fraction: Share to hold out, in [0, 1).

    Returns:
        Two ascending tensors of positions.

    Raises:
        InputError: The fraction is out of its range.

    Example:
        >>> import torch
        >>> from diversify.data import holdout_indices
        >>> labels = torch.tensor([0] * 10 + [1] * 5 + [2])
        >>> kept, held = holdout_indices(labels, 0.2)
        >>> labels[held].bincount(minlength=3).tolist()
        [2, 1, 0]
    """
    if not 0 <= fraction < 1:
        raise must("holdout", "lie in [0, 1)", fraction)
    if labels.ndim == 2:
        return multilabel_holdout(labels, fraction)
    word = draws.bits("holdout", torch.arange(len(labels)))
    present, classes = torch.unique(labels, return_inverse=True)
    chosen = [torch.empty(0, dtype=torch.int64)]
    for rows in _rows_per_class(classes, len(present)):
        take = holdout_count(len(rows), fraction)
        chosen.append(rows[torch.argsort(word[rows], stable=True)[:take]])
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[torch.cat(chosen)] = True
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


def holdout_count(images: int, fraction: float) -> int:
    """Return how many images of a class with so many are held out: a fraction, rounded, but never all."""
    return min(round(images * fraction), images - 1)
