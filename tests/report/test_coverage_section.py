"""The first plot of a report shows which axis fails in a class: its size or its coverage."""

import dataclasses
import math

import pytest
import torch

from diversify.diagnosis.coverage import coverage_findings
from diversify.diagnosis.findings import is_small, narrow_below, small_below
from diversify.diagnosis.result import Diagnosis
from diversify.report import diagnosis as report_diagnosis
from diversify.report import plots
from diversify.report.plots.coverage import draw_by_coverage

CLASSES = 10


def with_columns(diagnosis: Diagnosis, **columns: torch.Tensor) -> Diagnosis:
    return dataclasses.replace(diagnosis, columns={**diagnosis.columns, **columns})


def with_narrow(diagnosis: Diagnosis, narrow: tuple[int, ...] = (2, 7)) -> Diagnosis:
    """The diagnosis as if these classes were badly covered, and all others well."""
    coverage = torch.full((CLASSES,), 0.5, dtype=torch.float64)
    coverage[list(narrow)] = 0.1
    low, high = coverage - 0.05, coverage + 0.05
    made = with_columns(diagnosis, coverage_heldout=coverage, coverage_heldout_low=low, coverage_heldout_high=high)
    found = tuple(coverage_findings(made.columns, made.class_names))
    return dataclasses.replace(made, findings=(*diagnosis.findings, *found))


def section_of(diagnosis: Diagnosis):
    return report_diagnosis.report_of(diagnosis, {}).sections[0]


def test_the_first_plot_shows_size_coverage_and_recall_of_every_class(diagnosis: Diagnosis) -> None:
    narrow = with_narrow(diagnosis)
    section = section_of(narrow)
    data = section.charts[0].data
    assert section.title == "Size and diversity"
    assert isinstance(data, plots.ByCoverage)
    for drawn, column in (
        (data.count, "count"),
        (data.coverage, "coverage_heldout"),
        (data.low, "coverage_heldout_low"),
        (data.high, "coverage_heldout_high"),
        (data.recall, "recall_heldout"),
    ):
        assert drawn == tuple(narrow[column].tolist())
    assert data.narrow_below == pytest.approx(0.475)
    assert "narrow" in section.note
    assert all(narrow.class_names[c] in section.note for c in (2, 7))
    assert "Lowest: " in section.charts[0].alt
    assert all(narrow.class_names[c] in section.charts[0].alt.partition("In trouble: ")[2] for c in (2, 7))
    written = {text.get_text() for text in draw_by_coverage(data, 4.8).axes[0].texts}
    assert {"narrow", narrow.class_names[2], narrow.class_names[7]} <= written
    assert plots.draw(data, name="a") == plots.draw(data, name="a")


def test_a_class_left_of_the_line_is_small(diagnosis: Diagnosis) -> None:
    limit = small_below(diagnosis.columns, diagnosis.log_count)
    assert math.isfinite(limit)
    for c, count in enumerate(diagnosis["count"].tolist()):
        assert is_small(diagnosis.columns, diagnosis.log_count, c) == (count < limit)
    assert math.isnan(small_below(diagnosis.columns, {}))
    line = {"recall_heldout": {"slope": 1e-9, "intercept": 0.0, "r_squared": 1.0}}
    assert small_below(diagnosis.columns, line) == math.inf
    data = section_of(with_narrow(diagnosis)).charts[0].data
    assert data.small_below == limit
    written = {text.get_text() for text in draw_by_coverage(data, 4.8).axes[0].texts}
    assert {"small", "narrow", "small and narrow"} <= written


def test_equal_sizes_are_said_and_classes_are_placed_along_coverage(diagnosis: Diagnosis) -> None:
    equal = with_narrow(with_columns(diagnosis, count=torch.full((CLASSES,), 60.0, dtype=torch.float64)))
    chart = section_of(dataclasses.replace(equal, log_count={})).charts[0]
    assert chart.data.equal_counts
    assert chart.caption.startswith("All classes have 60 training images")
    axes = draw_by_coverage(chart.data, 4.8).axes[0]
    assert axes.get_xlabel() == "coverage of held-out images"
    placed = {(float(x), float(y)) for line in axes.lines for x, y in zip(*line.get_data(), strict=True)}
    assert {*zip(chart.data.coverage, chart.data.recall, strict=True)} <= placed


