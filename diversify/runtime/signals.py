"""The process as the system starts and stops it: its standard streams, and the signals that end it.

Needs nothing but the standard library, so that it is in force before anything slow is imported.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import NoReturn

INTERRUPTED = 130
INTERRUPTED_LINE = "interrupted; what was finished is kept"

_working = False
_received = 0  # interruptions so far


# Streams

_PLAIN = {"–": "-", "—": "-", "−": "-", "×": "x", "…": "...", "◆": "*", "●": "*", "→": "->", "≥": ">=", "≤": "<="}


def _in_plain_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


def open_streams() -> None:
    """Stand in for standard streams that are closed, and let signs that a terminal lacks be shown as others.

    A descriptor left free would be taken by the next file that is opened, and what a library writes to descriptor 2
    would end up in it.
    """
    for descriptor, flags in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number: this one
    codecs.register_error("plain", _in_plain_signs)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open to the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain")


def flush_streams() -> None:
    """Write out what is left, and keep quiet about streams that take no more."""
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except (OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


def leave(code: int) -> NoReturn:
    """End the process with this exit code.

    One of a process group ends at once: threads of the group may still hold tensors, and where they let go of them while
    Python is being taken down they abort the process, all done as it is.
    """
    flush_streams()
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        os._exit(code)
    raise SystemExit(code)


# Signals


def receive_signals() -> None:
    """Let SIGINT and SIGTERM end this process in good order; one that the caller has switched off stays off.

    While the program is starting there is nothing to keep, and an exception would be lost in half-imported modules:
    the process ends at once. While it works, the first becomes a KeyboardInterrupt, the second is not let into what
    is being put away, and a third ends the process at once. Loader processes leave it to this one.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _receive)
    sys.unraisablehook = _again
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_leave_to_parent)


def begin_work() -> None:
    """From here on an interruption is a KeyboardInterrupt."""
    global _working
    _working = True


def end_work() -> None:
    """From here on an interruption changes nothing: all is written."""
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # to be ignored by the system: Python takes its handlers down at exit
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def interruptions_held() -> Iterator[None]:
    """SIGINT waits until the block has ended; processes that are started in it never get one: their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def was_interrupted() -> bool:
    """Whether an interruption has come, whatever error it has turned into on its way."""
    return _received > 0


def _receive(number: int, frame: FrameType | None) -> None:
    global _received
    _received += 1
    if not _working or _received > 2:
        with contextlib.suppress(OSError):
            os.write(2, f"{INTERRUPTED_LINE}\n".encode())
        os._exit(INTERRUPTED)
    if _received == 1:
        raise KeyboardInterrupt


def _again(unraisable: sys.UnraisableHookArgs) -> None:
    """A KeyboardInterrupt that fell into a destructor would be shown and lost: it comes once more.

    What else destructors raise after an interruption is about objects that are only half made.
    """
    global _received
    if not _received:
        sys.__unraisablehook__(unraisable)
    if not _received or not issubclass(unraisable.exc_type, KeyboardInterrupt):
        return
    _received = 0
    threading.Timer(0.01, signal.raise_signal, [signal.SIGINT]).start()


def _leave_to_parent() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.excepthook = _unless_parent_left


def _unless_parent_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an error of a loader process, but not that its parent, interrupted, has hung up on it."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
