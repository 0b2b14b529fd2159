"""What a remedy was expected to change, as its record or its plan tells, for the comparison of two diagnoses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ..diagnosis.result import Diagnosis
from ..errors import InputError
from ..files import atomic, digests
from ..plan.expected_gains import expected_gains
from ..plan.plan import Plan
from ..repair.choice import HeadChoice

ENDS = ("", "_low", "_high")


def forecast_on_record(
    first: Diagnosis, first_record: dict[str, Any], second_record: dict[str, Any]
) -> tuple[str, dict[str, Tensor]] | None:
    """Return what was expected of the step from the first network to the second; None if no record tells.

    There are two such steps: `diversify remedy` repaired the head of the first network, or the second was trained by a plan and the
    first with cross entropy on the same classes.

    Args:
        first: The diagnosis of the first network.
        first_record: Its record.
        second_record: The record of the other diagnosis.

    Returns:
        What was done, and the expected change in recall as columns `forecast_difference`, `_low` and `_high`, `(C,)` each.
    """
    try:
        return _of_remedy(first_record, second_record) or _of_plan(first, first_record, second_record)
    except (InputError, OSError, KeyError, TypeError, ValueError):
        return None  # files that have been moved or changed since tell nothing


def _of_remedy(first: dict[str, Any], second: dict[str, Any]) -> tuple[str, dict[str, Tensor]] | None:
    folder = Path(second["weights"]["path"]).parent
    if not (folder / "remedy.json").is_file():
        return None
    run = atomic.read_json(folder / "run.json", "run.json")
    same = run["weights"]["sha256"] == second["weights"]["sha256"]
    if not same or run["of"]["weights"]["sha256"] != first["weights"]["sha256"]:
        return None
    choice = HeadChoice.from_dict(atomic.read_json(folder / "remedy.json", "remedy.json")["choice"])
    if not choice.forecast:
        return None
    columns = {f"forecast_difference{end}": choice.forecast[f"gain{end}"] for end in ENDS}
    return f"the head repair, {choice.names[choice.recommended]}", columns


def _of_plan(
    first: Diagnosis, first_record: dict[str, Any], second_record: dict[str, Any]
) -> tuple[str, dict[str, Tensor]] | None:
    before, after = (record.get("training") or {} for record in (first_record, second_record))
    if before.get("method") != "ce" or "plan" not in after:
        return None
    values = atomic.read_json(Path(after["plan"]["path"]), "plan.json")
    if digests.digest_json(values) != after["plan"]["digest"]:
        return None
    plan = Plan.from_dict(after.get("plan_adapted") or values)
    if [one.name for one in plan.classes] != list(first.class_names):
        return None
    found = expected_gains(plan, first)
    if bool(found.gain.isnan().all()):
        return None
    columns = {f"forecast_difference{end}": getattr(found, f"gain{end}") for end in ENDS}
    return found.remedy, columns
