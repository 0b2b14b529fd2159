"""Independent jobs, several at a time, in processes of their own."""

from __future__ import annotations

import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
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
        self._pool: futures.ProcessPoolExecutor | None = None
        self._members: set[multiprocessing.process.BaseProcess] = set()

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
            for member in self._members:
                member.terminate()
            self._pool.shutdown(cancel_futures=True)

    def results(self, jobs: Sequence[Callable[[], Result]]) -> Iterator[Result]:
        """Yield the result of each job, in the order of the jobs.

        Args:
            jobs: Functions without arguments. They and their results must be picklable.

        Raises:
            ChildProcessError: A worker was ended from outside.
            Exception: What a job raises.
        """
        if self.workers <= 1:
            yield from one_by_one(jobs)
            return
        try:
            with interruptions_held():  # the workers start with the jobs
                others = set(multiprocessing.active_children())
                if self._pool is None:
                    context = multiprocessing.get_context("forkserver" if _FORKS else "spawn")
                    self._pool = futures.ProcessPoolExecutor(self.workers, mp_context=context, initializer=_begin)
                running = [self._pool.submit(job) for job in jobs]
                self._members |= set(multiprocessing.active_children()) - others
            for each in running:
                while not futures.wait([each], timeout=_LOOK).done:
                    stop_if_interrupted()
                stop_if_interrupted()
                yield each.result()
        except BrokenProcessPool as error:
            advice = "the system may lack memory; run the command again"
            raise ChildProcessError(f"a worker process was ended from outside; {advice}") from error


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
