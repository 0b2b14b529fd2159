"""Two questions on the finding *narrow* that the runs of `benchmarks.diversity` leave open, with networks of their own.

    python -m benchmarks.diversity_more without cifar10 fashion-mnist mnist digits --root DATA --workers 2
    python -m benchmarks.diversity_more heldout digits --root DATA --workers 2

`without`: how often is it made where no class is narrow? Runs without narrow classes, with twelve other assignments of the
classes. `heldout`: is it made on digits if there are more held-out images? The digits of `benchmarks.diversity` with half of the
images held out, in eight assignments. Records: `results/diversity_without_DATA.jsonl` and `results/diversity_heldout_digits.jsonl`.
The rule of the finding was settled before. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import diversity
from benchmarks.diversity_analysis import Table, share_where, table_of
from diversify.errors import InputError, unknown
from diversify.files import atomic
from diversify.study.experiments.diversity_run import missing_of
from diversify.study.experiments.runs import claimed, made

OTHER = 12  # assignments of `without`: the second half of 24, so that none of them was seen before
WITHOUT: Mapping[str, diversity.Design] = {
    name: dataclasses.replace(design, cells=(("equal", "none"), ("independent", "none")))
    for name, design in diversity.DESIGNS.items()
}
HELDOUT: Mapping[str, diversity.Design] = {
    "digits": dataclasses.replace(
        diversity.DESIGNS["digits"], equal="exp:1:30", unequal="exp:4:48", holdout=0.5, matched=6
    )
}
QUESTIONS = {"without": WITHOUT, "heldout": HELDOUT}


def path_of(question: str, data: str) -> Path:
    """Return the file of the records of a question on a data set."""
    return diversity.RESULTS / f"diversity_{question}_{data.replace('-', '_')}.jsonl"


def read(question: str, data: str) -> Table | None:
    """Return the classes of the recorded runs; None without records."""
    path = path_of(question, data)
    return table_of(atomic.read_jsonl(path)) if path.exists() else None


def without_table() -> str:
    """Return how often the finding is made where no class is narrow, as a table."""
    rows = [
        "| data | networks without narrow classes | classes | false alarms |",
        "|:--|--:|--:|--:|",
    ]
    for data in WITHOUT:
        table = read("without", data)
        if table is not None:
            found = share_where(table, table.columns["narrow wide"] > 0, np.ones(len(table), dtype=bool))
            rows.append(f"| {data} | {len(set(table.run))} | {len(table)} | {found.shown('.1%')} |")
    return "\n".join(rows) if len(rows) > 2 else "No records yet."


def heldout_table() -> str:
    """Return how often the finding is right, and how often it is made, with more held-out images, as a table."""
    rows = [
        "| data, assignments | held-out images a class | precision | recall | false alarms without narrow classes |",
        "|:--|--:|--:|--:|--:|",
    ]
    for data, design in HELDOUT.items():
        table = read("heldout", data)
        if table is None:
            continue
        for half in diversity.HALVES:
            here = table.where(table.half == half)
            some, none = here.where(here.of_run != "none"), here.where(here.of_run == "none")
            found = some.columns["narrow wide"] > 0
            counts = some.columns["count"] * design.holdout / (1 - design.holdout)
            cells = [
                f"{data}, {half}",
                f"{counts.min():.0f} to {counts.max():.0f}",
                share_where(some, some.narrow, found).shown(".0%"),
                share_where(some, found, some.narrow).shown(".0%"),
                share_where(none, none.columns["narrow wide"] > 0, np.ones(len(none), dtype=bool)).shown(".1%"),
            ]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) if len(rows) > 2 else "No records yet."


TABLES = {"diversity_without": without_table, "diversity_heldout": heldout_table}


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing and print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=list(QUESTIONS))
    parser.add_argument("data", nargs="+", help=", ".join(diversity.DESIGNS))
    parser.add_argument("--root", default="data")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one thread")
    options = parser.parse_args(arguments)
    designs = QUESTIONS[options.question]
    assignments, first = (2 * OTHER, OTHER) if options.question == "without" else (diversity.ASSIGNMENTS, 0)
    try:
        for data in options.data:
            if data not in designs:
                raise unknown("data", data, designs)
            design, path = designs[data], path_of(options.question, data)
            make = partial(diversity.run_one, design, root=options.root, assignments=assignments)
            with claimed(path):
                jobs = [job for job in missing_of(design, assignments, path) if job[2] >= first]
                for number, one in enumerate(made(make, jobs, path, workers=options.workers), 1):
                    print(f"{data} {number} of {len(jobs)}: {diversity.line_of(one)}", flush=True)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
