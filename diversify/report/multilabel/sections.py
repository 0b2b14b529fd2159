"""The sections of a diagnosis of several labels per image: size, thresholds, the head, features and co-occurrence."""

from __future__ import annotations

from torch import Tensor

from ...diagnosis.multilabel import MULTILABEL_MEASURES
from .. import wording
from ..plots import ByCount, cut
from ..record import Cell, Chart, Grid, GridCell, Heading, Row, Section, Table
from .subject import Labels

GRID_LABELS = 30  # rows and columns of a heat map, at most


def size_section(labels: Labels) -> Section:
    """Return the section on recall and average precision against the number of training positives."""
    charts = (
        _against_count(
            labels,
            "recall_heldout",
            "Are rare labels recognised less often?",
            "held-out recall",
            "Each point is a label: its held-out recall with its 95% interval, against the number of training images that have it.",
        ),
        _against_count(
            labels,
            "average_precision",
            "Are rare labels ranked worse?",
            "held-out average precision",
            "The same for average precision, which no threshold changes. A label with good average precision and low recall has"
            " a wrong threshold; one with low average precision needs a better head or other images.",
        ),
    )
    return Section(title="Recall against positives", anchor="size", charts=charts)


def _against_count(labels: Labels, measure: str, title: str, axis: str, caption: str) -> Chart:
    count, value, low, high = (
        tuple(labels.columns[name].tolist()) for name in ("count", measure, f"{measure}_low", f"{measure}_high")
    )
    shown, every = set(labels.order), range(len(labels.names))
    absent = sum(one == 0 for one in count)
    missing = f" {wording.number_of(absent, 'label', 'labels')} without a training image not drawn." if absent else ""
    return Chart(
        title=title,
        caption=caption + missing + labels.left_out,
        alt=f"Scatter plot of {MULTILABEL_MEASURES[measure][0]} against the number of training images with the label. "
        + labels.extremes(measure),
        data=ByCount(
            label=axis,
            names=labels.names,
            count=count,
            value=value,
            low=low,
            high=high,
            fragile=tuple(labels.fragile(c) for c in every),
            shown=tuple(c in shown for c in every),
            line=None,
            rows_are=("label", "labels"),
        ),
    )


def threshold_section(labels: Labels) -> Section:
    """Return the section on thresholds: what the best one of each label would gain."""
    return Section(
        title="Thresholds",
        anchor="thresholds",
        note="A label is predicted where its probability reaches its threshold. F1 weighs recall and precision alike.",
        charts=(
            Chart(
                title="How much would better thresholds gain?",
                caption="Held-out F1 at the thresholds in use, and at thresholds that were fitted on other held-out images."
                " A label with fewer than 5 held-out positives has no fitted threshold." + labels.largest_first,
                alt="Dot plot of F1 at the thresholds in use and at the best thresholds, per label. The gain: "
                + labels.extremes("f1_gain"),
                data=labels.rows(
                    labels.series("f1_heldout", "in use", color="muted", marker="s", hollow=True),
                    labels.series("f1_best_threshold", "best", color="blue", marker="o"),
                    percent=True,
                ),
            ),
            Chart(
                title="Is recall or precision low?",
                caption="Held-out recall and precision at the thresholds in use. High precision with low recall means that the"
                " threshold is too high; the opposite means that it is too low." + labels.largest_first,
                alt="Dot plot of held-out recall and precision per label. Recall: " + labels.extremes("recall_heldout"),
                data=labels.rows(
                    labels.series("recall_heldout", "recall", color="blue", marker="o"),
                    labels.series("precision_heldout", "precision", color="vermillion", marker="D", hollow=True),
                    percent=True,
                ),
            ),
        ),
        summary=labels.table(
            "Thresholds",
            "F1 on held-out images.",
            {
                "threshold": "threshold in use",
                "threshold_best": "best threshold",
                "f1_heldout": "F1 in use",
                "f1_best_threshold": "F1 at the best",
                "f1_gain": "gain, points",
            },
        ),
    )


def head_section(labels: Labels) -> Section:
    """Return the section on the head and on the features that it gets."""
    return Section(
        title="Head and features",
        anchor="head",
        charts=(
            Chart(
                title="Would a better head rank the images better?",
                caption="Held-out average precision of the current head, and of a logistic regression on held-out features. Each"
                " image is scored by a regression that was not fitted on it. Where the blue point is clearly higher, the"
                " features separate the label better than the head does." + labels.largest_first,
                alt="Dot plot of the average precision of the current and of a refitted head, per label. The gain: "
                + labels.extremes("ap_gain"),
                data=labels.rows(
                    labels.series("average_precision", "current head", color="muted", marker="s", hollow=True),
                    labels.series("ap_refitted", "refitted head", color="blue", marker="o"),
                    percent=True,
                ),
            ),
            Chart(
                title="Are the features as strong on held-out images?",
                caption="Magnitude of the label's top-K features on held-out positives, divided by that on training positives;"
                " 1 (dashed) means equally strong." + labels.largest_first,
                alt="Dot plot of the top-K magnitude ratio per label. " + labels.extremes("ce_magnitude_ratio"),
                data=labels.rows(labels.series("ce_magnitude_ratio", "", color="blue"), reference=1.0),
            ),
        ),
        summary=labels.table(
            "Head and features",
            "Average precision and magnitude on held-out images.",
            {
                "average_precision": "average precision",
                "ap_refitted": "refitted head",
                "ce_magnitude_ratio": "magnitude ratio",
                "diversity_vendi_heldout": "Vendi, held-out",
            },
        ),
    )


