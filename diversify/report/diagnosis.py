"""A diagnosis as one offline HTML page and as Markdown: numbers first (`report_of`), drawings second (`layout`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..augment.leak import Leak
from ..diagnosis.beyond_size import MATCHED_N
from ..diagnosis.catalogue import MEASURES
from ..diagnosis.exhibits import Exhibits
from ..diagnosis.findings import REMEDIES, Finding
from ..diagnosis.result import Diagnosis
from ..errors import InputError
from ..functional.stats import critical_correlation
from . import page, plots, wording
from .diagnosis_sections import sections_of
from .page import Cell, Heading, Headline, Meaning, Report, Row, Statement, Table
from .plots import FRAGILE
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
_SHORT = {  # in Markdown, whose lines are to fit into a terminal
    "count": "images",
    "recall_heldout": "recall",
    "recall_log_count": "by log n",
    "ce_magnitude_ratio": "magnitude",
    "safe": "safe",
    "ceiling_gain": "ceiling",
}
_NO_INTERVAL = ("recall_train", "safe")  # they have one, but the table is wide enough

# Shown in the sections, and explained.
SECTION_COLUMNS = (
    *("ce_magnitude_gap", "ce_magnitude_ratio_tp", "ce_magnitude_ratio_fn", "identity_overlap"),
    *(
        "diversity_vendi_train",
        "diversity_effective_rank_heldout",
        "diversity_spread_heldout",
        "diversity_spread_train",
    ),
    *("border", "rare", "outlier", "recall_ceiling"),
)
ALL_COLUMNS = 2000  # classes up to which those left out of the table are listed with every column
_FEW_COLUMNS = ("count", "count_heldout", "recall_heldout")

_SPLITS = {"val": "validation", "test": "test"}


def render_html(diagnosis: Diagnosis, run: Mapping[str, Any], exhibits: Exhibits | None = None) -> str:
    """One offline page, for light and dark, narrow and wide, screen and paper.

    `run` is the content of run.json, all of it optional; `exhibits`, from `choose_exhibits`, adds the images and the map.
    """
    return page.html(report_of(diagnosis, run, exhibits))


def render_markdown(diagnosis: Diagnosis, run: Mapping[str, Any], exhibits: Exhibits | None = None) -> str:
    """The same without the plots and pictures, readable in a terminal and on a code-hosting page."""
    return page.markdown(report_of(diagnosis, run, exhibits))


def report_of(diagnosis: Diagnosis, run: Mapping[str, Any], exhibits: Exhibits | None = None) -> Report:
    """What the report of a diagnosis says."""
    summary = diagnosis.summary
    names = tuple(wording.named(name) for name in diagnosis.class_names)
    split = _SPLITS.get(diagnosis.heldout_split, diagnosis.heldout_split)
    model, data = wording.look(run, "model", "name"), wording.look(run, "data", "spec")
    images = [f"{int(diagnosis[side].nansum()):,}" for side in ("count", "count_heldout")]
    order, gap = wording.selection(diagnosis["recall_heldout"])
    return Report(
        title=f"Diagnosis of {wording.plain(model or 'a network')}" + (f" on {wording.plain(data)}" if data else ""),
        subtitle=f"{page.number_of(len(names), 'class', 'classes')}, {images[0]} training images, {images[1]} held-out images"
        f" ({split} split); the top {diagnosis.top_k} of {diagnosis.num_features} features. Intervals are 95%.",
        warnings=_warnings(diagnosis, run),
        headlines=_headlines(summary, len(names)),
        findings_note=_findings_note(diagnosis, names),
        findings=tuple(_statement(finding) for finding in diagnosis.findings),
        classes=_class_table(diagnosis, names, order, gap),
        sections=sections_of(diagnosis, names, order, exhibits),
        beyond_note=_beyond_note(diagnosis),
        beyond=_beyond_table(diagnosis),
        meanings=_meanings([*CLASS_COLUMNS, *SECTION_COLUMNS, *diagnosis.beyond_log_count]),
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
            *_largest_leak(run),
        ),
    )


def _warnings(diagnosis: Diagnosis, run: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    found = []
    if not diagnosis.plan_ready:
        found.append(
            (
                "Made on the test split: to be read only.",
                "No plan, remedy or setting may be chosen from it, or the test score would no longer be one on unseen images.",
            )
        )
    copies = wording.look(run, "duplicates", "count")
    if isinstance(copies, int) and copies > 0:
        other = wording.look(run, "duplicates", "count") - (wording.look(run, "duplicates", "same_label") or 0)
        labelled = f", {other:,} of them under another label" if other > 0 else ""
        found.append(
            (
                f"{page.number_of(copies, 'held-out image is', 'held-out images are')} also in training.",
                f"Exact copies{labelled}: the model has seen them, so held-out recall and magnitudes look better than they are.",
            )
        )
    leak = _leak_of(run)
    if leak is not None and leak.beyond_doubt:
        told = ", ".join(f"{leak.class_names[c]} {wording.leaked(leak, c)}" for c in leak.beyond_doubt)
        found.append(
            (
                "Varied images are taken for another class.",
                "The network was trained by a plan. Held-out images of other classes, varied by the policy of the class, are"
                f" called by its name so many points more often than clean ones: {told}.",
            )
        )
    caveats = run.get("caveats")
    found += [("Mind:", wording.sentence(wording.plain(text))) for text in caveats] if isinstance(caveats, list) else []
    return tuple(found)


def _leak_of(run: Mapping[str, Any]) -> Leak | None:
    """The leak of the plan that the network was trained by, where the record tells of one."""
    try:
        return Leak.from_dict(run.get("leak", {}))
    except InputError:
        return None


def _largest_leak(run: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    leak = _leak_of(run)
    if leak is None or math.isnan(leak.largest):
        return ()
    c = int(leak.leak.nan_to_num(-math.inf).argmax())
    images = int(leak.count[c] + leak.count_others[c])
    told = f"{leak.class_names[c]} {wording.leaked(leak, c)}, on {images:,} held-out images"
    return (("largest leak of an image policy, points", told),)


def _headlines(summary: Mapping[str, float], num_classes: int) -> tuple[Headline, ...]:
    def value(name: str) -> float:
        return float(summary.get(name, math.nan))

    def interval(name: str, unit: str) -> str:
        return wording.between(value(f"{name}_low"), value(f"{name}_high"), unit)

    def group(names: Sequence[str]) -> str:
        shares = [wording.formatted(value(f"recall_{name}"), "share") for name in names]
        return " / ".join(share.removesuffix("%") for share in shares)

    ratio = value("imbalance_ratio")
    by_size = "many (over 100 images) / medium / few (under 20)"
    thirds = ("largest_third", "middle_third", "smallest_third")
    if any(math.isfinite(value(f"recall_{third}")) for third in thirds):
        by_size += "; thirds of the classes by size " + group(thirds)
    return (
        Headline(
            label="Balanced accuracy",
            value=wording.percent(value("balanced_accuracy_heldout")),
            detail=f"held-out {interval('balanced_accuracy_heldout', 'percent')}".strip()
            + f"; training {wording.percent(value('balanced_accuracy_train'))}",
        ),
        Headline(
            label="Fragile classes",
            value=f"{wording.formatted(value('fragile_classes'), 'images')} of {num_classes:,}",
            detail="recall surely below the mean of the classes",
        ),
        Headline(
            label="Head ceiling",
            value=f"{wording.points(value('head_ceiling'))} points" if math.isfinite(value("head_ceiling")) else DASH,
            detail=f"{interval('head_ceiling', 'tenths')} for a head refitted on held-out images: an upper mark, no forecast".strip(),
        ),
        Headline(
            label="Imbalance ratio",
            value=f"{ratio:,.4g}" if math.isfinite(ratio) else DASH,
            detail="largest class over smallest",
        ),
        Headline(
            label="Recall %, by class size",
            value=group(("many", "medium", "few")),
            detail=by_size,
        ),
    )


def _findings_note(diagnosis: Diagnosis, names: Sequence[str]) -> str:
    mean = wording.percent(float(diagnosis["recall_heldout"].nanmean()))
    if not diagnosis.findings:
        return wording.none_fragile(diagnosis, names)
    return (
        f"A class is fragile when the interval of its held-out recall lies below the mean of the classes, {mean}. Weakest first;"
        " the first label is the kind of remedy that the evidence points to." + _by_chance(len(names))
    )


def _by_chance(classes: int) -> str:
    """An interval of 95% lies wholly below its true value for one class in 40."""
    if classes < 40:
        return ""
    return (
        f" Of {classes} classes that all had the mean's recall, about {classes / 40:.0f} would be called so by chance."
    )


def _statement(finding: Finding) -> Statement:
    text, _, advice = wording.plain(finding.text).rpartition(" Points to: ")
    return Statement(
        title=wording.named(finding.class_name),
        text=text or advice,
        label=finding.remedy,
        others=tuple(cause for cause in finding.causes if cause != finding.remedy),
        advice=wording.sentence(REMEDIES.get(finding.remedy, "")),
    )


def _class_table(diagnosis: Diagnosis, names: Sequence[str], order: Sequence[int], gap: int) -> Table:
    evidence = {finding.class_index: {one.measure for one in finding.evidence} for finding in diagnosis.findings}
    shown = {column: heading for column, heading in CLASS_COLUMNS.items() if column in diagnosis.columns}

    def row(c: int, columns: Iterable[str]) -> Row:
        cells = []
        for column in columns:
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
        name, whole = plots.cut(names[c], 48), names[c]
        mark = _mark(diagnosis, c)
        return Row(name=name, cells=tuple(cells), mark=mark, whole=whole if whole != name else "")

    def headings(columns: Iterable[str]) -> tuple[Heading, ...]:
        explained = (
            Heading(
                title=shown[name],
                short=_SHORT.get(name, ""),
                meaning=wording.with_source(MEASURES[name]),
                anchor=wording.anchor(name),
            )
            for name in columns
        )
        return (Heading(title="class"), *explained)

    rest = wording.order_of(diagnosis["recall_heldout"])
    rest = [c for c in rest if c not in set(order)]
    few = [name for name in shown if name in _FEW_COLUMNS] if len(names) > ALL_COLUMNS else list(shown)
    caption = "Weakest class first. "
    if evidence:
        caption += f"{FRAGILE} marks a fragile class, bold the evidence of its finding. "
    caption += f"Intervals are 95%, each class by itself. {DASH}: undefined (Vendi: fewer than {MATCHED_N} images)."
    return Table(
        title="The classes",
        caption=caption + wording.left_out(len(names), len(order), "held-out recall"),
        headings=headings(shown),
        rows=tuple(row(c, shown) for c in order),
        gap=gap,
        left_out=len(rest),
        rest_headings=headings(few) if rest else (),
        rest=tuple(row(c, few) for c in rest),
    )


def _mark(diagnosis: Diagnosis, c: int) -> str:
    if wording.at(diagnosis.columns, "count", c) == 0:
        return f"{FRAGILE} no training image"
    return f"{FRAGILE} fragile" if wording.at(diagnosis.columns, "fragile", c) > 0 else ""


def _classes_used(diagnosis: Diagnosis, measure: str) -> int:
    used = diagnosis["recall_heldout"].isfinite() & diagnosis["count"].isfinite()
    return int((used & diagnosis[measure].isfinite()).sum()) if measure in diagnosis.columns else 0


def _beyond_note(diagnosis: Diagnosis) -> str:
    classes = max((_classes_used(diagnosis, measure) for measure in diagnosis.beyond_log_count), default=0)
    if classes < 4:
        return "Undefined: it takes at least 4 classes to tell a measure from the number of images."
    plainly, given = critical_correlation(classes), critical_correlation(classes, 1)
    measures = len(diagnosis.beyond_log_count)
    fewer = any(_classes_used(diagnosis, measure) < classes for measure in diagnosis.beyond_log_count)
    return (
        "Rank correlation of each measure with held-out recall over the classes: by itself, and with the number of training"
        f" images held fixed, which is what it adds to log n. With {classes} classes, one within ±{plainly:.2f}"
        f" (images held fixed: ±{given:.2f}) is not distinguishable from 0 (95%); bold lies outside."
        + (" A measure that fewer classes have is held to its own, wider limits, and stands last." if fewer else "")
        + f" Of {measures} measures without any meaning, about {max(1, round(0.05 * measures))} would, by chance."
    )


def _beyond_table(diagnosis: Diagnosis) -> Table | None:
    keys = ("correlation_with_recall_given_count", "correlation_with_recall", "correlation_with_count")
    if all(_classes_used(diagnosis, measure) < 4 for measure in diagnosis.beyond_log_count):
        return None

    def strength(measure: str) -> tuple[int, float]:
        value = abs(diagnosis.beyond_log_count[measure].get(keys[0], math.nan))
        return -_classes_used(diagnosis, measure), -value if math.isfinite(value) else 1.0

    rows = []
    for measure in sorted(diagnosis.beyond_log_count, key=strength):
        classes = _classes_used(diagnosis, measure)
        values = [diagnosis.beyond_log_count[measure].get(key, math.nan) for key in keys]
        marks = [critical_correlation(classes, 1), critical_correlation(classes), math.inf]
        cells = [
            Cell(value=wording.signed(value, 2), strong=abs(value) > mark)
            for value, mark in zip(values, marks, strict=True)
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
        title="Beyond log n",
        caption="Strongest first.",
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
    wanted = set(measures)
    return tuple(  # in the order in which they refer to each other
        Meaning(title=one.title, text=wording.with_evidence(one), source=one.source, anchor=wording.anchor(name))
        for name, one in MEASURES.items()
        if name in wanted
    )
