"""Where images and labels come from: the named sources, `.npz` files, folders of images, and data sets of your own.

Each reader returns a `Source`: its splits as the source has them, whole, with what is usual for it. Choosing a subset,
cutting a hold-out and scaling are the business of `data.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset
from torchvision.transforms.v2 import functional as tvf

from .errors import InputError, must, unknown
from .importing import call_object, import_object

Images = Dataset[Any]
Array = np.ndarray[Any, Any]
SPLITS = ("train", "val", "test")


# Images


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
    """Images in memory: `(N, C, H, W)` uint8, or float in [0, 1]; a batch is fetched with one index operation."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.targets = images, labels

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.targets[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = torch.as_tensor(indices)
        return Batch(self.images[rows], self.targets[rows])


class ImageFiles(Images):
    """Image files, read as RGB uint8 `(3, H, W)`; `shape`, where there is one, resizes and crops each."""

    def __init__(self, paths: Sequence[Path], labels: Tensor, shape: Callable[[Tensor], Tensor] | None = None) -> None:
        self.paths, self.targets, self.shape = list(paths), labels, shape

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = _read_image(self.paths[index])
        return (self.shape(image) if self.shape else image), self.targets[index]

    def require_one_size(self) -> None:
        """An InputError that names the first two sizes, unless there is one; reads the files' headers only."""
        width, height = first = _image_size(self.paths[0])
        for path in self.paths[1:]:
            if (size := _image_size(path)) != first:
                got = f"{width} x {height} in {self.paths[0]} and {size[0]} x {size[1]} in {path}"
                raise must("image files", "have one size", got, "pass --resize N --crop N")


def _read_image(path: Path) -> Tensor:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return as_image(image.convert("RGB") if _has_8_bits(image) else image)
    except InputError as error:
        raise must("image file", "have 8 bits per channel", path, "save it as 8-bit grey or RGB") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise must("image file", "be a readable image", path) from error


def _image_size(path: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise must("image file", "be a readable image", path) from error


def _has_8_bits(image: Any) -> bool:
    """False for Pillow's 16 and 32 bit modes, which it would clip at 255 without a word."""
    return not image.mode.startswith(("I", "F"))


def as_image(image: Any) -> Tensor:
    """`(C, H, W)` tensor from a tensor, a PIL image, or a numpy array `(H, W)` or `(H, W, C)`; no value is changed.

    PIL images that are neither grey nor RGB (palettes, transparency) become RGB.
    """
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] > 4):
            raise must("an image of the data set", "have shape (H, W) or (H, W, C) as a numpy array", image.shape)
        return torch.from_numpy(image[None].copy() if image.ndim == 2 else image.transpose(2, 0, 1).copy())
    if isinstance(image, Tensor):
        if image.ndim not in (2, 3):
            raise must("an image of the data set", "have shape (C, H, W) or (H, W)", tuple(image.shape))
        return image if image.ndim == 3 else image.unsqueeze(0)
    if hasattr(image, "getbands"):
        if not _has_8_bits(image):
            raise must("an image of the data set", "have 8 bits per channel", f"PIL mode {image.mode}")
        return cast(Tensor, tvf.pil_to_tensor(image if image.mode in ("L", "RGB") else image.convert("RGB")))
    raise must("an image of the data set", "be a tensor, a numpy array or a PIL image", type(image).__name__)


# Labels


