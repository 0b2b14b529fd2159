"""The records of a study: one line per run, with its parameters, its scores, and where and when it was made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic

from ..errors import must
from ..files import atomic, digests
from ..files.schema import Value, broken, refusal
from ..repair.metric import TITLES
from .protocol import Protocol

SUFFIX = ".jsonl"
FREE = ("note", "methods", "trials", "seeds")
"""Fields of a protocol that may differ between records of one file: the methods, and how often each is run."""

OPTIONAL: Mapping[str, Any] = {
    **dict.fromkeys(("resize", "crop", "mean", "std")),
    "metric": "balanced",
    **dict.fromkeys(("target_prior", "cost")),
}
"""Fields that enter the digest of a protocol only if they differ from this, so that older records keep their digest."""

Share = Annotated[float, pydantic.Field(ge=0, le=1)]
Amount = Annotated[float, pydantic.Field(ge=0)]
Count = Annotated[int, pydantic.Field(ge=0)]
Key = tuple[str, str, str, int]
Word = Annotated[str, pydantic.Field(min_length=1)]


class Record(Value):
    """The record of one run: a trial, evaluated on the validation set, or a final run, evaluated on the test set.

    Attributes:
        kind: "trial" or "final".
        suite: Name of the study.
        method: Name of the method.
        number: Number of the trial; None in a final run.
        seed: Seed of the run.
        split: "val" in a trial, "test" in a final run.
        state: "complete"; "pruned" if the trial was stopped at a rung; "failed" if its parameters cannot be trained with.
            Only complete runs have recalls.
        reason: Why a trial failed.
        balanced_accuracy: Mean recall; that of the last rung in a pruned trial, None in a failed one. With another metric
            also None in a pruned trial.
        macro_f1: Mean F1 score.
        g_mean: Geometric mean of the recalls.
        ece: Expected calibration error.
        recall: Recall per class; None for a class without images in the split.
        class_counts: Training images per class.
        params: Values of all parameters that are searched.
        epochs: Epochs trained.
        curve: (epochs done, value of the metric) at each rung.
        inside: Diagnostics of a final run.
        carried: What the head step passed on (JSON).
        tail_order: Which classes are rare.
        seconds: Wall-clock time of the run.
        seconds_shared: `seconds` divided by the number of workers that shared the device.
        images_per_second: Training images per second.
        peak_memory: Largest memory in use on the device, in bytes.
        workers: Worker processes of the study.
        device: The device, in words.
        versions: Versions of the libraries.
        commit: Commit of the library; it ends in "+" if files were changed.
        started: When the run started.
        protocol: sha256 of what the protocol holds fixed.
        metric: What the study tunes and compares by. A line without it stands for `balanced`.
        score: The metric, where it is not `balanced`; that of the last rung in a pruned trial, None in a failed one. For
            `cost` it is minus the mean cost.

    Raises:
        pydantic.ValidationError: a field breaks its rule.

    Example:
        >>> Record.model_fields["state"].default
        'complete'
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
    curve: tuple[tuple[int, float], ...] = ()
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
    metric: Literal["balanced", "prior", "macro-f1", "worst", "cost"] = "balanced"
    score: float | None = None

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
        if self.metric == "balanced" and self.score is not None:
            raise broken("be left out where the metric is balanced", str(self.score), at="score")
        if self.metric != "balanced" and self.state == "complete" and self.score is None:
            raise broken(f"be given in a complete run where the metric is {self.metric}", "null", at="score")
        least, most = (-math.inf, 0.0) if self.metric == "cost" else (0.0, 1.0)
        for at, value in (("score", self.score), *(("curve", each) for _, each in self.curve)):
            if value is not None and not least <= value <= most:
                raise broken(
                    f"be at {'most' if value > most else 'least'} {max(min(value, most), least):g}", str(value), at=at
                )
        return self

    @property
    def value(self) -> float | None:
        """The metric: the balanced accuracy, or `score` where the metric is another."""
        return self.balanced_accuracy if self.metric == "balanced" else self.score

    @property
    def metric_title(self) -> str:
        """The metric in words, for example "balanced accuracy"."""
        return TITLES[self.metric]

    @property
    def key(self) -> Key:
        """The key of the run: its protocol, kind, method, and trial number or seed."""
        return self.protocol, self.kind, self.method, self.seed if self.number is None else self.number


def parse_record(line: bytes | str, place: str) -> Record:
    """Return the record in a line of JSON.

    Args:
        line: The line.
        place: Names the line in an error.

    Raises:
        InputError: the line is not a record.
    """
    try:
        return Record.model_validate_json(line)
    except pydantic.ValidationError as error:
        raise refusal(place, error, Record.model_fields) from None


class Follower:
    """The records of a file that grows. `look` reads only the lines that were added since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.records: dict[Key, Record] = {}
        self._of: dict[tuple[str, str], dict[int, Record]] = {}
        self._offset = 0
        self._lines = 0

    def look(self) -> list[Record]:
        """Return the records that were added since the last look."""
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
        """Return the trials of a method by number, or its final runs by seed, in the order of the file."""
        return self._of.get((kind, method), {})


def read_records(path: Path) -> list[Record]:
    """Return all records of a file in order, without an incomplete last line.

    Args:
        path: A `.jsonl` file that `run_study` wrote.

    Raises:
        InputError: the file does not exist, a line is not a record, or a run is recorded twice; the message names the line.

    Example:
        >>> from pathlib import Path
        >>> read_records(Path("missing.jsonl"))
        Traceback (most recent call last):
        diversify.errors.InputError: results must be an existing file, got missing.jsonl
    """
    atomic.require_file(path, "results")
    return Follower(path).look()


def append_record(path: Path, record: Record) -> None:
    """Append a record as one line, completely or not at all."""
    atomic.append_jsonl(path, as_json(record))


def as_json(record: Record) -> dict[str, Any]:
    """Return a record as it stands in a line of the file."""
    usual = {"metric", "score"} if record.metric == "balanced" else None  # a line without them means the same
    return record.model_dump(mode="json", exclude=usual)


def fixed_of(protocol: Protocol) -> dict[str, Any]:
    """Return what a protocol holds fixed, as JSON: all fields except those in `FREE`, and those that are as in `OPTIONAL`."""
    return fixed_in(protocol.model_dump(mode="json"))


def fixed_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same for a protocol that is already JSON."""
    return {
        name: value
        for name, value in values.items()
        if name not in FREE and not (name in OPTIONAL and value == OPTIONAL[name])
    }


def digest_of(protocol: Protocol) -> str:
    """Return the sha256 of what a protocol holds fixed, which all records of a file share."""
    return digests.digest_json(fixed_of(protocol))


def chosen(trials: Iterable[Record]) -> Record | None:
    """Return the complete trial that is best by the metric, the earliest of equals; None if no trial is complete."""
    complete = [record for record in trials if record.state == "complete" and record.value is not None]
    return min(complete, key=lambda record: (-(record.value or 0.0), record.number), default=None)


def require_results_file(path: Path) -> None:
    """Check that records can be written to a file, which need not exist yet.

    Raises:
        InputError: `path` does not end in `.jsonl`, is a folder, or does not lie in a folder.
    """
    if path.suffix != SUFFIX:
        better = path / f"results{SUFFIX}" if path.is_dir() else path.with_suffix(SUFFIX)
        raise must("results", f"be a file that ends in {SUFFIX}", path, f"for example {better}")
    if path.is_dir():
        raise must("results", "be a file", f"the folder {path}")
    if any(parent.exists() and not parent.is_dir() for parent in path.parents):
        raise must("results", "lie in a folder", path)
