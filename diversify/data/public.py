"""Readers of public data sets, and the registry of all data sources."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, must, unknown
from .image_folder import read_folder
from .images import IMAGE_ENDINGS, ImageArray, ImageFiles, Images
from .labels import check_labels
from .saved_tables import is_saved, read_saved
from .sources import Source, read_npz, read_python

Found = TypeVar("Found")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _digits(root: Path, download: bool) -> Source:
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
_CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard "
    "lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear "
    "pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal "
    "shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank "
    "telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)


def _cifar10(root: Path, download: bool) -> Source:
    source = _cifar("CIFAR10", root / "cifar10.npz", root / "cifar-10-batches-py", download)
    return dataclasses.replace(
        source, class_names=_CIFAR10_CLASSES, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)
    )


def _cifar100(root: Path, download: bool) -> Source:
    source = _cifar("CIFAR100", root / "cifar100.npz", root / "cifar-100-python", download)
    return dataclasses.replace(
        source, class_names=_CIFAR100_CLASSES.split(), mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)
    )


def _cifar(name: str, stored: Path, unpacked: Path, download: bool) -> Source:
    return read_npz(stored) if stored.exists() else _torchvision(name, stored.parent, unpacked, download)


def _mnist(root: Path, download: bool) -> Source:
    source = _torchvision("MNIST", root, root / "MNIST" / "raw", download)
    return dataclasses.replace(source, mean=(0.1307,), std=(0.3081,), mirror=False)


def _fashion_mnist(root: Path, download: bool) -> Source:
    source = _torchvision("FashionMNIST", root, root / "FashionMNIST" / "raw", download)
    return dataclasses.replace(source, mean=(0.2860,), std=(0.3530,))


def _svhn(root: Path, download: bool) -> Source:
    """SVHN's cropped digits, 32 x 32, without the `extra` images."""
    from torchvision import datasets

    splits: dict[str, tuple[Images, Tensor]] = {}
    for split in ("train", "test"):

        def read(split: str = split) -> Any:
            return datasets.SVHN(str(root), split=split, download=download)

        found = _read("SVHN", root, root / f"{split}_32x32.mat", download, read)
        images = torch.from_numpy(np.ascontiguousarray(found.data))
        labels = check_labels(f"SVHN {split}", found.labels, rows=len(images))
        splits[split] = (ImageArray(images, labels), labels)
    return Source(
        splits=splits,
        class_names=[str(digit) for digit in range(10)],
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        mirror=False,
    )


def _torchvision(name: str, root: Path, unpacked: Path, download: bool) -> Source:
    from torchvision import datasets

    splits: dict[str, tuple[Images, Tensor]] = {}
    names: list[str] = []
    for split in ("train", "test"):

        def read(split: str = split) -> Any:
            return getattr(datasets, name)(str(root), train=split == "train", download=download)

        found = _read(name, root, unpacked, download, read)
        images = torch.as_tensor(found.data)
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        labels = check_labels(f"{name} {split}", found.targets, rows=len(images))
        splits[split] = (ImageArray(images, labels), labels)
        names = [str(each) for each in found.classes]
    return Source(splits=splits, class_names=names)


def _read(name: str, root: Path, unpacked: Path, download: bool, read: Callable[[], Found]) -> Found:
    """Return what torchvision's reader returns; `unpacked` exists if the data set is there, complete or not."""
    try:
        return read()
    except (InputError, MemoryError):
        raise
    except Exception as error:  # missing or damaged files and a missing network raise many kinds of errors
        if download:
            raise must(name, "be downloaded", f"{type(error).__name__}: {error}") from error
        if unpacked.exists():
            raise must(f"{name} under root", "be whole", root, "remove it and pass download=True") from error
        raise _not_there(name, root) from error


def _not_there(name: str, root: Path) -> InputError:
    return must(f"{name} under root", "be there", root, "pass root=FOLDER or download=True")


