"""Write embeddings to disk batch by batch, so that an interrupted extraction resumes."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, must
from ..files import atomic, staging
from .embeddings import BLOCK_ROWS, require_finite, require_labels
from .embeddings_folder import (
    COLUMNS,
    INDEX,
    SEVERAL,
    column_form,
    index_record,
    is_complete,
    open_columns,
    read_folder,
    read_index,
)
from .reading import Reading

RECORD_SECONDS = 5.0  # a killed run loses at most this much work


class Table:
    """The four columns of embeddings while they fill up.

    They are preallocated if the number of rows is known, and double their room if it is not. They are on disk if there is a
    folder. Then, every few seconds, the arrays are flushed to disk and after them the number of finished rows, so that a run
    that is killed at any moment can resume.
    """

    def __init__(
        self, rows: int | None, folder: Path | None, origin: Mapping[str, str], *, several: bool = False
    ) -> None:
        self.rows = rows
        self.several = several  # labels of an image
        self.done = 0
        self.is_complete = False
        self.folder = folder
        self.origin = origin
        self.columns: dict[str, Tensor] = {}
        self._arrays: dict[str, atomic.Array] = {}
        self._recorded = 0
        self._recorded_at = time.monotonic()
        self._ours = False
        if folder is not None:
            self._resume(folder)

    def _resume(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise must("out", "be a folder", f"the file {folder}")
        present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if INDEX not in present:  # new, or killed before the first write of the index
            ours = {f"{name}.npy" for name in COLUMNS}
            if foreign := sorted(name for name in present - ours if not staging.is_temporary(name)):
                raise must("out", "be new, empty or an unfinished extraction", f"{folder} with {foreign[0]}")
            self._ours = True
            return
        index = read_index(folder)
        for key, of in (("model", "model"), ("head", "head"), ("precision", "precision"), ("fingerprint", "data")):
            if index.get(key) != self.origin[key]:
                raise other_run(folder, f"another {of}")
        if (index.get("labels") == SEVERAL) != self.several:
            raise other_run(folder, f"{'one label' if self.several else 'several labels'} per image")
        if index["rows"] != self.rows:
            raise other_run(folder, f"{index['rows']} rows, not {self.rows}")
        if not 0 <= index["rows_done"] <= index["rows"]:
            raise must("embeddings index", "have rows_done in [0, rows]", index["rows_done"])
        self._open(open_columns(folder, index, writable=True))
        self.done = self._recorded = index["rows_done"]
        self.is_complete = is_complete(index)

    def _open(self, arrays: dict[str, atomic.Array]) -> None:
        self._arrays = arrays
        self.columns = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _create(self, rows: int, num_features: int, num_classes: int) -> None:
        index = index_record(rows, 0, num_features, num_classes, self.origin, several=self.several)
        forms = {name: column_form(name, index) for name in COLUMNS}
        if self.folder is None:
            self._open({name: np.empty(shape, dtype) for name, (shape, dtype) in forms.items()})
        else:
            folder = self.folder
            try:
                self._open({name: atomic.create_array(folder / f"{name}.npy", *form) for name, form in forms.items()})
                atomic.write_json(folder / INDEX, index)
            except OSError:  # no room for all columns: leave none behind
                self.discard()
                raise

    def add(self, block: dict[str, Tensor]) -> None:
        """Check and store the next rows, on any device."""
        count, num_classes = block["logits"].shape
        labels = block["labels"]
        if self.several:
            if labels.shape[1] != num_classes:
                raise must("labels", f"have one column per output of the head, {num_classes}", labels.shape[1])
        else:
            self._require_classes(labels, num_classes)
        require_finite("features", block["features"], self.done)
        require_finite("logits", block["logits"], self.done)
        self._make_room(count, block["features"].shape[1], num_classes)
        for name in ("features", "logits"):
            own, width = block[name].shape[1], self.columns[name].shape[1]
            if own != width:
                raise must("model", f"give {width} {name} for every image, as for those before", own)
        for name, values in block.items():
            self.columns[name][self.done : self.done + count].copy_(values)
        self.done += count
        if self.done - self._recorded >= BLOCK_ROWS or time.monotonic() - self._recorded_at >= RECORD_SECONDS:
            self.record()

    def _make_room(self, count: int, num_features: int, num_classes: int) -> None:
        """Create the columns, or, if the number of rows is not known and they are full, larger ones."""
        if not self.columns and self.rows is not None:
            self._create(self.rows, num_features, num_classes)
        room = len(self.columns["labels"]) if self.columns else 0
        if self.columns and (self.rows is not None or self.done + count <= room):
            return
        full = self.columns
        self._create(max(2 * room, self.done + count, BLOCK_ROWS), num_features, num_classes)
        for name, values in full.items():
            self.columns[name][: self.done].copy_(values[: self.done])

    def _require_classes(self, labels: Tensor, num_classes: int) -> None:
        if len(labels) and int(labels.max()) >= num_classes:
            row = int(labels.argmax())
            got = f"{num_classes} outputs and the label {int(labels[row])} at row {self.done + row}"
            raise must("model", "have one output per class", got)
        require_labels(labels, num_classes, self.done)

    def record(self) -> None:
        """Flush the finished rows to disk, then record their number."""
        if self.folder is None or not self.columns or self.done == self._recorded:
            return
        if not self.folder.is_dir():  # writing to a map of a removed file raises no error and loses the data
            raise FileNotFoundError(errno.ENOENT, "removed while the extraction was writing to it", str(self.folder))
        for array in self._arrays.values():
            atomic.flush_array(array)
        features, logits = self.columns["features"], self.columns["logits"]
        index = index_record(
            len(features), self.done, features.shape[1], logits.shape[1], self.origin, several=self.several
        )
        atomic.write_json(self.folder / INDEX, index)
        self._recorded, self._recorded_at = self.done, time.monotonic()

    def filled(self, name: str) -> Tensor:
        """Return the finished rows of a column."""
        return self.columns[name][: self.done]

    def discard(self) -> None:
        """Remove the files that this call wrote, because the same input would fail again."""
        if self.folder is not None and self._ours:
            self.columns, self._arrays = {}, {}
            for name in (INDEX, *(f"{name}.npy" for name in COLUMNS)):
                (self.folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def finish(self, reading: Reading) -> tuple[dict[str, Tensor], Reading]:
        """Return the complete columns, from memory or mapped from the folder, and how the loader gave their rows.

        Args:
            reading: How the loader gave the rows now; a finished folder keeps how it gave them then.
        """
        if self.folder is None:
            found, self._arrays = {}, {}
            for name in COLUMNS:
                column = self.columns.pop(name)[: self.done]
                found[name] = column.clone() if self.rows is None else column  # without the room that was not needed
            return found, reading
        if not self.is_complete:
            self.record()
            features, logits = self.columns["features"], self.columns["logits"]
            sizes = len(features), self.done, features.shape[1], logits.shape[1]
            index = index_record(*sizes, self.origin, reading, several=self.several)
            atomic.write_json(self.folder / INDEX, index)
        found, kept = read_folder(self.folder, several=self.several)
        return found, Reading.from_dict(kept.get("reading"))


def other_run(folder: Path, what: str) -> InputError:
    """Return the error for a folder that holds another extraction than the requested one."""
    law = "be new or hold the same extraction, unfinished"
    return must("out", law, f"{folder} with {what}", "use another folder or delete it")
