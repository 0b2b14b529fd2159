"""Damaged files, read one after another: a clear error or success, in bounded time and memory.

Each case changes a small valid file at random and lets the library read it. After these come files that are made to harm
(`bombs.py`). Cases run in forked processes; the parent ends one that a case holds for longer than `LIMIT` seconds of processor
time. A case is lost if the reader raises another error than an `InputError` of one line that is not longer than `LONGEST`, if it
takes too long, if the process grows by more than 1 GiB, or if it crashes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load.bombs import bombs
from benchmarks.load.targets import Target, targets
from diversify.errors import InputError

SEED = 0
LIMIT = 20.0  # processor seconds for one case: the largest image that Pillow allows takes two to decode
WALL = 300.0  # seconds for one case, whatever else runs
MEMORY = 2**30  # bytes that one case may add
SPACE = 3 * 2**30  # bytes of address space beyond those at the start, so that no case endangers the machine
LONGEST = 2000  # characters of an error
RAM = Path("/dev/shm")  # a folder in memory, where the system has one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lost:
    """A case that ended badly: its kind of file, its number, and how it ended."""

    kind: str
    file: str
    number: int
    how: str


def damaged(target: Target, number: int) -> bytes:
    """Return the damaged file of a case."""
    random = np.random.default_rng([SEED, zlib.crc32(f"{target.kind}/{target.file}".encode()), number])
    return target.damage(target.valid, random)


def held() -> int:
    """Return the memory that this process holds, in bytes; from now on `grown` counts from here."""
    with contextlib.suppress(OSError):  # not every kernel has it; then the largest so far stands
        Path("/proc/self/clear_refs").write_text("5")
    return grown()


def grown() -> int:
    """Return the largest memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def outcome(target: Target, path: Path) -> str:
    """Read a file; return `read`, `refused`, or else what went wrong."""
    try:
        target.read(path)
    except InputError as error:
        message = str(error)
        if "\n" in message or not message:
            return f"an error of several lines or none: {message[:200]!r}"
        return "refused" if len(message) <= LONGEST else f"an error of {len(message)} characters: {message[:200]!r}"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]!r} at {Path(place.filename).name}:{place.lineno}"
    return "read"


def prepared(target: Target, folder: Path) -> Path:
    """Write the files that stand beside the damaged one; return its path."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in {target.file: target.valid, **target.beside}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / target.file


def _work(cases: Sequence[tuple[Target, int]], start: int, folder: Path, now: mmap.mmap, found: int) -> None:
    """The forked process: read case after case, and say which it is at."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (size + SPACE, size + SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    last: Target | None = None
    path = folder
    for place in range(start, len(cases)):
        target, number = cases[place]
        if target is not last:
            path, last = prepared(target, folder / "case"), target
        now[:24] = struct.pack("<qdd", place, time.monotonic(), time.process_time())
        path.write_bytes(damaged(target, number))
        before = held()
        how = outcome(target, path)
        after = grown()
        if how in ("read", "refused") and after - before > MEMORY:
            how = f"{(after - before) / 2**30:.1f} GiB of memory"
        os.write(found, json.dumps([place, how]).encode() + b"\n")
        if after - before > MEMORY // 4:  # the next case is to be measured from a fresh start
            os._exit(0)
    now[:24] = struct.pack("<qdd", len(cases), time.monotonic(), time.process_time())
    os._exit(0)


def run_cases(cases: Sequence[tuple[Target, int]]) -> tuple[Counter[str], list[Lost]]:
    """Read damaged files; return how many of each kind were read or refused, as `kind read`, and what was lost."""
    counts: Counter[str] = Counter()
    lost: list[Lost] = []
    folder = Path(tempfile.mkdtemp(dir=RAM if RAM.is_dir() else None))
    gc.collect()  # a forked process that frees what was left behind here would seem to grow by less
    try:
        place = 0
        while place < len(cases):
            place = _one_process(cases, place, folder, counts, lost)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return counts, lost


