"""Batched image operations with a strength per sample: 0 is the identity, 1 the full range, and more is never less.

Every operation takes a strength and a draw, both in [0, 1], for each image; nothing here draws. What the draw decides is
said in `Range`. The ranges are those of AutoAugment and RandAugment (Cubuk et al. 2019, 2020), with erasing (DeVries and
Taylor 2017), crop and flip beside them. An image comes out the same in whatever batch it is.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import must, unknown


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """What strength 1 means: `full`, in `unit`, and strength s means s * full.

    `draw` says what the draw decides. "sign": below 0.5 the amount is taken negative. "place": where the crop or the square
    lies (`place` makes two numbers of the one). "chance": the operation acts fully where draw < amount, and else not at
    all, as half a flip is no flip and half a negative is plain grey. "nothing": it is not looked at.
    """

    unit: str
    full: float
    draw: str


RANGES: Mapping[str, Range] = {
    "shear_x": Range(unit="tangent of the angle", full=0.3, draw="sign"),
    "shear_y": Range(unit="tangent of the angle", full=0.3, draw="sign"),
    "translate_x": Range(unit="share of the width, in whole pixels", full=0.33, draw="sign"),
    "translate_y": Range(unit="share of the height, in whole pixels", full=0.33, draw="sign"),
    "rotate": Range(unit="degrees", full=30.0, draw="sign"),
    "zoom": Range(unit="factor minus 1", full=0.3, draw="sign"),
    "brightness": Range(unit="factor minus 1", full=0.9, draw="sign"),
    "contrast": Range(unit="factor minus 1", full=0.9, draw="sign"),
    "saturation": Range(unit="factor minus 1", full=0.9, draw="sign"),
    "sharpness": Range(unit="factor minus 1", full=0.9, draw="sign"),
    "posterize": Range(unit="bits taken of 8, rounded", full=4.0, draw="nothing"),
    "solarize": Range(unit="1 minus the threshold from which on values are inverted", full=1.0, draw="nothing"),
    "autocontrast": Range(unit="share of the result in a blend with the image", full=1.0, draw="nothing"),
    "equalize": Range(unit="share of the result in a blend with the image", full=1.0, draw="nothing"),
    "invert": Range(unit="chance", full=1.0, draw="chance"),
    "erase": Range(unit="share of each side, filled with the image's mean", full=0.5, draw="place"),
    "crop": Range(unit="largest shift as a share of each side, in whole pixels", full=0.125, draw="place"),
    "flip": Range(unit="chance", full=0.5, draw="chance"),
}
GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "zoom")
PHOTOMETRIC = (
    "brightness",
    "contrast",
    "saturation",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
    "invert",
)
OPERATIONS = (*GEOMETRIC, *PHOTOMETRIC, "erase", "crop", "flip")

# What one layer does together: whole pixels moved, places interpolated; what changes values goes one by one.
_MOVED = ("translate_x", "translate_y", "crop", "flip")
_WARPED = ("shear_x", "shear_y", "rotate", "zoom")
_VALUED = (*PHOTOMETRIC, "erase")
_ORDER = (*_MOVED, *_WARPED, *_VALUED)
_PLACES = 4096  # a draw has 24 bits: 12 for each of two numbers
_CHUNK = 256  # images sorted together: enough for each operation to have some, few enough to stay in the cache
_WAITS_FROM = 1024  # images on an accelerator that are sorted by operation
_FINE = 65536  # means are sums of whole numbers, which no order of adding changes


def amount(name: str, strength: Tensor, draw: Tensor) -> Tensor:
    """How far an operation goes, in the unit of its `Range`; negative by the draw where it is signed."""
    full = strength * RANGES[name].full
    return torch.where(draw < 0.5, -full, full) if RANGES[name].draw == "sign" else full


def place(draw: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent numbers in [0, 1) out of one draw: for the vertical and for the horizontal place."""
    first = (draw * _PLACES).floor()
    return first / _PLACES, draw * _PLACES - first


def apply_operation(name: str, images: Tensor, strength: Tensor, draw: Tensor) -> Tensor:
    """`(N, C, H, W)` every image after one operation, at its own strength and draw.

    Args:
        name: One of `OPERATIONS`.
        images: `(N, C, H, W)` uint8, or floating point in [0, 1]; any number of channels.
        strength: `(N,)` in [0, 1]; 0 gives the image back, bit for bit.
        draw: `(N,)` in [0, 1).

    Returns:
        New images of the same dtype and device. What comes in from outside the image is black.

    Raises:
        InputError: no such operation, or images of another form.
    """
    operation = torch.zeros(len(images), 1, dtype=torch.int64, device=images.device)
    return apply_policy(images, operation, strength[:, None], draw[:, None], (name,))


