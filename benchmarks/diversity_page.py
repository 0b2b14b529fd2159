"""What the records of `benchmarks.diversity` show: `python -m benchmarks.diversity_page` draws the figures and fills the page.

Everything here is computed from `results/diversity_DATA.jsonl` alone. The tables stand in `docs/results/diversity.md`; the figures
are written beside it. Intervals are 95% bootstrap intervals that draw whole assignments, because the runs of an assignment share
which classes are large, which are narrow, and which images they have.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from scipy.stats import t as student

from benchmarks import diversity
from diversify.functional import draws

Array = NDArray[np.float64]
DOCS = Path(__file__).parents[1] / "docs" / "results"
FIGURES = {"size": "diversity_size.svg", "measures": "diversity_measures.svg", "ratio": "diversity_ratio.svg"}
NO_RECORDS = "No records yet."
BOOTSTRAPS = 2000
CONFIDENCE = 0.95
FEWEST_IMAGES = 0.005  # recall is clipped to [this, 1 - this] before its logit is taken
WIDE = "wide"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """All classes of all runs of one design: N = runs x classes rows.

    Attributes:
        data: The data set.
        run: `(N,)` number of the run.
        assignment: `(N,)` permutation of the classes.
        label: `(N,)` class.
        sizes: `(N,)` how sizes go with diversity.
        form: `(N,)` what the training images of the class are: "wide", or the form of its narrowness.
        of_run: `(N,)` the form of narrow classes in the run.
        columns: Numbers by name, each `(N,)`; NaN where undefined.
        half: `(N,)` "development" or "confirmation".
    """

    data: str
    run: NDArray[np.int64]
    assignment: NDArray[np.int64]
    label: NDArray[np.int64]
    sizes: NDArray[np.str_]
    form: NDArray[np.str_]
    of_run: NDArray[np.str_]
    columns: Mapping[str, Array]
    half: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.run)

    @property
    def log_n(self) -> Array:
        """`(N,)` log of the number of training images."""
        return np.log(self.columns["count"])

    @property
    def narrow(self) -> NDArray[np.bool_]:
        """`(N,)` True for narrow classes."""
        return self.form != WIDE

    def where(self, chosen: NDArray[np.bool_]) -> Table:
        """Return some of the rows."""
        values = {
            field.name: getattr(self, field.name)[chosen]
            for field in dataclasses.fields(self)
            if field.name not in ("data", "columns")
        }
        return Table(data=self.data, columns={name: one[chosen] for name, one in self.columns.items()}, **values)


def table_of(records: Sequence[Mapping[str, Any]]) -> Table:
    """Return the classes of the records as one table."""
    found: dict[str, list[Any]] = {field.name: [] for field in dataclasses.fields(Table)}
    columns: dict[str, list[float]] = {}
    names = sorted({name for one in records for part in ("classes", "measures") for name in one[part]})
    for number, one in enumerate(records):
        num_classes = len(one["narrow"])
        found["run"] += [number] * num_classes
        found["label"] += range(num_classes)
        for name, key in (("assignment", "assignment"), ("sizes", "sizes"), ("of_run", "diversity"), ("half", "half")):
            found[name] += [one[key]] * num_classes
        found["form"] += [one["diversity"] if narrow else WIDE for narrow in one["narrow"]]
        values = {**one["classes"], **one["measures"]}
        for name in names:
            row = values.get(name, [None] * num_classes)
            columns.setdefault(name, []).extend(math.nan if value is None else value for value in row)
    return Table(
        data=records[0]["design"]["data"],
        columns={name: np.array(values, dtype=float) for name, values in columns.items()},
        **{name: np.array(found[name]) for name in found if name not in ("data", "columns")},
    )


# Statistics, with intervals over assignments


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    low: float
    high: float

    def shown(self, form: str = "+.2f") -> str:
        """Return it as text; a dash if it is undefined."""
        if math.isnan(self.value):
            return "–"
        ends = "" if math.isnan(self.low) else f" ({self.low:{form}} to {self.high:{form}})"
        return f"{self.value:{form}}{ends}".replace("inf", "∞")


def weights_of(clusters: int) -> Array:
    """Return `(B + 1, clusters)`: how often each assignment is drawn; once each in the first row."""
    rows = draws.integers(clusters, "diversity page", torch.arange(BOOTSTRAPS)[:, None], torch.arange(clusters)).numpy()
    drawn = (rows[:, :, None] == np.arange(clusters)).sum(1)
    return np.concatenate([np.ones((1, clusters)), drawn]).astype(float)


def estimate_of(values: Array, clusters: int) -> Estimate:
    """Return the first value, with the interval that the others give; wider for few clusters, as Student's t is."""
    usable = values[1:][~np.isnan(values[1:])]
    if clusters < 2 or not len(usable) or math.isnan(values[0]):
        return Estimate(float(values[0]), math.nan, math.nan)
    beside = NormalDist().cdf(
        -math.sqrt(clusters / (clusters - 1)) * float(student.ppf(0.5 + CONFIDENCE / 2, clusters - 1))
    )
    low, high = np.quantile(usable, [beside, 1 - beside], method="nearest")
    return Estimate(float(values[0]), float(low), float(high))


