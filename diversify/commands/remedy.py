"""The `remedy` command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from ..diagnosis.findings import NARROW
from ..diagnosis.for_plan import PlanDiagnoser
from ..diagnosis.model_comparison import Model
from ..diagnosis.result import Diagnosis
from ..errors import must
from ..files import atomic, digests, staging
from ..files.lightning import write_lightning
from ..functional import counts
from ..network.embeddings import Embeddings
from ..network.head_file import head_metadata
from ..network.linear_head import LinearHead, read_head
from ..plan.make import make_plan
from ..plan.plan import Plan
from ..repair.candidate import Candidate
from ..repair.candidates import default_candidates
from ..repair.choice import HeadChoice
from ..repair.choose import choose_head, takes_heldout
from ..repair.metric import Objective, metric_of, objective_of, plain_objective
from ..repair.retrain import HeadRecipe
from ..report.remedy import render_remedy_html, render_remedy_markdown
from ..runtime import provenance
from ..runtime.progress import Say, StageProgress, stage
from .deployment import cost_from, target_prior_from
from .diagnosed import load_diagnosed, require_recorded
from .folders import OWNED, SCHEMA_VERSION, alone
from .heldout import CHOSE_HEAD, OTHER_IMAGES, UNRECORDED, chose_head
from .replaced_head import checkpoint_of, replaceable_head, with_head

REPEATS = 10  # of the cross-validation; it costs little compared with making the heads
FITTED_ON_HELDOUT = (
    "the recommended head was fitted on these held-out images; each third of them was judged by a head fitted without it. The head"
    " that is saved was fitted on all of them, so only test can judge it"
)
PERHAPS_SEEN = (
    "the plan was made from a diagnosis: if it was this one, it has seen these same held-out images, so its own row is"
    " somewhat optimistic; if no plan is given, one is made for each third of these images without that third"
)


@alone
def remedy_run(
    folder: Path,
    *,
    plan: Path | None = None,
    metric: str = "balanced",
    objective: Objective = "mean",
    target_prior: Path | None = None,
    cost: Path | None = None,
    unseen: str | None = None,
    out: Path,
    seed: int = 0,
    overwrite: bool = False,
    say: Say,
    progress: StageProgress | None = None,
) -> tuple[HeadChoice, dict[str, Any]]:
    """Repair the head of a diagnosed network with whichever candidate wins on held-out folds.

    The data is not needed, and the network is not built.

    Args:
        folder: A folder that `diagnose_run` wrote, with a diagnosis on the validation set.
        plan: File of the plan to compare; None makes one from the diagnosis.
        metric: What is chosen by; see `choose_head`.
        objective: Whether the worst classes count for more than their share of the mean; see `choose_head`.
        target_prior: File of the share of each class where the model will be used; see `target_prior_from`.
        cost: File of the cost of each mistake; see `cost_from`.
        unseen: Whether repairs may learn from held-out images: `heldout` or `none`; None is `heldout` for an objective
            other than `mean`.
        out: Receives `model.safetensors` (the user's checkpoint under its own tensor names, with the recommended head),
            for a checkpoint of PyTorch Lightning also `lightning.ckpt`, which `load_from_checkpoint` reads, `plan.json`,
            `remedy.json`, the report and `run.json`, all or none.
        seed: Random seed of the heads and of the folds.
        overwrite: Replace an earlier run in `out`.
        say: Called with each note.
        progress: Called as heads are made.

    Returns:
        The comparison of candidates, and the record that `run.json` holds.

    Raises:
        InputError: The diagnosis cannot serve to choose a head, the plan, the target prior or the cost does not fit it,
            or `out` cannot be written.
    """
    objective = plain_objective(objective)
    inputs = [folder, *(one for one in (plan, target_prior, cost) if one)]
    staging.ensure_available(out, overwrite, owned=OWNED, inputs=inputs, beside=True)
    diagnosis, model, diagnosed = load_diagnosed(folder)
    warnings = _require_trusted(folder, diagnosis, diagnosed)
    shares = target_prior_from(target_prior, diagnosis.class_names) if target_prior else None
    costs = cost_from(cost, diagnosis.class_names) if cost else None
    held = counts.class_counts(model.heldout.labels, model.heldout.num_classes)
    metric_of(metric, target_prior=shares, cost=costs, heldout_counts=held)
    dialled = objective_of(metric, objective) is not None
    learns = takes_heldout(unseen, dialled)
    tensors = checkpoint_of(diagnosed, folder)
    old = replaceable_head(tensors, diagnosed, read_head(model.head))
    wanted, about_plan = _usable_plan(plan, diagnosis, has_bias=old.has_bias)
    warnings += about_plan
    for warning in warnings:
        say(f"note: {warning}")
    if not learns and (about_narrow := _about_narrow(diagnosis)):
        warnings.append(about_narrow)
        say(f"note: {about_narrow}")
    recipe = HeadRecipe(bias=old.has_bias)
    candidates = _candidates(
        diagnosis,
        model,
        old,
        plan=wanted,
        replan=plan is None,
        recipe=recipe,
        unseen=learns,
        offsets=learns and dialled,
    )
    for one in candidates:
        if one.note:
            warnings.append(one.note)
            say(f"note: {one.note}")
    choice = choose_head(
        model.train,
        model.heldout,
        old,
        candidates,
        metric=metric,
        objective=objective,
        target_prior=shares,
        cost=costs,
        folds=min(5, len(model.heldout)),
        repeats=REPEATS,
        seed=seed,
        progress=stage(progress, "making heads"),
    )
    used = model.heldout.indices.tolist() if choice.fitted_on_heldout else []
    if used:
        warnings.append(FITTED_ON_HELDOUT)
        say(f"note: {FITTED_ON_HELDOUT}")
    record = {
        **_record(folder, diagnosed, choice, seed=seed, caveats=warnings),
        "plan": {"path": str(plan) if plan else None, "made_from": wanted.made_from},
        "metric": {
            "name": metric,
            "objective": objective,
            "target_prior": str(target_prior) if target_prior else None,
            "cost": str(cost) if cost else None,
        },
        "recipe": dataclasses.asdict(recipe),
        "unseen": {"learned_from": "heldout" if learns else "none", "rows_in_head": len(used)},
    }
    repaired = with_head(tensors, diagnosed, old, choice.head)
    metadata = head_metadata(old) if diagnosed.get("from_features") else None
    with staging.staged_directory(out, overwrite=overwrite, owned=OWNED) as staged:
        record["weights"] = _write_weights(staged, repaired, metadata, diagnosed)
        _write_choice(staged, choice, diagnosis.class_names, wanted, used, record)
    return choice, record


def _about_narrow(diagnosis: Diagnosis) -> str:
    """Return a note on narrow classes for repairs that do not learn from held-out images; empty where no class is narrow."""
    names = [finding.class_name for finding in diagnosis.findings if finding.kind == NARROW]
    if not names:
        return ""
    which = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} narrow: training images do not show what held-out images show"
    return f"{which}, so repairs from training images alone hardly help there; --unseen heldout also tries repairs that learn from these"


def _record(
    folder: Path, diagnosed: dict[str, Any], choice: HeadChoice, *, seed: int, caveats: list[str]
) -> dict[str, Any]:
    """The record of a remedy, without its settings."""
    return {
        "schema_version": SCHEMA_VERSION,
        "command": "remedy",
        "finished": True,
        "started": provenance.now(),
        "of": {"path": str(folder), **diagnosed},
        "recommended": {
            "candidate": choice.names[choice.recommended],
            "option": choice.option(choice.recommended),
            "text": choice.in_words(),
        },
        "seed": seed,
        "caveats": caveats,
        **provenance.origin(torch.device("cpu")),
    }


def _write_weights(
    folder: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None, diagnosed: dict[str, Any]
) -> dict[str, Any]:
    """Write the checkpoint with the recommended head; return its part of the record."""
    weights = folder / "model.safetensors"
    atomic.write_tensors(weights, tensors, metadata)
    record = {"path": weights.name, "sha256": digests.sha256(weights)}
    source, copy = Path(diagnosed["weights"]["path"]), folder / "lightning.ckpt"
    if not diagnosed.get("from_features") and write_lightning(copy, source, tensors):
        record["lightning"] = copy.name
    return record


def _write_choice(
    folder: Path,
    choice: HeadChoice,
    class_names: tuple[str, ...],
    plan: Plan,
    used: list[int],
    record: dict[str, Any],
) -> None:
    """Write the plan, the comparison, the report and the record; `used` are the held-out rows that the head learned from."""
    kept = HeadChoice.from_dict(choice.to_dict())  # rounded as in the file, so that `report` gives the same page
    atomic.write_text(folder / "plan.json", plan.to_json())
    written = choice.to_dict()
    forecast = {
        f"{name}{end}": written["forecast"][f"{column}{end}"]
        for name, column in (("forecast", "gain"), ("after", "after"))
        for end in ("", "_low", "_high")
    }
    remedy = {"class_names": list(class_names), "choice": written, **forecast, "unseen_used": used}
    atomic.write_json(folder / "remedy.json", remedy)
    atomic.write_text(folder / "report.html", render_remedy_html(kept, class_names, plan, record))
    atomic.write_text(folder / "report.md", render_remedy_markdown(kept, class_names, plan, record))
    atomic.write_json(folder / "run.json", record)


def _candidates(
    diagnosis: Diagnosis,
    model: Model,
    head: LinearHead,
    *,
    plan: Plan,
    replan: bool,
    recipe: HeadRecipe,
    unseen: bool,
    offsets: bool,
) -> tuple[Candidate, ...]:
    """The heads to compare: the plan's, a plan's from class counts alone, and the others that every remedy compares.

    With `replan`, the plan is also made from a part of the held-out rows, so that the rest can evaluate it. With `unseen`,
    there are also heads that learn from held-out rows, and with `offsets` those that lead toward the worst classes.
    """
    class_counts = [int(count) for count in diagnosis["count"].tolist()]
    counted = Plan.from_counts(diagnosis.class_names, class_counts)

    names, k, seed = diagnosis.class_names, diagnosis.top_k, diagnosis.seed
    diagnoser = PlanDiagnoser(model.train, head=head, class_names=names, top_k=k, seed=seed)

    def plan_from(rows: Embeddings) -> Plan:
        made = make_plan(diagnoser(rows))
        return made if recipe.bias else _without_bias(made)

    return default_candidates(
        model.train,
        head,
        plan=plan,
        counted=counted if recipe.bias else _without_bias(counted),
        replan=plan_from if replan else None,
        recipe=recipe,
        unseen=model.heldout if unseen else None,
        offsets=offsets,
    )


def _require_trusted(folder: Path, diagnosis: Diagnosis, record: dict[str, Any]) -> list[str]:
    """The caveats of the embeddings, one sentence each.

    Raises:
        InputError: The embeddings are known to be unfit to choose a head.
    """
    if not diagnosis.plan_ready:
        advice = "bring a validation set, or train with a holdout, and diagnose on that: test is evaluated once, after choosing"
        raise must(
            "diagnosis",
            "be made on the validation set to choose a remedy",
            f"one made on {diagnosis.heldout_split}",
            advice,
        )
    if record.get("finished") is False:
        raise must("diagnosis", "be finished", f"an interrupted one in {folder}", "run `diversify diagnose` again")
    caveats = record.get("caveats", [])
    if OTHER_IMAGES in caveats:
        advice = "diagnose with the data that it was trained on: a head made from other images does worse in use than measured here"
        raise must("train embeddings", "be of the backbone's own training images", "others, by its record", advice)
    require_recorded(folder, record)
    unrecorded = UNRECORDED in caveats or not (record.get("training") or record.get("probe"))
    return [*([UNRECORDED] if unrecorded else []), *([CHOSE_HEAD] if chose_head(caveats) else [])]


def _usable_plan(path: Path | None, diagnosis: Diagnosis, *, has_bias: bool) -> tuple[Plan, list[str]]:
    """The plan in a form that the head can carry out, and a caveat for each thing that the user should know about it."""
    plan, caveats = _planned(path, diagnosis), []
    if path is not None and plan.made_from == "diagnosis":
        caveats.append(PERHAPS_SEEN)
    if not has_bias:
        caveats.append("the head has no bias: candidates that need one are left out")
        if plan.prior_correction.after:
            plan = _without_bias(plan)
            moved = f"{plan.prior_correction.training:g} in the loss, 0 afterwards"
            caveats.append(f"the plan's prior correction is moved into training, which needs no bias: {moved}")
    return plan, caveats


def _planned(path: Path | None, diagnosis: Diagnosis) -> Plan:
    """The plan in a file, which must fit the diagnosis; without a file, the plan made from the diagnosis."""
    if path is None:
        return make_plan(diagnosis)
    plan = Plan.from_dict(atomic.read_json(path, "plan"))
    theirs = [(one.name, one.count) for one in plan.classes]
    ours = [(name, int(count)) for name, count in zip(diagnosis.class_names, diagnosis["count"].tolist(), strict=True)]
    for got, wanted in zip(theirs, ours, strict=False):
        if got != wanted:
            law = f"be of the diagnosed classes and counts: {wanted[0]} ({wanted[1]:,} images)"
            raise must("plan", law, f"{got[0]} ({got[1]:,})", "make one from this diagnosis")
    if len(theirs) != len(ours):
        raise must("plan", f"have the diagnosed {len(ours)} classes", len(theirs))
    return plan


def _without_bias(plan: Plan) -> Plan:
    """The plan with its whole prior correction in training, for a head without a bias to correct afterwards."""
    correction = plan.prior_correction
    moved = correction.model_copy(update={"training": min(4.0, correction.training + correction.after), "after": 0.0})
    return plan.model_copy(update={"prior_correction": moved})
