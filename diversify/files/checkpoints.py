"""Load PyTorch and safetensors checkpoints without unpickling objects."""

from __future__ import annotations

import argparse
import datetime
import pathlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, must
from .atomic import read_tensors
from .npy import DamagedError, require_modest
from .shards import checkpoint_file, is_index, read_shards

_NESTS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_RESAVE = "re-save it with torch.save(model.state_dict(), FILE)"
_DEEPEST = 4  # levels of dictionaries that are searched for tensors
_MOST = 10_000  # dictionaries that are searched: one that holds another many times over would take for ever
_PATHS = ((pathlib.PurePosixPath, "PosixPath"), (pathlib.PureWindowsPath, "WindowsPath"))
_ARRAYS: Any = getattr(np, "_core" if hasattr(np, "_core") else "core").multiarray
_NUMBERS = [getattr(np.dtypes, name) for name in np.dtypes.__all__ if name not in ("ObjectDType", "VoidDType")]
# What training scripts keep beside the weights: settings, the best accuracy as a number of NumPy, dates. Paths become plain
# values that no file is opened by.
_SETTINGS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    datetime.datetime,
    datetime.date,
    datetime.timedelta,
    np.dtype,
    np.ndarray,
    *_NUMBERS,
    *(
        (getattr(_ARRAYS, name), f"numpy.{home}.multiarray.{name}")
        for name in ("scalar", "_reconstruct")
        for home in ("core", "_core")
    ),
    *((kind, f"{module}.{name}") for kind, name in _PATHS for module in ("pathlib", "pathlib._local")),
    *((kind, f"{module}.Pure{name}") for kind, name in _PATHS for module in ("pathlib", "pathlib._local")),
]
_AVERAGED = re.compile(r"(?:^|[._])(?:ema|averaged?|swa|shadow|polyak)(?:[._]|$)")

StateDicts = dict[str, dict[str, Tensor]]


def load_checkpoint(
    path: Path, name: str = "weights", *, as_named: bool = False, weights_key: str | None = None
) -> dict[str, Tensor]:
    """Return the state dict in a `.pt`, `.pth`, `.bin`, `.ckpt` or `.safetensors` file, or in shards, on the CPU.

    The format is recognised by the file's content, not by its suffix. A state dict under `state_dict`,
    `model_state_dict` or `model` is unwrapped, and entries that are not tensors are left out; under other keys, the one
    with most tensors is taken, and weights averaged over training (EMA) only where there are no others. If every key
    begins with `module.` or `_orig_mod.`, the prefix is removed.

    Args:
        path: The checkpoint: a file, the index of its shards (`model.safetensors.index.json`), or the folder that holds
            either.
        name: The file as errors name it.
        as_named: Keep the prefixes.
        weights_key: Which state dict of the file; see `chosen`.

    Raises:
        InputError: The file is missing, empty, truncated or not a checkpoint; it holds objects that only unpickling
            could restore; it holds no tensors, or none under the key; or a shard is missing, lies outside the folder, or
            lacks a tensor.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": {"module.weight": torch.zeros(3, 2)}}, Path(folder) / "m.pt")
        ...     weights = load_checkpoint(Path(folder) / "m.pt")
        >>> {name: tuple(tensor.shape) for name, tensor in weights.items()}
        {'weight': (3, 2)}
    """
    found = read_state_dicts(path, name)
    if weights_key is not None:
        found = chosen(found, weights_key, path)
    tensors = found[usual_key(found)]
    return tensors if as_named else without_wrappers(tensors)


def read_state_dicts(path: Path, name: str = "weights") -> StateDicts:
    """Return every dictionary of named tensors in a checkpoint, by the dotted path of its keys in the file.

    The path of a file that is itself a state dict is empty. The states of optimizers are left out: their keys are
    numbers.

    Args:
        path: The checkpoint.
        name: The file as errors name it.

    Returns:
        The tensors of each state dict, on the CPU, in the order of the file.

    Raises:
        InputError: As for `load_checkpoint`.

    Example:
        >>> import tempfile
        >>> weights = {"weight": torch.zeros(3, 2)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"model": weights, "ema": {"state_dict": weights}, "epoch": 3}, Path(folder) / "m.pt")
        ...     list(read_state_dicts(Path(folder) / "m.pt"))
        ['model', 'ema.state_dict']
    """
    content = read_content(path, name)
    if not isinstance(content, Mapping):
        raise must(name, "hold a state dict of named tensors", f"a {type(content).__name__} in {path}", _RESAVE)
    found: StateDicts = {}
    if _collect(content, (), found) > _MOST:
        raise must(name, f"hold at most {_MOST:,} dictionaries", f"more in {path}", _RESAVE)
    if not found:
        raise must(name, "hold named tensors", f"none in {path}", _RESAVE)
    return found


def read_content(path: Path, name: str = "weights") -> object:
    """Return all that a checkpoint holds, on the CPU; paths are plain values that no file is opened by.

    Args:
        path: The checkpoint: a file, the index of its shards, or the folder that holds either; see `checkpoint_file`.
        name: The file as errors name it.

    Raises:
        InputError: The file is missing, damaged or not a checkpoint, or holds objects that only unpickling could restore.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"epoch": 3}, Path(folder) / "m.pt")
        ...     read_content(Path(folder) / "m.pt")
        {'epoch': 3}
    """
    path = checkpoint_file(path, name)
    return read_shards(path, name, _read_file) if is_index(path) else _read_file(path, name)


