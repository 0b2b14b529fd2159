"""Formulas that make features of a class: tensors in, tensors out, the draws handed in.

`strength` is in [0, 1] throughout: 0 gives the row back and 1 is the full range. Draws are uniform in [0, 1) unless they
are called noise, which is standard normal. Numbers per row are `(N,)`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .neighbors import nearest_neighbors

STANDARD_DEVIATIONS = 3.0  # of covariance noise at strength 1
OWN_WEIGHT = 200  # images at which a class's own covariance counts as much as that of its donors
SHARPNESS = 10.0  # of the softmax over cosines that chooses donors
FACTORED = 256  # features up to which a covariance is factored
RESIDUALS = 32  # rows in a Gaussian combination above that
_CLASSES = 16  # covariances held at a time

# Partners


def enemies_among(neighbors: Tensor, labels: Tensor, reference_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row's neighbours, those with another label: `(Q, k)` moved to the front in order, and how many, `(Q,)`.

    `neighbors` `(Q, k)` are indices into `reference_labels`, `labels` `(Q,)` the rows' own. Rows that have some are the
    bases of EOS (Dablain, Bellinger, Krawczyk, Chawla, "Efficient augmentation for imbalanced deep learning", 2022).
    """
    enemy = reference_labels[neighbors] != labels[:, None]
    order = enemy.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    return neighbors.gather(1, order), enemy.sum(1)


