"""Perceptual hashes of images, for copies that were resized, compressed or changed in light."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError, must
from ..functional.hash_copies import BITS
from .decode import as_image
from .examples import ExampleForm, Key
from .images import Images

HASH_BITS = BITS
_SIDE = 16  # the hash is of 16 x 16 frequencies
SMALLEST = 16  # pixels of the shorter side: smaller images have no such frequencies
FLAT = 2.0  # grey levels: an image with a smaller standard deviation is of one colour
INSTALL = "pip install 'diversify-imbalance[hash]'"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageHashes:
    """The perceptual hashes of N images.

    Attributes:
        packed: `(N, 32)` uint8, eight bits in each.
        speaks: `(N,)` bool, False for an image of one colour or of fewer than 16 pixels a side, which is a copy of none.

    Example:
        >>> hashes = ImageHashes(packed=torch.tensor([[1] * 32], dtype=torch.uint8), speaks=torch.tensor([True]))
        >>> hashes.bits().sum().item()
        32
    """

    packed: Tensor
    speaks: Tensor

    def bits(self) -> Tensor:
        """Return the hashes as `(N, 256)` bool."""
        return torch.from_numpy(np.unpackbits(self.packed.numpy(), axis=1).astype(bool))


def can_hash() -> bool:
    """Return whether the package imagehash is installed."""
    try:
        return importlib.util.find_spec("imagehash") is not None
    except ValueError:  # a module without a spec stands in its place
        return False


def image_hashes(dataset: Images, *, image_key: Key | None = None) -> ImageHashes:
    """Return the perceptual hash of each image of a data set; each image is read once, in order.

    Args:
        dataset: A map-style data set of `(image, label)`, or of mappings. Images with other values than [0, 255] or [0, 1]
            are stretched to their own range.
        image_key: Key of the image where examples are mappings; by default a usual one, such as `image`.

    Raises:
        InputError: The package imagehash is not installed, or an example holds no image.
    """
    hashed, form, rows = Hasher(), ExampleForm(image_key=image_key), len(dataset)  # type: ignore[arg-type]

    def hash_of(row: int) -> bytes | None:
        try:
            return hashed(as_image(form.image(dataset[row], row)))
        except InputError as error:
            raise InputError(str(error) if "at row" in str(error) else f"{error} (at row {row})") from error

    return joined_hashes([hash_of(row) for row in range(rows)])


class Hasher:
    """Makes the hash of an image: its 16 x 16 lowest frequencies, each above or below their median.

    Raises:
        InputError: The package imagehash is not installed.
    """

    def __init__(self) -> None:
        try:
            self._library: Any = importlib.import_module("imagehash")
        except ImportError:
            raise must("imagehash", "be installed to compare images", "no such package", INSTALL) from None

    def __call__(self, image: Tensor) -> bytes | None:
        """Return the hash of an image `(C, H, W)` in 32 bytes; None if it is of one colour or too small."""
        if min(image.shape[1:]) < SMALLEST:
            return None
        picture = _picture(image).convert("L").resize((4 * _SIDE, 4 * _SIDE), Image.Resampling.LANCZOS)
        if float(np.asarray(picture, dtype=np.float64).std()) < FLAT:
            return None
        found = self._library.phash(picture, hash_size=_SIDE).hash
        return np.packbits(np.asarray(found, dtype=bool).reshape(-1)).tobytes()


def joined_hashes(found: list[bytes | None]) -> ImageHashes:
    """Return what `Hasher` gave for some images as tensors.

    Example:
        >>> joined_hashes([None, bytes(32)]).speaks.tolist()
        [False, True]
    """
    content = b"".join(bytes(HASH_BITS // 8) if one is None else one for one in found)
    packed = np.frombuffer(bytearray(content), dtype=np.uint8).reshape(-1, HASH_BITS // 8)
    return ImageHashes(
        packed=torch.from_numpy(packed), speaks=torch.tensor([one is not None for one in found], dtype=torch.bool)
    )


def _picture(image: Tensor) -> Image.Image:
    pixels = image.detach().cpu()
    if pixels.dtype != torch.uint8:
        values = pixels.double().nan_to_num()
        low, high = float(values.min()), float(values.max())
        if image.is_floating_point():
            low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
            values = (values - low) / max(high - low, 1e-12) * 255
        pixels = values.clamp(0, 255).round().to(torch.uint8)
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[..., :3] if array.shape[2] >= 3 else array[..., 0])
