"""Head repair: every method that changes only the head, on frozen cross-entropy networks (long-tailed CIFAR-10, Fashion-MNIST).

    for run in canonical:0 canonical:1 canonical:2 0:0 1:0; do
      tail=${run%:*} seed=${run#*:}
      for holdout in 0.2 0; do
        diversify train --data cifar10 --root DATA --imbalance exp:100 --tail-order $tail --seed $seed --holdout $holdout \
          --model resnet32 --epochs 200 --precision bf16 --out runs/$tail-$seed-$holdout
      done
    done
    python -m benchmarks.head_study extract runs/* --root DATA --out BANKS
    python -m benchmarks.head_study study BANKS --workers 2 [--untuned]
    python -m benchmarks.head_study bound BANKS

This is an ordinary study, in `results/study_cifar10_lt_head.jsonl`, whose runs take seconds. Every backbone exists twice: trained
with and without a validation set.

- A trial retrains the heads of all backbones that have a validation set, each on its own training features. Its score is the mean
  of their balanced accuracies on the validation sets. A method that makes a plan from the validation set makes one for each of
  five folds, without the fold that it is evaluated on.
- A final run takes a backbone that was trained on all training images; seeds use the backbones in turn. It gets the chosen
  parameters, and a plan from the validation set of the backbone's twin, and reads the test set once.

`--untuned` searches nothing. Every method has its default parameters: one recipe for all trained heads, tau = 1 for the free
repairs, the K of the papers, and the plan as it is made. Records go to `results/study_cifar10_lt_head_untuned.jsonl`.

`bound` records the accuracy of a head that is fitted on balanced test features by cross-fitting. It is reported as the bound of
any head, and chooses nothing.

Every trained head may also subtract a part of the log prior afterwards (`tau`). This is free, so no method gets credit for the
effect of tau alone.

`--suite fashion_mnist_lt_head` runs the same with `--data fashion-mnist --imbalance exp:100:2000 --model small_cnn --epochs 20`,
seed 0 and the tail orders 0 to 4. It is a confirmation, on images that nothing was developed on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

from benchmarks.head_methods import BY_NAME, LEARNING, OURS, SLOPE
from diversify.commands.diagnose import load_trained
from diversify.commands.options import DataOptions
from diversify.data.loader import Split, make_loader
from diversify.diagnosis.measure import diagnose, usual_top_k
from diversify.errors import must
from diversify.files import atomic, digests
from diversify.functional import ceiling, counts, metrics
from diversify.functional.ceiling import stratified_folds
from diversify.network.embeddings import Embeddings
from diversify.network.extraction import extract
from diversify.network.linear_head import LinearHead, read_head
from diversify.network.split import split_head
from diversify.plan.make import make_plan
from diversify.plan.plan import Plan
from diversify.repair.fitted import fit_slope
from diversify.repair.post_hoc import log_prior_of
from diversify.runtime import provenance
from diversify.study.ledger import Step
from diversify.study.protocol import Method, Outcome, Parameters, Protocol, Setting, Trained
from diversify.study.records import Record, read_records
from diversify.study.run import run_study
from diversify.study.study import Runner, Study

RECORDS = Path(__file__).parent / "results"
BOUNDS = RECORDS / "head_bound.jsonl"
EARLIER = RECORDS / "cifar10_lt_head.jsonl"
FOLDS = 5
EARLIER_OURS = "plan"
BOUND = "bound: fitted on test features"
GROUPS = {  # names of the groups, from large to small classes
    "shot": ("many shot", "medium shot", "few shot"),
    "third": ("largest third", "middle third", "smallest third"),
}

PROTOCOL = Protocol(
    suite="cifar10_lt_head",
    data="cifar10",
    tail_orders=("canonical", "canonical", "canonical", "0", "1"),  # the seeds of the backbones are 0, 1, 2, 0, 0
    model="resnet32",
    epochs=200,
    precision="fp32",
    learning_rate=(1e-3, 0.05, 0.5),
    weight_decay=(1e-5, 5e-4, 5e-2),
    methods=tuple(BY_NAME),
    trials=20,
    seeds=tuple(range(10)),
    note="Epochs are those of the frozen backbones; a head is trained for 1,500 steps.",
)
FASHION = PROTOCOL.model_copy(
    update={
        "suite": "fashion_mnist_lt_head",
        "data": "fashion-mnist",
        "imbalance": "exp:100:2000",
        "tail_orders": ("0", "1", "2", "3", "4"),
        "model": "small_cnn",
        "epochs": 20,
        "confirmation": True,
    }
)
PROTOCOLS = {protocol.suite: protocol for protocol in (PROTOCOL, FASHION)}


def results_of(suite: str, *, untuned: bool) -> Path:
    """Return the file of records of a study."""
    return RECORDS / f"study_{suite}{'_untuned' if untuned else ''}.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bank:
    """The features of a frozen backbone: of its training images, and of its validation set, or of the test set if it has none."""

    name: str
    head: LinearHead
    train: Embeddings
    judged: Embeddings
    class_names: tuple[str, ...]
    weights: str
    epochs: int

    @property
    def class_counts(self) -> Tensor:
        """`(C,)` training images."""
        return counts.class_counts(self.train.labels, len(self.class_names))


def names_of(protocol: Protocol) -> list[str]:
    """Return the backbones of a protocol in the order in which seeds use them, named by tail order and seed."""
    seen: Counter[str] = Counter()
    names = []
    for tail in protocol.tail_orders:
        names.append(f"{tail}-{seen[tail]}")
        seen[tail] += 1
    return names


def write_bank(run: Path, *, root: str, out: Path) -> Path:
    """Save the features of a run of `diversify train`: of its training and validation images, or of its training and test images."""
    record = atomic.read_json(run / "run.json", "run.json")
    data_record = record["data"]
    options = DataOptions(
        root=root, **{name: data_record[name] for name in ("spec", "imbalance", "tail_order", "holdout")}
    )
    data = options.load(measure_view=False)
    judged = data.val if data_record["holdout"] else data.test
    if judged is None or data.train.digest() != data_record["splits"]["train"]["digest"]:
        raise must(f"images of {run}", "be those of its record", "others")
    channels = int(data.train.dataset[0][0].shape[0])
    network = load_trained(record["model"]["name"], run / "model.safetensors", data.num_classes, channels)
    split = split_head(network)
    head = read_head(split.head)
    tensors = {"weight": head.weight, "bias": head.bias}

    def add(name: str, images: Split) -> None:
        found = extract(split, make_loader(images, data.view, batch_size=512))
        tensors[f"{name}_features"], tensors[f"{name}_labels"] = found.features, found.labels

    add("train", data.train)
    add("judged", judged)
    metadata = {
        "class_names": json.dumps(list(data.class_names)),
        "weights": digests.sha256(run / "model.safetensors"),
        "epochs": str(record["recipe"]["epochs"]),
    }
    kind = "holdout" if data_record["holdout"] else "all"
    path = out / f"{data_record['tail_order']}-{record['seed']}-{kind}.safetensors"
    atomic.write_tensors(path, tensors, metadata)
    return path


def read_bank(folder: Path, name: str, kind: str) -> Bank:
    """Return a file that `write_bank` saved."""
    tensors, metadata = atomic.read_tensors(folder / f"{name}-{kind}.safetensors", "features of a backbone")
    head = LinearHead(weight=tensors["weight"], bias=tensors["bias"])

    def side(which: str) -> Embeddings:
        features, labels = tensors[f"{which}_features"], tensors[f"{which}_labels"]
        return Embeddings(
            features=features, labels=labels, logits=head.logits(features), indices=torch.arange(len(labels))
        )

    return Bank(
        name=name,
        head=head,
        train=side("train"),
        judged=side("judged"),
        class_names=tuple(json.loads(metadata["class_names"])),
        weights=metadata["weights"],
        epochs=int(metadata["epochs"]),
    )


class Task:
    """The banks of a study, and the plans made from them. Each is made once."""

    def __init__(self, protocol: Protocol, root: str) -> None:
        self.protocol, self.names = protocol, names_of(protocol)
        self.bank = cache(lambda name, kind: read_bank(Path(root), name, kind))
        for name in self.names:
            for kind in ("holdout", "all"):
                if self.bank(name, kind).epochs != protocol.epochs:
                    raise must(
                        f"backbone {name}", f"be trained for {protocol.epochs} epochs", self.bank(name, kind).epochs
                    )
        self._diagnosis = cache(self._diagnosed)

    def fold_of(self, name: str) -> Tensor:
        """Return `(M,)` the fold of every validation row."""
        return stratified_folds(self.bank(name, "holdout").judged.labels, FOLDS, seed=0, name="head study")

    def _diagnosed(self, name: str, fold: int | None) -> Any:
        bank = self.bank(name, "holdout")
        rows = torch.ones(len(bank.judged), dtype=torch.bool) if fold is None else self.fold_of(name) != fold
        top_k = usual_top_k(bank.head.num_features)
        return diagnose(
            bank.train,
            bank.judged.select(rows),
            head=bank.head,
            class_names=bank.class_names,
            top_k=top_k,
            seed=0,
        )

    def plan(self, name: str, fold: int | None, permuted_by: int | None) -> Plan:
        """Return the plan made from the validation set without one fold."""
        found = self._diagnosis(name, fold)
        return make_plan(found if permuted_by is None else found.permuted(permuted_by))

    def slope(self, name: str, fold: int | None) -> float:
        """Return the tau that is most likely on the validation set without one fold."""
        bank = self.bank(name, "holdout")
        rows = torch.ones(len(bank.judged), dtype=torch.bool) if fold is None else self.fold_of(name) != fold
        return fit_slope(bank.judged.select(rows), bank.head, log_prior_of(bank.class_counts))

    def learned(self, method: Method, name: str, fold: int | None, permuted_by: int) -> Plan | float:
        """Return what a method makes of the validation set without one fold: a plan, or the slope of the log prior."""
        if method.name == SLOPE:
            return self.slope(name, fold)
        return self.plan(name, fold, None if method.name == OURS else permuted_by)


def _setting(bank: Bank, seed: int) -> Setting:
    return Setting(
        images=None,
        labels=bank.train.labels,
        class_counts=bank.class_counts,
        class_names=bank.class_names,
        epochs=bank.epochs,
        seed=seed,
        base=None,
    )


def _head(method: Method, bank: Bank, parameters: Parameters, seed: int, learned: Plan | float | None) -> LinearHead:
    if method.head_step is None:
        return bank.head
    trained = Trained(train=bank.train, heldout=None, head=bank.head, carried=learned)
    return method.head_step(_setting(bank, seed), parameters, trained).head


def _logits(task: Task, method: Method, name: str, parameters: Parameters, seed: int) -> Tensor:
    """Return `(M, C)` logits of a backbone's validation set; a method that uses it is cross-validated."""
    bank = task.bank(name, "holdout")
    if method.name not in LEARNING:
        return _head(method, bank, parameters, seed, None).logits(bank.judged.features)
    logits, fold_of = torch.empty_like(bank.judged.logits), task.fold_of(name)
    for fold in range(FOLDS):
        # a different permutation for every backbone, and none of those of the final runs
        learned = task.learned(method, name, fold, 1000 + task.names.index(name))
        rows = fold_of == fold
        logits[rows] = _head(method, bank, parameters, seed, learned).logits(bank.judged.features[rows])
    return logits


