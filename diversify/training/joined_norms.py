"""Batch norms that normalise the batch of all processes, as they would in one process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from .slices import GlobalBatch


class JoinedNorms:
    """The batch norms of a model, joined over the processes of a training.

    `torch.nn.SyncBatchNorm` does the same on GPUs alone, and would take the place of the user's modules. Here the modules
    stay; only their `forward` is another one within the block of `joined`.

    Args:
        modules: All modules of the model; its batch norms are chosen from them.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        # one of a class with a forward of its own, SyncBatchNorm for instance, knows better
        own = _BatchNorm.forward
        self._norms = [each for each in modules if isinstance(each, _BatchNorm) and type(each).forward is own]
        self.batch = GlobalBatch(0, 1, 0)

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Normalise whole batches within the block; set `batch` before each forward."""
        try:
            for norm in self._norms:
                if norm.training:
                    vars(norm)["forward"] = partial(self._forward, norm)
            yield
        finally:
            for norm in self._norms:
                vars(norm).pop("forward", None)

    def _forward(self, norm: _BatchNorm, given: Tensor) -> Tensor:
        """The batch norm of the rows that count in all processes, in float32; running statistics follow as in torch."""
        norm._check_input_dim(given)
        values = given.float()
        others = [0, *range(2, given.ndim)]
        places = given[0, 0].numel()
        number = self.batch.total * places
        if number < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {given.size()}")
        counts = float(self.batch.own > 0)
        shape = (1, -1, *[1] * (given.ndim - 2))
        mean = _summed(values.sum(others) * counts) / number
        centred = values - mean.view(shape)
        variance = _summed(centred.square().sum(others) * counts) / number
        scaled = centred * (variance + norm.eps).rsqrt().view(shape)
        if norm.weight is not None:
            scaled = scaled * norm.weight.float().view(shape)
        if norm.bias is not None:
            scaled = scaled + norm.bias.float().view(shape)
        if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
            with torch.no_grad():
                assert norm.num_batches_tracked is not None
                norm.num_batches_tracked.add_(1)
                share = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
                norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
                norm.running_var.lerp_((variance * (number / (number - 1))).to(norm.running_var.dtype), share)
        return scaled.to(given.dtype)


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
