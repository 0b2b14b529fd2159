"""Tensors, tuples and numbers as JSON holds them."""

import json
import math

import numpy as np
import torch

from diversify.files.json_values import json_value


def test_values_survive_json_with_undefined_ones_as_none() -> None:
    value = {"a": json_value((torch.tensor([[1, 2]]), [math.inf, math.nan, 1 / 3], "x", True, None))}
    assert json.loads(json.dumps(value, allow_nan=False)) == {"a": [[[1, 2]], [None, None, 0.333333], "x", True, None]}


def test_values_of_numpy_and_mappings_survive_it_too() -> None:
    numbers = {
        "a": np.float32(0.1),
        "b": np.float16("nan"),
        "c": np.int64(3),
        "d": np.bool_(True),
        "e": np.float64("inf"),
    }
    value = json_value({"deep": [numbers], "array": np.array([[0.25, math.nan]]), "text": np.str_("x")})
    deep = {"a": 0.1, "b": None, "c": 3, "d": True, "e": None}
    assert json.loads(json.dumps(value, allow_nan=False)) == {"deep": [deep], "array": [[0.25, None]], "text": "x"}
