"""What a method brings to the reference loop, by hand or as a plan asks for it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, Sampler

from .augment import DrawKey
from .errors import must

Criterion = Callable[[Tensor, Tensor], Tensor]


def cross_entropy_at(epoch: int) -> Criterion:
    """Cross entropy, at every epoch; class indices or class probabilities as targets."""
    return functional.cross_entropy


class Adapting(Protocol):
    """What changes the other parts as training goes on."""

    def observe(self, labels: Tensor, predicted: Tensor) -> None:
        """Every step: the labels `(N,)` of the images of all processes and the classes predicted for them, on the device."""

    def update(self, epoch: int) -> Any:
        """After the last step of an epoch, before the state of the run is saved."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ingredients:
    """What a method may bring to the loop; the defaults are plain training.

    Args:
        criterion: The loss of an epoch: `criterion(epoch)(logits (N, C), targets)` is a scalar.
        sampler: Which image, how often. Global: the launcher shards it.
        wrap_dataset: Image space, in loader workers: the training set in, a map-style data set of the same length out.
        augment: Image space, on the device: `(images, targets, DrawKey)` to `(images, targets)`; targets may become
            class probabilities `(N, C)`. Images come as the data set gives them, before normalisation.
        augment_features: Feature space, between backbone and head: `(features, targets, DrawKey)` to the same; the
            number of rows may change. Where it has `remember(features, targets, indices)`, it is first given the
            features of all processes as they left the backbone, without gradient; where it has
            `adjust_logits(logits, targets, weight)` and the head is `nn.Linear`, the loss sees the logits that this
            returns.
        after: `(C,)`: what is subtracted from the logits of the finished network. It is folded into the bias of its
            head after the last epoch, and before that in every look at the val set.
        adapt: What changes the other parts as training goes on.

    `set_epoch` of every part, of the sampler and of the wrapped data set too, is called before an epoch where it exists,
    with the epoch and, if it takes two arguments, the number of epochs. A part that is a module is moved to the device.
    A part with `state_dict` and `load_state_dict` (JSON values and tensors) is saved and resumed with the run.
    """

    criterion: Callable[[int], Criterion] = cross_entropy_at
    sampler: Sampler[int] | None = None
    wrap_dataset: Callable[[Dataset[Any]], Dataset[Any]] | None = None
    augment: Callable[[Tensor, Tensor, DrawKey], tuple[Tensor, Tensor]] | None = None
    augment_features: Callable[[Tensor, Tensor, DrawKey], tuple[Tensor, Tensor]] | None = None
    after: Callable[[], Tensor] | None = None
    adapt: Adapting | None = None

    def state_dict(self) -> dict[str, Any]:
        """The state of every part that has one."""
        return {name: part.state_dict() for name, part in self._stateful()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hand every part its own state back."""
        for name, part in self._stateful():
            part.load_state_dict(state[name])

    def to(self, device: torch.device) -> None:
        """Move the parts that are modules."""
        for _, part in self._parts():
            if isinstance(part, nn.Module):
                part.to(device)

    def epoch_setters(self, dataset: Dataset[Any], epochs: int) -> tuple[Callable[[int], None], ...]:
        """What is to be told the epoch: of the parts and the data set, but for a sampler whose loader tells it all."""
        parts = [dataset, *(part for name, part in self._parts() if name != "wrap_dataset")]
        setters = [part.set_epoch for part in parts if hasattr(part, "set_epoch")]
        own = getattr(self.sampler, "set_epoch", None)
        return tuple(
            partial(_set_both, setter, epochs) if _takes_two(setter) else setter
            for setter in setters
            if setter != own or _takes_two(setter)
        )

    def require_head(self, head: nn.Module) -> None:
        """Nothing, when features before this head can be augmented as is asked for; else an InputError."""
        plan = getattr(self.augment_features, "plan", None)
        if "isda" in getattr(plan, "feature_methods", ()) and not isinstance(head, nn.Linear):
            raise must("head", "be a linear layer, for isda", type(head).__name__, "leave isda out of the plan")

    def _parts(self) -> list[tuple[str, Any]]:
        return [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)]

    def _stateful(self) -> list[tuple[str, Any]]:
        return [
            (name, part)
            for name, part in self._parts()
            if hasattr(part, "state_dict") and hasattr(part, "load_state_dict")
        ]


def _takes_two(set_epoch: Callable[..., None]) -> bool:
    try:
        inspect.signature(set_epoch).bind(0, 1)
    except TypeError:
        return False
    return True


def _set_both(set_epoch: Callable[[int, int], None], epochs: int, epoch: int) -> None:
    set_epoch(epoch, epochs)


__all__ = ["Adapting", "Criterion", "Ingredients", "cross_entropy_at"]
