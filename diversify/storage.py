"""Files: arrays, JSON, JSON lines, safetensors and checkpoints. Written whole or not at all; knows no type of ours.

Whole files are written beside their target and renamed onto it; folders too. No pickle is written, and none is read
except by `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import pickle  # for the name of its error only
import re
import secrets
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import InputError, must
from .validation import distinct

try:
    import fcntl
except ImportError:  # Windows: appends from several processes at once are then not serialised
    fcntl = None  # type: ignore[assignment]

Array = np.ndarray[Any, Any]

KNOWS_LOCKS = fcntl is not None
"""Whether processes can keep each other from writing to the same file."""

MARKER = "run.json"
"""The file by which a folder is known to be an earlier run of ours, which `--overwrite` may replace."""

LOCK = ".lock"
"""The file by which a process shows that it writes to a folder; gone when it is done."""

_NESTS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_RESAVE = "re-save it with torch.save(model.state_dict(), FILE)"


# Whole files


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` to write to: renamed onto it on success, removed on any error.

    The system's errors name `path` and never the sibling.
    """
    path = Path(path)
    _require_claim(path)
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


def is_temporary(name: str) -> bool:
    """Whether a file of this name is a run's lock, or was being written when its process was killed."""
    return name == LOCK or (name.startswith(".") and name.endswith(".tmp"))


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
    _require_claim(path)
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