def run(
    task: Task, method: Method, parameters: Parameters, *, seed: int, split: str, carried: Any, report: Any
) -> Outcome:
    """Carry out a trial on the validation sets of all backbones, or a final run on the test set of one."""
    started = time.perf_counter()
    if split == "val":
        judged = [(task.bank(name, "holdout"), _logits(task, method, name, parameters, seed)) for name in task.names]
    else:
        name = task.names[task.protocol.seeds.index(seed) % len(task.names)]
        bank = task.bank(name, "all")
        learned = task.learned(method, name, None, seed) if method.name in LEARNING else None
        judged = [(bank, _head(method, bank, parameters, seed, learned).logits(bank.judged.features))]
    looked = [_looked(bank, logits) for bank, logits in judged]
    orders = [bank.class_counts.argsort(descending=True, stable=True) for bank, _ in judged]
    if len(judged) == 1:  # with several tail orders classes are listed by size
        orders = [torch.arange(len(orders[0]))]
    recall = torch.stack([one["recall"][order] for one, order in zip(looked, orders, strict=True)]).mean(0)
    sizes = judged[0][0].class_counts[orders[0]]
    inside = {} if split == "val" else {"backbone": judged[0][0].name, "weights": judged[0][0].weights}
    return Outcome(
        recall=tuple(None if math.isnan(value) else value for value in recall.tolist()),
        balanced_accuracy=float(recall.nanmean()),
        **{name: mean(one[name] for one in looked) for name in ("macro_f1", "g_mean", "ece")},
        class_counts=tuple(sizes.tolist()),
        epochs=task.protocol.epochs,
        seconds=time.perf_counter() - started,
        images_per_second=0.0,
        peak_memory=None,
        inside=inside,
    )


