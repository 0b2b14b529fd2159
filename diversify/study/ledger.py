"""The runs of a study that are done and those that are left, according to its records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from ..errors import InputError, must
from ..files import atomic
from .protocol import Protocol
from .records import OPTIONAL, Follower, Record, chosen, fixed_of
from .study import Study
from .tune import describe_space

SCHEMA_VERSION = 1
LONGEST = 60  # characters of a value in an error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """The progress of one method of a study.

    Attributes:
        method: Name of the method.
        record: The record that was just written; None at the start of the study.
        done: Recorded runs of the method.
        total: All runs of the method.
        seconds_left: Estimated time until the method is done, from the runs so far; None before the first run.
        seconds_left_in_all: The same for the whole study.
    """

    method: str
    record: Record | None
    done: int
    total: int
    seconds_left: float | None
    seconds_left_in_all: float | None


class Ledger:
    """The records of a study, and the runs that are missing from them."""

    def __init__(self, study: Study) -> None:
        self.study, self.follower = study, Follower(study.results)

    def trials(self, method: str) -> dict[int, Record]:
        """Return the recorded trials by number, up to the number of trials of the protocol."""
        recorded, wanted = self.follower.of("trial", method), self.study.protocol.trials
        return {number: record for number, record in recorded.items() if number < wanted}

    def open_trials(self, method: str) -> list[int]:
        """Return the numbers of the trials without a record."""
        recorded = self.follower.of("trial", method)
        return [number for number in range(self.study.protocol.trials) if number not in recorded]

    def best(self, method: str) -> Record | None:
        """Return the best complete trial, whose parameters the final runs use; None if no trial is complete."""
        return chosen(self.trials(method).values())

    def open_finals(self, method: str) -> list[int]:
        """Return the seeds without a final run; none if all trials are done and none is complete."""
        if not self.open_trials(method) and self.best(method) is None:
            return []
        recorded = self.follower.of("final", method)
        return [seed for seed in self.study.protocol.seeds if seed not in recorded]

    def outdated(self, method: str) -> InputError | None:
        """Return the error for final runs that do not use the parameters of the best trial; None if there are none."""
        best = self.best(method)
        finals = self.follower.of("final", method).values()
        if best is None or self.open_trials(method) or all(final.params == best.params for final in finals):
            return None
        law = f"be of its best trial of {self.study.protocol.trials}, trial {best.number}"
        advice = "delete their lines to run them again, or keep the earlier number of trials"
        return must(f"finals of {method} in {self.study.results}", law, "those of another trial", advice)

    def left(self) -> int:
        """Return the number of runs without a record."""
        return sum(len(self.open_trials(name)) + len(self.open_finals(name)) for name in self.study.protocol.methods)

    def step(self, method: str, record: Record | None = None) -> Step:
        """Return the progress of a method."""
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
        """Return the mean seconds of this method's runs of a kind; of all methods' if it has none yet."""
        own = self.follower.of(kind, method).values()
        seconds = [one.seconds for one in own or self.follower.records.values() if one.kind == kind]
        return fmean(seconds) if seconds else None


def require_same(study: Study, follower: Follower) -> None:
    """Check that the records belong to this study.

    Raises:
        InputError: the records were made with another protocol, search space or order of seeds; the message says what
            differs.
    """
    records = list(follower.records.values())
    if not records:
        return
    kept = sidecar(study)
    other = next((one for one in records if one.protocol != study.digest), None)
    if other is not None:
        differ = differences(study.protocol, kept.get("protocol"))
        law, advice = "belong to one protocol", "choose another file"
        if other.suite != study.protocol.suite:
            raise must(f"records in {study.results}", law, f"suite {study.protocol.suite}, not {other.suite}", advice)
        raise must(f"records in {study.results}", law, differ, advice)
    for name in study.protocol.methods:
        before = kept.get("spaces", {}).get(name)
        now = describe_space(study.space(name))
        if before is not None and before != now and follower.of("trial", name):
            changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
            law = f"be that of the trials in {study.results}"
            raise must(f"search space of {name}", law, f"another {', '.join(changed)}", "choose another file")
    _require_seeds(study, records)


def differences(protocol: Protocol, then: Mapping[str, Any] | None) -> str:
    """Return in words what a protocol holds fixed otherwise than another one, which is given as JSON."""
    unset = dict(OPTIONAL)
    recorded = unset | dict(then) if then else {}
    new = unset | fixed_of(protocol)
    differ = [
        f"{name} {_short(new[name])}, not {_short(recorded[name])}"
        for name in new
        if name in recorded and recorded[name] != new[name]
    ]
    return "; ".join(differ) or "another protocol"


def _short(value: Any) -> str:
    """Return a value of a protocol for an error, cut where a list is long."""
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _require_seeds(study: Study, records: list[Record]) -> None:
    """Raise an InputError if the seeds do not start with those that the records were made with."""
    protocol = study.protocol
    for one in records:
        advice = "list the recorded seeds first, in their order"
        if one.kind == "trial" and one.seed != protocol.seeds[0]:
            law = f"start with {one.seed}, the seed of the trials in {study.results}"
            raise must("seeds", law, protocol.seeds[0], advice)
        if one.kind == "final" and one.seed in protocol.seeds and one.tail_order != protocol.tail_order_of(one.seed):
            law = f"leave seed {one.seed} its tail order {one.tail_order}"
            raise must("seeds", law, protocol.tail_order_of(one.seed), advice)


def sidecar(study: Study) -> dict[str, Any]:
    """Return the content of the file beside the records; empty before the first run of the study."""
    if not study.sidecar.exists():
        return {}
    kept = atomic.read_json(study.sidecar, "protocol of the records")
    if not isinstance(kept, dict) or kept.get("schema_version") != SCHEMA_VERSION:
        raise must("protocol of the records", f"have schema_version {SCHEMA_VERSION}", study.sidecar)
    return kept
