"""Keep the global random states where the user's code runs."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the global random states of Python, NumPy and torch's CPU at the end of the block.

    Example:
        >>> import torch
        >>> from diversify.runtime.randomness import random_state_kept
        >>> before = torch.get_rng_state()
        >>> with random_state_kept():
        ...     _ = torch.rand(3)
        >>> torch.equal(before, torch.get_rng_state())
        True
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - a user's transform may draw from it
    with torch.random.fork_rng([]):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
