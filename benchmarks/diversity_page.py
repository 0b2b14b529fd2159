"""What the records of `benchmarks.diversity` show: tables and figures.

Everything comes from `results/diversity_DATA.jsonl` alone, by way of `diversity_analysis.py`. The tables stand in
`docs/results/diversity.md`; the figures are written beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from benchmarks import diversity, diversity_more, diversity_pretrained
from benchmarks.diversity_analysis import (
    TROUBLES,
    WIDE,
    Estimate,
    Judged,
    Table,
    estimate_of,
    exchange_rate,
    judged,
    rank_correlation,
    share_where,
    shares_explained,
    tables,
    title_of,
    weights_of,
)

DOCS = Path(__file__).parents[1] / "docs" / "results"
FIGURES = {"size": "diversity_size.svg", "measures": "diversity_measures.svg", "ratio": "diversity_ratio.svg"}
NO_RECORDS = "No records yet."
SHOWN = 20  # measures in a table
SHOWN_PRETRAINED = 3


# Tables


def _described(table: Table) -> str:
    runs, assignments = len(np.unique(table.run)), len(np.unique(table.assignment))
    images = int(table.columns["count"].min()), int(table.columns["count"].max())
    return (
        f"{table.data}: {runs} networks, {assignments} assignments, {images[0]} to {images[1]} training images a class"
    )


def _figure(name: str, words: str) -> list[str]:
    return [f"![{words}]({FIGURES[name]})", ""] if (DOCS / FIGURES[name]).exists() else []


def text() -> str:
    """Return the three answers in words that the numbers choose."""
    listed = tables()
    if not listed:
        return NO_RECORDS
    lines = []
    for table in listed:
        share = shares_explained(table)
        more = (
            "more"
            if share["diversity beyond size"].low > share["size beyond diversity"].high
            else "less"
            if share["diversity beyond size"].high < share["size beyond diversity"].low
            else "as much, within the intervals,"
        )
        narrow, wide = (float(table.columns["recall_test"][chosen].mean()) for chosen in (table.narrow, ~table.narrow))
        lines.append(
            f"- {_described(table)}. Test recall is {narrow:.0%} in narrow and {wide:.0%} in wide classes. Diversity explains"
            f" {share['diversity beyond size'].value:.0%} of the variance beyond size, {more} {'than' if more in ('more', 'less') else 'as'} size beyond diversity"
            f" ({share['size beyond diversity'].value:.0%})."
        )
    best = judged(listed)[0]
    told = "; ".join(f"{data} {pair[1].shown('.2f')}" for data, pair in best.auc.items())
    lines.append(
        f"- The measure that tells narrow classes best on development assignments is **{title_of(best.name)}**; AUC on confirmation assignments: {told}."
    )
    for table in (one for one in listed if "narrow wide" in one.columns):
        some = table.where((table.half == "confirmation") & (table.of_run != "none"))
        found = some.columns["narrow wide"] > 0
        right, seen = share_where(some, some.narrow, found), share_where(some, found, some.narrow)
        lines.append(
            f"- {table.data}: with held-out images of the wide kind, the finding *narrow* is made in {seen.value:.0%} of the narrow"
            f" classes of the confirmation assignments, and is right in {right.value:.0%} of cases."
        )
    for table in listed:
        like, wide_kind = (
            rank_correlation(table, name, ("size", "diversity")) for name in ("ratio_like", "ratio_wide")
        )
        lines.append(
            f"- {table.data}: beyond size and diversity, the top-K magnitude ratio goes with test recall by"
            f" {wide_kind.shown()} on held-out images of the wide kind, and by {like.shown()} on those of a random split."
        )
    return "\n".join(lines)


def size_table() -> str:
    """Return what size and diversity explain of recall, as a table."""
    listed = tables()
    if not listed:
        return NO_RECORDS
    names = ("size", "diversity", "both", "size beyond diversity", "diversity beyond size")
    rows = [
        *_figure("size", "Test recall against the number of training images, one line for each diversity"),
        f"| share of the variance of test recall | {' | '.join(names)} |",
        f"|:--|{'--:|' * len(names)}",
    ]
    for table in listed:
        for words, chosen in (("all runs", table), ("sizes independent", table.where(table.sizes == "independent"))):
            if len(chosen):
                share = shares_explained(chosen)
                rows.append(f"| {table.data}, {words} | {' | '.join(share[name].shown('.2f') for name in names)} |")
    return "\n".join(rows)


def exchange_table() -> str:
    """Return how many images of a narrow class one diverse image is worth, as a table."""
    listed = tables()
    if not listed:
        return NO_RECORDS
    rows = ["| data | narrow classes | recall narrow, wide | one diverse image is worth |", "|:--|:--|--:|--:|"]
    for table in listed:
        for form in dict.fromkeys(table.of_run.tolist()):
            here = table.where(table.of_run == form)
            if form == "none" or len(set(here.sizes.tolist())) < 2:  # equal sizes alone say nothing about more images
                continue
            narrow, wide = (float(here.columns["recall_test"][chosen].mean()) for chosen in (here.narrow, ~here.narrow))
            rows.append(f"| {table.data} | {form} | {narrow:.0%}, {wide:.0%} | {_times(exchange_rate(table, form))} |")
    return "\n".join(rows)


def _times(rate: Estimate) -> str:
    """Return a rate of images, without digits that mean nothing."""

    def shown(value: float) -> str:
        return "over 1,000" if value > 1000 else f"{value:.0f}" if value >= 10 else f"{value:.1f}"

    if math.isnan(rate.value):
        return "–"
    return f"{shown(rate.value)}" + ("" if math.isnan(rate.low) else f" ({shown(rate.low)} to {shown(rate.high)})")


def measure_table() -> str:
    """Return each measure from training images alone, as a table: development, then confirmation assignments."""
    listed = tables()
    if not listed:
        return NO_RECORDS
    rows = [
        *_figure("measures", "AUC of the best measures on development and confirmation assignments"),
        *_measure_rows(listed, "auc", [*judged(listed)[:SHOWN], *_pretrained(listed)], ".2f"),
        "",
        f"The best {SHOWN} of {len(judged(listed))} measures; the records have all."
        + (
            " Below them, the best ones in the features of a frozen network from ImageNet."
            if _pretrained(listed)
            else ""
        ),
    ]
    return "\n".join(rows)


def correlation_table() -> str:
    """Return each measure's rank correlation with test recall beyond class size, as a table, the strongest first."""
    listed = tables()
    if not listed:
        return NO_RECORDS

    def strength(one: Judged) -> float:
        known = [pair[0].value for pair in one.correlation.values() if not math.isnan(pair[0].value)]
        return -abs(sum(known)) / len(listed)

    return "\n".join(_measure_rows(listed, "correlation", sorted(judged(listed), key=strength)[:SHOWN], "+.2f"))


