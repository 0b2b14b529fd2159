"""Which image, how often: samplers whose order is a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from .functional import draws


class EpochSampler(Sampler[int]):
    """Every index once an epoch, shuffled; global, so that a launcher can shard it."""

    def __init__(self, length: int, *, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(draws.permutation(self.length, "order", self.seed, self.epoch).tolist())
