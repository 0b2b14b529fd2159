"""The numbers of `expected_gains`, as `python -m benchmarks.forecasts table` fits them on the records of suites."""

from __future__ import annotations

from typing import TypedDict


class RemedyTable(TypedDict):
    """The line of a remedy, in the order of `FEATURES`, and how large its errors may be, in units of their scale."""

    coefficients: tuple[float, ...]
    errors: float
    errors_of_mean: float


CLASSES = 10  # of every suite
REMEDIES: dict[str, RemedyTable] = {
    # cifar10_exp, cifar10_lt, cifar10_lt_short, digits_2, digits_exp, digits_step, fashion_exp, fashion_long,
    # fashion_mnist_lt, mnist_exp, validity
    "prior": {
        "coefficients": (0.4688, 0.4767, 0, 0.7475),
        "errors": 2.0929,
        "errors_of_mean": 1.7484,
    },
    # cifar10_lt, cifar10_lt_short, digits_2, digits_step, fashion_mnist_lt
    "images": {
        "coefficients": (0.8372, 0.655, -0.3619, 0.4387),
        "errors": 2.3009,
        "errors_of_mean": 2.0413,
    },
}
