"""The `benchmark` command."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pydantic
import torch

from ..errors import InputError, must, unknown
from ..files.schema import refusal
from ..repair.metric import TITLES
from ..runtime.progress import Say
from ..runtime.user_code import import_file
from ..study.database import shown
from ..study.experiments.suites import EXPERIMENTS
from ..study.ledger import Step
from ..study.protocol import Protocol
from ..study.records import read_records
from ..study.run import run_study
from ..study.study import Study
from ..study.task import data_of
from .deployment import cost_from, target_prior_from
from .experiment import experiment_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmarked:
    """The number of records in the file at the end.

    Attributes:
        trials: Trials of the methods that took part; 0 for an experiment.
        finals: Final runs of these methods; for an experiment, its runs.
        new: Records that this call added.
        summary: What the records of an experiment show, as a table; empty for a comparison of methods.
    """

    trials: int
    finals: int
    new: int
    summary: str = ""


def benchmark_run(
    suite: str,
    *,
    out: Path,
    methods: str | None = None,
    trials: int | None = None,
    seeds: str | None = None,
    assignments: int | None = None,
    metric: str | None = None,
    target_prior: Path | None = None,
    cost: Path | None = None,
    workers: int = 1,
    storage: str | None = None,
    shared: str | None = None,
    root: Path = Path("data"),
    download: bool = False,
    device: str = "auto",
    runner: str | None = None,
    say: Say,
    progress: Callable[[Step], None],
) -> Benchmarked:
    """Run a suite, an experiment, or the PROTOCOL that a Python file declares; runs that `out` already records are not repeated.

    Args:
        suite: The name of a suite or of an experiment, or the path of a Python file, which ends in `.py`.
        out: The records, a file that ends in `.jsonl`.
        methods: Names separated by commas; None takes those of the suite.
        trials: Trials of each method; None takes those of the suite.
        seeds: Seeds of the final runs, separated by commas; None takes those of the suite.
        assignments: Permutations of the classes, for the experiments on diversity alone.
        metric: What methods are tuned and compared by, as in `choose_head`; None takes that of the suite, with its target
            prior and cost.
        target_prior: File of the share of each class where the model will be used; see `target_prior_from`.
        cost: File of the cost of each mistake; see `cost_from`.
        workers: Processes that run trials in parallel.
        storage: URL of the search's database; None keeps a journal beside the records.
        shared: Name under which several machines share the study in a PostgreSQL `storage`, each with an `out` of its own.
        root: Folder of the public data sets.
        download: Download a public data set that is missing.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        runner: `package.module:function` that runs trials and finals in place of the library's own.
        say: Called with each line for the user.
        progress: Called with each step of the study.

    Raises:
        InputError: An argument is wrong, the target prior or the cost does not fit the classes of the data, or `out` holds
            records of another study.
    """
    if suite in EXPERIMENTS:
        given = {
            "methods": None if methods is None else _names(methods),
            "trials": trials,
            "seeds": None if seeds is None else _seeds(seeds),
            "assignments": assignments,
            "metric": metric,
            "target_prior": target_prior,
            "cost": cost,
            "storage": None if storage is None else shown(storage),
            "shared": shared,
            "device": None if device == "auto" else _device(device),
            "runner": runner,
        }
        given = {option: value for option, value in given.items() if value is not None}
        where: dict[str, Any] = {"workers": workers, "root": root, "download": download}
        found = experiment_run(suite, out=out, given=given, say=say, progress=progress, **where)
        return Benchmarked(trials=0, finals=found.runs, new=found.new, summary=found.summary)
    if assignments is not None:
        raise must("assignments", "be left out for a comparison of methods", assignments)
    declared = Path(suite) if suite.endswith(".py") else None
    protocol = _protocol(suite) if declared is None else _declared_protocol(declared)
    protocol = _changed(protocol, methods, trials, seeds)
    if (metric, target_prior, cost) != (None, None, None):
        protocol = _judged(protocol, metric, target_prior, cost, root=root, download=download)
    study = Study(
        protocol=protocol,
        results=out,
        root=str(root),
        device=_device(device),
        download=download,
        storage=storage,
        shared=shared,
        workers=workers,
        declared=declared,
        **({} if runner is None else {"runner": runner}),
    )
    _describe(study, say)
    new = 0
    for step in run_study(study):
        new += step.record is not None
        progress(step)
    records = [one for one in read_records(out) if one.method in study.protocol.methods]
    for name in study.protocol.methods:
        if not any(one.state == "complete" for one in records if one.method == name):
            say(f"note: no trial of {name} was completed, so it has no final run")
    finals = sum(one.kind == "final" for one in records)
    return Benchmarked(trials=len(records) - finals, finals=finals, new=new)


def _protocol(name: str) -> Protocol:
    suites: Mapping[str, Protocol] = importlib.import_module("diversify.study.suites").SUITES
    if name not in suites:
        raise unknown("suite", name, [*suites, *EXPERIMENTS, "FILE.py"])
    return suites[name]


def _declared_protocol(file: Path) -> Protocol:
    """The `PROTOCOL` that a Python file declares."""
    try:
        protocol = getattr(import_file(file, "suite"), "PROTOCOL", None)
    except InputError as error:
        if isinstance(error.__cause__, pydantic.ValidationError):
            raise refusal(f"protocol in {file}", error.__cause__, Protocol.model_fields) from None
        raise
    if not isinstance(protocol, Protocol):
        got = "none" if protocol is None else f"{type(protocol).__name__}"
        raise must(f"PROTOCOL of {file}", "be a diversify.study.protocol.Protocol", got)
    return protocol


def _changed(protocol: Protocol, methods: str | None, trials: int | None, seeds: str | None) -> Protocol:
    """The protocol with other methods, trials and seeds, where given."""
    changes: dict[str, Any] = {}
    if methods is not None:
        changes["methods"] = _names(methods)
    if trials is not None:
        changes["trials"] = trials
    if seeds is not None:
        changes["seeds"] = _seeds(seeds)
    try:
        return Protocol.model_validate({**protocol.model_dump(), **changes})
    except pydantic.ValidationError as error:
        raise refusal("protocol", error, Protocol.model_fields) from None


def _judged(
    protocol: Protocol, metric: str | None, target_prior: Path | None, cost: Path | None, *, root: Path, download: bool
) -> Protocol:
    """The protocol with another metric; its own target prior and cost stay only with its own metric."""
    values: dict[str, Any] = {}
    if metric is not None and metric != protocol.metric:
        if metric not in TITLES:
            raise unknown("metric", metric, TITLES)
        values = {"metric": metric, "target_prior": None, "cost": None}
    if target_prior or cost:
        order = protocol.tail_orders[0]
        names = data_of(protocol, root=str(root), tail_order=order, holdout=0.0, download=download).class_names
        values |= {"target_prior": tuple(target_prior_from(target_prior, names))} if target_prior else {}
        values |= {"cost": tuple(map(tuple, cost_from(cost, names)))} if cost else {}
    changed = protocol.model_copy(update=values)
    changed.metric_on(torch.ones(len(changed.target_prior or changed.cost or ()), dtype=torch.int64))
    return changed


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if "" in names or len(set(names)) < len(names):
        raise must("methods", "be different names separated by commas", repr(text))
    return names


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() and len(part) < 19 for part in parts):
        raise must("seeds", "be integers from 0 on, separated by commas", repr(text))
    seeds = tuple(map(int, parts))
    if len(set(seeds)) < len(seeds):
        raise must("seeds", "be different", repr(text))
    return seeds


def _device(name: str) -> str:
    """The device of this name; `auto` is the GPU if there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, place = name.partition(":")
    if kind not in ("cpu", "cuda") or (":" in name and not (kind == "cuda" and place.isdecimal())):
        raise must("device", "be auto, cpu, cuda or cuda:N", repr(name))
    if kind == "cuda" and int(place or 0) >= torch.cuda.device_count():
        raise must("device", "exist", name, f"torch finds {torch.cuda.device_count()} CUDA devices")
    return name


def _describe(study: Study, say: Say) -> None:
    """Say which methods are compared, on which data, and at what budget."""
    protocol = study.protocol
    beside = f", {study.workers} worker processes" if study.workers > 1 else ""
    say(
        f"{protocol.suite}: {protocol.data}, {protocol.imbalance}; {protocol.model}, {protocol.epochs} epochs; {study.device}{beside}"
    )
    say(f"methods: {', '.join(protocol.methods)}")
    seeds = ", ".join(map(str, protocol.seeds))
    say(
        f"each method: {protocol.trials} trials, evaluated on the validation set; then one final run for each of the seeds"
        f" {seeds}, on the test set"
    )
    if protocol.metric != "balanced":
        say(f"methods are tuned and compared by {TITLES[protocol.metric]}")
