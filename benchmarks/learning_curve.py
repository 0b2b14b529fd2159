"""What more labels of a class give, forecast against what came out: `benchmarks/results/learning_curve.jsonl`.

    python -m benchmarks.learning_curve --root DATA --banks DIR [--workers 2] [--half development|confirmation]

The small networks of `unseen_rows` (long-tailed Fashion-MNIST and CIFAR-10) and of `collect` (Fashion-MNIST with narrow classes) are
frozen. For each of the five weakest classes, `learning_curve` says from 20 or 50 held-out images of every class what recall 10, 20 and 40
more images would give. Then as many other images, which nothing has seen, are added twice at random, the head is refitted, and the
test set tells its recall. Three controls forecast the same: recall stays as it is; the mean slope of the classes in log n alone; and slopes
measured by leaving out training rows instead of adding held-out ones.

Features are kept in `--banks`, and a record that is there is not made again, so the same command goes on where it was stopped.
The method was settled on the networks of the first half (`development`); those of the second are read once.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from benchmarks import collect, unseen_rows
from benchmarks.in_memory import InMemory
from diversify.files import atomic
from diversify.functional import counts, draws
from diversify.functional.ceiling import balanced_head, head_scores
from diversify.functional.learning_curve import (
    _LOSSES,
    _SLOPES,
    CLASS_SPREAD,
    Forecast,
    fit_curves,
    forecast_recall,
    measured_rise,
)
from diversify.network.embeddings import Embeddings
from diversify.plan.learning_curve import _ITERATIONS, LearningCurve, _Fits, learning_curve
from diversify.runtime import provenance

RESULTS = Path(__file__).parent / "results" / "learning_curve.jsonl"
HALVES = unseen_rows.HALVES
HELDOUT = (20, 50)  # images of every class
MORE = (10, 20, 40)
WEAK = 5  # classes
DRAWS = 2  # of the images that are added, and of the training rows that are left out
SETS = {one.data: one for one in unseen_rows.SETS}
NARROW = "narrow"
ASSIGNMENTS, DEVELOPMENT = 5, 3  # of narrow classes; those for development are the first
ORDERS = {**{data: one.orders for data, one in SETS.items()}, NARROW: ASSIGNMENTS}
TITLES = {
    "fashion-mnist": "Fashion-MNIST, long tail",
    "cifar10": "CIFAR-10, long tail",
    NARROW: "Fashion-MNIST, narrow classes",
}
OURS = "learning curve"
METHODS = {
    OURS: "the slope and the worth of each class",
    "pooled slope": "the mean slope of the classes, in log n alone",
    "training rows left out": "slopes from a quarter, half and all of the training rows",
    "recall stays": "the recall now, with its interval",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bank:
    """The features of a network, with the classes that are forecast."""

    setting: str
    order: int
    half: str
    weak: tuple[int, ...]
    head: Any
    train: Embeddings
    unseen: Embeddings
    test: Embeddings


def half_of(setting: str, order: int) -> str:
    """Return which half a network belongs to."""
    return HALVES[int(order >= (DEVELOPMENT if setting == NARROW else ORDERS[setting] // 2))]


def bank_of(setting: str, order: int, banks: Path, *, root: Path) -> Bank:
    """Return a network's features, which are made if they are not there."""
    path = banks / f"learning-curve-{setting}-{order}.safetensors"
    if setting == NARROW:
        if not path.exists():
            collect.make_bank(setting, order, path, InMemory.read(collect.DATA, root))
        found = collect.read_bank(setting, order, path)
        sides, weak = (found.train, found.heldout, found.test), found.weak[:WEAK]
    else:
        if not path.exists():
            unseen_rows.make_bank(SETS[setting], order, path, root=root)
        tail = unseen_rows.read_bank(SETS[setting], order, path)
        sizes = counts.class_counts(tail.train.labels, tail.train.num_classes)
        found, sides, weak = (
            tail,
            (tail.train, tail.unseen, tail.test),
            tuple(sizes.argsort(stable=True)[:WEAK].tolist()),
        )
    train, unseen, test = sides
    return Bank(
        setting=setting,
        order=order,
        half=half_of(setting, order),
        weak=weak,
        head=found.head,
        train=train,
        unseen=unseen,
        test=test,
    )


def parts_of(labels: Tensor, heldout: int) -> tuple[Tensor, Tensor]:
    """Return the first rows of every class, to forecast from, and the others, to be labelled."""
    order = labels.argsort(stable=True)
    sizes = counts.class_counts(labels, int(labels.max()) + 1)
    place = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[order]]
    return order[place < heldout], order[place >= heldout]


