"""Run the command line in one of several processes that a launcher (torchrun) started: they work as one."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..errors import InputError, must
from ..runtime import launched, signals
from . import entry

SHARED = ("diagnose", "train")  # the commands that several processes run together


def run(arguments: Sequence[str]) -> int:
    """Run one command line together with the other processes and return the exit code, the same in all of them.

    Only the first process prints. The process that fails first prints its error, and all end with its code.

    Args:
        arguments: What follows `diversify`.
    """
    if os.environ["RANK"] != "0":
        signals.keep_silent()
    try:
        together = launched.join()
    except InputError as error:  # every process finds it
        return entry.refuse(str(error))
    signals.begin_work()
    try:
        code = _checked(arguments)
    except launched.ShareDone:
        code = 0
    except Exception as error:
        if _is_of_connection(error):
            code = entry.refuse(str(launched.lost("another process")))
        elif launched.speaks_for_all(1):
            raise
        else:
            code = 1
    return together.leave_with(code)


def _is_of_connection(error: Exception) -> bool:
    """Return whether a collective operation failed, as it does where another process has ended."""
    words = f"{type(error).__name__} {error}".lower()
    return isinstance(error, RuntimeError) and any(each in words for each in ("gloo", "nccl", "distbackend", "socket"))


def _checked(arguments: Sequence[str]) -> int:
    """Run a command that can be shared; refuse others, and leave words that are no command to the parser."""
    name, alone = next((each for each in arguments if not each.startswith("-")), ""), ""
    if name in entry.command_names() and not {"-h", "--help"} & set(arguments):
        if name not in SHARED:
            alone = f"diversify {name}"
        elif name == "diagnose":
            alone = next(
                (f"diversify diagnose {each}" for each in ("--features", "--multilabel") if each in arguments), ""
            )
    if not alone:
        return entry.run(arguments)
    advice = f"run it without torchrun; {' and '.join(SHARED)} share their work"
    return entry.refuse(str(must(alone, "run in one process", launched.place_of_process()[1], advice)))
