"""The strategy layer: a diagnosis in, a `Plan` out, with the reason for every choice in it.

A plan says per class how often it is drawn, how its images and its features are varied and with what they are mixed;
and for the whole run how the class prior is corrected, when the augmentations begin, and how many images make an epoch.
It is JSON to be read, edited and compared; nothing downstream decides again what a plan has decided.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import pydantic
import torch
from torch import Tensor

from .errors import InputError, must
from .functional import counts, image_ops

MOST_AUGMENTED = 0.9  # every class keeps clean views: at most so many of its draws are augmented
LARGEST_DIFFERENCE = 0.35  # in strength x probability between two classes' image policies

Share = Annotated[float, pydantic.Field(ge=0, le=1, allow_inf_nan=False)]
MixingMethod = Literal["none", "cutmix", "mixup", "remix"]
FeatureMethod = Literal[
    "eos", "smote", "borderline_smote", "covariance", "magnitude", "manifold_mixup", "remix", "isda"
]


class _Value(pydantic.BaseModel):
    """A frozen value whose fields are exactly those of the file."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ImagePolicy(_Value):
    """How a class's images are varied: `layers` of `operations` drawn one after the other, on a share of its draws.

    `strength` is that of `functional.image_ops`: 0 the identity, 1 the full range of each operation. `probability` is the
    share of the class's draws that are varied at all; it stays at or below 0.9, so that clean views remain.
    """

    operations: tuple[str, ...] = ()
    layers: Annotated[int, pydantic.Field(ge=1, le=8)] = 1
    strength: Share = 0.0
    probability: Annotated[float, pydantic.Field(ge=0, le=MOST_AUGMENTED)] = 0.0

    @pydantic.field_validator("operations")
    @classmethod
    def _known(cls, operations: tuple[str, ...]) -> tuple[str, ...]:
        for name in operations:
            if name not in image_ops.OPERATIONS:
                raise ValueError(f"{name!r} is no operation; choose from {', '.join(image_ops.OPERATIONS)}")
        return operations

    @property
    def amount(self) -> float:
        """Strength x probability, the size that is bounded between classes; 0 without operations."""
        return self.strength * self.probability if self.operations else 0.0


class Mixing(_Value):
    """With what a class's images are mixed.

    `cutmix` pastes a box of a partner into the image (Yun et al. 2019; with `partner` even over the classes it is CMO, Park
    et al. 2022); `mixup` blends two images and their labels; `remix` blends images as mixup does, and gives the label to
    the rarer class (Chou et al. 2020). `probability` is how often an image of this class is given a partner; `partner` is
    the weight with which an image of this class is drawn as somebody's partner, relative to the other classes.
    """

    method: MixingMethod = "none"
    probability: Share = 0.0
    partner: Annotated[float, pydantic.Field(ge=0)] = 1.0


class FeaturePolicy(_Value):
    """One way of making features of a class; `share` of the class's draws go through it.

    `strength` 0 is the identity for every method and 1 its full range: the whole way to the partner for `eos`, `smote`,
    `borderline_smote`, `manifold_mixup` and `remix`; noise of 3 standard deviations of the donors for `covariance`; top-K
    features shrunk down to nothing for `magnitude`; lambda 1 for `isda`. `neighbors` is k where there are neighbours.
    """

    method: FeatureMethod
    strength: Share
    share: Share
    neighbors: Annotated[int, pydantic.Field(ge=1)] = 10


class Reason(_Value):
    """Why a choice was made: the rule that fired, the measure with its 95% interval, what it is compared with, in words."""

    rule: str
    choice: str
    measure: str
    value: float | None
    low: float | None
    high: float | None
    compared_with: float | None
    text: str
    source: str


class ClassPlan(_Value):
    """What is done for one class. `draws` is its share of the draws of an epoch; over the classes these sum to 1."""

    name: str
    count: Annotated[int, pydantic.Field(ge=0)]
    draws: Share
    image: ImagePolicy = ImagePolicy()
    mixing: Mixing = Mixing()
    features: tuple[FeaturePolicy, ...] = ()
    reasons: tuple[Reason, ...] = ()

    @pydantic.field_validator("features")
    @classmethod
    def _within_one(cls, features: tuple[FeaturePolicy, ...]) -> tuple[FeaturePolicy, ...]:
        if sum(policy.share for policy in features) > 1 + 1e-9:
            raise ValueError("the shares of a class's feature policies must sum to at most 1")
        return features


