"""The numbers of `expected_gains`, as `python -m benchmarks.forecasts_fit` fits them on the records of suites."""

from __future__ import annotations

from typing import TypedDict


class RemedyTable(TypedDict):
    """The line of a remedy, in the order of `FEATURES`, and how large its errors may be, in units of their scale."""

    coefficients: tuple[float, ...]
    errors: float
    errors_of_mean: float


CLASSES = 10  # of every suite
REMEDIES: dict[str, RemedyTable] = {
    # cifar10_exp, cifar10_lt, cifar10_lt_short, cifar10_small, digits_2, digits_exp, digits_step, fashion_exp,
    # fashion_long, fashion_mnist_lt, fashion_small, mnist_exp, validity
    "prior": {
        "coefficients": (0.4248, 0.4821, 0, 0.7477),
        "errors": 2.1006,
        "errors_of_mean": 1.974,
    },
    # cifar10_lt, cifar10_lt_short, cifar10_small, digits_2, digits_step, fashion_mnist_lt, fashion_small
    "images": {
        "coefficients": (0.4627, 0.6703, -0.4145, 0.7028),
        "errors": 2.1849,
        "errors_of_mean": 1.8568,
    },
}
