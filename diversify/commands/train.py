"""The `train` command."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..augment.draw_key import CropFlip
from ..data.duplicates import copies_in_words, find_duplicates
from ..data.load import Data
from ..data.loader import Split, collate, make_loader
from ..data.view import View
from ..errors import InputError, must, unknown
from ..files import atomic, digests, staging
from ..functional import counts
from ..network.networks import build_model, parameter_count
from ..plan.adaptive import AdaptivePlan
from ..plan.plan import Plan
from ..runtime import provenance
from ..training.ingredients import Ingredients
from ..training.loop import fit, require_resumable
from ..training.recipe import Recipe
from .folders import OWNED, SCHEMA_VERSION, alone, is_first, unfinished
from .options import DataOptions, augmentation_of, channels_of, fit_channels

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]

METHODS = ("ce",)
ADAPTATIONS = ("none", "hits")
POOL_BYTES = 1 << 29  # of training images that are held in memory for others to be mixed with


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Training:
    """What a training run is made of, and its record so far."""

    data: Data
    view: View | None
    network: nn.Module
    augmentation: CropFlip | None
    plan: Plan | None
    record: dict[str, Any]

    @classmethod
    def prepared(
        cls,
        data_options: DataOptions,
        model: str,
        method: str,
        plan: Plan | None,
        adapt: str,
        recipe: Recipe,
        augment: str,
        progress: Progress | None = None,
    ) -> _Training:
        """Load the data and build the network, or say what is wrong with either."""
        data = data_options.load(measure_view=True, progress=progress)
        present = counts.class_counts(data.train.labels, data.num_classes)
        if int(present.min()) == 0:
            absent = ", ".join(data.class_names[c] for c in (present == 0).nonzero()[:, 0].tolist())
            raise must("every class", "have a training image", f"none of {absent}")
        used = None if plan is None else _fitted(plan, data, present)
        view = fit_channels(data.view, model)
        network = build_model(model, data.num_classes, channels=channels_of(data, view), seed=recipe.seed)
        augmentation = augmentation_of(augment, data)
        record: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "command": "train",
            "finished": False,
            "started": provenance.now(),
            "data": data.record(),
            "files": data_options.digests(),
            "view": dataclasses.asdict(view) if view else None,
            "view_origin": data.view_origin,
            "model": {
                "name": model,
                "parameters": parameter_count(network),
                "initial_weights": digests.digest_tensors(network.state_dict()),
            },
            "method": method,
            "augmentation": dataclasses.asdict(augmentation) if augmentation else None,
            "recipe": dataclasses.asdict(recipe),
            "seed": recipe.seed,
        }
        if plan is not None and used is not None:
            record["plan"] = {
                "path": "plan.json",
                "digest": digests.digest_json(used.to_dict()),
                "made_from": used.made_from,
                "made_for_counts": plan.class_counts.tolist(),
                "adapt": adapt,
            }
        return cls(data=data, view=view, network=network, augmentation=augmentation, plan=used, record=record)

    def identity(self) -> str:
        """What the run is about: the images themselves, what is made of them, and the model."""
        names = ("data", "files", "view", "model", "augmentation", "method")
        return digests.digest_json([*(self.record[name] for name in names), *self.planned()])

    def planned(self) -> tuple[str, ...]:
        """What makes two runs with a plan the same: the plan as it is used, and what changes it."""
        told = self.record.get("plan")
        return () if told is None else (told["digest"], told["adapt"])

    def earlier_identity(self) -> str:
        """What `identity` was before it counted what the images are: by this, states of that time are known."""
        data = copy.deepcopy(self.record["data"])
        for split in data["splits"].values():
            del split["content"]
        return digests.digest_json([data, *(self.record[name] for name in ("view", "model", "augmentation", "method"))])

    def identity_of(self, state: Path, recipe: Recipe) -> str:
        """The identity under which `state` is one of this run; an InputError where it is of another one."""
        try:
            require_resumable(state, recipe=recipe, identity=self.earlier_identity())
        except InputError:
            require_resumable(state, recipe=recipe, identity=self.identity())
            return self.identity()
        return self.earlier_identity()

    def ingredients(self, recipe: Recipe) -> Ingredients:
        """What the plan, or plain training, brings to the loop."""
        if self.plan is None:
            return Ingredients(augment=self.augmentation)
        return Ingredients.from_plan(
            self.plan,
            self.data.train.labels,
            seed=recipe.seed,
            epochs=recipe.epochs,
            base=self.augmentation,
            pool=_pool(self.data.train) if _mixes(self.plan) else None,
            adapt=partial(AdaptivePlan, epochs=recipe.epochs) if self.record["plan"]["adapt"] == "hits" else None,
        )

    def take_up_plan(self, out: Path) -> None:
        """Go on with what is recorded of the plan of the run in `out`; an InputError where that is another."""
        before = atomic.read_json(out / "run.json", "run.json").get("plan")
        kept = () if before is None else (before["digest"], before["adapt"])
        if kept != self.planned():
            law = f"stay {out / 'plan.json'} with --adapt {before['adapt']}" if before else "stay away, as it was"
            got = f"another plan, or --adapt {self.record['plan']['adapt']}" if self.plan else "none"
            raise must("--plan of a resumed run", law, got, "start it anew")
        if before is not None:
            self.record["plan"] = before

    def look_for_copies(self, progress: Progress | None) -> None:
        """Record how many images of val are also in train."""
        if self.data.val is not None:
            found = find_duplicates(self.data.train, self.data.val, progress)
            self.record["duplicates"] = found.record("val", len(self.data.val))

    def describe(self, say: Say, out: Path, notes: Sequence[str] = ()) -> None:
        """The data, what the model sees, and the model, in words; `out` is where the run will be found.

        `notes` are on how it is trained.
        """
        data, recipe = self.data, self.record["recipe"]
        sizes = f"{len(data.train)} train, {len(data.val) if data.val else 0} val"
        say(f"data: {data.spec}, {data.num_classes} classes, {sizes}; imbalance {data.imbalance}")
        for note in data.notes:
            say(f"note: {note}")
        if note := copies_in_words(self.record.get("duplicates", {"count": 0})):
            say(f"note: {note}")
        say(f"the model sees: {self.view or 'images as the data set gives them'} ({data.view_origin})")
        say(f"augmentation in training: {self.augmentation or 'none'}")
        if self.plan is not None:
            self.describe_plan(say)
            self.describe_head_step(self.plan, say, out)
        parameters = self.record["model"]["parameters"]
        name, method = self.record["model"]["name"], self.record["method"]
        say(f"model: {name}, {parameters:,} parameters; {method}, {recipe['epochs']} epochs")
        for note in notes:
            say(f"note: {note}")

    def describe_plan(self, say: Say) -> None:
        """Where the plan comes from, and what was made of it for this data."""
        told, made_for = self.record["plan"], self.record["plan"]["made_for_counts"]
        adapted = "; its strengths follow the training hits" if told["adapt"] == "hits" else ""
        say(f"plan: made from {told['made_from']}{adapted}")
        have = self.record["data"]["class_counts"]
        if made_for != have:
            say(
                f"note: the plan was made for {sum(made_for)} training images and is applied to {sum(have)}: its draws and"
                " its prior follow these"
            )

    def describe_head_step(self, plan: Plan, say: Say, out: Path) -> None:
        """What the plan's schedule leaves out of all epochs, and how it is done afterwards."""
        epochs = range(self.record["recipe"]["epochs"])
        if not plan.feature_methods or any(plan.schedule.features_at(epoch, len(epochs)) for epoch in epochs):
            return
        needed = "" if self.data.val else " (on a val, which this run has not: train with --holdout, or bring one)"
        say(
            f"note: the plan's feature policies ({', '.join(plan.feature_methods)}) do not act in training, by its schedule: they"
            f" are for the head step{needed}: `diversify diagnose --weights {out / 'model.safetensors'} --out D`, then"
            f" `diversify remedy D --plan {out / 'plan.json'} --out R`"
        )


