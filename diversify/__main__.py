"""`python -m diversify`, and the `diversify` command."""

from __future__ import annotations

import sys

from .runtime import signals


def main() -> None:
    """Run the command line of this process; streams and signals are set up before anything slow is imported."""
    signals.open_streams()
    signals.receive_signals()
    from .cli.entry import run

    try:
        code = run(sys.argv[1:])
        signals.end_work()
    except KeyboardInterrupt:  # after the last that `run` does
        signals.end_work()
        code = signals.INTERRUPTED
    signals.leave(code)


if __name__ == "__main__":
    main()