def _pretrained(listed: tuple[Table, ...]) -> list[Judged]:
    """Return the best measures from a frozen pretrained network, which not every data set has, that are not shown already."""
    named = [one for one in judged(listed)[SHOWN:] if one.name.startswith(diversity_pretrained.SPACE)]
    return named[:SHOWN_PRETRAINED]


def _measure_rows(listed: tuple[Table, ...], part: str, measures: Sequence[Judged], form: str) -> list[str]:
    """Return a table of the first measures: the value on development assignments, then that on confirmation ones."""
    rows = [f"| measure | {' | '.join(table.data for table in listed)} |", f"|:--|{'--:|' * len(listed)}"]
    for one in measures:
        pairs = [getattr(one, part).get(table.data) for table in listed]
        cells = ["–" if pair is None else f"{_plain(pair[0], form)}, {pair[1].shown(form)}" for pair in pairs]
        rows.append(f"| {title_of(one.name)} | {' | '.join(cells)} |")
    return rows


def _plain(one: Estimate, form: str) -> str:
    return "–" if math.isnan(one.value) else f"{one.value:{form}}"


def findings_table() -> str:
    """Return how often the finding *narrow* is right, and how often it is made, as a table."""
    listed = [table for table in tables() if "narrow wide" in table.columns]
    if not listed:
        return NO_RECORDS
    rows = [
        "| data, assignments | held-out images a class | precision | recall | false alarms without narrow classes | false alarms, random split |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    for table in listed:
        for half in diversity.HALVES:
            here = table.where(table.half == half)
            some = here.where(here.of_run != "none")
            none = here.where(here.of_run == "none")
            every = np.ones(len(none), dtype=bool)
            found, split = some.columns["narrow wide"] > 0, some.columns["narrow like"] > 0
            cells = [
                share_where(some, some.narrow, found).shown(".0%"),
                share_where(some, found, some.narrow).shown(".0%"),
                share_where(none, none.columns["narrow wide"] > 0, every).shown(".1%") if len(none) else "–",
                share_where(some, split, np.ones(len(some), dtype=bool)).shown(".1%"),
            ]
            rows.append(f"| {table.data}, {half} | {_heldout_images(some)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _heldout_images(table: Table) -> str:
    """Return the range of the numbers of held-out images of a class: a share of the training images, at least one."""
    share = diversity.DESIGNS[table.data].holdout
    counts = table.columns["count"] * share / (1 - share)
    low, high = (max(1, round(float(end))) for end in (counts.min(), counts.max()))
    return f"{low}" if low == high else f"{low} to {high}"


def few_table() -> str:
    """Return the precision and recall of the finding *narrow* by the number of held-out images, as a table."""
    listed = [table for table in tables() if "narrow wide" in table.columns and table.data != "digits"]
    if not listed:
        return NO_RECORDS
    numbers = [str(most) for most in diversity.FEW_HELDOUT]
    rows = [
        f"| precision, recall with at most | {' | '.join(f'{most} held-out images a class' for most in numbers)} | all |",
        f"|:--|{'--:|' * (len(numbers) + 1)}",
    ]
    for table in listed:
        some = table.where(table.of_run != "none")
        cells = []
        for name in (*(f"narrow {most}" for most in numbers), "narrow wide"):
            found = some.columns[name] > 0
            pair = share_where(some, some.narrow, found), share_where(some, found, some.narrow)
            cells.append(", ".join(one.shown(".0%") for one in pair))
        rows.append(f"| {table.data} | {' | '.join(cells)} |")
    return "\n".join(rows)


def trouble_table() -> str:
    """Return how often each trouble is named in narrow, in wide and in small classes, as a table."""
    listed = [table for table in tables() if "narrow wide" in table.columns]
    if not listed:
        return NO_RECORDS
    rows = [
        "| data | trouble | narrow classes | of bursts | wide classes | smallest third, sizes unequal | largest third |",
        "|:--|:--|--:|--:|--:|--:|--:|",
    ]
    for table in listed:
        bursts = table.narrow & np.char.startswith(table.form, "bursts")
        rank = np.zeros(len(table))
        for number in np.unique(table.run):
            own = table.run == number
            rank[own] = (rankdata(table.columns["count"][own]) - 1) / max(1, own.sum() - 1)
        unequal = table.sizes != "equal"
        among = (table.narrow, bursts, ~table.narrow, unequal & (rank <= 1 / 3), unequal & (rank >= 2 / 3))
        for trouble in TROUBLES:
            named = table.columns[f"{trouble} wide"] > 0
            cells = [share_where(table, named, rows_of).shown(".0%") if rows_of.any() else "–" for rows_of in among]
            rows.append(f"| {table.data} | {trouble} | {' | '.join(cells)} |")
    return "\n".join(rows)


def ratio_table() -> str:
    """Return what the top-K magnitude ratio says beyond size and diversity, by kind of held-out images, as a table."""
    listed = tables()
    if not listed:
        return NO_RECORDS
    given: Mapping[str, tuple[str, ...]] = {
        "with test recall": (),
        "beyond size": ("size",),
        "beyond size and diversity": ("size", "diversity"),
    }
    rows = [
        *_figure("ratio", "Test recall against the top-K magnitude ratio, on both kinds of held-out images"),
        f"| held-out images | recall narrow, wide | ratio narrow, wide | {' | '.join(given)} |",
        f"|:--|--:|--:|{'--:|' * len(given)}",
    ]
    for table in listed:
        here = table.where(table.of_run != "none")
        for kind, words in (("like", "a random split of the training images"), ("wide", "random images of the class")):
            recall, ratio = (
                [float(np.nanmean(here.columns[f"{name}_{kind}"][chosen])) for chosen in (here.narrow, ~here.narrow)]
                for name in ("recall", "ratio")
            )
            cells = " | ".join(rank_correlation(here, f"ratio_{kind}", names).shown() for names in given.values())
            rows.append(
                f"| {table.data}: {words} | {recall[0]:.0%}, {recall[1]:.0%} | {ratio[0]:.2f}, {ratio[1]:.2f} | {cells} |"
            )
    return "\n".join(rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "diversity_text": text,
    "diversity_size": size_table,
    "diversity_exchange": exchange_table,
    "diversity_measures": measure_table,
    "diversity_correlations": correlation_table,
    "diversity_findings": findings_table,
    "diversity_few": few_table,
    **diversity_more.TABLES,
    "diversity_troubles": trouble_table,
    "diversity_ratio": ratio_table,
}


# Figures


def size_bins(table: Table, form: str, bins: int = 4) -> list[tuple[float, Estimate]]:
    """Return the mean number of images and the mean recall of the classes of a form, in bins of equally many rows."""
    rows = table.where(table.form == form)
    found = []
    for part in np.array_split(
        np.argsort(rows.columns["count"], kind="stable"), bins if len(set(rows.columns["count"])) > bins else 1
    ):
        here = rows.where(np.isin(np.arange(len(rows)), part))
        per = [here.columns["recall_test"][here.assignment == a] for a in np.unique(here.assignment)]
        totals, sizes = np.array([one.sum() for one in per]), np.array([len(one) for one in per])
        weights = weights_of(len(per))
        found.append((float(np.exp(here.log_n.mean())), estimate_of((weights @ totals) / (weights @ sizes), len(per))))
    return found


def draw_figures(folder: Path = DOCS) -> list[Path]:
    """Draw the figures of the page as SVG files that are the same for the same records."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    listed = tables()
    if not listed:
        return []
    style = {"svg.hashsalt": "diversity", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
    with mpl.rc_context(style | {"axes.spines.right": False}):
        drawn = {}
        sizes = {
            "size": (3.6 * _across(listed) + 1.4, 3.2 * math.ceil(len(listed) / _across(listed))),
            "measures": (2.2 * len(listed) + 2.4, 4.2),
            "ratio": (3.0 * len(listed) + 0.6, 6.4),
        }
        for name, draw in (("size", _draw_size), ("measures", _draw_measures), ("ratio", _draw_ratio)):
            size = sizes[name]
            figure = Figure(figsize=size, layout="constrained")
            draw(figure, listed)
            drawn[folder / FIGURES[name]] = figure
        for path, figure in drawn.items():
            figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    return list(drawn)


def _across(listed: tuple[Table, ...]) -> int:
    """Return how many panels stand beside each other: two of four, else all up to three."""
    return 2 if len(listed) == 4 else min(3, len(listed))


def _draw_size(figure: Any, listed: tuple[Table, ...]) -> None:
    grid = figure.subplots(math.ceil(len(listed) / _across(listed)), _across(listed), squeeze=False, sharey=True)
    for axis in grid.flat[len(listed) :]:
        axis.set_visible(False)
    axes = list(grid.flat[: len(listed)])
    for axis, table in zip(axes, listed, strict=True):
        for place, form in enumerate([WIDE, *sorted(set(table.form.tolist()) - {WIDE})]):
            points = size_bins(table, form)
            x, y = [n for n, _ in points], [one.value for _, one in points]
            ends = [[one.value - one.low for _, one in points], [one.high - one.value for _, one in points]]
            axis.errorbar(
                x,
                y,
                np.nan_to_num(np.array(ends).clip(min=0)),
                marker="os^Dv<>"[place % 7],
                label=form,
                capsize=2,
                lw=1.4,
                ms=4,
            )
        axis.set(xscale="log", title=table.data, xlabel="training images of the class")
        counts = table.columns["count"]
        ticks = [n for n in (5, 10, 20, 50, 100, 200, 500, 1000) if counts.min() <= n <= counts.max()]
        axis.set_xticks(ticks, [str(n) for n in ticks])
        axis.minorticks_off()
    for row in grid:
        row[0].set_ylabel("test recall")
    shown = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), title="training images", frameon=False, loc="outside right center")


def _draw_measures(figure: Any, listed: tuple[Table, ...]) -> None:
    axes = figure.subplots(1, len(listed), squeeze=False, sharey=True)[0]
    best = judged(listed)[:15]
    for axis, table in zip(axes, listed, strict=True):
        for half, (words, marker) in enumerate(zip(diversity.HALVES, "os", strict=True)):
            pairs = [one.auc.get(table.data) for one in best]
            x = [math.nan if pair is None else pair[half].value for pair in pairs]
            axis.plot(x, range(len(best)), marker, ms=5, label=words, fillstyle="none" if half == 0 else "full")
        axis.axvline(0.5, color="0.6", lw=0.8)
        axis.set(title=table.data, xlabel="AUC", xlim=(-0.02, 1.02))
    axes[0].set_yticks(range(len(best)), [title_of(one.name) for one in best])
    axes[0].invert_yaxis()
    axes[-1].legend(fontsize=8, frameon=False, loc="lower left")


def _draw_ratio(figure: Any, listed: tuple[Table, ...]) -> None:
    axes = figure.subplots(2, len(listed), squeeze=False, sharey=True)
    for column, table in enumerate(listed):
        here = table.where(table.of_run != "none")
        for row, (kind, words) in enumerate(
            (("like", "held-out from a random split"), ("wide", "random held-out images"))
        ):
            axis = axes[row][column]
            for narrow, label in ((False, "wide classes"), (True, "narrow classes")):
                chosen = here.narrow == narrow
                x, y = here.columns[f"ratio_{kind}"][chosen], here.columns["recall_test"][chosen]
                axis.plot(x, y, ".", ms=3, alpha=0.5, label=label)
            axis.set(title=f"{table.data}: {words}", xlabel="top-K magnitude, held-out / train", xlim=(0.2, 1.4))
        axes[0][column].axvline(1, color="0.6", lw=0.8)
        axes[1][column].axvline(1, color="0.6", lw=0.8)
    for row in axes:
        row[0].set_ylabel("test recall")
    axes[0][-1].legend(fontsize=8, frameon=False, markerscale=3)
