"""Recall over the number of labels: what was measured with a few more labels, carried on to many by a hierarchical model.

With `k` more labels of a class, the log odds of its recall are taken to rise by `slope * log(1 + k / worth)`: where recall is high
this is a power law of the error, `error ~ labels ** -slope`. `worth` is how many new images the class's training images are worth:
their number, or fewer where they are alike or the network knows them by heart.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import draws

MEAN_SLOPE, MEAN_SPREAD = 0.6, 0.15  # of the slopes of a network's classes, before anything is measured
CLASS_SPREAD = 0.2  # of the classes around their mean
MEAN_LOSSES = (0.1, 0.5, 1.0, 2.0, 3.0)  # of the log of training images over worth; equally likely before
_SLOPES = torch.linspace(0.0, 1.5, 16, dtype=torch.float64)
_LOSSES = torch.linspace(0.0, 5.0, 26, dtype=torch.float64)
_MEANS = torch.linspace(0.2, 1.0, 9, dtype=torch.float64)
_REPEATS = 200
_FAR, _HALVINGS = 6.0, 50  # standard deviations within which an end is searched, and steps
_CONFIDENCE = 0.95


class Rise(NamedTuple):
    """How the log odds of a class's recall rose with more labels, `(P,)`, with the covariance `(P, P)` over other images.

    Example:
        >>> Rise(torch.tensor([0.1, 0.3]), torch.eye(2)).value.shape
        torch.Size([2])
    """

    value: Tensor
    covariance: Tensor


def measured_rise(hits: Tensor, *, groups: Tensor | None = None, seed: int = 0) -> Rise:
    """Return the rise of the log odds of recall over the first row of `hits`, with its covariance.

    The covariance is that of a Bayesian bootstrap over the images, or over their groups: each gets a random weight, the same in
    every row. To the variance of each rise is added what one image more or less would change.

    Args:
        hits: `(P + 1, M)` whether each held-out image of the class is recognised, or how often, in [0, 1]: first without new
            labels, then with more and more.
        groups: `(M,)` group of each image; None if no groups are known.
        seed: Seed of the draws.

    Example:
        >>> hits = torch.tensor([[1, 0, 0, 0, 1, 0, 0, 0], [1, 1, 0, 1, 1, 0, 1, 0]])
        >>> found = measured_rise(hits)
        >>> [round(float(one), 1) for one in (found.value, found.covariance)]
        [1.4, 0.7]
    """
    values, size = hits.double(), hits.shape[1]
    own = torch.arange(size) if groups is None else groups.unique(return_inverse=True)[1]
    units = int(own.max()) + 1
    cells = torch.arange(_REPEATS * units).view(_REPEATS, units)
    weight = -draws.uniform("learning curve", seed, cells).double().clamp(min=2.0**-25).log()
    weight = torch.cat([torch.ones(1, units, dtype=torch.float64), weight])[:, own]
    shares = (((weight @ values.T) / weight.sum(1, keepdim=True)) * units + 0.5) / (units + 1)
    odds = torch.logit(shares)
    rises = odds[:, 1:] - odds[:, :1]
    one = 1 / ((units + 1) * shares[0, 1:] * (1 - shares[0, 1:]))
    return Rise(rises[0], torch.atleast_2d(torch.cov(rises[1:].T)) + one.square().diag())


class Curves(NamedTuple):
    """What the measured rises say of the slope and the worth of each class: weights on a grid, which add up to 1 in each class.

    Attributes:
        weights: `(K, S, L)` for each slope and each log of training images over worth.
        slope: `(K,)` mean slope.
        worth: `(K,)` how many new images the training images are worth; the geometric mean.
        slope_mean: Mean slope of the classes.

    Example:
        >>> found = fit_curves([Rise(torch.zeros(1), torch.eye(1))], [torch.tensor([10])], [10])
        >>> round(float(found.weights.sum()), 6), round(found.slope_mean, 1)
        (1.0, 0.6)
    """

    weights: Tensor
    slope: Tensor
    worth: Tensor
    slope_mean: float


def _rises(added: Tensor, count: int) -> Tensor:
    """The rise that each slope and loss gives for so many new labels, `(S, L, Q)`."""
    return _SLOPES[:, None, None] * torch.log1p(added.double() * _LOSSES[:, None].exp() / count)


def fit_curves(rises: list[Rise], added: list[Tensor], counts: list[int]) -> Curves:
    """Return what the rises of several classes say of each, where classes of one network are taken to resemble each other.

    Args:
        rises: One per class.
        added: New labels that each rise was measured with, `(P,)` per class.
        counts: Training images of each class, at least 1.

    Example:
        >>> strong = Rise(torch.tensor([1.2]), torch.tensor([[0.01]]))
        >>> none = Rise(torch.tensor([0.0]), torch.tensor([[4.0]]))
        >>> found = fit_curves([strong, none], [torch.tensor([10]), torch.tensor([10])], [100, 100])
        >>> [round(worth) for worth in found.worth.tolist()]
        [2, 22]
    """
    fits = []
    for rise, more, count in zip(rises, added, counts, strict=True):
        off = _rises(more, count) - rise.value
        fits.append(-0.5 * ((off @ torch.linalg.inv(rise.covariance.double())) * off).sum(-1))
    fit = torch.stack([one - one.max() for one in fits]).exp()  # (K, S, L)
    slopes = (-0.5 * ((_SLOPES - _MEANS[:, None]) / CLASS_SPREAD).square()).exp()  # (M, S)
    losses = (-_LOSSES / torch.tensor(MEAN_LOSSES)[:, None]).exp()  # (J, L)
    slopes, losses = (each / each.sum(1, keepdim=True) for each in (slopes, losses.double()))
    likely = torch.einsum("ksl,ms,jl->kmj", fit, slopes, losses).log().sum(0)
    likely = likely - 0.5 * ((_MEANS - MEAN_SLOPE) / MEAN_SPREAD).square()[:, None]
    both = (likely - likely.max()).exp()
    both = both / both.sum()  # of the mean slope and the mean loss
    alone = torch.einsum("ksl,ms,jl->kmj", fit, slopes, losses)
    weights = fit * torch.einsum("mj,kmj,ms,jl->ksl", both, 1 / alone, slopes, losses)
    loss = torch.einsum("ksl,l->k", weights, _LOSSES)
    return Curves(
        weights,
        torch.einsum("ksl,s->k", weights, _SLOPES),
        torch.tensor(counts) * (-loss).exp(),
        float((both.sum(1) * _MEANS).sum()),
    )


class Forecast(NamedTuple):
    """A recall to expect, with the ends of its 95% interval, each `(Q,)`.

    Example:
        >>> Forecast(*torch.tensor([[0.5], [0.4], [0.6]])).low
        tensor([0.4000])
    """

    value: Tensor
    low: Tensor
    high: Tensor


def forecast_recall(share: float, units: int, more: Tensor, *, weights: Tensor, count: int) -> Forecast:
    """Return the recall to expect with more labels, and the 95% interval of the recall on many new images.

    The interval holds two errors: that of the present recall, which comes from few held-out images, and that of the curve.

    Args:
        share: Recall now, in [0, 1].
        units: Images, or groups, that it was measured on.
        more: `(Q,)` new labels.
        weights: `(S, L)` of the class, from `fit_curves`.
        count: Training images of the class.

    Example:
        >>> curves = fit_curves([Rise(torch.tensor([0.6]), torch.tensor([[0.05]]))], [torch.tensor([15])], [12])
        >>> found = forecast_recall(0.46, 50, torch.tensor([0, 40]), weights=curves.weights[0], count=12)
        >>> [[round(100 * end) for end in ends.tolist()] for ends in found]
        [[46, 70], [33, 52], [60, 84]]
    """
    hits = share * units
    odds = torch.logit(torch.tensor((hits + 0.5) / (units + 1), dtype=torch.float64))
    noise = (1 / (hits + 0.5) + 1 / (units - hits + 0.5)) ** 0.5
    rises, weight = _rises(more, count).flatten(0, 1), weights.flatten()  # (S * L, Q)
    ends = []
    for share_below in ((1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2):
        low, high = odds - _FAR * noise + torch.zeros(len(more)).double(), odds + _FAR * noise + rises.amax(0)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = weight @ torch.special.ndtr((middle - odds - rises) / noise) < share_below
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        ends.append((low + high) / 2)
    return Forecast((odds + weight @ rises).sigmoid(), *(end.sigmoid() for end in ends))