def left_out(bank: Bank, curve: LearningCurve, fits: _Fits) -> list[Forecast]:
    """Return the forecasts from heads fitted on a quarter and half of the training rows of a class, and on all."""
    rows, labels, sizes, rises = fits._rows, fits._labels, [], []
    for c in bank.weak:
        own, judged = (labels == c).nonzero()[:, 0], fits.rows_of(c)
        sizes.append(sorted({max(1, round(len(own) * share)) for share in (0.25, 0.5)}))
        hits = []
        for size in sizes[-1]:
            found = []
            for turn in range(DRAWS):
                kept = labels != c
                kept[own[draws.permutation(len(own), "left out", bank.order, c, size, turn)[:size]]] = True
                head = balanced_head(rows[kept], labels[kept], start=fits._start, iterations=_ITERATIONS)
                found.append((head_scores(judged, head).argmax(1) == c).float())
            hits.append(torch.stack(found).mean(0))
        rises.append(measured_rise(torch.stack([*hits, fits.hits(c, judged)]), seed=bank.order))
        sizes[-1].append(len(own))
    added = [torch.tensor(each[1:]) - each[0] for each in sizes]
    slopes = fit_curves(rises, added, [each[0] for each in sizes]).weights.sum(2)
    return _forecasts(curve, [_worth_their_number(each) for each in slopes])


def _worth_their_number(slopes: Tensor) -> Tensor:
    """Return weights of a curve whose training images are worth as much as new ones, from the weights of its slope."""
    weights = torch.zeros(len(_SLOPES), len(_LOSSES), dtype=torch.float64)
    weights[:, 0] = slopes / slopes.sum()
    return weights


def _forecasts(curve: LearningCurve, weights: Sequence[Tensor]) -> list[Forecast]:
    parts = zip(curve.recall.tolist(), curve.count_heldout.tolist(), curve.count.tolist(), weights, strict=True)
    return [forecast_recall(share, units, curve.more, weights=own, count=count) for share, units, count, own in parts]


def run(bank: Bank, done: set[int]) -> Iterator[dict[str, Any]]:
    """Yield the record of each number of held-out images that is not done."""
    for size in HELDOUT:
        if size in done:
            continue
        begun, started = provenance.now(), time.perf_counter()
        first, rest = parts_of(bank.unseen.labels, size)
        heldout = bank.unseen.select(first)
        curve = learning_curve(bank.train, heldout, bank.head, more=MORE, classes=bank.weak, seed=bank.order)
        fits = _Fits(bank.train, heldout, bank.order)
        around = (-0.5 * ((_SLOPES - curve.slope_mean) / CLASS_SPREAD).square()).exp()
        made = {
            OURS: [
                Forecast(*each) for each in zip(curve.forecast, curve.forecast_low, curve.forecast_high, strict=True)
            ],
            "pooled slope": _forecasts(curve, [_worth_their_number(around)] * len(bank.weak)),
            "training rows left out": left_out(bank, curve, fits),
            "recall stays": _forecasts(curve, [_worth_their_number((_SLOPES == 0).double())] * len(bank.weak)),
        }
        yield {
            "kind": "final",
            "suite": "learning_curve",
            "setting": bank.setting,
            "order": bank.order,
            "half": bank.half,
            "heldout": size,
            "classes": list(bank.weak),
            "count": curve.count.tolist(),
            "more": list(MORE),
            "recall": _rounded(curve.recall),
            **came_out(bank, fits, rest),
            "slope": _rounded(curve.slope),
            "worth": _rounded(curve.worth),
            "methods": {
                name: {end: [_rounded(getattr(one, end)) for one in found] for end in Forecast._fields}
                for name, found in made.items()
            },
            "seconds": round(time.perf_counter() - started, 3),
            "started": begun,
            **provenance.origin(torch.device("cpu")),
        }


def came_out(bank: Bank, fits: _Fits, rest: Tensor) -> dict[str, Any]:
    """Return the test recall of each class now, and with so many of the other images, added several times."""
    now, later = [], []
    for c in bank.weak:
        judged, new = (fits.scaled(side) for side in (_of(bank.test, c), _of(bank.unseen.select(rest), c)))
        now.append(fits.hits(c, judged).mean())
        orders = [draws.permutation(len(new), "came out", bank.order, c, turn) for turn in range(DRAWS)]
        heads = [[fits.hits(c, judged, new[order[:more]]).mean() for order in orders] for more in MORE]
        later.append([_rounded(torch.stack(each)) for each in heads])
    return {"recall_test": _rounded(torch.stack(now)), "came_out": later}


def _of(side: Embeddings, c: int) -> Tensor:
    return side.features[side.labels == c]


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def records(path: Path | None = None) -> list[dict[str, Any]]:
    """Return the records."""
    path = RESULTS if path is None else path
    return [dict(one) for one in atomic.read_jsonl(path)] if path.exists() else []


