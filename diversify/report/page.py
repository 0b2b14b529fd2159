"""The record of a report, text and plot data only, and its two layouts: one offline HTML page, and Markdown."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import re
import textwrap
import unicodedata
from collections.abc import Sequence

import jinja2

from . import plots
from .plots import Plot, Profile

FINDINGS = 10  # shown before the rest is folded (HTML) or left to diagnosis.json (Markdown)
FOLDED = 100  # at most; the rest is left to diagnosis.json
PROSE = 100  # columns of a line of Markdown


def number_of(number: int, one: str, many: str) -> str:
    """A count and its noun."""
    return f"{number:,} {one if number == 1 else many}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """A formatted value and interval; `strong` where it is the evidence of what the report says."""

    value: str
    interval: str = ""
    strong: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heading:
    """Of a table's column; `anchor` is that of its meaning, where the page has one.

    Where some headings of a table have a `short` form, Markdown shows the columns of these alone.
    """

    title: str
    short: str = ""
    meaning: str = ""
    anchor: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """Of a table; `mark` is a sign and a word beside the name, `good` where it says something good.

    `whole` is the name where `name` has been cut; `meaning` and `anchor` are those of a row that is a measure.
    """

    name: str
    cells: tuple[Cell, ...]
    mark: str = ""
    good: bool = False
    whole: str = ""
    meaning: str = ""
    anchor: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """One heading more than a row has cells; `left_out` rows are missing before row `gap`.

    `rest` are those rows, for the page, in a table of their own under `rest_headings`. `rows_are` is what one searches for.
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

    @property
    def gap_text(self) -> str:
        """What stands in the place of the rows left out."""
        return f"{number_of(self.left_out, 'class', 'classes')} between them left out"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Headline:
    """A number of the whole model."""

    label: str
    value: str
    detail: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statement:
    """A finding in words; `label` is the kind of remedy it points to, `others` are further ones."""

    title: str
    text: str
    label: str = ""
    others: tuple[str, ...] = ()
    advice: str = ""
    good: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure: what it says in words (`alt`), and the numbers to draw; `mark` stands before its title."""

    title: str
    caption: str
    alt: str
    data: Plot
    mark: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shade:
    """A cell of a `Grid`: how much of the colour it has, in [0, 1], its text, and what is said of it on hover.

    `spoken` is read out where there is no text.
    """

    value: float
    text: str = ""
    title: str = ""
    spoken: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """A heat map as a table; cells without a value are None. `hue` is "blue" or "vermillion"."""

    title: str
    caption: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Shade | None, ...]], ...]
    hue: str = "blue"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """One image; `source` is a `data:` address, empty where the picture is not at hand."""

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
class Sheet:
    """Pictures in rows and columns, as a table; the cells of a row are several `data:` addresses each."""

    title: str
    caption: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[tuple[str, ...], ...]], ...]  # name, a detail, addresses per column


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: a table, charts, series of small ones, grids, sheets, galleries, commands to type.

    `summary` says in Markdown what the charts say; `table` is on the page too.
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
    sheets: tuple[Sheet, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    commands: tuple[str, ...] = ()
    summary: Table | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a measure is, and where it comes from."""

    title: str
    text: str
    source: str = ""
    anchor: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Everything a page says, in its order, as plain text and plot data; nothing is escaped yet."""

    title: str
    subtitle: str
    warnings: tuple[tuple[str, str], ...]
    headlines: tuple[Headline, ...]
    findings_note: str
    findings: tuple[Statement, ...]
    classes: Table
    sections: tuple[Section, ...]
    beyond_note: str
    beyond: Table | None
    meanings: tuple[Meaning, ...]
    origin: tuple[tuple[str, str], ...]


@functools.cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("diversify.report", "templates")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False)


def html(report: Report) -> str:
    """One offline page: nothing is loaded, and the one script, a search over rows of tables, is not needed to read it."""
    environment = _environment()
    script = environment.loader.get_source(environment, "report.js")[0] if environment.loader else ""
    template = environment.get_template("report.html.j2")
    return (
        template.render(
            report=report,
            drawing_of=_drawing,
            limit=FINDINGS,
            most=FINDINGS + FOLDED,
            script=script,
            digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
        + "\n"
    )


def _drawing(chart: Chart, name: str) -> str:
    """The SVG, as wide as its place on a page that is neither narrow nor wide."""
    return plots.draw(chart.data, name=name, width=3.0 if isinstance(chart.data, Profile) else 4.8)


def markdown(report: Report) -> str:
    """The same record for a terminal and for code-hosting pages."""
    parts = [f"# {_md(report.title)}", _prose(report.subtitle)]
    parts += [_prose(text, title=title, indent="> ") for title, text in report.warnings]
    parts.append(
        "\n".join(
            _wrapped(
                f"{_md(one.label)}: **{_md(one.value)}**" + (f" ({_md(one.detail)})" if one.detail else ""), item="- "
            )
            for one in report.headlines
        )
    )
    parts += ["## Findings", _prose(report.findings_note)]
    for number, finding in enumerate(report.findings[:FINDINGS], start=1):
        labels = [f"`{finding.label}`"] if finding.label else []
        labels += [f"also {other}" for other in finding.others]
        lines = [
            f"{number}. **{_md(finding.title)}**" + (f" · {', '.join(labels)}" if labels else ""),
            _prose(finding.text, indent=(indent := " " * len(f"{number}. "))).lstrip(),
        ]
        if finding.advice:
            lines.append(_prose(f"Points to: {finding.advice}", indent=indent).lstrip())
        parts.append(f"\n\n{indent}".join(lines))
    if len(report.findings) > FINDINGS:
        parts.append(f"And {len(report.findings) - FINDINGS:,} more.")
    parts += [f"## {report.classes.title}", _prose(report.classes.caption), _md_table(report.classes)]
    for section in report.sections:
        parts += _md_section(section)
    if report.beyond_note:
        parts += ["## What each measure says beyond log n", _prose(report.beyond_note)]
        parts += [_md_table(report.beyond)] if report.beyond else []
    parts += [
        "## What the measures mean",
        "\n".join(
            _prose(f"{one.text} {one.source}." if one.source else one.text, title=f"{one.title}:", item="- ")
            for one in report.meanings
        ),
        "## Origin of these numbers",
        "\n".join(_prose(f"{label}: {value}", item="- ") for label, value in report.origin),
    ]
    return "\n\n".join(parts) + "\n"


def _md_section(section: Section) -> list[str]:
    """The note and the tables of a section, and its galleries as lists; nothing for a section of charts alone."""
    parts = [_prose(section.note)] if section.note else []
    if section.table:
        parts += [_prose(section.table.caption)] if section.table.caption else []
        parts.append(_md_table(section.table))
    if section.summary:
        parts += [_prose(section.summary.caption)] if section.summary.caption else []
        parts.append(_md_table(section.summary))
    for gallery in section.galleries:
        parts += [f"### {_md(gallery.title)}", _prose(gallery.text)]
        for album in gallery.albums:
            lines = [
                _prose(f"{one.caption}: {'; '.join(one.details)}" if one.details else one.caption, item="  - ")
                for one in album.pictures
            ]
            parts.append("\n".join([_prose(f"{album.title}: {album.note}", item="- "), *lines]))
    if section.commands:
        parts.append("```console\n" + "\n".join(section.commands) + "\n```")
    return [f"## {section.title}", *parts] if parts else []


def _prose(text: str, *, title: str = "", item: str = "", indent: str = "") -> str:
    """A paragraph or list item of plain text; `title` stands before it in bold."""
    return _wrapped(f"{f'**{_md(title)}** ' if title else ''}{_md(text)}", item=item, indent=indent)


def _wrapped(body: str, *, item: str = "", indent: str = "") -> str:
    """Markdown in lines of `PROSE` columns, of which none begins what would be read as a block.

    `item` begins the first line, `indent` all of them.
    """
    width = PROSE - len(item or indent)
    lines = textwrap.wrap(body, width, break_long_words=False, break_on_hyphens=False) or [""]
    lines = [re.sub(r"^(?:(\d+)(?=[.)](?:\s|$))|(?=[#>+=-]))", r"\1\\", line) for line in lines]
    after = " " * len(item) if item else indent
    return "\n".join((after if place else item or indent) + line for place, line in enumerate(lines))


def _md(text: str) -> str:
    """Text that Markdown shows as it is: nothing becomes a tag, a link, a cell's end, code, emphasis or a formula."""
    text = re.sub(r"([\\`*<|~$])", r"\\\1", text)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # inside of a word it is no emphasis
    return re.sub(r"&(?=#?\w+;)", r"\\&", text).replace("](", "]\\(")


