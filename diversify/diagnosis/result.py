"""The value that says what is wrong with each class of a trained network, and its way to the disk and back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import pydantic
import torch
from torch import Tensor

from ..errors import must
from ..functional import draws, magnitude
from .beyond_size import lines_on_log_count, recall_of_groups
from .findings import Evidence, Finding, find

if TYPE_CHECKING:
    import pandas as pd


SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What is wrong with each class of a trained network.

    Attributes:
        columns: Every measure of `MEASURES` as `(C,)` float64, NaN where undefined; where it has an interval also
            `<name>_low` and `<name>_high` (95%). `fragile` is 1 where the upper end of the recall interval lies below the
            mean of the classes. `diagnosis["recall_heldout"]` is short for `diagnosis.columns["recall_heldout"]`.
        top_k_features: `(C, K)` int64, strongest first; -1 for a class absent from training.
        top_k_train: `(C, K)` mean classification embedding of these features on training images, in logits.
        top_k_heldout: The same on held-out images.
        top_k_heldout_tp: The same on held-out images that are found; NaN in a file written before these two were kept.
        top_k_heldout_fn: The same on held-out images that are missed.
        top_k_frequency: `(C, K)` how often each of them is among the features a held-out decision needs.
        enemies: `(C, C)` which classes the training neighbours of a class's held-out errors belong to.
        summary: Numbers of the whole model; `*_low`, `*_high` are 95% intervals.
        log_count: Per measure, the line on log n: slope, intercept, r_squared, scatter; empty where undefined.
        beyond_log_count: Per measure, the rank correlation with held-out recall, and the same with log n partialled out.
        diversity_agreement: Rank correlation over classes between the held-out diversity measures.
        findings: In words, one per fragile or absent class.
        plan_ready: False when held out means test: such a diagnosis is only to be read.
        permuted_by: The seed with which `permuted` gave every class the measures of another; None for a true diagnosis.
    """

    heldout_split: str
    top_k: int
    num_features: int
    class_names: tuple[str, ...]
    columns: Mapping[str, Tensor]
    top_k_features: Tensor
    top_k_train: Tensor
    top_k_heldout: Tensor
    top_k_heldout_tp: Tensor
    top_k_heldout_fn: Tensor
    top_k_frequency: Tensor
    enemies: Tensor
    summary: Mapping[str, float]
    log_count: Mapping[str, Mapping[str, float]]
    beyond_log_count: Mapping[str, Mapping[str, float]]
    diversity_agreement: Mapping[str, Mapping[str, float]]
    findings: tuple[Finding, ...]
    queries: Mapping[str, Any]
    seed: int = 0
    permuted_by: int | None = None

    def __getitem__(self, column: str) -> Tensor:
        return self.columns[column]

    @property
    def plan_ready(self) -> bool:
        """Whether a remedy may be chosen from it."""
        return self.heldout_split != "test"

    @property
    def head_ceiling(self) -> float:
        """Balanced accuracy that a head refitted on held-out features gains over today's, cross-fitted."""
        return self.summary["head_ceiling"]

    @property
    def top_k_overlap(self) -> Tensor:
        """`(C, C)` share of top-K features that two classes have in common; K / D by chance, NaN for an absent class."""
        return magnitude.identity_overlap_matrix(self.top_k_features, self.num_features)

    def permuted(self, seed: int) -> Diagnosis:
        """As if each class were another: it keeps its name and number of training images, and gets another's measures.

        The null of "it matters what the diagnosis says of which class". Classes with training images change places in one
        random cycle, so that none keeps its own; classes without any stay. Columns move whole, with their intervals and the
        number of held-out images; so do the rows of the top-K; `enemies` moves in rows and columns. What relates measures to
        counts is worked out anew: lines on log n, groups by count, findings.

        Raises:
            InputError: fewer than two classes have training images.
        """
        present = torch.nonzero(self.columns["count"] > 0).view(-1)
        if len(present) < 2:
            raise must("diagnosis", "have at least two classes with training images to permute them", len(present))
        order = present[draws.permutation(len(present), "permuted diagnosis", seed)]
        source = torch.arange(len(self.class_names))
        source[order] = order.roll(-1)
        columns = {name: column if name == "count" else column[source] for name, column in self.columns.items()}
        lines, beyond = lines_on_log_count(columns)
        enemies = self.enemies[source][:, source]
        return dataclasses.replace(
            self,
            columns=columns,
            top_k_features=self.top_k_features[source],
            top_k_train=self.top_k_train[source],
            top_k_heldout=self.top_k_heldout[source],
            top_k_heldout_tp=self.top_k_heldout_tp[source],
            top_k_heldout_fn=self.top_k_heldout_fn[source],
            top_k_frequency=self.top_k_frequency[source],
            enemies=enemies,
            summary={**self.summary, **recall_of_groups(columns)},
            log_count=lines,
            beyond_log_count=beyond,
            findings=find(columns, self.class_names, enemies, lines, top_k=self.top_k),
            permuted_by=seed,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values, NaN as None, in the form of `diagnosis.json`."""
        classes: dict[str, Any] = {"name": list(self.class_names)}
        whole = {"count", "count_heldout"}
        for name, column in self.columns.items():
            if name == "fragile":
                classes[name] = [bool(value) for value in column.tolist()]
            else:
                classes[name] = [int(v) if name in whole else _json_number(v) for v in column.tolist()]
        return {
            "schema_version": SCHEMA_VERSION,
            "heldout_split": self.heldout_split,
            "plan_ready": self.plan_ready,
            "top_k": self.top_k,
            "num_features": self.num_features,
            "head_ceiling": _json_number(self.head_ceiling),
            "summary": _json_numbers(self.summary),
            "findings": [_finding_dict(finding) for finding in self.findings],
            "classes": classes,
            "log_count": {name: _json_numbers(line) for name, line in self.log_count.items()},
            "beyond_log_count": {name: _json_numbers(line) for name, line in self.beyond_log_count.items()},
            "diversity_agreement": {name: _json_numbers(line) for name, line in self.diversity_agreement.items()},
            "enemies": _json_rows(self.enemies),
            "top_k_features": self.top_k_features.tolist(),
            "top_k_train": _json_rows(self.top_k_train),
            "top_k_heldout": _json_rows(self.top_k_heldout),
            "top_k_heldout_tp": _json_rows(self.top_k_heldout_tp),
            "top_k_heldout_fn": _json_rows(self.top_k_heldout_fn),
            "top_k_frequency": _json_rows(self.top_k_frequency),
            "queries": dict(self.queries),
            "seed": self.seed,
            **({} if self.permuted_by is None else {"permuted_by": self.permuted_by}),
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Diagnosis:
        """The diagnosis that `to_dict` came from, to the precision of the file.

        Raises:
            InputError: a field is missing or has another form (it is named), or the file is of another version.
        """
        version = record.get("schema_version") if isinstance(record, Mapping) else None
        if version != SCHEMA_VERSION:
            raise must("diagnosis", f"have schema_version {SCHEMA_VERSION}", version)
        try:
            file = _File.model_validate(record)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            if not place:  # a rule on several fields, whose message names them
                raise must("diagnosis", "be valid", first["msg"].removeprefix("Value error, ")) from None
            raise must(f"diagnosis field {place}", f"be valid ({first['msg']})", repr(first["input"])[:80]) from None
        names = file.classes.pop("name")
        unknown: _Rows = [[None] * file.top_k for _ in names]
        return cls(
            heldout_split=file.heldout_split,
            top_k=file.top_k,
            num_features=file.num_features,
            class_names=tuple(map(str, names)),
            columns={name: _tensor(column) for name, column in file.classes.items()},
            top_k_features=torch.tensor(file.top_k_features, dtype=torch.int64).view(-1, file.top_k),
            top_k_train=_tensor_rows(file.top_k_train, file.top_k),
            top_k_heldout=_tensor_rows(file.top_k_heldout, file.top_k),
            top_k_heldout_tp=_tensor_rows(file.top_k_heldout_tp or unknown, file.top_k),
            top_k_heldout_fn=_tensor_rows(file.top_k_heldout_fn or unknown, file.top_k),
            top_k_frequency=_tensor_rows(file.top_k_frequency, file.top_k),
            enemies=_tensor_rows(file.enemies, len(names)),
            summary=_numbers(file.summary),
            log_count={name: _numbers(line) for name, line in file.log_count.items()},
            beyond_log_count={name: _numbers(line) for name, line in file.beyond_log_count.items()},
            diversity_agreement={name: _numbers(line) for name, line in file.diversity_agreement.items()},
            findings=tuple(_finding_from(finding) for finding in file.findings),
            queries=file.queries,
            seed=file.seed,
            permuted_by=file.permuted_by,
        )

    @classmethod
    def from_json(cls, text: str) -> Diagnosis:
        """The diagnosis that `to_json` came from."""
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise must("diagnosis", "be whole, valid JSON", str(error)) from error

    def to_dataframe(self) -> pd.DataFrame:
        """One row per class, named by it, one column per measure.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise must("pandas", "be installed for to_dataframe()", "no such package", "pip install pandas") from error
        frame = pd.DataFrame({name: column.numpy() for name, column in self.columns.items()})
        frame = frame.astype({"count": int, "count_heldout": int, "fragile": bool})
        frame.index = pd.Index(self.class_names, name="class")
        return frame


def _json_number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _json_numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _json_number(value) for name, value in values.items()}


