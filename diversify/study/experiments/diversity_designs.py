"""The designs of the experiment that takes class size and class diversity apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

ASSIGNMENTS = 8
HALVES = ("development", "confirmation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """What is trained on one data set; records of one design are analysed together.

    Attributes:
        data: The data set.
        equal: Imbalance of the runs with equal class sizes.
        unequal: Imbalance of the others.
        cells: Pairs of sizes and diversity. Sizes are "equal"; "independent" of diversity; "with" it, where the smallest classes
            are narrow; or "against" it, where the largest are.
        epochs: Passes over the training images.
        widths: Channels of the three convolutions.
        matched: Images of every class on which measures are compared.
        holdout: Share of the training images that is held out.
        batch_size: Images per step.
        learning_rate: Peak learning rate; the schedule is cosine.
    """

    data: str
    equal: str
    unequal: str
    cells: tuple[tuple[str, str], ...]
    epochs: int
    widths: tuple[int, int, int]
    matched: int = 20
    holdout: float = 0.2
    batch_size: int = 64
    learning_rate: float = 0.05

    def record(self) -> dict[str, Any]:
        """Return what a record keeps; cells may be added to a design."""
        kept = {name: value for name, value in dataclasses.asdict(self).items() if name != "cells"}
        return kept | {"widths": list(self.widths)}


SIZES = ("equal", "independent", "with", "against")


def _cells(levels: Sequence[str], everywhere: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return every size with each form of `everywhere`; equal sizes with the other levels too; and runs without narrow classes."""
    crossed = [(sizes, form) for form in everywhere for sizes in SIZES]
    others = [("equal", form) for form in levels if form not in everywhere]
    return (*crossed, *others, ("equal", "none"), ("independent", "none"))


LEVELS = ("neighbours:1", "neighbours:3", "neighbours:10", "bursts:10")
DESIGNS = {
    design.data: design
    for design in (
        Design(
            data="digits",
            equal="exp:1:25",
            unequal="exp:4:40",
            cells=_cells(("neighbours:1", "neighbours:3", "kinds:2", "bursts:10"), ("neighbours:1", "bursts:10")),
            epochs=25,
            widths=(24, 32, 48),
            matched=8,
            batch_size=32,
        ),
        Design(
            data="fashion-mnist",
            equal="exp:1:300",
            unequal="exp:10:600",
            cells=_cells(LEVELS, ("neighbours:3", "bursts:10")),
            epochs=12,
            widths=(16, 32, 64),
        ),
        Design(
            data="cifar10",
            equal="exp:1:300",
            unequal="exp:10:600",
            cells=_cells(LEVELS, ("neighbours:3", "bursts:10")),
            epochs=12,
            widths=(16, 32, 64),
        ),
        Design(  # five pairs of digits, each a class; without runs of other classes
            data="mnist",
            equal="exp:1:300",
            unequal="exp:10:600",
            cells=tuple((sizes, "kinds:1") for sizes in SIZES),
            epochs=12,
            widths=(16, 32, 64),
        ),
    )
}
