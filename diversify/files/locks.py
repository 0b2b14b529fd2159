"""Locks between processes that write to the same folder or file.

A lock ends with the process that holds it, so no lock is ever stale.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Self

from filelock import FileLock, Timeout

from ..errors import must

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

KNOWS_LOCKS = fcntl is not None
"""True if this system has the named locks of `Locks`; Windows has not."""

LOCK = ".lock"
"""The lock file in a folder that a process writes to; removed when the process is done."""

_UNSUPPORTED = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
_RETRY, _PAUSE = 0.02, 0.002  # seconds: the last holder removes the file, and one that was just opened is then void

claimed_folders: dict[Path, int] = {}
"""The folders that this process writes to, each with the inode of its lock file."""


@contextlib.contextmanager
def folder_lock(folder: Path, shown: Path | None = None) -> Iterator[None]:
    """Hold the only lock on `folder` within the block, with the process number in its `.lock` file.

    On a file system without locks the block runs all the same.

    Args:
        folder: An existing folder, as an absolute path.
        shown: The folder as the error names it; None shows `folder`.

    Raises:
        InputError: Another process holds the lock.
    """
    path = folder / LOCK
    lock = FileLock(path, timeout=_RETRY, poll_interval=_PAUSE, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        holder = _holder(path)
        got = f"{shown or folder} (process {holder})" if holder else shown or folder
        advice = "wait until it is done, or choose another folder"
        raise must("out", "not be in use by another run", got, advice) from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    inode = None
    try:
        with contextlib.suppress(OSError):  # on a full disk the lock holds, without the number
            path.write_text(f"{os.getpid()}\n", encoding="utf-8")
        inode = inode_of(path)
        if inode is not None:
            claimed_folders[folder] = inode
        yield
    finally:
        claimed_folders.pop(folder, None)
        if inode is not None and inode_of(path) == inode:  # else the folder was removed and made again
            with contextlib.suppress(OSError):  # Windows keeps an open file
                path.unlink()
        lock.release()


def _holder(lock: Path) -> str:
    """Return the number of the process that holds a lock file; empty where it cannot be read."""
    try:
        return lock.read_text(encoding="utf-8", errors="replace").strip()[:32]
    except OSError:
        return ""


def inode_of(path: Path) -> int | None:
    """Return the inode of a file; None if the file is gone."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def require_claim(path: Path) -> None:
    """Check that the claimed folder around `path` is still there, so that a removed run is not half made again.

    Raises:
        FileNotFoundError: The folder was removed, or removed and made again.
    """
    if claimed_folders:
        parents = path.resolve().parents
        for folder, inode in claimed_folders.items():
            if folder in parents and inode_of(folder / LOCK) != inode:
                raise FileNotFoundError(errno.ENOENT, "removed while the run was writing to it", str(folder))


class Locks:
    """Locks by name in one file, which every process that works on the same study opens.

    Each name is a byte of the file, locked by `fcntl`. `filelock` cannot do this: it locks whole files and only
    exclusively, while a study has a lock for each of its runs, whose names are not known before, and a shared lock
    that tells whether other processes are present. Forked processes, such as loader workers, do not inherit these
    locks. The last process that closes the file removes it. On a system without `fcntl` every lock is free.

    Args:
        path: The file of locks; made where it is missing.

    Raises:
        InputError: This process has the file open already.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Locks(Path(folder) / "locks") as locks:
        ...     locks.take("run 1"), locks.is_taken("run 1"), locks.is_taken("run 2"), locks.is_sole()
        (True, True, False, True)
    """

    # Opening a file a second time and closing it again would drop all locks that the process has on it.
    _open: ClassVar[set[Path]] = set()

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
            if inode_of(self._path) == os.fstat(self._descriptor).st_ino:
                break
            os.close(self._descriptor)  # the last user of the file removed it in the meantime
        Locks._open.add(self._path)

    def close(self) -> None:
        """Release all locks, and remove the file if no other process has it open."""
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
        """Wait until no other process is in a block of this name, then run the block."""
        self._lock(_byte(name))
        try:
            yield
        finally:
            self._unlock(_byte(name))

    def take(self, name: str) -> bool:
        """Take a lock if it is free; return whether it was."""
        if name in self._held or not self._lock(_byte(name), wait=False):
            return False
        self._held.add(name)
        return True

    def free(self, name: str) -> None:
        """Release a lock."""
        self._held.discard(name)
        self._unlock(_byte(name))

    def is_taken(self, name: str) -> bool:
        """Return whether some process, this one included, has the lock.

        To find out, the lock is taken for a moment, in which no other process can take it.
        """
        if name in self._held:
            return True
        if not self._lock(_byte(name), wait=False):
            return True
        self._unlock(_byte(name))
        return False

    def is_sole(self) -> bool:
        """Return whether no other process has the file open."""
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


_PRESENT = 0  # the byte on which every process that has the file open holds a shared lock


def _byte(name: str) -> int:
    """Return the place in the file that stands for a name; two names share one with probability 2^-56."""
    return 1 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