def test_without_coverage_the_plot_of_class_size_stays_first(diagnosis: Diagnosis) -> None:
    nothing = torch.full((CLASSES,), math.nan, dtype=torch.float64)
    unknown = with_columns(
        diagnosis,
        coverage_heldout=nothing,
        coverage_heldout_low=nothing,
        coverage_heldout_high=nothing,
        size_and_diversity_predict=nothing,
    )
    old = dataclasses.replace(
        diagnosis,
        columns={
            name: values
            for name, values in diagnosis.columns.items()
            if not name.startswith("coverage_heldout") and name != "size_and_diversity_predict"
        },
    )
    for one in (unknown, old):
        made = report_diagnosis.report_of(one, {})
        assert made.sections[0].title == "Class size"
        assert "coverage, held-out" not in [heading.title for heading in made.table.headings]


def test_lower_recall_is_fuller_and_fragile_classes_have_a_sign_of_their_own(diagnosis: Diagnosis) -> None:
    data = section_of(diagnosis).charts[0].data
    axes = draw_by_coverage(data, 4.8).axes[0]
    filled, hollow, signs = {}, set(), {}
    for line in axes.lines:
        if line.get_marker() not in ("o", "D"):
            continue
        face = line.get_markerfacecolor()
        for spot in zip(*map(list, line.get_data()), strict=True):
            signs[spot] = line.get_marker()
            if isinstance(face, tuple):
                filled[spot] = face[1]
            elif face == "none":
                hollow.add(spot)
    spots = list(zip(data.count, data.coverage, strict=True))
    weakest, strongest = (data.recall.index(end(data.recall)) for end in (min, max))
    assert filled[spots[weakest]] == 1.0
    assert spots[strongest] in hollow
    assert [signs[spot] == "D" for spot in spots] == list(data.fragile)


def test_many_classes_have_small_dots_and_troubled_ones_are_drawn_in_full(many: Diagnosis) -> None:
    data = section_of(many).charts[0].data
    assert sum(data.shown) <= 60
    assert all(shown for shown, named in zip(data.shown, data.named, strict=True) if named)
    assert len(plots.draw(data, name="many")) < 300_000


def test_the_table_and_the_cards_name_the_troubles(diagnosis: Diagnosis) -> None:
    narrow = with_narrow(diagnosis)
    made = report_diagnosis.report_of(narrow, {})
    assert made.table.headings[1].title == "trouble"
    for row in (*made.table.rows, *made.table.rest):
        c = narrow.class_names.index(row.full_name or row.name)
        assert row.cells[0].value == (", ".join(narrow.troubles[c]) or "–")
    cards = {card.title: card for card in made.findings}
    card = cards[f"{narrow.class_names[2]}: narrow"]
    assert card.troubles == ()
    assert card.label == "images like the held-out ones"
    both = float(narrow["size_and_diversity_predict"][2])
    assert f"size and coverage together {both:.0%}; it is" in card.text
    low = next(finding for finding in diagnosis.findings if finding.trouble)
    assert cards[low.class_name].troubles == low.trouble
    html, markdown = report_diagnosis.render_html(narrow, {}), report_diagnosis.render_markdown(narrow, {})
    assert f'<span class="tag">{", ".join(low.trouble)}</span>' in html
    assert f"**{low.class_name}** ({', '.join(low.trouble)})" in markdown
    assert "size and coverage predict" in markdown


def test_the_limit_of_narrow_classes_is_95_percent_of_the_usual_coverage() -> None:
    columns = {"coverage_heldout": torch.tensor([0.4, 0.4, 0.4, 0.1])}
    assert narrow_below(columns) == pytest.approx(0.38)


def test_an_empty_prediction_says_from_when_it_is_known(diagnosis: Diagnosis) -> None:
    nothing = torch.full((CLASSES,), torch.nan)
    said = "What size and coverage predict is known from 6 classes with a coverage on."
    assert section_of(with_columns(diagnosis, size_and_diversity_predict=nothing)).summary.caption.endswith(said)
    assert said not in section_of(diagnosis).summary.caption
