"""Run the command line: parse the flags, turn every error into one line and an exit code."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import typer
from rich.markup import escape

from ..errors import InputError, must, unknown
from ..runtime import signals
from .commands import app
from .screen import STANDARD_OUTPUT, NoReaderError, err

NO_READER = 141  # as the shell counts a process that a closed pipe ended


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code: 0 done, 2 the user's input, 130 interrupted."""
    try:
        code = _run(arguments)
    except (KeyboardInterrupt, typer.Abort):
        code = signals.INTERRUPTED
    except NoReaderError:
        return NO_READER
    except SystemExit as error:  # rich and the parser end the process where the help has no reader
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        return NO_READER
    except Exception:
        if not signals.was_interrupted():
            raise
        code = signals.INTERRUPTED
    if code == signals.INTERRUPTED or (code and signals.was_interrupted()):
        with suppress(NoReaderError, OSError):
            err.print(signals.INTERRUPTED_LINE, soft_wrap=True)
        return signals.INTERRUPTED
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        code = app(list(arguments), standalone_mode=False, prog_name="diversify")
    except InputError as error:
        return _refuse(_with_flags(str(error), arguments))
    except OSError as error:  # a full disk, a folder that is gone or not ours: what the system said
        if {"-h", "--help"} & set(arguments):  # which the parser prints
            error.filename = STANDARD_OUTPUT
        return _refuse(_system_error(error))
    except (KeyboardInterrupt, typer.Abort):
        raise
    except Exception as error:
        if not hasattr(error, "format_message"):  # a usage error of the command-line parser has it, whichever it is
            raise
        message = _usage_error(error, arguments)
        return _refuse(message) if message else 2  # the parser has none where it printed the help instead
    return code if isinstance(code, int) else 0


def _options(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command that is called, as typed before its options, and the options it has."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    name = next((each for each in arguments if not each.startswith("-")), "")
    if name not in commands:
        return "diversify", ["--help"]
    return f"diversify {name}", [option for each in commands[name].params for option in each.opts if option[:2] == "--"]


def _with_flags(message: str, arguments: Sequence[str]) -> str:
    """An error that begins with a parameter's name says the option that was typed for it."""
    name, rest = re.match(r"([\w-]*)(.*)", message).groups()  # type: ignore[union-attr]
    option = f"--{name.lower().replace('_', '-')}"
    about = rest.startswith((" must ", " of a resumed run must ")) or name == "weights"
    named = about and option in _options(arguments)[1]
    return f"{option}{rest}" if named else message


_VALUES = {  # what the parser's messages about a value have in common, in all its versions
    r"valid integer": "be an integer",
    r"valid (number|float)": "be a number",
    r"(?:greater than or equal to|range [a-z]*>=) ?(-?\d+)": r"be at least \1",
}


def _usage_error(error: Any, arguments: Sequence[str]) -> str:
    """A usage error of the parser in the form of all our errors; its own words where it says something else."""
    message = " ".join(error.format_message().split())
    command, options = _options(arguments)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    advice = f"see `{command} --help`"
    if "NoSuchOption" in kinds:
        near = difflib.get_close_matches(error.option_name, options, n=1)
        advice = f"did you mean {near[0]}?" if near else advice
        return str(must("option", f"be one that `{command}` has", error.option_name, advice))
    if "BadOptionUsage" in kinds:
        law, got = ("be followed by a value", "none") if "requires" in message else ("stand alone", "a value")
        return str(must(error.option_name, law, got, advice))
    opts = getattr(getattr(error, "param", None), "opts", ())
    name = str(opts[0] if opts and opts[0].startswith("-") else getattr(getattr(error, "param", None), "metavar", ""))
    if "MissingParameter" in kinds:
        return str(must(name, "be given", "none", advice))
    given = [part for each in arguments for part in each.split("=", 1)]
    values = [value for option, value in pairwise(given) if option in opts]
    for pattern, law in _VALUES.items():
        if values and (found := re.search(pattern, message)):
            return str(must(name, found.expand(law), repr(values[-1])))
    if message.startswith("No such command"):
        return str(unknown("command", arguments[0], [each.callback.__name__ for each in app.registered_commands]))  # type: ignore[union-attr]
    if found := re.search(r"unexpected extra arguments?(?:\(s\))? \((.*)\)", message):
        return str(must("command line", f"hold only what `{command}` takes", found[1], advice))
    return message


def _refuse(message: str) -> int:
    if not signals.was_interrupted():
        with suppress(OSError):  # the exit code says it too
            err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    return 2


def _system_error(error: OSError) -> str:
    """`FILE: reason`, and what to do where that is plain."""
    text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    if error.filename == STANDARD_OUTPUT:
        text += "; what was finished is kept"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        text += "; make room and run the command again"
    return " ".join(text.split())
