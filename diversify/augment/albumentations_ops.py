"""The operations of `functional.image_ops` on single images in loader workers, with albumentations and OpenCV.

Ranges and draws are those of `image_ops.RANGES`, so the result differs from that of a batch on the device by rounding only; with
OpenCV below 5, whose warps are exact to 1/32 of a pixel, by some grey levels where edges are sharp.
Of albumentations only functions without randomness are used, since its own draws repeat in every worker and epoch. Where its
functions truncate instead of rounding (brightness, contrast), reduce floats to 8 bits (autocontrast, posterize) or are slow
(solarize), OpenCV and NumPy do the same arithmetic. Large images of 8 bits are changed by `functional.image_bytes`, with
OpenCV alone, bit for bit as both backends and a batch on the CPU have them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..data.decode import is_pil
from ..errors import must
from ..functional import image_bytes, image_ops

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # before its import, which else asks the network for updates

import albumentations.augmentations.geometric.functional as geometric
import albumentations.augmentations.pixel.functional as pixel

Array = np.ndarray[Any, Any]
Step = tuple[str, float, float]  # operation, strength, draw


def augment(image: Any, steps: Sequence[Step]) -> Any:
    """Return the image after these operations, one after the other, as the same kind, type and size of image.

    Args:
        image: A PIL image of mode L or RGB, a tensor `(C, H, W)` or `(H, W)`, or an array `(H, W, C)` or `(H, W)`; uint8 or
            float in [0, 1].
        steps: (operation, strength in [0, 1], draw in [0, 1)) of each step.

    Raises:
        InputError: the image is of another kind, or has values outside [0, 1].
    """
    planes = _planes(image)
    if planes is not None:
        return _from_planes(image_ops.apply_steps(planes, steps), planes, image)
    pixels = _pixels(image)
    for name, strength, draw in steps:
        if strength > 0:
            pixels = _OPERATIONS[name](pixels, _amount(name, strength, draw), draw).reshape(pixels.shape)
    return _like(pixels, image)


def _planes(image: Any) -> Array | None:
    """The channels `(C, H, W)` of a large image of 8 bits, which `image_ops` changes as bytes; None for other images."""
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.device.type != "cpu" or image.ndim not in (2, 3):
            return None
        whole = image.detach() if image.ndim == 3 else image.detach()[None]
        return whole.contiguous().numpy() if image_ops.is_large(*whole.shape) else None
    if is_pil(image):
        if image.mode not in ("L", "RGB") or not image_ops.is_large(len(image.mode), image.height, image.width):
            return None
        pixels = np.asarray(image)
    elif isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        pixels = image
    else:
        return None
    if not image_ops.is_large(pixels.shape[2] if pixels.ndim == 3 else 1, *pixels.shape[:2]):
        return None
    if pixels.size == pixels.shape[0] * pixels.shape[1]:
        return np.ascontiguousarray(pixels.reshape(1, *pixels.shape[:2]))
    return image_bytes.split(np.ascontiguousarray(pixels))


def _from_planes(made: Array, planes: Array, image: Any) -> Any:
    """The changed planes as an image of the same kind; the image itself is never part of it."""
    if isinstance(image, Tensor):
        own = torch.from_numpy(made.copy() if made is planes else made).view(image.shape)
        return own if type(image) is Tensor else own.as_subclass(type(image))
    pixels = cv2.merge(list(made)) if len(made) == 3 else made[0].copy()
    if is_pil(image):
        from PIL import Image

        return Image.fromarray(pixels)
    return pixels.reshape(image.shape)


def _pixels(image: Any) -> Array:
    """The pixels as a read-only array, `(H, W, C)` uint8 or float32."""
    if is_pil(image):
        if image.mode not in ("L", "RGB"):
            advice = "convert it in the data set's transform, image.convert('RGB')"
            raise must("an image of the data set", "be of PIL mode L or RGB to be augmented", image.mode, advice)
        pixels = np.asarray(image)
    elif isinstance(image, Tensor):
        if image.ndim not in (2, 3):
            raise must("an image of the data set", "have shape (C, H, W) or (H, W)", tuple(image.shape))
        if image.device.type != "cpu":
            advice = "augment it there with a BatchAugmenter"
            raise must("an image of the data set", "be in the memory of the CPU", image.device, advice)
        channels_last = image.detach() if image.ndim == 2 else image.detach().permute(1, 2, 0)
        if channels_last.dtype not in (torch.uint8, torch.float32):
            _check_type(channels_last)
            channels_last = channels_last.float()
        pixels = channels_last.numpy()
    elif isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] > 4):
            raise must("an image of the data set", "have shape (H, W) or (H, W, C) as a numpy array", image.shape)
        pixels = image
        if pixels.dtype not in (np.uint8, np.float32):
            _check_type(pixels)
            pixels = pixels.astype(np.float32)
    else:
        got = type(image).__name__
        raise must("an image of the data set", "be a tensor, a numpy array or a PIL image to be augmented", got)
    if pixels.dtype == np.float32 and pixels.size and not (pixels.min() >= 0 and pixels.max() <= 1):
        got = f"float from {pixels.min():.3g} to {pixels.max():.3g}"
        raise must(
            "an image of the data set", "be uint8, or float in [0, 1], to be augmented", got, "normalise it afterwards"
        )
    return np.ascontiguousarray(pixels[..., None] if pixels.ndim == 2 else pixels)


def _check_type(image: Tensor | Array) -> None:
    if not str(image.dtype).removeprefix("torch.").startswith(("float", "bfloat")):
        raise must("an image of the data set", "be uint8, or float in [0, 1], to be augmented", image.dtype)


def _like(pixels: Array, image: Any) -> Any:
    """The pixels as an image of the same kind and type."""
    if is_pil(image):
        from PIL import Image

        return Image.fromarray(pixels[..., 0] if image.mode == "L" else pixels)
    if isinstance(image, Tensor):
        own = torch.from_numpy(pixels[..., 0] if image.ndim == 2 else pixels.transpose(2, 0, 1).copy())
        own = own.to(image.dtype)
        return own if type(image) is Tensor else own.as_subclass(type(image))
    own_pixels: Array = (pixels[..., 0] if image.ndim == 2 else pixels).astype(image.dtype, copy=False)
    return own_pixels


# Each operation takes pixels `(H, W, C)`, the amount in the unit of the operation's range, and a draw in [0, 1).


def _amount(name: str, strength: float, draw: float) -> float:
    """The amount of an operation for one image, as `image_ops.amount` for a batch."""
    scale = image_ops.RANGES[name]
    full = strength * scale.full
    return -full if scale.draw == "sign" and draw < 0.5 else full


def _place(draw: float) -> tuple[float, float]:
    """The vertical and the horizontal place that a draw means, each in [0, 1), as `image_changes.place`."""
    first = math.floor(draw * _PLACES)
    return first / _PLACES, draw * _PLACES - first


def _shifted(pixels: Array, down: int, right: int) -> Array:
    """The image moved by whole pixels, filled with black."""
    height, width = pixels.shape[:2]
    moved = np.zeros_like(pixels)
    if abs(down) < height and abs(right) < width:
        kept = pixels[max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
        moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = kept
    return moved


def _translate_x(pixels: Array, amount: float, draw: float) -> Array:
    return _shifted(pixels, 0, round(amount * pixels.shape[1]))


def _translate_y(pixels: Array, amount: float, draw: float) -> Array:
    return _shifted(pixels, round(amount * pixels.shape[0]), 0)


def _crop(pixels: Array, amount: float, draw: float) -> Array:
    down, right = ((2 * where - 1) * amount for where in _place(draw))
    return _shifted(pixels, round(down * pixels.shape[0]), round(right * pixels.shape[1]))


def _flip(pixels: Array, amount: float, draw: float) -> Array:
    return geometric.hflip(pixels) if draw < amount else pixels


def _warped(pixels: Array, from_x: tuple[float, float], from_y: tuple[float, float]) -> Array:
    """The image warped about its middle, filled with black; the pixel at (x, y) comes from (from_x . (x, y), from_y . (x, y))."""
    height, width = pixels.shape[:2]
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    linear = np.array([from_x, from_y])
    matrix = np.column_stack([linear, middle - linear @ middle])
    flags, size = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, (width, height)
    parts = [pixels[..., first : first + 4] for first in range(0, pixels.shape[2], 4)]  # OpenCV takes up to 4 channels
    warped = [
        geometric.warp_affine_with_value_extension(
            np.ascontiguousarray(part), matrix, size, flags, cv2.BORDER_CONSTANT, 0
        )
        for part in parts
    ]
    return warped[0] if len(parts) == 1 else np.dstack(warped)


def _shear_x(pixels: Array, amount: float, draw: float) -> Array:
    return _warped(pixels, (1, amount), (0, 1))


def _shear_y(pixels: Array, amount: float, draw: float) -> Array:
    return _warped(pixels, (1, 0), (amount, 1))


def _rotate(pixels: Array, amount: float, draw: float) -> Array:
    sine, cosine = math.sin(math.radians(amount)), math.cos(math.radians(amount))
    return _warped(pixels, (cosine, -sine), (sine, cosine))


def _zoom(pixels: Array, amount: float, draw: float) -> Array:
    return _warped(pixels, (1 / (1 + amount), 0), (0, 1 / (1 + amount)))


def _blend(pixels: Array, target: Array, share: float) -> Array:
    """The pixels moved by `share` of the way to the target (away from it if negative), rounded and clipped."""
    blended: Array = cv2.addWeighted(target, share, pixels, 1 - share, 0)
    return blended if pixels.dtype == np.uint8 else blended.clip(0, 1)


def _grey(pixels: Array) -> Array:
    """Lightness `(H, W)`: Rec. 601 luma of three channels, else the mean of the channels."""
    if pixels.shape[2] == 3:
        grey: Array = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        return grey
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels.mean(2).astype(pixels.dtype)


def _brightness(pixels: Array, amount: float, draw: float) -> Array:
    return _blend(pixels, np.zeros_like(pixels), -amount)


def _contrast(pixels: Array, amount: float, draw: float) -> Array:
    return _blend(pixels, _filled(pixels, _grey(pixels).mean()), -amount)


def _saturation(pixels: Array, amount: float, draw: float) -> Array:
    grey = _grey(pixels)
    return _blend(pixels, np.repeat(grey[..., None], pixels.shape[2], axis=2), -amount)


def _sharpness(pixels: Array, amount: float, draw: float) -> Array:
    smooth = pixels.copy()
    if min(pixels.shape[:2]) > 2:
        smooth[1:-1, 1:-1] = pixel.convolve(pixels, _SMOOTH)[1:-1, 1:-1]
    return _blend(pixels, smooth, -amount)


def _posterize(pixels: Array, amount: float, draw: float) -> Array:
    bits = round(amount)
    if bits == 0:
        return pixels
    if pixels.dtype == np.uint8:
        posterized: Array = pixel.posterize(pixels, 8 - bits)
        return posterized
    step = 2**bits / 255
    # 1 / 1024, because floats such as 7 / 255 may be slightly too small
    fewer: Array = np.floor(pixels / step + 1 / 1024) * np.float32(step)
    return fewer


def _solarize(pixels: Array, amount: float, draw: float) -> Array:
    return np.where(pixels >= (1 - amount) * _top(pixels), pixel.invert(pixels), pixels)


def _autocontrast(pixels: Array, amount: float, draw: float) -> Array:
    """Each channel stretched from black to white; a channel with a single value is unchanged."""
    low, high = pixels.min((0, 1)).astype(np.float32), pixels.max((0, 1)).astype(np.float32)
    scale = np.where(high > low, _top(pixels) / np.where(high > low, high - low, 1), 1)
    stretched = (pixels - np.where(high > low, low, 0)) * scale
    return _blend(pixels, _rounded(stretched, pixels), amount)


def _equalize(pixels: Array, amount: float, draw: float) -> Array:
    """Equalised histograms as in PIL; the function of albumentations differs from it and writes into its input."""
    codes = pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)
    made = np.stack([_evened(codes[..., channel]) for channel in range(codes.shape[2])], axis=2)
    even = made if pixels.dtype == np.uint8 else made.astype(np.float32) / 255
    return _blend(pixels, even, amount)


def _evened(codes: Array) -> Array:
    count = np.bincount(codes.ravel(), minlength=256)
    step = int(codes.size - count[count.nonzero()[0][-1]]) // 255
    if step == 0:
        return codes
    table = ((count.cumsum() - count + step // 2) // step).clip(max=255).astype(np.uint8)
    evened: Array = table[codes]
    return evened


def _invert(pixels: Array, amount: float, draw: float) -> Array:
    return pixel.invert(pixels) if draw < amount else pixels


def _erase(pixels: Array, amount: float, draw: float) -> Array:
    """The image with one square replaced by the mean of each channel."""
    hole = []
    for where, side in zip(_place(draw), pixels.shape[:2], strict=True):
        long = round(amount * side)
        start = math.floor(where * (side - long))
        hole.append((start, start + long))
    (top, bottom), (left, right) = hole
    erased = pixels.copy()
    erased[top:bottom, left:right] = _rounded(pixels.mean((0, 1), dtype=np.float64), pixels)
    return erased


def _top(pixels: Array) -> float:
    """The value of white."""
    return 255.0 if pixels.dtype == np.uint8 else 1.0


def _rounded(values: Array, pixels: Array) -> Array:
    """The values in the type of the pixels."""
    return (np.rint(values) if pixels.dtype == np.uint8 else values).astype(pixels.dtype)


def _filled(pixels: Array, value: float) -> Array:
    return np.full_like(pixels, round(value) if pixels.dtype == np.uint8 else value)


_PLACES = 4096
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13
_OPERATIONS: dict[str, Callable[[Array, float, float], Array]] = {
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "rotate": _rotate,
    "zoom": _zoom,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": _invert,
    "erase": _erase,
    "crop": _crop,
    "flip": _flip,
}
