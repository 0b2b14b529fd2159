"""Class size and class diversity taken apart, in many small trainings: `benchmarks/results/diversity_DATA.jsonl`.

    python -m benchmarks.diversity digits
    python -m benchmarks.diversity fashion-mnist --root DATA --workers 2
    python -m benchmarks.diversity cifar10 --root DATA --workers 2
    python -m benchmarks.diversity mnist --root DATA --workers 2

`diversify benchmark diversity_digits --out FILE` makes the same records; so do `diversity_fashion`, `diversity_cifar10` and
`diversity_mnist`. The code is `diversify/study/experiments/diversity_run.py`, which says what is done; the designs stand beside it.
The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from diversify.errors import InputError, unknown
from diversify.study.experiments.diversity_designs import ASSIGNMENTS as ASSIGNMENTS
from diversify.study.experiments.diversity_designs import DESIGNS as DESIGNS
from diversify.study.experiments.diversity_designs import HALVES as HALVES
from diversify.study.experiments.diversity_designs import SIZES as SIZES
from diversify.study.experiments.diversity_designs import Design as Design
from diversify.study.experiments.diversity_measures import FEW_HELDOUT as FEW_HELDOUT
from diversify.study.experiments.diversity_measures import KINDS as KINDS
from diversify.study.experiments.diversity_measures import OF_DIAGNOSIS as OF_DIAGNOSIS
from diversify.study.experiments.diversity_measures import SPACES as SPACES
from diversify.study.experiments.diversity_measures import measures_of as measures_of
from diversify.study.experiments.diversity_network import SmallNetwork as SmallNetwork
from diversify.study.experiments.diversity_run import SUITE as SUITE
from diversify.study.experiments.diversity_run import built as built
from diversify.study.experiments.diversity_run import key_of as key_of
from diversify.study.experiments.diversity_run import line_of as line_of
from diversify.study.experiments.diversity_run import loaded as loaded
from diversify.study.experiments.diversity_run import run as run
from diversify.study.experiments.diversity_run import run_one as run_one
from diversify.study.experiments.runs import kept as kept
from diversify.study.experiments.runs import listed as listed

RESULTS = Path(__file__).parent / "results"


def path_of(data: str) -> Path:
    """Return the file of the records of a data set."""
    return RESULTS / f"diversity_{data.replace('-', '_')}.jsonl"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing and print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help=", ".join(DESIGNS))
    parser.add_argument("--root", default="data")
    parser.add_argument("--assignments", type=int, default=ASSIGNMENTS, help="permutations of the classes")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one thread")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    try:
        if options.data not in DESIGNS:
            raise unknown("data", options.data, DESIGNS)
        design, path = DESIGNS[options.data], options.out or path_of(options.data)
        made = run(design, assignments=options.assignments, root=options.root, workers=options.workers, path=path)
        for number, one in enumerate(made, 1):
            print(f"{number}: {line_of(one)}", flush=True)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
