"""Groups of images that depend on each other (patients, cameras, bursts), and hold-outs that split none of them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import must
from ..files import atomic
from ..functional import draws
from ..functional.groups import group_numbers
from .images import ImageFiles, check_files
from .sources import Source
from .tables import Table

_SUFFIXES = (".txt", ".csv", ".npy")


def groups_of_source(source: Source, group: Any, spec: str, *, skip_bad: bool = False) -> dict[str, Tensor]:
    """Return the group of each image of the splits that have groups, `(N,)` int64 each.

    Args:
        source: The data source, before any image is left out.
        group: None for the groups that the source brings (the keys `train_groups`, `val_groups` and `test_groups` of an
            `.npz` file); the name of a column of a table; a `.txt` or `.csv` file with one value per line, or a `.npy`
            file, one value per training image; a `.csv` file with the columns `path` and `group`, for image files, with
            paths as the data folder or table has them; or these values.
        spec: The source, as errors name it.
        skip_bad: Image files that cannot be read need not be named by a file with the columns `path` and `group`.

    Raises:
        InputError: There is no such column or file, not one value per image, or another value for every image of a file.

    Example:
        >>> from diversify.data.images import ImageArray
        >>> labels = torch.tensor([0, 1, 0])
        >>> source = Source(splits={"train": (ImageArray(torch.zeros(3, 1, 2, 2), labels), labels)})
        >>> groups_of_source(source, [4, 4, 5], "mine")["train"].tolist()
        [4, 4, 5]
    """
    if group is None:
        return dict(source.groups)
    if source.test_share:
        raise must("group", f"be left out for {spec}, whose test set is split off by image", _shown(group))
    if isinstance(group, str | Path):
        name = str(group)
        if name in ("groups", "train_groups") and source.groups:
            return dict(source.groups)
        tables = {split: part for split, (part, _) in source.splits.items() if isinstance(part, Table)}
        if "train" in tables and name in tables["train"].rows.column_names:
            return {
                split: group_numbers(f"column {name} of {split}", _column(part.rows, name), rows=len(part.rows))
                for split, part in tables.items()
                if name in part.rows.column_names
            }
        if Path(name).suffix not in _SUFFIXES:
            columns = ", ".join(tables["train"].rows.column_names) if "train" in tables else "no columns"
            law = f"name a column of {spec}, or a {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]} file"
            raise must("group", law, f"{name!r}; there are {columns}")
        return _from_file(Path(name), source, spec, skip_bad)
    return {"train": group_numbers("group", group, rows=len(source.splits["train"][1]))}


def _shown(group: Any) -> str:
    return repr(group)[:60] if isinstance(group, str | Path) else f"{len(group):,} values"


def _column(rows: Any, name: str) -> Any:
    column = rows[name]
    return column[:] if hasattr(column, "__getitem__") else list(column)


def _from_file(path: Path, source: Source, spec: str, skip_bad: bool) -> dict[str, Tensor]:
    """The groups that a file gives: one value per training image, or a table of image files."""
    rows = len(source.splits["train"][1])
    if path.suffix == ".npy":
        return {"train": group_numbers("group", np.asarray(atomic.open_array(path, "group")), rows=rows)}
    atomic.require_file(path, "group")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    fields = list(csv.reader(lines)) if path.suffix == ".csv" else []
    if any(len(line) > 1 for line in fields):
        found = _of_paths(path, fields, source, spec, skip_bad)
    else:
        found = {"train": group_numbers("group", [line.strip() for line in lines], rows=rows)}
    if rows > 1 and len(found["train"].unique()) == rows:
        got = f"another value for each of {rows:,} images in {path}"
        raise must("group", "give images that belong together one value", got, "leave it out if none do")
    return found


def _of_paths(
    path: Path, fields: Sequence[Sequence[str]], source: Source, spec: str, skip_bad: bool
) -> dict[str, Tensor]:
    """The groups of the splits whose images the columns path and group name.

    Every training image has to be there, but for those that cannot be read if `skip_bad`.
    """
    header = [name.strip() for name in fields[0]]
    if any(header.count(name) != 1 for name in ("path", "group")):
        law = f"have one value per line, or the columns path and group, in {path}"
        raise must("group", law, f"a first line of {len(header)} fields: {','.join(header)[:60]!r}")
    table: dict[str, str] = {}
    for number, line in enumerate(fields[1:], start=2):
        if not line:
            continue
        if len(line) != len(header):
            raise must("group", f"have {len(header)} fields in each line of {path}", f"{len(line)} in line {number}")
        image, value = (line[header.index(name)].strip() for name in ("path", "group"))
        if table.setdefault(image, value) != value:
            raise must("group", f"give each image one value in {path}", f"{table[image]} and {value} for {image}")
    found: dict[str, Tensor] = {}
    for split, (part, _) in source.splits.items():
        if not isinstance(part, ImageFiles):
            raise must("group", f"have one value per line for {spec}, whose images are not files", path)
        names = [part.name(index) for index in range(len(part))]
        rows = [row for row, name in enumerate(names) if name not in table]
        if skip_bad and 0 < len(rows) < len(names):
            unreadable = check_files([part.chosen(rows)])[0]
            table |= {names[row]: f"unreadable {row}" for place, row in enumerate(rows) if place in unreadable}
        missing = [name for name in names if name not in table]
        if split != "train" and len(missing) == len(names):
            continue
        if missing:
            law = f"name every image of {split} by its path, as {spec} has it, in {path}"
            raise must("group", law, f"{len(missing):,} that are not there, such as {missing[0]}")
        found[split] = group_numbers(f"group in {path}", [table[name] for name in names])
    return found


def holdout_groups(labels: Tensor, groups: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Return the positions that are kept and those that are held out: whole groups, near `n * fraction` images of each class.

    Groups are visited in a random order, which depends on their values alone. A group is held out if that brings the
    classes nearer to their numbers, and leaves every class an image.

    Args:
        labels: `(N,)` int64.
        groups: `(N,)` int64.
        fraction: Share to hold out, in [0, 1).

    Returns:
        Two ascending tensors of positions.

    Raises:
        InputError: No group can be held out, because every class would lose its only group.

    Example:
        >>> labels, groups = torch.arange(40) % 2, torch.arange(40) // 4
        >>> kept, held = holdout_groups(labels, groups, 0.2)
        >>> len(kept), len(held), set(groups[kept].tolist()) & set(groups[held].tolist())
        (32, 8, set())
    """
    present, classes = torch.unique(labels, return_inverse=True)
    values, place = torch.unique(groups, return_inverse=True)
    table = torch.zeros(len(values), len(present), dtype=torch.float64)
    table.index_put_((place, classes), torch.ones(len(labels), dtype=torch.float64), accumulate=True)
    total = table.sum(0)
    wanted, taken = (total * fraction).round(), torch.zeros_like(total)
    chosen = torch.zeros(len(values), dtype=torch.bool)
    for one in torch.argsort(draws.bits("holdout groups", values), stable=True).tolist():
        after = taken + table[one]
        if bool((after > total - 1).any()):
            continue
        if float(((after - wanted).square() / total).sum()) < float(((taken - wanted).square() / total).sum()):
            chosen[one], taken = True, after
    held = chosen[place]
    if fraction > 0 and not bool(held.any()) and bool((wanted > 0).any()):
        got = f"{len(values):,} groups among {len(labels):,} images"
        raise must("group", "leave a group to hold out", got, "bring a validation set, or pass holdout=0")
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]
