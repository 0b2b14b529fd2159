"""Results as JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

DIGITS = 6  # significant digits of a number


def json_value(value: Any) -> Any:
    """Return a value as JSON holds it: tensors, arrays and tuples as lists, numbers with six digits, NaN and infinity as None.

    Args:
        value: A tensor, an array or number of NumPy, a list, tuple or mapping, or a plain value.

    Example:
        >>> import torch
        >>> json_value((torch.tensor([1 / 3, float("nan")]), "cat"))
        [[0.333333, None], 'cat']
        >>> json_value({"recall": np.float32("nan"), "count": np.int64(3)})
        {'recall': None, 'count': 3}
    """
    if isinstance(value, Mapping):
        return {name: json_value(one) for name, one in value.items()}
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return json_value(value.tolist())
    if isinstance(value, (list, tuple)):
        return [json_value(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
