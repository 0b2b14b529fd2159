"""The evidence that adaptive rules look at: measures of every class with their 95% intervals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..diagnosis.result import Diagnosis
from ..errors import must
from ..functional.stats import wilson_interval
from .adaptive_rules import AdaptiveRule
from .plan import Plan


class LeakLike(Protocol):
    """A measured leak, such as `Leak`: the leak of each class's image policy and the lower end of its 95% interval."""

    @property
    def leak(self) -> Tensor:
        """`(C,)`: the rise in the share of other classes' images that are predicted as class c."""
        ...

    @property
    def leak_low(self) -> Tensor:
        """Lower end of its 95% interval, `(C,)`."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """A measure for every class with its 95% interval, each `(C,)`, NaN where unknown."""

    value: Tensor
    low: Tensor
    high: Tensor


def evidence_of_diagnosis(diagnosis: Diagnosis, plan: Plan, rules: Sequence[AdaptiveRule]) -> dict[str, Evidence]:
    """Return the columns of a diagnosis that the rules look at, by measure.

    Raises:
        InputError: the diagnosis was made on test, has other classes, or lacks a column.
    """
    if not diagnosis.plan_ready:
        law, advice = "be made on a validation split", "test is evaluated once, after choosing"
        raise must("diagnosis", law, diagnosis.heldout_split, advice)
    require_classes("diagnosis", diagnosis.class_names, plan)
    columns, unknown = {}, torch.full((plan.num_classes,), math.nan, dtype=torch.float64)
    for rule in rules:
        if rule.evidence != "diagnosis":
            continue
        if rule.measure not in diagnosis.columns:
            raise must(f"measure of the rule {rule.name!r}", "be a column of the diagnosis", repr(rule.measure))
        low, high = (diagnosis.columns.get(f"{rule.measure}_{end}", unknown) for end in ("low", "high"))
        columns[rule.measure] = Evidence(value=diagnosis.columns[rule.measure], low=low, high=high)
    return columns


def evidence_of_leak(leak: LeakLike, plan: Plan) -> dict[str, Evidence]:
    """Return a measured leak as evidence.

    Raises:
        InputError: it does not have one number per class of the plan.
    """
    found = []
    for name in ("leak", "leak_low"):
        column = getattr(leak, name, None)
        if not isinstance(column, Tensor):
            raise must("leak", f"have {name}, one number per class", type(leak).__name__, "see measure_leak")
        if column.shape != (plan.num_classes,):
            raise must(f"{name} of the leak", f"have shape ({plan.num_classes},)", tuple(column.shape))
        found.append(column.detach().cpu().double())
    value, low = found
    return {"leak": Evidence(value=value, low=low, high=torch.full_like(value, math.nan))}


def evidence_of_hits(counts: Tensor, counts_before: Tensor) -> dict[str, Evidence]:
    """Return the shares of hits and their change since the previous decision.

    Args:
        counts: Images seen and hits of every class, `(2, C)`.
        counts_before: Those of the previous decision, `(2, C)`.

    References:
        Newcombe (1998), Interval estimation for the difference between independent proportions (MOVER).
    """
    seen, right = counts
    seen_before, right_before = counts_before
    share, before = right / seen.double(), right_before / seen_before.double()
    low, high = wilson_interval(right, seen)
    low_before, high_before = wilson_interval(right_before, seen_before)
    change = share - before
    down = ((share - low).square() + (high_before - before).square()).sqrt()
    up = ((high - share).square() + (before - low_before).square()).sqrt()
    return {
        "hits": Evidence(value=share, low=low, high=high),
        "hits_change": Evidence(value=change, low=change - down, high=change + up),
    }


def require_classes(what: str, names: Sequence[str], plan: Plan) -> None:
    """Raise an InputError unless these are the names of the plan's classes, in their order."""
    if len(names) != plan.num_classes:
        raise must(what, f"have the plan's {plan.num_classes} classes", len(names))
    for name, one in zip(names, plan.classes, strict=True):
        if name != one.name:
            raise must(what, "have the plan's classes, in their order", f"{name!r} for {one.name!r}")
