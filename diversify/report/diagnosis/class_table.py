"""The main table of a diagnosis's report: one row for each class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...diagnosis.beyond_size import MATCHED_N
from ...diagnosis.catalogue import MEASURES
from ...diagnosis.result import Diagnosis
from .. import wording
from ..plots import FRAGILE
from ..record import Cell, Heading, Row, Table
from ..wording import DASH, LONGEST_IN_TABLE, cut

CLASS_COLUMNS = {  # measure: heading
    "count": "images, train",
    "count_heldout": "images, held-out",
    "recall_train": "recall, train",
    "recall_heldout": "recall, held-out",
    "recall_log_count": "recall expected from size",
    "size_and_diversity_predict": "recall expected from size and coverage",
    "coverage_heldout": "coverage, held-out",
    "ce_magnitude_ratio": "top-K magnitude ratio",
    "diversity_distinct_train": "distinct of 20, train",
    "safe": "safe",
    "ceiling_gain": "ceiling gain, points",
    "head_norm": "head norm",
}
_SHORT = {  # headings in Markdown, whose lines are to fit into a terminal
    "count": "images",
    "recall_heldout": "recall",
    "recall_log_count": "expected",
    "ce_magnitude_ratio": "magnitude",
    "safe": "safe",
    "ceiling_gain": "ceiling",
}
_IF_KNOWN = ("size_and_diversity_predict", "coverage_heldout")  # left out where no class has a value
_NO_INTERVAL = ("recall_train", "safe")  # their intervals are left out, because the table is wide
_TROUBLE = Heading(
    title="trouble",
    short="trouble",
    meaning="What is surely wrong with the class, of all its findings together. Small: size predicts a recall below the mean, and"
    " recall surely rises with size. Narrow: its training images do not show what its held-out images show.",
)
ALL_COLUMNS = 2000  # with more classes, the table of the remaining classes has _FEW_COLUMNS only
MOST_ROWS = 10_000  # in that table; classes of higher recall are left to diagnosis.json
_FEW_COLUMNS = ("count", "count_heldout", "recall_heldout")


def class_table(diagnosis: Diagnosis, names: Sequence[str], order: Sequence[int], gap: int) -> Table:
    """Return the table of the classes.

    Args:
        diagnosis: The diagnosis.
        names: The names of all classes, as they are shown.
        order: The classes shown, weakest first.
        gap: The place in `order` before which classes are left out.
    """
    shown = [
        column
        for column in CLASS_COLUMNS
        if column in diagnosis.columns and (column not in _IF_KNOWN or diagnosis[column].isfinite().any())
    ]
    troubles = [", ".join(one) for one in diagnosis.troubles]
    shown_classes = set(order)
    rest = [c for c in wording.order_of(diagnosis["recall_heldout"]) if c not in shown_classes]
    few = [name for name in shown if name in _FEW_COLUMNS] if len(names) > ALL_COLUMNS else shown
    caption = "Weakest class first. "
    if diagnosis.findings:
        caption += f"{FRAGILE} marks fragile classes; bold values are the evidence for their findings. "
    caption += f"Brackets show the 95% interval of each class. {DASH} is undefined; distinct images need {MATCHED_N} training images."
    return Table(
        title="Classes",
        caption=caption + wording.left_out(len(names), len(order), "held-out recall"),
        headings=_headings(shown, trouble=any(troubles)),
        rows=_rows(diagnosis, names, order, shown, troubles),
        gap=gap,
        left_out=len(rest),
        rest_headings=_headings(few, trouble=any(troubles)) if rest else (),
        rest=_rows(diagnosis, names, rest[:MOST_ROWS], few, troubles),
    )


def _headings(columns: Iterable[str], *, trouble: bool) -> tuple[Heading, ...]:
    explained = (
        Heading(
            title=CLASS_COLUMNS[name],
            short=_SHORT.get(name, ""),
            meaning=wording.with_source(MEASURES[name]),
            anchor=wording.anchor(name),
        )
        for name in columns
    )
    return (Heading(title="class"), *([_TROUBLE] if trouble else []), *explained)


def _rows(
    diagnosis: Diagnosis,
    names: Sequence[str],
    classes: Sequence[int],
    columns: Iterable[str],
    troubles: Sequence[str],
) -> tuple[Row, ...]:
    evidence: dict[int, set[str]] = {}
    for finding in diagnosis.findings:
        evidence.setdefault(finding.class_index, set()).update(one.measure for one in finding.evidence)
    listed, any_trouble = list(columns), any(troubles)

    def cell(c: int, column: str) -> Cell:
        unit = "points" if column == "ceiling_gain" else MEASURES[column].unit
        return Cell(
            value=wording.formatted(wording.at(diagnosis.columns, column, c), unit),
            interval="" if column in _NO_INTERVAL else wording.column_interval(diagnosis.columns, column, c, unit),
            strong=column in evidence.get(c, ()),
        )

    rows = []
    for c in classes:
        name = cut(names[c], LONGEST_IN_TABLE)
        rows.append(
            Row(
                name=name,
                cells=(
                    *([Cell(value=troubles[c] or DASH)] if any_trouble else []),
                    *(cell(c, column) for column in listed),
                ),
                mark=_mark(diagnosis, c),
                full_name=names[c] if names[c] != name else "",
            )
        )
    return tuple(rows)


def _mark(diagnosis: Diagnosis, c: int) -> str:
    if wording.at(diagnosis.columns, "count", c) == 0:
        return f"{FRAGILE} no training image"
    return f"{FRAGILE} fragile" if wording.at(diagnosis.columns, "fragile", c) > 0 else ""
