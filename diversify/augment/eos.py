"""Expansive over-sampling (EOS) of training features, until all classes have equally many rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..functional import counts, draws, oversample
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead
from .known_neighbors import KnownNeighbors


def eos_parents(
    features: Tensor,
    labels: Tensor,
    wanted: Sequence[tuple[int, int]],
    k: int,
    seed: int,
    neighbors: KnownNeighbors | None = None,
) -> tuple[Tensor, dict[int, int]]:
    """Return the base and the partner of each new row.

    Bases are drawn from the rows that have an enemy, that is a row of another class, among their k nearest neighbours. If
    no row of a class has one, its partners are neighbours of the same class, as in SMOTE.

    Args:
        features: `(N, D)`.
        labels: `(N,)`.
        wanted: Pairs of a class and the number of its new rows.
        k: Number of nearest neighbours.
        seed: Seed of the draws.
        neighbors: The nearest rows that are known already.

    Returns:
        Rows of base and partner, `(M, 2)`, class after class; and for each class the number of neighbours that were used.

    References:
        Dablain et al. (2022), Efficient augmentation for imbalanced deep learning (EOS).
    """
    queried = torch.cat([torch.empty(0, dtype=torch.int64), *((labels == one).nonzero()[:, 0] for one, _ in wanted)])
    enemies, found = oversample.eos_partners(features, labels, queried, k, nearest=neighbors)
    pairs, used = [torch.empty(0, 2, dtype=torch.int64)], {}
    for index, number in wanted:
        bases = ((labels[queried] == index) & (found > 0)).nonzero().flatten()
        if len(bases):
            rows, table, count = queried[bases], enemies[bases], found[bases]
        else:
            rows = (labels == index).nonzero().flatten()
            table, count = oversample.siblings(features, labels, rows, k)
        used[index] = table.shape[1] if len(bases) else int(count.max())
        place = torch.arange(number)
        drawn = draws.integers(len(rows), "base", seed, index, place)
        partner = oversample.pick(table[drawn], count[drawn], draws.uniform("partner", seed, index, place))
        pairs.append(torch.stack([rows[drawn], partner], 1))
    return torch.cat(pairs), used


def balanced_by_eos(embeddings: Embeddings, head: LinearHead, *, k: int, seed: int) -> Embeddings:
    """Return the rows followed by those that EOS adds until every class that has rows is as large as the largest.

    Args:
        embeddings: Training embeddings.
        head: Gives the logits of all rows.
        k: Number of nearest neighbours.
        seed: Seed of the draws.
    """
    features, labels = embeddings.features, embeddings.labels
    rows = counts.class_counts(labels, embeddings.num_classes).tolist()
    wanted = [(c, max(rows) - count) for c, count in enumerate(rows) if 0 < count < max(rows)]
    parents, _ = eos_parents(features, labels, wanted, min(k, len(features) - 1), seed)
    step = draws.uniform("step", seed, torch.arange(len(parents)))
    made = oversample.interpolate(features[parents[:, 0]], features[parents[:, 1]], step, 1.0)
    grown, known = torch.cat([features, made]), torch.cat([labels, labels[parents[:, 0]]])
    return Embeddings(features=grown, labels=known, logits=head.logits(grown), indices=torch.arange(len(known)))
