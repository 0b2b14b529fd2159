"""What the records of `benchmarks.real_sets` show, as tables for `docs/results/real_sets.md`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from scipy.stats import t as student

from benchmarks import real_sets
from benchmarks import records as stored
from benchmarks.diversity import HALVES, KINDS
from benchmarks.diversity_analysis import Estimate
from diversify.functional import draws

Array = NDArray[np.float64]
NO_RECORDS = "No records yet."
TITLES = {"clipart": "open clip art", "emoji": "emoji"}
SPACES = {"pixels": "pixels", "network": "pretrained network"}
BOOTSTRAPS = 2000
FEWEST = 8  # classes with a value that a correlation needs
OUTCOMES = ("cross entropy", "balanced softmax")


@functools.lru_cache(maxsize=1)
def records() -> Mapping[str, list[dict[str, Any]]]:
    """Return the records of each set that has some."""
    found = {name: _joined(stored.kept(real_sets.path_of(name))) for name in real_sets.SETS}
    return {name: ones for name, ones in found.items() if ones}


def _joined(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one record per split, with the heads of both kinds of lines."""
    found: dict[int, dict[str, Any]] = {}
    for one in sorted(lines, key=lambda one: real_sets.KINDS_OF_RECORDS.index(one["kind"])):
        known = found.get(int(one["split"]))
        if known is None:
            if one["kind"] == "split":
                found[int(one["split"])] = dict(one)
            continue
        for side in ("recall", "recall_other"):
            if side in one:
                known[side] = {**known[side], **one[side]}
    return [found[number] for number in sorted(found)]


