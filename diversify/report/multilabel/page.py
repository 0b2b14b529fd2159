"""The record of the report on a diagnosis of several labels per image."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from ...diagnosis.findings import Finding
from ...diagnosis.multilabel import MULTILABEL_MEASURES, REMEDIES, MultilabelDiagnosis
from .. import wording
from ..plots import FRAGILE
from ..record import Definition, Headline, Report, Statement, Table
from ..wording import DASH
from .sections import cooccurrence_section, head_section, reading_section, size_section, threshold_section
from .subject import Labels

_SPLITS = {"val": "validation", "test": "test"}
_COLUMNS = {  # measure: heading of the main table
    "count": "images, train",
    "count_heldout": "images, held-out",
    "recall_heldout": "recall",
    "precision_heldout": "precision",
    "average_precision": "average precision",
    "prevalence_heldout": "prevalence",
    "ce_magnitude_ratio": "top-K magnitude ratio",
    "threshold": "threshold",
    "threshold_best": "best threshold",
    "f1_heldout": "F1",
    "f1_gain": "gain of the best threshold, points",
}
_SHORT = {  # headings in Markdown, whose lines are to fit into a terminal
    "count": "images",
    "recall_heldout": "recall",
    "precision_heldout": "precision",
    "average_precision": "AP",
    "f1_heldout": "F1",
}


def multilabel_report_of(diagnosis: MultilabelDiagnosis, run: Mapping[str, Any]) -> Report:
    """Return the record of the report.

    Args:
        diagnosis: The diagnosis.
        run: What is known about the run, as in `run.json`; may be empty.
    """
    labels = Labels(diagnosis)
    split = _SPLITS.get(diagnosis.heldout_split, diagnosis.heldout_split)
    model, data = wording.look(run, "model", "name"), wording.look(run, "data", "spec")
    seen, unseen = diagnosis.images.get("train", 0), diagnosis.images.get("heldout", 0)
    return Report(
        title=f"Diagnosis of {wording.plain(model or 'a network')}"
        + (f" on {wording.data_name(data)}" if data else ""),
        subtitle=f"{wording.number_of(len(labels.names), 'label', 'labels')}, any number of them on an image; {seen:,} training"
        f" images, {unseen:,} held-out images ({split} split). Each label's top-K are its {diagnosis.top_k} strongest of"
        f" {diagnosis.num_features} features. Brackets show 95% intervals.",
        warnings=_warnings(diagnosis, run),
        headlines=_headlines(labels),
        findings_note=_findings_note(labels),
        findings=tuple(_statement(one) for one in diagnosis.findings),
        table=_main_table(labels),
        sections=(
            reading_section(),
            size_section(labels),
            threshold_section(labels),
            head_section(labels),
            cooccurrence_section(labels),
        ),
        beyond_note="",
        beyond=None,
        definitions=tuple(
            Definition(title=title, text=meaning, anchor=wording.anchor(name))
            for name, (title, _, meaning) in MULTILABEL_MEASURES.items()
        ),
        origin=(
            *wording.origin_of(run),
            ("held-out images", f"{split} split"),
            ("top-K", f"{diagnosis.top_k} of {diagnosis.num_features} features"),
            ("seed of the diagnosis", str(diagnosis.seed)),
        ),
    )


def _warnings(diagnosis: MultilabelDiagnosis, run: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    found = []
    if diagnosis.heldout_split == "test":
        text = (
            "Do not choose thresholds, a head or a setting from it: the test score would then no longer measure accuracy on unseen"
            " images."
        )
        found.append(("This diagnosis reads the test split.", text))
    found += [("Note:", wording.plain(text)) for text in diagnosis.notes]
    caveats = run.get("caveats")
    if isinstance(caveats, list):
        found += [("Note:", wording.sentence(wording.plain(text))) for text in caveats]
    return tuple(found)


def _headlines(labels: Labels) -> tuple[Headline, ...]:
    summary, diagnosis = labels.diagnosis.summary, labels.diagnosis
    fragile = sum(map(labels.fragile, range(len(labels.names))))
    best, now = (diagnosis[name] for name in ("f1_best_threshold", "f1_heldout"))
    fitted = ~(best.isnan() | now.isnan())
    gained = float(best[fitted].mean()), float(now[fitted].mean())
    count = int(fitted.sum())
    absent = len(diagnosis.without_heldout)
    over = f"mean over {wording.number_of(len(labels.names) - absent, 'label', 'labels')}" + (
        f"; {absent:,} without held-out positives" if absent else ""
    )

    def value(name: str) -> str:
        return wording.percent(float(summary.get(name, math.nan)))

    return (
        Headline(label="Mean average precision", value=value("mean_average_precision"), detail=f"held-out, {over}"),
        Headline(label="Mean recall", value=value("mean_recall"), detail="held-out, at the thresholds in use"),
        Headline(label="Macro F1", value=value("mean_f1"), detail="held-out, at the thresholds in use"),
        Headline(
            label="F1 at the best thresholds",
            value=wording.percent(gained[0]) if count else DASH,
            detail=f"instead of {wording.percent(gained[1])}; thresholds fitted on other images"
            + ("" if count == len(labels.names) else f", for {wording.number_of(count, 'label', 'labels')}")
            if count
            else "no label has enough held-out positives",
        ),
        Headline(
            label="Fragile labels",
            value=f"{fragile:,} of {len(labels.names):,}",
            detail="the whole interval of their recall lies below the mean of the labels",
        ),
        Headline(
            label="Labels per image",
            value=wording.unsigned(float(summary.get("labels_per_image", math.nan)), 2)
            if math.isfinite(float(summary.get("labels_per_image", math.nan)))
            else DASH,
            detail="held-out",
        ),
    )


def _findings_note(labels: Labels) -> str:
    mean = wording.percent(float(labels.diagnosis["recall_heldout"].nanmean()))
    if not labels.diagnosis.findings:
        return (
            f"No label is fragile (no 95% interval of held-out recall lies entirely below the mean of {mean}), has a threshold that"
            " is surely off, or surely depends on another label."
        )
    return (
        f"A label is fragile if the whole interval of its held-out recall lies below the mean of {mean}. Lowest recall first. The"
        " first tag beside its name is the recommended kind of remedy."
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


def _main_table(labels: Labels) -> Table:
    caption = (
        f"Lowest recall first. {FRAGILE} marks fragile labels; bold values are the evidence for findings. Brackets show the 95%"
        f" interval of each label. {DASH} is undefined.{labels.left_out}"
    )
    table = labels.table("Labels", caption, _COLUMNS, short=_SHORT)
    shown = set(labels.order)
    rest = [c for c in wording.order_of(labels.columns["recall_heldout"]) if c not in shown]
    if not rest:
        return table
    others = labels.table("Labels", "", _COLUMNS, classes=rest)
    return dataclasses.replace(
        table, gap=labels.gap, left_out=len(rest), rest=others.rows, rest_headings=others.headings
    )
