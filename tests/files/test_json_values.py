"""Tensors, tuples and numbers as JSON holds them."""

import json
import math

import torch

from diversify.files.json_values import json_value


def test_values_survive_json_with_undefined_ones_as_none() -> None:
    value = {"a": json_value((torch.tensor([[1, 2]]), [math.inf, math.nan, 1 / 3], "x", True, None))}
    assert json.loads(json.dumps(value, allow_nan=False)) == {"a": [[[1, 2]], [None, None, 0.333333], "x", True, None]}
