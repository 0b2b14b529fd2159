"""How strongly a plan acts: the numbers behind its rules."""

from __future__ import annotations

import dataclasses
import math

import pydantic

from ..errors import must
from ..files.schema import refusal
from .policies import LARGEST_DIFFERENCE, VARIED, FeaturePolicy, ImagePolicy, Mixing, PriorCorrection, Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strengths:
    """Every number that plans are made with; the same for a made plan and for its controls.

    What is graded by rarity holds for the rarest class, and less for the others in proportion. `rarity` is
    1 - log n / log n_max, scaled to 1 for the rarest class.

    Attributes:
        draws_exponent: A class is drawn in proportion to n to this power: 1 as the images come, 0 evenly. The loss takes the
            drawn prior out either way; in training, images that come more often are learned by heart.
        covariance: Strength of the covariance noise of the rarest class.
        covariance_share: Share of the rarest class's draws that get it.
        eos: How far toward the enemy, of the whole way.
        eos_share: Share of the rarest class's draws that go there.
        enemies_share: Share of a class's draws that go toward its enemies, where `make_plan` finds a magnitude gap.
        magnitude_share: Share of a class's draws whose top-K are shrunk, where a rule of your own asks for it.
        neighbors: k of the feature methods.
        image_operations: What is done to images.
        image_layers: How many of them, one after the other.
        image_least: Strength for the largest class, where some class is rare.
        image_most: Strength for the rarest class.
        image_probability: Share of the draws of every class that are varied.
        gap_none: A plan made from a diagnosis varies and mixes no images where recall on training images is ahead of that
            on held-out ones by this at most, as a mean over the classes: there is little that is known by heart.
        gap_full: From this on it does so in full; between the two strengths and probabilities rise in proportion.
        gap_images: With fewer held-out images it does so in full whatever the gap, which they do not show.
        mixing: With what the images of every class are mixed, where some class is rare.
        prior_correction: Of the run.
        schedule: Of the run.
        images_per_epoch: Of the run.
        largest_difference: Of the run.
        draws_gain: How much more often a class is drawn, as a multiple, per share of recall that the evidence shows missing.
        covariance_gain: Strength of covariance noise per share of recall, or per relative lack of diversity.
        eos_gain: Share of the draws per share of images among other classes, or per relative excess of the range gap.
        enemies_gain: How far toward the enemies a class goes, at most, per share of top-K magnitude lost: a row goes half
            as far on average.
        magnitude_gain: Strength of magnitude matching per share of top-K magnitude lost, for a rule of your own.
        image_gain: Strength of the image policy per relative lack of diversity, or share of top-K that are others.
        found_gain: Which part of its feature policies a class gives up per share of recall by which it is above the mean.
    """

    draws_exponent: float = 1.0
    covariance: float = 0.67
    covariance_share: float = 0.7
    eos: float = 1.0
    eos_share: float = 0.3
    enemies_share: float = 1.0
    magnitude_share: float = 0.2
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
    magnitude_gain: float = 1.0
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
        try:  # the laws of the plan's own fields
            ImagePolicy(operations=self.image_operations, layers=self.image_layers, probability=self.image_probability)
            FeaturePolicy(method="eos", strength=self.eos, share=self.eos_share, neighbors=self.neighbors)
        except pydantic.ValidationError as error:
            raise refusal("strengths", error) from None

    def share_for_gap(self, gap: float) -> float:
        """What part of the image policies and the mixing is left where training recall is ahead of held-out recall by `gap`."""
        return min(1.0, max(0.0, (gap - self.gap_none) / (self.gap_full - self.gap_none)))

    def with_images(self, share: float) -> Strengths:
        """With this part of the strength and the probability of the image policies, and of the mixing."""
        mixing = self.mixing.model_copy(update={"probability": share * self.mixing.probability})
        return dataclasses.replace(
            self,
            image_least=share * self.image_least,
            image_most=share * self.image_most,
            image_probability=share * self.image_probability,
            mixing=mixing if share else Mixing(),
        )

    def usual(self, path: str) -> float:
        """What a class starts with that a rule gives something which it had none of before, at a path of `PATHS`."""
        known = {
            "image.strength": self.image_least,
            "image.probability": self.image_probability,
            "mixing.probability": self.mixing.probability,
            "features.covariance.strength": self.covariance,
            "features.covariance.share": self.covariance_share,
            "features.eos.strength": self.eos,
            "features.eos.share": self.eos_share,
            "features.toward_enemies.share": self.enemies_share,
            "features.magnitude.share": self.magnitude_share,
        }
        return known.get(path, self.magnitude_share if path.endswith(".share") else 1.0)


STRENGTHS = Strengths()
