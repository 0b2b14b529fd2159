"""The `plan` command."""

from __future__ import annotations

import os
from pathlib import Path

from ..diagnosis.result import Diagnosis
from ..errors import InputError, must
from ..files import atomic
from ..plan.default_recipe import recipe
from ..plan.expected_gains import expected_gains
from ..plan.gain_forecast import GainForecast
from ..plan.make import make_plan
from ..plan.plan import Plan
from .folders import refuse_multilabel


def load_diagnosis(folder: Path) -> Diagnosis:
    """The diagnosis in a folder that `diagnose_run` wrote; the other files in it are not needed."""
    if not folder.is_dir():
        raise must("folder", "be a folder that `diversify diagnose` wrote", folder)
    refuse_multilabel("plan", folder)
    if not (folder / "diagnosis.json").is_file():
        raise must("folder", "be a folder that `diversify diagnose` wrote", folder)
    return Diagnosis.from_dict(atomic.read_json(folder / "diagnosis.json", "diagnosis.json"))


def plan_run(
    folder: Path, *, out: Path | None = None, alike: bool = False, augment: bool = True, overwrite: bool = False
) -> Plan:
    """Make the plan of a diagnosis, and write it to the file `out` if one is given.

    Args:
        folder: A folder that `diagnose_run` wrote.
        out: The plan's file, for example `plan.json`.
        alike: Make the default recipe, which treats every class alike, in place of a plan that grades them; see `recipe`.
        augment: Augment and mix images; False goes with `alike`.
        overwrite: Replace the plan in `out`.

    Returns:
        The plan.

    Raises:
        InputError: The diagnosis was made on test, `augment` is False without `alike`, or `out` cannot be written.
    """
    if not augment and not alike:
        raise must("no_augment", "come with alike=True", "a plan that grades classes", "pass alike=True too")
    if out is not None:
        _require_free(out, overwrite)
    diagnosis = load_diagnosis(folder)
    plan = (
        recipe(diagnosis.class_names, diagnosis["count"], diagnosis=diagnosis, augment=augment)
        if alike
        else make_plan(diagnosis)
    )
    if out is not None:
        atomic.write_text(out, plan.to_json())
    return plan


def expected_of(folder: Path, plan: Plan) -> GainForecast | None:
    """Return what training by a plan is expected to change for the network of a diagnosis.

    Args:
        folder: The folder that `diagnose_run` wrote.
        plan: The plan.

    Returns:
        The forecast; None if the network is not known to be trained with cross entropy, or no record is of such a plan.
    """
    run = folder / "run.json"
    training = (atomic.read_json(run, "run.json").get("training") if run.is_file() else None) or {}
    if not isinstance(training, dict) or training.get("method") != "ce":
        return None
    found = expected_gains(plan, load_diagnosis(folder))
    return None if bool(found.gain.isnan().all()) else found


def _require_free(out: Path, overwrite: bool) -> None:
    """Check that `out` can be written, and that a file there is a plan that may be replaced."""
    if out.is_dir():
        raise must("out", "be a file", f"the folder {out}", f"for example {out / 'plan.json'}")
    if not os.path.lexists(out):
        nearest = next(folder for folder in out.absolute().parents if os.path.lexists(folder))
        if not nearest.is_dir():
            raise must("out", "lie in a folder", out)
        return
    if not overwrite:
        raise must("out", "be a file that does not exist yet", out, "pass overwrite=True to replace it")
    try:
        values = atomic.read_json(out, "out")
    except InputError:
        values = None
    if not (isinstance(values, dict) and isinstance(values.get("classes"), list)):
        raise must("out", "be new or a plan", out, "choose another file")
