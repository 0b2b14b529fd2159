"""Which images to label next, method against method: `benchmarks/results/collect.jsonl`.

    python -m benchmarks.collect --root DATA --banks DIR [--workers 2] [--half development|confirmation] [--retrain]

Small networks are trained on Fashion-MNIST in two settings: `narrow`, with 300 images of every class, which in half of the classes
are those nearest to three; and `tail`, with 1000 down to 10. From a pool of 8,000 other images each method suggests 20, 50, 100 and
200. Their labels are then read, the head is refitted with them, and the test set judges it. All methods get the same network, the
same 100 held-out images of every class, which say how well each class is recognised, and the same refit.

With `--retrain` the network is trained anew, from the start, on its images and the new ones, and its head is then refitted on all
of them; some methods, assignments 12 to 16, budgets 50 and 200.

Features are kept in `--banks`, and a record that is there is not made again, so the same command goes on where it was stopped.
Assignments of classes 0 to 11 are for development; those from 12 on are read once. Records of 3 to 11 say `confirmation`: they
were read once when the default was `needed coverage`, and then changed it. `REMOVED` methods weighed images by the need of their
predicted class; they gained nothing and are no longer in the library, so only their records are left.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor, nn

from benchmarks.in_memory import InMemory
from benchmarks.unseen_rows import network
from diversify.data.diversity import Diversity, choose_images
from diversify.data.images import ImageArray
from diversify.data.imbalance import Imbalance, imbalance_indices
from diversify.diagnosis.measure import diagnose, usual_top_k
from diversify.files import atomic
from diversify.functional import counts, draws
from diversify.functional.acquisition import METHODS
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead, read_head
from diversify.network.split import SplitModel, split_head
from diversify.network.wrappers import evaluating
from diversify.plan.suggest_images import DEFAULT, suggest_images
from diversify.runtime import provenance
from diversify.training.recipe import Recipe
from diversify.training.resident import ResidentImages, features_of, fit_resident

RESULTS = Path(__file__).parent / "results" / "collect.jsonl"
DATA = "fashion-mnist"
BUDGETS = (20, 50, 100, 200)
HALVES = ("development", "confirmation")
ASSIGNMENTS = 21
DEVELOPMENT = 12  # of these, the first
BALANCED = ("balanced random", "balanced margin")
RETRAINED = range(12, 17)  # assignments whose networks are also trained anew
RETRAINED_BUDGETS = (50, 200)
RETRAINED_METHODS = ("random", "margin", "badge", "typical", "coverage", *BALANCED)
REMOVED = ("needed margin", "needed badge", "needed coverage")
POOL, HELDOUT = 8000, 100  # images; held-out images are of each class
EPOCHS = 10
ROUNDS, WEIGHT_DECAY, FEW = 40, 1e-3, 10  # of the refit; new rows of a class have the share k / (k + FEW) of its weight
COMPARED = (*METHODS, *BALANCED)
DRAWN = {"random": 3, "balanced random": 3}  # seeds; of other methods one
SCORES = (  # setting, score, and how it is called
    ("narrow", "balanced_accuracy", "narrow classes, balanced accuracy"),
    ("narrow", "recall_weak", "narrow classes, their mean recall"),
    ("tail", "balanced_accuracy", "long tail, balanced accuracy"),
    ("tail", "recall_weak", "long tail, mean recall of the smallest classes"),
)
RESAMPLES = 2000
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
        return half_of(self.assignment)


def half_of(assignment: int) -> str:
    """Return which half an assignment belongs to."""
    return HALVES[int(assignment >= DEVELOPMENT)]


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


def train_network(source: InMemory, train: ResidentImages, seed: int) -> SplitModel:
    """Train a network from the start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = network(train.images.shape[1])
    recipe = Recipe(epochs=EPOCHS, schedule="cosine", warmup_epochs=1, precision="fp32", batch_size=64, seed=seed)
    for _ in fit_resident(model, train, recipe=recipe, num_classes=10, prepare=source.prepare):
        pass
    return split_head(model)


def read_by_head(source: InMemory, split: SplitModel, side: ResidentImages) -> Tensor:
    """Return the features that a network's head reads."""
    with evaluating(split), torch.inference_mode():
        return features_of(split.features, side, prepare=source.prepare, batch_size=500).clone()


def make_bank(setting: str, assignment: int, path: Path, source: InMemory) -> None:
    """Train a network and save its features."""
    rows, weak = rows_of(setting, assignment, source.train, source.labels)
    sides = {name: source.side(own) for name, own in rows.items()}
    split = train_network(source, sides["train"], assignment)
    head = read_head(split.head)
    tensors = {"weight": head.weight, "bias": head.bias, "weak": weak}
    for name, side in (*sides.items(), ("test", source.test)):
        tensors[f"{name}_features"] = read_by_head(source, split, side)
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


