"""One line per run of a study: what was run, what came out, and where and when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic

from ..errors import must
from ..files import atomic, digests
from ..files.schema import Value, broken, refusal
from .protocol import Protocol

SUFFIX = ".jsonl"
FREE = ("note", "methods", "trials", "seeds")
"""What may differ between records of one protocol: who takes part, and how often."""

OPTIONAL = ("resize", "crop", "mean", "std")
"""What counts only where it is set: protocols that say nothing of it keep the digest that their records carry."""

TIME_FIELDS = (
    *("seconds", "seconds_shared", "images_per_second", "peak_memory", "started"),
    *("device", "versions", "commit", "workers"),
)
"""What may differ between two runs of the same thing."""

Share = Annotated[float, pydantic.Field(ge=0, le=1)]
Amount = Annotated[float, pydantic.Field(ge=0)]
Count = Annotated[int, pydantic.Field(ge=0)]
Key = tuple[str, str, str, int]
Word = Annotated[str, pydantic.Field(min_length=1)]


class Record(Value):
    """A trial, judged on val, or the final run of one seed, judged on test.

    A trial that was stopped at a rung is "pruned" and has the balanced accuracy of that rung; one that ended in an error of
    its parameters is "failed", says the `reason`, and has none. Neither has recalls.
    """

    model_config = pydantic.ConfigDict(strict=True)

    kind: Literal["trial", "final"]
    suite: Word
    method: Word
    number: Count | None = None
    seed: Count
    split: Literal["val", "test"]
    state: Literal["complete", "pruned", "failed"] = "complete"
    reason: str = ""
    balanced_accuracy: Share | None
    macro_f1: Share | None = None
    g_mean: Share | None = None
    ece: Share | None = None
    recall: tuple[Share | None, ...]
    class_counts: tuple[Count, ...] = ()
    params: dict[str, float | int | str]
    epochs: Count
    curve: tuple[tuple[int, Share], ...] = ()
    inside: dict[str, Any] = pydantic.Field(default_factory=dict)
    carried: Any = None
    tail_order: Word
    seconds: Amount
    seconds_shared: Amount
    images_per_second: Amount | None = None
    peak_memory: Count | None = None
    workers: Annotated[int, pydantic.Field(ge=1)] = 1
    device: str
    versions: dict[str, str]
    commit: str | None
    started: Word
    protocol: Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]

    @pydantic.model_validator(mode="after")
    def _possible(self) -> Self:
        trial = self.kind == "trial"
        if self.split != ("val" if trial else "test"):
            raise broken(f"be {'val' if trial else 'test'} in a {self.kind}", self.split, at="split")
        if (self.number is None) == trial:
            raise broken(
                "be given in a trial" if trial else "be null in a final", "null" if trial else self.number, at="number"
            )
        if not trial and self.state != "complete":
            raise broken("be complete in a final", self.state, at="state")
        if self.state == "complete" and self.balanced_accuracy is None:
            raise broken("be given in a complete run", "null", at="balanced_accuracy")
        if self.state == "complete" and not self.recall:
            raise broken("be given in a complete run", "none", at="recall")
        if self.class_counts and self.recall and len(self.class_counts) != len(self.recall):
            law = f"be as many as the recalls, {len(self.recall)}"
            raise broken(law, str(len(self.class_counts)), at="class_counts")
        return self

    @property
    def key(self) -> Key:
        """What there is one record of: a method's trial of this number, or its final run of this seed."""
        return self.protocol, self.kind, self.method, self.seed if self.number is None else self.number


def parse_record(line: bytes | str, place: str) -> Record:
    """The record in a line; `place` says in an error which line it is."""
    try:
        return Record.model_validate_json(line)
    except pydantic.ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            shown = line.decode(errors="replace") if isinstance(line, bytes) else line
            raise must(place, "be a JSON object", repr(shown[:60])) from None
        raise refusal(place, error, Record.model_fields) from None


class Follower:
    """The records of a file that grows: each look reads only the lines that came since the last."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.records: dict[Key, Record] = {}
        self._of: dict[tuple[str, str], dict[int, Record]] = {}
        self._offset = 0
        self._lines = 0

    def look(self) -> list[Record]:
        """The records that came since the last look."""
        lines, self._offset = atomic.follow_jsonl(self.path, self._offset)
        new = []
        for line in lines:
            self._lines += 1
            record = parse_record(line, f"record on line {self._lines} of {self.path}")
            if record.key in self.records:
                law = f"be the only {record.kind} {record.key[-1]} of {record.method}"
                raise must(f"record on line {self._lines} of {self.path}", law, "a second one", "remove one of them")
            self.records[record.key] = record
            self._of.setdefault((record.kind, record.method), {})[record.key[-1]] = record
            new.append(record)
        return new

    def of(self, kind: str, method: str) -> dict[int, Record]:
        """The trials of a method by number, or its finals by seed, in the order of the file."""
        return self._of.get((kind, method), {})


def read_records(path: Path) -> list[Record]:
    """All records of a file, in its order, without a torn last line.

    Raises:
        InputError: there is no such file, a line is no record, or a run is there twice; the message says which line.
    """
    atomic.require_file(path, "results")
    return Follower(path).look()


def append_record(path: Path, record: Record) -> None:
    """Add a record as one line, whole or not at all."""
    atomic.append_jsonl(path, record.model_dump(mode="json"))


def same_but_for_time(one: Record, other: Record) -> bool:
    """Whether two records say the same, whenever, wherever and however fast they were made."""
    return one.model_dump(exclude=set(TIME_FIELDS)) == other.model_dump(exclude=set(TIME_FIELDS))


def fixed_of(protocol: Protocol) -> dict[str, Any]:
    """What a protocol holds fixed, as JSON: all of it but `FREE`, and of `OPTIONAL` what is set."""
    return fixed_in(protocol.model_dump(mode="json"))


def fixed_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a protocol that is JSON already."""
    return {
        name: value for name, value in values.items() if name not in FREE and not (name in OPTIONAL and value is None)
    }


def digest_of(protocol: Protocol) -> str:
    """sha256 of what a protocol holds fixed: records of one file share it."""
    return digests.digest_json(fixed_of(protocol))


def chosen(trials: Iterable[Record]) -> Record | None:
    """The complete trial with the best balanced accuracy on val, the first of equals; None where none is complete."""
    complete = [record for record in trials if record.state == "complete" and record.balanced_accuracy is not None]
    return min(complete, key=lambda record: (-(record.balanced_accuracy or 0.0), record.number), default=None)


def require_results_file(path: Path) -> None:
    """Say when records cannot be written to `path`: it must be a `.jsonl` file in a folder, there already or not."""
    if path.suffix != SUFFIX:
        better = path / f"results{SUFFIX}" if path.is_dir() else path.with_suffix(SUFFIX)
        raise must("--out", f"be a file that ends in {SUFFIX}", path, f"for example {better}")
    if path.is_dir():
        raise must("--out", "be a file", f"the folder {path}")
    if any(parent.exists() and not parent.is_dir() for parent in path.parents):
        raise must("--out", "lie in a folder", path)
