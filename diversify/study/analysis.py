"""Compare methods from the records of a study: scores with intervals, and differences that are paired by seed.

Scores come from the `final` records, each of which read the test set once for one method and seed. Trials show what the search
cost, and which reweighting method the validation set prefers.

**What is repeated.** Intervals are over networks. A run has a network of its own, unless it names the frozen backbone that it
used (`inside["backbone"]`). Runs on one backbone are not independent, so they are averaged first: the scores within each
method, and the paired differences of two methods. The number of networks is the n of every interval, p value and bootstrap.

**What an interval covers.** It says how far a mean would move if all networks were trained again with other seeds, with the same
parameters and the same test images. It does not cover other test images, since records hold recalls and not images, or another
search, which might choose other parameters. It covers the training images as far as the tail orders vary: with a single tail
order the interval holds for that training set alone; with a different one per network it holds for other tail orders too. If
some networks share a tail order, networks still count as independent: intervals are then rather wide for the tail orders of the
study, and rather narrow for others.

**Which interval.** A study has few networks, and the paired t interval is honest about that: with 3 networks it is wide. A
bootstrap over n values never leaves their range, which contains the median of their distribution with probability 1 - 2^(1 - n)
(75% with n = 3), whatever its nominal level. It is reported next to the t interval from 6 networks on, and no verdict depends on
it. With 2 networks there is no p value and no verdict, and with 1 no interval. Classes are not resampled: those of the data are
the ones asked about, not a sample of others.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from ..errors import must
from ..functional.stats import holm
from .comparison import (
    ACCURACIES,
    BASELINE,
    COSTS,
    OURS,
    REWEIGHTING,
    SCORES,
    Budget,
    Comparison,
    MethodResult,
    Reference,
    Role,
    SuiteComparison,
    replicate_of,
)
from .estimates import Difference, Estimate, Network, difference
from .read import Record, metric_of, value_of
from .scores import finite_mean, inside_columns, inside_of, network_of, number_or_nan, recall_by_rank, scores_of

Importances = Callable[[Sequence[Record], Sequence[str]], Mapping[str, float] | None]
"""Returns the importance of each parameter, from the complete trials of a method and the names of its parameters."""


def compare(
    records: Sequence[Record],
    *,
    protocol: Mapping[str, Any] | None = None,
    reweighting: Collection[str] = REWEIGHTING,
    importances: Importances | None = None,
) -> Comparison:
    """Compare the methods of every suite in the records. The order of the records does not matter.

    Args:
        records: As `load` returns them.
        protocol: As `load_protocol` returns it. It applies to the suite that it names, and shows which runs are missing.
        reweighting: Names of the methods among which the validation set chooses the best reweighting method.
        importances: Returns the importance of each parameter, from the complete trials of a method and the names of its
            parameters.

    Returns:
        One comparison per suite and protocol.

    Raises:
        InputError: a method has two final runs with one seed, or two complete trials with one number, or records of one
            protocol have different metrics.

    Example:
        >>> def final(method, seed, accuracy):
        ...     return {"kind": "final", "suite": "mine", "method": method, "seed": seed, "balanced_accuracy": accuracy,
        ...             "recall": [accuracy, accuracy], "class_counts": [90, 10]}
        >>> records = [final("ce", 0, 0.50), final("ce", 1, 0.52), final("ce", 2, 0.51)]
        >>> records += [final("vs", 0, 0.61), final("vs", 1, 0.62), final("vs", 2, 0.60)]
        >>> gain = compare(records).suites[0].references["baseline"].differences["vs"]
        >>> round(gain.paired.mean, 3), gain.verdict
        (0.1, 'ahead')
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


