"""Formulas that make synthetic features: tensors in, tensors out; the caller passes the random draws.

`strength` lies in [0, 1] throughout: 0 returns the row and 1 is the full range. Draws are uniform in [0, 1), except
noise, which is standard normal. Numbers per row are `(N,)`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .neighbors import nearest_neighbors, nearest_others

STANDARD_DEVIATIONS = 3.0  # of covariance noise at strength 1
OWN_WEIGHT = 200  # images at which a class's own covariance counts as much as that of its donors
SHARPNESS = 10.0  # of the softmax over cosines that chooses donors
FACTORED = 256  # features up to which a covariance is factored
RESIDUALS = 32  # rows in a Gaussian combination above that
_CLASSES = 16  # covariances held at a time

# Partners


def enemies_among(neighbors: Tensor, labels: Tensor, reference_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Find, among each row's neighbours, those with another label ("enemies").

    Rows that have enemies are the bases of EOS.

    Args:
        neighbors: `(Q, k)` indices into `reference_labels`.
        labels: `(Q,)`, the rows' own labels.
        reference_labels: `(R,)`.

    Returns:
        `neighbors` with the enemies moved to the front, in order, `(Q, k)`; and the number of enemies, `(Q,)`.

    References:
        Dablain, Bellinger, Krawczyk and Chawla, "Efficient augmentation for imbalanced deep learning" (EOS), 2022.

    Example:
        >>> table, count = enemies_among(torch.tensor([[0, 1, 2]]), torch.tensor([0]), torch.tensor([0, 1, 1]))
        >>> table.tolist(), count.tolist()
        ([[1, 2, 0]], [2])
    """
    enemy = reference_labels[neighbors] != labels[:, None]
    order = enemy.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    return neighbors.gather(1, order), enemy.sum(1)


