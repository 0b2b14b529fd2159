"""Read the records, the protocol and the search spaces of a study, also of one that another version wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import must
from ..files import atomic

Record = Mapping[str, Any]
BACKBONE = "backbone"
"""Key in a record's `inside`: the name of the frozen network that the run used."""


def load(path: Path | str, name: str = "results.jsonl") -> list[dict[str, Any]]:
    """Return the records of a study as dictionaries, as `compare` takes them.

    Args:
        path: A `.jsonl` file of records.
        name: What errors call the file.

    Raises:
        InputError: the file does not exist, or a line is not a record; the message names the line.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "results.jsonl"
        >>> run = {"kind": "final", "suite": "mine", "method": "ce", "seed": 0, "balanced_accuracy": 0.5}
        >>> atomic.append_jsonl(path, {**run, "recall": [0.7, 0.3], "class_counts": [90, 10]})
        >>> [record["balanced_accuracy"] for record in load(path)]
        [0.5]
    """
    records = atomic.read_jsonl(Path(path), name)
    for number, record in enumerate(records, start=1):
        wrong = _wrong(record)
        if wrong:
            raise must(name, "hold records of a study", f"line {number} of {path} with {wrong}")
    return records


def load_protocol(path: Path | str) -> dict[str, Any]:
    """Return what a study held fixed, from the file `NAME.protocol.json` beside its records.

    Args:
        path: The file of records, `NAME.jsonl`.

    Returns:
        The fields of a `Protocol`; empty if there is no such file. `methods` lists all methods that were ever run, not
        only those of the last call.

    Raises:
        InputError: the file does not hold a protocol.

    Example:
        >>> load_protocol("missing.jsonl")
        {}
    """
    protocol = _beside(path, "protocol")
    if isinstance(methods := protocol.get("methods"), list):
        protocol = {**protocol, "methods": list(dict.fromkeys([*methods, *load_spaces(path)]))}
    return protocol


def load_spaces(path: Path | str) -> dict[str, Any]:
    """Return the search space of each method, as `study.tune.describe_space` wrote it; empty if none is recorded."""
    return _beside(path, "spaces")


def _beside(path: Path | str, part: str) -> dict[str, Any]:
    beside = Path(path).with_suffix(".protocol.json")
    if not beside.is_file():
        return {}
    found = atomic.read_json(beside, beside.name)
    kept = found.get(part, {}) if isinstance(found, dict) else None
    if not isinstance(kept, dict):
        raise must(beside.name, f"hold a {part}", beside)
    return kept


def _wrong(record: Record) -> str:
    """Return what is wrong with a record, in words; empty if nothing is."""
    kind = record.get("kind")
    if kind not in ("trial", "final"):
        return f"kind {kind!r}"
    for name in ("suite", "method"):
        if not isinstance(record.get(name), str):
            return f"{name} {record.get(name)!r}"
    if not isinstance(record.get("seed"), int):
        return f"seed {record.get('seed')!r}"
    if not isinstance(record.get("params", {}), Mapping):
        return f"params {record['params']!r}"
    if kind == "trial":
        done = record.get("state", "complete") == "complete"
        return f"balanced_accuracy {record.get('balanced_accuracy')!r}" if done and not _is_number(record) else ""
    if not _is_number(record):
        return f"balanced_accuracy {record.get('balanced_accuracy')!r}"
    recall, sizes = record.get("recall"), record.get("class_counts")
    if not isinstance(recall, list) or not recall:
        return f"recall {recall!r}"
    if not isinstance(sizes, list) or len(sizes) != len(recall) or not all(isinstance(size, int) for size in sizes):
        return f"class_counts {sizes!r} for {len(recall)} recalls"
    inside = record.get("inside") or {}
    if not isinstance(inside, Mapping):
        return f"inside {inside!r}"
    if not isinstance(inside.get(BACKBONE, ""), str | None):
        return f"{BACKBONE} {inside[BACKBONE]!r}"
    return ""


def _is_number(record: Record) -> bool:
    value = record.get("balanced_accuracy")
    return isinstance(value, int | float) and math.isfinite(value)
