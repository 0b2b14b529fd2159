"""Images: in memory, in files, and as Pillow hands them on, read as a person sees them.

Image files become RGB with 8 bits per channel: transparent pixels show white, the camera's orientation is applied, 16-bit
grey is scaled by its full range, and of several frames or pages the first is taken.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision.transforms.v2 import functional as tvf

from .errors import InputError, must
from .importing import describe, is_passed_on

Images = Dataset[Any]
Array = np.ndarray[Any, Any]
Shape = Callable[[Tensor], Tensor]
Progress = Callable[[str, int, int], None]  # (what, done, in all)
Result = TypeVar("Result")
Size = tuple[int, int]  # (width, height)

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "TIFF", "WEBP")
"""What is looked for in a file, whatever its ending: pictures of pixels, never a program to run, as EPS is."""


# In memory


class Batch(Sequence[tuple[Tensor, Tensor]]):
    """A list of `(image, label)` that was fetched whole: `images` `(N, C, H, W)` and `labels` `(N,)`."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Any:
        return self.images[index], self.labels[index]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.images, self.labels, strict=True)


class ImageArray(Images):
    """Images in memory: `(N, C, H, W)` uint8, or float in [0, 1]; a batch is fetched with one index operation.

    `shape`, where there is one, resizes and crops what is fetched; `images` stay as they are stored.
    """

    def __init__(self, images: Tensor, labels: Tensor, shape: Shape | None = None) -> None:
        self.images, self.targets, self.shape = images, labels, shape

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        return (self.shape(image) if self.shape else image), self.targets[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = torch.as_tensor(indices)
        images = self.images[rows]
        return Batch(self.shape(images) if self.shape else images, self.targets[rows])

    def shaped(self, shape: Shape) -> ImageArray:
        """The same images, each resized and cropped when it is fetched."""
        return ImageArray(self.images, self.targets, shape)


class Relabelled(Images):
    """A data set with other labels than its own."""

    def __init__(self, dataset: Images, labels: Tensor) -> None:
        self.dataset, self.targets = dataset, labels

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        return self.dataset[index][0], self.targets[index]


class Own(Images):
    """A data set of the user's own; an error while an example is read names the data set and the row."""

    def __init__(self, dataset: Images, name: str) -> None:
        self.dataset, self.name = dataset, name

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except Exception as error:  # whatever a data set of the user's raises
            if is_passed_on(error) or (isinstance(error, IndexError) and index >= len(self)):
                raise
            raise self._failed(error, f"row {index}") from error

    def __getitems__(self, indices: list[int]) -> Any:
        fetch = getattr(self.dataset, "__getitems__", None)
        if fetch is None:
            return [self[index] for index in indices]
        try:
            return fetch(indices)
        except Exception as error:  # whatever a data set of the user's raises
            if is_passed_on(error):
                raise
            listed = ", ".join(map(str, indices[:3])) + ", ..." * (len(indices) > 3)
            raise self._failed(error, f"one of the rows {listed}") from error

    def _failed(self, error: Exception, place: str) -> InputError:
        return must(self.name, "give every example", f"{describe(error)} (at {place})")


def traced(dataset: Images) -> tuple[Images, Tensor]:
    """The data set below subsets and other labels, and the rows of it that these are."""
    if isinstance(dataset, Subset):
        below, rows = traced(dataset.dataset)
        return below, rows[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, Relabelled):
        return traced(dataset.dataset)
    return dataset, torch.arange(len(dataset))  # type: ignore[arg-type]


def content_digest(dataset: Images) -> str | None:
    """A digest of what the images are, in their order, before any resizing; None where only reading them all could tell.

    Images in memory count by their pixels, files by their names in the tree and their bytes, as `check_files` saw them.
    """
    below, rows = traced(dataset)
    digest = hashlib.blake2b(digest_size=32)
    if isinstance(below, ImageArray):
        digest.update(f"{below.images.dtype} {tuple(below.images.shape[1:])}".encode())
        for part in rows.split(4096):
            digest.update(below.images[part].contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()
    if isinstance(below, ImageFiles) and below.digests is not None:
        for row in rows.tolist():
            digest.update(os.fsencode(below.name(row)) + b"\0" + (below.digests[row] or b""))
        return digest.hexdigest()
    return None


# In files


class ImageFiles(Images):
    """Image files, read as RGB uint8 `(3, H, W)`; `shape`, where there is one, resizes and crops each.

    `top` is the folder that names of files are relative to; `sizes` and `digests`, of the bytes of each file, are known
    once `check_files` has looked.
    """

    def __init__(
        self, paths: Sequence[Path], labels: Tensor, shape: Shape | None = None, *, top: Path | None = None
    ) -> None:
        self.paths, self.targets, self.shape, self.top = list(paths), labels, shape, top
        self.sizes: list[Size | None] | None = None
        self.digests: list[bytes | None] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.read(index)
        return (self.shape(image) if self.shape else image), self.targets[index]

    def read(self, index: int) -> Tensor:
        """`(3, H, W)` uint8 as it is stored, neither resized nor cropped."""
        return read_image(self.paths[index])

    def name(self, index: int) -> str:
        """The path below `top`."""
        path = self.paths[index]
        return path.relative_to(self.top).as_posix() if self.top and path.is_relative_to(self.top) else str(path)

    def shaped(self, shape: Shape) -> ImageFiles:
        """The same files, each resized and cropped."""
        files = ImageFiles(self.paths, self.targets, shape, top=self.top)
        files.sizes, files.digests = self.sizes, self.digests
        return files

    def chosen(self, rows: Sequence[int]) -> ImageFiles:
        """Some of the files, in this order."""
        files = ImageFiles(
            [self.paths[row] for row in rows], self.targets[torch.as_tensor(rows)], self.shape, top=self.top
        )
        files.sizes = None if self.sizes is None else [self.sizes[row] for row in rows]
        files.digests = None if self.digests is None else [self.digests[row] for row in rows]
        return files


def read_image(path: Path) -> Tensor:
    """`(3, H, W)` uint8 of an image file.

    Raises:
        InputError: it is damaged, too large, or of a kind that has no one look; the message names it.
    """
    from PIL import Image

    try:
        with _opened(path) as image:
            return cast(Tensor, tvf.pil_to_tensor(_rgb(image).convert("RGB")))
    except _RefusedError as error:
        raise must("image file", error.law, f"{error.got} in {path}") from error
    except (MemoryError, InputError):
        raise
    except (Exception, Image.DecompressionBombWarning) as error:  # whatever a decoder makes of broken bytes
        raise must("image file", "be a readable image", path) from error


def check_files(parts: Sequence[ImageFiles], progress: Progress | None = None) -> list[dict[int, str]]:
    """For each part, what is wrong with each file that cannot be read; sets `sizes` and `digests` of every part.

    Every file is read once and decoded to its end, JPEG at an eighth of its size, by several threads.
    """
    paths = [path for part in parts for path in part.paths]

    def check(row: int) -> tuple[Size | None, bytes | None, str | None]:
        digest = None
        try:
            content = paths[row].read_bytes()
            digest = hashlib.blake2b(content, digest_size=16).digest()
            with _opened(io.BytesIO(content)) as image:
                return _checked(image), digest, None
        except MemoryError:
            raise
        except Exception as error:  # whatever a decoder makes of broken bytes
            return None, digest, what_is_wrong(error)

    with warnings.catch_warnings():  # of what Pillow warns, bombs are refused here and odd metadata is no matter
        warnings.filterwarnings("ignore", module=r"PIL\.")
        found = in_threads(check, len(paths), progress, "checking images")
    bad = []
    for part in parts:
        mine, found = found[: len(part)], found[len(part) :]
        part.sizes = [size for size, _, _ in mine]
        part.digests = [digest for _, digest, _ in mine]
        bad.append({row: wrong for row, (_, _, wrong) in enumerate(mine) if wrong is not None})
    return bad


def in_threads(work: Callable[[int], Result], count: int, progress: Progress | None, what: str) -> list[Result]:
    """`work(0)` to `work(count - 1)`, by several threads, in order; for work that leaves Python's lock alone."""
    chunks = [range(start, min(start + 32, count)) for start in range(0, count, 32)]
    done: list[Result] = []
    with ThreadPoolExecutor() as pool:
        for part in pool.map(lambda rows: [work(row) for row in rows], chunks):
            done += part
            if progress is not None:
                progress(what, len(done), count)
    return done


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


def _opened(file: Path | io.BytesIO) -> Any:
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


def _checked(image: Any) -> Size:
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
