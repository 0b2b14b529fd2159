"""Two models side by side, as one offline HTML page and as Markdown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from ..diagnosis.beyond_size import MATCHED_N
from ..diagnosis.catalogue import MEASURES
from ..diagnosis.model_comparison import ModelComparison
from . import page, wording
from .plots import Rows
from .record import Cell, Chart, Definition, Heading, Headline, Report, Row, Section, Statement, Table
from .wording import DASH, LONGEST_IN_TABLE, cut

# Columns of the table: heading, meaning, unit. Other columns are shown under their own name.
COMPARISON_COLUMNS = {
    "recall_first": ("recall, first", "Held-out recall of the first model.", "share"),
    "recall_second": ("recall, second", "Held-out recall of the second model.", "share"),
    "recall_difference": ("difference, points", "Recall of the second model minus that of the first.", "points"),
    "forecast_difference": (
        "expected, points",
        "The difference that was expected before the remedy, from the first diagnosis.",
        "points",
    ),
    "needed_first": (
        "features needed, first",
        "Number of strongest features that the first model needs for a decision.",
        "number",
    ),
    "needed_second": (
        "features needed, second",
        "Number of strongest features that the second model needs for a decision.",
        "number",
    ),
    "top_k_share_first": ("top-K share, first", MEASURES["top_k_share"].meaning, "share"),
    "top_k_share_second": ("top-K share, second", MEASURES["top_k_share"].meaning, "share"),
    "magnitude_first": ("top-K magnitude, first", "Mean classification embedding over the top-K, in logits.", "logits"),
    "magnitude_second": (
        "top-K magnitude, second",
        "Mean classification embedding over the top-K, in logits.",
        "logits",
    ),
    "magnitude_ratio": (
        "magnitude ratio",
        "Top-K magnitude of the second model divided by that of the first.",
        "ratio",
    ),
    "identity_overlap": (
        "identity overlap",
        "Share of the first model's top-K features that are also the second model's.",
        "share",
    ),
    "diversity_vendi_first": (
        "Vendi, first",
        "Effective number of directions of the first model's features, at matched n.",
        "number",
    ),
    "diversity_vendi_second": (
        "Vendi, second",
        "Effective number of directions of the second model's features, at matched n.",
        "number",
    ),
}
_SHORT = {  # headings in Markdown, whose lines are to fit into a terminal
    "recall_first": "recall, first",
    "recall_second": "second",
    "recall_difference": "difference, points",
    "magnitude_ratio": "magnitude ratio",
    "identity_overlap": "same top-K",
}
_SIDES = ("first", "second")
_OF_BOTH = ("versions", "commit", "device", "started")  # shown once for both models


def render_comparison_html(comparison: ModelComparison, run: Mapping[str, Any]) -> str:
    """Return the comparison of two models as one offline HTML page; `run` is the content of run.json."""
    return page.html(comparison_report_of(comparison, run))


def render_comparison_markdown(comparison: ModelComparison, run: Mapping[str, Any]) -> str:
    """Return the same as Markdown, without the plots."""
    return page.markdown(comparison_report_of(comparison, run))


def comparison_report_of(comparison: ModelComparison, run: Mapping[str, Any]) -> Report:
    """Return the record of the report on two models; it shows every column that the comparison has."""
    columns = comparison.columns
    names = tuple(wording.named(name) for name in comparison.class_names)
    first, second = (wording.named(name) for name in (comparison.first_name, comparison.second_name))
    sorting = columns.get("recall_difference", columns.get("recall_second"))
    order, gap = wording.selection(sorting) if sorting is not None else (tuple(range(len(names))), len(names))
    better, worse = _beyond_zero(columns, 1), _beyond_zero(columns, -1)
    marks = dict.fromkeys(better, "▲ better") | dict.fromkeys(worse, "▼ worse")
    left_out = wording.left_out(len(names), len(order), "difference in recall")
    return Report(
        title=f"{first} and {second}, compared",
        subtitle=f"First model: {first}. Second model: {second}. {wording.number_of(len(names), 'class', 'classes')}. Each class's"
        f" top-K are its {comparison.top_k} strongest of {comparison.num_features} features; features of the two models are matched"
        f" by: {comparison.matched_by}. Brackets show 95% intervals.",
        warnings=_warnings(run),
        headlines=_headlines(comparison, len(better), len(worse)),
        findings_note=_findings_note(len(names), bool(marks)),
        findings=_statements(columns, names, second, better, worse),
        table=_class_table(comparison, names, order, gap, marks, _counts(run, len(names)), left_out),
        sections=_sections(comparison, names, order, marks, left_out),
        beyond_note="",
        beyond=None,
        definitions=tuple(
            Definition(title=title, text=meaning, source=_source(name), anchor=wording.anchor(name))
            for name, (title, meaning, _) in _known(columns).items()
            if meaning
        ),
        origin=(
            *wording.origin_of(run),
            ("first", first),
            ("second", second),
            *(
                (f"{side}: {label}", text)
                for side in _SIDES
                for label, text in wording.origin_of(wording.look(run, side) or {})
                if label not in _OF_BOTH
            ),
            ("features matched by", comparison.matched_by),
            *wording.top_k_origin(comparison),
        ),
    )


def _known(columns: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Return heading, meaning and unit of each column that is no end of an interval, in the order of the table."""
    names = [name for name in columns if name.removesuffix("_low").removesuffix("_high") == name]
    names.sort(key=lambda name: list(COMPARISON_COLUMNS).index(name) if name in COMPARISON_COLUMNS else 99)
    return {name: COMPARISON_COLUMNS.get(name, (name.replace("_", " "), "", "number")) for name in names}


