"""A study as a value: its protocol, its file of records, and how it is run."""

from __future__ import annotations

import dataclasses
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
    """The functions that load the data of a study and carry out its runs.

    Attributes:
        load: `load(protocol, *, root, device, download)` returns what is loaded once per process.
        run: `run(task, method, parameters, *, seed, split, carried, report)` returns an `Outcome`; `task` is the result of
            `load`. It raises an `InputError` or an `ArithmeticError` if these parameters cannot be trained with.
        method: Returns the method with a name.
        suffixed: Returns a declared method with suffixes applied; None if there are no suffixes.
        resumes: True if `run` also takes `state`, a file of its own from which an interrupted run is resumed.
        measures: True if `run` gives an outcome the `score` of the protocol's metric; else only the balanced accuracy can
            be tuned and compared.

    Example:
        >>> from diversify.study.study import standard_runner
        >>> standard_runner().resumes
        True
    """

    load: Callable[..., Any]
    run: Callable[..., Outcome]
    method: Callable[[str], Method]
    suffixed: Callable[[Method, Sequence[str]], Method] | None = None
    resumes: bool = False
    measures: bool = False


def standard_runner() -> Runner:
    """Return the runner that trains networks with the methods of this library."""
    # Imported here: a study with a runner of its own does not need the training code.
    from .methods import method_named, with_suffixes
    from .task import load_task
    from .trial import run_trial

    return Runner(
        load=load_task, run=run_trial, method=method_named, suffixed=with_suffixes, resumes=True, measures=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A protocol, its file of records, and how it is run. It can be sent to another process.

    Attributes:
        protocol: What is the same for every method.
        results: The `.jsonl` file of records. It is created if needed, and an existing one is continued.
        root: Folder of the data sets.
        device: Training device.
        download: True to download a public data set that is missing.
        storage: Address of a database that holds the search; None for a journal beside the records.
        shared: Name under which several machines share the study in `storage`, a PostgreSQL database. Each has a file of
            records of its own, and all files receive all records. None if all processes use the same file.
        workers: Processes that share the device.
        declared: A Python file whose `METHODS` can be named in the protocol.
        runner: `package.module:function` that returns the `Runner`.

    Example:
        >>> study = Study(protocol=Protocol(suite="mine", data="digits", methods=("ce",)), results=Path("mine.jsonl"))
        >>> study.sidecar.name, sorted(study.space("ce"))
        ('mine.protocol.json', ['learning_rate', 'weight_decay'])
    """

    protocol: Protocol
    results: Path
    root: str = "data"
    device: str = "cpu"
    download: bool = False
    storage: str | None = None
    shared: str | None = None
    workers: int = 1
    declared: Path | None = None
    runner: str = "diversify.study.study:standard_runner"

    @property
    def sidecar(self) -> Path:
        """The file that holds the protocol and the search spaces of the records."""
        return self.results.with_suffix(".protocol.json")

    @property
    def journal(self) -> Path:
        """The file in which Optuna keeps the search if there is no database."""
        return self.results.with_suffix(".optuna.journal")

    @property
    def lock(self) -> Path:
        """The file of locks. It exists while a process works on the study."""
        return self.results.with_name(f".{self.results.name}.lock")

    @property
    def states(self) -> Path:
        """The folder of saved states. It exists while a run is unfinished."""
        return self.results.with_name(f".{self.results.name}.runs")

    @cached_property
    def made(self) -> Runner:
        """The runner, imported."""
        runner: Runner = user_code.import_object(self.runner, "runner")()
        return runner

    @cached_property
    def methods(self) -> dict[str, Method]:
        """The methods of the protocol by name; raises an InputError for an unknown one."""
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
        """The sha256 of what the protocol holds fixed."""
        return digest_of(self.protocol)

    def space(self, method: str) -> Space:
        """Return all parameters that are searched for a method."""
        return self.protocol.space_of(self.methods[method])


def declared_methods(file: Path | None) -> tuple[Method, ...]:
    """Return `METHODS` of a Python file; empty if there is no file, or no such name in it."""
    if file is None:
        return ()
    methods = getattr(user_code.import_file(file, "FILE.py"), "METHODS", ())
    if not isinstance(methods, tuple | list) or not all(isinstance(one, Method) for one in methods):
        raise must(f"METHODS of {file}", "be a tuple of Method", type(methods).__name__)
    from .methods import METHODS  # imported here: most studies declare no methods

    for place, one in enumerate(methods):
        if one.name in METHODS or one.name in [other.name for other in methods[:place]]:
            which = "of the library" if one.name in METHODS else "twice"
            raise must(f"METHODS of {file}", "have names of their own", f"{one.name!r} {which}")
    return tuple(methods)
