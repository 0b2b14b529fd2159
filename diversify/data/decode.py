"""Decode image files and Pillow images to RGB as a person sees them."""

from __future__ import annotations

import functools
import io
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from ..errors import InputError, must

Size = tuple[int, int]  # (width, height)
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "TIFF", "WEBP")
"""What is looked for in a file, whatever its ending: pictures of pixels, never a program to run, as EPS is."""


def read_image(path: Path) -> Tensor:
    """`(3, H, W)` uint8 of an image file.

    Raises:
        InputError: it is damaged, too large, or of a kind that has no one look; the message names it.
    """
    from PIL import Image

    try:
        with opened(path) as image:
            return cast(Tensor, tvf.pil_to_tensor(_rgb(image).convert("RGB")))
    except _RefusedError as error:
        raise must("image file", error.law, f"{error.got} in {path}") from error
    except (MemoryError, InputError):
        raise
    except (Exception, Image.DecompressionBombWarning) as error:  # whatever a decoder makes of broken bytes
        raise must("image file", "be a readable image", path) from error


# As Pillow hands them on


class _RefusedError(Exception):
    """An image that is whole but not read: the law that it breaks, and what it is instead."""

    def __init__(self, law: str, got: str, short: str) -> None:
        super().__init__(got)
        self.law, self.got, self.short = law, got, short


def as_image(image: Any) -> Tensor:
    """`(C, H, W)` tensor from a tensor, a PIL image, or a numpy array `(H, W)` or `(H, W, C)`.

    No value of a tensor or an array is changed. PIL images are read as image files are, except that grey ones keep their
    one channel.
    """
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] > 4):
            raise must("an image of the data set", "have shape (H, W) or (H, W, C) as a numpy array", image.shape)
        return torch.from_numpy(image[None].copy() if image.ndim == 2 else image.transpose(2, 0, 1).copy())
    if isinstance(image, Tensor):
        if image.ndim not in (2, 3):
            raise must("an image of the data set", "have shape (C, H, W) or (H, W)", tuple(image.shape))
        return image if image.ndim == 3 else image.unsqueeze(0)
    if is_pil(image):
        return _from_pil(image, "L", "RGB")
    raise must("an image of the data set", "be a tensor, a numpy array or a PIL image", type(image).__name__)


def as_rgb_image(image: Any) -> Tensor:
    """As `as_image`, with grey PIL images as RGB too: a data set may hold both."""
    return _from_pil(image, "RGB") if is_pil(image) else as_image(image)


def is_pil(image: object) -> bool:
    """Whether this is Pillow's image."""
    return hasattr(image, "getbands")


def _from_pil(image: Any, *modes: str) -> Tensor:
    try:
        _refuse_foreign(image)
        _refuse_bomb(*image.size)
        seen = _rgb(image)
        return cast(Tensor, tvf.pil_to_tensor(seen if seen.mode in modes else seen.convert("RGB")))
    except _RefusedError as error:
        raise must("an image of the data set", error.law, error.got) from error
    except (MemoryError, InputError):
        raise
    except Exception as error:  # whatever a decoder makes of broken bytes
        raise must("an image of the data set", "be a readable image", f"{type(error).__name__}: {error}") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow can read."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def opened(file: Path | io.BytesIO) -> Any:
    """The file opened by Pillow, its header read; refused when the header promises more pixels than Pillow's limit."""
    from PIL import Image

    try:
        image = Image.open(file, formats=_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # the second where it is an error
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        raise _too_large(int(pixels[1]) if pixels else 0) from error
    try:
        _refuse_bomb(*image.size)
    except _RefusedError:
        image.close()
        raise
    return image


def _refuse_bomb(width: int, height: int) -> None:
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise _too_large(width * height)


def _too_large(pixels: int) -> _RefusedError:
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS or 0
    law = f"have at most {limit:,} pixels, Pillow's limit"
    return _RefusedError(law, f"{pixels:,}", f"{pixels:,} pixels, Pillow's limit is {limit:,}")


def what_is_wrong(error: Exception, otherwise: str = "damaged") -> str:
    """A word or two about a file or an image that cannot be read."""
    from PIL import UnidentifiedImageError

    if isinstance(error, _RefusedError):
        return error.short
    kinds = ((FileNotFoundError, "not there"), (PermissionError, "no permission"), (UnidentifiedImageError, "no image"))
    return next((wrong for kind, wrong in kinds if isinstance(error, kind)), otherwise)


def check_pil(image: Any) -> Size:
    """(width, height) of a PIL image as it will be read; whatever reading it raises otherwise."""
    _refuse_foreign(image)
    _refuse_bomb(*image.size)
    size: Size = _rgb(image).size
    return size


def _refuse_foreign(image: Any) -> None:
    """Nothing, unless the image would be drawn by another program when it is loaded, as EPS is."""
    if (found := getattr(image, "format", None)) in ("EPS", "WMF"):
        raise _RefusedError("be made of pixels", found, found)


def checked(image: Any) -> Size:
    """(width, height) as they will be read, after decoding the whole file."""
    size: Size = image.size
    if image.format in ("JPEG", "MPO"):
        image.draft("L", (1, 1))
        image.load()
    else:
        _rgb(image)
        size = image.size  # a TIFF's is turned while it is loaded
    return (size[1], size[0]) if _orientation(image) >= 5 else size


_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
_EXIF_ORIENTATION = 0x0112


def _rgb(image: Any) -> Any:
    """The first frame as it is seen, in mode L or RGB: 8 bits, on white where it is transparent, turned upright."""
    from PIL import Image

    image.load()
    orientation = _orientation(image)
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.mode == "F":
        raise _RefusedError("have whole numbers for pixels", "floating point, PIL mode F", "floating point, PIL mode F")
    elif image.mode in _TRANSPARENT or "transparency" in image.info:
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)
        picture = image.convert(straight).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    turn = Image.Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _orientation(image: Any) -> int:
    """1 to 8 of EXIF; 1 where there is none, and where it cannot be read, as in every viewer."""
    try:
        found = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # broken metadata around a whole picture
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _eight_bits(image: Any) -> Any:
    """Grey of 16 bits, scaled so that 65535 is 255; the one value that a PNG may name as transparent shows white."""
    from PIL import Image

    values = np.asarray(image).astype(np.int64)
    if isinstance(transparent := image.info.get("transparency"), int):
        values = np.where(values == transparent, 65535, values)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        got = f"grey values from {low} to {high}"
        raise _RefusedError("have at most 16 bits per channel", got, got)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
