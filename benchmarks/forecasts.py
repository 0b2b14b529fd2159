"""What a remedy was expected to give, class by class, and what it gave: `benchmarks/results/forecasts.jsonl`.

    python -m benchmarks.forecasts training --root DATA [--half development|confirmation]
    python -m benchmarks.forecasts head --root DATA --banks DIR [--half development|confirmation]

*training*: a network is trained with cross entropy, without its validation set, and diagnosed on that; then it is trained anew with
each remedy. *head*: `choose_head` repairs the head of a network and forecasts the change of each class's recall. Its networks are those
of `benchmarks.unseen_rows`, with other classes in the tail, and of `benchmarks.diversity`, with narrow classes. The test set, read once
for each network, tells what came out. Of training, the first half of the tail orders is for development, the other for confirmation.
`SMALL` has suites of few images, so that networks overfit. Their tail orders 0 to 5 were read once, with forecasts that promised too
much for plans with images; since then they are for development, whatever their records say, and 6 to 11 are for confirmation. The
forecast of repaired heads was settled on all networks that were there; the `FRESH` ones, made afterwards, are for its confirmation.
The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks import narrow_heads, real_sets, unseen_rows, validity
from benchmarks.unseen_rows import HALVES, Bank
from diversify.files import atomic
from diversify.functional import counts
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.repair import comparison
from diversify.repair.choose import choose_head
from diversify.repair.forecast import head_forecast, hit_sums
from diversify.repair.metric import class_sums
from diversify.runtime import provenance
from diversify.study.experiments.diversity_designs import DESIGNS
from diversify.study.protocol import Protocol
from diversify.study.task import load_task

RESULTS = Path(__file__).parent / "results" / "forecasts.jsonl"
TAILS = 4  # tail orders of each training suite; the first half is for development
ASSIGNMENTS = 6  # of narrow classes
FRESH = {"tails": range(14, 20), "diversity": range(4, ASSIGNMENTS)}  # for the confirmation of repaired heads
NARROW_DATA = ("digits", "fashion-mnist", "cifar10")
HELDOUT = ("in proportion", "10", "30")  # images of each class
SIDES = ("train", "unseen", "test")
REPEATS = 10  # of the folds, as `diversify remedy` has them
BASE = "ce"
REMEDIES = ("balanced_softmax", "balanced_softmax+images+mix")


def grey_network() -> nn.Module:
    """Return an untrained network of three convolutions for grey images."""
    return unseen_rows.network(1)


def colour_network() -> nn.Module:
    """Return an untrained network of three convolutions for colour images."""
    return unseen_rows.network(3)


def _suite(name: str, data: str, imbalance: str, epochs: int, batch_size: int = 64) -> Protocol:
    networks = {"digits": "small_cnn", "cifar10": "benchmarks.forecasts:colour_network"}
    return Protocol(
        suite=name,
        data=data,
        imbalance=imbalance,
        model=networks.get(data, "benchmarks.forecasts:grey_network"),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=(0.05,) * 3,
        weight_decay=(5e-4,) * 3,
        methods=(BASE, *REMEDIES),
        precision="fp32",
        seeds=(0,),
        trials=1,
    )


SUITES: Mapping[str, Protocol] = {
    one.suite: one
    for one in (
        _suite("digits_exp", "digits", "exp:20", 20, 32),
        _suite("digits_step", "digits", "step:10:0.5", 20, 32),
        _suite("fashion_exp", "fashion-mnist", "exp:50:500", 20),
        _suite("fashion_long", "fashion-mnist", "exp:20:200", 60),
        _suite("mnist_exp", "mnist", "exp:100:400", 20),
        _suite("cifar10_exp", "cifar10", "exp:20:500", 20),
    )
}
SMALL: Mapping[str, Protocol] = {  # so few images that a plan augments them, too
    one.suite: one
    for one in (
        _suite("fashion_small", "fashion-mnist", "exp:10:100", 60, 16),
        _suite("cifar10_small", "cifar10", "exp:10:200", 60, 16),
    )
}
SMALL_TAILS = 12


def half_of(order: int, orders: int = TAILS) -> str:
    """Return which half a tail order or an assignment belongs to."""
    return HALVES[int(order >= orders // 2)]


def half_of_head(suite: str, order: int) -> str:
    """Return which half a repaired head belongs to, whatever its record says."""
    return HALVES[int(order in FRESH[suite])]


def half_in(suite: str, order: int) -> str:
    """Return which half a tail order of a training suite belongs to."""
    return half_of(order, SMALL_TAILS if suite in SMALL else TAILS)


def training_tasks() -> list[tuple[Protocol, int]]:
    """Return each network to train: its suite and its tail order."""
    usual = [(one, order) for order in range(TAILS) for one in SUITES.values()]
    return usual + [(one, order) for order in range(SMALL_TAILS) for one in SMALL.values()]


def hits(head: LinearHead, side: Embeddings) -> list[int]:
    """Return how many images of each class a head recognises."""
    right = head.logits(side.features).argmax(1) == side.labels
    return class_sums(right, side.labels, side.num_classes).long().tolist()


def rows_of(side: Embeddings) -> list[int]:
    """Return how many images each class has."""
    return counts.class_counts(side.labels, side.num_classes).tolist()


def trained(protocol: Protocol, order: int, *, root: str) -> dict[str, Any]:
    """Train the networks of a tail order; return what was known before, and what came out."""
    started, begun, tail = provenance.now(), time.perf_counter(), str(order)
    task = load_task(protocol, root=root, device="cpu")
    base = validity.train(task, BASE, tail, order)
    after = {name: hits((made := validity.train(task, name, tail, order)).head, made.test) for name in REMEDIES}
    return {
        "kind": "training",
        "suite": protocol.suite,
        "data": protocol.data,
        "order": order,
        "half": half_in(protocol.suite, order),
        "count": rows_of(base.train),
        "hits_train": hits(base.head, base.train),
        "count_heldout": rows_of(base.val),
        "hits_heldout": hits(base.head, base.val),
        "count_test": rows_of(base.test),
        "hits_test": {BASE: hits(base.head, base.test), **after},
        "design": validity.design_of(protocol),
        "seconds": round(time.perf_counter() - begun, 2),
        "started": started,
        **provenance.origin(torch.device("cpu")),
    }


def training(root: str, half: str | None, path: Path) -> Iterator[dict[str, Any]]:
    """Make the training records that are missing, append a line for each, and yield it."""
    done = {(one["suite"], one["order"]) for one in records(path) if one["kind"] == "training"}
    for protocol, order in training_tasks():
        if (protocol.suite, order) not in done and half in (None, half_in(protocol.suite, order)):
            record = trained(protocol, order, root=root)
            atomic.append_jsonl(path, record)
            yield record


def diversity_banks(banks: Path, root: str, half: str | None) -> Iterator[tuple[str, str, int, Bank]]:
    """Yield the networks with narrow classes; what is not in `banks` is trained and kept there."""
    for order, (data, design) in itertools.product(range(ASSIGNMENTS), DESIGNS.items()):
        if data not in NARROW_DATA or half not in (None, half_of_head("diversity", order)):
            continue
        for sizes, form in design.cells:
            path = banks / f"{data}-{sizes}-{form.replace(':', '')}-{order}.safetensors"
            if not path.exists():
                save_bank(narrow_heads.make_bank(data, sizes, form, order, Path(root))[0], path)
            yield f"{sizes} {form}", data, order, load_bank(path, data, order)


def tail_banks(banks: Path, root: str, half: str | None) -> Iterator[tuple[str, str, int, Bank]]:
    """Yield the networks of `benchmarks.unseen_rows`."""
    for order, one in itertools.product((*range(unseen_rows.SETS[0].orders), *FRESH["tails"]), unseen_rows.SETS):
        if half in (None, half_of_head("tails", order)):
            path = banks / unseen_rows.bank_name(one, order)
            if not path.exists():
                unseen_rows.make_bank(one, order, path, root=Path(root))
            yield one.imbalance, one.data, order, unseen_rows.read_bank(one, order, path)


def save_bank(bank: Bank, path: Path) -> None:
    """Save the features of a network."""
    tensors = {"weight": bank.head.weight, "bias": bank.head.bias}
    for name in SIDES:
        side = getattr(bank, name)
        tensors |= {f"{name}_features": side.features.clone(), f"{name}_labels": side.labels.clone()}
    atomic.write_tensors(path, tensors)


def load_bank(path: Path, data: str, order: int) -> Bank:
    """Return what `save_bank` saved."""
    tensors, _ = atomic.read_tensors(path, "features of a network")
    head = LinearHead(weight=tensors["weight"], bias=tensors["bias"])
    sides = {name: real_sets.embedded(tensors[f"{name}_features"], tensors[f"{name}_labels"], head) for name in SIDES}
    return Bank(data=data, tail_order=order, half=half_of_head("diversity", order), head=head, **sides)


def as_in_use(bank: Bank) -> Embeddings:
    """Return a quarter as many unseen images of each class as it has training images, at least 1 and at most 100."""
    labels = bank.unseen.labels
    number = [min(100, max(1, round(0.25 * count))) for count in rows_of(bank.train)]
    taken = torch.cat([(labels == c).nonzero()[:most, 0] for c, most in enumerate(number)])
    return bank.unseen.select(taken)


def chosen(bank: Bank, heldout: Embeddings) -> dict[str, Any]:
    """Return what `choose_head` knew of its recommended head, and what came out on the test set."""
    seen: list[Mapping[str, Tensor]] = []

    def remembered(sums: Mapping[str, Tensor], *, untouched: bool) -> Any:
        seen.append(sums)
        return head_forecast(sums, untouched=untouched)

    with mock.patch.object(comparison, "head_forecast", remembered):
        choice = choose_head(bank.train, heldout, bank.head, repeats=REPEATS, seed=bank.tail_order)
    labels, classes = bank.test.labels, bank.test.num_classes
    before, after = (
        (head.logits(bank.test.features).argmax(1) == labels).double() for head in (bank.head, choice.head)
    )
    test = hit_sums(before, after, after, labels, classes)
    return {
        "recommended": choice.names[choice.recommended],
        "option": choice.option(choice.recommended),
        "count": rows_of(bank.train),
        "heldout": {name: [round(value, 4) for value in values.tolist()] for name, values in seen[0].items()},
        "test": {name: test[name].long().tolist() for name in ("rows", "before", "after", "both")},
    }


def heads(banks: Path, root: str, half: str | None, path: Path) -> Iterator[dict[str, Any]]:
    """Make the records of head repairs that are missing, append a line for each, and yield it."""
    done = {
        (one["suite"], one["data"], one["setting"], one["order"], one["heldout_rows"])
        for one in records(path)
        if one["kind"] == "head"
    }
    for suite, found in (("tails", tail_banks), ("diversity", diversity_banks)):
        for setting, data, order, bank in found(banks, root, half):
            for rows in HELDOUT if suite == "tails" else HELDOUT[:1]:
                if (suite, data, setting, order, rows) in done:
                    continue
                started, begun = provenance.now(), time.perf_counter()
                few = as_in_use if rows == HELDOUT[0] else partial(Bank.first, rows=int(rows))
                heldout = bank.unseen if suite == "diversity" else few(bank)
                record = {
                    "kind": "head",
                    "suite": suite,
                    "data": data,
                    "setting": setting,
                    "order": order,
                    "half": half_of_head(suite, order),
                    "heldout_rows": rows,
                    **chosen(bank, heldout),
                    "seconds": round(time.perf_counter() - begun, 2),
                    "started": started,
                    **provenance.origin(torch.device("cpu")),
                }
                atomic.append_jsonl(path, record)
                yield record


def records(path: Path | None = None) -> list[dict[str, Any]]:
    """Return the records."""
    path = RESULTS if path is None else path
    return [dict(one) for one in atomic.read_jsonl(path)] if path.exists() else []


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing and print a line for each record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("training", "head"))
    parser.add_argument("--root", default="data")
    parser.add_argument("--banks", type=Path)
    parser.add_argument("--half", choices=HALVES, help="only this half; both by default")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.part == "training":
        made = training(options.root, options.half, options.out)
    else:
        made = heads(options.banks, options.root, options.half, options.out)
    for one in made:
        print(one["suite"], one["data"], one.get("setting", ""), one["order"], one["seconds"], flush=True)


if __name__ == "__main__":
    main()
