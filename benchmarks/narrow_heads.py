"""Head repairs for narrow classes, rule by rule: `benchmarks/results/narrow_heads.jsonl`.

    python -m benchmarks.narrow_heads --root DATA [--workers 2] [--half development|confirmation]

Small networks are trained on Fashion-MNIST and CIFAR-10 with half of the classes narrow, as in `docs/results/diversity.md`. Then every
method repairs the head, with the same 30 held-out images of every class, drawn from all images of the class. A rule acts on the
classes that the diagnosis calls *narrow*; its control is the same rule on other classes. Scores are read on the test set.
Assignments 0 to 3 are for development, 4 to 7 for confirmation and read once. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.unseen_rows import HALVES, Bank, Heads, _interval, scores
from diversify.diagnosis.findings import NARROW
from diversify.diagnosis.near_copies import find_near_copies
from diversify.diagnosis.result import Diagnosis
from diversify.errors import must
from diversify.files import atomic
from diversify.functional import draws
from diversify.network.linear_head import LinearHead
from diversify.plan.plan import Plan
from diversify.plan.policies import FeaturePolicy
from diversify.repair.candidate import even_plan
from diversify.repair.fitted import fit_slope, slope_fitted
from diversify.repair.narrow import ON_UNSEEN, narrow_plan, narrow_shares
from diversify.repair.post_hoc import adjust_logits, log_prior_of
from diversify.runtime import provenance
from diversify.study.experiments.diversity_designs import DESIGNS
from diversify.study.experiments.diversity_run import images_of, loaded, some_of, trained_on

RESULTS = Path(__file__).parent / "results" / "narrow_heads.jsonl"
DATA = ("fashion-mnist", "cifar10")
CELLS = (("equal", "neighbours:3"), ("independent", "neighbours:3"), ("equal", "bursts:10"), ("equal", "none"))
ASSIGNMENTS = 8
ROWS = 30  # held-out images of every class
STEPS = 3  # of fitting two slopes in turn
COVARIANCE = FeaturePolicy(method="covariance", strength=0.3, share=0.5, donors="similar")
MIXING = FeaturePolicy(method="remix", strength=0.5, share=0.5)


def turned(values: Tensor, seed: int) -> Tensor:
    """Return the values of other classes: none keeps its own."""
    turn = draws.permutation(len(values), "narrow rules", seed)
    other = torch.empty_like(turn)
    other[turn] = turn.roll(1)
    return values[other]


class NarrowHeads(Heads):
    """The heads that the rules make of a network."""

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """The diagnosis by the held-out images."""
        self.plan()
        if self._diagnosis is None:
            raise must("rows", "be at least 1", self.rows)
        return self._diagnosis

    def narrow(self, *, permuted: bool = False) -> Tensor:
        """Return the classes that the diagnosis calls narrow, `(C,)` bool; or as many others."""
        found = torch.zeros(len(self.sizes), dtype=torch.bool)
        for one in self.diagnosis.findings:
            found[one.class_index] |= one.kind == NARROW
        return turned(found, self.bank.tail_order) if permuted else found

    def from_effective_images(self) -> LinearHead:
        """Return the fitted slope in the logarithm of effective images."""
        effective = find_near_copies(self.bank.train).effective_count.clamp(min=1)
        return slope_fitted(self.unseen, self.bank.head, log_prior_of(effective))

    def from_coverage(self, *, permuted: bool = False) -> LinearHead:
        """Return a slope in log n and one in the log odds of coverage, fitted together."""
        coverage = self.diagnosis.columns["coverage_heldout"].double()
        odds = torch.logit(coverage.nan_to_num(float(coverage.nanmean())).clamp(0.02, 0.98))
        odds = odds - odds.mean()
        odds = (turned(odds, self.bank.tail_order) if permuted else odds).to(self.prior.dtype)
        size, other = 1.0, 0.0
        for _ in range(STEPS):
            other = fit_slope(self.unseen, adjust_logits(self.bank.head, self.prior, size), odds, usual=0.0)
            size = fit_slope(self.unseen, adjust_logits(self.bank.head, odds, other), self.prior)
        return adjust_logits(adjust_logits(self.bank.head, self.prior, size), odds, other)

    def featured(self, policy: FeaturePolicy, classes: Tensor) -> LinearHead:
        """Return the head after even draws in which these classes' features are augmented."""
        plan = even_plan(self.sizes)
        return self.trained(_with_features(plan, policy, classes), unseen=False)

    def drawn_more(self, classes: Tensor) -> LinearHead:
        """Return the head after draws of these classes twice as often, with unseen rows."""
        return self.trained(narrow_plan(self.bank.train, classes), unseen=True)


