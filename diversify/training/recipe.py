"""The training recipe: epochs, optimizer, learning rate schedule and weight decay."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import nn

from ..errors import must, unknown
from ..network.extraction import PRECISIONS

WARMUP_EPOCHS = 5


def warmup_within(epochs: int, wanted: int = WARMUP_EPOCHS) -> int:
    """Return the epochs of warm-up: those wanted, but at most a third of all epochs, rounded down.

    Example:
        >>> warmup_within(200), warmup_within(10)
        (5, 3)
    """
    return min(wanted, epochs // 3)


OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("steps", "cosine", "constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Epochs, optimizer, learning rates and seed of a training run.

    The defaults are the usual recipe for long-tailed CIFAR: SGD with momentum and without Nesterov steps, five epochs
    of linear warm-up, and a learning rate that falls to a hundredth at 80% and again at 90% of the epochs. The rate
    changes only between epochs.

    A warm-up is used as given; if it is longer than the training, the learning rate is never reached. Commands and
    studies give at most a third of the epochs (`warmup_within`).

    Attributes:
        epochs: Passes over the training set, as the sampler draws it.
        batch_size: Images per step, in all processes together.
        optimizer: "sgd" or "adamw".
        learning_rate: The rate after warm-up.
        momentum: Of SGD, in [0, 1).
        weight_decay: Of all trained parameters.
        schedule: "steps", "cosine" or "constant".
        milestones: Shares of the epochs at which "steps" multiplies the rate by `decay`, each in (0, 1].
        decay: Factor of "steps".
        warmup_epochs: Epochs over which the rate rises linearly.
        precision: "fp32", "bf16", or "auto" for the best that the device supports.
        seed: Of all randomness of the training, in [0, 2^63 - 1].

    Raises:
        InputError: A value is outside its range.

    References:
        Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss" (LDAM-DRW).

    Example:
        >>> recipe = Recipe(epochs=100)
        >>> [round(recipe.rate_at(epoch), 5) for epoch in (0, 4, 79, 80, 90)]
        [0.02, 0.1, 0.1, 0.001, 1e-05]
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
        """Return the learning rate of an epoch, counted from 0.

        Example:
            >>> Recipe(schedule="cosine", epochs=10, warmup_epochs=0).rate_at(5)
            0.05
        """
        if epoch < self.warmup_epochs:
            return self.learning_rate * (epoch + 1) / self.warmup_epochs
        if self.schedule == "steps":
            return self.learning_rate * self.decay ** sum(epoch >= round(m * self.epochs) for m in self.milestones)
        if self.schedule == "cosine":
            done = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1)
            return self.learning_rate * (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of the parameters that require a gradient.

        Example:
            >>> type(Recipe(optimizer="adamw").build_optimizer(nn.Linear(2, 2))).__name__
            'AdamW'
        """
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            parameters, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
