"""The `demo` command."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..augment.batches import show_policy
from ..augment.leak import Leak, measure_leak
from ..data.imbalance import holdout_indices
from ..data.load import Data, load_data
from ..data.loader import collate, make_loader
from ..diagnosis.measure import diagnose
from ..diagnosis.result import Diagnosis
from ..files import atomic, staging
from ..functional.image_ops import GEOMETRIC
from ..network.extraction import extract
from ..network.linear_head import read_head, write_head
from ..network.split import split_head
from ..network.wrappers import evaluating
from ..plan.make import make_plan
from ..plan.plan import Plan
from ..plan.policies import PriorCorrection
from ..repair.retrain import retrain_head
from ..report.demo import SHOWN_STRENGTHS, Demo, render_demo_html, render_demo_markdown
from ..runtime import provenance
from ..runtime.processes import SideBySide, one_by_one
from ..runtime.progress import Say, StageProgress
from ..study.outcome import TrainingWay, outcome_of
from ..training.loop import evaluate
from ..training.recipe import Recipe
from .diagnose import diagnose_run, load_trained
from .folders import OWNED, SCHEMA_VERSION, alone
from .options import DataOptions
from .remedy import remedy_run
from .train import read_plan, train_run

DEMO_RECIPE = Recipe(epochs=48, batch_size=32, learning_rate=0.05, schedule="cosine", warmup_epochs=3, precision="fp32")
IMBALANCE = "exp:20:40"  # with more images this network recognises 95% of unseen digits under any method: little is left to improve
SEEDS = 5
MODEL = "small_cnn"
_PICTURES = 3  # of a class
_LEAK_REPEATS = 5
WORKERS = 2  # networks trained at a time, each in a process of its own

PLAIN, HEAD, CONTROL, PLANNED = "cross entropy", "head repaired", "balanced softmax", "the plan"
UNSEEN, BOTH = "head repaired, new images", "balanced softmax, new images"
BOTH_DATA = "digits-both.npz"
WAYS = {
    PLAIN: ("Every image once per epoch, without augmentation or reweighting: the network that was diagnosed.", ""),
    HEAD: (
        "The same network; only its last layer is retrained, on the frozen features of the training images, with the draws and"
        " feature augmentation of the plan (dv.retrain_head).",
        "",
    ),
    CONTROL: (
        "Trained from scratch with the log class prior added to the logits in the loss, and nothing else: the baseline that"
        " a plan has to beat.",
        "Ren et al. 2020",
    ),
    PLANNED: (
        "Trained from scratch with the plan that dv.make_plan gives: how often each class is drawn, how its images are"
        " augmented, and the class prior corrected as in balanced softmax. Its feature policies are for the head step.",
        "",
    ),
    UNSEEN: (
        "The head repaired as above, with validation images in half of the draws (dv.retrain_head, unseen=): their features have the"
        " magnitudes that new images have.",
        "Kirichenko et al. 2023",
    ),
    BOTH: (
        "Balanced softmax again, trained from scratch on training and validation images together: the baseline for the head that"
        " is repaired with them.",
        "Ren et al. 2020",
    ),
}
FOLDERS = {PLAIN: "before", HEAD: "head", CONTROL: "balanced", PLANNED: "planned", UNSEEN: "head-unseen", BOTH: "both"}


@alone
def demo_run(
    out: Path, *, seed: int = 0, overwrite: bool = False, say: Say, progress: StageProgress | None = None
) -> tuple[Demo, dict[str, Any]]:
    """Train on long-tailed digits, diagnose on the validation set, plan, repair the head, retrain by the plan, diagnose again.

    Training, plan and repair are done for several training seeds, so that the gains have intervals over seeds. Nothing is
    chosen on the test set, which is evaluated once, at the end, for all networks together.

    Args:
        out: Receives `digits.npz`, `digits-both.npz`, `test.json`, `report.html`, `report.md`, `run.json`, and a folder `seeds/N` for each
            seed with the files of every step.
        seed: The first training seed.
        overwrite: Replace an earlier run in `out`.
        say: Called with a line for each step.
        progress: Called during each step.

    Returns:
        The numbers of the report, and the record that `run.json` holds.

    Raises:
        InputError: `out` cannot be written.
    """
    recipe = dataclasses.replace(DEMO_RECIPE, seed=seed)
    staging.ensure_available(out, overwrite, owned=OWNED)
    with _one_thread():
        return _all_the_way(out, recipe, say, progress)


def _all_the_way(out: Path, recipe: Recipe, say: Say, progress: StageProgress | None) -> tuple[Demo, dict[str, Any]]:
    seed = recipe.seed
    staging.clear(out, owned=OWNED)
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": "demo",
        "finished": False,
        "seed": seed,
        "started": provenance.now(),
        **provenance.origin(torch.device("cpu")),
    }
    atomic.write_json(out / "run.json", record)
    seconds: dict[str, float] = {}
    seeds = range(seed, seed + SEEDS)
    with SideBySide(WORKERS, [__name__]) as work:
        steps = _Steps(out=out, work=work, say=say, progress=progress, seconds=seconds)
        data, before, choice = _up_to_the_plan(steps, recipe, seeds)
    with steps.timed("diagnosis again"):
        after = steps.diagnose(seed, "planned", "diagnosis-after")
        plan = read_plan(steps.folder(seed) / "plan.json")
        leaks = [steps.leak(data, plan, steps.folder(seed) / name) for name in ("before", "planned")]
    with steps.timed("test"):
        ways = [steps.way(data, name, seeds) for name in WAYS]
        labels = data.test.labels if data.test is not None else torch.empty(0)
        outcome = outcome_of(ways, labels, data.num_classes)
    demo = Demo(
        outcome=outcome,
        control=list(WAYS).index(CONTROL),
        planned=list(WAYS).index(PLANNED),
        repaired=list(WAYS).index(HEAD),
        unseen=list(WAYS).index(UNSEEN),
        both=list(WAYS).index(BOTH),
        before=before,
        after=after,
        leak_before=leaks[0],
        leak_after=leaks[1],
        plan=plan,
        varied=_varied(data, plan, seed),
        policy=_in_words(plan),
        choice=choice,
        commands=_commands(out, recipe),
        seconds=seconds,
    )
    record |= {
        "finished": True,
        "model": {"name": MODEL},
        "data": {"spec": data.spec, "imbalance": data.imbalance, "splits": data.record()["splits"]},
        "test_images": len(labels),
        "recipe": dataclasses.asdict(recipe),
        "seeds": list(seeds),
        "balanced_accuracy_val": steps.accuracies,
        "parts": [f"seeds/{one}" for one in seeds],
        "seconds": seconds,
    }
    leaked = {"leak_before": leaks[0].to_dict(), "leak_after": leaks[1].to_dict()}
    atomic.write_json(out / "test.json", {"outcome": outcome.to_dict(), **leaked})
    atomic.write_text(out / "report.html", render_demo_html(demo, record))
    atomic.write_text(out / "report.md", render_demo_markdown(demo, record))
    atomic.write_json(out / "run.json", record)
    return demo, record


def _up_to_the_plan(steps: _Steps, recipe: Recipe, seeds: range) -> tuple[Data, Diagnosis, str]:
    """Take the steps up to the networks trained with the plan; return the data, the first diagnosis and the choice of a head."""
    with steps.timed("data"):
        data = steps.data()
    with steps.timed("training"):
        steps.train([_Training(dataclasses.replace(recipe, seed=one), "before") for one in seeds])
    with steps.timed("diagnosis"):
        before = steps.diagnose(seeds[0], "before", "diagnosis")
    with steps.timed("plan and head"):
        steps.repair(seeds)
    with steps.timed("choice of a head, and training with the plan"):
        choice = steps.remedy_and_train(
            seeds[0],
            [
                _Training(dataclasses.replace(recipe, seed=one), name, plan)
                for one in seeds
                for name, plan in (("balanced", "balanced.json"), ("planned", "plan.json"), ("both", "both.json"))
            ],
        )
    return data, before, choice


@dataclasses.dataclass(frozen=True)
class _Training:
    """A network to train: by which recipe, into which folder of its seed, and by which plan of its seed."""

    recipe: Recipe
    name: str
    plan: str | None = None


@dataclasses.dataclass(frozen=True)
class _Done:
    """What a job found: the line to print, and the accuracy on the validation set or the recommendation in words."""

    name: str
    line: str
    accuracy: float | None = None
    words: str = ""


def _folder(out: Path, seed: int) -> Path:
    return out / "seeds" / str(seed)


def _options(out: Path, name: str = "") -> DataOptions:
    """The data that the networks of a folder are trained on."""
    if name == FOLDERS[BOTH]:
        return DataOptions(spec=f"npz:{out / BOTH_DATA}", holdout=0.0)
    return DataOptions(spec=f"npz:{out / 'digits.npz'}", imbalance=IMBALANCE)


def _prior_corrected(class_names: Sequence[str], counts: Sequence[int]) -> Plan:
    """The plan of balanced softmax."""
    plan = Plan.untouched(class_names, counts)
    return plan.model_copy(update={"prior_correction": PriorCorrection(training=1.0)})


def _network(data: Data, folder: Path) -> nn.Module:
    """Load the trained network of a folder."""
    return load_trained(MODEL, folder / "model.safetensors", data.num_classes, 1)


def _repaired(out: Path, seed: int) -> _Done:
    """Diagnose the network of one seed, write its plan and the control, and retrain its head by the plan."""
    folder, data = _folder(out, seed), _options(out).load(measure_view=True)
    network = _network(data, folder / "before")
    split = split_head(network)
    unseen = data.val if data.val is not None else data.train
    train, heldout = (extract(split, make_loader(part, data.view)) for part in (data.train, unseen))
    diagnosis = diagnose(train, heldout, head=split.head, class_names=data.class_names, seed=seed)
    counts = [int(count) for count in diagnosis["count"].tolist()]
    both = [one + new for one, new in zip(counts, torch.bincount(heldout.labels).tolist(), strict=True)]
    plan = make_plan(diagnosis)
    written = {
        "plan": plan,
        "balanced": _prior_corrected(diagnosis.class_names, counts),
        "both": _prior_corrected(diagnosis.class_names, both),
    }
    for name, one in written.items():
        atomic.write_text(folder / f"{name}.json", one.to_json())
    original = read_head(split.head)
    write_head(split.head, retrain_head(train, original, plan, unseen=heldout, seed=seed))
    atomic.write_tensors(folder / FOLDERS[UNSEEN] / "model.safetensors", split.tensors())
    start = time.monotonic()
    write_head(split.head, retrain_head(train, original, plan, seed=seed))
    seconds = time.monotonic() - start
    atomic.write_tensors(folder / FOLDERS[HEAD] / "model.safetensors", split.tensors())
    recall = evaluate(network, make_loader(unseen, data.view), num_classes=data.num_classes)
    accuracy = float(recall.nanmean())
    rules = [reason.rule for one in plan.classes for reason in one.reasons if reason.measure != "count"]
    fired = ", ".join(f"{rule} ({rules.count(rule)})" for rule in dict.fromkeys(rules)) or "none"
    result = f"{accuracy:.1%} on the validation set, {seconds:.1f} s"
    line = (
        f"plan: seed {seed}, rules that fired, in how many classes: {fired}\n"
        f"head: seed {seed}, retrained by the plan: {result}"
    )
    return _Done("head", line, accuracy)


def _trained(out: Path, training: _Training) -> _Done:
    """Train the network of one seed, with a plan if one is named."""
    recipe, name, plan = training.recipe, training.name, training.plan
    folder = _folder(out, recipe.seed)
    record = train_run(
        _options(out, name),
        model=MODEL,
        plan=None if plan is None else folder / plan,
        recipe=recipe,
        out=folder / name,
        augment="none",
        say=_quiet,
    )
    accuracy = record["balanced_accuracy_val"]
    judged = "no validation set is left" if accuracy is None else f"{accuracy:.1%} on the validation set"
    result = f"{judged}, {record['seconds']:.1f} s"
    return _Done(name, f"train: seed {folder.name}, {_title(name)}: {result}", accuracy)


def _remedied(out: Path, seed: int) -> _Done:
    """Compare repairs of one seed's head on folds of the validation set."""
    folder = _folder(out, seed)
    choice, _ = remedy_run(folder / "diagnosis", out=folder / "remedy", seed=seed, say=_quiet)
    return _Done("remedy", f"remedy: seed {folder.name}: {choice.in_words()}", words=choice.in_words())


