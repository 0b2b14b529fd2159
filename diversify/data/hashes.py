"""Perceptual hashes of images, for copies that were resized, compressed or changed in light."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import must
from .decode import as_image
from .images import Images

HASH_BITS = 64


def image_hashes(dataset: Images) -> Tensor:
    """Return the perceptual hash of each image of a data set, `(N, 64)` float32 of zeros and ones.

    Args:
        dataset: A map-style data set of `(image, label)`. Images with other values than [0, 255] or [0, 1] are stretched to
            their own range.

    Raises:
        InputError: The package imagehash is not installed.
    """
    try:
        imagehash: Any = importlib.import_module("imagehash")
    except ImportError:
        advice = "pip install 'diversify[hash]', or compare embeddings"
        raise must("imagehash", "be installed to compare images", "no such package", advice) from None
    found = [imagehash.phash(_picture(as_image(dataset[row][0]))).hash.reshape(-1) for row in range(len(dataset))]  # type: ignore[arg-type]
    return torch.from_numpy(np.array(found, dtype=np.float32).reshape(-1, HASH_BITS))


def _picture(image: Tensor) -> Image.Image:
    values = image.detach().cpu().double()
    low, high = float(values.min()), float(values.max())
    if image.is_floating_point():
        low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
        values = (values - low) / max(high - low, 1e-12) * 255
    array = values.clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., :3] if array.shape[2] >= 3 else array[..., 0])
