"""The error for wrong input, and the one form that its message takes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 500  # characters of each part of an error


class InputError(ValueError):
    """The error that every function raises for wrong input, with a message of one line.

    The message names the parameter, the rule that it breaks, the value, and where that helps what to do:
    `<name> must <law>, got <value>[; <what to do>]`.

    Attributes:
        parts: `(name, law, got, advice)` as given to `must`; None for a message that was not made there. The command
            line reads them to write its flags in place of the parameters.

    Example:
        >>> import diversify as dv
        >>> try:
        ...     dv.Recipe(optimizer="adam")
        ... except dv.InputError as error:
        ...     print(error)
        optimizer must be one of sgd, adamw, got 'adam'; did you mean 'adamw'?
    """

    parts: tuple[str, str, str, str] | None = None

    def __init__(self, message: str = "") -> None:
        # A data loader raises its worker's error again with the whole traceback as the message: keep the one line.
        super().__init__(message.rpartition("InputError: ")[2].strip() if "\n" in message else message)


def must(name: str, law: str, got: object, advice: str = "") -> InputError:
    """Return the error `<name> must <law>, got <value>[; <what to do>]`, for the caller to raise.

    Args:
        name: The parameter, or whatever else breaks the rule. Of parts that are very long, the middle is left out.
        law: The rule, as a verb phrase that follows "must".
        got: The value, shown as `str` shows it.
        advice: What to do about it; left out where empty.

    Example:
        >>> print(must("epochs", "be at least 1", 0))
        epochs must be at least 1, got 0
    """
    name, law, shown, advice = (_short(" ".join(str(part).split())) for part in (name, law, got, advice))
    error = InputError(f"{name} must {law}, got {shown}" + (f"; {advice}" if advice else ""))
    error.parts = (name, law, shown, advice)
    return error


def _short(text: str) -> str:
    """A text of any length as one that fits an error: its beginning and its end."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 100]} ... {text[-90:]}"


def unknown(name: str, got: str, choices: Iterable[str]) -> InputError:
    """Return the error for a value that is not among `choices`: it lists them and suggests the nearest.

    Example:
        >>> print(unknown("schedule", "step", ["steps", "cosine"]))
        schedule must be one of steps, cosine, got 'step'; did you mean 'steps'?
    """
    listed = list(choices)
    near = difflib.get_close_matches(got, listed, n=1)
    return must(name, f"be one of {', '.join(listed)}", repr(got), f"did you mean {near[0]!r}?" if near else "")
