"""Image operations on batches, with a strength per image: 0 is the identity, 1 the full range, and more is never less.

Every operation takes a strength and a draw, both in [0, 1], for each image; nothing here draws. `Range` says what the
draw decides. The ranges are those of AutoAugment and RandAugment (Cubuk et al. 2019, 2020), together with erasing
(DeVries and Taylor 2017), crop and flip. The result for an image does not depend on the batch that it is in.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import must, unknown
from .image_changes import FAMILIES, ORDER, Settings

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """The meaning of strength 1 for one operation: strength s means `s * full`, in `unit`.

    Attributes:
        unit: What the amount measures.
        full: The amount at strength 1.
        draw: What the draw decides. "sign": below 0.5 the amount is negative. "place": the position of the crop or the
            square, see `place`. "chance": the operation acts fully where draw < amount, and not at all elsewhere,
            because half a flip is no flip and half a negative is plain grey. "nothing": the draw is not used.

    Example:
        >>> RANGES["rotate"].full, RANGES["rotate"].unit, RANGES["rotate"].draw
        (30.0, 'degrees', 'sign')
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

_CHUNK = 256  # images sorted together, enough for every operation to have some
_NUMBERS = 1 << 20  # numbers in all of them, so that they stay in the cache
_FEWEST = 16  # images sorted together even where they are large
_SORTED_FROM = 1024  # on an accelerator, larger batches are sorted, all images together
_LARGE = (
    64 * 64
)  # pixels from which on images of 8 bits are changed as bytes, one by one; `benchmarks.large_images` compares
_LARGEST = 1 << 24  # pixels that OpenCV counts exactly
_LONGEST = 1 << 14  # side up to which OpenCV warps


def amount(name: str, strength: Tensor, draw: Tensor) -> Tensor:
    """Return the amount of an operation in the unit of its `Range`; it may be negative where the draw decides the sign.

    Args:
        name: One of `OPERATIONS`.
        strength: `(N,)` in [0, 1].
        draw: `(N,)` in [0, 1).

    Returns:
        `(N,)`.

    Example:
        >>> amount("rotate", torch.tensor([0.5, 0.5]), torch.tensor([0.2, 0.7])).tolist()
        [-15.0, 15.0]
    """
    full = strength * RANGES[name].full
    return torch.where(draw < 0.5, -full, full) if RANGES[name].draw == "sign" else full


