"""Coverage: are held-out images of a class as near to its training images as these are to each other?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.special import ndtri

from .counts import class_counts
from .whitening import within_class_directions

_BLOCK = 1024  # rows whose distances are held at once
_HALVINGS = 60  # of the interval in which an end is looked for


def class_coverage(
    train: Tensor,
    train_labels: Tensor,
    heldout: Tensor,
    heldout_labels: Tensor,
    num_classes: int,
    *,
    train_groups: Tensor | None = None,
    heldout_groups: Tensor | None = None,
    space: tuple[Tensor, Tensor] | None = None,
    confidence: float = 0.95,
) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate how often a held-out row is nearer to the training rows of its class than a training row is to the others.

    Each held-out row has a distance to the nearest training row of its class, and each training row one to the nearest
    other training row. The coverage of the class is the share of pairs in which the held-out row's distance is the
    smaller one; ties count half. It is 0.5 where both are drawn from the same images, whatever the class: the class is
    compared with itself. It is lower where held-out images show what the training images do not, and higher where they
    repeat them.

    Distances are taken along `whitening.within_class_directions` of the training rows. All-zero rows are left out.

    Args:
        train: `(N, D)` features of training images.
        train_labels: `(N,)`.
        heldout: `(M, D)`.
        heldout_labels: `(M,)`.
        num_classes: C.
        train_groups: `(N,)`. With groups, a training row is compared with the rows of other groups only, and the
            interval counts groups instead of rows.
        heldout_groups: `(M,)`, the same for held-out rows.
        space: What `whitening.within_class_directions` returns for the training rows, where it is known.
        confidence: Of the interval.

    Returns:
        The coverage `(C,)` float64 and the ends of its interval (Newcombe's method 5 for the Mann-Whitney statistic); NaN
        for a class with fewer than two training rows, or groups, or without held-out rows.

    References:
        Mann and Whitney (1947), On a test of whether one of two random variables is stochastically larger than the other,
        Annals of Mathematical Statistics.
        Newcombe (2006), Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2,
        Statistics in Medicine.

    Example:
        >>> from diversify.functional import draws
        >>> rows = draws.normal("example", torch.arange(120)[:, None], torch.arange(2))
        >>> labels = torch.zeros(60, dtype=torch.int64)
        >>> same, _, _ = class_coverage(rows[:60], labels, rows[60:], labels, 1)
        >>> wider, _, high = class_coverage(rows[:60], labels, 4 * rows[60:], labels, 1)
        >>> round(float(same), 2), round(float(wider), 2), round(float(high), 2)
        (0.44, 0.1, 0.18)
    """
    coverage = torch.full((num_classes,), torch.nan, dtype=torch.float64)
    sizes = torch.zeros(2, num_classes, dtype=torch.float64)
    means, directions = within_class_directions(train, train_labels, num_classes) if space is None else space
    sides = []
    for features, labels, groups in ((train, train_labels, train_groups), (heldout, heldout_labels, heldout_groups)):
        rows = features.any(1).nonzero()[:, 0]  # a row of zeros says nothing
        placed = ((features[rows].double() - means[labels[rows]]) @ directions).cpu()
        sides.append((placed, labels[rows].cpu(), None if groups is None else groups[rows].cpu()))
    (seen, seen_labels, seen_groups), (unseen, unseen_labels, unseen_groups) = sides
    enough = (class_counts(seen_labels, num_classes) > 1) & (class_counts(unseen_labels, num_classes) > 0)
    for c in enough.nonzero()[:, 0].tolist():
        own, other = (seen_labels == c).nonzero()[:, 0], (unseen_labels == c).nonzero()[:, 0]
        group = None if seen_groups is None else seen_groups[own]
        among = _nearest(seen[own], seen[own], torch.arange(len(own)) if group is None else group)
        onto = _nearest(unseen[other], seen[own])
        among = among[among.isfinite()]  # infinite where all rows of the class are of one group
        if not len(among):
            continue
        order = among.sort().values
        below, up_to = (torch.searchsorted(order, onto, right=right).double() for right in (False, True))
        coverage[c] = 1 - ((below + up_to) / 2).mean() / len(order)
        sizes[0, c] = len(among) if group is None else len(group.unique())
        sizes[1, c] = len(other) if unseen_groups is None else len(unseen_groups[other].unique())
    low, high = mann_whitney_interval(coverage, sizes[0], sizes[1], confidence)
    return coverage, low, high


def _nearest(rows: Tensor, reference: Tensor, groups: Tensor | None = None) -> Tensor:
    """The distance of each row to the nearest reference row; with groups, of rows and reference alike, of another group."""
    found = rows.new_empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        distance = torch.cdist(rows[part], reference)
        if groups is not None:
            distance.masked_fill_(groups[part, None] == groups, torch.inf)
        found[part] = distance.amin(1)
    return found


def mann_whitney_interval(
    share: Tensor, first: Tensor, second: Tensor, confidence: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Return an interval for the probability that a value of one sample lies below a value of another.

    The ends are the probabilities that lie just so far from the share as their own standard error allows, after Hanley
    and McNeil with both sizes replaced by their mean: Newcombe's method 5. It is never empty, also at 0 and 1.

    Args:
        share: The share of pairs, any shape; NaN gives NaN.
        first: Size of one sample, of the same shape.
        second: Size of the other.
        confidence: Of the interval.

    References:
        Newcombe (2006), Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2,
        Statistics in Medicine.

    Example:
        >>> low, high = mann_whitney_interval(torch.tensor(0.0), torch.tensor(20), torch.tensor(5))
        >>> float(low), round(float(high), 2)
        (0.0, 0.24)
    """
    share, first, second = share.double(), first.double(), second.double()
    wide = float(ndtri(torch.tensor(0.5 + confidence / 2, dtype=torch.float64)))
    pairs = (first + second) / 2 - 1

    def allowed(value: Tensor) -> Tensor:
        spread = value * (1 - value) * (1 + pairs * ((1 - value) / (2 - value) + value / (1 + value)))
        return wide * (spread / (first * second)).clamp(min=0).sqrt()

    ends = []
    for edge in (0.0, 1.0):
        inside, outside = share.clone(), torch.full_like(share, edge)
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            near = (middle - share).abs() <= allowed(middle)
            inside, outside = torch.where(near, middle, inside), torch.where(near, outside, middle)
        ends.append(torch.where(share == edge, share, (inside + outside) / 2))
    return ends[0], ends[1]
