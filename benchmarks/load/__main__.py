"""The command line: run a part, and append a record of each of its figures."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import benchmarks.load
from diversify.files import atomic
from diversify.runtime import provenance

RESULTS = Path(__file__).parents[1] / "results" / "load.jsonl"


def keep(part: str, figures: Sequence[dict[str, Any]], started: str, results: Path) -> int:
    """Append the records of a part; return how many tries were lost."""
    for figure in figures:
        tried = {"tried": figure["tried"], "survived": figure["tried"] - figure["lost"], "lost": figure["lost"]}
        record = {"kind": "load", "part": part, "figure": part, **figure, **tried}
        record |= {"started": started, **provenance.origin(torch.device("cpu"))}
        atomic.append_jsonl(results, record)
        print(f"{record['figure']}: {tried}")
    return sum(figure["lost"] for figure in figures)


def figures(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run the part that the options name, and yield its records."""
    match options.part:
        case "kills":
            from benchmarks.load.kills import kill_each

            yield from kill_each(options.times, options.commands, options.seed)
        case "fuzz":
            from benchmarks.load.fuzz import fuzz

            yield from fuzz(options.cases, first=options.first, only=options.only)
        case "places":
            from benchmarks.load.places import places

            yield from places(options.only)
        case "memory":
            from benchmarks.load.memory import repeat

            yield repeat(options.minutes)
        case _:
            from benchmarks.load.orphans import orphans

            yield from orphans()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 1 if anything was lost."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load",
        description=benchmarks.load.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=("kills", "fuzz", "places", "memory", "orphans"))
    parser.add_argument("--times", type=int, default=50, help="kills of each command")
    parser.add_argument("--commands", nargs="+", default=["train", "diagnose", "remedy", "benchmark"])
    parser.add_argument("--cases", type=int, default=100_000, help="damaged files")
    parser.add_argument("--first", type=int, default=0, help="number of the first damaged file of each kind")
    parser.add_argument("--only", default="", help="part of the name of a kind of file or of a condition")
    parser.add_argument("--minutes", type=float, default=60, help="of repeated diagnoses")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    started = provenance.now()
    lost = [keep(options.part, [one], started, options.out) for one in figures(options)]
    if not lost:
        parser.error(f"--only must be part of the name of something to try, got {options.only!r}")
    return int(sum(lost) > 0)


if __name__ == "__main__":
    raise SystemExit(main())
