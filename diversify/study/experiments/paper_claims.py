"""The paper's claims, each with its measure and the rule by which it is judged, and the verdicts from the records.

The rules were written before any record was made.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ...functional import magnitude, stats
from .paper import FEWEST_SEEDS, LOSSES, NETWORKS

NO_RECORDS = "No records yet."
HOLDS, DOES_NOT, UNTOLD = "holds", "does not hold", "cannot be told"
MATTERS = 0.1  # smallest relative difference that counts as a difference
OVERLAP_MATTERS = 0.05  # the same for shares of common features

Record = Mapping[str, Any]


def column(record: Record, network: str, name: str) -> Tensor:
    """Return a measure of a network, `(C,)` float64; NaN where undefined."""
    return _numbers(record["networks"][network][name])


def _between(record: Record, network: str, name: str) -> Tensor:
    return _numbers(record["against_balanced"][network][name])


def _numbers(values: Sequence[float | None]) -> Tensor:
    return torch.tensor([math.nan if value is None else value for value in values], dtype=torch.float64)


def rare(record: Record) -> Tensor:
    """Return `(C,)` True for the half of the classes that have the fewest images in imbalanced training."""
    count = column(record, "imbalanced", "count")
    found = torch.zeros(len(count), dtype=torch.bool)
    found[torch.argsort(count, stable=True)[: len(count) // 2]] = True
    return found


def _mean(values: Tensor) -> float:
    return float(values.nanmean())


def _ratio_of_rare(name: str) -> Callable[[Record], float]:
    """The mean over the rare classes, imbalanced over balanced, minus 1; a class counts if it has a value in both."""

    def effect(record: Record) -> float:
        first, second = (column(record, network, name) for network in ("balanced", "imbalanced"))
        both = rare(record) & first.isfinite() & second.isfinite()
        whole = _mean(first[both])
        return _mean(second[both]) / whole - 1 if whole > 0 else math.nan

    return effect


def _beyond_chance(name: str, sign: int) -> Callable[[Record], float]:
    """How much more the imbalanced network differs from the balanced one than another balanced one does, over the rare classes."""

    def effect(record: Record) -> float:
        difference = _between(record, "imbalanced", name) - _between(record, "again", name)
        return sign * _mean(difference[rare(record)])

    return effect


def unseen_over_train(record: Record, network: str, space: str) -> Tensor:
    """Return the magnitude of a class's top-K on test images over that on training images, `(C,)`."""
    train, test = (column(record, network, f"magnitude_{space}_{side}") for side in ("train", "test"))
    return magnitude.magnitude_ratio(train, test)


def _loss_of_rare(space: str) -> Callable[[Record], float]:
    return lambda record: 1 - _mean(unseen_over_train(record, "imbalanced", space)[rare(record)])


def _goes_with_recall(network: str, space: str) -> Callable[[Record], float]:
    return lambda record: stats.spearman(
        unseen_over_train(record, network, space), column(record, network, "recall_test")
    )


def _beyond_size(values: Callable[[Record], Tensor]) -> Callable[[Record], float]:
    def effect(record: Record) -> float:
        size = column(record, "imbalanced", "count").log()
        return stats.partial_spearman(values(record), column(record, "imbalanced", "recall_test"), size)

    return effect


def _hits_less_misses(record: Record) -> float:
    train, hits, misses = (column(record, "imbalanced", f"magnitude_ce_{side}") for side in ("train", "hits", "misses"))
    return _mean(((hits - misses) / train).where(train > 0, math.nan))


def _diversity(record: Record) -> Tensor:
    return column(record, "imbalanced", "diversity")