def apply_operation(name: str, images: Tensor, strength: Tensor, draw: Tensor) -> Tensor:
    """Apply one operation to every image, at its own strength and draw.

    Args:
        name: One of `OPERATIONS`.
        images: `(N, C, H, W)` uint8, or floating point in [0, 1]; any number of channels.
        strength: `(N,)` in [0, 1]; 0 returns the image bit for bit.
        draw: `(N,)` in [0, 1).

    Returns:
        New images `(N, C, H, W)` of the same dtype and device. Pixels that come from outside the image are black.

    Raises:
        InputError: There is no such operation, or images have another form.

    See Also:
        apply_policy: A different operation for every image, several in a row.

    Example:
        >>> image = torch.tensor([[[[0.25, 1.0]]]])
        >>> apply_operation("invert", image, torch.ones(1), torch.zeros(1)).flatten().tolist()
        [0.75, 0.0]
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
    """Apply L operations of its own to every image, one layer after the other, each as `apply_operation` does.

    Args:
        images: `(N, C, H, W)` uint8, or floating point in [0, 1].
        operation: `(N, L)` int64 positions in `names`.
        strength: `(N, L)` in [0, 1]; an image whose strengths are all 0 is returned bit for bit.
        draw: `(N, L)` in [0, 1).
        names: The operations, out of `OPERATIONS`, that `operation` refers to.
        by_rows: True computes every operation for its own images only. False computes it for all images and selects,
            with the same result, and never waits for the device. None means True on the CPU, and elsewhere for more
            than 1024 images, where waiting costs less than the unused results; but uint8 images of 1 or 3 channels and
            at least 64 x 64 pixels are changed as bytes on the CPU, several times faster (see `image_bytes`): the
            same but for values half-way between two levels, which a warp, saturation or sharpening may round to the other
            one, and for warps with OpenCV 4, which reads at places rounded to 1/32 of a pixel: at sharp edges they differ by
            some levels.

    Returns:
        New images `(N, C, H, W)` of the same dtype and device.

    Raises:
        InputError: There is no such operation, or images have another form.

    Example:
        >>> images = torch.tensor([0.25, 0.25]).view(2, 1, 1, 1)
        >>> operation, strength = torch.tensor([[0], [0]]), torch.tensor([[1.0], [0.0]])
        >>> apply_policy(images, operation, strength, torch.zeros(2, 1), ("invert",)).flatten().tolist()
        [0.75, 0.25]
    """
    for name in names:
        if name not in RANGES:
            raise unknown("operation", name, OPERATIONS)
    if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise must("images", "be (N, C, H, W), uint8 or floating point", f"{images.dtype} {tuple(images.shape)}")
    if not images.numel() or not operation.shape[1]:
        return images.clone()
    on_cpu = images.device.type == "cpu"
    exact = torch.float64 if images.dtype == torch.float64 else torch.float32
    columns = _columns(operation, strength, draw, names, images.device, exact)
    if by_rows is None and _by_bytes(images[0]):
        made = torch.empty_like(images, memory_format=torch.contiguous_format)
        _change_bytes(images.unbind(), columns, list(made.numpy()))
        return made
    if by_rows is None:
        by_rows = on_cpu or len(images) > _SORTED_FROM
    top = 255.0 if images.dtype == torch.uint8 else 1.0
    values = images.contiguous().to(exact)
    if not by_rows:
        return _by_masks(values, columns, top, images.dtype, names)
    count = min(_CHUNK, max(_FEWEST, _NUMBERS // values[0].numel())) if on_cpu else len(images)
    differentiated = torch.is_grad_enabled() and images.requires_grad
    with torch.inference_mode(not differentiated):  # recording for autograd takes a fourth of the time
        chunks = zip(*(one.split(count) for one in (values, *columns)), strict=True)
        parts = [_by_rows(chunk, its, top, images.dtype) for chunk, *its in chunks]
    return torch.cat(parts)


def apply_policies(
    images: Sequence[Tensor],
    operation: Tensor,
    strength: Tensor,
    draw: Tensor,
    names: Sequence[str] = OPERATIONS,
) -> list[Tensor]:
    """Apply L operations of its own to every image, as `apply_policy` does, to images of different sizes and types.

    Args:
        images: N images `(C, H, W)` or `(H, W)`, uint8, or floating point in [0, 1].
        operation: `(N, L)` int64 positions in `names`.
        strength: `(N, L)` in [0, 1].
        draw: `(N, L)` in [0, 1).
        names: The operations, out of `OPERATIONS`, that `operation` refers to.

    Returns:
        N new images, each of the shape and dtype of its own, in memory of their own.

    Raises:
        InputError: There is no such operation, or images have another form.

    Example:
        >>> images = [torch.tensor([[0.25]]), torch.tensor([[[0.5, 1.0]]])]
        >>> operation, strength = torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1)
        >>> [image.tolist() for image in apply_policies(images, operation, strength, torch.zeros(2, 1), ("invert",))]
        [[[0.75]], [[[0.5, 0.0]]]]
    """
    forms: dict[object, list[int]] = {}
    for row, image in enumerate(images):
        forms.setdefault((image.shape, image.dtype, image.device), []).append(row)
    made = list(images)
    for rows in forms.values():
        whole = [images[row] if images[row].ndim == 3 else images[row][None] for row in rows]
        settings = operation[rows], strength[rows], draw[rows]
        if _by_bytes(whole[0]):
            columns = _columns(*settings, names, whole[0].device, torch.float32)
            found = [torch.empty_like(image, memory_format=torch.contiguous_format) for image in whole]
            _change_bytes(whole, columns, [image.numpy() for image in found])
        else:
            found = [image.clone() for image in apply_policy(torch.stack(whole), *settings, names)]
        for row, image in zip(rows, found, strict=True):
            made[row] = image.view(images[row].shape)
    return made


def apply_steps(planes: Array, steps: Sequence[tuple[str, float, float]]) -> Array:
    """Apply operations to one large image of 8 bits, bit for bit as `apply_policy` does.

    Args:
        planes: `(C, H, W)` uint8, of a shape for which `is_large` is true; it is not written to.
        steps: (operation, strength in [0, 1], draw in [0, 1)) of each step.

    Returns:
        `(C, H, W)` uint8; `planes` itself where nothing is done.

    Example:
        >>> black = np.zeros((1, 64, 64), np.uint8)
        >>> int(apply_steps(black, [("invert", 1.0, 0.2)]).min())
        255
    """
    from .image_bytes import changed  # with OpenCV, which only large images need

    its: list[tuple[int, float, float]] = []
    for name, strength, draw in steps:
        if strength > 0:
            size = float(np.float32(strength) * np.float32(RANGES[name].full))
            down = RANGES[name].draw == "sign" and float(np.float32(draw)) < 0.5
            its.append((ORDER.index(name), -size if down else size, draw))
    return changed([planes], [its])[0]


def is_large(channels: int, height: int, width: int) -> bool:
    """True if uint8 images of this shape are changed as bytes on the CPU. The shape alone decides, never the clock.

    Example:
        >>> is_large(3, 224, 224), is_large(3, 32, 32)
        (True, False)
    """
    return channels in (1, 3) and _LARGE <= height * width <= _LARGEST and max(height, width) <= _LONGEST


def _columns(
    operation: Tensor, strength: Tensor, draw: Tensor, names: Sequence[str], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The position in `ORDER` of every operation, `len(ORDER)` for none; its signed amount; its draw. All `(N, L)`."""
    table = _table(tuple(names), device)
    kind = torch.where(strength > 0, table.places[operation], len(ORDER))
    draw = draw.to(dtype)
    size = strength.to(dtype) * table.full.to(dtype)[kind]
    return kind, torch.where(table.signed[kind] & (draw < 0.5), -size, size), draw