def _json_rows(values: Tensor) -> list[list[float | None]]:
    return [[_json_number(value) for value in row] for row in values.tolist()]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: _number(value) for name, value in values.items()}


def _finding_dict(finding: Finding) -> dict[str, Any]:
    evidence = [
        {name: _json_number(v) if isinstance(v, float) else v for name, v in dataclasses.asdict(one).items()}
        for one in finding.evidence
    ]
    return {**dataclasses.asdict(finding), "evidence": evidence, "causes": list(finding.causes)}


def _finding_from(record: _FindingFile) -> Finding:
    evidence = tuple(
        Evidence(
            measure=one.measure,
            value=_number(one.value),
            low=_number(one.low),
            high=_number(one.high),
            compared_with=_number(one.compared_with),
        )
        for one in record.evidence
    )
    return Finding(
        class_index=record.class_index,
        class_name=record.class_name,
        text=record.text,
        evidence=evidence,
        causes=tuple(record.causes),
        remedy=record.remedy,
    )


# The form of `diagnosis.json`, for reading one back

_Number = float | None
_Rows = list[list[_Number]]


class _EvidenceFile(pydantic.BaseModel):
    measure: str
    value: _Number
    low: _Number
    high: _Number
    compared_with: _Number


class _FindingFile(pydantic.BaseModel):
    class_index: int
    class_name: str
    text: str
    evidence: list[_EvidenceFile]
    causes: list[str]
    remedy: str