def _require_unique(records: Sequence[Record]) -> None:
    """Raise an InputError if a final run or a complete trial is recorded twice, since either could be the valid one."""
    finals = Counter((one["method"], one["seed"]) for one in records if one["kind"] == "final")
    trials = Counter((one["method"], one["number"]) for one in _complete(records) if isinstance(one.get("number"), int))
    for found, unit in (
        (finals, "final of each method and seed"),
        (trials, "complete trial of each method and number"),
    ):
        for (method, number), often in found.items():
            if often > 1:
                raise must("results", f"hold one {unit}", f"{often} of {method}, {number} in {records[0]['suite']}")


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
    _require_unique(records)
    metrics = sorted({metric_of(one) for one in records})
    if len(metrics) > 1:
        raise must("results", "hold one metric under one protocol", f"{' and '.join(metrics)} in {records[0]['suite']}")
    finals = [one for one in records if one["kind"] == "final"]
    planned_seeds = _listed(protocol, "seeds", int) or tuple(sorted({one["seed"] for one in finals}))
    names = (*_listed(protocol, "methods", str), *sorted({one["method"] for one in records}))
    methods = [
        _method(
            name,
            [one for one in records if one["method"] == name],
            planned_seeds,
            inside_columns(finals),
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
        metric=metrics[0],
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


def _networks_of_pairs(one: Mapping[int, Network], other: Mapping[int, Network]) -> dict[int, Network]:
    """Return the network of every seed that two methods share. Seeds linked by a network of either method count as one."""
    found = {seed: seed for seed in one if seed in other}
    for _ in found:  # a chain of links is no longer than this
        for networks in (one, other):
            first: dict[Network, int] = {}
            for seed, linked in found.items():
                first[networks[seed]] = min(linked, first.get(networks[seed], linked))
            found = {seed: first[networks[seed]] for seed in found}
    return dict(found)


def _listed(protocol: Mapping[str, Any], name: str, kind: type) -> tuple[Any, ...]:
    values = protocol.get(name)
    return tuple(one for one in values if isinstance(one, kind)) if isinstance(values, list | tuple) else ()


def _different(records: Iterable[Record], name: str) -> tuple[str, ...]:
    return tuple(sorted({str(one[name]) for one in records if one.get(name)}))


def _place(one: MethodResult) -> tuple[bool, float, str]:
    mean, val = one.scores["score"].mean, one.budget.val
    return not one.seeds, -mean if one.seeds else -(val if val is not None else -math.inf), one.name


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
    ranked = {seed: recall_by_rank(one) for seed, one in finals.items()}
    complete = _complete(records)
    parameters = sorted({key for one in complete for key in one.get("params") or {}})
    by_cost = any(metric_of(one) == "cost" for one in records)

    def limits(score: str) -> tuple[float, float]:
        if score == "score" and by_cost:
            return -math.inf, 0.0
        return (-math.inf, math.inf) if score in COSTS else (0.0, 1.0)

    def inside(*, third: bool) -> dict[str, Estimate]:
        return {
            column: Estimate.of(
                {seed: finite_mean(inside_of(one, column, third=third)) for seed, one in finals.items()},
                networks=networks,
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
                {seed: found[score] for seed, found in scored.items()}, networks=networks, limits=limits(score)
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
    best = max(complete, key=value_of, default=None)  # the earliest of equals
    first = next((one for one in complete if one.get("number") == 0), None)
    params = (best or (finals[0] if finals else {})).get("params") or {}
    return Budget(
        complete=states["complete"],
        pruned=states["pruned"],
        failed=states["failed"],
        epochs=sum(
            int(number_or_nan(one.get("epochs")) or 0) for one in trials if number_or_nan(one.get("epochs")) >= 0
        ),
        seconds=math.fsum(
            number_or_nan(one.get("seconds_shared")) for one in trials if number_or_nan(one.get("seconds_shared")) >= 0
        ),
        val_default=float(value_of(first)) if first else None,
        val=float(value_of(best)) if best else None,
        params=dict(params),
        kept=best is None or all((one.get("params") or {}).get(key) == params[key] for one in finals for key in params),
    )


def _references(
    methods: Sequence[MethodResult], reweighting: Sequence[str], finals: Sequence[Record]
) -> dict[Role, Reference]:
    known = {one.name: one for one in methods}
    candidates = [known[name] for name in reweighting if known[name].budget.val is not None]
    top = max((one.budget.val for one in candidates if one.budget.val is not None), default=0.0)
    tied = [one for one in candidates if one.budget.val == top]
    # a tie on the validation set goes to the method that is hardest to beat, so that it favours no rival
    best = max(tied, key=lambda one: (_or_low(one.scores["score"].mean), one.name), default=None)
    if best:
        why = f"the best reweighting method on the validation set is {best.name}"
        if len(tied) > 1:
            why = f"{len(tied)} reweighting methods tie on the validation set; {best.name}, the best of them on test, is used"
    elif reweighting:
        why = "no reweighting method has a complete trial, so none can be chosen on the validation set"
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

    differences = over("score")
    by_another = any(metric_of(one) != "balanced" for one in finals)
    adjusted = holm({method: one.p for method, one in differences.items()})
    return Reference(
        role=role,
        name=name,
        why=why,
        differences={method: dataclasses.replace(one, p_holm=adjusted[method]) for method, one in differences.items()},
        others={score: over(score) for score in (*ACCURACIES, "ece") if score != "balanced_accuracy" or by_another},
        inside={column: _inside_over(column, other, rivals, networks, finals) for column in inside_columns(finals)},
    )


def _inside_over(
    column: str,
    other: MethodResult | None,
    rivals: Sequence[MethodResult],
    networks: Mapping[str, Mapping[int, Network]],
    finals: Sequence[Record],
) -> dict[str, Difference]:
    """Return the differences in a diagnostic by method, over the classes that have a value in both."""
    if other is None:
        return {}
    values = {(one["method"], int(one["seed"])): inside_of(one, column, third=True) for one in finals}
    found = {}
    for rival in rivals:
        changes = {}
        for seed in set(rival.seeds) & set(other.seeds):
            one, two = values[rival.name, seed], values[other.name, seed]
            if len(one) == len(two):
                changes[seed] = finite_mean(first - second for first, second in zip(one, two, strict=True))
        nothing = dict.fromkeys(changes, 0.0)
        found[rival.name] = difference(rival.name, other.name, changes, nothing, networks[rival.name])
    return found


def _unfinished(methods: Sequence[MethodResult], protocol: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what is missing, in words: final runs, and trials if their number is known or differs between methods."""
    found = []
    none = [one.name for one in methods if not one.seeds]
    if none:
        found.append(f"no final run yet of {', '.join(none)}")
    lacking = [f"{one.name} ({', '.join(map(str, one.missing))})" for one in methods if one.seeds and one.missing]
    if lacking:
        found.append(f"seeds without a final run: {'; '.join(lacking)}")
    most = max((one.budget.trials for one in methods), default=0)
    planned = protocol.get("trials")
    wanted = planned if isinstance(planned, int) else most
    short = [f"{one.name} ({one.budget.trials})" for one in methods if one.budget.trials < wanted]
    if short:
        found.append(f"methods with fewer than {wanted} trials: {', '.join(short)}")
    return tuple(found)


def _caveats(
    methods: Sequence[MethodResult], seeds: Sequence[int], finals: Sequence[Record], protocol: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return what limits the conclusions, in words."""
    most, replicate = max((one.replicates for one in methods), default=0), replicate_of(methods)
    found = []
    if most == 1:
        found.append(f"One {replicate}: there are no intervals, and no difference can be distinguished from chance")
    elif most == 2:
        found.append(f"Two {replicate}s: the intervals are very wide, and there are no p values")
    if most and not any(one.budget.trials for one in methods):
        found.append("No trial is recorded, so it is unknown how the parameters were chosen")
    others = [one.name for one in methods if not one.budget.kept]
    if others:
        found.append(f"Final runs without the parameters of the best trial on the validation set: {', '.join(others)}")
    failed = [f"{one.name} ({one.budget.failed})" for one in methods if one.budget.failed]
    if failed:
        found.append(f"Methods with failed trials: {', '.join(failed)}")
    for name, what in (("device", "devices"), ("workers", "numbers of workers per device")):
        if len({str(one.get(name)) for one in finals}) > 1:
            listed = ", ".join(sorted({str(one.get(name)) for one in finals}))
            found.append(f"Seconds and memory were measured with different {what}: {listed}")
    if len({str(one.get("commit")) for one in finals}) > 1:
        found.append("The final runs were made with different commits of the library")
    vals = [one.budget.val for one in methods if one.budget.val is not None]
    equal = sum(value == max(vals) for value in vals) if vals else 0
    if equal > 1:
        found.append(f"The validation set cannot tell the best {equal} methods apart: it is too small or too easy")
    if any(value is None for one in finals for value in one["recall"]):
        found.append("Some classes have no test images; means leave them out")
    if protocol.get("confirmation") is True:
        found.append(
            "This is a confirmation: rules and defaults were frozen before the study was run, those of methods that were added later before"
            " these were run"
        )
    return tuple(found)
