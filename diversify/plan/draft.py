"""A plan while rules change it: the strengths that rules leave for all classes, and one `Draft` per class."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import get_args

import torch

from ..diagnosis.result import Diagnosis
from ..errors import must
from .from_counts import tidy
from .marks import Marks
from .policies import (
    LEAST_CHANGE,
    LEAST_SHARE,
    MOST_AUGMENTED,
    ClassPlan,
    FeatureMethod,
    FeaturePolicy,
    ImagePolicy,
    Reason,
)
from .rules import Rule, RunRule
from .settings import (
    ALL_FEATURES,
    DRAWS,
    IMAGE_EXTRA,
    IMAGE_PROBABILITY,
    IMAGE_STRENGTH,
    MIXING_PARTNER,
    MIXING_PROBABILITY,
    SETTINGS,
    Setting,
    share_of,
    strength_of,
)
from .strengths import Strengths

_NO_INTERVAL = re.compile(r" \[nan%?, nan%?\]")  # of a class with one held-out image
_MOST = {IMAGE_PROBABILITY: MOST_AUGMENTED, MIXING_PARTNER: 1e9}  # upper limits other than 1


def strengths_for_all(
    strengths: Strengths, diagnosis: Diagnosis, rules: Sequence[RunRule]
) -> tuple[Strengths, tuple[Reason, ...]]:
    """Return the strengths after these rules, and the reasons for what they changed."""
    if "count_heldout" not in diagnosis.columns or diagnosis["count_heldout"].nansum() < strengths.gap_images:
        return strengths, ()
    count = diagnosis["count"]
    rare = int(count[count > 0].min()) < int(count.max())
    reasons = []
    for rule in rules:
        if rule.measure not in diagnosis.columns or rule.mark not in diagnosis.columns:
            continue
        values, marks = (diagnosis[name].double() for name in (rule.measure, rule.mark))
        known = ~(values.isnan() | marks.isnan())
        if not bool(known.any()):
            continue
        value, mark = float(values[known].mean()), float(marks[known].mean())
        left = rule.amount(value - mark, strengths)
        if not isinstance(left, (int, float)) or not 0 <= left <= 1:
            raise must(f"amount of the rule {rule.name!r}", "lie in [0, 1]", repr(left))
        reduced = strengths.with_images(left)
        if reduced == strengths:
            continue
        strengths = reduced
        if not rare:  # a plan from equal counts augments nothing anyway
            continue
        probability = strengths.image_probability
        part = f"{probability:.0%}" if probability >= 0.01 else "less than 1%"
        outcome = f"images are augmented in {part} of the draws" if probability else "images are not augmented"
        reasons.append(
            Reason(
                rule=rule.name,
                choice=rule.changes,
                measure=rule.measure,
                value=tidy(value),
                low=None,
                high=None,
                compared_with=tidy(mark),
                text=f"{_worded(rule, value=value, mark=mark)}: {outcome}.",
                source=rule.source,
            )
        )
    return strengths, tuple(reasons)


class _Number(float):
    """A number that a rule's text may also write in points, as {value:points}, or with its sign, as {value:+points}."""

    def __format__(self, spec: str) -> str:
        if spec in ("points", "+points"):
            return f"{100 * float(self):{spec.removesuffix('points')}.0f}"
        return super().__format__(spec)


def _worded(rule: Rule | RunRule, **numbers: float) -> str:
    """The text of the rule with these numbers in it."""
    try:
        return rule.text.format(**{name: _Number(value) for name, value in numbers.items()})
    except (LookupError, ValueError, TypeError) as error:
        *some, last = (f"{{{name}}}" for name in numbers)
        law = f"use only {', '.join(some)} and {last}, as numbers"
        raise must(f"text of the rule {rule.name!r}", law, repr(rule.text)) from error


def _enemies_of(marks: Marks, c: int) -> dict[str, float]:
    """The classes with which class `c` is confused on held-out images, with their shares; empty if it has no errors."""
    diagnosis = marks.diagnosis
    row = diagnosis.enemies[c].double().nan_to_num(0.0).where(marks.present, 0.0)
    row[c] = 0.0
    row = torch.where(row >= LEAST_SHARE * row.sum(), row, 0.0)
    if not float(row.sum()):
        return {}
    shares = row / row.sum()
    kept = row.nonzero()[:, 0]
    order = kept[row[kept].argsort(descending=True, stable=True)].tolist()
    return {diagnosis.class_names[j]: tidy(float(shares[j])) for j in order}


