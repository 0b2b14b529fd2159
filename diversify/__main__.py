"""`python -m diversify`, and the `diversify` command."""

from __future__ import annotations

import sys

from . import process


def main() -> None:
    """Run the command line of this process; streams and signals are set up before anything slow is imported."""
    process.open_streams()
    process.receive_signals()
    from .cli import run

    try:
        code = run(sys.argv[1:])
        process.end_work()
    except KeyboardInterrupt:  # after the last that `run` does
        process.end_work()
        code = process.INTERRUPTED
    process.leave(code)


if __name__ == "__main__":
    main()
