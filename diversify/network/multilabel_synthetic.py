"""Make synthetic embeddings of images with several labels, to try the library on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import must
from ..functional import draws
from .linear_head import LinearHead
from .multilabel import MultilabelEmbeddings


def make_multilabel_embeddings(
    prevalences: Sequence[float] = (0.5, 0.3, 0.15, 0.05),
    *,
    images: int = 600,
    heldout: int = 400,
    num_features: int = 16,
    spread: float = 0.8,
    shrink: float = 0.9,
    together: float = 0.8,
    seed: int = 0,
) -> tuple[MultilabelEmbeddings, MultilabelEmbeddings, LinearHead]:
    """Return synthetic training and held-out embeddings of images with several labels, and a sigmoid head fitted to them.

    An image's features are the sum of one centre for each of its labels, plus noise, and not negative. The last label
    mostly comes together with the first one in training, and independently of it in the held-out images.

    Args:
        prevalences: Share of the images that have each label.
        images: Training images.
        heldout: Held-out images.
        num_features: Features per image, D.
        spread: Size of the noise, at least 0.
        shrink: Factor on the held-out features, `0 < shrink <= 1`; 1 means no magnitude gap.
        together: Share of the training positives of the last label that also get the first, whatever their draw for it.
        seed: Seed of all draws.

    Returns:
        Training embeddings, held-out embeddings, and the head.

    Raises:
        InputError: There are fewer than 2 labels, or a number is out of its range.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_multilabel_embeddings((0.5, 0.1))
        >>> train.labels.shape, train.labels.sum(0).tolist()
        (torch.Size([600, 2]), [334, 48])
    """
    shares = torch.tensor(list(prevalences), dtype=torch.float64)
    if len(shares) < 2:
        raise must("prevalences", "name at least 2 labels", len(shares))
    if not bool(((shares > 0) & (shares < 1)).all()):
        raise must("prevalences", "lie in (0, 1)", list(prevalences))
    for name, size in (("images", images), ("heldout", heldout), ("num_features", num_features)):
        if size < 1:
            raise must(name, "be at least 1", size)
    if not 0 <= together <= 1:
        raise must("together", "lie in [0, 1]", together)
    if spread < 0:
        raise must("spread", "be at least 0", spread)
    if not 0 < shrink <= 1:
        raise must("shrink", "lie in (0, 1]", shrink)
    count = len(shares)
    centres = draws.uniform("label centre", seed, torch.arange(count * num_features)).view(count, num_features)

    def side(name: str, size: int, together: float) -> tuple[Tensor, Tensor]:
        cells = torch.arange(size * count).view(size, count)
        labels = draws.uniform(f"{name} label", seed, cells) < shares
        joined = draws.uniform(f"{name} together", seed, torch.arange(size)) < together
        labels[:, 0] |= labels[:, -1] & joined
        cells = torch.arange(size * num_features).view(size, num_features)
        noise = torch.stack([draws.uniform(name, seed, turn, cells) for turn in range(6)]).sum(0) - 3
        return (labels.float() @ centres + spread * noise).relu(), labels

    features, labels = side("multilabel train", images, together)
    unseen, unseen_labels = side("multilabel heldout", heldout, 0.0)
    head = _fitted(features, labels)

    def embed(features: Tensor, labels: Tensor) -> MultilabelEmbeddings:
        return MultilabelEmbeddings(
            features=features, labels=labels, logits=head.logits(features), indices=torch.arange(len(labels))
        )

    return embed(features, labels), embed(shrink * unseen, unseen_labels), head


def _fitted(features: Tensor, labels: Tensor) -> LinearHead:
    """A logistic regression of each label with a weak L2 penalty, by Newton's method."""
    rows = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    penalty = 0.5 * torch.eye(rows.shape[1], dtype=torch.float64)
    weights = torch.zeros(labels.shape[1], rows.shape[1], dtype=torch.float64)
    for c in range(labels.shape[1]):
        for _ in range(15):
            share = (rows @ weights[c]).sigmoid()
            gradient = rows.T @ (labels[:, c].double() - share) - penalty @ weights[c]
            curvature = rows.T @ (rows * (share * (1 - share))[:, None]) + penalty
            weights[c] += torch.linalg.solve(curvature, gradient)
    return LinearHead(weight=weights[:, :-1].float().contiguous(), bias=weights[:, -1].float().contiguous())
