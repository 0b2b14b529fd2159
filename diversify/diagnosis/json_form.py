"""Numbers, rows and findings of a diagnosis as JSON values, and back; NaN is None in JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import pydantic
import torch
from torch import Tensor

from ..network.reading import Reading
from .findings import LOW_RECALL, Evidence, Finding

DIGITS = 6  # of a number in a file

Number = pydantic.FiniteFloat | None
Rows = list[list[Number]]
FeatureNumber = Annotated[int, pydantic.Field(ge=-1, lt=2**31)]
"""The number of a feature; -1 where there is none."""


def first_missing(names: Iterable[str], needed: Iterable[str]) -> str | None:
    """Return the first name that is needed and not there, or that is one end of an interval without the other; or None.

    Example:
        >>> first_missing(["count", "recall_low"], ["count"]), first_missing(["count"], ["count"])
        ('recall', None)
    """
    there = set(names)
    for low, high in (("_low", "_high"), ("_high", "_low")):
        for each in sorted(there):
            if each.endswith(low):
                name = each.removesuffix(low)
                needed = (*needed, name, name + high)
    return next((each for each in needed if each not in there), None)


def json_number(value: float) -> float | None:
    """Return a number with the digits that files keep; None for NaN and infinity."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def json_numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return named numbers as `json_number` writes them."""
    return {name: json_number(value) for name, value in values.items()}


def json_rows(values: Tensor) -> Rows:
    """Return a matrix as rows of numbers."""
    return [[json_number(value) for value in row] for row in values.tolist()]


def json_fields(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass; its floats as `json_number` writes them."""
    fields = dataclasses.asdict(record)
    return {name: json_number(value) if isinstance(value, float) else value for name, value in fields.items()}


def json_readings(readings: Mapping[str, Reading], notes: Sequence[str]) -> dict[str, Any]:
    """Return the fields on how loaders gave their rows; nothing if every image came once and is known."""
    if all(reading == Reading() for reading in readings.values()):
        return {"notes": list(notes)} if notes else {}
    return {"notes": list(notes), "readings": {side: reading.to_dict() for side, reading in readings.items()}}


def number(value: float | None) -> float:
    """Return a number of a file; NaN for None."""
    return math.nan if value is None else float(value)


def numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    """Return named numbers of a file."""
    return {name: number(value) for name, value in values.items()}


def tensor(column: Sequence[Any]) -> Tensor:
    """Return a column of a file as float64."""
    return torch.tensor([number(value) for value in column], dtype=torch.float64)


def tensor_rows(rows: Rows, width: int) -> Tensor:
    """Return rows of a file as a float64 matrix of `width` columns."""
    return torch.tensor([[number(value) for value in row] for row in rows], dtype=torch.float64).view(-1, width)


class EvidenceFile(pydantic.BaseModel):
    """The JSON form of `Evidence`."""

    measure: str
    value: Number
    low: Number
    high: Number
    compared_with: Number


class FindingFile(pydantic.BaseModel):
    """The JSON form of `Finding`."""

    class_index: int
    class_name: str
    text: str
    evidence: list[EvidenceFile]
    causes: list[str]
    remedy: str
    kind: str = LOW_RECALL
    trouble: list[str] = []


def finding_dict(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON values."""
    evidence = [json_fields(one) for one in finding.evidence]
    lists = {"causes": list(finding.causes), "trouble": list(finding.trouble)}
    return {**dataclasses.asdict(finding), "evidence": evidence, **lists}


def finding_from(record: FindingFile) -> Finding:
    """Return the finding of a file."""
    evidence = tuple(
        Evidence(
            measure=one.measure,
            value=number(one.value),
            low=number(one.low),
            high=number(one.high),
            compared_with=number(one.compared_with),
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
        kind=record.kind,
        trouble=tuple(record.trouble),
    )