def _looked(bank: Bank, logits: Tensor) -> dict[str, Any]:
    confusion = metrics.confusion_matrix(bank.judged.labels, logits.argmax(1), len(bank.class_names))
    return {
        "recall": metrics.recall(confusion),
        "macro_f1": float(metrics.f1(confusion).nanmean()),
        "g_mean": metrics.geometric_mean_recall(confusion),
        "ece": metrics.overall_calibration_error(logits, bank.judged.labels),
    }


def runner() -> Runner:
    """Return the runner of the study."""
    return Runner(
        load=lambda protocol, *, root, device, download: Task(protocol, root), run=run, method=BY_NAME.__getitem__
    )


def bound(folder: Path, suite: str, name: str) -> dict[str, Any]:
    """Return the record of a head fitted on balanced test features, where each image is predicted by a head that did not see it."""
    bank = read_bank(folder, name, "all")
    test = bank.judged
    predicted = ceiling.cross_fitted_predictions(test.features, test.labels, test.num_classes, seed=0)
    recall = counts.class_mean((predicted == test.labels).double(), test.labels, test.num_classes).tolist()
    return {
        "kind": "ceiling",
        "suite": suite,
        "method": BOUND,
        "split": "test",
        "backbone": name,
        "weights": bank.weights,
        "balanced_accuracy": mean(recall),
        "recall": recall,
        "class_counts": bank.class_counts.tolist(),
        "started": provenance.now(),
        **provenance.origin(torch.device("cpu")),
    }


