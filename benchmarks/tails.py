"""What benchmarks on networks with long tails share: their options, the networks one by one, and tables of differences."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.unseen_rows import HALVES, Set, _interval, half_of
from diversify.files import atomic

SCORES = {"balanced_accuracy": "balanced accuracy", "worst": "worst class", "worst_third": "worst third"}

Network = tuple[str, int]  # data set and tail order
Scores = Mapping[Network, Mapping[str, float]]


def options(doc: str | None, sets: Sequence[Set], results: Path, *, banks: bool) -> argparse.Namespace:
    """Return what the command line says.

    Args:
        doc: Text of the help.
        sets: The data sets.
        results: Where records go if nothing else is said.
        banks: Whether features are kept in a folder.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"))
    if banks:
        parser.add_argument("--banks", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--half", choices=HALVES, help="only this half; both by default")
    parser.add_argument("--data", choices=[one.data for one in sets])
    parser.add_argument("--out", type=Path, default=results)
    found = parser.parse_args()
    if banks:
        found.banks.mkdir(parents=True, exist_ok=True)
    return found


def every_network(work: Callable[..., str], sets: Sequence[Set], chosen: argparse.Namespace) -> None:
    """Call `work((place of the data set, tail order), root=..., results=...)` for each network and print what it returns."""
    tasks = [
        (place, order)
        for order in range(max(one.orders + one.added for one in sets))
        for place, one in enumerate(sets)
        if order < one.orders + one.added
        and chosen.half in (None, half_of(one, order))
        and chosen.data in (None, one.data)
    ]
    folders = {"banks": chosen.banks} if hasattr(chosen, "banks") else {}
    work = partial(work, root=chosen.root, results=chosen.out, **folders)
    with multiprocessing.get_context("spawn").Pool(chosen.workers) as pool:
        for line in pool.imap_unordered(work, tasks):
            print(line, flush=True)


def records_in(path: Path, half: str | None = None) -> list[dict[str, Any]]:
    """Return the records of a file, or those of one half."""
    found = [dict(one) for one in atomic.read_jsonl(path)] if path.exists() else []
    return [one for one in found if half in (None, one["half"])]


def percent(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores of a record in percent."""
    return {name: 100 * float(record[name]) for name in SCORES}


def difference(found: Scores, base: Scores, score: str) -> str:
    """Return the mean difference on the same networks with its 95% t interval; a dash where there are none."""
    pairs = [values[score] - base[key][score] for key, values in found.items() if key in base]
    return _interval(pairs, sign="+") if pairs else "–"


def differences(found: Scores, base: Scores) -> list[str]:
    """Return `difference` for each score."""
    return [difference(found, base, score) for score in SCORES]


def means(found: Scores) -> list[str]:
    """Return the mean of each score in percent, with its 95% t interval."""
    return [f"{_interval([values[score] for values in found.values()])} %" for score in SCORES]


def networks_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Return how many networks the records are of, by half."""
    networks = {(one["half"], one["data"], one["tail_order"]) for one in records}
    halves = {half: sum(one[0] == half for one in networks) for half in HALVES}
    sets = {name: sum(one[1] == name for one in networks) for name in sorted({one[1] for one in networks})}
    of = " and ".join(sets)
    if len(set(sets.values())) > 1:
        of = " and ".join(f"{name} ({size})" for name, size in sets.items())
    return (
        f"{len(networks)} networks of {of}, each with other classes in the tail:"
        f" {halves['development']} for development, {halves['confirmation']} for confirmation."
    )
