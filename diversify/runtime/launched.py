"""The processes that a launcher (torchrun) starts together to run one command: who speaks, and with which code all end.

The first process to end speaks for all: it alone prints its error, and its exit code becomes that of the others. They
agree on it through the launcher's own store, which is there even while a collective operation hangs.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ..errors import InputError, must
from . import group, signals

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_MEETING = timedelta(minutes=10)  # that the processes wait for each other to start
_TIMEOUT = timedelta(days=1)  # the others wait while the first works alone; the launcher sees a process that dies
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 5.0  # that a process waits for the others before it ends


class ShareDone(Exception):  # noqa: N818 - no error: it ends a command early
    """This process has done its share of the command; the first process finishes it."""


def is_one_of_several() -> bool:
    """Return whether a launcher started this process together with others.

    Example:
        >>> is_one_of_several()
        False
    """
    return all(os.environ.get(name) for name in _NEEDED) and _number("WORLD_SIZE") > 1


def require_all_of_launcher() -> None:
    """Raise an error if the environment names several processes and does not say how they find each other.

    Raises:
        InputError: `WORLD_SIZE` is above 1, and another variable of the launcher is missing.

    Example:
        >>> require_all_of_launcher()
    """
    missing = [name for name in _NEEDED if not os.environ.get(name)]
    if group.place() is None and missing and os.environ.get("WORLD_SIZE") and _number("WORLD_SIZE") > 1:
        law = f"come with {', '.join(_NEEDED[:1] + _NEEDED[2:-1])} and {_NEEDED[-1]}"
        advice = "start the processes with torchrun, or unset it to train with one"
        raise must("WORLD_SIZE above 1", law, f"no {' and no '.join(missing)}", advice)


def place_of_process() -> tuple[int, int]:
    """Return the number of this process among those of its launcher, and how many there are; `(0, 1)` without one.

    The environment answers where there is no process group: before it is made, and in the workers of a loader.

    Example:
        >>> place_of_process()
        (0, 1)
    """
    if (place := _joined()) is not None:
        return place
    if os.environ.get("RANK") and os.environ.get("WORLD_SIZE"):
        return _number("RANK"), max(1, _number("WORLD_SIZE"))
    return 0, 1


def is_first() -> bool:
    """Return whether this process checks, writes and speaks; the others that run a command with it only compute.

    The environment is not asked: a variable `RANK` alone makes no process one of several.

    Example:
        >>> is_first()
        True
    """
    place = _joined()
    return place is None or place[0] == 0


def _joined() -> tuple[int, int] | None:
    """The place of this process among those that it has met; None if it has met none."""
    return group.place() if _launched is None else (_launched.rank, _launched.size)


def _number(name: str) -> int:
    value = os.environ[name]
    if not value.isdecimal():
        raise must(f"the environment variable {name}", "be an integer, as torchrun sets it", repr(value))
    return int(value)


@dataclass
class Launched:
    """This process among those that run one command together.

    Attributes:
        rank: Its number, from 0.
        size: Number of processes.
        store: The launcher's key-value store.
        speaks: Whether this process has ended first, and so speaks for all.
    """

    rank: int
    size: int
    store: Any
    speaks: bool = False

    def ends_first(self, code: int) -> bool:
        """Return whether this process is the first to end; then `code` is the exit code of all."""
        if self.speaks:
            return True
        try:
            if self.store.add("ended", 1) > 1:
                return False
            self.store.set("code", str(code))
        except RuntimeError:  # the store is gone, and with it the process that ended first
            return False
        self.speaks = True
        return True

    def code(self) -> int | None:
        """Return the exit code of the process that ended first; None while all are running."""
        try:
            return int(self.store.get("code")) if self.store.check(["code"]) else None
        except RuntimeError:
            return None

    def leave_with(self, code: int) -> int:
        """Return the exit code of all; a process that is done waits for the first process.

        Args:
            code: The code with which this process would end.
        """
        try:
            if self.rank == 0 or code:
                self.ends_first(code)
            if self.rank == 0:
                self.store.set("first has ended", "1")
                self._wait_for_readers()
            elif code:
                self._wait_for("first has ended", _GRACE_SECONDS)  # it may be emptying the folder of the run
            else:
                self._wait_for("code", None)
                self.store.add("readers", 1)
        except (KeyboardInterrupt, RuntimeError):
            code = code or signals.INTERRUPTED
        found = self.code()
        return code if found is None else found

    def _wait_for(self, key: str, seconds: float | None) -> None:
        began = time.monotonic()
        while not self.store.check([key]):
            signals.stop_if_interrupted()
            if seconds is not None and time.monotonic() - began > seconds:
                return
            time.sleep(_POLL_SECONDS)

    def _wait_for_readers(self) -> None:
        """Stay until the others have read the code, where this process holds the store."""
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return
        began = time.monotonic()
        while self.store.add("readers", 0) < self.size - 1 and time.monotonic() - began < _GRACE_SECONDS:
            time.sleep(_POLL_SECONDS)


_launched: Launched | None = None


def launched() -> Launched | None:
    """Return this process among those that run the command together; None where it runs alone."""
    return _launched


def join() -> Launched:
    """Meet the other processes of the launcher; each takes the GPU of its local rank, if there are GPUs.

    Raises:
        InputError: There are more processes on this machine than GPUs, a variable of the launcher is no number, or the
            processes do not find each other.
    """
    global _launched
    import torch
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    devices = torch.cuda.device_count()
    if devices:
        local = _number("LOCAL_RANK") if os.environ.get("LOCAL_RANK") else _number("RANK") % devices
        here = max(local + 1, _number("LOCAL_WORLD_SIZE") if os.environ.get("LOCAL_WORLD_SIZE") else 1)
        if here > devices:
            law = f"be at most the number of GPUs of the machine, {devices}"
            raise must("--nproc-per-node", law, here, "CUDA_VISIBLE_DEVICES= runs on the CPU")
        torch.cuda.set_device(local)
    try:
        store, rank, size = next(rendezvous("env://", timeout=_MEETING))
        together = Launched(rank, size, PrefixStore("diversify", store))
        backend = "cpu:gloo,cuda:nccl" if devices else "gloo"
        distributed.init_process_group(
            backend, store=PrefixStore("group", store), rank=rank, world_size=size, timeout=_TIMEOUT
        )
    except RuntimeError as error:
        if not (isinstance(error, distributed.DistError) or group.is_lost(error)):
            raise
        law = f"let all {_number('WORLD_SIZE')} processes find each other within {_MEETING.seconds // 60} minutes"
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise must("MASTER_ADDR and MASTER_PORT", law, place, group.cause_of(error)) from error
    store.set_timeout(_TIMEOUT)
    _launched = together
    return together


def speaks_at_the_start() -> bool:
    """Return whether this process prints what keeps it from the others: the first one of its machine does."""
    return (os.environ.get("LOCAL_RANK") or "0") == "0"


def speaks_for_all(code: int) -> bool:
    """Return whether this process prints the error with which it ends; the first of several to end does."""
    if _launched is None:
        return True
    if not _launched.ends_first(code):
        return False
    signals.speak_again()
    return True


def failed_elsewhere() -> bool:
    """Return whether another process has ended with an error that was its user's."""
    return _launched is not None and not _launched.speaks and _launched.code() == 2


