"""Run the command line in one of several processes that a launcher (torchrun) started: they work as one."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from ..errors import InputError, must
from ..runtime import group, launched, signals
from . import entry

SHARED = ("diagnose", "train")  # the commands that several processes run together


def run(arguments: Sequence[str]) -> int:
    """Run one command line together with the other processes and return the exit code, the same in all of them.

    Only the first process prints. The process that fails first prints its error, as a process that runs alone does, and all
    end with its code.

    Args:
        arguments: What follows `diversify`.
    """
    if os.environ["RANK"] != "0":
        signals.keep_silent()
    try:
        together = launched.join()
    except InputError as error:  # the processes have not met, so the first one of each machine speaks
        if launched.speaks_at_the_start():
            signals.speak_again()
        return entry.refuse(str(error))
    except Exception:
        signals.speak_again()
        raise
    signals.begin_work()
    try:
        code = _worked(together, arguments)
    except KeyboardInterrupt:  # it came after the last handler
        code = signals.INTERRUPTED
    return together.leave_with(code)


def _worked(together: launched.Launched, arguments: Sequence[str]) -> int:
    """Run the command line, show an error as far as this process does, and return the exit code."""
    try:
        with together.ending_with_others():
            return _checked(arguments)
    except launched.ShareDone:
        return 0
    except SystemExit as error:
        return _leave_as_told(error)
    except group.ProcessFailedError as error:
        found = together.code_of_failed()
        return entry.refuse(str(error)) if found is None else found
    except Exception as error:
        return _show(error)


def _show(error: Exception) -> int:
    """Print an error that is no user's, and return the exit code."""
    if group.is_lost(error):
        return entry.refuse(str(group.lost("another process", error)))
    if launched.speaks_for_all(1):
        traceback.print_exception(error)
    return 1


def _leave_as_told(error: SystemExit) -> int:
    """Return the exit code of an end that the user's code asks for; a message is printed, as Python does."""
    silent = error.code is None or isinstance(error.code, int)
    code = int(error.code or 0) if silent else 1
    if launched.speaks_for_all(code) and not silent:
        print(error.code, file=sys.stderr)
    return code


def _checked(arguments: Sequence[str]) -> int:
    """Run a command that can be shared; refuse others, and leave words that are no command to the parser."""
    name, alone = next((each for each in arguments if not each.startswith("-")), ""), ""
    options = {each.split("=")[0] for each in arguments}  # --features=TRAIN too
    if name in entry.command_names() and not {"-h", "--help"} & set(arguments):
        if name not in SHARED:
            alone = f"diversify {name}"
        elif name == "diagnose":
            alone = next(
                (f"diversify diagnose {each}" for each in ("--features", "--multilabel") if each in options), ""
            )
    if not alone:
        return entry.run(arguments)
    advice = f"run it without torchrun; {' and '.join(SHARED)} share their work"
    return entry.refuse(str(must(alone, "run in one process", launched.place_of_process()[1], advice)))
