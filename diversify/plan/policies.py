"""What a plan is made of: policies, one class's part, what holds for the run, and the numbers that plans are made with.

Frozen values whose fields are exactly those of `plan.json`; `diversify.plan` has them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

import pydantic

from ..files.schema import Value, broken
from ..functional import image_ops

MOST_AUGMENTED = 0.9  # every class keeps clean views: at most so many of its draws are augmented
LARGEST_DIFFERENCE = 0.35  # in strength x exposure between two classes' image policies
VARIED = tuple(
    name for name in image_ops.OPERATIONS if name not in ("crop", "flip", "invert", "posterize", "solarize")
)  # crop and flip are for the base augmentation; the others leave little of small or grey images
LEAST_SHARE = 0.01  # of a class's draws: made features below it are not worth their place in a plan
LEAST_CHANGE = 0.005  # what a rule would change by less, it leaves: two digits would not show it
LARGEST_NUMBER = 1 << 53  # of images: beyond it a JSON number is no exact integer everywhere

Share = Annotated[float, pydantic.Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Number = Annotated[float, pydantic.Field(strict=True, allow_inf_nan=False)]
MixingMethod = Literal["none", "cutmix", "mixup", "remix"]
FeatureMethod = Literal[
    "toward_enemies", "eos", "smote", "borderline_smote", "covariance", "magnitude", "manifold_mixup", "remix", "isda"
]

Donors = Literal["similar", "pooled"]


class ImagePolicy(Value):
    """How a class's images are varied: `layers` of `operations` drawn one after the other, on a share of its draws.

    `strength` is that of `functional.image_ops`: 0 the identity, 1 the full range of each operation. `probability` is the
    share of the class's draws that are varied at all; it stays at or below 0.9, so that clean views remain.
    """

    operations: tuple[str, ...] = ()
    layers: Annotated[int, pydantic.Field(strict=True, ge=1, le=8)] = 1
    strength: Share = 0.0
    probability: Annotated[float, pydantic.Field(strict=True, ge=0, le=MOST_AUGMENTED)] = 0.0

    @pydantic.field_validator("operations")
    @classmethod
    def _known(cls, operations: tuple[str, ...]) -> tuple[str, ...]:
        for name in operations:
            if name not in image_ops.OPERATIONS:
                raise broken(f"be among {', '.join(image_ops.OPERATIONS)}", repr(name))
            if operations.count(name) > 1:
                raise broken("be named once each", f"{name!r} {operations.count(name)} times")
        return operations

    @property
    def amount(self) -> float:
        """Strength x probability; 0 without operations."""
        return self.strength * self.probability if self.operations else 0.0


def exposures(policies: Sequence[ImagePolicy]) -> list[float]:
    """How much the strength of each counts where classes are compared: its probability, times its layers for each of the fewest.

    The fewest layers of those that vary any draw, at whatever strength. Strength x exposure is bounded between classes.
    """
    fewest = min((one.layers for one in policies if one.operations and one.probability > 0), default=1)
    return [one.layers / fewest * one.probability if one.operations else 0.0 for one in policies]


class Mixing(Value):
    """With what a class's images are mixed.

    `cutmix` pastes a box of a partner into the image (Yun et al. 2019; with `partner` even over the classes it is CMO, Park
    et al. 2022); `mixup` blends two images and their labels; `remix` blends images as mixup does, and gives the label to
    the rarer class (Chou et al. 2020). `probability` is how often an image of this class is given a partner; `partner` is
    the weight with which an image of this class is drawn as somebody's partner, relative to the other classes. At
    probability 1 no image of the class comes unmixed: what always leaves clean views are image policies. The labels tell of
    what is mixed, and so it is not bounded between classes.
    """

    method: MixingMethod = "none"
    probability: Share = 0.0
    partner: Annotated[float, pydantic.Field(strict=True, ge=0, le=1e9)] = 1.0


class FeaturePolicy(Value):
    """One way of making features of a class; `share` of the class's draws go through it.

    `strength` 0 is the identity for every method and 1 its full range: the whole way to the partner for `toward_enemies`,
    `eos`, `smote`, `borderline_smote`, `manifold_mixup` and `remix`; noise of 3 standard deviations of the donors for
    `covariance`; top-K features shrunk down to nothing for `magnitude`; lambda 1 for `isda`. `neighbors` is k where there
    are neighbours. `toward` belongs to `toward_enemies`: the shares with which partners are drawn from other classes.

    `donors` belongs to `covariance` and `isda`: "similar" is the class's own covariance, shrunk toward those of the head
    classes most like it, the fewer images the more; "pooled" the covariance within all head classes, the same for every
    class.
    """

    method: FeatureMethod
    strength: Share
    share: Share
    neighbors: Annotated[int, pydantic.Field(strict=True, ge=1, le=1 << 20)] = 10
    toward: dict[str, Share] = pydantic.Field(default_factory=dict)
    donors: Donors = "similar"

    @pydantic.model_validator(mode="after")
    def _directed(self) -> Self:
        if self.method != "toward_enemies" and self.toward:
            raise broken("be left out but for toward_enemies", ", ".join(self.toward), at="toward")
        total = math.fsum(self.toward.values())
        if self.method == "toward_enemies" and abs(total - 1) > 0.01:
            raise broken("have shares that sum to 1", f"{total:.6g}", at="toward")
        return self

    @pydantic.model_validator(mode="after")
    def _borrowing(self) -> Self:
        if self.pooled and self.method not in ("covariance", "isda"):
            raise broken("be left out but for covariance and isda", self.donors, at="donors")
        return self

    @property
    def pooled(self) -> bool:
        """Whether covariance is borrowed from all head classes alike."""
        return self.donors == "pooled"


class Reason(Value):
    """Why a choice was made: the rule that fired, the measure with its 95% interval, what it is compared with, in words."""

    rule: str
    choice: str
    measure: str
    value: Number | None
    low: Number | None
    high: Number | None
    compared_with: Number | None
    text: str
    source: str


class ClassPlan(Value):
    """What is done for one class. `draws` is its share of the draws of an epoch; over the classes these sum to 1."""

    name: str
    count: Annotated[int, pydantic.Field(strict=True, ge=0, le=LARGEST_NUMBER)]
    draws: Share
    image: ImagePolicy = ImagePolicy()
    mixing: Mixing = Mixing()
    features: tuple[FeaturePolicy, ...] = ()
    reasons: tuple[Reason, ...] = ()

    @pydantic.field_validator("features")
    @classmethod
    def _within_one(cls, features: tuple[FeaturePolicy, ...]) -> tuple[FeaturePolicy, ...]:
        total = math.fsum(policy.share for policy in features)
        if total > 1 + 1e-9:
            raise broken("have shares that sum to at most 1", f"{total:.6g}")
        methods = [policy.method for policy in features]
        for method in methods:
            if methods.count(method) > 1:
                raise broken("have different methods", f"{method!r} {methods.count(method)} times")
        return features


class PriorCorrection(Value):
    """How much of the drawn class prior is taken out, as multiples of its logarithm.

    `training` is added to the logits in the loss (1 is balanced softmax, Ren et al. 2020), `after` is subtracted from the
    logits of the finished network (1 is post-hoc logit adjustment, Menon et al. 2021). The prior is the share of the draws.
    """

    training: Annotated[float, pydantic.Field(strict=True, ge=0, le=4)] = 0.0
    after: Annotated[float, pydantic.Field(strict=True, ge=0, le=4)] = 0.0


class Schedule(Value):
    """When augmentation acts, as shares of the epochs: nothing before `start`, then growing over `ramp`, nothing after `stop`.

    Feature policies act from `features` on, at the earliest; 1 leaves training without them, as made plans do: they are for
    the head step on a frozen backbone (`retrain_head`, which has no epochs). Acting in the loop they cost 1 to 4 points of
    balanced accuracy on the hold-outs of long-tailed CIFAR-10, from the start as from 80% of the epochs on.
    """

    features: Share = 0.0
    start: Share = 0.0
    ramp: Share = 0.0
    stop: Share = 1.0

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start > self.stop:
            raise broken(f"not be larger than stop ({self.stop:g})", f"{self.start:g}", at="start")
        return self

    def at(self, epoch: int, epochs: int) -> float:
        """In [0, 1]: by what the strengths and probabilities of the plan are multiplied in this epoch, counted from 0."""
        done = epoch / epochs
        if done < self.start or done >= self.stop:
            return 0.0
        return min(1.0, (done - self.start + 1 / epochs) / self.ramp) if self.ramp > 0 else 1.0

    def features_at(self, epoch: int, epochs: int) -> float:
        """The same for feature policies."""
        return self.at(epoch, epochs) if epoch / epochs >= self.features else 0.0
