"""Find near copies among perceptual hashes: pairs of images of a class whose hashes differ in fewer bits than those of others."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from .near_copies import joined_components

BITS = 256
FEWEST, MOST = 16, 32  # bits: the limit of a class lies between these
USUAL = 24  # bits, where too few images tell how far different ones lie apart
CHANCE = 0.05  # expected number of independent pairs of a class below the limit
ACROSS = 5  # how much rarer these are to be between a class and other images, whose distances taught nothing
_FEWEST_ROWS, _FEWEST_PAIRS = 20, 200  # that teach the limit of their own class, or of all classes
_SAMPLE = 1500  # images of a class that its distances are learned from, evenly spaced
_BLOCK = 1 << 22  # distances at a time
_Array = np.ndarray[Any, Any]


def hash_limits(
    hashes: Tensor, speaks: Tensor, labels: Tensor, num_classes: int, others: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Learn from the images of each class by how many bits the hashes of near copies may differ.

    Different images of aligned objects (clothes, digits) have more alike hashes than photographs have. So the limit of a class
    is the number of bits below which 0.05 pairs are expected if the distances follow a normal distribution with the median
    and the lowest hundredth of those in the class; at least 16 and at most 32 of 256. Copies are counted once in this.

    Args:
        hashes: `(N, 256)` bool.
        speaks: `(N,)` bool, False for images of one colour, which are left out.
        labels: `(N,)`.
        num_classes: C.
        others: `(C,)`, how many other images, such as held-out ones, are compared with those of each class.

    Returns:
        `(C,)` float64 for pairs of the class, and for pairs of one of its images and another image.

    Example:
        >>> from diversify.functional import draws
        >>> hashes = draws.uniform("bits", torch.arange(100)[:, None], torch.arange(256)) < 0.5
        >>> own, other = hash_limits(hashes, torch.ones(100).bool(), torch.zeros(100).long(), 1)
        >>> own.tolist()
        [32.0]
    """
    found = [_learned(hashes[rows]) for rows in _by_class(labels, speaks, num_classes)]
    pooled = np.sum([histogram for histogram, _ in found], axis=0)
    sizes = torch.bincount(labels[speaks], minlength=num_classes).double()
    within = sizes * (sizes - 1) / 2
    across = sizes * (torch.zeros_like(sizes) if others is None else others.double().cpu())
    taught = [(own, rows) if rows >= _FEWEST_ROWS else (pooled, 0) for own, rows in found]
    limits = [
        [_limit(histogram, rows, float(pairs[c])) for c, (histogram, rows) in enumerate(taught)]
        for pairs in (within, torch.maximum(within, ACROSS * across))
    ]
    own, other = torch.tensor(limits, dtype=torch.float64).view(2, num_classes)
    return own, torch.minimum(own, other)


def _by_class(labels: Tensor, speaks: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    rows = speaks.nonzero()[:, 0]
    rows = rows[torch.argsort(labels[rows], stable=True)]
    return tuple(rows.split(torch.bincount(labels[rows], minlength=num_classes).tolist()))


def _learned(hashes: Tensor) -> tuple[_Array, int]:
    """How often each distance occurs between different images, and the number of different images."""
    some = hashes[torch.linspace(0, len(hashes) - 1, min(len(hashes), _SAMPLE)).round().long()]
    histogram = _histogram(some)
    if len(some) > 1:
        first = float(np.clip(_quantile(histogram, 0.5) - 5 * _spread(histogram, 0.25, 0.6745), FEWEST, MOST))
        _, place = np.unique(hash_components(some, first).numpy(), return_index=True)
        some = some[torch.from_numpy(np.sort(place))]
        histogram = _histogram(some)
    return histogram, len(some)


def _histogram(hashes: Tensor) -> _Array:
    counted = np.zeros(BITS + 1)
    signs = _signs(hashes)
    step = max(1, _BLOCK // max(len(hashes), 1))
    for start in range(0, len(hashes), step):
        distances = _distances(signs[start : start + step], signs[start:])
        counted += torch.bincount(distances.triu(1).view(-1).int(), minlength=BITS + 1).numpy()
        counted[0] -= distances.numel() - int(torch.ones_like(distances).triu(1).sum())  # those that `triu` set to 0
    return counted


def _quantile(histogram: _Array, share: float) -> float:
    return float(np.searchsorted(histogram.cumsum(), share * histogram.sum()))


def _spread(histogram: _Array, share: float, deviations: float) -> float:
    return (_quantile(histogram, 0.5) - _quantile(histogram, share)) / deviations


def _limit(histogram: _Array, rows: int, pairs: float) -> float:
    if not rows and histogram.sum() < _FEWEST_PAIRS:
        return float(USUAL)
    far = -float(ndtri(min(CHANCE / max(pairs, 1.0), 0.5)))
    return float(np.clip(_quantile(histogram, 0.5) - far * _spread(histogram, 0.01, 2.326), FEWEST, MOST))


def _signs(hashes: Tensor) -> Tensor:
    return hashes.float() * 2 - 1


def _distances(signs: Tensor, others: Tensor) -> Tensor:
    """In how many bits each pair of hashes differs; exact, because float32 holds such small integers."""
    return (BITS - signs @ others.T) / 2


def hash_components(hashes: Tensor, limit: float) -> Tensor:
    """Return a number for each image `(N,)` int64: images with the same number are near copies, directly or through others.

    Args:
        hashes: `(N, 256)` bool, of one class.
        limit: The number of bits that near copies may differ by.

    Example:
        >>> hashes = torch.zeros(3, 256).bool()
        >>> hashes[1, :100] = True
        >>> hash_components(hashes, 20.0).tolist()
        [0, 1, 0]
    """
    signs, count = _signs(hashes), len(hashes)
    component = np.arange(count)
    step = max(1, _BLOCK // max(count, 1))
    for start in range(0, len(signs), step):
        near = _distances(signs[start : start + step], signs[start:]) <= limit
        row, column = (near.nonzero() + start).T.numpy()
        count, component = joined_components(component, count, row, column)
    return torch.from_numpy(component.astype(np.int64))


def nearest_hash(hashes: Tensor, reference: Tensor, limit: float, *, same: bool = False) -> tuple[Tensor, Tensor]:
    """Return the reference image whose hash is nearest to each hash, if it is a near copy, and in how many bits they differ.

    Args:
        hashes: `(N, 256)` bool.
        reference: `(R, 256)` bool.
        limit: The number of bits that near copies may differ by.
        same: The two are the same images, and none is its own copy.

    Returns:
        `(N,)` int64, -1 where there is none; and `(N,)` float64, NaN there.

    Example:
        >>> hashes = torch.zeros(2, 256).bool()
        >>> hashes[1, :3] = True
        >>> [each.tolist() for each in nearest_hash(hashes, hashes, 20.0, same=True)]
        [[1, 0], [3.0, 3.0]]
    """
    index = torch.full((len(hashes),), -1, dtype=torch.int64)
    bits = torch.full((len(hashes),), torch.nan, dtype=torch.float64)
    signs, others = _signs(hashes), _signs(reference)
    step = max(1, _BLOCK // max(len(others), 1))
    for start in range(0, len(signs) if len(others) else 0, step):
        distances = _distances(signs[start : start + step], others)
        if same:
            own = torch.arange(len(distances))
            distances[own, own + start] = torch.inf
        least, place = distances.min(1)
        near = least <= limit
        index[start : start + step] = place.where(near, -1)
        bits[start : start + step] = least.double().where(near, torch.nan)
    return index, bits