@dataclasses.dataclass(kw_only=True)
class _Steps:
    """The steps of the demo in the folder `out`; each runs the command that a user would type."""

    out: Path
    work: SideBySide
    say: Say
    progress: StageProgress | None
    seconds: dict[str, float]
    accuracies: dict[str, list[float]] = dataclasses.field(default_factory=dict)  # on the validation set, by folder

    def folder(self, seed: int) -> Path:
        """The folder of a training seed."""
        return _folder(self.out, seed)

    @property
    def options(self) -> DataOptions:
        """The data options of every step."""
        return _options(self.out)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Record how long a step took."""
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 1)

    def data(self) -> Data:
        """Write scikit-learn's digits to a file with three splits, and load it as every step does."""
        whole = load_data("digits", holdout=0.0)
        parts = [part for part in (whole.train, whole.test) if part is not None]
        images = torch.cat([collate([part.dataset[row] for row in range(len(part))])[0] for part in parts])
        labels = torch.cat([part.labels for part in parts])
        rest, test = holdout_indices(labels, 0.2)
        train, val = (rest[rows] for rows in holdout_indices(labels[rest], 0.25))
        arrays: dict[str, Any] = {"class_names": np.array(whole.class_names)}
        for name, rows in (("train", train), ("val", val), ("test", test)):
            arrays |= {f"{name}_images": images[rows, 0].numpy(), f"{name}_labels": labels[rows].numpy()}
        atomic.write_arrays(self.out / "digits.npz", arrays)
        data = self.options.load(measure_view=True)
        self._write_both(data, test=arrays["test_images"], test_labels=arrays["test_labels"])
        counts = " ".join(map(str, torch.bincount(data.train.labels).tolist()))
        self.say(f"data: digits.npz, {len(data.train)} training images of the long tail ({IMBALANCE}): {counts}")
        self.say(
            f"      {len(val)} validation images, {len(test)} test images for one evaluation at the end; both balanced"
        )
        return data

    def _write_both(self, data: Data, *, test: Any, test_labels: Any) -> None:
        """Write training and validation images as one training set."""
        parts = [part for part in (data.train, data.val) if part is not None]
        images = torch.cat([collate([part.dataset[row] for row in range(len(part))])[0] for part in parts])
        arrays: dict[str, Any] = {
            "class_names": np.array(data.class_names),
            "train_images": images[:, 0].numpy(),
            "train_labels": torch.cat([part.labels for part in parts]).numpy(),
            "test_images": test,
            "test_labels": test_labels,
        }
        atomic.write_arrays(self.out / BOTH_DATA, arrays)

    def train(self, trainings: Sequence[_Training]) -> None:
        """Train networks in this process; the workers are still importing the library."""
        self._keep(
            "training", len(trainings), one_by_one([functools.partial(_trained, self.out, one) for one in trainings])
        )

    def repair(self, seeds: range) -> None:
        """Diagnose the network of each seed, write its plan and the control, and retrain its head by the plan."""
        jobs = [functools.partial(_repaired, self.out, one) for one in seeds]
        self._keep("plan and head", len(jobs), self.work.results(jobs))

    def remedy_and_train(self, seed: int, trainings: Sequence[_Training]) -> str:
        """Compare repairs of one seed's head and train networks at the same time; return the recommendation in words."""
        jobs = [
            functools.partial(_remedied, self.out, seed),
            *(functools.partial(_trained, self.out, one) for one in trainings),
        ]
        return self._keep("choice of a head, and training", len(jobs), self.work.results(jobs))[0].words

    def _keep(self, stage: str, total: int, results: Iterable[_Done]) -> list[_Done]:
        """Print the line of each finished job and keep its accuracy."""
        found = []
        for done in results:
            if done.accuracy is not None:
                self.accuracies.setdefault(done.name, []).append(done.accuracy)
            self.say(done.line)
            found.append(done)
            if self.progress is not None:
                self.progress(stage, len(found), total)
        return found

    def diagnose(self, seed: int, name: str, out: str) -> Diagnosis:
        """Diagnose a network on the validation set."""
        folder = self.folder(seed)
        diagnosis, _ = diagnose_run(
            DataOptions(),
            model=None,
            weights=folder / name / "model.safetensors",
            out=folder / out,
            seed=seed,
            say=_quiet,
            progress=self.progress,
        )
        fragile = [diagnosis.class_names[c] for c, mark in enumerate(diagnosis["fragile"].tolist()) if mark]
        result = f"fragile: {', '.join(fragile)}" if fragile else "no class is fragile"
        self.say(f"diagnose: seed {folder.name}, {_title(name)}: {result}")
        return diagnosis

    def leak(self, data: Data, plan: Plan, folder: Path) -> Leak:
        """Measure whether augmenting validation images makes a network predict the augmented class."""
        network, unseen, view = _network(data, folder), data.val, data.view
        if unseen is None or view is None:
            raise RuntimeError("the demo's data has a validation set and a view")
        return measure_leak(network, plan, unseen.dataset, prepare=view.normalize, repeats=_LEAK_REPEATS)

    def way(self, data: Data, name: str, seeds: range) -> TrainingWay:
        """The test predictions of the networks of one way, one network per seed."""
        folder = FOLDERS[name]
        networks = [_network(data, self.folder(seed) / folder) for seed in seeds]
        right = torch.stack([_right(network, data) for network in networks])
        meaning, source = WAYS[name]
        accuracies = tuple(self.accuracies.get(folder) or [math.nan] * len(seeds))
        return TrainingWay(name=name, meaning=meaning, source=source, balanced_accuracy_val=accuracies, right=right)


