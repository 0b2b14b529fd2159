"""Rows that the backbone was not trained on, mixed into the batches of the head step."""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import must
from ..functional import counts, draws
from ..network.embeddings import Embeddings, require_embeddings

SHARE = 0.5  # of a class's draws that come from unseen rows where it has many of them
FEW = 10  # unseen rows of a class at which that share is halved


def unseen_chances(rows: Tensor, share: float | Tensor) -> Tensor:
    """Return the share of each class's draws that comes from its unseen rows, `(C,)`.

    It is `share * rows / (rows + 10)`: 0 without rows, half of `share` with 10 rows, and nearly `share` with hundreds. A few
    rows say little about a class, and a head that sees them in every batch learns them by heart.

    Args:
        rows: Unseen rows per class, `(C,)`.
        share: The share with many rows, in [0, 1]; one number, or one for each class, `(C,)`.

    Example:
        >>> unseen_chances(torch.tensor([0, 10, 30]), 0.5).tolist()
        [0.0, 0.25, 0.375]
    """
    return share * rows / (rows + FEW)


class UnseenRows:
    """Replaces a share of the training rows of each step by unseen rows of the same classes.

    Classes are drawn as the plan says, whether or not they have unseen rows, so the drawn class prior stays that of the
    plan. A class without unseen rows keeps all its training rows.

    Args:
        unseen: The rows; on any device.
        share: Share of a class's draws that come from them where it has many.
        batch_size: Rows of a step.
        seed: Seed of the draws.
        device: Where batches are.

    Raises:
        InputError: The share is not in [0, 1].

    Example:
        >>> import diversify as dv
        >>> _, heldout, _ = dv.make_embeddings()
        >>> rows = UnseenRows(heldout, share=0.5, batch_size=8, seed=0, device=torch.device("cpu"))
        >>> classes = torch.zeros(1, 8, dtype=torch.int64)
        >>> features, targets, taken = rows.replace(torch.zeros(1, 8, 16), classes, classes, torch.tensor([0]))
        >>> int(taken.sum())
        4
    """

    def __init__(self, unseen: Embeddings, share: float, batch_size: int, seed: int, device: torch.device) -> None:
        require_share(share)
        labels = unseen.labels.to(device)
        self.features = unseen.features.to(device)
        self.rows = counts.class_counts(labels, unseen.num_classes)
        self.order, self.start = labels.argsort(stable=True), self.rows.cumsum(0) - self.rows
        self.chance = unseen_chances(self.rows, share)
        self.batch_size, self.seed = batch_size, seed

    def __bool__(self) -> bool:
        """Whether any row can be drawn."""
        return bool((self.chance > 0).any())

    def replace(
        self, features: Tensor, targets: Tensor, classes: Tensor, steps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the batches of several steps with a share of rows replaced, and which rows these are.

        Args:
            features: `(S, B, D)`.
            targets: `(S, B)` classes or `(S, B, C)` class probabilities.
            classes: The class that each row was drawn for, `(S, B)`.
            steps: The steps, `(S,)`.

        Returns:
            Features and targets of the same shapes, and `(S, B)` bool.
        """
        step, place = steps[:, None], torch.arange(self.batch_size, device=steps.device)
        taken = draws.uniform("head unseen", self.seed, step, place) < self.chance[classes]
        within = draws.integers(self.rows[classes].clamp(min=1), "head unseen row", self.seed, step, place)
        row = self.order[torch.where(taken, self.start[classes] + within, 0)]
        features = torch.where(taken[..., None], self.features[row], features)
        if targets.ndim == 3:
            own = functional.one_hot(classes, targets.shape[2]).to(targets)
            targets = torch.where(taken[..., None], own, targets)
        return features, targets, taken


def require_share(share: float) -> None:
    """Require a number in [0, 1].

    Raises:
        InputError: It is not one.

    Example:
        >>> require_share(0.5)
    """
    real = isinstance(share, numbers.Real) and not isinstance(share, bool)
    if not real or not (math.isfinite(share) and 0 <= share <= 1):
        raise must("unseen_share", "lie in [0, 1]", repr(share))


def require_unseen(unseen: Embeddings, embeddings: Embeddings) -> None:
    """Require unseen rows of the same classes and features as the training rows.

    Raises:
        InputError: They are not `Embeddings`, differ in size, have several labels per row, or are the training rows.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> require_unseen(heldout, train)
    """
    require_embeddings("unseen", unseen, "use dv.repair_multilabel")
    for what in ("features", "classes"):
        wanted, got = (getattr(side, f"num_{what}") for side in (embeddings, unseen))
        if wanted != got:
            raise must("unseen", f"have the embeddings' {wanted} {what}", got)
    if len(unseen) and unseen.features.shape == embeddings.features.shape:
        same = unseen.features.data_ptr() == embeddings.features.data_ptr()
        if same or torch.equal(unseen.features.cpu(), embeddings.features.cpu()):
            raise must("unseen", "be images that the backbone was not trained on", "the training rows themselves")
