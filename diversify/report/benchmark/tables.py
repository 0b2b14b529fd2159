"""The accuracy of a study in tables and charts: its methods, its suites, their differences, and whose recall it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...study.analysis import BASELINE, OURS, SHOTS, THIRDS, MethodResult, Replicate, Role, SuiteComparison
from ...study.estimates import FEWEST_FOR_BOOTSTRAP, FEWEST_FOR_P, Difference, Estimate
from .. import page, wording
from ..page import Cell, Chart, Grid, Heading, Row, Section, Shade, Table
from ..plots import Rows, Series
from ..wording import DASH
from .words import (
    SCORE_MEANINGS,
    TITLES,
    YARDSTICKS,
    has_score,
    interval_of,
    number_of_runs,
    ordinal,
    paired_by_seed,
    replicate_of,
    runs_of,
    seconds,
    tenths,
)

NAME = 24  # characters of a method's name in a drawing
RANKS = 20  # classes that the map of recalls shows; with more, the groups alone
LISTED = 5  # seeds or networks whose numbers are listed one by one

_ROLES_IN_ORDER: tuple[Role, ...] = (*YARDSTICKS, "ours")
_SIGNS: Mapping[Role, str] = {"ours": "●", "baseline": "○", "reweighting": "△"}
_ROLES: Mapping[Role, str] = {"ours": "ours", "baseline": "baseline", "reweighting": "best reweighting on val"}


def share_cell(estimate: Estimate, *, strong: bool = False) -> Cell:
    """A share in percent, with its interval."""
    return Cell(value=wording.percent(estimate.mean), interval=interval_of(estimate, "percent"), strong=strong)


def _difference_cell(found: Difference | None) -> Cell:
    """In points; strong where the interval leaves out 0."""
    if found is None:
        return Cell(value=DASH)
    return Cell(
        value=wording.points(found.paired.mean), interval=interval_of(found.paired), strong=found.verdict != "open"
    )


def _role_of(suite: SuiteComparison, name: str) -> Role | None:
    return next((role for role in _SIGNS if suite.references[role].name == name), None)


def marked(suite: SuiteComparison, one: MethodResult, cells: Sequence[Cell]) -> Row:
    """The row of a method, marked with the role it has in comparisons."""
    role = _role_of(suite, one.name)
    mark = f"{_SIGNS[role]} {_ROLES[role]}" if role else ""
    return Row(name=wording.named(one.name), cells=tuple(cells), mark=mark, good=True)


def signs(suite: SuiteComparison, methods: Sequence[MethodResult]) -> tuple[str, ...]:
    """What stands behind the names of these methods in a drawing: a mark for ours, nothing for the others."""
    roles = [_role_of(suite, one.name) for one in methods]
    return tuple(_SIGNS[role] if role == "ours" else "" for role in roles)


def series(estimates: Sequence[Estimate], name: str, **style: Any) -> Series:
    """Estimates with their intervals, as plot data."""
    return Series(
        name=name,
        values=tuple(one.mean for one in estimates),
        low=tuple(one.low for one in estimates),
        high=tuple(one.high for one in estimates),
        **style,
    )


def _legend(suite: SuiteComparison) -> str:
    told = [f"{_SIGNS[role]} {_ROLES[role]}" for role in _SIGNS if suite.references[role].name]
    return f"{', '.join(told)}." if told else ""


def _heading(score: str, short: str = "") -> Heading:
    group = "shot-groups" if score in SHOTS else "thirds" if score in THIRDS else score.replace("_", "-")
    meaning = SCORE_MEANINGS["shot_groups" if score in SHOTS else "thirds" if score in THIRDS else score][1]
    return Heading(title=TITLES[score], short=short, meaning=meaning, anchor=f"measure-{group}")


def method_table(suite: SuiteComparison) -> Table:
    """The methods of a suite, best on test first, and those without a final run."""
    groups = [name for name in ("few", "smallest_third", "worst_class") if has_score(suite, name)]
    over = [role for role in YARDSTICKS if suite.references[role].differences]
    replicate = suite.replicate
    most = len(suite.seeds) if replicate == "seed" else max(one.replicates for one in suite.finished)
    listed = most <= LISTED
    rows = []
    for one in suite.methods:
        if not one.seeds:
            rows.append(
                marked(suite, one, [Cell(value="no final yet")] + [Cell(value=DASH)] * (2 + len(over) + len(groups)))
            )
            continue
        scored = one.scores["balanced_accuracy"]
        lacking = f"{len(one.seeds)} of {len(suite.seeds)} seeds" if one.missing else ""
        if listed:
            runs = " / ".join(tenths(value) for value in scored.values)
        else:
            runs = str(len(one.seeds)) if replicate == "seed" else number_of_runs(one.replicates, len(one.seeds))
        rows.append(
            marked(
                suite,
                one,
                [
                    share_cell(scored),
                    Cell(value=runs, interval=lacking),
                    *(_difference_cell(suite.references[role].differences.get(one.name)) for role in over),
                    *(share_cell(one.scores[name]) for name in groups),
                    Cell(value=seconds(one.scores["seconds_shared"].mean)),
                ],
            )
        )
    return Table(
        title="The methods",
        caption=f"Best balanced accuracy on test first. {_legend(suite)} Brackets: 95% t intervals over {replicate}s; bold: the"
        f" interval of a difference leaves out 0, of 3 of them or more. {DASH}: undefined.",
        headings=(
            Heading(title="method", short="method"),
            _heading("balanced_accuracy", short="balanced accuracy"),
            Heading(title=f"by {replicate}") if listed else _runs_heading(replicate),
            *(
                Heading(
                    title=f"over {suite.references[role].name}, points",
                    short=f"over {suite.references[role].name}",
                    meaning=f"Difference of balanced accuracy, {_paired(replicate)}.",
                    anchor="measure-difference",
                )
                for role in over
            ),
            *(_heading(name, short=TITLES[name]) for name in groups),
            Heading(title="seconds", short="seconds", meaning="Of a final run, its share of the device."),
        ),
        rows=tuple(rows),
        rows_are="methods",
    )


def _runs_heading(replicate: Replicate) -> Heading:
    return Heading(title="seeds" if replicate == "seed" else "networks and seeds")


def _paired(replicate: Replicate) -> str:
    return "paired by seed" if replicate == "seed" else "paired by seed, averaged over the seeds of a network"


def suite_table(suites: Sequence[SuiteComparison]) -> Table:
    """Several suites side by side: where ours stands in each."""
    rows, replicate = [], replicate_of(suites)
    for place, suite in enumerate(suites):
        ours = suite.method(OURS)
        best = suite.finished[0] if suite.finished else None
        told = f"{ordinal(suite.finished.index(ours) + 1)} of {len(suite.finished)}" if ours and ours.seeds else DASH
        cells = [
            Cell(
                value=best.name if best else DASH,
                interval=wording.percent(best.scores["balanced_accuracy"].mean) if best else "",
            ),
            Cell(value=told),
            *(_difference_cell(suite.references[role].differences.get(OURS)) for role in YARDSTICKS),
            Cell(value=str(suite.references["reweighting"].name or DASH)),
            Cell(value=f"{len(suite.seeds)}" if replicate == "seed" else runs_of(suite)),
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
    )
    return Table(
        title="The suites",
        caption=f"Differences of balanced accuracy on test, {_paired(replicate)}, with 95% t intervals over {replicate}s; bold: the"
        " interval leaves out 0, of 3 of them or more. The best reweighting method is the one that val names.",
        headings=(Heading(title="suite"), *(Heading(title=title) for title in titles), _runs_heading(replicate)),
        rows=tuple(rows),
        rows_are="suites",
    )


def difference_sections(suite: SuiteComparison) -> tuple[Section, ...]:
    """Every method less the baseline, the best reweighting and ours; no section where there is none of them to compare with."""
    roles = [role for role in _ROLES_IN_ORDER if suite.references[role].differences]
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
            Heading(title=f"{over}, points", short=over, meaning=paired, anchor="measure-difference"),
            *shown.values(),
        ]
    rows = []
    for one in suite.finished:
        found = [suite.references[role].differences.get(one.name) for role in roles]
        cells = [cell for each in found for cell in (_difference_cell(each), *(_beside(each, name) for name in shown))]
        rows.append(marked(suite, one, cells))
    told = []
    if size < FEWEST_FOR_P:
        told.append(f"With {page.number_of(size, replicate, f'{replicate}s')} there is no p value.")
    elif size < FEWEST_FOR_BOOTSTRAP:
        told.append(f"With {size} {replicate}s a bootstrap would claim more than it knows, and is left out.")
    told += [wording.sentence(one.why) for one in suite.references.values() if one.why]
    return (
        Section(
            title="Differences",
            anchor="differences",
            note=" ".join(
                (f"Balanced accuracy on test, of each method less the one named, {paired_by_seed(replicate)}.", *told)
            ),
            table=Table(
                title="Differences",
                caption=f"Points, with 95% t intervals over {replicate}s; bold: the interval leaves out 0, of 3 of them or more."
                + (" p values are of paired t tests, adjusted per column after Holm." if "p, Holm" in shown else ""),
                headings=tuple(headings),
                rows=tuple(rows),
            ),
            charts=tuple(_difference_chart(suite, role) for role in roles),
        ),
    )


def _columns_beside(every: Sequence[Difference], replicate: Replicate, size: int) -> dict[str, Heading]:
    """What is known beside the differences, by what `_beside` takes."""
    holm = "Adjusted for the number of methods in this column."
    found = {}
    if any(math.isfinite(one.bootstrap_low) for one in every):
        meaning, anchor = f"95%, over {replicate}s.", "measure-bootstrap"
        found["bootstrap"] = Heading(title="bootstrap", short="bootstrap", meaning=meaning, anchor=anchor)
    if size > LISTED:
        found["ahead"] = Heading(title=f"{replicate}s ahead", short=f"{replicate}s ahead")
    if any(math.isfinite(one.p_holm) for one in every):
        found["p, Holm"] = Heading(title="p, Holm", short="p, Holm", meaning=holm, anchor="measure-holm")
    return found


def _beside(found: Difference | None, column: str) -> Cell:
    """What stands beside a difference."""
    if found is None:
        return Cell(value=DASH)
    if column == "bootstrap":
        ends = wording.between(found.bootstrap_low, found.bootstrap_high, "tenths")
        return Cell(value="" if ends else DASH, interval=ends)
    if column == "ahead":
        values = found.paired.values
        return Cell(value=f"{sum(value > 0 for value in values)}/{len(values)}")
    return Cell(value=_p(found.p_holm), interval=f"raw {_p(found.p)}" if math.isfinite(found.p) else "")


def _p(value: float) -> str:
    return DASH if math.isnan(value) else "<0.001" if value < 0.0005 else f"{value:.3f}"


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
            signs=signs(suite, shown),
            series=(series([one.paired for one in found], "difference"),),
            reference=0.0,
            longest=NAME,
            points=True,
        ),
    )


def recall_section(suite: SuiteComparison) -> Section:
    """Recall by group of classes and by class, and the other scores."""
    shown = [name for name in (*SHOTS, *THIRDS, "worst_class", "macro_f1", "g_mean", "ece") if has_score(suite, name)]
    rows = [marked(suite, one, [share_cell(one.scores[name]) for name in shown]) for one in suite.finished]
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
            + ", ".join(f"{TITLES[name]} {wording.percent(method.scores[name].mean)}" for name in groups)
            for _, method in sides
        )
        charts = (
            Chart(
                title="Who pays for whom?",
                caption=f"Mean recall on test of the classes in a group, with 95% t intervals over {suite.replicate}s.",
                alt=f"Recall: {told}.",
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
        title="Whose recall?",
        anchor="recall",
        note="Groups are mean recalls: many is more than 100 training images, medium 20 to 100, few less than 20; thirds of the"
        f" classes by training images.{none}",
        table=Table(
            title="Recall by group, and other scores",
            caption=f"Test, means over {suite.replicate}s, with 95% t intervals over {suite.replicate}s. ECE: lower is better.",
            headings=(
                Heading(title="method", short="method"),
                *(_heading(name, short=TITLES[name]) for name in shown),
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
            caption=f"Recall less {baseline.name}'s in points, with 95% t intervals over {suite.replicate}s.",
            alt=f"Difference of the largest and of the smallest third: {told}.",
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
            caption=f"In percent, mean over {suite.replicate}s; the darker, the more is missed. Classes by training images, largest first"
            + ("; which class that is changes with the tail order." if len(suite.tail_orders) > 1 else "."),
            corner="training images",
            columns=columns,
            rows=tuple((wording.named(one.name), tuple(shade(one, rank) for rank in ranks)) for one in suite.finished),
            hue="vermillion",
        ),
    )
