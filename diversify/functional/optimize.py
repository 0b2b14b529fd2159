"""Minimise a smooth function of few variables."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from threadpoolctl import ThreadpoolController

_Array = NDArray[np.float64]


def minimize(
    loss: Callable[[_Array], tuple[float, _Array]],
    start: _Array,
    *,
    limits: Sequence[tuple[float, float]] | None = None,
    **options: float,
) -> optimize.OptimizeResult:
    """Return SciPy's result of L-BFGS-B, with its linear algebra on one thread.

    The matrices of L-BFGS-B are tiny. With several threads, those of SciPy's BLAS and those that PyTorch computes the loss
    with wait for each other most of the time.

    Args:
        loss: Returns the value and the gradient `(P,)` at a point `(P,)`.
        start: Where to begin, `(P,)`.
        limits: The least and the greatest value of each variable.
        options: Those of SciPy's L-BFGS-B, such as `maxiter`, `gtol` and `ftol`.

    Example:
        >>> found = minimize(lambda x: (float(((x - 3) ** 2).sum()), 2 * (x - 3)), np.zeros(2), maxiter=50)
        >>> found.x.round(4).tolist()
        [3.0, 3.0]
    """
    with _blas().limit(limits=1):
        return optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=limits, options=options)


@functools.cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of NumPy and SciPy, once they are loaded; not that of PyTorch."""
    return ThreadpoolController().select(internal_api="openblas")
