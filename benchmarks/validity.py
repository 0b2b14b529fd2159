"""What a diagnostic adds to class size, with different classes in the tail: `benchmarks/results/validity.jsonl`.

    python -m benchmarks.validity --root DATA                                                # two CPU cores
    python -m benchmarks.validity --root DATA --imbalance exp:100 --model resnet32 \
      --epochs 200 --batch-size 128 --learning-rate 0.1                                      # a GPU

For every tail order and seed a network is trained with cross entropy, without the validation set. It is diagnosed on the
validation set alone and evaluated on the test set. Every other remedy is trained from the same initial weights, and the head of the
cross-entropy network is retrained by the plan from its diagnosis. There is one record per tail order, seed and method. Recorded runs
are not repeated.

The question: over classes and given log n, is a diagnostic associated with the recall gap (training minus test recall), with test
recall, and with the gain in test recall from each remedy? Ranks are taken over the classes of a run. From each rank the mean rank,
over runs, of the class of that size is subtracted, which removes everything that size explains in whatever form. The products of
the residuals of diagnostic and outcome are summed over ALL runs before they are divided: a correlation of pooled within-run ranks.
The mean of one partial correlation per run would be worse in three ways: with ten classes each is biased toward 0 by up to a few
hundredths; it is unstable when the diagnostic follows log n in a run; and it only removes a straight line in log n, so two curves
with a floor in the tail would seem associated.

- The interval resamples whole tail orders, with all their seeds: percentiles, widened for the small number of tail orders by the
  expanded percentile interval (Hesterberg 2015).
- The interval is about these classes. The null hypothesis tests whether a diagnostic that belongs to other classes would do as
  well: residuals are permuted between classes, by the same permutation in all runs, since the same ten classes are difficult in all
  of them. Its p value is adjusted by Holm's method for the diagnostics in a column, or for all columns of gains together.
- A diagnostic adds to class size ("yes") if the interval excludes 0 and the adjusted p is below 0.05; it is "unsure" if only the
  first holds.
- A diagnostic that is undefined for too many classes, because they have few held-out images, is not tested. `exp:100:1300` is the
  smallest set of that ratio whose sixth class has the 20 held-out images of a comparison at matched n.

In simulated runs of this form (8 tail orders, 2 seeds, no true relation) the interval excluded 0 in 4% of 150 simulations, and in
15% when most of the residual belongs to the class in all tails; p was below 0.05 in 5 to 10%. Two unrelated curves in log n had a
mean partial correlation per run of -0.15, and 0.01 here.

Held-out recall is one of the diagnostics: a diagnostic that does no better adds nothing to looking at the recall.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist, mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from scipy.stats import t as student

from diversify.data.loader import Split, make_loader
from diversify.diagnosis.catalogue import EXPLANATIONS, MEASURES
from diversify.diagnosis.measure import diagnose
from diversify.diagnosis.result import Diagnosis
from diversify.errors import InputError, must
from diversify.files import atomic
from diversify.functional import draws, metrics
from diversify.functional.stats import holm
from diversify.network.embeddings import Embeddings
from diversify.network.extraction import extract
from diversify.network.linear_head import LinearHead
from diversify.network.split import split_head
from diversify.network.wrappers import evaluating
from diversify.plan.make import make_plan
from diversify.repair.retrain import retrain_head
from diversify.runtime import provenance
from diversify.study.methods import method_named
from diversify.study.protocol import Protocol
from diversify.study.task import Task, load_task
from diversify.study.trial import Run
from diversify.study.tune import defaults

Array = NDArray[np.float64]
RESULTS = Path(__file__).parent / "results" / "validity.jsonl"
SUITE = "validity"
BASE, HEAD = "ce", "plan_head"
TRAINED = ("balanced_softmax", "diversify_images")
REMEDIES = {
    "balanced_softmax": "balanced softmax",
    "diversify_images": "`diversify_images`",
    HEAD: "head by the plan",
}
ASKED = (
    "recall_heldout",
    "precision_heldout",
    "margin",
    "ece",
    "ceiling_gain",
    *EXPLANATIONS,
    "ce_magnitude_ratio_tp",
    "needed_tp",
    "border",
    "rare",
    "outlier",
)
GAP_OUTCOMES = {"gap": "recall gap, train less test", "recall": "test recall"}
GAIN_OUTCOMES = {name: f"gain of {title}" for name, title in REMEDIES.items()}
# A gain is relative to the recall that this estimates: if that is low by chance, any remedy seems to gain.
UNASKED = dict.fromkeys(GAIN_OUTCOMES, ("recall_heldout",))
BOOTSTRAPS = 4000
PERMUTATIONS = 9999
CONFIDENCE = 0.95
FEWEST_TAILS = 4  # fewer tail orders cannot be resampled
FEWEST_CLASSES = 6  # with the diagnostic defined, in a run
NO_RECORDS = "No records yet."


def protocol_of(options: argparse.Namespace) -> Protocol:
    """Return what is the same for every run. All methods have their published parameters; nothing is searched."""
    return Protocol(
        suite=SUITE,
        data=options.data,
        imbalance=options.imbalance,
        model=options.model,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=(options.learning_rate,) * 3,
        weight_decay=(options.weight_decay,) * 3,
        methods=(BASE, *TRAINED),
        precision=options.precision,
        seeds=(0,),
        trials=1,
    )


def design_of(protocol: Protocol) -> dict[str, Any]:
    """Return what records must share to be analysed together. More tail orders and seeds may be added to a design."""
    kept = ("data", "imbalance", "holdout", "model", "epochs", "batch_size", "schedule", "warmup_epochs", "precision")
    rates = {name: getattr(protocol, name)[1] for name in ("learning_rate", "weight_decay")}
    return {**{name: getattr(protocol, name) for name in kept}, **rates}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A trained network: its head, and the embeddings of its training, validation and test images."""

    head: LinearHead
    train: Embeddings
    val: Embeddings
    test: Embeddings
    params: Mapping[str, Any]
    seconds: float