def _in_words(plan: Plan) -> str:
    """Describe a plan's image policy: its operations, strength, frequency and mixing."""
    policies = [one.image for one in plan.classes if one.image.amount > 0]
    if not policies:
        return "images as they are"
    kind = "geometric operations" if policies[0].operations == GEOMETRIC else "operations of every kind"
    strengths = [one.strength for one in policies]
    mixed = plan.classes[0].mixing
    beside = f", and {mixed.method} on {mixed.probability:.0%}" if mixed.probability else ""
    often = policies[0].probability
    return f"{kind} at {min(strengths):.2g} to {max(strengths):.2g} on {often:.0%} of the draws{beside}"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run the block on one thread.

    Several threads do not speed up so small a network, and slow it down on a busy machine; one also gives the same numbers
    everywhere.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _quiet(line: str) -> None:
    """Print nothing: each step keeps its lines in its own record."""


def _title(name: str) -> str:
    return next(way for way, folder in FOLDERS.items() if folder == name)


def _right(network: nn.Module, data: Data) -> Tensor:
    """`(N,)` float64: 1 for the test images that a network predicts correctly, else 0."""
    if data.test is None:
        raise RuntimeError("the demo's data has a test split")
    device = next(network.parameters()).device
    found = []
    with evaluating(network), torch.inference_mode():
        for images, labels in make_loader(data.test, data.view):
            found.append((network(images.to(device)).argmax(1).cpu() == labels).double())
    return torch.cat(found)


