"""The strategy layer: a diagnosis in, a `Plan` out, with the reason for every choice in it.

A plan says per class how often it is drawn, how its images and its features are varied and with what they are mixed;
and for the whole run how the class prior is corrected, when the augmentations begin, and how many images make an epoch.
It is JSON to be read, edited and compared; nothing downstream decides again what a plan has decided.

`Plan.from_counts` grades everything by rarity; `make_plan` starts there and changes what `RULES` say where the 95%
interval of a measure, or what is pooled of it, lies beyond a mark. Every number they use is a field of `Strengths`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

import pydantic
import torch
from torch import Tensor

from .diagnosis import Diagnosis
from .errors import InputError, must
from .functional.counts import shares_for_counts
from .policies import (
    LARGEST_DIFFERENCE,
    LARGEST_NUMBER,
    LEAST_CHANGE,
    LEAST_SHARE,
    MOST_AUGMENTED,
    STRENGTHS,
    ClassPlan,
    FeatureMethod,
    FeaturePolicy,
    ImagePolicy,
    Mixing,
    PriorCorrection,
    Reason,
    Schedule,
    Share,
    Strengths,
    Value,
    exposures,
)
from .rules import PATHS, RULES, Rule, RunRule, mark_of, pooled_value, require_rule
from .validation import broken, distinct, refusal


class Plan(Value):
    """What is done for every class, and for the run as a whole.

    `images_per_epoch` is the budget of draws; None means as many as there are training images. `made_from` says what the
    plan was made from: "diagnosis", "permuted diagnosis", "counts", "uniform" or "hand".
    """

    schema_version: Literal[1] = 1
    made_from: str = "hand"
    classes: tuple[ClassPlan, ...]
    prior_correction: PriorCorrection = PriorCorrection()
    schedule: Schedule = Schedule()
    images_per_epoch: Annotated[int, pydantic.Field(strict=True, ge=1, le=LARGEST_NUMBER)] | None = None
    largest_difference: Share = LARGEST_DIFFERENCE
    reasons: tuple[Reason, ...] = ()

    @pydantic.model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.classes:
            raise broken("hold at least one class", "none", at="classes")
        numbers: dict[str, int] = {}
        for number, one in enumerate(self.classes):
            if one.name in numbers:
                law = f"be another than that of class {numbers[one.name]}"
                raise broken(law, repr(one.name), at=f"classes.{number}.name")
            numbers[one.name] = number
            if one.draws > 0 and one.count == 0:
                law = "be 0 for a class without training images"
                raise broken(law, f"{one.draws:g}", at=f"classes.{number}.draws")
        total = math.fsum(one.draws for one in self.classes)
        if abs(total - 1) > 1e-6:
            raise broken("have draws that sum to 1", f"{total:.6g}", at="classes")
        for number, one in enumerate(self.classes):
            for place, policy in enumerate(one.features):
                for name in policy.toward:
                    if name not in numbers or name == one.name:
                        at = f"classes.{number}.features.{place}.toward"
                        raise broken("name other classes of the plan", repr(name), at=at)
        policies = [one.image for one in self.classes if one.count]
        amounts = [one.strength * exposure for one, exposure in zip(policies, exposures(policies), strict=True)]
        if amounts and max(amounts) - min(amounts) > self.largest_difference + 1e-9:
            alike = len({one.layers for one in policies if one.operations}) < 2
            law = (
                f"have image policies whose strength x probability{'' if alike else ' x layers / most layers'}"
                f" differ by at most largest_difference ({self.largest_difference:g})"
            )
            raise broken(law, f"{max(amounts) - min(amounts):.3g}", at="classes")
        return self

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.classes)

    @property
    def class_counts(self) -> Tensor:
        """`(C,)` int64 training images per class."""
        return torch.tensor([one.count for one in self.classes])

    @property
    def draws(self) -> Tensor:
        """`(C,)` float64 share of the draws per class."""
        return torch.tensor([one.draws for one in self.classes], dtype=torch.float64)

    @property
    def log_prior(self) -> Tensor:
        """`(C,)` float32 logarithm of the drawn class prior; a class that is never drawn has that of the rarest one."""
        draws = self.draws
        return draws.clamp(min=float(draws[draws > 0].min())).log().float()

    def image_column(self, name: str) -> Tensor:
        """`(C,)` float32: a number of every class's image policy, `strength`, `probability` or `layers`."""
        return torch.tensor([getattr(one.image, name) for one in self.classes], dtype=torch.float32)

    def mixing_column(self, name: str) -> Tensor:
        """`(C,)` float32: a number of every class's mixing, `probability` or `partner`."""
        return torch.tensor([getattr(one.mixing, name) for one in self.classes], dtype=torch.float32)

    def feature_column(self, method: str, name: str) -> Tensor:
        """`(C,)` float32: `strength`, `share`, `neighbors` or `pooled` of a feature method; 0 where a class does not use it."""
        values = [
            next((getattr(policy, name) for policy in one.features if policy.method == method), 0)
            for one in self.classes
        ]
        return torch.tensor(values, dtype=torch.float32)

    @property
    def enemies(self) -> Tensor:
        """`(C, C)` float64 shares with which `toward_enemies` draws partners for a class of a row; zeros where it is not used."""
        shares = torch.zeros(self.num_classes, self.num_classes, dtype=torch.float64)
        column = {one.name: index for index, one in enumerate(self.classes)}
        for row, one in enumerate(self.classes):
            for policy in one.features:
                for name, share in policy.toward.items():
                    shares[row, column[name]] = share
        return shares

    @property
    def feature_methods(self) -> tuple[str, ...]:
        """The feature methods that some class uses, in the order in which they first appear."""
        used = [policy.method for one in self.classes for policy in one.features if policy.share > 0]
        return tuple(dict.fromkeys(used))

    def for_counts(self, class_counts: Sequence[int] | Tensor) -> Plan:
        """The same plan for other numbers of training images: made on a hold-out's train split, used on all images.

        Policies stay as they are. The draws follow the counts as they did (`functional.counts.shares_for_counts`), and so
        does the log prior; a budget keeps its ratio to the number of images. With the counts it has, the plan itself.

        Raises:
            InputError: not one count per class, or no image in any class that is drawn.
        """
        given = torch.as_tensor(class_counts)
        if given.shape != (self.num_classes,) or given.is_floating_point() or bool((given < 0).any()):
            raise must("class counts", f"be {self.num_classes} counts, one per class of the plan", given.tolist())
        if torch.equal(given, self.class_counts):
            return self
        draws = shares_for_counts(self.draws, self.class_counts, given)
        if not bool(draws.isfinite().all()):
            raise must("class counts", "hold an image of a class that the plan draws", given.tolist())
        budget = self.images_per_epoch
        if budget is not None:
            budget = max(1, round(budget * int(given.sum()) / int(self.class_counts.sum())))
        classes = [
            {**one, "count": count, "draws": share}
            for one, count, share in zip(self.to_dict()["classes"], given.tolist(), draws.tolist(), strict=True)
        ]
        return Plan.from_dict({**self.to_dict(), "classes": classes, "images_per_epoch": budget})

    def to_dict(self) -> dict[str, Any]:
        """JSON values, in the form of `plan.json`."""
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        """The text of `plan.json`; `from_json` gives back an equal plan."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """The plan that these JSON values hold; nothing is converted, so that `"0.5"` is no number.

        Raises:
            InputError: a field is missing, unknown or outside its law; the message names its path.
        """
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise refusal("plan", error, _FIELDS) from error

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` came from, or that was edited since.

        Raises:
            InputError: as for `from_dict`, or because the text is no JSON.
        """
        try:
            values = json.loads(text, object_pairs_hook=distinct)
        except (ValueError, RecursionError) as error:
            raise must("plan", "be whole, valid JSON", str(error)) from error
        return cls.from_dict(values)

    def diff(self, other: Plan) -> tuple[str, ...]:
        """What `other` does otherwise, one line per field: `classes.ship.image.strength: 0.3 -> 0.5`; reasons are left out."""
        mine, theirs = _leaves(self), _leaves(other)
        lines = []
        for path in dict.fromkeys((*mine, *theirs)):
            old, new = mine.get(path), theirs.get(path)
            if old != new:
                lines.append(f"{path}: {_shown(old, new)} -> {_shown(new, old)}")
        return tuple(lines)

    @classmethod
    def untouched(cls, class_names: Sequence[str], class_counts: Sequence[int] | Tensor) -> Plan:
        """The plan that changes nothing: every image once an epoch, no augmentation, no correction."""
        names, counts = _counted(class_names, class_counts)
        classes = [
            {"name": name, "count": count, "draws": count / sum(counts)}
            for name, count in zip(names, counts, strict=True)
        ]
        return cls.from_dict({"made_from": "hand", "classes": classes})

    @classmethod
    def from_counts(
        cls, class_names: Sequence[str], class_counts: Sequence[int] | Tensor, *, strengths: Strengths = STRENGTHS
    ) -> Plan:
        """The plan that rarity alone suggests: what a diagnosis has to beat.

        The rarer a class, the more often it is drawn for its size, the more of its features are made and the more its
        images are varied. Where no class is rarer than another nothing is varied.

        Raises:
            InputError: the names and counts are not those of a training set.
        """
        names, counts = _counted(class_names, class_counts)
        return _graded(names, counts, rarity(counts), strengths, made_from="counts")

    @classmethod
    def uniform(
        cls,
        class_names: Sequence[str],
        class_counts: Sequence[int] | Tensor,
        *,
        level: float | None = None,
        strengths: Strengths = STRENGTHS,
    ) -> Plan:
        """The plan of `from_counts` with one policy for every class: as if each had the rarity `level`.

        By default the mean rarity over the draws.

        Raises:
            InputError: the names and counts are not those of a training set, or `level` is not in [0, 1].
        """
        names, counts = _counted(class_names, class_counts)
        if level is None:
            rare, share = rarity(counts), _drawn(counts, strengths.draws_exponent)
            level = round(math.fsum(r * s for r, s in zip(rare, share, strict=True)), 4)
        elif not isinstance(level, numbers.Real) or not 0 <= level <= 1:
            raise must("level", "lie in [0, 1]", repr(level))
        return _graded(names, counts, [level if count else 0.0 for count in counts], strengths, made_from="uniform")