def train(task: Task, method_name: str, tail: str, seed: int) -> Network:
    """Train a network with a method, without the validation set."""
    protocol, method = task.protocol, method_named(method_name)
    sides = task.images(tail, "val")
    data = sides.data
    if sides.train is None or data.val is None or data.test is None:
        raise must("data of validity", "fit on the device and have images for val and test", protocol.data)
    started = time.perf_counter()
    parameters = defaults(protocol.space_of(method))
    run = Run.start(protocol, sides, method, parameters, epochs=protocol.epochs, seed=seed)
    for _ in run.train():
        pass
    split = split_head(run.model)
    head = run.head(split)

    def seen(images: Split) -> Embeddings:
        with evaluating(run.model):
            found = extract(split, make_loader(images, sides.view, batch_size=512), precision=protocol.precision)
        features = found.features.cpu()
        return dataclasses.replace(found, features=features, logits=head.logits(features), labels=found.labels.cpu())

    embeddings = {"train": seen(data.train), "val": seen(data.val), "test": seen(data.test)}
    params = {"learning_rate": run.recipe.learning_rate, "weight_decay": run.recipe.weight_decay, **parameters}
    return Network(head=head, params=params, seconds=time.perf_counter() - started, **embeddings)


def recall_of(head: LinearHead, embeddings: Embeddings) -> list[float]:
    """Return `(C,)` recall of a head on embeddings."""
    predicted = head.logits(embeddings.features).argmax(1)
    return metrics.recall(metrics.confusion_matrix(embeddings.labels, predicted, embeddings.num_classes)).tolist()


def columns_of(diagnosis: Diagnosis) -> dict[str, list[float | None]]:
    """Return every measure per class, null where undefined."""
    return {
        name: [None if math.isnan(value) else float(f"{value:.6g}") for value in diagnosis[name].tolist()]
        for name in MEASURES
        if name in diagnosis.columns
    }