def grams_of(matrix: Array, assignment: NDArray[np.int64]) -> Array:
    """Return `(clusters, p, p)`: the products of the columns `(N, p)` within each assignment."""
    return np.stack([part.T @ part for part in (matrix[assignment == a] for a in np.unique(assignment))])


def residual(grams: Array, target: Sequence[int], given: Sequence[int]) -> Array:
    """Return `(B, t, t)`: products of the target columns after a linear regression on the given ones."""
    whole = grams[:, target][:, :, target]
    if not len(given):
        return whole
    cross = grams[:, target][:, :, given]
    return whole - cross @ np.linalg.pinv(grams[:, given][:, :, given], rcond=1e-9, hermitian=True) @ cross.mT


def dummies(values: NDArray[Any]) -> Array:
    """Return `(N, levels)`: 1 where a row has the level."""
    return (values[:, None] == np.unique(values)).astype(float)


def shares_explained(table: Table) -> dict[str, Estimate]:
    """Return the shares of the variance of recall, left by class identity, that size and diversity explain.

    Size is log n, diversity the form of the training images. `size beyond diversity` is what both explain less what diversity
    explains alone.
    """
    size, form, identity = table.log_n[:, None], dummies(table.form), dummies(table.label)
    matrix = np.concatenate([table.columns["recall_test"][:, None], identity, size, form], 1)
    base = list(range(1, 1 + identity.shape[1]))
    places = {"size": [len(base) + 1], "diversity": list(range(len(base) + 2, matrix.shape[1]))}
    per = grams_of(matrix, table.assignment)
    weighted = np.einsum("bc,cij->bij", weights_of(len(per)), per)

    def left(*names: str) -> Array:
        return residual(weighted, [0], base + [place for name in names for place in places[name]])[:, 0, 0]

    nothing = left()
    share = {
        name: 1 - left(*names) / nothing
        for name, names in (("size", ["size"]), ("diversity", ["diversity"]), ("both", list(places)))
    }
    share["size beyond diversity"] = share["both"] - share["diversity"]
    share["diversity beyond size"] = share["both"] - share["size"]
    return {name: estimate_of(values, len(per)) for name, values in share.items()}


def exchange_rate(table: Table, form: str) -> Estimate:
    """Return how many images of a narrow class one diverse image is worth.

    In the runs with this form, the logit of recall is a line in log n for wide and one for narrow classes, over class identity. At
    the middle size, the rate is the factor by which a narrow class would have to grow to reach the wide line; infinite where more
    images of a narrow class do not help.
    """
    rows = table.where(table.of_run == form)
    recall = np.clip(rows.columns["recall_test"], FEWEST_IMAGES, 1 - FEWEST_IMAGES)
    narrow = rows.narrow.astype(float)[:, None]
    size = (rows.log_n - rows.log_n.mean())[:, None]
    identity = dummies(rows.label)
    matrix = np.concatenate(
        [np.log(recall / (1 - recall))[:, None], identity, narrow, size * (1 - narrow), size * narrow], 1
    )
    per = grams_of(matrix, rows.assignment)
    weighted = np.einsum("bc,cij->bij", weights_of(len(per)), per)
    given = list(range(1, matrix.shape[1]))
    inverse = np.linalg.pinv(weighted[:, given][:, :, given], rcond=1e-9, hermitian=True)
    slopes = (inverse @ weighted[:, given][:, :, [0]])[:, :, 0]
    behind, narrow_slope = -slopes[:, -3], slopes[:, -1]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        rate = np.where(narrow_slope > 0, np.exp(behind / narrow_slope), np.where(behind > 0, np.inf, np.nan))
    return estimate_of(rate, len(per))


