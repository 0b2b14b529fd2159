"""Equality of nested lists of numbers, where NaN equals NaN."""

import math


def same(actual, expected, tolerance=1e-9):
    """Whether both have the same shape and every number agrees to `tolerance`, relative above 1 and absolute below."""
    if isinstance(actual, list | tuple) or isinstance(expected, list | tuple):
        return (
            isinstance(actual, list | tuple)
            and isinstance(expected, list | tuple)
            and len(actual) == len(expected)
            and all(same(one, other, tolerance) for one, other in zip(actual, expected, strict=True))
        )
    if math.isnan(actual) or math.isnan(expected):
        return math.isnan(actual) and math.isnan(expected)
    return actual == expected or abs(actual - expected) <= tolerance * max(1, abs(expected))