def records_of(task: Task, method_name: str, tail: str, seed: int) -> list[dict[str, Any]]:
    """Return the records of one training; with cross entropy, first that of its head retrained by the plan."""
    started = provenance.now()
    network = train(task, method_name, tail, seed)
    sides = task.images(tail, "val")

    def record(name: str, head: LinearHead, seconds: float, params: Mapping[str, Any]) -> dict[str, Any]:
        recall = recall_of(head, network.test)
        return {
            "kind": "final",
            "suite": SUITE,
            "method": name,
            "seed": seed,
            "tail_order": tail,
            "split": "test",
            "balanced_accuracy": mean(recall),
            "recall": recall,
            "recall_train": recall_of(head, network.train),
            "class_counts": sides.class_counts.tolist(),
            "class_names": list(sides.data.class_names),
            "params": dict(params),
            "epochs": task.protocol.epochs,
            "design": design_of(task.protocol),
            "seconds": round(seconds, 2),
            "started": started,
            **provenance.origin(task.device),
        }

    whole = record(method_name, network.head, network.seconds, network.params)
    if method_name != BASE:
        return [whole]
    begun = time.perf_counter()
    names = sides.data.class_names
    found = diagnose(network.train, network.val, head=network.head, class_names=names, seed=seed)
    diagnosing = time.perf_counter() - begun
    begun = time.perf_counter()
    plan = make_plan(found)
    head = retrain_head(network.train, network.head, plan, seed=seed)
    retrained = record(HEAD, head, time.perf_counter() - begun, network.params)
    measured = {
        "classes": columns_of(found),
        "diagnosed_on": "val",
        "seconds_of_diagnosis": round(diagnosing, 2),
    }
    return [retrained, {**whole, **measured}]


def _key(record: Mapping[str, Any]) -> tuple[str, str, int, str]:
    return (
        json.dumps(record["design"], sort_keys=True),
        str(record["tail_order"]),
        int(record["seed"]),
        str(record["method"]),
    )


def kept(path: Path) -> list[dict[str, Any]]:
    """Return every record of the suite."""
    return [one for one in atomic.read_jsonl(path) if one["suite"] == SUITE] if path.exists() else []


def run(
    protocol: Protocol, tails: Sequence[str], seeds: Sequence[int], *, root: str, device: str | None, path: Path
) -> Iterator[dict[str, Any]]:
    """Train what is not recorded, append a line for each, and yield it."""
    done = {_key(one) for one in kept(path)}
    task = load_task(protocol, root=root, device=device)
    design = design_of(protocol)
    for tail in tails:
        for seed in seeds:
            for method in (BASE, *TRAINED):
                if _key({"design": design, "tail_order": tail, "seed": seed, "method": method}) in done:
                    continue
                for record in records_of(task, method, tail, seed):
                    if _key(record) not in done:
                        atomic.append_jsonl(path, record)
                        done.add(_key(record))
                        yield record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Association:
    """The association of a diagnostic with an outcome over classes, given log n.

    Attributes:
        estimate: In [-1, 1]; NaN if not tested.
        low: Low end of the interval over tail orders.
        high: High end.
        p: Raw p value of the null hypothesis that the diagnostic belongs to other classes.
        classes: Number of classes for which the diagnostic is defined, averaged over runs.
    """

    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    classes: float = math.nan

    @property
    def excludes_zero(self) -> bool:
        """True if the interval excludes 0."""
        return self.low > 0 or self.high < 0


