"""How a diagnosis changes a plan: `RULES`, a table to be read and extended."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, get_args

import torch

from ..diagnosis.beyond_size import FEWEST_ROWS
from ..diagnosis.catalogue import MEASURES
from ..diagnosis.result import Diagnosis
from ..errors import must, unknown
from .policies import FeatureMethod
from .strengths import Strengths

PATHS = (
    "draws",
    "image.strength",
    "image.extra",
    "image.probability",
    "mixing.probability",
    "mixing.partner",
    "features.share",
    *(f"features.{method}.{name}" for method in get_args(FeatureMethod) for name in ("strength", "share")),
)
"""What a rule may change; `draws`, `features.share` (all of a class's) and `image.extra` (how much stronger its images are
varied than those of the class that the base varies least) as multiples, the others by adding to them."""

Mark = float | Literal["mean", "size"]
POOLED_WITH = 200  # held-out images at which a class's own value counts as much as what its size predicts
LEAST_GAP = 0.03  # of the top-K magnitude: choosing the top-K on few images alone takes the ratio somewhat below 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """If the 95% interval of `measure`, or its pooled value, lies on `side` of the mark, `changes` moves by `amount`.

    Attributes:
        name: What reasons call it.
        measure: A column of the diagnosis that has an interval.
        side: "low": the rule fires where the whole interval lies below the mark; "high": above.
        marks: A number, "mean" (of the classes) or "size" (what a line on log n predicts for the class; the mean where there
            is no such line); of several the strictest counts.
        changes: One of `PATHS`.
        amount: Called with how far the near end of the interval lies beyond the mark, and the strengths; returns what is
            added at the path, or to 1 for what is multiplied. The near end, so that a class with few held-out images is
            moved little.
        relative: The distance is given as a share of the mark.
        text: May use {value}, {low}, {high} and {mark}.
        source: Paper and equation.
        least_count: Training images below which it says nothing.
        pooled: What is compared with the mark is the value itself, drawn toward what a line on log n predicts for the class:
            its own counts for n / (n + 200), where n are its held-out images. For what few images show only together.
        instead: Where the class is measured at all, what the rule gives it, be it nothing, takes the place of the feature
            policies that its rarity and the rules before this one suggested.
        found_too: It also speaks of classes whose interval of held-out recall lies above the mean of the classes; others
            leave those alone, for they need nothing.
    """

    name: str
    measure: str
    side: Literal["low", "high"]
    marks: tuple[Mark, ...]
    changes: str
    amount: Callable[[float, Strengths], float]
    text: str
    source: str
    relative: bool = False
    least_count: int = 1
    pooled: bool = False
    instead: bool = False
    found_too: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRule:
    """What the classes show together: how much of the image policies and of the mixing is left, for every class alike.

    Attributes:
        name: What reasons call it.
        measure: A column of the diagnosis.
        mark: Another; both are means over the classes that have them.
        changes: "image": strength and probability of the image policies, and how often images are mixed, as multiples.
        amount: Called with how far the mean of `measure` lies above that of `mark`, and the strengths; returns the multiple,
            in [0, 1]. With fewer held-out images than `Strengths.gap_images` it is not asked.
        text: May use {value} and {mark}.
        source: As of a `Rule`.
    """

    name: str
    measure: str
    mark: str
    changes: Literal["image"]
    amount: Callable[[float, Strengths], float]
    text: str
    source: str


RULES: tuple[Rule | RunRule, ...] = (
    Rule(
        name="not learned",
        measure="recall_train",
        side="low",
        marks=(0.9, "mean"),
        changes="draws",
        amount=lambda beyond, strengths: strengths.draws_gain * beyond,
        text="Even of its training images it finds only {value:.0%} [{low:.0%}, {high:.0%}] (mark {mark:.0%}).",
        source="Kang et al. 2020, eq. 1",
    ),
    Rule(
        name="head at fault",
        measure="ceiling_gain",
        side="high",
        marks=(0.0, "mean"),
        changes="draws",
        amount=lambda beyond, strengths: strengths.draws_gain * beyond,
        text="A head refitted on balanced held-out features would find {value:.0%} [{low:.0%}, {high:.0%}] of its images"
        " more than today's (mean of the classes {mark:.0%}).",
        source="Kang et al. 2020, Section 4.2 (cRT)",
    ),
    Rule(
        name="worse than its size",
        measure="recall_heldout",
        side="low",
        marks=("size", "mean"),
        changes="features.covariance.strength",
        amount=lambda beyond, strengths: strengths.covariance_gain * beyond,
        text="{value:.0%} [{low:.0%}, {high:.0%}] of its unseen images are found, where classes of its size reach {mark:.0%}.",
        source="Yin et al. 2019 (FTL)",
    ),
    Rule(
        name="found already",
        measure="recall_heldout",
        side="high",
        marks=("mean",),
        changes="features.share",
        amount=lambda beyond, strengths: -strengths.found_gain * beyond,
        text="{value:.0%} [{low:.0%}, {high:.0%}] of its unseen images are found (mean of the classes {mark:.0%}): it needs"
        " less than its size suggests.",
        source="Dablain et al. 2023",
        found_too=True,
    ),
    Rule(
        name="found already",
        measure="recall_heldout",
        side="high",
        marks=("mean",),
        changes="image.extra",
        amount=lambda beyond, strengths: -1.0,
        text="{value:.0%} [{low:.0%}, {high:.0%}] of its unseen images are found (mean of the classes {mark:.0%}): they are"
        " varied as those of every class are.",
        source="this library: policies graded by rarity were no better than even ones,"
        " benchmarks/results/cifar10_lt_development.jsonl and cifar10_lt_unused.jsonl",
        found_too=True,
    ),
    Rule(
        name="little variety in training",
        measure="diversity_vendi_train",
        side="low",
        marks=("size", "mean"),
        changes="features.covariance.strength",
        amount=lambda beyond, strengths: strengths.covariance_gain * beyond,
        relative=True,
        text="Its training images spread over {value:.2f} [{low:.2f}, {high:.2f}] effective directions of 20, those of classes"
        " of its size over {mark:.2f}.",
        source="Dablain et al. 2023; Friedman and Dieng 2023, eq. 1",
    ),
    Rule(
        name="magnitude gap",
        measure="ce_magnitude_ratio",
        side="low",
        marks=(1.0,),
        changes="features.toward_enemies.strength",
        amount=lambda beyond, strengths: strengths.enemies_gain * beyond if beyond >= LEAST_GAP else 0.0,
        text="On unseen images its top-K features carry {value:.0%} [{low:.0%}, {high:.0%}] of their training magnitude.",
        source="Dablain et al. 2023, with the partners of Dablain et al. 2022 (EOS)",
        pooled=True,
        instead=True,
        found_too=True,
    ),
    Rule(
        name="little variety unseen",
        measure="diversity_vendi_heldout",
        side="low",
        marks=("mean",),
        changes="image.strength",
        amount=lambda beyond, strengths: strengths.image_gain * beyond,
        relative=True,
        text="Its unseen images spread over {value:.2f} [{low:.2f}, {high:.2f}] effective directions of 20 (mean of the classes"
        " {mark:.2f}).",
        source="Dablain et al. 2023; Friedman and Dieng 2023, eq. 1",
    ),
    Rule(
        name="other top-K unseen",
        measure="identity_overlap",
        side="low",
        marks=(0.8, "size", "mean"),
        changes="image.strength",
        amount=lambda beyond, strengths: strengths.image_gain * beyond,
        text="Only {value:.0%} [{low:.0%}, {high:.0%}] of its top-K are also the top-K of its unseen images (mark {mark:.0%}).",
        source="Dablain et al. 2023",
    ),
    Rule(
        name="among its enemies",
        measure="safe",
        side="low",
        marks=(0.8, "size", "mean"),
        changes="features.eos.share",
        amount=lambda beyond, strengths: strengths.eos_gain * beyond,
        text="Only {value:.0%} [{low:.0%}, {high:.0%}] of its training images lie among their own class (mark {mark:.0%}).",
        source="Napierala and Stefanowski 2016; Dablain et al. 2022 (EOS)",
        least_count=6,  # with fewer, no image can have 5 neighbours of its own class
    ),
    Rule(
        name="beyond its range",
        measure="range_gap",
        side="high",
        marks=("size", "mean"),
        changes="features.eos.share",
        amount=lambda beyond, strengths: strengths.eos_gain * beyond,
        relative=True,
        text="Its unseen images reach {value:.1f} [{low:.1f}, {high:.1f}] beyond the range of its training images, those of"
        " classes of its size {mark:.1f}.",
        source="Dablain et al. 2022 (EOS)",
    ),
    RunRule(
        name="little known by heart",
        measure="recall_train",
        mark="recall_heldout",
        changes="image",
        amount=lambda ahead, strengths: strengths.share_for_gap(ahead),
        text="On average over the classes {value:.0%} of the training images are found and {mark:.0%} of unseen ones: little"
        " is known by heart",
        source="this library: trials on val, benchmarks/results/small_cnn_development.jsonl",
    ),
)


def require_rule(rule: Rule | RunRule, diagnosis: Diagnosis) -> None:
    """Say what is wrong with a rule of the user's own, before any class hears it."""
    if not isinstance(rule, (Rule, RunRule)):
        raise must("rules", "be of diversify.plan.Rule or RunRule", type(rule).__name__)
    columns = diagnosis.columns
    if isinstance(rule, RunRule):
        for law, name in (("measure", rule.measure), ("mark", rule.mark)):
            if name not in columns and name not in MEASURES:
                raise unknown(f"{law} of the rule {rule.name!r}", name, tuple(columns))
        if rule.changes != "image":
            raise must(f"changes of the rule {rule.name!r}", "be image", repr(rule.changes))
        return
    measures = [name for name in columns if f"{name}_low" in columns and f"{name}_high" in columns]
    known = [name for name, measure in MEASURES.items() if measure.interval]  # not every old file has them all
    if rule.measure not in measures and rule.measure not in known:
        raise unknown(f"measure of the rule {rule.name!r}", rule.measure, measures)
    if rule.changes not in PATHS:
        raise unknown(f"changes of the rule {rule.name!r}", rule.changes, PATHS)
    if rule.side not in ("low", "high"):
        raise unknown(f"side of the rule {rule.name!r}", str(rule.side), ("low", "high"))
    for mark in rule.marks:
        if mark not in ("mean", "size") and not (isinstance(mark, (int, float)) and math.isfinite(mark)):
            raise must(f"marks of the rule {rule.name!r}", "be numbers, 'mean' or 'size'", repr(mark))
    if not rule.marks:
        raise must(f"marks of the rule {rule.name!r}", "hold at least one", "none")


