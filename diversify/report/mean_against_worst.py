"""The section on the mean recall against the lowest recall, of a remedy that weighs the worst classes."""

from __future__ import annotations

import math

from ..repair.choice import HeadChoice
from . import wording
from .plots import Rows, Series
from .record import Cell, Chart, Heading, Row, Section, Table

_KINDS = (
    ("mean recall", "mean", "blue", "o"),
    ("worst third", "worst_third", "orange", "s"),
    ("worst class", "worst", "vermillion", "D"),
)


def mean_against_worst(choice: HeadChoice) -> tuple[Section, ...]:
    """Return the curve of the mean recall against the lowest recall; nothing for the objective `mean`."""
    if not choice.curve:
        return ()
    names = tuple(" ".join(part for part in (one.candidate, one.option) if part) for one in choice.curve)
    cells = (
        Row(
            name=name,
            mark="recommended" if one.chosen else "",
            good=True,
            cells=tuple(Cell(value=wording.percent(value)) for value in (one.mean, one.worst_third, one.worst)),
        )
        for name, one in zip(names, choice.curve, strict=True)
    )
    title = "Mean against worst class"
    return (
        Section(
            title=title,
            anchor="mean-against-worst",
            note="A bias per class is fitted on held-out images and then moved, round by round, toward the classes that fare worst."
            " No image is predicted by a head that was fitted on it.",
            table=Table(
                title=title,
                caption="Recall on held-out images.",
                headings=(
                    Heading(title="head"),
                    *(Heading(title=kind[0]) for kind in _KINDS),
                ),
                rows=tuple(cells),
            ),
            charts=(_chart(choice, names),),
        ),
    )


def _chart(choice: HeadChoice, names: tuple[str, ...]) -> Chart:
    """The curve: the mean recall, that of the worst third and that of the worst class, of each head."""
    none = (math.nan,) * len(names)
    series = tuple(
        Series(
            name=title,
            values=tuple(getattr(one, field) for one in choice.curve),
            low=none,
            high=none,
            color=color,
            marker=marker,
        )
        for title, field, color, marker in _KINDS
    )
    listed = "; ".join(
        f"{name}: mean {wording.percent(one.mean)}, worst class {wording.percent(one.worst)}"
        for name, one in zip(names, choice.curve, strict=True)
    )
    chosen = any(one.chosen for one in choice.curve)
    return Chart(
        title="What does the worst class gain, and what does the mean lose?",
        caption="Each row is a head: the mean recall of the classes, the mean of the lowest third, and the lowest recall."
        + (" ● marks the recommended head." if chosen else " The recommended head is none of these."),
        alt=f"{listed}.",
        data=Rows(
            names=names,
            signs=tuple("●" if one.chosen else "" for one in choice.curve),
            series=series,
            percent=True,
            joined=True,
            longest=32,
        ),
    )
