"""Features, labels, logits and indices of images as one value, in memory or mapped from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import must
from ..files import atomic
from .linear_head import LinearHead

SCHEMA_VERSION = 1
COLUMNS = ("features", "logits", "labels", "indices")
INDEX = "index.json"
BLOCK_ROWS = 4096  # rows checked at a time, and rows gathered on a device before they are copied to the CPU

_COMPARED = 256  # rows whose logits are compared with a head's
_ROUNDING = 0.02  # largest difference relative to the size of the logits: bfloat16 needs this much


@dataclass(frozen=True, kw_only=True, eq=False)
class Embeddings:
    """What a model computes for N images: one row per image, in the order of the loader.

    Attributes:
        features: `(N, D)` float32, the input of the head.
        labels: `(N,)` int64 in [0, C - 1].
        logits: `(N, C)` float32, the output of the head.
        indices: `(N,)` int64, each image's index in its data set, or its position in the loader where the index is
            unknown.

    Raises:
        InputError: A tensor has another shape or dtype, a label is out of range, or a value is not finite.

    See Also:
        extract: Makes embeddings from a model and a loader.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> len(train), train.num_classes, train.num_features, train.select(train.labels == 3).features.shape
        (320, 4, 16, torch.Size([10, 16]))
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
        require_labels(self.labels, self.num_classes)
        require_finite("features", self.features)
        require_finite("logits", self.logits)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """C: the number of outputs of the head, whether or not every class has images here."""
        return self.logits.shape[1]

    @property
    def num_features(self) -> int:
        """D: the number of inputs of the head."""
        return self.features.shape[1]

    def select(self, rows: Tensor) -> Self:
        """Return a copy of some rows.

        Args:
            rows: An int64 index, or a boolean mask `(N,)`.
        """
        return replace(
            self,
            features=self.features[rows],
            labels=self.labels[rows],
            logits=self.logits[rows],
            indices=self.indices[rows],
        )

    def seen_by(self, head: LinearHead) -> Self:
        """Return these embeddings with the logits of `head`, on the features' device.

        The logits are recomputed only if a sample of rows disagrees with `head`. Logits of lower precision agree, and
        so are kept: with many classes, logits are most of the memory of embeddings.

        Args:
            head: The head whose logits are wanted.
        """
        device = self.features.device
        on = replace(head, weight=head.weight.to(device), bias=head.bias.to(device))
        if self.logits.shape[1] == head.num_classes and len(self):
            rows = torch.linspace(0, len(self) - 1, min(len(self), _COMPARED), device=device).long()
            own = self.logits[rows].to(device)
            differ = (on.logits(self.features[rows]) - own).square().mean(0).sqrt().max()
            if bool(differ <= _ROUNDING * own.square().mean().sqrt()):
                return self
        return replace(self, logits=on.logits(self.features))

    def save(self, folder: Path) -> None:
        """Write the embeddings into a folder: one `.npy` file per column and, last, `index.json`.

        Args:
            folder: A new or empty folder.

        Raises:
            InputError: The folder is not empty.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise must("embeddings folder", "be new or empty", folder)
        for name in COLUMNS:
            atomic.write_array(folder / f"{name}.npy", getattr(self, name).detach().cpu().numpy())
        sizes = self.num_features, self.num_classes
        atomic.write_json(folder / INDEX, index_record(len(self), len(self), *sizes, {}))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the embeddings in a folder, mapped into memory: nothing is copied, and changes never reach the files.

        Args:
            folder: A folder that `save` or `extract(out=...)` wrote.

        Raises:
            InputError: The folder is missing, unfinished, truncated or inconsistent.
        """
        folder = Path(folder)
        index = read_index(folder)
        if index["rows_done"] < index["rows"]:
            got = f"{index['rows_done']} of {index['rows']} rows in {folder}"
            raise must("embeddings", "be complete", got, "run the extraction again to finish it")
        return cls(**{name: torch.from_numpy(array) for name, array in open_columns(folder, index).items()})


def require_labels(labels: Tensor, num_classes: int, first_row: int = 0) -> None:
    """Raise an InputError unless all labels lie in [0, C)."""
    wrong = (labels < 0) | (labels >= num_classes)
    if bool(wrong.any()):
        row = int(wrong.int().argmax())
        got = f"{int(labels[row])} at row {first_row + row}"
        raise must("labels", f"lie in [0, C - 1 = {num_classes - 1}]", got)


def require_finite(name: str, values: Tensor, first_row: int = 0) -> None:
    """Raise an InputError that names the row unless all values are finite."""
    for start in range(0, len(values), BLOCK_ROWS):
        block = values[start : start + BLOCK_ROWS]
        if block.numel() and not torch.stack(torch.aminmax(block)).isfinite().all():
            row, column = (int(index) for index in (~block.isfinite()).nonzero()[0])
            what = {"features": "feature", "logits": "class"}[name]
            got = f"{float(block[row, column])} at row {first_row + start + row}, {what} {column}"
            raise must(name, "be finite", got)


def index_record(
    rows: int, rows_done: int, num_features: int, num_classes: int, origin: Mapping[str, str]
) -> dict[str, object]:
    """Return the content of the index file of a folder of embeddings, as a JSON object."""
    return {
        "schema_version": SCHEMA_VERSION,
        "rows": rows,
        "rows_done": rows_done,
        "num_features": num_features,
        "num_classes": num_classes,
        **{key: origin.get(key, "") for key in ("model", "head", "precision", "fingerprint")},
    }


def read_index(folder: Path) -> dict[str, Any]:
    """Return the checked index of a folder of embeddings."""
    if not folder.is_dir():
        raise must("embeddings", "be an existing folder", folder)
    index = atomic.read_json(folder / INDEX, "embeddings index")
    numbers = ("rows", "rows_done", "num_features", "num_classes")
    if not isinstance(index, dict) or not all(isinstance(index.get(key), int) for key in numbers):
        raise must("embeddings index", f"hold {', '.join(numbers)}", folder / INDEX)
    if index.get("schema_version") != SCHEMA_VERSION:
        raise must("embeddings index", f"have schema_version {SCHEMA_VERSION}", index.get("schema_version"))
    return index


def column_form(name: str, index: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    """Return the shape and dtype that a column has on disk."""
    shapes = {"features": (index["rows"], index["num_features"]), "logits": (index["rows"], index["num_classes"])}
    return (shapes[name], "<f4") if name in shapes else ((index["rows"],), "<i8")


def open_columns(folder: Path, index: Mapping[str, Any], *, writable: bool = False) -> dict[str, atomic.Array]:
    """Return the columns of a folder of embeddings, memory-mapped."""
    columns = {}
    for name in COLUMNS:
        shape, dtype = column_form(name, index)
        column = atomic.open_array(folder / f"{name}.npy", f"embeddings {name}", writable=writable)
        if column.shape != shape or column.dtype != np.dtype(dtype):
            got = f"{column.dtype.str} of shape {column.shape}"
            raise must(f"embeddings {name}", f"be {dtype} of shape {shape}", got)
        columns[name] = column
    return columns
