"""Diagnoses and plans for the tests of `plan/`."""

import dataclasses

from diversify.diagnosis.result import Diagnosis
from diversify.plan.plan import Plan
from diversify.plan.policies import ClassPlan
from diversify.plan.rules import RULES, Rule

OF_CLASSES = tuple(rule for rule in RULES if isinstance(rule, Rule))


NAMES = ("ant", "bee", "cat", "dog", "elk")


COUNTS = (1000, 300, 100, 30, 10)


WIDE = 1e3  # an interval that holds every mark


def as_untouched(one: ClassPlan) -> ClassPlan:
    """The class with its draws and reasons left out: what it gets."""
    return one.model_copy(update={"draws": 0.0, "reasons": ()})


def nothing(plan: Plan, c: int) -> bool:
    """True if a class gets nothing."""
    bare = Plan.untouched([one.name for one in plan.classes], plan.class_counts)
    return as_untouched(plan.classes[c]) == as_untouched(bare.classes[c])


def with_columns(diagnosis: Diagnosis, changed: dict[str, dict[int, float]]) -> Diagnosis:
    columns = {name: column.clone() for name, column in diagnosis.columns.items()}
    for name, values in changed.items():
        for c, value in values.items():
            columns[name][c] = value
    return dataclasses.replace(diagnosis, columns=columns)


def with_gap(diagnosis: Diagnosis, gap: float) -> Diagnosis:
    """Held-out recall is one half, and training recall is higher by this."""
    return with_columns(diagnosis, {"recall_train": dict.fromkeys(range(len(diagnosis.class_names)), 0.5 + gap)})