def _with_features(plan: Plan, policy: FeaturePolicy, classes: Tensor) -> Plan:
    parts = tuple(
        one.model_copy(update={"features": (policy,)}) if chosen else one
        for one, chosen in zip(plan.classes, classes.tolist(), strict=True)
    )
    return plan.model_copy(update={"classes": parts})


def _counted(heads: NarrowHeads) -> Plan:
    return Plan.from_counts(heads.names, heads.sizes.tolist())


Make = Callable[[NarrowHeads], LinearHead]
METHODS: Mapping[str, tuple[str, str | None, Make]] = {  # what it is, its control, and how it is made
    "untouched": ("the head as trained", None, lambda heads: heads.bank.head),
    "fitted slope": (
        "one slope in log n, fitted on held-out images",
        None,
        lambda heads: slope_fitted(heads.unseen, heads.bank.head, heads.prior),
    ),
    "prior from effective images": (
        "one slope in the logarithm of effective images",
        "fitted slope",
        lambda heads: heads.from_effective_images(),
    ),
    "slope in coverage": (
        "a second slope, in the coverage of held-out images",
        "slope in coverage, other classes",
        lambda heads: heads.from_coverage(),
    ),
    "slope in coverage, other classes": (
        "the same with the coverage of other classes",
        None,
        lambda heads: heads.from_coverage(permuted=True),
    ),
    "fitted bias": ("a bias per class, shrunk to the slope", "fitted slope", lambda heads: heads.biased()),
    "worst-class offsets": (
        "biases moved to the worst classes",
        "permuted offsets",
        lambda heads: heads.biased(rounds=8),
    ),
    "permuted offsets": (
        "the same biases on other classes",
        None,
        lambda heads: heads.biased(rounds=8, permuted=True),
    ),
    "even draws": (
        "head trained further, classes drawn equally",
        None,
        lambda heads: heads.trained(even_plan(heads.sizes), unseen=False),
    ),
    "borrowed covariance": (
        "even draws, features of narrow classes spread by the covariance of similar classes",
        "borrowed covariance, other classes",
        lambda heads: heads.featured(COVARIANCE, heads.narrow()),
    ),
    "borrowed covariance, other classes": (
        "the same on as many other classes",
        None,
        lambda heads: heads.featured(COVARIANCE, heads.narrow(permuted=True)),
    ),
    "mixing": (
        "even draws, features of narrow classes mixed with those of other classes",
        "mixing, other classes",
        lambda heads: heads.featured(MIXING, heads.narrow()),
    ),
    "mixing, other classes": (
        "the same on as many other classes",
        None,
        lambda heads: heads.featured(MIXING, heads.narrow(permuted=True)),
    ),
    "even draws + unseen": (
        "even draws with held-out rows in every batch",
        "even draws",
        lambda heads: heads.trained(even_plan(heads.sizes), unseen=True),
    ),
    "narrow drawn more + unseen": (
        "the same, narrow classes drawn twice as often",
        "narrow drawn more + unseen, other classes",
        lambda heads: heads.drawn_more(heads.narrow()),
    ),
    "narrow drawn more + unseen, other classes": (
        "as many other classes drawn twice as often",
        None,
        lambda heads: heads.drawn_more(heads.narrow(permuted=True)),
    ),
    "logistic regression": (
        "the head fitted anew, every class with the same weight",
        "even draws",
        lambda heads: heads.refitted(),
    ),
    "logistic regression + unseen": (
        "the same with part of the weight on held-out rows",
        "even draws + unseen",
        lambda heads: heads.refitted(unseen=True),
    ),
    "narrow by unseen rows": (
        "the same, most of the weight of narrow classes on their held-out rows",
        "narrow by unseen rows, other classes",
        lambda heads: heads.refitted(unseen=True, share=narrow_shares(heads.narrow())),
    ),
    "narrow by unseen rows, other classes": (
        "most of the weight of as many other classes on theirs",
        "logistic regression + unseen",
        lambda heads: heads.refitted(unseen=True, share=narrow_shares(heads.narrow(permuted=True))),
    ),
    "all by unseen rows": (
        "most of the weight of every class on its held-out rows",
        "logistic regression + unseen",
        lambda heads: heads.refitted(unseen=True, share=ON_UNSEEN),
    ),
    "plan + unseen": (
        "the plan from the diagnosis, with held-out rows",
        "even draws + unseen",
        lambda heads: heads.trained(heads.plan(), unseen=True),
    ),
    "permuted plan + unseen": (
        "a plan from a permuted diagnosis, with held-out rows",
        None,
        lambda heads: heads.trained(heads.plan(permuted=True), unseen=True),
    ),
    "plan from counts + unseen": (
        "a plan that knows only class sizes, with held-out rows",
        None,
        lambda heads: heads.trained(_counted(heads), unseen=True),
    ),
}


