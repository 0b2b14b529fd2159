"""Decode image files and PIL images to upright RGB with 8 bits per channel."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from ..errors import InputError, must
from ..functional import draws

Array = np.ndarray[Any, Any]
Size = tuple[int, int]  # (width, height)
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read, with any file extension; none of them runs a program, as EPS would."""


def read_image(path: Path) -> Tensor:
    """Return an image file as `(3, H, W)` uint8 RGB.

    Transparent pixels become white, the camera's orientation is applied, 16-bit grey is scaled by its full range, and of
    several frames or pages the first is used. Pixels are those of Pillow. torchvision decodes JPEG files that need none of
    this, in about two thirds of the time, if a trial in the same process shows that both give the same pixels. Where such a
    file is whole but damaged within, both decoders pass over the damage, and the image has wrong pixels from there on;
    torchvision's then writes a line to the standard error of the process, which names no file and which no warning filter
    sees: `Corrupt JPEG data: 170 extraneous bytes before marker 0xd9`.

    Raises:
        InputError: The file is damaged, too large, or of a kind that has no unique appearance; the message names it.

    Example:
        >>> import tempfile, pathlib, PIL.Image
        >>> from diversify.data import read_image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "red.png"
        ...     PIL.Image.new("RGB", (4, 2), "red").save(path)
        ...     read_image(path)[:, 0, 0].tolist()
        [255, 0, 0]
    """
    from PIL import Image

    try:
        with contextlib.closing(opened(path)) as image:  # unlike Pillow's own exit, it may close a second time
            found = _fast_jpeg(path, image)
            if found is not None:
                return found
            seen = _rgb(image)
            if seen is not image:
                image.close()  # of a large image, the pixels as they are stored and the tensor would not both fit
            if seen.mode != "RGB":
                seen = seen.convert("RGB")
            return cast(Tensor, tvf.pil_to_tensor(seen))
    except _RefusedError as error:
        raise must("image file", error.law, f"{error.got} in {path}") from error
    except (MemoryError, InputError):
        raise
    except (Exception, Image.DecompressionBombWarning) as error:  # decoders raise many kinds of errors
        raise must("image file", "be a readable image", path) from error


def _fast_jpeg(path: Path, image: Any) -> Tensor | None:
    """The pixels of a plain JPEG file by torchvision's decoder, which is faster than Pillow's; None for others.

    None also for a file that torchvision cannot read, so that Pillow says what is wrong, and for all files if the two
    libraries have been built with decoders that differ.
    """
    if image.format != "JPEG" or image.mode not in ("L", "RGB") or _orientation(image) != 1 or not _decoders_agree():
        return None
    try:
        return _by_torchvision(np.fromfile(path, np.uint8))
    except RuntimeError:  # a damaged file
        return None


def _by_torchvision(content: Array) -> Tensor:
    from torchvision.io import ImageReadMode, decode_jpeg

    return cast(Tensor, decode_jpeg(torch.from_numpy(content), mode=ImageReadMode.RGB))


@functools.cache
def _decoders_agree() -> bool:
    """True if the installed torchvision decodes JPEG to Pillow's pixels, tried with noise in every usual form."""
    from PIL import Image

    noise = draws.integers(256, "a JPEG to try decoders", torch.arange(3 * 37 * 53)).to(torch.uint8).view(37, 53, 3)
    whole = Image.fromarray(noise.numpy())
    forms = [{"subsampling": kept, "progressive": late} for kept in (0, 1, 2) for late in (False, True)]
    try:
        for picture, form in [(whole.convert("L"), {}), *((whole, form) for form in forms)]:
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=80, **form)
            made = _by_torchvision(np.frombuffer(file.getvalue(), np.uint8).copy())
            if not torch.equal(made, tvf.pil_to_tensor(Image.open(file, formats=("JPEG",)).convert("RGB"))):
                return False
    except Exception:  # torchvision cannot decode here, or no longer does: its decoders are deprecated since 0.29
        return False
    return True


class _RefusedError(Exception):
    """An undamaged image that is not read: the law that it breaks, and what it is instead."""

    def __init__(self, law: str, got: str, short: str) -> None:
        super().__init__(got)
        self.law, self.got, self.short = law, got, short