def _by_bytes(image: Tensor) -> bool:
    return image.device.type == "cpu" and image.dtype == torch.uint8 and is_large(*image.shape)


def _change_bytes(images: Sequence[Tensor], columns: Sequence[Tensor], into: Sequence[Array]) -> None:
    """Write the changed images into arrays of their shapes."""
    from .image_bytes import changed  # with OpenCV, which only large images need

    steps = [
        [step for step in zip(*its, strict=True) if step[0] < len(ORDER)]
        for its in zip(*(column.tolist() for column in columns), strict=True)
    ]
    planes = [image.detach().contiguous().numpy() for image in images]
    changed(planes, steps, torch.get_num_threads(), into)


def _by_rows(values: Tensor, columns: Sequence[Tensor], top: float, dtype: torch.dtype) -> Tensor:
    """The images sorted by family for every layer, changed family by family, and put back in order at the end."""
    family = _table((), values.device).family[columns[0].T]  # (L, N)
    layers, count = family.shape
    block = (family * layers + torch.arange(layers, device=values.device)[:, None]).flatten()
    sizes = block.bincount(minlength=(len(FAMILIES) + 1) * layers).view(-1, layers).tolist()
    known = _prepared(columns, block, sizes, values)
    order = family.argsort(dim=1, stable=True)
    lies = torch.empty_like(order).scatter_(1, order, torch.arange(count, device=order.device).expand_as(order))
    source = torch.cat([order[:1], lies[:-1].gather(1, order[1:])])  # its position in the layer before
    for layer in range(layers):
        parts = list(values.index_select(0, source[layer]).split([row[layer] for row in sizes]))
        for number, (one, its) in enumerate(zip(FAMILIES, known, strict=True)):
            if sizes[number][layer]:
                parts[number] = one.change(parts[number], top, *(part[layer] for part in its))
        values = torch.cat(parts)
        _hold(values[sizes[0][layer] : count - sizes[-1][layer]], top, dtype)  # moved pixels need no clipping
    return _stored(values, dtype).index_select(0, lies[-1])


