"""The training side and the held-out side of a diagnosis, ready to be measured."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ..functional import counts, draws, metrics
from ..functional.whitening import within_class_directions
from ..network.embeddings import BLOCK_ROWS, Embeddings
from ..network.linear_head import LinearHead

_BLOCK = 1 << 23  # logits at a time: 32 MB
QUERY_ROWS = 10_000  # neighbours, refitted heads and bootstraps use at most so many rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One split of N images.

    Attributes:
        raw: `(N, D)`, the features as the network gives them.
        features: `(N, D)`, the features that the head multiplies by its rows; a cosine head normalises them.
        labels: `(N,)`, the true classes.
        predictions: `(N,)`, the predicted classes.
        num_classes: C.
        margins: `(N,)`, the logit of the true class less the largest other one; empty on the training side.
        confidence: `(N,)` float64, the largest probability of each row; empty on the training side.
        queries: The rows that the costly measures use, ascending.
        logits_of: Returns the logits `(n, C)` of some rows: stored, or computed anew.
        indices: `(N,)`, the images' indices in their data set.
        groups: `(N,)`, the group of each image; None if no groups are known.
    """

    raw: Tensor
    features: Tensor
    labels: Tensor
    predictions: Tensor
    num_classes: int
    margins: Tensor
    confidence: Tensor
    queries: Tensor
    logits_of: Callable[[Tensor], Tensor]
    indices: Tensor
    groups: Tensor | None = None

    @property
    def raw_means(self) -> Tensor:
        """`(C, D)`, the class means of `raw`; NaN for an absent class."""
        return self.moments[0]

    @functools.cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """The class means of `raw`, and the mean squared distances of its rows to them, in one pass; NaN for an absent class."""
        return counts.class_moments(self.raw, self.labels, self.num_classes)

    @functools.cached_property
    def space(self) -> tuple[Tensor, Tensor]:
        """The class means, and the directions of largest variance within the classes, of all rows."""
        return within_class_directions(self.raw, self.labels, self.num_classes, means=self.raw_means)

    @functools.cached_property
    def query_space(self) -> tuple[Tensor, Tensor]:
        """The same of the rows that the costly measures use."""
        if len(self.queries) == len(self.labels):
            return self.space
        return within_class_directions(self.raw[self.queries], self.labels[self.queries], self.num_classes)

    @functools.cached_property
    def feature_means(self) -> Tensor:
        """`(C, D)`, the class means of `features`; NaN for an absent class."""
        if self.features is self.raw:
            return self.raw_means
        return counts.class_mean(self.features, self.labels, self.num_classes)

    def groups_of(self, rows: Tensor) -> Tensor | None:
        """Return the groups of some rows; None if no groups are known."""
        return None if self.groups is None else self.groups[rows]


def make_side(embeddings: Embeddings, head: LinearHead, *, seed: int, name: str) -> Side:
    """Return the embeddings of one split as the head sees them; `name` is "train" or "heldout"."""
    features, _, _ = head.effective(embeddings.features)
    # stored logits may be those of another head, from before a repair: they are then computed where needed, and never all held
    stored = embeddings.logits if embeddings.agrees_with(head) else None
    predictions, margins, confidence = _of_logits(embeddings, head, stored, whole=name != "train")
    return Side(
        raw=embeddings.features,
        features=features,
        labels=embeddings.labels,
        predictions=predictions,
        num_classes=head.num_classes,
        margins=margins,
        confidence=confidence,
        queries=query_rows(embeddings.labels, head.num_classes, QUERY_ROWS, seed=seed, name=f"queries {name}"),
        logits_of=lambda rows: head.logits(embeddings.features[rows]) if stored is None else stored[rows],
        indices=embeddings.indices,
        groups=embeddings.groups,
    )


def _of_logits(
    embeddings: Embeddings, head: LinearHead, stored: Tensor | None, *, whole: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The predictions of a head, and if `whole` the margins and confidence; a block of rows at a time."""
    rows, features = len(embeddings), embeddings.features
    # Whole tensors that blocks are written into: a small tensor kept from each block would keep the memory of a block from reuse.
    predictions = torch.empty(rows, dtype=torch.int64, device=features.device)
    margins, confidence = (
        features.new_empty(rows if whole else 0, dtype=dtype) for dtype in (torch.float32, torch.float64)
    )
    size = max(1, min(BLOCK_ROWS, _BLOCK // head.num_classes))
    for start in range(0, rows, size):
        part = slice(start, start + size)
        logits = head.logits(features[part]) if stored is None else stored[part]
        predictions[part] = logits.argmax(1)
        if whole:
            margins[part] = metrics.margin(logits, embeddings.labels[part])
            confidence[part] = metrics.top_confidence(logits)[0]
    return predictions, margins, confidence


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
