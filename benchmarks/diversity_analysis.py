"""The analysis of the records of `benchmarks.diversity`: what size and diversity explain, and which measures see diversity.

Intervals are 95% bootstrap intervals that draw whole assignments, because the runs of an assignment share which classes are large,
which are narrow, and which images they have.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from scipy.stats import t as student

from benchmarks import diversity, diversity_pretrained
from diversify.diagnosis.findings import narrow_classes
from diversify.functional import draws

Array = NDArray[np.float64]
BOOTSTRAPS = 2000
CONFIDENCE = 0.95
FEWEST_IMAGES = 0.005  # recall is clipped to [this, 1 - this] before its logit is taken
WIDE = "wide"
SPACES = {**diversity.SPACES, diversity_pretrained.SPACE: "pretrained network"}
TROUBLES = ("small", "narrow", "near copies", "head", "magnitude gap", "overlap", "held-out too like training")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
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
    rows = [{**one["classes"], **one["measures"], **_told(one)} for one in records]
    names = sorted({name for one in rows for name in one})
    for number, one in enumerate(records):
        num_classes = len(one["narrow"])
        found["run"] += [number] * num_classes
        found["label"] += range(num_classes)
        for name, key in (("assignment", "assignment"), ("sizes", "sizes"), ("of_run", "diversity"), ("half", "half")):
            found[name] += [one[key]] * num_classes
        found["form"] += [one["diversity"] if narrow else WIDE for narrow in one["narrow"]]
        for name in names:
            row = rows[number].get(name, [None] * num_classes)
            columns.setdefault(name, []).extend(math.nan if value is None else value for value in row)
    return Table(
        data=records[0]["design"]["data"],
        columns={name: np.array(values, dtype=float) for name, values in columns.items()},
        **{name: np.array(found[name]) for name in found if name not in ("data", "columns")},
    )


def _told(record: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """Return what the diagnoses of a run say of its classes, as columns: coverage, and 1 where a trouble is named."""
    coverage = record.get("coverage", {})
    found: dict[str, list[float | None]] = {f"coverage_{side}": one[""] for side, one in coverage.items()}
    for side, named in record.get("trouble", {}).items():
        for trouble in TROUBLES:
            found[f"{trouble} {side}"] = [float(trouble in each) for each in named]
    for which in coverage:  # by the rule of today; for a side, what its diagnosis said by the rule of its day
        narrow = narrow_classes(_covered(record, which))
        found[f"narrow {which}"] = [float(c in narrow) for c in range(len(record["narrow"]))]
    return found


def _covered(record: Mapping[str, Any], which: str) -> dict[str, torch.Tensor]:
    """The columns of a diagnosis that say which classes are narrow: with all held-out images of a side, or the first few."""
    ends = {f"coverage_heldout{end}": record["coverage"][which][key] for end, key in (("", ""), ("_high", "high"))}
    columns = {name: torch.tensor([math.nan if v is None else v for v in values]) for name, values in ends.items()}
    share = record["design"]["holdout"]
    heldout = torch.tensor(record["classes"]["count"], dtype=torch.float64) * share / (1 - share)
    most = float(which) if which.isdigit() else math.inf
    return columns | {"count_heldout": (heldout + 0.5).floor().clamp(min=1, max=most)}


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
    return whole - cross @ np.linalg.pinv(grams[:, given][:, :, given], rcond=1e-9, hermitian=True) @ cross.swapaxes(
        -1, -2
    )


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
    starts = np.flatnonzero(np.diff(run, prepend=-1))
    if np.isfinite(values).all() and len(set(np.diff([*starts, len(run)]))) == 1:  # as many classes in each run
        ranks = rankdata(values.reshape(len(starts), -1), axis=1)
        return (ranks - ranks.mean(1, keepdims=True)).ravel()
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
        member = np.unique(rows.run, return_inverse=True)[1]
        parts += [level - (np.bincount(member, level) / np.bincount(member))[member] for level in dummies(rows.form).T]
    per = grams_of(np.stack(parts, 1), rows.assignment)
    weighted = np.einsum("bc,cij->bij", weights_of(len(per)), per)
    left = residual(weighted, [0, 1], list(range(2, len(parts))))
    floor = 1e-9 * weighted[:, [0, 1], [0, 1]].clip(min=1)
    first, second = left[:, 0, 0], left[:, 1, 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = left[:, 0, 1] / np.sqrt(first * second)
    return estimate_of(np.where((first > floor[:, 0]) & (second > floor[:, 1]), found.clip(-1, 1), np.nan), clusters)


def share_where(table: Table, of: NDArray[np.bool_], among: NDArray[np.bool_]) -> Estimate:
    """Return the share of the rows `among` that are also in `of`, with an interval over assignments."""
    clusters = np.unique(table.assignment)
    hits, totals = (
        np.array([float((rows & (table.assignment == a)).sum()) for a in clusters]) for rows in (of & among, among)
    )
    weights = weights_of(len(clusters))
    with np.errstate(invalid="ignore", divide="ignore"):
        return estimate_of((weights @ hits) / (weights @ totals), len(clusters))


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


Stamp = tuple[float, int]  # when a file was written, and its size


def _stamp(path: Path) -> Stamp:
    return (path.stat().st_mtime, path.stat().st_size) if path.exists() else (0.0, 0)


def _with_pretrained(record: Mapping[str, Any], pretrained: Mapping[Any, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return a run's record with the measures from a frozen pretrained network, if there are any."""
    more = pretrained.get(diversity.key_of(record))
    return record if more is None else {**record, "measures": {**record["measures"], **more["measures"]}}


@functools.lru_cache(maxsize=8)
def _read(path: Path, other: Path, *_: Stamp) -> Table | None:
    pretrained = {diversity.key_of(one): one for one in diversity.kept(other)}
    records = [_with_pretrained(one, pretrained) for one in diversity.kept(path)]
    by_design: dict[str, list[Mapping[str, Any]]] = {}
    for one in records:
        by_design.setdefault(str(one["design"]), []).append(one)
    return table_of(max(by_design.values(), key=len)) if by_design else None


def tables() -> tuple[Table, ...]:
    """Return the table of each data set that has records: of its design with the most runs."""
    found = []
    for data in diversity.DESIGNS:
        path, other = diversity.path_of(data), diversity_pretrained.path_of(data)
        if path.exists() and (table := _read(path, other, _stamp(path), _stamp(other))) is not None:
            found.append(table)
    return tuple(found)


def measure_names(table: Table) -> list[str]:
    """Return the columns that are measures from training images alone."""
    spaces = [f"{space}_{kind}" for space in SPACES for kind in diversity.KINDS]
    return [name for name in (*spaces, *diversity.OF_DIAGNOSIS) if name in table.columns]


def title_of(name: str) -> str:
    """Return a measure in words."""
    space, _, kind = name.partition("_")
    if space in SPACES and kind in diversity.KINDS:
        return f"{diversity.KINDS[kind]}, {SPACES[space]}"
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

    def strength(self, sets: int) -> float:
        """How far the AUC is from chance on development assignments, mean over the data sets; one without the measure counts 0."""
        signed = [pair[0].value - 0.5 for pair in self.auc.values() if not math.isnan(pair[0].value)]
        return abs(sum(signed)) / sets if signed else -1.0


@functools.lru_cache(maxsize=4)
def judged(listed: tuple[Table, ...]) -> tuple[Judged, ...]:
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
    return tuple(sorted(found, key=lambda one: -one.strength(len(listed))))
