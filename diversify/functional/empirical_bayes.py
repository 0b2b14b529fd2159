"""Parametric empirical Bayes: noisy values of many classes, each made surer by what the others say."""

from __future__ import annotations

import torch
from scipy.optimize import brentq
from torch import Tensor

LEAST = 5  # values from which the spread around the line can be estimated


def shrink_to_line(values: Tensor, variances: Tensor, predictor: Tensor) -> tuple[Tensor, Tensor]:
    """Shrink noisy values toward a line in a predictor, the noisier the more.

    True values are taken for normal around the line. The line is fitted by least squares; the variance around it is the one
    under which the squared residuals, over their variances, have their expected sum (Paule and Mandel). If the residuals are no
    larger than the noise explains, values shrink to the line.

    Args:
        values: `(C,)`; NaN is left out.
        variances: `(C,)`, of the noise of each value, above 0.
        predictor: `(C,)`, what the values may depend on, known where they are.

    Returns:
        `(C,)` float64 each: the shrunk values, and the variances of the true values around them, which allow for the estimated
        line and spread. Fewer than 5 values are returned as they are.

    References:
        Morris (1983), Parametric empirical Bayes inference: theory and applications.
        Paule and Mandel (1982), Consensus values and weighting factors.

    Example:
        >>> values = torch.tensor([0.1, -0.1, 0.2, -0.2, 0.1, -0.1])
        >>> shrunk, variance = shrink_to_line(values, torch.full((6,), 0.05), torch.ones(6))
        >>> [round(value, 2) for value in shrunk.tolist()], round(float(variance[0]), 3)
        ([0.04, -0.04, 0.08, -0.08, 0.04, -0.04], 0.025)
    """
    found, noise = values.double().clone(), variances.double().clone()
    known = ~found.isnan()
    own, variance = found[known], noise[known]
    if len(own) < LEAST:
        return found, noise
    design = torch.stack([torch.ones_like(own), predictor.double()[known]], 1)
    fit = torch.linalg.pinv(design)
    free = len(own) - int(torch.linalg.matrix_rank(design))
    residual = own - design @ (fit @ own)
    spread = _spread(residual.square(), variance, free)
    shrink = variance / (variance + spread) * (free - 2) / free
    of_coefficients = (fit * (variance + spread)) @ fit.T
    of_line = ((design @ of_coefficients) * design).sum(1)
    found[known] = own - shrink * residual
    noise[known] = (1 - shrink) * variance + shrink.square() * (of_line + 2 / (free - 2) * residual.square())
    return found, noise


def _spread(squares: Tensor, variance: Tensor, free: int) -> float:
    """The variance around the line under which squared residuals over variances sum to the degrees of freedom; at least 0."""

    def excess(spread: float) -> float:
        return float((squares / (variance + spread)).sum()) - free

    return brentq(excess, 0.0, float(squares.sum()) / free) if excess(0.0) > 0 else 0.0
