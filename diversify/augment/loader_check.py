"""Tell a sampler that was made for another data set than its loader has."""

from __future__ import annotations

import sys
from collections.abc import Sized
from typing import Any

from torch.utils.data import DataLoader

from ..errors import must

_DEPTH = 12  # calling frames that are looked at: batch samplers of launchers lie between loader and sampler


def require_data_set_of_loader(images: int, name: str) -> None:
    """Raise an InputError if the loader that asks a sampler for indices has a data set of another length.

    A sampler is not told which data set its indices go to. A loader that iterates is found among the calling frames; if there is
    none, as in a loop of one's own over the sampler, nothing is checked.

    Args:
        images: The number of images that the sampler was made for.
        name: The class of the sampler.

    Raises:
        InputError: The data set of the loader has another number of images.

    Example:
        >>> require_data_set_of_loader(3, "DiversifySampler")  # no loader asks
    """
    dataset = _asking_data_set()
    if isinstance(dataset, Sized) and len(dataset) != images:
        law = f"be made for the data set of its loader, which has {len(dataset):,} images"
        advice = "make it for loader.dataset"
        raise must(name, law, f"labels of {images:,}", advice)


def _asking_data_set() -> Any:
    frame = sys._getframe(2)
    for _ in range(_DEPTH):
        caller = frame.f_back
        if caller is None:
            return None
        frame = caller
        asking: Any = frame.f_locals.get("self")
        if type(asking).__module__.startswith("torch.utils.data.dataloader") and hasattr(asking, "_dataset"):
            return asking._dataset
        if isinstance(asking, DataLoader):
            return asking.dataset
    return None