def within_runs(values: Array, run: NDArray[np.int64]) -> Array:
    """Return the rank of each value in its run, minus the mean rank; 0 for NaN."""
    found = np.zeros(len(values))
    for number in np.unique(run):
        rows = np.flatnonzero((run == number) & np.isfinite(values))
        ranks = rankdata(values[rows])
        found[rows] = ranks - ranks.mean() if len(rows) else ranks
    return found


def rank_correlation(
    table: Table, name: str, given: Sequence[str] = ("size",), outcome: str = "recall_test"
) -> Estimate:
    """Return the rank correlation over the classes of a run, pooled over runs, of a column with recall.

    Args:
        table: The rows.
        name: The column; rows where it is undefined are left out.
        given: What is taken out of both before: "size", the rank of log n, and "diversity", the form.
        outcome: The other column.
    """
    rows = table.where(np.isfinite(table.columns[name]) & np.isfinite(table.columns[outcome]))
    clusters = len(np.unique(rows.assignment))
    if not len(rows):
        return Estimate(math.nan, math.nan, math.nan)
    parts = [within_runs(rows.columns[outcome], rows.run), within_runs(rows.columns[name], rows.run)]
    if "size" in given:
        parts.append(within_runs(rows.log_n, rows.run))
    if "diversity" in given:
        for level in dummies(rows.form).T:
            means = np.array([level[rows.run == number].mean() for number in rows.run])
            parts.append(level - means)
    per = grams_of(np.stack(parts, 1), rows.assignment)
    weighted = np.einsum("bc,cij->bij", weights_of(len(per)), per)
    left = residual(weighted, [0, 1], list(range(2, len(parts))))
    floor = 1e-9 * weighted[:, [0, 1], [0, 1]].clip(min=1)
    first, second = left[:, 0, 0], left[:, 1, 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = left[:, 0, 1] / np.sqrt(first * second)
    return estimate_of(np.where((first > floor[:, 0]) & (second > floor[:, 1]), found.clip(-1, 1), np.nan), clusters)


def narrow_auc(table: Table, name: str) -> Estimate:
    """Return how often a narrow class has a lower value than a wide class of its run; ties count half; 0.5 is chance."""
    sums: dict[int, list[float]] = {}
    for number in np.unique(table.run):
        rows = table.run == number
        values, narrow = table.columns[name][rows], table.narrow[rows]
        low, high = values[narrow & np.isfinite(values)], values[~narrow & np.isfinite(values)]
        if len(low) and len(high):
            less = (low[:, None] < high).mean() + 0.5 * (low[:, None] == high).mean()
            sums.setdefault(int(table.assignment[rows][0]), []).append(float(less))
    if not sums:
        return Estimate(math.nan, math.nan, math.nan)
    totals, sizes = np.array([sum(one) for one in sums.values()]), np.array([len(one) for one in sums.values()])
    weights = weights_of(len(sums))
    return estimate_of((weights @ totals) / (weights @ sizes), len(sums))


# The records


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed: float, size: int) -> Table | None:
    records = diversity.kept(path)
    by_design: dict[str, list[Mapping[str, Any]]] = {}
    for one in records:
        by_design.setdefault(str(one["design"]), []).append(one)
    return table_of(max(by_design.values(), key=len)) if by_design else None


def tables() -> list[Table]:
    """Return the table of each data set that has records: of its design with the most runs."""
    found = []
    for data in diversity.DESIGNS:
        path = diversity.path_of(data)
        if path.exists() and (table := _read(path, path.stat().st_mtime, path.stat().st_size)) is not None:
            found.append(table)
    return found


def measure_names(table: Table) -> list[str]:
    """Return the columns that are measures from training images alone."""
    spaces = [f"{space}_{kind}" for space in diversity.SPACES for kind in diversity.KINDS]
    return [name for name in (*spaces, *diversity.OF_DIAGNOSIS) if name in table.columns]


def title_of(name: str) -> str:
    """Return a measure in words."""
    space, _, kind = name.partition("_")
    if space in diversity.SPACES and kind in diversity.KINDS:
        return f"{diversity.KINDS[kind]}, {diversity.SPACES[space]}"
    return name.replace("_", " ")


def halves(table: Table) -> tuple[Table, Table]:
    """Return the rows of development and of confirmation, of runs that have narrow classes."""
    found = [table.where((table.half == half) & (table.of_run != "none")) for half in diversity.HALVES]
    return found[0], found[1]