def association(
    diagnostic: Array, outcome: Array, class_counts: Array, tails: Sequence[str], *, given: bool = True
) -> Association:
    """Return the pooled within-run rank correlation over classes, with class size removed from both sides.

    Args:
        diagnostic: `(R, C)`, one run per row; NaN where undefined.
        outcome: `(R, C)`.
        class_counts: `(R, C)` training images; sorted, the same in every run.
        tails: `(R,)` tail order of each run; the interval resamples these.
        given: True to remove class size; otherwise a plain pooled rank correlation without p.

    Returns:
        NaN if fewer than 4 tail orders have 6 classes with the diagnostic defined, or if class size explains one side
        completely.
    """
    defined = np.isfinite(diagnostic) & np.isfinite(outcome)
    classes = float(defined.sum(1).mean()) if len(defined) else math.nan
    enough = defined.sum(1) >= FEWEST_CLASSES
    clusters, member = np.unique(np.asarray(tails)[enough], return_inverse=True)
    if len(clusters) < FEWEST_TAILS:
        return Association(classes=classes)
    order = np.argsort(-class_counts[enough], axis=1, kind="stable")  # columns: from the largest class to the smallest
    known = np.take_along_axis(defined[enough], order, 1)
    one, two = (_centred_ranks(np.take_along_axis(values[enough], order, 1), known) for values in (diagnostic, outcome))
    rows = np.eye(len(clusters))[member].T  # (G, R)
    whole = np.ones((1, len(clusters))) @ rows
    estimate = float(_correlation(one, two, known, whole, given=given)[0])
    if math.isnan(estimate):
        return Association(classes=classes)
    size = len(clusters)
    drawn = draws.integers(size, "validity", torch.arange(BOOTSTRAPS)[:, None], torch.arange(size)).numpy()
    times = (drawn[:, :, None] == np.arange(size)).sum(1).astype(float)  # (B, G)
    beside = NormalDist().cdf(-math.sqrt(size / (size - 1)) * float(student.ppf(0.5 + CONFIDENCE / 2, size - 1)))
    spread = _correlation(one, two, known, times @ rows, given=given)
    low, high = np.nanpercentile(spread, [100 * beside, 100 * (1 - beside)])
    p = _chance(one, two, known, order) if given else math.nan
    return Association(estimate=estimate, low=float(low), high=float(high), p=p, classes=classes)


def _centred_ranks(values: Array, known: NDArray[np.bool_]) -> Array:
    """Return the ranks of the known values of each row minus their mean; 0 elsewhere."""
    found = np.zeros_like(values)
    for row, here in enumerate(known):
        ranks = rankdata(values[row, here])
        found[row, here] = ranks - ranks.mean()
    return found