_MODELS: tuple[type[Value], ...] = (
    Plan,
    ClassPlan,
    ImagePolicy,
    Mixing,
    FeaturePolicy,
    Reason,
    PriorCorrection,
    Schedule,
)
_FIELDS = tuple(dict.fromkeys(field for model in _MODELS for field in model.model_fields))


def _leaves(plan: Plan) -> dict[str, object]:
    """Every number and name of a plan but its reasons, by its path."""
    leaves: dict[str, object] = {}

    def walk(path: str, value: object) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                walk(f"{path}.{name}" if path else str(name), inner)
        else:
            leaves[path] = ", ".join(map(str, value)) or None if isinstance(value, (list, tuple)) else value

    values = plan.to_dict()
    classes = values.pop("classes")
    del values["reasons"]
    walk("", values)
    leaves["classes"] = ", ".join(one["name"] for one in classes)
    for one in classes:
        name = one.pop("name")
        del one["reasons"]
        for policy in one.pop("features"):
            walk(f"classes.{name}.features.{policy.pop('method')}", policy)
        walk(f"classes.{name}", one)
    return leaves


def _shown(value: object, other: object) -> str:
    """A leaf in a line of `diff`: six digits of a number unless it takes more to tell it from the other."""
    if isinstance(value, float):
        short = f"{value:.6g}"
        return repr(value) if isinstance(other, float) and short == f"{other:.6g}" else short
    return "none" if value is None else str(value)