def scores(bank: Bank, head: LinearHead, test: Embeddings) -> dict[str, Any]:
    """Return what a head is worth on the test set."""
    right = (head.logits(test.features).argmax(1) == test.labels).double()
    recall = counts.class_mean(right, test.labels, test.num_classes)
    return {
        "balanced_accuracy": float(recall.mean()),
        "recall_weak": float(recall[list(bank.weak)].mean()),
        "recall": [round(value, 4) for value in recall.tolist()],
    }


def retrained(bank: Bank, source: InMemory, chosen: Tensor) -> dict[str, Any]:
    """Return what a network is worth that is trained from the start with rows of the pool, its head then refitted on all rows."""
    rows, _ = rows_of(bank.setting, bank.assignment, source.train, source.labels)
    train = source.side(torch.cat([rows["train"], rows["pool"][chosen]]))
    split = train_network(source, train, bank.assignment)
    head = read_head(split.head)
    own, test = (
        Embeddings.from_arrays(read_by_head(source, split, side), side.labels, head=head)
        for side in (train, source.test)
    )
    return scores(bank, refitted(head, own), test)


def tasks_of(*, retrain: bool) -> list[tuple[str, int, int]]:
    """Return every method with its budgets and seeds; a budget of 0 is the network without new images."""
    if retrain:
        return [("none", 0, 0)] + [(m, b, 0) for m in RETRAINED_METHODS for b in RETRAINED_BUDGETS]
    return [("none", 0, 0)] + [(m, b, s) for m in COMPARED for s in range(DRAWN.get(m, 1)) for b in BUDGETS]


def run(bank: Bank, done: set[tuple[str, int, int]], source: InMemory | None = None) -> Iterator[dict[str, Any]]:
    """Yield the record of each method, budget and seed that is not done; with a source, of networks that are trained anew."""
    start = refitted(bank.head, bank.train)
    diagnosis = diagnose(bank.train, bank.heldout, head=bank.head, top_k=usual_top_k(bank.head.num_features))
    for method, budget, seed in tasks_of(retrain=source is not None):
        if (method, budget, seed) in done:
            continue
        begun, started = provenance.now(), time.perf_counter()
        chosen = torch.empty(0, dtype=torch.int64)
        if budget:
            found = suggest_images(
                diagnosis, bank.train, bank.pool, budget=budget, method=method, heldout=bank.heldout, seed=seed
            )
            chosen = torch.as_tensor(found.indices)
        new = bank.pool.select(chosen)
        if source:
            worth = retrained(bank, source, chosen)
        else:
            worth = scores(bank, refitted(start, bank.train, new) if budget else start, bank.test)
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
            "retrained": source is not None,
            "labelled": counts.class_counts(new.labels, 10).tolist() if budget else [],
            **worth,
            "seconds": round(time.perf_counter() - started, 3),
            "started": begun,
            **provenance.origin(torch.device("cpu")),
        }


def _task(task: tuple[str, int], *, root: Path, banks: Path, results: Path, retrain: bool) -> str:
    """Make what is missing of one network: its bank, and its records."""
    torch.set_num_threads(1)
    setting, assignment = task
    path = banks / f"collect-{setting}-{EPOCHS}-{assignment}.safetensors"
    if not path.exists():
        make_bank(setting, assignment, path, InMemory.read(DATA, root))
    done = {
        (str(one["method"]), int(one["budget"]), int(one["method_seed"]))
        for one in records(results)
        if (one["setting"], one["assignment"], is_retrained(one)) == (*task, retrain)
    }
    bank, made = read_bank(setting, assignment, path), 0
    for record in run(bank, done, InMemory.read(DATA, root) if retrain else None):
        atomic.append_jsonl(results, record)
        made += 1
    return f"{setting}, assignment {assignment} ({bank.half}): {made} records"


def is_retrained(record: dict[str, Any]) -> bool:
    """Return whether a record is of a network that was trained anew; the first records did not say, and were of refits."""
    return bool(record.get("retrained", False))


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


def gains(
    setting: str, half: str, score: str = "balanced_accuracy", *, retrain: bool = False
) -> dict[tuple[str, int], dict[int, float]]:
    """Return the gain of every method and budget over no new images, in points, for each assignment of a half."""
    found: dict[tuple[str, int], dict[int, list[float]]] = {}
    for one in records():
        if (one["setting"], half_of(one["assignment"]), is_retrained(one)) == (setting, half, retrain):
            networks = found.setdefault((str(one["method"]), int(one["budget"])), {})
            networks.setdefault(int(one["assignment"]), []).append(100 * float(one[score]))
    base = {assignment: values[0] for assignment, values in found.pop(("none", 0), {}).items()}
    return {
        key: {k: mean(values) - base[k] for k, values in networks.items() if k in base}
        for key, networks in found.items()
    }


