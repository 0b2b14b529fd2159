"""Locks between processes that write to the same folder or file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Self

from ..errors import must

try:
    import fcntl
except ImportError:  # Windows: appends from several processes at once are then not serialised
    fcntl = None  # type: ignore[assignment]

KNOWS_LOCKS = fcntl is not None
"""Whether processes can keep each other from writing to the same file."""

LOCK = ".lock"
"""The file by which a process shows that it writes to a folder; gone when it is done."""


# One process at a time

claimed_folders: dict[
    Path, tuple[int, int]
] = {}  # the folders that this process writes to, and their locks' descriptor and inode

if hasattr(os, "register_at_fork"):  # a worker that outlives its parent must not keep the folder locked

    def _forget_claims() -> None:
        for descriptor, _ in claimed_folders.values():
            os.close(descriptor)
        claimed_folders.clear()

    os.register_at_fork(after_in_child=_forget_claims)


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
            if (
                inode_of(self._path) == os.fstat(self._descriptor).st_ino
            ):  # else its last user removed it in the meantime
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


def locked(target: Path, lock: Path) -> int:
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
        if inode_of(lock) == os.fstat(descriptor).st_ino:  # else its holder removed it in the meantime
            os.ftruncate(descriptor, 0)
            with contextlib.suppress(OSError):  # a full disk: the lock holds, its holder has no number
                os.write(descriptor, f"{os.getpid()}\n".encode())
            return descriptor
        os.close(descriptor)


def inode_of(path: Path) -> int | None:
    """The inode of a file; None when it is gone."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def require_claim(path: Path) -> None:
    """Say when the claimed folder that `path` lies in was removed: it is not made again with only half of a run."""
    if claimed_folders:
        parents = path.resolve().parents
        for folder, (_, inode) in claimed_folders.items():
            if folder in parents and inode_of(folder / LOCK) != inode:
                raise FileNotFoundError(errno.ENOENT, "removed while the run was writing to it", str(folder))
