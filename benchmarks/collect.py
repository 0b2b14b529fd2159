"""Which images to label next, method against method: `benchmarks/results/collect.jsonl`.

    python -m benchmarks.collect --root DATA --banks DIR [--workers 2] [--half development|confirmation]

Small networks are trained on Fashion-MNIST in two settings: `narrow`, with 300 images of every class, which in half of the classes
are those nearest to three; and `tail`, with 1000 down to 10. From a pool of 8,000 other images each method suggests 20, 50, 100 and
200. Their labels are then read, the head is refitted with them, and the test set judges it. All methods get the same network, the
same 100 held-out images of every class, which say how well each class is recognised, and the same refit.

Features are kept in `--banks`, and a record that is there is not made again, so the same command goes on where it was stopped.
Assignments of classes 0 to 2 are for development; 3 and 4 are read once.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

from benchmarks.unseen_rows import network
from diversify.data.diversity import Diversity, choose_images
from diversify.data.images import ImageArray
from diversify.data.imbalance import Imbalance, imbalance_indices
from diversify.data.public import read_source
from diversify.diagnosis.measure import diagnose, usual_top_k
from diversify.errors import must
from diversify.files import atomic
from diversify.functional import counts, draws
from diversify.functional.acquisition import METHODS
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead, read_head
from diversify.network.split import split_head
from diversify.network.wrappers import evaluating
from diversify.plan.suggest_images import DEFAULT, suggest_images
from diversify.runtime import provenance
from diversify.training.recipe import Recipe
from diversify.training.resident import ResidentImages, features_of, fit_resident

RESULTS = Path(__file__).parent / "results" / "collect.jsonl"
DATA = "fashion-mnist"
BUDGETS = (20, 50, 100, 200)
HALVES = ("development", "confirmation")
ASSIGNMENTS = 5
DEVELOPMENT = 3  # of these, the first
POOL, HELDOUT = 8000, 100  # images; held-out images are of each class
EPOCHS = 10
ROUNDS, WEIGHT_DECAY, FEW = 40, 1e-3, 10  # of the refit; new rows of a class have the share k / (k + FEW) of its weight
COMPARED = (*METHODS, "balanced random", "balanced margin")
DRAWN = {"random": 3, "balanced random": 3}  # seeds; of other methods one
SETTINGS = {"narrow": ("exp:1:300", "neighbours:3"), "tail": ("exp:100:1000", "none")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bank:
    """The features of a network: of its training images, held-out images, the pool and the test set.

    `weak` are the classes that are narrow, or the five smallest.
    """

    setting: str
    assignment: int
    weak: tuple[int, ...]
    head: LinearHead
    train: Embeddings
    heldout: Embeddings
    pool: Embeddings
    test: Embeddings

    @property
    def half(self) -> str:
        """Return which half the assignment belongs to."""
        return HALVES[int(self.assignment >= DEVELOPMENT)]


def rows_of(setting: str, assignment: int, images: ImageArray, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return the rows of training, held-out and pool images, and the weak classes."""
    imbalance, form = SETTINGS[setting]
    kept = imbalance_indices(labels, Imbalance.parse(imbalance), str(assignment))
    if form == "none":
        train, weak = kept, counts.class_counts(labels[kept], 10).argsort(stable=True)[:5]
    else:
        chosen = choose_images(images, labels, kept, Diversity.parse(form, 0.5, str(assignment)))
        train, weak = chosen.rows, torch.tensor(chosen.narrow)
    left = torch.ones(len(labels), dtype=torch.bool)
    left[train] = False
    rest = left.nonzero()[:, 0]
    rest = rest[draws.permutation(len(rest), "collect", assignment)]
    heldout = torch.cat([rest[labels[rest] == c][:HELDOUT] for c in range(10)])
    left[heldout] = False
    return {"train": train, "heldout": heldout, "pool": rest[left[rest]][:POOL]}, weak


