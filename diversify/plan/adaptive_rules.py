"""The rules by which strengths change while a network trains: the table `RULES`."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptiveRule:
    """A rule that moves a class's strengths by one step if a measure is clearly low or high.

    Attributes:
        name: Name of the rule; reasons write "adaptive: " before it.
        evidence: Where the measure comes from.
        measure: "hits" (share of observed training views that are classified correctly), "hits_change" (its change since
            the previous decision), "leak", or a column of the diagnosis.
        side: "low" fires if the 95% interval lies below the mark, "high" if it lies above.
        mark: A fixed number to compare with.
        beside_mean: Compare with the mean over the classes too; the stricter of both counts.
        by_value: Compare the value itself instead of its interval.
        space: Which strengths move: those of the image policy or of the feature policies.
        direction: 1 is a step up, -1 a step down.
        text: The reason; may use {name}, {value}, {low}, {high} and {mark}.
        source: Paper.
    """

    name: str
    evidence: Literal["hits", "diagnosis", "leak"]
    measure: str
    side: Literal["low", "high"]
    mark: float | None = None
    beside_mean: bool = False
    by_value: bool = False
    space: Literal["image", "features"]
    direction: Literal[-1, 1]
    text: str
    source: str

    def mark_of(self, values: Tensor) -> float:
        """Return what each class is compared with; NaN if there is nothing to compare with.

        Args:
            values: The measure for every class, `(C,)`.
        """
        marks = [self.mark] if self.mark is not None else []
        if self.beside_mean:
            marks.append(float(values.nanmean()))
        if not marks:
            return math.nan
        return min(marks) if self.side == "low" else max(marks)

    def fires(self, value: float, low: float, high: float, mark: float) -> bool:
        """Return True if the class moves; unknown numbers (NaN) never move a class."""
        if self.by_value:
            return value > mark if self.side == "high" else value <= mark
        return low > mark if self.side == "high" else high < mark


# For each class and space the first rule that fires decides, so evidence against an augmentation comes before evidence for it.
RULES: tuple[AdaptiveRule, ...] = (
    AdaptiveRule(
        name="its policy leaks",
        evidence="leak",
        measure="leak",
        side="high",
        mark=0.0,
        space="image",
        direction=-1,
        text="{value:.1%} more held-out images of other classes are predicted as {name} when they are augmented as {name} is"
        " (95% interval from {low:.1%}).",
        source="leak guard: a class that is augmented more than others can be recognised by the artefacts of augmentation; weakening such"
        " policies was not seen to change accuracy (docs/results/pairs_and_leak.md)",
    ),
    AdaptiveRule(
        name="hits fell",
        evidence="hits",
        measure="hits_change",
        side="low",
        mark=0.0,
        space="image",
        direction=-1,
        text="the share of its training views that are classified correctly changed by {value:+.1%} [{low:+.1%}, {high:+.1%}]"
        " since the previous decision.",
        source="DODA (ICLR 2024): a step down where a class's training accuracy falls",
    ),
    AdaptiveRule(
        name="too few hits",
        evidence="hits",
        measure="hits",
        side="low",
        mark=0.6,
        by_value=True,
        space="image",
        direction=-1,
        text="{value:.0%} [{low:.0%}, {high:.0%}] of its training views are classified correctly, not more than {mark:.0%}.",
        source="CUDA (ICLR 2023): a level down unless more than 0.6 are correct",
    ),
    AdaptiveRule(
        name="little held-out diversity",
        evidence="diagnosis",
        measure="diversity_vendi_heldout",
        side="low",
        beside_mean=True,
        space="image",
        direction=1,
        text="the features of its held-out images are less diverse than those of other classes: Vendi score {value:.2f}"
        " [{low:.2f}, {high:.2f}], class mean {mark:.2f}.",
        source="Dablain et al. 2023: latent diversity matters as much as the number of examples",
    ),
    AdaptiveRule(
        name="enough hits",
        evidence="hits",
        measure="hits",
        side="high",
        mark=0.6,
        by_value=True,
        space="image",
        direction=1,
        text="{value:.0%} [{low:.0%}, {high:.0%}] of its training views are classified correctly, more than {mark:.0%}.",
        source="CUDA (ICLR 2023): a level up when more than 0.6 are correct",
    ),
    AdaptiveRule(
        name="top-K shrink on held-out images",
        evidence="diagnosis",
        measure="ce_magnitude_ratio",
        side="low",
        mark=1.0,
        beside_mean=True,
        space="features",
        direction=1,
        text="on held-out images its top-K features have {value:.0%} [{low:.0%}, {high:.0%}] of their training magnitude"
        " (reference {mark:.0%}).",
        source="Dablain et al. 2023: a class fails where its top-K magnitudes do not match training",
    ),
    AdaptiveRule(
        name="top-K hold on held-out images",
        evidence="diagnosis",
        measure="ce_magnitude_ratio",
        side="high",
        beside_mean=True,
        space="features",
        direction=-1,
        text="on held-out images its top-K features have {value:.0%} [{low:.0%}, {high:.0%}] of their training magnitude,"
        " more than the class mean of {mark:.0%}.",
        source="the previous rule in the opposite direction",
    ),
)
