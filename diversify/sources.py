"""Where images and labels come from: `.npz` files, folders of images, and data sets of your own.

Each reader returns a `Source`: its splits as the source has them, whole, with what is usual for it. Public data sets have
their names in `named_sources.py`; choosing a subset, cutting a hold-out and scaling are the business of `data.py`.
"""

from __future__ import annotations

import dataclasses
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from . import storage
from .errors import must
from .images import IMAGE_ENDINGS, Array, ImageArray, ImageFiles, Images, Own
from .importing import call_object, import_object
from .tables import Table, image_column, is_table, table_class_names, table_labels

SPLITS = ("train", "val", "test")
SPELLINGS = {"train": ("train", "training"), "val": ("val", "validation", "valid"), "test": ("test", "testing")}
OTHER_ENDINGS = (".apng", ".avif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe", ".jxl", ".pbm", ".pnm", ".tga")
"""Endings of images that are not read."""
ARCHIVE_LEFTOVERS = "__MACOSX"
"""The folder of metadata that macOS puts into its archives."""


# Labels


def labels_of(dataset: Images) -> Tensor:
    """`(N,)` int64 labels of a map-style data set, found without loading an image.

    Looks through `Subset` and `ConcatDataset`, at the second tensor of a `TensorDataset`, at `targets`, `labels`,
    `_labels`, `y`, at `samples` / `imgs` as ImageFolder keeps them, and at the column of a data set of dicts.

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
    if found is None and is_table(dataset):
        found = table_labels(dataset)
    if found is None:
        raise must("data set", "show its labels without loading images, as an attribute `targets` or `labels`", name)
    return check_labels(name, found, rows=len(dataset))


def check_labels(name: str, labels: object, *, rows: int | None = None) -> Tensor:
    """`(N,)` int64 from integers of shape `(N,)` or `(N, 1)`; raises when they are anything else."""
    if not isinstance(labels, Tensor) or labels.dtype == torch.uint64:
        try:
            array = np.asarray(labels)
        except ValueError:
            raise must(f"labels of {name}", "be one integer per image", "lists of several lengths") from None
        if array.dtype == object and array.ndim == 1:
            for row, label in enumerate(array.tolist()):
                if not isinstance(label, int | np.integer):
                    raise must(f"labels of {name}", "be integers", f"{label!r} at row {row}")
        if array.dtype == object or (array.dtype.kind == "u" and array.itemsize == 8):
            for row, label in enumerate(array.ravel().tolist()):
                if isinstance(label, int) and label >= 1 << 63:
                    raise must(f"labels of {name}", "be less than 2^63", f"{label} at row {row}")
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
        advice = _about_labels(labels) if labels.ndim == 2 else ""
        raise must(f"labels of {name}", "have shape (N,) or (N, 1)", tuple(labels.shape), advice)
    if rows is not None and len(labels) != rows:
        raise must(f"labels of {name}", f"be as many as its images, {rows}", len(labels))
    if len(labels) == 0:
        raise must(name, "have at least one image", 0)
    if (low := int(labels.min())) < 0:
        advice = "leave this split out: -1 throughout means that it has no labels" if bool((labels == -1).all()) else ""
        got = f"{low} at row {int((labels == low).nonzero()[0, 0])}"
        raise must(f"labels of {name}", "not be negative", got, advice)
    return labels


def _about_labels(labels: Tensor) -> str:
    one_hot = bool(((labels == 0) | (labels == 1)).all()) and bool((labels.sum(1) == 1).all())
    if one_hot and len(labels):
        return "convert one-hot labels with .argmax(1)"
    return "several labels per image (multi-label data) cannot be diagnosed: each image needs one class"


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
    notes: tuple[str, ...] = ()  # what a reader of the results should know, one line each


def on_one_line(text: str) -> str:
    """The text with a space for each control character and line break: it goes into tables, reports and terminals.

    Bytes of a file's name that are no Unicode text become question marks in a diamond.
    """
    readable = (
        " " if unicodedata.category(each) in ("Cc", "Zl", "Zp") else "\ufffd" if "\ud800" <= each <= "\udfff" else each
        for each in text
    )
    return "".join(readable)


def _split_of(name: str) -> str | None:
    """The split that has this name, in capitals or not."""
    return next((split for split, spellings in SPELLINGS.items() if name.casefold() in spellings), None)


def _spelled(found: Collection[str], what: str) -> dict[str, str]:
    """For each split, what it is called among the names that were found."""
    places: dict[str, str] = {}
    for split in SPLITS:
        names = [name for name in found if _split_of(name) == split]
        if len(names) > 1:
            raise must(what, f"have one {split} split", " and ".join(names))
        if names:
            places[split] = names[0]
    return places


def _read_as(places: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{name} is read as {split}" for split, name in places.items() if name != split)


def read_npz(path: Path) -> Source:
    """The splits of an `.npz` file under MedMNIST's key names."""
    storage.require_file(path, "npz file")
    stored = _stored_arrays(path)
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
    return Source(splits=splits, class_names=None if names is None else [_text(name) for name in names.tolist()])


