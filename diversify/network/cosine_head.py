"""A cosine head: logits are cosines between features and weight rows, times a scale."""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import must
from .split import split_head
from .wrappers import unwrap

SCALE = 30.0
"""The usual scale: logits then lie in [-30, 30]."""


class CosineHead(nn.Module):
    """A head whose logits are `scale * cos(features, weight row)`, without a bias.

    Rows of linear heads are longer for larger classes, which favours these; here the length does not count. `LDAM` needs such a
    head: with `scale=1`, and `max_margin` times the scale of the head. `read_head`, and so all of this library, reads it like a
    linear head. The scale is saved with the weights.

    Args:
        num_features: D.
        num_classes: C.
        scale: Factor on the cosines.
        seed: Seed of the weights.

    Raises:
        InputError: A size is not positive, or the scale is not a positive finite number.

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

    weight: Tensor
    scale: Tensor

    def __init__(self, num_features: int, num_classes: int, scale: float = SCALE, *, seed: int = 0) -> None:
        super().__init__()
        for name, size in (("num_features", num_features), ("num_classes", num_classes)):
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise must(f"{name} of a cosine head", "be an integer of at least 1", repr(size))
        kept = _scale(scale)
        generator = torch.Generator().manual_seed(seed)
        start = torch.empty(num_classes, num_features, device="cpu").uniform_(-1, 1, generator=generator)
        self.weight = nn.Parameter(functional.normalize(start, dim=1))
        self.register_buffer("scale", kept)

    @property
    def in_features(self) -> int:
        """D."""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        """C."""
        return self.weight.shape[0]

    def forward(self, features: Tensor) -> Tensor:
        """Return logits `(..., C)` in [-scale, scale] for features `(..., D)`; half precision is normalised in float32."""
        if features.dtype == torch.float64 or features.dtype == torch.float32:
            rows = functional.normalize(self.weight, dim=-1)
            return self.scale * functional.linear(functional.normalize(features, dim=-1), rows)
        rows = functional.normalize(self.weight.float(), dim=-1)
        logits = self.scale.float() * functional.linear(functional.normalize(features.float(), dim=-1), rows)
        return logits.to(features.dtype)

    def extra_repr(self) -> str:
        """Return the sizes and the scale, for `print(model)`."""
        scale = "unknown" if self.scale.is_meta else f"{float(self.scale):g}"
        return f"in_features={self.in_features}, out_features={self.out_features}, scale={scale}"


def _scale(scale: float) -> Tensor:
    """The scale as float32."""
    number = isinstance(scale, numbers.Real) and not isinstance(scale, bool)
    kept = torch.tensor(float(scale) if number else math.nan, device="cpu")
    if not 0 < float(kept) < math.inf:
        raise must("scale of a cosine head", "be positive and finite, as float32", repr(scale))
    return kept


def with_cosine_head(model: nn.Module, *, scale: float = SCALE, head: str | None = None, seed: int = 0) -> nn.Module:
    """Put a new cosine head in the place of a network's linear head, and return the network.

    Do this before training: the new head knows nothing. `docs/results/recipe.md` shows where it helps and where not.

    Args:
        model: A network that ends in `nn.Linear`, or in a cosine head; it is changed, also inside `DataParallel`. Wrap it in
            `DistributedDataParallel` afterwards, which copies what it wraps.
        scale: Factor on the cosines.
        head: Name of the head's module, where it cannot be found automatically.
        seed: Seed of the new weights.

    Returns:
        The same network.

    Raises:
        InputError: No head is found, it is not `nn.Linear`, it has a single logit, the scale is not positive and finite, or the
            network is wrapped in `DistributedDataParallel`.

    Example:
        >>> import torch, diversify as dv
        >>> model = dv.with_cosine_head(dv.build_model("small_cnn", num_classes=3))
        >>> model.linear
        CosineHead(in_features=64, out_features=3, scale=30)
        >>> dv.read_head(model.linear).cosine
        True
    """
    if any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules()):
        raise must("model", "get its cosine head before it is wrapped", "DistributedDataParallel")
    found = split_head(model, head).head
    if not isinstance(found, nn.Linear | CosineHead):
        raise must("head", "be nn.Linear, to be replaced by a cosine head", type(found).__name__)
    if found.out_features == 1:
        raise must("head", "have an output per class, to be replaced by a cosine head", 1)
    cosine = CosineHead(found.in_features, found.out_features, scale, seed=seed).to(found.weight)
    if unwrap(model) is found:
        return cosine
    for module in list(model.modules()):  # a head that several attributes hold is replaced in all, with its own wrapper
        for name, child in list(module._modules.items()):
            if child is not None and unwrap(child) is found:
                setattr(module, name, cosine)
    return model
