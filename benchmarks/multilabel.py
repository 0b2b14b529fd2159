"""Losses and repairs for images with several labels, on pairs of garments: `benchmarks/results/multilabel_fashion.jsonl`.

    python -m benchmarks.multilabel --root DATA [--seeds 6] [--threads 2]

Two images of Fashion-MNIST stand beside each other on one canvas, and its labels are the classes of both. A class is drawn with a
frequency that falls geometrically to 1/50 of the largest; each seed has another order of the classes. A small network is trained from
the same initial weights with each loss. `repair` keeps the network that was trained with binary cross entropy and lets
`dv.choose_multilabel_head` choose its head and thresholds on the validation set; `sampler` draws a label and then an image that has it.

Every method is scored on the same test canvases by mean average precision, and by macro F1 twice: with all thresholds at 0.5, and with
one threshold per label that was fitted on the validation set. No setting was tuned: losses have their published values. Recorded runs
are not repeated, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor, nn

from diversify.augment.multilabel_sampler import MultilabelSampler
from diversify.data.images import ImageArray
from diversify.data.public import read_source
from diversify.errors import must
from diversify.files import atomic
from diversify.functional import draws, multilabel
from diversify.network.linear_head import LinearHead, read_head
from diversify.network.multilabel import MultilabelEmbeddings
from diversify.network.split import split_head
from diversify.network.wrappers import evaluating
from diversify.repair.multilabel_choice import choose_multilabel_head
from diversify.runtime import provenance
from diversify.training.multilabel_losses import (
    DistributionBalanced,
    MultilabelAsymmetric,
    MultilabelCrossEntropy,
    MultilabelFocal,
)

RESULTS = Path(__file__).parent / "results" / "multilabel_fashion.jsonl"
RATIO = 50.0  # the most frequent class over the rarest
SIZES = {"train": 3000, "val": 2000, "test": 6000}  # canvases
EPOCHS, BATCH, RATE = 10, 64, 2e-3
NO_RECORDS = "No records yet."

Loss = Callable[[Tensor, Tensor], Tensor]
METHODS: Mapping[str, str] = {
    "bce": "binary cross entropy",
    "weighted bce": "positives of rare labels weigh more",
    "focal": "focal loss, gamma 2",
    "asymmetric": "asymmetric loss, gamma 0 and 4",
    "distribution-balanced": "distribution-balanced loss",
    "sampler": "binary cross entropy, labels drawn equally often",
    "repair": "binary cross entropy, head and thresholds chosen by `choose_multilabel_head`",
}


class Canvases:
    """Pairs of images beside each other, with multi-hot labels.

    Attributes:
        images: `(N, 1, H, 2 W)` uint8.
        labels: `(N, C)` bool.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    @classmethod
    def drawn(cls, images: Tensor, labels: Tensor, shares: Tensor, size: int, *, name: str, seed: int) -> Canvases:
        """Return `size` canvases whose two classes are drawn with these shares, each time from images of the class.

        Args:
            images: `(N, 1, H, W)`.
            labels: `(N,)`.
            shares: `(C,)`, how often each class is drawn; they sum to 1.
            size: Number of canvases.
            name: Key of the draws.
            seed: Seed of the draws.
        """
        places = torch.arange(2 * size)
        limits = shares.double().cumsum(0)
        uniform = draws.uniform(f"{name} class", seed, places).double()
        classes = torch.searchsorted(limits, uniform * limits[-1]).clamp(max=len(shares) - 1)
        turn = draws.uniform(f"{name} image", seed, places).double()
        rows = torch.empty(2 * size, dtype=torch.int64)
        for c in range(len(shares)):
            own = (labels == c).nonzero()[:, 0]
            chosen = classes == c
            rows[chosen] = own[(turn[chosen] * len(own)).long().clamp(max=len(own) - 1)]
        pairs = images[rows].view(size, 2, *images.shape[1:])
        marks = torch.zeros(size, len(shares), dtype=torch.bool)
        marks[torch.arange(size).repeat_interleave(2), classes] = True
        return cls(torch.cat([pairs[:, 0], pairs[:, 1]], dim=-1), marks)


def shares_of(count: int, seed: int, ratio: float = RATIO) -> Tensor:
    """Return the shares of the classes: geometric, in an order that belongs to the seed."""
    falling = ratio ** (-torch.arange(count, dtype=torch.float64) / (count - 1))
    shares = torch.empty(count, dtype=torch.float64)
    shares[draws.permutation(count, "label frequencies", seed)] = falling / falling.sum()
    return shares


