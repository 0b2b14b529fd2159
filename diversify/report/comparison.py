"""Two networks side by side, as one offline HTML page and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..diagnosis.beyond_size import MATCHED_N
from ..diagnosis.catalogue import MEASURES
from ..diagnosis.model_comparison import ModelComparison
from . import page, plots, wording
from .page import Cell, Chart, Heading, Headline, Meaning, Report, Row, Section, Statement, Table
from .plots import Rows
from .wording import DASH

# The comparison's table: column, heading, meaning, unit. Columns it does not know are shown under their own name.
COMPARISON_COLUMNS = {
    "recall_first": ("recall, first", "Share of the held-out images that the first model finds.", "share"),
    "recall_second": ("recall, second", "Share of the held-out images that the second model finds.", "share"),
    "recall_difference": ("difference, points", "Recall of the second model less that of the first.", "points"),
    "needed_first": (
        "features needed, first",
        "How many of the strongest features a decision of the first takes.",
        "number",
    ),
    "needed_second": (
        "features needed, second",
        "How many of the strongest features a decision of the second takes.",
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
    "magnitude_ratio": ("magnitude ratio", "Top-K magnitude of the second model over that of the first.", "ratio"),
    "identity_overlap": ("identity overlap", "Share of the first model's top-K that are also the second's.", "share"),
    "diversity_vendi_first": ("Vendi, first", "Effective number of directions of the first, at matched n.", "number"),
    "diversity_vendi_second": (
        "Vendi, second",
        "Effective number of directions of the second, at matched n.",
        "number",
    ),
}


def render_comparison_html(comparison: ModelComparison, run: Mapping[str, Any]) -> str:
    """One offline page on two models; `run` as for `render_html`."""
    return page.html(comparison_report_of(comparison, run))


def render_comparison_markdown(comparison: ModelComparison, run: Mapping[str, Any]) -> str:
    """The same without the plots."""
    return page.markdown(comparison_report_of(comparison, run))


def comparison_report_of(comparison: ModelComparison, run: Mapping[str, Any]) -> Report:
    """What the report of two models says; it shows whichever columns the comparison has."""
    columns = comparison.columns
    names = tuple(wording.named(name) for name in comparison.class_names)
    first, second = (wording.named(name) for name in (comparison.first_name, comparison.second_name))
    sorting = columns.get("recall_difference", columns.get("recall_second"))
    order, gap = wording.selection(sorting) if sorting is not None else (tuple(range(len(names))), len(names))
    better, worse = _surely(columns, 1), _surely(columns, -1)
    bases = [name for name in columns if name.removesuffix("_low").removesuffix("_high") == name]
    bases.sort(key=lambda name: list(COMPARISON_COLUMNS).index(name) if name in COMPARISON_COLUMNS else 99)
    known = {name: COMPARISON_COLUMNS.get(name, (name.replace("_", " "), "", "number")) for name in bases}
    counted = _counts(run, len(names))
    words = dict.fromkeys(better, "▲ better") | dict.fromkeys(worse, "▼ worse")
    rows = tuple(
        Row(
            name=plots.cut(names[c], 48),
            whole=names[c] if len(names[c]) > 48 else "",
            mark=words.get(c, ""),
            good=c in better,
            cells=(
                *(Cell(value=f"{counts[c]:,}") for counts in counted.values()),
                *(
                    Cell(
                        value=wording.formatted(wording.at(columns, name, c), unit),
                        interval=wording.column_interval(columns, name, c, unit),
                        strong=name == "recall_difference" and c in words,
                    )
                    for name, (_, _, unit) in known.items()
                ),
            ),
        )
        for c in order
    )
    left_out = wording.left_out(len(names), len(order), "difference in recall")
    return Report(
        title=f"{first} and {second}, compared",
        subtitle=f"First: {first}. Second: {second}. {page.number_of(len(names), 'class', 'classes')}; the top {comparison.top_k} of"
        f" {comparison.num_features} features, identified with each other by: {comparison.matched_by}. Intervals are 95%.",
        warnings=_warnings(run),
        headlines=_comparison_headlines(comparison, len(better), len(worse)),
        findings_note="Classes whose interval of the recall difference leaves out 0: bold in the table. Each class by itself; of"
        f" {len(names)} without any difference, about {max(1, round(0.05 * len(names)))} would, by chance."
        if better or worse
        else f"No class differs: every interval of the recall difference of the {len(names)} classes holds 0.",
        findings=tuple(
            Statement(
                good=word == "more",
                title=f"{second} finds {word} of {page.number_of(len(group), 'class', 'classes')}",
                text=", ".join(_gain(columns, names, c) for c in group[: wording.WEAKEST])
                + (" …" if len(group) > wording.WEAKEST else "."),
            )
            for word, group in (("less", worse), ("more", better))
            if group
        ),
        classes=Table(
            title="The classes",
            caption=f"Largest loss first, largest gain last. ▲ and ▼ where the difference leaves out 0. {DASH}: undefined."
            f" Overlap by chance: {wording.percent(comparison.identity_chance)}.{left_out}",
            headings=(
                Heading(title="class"),
                *(Heading(title=f"images, {side}", short=f"images, {side}") for side in counted),
                *(
                    Heading(title=title, short=_SHORT.get(name, ""), meaning=meaning, anchor=wording.anchor(name))
                    for name, (title, meaning, _) in known.items()
                ),
            ),
            rows=rows,
            gap=gap,
            left_out=len(names) - len(order),
        ),
        sections=_comparison_sections(comparison, names, order, words, left_out),
        beyond_note="",
        beyond=None,
        meanings=tuple(
            Meaning(title=title, text=meaning, source=_source(name), anchor=wording.anchor(name))
            for name, (title, meaning, _) in known.items()
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
            ("matched by", comparison.matched_by),
            *wording.top_k_origin(comparison),
        ),
    )


_SIDES = ("first", "second")
_OF_BOTH = ("versions", "commit", "device", "started")
_SHORT = {  # in Markdown, whose lines are to fit into a terminal
    "recall_first": "recall, first",
    "recall_second": "second",
    "recall_difference": "difference, points",
    "magnitude_ratio": "magnitude ratio",
    "identity_overlap": "same top-K",
}


def _source(column: str) -> str:
    """Where the measure behind a column comes from."""
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
    """Training images per class on either side, where the record says it."""
    found = {side: wording.look(run, side, "data", "class_counts") for side in _SIDES}
    return {
        side: counts
        for side, counts in found.items()
        if isinstance(counts, list) and len(counts) == classes and all(isinstance(count, int) for count in counts)
    }


def _warnings(run: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What has to be known before a difference is put down to the networks."""
    found = []
    splits = [wording.look(run, side, "heldout_split") for side in _SIDES]
    if "test" in splits:
        found.append(
            (
                "Read on the test split: to be read only.",
                "Neither of the two may be chosen by it, or the test score would no longer be one on unseen images.",
            )
        )
    if None not in splits and splits[0] != splits[1]:
        found.append(("Other held-out images.", f"The first was read on {splits[0]}, the second on {splits[1]}."))
    elif _differ(run, "data", "splits", str(splits[0]), "digest"):
        found.append(
            ("Other held-out images.", "The two were not read on the same images, so they are not paired by image.")
        )
    if _differ(run, "data", "splits", "train", "digest"):
        text = "A difference may come from the images, not from how the networks were trained."
        found.append(("The two learned from other training images.", text))
    for side in _SIDES:
        copies = wording.look(run, side, "duplicates", "count")
        if isinstance(copies, int) and copies > 0:
            text = f"Of the {side}, {page.number_of(copies, 'held-out image is', 'held-out images are')} also in its training."
            found.append(("Exact copies.", text))
    return tuple(found)


