"""The strategy layer: a diagnosis in, a `Plan` out, with the reason for every choice in it.

A plan says per class how often it is drawn, how its images and its features are varied and with what they are mixed;
and for the whole run how the class prior is corrected, when the augmentations begin, and how many images make an epoch.
It is JSON to be read, edited and compared; nothing downstream decides again what a plan has decided.

`Plan.from_counts` grades everything by rarity; `make_plan` starts there and changes what `RULES` say where the 95%
interval of a measure, or what is pooled of it, lies beyond a mark. Every number they use is a field of `Strengths`.
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
    """What is done for every class, and for the run as a whole.

    `images_per_epoch` is the budget of draws; None means as many as there are training images. `made_from` says what the
    plan was made from: "diagnosis", "permuted diagnosis", "counts", "uniform" or "hand". `largest_difference` bounds how far two
    classes' image policies may be apart (`policies.exposures`); 1 is no bound.
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
        """By how much strength x exposure may differ between two classes' image policies: `largest_difference`, none where that is 1."""
        return self.largest_difference if self.largest_difference < 1 else math.inf

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
        names, counts = counted(class_names, class_counts)
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
        """The plan of `from_counts` with one policy for every class: as if each had the rarity `level`.

        By default the mean rarity over the draws.

        Raises:
            InputError: the names and counts are not those of a training set, or `level` is not in [0, 1].
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
