"""A sampler for images with several labels: it draws a label, then an image that has it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ..errors import must, unknown
from ..functional import draws
from ..functional.multilabel import read_multilabels
from .loader_check import require_data_set_of_loader

SHARES = ("even", "sqrt")


class MultilabelSampler(Sampler[int]):
    """Draws a label by its share, and then an image that has it, so that rare labels are seen more often.

    Images without any label keep the share of the draws that they have of the images. The order is a function of (seed,
    epoch). An image with several labels can be drawn through each of them, so frequent labels that come along with rare
    ones are drawn more often than their share; `expected_counts` tells how often each label is seen.

    Args:
        labels: 0 or 1 for every image and label, `(N, C)`.
        shares: "even" draws all labels equally often; "sqrt" in proportion to the square root of their count.
        length: Draws in an epoch; None for as many as there are images.
        seed: Seed of all draws.

    Raises:
        InputError: The labels are not 0 or 1, there is no image, or an argument is out of its range.

    Example:
        >>> import torch, diversify as dv
        >>> labels = torch.tensor([[1, 0]] * 90 + [[0, 1]] * 10)
        >>> sampler = dv.MultilabelSampler(labels, seed=0)
        >>> [round(count) for count in sampler.expected_counts().tolist()], len(list(sampler))
        ([50, 50], 100)
    """

    def __init__(self, labels: Any, *, shares: str = "even", length: int | None = None, seed: int = 0) -> None:
        if shares not in SHARES:
            raise unknown("shares", str(shares), SHARES)
        self.labels = read_multilabels("labels", labels)
        if not len(self.labels):
            raise must("labels", "hold at least one image", 0)
        if not isinstance(seed, int) or not 0 <= seed < 1 << 63:
            raise must("seed", "be an integer in [0, 2^63 - 1]", seed)
        if length is not None and length < 1:
            raise must("length", "be at least 1", length)
        self.shares, self.seed, self.epoch = shares, seed, 0
        self.length = len(self.labels) if length is None else length
        nothing = ~self.labels.any(1, keepdim=True)
        self._groups = torch.cat([self.labels, nothing], dim=1)  # the last group: images without labels
        count = self._groups.sum(0)
        mass = (count[:-1] > 0).double() if shares == "even" else count[:-1].double().sqrt()
        empty = float(count[-1]) / len(self.labels)
        total = mass.sum().clamp(min=1e-300)
        self._mass = torch.cat([mass / total * (1 - empty), torch.tensor([empty], dtype=torch.float64)])
        self._rows = [group.nonzero()[:, 0] for group in self._groups.T]
        self._start = 0
        self._handed = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; its first position comes next. Setting the current epoch again changes nothing.

        Raises:
            InputError: The epoch is negative.
        """
        if epoch < 0:
            raise must("epoch", "not be negative", epoch)
        if epoch != self.epoch:
            self.epoch, self._start, self._handed = epoch, 0, 0

    def __len__(self) -> int:
        return self.length

    def order(self) -> Tensor:
        """Return the images of this epoch in their order, `(length,)` int64."""
        place = torch.arange(self.length)
        ends = self._mass.cumsum(0)
        drawn = draws.uniform("multilabel group", self.seed, self.epoch, place).double() * ends[-1]
        group = torch.searchsorted(ends, drawn, right=True).clamp(max=int(self._mass.nonzero().max()))
        result = torch.empty(self.length, dtype=torch.int64)
        for index, rows in enumerate(self._rows):
            own = group == index
            if bool(own.any()):
                result[own] = rows[draws.integers(len(rows), "multilabel image", self.seed, self.epoch, place[own])]
        return result

    def __iter__(self) -> Iterator[int]:
        require_data_set_of_loader(len(self.labels), "MultilabelSampler")
        start, self._start = self._start, 0
        self._handed = start
        for index in self.order()[start:].tolist():
            self._handed += 1
            yield index

    def expected_counts(self) -> Tensor:
        """Return how often each label is seen in an epoch, on average, `(C,)` float64."""
        count = self._groups.sum(0).clamp(min=1)
        chance = (self._groups.double() * (self._mass / count)).sum(1)
        return self.length * (chance[:, None] * self.labels).sum(0)

    def state_dict(self, *, consumed: int | None = None) -> dict[str, Any]:
        """Return JSON values with which `load_state_dict` resumes at the first position that was not handed out.

        Args:
            consumed: Images of this epoch that training has seen; by default those that were handed out.

        Raises:
            InputError: `consumed` is negative.
        """
        if consumed is not None and consumed < 0:
            raise must("consumed", "not be negative", consumed)
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "position": min(self._handed if consumed is None else consumed, self.length),
            "shares": self.shares,
            "length": self.length,
            "labels": zlib.crc32(self.labels.numpy().tobytes()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where the state was taken: the next pass is the rest of its epoch.

        Raises:
            InputError: A field is missing or wrong, or the state belongs to other labels, shares or another length.
        """
        own = self.state_dict()
        missing = [name for name in own if name not in state]
        if missing:
            raise must("sampler's state", f"hold {', '.join(own)}", f"none of {missing[0]}")
        for name in ("labels", "shares", "length"):
            if state[name] != own[name]:
                raise must(f"{name} of the sampler's state", f"be {own[name]}, as of this sampler", state[name])
        for name, most in (("seed", (1 << 63) - 1), ("epoch", (1 << 63) - 1), ("position", self.length)):
            if type(state[name]) is not int or not 0 <= state[name] <= most:
                raise must(f"{name} of the sampler's state", f"be an integer in [0, {most}]", state[name])
        self.seed, self.epoch, self._start = state["seed"], state["epoch"], state["position"]
        self._handed = self._start
