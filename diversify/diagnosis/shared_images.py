"""How many held-out images are training images, where that can be known."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch.utils.data import Subset

from ..network.embeddings import Embeddings
from ..network.multilabel import MultilabelEmbeddings

Rows = Embeddings | MultilabelEmbeddings


def shared_of_loaders(train_loader: Any, heldout_loader: Any, train: Rows, heldout: Rows) -> int:
    """Return how many held-out images are training images by their places in one data set, or by the paths of their files.

    Args:
        train_loader: The loader of the training images.
        heldout_loader: The loader of the held-out images.
        train: The embeddings from the first.
        heldout: The embeddings from the second.

    Returns:
        The number; 0 where it cannot be known.

    Example:
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> import diversify as dv
        >>> train, _, _ = dv.make_embeddings((3, 2))
        >>> loader = DataLoader(TensorDataset(torch.zeros(5, 1), torch.tensor([0, 0, 0, 1, 1])))
        >>> shared_of_loaders(loader, loader, train, train.select(train.labels == 1))
        2
    """
    seen, unseen = (_images(*side) for side in ((train_loader, train), (heldout_loader, heldout)))
    known = set(seen)
    return sum(each in known for each in unseen)


def _images(loader: Any, side: Rows) -> list[Hashable]:
    """What tells each row's image from others: its file, or its data set and its place there; nothing if neither is known."""
    dataset, places = getattr(loader, "dataset", None), side.indices.cpu()
    if dataset is None or not side.reading.indices_known:
        return []
    while isinstance(dataset, Subset):
        places, dataset = torch.as_tensor(dataset.indices)[places], dataset.dataset
    samples = getattr(dataset, "samples", None)
    if isinstance(samples, list) and all(isinstance(each, tuple) and isinstance(each[0], str) for each in samples):
        return [samples[place][0] for place in places.tolist()]
    return [(id(dataset), place) for place in places.tolist()]


def are_the_same(train: Embeddings, heldout: Embeddings) -> bool:
    """Return True if both sides hold the same rows, in the order of their places.

    Args:
        train: Embeddings of the training images.
        heldout: Embeddings of the held-out images.

    Example:
        >>> import diversify as dv
        >>> train, heldout, _ = dv.make_embeddings()
        >>> are_the_same(train, train), are_the_same(train, heldout)
        (True, False)
    """
    if train.features.shape != heldout.features.shape or not len(train):
        return False
    one, other = (side.indices.argsort(stable=True) for side in (train, heldout))
    if not torch.equal(train.labels[one], heldout.labels[other]):
        return False
    return bool(torch.allclose(train.features[one], heldout.features[other], rtol=1e-4, atol=1e-6))
