"""Batched image operations with a strength per sample: 0 is the identity, 1 the full range, and more is never less.

Every operation takes a strength and a draw, both in [0, 1], for each image; nothing here draws. What the draw decides is
said in `Range`. The ranges are those of AutoAugment and RandAugment (Cubuk et al. 2019, 2020), with erasing (DeVries and
Taylor 2017), crop and flip beside them. An image comes out the same in whatever batch it is.
"""

from __future__ import annotations

import dataclasses
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

# What is done together in one layer: whole pixels moved, pixels interpolated, values blended with a target.
_MOVED = ("translate_x", "translate_y", "crop", "flip")
_WARPED = ("shear_x", "shear_y", "rotate", "zoom")
_BLENDED = (*PHOTOMETRIC, "erase")
_ORDER = (*_MOVED, *_WARPED, *_BLENDED)
_PLACES = 4096  # a draw has 24 bits: 12 for each of two numbers
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
    """`(N, C, H, W)` every image after its own L operations, one layer after the other.

    It is `apply_operation` for every layer and operation in turn. Between layers uint8 images are rounded, half precision
    is not.

    Args:
        images: `(N, C, H, W)` uint8, or floating point in [0, 1].
        operation: `(N, L)` int64 places in `names`.
        strength: `(N, L)` in [0, 1]; an image whose strengths are all 0 comes back bit for bit.
        draw: `(N, L)` in [0, 1).
        names: Those of `OPERATIONS` that `operation` counts.
        by_rows: True computes every operation for its own images only, False for all images and takes its own: the same
            result, but only the latter never waits for the device. None chooses True on the CPU.

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
    top = 255.0 if images.dtype == torch.uint8 else 1.0
    work = torch.float64 if images.dtype == torch.float64 else torch.float32
    strength, draw = strength.to(work), draw.to(work)
    if images.device.type == "cpu" if by_rows is None else by_rows:
        rows = (strength > 0).any(1).nonzero().squeeze(1)
        varied = _by_rows(images[rows].to(work), operation[rows], strength[rows], draw[rows], names, top)
        return images.index_copy(0, rows, varied.to(images.dtype))
    varied = images.to(work)
    for layer in range(operation.shape[1]):
        acts = strength[:, layer] > 0
        masks: dict[str, Tensor] = {}
        for code, name in enumerate(names):
            mask = (operation[:, layer] == code) & acts
            masks[name] = masks[name] | mask if name in masks else mask
        varied = _layer(varied, strength[:, layer], draw[:, layer], _Masked(masks), top)
    return varied.to(images.dtype)


def _by_rows(
    images: Tensor, operation: Tensor, strength: Tensor, draw: Tensor, names: Sequence[str], top: float
) -> Tensor:
    """The images sorted by operation anew for every layer, and put back into their order at the end."""
    ranks = torch.tensor([_ORDER.index(name) for name in names], device=images.device)[operation]
    ranks = torch.where(strength > 0, ranks, len(_ORDER))
    held = torch.arange(len(images), device=images.device)  # which image is at this place
    for layer in range(operation.shape[1]):
        order = ranks[held, layer].argsort(stable=True)
        held, images = held[order], images[order]
        ends = ranks[:, layer].bincount(minlength=len(_ORDER)).cumsum(0).tolist()
        spans = {
            name: slice(start, end) for name, start, end in zip(_ORDER, [0, *ends], ends, strict=False) if end > start
        }
        images = _layer(images, strength[held, layer], draw[held, layer], _Sorted(spans), top)
    return torch.empty_like(images).index_copy_(0, held, images)


class _Parts(Protocol):
    """Which images of a batch an operation is for."""

    def among(self, names: Sequence[str]) -> tuple[str, ...]: ...
    def of(self, tensor: Tensor, names: Sequence[str]) -> Tensor: ...
    def put(self, tensor: Tensor, names: Sequence[str], values: Tensor) -> Tensor: ...


class _Sorted:
    """Images that lie sorted by operation: a part is a slice."""

    def __init__(self, spans: Mapping[str, slice]) -> None:
        self.spans = spans

    def among(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.spans)

    def of(self, tensor: Tensor, names: Sequence[str]) -> Tensor:
        return tensor[self.spans[names[0]].start : self.spans[names[-1]].stop]

    def put(self, tensor: Tensor, names: Sequence[str], values: Tensor) -> Tensor:
        self.of(tensor, names).copy_(values)
        return tensor


class _Masked:
    """Images in their own order: a part is computed for all of them, and taken where the mask says so."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = masks

    def among(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.masks)

    def of(self, tensor: Tensor, names: Sequence[str]) -> Tensor:
        return tensor

    def put(self, tensor: Tensor, names: Sequence[str], values: Tensor) -> Tensor:
        mask = self.masks[names[0]]
        for name in names[1:]:
            mask = mask | self.masks[name]
        return torch.where(mask.view(-1, *[1] * (tensor.ndim - 1)), values, tensor)


