"""The sections of a study's report beside accuracy: cost, what changed inside, how it was chosen, what was held fixed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...study.analysis import BASELINE, DIVERSITY, OURS, SuiteComparison
from ...study.estimates import Difference, Estimate
from .. import wording
from ..page import Cell, Chart, Heading, Row, Section, Table
from ..plots import Against, Rows
from ..wording import DASH
from .statements import diversifies
from .tables import NAME, marked, series, share_cell, signs
from .words import INSIDE, has_score, inside_meaning, inside_words, seconds


def cost_section(suite: SuiteComparison) -> Section:
    """Seconds, epochs and memory of a final run, beside the accuracy they buy."""
    base = suite.method(BASELINE)
    spent = base.scores["seconds_shared"].mean if base and base.seeds else math.nan
    memory = has_score(suite, "peak_memory")
    rows = []
    for one in suite.finished:
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
            share_cell(one.scores["balanced_accuracy"]),
        ]
        rows.append(marked(suite, one, cells))
    shown = suite.finished
    told = "; ".join(
        f"{one.name} {seconds(one.scores['seconds_shared'].mean)} s, {wording.percent(one.scores['balanced_accuracy'].mean)}"
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
    timed = has_score(suite, "seconds_shared")
    return Section(
        title="Cost against accuracy",
        anchor="cost",
        note="Seconds of a final run, from its first step to its last look at the test images; where several processes shared the"
        " device, divided by their number.",
        table=Table(
            title="Cost against accuracy",
            caption=f"Means over {suite.replicate}s; measured on {'; '.join(suite.devices) or 'an unnamed device'}.",
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


def _memory(value: float) -> str:
    return f"{value / 2**20:,.0f} MiB" if math.isfinite(value) else DASH


def inside_sections(suite: SuiteComparison) -> tuple[Section, ...]:
    """What changed in the network; no section where nothing was measured."""
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
            title="What changed inside",
            anchor="inside",
            note=f"Of the smallest third of the classes by training images, mean over them and over the {suite.replicate}s; read only,"
            f" nothing is chosen by it. {diversifies(suite).title}.",
            table=Table(
                title="What changed inside",
                caption=f"Brackets: 95% t intervals over {suite.replicate}s; bold: the interval of a difference to {BASELINE} leaves out"
                f" 0, of 3 of them or more. All classes: the mean over all of them. {DASH}: not measured.",
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
    """Of the smallest third, its difference, of all classes: those in which any method has a value; the first names the measure."""
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
        found.append((Heading(title=words, short=words, meaning="Paired by seed and class."), over))
    return [*found, (Heading(title="all classes"), all_classes)]


def _inside_cell(measure: str, estimate: Estimate) -> Cell:
    value, ends = inside_words(measure, estimate)
    return Cell(value=value, interval=ends)


def _moved_cell(measure: str, moved: Difference | None) -> Cell:
    """Strong where the interval leaves out 0."""
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
    told = "; ".join(
        f"{one.name} {' '.join(inside_words(column, moved[one.name].paired, signed=True))}" for one in shown
    )
    return Chart(
        title={DIVERSITY: "Does it diversify?", "leak": "Does it leak?"}.get(
            column, wording.sentence(title).removesuffix(".")
        ),
        caption=f"{wording.sentence(title).removesuffix('.')} of the smallest third, less {BASELINE}'s, with 95% t intervals.",
        alt=f"Difference to {BASELINE}: {told}.",
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
    """The trials of every method, what they chose, and what that gave on val and test."""
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
            Cell(value=seconds(budget.seconds)),
            Cell(value=wording.percent(budget.val_default) if budget.val_default is not None else DASH),
            Cell(value=wording.percent(budget.val) if budget.val is not None else DASH),
            Cell(value=wording.percent(one.scores["balanced_accuracy"].mean)),
            *([Cell(value=mattered or DASH)] if told else []),
            Cell(value=chosen or DASH),
        ]
        rows.append(marked(suite, one, cells))
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


def protocol_section(suite: SuiteComparison) -> Section:
    """The protocol of a suite, entry by entry."""
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