def apply_policy(
    images: Tensor,
    operation: Tensor,
    strength: Tensor,
    draw: Tensor,
    names: Sequence[str] = OPERATIONS,
    *,
    by_rows: bool | None = None,
) -> Tensor:
    """`(N, C, H, W)` every image after its own L operations, one layer after the other, as by `apply_operation`.

    Args:
        images: `(N, C, H, W)` uint8, or floating point in [0, 1].
        operation: `(N, L)` int64 places in `names`.
        strength: `(N, L)` in [0, 1]; an image whose strengths are all 0 comes back bit for bit.
        draw: `(N, L)` in [0, 1).
        names: Those of `OPERATIONS` that `operation` counts.
        by_rows: True computes every operation for its own images only, False for all images and takes its own: the same
            result, but only the latter never waits for the device. None chooses True on the CPU, and elsewhere for more
            than 1024 images, for which waiting costs less than computing what is not wanted.

    Raises:
        InputError: no such operation, or images of another form.
    """
    for name in names:
        if name not in RANGES:
            raise unknown("operation", name, OPERATIONS)
    if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise must("images", "be (N, C, H, W), uint8 or floating point", f"{images.dtype} {tuple(images.shape)}")
    if not images.numel() or not operation.shape[1]:
        return images.clone()
    images = images.contiguous()
    work = torch.float64 if images.dtype == torch.float64 else torch.float32
    kind = _table(tuple(names), images.device)[0][operation]
    kind = torch.where(strength > 0, kind, len(_ORDER))
    settings = _settings(kind, strength.to(work), draw.to(work), *images.shape[2:])
    on_cpu = images.device.type == "cpu"
    if (on_cpu or len(images) > _WAITS_FROM) if by_rows is None else by_rows:
        size = _CHUNK if on_cpu else len(images)
        parts = [slice(start, start + size) for start in range(0, len(images), size)]
        return torch.cat([_by_rows(images[rows], kind[rows], settings[rows]) for rows in parts])
    used = tuple(name for name in _ORDER if name in names)
    for layer in range(operation.shape[1]):
        masks = {name: kind[:, layer] == _ORDER.index(name) for name in used}
        images = _layer(images, settings[:, layer], _Masked(masks))
    return images


def _by_rows(images: Tensor, kind: Tensor, settings: Tensor) -> Tensor:
    """The images sorted by operation anew for every layer, and put back into their order at the end."""
    held = torch.arange(len(images), device=images.device)  # which image is at this place
    for layer in range(kind.shape[1]):
        order = kind[:, layer].index_select(0, held).argsort(stable=True)
        held, images = held.index_select(0, order), images.index_select(0, order)
        ends = kind[:, layer].bincount(minlength=len(_ORDER)).cumsum(0).tolist()
        spans = {
            name: slice(start, end) for name, start, end in zip(_ORDER, [0, *ends], ends, strict=False) if end > start
        }
        images = _layer(images, settings[:, layer].index_select(0, held), _Sorted(spans))
    return images.index_select(0, held.argsort())


class _Parts(Protocol):
    """Which images of a batch an operation is for."""

    def among(self, names: Sequence[str]) -> tuple[str, ...]: ...
    def within(self, names: Sequence[str]) -> _Parts: ...
    def of(self, tensor: Tensor, names: Sequence[str]) -> Tensor: ...
    def put(self, images: Tensor, names: Sequence[str], values: Tensor) -> Tensor: ...


class _Sorted:
    """Images that lie sorted by operation: a part is a slice."""

    def __init__(self, spans: Mapping[str, slice]) -> None:
        self.spans = spans

    def among(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.spans)

    def within(self, names: Sequence[str]) -> _Parts:
        """The parts of what `of` gives for these names."""
        first = self.spans[names[0]].start
        return _Sorted({name: slice(self.spans[name].start - first, self.spans[name].stop - first) for name in names})

    def of(self, tensor: Tensor, names: Sequence[str]) -> Tensor:
        return tensor[self.spans[names[0]].start : self.spans[names[-1]].stop]

    def put(self, images: Tensor, names: Sequence[str], values: Tensor) -> Tensor:
        self.of(images, names).copy_(values)
        return images


