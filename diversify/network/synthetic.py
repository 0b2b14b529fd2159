"""Make synthetic embeddings to try the library on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import must
from ..functional import counts as class_counts
from ..functional import draws
from .embeddings import Embeddings
from .linear_head import LinearHead


def make_embeddings(
    counts: Sequence[int] = (200, 80, 30, 10),
    *,
    heldout: int = 50,
    num_features: int = 16,
    spread: float = 0.6,
    shrink: float = 0.8,
    seed: int = 0,
) -> tuple[Embeddings, Embeddings, LinearHead]:
    """Return synthetic training and held-out embeddings of imbalanced classes, and a head that fits the training side.

    Features are non-negative, as after a ReLU, and lie around one centre per class. Held-out features are multiplied by
    `shrink`, so that the diagnosis finds a magnitude gap.

    Args:
        counts: Training images per class.
        heldout: Held-out images of every class.
        num_features: Features per image, D.
        spread: How far images lie from the centre of their class, at least 0.
        shrink: Factor on the held-out features, `0 < shrink <= 1`; 1 means no magnitude gap.
        seed: Seed of all draws.

    Returns:
        Training embeddings, held-out embeddings, and the head.

    Raises:
        InputError: There are fewer than 2 classes, a class has no images, or a number is out of its range.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 10))
        >>> train.features.shape, heldout.features.shape, head.weight.shape
        (torch.Size([320, 16]), torch.Size([200, 16]), torch.Size([4, 16]))
    """
    sizes = list(counts)
    if len(sizes) < 2:
        raise must("counts", "name at least 2 classes", len(sizes))
    for name, size in (("counts", min(sizes)), ("heldout", heldout), ("num_features", num_features)):
        if size < 1:
            raise must(name, "be at least 1", size)
    if spread < 0:
        raise must("spread", "be at least 0", spread)
    if not 0 < shrink <= 1:
        raise must("shrink", "lie in (0, 1]", shrink)
    num_classes = len(sizes)
    centres = draws.uniform("centre", seed, torch.arange(num_classes * num_features)).view(num_classes, num_features)

    def side(name: str, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
        labels = torch.repeat_interleave(torch.arange(num_classes), torch.tensor(list(sizes)))
        cells = torch.arange(len(labels) * num_features).view(-1, num_features)
        noise = torch.stack([draws.uniform(name, seed, turn, cells) for turn in range(6)]).sum(0) - 3
        return (centres[labels] + spread * noise).relu(), labels

    features, labels = side("train", sizes)
    unseen, unseen_labels = side("heldout", [heldout] * num_classes)
    means = class_counts.class_mean(features, labels, num_classes).float()
    weight = 4 * (means - means.mean(0))
    prior = (torch.tensor(sizes) / sum(sizes)).log()
    head = LinearHead(weight=weight, bias=prior - (weight * means).sum(1) / 2)

    def embed(features: Tensor, labels: Tensor) -> Embeddings:
        logits = head.logits(features)
        return Embeddings(features=features, labels=labels, logits=logits, indices=torch.arange(len(labels)))

    return embed(features, labels), embed(shrink * unseen, unseen_labels), head