def _source(column: str) -> str:
    """Return the source of the measure behind a column."""
    base = column.removesuffix("_first").removesuffix("_second")
    names = {
        "needed": "needed_tp",
        "magnitude": "ce_magnitude_ratio",
        "magnitude_ratio": "ce_magnitude_ratio",
        "diversity_vendi": "diversity_vendi_heldout",
    }
    measure = MEASURES.get(names.get(base, base))
    return measure.source if measure else ""


def _counts(run: Mapping[str, Any], classes: int) -> dict[str, list[int]]:
    """Return the training images per class of each model whose record holds them."""
    listed = {side: wording.look(run, side, "data", "class_counts") for side in _SIDES}
    return {
        side: counts
        for side, counts in listed.items()
        if isinstance(counts, list) and len(counts) == classes and all(isinstance(count, int) for count in counts)
    }


def _warnings(run: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return what else may explain a difference between the two models."""
    warnings = []
    splits = [wording.look(run, side, "heldout_split") for side in _SIDES]
    if "test" in splits:
        warnings.append(
            (
                "This comparison reads the test split.",
                "Do not choose between the two models by it: the test score would then no longer measure accuracy on unseen images.",
            )
        )
    if None not in splits and splits[0] != splits[1]:
        text = f"The first model was measured on the {splits[0]} split, the second on the {splits[1]} split."
        warnings.append(("The held-out images differ.", text))
    elif _differ(run, "data", "splits", str(splits[0]), "digest"):
        text = "The two models were not measured on the same images, so the comparison is not paired by image."
        warnings.append(("The held-out images differ.", text))
    if _differ(run, "data", "splits", "train", "digest"):
        text = "A difference may come from the training images instead of the training method."
        warnings.append(("The training images differ.", text))
    for side in _SIDES:
        copies = wording.look(run, side, "duplicates", "count")
        if isinstance(copies, int) and copies > 0:
            number = wording.number_of(copies, "held-out image of", "held-out images of")
            text = f"{number} the {side} model {'is' if copies == 1 else 'are'} also in its training set."
            warnings.append(("Held-out images were trained on.", text))
    return tuple(warnings)


def _differ(run: Mapping[str, Any], *path: str) -> bool:
    values = [wording.look(run, side, *path) for side in _SIDES]
    return None not in values and values[0] != values[1]


def _beyond_zero(columns: Mapping[str, Tensor], sign: int) -> list[int]:
    """Return the classes whose interval of the difference lies on one side of 0, largest difference first."""
    end = columns.get(f"recall_difference_{'low' if sign > 0 else 'high'}")
    if end is None:
        return []
    classes = (end * sign > 0).nonzero().flatten().tolist()
    return sorted(classes, key=lambda c: -sign * wording.at(columns, "recall_difference", c))


def _findings_note(classes: int, any_differs: bool) -> str:
    if not any_differs:
        return f"No class differs: all {classes} intervals of the recall difference contain 0."
    return (
        f"These classes differ: the interval of their recall difference does not contain 0. If none of the {classes} classes differed,"
        f" about {max(1, round(0.05 * classes))} would still be listed by chance."
    )


def _statements(
    columns: Mapping[str, Tensor], names: Sequence[str], second: str, better: Sequence[int], worse: Sequence[int]
) -> tuple[Statement, ...]:
    def difference(c: int) -> str:
        interval = wording.column_interval(columns, "recall_difference", c, "points")
        value = wording.formatted(wording.at(columns, "recall_difference", c), "points")
        return f"{names[c]} {value} points {interval}"

    return tuple(
        Statement(
            good=word == "higher",
            title=f"{second} has {word} recall on {wording.number_of(len(group), 'class', 'classes')}",
            text=", ".join(map(difference, group[: wording.WEAKEST])) + (" …" if len(group) > wording.WEAKEST else "."),
        )
        for word, group in (("lower", worse), ("higher", better))
        if group
    )


def _headlines(comparison: ModelComparison, better: int, worse: int) -> tuple[Headline, ...]:
    def average(name: str) -> float:
        column = comparison.columns.get(name)
        if column is None:
            return math.nan
        # A mean of ratios would be dominated by a class whose denominator is near 0.
        return float(column.nanquantile(0.5) if name == "magnitude_ratio" else column.nanmean())

    numbers = [
        ("Balanced accuracy, first", "recall_first", "percent", wording.plain(comparison.first_name)),
        ("Balanced accuracy, second", "recall_second", "percent", wording.plain(comparison.second_name)),
        ("Top-K magnitude, second / first", "magnitude_ratio", "ratio", "median of the classes"),
        (
            "Identity of the top-K",
            "identity_overlap",
            "percent",
            f"shared, mean of the classes; {wording.percent(comparison.identity_chance)} by chance",
        ),
    ]
    headlines = [
        Headline(label=label, value=wording.formatted(average(name), unit), detail=cut(detail, 60))
        for label, name, unit, detail in numbers
        if name in comparison.columns
    ]
    expected = comparison.as_expected
    if expected is not None and bool((~expected.isnan()).any()):
        known = expected[~expected.isnan()]
        counted = Headline(
            label="Classes as expected",
            value=f"{int(known.sum())} of {len(known)}",
            detail=f"expected mean difference {wording.points(average('forecast_difference'))} points",
        )
        headlines.append(counted)
    if "recall_difference" in comparison.columns:
        undecided = len(comparison.class_names) - better - worse
        counted = Headline(
            label="Classes better / worse",
            value=f"{better} / {worse}",
            detail=f"mean difference {wording.points(average('recall_difference'))} points; {undecided} undecided",
        )
        headlines.insert(min(2, len(headlines)), counted)
    return tuple(headlines)


def _class_table(
    comparison: ModelComparison,
    names: Sequence[str],
    order: Sequence[int],
    gap: int,
    marks: Mapping[int, str],
    counts: Mapping[str, Sequence[int]],
    left_out: str,
) -> Table:
    columns, known = comparison.columns, _known(comparison.columns)
    rows = tuple(
        Row(
            name=cut(names[c], LONGEST_IN_TABLE),
            full_name=names[c] if len(names[c]) > LONGEST_IN_TABLE else "",
            mark=marks.get(c, ""),
            good=marks.get(c, "").endswith("better"),
            cells=(
                *(Cell(value=f"{listed[c]:,}") for listed in counts.values()),
                *(
                    Cell(
                        value=wording.formatted(wording.at(columns, name, c), unit),
                        interval=wording.column_interval(columns, name, c, unit),
                        strong=name == "recall_difference" and c in marks,
                    )
                    for name, (_, _, unit) in known.items()
                ),
            ),
        )
        for c in order
    )
    return Table(
        title="Classes",
        caption="Largest loss first, largest gain last. ▲ and ▼ mark classes whose recall difference has an interval without 0."
        f" {DASH} is undefined. Identity overlap expected by chance: {wording.percent(comparison.identity_chance)}.{left_out}",
        headings=(
            Heading(title="class"),
            *(Heading(title=f"images, {side}", short=f"images, {side}") for side in counts),
            *(
                Heading(title=title, short=_SHORT.get(name, ""), meaning=meaning, anchor=wording.anchor(name))
                for name, (title, meaning, _) in known.items()
            ),
        ),
        rows=rows,
        gap=gap,
        left_out=len(names) - len(order),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ChartPlan:
    """One chart of the comparison.

    Attributes:
        title: The question that it answers.
        caption: How to read it.
        columns: One column, or one for each model.
        unit: The unit of the columns.
        reference: Where a line is drawn.
        labels: What two columns are called.
    """

    title: str
    caption: str
    columns: tuple[str, ...]
    unit: Literal["share", "points", "ratio"]
    reference: Literal["zero", "one", "chance", ""] = ""
    labels: tuple[str, str] = ("first", "second")


_SECTIONS: tuple[tuple[str, str, tuple[_ChartPlan, ...]], ...] = (  # title, anchor, charts
    (
        "Recall",
        "recall",
        (
            _ChartPlan(
                title="Which classes gain, which lose?",
                caption="Recall of the second model minus that of the first, in percentage points, with its interval.",
                columns=("recall_difference",),
                unit="points",
                reference="zero",
            ),
            _ChartPlan(
                title="Did it come out as expected?",
                caption="What the remedy was expected to change, and what it changed, in percentage points, with intervals.",
                columns=("forecast_difference", "recall_difference"),
                unit="points",
                reference="zero",
                labels=("expected", "came out"),
            ),
            _ChartPlan(
                title="Recall of both models",
                caption="Held-out recall with its interval.",
                columns=("recall_first", "recall_second"),
                unit="share",
            ),
        ),
    ),
    (
        "Top-K features",
        "top-k",
        (
            _ChartPlan(
                title="Which model has stronger features?",
                caption="Top-K magnitude of the second model divided by that of the first.",
                columns=("magnitude_ratio",),
                unit="ratio",
                reference="one",
            ),
            _ChartPlan(
                title="Do both models use the same features?",
                caption="Share of top-K features in common; the dashed line is the share expected by chance.",
                columns=("identity_overlap",),
                unit="share",
                reference="chance",
            ),
            _ChartPlan(
                title="How many features does a decision need?",
                caption="Number of strongest features needed to beat the second-best class, on held-out images.",
                columns=("needed_first", "needed_second"),
                unit="ratio",
            ),
        ),
    ),
    (
        "Latent diversity",
        "diversity",
        (
            _ChartPlan(
                title="Which model has more diverse features?",
                caption=f"Vendi score of {MATCHED_N} held-out images; classes with fewer images have no value.",
                columns=("diversity_vendi_first", "diversity_vendi_second"),
                unit="ratio",
            ),
        ),
    ),
)


def _sections(
    comparison: ModelComparison, names: Sequence[str], order: Sequence[int], marks: Mapping[int, str], left_out: str
) -> tuple[Section, ...]:
    signs = " ▲ and ▼ mark differences whose interval does not contain 0." if marks else ""
    found = []
    for title, anchor, plans in _SECTIONS:
        charts = tuple(
            _chart(comparison, plan, names, order, marks, f" Same order as in the table.{signs}{left_out}")
            for plan in plans
            if all(name in comparison.columns for name in plan.columns)
        )
        if charts:
            found.append(Section(title=title, anchor=anchor, charts=charts))
    return tuple(found)


def _chart(
    comparison: ModelComparison,
    plan: _ChartPlan,
    names: Sequence[str],
    order: Sequence[int],
    marks: Mapping[int, str],
    reading: str,
) -> Chart:
    columns = comparison.columns
    styles: list[dict[str, Any]] = [
        {"color": "muted", "marker": "s", "hollow": True},
        {"color": "blue", "marker": "o"},
    ]
    both = len(plan.columns) > 1
    references = {"zero": 0.0, "one": 1.0, "chance": comparison.identity_chance}
    return Chart(
        title=plan.title,
        caption=plan.caption + reading,
        alt=f"Dot plot. {plan.caption} {wording.extremes(columns, plan.columns[-1], names, plan.unit)}",
        data=Rows(
            names=tuple(names[c] for c in order),
            signs=tuple(marks.get(c, "")[:1] for c in order),
            series=tuple(
                wording.series(columns, name, order, name=label, **style)
                for name, label, style in zip(
                    plan.columns, plan.labels if both else ("",), styles if both else styles[1:], strict=True
                )
            ),
            reference=references.get(plan.reference),
            limits=(-1.0, 5.0) if plan.reference == "one" else (-math.inf, math.inf),
            percent=plan.unit == "share",
            points=plan.unit == "points",
        ),
    )
