"""A study from its first trial to its last final run: who runs what, what is recorded, and how it goes on after an interruption.

The file of records is the truth. Whoever asks for work, under one lock, gets the first trial that is neither recorded nor
claimed, or a final run of a method whose trials are all recorded. A claim is a lock, gone with the process that holds it, so
that nothing is ever left to be cleared away, and every run is recorded once. A run of many minutes also keeps its state beside
the records, and goes on from it where the same code takes the same run up again.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import secrets
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch

from .. import importing, origin, process, storage
from ..errors import InputError, must, unknown
from .protocol import Method, Outcome, Parameters, Protocol, Space, Stopped
from .records import (
    OPTIONAL,
    Follower,
    Record,
    append_record,
    chosen,
    digest_of,
    fixed_in,
    fixed_of,
    require_results_file,
)
from .tune import Search, Trial, describe_space, open_storage, require_storage

SCHEMA_VERSION = 1
NAP, LONGEST_NAP = 0.02, 1.0  # seconds between two looks for work, where others have it all
WATCH = 0.1  # seconds between two looks at what worker processes recorded

_DESK = "desk"  # the lock under which work is given out and taken back


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
    runner: str = "diversify.study.run:standard_runner"

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
        runner: Runner = importing.import_object(self.runner, "runner")()
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
    methods = getattr(importing.import_file(file, "FILE.py"), "METHODS", ())
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """How far a method of a study is: after a record, or, with None for the record, at the beginning.

    Attributes:
        done: Runs of the method that are recorded, of `total`.
        seconds_left: Until the method is done, if all its runs take what those before took; None before the first run.
        seconds_left_in_all: The same of the whole study.
    """

    method: str
    record: Record | None
    done: int
    total: int
    seconds_left: float | None
    seconds_left_in_all: float | None


# What is done, and what is left


class _Ledger:
    """What the records of a study say about what is left."""

    def __init__(self, study: Study) -> None:
        self.study, self.follower = study, Follower(study.results)

    def trials(self, method: str) -> dict[int, Record]:
        """The trials that count, by number."""
        recorded, wanted = self.follower.of("trial", method), self.study.protocol.trials
        return {number: record for number, record in recorded.items() if number < wanted}

    def open_trials(self, method: str) -> list[int]:
        """The numbers without a record."""
        recorded = self.follower.of("trial", method)
        return [number for number in range(self.study.protocol.trials) if number not in recorded]

    def best(self, method: str) -> Record | None:
        """The trial that the final runs are of."""
        return chosen(self.trials(method).values())

    def open_finals(self, method: str) -> list[int]:
        """The seeds without a record, whether their run can begin or not; none where no trial was complete."""
        if not self.open_trials(method) and self.best(method) is None:
            return []
        recorded = self.follower.of("final", method)
        return [seed for seed in self.study.protocol.seeds if seed not in recorded]

    def outdated(self, method: str) -> InputError | None:
        """What is wrong with the finals of a method whose trials are all recorded."""
        best = self.best(method)
        finals = self.follower.of("final", method).values()
        if best is None or self.open_trials(method) or all(final.params == best.params for final in finals):
            return None
        law = f"be of its best trial of {self.study.protocol.trials}, trial {best.number}"
        advice = "remove their lines to make them anew, or go on with the --trials of before"
        return must(f"finals of {method} in {self.study.results}", law, "those of another trial", advice)

    def left(self) -> int:
        """Runs without a record."""
        return sum(len(self.open_trials(name)) + len(self.open_finals(name)) for name in self.study.protocol.methods)

    def step(self, method: str, record: Record | None = None) -> Step:
        """How far a method is."""
        trials, finals = len(self.open_trials(method)), len(self.open_finals(method))
        protocol = self.study.protocol
        recorded = [seed for seed in protocol.seeds if seed in self.follower.of("final", method)]
        total = protocol.trials + len(recorded) + finals
        in_all = [self._seconds_left(name) for name in protocol.methods]
        return Step(
            method=method,
            record=record,
            done=total - trials - finals,
            total=total,
            seconds_left=self._seconds_left(method),
            seconds_left_in_all=None if None in in_all else sum(seconds or 0.0 for seconds in in_all),
        )

    def _seconds_left(self, method: str) -> float | None:
        trials, finals = len(self.open_trials(method)), len(self.open_finals(method))
        if not trials + finals:
            return 0.0
        trial = self._usual("trial", method)
        final = self._usual("final", method) or trial
        if trial is None or final is None:
            return None
        return (trials * trial + finals * final) / self.study.workers

    def _usual(self, kind: str, method: str) -> float | None:
        """Seconds of a run of this kind: of this method, or of all where it has none yet."""
        own = self.follower.of(kind, method).values()
        seconds = [one.seconds for one in own or self.follower.records.values() if one.kind == kind]
        return fmean(seconds) if seconds else None


def _require_same(study: Study, follower: Follower) -> None:
    """Say what differs where the file holds records of another study."""
    records = list(follower.records.values())
    if not records:
        return
    kept = _sidecar(study)
    other = next((one for one in records if one.protocol != study.digest), None)
    if other is not None:
        unset: dict[str, Any] = dict.fromkeys(OPTIONAL)
        told = kept.get("protocol")
        then = unset | told if told else {}
        new = unset | fixed_of(study.protocol)
        differ = [f"{name} {new[name]}, not {then[name]}" for name in new if name in then and then[name] != new[name]]
        law, advice = "be those of one protocol", "choose another --out"
        if other.suite != study.protocol.suite:
            raise must(f"records in {study.results}", law, f"suite {study.protocol.suite}, not {other.suite}", advice)
        raise must(f"records in {study.results}", law, "; ".join(differ) or "another protocol", advice)
    for name in study.protocol.methods:
        before = kept.get("spaces", {}).get(name)
        now = describe_space(study.space(name))
        if before is not None and before != now and follower.of("trial", name):
            differ = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
            law = f"be that of the trials in {study.results}"
            raise must(f"search space of {name}", law, f"another {', '.join(differ)}", "choose another --out")
    _require_seeds(study, records)


def _require_seeds(study: Study, records: list[Record]) -> None:
    """Say when the seeds of a study are others than those that its records were made with."""
    protocol = study.protocol
    for one in records:
        advice = "list the seeds of before first, in their order"
        if one.kind == "trial" and one.seed != protocol.seeds[0]:
            law = f"begin with {one.seed}, the seed of the trials in {study.results}"
            raise must("--seeds", law, protocol.seeds[0], advice)
        if one.kind == "final" and one.seed in protocol.seeds and one.tail_order != protocol.tail_order_of(one.seed):
            law = f"leave seed {one.seed} its tail order {one.tail_order}"
            raise must("--seeds", law, protocol.tail_order_of(one.seed), advice)


def _sidecar(study: Study) -> dict[str, Any]:
    if not study.sidecar.exists():
        return {}
    kept = storage.read_json(study.sidecar, "protocol of the records")
    if not isinstance(kept, dict) or kept.get("schema_version") != SCHEMA_VERSION:
        raise must("protocol of the records", f"have schema_version {SCHEMA_VERSION}", study.sidecar)
    return kept


# One process


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """A run that this process has claimed."""

    kind: Literal["trial", "final"]
    method: Method
    place: int  # a trial's number, or a final's seed
    parameters: Parameters
    trial: Trial | None = None
    carried: Any = None

    @property
    def claim(self) -> str:
        return _claim(self.kind, self.method.name, self.place)


def _claim(kind: str, method: str, place: int) -> str:
    return f"{kind} {place} of {method}"


class _Desk:
    """Where a process gets its work and hands in its records."""

    def __init__(self, study: Study, locks: storage.Locks) -> None:
        self._study, self._locks, self._searches = study, locks, dict[str, Search]()
        self.ledger = _Ledger(study)
        self.refused: dict[str, InputError] = {}  # claims of finals that cannot be had, and methods without
        with locks.alone(_DESK):
            self._name = self._agree()
            self._storage = open_storage(study.storage, journal=study.journal, locks=locks)

    def _agree(self) -> str:
        """Say when the records are of another study; else write down what they are of. Returns what the search is called."""
        study, follower = self._study, self.ledger.follower
        follower.look()
        _require_same(study, follower)
        kept = _sidecar(study)
        before = dict(kept.get("protocol", {}))
        if before and fixed_in(before) != fixed_of(study.protocol):
            if not follower.records and not self._locks.is_sole():
                raise must("results", "not be in use by another study", study.results, "choose another --out")
            kept = {}
        names = {} if not follower.records else kept.get("spaces", {})
        found = {
            "schema_version": SCHEMA_VERSION,
            "search": kept.get("search") or secrets.token_hex(4),
            "protocol": study.protocol.model_dump(mode="json"),
            "spaces": names | {name: describe_space(study.space(name)) for name in study.protocol.methods},
        }
        if found != kept:
            storage.write_json(study.sidecar, found)
        return f"{study.protocol.suite} {study.digest[:12]} {found['search']}"

    def next(self) -> _Job | None:
        """The first run that can begin, claimed; None where there is none at the moment."""
        with self._locks.alone(_DESK):
            self.ledger.follower.look()
            for method in self._study.methods.values():
                if job := self._trial(method) or self._final(method):
                    return job
        return None

    def _trial(self, method: Method) -> _Job | None:
        def runs(number: int) -> bool:
            return self._locks.is_taken(_claim("trial", method.name, number))

        number = next((number for number in self.ledger.open_trials(method.name) if not runs(number)), None)
        if number is None:
            return None
        search = self._search(method)
        search.settle(self.ledger.follower.of("trial", method.name), runs)
        self._locks.take(_claim("trial", method.name, number))
        trial = search.begin(number)
        return _Job(kind="trial", method=method, place=number, parameters=trial.parameters, trial=trial)

    def _final(self, method: Method) -> _Job | None:
        best = self.ledger.best(method.name)
        if best is None or self.ledger.open_trials(method.name):
            return None
        if error := self.ledger.outdated(method.name):
            self.refused[method.name] = error
            return None
        for seed in self.ledger.open_finals(method.name):
            if self._locks.take(_claim("final", method.name, seed)):
                return _Job(kind="final", method=method, place=seed, parameters=best.params, carried=best.carried)
        return None

    def _search(self, method: Method) -> Search:
        if method.name not in self._searches:
            self._searches[method.name] = Search(
                self._storage,
                name=f"{self._name} {method.name}",
                suite=self._study.protocol.suite,
                method=method.name,
                space=self._study.space(method.name),
            )
        return self._searches[method.name]

    def hand_in(self, job: _Job, record: Record) -> None:
        """Record a run, and give its claim back."""
        with self._locks.alone(_DESK):
            self.ledger.follower.look()
            if record.key not in self.ledger.follower.records:
                append_record(self._study.results, record)
                self.ledger.follower.look()
            if job.trial is not None:
                self._search(job.method).end(job.trial, record)
            self._locks.free(job.claim)

    def refuse(self, job: _Job, reason: str) -> None:
        """Keep the claim of a final run that ended in an error: this process does not try it again."""
        subject = f"final run of {job.method.name} with seed {job.place}"
        self.refused[job.claim] = must(subject, "end well", reason, "the other runs are recorded")

    def is_done(self) -> bool:
        """Whether nothing is left but what cannot be had."""
        left = 0
        for name in self._study.protocol.methods:
            finals = self.ledger.open_finals(name)
            if name in self.refused:
                finals = []
            left += len(self.ledger.open_trials(name))
            left += sum(_claim("final", name, seed) not in self.refused for seed in finals)
        return left == 0


def _work(study: Study) -> Iterator[tuple[_Ledger, Record]]:
    """Run what there is to run until nothing is left; yields each record when it is written."""
    task = study.made.load(study.protocol, root=study.root, device=study.device, download=study.download)
    made_by = origin.origin(torch.device(study.device))
    with storage.Locks(study.lock) as locks:
        desk = _Desk(study, locks)
        nap = NAP
        while True:
            job = desk.next()
            if job is not None:
                nap = NAP
                kept = _state_of(study, job, made_by)
                record, reason = _run(study, task, job, made_by, kept)
                if record is None:
                    desk.refuse(job, reason)
                else:
                    desk.hand_in(job, record)
                if kept is not None:
                    kept.unlink(missing_ok=True)
                if record is not None:
                    yield desk.ledger, record
            elif desk.is_done():
                storage.remove_folder(study.states)  # with what runs of another state of the library left
                break
            else:
                time.sleep(nap)
                nap = min(2 * nap, LONGEST_NAP)
        for error in desk.refused.values():
            raise error


def _state_of(study: Study, job: _Job, made_by: Mapping[str, Any]) -> Path | None:
    """Where a run is kept while it is under way: a file that no other run, and no other code, has the name of.

    None where runs do not resume, and where the files of a checkout differ from its commit: nothing would say that they are
    still the same.
    """
    if not study.made.resumes or str(made_by["commit"]).endswith("+"):
        return None
    declared = None if study.declared is None else storage.sha256(study.declared)
    what = [job.claim, dict(job.parameters), job.carried, study.digest, study.protocol.seeds[:1], declared, made_by]
    if job.kind == "final":
        what.append(study.protocol.tail_order_of(job.place))
    return study.states / f"{storage.digest_json(what)[:24]}.safetensors"


def _run(
    study: Study, task: Any, job: _Job, made_by: dict[str, Any], kept: Path | None = None
) -> tuple[Record | None, str]:
    """The record of a run; none, but the reason, for a final run that ended in an error."""
    protocol, trial = study.protocol, job.trial
    seed = protocol.seeds[0] if trial else job.place
    split: Literal["val", "test"] = "val" if trial else "test"
    curve: list[tuple[int, float]] = []

    def report(epoch: int, value: float) -> None:
        if trial is None:
            return
        if math.isnan(value):
            raise FloatingPointError(f"balanced accuracy of {value} after epoch {epoch}")
        curve.append((int(epoch), float(value)))
        if trial.stops(*curve[-1]):
            raise Stopped

    started, begun = origin.now(), time.perf_counter()
    state: Literal["complete", "pruned", "failed"] = "complete"
    outcome, reason = None, ""
    try:
        outcome = study.made.run(
            *(task, job.method, dict(job.parameters)),
            seed=seed,
            split=split,
            carried=job.carried,
            report=report,
            **({"state": kept} if study.made.resumes else {}),
        )
        if not math.isfinite(outcome.balanced_accuracy):
            raise FloatingPointError(f"balanced accuracy of {outcome.balanced_accuracy}")
    except Stopped:
        state = "pruned"
    except (InputError, ArithmeticError) as error:
        state, outcome, reason = "failed", None, _one_line(error)
    if trial is None and outcome is None:
        return None, reason or "an end before its last epoch"
    seconds = time.perf_counter() - begun if outcome is None else outcome.seconds
    result: dict[str, Any] = {
        "balanced_accuracy": curve[-1][1] if state == "pruned" else None,
        "recall": (),
        "epochs": curve[-1][0] if curve else 0,
    }
    if outcome is not None:
        measured = ("balanced_accuracy", "macro_f1", "g_mean", "ece", "recall", "images_per_second", "inside")
        result = {name: _plain(getattr(outcome, name)) for name in measured}
        result |= {name: getattr(outcome, name) for name in ("class_counts", "epochs", "peak_memory", "carried")}
    record = Record(
        kind=job.kind,
        suite=protocol.suite,
        method=job.method.name,
        number=job.place if trial else None,
        seed=seed,
        split=split,
        state=state,
        reason=reason,
        params=dict(job.parameters),
        curve=tuple(curve),
        tail_order=protocol.tail_order_of(seed),
        seconds=seconds,
        seconds_shared=seconds / study.workers,
        workers=study.workers,
        started=started,
        protocol=study.digest,
        **result,
        **made_by,
    )
    return record, ""


def _plain(value: Any) -> Any:
    """The value as it is recorded: what is no number is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _one_line(error: BaseException) -> str:
    return str(error) if isinstance(error, InputError) else importing.describe(error)


