"""Independent jobs, several at a time, in processes of their own."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import multiprocessing.resource_tracker
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver
from typing import TypeVar

import torch

from .signals import interruptions_held, stop_if_interrupted

_FORKS = "forkserver" in multiprocessing.get_all_start_methods()
_LOOK = 0.1  # seconds between two looks for an interruption

Result = TypeVar("Result")


class SideBySide:
    """Carries out jobs in worker processes, one thread each; a context manager whose end is the workers' end.

    There are never more workers than processor cores. A single worker is this process itself, so that nothing has to be
    started. Results do not depend on the number of workers as long as the jobs share nothing but files that none of
    them changes.

    The workers start with the first jobs. Where the system can, `modules` are imported once for all workers, from the
    start of the block on, while this process goes on.

    Args:
        workers: The most jobs at a time; at least 1.
        modules: Names of modules that the jobs need.

    Example:
        >>> import functools
        >>> with SideBySide(workers=1) as work:
        ...     list(work.results([functools.partial(pow, 2, n) for n in range(4)]))
        [1, 2, 4, 8]
    """

    def __init__(self, workers: int, modules: Sequence[str] = ()) -> None:
        self.workers, self.modules = min(workers, _cores()), modules
        self._pool: multiprocessing.pool.Pool | None = None

    def __enter__(self) -> SideBySide:
        """Prepare the workers."""
        if self.workers > 1:
            multiprocessing.resource_tracker.ensure_running()  # started by the first worker, it would unblock SIGINT
        if self.workers > 1 and _FORKS:
            multiprocessing.set_forkserver_preload(list(self.modules))
            with interruptions_held():
                forkserver.ensure_running()  # it imports the modules in the background
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers, whatever they do."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()

    def results(self, jobs: Sequence[Callable[[], Result]]) -> Iterator[Result]:
        """Yield the result of each job, in the order of the jobs.

        Args:
            jobs: Functions without arguments. They and their results must be picklable.

        Raises:
            Exception: What a job raises.
        """
        if self.workers <= 1:
            yield from one_by_one(jobs)
            return
        if self._pool is None:
            with interruptions_held():
                context = multiprocessing.get_context("forkserver" if _FORKS else "spawn")
                self._pool = context.Pool(self.workers, initializer=_begin)
        results = self._pool.imap(_done, jobs)
        for _ in jobs:
            while True:
                stop_if_interrupted()
                try:
                    result = results.next(timeout=_LOOK)
                except multiprocessing.TimeoutError:
                    continue
                break
            yield result


def one_by_one(jobs: Sequence[Callable[[], Result]]) -> Iterator[Result]:
    """Yield the result of each job; the jobs run in this process."""
    for job in jobs:
        stop_if_interrupted()
        yield job()


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin() -> None:
    """Prepare a worker: its parent ends it, and the other workers use the other cores."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _done(job: Callable[[], Result]) -> Result:
    return job()