def _differ(run: Mapping[str, Any], *path: str) -> bool:
    values = [wording.look(run, side, *path) for side in _SIDES]
    return None not in values and values[0] != values[1]


def _surely(columns: Mapping[str, Tensor], sign: int) -> list[int]:
    """Classes whose difference has its whole interval on one side of 0, largest first."""
    end = columns.get(f"recall_difference_{'low' if sign > 0 else 'high'}")
    if end is None:
        return []
    found = (end * sign > 0).nonzero().flatten().tolist()
    return sorted(found, key=lambda c: -sign * wording.at(columns, "recall_difference", c))


def _gain(columns: Mapping[str, Tensor], names: Sequence[str], c: int) -> str:
    interval = wording.column_interval(columns, "recall_difference", c, "points")
    return f"{names[c]} {wording.formatted(wording.at(columns, 'recall_difference', c), 'points')} points {interval}"


def _comparison_headlines(comparison: ModelComparison, better: int, worse: int) -> tuple[Headline, ...]:
    def middle(name: str) -> float:
        column = comparison.columns.get(name)
        if column is None:
            return math.nan
        # one class whose denominator is near 0 would be the mean of the ratios
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
    found = [
        Headline(label=label, value=wording.formatted(middle(name), unit), detail=plots.cut(detail, 60))
        for label, name, unit, detail in numbers
        if name in comparison.columns
    ]
    if "recall_difference" in comparison.columns:
        undecided = len(comparison.class_names) - better - worse
        counted = Headline(
            label="Classes better / worse",
            value=f"{better} / {worse}",
            detail=f"mean difference {wording.points(middle('recall_difference'))} points; {undecided} undecided",
        )
        found.insert(min(2, len(found)), counted)
    return tuple(found)