def _correlation(one: Array, two: Array, known: NDArray[np.bool_], weights: Array, *, given: bool) -> Array:
    """Return `(B,)` correlations for weights `(B, R)` of the runs; NaN if a side has no variance left."""
    present = weights @ known

    def products(first: Array, second: Array) -> Array:
        summed: Array = weights @ (first * second).sum(1)
        if given:
            with np.errstate(invalid="ignore", divide="ignore"):
                of_size = (weights @ first) * (weights @ second) / present
            summed = summed - np.where(present > 0, of_size, 0.0).sum(1)
        return summed

    both, first, second = products(one, two), products(one, one), products(two, two)
    nothing = 1e-9 * np.maximum(1.0, weights @ (one**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = both / np.sqrt(first * second)
    return np.where((first > nothing) & (second > nothing), np.clip(found, -1, 1), np.nan)


def _chance(one: Array, two: Array, known: NDArray[np.bool_], order: NDArray[np.int64]) -> float:
    """Return how often a permutation of residuals between classes, the same in all runs, gives as strong a correlation.

    Residuals are first scaled to the same spread at every size: ranks vary least at the ends, and would be paired with the
    middle. After the permutation the means by size are subtracted again, as in the outcome.
    """
    back = np.argsort(order, axis=1)
    first, second = (_standardized(values, known) for values in (one, two))
    by_class, here = np.take_along_axis(first, back, 1), np.take_along_axis(known, back, 1)
    keys = draws.bits("validity null", torch.arange(PERMUTATIONS)[:, None], torch.arange(here.shape[1])).numpy()
    moved = np.zeros((PERMUTATIONS, *by_class.shape))
    for pattern in np.unique(here, axis=0):
        chosen, places = np.flatnonzero((here == pattern).all(1)), np.flatnonzero(pattern)
        source = places[np.argsort(keys[:, places], axis=1)]  # (P, K)
        moved[:, chosen[:, None], places] = by_class[chosen][:, source].transpose(1, 0, 2)
    moved = np.take_along_axis(moved, np.broadcast_to(order, moved.shape), 2)
    moved = np.where(known, moved - moved.sum(1, keepdims=True) / np.maximum(known.sum(0), 1), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.abs((moved * second).sum((1, 2))) / np.sqrt((moved**2).sum((1, 2)))
    strength = abs(float((first * second).sum())) / math.sqrt(float((first**2).sum()))
    return float(1 + (found >= strength * (1 - 1e-9)).sum()) / (1 + PERMUTATIONS)


def _standardized(values: Array, known: NDArray[np.bool_]) -> Array:
    """Return values minus the mean of their column over the known rows, over its standard deviation; 0 elsewhere."""
    present = np.maximum(known.sum(0), 1)
    left = np.where(known, values - values.sum(0) / present, 0.0)
    spread = np.sqrt((left**2).sum(0) / present)
    return left / np.where(spread > 0, spread, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
    """The complete runs of one design: each tail order and seed has every method."""

    design: Mapping[str, Any]
    base: tuple[Mapping[str, Any], ...]
    remedies: Mapping[str, tuple[Mapping[str, Any], ...]]

    @property
    def tails(self) -> list[str]:
        """`(R,)` tail order of each run."""
        return [str(one["tail_order"]) for one in self.base]

    @property
    def class_counts(self) -> Array:
        """`(R, C)`."""
        return _rows(one["class_counts"] for one in self.base)

    def outcome(self, name: str) -> Array:
        """Return `(R, C)`: the gap, test recall, or the gain in it from a remedy."""
        recall = _rows(one["recall"] for one in self.base)
        if name == "recall":
            return recall
        if name == "gap":
            return _rows(one["recall_train"] for one in self.base) - recall
        return _rows(one["recall"] for one in self.remedies[name]) - recall

    def diagnostic(self, name: str) -> Array:
        """Return `(R, C)` of a measure; NaN where undefined."""
        nothing = [None] * len(self.base[0]["recall"])
        return _rows(one["classes"].get(name, nothing) for one in self.base)


def _rows(listed: Any) -> Array:
    return np.array([[math.nan if value is None else float(value) for value in row] for row in listed])


def designs(records: Sequence[Mapping[str, Any]]) -> list[Runs]:
    """Return the complete runs by design, the design with the most training steps last."""
    by_design: dict[str, dict[tuple[str, int], dict[str, Mapping[str, Any]]]] = {}
    for one in records:
        design, tail, seed, method = _key(one)
        by_design.setdefault(design, {}).setdefault((tail, seed), {})[method] = one
    found = []
    for design, runs in by_design.items():
        whole = [by for _, by in sorted(runs.items()) if {BASE, *REMEDIES} <= set(by)]
        if whole:
            remedies = {name: tuple(by[name] for by in whole) for name in REMEDIES}
            found.append(Runs(design=json.loads(design), base=tuple(by[BASE] for by in whole), remedies=remedies))
    return sorted(found, key=lambda runs: float(runs.class_counts[0].sum()) * runs.design["epochs"])


Answers = Mapping[str, Mapping[str, Association]]


def answers(runs: Runs) -> Answers:
    """Return the associations per outcome and diagnostic."""
    return {
        outcome: {
            name: association(runs.diagnostic(name), runs.outcome(outcome), runs.class_counts, runs.tails)
            if name not in UNASKED.get(outcome, ())
            else Association()
            for name in ASKED
        }
        for outcome in (*GAP_OUTCOMES, *GAIN_OUTCOMES)
    }


def verdicts(found: Answers) -> dict[str, dict[str, str]]:
    """Return per outcome whether each diagnostic adds to class size: yes, unsure, no, or not tested.

    p values are adjusted for all diagnostics of an outcome, and those of gains for all gains together, since a search for the
    remedy that a diagnostic points to has looked at all of them.
    """
    words: dict[str, dict[str, str]] = {}
    for family in (*((name,) for name in GAP_OUTCOMES), tuple(GAIN_OUTCOMES)):
        raw = {f"{outcome} {name}": one.p for outcome in family for name, one in found.get(outcome, {}).items()}
        adjusted = holm(raw)
        for outcome in family:
            words[outcome] = {
                name: _verdict(one, adjusted[f"{outcome} {name}"]) for name, one in found.get(outcome, {}).items()
            }
    return words


def _verdict(one: Association, adjusted: float) -> str:
    if math.isnan(one.estimate):
        return "not tested"
    if not one.excludes_zero:
        return "no"
    return "yes" if adjusted < 1 - CONFIDENCE else "unsure"


@functools.lru_cache(maxsize=4)
def _read(path: Path, changed: float, size: int) -> tuple[tuple[Runs, Answers], ...]:
    return tuple((runs, answers(runs)) for runs in designs(kept(path)))


def results() -> tuple[tuple[Runs, Answers], ...]:
    """Return the answers of every design."""
    if not RESULTS.exists():
        return ()
    state = RESULTS.stat()
    return _read(RESULTS, state.st_mtime, state.st_size)


def evidence() -> dict[str, str]:
    """Return per diagnostic what `MEASURES` should say about it, from the design with the most training steps."""
    if not results():
        return dict.fromkeys(ASKED, "not tested")
    found = results()[-1][1]
    words = verdicts(found)

    def strongest(name: str, outcomes: Mapping[str, str]) -> str:
        listed = [words[outcome][name] for outcome in outcomes]
        return next(word for word in ("yes", "unsure", "no", "not tested") if word in listed)

    return {name: _evidence(words["gap"][name], strongest(name, GAIN_OUTCOMES)) for name in ASKED}


def _evidence(gap: str, gain: str) -> str:
    if gap == gain:
        return gap
    return f"{gap} for the recall gap, {gain} for the gain of a remedy"


def _described(runs: Runs) -> str:
    design = runs.design
    seeds = len({int(one["seed"]) for one in runs.base})
    return (
        f"{design['data']} {design['imbalance']}, {design['model']}, {design['epochs']} epochs:"
        f" {_number(len(runs.base), 'network')}, {_number(len(set(runs.tails)), 'tail order')}, {_number(seeds, 'seed')}"
    )


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _cell(one: Association, word: str) -> str:
    if word == "not tested":
        return "–"
    shown = f"{one.estimate:+.2f} ({one.low:+.2f} to {one.high:+.2f})"
    return {"yes": f"**{shown}**", "unsure": f"*{shown}*"}.get(word, shown)


def _table(outcomes: Mapping[str, str]) -> str:
    blocks = []
    for runs, found in results():
        words = verdicts(found)
        alone = [
            association(np.log(runs.class_counts), runs.outcome(outcome), runs.class_counts, runs.tails, given=False)
            for outcome in outcomes
        ]
        rows = [
            f"{_described(runs)}.",
            "",
            f"| diagnostic on val, beyond log n | {' | '.join(outcomes.values())} | classes |",
            f"|:--|{'--:|' * (len(outcomes) + 1)}",
            "| log n alone, for comparison |"
            + "".join(f" {_cell(one, 'not tested' if math.isnan(one.estimate) else 'no')} |" for one in alone)
            + f" {runs.class_counts.shape[1]} |",
        ]
        first = next(iter(outcomes))
        for name in sorted(ASKED, key=lambda name: _strength(found[first][name])):
            cells = " | ".join(_cell(found[outcome][name], words[outcome][name]) for outcome in outcomes)
            rows.append(f"| {MEASURES[name].title} | {cells} | {found[first][name].classes:.1f} |")
        blocks.append("\n".join(rows))
    return "\n\n".join(blocks) or NO_RECORDS


def _strength(one: Association) -> float:
    return math.inf if math.isnan(one.estimate) else -abs(one.estimate)


def gap_table() -> str:
    """Return what each diagnostic adds to log n for the recall gap and test recall, as a table."""
    return _table(GAP_OUTCOMES)


def gain_table() -> str:
    """Return what each diagnostic adds to log n for the gain in test recall from each remedy, as a table."""
    return _table(GAIN_OUTCOMES)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(MEASURES[name].title for name in names) or "none"


def text() -> str:
    """Return the number of runs, the procedure and the findings, in words that the numbers choose."""
    if not results():
        return NO_RECORDS
    told = []
    for runs, found in results():
        alone = association(np.log(runs.class_counts), runs.outcome("gap"), runs.class_counts, runs.tails, given=False)
        if math.isnan(alone.estimate):
            told.append(f"{_described(runs)}; nothing is tested below {FEWEST_TAILS} tail orders.")
            continue
        design, words = runs.design, verdicts(found)
        accuracy = ", ".join(
            f"{title} {100 * mean(float(one['balanced_accuracy']) for one in listed):.1f}"
            for title, listed in (
                ("cross entropy", runs.base),
                *((REMEDIES[name], runs.remedies[name]) for name in REMEDIES),
            )
        )
        tested = [name for name in ASKED if words["gap"][name] != "not tested"]
        adds = {outcome: [name for name in ASKED if column[name] == "yes"] for outcome, column in words.items()}
        unsure = {outcome: sum(word == "unsure" for word in column.values()) for outcome, column in words.items()}
        silent = [name for name in tested if all(words[outcome][name] == "no" for outcome in words)]
        gains = {name for outcome in GAIN_OUTCOMES for name in adds[outcome]}
        gained = "; ".join(f"{title}: {_listed(adds[name])}" for name, title in REMEDIES.items())
        only_recall = "recall_heldout" in tested and all(
            abs(found["gap"][name].estimate) <= abs(found["gap"]["recall_heldout"].estimate) for name in tested
        )
        told.append(
            f"{_described(runs)}; a fifth held out, batches of {design['batch_size']}. Each network was trained without the"
            f" hold-out, diagnosed on it alone, and read on test once; a remedy's gain is over cross entropy of the same tail"
            f" order and seed. Balanced test accuracy, %: {accuracy}. A cell is the rank correlation over classes, pooled"
            " within runs, after everything that class size says was taken out; its 95% interval draws tail orders. **Bold**:"
            " the interval leaves out 0, and measures of other classes would reach as much with p < 0.05 at most, after Holm"
            f" over the {len(tested)} diagnostics of a column, and of all gains together; *italic*: the interval alone leaves out 0, as some of so many do"
            " by chance. “–”: not tested, for too few classes have held-out images enough, or, of gains, because a gain is over the"
            " very recall that held-out recall estimates."
        )
        told.append(
            f"**Log n alone goes with the recall gap by {alone.estimate:+.2f}; beyond it,"
            f" {len(adds['gap'])} of {len(tested)} diagnostics add to the gap ({_listed(adds['gap'])};"
            f" unsure: {unsure['gap']}), and {len(gains)} to the gain of a remedy ({gained}).**"
            + (" None says more of the gap than held-out recall itself." if only_recall else "")
            + (f" Nothing was shown of {_listed(silent)}." if silent else "")
        )
    return "\n\n".join(told)


def _numbers(text: str) -> list[int]:
    """Parse `0..7` or `0,1`."""
    if ".." in text:
        first, last = (int(end) for end in text.split(".."))
        return list(range(first, last + 1))
    return [int(one) for one in text.split(",")]


def _tails(text: str) -> list[str]:
    return [str(one) for one in _numbers(text)] if ".." in text else text.split(",")


def build_parser() -> argparse.ArgumentParser:
    """Return the options, whose defaults suit two CPU cores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--imbalance", default="exp:100:1300")
    parser.add_argument("--model", default="small_cnn")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--tails", type=_tails, default="0..7", help="0..7, or a list such as canonical,0,1")
    parser.add_argument("--seeds", type=_numbers, default="0,1")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--evidence", action="store_true", help="print what measures.py is to say, and stop")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and print a line for each run."""
    options = build_parser().parse_args(arguments)
    if options.evidence:
        print("\n".join(f'    "{name}": "{words}",' for name, words in evidence().items()))
        return
    try:
        protocol = protocol_of(options)
        for record in run(
            protocol, options.tails, options.seeds, root=options.root, device=options.device, path=options.out
        ):
            print(
                f"tail {record['tail_order']} seed {record['seed']} {record['method']}:"
                f" {100 * record['balanced_accuracy']:.1f}% in {record['seconds']:.0f} s",
                flush=True,
            )
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
