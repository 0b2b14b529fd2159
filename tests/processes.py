"""What tests share that start processes of their own."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable


def default_signals() -> None:
    """For `preexec_fn`: let SIGINT and SIGTERM end the child, even if the tests were started with them ignored.

    A shell without job control ignores SIGINT in the processes that it starts in the background, and so do their children.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process that was started with `start_new_session=True`, and the processes that it started.

    Its workers hold its pipes: killed alone, it would leave a reader who waits for the end of them.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def wait_until(holds: Callable[[], bool], seconds: float = 300) -> None:
    """Wait for what another process does; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"did not come in {seconds} seconds"
        time.sleep(0.005)
