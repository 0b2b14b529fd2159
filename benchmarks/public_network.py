"""A network that others trained and published, its head repaired: `benchmarks/results/public_network.jsonl`.

    python -m benchmarks.public_network --weights FILE --root DATA [--draws 5]

FILE is `models/CEbal_133_None_res32_best.pth` of github.com/dd1github/EOS (Dablain et al., Efficient augmentation for imbalanced
deep learning, 2022): a ResNet-32 trained with cross entropy on long-tailed CIFAR-10 (ratio 100). Its training images are drawn anew
as its authors drew them. It was trained on all 5,000 images of the largest class, so held-out images are taken from the test set: 30 of
each class, other ones in each draw, and scores are read on the rest of it. Every method gets the same. Nothing of the library was
settled on this network. The bound is a head that is fitted on the scored test images themselves, each predicted by one that did
not see it: it chooses nothing, and is about what these features hold.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import unseen_rows
from benchmarks.unseen_rows import Bank, Heads, recall_scores, scores
from diversify.data.images import ImageArray
from diversify.data.public import read_source
from diversify.diagnosis.for_plan import PlanDiagnoser
from diversify.errors import must
from diversify.files import atomic
from diversify.functional import ceiling, draws
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead, read_head
from diversify.network.networks import build_model, load_weights
from diversify.network.split import split_head
from diversify.network.wrappers import evaluating
from diversify.plan.make import make_plan
from diversify.plan.plan import Plan
from diversify.repair.candidates import default_candidates
from diversify.repair.choose import choose_head
from diversify.runtime import provenance
from diversify.training.resident import ResidentImages, features_of

RESULTS = Path(__file__).parent / "results" / "public_network.jsonl"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of its authors
RATIO, ROWS, DRAWS = 0.01, 30, 5
CHOSEN = "choose_head"
BOUND = "bound: fitted on test features"
METHODS: tuple[str, ...] = (
    "untouched",
    "logit adjustment",
    "fitted slope",
    "even draws",
    "even draws + unseen",
    "logistic regression",
    "logistic regression + unseen",
    CHOSEN,
    BOUND,
)


def training_rows(labels: Tensor) -> Tensor:
    """Return the rows of the network's training images: a shuffle of each class in turn, by NumPy's generator with seed 0."""
    random = np.random.RandomState(0)
    largest, kept = len(labels) / 10, []
    for c in range(10):
        rows = np.where(labels.numpy() == c)[0]
        random.shuffle(rows)
        kept.append(rows[: int(largest * RATIO ** (c / 9))])
    return torch.from_numpy(np.concatenate(kept))


class Network:
    """The features of the published network, and its head."""

    def __init__(self, weights: Path, root: Path) -> None:
        model = build_model("resnet32", 10)
        load_weights(model, weights)
        split, source = split_head(model), read_source("cifar10", root)
        self.head = read_head(split.head)
        centre, spread = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
        self.features, self.labels = {}, {}
        for name in ("train", "test"):
            images, self.labels[name] = source.splits[name]
            if not isinstance(images, ImageArray):
                raise must("data", "be images in memory", "cifar10")
            side = ResidentImages(images=images.images, labels=self.labels[name])
            with evaluating(model), torch.inference_mode():
                made = features_of(
                    split.features, side, prepare=lambda rows: (rows.float() / 255 - centre) / spread, batch_size=500
                )
            self.features[name] = made.clone()
        self.kept = training_rows(self.labels["train"])

    def side(self, name: str, rows: Tensor | None = None) -> Embeddings:
        """Return some rows of a split."""
        rows = torch.arange(len(self.labels[name])) if rows is None else rows
        features = self.features[name][rows]
        logits = self.head.logits(features)
        return Embeddings(features=features, labels=self.labels[name][rows], logits=logits, indices=rows)

    def bank(self, draw: int) -> Bank:
        """Return the network with the held-out images of a draw."""
        labels = self.labels["test"]
        order = draws.permutation(len(labels), "public network", draw)
        unseen = torch.cat([order[labels[order] == c][:ROWS] for c in range(10)])
        scored = torch.ones(len(labels), dtype=torch.bool)
        scored[unseen] = False
        return Bank(
            data="cifar10",
            tail_order=draw,
            half="",
            head=self.head,
            train=self.side("train", self.kept),
            unseen=self.side("test", unseen),
            test=self.side("test", scored.nonzero()[:, 0]),
        )


def head_of(name: str, heads: Heads) -> tuple[LinearHead, str]:
    """Return the head of a method, and what it chose; `choose_head` tries what `diversify remedy` tries."""
    if name != CHOSEN:
        return unseen_rows.METHODS[name][1](heads), name
    bank = heads.bank

    diagnose = PlanDiagnoser(bank.train, head=bank.head, class_names=heads.names)

    def plan_from(rows: Embeddings) -> Plan:
        return make_plan(diagnose(rows))

    candidates = default_candidates(
        bank.train,
        bank.head,
        plan=plan_from(heads.unseen),
        counted=Plan.from_counts(heads.names, heads.sizes.tolist()),
        replan=plan_from,
        unseen=heads.unseen,
    )
    found = choose_head(bank.train, heads.unseen, bank.head, candidates, seed=bank.tail_order)
    return found.head, f"{found.names[found.recommended]} {found.option(found.recommended)}".strip()


def bound(test: Embeddings) -> dict[str, Any]:
    """Return the scores of a head that is fitted on the test set, where each image is predicted by one that did not see it."""
    predicted = ceiling.cross_fitted_predictions(test.features, test.labels, test.num_classes, seed=0)
    return recall_scores(predicted, test.labels, test.num_classes)


def table() -> str:
    """Return the test scores of every method, with intervals over draws of the held-out images."""
    records = atomic.read_jsonl(RESULTS) if RESULTS.exists() else []
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for one in records:
        by_method.setdefault(one["method"], []).append(one)
    titles = ("balanced accuracy, %", "worst class, %", "seconds")
    lines = [f"| method | {' | '.join(titles)} |", f"|:--|{'--:|' * len(titles)}"]
    for name in METHODS:
        found = by_method.get(name, [])
        if found:
            cells = [
                unseen_rows._interval([100 * one[key] for one in found])
                if len({one[key] for one in found}) > 1
                else f"{100 * found[0][key]:.1f}"
                for key in ("balanced_accuracy", "worst")
            ]
            seconds = float(np.median([one["seconds"] for one in found]))
            lines.append(f"| `{name}` | {' | '.join(cells)} | {seconds:.1f} |")
    return "\n".join(lines) if by_method else "No records yet."


def main() -> None:
    """Make the records that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    known = atomic.read_jsonl(options.out) if options.out.exists() else []
    done = {(one["method"], one["draw"]) for one in known}
    network = Network(options.weights, options.root)
    right = network.side("train", network.kept)
    fitted = float((right.logits.argmax(1) == right.labels).double().mean())
    for draw in range(options.draws):
        heads = Heads(network.bank(draw), ROWS)
        for name in METHODS:
            if (name, draw) in done:
                continue
            begun, started = provenance.now(), time.perf_counter()
            if name == BOUND:
                chosen, worth = name, bound(heads.bank.test)
                seconds = time.perf_counter() - started
            else:
                head, chosen = head_of(name, heads)
                seconds = time.perf_counter() - started
                worth = scores(heads.bank, head)
            record = {"kind": "final", "suite": "public_network", "method": name, "draw": draw, "rows": ROWS}
            record |= {"chosen": chosen, **worth, "seconds": round(seconds, 2)}
            record |= {"accuracy_train": fitted, "started": begun, **provenance.origin(torch.device("cpu"))}
            atomic.append_jsonl(options.out, record)
            print(f"draw {draw}, {name}: {record['balanced_accuracy']:.1%}, {seconds:.1f} s ({chosen})", flush=True)
    if options.out == RESULTS:
        print(table())


TABLES: Mapping[str, Callable[[], str]] = {"public_network": table}


if __name__ == "__main__":
    main()
