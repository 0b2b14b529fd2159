"""Mix two images and their labels: CutMix, mixup and Remix, with a share for each image.

Nothing here draws: the caller passes the random numbers. Images are `(N, C, H, W)`, uint8 or floating point. Shares are
those of the first image, so a share of 1 leaves it unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor

KAPPA = 3.0  # Remix: smallest ratio of counts at which one of two classes counts as rarer
TAU = 0.5  # Remix: share of the commoner image below which the label is that of the rarer class alone


def cutmix_boxes(share: Tensor, vertical: Tensor, horizontal: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the boxes that CutMix replaces, and the share of each image that stays.

    A box has sides of sqrt(1 - share) times those of the image, about a centre drawn anywhere, and is clipped at the
    border. The share is then recomputed from the clipped box.

    Args:
        share: `(N,)` in [0, 1], drawn from Beta(1, 1); 1 gives an empty box.
        vertical: `(N,)` in [0, 1), position of the centre of the box.
        horizontal: `(N,)` in [0, 1), position of the centre of the box.
        height: Of the images, in pixels.
        width: Of the images, in pixels.

    Returns:
        `(N, 4)` int64 boxes (top, left, bottom, right), and the `(N,)` shares.

    References:
        Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable features", 2019,
        algorithm 1.

    Example:
        >>> middle = torch.tensor([0.5])
        >>> boxes, share = cutmix_boxes(torch.tensor([0.75]), middle, middle, height=8, width=8)
        >>> boxes.tolist(), share.tolist()
        ([[2, 2, 6, 6]], [0.75])
    """
    side = (1 - share).clamp(min=0).sqrt()
    edges = []
    for where, pixels in ((vertical, height), (horizontal, width)):
        half = (side * pixels).to(torch.int64) // 2
        middle = (where * pixels).to(torch.int64)
        edges.append(((middle - half).clamp(min=0), (middle + half).clamp(max=pixels)))
    (top, bottom), (left, right) = edges
    area = (bottom - top) * (right - left)
    return torch.stack((top, left, bottom, right), dim=1), 1 - area.to(share.dtype) / (height * width)


def cutmix(images: Tensor, partners: Tensor, boxes: Tensor) -> Tensor:
    """Paste each partner into the image inside its box; an empty box leaves the image unchanged.

    Args:
        images: `(N, C, H, W)`.
        partners: `(N, C, H, W)`.
        boxes: `(N, 4)` from `cutmix_boxes`.

    Returns:
        `(N, C, H, W)`.

    References:
        Yun et al. 2019.

    Example:
        >>> boxes = torch.tensor([[0, 1, 2, 2]])
        >>> cutmix(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2), boxes).tolist()
        [[[[0.0, 1.0], [0.0, 1.0]]]]
    """
    top, left, bottom, right = boxes.view(-1, 4, 1, 1).unbind(1)
    row = torch.arange(images.shape[2], device=images.device)[:, None]
    column = torch.arange(images.shape[3], device=images.device)
    inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
    return torch.where(inside[:, None], partners, images)


def mixup(images: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """Return `share * image + (1 - share) * partner`, rounded where images are uint8.

    Args:
        images: `(N, C, H, W)`.
        partners: `(N, C, H, W)`.
        share: `(N,)` in [0, 1]; 1 returns the image bit for bit.

    Returns:
        `(N, C, H, W)` in the dtype of `images`.

    References:
        Zhang et al., "mixup: beyond empirical risk minimization", 2018, equation 1.

    Example:
        >>> mixup(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.tensor([0.75])).item()
        0.25
    """
    work = torch.promote_types(images.dtype, torch.float32)
    part = share.to(work).view(-1, 1, 1, 1)
    mixed = images * part + partners * (1 - part)
    mixed = mixed.round() if images.dtype == torch.uint8 else mixed
    return torch.where(part < 1, mixed.to(images.dtype), images)


def remix_shares(
    share: Tensor, counts: Tensor, partner_counts: Tensor, kappa: float = KAPPA, tau: float = TAU
) -> Tensor:
    """Return the share of the first image's label, given the share of its pixels.

    If the class counts differ by a factor of `kappa` or more and the commoner class has less than `tau` of the pixels,
    the label is that of the rarer class alone. Otherwise it is the share of the pixels.

    Args:
        share: `(N,)`, share of the first image's pixels.
        counts: `(N,)`, training images of the first image's class.
        partner_counts: `(N,)`, training images of the partner's class.
        kappa: Smallest ratio of counts, at least 1.
        tau: Smallest share of pixels with which the commoner class keeps its part of the label.

    Returns:
        `(N,)` in [0, 1].

    References:
        Chou et al., "Remix: rebalanced mixup", 2020.

    Example:
        >>> share = torch.tensor([0.25, 0.25])
        >>> remix_shares(share, torch.tensor([90, 20]), torch.tensor([10, 20])).tolist()
        [0.0, 0.25]
    """
    to_partner = (counts >= kappa * partner_counts) & (share < tau)
    to_image = (partner_counts >= kappa * counts) & (1 - share < tau)
    return torch.where(to_partner, 0.0, torch.where(to_image, 1.0, share)).to(share.dtype)


def mix_targets(targets: Tensor, partners: Tensor, share: Tensor, num_classes: int) -> Tensor:
    """Return class probabilities: `share` for the class of the image and the rest for the class of the partner.

    Args:
        targets: `(N,)` classes.
        partners: `(N,)` classes.
        share: `(N,)` in [0, 1].
        num_classes: C.

    Returns:
        `(N, C)` float32.

    Example:
        >>> mix_targets(torch.tensor([0]), torch.tensor([2]), torch.tensor([0.75]), 3).tolist()
        [[0.75, 0.0, 0.25]]
    """
    made = torch.zeros(len(targets), num_classes, device=targets.device)
    share = share.to(made.dtype)[:, None]
    made.scatter_(1, targets[:, None], share)
    return made.scatter_add_(1, partners[:, None], 1 - share)
