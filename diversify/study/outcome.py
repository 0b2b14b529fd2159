"""Several ways of training, compared on the test images by which images each network predicts correctly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from scipy.stats import norm, t
from torch import Tensor

from ..functional import stats
from ..functional.metrics import confusion_matrix, recall
from ..repair.metric import balanced_difference


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainingWay:
    """One way of training: its networks, one for each seed.

    Attributes:
        name: The name of the way.
        meaning: What it does, in a sentence.
        source: The publication it comes from.
        balanced_accuracy_val: Balanced accuracy on the validation set, one value per seed; NaN where its images were trained on.
        right: `(S, N)`, whether each of the S networks predicts each of the N test images correctly.
    """

    name: str
    meaning: str
    source: str
    balanced_accuracy_val: tuple[float, ...]
    right: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WaysOutcome:
    """The comparison of ways of training on the same test images; M ways, S seeds, C classes.

    Intervals are 95% intervals. Those of recall and accuracy are over test images, where an image counts by the share of
    networks that predict it correctly. Those of gains are over test images and training seeds.

    Attributes:
        names: The names of the ways; the others are compared with the first.
        meanings: What each does.
        sources: The publication each comes from.
        accuracy_val: `(M, S)` balanced accuracy on the validation set.
        accuracy: `(M, S)` balanced accuracy on the test set.
        low: `(M,)` lower end of the interval of the mean over seeds.
        high: `(M,)` upper end.
        gain: `(M, M)` balanced accuracy of the row's way minus that of the column's, as a share.
        gain_low: `(M, M)` lower end of its interval.
        gain_high: `(M, M)` upper end.
        recall: `(M, C)` test recall, mean over seeds.
        recall_low: `(M, C)` lower end of its interval.
        recall_high: `(M, C)` upper end.
    """

    names: tuple[str, ...]
    meanings: tuple[str, ...]
    sources: tuple[str, ...]
    accuracy_val: Tensor
    accuracy: Tensor
    low: Tensor
    high: Tensor
    gain: Tensor
    gain_low: Tensor
    gain_high: Tensor
    recall: Tensor
    recall_low: Tensor
    recall_high: Tensor

    @property
    def balanced_accuracy(self) -> Tensor:
        """`(M,)` balanced accuracy on the test set, mean over seeds."""
        return self.accuracy.mean(1)

    def seed_gain(self, one: int, other: int) -> list[float]:
        """Return the gain of one way over another, seed by seed."""
        return [float(value) for value in self.accuracy[one] - self.accuracy[other]]

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as JSON values; `accuracy_val` has None for a way without validation images."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        known = [None if math.isnan(sum(row)) else row for row in self.accuracy_val.tolist()]
        values["accuracy_val"] = known
        return {name: value.tolist() if isinstance(value, Tensor) else list(value) for name, value in values.items()}


def outcome_of(ways: Sequence[TrainingWay], labels: Tensor, num_classes: int) -> WaysOutcome:
    """Return the comparison of ways of training.

    Args:
        ways: The ways; the others are compared with the first.
        labels: `(N,)` labels of the test images; every class has at least one.
        num_classes: C.
    """
    seeds = [[_balanced(row, labels, num_classes) for row in way.right] for way in ways]
    shares = [way.right.double().mean(0) for way in ways]
    known = torch.zeros(len(ways), num_classes, dtype=torch.float64)
    for place, share in enumerate(shares):
        known[place].index_add_(0, labels, share)
    totals = torch.bincount(labels, minlength=num_classes).expand_as(known)
    low, high = stats.wilson_interval(known, totals)
    ends = [stats.mean_share_interval(*row) for row in zip(known / totals, low, high, strict=True)]
    pairs = [[balanced_difference(one, other, labels, num_classes) for other in shares] for one in shares]
    gain, image_error = torch.tensor(pairs, dtype=torch.float64).unbind(-1)
    accuracy = torch.tensor(seeds, dtype=torch.float64)
    rows = [[way.right[seed].double() for way in ways] for seed in range(accuracy.shape[1])]
    seed_errors = torch.stack([_errors(one, labels, num_classes) for one in rows])
    width = _half_width(accuracy, image_error, seed_errors, len(labels))
    return WaysOutcome(
        names=tuple(way.name for way in ways),
        meanings=tuple(way.meaning for way in ways),
        sources=tuple(way.source for way in ways),
        accuracy_val=torch.tensor([way.balanced_accuracy_val for way in ways], dtype=torch.float64),
        accuracy=accuracy,
        low=torch.tensor([one for one, _ in ends], dtype=torch.float64),
        high=torch.tensor([one for _, one in ends], dtype=torch.float64),
        gain=gain,
        gain_low=gain - width,
        gain_high=gain + width,
        recall=known / totals,
        recall_low=low,
        recall_high=high,
    )


def _errors(right: Sequence[Tensor], labels: Tensor, num_classes: int) -> Tensor:
    """Return the standard errors over test images of all gains of one seed, `(M, M)`."""
    pairs = [[balanced_difference(one, other, labels, num_classes)[1] for other in right] for one in right]
    return torch.tensor(pairs, dtype=torch.float64)


def _half_width(accuracy: Tensor, mean_error: Tensor, seed_errors: Tensor, num_images: int) -> Tensor:
    """Return half the width of the 95% intervals of all gains, `(M, M)`.

    A gain varies with the test images and with the training seeds. The error of the mean over seeds covers the images and
    the interaction of seeds and images; the variance between seeds covers the seeds and the same interaction, which is
    taken out once. Degrees of freedom are Welch's and Satterthwaite's. A single seed says nothing about other seeds: its
    interval is over test images alone.

    Args:
        accuracy: `(M, S)` of M ways and S seeds.
        mean_error: `(M, M)` standard errors over test images of the gains averaged over seeds.
        seed_errors: `(S, M, M)` the same of the gains of each seed.
        num_images: Number of test images.
    """
    num_seeds = accuracy.shape[1]
    images = mean_error.square()
    if num_seeds < 2:
        return float(norm.ppf(0.975)) * mean_error
    by_seed = accuracy.unsqueeze(1) - accuracy.unsqueeze(0)  # (M, M, S)
    between = by_seed.var(-1) / num_seeds
    interaction = (seed_errors.square().mean(0) - images).clamp(min=0) / (num_seeds - 1)
    seeds = (between - interaction).clamp(min=0)
    total = images + seeds
    freedom = total.square() / (seeds.square() / (num_seeds - 1) + images.square() / (num_images - 1)).clamp(min=1e-30)
    quantiles = torch.from_numpy(t.ppf(0.975, freedom.clamp(min=1).numpy()))
    return quantiles * total.sqrt()


def _balanced(right: Tensor, labels: Tensor, num_classes: int) -> float:
    """Return the balanced accuracy of one network; wrong predictions count as an extra class."""
    matrix = confusion_matrix(labels, torch.where(right.bool(), labels, num_classes), num_classes + 1)
    return float(recall(matrix)[:num_classes].nanmean())
