"""SHA-256 digests of files, tensors and JSON values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor


def sha256(path: Path) -> str:
    """Return the hex digest of a file's bytes.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     sha256(Path(file.name))[:8]
        'e3b0c442'
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return one hex digest of the names, dtypes, shapes and bytes of all tensors.

    It does not depend on the order of the names or on the device.

    Example:
        >>> a, b = torch.zeros(2), torch.ones(3)
        >>> digest_tensors({"a": a, "b": b}) == digest_tensors({"b": b, "a": a})
        True
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_json(value: object) -> str:
    """Return the hex digest of a JSON value; the order of its keys does not matter.

    Example:
        >>> digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()