def busy(process: int) -> float:
    """Return the processor seconds that a process has used; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _one_process(
    cases: Sequence[tuple[Target, int]], start: int, folder: Path, counts: Counter[str], lost: list[Lost]
) -> int:
    """Run cases in one process until all are done or one ends it; return the next case."""
    now = mmap.mmap(-1, 24)
    now[:24] = struct.pack("<qdd", start, time.monotonic(), 0.0)
    told, found = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        try:
            _work(cases, start, folder, now, found)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(found)
    os.set_blocking(told, False)
    lines, hung, status = b"", False, 0
    done = start
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        while True:
            try:
                part = os.read(told, 1 << 16)
            except BlockingIOError:
                break
            if not part:
                break
            lines += part
        whole, _, lines = lines.rpartition(b"\n")
        for line in whole.splitlines():
            place, how = json.loads(line)
            target, number = cases[place]
            done = place + 1
            if how in ("read", "refused"):
                counts[f"{target.kind} {how}"] += 1
            else:
                lost.append(Lost(kind=target.kind, file=target.file, number=number, how=how))
        if ended:
            break
        place, since, used = struct.unpack("<qdd", now[:24])
        if place < len(cases) and (busy(child) - used > LIMIT or time.monotonic() - since > WALL):
            hung = True
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.02)
    os.close(told)
    at = struct.unpack("<qdd", now[:24])[0]
    if hung or (os.WIFSIGNALED(status) or os.WEXITSTATUS(status)):
        target, number = cases[at]
        how = f"took longer than {LIMIT:g} s of processor time" if hung else f"ended the process with status {status}"
        lost.append(Lost(kind=target.kind, file=target.file, number=number, how=how))
        done = at + 1
    return done


def chosen(every: Iterable[Target], count: int, first: int = 0) -> list[tuple[Target, int]]:
    """Return `count` cases, equally many of each kind and within it of each file, file by file."""
    by_kind: dict[str, list[Target]] = {}
    for target in every:
        by_kind.setdefault(target.kind, []).append(target)
    cases = []
    for kind, members in enumerate(by_kind.values()):
        share = count // len(by_kind) + (kind < count % len(by_kind))
        for place, target in enumerate(members):
            own = share // len(members) + (place < share % len(members))
            cases += [(target, first + number) for number in range(own)]
    return cases


def fuzz(count: int, *, first: int = 0, only: str = "") -> Iterator[dict[str, Any]]:
    """Run so many cases, then the files that are made to harm; yield a record of each kind of file, and one of these.

    Args:
        count: Damaged files.
        first: The number of the first one of each kind; another one gives other files.
        only: Part of `kind/file`, to run these damaged files alone; "harm" runs the files that are made to harm alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        every = [one for one in targets(Path(folder)) if only == "harm" or only in f"{one.kind}/{one.file}"]
    if only != "harm":
        yield from _figures(chosen(every, count, first), {kind: f"damaged {kind} files" for kind in KINDS})
    if only not in ("", "harm"):
        return
    harmful = [dataclasses.replace(target, kind="harm") for target in bombs(every)]
    yield from _figures(
        [(target, 0) for target in harmful], {"harm": "files of at most 1 MiB made to fill memory or time"}
    )


KINDS = ("plan", "diagnosis", "record", "checkpoint", "npz", "image")


def _figures(cases: Sequence[tuple[Target, int]], kinds: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Run cases, and yield a record of each kind of file."""
    counts, lost = run_cases(cases)
    for one in lost:
        print(f"lost: {one.kind}/{one.file} {one.number}: {one.how}", file=sys.stderr, flush=True)
    for kind, what in kinds.items():
        of_kind = [one for one in lost if one.kind == kind]
        tried = [target.file for target, _ in cases if target.kind == kind]
        if tried:
            yield {
                "figure": f"fuzz {kind}",
                "what": what,
                "tried": len(tried),
                "lost": len(of_kind),
                "read": counts[f"{kind} read"],
                "refused_in_one_line": counts[f"{kind} refused"],
                "forms": len(set(tried)),
                "wrong": [f"{one.file} {one.number}: {one.how}" for one in of_kind[:5]],
            }