def _text(name: str | bytes) -> str:
    try:
        return name.decode() if isinstance(name, bytes) else name
    except UnicodeDecodeError as error:
        raise must("class_names", "be text in UTF-8", repr(name)) from error


def _stored_arrays(path: Path) -> dict[str, Array]:
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


def _about_shape(shape: tuple[int, ...]) -> str:
    if len(shape) == 5 or (len(shape) == 4 and shape[1] > 4 and shape[3] > 4):
        return "volumes (3-D data) cannot be read: bring 2-D images, for example slices"
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] > 4:
        return "put the channels last with .transpose(0, 2, 3, 1)"
    return ""


def _image_array(name: str, array: Array) -> Tensor:
    """`(N, C, H, W)` uint8, or float32 in [0, 1], from `(N, H, W)` or `(N, H, W, C)`."""
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3):
        raise must(name, "have shape (N, H, W), (N, H, W, 1) or (N, H, W, 3)", array.shape, _about_shape(array.shape))
    if 0 in array.shape[1:3]:
        raise must(name, "have images of at least 1 x 1 pixels", f"{array.shape[2]} x {array.shape[1]}")
    if array.dtype.kind == "f":
        low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
        if not (low >= 0 and high <= 1):
            raise must(name, "be uint8, or float in [0, 1]", f"{array.dtype} from {low:g} to {high:g}")
        array = array.astype(np.float32, copy=False)
    elif array.dtype != np.uint8:
        raise must(name, "be uint8, or float in [0, 1]", array.dtype)
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def read_folder(top: Path) -> Source:
    """The splits of a tree of image files with a folder per class: `train`, `val` and `test`, or one tree without splits.

    `validation` and `valid` are read as val, `training` as train, `testing` as test, all in capitals or not. A folder
    `train` beside folders of other names is a class, unless it has folders of its own. The same name in two Unicode normal
    forms is one class. Hidden files and folders are not read; links to folders are followed.
    """
    if not top.is_dir():
        raise must("image folder", "be an existing folder", top)
    found = sorted(entry.name for entry in _subfolders(top))
    known = [name for name in found if _split_of(name)]
    trains = [name for name in known if _split_of(name) == "train"]
    if found and found == known and not trains:
        raise must("image folder", "have a folder train beside val and test", ", ".join(found))
    places, notes = {"train": top}, []
    if trains and (found == known or any(_subfolders(top / name) for name in trains)):
        spelled = _spelled(found, "image folder")
        places = {split: top / name for split, name in spelled.items()}
        notes = [f"folder {line}" for line in _read_as(spelled)]
        if extra := [name for name in found if name not in known]:
            notes.append(f"not read: {listed(extra)}, beside {spelled['train']} in {top}")
    if archives := [place for place in dict.fromkeys((top, *places.values())) if (place / ARCHIVE_LEFTOVERS).is_dir()]:
        notes.append(f"not read: {ARCHIVE_LEFTOVERS} in {listed([str(place) for place in archives])}")
    folders = {split: _class_folders(place) for split, place in places.items()}
    spellings_on_disk: dict[str, str] = {}
    for by_key in folders.values():
        for key, folder in by_key.items():
            spellings_on_disk.setdefault(key, folder.name)
    keys = sorted(spellings_on_disk, key=spellings_on_disk.__getitem__)
    if not keys:
        raise must("image folder", "have one folder per class", f"none in {places['train']}")
    splits: dict[str, tuple[Images, Tensor]] = {}
    others: Counter[str] = Counter()
    for split, place in places.items():
        files: list[tuple[Path, int]] = []
        for number, key in enumerate(keys):
            if key in folders[split]:
                every = _files_below(folders[split][key])
                files += [(path, number) for path in every if path.suffix.lower() in IMAGE_ENDINGS]
                others.update(ending for path in every if (ending := path.suffix.lower()) in OTHER_ENDINGS)
        labels = check_labels(f"image folder {place}", [number for _, number in files])
        splits[split] = (ImageFiles([path for path, _ in files], labels, top=top), labels)
    if others:
        endings = listed([f"{count:,} {ending}" for ending, count in sorted(others.items())])
        notes.append(f"not read: images with other endings than {' '.join(IMAGE_ENDINGS)}: {endings}")
    return Source(splits=splits, class_names=[spellings_on_disk[key] for key in keys], notes=tuple(notes))


