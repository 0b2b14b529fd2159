"""A cosine head: logits are cosines between features and weight rows, times a scale."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import must
from .split import split_head

SCALE = 30.0
"""The usual scale: logits then lie in [-30, 30]."""


class CosineHead(nn.Module):
    """A head whose logits are `scale * cos(features, weight row)`, without a bias.

    Rows of plain heads grow with the size of their class, which favours large classes; here their length does not count. The loss
    `LDAM` needs such a head (with `scale=1`, and `max_margin` times the scale of the head). `read_head`, and so all of this library,
    reads it like a linear head.

    Args:
        num_features: D.
        num_classes: C.
        scale: Factor on the cosines.
        seed: Seed of the weights.

    Raises:
        InputError: The scale is not positive and finite.

    References:
        Gidaris and Komodakis (2018), Dynamic few-shot visual learning without forgetting, CVPR; Cao et al. (2019), Learning
        imbalanced datasets with label-distribution-aware margin loss (LDAM).

    See Also:
        `with_cosine_head`, which puts one into a network.

    Example:
        >>> import torch, diversify as dv
        >>> head = dv.CosineHead(num_features=3, num_classes=2)
        >>> one = torch.tensor([[3.0, 0.0, 4.0]])
        >>> bool(torch.isclose(head(one), head(10 * one)).all()), bool((head(one).abs() <= 30).all())
        (True, True)
    """

    def __init__(self, num_features: int, num_classes: int, scale: float = SCALE, *, seed: int = 0) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise must("scale of a cosine head", "be positive and finite", scale)
        generator = torch.Generator().manual_seed(seed)
        start = torch.empty(num_classes, num_features).uniform_(-1, 1, generator=generator)
        self.weight, self.scale = nn.Parameter(functional.normalize(start, dim=1)), scale

    def forward(self, features: Tensor) -> Tensor:
        """Return `(N, C)` logits in [-scale, scale] for `(N, D)` features."""
        rows = functional.normalize(self.weight, dim=1)
        return self.scale * functional.linear(functional.normalize(features, dim=1), rows)

    def extra_repr(self) -> str:
        """Return the sizes and the scale, for `print(model)`."""
        classes, features = self.weight.shape
        return f"in_features={features}, out_features={classes}, scale={self.scale:g}"


def with_cosine_head(model: nn.Module, *, scale: float = SCALE, head: str | None = None, seed: int = 0) -> nn.Module:
    """Put a new cosine head in the place of a network's linear head, and return the network.

    Do this before training: the new head knows nothing. On long-tailed Fashion-MNIST, balanced softmax gains 4 points of balanced
    accuracy from it (`docs/results/recipe.md`).

    Args:
        model: A network that ends in `nn.Linear`; it is changed.
        scale: Factor on the cosines.
        head: Name of the head's module, where it cannot be found automatically.
        seed: Seed of the new weights.

    Returns:
        The same network.

    Raises:
        InputError: No head is found, it is not `nn.Linear`, it has a single logit, or the scale is not positive and finite.

    Example:
        >>> import torch, diversify as dv
        >>> model = dv.with_cosine_head(dv.build_model("small_cnn", num_classes=3))
        >>> model.linear
        CosineHead(in_features=64, out_features=3, scale=30)
        >>> dv.read_head(model.linear).cosine
        True
    """
    split = split_head(model, head)
    found = split.head
    if not isinstance(found, nn.Linear):
        raise must("head", "be nn.Linear, to be replaced by a cosine head", type(found).__name__)
    if found.out_features == 1:
        raise must("head", "have an output per class, to be replaced by a cosine head", 1)
    cosine = CosineHead(found.in_features, found.out_features, scale, seed=seed).to(found.weight)
    parent, _, name = split.head_name.rpartition(".")
    if not name:
        return cosine
    setattr(model.get_submodule(parent), name, cosine)
    return model
