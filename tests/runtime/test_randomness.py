"""The global random states are restored after the user's code, also where it fails."""

import random

import numpy as np
import pytest
import torch

from diversify.runtime.randomness import random_state_kept


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


@pytest.mark.parametrize("error", [False, True])
def test_every_state_is_as_it_was(error):
    before = states()
    try:
        with random_state_kept():
            random.random()  # noqa: S311
            np.random.rand(3)  # noqa: NPY002
            torch.rand(3)
            assert states() != before
            if error:
                raise OSError
    except OSError:
        assert error
    assert states() == before
