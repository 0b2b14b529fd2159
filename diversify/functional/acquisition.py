"""Which rows of an unlabelled pool to label next: each method is a function that takes rows from the pool, one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from . import draws
from .blocks import joined_columns
from .neighbors import nearest_neighbors
from .pool import Pool, Taken

_CLUSTERS = 500  # most clusters of the pool
_CLUSTERED = 50_000  # most rows that the centres of clusters are fitted to; of larger pools they are drawn
_ROUNDS = 30  # of k-means
_BLOCK = 8192
_NEAREST = 20  # rows that typicality averages over
_MOST = 4000  # rows of a cluster whose typicality is compared, evenly spaced


Method = Callable[[Pool, Taken], None]


def _draw(weights: Tensor, *key: int | str) -> Tensor:
    """Scores whose order is a draw without replacement with these weights (Efraimidis and Spirakis 2006)."""
    chance = draws.uniform(*key, torch.arange(len(weights))).to(weights.device).double().clamp(min=2.0**-25)
    return weights.double().clamp(min=1e-30).log() - (-chance.log()).log()


def take_random(pool: Pool, taken: Taken) -> None:
    """Take rows at random; the score is the draw.

    Example:
        >>> from diversify.functional.acquisition import _example
        >>> _example(take_random)
        [4, 2]
    """
    taken.in_order(draws.uniform("label next random", pool.seed, torch.arange(len(pool.features))).double())


def take_margin(pool: Pool, taken: Taken) -> None:
    """Take the rows whose two most probable classes are closest; the score is 1 minus their difference.

    Example:
        >>> from diversify.functional.acquisition import _example
        >>> _example(take_margin)
        [2, 1]
    """
    taken.in_order(pool.doubt)


def take_entropy(pool: Pool, taken: Taken) -> None:
    """Take the rows with the largest entropy of the class probabilities, in nats.

    Example:
        >>> from diversify.functional.acquisition import _example
        >>> _example(take_entropy)
        [2, 1]
    """
    taken.in_order(torch.special.entr(pool.probabilities).sum(1))


def take_k_center(pool: Pool, taken: Taken) -> None:
    """Take, one after another, the row farthest from all training rows and rows taken; the score is that distance.

    References:
        Sener and Savarese (2018), Active learning for convolutional neural networks: a core-set approach.

    Example:
        >>> from diversify.functional.acquisition import _example
        >>> _example(take_k_center)
        [4, 2]
    """
    distance = nearest_neighbors(pool.features, pool.train, 1)[0][:, 0]
    while taken.wants:
        row = taken.best(distance)
        taken.add(row, float(distance[row]))
        distance = torch.minimum(distance, (pool.features - pool.features[row]).norm(dim=1))


def take_badge(pool: Pool, taken: Taken) -> None:
    """Take rows whose loss gradients are large and differ, by k-means++ on the gradients; the score is the distance drawn by.

    The gradient is that of the head's weights for the predicted class as the label.

    References:
        Ash et al. (2020), Deep batch active learning by diverse, uncertain gradient lower bounds.

    Example:
        >>> from diversify.functional.acquisition import _example
        >>> _example(take_badge)
        [4, 2]
    """
    predicted = torch.nn.functional.one_hot(pool.predicted, pool.num_classes)
    left, right = pool.probabilities.double() - predicted, pool.features  # of `(p - onehot) x`, the two factors
    squares = left.square().sum(1) * right.double().square().sum(1)
    nearest, row = squares, -1
    while taken.wants:
        free = taken.open
        if row < 0:
            row = taken.best(squares)
        else:
            weights = nearest * free
            if not float(weights.sum()) > 0:
                weights = free.double()
            total = weights.cumsum(0)
            at = draws.number("label next spread", pool.seed, len(taken.rows)) * float(total[-1])
            row = min(int(torch.searchsorted(total, at, right=True)), len(total) - 1)
            row = row if bool(free[row]) else taken.best(weights)
        taken.add(row, math.sqrt(max(float(nearest[row]), 0.0)))
        products = (left @ left[row]) * (right @ right[row]).double()
        distance = (squares + squares[row] - 2 * products).clamp(min=0)
        nearest = distance if len(taken.rows) == 1 else torch.minimum(nearest, distance)


def take_typical(pool: Pool, taken: Taken) -> None:
    """Take the most typical row of each cluster of the pool, first of clusters with few training rows, then of large ones.

    Typicality, the score, is 1 divided by the mean distance to the 20 nearest rows of the cluster.

    References:
        Hacohen, Dekel and Weinshall (2022), Active learning on a budget: opposite strategies suit high and low budgets.

    Example:
        >>> from diversify.functional.acquisition import _example
        >>> _example(take_typical)
        [4, 2]
    """
    count = min(taken.wanted + _NEAREST, _CLUSTERS, len(pool.features))
    centres = k_means(pool.features, torch.ones(len(pool.features)), count, seed=pool.seed)
    own, count = nearest_centre(pool.features, centres)[0], len(centres)
    known = torch.bincount(nearest_centre(pool.train, centres)[0], minlength=count)
    size = torch.bincount(own, minlength=count)
    members = own.argsort(stable=True).split(size.tolist())
    typicality = torch.zeros(len(own))
    for rows in members:
        typicality[rows] = _typicality(pool.features[rows])
    while taken.wants:
        for cluster in sorted(range(count), key=lambda k: (int(known[k]), -int(size[k]), k)):
            there = members[cluster][taken.open[members[cluster]]]
            if taken.wants and len(there):
                row = int(there[typicality[there].argmax()])
                taken.add(row, float(typicality[row]))
                known[cluster] += 1


def _typicality(rows: Tensor) -> Tensor:
    """1 over the mean distance to the nearest rows; 0 for rows that are not compared."""
    found = torch.zeros(len(rows))
    some = torch.linspace(0, len(rows) - 1, min(len(rows), _MOST)).round().long()
    if len(some) < 2:
        return found
    near = nearest_neighbors(rows[some], rows[some], min(_NEAREST, len(some) - 1), same=torch.arange(len(some)))[0]
    found[some] = 1 / near.mean(1).float().clamp(min=1e-12)
    return found


def take_coverage(pool: Pool, taken: Taken) -> None:
    """Take the rows that stand for the doubtful part of the pool: one from each cluster of rows weighted by their doubt.

    There are as many clusters as rows wanted. Of each, the row nearest to the weighted mean is taken; clusters with the largest
    weight, the score, come first.

    References:
        Zhdanov (2019), Diverse mini-batch active learning.

    Example:
        >>> from diversify.functional.acquisition import _example
        >>> _example(take_coverage)
        [2, 4]
    """
    weight = pool.doubt.double().clamp(min=1e-9) * taken.free
    centres = k_means(pool.features, weight, min(taken.wanted, int(taken.free.sum())), seed=pool.seed)
    own, distance = nearest_centre(pool.features, centres)
    mass = torch.zeros(len(centres), dtype=torch.float64).index_add_(0, own, weight)
    members = own.argsort(stable=True).split(torch.bincount(own, minlength=len(centres)).tolist())
    while taken.wants:
        for cluster in mass.argsort(descending=True, stable=True).tolist():
            there = members[cluster][taken.open[members[cluster]]]
            if taken.wants and len(there):
                taken.add(int(there[distance[there].argmin()]), float(mass[cluster]))


def k_means(rows: Tensor, weights: Tensor, count: int, *, seed: int) -> Tensor:
    """Return the centres of clusters of weighted rows: k-means++ starts, then at most 30 rounds of Lloyd's algorithm.

    Of more than 50,000 rows, as many are drawn by weight, and then count alike.

    Args:
        rows: `(N, D)`.
        weights: `(N,)`, not negative.
        count: Clusters; fewer are found where fewer rows differ.
        seed: Seed of the draws.

    Returns:
        `(K, D)` float32.

    Example:
        >>> rows = torch.tensor([[0.0], [1.0], [9.0], [10.0]])
        >>> k_means(rows, torch.tensor([1.0, 3.0, 1.0, 1.0]), 2, seed=0).sort(0).values.tolist()
        [[0.75], [9.5]]
    """
    rows, weights = rows.float(), weights.double()
    if len(rows) > _CLUSTERED:
        kept = _draw(weights, "label next rows", seed).topk(_CLUSTERED).indices.sort().values
        rows, weights = rows[kept], weights[kept].sign()
    nearest = torch.full((len(rows),), math.inf, dtype=torch.float64)
    centres: list[Tensor] = []
    for place in range(count):
        chance = (weights * nearest if centres else weights).cumsum(0)
        if not float(chance[-1]) > 0:
            break
        at = draws.number("label next start", seed, place) * float(chance[-1])
        row = min(int(torch.searchsorted(chance, at, right=True)), len(rows) - 1)
        centres.append(rows[row])
        nearest = torch.minimum(nearest, (rows - rows[row]).double().square().sum(1))
    found = torch.stack(centres) if centres else rows[:1]
    before: Tensor | None = None
    for _ in range(_ROUNDS):
        own = nearest_centre(rows, found)[0]
        if before is not None and torch.equal(own, before):
            break
        total = torch.zeros(len(found), dtype=torch.float64).index_add_(0, own, weights)
        sums = torch.zeros(*found.shape, dtype=torch.float64).index_add_(0, own, rows * weights[:, None])
        found = torch.where(total[:, None] > 0, sums / total.clamp(min=1e-300)[:, None], found.double()).float()
        before = own
    return found


def nearest_centre(rows: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest centre of each row `(N,)` int64, and the squared distance to it, up to rounding.

    Args:
        rows: `(N, D)`.
        centres: `(K, D)`.

    Example:
        >>> nearest_centre(torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0], [5.0], [2.0]]))[0].tolist()
        [0, 2]
    """
    middle = centres.mean(0)
    shifted = centres - middle
    length = shifted.square().sum(1)

    def nearest(part: Tensor) -> tuple[Tensor, Tensor]:
        block = part - middle
        least, own = torch.addmm(length[None], block, shifted.T, alpha=-2).min(1)
        return own, least + block.square().sum(1)

    own, distance = joined_columns(map(nearest, rows.float().split(_BLOCK)), len(rows))
    return own, distance


METHODS: Mapping[str, Method] = {
    "random": take_random,
    "margin": take_margin,
    "entropy": take_entropy,
    "k-center": take_k_center,
    "badge": take_badge,
    "typical": take_typical,
    "coverage": take_coverage,
}
"""The methods by name."""


def _example(method: Method) -> list[int]:
    """The two rows that a method takes from a pool of five, for its documentation."""
    pool = Pool(
        features=torch.tensor([[1.0, 0.0], [0.8, 0.3], [0.6, 0.5], [0.1, 0.9], [0.0, 2.0]]),
        probabilities=torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.52, 0.48], [0.2, 0.8], [0.3, 0.7]]),
        train=torch.tensor([[1.0, 0.1], [0.1, 1.0]]),
        labels=torch.tensor([0, 1]),
        seed=0,
    )
    taken = Taken(2, torch.ones(5, dtype=torch.bool))
    method(pool, taken)
    return taken.rows
