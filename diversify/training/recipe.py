"""The training recipe: epochs, optimizer, learning rate schedule and weight decay."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import nn

from ..errors import must, unknown
from ..network.extraction import PRECISIONS

WARMUP_EPOCHS = 5  # where nobody says otherwise


def warmup_within(epochs: int, wanted: int = WARMUP_EPOCHS) -> int:
    """Epochs of warm-up that leave a short training most of its epochs: those wanted, or a third of all, rounded down."""
    return min(wanted, epochs // 3)


OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("steps", "cosine", "constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how: the defaults are the classic long-tailed CIFAR recipe (Cao et al. 2019, LDAM-DRW).

    SGD at 0.1 with momentum 0.9 and no Nesterov step, weight decay 2e-4, batches of 128, 200 epochs, 5 of linear
    warm-up, learning rate x 0.01 at 80% and again at 90% of the epochs. The rate is set once an epoch.

    A warm-up is taken as it is given: one that is longer than the epochs never comes to the learning rate. Commands and
    studies give a third of the epochs at most (`warmup_within`).
    """

    epochs: int = 200
    batch_size: int = 128
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 2e-4
    schedule: str = "steps"
    milestones: tuple[float, ...] = (0.8, 0.9)
    decay: float = 0.01
    warmup_epochs: int = WARMUP_EPOCHS
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in choices:
                raise unknown(name, getattr(self, name), choices)
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise must(name, "be at least 1", getattr(self, name))
        for name in ("learning_rate", "decay"):
            if not 0 < getattr(self, name) < math.inf:
                raise must(name, "be positive and finite", getattr(self, name))
        for name in ("weight_decay", "warmup_epochs"):
            if not 0 <= getattr(self, name) < math.inf:
                raise must(name, "not be negative", getattr(self, name))
        if not 0 <= self.momentum < 1:
            raise must("momentum", "lie in [0, 1)", self.momentum)
        if not 0 <= self.seed < 1 << 63:
            raise must("seed", "lie in [0, 2^63 - 1]", self.seed)
        if not all(0 < milestone <= 1 for milestone in self.milestones):
            raise must("milestones", "be shares of the epochs, in (0, 1]", self.milestones)

    def rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if epoch < self.warmup_epochs:
            return self.learning_rate * (epoch + 1) / self.warmup_epochs
        if self.schedule == "steps":
            return self.learning_rate * self.decay ** sum(epoch >= round(m * self.epochs) for m in self.milestones)
        if self.schedule == "cosine":
            done = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1)
            return self.learning_rate * (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the parameters that are to be trained."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            parameters, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
