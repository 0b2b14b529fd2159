"""Which copies of an image its perceptual hash finds, and how often it takes different images for copies.

    python -m benchmarks.image_hashes --root DATA --out benchmarks/results/image_hashes.jsonl

The first 10,000 training images of Fashion-MNIST, MNIST and CIFAR-10, compared within their classes, and eight changes of 300 of them.
About two minutes on two cores. CIFAR-10 has real near copies, Fashion-MNIST a few.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import diversify as dv
from diversify.data.decode import as_image
from diversify.data.hashes import Hasher, joined_hashes
from diversify.diagnosis.near_copies import copies_of_hashes
from diversify.functional.hash_copies import hash_limits
from diversify.runtime import provenance

SETS = ("fashion-mnist", "mnist", "cifar10")
IMAGES, CHANGED = 10_000, 300
_Change = Callable[[Image.Image], Image.Image]


def _jpeg(quality: int) -> _Change:
    def change(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert(image.mode)

    return change


def _resized(factor: float) -> _Change:
    return lambda image: image.resize([round(side * factor) for side in image.size], Image.Resampling.BILINEAR)


def _light(factor: float, offset: int = 0) -> _Change:
    return lambda image: image.point(lambda value: min(255, max(0, round(value * factor + offset))))


def _shifted(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    return Image.fromarray(np.concatenate([pixels[:1], pixels[:-1]]))


CHANGES: dict[str, _Change] = {
    "JPEG of quality 75": _jpeg(75),
    "JPEG of quality 30": _jpeg(30),
    "half the size": _resized(0.5),
    "twice the size": _resized(2),
    "70% of the light": _light(0.7),
    "30 grey levels lighter": _light(1, 30),
    "60% of the size, 85% of the light, JPEG of quality 50": lambda image: _jpeg(50)(
        _light(0.85)(_resized(0.6)(image))
    ),
    "shifted by one pixel": _shifted,
}


def measured(name: str, root: Path) -> dict[str, Any]:
    """The record of one data set."""
    started = provenance.now()
    train = dv.load_data(name, root=root, holdout=0).train
    rows = train.indices.argsort()[:IMAGES]
    labels = train.labels[rows]
    pictures = []
    for row in rows.tolist():
        pixels = as_image(train.dataset[row][0]).permute(1, 2, 0).numpy()
        pictures.append(Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]))
    hasher = Hasher()
    hashes = joined_hashes([hasher(as_image(one)) for one in pictures])
    copies = copies_of_hashes([(hashes, labels)])
    limits, _ = hash_limits(hashes.bits(), hashes.speaks, labels, 10)
    some = torch.arange(0, IMAGES, IMAGES // CHANGED)[:CHANGED]
    found = {}
    for change, make in CHANGES.items():
        other = joined_hashes([hasher(as_image(make(pictures[row]))) for row in some.tolist()])
        bits = (other.bits() ^ hashes.bits()[some]).sum(1)
        found[change] = {
            "within_limit": round(float((bits <= limits[labels[some]]).double().mean()), 3),
            "median_bits": int(bits.median()),
        }
    return {
        "kind": "image_hashes",
        "started": started,
        **provenance.origin(torch.device("cpu")),
        "data": name,
        "images": len(labels),
        "pairs_compared": sum(n * (n - 1) // 2 for n in labels.bincount().tolist()),
        "images_with_a_copy": int((copies.copy_of >= 0).sum()),
        "effective_images": int(copies.effective_count.nansum()),
        "limits": [round(limit, 1) for limit in limits.tolist()],
        "changed": len(some),
        "found": found,
    }


def main() -> None:
    """Write the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/image_hashes.jsonl"))
    arguments = parser.parse_args()
    records = [measured(name, arguments.root) for name in SETS]
    arguments.out.write_text("".join(json.dumps(one) + "\n" for one in records))
    for one in records:
        print(one)


if __name__ == "__main__":
    main()
