"""Read data sets of Hugging Face from a folder: what `save_to_disk` wrote, or Parquet and Arrow files. Nothing is downloaded."""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import must
from ..files import atomic
from ..runtime.user_code import describe, is_passed_on
from .decode import opened
from .images import IMAGE_ENDINGS, Images
from .labels import check_labels
from .sources import Source, as_spelled, read_as, split_of
from .tables import IMAGE_COLUMNS, LABEL_COLUMNS, Table, image_column, label_column, table_class_names, table_labels

_ENDINGS = (".parquet", ".arrow")
_UNLABELLED = -1  # in test sets whose labels are kept back


def is_saved(top: Path) -> bool:
    """Return whether a folder holds a data set of Hugging Face, not image files.

    Args:
        top: The folder.

    Example:
        >>> is_saved(Path("no such folder"))
        False
    """
    if (top / "dataset_dict.json").is_file() or (top / "state.json").is_file():
        return True
    if not _table_files(top):
        return False
    return not any(path.suffix.lower() in IMAGE_ENDINGS for depth in ("*", "*/*", "*/*/*") for path in top.glob(depth))


def read_saved(top: Path) -> Source:
    """Read a folder that `save_to_disk` wrote, or one with Parquet or Arrow files whose names begin with their split.

    Images are those of the column `image` or `img`, or of the only column of images; classes have the names of the label
    column's `ClassLabel`. Labels that are text are numbered in the order of the alphabet. Images are decoded as image
    files are. Parquet is read into memory; what `save_to_disk` wrote is mapped from the disk.

    Args:
        top: The folder.

    Raises:
        InputError: The package `datasets` is not installed, a file is damaged, or images, labels or splits are missing.
    """
    try:
        hub = importlib.import_module("datasets")
    except ImportError as error:
        law = "be installed for a folder with a Hugging Face data set"
        raise must("datasets", law, "no such package", "pip install datasets") from error
    try:
        found = _saved_to_disk(hub, top) or _from_files(hub, top)
    except Exception as error:  # pyarrow and datasets raise many kinds of errors
        if is_passed_on(error):
            raise
        raise must(f"data set in {top}", "be one that Hugging Face's datasets reads", describe(error)) from error
    spelled = as_spelled(list(found), f"data set in {top}")
    if "train" not in spelled:
        raise must(f"data set in {top}", "have a split train", ", ".join(found) or "nothing")
    parts = {split: _Rows(hub, found[name]) for split, name in spelled.items()}
    notes = [f"split {line}" for line in read_as(spelled)]
    if extra := [name for name in found if name not in spelled.values()]:
        notes.append(f"not read: {', '.join(extra)}, beside {spelled['train']} in {top}")
    for split in [name for name, rows in parts.items() if name != "train" and rows.is_unlabelled()]:
        notes.append(f"not read: {spelled[split]} in {top}, which has no labels")
        del parts[split]
    names = _class_names(parts, top)
    splits: dict[str, tuple[Images, Tensor]] = {}
    for split, rows in parts.items():
        numbers = _numbered(rows, names, f"{spelled[split]} in {top}")
        splits[split] = (Table(rows, rows.image_column, numbers), numbers)
    return Source(splits=splits, class_names=names, notes=tuple(notes))


def _saved_to_disk(hub: Any, top: Path) -> dict[str, Any]:
    """The splits that `save_to_disk` wrote; empty if the folder is another."""
    if (top / "dataset_dict.json").is_file():
        listed = atomic.read_json(top / "dataset_dict.json", "dataset_dict.json").get("splits", [])
        return {str(name): hub.load_from_disk(str(top / str(name))) for name in listed}
    return {"train": hub.load_from_disk(str(top))} if (top / "state.json").is_file() else {}


def _table_files(top: Path) -> list[Path]:
    found = [path for depth in ("*", "*/*") for path in top.glob(depth) if path.suffix.lower() in _ENDINGS]
    return sorted(path for path in found if not path.name.startswith("."))