def labels_of(dataset: Images) -> Tensor:
    """`(N,)` int64 labels of a map-style data set, found without loading an image.

    Looks through `Subset` and `ConcatDataset`, at the second tensor of a `TensorDataset`, at `targets`, `labels`,
    `_labels`, `y`, and at `samples` / `imgs` as ImageFolder keeps them.

    Raises:
        InputError: nothing of the kind is there, or what is there is not one integer per example.
    """
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset)[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        return torch.cat([labels_of(part) for part in dataset.datasets])
    name = type(dataset).__name__
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise must("data set", "be map-style, with a length and an index", name)
    found: object = None
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        found = dataset.tensors[1]
    for attribute in ("targets", "labels", "_labels", "y"):
        found = getattr(dataset, attribute, None) if found is None else found
    for attribute in ("samples", "imgs"):
        if found is None and hasattr(dataset, attribute):
            found = [example[1] for example in getattr(dataset, attribute)]
    if found is None:
        raise must("data set", "show its labels without loading images, as an attribute `targets` or `labels`", name)
    return check_labels(name, found, rows=len(dataset))


def check_labels(name: str, labels: object, *, rows: int | None = None) -> Tensor:
    """`(N,)` int64 from integers of shape `(N,)` or `(N, 1)`; raises when they are anything else."""
    if not isinstance(labels, Tensor):
        try:
            array = np.asarray(labels)
        except ValueError:
            raise must(f"labels of {name}", "be one integer per image", "lists of several lengths") from None
        if array.dtype.kind not in "iub" and array.size:
            whole = array.dtype.kind == "f" and bool(np.all(np.isfinite(array) & (array == np.floor(array))))
            advice = "convert them with .astype(int)" if whole else ""
            raise must(f"labels of {name}", "be integers", array.dtype, advice)
        labels = torch.from_numpy(array.astype(np.int64))
    if labels.is_floating_point() or labels.is_complex():
        raise must(f"labels of {name}", "be integers", labels.dtype)
    labels = labels.detach().to("cpu", torch.int64)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise must(f"labels of {name}", "have shape (N,) or (N, 1)", tuple(labels.shape))
    if rows is not None and len(labels) != rows:
        raise must(f"labels of {name}", f"be as many as its images, {rows}", len(labels))
    if len(labels) == 0:
        raise must(name, "have at least one image", 0)
    if (low := int(labels.min())) < 0:
        raise must(f"labels of {name}", "not be negative", f"{low} at row {int((labels == low).nonzero()[0, 0])}")
    return labels


# Sources


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What a reader returns: splits as (data set, labels), class names, and the usual normalisation of this source."""

    splits: Mapping[str, tuple[Images, Tensor]]
    class_names: Sequence[str] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    mirror: bool = True  # whether an image and its mirror image show the same class
    ready: bool = False  # the images are already what the model sees
    test_share: float = 0.0  # to be cut from train, stratified, for a source without a test set


def _digits(root: Path, argument: str, download: bool) -> Source:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    return Source(
        splits={"train": (ImageArray(images, labels), labels)},
        class_names=[str(digit) for digit in range(10)],
        mean=(0.3053,),
        std=(0.3762,),
        mirror=False,
        test_share=0.3,
    )


_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _cifar10(root: Path, argument: str, download: bool) -> Source:
    stored = root / "cifar10.npz"
    source = _npz(root, str(stored), download) if stored.exists() else _torchvision("CIFAR10", root, download)
    return dataclasses.replace(
        source, class_names=_CIFAR10_CLASSES, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)
    )


def _mnist(root: Path, argument: str, download: bool) -> Source:
    return dataclasses.replace(_torchvision("MNIST", root, download), mean=(0.1307,), std=(0.3081,), mirror=False)


def _fashion_mnist(root: Path, argument: str, download: bool) -> Source:
    return dataclasses.replace(_torchvision("FashionMNIST", root, download), mean=(0.2860,), std=(0.3530,))


def _torchvision(name: str, root: Path, download: bool) -> Source:
    from torchvision import datasets

    splits: dict[str, tuple[Images, Tensor]] = {}
    for split in ("train", "test"):
        try:
            found = getattr(datasets, name)(str(root), train=split == "train", download=download)
        except Exception as error:  # whatever a reader makes of absent files, of broken ones, and of no network
            if download:
                raise must(name, "be downloaded", f"{type(error).__name__}: {error}") from error
            if isinstance(error, RuntimeError) and "not found" in str(error):
                advice = "pass the right --root, or --download"
                raise must(f"{name} under --root", "be there", root, advice) from error
            raise must(f"{name} under --root", "be whole", root, "remove it and pass --download") from error
        images = torch.as_tensor(found.data)
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        labels = check_labels(f"{name} {split}", found.targets, rows=len(images))
        splits[split] = (ImageArray(images, labels), labels)
    return Source(splits=splits, class_names=[str(name) for name in found.classes])


def _npz(root: Path, argument: str, download: bool) -> Source:
    path = Path(argument)
    if not path.is_file():
        raise must("npz file", "exist", path)
    stored = _read_npz(path)
    splits: dict[str, tuple[Images, Tensor]] = {}
    for split in SPLITS:
        if f"{split}_images" in stored:
            if f"{split}_labels" not in stored:
                raise must("npz file", f"have {split}_labels beside {split}_images", ", ".join(stored))
            images = _image_array(f"{split}_images", stored[f"{split}_images"])
            labels = check_labels(f"{split}_images", stored[f"{split}_labels"], rows=len(images))
            splits[split] = (ImageArray(images, labels), labels)
    if "train" not in splits:
        raise must("npz file", "have train_images and train_labels", ", ".join(stored) or "nothing")
    channels = {split: len(dataset[0][0]) for split, (dataset, _) in splits.items()}
    if len(set(channels.values())) > 1:
        got = ", ".join(f"{count} in {split}" for split, count in channels.items())
        raise must("npz file", "have images of one number of channels", got)
    names = stored.get("class_names")
    if names is not None and (names.ndim != 1 or names.dtype.kind not in "US"):
        raise must("class_names", "be a list of names", f"{names.dtype} of shape {names.shape}")
    return Source(splits=splits, class_names=None if names is None else names.astype(str).tolist())


def _read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an `.npz` under names that we know; under other names an empty one, the stored one unread."""
    known = {f"{split}_{part}" for split in SPLITS for part in ("images", "labels")} | {"class_names"}
    try:
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.lib.npyio.NpzFile):
            with stored:
                return {name: _member(stored, name) if name in known else np.empty(0) for name in stored.files}
    except MemoryError:
        raise
    except Exception as error:  # whatever the archive, the decompressor and the header parser make of broken bytes
        raise must("npz file", "be a whole NumPy .npz without Python objects", path) from error
    raise must("npz file", "hold named arrays", f"a single array in {path}", "save it with numpy.savez")