def half_of(assignment: int) -> str:
    """Return which half an assignment belongs to."""
    return HALVES[assignment * 2 // ASSIGNMENTS]


def make_bank(data: str, sizes: str, form: str, assignment: int, root: Path) -> tuple[Bank, Tensor]:
    """Train a network; return its features and which classes are narrow."""
    design = DESIGNS[data]
    found = loaded(design, sizes, form, assignment, root)
    if found.view is None or found.val is None or found.test is None:
        raise must(f"data {data}", "have a val and a test split", "none")
    network = trained_on(design, found, found.view, assignment)
    narrow = torch.tensor([c in found.narrow_classes for c in range(found.num_classes)])
    bank = Bank(
        data=data,
        tail_order=assignment,
        half=half_of(assignment),
        head=network.head,
        train=network.embedded(network.images, network.labels),
        unseen=network.embedded(*images_of(found.val)),
        test=network.embedded(*some_of(found.test, found.num_classes)),
    )
    return bank, narrow


def run(
    bank: Bank, narrow: Tensor, sizes: str, form: str, methods: Sequence[str] = tuple(METHODS)
) -> Iterator[dict[str, Any]]:
    """Yield the record of each method."""
    heads = NarrowHeads(bank, ROWS)
    called = heads.narrow()
    for name in methods:
        begun, started = provenance.now(), time.perf_counter()
        found = scores(bank, METHODS[name][2](heads))
        mean = torch.tensor(found["recall"], dtype=torch.float64)[narrow].mean() if bool(narrow.any()) else torch.nan
        yield {
            "kind": "final",
            "suite": "narrow_heads",
            "data": bank.data,
            "sizes": sizes,
            "diversity": form,
            "assignment": bank.tail_order,
            "half": bank.half,
            "method": name,
            "rows": ROWS,
            "narrow": narrow.tolist(),
            "called_narrow": called.tolist(),
            **found,
            "narrow_recall": None if math.isnan(float(mean)) else float(mean),
            "seconds": round(time.perf_counter() - started, 3),
            "started": begun,
            **provenance.origin(torch.device("cpu")),
        }


def _network(task: tuple[str, str, str, int], *, root: Path, results: Path) -> str:
    torch.set_num_threads(1)
    data, sizes, form, assignment = task
    done = {str(one["method"]) for one in _records(results) if _key(one) == task}
    missing = [name for name in METHODS if name not in done]
    if missing:
        bank, narrow = make_bank(data, sizes, form, assignment, root)
        for record in run(bank, narrow, sizes, form, missing):
            atomic.append_jsonl(results, record)
    return f"{data}, sizes {sizes}, {form}, assignment {assignment} ({half_of(assignment)}): {len(missing)} records"


def _key(record: Mapping[str, Any]) -> tuple[str, str, str, int]:
    return str(record["data"]), str(record["sizes"]), str(record["diversity"]), int(record["assignment"])


def _records(path: Path | None = None) -> list[dict[str, Any]]:
    path = RESULTS if path is None else path
    return [dict(one) for one in atomic.read_jsonl(path)] if path.exists() else []


def table(half: str = HALVES[1], *, narrow: bool = True) -> str:
    """Return how far each method is ahead of the fitted slope, and a rule of its control, on the same networks.

    Args:
        half: Which half of the assignments.
        narrow: Of the networks with narrow classes, or of those without.
    """
    found: dict[str, dict[Any, dict[str, float]]] = {}
    for one in _records():
        if one["half"] == half and (one["diversity"] != "none") == narrow:
            values = {name: 100 * float(one[name] or 0.0) for name in ("balanced_accuracy", "worst", "narrow_recall")}
            found.setdefault(str(one["method"]), {})[_key(one)] = values
    base = found.get("fitted slope", {})
    if not base:
        return "No records yet."
    columns = ("balanced_accuracy", "worst", *(["narrow_recall"] if narrow else []))
    titles = ["balanced accuracy", "worst class", *(["narrow classes"] if narrow else []), "balanced, over its control"]
    lines = [f"| method | {' | '.join(titles)} |", f"|:--|{'--:|' * len(titles)}"]
    for name, (meaning, control, _) in METHODS.items():
        networks = {key: values for key, values in found.get(name, {}).items() if key in base}
        if not networks:
            continue
        if name == "fitted slope":
            cells = [_interval([values[one] for values in networks.values()]) for one in columns]
        else:
            cells = [
                _interval([values[one] - base[key][one] for key, values in networks.items()], sign="+")
                for one in columns
            ]
        against = found.get(control or "", {})
        pairs = [
            values["balanced_accuracy"] - against[key]["balanced_accuracy"]
            for key, values in networks.items()
            if key in against
        ]
        cells.append(_interval(pairs, sign="+") if pairs and control != "fitted slope" else "–")
        lines.append(f"| `{name}`: {meaning} | {' | '.join(cells)} |")
    return "\n".join(lines)


def text() -> str:
    """Return what the records are of."""
    records = _records()
    networks = {(one["half"], _key(one)) for one in records}
    if not networks:
        return "No records yet."
    halves = {half: sum(one[0] == half for one in networks) for half in HALVES}
    one_each = {_key(one): one for one in records if one["half"] == HALVES[1]}.values()
    pairs = [pair for one in one_each for pair in zip(one["narrow"], one["called_narrow"], strict=True)]
    made = sum(truth for truth, _ in pairs)
    hits = sum(truth and called for truth, called in pairs)
    wrong = sum(called and not truth for truth, called in pairs)
    said = (
        f" On the confirmation networks the diagnosis called {hits} of {made} narrow classes narrow, and {wrong} of {len(pairs) - made} others."
        if pairs
        else ""
    )
    return (
        f"{len(networks)} networks of {' and '.join(DATA)}: {halves['development']} for development, {halves['confirmation']} for confirmation.{said}"
        " Points with 95% t intervals over networks, on the test set."
    )


def main() -> None:
    """Make the records that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--half", choices=HALVES, help="only this half; both by default")
    parser.add_argument("--data", choices=DATA)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    tasks = [
        (data, sizes, form, assignment)
        for assignment in range(ASSIGNMENTS)
        for data in DATA
        for sizes, form in CELLS
        if options.half in (None, half_of(assignment)) and options.data in (None, data)
    ]
    work = partial(_network, root=options.root, results=options.out)
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        for line in pool.imap_unordered(work, tasks):
            print(line, flush=True)
    if options.out == RESULTS:
        print(text(), table(), sep="\n\n")


if __name__ == "__main__":
    main()
