"""Readers of `.npz` files and of data sets of the user's own; each returns a `Source`.

Folders of images are read in `image_folder.py`, public data sets in `public.py`.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError, must
from ..files import atomic
from ..files.npy import DamagedError, is_npy, read_archive
from ..functional.groups import group_numbers
from ..functional.labels import names_in_mapping
from ..functional.multilabel import read_multilabels
from ..runtime.user_code import call_object, import_object
from .images import Array, ImageArray, Images, Own
from .labels import check_labels, shown_labels, shows_text
from .tables import Table, image_column, is_table, is_transformed, table_class_names

SPLITS = ("train", "val", "test")
SPELLINGS = {"train": ("train", "training"), "val": ("val", "validation", "valid"), "test": ("test", "testing")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A data source before any subset, hold-out or preprocessing.

    Attributes:
        splits: The source's own splits, as (data set, labels).
        class_names: One name per class; None if the source names none.
        mean: Usual mean per channel, for images in [0, 1]; None if there is none.
        std: Usual standard deviation per channel.
        mirror: True if an image and its mirror image show the same class.
        ready: True if the images are already preprocessed.
        test_share: Share of train to split off as test, for a source without a test set.
        notes: Remarks for a reader of the results, one line each.
        groups: The group of each image, by split, for the splits that the source gives groups for.
    """

    splits: Mapping[str, tuple[Images, Tensor]]
    class_names: Sequence[str] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    mirror: bool = True
    ready: bool = False
    test_share: float = 0.0
    notes: tuple[str, ...] = ()
    groups: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


def on_one_line(text: str) -> str:
    """Return the text with a space in place of each control character and line break, for tables and terminals.

    Bytes of a file's name that are no Unicode text become the replacement character, a question mark in a diamond.
    """
    readable = (
        " " if unicodedata.category(each) in ("Cc", "Zl", "Zp") else "\ufffd" if "\ud800" <= each <= "\udfff" else each
        for each in text
    )
    return "".join(readable)


def split_of(name: str) -> str | None:
    """Return the split that a name means, in upper or lower case; None if it means none."""
    return next((split for split, spellings in SPELLINGS.items() if name.casefold() in spellings), None)


def as_spelled(found: Collection[str], what: str) -> dict[str, str]:
    """Return the name of each split among the names that a source has; an InputError if two names mean one split."""
    places: dict[str, str] = {}
    for split in SPLITS:
        names = [name for name in found if split_of(name) == split]
        if len(names) > 1:
            raise must(what, f"have one {split} split", " and ".join(names))
        if names:
            places[split] = names[0]
    return places


def read_as(places: Mapping[str, str]) -> tuple[str, ...]:
    """Return a note for each split that a source names differently."""
    return tuple(f"{name} is read as {split}" for split, name in places.items() if name != split)


def read_npz(path: Path, *, several: bool = False) -> Source:
    """Read an `.npz` file with the keys of MedMNIST: `train_images`, `train_labels`, and the same for val and test.

    Args:
        path: The file.
        several: Whether images have several labels each: 0 or 1 for every label.
    """
    read = read_multilabels if several else check_labels
    atomic.require_file(path, "npz file")
    stored = _stored_arrays(path)
    splits: dict[str, tuple[Images, Tensor]] = {}
    for split in SPLITS:
        if f"{split}_images" in stored:
            if f"{split}_labels" not in stored:
                raise must("npz file", f"have {split}_labels beside {split}_images", ", ".join(stored))
            images = image_array(f"{split}_images", stored[f"{split}_images"])
            labels = read(f"{split}_images", stored[f"{split}_labels"], rows=len(images))
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
    groups = {
        split: group_numbers(f"{split}_groups", stored[f"{split}_groups"], rows=len(labels))
        for split, (_, labels) in splits.items()
        if f"{split}_groups" in stored
    }
    named = None if names is None else [_text(name) for name in names.tolist()]
    return Source(splits=splits, class_names=named, groups=groups)


def _text(name: str | bytes) -> str:
    try:
        return name.decode() if isinstance(name, bytes) else name
    except UnicodeDecodeError as error:
        raise must("class_names", "be text in UTF-8", repr(name)) from error


