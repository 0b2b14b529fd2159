"""`Plan`: what is done for every class and for the run, as JSON that people can read, edit and compare.

A plan says how often each class is drawn, how its images and features are augmented and mixed, how the class prior is
corrected, when augmentation acts, and how many images make an epoch. Samplers, augmenters and training follow it without
making decisions of their own.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import pydantic
import torch
from torch import Tensor

from ..errors import must
from ..files.schema import Value, broken, distinct, refusal
from ..functional.counts import shares_for_counts
from ..functional.labels import ClassNames
from .from_counts import counted, drawn_shares, graded_values, rarity
from .policies import (
    LARGEST_DIFFERENCE,
    LARGEST_NUMBER,
    ClassPlan,
    FeaturePolicy,
    ImagePolicy,
    Mixing,
    PriorCorrection,
    Reason,
    Schedule,
    Share,
    exposures,
)
from .strengths import STRENGTHS, Strengths


class Plan(Value):
    """The draws, augmentation and corrections for every class, and for the run as a whole.

    Attributes:
        schema_version: Version of the file format.
        made_from: "diagnosis", "permuted diagnosis", "counts", "uniform" or "hand".
        classes: One `ClassPlan` per class.
        prior_correction: How the logits are corrected for the class prior of the draws.
        schedule: When augmentation acts.
        images_per_epoch: Draws per epoch; None for as many as there are training images.
        largest_difference: Largest allowed difference between two classes in image strength times exposure (see
            `policies.exposures`), in [0, 1]; 1 is no bound.
        reasons: Reasons for the settings of the run.

    See Also:
        `make_plan` for the plan that a diagnosis supports.

    Example:
        >>> import diversify as dv
        >>> plan = dv.Plan.from_counts(["cat", "newt"], [100, 10])
        >>> [round(one.image.strength, 2) for one in plan.classes], plan.draws.round(decimals=2).tolist()
        ([0.5, 0.7], [0.91, 0.09])
        >>> dv.Plan.from_json(plan.to_json()) == plan
        True
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
        places: dict[str, int] = {}
        for number, one in enumerate(self.classes):
            if one.name in places:
                law = f"differ from that of class {places[one.name]}"
                raise broken(law, repr(one.name), at=f"classes.{number}.name")
            places[one.name] = number
            if one.draws > 0 and one.count == 0:
                law = "be 0 for a class without training images"
                raise broken(law, f"{one.draws:g}", at=f"classes.{number}.draws")
        total = math.fsum(one.draws for one in self.classes)
        if abs(total - 1) > 1e-6:
            raise broken("have draws that sum to 1", f"{total:.6g}", at="classes")
        for number, one in enumerate(self.classes):
            for place, policy in enumerate(one.features):
                for name in policy.toward:
                    if name not in places or name == one.name:
                        at = f"classes.{number}.features.{place}.toward"
                        raise broken("name other classes of the plan", repr(name), at=at)
        policies = [one.image for one in self.classes if one.count]
        amounts = [one.strength * exposure for one, exposure in zip(policies, exposures(policies), strict=True)]
        if amounts and max(amounts) - min(amounts) > self.bound + 1e-9:
            alike = len({one.layers for one in policies if one.operations}) < 2
            law = (
                f"have image policies whose strength x probability{'' if alike else ' x layers / fewest layers'}"
                f" differ by at most largest_difference ({self.largest_difference:g})"
            )
            raise broken(law, f"{max(amounts) - min(amounts):.3g}", at="classes")
        return self

    @property
    def bound(self) -> float:
        """Largest allowed difference between two classes in image strength times exposure; infinity for no bound."""
        return self.largest_difference if self.largest_difference < 1 else math.inf

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return len(self.classes)

    @property
    def class_counts(self) -> Tensor:
        """Training images per class, `(C,)` int64."""
        return torch.tensor([one.count for one in self.classes])

    @property
    def draws(self) -> Tensor:
        """Share of the draws per class, `(C,)` float64."""
        return torch.tensor([one.draws for one in self.classes], dtype=torch.float64)

    @property
    def log_prior(self) -> Tensor:
        """Logarithm of the class prior of the draws, `(C,)` float32; a class that is never drawn gets the smallest one."""
        draws = self.draws
        return draws.clamp(min=float(draws[draws > 0].min())).log().float()

    def image_column(self, name: str) -> Tensor:
        """Return one field of every class's image policy, `(C,)` float32.

        Args:
            name: "strength", "probability" or "layers".
        """
        return torch.tensor([getattr(one.image, name) for one in self.classes], dtype=torch.float32)

    def mixing_column(self, name: str) -> Tensor:
        """Return one field of every class's mixing, `(C,)` float32.

        Args:
            name: "probability" or "partner".
        """
        return torch.tensor([getattr(one.mixing, name) for one in self.classes], dtype=torch.float32)

    def feature_column(self, method: str, name: str) -> Tensor:
        """Return one field of a feature method for every class, `(C,)` float32; 0 for classes without this method.

        Args:
            method: The feature method.
            name: "strength", "share", "neighbors" or "pooled".
        """
        values = [
            next((getattr(policy, name) for policy in one.features if policy.method == method), 0)
            for one in self.classes
        ]
        return torch.tensor(values, dtype=torch.float32)

    @property
    def enemies(self) -> Tensor:
        """Shares with which "toward_enemies" draws partner classes (columns) for each class (rows), `(C, C)` float64."""
        shares = torch.zeros(self.num_classes, self.num_classes, dtype=torch.float64)
        column = {one.name: index for index, one in enumerate(self.classes)}
        for row, one in enumerate(self.classes):
            for policy in one.features:
                for name, share in policy.toward.items():
                    shares[row, column[name]] = share
        return shares

    @property
    def feature_methods(self) -> tuple[str, ...]:
        """The feature methods that at least one class uses, in the order in which they first appear."""
        used = [policy.method for one in self.classes for policy in one.features if policy.share > 0]
        return tuple(dict.fromkeys(used))

    def for_counts(self, class_counts: Sequence[int] | Tensor) -> Plan:
        """Return the same plan for other numbers of training images.

        For example, make a plan on the training part of a hold-out and then use it on all training images. The policies
        stay the same. The draws keep their relation to the counts (`functional.counts.shares_for_counts`), the log prior
        follows from them, and `images_per_epoch` keeps its ratio to the number of images.

        Args:
            class_counts: Training images per class, `(C,)` integers.

        Raises:
            InputError: not one count per class, or no image in any class that is drawn.

        Example:
            >>> from diversify.plan import Plan
            >>> Plan.untouched(["cat", "newt"], [90, 10]).for_counts([180, 20]).class_counts.tolist()
            [180, 20]
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
        """Return the plan as JSON values, in the form of `plan.json`."""
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        """Return the text of `plan.json`; `from_json` gives back an equal plan."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Return the plan that JSON values hold. Values are not converted: `"0.5"` is not accepted as a number.

        Raises:
            InputError: a field is missing, unknown or out of range; the message names its path.
        """
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise refusal("plan", error, _FIELDS) from error

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan that a text from `to_json` holds, which may have been edited since.

        Raises:
            InputError: as for `from_dict`, or the text is not valid JSON.
        """
        try:
            values = json.loads(text, object_pairs_hook=distinct)
        except (ValueError, RecursionError) as error:
            raise must("plan", "be whole, valid JSON", str(error)) from error
        return cls.from_dict(values)

    def diff(self, other: Plan) -> tuple[str, ...]:
        """Return the fields in which `other` differs, one line each, without the reasons.

        Example:
            >>> from diversify.plan import Plan
            >>> plan = Plan.untouched(["cat", "newt"], [90, 10])
            >>> plan.diff(plan.model_copy(update={"images_per_epoch": 50}))
            ('images_per_epoch: none -> 50',)
        """
        mine, theirs = _leaves(self), _leaves(other)
        lines = []
        for path in dict.fromkeys((*mine, *theirs)):
            old, new = mine.get(path), theirs.get(path)
            if old != new:
                lines.append(f"{path}: {_shown(old, new)} -> {_shown(new, old)}")
        return tuple(lines)

    @classmethod
    def untouched(cls, class_names: ClassNames, class_counts: Sequence[int] | Tensor) -> Plan:
        """Return the plan that changes nothing: every image once an epoch, no augmentation, no prior correction.

        Args:
            class_names: Names of the classes.
            class_counts: Training images per class.

        Raises:
            InputError: the names and counts do not describe a training set.
        """
        names, counts = counted(class_names, class_counts)
        classes = [
            {"name": name, "count": count, "draws": count / sum(counts)}
            for name, count in zip(names, counts, strict=True)
        ]
        return cls.from_dict({"made_from": "hand", "classes": classes})

    @classmethod
    def from_counts(
        cls, class_names: ClassNames, class_counts: Sequence[int] | Tensor, *, strengths: Strengths = STRENGTHS
    ) -> Plan:
        """Return the plan that follows from class sizes alone: the control that a plan from a diagnosis has to beat.

        The rarer a class, the stronger its image and feature augmentation and, with `Strengths.draws_exponent` below 1,
        the more often each of its images is drawn. If all classes have the same size, nothing is augmented.

        Args:
            class_names: Names of the classes.
            class_counts: Training images per class.
            strengths: The numbers to make the plan with.

        Raises:
            InputError: the names and counts do not describe a training set.
        """
        names, counts = counted(class_names, class_counts)
        return cls.from_dict(graded_values(names, counts, rarity(counts), strengths, made_from="counts"))

    @classmethod
    def uniform(
        cls,
        class_names: Sequence[str],
        class_counts: Sequence[int] | Tensor,
        *,
        level: float | None = None,
        strengths: Strengths = STRENGTHS,
    ) -> Plan:
        """Return the plan of `from_counts` with the same policy for every class, as if each had the rarity `level`.

        Args:
            class_names: Names of the classes.
            class_counts: Training images per class.
            level: The rarity, in [0, 1]; None for the mean rarity over the draws.
            strengths: The numbers to make the plan with.

        Raises:
            InputError: the names and counts do not describe a training set, or `level` is not in [0, 1].
        """
        names, counts = counted(class_names, class_counts)
        if level is None:
            rare, share = rarity(counts), drawn_shares(counts, strengths.draws_exponent)
            level = round(math.fsum(r * s for r, s in zip(rare, share, strict=True)), 4)
        elif not isinstance(level, numbers.Real) or not 0 <= level <= 1:
            raise must("level", "lie in [0, 1]", repr(level))
        levels = [level if count else 0.0 for count in counts]
        return cls.from_dict(graded_values(names, counts, levels, strengths, made_from="uniform"))


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
    """Every number and name of a plan except its reasons, by path."""
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
    """A value as a line of `diff` shows it: with six digits, or with all if the other value has the same six."""
    if isinstance(value, float):
        short = f"{value:.6g}"
        return repr(value) if isinstance(other, float) and short == f"{other:.6g}" else short
    return "none" if value is None else str(value)
