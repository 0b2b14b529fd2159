"""The methods of a feature augmentation that training loops call."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class RemembersFeatures(Protocol):
    """An augmentation that builds its bank from the features that training computes, such as `RollingFeatureAugmenter`."""

    def remember(self, features: Tensor, targets: Tensor, indices: Tensor) -> None:
        """Keep the features of these training images; called in every step, before the augmentation itself.

        Args:
            features: As they left the backbone, of all processes, without gradient, `(N, D)`.
            targets: Classes `(N,)` or class probabilities `(N, C)`.
            indices: Places of the images in the training set, `(N,)`.
        """


@runtime_checkable
class AdjustsLogits(Protocol):
    """An augmentation that also changes the logits that the loss sees, such as ISDA in `FeatureAugmenter`."""

    def adjust_logits(self, logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        """Return the logits `(N, C)` for the loss.

        Args:
            logits: Of the augmented features, `(N, C)`.
            targets: Classes `(N,)` or class probabilities `(N, C)`.
            weight: Weight of the linear head, `(C, D)`.
        """
        ...