def read_plan(path: Path) -> Plan:
    """The plan in a file."""
    return Plan.from_dict(atomic.read_json(path, "--plan"))


def _fitted(plan: Plan, data: Data, present: Tensor) -> Plan:
    """The plan for the training images of this data, or an InputError where it is one of other classes."""
    names = tuple(one.name for one in plan.classes)
    if len(names) != data.num_classes:
        raise must("--plan", f"have the {data.num_classes} classes of {data.spec}", f"{len(names)} classes")
    for name, wanted in zip(names, data.class_names, strict=True):
        if name != wanted:
            raise must("--plan", f"have the classes of {data.spec}, in their order", f"{name!r} for {wanted!r}")
    varied = next((one.name for one in plan.classes if one.image.operations and one.image.probability > 0), None)
    if varied is not None and data.view is None:
        law = "leave images as they are where a data set of your own scales them"
        advice = "let it give images in [0, 1] and pass --mean and --std"
        raise must("--plan", law, f"an image policy of {varied}", advice)
    return plan.for_counts(present)


def _mixes(plan: Plan) -> bool:
    return any(one.mixing.method != "none" and one.mixing.probability > 0 for one in plan.classes)


def _pool(train: Split) -> tuple[Tensor, Tensor] | None:
    """All training images and their labels, to draw partners from, where these fit in memory; else None."""
    first = collate([train.dataset[0]])[0]
    if first.nbytes * len(train) > POOL_BYTES:
        return None
    blocks = torch.arange(len(train)).split(1024)
    images = torch.cat([collate([train.dataset[row] for row in block.tolist()])[0] for block in blocks])
    return images, train.labels


