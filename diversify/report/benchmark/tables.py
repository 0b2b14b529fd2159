"""The accuracy of a study in tables and charts: methods, suites, and differences between methods."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...study.comparison import BASELINE, OURS, SHOTS, THIRDS, MethodResult, Replicate, Role, SuiteComparison
from ...study.estimates import FEWEST_FOR_BOOTSTRAP, FEWEST_FOR_P, Difference, Estimate
from .. import wording
from ..plots import Rows, Series
from ..record import Cell, Chart, Heading, Row, Section, Table
from ..wording import DASH
from .words import (
    METRIC_MEANINGS,
    SCORE_MEANINGS,
    TITLES,
    YARDSTICKS,
    capital,
    gain_interval,
    has_score,
    interval_of,
    metric_anchor,
    metric_gain,
    metric_interval,
    metric_on_test,
    metric_value,
    number_of_runs,
    ordinal,
    paired_by_seed,
    replicate_of,
    runs_of,
    seconds,
    unit_of,
)

NAME = 24  # characters of a method's name in a drawing
LISTED = 5  # with more seeds or networks, their numbers are not listed one by one

ROLES_IN_ORDER: tuple[Role, ...] = (*YARDSTICKS, "ours")
_SIGNS: Mapping[Role, str] = {"ours": "●", "baseline": "○", "reweighting": "△"}
_ROLES: Mapping[Role, str] = {"ours": "ours", "baseline": "baseline", "reweighting": "best reweighting on validation"}


def share_cell(estimate: Estimate, *, strong: bool = False) -> Cell:
    """Return the cell of a share in percent, with its interval."""
    return Cell(value=wording.percent(estimate.mean), interval=interval_of(estimate, "percent"), strong=strong)


def metric_cell(suite: SuiteComparison, estimate: Estimate) -> Cell:
    """Return the cell of a suite's metric, with its interval."""
    return Cell(value=metric_value(suite, estimate.mean), interval=metric_interval(suite, estimate))


def _difference_cell(suite: SuiteComparison, found: Difference | None) -> Cell:
    """Return the cell of a difference in the metric, in bold if its interval does not contain 0."""
    if found is None:
        return Cell(value=DASH)
    return Cell(
        value=metric_gain(suite, found.paired.mean),
        interval=gain_interval(suite, found.paired),
        strong=found.verdict != "open",
    )


def _role_of(suite: SuiteComparison, name: str) -> Role | None:
    return next((role for role in _SIGNS if suite.references[role].name == name), None)


def marked(suite: SuiteComparison, one: MethodResult, cells: Sequence[Cell]) -> Row:
    """Return the row of a method, marked with its role in comparisons."""
    role = _role_of(suite, one.name)
    mark = f"{_SIGNS[role]} {_ROLES[role]}" if role else ""
    return Row(name=wording.named(one.name), cells=tuple(cells), mark=mark, good=True)


def signs(suite: SuiteComparison, methods: Sequence[MethodResult]) -> tuple[str, ...]:
    """Return the signs behind the names of methods in a drawing: a mark for ours, nothing for the others."""
    roles = [_role_of(suite, one.name) for one in methods]
    return tuple(_SIGNS[role] if role == "ours" else "" for role in roles)


def series(estimates: Sequence[Estimate], name: str, **style: Any) -> Series:
    """Return estimates with their intervals as plot data."""
    return Series(
        name=name,
        values=tuple(one.mean for one in estimates),
        low=tuple(one.low for one in estimates),
        high=tuple(one.high for one in estimates),
        **style,
    )


def _legend(suite: SuiteComparison) -> str:
    legend = [f"{_SIGNS[role]} {_ROLES[role]}" for role in _SIGNS if suite.references[role].name]
    return f"{', '.join(legend)}." if legend else ""


def _bold(replicate: Replicate) -> str:
    return f"A difference is bold if its interval does not contain 0 and there are at least 3 {replicate}s."


def score_heading(score: str, short: str = "") -> Heading:
    """Return the heading of a score, with a link to its definition."""
    group = "shot-groups" if score in SHOTS else "thirds" if score in THIRDS else score.replace("_", "-")
    meaning = SCORE_MEANINGS["shot_groups" if score in SHOTS else "thirds" if score in THIRDS else score][1]
    return Heading(title=TITLES[score], short=short, meaning=meaning, anchor=f"measure-{group}")


def metric_heading(suite: SuiteComparison) -> Heading:
    """Return the heading of a suite's metric, with a link to its definition."""
    title, meaning = suite.metric_title, METRIC_MEANINGS[suite.metric]
    return Heading(title=title, short=title, meaning=meaning, anchor=metric_anchor(suite))


def _other_scores(suite: SuiteComparison) -> list[str]:
    """Return the scores that the table of methods shows beside the metric."""
    own = {"balanced": "balanced_accuracy", "worst": "worst_class"}.get(suite.metric)
    names = ("balanced_accuracy", "few", "smallest_third", "worst_class")
    return [name for name in names if name != own and has_score(suite, name)]