def load_checkpoint(path: Path, name: str = "weights", *, as_named: bool = False) -> dict[str, Tensor]:
    """The state dict in a `.pt`, `.pth`, `.bin`, `.ckpt` or `.safetensors` file, on the CPU.

    The content decides, not the suffix. A state dict under `state_dict`, `model_state_dict` or `model` is unwrapped,
    entries that are not tensors are left out, and a `module.` or `_orig_mod.` that begins every key is taken off, unless
    the tensors are wanted `as_named` in the file.

    Raises:
        InputError: The file is missing, a folder, empty, truncated, no checkpoint, holds objects that only a pickle
            could bring back, or holds no tensors.
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
    """`zip`, `pickle` or `safetensors`, by the first bytes; an InputError for anything else."""
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
    elif start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000:  # before: its first byte may be 0x80
        return "safetensors"
    elif start[:1] == b"\x80":
        return "pickle"
    raise must(name, "be a PyTorch or safetensors checkpoint", f"{path}, which is neither")


def _damaged(name: str, path: Path) -> InputError:
    return must(name, "be a whole checkpoint", f"{path}, which is truncated or damaged", "copy or download it again")


def _torch_load(path: Path, name: str) -> object:
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols: the error below says it
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "nsupported" in str(error) or "GLOBAL" in str(error):  # a class or an opcode that weights_only refuses
            raise must(name, "hold tensors only", f"pickled objects in {path}", _RESAVE) from None
        raise _damaged(name, path) from None
    except Exception:  # whatever the unpickler and the archive reader make of broken bytes
        raise _damaged(name, path) from None


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in tensors)), ""):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


# Digests


def sha256(path: Path) -> str:
    """The hex digest of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """One hex digest of names, dtypes, shapes and bytes, by sorted name: equal for equal values on any device."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# Folders


# What runs leave in their folders; nothing else is ever removed.
OWNED = (
    *("run.json", "model.safetensors", "state", "metrics.jsonl", "plan.json"),  # train
    *("diagnosis.json", "exhibits.json", "embeddings", "report.html", "report.md"),  # diagnose
    *("comparison.json", "train", "diagnosis"),  # compare, demo
    *("plan.json", "remedy.json"),  # plan, remedy
    *("digits.npz", "seeds", "test.json"),  # demo
)


def is_run(folder: Path) -> bool:
    """Whether a run left this folder: a `run.json` that says so."""
    try:
        record = read_json(Path(folder) / MARKER, MARKER)
    except InputError:
        return False
    return isinstance(record, dict) and {"schema_version", "command"} <= set(record)


def ensure_available(target: Path, overwrite: bool, *, inputs: Iterable[Path] = ()) -> None:
    """Say early, before long work, that a run could not write to `target`.

    It may be new or empty, or with `overwrite` what an earlier run left; never a folder that holds anything else, or one
    of the `inputs` of the command.
    """
    target = Path(target)
    _require_place(target)
    for given in inputs:
        if target.resolve() in (given.resolve(), *given.resolve().parents):
            raise must("DIR", f"not hold {given}, which the command reads", target, "choose another folder")
    if target.is_dir():
        entries = sorted(entry.name for entry in target.iterdir() if not is_temporary(entry.name))
        if entries:
            if not overwrite:
                raise must("DIR", "be new or empty", target, "pass --overwrite to replace it")
            if not is_run(target):
                raise must("DIR", f"be new, empty or an earlier run (with a {MARKER})", target, "choose another folder")
            foreign = [name for name in entries if name not in OWNED]
            if foreign:
                raise must(
                    "DIR", "hold nothing but an earlier run", f"{target} with {foreign[0]}", "choose another folder"
                )


def _require_place(target: Path) -> None:
    """Say when nothing can be written to `target`, or no folder of that name can be made."""
    if not target.is_dir() and os.path.lexists(target):
        raise must("DIR", "be a folder", f"the file {target}")
    nearest = next(folder for folder in (target, *target.resolve().parents) if os.path.lexists(folder))
    if not nearest.is_dir():
        raise must("DIR", "lie in a folder", f"{target}, in the file {nearest}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise must("DIR", "be writable", target, "choose another folder, or change its permissions")


# One process at a time

_claims: dict[
    Path, tuple[int, int]
] = {}  # the folders that this process writes to, and their locks' descriptor and inode

if hasattr(os, "register_at_fork"):  # a worker that outlives its parent must not keep the folder locked

    def _forget_claims() -> None:
        for descriptor, _ in _claims.values():
            os.close(descriptor)
        _claims.clear()

    os.register_at_fork(after_in_child=_forget_claims)


@contextlib.contextmanager
def claimed(target: Path) -> Iterator[None]:
    """Let nobody else write to the folder `target` within the block; an InputError at once where somebody does.

    The folder is made where it is missing, and removed afterwards if it is still empty. What a killed process was
    writing there is removed. A lock dies with its process, so none is ever stale; where the file system knows no locks,
    the block goes on without. A folder that holds anything but a run is left alone: `ensure_available` refuses it.
    """
    target = Path(target)
    _require_place(target)
    if target.is_dir() and not is_run(target) and any(not is_temporary(entry.name) for entry in target.iterdir()):
        yield
        return
    folder = target.resolve()
    made = [each for each in (folder, *folder.parents) if not each.exists()]  # innermost first
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(target, folder / LOCK)
        try:
            inode = os.fstat(descriptor).st_ino
            _claims[folder] = descriptor, inode
            _remove_leftovers(folder)
            yield
        finally:
            _claims.pop(folder, None)
            if _inode(folder / LOCK) == inode:
                (folder / LOCK).unlink(missing_ok=True)
            os.close(descriptor)
    finally:
        for each in made:
            with contextlib.suppress(OSError):  # not empty, or gone
                each.rmdir()


class Locks:
    """Locks by name, in one file that every process which works on the same thing opens; gone with the process that holds them.

    They are locks on bytes of the file: processes that are forked off, as loader workers are, do not hold them, and a file
    left behind locks nothing. The file is removed by the last process that closes it.
    """

    _open: ClassVar[set[Path]] = set()  # a process has all its locks on a file in one: a second opening would drop them

    def __init__(self, path: Path) -> None:
        self._path = Path(path).resolve()
        if self._path in Locks._open:
            raise must("results", "not be in use by another run", self._path, "end that first")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._held: set[str] = set()
        self._process = os.getpid()
        while True:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            self._lock(_PRESENT, shared=True)
            if _inode(self._path) == os.fstat(self._descriptor).st_ino:  # else its last user removed it in the meantime
                break
            os.close(self._descriptor)
        Locks._open.add(self._path)

    def close(self) -> None:
        """Free all, and remove the file where nobody else uses it."""
        if self._path not in Locks._open or os.getpid() != self._process:
            return
        if self._lock(_PRESENT, wait=False):
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        Locks._open.discard(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Wait until no other process is in a block of this name."""
        self._lock(_byte(name))
        try:
            yield
        finally:
            self._unlock(_byte(name))

    def take(self, name: str) -> bool:
        """Take a lock, unless somebody has it."""
        if name in self._held or not self._lock(_byte(name), wait=False):
            return False
        self._held.add(name)
        return True

    def free(self, name: str) -> None:
        """Give a lock back."""
        self._held.discard(name)
        self._unlock(_byte(name))

    def is_taken(self, name: str) -> bool:
        """Whether some process has this lock, this one among them; for a moment nobody else can take it."""
        if name in self._held:
            return True
        if not self._lock(_byte(name), wait=False):
            return True
        self._unlock(_byte(name))
        return False

    def is_sole(self) -> bool:
        """Whether no other process has the file open."""
        sole = self._lock(_PRESENT, wait=False)
        self._lock(_PRESENT, shared=True)
        return sole

    def _lock(self, byte: int, *, wait: bool = True, shared: bool = False) -> bool:
        if fcntl is None:
            return True
        kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.lockf(self._descriptor, kind, 1, byte)
        except OSError as error:
            if not wait and error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        return True

    def _unlock(self, byte: int) -> None:
        if fcntl is not None:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, byte)


