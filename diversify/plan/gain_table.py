"""The numbers of `expected_gains`, as `python -m benchmarks.forecasts table` fits them on the records of suites."""

from __future__ import annotations

from typing import TypedDict


class RemedyTable(TypedDict):
    """The line of a remedy, in the order of `FEATURES`, and how large 95% of its errors are in units of their scale."""

    coefficients: tuple[float, ...]
    errors: float
    errors_of_mean: float


CLASSES = 10  # of every suite
REMEDIES: dict[str, RemedyTable] = {
    # cifar10_lt, cifar10_lt_short, digits_2, fashion_mnist_lt, validity
    "prior": {
        "coefficients": (0.4267, 0.4872, -0.0916, 0.7135),
        "errors": 1.9199,
        "errors_of_mean": 1.414,
    },
    # cifar10_lt, cifar10_lt_short, digits_2, fashion_mnist_lt
    "images": {
        "coefficients": (0.3328, 0.4582, -0.2196, 1.0002),
        "errors": 2.1581,
        "errors_of_mean": 1.1978,
    },
}
