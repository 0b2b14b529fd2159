"""The steps that train several linear heads side by side: gradients by hand, and stochastic gradient descent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LARGE = 1 << 24  # multiply-adds of a step from which several threads are faster than one


def pull_of(targets: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the mean cross entropy of each step by the log probabilities, `(..., C, B)`.

    Args:
        targets: `(..., B)` classes or `(..., B, C)` class probabilities, with `weight.ndim` dimensions or one more.
        weight: `(V, C, D)`, of the floating type that is trained.

    Example:
        >>> pull_of(torch.tensor([[[0, 1]]]), torch.zeros(1, 2, 3)).tolist()
        [[[[-0.5, 0.0], [0.0, -0.5]]]]
    """
    shared = targets.ndim > weight.ndim
    each = -1 / targets.shape[2]
    if shared:
        return targets.mT.to(weight.dtype) * each
    empty = weight.new_zeros(*targets.shape[:2], weight.shape[1], targets.shape[2])
    return empty.scatter_(2, targets[:, :, None], each)


def gradients(
    weight: Tensor, bias: Tensor, features: Tensor, pull: Tensor, prior: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `prior_corrected_cross_entropy` of V linear heads by their weights and biases.

    They are those of autograd up to rounding, in a fraction of the time: a small head's step is mostly the work of keeping track
    of it. Logits lie as `(V, C, B)`, since products with few columns are several times slower on a CPU.

    Args:
        weight: `(V, C, D)`.
        bias: `(V, C)`.
        features: `(V, B, D)`.
        pull: From `pull_of`, `(V, C, B)`, or `(1, C, B)` where all heads have the same targets.
        prior: What is added to the logits, `(C,)`.

    Example:
        >>> weight, features = torch.zeros(1, 2, 1), torch.tensor([[[1.0], [3.0]]])
        >>> pull = pull_of(torch.tensor([[[0, 1]]]), weight)[:, 0]
        >>> [found.tolist() for found in gradients(weight, torch.zeros(1, 2), features, pull, None)]
        [[[[0.5], [-0.5]]], [[0.0, 0.0]]]
    """
    large = weight[0].numel() * features.shape[1] >= LARGE
    if large:  # each product uses several threads
        logits = torch.stack([torch.addmm(b[:, None], w, x.T) for b, w, x in zip(bias, weight, features, strict=True)])
    else:
        logits = torch.baddbmm(bias[:, :, None], weight, features.mT)
    if prior is not None:
        logits += prior[:, None]
    pushed = torch._log_softmax_backward_data(pull.expand_as(logits), logits.log_softmax(1), 1, logits.dtype)
    if large:
        return torch.stack([p.mm(x) for p, x in zip(pushed, features, strict=True)]), pushed.sum(2)
    return pushed.bmm(features), pushed.sum(2)


class Descent:
    """Stochastic gradient descent with momentum and a cosine schedule, in place.

    The steps are those of `torch.optim.SGD` with `CosineAnnealingLR`, bit for bit. What these two objects do besides would be
    most of the time of a small head's step.

    Args:
        learned: The tensors that are learned.
        decays: The weight decay of each.
        learning_rate: Of the first step.
        momentum: In [0, 1).
        steps: Number of steps.

    Example:
        >>> weight = torch.ones(2)
        >>> Descent([weight], [0.0], 0.5, momentum=0.0, steps=10).down([torch.ones(2)])
        >>> weight.tolist()
        [0.5, 0.5]
    """

    def __init__(
        self, learned: Sequence[Tensor], decays: Sequence[float], learning_rate: float, *, momentum: float, steps: int
    ) -> None:
        self.learned, self.decays = list(learned), list(decays)
        self.learning_rate, self.momentum, self.steps, self.step = learning_rate, momentum, steps, 0
        self.momenta: list[Tensor] = []

    @torch.no_grad()
    def down(self, gradients: Sequence[Tensor]) -> None:
        """Take one step down the gradients by what is learned; more gradients than that are ignored."""
        made = zip(self.learned, self.decays, gradients, strict=False)
        steps = [gradient.add(value, alpha=decay) if decay else gradient for value, decay, gradient in made]
        if self.momentum:
            if not self.momenta:
                self.momenta = [step.clone() for step in steps]
            else:
                for momentum, step in zip(self.momenta, steps, strict=True):
                    momentum.mul_(self.momentum).add_(step)
            steps = self.momenta
        for value, step in zip(self.learned, steps, strict=True):
            value.add_(step, alpha=-self.learning_rate)
        self.step += 1
        now, before = (1 + math.cos(math.pi * step / self.steps) for step in (self.step, self.step - 1))
        self.learning_rate *= now / before
