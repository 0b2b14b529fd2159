"""The record of a report: everything that a page shows, as plain text and plot data.

`page.html` and `page.markdown` lay a record out; nothing in it is escaped yet.
"""

from __future__ import annotations

import dataclasses

from .plots import Plot
from .wording import number_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table.

    Attributes:
        value: The formatted value.
        interval: Its formatted interval, or another remark in small print.
        strong: Whether the value is shown in bold: it is evidence for a finding, or differs from 0.
    """

    value: str
    interval: str = ""
    strong: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heading:
    """The heading of a table's column.

    Attributes:
        title: The text.
        short: A shorter text for Markdown. If any heading of a table has one, Markdown shows only the columns that do.
        meaning: The explanation shown on hover.
        anchor: The anchor of the definition on the same page.
    """

    title: str
    short: str = ""
    meaning: str = ""
    anchor: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table.

    Attributes:
        name: The name in the first column, possibly shortened.
        cells: One cell per further column.
        mark: A sign and a word shown beside the name, such as "◆ fragile".
        good: Whether the mark is good news; this sets its colour.
        full_name: The full name if `name` is shortened.
        meaning: The explanation shown on hover if the row is a measure or a method.
        anchor: The anchor of its definition on the same page.
    """

    name: str
    cells: tuple[Cell, ...]
    mark: str = ""
    good: bool = False
    full_name: str = ""
    meaning: str = ""
    anchor: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table; it has one heading more than a row has cells.

    Attributes:
        title: Read out by screen readers.
        caption: The explanation above the table.
        headings: The column headings, that of the names first.
        rows: The rows shown.
        gap: The place among `rows` before which rows are left out.
        left_out: How many rows are left out there.
        rest_headings: The headings of the table of the rows left out.
        rest: The rows left out; the HTML page shows them in a second, folded table.
        rows_are: What the rows are; names the search field.
        prose: Whether the cells are sentences, written to the left.
    """

    title: str
    caption: str
    headings: tuple[Heading, ...]
    rows: tuple[Row, ...]
    gap: int = 0
    left_out: int = 0
    rest_headings: tuple[Heading, ...] = ()
    rest: tuple[Row, ...] = ()
    rows_are: str = "classes"
    prose: bool = False

    @property
    def gap_text(self) -> str:
        """The text that stands in place of the rows left out."""
        return f"{number_of(self.left_out, self._row_is, self.rows_are)} between these left out"

    @property
    def rest_text(self) -> str:
        """The title of the table of the rows left out."""
        left = number_of(self.left_out, self._row_is, self.rows_are)
        if len(self.rest) < self.left_out:
            return f"Show the first {len(self.rest):,} of the other {left}; diagnosis.json holds all of them"
        return f"Show the other {left}"

    @property
    def _row_is(self) -> str:
        return "class" if self.rows_are == "classes" else self.rows_are.removesuffix("s")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Headline:
    """One number about the whole model."""

    label: str
    value: str
    detail: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statement:
    """One finding.

    Attributes:
        title: The class, or the result in a few words.
        text: The finding with its numbers.
        label: The recommended kind of remedy, or the kind of statement.
        others: Further kinds of remedy that the evidence supports.
        advice: What to do.
        good: Whether the finding is good news; this sets its colour.
        troubles: The kinds of trouble of the class, in a word or two each.
    """

    title: str
    text: str
    label: str = ""
    others: tuple[str, ...] = ()
    advice: str = ""
    good: bool = False
    troubles: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure.

    Attributes:
        title: The question that the figure answers.
        caption: How to read it.
        alt: The figure in words, for readers who cannot see it.
        data: The numbers to draw.
        mark: A sign before the title.
    """

    title: str
    caption: str
    alt: str
    data: Plot
    mark: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridCell:
    """One cell of a `Grid`.

    Attributes:
        value: Strength of the colour, in [0, 1].
        text: The text in the cell.
        title: The explanation shown on hover.
        spoken: What screen readers read out if there is no text.
    """

    value: float
    text: str = ""
    title: str = ""
    spoken: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """A heat map, shown as a table.

    Attributes:
        title: The question that it answers.
        caption: How to read it.
        corner: The heading of the row names.
        columns: The column headings.
        rows: Per row, its name and one cell per column; None for a cell without a value.
        hue: "blue" or "vermillion".
    """

    title: str
    caption: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[GridCell | None, ...]], ...]
    hue: str = "blue"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """One image; `source` is a `data:` address, or "" if no picture was taken."""

    source: str
    alt: str
    caption: str
    details: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Album:
    """Pictures of one kind; `note` says how they were chosen, or why there are none."""

    title: str
    note: str
    pictures: tuple[Picture, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gallery:
    """The albums of one class."""

    title: str
    text: str
    albums: tuple[Album, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureTable:
    """Pictures in rows and columns.

    Attributes:
        title: What is shown.
        caption: How to read it.
        corner: The heading of the row names.
        columns: The column headings.
        rows: Per row, its name, a detail, and per column the `data:` addresses of its pictures.
    """

    title: str
    caption: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[tuple[str, ...], ...]], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """One section of a page; every part but its title may be missing.

    Attributes:
        title: The heading.
        anchor: The anchor that the table of contents links to.
        note: The introduction.
        table: A table, on the page and in Markdown.
        charts: Figures; the page alone shows them.
        small: A series of small figures under `small_title` and `small_caption`.
        grids: Heat maps; the page alone shows them.
        picture_tables: Tables of pictures; the page alone shows them.
        galleries: Pictures of single classes.
        commands: Commands to type.
        summary: A table with the numbers of the charts, for Markdown alone.
    """

    title: str
    anchor: str
    note: str = ""
    table: Table | None = None
    charts: tuple[Chart, ...] = ()
    small: tuple[Chart, ...] = ()
    small_title: str = ""
    small_caption: str = ""
    grids: tuple[Grid, ...] = ()
    picture_tables: tuple[PictureTable, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    commands: tuple[str, ...] = ()
    summary: Table | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Definition:
    """The definition of a measure or a method, and the publication it comes from."""

    title: str
    text: str
    source: str = ""
    anchor: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that one page shows, in its order.

    Attributes:
        title: The title of the page.
        subtitle: The data behind it, in a sentence or two.
        warnings: Titles and texts of what a reader must know first.
        headlines: The most important numbers.
        findings_note: The introduction to the findings.
        findings: The findings, most important first.
        table: The main table: the classes, the methods or the suites.
        sections: The sections between the main table and the definitions.
        beyond_note: How much each measure adds to class size, in words; "" for a report without this section.
        beyond: The same as a table.
        definitions: What the measures and methods are.
        origin: Labels and values that say how the numbers came about.
    """

    title: str
    subtitle: str
    warnings: tuple[tuple[str, str], ...]
    headlines: tuple[Headline, ...]
    findings_note: str
    findings: tuple[Statement, ...]
    table: Table
    sections: tuple[Section, ...]
    beyond_note: str
    beyond: Table | None
    definitions: tuple[Definition, ...]
    origin: tuple[tuple[str, str], ...]