def _prepared(
    columns: Sequence[Tensor], block: Tensor, sizes: list[list[int]], values: Tensor
) -> list[list[tuple[Tensor, ...]]]:
    """The prepared tensors of every family, each split into layers."""
    pairs = block.argsort(stable=True)  # of image and layer, family after family and layer after layer
    sides = [sum(row) for row in sizes]
    settings = _settings([one.T.reshape(-1).index_select(0, pairs) for one in columns], values)
    parts = zip(*(one.split(sides) for one in (settings.own, settings.amounts, settings.draw)), strict=True)
    found = []
    for row, one, (own, amounts, draw) in zip(sizes, FAMILIES, parts, strict=False):
        its = Settings(own=own, amounts=amounts, draw=draw, frame=settings.frame)
        found.append([part.split(row) for part in one.prepare(its)] if sum(row) else [])
    return found


def _settings(columns: Sequence[Tensor], values: Tensor) -> Settings:
    kind, size, draw = columns
    own = _table((), kind.device).own.index_select(0, kind).to(size.dtype)
    return Settings(own=own, amounts=own * size[:, None], draw=draw, frame=(values.shape[2], values.shape[3]))


def _by_masks(
    values: Tensor, columns: Sequence[Tensor], top: float, dtype: torch.dtype, names: Sequence[str]
) -> Tensor:
    """Every family computed for all images; each image takes the result of its own family."""
    used = [(number, one) for number, one in enumerate(FAMILIES) if set(one.names) & set(names)]
    for column in zip(*(one.unbind(1) for one in columns), strict=True):
        settings = _settings(column, values)
        family = _table((), values.device).family[column[0]].view(-1, 1, 1, 1)
        made = values
        for number, one in used:
            made = torch.where(family == number, one.change(values, top, *one.prepare(settings)), made)
        computed = (family > 0) & (family < len(FAMILIES))
        values = torch.where(computed, _hold(made.clone(), top, dtype), made)
    return _stored(values, dtype)


class _Table(NamedTuple):
    places: Tensor  # position in `ORDER` of every name
    family: Tensor  # number of the family of every position; the last entry, here and below, stands for no operation
    full: Tensor  # amount at strength 1 of every position
    signed: Tensor  # True where the draw gives the amount its sign
    own: Tensor  # one-hot rows: 1 in the column of the position


@functools.cache
@torch.inference_mode(False)
def _table(names: tuple[str, ...], device: torch.device) -> _Table:
    ranges = [RANGES[name] for name in ORDER]
    families = [number for number, family in enumerate(FAMILIES) for _ in family.names]
    return _Table(
        torch.tensor([ORDER.index(name) for name in names], device=device),
        torch.tensor([*families, len(FAMILIES)], device=device),
        torch.tensor([*(one.full for one in ranges), 0.0], dtype=torch.float64, device=device),
        torch.tensor([*(one.draw == "sign" for one in ranges), False], device=device),
        torch.eye(len(ORDER) + 1, len(ORDER), device=device),
    )


def _hold(values: Tensor, top: float, dtype: torch.dtype) -> Tensor:
    """Clip in place to the range of images and round to what their dtype can hold."""
    values.clamp_(0, top)
    if dtype == torch.uint8:
        return values.round_()
    return values if values.dtype == dtype else values.copy_(values.to(dtype))


def _stored(values: Tensor, dtype: torch.dtype) -> Tensor:
    # by way of int16: torch converts float32 to uint8 directly several times more slowly
    return values.to(torch.int16).to(dtype) if dtype == torch.uint8 else values.to(dtype)