def make_bank(setting: str, assignment: int, path: Path, *, root: Path) -> None:
    """Train a network and save its features."""
    source = read_source(DATA, root)
    (images, labels), (test, test_labels) = source.splits["train"], source.splits["test"]
    if not isinstance(images, ImageArray) or not isinstance(test, ImageArray) or source.mean is None or not source.std:
        raise must("data", "be images in memory with a mean", DATA)
    rows, weak = rows_of(setting, assignment, images, labels)
    centre, spread = (torch.tensor(values).view(-1, 1, 1) for values in (source.mean, source.std))

    def prepare(batch: Tensor) -> Tensor:
        return (batch.float() / 255 - centre) / spread

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(assignment)
        model = network(images.images.shape[1])
    recipe = Recipe(epochs=EPOCHS, schedule="cosine", warmup_epochs=1, precision="fp32", batch_size=64, seed=assignment)
    sides = {name: ResidentImages(images=images.images[own], labels=labels[own]) for name, own in rows.items()}
    for _ in fit_resident(model, sides["train"], recipe=recipe, num_classes=10, prepare=prepare):
        pass
    sides["test"] = ResidentImages(images=test.images, labels=test_labels)
    split = split_head(model)
    head = read_head(split.head)
    tensors = {"weight": head.weight, "bias": head.bias, "weak": weak}
    with evaluating(model), torch.inference_mode():
        for name, side in sides.items():
            tensors[f"{name}_features"] = features_of(split.features, side, prepare=prepare, batch_size=500).clone()
            tensors[f"{name}_labels"] = side.labels
    atomic.write_tensors(path, tensors)


def read_bank(setting: str, assignment: int, path: Path) -> Bank:
    """Return what `make_bank` saved."""
    tensors, _ = atomic.read_tensors(path, "features of a network")
    head = LinearHead(weight=tensors["weight"], bias=tensors["bias"])
    sides = {
        name: Embeddings.from_arrays(tensors[f"{name}_features"], tensors[f"{name}_labels"], head=head)
        for name in ("train", "heldout", "pool", "test")
    }
    return Bank(setting=setting, assignment=assignment, weak=tuple(tensors["weak"].tolist()), head=head, **sides)


def refitted(head: LinearHead, train: Embeddings, new: Embeddings | None = None) -> LinearHead:
    """Return the head refitted with class-balanced weights; the new rows of a class have the share k / (k + 10) of its weight."""
    rows = train.features if new is None else torch.cat([train.features, new.features])
    labels = train.labels if new is None else torch.cat([train.labels, new.labels])
    old = counts.class_counts(train.labels, train.num_classes).float()
    fresh = torch.zeros_like(old) if new is None else counts.class_counts(new.labels, train.num_classes).float()
    share = torch.where(old > 0, fresh / (fresh + FEW), 1.0)
    each = torch.cat([((1 - share) / old)[train.labels], (share / fresh)[labels[len(train) :]]])
    each = each / each.sum()
    scale = rows.square().mean().sqrt()
    weight, bias = (head.weight * scale).clone().requires_grad_(), head.bias.clone().requires_grad_()
    search = torch.optim.LBFGS([weight, bias], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        losses = torch.nn.functional.cross_entropy(rows / scale @ weight.T + bias, labels, reduction="none")
        loss = (losses * each).sum() + 0.5 * WEIGHT_DECAY * weight.square().sum()
        loss.backward()
        return loss

    search.step(closure)
    return LinearHead(weight=weight.detach() / scale, bias=bias.detach())


def scores(bank: Bank, head: LinearHead) -> dict[str, Any]:
    """Return what a head is worth on the test set."""
    right = (head.logits(bank.test.features).argmax(1) == bank.test.labels).double()
    recall = counts.class_mean(right, bank.test.labels, bank.test.num_classes)
    return {
        "balanced_accuracy": float(recall.mean()),
        "recall_weak": float(recall[list(bank.weak)].mean()),
        "recall": [round(value, 4) for value in recall.tolist()],
    }


def run(bank: Bank, done: set[tuple[str, int, int]]) -> Iterator[dict[str, Any]]:
    """Yield the record of each method, budget and seed that is not done; a budget of 0 is the refit without new images."""
    start = refitted(bank.head, bank.train)
    diagnosis = diagnose(bank.train, bank.heldout, head=bank.head, top_k=usual_top_k(bank.head.num_features))
    tasks = [("none", 0, 0)]
    tasks += [(m, b, s) for m in COMPARED for s in range(DRAWN.get(m, 1)) for b in BUDGETS]
    for method, budget, seed in tasks:
        if (method, budget, seed) in done:
            continue
        begun, started, head, classes = provenance.now(), time.perf_counter(), start, []
        if budget:
            found = suggest_images(
                diagnosis, bank.train, bank.pool, budget=budget, method=method, heldout=bank.heldout, seed=seed
            )
            new = bank.pool.select(found.indices)
            head, classes = refitted(start, bank.train, new), counts.class_counts(new.labels, 10).tolist()
        yield {
            "kind": "final",
            "suite": "collect",
            "data": DATA,
            "setting": bank.setting,
            "assignment": bank.assignment,
            "half": bank.half,
            "weak": list(bank.weak),
            "method": method,
            "budget": budget,
            "method_seed": seed,
            "labelled": classes,
            **scores(bank, head),
            "seconds": round(time.perf_counter() - started, 3),
            "started": begun,
            **provenance.origin(torch.device("cpu")),
        }


def _task(task: tuple[str, int], *, root: Path, banks: Path, results: Path) -> str:
    """Make what is missing of one network: its bank, and its records."""
    torch.set_num_threads(1)
    setting, assignment = task
    path = banks / f"collect-{setting}-{EPOCHS}-{assignment}.safetensors"
    if not path.exists():
        make_bank(setting, assignment, path, root=root)
    done = {
        (str(one["method"]), int(one["budget"]), int(one["method_seed"]))
        for one in records(results)
        if (one["setting"], one["assignment"]) == task
    }
    bank, made = read_bank(setting, assignment, path), 0
    for record in run(bank, done):
        atomic.append_jsonl(results, record)
        made += 1
    return f"{setting}, assignment {assignment} ({bank.half}): {made} records"


def records(path: Path | None = None) -> list[dict[str, Any]]:
    """Return the records of a file; none if there is no file."""
    path = RESULTS if path is None else path
    return [dict(one) for one in atomic.read_jsonl(path)] if path.exists() else []


def _interval(values: Sequence[float], sign: str = "") -> str:
    """Return the mean with the half width of its 95% t interval over networks."""
    if len(values) < 2:
        return f"{mean(values):{sign}.1f}"
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):{sign}.1f} ± {half:.1f}"


