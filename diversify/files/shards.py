"""Checkpoints in several files, as `save_pretrained` writes them: an index that says which tensor is in which file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PureWindowsPath

from torch import Tensor

from ..errors import must
from .atomic import read_json, require_file
from .digests import digest_json, sha256

SUFFIX = ".index.json"
IN_FOLDER = (
    "model.safetensors",
    f"model.safetensors{SUFFIX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{SUFFIX}",
)
"""The names of checkpoints that are found by their folder, the first of them first."""

_AGAIN = "copy or download it again"


def checkpoint_file(path: Path, name: str = "weights") -> Path:
    """Return the checkpoint at a path: the file itself, or of a folder the checkpoint in it, whole or an index of shards.

    Args:
        path: The file or folder.
        name: The file as errors name it.

    Raises:
        InputError: There is no such file, it cannot be read, or the folder holds no checkpoint of a usual name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "model.safetensors.index.json").write_text("{}")
        ...     checkpoint_file(Path(folder)).name
        'model.safetensors.index.json'
    """
    path = Path(path)
    if not path.is_dir():
        require_file(path, name)
        return path
    found = [path / each for each in IN_FOLDER if (path / each).is_file()]
    found = found or sorted(each for each in path.glob(f"*{SUFFIX}") if each.is_file())
    if len(found) == 1 or (found and found[0].name in IN_FOLDER):
        require_file(found[0], name)
        return found[0]
    got = f"the folder {path}" + (f", which holds {len(found)} indices" if found else "")
    raise must(name, f"be a file, or a folder that holds {IN_FOLDER[0]} or its index", got)


def is_index(path: Path) -> bool:
    """Return whether a file is JSON, as the index of shards is, and no checkpoint: by its first byte that is no space.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "a").write_text(' {"weight_map": {}}')
        ...     is_index(Path(folder) / "a")
        True
    """
    with path.open("rb") as file:
        start = file.read(64)
    return start.lstrip()[:1] == b"{" and start[8:9] != b"{"


def read_shards(index: Path, name: str, read: Callable[[Path, str], object]) -> dict[str, Tensor]:
    """Return the tensors of all shards, each from the file that the index names.

    Args:
        index: The index.
        name: The file as errors name it.
        read: Returns the content of one shard: its tensors by name.

    Raises:
        InputError: The index is damaged or names a file outside its folder; a shard is missing or damaged; or a shard
            lacks a tensor that the index says it holds.

    Example:
        >>> import tempfile, torch
        >>> from diversify.files.atomic import read_tensors, write_json, write_tensors
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_tensors(Path(folder) / "1-of-1.safetensors", {"bias": torch.ones(1)})
        ...     write_json(Path(folder) / "index.json", {"weight_map": {"bias": "1-of-1.safetensors"}})
        ...     read_shards(Path(folder) / "index.json", "weights", lambda path, name: read_tensors(path, name)[0])
        {'bias': tensor([1.])}
    """
    found: dict[str, Tensor] = {}
    for file, names in _shards(index, name).items():
        content = read(index.parent / file, f"{name} shard")
        for each in names:
            tensor = content.get(each) if isinstance(content, dict) else None
            if not isinstance(tensor, Tensor):
                raise must(name, f"hold every tensor of {index}", f"no {each} in {file}", _AGAIN)
            found[each] = tensor
    return found


def digest_checkpoint(path: Path) -> str:
    """Return the hex digest of a checkpoint's bytes; of an index, of the names and bytes of its shards too.

    Args:
        path: The file, or the index of shards.

    Raises:
        InputError: As `read_shards`, for the index and missing files.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "a.pt").write_bytes(b"")
        ...     digest_checkpoint(Path(folder) / "a.pt")[:8]
        'e3b0c442'
    """
    if not is_index(path):
        return sha256(path)
    files = {file: sha256(path.parent / file) for file in _shards(path, "weights")}
    return digest_json([sha256(path), files])


def _shards(index: Path, name: str) -> dict[str, list[str]]:
    """The names of the tensors in each file, after checking that the files are there and lie in the index's folder."""
    content = read_json(index, name)
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not named or not all(isinstance(file, str) for file in named.values()):
        advice = "pass a checkpoint, or the index that save_pretrained writes"
        raise must(name, "hold a weight_map from tensors to files", f"none in {index}", advice)
    files: dict[str, list[str]] = {}
    for tensor, file in named.items():
        files.setdefault(file, []).append(tensor)
    for file in files:
        place = PureWindowsPath(file)  # knows the separators and drives of every system
        if not file or place.drive or place.root or ".." in place.parts:
            raise must(name, "name files in the folder of its index", f"{file!r} in {index}")
        if not _is_file(index.parent / file):
            raise must(name, f"have every file that {index} names", f"no {file}", _AGAIN)
        require_file(index.parent / file, f"{name} shard")
    return files


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for the system
        return False
