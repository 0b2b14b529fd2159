"""Evaluate networks of the suite `cifar10_lt_short` on the training images that the long tail leaves out.

    python -m benchmarks.cifar10_lt_unused --root DATA --banks DIR diversify:30:0 balanced_softmax+images+mix+head:30:0 ...

METHOD:EPOCHS:SEED names a network. It is trained without the validation set, with the published parameters of the method. Its
features are kept in DIR, so the same command resumes where it was stopped. Each network is evaluated with its own head and with
heads retrained by several plans: for the prior alone, from counts, from the diagnosis of each named network, and the plan that the
study itself chose on the validation set; each half of the way and all of it. Records go to `results/cifar10_lt_unused.jsonl`.

Long-tailed CIFAR-10 uses 12,406 of 50,000 training images. The others are neither test nor validation images. There are 1,500 of
every class except the largest, which has none left and is evaluated on the validation set. That resolves differences of half a
point, which a validation set with ten images of the rarest class does not. For development only: no method of a study sees these
images.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diversify.data.load import load_data
from diversify.data.loader import collate
from diversify.diagnosis.measure import diagnose, usual_top_k
from diversify.errors import must
from diversify.files import atomic
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.network.split import split_head
from diversify.network.wrappers import evaluating
from diversify.plan.make import make_plan
from diversify.plan.plan import Plan
from diversify.repair.retrain import retrain_head
from diversify.runtime import provenance
from diversify.study.methods import between, method_named
from diversify.study.records import read_records
from diversify.study.suites import CIFAR10_LT_SHORT
from diversify.study.task import Task, load_task
from diversify.study.trial import Run
from diversify.study.tune import defaults
from diversify.training.resident import ResidentImages, features_of

RESULTS = Path(__file__).parent / "results" / "cifar10_lt_unused.jsonl"
STUDY = RESULTS.with_name("study_cifar10_lt_short.jsonl")
SIDES = ("train", "val", "unused")
PER_CLASS = 1500
SHARES = (0.5, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bank:
    """The features of a network: of its training images, its validation set, and the images that the long tail leaves out."""

    name: str
    method: str
    seed: int
    epochs: int
    head: LinearHead
    sides: dict[str, Embeddings]
    class_names: tuple[str, ...]

    def recall(self, head: LinearHead) -> list[float]:
        """Recall per class on the images that the long tail leaves out; on the validation set for a class without such images."""
        found = []
        for c in range(len(self.class_names)):
            side = next(one for one in (self.sides["unused"], self.sides["val"]) if bool((one.labels == c).any()))
            features = side.features[side.labels == c]
            found.append(float((head.logits(features).argmax(1) == c).double().mean()))
        return found


def unused(task: Task, tail_order: str, per_class: int = PER_CLASS) -> ResidentImages:
    """Return the first images of every class that are in neither the training nor the validation set, `per_class` at most."""
    cut = task.images(tail_order, "val").data
    whole = load_data(task.protocol.data, root=task.root, imbalance="none", holdout=0.0).train
    taken = torch.cat([cut.train.indices, *([cut.val.indices] if cut.val is not None else [])])
    left = (~torch.isin(whole.indices, taken)).nonzero()[:, 0]
    labels = whole.labels[left]
    rows = torch.cat([left[labels == c][:per_class] for c in range(cut.num_classes)])
    images, _ = collate([whole.dataset[row] for row in rows.tolist()])
    return ResidentImages(images=images, labels=whole.labels[rows])


def make_bank(task: Task, name: str, path: Path) -> None:
    """Train a network and save its features."""
    method_name, epochs, seed = name.rsplit(":", 2)
    method, order = method_named(method_name), task.protocol.tail_orders[0]
    sides = task.images(order, "val")
    values = defaults(task.protocol.space_of(method))
    run = Run.start(task.protocol, sides, method, values, epochs=int(epochs), seed=int(seed))
    for record in run.train(None):
        print(f"{name}: epoch {record.epoch + 1} of {epochs}", flush=True)
    split = split_head(run.model)
    with evaluating(run.model), torch.inference_mode():
        head = run.head(split)
        others = unused(task, order)
        made = features_of(split.features, others, prepare=sides.view.normalize, precision=task.protocol.precision)
        features = {"train": run.features(split, evaluation=False), "val": run.features(split, evaluation=True)}
    labels = {"train": sides.data.train.labels, "val": sides.evaluation_labels, "unused": others.labels}
    tensors = {"weight": head.weight, "bias": head.bias}
    for side, found in {**features, "unused": made.cpu()}.items():
        tensors |= {f"{side}_features": found.clone(), f"{side}_labels": labels[side].cpu()}
    atomic.write_tensors(path, tensors, {"class_names": json.dumps(list(sides.data.class_names))})


def read_bank(name: str, path: Path) -> Bank:
    """Return what `make_bank` saved."""
    tensors, metadata = atomic.read_tensors(path, "features of a network")
    method, epochs, seed = name.rsplit(":", 2)
    head = LinearHead(weight=tensors["weight"], bias=tensors["bias"])

    def side(which: str) -> Embeddings:
        features, labels = tensors[f"{which}_features"], tensors[f"{which}_labels"]
        rows = torch.arange(len(labels))
        return Embeddings(features=features, labels=labels, logits=head.logits(features), indices=rows)

    return Bank(
        name=name,
        method=method,
        seed=int(seed),
        epochs=int(epochs),
        head=head,
        sides={which: side(which) for which in SIDES},
        class_names=tuple(json.loads(metadata["class_names"])),
    )


def plan_of(bank: Bank) -> Plan:
    """Return the plan from a diagnosis of the network on its validation set."""
    found = diagnose(
        bank.sides["train"],
        bank.sides["val"],
        head=bank.head,
        class_names=bank.class_names,
        top_k=usual_top_k(bank.head.num_features),
        seed=bank.seed,
    )
    return make_plan(found)


def plan_of_the_study() -> Plan:
    """Return the plan that the best trial of `diversify` passed on to its final runs."""
    trials = [one for one in read_records(STUDY) if one.kind == "trial" and one.method == "diversify" and one.carried]
    if not trials:
        raise must(STUDY.name, "have a trial of diversify", "none")
    return Plan.from_dict(max(trials, key=lambda one: one.balanced_accuracy or 0.0).carried["plan"])


def heads_of(bank: Bank, plans: dict[str, Plan]) -> Iterator[tuple[str, float, LinearHead]]:
    """Return the name, the share and the head of every variant."""
    yield "as trained", 0.0, bank.head
    for name, plan in plans.items():
        made = retrain_head(bank.sides["train"], bank.head, plan, seed=bank.seed)
        for share in SHARES:
            yield name, share, between(bank.head, made, share)


def judge(banks: list[Bank]) -> Iterator[dict[str, Any]]:
    """Return one record per network and head."""
    counts: Tensor = torch.bincount(banks[0].sides["train"].labels)
    by_counts = Plan.from_counts(banks[0].class_names, counts)
    untouched = Plan.untouched(banks[0].class_names, counts)
    plans = {
        "retrained by the prior alone": untouched.model_copy(update={"prior_correction": by_counts.prior_correction}),
        "retrained by counts": by_counts,
        "retrained by the study's plan": plan_of_the_study(),
        **{f"retrained by the diagnosis of {bank.name}": plan_of(bank) for bank in banks},
    }
    for bank in banks:
        for head, share, made in heads_of(bank, plans):
            recall = bank.recall(made)
            yield {
                "kind": "trial",
                "suite": "cifar10_lt_unused",
                "method": bank.method,
                "seed": bank.seed,
                "split": "unused training images",
                "balanced_accuracy": sum(recall) / len(recall),
                "recall": recall,
                "params": {"head": head, "head_share": share},
                "class_counts": counts.tolist(),
                "epochs": bank.epochs,
                "tail_order": CIFAR10_LT_SHORT.tail_orders[0],
                "started": provenance.now(),
                **provenance.origin(torch.device("cpu")),
            }


def key_of(record: dict[str, Any]) -> tuple[Any, ...]:
    """Return what identifies a network and its head."""
    return record["method"], record["epochs"], record["seed"], *record["params"].values()


def table() -> str:
    """Return the balanced accuracy of every network with every head, by the share of the way to the new head."""
    records = atomic.read_jsonl(RESULTS) if RESULTS.exists() else []
    if not records:
        return "No records yet."
    found = {(name_of(one), one["params"]["head"], one["params"]["head_share"]): one for one in records}
    networks = list(dict.fromkeys(name for name, _, _ in found))
    rows = [f"| head | share | {' | '.join(f'`{name}`' for name in networks)} |", f"|:--|--:|{'--:|' * len(networks)}"]
    for head, share in dict.fromkeys((head, share) for _, head, share in found):
        cells = [found.get((name, head, share)) for name in networks]
        shown = ["" if one is None else f"{100 * one['balanced_accuracy']:.1f}" for one in cells]
        rows.append(f"| {head} | {share:g} | {' | '.join(shown)} |")
    return "\n".join(rows)


def name_of(record: dict[str, Any]) -> str:
    """Return METHOD:EPOCHS:SEED."""
    return f"{record['method']}:{record['epochs']}:{record['seed']}"


def main() -> None:
    """Train, evaluate and record, as the module describes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("networks", nargs="+", metavar="METHOD:EPOCHS:SEED")
    parser.add_argument("--root", default="data")
    parser.add_argument("--banks", type=Path, required=True)
    options = parser.parse_args()
    paths = {name: options.banks / f"{name.replace(':', '-')}.safetensors" for name in options.networks}
    task = load_task(CIFAR10_LT_SHORT, root=options.root, device="cpu")
    for name, path in paths.items():
        if not path.exists():
            make_bank(task, name, path)
    made = list(judge([read_bank(name, path) for name, path in paths.items()]))
    anew = {key_of(record) for record in made}
    kept = atomic.read_jsonl(RESULTS) if RESULTS.exists() else []
    atomic.write_jsonl(RESULTS, [*(record for record in kept if key_of(record) not in anew), *made])
    for record in made:
        print(f"{record['balanced_accuracy']:.1%}  {record['method']}, {record['epochs']} epochs: {record['params']}")


if __name__ == "__main__":
    main()
