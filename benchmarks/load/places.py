"""Commands where the system gives too little: one clear line or success, nothing lost, and the same end once there is enough.

Full disks and homes that nobody can write to are small file systems in memory, which takes root to mount; without it, a full disk is
left out, and the home's permissions stand in. Limits on memory count from what the process holds at its start.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.load import commands
from benchmarks.load.tries import Tries
from benchmarks.load.users import two_users

ROOT = Path(__file__).parents[2]
FILES = (4, 5, 6, 7, 8, 12, 16, 32)  # open files allowed, with the three standard streams
MEMORY = (1, 4, 16, 64, 256, 1024)  # MiB of address space beyond that at the start
DISK = (4, 16, 32, 48, 64, 96, 128, 192)  # KiB on the small disk
SIZES = (1, 4, 16, 32, 64, 128)  # KiB that a file may have
READ_ONLY, REMOUNT, DETACH = 1, 32, 2  # flags of mount and umount2

_libc = ctypes.CDLL(None, use_errno=True)


def limited(kind: int, amount: int) -> Callable[[], None]:
    """Return a function that sets a limit in the process that calls it."""

    def set_limit() -> None:
        size = amount
        if kind == resource.RLIMIT_AS:
            size += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        if kind == resource.RLIMIT_FSIZE:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(kind, (size, size))

    return set_limit


LIMITS = (
    ("open files", resource.RLIMIT_NOFILE, FILES, "open files", 1),
    ("memory", resource.RLIMIT_AS, MEMORY, "MiB more", 2**20),
    ("file size", resource.RLIMIT_FSIZE, SIZES, "KiB a file", 2**10),
)


def limits(folder: Path) -> Iterator[dict[str, Any]]:
    """Limits of the process: open files, memory, sizes of files."""
    for figure, kind, amounts, unit, factor in LIMITS:
        shown = "memory (address space)" if figure == "memory" else figure
        tries = Tries(f"limit of {figure}", f"commands under a limit of {shown}, then without it", folder)
        for name in commands.COMMANDS:
            for amount in amounts:
                out = folder / "limited" / name
                tries.attempt(name, out, f"{amount} {unit}", prepare=limited(kind, amount * factor))
                commands.clear(out.parent)
        yield tries.record()


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[Callable[[str, int], None]]:
    """Mount a file system in memory; yield the function that mounts it anew with other options.

    Raises:
        OSError: The system does not let this user mount.
    """
    place.mkdir(exist_ok=True)

    def mount(options: str, flags: int) -> None:
        if _libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", flags, options.encode()):
            raise OSError(ctypes.get_errno(), "cannot mount", str(place))

    mount(options, 0)
    try:
        yield lambda options, flags: mount(options, flags | REMOUNT)
    finally:
        _libc.umount2(str(place).encode(), DETACH)


def full_disk(folder: Path) -> Iterator[dict[str, Any]]:
    """A disk that is too small, and made larger afterwards."""
    tries = Tries("full disk", "commands on a disk with too little room, then with enough", folder)
    for name in commands.COMMANDS:
        for size in DISK:
            try:
                with mounted(folder / "disk", f"size={size}k") as again:

                    def enlarge(again: Callable[[str, int], None] = again) -> None:
                        again("size=64m", 0)

                    tries.attempt(name, folder / "disk" / "out", f"{size} KiB", free=enlarge)
            except PermissionError as error:
                print(f"full disk: left out, {error}", file=sys.stderr)
                return
    yield tries.record()


def read_only_home(folder: Path) -> Iterator[dict[str, Any]]:
    """Whole processes whose home cannot be written to."""
    tries = Tries("read-only home", "whole processes without a writable home or cache", folder)
    home, place = folder / "home", folder / "open"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG", "MPL", "TORCH"))}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(mounted(home, "size=1m"))("size=1m", READ_ONLY)
        except PermissionError:
            home.mkdir(exist_ok=True)
            home.chmod(0o555)
        for name in commands.COMMANDS:
            for out in (place / name, place / "deep" / "er" / name):
                started = time.monotonic()
                line = [sys.executable, "-m", "diversify", *commands.COMMANDS[name](folder, out)]
                run = subprocess.run(line, env=environment, capture_output=True, text=True)
                ended = commands.Ended(
                    code=run.returncode, seconds=time.monotonic() - started, errors=run.stderr, process=0
                )
                wrong = tries.unclear(ended)
                tries.note(name, wrong or ([f"refused: {run.stderr}"] if run.returncode else commands.unreadable(out)))
                commands.clear(place)
    yield tries.record()


PARTS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    "full disk": full_disk,
    "limit": limits,
    "read-only home": read_only_home,
    "two users": two_users,
}


def places(only: str = "") -> Iterator[dict[str, Any]]:
    """Try every condition, and yield a record of each.

    Args:
        only: Part of the name of a condition, to try these alone.
    """
    commands.preload()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o755)
        commands.material(folder)
        for name, part in PARTS.items():
            if only in name:
                yield from part(folder)
