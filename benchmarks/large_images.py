"""Time image augmentation and decoding at 224 pixels against the same by hand: `benchmarks/results/large_images.jsonl`.

    python -m benchmarks.large_images [FIGURE ...]

Image files are JPEG of 500 x 375 pixels, as many of ImageNet's, in a temporary folder. Both sides of a comparison run in turn in
one process. Figures on one core go by its CPU time, those with two workers by the clock.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import albumentations as A  # noqa: N812
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.overhead import PAIRS, keep
from benchmarks.remedies import (
    VARIED,
    _albumentations,
    _by_albumentations,
    _image_plan,
    _loader,
    _smooth_images,
    _through,
)
from diversify.augment.batches import BatchAugmenter
from diversify.augment.dataset import DiversifiedDataset
from diversify.data import decode
from diversify.functional import draws
from diversify.plan.plan import Plan
from diversify.plan.policies import ClassPlan

RESULTS = Path(__file__).parent / "results" / "large_images.jsonl"
SIDE = 224
BATCH = 64
FILES = 256
CLASSES = 8
OF_BARE = "how many times the images per second of"


def compared(
    figure: str, what: str, ours: Callable[[], Any], bare: Callable[[], Any], clock: Callable[[], float], **more: Any
) -> dict[str, Any]:
    """Time both versions in turn; the ratio is their seconds over ours."""

    def seconds(work: Callable[[], Any]) -> float:
        started = clock()
        work()
        return clock() - started

    ours(), bare()  # warm up
    pairs = [(seconds(ours), seconds(bare)) for _ in range(PAIRS)]
    ratios = [other / one for one, other in pairs]
    return {
        "figure": figure,
        "what": what,
        **more,
        "seconds_ours": [round(one, 4) for one, _ in pairs],
        "seconds_bare": [round(other, 4) for _, other in pairs],
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_lowest": round(min(ratios), 4),
        "ratio_highest": round(max(ratios), 4),
    }


def time_augmenter() -> dict[str, Any]:
    """Time `BatchAugmenter` against albumentations, on one core each."""
    data = _smooth_images(256, SIDE)
    augment = BatchAugmenter(_image_plan(VARIED))
    theirs = _by_albumentations(data, 0, BATCH)
    torch.set_num_threads(1)

    def ours() -> None:
        for rows in draws.permutation(len(data), "order").split(BATCH):
            augment(data.images.index_select(0, rows), data.targets.index_select(0, rows))

    what = f"{OF_BARE} albumentations with the same policy: `BatchAugmenter` on one core"
    return compared("augmenter", what, ours, lambda: _through(theirs), time.process_time, images=len(data))


def time_dataset(backend: Any) -> dict[str, Any]:
    """Time `DiversifiedDataset` on images in memory against albumentations, on one core each."""
    data = _smooth_images(256, SIDE)
    dataset = DiversifiedDataset(data, _image_plan(VARIED), backend=backend)
    theirs = _by_albumentations(data, 0, BATCH)
    batches = [rows.tolist() for rows in draws.permutation(len(data), "order").split(BATCH)]
    torch.set_num_threads(1)

    def ours() -> None:
        for rows in batches:
            dataset.__getitems__(rows)

    what = f'{OF_BARE} albumentations with the same policy: `DiversifiedDataset` with `backend="{backend}"` on one core'
    return compared(f"dataset_{backend}", what, ours, lambda: _through(theirs), time.process_time, images=len(data))


@contextmanager
def image_folder(ending: str = "jpg", size: tuple[int, int] = (500, 375), files: int = FILES) -> Iterator[Path]:
    """Make a folder of image files in folders of classes: smooth shapes under some noise."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        for row in range(files):
            shapes = draws.integers(256, "shapes", row, torch.arange(24 * 32 * 3)).to(torch.uint8).view(24, 32, 3)
            picture = np.asarray(Image.fromarray(shapes.numpy()).resize(size, Image.Resampling.BICUBIC))
            noise = draws.integers(30, "noise", row, torch.arange(picture.size)).numpy().reshape(picture.shape)
            folder = top / f"class_{row % CLASSES}"
            folder.mkdir(exist_ok=True)
            made = Image.fromarray((picture * 0.85 + noise).astype(np.uint8))
            made.save(folder / f"{row:05}.{ending}", **({"quality": 90} if ending == "jpg" else {}))
        yield top


