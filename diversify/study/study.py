"""A study as a value: its protocol, its records, and how it is run."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import must, unknown
from ..runtime import user_code
from .protocol import Method, Outcome, Protocol, Space
from .records import digest_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runner:
    """What loads the data of a study and trains one of its runs.

    Attributes:
        load: `load(protocol, *, root, device, download)`: what is loaded once per process.
        run: `run(task, method, parameters, *, seed, split, carried, report)`, with what `load` gave: an `Outcome`. An
            `InputError` or an `ArithmeticError` says that these parameters cannot be trained with.
        resumes: Whether `run` also takes `state`, a file of the run's own from which it goes on where it was interrupted.
        method: The method of a name.
        suffixed: A declared method with what its suffixes add.
    """

    load: Callable[..., Any]
    run: Callable[..., Outcome]
    method: Callable[[str], Method]
    suffixed: Callable[[Method, Sequence[str]], Method] | None = None
    resumes: bool = False


def standard_runner() -> Runner:
    """The runs of `study.trial`."""
    trial, methods = (importlib.import_module(f".{name}", __package__) for name in ("trial", "methods"))
    return Runner(
        load=trial.load_task,
        run=trial.run_trial,
        method=methods.method_named,
        suffixed=methods.with_suffixes,
        resumes=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A protocol, where its records go, and how it is run; it can be sent to another process.

    Attributes:
        storage: The address of a database that the search is kept in; None for a journal beside the records.
        workers: Processes that run trials side by side on the device.
        declared: A Python file whose `METHODS` are known beside the named ones.
        runner: `package.module:function` that returns the `Runner`.
    """

    protocol: Protocol
    results: Path
    root: str = "data"
    device: str = "cpu"
    download: bool = False
    storage: str | None = None
    workers: int = 1
    declared: Path | None = None
    runner: str = "diversify.study.study:standard_runner"

    @property
    def sidecar(self) -> Path:
        """What the records are of: the protocol, and what was searched."""
        return self.results.with_suffix(".protocol.json")

    @property
    def journal(self) -> Path:
        """Where Optuna keeps the search when no database is named."""
        return self.results.with_suffix(".optuna.journal")

    @property
    def lock(self) -> Path:
        """The file of locks, there while somebody works."""
        return self.results.with_name(f".{self.results.name}.lock")

    @property
    def states(self) -> Path:
        """The folder of what long runs go on from, there while some are begun."""
        return self.results.with_name(f".{self.results.name}.runs")

    @cached_property
    def made(self) -> Runner:
        """The runner, imported."""
        runner: Runner = user_code.import_object(self.runner, "runner")()
        return runner

    @cached_property
    def methods(self) -> dict[str, Method]:
        """The methods of the protocol, by name; an InputError for one that nobody declares."""
        declared = {method.name: method for method in declared_methods(self.declared)}
        return {name: self._method(name, declared) for name in self.protocol.methods}

    def _method(self, name: str, declared: Mapping[str, Method]) -> Method:
        if name in declared:
            return declared[name]
        first, *suffixes = name.split("+")
        if first not in declared:
            return self.made.method(name)
        if self.made.suffixed is None:
            raise unknown("method", name, declared)
        return self.made.suffixed(declared[first], suffixes)

    @cached_property
    def digest(self) -> str:
        """Of what the protocol holds fixed."""
        return digest_of(self.protocol)

    def space(self, method: str) -> Space:
        """All that is searched for a method."""
        return self.protocol.space_of(self.methods[method])


def declared_methods(file: Path | None) -> tuple[Method, ...]:
    """`METHODS` of a Python file; none where there is no file, or no such name in it."""
    if file is None:
        return ()
    methods = getattr(user_code.import_file(file, "FILE.py"), "METHODS", ())
    if not isinstance(methods, tuple | list) or not all(isinstance(one, Method) for one in methods):
        raise must(f"METHODS of {file}", "be a tuple of Method", type(methods).__name__)
    known = importlib.import_module(".methods", __package__).METHODS
    for place, one in enumerate(methods):
        if one.name in known or one.name in [other.name for other in methods[:place]]:
            law = "have names of their own"
            raise must(
                f"METHODS of {file}", law, f"{one.name!r} {'again' if one.name not in known else 'of the library'}"
            )
    return tuple(methods)