def cooccurrence_section(labels: Labels) -> Section:
    """Return the section on labels that come together, and on those that are recognised only together."""
    diagnosis = labels.diagnosis
    sides = (
        ("training", diagnosis.cooccurrence_train, "prevalence"),
        ("held-out", diagnosis.cooccurrence_heldout, "prevalence_heldout"),
    )
    return Section(
        title="Labels that come together",
        anchor="cooccurrence",
        note="A network may learn a label by another one that often comes with it. Then it misses the label where the other one is"
        " absent.",
        table=_companions(labels) if diagnosis.companions else None,
        grids=tuple(_grid(labels, *side) for side in sides),
    )


def _companions(labels: Labels) -> Table:
    rows = tuple(
        Row(
            name=cut(labels.names[one.label], wording.LONGEST_IN_TABLE),
            cells=(
                Cell(value=labels.names[one.other]),
                Cell(value=wording.share(one.share_train)),
                Cell(value=wording.share(one.recall_with)),
                Cell(value=wording.share(one.recall_without)),
                Cell(
                    value=wording.formatted(one.recall_without - one.recall_with, "points"),
                    interval=wording.between(one.low, one.high, "points"),
                    strong=True,
                ),
            ),
        )
        for one in labels.diagnosis.companions
    )
    headings = ("label", "comes with", "in training", "recall with it", "recall without it", "difference, points")
    return Table(
        title="Labels that depend on another one",
        caption="Held-out recall of a label on images with and without another label. Brackets show the interval of the difference,"
        " corrected for the number of pairs compared.",
        headings=tuple(Heading(title=one) for one in headings),
        rows=rows,
        rows_are="labels",
    )


def _grid(labels: Labels, side: str, together: Tensor, prevalence: str) -> Grid:
    count = "count" if side == "training" else "count_heldout"
    chosen = [c for c in labels.by_size if wording.at(labels.columns, count, c) > 0][:GRID_LABELS]
    limit = f" The {GRID_LABELS} most frequent labels are shown." if len(chosen) < len(labels.by_size) else ""

    def cell(c: int, other: int) -> GridCell | None:
        if c == other:
            return None
        value = float(together[c, other])
        usual = wording.formatted(wording.at(labels.columns, prevalence, other), "share")
        title = (
            f"{wording.share(value)} of the {side} images with {labels.names[c]} also have {labels.names[other]};"
            f" of all {side} images, {usual} have it"
        )
        return GridCell(value=value, text=wording.share(value).removesuffix("%") if value >= 0.005 else "", title=title)

    return Grid(
        title=f"Which labels come together in {side} images?",
        caption=f"A row is a label. Of the {side} images that have it, a cell shows the percentage that also have the label of the"
        f" column.{limit}",
        corner="images with",
        columns=tuple(cut(labels.names[c], 24) for c in chosen),
        rows=tuple(
            (f"{labels.names[c]} {labels.sign(c)}".strip(), tuple(cell(c, other) for other in chosen)) for c in chosen
        ),
        hue="vermillion",
    )


def reading_section() -> Section:
    """Return the guide: what a pattern means, and what to do."""
    rows = (
        (
            "low recall, high precision, good average precision",
            "The ranking is right and the threshold too high, as is usual for rare labels.",
            "fit thresholds, by the command remedy or dv.repair_multilabel",
        ),
        (
            "average precision of a refitted head is clearly higher",
            "The features know the label better than the head does.",
            "retrain the head with a balanced loss, for instance dv.DistributionBalanced",
        ),
        (
            "recall is low in training, too",
            "The network underfits the label.",
            "draw its images more often (dv.MultilabelSampler) or weigh its positives more",
        ),
        (
            "magnitude ratio below 1, training recall high",
            "The network overfits: what it learned is weaker on new images.",
            "augment or collect images with the label",
        ),
        (
            "recall is lower without another label",
            "The network recognises the label by what comes with it.",
            "collect images that show the label alone, or draw these more often",
        ),
        (
            "average precision near the prevalence, everywhere",
            "The ranking is no better than chance.",
            "look at the labels and at the images first",
        ),
    )
    return Section(
        title="How to read this page",
        anchor="reading",
        note="Each label is a yes-or-no question of its own. Recall is the share of its positives that are predicted; precision is the"
        " share of the predicted images that are positive. Average precision judges the order of the images, whatever the threshold;"
        " by chance it is the prevalence. Mean average precision is its mean over the labels.",
        table=Table(
            title="What a pattern means",
            caption="What you see, what it means, and what to do.",
            headings=(Heading(title="what you see"), Heading(title="what it means"), Heading(title="what to do")),
            rows=tuple(Row(name=one, cells=(Cell(value=two), Cell(value=three))) for one, two, three in rows),
            rows_are="patterns",
            prose=True,
        ),
    )
