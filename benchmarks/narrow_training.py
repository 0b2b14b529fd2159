"""Training by a plan where classes are narrow, against controls: `benchmarks/results/narrow_training.jsonl`.

    python -m benchmarks.narrow_training --root DATA [--workers 2] [--half development|confirmation]

Small networks are trained on Fashion-MNIST with half of the classes narrow, as in `docs/results/diversity.md`, for 8 epochs instead of
12, and with the usual crop and mirror for every method. Every method has one trial, with its default values. A network that was trained
with cross entropy is diagnosed by held-out images that were drawn from all images of a class; the plans from a diagnosis are made
from it. Plans also retrain the head, half of the way, as in a study. Methods with `+unseen` instead retrain the head of a network with
30 held-out images of each class in the batches; no other method but the plans uses held-out images. Where sizes are equal,
`balanced_softmax` is cross entropy and is left out. Scores are read on the test set.

Narrow classes are neighbours of a few images in even assignments, and bursts of images that are alike in odd ones. Assignments 0 to 3
are for development, 4 to 7 for confirmation. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import tails
from benchmarks.narrow_heads import ASSIGNMENTS, ROWS, NarrowHeads, half_of, turned
from benchmarks.unseen_rows import HALVES, Bank, _interval, scores
from diversify.augment.draw_key import CropFlip
from diversify.data.load import Data
from diversify.data.view import View
from diversify.diagnosis.findings import NARROW
from diversify.diagnosis.measure import diagnose, usual_top_k
from diversify.diagnosis.result import Diagnosis
from diversify.errors import must
from diversify.files import atomic
from diversify.functional import counts
from diversify.network.linear_head import LinearHead
from diversify.plan.default_recipe import recipe
from diversify.plan.make import make_plan
from diversify.plan.plan import Plan
from diversify.repair.candidate import even_plan
from diversify.repair.narrow import drawn_more
from diversify.repair.retrain import retrain_head
from diversify.runtime import provenance
from diversify.study.experiments.diversity_designs import DESIGNS
from diversify.study.experiments.diversity_run import Trained as Network
from diversify.study.experiments.diversity_run import images_of, loaded, some_of, trained_on
from diversify.study.methods import between, from_plan, method_named
from diversify.study.protocol import HeadStep, Method, Parameters, Setting, Trained

RESULTS = Path(__file__).parent / "results" / "narrow_training.jsonl"
DATA = "fashion-mnist"
SIZES = ("equal", "independent")
FORMS = ("neighbours:3", "bursts:10")  # of even and of odd assignments
EPOCHS = 8
HEAD_SHARE = 0.5  # the default of studies
OURS = "plan"

Made = tuple[Network, Setting, Parameters, Any]


class Networks:
    """The networks that the methods train on the images of one assignment."""

    def __init__(self, data: str, sizes: str, form: str, assignment: int, root: Path) -> None:
        self.design, self.assignment = dataclasses.replace(DESIGNS[data], epochs=EPOCHS), assignment
        found = loaded(self.design, sizes, form, assignment, root)
        if found.view is None or found.val is None or found.test is None:
            raise must(f"data {data}", "have a val and a test split", "none")
        self.data: Data = found
        self.view: View = found.view
        self.heldout, self.test = images_of(found.val), some_of(found.test, found.num_classes)
        self._made: dict[str, Made] = {}

    @property
    def narrow(self) -> Tensor:
        """`(C,)` bool: the classes that are narrow."""
        return torch.tensor([c in self.data.narrow_classes for c in range(self.data.num_classes)])

    def setting(self, images: Tensor, labels: Tensor) -> Setting:
        """Return the facts that a method may use."""
        return Setting(
            images=images,
            labels=labels,
            class_counts=counts.class_counts(labels, self.data.num_classes),
            class_names=tuple(map(str, self.data.class_names)),
            epochs=self.design.epochs,
            seed=self.assignment,
            base=CropFlip(padding=min(images.shape[2:]) // 8, mirror=self.data.mirror),
        )

    def trained(self, method: Method) -> tuple[Network, Setting, Parameters]:
        """Train the network of a method with its default values."""
        parameters = {name: one.default for name, one in method.space.items()}

        def ingredients(images: Tensor, labels: Tensor) -> Any:
            return method.ingredients(self.setting(images, labels), parameters)

        made = trained_on(self.design, self.data, self.view, self.assignment, ingredients)
        return made, self.setting(made.images, made.labels), parameters

    def by(self, name: str) -> Made:
        """Return the network of a method by its name, trained once, with what its head step needs."""
        if name not in self._made:
            method = planned(PLANS[name][1](self)) if name in PLANS else method_named(name)
            self._made[name] = (*self.trained(method), method.head_step)
        return self._made[name]

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """The diagnosis of that network by the held-out images."""
        network = self.by("ce")[0]
        return diagnose(
            network.embedded(network.images, network.labels),
            network.embedded(*self.heldout),
            head=network.head,
            class_names=self.data.class_names,
            top_k=usual_top_k(network.head.num_features),
            seed=self.assignment,
        )

    @property
    def called_narrow(self) -> list[bool]:
        """The classes that the diagnosis calls narrow."""
        called = {one.class_index for one in self.diagnosis.findings if one.kind == NARROW}
        return [c in called for c in range(self.data.num_classes)]


def _recipe(networks: Networks) -> Plan:
    return recipe(networks.diagnosis.class_names, networks.diagnosis["count"])


def _narrow_drawn_more(networks: Networks, *, permuted: bool = False) -> Plan:
    """The recipe, with narrow classes drawn twice as often; or as many others."""
    called = torch.tensor(networks.called_narrow)
    return drawn_more(_recipe(networks), turned(called, networks.assignment) if permuted else called)


MakePlan = Callable[[Networks], Plan]
PLANS: Mapping[str, tuple[str, MakePlan]] = {
    "recipe": ("the same images and mixing for all classes", _recipe),
    "recipe, narrow drawn more": ("the same, narrow classes drawn twice as often", _narrow_drawn_more),
    "recipe, others drawn more": (
        "as many other classes drawn twice as often",
        partial(_narrow_drawn_more, permuted=True),
    ),
    "plan_from_counts": (
        "a plan that knows only class sizes",
        lambda one: Plan.from_counts(one.diagnosis.class_names, one.diagnosis["count"]),
    ),
    OURS: ("the plan from the diagnosis", lambda one: make_plan(one.diagnosis)),
    "plan_permuted": (
        "the same with the measures of other classes",
        lambda one: make_plan(one.diagnosis.permuted(one.assignment)),
    ),
}
LOSSES = {
    "ce": "cross entropy",
    "balanced_softmax": "the class prior in the loss",
    "ldam_drw": "margins by class size, classes weighted late",
    "balanced_softmax+images+mix+head": "with the images, mixing and head step of a plan from counts, every class alike",
}
EVEN, MORE, OTHERS = "even draws", "narrow drawn more", "others drawn more"
HEADS: Mapping[str, tuple[str, str, str]] = {  # what it is, the training before it, and the draws
    "ce+unseen": ("cross entropy, then even draws with held-out images", "ce", EVEN),
    "recipe+unseen": ("the recipe, then even draws with held-out images", "recipe", EVEN),
    "recipe+unseen, narrow drawn more": ("the same, narrow classes drawn twice as often", "recipe", MORE),
    "recipe+unseen, others drawn more": ("as many other classes drawn twice as often", "recipe", OTHERS),
}
METHODS = {
    **LOSSES,
    **{name: meaning for name, (meaning, _) in PLANS.items()},
    **{name: meaning for name, (meaning, _, _) in HEADS.items()},
}
CONTROLS = {
    OURS: "plan_permuted",
    "recipe, narrow drawn more": "recipe, others drawn more",
    "recipe+unseen, narrow drawn more": "recipe+unseen, others drawn more",
}


def retrained(bank: Bank, which: str) -> LinearHead:
    """Return the head of a bank after draws with held-out rows in its batches."""
    heads = NarrowHeads(bank, ROWS)
    if which == EVEN:
        return heads.trained(even_plan(heads.sizes), unseen=True)
    return heads.drawn_more(heads.narrow(permuted=which == OTHERS))


def planned(plan: Plan) -> Method:
    """Return the method that trains by a plan and then retrains the head by it, half of the way."""

    def step(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
        new = retrain_head(trained.train, trained.head, plan, seed=setting.seed)
        return HeadStep(head=between(trained.head, new, HEAD_SHARE))

    return Method(
        name="planned",
        meaning="Training by a plan",
        source="this library",
        ingredients=lambda setting, parameters: from_plan(setting, plan),
        head_step=step,
    )


def run(networks: Networks, sizes: str, form: str, methods: Sequence[str] = tuple(METHODS)) -> Iterator[dict[str, Any]]:
    """Yield the record of each method."""
    called = networks.called_narrow
    for name in methods:
        begun, started = provenance.now(), time.perf_counter()
        network, setting, parameters, step = networks.by(HEADS[name][1] if name in HEADS else name)
        bank, head = _bank(networks, network), network.head
        if name in HEADS:
            head = retrained(bank, HEADS[name][2])
        elif step is not None:
            head = step(setting, parameters, Trained(train=bank.train, heldout=None, head=head)).head
        yield {
            "kind": "final",
            "suite": "narrow_training",
            "data": bank.data,
            "sizes": sizes,
            "diversity": form,
            "assignment": networks.assignment,
            "half": bank.half,
            "method": name,
            "epochs": networks.design.epochs,
            "narrow": networks.narrow.tolist(),
            "called_narrow": called,
            **_scored(bank, head, networks.narrow),
            "before_head": scores(bank, network.head)["balanced_accuracy"],
            "seconds": round(time.perf_counter() - started, 3),
            "started": begun,
            **provenance.origin(torch.device("cpu")),
        }


def _bank(networks: Networks, network: Network) -> Bank:
    return Bank(
        data=networks.design.data,
        tail_order=networks.assignment,
        half=half_of(networks.assignment),
        head=network.head,
        train=network.embedded(network.images, network.labels),
        unseen=network.embedded(*networks.heldout),
        test=network.embedded(*networks.test),
    )


def _scored(bank: Bank, head: LinearHead, narrow: Tensor) -> dict[str, Any]:
    """Return the scores of a head on the test set, and the mean recall of narrow classes and of the others."""
    found = scores(bank, head)
    recall = torch.tensor(found["recall"], dtype=torch.float64)
    means = {"narrow_recall": float(recall[narrow].mean()), "wide_recall": float(recall[~narrow].mean())}
    return {**found, **{name: None if math.isnan(value) else value for name, value in means.items()}}


def _cell(task: tuple[str, str, int], *, root: Path, results: Path) -> str:
    torch.set_num_threads(1)
    sizes, form, assignment = task
    done = {str(one["method"]) for one in tails.records_in(results) if _key(one) == task}
    missing = [name for name in METHODS if name not in done and (sizes != "equal" or name != "balanced_softmax")]
    if missing:
        for record in run(Networks(DATA, sizes, form, assignment, root), sizes, form, missing):
            atomic.append_jsonl(results, record)
    return f"sizes {sizes}, {form}, assignment {assignment} ({half_of(assignment)}): {len(missing)} records"


def _key(record: Mapping[str, Any]) -> tuple[str, str, int]:
    return str(record["sizes"]), str(record["diversity"]), int(record["assignment"])


def table(half: str = HALVES[1], sizes: str | None = None) -> str:
    """Return how far each method is ahead of cross entropy, and of its control, on the same images.

    Args:
        half: Which half of the assignments.
        sizes: Class sizes "equal" or "independent"; None for both.
    """
    found: dict[str, dict[Any, dict[str, float]]] = {}
    columns = ("balanced_accuracy", "worst", "narrow_recall", "before_head")
    for one in tails.records_in(RESULTS, half):
        if sizes in (None, one["sizes"]):
            values = {name: 100 * float(one[name]) for name in columns}
            found.setdefault(str(one["method"]), {})[_key(one)] = values
    base = found.get("ce", {})
    if not base:
        return "No records yet."
    titles = (
        "balanced accuracy",
        "worst class",
        "narrow classes",
        "balanced, before the head step",
        "balanced, over its control",
    )
    lines = [f"| method | {' | '.join(titles)} |", f"|:--|{'--:|' * len(titles)}"]
    for name, meaning in METHODS.items():
        cells = {key: values for key, values in found.get(name, {}).items() if key in base}
        if not cells:
            continue
        shown = [
            _interval(
                [values[one] - (0.0 if name == "ce" else base[key][one]) for key, values in cells.items()],
                sign="" if name == "ce" else "+",
            )
            for one in columns
        ]
        control = found.get(CONTROLS.get(name, ""), {})
        lead = [
            values["balanced_accuracy"] - control[key]["balanced_accuracy"]
            for key, values in cells.items()
            if key in control
        ]
        won = f" ({sum(one > 0 for one in lead)} of {len(lead)})"
        shown.append(_interval(lead, sign="+") + won if lead else "–")
        title = f"**`{name}`**" if name == OURS else f"`{name}`"
        lines.append(f"| {title}: {meaning} | {' | '.join(shown)} |")
    return "\n".join(lines)


def text() -> str:
    """Return what the records are of, and what a diagnosis adds to its control."""
    records = tails.records_in(RESULTS)
    networks = {(one["half"], _key(one)) for one in records}
    if not networks:
        return "No records yet."
    halves = {half: sum(one[0] == half for one in networks) for half in HALVES}
    scored: dict[Any, Mapping[str, Any]] = {
        (_key(one), one["method"]): one for one in records if one["half"] == HALVES[1]
    }
    said = ""
    for name, control in CONTROLS.items():
        pairs = [
            [
                100 * (float(one[score]) - float(scored[key, control][score]))
                for score in ("balanced_accuracy", "narrow_recall")
            ]
            for (key, method), one in scored.items()
            if method == name and (key, control) in scored
        ]
        if pairs:
            balanced, narrow = (_interval(list(each), sign="+") for each in zip(*pairs, strict=True))
            said += f" `{name}` is {balanced} points ahead of `{control}`, and {narrow} in narrow classes."
    return (
        f"{len(networks)} training sets of {DATA}: {halves['development']} for development, {halves['confirmation']} for confirmation; every"
        f" method trained on each for {EPOCHS} epochs.{said} Points of balanced accuracy with 95% t intervals over training"
        " sets of the half for confirmation, on the test set."
    )


def main() -> None:
    """Make the records that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--half", choices=HALVES, help="only this half; both by default")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    tasks = [
        (sizes, FORMS[assignment % 2], assignment)
        for assignment in range(ASSIGNMENTS)
        for sizes in SIZES
        if options.half in (None, half_of(assignment))
    ]
    work = partial(_cell, root=options.root, results=options.out)
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        for line in pool.imap_unordered(work, tasks):
            print(line, flush=True)
    if options.out == RESULTS:
        print(text(), table(), sep="\n\n")


if __name__ == "__main__":
    main()