def _class_folders(place: Path) -> dict[str, Path]:
    """The class folders, by name in one Unicode normal form: macOS keeps another one than most."""
    folders: dict[str, Path] = {}
    for folder in sorted(_subfolders(place)):
        key = unicodedata.normalize("NFC", folder.name)
        if key in folders:
            got = f"two that read {folder.name} in {place}, written with different characters"
            raise must("class folders", "have names of their own", got, "join the two")
        folders[key] = folder
    return folders


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == ARCHIVE_LEFTOVERS


def _subfolders(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry.name)]


def _files_below(folder: Path) -> list[Path]:
    """The files in a folder and below it, sorted, hidden ones and those in hidden folders left out; links to files that
    lead nowhere too.

    Links to folders are followed, except to one that was read already or that holds this one: no file comes twice, and
    there is an end.
    """
    place = folder.resolve()
    seen = {_identity(each) for each in place.parents}
    files: list[Path] = []
    folders, links = [folder], list[Path]()
    while folders or links:
        here = folders.pop() if folders else links.pop(0)
        if (identity := _identity(here)) in seen:
            continue
        seen.add(identity)
        if not os.access(here, os.R_OK | os.X_OK):
            raise must("image folder", "be one that you may read", here)
        with os.scandir(here) as entries:
            found = [entry for entry in entries if not _is_hidden(entry.name)]
        folders += [here / entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
        links += sorted(here / entry.name for entry in found if entry.is_symlink() and entry.is_dir())
        files += [here / entry.name for entry in found if entry.is_file() or _leads_nowhere(entry)]
    return sorted(files)


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry)


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def read_python(spec: str) -> Source:
    """What a function of the user's own returns: data sets under `train`, `val` and `test`, and `class_names`.

    Data sets of dicts with named columns, as Hugging Face's `datasets` makes them, are read by their columns; their
    PIL images are read as image files are.
    """
    law = "return a mapping with a data set under 'train'"
    made = call_object(spec, import_object(spec, "--data"), law)
    if not isinstance(made, Mapping):
        bare = isinstance(made, Dataset) or is_table(made)
        raise must(f"{spec}()", law, type(made).__name__, "wrap it as {'train': data_set}" if bare else "")
    spelled = _spelled([name for name in made if isinstance(name, str) and made[name] is not None], f"{spec}()")
    if "train" not in spelled:
        raise must(f"{spec}()", law, f"one with {', '.join(map(str, made)) or 'nothing'}")
    splits: dict[str, tuple[Images, Tensor]] = {}
    names: list[Sequence[str]] = []
    for split, name in spelled.items():
        dataset, labels = made[name], labels_of(made[name])
        if is_table(dataset):
            if (of_classes := table_class_names(dataset)) is not None:
                names.append(of_classes)
            dataset = Table(dataset, image_column(dataset), labels)
        else:
            dataset = Own(dataset, f"{name} of {spec}()")
        splits[split] = (dataset, labels)
    if any(other != names[0] for other in names):
        raise must(f"{spec}()", "name the same classes in every split", "names that differ")
    train, given = splits["train"][0], made.get("class_names")
    return Source(
        splits=splits,
        class_names=given if given is not None else names[0] if names else None,
        ready=not (isinstance(train, Table) and train.holds_pil()),
        notes=_read_as(spelled),
    )
