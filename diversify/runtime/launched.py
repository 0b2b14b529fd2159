"""The processes that a launcher (torchrun) starts together to run one command: who speaks, and with which code all end.

The first process to end speaks for all: it alone prints its error, and its exit code becomes that of the others. They
agree on it through the launcher's own store, which is there even while a collective operation hangs. A process that works
on is interrupted (`Launched.ending_with_others`).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from ..errors import must
from . import group, signals

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_MEETING = timedelta(minutes=10)  # that the processes wait for each other to start
_TIMEOUT = timedelta(days=1)  # the others wait while the first works alone; the launcher sees a process that dies
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 5.0  # that a process waits for the others before it ends
_TELLING_SECONDS = 600.0  # that a process which failed may take to tell the others
_HEARING_SECONDS = 1.0  # in which a process may hear from another one that it failed, before it is interrupted
_STUCK_SECONDS = 60.0  # in which a process that was interrupted has to end


class ShareDone(Exception):  # noqa: N818 - no error: it ends a command early
    """This process has done its share of the command; the first process finishes it."""


def is_one_of_several() -> bool:
    """Return whether a launcher started this process together with others.

    Example:
        >>> is_one_of_several()
        False
    """
    return all(os.environ.get(name) for name in _NEEDED) and os.environ["WORLD_SIZE"] not in ("0", "1")


def require_all_of_launcher() -> None:
    """Raise an error if the environment says that a launcher started this process, and not how its processes meet.

    Raises:
        InputError: `WORLD_SIZE` is above 1 or `LOCAL_RANK` is set, and another variable of the launcher is missing.

    Example:
        >>> require_all_of_launcher()
    """
    missing = [name for name in _NEEDED if not os.environ.get(name)]
    if group.place() is not None or not missing:
        return
    several = bool(os.environ.get("WORLD_SIZE")) and _number("WORLD_SIZE") > 1
    local = os.environ.get("LOCAL_RANK", "-1") != "-1"  # accelerate then joins a process group
    if not several and not local:
        return
    subject = "WORLD_SIZE above 1" if several else "LOCAL_RANK"
    *needed, last = [each for each in _NEEDED if not subject.startswith(each)]
    unwanted = " and ".join(["WORLD_SIZE"] * several + ["LOCAL_RANK"] * local)
    advice = f"start the processes with torchrun, or unset {unwanted} to train with one"
    raise must(subject, f"come with {', '.join(needed)} and {last}", f"no {' and no '.join(missing)}", advice)


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
    _code: int | None = None  # of the process that ended first
    _reading: threading.Lock = field(default_factory=threading.Lock)

    def ends_first(self, code: int) -> bool:
        """Return whether this process is the first to end; then `code` is the exit code of all."""
        if self.speaks:
            return True
        try:
            self.speaks = self.store.add("ended", 1) == 1
            if self.speaks:
                self.store.set("code", str(code))
        except RuntimeError:  # the store is gone, and with it the process that ended first
            self.speaks = False
        return self.speaks

    def code(self) -> int | None:
        """Return the exit code of the process that ended first; None while all are running.

        It is remembered: the store ends with the process that holds it, once all have read the code.
        """
        with self._reading, contextlib.suppress(RuntimeError):
            if self._code is None and self.store.check(["code"]):
                self._code = int(self.store.get("code"))
                self.store.add("readers", int(self.rank > 0))
        return self._code

    def code_of_failed(self) -> int | None:
        """Return the exit code of a process that told this one that it failed; None if it ends without one."""
        with contextlib.suppress(RuntimeError, KeyboardInterrupt):
            self._wait_for("code", _TELLING_SECONDS)
        return self.code()

    @contextlib.contextmanager
    def ending_with_others(self) -> Iterator[None]:
        """Interrupt the block once another process has ended with an error.

        The block may be far from its next collective operation, or wait in one for ever. If the interruption does not end
        it either, this process exits.
        """
        done = threading.Event()
        threading.Thread(target=self._watch, args=(done,), daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _watch(self, done: threading.Event) -> None:
        code = None
        while not code:
            if done.wait(_POLL_SECONDS):
                return
            code = self.code()
        if done.wait(_HEARING_SECONDS) or self.speaks:
            return
        signals.interrupt()
        if not done.wait(_STUCK_SECONDS):
            os._exit(code)

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
        except (KeyboardInterrupt, RuntimeError):
            code = code or signals.INTERRUPTED
        return code if (found := self.code()) is None else found

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
        InputError: There are more processes on this machine than GPUs, a variable of the launcher is wrong, or the
            processes do not find each other.
    """
    global _launched
    import torch
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    _require_numbers()
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


def _require_numbers() -> None:
    """Raise an error if a variable of the launcher is no number, or out of its range."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        if os.environ.get(name):
            _number(name)
    if _number("RANK") >= _number("WORLD_SIZE"):
        raise must("RANK", f"be below WORLD_SIZE, {_number('WORLD_SIZE')}", _number("RANK"), "number processes from 0")
    if _number("MASTER_PORT") > 65535:
        raise must("MASTER_PORT", "be at most 65535", _number("MASTER_PORT"))


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
    """Return whether another process has ended with an error; an interruption is none."""
    if _launched is None or _launched.speaks:
        return False
    return _launched.code() not in (None, 0, signals.INTERRUPTED)


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
        ConnectionError: The first process failed for another reason, or is gone.
    """
    if _launched is None:
        yield
        return
    if _launched.rank > 0:
        _hear()
        yield
        return
    try:
        yield
    except Exception as error:
        with contextlib.suppress(ConnectionError):  # whoever is left hears it
            _tell(error)
        raise
    _tell(None)


def _tell(error: Exception | None) -> None:
    """Tell the other processes, each of which hears it (`_hear`), an error of this one, or that all is well."""
    import torch

    words = torch.zeros(0, dtype=torch.uint8) if error is None else group.in_words(error)
    with group.connected_to("another process"):
        torch.distributed.broadcast(torch.tensor([len(words)]), 0)
        if len(words):
            torch.distributed.broadcast(words, 0)


def _hear() -> None:
    """Raise the error that the first process tells, if it tells one."""
    import torch

    length = torch.zeros(1, dtype=torch.int64)
    with group.connected_to("process 0"):
        torch.distributed.broadcast(length, 0)
        words = torch.zeros(int(length), dtype=torch.uint8)
        if len(words):
            torch.distributed.broadcast(words, 0)
    if len(words):
        raise group.from_words(words)
