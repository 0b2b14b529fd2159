"""What the parts of a report on several labels per image share: the labels shown, and how they are drawn and tabulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...diagnosis.multilabel import MULTILABEL_MEASURES, MultilabelDiagnosis
from .. import wording
from ..plots import FRAGILE, Rows, Series
from ..record import Cell, Heading, Row, Table
from ..wording import LONGEST_IN_TABLE, cut


class Labels:
    """A diagnosis of several labels per image, with the labels that its report shows.

    Attributes:
        diagnosis: The diagnosis.
        columns: Its measures.
        names: The names of all labels, as they are shown.
        order: The labels shown, lowest held-out recall first.
        gap: The place in `order` before which labels are left out.
        by_size: The labels shown, most frequent first.
        left_out: A sentence on the labels left out; "" if all are shown.
    """

    def __init__(self, diagnosis: MultilabelDiagnosis) -> None:
        self.diagnosis, self.columns = diagnosis, diagnosis.columns
        self.names = tuple(wording.named(name) for name in diagnosis.label_names)
        self.order, self.gap = wording.selection(diagnosis["recall_heldout"])
        self.by_size = sorted(self.order, key=lambda c: (-wording.at(self.columns, "count", c), c))
        self.left_out = wording.left_out(len(self.names), len(self.order), "held-out recall", "labels")

    def fragile(self, c: int) -> bool:
        """Return whether a label is fragile."""
        return wording.at(self.columns, "fragile", c) > 0

    def sign(self, c: int) -> str:
        """Return the sign behind the name of a label; "" for one that is not fragile."""
        return FRAGILE if self.fragile(c) else ""

    def series(self, column: str, name: str, **style: Any) -> Series:
        """Return a measure of the shown labels as plot data, most frequent label first."""
        return wording.series(self.columns, column, self.by_size, name=name, **style)

    def rows(self, *series: Series, **options: Any) -> Rows:
        """Return a dot plot of the shown labels, most frequent first."""
        drawn, signs = tuple(self.names[c] for c in self.by_size), tuple(self.sign(c) for c in self.by_size)
        return Rows(names=drawn, signs=signs, series=series, **options)

    def extremes(self, column: str) -> str:
        """Return a sentence that names the labels with the lowest and the highest value."""
        return wording.extremes(self.columns, column, self.names, MULTILABEL_MEASURES[column][1])

    @property
    def largest_first(self) -> str:
        """A sentence that says in which order plots show the labels."""
        return f" Most frequent label at the top; {FRAGILE} marks fragile labels.{self.left_out}"

    def table(
        self,
        title: str,
        caption: str,
        columns: Mapping[str, str],
        *,
        short: Mapping[str, str] | None = None,
        classes: Sequence[int] | None = None,
    ) -> Table:
        """Return measures of the shown labels as a table, with their intervals.

        Args:
            title: The title of the table.
            caption: The explanation above it.
            columns: Measures and their headings.
            short: Shorter headings for Markdown, which then leaves out the others.
            classes: Other labels than those shown.
        """
        evidence = {one.class_index: {each.measure for each in one.evidence} for one in self.diagnosis.findings}
        rows = []
        for c in self.order if classes is None else classes:
            name = cut(self.names[c], LONGEST_IN_TABLE)
            cells = tuple(
                Cell(
                    value=wording.formatted(wording.at(self.columns, column, c), _unit(column)),
                    interval=wording.column_interval(self.columns, column, c, _unit(column)),
                    strong=column in evidence.get(c, ()),
                )
                for column in columns
            )
            full = self.names[c] if self.names[c] != name else ""
            rows.append(Row(name=name, cells=cells, mark=self._mark(c), full_name=full))
        headings = (
            Heading(
                title=heading,
                short=(short or {}).get(column, ""),
                meaning=MULTILABEL_MEASURES[column][2],
                anchor=wording.anchor(column),
            )
            for column, heading in columns.items()
        )
        return Table(
            title=title,
            caption=caption,
            headings=(Heading(title="label"), *headings),
            rows=tuple(rows),
            rows_are="labels",
        )

    def _mark(self, c: int) -> str:
        if wording.at(self.columns, "count", c) == 0:
            return f"{FRAGILE} no training image"
        return f"{FRAGILE} fragile" if self.fragile(c) else ""


def _unit(column: str) -> str:
    """Return how a measure is written: gains in points, thresholds with two digits."""
    if column in ("f1_gain", "ap_gain", "calibration_bias"):
        return "points"
    return "ratio" if column in ("threshold", "threshold_best") else MULTILABEL_MEASURES[column][1]