def siblings(features: Tensor, labels: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest rows with the same label: `(Q, k)` indices and how many of them hold, `(Q,)`.

    Fewer than k hold where the class has no more rows; the places behind them are the row itself, as is everything for
    the only row of its class. Chawla et al., "SMOTE", 2002.
    """
    table = rows[:, None].repeat(1, k)
    count = torch.zeros_like(rows)
    for label in labels[rows].unique().tolist():
        members = (labels == label).nonzero().flatten()
        asked = (labels[rows] == label).nonzero().flatten()
        found = min(k, len(members) - 1)
        if found:
            own = torch.searchsorted(members, rows[asked])
            near = nearest_neighbors(features[rows[asked]], features[members], found, same=own)[1]
            table[asked, :found] = members[near]
            count[asked] = found
    return table, count


def eos_partners(features: Tensor, labels: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Each row's enemies among its k nearest neighbours over ALL rows: `(Q, k)` and how many, `(Q,)`.

    A row is none of its own neighbours. (The published script counts it as the nearest one when it looks up the
    partner, and none when it draws it, so that it takes the neighbour before the one it drew.)
    """
    k = min(k, len(features) - 1)
    if k < 1 or not len(rows):
        return rows[:, None], torch.zeros_like(rows)
    near = nearest_neighbors(features[rows], features, k, same=rows)[1]
    return enemies_among(near, labels[rows], labels)


def in_danger(enemy_count: Tensor, m: int) -> Tensor:
    """`(Q,)` bool: at least half, but not all, of the m nearest are enemies; Han et al., "Borderline-SMOTE", 2005."""
    return (2 * enemy_count >= m) & (enemy_count < m)


def pick(table: Tensor, count: Tensor, draw: Tensor) -> Tensor:
    """`(N,)`: one of the first `count` of each row of `table` `(N, k)`, uniformly; the first where there are none."""
    place = (draw.double() * count).long().clamp(max=table.shape[1] - 1)
    return table.gather(1, place[:, None])[:, 0]


def by_class(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """The rows class after class, `(N,)`, and for each class where its rows begin and how many there are, `(C,)`."""
    count = torch.bincount(labels, minlength=num_classes)
    return labels.argsort(stable=True), count.cumsum(0) - count, count


def row_of(classes: Tensor, grouped: tuple[Tensor, Tensor, Tensor], draw: Tensor) -> Tensor:
    """One row of each of the `classes`, uniformly, of the shape of `draw`; `grouped` is what `by_class` gives.

    A class without rows gives some row of another class.
    """
    order, start, count = grouped
    place = torch.minimum((draw.double() * count[classes]).long(), count[classes] - 1)
    return order[(start[classes] + place).clamp(0, len(order) - 1)]


def class_of(shares: Tensor, draw: Tensor) -> Tensor:
    """Which column of `shares` `(N, C)`, whose rows sum to 1, each draw `(N, ...)` falls on."""
    ends = shares.cumsum(1)
    ends = ends / ends[:, -1:]
    flat = draw.reshape(len(draw), -1).to(ends)
    return torch.searchsorted(ends, flat, right=True).clamp(max=shares.shape[1] - 1).reshape(draw.shape)


# Interpolation


def interpolate(base: Tensor, partner: Tensor, draw: Tensor, strength: Tensor | float) -> Tensor:
    """`base + strength * draw * (partner - base)`, `(N, D)`.

    With a neighbour of the class as partner it is SMOTE (Chawla et al. 2002), with one of another class EOS (Dablain et
    al. 2022), with any row manifold mixup (Verma et al. 2019); the classes of the labels are those of the caller.
    """
    step = (strength * draw).to(base.dtype)[:, None]
    return base + step * (partner - base)


def mix_labels(base: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """`(N, C)` float32: label distributions mixed, with `share` `(N,)` of the partner's."""
    weight = share.float()[:, None]
    return (1 - weight) * base.float() + weight * partner.float()


# Covariance transfer


def head_classes(counts: Tensor) -> Tensor:
    """`(C,)` bool: the classes that have at least as many rows as the classes that are present have on average."""
    return counts * (counts > 0).sum() >= counts.sum().clamp(min=1)


def similar_donors(means: Tensor, counts: Tensor) -> Tensor:
    """`(C, C)` float64, rows sum to 1: how much of each class's covariance is which class's.

    Its own with weight n / (n + 200), n its rows; the rest goes to the head classes by the softmax of 10 x the cosine
    between class means. A class that is absent, with a NaN mean, borrows from all of them alike. After Yang, Liu and Xu,
    "Free lunch for few-shot learning", 2021.
    """
    direction = torch.nn.functional.normalize(means.double().nan_to_num(0), dim=1)
    cosine = (SHARPNESS * direction @ direction.T).masked_fill(~head_classes(counts), -torch.inf)
    own = (counts / (counts + OWN_WEIGHT)).double()
    return (1 - own)[:, None] * cosine.softmax(1) + own.diag()


def pooled_donors(counts: Tensor) -> Tensor:
    """`(C, C)` float64, rows sum to 1: every class borrows from all head classes, by their rows.

    What is borrowed is then the covariance of all rows of the head classes about their class means. After Yin, Yu, Sohn,
    Liu and Chandraker, "Feature transfer learning for face recognition with under-represented data", 2019.
    """
    weight = torch.where(head_classes(counts), counts, 0).double()
    return (weight / weight.sum().clamp(min=1)).repeat(len(counts), 1)


def donor_covariance(features: Tensor, labels: Tensor, donors: Tensor, classes: Tensor) -> Tensor:
    """`(U, D, D)` float64: for each of `classes` `(U,)` the within-class covariances weighted by its row of `donors`."""
    size = features.shape[1]
    result = features.new_zeros((len(classes), size * size), dtype=torch.float64)
    for chunk in labels.unique().split(_CLASSES):
        within = []
        for label in chunk.tolist():
            rows = features[labels == label].double()
            rows = rows - rows.mean(0)
            within.append((rows.T @ rows / len(rows)).flatten())
        result.addmm_(donors[classes[:, None], chunk], torch.stack(within))
    return result.view(len(classes), size, size)


def factor(covariance: Tensor) -> Tensor:
    """`(U, D, D)` F with `F.T @ F` the covariance, so that `noise @ F` has it; any rank will do."""
    values, vectors = torch.linalg.eigh(covariance)
    rows: Tensor = values.clamp(min=0).sqrt()[..., None] * vectors.mT
    return rows


def donor_residuals(
    features: Tensor,
    means: Tensor,
    shares: Tensor,
    grouped: tuple[Tensor, Tensor, Tensor],
    draws: tuple[Tensor, Tensor],
) -> Tensor:
    """`(N, M, D)`: rows about their class means, their classes drawn by `shares` `(N, C)`, the rows uniformly.

    `means` is `(C, D)`, `grouped` what `by_class` gives, and the two draws, of the class and of the row, `(N, M)` each.
    """
    classes = class_of(shares, draws[0])
    return features[row_of(classes, grouped, draws[1])] - means[classes].to(features.dtype)


def add_noise(base: Tensor, noise: Tensor, strength: Tensor | float, lowest: Tensor | float = -torch.inf) -> Tensor:
    """`base + 3 * strength * noise`, no feature below `lowest` (0 where features are never negative), `(N, D)`.

    `noise` `(N, D)` has the covariance of the donors. After Liu et al., "Deep representation learning on long-tailed
    data: a learnable embedding augmentation perspective" (feature cloud), 2020.
    """
    scale = torch.as_tensor(STANDARD_DEVIATIONS * strength).to(base).reshape(-1, 1)
    return (base + scale * noise.to(base.dtype)).clamp(min=torch.as_tensor(lowest).to(base))


def factored_noise(noise: Tensor, factors: Tensor) -> Tensor:
    """`(N, D)`: noise `(N, D)` with the covariance that each row's factor `(N, D, D)` stands for."""
    coloured: Tensor = torch.einsum("nd,nde->ne", noise, factors)
    return coloured


def combined_noise(noise: Tensor, residuals: Tensor) -> Tensor:
    """`(N, D)`: rows about their class means, `residuals` `(N, M, D)`, weighted by noise `(N, M)` over sqrt(M).

    Has the covariance with which the residuals were drawn, without ever writing it down.
    """
    total: Tensor = torch.einsum("nm,nmd->nd", noise, residuals) / noise.shape[1] ** 0.5
    return total


# Magnitude matching


def shrink(base: Tensor, chosen: Tensor, draw: Tensor, strength: Tensor | float) -> Tensor:
    """`(N, D)`: the `chosen` `(N, D)` features times a factor drawn from (1 - strength, 1].

    One factor per row. Of our own making: held-out examples of a rare class have weaker top-K features than its training
    examples (Dablain et al. 2023, "Understanding CNN fragility when learning with imbalanced data").
    """
    smaller = (1 - strength * draw).to(base.dtype)[:, None] * base
    return torch.where(chosen, smaller, base)


# ISDA


def isda_logits(
    logits: Tensor, targets: Tensor, weight: Tensor, factors: Tensor, classes: Tensor, strength: Tensor
) -> Tensor:
    """`(N, C)`: to logit j of a row of class y comes `(strength / 2) (w_j - w_y)^T Sigma_y (w_j - w_y)`.

    Cross entropy on these is an upper bound of its mean over features with Gaussian noise of covariance `strength *
    Sigma_y`. Wang et al., "Implicit semantic data augmentation for deep networks" (ISDA), 2019, eq. 8.

    Args:
        logits: `(N, C)`.
        targets: Classes, `(N,)`.
        weight: The head's, `(C, D)`; gradients flow into it.
        factors: `(U, M, D)`: F with `F.T @ F` the covariance Sigma of the classes that have one.
        classes: Which these are, `(U,)`.
        strength: lambda per class, `(C,)`; 0 for the other classes.
    """
    added = logits.new_zeros(len(strength), logits.shape[1])  # (C, C)
    for place, one in enumerate(factors.to(weight)):
        owner = classes[place : place + 1]
        projected = weight @ one.mT  # (C, M)
        distance = (projected - projected[owner]).square().sum(1)
        added = added.index_copy(0, owner, (strength[owner] / 2 * distance)[None].to(logits.dtype))
    return logits + added[targets]
