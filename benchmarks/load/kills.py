"""Commands that are killed at random moments: every file readable, and the same end when they are started again.

Each command runs undisturbed three times; the median of its processor time is the length that the random moments are drawn
from, uniformly. SIGKILL goes to the whole group of processes. Then every file must be readable, and the same command (`train` with
`--resume` once there is a run) must leave what the undisturbed one left, but for times and durations. A run may be complete when the
kill comes, between its last file and the end of its process. The same command may then refuse, in one line, to replace it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load import commands
from diversify.files import staging

TICK = 1 / os.sysconf("SC_CLK_TCK")
RAM = Path("/dev/shm")


def busy(process: int) -> float:
    """Return the processor seconds that a process has used; infinity if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return float("inf") if fields[0] in "ZX" else (int(fields[11]) + int(fields[12])) * TICK


def killed(arguments: list[str], errors: Path, after: float) -> bool:
    """Start a command and kill it after so many processor seconds; return False if it ended before."""
    started = time.monotonic()
    child = commands.start(arguments, errors)
    ticks = after - after % TICK
    while (used := busy(child)) < ticks:
        time.sleep(0.001)
    if used < float("inf"):
        time.sleep(after % TICK)  # a tick is 10 ms: the rest is waited for
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return commands.wait(child, errors, started).code == -signal.SIGKILL


def again(name: str, arguments: list[str], out: Path) -> list[str]:
    """Return the arguments that continue what a killed command left."""
    return [*arguments, "--resume"] if name == "train" and staging.is_run(out) else arguments


def leftovers(folder: Path) -> list[str]:
    """Return the temporary files and folders that a finished command has left."""
    return [path.name for path in folder.rglob(".*")]


def continued(
    name: str, arguments: list[str], out: Path, errors: Path, whole: dict[str, Any], *, complete: bool
) -> list[str]:
    """Start a command again after a kill; return what is wrong with its end.

    Args:
        name: The command.
        arguments: Its arguments at first.
        out: Its folder.
        errors: The file for its stderr.
        whole: What an undisturbed run leaves.
        complete: Whether the killed one had left all of it: then the command may refuse to replace it, in one line.
    """
    ended = commands.run(again(name, arguments, out), errors)
    refused = complete and commands.is_clear(ended) and "must be new or empty" in ended.errors
    if ended.code and not refused:
        return [f"exit code {ended.code}: {ended.errors[:300]}"]
    return [*commands.differences(whole, out), *(f"left behind: {each}" for each in leftovers(out.parent))]


def kill_command(name: str, folder: Path, times: int, seed: int = 0) -> dict[str, Any]:
    """Kill a command so many times, each time in a new folder; return what happened, for the record.

    Args:
        name: `train`, `diagnose`, `remedy` or `benchmark`.
        folder: The folder that `commands.material` filled.
        times: How many kills must hit a running command.
        seed: Seed of the moments.
    """
    place = folder / "killed"
    out, errors = place / name, folder / "errors"
    place.mkdir(exist_ok=True)
    arguments = commands.COMMANDS[name](folder, out)
    lengths, whole = [], {}
    for _ in range(3):
        before = os.times()
        if (ended := commands.run(arguments, errors)).code:
            raise RuntimeError(f"{name}: {ended.errors}")
        after = os.times()
        lengths.append(sum(after[2:4]) - sum(before[2:4]))
        whole = commands.content(out)
        commands.clear(out)
    length = statistics.median(lengths)
    random = np.random.default_rng([seed, list(commands.COMMANDS).index(name)])
    hit, early, begun, done, lost = 0, 0, 0, 0, []
    while hit < times:
        moment = float(random.random()) * length
        if not killed(arguments, errors, moment):
            early += 1
            if early > 4 * times:
                raise RuntimeError(f"{name} ends before it is killed")
            commands.clear(out)
            continue
        hit += 1
        wrong = commands.unreadable(place)
        begun += any(place.rglob("*"))
        complete = commands.content(out) == whole
        done += complete
        wrong += continued(name, arguments, out, errors, whole, complete=complete)
        if wrong:
            lost.append({"moment": round(moment, 3), "wrong": wrong[:5]})
            print(f"lost: {name} killed after {moment:.3f} of {length:.3f} s: {wrong[:5]}", file=sys.stderr, flush=True)
        commands.clear(place)
        place.mkdir()
    return {
        "figure": f"kill {name}",
        "what": f"`{name}` killed at random moments, then started again",
        "tried": times,
        "lost": len(lost),
        "had_written": begun,
        "complete_at_the_kill": done,
        "ended_before_the_kill": early,
        "cpu_seconds_of_a_run": round(length, 3),
        "wrong": lost,
    }


def kill_each(times: int, names: Sequence[str], seed: int = 0) -> Iterator[dict[str, Any]]:
    """Kill each command so many times, and yield a record of each."""
    commands.preload()
    with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as folder:
        commands.material(Path(folder))
        for name in names:
            yield kill_command(name, Path(folder), times, seed)