def as_image(image: Any) -> Tensor:
    """Return a tensor, a PIL image, or a numpy array `(H, W)` or `(H, W, C)` as a tensor `(C, H, W)`.

    The values of tensors and arrays are not changed. PIL images are read as image files are, except that grey images keep
    their one channel.

    Raises:
        InputError: It is none of these, has another shape, or cannot be decoded.
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
    """Return an image as `as_image` does, but grey PIL images as RGB too, because a data set may hold both."""
    return _from_pil(image, "RGB") if is_pil(image) else as_image(image)


def is_pil(image: object) -> bool:
    """True if this is a PIL image."""
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
    except Exception as error:  # decoders raise many kinds of errors
        raise must("an image of the data set", "be a readable image", f"{type(error).__name__}: {error}") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats among `FORMATS` that the installed Pillow can read."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def opened(file: Path | io.BytesIO) -> Any:
    """Open a file with Pillow and read its header; refuse it if it has more pixels than Pillow's limit."""
    from PIL import Image

    try:
        image = Image.open(file, formats=_formats())
    except (
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:  # the warning, if warnings are errors
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
    """Return the reason why a file or an image cannot be read, in a word or two."""
    from PIL import UnidentifiedImageError

    if isinstance(error, _RefusedError):
        return error.short
    kinds = ((FileNotFoundError, "not there"), (PermissionError, "no permission"), (UnidentifiedImageError, "no image"))
    return next((wrong for kind, wrong in kinds if isinstance(error, kind)), otherwise)


def check_pil(image: Any) -> Size:
    """Return the (width, height) of a PIL image as it will be read, or raise the error that reading it raises."""
    _refuse_foreign(image)
    _refuse_bomb(*image.size)
    size: Size = _rgb(image).size
    return size


def _refuse_foreign(image: Any) -> None:
    """Refuse an image that another program would draw when it is loaded, as with EPS."""
    if (found := getattr(image, "format", None)) in ("EPS", "WMF"):
        raise _RefusedError("be made of pixels", found, found)


def checked(image: Any) -> Size:
    """Return the (width, height) of an opened file as it will be read, after decoding all of it."""
    size: Size = image.size
    if image.format in ("JPEG", "MPO"):
        image.draft("L", (1, 1))
        image.load()
    else:
        image.load()
        _rgb(image if image.mode.startswith("I") else image.crop((0, 0, 1, 1)))  # one pixel shows what a mode allows
        size = image.size  # a TIFF is rotated while it is loaded
    return (size[1], size[0]) if _orientation(image) >= 5 else size


_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
_EXIF_ORIENTATION = 0x0112


def _rgb(image: Any) -> Any:
    """The first frame in mode L or RGB: 8 bits, on a white background where it is transparent, upright."""
    from PIL import Image

    image.load()
    _refuse_bomb(*image.size)  # again: an icon may hold a larger picture than its header says
    orientation = _orientation(image)
    if image.mode.startswith("I"):
        image = _by_bands(image, _eight_bits)
    elif image.mode == "F":
        raise _RefusedError("have whole numbers for pixels", "floating point, PIL mode F", "floating point, PIL mode F")
    elif image.mode in _TRANSPARENT or "transparency" in image.info:
        image = _by_bands(image, _on_white)
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


_BAND = 2**20  # pixels that are changed at a time, so that copies of a large image do not add up


def _by_bands(image: Any, change: Callable[[Any], Any]) -> Any:
    """An image changed pixel by pixel, some rows at a time."""
    from PIL import Image

    width, height = image.size
    rows = max(1, _BAND // max(1, width))
    if rows >= height:
        return change(image)
    made: Any = None
    for top in range(0, height, rows):
        part = change(image.crop((0, top, width, min(top + rows, height))))
        made = made if made is not None else Image.new(part.mode, image.size)
        made.paste(part, (0, top))
    return made


def _on_white(image: Any) -> Any:
    """An image with transparency on a white background."""
    from PIL import Image

    straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)
    picture = image.convert(straight).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _orientation(image: Any) -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none or it cannot be read, as image viewers assume."""
    try:
        found = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged metadata of an undamaged picture
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _eight_bits(image: Any) -> Any:
    """16-bit grey, scaled so that 65535 becomes 255; the value that a PNG declares transparent becomes white."""
    from PIL import Image

    values = np.asarray(image).astype(np.int64)
    if isinstance(transparent := image.info.get("transparency"), int):
        values = np.where(values == transparent, 65535, values)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        got = f"grey values from {low} to {high}"
        raise _RefusedError("have at most 16 bits per channel", got, got)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