def siblings(features: Tensor, labels: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k nearest rows with the same label.

    Args:
        features: `(N, D)`.
        labels: `(N,)`.
        rows: `(Q,)`, the rows to look up.
        k: Neighbours per row.

    Returns:
        Indices `(Q, k)`, and how many of each row's indices are valid, `(Q,)`. If the class has fewer than k other
        rows, the remaining places hold the row itself.

    References:
        Chawla, Bowyer, Hall and Kegelmeyer, "SMOTE: synthetic minority over-sampling technique", 2002.

    Example:
        >>> features, labels = torch.tensor([[0.0], [1.0], [5.0], [0.5]]), torch.tensor([0, 0, 0, 1])
        >>> table, count = siblings(features, labels, torch.tensor([0, 3]), k=2)
        >>> table.tolist(), count.tolist()
        ([[1, 2], [3, 3]], [2, 0])
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


def eos_partners(
    features: Tensor,
    labels: Tensor,
    rows: Tensor,
    k: int,
    *,
    nearest: Callable[[Tensor, int], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Find each row's enemies among its k nearest neighbours over ALL rows.

    A row is not its own neighbour. (The published script counts the row as its own nearest neighbour when it looks up
    the partner, but not when it draws it, so it takes the neighbour before the one it drew.)

    Args:
        features: `(N, D)`.
        labels: `(N,)`.
        rows: `(Q,)`, the rows to look up.
        k: Neighbours per row; at most N - 1 are used.
        nearest: Returns the k nearest other rows of rows; None looks them up.

    Returns:
        Indices `(Q, k)` with the enemies first, and the number of enemies, `(Q,)`.

    References:
        Dablain, Bellinger, Krawczyk and Chawla 2022 (EOS).

    Example:
        >>> features, labels = torch.tensor([[0.0], [1.0], [5.0], [0.5]]), torch.tensor([0, 0, 0, 1])
        >>> table, count = eos_partners(features, labels, torch.tensor([0]), k=2)
        >>> table.tolist(), count.tolist()
        ([[3, 1]], [1])
    """
    k = min(k, len(features) - 1)
    if k < 1 or not len(rows):
        return rows[:, None], torch.zeros_like(rows)
    near = nearest_others(features, rows, k) if nearest is None else nearest(rows, k)
    return enemies_among(near, labels[rows], labels)


def in_danger(enemy_count: Tensor, m: int) -> Tensor:
    """Return the rows of which at least half, but not all, of the m nearest neighbours are enemies.

    Args:
        enemy_count: `(Q,)`.
        m: Neighbours that were looked at.

    Returns:
        `(Q,)` bool.

    References:
        Han, Wang and Mao, "Borderline-SMOTE: a new over-sampling method in imbalanced data sets learning", 2005.

    Example:
        >>> in_danger(torch.tensor([1, 3, 5]), m=5).tolist()
        [False, True, False]
    """
    return (2 * enemy_count >= m) & (enemy_count < m)


def pick(table: Tensor, count: Tensor, draw: Tensor) -> Tensor:
    """Choose one of the first `count` entries of each row of a table, uniformly; the first entry where `count` is 0.

    Args:
        table: `(N, k)`.
        count: `(N,)`.
        draw: `(N,)` in [0, 1).

    Returns:
        `(N,)`.

    Example:
        >>> pick(torch.tensor([[7, 8, 9], [4, 5, 6]]), torch.tensor([2, 3]), torch.tensor([0.6, 0.9])).tolist()
        [8, 6]
    """
    place = (draw.double() * count).long().clamp(max=table.shape[1] - 1)
    return table.gather(1, place[:, None])[:, 0]


def by_class(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Group rows by class.

    Args:
        labels: `(N,)`.
        num_classes: C.

    Returns:
        The rows class after class, `(N,)`; where each class begins in that list, `(C,)`; how many rows it has, `(C,)`.

    Example:
        >>> [part.tolist() for part in by_class(torch.tensor([1, 0, 1]), 2)]
        [[1, 0, 2], [0, 1], [1, 2]]
    """
    count = torch.bincount(labels, minlength=num_classes)
    return labels.argsort(stable=True), count.cumsum(0) - count, count


def row_of(classes: Tensor, grouped: tuple[Tensor, Tensor, Tensor], draw: Tensor) -> Tensor:
    """Choose one row of each of the given classes, uniformly.

    Args:
        classes: Classes that broadcast with `draw`.
        grouped: From `by_class`.
        draw: In [0, 1).

    Returns:
        Row indices of the shape of `draw`. A class without rows gets some row of another class.

    Example:
        >>> grouped = by_class(torch.tensor([1, 0, 1]), 2)
        >>> row_of(torch.tensor([1, 1]), grouped, torch.tensor([0.1, 0.9])).tolist()
        [0, 2]
    """
    order, start, count = grouped
    place = torch.minimum((draw.double() * count[classes]).long(), count[classes] - 1)
    return order[(start[classes] + place).clamp(0, len(order) - 1)]


def class_of(shares: Tensor, draw: Tensor) -> Tensor:
    """Choose classes with given probabilities, by the inverse of the cumulative distribution.

    Args:
        shares: `(N, C)`; rows sum to 1.
        draw: `(N, ...)` in [0, 1).

    Returns:
        Class indices of the shape of `draw`.

    Example:
        >>> class_of(torch.tensor([[0.5, 0.0, 0.5]]), torch.tensor([[0.2, 0.7]])).tolist()
        [[0, 2]]
    """
    ends = shares.cumsum(1)
    ends = ends / ends[:, -1:]
    flat = draw.reshape(len(draw), -1).to(ends)
    return torch.searchsorted(ends, flat, right=True).clamp(max=shares.shape[1] - 1).reshape(draw.shape)


# Interpolation


def interpolate(base: Tensor, partner: Tensor, draw: Tensor, strength: Tensor | float) -> Tensor:
    """Return `base + strength * draw * (partner - base)`.

    It is SMOTE if the partner is a neighbour of the same class, EOS if it is a neighbour of another class, and manifold
    mixup if it is any row. The caller decides what the labels are.

    Args:
        base: `(N, D)`.
        partner: `(N, D)`.
        draw: `(N,)` in [0, 1).
        strength: In [0, 1], one number or `(N,)`.

    Returns:
        `(N, D)`.

    References:
        Chawla et al. 2002 (SMOTE); Dablain et al. 2022 (EOS).
        Verma et al., "Manifold mixup: better representations by interpolating hidden states", 2019.

    Example:
        >>> interpolate(torch.zeros(1, 2), torch.tensor([[4.0, 8.0]]), torch.tensor([0.5]), strength=0.5).tolist()
        [[1.0, 2.0]]
    """
    step = (strength * draw).to(base.dtype)[:, None]
    return base + step * (partner - base)


def mix_labels(base: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Mix label distributions.

    Args:
        base: `(N, C)`.
        partner: `(N, C)`.
        share: `(N,)`, the partner's share.

    Returns:
        `(N, C)` float32.

    Example:
        >>> mix_labels(torch.tensor([[1, 0]]), torch.tensor([[0, 1]]), torch.tensor([0.25])).tolist()
        [[0.75, 0.25]]
    """
    weight = share.float()[:, None]
    return (1 - weight) * base.float() + weight * partner.float()


# Covariance transfer


def head_classes(counts: Tensor) -> Tensor:
    """Return the classes that have at least as many rows as the present classes have on average.

    Args:
        counts: `(C,)`.

    Returns:
        `(C,)` bool.

    Example:
        >>> head_classes(torch.tensor([100, 30, 10, 0])).tolist()
        [True, False, False, False]
    """
    return counts * (counts > 0).sum() >= counts.sum().clamp(min=1)


def similar_donors(means: Tensor, counts: Tensor) -> Tensor:
    """Return the weights with which classes borrow covariance from head classes that are similar to them.

    A class keeps its own covariance with weight n / (n + 200), n its rows. The rest goes to the head classes by the
    softmax of 10 times the cosine between class means. An absent class, with a NaN mean, borrows from all head classes
    equally.

    Args:
        means: `(C, D)`.
        counts: `(C,)`.

    Returns:
        `(C, C)` float64; rows are the borrowing classes and sum to 1.

    References:
        After Yang, Liu and Xu, "Free lunch for few-shot learning: distribution calibration", 2021.

    Example:
        >>> weights = similar_donors(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([600, 200]))
        >>> [[round(weight, 2) for weight in row] for row in weights.tolist()]
        [[1.0, 0.0], [0.5, 0.5]]
    """
    direction = torch.nn.functional.normalize(means.double().nan_to_num(0), dim=1)
    cosine = (SHARPNESS * direction @ direction.T).masked_fill(~head_classes(counts), -torch.inf)
    own = (counts / (counts + OWN_WEIGHT)).double()
    return (1 - own)[:, None] * cosine.softmax(1) + own.diag()


def pooled_donors(counts: Tensor) -> Tensor:
    """Return the weights with which every class borrows covariance from all head classes, in proportion to their rows.

    The borrowed covariance is that of all rows of the head classes about their class means.

    Args:
        counts: `(C,)`.

    Returns:
        `(C, C)` float64; rows are the borrowing classes and sum to 1.

    References:
        After Yin, Yu, Sohn, Liu and Chandraker, "Feature transfer learning for face recognition with under-represented
        data", 2019.

    Example:
        >>> pooled_donors(torch.tensor([300, 100, 2])).tolist()[2]
        [1.0, 0.0, 0.0]
    """
    weight = torch.where(head_classes(counts), counts, 0).double()
    return (weight / weight.sum().clamp(min=1)).repeat(len(counts), 1)


def donor_covariance(features: Tensor, labels: Tensor, donors: Tensor, classes: Tensor) -> Tensor:
    """Average the within-class covariances of the donors of each class.

    Args:
        features: `(N, D)`.
        labels: `(N,)`.
        donors: `(C, C)` weights, from `similar_donors` or `pooled_donors`.
        classes: `(U,)`, the classes to compute.

    Returns:
        `(U, D, D)` float64.

    Example:
        >>> features, labels = torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 1])
        >>> donor_covariance(features, labels, pooled_donors(torch.tensor([2, 1])), torch.tensor([1])).tolist()
        [[[1.0]]]
    """
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
    """Factor covariances of any rank into F with `F.T @ F` the covariance, so that `noise @ F` has that covariance.

    Args:
        covariance: `(U, D, D)`.

    Returns:
        `(U, D, D)`.

    Example:
        >>> covariance = torch.tensor([[[4.0, 0.0], [0.0, 0.0]]])
        >>> rows = factor(covariance)
        >>> torch.allclose(rows.mT @ rows, covariance)
        True
    """
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
    """Draw rows of donor classes and subtract their class means.

    Args:
        features: `(R, D)`.
        means: `(C, D)`.
        shares: `(N, C)`, the probability of each donor class.
        grouped: From `by_class`.
        draws: Two `(N, M)` tensors in [0, 1), for the class and for the row.

    Returns:
        `(N, M, D)`.

    Example:
        >>> features, means = torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([[1.0], [9.0]])
        >>> grouped, draw = by_class(torch.tensor([0, 0, 1]), 2), torch.tensor([[0.1, 0.9]])
        >>> donor_residuals(features, means, torch.tensor([[1.0, 0.0]]), grouped, (draw, draw)).tolist()
        [[[-1.0], [1.0]]]
    """
    classes = class_of(shares, draws[0])
    return features[row_of(classes, grouped, draws[1])] - means[classes].to(features.dtype)


def add_noise(base: Tensor, noise: Tensor, strength: Tensor | float, lowest: Tensor | float = -torch.inf) -> Tensor:
    """Return `base + 3 * strength * noise`, with no feature below `lowest`.

    Args:
        base: `(N, D)`.
        noise: `(N, D)` with the covariance of the donors.
        strength: In [0, 1], one number or `(N,)`.
        lowest: Lower bound of the features: 0 after a ReLU.

    Returns:
        `(N, D)`.

    References:
        After Liu et al., "Deep representation learning on long-tailed data: a learnable embedding augmentation
        perspective", 2020 (feature cloud).

    Example:
        >>> add_noise(torch.ones(1, 2), torch.tensor([[1.0, -1.0]]), strength=0.5, lowest=0.0).tolist()
        [[2.5, 0.0]]
    """
    scale = torch.as_tensor(STANDARD_DEVIATIONS * strength).to(base).reshape(-1, 1)
    return (base + scale * noise.to(base.dtype)).clamp(min=torch.as_tensor(lowest).to(base))


def factored_noise(noise: Tensor, factors: Tensor) -> Tensor:
    """Multiply each row of noise by the factor of its covariance.

    Args:
        noise: `(N, D)`.
        factors: `(N, D, D)` from `factor`.

    Returns:
        `(N, D)` with the covariance that the factor stands for.

    Example:
        >>> factored_noise(torch.tensor([[1.0, 1.0]]), torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])).tolist()
        [[2.0, 3.0]]
    """
    coloured: Tensor = torch.einsum("nd,nde->ne", noise, factors)
    return coloured


def combined_noise(noise: Tensor, residuals: Tensor) -> Tensor:
    """Combine residuals with random weights, divided by sqrt(M).

    The result has the covariance from which the residuals were drawn, without computing that covariance.

    Args:
        noise: `(N, M)` weights, standard normal.
        residuals: `(N, M, D)`, rows minus their class means.

    Returns:
        `(N, D)`.

    Example:
        >>> combined_noise(torch.ones(1, 4), torch.ones(1, 4, 2)).tolist()
        [[2.0, 2.0]]
    """
    total: Tensor = torch.einsum("nm,nmd->nd", noise, residuals) / noise.shape[1] ** 0.5
    return total


# Magnitude matching


def shrink(base: Tensor, chosen: Tensor, draw: Tensor, strength: Tensor | float) -> Tensor:
    """Multiply the chosen features of each row by one factor drawn from (1 - strength, 1].

    This is a method of this library. Its reason: held-out examples of a rare class have weaker top-K features than its
    training examples.

    Args:
        base: `(N, D)`.
        chosen: `(N, D)` bool.
        draw: `(N,)` in [0, 1).
        strength: In [0, 1], one number or `(N,)`.

    Returns:
        `(N, D)`.

    References:
        Dablain et al., "Understanding CNN fragility when learning with imbalanced data", 2023, for the observation.

    Example:
        >>> shrink(torch.ones(1, 2), torch.tensor([[True, False]]), torch.tensor([0.5]), strength=0.5).tolist()
        [[0.75, 1.0]]
    """
    smaller = (1 - strength * draw).to(base.dtype)[:, None] * base
    return torch.where(chosen, smaller, base)


# ISDA


def isda_logits(
    logits: Tensor, targets: Tensor, weight: Tensor, factors: Tensor, classes: Tensor, strength: Tensor
) -> Tensor:
    """Add `(strength / 2) (w_j - w_y)^T Sigma_y (w_j - w_y)` to logit j of every row of class y.

    Cross entropy on these logits is an upper bound of its mean over features with Gaussian noise of covariance
    `strength * Sigma_y`.

    Args:
        logits: `(N, C)`.
        targets: Classes, `(N,)`.
        weight: The head's, `(C, D)`; gradients flow into it.
        factors: `(U, M, D)`, F with `F.T @ F` the covariance Sigma of the classes that have one.
        classes: `(U,)`, these classes.
        strength: lambda per class, `(C,)`; 0 for the other classes.

    Returns:
        `(N, C)`.

    References:
        Wang et al., "Implicit semantic data augmentation for deep networks" (ISDA), 2019, equation 8.

    Example:
        >>> factors, strength = torch.eye(2)[None], torch.tensor([1.0, 0.0])
        >>> isda_logits(torch.zeros(1, 2), torch.tensor([0]), torch.eye(2), factors, torch.tensor([0]), strength).tolist()
        [[0.0, 1.0]]
    """
    added = logits.new_zeros(len(strength), logits.shape[1])  # (C, C)
    for place, one in enumerate(factors.to(weight)):
        owner = classes[place : place + 1]
        projected = weight @ one.mT  # (C, M)
        distance = (projected - projected[owner]).square().sum(1)
        added = added.index_copy(0, owner, (strength[owner] / 2 * distance)[None].to(logits.dtype))
    return logits + added[targets]
