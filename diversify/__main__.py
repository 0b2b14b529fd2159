"""The entry point of `python -m diversify` and of the `diversify` command."""

from __future__ import annotations

import sys

from .runtime import signals


def main() -> None:
    """Run the command line with this process's arguments, then exit with its code.

    Streams and signal handlers are set up first, before anything slow is imported.
    """
    signals.open_streams()
    signals.receive_signals()
    from .runtime import launched

    if launched.is_one_of_several():
        from .cli.launched import run
    else:
        from .cli.entry import run

    try:
        code = run(sys.argv[1:])
        signals.end_work()
    except KeyboardInterrupt:  # it came after the last handler in `run`
        signals.end_work()
        code = signals.INTERRUPTED
    signals.leave(code)


if __name__ == "__main__":
    main()
