"""Jobs run side by side: results in the jobs' order, errors as they are, workers that end with the block."""

import functools
import os
import signal
import time

import pytest
import torch

from diversify.errors import InputError, must
from diversify.runtime import processes
from diversify.runtime.processes import SideBySide


def described(place: int) -> tuple[int, int, int]:
    time.sleep(0.2 if place == 0 else 0.0)  # the first to start is not the first to end
    return place, os.getpid(), torch.get_num_threads()


def refused(place: int) -> int:
    raise must("place", "be even", place)


def ended_from_outside(place: int) -> int:
    if place == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return place


def test_a_single_worker_is_this_process() -> None:
    with SideBySide(1) as work:
        assert [pid for _, pid, _ in work.results([functools.partial(described, 1)])] == [os.getpid()]


def test_never_more_workers_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_cores", lambda: 1)
    assert SideBySide(8).workers == 1


@pytest.mark.slow
def test_workers_yield_in_order_and_end_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_cores", lambda: 2)
    with SideBySide(2, ["diversify.errors"]) as work:
        found = list(work.results([functools.partial(described, place) for place in range(4)]))
        assert [place for place, _, _ in found] == [0, 1, 2, 3]
        workers = {pid for _, pid, _ in found}
        assert os.getpid() not in workers
        assert {threads for _, _, threads in found} == {1}
        with pytest.raises(InputError, match="place must be even, got 3"):
            list(work.results([functools.partial(refused, 3)]))
        assert {
            pid for _, pid, _ in work.results([functools.partial(described, 1)])
        } <= workers  # the same workers again
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_work_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_cores", lambda: 2)
    with SideBySide(2, ["diversify.errors"]) as work:
        jobs = [functools.partial(ended_from_outside, place) for place in range(6)]
        with pytest.raises(
            ChildProcessError, match="a worker process was ended from outside; the system may lack memory"
        ):
            list(work.results(jobs))
