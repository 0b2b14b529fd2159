"""What the records of `benchmarks.real_sets` show, as tables for `docs/results/real_sets.md`."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
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
DOCS = Path(__file__).resolve().parent.parent / "docs" / "results"
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


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The gain in points that a choice expected of a candidate, the one that came out on test images, and its errors."""

    candidate: str
    expected: float
    low: float
    high: float
    came_out: float
    error: float

    @property
    def holds(self) -> bool:
        """Whether the two differ by at most 1.96 times the standard error of their difference."""
        error = math.hypot((self.high - self.low) / 2 / 1.96, self.error)
        return abs(self.came_out - self.expected) <= 1.96 * error


def forecasts(name: str) -> list[Forecast]:
    """Return the forecasts of a set's records."""
    fields = ("gain", "gain_low", "gain_high", "came_out", "came_out_error")
    return [
        Forecast(each["candidate"], *(100 * each[field] for field in fields))
        for one in stored.kept(real_sets.path_of(name))
        for each in one.get("forecasts", ())
    ]


def forecasts_table() -> str:
    """Return the gain that `choose_head` expected of each candidate, beside the one that came out on test images."""
    rows = [
        "| set | repair | expected gain | came out | forecasts that hold |",
        "|:--|:--|--:|--:|--:|",
    ]
    for name in real_sets.SETS:
        everything = forecasts(name)
        names = dict.fromkeys(one.candidate for one in everything)
        parts = {f"`{each}`": [one for one in everything if one.candidate == each] for each in names}
        for title, ones in (parts | {"all": everything}).items() if everything else ():
            holds = sum(one.holds for one in ones)
            share = f"{holds} of {len(ones)}" + (f" ({holds / len(ones):.0%})" if title == "all" else "")
            expected, out = mean(one.expected for one in ones), mean(one.came_out for one in ones)
            rows.append(f"| {TITLES[name]} | {title} | {expected:+.1f} | {out:+.1f} | {share} |")
    return "\n".join(rows) if len(rows) > 2 else NO_RECORDS


def draw_figures(folder: Path = DOCS) -> list[Path]:
    """Draw the expected gains against those that came out, as an SVG file that is the same for the same records."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    found = {name: ones for name in real_sets.SETS if (ones := forecasts(name))}
    if not found:
        return []
    path = folder / "real_sets_forecasts.svg"
    style = {"svg.hashsalt": "real sets", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
    with mpl.rc_context(style | {"axes.spines.right": False}):
        figure = Figure(figsize=(3.4 * len(found) + 0.6, 3.4), layout="constrained")
        for axis, (name, ones) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
            ends = [end for one in ones for end in (one.low, one.high, one.came_out)]
            axis.plot([min(ends), max(ends)], [min(ends), max(ends)], color="#888888", linewidth=0.8)
            for holds, colour, label in ((True, "#0072b2", "holds"), (False, "#d55e00", "does not")):
                kept = [one for one in ones if one.holds is holds]
                expected, out = ([getattr(one, side) for one in kept] for side in ("expected", "came_out"))
                spread = [[one.expected - one.low for one in kept], [one.high - one.expected for one in kept]]
                axis.errorbar(
                    expected,
                    out,
                    xerr=spread,
                    fmt="o",
                    ms=3,
                    lw=0.4,
                    color=colour,
                    alpha=0.6,
                    label=label if kept else None,
                )
            axis.set_title(TITLES[name])
            axis.set_xlabel("expected gain, points (95% interval)")
            axis.set_ylabel("came out on test images, points")
            axis.legend(frameon=False, loc="upper left")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    return [path]


TABLES: Mapping[str, Callable[[], str]] = {
    "real_sets_text": text,
    "real_sets_heads": heads_table,
    "real_sets_measures": measures_table,
    "real_sets_forecasts": forecasts_table,
}
