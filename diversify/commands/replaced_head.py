"""The checkpoint that was diagnosed, with another head in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from ..errors import must
from ..files import checkpoints, shards
from ..network.linear_head import LinearHead, replace_head


def checkpoint_of(record: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the weights file that was diagnosed, under their names in the file."""
    path, digest = Path(record["weights"]["path"]), record["weights"]["sha256"]
    if record.get("from_features"):  # the folder has a copy of the head, and there is nothing else
        path = folder / path
    advice = "put the file back, or run `diversify diagnose` on the present weights"
    if not path.is_file():
        raise must("weights", "be where they were diagnosed", f"no file {path}", advice)
    if shards.digest_checkpoint(path) != digest:
        raise must("weights", "be those that were diagnosed", f"another content of {path}", advice)
    return checkpoints.load_checkpoint(path, as_named=True, weights_key=record["weights"].get("key"))


def with_head(
    tensors: dict[str, torch.Tensor], record: dict[str, Any], old: LinearHead, new: LinearHead
) -> dict[str, torch.Tensor]:
    """The checkpoint with another head in the network that was diagnosed; what the file has beside it stays."""
    prefix = record["weights"].get("prefix", "")
    inside = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)} or tensors
    return tensors | replace_head(inside, record["model"]["head"], old, new)


def replaceable_head(tensors: dict[str, torch.Tensor], record: dict[str, Any], head: LinearHead) -> LinearHead:
    """The head, with `has_bias` as the checkpoint can hold it.

    Raises:
        InputError: The checkpoint's head cannot be replaced at all.
    """
    return dataclasses.replace(head, has_bias=_takes_bias(tensors, record, head))


def _takes_bias(tensors: dict[str, torch.Tensor], record: dict[str, Any], head: LinearHead) -> bool:
    """Return whether the checkpoint's head can hold a bias.

    Raises:
        InputError: The checkpoint's head cannot be replaced at all.
    """
    without = head if head.cosine else dataclasses.replace(head, bias=torch.zeros_like(head.bias))
    with_head(tensors, record, head, without)
    if head.cosine:
        return bool(head.bias.any())
    probe = dataclasses.replace(head, bias=torch.arange(head.num_classes, dtype=torch.float32))
    try:
        with_head(tensors, record, head, probe)
    except ValueError:
        return False
    return True
