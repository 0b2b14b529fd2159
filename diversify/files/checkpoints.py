"""Load PyTorch and safetensors checkpoints without unpickling objects."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError, must
from .atomic import read_tensors, require_file

_NESTS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_RESAVE = "re-save it with torch.save(model.state_dict(), FILE)"


def load_checkpoint(path: Path, name: str = "weights", *, as_named: bool = False) -> dict[str, Tensor]:
    """Return the state dict in a `.pt`, `.pth`, `.bin`, `.ckpt` or `.safetensors` file, on the CPU.

    The format is recognised by the file's content, not by its suffix. A state dict under `state_dict`,
    `model_state_dict` or `model` is unwrapped, and entries that are not tensors are left out. If every key begins with
    `module.` or `_orig_mod.`, the prefix is removed.

    Args:
        path: The checkpoint.
        name: The file as errors name it.
        as_named: Keep the prefixes.

    Raises:
        InputError: The file is missing, a folder, empty, truncated or not a checkpoint; it holds objects that only
            unpickling could restore; or it holds no tensors.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": {"module.weight": torch.zeros(3, 2)}}, Path(folder) / "m.pt")
        ...     weights = load_checkpoint(Path(folder) / "m.pt")
        >>> {name: tuple(tensor.shape) for name, tensor in weights.items()}
        {'weight': (3, 2)}
    """
    path = Path(path)
    require_file(path, name)
    kind = _checkpoint_kind(path, name)
    content: object = read_tensors(path, name)[0] if kind == "safetensors" else _torch_load(path, name)
    while isinstance(content, Mapping):
        nested = [content[key] for key in _NESTS if isinstance(content.get(key), Mapping)]
        if not nested:
            break
        content = nested[0]
    if not isinstance(content, Mapping):
        raise must(name, "hold a state dict of named tensors", f"a {type(content).__name__} in {path}", _RESAVE)
    tensors = {key: value.detach() for key, value in content.items() if isinstance(key, str) and torch.is_tensor(value)}
    if not tensors:
        raise must(name, "hold named tensors", f"none in {path}", _RESAVE)
    return tensors if as_named else _without_prefixes(tensors)


def _checkpoint_kind(path: Path, name: str) -> str:
    """Return `zip`, `pickle` or `safetensors`, by the first bytes.

    Raises:
        InputError: The file is none of these.
    """
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise must(name, "not be empty", f"0 bytes in {path}")
    if start[:4] == b"PK\x03\x04":
        if not zipfile.is_zipfile(path):
            raise _damaged(name, path)
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        if any(member.rpartition("/")[2] == "constants.pkl" for member in members):
            raise must(name, "be a state dict", f"the TorchScript archive {path}", _RESAVE)
        if any(member.rpartition("/")[2] == "data.pkl" for member in members):
            return "zip"
    elif (
        start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000
    ):  # tested before pickle: the first byte may be 0x80
        return "safetensors"
    elif start[:1] == b"\x80":
        return "pickle"
    raise must(name, "be a PyTorch or safetensors checkpoint", f"{path}, which is neither")


def _damaged(name: str, path: Path) -> InputError:
    return must(name, "be a whole checkpoint", f"{path}, which is truncated or damaged", "copy or download it again")


def _torch_load(path: Path, name: str) -> object:
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols, which the error below reports
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "nsupported" in str(error) or "GLOBAL" in str(error):  # a class or an opcode that weights_only refuses
            raise must(name, "hold tensors only", f"pickled objects in {path}", _RESAVE) from None
        raise _damaged(name, path) from None
    except Exception:  # the unpickler and the archive reader raise many kinds for broken bytes
        raise _damaged(name, path) from None


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in tensors)), ""):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors
