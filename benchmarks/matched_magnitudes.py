"""Training rows whose strongest features are scaled to what unseen images have: `benchmarks/results/matched_magnitudes.jsonl`.

    python -m benchmarks.matched_magnitudes --root DATA --banks DIR [--half development|confirmation]

A backbone has learned its training images, so a class's K strongest features are stronger on them than on unseen images. *Matched*
training rows have these features multiplied by the ratio of the class means, unseen over training, shrunk toward the ratio of all
classes together where a class has few unseen rows. The head step then learns from matched rows by the same plan, steps and seed as
from the rows as they are. Controls have the ratio of all classes together, or the ratios of other classes.

Without a held-out set the ratio, or the rows themselves, come from training images under the plan's augmentations, or from networks
whose last block was trained further without them (*out of fold*).

Networks and unseen rows are made as in `benchmarks.unseen_rows`, but networks are trained until they know nearly all of their training
images: those of that benchmark do not learn the rare classes, so no feature is stronger on their training images. Options were
settled on the tail orders of the first half (`development`); those of the second (`confirmation`) are read once. Features are kept in `--banks`, and a record that is there is
not made again, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.unseen_rows import (
    HALVES,
    ROWS,
    Bank,
    Heads,
    Set,
    bank_name,
    half_of,
    make_bank,
    read_bank,
    scores,
)
from diversify.augment.batches import BatchAugmenter
from diversify.augment.draw_key import CropFlip, DrawKey
from diversify.diagnosis.measure import usual_top_k
from diversify.files import atomic
from diversify.functional import counts, draws, magnitude
from diversify.functional.ceiling import stratified_folds
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.network.wrappers import evaluating
from diversify.plan.plan import Plan
from diversify.plan.policies import Mixing
from diversify.repair.retrain import DEFAULT, HeadRecipe, retrain_with
from diversify.repair.unseen import FEW
from diversify.runtime import provenance
from diversify.training.recipe import Recipe
from diversify.training.resident import ResidentImages, features_of, fit_resident

RESULTS = Path(__file__).parent / "results" / "matched_magnitudes.jsonl"
SUITE = "matched_magnitudes"
SETS = (  # trained for so long that they know their training images by heart
    Set(data="fashion-mnist", imbalance="exp:50:400", epochs=40, orders=6, batch_size=32),
    Set(data="cifar10", imbalance="exp:50:500", epochs=40, orders=6, batch_size=32),
)
FOLDS, EPOCHS, VIEWS = 3, 5, 2  # of the last block trained further, and views of each training image under the plan
LAST_BLOCK = 6  # where it begins in the network of `unseen_rows`


@dataclasses.dataclass(frozen=True, kw_only=True)
class StandIns:
    """What may stand in for unseen rows where there are none: features of training images, seen differently.

    `views` are images under the plan's augmentations. `out` are images in networks whose last block was trained further without
    them, and `within` the same images in those that were trained further with them.
    """

    views: Embeddings
    out: Embeddings
    within: Embeddings


def _views(model: nn.Module, data: ResidentImages, prepare: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return features and labels of `VIEWS` views of each image under the image policies of a plan from class sizes."""
    sizes = counts.class_counts(data.labels, 10)
    plan = Plan.from_counts([str(c) for c in range(10)], sizes.tolist())
    classes = tuple(one.model_copy(update={"mixing": Mixing()}) for one in plan.classes)
    augment = BatchAugmenter(
        plan.model_copy(update={"classes": classes}), seed=0, base=CropFlip(padding=2, mirror=True)
    )
    rows, found = torch.arange(len(data)), []
    for epoch in range(VIEWS):
        images, _ = augment(data.images, data.labels, DrawKey(seed=0, epoch=epoch, step=0, indices=rows))
        side = ResidentImages(images=images, labels=data.labels)
        found.append(features_of(cast(Any, model)[:-1], side, prepare=prepare, batch_size=500))
    return torch.cat(found), data.labels.repeat(VIEWS)