@alone
def train_run(
    data_options: DataOptions,
    *,
    model: str,
    method: str | None = None,
    plan: Path | None = None,
    adapt: str = "none",
    recipe: Recipe,
    notes: Sequence[str] = (),
    out: Path,
    augment: str = "auto",
    workers: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    say: Say,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a network and leave `model.safetensors`, `metrics.jsonl`, `state/`, `run.json` in `out`; returns the record.

    With a plan also `plan.json`, as it was used: where the training images are others in number than those it was made for,
    with draws that follow them (`Plan.for_counts`). `adapt` "hits" lets its strengths follow the training hits
    (`AdaptivePlan`); the plan at the end is then `plan_adapted` of the record. `notes` are said beside what is trained.

    Under a launcher of several processes (torchrun, accelerate) the first one checks, writes and speaks.
    """
    if method is not None and plan is not None:
        raise must("--plan and --method", "not be given together", f"--plan {plan} and --method {method}")
    if method is not None and method not in METHODS:
        raise unknown("--method", method, METHODS)
    if adapt not in ADAPTATIONS:
        raise unknown("--adapt", adapt, ADAPTATIONS)
    if adapt != "none" and plan is None:
        raise must("--adapt", "be given with --plan", adapt)
    given = None if plan is None else read_plan(plan)
    first = is_first()
    state = out / "state" / "state.safetensors"
    begun = unfinished(out, "train")
    if first and begun and not overwrite and not resume:
        raise must("out", "be new or empty", out, "pass resume=True to resume the run in it, or overwrite=True")
    if first:
        read = [plan] if plan is not None and not resume else []
        staging.ensure_available(out, overwrite or resume, owned=OWNED, inputs=[*data_options.inputs(), *read])
    if resume and not state.exists() and not begun:
        raise must("--resume", "find the state of an earlier run", f"none in {out}", "leave --resume out to start one")
    goes_on = resume and state.exists()  # a run that was stopped in its first epoch begins again
    run = _Training.prepared(
        data_options,
        model,
        method or ("ce" if given is None else "plan"),
        given,
        adapt,
        recipe,
        augment,
        progress if first else None,
    )
    data, view, record = run.data, run.view, run.record
    if goes_on:
        run.take_up_plan(out)
    ingredients = run.ingredients(recipe)
    identity = run.identity_of(state, recipe) if goes_on else run.identity()
    if first:
        run.look_for_copies(progress)
        run.describe(say, out, notes)
        if goes_on:
            record["started"] = atomic.read_json(out / "run.json", "run.json").get("started", record["started"])
        else:
            staging.clear(out, owned=OWNED)
        atomic.write_json(out / "run.json", record)  # the folder is known as a run from now on
        if run.plan is not None:
            atomic.write_text(out / "plan.json", run.plan.to_json())
    epochs = fit(
        run.network,
        data.train.dataset,
        recipe=recipe,
        num_classes=data.num_classes,
        ingredients=ingredients,
        val=make_loader(data.val, view, workers=workers) if data.val else None,
        collate=collate,
        prepare=view.normalize if view else None,
        workers=workers,
        state=state,
        identity=identity,
        progress=None if progress is None or not first else partial(progress, "training"),
    )
    history = []
    try:
        for epoch in epochs:
            history.append(dataclasses.asdict(epoch))
            if first:
                atomic.write_jsonl(out / "metrics.jsonl", history)
    except Exception:
        if first and not state.exists():
            staging.clear(out, owned=OWNED)
        raise
    weights = out / "model.safetensors"
    record |= {
        **provenance.origin(next(run.network.parameters()).device),
        "finished": True,
        "seconds": sum(line["seconds"] for line in history),
        "balanced_accuracy_val": history[-1]["balanced_accuracy_val"],
    }
    if isinstance(ingredients.adapt, AdaptivePlan):
        record["plan_adapted"] = ingredients.adapt.plan.to_dict()
    if first:
        atomic.write_tensors(weights, run.network.state_dict())
        record["weights"] = {"path": weights.name, "sha256": digests.sha256(weights)}
        atomic.write_json(out / "run.json", record)
    return record
