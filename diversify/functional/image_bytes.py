"""The operations of `image_ops` on large images of 8 bits on the CPU: one image after the other, as bytes, with OpenCV.

The arithmetic is that of `image_changes`. Where it depends on the value of a pixel alone, it is done once for each of the
256 values, in the same floating-point steps, and looked up for every pixel, so that the images are the same bit for bit.
Warps, saturation and sharpening add in another order: a value half-way between two levels (up to 0.001) may become the other one.
OpenCV 4 also rounds the places that a warp reads to 1/32 of a pixel; OpenCV 5 does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np

from .image_changes import GREY, ORDER, PLACES

Array = np.ndarray[Any, Any]
Step = tuple[int, float, float]  # position of the operation in `ORDER`, signed amount, draw

_float = np.float32
_ONE, _TOP = _float(1), _float(255)
_RAMP = np.arange(256, dtype=np.float32)
_WARP = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP


def changed(
    images: Sequence[Array],
    steps: Sequence[Sequence[Step]],
    threads: int = 1,
    into: Sequence[Array] | None = None,
) -> list[Array]:
    """Return every image after its steps, one after the other; an image without steps is returned itself.

    Args:
        images: `(C, H, W)` uint8 each, of 1 or 3 channels; they are not written to.
        steps: (position in `ORDER`, signed amount in the unit of the operation's range, draw in [0, 1)) of each step, as float32.
        threads: Threads to use; the result does not depend on them.
        into: Where to write each image, as soon as it is made: the memory of the steps then serves the next image, in the cache.
            These arrays are returned.

    Example:
        >>> image = np.array([[[0, 60]]], dtype=np.uint8)
        >>> changed([image], [[(ORDER.index("invert"), 1.0, 0.5)]])[0].tolist()
        [[[255, 195]]]
    """

    def one(image: Array, its: Sequence[Step], place: Array | None) -> Array:
        planes = image
        for operation, size, draw in its:
            planes = _OPERATIONS[ORDER[operation]](planes, _float(size), _float(draw))
        if place is None:
            return planes
        place[:] = planes
        return place

    threads, places = min(threads, len(images)), [None] * len(images) if into is None else into
    work = list(zip(images, steps, places, strict=True))
    if threads < 2:
        return [one(*each) for each in work]
    with ThreadPoolExecutor(threads) as pool:  # OpenCV and NumPy release Python's lock
        return list(pool.map(lambda each: one(*each), work))


# Each operation takes planes `(C, H, W)` uint8, which it does not write to, the signed amount and the draw.


def _lines(planes: Array) -> Array:
    """All rows of all channels, `(C * H, W)`: what does not depend on the neighbours of a pixel is done in one call."""
    return planes.reshape(-1, planes.shape[2])


def _part(draw: np.float32) -> tuple[np.float32, np.float32]:
    """`image_changes.place`."""
    first = np.floor(draw * _float(PLACES))
    return first / _float(PLACES), draw * _float(PLACES) - first


def _pixels(share: np.float32, side: int) -> int:
    return int(np.rint(share * _float(side)))


def _at_odd_address(*shape: int) -> Array:
    """Empty bytes for `cv2.merge` and `cv2.split`: to aligned ones they write past the cache, and the next step waits for memory."""
    return np.empty(math.prod(shape) + 1, np.uint8)[1:].reshape(shape)


def split(pixels: Array) -> Array:
    """Return channels `(C, H, W)` of `(H, W, C)` bytes.

    Example:
        >>> split(np.array([[[1, 2], [3, 4]]], dtype=np.uint8)).tolist()
        [[[1, 3]], [[2, 4]]]
    """
    planes = _at_odd_address(pixels.shape[2], *pixels.shape[:2])
    cv2.split(pixels, list(planes))
    return planes


def merged(*planes: Array) -> Array:
    """Return pixels `(H, W, C)` of channels `(H, W)`.

    Example:
        >>> merged(np.array([[1, 3]], dtype=np.uint8), np.array([[2, 4]], dtype=np.uint8)).tolist()
        [[[1, 2], [3, 4]]]
    """
    return cv2.merge(planes, _at_odd_address(*planes[0].shape, len(planes)))


# Operations that move pixels


def _shifted(planes: Array, down: int, right: int) -> Array:
    height, width = planes.shape[1:]
    moved = np.zeros_like(planes)
    if abs(down) < height and abs(right) < width:
        kept = planes[:, max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
        moved[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = kept
    return moved


def _translate_x(planes: Array, size: np.float32, draw: np.float32) -> Array:
    return _shifted(planes, 0, _pixels(size, planes.shape[2]))


def _translate_y(planes: Array, size: np.float32, draw: np.float32) -> Array:
    return _shifted(planes, _pixels(size, planes.shape[1]), 0)


def _crop(planes: Array, size: np.float32, draw: np.float32) -> Array:
    down, right = ((_float(2) * where - _ONE) * size for where in _part(draw))
    return _shifted(planes, _pixels(down, planes.shape[1]), _pixels(right, planes.shape[2]))


def _flip(planes: Array, size: np.float32, draw: np.float32) -> Array:
    return cv2.flip(_lines(planes), 1).reshape(planes.shape) if draw < size else planes


def _warped(planes: Array, from_x: tuple[float, float], from_y: tuple[float, float]) -> Array:
    """Warp about the middle, black outside; the pixel at (x, y) comes from (from_x . (x, y), from_y . (x, y))."""
    channels, height, width = planes.shape
    across, down = (width - 1) / 2, (height - 1) / 2
    matrix = np.array(
        [
            [*from_x, across - from_x[0] * across - from_x[1] * down],
            [*from_y, down - from_y[0] * across - from_y[1] * down],
        ]
    )
    # OpenCV warps four channels together in half the time of three
    whole = planes[0] if channels == 1 else merged(*planes, planes[0])
    warped = cv2.warpAffine(whole, matrix, (width, height), flags=_WARP, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    if channels == 1:
        return warped.reshape(planes.shape)
    return split(warped)[:3]


def _shear_x(planes: Array, size: np.float32, draw: np.float32) -> Array:
    return _warped(planes, (1, float(size)), (0, 1))


def _shear_y(planes: Array, size: np.float32, draw: np.float32) -> Array:
    return _warped(planes, (1, 0), (float(size), 1))


def _rotate(planes: Array, size: np.float32, draw: np.float32) -> Array:
    angle = math.radians(float(size))
    return _warped(planes, (math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle)))


def _zoom(planes: Array, size: np.float32, draw: np.float32) -> Array:
    scale = 1 / (1 + float(size))
    return _warped(planes, (scale, 0), (0, scale))


# Operations on values


def _looked_up(planes: Array, values: Array) -> Array:
    """Replace every value by that of a table of 256, floating point and the same for all channels or `(C, 256)`."""
    table = np.rint(np.minimum(np.maximum(values, 0), 255)).astype(np.uint8)
    if table.ndim == 1:
        return cv2.LUT(_lines(planes), table).reshape(planes.shape)
    made = np.empty_like(planes)
    for plane, its, out in zip(planes, table, made, strict=True):
        cv2.LUT(plane, its, out)
    return made


def _toward(values: Array, target: Array | np.float32, weight: Array | np.float32) -> Array:
    return (target - values) * weight + values


def _means(planes: Array) -> Array:
    """The mean of each channel, `(C,)` float32."""
    pixels = planes.shape[1] * planes.shape[2]
    return np.array([cv2.sumElems(plane)[0] / pixels for plane in planes], dtype=np.float32)


def _brightness(planes: Array, size: np.float32, draw: np.float32) -> Array:
    return _looked_up(planes, _toward(_RAMP, _float(0), -size))


def _contrast(planes: Array, size: np.float32, draw: np.float32) -> Array:
    means = _means(planes)
    grey = means[0]
    if len(means) == 3:
        red, green, blue = (_float(share) for share in GREY)
        grey = means[0] * red + means[1] * green + means[2] * blue
    return _looked_up(planes, _toward(_RAMP, grey, -size))


def _saturation(planes: Array, size: np.float32, draw: np.float32) -> Array:
    if len(planes) == 1:
        return planes
    matrix = (1 + float(size)) * np.eye(3) - float(size) * np.array([GREY] * 3)
    made = cv2.transform(merged(*planes).astype(np.float32), matrix)  # of bytes it would be a coarse one
    cv2.threshold(made, 0, 0, cv2.THRESH_TOZERO, made)  # np.maximum takes several times as long
    return split(cv2.convertScaleAbs(made))  # rounds, half to even, and clips at 255


def _sharpness(planes: Array, size: np.float32, draw: np.float32) -> Array:
    if min(planes.shape[1:]) < 3:
        return planes
    smooth = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    kernel = -float(size) * smooth
    kernel[1, 1] += 1 + float(size)
    made = cv2.filter2D(_lines(planes), -1, kernel.astype(np.float32)).reshape(planes.shape)
    for rim in ((slice(None), 0), (slice(None), -1), (..., 0), (..., -1)):
        made[rim] = planes[rim]
    return made


def _posterize(planes: Array, size: np.float32, draw: np.float32) -> Array:
    return np.bitwise_and(planes, np.uint8(256 - 2 ** int(np.rint(size))))


def _solarize(planes: Array, size: np.float32, draw: np.float32) -> Array:
    threshold = (_ONE - size) * _TOP
    return _looked_up(planes, np.where(threshold <= _RAMP, _TOP - _RAMP, _RAMP))


def _invert(planes: Array, size: np.float32, draw: np.float32) -> Array:
    return np.invert(planes) if draw < size else planes


def _autocontrast(planes: Array, size: np.float32, draw: np.float32) -> Array:
    pixels = planes.reshape(len(planes), -1)
    low = pixels.min(1, keepdims=True).astype(np.float32)
    span = pixels.max(1, keepdims=True).astype(np.float32) - low
    varies = span > 0
    scale = np.where(varies, _TOP * (_ONE / np.where(varies, span, _ONE)), _float(0))  # torch's order
    return _looked_up(planes, _toward(_RAMP[None], (_RAMP - low) * scale, size * varies.astype(np.float32)))


def _equalize(planes: Array, size: np.float32, draw: np.float32) -> Array:
    counts = np.empty((len(planes), 256), np.float64)  # of whole numbers, which are exact
    for plane, row in zip(planes, counts, strict=True):
        row[:] = cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel()
    below = counts.cumsum(1) - counts
    # pixels that are not as bright as the brightest, over 255
    step = np.array([[below[row, counts[row].nonzero()[0][-1]] // 255] for row in range(len(planes))])
    even = np.minimum(np.floor((below + step // 2) / np.maximum(step, 1)), 255).astype(np.float32)
    return _looked_up(planes, _toward(_RAMP, even, np.where(step > 0, size, _float(0))))


def _erase(planes: Array, size: np.float32, draw: np.float32) -> Array:
    hole = []
    for where, side in zip(_part(draw), planes.shape[1:], strict=True):
        long = np.rint(size * _float(side))
        start = np.floor(where * (_float(side) - long))
        hole.append(slice(int(start), int(start + long)))
    made = planes.copy()
    made[:, hole[0], hole[1]] = np.rint(_means(planes)).astype(np.uint8)[:, None, None]
    return made


_OPERATIONS: dict[str, Callable[[Array, np.float32, np.float32], Array]] = {
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "crop": _crop,
    "flip": _flip,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "rotate": _rotate,
    "zoom": _zoom,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "invert": _invert,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "erase": _erase,
}