# Rarity


def rarity(class_counts: Sequence[int] | Tensor) -> list[float]:
    """Per class 1 - log n / log n_max, scaled to 1 for the rarest class; 0 for all where counts are equal, and without images."""
    counts = class_counts.tolist() if isinstance(class_counts, Tensor) else list(class_counts)
    present = [count for count in counts if count]
    if not present or min(present) == max(present):
        return [0.0] * len(counts)
    largest, whole = math.log(max(present)), math.log(max(present)) - math.log(min(present))
    return [(largest - math.log(count)) / whole if count else 0.0 for count in counts]


def _counted(class_names: Sequence[str], class_counts: Sequence[int] | Tensor) -> tuple[list[str], list[int]]:
    """Names and counts as a plan holds them."""
    names = [str(name) for name in class_names]
    given = class_counts.tolist() if isinstance(class_counts, Tensor) else list(class_counts)
    if len(names) != len(given):
        raise must("class_counts", f"be one per class name, {len(names)}", len(given))
    for count in given:
        number = math.nan if isinstance(count, bool) or not isinstance(count, numbers.Real) else float(count)
        if not 0 <= number < math.inf or number % 1:
            raise must("class_counts", "be whole numbers from 0 on", repr(count))
    counts = [int(count) for count in given]
    if sum(counts) < 1:
        raise must("class_counts", "hold at least one image", sum(counts))
    return names, counts


