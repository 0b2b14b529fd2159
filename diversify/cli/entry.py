"""Run the command line: parse the flags, and turn every error into one line and an exit code."""

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
from ..runtime import launched, signals
from ..runtime.group import ProcessFailedError
from .commands import app
from .screen import STANDARD_OUTPUT, NoReaderError, err

NO_READER = 141  # the shell's code for a process that SIGPIPE ended


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: What follows `diversify`, for example `["demo", "--seed", "1"]`.

    Returns:
        0 when done, 2 for wrong input or an error of the system, 130 when interrupted, 141 when nobody reads the output.
    """
    try:
        code = _run(arguments)
    except (KeyboardInterrupt, typer.Abort):
        code = signals.INTERRUPTED
    except NoReaderError:
        return NO_READER
    except SystemExit as error:  # raised by rich and by the parser when nobody reads the help
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        return NO_READER
    except Exception:
        if not signals.was_interrupted():
            raise
        code = signals.INTERRUPTED
    if code == signals.INTERRUPTED or (code and signals.was_interrupted()):
        if launched.speaks_for_all(signals.INTERRUPTED):
            with suppress(NoReaderError, OSError):
                err.print(signals.INTERRUPTED_LINE, soft_wrap=True)
        return signals.INTERRUPTED
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        code = app(list(arguments), standalone_mode=False, prog_name="diversify")
    except InputError as error:
        return refuse(_with_flags(error, arguments))
    except ProcessFailedError:
        raise  # the process that failed shows its error
    except OSError as error:  # a full disk, a folder that is gone or not ours: the system's own words
        if {"-h", "--help"} & set(arguments):  # the parser prints the help, without naming the stream
            error.filename = STANDARD_OUTPUT
        return refuse(_system_error(error))
    except (KeyboardInterrupt, typer.Abort):
        raise
    except Exception as error:
        if _lacks(error):
            return refuse(_lacks(error))
        if not hasattr(error, "format_message"):  # every usage error of the parser has it
            raise
        message = _usage_error(error, arguments)
        return refuse(message) if message else 2  # no message: the parser printed the help instead
    return code if isinstance(code, int) else 0


def _parameters(arguments: Sequence[str]) -> tuple[str, list[Any]]:
    """The command that is called, as typed before its options, and the parameters that typer declares for it."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    name = next((each for each in arguments if not each.startswith("-")), "")
    return (f"diversify {name}", commands[name].params) if name in commands else ("diversify", [])


def command_names() -> list[str]:
    """Return the names of all commands."""
    return [each.callback.__name__ for each in app.registered_commands]  # type: ignore[union-attr]


def _flags(arguments: Sequence[str]) -> dict[str, str]:
    """Return each parameter of the command as it is typed: `tail_order` as `--tail-order`, `folder` as `DIR`.

    An option is known by its flag and by the name of its parameter: `--out` of the benchmark as `out` and as `results`.
    """
    typed: dict[str, str] = {}
    for each in _parameters(arguments)[1]:
        flag = each.opts[-1]
        if flag.startswith("--"):
            typed |= dict.fromkeys((each.name, flag.removeprefix("--").replace("-", "_")), flag)
        else:
            typed[each.name] = each.metavar
    return typed


_FORM = re.compile(r"(.+?) must (.+?), got (.*?)(?:; (.*))?")  # a message that lost its parts on the way from a worker


def _with_flags(error: InputError, arguments: Sequence[str]) -> str:
    """The message with flags in place of the parameters that the library names.

    A subject that is a parameter (`tail_order`, `mean and std`, `ratio of imbalance`, `weights PATH`) becomes its flag;
    in all but the value, `name=VALUE` becomes `--name VALUE`, and `name=True` becomes `--name`.
    """
    typed = _flags(arguments)
    form = _FORM.fullmatch(str(error))
    parts = error.parts or (form and form.groups(""))
    if not parts or not typed:
        return str(error)
    name, law, got, advice = parts
    known = "|".join(sorted(typed, key=len, reverse=True))
    subject = rf"(?:^|(?<= and )|(?<= of )|(?<= under ))({known})(?=$| and | of a resumed run$| \S*[./])"
    name = re.sub(subject, lambda found: typed[found[1]], name)

    def given(found: re.Match[str]) -> str:
        value = found[2].strip("\"'")
        return typed[found[1]] if value == "True" else f"{typed[found[1]]} {value}"

    keyword = rf"""(?<![\w.`/-])({known})=("[^"]*"|'[^']*'|[^\s,;:()`]+)"""
    name, law, advice = (re.sub(keyword, given, text) for text in (name, law, advice))
    return str(must(name, law, got, advice))


_VALUES = {  # patterns that the parser's messages about a value match in all its versions
    r"valid integer": "be an integer",
    r"valid (number|float)": "be a number",
    r"(?:greater than or equal to|range [a-z]*>=) ?(-?\d+)": r"be at least \1",
}


def _usage_error(error: Any, arguments: Sequence[str]) -> str:
    """A usage error of the parser in the form of all our errors; in its own words where it fits none."""
    message = " ".join(error.format_message().split())
    command, parameters = _parameters(arguments)
    options = [option for each in parameters for option in each.opts if option[:2] == "--"] or ["--help"]
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
        return str(unknown("command", arguments[0], command_names()))
    if found := re.search(r"unexpected extra arguments?(?:\(s\))? \((.*)\)", message):
        return str(must("command line", f"hold only what `{command}` takes", found[1], advice))
    return message


def refuse(message: str) -> int:
    """Print an error in one line, and return its exit code."""
    if not signals.was_interrupted() and launched.speaks_for_all(2):
        with suppress(OSError):  # where stderr is broken too, the exit code tells
            err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    return 2


_MEMORY = re.compile(r"can't allocate memory|out of memory|cannot allocate memory|failed to map segment", re.IGNORECASE)
_ONEDNN = re.compile(r"could not (?:create|execute) a \w+")  # all that oneDNN says where it gets no memory
_THREADS = re.compile(r"can't start new thread|thread creation failed", re.IGNORECASE)


def _lacks(error: Exception) -> str:
    """What the system did not give, as an error of one line; empty for any other error."""
    text = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError | ImportError) and _MEMORY.search(text)):
        advice = "close other programs, raise the limit, or take fewer or smaller images"
        return str(must("memory", "be enough for the command", "no more from the system", advice))
    if isinstance(error, RuntimeError) and _ONEDNN.fullmatch(text):
        advice = "if memory is not short, run with ONEDNN_VERBOSE=all to see why"
        return str(must("memory", "be enough for the command", f"`{text}` from oneDNN", advice))
    if isinstance(error, RuntimeError) and _THREADS.search(text):
        return str(must("threads", "be as many as the command needs", "no more from the system", "raise the limit"))
    if isinstance(error, RuntimeError | ImportError) and "too many open files" in text.lower():
        advice = "raise the limit (ulimit -n), or lower --workers"
        return str(must("open files", "be as many as the command needs", "no more from the system", advice))
    return ""


def _system_error(error: OSError) -> str:
    """`FILE: reason`, and for a full disk what to do."""
    text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    if error.filename == STANDARD_OUTPUT:
        text += "; what was finished is kept"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        text += "; make room and run the command again"
    return " ".join(text.split())
