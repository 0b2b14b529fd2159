"""Suspected label errors by confident learning, and how many of them a model's own errors explain."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import binom
from sklearn.metrics import roc_auc_score
from torch import Tensor

from .counts import class_counts
from .optimize import minimize
from .stats import holm

_Array = np.ndarray[Any, np.dtype[np.float64]]
_LEAST = 1e-12  # smallest probability that is told from 0
_WORK = 2e8  # rows x classes x iterations of a calibration, at most
_MOST, _FEWEST = 60, 5  # iterations
_CACHED = 1 << 18  # numbers at a time: 2 MB
_STARTS = ((-0.5, -4.0), (0.7, -2.0))  # log scale and log odds of the noise: unsure labels, or wrong ones
_MOST_NOISE = 0.4  # share of random labels beyond which no class is judged
_MARGIN, _FLOOR = 1.1, 0.01  # suspects are too many beyond 1.1 times the expected share plus 1%
FEWEST_ROWS = 20  # of a class that is judged: with fewer, the classifier hardly knows the class
ALIKE = 0.65  # AUC up to which rows of one class are taken for rows of another
FEWEST_ERRORS = 15  # rows of one class that are predicted as another, so that the two can be compared
_LEAST_RECALL, _LEAST_SHARE = 0.7, 0.1  # of the class that they are predicted as; of their own class that they make up
_COMPARED = 300  # rows of each class that are compared, at most
_RIDGE = 0.3  # of the discriminant, per dimension of standardised features


class Suspects(NamedTuple):
    """Rows whose label is suspect, the most suspect first.

    Attributes:
        rows: `(S,)` int64, places among the rows.
        suggested: `(S,)` int64, the class that each row rather belongs to.
        score: `(S,)` in (0, 1], how much more probable the most probable other class is than the given one.

    Example:
        >>> probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.95, 0.05]])
        >>> suspect_labels(probabilities, torch.tensor([0, 0, 1, 1, 1])).rows
        tensor([4])
    """

    rows: Tensor
    suggested: Tensor
    score: Tensor


class Calibrated(NamedTuple):
    """Probabilities that match the labels, and the share of labels that they do not explain.

    Attributes:
        probabilities: `(N, C)` float64, of classes as large as in the labels.
        noise: Share of the labels that are independent of the features; some of these are right by chance.

    Example:
        >>> probabilities = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).repeat(20, 1)
        >>> calibrate(probabilities, torch.arange(40) % 2).probabilities.shape
        torch.Size([40, 2])
    """

    probabilities: Tensor
    noise: float


class Expectation(NamedTuple):
    """How many labels would be suspect if all were right.

    Attributes:
        share: `(C,)` float64, the expected share of each class's rows; NaN for a class without rows.
        noise: Share of all labels that are independent of the features.

    Example:
        >>> probabilities = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).repeat(20, 1)
        >>> expected_suspects(probabilities, torch.arange(40) % 2).share.shape
        torch.Size([2])
    """

    share: Tensor
    noise: float


def class_thresholds(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return for each class the mean probability of the class over the rows that are labelled so.

    Args:
        probabilities: `(N, C)`, of rows that the classifier was not fitted on.
        labels: `(N,)` int64.

    Returns:
        `(C,)` float64; NaN for a class without rows.

    References:
        Northcutt, Jiang and Chuang (2021), Confident learning: estimating uncertainty in dataset labels, equation 2.

    Example:
        >>> class_thresholds(torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]), torch.tensor([0, 0, 1])).tolist()
        [0.625, 0.75]
    """
    num_classes = probabilities.shape[1]
    own = probabilities.gather(1, labels[:, None])[:, 0].double()
    total = torch.zeros(num_classes, dtype=torch.float64, device=own.device).index_add_(0, labels, own)
    return total / class_counts(labels, num_classes)