def _drawn(counts: Sequence[int], exponent: float) -> list[float]:
    """The share of the draws of each class, in proportion to n to the exponent."""
    weights = [float(count) ** exponent if count else 0.0 for count in counts]
    return _normalised(weights)


def _normalised(weights: Sequence[float]) -> list[float]:
    """As shares of their sum, to eight digits, so that a plan is readable."""
    total = math.fsum(weights)
    return [float(f"{weight / total:.8g}") for weight in weights]


def _tidy(value: float) -> float:
    """To four places, as strengths and shares are written."""
    return round(value, 4)


def _graded(
    names: Sequence[str], counts: Sequence[int], levels: Sequence[float], strengths: Strengths, *, made_from: str
) -> Plan:
    """Every class by its level in [0, 1], which is its rarity, or one for all."""
    varied = any(levels) or any(rarity(counts))
    classes = []
    draws, natural = _drawn(counts, strengths.draws_exponent), _drawn(counts, 1.0)
    for name, count, share, own, level in zip(names, counts, draws, natural, levels, strict=True):
        basis = _Basis(
            count=count,
            largest=max(counts),
            words=f"{count:,} training image{'s' * (count != 1)}, rarity {level:.2f}"
            if made_from == "counts"
            else f"every class as if its rarity were {level:.2f}",
            rule="rarity" if made_from == "counts" else "uniform",
        )
        one: dict[str, Any] = {"name": name, "count": count, "draws": share, "reasons": []}
        if count and share != own:
            text = f"drawn {share / own:.2f} times as often as its images come: in proportion to n^{strengths.draws_exponent:g}"
            one["reasons"].append(basis.reason("draws", f"{count:,} images: {text}", "Kang et al. 2020, eq. 1"))
        if count and varied:
            one |= _image_of(level, strengths, basis, one["reasons"])
            one["mixing"] = strengths.mixing
            if strengths.mixing.method != "none":
                text = f"{strengths.mixing.method} on {strengths.mixing.probability:.0%} of the draws of every class"
                one["reasons"].append(basis.reason("mixing", text, "Park et al. 2022 (CMO)"))
            one["features"] = _features_of(level, strengths, basis, one["reasons"])
        classes.append(one)
    return Plan.from_dict({"made_from": made_from, "classes": classes, **_of_the_run(strengths, max(counts))})


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Basis:
    """Why a choice was made that no measure of the network speaks for."""

    count: int
    largest: int
    words: str
    rule: str

    def reason(self, choice: str, text: str, source: str) -> Reason:
        return Reason(
            rule=self.rule,
            choice=choice,
            measure="count",
            value=float(self.count),
            low=None,
            high=None,
            compared_with=float(self.largest),
            text=f"{text[0].upper()}{text[1:]}.",
            source=source,
        )


def _image_of(level: float, strengths: Strengths, basis: _Basis, reasons: list[Reason]) -> dict[str, Any]:
    strength = _tidy(strengths.image_least + (strengths.image_most - strengths.image_least) * level)
    if not (strength and strengths.image_probability and strengths.image_operations):
        return {}
    text = (
        f"{basis.words}: images varied at strength {strength:.2f} on {strengths.image_probability:.0%} of its draws;"
        f" every class at {strengths.image_least:g} at least, so that a varied image does not come to mean a rare class"
    )
    reasons.append(basis.reason("image", text, "Ahn et al. 2023 (CUDA)"))
    policy = ImagePolicy(
        operations=strengths.image_operations,
        layers=strengths.image_layers,
        strength=strength,
        probability=strengths.image_probability,
    )
    return {"image": policy}


def _features_of(level: float, strengths: Strengths, basis: _Basis, reasons: list[Reason]) -> tuple[FeaturePolicy, ...]:
    kinds: tuple[tuple[FeatureMethod, float, float, str, str], ...] = (
        (
            "covariance",
            strengths.covariance * level,
            strengths.covariance_share * level,
            "borrows the spread of larger classes",
            "Yin et al. 2019 (FTL), with the noise of Wang et al. 2019 (ISDA)",
        ),
        ("eos", strengths.eos, strengths.eos_share * level, "goes toward its enemies", "Dablain et al. 2022 (EOS)"),
    )
    policies = []
    for method, strength, share, does, source in kinds:
        if _tidy(strength) and _tidy(share) >= LEAST_SHARE:
            policies.append(
                FeaturePolicy(
                    method=method, strength=_tidy(strength), share=_tidy(share), neighbors=strengths.neighbors
                )
            )
            text = f"{basis.words}: {does} at strength {strength:.2f} on {share:.0%} of its draws"
            reasons.append(basis.reason(f"features.{method}", text, source))
    return tuple(policies)


