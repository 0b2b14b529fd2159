"""The base of all values that cross the disk, and pydantic's errors as one-line messages."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

import pydantic
from pydantic_core import PydanticCustomError

from ..errors import InputError, must

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60

_LAWS = {  # by the kind of the error; {name} is what its context holds
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
    """For a validator to raise: `law` does not hold of the value it validates, or of the field `at` below it."""
    return PydanticCustomError("broken", "must {law}, got {got}", {"law": law, "got": str(got), "at": at})


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of a JSON file, for `object_pairs_hook`; a ValueError where a name stands twice: which holds is unsaid."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} twice in one object")
    return values


def refusal(name: str, error: pydantic.ValidationError, fields: Iterable[str] = ()) -> InputError:
    """The first complaint as `<path> of the <name> must <law>, got <value>`; `fields` are those to suggest for a typing error."""
    first: Any = error.errors(include_url=False)[0]
    context, kind = first.get("ctx", {}), first["type"]
    path = ".".join(str(part) for part in (*first["loc"], context.get("at")) if part not in ("", None))
    subject = f"{path} of the {name}" if path else name
    if kind == "broken":
        return must(subject, context["law"], context["got"])
    got = "nothing" if kind == "missing" else _SHORT.repr(first["input"])
    advice = ""
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), list(fields), n=1)
        advice = f"did you mean {near[0]!r}?" if near else ""
    context = {key: f"{value:g}" if isinstance(value, float) else value for key, value in context.items()}
    law = _LAWS.get(kind)
    return must(subject, law.format(**context) if law else f"be valid ({first['msg']})", got, advice)


class Value(pydantic.BaseModel):
    """A frozen value whose fields are exactly those of the file."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