def _diversity_less_size(record: Record) -> float:
    recall, size = (column(record, "imbalanced", name) for name in ("recall_test", "count"))
    return stats.spearman(_diversity(record), recall) - stats.spearman(size, recall)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, its measure and its rule.

    Attributes:
        group: Heading under which it stands.
        says: What the paper says.
        measured: The effect in words.
        effect: Makes the effect of one record; NaN if it is undefined.
        threshold: The claim holds if the whole interval is above; it does not if the whole interval is below.
        two_sided: The claim is that there is a difference: it holds if the whole interval is above the threshold or below its
            negative, and does not if the whole interval lies between them.
    """

    group: str
    says: str
    measured: str
    effect: Callable[[Record], float]
    threshold: float
    two_sided: bool = False

    @property
    def rule(self) -> str:
        """The rule in words."""
        if self.two_sided:
            return f"holds beyond ±{self.threshold:g}, does not hold within"
        return f"holds above {self.threshold:g}, does not hold below"


@dataclasses.dataclass(frozen=True)
class Seen:
    """The mean effect over seeds, its 95% interval (Student's t), the number of seeds, and the verdict."""

    value: float
    low: float
    high: float
    seeds: int
    verdict: str

    def shown(self) -> str:
        """Return it as text; a dash if it is undefined."""
        if math.isnan(self.value):
            return "–"
        ends = "" if math.isnan(self.low) else f" ({self.low:+.2f} to {self.high:+.2f})"
        return f"{self.value:+.2f}{ends}"


FEW, DIFFERS, SPACES, UNSEEN, DIVERSE = (
    "A limited number of features carries a class",
    "The same class, imbalanced against balanced",
    "CE against FE",
    "Magnitude on unseen data",
    "Diversity against size",
)
BOTH = "names both as where the “information … resides”, and the abstract does not compare them"
LIMITED = "“a CNN learns a limited number of class top-K CE per category”"
VARY = "their “number and magnitudes vary based on whether the same class is balanced or imbalanced”"
INTRINSIC = (
    "“calls into question whether a CNN has learned intrinsic class features, or merely frequently occurring ones”"
)
MATCH = (
    "“difficulty generalizing to test data if the magnitude of its top-K latent features do not match the training set”"
)
AS_IMPORTANT = "“latent class diversity is as important as the number of class examples”"

CLAIMS = (
    Claim(
        group=FEW,
        says=LIMITED,
        measured="share of the positive mean CE of a class that its top-K hold",
        effect=lambda record: _mean(column(record, "imbalanced", "share_ce")),
        threshold=0.5,
    ),
    Claim(
        group=FEW,
        says=LIMITED,
        measured="share of the features that the decision for a recognised test image can do without",
        effect=lambda record: 1 - _mean(column(record, "imbalanced", "needed")) / record["num_features"],
        threshold=0.75,
    ),
    Claim(
        group=DIFFERS,
        says=VARY,
        measured="number of CE needed, on the same test images: imbalanced over balanced, minus 1",
        effect=_ratio_of_rare("needed_shared"),
        threshold=MATTERS,
        two_sided=True,
    ),
    Claim(
        group=DIFFERS,
        says=VARY,
        measured="magnitude of the top-K CE, on the same training images: imbalanced over balanced, minus 1",
        effect=_ratio_of_rare("magnitude_ce_shared"),
        threshold=MATTERS,
        two_sided=True,
    ),
    Claim(
        group=DIFFERS,
        says=VARY,
        measured="magnitude of the top-K FE, on the same training images: imbalanced over balanced, minus 1",
        effect=_ratio_of_rare("magnitude_fe_shared"),
        threshold=MATTERS,
        two_sided=True,
    ),
    Claim(
        group=DIFFERS,
        says=INTRINSIC,
        measured="frequency with which each CE is needed: distance to the balanced network, beyond that of another balanced one",
        effect=_beyond_chance("frequency", 1),
        threshold=OVERLAP_MATTERS,
    ),
    Claim(
        group=DIFFERS,
        says=INTRINSIC,
        measured="identity of the top-K CE: share that differs from the balanced network, beyond that of another balanced one",
        effect=_beyond_chance("identity_ce", -1),
        threshold=OVERLAP_MATTERS,
    ),
    Claim(
        group=DIFFERS,
        says=INTRINSIC,
        measured="identity of the top-K FE: the same",
        effect=_beyond_chance("identity_fe", -1),
        threshold=OVERLAP_MATTERS,
    ),
    Claim(
        group=SPACES,
        says=BOTH,
        measured="share of common features in the top-K CE and the top-K FE of a class",
        effect=lambda record: _mean(column(record, "imbalanced", "overlap_spaces")),
        threshold=0.5,
    ),
    Claim(
        group=SPACES,
        says=BOTH,
        measured="share of common top-K features of two classes: FE minus CE, so that above 0 CE sets classes further apart",
        effect=lambda record: _mean(
            column(record, "imbalanced", "overlap_classes_fe") - column(record, "imbalanced", "overlap_classes_ce")
        ),
        threshold=OVERLAP_MATTERS,
    ),
    Claim(
        group=SPACES,
        says=BOTH,
        measured="rank correlation over classes of test recall with top-K magnitude, test over train: CE minus FE",
        effect=lambda record: (
            _goes_with_recall("imbalanced", "ce")(record) - _goes_with_recall("imbalanced", "fe")(record)
        ),
        threshold=0.0,
    ),
    Claim(
        group=UNSEEN,
        says=MATCH,
        measured="how much smaller the magnitude of the top-K CE is on test than on training images, rare classes",
        effect=_loss_of_rare("ce"),
        threshold=OVERLAP_MATTERS,
    ),
    Claim(
        group=UNSEEN,
        says=MATCH,
        measured="how much smaller the magnitude of the top-K FE is on test than on training images, rare classes",
        effect=_loss_of_rare("fe"),
        threshold=OVERLAP_MATTERS,
    ),
    Claim(
        group=UNSEEN,
        says=MATCH,
        measured="rank correlation over classes of test recall with the magnitude of the top-K CE, test over train",
        effect=_goes_with_recall("imbalanced", "ce"),
        threshold=0.0,
    ),
    Claim(
        group=UNSEEN,
        says=MATCH,
        measured="the same beyond class size (log n)",
        effect=_beyond_size(lambda record: unseen_over_train(record, "imbalanced", "ce")),
        threshold=0.0,
    ),
    Claim(
        group=UNSEEN,
        says=MATCH,
        measured="the same correlation in balanced training, where all classes have the same size",
        effect=_goes_with_recall("balanced", "ce"),
        threshold=0.0,
    ),
    Claim(
        group=UNSEEN,
        says=MATCH,
        measured="magnitude of the top-K CE of recognised minus missed test images, over that on training images"
        " (in part by construction: CE sum to the logit)",
        effect=_hits_less_misses,
        threshold=0.0,
    ),
    Claim(
        group=DIVERSE,
        says=AS_IMPORTANT,
        measured="rank correlation with test recall over classes: diversity minus size",
        effect=_diversity_less_size,
        threshold=-0.1,
    ),
    Claim(
        group=DIVERSE,
        says=AS_IMPORTANT,
        measured="rank correlation of diversity with test recall beyond class size (log n)",
        effect=_beyond_size(_diversity),
        threshold=0.0,
    ),
    Claim(
        group=DIVERSE,
        says=AS_IMPORTANT,
        measured="rank correlation of diversity with test recall in balanced training, where all classes have the same size",
        effect=lambda record: stats.spearman(
            column(record, "balanced", "diversity"), column(record, "balanced", "recall_test")
        ),
        threshold=0.0,
    ),
)


def judged(claim: Claim, records: Sequence[Record]) -> Seen:
    """Return the effect of a claim over the seeds of one loss, and the verdict by the claim's rule."""
    values = [value for value in (claim.effect(record) for record in records) if math.isfinite(value)]
    if not values:
        return Seen(math.nan, math.nan, math.nan, 0, UNTOLD)
    low, high = stats.mean_interval(values)
    verdict = UNTOLD
    if len(values) >= FEWEST_SEEDS:
        verdict = _verdict(claim, low, high)
    return Seen(fmean(values), low, high, len(values), verdict)


def _verdict(claim: Claim, low: float, high: float) -> str:
    limit = claim.threshold
    if claim.two_sided:
        if low > limit or high < -limit:
            return HOLDS
        return DOES_NOT if -limit <= low and high <= limit else UNTOLD
    return HOLDS if low > limit else DOES_NOT if high < limit else UNTOLD


def overall(verdicts: Sequence[str]) -> str:
    """Return the verdict that all losses share; otherwise it cannot be told."""
    return verdicts[0] if len(set(verdicts)) == 1 else UNTOLD


def by_loss(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records of each loss, those of the paper first and in their order."""
    found: dict[str, list[Record]] = {loss: [] for loss in LOSSES}
    for record in records:
        found.setdefault(record["loss"], []).append(record)
    return {loss: sorted(own, key=lambda one: one["seed"]) for loss, own in found.items() if own}


def verdicts(records: Sequence[Record]) -> list[tuple[Claim, dict[str, Seen], str]]:
    """Return each claim with what each loss shows and the verdict over all losses. The records are of one design."""
    losses = by_loss(records)
    found = []
    for claim in CLAIMS:
        seen = {loss: judged(claim, own) for loss, own in losses.items()}
        found.append((claim, seen, overall([one.verdict for one in seen.values()])))
    return found


def table(records: Sequence[Record]) -> str:
    """Return the claims as a table: claim, what the paper says, what is seen, verdict. The records are of one design."""
    if not records:
        return NO_RECORDS
    rows = ["| claim, as measured | what the paper says | what is seen | verdict |", "|:--|:--|:--|:--|"]
    group = ""
    for claim, seen, verdict in verdicts(records):
        if claim.group != group:
            group = claim.group
            rows.append(f"| **{group}** | | | |")
        shown = "<br>".join(
            f"{loss} {one.shown()}" + (f": {one.verdict}" if verdict != one.verdict else "")
            for loss, one in seen.items()
        )
        rows.append(f"| {claim.measured} | {claim.says} | {shown} | **{verdict}** |")
    return "\n".join(rows)


def rules() -> str:
    """Return the measure and the rule of every claim as a table."""
    rows = ["| claim | effect | rule |", "|:--|:--|:--|"]
    rows += [f"| {claim.group} | {claim.measured} | {claim.rule} |" for claim in CLAIMS]
    return "\n".join(rows)


def line_of(record: Record) -> str:
    """Return one line that says what the three networks of a loss and a seed reach."""
    recall = {name: float(column(record, name, "recall_test").nanmean()) for name in NETWORKS}
    shown = ", ".join(f"{name} {value:.1%}" for name, value in recall.items())
    return f"{record['loss']}, seed {record['seed']}: balanced accuracy {shown}; {record['seconds']:.1f} s"