class _Masked:
    """Images in their own order: a part is computed for all of them, and taken where the mask says so."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = masks

    def among(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.masks)

    def within(self, names: Sequence[str]) -> _Parts:
        return self

    def of(self, tensor: Tensor, names: Sequence[str]) -> Tensor:
        return tensor

    def put(self, images: Tensor, names: Sequence[str], values: Tensor) -> Tensor:
        mask = functools.reduce(torch.bitwise_or, (self.masks[name] for name in names))
        return torch.where(mask.view(-1, 1, 1, 1), values.to(images.dtype), images)


@functools.cache
def _table(names: tuple[str, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of every name its place in `_ORDER`; and of every place there, and of none, the full range and whether it is signed."""
    ranges = [RANGES[name] for name in _ORDER]
    kind = torch.tensor([_ORDER.index(name) for name in names], device=device)
    full = torch.tensor([*(one.full for one in ranges), 0.0], dtype=torch.float64, device=device)
    return kind, full, torch.tensor([*(one.draw == "sign" for one in ranges), False], device=device)


def _settings(kind: Tensor, strength: Tensor, draw: Tensor, height: int, width: int) -> Tensor:
    """`(N, L, 9)` all that an operation needs to know: the amount, the draw; pixels down and to the right, whether mirrored;
    and the four numbers by which a place is found from where it goes.
    """
    _, full, signed = _table((), kind.device)
    size = strength * full.to(strength.dtype)[kind]
    size = torch.where(signed[kind] & (draw < 0.5), -size, size)

    def of(name: str) -> Tensor:
        return torch.where(kind == _ORDER.index(name), size, 0)

    vertical, horizontal = ((2 * where - 1) * of("crop") for where in place(draw))
    down = ((of("translate_y") + vertical) * height).round()
    right = ((of("translate_x") + horizontal) * width).round()
    mirrored = (draw < of("flip")).to(size.dtype)
    angle = of("rotate").double().deg2rad()  # in float64, so that a last bit of some library's sine changes nothing
    sine, scale = angle.sin().to(size.dtype), angle.cos().to(size.dtype) / (1 + of("zoom"))
    settings = (size, draw, down, right, mirrored, scale, of("shear_x") - sine, of("shear_y") + sine, scale)
    return torch.stack(settings, dim=-1)


def _layer(images: Tensor, settings: Tensor, parts: _Parts) -> Tensor:
    """The images after one operation each; `settings` is `(N, 9)`."""
    top = 255.0 if images.dtype == torch.uint8 else 1.0
    used = parts.among(_MOVED)
    if used:
        images = parts.put(images, used, _moved(parts.of(images, used), parts.of(settings, used)))
    used = parts.among(_WARPED)
    if used:
        found = _warped(parts.of(images, used).to(settings.dtype), parts.of(settings, used))
        images = parts.put(images, used, _storable(found, images.dtype))
    used = parts.among(_VALUED)
    if used:
        within, values = parts.within(used), parts.of(images, used).to(settings.dtype)
        size, draw = parts.of(settings, used)[:, :2, None, None, None].unbind(1)
        for one in used:
            change, name = _VALUE_CHANGES[one], (one,)
            made = change(within.of(values, name), within.of(size, name), within.of(draw, name), top)
            values = within.put(values, name, made)
        images = parts.put(images, used, _storable(values.clamp_(0, top), images.dtype))
    return images


def _storable(values: Tensor, dtype: torch.dtype) -> Tensor:
    # int16 on the way: torch takes float32 to uint8 several times slower than by way of it
    return values.round_().to(torch.int16) if dtype == torch.uint8 else values


def _moved(images: Tensor, settings: Tensor) -> Tensor:
    """Whole pixels moved and mirrored."""
    height, width = images.shape[2:]
    down, right, mirrored = settings[:, 2:5].to(torch.int64).unsqueeze(2).unbind(1)
    row = torch.arange(height, device=images.device) - down
    column = torch.arange(width, device=images.device)
    column = torch.where(mirrored > 0, width - 1 - column, column - right)
    black = height * width  # the place of the one black pixel behind each image
    row = torch.where((row >= 0) & (row < height), row * width, black)
    column = torch.where((column >= 0) & (column < width), column, black)
    source = (row[:, :, None] + column[:, None, :]).clamp_(max=black).view(len(images), 1, -1)
    found = functional.pad(images.flatten(2), (0, 1)).gather(2, source.expand(-1, images.shape[1], -1))
    return found.view(images.shape)