def method_table(suite: SuiteComparison) -> Table:
    """Return the table of a suite's methods, best on test first, then those without a final run."""
    groups = _other_scores(suite)
    over = [role for role in YARDSTICKS if suite.references[role].differences]
    replicate = suite.replicate
    most = len(suite.seeds) if replicate == "seed" else max(one.replicates for one in suite.finished)
    listed = most <= LISTED
    rows = []
    for one in suite.methods:
        if not one.seeds:
            rows.append(
                marked(
                    suite, one, [Cell(value="no final run yet")] + [Cell(value=DASH)] * (2 + len(over) + len(groups))
                )
            )
            continue
        scored = one.scores["score"]
        lacking = f"{len(one.seeds)} of {len(suite.seeds)} seeds" if one.missing else ""
        if listed:
            runs = " / ".join(metric_value(suite, value).removesuffix("%") for value in scored.values)
        else:
            runs = str(len(one.seeds)) if replicate == "seed" else number_of_runs(one.replicates, len(one.seeds))
        rows.append(
            marked(
                suite,
                one,
                [
                    metric_cell(suite, scored),
                    Cell(value=runs, interval=lacking),
                    *(_difference_cell(suite, suite.references[role].differences.get(one.name)) for role in over),
                    *(share_cell(one.scores[name]) for name in groups),
                    Cell(value=seconds(one.scores["seconds_shared"].mean)),
                ],
            )
        )
    return Table(
        title="Methods",
        caption=f"Best {metric_on_test([suite])} first. {_legend(suite)} Brackets show 95% t intervals over {replicate}s."
        f" {_bold(replicate)} {DASH} is undefined.",
        headings=(
            Heading(title="method", short="method"),
            metric_heading(suite),
            Heading(title=f"by {replicate}") if listed else _runs_heading(replicate),
            *(
                Heading(
                    title=f"over {suite.references[role].name}, {unit_of(suite)}",
                    short=f"over {suite.references[role].name}",
                    meaning=f"Difference of {suite.metric_title}, {_paired(replicate)}.",
                    anchor="measure-difference",
                )
                for role in over
            ),
            *(score_heading(name, short=TITLES[name]) for name in groups),
            Heading(
                title="seconds",
                short="seconds",
                meaning="Duration of a final run, divided by the processes on the device.",
            ),
        ),
        rows=tuple(rows),
        rows_are="methods",
    )


def _runs_heading(replicate: Replicate) -> Heading:
    return Heading(title="seeds" if replicate == "seed" else "networks and seeds")


def _paired(replicate: Replicate) -> str:
    return "paired by seed" if replicate == "seed" else "paired by seed and averaged over the seeds of each network"


def suite_table(suites: Sequence[SuiteComparison]) -> Table:
    """Return the table of several suites: the rank and the gains of our method in each."""
    rows, replicate = [], replicate_of(suites)
    what = "accuracy" if all(suite.metric == "balanced" for suite in suites) else "value"
    for place, suite in enumerate(suites):
        ours = suite.method(OURS)
        best = suite.finished[0] if suite.finished else None
        rank = f"{ordinal(suite.finished.index(ours) + 1)} of {len(suite.finished)}" if ours and ours.seeds else DASH
        cells = [
            Cell(
                value=best.name if best else DASH,
                interval=metric_value(suite, best.scores["score"].mean) if best else "",
            ),
            Cell(value=rank),
            *(_difference_cell(suite, suite.references[role].differences.get(OURS)) for role in YARDSTICKS),
            Cell(value=str(suite.references["reweighting"].name or DASH)),
            Cell(value=f"{len(suite.seeds)}" if replicate == "seed" else runs_of(suite)),
        ]
        rows.append(
            Row(
                name=wording.named(suite.label),
                cells=tuple(cells),
                meaning="Go to the methods of this suite.",
                anchor=f"suite-{place}-methods",
            )
        )
    units = {unit_of(suite) for suite in suites}
    of = f", {units.pop()}" if len(units) == 1 else ""
    titles = (
        "best on test",
        f"rank of {OURS}",
        f"{OURS} over {BASELINE}{of}",
        f"{OURS} over the best reweighting{of}",
        "best reweighting",
    )
    return Table(
        title="Suites",
        caption=f"Differences in {metric_on_test(suites)} are {_paired(replicate)}. Brackets show 95% t intervals over {replicate}s."
        f" {_bold(replicate)} The best reweighting method is the one with the best validation {what}.",
        headings=(Heading(title="suite"), *(Heading(title=title) for title in titles), _runs_heading(replicate)),
        rows=tuple(rows),
        rows_are="suites",
    )


