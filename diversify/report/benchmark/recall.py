"""The recall of a study's methods by class size, and their other scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...study.comparison import SHOTS, THIRDS, MethodResult, Role, SuiteComparison
from .. import wording
from ..plots import Rows
from ..record import Chart, Grid, GridCell, Heading, Section, Table
from .tables import NAME, ROLES_IN_ORDER, marked, score_heading, series, share_cell, signs
from .words import TITLES, has_score

RANKS = 20  # with more classes there is no map of recalls


def recall_section(suite: SuiteComparison) -> Section:
    """Return the section on recall by group of classes and by class, and on the other scores."""
    first = () if suite.metric == "balanced" else ("balanced_accuracy",)
    names = (*first, *SHOTS, *THIRDS, "worst_class", "macro_f1", "g_mean", "ece")
    shown = [name for name in names if has_score(suite, name)]
    rows = [marked(suite, one, [share_cell(one.scores[name]) for name in shown]) for one in suite.finished]
    absent = [name for name in SHOTS if name not in shown]
    none = f" No class belongs to {' or '.join(absent)}." if absent and len(absent) < len(SHOTS) else ""
    groups = [name for name in (*SHOTS, *THIRDS, "worst_class") if name in shown]
    sides = [
        (role, method)
        for role in ROLES_IN_ORDER
        if (name := suite.references[role].name) and (method := suite.method(name)) and method.seeds
    ]
    styles: Mapping[Role, dict[str, Any]] = {
        "baseline": {"color": "muted", "marker": "s", "hollow": True},
        "reweighting": {"color": "orange", "marker": "^"},
        "ours": {"color": "blue", "marker": "o"},
    }
    charts: tuple[Chart, ...] = ()
    if sides and groups:
        listed = "; ".join(
            f"{method.name}: "
            + ", ".join(f"{TITLES[name]} {wording.percent(method.scores[name].mean)}" for name in groups)
            for _, method in sides
        )
        charts = (
            Chart(
                title="Which groups of classes gain?",
                caption=f"Mean test recall of the classes in a group, with 95% t intervals over {suite.replicate}s.",
                alt=f"Recall: {listed}.",
                data=Rows(
                    names=tuple(TITLES[name] for name in groups),
                    signs=("",) * len(groups),
                    series=tuple(
                        series([method.scores[name] for name in groups], method.name, **styles[role])
                        for role, method in sides
                    ),
                    percent=True,
                ),
            ),
        )
    return Section(
        title="Recall by class size",
        anchor="recall",
        note="Groups show the mean recall of their classes: many have more than 100 training images, medium 20 to 100, few less than 20;"
        f" thirds divide the classes by training images.{none}",
        table=Table(
            title="Recall by group, and other scores",
            caption=f"Test set; means and 95% t intervals over {suite.replicate}s. For ECE, lower is better.",
            headings=(
                Heading(title="method", short="method"),
                *(score_heading(name, short=TITLES[name]) for name in shown),
            ),
            rows=tuple(rows),
        ),
        charts=(*charts, *_exchange_chart(suite)),
        grids=_recall_map(suite),
    )


def _exchange_chart(suite: SuiteComparison) -> tuple[Chart, ...]:
    """Return a chart of the change in recall of the largest and smallest classes against the baseline, if known."""
    baseline = suite.references["baseline"]
    ends = ("largest_third", "smallest_third")
    moved = {end: baseline.others[end] for end in ends}
    shown = [one for one in suite.finished if one.name in moved[ends[0]]]
    known = [one for one in shown if math.isfinite(sum(moved[end][one.name].paired.mean for end in ends))]
    if not known:
        return ()
    listed = "; ".join(
        f"{one.name} {' and '.join(wording.points(moved[end][one.name].paired.mean) for end in ends)}" for one in known
    )
    styles = {"largest_third": {"color": "muted", "marker": "s", "hollow": True}, "smallest_third": {}}
    return (
        Chart(
            title="Do small classes gain at the cost of large ones?",
            caption=f"Recall minus that of {baseline.name}, in points, with 95% t intervals over {suite.replicate}s.",
            alt=f"Difference of the largest and of the smallest third: {listed}.",
            data=Rows(
                names=tuple(one.name for one in known),
                signs=signs(suite, known),
                series=tuple(
                    series([moved[end][one.name].paired for one in known], TITLES[end], **styles[end]) for end in ends
                ),
                reference=0.0,
                longest=NAME,
                points=True,
            ),
        ),
    )


def _recall_map(suite: SuiteComparison) -> tuple[Grid, ...]:
    """Return a heat map of the recall of each method on each class, largest class first, if there are few classes."""
    sizes = {len(one.recall) for one in suite.finished}
    if len(sizes) != 1 or not 0 < max(sizes) <= RANKS:
        return ()
    ranks = range(max(sizes))
    columns = tuple(f"{suite.counts[rank]:,}" if suite.counts else f"rank {rank + 1}" for rank in ranks)

    def shade(one: MethodResult, rank: int) -> GridCell | None:
        value = one.recall[rank]
        if not math.isfinite(value):
            return None
        return GridCell(
            value=1 - value,
            text=wording.share(value).removesuffix("%"),
            title=f"{one.name}, {columns[rank]}: {wording.percent(value)}",
        )

    return (
        Grid(
            title="Recall by class",
            caption=f"In percent, mean over {suite.replicate}s; a darker cell means lower recall. Columns are the classes, largest first,"
            " headed by their number of training images."
            + (" Which class a column is depends on the tail order." if len(suite.tail_orders) > 1 else ""),
            corner="training images",
            columns=columns,
            rows=tuple((wording.named(one.name), tuple(shade(one, rank) for rank in ranks)) for one in suite.finished),
            hue="vermillion",
        ),
    )
