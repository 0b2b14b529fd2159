"""What a diagnosis says about its fragile classes, in words, each with its evidence and the kind of remedy it points to.

`RULES` is the whole of the judgement: a measure speaks when the interval of the class lies on the bad side of the mean
over the classes (or of a fixed mark).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from torch import Tensor

Columns = Mapping[str, Tensor]

REMEDIES = {
    "draw more often": "draw the class more often, or weigh its loss: it is not learned even on its training images",
    "head repair": "repair the head (retrain it on balanced features, or adjust its logits): the features hold more than it uses",
    "feature space": "augment in feature space (match the top-K magnitudes, borrow covariance from large classes)",
    "image space": "augment its images, so that its features vary as unseen ones do",
    "toward the enemies": "oversample toward the enemies (EOS): its training images lie among those of other classes",
    "more images": "collect or hold out more images: no measure here sets the class apart",
    "collect images": "collect images of the class: the model never saw one",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """One measured value of a class with its 95% interval, and the value it is compared with."""

    measure: str
    value: float
    low: float
    high: float
    compared_with: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One fragile (or absent) class: what is wrong, the evidence, and the kind of remedy, a key of `REMEDIES`.

    `causes` holds the kinds that every rule which fired points to, the first of them being `remedy`.
    """

    class_index: int
    class_name: str
    text: str
    evidence: tuple[Evidence, ...]
    causes: tuple[str, ...]
    remedy: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """If the interval of `measure` lies on the `bad` side of the mark, `text` says so and `remedy` follows.

    The mark is the mean over the classes, or `mark` where that is stricter. `text` may use {value}, {low}, {high}, {mean}
    and {enemy}.
    """

    measure: str
    bad: str
    remedy: str
    text: str
    mark: float | None = None


RULES: tuple[Rule, ...] = (
    Rule(
        measure="recall_train",
        bad="low",
        remedy="draw more often",
        text="Even of its training images it finds only {value:.0%} [{low:.0%}, {high:.0%}] (mean of the classes {mean:.0%}).",
        mark=0.9,
    ),
    Rule(
        measure="ceiling_gain",
        bad="high",
        remedy="head repair",
        text="A head refitted on balanced held-out features would find {value:+.0%} [{low:+.0%}, {high:+.0%}] more of it"
        " (mean of the classes {mean:+.0%}).",
        mark=0.0,
    ),
    Rule(
        measure="ce_magnitude_ratio",
        bad="low",
        remedy="feature space",
        text="On unseen images its top-K features carry {value:.0%} [{low:.0%}, {high:.0%}] of their training magnitude"
        " (mean of the classes {mean:.0%}).",
        mark=1.0,
    ),
    Rule(
        measure="diversity_vendi_heldout",
        bad="low",
        remedy="image space",
        text="Its unseen images spread over {value:.1f} [{low:.1f}, {high:.1f}] effective directions of 20 images"
        " (mean of the classes {mean:.1f}).",
    ),
    Rule(
        measure="identity_overlap",
        bad="low",
        remedy="image space",
        text="Only {value:.0%} [{low:.0%}, {high:.0%}] of its top-K are also the top-K of its unseen images"
        " (mean of the classes {mean:.0%}).",
    ),
    Rule(
        measure="safe",
        bad="low",
        remedy="toward the enemies",
        text="Only {value:.0%} [{low:.0%}, {high:.0%}] of its training images lie among their own class"
        " (mean of the classes {mean:.0%}); its errors lie nearest to {enemy}.",
        mark=0.8,
    ),
)


def find(
    columns: Columns, class_names: Sequence[str], enemies: Tensor, *, recall_slope_known: bool
) -> tuple[Finding, ...]:
    """A finding for each class absent from training, and for each fragile one, weakest first."""
    absent = [c for c in range(len(class_names)) if float(columns["count"][c]) == 0]
    found = [
        Finding(
            class_index=c,
            class_name=class_names[c],
            text=f"{class_names[c]} has no training image, so nothing can be said about its features.",
            evidence=(),
            causes=("collect images",),
            remedy="collect images",
        )
        for c in absent
    ]
    fragile = [c for c in range(len(class_names)) if bool(columns["fragile"][c]) and c not in absent]
    fragile.sort(key=lambda c: float(columns["recall_heldout"][c]))
    return (*found, *(_finding(columns, class_names, enemies, c, recall_slope_known) for c in fragile))


def _value(columns: Columns, name: str, c: int) -> float:
    return float(columns[name][c])


def _evidence(columns: Columns, measure: str, c: int) -> Evidence:
    low, high = (_value(columns, f"{measure}_{end}", c) for end in ("low", "high"))
    mean = float(columns[measure].double().nanmean())
    return Evidence(measure=measure, value=_value(columns, measure, c), low=low, high=high, compared_with=mean)


def _fires(rule: Rule, evidence: Evidence) -> bool:
    if any(math.isnan(number) for number in (evidence.low, evidence.high, evidence.compared_with)):
        return False
    if rule.bad == "low":
        mark = evidence.compared_with if rule.mark is None else min(rule.mark, evidence.compared_with)
        return evidence.high < mark
    mark = evidence.compared_with if rule.mark is None else max(rule.mark, evidence.compared_with)
    return evidence.low > mark


def _finding(
    columns: Columns, class_names: Sequence[str], enemies: Tensor, c: int, recall_slope_known: bool
) -> Finding:
    recall = _evidence(columns, "recall_heldout", c)
    sentences = [
        f"{class_names[c]} is found in {recall.value:.0%} [{recall.low:.0%}, {recall.high:.0%}] of its"
        f" {int(_value(columns, 'count_heldout', c))} held-out images (mean of the classes {recall.compared_with:.0%});"
        f" it has {int(_value(columns, 'count', c))} training images."
    ]
    if recall_slope_known:
        predicted = _value(columns, "recall_log_count", c)
        verdict = (
            "its size explains that"
            if recall.low <= predicted <= recall.high
            else f"it does {abs(recall.value - predicted) * 100:.0f} points {'worse' if recall.value < predicted else 'better'}"
            " than its size explains"
        )
        sentences.append(f"From log n alone one would expect {predicted:.0%}: {verdict}.")
    else:
        sentences.append("What log n alone would predict is undefined here (equal counts, or fewer than 5 classes).")
    evidence, causes = [recall], []
    for rule in RULES:
        one = _evidence(columns, rule.measure, c)
        if not _fires(rule, one):
            continue
        evidence.append(one)
        causes.append(rule.remedy)
        sentences.append(
            rule.text.format(
                value=one.value,
                low=one.low,
                high=one.high,
                mean=one.compared_with,
                enemy=_enemy(class_names, enemies, c),
            )
        )
    causes = list(dict.fromkeys(causes)) or ["more images"]
    sentences.append(f"Points to: {REMEDIES[causes[0]]}" + (f"; also {', '.join(causes[1:])}." if causes[1:] else "."))
    return Finding(
        class_index=c,
        class_name=class_names[c],
        text=" ".join(sentences),
        evidence=tuple(evidence),
        causes=tuple(causes),
        remedy=causes[0],
    )


def _enemy(class_names: Sequence[str], enemies: Tensor, c: int) -> str:
    share, enemy = enemies[c].nan_to_num(0).max(0)
    return f"{class_names[int(enemy)]} ({float(share):.0%})" if float(share) > 0 else "no class in particular"
