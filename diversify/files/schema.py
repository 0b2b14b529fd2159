"""The base class of values read from files, and the translation of pydantic's errors into one-line messages.

No other file reads the contents of a `ValidationError`.
"""

from __future__ import annotations

import difflib
import reprlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pydantic
from pydantic_core import PydanticCustomError

from ..errors import InputError, must

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60

_LAWS = {  # by pydantic's type of error; {ge} and the like are filled in from the error's context
    "json_invalid": "be a JSON object",
    "missing": "be given",
    "extra_forbidden": "not be there",
    "less_than_equal": "be at most {le}",
    "less_than": "be below {lt}",
    "greater_than_equal": "be at least {ge}",
    "greater_than": "be above {gt}",
    "finite_number": "be finite",
    "literal_error": "be {expected}",
    "float_type": "be a number",
    "int_type": "be an integer",
    "int_parsing_size": "be an integer of at most 64 bits",
    "string_type": "be text",
    "tuple_type": "be a list",
    "list_type": "be a list",
    "model_type": "be an object",
    "model_attributes_type": "be an object",
    "dict_type": "be an object",
}


def broken(law: str, got: object, *, at: str = "") -> PydanticCustomError:
    """Return the error that a validator raises when a rule is broken.

    Args:
        law: The rule, as a verb phrase that follows "must".
        got: The value that breaks it.
        at: The field below the validated value that breaks it; empty if it is the value itself.

    Example:
        >>> class Shares(Value):
        ...     draws: tuple[float, ...]
        ...     @pydantic.field_validator("draws")
        ...     def _sum(cls, draws):
        ...         raise broken("sum to 1", sum(draws))
        >>> try:
        ...     Shares(draws=(0.5, 0.25))
        ... except pydantic.ValidationError as error:
        ...     print(refusal("plan", error))
        draws of the plan must sum to 1, got 0.75
    """
    return PydanticCustomError("broken", "must {law}, got {got}", {"law": law, "got": str(got), "at": at})


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict; to be passed to `json.loads` as `object_pairs_hook`.

    Raises:
        ValueError: A name occurs twice, so that it is unclear which value counts.

    Example:
        >>> import json
        >>> json.loads('{"a": 1, "b": 2}', object_pairs_hook=distinct)
        {'a': 1, 'b': 2}
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"{next(name for name in counts if counts[name] > 1)!r} twice in one object")
    return values


def refusal(name: str, error: pydantic.ValidationError, fields: Iterable[str] = ()) -> InputError:
    """Return pydantic's first complaint as `<path> of the <name> must <law>, got <value>`.

    Args:
        name: The value that was validated, for example "plan".
        error: The error that pydantic raised.
        fields: Names to suggest for a field that does not exist.

    Example:
        >>> class Point(Value):
        ...     height: float
        >>> try:
        ...     Point.model_validate({"height": "tall"}, strict=True)
        ... except pydantic.ValidationError as error:
        ...     print(refusal("point", error))
        height of the point must be a number, got 'tall'
    """
    first: Any = error.errors(include_url=False)[0]
    context, kind = first.get("ctx", {}), first["type"]
    path = ".".join(str(part) for part in (*first["loc"], context.get("at")) if part not in ("", None))
    subject = f"{path} of the {name}" if path else name
    if kind == "broken":
        return must(subject, context["law"], context["got"])
    advice = ""
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), list(fields), n=1)
        advice = f"did you mean {near[0]!r}?" if near else ""
    context = {key: f"{value:g}" if isinstance(value, float) else value for key, value in context.items()}
    law = _LAWS.get(kind)
    message = first["msg"].removeprefix("Value error, ")
    return must(
        subject, law.format(**context) if law else f"be valid ({message})", _shown(kind, first["input"]), advice
    )


def _shown(kind: str, value: Any) -> str:
    """Return the value in an error, shortened."""
    if kind == "missing":
        return "nothing"
    if kind == "json_invalid":
        return repr((value.decode(errors="replace") if isinstance(value, bytes) else value)[:60])
    return _SHORT.repr(value)


class Value(pydantic.BaseModel):
    """The base class of values that are written to files: frozen, with exactly the fields of the file.

    Example:
        >>> class Point(Value):
        ...     height: float
        >>> Point(height=2).model_dump()
        {'height': 2.0}
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
