"""Weaker augmentation for classes that absorb others' images: `benchmarks/results/absorbing.jsonl`.

    python -m benchmarks.absorbing --root DATA [--workers 2] [--half development|confirmation]

Small networks are trained on long-tailed Fashion-MNIST and CIFAR-10, each with other classes in the tail, by the plan of
`diversify.recipe`, which augments all classes alike. On held-out images this network shows which classes leak (`measure_leak`) and which
classes take images of others as they are. Then the same network is trained again with weaker augmentation for these classes; and as
controls with the same weakening for other classes, and with the mean of it for all classes. Scores are read on the test set. Tail
orders 0 to 2 are for development, 3 to 5 for confirmation and read once. The same command goes on where it was stopped.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks import tails
from benchmarks.in_memory import InMemory
from benchmarks.pairs import one_cycle
from benchmarks.unseen_rows import HALVES, Set, _shuffled, half_of, network, recall_scores
from diversify.augment.draw_key import CropFlip
from diversify.augment.leak import LIMIT, Leak, bounded, measure_leak
from diversify.data.imbalance import Imbalance, imbalance_indices
from diversify.files import atomic
from diversify.functional import counts
from diversify.network.wrappers import evaluating
from diversify.plan.default_recipe import recipe as default_recipe
from diversify.plan.plan import Plan
from diversify.runtime import provenance
from diversify.training.ingredients import Ingredients
from diversify.training.recipe import Recipe
from diversify.training.resident import ResidentImages, fit_resident

RESULTS = Path(__file__).parent / "results" / "absorbing.jsonl"
SETS = (
    Set(data="fashion-mnist", imbalance="exp:100:1000", epochs=20, orders=6),
    Set(data="cifar10", imbalance="exp:100:1000", epochs=20, orders=6, batch_size=64),
)
HELDOUT = 200  # images of every class, to measure on
UNIFORM = "uniform"
ABSORBING, WEAKER = 3, 0.5  # classes that are weakened, and how much of the strength they keep


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """The images of a long tail: for training, held out, and the test set; and what turns them into inputs of the network."""

    train: ResidentImages
    heldout: ResidentImages
    test: ResidentImages
    prepare: Callable[[Tensor], Tensor]


def images_of(one: Set, order: int, root: Path) -> Images:
    """Return the images of a tail order."""
    source = InMemory.read(one.data, root)
    kept = imbalance_indices(source.labels, Imbalance.parse(one.imbalance), str(order))
    return Images(
        train=source.side(kept),
        heldout=source.side(_shuffled(source.labels, source.unused(kept), HELDOUT)),
        test=source.test,
        prepare=source.prepare,
    )


def trained(images: Images, plan: Plan, one: Set, seed: int) -> nn.Module:
    """Return a network trained by a plan."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(images.train.images.shape[1])
    recipe = Recipe(
        epochs=one.epochs, batch_size=one.batch_size, schedule="cosine", warmup_epochs=1, precision="fp32", seed=seed
    )
    ingredients = Ingredients.from_plan(
        plan,
        images.train.labels,
        seed=seed,
        epochs=one.epochs,
        base=CropFlip(padding=2, mirror=True),
        pool=(images.train.images, images.train.labels),
    )
    run = fit_resident(
        model,
        images.train,
        recipe=recipe,
        num_classes=plan.num_classes,
        ingredients=ingredients,
        prepare=images.prepare,
    )
    for _ in run:
        pass
    return model


def predicted(model: nn.Module, images: Images, side: ResidentImages) -> Tensor:
    """Return the predicted classes `(N,)`."""
    with evaluating(model), torch.inference_mode():
        return torch.cat([model(images.prepare(some)).argmax(1) for some in side.images.split(500)])