@dataclasses.dataclass(frozen=True)
class _Result:
    """One final run, of the study or of the earlier one."""

    method: str
    backbone: str
    accuracy: float
    recall: tuple[float, ...]
    class_counts: tuple[int, ...]

    @property
    def groups(self) -> dict[str, float]:
        """Mean recall of the shot groups, as far as they have classes, and of the thirds of the classes by size."""
        sizes, recall = torch.tensor(self.class_counts), torch.tensor(self.recall, dtype=torch.float64)
        found = {}
        for kind, group in (("shot", counts.shot_groups(sizes)), ("third", counts.count_thirds(sizes))):
            for place, name in enumerate(GROUPS[kind]):
                if bool((group == place).any()):
                    found[name] = float(recall[group == place].mean())
        return found


def _finals(suite: str, *, untuned: bool) -> list[_Result]:
    path = results_of(suite, untuned=untuned)
    records = [] if not path.exists() else [one for one in read_records(path) if one.kind == "final"]
    found = [
        _Result(one.method, str(one.inside["backbone"]), _whole(one), tuple(map(float, _all(one))), one.class_counts)
        for one in records
    ]
    return found + [
        _Result(
            one["method"], one["backbone"], one["balanced_accuracy"], tuple(one["recall"]), tuple(one["class_counts"])
        )
        for one in _bounds(suite)
    ]


