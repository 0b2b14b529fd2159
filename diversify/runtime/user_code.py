"""Objects that a user names as `package.module:attribute`, and files of Python that a user declares them in."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError, must


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
    except Exception as error:  # whatever a module of the user's raises while it is imported
        if is_passed_on(error):
            raise
        advice = str(error) if isinstance(error, ImportError | AttributeError) else describe(error)
        raise must(name, "name something that can be imported", repr(path), advice) from error
    finally:
        sys.path.remove("")


class _Uncached(importlib.machinery.SourceFileLoader):
    """Runs a file as a script is run: no `__pycache__` is left beside it."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Nothing is written."""


def import_file(path: Path, name: str) -> Any:
    """The module that a Python file is, run anew.

    Raises:
        InputError: there is no such file, or it cannot be run; `name` says which option it was.
    """
    if not path.is_file():
        raise must(name, "be an existing Python file", path)
    place = zlib.crc32(str(path.resolve()).encode())  # two folders may have a file of one name
    module_name = f"declared_{path.stem}_{place:08x}"
    spec = importlib.util.spec_from_file_location(module_name, path, loader=_Uncached(module_name, str(path)))
    if spec is None or spec.loader is None:
        raise must(name, "be a Python file", path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # what lies beside it can be imported, as for a script
    sys.modules[spec.name] = module  # where what is declared in it, a dataclass for one, looks for its module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a file of the user's raises while it is run
        sys.modules.pop(spec.name, None)
        if is_passed_on(error):
            raise
        raise must(name, "be a Python file that runs", path, describe(error)) from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Whether a callable takes a keyword of this name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == name or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def call_object(path: str, make: Any, law: str, **options: Any) -> Any:
    """What the object at `path` returns when called.

    Raises:
        InputError: it cannot be called, or raises an error; `law` says what it must do.
    """
    if not callable(make):
        raise must(path, "be callable", type(make).__name__)
    try:
        return make(**options)
    except Exception as error:  # whatever a function of the user's raises
        if is_passed_on(error):
            raise
        raise must(f"{path}()", law, describe(error)) from error


def describe(error: BaseException) -> str:
    """`Type: first line` of an error; the type alone where it says nothing."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


def is_passed_on(error: BaseException) -> bool:
    """Whether an error out of the user's code stays as it is: our own one-liners, and memory that ran out."""
    text = str(error).lower()
    scarce = "out of memory" in text or "can't allocate memory" in text  # torch's on the CPU is a plain RuntimeError
    return isinstance(error, InputError | MemoryError) or (isinstance(error, RuntimeError) and scarce)