def per_class() -> Plan:
    """Return a plan whose classes have other strengths; their mean is that of `VARIED`."""
    strengths = torch.linspace(VARIED.strength - 0.2, VARIED.strength + 0.2, CLASSES).tolist()
    policies = [VARIED.model_copy(update={"strength": round(strength, 3)}) for strength in strengths]
    classes = [
        ClassPlan(name=f"class_{row}", count=FILES // CLASSES, draws=1 / CLASSES, image=policy)
        for row, policy in enumerate(policies)
    ]
    return Plan(classes=tuple(classes), largest_difference=1.0)


TO_SIZE = [v2.Resize(SIDE), v2.CenterCrop(SIDE)]


def by_torchvision() -> v2.Transform:
    """Return torchvision's version of `VARIED`, for uint8 tensors."""
    most, shear, shift = 0.9 * VARIED.strength, 16.7 * VARIED.strength, 0.33 * VARIED.strength
    bilinear = v2.InterpolationMode.BILINEAR
    factor = (1 - most, 1 + most)
    found = {
        "shear_x": v2.RandomAffine(0, shear=(-shear, shear, 0, 0), interpolation=bilinear),
        "shear_y": v2.RandomAffine(0, shear=(0, 0, -shear, shear), interpolation=bilinear),
        "translate_x": v2.RandomAffine(0, translate=(shift, 0)),
        "translate_y": v2.RandomAffine(0, translate=(0, shift)),
        "rotate": v2.RandomRotation(30 * VARIED.strength, interpolation=bilinear),
        "zoom": v2.RandomAffine(
            0, scale=(1 - 0.3 * VARIED.strength, 1 + 0.3 * VARIED.strength), interpolation=bilinear
        ),
        "brightness": v2.ColorJitter(brightness=factor),
        "contrast": v2.ColorJitter(contrast=factor),
        "saturation": v2.ColorJitter(saturation=factor),
        "sharpness": v2.RandomAdjustSharpness(1 + most, p=1),
        "posterize": v2.RandomPosterize(5, p=1),
        "solarize": v2.RandomSolarize(255 * (1 - VARIED.strength), p=1),
        "autocontrast": v2.RandomAutocontrast(p=1),
        "equalize": v2.RandomEqualize(p=1),
        "invert": v2.RandomInvert(p=1),
        "erase": v2.RandomErasing(p=1, scale=(0.05, 0.2)),
        "crop": v2.RandomCrop(SIDE, padding=SIDE // 8),
        "flip": v2.RandomHorizontalFlip(),
    }
    one = v2.RandomChoice([found[name] for name in VARIED.operations])
    return v2.RandomApply([one] * VARIED.layers, p=VARIED.probability)


class AsArray:
    """Make a PIL image an array, augment it by albumentations, and make it a tensor, as a user would do it."""

    def __init__(self, vary: A.Compose) -> None:
        self.vary = vary

    def __call__(self, image: Image.Image) -> Tensor:
        """Return `(C, H, W)` uint8."""
        made = self.vary(image=np.asarray(image))["image"]
        return torch.from_numpy(np.ascontiguousarray(made.transpose(2, 0, 1)))


class ToTensor(Dataset[Any]):
    """PIL images as tensors, after they were augmented."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        image, label = self.dataset[index]
        return v2.functional.pil_to_tensor(image), label


def anonymous_mib(loader: DataLoader[Any]) -> float:
    """Return the memory of a loader's workers that no file and no other process shares, in MiB."""
    found = 0
    for worker in loader._iterator._workers:  # type: ignore[union-attr]
        status = Path(f"/proc/{worker.pid}/status").read_text()
        found += next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    return found / 1024


def time_folder(bare: str, kind: str) -> dict[str, Any]:
    """Time a loader with per-class policies over an image folder against a bare pipeline, in two workers each."""
    with image_folder() as top:
        plain = v2.Compose([*TO_SIZE, v2.PILToTensor()] if kind == "tensors" else TO_SIZE)
        dataset: Any = DiversifiedDataset(ImageFolder(top, plain), per_class())
        if kind != "tensors":
            dataset = ToTensor(dataset)
        if bare == "torchvision":
            vary = v2.Compose([*TO_SIZE, v2.PILToTensor(), by_torchvision()])
        else:
            layers = _albumentations(VARIED.strength, SIDE)
            some = A.SomeOf(
                [layers[name] for name in VARIED.operations], n=VARIED.layers, replace=True, p=VARIED.probability
            )
            vary = v2.Compose([*TO_SIZE, AsArray(A.Compose([some], seed=0))])
        ours, theirs = (_loader(one, 2, BATCH) for one in (dataset, ImageFolder(top, vary)))
        torch.set_num_threads(1)
        _through(ours)
        memory = [anonymous_mib(ours)]
        what = f"{OF_BARE} {bare} called bare: an image folder in two workers, `DiversifiedDataset` on {kind}"
        name = f"folder_{bare}_{kind.replace(' ', '_')}"
        found = compared(name, what, lambda: _through(ours), lambda: _through(theirs), time.perf_counter, images=FILES)
        memory.append(anonymous_mib(ours))
        return {**found, "workers_mib": [round(one, 1) for one in memory]}


def time_decoding(ending: str, size: tuple[int, int]) -> dict[str, Any]:
    """Time torchvision's decoder against Pillow's, file to tensor, on one core."""
    from torchvision.io import ImageReadMode, decode_image

    with image_folder(ending, size, 64) as top:
        paths = sorted(top.rglob(f"*.{ending}"))

        def by_torchvision(path: Path) -> Tensor:
            content = torch.from_numpy(np.fromfile(path, np.uint8))
            return decode_image(content, mode=ImageReadMode.RGB)

        def by_pillow(path: Path) -> Tensor:
            with Image.open(path) as image:
                return v2.functional.pil_to_tensor(image.convert("RGB"))

        torch.set_num_threads(1)
        others = sum(not torch.equal(by_torchvision(path), by_pillow(path)) for path in paths)
        what = f"{OF_BARE} Pillow: torchvision.io decodes {ending.upper()} of {size[0]} x {size[1]} pixels, on one core"
        return compared(
            f"decode_{ending}_{size[0]}",
            what,
            lambda: [by_torchvision(path) for path in paths],
            lambda: [by_pillow(path) for path in paths],
            time.process_time,
            images=len(paths),
            images_with_other_pixels=others,
        )


def time_reading() -> dict[str, Any]:
    """Time `read_image` as it is against itself with Pillow alone."""
    with image_folder(files=64) as top:
        paths = sorted(top.rglob("*.jpg"))
        agree = decode._decoders_agree

        def by_pillow() -> None:
            decode._decoders_agree = lambda: False
            try:
                for path in paths:
                    decode.read_image(path)
            finally:
                decode._decoders_agree = agree

        what = f"{OF_BARE} Pillow alone: `read_image` on JPEG of 500 x 375 pixels, on one core"
        torch.set_num_threads(1)
        return compared(
            "read_image",
            what,
            lambda: [decode.read_image(path) for path in paths],
            by_pillow,
            time.process_time,
            images=len(paths),
        )


FIGURES = {
    "augmenter": time_augmenter,
    "dataset_torch": partial(time_dataset, "torch"),
    "dataset_albumentations": partial(time_dataset, "albumentations"),
    "folder_albumentations": partial(time_folder, "albumentations", "PIL images"),
    "folder_torchvision": partial(time_folder, "torchvision", "tensors"),
    "read_image": time_reading,
    "decode_jpg_224": partial(time_decoding, "jpg", (224, 224)),
    "decode_jpg_500": partial(time_decoding, "jpg", (500, 375)),
    "decode_png_224": partial(time_decoding, "png", (224, 224)),
    "decode_png_500": partial(time_decoding, "png", (500, 375)),
}


if __name__ == "__main__":
    keep(FIGURES, sys.argv[1:], RESULTS)
