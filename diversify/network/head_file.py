"""Write a head into a safetensors file, and read it back."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import must
from ..files import atomic
from .linear_head import LinearHead

_LAW = "hold weight (C, D) and, if it has one, bias (C,)"


def save_head(path: Path, head: LinearHead) -> None:
    """Write a head: `weight` and, if it has one, `bias`; a single logit has one row.

    Args:
        path: The file.
        head: The head.

    Example:
        >>> import tempfile
        >>> head = LinearHead(weight=torch.ones(2, 3), bias=torch.zeros(2), single_logit=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_head(Path(folder) / "head.safetensors", head)
        ...     atomic.read_tensors(Path(folder) / "head.safetensors")[0]["weight"].shape
        torch.Size([1, 3])
    """
    rows = slice(1, None) if head.single_logit else slice(None)
    tensors = {"weight": head.weight[rows], "bias": head.bias[rows]}
    if not head.has_bias and not head.bias.any() and not head.cosine:
        del tensors["bias"]
    atomic.write_tensors(path, tensors, head_metadata(head))


def head_metadata(head: LinearHead) -> dict[str, str]:
    """Return what a file says of a head beside its numbers.

    Args:
        head: The head.

    Example:
        >>> head_metadata(LinearHead(weight=torch.ones(2, 3), bias=torch.zeros(2), cosine=True, scale=16.0))
        {'cosine': '1', 'scale': '16.0'}
    """
    return {"cosine": str(int(head.cosine)), "scale": repr(head.scale)}


def load_head(path: Path, name: str = "head") -> LinearHead:
    """Return the head in a safetensors file, which `save_head` wrote or which holds `weight` and perhaps `bias`.

    Args:
        path: The file.
        name: The file as errors name it.

    Returns:
        The head. One row of weights is a single logit.

    Raises:
        InputError: The file is damaged, or holds no head.

    Example:
        >>> import tempfile
        >>> head = LinearHead(weight=torch.ones(2, 3), bias=torch.zeros(2), has_bias=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_head(Path(folder) / "head.safetensors", head)
        ...     load_head(Path(folder) / "head.safetensors").has_bias
        False
    """
    tensors, metadata = atomic.read_tensors(path, name)
    try:
        cosine, scale = bool(int(metadata.get("cosine", "0"))), float(metadata.get("scale", "1"))
    except ValueError:
        raise must(f"{name} {path}", "say its form in its metadata", f"{metadata}") from None
    return head_of_tensors(tensors, f"{name} {path}", cosine=cosine, scale=scale)


def head_of_tensors(
    tensors: dict[str, torch.Tensor], name: str, *, cosine: bool = False, scale: float = 1.0
) -> LinearHead:
    """Return the head whose numbers are `weight` and, if given, `bias`.

    Args:
        tensors: The numbers by name.
        name: What errors call them.
        cosine: Whether it is a cosine head.
        scale: The scale of a cosine head.

    Raises:
        InputError: There is no weight, or shapes do not fit.

    Example:
        >>> head_of_tensors({"weight": torch.ones(1, 3)}, "head").num_classes
        2
    """
    if "weight" not in tensors:
        raise must(name, _LAW, ", ".join(tensors) or "nothing")
    weight = tensors["weight"].float()
    bias = tensors["bias"].float() if "bias" in tensors else torch.zeros(weight.shape[:1])
    has_bias = bool(bias.any()) if cosine else "bias" in tensors
    single = weight.ndim == 2 and len(weight) == 1
    return LinearHead(weight=weight, bias=bias, cosine=cosine, scale=scale, single_logit=single, has_bias=has_bias)
