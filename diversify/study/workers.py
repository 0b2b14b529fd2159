"""Carry out trials and final runs, in this process or in several worker processes."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import multiprocessing.resource_tracker
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import InputError
from ..files import digests, staging
from ..files.locks import Locks
from ..repair.metric import TITLES
from ..runtime import provenance, signals, user_code
from .database import StorageError
from .ledger import Ledger
from .protocol import Outcome, Stopped
from .queue import Desk, Job
from .records import Record
from .shared import Shared
from .study import Study

NAP, LONGEST_NAP = 0.02, 1.0  # seconds to wait for work while other processes have claimed it all
LONGEST_NAP_SHARED = 5.0  # the same, where each look is at a database
WATCH = 0.1  # seconds between two looks at the records of worker processes


def work_on(study: Study) -> Iterator[tuple[Ledger, Record]]:
    """Carry out runs until none is left; yield each record after it is written."""
    task = study.made.load(study.protocol, root=study.root, device=study.device, download=study.download)
    made_by = provenance.origin(torch.device(study.device))
    with contextlib.ExitStack() as held:
        locks = held.enter_context(Locks(study.lock))
        shared = held.enter_context(Shared(study, locks)) if study.shared is not None else None
        desk = Desk(study, locks, shared)
        nap, longest = NAP, LONGEST_NAP if shared is None else LONGEST_NAP_SHARED
        while True:
            signals.stop_if_interrupted()
            job = desk.next()
            if job is not None:
                nap = NAP
                kept = _state_of(study, job, made_by)
                record, reason = _run(study, task, job, made_by, kept)
                if record is None:
                    desk.refuse(job, reason)
                else:
                    record = desk.hand_in(job, record)
                if kept is not None:
                    kept.unlink(missing_ok=True)
                if record is not None:
                    yield desk.ledger, record
            elif desk.is_done():
                staging.remove_folder(study.states)  # also states that another version of the library saved
                break
            else:
                time.sleep(nap)
                nap = min(2 * nap, longest)
        for error in desk.refused.values():
            raise error


def _state_of(study: Study, job: Job, made_by: Mapping[str, Any]) -> Path | None:
    """Return the file for the state of an unfinished run; its name identifies the run and the code.

    None if the runner cannot resume. Also None if files of the checkout differ from its commit, since the code may then
    change without a trace.
    """
    if not study.made.resumes or str(made_by["commit"]).endswith("+"):
        return None
    declared = None if study.declared is None else digests.sha256(study.declared)
    what = [job.claim, dict(job.parameters), job.carried, study.digest, study.protocol.seeds[:1], declared, made_by]
    if job.kind == "final":
        what.append(study.protocol.tail_order_of(job.place))
    return study.states / f"{digests.digest_json(what)[:24]}.safetensors"


def _run(
    study: Study, task: Any, job: Job, made_by: dict[str, Any], kept: Path | None = None
) -> tuple[Record | None, str]:
    """Carry out a run; return its record, or None and the reason if a final run failed."""
    protocol, trial = study.protocol, job.trial
    seed = protocol.seeds[0] if trial else job.place
    split: Literal["val", "test"] = "val" if trial else "test"
    curve: list[tuple[int, float]] = []

    def report(epoch: int, value: float) -> None:
        if trial is None:
            return
        if math.isnan(value):
            raise FloatingPointError(f"{TITLES[protocol.metric]} of {value} after epoch {epoch}")
        curve.append((int(epoch), float(value)))
        if trial.stops(*curve[-1]):
            raise Stopped

    started, clock = provenance.now(), time.perf_counter()
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
        if protocol.metric != "balanced" and not math.isfinite(math.nan if outcome.score is None else outcome.score):
            raise FloatingPointError(f"{TITLES[protocol.metric]} of {outcome.score}")
    except Stopped:
        state = "pruned"
    except StorageError:
        raise
    except (InputError, ArithmeticError) as error:
        state, outcome, reason = "failed", None, _one_line(error)
    if trial is None and outcome is None:
        return None, reason or "a stop before its last epoch"
    seconds = time.perf_counter() - clock if outcome is None else outcome.seconds
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
        metric=protocol.metric,
        **_scores(outcome, curve, state, protocol.metric),
        **made_by,
    )
    return record, ""


def _scores(outcome: Outcome | None, curve: list[tuple[int, float]], state: str, metric: str) -> dict[str, Any]:
    """Return the fields of a record that hold the result; a pruned trial has the metric of its last rung."""
    if outcome is None:
        last = curve[-1][1] if state == "pruned" else None
        found = {"balanced_accuracy": last} if metric == "balanced" else {"balanced_accuracy": None, "score": last}
        return {**found, "recall": (), "epochs": curve[-1][0] if curve else 0}
    measured = ("balanced_accuracy", "macro_f1", "g_mean", "ece", "recall", "images_per_second", "inside")
    kept = ("class_counts", "epochs", "peak_memory", "carried")
    score = {} if metric == "balanced" else {"score": outcome.score}
    return (
        {name: _plain(getattr(outcome, name)) for name in measured}
        | {name: getattr(outcome, name) for name in kept}
        | score
    )


def _plain(value: Any) -> Any:
    """Return a value as it is recorded: NaN and infinity become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _one_line(error: BaseException) -> str:
    return str(error) if isinstance(error, InputError) else user_code.describe(error)


