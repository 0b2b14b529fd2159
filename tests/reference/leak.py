"""The leak of a class and Newcombe's interval, one image after the other."""

import math

from . import stats

Z = 1.959963984540054


def share(answers, wanted):
    return stats.mean([float(answer == wanted) for answer in answers])


def newcombe(pairs):
    """Low and high end of the share of the second less that of the first, of `(first, second)` booleans; method 10."""
    n = len(pairs)
    if n == 0:
        return math.nan, math.nan
    a, b, c, d = (sum((one, two) == cell for one, two in pairs) for cell in ((1, 1), (1, 0), (0, 1), (0, 0)))
    one, two = a + b, a + c
    (low_one, high_one), (low_two, high_two) = stats.wilson(one, n, Z), stats.wilson(two, n, Z)
    spread = math.sqrt(one * (n - one) * two * (n - two))
    product = a * d - b * c
    if product > 0:
        product = max(product - n / 2, 0)
    correlation = product / spread if spread else 0

    def length(down, up):
        return math.sqrt(max(down * down - 2 * correlation * down * up + up * up, 0))

    difference = (two - one) / n
    return (
        difference - length(two / n - low_two, high_one - one / n),
        difference + length(high_two - two / n, one / n - low_one),
    )