def _of_the_run(strengths: Strengths, largest: int) -> dict[str, Any]:
    """The global settings, with their reasons: the same for a made plan and for its controls."""
    basis = _Basis(count=largest, largest=largest, words="", rule="run")
    correction = strengths.prior_correction
    reasons = []
    if correction.training or correction.after:
        text = (
            f"the logarithm of the drawn class prior is taken out {correction.training:g} times in the loss and"
            f" {correction.after:g} times afterwards"
        )
        source = "Ren et al. 2020 (balanced softmax); Menon et al. 2021 (logit adjustment)"
        reasons.append(basis.reason("prior_correction", text, source))
    return {
        "prior_correction": correction,
        "schedule": strengths.schedule,
        "images_per_epoch": strengths.images_per_epoch,
        "largest_difference": strengths.largest_difference,
        "reasons": reasons,
    }


# From a diagnosis


def make_plan(
    diagnosis: Diagnosis,
    *,
    rules: Sequence[Rule | RunRule] = RULES,
    base: Plan | None = None,
    strengths: Strengths = STRENGTHS,
) -> Plan:
    """`base` (by default the plan of the counts), changed where the diagnosis shows that a class needs more or less.

    A class moves by what its 95% intervals show beyond doubt: an interval that holds the mark changes nothing. A rule that
    is `pooled` (of `RULES` the magnitude gap) goes by its value instead, drawn toward what the class's size predicts. A
    `RunRule` speaks of all classes alike: where the network knows little of its training images by heart, images are varied
    and mixed less or not at all (`Strengths.gap_none`, `gap_full`), as no policy gained on all of the networks that this was
    tried on; a `base` of your own keeps its images as they are. What no evidence and no rarity speaks for stays as it is in
    `Plan.untouched`, but for the share of the draws, which sum to 1.

        plan = make_plan(diagnosis)
        plan = make_plan(diagnosis, rules=(*RULES, my_rule), strengths=Strengths(draws_exponent=0.0))

    Raises:
        InputError: the diagnosis was made on test, `base` is of other classes, or a rule names what there is not.
    """
    if not diagnosis.plan_ready:
        raise must(
            "diagnosis",
            "be made on val to make a plan from",
            f"one made on {diagnosis.heldout_split}",
            "bring a val split, or train with --holdout, and diagnose on that: test is read once, after choosing",
        )
    if not isinstance(rules, Sequence):
        raise must("rules", "be a sequence of diversify.plan.Rule or RunRule", type(rules).__name__)
    for rule in rules:
        require_rule(rule, diagnosis)
    for column in ("count", "recall_heldout", "recall_heldout_low"):
        if column not in diagnosis.columns:
            raise must("diagnosis", f"have the column {column}", "none", "diagnose again")
    names, counts = _counted(diagnosis.class_names, diagnosis["count"])
    if base is None:
        of_all = [rule for rule in rules if isinstance(rule, RunRule)]
        strengths, told = _for_all_classes(strengths, diagnosis, of_all)
        base = Plan.from_counts(names, counts, strengths=strengths)
        said = [one.model_copy(update={"reasons": (*told, *one.reasons)}) if one.count else one for one in base.classes]
        base = base.model_copy(update={"classes": tuple(said)})
    elif [(one.name, one.count) for one in base.classes] != list(zip(names, counts, strict=True)):
        raise must(
            "base", "be of the diagnosis's classes, with their training images", ", ".join(_listed(base.classes))
        )
    drafts = [_Draft(one, strengths) for one in base.classes]
    of_classes = [rule for rule in rules if isinstance(rule, Rule)]
    recall = float(diagnosis["recall_heldout"].nanmean())
    for c, draft in enumerate(drafts):
        found = float(diagnosis["recall_heldout_low"][c]) > recall
        for rule in of_classes:
            if counts[c] >= max(rule.least_count, 1) and (rule.found_too or not found):
                draft.hear(rule, diagnosis, c)
    for draft in drafts:
        draft.settle()
    draws = [draft.values["draws"] for draft in drafts]
    if draws != [one.draws for one in base.classes]:
        draws = _normalised(draws)
    exposed = dict(
        zip(drafts, exposures([draft.image if draft.one.count else ImagePolicy() for draft in drafts]), strict=True)
    )
    least = min(draft.values["image.strength"] * exposed[draft] for draft in drafts if draft.one.count)
    for draft in drafts:
        draft.bound_images(least + base.largest_difference, exposed[draft])
    classes = [draft.built(share) for draft, share in zip(drafts, draws, strict=True)]
    made_from = "diagnosis" if diagnosis.permuted_by is None else "permuted diagnosis"
    return Plan.from_dict({**base.model_dump(exclude={"classes"}), "made_from": made_from, "classes": classes})