def _read_file(path: Path, name: str) -> object:
    kind = _checkpoint_kind(path, name)
    return read_tensors(path, name)[0] if kind == "safetensors" else _torch_load(path, name)


def _collect(content: Mapping[object, object], keys: tuple[str, ...], found: StateDicts, seen: int = 1) -> int:
    """Add the state dicts in a dictionary to those found; return how many dictionaries were looked at, one too many at most."""
    tensors = {key: value.detach() for key, value in content.items() if isinstance(key, str) and torch.is_tensor(value)}
    if tensors:
        found[".".join(keys)] = tensors
    for key, value in content.items():
        if isinstance(value, Mapping) and isinstance(key, str) and len(keys) < _DEEPEST and seen <= _MOST:
            seen = _collect(value, (*keys, key), found, seen + 1)
    return seen


def chosen(found: StateDicts, weights_key: str, path: Path) -> StateDicts:
    """Return the state dicts that a key chooses.

    Args:
        found: As `read_state_dicts` returns them.
        weights_key: The dotted path of a state dict in the file, such as `state_dict_ema`; or the beginning of the names
            of its tensors, such as `ema_model`, alone or after such a path.
        path: The checkpoint, for the error.

    Returns:
        The state dicts at or under the path; or else those tensors whose names begin so, by the key itself.

    Raises:
        InputError: The file has no such key.

    Example:
        >>> found = {"state_dict": {"net.bias": torch.zeros(1), "ema.bias": torch.ones(1)}}
        >>> chosen(found, "ema", Path("a.ckpt"))
        {'ema': {'ema.bias': tensor([1.])}}
    """
    if weights_key in found:
        return {weights_key: found[weights_key]}
    under = {key: tensors for key, tensors in found.items() if key.startswith(f"{weights_key}.")}
    if under:
        return under
    for key, tensors in found.items():
        for start in (f"{weights_key}.", f"{weights_key}.".removeprefix(f"{key}.")):
            named = {name: tensor for name, tensor in tensors.items() if name.startswith(start)}
            if named:
                return {weights_key: named}
    keys = [key for key in found if key] or sorted({name.partition(".")[0] for name in found[""]})
    shown = ", ".join(keys[:8]) + (", ..." if len(keys) > 8 else "")
    raise must("weights_key", f"name a state dict of {path}", repr(weights_key), f"the file has {shown}")


def usual_key(found: StateDicts) -> str:
    """Return which of several state dicts is taken by its key alone.

    Args:
        found: As `read_state_dicts` returns them.

    Example:
        >>> usual_key({"state_dict_ema": {"bias": torch.ones(1)}, "state_dict": {"bias": torch.zeros(1)}})
        'state_dict'
    """
    key = ""
    while nested := [each for nest in _NESTS if _holds(found, each := f"{key}.{nest}" if key else nest)]:
        key = nested[0]
    if key in found and key:
        return key
    within = {each: tensors for each, tensors in found.items() if not key or each.startswith(f"{key}.")}
    return max(within, key=lambda each: (not is_averaged(each), len(within[each])))


def is_usual(key: str) -> bool:
    """Return whether weights are usually kept under this key: `state_dict`, `model_state_dict`, `model`, or none.

    Args:
        key: The dotted path of a state dict in a file.

    Example:
        >>> is_usual(""), is_usual("model.state_dict"), is_usual("epoch_3")
        (True, True, False)
    """
    return not key or set(key.split(".")) <= set(_NESTS)


def _holds(found: StateDicts, key: str) -> bool:
    return any(each == key or each.startswith(f"{key}.") for each in found)


def is_averaged(name: str) -> bool:
    """Return whether a key or a prefix speaks of weights that are averaged over training (EMA, SWA).

    Args:
        name: The key, such as `model_ema`.

    Example:
        >>> is_averaged("model_ema"), is_averaged("ema_model.module."), is_averaged("schema")
        (True, True, False)
    """
    return _AVERAGED.search(name.lower()) is not None


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
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.namelist()
                require_modest(archive.infolist(), path, name)
        except InputError:
            raise
        except (DamagedError, zipfile.BadZipFile, ValueError, NotImplementedError):
            raise _damaged(name, path) from None
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
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_SETTINGS):
            return torch.load(path, map_location="cpu", weights_only=True)  # warns of pickle protocols: reported below
    except pickle.UnpicklingError as error:
        if "nsupported" in str(error) or "GLOBAL" in str(error):  # a class or an opcode that weights_only refuses
            what = re.search(r"GLOBAL ([\w.]+)", str(error))
            kind = f" ({what.group(1)})" if what else ""
            raise must(name, "hold tensors only", f"pickled objects in {path}{kind}", _RESAVE) from None
        raise _damaged(name, path) from None
    except Exception:  # the unpickler and the archive reader raise many kinds for broken bytes
        raise _damaged(name, path) from None


def without_wrappers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without `module.` and `_orig_mod.`, where every name begins so.

    Args:
        tensors: A state dict.

    Example:
        >>> list(without_wrappers({"module._orig_mod.bias": torch.zeros(1)}))
        ['bias']
    """
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in tensors)), ""):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors
