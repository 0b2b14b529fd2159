"""Runs that are independent of each other: made one by one or in several processes, and recorded as they come."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError, must
from ...files import atomic, staging
from ...files.locks import Locks
from ...runtime import signals
from ..records import require_results_file

Make = Callable[..., dict[str, Any]]
Job = tuple[Any, ...]

WATCH = 1.0  # seconds between two looks at whether the user interrupted


def kept(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file; none if it is not there.

    Raises:
        InputError: `path` is a folder, or a line is not a JSON object.

    Example:
        >>> kept(Path("no such file"))
        []
    """
    return list(atomic.read_jsonl(path)) if path.exists() else []


def kept_of(suite: str, path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """Return the records of a file, which are all of one suite.

    Args:
        suite: The suite, as the records name it.
        path: The records.
        fields: What tells two records of the suite apart.

    Raises:
        InputError: The file holds something else, or `path` is not a file that can hold records.

    Example:
        >>> kept_of("paper", Path("missing.jsonl"), ("loss", "seed"))
        []
    """
    require_results_file(path)
    found = kept(path)
    for line, one in enumerate(found, start=1):
        named = one.get("suite")
        if one.get("kind") != "run" or named != suite or not all(name in one for name in fields):
            got = f"another record on line {line} of {path}" + (f", of {named!r}" if named and named != suite else "")
            raise must("results", f"hold only records of the suite {suite!r}", got, "choose another file")
    return found


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Let no other process make runs for the same file within the block.

    Raises:
        InputError: Another process is making runs for it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, claimed(Path(folder) / "a.jsonl"):
        ...     [one.name for one in Path(folder).iterdir()]
        ['.a.jsonl.lock']
    """
    staging.require_appendable(path, "results")
    with Locks(path.with_name(f".{path.name}.lock")) as locks:
        if not locks.take("runs"):
            raise must("results", "not be in use by another run", path, "wait until it is done, or choose another file")
        yield


def made(make: Make, jobs: Sequence[Job], path: Path, *, workers: int = 1) -> Iterator[dict[str, Any]]:
    """Make one record per job, append it to the file, and yield it; with several workers, as they come.

    An interruption ends the workers; what is recorded stays.

    Args:
        make: Makes the record of a job; with several workers a function that other processes can import.
        jobs: The arguments of `make`, one tuple for each record.
        path: The records.
        workers: Processes. Each computes on one thread; a single one is this process, and keeps its threads.

    Raises:
        InputError: `workers` is below 1, or `make` raised it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     list(made(lambda seed: {"seed": seed}, [(0,), (1,)], Path(folder) / "a.jsonl"))
        [{'seed': 0}, {'seed': 1}]
    """
    if workers < 1:
        raise must("workers", "be at least 1", workers)
    here = (make(*job) for job in jobs)
    records: Generator[dict[str, Any]] = here if workers == 1 else _together(make, jobs, min(workers, len(jobs)))
    with contextlib.closing(records):
        for record in records:
            atomic.append_jsonl(path, record)
            yield record


def _together(make: Make, jobs: Sequence[Job], workers: int) -> Generator[dict[str, Any]]:
    """Let processes carry out the jobs; each is given the next one when it has handed in a record."""
    context = multiprocessing.get_context("spawn")
    left = iter(jobs)
    members: dict[Any, Any] = {}  # each worker by our end of its connection
    multiprocessing.resource_tracker.ensure_running()  # started by the first worker, it would unblock SIGINT
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            member = context.Process(target=_work, args=(make, theirs))
            with signals.interruptions_held():
                member.start()
            theirs.close()
            members[ours] = member
            ours.send(next(left))
        working: set[Any] = set(members)
        while working:
            signals.stop_if_interrupted()
            ready: list[Any] = multiprocessing.connection.wait(list(working), timeout=WATCH)
            for ours in ready:
                record = _received(ours, members[ours])
                job = next(left, None)
                if job is None:
                    working.discard(ours)
                else:
                    ours.send(job)
                yield record
    finally:
        for ours, member in members.items():
            member.terminate()
            member.join()
            ours.close()


def _received(ours: Any, member: Any) -> dict[str, Any]:
    """Return the record that a worker hands in, or raise its error."""
    try:
        kind, what = ours.recv()
    except EOFError:
        member.join()
        advice = "run it again to resume"
        raise ChildProcessError(f"a worker process ended early (exit code {member.exitcode}); {advice}") from None
    if kind == "input":
        raise InputError(what)
    if kind == "system":
        number, reason, file, text = what
        raise OSError(number, reason, file) if number is not None else OSError(text)
    if kind == "error":
        raise RuntimeError(f"a worker process ended in an error:\n{what}")
    found: dict[str, Any] = what
    return found


def _work(make: Make, connection: Any) -> None:
    """Carry out the jobs that come, in a process of its own, until the parent is gone."""

    def follow_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(signals.INTERRUPTED)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    threading.Thread(target=follow_parent, daemon=True).start()
    one_thread()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send(_outcome(make, connection.recv()))


def _outcome(make: Make, job: Job) -> tuple[str, Any]:
    try:
        return "record", make(*job)
    except InputError as error:
        return "input", str(error)
    except OSError as error:
        return "system", (error.errno, error.strerror, error.filename, str(error))
    except Exception:  # the parent raises it again
        return "error", traceback.format_exc()


def one_thread() -> None:
    """Compute on one thread, as each of several processes does.

    Example:
        >>> before = torch.get_num_threads()
        >>> one_thread()
        >>> torch.get_num_threads()
        1
        >>> torch.set_num_threads(before)
    """
    torch.set_num_threads(1)


@contextlib.contextmanager
def on_one_thread() -> Iterator[None]:
    """Compute on one thread within the block.

    Example:
        >>> with on_one_thread():
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    one_thread()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def listed(values: Tensor) -> list[float | None]:
    """Return numbers as a record holds them: six digits, null where undefined.

    Example:
        >>> listed(torch.tensor([1 / 3, math.nan], dtype=torch.float64))
        [0.333333, None]
    """
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]
