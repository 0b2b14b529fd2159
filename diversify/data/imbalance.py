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

# Which images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imbalance:
    """A profile of images per class: `kind` is "none", "exp" or "step"."""

    kind: str = "none"
    ratio: float = 1.0
    fraction: float = 0.5
    n_max: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("none", "exp", "step"):
            raise unknown("kind of imbalance", self.kind, ("none", "exp", "step"))
        if not 1 <= self.ratio < math.inf:
            raise must("RATIO of --imbalance", "be at least 1 and finite", self.ratio)
        if not 0 < self.fraction < 1:
            raise must("FRACTION of --imbalance", "lie strictly between 0 and 1", self.fraction)
        if self.n_max is not None and self.n_max < 1:
            raise must("NMAX of --imbalance", "be at least 1", self.n_max)

    @classmethod
    def parse(cls, text: str) -> Imbalance:
        """From `none`, `exp:RATIO[:NMAX]` or `step:RATIO:FRACTION`."""
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
        raise must("--imbalance", "be exp:RATIO[:NMAX], step:RATIO:FRACTION or none", repr(text))

    def profile(self, num_classes: int, n_max: int) -> list[int]:
        """Images per rank, largest class first."""
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
    """Classes from the largest to the smallest: 0, 1, ... for "canonical", else a permutation drawn from the seed."""
    if tail_order == "canonical":
        return list(range(num_classes))
    if not (tail_order.isascii() and tail_order.isdigit()):
        raise must("--tail-order", "be canonical or a seed", repr(tail_order))
    return cast("list[int]", draws.permutation(num_classes, "tail order", int(tail_order)).tolist())


def imbalance_indices(labels: Tensor, imbalance: Imbalance, tail_order: str = "canonical") -> Tensor:
    """`(M,)` indices of the imbalanced subset, class by class.

    For each class in turn, `numpy.random.RandomState(0)` shuffles its indices and the first `n` are taken, exactly as
    in the code of Cao et al. 2019 (LDAM-DRW), so that the long-tailed CIFAR subsets are the field's, index for index.
    With a permuted tail the same shuffles are cut at other lengths. Without NMAX, the largest count that every class
    can meet.

    Raises:
        InputError: a class has fewer images than the profile wants, or the profile leaves a class without any.
    """
    if imbalance.kind == "none":
        return torch.arange(len(labels))
    num_classes = int(labels.max()) + 1
    order = class_order(tail_order, num_classes)
    available = counts.class_counts(labels, num_classes).tolist()

    def wanted(n_max: int) -> dict[int, int]:
        return dict(zip(order, imbalance.profile(num_classes, n_max), strict=True))

    n_max = imbalance.n_max
    if n_max is None:  # what is wanted grows with NMAX: count how many of 2, 3, ... can be met
        candidates = range(2, max(available) + 1)
        unmet = bisect.bisect_left(
            candidates, True, key=lambda n: any(want > available[c] for c, want in wanted(n).items())
        )
        n_max = 1 + unmet
    take = wanted(n_max)
    for c, want in take.items():
        if want > available[c]:
            raise must(f"class {c}", f"have the {want} images that {imbalance} asks of it", available[c], "lower NMAX")
        if want < 1:
            raise must(f"class {c}", "keep at least one image", 0, f"lower the ratio of {imbalance} or raise NMAX")
    shuffle = np.random.RandomState(0)
    chosen = []
    for c, rows in enumerate(_rows_per_class(labels, num_classes)):
        indices = rows.numpy()
        shuffle.shuffle(indices)
        chosen.append(torch.from_numpy(indices[: take[c]]))
    return torch.cat(chosen)


def _rows_per_class(labels: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    """For each class, the rows that have it, in order; found in one pass, however many classes there are."""
    sizes = torch.bincount(labels, minlength=num_classes)
    return torch.split(torch.argsort(labels, stable=True), sizes.tolist())


def holdout_indices(labels: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """`(kept, held out)` positions: a stratified hold-out of `round(n * fraction)` per class.

    Every class keeps at least one image. The cut depends on the labels alone, so any two runs on the same data agree.
    """
    if not 0 <= fraction < 1:
        raise must("--holdout", "lie in [0, 1)", fraction)
    word = draws.bits("holdout", torch.arange(len(labels)))
    present, classes = torch.unique(labels, return_inverse=True)
    chosen = [torch.empty(0, dtype=torch.int64)]
    for rows in _rows_per_class(classes, len(present)):
        take = min(round(len(rows) * fraction), len(rows) - 1)
        chosen.append(rows[torch.argsort(word[rows], stable=True)[:take]])
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[torch.cat(chosen)] = True
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]
