"""Results as JSON values."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

DIGITS = 6  # significant digits of a number


def json_value(value: Any) -> Any:
    """Return a value as JSON holds it: tensors and tuples as lists, numbers with six digits, NaN and infinity as None.

    Args:
        value: A tensor, a list or tuple, or a plain value.

    Example:
        >>> import torch
        >>> json_value((torch.tensor([1 / 3, float("nan")]), "cat"))
        [[0.333333, None], 'cat']
    """
    if isinstance(value, Tensor):
        return json_value(value.tolist())
    if isinstance(value, (list, tuple)):
        return [json_value(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
