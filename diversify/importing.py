"""Objects that a user names as `package.module:attribute`."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from .errors import must


def import_object(path: str, name: str) -> Any:
    """The object at `package.module:attribute`; modules of the working directory are found too.

    Raises:
        InputError: the path has another form, or nothing can be imported from it; `name` says which option it was.
    """
    module_name, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise must(name, "be package.module:function", repr(path))
    sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise must(name, "name something that can be imported", repr(path), str(error)) from error
    finally:
        sys.path.remove("")


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Whether a callable takes a keyword of this name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == name or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
