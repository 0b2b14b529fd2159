"""The one error that a user's input can cause, and the one form its message takes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """An input breaks a rule; the message is one line: what, the rule, the value, what to do."""

    def __init__(self, message: str = "") -> None:
        # A loader hands on an error of its worker process with the worker's traceback as the message: keep the line.
        super().__init__(message.rpartition("InputError: ")[2].strip() if "\n" in message else message)


def must(name: str, law: str, got: object, advice: str = "") -> InputError:
    """The error `<name> must <law>, got <value>[; <what to do>]`, to be raised by the caller."""
    text = f"{name} must {law}, got {got}"
    return InputError(" ".join(f"{text}; {advice}".split() if advice else text.split()))


def unknown(name: str, got: str, choices: Iterable[str]) -> InputError:
    """The error for a name that is not among `choices`: lists them and suggests the nearest."""
    listed = list(choices)
    near = difflib.get_close_matches(got, listed, n=1)
    return must(name, f"be one of {', '.join(listed)}", repr(got), f"did you mean {near[0]!r}?" if near else "")
