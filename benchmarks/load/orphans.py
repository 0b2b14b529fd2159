"""Commands with workers whose parent is ended by a signal: no process of theirs is left after a while."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.load import commands

WITHIN = 60.0  # seconds: loader workers look for their parent every five, and a new worker first imports the library
TIMES = 3  # per command and signal
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)


def members(group: int) -> list[int]:
    """Return the processes of a group that are alive."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group and fields[0] not in "ZX":
                    found.append(int(path.name))
    return found


def arguments_of(folder: Path, out: Path) -> dict[str, tuple[str, list[str]]]:
    """Return commands that start workers, and what kind these are."""
    return {
        "train": ("forked loader workers", [*commands.train(folder, out, epochs=2000), "--workers", "2"]),
        "diagnose": ("forked loader workers", [*commands.diagnose(folder, out), "--workers", "2"]),
        "benchmark": (
            "workers of a fork server",
            [*commands.benchmark(folder, out), "--workers", "2", "--trials", "40"],
        ),
        "remedy": ("threads", commands.remedy(folder, out)),
    }


def left_over(
    arguments: list[str], errors: Path, kind: signal.Signals, workers: int, after: float
) -> tuple[str, int, float]:
    """Start a command and end its parent once it has workers.

    Returns:
        What is wrong; how many processes there were; the seconds until the last was gone.
    """
    started = time.monotonic()
    child = commands.start(arguments, errors)
    most = 1
    while time.monotonic() - started < 60 and len(members(child)) < workers and members(child):
        time.sleep(0.01)
    time.sleep(after)
    most = len(members(child))
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, kind)
    sent, code = time.monotonic(), None
    deadline = sent + WITHIN
    while time.monotonic() < deadline:
        if code is None:
            ended, status = os.waitpid(child, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if ended else None
        if code is not None and not members(child):
            break
        time.sleep(0.02)
    took, left = time.monotonic() - sent, members(child)
    for each in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    if code is None:
        os.waitpid(child, 0)
        return f"still there {WITHIN:g} s after {kind.name}", most, took
    if left:
        return f"{len(left)} processes left over {WITHIN:g} s after {kind.name}", most, took
    if code not in (0, 130, -signal.SIGKILL):
        return f"exit code {code}: {errors.read_text()[:200]}", most, took
    return "", most, took


def orphans() -> Iterator[dict[str, Any]]:
    """End every command by every signal, and yield a record of each command."""
    commands.preload()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        commands.material(folder)
        for name, (workers, arguments) in arguments_of(folder, folder / "out").items():
            wrong, most, tried, longest = [], 1, 0, 0.0
            for kind in SIGNALS:
                for number in range(TIMES):
                    wanted = 1 if name == "remedy" else 3
                    how, seen, took = left_over(arguments, folder / "errors", kind, wanted, 0.1 + 0.25 * number)
                    most, tried, longest = max(most, seen), tried + 1, max(longest, took)
                    if how:
                        wrong.append(how)
                        print(f"lost: {name}: {how}", file=sys.stderr, flush=True)
                    commands.clear(folder / "out")
            yield {
                "figure": f"orphans {name}",
                "what": f"`{name}` with {workers}, its parent ended by SIGTERM, SIGINT and SIGKILL",
                "tried": tried,
                "lost": len(wrong),
                "most_processes": most,
                "longest_seconds": round(longest, 1),
                "wrong": wrong[:5],
            }
