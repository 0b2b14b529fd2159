"""The parts that the sections of a diagnosis's report share: the classes shown, their order, their series and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...diagnosis.catalogue import MEASURES
from ...diagnosis.result import Diagnosis
from .. import wording
from ..plots import FRAGILE, Rows, Series
from ..record import Cell, Heading, Row, Table
from ..wording import LONGEST_IN_TABLE, cut


class Subject:
    """A diagnosis with the classes that its report shows.

    Attributes:
        diagnosis: The diagnosis.
        names: The names of all classes, as they are shown.
        order: The classes shown, weakest first.
        columns: The measures of the diagnosis.
        by_size: The classes shown, largest first.
        left_out: A sentence on the classes left out; "" if all are shown.
    """

    def __init__(self, diagnosis: Diagnosis, names: Sequence[str], order: Sequence[int]) -> None:
        self.diagnosis, self.names, self.order = diagnosis, tuple(names), tuple(order)
        self.columns = diagnosis.columns
        self.by_size = sorted(order, key=lambda c: (-wording.at(self.columns, "count", c), c))
        self.left_out = wording.left_out(len(names), len(order), "held-out recall")

    def fragile(self, c: int) -> bool:
        """Return whether a class is fragile."""
        return wording.at(self.columns, "fragile", c) > 0

    def marked_name(self, c: int) -> str:
        """Return the name of a class, with a sign behind it if the class is fragile."""
        return f"{self.names[c]} {FRAGILE}" if self.fragile(c) else self.names[c]

    def signs(self, classes: Sequence[int]) -> tuple[str, ...]:
        """Return the signs behind the names of classes; "" for classes that are not fragile."""
        return tuple(FRAGILE if self.fragile(c) else "" for c in classes)

    def series(self, column: str, name: str, **style: Any) -> Series:
        """Return a measure of the shown classes as plot data, largest class first."""
        return wording.series(self.columns, column, self.by_size, name=name, **style)

    def rows(self, *series: Series, **options: Any) -> Rows:
        """Return a dot plot of the shown classes, largest class first."""
        drawn = tuple(self.names[c] for c in self.by_size)
        return Rows(names=drawn, signs=self.signs(self.by_size), series=series, **options)

    def lowest_and_highest(self, column: str, unit: str) -> str:
        """Return a sentence that names the classes with the lowest and the highest value."""
        return wording.extremes(self.columns, column, self.names, unit)

    @property
    def largest_first(self) -> str:
        """A sentence that says in which order plots by size show the classes."""
        return f" Largest class at the top; {FRAGILE} marks fragile classes.{self.left_out}"

    def summary(self, title: str, caption: str, measures: Mapping[str, str], **more: Sequence[str]) -> Table:
        """Return the shown classes as a table.

        Args:
            title: The title of the table.
            caption: The explanation above it.
            measures: Measures and their headings.
            more: Headings of further columns and their texts, in the order of the shown classes.
        """
        rows = [
            Row(
                name=cut(self.names[c], LONGEST_IN_TABLE),
                mark=f"{FRAGILE} fragile" if self.fragile(c) else "",
                cells=(
                    *(
                        Cell(
                            value=wording.formatted(wording.at(self.columns, name, c), MEASURES[name].unit),
                            interval=wording.column_interval(self.columns, name, c, MEASURES[name].unit),
                        )
                        for name in measures
                    ),
                    *(Cell(value=texts[place]) for texts in more.values()),
                ),
            )
            for place, c in enumerate(self.order)
        ]
        headings = (Heading(title="class"), *(Heading(title=one) for one in (*measures.values(), *more)))
        return Table(title=title, caption=caption + self.left_out, headings=headings, rows=tuple(rows))
