"""The table and the sentence on how much each measure says about recall beyond class size."""

from __future__ import annotations

import math

from ...diagnosis.catalogue import MEASURES
from ...diagnosis.result import Diagnosis
from ...functional.stats import critical_correlation
from .. import wording
from ..record import Cell, Heading, Row, Table

_FEWEST_CLASSES = 4  # that a correlation takes


def beyond_size_note(diagnosis: Diagnosis) -> str:
    """Return how to read the table, with its limits of significance."""
    classes = max((_classes_used(diagnosis, measure) for measure in diagnosis.beyond_log_count), default=0)
    if classes < _FEWEST_CLASSES:
        return f"Undefined: at least {_FEWEST_CLASSES} classes are needed to separate a measure from class size."
    plain, given = critical_correlation(classes), critical_correlation(classes, 1)
    measures = len(diagnosis.beyond_log_count)
    fewer = any(_classes_used(diagnosis, measure) < classes for measure in diagnosis.beyond_log_count)
    return (
        "The table shows how strongly each measure correlates with held-out recall over the classes (rank correlation). The first"
        f" column holds class size fixed: it shows what a measure adds to the number of training images. With {classes} classes,"
        f" bold correlations differ from 0 at the 5% level: beyond ±{plain:.2f}, or ±{given:.2f} with class size fixed."
        + (" Measures that fewer classes have come last, and need a stronger correlation." if fewer else "")
        + f" Of {measures} measures that say nothing, about {max(1, round(0.05 * measures))} would be bold by chance."
    )


def beyond_size_table(diagnosis: Diagnosis) -> Table | None:
    """Return the correlations of each measure, strongest first; None with fewer than 4 classes."""
    keys = ("correlation_with_recall_given_count", "correlation_with_recall", "correlation_with_count")
    if all(_classes_used(diagnosis, measure) < _FEWEST_CLASSES for measure in diagnosis.beyond_log_count):
        return None

    def strength(measure: str) -> tuple[int, float]:
        value = abs(diagnosis.beyond_log_count[measure].get(keys[0], math.nan))
        return -_classes_used(diagnosis, measure), -value if math.isfinite(value) else 1.0

    rows = []
    for measure in sorted(diagnosis.beyond_log_count, key=strength):
        classes = _classes_used(diagnosis, measure)
        values = [diagnosis.beyond_log_count[measure].get(key, math.nan) for key in keys]
        limits = [critical_correlation(classes, 1), critical_correlation(classes), math.inf]
        cells = [
            Cell(value=wording.signed(value, 2), strong=abs(value) > limit)
            for value, limit in zip(values, limits, strict=True)
        ]
        known = MEASURES.get(measure)
        rows.append(
            Row(
                name=known.title if known else measure,
                cells=(*cells, Cell(value=f"{classes:,}")),
                meaning=wording.with_source(known) if known else "",
                anchor=wording.anchor(measure) if known else "",
            )
        )
    return Table(
        title="What each measure adds to class size",
        caption="Strongest first.",
        headings=(
            Heading(title="measure"),
            Heading(
                title="with recall, class size fixed",
                meaning="Partial rank correlation with held-out recall, given the number of training images.",
            ),
            Heading(title="with recall", meaning="Rank correlation with held-out recall."),
            Heading(title="with class size", meaning="Rank correlation with the number of training images."),
            Heading(title="classes", meaning="Number of classes that have this measure."),
        ),
        rows=tuple(rows),
    )


def _classes_used(diagnosis: Diagnosis, measure: str) -> int:
    used = diagnosis["recall_heldout"].isfinite() & diagnosis["count"].isfinite()
    return int((used & diagnosis[measure].isfinite()).sum()) if measure in diagnosis.columns else 0