def likely_classes(probabilities: Tensor, thresholds: Tensor) -> Tensor:
    """Return the class that each row is confidently in: the most probable one among those at or above their threshold.

    Args:
        probabilities: `(N, C)`.
        thresholds: `(C,)`, of `class_thresholds`; no row is in a class whose threshold is NaN.

    Returns:
        `(N,)` int64; -1 for a row below every threshold.

    Example:
        >>> likely_classes(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0.8, 0.5])).tolist()
        [0, -1]
    """
    reached = probabilities.double() >= thresholds
    values, classes = torch.where(reached, probabilities.double(), -1.0).max(1)
    return torch.where(values >= 0, classes, -1)


def suspect_labels(probabilities: Tensor, labels: Tensor) -> Suspects:
    """Return the rows whose label is suspect, by the rule of confident learning.

    A row is suspect if the probability of another class is at least the threshold of that class, is the largest that
    reaches its threshold, and is above the probability of the row's own label. The rows are ranked by the normalised
    margin.

    Args:
        probabilities: `(N, C)`, of rows that the classifier was not fitted on, as from cross-fitting.
        labels: `(N,)` int64, the given labels.

    Returns:
        The suspect rows, the largest score first.

    References:
        Northcutt, Jiang and Chuang (2021), Confident learning: estimating uncertainty in dataset labels, Journal of
        Artificial Intelligence Research 70, arXiv:1911.00068: equations 1 and 2, ranked by the normalised margin.

    Example:
        >>> probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.95, 0.05]])
        >>> found = suspect_labels(probabilities, torch.tensor([0, 0, 1, 1, 1]))
        >>> found.rows.tolist(), found.suggested.tolist(), [round(score, 2) for score in found.score.tolist()]
        ([4], [0], [0.9])
    """
    likely = likely_classes(probabilities, class_thresholds(probabilities, labels))
    own = probabilities.gather(1, labels[:, None])[:, 0].double()
    there = probabilities.gather(1, likely.clamp(min=0)[:, None])[:, 0].double()
    rows = ((likely >= 0) & (likely != labels) & (there > own)).nonzero()[:, 0]
    others = probabilities[rows].double().scatter(1, labels[rows][:, None], -1.0)
    score = others.amax(1) - own[rows] if len(rows) else own[rows]
    order = score.argsort(descending=True, stable=True)
    return Suspects(rows[order], likely[rows][order], score[order])


def calibrate(probabilities: Tensor, labels: Tensor) -> Calibrated:
    """Return the probabilities under which the labels are most likely if a share of them is random.

    The log probability of each class is scaled and shifted (vector scaling). With probability 1 - noise, a label is a draw
    from the result, else it is independent of the features. Without this second part, wrong labels would make the
    classifier look unsure of right ones. Each class has a frequency of its own among the random labels. Shifts, and
    deviations of a class from the common scale and from the frequency in all labels, have a standard normal prior.

    Args:
        probabilities: `(N, C)` of equally large classes, as from `ceiling.cross_fit` with balanced weights.
        labels: `(N,)` int64.

    Returns:
        Calibrated probabilities and the noise.

    References:
        Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks, for vector scaling.

    Example:
        >>> sure = torch.tensor([[0.99, 0.01], [0.01, 0.99]]).repeat(50, 1)
        >>> labels = torch.tensor([0, 1] * 35 + [1, 0] * 15)  # 30 of 100 in the class that was given 1%
        >>> found = calibrate(sure, labels)
        >>> bool(found.probabilities.amax() < 0.8) or found.noise > 0.4
        True
    """
    model = _LabelModel(probabilities, labels)
    iterations = int(min(_MOST, max(_FEWEST, _WORK / max(probabilities.numel(), 1))))
    limits = [(-4.0, 4.0), (-12.0, 2.0), *[(-6.0, 6.0)] * (3 * model.num_classes)]
    fits = [
        minimize(model.loss, start, limits=limits, maxiter=iterations)
        for first in _STARTS
        for start in [np.concatenate([first, np.zeros(3 * model.num_classes)])]
    ]
    found = min(fits, key=lambda fit: float(fit.fun)).x
    return Calibrated(model.chances(found).to(labels.device), float(model.random_labels(found).sum()))


