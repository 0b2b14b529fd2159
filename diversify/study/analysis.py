"""What the records of a study say: numbers with intervals over networks, paired by seed; `benchmark_report` draws them.

Everything is read from the `final` records, each the one reading of test by one (method, seed); trials show what was
spent to get there, and which reweighting method val calls the best.

A network is what is repeated, so it is what intervals are over. A run has its own, that of its seed, unless it names the
frozen backbone that it was made on (`inside["backbone"]`): what runs on one backbone say is nearly the same thing several
times. They are therefore averaged first, in each method, and so are the differences of the seeds that two methods both have;
the number of networks is the n of every interval, p value and bootstrap.

The intervals say how far a mean would move were all networks trained again with other seeds and the same parameters, and read
on the same test images. That other test images would give another difference is not in them, since records hold recalls, not
images; nor is it that a search would choose other parameters. Which training images they hold for goes by the tail orders.
Where all networks have the same one, for its images alone. Where each has another, for other tail orders as well, of which
these are a sample. Where some share one, networks still count as independent: for the tail orders of the study the intervals
are then rather wide, since how these differ is in them, and for others rather narrow, since there are fewer of them than n.

With the few networks that a study has, the t interval of the paired differences is the honest one: it is wide with 3 of them
because little is known. A bootstrap over n never leaves the range of the n differences, which holds the middle of their
distribution with probability 1 - 2^(1 - n): 75% with 3, whatever it calls itself. It is therefore given from 6 on, beside the
t interval, and no verdict hangs on it. With 2 there is no p value and no verdict, with 1 no interval either. Classes are not
resampled: those of the data are the ones asked about, and no sample of others.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

import torch

from ..errors import must
from ..functional import counts
from ..functional.stats import holm
from .estimates import Difference, Estimate, Network, difference
from .read import BACKBONE, Record

Importances = Callable[[Sequence[Record], Sequence[str]], Mapping[str, float] | None]

BASELINE, OURS = "ce", "diversify"
REWEIGHTING = frozenset(
    {
        "inverse_frequency",
        "square_root",
        "effective_number",
        "focal",
        "cb_focal",
        "ldam",
        "ldam_drw",
        "ce_drw",
        "balanced_softmax",
        "logit_adjustment",
        "vs",
        "asymmetric",
        "class_balanced_sampling",
        "square_root_sampling",
        "crt",
        "tau_norm",
    }
)
"""The methods that change weights, counts or margins, and nothing else; a control such as `vs+images` is none of them."""
SHOTS = ("many", "medium", "few")
THIRDS = ("largest_third", "middle_third", "smallest_third")
ACCURACIES = ("balanced_accuracy", *SHOTS, *THIRDS, "worst_class", "macro_f1", "g_mean")
COSTS = ("seconds", "seconds_shared", "peak_memory", "epochs")
SCORES = (*ACCURACIES, "ece", *COSTS)
DIVERSITY = "diversity_heldout"
Role = Literal["baseline", "reweighting", "ours"]
Replicate = Literal["seed", "network"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What the development of a method took.

    Attributes:
        val_default: Balanced accuracy on val of trial 0, which has the published values; None where it is not complete.
        val: That of the chosen trial, the best complete one; None without any.
        params: Of the chosen trial, or of the finals where no trial is complete.
        kept: Whether every final was trained with the parameters of that trial.
    """

    complete: int
    pruned: int
    failed: int
    epochs: int
    seconds: float
    val_default: float | None
    val: float | None
    params: Mapping[str, Any]
    kept: bool

    @property
    def trials(self) -> int:
        """However they ended."""
        return self.complete + self.pruned + self.failed


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodResult:
    """One method of a suite.

    Attributes:
        missing: Seeds of the study that have no final yet.
        networks: That of every seed.
        scores: By the names in `SCORES`; thirds and shot groups are mean recalls, NaN where no class is in one.
        recall: By rank of the class's size, largest first, mean over the networks; NaN where unknown.
        inside: What changed in the network, by column: the mean over the smallest third of the classes.
        inside_all: The same over all classes.
        importances: Of its parameters for val; None where they were not asked for or cannot be told.
    """

    name: str
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    networks: Mapping[int, Network]
    scores: Mapping[str, Estimate]
    recall: tuple[float, ...]
    budget: Budget
    inside: Mapping[str, Estimate]
    inside_all: Mapping[str, Estimate]
    importances: Mapping[str, float] | None

    @property
    def replicates(self) -> int:
        """How many networks its numbers are of."""
        return len(set(self.networks.values()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """What the other methods are compared with, and by how much they differ.

    Attributes:
        name: None where there is no such method; `why` says so.
        differences: Of balanced accuracy, by method; their p values are one Holm family.
        others: The same by score, for the remaining accuracies and `ece`, without adjustment.
        inside: The same by column of what changed inside, over the smallest third, paired by class too.
    """

    role: Role
    name: str | None
    why: str
    differences: Mapping[str, Difference]
    others: Mapping[str, Mapping[str, Difference]]
    inside: Mapping[str, Mapping[str, Difference]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteComparison:
    """One suite under one protocol.

    Attributes:
        label: The suite, with the beginning of the digest where a file holds several protocols of it.
        protocol: What the study held fixed, as recorded beside the records; empty where it is not.
        counts: Training images by rank, largest first, of the finals; empty where they differ by more than their order.
        methods: Best balanced accuracy first, those without a final last.
        hindsight: The reweighting method that is best on test, to be read only: nothing may be chosen by it.
        unfinished: What is missing, in words; empty when the study is whole.
        caveats: What else has to be known, in words.
    """

    suite: str
    label: str
    digest: str
    protocol: Mapping[str, Any]
    counts: tuple[int, ...]
    seeds: tuple[int, ...]
    tail_orders: tuple[str, ...]
    devices: tuple[str, ...]
    commits: tuple[str, ...]
    versions: Mapping[str, Any]
    methods: tuple[MethodResult, ...]
    references: Mapping[Role, Reference]
    hindsight: str | None
    reweighting: tuple[str, ...]
    unfinished: tuple[str, ...]
    caveats: tuple[str, ...]

    @property
    def finished(self) -> tuple[MethodResult, ...]:
        """The methods with a final at least."""
        return tuple(one for one in self.methods if one.seeds)

    @property
    def replicate(self) -> Replicate:
        """What to call that which intervals are over: seeds, unless any of them share a network."""
        return _replicate(self.methods)

    def method(self, name: str) -> MethodResult | None:
        """By name; None where it has no record."""
        return next((one for one in self.methods if one.name == name), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """All suites of the records, by name."""

    suites: tuple[SuiteComparison, ...]


def scores_of(record: Record) -> dict[str, float]:
    """Every score of one final, NaN where the record has none."""
    recall = _column(record["recall"])
    sizes = torch.tensor(record["class_counts"])
    found = {name: _number(record.get(name)) for name in SCORES}
    for names, group in ((SHOTS, counts.shot_groups(sizes)), (THIRDS, counts.count_thirds(sizes))):
        found |= {name: _mean(recall[group == place].tolist()) for place, name in enumerate(names)}
    known = [value for value in recall.tolist() if math.isfinite(value)]
    found["worst_class"] = min(known, default=math.nan)
    return found


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _column(values: Sequence[Any]) -> torch.Tensor:
    return torch.tensor([_number(value) for value in values], dtype=torch.float64)


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return fmean(known) if known else math.nan


def _by_rank(values: Sequence[Any], sizes: Sequence[int]) -> list[float]:
    """Largest class first; of one size, in the order of the classes."""
    order = torch.argsort(torch.tensor(sizes), descending=True, stable=True)
    return [float(value) for value in _column(values)[order]]


def _inside(record: Record, column: str, *, third: bool) -> list[float]:
    """The values of a column in the smallest third of the classes, or in all; NaN where unknown; one number is itself."""
    values = (record.get("inside") or {}).get(column)
    sizes = torch.tensor(record["class_counts"])
    if not isinstance(values, list):
        return [_number(values)]
    if len(values) != len(sizes):
        return []
    kept = counts.count_thirds(sizes) == 2 if third else torch.ones_like(sizes, dtype=torch.bool)
    return [float(value) for value in _column(values)[kept]]


def _inside_columns(finals: Iterable[Record]) -> tuple[str, ...]:
    """Named in any of the records, known ones first; text is no measure but says what a run was made on."""
    named = [pair for record in finals for pair in (record.get("inside") or {}).items()]
    found = {name for name, value in named if not isinstance(value, str)} - {BACKBONE}
    known = [name for name in ("magnitude_ratio", "magnitude_gap", DIVERSITY, "leak") if name in found]
    return (*known, *sorted(found - set(known)))


def network_of(record: Record) -> Network:
    """The backbone that a final names, or its seed where it has a network of its own."""
    return (record.get("inside") or {}).get(BACKBONE) or int(record["seed"])


def _networks_of_pairs(one: Mapping[int, Network], other: Mapping[int, Network]) -> dict[int, Network]:
    """Of the seeds that two methods both have: those that share a network in either, directly or through others, are one."""
    found = {seed: seed for seed in one if seed in other}
    for _ in found:  # a chain is no longer than this
        for networks in (one, other):
            first: dict[Network, int] = {}
            for seed, linked in found.items():
                first[networks[seed]] = min(linked, first.get(networks[seed], linked))
            found = {seed: first[networks[seed]] for seed in found}
    return dict(found)


def _replicate(methods: Iterable[MethodResult]) -> Replicate:
    return "network" if any(one.replicates < len(one.seeds) for one in methods) else "seed"


# Comparing


def compare(
    records: Sequence[Record],
    *,
    protocol: Mapping[str, Any] | None = None,
    reweighting: Collection[str] = REWEIGHTING,
    importances: Importances | None = None,
) -> Comparison:
    """Every suite of the records; their order changes nothing.

    Args:
        records: As `load` returns them.
        protocol: What the study held fixed, for the suite that it names; says what is still missing.
        reweighting: Names of the methods among which the best reweighting is chosen, by val.
        importances: Which parameters mattered, from the complete trials of a method and the names of its parameters.

    Raises:
        InputError: two finals of one (suite, protocol, method, seed), or two complete trials of one number.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["suite"], str(record.get("protocol") or "")), []).append(record)
    several = Counter(suite for suite, _ in groups)
    return Comparison(
        suites=tuple(
            _suite(
                sorted(group, key=_key),
                label=f"{suite} ({digest[:8] or 'no protocol'})" if several[suite] > 1 else suite,
                protocol=protocol if protocol and protocol.get("suite") == suite else {},
                reweighting=reweighting,
                importances=importances,
            )
            for (suite, digest), group in sorted(groups.items())
        )
    )


def _key(record: Record) -> tuple[str, str, int, int, str]:
    number = record.get("number")
    started = str(record.get("started"))
    return record["method"], record["kind"], int(record["seed"]), number if isinstance(number, int) else -1, started


def _once(records: Sequence[Record]) -> None:
    """Each final and each complete trial is there once: which of two would hold is unsaid."""
    finals = Counter((one["method"], one["seed"]) for one in records if one["kind"] == "final")
    trials = Counter((one["method"], one["number"]) for one in _complete(records) if isinstance(one.get("number"), int))
    for found, what in (
        (finals, "final of each method and seed"),
        (trials, "complete trial of each method and number"),
    ):
        for (method, number), often in found.items():
            if often > 1:
                raise must("results", f"hold one {what}", f"{often} of {method}, {number} in {records[0]['suite']}")


def _complete(records: Iterable[Record]) -> list[Record]:
    return [one for one in records if one["kind"] == "trial" and one.get("state", "complete") == "complete"]


def _suite(
    records: Sequence[Record],
    *,
    label: str,
    protocol: Mapping[str, Any],
    reweighting: Collection[str],
    importances: Importances | None,
) -> SuiteComparison:
    _once(records)
    finals = [one for one in records if one["kind"] == "final"]
    planned_seeds = _listed(protocol, "seeds", int) or tuple(sorted({one["seed"] for one in finals}))
    names = (*_listed(protocol, "methods", str), *sorted({one["method"] for one in records}))
    methods = [
        _method(
            name,
            [one for one in records if one["method"] == name],
            planned_seeds,
            _inside_columns(finals),
            importances,
        )
        for name in dict.fromkeys(names)
    ]
    methods.sort(key=_place)
    listed = tuple(sorted(one.name for one in methods if one.name in reweighting))
    references = _references(methods, listed, finals)
    sizes = {tuple(sorted(one["class_counts"], reverse=True)) for one in finals}
    return SuiteComparison(
        suite=records[0]["suite"],
        label=label,
        digest=str(records[0].get("protocol") or ""),
        protocol=protocol,
        counts=next(iter(sizes)) if len(sizes) == 1 else (),
        seeds=planned_seeds,
        tail_orders=tuple(dict.fromkeys(str(one["tail_order"]) for one in finals if one.get("tail_order") is not None)),
        devices=_different(records, "device"),
        commits=_different(records, "commit"),
        versions=max(records, key=lambda one: str(one.get("started"))).get("versions") or {},
        methods=tuple(methods),
        references=references,
        hindsight=next((one.name for one in methods if one.name in listed and one.seeds), None),
        reweighting=listed,
        unfinished=_unfinished(methods, protocol),
        caveats=_caveats(methods, planned_seeds, finals, protocol),
    )


def _listed(protocol: Mapping[str, Any], name: str, kind: type) -> tuple[Any, ...]:
    values = protocol.get(name)
    return tuple(one for one in values if isinstance(one, kind)) if isinstance(values, list | tuple) else ()


def _different(records: Iterable[Record], name: str) -> tuple[str, ...]:
    return tuple(sorted({str(one[name]) for one in records if one.get(name)}))


def _place(one: MethodResult) -> tuple[bool, float, str]:
    mean, val = one.scores["balanced_accuracy"].mean, one.budget.val
    return not one.seeds, -mean if one.seeds else -(val if val is not None else -1.0), one.name


def _method(
    name: str,
    records: Sequence[Record],
    planned: Sequence[int],
    columns: Sequence[str],
    importances: Importances | None,
) -> MethodResult:
    finals = {int(one["seed"]): one for one in records if one["kind"] == "final"}
    networks = {seed: network_of(one) for seed, one in finals.items()}
    scored = {seed: scores_of(record) for seed, record in finals.items()}
    ranked = {seed: _by_rank(one["recall"], one["class_counts"]) for seed, one in finals.items()}
    complete = _complete(records)
    parameters = sorted({key for one in complete for key in one.get("params") or {}})

    def inside(*, third: bool) -> dict[str, Estimate]:
        return {
            column: Estimate.of(
                {seed: _mean(_inside(one, column, third=third)) for seed, one in finals.items()}, networks=networks
            )
            for column in columns
        }

    return MethodResult(
        name=name,
        seeds=tuple(finals),
        missing=tuple(seed for seed in planned if seed not in finals),
        networks=networks,
        scores={
            score: Estimate.of(
                {seed: found[score] for seed, found in scored.items()}, networks=networks, share=score not in COSTS
            )
            for score in SCORES
        },
        recall=tuple(
            Estimate.of(dict(zip(ranked, values, strict=True)), networks=networks).mean
            for values in zip(*ranked.values(), strict=True)
        )
        if len({*map(len, ranked.values())}) == 1
        else (),
        budget=_budget(records, list(finals.values())),
        inside=inside(third=True),
        inside_all=inside(third=False),
        importances=importances(complete, parameters) if importances and complete and parameters else None,
    )


def _budget(records: Sequence[Record], finals: Sequence[Record]) -> Budget:
    trials = [one for one in records if one["kind"] == "trial"]
    states = Counter(str(one.get("state", "complete")) for one in trials)
    complete = _complete(trials)
    best = max(complete, key=lambda one: one["balanced_accuracy"], default=None)  # the first of equal ones
    first = next((one for one in complete if one.get("number") == 0), None)
    params = (best or (finals[0] if finals else {})).get("params") or {}
    return Budget(
        complete=states["complete"],
        pruned=states["pruned"],
        failed=states["failed"],
        epochs=sum(int(_number(one.get("epochs")) or 0) for one in trials if _number(one.get("epochs")) >= 0),
        seconds=math.fsum(
            _number(one.get("seconds_shared")) for one in trials if _number(one.get("seconds_shared")) >= 0
        ),
        val_default=float(first["balanced_accuracy"]) if first else None,
        val=float(best["balanced_accuracy"]) if best else None,
        params=dict(params),
        kept=best is None or all((one.get("params") or {}).get(key) == params[key] for one in finals for key in params),
    )


def _references(
    methods: Sequence[MethodResult], reweighting: Sequence[str], finals: Sequence[Record]
) -> dict[Role, Reference]:
    known = {one.name: one for one in methods}
    judged = [known[name] for name in reweighting if known[name].budget.val is not None]
    top = max((one.budget.val or 0.0 for one in judged), default=0.0)
    tied = [one for one in judged if one.budget.val == top]
    # of equals on val the one that is hardest to beat, so that a tie favours nobody who is compared with it
    best = max(tied, key=lambda one: (_or_low(one.scores["balanced_accuracy"].mean), one.name), default=None)
    if best:
        why = f"the best reweighting method on val is {best.name}"
        if len(tied) > 1:
            why = f"{len(tied)} reweighting methods are equal on val, of which {best.name} is taken, the best of them on test"
    elif reweighting:
        why = "no reweighting method has a complete trial, so val names no best one"
    else:
        why = "the study has no reweighting method"
    chosen: dict[Role, tuple[str | None, str]] = {
        "baseline": (BASELINE if BASELINE in known else None, f"the study has no method {BASELINE}"),
        "reweighting": (best.name if best else None, why),
        "ours": (OURS if OURS in known else None, f"the study has no method {OURS}"),
    }
    found: dict[Role, Reference] = {}
    for role, (name, reason) in chosen.items():
        if name is not None and not known[name].seeds:
            reason = f"no final run yet of {name}"
        elif name is not None and role != "reweighting":
            reason = ""
        found[role] = _reference(role, name, reason, methods, finals)
    return found


def _or_low(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _reference(
    role: Role, name: str | None, why: str, methods: Sequence[MethodResult], finals: Sequence[Record]
) -> Reference:
    other = next((one for one in methods if one.name == name and one.seeds), None)
    rivals = [one for one in methods if one.seeds and one.name != name] if other else []
    networks = {one.name: _networks_of_pairs(one.networks, other.networks) for one in rivals if other}

    def over(score: str) -> dict[str, Difference]:
        if other is None:
            return {}
        return {
            one.name: difference(
                one.name, other.name, one.scores[score].by_seed, other.scores[score].by_seed, networks[one.name]
            )
            for one in rivals
        }

    differences = over("balanced_accuracy")
    adjusted = holm({method: one.p for method, one in differences.items()})
    return Reference(
        role=role,
        name=name,
        why=why,
        differences={method: dataclasses.replace(one, p_holm=adjusted[method]) for method, one in differences.items()},
        others={score: over(score) for score in (*ACCURACIES[1:], "ece")},
        inside={column: _inside_over(column, other, rivals, networks, finals) for column in _inside_columns(finals)},
    )


def _inside_over(
    column: str,
    other: MethodResult | None,
    rivals: Sequence[MethodResult],
    networks: Mapping[str, Mapping[int, Network]],
    finals: Sequence[Record],
) -> dict[str, Difference]:
    """Per method, over the classes that have a value in both."""
    if other is None:
        return {}
    values = {(one["method"], int(one["seed"])): _inside(one, column, third=True) for one in finals}
    found = {}
    for rival in rivals:
        changes = {}
        for seed in set(rival.seeds) & set(other.seeds):
            one, two = values[rival.name, seed], values[other.name, seed]
            if len(one) == len(two):
                changes[seed] = _mean(first - second for first, second in zip(one, two, strict=True))
        nothing = dict.fromkeys(changes, 0.0)
        found[rival.name] = difference(rival.name, other.name, changes, nothing, networks[rival.name])
    return found


def _unfinished(methods: Sequence[MethodResult], protocol: Mapping[str, Any]) -> tuple[str, ...]:
    """What is missing, in words: final runs, and trials where their number is known or differs between methods."""
    found = []
    none = [one.name for one in methods if not one.seeds]
    if none:
        found.append(f"no final run yet of {', '.join(none)}")
    lacking = [f"{one.name} of {', '.join(map(str, one.missing))}" for one in methods if one.seeds and one.missing]
    if lacking:
        found.append(f"seeds without a final run: {'; '.join(lacking)}")
    most = max((one.budget.trials for one in methods), default=0)
    planned = protocol.get("trials")
    wanted = planned if isinstance(planned, int) else most
    short = [f"{one.name} {one.budget.trials}" for one in methods if one.budget.trials < wanted]
    if short:
        found.append(f"of {wanted} trials each, some have fewer: {', '.join(short)}")
    return tuple(found)


def _caveats(
    methods: Sequence[MethodResult], seeds: Sequence[int], finals: Sequence[Record], protocol: Mapping[str, Any]
) -> tuple[str, ...]:
    """What has to be known before a difference is believed."""
    most, replicate = max((one.replicates for one in methods), default=0), _replicate(methods)
    found = []
    if most == 1:
        found.append(f"One {replicate}: no interval can be given, and no difference can be told from chance")
    elif most == 2:
        found.append(f"Two {replicate}s: the intervals are very wide, and there are no p values")
    if most and not any(one.budget.trials for one in methods):
        found.append("No trial is recorded: how the parameters were chosen cannot be seen")
    others = [one.name for one in methods if not one.budget.kept]
    if others:
        found.append(f"Not trained with the parameters of their best trial on val: {', '.join(others)}")
    failed = [f"{one.name} {one.budget.failed}" for one in methods if one.budget.failed]
    if failed:
        found.append(f"Trials failed: {', '.join(failed)}")
    for name, what in (("device", "devices"), ("workers", "numbers of workers that shared the device")):
        if len({str(one.get(name)) for one in finals}) > 1:
            listed = ", ".join(sorted({str(one.get(name)) for one in finals}))
            found.append(f"Seconds and memory were measured with several {what}: {listed}")
    if len({str(one.get("commit")) for one in finals}) > 1:
        found.append("The final runs were made by several states of the library: see the commits of the records")
    vals = [one.budget.val for one in methods if one.budget.val is not None]
    equal = sum(value == max(vals) for value in vals) if vals else 0
    if equal > 1:
        found.append(f"Val cannot tell the best {equal} methods apart: it is too small, or too easy, to choose much by")
    if any(value is None for one in finals for value in one["recall"]):
        found.append("Some classes have no test images; they are in no mean")
    if protocol.get("confirmation") is True:
        found.append("For confirmation only: rules and defaults were frozen before it was run")
    return tuple(found)
