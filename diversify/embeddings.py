"""What a model makes of images, as a value: features, labels, logits, indices; in memory or mapped from a folder."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from . import storage
from .errors import InputError, must
from .heads import LinearHead

SCHEMA_VERSION = 1
BLOCK_ROWS = 4096  # rows checked at a time, and rows held on a device before they come to the CPU

_SHOWN = 256  # rows that show whose logits they are
_ROUNDING = 0.02  # of the logits' size: by how much those of a class may differ, as in bfloat16 they do
_RECORD_SECONDS = 5.0  # how much finished work a kill may cost, at most


# The values


@dataclass(frozen=True, kw_only=True, eq=False)
class Embeddings:
    """What a model makes of N images: one row per image, in the order of the loader.

    Attributes:
        features: `(N, D)` float32, what enters the head.
        labels: `(N,)` int64 in [0, C - 1].
        logits: `(N, C)` float32, what leaves the head.
        indices: `(N,)` int64, each image's index in its data set; its position in the loader where that is unknown.
    """

    features: Tensor
    labels: Tensor
    logits: Tensor
    indices: Tensor

    def __post_init__(self) -> None:
        rows = len(self.features) if isinstance(self.features, Tensor) and self.features.ndim else 0
        for name, values, ndim, dtype in (
            ("features", self.features, 2, torch.float32),
            ("logits", self.logits, 2, torch.float32),
            ("labels", self.labels, 1, torch.int64),
            ("indices", self.indices, 1, torch.int64),
        ):
            if not isinstance(values, Tensor):
                raise must(name, "be a tensor", type(values).__name__)
            if values.ndim != ndim:
                raise must(name, f"have {ndim} dimension{'s' * (ndim > 1)}", f"shape {tuple(values.shape)}")
            if values.dtype != dtype:
                raise must(name, f"be {str(dtype).removeprefix('torch.')}", str(values.dtype).removeprefix("torch."))
            if len(values) != rows:
                raise must(name, f"have one row per image, {rows}", len(values))
        _require_labels(self.labels, self.num_classes)
        _require_finite("features", self.features)
        _require_finite("logits", self.logits)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """C: the outputs of the head, whether or not every class has images here."""
        return self.logits.shape[1]

    @property
    def num_features(self) -> int:
        """D."""
        return self.features.shape[1]

    def select(self, rows: Tensor) -> Self:
        """The rows of an int64 index or a boolean mask, as a copy."""
        return replace(
            self,
            features=self.features[rows],
            labels=self.labels[rows],
            logits=self.logits[rows],
            indices=self.indices[rows],
        )

    def seen_by(self, head: LinearHead) -> Self:
        """With the logits of this head, on the features' device: as they are where theirs are of it, which some rows show.

        Logits of lower precision are not recomputed: with many classes they are most of what embeddings hold.
        """
        device = self.features.device
        on = replace(head, weight=head.weight.to(device), bias=head.bias.to(device))
        if self.logits.shape[1] == head.num_classes and len(self):
            rows = torch.linspace(0, len(self) - 1, min(len(self), _SHOWN), device=device).long()
            own = self.logits[rows].to(device)
            differ = (on.logits(self.features[rows]) - own).square().mean(0).sqrt().max()
            if bool(differ <= _ROUNDING * own.square().mean().sqrt()):
                return self
        return replace(self, logits=on.logits(self.features))

    def save(self, folder: Path) -> None:
        """Write `features.npy`, `logits.npy`, `labels.npy`, `indices.npy`, and last the `index.json` that counts.

        Raises:
            InputError: The folder holds something already.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise must("embeddings folder", "be new or empty", folder)
        for name in COLUMNS:
            storage.write_array(folder / f"{name}.npy", getattr(self, name).detach().cpu().numpy())
        sizes = self.num_features, self.num_classes
        storage.write_json(folder / _INDEX, _index_record(len(self), len(self), *sizes, {}))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The embeddings in a folder, mapped into memory: nothing is copied, and changes never reach the files.

        Raises:
            InputError: The folder is missing, unfinished, truncated or inconsistent.
        """
        folder = Path(folder)
        index = _read_index(folder)
        if index["rows_done"] < index["rows"]:
            got = f"{index['rows_done']} of {index['rows']} rows in {folder}"
            raise must("embeddings", "be complete", got, "run the extraction again to finish it")
        return cls(**{name: torch.from_numpy(array) for name, array in _open_columns(folder, index).items()})


def _require_labels(labels: Tensor, num_classes: int, first_row: int = 0) -> None:
    wrong = (labels < 0) | (labels >= num_classes)
    if bool(wrong.any()):
        row = int(wrong.int().argmax())
        got = f"{int(labels[row])} at row {first_row + row}"
        raise must("labels", f"lie in [0, C - 1 = {num_classes - 1}]", got)


def _require_finite(name: str, values: Tensor, first_row: int = 0) -> None:
    for start in range(0, len(values), BLOCK_ROWS):
        block = values[start : start + BLOCK_ROWS]
        if block.numel() and not torch.stack(torch.aminmax(block)).isfinite().all():
            row, column = (int(index) for index in (~block.isfinite()).nonzero()[0])
            what = {"features": "feature", "logits": "class"}[name]
            got = f"{float(block[row, column])} at row {first_row + start + row}, {what} {column}"
            raise must(name, "be finite", got)


# On disk

COLUMNS = ("features", "logits", "labels", "indices")
_INDEX = "index.json"


def _index_record(
    rows: int, rows_done: int, num_features: int, num_classes: int, origin: Mapping[str, str]
) -> dict[str, object]:
    return {
        "schema_version": SCHEMA_VERSION,
        "rows": rows,
        "rows_done": rows_done,
        "num_features": num_features,
        "num_classes": num_classes,
        **{key: origin.get(key, "") for key in ("model", "head", "precision", "fingerprint")},
    }


def _read_index(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise must("embeddings", "be an existing folder", folder)
    index = storage.read_json(folder / _INDEX, "embeddings index")
    numbers = ("rows", "rows_done", "num_features", "num_classes")
    if not isinstance(index, dict) or not all(isinstance(index.get(key), int) for key in numbers):
        raise must("embeddings index", f"hold {', '.join(numbers)}", folder / _INDEX)
    if index.get("schema_version") != SCHEMA_VERSION:
        raise must("embeddings index", f"have schema_version {SCHEMA_VERSION}", index.get("schema_version"))
    return index


def _column_form(name: str, index: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    shapes = {"features": (index["rows"], index["num_features"]), "logits": (index["rows"], index["num_classes"])}
    return (shapes[name], "<f4") if name in shapes else ((index["rows"],), "<i8")


def _open_columns(folder: Path, index: Mapping[str, Any], *, writable: bool = False) -> dict[str, storage.Array]:
    columns = {}
    for name in COLUMNS:
        shape, dtype = _column_form(name, index)
        column = storage.open_array(folder / f"{name}.npy", f"embeddings {name}", writable=writable)
        if column.shape != shape or column.dtype != np.dtype(dtype):
            got = f"{column.dtype.str} of shape {column.shape}"
            raise must(f"embeddings {name}", f"be {dtype} of shape {shape}", got)
        columns[name] = column
    return columns


class Table:
    """The four columns as they fill up.

    Preallocated when the number of rows is known, and then on disk when there is a folder: every few seconds the
    arrays are handed to the disk and after them the count of finished rows, so that a kill at any moment leaves a
    beginning that can be gone on from.
    """

    def __init__(self, rows: int | None, folder: Path | None, origin: Mapping[str, str]) -> None:
        self.rows = rows
        self.done = 0
        self.folder = folder
        self.origin = origin
        self.columns: dict[str, Tensor] = {}
        self.blocks: list[dict[str, Tensor]] = []
        self._arrays: dict[str, storage.Array] = {}
        self._recorded = 0
        self._recorded_at = time.monotonic()
        self._ours = False
        if folder is not None:
            self._resume(folder)

    def _resume(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise must("out", "be a folder", f"the file {folder}")
        present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if _INDEX not in present:  # new, or killed before the first record
            ours = {f"{name}.npy" for name in COLUMNS}
            if foreign := sorted(name for name in present - ours if not storage.is_temporary(name)):
                raise must("out", "be new, empty or an unfinished extraction", f"{folder} with {foreign[0]}")
            self._ours = True
            return
        index = _read_index(folder)
        for key, of in (("model", "model"), ("head", "head"), ("precision", "precision"), ("fingerprint", "data")):
            if index.get(key) != self.origin[key]:
                raise other_run(folder, f"another {of}")
        if index["rows"] != self.rows:
            raise other_run(folder, f"{index['rows']} rows, not {self.rows}")
        if not 0 <= index["rows_done"] <= index["rows"]:
            raise must("embeddings index", "have rows_done in [0, rows]", index["rows_done"])
        self._open(_open_columns(folder, index, writable=True))
        self.done = self._recorded = index["rows_done"]

    def _open(self, arrays: dict[str, storage.Array]) -> None:
        self._arrays = arrays
        self.columns = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _create(self, rows: int, num_features: int, num_classes: int) -> None:
        index = _index_record(rows, 0, num_features, num_classes, self.origin)
        forms = {name: _column_form(name, index) for name in COLUMNS}
        if self.folder is None:
            self._open({name: np.empty(shape, dtype) for name, (shape, dtype) in forms.items()})
        else:
            folder = self.folder
            try:
                self._open({name: storage.create_array(folder / f"{name}.npy", *form) for name, form in forms.items()})
                storage.write_json(folder / _INDEX, index)
            except OSError:  # no room for all of them: leave none
                self.discard()
                raise

    def add(self, block: dict[str, Tensor]) -> None:
        """Take in the next rows, on any device, once they are seen to be sound."""
        count, num_classes = block["logits"].shape
        labels = block["labels"]
        if count and int(labels.max()) >= num_classes:
            row = int(labels.argmax())
            got = f"{num_classes} outputs and the label {int(labels[row])} at row {self.done + row}"
            raise must("model", "have one output per class", got)
        _require_labels(labels, num_classes, self.done)
        _require_finite("features", block["features"], self.done)
        _require_finite("logits", block["logits"], self.done)
        if self.rows is None:
            self.blocks.append({name: values.cpu() for name, values in block.items()})
            self.done += count
            return
        if not self.columns:
            self._create(self.rows, block["features"].shape[1], num_classes)
        for name, values in block.items():
            self.columns[name][self.done : self.done + count].copy_(values)
        self.done += count
        if self.done - self._recorded >= BLOCK_ROWS or time.monotonic() - self._recorded_at >= _RECORD_SECONDS:
            self.record()

    def record(self) -> None:
        """Hand what is finished to the disk."""
        if self.folder is None or not self.columns or self.done == self._recorded:
            return
        if not self.folder.is_dir():  # the maps of removed files can still be written, and lead nowhere
            raise FileNotFoundError(errno.ENOENT, "removed while the extraction was writing to it", str(self.folder))
        for array in self._arrays.values():
            storage.flush_array(array)
        features, logits = self.columns["features"], self.columns["logits"]
        index = _index_record(len(features), self.done, features.shape[1], logits.shape[1], self.origin)
        storage.write_json(self.folder / _INDEX, index)
        self._recorded, self._recorded_at = self.done, time.monotonic()

    def discard(self) -> None:
        """Remove what this call wrote, for an input that would fail again."""
        if self.folder is not None and self._ours:
            self.columns, self._arrays = {}, {}
            for name in (_INDEX, *(f"{name}.npy" for name in COLUMNS)):
                (self.folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def finish(self) -> Embeddings:
        """The embeddings, complete: from memory, or mapped from the folder."""
        if self.rows is None:
            self.columns = {name: torch.cat([block[name] for block in self.blocks]) for name in COLUMNS}
            self.blocks = []
        self.record()
        if self.folder is None:
            return Embeddings(**self.columns)
        return Embeddings.load(self.folder)


def other_run(folder: Path, what: str) -> InputError:
    """The error for a folder that holds another extraction than the one that is asked for."""
    law = "be new or hold the same extraction, unfinished"
    return must("out", law, f"{folder} with {what}", "use another folder or delete it")
