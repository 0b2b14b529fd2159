"""The standard streams of the process, and the signals that end it.

It imports nothing but the standard library, so that it is in force before anything slow is imported.
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
"""The exit code of an interrupted process."""

INTERRUPTED_LINE = "interrupted; what was finished is kept"

_working = False
_received = 0  # interruptions so far

_PLAIN = {"–": "-", "—": "-", "−": "-", "×": "x", "…": "...", "◆": "*", "●": "*", "→": "->", "≥": ">=", "≤": "<="}


def _plain_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end


def open_streams() -> None:
    """Replace closed standard streams by the null device, and show characters that a terminal lacks as plain ones.

    The next file to be opened would take the number of a closed stream, and would then receive what libraries write
    to that stream.
    """
    for descriptor, flags in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number: this one
    codecs.register_error("plain", _plain_characters)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open to the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain")


def flush_streams() -> None:
    """Write out what is buffered; a stream that fails is redirected to the null device, so that exit stays silent."""
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except (OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


_stderr: int | None = None  # a copy of the stream, while nothing is printed


def keep_silent() -> None:
    """Print nothing more in this process, whoever prints it, until `speak_again`."""
    global _stderr
    flush_streams()
    _stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def speak_again() -> None:
    """Print errors again, after `keep_silent`."""
    if _stderr is not None:
        flush_streams()
        os.dup2(_stderr, 2)


def leave(code: int) -> NoReturn:
    """Exit the process with this code.

    A member of a distributed process group exits at once: threads of the group may still hold tensors, and releasing
    them while Python shuts down would abort the process.
    """
    flush_streams()
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        os._exit(code)
    raise SystemExit(code)


def receive_signals() -> None:
    """Let SIGINT and SIGTERM end this process in an orderly way; a signal that the caller ignores stays ignored.

    While the program starts, a signal ends it at once: there is nothing to keep, and an exception would be lost in
    half-imported modules. After `begin_work` the first signal raises KeyboardInterrupt, the second is ignored while
    results are saved, and the third ends the process at once. Processes that are forked off ignore SIGINT, because
    their parent ends them.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _receive)
    sys.unraisablehook = _show_unraisable
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_leave_to_parent)


def begin_work() -> None:
    """From now on, let an interruption raise KeyboardInterrupt instead of ending the process."""
    global _working
    _working = True


def end_work() -> None:
    """From now on, ignore interruptions: everything is written.

    The system ignores the signals, since Python removes its own handlers before it exits.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def interruptions_held() -> Iterator[None]:
    """Hold SIGINT back until the block ends.

    Processes started in the block never receive it; their parent ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def was_interrupted() -> bool:
    """Return whether a signal has come, even if its KeyboardInterrupt was lost or became another error."""
    return _received > 0


def stop_if_interrupted() -> None:
    """Raise KeyboardInterrupt if a signal has come; long loops call this once a batch.

    Python drops an exception that is raised within a destructor or a callback of the interpreter. The signal has been
    counted all the same, so the next batch does not start.
    """
    if _received:
        raise KeyboardInterrupt


def interrupt() -> None:
    """Interrupt the main thread from another one, as a signal does; nothing if a signal has come already."""
    if _received:
        return
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    else:
        signal.raise_signal(signal.SIGTERM)


def _receive(number: int, frame: FrameType | None) -> None:
    global _received
    _received += 1
    if not _working or _received > 2:
        with contextlib.suppress(OSError):
            os.write(2, f"{INTERRUPTED_LINE}\n".encode())
        os._exit(INTERRUPTED)
    if _received == 1:
        raise KeyboardInterrupt


def _show_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Show errors of destructors, but none after an interruption: it leaves objects half made."""
    if not _received:
        sys.__unraisablehook__(unraisable)


def _leave_to_parent() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.excepthook = _unless_parent_left


def _unless_parent_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an error of a loader process, unless it only says that the interrupted parent closed the connection."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
