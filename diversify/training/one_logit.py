"""What training checks of a model with one logit z, which is read as two classes with the logits (0, z)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn

from ..errors import InputError, must
from ..network.linear_head import read_head
from ..network.output_check import is_probability, tensors_in
from ..network.split import split_head
from ..network.wrappers import evaluating
from ..runtime.randomness import random_state_kept
from .losses import VectorScaling


def require_logit(model: nn.Module, images: Tensor) -> bool:
    """Check that a model with one output returns its logit, and not the sigmoid of it.

    A model whose head is not found, or has more outputs, is not checked.

    Args:
        model: The model.
        images: Some images, on the model's device.

    Returns:
        Whether the head of the model has one output; False if no head is found.

    Raises:
        InputError: The model returns probabilities.

    Example:
        >>> require_logit(nn.Linear(3, 1), torch.ones(2, 3))
        True
    """
    single = probability = False
    exact = torch.autocast(images.device.type, enabled=False)
    with suppress(InputError), evaluating(model), random_state_kept(), torch.no_grad(), exact:
        split = split_head(model)
        single = read_head(split.head).single_logit
        if single:
            _, _, logit, output = split._run(images)
            probability = any(is_probability(logit, part) for part in tensors_in(output) if part.is_floating_point())
    if probability:
        raise must(
            "model", "return its logit for training", "the sigmoid of it", "leave the sigmoid out of the forward"
        )
    return single


def require_defined(criterion: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Check that a loss is defined for the logits (0, z) of a model with one logit.

    Args:
        criterion: The loss.

    Raises:
        InputError: It is `VectorScaling` with factors other than 1: a factor of the logit 0 changes nothing.

    Example:
        >>> require_defined(nn.CrossEntropyLoss())
    """
    if isinstance(criterion, VectorScaling) and bool((criterion.factors != 1).any()):
        advice = "use BalancedSoftmax, which is VectorScaling with gamma=0, or a model with two outputs"
        raise must("loss", "be defined for one logit", "VectorScaling, which scales the logit of each class", advice)
