"""Held-out images in the head step, over 0 to 100 of them a class: `benchmarks/results/unseen_rows.jsonl`.

    python -m benchmarks.unseen_rows --root DATA --banks DIR [--workers 2] [--half development|confirmation]

Small networks are trained with cross entropy on long-tailed Fashion-MNIST and CIFAR-10, each with other classes in the tail. Their
features are kept in `--banks`, and a record that is there is not made again, so the same command goes on where it was stopped.

*Unseen rows* are features of training images that the long tail leaves out: neither the network nor the test set holds them. Every
method gets the same rows, and uses them in its own way: a slope in log n, a bias per class, a temperature, a plan from a diagnosis,
or as rows of the head step. Scores are read on the test set. Options of the library were settled on the tail orders of the first
half (`development`); those of the second (`confirmation`) are read once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor, nn

from benchmarks.in_memory import InMemory
from diversify.data.imbalance import Imbalance, imbalance_indices
from diversify.diagnosis.measure import diagnose, usual_top_k
from diversify.diagnosis.result import Diagnosis
from diversify.files import atomic
from diversify.functional import counts, draws
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead, read_head
from diversify.network.split import split_head
from diversify.network.wrappers import evaluating
from diversify.plan.make import make_plan
from diversify.plan.plan import Plan
from diversify.repair.candidate import even_plan, evened
from diversify.repair.fitted import ROUNDS, bias_fitted, slope_fitted
from diversify.repair.post_hoc import adjust_logits, log_prior_of
from diversify.repair.refit import refit_head
from diversify.repair.retrain import DEFAULT, HeadRecipe, retrain_with
from diversify.repair.unseen import SHARE
from diversify.runtime import provenance
from diversify.training.recipe import Recipe
from diversify.training.resident import ResidentImages, features_of, fit_resident

RESULTS = Path(__file__).parent / "results" / "unseen_rows.jsonl"
ROWS = (0, 1, 3, 10, 30, 100)  # unseen rows of a class
HALVES = ("development", "confirmation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Set:
    """A long-tailed data set and how networks are trained on it."""

    data: str
    imbalance: str
    epochs: int
    orders: int  # tail orders 0, 1, ...; the first half is for development
    batch_size: int = 128
    added: int = 0  # more tail orders after the first ones, halved in the same way


SETS = (
    Set(data="fashion-mnist", imbalance="exp:100:1000", epochs=15, orders=8),
    Set(data="cifar10", imbalance="exp:100:2000", epochs=15, orders=8),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bank:
    """The features of a network: of its training images, of images that nothing has seen, and of the test set."""

    data: str
    tail_order: int
    half: str
    head: LinearHead
    train: Embeddings
    unseen: Embeddings
    test: Embeddings

    @property
    def log_prior(self) -> Tensor:
        """`(C,)` logarithm of the shares of the training images."""
        return log_prior_of(counts.class_counts(self.train.labels, self.train.num_classes))

    def first(self, rows: int) -> Embeddings:
        """Return the first unseen rows of every class."""
        labels = self.unseen.labels
        taken = torch.cat([(labels == c).nonzero()[:rows, 0] for c in range(self.unseen.num_classes)])
        return self.unseen.select(taken)


def network(channels: int) -> nn.Module:
    """Return an untrained network of three convolutions, of which two halve the image, and a linear head on 64 features."""

    def convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *convolution(channels, 32, 2),
        *convolution(32, 64, 2),
        *convolution(64, 64, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def half_of(one: Set, order: int) -> str:
    """Return which half a tail order belongs to."""
    place, size = (order, one.orders) if order < one.orders else (order - one.orders, one.added)
    return HALVES[int(place >= size // 2)]


def _shuffled(labels: Tensor, rows: Tensor, size: int) -> Tensor:
    """Return `size` of the rows of every class, in an order of their own."""
    order = rows[draws.permutation(len(rows), "unseen rows", 0)]
    return torch.cat([order[labels[order] == c][:size] for c in range(int(labels.max()) + 1)])


def bank_name(one: Set, order: int) -> str:
    """Return the file name of a bank."""
    return f"{one.data}-{one.imbalance.replace(':', '_')}-{one.epochs}-{order}.safetensors"


def make_bank(
    one: Set, order: int, path: Path, *, root: Path, epochs: int | None = None
) -> tuple[nn.Module, ResidentImages, Callable[[Tensor], Tensor]]:
    """Train a network on a long tail and save its features.

    Returns:
        The network, its training images, and what turns images into inputs of the network.
    """
    source = InMemory.read(one.data, root)
    kept = imbalance_indices(source.labels, Imbalance.parse(one.imbalance), str(order))
    unseen = _shuffled(source.labels, source.unused(kept), max(ROWS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(order)
        model = network(source.train.images.shape[1])
    recipe = Recipe(
        epochs=one.epochs if epochs is None else epochs,
        batch_size=one.batch_size,
        schedule="cosine",
        warmup_epochs=1,
        precision="fp32",
        seed=order,
    )
    data = source.side(kept)
    records = list(fit_resident(model, data, recipe=recipe, num_classes=10, prepare=source.prepare))
    split = split_head(model)
    tensors = {"weight": read_head(split.head).weight, "bias": read_head(split.head).bias}
    sides = {"train": data, "unseen": source.side(unseen), "test": source.test}
    with evaluating(model), torch.inference_mode():
        for name, side in sides.items():
            tensors[f"{name}_features"] = features_of(
                split.features, side, prepare=source.prepare, batch_size=500
            ).clone()
            tensors[f"{name}_labels"] = side.labels
    metadata = {"epochs": str(recipe.epochs), "accuracy_train": str(records[-1].accuracy_train)}
    atomic.write_tensors(path, tensors, {"made": json.dumps(metadata)})
    return model, data, source.prepare


def read_bank(one: Set, order: int, path: Path) -> Bank:
    """Return what `make_bank` saved."""
    tensors, _ = atomic.read_tensors(path, "features of a network")
    head = LinearHead(weight=tensors["weight"], bias=tensors["bias"])

    def side(name: str) -> Embeddings:
        features, labels = tensors[f"{name}_features"], tensors[f"{name}_labels"]
        return Embeddings(
            features=features, labels=labels, logits=head.logits(features), indices=torch.arange(len(labels))
        )

    return Bank(
        data=one.data,
        tail_order=order,
        half=half_of(one, order),
        head=head,
        train=side("train"),
        unseen=side("unseen"),
        test=side("test"),
    )


class Heads:
    """The heads that every method makes of a bank and the first unseen rows of each class."""

    def __init__(self, bank: Bank, rows: int, recipe: HeadRecipe = DEFAULT) -> None:
        self.bank, self.rows, self.recipe = bank, rows, recipe
        self.unseen, self.prior = bank.first(rows), bank.log_prior
        self.sizes = counts.class_counts(bank.train.labels, bank.train.num_classes)
        self.names = [str(c) for c in range(len(self.sizes))]
        self._diagnosis: Diagnosis | None = None
        self._trained: dict[tuple[str, bool], LinearHead] = {}

    def plan(self, *, permuted: bool = False) -> Plan:
        """Return the plan from a diagnosis by the unseen rows; without any, one from class sizes."""
        if not self.rows:
            return Plan.from_counts(self.names, self.sizes.tolist())
        if self._diagnosis is None:
            self._diagnosis = diagnose(
                self.bank.train,
                self.unseen,
                head=self.bank.head,
                class_names=self.names,
                top_k=usual_top_k(self.bank.head.num_features),
            )
        found = self._diagnosis.permuted(self.bank.tail_order) if permuted else self._diagnosis
        return make_plan(found)

    def trained(self, plan: Plan, *, unseen: bool) -> LinearHead:
        """Return the head trained further by a plan, with the unseen rows in its batches or without them."""
        rows = self.unseen if unseen and self.rows else None
        key = plan.to_json(), rows is not None
        if key not in self._trained:  # without unseen rows several methods are the same
            self._trained[key] = retrain_with(self.bank.train, self.bank.head, plan, self.recipe, unseen=rows)
        return self._trained[key]

    def alone(self) -> LinearHead:
        """Return the head trained further on nothing but the unseen rows."""
        if not self.rows:
            return self.bank.head
        plan = even_plan(counts.class_counts(self.unseen.labels, len(self.sizes)))
        return retrain_with(self.unseen, self.bank.head, plan, self.recipe)

    def refitted(self, *, unseen: bool = False, share: float | Tensor = SHARE) -> LinearHead:
        """Return the head with the least class-balanced loss, with part of the weight on the unseen rows or without them."""
        rows = self.unseen if unseen and self.rows else None
        return refit_head(self.bank.train, self.bank.head, unseen=rows, unseen_share=share)

    def biased(self, *, temperature: bool = False, rounds: int = 0, permuted: bool = False) -> LinearHead:
        """Return the head with a fitted bias per class, or with the biases of other classes on top of the fitted slope."""
        made = bias_fitted(
            self.unseen, self.bank.head, self.prior, temperature=temperature, rounds=tuple(range(rounds + 1))
        )[-1]
        if not permuted:
            return made
        base = slope_fitted(self.unseen, self.bank.head, self.prior)
        turn = draws.permutation(len(self.sizes), "permuted offsets", self.bank.tail_order)
        other = torch.empty_like(turn)
        other[turn] = turn.roll(1)  # one cycle, so that no class keeps its own
        return dataclasses.replace(base, bias=base.bias + (made.bias - base.bias)[other])


DIAL = ROUNDS[3]
METHODS: Mapping[str, tuple[str, Callable[[Heads], LinearHead]]] = {
    "untouched": ("the head as trained", lambda heads: heads.bank.head),
    "logit adjustment": ("tau 1", lambda heads: adjust_logits(heads.bank.head, heads.prior, 1.0)),
    "fitted slope": (
        "tau fitted by likelihood",
        lambda heads: slope_fitted(heads.unseen, heads.bank.head, heads.prior),
    ),
    "fitted bias": ("a bias per class besides", lambda heads: heads.biased()),
    "temperature + bias": ("and a temperature", lambda heads: heads.biased(temperature=True)),
    "worst-class offsets": (
        f"biases moved to the worst classes, {DIAL} rounds",
        lambda heads: heads.biased(rounds=DIAL),
    ),
    "permuted offsets": (
        "the same biases on other classes",
        lambda heads: heads.biased(rounds=DIAL, permuted=True),
    ),
    "even draws": (
        "training rows, classes drawn equally",
        lambda heads: heads.trained(even_plan(heads.sizes), unseen=False),
    ),
    "plan": ("training rows, drawn and augmented by the plan", lambda heads: heads.trained(heads.plan(), unseen=False)),
    "even draws + unseen": (
        "even draws with unseen rows in every batch",
        lambda heads: heads.trained(even_plan(heads.sizes), unseen=True),
    ),
    "plan from counts + unseen": (
        "a plan that knows only class sizes, with unseen rows",
        lambda heads: heads.trained(Plan.from_counts(heads.names, heads.sizes.tolist()), unseen=True),
    ),
    "permuted plan + unseen": (
        "a plan from a permuted diagnosis, with unseen rows",
        lambda heads: heads.trained(heads.plan(permuted=True), unseen=True),
    ),
    "plan + unseen": ("the plan with unseen rows", lambda heads: heads.trained(heads.plan(), unseen=True)),
    "half-even plan + unseen": (
        "the same with draws half way to even ones",
        lambda heads: heads.trained(evened(heads.plan(), 0.5), unseen=True),
    ),
    "unseen alone": ("nothing but unseen rows", lambda heads: heads.alone()),
    "logistic regression": ("training rows, every class with the same weight", lambda heads: heads.refitted()),
    "logistic regression + unseen": (
        "the same with part of the weight on unseen rows",
        lambda heads: heads.refitted(unseen=True),
    ),
}
SAME_FOR_ALL = ("untouched", "logit adjustment", "even draws", "logistic regression")  # they use no unseen row
OURS = "plan + unseen"


def scores(bank: Bank, head: LinearHead) -> dict[str, Any]:
    """Return what a head is worth on the test set."""
    return recall_scores(head.logits(bank.test.features).argmax(1), bank.test.labels, bank.test.num_classes)


def recall_scores(predictions: Tensor, labels: Tensor, num_classes: int) -> dict[str, Any]:
    """Return the recall of every class, its mean, the lowest, and the mean of the lowest third."""
    recall = counts.class_mean((predictions == labels).double(), labels, num_classes)
    lowest = recall.sort().values
    return {
        "balanced_accuracy": float(recall.mean()),
        "worst": float(lowest[0]),
        "worst_third": float(lowest[: len(lowest) // 3].mean()),
        "recall": [round(value, 4) for value in recall.tolist()],
    }


def run(bank: Bank, done: set[tuple[str, int]], recipe: HeadRecipe = DEFAULT) -> Iterator[dict[str, Any]]:
    """Yield the record of each method and number of unseen rows that is not done."""
    for rows in ROWS:
        heads = Heads(bank, rows, recipe)
        for name, (_, make) in METHODS.items():
            if (name, rows) in done or (rows and name in SAME_FOR_ALL):
                continue
            begun, started = provenance.now(), time.perf_counter()
            found = scores(bank, make(heads))
            yield {
                "kind": "final",
                "suite": "unseen_rows",
                "data": bank.data,
                "tail_order": bank.tail_order,
                "half": bank.half,
                "method": name,
                "rows": rows,
                **found,
                "seconds": round(time.perf_counter() - started, 3),
                "started": begun,
                **provenance.origin(torch.device("cpu")),
            }


def _assignment(task: tuple[int, int], *, root: Path, banks: Path, results: Path) -> str:
    """Make what is missing of one network: its bank, and its records."""
    torch.set_num_threads(1)
    one, order = SETS[task[0]], task[1]
    path = banks / bank_name(one, order)
    if not path.exists():
        make_bank(one, order, path, root=root)
    done = {
        (str(record["method"]), int(record["rows"]))
        for record in _records(results)
        if (record["data"], record["tail_order"]) == (one.data, order)
    }
    made = 0
    for record in run(read_bank(one, order, path), done):
        atomic.append_jsonl(results, record)
        made += 1
    return f"{one.data}, tail order {order} ({half_of(one, order)}): {made} records"


def _records(path: Path | None = None) -> list[dict[str, Any]]:
    path = RESULTS if path is None else path
    return [dict(one) for one in atomic.read_jsonl(path)] if path.exists() else []


def _interval(values: Sequence[float], places: int = 1, sign: str = "") -> str:
    """Return the mean with the half width of its 95% t interval over networks."""
    if len(values) < 2:
        return f"{mean(values):{sign}.{places}f}"
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):{sign}.{places}f} ± {half:.{places}f}"


def _by_network(half: str) -> dict[tuple[str, int], dict[tuple[str, int], dict[str, float]]]:
    """Return the scores in percent, by method and rows, then by network."""
    found: dict[tuple[str, int], dict[tuple[str, int], dict[str, float]]] = {}
    for one in _records():
        if one["half"] != half:
            continue
        values = {name: 100 * float(one[name]) for name in ("balanced_accuracy", "worst", "worst_third")}
        every = ROWS if one["method"] in SAME_FOR_ALL else (int(one["rows"]),)
        for rows in every:
            found.setdefault((str(one["method"]), rows), {})[str(one["data"]), int(one["tail_order"])] = values
    return found


def curve_table(half: str = HALVES[1], score: str = "balanced_accuracy") -> str:
    """Return a score of every method over the number of unseen rows a class."""
    found = _by_network(half)
    if not found:
        return "No records yet."
    lines = [
        f"| method | {' | '.join(f'{rows} rows' for rows in ROWS)} |",
        f"|:--|{'--:|' * len(ROWS)}",
    ]
    for name in METHODS:
        cells = []
        for rows in ROWS:
            networks = found.get((name, rows), {})
            cells.append(_interval([values[score] for values in networks.values()]) if networks else "–")
        title = f"**`{name}`**" if name == OURS else f"`{name}`"
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def difference_table(half: str = HALVES[1], rows: int = 30) -> str:
    """Return how far each method is ahead of the fitted slope given the same rows, on the same networks."""
    found = _by_network(half)
    base = found.get(("fitted slope", rows), {})
    if not base:
        return "No records yet."
    titles = ("balanced accuracy", "worst class", "worst third", "networks ahead, worst class")
    lines = [f"| method | {' | '.join(titles)} |", f"|:--|{'--:|' * len(titles)}"]
    for name in METHODS:
        networks = {key: values for key, values in found.get((name, rows), {}).items() if key in base}
        if not networks or name == "fitted slope":
            continue
        cells = [
            _interval([values[score] - base[key][score] for key, values in networks.items()], sign="+")
            for score in ("balanced_accuracy", "worst", "worst_third")
        ]
        ahead = sum(values["worst"] > base[key]["worst"] for key, values in networks.items())
        title = f"**`{name}`**" if name == OURS else f"`{name}`"
        lines.append(f"| {title} | {' | '.join(cells)} | {ahead} of {len(networks)} |")
    return "\n".join(lines)


def text() -> str:
    """Return what the records are of."""
    networks = {(one["half"], one["data"], one["tail_order"]) for one in _records()}
    if not networks:
        return "No records yet."
    halves = {half: sum(one[0] == half for one in networks) for half in HALVES}
    sets = "; ".join(f"{one.data} {one.imbalance}, {one.epochs} epochs" for one in SETS)
    return (
        f"{len(networks)} network{'' if len(networks) == 1 else 's'} (three convolutions, cross entropy; {sets}), each with other classes in the tail:"
        f" {halves['development']} for development, {halves['confirmation']} for confirmation. Means with 95% t intervals over"
        " networks, in percent or points, on the test set; tails of a data set share images, so intervals are rather narrow."
    )


def main() -> None:
    """Make the banks and the records that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--banks", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--half", choices=HALVES, help="only this half; both by default")
    parser.add_argument("--data", choices=[one.data for one in SETS])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.banks.mkdir(parents=True, exist_ok=True)
    tasks = [
        (place, order)
        for place, one in enumerate(SETS)
        for order in range(one.orders)
        if options.half in (None, half_of(one, order)) and options.data in (None, one.data)
    ]
    work = partial(_assignment, root=options.root, banks=options.banks, results=options.out)
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        for line in pool.imap_unordered(work, tasks):
            print(line, flush=True)
    if options.out == RESULTS:
        print(text(), curve_table(), difference_table(), sep="\n\n")


if __name__ == "__main__":
    main()