def _stored_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an `.npz` file under known names; arrays under other names are not read, and returned empty."""
    known = {f"{split}_{part}" for split in SPLITS for part in ("images", "labels", "groups")} | {"class_names"}
    try:
        found, names = read_archive(path, known, "npz file")
    except DamagedError as error:
        if is_npy(path):
            raise must(
                "npz file", "hold named arrays", f"a single array in {path}", "save it with numpy.savez"
            ) from None
        raise must("npz file", "be a whole NumPy .npz without Python objects", path) from error
    return {name: found.get(name, np.empty(0)) for name in names}


def _about_shape(shape: tuple[int, ...]) -> str:
    if len(shape) == 5 or (len(shape) == 4 and shape[1] > 4 and shape[3] > 4):
        return "volumes (3-D data) cannot be read: bring 2-D images, for example slices"
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] > 4:
        return "put the channels last with .transpose(0, 2, 3, 1)"
    return ""


def image_array(name: str, array: Array) -> Tensor:
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


def listed(names: Sequence[str], most: int = 10) -> str:
    """Return the first names in a list, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def read_python(spec: str) -> Source:
    """Read the data sets that a function of the user's own returns.

    Args:
        spec: `package.module:function`. It returns a mapping with a data set under `train`, and optionally under `val` and
            `test`, and `class_names`. Hugging Face data sets are read by their columns, and their PIL images as image files
            are; one with a transform gives images as the transform makes them.

    Raises:
        InputError: The function cannot be called, or it returns something else.
    """
    law = "return a mapping with a data set under 'train'"
    made = call_object(spec, import_object(spec, "data"), law)
    if not isinstance(made, Mapping):
        bare = isinstance(made, Dataset) or is_table(made)
        raise must(f"{spec}()", law, type(made).__name__, "wrap it as {'train': data_set}" if bare else "")
    spelled = as_spelled([name for name in made if isinstance(name, str) and made[name] is not None], f"{spec}()")
    if "train" not in spelled:
        raise must(f"{spec}()", law, f"one with {', '.join(map(str, made)) or 'nothing'}")
    splits: dict[str, tuple[Images, Tensor]] = {}
    names: list[Sequence[str]] = []
    given = names_given(made.get("class_names"))
    for split, name in spelled.items():
        dataset, labels = made[name], _labels_shown(made[name], given)
        if is_table(dataset) and (of_classes := table_class_names(dataset)) is not None:
            names.append(of_classes)
        if is_table(dataset) and not is_transformed(dataset):
            dataset = Table(dataset, image_column(dataset), labels)
        else:
            numbered = labels if given is not None and shows_text(dataset) else None
            dataset = Own(dataset, f"{name} of {spec}()", numbered)
        splits[split] = (dataset, labels)
    if any(other != names[0] for other in names):
        raise must(f"{spec}()", "name the same classes in every split", "names that differ")
    train = splits["train"][0]
    return Source(
        splits=splits,
        class_names=given if given is not None else names[0] if names else None,
        ready=not (isinstance(train, Table) and train.holds_pil()),
        notes=read_as(spelled),
    )


def names_given(class_names: Any) -> Any:
    """Return names of classes in their order, also where they are a mapping between classes and names.

    Args:
        class_names: The names as a function of the user's own gave them; None for none.

    Raises:
        InputError: A mapping is not between all classes and their names.

    Example:
        >>> names_given({"owl": 1, "cat": 0}), names_given(["cat", "owl"])
        (['cat', 'owl'], ['cat', 'owl'])
    """
    return [*names_in_mapping(class_names, len(class_names))] if isinstance(class_names, Mapping) else class_names


def _labels_shown(dataset: Any, class_names: Sequence[str] | None) -> Tensor:
    """The labels of a data set that a function gave; an error says what the data set has to have."""
    try:
        return shown_labels(dataset, class_names)[0]
    except InputError as error:
        raise InputError(str(error).replace("pass labels=,", "give it an attribute `targets`,")) from error