@dataclasses.dataclass(frozen=True)
class Judged:
    """A measure: AUC for narrowness and rank correlation with recall beyond log n, in both halves of each data set."""

    name: str
    auc: Mapping[str, tuple[Estimate, Estimate]]
    correlation: Mapping[str, tuple[Estimate, Estimate]]

    @property
    def strength(self) -> float:
        """How far the AUC is from chance on development assignments, mean over data sets."""
        signed = [pair[0].value - 0.5 for pair in self.auc.values() if not math.isnan(pair[0].value)]
        return abs(sum(signed)) / len(signed) if signed else -1.0


def judged(listed: Sequence[Table]) -> list[Judged]:
    """Return every measure, the one that tells narrow classes best on development assignments first."""
    names = list(dict.fromkeys(name for table in listed for name in measure_names(table)))
    found = []
    for name in names:
        auc, correlation = {}, {}
        for table in listed:
            if name in table.columns:
                development, confirmation = halves(table)
                auc[table.data] = narrow_auc(development, name), narrow_auc(confirmation, name)
                correlation[table.data] = rank_correlation(development, name), rank_correlation(confirmation, name)
        found.append(Judged(name, auc, correlation))
    return sorted(found, key=lambda one: -one.strength)


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
            rows.append(
                f"| {table.data} | {form} | {narrow:.0%}, {wide:.0%} | {exchange_rate(table, form).shown('.1f')} |"
            )
    return "\n".join(rows)


def measure_table() -> str:
    """Return each measure from training images alone, as a table: development, then confirmation assignments."""
    listed = tables()
    if not listed:
        return NO_RECORDS
    heads = [f"{kind}, {table.data}" for table in listed for kind in ("AUC", "rank correlation")]
    rows = [
        *_figure("measures", "AUC of the best measures on development and confirmation assignments"),
        f"| measure | {' | '.join(heads)} |",
        f"|:--|{'--:|' * len(heads)}",
    ]
    for one in judged(listed):
        cells = []
        for table in listed:
            for part, form in ((one.auc, ".2f"), (one.correlation, "+.2f")):
                pair = part.get(table.data)
                cells.append("–" if pair is None else f"{_plain(pair[0], form)}, {pair[1].shown(form)}")
        rows.append(f"| {title_of(one.name)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _plain(one: Estimate, form: str) -> str:
    return "–" if math.isnan(one.value) else f"{one.value:{form}}"


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
        for name, draw, columns in (
            ("size", _draw_size, 1),
            ("measures", _draw_measures, 1),
            ("ratio", _draw_ratio, 2),
        ):
            size = (3.6 * len(listed) + 0.6, 3.4 * columns) if name != "measures" else (3.6 * len(listed) + 1.6, 4.2)
            figure = Figure(figsize=size, layout="constrained")
            draw(figure, listed)
            drawn[folder / FIGURES[name]] = figure
        for path, figure in drawn.items():
            figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    return list(drawn)


def _draw_size(figure: Any, listed: Sequence[Table]) -> None:
    axes = figure.subplots(1, len(listed), squeeze=False, sharey=True)[0]
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
    axes[0].set_ylabel("test recall")
    axes[-1].legend(title="training images", fontsize=8, frameon=False)


def _draw_measures(figure: Any, listed: Sequence[Table]) -> None:
    axes = figure.subplots(1, len(listed), squeeze=False, sharey=True)[0]
    best = judged(listed)[:15]
    for axis, table in zip(axes, listed, strict=True):
        for half, (words, marker) in enumerate(zip(diversity.HALVES, "os", strict=True)):
            pairs = [one.auc.get(table.data) for one in best]
            x = [math.nan if pair is None else pair[half].value for pair in pairs]
            axis.plot(x, range(len(best)), marker, ms=5, label=words, fillstyle="none" if half == 0 else "full")
        axis.axvline(0.5, color="0.6", lw=0.8)
        axis.set(title=table.data, xlabel="AUC: a narrow class has a lower value", xlim=(-0.02, 1.02))
    axes[0].set_yticks(range(len(best)), [title_of(one.name) for one in best])
    axes[0].invert_yaxis()
    axes[-1].legend(fontsize=8, frameon=False)


def _draw_ratio(figure: Any, listed: Sequence[Table]) -> None:
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


def main() -> None:
    """Draw the figures and fill the page."""
    from benchmarks import tables as documents

    for path in draw_figures():
        print(path)
    documents.main([DOCS / "diversity.md"])


if __name__ == "__main__":
    main()
