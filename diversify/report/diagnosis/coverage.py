"""The section on size and diversity: which of the two fails in which class."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...diagnosis.coverage import FEWEST_CLASSES
from ...diagnosis.findings import narrow_below, narrow_classes, small_below
from .. import wording
from ..plots import ByCoverage, Series
from ..record import Chart, Section
from .subject import Subject

_NAMED = 12  # with more classes, only fragile ones and those in trouble have a name
_LISTED = 6  # names in a sentence
_TROUBLED = 30  # classes drawn in full, beside those that every plot shows, because they are in trouble
_BOTH = "size_and_diversity_predict"


def has_coverage(subject: Subject) -> bool:
    """Return whether the coverage of any class is known."""
    coverage = subject.columns.get("coverage_heldout")
    return coverage is not None and bool(coverage.isfinite().any())


def coverage_section(subject: Subject) -> Section:
    """Return the section that shows recall over class size and coverage; `has_coverage` must hold."""
    troubles = [", ".join(subject.diagnosis.troubles[c]) or wording.DASH for c in subject.order]
    measures = {
        "recall_heldout": "recall, held-out",
        "count": "images, train",
        "coverage_heldout": "coverage",
        "recall_log_count": "size predicts",
        _BOTH: "size and coverage predict",
    }
    return Section(
        title="Size and diversity",
        anchor="coverage",
        note=_at_a_glance(subject)
        + " Coverage is how often a held-out image of the class is nearer to its training images than these are to each other:"
        " 50% if both show the same. It needs held-out images from where the model will be used.",
        charts=(_chart(subject), *_predictions(subject)),
        summary=subject.summary(
            "Size and diversity",
            "Weakest class first." + _why_no_prediction(subject),
            {name: title for name, title in measures.items() if name in subject.columns},
            trouble=troubles,
        ),
    )


def _why_no_prediction(subject: Subject) -> str:
    """Return a sentence on an empty column of predictions; "" where it is not empty."""
    both = subject.columns.get(_BOTH)
    if both is None or bool(both.isfinite().any()):
        return ""
    return f" What size and coverage predict is known from {FEWEST_CLASSES} classes with a coverage on."


def _listed(subject: Subject, classes: Sequence[int]) -> str:
    shown = ", ".join(subject.names[c] for c in classes[:_LISTED])
    return shown + (f" and {len(classes) - _LISTED:,} more" if len(classes) > _LISTED else "")


def _at_a_glance(subject: Subject) -> str:
    """Return which classes are narrow, which are small and which are both, in one or two sentences."""
    narrow = set(narrow_classes(subject.columns))
    small = {c for c, trouble in enumerate(subject.diagnosis.troubles) if "small" in trouble}
    kinds = {"narrow": narrow - small, "small": small - narrow, "small and narrow": small & narrow}
    weakest_first = wording.order_of(subject.columns["recall_heldout"])
    parts = [
        f"{wording.number_of(len(found), 'class is', 'classes are')} {kind}:"
        f" {_listed(subject, [c for c in weakest_first if c in found])}"
        for kind, found in kinds.items()
        if found
    ]
    if not parts:
        return "No class is surely narrow, and class size surely explains the recall of no fragile class."
    return "; ".join(parts) + "."


def _chart(subject: Subject) -> Chart:
    data = _data(subject)
    placed = data.placed
    troubles = subject.diagnosis.troubles
    if data.equal_counts:
        sizes = f"All classes have {data.count[placed[0]]:,.0f} training images, so size tells no class from another:"
        caption = f" {sizes} classes are placed by coverage, with its 95% interval, and by recall." if placed else ""
    else:
        caption = (
            " Each point is a class: how well its training images cover its held-out images, with the 95% interval, against their"
            " number."
        )
    caption += " The fuller the point, the lower its held-out recall."
    if math.isfinite(data.narrow_below):
        caption += (
            f" Narrow: the whole interval lies below {wording.share(data.narrow_below)}, 95% of what the"
            " best-covered quarter of the classes reaches."
        )
    if math.isfinite(data.small_below):
        caption += (
            f" Small: a fragile class of fewer than {math.ceil(data.small_below):,} images, of which size predicts less than the"
            " mean recall."
        )
    elif not data.equal_counts:
        caption += " Recall does not surely rise with size here, so no class counts as small."
    if not all(data.shown):
        caption += " Small dots are further classes."
    missing = len(data.names) - len(placed)
    if missing:
        caption += f" {wording.number_of(missing, 'class', 'classes')} without a coverage not drawn."
    told = [f"{subject.names[c]}, {' and '.join(troubles[c])}" for c in subject.order if troubles[c]][:_TROUBLED]
    return Chart(
        title="Is a class too small, or too narrow?",
        caption=caption.strip(),
        alt="Scatter plot of coverage of held-out images against the number of training images for"
        f" {wording.number_of(len(placed), 'class', 'classes')}. {subject.lowest_and_highest('coverage_heldout', 'share')}"
        + (f" In trouble: {'; '.join(told)}." if told else ""),
        data=data,
    )


def _data(subject: Subject) -> ByCoverage:
    columns, troubles = subject.columns, subject.diagnosis.troubles
    every = range(len(subject.names))
    troubled = [c for c in wording.order_of(columns["coverage_heldout"]) if subject.fragile(c) or troubles[c]]
    full = {*subject.order, *troubled[:_TROUBLED]}
    few = len(subject.names) <= _NAMED
    names = ("count", "coverage_heldout", "coverage_heldout_low", "coverage_heldout_high", "recall_heldout")
    count, coverage, low, high, recall = (tuple(wording.at(columns, name, c) for c in every) for name in names)
    return ByCoverage(
        names=subject.names,
        count=count,
        coverage=coverage,
        low=low,
        high=high,
        recall=recall,
        fragile=tuple(subject.fragile(c) for c in every),
        shown=tuple(c in full for c in every),
        named=tuple(c in full and (few or subject.fragile(c) or bool(troubles[c])) for c in every),
        narrow_below=narrow_below(columns),
        small_below=small_below(columns, subject.diagnosis.log_count),
    )


def _predictions(subject: Subject) -> tuple[Chart, ...]:
    """Return the chart of what size predicts, and size and coverage; none where the latter is undefined."""
    if _BOTH not in subject.columns or not subject.columns[_BOTH].isfinite().any():
        return ()
    by_size = bool(subject.columns["recall_log_count"].isfinite().any())
    predicted: list[Series] = []
    if by_size:
        predicted.append(subject.series("recall_log_count", "size predicts", color="muted", marker="s", hollow=True))
    both = "both predict" if by_size else "coverage predicts"
    predicted.append(subject.series(_BOTH, both, color="orange", marker="^"))
    caption = (
        "Held-out recall with its 95% interval, and what is expected from class size alone, and from size and coverage together,"
        " by fits to these classes. Where the two differ, coverage explains what size does not."
        if by_size
        else "Held-out recall with its 95% interval, and what coverage predicts by a fit to these classes."
    )
    return (
        Chart(
            title="What do size and coverage predict?",
            caption=caption + subject.largest_first,
            alt="Dot plot of held-out recall and of its predictions per class. "
            + subject.lowest_and_highest("recall_heldout", "share"),
            data=subject.rows(
                subject.series("recall_heldout", "held-out recall", color="blue", marker="o"), *predicted, percent=True
            ),
        ),
    )
