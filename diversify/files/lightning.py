"""Write checkpoints of PyTorch Lightning again with other weights, for `load_from_checkpoint`."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from . import atomic
from .checkpoints import read_content

_VERSION = "pytorch-lightning_version"
_WEIGHTS = "state_dict"
_OF_TRAINING = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "current_model_state", "averaging_state")
"""The entries that only a resumed training reads; they belong to the old weights."""


def write_lightning(path: Path, source: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Write a Lightning checkpoint with other weights, and return True; return False if the source is no such checkpoint.

    Hyper-parameters and what the module itself has added are kept; the state of the training is left out, so that the
    file can be loaded but training cannot go on from it.

    Args:
        path: The file to write.
        source: The checkpoint.
        tensors: Weights by their names in the checkpoint's `state_dict`; others are not used.

    Raises:
        InputError: The source is not a checkpoint.

    Example:
        >>> import tempfile
        >>> old = {"state_dict": {"net.bias": torch.zeros(2)}, "pytorch-lightning_version": "2.4", "epoch": 3}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(old, Path(folder) / "a.ckpt")
        ...     write_lightning(Path(folder) / "b.ckpt", Path(folder) / "a.ckpt", {"net.bias": torch.ones(2)})
        ...     torch.load(Path(folder) / "b.ckpt", weights_only=True)["state_dict"]
        True
        {'net.bias': tensor([1., 1.])}
    """
    content = read_content(source)
    weights = content.get(_WEIGHTS) if isinstance(content, Mapping) else None
    if not isinstance(content, Mapping) or _VERSION not in content or not isinstance(weights, Mapping):
        return False
    new = {name: tensors[name].detach().cpu().contiguous() for name in weights if name in tensors}
    if not new:
        return False
    kept = {name: _with_paths(value) for name, value in content.items() if name not in _OF_TRAINING}
    buffer = io.BytesIO()
    torch.save({**kept, _WEIGHTS: {**weights, **new}}, buffer)
    atomic.write_bytes(path, buffer.getvalue())
    return True


def _with_paths(value: Any) -> Any:
    """Paths among hyper-parameters as they were saved: `read_content` reads them as plain values."""
    plain, kind = (PureWindowsPath, Path) if os.name == "nt" else (PurePosixPath, Path)
    if isinstance(value, plain):
        return kind(value)
    if type(value) is dict:
        return {key: _with_paths(each) for key, each in value.items()}
    return [_with_paths(each) for each in value] if type(value) is list else value