def _whole(record: Record) -> float:
    if record.balanced_accuracy is None:
        raise ValueError(record.key)
    return record.balanced_accuracy


def _all(record: Record) -> list[float]:
    return [math.nan if value is None else value for value in record.recall]


def _bounds(suite: str) -> list[dict[str, Any]]:
    return [] if not BOUNDS.exists() else [one for one in atomic.read_jsonl(BOUNDS) if one["suite"] == suite]


def _earlier() -> list[_Result]:
    return [
        _Result(
            one["method"],
            f"{one['tail_order']}-{one['backbone']}",
            one["balanced_accuracy"],
            tuple(one["recall"]),
            tuple(one["class_counts"]),
        )
        for one in atomic.read_jsonl(EARLIER)
    ]


def _interval(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return f" ± {half:.1f}"


def _table(results: Sequence[_Result], ours: str, ahead_of: str) -> str:
    """Return the balanced test accuracy of every method, and the lead of ours, over backbones."""
    if not any(one.method == ours for one in results):
        return "No records yet."
    backbones = list(dict.fromkeys(one.backbone for one in results))
    methods = list(dict.fromkeys(one.method for one in results))

    def per_backbone(method: str, pick: Callable[[_Result], float]) -> list[float]:
        chosen = [[pick(one) for one in results if (one.method, one.backbone) == (method, name)] for name in backbones]
        return [100 * mean(values) if values else math.nan for values in chosen]

    accuracies = {method: per_backbone(method, lambda one: one.accuracy) for method in methods}
    names = [name for names in GROUPS.values() for name in names if all(name in one.groups for one in results)]
    rows = [
        f"| method | balanced accuracy, % | {ahead_of} ahead by, points | {' | '.join(names)} |",
        f"|:--|--:|--:|{'--:|' * len(names)}",
    ]
    for method in sorted(methods, key=lambda name: mean(accuracies[name])):
        ahead = [one - other for one, other in zip(accuracies[ours], accuracies[method], strict=True)]
        groups = [per_backbone(method, lambda one, n=name: one.groups[n]) for name in names]  # type: ignore[misc]
        lead = (
            "–"
            if method == ours
            else f"{mean(ahead):+.1f}{_interval(ahead)} ({sum(one > 0 for one in ahead)} of {len(ahead)})"
        )
        shown = f"`{method}`" if method in BY_NAME else method
        shown = f"**{shown}**" if method == ours else shown
        whole, *parts = (f"{mean(values):.1f}{_interval(values)}" for values in (accuracies[method], *groups))
        rows.append(f"| {shown} | {whole} | {lead} | {' | '.join(parts)} |")
    return "\n".join(rows)


def table(suite: str = PROTOCOL.suite, *, untuned: bool = False) -> str:
    """Return the table of a study on the test set, with searched parameters or with the defaults."""
    return _table(_finals(suite, untuned=untuned), OURS, f"`{OURS}`")


def val_table() -> str:
    """Return the validation accuracy of each method: with its defaults, the median of its trials, and the best."""
    path = results_of(PROTOCOL.suite, untuned=False)
    records = [] if not path.exists() else [one for one in read_records(path) if one.kind == "trial"]
    if not records:
        return "No records yet."
    found = {}
    for method in dict.fromkeys(one.method for one in records):
        trials = sorted((one for one in records if one.method == method), key=lambda one: one.number or 0)
        accuracies = [100 * _whole(one) for one in trials if one.state == "complete"]
        found[method] = (100 * _whole(trials[0]), median(accuracies), max(accuracies))
    rows = ["| method | untuned | median trial | best trial |", "|:--|--:|--:|--:|"]
    for method, values in sorted(found.items(), key=lambda pair: pair[1][0]):
        name = f"**`{method}`**" if method == OURS else f"`{method}`"
        rows.append(f"| {name} | {' | '.join(f'{value:.1f}' for value in values)} |")
    return "\n".join(rows)


def earlier_table() -> str:
    """Return the table of the earlier study, on other backbones."""
    return _table(_earlier(), EARLIER_OURS, "the plan")


def text(suite: str = PROTOCOL.suite, *, untuned: bool = False) -> str:
    """Return a sentence that says where the records of a study come from."""
    path = results_of(suite, untuned=untuned)
    records = read_records(path) if path.exists() else []
    finals = [one for one in records if one.kind == "final" and one.method == OURS]
    if not finals:
        return "No records yet."
    backbones = sorted({str(one.inside["backbone"]) for one in finals}, key=names_of(PROTOCOLS[suite]).index)
    trials = sum(one.kind == "trial" and one.method == OURS for one in records)
    searched = f" {trials} trials of every method on the hold-outs of their twins," if not untuned else ""
    protocol = PROTOCOLS[suite]
    alike = len(backbones) - len(set(protocol.tail_orders)) + 1
    shared = (
        f" {alike} of them share their training images, so that the intervals are rather narrow." if alike > 1 else ""
    )
    return (
        f"{len(backbones)} frozen backbones ({protocol.data}, {protocol.imbalance}, tail order and seed: {', '.join(backbones)};"
        f" cross entropy, {protocol.model}, {protocol.epochs} epochs, all training images),{searched} {len(finals)} final runs of"
        " each method. Means over the runs of a backbone, then over backbones, with 95% t intervals over backbones and on how"
        f" many of them `diversify` is ahead.{shared}"
    )


def earlier_text() -> str:
    """Return a sentence that says where the records of the earlier study come from."""
    records = atomic.read_jsonl(EARLIER)
    tails = ", ".join(dict.fromkeys(f"{one['tail_order']}-{one['backbone']}" for one in records))
    return (
        f"Backbones {tails}, trained without a fifth that was held out; five head seeds each, options chosen on held-out folds;"
        f" plans that drew classes by the root of their size (commit {records[0]['commit'][:7]})."
    )


def main() -> None:
    """Extract features, run the study, or record the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    features = commands.add_parser("extract", help="features of the runs that `diversify train` left")
    features.add_argument("runs", nargs="+", type=Path)
    features.add_argument("--root", default="data")
    features.add_argument("--out", type=Path, required=True)
    study = commands.add_parser("study", help="trials and final runs; goes on where it was stopped")
    study.add_argument("banks", type=Path)
    study.add_argument("--workers", type=int, default=1)
    study.add_argument("--methods")
    study.add_argument(
        "--untuned", action="store_true", help="no search: one trial, that of the values a search begins with"
    )
    study.add_argument("--out", type=Path)
    limit = commands.add_parser("bound", help="what a head fitted on test features reaches")
    limit.add_argument("banks", type=Path)
    for one in (study, limit):
        one.add_argument("--suite", choices=PROTOCOLS, default=PROTOCOL.suite)
    options = parser.parse_args()
    if options.command == "extract":
        options.out.mkdir(parents=True, exist_ok=True)
        for run_folder in options.runs:
            print(write_bank(run_folder, root=options.root, out=options.out), flush=True)
    elif options.command == "bound":
        done = {one["backbone"] for one in _bounds(options.suite)}
        for name in names_of(PROTOCOLS[options.suite]):
            if name not in done:
                atomic.append_jsonl(BOUNDS, bound(options.banks, options.suite, name))
    else:
        protocol = PROTOCOLS[options.suite]
        changes: dict[str, Any] = {"trials": 1} if options.untuned else {}
        if options.methods is not None:
            changes["methods"] = tuple(options.methods.split(","))
        for step in run_study(
            Study(
                protocol=protocol.model_copy(update=changes),
                results=options.out or results_of(options.suite, untuned=options.untuned),
                root=str(options.banks),
                workers=options.workers,
                runner="benchmarks.head_study:runner",
            )
        ):
            _told(step)
        print(text(options.suite, untuned=options.untuned), table(options.suite, untuned=options.untuned), sep="\n")


def _told(step: Step) -> None:
    record = step.record
    if record is not None and record.balanced_accuracy is not None:
        place = f"seed {record.seed}" if record.number is None else f"trial {record.number}"
        print(f"{record.method} {place}: {100 * record.balanced_accuracy:.1f}% in {record.seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
