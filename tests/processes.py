"""What tests share that start processes of their own."""

import signal


def default_signals() -> None:
    """For `preexec_fn`: let SIGINT and SIGTERM end the child, even if the tests were started with them ignored.

    A shell without job control ignores SIGINT in the processes that it starts in the background, and so do their children.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