def cases(found: Sequence[dict[str, Any]], method: str) -> Iterator[dict[str, float]]:
    """Yield every forecast of a method beside what came out."""
    for one in found:
        made = one["methods"][method]
        for place, now in enumerate(one["recall_test"]):
            least = (one["recall"][place] * one["heldout"] + 0.5) / (one["heldout"] + 1)
            for at, more in enumerate(one["more"]):
                value, low, high = (made[end][place][at] for end in Forecast._fields)
                for real in one["came_out"][place][at]:
                    gain = value - (least if method != "recall stays" else value)
                    yield {
                        "more": more,
                        "covered": low <= real <= high,
                        "width": high - low,
                        "error": abs(value - real),
                        "gain": gain,
                        "gain_error": abs(gain - (real - now)),
                        "real": real - now,
                    }


MEASURED = (
    "interval covers",
    "its width",
    "error of recall",
    "error of the gain",
    "gain forecast",
    "gain that came out",
)  # of forecasts, as `_cells` gives them


def table(half: str = HALVES[1]) -> str:
    """Return what each method's forecasts were worth, by the number of held-out images."""
    found = [one for one in records() if one["half"] == half]
    if not found:
        return "No records yet."
    titles = ("held-out images a class", *MEASURED)
    lines = [f"| forecast | {' | '.join(titles)} |", f"|:--|{'--:|' * len(titles)}"]
    for size in HELDOUT:
        for name in METHODS:
            made = list(cases([one for one in found if one["heldout"] == size], name))
            if made:
                lines.append(f"| {f'**{name}**' if name == OURS else name} | {size} | {_cells(made)} |")
    return "\n".join(lines)


def setting_table(half: str = HALVES[1]) -> str:
    """Return what the forecasts were worth in each setting and for each number of new images."""
    found = [one for one in records() if one["half"] == half]
    if not found:
        return "No records yet."
    titles = ("networks", "new images", *MEASURED)
    lines = [f"| data | {' | '.join(titles)} |", f"|:--|{'--:|' * len(titles)}"]
    for setting, title in TITLES.items():
        own = [one for one in found if one["setting"] == setting]
        for more in MORE:
            made = [one for one in cases(own, OURS) if one["more"] == more]
            if made:
                lines.append(f"| {title} | {len({one['order'] for one in own})} | {more} | {_cells(made)} |")
    return "\n".join(lines)


def _cells(made: Sequence[dict[str, float]]) -> str:
    def of(name: str) -> float:
        return 100 * mean(one[name] for one in made)

    shown = (
        f"{of('width'):.0f}",
        *(f"{of(name):.1f}" for name in ("error", "gain_error")),
        *(f"{of(name):+.1f}" for name in ("gain", "real")),
    )
    return " | ".join((f"{of('covered'):.0f}%", *shown))


def text() -> str:
    """Return what the records are of."""
    found = records()
    if not found:
        return "No records yet."
    networks = {half: {(one["setting"], one["order"]) for one in found if one["half"] == half} for half in HALVES}
    listed = (
        f"{len(networks[HALVES[0]])} networks for development, on which the method was settled, and {len(networks[HALVES[1]])} for"
        " confirmation, read once; of each, the five smallest or the five narrow classes. Means, in points of recall; the recall that"
        " came out is that of the test set after adding images that nothing had seen, drawn twice."
    )
    made = list(cases([one for one in found if one["half"] == HALVES[1]], OURS))
    if not made:
        return listed
    covered, error, gain = (100 * mean(one[name] for one in made) for name in ("covered", "error", "gain_error"))
    return (
        f"{listed}\n\nOn the networks for confirmation the 95% intervals contain {covered:.1f}% of what came out ({len(made):,} forecasts, which"
        f" share networks, classes and images). The mean error of the recall is {error:.1f} points, and that of the gain {gain:.1f}."
    )


def _task(task: tuple[str, int], *, root: Path, banks: Path, results: Path) -> str:
    """Make what is missing of one network."""
    torch.set_num_threads(1)
    setting, order = task
    done = {int(one["heldout"]) for one in records(results) if (one["setting"], one["order"]) == task}
    made = 0
    if set(HELDOUT) - done:
        for record in run(bank_of(setting, order, banks, root=root), done):
            atomic.append_jsonl(results, record)
            made += 1
    return f"{setting}, {order} ({half_of(setting, order)}): {made} records"


def main() -> None:
    """Make what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--banks", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--half", choices=HALVES)
    parser.add_argument("--setting", choices=list(ORDERS))
    parser.add_argument("--networks", type=int, help="only so many of each setting and half; all by default")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.banks.mkdir(parents=True, exist_ok=True)
    tasks = []
    for setting, orders in ORDERS.items():
        for half in HALVES:
            own = [(setting, order) for order in range(orders) if half_of(setting, order) == half]
            if options.half in (None, half) and options.setting in (None, setting):
                tasks += own[: options.networks]
    work = partial(_task, root=options.root, banks=options.banks, results=options.out)
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        for line in pool.imap_unordered(work, tasks):
            print(line, flush=True)
    if options.out == RESULTS:
        print(text(), *(make(half) for half in HALVES for make in (table, setting_table)), sep="\n\n")


if __name__ == "__main__":
    main()