_PRESENT = 0  # the byte that every process which has the file open shares


def _byte(name: str) -> int:
    """Where in the file a name is locked; two names in 2^56 share a byte."""
    return 1 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


def _locked(target: Path, lock: Path) -> int:
    """The descriptor of a lock file that this process alone holds."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            got = f"{target} (process {holder})" if holder else target
            advice = "wait until it is done, or choose another folder"
            raise must("DIR", "not be in use by another run", got, advice) from None
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP):
                os.close(descriptor)
                raise
        if _inode(lock) == os.fstat(descriptor).st_ino:  # else its holder removed it in the meantime
            os.ftruncate(descriptor, 0)
            with contextlib.suppress(OSError):  # a full disk: the lock holds, its holder has no number
                os.write(descriptor, f"{os.getpid()}\n".encode())
            return descriptor
        os.close(descriptor)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _remove_leftovers(folder: Path) -> None:
    """Remove the half-written files of processes that were killed, from a run's folder and what belongs to it."""
    if is_run(folder):
        for path in [*folder.glob(".*.tmp"), *(path for name in OWNED for path in (folder / name).rglob(".*.tmp"))]:
            path.unlink(missing_ok=True)


def _require_claim(path: Path) -> None:
    """Say when the claimed folder that `path` lies in was removed: it is not made again with only half of a run."""
    if _claims:
        parents = path.resolve().parents
        for folder, (_, inode) in _claims.items():
            if folder in parents and _inode(folder / LOCK) != inode:
                raise FileNotFoundError(errno.ENOENT, "removed while the run was writing to it", str(folder))


@contextlib.contextmanager
def staged_directory(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A new folder to fill, which becomes `target` when the block ends well, and is removed when it does not.

    A target that is there must be empty, or, with `overwrite`, an earlier run, kept until the moment it is replaced.
    """
    ensure_available(target, overwrite)
    target = Path(target).resolve()
    made = [folder for folder in target.parents if not folder.exists()]  # innermost first
    staging = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        staging.mkdir(parents=True)
        yield staging
        ensure_available(target, overwrite)  # again: the block may have taken hours
        _swap(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):  # not empty: somebody else's by now
                folder.rmdir()
        raise


def _swap(staging: Path, target: Path) -> None:
    earlier = target.with_name(f"{staging.name}.old")
    try:
        if target.exists():
            target.rename(earlier)
        staging.rename(target)
    except BaseException:
        if earlier.exists() and not target.exists():
            earlier.rename(target)
        raise
    finally:
        if target.exists():
            shutil.rmtree(earlier, ignore_errors=True)


def clear(target: Path) -> None:
    """Remove what an earlier run left in a folder, known by its `run.json`; anything else in it is left alone."""
    target = Path(target)
    if not is_run(target):
        return
    for entry in sorted(target.iterdir(), key=lambda path: path.name == MARKER):  # the marker last
        if entry.name in OWNED or (is_temporary(entry.name) and entry.name != LOCK):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def remove_folder(folder: Path) -> None:
    """Remove a folder of ours and all that is in it, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def digest_json(value: object) -> str:
    """The hex digest of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()
