"""The numbers behind the rules are checked."""

import math
from typing import Any

import pytest

from diversify.errors import InputError
from diversify.functional import image_ops
from diversify.plan.strengths import Strengths


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"covariance": 1.5}, "covariance must lie in [0, 1], got 1.5"),
        ({"eos_share": math.nan}, "eos_share must be a finite number, got nan"),
        ({"image_gain": -1}, "image_gain must not be negative, got -1"),
        ({"covariance_share": 0.8}, "covariance_share and eos_share must sum to at most 1, got 1.1"),
        ({"image_least": 0.8}, "image_least must not be larger than image_most (0.7), got 0.8"),
        (
            {"largest_difference": 0.1},
            "(image_most - image_least) * image_probability must be at most largest_difference (0.1), got 0.18",
        ),
        ({"image_layers": 20}, "layers of the strengths must be at most 8, got 20"),
        ({"image_operations": ("spin",)}, f"operations of the strengths must be among {', '.join(image_ops.OPERATIONS)}, got 'spin'"),
        ({"neighbors": 0}, "neighbors of the strengths must be at least 1, got 0"),
        ({"images_per_epoch": 0}, "images_per_epoch must be an integer of at least 1, got 0"),
        ({"images_per_epoch": "9"}, "images_per_epoch must be an integer of at least 1, got '9'"),
    ],
)  # fmt: skip
def test_strengths_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        Strengths(**fields)
    assert str(error.value) == message
