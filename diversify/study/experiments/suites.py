"""The experiments that the command `diversify benchmark` finds by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import diversity_run, paper, paper_claims
from .diversity_designs import ASSIGNMENTS
from .diversity_designs import DESIGNS as DIVERSITY
from .diversity_designs import Design as DiversityDesign
from .paper import DESIGNS as PAPER
from .paper import LOSSES, SEEDS
from .paper import Design as PaperDesign

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diversity:
    """Class size and class diversity set independently of each other.

    Attributes:
        design: What is trained.
        assignments: Permutations of the classes.

    Example:
        >>> one = Diversity(design=DIVERSITY["digits"], assignments=2)
        >>> one.total, one.missing(Path("missing.jsonl"))
        (24, 24)
    """

    design: DiversityDesign
    assignments: int = ASSIGNMENTS

    @property
    def total(self) -> int:
        """How many runs it has."""
        return len(self.design.cells) * self.assignments

    def says(self) -> str:
        """What is trained, in one line."""
        design = self.design
        return (
            f"{design.data}: {len(design.cells)} pairs of class sizes and diversity, {self.assignments} assignments of the classes;"
            f" small networks, {design.epochs} epochs, on the CPU"
        )

    def missing(self, path: Path) -> int:
        """How many runs are not recorded in a file."""
        return len(diversity_run.missing_of(self.design, self.assignments, path))

    def run(self, path: Path, *, root: Path, workers: int, download: bool) -> Iterator[Record]:
        """Make the runs that are not recorded, append each record to the file, and yield it."""
        where: dict[str, Any] = {"root": root, "workers": workers, "download": download}
        return diversity_run.run(self.design, assignments=self.assignments, path=path, **where)

    def line(self, record: Record) -> str:
        """What a run shows, in one line."""
        return diversity_run.line_of(record)

    def summary(self, path: Path) -> str:
        """What all records of the design in a file show, as a table."""
        return diversity_run.summary_of(diversity_run.records_of(self.design, path))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paper:
    """The claims of the paper, each judged by a rule.

    Attributes:
        design: What is trained.
        losses: Losses of the library.
        seeds: At least three.
        device: Training device; None for the accelerator if there is one.

    Example:
        >>> one = Paper(design=PAPER["digits"])
        >>> one.total, one.missing(Path("missing.jsonl"))
        (15, 15)
    """

    design: PaperDesign
    losses: Sequence[str] = LOSSES
    seeds: Sequence[int] = tuple(range(SEEDS))
    device: str | None = None

    @property
    def total(self) -> int:
        """How many runs it has."""
        return len(self.losses) * len(self.seeds)

    def says(self) -> str:
        """What is trained, in one line."""
        design = self.design
        return (
            f"{design.data}, {design.imbalance} against {design.balanced}; {design.model}, {design.epochs} epochs;"
            f" three networks for each of the losses {', '.join(self.losses)} and each of the seeds {', '.join(map(str, self.seeds))}"
        )

    def missing(self, path: Path) -> int:
        """How many runs are not recorded in a file."""
        return len(paper.missing_of(self.design, self.losses, self.seeds, path))

    def run(self, path: Path, *, root: Path, workers: int, download: bool) -> Iterator[Record]:
        """Make the runs that are not recorded, append each record to the file, and yield it."""
        where: dict[str, Any] = {"root": root, "workers": workers, "download": download}
        return paper.run(self.design, losses=self.losses, seeds=self.seeds, device=self.device, path=path, **where)

    def line(self, record: Record) -> str:
        """What a run shows, in one line."""
        return paper_claims.line_of(record)

    def summary(self, path: Path) -> str:
        """What all records of the design in a file show, as a table."""
        return paper_claims.table(paper.records_of(self.design, path))


def _short(data: str) -> str:
    """The data set in the name of an experiment."""
    return data.removesuffix("-mnist")


Experiment = Diversity | Paper

EXPERIMENTS: Mapping[str, Experiment] = {
    "paper": Paper(design=PAPER["digits"]),
    **{f"diversity_{_short(data)}": Diversity(design=design) for data, design in DIVERSITY.items()},
    **{f"paper_{_short(data)}": Paper(design=design) for data, design in PAPER.items() if data != "digits"},
}
"""Each by its name, with the options that it has where none are given."""
