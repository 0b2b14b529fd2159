"""The scores of a single final run, read from its record."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import torch

from ..functional import counts
from .comparison import DIVERSITY, SCORES, SHOTS, THIRDS
from .estimates import Network
from .read import BACKBONE, Record, value_of


def scores_of(record: Record) -> dict[str, float]:
    """Return every score of a final run, by the names in `SCORES`; NaN if the record has none."""
    recall = _column(record["recall"])
    sizes = torch.tensor(record["class_counts"])
    found = {name: number_or_nan(record.get(name)) for name in SCORES}
    for names, group in ((SHOTS, counts.shot_groups(sizes)), (THIRDS, counts.count_thirds(sizes))):
        found |= {name: finite_mean(recall[group == place].tolist()) for place, name in enumerate(names)}
    known = [value for value in recall.tolist() if math.isfinite(value)]
    found["worst_class"] = min(known, default=math.nan)
    found["score"] = number_or_nan(value_of(record))
    return found


def recall_by_rank(record: Record) -> list[float]:
    """Return the recall of each class, largest class first; classes of equal size keep their order."""
    order = torch.argsort(torch.tensor(record["class_counts"]), descending=True, stable=True)
    return [float(value) for value in _column(record["recall"])[order]]


def inside_of(record: Record, column: str, *, third: bool) -> list[float]:
    """Return the values of a diagnostic, NaN where unknown; a single number is returned as one value.

    Args:
        record: A final run.
        column: Name of the diagnostic.
        third: True for the smallest third of the classes only.
    """
    values = (record.get("inside") or {}).get(column)
    sizes = torch.tensor(record["class_counts"])
    if not isinstance(values, list):
        return [number_or_nan(values)]
    if len(values) != len(sizes):
        return []
    kept = counts.count_thirds(sizes) == 2 if third else torch.ones_like(sizes, dtype=torch.bool)
    return [float(value) for value in _column(values)[kept]]


def inside_columns(finals: Iterable[Record]) -> tuple[str, ...]:
    """Return the names of the diagnostics in any of the records, the library's own first. Text is not a diagnostic."""
    named = [pair for record in finals for pair in (record.get("inside") or {}).items()]
    found = {name for name, value in named if not isinstance(value, str)} - {BACKBONE}
    known = [name for name in ("magnitude_ratio", "magnitude_gap", DIVERSITY, "leak") if name in found]
    return (*known, *sorted(found - set(known)))


def network_of(record: Record) -> Network:
    """Return the frozen backbone that a final run names, or its seed if it trained a network of its own."""
    return (record.get("inside") or {}).get(BACKBONE) or int(record["seed"])


def number_or_nan(value: Any) -> float:
    """Return a number as a float, and NaN for anything else."""
    return float(value) if isinstance(value, int | float) else math.nan


def finite_mean(values: Iterable[float]) -> float:
    """Return the mean of the finite values; NaN if there are none."""
    known = [value for value in values if math.isfinite(value)]
    return fmean(known) if known else math.nan


def _column(values: Sequence[Any]) -> torch.Tensor:
    return torch.tensor([number_or_nan(value) for value in values], dtype=torch.float64)
