"""The table of `docs/results/load.md`, from the last record of each figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.load.__main__ import RESULTS
from diversify.files import atomic

PARTS = ("kills", "fuzz", "places", "memory", "orphans")


def note_of(record: Mapping[str, Any]) -> str:
    """Return what a record says beside its counts."""
    match record["part"]:
        case "kills":
            done = record.get("complete_at_the_kill", 0)
            complete = f", {done} of these all there was" if done else ""
            return f"{record['had_written']} had written{complete}; a run takes {record['cpu_seconds_of_a_run']:.1f} s of processor time"
        case "fuzz":
            return f"{record['read']:,} read, {record['refused_in_one_line']:,} refused in one line"
        case "places":
            return f"{record['refused_in_one_line']:,} refused in one line"
        case "memory":
            change = f"{record['kib_per_diagnosis']:+.2f} ± {2 * record['kib_per_diagnosis_error']:.2f} KiB each"
            return f"{record['minutes']:.0f} minutes; {change} in the second half, {record['mib_at_the_end']:.0f} MiB at the end"
    return f"up to {record['most_processes']} processes, the last gone after {record['longest_seconds']:.0f} s"


def table() -> str:
    """Return the table."""
    latest: dict[str, Mapping[str, Any]] = {}
    for record in atomic.read_jsonl(RESULTS) if RESULTS.exists() else []:
        latest[str(record["figure"])] = record
    rows = ["| | tried | survived | lost | |", "|:--|--:|--:|--:|:--|"]
    for record in sorted(latest.values(), key=lambda one: PARTS.index(one["part"])):
        counts = f"{record['tried']:,} | {record['survived']:,} | {record['lost']:,}"
        rows.append(f"| {record['what']} | {counts} | {note_of(record)} |")
    return "\n".join(rows) if latest else "No records yet."