def _md_table(table: Table) -> str:
    """Cells padded to one width, numbers to the right; wide scripts count double."""

    def cell(one: Cell) -> str:
        value = f"**{_md(one.value)}**" if one.strong else _md(one.value)
        return f"{value} {_md(one.interval)}" if one.interval else value

    shown = [place for place, heading in enumerate(table.headings) if heading.short or not place]
    if len(shown) == 1:
        shown = list(range(len(table.headings)))
    lines = [[_md(table.headings[place].short or table.headings[place].title) for place in shown]]
    for row in table.rows:
        sign = row.mark[:1] if row.mark and not row.mark[0].isalnum() else ""
        told = f" ({_md(row.mark)})" if row.mark and not sign else ""
        lines.append([f"{sign} {_md(row.name)}{told}".strip(), *(cell(row.cells[place - 1]) for place in shown[1:])])
    if table.left_out:
        lines.insert(1 + table.gap, [f"… {table.left_out:,} left out", *[""] * (len(shown) - 1)])
    widths = [max(3, *(_width(line[place]) for line in lines)) for place in range(len(shown))]

    def laid(line: Sequence[str]) -> str:
        padded = [" " * (width - _width(text)) for text, width in zip(line, widths, strict=True)]
        first, *others = (
            text + pad if not place else pad + text for place, (text, pad) in enumerate(zip(line, padded, strict=True))
        )
        return "| " + " | ".join((first, *others)) + " |"

    rule = (
        "|"
        + "|".join("-" * (width + 2) if not place else "-" * (width + 1) + ":" for place, width in enumerate(widths))
        + "|"
    )
    return "\n".join((laid(lines[0]), rule, *map(laid, lines[1:])))


def _width(text: str) -> int:
    """Columns of a terminal."""
    marks = [mark for mark in text if not unicodedata.combining(mark) and unicodedata.category(mark) != "Cf"]
    return sum(2 if unicodedata.east_asian_width(mark) in "WF" else 1 for mark in marks)
