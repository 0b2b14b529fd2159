"""What the records of a study say, as one offline HTML page, as Markdown, and as tables for other documents."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from . import layout, wording
from .layout import Cell, Chart, Grid, Heading, Headline, Meaning, Report, Row, Section, Shade, Statement, Table
from .measures import MEASURES
from .plots import Against, Rows, Series
from .study.compare import (
    BASELINE,
    CONFIDENCE,
    DIVERSITY,
    FEWEST_FOR_BOOTSTRAP,
    FEWEST_FOR_P,
    OURS,
    SHOTS,
    THIRDS,
    Comparison,
    Difference,
    Estimate,
    MethodResult,
    Record,
    Role,
    SuiteComparison,
    compare,
)
from .wording import DASH

NO_RECORDS = "No records yet."
NAME = 24  # characters of a method's name in a drawing
RANKS = 20  # classes that the map of recalls shows; with more, the groups alone
BY_SEED = 5  # seeds whose numbers are listed one by one

_NOTHING = math.nan
_YARDSTICKS: tuple[Role, ...] = ("baseline", "reweighting")
_ROLES_IN_ORDER: tuple[Role, ...] = (*_YARDSTICKS, "ours")
_SIGNS: Mapping[Role, str] = {"ours": "●", "baseline": "○", "reweighting": "△"}
_ROLES: Mapping[Role, str] = {"ours": "ours", "baseline": "baseline", "reweighting": "best reweighting on val"}
_TITLES = {  # of scores
    "balanced_accuracy": "balanced accuracy",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "largest_third": "largest third",
    "middle_third": "middle third",
    "smallest_third": "smallest third",
    "worst_class": "worst class",
    "macro_f1": "macro F1",
    "g_mean": "G-mean",
    "ece": "ECE",
}
_INSIDE = {  # column of `inside`: title, unit, unit of a difference
    "magnitude_ratio": ("top-K magnitude ratio", "ratio"),
    "magnitude_gap": ("top-K magnitude gap", "ratio"),
    DIVERSITY: ("held-out diversity", "ratio"),
    "diversity_train": ("training diversity", "ratio"),
    "leak": ("leak, points", "tenths"),
}


def render_benchmark_html(comparison: Comparison) -> str:
    """One offline page."""
    return layout.html(benchmark_report_of(comparison))


def render_benchmark_markdown(comparison: Comparison) -> str:
    """The same without the plots."""
    return layout.markdown(benchmark_report_of(comparison))


def benchmark_report_of(comparison: Comparison) -> Report:
    """What the report of a study says."""
    suites = comparison.suites
    if not suites:
        return _empty()
    alone = len(suites) == 1
    return Report(
        title=f"Benchmark: {', '.join(wording.named(suite.label) for suite in suites)}",
        subtitle="The same data, network and budget for every method: parameters chosen on val, then trained on all of train"
        " with what was chosen, and test read once per method and seed. "
        + " ".join(f"{'' if alone else f'{wording.named(suite.label)}: '}{_what(suite)}." for suite in suites),
        warnings=tuple(one for suite in suites for one in _warnings(suite, alone)),
        headlines=tuple(one for suite in suites for one in (_headlines(suite) if alone else _short_headlines(suite))),
        findings_note="Balanced accuracy on test, means over the seeds; brackets are 95% t intervals over seeds, and a difference"
        " is taken seed by seed. What has an interval that holds 0 cannot be told from chance here.",
        findings=tuple(one for suite in suites for one in _statements(suite, "" if alone else f"{suite.label}: ")),
        classes=_method_table(suites[0]) if alone else _suite_table(suites),
        sections=tuple(one for place, suite in enumerate(suites) for one in _sections(suite, place, alone)),
        beyond_note="",
        beyond=None,
        meanings=_meanings(comparison),
        origin=tuple(pair for suite in suites for pair in _origin(suite, "" if alone else f"{suite.label}: ")),
    )


# Tables for other documents


def headline_table(records: Sequence[Record], protocol: Mapping[str, Any] | None = None) -> str:
    """The methods of every suite as Markdown, best first."""
    suites = compare(records, protocol=protocol).suites
    if not suites:
        return NO_RECORDS
    return "\n\n".join(
        (f"**{suite.label}**\n\n" if len(suites) > 1 else "") + _markdown_table(suite) for suite in suites
    )


def text(records: Sequence[Record], protocol: Mapping[str, Any] | None = None) -> str:
    """Where the table comes from, how `diversify` fares in it, and what is missing, in sentences."""
    suites = compare(records, protocol=protocol).suites
    if not suites:
        return NO_RECORDS
    return "\n\n".join(
        " ".join(
            (
                f"{f'{suite.label}: ' if len(suites) > 1 else ''}{_what(suite)}.",
                *(f"{one.title}. {one.text}" for one in _statements(suite, "")),
                *(wording.sentence(one) for one in (*suite.unfinished, *suite.caveats)),
            )
        )
        for suite in suites
    )


def _markdown_table(suite: SuiteComparison) -> str:
    over = [role for role in _YARDSTICKS if suite.references[role].differences]
    groups = [name for name in ("few", "smallest_third", "worst_class", "ece") if _has(suite, name)]
    titles = (
        "method",
        "balanced accuracy, %",
        *(f"over {_md(str(suite.references[role].name))}, points" for role in over),
        *(f"{_TITLES[name]}, %" for name in groups),
        "seconds",
    )
    rows = [f"| {' | '.join(titles)} |", f"|:--|{'--:|' * (len(titles) - 1)}"]
    for one in suite.methods:
        name = f"**{_md(one.name)}**" if one.name == OURS else _md(one.name)
        if not one.seeds:
            rows.append(f"| {name} | {DASH} |{'  |' * (len(titles) - 2)}")
            continue
        cells = (
            _plus_minus(one.scores["balanced_accuracy"])
            + (f" ({len(one.seeds)} of {len(suite.seeds)} seeds)" if one.missing else ""),
            *(_lead(suite.references[role].differences.get(one.name)) for role in over),
            *(_tenths(one.scores[score].mean) for score in groups),
            _seconds(one.scores["seconds_shared"].mean),
        )
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _md(name: str) -> str:
    return f"`{name}`"


def _plus_minus(estimate: Estimate) -> str:
    half = f" ± {_tenths(estimate.half)}" if math.isfinite(estimate.half) else ""
    return _tenths(estimate.mean) + half


def _lead(found: Difference | None) -> str:
    if found is None:
        return DASH
    half = f" ± {_tenths(found.paired.half)}" if math.isfinite(found.paired.half) else ""
    return wording.points(found.paired.mean) + half


# Numbers and words


def _tenths(value: float) -> str:
    return wording.unsigned(100 * value, 1) if math.isfinite(value) else DASH


def _seconds(value: float) -> str:
    if not math.isfinite(value):
        return DASH
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _memory(value: float) -> str:
    return f"{value / 2**20:,.0f} MiB" if math.isfinite(value) else DASH


def _p(value: float) -> str:
    return DASH if math.isnan(value) else "<0.001" if value < 0.0005 else f"{value:.3f}"


def _ends(estimate: Estimate, unit: str = "tenths") -> str:
    return wording.between(estimate.low, estimate.high, unit)


def _has(suite: SuiteComparison, score: str) -> bool:
    return any(math.isfinite(one.scores[score].mean) for one in suite.finished)


def _share_cell(estimate: Estimate, *, strong: bool = False) -> Cell:
    return Cell(value=wording.percent(estimate.mean), interval=_ends(estimate, "percent"), strong=strong)


def _difference_cell(found: Difference | None) -> Cell:
    """In points; strong where the interval leaves out 0."""
    if found is None:
        return Cell(value=DASH)
    return Cell(value=wording.points(found.paired.mean), interval=_ends(found.paired), strong=found.verdict != "open")


def _role_of(suite: SuiteComparison, name: str) -> Role | None:
    return next((role for role in _SIGNS if suite.references[role].name == name), None)


def _marked(suite: SuiteComparison, one: MethodResult, cells: Sequence[Cell]) -> Row:
    role = _role_of(suite, one.name)
    mark = f"{_SIGNS[role]} {_ROLES[role]}" if role else ""
    return Row(name=wording.named(one.name), cells=tuple(cells), mark=mark, good=True)


def _signs(suite: SuiteComparison, methods: Sequence[MethodResult]) -> tuple[str, ...]:
    roles = [_role_of(suite, one.name) for one in methods]
    return tuple(_SIGNS[role] if role == "ours" else "" for role in roles)


def _legend(suite: SuiteComparison) -> str:
    told = [f"{_SIGNS[role]} {_ROLES[role]}" for role in _SIGNS if suite.references[role].name]
    return f"{', '.join(told)}." if told else ""


def _what(suite: SuiteComparison) -> str:
    """Methods, trials, seeds, and what is known of the data."""
    trials = sorted({one.budget.trials for one in suite.methods})
    spread = (
        f"{trials[0]} to {trials[-1]} trials" if len(trials) > 1 else layout.number_of(trials[0], "trial", "trials")
    )
    protocol = suite.protocol
    known = [str(protocol[name]) for name in ("data", "imbalance", "model") if protocol.get(name)]
    epochs = [one.scores["epochs"].mean for one in suite.finished if math.isfinite(one.scores["epochs"].mean)]
    if epochs and max(epochs) == min(epochs):
        known.append(f"{epochs[0]:,.0f} epochs")
    if suite.counts:
        known.append(f"{len(suite.counts)} classes of {suite.counts[0]:,} to {suite.counts[-1]:,} training images")
    if suite.tail_orders:
        known.append(f"tail order {', '.join(suite.tail_orders)}")
    told = f" ({'; '.join(known)})" if known else ""
    return (
        f"{layout.number_of(len(suite.methods), 'method', 'methods')}, {spread} each,"
        f" {layout.number_of(len(suite.seeds), 'seed', 'seeds')}{told}"
    )


def _ordinal(place: int) -> str:
    if place == 1:
        return "first"
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"


def _ours_over(suite: SuiteComparison, name: str) -> str:
    """`+1.2 points [0.1, 2.3]`, from the difference of the other to ours."""
    found = suite.references["ours"].differences.get(name)
    if found is None:
        return DASH
    paired = found.paired
    return f"{wording.points(-paired.mean)} points {wording.between(-paired.high, -paired.low, 'tenths')}".rstrip()


# Findings


def _warnings(suite: SuiteComparison, alone: bool) -> list[tuple[str, str]]:
    of = "" if alone else f"{wording.named(suite.label)}: "
    found = []
    if suite.unfinished:
        told = wording.sentence(f"{'; '.join(suite.unfinished)}")
        found.append((f"{of}This study is not finished.", f"{told} What is here may change."))
    found += [(f"{of}Mind:", wording.sentence(one)) for one in suite.caveats]
    return found


def _headlines(suite: SuiteComparison) -> tuple[Headline, ...]:
    ours = suite.method(OURS)
    found = []
    if suite.finished:
        best = suite.finished[0]
        scored = best.scores["balanced_accuracy"]
        found.append(
            Headline(
                label="Best on test",
                value=wording.percent(scored.mean),
                detail=f"{_ends(scored, 'percent')} {wording.named(best.name)}".strip(),
            )
        )
    if ours and ours.seeds:
        scored = ours.scores["balanced_accuracy"]
        place = suite.finished.index(ours) + 1
        found.append(
            Headline(
                label=OURS,
                value=wording.percent(scored.mean),
                detail=f"{_ends(scored, 'percent')} {_ordinal(place)} of {len(suite.finished)}".strip(),
            )
        )
    for role in _YARDSTICKS:
        reference = suite.references[role]
        gained = reference.differences.get(OURS)
        if gained is not None:
            of = " best reweighting on val" if role == "reweighting" else ""
            found.append(
                Headline(
                    label=f"Over {reference.name}, points",
                    value=wording.points(gained.paired.mean),
                    detail=f"{_ends(gained.paired)}{of}".strip(),
                )
            )
    return tuple(found)


def _short_headlines(suite: SuiteComparison) -> tuple[Headline, ...]:
    reference = suite.references["reweighting"]
    gained = reference.differences.get(OURS)
    if gained is None:
        return _headlines(suite)[:1]
    return (
        Headline(
            label=f"{suite.label}: {OURS} over {reference.name}",
            value=wording.points(gained.paired.mean),
            detail=f"{_ends(gained.paired)} points, best reweighting on val".strip(),
        ),
    )


def _statements(suite: SuiteComparison, of: str) -> tuple[Statement, ...]:
    if not suite.finished:
        return (Statement(title=f"{of}Nothing to compare yet", text="No final run is recorded."),)
    return tuple(
        Statement(title=f"{of}{one.title}", text=one.text, label=one.label, good=one.good)
        for one in (_standing(suite), *_hindsight(suite), _diversifies(suite), *_cost(suite))
    )


def _standing(suite: SuiteComparison) -> Statement:
    """Where ours is, and how often it is behind."""
    ours, best = suite.method(OURS), suite.finished[0]
    if len(suite.finished) == 1:
        return Statement(
            title=f"{best.name} is the only method with a final run",
            text="There is nothing to compare it with.",
            label="who wins",
        )
    if ours is None or not ours.seeds:
        return Statement(
            title=f"{best.name} is first of {len(suite.finished)}",
            text=wording.sentence(suite.references["ours"].why),
            label="who wins",
        )
    rivals = suite.references["ours"].differences
    told = [_tally(rivals.values(), f"{len(rivals)} comparison{'s' * (len(rivals) != 1)}")]
    listed = [one for name, one in rivals.items() if name in suite.reweighting]
    if listed:
        told.append(_tally(listed, f"{len(listed)} with reweighting methods"))
    for role in _YARDSTICKS:
        how = ", the best reweighting method on val" if role == "reweighting" else ""
        reference = suite.references[role]
        if reference.name in rivals:
            told.append(f"Over {reference.name}{how}: {_ours_over(suite, str(reference.name))}.")
        elif reference.why:
            told.append(wording.sentence(reference.why))
    place = suite.finished.index(ours) + 1
    return Statement(
        title=f"{OURS} is {_ordinal(place)} of {len(suite.finished)}",
        text=" ".join(told),
        label="who wins",
        good=place == 1,
    )


def _tally(others: Any, of: str) -> str:
    """How often ours is behind and ahead; a difference is that of the other to ours."""
    listed: list[Difference] = list(others)
    behind = [one for one in listed if one.paired.mean > 0]
    ahead = [one for one in listed if one.paired.mean < 0]
    told = [_surely(group) for group in (behind, ahead)]
    return f"Of {of} it is behind on {len(behind)}{told[0]} and ahead on {len(ahead)}{told[1]}."


def _surely(group: Sequence[Difference]) -> str:
    """How many of differences on one side have an interval that leaves out 0, and how many a p value below 5% after Holm."""
    beyond = sum(one.verdict != "open" for one in group)
    tested = any(math.isfinite(one.p_holm) for one in group)
    after = f", {sum(one.p_holm < 1 - CONFIDENCE for one in group)} after Holm" if tested else ""
    return f" ({beyond} by more than the interval{after})" if beyond else ""


def _hindsight(suite: SuiteComparison) -> tuple[Statement, ...]:
    """Which reweighting method test would have named."""
    chosen = suite.references["reweighting"].name
    if suite.hindsight is None or chosen is None or suite.hindsight == chosen:
        return ()
    over = suite.references["ours"].differences.get(suite.hindsight)
    ours = f" Over it, {OURS}: {_ours_over(suite, suite.hindsight)}." if over else ""
    return (
        Statement(
            title=f"On test, {suite.hindsight} is the best reweighting method",
            text=f"Val chose {chosen}, and test may choose nothing: this is hindsight, to be read only.{ours}",
            label="hindsight",
        ),
    )


def _diversifies(suite: SuiteComparison) -> Statement:
    """Whether what the library is named for happens, from numbers."""
    question, label = "Does diversifying really diversify?", "what changed inside"
    ours, baseline = suite.references["ours"], suite.references["baseline"]

    def untold(why: str) -> Statement:
        return Statement(title=f"{question} Cannot be told", text=wording.sentence(why), label=label)

    for one in (ours, baseline):
        if one.why:
            return untold(one.why)
    found = baseline.inside.get(DIVERSITY, {}).get(OURS)
    if found is None or not found.paired.values:
        return untold("held-out diversity of the smallest third of the classes was not measured")
    seeds = layout.number_of(len(found.paired.values), "seed", "seeds")
    change = f"{wording.signed(found.paired.mean, 2)} {_ends(found.paired, 'ratio')}".rstrip()
    numbers = (
        f"On unseen images of the smallest third of the classes the Vendi score of the features at matched n differs by {change}"
        f" from {BASELINE}'s ({seeds})"
    )
    others = []
    for column, words in (("magnitude_ratio", "the top-K magnitude ratio"), ("leak", "leak")):
        moved = baseline.inside.get(column, {}).get(OURS)
        if moved is not None and moved.paired.values:
            value, ends = _inside_words(column, moved.paired, signed=True)
            sure = "" if moved.verdict != "open" else ", which cannot be told from 0"
            others.append(f"{words} differs by {value} {ends}".rstrip() + f"{' points' * (column == 'leak')}{sure}")
    beside = f" {wording.sentence('; '.join(others))}" if others else ""
    if not math.isfinite(found.paired.low):
        return untold(f"{numbers}; one seed has no interval.{beside}".removesuffix("."))
    if found.verdict == "open":
        return untold(f"{numbers}: the interval holds 0.{beside}".removesuffix("."))
    more = found.verdict == "ahead"
    return Statement(
        title=f"{question} {'Yes: features are more diverse' if more else 'No: features are less diverse'}",
        text=f"{numbers}.{beside}",
        label=label,
        good=more,
    )


def _cost(suite: SuiteComparison) -> tuple[Statement, ...]:
    ours, other = suite.method(OURS), suite.method(BASELINE)
    if not (ours and other and ours.seeds and other.seeds):
        return ()
    spent, base = (one.scores["seconds_shared"].mean for one in (ours, other))
    if not (math.isfinite(spent) and math.isfinite(base) and base > 0):
        return ()
    return (
        Statement(
            title=f"{OURS} takes {spent / base:.2f} times the seconds of {BASELINE}",
            text=f"{_seconds(spent)} s against {_seconds(base)} s a final run, each with its share of the device.",
            label="cost",
            good=spent <= base,
        ),
    )


# Tables


def _method_table(suite: SuiteComparison) -> Table:
    groups = [name for name in ("few", "smallest_third", "worst_class") if _has(suite, name)]
    over = [role for role in _YARDSTICKS if suite.references[role].differences]
    listed = len(suite.seeds) <= BY_SEED
    rows = []
    for one in suite.methods:
        if not one.seeds:
            rows.append(
                _marked(suite, one, [Cell(value="no final yet")] + [Cell(value=DASH)] * (2 + len(over) + len(groups)))
            )
            continue
        scored = one.scores["balanced_accuracy"]
        lacking = f"{len(one.seeds)} of {len(suite.seeds)} seeds" if one.missing else ""
        by_seed = " / ".join(_tenths(value) for value in scored.values) if listed else str(len(one.seeds))
        seeds = Cell(value=by_seed, interval=lacking)
        rows.append(
            _marked(
                suite,
                one,
                [
                    _share_cell(scored),
                    seeds,
                    *(_difference_cell(suite.references[role].differences.get(one.name)) for role in over),
                    *(_share_cell(one.scores[name]) for name in groups),
                    Cell(value=_seconds(one.scores["seconds_shared"].mean)),
                ],
            )
        )
    return Table(
        title="The methods",
        caption=f"Best balanced accuracy on test first. {_legend(suite)} Brackets: 95% t intervals over seeds; bold: the"
        f" interval of a difference leaves out 0. {DASH}: undefined.",
        headings=(
            Heading(title="method", short="method"),
            _heading("balanced_accuracy", short="balanced accuracy"),
            Heading(title="by seed" if listed else "seeds"),
            *(
                Heading(
                    title=f"over {suite.references[role].name}, points",
                    short=f"over {suite.references[role].name}",
                    meaning="Difference of balanced accuracy, paired by seed.",
                    anchor="measure-difference",
                )
                for role in over
            ),
            *(_heading(name, short=_TITLES[name]) for name in groups),
            Heading(title="seconds", short="seconds", meaning="Of a final run, its share of the device."),
        ),
        rows=tuple(rows),
        rows_are="methods",
    )


def _heading(score: str, short: str = "") -> Heading:
    group = "shot-groups" if score in SHOTS else "thirds" if score in THIRDS else score.replace("_", "-")
    meaning = _SCORE_MEANINGS["shot_groups" if score in SHOTS else "thirds" if score in THIRDS else score][1]
    return Heading(title=_TITLES[score], short=short, meaning=meaning, anchor=f"measure-{group}")


def _suite_table(suites: Sequence[SuiteComparison]) -> Table:
    rows = []
    for place, suite in enumerate(suites):
        ours = suite.method(OURS)
        best = suite.finished[0] if suite.finished else None
        told = f"{_ordinal(suite.finished.index(ours) + 1)} of {len(suite.finished)}" if ours and ours.seeds else DASH
        cells = [
            Cell(
                value=best.name if best else DASH,
                interval=wording.percent(best.scores["balanced_accuracy"].mean) if best else "",
            ),
            Cell(value=told),
            *(_difference_cell(suite.references[role].differences.get(OURS)) for role in _YARDSTICKS),
            Cell(value=str(suite.references["reweighting"].name or DASH)),
            Cell(value=f"{len(suite.seeds)}"),
        ]
        rows.append(
            Row(
                name=wording.named(suite.label),
                cells=tuple(cells),
                meaning="To its methods.",
                anchor=f"suite-{place}-methods",
            )
        )
    titles = (
        "best on test",
        f"place of {OURS}",
        f"{OURS} over {BASELINE}, points",
        "over the best reweighting",
        "which is",
        "seeds",
    )
    return Table(
        title="The suites",
        caption="Differences of balanced accuracy on test, paired by seed, with 95% t intervals over seeds; bold: the interval"
        " leaves out 0. The best reweighting method is the one that val names.",
        headings=(Heading(title="suite"), *(Heading(title=title) for title in titles)),
        rows=tuple(rows),
        rows_are="suites",
    )


def _sections(suite: SuiteComparison, place: int, alone: bool) -> tuple[Section, ...]:
    found = [] if alone else [Section(title="The methods", anchor="methods", table=_method_table(suite))]
    if suite.finished:
        found += [*_differences(suite), _recalls(suite), _costs(suite), *_insides(suite)]
    found += [_budgets(suite), *([_protocol(suite)] if suite.protocol else [])]
    if alone:
        return tuple(found)
    return tuple(
        dataclasses.replace(
            one,
            title=f"{wording.named(suite.label)}: {one.title[0].lower()}{one.title[1:]}",
            anchor=f"suite-{place}-{one.anchor}",
        )
        for one in found
    )


def _differences(suite: SuiteComparison) -> tuple[Section, ...]:
    roles = [role for role in _ROLES_IN_ORDER if suite.references[role].differences]
    if not roles:
        return ()
    every = [one for role in roles for one in suite.references[role].differences.values()]
    seeds = max(len(one.paired.values) for one in every)
    shown = [
        column
        for column, there in (
            ("bootstrap", any(math.isfinite(one.bootstrap_low) for one in every)),
            ("seeds ahead", seeds > BY_SEED),
            ("p, Holm", any(math.isfinite(one.p_holm) for one in every)),
        )
        if there
    ]
    headings = [Heading(title="method", short="method")]
    for role in roles:
        over = f"over {suite.references[role].name}"
        headings += [
            Heading(title=f"{over}, points", short=over, meaning="Paired by seed.", anchor="measure-difference"),
            *(Heading(title=column, short=column, **_DIFFERENCE_MEANINGS[column]) for column in shown),
        ]
    rows = []
    for one in suite.finished:
        found = [suite.references[role].differences.get(one.name) for role in roles]
        cells = [cell for each in found for cell in (_difference_cell(each), *(_beside(each, name) for name in shown))]
        rows.append(_marked(suite, one, cells))
    told = []
    if seeds < FEWEST_FOR_P:
        told.append(f"With {layout.number_of(seeds, 'seed', 'seeds')} there is no p value.")
    elif seeds < FEWEST_FOR_BOOTSTRAP:
        told.append(f"With {seeds} seeds a bootstrap would claim more than it knows, and is left out.")
    told += [wording.sentence(one.why) for one in suite.references.values() if one.why]
    return (
        Section(
            title="Differences",
            anchor="differences",
            note=" ".join(("Balanced accuracy on test, of each method less the one named, seed by seed.", *told)),
            table=Table(
                title="Differences",
                caption="Points, with 95% t intervals over seeds; bold: the interval leaves out 0."
                + (" p values are of paired t tests, adjusted per column after Holm." if "p, Holm" in shown else ""),
                headings=tuple(headings),
                rows=tuple(rows),
            ),
            charts=tuple(_difference_chart(suite, role) for role in roles),
        ),
    )


_DIFFERENCE_MEANINGS = {
    "bootstrap": {"meaning": "95%, over seeds.", "anchor": "measure-bootstrap"},
    "seeds ahead": {},
    "p, Holm": {"meaning": "Adjusted for the number of methods in this column.", "anchor": "measure-holm"},
}


def _beside(found: Difference | None, column: str) -> Cell:
    """What stands beside a difference."""
    if found is None:
        return Cell(value=DASH)
    if column == "bootstrap":
        ends = wording.between(found.bootstrap_low, found.bootstrap_high, "tenths")
        return Cell(value="" if ends else DASH, interval=ends)
    if column == "seeds ahead":
        values = found.paired.values
        return Cell(value=f"{sum(value > 0 for value in values)}/{len(values)}")
    return Cell(value=_p(found.p_holm), interval=f"raw {_p(found.p)}" if math.isfinite(found.p) else "")


def _difference_chart(suite: SuiteComparison, role: Role) -> Chart:
    reference = suite.references[role]
    shown = [one for one in suite.finished if one.name in reference.differences]
    found = [reference.differences[one.name] for one in shown]
    told = "; ".join(f"{one.method} {wording.points(one.paired.mean)}" for one in found)
    title = {
        "baseline": f"Who gains over {reference.name}?",
        "reweighting": f"Who gains over {reference.name}?",
        "ours": f"Who gains over {OURS}?",
    }[role]
    what = {"reweighting": ", the best reweighting method on val", "ours": "; right of the line it loses"}.get(role, "")
    return Chart(
        title=title,
        caption=f"Points of balanced accuracy over {reference.name}{what}, with 95% t intervals.",
        alt=f"Difference in points: {told}.",
        data=Rows(
            names=tuple(one.name for one in shown),
            signs=_signs(suite, shown),
            series=(_series([one.paired for one in found], "difference"),),
            reference=0.0,
            longest=NAME,
            points=True,
        ),
    )


def _series(estimates: Sequence[Estimate], name: str, **style: Any) -> Series:
    return Series(
        name=name,
        values=tuple(one.mean for one in estimates),
        low=tuple(one.low for one in estimates),
        high=tuple(one.high for one in estimates),
        **style,
    )


def _recalls(suite: SuiteComparison) -> Section:
    shown = [name for name in (*SHOTS, *THIRDS, "worst_class", "macro_f1", "g_mean", "ece") if _has(suite, name)]
    rows = [_marked(suite, one, [_share_cell(one.scores[name]) for name in shown]) for one in suite.finished]
    absent = [name for name in SHOTS if name not in shown]
    none = f" No class is in {' or '.join(absent)}." if absent and len(absent) < len(SHOTS) else ""
    groups = [name for name in (*SHOTS, *THIRDS, "worst_class") if name in shown]
    sides = [
        (role, method)
        for role in _ROLES_IN_ORDER
        if (name := suite.references[role].name) and (method := suite.method(name)) and method.seeds
    ]
    styles: Mapping[Role, dict[str, Any]] = {
        "baseline": {"color": "muted", "marker": "s", "hollow": True},
        "reweighting": {"color": "orange", "marker": "^"},
        "ours": {"color": "blue", "marker": "o"},
    }
    charts: tuple[Chart, ...] = ()
    if sides and groups:
        told = "; ".join(
            f"{method.name}: "
            + ", ".join(f"{_TITLES[name]} {wording.percent(method.scores[name].mean)}" for name in groups)
            for _, method in sides
        )
        charts = (
            Chart(
                title="Who pays for whom?",
                caption="Mean recall on test of the classes in a group, with 95% t intervals over seeds.",
                alt=f"Recall: {told}.",
                data=Rows(
                    names=tuple(_TITLES[name] for name in groups),
                    signs=("",) * len(groups),
                    series=tuple(
                        _series([method.scores[name] for name in groups], method.name, **styles[role])
                        for role, method in sides
                    ),
                    percent=True,
                ),
            ),
        )
    return Section(
        title="Whose recall?",
        anchor="recall",
        note="Groups are mean recalls: many is more than 100 training images, medium 20 to 100, few less than 20; thirds of the"
        f" classes by training images.{none}",
        table=Table(
            title="Recall by group, and other scores",
            caption="Test, means over seeds, with 95% t intervals over seeds. ECE: lower is better.",
            headings=(
                Heading(title="method", short="method"),
                *(_heading(name, short=_TITLES[name]) for name in shown),
            ),
            rows=tuple(rows),
        ),
        charts=(*charts, *_exchange_chart(suite)),
        grids=_recall_map(suite),
    )


def _exchange_chart(suite: SuiteComparison) -> tuple[Chart, ...]:
    """What each method moves at either end of the counts, against the baseline."""
    baseline = suite.references["baseline"]
    ends = ("largest_third", "smallest_third")
    moved = {end: baseline.others[end] for end in ends}
    shown = [one for one in suite.finished if one.name in moved[ends[0]]]
    known = [one for one in shown if math.isfinite(sum(moved[end][one.name].paired.mean for end in ends))]
    if not known:
        return ()
    told = "; ".join(
        f"{one.name} {' and '.join(wording.points(moved[end][one.name].paired.mean) for end in ends)}" for one in known
    )
    styles = {"largest_third": {"color": "muted", "marker": "s", "hollow": True}, "smallest_third": {}}
    return (
        Chart(
            title="What does the tail gain, what does the head pay?",
            caption=f"Recall less {baseline.name}'s in points, with 95% t intervals over seeds.",
            alt=f"Difference of the largest and of the smallest third: {told}.",
            data=Rows(
                names=tuple(one.name for one in known),
                signs=_signs(suite, known),
                series=tuple(
                    _series([moved[end][one.name].paired for one in known], _TITLES[end], **styles[end]) for end in ends
                ),
                reference=0.0,
                longest=NAME,
                points=True,
            ),
        ),
    )


def _recall_map(suite: SuiteComparison) -> tuple[Grid, ...]:
    """Recall of every method for every class by its rank, where there are few."""
    sizes = {len(one.recall) for one in suite.finished}
    if len(sizes) != 1 or not 0 < max(sizes) <= RANKS:
        return ()
    ranks = range(max(sizes))
    columns = tuple(f"{suite.counts[rank]:,}" if suite.counts else f"rank {rank + 1}" for rank in ranks)

    def shade(one: MethodResult, rank: int) -> Shade | None:
        value = one.recall[rank]
        if not math.isfinite(value):
            return None
        return Shade(
            value=1 - value,
            text=wording.share(value).removesuffix("%"),
            title=f"{one.name}, {columns[rank]}: {wording.percent(value)}",
        )

    return (
        Grid(
            title="Recall by class",
            caption="In percent, mean over seeds; the darker, the more is missed. Classes by training images, largest first"
            + ("; which class that is changes with the tail order." if len(suite.tail_orders) > 1 else "."),
            corner="training images",
            columns=columns,
            rows=tuple((wording.named(one.name), tuple(shade(one, rank) for rank in ranks)) for one in suite.finished),
            hue="vermillion",
        ),
    )


def _costs(suite: SuiteComparison) -> Section:
    base = suite.method(BASELINE)
    spent = base.scores["seconds_shared"].mean if base and base.seeds else math.nan
    memory = _has(suite, "peak_memory")
    rows = []
    for one in suite.finished:
        shared = one.scores["seconds_shared"]
        cells = [
            Cell(
                value=_seconds(shared.mean),
                interval=f"[{_seconds(shared.low)}, {_seconds(shared.high)}]"
                if math.isfinite(shared.low) and shared.low > 0
                else "",
            ),
            Cell(value=wording.unsigned(shared.mean / spent, 2) if spent > 0 and math.isfinite(shared.mean) else DASH),
            Cell(value=_seconds(one.scores["seconds"].mean)),
            Cell(
                value=_seconds(one.scores["epochs"].mean)
                if one.scores["epochs"].mean >= 10
                else wording.unsigned(one.scores["epochs"].mean, 0)
            ),
            *([Cell(value=_memory(one.scores["peak_memory"].mean))] if memory else []),
            _share_cell(one.scores["balanced_accuracy"]),
        ]
        rows.append(_marked(suite, one, cells))
    shown = suite.finished
    told = "; ".join(
        f"{one.name} {_seconds(one.scores['seconds_shared'].mean)} s, {wording.percent(one.scores['balanced_accuracy'].mean)}"
        for one in shown
    )
    drawn = Against(
        label="balanced accuracy on test",
        across="seconds of a final run, its share of the device",
        names=tuple(one.name for one in shown),
        x=tuple(one.scores["seconds_shared"].mean for one in shown),
        y=tuple(one.scores["balanced_accuracy"].mean for one in shown),
        low=tuple(one.scores["balanced_accuracy"].low for one in shown),
        high=tuple(one.scores["balanced_accuracy"].high for one in shown),
        marked=tuple(one.name == OURS for one in shown),
        kinds=("other methods", OURS),
    )
    timed = _has(suite, "seconds_shared")
    return Section(
        title="Cost against accuracy",
        anchor="cost",
        note="Seconds of a final run, from its first step to its last look at the test images; where several processes shared the"
        " device, divided by their number.",
        table=Table(
            title="Cost against accuracy",
            caption=f"Means over seeds; measured on {'; '.join(suite.devices) or 'an unnamed device'}.",
            headings=(
                Heading(title="method"),
                Heading(title="seconds, shared"),
                Heading(title=f"times {BASELINE}"),
                Heading(title="seconds"),
                Heading(title="epochs"),
                *([Heading(title="peak memory")] if memory else []),
                Heading(title="balanced accuracy"),
            ),
            rows=tuple(rows),
        ),
        charts=(
            Chart(
                title="Is it worth it?",
                caption="Balanced accuracy with its 95% t interval, against seconds.",
                alt=f"Scatter plot: {told}.",
                data=drawn,
            ),
        )
        if timed
        else (),
    )


def _inside_words(column: str, estimate: Estimate, *, signed: bool = False) -> tuple[str, str]:
    """A value of `inside` and its interval, as the report writes them."""
    unit = _INSIDE.get(column, ("", "ratio"))[1]
    if unit == "tenths":
        return wording.points(estimate.mean), _ends(estimate, "tenths")
    value = wording.signed(estimate.mean, 2) if signed else wording.formatted(estimate.mean, unit)
    return value, _ends(estimate, unit)


def _insides(suite: SuiteComparison) -> tuple[Section, ...]:
    columns = [
        column
        for column in dict.fromkeys(name for one in suite.finished for name in one.inside)
        if any(math.isfinite(one.inside_all[column].mean) for one in suite.finished)
    ]
    if not columns:
        return ()
    baseline = suite.references["baseline"]
    rows = []
    for one in suite.finished:
        cells = []
        for column in columns:
            value, ends = _inside_words(column, one.inside[column])
            cells.append(Cell(value=value, interval=ends))
            if baseline.differences:
                moved = baseline.inside[column].get(one.name)
                if moved is None or not moved.paired.values:
                    cells.append(Cell(value=DASH))
                else:
                    value, ends = _inside_words(column, moved.paired, signed=True)
                    cells.append(Cell(value=value, interval=ends, strong=moved.verdict != "open"))
            cells.append(Cell(value=_inside_words(column, one.inside_all[column])[0]))
        rows.append(_marked(suite, one, cells))
    headings = [Heading(title="method", short="method")]
    for column in columns:
        title = _INSIDE.get(column, (column.replace("_", " "),))[0]
        headings.append(
            Heading(title=title, short=title, meaning=_inside_meaning(column), anchor=f"measure-inside-{column}")
        )
        if baseline.differences:
            headings.append(
                Heading(title=f"over {BASELINE}", short=f"over {BASELINE}", meaning="Paired by seed and class.")
            )
        headings.append(Heading(title="all classes"))
    return (
        Section(
            title="What changed inside",
            anchor="inside",
            note="Of the smallest third of the classes by training images, mean over them and over the seeds; read only, nothing is"
            f" chosen by it. {_diversifies(suite).title}.",
            table=Table(
                title="What changed inside",
                caption=f"Brackets: 95% t intervals over seeds; bold: the interval of a difference to {BASELINE} leaves out 0. All"
                f" classes: the mean over all of them. {DASH}: not measured.",
                headings=tuple(headings),
                rows=tuple(rows),
            ),
            charts=tuple(
                _inside_chart(suite, column)
                for column in columns
                if any(moved.paired.values for moved in baseline.inside.get(column, {}).values())
            ),
        ),
    )


def _inside_chart(suite: SuiteComparison, column: str) -> Chart:
    moved = suite.references["baseline"].inside[column]
    shown = [one for one in suite.finished if one.name in moved and moved[one.name].paired.values]
    title, unit = _INSIDE.get(column, (column.replace("_", " "), "ratio"))
    told = "; ".join(
        f"{one.name} {' '.join(_inside_words(column, moved[one.name].paired, signed=True))}" for one in shown
    )
    return Chart(
        title={DIVERSITY: "Does it diversify?", "leak": "Does it leak?"}.get(
            column, wording.sentence(title).removesuffix(".")
        ),
        caption=f"{wording.sentence(title).removesuffix('.')} of the smallest third, less {BASELINE}'s, with 95% t intervals.",
        alt=f"Difference to {BASELINE}: {told}.",
        data=Rows(
            names=tuple(one.name for one in shown),
            signs=_signs(suite, shown),
            series=(_series([moved[one.name].paired for one in shown], title),),
            reference=0.0,
            longest=NAME,
            points=unit == "tenths",
        ),
    )


def _budgets(suite: SuiteComparison) -> Section:
    told = any(one.importances for one in suite.methods)
    rows = []
    for one in suite.methods:
        budget = one.budget
        chosen = ", ".join(f"{name} {wording.words(value)}" for name, value in sorted(budget.params.items()))
        mattered = ", ".join(
            f"{name} {wording.percent(value)}"
            for name, value in sorted((one.importances or {}).items(), key=lambda item: (-item[1], item[0]))[:3]
        )
        ended = [
            f"{number} {state}" for number, state in ((budget.pruned, "pruned"), (budget.failed, "failed")) if number
        ]
        cells = [
            Cell(value=str(budget.trials), interval=", ".join(ended)),
            Cell(value=f"{budget.epochs:,}"),
            Cell(value=_seconds(budget.seconds)),
            Cell(value=wording.percent(budget.val_default) if budget.val_default is not None else DASH),
            Cell(value=wording.percent(budget.val) if budget.val is not None else DASH),
            Cell(value=wording.percent(one.scores["balanced_accuracy"].mean)),
            *([Cell(value=mattered or DASH)] if told else []),
            Cell(value=chosen or DASH),
        ]
        rows.append(_marked(suite, one, cells))
    return Section(
        title="How it was chosen",
        anchor="budget",
        note="Trials are the budget of development, the same number for every method; they are read on val alone, and the best"
        " complete one gives the parameters of the final runs. Trial 0 has the published values.",
        table=Table(
            title="How it was chosen",
            caption="Balanced accuracy; val is a part of the long-tailed training set, so that it and test are not to be compared."
            + (" What mattered: the share of each parameter in how val varies over the trials." if told else ""),
            headings=(
                Heading(title="method", short="method"),
                Heading(title="trials", short="trials"),
                Heading(title="their epochs"),
                Heading(title="their seconds"),
                Heading(title="val, published values", short="val, published"),
                Heading(title="val, chosen", short="val, chosen"),
                Heading(title="test", short="test"),
                *([Heading(title="what mattered", short="what mattered")] if told else []),
                Heading(title="chosen", short="" if told else "chosen"),
            ),
            rows=tuple(rows),
        ),
    )


def _protocol(suite: SuiteComparison) -> Section:
    rows = tuple(
        Row(name=name.replace("_", " "), cells=(Cell(value=_listed(value)),))
        for name, value in suite.protocol.items()
        if name != "suite" and _listed(value)
    )
    return Section(
        title="What was held fixed",
        anchor="protocol",
        table=Table(
            title="What was held fixed",
            caption="The protocol as it was recorded beside the records.",
            headings=(Heading(title="the same for every method"), Heading(title="value")),
            rows=rows,
        ),
    )


def _listed(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(wording.words, value)) if isinstance(value, list | tuple) else wording.words(value)


def _origin(suite: SuiteComparison, of: str) -> tuple[tuple[str, str], ...]:
    pairs = {
        "suite": suite.suite,
        "protocol": f"sha256 {suite.digest[:16]}…" if suite.digest else "",
        "seeds": ", ".join(map(str, suite.seeds)),
        "versions": wording.words(suite.versions),
        "commit": ", ".join(suite.commits),
        "device": "; ".join(suite.devices),
    }
    return tuple((f"{of}{label}", wording.plain(told)) for label, told in pairs.items() if told)


_SCORE_MEANINGS = {
    "balanced_accuracy": (
        "balanced accuracy",
        "Mean recall of the classes, so that a rare one counts as much as a frequent one.",
    ),
    "shot_groups": (
        "many, medium, few",
        "Mean recall of the classes with more than 100, with 20 to 100, and with less than 20 training images.",
    ),
    "thirds": (
        "thirds",
        "Mean recall of a third of the classes by training images; classes of one size are never parted.",
    ),
    "worst_class": ("worst class", "The lowest recall of a class, in each seed."),
    "macro_f1": ("macro F1", "Mean F1 of the classes."),
    "g_mean": ("G-mean", "Geometric mean of the recalls; 0 where a class is never found."),
    "ece": ("ECE", "Expected calibration error: how far confidence is from accuracy, over bins of confidence."),
}


def _inside_meaning(column: str) -> str:
    return {
        "magnitude_ratio": MEASURES["ce_magnitude_ratio"].meaning,
        "magnitude_gap": MEASURES["ce_magnitude_gap"].meaning,
        DIVERSITY: MEASURES["diversity_vendi_heldout"].meaning,
        "diversity_train": MEASURES["diversity_vendi_train"].meaning,
        "leak": "How much more often images of other classes are called by the class's name once its policy is applied to them.",
    }.get(column, "As the records of the study name it.")


def _meanings(comparison: Comparison) -> tuple[Meaning, ...]:
    columns = dict.fromkeys(name for suite in comparison.suites for one in suite.methods for name in one.inside)
    sources = {
        "magnitude_ratio": "ce_magnitude_ratio",
        "magnitude_gap": "ce_magnitude_gap",
        DIVERSITY: "diversity_vendi_heldout",
        "diversity_train": "diversity_vendi_train",
    }
    return (
        *(
            Meaning(title=title, text=meaning, anchor=f"measure-{name.replace('_', '-')}")
            for name, (title, meaning) in _SCORE_MEANINGS.items()
        ),
        Meaning(
            title="difference",
            text="Of two methods with the same seed, and its 95% t interval over seeds: how far the mean would move were everything"
            " trained again on the same images. That other test images would give another difference is not in it.",
            anchor="measure-difference",
        ),
        Meaning(
            title="bootstrap",
            text="The percentile interval of the mean difference over seeds drawn with replacement. It never leaves the range of the"
            f" differences, so it is given from {FEWEST_FOR_BOOTSTRAP} seeds on, and no verdict hangs on it.",
            anchor="measure-bootstrap",
        ),
        Meaning(
            title="p, Holm",
            text="Of the two-sided paired t test over seeds, adjusted for all methods that are compared with the same one in the same"
            f" suite; none with fewer than {FEWEST_FOR_P} seeds.",
            source="Holm 1979",
            anchor="measure-holm",
        ),
        Meaning(
            title="best reweighting on val",
            text="Among the methods that change weights, counts or margins and nothing else, the one whose chosen trial is best on"
            " val. Test has no say in it.",
            anchor="measure-best-reweighting",
        ),
        *(
            Meaning(
                title=_INSIDE.get(column, (column.replace("_", " "),))[0],
                text=_inside_meaning(column),
                source=MEASURES[sources[column]].source if column in sources else "",
                anchor=f"measure-inside-{re.sub(r'[^a-z0-9_]', '-', column.lower())}",
            )
            for column in columns
        ),
    )


def _empty() -> Report:
    return Report(
        title="Benchmark",
        subtitle=NO_RECORDS,
        warnings=(),
        headlines=(),
        findings_note="There is nothing to compare.",
        findings=(),
        classes=Table(
            title="The methods", caption="", headings=(Heading(title="method"),), rows=(), rows_are="methods"
        ),
        sections=(),
        beyond_note="",
        beyond=None,
        meanings=(),
        origin=(),
    )


__all__ = [
    "benchmark_report_of",
    "headline_table",
    "render_benchmark_html",
    "render_benchmark_markdown",
    "text",
]