def _out_of_fold(
    model: nn.Module, data: ResidentImages, prepare: Callable[[Tensor], Tensor], seed: int
) -> tuple[Tensor, Tensor]:
    """Return features of every image in the network trained further without it, and their mean in those trained with it."""
    layers = cast(nn.Sequential, model)
    with evaluating(model):
        early = features_of(layers[:LAST_BLOCK], data, prepare=prepare, batch_size=500).clone()
    fold_of = stratified_folds(data.labels, FOLDS, seed=seed, name="out of fold")
    recipe = Recipe(epochs=EPOCHS, batch_size=32, schedule="cosine", warmup_epochs=1, precision="fp32", seed=seed)
    out = within = torch.zeros(0)
    for fold in range(FOLDS):
        kept = fold_of != fold
        late = copy.deepcopy(layers[LAST_BLOCK:])
        list(
            fit_resident(
                late, ResidentImages(images=early[kept], labels=data.labels[kept]), recipe=recipe, num_classes=10
            )
        )
        with evaluating(late):
            found = features_of(late[:-1], ResidentImages(images=early, labels=data.labels)).clone()
        if not fold:
            out, within = torch.zeros_like(found), torch.zeros_like(found)
        out[~kept] = found[~kept]
        within[kept] += found[kept] / (FOLDS - 1)
    return out, within


def make_stand_ins(one: Set, order: int, banks: Path, *, root: Path) -> None:
    """Train the network of a bank again and save features of its training images as `StandIns` has them."""
    model, data, prepare = make_bank(one, order, banks / bank_name(one, order), root=root)
    with evaluating(model):
        views, labels = _views(model, data, prepare)
    out, within = _out_of_fold(model, data, prepare, order)
    tensors = {"views": views, "views_labels": labels, "out": out, "within": within, "labels": data.labels}
    atomic.write_tensors(_stand_ins_path(one, order, banks), {name: value.clone() for name, value in tensors.items()})


def _stand_ins_path(one: Set, order: int, banks: Path) -> Path:
    return banks / f"stand-ins-{bank_name(one, order)}"


def read_stand_ins(bank: Bank, path: Path) -> StandIns:
    """Return what `make_stand_ins` saved."""
    tensors, _ = atomic.read_tensors(path, "stand-ins for unseen rows")

    def side(name: str, labels: str) -> Embeddings:
        features = tensors[name]
        rows = torch.arange(len(features))
        return Embeddings(features=features, labels=tensors[labels], logits=bank.head.logits(features), indices=rows)

    return StandIns(views=side("views", "views_labels"), out=side("out", "labels"), within=side("within", "labels"))


def other_classes(number: int, seed: int) -> Tensor:
    """Return another class for every class, each once."""
    turn = draws.permutation(number, "matched magnitudes", seed)
    other = torch.empty_like(turn)
    other[turn] = turn.roll(1)
    return other


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratios:
    """How strong each class's top-K features are on unseen images, as a share of what they are on training images.

    Attributes:
        features: The top K of each class, `(C, K)`.
        values: Their ratios, `(C, K)`.
        pooled: The ratio of all classes together.
    """

    features: Tensor
    values: Tensor
    pooled: float

    @classmethod
    def between(
        cls, bank: Bank, train: Embeddings, unseen: Embeddings, *, k: int | None = None, few: float = FEW
    ) -> Ratios:
        """Return the ratios of class means, unseen over training.

        Args:
            bank: The network; the top K are those of its training images.
            train: Rows that the ratio compares with.
            unseen: Rows whose magnitudes are wanted.
            k: Features of a class; None for as many as a diagnosis takes.
            few: A class with this many unseen rows is half way to the pooled ratio; infinity takes the pooled ratio.
        """
        classes, head = bank.train.num_classes, bank.head
        k = usual_top_k(head.num_features) if k is None else k
        means = counts.class_mean(bank.train.features, bank.train.labels, classes)
        features = magnitude.top_k(means * head.weight, k)
        ours, theirs = (
            counts.class_mean(side.features, side.labels, classes).gather(1, features).double()
            for side in (train, unseen)
        )
        rows = counts.class_counts(unseen.labels, classes)
        there = (rows > 0)[:, None] & (ours > 0)
        if not bool(there.any()):
            return cls(features=features, values=torch.ones_like(ours), pooled=1.0)
        pooled = float(theirs[there].sum() / ours[there].sum())
        own = torch.where(there, theirs / ours, pooled)
        share = torch.where(rows > 0, rows / (rows + few), 0)[:, None]
        return cls(features=features, values=share * own + (1 - share) * pooled, pooled=pooled)

    def of_other_classes(self, seed: int) -> Ratios:
        """Return the same ratios for other classes: no class keeps its own."""
        return dataclasses.replace(self, values=self.values[other_classes(len(self.values), seed)])

    def applied(self, bank: Bank) -> Embeddings:
        """Return the training rows with the top-K features of their class multiplied by its ratios."""
        factor = torch.ones(bank.train.num_classes, bank.train.num_features, dtype=torch.float64)
        factor.scatter_(1, self.features, self.values)
        features = bank.train.features * factor[bank.train.labels].float()
        return dataclasses.replace(bank.train, features=features, logits=bank.head.logits(features))


