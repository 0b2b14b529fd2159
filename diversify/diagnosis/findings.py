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

    The mark is the mean over the classes; with `beyond_count`, for measures that follow class size by themselves, it is
    what the line on log n predicts for the class. `mark` is a fixed mark beside it: the stricter counts. A class needs
    `least_count` training images, and a difference of `least_features` / K. `text` may use {value}, {low}, {high}, {mean}
    (the mark compared with), {points} (all four, times 100) and {enemy}.
    """

    measure: str
    bad: str
    remedy: str
    text: str
    mark: float | None = None
    beyond_count: bool = False
    least_count: int = 1
    least_features: int = 0


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
        text="A head refitted on balanced held-out features would gain {points[0]:+.0f} [{points[1]:+.0f}, {points[2]:+.0f}]"
        " points of its recall (mean of the classes {points[3]:+.0f}).",
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
        text="Its unseen images spread over {value:.2f} [{low:.2f}, {high:.2f}] effective directions of 20 images"
        " (mean of the classes {mean:.2f}).",
    ),
    Rule(
        measure="identity_overlap",
        bad="low",
        remedy="image space",
        text="Only {value:.0%} [{low:.0%}, {high:.0%}] of its top-K are also the top-K of its unseen images"
        " (expected at its size {mean:.0%}).",
        beyond_count=True,
        least_features=2,
    ),
    Rule(
        measure="safe",
        bad="low",
        remedy="toward the enemies",
        text="Only {value:.0%} [{low:.0%}, {high:.0%}] of its training images lie among their own class"
        " (expected at its size {mean:.0%}); its errors lie nearest to {enemy}.",
        mark=0.8,
        beyond_count=True,
        least_count=6,  # with fewer, no image can have 5 neighbours of its own class
    ),
)


Lines = Mapping[str, Mapping[str, float]]


def find(
    columns: Columns, class_names: Sequence[str], enemies: Tensor, log_count: Lines, *, top_k: int
) -> tuple[Finding, ...]:
    """A finding for each class absent from training, and for each fragile one, weakest first.

    `log_count` holds per measure the line on log n (`slope`, `intercept`, `r_squared`), where there is one.
    """
    absent = [c for c in range(len(class_names)) if float(columns["count"][c]) == 0]
    found = [
        Finding(
            class_index=c,
            class_name=class_names[c],
            text=f"{class_names[c]} has no training image: the network cannot have learned it.",
            evidence=(),
            causes=("collect images",),
            remedy="collect images",
        )
        for c in absent
    ]
    fragile = [c for c in range(len(class_names)) if bool(columns["fragile"][c]) and c not in absent]
    fragile.sort(key=lambda c: float(columns["recall_heldout"][c]))
    return (*found, *(_finding(columns, class_names, enemies, log_count, top_k, c) for c in fragile))


def _value(columns: Columns, name: str, c: int) -> float:
    return float(columns[name][c])


def _evidence(columns: Columns, measure: str, c: int, line: Mapping[str, float] | None = None) -> Evidence:
    """The class's value beside the mean of the classes, or beside what a line on log n predicts for it."""
    low, high = (_value(columns, f"{measure}_{end}", c) for end in ("low", "high"))
    mark = float(columns[measure].double().nanmean())
    if line is not None:
        mark = line["intercept"] + line["slope"] * math.log(_value(columns, "count", c))
    return Evidence(measure=measure, value=_value(columns, measure, c), low=low, high=high, compared_with=mark)


def _fires(rule: Rule, evidence: Evidence, *, count: int = 1 << 30, top_k: int = 1 << 30) -> bool:
    if any(math.isnan(number) for number in (evidence.low, evidence.high, evidence.compared_with)):
        return False
    if count < rule.least_count or evidence.low == evidence.high:
        return False
    if abs(evidence.value - evidence.compared_with) < rule.least_features / top_k:
        return False
    if rule.bad == "low":
        mark = evidence.compared_with if rule.mark is None else min(rule.mark, evidence.compared_with)
        return evidence.high < mark
    mark = evidence.compared_with if rule.mark is None else max(rule.mark, evidence.compared_with)
    return evidence.low > mark


def _opening(columns: Columns, class_names: Sequence[str], recall: Evidence, log_count: Lines, c: int) -> list[str]:
    """How well the class is found, and what its size alone would say."""
    found = (
        f"{class_names[c]} is found in {recall.value:.0%} [{recall.low:.0%}, {recall.high:.0%}] of its"
        f" {int(_value(columns, 'count_heldout', c)):,} held-out images (mean of the classes {recall.compared_with:.0%});"
        f" it has {_images(int(_value(columns, 'count', c)))}."
    )
    if "recall_heldout" not in log_count:
        return [found, "What log n alone would predict is undefined here (equal counts, or fewer than 5 classes)."]
    predicted = _value(columns, "recall_log_count", c)
    off, scatter = abs(recall.value - predicted), log_count["recall_heldout"].get("scatter", math.nan)
    side = "below" if recall.value < predicted else "above"
    if recall.low <= predicted <= recall.high:
        verdict = "its size is compatible with that"
    elif off > 2 * scatter:
        verdict = (
            f"it does {100 * off:.0f} points {'worse' if side == 'below' else 'better'} than its size explains"
            f" (the classes scatter about that line by {100 * scatter:.0f})"
        )
    else:
        verdict = f"it lies {100 * off:.0f} points {side} that line"
        if math.isfinite(scatter):
            verdict += f", which is within the scatter of the classes about it ({100 * scatter:.0f} points)"
    fit = log_count["recall_heldout"]["r_squared"]
    return [found, f"From log n alone one would expect {predicted:.0%} (R² {fit:.2f}): {verdict}."]


def _images(number: int) -> str:
    return f"{number:,} training image{'s' * (number != 1)}"


def _finding(
    columns: Columns, class_names: Sequence[str], enemies: Tensor, log_count: Lines, top_k: int, c: int
) -> Finding:
    recall = _evidence(columns, "recall_heldout", c)
    sentences = _opening(columns, class_names, recall, log_count, c)
    evidence, causes = [recall], []
    for rule in RULES:
        one = _evidence(columns, rule.measure, c, log_count.get(rule.measure) if rule.beyond_count else None)
        if not _fires(rule, one, count=int(_value(columns, "count", c)), top_k=top_k):
            continue
        evidence.append(one)
        causes.append(rule.remedy)
        sentences.append(
            rule.text.format(
                value=one.value,
                low=one.low,
                high=one.high,
                mean=one.compared_with,
                points=[100 * number for number in (one.value, one.low, one.high, one.compared_with)],
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