# Several processes


def _work_beside(study: Study, threads: int, connection: multiprocessing.connection.Connection) -> None:
    """What a worker process does; it tells its parent why it could not go on, and does not outlive it."""

    def follow_parent() -> None:
        try:
            connection.recv()
        except (EOFError, OSError):
            os._exit(process.INTERRUPTED)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its parent ends it
    threading.Thread(target=follow_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        for _ in _work(study):
            pass
    except InputError as error:
        connection.send(("input", str(error)))
    except OSError as error:
        connection.send(("system", (error.errno, error.strerror, error.filename, str(error))))
    except Exception:  # whatever a method raises: its parent raises it again
        connection.send(("error", traceback.format_exc()))


def _work_together(study: Study, ledger: _Ledger) -> Iterator[tuple[_Ledger, Record]]:
    """Let worker processes run what there is to run; yields each record that appears in the file."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // study.workers)
    sent = dataclasses.replace(study)  # without what was imported for it: that is not to be sent
    members: list[tuple[Any, multiprocessing.connection.Connection]] = []
    told: list[tuple[str, Any]] = []
    multiprocessing.resource_tracker.ensure_running()  # else it lets SIGINT in again when the first worker is started
    try:
        for _ in range(min(study.workers, ledger.left())):
            ours, theirs = context.Pipe()
            member = context.Process(target=_work_beside, args=(sent, threads, theirs))
            with process.interruptions_held():
                member.start()
            theirs.close()
            members.append((member, ours))
        working = list(members)
        while working:
            multiprocessing.connection.wait([member.sentinel for member, _ in working], timeout=WATCH)
            done = [pair for pair in working if not pair[0].is_alive()]
            working = [pair for pair in working if pair not in done]
            for _, ours in done:
                try:
                    if ours.poll():
                        told.append(ours.recv())
                except EOFError:
                    pass  # it was killed, or had nothing to tell
            yield from ((ledger, record) for record in ledger.follower.look())
    finally:
        for member, ours in members:
            member.terminate()
            member.join()
            ours.close()
    left = ledger.left()
    for kind, what in told:
        if left or kind == "input":  # else the others have done what one of them could not
            _raise_again(kind, what)
    if left:
        codes = ", ".join(str(member.exitcode) for member, _ in members)
        raise ChildProcessError(
            f"worker processes ended before their work was done (exit codes {codes}); run it again to go on"
        )


def _raise_again(kind: str, what: Any) -> None:
    """The error of a worker process."""
    if kind == "input":
        raise InputError(what)
    if kind == "system":
        number, reason, file, text = what
        raise OSError(number, reason, file) if number is not None else OSError(text)
    raise RuntimeError(f"a worker process ended in an error:\n{what}")


# The study


def run_study(study: Study) -> Iterator[Step]:
    """Run what is not recorded yet; yields how far each method is, then one step per record, written when it is yielded.

    It may be stopped at any moment and called again: with one worker the records are then the same as without a stop,
    times aside; with several their number is.

    Raises:
        InputError: the file holds records of another study, a method is unknown, the data cannot be had, the finals are of
            a trial that is no longer the best, or a final run ended in an error, when all others are recorded.
    """
    require_results_file(study.results)
    require_storage(study.storage)
    if study.workers < 1:
        raise must("--workers", "be at least 1", study.workers)
    if study.workers > 1 and not storage.KNOWS_LOCKS:
        raise must("--workers", "be 1 on a system without file locks", study.workers)
    ledger = _Ledger(study)
    ledger.follower.look()
    study.methods  # noqa: B018 - said before anything is loaded
    _require_same(study, ledger.follower)
    yield from map(ledger.step, study.protocol.methods)
    if not ledger.left():
        for error in filter(None, map(ledger.outdated, study.protocol.methods)):
            raise error
        return
    if study.workers > 1 and study.download:
        study.made.load(study.protocol, root=study.root, device=study.device, download=True)  # by one, before all
    made = _work(study) if study.workers == 1 else _work_together(study, ledger)
    for known, record in made:
        if record.method in study.protocol.methods:
            yield known.step(record.method, record)
