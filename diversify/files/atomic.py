"""Read and write JSON, JSON lines, NumPy arrays and safetensors; a file is written completely or not at all.

The data goes to a temporary file beside the target, which is then renamed onto it. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import must
from .locks import require_claim
from .npy import Array as Array
from .npy import DamagedError, check_header
from .schema import distinct

try:
    import fcntl
except ImportError:  # Windows: appends by several processes at the same time may then mix
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file name beside `path`; it is renamed onto `path` on success and removed on any error.

    Errors of the system name `path` and never the temporary file.
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
        if error.filename is None or str(error.filename).startswith(str(temporary)):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    except SafetensorError as error:  # its writer wraps errors of the system
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file; on any error an earlier file of this name stays as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_bytes(Path(folder) / "a", b"abc")
        ...     (Path(folder) / "a").read_bytes()
        b'abc'
    """
    with _replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, data: str) -> None:
    """Write a UTF-8 text file with line ends as given.

    Characters that UTF-8 cannot hold, as in file names that are not text, are written as backslash escapes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(Path(folder) / "a", "two words")
        ...     (Path(folder) / "a").read_text()
        'two words'
    """
    write_bytes(path, data.encode(errors="backslashreplace"))


def write_json(path: Path, obj: object) -> None:
    """Write one JSON value; keys keep their order.

    Raises:
        ValueError: The value holds NaN or infinity; replace them with None first.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json(Path(folder) / "a.json", {"b": 1, "a": None})
        ...     read_json(Path(folder) / "a.json", "record")
        {'b': 1, 'a': None}
    """
    write_text(path, json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    """Write a JSON-lines file with these records.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_jsonl(Path(folder) / "a.jsonl", [{"seed": 0}, {"seed": 1}])
        ...     read_jsonl(Path(folder) / "a.jsonl")
        [{'seed': 0}, {'seed': 1}]
    """
    write_text(path, "".join(map(_line, records)))


def append_jsonl(path: Path, record: Mapping[str, object]) -> None:
    """Append one record as one line, in one write.

    Several processes may append to the same file, and a killed process loses at most its own line. An incomplete last
    line, left by a killed process or a full disk, is removed first.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for seed in range(2):
        ...         append_jsonl(Path(folder) / "a.jsonl", {"seed": seed})
        ...     read_jsonl(Path(folder) / "a.jsonl")
        [{'seed': 0}, {'seed': 1}]
    """
    line = _line(record).encode(errors="backslashreplace")
    path = Path(path)
    require_claim(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        if fcntl is not None:  # the file is its own lock, so that none is left beside it; the close below releases it
            fcntl.flock(descriptor, fcntl.LOCK_EX)
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
    """Return the complete lines of a JSON-lines file from a byte offset on, and the offset for the next call.

    Only bytes after the offset are read, so lines must not change once they are written. A missing file has no lines.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     append_jsonl(Path(folder) / "a.jsonl", {"seed": 0})
        ...     lines, offset = follow_jsonl(Path(folder) / "a.jsonl")
        >>> lines, offset
        ([b'{"seed": 0}'], 12)
    """
    try:
        with Path(path).open("rb") as file:
            file.seek(offset)
            whole, end, _ = file.read().rpartition(b"\n")
    except FileNotFoundError:
        return [], 0
    return (whole.split(b"\n"), offset + len(whole) + 1) if end else ([], offset)


def cut_torn_line(path: Path) -> None:
    """Remove an incomplete last line from a file; the caller must be its only writer.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_bytes(Path(folder) / "a.jsonl", b'{"seed": 0}\\n{"se')
        ...     cut_torn_line(Path(folder) / "a.jsonl")
        ...     (Path(folder) / "a.jsonl").read_bytes()
        b'{"seed": 0}\\n'
    """
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
    """Return the value in a JSON file.

    Args:
        path: The file.
        name: The file as errors name it, for example "plan".

    Raises:
        InputError: The file is missing, a folder, empty, or not valid JSON; or an object holds a name twice.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json(Path(folder) / "a.json", [1, 2])
        ...     read_json(Path(folder) / "a.json", "record")
        [1, 2]
    """
    data = _read(path, name)
    if not data.strip():
        raise must(name, "not be empty", path)
    try:
        return json.loads(data, object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested without end
        raise must(name, "be whole, valid JSON", f"{path} ({error})") from None


def read_csv(path: Path, name: str) -> list[list[str]]:
    """Return the cells of a CSV file without spaces around them; empty rows are left out.

    Raises:
        InputError: The file is missing, a folder, empty, or not valid CSV in UTF-8.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_bytes(Path(folder) / "a.csv", b'class,share\\n"a, b", 0.5\\n')
        ...     read_csv(Path(folder) / "a.csv", "shares")
        [['class', 'share'], ['a, b', '0.5']]
    """
    try:
        text = _read(path, name).decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise must(name, "be valid CSV in UTF-8", f"{path} ({error})") from None
    rows = [[cell.strip() for cell in line] for line in lines if any(cell.strip() for cell in line)]
    if not rows:
        raise must(name, "not be empty", path)
    return rows


def read_jsonl(path: Path, name: str = "records") -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file; an incomplete last line is left out.

    Raises:
        InputError: The file is missing or a folder, or a line is not a JSON object.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_bytes(Path(folder) / "a.jsonl", b'{"seed": 0}\\n{"se')
        ...     read_jsonl(Path(folder) / "a.jsonl")
        [{'seed': 0}]
    """
    whole, _, _ = _read(path, name).rpartition(b"\n")
    records = []
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise must(name, "hold one JSON object per line", f"another thing on line {number} of {path}")
        records.append(record)
    return records


def _read(path: Path, name: str) -> bytes:
    require_file(path, name)
    return Path(path).read_bytes()


def require_file(path: Path, name: str) -> None:
    """Check that `path` is a file that can be read; `name` is the file as errors name it.

    Raises:
        InputError: It is missing, a folder, or not readable.

    Example:
        >>> require_file(Path(__file__), "source")
    """
    path = Path(path)
    if path.is_dir():
        raise must(name, "be a file", f"the folder {path}")
    if not path.is_file():
        raise must(name, "be an existing file", path)
    if not os.access(path, os.R_OK):
        raise must(name, "be readable", path)


def write_array(path: Path, array: Array) -> None:
    """Write a `.npy` file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_array(Path(folder) / "a.npy", np.arange(3))
        ...     open_array(Path(folder) / "a.npy", "array").tolist()
        [0, 1, 2]
    """
    with _replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a compressed `.npz` file; the same arrays give the same bytes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_arrays(Path(folder) / "a.npz", {"labels": np.arange(3)})
        ...     np.load(Path(folder) / "a.npz")["labels"].tolist()
        [0, 1, 2]
    """
    with _replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def create_array(path: Path, shape: tuple[int, ...], dtype: str) -> Array:
    """Create a `.npy` file of zeros and return it mapped into memory for writing; `flush_array` writes it to disk.

    The disk space is reserved at once: the system kills a process that writes to a map for which there is no room.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     array = create_array(Path(folder) / "a.npy", (2, 3), "<f4")
        ...     array[1] = 5
        ...     flush_array(array)
        ...     np.load(Path(folder) / "a.npy").sum().tolist()
        15.0
    """
    if 0 in shape:  # the system refuses an empty map
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
    """Extend a file to `start + size` bytes with zeros from `start` on, and reserve its blocks on the disk."""
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
    """Return a `.npy` file mapped into memory; changes stay in memory, or go to the file if `writable`.

    Raises:
        InputError: The file is missing, truncated, or not an array.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_array(Path(folder) / "a.npy", np.eye(2))
        ...     open_array(Path(folder) / "a.npy", "array").shape
        (2, 2)
    """
    require_file(path, name)
    path = Path(path)
    try:
        with path.open("rb") as file:
            check_header(file, path.stat().st_size)
        array: Array = _mapped(path, "r+" if writable else "c")
    except (DamagedError, ValueError, EOFError):
        raise must(name, "be a whole .npy file", f"{path} (truncated, or not an array)") from None
    return array


def _mapped(path: Path, mode: Literal["r+", "c"]) -> Array:
    try:
        array: Array = np.load(path, mmap_mode=mode, allow_pickle=False)
    except ValueError:  # the system refuses an empty map
        array = np.load(path, allow_pickle=False)
        if array.size:
            raise
    return array


def flush_array(array: Array) -> None:
    """Write the changes of a mapped array to the disk; does nothing for an array in memory.

    Example:
        >>> flush_array(np.zeros(3))
    """
    if isinstance(array, np.memmap):
        try:
            array.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(array.filename)) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file; tensors that share memory or are not contiguous are copied first.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_tensors(Path(folder) / "a.safetensors", {"weight": torch.ones(2, 3).T}, {"origin": "test"})
        ...     tensors, metadata = read_tensors(Path(folder) / "a.safetensors")
        >>> tuple(tensors["weight"].shape), metadata
        ((3, 2), {'origin': 'test'})
    """
    copies = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.preserve_format).contiguous()
        for name, tensor in tensors.items()
    }
    with _replacing(path) as temporary, _folder_for(temporary) as made:
        save_file(copies, made, metadata=dict(metadata) if metadata else None)


@contextlib.contextmanager
def _folder_for(temporary: Path) -> Iterator[Path]:
    """Yield a file in a temporary folder; it becomes `temporary`, with the rights of any new file.

    The writer of safetensors makes a temporary file of its own, with a name that only it knows, and gives it to its owner
    alone. In a folder of ours it can be found and removed after a kill.
    """
    temporary.touch()
    rights = stat.S_IMODE(temporary.stat().st_mode)
    folder = temporary.with_name(f"{temporary.name}.tmp")
    made = folder / "tensors"
    try:
        folder.mkdir()
        yield made
        with contextlib.suppress(OSError):  # a file system without rights
            made.chmod(rights)
        made.replace(temporary)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_tensors(path: Path, name: str = "weights") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, on the CPU, and its metadata.

    Raises:
        InputError: The file is missing, or truncated, or not a safetensors file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_tensors(Path(folder) / "a.safetensors", {"bias": torch.zeros(4)})
        ...     read_tensors(Path(folder) / "a.safetensors")[0]["bias"].tolist()
        [0.0, 0.0, 0.0, 0.0]
    """
    require_file(path, name)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise must(name, "be a whole safetensors file", f"{path} ({error})", "copy or download it again") from None