class Draft:
    """One class of a plan while rules change it: the value of every setting, and the reasons so far.

    Args:
        one: The class as the base plan has it.
        strengths: The numbers behind the rules.
        least_strength: Image strength of the class whose images the base plan augments least.
    """

    def __init__(self, one: ClassPlan, strengths: Strengths, least_strength: float) -> None:
        self.one, self.strengths, self.least_strength = one, strengths, least_strength
        self.reasons: list[Reason] = list(one.reasons)
        self.values: dict[Setting, float] = {
            DRAWS: one.draws,
            IMAGE_STRENGTH: one.image.strength,
            IMAGE_PROBABILITY: one.image.probability,
            MIXING_PROBABILITY: one.mixing.probability,
            MIXING_PARTNER: one.mixing.partner,
        }
        for policy in one.features:
            self.values[strength_of(policy.method)] = policy.strength
            self.values[share_of(policy.method)] = policy.share
        self.given = dict(self.values)
        self.toward = next((policy.toward for policy in one.features if policy.toward), {})

    def apply(self, rule: Rule, marks: Marks, c: int) -> None:
        """Change the setting of the rule, and add its reason, if the rule fires for this class, `c` of the diagnosis."""
        columns, name, setting = marks.diagnosis.columns, rule.measure, SETTINGS[rule.changes]
        if any(end not in columns for end in (name, f"{name}_low", f"{name}_high")):
            return
        value, low, high = (marks.at(end, c) for end in (name, f"{name}_low", f"{name}_high"))
        mark = marks.of(rule, c)
        needed = (value, mark) if rule.pooled else (value, mark, low, high)
        if any(math.isnan(number) for number in needed) or (low == high and not rule.pooled):
            return
        pooled = marks.pooled(name, c) if rule.pooled else math.nan
        low_end, high_end = (pooled, pooled) if rule.pooled else (low, high)
        distance = mark - high_end if rule.side == "low" else low_end - mark
        if rule.relative:
            distance = distance / abs(mark) if mark else math.nan
        if not distance > 0 and not rule.instead:
            return
        amount = rule.amount(distance, self.strengths) if distance > 0 else 0.0
        if not (isinstance(amount, (int, float)) and math.isfinite(amount)):
            raise must(f"amount of the rule {rule.name!r}", "be a finite number", repr(amount))
        done = []
        if setting.method == "toward_enemies":
            enemies = _enemies_of(marks, c)
            self.toward = enemies or self.toward  # without errors the partner classes of the base plan remain
            if amount:
                done.append(
                    "The partner classes are those that it is confused with."
                    if enemies
                    else "It has no held-out errors that show with which classes it is confused."
                )
            amount = amount if enemies else 0.0
        changed = [self._move(setting, float(amount))]
        if rule.instead and setting != ALL_FEATURES:
            changed.append(self._drop_other_features(setting.method))
        if not any(changed):
            return
        text = _NO_INTERVAL.sub("", _worded(rule, value=value, low=low, high=high, mark=mark))
        if rule.pooled:
            text += f" Pooled with what class size predicts, the estimate is {pooled:.2f}."
        self.reasons.append(
            Reason(
                rule=rule.name,
                choice=rule.changes,
                measure=name,
                value=value,
                low=None if math.isnan(low) else low,
                high=None if math.isnan(high) else high,
                compared_with=mark,
                text=" ".join([text, *done, *filter(None, changed)]),
                source=rule.source,
            )
        )

    def _move(self, setting: Setting, amount: float) -> str:
        """Change a setting within its limits; return what changed as a sentence, "" if nothing did."""
        if setting == DRAWS:
            factor = min(max(1 + amount, 0.1), 10.0)
            if abs(factor - 1) < LEAST_CHANGE or not self.values[DRAWS]:
                return ""
            self.values[DRAWS] *= factor
            return f"The class is drawn {factor:.2f} times as often as it would be otherwise."
        if setting == ALL_FEATURES:
            factor = max(1 + amount, 0.0)
            return self._scale_features(factor) if abs(factor - 1) >= LEAST_CHANGE else ""
        if setting == IMAGE_EXTRA:
            extra = max(self.values[IMAGE_STRENGTH] - self.least_strength, 0.0)
            setting, amount = IMAGE_STRENGTH, extra * max(amount, -1.0)
        old = self.values.get(setting, 0.0)
        new = tidy(min(max(old + amount, 0.0), _MOST.get(setting, 1.0)))
        if abs(new - old) < LEAST_CHANGE or not self._can_have(setting):
            return ""
        partner = setting.partner
        missing = partner if new and partner and not self.values.get(partner) else None
        if missing and not self.strengths.usual(missing):
            return ""  # the change would have no effect
        self.values[setting] = new
        if missing:
            self.values[missing] = self.strengths.usual(missing)
            strength, share = (new, self.values[missing])[:: 1 if setting.name == "strength" else -1]
            return f"It gets {setting.augmentation}, at strength {strength:.2f} in {share:.0%} of its draws."
        return f"The {setting.words} {'rises' if new > old else 'falls'} from {old:.2f} to {new:.2f}."

    def _can_have(self, setting: Setting) -> bool:
        """True if the class has, or can be given, the policy that the setting belongs to."""
        if setting.part == "image":
            return bool(self.one.image.operations or self.strengths.image_operations)
        return setting.part != "mixing" or self.one.mixing.method != "none"

    def _methods(self) -> list[str]:
        """The feature methods that the class uses."""
        methods = [setting.method for setting in self.values if setting.method and setting.name == "share"]
        return [one for one in methods if self.values[share_of(one)] and self.values.get(strength_of(one))]

    def _scale_features(self, factor: float) -> str:
        """Multiply the shares of all feature methods; return what changed as a sentence, "" if there are none."""
        methods = self._methods()
        for method in methods:
            self.values[share_of(method)] = math.floor(min(self.values[share_of(method)] * factor, 1.0) * 1e4) / 1e4
        if not methods:
            return ""
        return (
            f"The {ALL_FEATURES.words} is multiplied by {factor:.2f}." if factor else "Its features are not augmented."
        )

    def _drop_other_features(self, method: str) -> str:
        """Remove all feature methods but this one, and their reasons; return what changed as a sentence."""
        dropped = [one for one in self._methods() if one != method]
        for one in dropped:
            del self.values[share_of(one)], self.values[strength_of(one)]
            choice = f"features.{one}."
            self.reasons = [reason for reason in self.reasons if not f"{reason.choice}.".startswith(choice)]
        if dropped and share_of(method) not in self.given:  # a scaling of all shares has scaled only what is dropped
            self.reasons = [reason for reason in self.reasons if reason.choice != ALL_FEATURES.path]
        names = ", ".join(one.replace("_", " ") for one in dropped)
        return (
            f"This measurement replaces the feature augmentation that class size suggests ({names})." if names else ""
        )

    def settle(self) -> None:
        """Scale the shares of the feature policies down if they sum to more than 1."""
        total = math.fsum(self.values[share_of(method)] for method in self._methods())
        if total > 1:
            self._scale_features(1 / total)  # rounded down
            text = f"The shares of its feature policies summed to {total:.0%} and are scaled down to 100% of its draws."
            self._add_bound(ALL_FEATURES, total, 1.0, text)

    def _add_bound(self, setting: Setting, value: float, most: float, text: str) -> None:
        """Add the reason for a value that was lowered to a limit."""
        self.reasons.append(
            Reason(
                rule="bounded",
                choice=setting.path,
                measure=setting.path,
                value=value,
                low=None,
                high=None,
                compared_with=most,
                text=text,
                source="",
            )
        )

    @property
    def image(self) -> ImagePolicy:
        """The image policy as it stands."""
        strength, probability, given = self.values[IMAGE_STRENGTH], self.values[IMAGE_PROBABILITY], self.one.image
        if (strength, probability) == (given.strength, given.probability):
            return given
        if not strength * probability:
            return ImagePolicy()
        return ImagePolicy(
            operations=given.operations or self.strengths.image_operations,
            layers=given.layers if given.operations else self.strengths.image_layers,
            strength=strength,
            probability=probability,
        )

    def bound_images(self, most: float, exposure: float) -> None:
        """Lower the strength of the image policy so that strength times exposure is at most `most`."""
        strength = self.values[IMAGE_STRENGTH]
        if strength * exposure <= most + 1e-9:
            return
        bounded = self.values[IMAGE_STRENGTH] = math.floor(most / exposure * 1e4) / 1e4
        text = (
            f"The {IMAGE_STRENGTH.words} is limited to {bounded:.2f} instead of {strength:.2f}, so that the network cannot learn"
            " that augmented images belong to this class."
        )
        self._add_bound(IMAGE_STRENGTH, strength, bounded, text)

    def built(self, draws: float) -> ClassPlan:
        """Return the class as it stands, with this share of the draws."""
        one, values = self.one, self.values
        if {**values, DRAWS: 0.0} == {**self.given, DRAWS: 0.0}:
            return one.model_copy(update={"draws": draws, "reasons": tuple(self.reasons)})
        mixing = one.mixing.model_copy(
            update={"probability": values[MIXING_PROBABILITY], "partner": values[MIXING_PARTNER]}
        )
        return ClassPlan(
            name=one.name,
            count=one.count,
            draws=draws,
            image=self.image,
            mixing=mixing,
            features=self._features(),
            reasons=tuple(self.reasons),
        )

    def _features(self) -> tuple[FeaturePolicy, ...]:
        """The feature policies: those of the base plan first, then the new ones in the order of `FeatureMethod`."""
        known = {policy.method: policy for policy in self.one.features}
        order = [*known, *(method for method in get_args(FeatureMethod) if method not in known)]
        return tuple(
            FeaturePolicy(
                method=method,
                strength=self.values[strength_of(method)],
                share=self.values[share_of(method)],
                neighbors=known[method].neighbors if method in known else self.strengths.neighbors,
                toward=self.toward if method == "toward_enemies" else {},
                donors=known[method].donors if method in known else "similar",
            )
            for method in order
            if self.values.get(share_of(method), 0.0) >= LEAST_SHARE and self.values.get(strength_of(method))
        )
