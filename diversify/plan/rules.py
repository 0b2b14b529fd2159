"""The rules by which a diagnosis changes a plan: the table `RULES`, which users can read, shorten and extend."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

from ..diagnosis.catalogue import MEASURES
from ..diagnosis.result import Diagnosis
from ..errors import must, unknown
from .settings import SETTINGS
from .strengths import Strengths

PATHS = tuple(SETTINGS)
"""The settings that a rule may change. It multiplies `draws`, `features.share` (the shares of all of the class's feature
methods) and `image.extra` (image strength in excess of the least augmented class of the base plan), and adds to the others."""

Mark = float | Literal["mean", "size"]
POOLED_WITH = 200  # held-out images at which a class's own value gets the same weight as what its size predicts
LEAST_GAP = (
    0.03  # of the top-K magnitude: selecting the top-K on few images puts the ratio below 1 without any real gap
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule that changes one setting of a class if a measure of the class is clearly low or high.

    The rule fires if the whole 95% interval of `measure` lies on `side` of the mark.

    Attributes:
        name: Name of the rule in the reasons of a plan.
        measure: A column of the diagnosis that has an interval.
        side: "low" fires if the interval lies below the mark, "high" if it lies above.
        marks: What to compare with: a number, "mean" (over the classes) or "size" (the value that a regression on log n
            predicts for a class of this size; the mean if there is no regression). Of several, the strictest counts.
        changes: The setting that is changed, one of `PATHS`.
        amount: `amount(distance, strengths)` returns the change: it is added to the setting, or to 1 if the setting is
            multiplied. The distance is that from the mark to the nearer end of the interval, so that a class with few
            held-out images, whose interval is wide, is changed little.
        text: The reason as a sentence; may use {value}, {low}, {high} and {mark}. The format "points" writes a share in
            percentage points, "+points" with its sign.
        source: Paper and equation.
        relative: Divide the distance by the mark.
        least_count: The rule ignores classes with fewer training images.
        pooled: Compare a pooled estimate with the mark instead of the interval. It is the weighted mean of the class's
            value, with weight n / (n + 200) for n held-out images, and of what class size predicts. For measures that are
            too noisy for single classes.
        instead: If the class has this measurement, the rule's result replaces all feature policies chosen earlier, even
            if the result is none.
        found_too: The rule also applies to classes that are already recognised, that is, whose interval of held-out
            recall lies above the class mean. Other rules leave those alone.

    Example:
        >>> import diversify as dv
        >>> from diversify.plan import Rule
        >>> rule = Rule(
        ...     name="low precision", measure="precision_heldout", side="low", marks=("mean",), changes="draws",
        ...     amount=lambda distance, strengths: -distance, source="mine",
        ...     text="Precision is {value:.0%} [{low:.0%}, {high:.0%}], below the class mean of {mark:.0%}.")
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 10))
        >>> dv.make_plan(dv.diagnose(train, heldout, head=head), rules=[rule]).made_from
        'diagnosis'
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
    """A rule that compares two means over the classes and changes image augmentation and mixing of all classes alike.

    It is skipped if there are fewer held-out images than `Strengths.gap_images`.

    Attributes:
        name: Name of the rule in the reasons of a plan.
        measure: A column of the diagnosis.
        mark: The column that it is compared with. Both are averaged over the classes that have values in both.
        changes: "image": strength and probability of the image policies, and the probability of mixing.
        amount: `amount(difference, strengths)` returns the factor in [0, 1] on what is changed, given the mean of
            `measure` minus the mean of `mark`.
        text: The reason as a sentence without its full stop, since what follows from it is appended; may use {value} and
            {mark}, the two means.
        source: Paper and equation.

    Example:
        >>> from diversify.plan import RULES, RunRule
        >>> [(rule.measure, rule.mark) for rule in RULES if isinstance(rule, RunRule)]
        [('recall_train', 'recall_heldout')]
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
        text="Recall on the class's own training images is only {value:.0%} [{low:.0%}, {high:.0%}] (reference {mark:.0%}, the"
        " lower of 90% and the class mean), so the class is not learned yet.",
        source="Kang et al. 2020, eq. 1",
    ),
    Rule(
        name="head at fault",
        measure="ceiling_gain",
        side="high",
        marks=(0.0, "mean"),
        changes="draws",
        amount=lambda beyond, strengths: strengths.draws_gain * beyond,
        text="A head refitted on class-balanced held-out features would raise recall by {value:points} points [{low:points},"
        " {high:points}] (reference: {mark:+points}, the higher of 0 and the class mean), so the head loses images that the"
        " features separate.",
        source="Kang et al. 2020, Section 4.2 (cRT)",
    ),
    Rule(
        name="worse than its size",
        measure="recall_heldout",
        side="low",
        marks=("size", "mean"),
        changes="features.covariance.strength",
        amount=lambda beyond, strengths: strengths.covariance_gain * beyond,
        text="Held-out recall is {value:.0%} [{low:.0%}, {high:.0%}], below the reference of {mark:.0%} (the lower of what class"
        " size predicts and the class mean).",
        source="Yin et al. 2019 (FTL)",
    ),
    Rule(
        name="already recognised",
        measure="recall_heldout",
        side="high",
        marks=("mean",),
        changes="features.share",
        amount=lambda beyond, strengths: -strengths.found_gain * beyond,
        text="Held-out recall is {value:.0%} [{low:.0%}, {high:.0%}], above the class mean of {mark:.0%}, so the class needs less"
        " feature augmentation than its size suggests.",
        source="Dablain et al. 2023",
        found_too=True,
    ),
    Rule(
        name="already recognised",
        measure="recall_heldout",
        side="high",
        marks=("mean",),
        changes="image.extra",
        amount=lambda beyond, strengths: -1.0,
        text="Held-out recall is {value:.0%} [{low:.0%}, {high:.0%}], above the class mean of {mark:.0%}, so the class gets no more"
        " image augmentation than the least augmented class.",
        source="this library: policies graded by rarity were no better than equal ones,"
        " benchmarks/results/cifar10_lt_development.jsonl and cifar10_lt_unused.jsonl",
        found_too=True,
    ),
    Rule(
        name="little training diversity",
        measure="diversity_vendi_train",
        side="low",
        marks=("size", "mean"),
        changes="features.covariance.strength",
        amount=lambda beyond, strengths: strengths.covariance_gain * beyond,
        relative=True,
        text="The features of its training images are not very diverse: their Vendi score (effective number of different images"
        " among 20) is {value:.2f} [{low:.2f}, {high:.2f}], reference {mark:.2f} (the lower of what class size predicts and the"
        " class mean).",
        source="Dablain et al. 2023; Friedman and Dieng 2023, eq. 1",
    ),
    Rule(
        name="magnitude gap",
        measure="ce_magnitude_ratio",
        side="low",
        marks=(1.0,),
        changes="features.toward_enemies.strength",
        amount=lambda beyond, strengths: strengths.enemies_gain * beyond if beyond >= LEAST_GAP else 0.0,
        text="On held-out images its top-K features have {value:.0%} [{low:.0%}, {high:.0%}] of their training magnitude.",
        source="Dablain et al. 2023, with the partners of Dablain et al. 2022 (EOS)",
        pooled=True,
        instead=True,
        found_too=True,
    ),
    Rule(
        name="little held-out diversity",
        measure="diversity_vendi_heldout",
        side="low",
        marks=("mean",),
        changes="image.strength",
        amount=lambda beyond, strengths: strengths.image_gain * beyond,
        relative=True,
        text="The features of its held-out images are less diverse than those of other classes: their Vendi score (effective"
        " number of different images among 20) is {value:.2f} [{low:.2f}, {high:.2f}], class mean {mark:.2f}.",
        source="Dablain et al. 2023; Friedman and Dieng 2023, eq. 1",
    ),
    Rule(
        name="different top-K on held-out images",
        measure="identity_overlap",
        side="low",
        marks=(0.8, "size", "mean"),
        changes="image.strength",
        amount=lambda beyond, strengths: strengths.image_gain * beyond,
        text="Only {value:.0%} [{low:.0%}, {high:.0%}] of its top-K features on training images are also among the top-K on its"
        " held-out images (reference {mark:.0%}).",
        source="Dablain et al. 2023",
    ),
    Rule(
        name="among its enemies",
        measure="safe",
        side="low",
        marks=(0.8, "size", "mean"),
        changes="features.eos.share",
        amount=lambda beyond, strengths: strengths.eos_gain * beyond,
        text="Only {value:.0%} [{low:.0%}, {high:.0%}] of its training images are safe, that is, have at least 4 of their 5 nearest"
        " neighbours in their own class (reference {mark:.0%}).",
        source="Napierala and Stefanowski 2016; Dablain et al. 2022 (EOS)",
        least_count=6,  # in smaller classes no image can have 5 neighbours of its own class
    ),
    Rule(
        name="outside its training range",
        measure="range_gap",
        side="high",
        marks=("size", "mean"),
        changes="features.eos.share",
        amount=lambda beyond, strengths: strengths.eos_gain * beyond,
        relative=True,
        text="Summed over all features, its held-out images lie {value:.1f} [{low:.1f}, {high:.1f}] outside the range of its"
        " training images, reference {mark:.1f} (the higher of what class size predicts and the class mean).",
        source="Dablain et al. 2022 (EOS)",
    ),
    RunRule(
        name="little overfitting",
        measure="recall_train",
        mark="recall_heldout",
        changes="image",
        amount=lambda ahead, strengths: strengths.share_for_gap(ahead),
        text="Mean recall over the classes is {value:.0%} on training images and {mark:.0%} on held-out images, so the network"
        " has barely overfitted",
        source="this library: trials on the validation set, benchmarks/results/small_cnn_development.jsonl",
    ),
)


def require_rule(rule: Rule | RunRule, diagnosis: Diagnosis) -> None:
    """Check a rule that a user may have written, before it is applied to any class.

    Raises:
        InputError: it is no rule, or a field of it names something that does not exist.
    """
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
    known = [name for name, measure in MEASURES.items() if measure.interval]  # old files may lack some of them
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