def canvases_of(root: Path, seed: int, sizes: Mapping[str, int] = SIZES) -> dict[str, Canvases]:
    """Return training, validation and test canvases; no image is in two of them."""
    source = read_source("fashion-mnist", root)
    (train, labels), (test, test_labels) = source.splits["train"], source.splits["test"]
    if not isinstance(train, ImageArray) or not isinstance(test, ImageArray):
        raise must("data", "be images in memory", "fashion-mnist")
    order = draws.permutation(len(labels), "halves of training images", seed)
    first, second = order[: len(order) * 2 // 3], order[len(order) * 2 // 3 :]
    shares = shares_of(int(labels.max()) + 1, seed)
    parts = {
        "train": (train.images[first], labels[first]),
        "val": (train.images[second], labels[second]),
        "test": (test.images, test_labels),
    }
    return {
        name: Canvases.drawn(*part, shares, sizes[name], name=f"canvases {name}", seed=seed)
        for name, part in parts.items()
    }


def network(seed: int, num_labels: int) -> nn.Module:
    """Return an untrained network of three convolutions and a linear head on 64 features."""

    def convolution(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            *convolution(1, 16),
            *convolution(16, 32),
            *convolution(32, 64),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(64, num_labels),
        )


def prepared(images: Tensor) -> Tensor:
    """Return images as the network takes them."""
    return (images.float() / 255 - 0.286) / 0.353


def loss_of(method: str, train: Canvases) -> Loss:
    """Return the loss that a method trains with."""
    positives, images = train.labels.sum(0), len(train.labels)
    losses: dict[str, Callable[[], Loss]] = {
        "weighted bce": lambda: MultilabelCrossEntropy(positives, images=images),
        "focal": MultilabelFocal,
        "asymmetric": MultilabelAsymmetric,
        "distribution-balanced": lambda: DistributionBalanced(positives, images=images),
    }
    return losses.get(method, MultilabelCrossEntropy)()


def trained(method: str, train: Canvases, *, seed: int, epochs: int = EPOCHS) -> nn.Module:
    """Return the network trained with the loss of a method, by Adam with a cosine schedule."""
    model, loss = network(seed, train.labels.shape[1]), loss_of(method, train)
    rows = len(train.labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    steps = epochs * -(-rows // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    sampler = MultilabelSampler(train.labels, seed=seed) if method == "sampler" else None
    images, targets = prepared(train.images), train.labels.float()
    for epoch in range(epochs):
        if sampler is None:
            order = draws.permutation(rows, "canvas order", seed, epoch)
        else:
            sampler.set_epoch(epoch)
            order = torch.tensor(list(sampler))[:rows]
        for batch in order.split(BATCH):
            optimizer.zero_grad()
            loss(model(images[batch]), targets[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def embedded(model: nn.Module, side: Canvases) -> MultilabelEmbeddings:
    """Return the embeddings of canvases."""
    split = split_head(model)
    head = read_head(split.head)
    with evaluating(model), torch.inference_mode():
        features = torch.cat([split.features(prepared(part)) for part in side.images.split(500)]).clone()
    return MultilabelEmbeddings(
        features=features, labels=side.labels, logits=head.logits(features), indices=torch.arange(len(features))
    )


def scores(head: LinearHead, val: MultilabelEmbeddings, test: MultilabelEmbeddings) -> dict[str, Any]:
    """Return what a head is worth on the test canvases, with thresholds at 0.5 and fitted on the validation set."""
    own = head.logits(test.features).double()
    best = multilabel.best_thresholds(head.logits(val.features), val.labels).nan_to_num(0.0)

    def f1(predicted: Tensor) -> Tensor:
        return multilabel.f1_of_counts(*multilabel.decision_counts(test.labels, predicted))

    precision, tuned = multilabel.average_precision(own, test.labels), f1(own >= best)
    rarest = test.labels.sum(0).argsort()[: len(best) // 3]
    return {
        "mean_average_precision": float(precision.nanmean()),
        "mean_average_precision_rarest_third": float(precision[rarest].nanmean()),
        "macro_f1": float(f1(own >= 0).nanmean()),
        "macro_f1_tuned": float(tuned.nanmean()),
        "macro_f1_tuned_rarest_third": float(tuned[rarest].nanmean()),
        "average_precision": [round(value, 4) for value in precision.tolist()],
        "positives": test.labels.sum(0).tolist(),
    }


def run(
    root: Path, seed: int, done: set[str], *, epochs: int = EPOCHS, sizes: Mapping[str, int] = SIZES
) -> Iterator[dict[str, Any]]:
    """Yield the record of each method that is not done for this seed."""
    wanted = [name for name in METHODS if name not in done]
    if not wanted:
        return
    sides = canvases_of(root, seed, sizes)
    base: nn.Module | None = None
    for method in wanted:
        begun, started = provenance.now(), time.perf_counter()
        if method == "repair":
            model = base if base is not None else trained("bce", sides["train"], seed=seed, epochs=epochs)
        else:
            model = trained(method, sides["train"], seed=seed, epochs=epochs)
            base = model if method == "bce" else base
        train, val, test = (embedded(model, sides[name]) for name in ("train", "val", "test"))
        head, chosen = read_head(split_head(model).head), ""
        if method == "repair":
            choice = choose_multilabel_head(train, val, head, seed=seed)
            assert choice.repair is not None
            head, chosen = choice.repair.head, choice.names[choice.recommended]
        yield {
            "kind": "final",
            "suite": "multilabel_fashion",
            "data": "fashion-mnist",
            "ratio": RATIO,
            "canvases": dict(sizes),
            "epochs": epochs,
            "seed": seed,
            "method": method,
            **({"chosen": chosen} if chosen else {}),
            **scores(head, val, test),
            "train_positives": sides["train"].labels.sum(0).tolist(),
            "seconds": round(time.perf_counter() - started, 2),
            "started": begun,
            **provenance.origin(torch.device("cpu")),
        }


def _records() -> list[dict[str, Any]]:
    return [dict(one) for one in atomic.read_jsonl(RESULTS)] if RESULTS.exists() else []


def difference(records: Sequence[Mapping[str, Any]], method: str, score: str) -> tuple[float, float, float]:
    """Return the mean over seeds of a method's score minus that of `bce`, and its 95% interval, paired by seed."""
    by_seed: dict[int, dict[str, float]] = {}
    for record in records:
        by_seed.setdefault(int(record["seed"]), {})[str(record["method"])] = float(record[score])
    found = [one[method] - one["bce"] for one in by_seed.values() if method in one and "bce" in one]
    if len(found) < 2:
        return (found[0] if found else float("nan"), float("nan"), float("nan"))
    half = float(student.ppf(0.975, len(found) - 1)) * stdev(found) / len(found) ** 0.5
    return mean(found), mean(found) - half, mean(found) + half


COLUMNS = {
    "mean_average_precision": "mean average precision",
    "mean_average_precision_rarest_third": "rarest third",
    "macro_f1": "macro F1, thresholds 0.5",
    "macro_f1_tuned": "macro F1, fitted thresholds",
    "macro_f1_tuned_rarest_third": "rarest third",
}


def table(records: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Return one row per method: each score in %, and its difference to binary cross entropy in points."""
    kept = _records() if records is None else records
    if not kept:
        return NO_RECORDS
    rows = [f"| method | {' | '.join(COLUMNS.values())} |", f"|:--|{'--:|' * len(COLUMNS)}"]
    for method in METHODS:
        own = [one for one in kept if one["method"] == method]
        if not own:
            continue
        cells = []
        for score in COLUMNS:
            value = f"{100 * mean(float(one[score]) for one in own):.1f}"
            if method != "bce":
                gain, low, high = (100 * each for each in difference(kept, method, score))
                value += f" ({gain:+.1f}, {low:+.1f} to {high:+.1f})" if low == low else ""
            cells.append(value)
        rows.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def text(records: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Return how many runs the table is of, and the methods that are surely better or worse than cross entropy."""
    kept = _records() if records is None else records
    if not kept:
        return NO_RECORDS
    seeds = len({one["seed"] for one in kept})
    lines = [f"{len(kept)} runs, {seeds} seed{'s' * (seeds != 1)}; each seed has another order of the frequencies."]
    for score, name in (("mean_average_precision", "mean average precision"), ("macro_f1_tuned", "tuned macro F1")):
        better, worse = [], []
        for method in METHODS:
            _, low, high = difference(kept, method, score)
            if method != "bce" and low > 0:
                better.append(f"`{method}`")
            if method != "bce" and high < 0:
                worse.append(f"`{method}`")
        lines.append(
            f"By {name}, {', '.join(better) or 'none'} surely better than binary cross entropy, {', '.join(worse) or 'none'} worse."
        )
    return "\n".join(lines)


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for seed in range(options.seeds):
        done = {str(one["method"]) for one in _records() if one["seed"] == seed}
        for record in run(options.root, seed, done):
            atomic.append_jsonl(RESULTS, record)
            print(
                f"seed {seed} {record['method']}: mAP {record['mean_average_precision']:.3f}, macro F1"
                f" {record['macro_f1']:.3f}, tuned {record['macro_f1_tuned']:.3f}; {record['seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
