"""The results of a study as one offline HTML page, as Markdown, and as tables for other documents."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...study.analysis import compare
from ...study.comparison import OURS, Comparison, SuiteComparison
from ...study.estimates import Difference, Estimate
from ...study.read import Record
from .. import page, wording
from ..record import Heading, Report, Section, Table
from ..wording import DASH
from .recall import recall_section
from .sections import budget_section, cost_section, inside_sections, protocol_section
from .statements import headlines_of, short_headlines_of, statements_of, warnings_of
from .tables import difference_sections, method_table, suite_table
from .words import (
    TITLES,
    YARDSTICKS,
    definitions_of,
    has_score,
    metric_gain,
    metric_title,
    metric_value,
    origin_of,
    paired_by_seed,
    replicate_of,
    seconds,
    tenths,
    unit_of,
    what_was_run,
)

NO_RECORDS = "No records yet."


def render_benchmark_html(comparison: Comparison) -> str:
    """Return the report of a study as one offline HTML page."""
    return page.html(benchmark_report_of(comparison))


def render_benchmark_markdown(comparison: Comparison) -> str:
    """Return the same as Markdown, without the plots."""
    return page.markdown(benchmark_report_of(comparison))


def benchmark_report_of(comparison: Comparison) -> Report:
    """Return the record of a study's report."""
    suites = comparison.suites
    if not suites:
        return _empty()
    alone, replicate = len(suites) == 1, replicate_of(suites)
    return Report(
        title=f"Benchmark: {', '.join(wording.named(suite.label) for suite in suites)}",
        subtitle="Every method has the same data, network and tuning budget. Its parameters are chosen on the validation set; it is then"
        " trained on the whole training set, and the test set is read once per method and seed. "
        + " ".join(f"{'' if alone else f'{wording.named(suite.label)}: '}{what_was_run(suite)}." for suite in suites),
        warnings=tuple(one for suite in suites for one in warnings_of(suite, alone)),
        headlines=tuple(
            one for suite in suites for one in (headlines_of(suite) if alone else short_headlines_of(suite))
        ),
        findings_note=f"{_compared(suites)}, averaged over the {replicate}s. Brackets show 95% t intervals over"
        f" {replicate}s."
        f" Differences between methods are computed {paired_by_seed(replicate)}; a difference whose interval contains 0 may be chance.",
        findings=tuple(one for suite in suites for one in statements_of(suite, "" if alone else f"{suite.label}: ")),
        table=method_table(suites[0]) if alone else suite_table(suites),
        sections=tuple(one for place, suite in enumerate(suites) for one in _sections(suite, place, alone)),
        beyond_note="",
        beyond=None,
        definitions=definitions_of(comparison),
        origin=tuple(pair for suite in suites for pair in origin_of(suite, "" if alone else f"{suite.label}: ")),
    )


def _compared(suites: Sequence[SuiteComparison]) -> str:
    """Return which metric the numbers are, as the start of a sentence."""
    if all(suite.metric == "balanced" for suite in suites):
        return "Accuracy is balanced test accuracy"
    return f"Methods are tuned on validation and compared on test by {metric_title(suites)}"


def _sections(suite: SuiteComparison, place: int, alone: bool) -> tuple[Section, ...]:
    found = [] if alone else [Section(title="Methods", anchor="methods", table=method_table(suite))]
    if suite.finished:
        found += [*difference_sections(suite), recall_section(suite), cost_section(suite), *inside_sections(suite)]
    found += [budget_section(suite), *([protocol_section(suite)] if suite.protocol else [])]
    if alone:
        return tuple(found)
    return tuple(
        dataclasses.replace(
            one,
            title=f"{wording.named(suite.label)}: {one.title[0].lower()}{one.title[1:]}",
            anchor=f"suite-{place}-{one.anchor}",
        )
        for one in found
    )


def _empty() -> Report:
    return Report(
        title="Benchmark",
        subtitle=NO_RECORDS,
        warnings=(),
        headlines=(),
        findings_note="There is nothing to compare.",
        findings=(),
        table=Table(title="Methods", caption="", headings=(Heading(title="method"),), rows=(), rows_are="methods"),
        sections=(),
        beyond_note="",
        beyond=None,
        definitions=(),
        origin=(),
    )


def headline_table(records: Sequence[Record], protocol: Mapping[str, Any] | None = None) -> str:
    """Return the methods of every suite as a Markdown table, best first."""
    suites = compare(records, protocol=protocol).suites
    if not suites:
        return NO_RECORDS
    return "\n\n".join(
        (f"**{suite.label}**\n\n" if len(suites) > 1 else "") + _markdown_table(suite) for suite in suites
    )


def text(records: Sequence[Record], protocol: Mapping[str, Any] | None = None) -> str:
    """Return sentences on how the table was made, how `diversify` compares, and what is missing."""
    suites = compare(records, protocol=protocol).suites
    if not suites:
        return NO_RECORDS
    return "\n\n".join(
        " ".join(
            (
                f"{f'{suite.label}: ' if len(suites) > 1 else ''}{what_was_run(suite)}.",
                *(f"{one.title}. {one.text}" for one in statements_of(suite, "")),
                *(wording.sentence(one) for one in (*suite.unfinished, *suite.caveats)),
            )
        )
        for suite in suites
    )


def _markdown_table(suite: SuiteComparison) -> str:
    over = [role for role in YARDSTICKS if suite.references[role].differences]
    first = () if suite.metric == "balanced" else ("balanced_accuracy",)
    groups = [name for name in (*first, "few", "smallest_third", "worst_class", "ece") if has_score(suite, name)]
    titles = (
        "method",
        f"{suite.metric_title}, %" if suite.in_shares else suite.metric_title,
        *(f"over {_md(str(suite.references[role].name))}, {unit_of(suite)}" for role in over),
        *(f"{TITLES[name]}, %" for name in groups),
        "seconds",
    )
    rows = [f"| {' | '.join(titles)} |", f"|:--|{'--:|' * (len(titles) - 1)}"]
    for one in suite.methods:
        name = f"**{_md(one.name)}**" if one.name == OURS else _md(one.name)
        if not one.seeds:
            rows.append(f"| {name} | {DASH} |{'  |' * (len(titles) - 2)}")
            continue
        cells = (
            _plus_minus(suite, one.scores["score"])
            + (f" ({len(one.seeds)} of {len(suite.seeds)} seeds)" if one.missing else ""),
            *(_lead(suite, suite.references[role].differences.get(one.name)) for role in over),
            *(tenths(one.scores[score].mean) for score in groups),
            seconds(one.scores["seconds_shared"].mean),
        )
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _md(name: str) -> str:
    return f"`{name}`"


def _plus_minus(suite: SuiteComparison, estimate: Estimate) -> str:
    return metric_value(suite, estimate.mean).removesuffix("%") + _half(suite, estimate)


def _lead(suite: SuiteComparison, found: Difference | None) -> str:
    if found is None:
        return DASH
    return metric_gain(suite, found.paired.mean) + _half(suite, found.paired)


def _half(suite: SuiteComparison, estimate: Estimate) -> str:
    return f" ± {metric_value(suite, estimate.half).removesuffix('%')}" if math.isfinite(estimate.half) else ""
