"""The section on class size: recall and the magnitude gap against the number of training images."""

from __future__ import annotations

import math

from ...diagnosis.catalogue import MEASURES
from ...diagnosis.result import Diagnosis
from .. import wording
from ..plots import ByCount
from ..record import Chart, Section
from .subject import Subject

_CHARTS = (  # measure, title, label of the axis, caption
    (
        "recall_heldout",
        "Does class size explain recall?",
        "held-out recall",
        "Each point is a class: its held-out recall with its 95% interval, against its number of training images.",
    ),
    (
        "ce_magnitude_gap",
        "Does class size explain the magnitude gap?",
        "top-K magnitude, training minus held-out, in logits",
        "The magnitude gap is how much weaker a class's top-K features are on held-out images than on training images; 0 means"
        " equally strong. In logits; weak classes have small logits and so small gaps. The magnitude ratio compares classes.",
    ),
)


def size_section(subject: Subject) -> Section:
    """Return the section on class size."""
    names, columns = subject.names, subject.columns
    absent = int((columns["count"] == 0).sum())
    missing = f" {wording.number_of(absent, 'class', 'classes')} without a training image not drawn." if absent else ""
    named = (
        f" Of {len(names)} classes, only the {wording.WEAKEST} weakest and the {wording.STRONGEST} strongest have a name."
        if subject.left_out
        else ""
    )
    described = wording.number_of(len(names), "class", "classes")
    charts = tuple(
        Chart(
            title=title,
            caption=caption + _fit(subject.diagnosis, measure) + missing + named,
            alt=f"Scatter plot of {MEASURES[measure].title} against the number of training images for {described}. "
            + subject.lowest_and_highest(measure, MEASURES[measure].unit),
            data=_by_count(subject, measure, label),
        )
        for measure, title, label, caption in _CHARTS
    )
    return Section(title="Class size", anchor="size", charts=charts)


def _line(diagnosis: Diagnosis, measure: str) -> tuple[float, float] | None:
    """Return slope and intercept on the logarithm of the class size; None if undefined."""
    line = diagnosis.log_count.get(measure, {})
    slope, intercept = line.get("slope", math.nan), line.get("intercept", math.nan)
    return (slope, intercept) if math.isfinite(slope) and math.isfinite(intercept) else None


def _fit(diagnosis: Diagnosis, measure: str) -> str:
    if _line(diagnosis, measure) is None:
        return " No line is fitted: all classes have the same size, or there are fewer than 5 classes."
    r_squared = wording.formatted(diagnosis.log_count[measure].get("r_squared", math.nan), "ratio")
    return f" The dashed line is fitted to these classes: what the logarithm of class size alone predicts (R² {r_squared})."


def _by_count(subject: Subject, measure: str, label: str) -> ByCount:
    columns = ("count", measure, f"{measure}_low", f"{measure}_high")
    count, value, low, high = (tuple(subject.columns[name].tolist()) for name in columns)
    shown = set(subject.order)
    classes = range(len(subject.names))
    return ByCount(
        label=label,
        names=subject.names,
        count=count,
        value=value,
        low=low,
        high=high,
        fragile=tuple(subject.fragile(c) for c in classes),
        shown=tuple(c in shown for c in classes),
        line=_line(subject.diagnosis, measure),
        percent=MEASURES[measure].unit == "share",
        bad="high" if MEASURES[measure].bad == "high" else "low",
    )
