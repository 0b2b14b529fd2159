"""The `train` command."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
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
from ..runtime import launched, provenance
from ..runtime.launched import is_first
from ..runtime.progress import Progress, Say, StageProgress, stage
from ..training.ingredients import Ingredients
from ..training.loop import fit, require_resumable
from ..training.recipe import Recipe
from .folders import OWNED, SCHEMA_VERSION, alone, unfinished
from .options import DataOptions, augmentation_of, channels_of, fit_channels

METHODS = ("ce",)
ADAPTATIONS = ("none", "hits")
AT_CHANCE = (
    "that is hardly better than guessing, and a diagnosis of this network would say little; try more epochs, another learning rate or a"
    " smaller batch, or start from a pretrained network: `diversify probe`"
)
POOL_BYTES = 1 << 29  # most bytes of training images to hold in memory as partners for mixing


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Training:
    """A training run: its data, network, plan and record, and the steps that it takes."""

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
        progress: StageProgress | None = None,
    ) -> _Training:
        """Load the data and build the network."""
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
        """The digest by which a run is resumed: of the images, their preprocessing, the model, the method and the plan."""
        names = ("data", "files", "view", "model", "augmentation", "method")
        return digests.digest_json([*(self.record[name] for name in names), *self.planned()])

    def planned(self) -> tuple[str, ...]:
        """The digest of the plan as it is used, and whether it is adapted; empty without a plan."""
        recorded = self.record.get("plan")
        return () if recorded is None else (recorded["digest"], recorded["adapt"])

    def earlier_identity(self) -> str:
        """The `identity` of runs from before it included the content of the images; their states can still be resumed."""
        data = copy.deepcopy(self.record["data"])
        for split in data["splits"].values():
            del split["content"]
        return digests.digest_json([data, *(self.record[name] for name in ("view", "model", "augmentation", "method"))])

    def identity_of(self, state: Path, recipe: Recipe) -> str:
        """The identity under which `state` can be resumed by this run.

        Raises:
            InputError: It is the state of another run.
        """
        try:
            require_resumable(state, recipe=recipe, identity=self.earlier_identity())
        except InputError:
            require_resumable(state, recipe=recipe, identity=self.identity())
            return self.identity()
        return self.earlier_identity()

    def ingredients(self, recipe: Recipe) -> Ingredients:
        """The ingredients of the training loop, from the plan if there is one."""
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

    def take_recorded_plan(self, out: Path) -> None:
        """Take over the plan's record from the run in `out`, which is resumed.

        Raises:
            InputError: That run was trained with another plan, or without one.
        """
        before = atomic.read_json(out / "run.json", "run.json").get("plan")
        kept = () if before is None else (before["digest"], before["adapt"])
        if kept != self.planned():
            law = (
                f"stay {out / 'plan.json'} with adapt={before['adapt']}" if before else "be left out, as it was before"
            )
            got = "none" if self.plan is None else f"another plan, or adapt {self.record['plan']['adapt']}"
            raise must("plan of a resumed run", law, got, "start a new run")
        if before is not None:
            self.record["plan"] = before

    def look_for_copies(self, progress: StageProgress | None) -> None:
        """Record the number of validation images that are also in train."""
        if self.data.val is not None:
            found = find_duplicates(self.data.train, self.data.val, progress)
            self.record["duplicates"] = found.record("val", len(self.data.val))

    def describe(self, say: Say, out: Path, notes: Sequence[str] = ()) -> None:
        """Say which data, preprocessing, plan and model are used.

        Args:
            say: Called with each line.
            out: The folder of the run.
            notes: Further lines, about the recipe.
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
        """Say where the plan comes from, and how it was adjusted to this data."""
        recorded, made_for = self.record["plan"], self.record["plan"]["made_for_counts"]
        adapted = "; its strengths adapt to the accuracy on training images" if recorded["adapt"] == "hits" else ""
        say(f"plan: made from {recorded['made_from']}{adapted}")
        have = self.record["data"]["class_counts"]
        if made_for != have:
            say(
                f"note: the plan was made for {sum(made_for)} training images and is applied to {sum(have)}: its draws and"
                " its class prior are adjusted to these"
            )

    def describe_head_step(self, plan: Plan, say: Say, out: Path) -> None:
        """Say which feature policies the schedule keeps out of every epoch, and how to apply them afterwards."""
        epochs = range(self.record["recipe"]["epochs"])
        if not plan.feature_methods or any(plan.schedule.features_at(epoch, len(epochs)) for epoch in epochs):
            return
        needed = "" if self.data.val else " (this run has no validation set: bring one, or train with a holdout)"
        say(
            f"note: by the plan's schedule its feature policies ({', '.join(plan.feature_methods)}) do not act in training;"
            f" to apply them, run diagnose on {out / 'model.safetensors'}{needed}, then remedy with the plan {out / 'plan.json'}"
        )

    def begin(self, out: Path, *, resumed: bool) -> None:
        """Write the record and the plan to `out`, which is known as the folder of a run from then on."""
        if resumed:
            earlier = atomic.read_json(out / "run.json", "run.json")
            self.record["started"] = earlier.get("started", self.record["started"])
        else:
            staging.clear(out, owned=OWNED)
        atomic.write_json(out / "run.json", self.record)
        if self.plan is not None:
            atomic.write_text(out / "plan.json", self.plan.to_json())

    def fit(
        self,
        recipe: Recipe,
        ingredients: Ingredients,
        *,
        out: Path,
        state: Path,
        identity: str,
        workers: int,
        progress: Progress | None,
    ) -> list[dict[str, Any]]:
        """Train, and write the metrics after each epoch; an error in the first epoch leaves nothing in `out`."""
        data, view, first = self.data, self.view, is_first()
        epochs = fit(
            self.network,
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
            progress=progress,
        )
        history = []
        try:
            launched.meet()  # what an earlier run left is gone
            for epoch in epochs:
                history.append(dataclasses.asdict(epoch))
                if first:
                    atomic.write_jsonl(out / "metrics.jsonl", history)
        except BaseException as error:
            if (
                first
                and not state.exists()
                and (isinstance(error, Exception | SystemExit) or launched.failed_elsewhere())
            ):
                staging.clear(out, owned=OWNED)
            raise
        return history

    def finish(self, out: Path, ingredients: Ingredients, history: Sequence[dict[str, Any]]) -> None:
        """Complete the record, and write it and the weights to `out`."""
        self.record.update(
            provenance.origin(next(self.network.parameters()).device),
            finished=True,
            seconds=sum(line["seconds"] for line in history),
            balanced_accuracy_val=history[-1]["balanced_accuracy_val"],
        )
        if isinstance(ingredients.adapt, AdaptivePlan):
            self.record["plan_adapted"] = ingredients.adapt.plan.to_dict()
        if is_first():
            weights = out / "model.safetensors"
            atomic.write_tensors(weights, self.network.state_dict())
            self.record["weights"] = {"path": weights.name, "sha256": digests.sha256(weights)}
            atomic.write_json(out / "run.json", self.record)


