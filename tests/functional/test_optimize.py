"""The minimum is SciPy's, and the threads of its BLAS are as before afterwards."""

import numpy as np
import pytest
from scipy import optimize
from threadpoolctl import threadpool_info

from diversify.functional.optimize import minimize


def threads() -> list[int]:
    return [one["num_threads"] for one in threadpool_info()]


def test_the_result_is_that_of_scipy_within_the_limits() -> None:
    seen = []

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        seen.append([one["num_threads"] for one in threadpool_info() if one["internal_api"] == "openblas"])
        return float(((x - 3) ** 2).sum()), 2 * (x - 3)

    before = threads()
    found = minimize(loss, np.zeros(2), limits=[(0.0, 1.0), (0.0, 9.0)], maxiter=20)
    assert found.x == pytest.approx([1.0, 3.0])
    plain = optimize.minimize(
        optimize.rosen, np.zeros(5), jac=optimize.rosen_der, method="L-BFGS-B", options={"maxiter": 7}
    )
    ours = minimize(lambda x: (optimize.rosen(x), optimize.rosen_der(x)), np.zeros(5), maxiter=7)
    assert np.array_equal(ours.x, plain.x)
    assert all(number == 1 for numbers in seen for number in numbers)
    assert threads() == before