def _work_in_child(study: Study, threads: int, connection: multiprocessing.connection.Connection) -> None:
    """Work in a child process. Errors are sent to the parent, and the child ends with its parent."""

    def follow_parent() -> None:
        try:
            connection.recv()
        except (EOFError, OSError):
            os._exit(signals.INTERRUPTED)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    threading.Thread(target=follow_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        for _ in work_on(study):
            pass
    except InputError as error:
        connection.send(("input", str(error)))
    except OSError as error:
        connection.send(("system", (error.errno, error.strerror, error.filename, str(error))))
    except Exception:  # a method may raise anything; the parent raises it again
        connection.send(("error", traceback.format_exc()))


def work_together(study: Study, ledger: Ledger) -> Iterator[tuple[Ledger, Record]]:
    """Let worker processes carry out all runs; yield each record that appears in the file."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // study.workers)
    sent = dataclasses.replace(study)  # without its cached properties, which cannot be pickled
    members: list[tuple[Any, multiprocessing.connection.Connection]] = []
    errors: list[tuple[str, Any]] = []
    multiprocessing.resource_tracker.ensure_running()  # started by the first worker, it would unblock SIGINT
    try:
        for _ in range(min(study.workers, ledger.left())):
            ours, theirs = context.Pipe()
            member = context.Process(target=_work_in_child, args=(sent, threads, theirs))
            with signals.interruptions_held():
                member.start()
            theirs.close()
            members.append((member, ours))
        working = list(members)
        while working:
            signals.stop_if_interrupted()
            multiprocessing.connection.wait([member.sentinel for member, _ in working], timeout=WATCH)
            done = [pair for pair in working if not pair[0].is_alive()]
            working = [pair for pair in working if pair not in done]
            for _, ours in done:
                try:
                    if ours.poll():
                        errors.append(ours.recv())
                except EOFError:
                    pass  # it was killed, or sent no error
            yield from ((ledger, record) for record in ledger.follower.look())
    finally:
        for member, ours in members:
            member.terminate()
            member.join()
            ours.close()
    left = ledger.left()
    for kind, what in errors:
        if left or kind == "input":  # else other workers have made the run
            _reraise(kind, what)
    if left:
        codes = ", ".join(str(member.exitcode) for member, _ in members)
        raise ChildProcessError(
            f"worker processes ended before their work was done (exit codes {codes}); run the study again to resume it"
        )


def _reraise(kind: str, what: Any) -> None:
    """Raise the error of a worker process in the parent."""
    if kind == "input":
        raise InputError(what)
    if kind == "system":
        number, reason, file, text = what
        raise OSError(number, reason, file) if number is not None else OSError(text)
    raise RuntimeError(f"a worker process ended in an error:\n{what}")
