"""What heads that are trained on the same rows one after the other share."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..augment.features import FeatureAugmenter
from ..augment.known_neighbors import KnownNeighbors
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead
from ..network.reading import Reading
from ..plan.plan import Plan


class SharedSide:
    """Keeps what heads that are trained on the same rows share: nearest rows, and a feature augmenter.

    Args:
        neighbors: Neighbours per row that some head will ask for; they are found at once where fewer are asked for first.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> shared, plan = SharedSide(), dv.Plan.from_counts(list("abcd"), [200, 80, 30, 10])
        >>> shared.augmenter(train, head, plan, 0) is shared.augmenter(train, head, plan, 0)
        True
    """

    def __init__(self, neighbors: int = 1) -> None:
        self._neighbors = neighbors
        self._known: KnownNeighbors | None = None
        self._made: tuple[Embeddings, LinearHead, int, FeatureAugmenter] | None = None

    def known(self, embeddings: Embeddings) -> KnownNeighbors:
        """Return the nearest rows of these embeddings, as far as they are known.

        Args:
            embeddings: The training side.
        """
        if self._known is None or self._known.features is not embeddings.features:
            self._known = KnownNeighbors(embeddings.features, at_least=self._neighbors)
        return self._known

    def augmenter(self, embeddings: Embeddings, head: LinearHead, plan: Plan, seed: int) -> FeatureAugmenter:
        """Return an augmenter that follows the plan; it is the one of the last call if all but the plan is the same.

        Args:
            embeddings: The training side; rows are identified by their place.
            head: The head.
            plan: The plan to follow.
            seed: Seed of the draws.
        """
        if self._made is not None:
            *before, augment = self._made
            if before[0] is embeddings and before[1] is head and before[2] == seed:
                return augment.use(plan)
        device = embeddings.features.device
        bank = replace(embeddings, indices=torch.arange(len(embeddings), device=device), reading=Reading())
        on = replace(head, weight=head.weight.to(device), bias=head.bias.to(device))
        augment = FeatureAugmenter(plan, bank, seed=seed, head=on, known=self.known(embeddings))
        self._made = embeddings, head, seed, augment
        return augment
