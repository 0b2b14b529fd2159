"""The findings on labels: fragile ones, thresholds that are off, and labels that depend on another one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from ...network.reading import Reading
from ..findings import Evidence, Finding
from .companions import Companion

REMEDIES = {
    "collect images": "collect images with the label, because the model has never seen one",
    "read all images": "make the training loader give every image, and diagnose again",
    "draw more often": "draw images with the label more often, or weigh its positives more, because the model underfits them",
    "threshold": "choose the label's threshold on held-out images (dv.repair_multilabel), because the ranking is better than the"
    " decisions",
    "head repair": "retrain the head (dv.repair_multilabel), because the features separate the label better than the head does",
    "feature space": "augment images with the label, because its strongest features are weaker on new images",
    "image space": "collect or augment more varied images with the label",
    "break co-occurrence": "collect images that show the label without the other one, or draw these more often",
    "more images": "collect or hold out more images with the label, because no measure here explains the low recall",
}


def find_in_labels(
    columns: Mapping[str, Tensor],
    names: Sequence[str],
    companions: Sequence[Companion],
    reading: Reading,
) -> tuple[Finding, ...]:
    """Return the findings: labels without training positives first, then by held-out recall, lowest first."""
    by_label = {one.label: one for one in companions}
    absent = "read all images" if reading.left_out else "collect images"
    recall = columns["recall_heldout"]
    order = sorted(range(len(names)), key=lambda c: (math.isnan(float(recall[c])), float(recall[c].nan_to_num(2)), c))
    found = [
        Finding(
            class_index=c,
            class_name=names[c],
            text=_absent(names[c], reading),
            evidence=(),
            causes=(absent,),
            remedy=absent,
        )
        for c in range(len(names))
        if not columns["count"][c]
    ]
    listed = [_finding(columns, names, by_label.get(c), c) for c in order if columns["count"][c]]
    return (*found, *(one for one in listed if one is not None))


def _absent(name: str, reading: Reading) -> str:
    """The text on a label without training images: either none has it, or the loader left images out."""
    if not reading.left_out:
        return f"{name} is on no training image, so the model cannot have learned it."
    images = "1 image, whose labels" if reading.left_out == 1 else f"{reading.left_out:,} images, whose labels"
    return (
        f"{name} is on none of the training images that the loader gave; it left out {images} are not known, so {name} could not be"
        " measured."
    )


def _labels(columns: Mapping[str, Tensor]) -> str:
    """The labels that a mean is taken over."""
    recall = columns["recall_heldout"]
    known = int(recall.isfinite().sum())
    return "labels" if known == len(recall) else f"the {known} labels with held-out images"


class _Story:
    """What is found on one label, step by step: sentences, their evidence and the remedies that they point to."""

    def __init__(self, columns: Mapping[str, Tensor], names: Sequence[str], c: int) -> None:
        recall = _evidence(columns, "recall_heldout", c)
        self.columns, self.names, self.c = columns, names, c
        self.known = not math.isnan(recall.value)
        self.evidence, self.causes = [recall], list[str]()
        self.sentences = [
            f"Recall of {names[c]} on held-out images is {_interval(recall)}; mean over {_labels(columns)}"
            f" {recall.compared_with:.0%}. It has {float(columns['count'][c]):,.0f} training and"
            f" {float(columns['count_heldout'][c]):,.0f} held-out images, and its"
            f" precision is {_share(float(columns['precision_heldout'][c]))}."
        ]

    def add(self, measure: str, remedy: str, text: str) -> None:
        """Add a sentence with the numbers of a measure."""
        one = self.measured(measure)
        self.evidence.append(one)
        self.causes.append(remedy)
        self.sentences.append(text.format(one=one, interval=_interval(one), points=_points(one)))

    def measured(self, measure: str) -> Evidence:
        """The numbers of a measure, beside their mean over labels."""
        return _evidence(self.columns, measure, self.c)

    def on_threshold(self) -> None:
        """Say it if another threshold is better."""
        if self.measured("f1_gain").low > 0:
            best, used = (float(self.columns[name][self.c]) for name in ("threshold_best", "threshold"))
            self.add(
                "f1_gain",
                "threshold",
                f"Its threshold is off: the best one is near {best:.2g} and not {used:.2g}, and with thresholds fitted on other"
                " held-out images F1 rises by {points}.",
            )

    def on_companion(self, companion: Companion) -> None:
        """Say that the label is recognised less without another one."""
        self.evidence.append(
            Evidence(
                measure="recall_without",
                value=companion.recall_without - companion.recall_with,
                low=companion.low,
                high=companion.high,
                compared_with=0.0,
            )
        )
        self.causes.append("break co-occurrence")
        other = self.names[companion.other]
        self.sentences.append(
            f"It depends on {other}: recall is {companion.recall_with:.0%} with {other} and {companion.recall_without:.0%}"
            f" without it (interval of the difference, corrected for all pairs, {100 * companion.low:+.0f} to"
            f" {100 * companion.high:+.0f} points); {companion.share_train:.0%} of its training images show {other}."
        )

    def on_fragility(self) -> None:
        """Say what may explain a low recall."""
        trained = self.measured("recall_train")
        if trained.high < min(0.9, trained.compared_with):
            self.add("recall_train", "draw more often", "Already on its training images, recall is only {interval}.")
        if self.measured("ap_gain").low > 0:
            text = "A head refitted on held-out features would raise its average precision by {points}."
            self.add("ap_gain", "head repair", text)
        ratio = self.measured("ce_magnitude_ratio")
        if ratio.high < min(1.0, ratio.compared_with):
            text = "On held-out images its top-K features reach {interval} of their magnitude on training images."
            self.add("ce_magnitude_ratio", "feature space", text)
        varied = self.measured("diversity_vendi_heldout")
        if varied.high < varied.compared_with:
            text = (
                "Its held-out positives have little diversity: 20 have {one.value:.2f} effective directions (95% interval"
                " {one.low:.2f} to {one.high:.2f}; mean over labels {one.compared_with:.2f})."
            )
            self.add("diversity_vendi_heldout", "image space", text)


def _finding(
    columns: Mapping[str, Tensor], names: Sequence[str], companion: Companion | None, c: int
) -> Finding | None:
    """The finding on one label; None if there is nothing to say."""
    story = _Story(columns, names, c)
    if not story.known:
        return None
    story.on_threshold()
    if companion is not None:
        story.on_companion(companion)
    fragile = bool(columns["fragile"][c])
    if fragile:
        story.on_fragility()
    if not (fragile or story.causes):
        return None
    causes = list(dict.fromkeys(story.causes)) or ["more images"]
    also = f"; other possible remedies: {', '.join(causes[1:])}" if causes[1:] else ""
    return Finding(
        class_index=c,
        class_name=names[c],
        text=" ".join([*story.sentences, f"Points to: {REMEDIES[causes[0]]}{also}."]),
        evidence=tuple(story.evidence),
        causes=tuple(causes),
        remedy=causes[0],
    )


def _evidence(columns: Mapping[str, Tensor], measure: str, c: int) -> Evidence:
    value, low, high = (float(columns[f"{measure}{end}"][c]) for end in ("", "_low", "_high"))
    mean = float(columns[measure].nanmean())
    return Evidence(measure=measure, value=value, low=low, high=high, compared_with=mean)


def _interval(one: Evidence) -> str:
    return f"{one.value:.0%} (95% interval {one.low:.0%} to {one.high:.0%})"


def _points(one: Evidence) -> str:
    value, low, high = (100 * number for number in (one.value, one.low, one.high))
    return f"{value:.0f} points (95% interval {low:.0f} to {high:.0f})"


def _share(value: float) -> str:
    return "undefined (it is never predicted)" if math.isnan(value) else f"{value:.0%}"
