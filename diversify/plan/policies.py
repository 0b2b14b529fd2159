"""The parts of a plan: policies for images, mixing and features, one class's part, and the settings of the run.

All are frozen values whose fields are exactly those of `plan.json`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

import pydantic

from ..files.schema import Value, broken
from ..functional import image_ops

MOST_AUGMENTED = 0.9  # at most this share of a class's draws is augmented, so some images stay unaugmented
LARGEST_DIFFERENCE = 0.35  # in strength x exposure between two classes' image policies
VARIED = tuple(  # the operations that plans use by default
    name for name in image_ops.OPERATIONS if name not in ("crop", "flip", "invert", "posterize", "solarize")
)  # crop and flip belong to the base augmentation; the others destroy small or grey images
LEAST_SHARE = 0.01  # of a class's draws: plans leave out feature policies with a smaller share
LEAST_CHANGE = 0.005  # rules make no smaller changes: two digits would not show them
LARGEST_NUMBER = 1 << 53  # of images: not every JSON reader keeps larger integers exact

Share = Annotated[float, pydantic.Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Number = Annotated[float, pydantic.Field(strict=True, allow_inf_nan=False)]
MixingMethod = Literal["none", "cutmix", "mixup", "remix"]
FeatureMethod = Literal[
    "toward_enemies", "eos", "smote", "borderline_smote", "covariance", "magnitude", "manifold_mixup", "remix", "isda"
]

Donors = Literal["similar", "pooled"]


class ImagePolicy(Value):
    """The image augmentation of one class: random operations, applied one after the other to a share of its draws.

    Attributes:
        operations: Names from `functional.image_ops.OPERATIONS`; each layer draws one of them with equal probability.
        layers: How many operations an augmented image goes through, in [1, 8].
        strength: In [0, 1], as in `functional.image_ops`: 0 is the identity, 1 the full range of each operation.
        probability: Share of the class's draws that are augmented, in [0, 0.9], so some images stay unaugmented.

    Example:
        >>> from diversify.plan import ImagePolicy
        >>> ImagePolicy(operations=("rotate", "contrast"), strength=0.5, probability=0.8).amount
        0.4
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
        """Strength times probability; 0 without operations."""
        return self.strength * self.probability if self.operations else 0.0


def exposures(policies: Sequence[ImagePolicy]) -> list[float]:
    """The exposure of each policy: its probability times its layers, relative to the policy with the fewest layers.

    A plan bounds how far strength times exposure may differ between classes. "Fewest layers" is the minimum over the
    policies that augment any draw, at any strength.

    Args:
        policies: One image policy per class.

    Returns:
        One number per policy; 0 without operations.

    Example:
        >>> from diversify.plan.policies import ImagePolicy, exposures
        >>> once = ImagePolicy(operations=("rotate",), probability=0.5)
        >>> exposures([once, once.model_copy(update={"layers": 2})])
        [0.5, 1.0]
    """
    fewest = min((one.layers for one in policies if one.operations and one.probability > 0), default=1)
    return [one.layers / fewest * one.probability if one.operations else 0.0 for one in policies]


class Mixing(Value):
    """The mixing of one class's images with partner images.

    The targets show what was mixed, so mixing is not bounded between classes as image policies are. With `probability` 1
    every image of the class is mixed.

    Attributes:
        method: "cutmix" pastes a box of the partner into the image (Yun et al. 2019); "mixup" blends both images and
            their labels (Zhang et al. 2018); "remix" blends the images as mixup does and gives the label to the rarer
            class (Chou et al. 2020); "none".
        probability: Share of the class's images that get a partner, in [0, 1].
        partner: Weight with which images of this class are drawn as partners, relative to the other classes. CutMix with
            equal weights for all classes is CMO (Park et al. 2022).

    Example:
        >>> from diversify.plan import Mixing
        >>> Mixing(method="cutmix", probability=0.5).partner
        1.0
    """

    method: MixingMethod = "none"
    probability: Share = 0.0
    partner: Annotated[float, pydantic.Field(strict=True, ge=0, le=1e9)] = 1.0


