"""Unwrap DataParallel, DistributedDataParallel and compiled models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ..errors import InputError, must

WRAPPERS = ("module", "_orig_mod")


def wrapped(module: nn.Module) -> str | None:
    """Return the attribute in which a wrapper keeps the module inside it; None if `module` is not a wrapper."""
    name = "module" if isinstance(module, DataParallel | DistributedDataParallel) else "_orig_mod"
    return name if isinstance(getattr(module, name, None), nn.Module) else None


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside all its wrappers."""
    while (name := wrapped(model)) is not None:
        model = getattr(model, name)
    return model


def not_python(kind: str) -> InputError:
    """Return the error for a model that TorchScript or `torch.export` made."""
    return must("model", "be a Python module", kind, "pass the model that it was made from")


class WithCopies(nn.Module):
    """A module that also runs shallow copies of modules that it does not register.

    Attributes:
        copies: Each original module and its copy.
    """

    copies: dict[nn.Module, nn.Module]


@contextlib.contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Set models to eval mode within the block; afterwards, also after an error, each submodule has its own mode back.

    The flags are set directly, because a model may override `train()` or `eval()` to do more than set them.

    Args:
        models: Modules; their copies in a `SplitModel` are included.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> with evaluating(model):
        ...     model[1].training
        False
        >>> model[1].training
        True
    """
    modules = [module for model in models for module in model.modules()]
    modules += [module for model in models if isinstance(model, WithCopies) for module in model.copies]
    modes = {module: module.training for module in modules}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, training in modes.items():
            module.training = training