def _layer(images: Tensor, strength: Tensor, draw: Tensor, parts: _Parts, top: float) -> Tensor:
    for names, family in ((_MOVED, _moved), (_WARPED, _warped), (_BLENDED, _blended)):
        used = parts.among(names)
        if used:
            changed = family(images, strength, draw, parts, used, top)
            images = parts.put(images, used, changed.round() if top == 255.0 else changed)
    return images


def _moved(images: Tensor, strength: Tensor, draw: Tensor, parts: _Parts, names: tuple[str, ...], top: float) -> Tensor:
    """Whole pixels moved: translated, cropped, mirrored."""
    height, width = images.shape[2:]
    down, right = (torch.zeros(len(images), dtype=torch.int64, device=images.device) for _ in range(2))
    mirrored = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    for name in names:
        chance = parts.of(draw, (name,))
        size = amount(name, parts.of(strength, (name,)), chance)
        if name == "flip":
            mirrored = parts.put(mirrored, (name,), chance < size)
            continue
        vertical, horizontal = size, size
        if name == "crop":
            vertical, horizontal = ((2 * where - 1) * size for where in place(chance))
        if name != "translate_x":
            down = parts.put(down, (name,), (vertical * height).round().to(torch.int64))
        if name != "translate_y":
            right = parts.put(right, (name,), (horizontal * width).round().to(torch.int64))
    images, down, right = (parts.of(column, names) for column in (images, down, right))
    column = torch.arange(width, device=images.device)
    column = torch.where(parts.of(mirrored, names)[:, None], width - 1 - column, column - right[:, None])
    row = torch.arange(height, device=images.device) - down[:, None]
    inside = ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None, :]
    source = row.clamp(0, height - 1)[:, :, None] * width + column.clamp(0, width - 1)[:, None, :]
    source = source.view(len(images), 1, -1).expand(-1, images.shape[1], -1)
    found = images.flatten(2).gather(2, source).view(images.shape)
    return found.mul_(inside[:, None])


def _warped(
    images: Tensor, strength: Tensor, draw: Tensor, parts: _Parts, names: tuple[str, ...], top: float
) -> Tensor:
    """Sheared, turned and zoomed about the middle, bilinearly."""
    height, width = images.shape[2:]
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    from_x, from_y = [one.clone(), zero.clone()], [zero.clone(), one.clone()]  # where x, y come from, as rows of (x, y)
    for name in names:
        size = amount(name, parts.of(strength, (name,)), parts.of(draw, (name,)))
        if name == "shear_x":
            from_x[1] = parts.put(from_x[1], (name,), size)
        elif name == "shear_y":
            from_y[0] = parts.put(from_y[0], (name,), size)
        elif name == "zoom":
            from_x[0] = parts.put(from_x[0], (name,), 1 / (1 + size))
            from_y[1] = parts.put(from_y[1], (name,), 1 / (1 + size))
        else:
            # In float64, so that a last bit in a library's sine is none here
            angle = size.double().deg2rad()
            sine, cosine = angle.sin().to(size.dtype), angle.cos().to(size.dtype)
            from_x = [parts.put(from_x[0], (name,), cosine), parts.put(from_x[1], (name,), -sine)]
            from_y = [parts.put(from_y[0], (name,), sine), parts.put(from_y[1], (name,), cosine)]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    places = [
        (parts.of(of_x, names)[:, None, None] * x + parts.of(of_y, names)[:, None, None] * y) * (2 / side)
        for (of_x, of_y), side in ((from_x, width), (from_y, height))
    ]
    grid = torch.stack(places, dim=-1)
    return functional.grid_sample(parts.of(images, names), grid, padding_mode="zeros", align_corners=False)