def _places365(root: Path, download: bool) -> Source:
    """Places365-Standard at 256 x 256, in torchvision's layout.

    Papers report on the official validation images, because the test labels are not public. They are `test` here, and `val`
    is split off from train.
    """
    from torchvision import datasets

    splits: dict[str, tuple[Images, Tensor]] = {}
    names: list[str] = []
    for split, official in (("train", "train-standard"), ("test", "val")):

        def read(official: str = official) -> Any:
            return datasets.Places365(str(root), split=official, small=True, download=download)

        found = _read("Places365", root, root / "categories_places365.txt", download, read)
        if not Path(found.images_dir).is_dir():
            raise _not_there(f"{Path(found.images_dir).name} of Places365", root)
        labels = check_labels(f"Places365 {official}", found.targets)
        splits[split] = (ImageFiles([Path(path) for path, _ in found.imgs], labels, top=root), labels)
        numbers = found.class_to_idx
        names = [each.strip("/").partition("/")[2] for each in sorted(numbers, key=numbers.__getitem__)]
    return Source(splits=splits, class_names=names, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _inaturalist(root: Path, download: bool) -> Source:
    """iNaturalist 2021 by species, in torchvision's layout: `2021_train`, or `2021_train_mini` if that is not there.

    Papers report on `2021_valid`, because the test labels are not public. It is `test` here, and `val` is split off from
    train. A download fetches the mini version.
    """
    from torchvision import datasets

    trains = [version for version in ("2021_train", "2021_train_mini") if (root / version).is_dir()]
    if not trains and not download:
        raise _not_there("2021_train or 2021_train_mini of iNaturalist", root)
    versions = {"train": trains[0] if trains else "2021_train_mini"}
    if download or (root / "2021_valid").is_dir():
        versions["test"] = "2021_valid"
    splits: dict[str, tuple[Images, Tensor]] = {}
    names: dict[str, list[str]] = {}
    for split, version in versions.items():

        def read(version: str = version) -> Any:
            fetch = download and not (root / version).is_dir()  # torchvision refuses to download what is there
            return datasets.INaturalist(str(root), version=version, target_type="full", download=fetch)

        found = _read("iNaturalist", root, root / version, download, read)
        names[split] = list(found.all_categories)
        files = sorted((c, name) for c, name in found.index if Path(name).suffix.lower() in IMAGE_ENDINGS)
        paths = [root / version / names[split][c] / name for c, name in files if not name.startswith(".")]
        labels = check_labels(f"iNaturalist {version}", [c for c, name in files if not name.startswith(".")])
        splits[split] = (ImageFiles(paths, labels, top=root), labels)
    if "test" in names and names["train"] != names["test"]:
        law = f"have the same species in {versions['train']} and 2021_valid"
        raise must("iNaturalist under root", law, f"{len(names['train'])} and {len(names['test'])} that differ")
    return Source(splits=splits, class_names=names["train"], mean=IMAGENET_MEAN, std=IMAGENET_STD)


_NAMED: dict[str, Callable[[Path, bool], Source]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "svhn": _svhn,
    "mnist": _mnist,
    "fashion-mnist": _fashion_mnist,
    "places365": _places365,
    "inaturalist": _inaturalist,
}
_PLACED: dict[str, Callable[[Path], Source]] = {
    "npz": read_npz,
    "folder": lambda top: read_saved(top) if is_saved(top) else read_folder(top),
}
SOURCES = (*_NAMED, "npz:FILE", "folder:DIR", "package.module:function")


def read_source(spec: str, root: Path, *, download: bool = False, name: str = "data") -> Source:
    """Read a data source.

    Args:
        spec: One of `SOURCES`.
        root: Folder of the public data sets.
        download: Download a public data set that is missing.
        name: The parameter that an error names.

    Raises:
        InputError: The source is unknown, missing or damaged.
    """
    kind, _, argument = spec.partition(":")
    if kind in _NAMED and not argument:
        return _NAMED[kind](root, download)
    if kind in _PLACED and argument:
        return _PLACED[kind](Path(argument))
    if argument and kind not in (*_NAMED, *_PLACED):
        return read_python(spec)
    if spec and (Path(spec).is_dir() or Path(spec).suffix == ".npz"):
        advice = f"write {'folder' if Path(spec).is_dir() else 'npz'}:{spec}"
        raise must(name, f"be one of {', '.join(SOURCES)}", repr(spec), advice)
    raise unknown(name, spec, SOURCES)
