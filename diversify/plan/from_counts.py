"""The plan that follows from class sizes alone, with its reasons: where every plan starts."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..diagnosis.measure import class_names_of
from ..errors import must
from ..functional.labels import ClassNames, in_class_order
from .policies import LEAST_SHARE, FeatureMethod, FeaturePolicy, ImagePolicy, Reason
from .strengths import Strengths


def rarity(class_counts: Sequence[int] | Tensor) -> list[float]:
    """The rarity of every class: 1 - log n / log n_max, scaled to 1 for the rarest class.

    Args:
        class_counts: Training images per class.

    Returns:
        One number in [0, 1] per class: 0 for the largest class and for classes without images, and 0 for all classes if
        their counts are equal.

    Example:
        >>> from diversify.plan import rarity
        >>> [round(value, 2) for value in rarity([1000, 100, 10])]
        [0.0, 0.5, 1.0]
    """
    counts = class_counts.tolist() if isinstance(class_counts, Tensor) else list(class_counts)
    present = [count for count in counts if count]
    if not present or min(present) == max(present):
        return [0.0] * len(counts)
    largest, whole = math.log(max(present)), math.log(max(present)) - math.log(min(present))
    return [(largest - math.log(count)) / whole if count else 0.0 for count in counts]


def counted(
    class_names: ClassNames, class_counts: Sequence[int] | Mapping[Any, int] | Tensor
) -> tuple[list[str], list[int]]:
    """Return names and counts as a plan holds them.

    Raises:
        InputError: not one count per name, a count is not a whole number from 0 on, or there is no image at all.
    """
    listed = [*class_names_of(class_names, len(class_names))] if isinstance(class_names, Mapping) else class_names
    names = list(map(str, listed))
    ordered: Any = in_class_order("class_counts", class_counts, len(names), names, absent=0)
    given = ordered.tolist() if isinstance(ordered, Tensor) else list(ordered)
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


def drawn_shares(counts: Sequence[int], exponent: float) -> list[float]:
    """The share of the draws of every class, in proportion to its count to the power of `exponent`."""
    weights = [float(count) ** exponent if count else 0.0 for count in counts]
    return normalised(weights)


def normalised(weights: Sequence[float]) -> list[float]:
    """The weights divided by their sum, rounded to eight digits to keep plans readable."""
    total = math.fsum(weights)
    return [float(f"{weight / total:.8g}") for weight in weights]


def tidy(value: float) -> float:
    """Round to four places, as plans write strengths and shares."""
    return round(value, 4)


def graded_values(
    names: Sequence[str], counts: Sequence[int], levels: Sequence[float], strengths: Strengths, *, made_from: str
) -> dict[str, Any]:
    """The values of a plan in which every class is treated by its level.

    Args:
        names: Names of the classes.
        counts: Training images per class.
        levels: One number in [0, 1] per class: its rarity, or the same for all classes.
        strengths: The numbers to make the plan with.
        made_from: "counts" or "uniform".
    """
    any_rare, largest = any(levels) or any(rarity(counts)), max(counts)
    classes = []
    draws, natural = drawn_shares(counts, strengths.draws_exponent), drawn_shares(counts, 1.0)
    for name, count, share, own, level in zip(names, counts, draws, natural, levels, strict=True):
        basis = _Basis(
            count=count,
            largest=largest,
            words=f"{count:,} training image{'s' * (count != 1)}, rarity {level:.2f} (0 largest class, 1 rarest)"
            if made_from == "counts"
            else f"every class is treated as if its rarity were {level:.2f}",
            rule="rarity" if made_from == "counts" else "uniform",
        )
        one: dict[str, Any] = {"name": name, "count": count, "draws": share, "reasons": []}
        if count and share != own:
            text = (
                f"{count:,} training images: drawn {share / own:.2f} times as often as with every image once an epoch, because"
                f" draws are proportional to (class size)^{strengths.draws_exponent:g}"
            )
            one["reasons"].append(basis.reason("draws", text, "Kang et al. 2020, eq. 1"))
        if count and any_rare:
            one |= _image_of(level, strengths, basis, one["reasons"])
            one["mixing"] = strengths.mixing
            if strengths.mixing.method != "none":
                text = f"{strengths.mixing.method} is applied to {strengths.mixing.probability:.0%} of the draws of every class"
                one["reasons"].append(basis.reason("mixing", text, "Park et al. 2022 (CMO)"))
            one["features"] = _features_of(level, strengths, basis, one["reasons"])
        classes.append(one)
    return {"made_from": made_from, "classes": classes, **_of_the_run(strengths, largest)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Basis:
    """The basis of choices that are made from class sizes and not from measures of the network."""

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
    strength = tidy(strengths.image_least + (strengths.image_most - strengths.image_least) * level)
    if not (strength and strengths.image_probability and strengths.image_operations):
        return {}
    text = (
        f"{basis.words}: images are augmented at strength {strength:.2f} in {strengths.image_probability:.0%} of its draws."
        f" Every class gets at least strength {strengths.image_least:.2f}, so that the network cannot learn that augmented"
        " means rare"
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
            "noise with the covariance of larger classes is added to its features",
            "Yin et al. 2019 (FTL), with the noise of Wang et al. 2019 (ISDA)",
        ),
        (
            "eos",
            strengths.eos,
            strengths.eos_share * level,
            "its features are moved toward their nearest neighbours of other classes",
            "Dablain et al. 2022 (EOS)",
        ),
    )
    policies = []
    for method, strength, share, does, source in kinds:
        if tidy(strength) and tidy(share) >= LEAST_SHARE:
            policies.append(
                FeaturePolicy(method=method, strength=tidy(strength), share=tidy(share), neighbors=strengths.neighbors)
            )
            text = f"{basis.words}: {does}, at strength {strength:.2f} in {share:.0%} of its draws"
            reasons.append(basis.reason(f"features.{method}", text, source))
    return tuple(policies)


def _of_the_run(strengths: Strengths, largest: int) -> dict[str, Any]:
    """The settings of the whole run, with their reasons."""
    basis = _Basis(count=largest, largest=largest, words="", rule="run")
    correction = strengths.prior_correction
    reasons = []
    if correction.training or correction.after:
        text = (
            f"the logits are corrected for the class prior of the draws: {correction.training:g} times its logarithm is added in"
            f" the loss, and {correction.after:g} times its logarithm is subtracted after training"
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
