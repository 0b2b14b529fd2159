"""The pixel arithmetic of the operations in `image_ops`, grouped into families that are computed together.

Images are `(R, C, H, W)` floating point, from 0 to `top`. What a family needs to know about its rows is prepared before
any pixel is read, for all layers at once. No value depends on the other rows or on the order in which torch adds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

PLACES = 4096  # a draw has 24 bits, 12 for each of two numbers
GREY = (0.299, 0.587, 0.114)  # Rec. 601 luma
_FINE = 65536  # means are sums of whole numbers, which do not depend on the order of adding


def place(draw: Tensor) -> tuple[Tensor, Tensor]:
    """Split one draw into two independent numbers in [0, 1), for a vertical and a horizontal position.

    Args:
        draw: Numbers in [0, 1) on a grid of 2^-24.

    Returns:
        Two tensors of the shape of `draw`, on a grid of 2^-12.

    Example:
        >>> [part.tolist() for part in place(torch.tensor([0.25, 0.5 + 2**-13]))]
        [[0.25, 0.5], [0.0, 0.5]]
    """
    first = (draw * PLACES).floor()
    return first / PLACES, draw * PLACES - first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of R rows, known before any pixel is read.

    Attributes:
        own: `(R, len(ORDER))`, 1 for the operation that the row gets and 0 elsewhere.
        amounts: Like `own`, with the signed amount in place of 1.
        draw: `(R,)` in [0, 1).
        frame: Height and width.

    Example:
        >>> own = torch.eye(len(ORDER))[[ORDER.index("rotate")]]
        >>> settings = Settings(own=own, amounts=30 * own, draw=torch.zeros(1), frame=(8, 8))
        >>> settings.of("rotate").tolist(), settings.among("zoom").tolist()
        ([30.0], [0.0])
    """

    own: Tensor
    amounts: Tensor
    draw: Tensor
    frame: tuple[int, int]

    def of(self, name: str) -> Tensor:
        """The signed amounts of an operation, `(R,)`; 0 for rows that get another one."""
        return self.amounts[:, ORDER.index(name)]

    def among(self, name: str) -> Tensor:
        """1 for the rows that get this operation and 0 for the others, `(R,)`."""
        return self.own[:, ORDER.index(name)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Operations that are computed together.

    Attributes:
        names: The operations.
        prepare: Makes tensors of R rows each from `Settings`.
        change: Changes the images: `change(images, top, *prepared)`. Results are neither rounded nor clipped; rows that
            belong to other families get numbers without a meaning.

    Example:
        >>> [family.names for family in FAMILIES if "invert" in family.names]
        [('solarize', 'invert')]
    """

    names: tuple[str, ...]
    prepare: Callable[[Settings], tuple[Tensor, ...]]
    change: Callable[..., Tensor]


def _by_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


# Families that move pixels


def _moves(settings: Settings) -> tuple[Tensor, ...]:
    """The row and the column that every pixel is copied from, `(R, H, 1)` and `(R, 1, W)`.

    For shifts by whole pixels and flips. Rows are counted in pixels. Behind the last row and the last column lies a
    black one.
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
    """The position that every pixel is read from, as a sum of `(R, 2, 1, W)` and `(R, 2, H, 1)`.

    For shears, rotations and zooms. Positions are (across, down) about the middle of the image.
    """
    height, width = settings.frame
    angle = settings.of("rotate").double().deg2rad()  # so that the last bit of a sine does not matter
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
    # Not torch.lerp: a fused operation rounds differently at different places in memory
    return (target - images).mul_(weight).add_(images)


def _mean(values: Tensor, top: float, dims: tuple[int, ...]) -> Tensor:
    fine = 1.0 if top == 255 else _FINE / top  # values up to 255 are whole numbers
    whole = (values * fine).round_() if fine != 1 else values
    size = math.prod(values.shape[dim] for dim in dims)
    return (whole.sum(dims, keepdim=True, dtype=torch.float64) / (fine * size)).to(values.dtype)


def _grey(images: Tensor) -> Tensor:
    """The lightness `(R, 1, H, W)`: Rec. 601 luma of three channels, else their mean."""
    if images.shape[1] != 3:
        return images if images.shape[1] == 1 else _mean(images, 1.0, (1,))
    red, green, blue = (images[:, channel : channel + 1] for channel in range(3))
    return red * GREY[0] + green * GREY[1] + blue * GREY[2]


def _tones(settings: Settings) -> tuple[Tensor, ...]:
    """The target of each blend and the weight of the step away from it.

    The target is given by the shares of the lightness and of its mean in it; it is black where both are 0.
    """
    weight = -(settings.of("brightness") + settings.of("contrast") + settings.of("saturation"))
    return tuple(_by_image(one) for one in (settings.among("saturation"), settings.among("contrast"), weight))


def _toned(images: Tensor, top: float, of_grey: Tensor, of_mean: Tensor, weight: Tensor) -> Tensor:
    """Blend images away from or toward black, their mean lightness, or their own lightness."""
    mean = _grey(_mean(images, top, (2, 3)))  # of the lightness
    target = (_grey(images) * of_grey).add_(mean * of_mean)
    return _toward(images, target, weight)


def _weights(settings: Settings) -> tuple[Tensor, ...]:
    """The weight of sharpening for each inner pixel, `(R, 1, P)`; it is 0 on the rim.

    P runs from the second pixel of the second row to the last pixel but one of the last row but one.
    """
    height, width = settings.frame
    column = torch.arange(width + 1, max(height * width - width - 1, width + 1), device=settings.draw.device) % width
    return (torch.where((column > 0) & (column < width - 1), -settings.of("sharpness")[:, None, None], 0),)


def _sharpened(images: Tensor, top: float, weight: Tensor) -> Tensor:
    """Move pixels away from the smoothed image, with weights 1 around 5 as in PIL; the rim stays."""
    made = images.clone()
    if min(images.shape[2:]) > 2:
        width = images.shape[3]
        line = images.flatten(2)  # sums over long lines are fast; those that wrap around the rim get weight 0
        across = (line[..., :-2] + line[..., 1:-1]).add_(line[..., 2:])
        smooth = (across[..., : -2 * width] + across[..., width:-width]).add_(across[..., 2 * width :])
        middle = line[..., width + 1 : -width - 1]
        smooth.add_(middle * 4).div_(13)
        made.flatten(2)[..., width + 1 : -width - 1] = _toward(middle, smooth, weight)
    return made


def _steps(settings: Settings) -> tuple[Tensor, ...]:
    """The size of a level after posterising, `(R, 1, 1, 1)`: 2 to the number of bits removed."""
    taken = settings.of("posterize").round().to(torch.int64)
    return (_by_image(torch.ones_like(taken).bitwise_left_shift(taken).to(settings.draw.dtype)),)


def _posterized(images: Tensor, top: float, step: Tensor) -> Tensor:
    # 7 / 255 x 255 is 6.9999995 in float32 and must count as 7
    fewer = (images * (255 / top)).div_(step).add_(1 / 1024).floor_().mul_(step).mul_(top / 255)
    return torch.where(step > 1, fewer, images)


def _thresholds(settings: Settings) -> tuple[Tensor, ...]:
    """The fraction of white from which values are inverted. For `invert` the draw decides: all values or none."""
    inverted = torch.where(settings.draw < settings.of("invert"), -2.0, 2.0)
    return (_by_image(torch.where(settings.among("solarize") > 0, 1 - settings.of("solarize"), inverted)),)


def _inverted(images: Tensor, top: float, threshold: Tensor) -> Tensor:
    return torch.where(images >= threshold * top, top - images, images)


def _stretches(settings: Settings) -> tuple[Tensor, ...]:
    return (_by_image(settings.of("autocontrast")),)


def _stretched(images: Tensor, top: float, weight: Tensor) -> Tensor:
    """Stretch each channel to go from black to white; a channel with one value stays."""
    low = images.amin((2, 3), keepdim=True)
    span = images.amax((2, 3), keepdim=True) - low
    varies = span > 0
    stretched = (images - low).mul_(torch.where(varies, top / span, 0))
    return _toward(images, stretched, weight * varies)


def _evens(settings: Settings) -> tuple[Tensor, ...]:
    return (_by_image(settings.of("equalize")),)


def _equalized(images: Tensor, top: float, weight: Tensor) -> Tensor:
    """Equalise each channel's histogram of 256 values, as in PIL."""
    codes = images.flatten(2)
    if top != 255:
        codes = (codes * (255 / top)).round_().clamp_(0, 255)
    codes = codes.to(torch.int64)
    counts = torch.zeros(*codes.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, codes, torch.ones_like(codes))
    step = (codes.shape[2] - counts.gather(2, codes.amax(2, keepdim=True))) // 255
    below = counts.cumsum(2).sub_(counts).add_(step // 2)
    # Floating-point division is several times faster, and exact for whole numbers below 2^53
    even = below.double().div_(step.clamp(min=1)).floor_().clamp_(max=255)
    made = (even.to(images.dtype) * (top / 255)).gather(2, codes).view(images.shape)
    return _toward(images, made, weight * (step > 0)[..., None])  # too few pixels for a step of 1: unchanged


def _squares(settings: Settings) -> tuple[Tensor, ...]:
    """1 inside a square and 0 outside, `(R, 1, H, W)`; the square of a higher strength covers that of a lower one."""
    size = settings.of("erase")[:, None]
    inside = []
    for where, side in zip(place(settings.draw), settings.frame, strict=True):
        line = torch.arange(side, device=size.device)
        long = (size * side).round()
        start = (where[:, None] * (side - long)).floor()
        inside.append((line >= start) & (line < start + long))
    return ((inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(size.dtype),)


def _erased(images: Tensor, top: float, square: Tensor) -> Tensor:
    """Fill the square with the mean of each channel."""
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