def table(setting: str, half: str, score: str = "balanced_accuracy") -> str:
    """Return the gain of every method over the refit without new images, in points, on the networks of one half."""
    found: dict[tuple[str, int], dict[int, list[float]]] = {}
    for one in records():
        if (one["setting"], one["half"]) == (setting, half):
            networks = found.setdefault((str(one["method"]), int(one["budget"])), {})
            networks.setdefault(int(one["assignment"]), []).append(100 * float(one[score]))
    base = {assignment: values[0] for assignment, values in found.get(("none", 0), {}).items()}
    if not base:
        return "No records yet."
    lines = [f"| method | {' | '.join(f'{budget} labels' for budget in BUDGETS)} |", f"|:--|{'--:|' * len(BUDGETS)}"]
    for method in COMPARED:
        cells = []
        for budget in BUDGETS:
            networks = found.get((method, budget), {})
            gains = [mean(values) - base[assignment] for assignment, values in networks.items() if assignment in base]
            cells.append(_interval(gains, "+") if gains else "–")
        title = f"**`{method}`**" if method == DEFAULT else f"`{method}`"
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Make what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--banks", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--half", choices=HALVES)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.banks.mkdir(parents=True, exist_ok=True)
    wanted = {
        "development": range(DEVELOPMENT),
        "confirmation": range(DEVELOPMENT, ASSIGNMENTS),
        None: range(ASSIGNMENTS),
    }
    tasks = [(setting, assignment) for assignment in wanted[options.half] for setting in SETTINGS]
    work = partial(_task, root=options.root, banks=options.banks, results=options.out)
    with multiprocessing.get_context("spawn").Pool(options.workers) as workers:
        for line in workers.imap_unordered(work, tasks):
            print(line, flush=True)
    if options.out == RESULTS:
        for setting in SETTINGS:
            for half in HALVES:
                for score in ("balanced_accuracy", "recall_weak"):
                    print(f"\n{setting}, {half}, {score}, gain in points\n\n{table(setting, half, score)}")


if __name__ == "__main__":
    main()