class _LabelModel:
    """The likelihood of labels under scaled and shifted log probabilities and a share of random labels.

    Parameters are one vector: the log scale, the log odds of the noise, then for each class the deviation of its log scale,
    its shift, and the deviation of its log odds among random labels.
    """

    def __init__(self, probabilities: Tensor, labels: Tensor) -> None:
        self.rows, self.num_classes = probabilities.shape
        self.own = labels.cpu()
        share = class_counts(self.own, self.num_classes).double().clamp(min=_LEAST).numpy() / self.rows
        self.log_prior: _Array = np.log(share)
        # (C, n) each: sums over the classes then run along memory, and a block stays in the cache
        self.size = max(1, _CACHED // self.num_classes)
        self.blocks = []
        for part, own in zip(probabilities.split(self.size), self.own.split(self.size), strict=True):
            logits = part.detach().cpu().double().clamp_(min=_LEAST).log_().T.contiguous()
            self.blocks.append((logits, own, logits.gather(0, own[None])[0]))

    def chances(self, parameters: _Array) -> Tensor:
        """The calibrated probabilities `(N, C)`."""
        scale, shift = self._scale_and_shift(parameters)
        chances = torch.empty(self.rows, self.num_classes, dtype=torch.float64)
        for rows, (logits, _, _) in zip(chances.split(self.size), self.blocks, strict=True):
            odds = _odds(logits, scale, shift)
            rows.copy_((odds / odds.sum(0)).T)
        return chances

    def random_labels(self, parameters: _Array) -> _Array:
        """The share of all labels that is random and falls into each class, `(C,)`."""
        odds = np.exp(parameters[1] + self._parts(parameters)[3] + self.log_prior)
        share: _Array = odds / (1 + odds.sum())
        return share

    def loss(self, parameters: _Array) -> tuple[float, _Array]:
        """The negative log posterior, and its gradient."""
        noise, (scale, shift) = self.random_labels(parameters), self._scale_and_shift(parameters)
        shares, clean, loss = torch.from_numpy(noise), 1 - float(noise.sum()), 0.0
        by_scale, by_shift, by_label = (torch.zeros(self.num_classes, dtype=torch.float64) for _ in range(3))
        for logits, own, own_logit in self.blocks:
            odds = _odds(logits, scale, shift)
            total = odds.sum(0)
            right = odds.gather(0, own[None])[0].mul_(clean).div_(total)
            mixed = shares.index_select(0, own).add_(right).clamp_(min=_LEAST)
            loss -= float(mixed.log().sum())
            weight = right.div_(mixed)  # how sure it is that the label is no random one
            part = weight / total
            by_shift += (odds @ part).index_add_(0, own, weight, alpha=-1)
            by_scale += (odds.mul_(logits) @ part).index_add_(0, own, weight.mul_(own_logit), alpha=-1)
            by_label.index_add_(0, own, mixed.reciprocal_())
        scaled = by_scale.mul_(scale).numpy()
        by_noise = noise * (self.rows - by_label.numpy())
        penalty = parameters[2:]
        gradient = np.concatenate([[scaled.sum(), by_noise.sum()], scaled, by_shift.numpy(), by_noise])
        gradient[2:] += penalty
        return loss + float((penalty**2).sum()) / 2, gradient

    def _scale_and_shift(self, parameters: _Array) -> tuple[Tensor, Tensor]:
        """The scale of the log probability of each class and what is added to it, `(C,)` each."""
        _, deviation, shift, _ = self._parts(parameters)
        return torch.from_numpy(np.exp(parameters[0] + deviation)), torch.from_numpy(shift + self.log_prior)

    def _parts(self, parameters: _Array) -> tuple[_Array, _Array, _Array, _Array]:
        first, second = 2 + self.num_classes, 2 + 2 * self.num_classes
        return parameters[:2], parameters[2:first], parameters[first:second], parameters[second:]


def _odds(logits: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The probabilities `(C, n)` of scaled and shifted logits, but for a factor of each row."""
    score = torch.addcmul(shift[:, None], logits, scale[:, None])
    return score.sub_(score.amax(0)).exp_()


def expected_suspects(probabilities: Tensor, labels: Tensor) -> Expectation:
    """Return the share of each class's rows that would be suspect if every label were right.

    The labels are then draws from the calibrated probabilities (`calibrate`), so that an image which the classifier is
    unsure of is suspect now and then. The thresholds are those of the given labels. The share is not known (NaN) where more
    than 40% of the labels look random: wrong labels cannot then be told from features that do not tell the classes apart.

    Args:
        probabilities: `(N, C)` of equally large classes, as from `ceiling.cross_fit` with balanced weights.
        labels: `(N,)` int64.

    Returns:
        The expected shares, and the share of random labels.

    Example:
        >>> probabilities = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).repeat(20, 1)
        >>> labels = torch.arange(40) % 2
        >>> expected = expected_suspects(probabilities, labels)
        >>> bool((expected.share < 0.1).all()), expected.noise < 0.1
        (True, True)
    """
    likely = likely_classes(probabilities, class_thresholds(probabilities, labels))
    chance, noise = calibrate(probabilities, labels)
    there = probabilities.gather(1, likely.clamp(min=0)[:, None])
    suspect = (likely >= 0)[:, None] & (probabilities < there)  # had the row the label of the column
    share = (chance * suspect).sum(0) / chance.sum(0)
    known = (class_counts(labels, probabilities.shape[1]) > 0) & (noise <= _MOST_NOISE)
    return Expectation(share.where(known, torch.nan), noise)


def too_many_suspects(suspects: Tensor, totals: Tensor, expected: Tensor) -> Tensor:
    """Return the p value, adjusted by Holm's method, that a class has no more suspects than right labels explain.

    The test is the exact binomial one, against 1.1 times the expected share plus 1%, because the expected share is an
    estimate. Classes with fewer than 20 rows are not judged.

    Args:
        suspects: `(C,)`, suspect rows of each class.
        totals: `(C,)`, rows of each class.
        expected: `(C,)`, the share expected if all labels were right, of `expected_suspects`.

    Returns:
        `(C,)` float64; NaN for a class that is not judged.

    Example:
        >>> p_values = too_many_suspects(torch.tensor([12, 2]), torch.tensor([60, 60]), torch.tensor([0.03, 0.03]))
        >>> [p < 0.05 for p in p_values.tolist()]
        [True, False]
    """
    raw: dict[str, float] = {}
    for c, (found, total, share) in enumerate(zip(suspects.tolist(), totals.tolist(), expected.tolist(), strict=True)):
        known = total >= FEWEST_ROWS and math.isfinite(share)
        raw[str(c)] = float(binom.sf(found - 1, total, min(1.0, _MARGIN * share + _FLOOR))) if known else math.nan
    return torch.tensor(list(holm(raw).values()), dtype=torch.float64)


class Alike(NamedTuple):
    """Rows of one class that the model predicts as another class, and that nothing tells from that class's own rows.

    Attributes:
        given: The class of the labels.
        predicted: The class that the rows look like.
        rows: `(n,)` int64, places among all rows, ascending.
        auc: How well the rows are told from right rows of `predicted`; 0.5 is chance.

    Example:
        >>> Alike(0, 1, torch.arange(3), 0.5).auc
        0.5
    """

    given: int
    predicted: int
    rows: Tensor
    auc: float


def rows_like_another_class(features: Tensor, logits: Tensor, labels: Tensor) -> tuple[Alike, ...]:
    """Return the groups of wrongly predicted rows that look exactly like the class they are predicted as.

    A hard image of a class still differs from the images of the class it is taken for: it lies nearer to the border, or
    elsewhere among the features. An image whose label is wrong does not differ. So the rows of class A that are predicted
    as B are compared with the rows of B that are predicted as B, by two numbers: the logit of A minus that of B, and a
    ridge discriminant of the features, each row left out in turn. The larger AUC counts.

    Args:
        features: `(N, D)`, of images that the model was not trained on.
        logits: `(N, C)`, of the model.
        labels: `(N,)` int64, the given labels.

    Returns:
        The groups with an AUC below 0.65, at most one per class, the one with the most rows. At least 15 rows and 10% of
        their class are needed, and at least 15 right rows of B, whose recall must be at least 70%: a class that the model
        hardly knows looks like many others.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> labels = torch.arange(2).repeat_interleave(60)
        >>> features = torch.randn(120, 4, generator=generator)
        >>> features[:, 0] += 6 * labels
        >>> labels[60:80] = 0  # 20 rows of class 1 are labelled 0
        >>> logits = torch.stack([6 - features[:, 0], features[:, 0]], 1)
        >>> [(one.given, one.predicted, len(one.rows)) for one in rows_like_another_class(features, logits, labels)]
        [(0, 1, 20)]
    """
    num_classes = logits.shape[1]
    predictions = logits.argmax(1)
    sizes, right = class_counts(labels, num_classes), class_counts(labels[predictions == labels], num_classes)
    pairs, errors = (labels * num_classes + predictions)[predictions != labels].unique(return_counts=True)
    found: dict[int, Alike] = {}
    for pair, count in zip(pairs.tolist(), errors.tolist(), strict=True):
        given, predicted = divmod(pair, num_classes)
        few = count < max(FEWEST_ERRORS, _LEAST_SHARE * float(sizes[given]))
        unknown = float(right[predicted]) < max(FEWEST_ERRORS, _LEAST_RECALL * float(sizes[predicted]))
        if few or unknown or (given in found and len(found[given].rows) >= count):
            continue
        rows = ((labels == given) & (predictions == predicted)).nonzero()[:, 0]
        own = ((labels == predicted) & (predictions == predicted)).nonzero()[:, 0]
        auc = _told_apart(features, logits[:, given] - logits[:, predicted], rows, own)
        if auc < ALIKE:
            found[given] = Alike(given, predicted, rows, auc)
    return tuple(found[c] for c in sorted(found))


def _told_apart(features: Tensor, margin: Tensor, rows: Tensor, own: Tensor) -> float:
    """The AUC by which two groups of rows are told apart: by their margin or their features, the larger one."""
    rows, own = (_evenly(group, _COMPARED) for group in (rows, own))
    both = torch.cat([rows, own])
    first = np.arange(len(both)) < len(rows)
    by_margin = float(roc_auc_score(first, margin[both].double().cpu()))
    return max(by_margin, _discriminant_auc(features[both].double().cpu(), first))


def _evenly(rows: Tensor, most: int) -> Tensor:
    return rows if len(rows) <= most else rows[torch.linspace(0, len(rows) - 1, most).long()]


def _discriminant_auc(features: Tensor, first: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    """The AUC of a ridge discriminant with balanced weights, each row predicted by a fit without it."""
    weight = np.where(first, 1 / first.sum(), 1 / (~first).sum()) * len(first) / 2
    centred = (features - features.mean(0)).numpy()
    spread = float(centred.std())
    if not spread:
        return 0.5
    centred = centred / spread
    centred -= np.average(centred, axis=0, weights=weight)
    gram = centred @ centred.T
    hat = np.linalg.solve(gram + np.diag(_RIDGE * features.shape[1] / weight), gram).T
    target = np.where(first, 1.0, -1.0)
    leverage = np.diag(hat)
    return float(roc_auc_score(first, (hat @ target - leverage * target) / (1 - leverage)))