class Matched(Heads):
    """The heads that every method makes of a bank, its stand-ins, and the first unseen rows of each class."""

    def __init__(self, bank: Bank, stand_ins: StandIns, rows: int, recipe: HeadRecipe = DEFAULT) -> None:
        super().__init__(bank, rows, recipe)
        self.stand_ins = stand_ins
        self.ours = self.plan()

    def head(self, train: Embeddings, unseen: Embeddings | None = None) -> LinearHead:
        """Return the head trained further on the rows by the plan, the same for all methods."""
        return retrain_with(train, self.bank.head, self.ours, self.recipe, unseen=unseen)

    def ratios(self, *, k: int | None = None, few: float = FEW) -> Ratios:
        """Return the ratios of the unseen rows."""
        return Ratios.between(self.bank, self.bank.train, self.unseen, k=k, few=few)

    def matched(self, *, k: int | None = None, few: float = FEW) -> Embeddings:
        """Return the training rows, matched to the unseen ones."""
        return self.ratios(k=k, few=few).applied(self.bank)

    @property
    def all_features(self) -> int:
        """D."""
        return self.bank.head.num_features

    def mismatched(self, *, k: int | None = None) -> Embeddings:
        """Return the training rows with the ratios of other classes."""
        return self.ratios(k=k).of_other_classes(self.bank.tail_order).applied(self.bank)

    def shifted(self, *, permuted: bool = False) -> Embeddings:
        """Return the training rows with their class's mean moved to that of its unseen rows, as far as it has many."""
        train, classes = self.bank.train, self.bank.train.num_classes
        ours, theirs = (counts.class_mean(side.features, side.labels, classes) for side in (train, self.unseen))
        rows = counts.class_counts(self.unseen.labels, classes)
        by = torch.where((rows > 0)[:, None], (rows / (rows + FEW))[:, None] * (theirs - ours), 0)
        features = train.features + (by[other_classes(classes, self.bank.tail_order)] if permuted else by)[train.labels]
        return dataclasses.replace(train, features=features, logits=self.bank.head.logits(features))

    def view_ratios(self) -> Ratios:
        """Return the ratios of training images under the plan's augmentations."""
        return Ratios.between(self.bank, self.bank.train, self.stand_ins.views)

    def fold_ratios(self) -> Ratios:
        """Return the ratios of training images out of fold."""
        return Ratios.between(self.bank, self.stand_ins.within, self.stand_ins.out)