def mark_of(rule: Rule, diagnosis: Diagnosis, c: int) -> float:
    """The strictest of the rule's marks; NaN where none is defined."""
    column = diagnosis[rule.measure]
    marks = []
    for mark in rule.marks:
        if isinstance(mark, (int, float)):
            marks.append(float(mark))
            continue
        line = diagnosis.log_count.get(rule.measure)
        if mark == "size" and line is not None:
            marks.append(expected_of_size(rule.measure, diagnosis, c))
        else:
            marks.append(float(column.double().nanmean()))
    if any(math.isnan(mark) for mark in marks):
        return math.nan
    return min(marks) if rule.side == "low" else max(marks)


def expected_of_size(measure: str, diagnosis: Diagnosis, c: int) -> float:
    """What the line on log n predicts for the class; the mean over the classes where there is no such line."""
    line = diagnosis.log_count.get(measure)
    if line is None:
        values, count = diagnosis[measure].double(), torch.minimum(diagnosis["count"], diagnosis["count_heldout"])
        seen = values[count >= FEWEST_ROWS]
        return float((values if bool(seen.isnan().all()) else seen).nanmean())
    slope, intercept = line.get("slope", math.nan), line.get("intercept", math.nan)
    value = intercept + slope * math.log(float(diagnosis["count"][c]))
    share = measure in MEASURES and MEASURES[measure].unit == "share"
    return min(max(value, 0.0), 1.0) if share else value


def pooled_value(measure: str, diagnosis: Diagnosis, c: int) -> float:
    """The class's value drawn toward what its size predicts; NaN where the class has no value."""
    value, expected = float(diagnosis[measure][c]), expected_of_size(measure, diagnosis, c)
    if math.isnan(expected):
        return value
    images = float(diagnosis["count_heldout"][c])
    own = images / (images + POOLED_WITH)
    return own * value + (1 - own) * expected