def at_chance(balanced_accuracy: float, num_classes: int) -> bool:
    """Return whether a balanced accuracy is hardly above that of guessing.

    Example:
        >>> at_chance(0.12, 10), at_chance(0.3, 10), at_chance(0.51, 2)
        (True, False, True)
    """
    guessing = 1 / num_classes
    return balanced_accuracy < min(1.5 * guessing, guessing + 0.05 * (1 - guessing))


def read_plan(path: Path) -> Plan:
    """The plan in a JSON file."""
    return Plan.from_dict(atomic.read_json(path, "plan"))


def _fitted(plan: Plan, data: Data, present: Tensor) -> Plan:
    """The plan, adjusted to the training images of this data.

    Raises:
        InputError: It is a plan of other classes, or augments images that are normalised already.
    """
    names = tuple(one.name for one in plan.classes)
    if len(names) != data.num_classes:
        raise must("plan", f"have the {data.num_classes} classes of {data.spec}", f"{len(names)} classes")
    for name, wanted in zip(names, data.class_names, strict=True):
        if name != wanted:
            raise must("plan", f"have the classes of {data.spec}, in their order", f"{name!r} for {wanted!r}")
    augmented = next((one.name for one in plan.classes if one.image.operations and one.image.probability > 0), None)
    if augmented is not None and data.view is None:
        law = "not augment the images of your own data set, which it normalises itself"
        advice = "let it yield images in [0, 1] and pass mean=M and std=S"
        raise must("plan", law, f"an image policy of {augmented}", advice)
    return plan.for_counts(present)


