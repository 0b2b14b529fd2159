"""Two images into one, and their labels with them: CutMix, mixup and Remix, with a share of its own for each image.

Nothing here draws: the numbers that decide are handed in. Images are `(N, C, H, W)`, uint8 or floating point; shares are
those of the first image, so a share of 1 is the image as it was.
"""

from __future__ import annotations

import torch
from torch import Tensor

KAPPA = 3.0  # Remix: from which ratio of their counts on a class is the rarer of two
TAU = 0.5  # Remix: below which share of the commoner image the label is the rarer one's alone


def cutmix_boxes(share: Tensor, vertical: Tensor, horizontal: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """`(N, 4)` int64 boxes top, left, bottom, right, and `(N,)` the share of each image that they leave.

    A box has sides of sqrt(1 - share) of the image's about a middle drawn anywhere, and is clipped at the rim; the share
    is counted again from what is left of it (Yun et al. 2019, algorithm 1).

    Args:
        share: `(N,)` in [0, 1], drawn from Beta(1, 1); 1 gives an empty box.
        vertical: `(N,)` in [0, 1), where the middle of the box is.
        horizontal: The same.
        height: Of the images, in pixels.
        width: The same.
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
    """Images with what each partner shows inside its `(N, 4)` box; an empty box leaves the image as it is."""
    top, left, bottom, right = boxes.view(-1, 4, 1, 1).unbind(1)
    row = torch.arange(images.shape[2], device=images.device)[:, None]
    column = torch.arange(images.shape[3], device=images.device)
    inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
    return torch.where(inside[:, None], partners, images)


def mixup(images: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """`share` x image + (1 - `share`) x partner, rounded where images are uint8; `share` is `(N,)` in [0, 1].

    Zhang et al. 2018, equation 1. Where the share is 1 the image comes back bit for bit.
    """
    work = torch.promote_types(images.dtype, torch.float32)
    part = share.to(work).view(-1, 1, 1, 1)
    mixed = images * part + partners * (1 - part)
    mixed = mixed.round() if images.dtype == torch.uint8 else mixed
    return torch.where(part < 1, mixed.to(images.dtype), images)


def remix_shares(
    share: Tensor, counts: Tensor, partner_counts: Tensor, kappa: float = KAPPA, tau: float = TAU
) -> Tensor:
    """`(N,)` the share of the first image's label, given the `(N,)` share of its pixels.

    The label is the rarer class's alone where the counts differ by `kappa` at least and less than `tau` of the pixels
    are the commoner class's; else the share of the pixels (Chou et al. 2020).

    Args:
        share: `(N,)` the share of the first image's pixels.
        counts: `(N,)` training images of the first image's class.
        partner_counts: `(N,)` training images of the partner's class.
        kappa: The least ratio of counts, at least 1.
        tau: The least share that the commoner class's label needs to count at all.
    """
    to_partner = (counts >= kappa * partner_counts) & (share < tau)
    to_image = (partner_counts >= kappa * counts) & (1 - share < tau)
    return torch.where(to_partner, 0.0, torch.where(to_image, 1.0, share)).to(share.dtype)


def mix_targets(targets: Tensor, partners: Tensor, share: Tensor, num_classes: int) -> Tensor:
    """`(N, C)` float32 probabilities: `share` of the class `targets`, the rest of the class `partners`, both `(N,)`."""
    made = torch.zeros(len(targets), num_classes, device=targets.device)
    share = share.to(made.dtype)[:, None]
    made.scatter_(1, targets[:, None], share)
    return made.scatter_add_(1, partners[:, None], 1 - share)