def table(setting: str, half: str, score: str = "balanced_accuracy", *, retrain: bool = False) -> str:
    """Return the gain of every method over no new images, in points, on the networks of one half."""
    found, budgets = gains(setting, half, score, retrain=retrain), RETRAINED_BUDGETS if retrain else BUDGETS
    if not found:
        return "No records yet."
    lines = [f"| method | {' | '.join(f'{budget} labels' for budget in budgets)} |", f"|:--|{'--:|' * len(budgets)}"]
    removed = [method for method in REMOVED if any((method, k) in found for k in budgets)]
    for method in (*(RETRAINED_METHODS if retrain else COMPARED), *removed):
        cells = [_interval(list(found[method, k].values()), "+") if found.get((method, k)) else "–" for k in budgets]
        title = (
            f"**`{method}`**" if method == DEFAULT else f"`{method}` (removed)" if method in REMOVED else f"`{method}`"
        )
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def labels_to_reach(gain: float, budgets: Sequence[int], curve: Sequence[float]) -> float:
    """Return how many labels a method needs for a gain, by lines between its mean gains; infinite if its largest is smaller.

    A mean gain that is below one with fewer labels counts as that one.
    """
    labels, reached = [0, *budgets], [0.0]
    for value in curve:
        reached.append(max(value, reached[-1]))
    if gain > reached[-1]:
        return math.inf
    place = next(k for k, value in enumerate(reached) if value >= gain)
    if place == 0:
        return 0.0
    low, high = reached[place - 1], reached[place]
    return labels[place - 1] + (gain - low) / (high - low) * (labels[place] - labels[place - 1])


def labels_table(half: str = HALVES[1]) -> str:
    """Return how many labels other methods need for what the default gains, with bootstrap intervals over assignments."""
    others = ("random", "margin")
    titles = " | ".join(f"`{other}` needs" for other in others)
    lines = [f"| score | labels by `{DEFAULT}` | {titles} |", f"|:--|{'--:|' * (1 + len(others))}"]
    for setting, score, title in SCORES:
        found = gains(setting, half, score)
        made = [set(found.get((method, k), ())) for method in (DEFAULT, *others) for k in BUDGETS]
        complete = sorted(set.intersection(*made))
        if not complete:
            return "No records yet."
        size = len(complete)
        drawn = draws.integers(size, "labels needed", torch.arange(RESAMPLES)[:, None], torch.arange(size))
        drawn = torch.cat([torch.arange(size)[None], drawn])
        means = {method: _means(found, method, complete)[drawn].mean(1).tolist() for method in (DEFAULT, *others)}
        for place, budget in enumerate(BUDGETS[:-1]):
            cells = []
            for other in others:
                needs = [
                    labels_to_reach(own[place], BUDGETS, curve)
                    for own, curve in zip(means[DEFAULT], means[other], strict=True)
                ]
                low, high = (sorted(needs[1:])[round(share * (RESAMPLES - 1))] for share in (0.025, 0.975))
                cells.append(f"{_labels(needs[0])} ({_labels(low)} to {_labels(high)})")
            lines.append(f"| {title} | {budget} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _means(found: Mapping[tuple[str, int], Mapping[int, float]], method: str, assignments: Sequence[int]) -> Tensor:
    """The gains of a method, of each assignment at each budget."""
    return torch.tensor([[found[method, k][one] for k in BUDGETS] for one in assignments])


def _labels(number: float) -> str:
    return f"{number:.0f}" if math.isfinite(number) else f"more than {BUDGETS[-1]}"


def main() -> None:
    """Make what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--banks", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--half", choices=HALVES)
    parser.add_argument("--retrain", action="store_true", help="train networks anew with the new images")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.retrain and options.half == HALVES[0]:
        parser.error("--retrain is for the assignments for confirmation: leave --half out, or give confirmation")
    options.banks.mkdir(parents=True, exist_ok=True)
    wanted = {
        "development": range(DEVELOPMENT),
        "confirmation": range(DEVELOPMENT, ASSIGNMENTS),
        None: range(ASSIGNMENTS),
    }
    assignments = [k for k in wanted[options.half] if k in RETRAINED or not options.retrain]
    tasks = [(setting, assignment) for assignment in assignments for setting in SETTINGS]
    work = partial(_task, root=options.root, banks=options.banks, results=options.out, retrain=options.retrain)
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