def _mixes(plan: Plan) -> bool:
    return any(one.mixing.method != "none" and one.mixing.probability > 0 for one in plan.classes)


def _pool(train: Split) -> tuple[Tensor, Tensor] | None:
    """All training images and their labels, from which mixing draws partners; None if they take too much memory."""
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
    progress: StageProgress | None = None,
) -> dict[str, Any]:
    """Train a network, and write it to the folder `out`.

    Under a launcher of several processes (torchrun, accelerate), all of them train, each on its slice of every batch, and
    only the first one checks, writes and speaks.

    Args:
        data_options: The data.
        model: The network, for example `resnet32`.
        method: The loss, `ce`; the default without a plan.
        plan: A plan's file. If its class counts differ from the training images', it is adjusted (`Plan.for_counts`).
        adapt: `hits` adapts the plan's strengths to the accuracy on training images (`AdaptivePlan`); `none` does not.
        recipe: Epochs, optimizer and schedule.
        notes: Lines about the recipe, to be said with the description of the run.
        out: Receives `model.safetensors`, `metrics.jsonl`, `state/` and `run.json`; with a plan also `plan.json`, as it
            was used.
        augment: The basic augmentation, one of `AUGMENTATIONS`.
        resume: Resume the run in `out` from its last complete epoch.

    Returns:
        The record that `run.json` holds; with `adapt` its `plan_adapted` is the plan in its final state.

    Raises:
        InputError: An argument is wrong; `out` is then as it was before.
    """
    _require_compatible(method, plan, adapt)
    launched.require_all_of_launcher()
    given = None if plan is None else read_plan(plan)
    first = is_first()
    state = out / "state" / "state.safetensors"
    read = [plan] if plan is not None and not resume else []
    _require_place(out, state, resume=resume, overwrite=overwrite, inputs=[*data_options.inputs(), *read])
    resumed = resume and state.exists()  # a run that was stopped in its first epoch starts again
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
    if resumed:
        run.take_recorded_plan(out)
    ingredients = run.ingredients(recipe)
    identity = run.identity_of(state, recipe) if resumed else run.identity()
    if first:
        run.look_for_copies(progress)
        run.describe(say, out, notes)
    launched.meet()  # a process that cannot begin leaves `out` as it was
    if first:
        run.begin(out, resumed=resumed)
    history = run.fit(
        recipe,
        ingredients,
        out=out,
        state=state,
        identity=identity,
        workers=workers,
        progress=stage(progress, "training") if first else None,
    )
    run.finish(out, ingredients, history)
    return run.record


def _require_compatible(method: str | None, plan: Path | None, adapt: str) -> None:
    """Check the arguments that say how to train, before any file is read."""
    if method is not None and plan is not None:
        raise must("method and plan", "not be given together", f"{method} and {plan}")
    if method is not None and method not in METHODS:
        raise unknown("method", method, METHODS)
    if adapt not in ADAPTATIONS:
        raise unknown("adapt", adapt, ADAPTATIONS)
    if adapt != "none" and plan is None:
        raise must("adapt", "be none without a plan", adapt, "pass plan=FILE")


def _require_place(out: Path, state: Path, *, resume: bool, overwrite: bool, inputs: Sequence[Path]) -> None:
    """Check that the run can be written to `out`, or resumed there."""
    begun = unfinished(out, "train")
    if is_first():
        if begun and not overwrite and not resume:
            raise must("out", "be new or empty", out, "pass resume=True to resume the run in it, or overwrite=True")
        staging.ensure_available(out, overwrite or resume, owned=OWNED, inputs=inputs)
    if resume and not state.exists() and not begun:
        advice = "start a new run without resume=True"
        raise must("resume=True", "find the state of an earlier run", f"none in {out}", advice)