def _blended(
    images: Tensor, strength: Tensor, draw: Tensor, parts: _Parts, names: tuple[str, ...], top: float
) -> Tensor:
    """Every value moved toward a target, or past itself away from it, by a weight for each image."""
    target, weight = torch.empty_like(images), torch.ones_like(strength)
    for name in names:
        chance = parts.of(draw, (name,))
        size = amount(name, parts.of(strength, (name,)), chance)
        one = (name,)
        target = parts.put(target, one, _TARGETS[name](parts.of(images, one), size, chance, top))
        if RANGES[name].draw == "sign":
            weight = parts.put(weight, one, -size)
        elif name in ("autocontrast", "equalize"):
            weight = parts.put(weight, one, size)
        elif name == "invert":
            weight = parts.put(weight, one, (chance < size).to(weight.dtype))
    images, target = parts.of(images, names), parts.of(target, names)
    # Apart, not in one call: fused, the last bit would depend on where in memory a value lies
    return ((target - images) * parts.of(weight, names).view(-1, 1, 1, 1) + images).clamp_(0, top)


def _mean(values: Tensor, top: float, dims: tuple[int, ...]) -> Tensor:
    whole = (values * (_FINE / top)).round().to(torch.int64)
    count = 1
    for dim in dims:
        count *= values.shape[dim]
    return whole.sum(dims, keepdim=True).to(values.dtype) * (top / _FINE / count)


def _grey(images: Tensor) -> Tensor:
    """`(N, 1, H, W)` lightness: Rec. 601 luma of three channels, else their mean."""
    if images.shape[1] != 3:
        return images if images.shape[1] == 1 else _mean(images, 1.0, (1,))
    red, green, blue = (images[:, channel : channel + 1] for channel in range(3))
    return red * 0.2989 + green * 0.587 + blue * 0.114


def _black(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    return torch.zeros((), dtype=images.dtype, device=images.device).expand_as(images)


def _mean_grey(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    return _mean(_grey(images), top, (1, 2, 3)).expand_as(images)


def _colourless(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    return _grey(images).expand_as(images)


def _smooth(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    """Weights 1 around 5, as in PIL; the rim stays."""
    smooth = images.clone()
    if min(images.shape[2:]) > 2:
        across = images[..., :-2] + images[..., 1:-1] + images[..., 2:]
        around = across[:, :, :-2] + across[:, :, 1:-1] + across[:, :, 2:]
        smooth[:, :, 1:-1, 1:-1] = (around + images[:, :, 1:-1, 1:-1] * 4) / 13
    return smooth


def _posterized(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    taken = size.round().to(torch.int64).view(-1, 1, 1, 1)
    step = torch.ones_like(taken).bitwise_left_shift(taken).to(images.dtype)
    # 7 / 255 x 255 is 6.9999995 in float32, and belongs to 7
    fewer = (images * (255 / top) / step + 1 / 1024).floor() * step * (top / 255)
    return torch.where(step > 1, fewer, images)


def _solarized(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    return torch.where(images >= ((1 - size) * top).view(-1, 1, 1, 1), top - images, images)


def _negative(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    return top - images


def _stretched(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    """Each channel from black to white; one of a single value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    varies = high > low
    return torch.where(varies, (images - low) * (top / torch.where(varies, high - low, top)), images)


def _equalized(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    """Each channel's histogram of 256 values made even, as in PIL."""
    codes = (images * (255 / top)).round().to(torch.int64).clamp_(0, 255).flatten(2)
    counts = torch.zeros(*codes.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, codes, torch.ones_like(codes))
    step = (codes.shape[2] - counts.gather(2, codes.amax(2, keepdim=True))) // 255
    below = counts.cumsum(2) - counts
    even = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    made = even.gather(2, codes).to(images.dtype).view(images.shape) * (top / 255)
    return torch.where(step[..., None] > 0, made, images)


def _erased(images: Tensor, size: Tensor, draw: Tensor, top: float) -> Tensor:
    """A square for the mean of each channel; at a higher strength it covers that of a lower one."""
    inside = []
    for where, side in zip(place(draw), images.shape[2:], strict=True):
        long = (size * side).round()[:, None]
        start = (where[:, None] * (side - long)).floor()
        line = torch.arange(side, device=images.device)
        inside.append((line >= start) & (line < start + long))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(square, _mean(images, top, (2, 3)), images)


_TARGETS: Mapping[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "brightness": _black,
    "contrast": _mean_grey,
    "saturation": _colourless,
    "sharpness": _smooth,
    "posterize": _posterized,
    "solarize": _solarized,
    "autocontrast": _stretched,
    "equalize": _equalized,
    "invert": _negative,
    "erase": _erased,
}