def _varied(data: Data, plan: Plan, seed: int) -> tuple[Tensor, ...]:
    """Per class `(S, N, C, H, W)`: some of its training images, augmented at growing strengths."""
    shown = []
    for c, one in enumerate(plan.classes):
        rows = (data.train.labels == c).nonzero()[:_PICTURES, 0].tolist()
        images = collate([data.train.dataset[row] for row in rows])[0]
        shown.append(show_policy(images, one.image, SHOWN_STRENGTHS, seed=seed))
    return tuple(shown)


def _commands(out: Path, recipe: Recipe) -> tuple[str, ...]:
    """The command lines that repeat the steps of the first seed, in folders of their own."""

    def place(name: str) -> str:
        return shlex.quote(os.path.normpath(out / name))

    seed = recipe.seed
    mine = f"seeds/{seed}"
    data, both = (shlex.quote(f"npz:{out / name}") for name in ("digits.npz", BOTH_DATA))
    train = f"diversify train --data {data} --imbalance {IMBALANCE}"
    how = (
        f" --model {MODEL} --augment none --epochs {recipe.epochs} --batch-size {recipe.batch_size}"
        f" --learning-rate {recipe.learning_rate:g} --schedule {recipe.schedule}"
        f" --warmup-epochs {recipe.warmup_epochs} --precision {recipe.precision} --seed {seed}"
    )
    diagnose = f"diversify diagnose --seed {seed} --weights"
    again = f"../{out.name}-again"  # beside the demo's folder, which `--overwrite` may replace
    return (
        f"{train}{how} --out {place(f'{again}/before')}",
        f"{diagnose} {place(f'{again}/before/model.safetensors')} --out {place(f'{again}/diagnosis')}",
        f"diversify plan {place(f'{again}/diagnosis')} --out {place(f'{again}/plan.json')}",
        f"diversify remedy {place(f'{again}/diagnosis')} --seed {seed} --out {place(f'{again}/head')}",
        f"{train}{how} --plan {place(f'{mine}/balanced.json')} --out {place(f'{again}/balanced')}",
        f"{train}{how} --plan {place(f'{mine}/plan.json')} --out {place(f'{again}/planned')}",
        f"diversify train --data {both} --holdout 0{how} --plan {place(f'{mine}/both.json')} --out {place(f'{again}/both')}",
        f"{diagnose} {place(f'{again}/planned/model.safetensors')} --out {place(f'{again}/diagnosis-after')}",
    )
