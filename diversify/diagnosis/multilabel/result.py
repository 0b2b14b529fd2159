"""`MultilabelDiagnosis`: the measures and findings of every label, and their JSON form."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pydantic
import torch
from torch import Tensor

from ...errors import must
from ...files.schema import refusal
from ...network.reading import Reading
from ..findings import Finding
from ..json_form import (
    FeatureNumber,
    FindingFile,
    Number,
    Rows,
    finding_dict,
    finding_from,
    first_missing,
    json_fields,
    json_number,
    json_numbers,
    json_readings,
    json_rows,
    numbers,
    tensor,
    tensor_rows,
)
from ..notes import notes_of
from .companions import Companion

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultilabelDiagnosis:
    """The measures of every label of a network that gives each image several labels.

    `diagnosis["recall_heldout"]` is short for `diagnosis.columns["recall_heldout"]`.

    Attributes:
        heldout_split: The split that the held-out images come from, "val" or "test".
        top_k: K, the number of features in the top-K of a label.
        num_features: D.
        label_names: One name per label.
        columns: Every measure of `MULTILABEL_MEASURES` as `(C,)` float64, NaN where undefined, with `<name>_low` and
            `<name>_high` (95%) where it has an interval. `fragile` is 1 where the upper end of the held-out recall's
            interval lies below the mean over the labels.
        images: Number of training and of held-out images.
        cooccurrence_train: `(C, C)`, P(column | row) among training images.
        cooccurrence_heldout: The same among held-out images.
        top_k_features: `(C, K)` int64, the top-K features of the positives, strongest first; -1 without positives.
        companions: Labels that are recognised less often where another label is missing.
        findings: One finding per label that is fragile, has no training positives, has a better threshold or depends on
            another label.
        summary: Means over the labels that have held-out positives: `mean_average_precision`, `mean_recall`, `mean_f1`.
        seed: The seed that the diagnosis was made with.
        readings: How the loaders of "train" and "heldout" gave their rows; empty if read from an old file.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_multilabel_embeddings()
        >>> diagnosis = dv.diagnose_multilabel(train, heldout, head=head)
        >>> diagnosis["count"].tolist()
        [327.0, 174.0, 111.0, 21.0]
        >>> dv.MultilabelDiagnosis.from_json(diagnosis.to_json()).label_names
        ('label 0', 'label 1', 'label 2', 'label 3')
    """

    heldout_split: str
    top_k: int
    num_features: int
    label_names: tuple[str, ...]
    columns: Mapping[str, Tensor]
    images: Mapping[str, int]
    cooccurrence_train: Tensor
    cooccurrence_heldout: Tensor
    top_k_features: Tensor
    companions: tuple[Companion, ...]
    findings: tuple[Finding, ...]
    summary: Mapping[str, float]
    seed: int = 0
    readings: Mapping[str, Reading] = dataclasses.field(default_factory=dict)

    several_labels: ClassVar[bool] = True

    def __getitem__(self, column: str) -> Tensor:
        return self.columns[column]

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence on each thing that a loader left out or gave twice, and on labels that no held-out image has."""
        absent = self.without_heldout
        without = (f"No held-out image has {' or '.join(absent)}: means are over the other labels.",) if absent else ()
        return notes_of(self.readings, self.label_names) + without

    @property
    def without_heldout(self) -> tuple[str, ...]:
        """The labels without held-out positives: their measures are NaN, and means over the labels leave them out."""
        return self._without("count_heldout")

    @property
    def without_training(self) -> tuple[str, ...]:
        """The labels without training positives."""
        return self._without("count")

    def _without(self, column: str) -> tuple[str, ...]:
        return tuple(name for name, count in zip(self.label_names, self[column].tolist(), strict=True) if count == 0)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with None for NaN."""
        labels: dict[str, Any] = {"name": list(self.label_names)}
        labels |= {name: [json_number(value) for value in column.tolist()] for name, column in self.columns.items()}
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "multilabel",
            "heldout_split": self.heldout_split,
            "top_k": self.top_k,
            "num_features": self.num_features,
            "images": dict(self.images),
            "labels": labels,
            "cooccurrence_train": json_rows(self.cooccurrence_train),
            "cooccurrence_heldout": json_rows(self.cooccurrence_heldout),
            "top_k_features": self.top_k_features.tolist(),
            "companions": [json_fields(one) for one in self.companions],
            "findings": [finding_dict(one) for one in self.findings],
            "summary": json_numbers(self.summary),
            "seed": self.seed,
            **json_readings(self.readings, self.notes),
        }

    def to_json(self) -> str:
        """Return `to_dict` as text."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> MultilabelDiagnosis:
        """Return the diagnosis that `to_dict` was called on, to the precision of the file (6 digits).

        Raises:
            InputError: A field is missing or damaged, or the record is another one.
        """
        if not isinstance(record, Mapping) or record.get("kind") != "multilabel":
            raise must(
                "diagnosis", "be one of several labels per image", "another record", "use dv.Diagnosis.from_json"
            )
        if record.get("schema_version") != SCHEMA_VERSION:
            raise must("diagnosis", f"have schema_version {SCHEMA_VERSION}", record.get("schema_version"))
        try:
            file = _File.model_validate(record)
        except pydantic.ValidationError as error:
            raise refusal("diagnosis", error) from None
        if not file.labels.get("name"):
            raise must("labels.name of the diagnosis", "be given", "nothing")
        for place, names, needed in (("labels", file.labels, _NEEDED), ("summary", file.summary, _NEEDED_SUMMARY)):
            if missing := first_missing(names, needed):
                raise must(f"{place}.{missing} of the diagnosis", "be given", "nothing")
        count = len(file.labels["name"])
        widths = {"cooccurrence_train": count, "cooccurrence_heldout": count, "top_k_features": file.top_k}
        for name, column in file.labels.items():
            if len(column) != count or any(isinstance(value, str) for value in column) != (name == "name"):
                raise must(f"labels.{name} of the diagnosis", f"be one value per label, {count}", len(column))
        for name, width in widths.items():
            rows = getattr(file, name)
            if len(rows) != count or any(len(row) != width for row in rows):
                raise must(f"{name} of the diagnosis", f"be {count} rows of {width}", f"{len(rows)} rows")
        return cls(
            heldout_split=file.heldout_split,
            top_k=file.top_k,
            num_features=file.num_features,
            label_names=tuple(map(str, file.labels["name"])),
            columns={name: tensor(column) for name, column in file.labels.items() if name != "name"},
            images=file.images,
            cooccurrence_train=tensor_rows(file.cooccurrence_train, count),
            cooccurrence_heldout=tensor_rows(file.cooccurrence_heldout, count),
            top_k_features=torch.tensor(file.top_k_features, dtype=torch.int64).view(-1, file.top_k),
            companions=tuple(Companion(**one.model_dump()) for one in file.companions),
            findings=tuple(finding_from(one) for one in file.findings),
            summary=numbers(file.summary),
            seed=file.seed,
            readings={side: Reading.from_dict(reading) for side, reading in file.readings.items()},
        )

    @classmethod
    def from_json(cls, text: str) -> MultilabelDiagnosis:
        """Return the diagnosis that `to_json` was called on.

        Raises:
            InputError: The text is not JSON, a field is missing or damaged, or the record is another one.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise must("diagnosis", "be whole, valid JSON", str(error)) from error
        return cls.from_dict(values)

    def to_dataframe(self) -> pd.DataFrame:
        """Return a pandas data frame with one row per label and one column per measure.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise must("pandas", "be installed for to_dataframe()", "no such package", "pip install pandas") from error
        frame = pd.DataFrame({name: column.numpy() for name, column in self.columns.items()})
        frame = frame.astype({"count": int, "count_heldout": int, "fragile": bool})
        frame.index = pd.Index(self.label_names, name="label")
        return frame


_NEEDED = (  # columns that a report cannot do without
    *("fragile", "count", "count_heldout", "recall_heldout", "recall_heldout_low", "precision_heldout", "f1_heldout"),
    *("average_precision", "average_precision_low", "ap_gain", "ce_magnitude_ratio", "threshold_best"),
    *("f1_best_threshold", "f1_gain"),
)
_NEEDED_SUMMARY = ("mean_average_precision", "mean_f1", "mean_recall")


class _CompanionFile(pydantic.BaseModel):
    label: int
    other: int
    recall_with: float
    recall_without: float
    low: float
    high: float
    share_train: float


class _File(pydantic.BaseModel):
    """The JSON form; unknown fields are ignored."""

    heldout_split: Literal["val", "test"]
    top_k: pydantic.PositiveInt
    num_features: pydantic.PositiveInt
    images: dict[str, int]
    labels: dict[str, list[str] | list[Number]]
    cooccurrence_train: Rows
    cooccurrence_heldout: Rows
    top_k_features: list[list[FeatureNumber]]
    companions: list[_CompanionFile]
    findings: list[FindingFile]
    summary: dict[str, Number]
    seed: int
    readings: dict[Literal["train", "heldout"], dict[str, Any]] = {}
