"""A plan while rules change it: what they leave of the strengths for all classes, and one `Draft` for every class."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import get_args

import torch

from ..diagnosis.result import Diagnosis
from ..errors import must
from .from_counts import tidy
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
from .rules import Rule, RunRule, mark_of, pooled_value
from .strengths import Strengths


def strengths_for_all(
    strengths: Strengths, diagnosis: Diagnosis, rules: Sequence[RunRule]
) -> tuple[Strengths, tuple[Reason, ...]]:
    """The strengths that these rules leave, and their reasons."""
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
        fewer = strengths.with_images(left)
        if fewer == strengths:
            continue
        strengths = fewer
        if not rare:  # counts vary nothing that could be less
            continue
        some = strengths.image_probability
        share = f"varied at {some:.0%} of the draws" if some >= 0.01 else "varied at less than 1% of the draws"
        share = share if some else "not varied"
        reasons.append(
            Reason(
                rule=rule.name,
                choice=rule.changes,
                measure=rule.measure,
                value=tidy(value),
                low=None,
                high=None,
                compared_with=tidy(mark),
                text=f"{_worded(rule, value=value, mark=mark)}, so images are {share}.",
                source=rule.source,
            )
        )
    return strengths, tuple(reasons)


def _worded(rule: Rule | RunRule, **numbers: float) -> str:
    try:
        return rule.text.format(**numbers)
    except (LookupError, ValueError, TypeError) as error:
        *some, last = (f"{{{name}}}" for name in numbers)
        law = f"use only {', '.join(some)} and {last}, as numbers"
        raise must(f"text of the rule {rule.name!r}", law, repr(rule.text)) from error


def _enemies_of(diagnosis: Diagnosis, c: int) -> dict[str, float]:
    """The classes that the class's held-out errors lie among, with their shares; none where it has no error."""
    row = diagnosis.enemies[c].double().nan_to_num(0.0).clone()
    row[c] = 0.0
    row[diagnosis["count"].nan_to_num(0.0) < 1] = 0.0
    row = torch.where(row >= LEAST_SHARE * row.sum(), row, 0.0)
    if not float(row.sum()):
        return {}
    return {
        diagnosis.class_names[int(j)]: tidy(float(row[j] / row.sum()))
        for j in row.argsort(descending=True, stable=True)
        if float(row[j])
    }


_NO_INTERVAL = re.compile(r" \[nan%?, nan%?\]")  # of a class of one held-out image

_PARTNERS = {  # what makes no difference without the other
    "image.strength": "image.probability",
    **{f"features.{method}.strength": f"features.{method}.share" for method in get_args(FeatureMethod)},
}
_PARTNERS |= {other: path for path, other in _PARTNERS.items()}