BASE, UNSEEN = "training rows", "unseen rows"
TOP, TOP_OTHER = "matched", "ratios of other classes"
SHIFTED, SHIFTED_OTHER, BOTH = "means shifted", "shifts of other classes", "unseen rows + means shifted"
ALL, ALL_OTHER = "matched, all features", "other classes, all features"
_Methods = Mapping[str, tuple[str, Callable[[Matched], LinearHead]]]
METHODS: _Methods = {
    BASE: ("as they are", lambda heads: heads.head(heads.bank.train)),
    TOP: ("each class's top K multiplied by its ratios", lambda heads: heads.head(heads.matched())),
    TOP_OTHER: ("the top K multiplied by the ratios of another class", lambda heads: heads.head(heads.mismatched())),
    SHIFTED: (
        "the difference of the class means, shrunk, added to every feature",
        lambda heads: heads.head(heads.shifted()),
    ),
    SHIFTED_OTHER: (
        "the difference of another class's means added",
        lambda heads: heads.head(heads.shifted(permuted=True)),
    ),
    UNSEEN: ("in every batch, beside training rows", lambda heads: heads.head(heads.bank.train, heads.unseen)),
    BOTH: ("in every batch, beside shifted training rows", lambda heads: heads.head(heads.shifted(), heads.unseen)),
}
TRIED: _Methods = {  # on the networks for development alone
    "pooled ratio": (
        "the top K multiplied by the ratio of all classes together",
        lambda heads: heads.head(heads.matched(few=math.inf)),
    ),
    "matched, not shrunk": (
        "the top K by the class's own ratios, however few rows",
        lambda heads: heads.head(heads.matched(few=0)),
    ),
    ALL: ("every feature multiplied by its ratio", lambda heads: heads.head(heads.matched(k=heads.all_features))),
    ALL_OTHER: (
        "every feature multiplied by a ratio of another class",
        lambda heads: heads.head(heads.mismatched(k=heads.all_features)),
    ),
    "unseen rows + matched": (
        "in every batch, beside rows with matched top K",
        lambda heads: heads.head(heads.matched(), heads.unseen),
    ),
    "unseen rows + matched, all features": (
        "in every batch, beside rows with every feature matched",
        lambda heads: heads.head(heads.matched(k=heads.all_features), heads.unseen),
    ),
}
WITHOUT: _Methods = {
    BASE: METHODS[BASE],
    "augmented: ratios": (
        "training rows matched to images under the plan's augmentations",
        lambda heads: heads.head(heads.view_ratios().applied(heads.bank)),
    ),
    "augmented: rows": (
        "these images' rows in every batch",
        lambda heads: heads.head(heads.bank.train, heads.stand_ins.views),
    ),
    "out of fold: ratios": (
        "training rows matched to images that the last block was trained further without",
        lambda heads: heads.head(heads.fold_ratios().applied(heads.bank)),
    ),
    "out of fold: rows": (
        "these images' rows in every batch",
        lambda heads: heads.head(heads.bank.train, heads.stand_ins.out),
    ),
}


def run(
    bank: Bank, stand_ins: StandIns, done: set[tuple[str, int]], recipe: HeadRecipe = DEFAULT
) -> Iterator[dict[str, Any]]:
    """Yield the record of each method and number of unseen rows that is not done."""
    for rows in ROWS:
        methods = WITHOUT if rows == 0 else METHODS if bank.half == HALVES[1] else {**METHODS, **TRIED}
        missing = [name for name in methods if (name, rows) not in done]
        heads = Matched(bank, stand_ins, rows, recipe) if missing else None
        for name in missing:
            assert heads is not None
            begun, started = provenance.now(), time.perf_counter()
            found = scores(bank, methods[name][1](heads))
            seconds = round(time.perf_counter() - started, 3)
            pooled = {"unseen": heads.ratios(), "augmented": heads.view_ratios(), "out of fold": heads.fold_ratios()}
            yield {
                "kind": "final",
                "suite": SUITE,
                "data": bank.data,
                "tail_order": bank.tail_order,
                "half": bank.half,
                "method": name,
                "rows": rows,
                **found,
                "pooled_ratio": {source: round(one.pooled, 4) for source, one in pooled.items()},
                "seconds": seconds,
                "started": begun,
                **provenance.origin(torch.device("cpu")),
            }


def records_of(half: str | None = None) -> list[dict[str, Any]]:
    """Return the records, or those of one half."""
    found = [dict(one) for one in atomic.read_jsonl(RESULTS)] if RESULTS.exists() else []
    return [one for one in found if half in (None, one["half"])]


def main() -> None:
    """Make the features and the records that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--banks", type=Path, required=True)
    parser.add_argument("--half", choices=HALVES, help="only this half; both by default")
    parser.add_argument("--orders", type=int, nargs="*", help="only these tail orders; all by default")
    options = parser.parse_args()
    options.banks.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    tasks = [
        (one, order)
        for one in SETS
        for order in range(one.orders)
        if options.half in (None, half_of(one, order)) and (options.orders is None or order in options.orders)
    ]
    for one, order in sorted(tasks, key=lambda task: task[1]):
        path = _stand_ins_path(one, order, options.banks)
        if not path.exists():
            make_stand_ins(one, order, options.banks, root=options.root)
        bank = read_bank(one, order, options.banks / bank_name(one, order))
        done = {
            (str(record["method"]), int(record["rows"]))
            for record in records_of()
            if (record["data"], record["tail_order"]) == (one.data, order)
        }
        made = 0
        for record in run(bank, read_stand_ins(bank, path), done):
            atomic.append_jsonl(RESULTS, record)
            made += 1
        print(f"{one.data}, tail order {order} ({half_of(one, order)}): {made} records", flush=True)


if __name__ == "__main__":
    main()
