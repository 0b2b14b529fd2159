"""How often forecasts held, from the records of `benchmarks.forecasts` and others: `docs/results/forecasts.md` and its figure."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import forecasts, forecasts_fit, learning_curve, real_sets, real_sets_page
from benchmarks.unseen_rows import HALVES
from diversify.functional import stats
from diversify.repair.forecast import head_forecast

DOCS = Path(__file__).resolve().parent.parent / "docs" / "results"
NO_RECORDS = "No records yet."
AIM = (0.90, 0.98)  # coverage of a calibrated 95% interval
HEADS = "repaired head"
TRAINED = {"prior": "training, prior corrected", "images": "training, images too"}
LABELS = "more labels"
BINS = 6  # of the expected gain, each with as many forecasts


class Outcome(NamedTuple):
    """A forecast beside what came out, in shares of 1.

    Attributes:
        what: What was forecast.
        suite: Where.
        half: `development` or `confirmation`.
        whole: Whether it is of the balanced accuracy, not of a class.
        expected: The forecast gain.
        width: Width of its interval.
        real: What came out on the test set.
        held: Whether the interval contains it, with the chance in the test set allowed for.
    """

    what: str
    suite: str
    half: str
    whole: bool
    expected: float
    width: float
    real: float
    held: bool


@functools.lru_cache(maxsize=1)
def outcomes() -> tuple[Outcome, ...]:
    """Return every forecast on record with what came out."""
    return (*_of_heads(), *_of_real_sets(), *_of_training(forecasts_fit.left_out()), *_of_labels())


def _of_heads() -> list[Outcome]:
    found = []
    for one in forecasts.records():
        if one["kind"] != "head" or one["recommended"] == "untouched":
            continue
        heldout, test = ({name: _column(values) for name, values in one[side].items()} for side in ("heldout", "test"))
        columns, whole = head_forecast(heldout)
        rows = test["rows"]
        real = (test["after"] - test["before"]) / rows
        ends = stats.paired_difference_interval(test["before"], test["after"], test["both"], rows)
        gain, low, high = (columns[f"gain{end}"] for end in ("", "_low", "_high"))
        under, over = stats.difference_interval(gain, (low, high), real, ends)
        suite = one["data"] + (f", {one['heldout_rows']}" if one["suite"] == "tails" else ", narrow classes")
        part = forecasts.half_of_head(one["suite"], one["order"])
        for c in (~gain.isnan()).nonzero()[:, 0].tolist():
            held = bool(under[c] <= 0 <= over[c])
            width = float(high[c] - low[c])
            found.append(Outcome(HEADS, suite, part, False, float(gain[c]), width, float(real[c]), held))
        out = float(real.mean())
        half = float((torch.stack(ends) - real).square().sum(1).sqrt().max()) / len(real)
        held = whole["gain_low"] - half <= out <= whole["gain_high"] + half
        found.append(
            Outcome(HEADS, suite, part, True, whole["gain"], whole["gain_high"] - whole["gain_low"], out, held)
        )
    return found


def _of_real_sets() -> list[Outcome]:
    """Return the forecasts of every candidate on open clip art and emoji; no choice among them is made here."""
    return [
        Outcome(
            HEADS,
            f"{real_sets_page.TITLES[name]}, every candidate",
            HALVES[1],
            True,
            one.expected / 100,
            (one.high - one.low) / 100,
            one.came_out / 100,
            one.holds,
        )
        for name in real_sets.SETS
        for one in real_sets_page.forecasts(name)
    ]


def _of_training(forecasts: Sequence[forecasts_fit.Forecast]) -> list[Outcome]:
    found = []
    for one in forecasts:
        what, suite, half = TRAINED[one.case.kind], one.case.suite, one.case.half
        for gain, low, high, real in zip(
            *(v.tolist() for v in (one.gain, one.low, one.high, one.case.gain)), strict=True
        ):
            if not math.isnan(gain):
                found.append(Outcome(what, suite, half, False, gain, high - low, real, low <= real <= high))
        expected, low, high = one.whole
        out = float(one.case.gain.mean())
        found.append(Outcome(what, suite, half, True, expected, high - low, out, low <= out <= high))
    return found


def _of_labels() -> list[Outcome]:
    found = []
    for one in learning_curve.records():
        for case in learning_curve.cases([one], learning_curve.OURS):
            held = bool(case["covered"])
            found.append(
                Outcome(LABELS, one["setting"], one["half"], False, case["gain"], case["width"], case["real"], held)
            )
    return found


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _cells(found: Sequence[Outcome]) -> str:
    error = mean(abs(one.real - one.expected) for one in found)
    nothing = mean(abs(one.real) for one in found)
    points = (100 * value for value in (mean(one.width for one in found), error, nothing))
    shown = " | ".join(f"{value:.0f}" if place == 0 else f"{value:.1f}" for place, value in enumerate(points))
    gains = " | ".join(f"{100 * mean(getattr(one, name) for one in found):+.1f}" for name in ("expected", "real"))
    return f"{len(found):,} | {mean(one.held for one in found):.1%} | {shown} | {gains}"


HEADINGS = "forecasts | interval covers | its width | error | error of “no change” | expected gain | came out"


def _table(title: str, groups: Mapping[str, Sequence[Outcome]]) -> str:
    rows = [f"| {name} | {_cells(found)} |" for name, found in groups.items() if found]
    if not rows:
        return NO_RECORDS
    return "\n".join([f"| {title} | {HEADINGS} |", f"|:--|{'--:|' * 7}", *rows])


def summary_table() -> str:
    """Return what each kind of forecast was worth, over all suites; repaired heads and labels on the confirmation half."""
    groups = {}
    for whole in (False, True):
        for what in (HEADS, *TRAINED.values(), LABELS):
            confirmed = what in (HEADS, LABELS)
            name = f"{what}, {'balanced accuracy' if whole else 'each class'}"
            groups[name] = [
                one
                for one in outcomes()
                if one.what == what
                and one.whole == whole
                and (not confirmed or one.half == HALVES[1])
                and "every candidate" not in one.suite
            ]
    return _table("forecast", groups)


def confirmation_table() -> str:
    """Return what the forecasts of training were worth on tail orders that were read once, by numbers fitted on all others."""
    found = _of_training(forecasts_fit.confirmed())
    groups = {
        f"{what}, {'balanced accuracy' if whole else 'each class'}": [
            one for one in found if one.what == what and one.whole == whole
        ]
        for whole in (False, True)
        for what in TRAINED.values()
    }
    return _table("forecast", groups)


def heads_table(half: str = HALVES[1]) -> str:
    """Return what the forecasts of repaired heads were worth by suite, of each class."""
    ours = [one for one in outcomes() if one.what == HEADS and one.half == half and not one.whole]
    return _table("networks and held-out images of each class", _by_suite(ours))


def training_table(kind: str) -> str:
    """Return what the forecasts of training were worth by suite, of each class; each suite was left out of the fit."""
    return _table("suite", _by_suite([one for one in outcomes() if one.what == TRAINED[kind] and not one.whole]))


def _by_suite(found: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    return {suite: [one for one in found if one.suite == suite] for suite in dict.fromkeys(one.suite for one in found)}


def text() -> str:
    """Return the findings in words."""
    found = [one for one in outcomes() if not one.whole]
    if not any(one.what == HEADS for one in found):
        return NO_RECORDS
    lines = []
    for what in (HEADS, *TRAINED.values(), LABELS):
        ours = [one for one in found if one.what == what and (what not in (HEADS, LABELS) or one.half == HALVES[1])]
        if ours:
            share = mean(one.held for one in ours)
            inside = "within" if AIM[0] <= share <= AIM[1] else "outside"
            shares = [mean(one.held for one in own) for own in _by_suite(ours).values()]
            lines.append(
                f"- **{what}**: the 95% intervals of the classes contain {share:.1%} of what came out, {inside} the aim of {AIM[0]:.0%} to"
                f" {AIM[1]:.0%}; {min(shares):.0%} to {max(shares):.0%} by suite."
            )
    return "\n".join(lines)


def draw_figures(folder: Path = DOCS) -> list[Path]:
    """Draw the calibration, as an SVG file that is the same for the same records."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    found = [one for one in outcomes() if not one.whole and (one.what not in (HEADS, LABELS) or one.half == HALVES[1])]
    if not found:
        return []
    path = folder / "forecasts.svg"
    colours = dict(zip((HEADS, *TRAINED.values(), LABELS), ("#0072b2", "#d55e00", "#009e73", "#cc79a7"), strict=True))
    style = {"svg.hashsalt": "forecasts", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
    with mpl.rc_context(style | {"axes.spines.right": False}):
        figure = Figure(figsize=(9.2, 5.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        rows = [
            (what, suite, own)
            for what in colours
            for suite, own in _by_suite([o for o in found if o.what == what]).items()
        ]
        left.axvspan(100 * AIM[0], 100 * AIM[1], color="#dddddd", zorder=0)
        left.axvline(95, color="#888888", linewidth=0.8)
        for place, (what, _, own) in enumerate(rows):
            left.plot(100 * mean(one.held for one in own), place, "o", color=colours[what], ms=5)
        left.set_yticks(range(len(rows)), [suite for _, suite, _ in rows])
        left.invert_yaxis()
        left.set_xlabel("share of what came out that lies in the 95% intervals, %\n(grey: the aim, 90 to 98%)")
        ends = (-40.0, 80.0)
        right.plot(ends, ends, color="#888888", linewidth=0.8)
        for what, colour in colours.items():
            ours = sorted((one for one in found if one.what == what), key=lambda one: one.expected)
            size = max(1, math.ceil(len(ours) / BINS))
            parts = [ours[start : start + size] for start in range(0, len(ours), size)]
            expected, real = (
                [100 * mean(getattr(one, name) for one in part) for part in parts] for name in ("expected", "real")
            )
            right.plot(expected, real, "o-", color=colour, ms=4, linewidth=1, label=what if ours else None)
        right.set_xlabel("expected gain in recall, points (means of sixths)")
        right.set_ylabel("gain that came out, points")
        right.legend(frameon=False, loc="upper left")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    return [path]


TABLES: Mapping[str, Callable[[], str]] = {
    "forecasts_text": text,
    "forecasts_summary": summary_table,
    "forecasts_heads": heads_table,
    "forecasts_heads_development": functools.partial(heads_table, HALVES[0]),
    "forecasts_confirmation": confirmation_table,
    "forecasts_prior": functools.partial(training_table, "prior"),
    "forecasts_images": functools.partial(training_table, "images"),
}