class _File(pydantic.BaseModel):
    schema_version: int
    heldout_split: Literal["val", "test"]
    top_k: pydantic.PositiveInt
    num_features: pydantic.PositiveInt
    summary: dict[str, _Number]
    findings: list[_FindingFile]
    classes: dict[str, list[str] | list[_Number]]
    log_count: dict[str, dict[str, _Number]]
    beyond_log_count: dict[str, dict[str, _Number]]
    diversity_agreement: dict[str, dict[str, _Number]]
    enemies: _Rows
    top_k_features: list[list[int]]
    top_k_train: _Rows
    top_k_heldout: _Rows
    top_k_heldout_tp: _Rows | None = None
    top_k_heldout_fn: _Rows | None = None
    top_k_frequency: _Rows
    queries: dict[str, Any]
    seed: int
    permuted_by: int | None = None

    @pydantic.model_validator(mode="after")
    def _same_classes(self) -> Self:
        if "name" not in self.classes:
            raise ValueError("classes.name is missing")
        count = len(self.classes["name"])
        for name, column in self.classes.items():
            if len(column) != count or (name != "name" and any(isinstance(value, str) for value in column)):
                raise ValueError(f"classes.{name} is not one number per class")
        for name, rows, width in (
            ("enemies", self.enemies, count),
            *((name, getattr(self, name), self.top_k) for name in _TOP_K_ROWS),
        ):
            if rows is not None and (len(rows) != count or any(len(row) != width for row in rows)):
                raise ValueError(f"{name} is not {count} rows of {width}")
        return self


_TOP_K_ROWS = (
    "top_k_features",
    "top_k_train",
    "top_k_heldout",
    "top_k_heldout_tp",
    "top_k_heldout_fn",
    "top_k_frequency",
)


def _tensor(column: Sequence[Any]) -> Tensor:
    return torch.tensor([_number(value) for value in column], dtype=torch.float64)


def _tensor_rows(rows: _Rows, width: int) -> Tensor:
    return torch.tensor([[_number(value) for value in row] for row in rows], dtype=torch.float64).view(-1, width)
