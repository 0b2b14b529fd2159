"""Read the records, the protocol and the search spaces of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import must
from ..files import atomic

Record = Mapping[str, Any]
BACKBONE = "backbone"  # in `inside`: the network that was frozen, by name


# Records


def load(path: Path, name: str = "results.jsonl") -> list[dict[str, Any]]:
    """The records of a study; an InputError names the line that is none."""
    records = atomic.read_jsonl(path, name)
    for number, record in enumerate(records, start=1):
        wrong = _wrong(record)
        if wrong:
            raise must(name, "hold records of a study", f"line {number} of {path} with {wrong}")
    return records


def load_protocol(path: Path) -> dict[str, Any]:
    """What the study whose records are at `path` held fixed; empty where nothing says so beside them.

    Its methods are all that were ever asked for, not only those of the last command.
    """
    protocol = _beside(path, "protocol")
    if isinstance(methods := protocol.get("methods"), list):
        protocol = {**protocol, "methods": list(dict.fromkeys([*methods, *load_spaces(path)]))}
    return protocol


def load_spaces(path: Path) -> dict[str, Any]:
    """What was searched for each method, as `study.tune.describe_space` wrote it; empty where nothing says so."""
    return _beside(path, "spaces")


def _beside(path: Path, part: str) -> dict[str, Any]:
    beside = path.with_suffix(".protocol.json")
    if not beside.is_file():
        return {}
    found = atomic.read_json(beside, beside.name)
    kept = found.get(part, {}) if isinstance(found, dict) else None
    if not isinstance(kept, dict):
        raise must(beside.name, f"hold a {part}", beside)
    return kept


def _wrong(record: Record) -> str:
    """What a record lacks, in words; empty where nothing."""
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
