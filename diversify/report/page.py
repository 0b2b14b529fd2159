"""The two layouts of a report's record: one offline HTML page, and Markdown."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import textwrap
import unicodedata
from collections.abc import Sequence

import jinja2

from . import plots
from .plots import Profile
from .record import Cell, Chart, Report, Section, Statement, Table

FINDINGS = 10  # shown; the rest is folded (HTML) or left to diagnosis.json (Markdown)
FOLDED = 100  # findings that are folded at most; the rest is left to diagnosis.json
PROSE = 100  # columns of a line of Markdown

# Headings that both layouts show
BEYOND_SIZE = "What each measure adds to class size"
DEFINITIONS = "Definitions"
ORIGIN = "How these numbers were made"


@functools.cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("diversify.report", "templates")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False)


def html(report: Report) -> str:
    """Return the report as one HTML page that loads nothing from outside.

    Its only script searches tables and unfolds findings for printing; the page can be read without it.
    """
    environment = _environment()
    script = environment.loader.get_source(environment, "report.js")[0] if environment.loader else ""
    template = environment.get_template("report.html.j2")
    return (
        template.render(
            report=report,
            drawing_of=_drawing,
            limit=FINDINGS,
            most=FINDINGS + FOLDED,
            titles={"beyond": BEYOND_SIZE, "definitions": DEFINITIONS, "origin": ORIGIN},
            script=script,
            digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
        + "\n"
    )


def _drawing(chart: Chart, name: str) -> str:
    """Return the SVG of a chart, as wide as its place on a page of usual width."""
    return plots.draw(chart.data, name=name, width=3.0 if isinstance(chart.data, Profile) else 4.8)


def markdown(report: Report) -> str:
    """Return the report as Markdown, without figures and pictures, for terminals and code-hosting sites."""
    parts = [f"# {_md(report.title)}", _prose(report.subtitle)]
    parts += [_prose(text, title=title, indent="> ") for title, text in report.warnings]
    parts.append(
        "\n".join(
            _wrapped(
                f"{_md(one.label)}: **{_md(one.value.replace(chr(10), ', '))}**"
                + (f" ({_md(one.detail)})" if one.detail else ""),
                item="- ",
            )
            for one in report.headlines
        )
    )
    parts += ["## Findings", _prose(report.findings_note)]
    parts += [_md_finding(number, one) for number, one in enumerate(report.findings[:FINDINGS], start=1)]
    if len(report.findings) > FINDINGS:
        parts.append(f"And {len(report.findings) - FINDINGS:,} more.")
    parts += [f"## {report.table.title}", _prose(report.table.caption), _md_table(report.table)]
    for section in report.sections:
        parts += _md_section(section)
    if report.beyond_note:
        parts += [f"## {BEYOND_SIZE}", _prose(report.beyond_note)]
        parts += [_md_table(report.beyond)] if report.beyond else []
    parts += [
        f"## {DEFINITIONS}",
        "\n".join(
            _prose(f"{one.text} {one.source}." if one.source else one.text, title=f"{one.title}:", item="- ")
            for one in report.definitions
        ),
        f"## {ORIGIN}",
        "\n".join(_prose(f"{label}: {value}", item="- ") for label, value in report.origin),
    ]
    return "\n\n".join(parts) + "\n"


def _md_finding(number: int, finding: Statement) -> str:
    """Return a finding as an item of a numbered list."""
    labels = [f"`{finding.label}`"] if finding.label else []
    labels += [f"also {other}" for other in finding.others]
    indent = " " * len(f"{number}. ")
    paragraphs = [
        f"{number}. **{_md(finding.title)}**"
        + (f" ({', '.join(map(_md, finding.troubles))})" if finding.troubles else "")
        + (f" · {', '.join(labels)}" if labels else ""),
        _prose(finding.text, indent=indent).lstrip(),
    ]
    if finding.advice:
        paragraphs.append(_prose(f"Recommended: {finding.advice}", indent=indent).lstrip())
    return f"\n\n{indent}".join(paragraphs)


def _md_section(section: Section) -> list[str]:
    """Return the note, tables, galleries (as lists) and commands of a section; empty if it has charts alone."""
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
    """Return plain text as a paragraph or list item, with `title` before it in bold."""
    return _wrapped(f"{f'**{_md(title)}** ' if title else ''}{_md(text)}", item=item, indent=indent)


def _wrapped(body: str, *, item: str = "", indent: str = "") -> str:
    """Return Markdown wrapped to `PROSE` columns; no line starts a list, heading, quotation or rule by accident.

    `item` starts the first line, `indent` every line.
    """
    width = PROSE - len(item or indent)
    lines = textwrap.wrap(body, width, break_long_words=False, break_on_hyphens=False) or [""]
    lines = [re.sub(r"^(?:(\d+)(?=[.)](?:\s|$))|(?=[#>+=-]))", r"\1\\", line) for line in lines]
    after = " " * len(item) if item else indent
    return "\n".join((after if place else item or indent) + line for place, line in enumerate(lines))


def _md(text: str) -> str:
    """Return the text escaped, so that Markdown shows it literally."""
    text = re.sub(r"([\\`*<|~$])", r"\\\1", text)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # inside a word, _ is not emphasis
    return re.sub(r"&(?=#?\w+;)", r"\\&", text).replace("](", "]\\(")


def _md_table(table: Table) -> str:
    """Return a table with its columns padded to one width, numbers to the right; wide characters count double."""

    def cell(one: Cell) -> str:
        value = f"**{_md(one.value)}**" if one.strong else _md(one.value)
        return f"{value} {_md(one.interval)}" if one.interval else value

    shown = [place for place, heading in enumerate(table.headings) if heading.short or not place]
    if len(shown) == 1:
        shown = list(range(len(table.headings)))
    lines = [[_md(table.headings[place].short or table.headings[place].title) for place in shown]]
    for row in table.rows:
        sign = row.mark[:1] if row.mark and not row.mark[0].isalnum() else ""
        word = f" ({_md(row.mark)})" if row.mark and not sign else ""
        lines.append([f"{sign} {_md(row.name)}{word}".strip(), *(cell(row.cells[place - 1]) for place in shown[1:])])
    if table.left_out:
        lines.insert(1 + table.gap, [f"… {table.left_out:,} left out", *[""] * (len(shown) - 1)])
    widths = [max(3, *(_width(line[place]) for line in lines)) for place in range(len(shown))]

    def line_of(line: Sequence[str]) -> str:
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
    return "\n".join((line_of(lines[0]), rule, *map(line_of, lines[1:])))


def _width(text: str) -> int:
    """Return how many columns the text takes in a terminal."""
    marks = [mark for mark in text if not unicodedata.combining(mark) and unicodedata.category(mark) != "Cf"]
    return sum(2 if unicodedata.east_asian_width(mark) in "WF" else 1 for mark in marks)
