"""The folder that embeddings are kept in: one `.npy` file per column, and an index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import must
from ..files import atomic
from .reading import Reading

SCHEMA_VERSION = 1
COLUMNS = ("features", "logits", "labels", "indices")
INDEX = "index.json"
GROUPS = "groups"  # a column that some folders have
SEVERAL = "several"  # entry `labels` of an index whose images have several labels each


def is_complete(index: Mapping[str, Any]) -> bool:
    """Return True if an extraction has ended: all rows are there, or the loader gave fewer than it announced."""
    return bool(index["rows_done"] == index["rows"] or index.get("ended") is True)


def index_record(
    rows: int,
    rows_done: int,
    num_features: int,
    num_classes: int,
    origin: Mapping[str, str],
    reading: Reading | None = None,
    *,
    several: bool = False,
) -> dict[str, object]:
    """Return the content of the index file of a folder of embeddings, as a JSON object.

    Args:
        rows: Number of rows that the files have room for.
        rows_done: Number of rows that are filled.
        num_features: D.
        num_classes: C.
        origin: What the embeddings were made from.
        reading: How the loader gave the rows, once all are read; None before that.
        several: Whether images have several labels each.
    """
    ended: dict[str, object] = {} if reading is None or reading == Reading() else {"reading": reading.to_dict()}
    if reading is not None and rows_done < rows:
        ended["ended"] = True
    return {
        "schema_version": SCHEMA_VERSION,
        "rows": rows,
        "rows_done": rows_done,
        "num_features": num_features,
        "num_classes": num_classes,
        **({"labels": SEVERAL} if several else {}),
        **{key: origin.get(key, "") for key in ("model", "head", "precision", "fingerprint")},
        **ended,
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
    if name == "labels" and index.get("labels") == SEVERAL:
        return shapes["logits"], "|b1"
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


def write_folder(folder: Path, columns: Mapping[str, Tensor], index: Mapping[str, object]) -> None:
    """Write columns into a new or empty folder and, last, their index."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise must("embeddings folder", "be new or empty", folder)
    for name, values in columns.items():
        atomic.write_array(folder / f"{name}.npy", values.detach().cpu().numpy())
    atomic.write_json(folder / INDEX, index)


def write_groups(folder: Path, groups: Tensor) -> None:
    """Write the groups of the rows `(N,)` into a folder of embeddings."""
    atomic.write_array(folder / f"{GROUPS}.npy", groups.detach().cpu().numpy())


def read_groups(folder: Path, rows: int) -> Tensor | None:
    """The groups in a folder of embeddings; None if it has none."""
    path = folder / f"{GROUPS}.npy"
    if not path.is_file():
        return None
    groups = atomic.open_array(path, "embeddings groups")
    if groups.shape != (rows,) or groups.dtype != np.int64:
        raise must("embeddings groups", f"be <i8 of shape {(rows,)}", f"{groups.dtype.str} of shape {groups.shape}")
    return torch.from_numpy(groups)


def read_folder(folder: Path, *, several: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the finished rows of every column in a folder, memory-mapped, and the index.

    Args:
        folder: A folder of embeddings.
        several: Whether images have several labels each.

    Raises:
        InputError: The folder is missing, unfinished, truncated or inconsistent, or is of the other kind.
    """
    index = read_index(folder)
    if (index.get("labels") == SEVERAL) != several:
        kinds = ("of images with one label each", "of images with several labels each")
        raise must("embeddings", f"be {kinds[several]}", f"those in {folder}, {kinds[not several]}")
    if not is_complete(index):
        got = f"{index['rows_done']} of {index['rows']} rows in {folder}"
        raise must("embeddings", "be complete", got, "run the extraction again to finish it")
    columns = {name: torch.from_numpy(array) for name, array in open_columns(folder, index).items()}
    return {name: column[: index["rows_done"]] for name, column in columns.items()}, index
