"""A diagnosis as one offline HTML page and as Markdown: numbers first (`report_of`), drawings second (`layout`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy.special import stdtrit

from . import layout, plots, wording
from .diagnosis import MATCHED_N, Diagnosis
from .findings import REMEDIES, Finding
from .layout import Cell, Chart, Heading, Headline, Meaning, Report, Row, Statement, Table
from .measures import MEASURES
from .plots import FRAGILE, RecallByCount, Rows, Series
from .wording import DASH

# The per-class table: column, heading. `ceiling_gain` is in points.
CLASS_COLUMNS = {
    "count": "images, train",
    "count_heldout": "images, held-out",
    "recall_train": "recall, train",
    "recall_heldout": "recall, held-out",
    "recall_log_count": "expected from log n",
    "ce_magnitude_ratio": "top-K magnitude ratio",
    "diversity_vendi_heldout": "Vendi, held-out",
    "safe": "safe",
    "ceiling_gain": "ceiling gain, points",
    "head_norm": "head norm",
}
_NO_INTERVAL = ("recall_train", "safe")  # they have one, but the table is wide enough

_SPLITS = {"val": "validation", "test": "test"}


def render_html(diagnosis: Diagnosis, run: Mapping[str, Any]) -> str:
    """One offline page, for light and dark, without scripts; `run` is the content of run.json, all of it optional."""
    return layout.html(report_of(diagnosis, run))


def render_markdown(diagnosis: Diagnosis, run: Mapping[str, Any]) -> str:
    """The same without the plots, readable in a terminal and on a code-hosting page."""
    return layout.markdown(report_of(diagnosis, run))


def report_of(diagnosis: Diagnosis, run: Mapping[str, Any]) -> Report:
    """What the report of a diagnosis says."""
    summary = diagnosis.summary
    names = tuple(wording.plain(name) for name in diagnosis.class_names)
    split = _SPLITS.get(diagnosis.heldout_split, diagnosis.heldout_split)
    model, data = wording.look(run, "model", "name"), wording.look(run, "data", "spec")
    images = [f"{int(diagnosis[side].nansum()):,}" for side in ("count", "count_heldout")]
    order, gap = wording.selection(diagnosis["recall_heldout"])
    return Report(
        title=f"Diagnosis of {wording.plain(model or 'a network')}" + (f" on {wording.plain(data)}" if data else ""),
        subtitle=f"{layout.number_of(len(names), 'class', 'classes')}, {images[0]} training images, {images[1]} held-out images"
        f" ({split} split); the top {diagnosis.top_k} of {diagnosis.num_features} features. Intervals are 95%.",
        warning=None
        if diagnosis.plan_ready
        else (
            "Made on the test split: to be read only.",
            "No plan, remedy or setting may be chosen from it, or the test score would no longer be one on unseen images.",
        ),
        headlines=_headlines(summary, len(names)),
        findings_note=_findings_note(diagnosis, names),
        findings=tuple(_statement(finding) for finding in diagnosis.findings),
        classes=_class_table(diagnosis, names, order, gap),
        charts=_charts(diagnosis, names, order),
        beyond_note=_beyond_note(diagnosis),
        beyond=_beyond_table(diagnosis),
        meanings=_meanings([*CLASS_COLUMNS, *diagnosis.beyond_log_count]),
        origin=(
            *wording.origin_of(run),
            ("held out", f"{split} split"),
            *wording.top_k_origin(diagnosis),
            *(
                (f"rows measured, {'held-out' if side == 'heldout' else side}", f"{wording.words(rows)}")
                for side, rows in diagnosis.queries.items()
                if isinstance(rows, Mapping) and rows.get("rows") != rows.get("of")
            ),
            ("seed of the diagnosis", str(diagnosis.seed)),
        ),
    )


def _headlines(summary: Mapping[str, float], num_classes: int) -> tuple[Headline, ...]:
    def value(name: str) -> float:
        return float(summary.get(name, math.nan))

    def interval(name: str, unit: str) -> str:
        return wording.between(value(f"{name}_low"), value(f"{name}_high"), unit)

    def group(names: Sequence[str]) -> str:
        shares = [wording.formatted(value(f"recall_{name}"), "share") for name in names]
        return " / ".join(share.removesuffix("%") for share in shares)

    ratio = value("imbalance_ratio")
    return (
        Headline(
            label="Balanced accuracy",
            value=wording.percent(value("balanced_accuracy_heldout")),
            detail=f"held-out {interval('balanced_accuracy_heldout', 'percent')}".strip()
            + f"; training {wording.percent(value('balanced_accuracy_train'))}",
        ),
        Headline(
            label="Fragile classes",
            value=f"{wording.formatted(value('fragile_classes'), 'images')} of {num_classes}",
            detail="recall surely below the mean of the classes",
        ),
        Headline(
            label="Head ceiling",
            value=f"{wording.points(value('head_ceiling'))} points" if math.isfinite(value("head_ceiling")) else DASH,
            detail=f"{interval('head_ceiling', 'tenths')} to gain by refitting the head".strip(),
        ),
        Headline(
            label="Imbalance ratio",
            value=f"{ratio:,.4g}" if math.isfinite(ratio) else DASH,
            detail="largest class over smallest",
        ),
        Headline(
            label="Recall %, by class size",
            value=group(("many", "medium", "few")),
            detail="many (over 100 images) / medium / few (under 20); thirds of the classes by size "
            + group(("largest_third", "middle_third", "smallest_third")),
        ),
    )


def _findings_note(diagnosis: Diagnosis, names: Sequence[str]) -> str:
    mean = wording.percent(float(diagnosis["recall_heldout"].nanmean()))
    if not diagnosis.findings:
        return f"No class is fragile: no interval of held-out recall lies below the mean of the {len(names)} classes, {mean}."
    return (
        f"A class is fragile when the interval of its held-out recall lies below the mean of the classes, {mean}. Weakest first;"
        " the first label is the kind of remedy that the evidence points to."
    )


def _statement(finding: Finding) -> Statement:
    text, _, advice = wording.plain(finding.text).rpartition(" Points to: ")
    return Statement(
        title=wording.plain(finding.class_name),
        text=text or advice,
        label=finding.remedy,
        others=tuple(cause for cause in finding.causes if cause != finding.remedy),
        advice=wording.sentence(REMEDIES.get(finding.remedy, "")),
    )


def _class_table(diagnosis: Diagnosis, names: Sequence[str], order: Sequence[int], gap: int) -> Table:
    evidence = {finding.class_index: {one.measure for one in finding.evidence} for finding in diagnosis.findings}
    shown = {column: heading for column, heading in CLASS_COLUMNS.items() if column in diagnosis.columns}
    rows = []
    for c in order:
        cells = []
        for column in shown:
            unit = "points" if column == "ceiling_gain" else MEASURES[column].unit
            cells.append(
                Cell(
                    value=wording.formatted(wording.at(diagnosis.columns, column, c), unit),
                    interval=""
                    if column in _NO_INTERVAL
                    else wording.column_interval(diagnosis.columns, column, c, unit),
                    strong=column in evidence.get(c, ()),
                )
            )
        rows.append(Row(name=plots.cut(names[c], 48), cells=tuple(cells), mark=_mark(diagnosis, c)))
    caption = "Weakest class first. "
    if evidence:
        caption += f"{FRAGILE} marks a fragile class, bold the evidence of its finding. "
    caption += f"Intervals are 95%, each class by itself. {DASH}: undefined (Vendi: fewer than {MATCHED_N} images)."
    return Table(
        title="The classes",
        caption=caption + wording.left_out(len(names), len(order), "held-out recall"),
        headings=(
            Heading(title="class"),
            *(Heading(title=shown[name], meaning=MEASURES[name].meaning) for name in shown),
        ),
        rows=tuple(rows),
        gap=gap,
        left_out=len(names) - len(order),
    )


def _mark(diagnosis: Diagnosis, c: int) -> str:
    if wording.at(diagnosis.columns, "fragile", c) > 0:
        return f"{FRAGILE} fragile"
    return f"{FRAGILE} no training image" if wording.at(diagnosis.columns, "count", c) == 0 else ""


def _charts(diagnosis: Diagnosis, names: Sequence[str], order: Sequence[int]) -> tuple[Chart, ...]:
    columns = diagnosis.columns
    left_out = wording.left_out(len(names), len(order), "held-out recall")
    line = diagnosis.log_count.get("recall_heldout", {})
    known = math.isfinite(line.get("slope", math.nan)) and math.isfinite(line.get("intercept", math.nan))
    fit = (
        f" Dashed: what log n alone predicts, fitted to these classes (R² {wording.formatted(line.get('r_squared', math.nan), 'ratio')})."
        if known
        else " What log n alone predicts is undefined here (equal counts, or fewer than 5 classes)."
    )
    absent = int((columns["count"] == 0).sum())
    every = range(len(names))
    of = {
        name: tuple(columns[name].tolist())
        for name in ("count", "recall_heldout", "recall_heldout_low", "recall_heldout_high")
    }
    scatter = Chart(
        title="Is it only the number of images?",
        caption=f"Held-out recall of each class with its interval, against its training images.{fit}"
        + (f" {layout.number_of(absent, 'class', 'classes')} without a training image not drawn." if absent else "")
        + (
            f" Named of {len(names)} classes, where there is room: the {wording.WEAKEST} weakest and {wording.STRONGEST} strongest."
            if left_out
            else ""
        ),
        alt=f"Scatter plot of held-out recall against training images for {layout.number_of(len(names), 'class', 'classes')}. "
        + wording.extremes(columns, "recall_heldout", names, "share"),
        data=RecallByCount(
            names=tuple(names),
            count=of["count"],
            recall=of["recall_heldout"],
            low=of["recall_heldout_low"],
            high=of["recall_heldout_high"],
            fragile=tuple(bool(value) for value in (columns["fragile"] > 0).tolist()),
            shown=tuple(c in set(order) for c in every),
            line=(line["slope"], line["intercept"]) if known else None,
        ),
    )
    by_size = sorted(order, key=lambda c: (-wording.at(columns, "count", c), c))
    signs = tuple(FRAGILE if wording.at(columns, "fragile", c) > 0 else "" for c in by_size)
    drawn = tuple(names[c] for c in by_size)
    largest = f" Largest class at the top; {FRAGILE} is fragile."

    def series(column: str, name: str, **style: Any) -> Series:
        return wording.series(columns, column, by_size, name=name, **style)

    magnitude = Chart(
        title="Does the evidence shrink on unseen images?",
        caption="Magnitude of the class's top-K features on held-out images over training images; 1 where they match."
        + largest
        + left_out,
        alt="Dot plot of the top-K magnitude ratio per class, for all held-out images, hits and misses. "
        + wording.extremes(columns, "ce_magnitude_ratio", names, "ratio"),
        data=Rows(
            names=drawn,
            signs=signs,
            series=(
                series("ce_magnitude_ratio_tp", "hits", color="blue", marker="^"),
                series("ce_magnitude_ratio", "all images", color="ink", marker="o"),
                series("ce_magnitude_ratio_fn", "misses", color="vermillion", marker="v"),
            ),
            reference=1.0,
            limits=(-1.0, 3.0),
        ),
    )
    diversity = Chart(
        title="Are its features as diverse?",
        caption=f"Vendi score of {MATCHED_N} images at a time, the effective number of directions they span; the same number"
        f" for every class, so that size plays no part. Classes with fewer than {MATCHED_N} images have no value."
        + largest
        + left_out,
        alt="Dot plot of the Vendi score at matched n per class, held-out and training. "
        + wording.extremes(columns, "diversity_vendi_heldout", names, "number"),
        data=Rows(
            names=drawn,
            signs=signs,
            series=(
                series("diversity_vendi_heldout", "held-out", color="blue", marker="o"),
                series("diversity_vendi_train", "training", color="muted", marker="s", hollow=True),
            ),
        ),
    )
    return scatter, magnitude, diversity


def critical_correlation(classes: int, given: int = 0) -> float:
    """Rank correlation over so many classes beyond which two-sided p < 0.05, by the t approximation; 1 below 3 + `given`.

    `given` is the number of variables partialled out.
    """
    freedom = classes - 2 - given
    if freedom < 1:
        return 1.0
    t = float(stdtrit(freedom, 0.975))
    return t / math.sqrt(t * t + freedom)


def _classes_used(diagnosis: Diagnosis, measure: str) -> int:
    used = diagnosis["recall_heldout"].isfinite() & diagnosis["count"].isfinite()
    return int((used & diagnosis[measure].isfinite()).sum()) if measure in diagnosis.columns else 0


def _beyond_note(diagnosis: Diagnosis) -> str:
    classes = max((_classes_used(diagnosis, measure) for measure in diagnosis.beyond_log_count), default=0)
    if classes < 4:
        return "Undefined: it takes at least 4 classes to tell a measure from the number of images."
    plainly, given = critical_correlation(classes), critical_correlation(classes, 1)
    measures = len(diagnosis.beyond_log_count)
    return (
        "Rank correlation of each measure with held-out recall over the classes: by itself, and with the number of training"
        f" images held fixed, which is what it adds to log n. With {classes} classes, one within ±{plainly:.2f}"
        f" (images held fixed: ±{given:.2f}) is not distinguishable from 0 (95%, approximate); bold lies outside."
        f" Of {measures} measures without any meaning, about {max(1, round(0.05 * measures))} would, by chance."
    )


def _beyond_table(diagnosis: Diagnosis) -> Table | None:
    keys = ("correlation_with_recall_given_count", "correlation_with_recall", "correlation_with_count")
    if all(_classes_used(diagnosis, measure) < 4 for measure in diagnosis.beyond_log_count):
        return None

    def strength(measure: str) -> float:
        value = abs(diagnosis.beyond_log_count[measure].get(keys[0], math.nan))
        return -value if math.isfinite(value) else 1.0

    rows = []
    for measure in sorted(diagnosis.beyond_log_count, key=strength):
        classes = _classes_used(diagnosis, measure)
        values = [diagnosis.beyond_log_count[measure].get(key, math.nan) for key in keys]
        marks = [critical_correlation(classes, 1), critical_correlation(classes), math.inf]
        cells = [
            Cell(value=wording.signed(value, 2), strong=abs(value) > mark)
            for value, mark in zip(values, marks, strict=True)
        ]
        title = MEASURES[measure].title if measure in MEASURES else measure
        rows.append(Row(name=title, cells=(*cells, Cell(value=str(classes)))))
    return Table(
        title="Beyond log n",
        caption="Strongest first. Fewer classes where a measure is undefined for some.",
        headings=(
            Heading(title="measure"),
            Heading(
                title="with recall, images held fixed", meaning="Partial rank correlation, given the training images."
            ),
            Heading(title="with recall", meaning="Rank correlation with held-out recall."),
            Heading(title="with images", meaning="Rank correlation with the training images of the class."),
            Heading(title="classes", meaning="Classes for which the measure is defined."),
        ),
        rows=tuple(rows),
    )


def _meanings(measures: Iterable[str]) -> tuple[Meaning, ...]:
    wanted = {*measures, "ce_magnitude_ratio_tp", "ce_magnitude_ratio_fn"}
    known = [
        measure for name, measure in MEASURES.items() if name in wanted
    ]  # in the order in which they refer to each other
    return tuple(Meaning(title=one.title, text=one.meaning, source=one.source) for one in known)
