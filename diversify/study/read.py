"""Read the records, the protocol and the search spaces of a study, also of one that another version wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import must
from ..files import atomic
from ..repair.metric import TITLES

Record = Mapping[str, Any]
BACKBONE = "backbone"
"""Key in a record's `inside`: the name of the frozen network that the run used."""


def metric_of(record: Record) -> str:
    """Return the name of the metric that a record's study tunes and compares by; a record without one has `balanced`.

    Example:
        >>> metric_of({"metric": "macro-f1"}), metric_of({})
        ('macro-f1', 'balanced')
    """
    return str(record.get("metric") or "balanced")


def value_of(record: Record) -> Any:
    """Return the metric of a record: its `score`, or its balanced accuracy where that is the metric.

    Example:
        >>> value_of({"balanced_accuracy": 0.5}), value_of({"metric": "worst", "score": 0.2, "balanced_accuracy": 0.5})
        (0.5, 0.2)
    """
    return record.get("balanced_accuracy" if metric_of(record) == "balanced" else "score")


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
        if not all(isinstance(each, str) for each in methods):
            beside = Path(path).with_suffix(".protocol.json")
            raise must(f"methods of {beside.name}", "be names", f"another thing in {beside}")
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
    if metric_of(record) not in TITLES:
        return f"metric {record['metric']!r}"
    if kind == "final" or record.get("state", "complete") == "complete":
        for name in ("balanced_accuracy", *(() if metric_of(record) == "balanced" else ("score",))):
            if not _is_number(record.get(name)):
                return f"{name} {record.get(name)!r}"
    if kind == "trial":
        return ""
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