def over_splits(values: Sequence[float]) -> Estimate:
    """Return the mean with its 95% t interval over splits."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return Estimate(known[0] if known else math.nan, math.nan, math.nan)
    half = float(student.ppf(0.975, len(known) - 1)) * stdev(known) / math.sqrt(len(known))
    return Estimate(mean(known), mean(known) - half, mean(known) + half)


def _numbers(values: Sequence[float | None]) -> Array:
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def partial_rank_correlation(one: Array, other: Array, given: Array | None = None) -> float:
    """Return the rank correlation of two columns over classes, after a linear regression of both ranks on the rank of `given`.

    Classes with an undefined value are left out; NaN if fewer than `FEWEST` are left or a column is constant.
    """
    columns = [one, other] + ([] if given is None else [given])
    known = np.isfinite(np.stack(columns)).all(0)
    if known.sum() < FEWEST:
        return math.nan
    return float(_partial(*(column[known][None] for column in columns))[0])


def _partial(one: Array, other: Array, given: Array | None = None) -> Array:
    """Return `(B,)` correlations of the ranks in each row of `(B, C)` columns without gaps; NaN where a column is constant."""
    columns = [one, other] + ([] if given is None else [given])
    left = [rank - rank.mean(1, keepdims=True) for rank in (rankdata(column, axis=1) for column in columns)]
    with np.errstate(divide="ignore", invalid="ignore"):
        if given is not None:
            base = left[2]
            left = [part - base * ((part * base).sum(1) / (base * base).sum(1))[:, None] for part in left[:2]]
        length = np.sqrt((left[0] ** 2).sum(1) * (left[1] ** 2).sum(1))
        return np.where(length > 1e-9, (left[0] * left[1]).sum(1) / length, math.nan)


def _columns(one: Mapping[str, Any], name: str, outcome: str) -> tuple[Array, Array, Array | None]:
    log_n = np.log(_numbers(one["counts"]["train"]))
    recall = _numbers(one["recall"][outcome])
    if name == "log n":
        return log_n, recall, None
    nothing = [math.nan] * len(recall)  # a measure that is younger than the record
    return _numbers(one["measures"].get(name, nothing)), recall, log_n


def by_split(ones: Sequence[Mapping[str, Any]], name: str, outcome: str) -> Estimate:
    """Return the correlation of a measure with recall, beyond log n, with its interval over splits."""
    return over_splits([partial_rank_correlation(*_columns(one, name, outcome)) for one in ones])


def over_classes(ones: Sequence[Mapping[str, Any]], name: str, outcome: str) -> Estimate:
    """Return the correlation of the means over splits, with a 95% bootstrap interval over classes."""
    parts = [_columns(one, name, outcome) for one in ones]
    measure, recall = np.mean([part[0] for part in parts], 0), np.mean([part[1] for part in parts], 0)
    sizes = [part[2] for part in parts if part[2] is not None]
    given = np.mean(sizes, 0) if sizes else None
    value = partial_rank_correlation(measure, recall, given)
    if math.isnan(value):
        return Estimate(value, math.nan, math.nan)
    columns = [measure, recall] + ([] if given is None else [given])
    known = np.isfinite(np.stack(columns)).all(0)
    number = int(known.sum())
    rows = draws.integers(number, "real sets page", torch.arange(BOOTSTRAPS)[:, None], torch.arange(number)).numpy()
    drawn = _partial(*(column[known][rows] for column in columns))
    drawn = drawn[~np.isnan(drawn)]
    return Estimate(value, float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975)))


def _half(ones: Sequence[dict[str, Any]], half: str) -> list[dict[str, Any]]:
    return [one for one in ones if one["half"] == half]


def text() -> str:
    """Return what the records are of, and what size explains."""
    if not records():
        return NO_RECORDS
    lines = []
    for name, ones in records().items():
        sizes = np.array(ones[0]["counts"]["train"])
        explained = mean(
            float(np.corrcoef(np.log(one["counts"]["train"]), one["recall"]["cross entropy"])[0, 1]) ** 2
            for one in ones
        )
        whole = sum(sum(part) for part in ones[0]["counts"].values())
        halves = " and ".join(f"{len(_half(ones, half))} for {half}" for half in HALVES)
        lines.append(
            f"- **{TITLES[name]}**: {whole:,} images in {len(sizes)} classes, {sizes.min()} to {sizes.max():,} training images a class;"
            f" {len(ones)} random splits, {halves}. A line on log n explains {explained:.0%} of the variance of recall over classes."
        )
    best = _ordered()[0]
    known = [
        f"{TITLES[name]} {by_split(_half(ones, HALVES[1]), best, OUTCOMES[0]).shown()} over splits,"
        f" {over_classes(ones, best, OUTCOMES[0]).shown()} over classes"
        for name, ones in records().items()
    ]
    lines.append(
        f"- The measure that goes furthest with recall beyond log n on the development splits is **{_title(best)}**; on the"
        f" confirmation splits: {'; '.join(known)}."
    )
    return "\n".join(lines)


def _ordered() -> list[str]:
    """Return the measures, that with the largest correlation beyond log n on the development splits first."""
    names = list(dict.fromkeys(name for ones in records().values() for name in ones[0]["measures"]))

    def strength(name: str) -> float:
        found = [abs(by_split(_half(ones, HALVES[0]), name, OUTCOMES[0]).value) for ones in records().values()]
        return mean(found) if not any(map(math.isnan, found)) else -1.0

    return sorted(names, key=strength, reverse=True)


def _scores(one: Mapping[str, Any], head: str, side: str = "recall") -> dict[str, float]:
    recall = np.sort(_numbers(one[side][head])) * 100
    third = max(1, len(recall) // 3)
    return {"mean": float(recall.mean()), "third": float(recall[:third].mean()), "worst": float(recall[0])}


def heads_table(half: str = HALVES[1]) -> str:
    """Return the heads of each set: balanced accuracy, and differences to the fitted slope on the same splits."""
    if not records():
        return NO_RECORDS
    rows = [
        "| set | head | balanced accuracy | against the slope | worst third of classes, against the slope | splits ahead |",
        "|:--|:--|--:|--:|--:|--:|",
    ]
    for name, everything in records().items():
        ones = _half(everything, half)
        for side in ("recall", "recall_other"):
            if not ones or side not in ones[0]:
                continue
            title = TITLES[name] + (", of another vendor" if side == "recall_other" else "")
            for head in real_sets.HEADS:
                made = [one for one in ones if head in one[side]]
                if not made:
                    continue
                mine, base = ([_scores(one, which, side) for one in made] for which in (head, "slope"))
                apart = {
                    key: [own[key] - other[key] for own, other in zip(mine, base, strict=True)]
                    for key in ("mean", "third")
                }
                cells = ["–", "–", "–"]
                if head != "slope":
                    ahead = sum(value > 0 for value in apart["mean"])
                    cells = [over_splits(apart["mean"]).shown("+.1f"), over_splits(apart["third"]).shown("+.1f")]
                    cells.append(f"{ahead} of {len(made)}")
                own = over_splits([score["mean"] for score in mine]).value
                rows.append(f"| {title} | `{head}` | {own:.1f} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _title(name: str) -> str:
    space, _, kind = name.partition("_")
    return name if name == "log n" else f"{KINDS.get(kind, kind)}, {SPACES[space]}"


def measures_table() -> str:
    """Return log n and each diversity measure beyond log n: rank correlation with recall over the classes of a set."""
    if not records():
        return NO_RECORDS
    order = ["log n", *_ordered()]
    heads = [
        head
        for set_name in records()
        for head in (f"{TITLES[set_name]}: over splits", "over classes", f"over classes, {OUTCOMES[1]}")
    ]
    rows = [f"| measure | {' | '.join(heads)} |", f"|:--|{'--:|' * len(heads)}"]
    for name in order:
        cells = []
        for ones in records().values():
            cells.append(by_split(_half(ones, HALVES[1]), name, OUTCOMES[0]).shown())
            cells += [over_classes(ones, name, outcome).shown() for outcome in OUTCOMES]
        rows.append(f"| {_title(name)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def forecasts_table() -> str:
    """Return the gain that `choose_head` expected of each candidate, beside the one that came out on test images.

    A forecast holds if the two differ by at most 1.96 times the standard error of their difference: that of the forecast,
    from its 95% interval, and that of the gain on the test images.
    """
    rows = [
        "| set | repair | expected gain | came out | forecasts that hold |",
        "|:--|:--|--:|--:|--:|",
    ]
    for name in real_sets.SETS:
        found: dict[str, list[tuple[float, float, bool]]] = {}
        for one in stored.kept(real_sets.path_of(name)):
            for each in one.get("forecasts", ()):
                error = math.hypot((each["gain_high"] - each["gain_low"]) / 2 / 1.96, each["came_out_error"])
                holds = abs(each["came_out"] - each["gain"]) <= 1.96 * error
                line = (100 * each["gain"], 100 * each["came_out"], holds)
                for key in (each["candidate"], "all"):
                    found.setdefault(key, []).append(line)
        for key in sorted(found, key=lambda one: one == "all"):
            expected, out, holds = zip(*found[key], strict=True)
            title = f"`{key}`" if key != "all" else "all"
            share = f"{sum(holds)} of {len(holds)}" + (f" ({sum(holds) / len(holds):.0%})" if key == "all" else "")
            rows.append(f"| {TITLES[name]} | {title} | {mean(expected):+.1f} | {mean(out):+.1f} | {share} |")
    return "\n".join(rows) if len(rows) > 2 else NO_RECORDS


TABLES: Mapping[str, Callable[[], str]] = {
    "real_sets_text": text,
    "real_sets_heads": heads_table,
    "real_sets_measures": measures_table,
    "real_sets_forecasts": forecasts_table,
}
