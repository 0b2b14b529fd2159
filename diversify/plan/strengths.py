"""The numbers behind the rules: how strongly a plan acts."""

from __future__ import annotations

import dataclasses
import math

import pydantic

from ..errors import must
from ..files.schema import refusal
from .policies import LARGEST_DIFFERENCE, VARIED, FeaturePolicy, ImagePolicy, Mixing, PriorCorrection, Schedule
from .settings import Setting

USUAL_SHARE = 0.2  # of a class's draws, for a feature method that only rules of one's own use


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strengths:
    """The numbers that plans are made with, the same for `make_plan` and for its controls (`Plan.from_counts`, `Plan.uniform`).

    Numbers described as "of the rarest class" are scaled down for the other classes in proportion to their rarity (see
    `rarity`). Fields that end in `_gain` translate the size of a finding into the size of a change.

    Attributes:
        draws_exponent: A class of n images is drawn in proportion to n to this power: 1 is instance-balanced, 0
            class-balanced sampling. The loss corrects for the class prior of the draws in either case, and images that
            are drawn more often are overfitted more.
        covariance: Strength of the covariance noise of the rarest class.
        covariance_share: Share of the rarest class's draws that get this noise.
        eos: Strength of EOS: 1 allows the whole way to the enemy.
        eos_share: Share of the rarest class's draws that EOS moves.
        enemies_share: Share of a class's draws that are moved toward its enemies, if `make_plan` finds a magnitude gap.
        neighbors: k of the feature methods that use nearest neighbours.
        image_operations: Image operations to draw from.
        image_layers: Operations per augmented image.
        image_least: Image strength of the largest class. Images are augmented only if class sizes differ.
        image_most: Image strength of the rarest class.
        image_probability: Share of every class's draws that are augmented.
        gap_none: A plan from a diagnosis neither augments nor mixes images if mean recall over the classes is higher on
            training than on held-out images by at most this: the network has barely overfitted.
        gap_full: At this gap and above, image augmentation and mixing act in full; in between in proportion.
        gap_images: With fewer held-out images than this the gap is too uncertain and is ignored.
        mixing: The mixing of every class. Images are mixed only if class sizes differ.
        prior_correction: See `Plan`.
        schedule: See `Plan`.
        images_per_epoch: See `Plan`.
        largest_difference: See `Plan`.
        draws_gain: Relative increase of a class's draws per unit of recall that is missing.
        covariance_gain: Strength of covariance noise per unit of missing recall, or per relative lack of diversity.
        eos_gain: Share of the draws per unit by which the share of safe images is too small, or per relative excess of the
            range gap.
        enemies_gain: Strength of "toward_enemies" per unit of top-K magnitude lost. Rows go half as far on average.
        image_gain: Image strength per relative lack of diversity, or per share of top-K features that differ.
        found_gain: Fraction of a class's feature augmentation removed per unit of recall above the class mean.

    Raises:
        InputError: a number lies outside its range, or two of them contradict each other.

    Example:
        >>> from diversify.plan import Plan, Strengths
        >>> balanced = Strengths(draws_exponent=0.0)
        >>> Plan.from_counts(["cat", "newt"], [100, 10], strengths=balanced).draws.tolist()
        [0.5, 0.5]
    """

    draws_exponent: float = 1.0
    covariance: float = 0.67
    covariance_share: float = 0.7
    eos: float = 1.0
    eos_share: float = 0.3
    enemies_share: float = 1.0
    neighbors: int = 10
    image_operations: tuple[str, ...] = VARIED
    image_layers: int = 1
    image_least: float = 0.5
    image_most: float = 0.7
    image_probability: float = 0.9
    gap_none: float = 0.1
    gap_full: float = 0.15
    gap_images: int = 100
    mixing: Mixing = dataclasses.field(default_factory=lambda: Mixing(method="cutmix", probability=0.5))
    prior_correction: PriorCorrection = dataclasses.field(default_factory=lambda: PriorCorrection(training=1.0))
    schedule: Schedule = dataclasses.field(default_factory=lambda: Schedule(features=1.0))
    images_per_epoch: int | None = None
    largest_difference: float = LARGEST_DIFFERENCE
    draws_gain: float = 2.0
    covariance_gain: float = 1.0
    eos_gain: float = 1.0
    enemies_gain: float = 1.75
    image_gain: float = 1.0
    found_gain: float = 4.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(field.default, float):
                continue
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
                raise must(field.name, "be a finite number", repr(value))
            if field.name.endswith("_gain"):
                if value < 0:
                    raise must(field.name, "not be negative", value)
            elif not 0 <= value <= 1:
                raise must(field.name, "lie in [0, 1]", value)
        if not isinstance(self.gap_images, int) or isinstance(self.gap_images, bool) or self.gap_images < 0:
            raise must("gap_images", "be an integer of at least 0", repr(self.gap_images))
        budget = self.images_per_epoch
        if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool) or budget < 1):
            raise must("images_per_epoch", "be an integer of at least 1", repr(budget))
        if self.covariance_share + self.eos_share > 1 + 1e-9:
            got = f"{self.covariance_share + self.eos_share:g}"
            raise must("covariance_share and eos_share", "sum to at most 1", got)
        if self.image_least > self.image_most:
            raise must("image_least", f"not be larger than image_most ({self.image_most:g})", f"{self.image_least:g}")
        if self.gap_none >= self.gap_full:
            raise must("gap_none", f"be below gap_full ({self.gap_full:g})", f"{self.gap_none:g}")
        spread = (self.image_most - self.image_least) * self.image_probability
        if spread > self.largest_difference + 1e-9:
            law = f"be at most largest_difference ({self.largest_difference:g})"
            raise must("(image_most - image_least) * image_probability", law, f"{spread:g}")
        try:  # the plan's own fields check the rest
            ImagePolicy(operations=self.image_operations, layers=self.image_layers, probability=self.image_probability)
            FeaturePolicy(method="eos", strength=self.eos, share=self.eos_share, neighbors=self.neighbors)
        except pydantic.ValidationError as error:
            raise refusal("strengths", error) from None

    def share_for_gap(self, gap: float) -> float:
        """Return the fraction in [0, 1] of image augmentation and mixing that is kept at this gap.

        Args:
            gap: Mean training recall minus mean held-out recall.

        Example:
            >>> from diversify.plan import STRENGTHS
            >>> [round(STRENGTHS.share_for_gap(gap), 2) for gap in (0.05, 0.125, 0.3)]
            [0.0, 0.5, 1.0]
        """
        return min(1.0, max(0.0, (gap - self.gap_none) / (self.gap_full - self.gap_none)))

    def with_images(self, share: float) -> Strengths:
        """Return a copy in which image strengths, their probability and the mixing probability are multiplied by `share`."""
        mixing = self.mixing.model_copy(update={"probability": share * self.mixing.probability})
        return dataclasses.replace(
            self,
            image_least=share * self.image_least,
            image_most=share * self.image_most,
            image_probability=share * self.image_probability,
            mixing=mixing if share else Mixing(),
        )

    def usual(self, setting: Setting) -> float:
        """Return the value that a setting starts from when a rule gives a class a policy that it did not have before."""
        known = {
            "image.strength": self.image_least,
            "image.probability": self.image_probability,
            "mixing.probability": self.mixing.probability,
            "features.covariance.strength": self.covariance,
            "features.covariance.share": self.covariance_share,
            "features.eos.strength": self.eos,
            "features.eos.share": self.eos_share,
            "features.toward_enemies.share": self.enemies_share,
        }
        return known.get(setting.path, USUAL_SHARE if setting.name == "share" else 1.0)


STRENGTHS = Strengths()
"""The defaults."""