class Draft:
    """One class of a plan while rules change it: a number for every path, and the reasons so far.

    `common` is the image strength of the class that the base varies least.
    """

    def __init__(self, one: ClassPlan, strengths: Strengths, common: float) -> None:
        self.one, self.strengths, self.common = one, strengths, common
        self.reasons: list[Reason] = list(one.reasons)
        self.values: dict[str, float] = {
            "draws": one.draws,
            "image.strength": one.image.strength,
            "image.probability": one.image.probability,
            "mixing.probability": one.mixing.probability,
            "mixing.partner": one.mixing.partner,
        }
        for policy in one.features:
            self.values[f"features.{policy.method}.strength"] = policy.strength
            self.values[f"features.{policy.method}.share"] = policy.share
        self.given = dict(self.values)
        self.toward = next((policy.toward for policy in one.features if policy.toward), {})

    def hear(self, rule: Rule, diagnosis: Diagnosis, c: int) -> None:
        """Change what the rule says, if it fires for this class."""
        columns, name = diagnosis.columns, rule.measure
        if any(end not in columns for end in (name, f"{name}_low", f"{name}_high")):
            return
        value, low, high = (float(columns[end][c]) for end in (name, f"{name}_low", f"{name}_high"))
        mark = mark_of(rule, diagnosis, c)
        needed = (value, mark) if rule.pooled else (value, mark, low, high)
        if any(math.isnan(number) for number in needed) or (low == high and not rule.pooled):
            return
        if rule.pooled:
            low_end = high_end = pooled_value(name, diagnosis, c)
        else:
            low_end, high_end = low, high
        beyond = mark - high_end if rule.side == "low" else low_end - mark
        if rule.relative:
            beyond = beyond / abs(mark) if mark else math.nan
        if not beyond > 0 and not rule.instead:
            return
        amount = rule.amount(beyond, self.strengths) if beyond > 0 else 0.0
        if not (isinstance(amount, (int, float)) and math.isfinite(amount)):
            raise must(f"amount of the rule {rule.name!r}", "be a finite number", repr(amount))
        toward = ""
        if rule.changes.startswith("features.toward_enemies."):
            enemies = _enemies_of(diagnosis, c)
            self.toward = enemies or self.toward  # where the base sent it
            if amount:
                toward = (
                    "Its errors say toward which classes." if enemies else "No error of its says toward which classes."
                )
            amount = amount if enemies else 0.0
        done = [self._move(rule.changes, float(amount))]
        if rule.instead:
            done.append(self._drop_other_features(rule.changes))
        if not any(done):
            return
        did = " ".join(filter(None, (toward, *done)))
        text = _NO_INTERVAL.sub("", _worded(rule, value=value, low=low, high=high, mark=mark))
        if rule.pooled:
            text += f" Drawn toward what classes of its size show, that is {low_end:.2f}."
        self.reasons.append(
            Reason(
                rule=rule.name,
                choice=rule.changes,
                measure=name,
                value=value,
                low=None if math.isnan(low) else low,
                high=None if math.isnan(high) else high,
                compared_with=mark,
                text=f"{text} {did}",
                source=rule.source,
            )
        )

    def _move(self, path: str, amount: float) -> str | None:
        """Change what is at a path, inside its law; what that did in words, None if nothing."""
        if path == "draws":
            factor = min(max(1 + amount, 0.1), 10.0)
            if abs(factor - 1) < LEAST_CHANGE or not self.values[path]:
                return None
            self.values[path] *= factor
            return f"Drawn {factor:.2f} times as often as otherwise."
        if path == "features.share":
            factor = max(1 + amount, 0.0)
            return self._scale_features(factor) if abs(factor - 1) >= LEAST_CHANGE else None
        if path == "image.extra":
            extra = max(self.values["image.strength"] - self.common, 0.0)
            path, amount = "image.strength", extra * max(amount, -1.0)
        old = self.values.get(path, 0.0)
        most = {"image.probability": MOST_AUGMENTED, "mixing.partner": 1e9}.get(path, 1.0)
        new = tidy(min(max(old + amount, 0.0), most))
        if abs(new - old) < LEAST_CHANGE or not self._may(path):
            return None
        partner = _PARTNERS.get(path, "")
        missing = partner if new and partner and not self.values.get(partner) else ""
        if missing and not self.strengths.usual(missing):
            return None  # without it nothing would change
        self.values[path] = new
        did = f"{path}: {old:.2f} -> {new:.2f}"
        if missing:
            self.values[missing] = self.strengths.usual(missing)
            did += f", {missing}: {self.values[missing]:.2f}"
        return f"{did}."

    def _may(self, path: str) -> bool:
        """Whether the class has, or can be given, what the path is about."""
        if path.startswith("image."):
            return bool(self.one.image.operations or self.strengths.image_operations)
        return not path.startswith("mixing.") or self.one.mixing.method != "none"

    def _feature_shares(self) -> list[str]:
        """The paths of the shares of the feature methods that the class uses."""
        paths = [path for path in self.values if path.startswith("features.") and path.endswith(".share")]
        return [path for path in paths if self.values[path] and self.values.get(_PARTNERS[path])]

    def _scale_features(self, factor: float) -> str | None:
        used = self._feature_shares()
        if not used:
            return None
        for path in used:
            self.values[path] = math.floor(min(self.values[path] * factor, 1.0) * 1e4) / 1e4
        return f"features.share: times {factor:.2f}." if factor else "No features are made."

    def _drop_other_features(self, path: str) -> str:
        """Only the method at the path stays; what that did in words."""
        kept = path.rpartition(".")[0]
        dropped = [share for share in self._feature_shares() if not share.startswith(f"{kept}.")]
        for share in dropped:
            del self.values[share], self.values[_PARTNERS[share]]
            choice = share.rpartition(".")[0]
            self.reasons = [one for one in self.reasons if not f"{one.choice}.".startswith(f"{choice}.")]
        if dropped and f"{kept}.share" not in self.given:  # what scaled them all scaled nothing that stays
            self.reasons = [one for one in self.reasons if one.choice != "features.share"]
        names = ", ".join(share.split(".")[1] for share in dropped)
        return f"What is measured takes the place of what its size suggests ({names})." if names else ""

    def settle(self) -> None:
        """Keep the shares of the feature policies within 1."""
        used = self._feature_shares()
        total = math.fsum(self.values[path] for path in used)
        if total > 1:
            self._scale_features(1 / total)  # rounded down
            text = f"The shares of its feature policies came to {total:.0%} of its draws and are scaled to all of them."
            self._bound("features.share", total, 1.0, text)

    def _bound(self, choice: str, value: float, most: float, text: str) -> None:
        self.reasons.append(
            Reason(
                rule="bounded",
                choice=choice,
                measure=choice,
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
        strength, probability, given = self.values["image.strength"], self.values["image.probability"], self.one.image
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
        """Lower the strength of the image policy to where strength x exposure is `most`, if it is beyond."""
        strength = self.values["image.strength"]
        if strength * exposure <= most + 1e-9:
            return
        bounded = self.values["image.strength"] = math.floor(most / exposure * 1e4) / 1e4
        text = (
            "Bounded, so that a varied image does not come to mean this class."
            f" image.strength: {strength:.2f} -> {bounded:.2f}."
        )
        self._bound("image.strength", strength, bounded, text)

    def built(self, draws: float) -> ClassPlan:
        """The class as it stands."""
        one, values = self.one, self.values
        if {**values, "draws": 0.0} == {**self.given, "draws": 0.0}:
            return one.model_copy(update={"draws": draws, "reasons": tuple(self.reasons)})
        methods = [method for method in get_args(FeatureMethod) if f"features.{method}.share" in values]
        known = {policy.method: policy for policy in one.features}
        order = [*known, *(method for method in methods if method not in known)]
        features = [
            FeaturePolicy(
                method=method,
                strength=values[f"features.{method}.strength"],
                share=values[f"features.{method}.share"],
                neighbors=known[method].neighbors if method in known else self.strengths.neighbors,
                toward=self.toward if method == "toward_enemies" else {},
                donors=known[method].donors if method in known else "similar",
            )
            for method in order
            if values.get(f"features.{method}.share", 0.0) >= LEAST_SHARE and values.get(f"features.{method}.strength")
        ]
        mixing = one.mixing.model_copy(
            update={"probability": values["mixing.probability"], "partner": values["mixing.partner"]}
        )
        return ClassPlan(
            name=one.name,
            count=one.count,
            draws=draws,
            image=self.image,
            mixing=mixing,
            features=tuple(features),
            reasons=tuple(self.reasons),
        )