# Per section: title, anchor, and its charts: title, caption, columns, where a line is drawn (None: nowhere), in shares of 1.
_SECTIONS: tuple[tuple[str, str, tuple[tuple[str, str, tuple[str, ...], str, bool], ...]], ...] = (
    (
        "Recall",
        "recall",
        (
            (
                "Which classes gain, which lose?",
                "Recall of the second less the first, in percentage points, with its interval.",
                ("recall_difference",),
                "zero",
                True,
            ),
            ("Recall of both", "Held-out recall with its interval.", ("recall_first", "recall_second"), "", True),
        ),
    ),
    (
        "Top-K features",
        "top-k",
        (
            (
                "Which relies on stronger features?",
                "Top-K magnitude, second over first.",
                ("magnitude_ratio",),
                "one",
                False,
            ),
            (
                "The same features?",
                "Share of top-K features in common; dashed: by chance.",
                ("identity_overlap",),
                "chance",
                True,
            ),
            (
                "How many does a decision take?",
                "How many of the strongest features it takes to beat the runner-up, on held-out images.",
                ("needed_first", "needed_second"),
                "",
                False,
            ),
        ),
    ),
    (
        "Latent diversity",
        "diversity",
        (
            (
                "Whose features are more diverse?",
                f"Vendi score of {MATCHED_N} held-out images at a time; fewer give no value.",
                ("diversity_vendi_first", "diversity_vendi_second"),
                "",
                False,
            ),
        ),
    ),
)


def _comparison_sections(
    comparison: ModelComparison, names: Sequence[str], order: Sequence[int], words: Mapping[int, str], left_out: str
) -> tuple[Section, ...]:
    columns = comparison.columns
    sides = ({"color": "muted", "marker": "s", "hollow": True}, {"color": "blue", "marker": "o"})
    references = {"zero": 0.0, "one": 1.0, "chance": comparison.identity_chance}
    marks = " ▲ and ▼ where the difference leaves out 0." if words else ""
    sections = []
    for section, anchor, listed in _SECTIONS:
        charts = []
        for title, caption, wanted, reference, percent in listed:
            if not all(name in columns for name in wanted):
                continue
            styles: Sequence[Mapping[str, Any]] = sides if len(wanted) > 1 else sides[1:]
            labels = _SIDES if len(wanted) > 1 else ("",)
            points = wanted == ("recall_difference",)
            charts.append(
                Chart(
                    title=title,
                    caption=f"{caption} Ordered as in the table.{marks}{left_out}",
                    alt=f"Dot plot. {caption} "
                    + wording.extremes(
                        columns, wanted[-1], names, "points" if points else "share" if percent else "ratio"
                    ),
                    data=Rows(
                        names=tuple(names[c] for c in order),
                        signs=tuple(words.get(c, "")[:1] for c in order),
                        series=tuple(
                            wording.series(columns, name, order, name=label, **style)
                            for name, label, style in zip(wanted, labels, styles, strict=True)
                        ),
                        reference=references.get(reference),
                        limits=(-1.0, 5.0) if wanted == ("magnitude_ratio",) else (-math.inf, math.inf),
                        percent=percent and not points,
                        points=points,
                    ),
                )
            )
        if charts:
            sections.append(Section(title=section, anchor=anchor, charts=tuple(charts)))
    return tuple(sections)
