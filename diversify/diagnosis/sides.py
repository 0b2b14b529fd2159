"""The training side and the held-out side of a diagnosis, ready to be measured."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from ..functional import counts, draws
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead

QUERY_ROWS = 10_000  # neighbours, refitted heads and bootstraps use at most so many rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One split of N images.

    Attributes:
        raw: `(N, D)`, the features as the network gives them.
        features: `(N, D)`, the features that the head multiplies by its rows; a cosine head normalises them.
        labels: `(N,)`, the true classes.
        predictions: `(N,)`, the predicted classes.
        logits: `(N, C)`, of the head that is diagnosed.
        queries: The rows that the costly measures use, ascending.
        indices: `(N,)`, the images' indices in their data set.
        groups: `(N,)`, the group of each image; None if no groups are known.
    """

    raw: Tensor
    features: Tensor
    labels: Tensor
    predictions: Tensor
    logits: Tensor
    queries: Tensor
    indices: Tensor
    groups: Tensor | None = None

    @functools.cached_property
    def raw_means(self) -> Tensor:
        """`(C, D)`, the class means of `raw`; NaN for an absent class."""
        return counts.class_mean(self.raw, self.labels, self.logits.shape[1])

    @functools.cached_property
    def feature_means(self) -> Tensor:
        """`(C, D)`, the class means of `features`; NaN for an absent class."""
        if self.features is self.raw:
            return self.raw_means
        return counts.class_mean(self.features, self.labels, self.logits.shape[1])

    def groups_of(self, rows: Tensor) -> Tensor | None:
        """Return the groups of some rows; None if no groups are known."""
        return None if self.groups is None else self.groups[rows]


def make_side(embeddings: Embeddings, head: LinearHead, *, seed: int, name: str) -> Side:
    """Return the embeddings of one split as the head sees them; `name` is "train" or "heldout"."""
    features, _, _ = head.effective(embeddings.features)
    logits = embeddings.seen_by(head).logits  # stored logits may be those of another head, from before a repair
    return Side(
        raw=embeddings.features,
        features=features,
        labels=embeddings.labels,
        predictions=logits.argmax(1),
        logits=logits,
        queries=query_rows(embeddings.labels, head.num_classes, QUERY_ROWS, seed=seed, name=f"queries {name}"),
        indices=embeddings.indices,
        groups=embeddings.groups,
    )


def query_rows(labels: Tensor, num_classes: int, limit: int, *, seed: int, name: str) -> Tensor:
    """Return at most `limit` rows, ascending: all rows of small classes, equally many of each large class.

    Args:
        labels: `(N,)`, the classes.
        num_classes: Number of classes, C.
        limit: Most rows to return.
        seed: Seed of the draw among the rows of a large class.
        name: Name of the draw, part of its key.
    """
    if len(labels) <= limit:
        return torch.arange(len(labels), device=labels.device)
    sizes = counts.class_counts(labels, num_classes)
    ascending = sizes.sort().values
    left, cap = limit, 0
    for smaller, count in enumerate(ascending.tolist()):
        cap = left // (len(ascending) - smaller)
        if count > cap:
            break
        left -= count
    order = torch.argsort(draws.bits(name, seed, torch.arange(len(labels), device=labels.device)), stable=True)
    order = order[torch.argsort(labels[order], stable=True)]
    start = (sizes.cumsum(0) - sizes)[labels[order]]
    position = torch.arange(len(labels), device=labels.device) - start
    return order[position < cap].sort().values