def _member(stored: Any, name: str) -> Array:
    if not isinstance(array := stored[name], np.ndarray):  # bytes, when the member is no .npy file
        raise TypeError(name)
    return array


def _image_array(name: str, array: Array) -> Tensor:
    """`(N, C, H, W)` uint8, or float32 in [0, 1], from `(N, H, W)` or `(N, H, W, C)`."""
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3):
        raise must(name, "have shape (N, H, W), (N, H, W, 1) or (N, H, W, 3)", array.shape)
    if array.dtype.kind == "f":
        low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
        if not (low >= 0 and high <= 1):
            raise must(name, "be uint8, or float in [0, 1]", f"{array.dtype} from {low:g} to {high:g}")
        array = array.astype(np.float32, copy=False)
    elif array.dtype != np.uint8:
        raise must(name, "be uint8, or float in [0, 1]", array.dtype)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def _folder(root: Path, argument: str, download: bool) -> Source:
    top = Path(argument)
    if not top.is_dir():
        raise must("image folder", "exist", top)
    found = {entry.name for entry in _subfolders(top)}
    if found and found <= {"val", "test"}:
        raise must("image folder", "have a folder train beside val and test", ", ".join(sorted(found)))
    places = {split: top / split for split in SPLITS if split in found} if "train" in found else {"train": top}
    names = sorted({entry.name for place in places.values() for entry in _subfolders(place)})
    if not names:
        raise must("image folder", "have one folder per class", f"none in {places['train']}")
    splits: dict[str, tuple[Images, Tensor]] = {}
    for split, place in places.items():
        files = [
            (path, number)
            for number, name in enumerate(names)
            for path in sorted((place / name).rglob("*"))
            if path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".") and path.is_file()
        ]
        labels = check_labels(f"image folder {place}", [number for _, number in files])
        splits[split] = (ImageFiles([path for path, _ in files], labels), labels)
    return Source(splits=splits, class_names=names)


def _subfolders(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _python(spec: str) -> Source:
    law = "return a mapping with a data set under 'train'"
    made = call_object(spec, import_object(spec, "--data"), law)
    if not isinstance(made, Mapping) or made.get("train") is None:
        got = f"one with {', '.join(map(str, made)) or 'nothing'}" if isinstance(made, Mapping) else type(made).__name__
        raise must(f"{spec}()", law, got)
    splits = {split: (made[split], labels_of(made[split])) for split in SPLITS if made.get(split) is not None}
    return Source(splits=splits, class_names=made.get("class_names"), ready=True)


_READERS: dict[str, Callable[[Path, str, bool], Source]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "mnist": _mnist,
    "fashion-mnist": _fashion_mnist,
    "npz": _npz,
    "folder": _folder,
}
_WITH_ARGUMENT = ("npz", "folder")
SOURCES = ("digits", "cifar10", "mnist", "fashion-mnist", "npz:FILE", "folder:DIR", "package.module:function")


def read_source(spec: str, root: Path, *, download: bool = False) -> Source:
    """The source that `spec`, one of `SOURCES`, names; `root` is where named sources are kept.

    Raises:
        InputError: the source is unknown, missing or damaged.
    """
    kind, _, argument = spec.partition(":")
    if kind in _READERS and bool(argument) == (kind in _WITH_ARGUMENT):
        return _READERS[kind](root, argument, download)
    if argument and kind not in _READERS:
        return _python(spec)
    raise unknown("--data", spec, SOURCES)