def _for_all_classes(
    strengths: Strengths, diagnosis: Diagnosis, rules: Sequence[RunRule]
) -> tuple[Strengths, tuple[Reason, ...]]:
    """The strengths that these rules leave, and their reasons."""
    if float(diagnosis["count_heldout"].nansum()) < strengths.gap_images:
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
        if left == 1:
            continue
        strengths = strengths.with_images(left)
        if not rare:  # counts vary nothing that could be less
            continue
        share = "not varied" if not left else f"varied at {strengths.image_probability:.0%} of the draws"
        reasons.append(
            Reason(
                rule=rule.name,
                choice=rule.changes,
                measure=rule.measure,
                value=_tidy(value),
                low=None,
                high=None,
                compared_with=_tidy(mark),
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


def _listed(classes: Sequence[ClassPlan]) -> list[str]:
    some = [f"{one.name} ({one.count:,})" for one in classes[:3]]
    return [*some, "…"] if len(classes) > 3 else some


def _enemies_of(diagnosis: Diagnosis, c: int) -> dict[str, float]:
    """The classes that the class's held-out errors lie among, with their shares; none where it has no error."""
    row = diagnosis.enemies[c].double().nan_to_num(0.0).clone()
    row[c] = 0.0
    row[diagnosis["count"].nan_to_num(0.0) < 1] = 0.0
    row = torch.where(row >= LEAST_SHARE * row.sum(), row, 0.0)
    if not float(row.sum()):
        return {}
    return {
        diagnosis.class_names[int(j)]: _tidy(float(row[j] / row.sum()))
        for j in row.argsort(descending=True, stable=True)
        if float(row[j])
    }


_PARTNERS = {  # what makes no difference without the other
    "image.strength": "image.probability",
    **{f"features.{method}.strength": f"features.{method}.share" for method in get_args(FeatureMethod)},
}
_PARTNERS |= {other: path for path, other in _PARTNERS.items()}


class _Draft:
    """One class of a plan while rules change it: a number for every path, and the reasons so far."""

    def __init__(self, one: ClassPlan, strengths: Strengths) -> None:
        self.one, self.strengths = one, strengths
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
        if any(math.isnan(number) for number in (value, low, high, mark)) or (low == high and not rule.pooled):
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
        text = _worded(rule, value=value, low=low, high=high, mark=mark)
        self.reasons.append(
            Reason(
                rule=rule.name,
                choice=rule.changes,
                measure=name,
                value=value,
                low=low,
                high=high,
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
        old = self.values.get(path, 0.0)
        most = {"image.probability": MOST_AUGMENTED, "mixing.partner": 1e9}.get(path, 1.0)
        new = _tidy(min(max(old + amount, 0.0), most))
        if abs(new - old) < LEAST_CHANGE or not self._may(path):
            return None
        self.values[path] = new
        did = f"{path}: {old:.2f} -> {new:.2f}"
        partner = _PARTNERS.get(path)
        if new and partner and not self.values.get(partner):
            usual = self.values[partner] = self.strengths.usual(partner)
            did += f", {partner}: {usual:.2f}"
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
        strength, probability = self.values["image.strength"], self.values["image.probability"]
        if not strength * probability:
            return ImagePolicy()
        given = self.one.image
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


__all__ = [
    "PATHS",
    "RULES",
    "STRENGTHS",
    "ClassPlan",
    "FeaturePolicy",
    "ImagePolicy",
    "InputError",
    "Mixing",
    "Plan",
    "PriorCorrection",
    "Reason",
    "Rule",
    "RunRule",
    "Schedule",
    "Strengths",
    "make_plan",
    "rarity",
]
