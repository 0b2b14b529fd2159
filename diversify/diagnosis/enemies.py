"""The shares of other classes near the errors of a class: a matrix of C x C, of which few cells are not 0 if C is large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..functional.sparse_rows import SparseRows
from .json_form import Number, Rows, json_number, json_rows, number, tensor_rows

DENSE_CLASSES = 200  # with more classes, memory and files hold only the shares that are not 0

Shares = list[dict[int, Number] | None]
"""For each class the shares of other classes, by their number; None for a class whose shares are unknown."""


def stored(enemies: Tensor) -> Tensor:
    """Return a matrix `(C, C)` in the form in which a diagnosis holds it: sparse with more than `DENSE_CLASSES` classes.

    Example:
        >>> type(stored(torch.eye(3))), type(stored(torch.eye(300)))
        (<class 'torch.Tensor'>, <class 'diversify.functional.sparse_rows.SparseRows'>)
    """
    if isinstance(enemies, SparseRows):
        return enemies if len(enemies) > DENSE_CLASSES else enemies.dense()
    return SparseRows.of(enemies) if len(enemies) > DENSE_CLASSES else enemies


def among(enemies: Tensor, source: Tensor) -> Tensor:
    """Return the shares if every class is renamed, `enemies[source][:, source]`, in the form in which they came.

    Args:
        enemies: `(C, C)`.
        source: `(C,)` int64, every class once.
    """
    return enemies.among(source) if isinstance(enemies, SparseRows) else enemies[source][:, source]


def json_enemies(enemies: Tensor) -> dict[str, Any]:
    """Return the fields of `diagnosis.json`: `enemies`, C rows of C, or `enemy_shares` with more than `DENSE_CLASSES` classes.

    Example:
        >>> json_enemies(torch.eye(300))["enemy_shares"][7]
        {'7': 1.0}
    """
    kept = stored(enemies)
    if not isinstance(kept, SparseRows):
        return {"enemies": json_rows(kept)}
    known = kept.known.tolist()
    return {"enemy_shares": [_json_shares(*kept.cells(c)) if known[c] else None for c in range(len(kept))]}


def _json_shares(columns: Tensor, values: Tensor) -> dict[str, float | None]:
    pairs = zip(columns.tolist(), values.tolist(), strict=True)
    return {str(other): json_number(value) for other, value in pairs}


def enemies_from(rows: Rows | None, shares: Sequence[Mapping[int, Number] | None] | None, num_classes: int) -> Tensor:
    """Return the matrix that a file holds in either form.

    Args:
        rows: The field `enemies`.
        shares: The field `enemy_shares`.
        num_classes: C.
    """
    if shares is None:
        return stored(tensor_rows(rows or [], num_classes))
    ordered = [sorted(row.items()) if row is not None else [] for row in shares]
    cells = [(c, other, number(value)) for c, row in enumerate(ordered) for other, value in row]
    columns = tuple(zip(*cells, strict=True)) or ((), (), ())
    found = SparseRows(
        torch.tensor(columns[0], dtype=torch.int64),
        torch.tensor(columns[1], dtype=torch.int64),
        torch.tensor(columns[2], dtype=torch.float64),
        known=torch.tensor([row is not None for row in shares], dtype=torch.bool),
        width=num_classes,
    )
    return stored(found)


def broken_enemies(rows: Rows | None, shares: Shares | None, num_classes: int) -> tuple[str, str, str] | None:
    """Return the field of a file, the rule that it breaks, and what was found; None if the shares are whole.

    Args:
        rows: The field `enemies`.
        shares: The field `enemy_shares`.
        num_classes: C.

    Example:
        >>> broken_enemies([[0.0, 1.0]], None, 2)
        ('enemies', 'be 2 rows of 2', '1 rows')
    """
    if shares is None:
        if rows is None:
            return "enemies", "be given", "nothing"
        whole = len(rows) == num_classes and all(len(row) == num_classes for row in rows)
        return None if whole else ("enemies", f"be {num_classes} rows of {num_classes}", f"{len(rows)} rows")
    if len(shares) != num_classes:
        return "enemy_shares", f"be {num_classes} objects, one per class", f"{len(shares)} values"
    for c, row in enumerate(shares):
        for other in row or ():
            if not 0 <= other < num_classes:
                return f"enemy_shares.{c}", f"name classes below {num_classes}", str(other)
    return None