def _from_files(hub: Any, top: Path) -> dict[str, Any]:
    """The splits in Parquet or Arrow files; each is named by its file or by the folder that the file is in."""
    groups: dict[str, list[Path]] = {}
    places: dict[str, Path] = {}  # folders without those that name a split: one, unless there are several data sets
    for path in _table_files(top):
        words = [word for part in path.relative_to(top).with_suffix("").parts for word in re.split(r"[^A-Za-z]+", part)]
        named = list(dict.fromkeys(word for word in words if split_of(word)))
        if len({split_of(word) for word in named}) > 1:
            raise must(f"files in {top}", "name one split each", path.name)
        groups.setdefault(named[0] if named else "", []).append(path)
        folder = path.parent if split_of(path.parent.name) is None or path.parent == top else path.parent.parent
        places[f"{folder} {path.suffix.lower()}"] = folder
    if len(places) > 1:
        got = " and ".join(dict.fromkeys(str(folder) for folder in places.values()))
        raise must(f"folder {top}", "hold one data set, in files of one kind", got, "pass the folder of one of them")
    if "" in groups and len(groups) > 1:
        raise must(f"files in {top}", "name their split, as train-0.parquet does", groups[""][0].name)
    return {name or "train": _joined(hub, files) for name, files in groups.items()}


def _joined(hub: Any, files: Sequence[Path]) -> Any:
    """The rows of several files, one after the other."""
    if files[0].suffix.lower() == ".arrow":
        return hub.concatenate_datasets([hub.Dataset.from_file(str(path)) for path in files])
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    return hub.Dataset(arrow.concat_tables([parquet.read_table(str(path)) for path in files]))


class _Rows:
    """The rows of a saved data set, as `tables.Table` reads them: the bytes of an image are decoded as a file is."""

    def __init__(self, hub: Any, rows: Any) -> None:
        rows = rows.with_format(None)
        encoded = [name for name, kind in rows.features.items() if _holds_images(hub, kind)]
        for name in encoded:
            rows = rows.cast_column(name, hub.Image(decode=False))
        usual = [name for name in IMAGE_COLUMNS if name in encoded]
        if len(encoded) > 1 and not usual:
            law = "have its images in a column `image` or `img`, or in its only column of images"
            raise must("data set", law, f"columns {', '.join(encoded)}")
        self.rows, self.features, self.column_names = rows, rows.features, list(rows.column_names)
        self.encoded = (usual or encoded or [""])[0]
        self.image_column = self.encoded or image_column(self)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.rows[key]
        row = self.rows[int(key)]
        if not self.encoded or row[self.encoded] is None:
            return row
        content, path = (row[self.encoded].get(name) for name in ("bytes", "path"))
        image = opened(io.BytesIO(content) if content is not None else Path(path)) if content or path else None
        return {**row, self.encoded: image}

    def is_unlabelled(self) -> bool:
        """True if no row has a label."""
        if not any(name in self.column_names for name in LABEL_COLUMNS):
            return False
        return all(label is None or label == _UNLABELLED for label in self.labels())

    def labels(self) -> list[Any]:
        """Return the labels as they are stored."""
        name = label_column(self)
        return list(self.rows[name][:])


def _holds_images(hub: Any, kind: Any) -> bool:
    """True for a column of encoded images: of type `Image`, or with entries `bytes` and `path`, as without a type."""
    return isinstance(kind, hub.Image) or (isinstance(kind, Mapping) and set(kind) == {"bytes", "path"})


def _class_names(parts: Mapping[str, _Rows], top: Path) -> list[str] | None:
    """The names of the classes, which are the same in all splits; labels that are text name the classes themselves."""
    named = [table_class_names(rows) for rows in parts.values()]
    if any(other != named[0] for other in named):
        raise must(f"data set in {top}", "name the same classes in every split", "names that differ")
    if named[0] is not None:
        return named[0]
    text = {label for rows in parts.values() for label in rows.labels() if isinstance(label, str)}
    return sorted(text) or None


def _numbered(rows: _Rows, names: Sequence[str] | None, place: str) -> Tensor:
    labels = rows.labels()
    if any(isinstance(label, str) for label in labels):
        return check_labels(place, labels, rows=len(rows), class_names=names)
    return check_labels(place, torch.as_tensor(labels) if labels and None not in labels else table_labels(rows))
