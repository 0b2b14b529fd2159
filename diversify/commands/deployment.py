"""The files that say where a model will be used: the share of each class, and the cost of each mistake."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import must
from ..files import atomic


def target_prior_from(path: Path, class_names: Sequence[str]) -> list[float]:
    """Return the share of each class, in the order of the classes.

    Args:
        path: A CSV file with the columns `class,share`; or a JSON file with an object of shares by class, or a list in the
            order of the classes. A share is a number; every class has one.
        class_names: The classes.

    Raises:
        InputError: The file cannot be read, names an unknown class or one twice, or leaves one out.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     atomic.write_text(Path(folder) / "prior.csv", "class,share\\ndog,0.25\\ncat,0.75\\n")
        ...     target_prior_from(Path(folder) / "prior.csv", ["cat", "dog"])
        [0.75, 0.25]
    """
    name = "target_prior"
    if path.suffix.lower() == ".csv":
        rows = atomic.read_csv(path, name)
        if rows and rows[0] == ["class", "share"]:
            rows = rows[1:]
        for row in rows:
            if len(row) != 2:
                raise must(name, "hold a class and its share in each row", ",".join(row)[:60])
        return _by_class(name, [(row[0], row[1]) for row in rows], class_names)
    found = atomic.read_json(path, name)
    if isinstance(found, Mapping):
        return _by_class(name, list(found.items()), class_names)
    if not isinstance(found, list):
        raise must(name, "be a list of shares, or an object of shares by class", type(found).__name__)
    return [_number(name, value) for value in found]


def cost_from(path: Path, class_names: Sequence[str]) -> list[list[float]]:
    """Return the cost of predicting an image of class i as class j, in the order of the classes.

    Args:
        path: A CSV file whose first row and first column name the predicted and the true classes; or a JSON file with a
            list of lists in the order of the classes.
        class_names: The classes.

    Raises:
        InputError: The file cannot be read, names an unknown class or one twice, or leaves one out.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     atomic.write_text(Path(folder) / "cost.csv", "true,dog,cat\\ndog,0,1\\ncat,5,0\\n")
        ...     cost_from(Path(folder) / "cost.csv", ["cat", "dog"])
        [[0.0, 5.0], [1.0, 0.0]]
    """
    name = "cost"
    if path.suffix.lower() == ".csv":
        header, *rows = atomic.read_csv(path, name) or [[]]
        for row in rows:
            if len(row) != len(header):
                raise must(name, f"have {len(header)} columns in each row, as in the first", f"{len(row)} in one")
        true = _order(name, [row[0] for row in rows], class_names)
        predicted = _order(name, header[1:], class_names)
        return [[_number(name, rows[i][1 + j]) for j in predicted] for i in true]
    found = atomic.read_json(path, name)
    if not isinstance(found, list) or not all(isinstance(row, list) for row in found):
        raise must(name, "be a list with a list for each class", type(found).__name__)
    return [[_number(name, value) for value in row] for row in found]


def _by_class(name: str, pairs: Sequence[tuple[str, Any]], class_names: Sequence[str]) -> list[float]:
    return [_number(name, pairs[place][1]) for place in _order(name, [one for one, _ in pairs], class_names)]


def _order(name: str, given: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Return where each class stands among the given names.

    Raises:
        InputError: A name is not a class or is given twice, or a class is missing.
    """
    for place, one in enumerate(given):
        if one not in class_names:
            near = difflib.get_close_matches(one, class_names, n=1)
            advice = f"did you mean {near[0]!r}?" if near else ""
            raise must(f"class of {name}", "be one of the classes", repr(one), advice)
        if one in given[:place]:
            raise must(name, "name each class once", f"{one!r} twice")
    missing = [one for one in class_names if one not in given]
    if missing:
        raise must(name, "name every class", f"none of {missing[0]!r}")
    return [given.index(one) for one in class_names]


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise must(name, "hold numbers", repr(value)[:60]) from None
