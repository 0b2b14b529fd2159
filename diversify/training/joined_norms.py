"""Batch norms that normalise the batch of all processes, as they would in one process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ..errors import must
from .slices import GlobalBatch


class JoinedNorms:
    """The batch norms of a model, joined over the processes of a training.

    `torch.nn.SyncBatchNorm` does the same on GPUs alone, and would take the place of the user's modules. Here the modules
    stay; only `torch.nn.functional.batch_norm`, which those of torch, torchvision and timm call, is another function
    within the block of `joined`. Compiled modules of `torch.jit` do not call it.

    Args:
        several: Whether there are other processes; otherwise nothing is changed.
    """

    def __init__(self, *, several: bool) -> None:
        self.several = several
        self.batch = GlobalBatch(0, 1, 0)

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Normalise whole batches within the block; set `batch` before each forward."""
        own = functional.batch_norm
        if not self.several:
            yield
            return

        def batch_norm(  # the parameters of torch's, by their names
            input: Tensor,  # noqa: A002
            running_mean: Tensor | None,
            running_var: Tensor | None,
            weight: Tensor | None = None,
            bias: Tensor | None = None,
            training: bool = False,
            momentum: float = 0.1,
            eps: float = 1e-5,
        ) -> Tensor:
            if not training:
                return own(input, running_mean, running_var, weight, bias, training, momentum, eps)
            scaled, mean, variance = self._normalised(input, eps)
            shape = (1, -1, *[1] * (input.ndim - 2))
            if weight is not None:
                scaled = scaled * weight.to(scaled.dtype).view(shape)
            if bias is not None:
                scaled = scaled + bias.to(scaled.dtype).view(shape)
            with torch.no_grad():
                for running, now in ((running_mean, mean), (running_var, variance)):
                    if running is not None:
                        running.lerp_(now.to(running.dtype), momentum)
            return scaled.to(input.dtype)

        functional.batch_norm = batch_norm
        try:
            yield
        finally:
            functional.batch_norm = own

    def _normalised(self, given: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the normalised values, the mean and the unbiased variance, both `(C,)`, of the rows that count in all processes.

        Half precision is computed in float32. A channel has as many values as its process has there: a module may reshape
        its images, and their sizes may differ from slice to slice.
        """
        half = given.dtype in (torch.float16, torch.bfloat16)
        values = given.float() if half else given
        others = [0, *range(2, given.ndim)]
        shape = (1, -1, *[1] * (given.ndim - 2))
        counts = float(self.batch.own > 0)
        own = given[:, 0].numel() * counts
        sums = _summed(torch.cat([values.sum(others) * counts, values.new_tensor([own])]))
        number = sums[-1:].detach()
        if own < 2 and float(number) < 2:  # to look at it is to wait for the device
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {given.size()}")
        mean = sums[:-1] / number
        centred = values - mean.view(shape)
        variance = _summed(centred.square().sum(others) * counts) / number
        scaled = centred * (variance + eps).rsqrt().view(shape)
        return scaled, mean, variance * (number / (number - 1))


def require_joinable(model: nn.Module) -> None:
    """Raise an InputError if a batch norm of the model cannot be joined: one that `torch.jit` compiled."""
    for module in model.modules():
        kind = getattr(module, "original_name", "") if isinstance(module, torch.jit.ScriptModule) else ""
        if "BatchNorm" in kind:
            law = "have no batch norm that torch.jit compiled, where several processes train it"
            raise must("model", law, kind, "pass the model as it was before torch.jit")


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is summed too."""

    @staticmethod
    def forward(context: Any, own: Tensor) -> Tensor:
        summed = own.clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        summed = gradient.clone()
        distributed.all_reduce(summed)
        return summed


def _summed(own: Tensor) -> Tensor:
    return _Sum.apply(own)  # type: ignore[no-any-return]
