"""Features augmented in the loop from a bank of those that the loop itself has seen: no pass over the images is added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import must
from ..functional import draws
from ..functional.counts import class_counts
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead
from ..plan.plan import Plan
from .draw_key import DrawKey, is_whole
from .features import FeatureAugmenter

MOST_ROWS = 10_000  # examples whose features are kept; neighbours are sought among them in every epoch


class RollingFeatureAugmenter:
    """A `FeatureAugmenter` whose bank keeps up with the backbone: the last features seen of every training image.

    They are those of the images as training sees them, augmented and in training mode; those of images whose label was
    mixed with another are left out (by the target: Remix keeps some labels whole). The bank is read anew at the beginning
    of every epoch in which the plan's schedule lets features be augmented; without `embeddings` it is empty in the first
    one, whose features stay as they are. Of more than `most_rows`
    images those of the small classes are kept first, and an even draw of the large ones.

    In `fit` it is the slot `augment_features`. In a loop of your own call, in this order, `set_epoch(epoch, epochs)`,
    and in every step `remember(features.detach(), targets, indices)` and then the augmentation itself.

    Args:
        labels: `(N,)` of the training images, in the order of the data set.
        embeddings: What to begin with; `indices` are places in the data set.
        head: For what needs one; see `FeatureAugmenter`.

    Raises:
        InputError: a label is of no class of the plan, or the embeddings are not of these training images.
    """

    def __init__(
        self,
        plan: Plan,
        labels: Tensor,
        *,
        seed: int = 0,
        embeddings: Embeddings | None = None,
        head: LinearHead | None = None,
        most_rows: int = MOST_ROWS,
    ) -> None:
        self.plan, self.seed, self.head = plan, seed, head
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < plan.num_classes:
            law = f"lie in [0, {plan.num_classes - 1}], the classes of the plan"
            raise must("labels", law, f"{int(labels.min())} to {int(labels.max())}")
        rows = _kept_rows(labels, plan.num_classes, most_rows, seed)
        self._labels, self._rows = labels, rows
        self._place = torch.full((len(labels),), len(rows))  # the last row is for what is not kept
        self._place[rows] = torch.arange(len(rows))
        self._bank: Tensor | None = None
        self._seen = torch.zeros(len(rows) + 1, dtype=torch.bool)
        self._augmenter: FeatureAugmenter | None = None
        if embeddings is not None:
            known = embeddings.indices
            inside = bool(((known >= 0) & (known < len(labels))).all())
            if not inside or not torch.equal(labels[known], embeddings.labels):
                law = "be of the training images, with their places in the data set as indices"
                raise must("embeddings", law, f"{len(embeddings)} rows of others")
            self.remember(embeddings.features, embeddings.labels, known)

    def remember(self, features: Tensor, targets: Tensor, indices: Tensor) -> None:
        """Keep the features `(N, D)` of these training images; targets `(N,)` or `(N, C)` say which were mixed."""
        device = features.device
        if self._bank is None:
            self._bank = features.new_zeros(len(self._seen), features.shape[1], dtype=torch.float32)
        self._bank, self._seen = self._bank.to(device), self._seen.to(device)
        self._place, self._labels = self._place.to(device), self._labels.to(device)
        indices = indices.to(device)
        places = torch.where(is_whole(targets, self._labels[indices]), self._place[indices], len(self._rows))
        # of an image that came several times the last one, whatever the order in which a device writes
        last = torch.zeros_like(self._seen, dtype=torch.int64)
        last = last.scatter_reduce(0, places, torch.arange(len(places), device=device), "amax")
        self._bank[places] = features[last[places]].float()
        self._seen[places] = True

    def set_epoch(self, epoch: int, epochs: int | None = None) -> None:
        """Read the bank, where the plan augments features in this epoch and some have been seen."""
        self._augmenter = None
        acts = epochs is None or self.plan.schedule.features_at(epoch, epochs) > 0
        if self._bank is None or not acts or not self.plan.feature_methods:
            return
        seen = self._seen[:-1].cpu()
        if not bool(seen.any()):
            return
        rows = self._rows[seen]
        features = self._bank[:-1].cpu()[seen]
        labels, logits = self._labels.cpu()[rows], self._logits(features)
        bank = Embeddings(features=features, labels=labels, logits=logits, indices=rows)
        self._augmenter = FeatureAugmenter(self.plan, bank, seed=self.seed, head=self.head).to(self._bank.device)
        self._augmenter.set_epoch(epoch, epochs)

    def __call__(self, features: Tensor, targets: Tensor, key: DrawKey | None = None) -> tuple[Tensor, Tensor]:
        """The batch as `FeatureAugmenter` gives it, once there is one."""
        return (features, targets) if self._augmenter is None else self._augmenter(features, targets, key)

    def adjust_logits(self, logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        """The logits that the loss is to see, for isda."""
        return logits if self._augmenter is None else self._augmenter.adjust_logits(logits, targets, weight)

    def use(self, plan: Plan) -> None:
        """Go on with another plan of the same classes.

        Raises:
            InputError: it has another number of classes.
        """
        if plan.num_classes != self.plan.num_classes:
            raise must("plan", f"have {self.plan.num_classes} classes, as the one before", plan.num_classes)
        if self._augmenter is not None:
            self._augmenter.use(plan)
        self.plan = plan

    def state_dict(self) -> dict[str, Any]:
        """The bank, as tensors; empty where nothing was seen."""
        return {} if self._bank is None else {"features": self._bank.clone(), "seen": self._seen.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put the bank back; it is read at the next `set_epoch`."""
        self._bank = state["features"].clone() if "features" in state else None
        self._seen = state["seen"].clone() if "seen" in state else torch.zeros(len(self._rows) + 1, dtype=torch.bool)

    def _logits(self, features: Tensor) -> Tensor:
        """Of the head that was given; zeros where there is none."""
        return (
            features.new_zeros(len(features), self.plan.num_classes)
            if self.head is None
            else self.head.logits(features)
        )


def _kept_rows(labels: Tensor, num_classes: int, most: int, seed: int) -> Tensor:
    """Which examples' features are kept: all, or the same number of every class that has more, at least 1."""
    sizes = class_counts(labels, num_classes)
    low, high = 1, max(int(sizes.max()), 1)
    while low < high:  # the largest number per class with which no more than `most` rows are kept
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(sizes.clamp(max=middle).sum()) <= most else (low, middle - 1)
    shuffled = draws.permutation(len(labels), "feature bank", seed)
    order = shuffled[labels[shuffled].argsort(stable=True)]
    place = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[labels[order]]
    return order[place < low].sort().values