class FeaturePolicy(Value):
    """One feature augmentation of a class.

    Attributes:
        method: "toward_enemies", "eos", "smote", "borderline_smote", "covariance", "magnitude", "manifold_mixup", "remix"
            or "isda"; `FeatureAugmenter` describes them.
        strength: In [0, 1]; 0 is the identity. 1 is the whole way to the partner for the methods that have one, noise of
            3 standard deviations for "covariance", top-K features shrunk to 0 for "magnitude", and lambda 1 for "isda".
        share: Share of the class's draws that go through this method, in [0, 1].
        neighbors: k of the methods that look for nearest neighbours.
        toward: For "toward_enemies" only: the shares with which partners are drawn from other classes; they sum to 1.
        donors: For "covariance" and "isda" only. "similar" is the class's own covariance, shrunk toward those of the most
            similar frequent classes (more strongly the fewer images the class has). "pooled" is the covariance within all
            frequent classes, the same for every class.

    Example:
        >>> from diversify.plan import FeaturePolicy
        >>> FeaturePolicy(method="eos", strength=1.0, share=0.3).neighbors
        10
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
            raise broken("be left out unless method is toward_enemies", ", ".join(self.toward), at="toward")
        total = math.fsum(self.toward.values())
        if self.method == "toward_enemies" and abs(total - 1) > 0.01:
            raise broken("have shares that sum to 1", f"{total:.6g}", at="toward")
        return self

    @pydantic.model_validator(mode="after")
    def _borrowing(self) -> Self:
        if self.pooled and self.method not in ("covariance", "isda"):
            raise broken("be left out unless method is covariance or isda", self.donors, at="donors")
        return self

    @property
    def pooled(self) -> bool:
        """True if the covariance is that within all frequent classes."""
        return self.donors == "pooled"


class Reason(Value):
    """The reason for a choice of a plan.

    Attributes:
        rule: Name of the rule that fired; "rarity" or "uniform" for choices made from class sizes alone.
        choice: The setting that was chosen, usually its path in the class's plan, such as "image.strength".
        measure: The measure that the rule looks at, a column of the diagnosis.
        value: Its value for the class.
        low: Lower end of its 95% interval.
        high: Upper end of its 95% interval.
        compared_with: The reference value that it is compared with.
        text: The same as a sentence.
        source: Paper, and equation or section.

    Example:
        >>> from diversify.plan import Plan
        >>> plan = Plan.from_counts(["cat", "newt"], [100, 10])
        >>> [reason.choice for reason in plan.classes[1].reasons]
        ['image', 'mixing', 'features.covariance', 'features.eos']
    """

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
    """The plan of one class.

    Attributes:
        name: Name of the class.
        count: Its training images.
        draws: Its share of the draws of an epoch, in [0, 1]; the shares of all classes sum to 1.
        image: Its image augmentation.
        mixing: How its images are mixed with others.
        features: Its feature augmentations, each method at most once, with shares that sum to at most 1.
        reasons: Why.

    Example:
        >>> from diversify.plan import ClassPlan, FeaturePolicy
        >>> one = ClassPlan(name="newt", count=10, draws=0.1, features=(FeaturePolicy(method="eos", strength=1, share=0.3),))
        >>> one.image.amount, one.features[0].method
        (0.0, 'eos')
    """

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
    """The correction of the logits for the class prior of the draws, as multiples of its logarithm.

    Attributes:
        training: Multiple that is added to the logits in the loss, in [0, 4]; 1 is balanced softmax (Ren et al. 2020).
        after: Multiple that is subtracted from the logits of the trained network, in [0, 4]; 1 is post-hoc logit
            adjustment (Menon et al. 2021).

    Example:
        >>> from diversify.plan import PriorCorrection
        >>> PriorCorrection(training=1.0).after
        0.0
    """

    training: Annotated[float, pydantic.Field(strict=True, ge=0, le=4)] = 0.0
    after: Annotated[float, pydantic.Field(strict=True, ge=0, le=4)] = 0.0


class Schedule(Value):
    """The schedule of augmentation during training; every field is a share of the epochs, in [0, 1].

    Attributes:
        features: Feature policies act from here on (and not before `start`). Plans from `make_plan` and
            `Plan.from_counts` have 1, so feature policies act only in the head step on a frozen backbone
            (`retrain_head`, which has no epochs). Inside the training loop they cost 1 to 4 points of balanced accuracy
            on the hold-outs of long-tailed CIFAR-10, whether they began at the start or at 80% of the epochs.
        start: Nothing is augmented before.
        ramp: Strengths and probabilities grow linearly from `start` on for this long.
        stop: Nothing is augmented from here on.

    Example:
        >>> from diversify.plan import Schedule
        >>> schedule = Schedule(start=0.2, ramp=0.4)
        >>> [round(schedule.at(epoch, 10), 2) for epoch in range(0, 10, 2)]
        [0.0, 0.25, 0.75, 1.0, 1.0]
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
        """Return the factor in [0, 1] on the plan's strengths and probabilities.

        Args:
            epoch: The epoch, counted from 0.
            epochs: Epochs in all.
        """
        done = epoch / epochs
        if done < self.start or done >= self.stop:
            return 0.0
        return min(1.0, (done - self.start + 1 / epochs) / self.ramp) if self.ramp > 0 else 1.0

    def features_at(self, epoch: int, epochs: int) -> float:
        """Return the same factor for feature policies, which is 0 before `features`."""
        return self.at(epoch, epochs) if epoch / epochs >= self.features else 0.0
