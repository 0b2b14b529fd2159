"""The claims of the paper that this library builds on, tested one by one: `benchmarks/results/paper_DATA.jsonl`.

    python -m benchmarks.paper digits --workers 2
    python -m benchmarks.paper cifar10 --root DATA --workers 2
    python -m benchmarks.paper cifar10 --root DATA --model resnet32 --epochs 200 --imbalance exp:100 --balanced none --out FILE

`diversify benchmark paper --out FILE` makes the same records as the first line and prints the same verdicts; `paper_fashion`,
`paper_cifar10`, `paper_mnist`, `paper_places365` and `paper_inaturalist` do so on the other data sets. The code is
`diversify/study/experiments/paper.py`.

The paper is Dablain et al., "Understanding CNN fragility when learning with imbalanced data", 2023 (arXiv 2210.09465). For each loss
and seed, three networks begin with the same weights: one is trained on imbalanced data, one on balanced data, and one on the same
balanced data in another order. The third shows how much two networks differ where nothing but chance differs. Each seed permutes anew
which classes are rare. A record holds the measures of the three networks per class; `paper_claims.py` beside it judges the claims by them. The
same command goes on where it was stopped, inside a network too, and prints the verdicts at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from diversify.errors import InputError, unknown
from diversify.study.experiments import paper_claims
from diversify.study.experiments.paper import DESIGNS as DESIGNS
from diversify.study.experiments.paper import FEWEST_SEEDS as FEWEST_SEEDS
from diversify.study.experiments.paper import LOSSES as LOSSES
from diversify.study.experiments.paper import NETWORKS as NETWORKS
from diversify.study.experiments.paper import SEEDS as SEEDS
from diversify.study.experiments.paper import SUITE as SUITE
from diversify.study.experiments.paper import Design as Design
from diversify.study.experiments.paper import records_of
from diversify.study.experiments.paper import run as run
from diversify.study.experiments.paper import run_one as run_one
from diversify.study.experiments.paper_networks import Network as Network
from diversify.study.experiments.paper_networks import class_columns as class_columns
from diversify.study.experiments.paper_networks import listed as listed
from diversify.study.experiments.paper_networks import pair_columns as pair_columns

RESULTS = Path(__file__).parent / "results"


def path_of(data: str) -> Path:
    """Return the file of the records of a data set."""
    return RESULTS / f"paper_{data.replace('-', '_')}.jsonl"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help=", ".join(DESIGNS))
    parser.add_argument("--root", default="data", help="folder of the data sets")
    parser.add_argument("--losses", default=",".join(LOSSES))
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"number of seeds, at least {FEWEST_SEEDS}")
    for field in dataclasses.fields(Design)[1:]:
        number = {"int": int, "float": float, "int | None": int}.get(str(field.type), str)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=number)
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one thread")
    parser.add_argument("--device", help="cpu or cuda; by default the accelerator if there is one")
    parser.add_argument("--out", type=Path, help="the records, a file that ends in .jsonl")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing, print a line for each run, and then the verdicts."""
    options = _parser().parse_args(arguments)
    try:
        if options.data not in DESIGNS:
            raise unknown("data", options.data, DESIGNS)
        names = [field.name for field in dataclasses.fields(Design)[1:]]
        given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
        design, path = dataclasses.replace(DESIGNS[options.data], **given), options.out or path_of(options.data)
        losses = tuple(options.losses.split(","))
        made = run(
            design,
            losses=losses,
            seeds=options.seeds,
            root=options.root,
            workers=options.workers,
            device=options.device,
            path=path,
        )
        for number, one in enumerate(made, 1):
            print(f"{number}: {paper_claims.line_of(one)}", flush=True)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    print(paper_claims.table(records_of(design, path)))


if __name__ == "__main__":
    main()
