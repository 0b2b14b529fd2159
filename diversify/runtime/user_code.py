"""Import objects that the user names as `package.module:attribute`, and Python files of the user."""

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
    """Return the object at `package.module:attribute`; modules of the working directory are found too.

    Args:
        path: The module and the attribute.
        name: The parameter as errors name it.

    Raises:
        InputError: The path has another form, or it cannot be imported.

    Example:
        >>> import_object("math:sqrt", "loss")(4.0)
        2.0
    """
    module_name, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise must(name, "be package.module:function", repr(path))
    sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # the user's module may raise anything
        if is_passed_on(error):
            raise
        advice = str(error) if isinstance(error, ImportError | AttributeError) else describe(error)
        raise must(name, "name something that can be imported", repr(path), advice) from error
    finally:
        sys.path.remove("")


class _Uncached(importlib.machinery.SourceFileLoader):
    """Run a file as a script is run, without leaving a `__pycache__` beside it."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Write nothing."""


def import_file(path: Path, name: str) -> Any:
    """Run a Python file and return it as a module; each call runs it again.

    Args:
        path: The file; it may import modules beside it.
        name: The file as errors name it.

    Raises:
        InputError: There is no such file, or it raises an error.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "own.py").write_text("EPOCHS = 3")
        ...     import_file(Path(folder) / "own.py", "file").EPOCHS
        3
    """
    if not path.is_file():
        raise must(name, "be an existing Python file", path)
    place = zlib.crc32(str(path.resolve()).encode())  # two folders may hold files of the same name
    module_name = f"declared_{path.stem}_{place:08x}"
    spec = importlib.util.spec_from_file_location(module_name, path, loader=_Uncached(module_name, str(path)))
    if spec is None or spec.loader is None:
        raise must(name, "be a Python file", path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # as for a script, modules beside it can be imported
    sys.modules[spec.name] = module  # dataclasses look their module up here
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's file may raise anything
        sys.modules.pop(spec.name, None)
        if is_passed_on(error):
            raise
        raise must(name, "be a Python file that runs", path, describe(error)) from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Return whether a callable takes a keyword argument of this name.

    Example:
        >>> accepts(import_file, "path"), accepts(import_file, "seed")
        (True, False)
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == name or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def call_object(path: str, make: Any, law: str, **options: Any) -> Any:
    """Call the user's object and return the result.

    Args:
        path: The object as errors name it.
        make: The object.
        law: What the call must do, as a verb phrase that follows "must".
        **options: Arguments of the call.

    Raises:
        InputError: The object cannot be called, or the call raises an error.

    Example:
        >>> call_object("builtins:dict", dict, "return a dict", epochs=3)
        {'epochs': 3}
    """
    if not callable(make):
        raise must(path, "be callable", type(make).__name__)
    try:
        return make(**options)
    except Exception as error:  # the user's function may raise anything
        if is_passed_on(error):
            raise
        raise must(f"{path}()", law, describe(error)) from error


def describe(error: BaseException) -> str:
    """Return `Type: first line` of an error; the type alone if it has no message.

    Example:
        >>> describe(KeyError("epochs"))
        "KeyError: 'epochs'"
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


def is_passed_on(error: BaseException) -> bool:
    """Return whether an error from the user's code is raised unchanged: an InputError, or memory that ran out.

    Example:
        >>> is_passed_on(MemoryError()), is_passed_on(KeyError("epochs"))
        (True, False)
    """
    text = str(error).lower()
    scarce = "out of memory" in text or "can't allocate memory" in text  # torch raises a plain RuntimeError on the CPU
    return isinstance(error, InputError | MemoryError) or (isinstance(error, RuntimeError) and scarce)