def absorbed(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the share of the images of other classes that are predicted as each class, `(C,)`."""
    taken = counts.class_counts(predictions[predictions != labels], num_classes).double()
    return taken / (len(labels) - counts.class_counts(labels, num_classes))


def leak_of(model: nn.Module, images: Images, plan: Plan) -> Leak:
    """Return the leak of each class's image policy on held-out images."""
    heldout = TensorDataset(images.heldout.images, images.heldout.labels)
    return measure_leak(model, plan, heldout, prepare=images.prepare)


def strengths_of(plan: Plan) -> Tensor:
    """Return the image strength of every class, `(C,)` float64."""
    return torch.tensor([one.image.strength for one in plan.classes], dtype=torch.float64)


def with_strengths(plan: Plan, strengths: Tensor) -> Plan:
    """Return the plan with other image strengths."""
    classes = tuple(
        one.model_copy(update={"image": one.image.model_copy(update={"strength": round(value, 4)})})
        for one, value in zip(plan.classes, strengths.tolist(), strict=True)
    )
    return plan.model_copy(update={"classes": classes})


def weaker_by_leak(plan: Plan, leak: Leak, taken: Tensor) -> Tensor:
    """Return the strengths of the plan that `bounded` makes, `(C,)`."""
    return strengths_of(bounded(plan, leak))


def weaker_by_absorption(plan: Plan, leak: Leak, taken: Tensor) -> Tensor:
    """Return half the strength for the classes that take most images of others, and the same for the rest, `(C,)`."""
    strengths = strengths_of(plan)
    most = taken.argsort(descending=True)[:ABSORBING]
    strengths[most] *= WEAKER
    return strengths


RULES: Mapping[str, tuple[str, Callable[[Plan, Leak, Tensor], Tensor]]] = {
    "leak": ("classes that leak, as `bounded` weakens them", weaker_by_leak),
    "absorption": (
        f"the {ABSORBING} classes that take most images of others, at {WEAKER:g} of the strength",
        weaker_by_absorption,
    ),
}
KINDS: Mapping[str, tuple[str, Callable[[Tensor, int], Tensor]]] = {
    "measured": ("", lambda strengths, order: strengths),
    "other classes": (
        "as much for other classes",
        lambda strengths, order: strengths[one_cycle(len(strengths), "absorbing", order)],
    ),
    "alike": ("the mean for all classes", lambda strengths, order: strengths.mean().expand(len(strengths))),
}
MEASURED, *CONTROLS = KINDS
CELLS = ((UNIFORM, ""), *((rule, kind) for rule in RULES for kind in KINDS))


class Trainings:
    """The trainings of one tail order: the uniform plan first, which says what the others weaken."""

    def __init__(self, one: Set, order: int, root: Path) -> None:
        self.one, self.order = one, order
        self.images = images_of(one, order, root)
        sizes = counts.class_counts(self.images.train.labels, 10)
        self.plan = default_recipe([str(c) for c in range(10)], sizes)
        self._found: dict[tuple[float, ...], dict[str, Any]] = {}
        self.leak: Leak | None = None
        self.taken = torch.zeros(0)

    def plan_of(self, rule: str, kind: str) -> Plan:
        """Return the plan of a cell."""
        if rule == UNIFORM:
            return self.plan
        self._measure()
        assert self.leak is not None
        return with_strengths(self.plan, KINDS[kind][1](RULES[rule][1](self.plan, self.leak, self.taken), self.order))

    def scored(self, plan: Plan) -> dict[str, Any]:
        """Return the scores of the network of a plan on the test set; plans with the same strengths are trained once."""
        key = tuple(strengths_of(plan).tolist())
        if key not in self._found:
            self._train(plan)
        return self._found[key]

    def _measure(self) -> None:
        if self.leak is None:
            self.scored(self.plan)

    def _train(self, plan: Plan) -> None:
        model = trained(self.images, plan, self.one, self.order)
        found = recall_scores(predicted(model, self.images, self.images.test), self.images.test.labels, 10)
        self._found[tuple(strengths_of(plan).tolist())] = found
        if self.leak is None:
            heldout = self.images.heldout
            self.leak = leak_of(model, self.images, self.plan)
            self.taken = absorbed(predicted(model, self.images, heldout), heldout.labels, 10)


def run(trainings: Trainings, cells: Sequence[tuple[str, str]] = CELLS) -> Iterator[dict[str, Any]]:
    """Yield the record of each cell."""
    for rule, kind in cells:
        begun, started = provenance.now(), time.perf_counter()
        plan = trainings.plan_of(rule, kind)
        found = trainings.scored(plan)
        assert trainings.leak is not None
        yield {
            "kind": "final",
            "suite": "absorbing",
            "data": trainings.one.data,
            "tail_order": trainings.order,
            "half": half_of(trainings.one, trainings.order),
            "method": rule,
            "classes": kind,
            "strengths": strengths_of(plan).tolist(),
            "leak": [round(value, 4) for value in trainings.leak.leak.tolist()],
            "leak_low": [round(value, 4) for value in trainings.leak.leak_low.tolist()],
            "absorbed": [round(value, 4) for value in trainings.taken.tolist()],
            "heldout": HELDOUT,
            **found,
            "seconds": round(time.perf_counter() - started, 3),
            "started": begun,
            **provenance.origin(torch.device("cpu")),
        }


def _network(task: tuple[int, int], *, root: Path, results: Path) -> str:
    torch.set_num_threads(1)
    one, order = SETS[task[0]], task[1]
    known = [each for each in tails.records_in(results) if (each["data"], each["tail_order"]) == (one.data, order)]
    done = {(str(each["method"]), str(each["classes"])) for each in known}
    missing = [cell for cell in CELLS if cell not in done]
    if missing:
        for record in run(Trainings(one, order, root), missing):
            atomic.append_jsonl(results, record)
    return f"{one.data}, tail order {order} ({half_of(one, order)}): {len(missing)} records"


def table(half: str = HALVES[1]) -> str:
    """Return how far weaker augmentation is ahead of the uniform plan, and of the same for other classes or for all."""
    found: dict[tuple[str, str], dict[tails.Network, dict[str, float]]] = {}
    for one in tails.records_in(RESULTS, half):
        key = str(one["method"]), str(one["classes"])
        found.setdefault(key, {})[str(one["data"]), int(one["tail_order"])] = tails.percent(one)
    base = found.get((UNIFORM, ""), {})
    if not base:
        return "No records yet."
    titles = list(tails.SCORES.values())
    lines = [f"| weaker augmentation for | against | {' | '.join(titles)} |", f"|:--|:--|{'--:|' * len(titles)}"]
    lines.append(f"| none: the uniform plan | – | {' | '.join(tails.means(base))} |")
    for rule, (meaning, _) in RULES.items():
        ours = found.get((rule, MEASURED), {})
        if not ours:
            continue
        lines.append(f"| {meaning} | the uniform plan | {' | '.join(tails.differences(ours, base))} |")
        for kind in CONTROLS:
            control = found.get((rule, kind), {})
            lines.append(f"| | {KINDS[kind][0]} | {' | '.join(tails.differences(ours, control))} |")
    return "\n".join(lines)


def text() -> str:
    """Return what the records are of, and how much the uniform plan leaks."""
    records = tails.records_in(RESULTS)
    if not records:
        return "No records yet."
    uniform = [one for one in records if one["method"] == UNIFORM]
    beyond = sum(low > LIMIT for one in uniform for low in one["leak_low"])
    classes = sum(len(one["leak_low"]) for one in uniform)
    sets = "; ".join(f"{one.data} {one.imbalance}, {one.epochs} epochs" for one in SETS)
    return (
        f"{tails.networks_text(records)} Three convolutions; {sets}. Points with 95% t intervals over networks, on the test set. The first line"
        f" has the scores of the uniform plan in percent; the others are differences of the same networks. With the uniform plan {beyond} of"
        f" {classes} classes leak by more than {100 * LIMIT:g} points beyond doubt, on {HELDOUT} held-out images of each class."
    )


def main() -> None:
    """Make the records that are missing."""
    chosen = tails.options(__doc__, SETS, RESULTS, banks=False)
    tails.every_network(_network, SETS, chosen)
    if chosen.out == RESULTS:
        print(text(), table(), sep="\n\n")


if __name__ == "__main__":
    main()