def _warped(images: Tensor, settings: Tensor) -> Tensor:
    """Sheared, turned and zoomed about the middle, bilinearly."""
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    grid = torch.empty(len(images), height, width, 2, dtype=images.dtype, device=images.device)
    for axis, side in enumerate((width, height)):
        by_x, by_y = (settings[:, 5 + 2 * axis : 7 + 2 * axis] * (2 / side)).view(-1, 2, 1, 1).unbind(1)
        torch.add(by_x * x, by_y * y, out=grid[..., axis])
    return functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def _toward(images: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    # Apart, not in one call: fused, the last bit would depend on where in memory a value lies
    return (target - images).mul_(weight).add_(images)


def _size(values: Tensor, dims: tuple[int, ...]) -> int:
    return math.prod(values.shape[dim] for dim in dims)


def _mean(values: Tensor, top: float, dims: tuple[int, ...]) -> Tensor:
    whole = (values * (_FINE / top)).round_()
    return (whole.sum(dims, keepdim=True, dtype=torch.float64) * (top / _FINE / _size(values, dims))).to(values.dtype)


def _grey(images: Tensor) -> Tensor:
    """`(N, 1, H, W)` lightness: Rec. 601 luma of three channels, else their mean."""
    if images.shape[1] != 3:
        return images if images.shape[1] == 1 else _mean(images, 1.0, (1,))
    red, green, blue = (images[:, channel : channel + 1] for channel in range(3))
    return red * 0.299 + green * 0.587 + blue * 0.114


def _bright(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    return images * (1 + size)


def _contrasted(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    return _toward(images, _mean(_grey(images), top, (1, 2, 3)), -size)


def _saturated(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    return _toward(images, _grey(images), -size)


def _sharpened(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    """Away from its smoothed self, with weights 1 around 5 as in PIL; the rim stays."""
    made = images.clone()
    if min(images.shape[2:]) > 2:
        across = images[..., :-2] + images[..., 1:-1] + images[..., 2:]
        middle = images[:, :, 1:-1, 1:-1]
        smooth = (across[:, :, :-2] + across[:, :, 1:-1] + across[:, :, 2:] + middle * 4) / 13
        made[:, :, 1:-1, 1:-1] = _toward(middle, smooth, -size)
    return made


def _posterized(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    taken = size.round().to(torch.int64)
    step = torch.ones_like(taken).bitwise_left_shift(taken).to(images.dtype)
    # 7 / 255 x 255 is 6.9999995 in float32, and belongs to 7
    fewer = (images * (255 / top) / step + 1 / 1024).floor_() * step * (top / 255)
    return torch.where(step > 1, fewer, images)


def _solarized(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    return torch.where(images >= (1 - size) * top, top - images, images)


def _stretched(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    """Each channel from black to white; one of a single value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    varies = high > low
    scale = torch.where(varies, top / torch.where(varies, high - low, top), 1)
    return _toward(images, (images - torch.where(varies, low, 0)).mul_(scale), size)


def _equalized(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    """Each channel's histogram of 256 values made even, as in PIL."""
    codes = (images * (255 / top)).round_().to(torch.int64).clamp_(0, 255).flatten(2)
    counts = torch.zeros(*codes.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, codes, torch.ones_like(codes))
    step = (codes.shape[2] - counts.gather(2, codes.amax(2, keepdim=True))) // 255
    below = counts.cumsum(2).sub_(counts)
    even = below.add_(step // 2).div_(step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    made = (even.to(images.dtype) * (top / 255)).gather(2, codes).view(images.shape)
    return _toward(images, made, size * (step > 0)[..., None])  # too few values to be made even: as it is


def _inverted(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    return torch.where(draw < size, top - images, images)


def _erased(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    """A square for the mean of each channel; at a higher strength it covers that of a lower one."""
    inside = []
    for dim, where in zip((2, 3), place(draw), strict=True):
        side = images.shape[dim]
        line = torch.arange(side, device=images.device).view(-1, *[1] * (3 - dim))
        long = (size * side).round()
        start = (where * (side - long)).floor()
        inside.append((line >= start) & (line < start + long))
    return _toward(images, _mean(images, top, (2, 3)), (inside[0] & inside[1]).to(images.dtype))


_VALUE_CHANGES: Mapping[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "brightness": _bright,
    "contrast": _contrasted,
    "saturation": _saturated,
    "sharpness": _sharpened,
    "posterize": _posterized,
    "solarize": _solarized,
    "autocontrast": _stretched,
    "equalize": _equalized,
    "invert": _inverted,
    "erase": _erased,
}