def difference_sections(suite: SuiteComparison) -> tuple[Section, ...]:
    """Return the section on differences to the baseline, the best reweighting method and ours, if there is one of them."""
    roles = [role for role in ROLES_IN_ORDER if suite.references[role].differences]
    if not roles:
        return ()
    every = [one for role in roles for one in suite.references[role].differences.values()]
    replicate, size = suite.replicate, max(len(one.paired.values) for one in every)
    shown = _columns_beside(every, replicate, size)
    headings = [Heading(title="method", short="method")]
    paired = wording.sentence(_paired(replicate))
    for role in roles:
        over = f"over {suite.references[role].name}"
        headings += [
            Heading(title=f"{over}, {unit_of(suite)}", short=over, meaning=paired, anchor="measure-difference"),
            *shown.values(),
        ]
    rows = []
    for one in suite.finished:
        found = [suite.references[role].differences.get(one.name) for role in roles]
        cells = [
            cell
            for each in found
            for cell in (_difference_cell(suite, each), *(_beside(suite, each, name) for name in shown))
        ]
        rows.append(marked(suite, one, cells))
    notes = []
    if size < FEWEST_FOR_P:
        notes.append(f"With {wording.number_of(size, replicate, f'{replicate}s')} there is no p value.")
    elif size < FEWEST_FOR_BOOTSTRAP:
        notes.append(f"With {size} {replicate}s a bootstrap interval would be too narrow, so it is left out.")
    notes += [wording.sentence(one.why) for one in suite.references.values() if one.why]
    return (
        Section(
            title="Differences",
            anchor="differences",
            note=" ".join(
                (
                    f"{capital(metric_on_test([suite]))} of each method minus that of the method named, {paired_by_seed(replicate)}.",
                    *notes,
                )
            ),
            table=Table(
                title="Differences",
                caption=f"In {unit_of(suite)}, with 95% t intervals over {replicate}s. {_bold(replicate)}"
                + (" p values are from paired t tests, corrected per column (Holm)." if "p, Holm" in shown else ""),
                headings=tuple(headings),
                rows=tuple(rows),
            ),
            charts=tuple(_difference_chart(suite, role) for role in roles),
        ),
    )


def _columns_beside(every: Sequence[Difference], replicate: Replicate, size: int) -> dict[str, Heading]:
    """Return the headings of the columns beside each difference, by the names that `_beside` takes."""
    holm = "Corrected for the number of methods in this column."
    found = {}
    if any(math.isfinite(one.bootstrap_low) for one in every):
        meaning, anchor = f"95% interval over {replicate}s.", "measure-bootstrap"
        found["bootstrap"] = Heading(title="bootstrap", short="bootstrap", meaning=meaning, anchor=anchor)
    if size > LISTED:
        found["ahead"] = Heading(title=f"{replicate}s better", short=f"{replicate}s better")
    if any(math.isfinite(one.p_holm) for one in every):
        found["p, Holm"] = Heading(title="p, Holm", short="p, Holm", meaning=holm, anchor="measure-holm")
    return found


def _beside(suite: SuiteComparison, found: Difference | None, column: str) -> Cell:
    """Return the cell of a column beside a difference."""
    if found is None:
        return Cell(value=DASH)
    if column == "bootstrap":
        drawn = dataclasses.replace(found.paired, low=found.bootstrap_low, high=found.bootstrap_high)
        ends = gain_interval(suite, drawn)
        return Cell(value="" if ends else DASH, interval=ends)
    if column == "ahead":
        values = found.paired.values
        return Cell(value=f"{sum(value > 0 for value in values)}/{len(values)}")
    return Cell(value=_p(found.p_holm), interval=f"uncorrected {_p(found.p)}" if math.isfinite(found.p) else "")


def _p(value: float) -> str:
    return DASH if math.isnan(value) else "<0.001" if value < 0.0005 else f"{value:.3f}"


def _difference_chart(suite: SuiteComparison, role: Role) -> Chart:
    reference = suite.references[role]
    shown = [one for one in suite.finished if one.name in reference.differences]
    found = [reference.differences[one.name] for one in shown]
    listed = "; ".join(f"{one.method} {metric_gain(suite, one.paired.mean)}" for one in found)
    title = {
        "baseline": f"Which methods are better than {reference.name}?",
        "reweighting": f"Which methods are better than {reference.name}?",
        "ours": f"Which methods are better than {OURS}?",
    }[role]
    what = {
        "reweighting": ", the best reweighting method on validation",
        "ours": f"; methods right of the line are better than {OURS}",
    }.get(role, "")
    return Chart(
        title=title,
        caption=f"{capital(suite.metric_title)} minus that of {reference.name}{what}. In {unit_of(suite)}, with 95% t intervals.",
        alt=f"Difference in {unit_of(suite)}: {listed}.",
        data=Rows(
            names=tuple(one.name for one in shown),
            signs=signs(suite, shown),
            series=(series([one.paired for one in found], "difference"),),
            reference=0.0,
            longest=NAME,
            points=suite.in_shares,
        ),
    )
