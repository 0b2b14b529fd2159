"""Read named columns of numbers from a .npz file, a folder of .npy files, or a .parquet file."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import must
from .atomic import Array, open_array, require_file
from .npy import DamagedError, read_archive


def read_columns(path: Path, columns: Sequence[str], name: str) -> dict[str, Array]:
    """Return those of the columns that a file or folder has; nothing is unpickled.

    Args:
        path: A `.npz` file; a folder with one `.npy` file per column, which are mapped into memory; or a `.parquet` file,
            which needs pyarrow.
        columns: The names that are looked for; others are left alone.
        name: The file as errors name it.

    Raises:
        InputError: The path is missing, is of another kind, or is damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/a.npz", labels=np.arange(3))
        ...     read_columns(Path(folder) / "a.npz", ["features", "labels"], "features")["labels"].tolist()
        [0, 1, 2]
    """
    if path.is_dir():
        files = {column: path / f"{column}.npy" for column in columns}
        return {column: open_array(file, column) for column, file in files.items() if file.is_file()}
    require_file(path, name)
    if path.suffix == ".parquet":
        return _parquet(path, columns, name)
    if not zipfile.is_zipfile(path):
        raise must(name, "be a .npz file, a folder of .npy files or a .parquet file", path)
    try:
        return read_archive(path, columns, name)[0]
    except DamagedError as error:
        if error.array:
            raise must(
                f"{error.array} of {path}", "be an array of numbers or text", "objects, fields or damage"
            ) from None
        raise must(name, "be a whole .npz file", path, "copy or save it again") from None


def _parquet(path: Path, columns: Sequence[str], name: str) -> dict[str, Array]:
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        advice = "pip install 'diversify-imbalance[parquet]'"
        raise must("pyarrow", "be installed to read .parquet files", "no such package", advice) from None
    try:
        table: Any = parquet.ParquetFile(path)
        there = [column for column in columns if column in table.schema_arrow.names]
        read = table.read(columns=there)
        return {column: np.array(_rows(read[column].to_pylist(), column, path)) for column in there}
    except (arrow.ArrowException, OSError):
        raise must(name, "be a whole .parquet file", path) from None


def _rows(values: list[Any], column: str, path: Path) -> list[Any]:
    """The rows of a column, whose lists all have one length and no gaps."""
    sizes = {len(each) if isinstance(each, list) else -1 for each in values}
    if len(sizes) > 1 or any(each is None for each in values):
        raise must(f"{column} of {path}", "have a value of the same length in every row", "gaps or several lengths")
    return values
