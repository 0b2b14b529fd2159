"""Hand out the runs of a study to processes, so that each run is made once."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from typing import Any, Literal

from ..errors import InputError, must
from ..files import atomic
from ..files.locks import Locks
from .database import persist
from .ledger import SCHEMA_VERSION, Ledger, require_same, sidecar
from .protocol import Method, Parameters
from .records import Record, append_record, fixed_in, fixed_of
from .shared import Shared
from .study import Study
from .tune import Search, Trial, describe_space, open_storage

_DESK = "desk"  # the lock under which runs are claimed and recorded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A run that this process has claimed."""

    kind: Literal["trial", "final"]
    method: Method
    place: int  # a trial's number, or a final's seed
    parameters: Parameters
    trial: Trial | None = None
    carried: Any = None

    @property
    def claim(self) -> str:
        """The name of the lock that holds this run."""
        return _claim(self.kind, self.method.name, self.place)


def _claim(kind: str, method: str, place: int) -> str:
    return f"{kind} {place} of {method}"


class Desk:
    """Gives a process its runs and takes its records."""

    def __init__(self, study: Study, locks: Locks, shared: Shared | None = None) -> None:
        self._study, self._searches = study, dict[str, Search]()
        self._locks: Locks | Shared = shared or locks
        self._shared = shared
        self.ledger = Ledger(study)
        self.refused: dict[str, InputError] = {}  # by the claim of a failed final run, or by the name of a method
        persist(lambda: self._open(locks), study.storage)

    def _open(self, locks: Locks) -> None:
        with self._locks.alone(_DESK):
            self._name = self._agree()
            with self._at_work():
                self._storage = open_storage(self._study.storage, journal=self._study.journal, locks=locks)

    def _at_work(self) -> contextlib.AbstractContextManager[None]:
        """Return a context for work with Optuna's storage, which may take long."""
        return contextlib.nullcontext() if self._shared is None else self._shared.at_work()

    def _agree(self) -> str:
        """Check that the records belong to this study, write the file beside them, and return the name of the search."""
        study, follower = self._study, self.ledger.follower
        follower.look()
        require_same(study, follower)
        if self._shared is not None:
            if kept := self._shared.sidecar():
                atomic.write_json(study.sidecar, kept)
            self._shared.begin(follower)
            require_same(study, follower)
        kept = sidecar(study)
        before = dict(kept.get("protocol", {}))
        if before and fixed_in(before) != fixed_of(study.protocol):
            if not follower.records and not self._locks.is_sole():
                raise must("results", "not be in use by another study", study.results, "choose another file")
            kept = {}
        names = {} if not follower.records else kept.get("spaces", {})
        listed = dict(kept.get("protocol", {})).get("methods", []) if follower.records else []
        protocol = study.protocol.model_dump(mode="json")
        found = {
            "schema_version": SCHEMA_VERSION,
            "search": study.shared or kept.get("search") or secrets.token_hex(4),
            "protocol": protocol | {"methods": list(dict.fromkeys([*listed, *protocol["methods"]]))},
            "spaces": names | {name: describe_space(study.space(name)) for name in study.protocol.methods},
        }
        if found != kept:
            atomic.write_json(study.sidecar, found)
        if self._shared is not None:
            self._shared.keep(found)
        return f"{study.protocol.suite} {study.digest[:12]} {found['search']}"

    def next(self) -> Job | None:
        """Claim and return the first run that can start; None if there is none at the moment."""
        return persist(self._next, self._study.storage, reset=self._storage.remove_session)

    def _look(self) -> None:
        if self._shared is None:
            self.ledger.follower.look()
        else:
            self._shared.pull(self.ledger.follower)

    def _next(self) -> Job | None:
        with self._locks.alone(_DESK):
            self._look()
            for method in self._study.methods.values():
                if job := self._trial(method) or self._final(method):
                    return job
        return None

    def _trial(self, method: Method) -> Job | None:
        def claim(number: int) -> str:
            return _claim("trial", method.name, number)

        def others_run(other: int) -> bool:  # what is left of this trial is that of a process which has ended
            return other != number and self._locks.is_taken(claim(other))

        number = next((one for one in self.ledger.open_trials(method.name) if self._locks.take(claim(one))), None)
        if number is None:
            return None
        try:
            with self._at_work():
                search = self._search(method)
                search.settle(self.ledger.follower.of("trial", method.name), others_run)
                trial = search.begin(number)
        except BaseException:  # the database is lost, for example; whoever tries again must find the trial free
            with contextlib.suppress(Exception):
                self._locks.free(claim(number))
            raise
        return Job(kind="trial", method=method, place=number, parameters=trial.parameters, trial=trial)

    def _final(self, method: Method) -> Job | None:
        best = self.ledger.best(method.name)
        if best is None or self.ledger.open_trials(method.name):
            return None
        if error := self.ledger.outdated(method.name):
            self.refused[method.name] = error
            return None
        for seed in self.ledger.open_finals(method.name):
            if self._locks.take(_claim("final", method.name, seed)):
                return Job(kind="final", method=method, place=seed, parameters=best.params, carried=best.carried)
        return None

    def _search(self, method: Method) -> Search:
        if method.name not in self._searches:
            self._searches[method.name] = Search(
                self._storage,
                name=f"{self._name} {method.name}",
                suite=self._study.protocol.suite,
                method=method.name,
                space=self._study.space(method.name),
                first_trials=method.first_trials,
                url=self._study.storage,
            )
        return self._searches[method.name]

    def hand_in(self, job: Job, record: Record) -> Record:
        """Record a run and release its claim; return its record, which another process may have written before."""
        return persist(lambda: self._hand_in(job, record), self._study.storage, reset=self._storage.remove_session)

    def _hand_in(self, job: Job, record: Record) -> Record:
        records = self.ledger.follower.records
        with self._locks.alone(_DESK):
            self._look()
            if record.key not in records:
                if self._shared is None:
                    append_record(self._study.results, record)
                else:
                    self._shared.push(record)
                self._look()
            if job.trial is not None:
                with self._at_work():
                    self._search(job.method).end(job.trial, records[record.key])
            self._locks.free(job.claim)
        return records[record.key]

    def refuse(self, job: Job, reason: str) -> None:
        """Remember a failed final run. Its claim is kept, so that this process does not try it again."""
        subject = f"final run of {job.method.name} with seed {job.place}"
        self.refused[job.claim] = must(subject, "succeed", reason, "the other runs are recorded")

    def is_done(self) -> bool:
        """Return True if every run is recorded or has failed."""
        left = 0
        for name in self._study.protocol.methods:
            finals = self.ledger.open_finals(name)
            if name in self.refused:
                finals = []
            left += len(self.ledger.open_trials(name))
            left += sum(_claim("final", name, seed) not in self.refused for seed in finals)
        return left == 0
