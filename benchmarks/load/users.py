"""Two users and one folder: one after the other, and both at once; nobody's files are lost, and whoever is refused is told in one line.

It takes root, to become other users. These may read everything, so that Python itself can lie where only root may look, and may write
only what is theirs or open.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.load import commands
from benchmarks.load.kills import busy, leftovers
from benchmarks.load.tries import Tries

FIRST, SECOND = 65534, 65533  # numbers of the users; the second has no name, as in many containers
MODES = {"closed": (0o755, 0o022), "half open": (0o777, 0o022), "open": (0o777, 0o000)}
"""Rights of the folder of a run, and the mask of the rights of what is in it."""
READ_EVERYTHING = 1 << 2  # CAP_DAC_READ_SEARCH

_libc = ctypes.CDLL(None, use_errno=True)


def become(user: int, mask: int) -> Callable[[], None]:
    """Return a function that makes the process that calls it another user's."""

    def change() -> None:
        _libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        header, rights = (
            struct.pack("Ii", 0x20080522, 0),
            struct.pack("6I", READ_EVERYTHING, READ_EVERYTHING, 0, 0, 0, 0),
        )
        if _libc.capset(header, rights):
            raise OSError(ctypes.get_errno(), "cannot change user")
        os.umask(mask)

    return change


def arguments_of(name: str, folder: Path, out: Path) -> tuple[list[str], list[str]]:
    """Return the arguments of a command, and what replaces, or adds to, what an earlier one left."""
    return commands.COMMANDS[name](folder, out), ["--trials", "2"] if name == "benchmark" else ["--overwrite"]


def shared_place(folder: Path, mode: int, mask: int, out: str) -> Path:
    """Make a folder that everybody may write to, and in it the folder `out` of the first user; return the latter."""
    place = folder / "shared"
    place.mkdir()
    place.chmod(0o777)
    found = place / out
    found.mkdir()
    found.chmod(mode & ~mask | mode & 0o777)
    os.chown(found, FIRST, FIRST)
    return found


def changed(before: dict[str, Any], out: Path) -> list[str]:
    """Return what is gone or changed of what a folder held."""
    after = commands.content(out)
    return [f"{file} of the first user changed" for file, content in before.items() if after.get(file) != content]


def one_after_the_other(tries: Tries, name: str, shown: str) -> None:
    """The second user runs a command into the folder of the first, then to replace it, then the first user again."""
    mode, mask = MODES[shown]
    out = shared_place(tries.folder, mode, mask, name)
    arguments, replacing = arguments_of(name, tries.folder, out)
    ended = tries.run(arguments, prepare=become(FIRST, mask))
    if ended.code:
        tries.note(f"{name} by the first user in a folder that is {shown}", [ended.errors])
    out.chmod(mode)
    for user, extra in ((SECOND, []), (SECOND, replacing), (FIRST, replacing)):
        before = commands.content(out)
        ended = tries.run([*arguments, *extra], prepare=become(user, mask))
        wrong = [*tries.unclear(ended), *commands.unreadable(out)]
        if ended.code:
            wrong += changed(before, out)
        elif name != "benchmark":
            wrong += commands.differences(tries.whole(name), out)
        wrong += [f"left behind: {each}" for each in leftovers(out.parent)]
        who = "first" if user == FIRST else "second"
        tries.note(f"{name} {' '.join(extra)} by the {who} user in a folder that is {shown}", wrong)
    commands.clear(out.parent)


def has_begun(out: Path) -> bool:
    """Return whether a command works in a folder: it holds the lock, or has written a file."""
    try:
        return any(path.name != ".lock" or path.stat().st_size for path in out.iterdir())
    except OSError:  # it is being replaced: the work is nearly done
        return True


def at_once(tries: Tries, name: str, shown: str) -> None:
    """The second user starts a command while the first one's is at work in the same folder."""
    mode, mask = MODES[shown]
    whole = tries.whole(name)
    out = shared_place(tries.folder, mode, mask, name)
    arguments, _ = arguments_of(name, tries.folder, out)
    errors = tries.folder / "errors of the first"
    started = time.monotonic()
    first = commands.start(arguments, errors, prepare=become(FIRST, mask))
    while not has_begun(out) and busy(first) < float("inf"):
        time.sleep(0.001)
    if name != "benchmark":  # several may work on one study, and wait for each other
        os.killpg(first, signal.SIGSTOP)
    second = tries.run(arguments, prepare=become(SECOND, mask))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(first, signal.SIGCONT)
    ended = commands.wait(first, errors, started)
    wrong = [*tries.unclear(ended), *tries.unclear(second)]
    codes = [ended.code, second.code]
    if codes.count(0) < 1 or (name != "benchmark" and codes.count(0) > 1):
        wrong.append(f"exit codes {codes}")
    wrong += [*commands.differences(whole, out), *(f"left behind: {each}" for each in leftovers(out.parent))]
    tries.note(f"{name} of two users at once in a folder that is {shown}", wrong)
    commands.clear(out.parent)


def two_users(folder: Path) -> Iterator[dict[str, Any]]:
    """Every command, in folders that one user wrote: closed, half open and open to another."""
    if os.geteuid():
        return
    tries = Tries("two users", "commands of two users in one folder, in turn and at once", folder)
    for name in commands.COMMANDS:
        for shown in MODES:
            one_after_the_other(tries, name, shown)
            at_once(tries, name, shown)
    yield tries.record()
