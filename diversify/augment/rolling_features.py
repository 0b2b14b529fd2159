"""Feature augmentation whose bank is built from the features that training itself computes, without extra forward passes."""

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

MOST_ROWS = 10_000  # images whose features are kept; nearest neighbours are searched among them in every epoch


class RollingFeatureAugmenter:
    """A `FeatureAugmenter` whose bank follows the backbone: it holds the most recent features of every training image.

    These are the features of augmented images in training mode. Images whose target was mixed with another class are left
    out (Remix keeps the target of some mixed images, which are then used). A new bank is taken at the start of every epoch
    in which the plan's schedule lets features be augmented. Without `embeddings` there is none in the first epoch, so its
    features are not augmented. If there are more than `most_rows` images, all images of small classes and an equal number
    from each large class are kept.

    In `fit` it is `Ingredients.augment_features`. In your own loop call `set_epoch(epoch, epochs)` before each epoch, and
    in every step `remember(features.detach(), targets, indices)` and then the augmenter itself.

    Args:
        plan: Which feature methods each class uses.
        labels: Classes of the training images, `(N,)`, in the order of the data set.
        seed: Seed of the choice of images, and of draws without a key.
        embeddings: Features to begin with; their `indices` are places in the data set.
        head: See `FeatureAugmenter`.
        most_rows: Largest number of images whose features are kept.

    Raises:
        InputError: a label is not a class of the plan, or the embeddings do not belong to these training images.

    Example:
        >>> import torch, diversify as dv
        >>> from diversify.augment import RollingFeatureAugmenter
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 10))
        >>> plan = dv.Plan.from_counts(list("abcd"), [200, 80, 30, 10])
        >>> augment = RollingFeatureAugmenter(plan, train.labels)
        >>> augment.remember(train.features, train.labels, train.indices)
        >>> augment.set_epoch(1)
        >>> features, targets = augment(train.features, train.labels)
        >>> bool((features != train.features).any())
        True
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
        self._place = torch.full((len(labels),), len(rows))  # the last row takes what is not kept
        self._place[rows] = torch.arange(len(rows))
        self._bank: Tensor | None = None
        self._seen = torch.zeros(len(rows) + 1, dtype=torch.bool)
        self._augmenter: FeatureAugmenter | None = None
        if embeddings is not None:
            known = embeddings.indices
            inside = embeddings.reading.indices_known and bool(((known >= 0) & (known < len(labels))).all())
            if not inside or not torch.equal(labels[known], embeddings.labels):
                law = "be of the training images, with their places in the data set as indices"
                raise must("embeddings", law, f"{len(embeddings)} rows of others")
            self.remember(embeddings.features, embeddings.labels, known)

    def remember(self, features: Tensor, targets: Tensor, indices: Tensor) -> None:
        """Keep the features of these training images.

        Args:
            features: `(N, D)`, without gradient.
            targets: `(N,)` or `(N, C)`; images whose target was mixed are left out.
            indices: Places of the images in the training set, `(N,)`.
        """
        device = features.device
        if self._bank is None:
            self._bank = features.new_zeros(len(self._seen), features.shape[1], dtype=torch.float32)
        self._bank, self._seen = self._bank.to(device), self._seen.to(device)
        self._place, self._labels = self._place.to(device), self._labels.to(device)
        indices = indices.to(device)
        places = torch.where(is_whole(targets, self._labels[indices]), self._place[indices], len(self._rows))
        # If an image comes several times, its last features are kept, regardless of the order in which the device writes.
        last = torch.zeros_like(self._seen, dtype=torch.int64)
        last = last.scatter_reduce(0, places, torch.arange(len(places), device=device), "amax")
        self._bank[places] = features[last[places]].float()
        self._seen[places] = True

    def set_epoch(self, epoch: int, epochs: int | None = None) -> None:
        """Take a new bank, if the plan augments features in this epoch and some features were seen.

        Args:
            epoch: The epoch, counted from 0.
            epochs: Epochs in all; if given, the plan's schedule acts.
        """
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
        """Return the augmented batch as `FeatureAugmenter` does; without a bank the batch itself."""
        return (features, targets) if self._augmenter is None else self._augmenter(features, targets, key)

    def adjust_logits(self, logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        """Return the logits for the loss, changed by "isda" as in `FeatureAugmenter.adjust_logits`."""
        return logits if self._augmenter is None else self._augmenter.adjust_logits(logits, targets, weight)

    def use(self, plan: Plan) -> None:
        """Follow another plan of the same classes.

        Raises:
            InputError: it has another number of classes.
        """
        if plan.num_classes != self.plan.num_classes:
            raise must("plan", f"have {self.plan.num_classes} classes, as the one before", plan.num_classes)
        if self._augmenter is not None:
            self._augmenter.use(plan)
        self.plan = plan

    def state_dict(self) -> dict[str, Any]:
        """Return the kept features as tensors; empty if none were seen."""
        return {} if self._bank is None else {"features": self._bank.clone(), "seen": self._seen.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the kept features; they are used from the next `set_epoch` on."""
        self._bank = state["features"].clone() if "features" in state else None
        self._seen = state["seen"].clone() if "seen" in state else torch.zeros(len(self._rows) + 1, dtype=torch.bool)

    def _logits(self, features: Tensor) -> Tensor:
        """Logits of the head; zeros without a head."""
        return (
            features.new_zeros(len(features), self.plan.num_classes)
            if self.head is None
            else self.head.logits(features)
        )


def _kept_rows(labels: Tensor, num_classes: int, most: int, seed: int) -> Tensor:
    """The images whose features are kept: all, or of every large class the same number, at least 1."""
    sizes = class_counts(labels, num_classes)
    low, high = 1, max(int(sizes.max()), 1)
    while low < high:  # search the largest number per class that keeps at most `most` rows
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(sizes.clamp(max=middle).sum()) <= most else (low, middle - 1)
    shuffled = draws.permutation(len(labels), "feature bank", seed)
    order = shuffled[labels[shuffled].argsort(stable=True)]
    place = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[labels[order]]
    return order[place < low].sort().values
