"""Arrays, JSON, JSON lines and safetensors, written whole or not at all.

A file is written beside its target and then renamed onto it. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import must
from .locks import require_claim
from .schema import distinct

try:
    import fcntl
except ImportError:  # Windows: appends from several processes at once are then not serialised
    fcntl = None  # type: ignore[assignment]

Array = np.ndarray[Any, Any]


# Whole files


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` to write to: renamed onto it on success, removed on any error.

    The system's errors name `path` and never the sibling.
    """
    path = Path(path)
    require_claim(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename is None or str(error.filename) == str(temporary):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    except SafetensorError as error:  # what its writer makes of the system's errors
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file; on any error the old one, if there was one, is still there."""
    with _replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, data: str) -> None:
    """Write a whole UTF-8 text file, line ends as given; bytes of a file name that are no text as JSON's escapes."""
    write_bytes(path, data.encode(errors="backslashreplace"))


def write_json(path: Path, obj: object) -> None:
    """Write one JSON value, keys in their order; NaN must have become None before (ValueError otherwise)."""
    write_text(path, json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    """Write all records of a JSON-lines file at once."""
    write_text(path, "".join(map(_line, records)))


def append_jsonl(path: Path, record: Mapping[str, object]) -> None:
    """Add one record as one line, in one write: several processes may append, and a kill loses one line at most.

    A last line without an end, left by a kill or a full disk, is cut off first.
    """
    line = _line(record).encode(errors="backslashreplace")
    path = Path(path)
    require_claim(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # released by the close below
        _cut_torn_line(descriptor)
        end = os.lseek(descriptor, 0, os.SEEK_END)
        if os.write(descriptor, line) != len(line):
            os.ftruncate(descriptor, end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def follow_jsonl(path: Path, offset: int = 0) -> tuple[list[bytes], int]:
    """The whole lines of a JSON-lines file from a byte on, and the byte to go on from; none where there is no file yet.

    Lines that were there once must not change: only what comes after them is read again.
    """
    try:
        with Path(path).open("rb") as file:
            file.seek(offset)
            whole, end, _ = file.read().rpartition(b"\n")
    except FileNotFoundError:
        return [], 0
    return (whole.split(b"\n"), offset + len(whole) + 1) if end else ([], offset)


def cut_torn_line(path: Path) -> None:
    """Cut off a last line without an end, where a process that has it alone is about to append."""
    with contextlib.suppress(FileNotFoundError), Path(path).open("r+b") as file:
        _cut_torn_line(file.fileno())


def _line(record: Mapping[str, object]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _cut_torn_line(descriptor: int) -> None:
    size = end = os.lseek(descriptor, 0, os.SEEK_END)
    while end > 0:
        start = max(end - (1 << 16), 0)
        os.lseek(descriptor, start, os.SEEK_SET)
        newline = os.read(descriptor, end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)


def read_json(path: Path, name: str) -> Any:
    """The value in a JSON file; `name` is what the error calls it."""
    data = _read(path, name)
    if not data.strip():
        raise must(name, "not be empty", path)
    try:
        return json.loads(data, object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested without end
        raise must(name, "be whole, valid JSON", f"{path} ({error})") from None


def read_jsonl(path: Path, name: str = "records") -> list[dict[str, Any]]:
    """The records of a JSON-lines file, without a torn last line; a bad line elsewhere is an InputError."""
    whole, _, _ = _read(path, name).rpartition(b"\n")
    records = []
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise must(name, "hold one JSON object per line", f"another thing on line {number} of {path}")
        records.append(record)
    return records


def _read(path: Path, name: str) -> bytes:
    require_file(path, name)
    return Path(path).read_bytes()


def require_file(path: Path, name: str) -> None:
    """Say in one line when a file is missing, a folder, or unreadable; `name` is what the error calls it."""
    path = Path(path)
    if path.is_dir():
        raise must(name, "be a file", f"the folder {path}")
    if not path.is_file():
        raise must(name, "be an existing file", path)
    if not os.access(path, os.R_OK):
        raise must(name, "be readable", path)


# Arrays


def write_array(path: Path, array: Array) -> None:
    """Write a whole `.npy` file."""
    with _replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a whole compressed `.npz` file, the same bytes for the same arrays."""
    with _replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def create_array(path: Path, shape: tuple[int, ...], dtype: str) -> Array:
    """A new `.npy` file of zeros, mapped into memory for writing; written to disk by `flush_array`.

    Its space is taken at once: a process that writes to a map which the disk cannot hold is killed by the system.
    """
    if 0 in shape:  # an empty map is refused by the system
        write_array(path, np.zeros(shape, dtype))
        return np.zeros(shape, dtype)
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    with _replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        _take_space(file.fileno(), file.tell(), math.prod(shape) * np.dtype(dtype).itemsize)
    return open_array(path, Path(path).name, writable=True)


_ZEROS = bytes(1 << 20)


def _take_space(descriptor: int, start: int, size: int) -> None:
    """Make a file `start + size` bytes long with nothing but zeros from `start` on, and every block of it on the disk."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, start, size)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENODEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
                raise
    os.lseek(descriptor, start, os.SEEK_SET)
    while size > 0:
        size -= os.write(descriptor, _ZEROS[: min(size, len(_ZEROS))])


def open_array(path: Path, name: str, *, writable: bool = False) -> Array:
    """A `.npy` file mapped into memory: changes stay in memory, or go to the file when `writable`."""
    require_file(path, name)
    try:
        array: Array = np.load(path, mmap_mode="r+" if writable else "c", allow_pickle=False)
    except (ValueError, EOFError, OSError):
        if Path(path).stat().st_size and (empty := _empty_array(path)) is not None:
            return empty
        raise must(name, "be a whole .npy file", f"{path} (truncated, or not an array)") from None
    return array


def _empty_array(path: Path) -> Array | None:
    try:
        array: Array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError):
        return None
    return array if array.size == 0 else None


def flush_array(array: Array) -> None:
    """Hand a mapped array's changes to the disk; nothing for an array in memory."""
    if isinstance(array, np.memmap):
        try:
            array.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(array.filename)) from error


# Tensors


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file; tensors that share memory or are not contiguous are written as copies."""
    copies = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.preserve_format).contiguous()
        for name, tensor in tensors.items()
    }
    with _replacing(path) as temporary:
        save_file(copies, temporary, metadata=dict(metadata) if metadata else None)


def read_tensors(path: Path, name: str = "weights") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, on the CPU, and its metadata."""
    require_file(path, name)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise must(name, "be a whole safetensors file", f"{path} ({error})", "copy or download it again") from None
