"""What the records of `benchmarks.scale` show: tables and the figure of `docs/results/costs.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.scale import BANKS, LINE, SIZES, records_of

DOCS = Path(__file__).resolve().parent.parent / "docs" / "results"


def _size_of(record: Mapping[str, Any]) -> tuple[str, str, str]:
    return f"{record['rows']:,} x {record['features']:,}", f"{record['heldout']:,}", f"{record['classes']:,}"


def table() -> str:
    """Return the last record of each bank, exact and with an index, beside the physical limits."""
    latest: dict[tuple[str, bool], Mapping[str, Any]] = {}
    for record in records_of("scale"):
        latest[str(record["bank"]), bool(record["index"])] = record
    rows = [
        "| training rows | held-out rows | classes | neighbours | seconds | memory, GiB | the map read once | one matrix product |",
        "|:--|--:|--:|:--|--:|--:|--:|--:|",
    ]
    for name, index in sorted(
        (key for key in latest if key[0] in BANKS), key=lambda key: (list(BANKS).index(key[0]), key[1])
    ):
        one = latest[name, index]
        recall = one["neighbour_recall"]
        cells = [
            *_size_of(one),
            f"index, recall {recall:.1%}" if recall is not None else "exact, by choice" if not index else "exact",
            f"{one['seconds']:,.0f}",
            f"{one['anonymous_gib']:.1f}",
            f"{one['seconds_of_reading']:.1f} s",
            f"{one['seconds_of_product']:.1f} s",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) if latest else "No records yet."


def repair_table() -> str:
    """Return the last record of the head repair of each bank."""
    latest = {str(record["bank"]): record for record in records_of("repair")}
    rows = [
        "| training rows | held-out rows | classes | candidates, with their options | seconds | memory, GiB | not compared |",
        "|:--|--:|--:|:--|--:|--:|:--|",
    ]
    for name in sorted(latest, key=list(SIZES).index):
        one = latest[name]
        cells = [
            *_size_of(one),
            ", ".join(f"{candidate} {options}" for candidate, options in one["compared"].items()),
            f"{one['seconds']:,.0f}",
            f"{one['anonymous_gib']:.1f}",
            " ".join(one["notes"]) or "–",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) if latest else "No records yet."


def sampled_table() -> str:
    """Return how far the measures of a sample of the rows lie from those of all, from the last record of each bank."""
    latest = {str(record["bank"]): record for record in records_of("sampled")}
    rows = [
        "| measure | mean over the classes | apart, median class | apart, most | classes whose interval holds the exact value |",
        "|:--|--:|--:|--:|--:|",
    ]
    for one in latest.values():
        for name, found in one["measures"].items():
            inside = "–" if found["inside"] is None else f"{found['inside']:.0%}"
            cells = [f"`{name}`", *(_shown(found[key]) for key in ("mean", "median_apart", "most_apart")), inside]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) if latest else "No records yet."


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def line() -> list[Mapping[str, Any]]:
    """Return the last record of each bank of `LINE` that has one, in the order of their rows."""
    latest = {str(record["bank"]): record for record in records_of("scale")}
    return [latest[name] for name in LINE if name in latest]


def line_table() -> str:
    """Return the seconds of each bank of `LINE` over the physical limit."""
    ones = line()
    rows = [
        "| training rows | seconds | microseconds a row | memory, GiB | the map read once and one matrix product | times that limit |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for one in ones:
        limit = one["seconds_of_reading"] + one["seconds_of_product"]
        each = 1e6 * one["seconds"] / one["rows"]
        cells = (
            f"{one['rows']:,}",
            f"{one['seconds']:,.0f}",
            f"{each:,.0f}",
            f"{one['anonymous_gib']:.1f}",
            f"{limit:.2f} s",
            f"{one['seconds'] / max(limit, 0.01):,.0f}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) if ones else "No records yet."


def draw_figures(folder: Path = DOCS) -> list[Path]:
    """Draw the seconds of a diagnosis against its rows, beside the physical limit, as an SVG file; nothing without records."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ones = line()
    if len(ones) < 2:
        return []
    path = folder / "scale_rows.svg"
    style = {"svg.hashsalt": "scale", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
    with mpl.rc_context(style | {"axes.spines.right": False}):
        figure = Figure(figsize=(5.0, 3.4), layout="constrained")
        axis = figure.subplots()
        rows = [one["rows"] for one in ones]
        limit = [one["seconds_of_reading"] + one["seconds_of_product"] for one in ones]
        axis.plot(rows, [one["seconds"] for one in ones], "o-", color="#0072b2", label="diagnosis")
        axis.plot(rows, limit, "s--", color="#d55e00", label="the map read once, and one matrix product")
        axis.set(xscale="log", yscale="log", xlabel="training rows", ylabel="seconds")
        axis.legend(frameon=False, loc="upper left")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    return [path]


TABLES: Mapping[str, Callable[[], str]] = {
    "scale": table,
    "scale_rows": line_table,
    "sampled_rows": sampled_table,
    "repair": repair_table,
}