def meet() -> None:
    """Wait until all processes of the command are here; nothing in a single process."""
    if _launched is None:
        return
    import torch

    with group.connected_to("another process"):
        torch.distributed.all_reduce(torch.zeros(1))  # on the CPU, unlike a barrier


@contextlib.contextmanager
def first_goes_ahead() -> Iterator[None]:
    """Run the block in the first process, and then in the others, which find what it has left.

    Raises:
        InputError: It is raised in the block; if the first process raises it, so do the others, without their block.
    """
    if _launched is None:
        yield
        return
    if _launched.rank > 0:
        if refusal := _heard():
            raise InputError(refusal)
        yield
        return
    try:
        yield
    except InputError as error:
        _tell(str(error))
        raise
    _tell("")


def _tell(text: str) -> None:
    """Send a text to the other processes, each of which hears it (`_heard`)."""
    import torch

    words = torch.tensor(list(text.encode()), dtype=torch.uint8)
    with group.connected_to("another process"):
        torch.distributed.broadcast(torch.tensor([len(words)]), 0)
        if len(words):
            torch.distributed.broadcast(words, 0)


def _heard() -> str:
    """Return the text that the first process sends."""
    import torch

    length = torch.zeros(1, dtype=torch.int64)
    with group.connected_to("process 0"):
        torch.distributed.broadcast(length, 0)
        words = torch.zeros(int(length), dtype=torch.uint8)
        if len(words):
            torch.distributed.broadcast(words, 0)
    return bytes(words.tolist()).decode()
