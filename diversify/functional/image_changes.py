"""What the operations of `image_ops` do to pixels, family by family: what one tensor operation can do for several at once.

Images are `(R, C, H, W)` floating point, from 0 to `top`. What a family needs to know of its rows is prepared apart from
their pixels, for as many layers as there are. No value depends on the other rows or on the order in which torch adds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

_PLACES = 4096  # a draw has 24 bits: 12 for each of two numbers
_FINE = 65536  # means are sums of whole numbers, which no order of adding changes


def place(draw: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent numbers in [0, 1) out of one draw: for the vertical and for the horizontal place."""
    first = (draw * _PLACES).floor()
    return first / _PLACES, draw * _PLACES - first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is known of R rows before any pixel is looked at.

    Attributes:
        own: `(R, len(ORDER))` 1 where it is the row's own operation, and else 0.
        amounts: As `own`, with the signed amount for 1.
        draw: `(R,)`.
        frame: Height and width.
    """

    own: Tensor
    amounts: Tensor
    draw: Tensor
    frame: tuple[int, int]

    def of(self, name: str) -> Tensor:
        """`(R,)` the signed amounts of an operation."""
        return self.amounts[:, ORDER.index(name)]

    def among(self, name: str) -> Tensor:
        """`(R,)` whether it is the row's own."""
        return self.own[:, ORDER.index(name)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Operations that are done together.

    `prepare` gives tensors of R rows each, and `change` the images by them: `change(images, top, *prepared)`, neither
    rounded nor kept in range. Rows of other families give numbers without a meaning.
    """

    names: tuple[str, ...]
    prepare: Callable[[Settings], tuple[Tensor, ...]]
    change: Callable[..., Tensor]


def _by_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


# Families that move pixels


def _moves(settings: Settings) -> tuple[Tensor, ...]:
    """The row and the column that every pixel comes from, `(R, H, 1)` and `(R, 1, W)`: whole pixels moved and mirrored.

    Rows are counted in pixels. Behind the last of either is a black one.
    """
    height, width = settings.frame
    device = settings.draw.device
    cropped = [(2 * where - 1) * settings.of("crop") for where in place(settings.draw)]
    down = ((settings.of("translate_y") + cropped[0]) * height).round().to(torch.int64)[:, None]
    right = ((settings.of("translate_x") + cropped[1]) * width).round().to(torch.int64)[:, None]
    mirrored = (settings.draw < settings.of("flip"))[:, None]
    row = torch.arange(height, device=device) - down
    column = torch.arange(width, device=device)
    column = torch.where(mirrored, width - 1 - column, column - right)
    row = torch.where((row >= 0) & (row < height), row, height) * (width + 1)
    column = torch.where((column >= 0) & (column < width), column, width)
    return row[:, :, None], column[:, None, :]


def _moved(images: Tensor, top: float, row: Tensor, column: Tensor) -> Tensor:
    source = (row + column).flatten(1)[:, None, :].expand(-1, images.shape[1], -1)
    return functional.pad(images, (0, 1, 0, 1)).flatten(2).gather(2, source).view(images.shape)


def _warps(settings: Settings) -> tuple[Tensor, ...]:
    """The place that every pixel comes from, a sum of `(R, 2, 1, W)` and `(R, 2, H, 1)`: across and down, about the middle.

    Sheared, turned and zoomed.
    """
    height, width = settings.frame
    angle = settings.of("rotate").double().deg2rad()  # so that a last bit of some library's sine changes nothing
    sine, scale = angle.sin().to(settings.draw.dtype), angle.cos().to(settings.draw.dtype) / (1 + settings.of("zoom"))
    by_x = torch.stack([scale * (2 / width), (settings.of("shear_y") + sine) * (2 / height)], 1)
    by_y = torch.stack([(settings.of("shear_x") - sine) * (2 / width), scale * (2 / height)], 1)
    x = torch.arange(width, device=angle.device) - (width - 1) / 2
    y = torch.arange(height, device=angle.device) - (height - 1) / 2
    return by_x[:, :, None, None] * x, by_y[:, :, None, None] * y[:, None]


def _warped(images: Tensor, top: float, across: Tensor, down: Tensor) -> Tensor:
    grid = (across + down).permute(0, 2, 3, 1)
    return functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


# Families that change values


def _toward(images: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    # Apart, not in one call: fused, the last bit would depend on where in memory a value lies
    return (target - images).mul_(weight).add_(images)


def _mean(values: Tensor, top: float, dims: tuple[int, ...]) -> Tensor:
    whole = (values * (_FINE / top)).round_()
    size = math.prod(values.shape[dim] for dim in dims)
    return (whole.sum(dims, keepdim=True, dtype=torch.float64) * (top / _FINE / size)).to(values.dtype)


def _grey(images: Tensor) -> Tensor:
    """`(R, 1, H, W)` lightness: Rec. 601 luma of three channels, else their mean."""
    if images.shape[1] != 3:
        return images if images.shape[1] == 1 else _mean(images, 1.0, (1,))
    red, green, blue = (images[:, channel : channel + 1] for channel in range(3))
    return red * 0.299 + green * 0.587 + blue * 0.114


def _tones(settings: Settings) -> tuple[Tensor, ...]:
    """The shares of the lightness and of its mean in what images go away from, black without either; and how far."""
    weight = -(settings.of("brightness") + settings.of("contrast") + settings.of("saturation"))
    return tuple(_by_image(one) for one in (settings.among("saturation"), settings.among("contrast"), weight))


def _toned(images: Tensor, top: float, of_grey: Tensor, of_mean: Tensor, weight: Tensor) -> Tensor:
    grey = _grey(images)
    target = (grey * of_grey).add_(_mean(grey, top, (1, 2, 3)) * of_mean)
    return _toward(images, target, weight)


def _weights(settings: Settings) -> tuple[Tensor, ...]:
    """`(R, 1, P)`, 0 on the rim, for the pixels from the second of the second row to the last but one of the last but one."""
    height, width = settings.frame
    column = torch.arange(width + 1, max(height * width - width - 1, width + 1), device=settings.draw.device) % width
    return (torch.where((column > 0) & (column < width - 1), -settings.of("sharpness")[:, None, None], 0),)


def _sharpened(images: Tensor, top: float, weight: Tensor) -> Tensor:
    """Away from its smoothed self, with weights 1 around 5 as in PIL; the rim stays."""
    made = images.clone()
    if min(images.shape[2:]) > 2:
        width = images.shape[3]
        line = images.flatten(2)  # sums of long lines are quick; those that reach around the rim weigh nothing
        across = (line[..., :-2] + line[..., 1:-1]).add_(line[..., 2:])
        smooth = (across[..., : -2 * width] + across[..., width:-width]).add_(across[..., 2 * width :])
        middle = line[..., width + 1 : -width - 1]
        smooth.add_(middle * 4).div_(13)
        made.flatten(2)[..., width + 1 : -width - 1] = _toward(middle, smooth, weight)
    return made


def _steps(settings: Settings) -> tuple[Tensor, ...]:
    taken = settings.of("posterize").round().to(torch.int64)
    return (_by_image(torch.ones_like(taken).bitwise_left_shift(taken).to(settings.draw.dtype)),)


def _posterized(images: Tensor, top: float, step: Tensor) -> Tensor:
    # 7 / 255 x 255 is 6.9999995 in float32, and belongs to 7
    fewer = (images * (255 / top)).div_(step).add_(1 / 1024).floor_().mul_(step).mul_(top / 255)
    return torch.where(step > 1, fewer, images)


def _thresholds(settings: Settings) -> tuple[Tensor, ...]:
    """From which share of white on values are inverted: all or none where that is a chance."""
    inverted = torch.where(settings.draw < settings.of("invert"), -2.0, 2.0)
    return (_by_image(torch.where(settings.among("solarize") > 0, 1 - settings.of("solarize"), inverted)),)


def _inverted(images: Tensor, top: float, threshold: Tensor) -> Tensor:
    return torch.where(images >= threshold * top, top - images, images)


def _stretches(settings: Settings) -> tuple[Tensor, ...]:
    return (_by_image(settings.of("autocontrast")),)


def _stretched(images: Tensor, top: float, weight: Tensor) -> Tensor:
    """Each channel from black to white; one of a single value stays."""
    low = images.amin((2, 3), keepdim=True)
    span = images.amax((2, 3), keepdim=True) - low
    varies = span > 0
    stretched = (images - low).mul_(torch.where(varies, top / span, 0))
    return _toward(images, stretched, weight * varies)


def _evens(settings: Settings) -> tuple[Tensor, ...]:
    return (_by_image(settings.of("equalize")),)


def _equalized(images: Tensor, top: float, weight: Tensor) -> Tensor:
    """Each channel's histogram of 256 values made even, as in PIL."""
    codes = images.flatten(2)
    if top != 255:
        codes = (codes * (255 / top)).round_().clamp_(0, 255)
    codes = codes.to(torch.int64)
    counts = torch.zeros(*codes.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, codes, torch.ones_like(codes))
    step = (codes.shape[2] - counts.gather(2, codes.amax(2, keepdim=True))) // 255
    below = counts.cumsum(2).sub_(counts).add_(step // 2)
    # Floating point divides whole numbers several times faster, and below 2^53 as exactly
    even = below.double().div_(step.clamp(min=1)).floor_().clamp_(max=255)
    made = (even.to(images.dtype) * (top / 255)).gather(2, codes).view(images.shape)
    return _toward(images, made, weight * (step > 0)[..., None])  # too few values to be made even: as it is


def _squares(settings: Settings) -> tuple[Tensor, ...]:
    """`(R, 1, H, W)` 1 inside a square and 0 outside; at a higher strength it covers that of a lower one."""
    size = settings.of("erase")[:, None]
    inside = []
    for where, side in zip(place(settings.draw), settings.frame, strict=True):
        line = torch.arange(side, device=size.device)
        long = (size * side).round()
        start = (where[:, None] * (side - long)).floor()
        inside.append((line >= start) & (line < start + long))
    return ((inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(size.dtype),)


def _erased(images: Tensor, top: float, square: Tensor) -> Tensor:
    """The square for the mean of each channel."""
    return _toward(images, _mean(images, top, (2, 3)), square)


FAMILIES = (  # the first only moves pixels: image_ops relies on it
    Family(names=("translate_x", "translate_y", "crop", "flip"), prepare=_moves, change=_moved),
    Family(names=("shear_x", "shear_y", "rotate", "zoom"), prepare=_warps, change=_warped),
    Family(names=("brightness", "contrast", "saturation"), prepare=_tones, change=_toned),
    Family(names=("sharpness",), prepare=_weights, change=_sharpened),
    Family(names=("posterize",), prepare=_steps, change=_posterized),
    Family(names=("solarize", "invert"), prepare=_thresholds, change=_inverted),
    Family(names=("autocontrast",), prepare=_stretches, change=_stretched),
    Family(names=("equalize",), prepare=_evens, change=_equalized),
    Family(names=("erase",), prepare=_squares, change=_erased),
)
ORDER = tuple(name for family in FAMILIES for name in family.names)
