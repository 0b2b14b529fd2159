"""The sections of a study's report on cost, changes in the features, tuning, and the protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...study.comparison import BASELINE, DIVERSITY, OURS, MethodResult, SuiteComparison
from ...study.estimates import Difference, Estimate
from .. import wording
from ..plots import Against, Rows
from ..record import Cell, Chart, Heading, Row, Section, Table
from ..wording import DASH
from .statements import diversifies
from .tables import NAME, marked, metric_cell, series, signs
from .words import (
    INSIDE,
    capital,
    has_score,
    inside_meaning,
    inside_words,
    metric_on_test,
    metric_value,
    seconds,
)


def cost_section(suite: SuiteComparison) -> Section:
    """Return the section on seconds, epochs and memory of a final run, against accuracy."""
    base = suite.method(BASELINE)
    spent = base.scores["seconds_shared"].mean if base and base.seeds else math.nan
    memory = has_score(suite, "peak_memory")
    timed = has_score(suite, "seconds_shared")
    return Section(
        title="Cost against accuracy",
        anchor="cost",
        note="Seconds are the duration of a final run, from its first training step to the end of testing. If several processes shared the"
        " device, the duration is divided by their number.",
        table=Table(
            title="Cost against accuracy",
            caption=f"Means over {suite.replicate}s, measured on {'; '.join(suite.devices) or 'an unnamed device'}.",
            headings=(
                Heading(title="method"),
                Heading(title="seconds, per process"),
                Heading(title=f"relative to {BASELINE}"),
                Heading(title="seconds, total"),
                Heading(title="epochs"),
                *([Heading(title="peak memory")] if memory else []),
                Heading(title=suite.metric_title),
            ),
            rows=tuple(_cost_row(suite, one, spent, memory=memory) for one in suite.finished),
        ),
        charts=(_cost_chart(suite),) if timed else (),
    )


def _cost_row(suite: SuiteComparison, one: MethodResult, spent: float, *, memory: bool) -> Row:
    """What the final runs of a method cost, beside what they reach."""
    shared = one.scores["seconds_shared"]
    cells = [
        Cell(
            value=seconds(shared.mean),
            interval=f"[{seconds(shared.low)}, {seconds(shared.high)}]"
            if math.isfinite(shared.low) and shared.low > 0
            else "",
        ),
        Cell(value=wording.unsigned(shared.mean / spent, 2) if spent > 0 and math.isfinite(shared.mean) else DASH),
        Cell(value=seconds(one.scores["seconds"].mean)),
        Cell(
            value=seconds(one.scores["epochs"].mean)
            if one.scores["epochs"].mean >= 10
            else wording.unsigned(one.scores["epochs"].mean, 0)
        ),
        *([Cell(value=_memory(one.scores["peak_memory"].mean))] if memory else []),
        metric_cell(suite, one.scores["score"]),
    ]
    return marked(suite, one, cells)


def _cost_chart(suite: SuiteComparison) -> Chart:
    """Balanced accuracy, or another metric, against the seconds of a final run."""
    shown = suite.finished
    listed = "; ".join(
        f"{one.name} {seconds(one.scores['seconds_shared'].mean)} s, {metric_value(suite, one.scores['score'].mean)}"
        for one in shown
    )
    drawn = Against(
        label=f"{suite.metric_title} on test",
        across="seconds of a final run",
        names=tuple(one.name for one in shown),
        x=tuple(one.scores["seconds_shared"].mean for one in shown),
        y=tuple(one.scores["score"].mean for one in shown),
        low=tuple(one.scores["score"].low for one in shown),
        high=tuple(one.scores["score"].high for one in shown),
        marked=tuple(one.name == OURS for one in shown),
        kinds=("other methods", OURS),
        percent=suite.in_shares,
    )
    return Chart(
        title="How much accuracy does the time buy?",
        caption=f"{capital(metric_on_test([suite]))} with its 95% t interval, against the seconds of a final run.",
        alt=f"Scatter plot: {listed}.",
        data=drawn,
    )


def _memory(value: float) -> str:
    return f"{value / 2**20:,.0f} MiB" if math.isfinite(value) else DASH


def inside_sections(suite: SuiteComparison) -> tuple[Section, ...]:
    """Return the section on changes in the features, if any were measured."""
    columns = [
        column
        for column in dict.fromkeys(name for one in suite.finished for name in one.inside)
        if any(math.isfinite(one.inside_all[column].mean) for one in suite.finished)
    ]
    if not columns:
        return ()
    baseline = suite.references["baseline"]
    shown = [pair for column in columns for pair in _inside_columns(suite, column)]
    rows = [marked(suite, one, [cells[place] for _, cells in shown]) for place, one in enumerate(suite.finished)]
    return (
        Section(
            title="What changed in the features",
            anchor="inside",
            note="Each value is the mean over the smallest third of the classes (by training images) and over the"
            f" {suite.replicate}s. Nothing was chosen by these values. {diversifies(suite).title}.",
            table=Table(
                title="What changed in the features",
                caption=f"Brackets show 95% t intervals over {suite.replicate}s. A difference to {BASELINE} is bold if its interval does"
                f" not contain 0 and there are at least 3 {suite.replicate}s. {DASH} means not measured.",
                headings=(Heading(title="method", short="method"), *(heading for heading, _ in shown)),
                rows=tuple(rows),
            ),
            charts=tuple(
                _inside_chart(suite, column)
                for column in columns
                if any(moved.paired.values for moved in baseline.inside.get(column, {}).values())
            ),
        ),
    )


def _inside_columns(suite: SuiteComparison, measure: str) -> list[tuple[Heading, list[Cell]]]:
    """Return the columns of a measure: the smallest third, its difference to the baseline, all classes.

    Columns in which no method has a value are left out; the first column names the measure.
    """
    title = INSIDE.get(measure, (measure.replace("_", " "),))[0]
    meaning, anchor = inside_meaning(measure), f"measure-inside-{measure}"
    third = [_inside_cell(measure, one.inside[measure]) for one in suite.finished]
    all_classes = [Cell(value=inside_words(measure, one.inside_all[measure])[0]) for one in suite.finished]
    if not _has_value(third):
        return [(Heading(title=f"{title}, all classes", meaning=meaning, anchor=anchor), all_classes)]
    found = [(Heading(title=title, short=title, meaning=meaning, anchor=anchor), third)]
    moved = suite.references["baseline"].inside[measure]
    over = [_moved_cell(measure, moved.get(one.name)) for one in suite.finished]
    if _has_value(over):
        words = f"over {BASELINE}"
        found.append((Heading(title=words, short=words, meaning="Difference, paired by seed and class."), over))
    return [*found, (Heading(title="all classes"), all_classes)]


def _inside_cell(measure: str, estimate: Estimate) -> Cell:
    value, ends = inside_words(measure, estimate)
    return Cell(value=value, interval=ends)


def _moved_cell(measure: str, moved: Difference | None) -> Cell:
    """Return the cell of a difference, in bold if its interval does not contain 0."""
    if moved is None or not moved.paired.values:
        return Cell(value=DASH)
    value, ends = inside_words(measure, moved.paired, signed=True)
    return Cell(value=value, interval=ends, strong=moved.verdict != "open")


def _has_value(cells: Sequence[Cell]) -> bool:
    return any(cell.value != DASH for cell in cells)


def _inside_chart(suite: SuiteComparison, column: str) -> Chart:
    moved = suite.references["baseline"].inside[column]
    shown = [one for one in suite.finished if one.name in moved and moved[one.name].paired.values]
    title, unit = INSIDE.get(column, (column.replace("_", " "), "ratio"))
    listed = "; ".join(
        f"{one.name} {' '.join(inside_words(column, moved[one.name].paired, signed=True))}" for one in shown
    )
    return Chart(
        title={DIVERSITY: "Are the features more diverse?", "leak": "Does augmentation leak?"}.get(
            column, wording.sentence(title).removesuffix(".")
        ),
        caption=f"{wording.sentence(title).removesuffix('.')} of the smallest third, minus that of {BASELINE}, with 95% t intervals.",
        alt=f"Difference to {BASELINE}: {listed}.",
        data=Rows(
            names=tuple(one.name for one in shown),
            signs=signs(suite, shown),
            series=(series([moved[one.name].paired for one in shown], title),),
            reference=0.0,
            longest=NAME,
            points=unit == "tenths",
        ),
    )


def budget_section(suite: SuiteComparison) -> Section:
    """Return the section on tuning: the trials of each method, the parameters chosen, and their accuracy."""
    what = "accuracy" if suite.metric in ("balanced", "prior") else "values"
    with_importance = any(one.importances for one in suite.methods)
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
            Cell(value=seconds(budget.seconds)),
            Cell(value=metric_value(suite, budget.val_default) if budget.val_default is not None else DASH),
            Cell(value=metric_value(suite, budget.val) if budget.val is not None else DASH),
            Cell(value=metric_value(suite, one.scores["score"].mean)),
            *([Cell(value=mattered or DASH)] if with_importance else []),
            Cell(value=chosen or DASH),
        ]
        rows.append(marked(suite, one, cells))
    return Section(
        title="How parameters were chosen",
        anchor="budget",
        note="Every method has the same number of trials. Trials are judged on the validation set; the best complete trial sets the"
        " parameters of the final runs. Trial 0 uses the published parameters.",
        table=Table(
            title="How parameters were chosen",
            caption=f"Values are {suite.metric_title}. The validation set is part of the long-tailed training set, so validation and test"
            f" {what} cannot be compared."
            + (
                f" Parameter importance: the share of the variation of validation {what} over trials due to a parameter."
                if with_importance
                else ""
            ),
            headings=(
                Heading(title="method", short="method"),
                Heading(title="trials", short="trials"),
                Heading(title="epochs of all trials"),
                Heading(title="seconds of all trials"),
                Heading(title="validation, published parameters", short="validation, published"),
                Heading(title="validation, chosen parameters", short="validation, chosen"),
                Heading(title="test", short="test"),
                *([Heading(title="parameter importance", short="importance")] if with_importance else []),
                Heading(title="chosen parameters", short="" if with_importance else "chosen parameters"),
            ),
            rows=tuple(rows),
        ),
    )


def protocol_section(suite: SuiteComparison) -> Section:
    """Return the section on the protocol, entry by entry."""
    rows = tuple(
        Row(name=name.replace("_", " "), cells=(Cell(value=_listed(value)),))
        for name, value in suite.protocol.items()
        if name != "suite" and _listed(value)
    )
    return Section(
        title="Protocol",
        anchor="protocol",
        note="These settings are the same for every method.",
        table=Table(
            title="Protocol",
            caption="The protocol that was stored with the records.",
            headings=(Heading(title="setting"), Heading(title="value")),
            rows=rows,
        ),
    )


def _listed(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(wording.words, value)) if isinstance(value, list | tuple) else wording.words(value)