class PriorCorrection(_Value):
    """How much of the drawn class prior is taken out, as multiples of its logarithm.

    `training` is added to the logits in the loss (1 is balanced softmax, Ren et al. 2020), `after` is subtracted from the
    logits of the finished network (1 is post-hoc logit adjustment, Menon et al. 2021). The prior is the share of the draws.
    """

    training: Annotated[float, pydantic.Field(ge=0, le=4)] = 0.0
    after: Annotated[float, pydantic.Field(ge=0, le=4)] = 0.0


class Schedule(_Value):
    """When augmentation acts, as shares of the epochs: nothing before `start`, then growing over `ramp`, nothing after `stop`."""

    start: Share = 0.0
    ramp: Share = 0.0
    stop: Share = 1.0

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start > self.stop:
            raise ValueError("start must not be larger than stop")
        return self

    def at(self, epoch: int, epochs: int) -> float:
        """In [0, 1]: by what the strengths and probabilities of the plan are multiplied in this epoch, counted from 0."""
        done = epoch / epochs
        if done < self.start or done >= self.stop:
            return 0.0
        return min(1.0, (done - self.start + 1 / epochs) / self.ramp) if self.ramp > 0 else 1.0


class Plan(_Value):
    """What is done for every class, and for the run as a whole.

    `images_per_epoch` is the budget of draws; None means as many as there are training images. `made_from` says what the
    plan was made from: "diagnosis", "permuted diagnosis", "counts", "uniform" or "hand".
    """

    schema_version: Literal[1] = 1
    made_from: str = "hand"
    classes: tuple[ClassPlan, ...]
    prior_correction: PriorCorrection = PriorCorrection()
    schedule: Schedule = Schedule()
    images_per_epoch: Annotated[int, pydantic.Field(ge=1)] | None = None
    largest_difference: Share = LARGEST_DIFFERENCE
    reasons: tuple[Reason, ...] = ()

    @pydantic.model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.classes:
            raise ValueError("classes must hold at least one class")
        total = math.fsum(one.draws for one in self.classes)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the draws of the classes must sum to 1, got {total:.6g}")
        amounts = [one.image.amount for one in self.classes if one.count]
        if amounts and max(amounts) - min(amounts) > self.largest_difference + 1e-9:
            raise ValueError(
                f"strength x probability of two classes' image policies must not differ by more than largest_difference"
                f" ({self.largest_difference:g}), got {max(amounts) - min(amounts):.3g}"
            )
        for one in self.classes:
            if one.draws > 0 and one.count == 0:
                raise ValueError(f"draws of {one.name} must be 0, for it has no training image, got {one.draws:g}")
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
        """`(C,)` float32: `strength`, `share` or `neighbors` of a feature method; 0 where a class does not use it."""
        values = [
            next((getattr(policy, name) for policy in one.features if policy.method == method), 0)
            for one in self.classes
        ]
        return torch.tensor(values, dtype=torch.float32)

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
        draws = counts.shares_for_counts(self.draws, self.class_counts, given)
        if not bool(draws.isfinite().all()):
            raise must("class counts", "hold an image of a class that the plan draws", given.tolist())
        budget = self.images_per_epoch
        if budget is not None:
            budget = max(1, round(budget * int(given.sum()) / int(self.class_counts.sum())))
        classes = [
            {**one.model_dump(), "count": count, "draws": share}
            for one, count, share in zip(self.classes, given.tolist(), draws.tolist(), strict=True)
        ]
        return Plan.from_dict({**self.model_dump(), "classes": classes, "images_per_epoch": budget})

    def to_json(self) -> str:
        """The text of `plan.json`; `from_json` gives back an equal plan."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """The plan that these JSON values hold.

        Raises:
            InputError: a field is missing, unknown or outside its law; the message names its path.
        """
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            path = ".".join(str(part) for part in first["loc"])
            law = first["msg"].removeprefix("Value error, ")
            name = f"{path} of the plan" if path else "plan"
            raise must(name, "be valid", law) from error

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` came from, or that was edited since."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise must("plan", "be whole, valid JSON", str(error)) from error
        return cls.from_dict(values)

    @classmethod
    def untouched(cls, class_names: Sequence[str], class_counts: Sequence[int]) -> Plan:
        """The plan that changes nothing: every image once an epoch, no augmentation, no correction."""
        total = sum(class_counts)
        if total < 1:
            raise must("class counts", "hold at least one image", total)
        classes = tuple(
            ClassPlan(name=name, count=count, draws=count / total)
            for name, count in zip(class_names, class_counts, strict=True)
        )
        return cls(made_from="hand", classes=classes)


__all__ = [
    "ClassPlan",
    "FeaturePolicy",
    "ImagePolicy",
    "InputError",
    "Mixing",
    "Plan",
    "PriorCorrection",
    "Reason",
    "Schedule",
]
