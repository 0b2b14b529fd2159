"""The report of a study shows the numbers of its comparison; losses are as visible as wins, and unfinished studies say so."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
from studies import TEST, final, on_backbones, study, trial
from test_report import Page

from diversify.cli.entry import run
from diversify.files import atomic, digests
from diversify.report import plots, wording
from diversify.report.benchmark.page import (
    NO_RECORDS,
    benchmark_report_of,
    headline_table,
    render_benchmark_html,
    render_benchmark_markdown,
    text,
)
from diversify.report.plots import Against, Rows
from diversify.report.record import Report, Section, Statement, Table
from diversify.study.analysis import compare
from diversify.study.comparison import BASELINE, DIVERSITY, OURS, SuiteComparison
from diversify.study.read import load, load_protocol
from diversify.study.scores import scores_of

Records = list[dict[str, Any]]


def with_inside(records: Records, **moved: float) -> Records:
    """Return the records with feature measures in which `diversify` differs from all others by `moved`."""
    found = []
    for one in records:
        move = moved if one["method"] == OURS else {}
        noise = 0.05 * one["seed"] * (1 if one["method"] == OURS else -1)
        inside = {name: [5.0 + noise + move.get(name, 0.0)] * 6 for name in (DIVERSITY, "magnitude_ratio", "leak")}
        found.append({**one, "inside": inside} if one["kind"] == "final" else one)
    return found


def losing(records: Records) -> Records:
    """Return the records with `diversify` last on test."""
    return [
        {**one, "balanced_accuracy": 0.3 + 0.001 * one["seed"]}
        if (one["method"], one["kind"]) == (OURS, "final")
        else one
        for one in records
    ]


def told(records: Records) -> tuple[SuiteComparison, Report]:
    comparison = compare(records)
    return comparison.suites[0], benchmark_report_of(comparison)


def section_of(made: Report, anchor: str) -> Section:
    (found,) = [section for section in made.sections if section.anchor == anchor]
    return found


def cells_of(table: Table) -> dict[str, dict[str, tuple[str, str]]]:
    """Return value and interval of each cell, by the name of its row and the title of its column."""
    titles = [heading.title for heading in table.headings[1:]]
    return {row.name: dict(zip(titles, ((c.value, c.interval) for c in row.cells), strict=True)) for row in table.rows}


def statement_of(made: Report, label: str) -> Statement:
    (found,) = [one for one in made.findings if one.label == label]
    return found


@pytest.mark.parametrize("seeds", [3, 8])
@pytest.mark.usefixtures("without_figures")
def test_the_numbers_are_those_of_the_comparison(seeds: int) -> None:
    suite, made = told(with_inside(study(seeds=range(seeds)), leak=0.03))
    cells = cells_of(made.table)
    differences, groups = (cells_of(section_of(made, name).table) for name in ("differences", "recall"))  # type: ignore[arg-type]
    html = render_benchmark_html(compare(with_inside(study(seeds=range(seeds)), leak=0.03)))
    assert [row.name for row in made.table.rows] == [one.name for one in suite.methods]
    for one in suite.methods:
        scored = one.scores["balanced_accuracy"]
        value, ends = cells[one.name]["balanced accuracy"]
        assert value == wording.percent(scored.mean)
        assert ends == wording.between(scored.low, scored.high, "percent")
        assert value in html
        assert ends in html
        for score, title in (("few", "few"), ("worst_class", "worst class"), ("macro_f1", "macro F1"), ("ece", "ECE")):
            assert groups[one.name][title][0] == wording.percent(one.scores[score].mean)
        for reference in suite.references.values():
            found = reference.differences.get(one.name)
            cell = differences[one.name][f"over {reference.name}, points"]
            if found is None:
                assert cell == ("–", "")
                continue
            assert cell[0] == wording.points(found.paired.mean)
            assert cell[1] == wording.between(found.paired.low, found.paired.high, "tenths")
            assert f"{cell[1]}" in html
    assert ("bootstrap" in differences["ce"]) == (seeds == 8)


def test_means_and_differences_are_those_of_the_records() -> None:
    """Computed from the records by hand, so that an error in the comparison cannot hide one in the report."""
    records = study()
    cells = cells_of(benchmark_report_of(compare(records)).table)
    by = {(one["method"], one["seed"]): one for one in records if one["kind"] == "final"}
    for method in TEST:
        values = [by[method, seed]["balanced_accuracy"] for seed in (0, 1, 2)]
        assert cells[method]["balanced accuracy"][0] == f"{100 * sum(values) / 3:.1f}%"
        few = [scores_of(by[method, seed])["smallest_third"] for seed in (0, 1, 2)]
        assert cells[method]["smallest third"][0] == f"{100 * sum(few) / 3:.1f}%"
        if method != "ce":
            ahead = sum(by[method, s]["balanced_accuracy"] - by["ce", s]["balanced_accuracy"] for s in (0, 1, 2)) / 3
            assert cells[method]["over ce, points"][0] == f"{100 * ahead:+.1f}".replace("-", "−")


def test_the_drawings_have_the_numbers_of_the_tables() -> None:
    suite, made = told(with_inside(study(), leak=0.03))
    (cost,) = section_of(made, "cost").charts
    assert isinstance(cost.data, Against)
    assert cost.data.names == tuple(one.name for one in suite.finished)
    assert cost.data.y == tuple(one.scores["balanced_accuracy"].mean for one in suite.finished)
    assert cost.data.x == tuple(one.scores["seconds_shared"].mean for one in suite.finished)
    assert [name for name, marked in zip(cost.data.names, cost.data.marked, strict=True) if marked] == [OURS]
    for chart, reference in zip(section_of(made, "differences").charts, suite.references.values(), strict=True):
        assert isinstance(chart.data, Rows)
        expected = [reference.differences[name].paired.mean for name in chart.data.names]
        assert list(chart.data.series[0].values) == expected
        assert set(chart.data.names) == set(reference.differences)
    exchange = section_of(made, "recall").charts[1]
    assert isinstance(exchange.data, Rows)
    for series, end in zip(exchange.data.series, ("largest_third", "smallest_third"), strict=True):
        moved = suite.references["baseline"].others[end]
        assert list(series.values) == [moved[name].paired.mean for name in exchange.data.names]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "seeds"), [(2, 4), (3, 6), (6, 12)])
@pytest.mark.usefixtures("without_figures")
def test_where_seeds_share_networks_intervals_are_said_to_be_over_networks(number: int, seeds: int) -> None:
    records = on_backbones(with_inside(study(seeds=range(seeds)), diversity_heldout=2.0), number)
    runs = f"{number} networks, {seeds} seeds"
    suite, made = told(records)
    pages = (Page(render_benchmark_html(compare(records))).text, render_benchmark_markdown(compare(records)))
    for page in (" ".join(one.split()) for one in pages):
        assert runs in page
        assert "over seeds" not in page
        assert "over the seeds;" not in page
        assert "95% t intervals over networks" in page
        assert f"from that of {BASELINE} ({runs})" in page
        assert ("networks better" in page) is (number > 5)
        assert "seeds better" not in page
        assert ("With 3 networks a bootstrap" in page) is (number == 3)
        assert ("With 2 networks there is no p value" in page) is (number == 2)
    cells = cells_of(made.table)
    for one in suite.methods:
        values = one.scores["balanced_accuracy"].values
        listed = ("by network", " / ".join(f"{100 * value:.1f}" for value in values))
        title, value = listed if number <= 5 else ("networks and seeds", runs)
        assert cells[one.name][title] == (value, "")
    assert runs in text(records)


@pytest.mark.usefixtures("without_figures")
def test_networks_are_not_spoken_of_where_every_seed_has_its_own() -> None:
    """The same holds if each seed names its own backbone; several suites on one page are described alike."""
    plain = with_inside(study(), diversity_heldout=2.0)
    for render in (render_benchmark_html, render_benchmark_markdown):
        assert render(compare(on_backbones(plain, 3))) == render(compare(plain))
        assert "networks" not in " ".join(render(compare(study())).split())
    assert text(on_backbones(plain, 3)) == text(plain)
    both = study() + on_backbones(study(suite="another", seeds=range(4)), 2)
    made = benchmark_report_of(compare(both))
    assert [row.cells[-1].value for row in made.table.rows] == ["2 networks, 4 seeds", "3 seeds"]
    assert made.table.headings[-1].title == "networks and seeds"
    assert "over networks" in made.table.caption
    assert "over seeds" in section_of(made, "suite-1-recall").table.caption  # type: ignore[union-attr]


def test_where_methods_have_unlike_numbers_of_networks_both_are_said() -> None:
    records = on_backbones([one for one in study(seeds=range(6)) if one["kind"] == "final"], 3)
    records = [one for one in records if (one["method"], one["seed"] % 3) != ("vs", 2)]
    assert "2 to 3 networks, 6 seeds" in text(records)


def test_head_repair_says_the_same_in_the_table_of_its_own() -> None:
    from benchmarks import head_study, tables

    path = tables.RESULTS / "study_cifar10_lt_head.jsonl"
    (suite,) = compare(load(path), protocol=load_protocol(path)).suites
    rows = [line.split(" | ") for line in head_study.table().splitlines()[2:]]
    leads = {row[0].strip("| `*"): re.findall(r"[+-]?\d+\.\d", row[2]) for row in rows}
    for name, found in suite.references["ours"].differences.items():
        assert list(map(float, leads[name])) == pytest.approx(
            [-100 * found.paired.mean, 100 * found.paired.half], abs=0.0501
        )
    assert "5 networks, 10 seeds" in text(load(path))


def test_wins_and_losses_are_reported_alike() -> None:
    cases = (
        (study(), "first", "none is better and 5 are worse", True),
        (losing(study()), "6th", "5 are better", False),
    )
    for records, place, tally, good in cases:
        suite, made = told(records)
        assert [row.mark for row in made.table.rows if row.name == OURS] == ["● ours"]
        assert (made.table.rows[0].name == OURS) is good
        found = statement_of(made, "ranking")
        assert found.title == f"diversify is {place} of 6"
        assert f"Of 5 other methods, {tally}" in found.text
        assert found.good is good
        gain = suite.references["baseline"].differences[OURS].paired
        ends = wording.between(gain.low, gain.high, "tenths")
        assert f"Gain over ce: {wording.points(gain.mean)} points {ends}." in found.text
    assert "(5 significantly, 5 after Holm's correction)" in statement_of(told(losing(study()))[1], "ranking").text
    assert "| **`diversify`** | 30.1" in headline_table(losing(study())).splitlines()[-1]
    assert "5 are better (5 significantly" in text(losing(study()))


def test_hindsight_is_labelled_as_such() -> None:
    suite, made = told(study())
    assert suite.hindsight == "vs"
    found = statement_of(made, "hindsight")
    assert "vs" in found.title
    assert "The validation set chose balanced_softmax" in found.text
    assert "hindsight" in found.text


def test_without_diversify_the_first_is_compared_and_nothing_is_asked_of_diversify() -> None:
    suite, made = told(study(("ce", "vs")))
    found = statement_of(made, "ranking")
    gained = suite.references["baseline"].differences["vs"].paired
    assert found.title == "vs is first of 2"
    assert f"Gain over ce: {wording.points(gained.mean)} points" in found.text
    assert not [one for one in made.findings if "diversify" in f"{one.title} {one.text}"]


@pytest.mark.parametrize(
    ("records", "answer", "good"),
    [
        (with_inside(study(), diversity_heldout=2.0), "Yes", True),
        (with_inside(study(), diversity_heldout=-2.0), "No, they are less diverse", False),
        (with_inside(study(), diversity_heldout=-0.1), "Undecided", False),
        (with_inside(study(seeds=(0,)), diversity_heldout=2.0), "Undecided", False),
        (study(), "Undecided", False),
    ],
    ids=["more", "less", "holds 0", "one seed", "not measured"],
)
def test_whether_features_are_more_diverse_is_answered_from_numbers(records: Records, answer: str, good: bool) -> None:
    suite, made = told(records)
    found = statement_of(made, "feature diversity")
    assert found.title == f"Are the features more diverse? {answer}"
    assert found.good is good
    moved = suite.references["baseline"].inside.get(DIVERSITY, {}).get(OURS)
    if moved is not None and math.isfinite(moved.paired.mean):
        assert wording.signed(moved.paired.mean, 2) in found.text
        assert wording.between(moved.paired.low, moved.paired.high, "ratio") in found.text


def rows_of_markdown(records: Records) -> list[str]:
    """Return the table of feature measures."""
    section = render_benchmark_markdown(compare(records)).split("## What changed in the features")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")]


def test_a_feature_measure_that_no_method_has_gets_no_column() -> None:
    """Training diversity has no value in the smallest third, and only `diversify` has a leak."""
    records = with_inside(study(), leak=0.03)
    for one in records:
        if one["kind"] == "final":
            leak = [0.03] * 6 if one["method"] == OURS else None
            train = [7.0] * 4 + [None] * 2
            one["inside"] = {**one["inside"], "leak": leak, "diversity_train": train, "other": [None] * 6}
    suite, made = told(records)
    table = section_of(made, "inside").table
    assert table is not None
    assert [heading.title for heading in table.headings] == [
        "method",
        *("top-K magnitude ratio", "over ce", "all classes"),
        *("held-out diversity", "over ce", "all classes"),
        *("leak, points", "all classes"),
        "training diversity, all classes",
    ]
    assert [row.name for row in table.rows] == [one.name for one in suite.finished]
    for place in range(len(table.headings) - 1):
        assert any(row.cells[place].value != wording.DASH for row in table.rows)
    for row in table.rows:
        leaks = "+3.0" if row.name == OURS else wording.DASH
        assert [cell.value for cell in row.cells[-3:]] == [leaks, leaks, "7.00"]
    assert "training diversity" not in "".join(rows_of_markdown(records))
    for one in records:
        if one["kind"] == "final":
            one["inside"] = {"diversity_train": [7.0] * 4 + [None] * 2}
    assert "training diversity, all classes" in rows_of_markdown(records)[0]


def test_an_unfinished_study_is_called_so_and_drawn() -> None:
    records = [one for one in study() if one["kind"] == "trial" or (one["method"], one["seed"]) != (OURS, 2)]
    records = [one for one in records if (one["kind"], one["method"]) != ("final", "vs")]
    records.append(trial("vs", 3, None, state="failed", epochs=0))
    for made in (render_benchmark_html(compare(records)), render_benchmark_markdown(compare(records))):
        flat = " ".join(made.replace("> ", "").split())
        assert "This study is not finished." in flat
        assert "no final run yet of vs" in flat.lower()
        assert "diversify (2)" in flat
    assert "| `vs` | – |" in headline_table(records)
    assert "(2 of 3 seeds)" in headline_table(records)
    assert "2 of 3 seeds" in render_benchmark_html(compare(records))
    assert "1 pruned, 1 failed" in render_benchmark_html(compare(records))


@pytest.mark.parametrize(
    "records",
    [
        [one for one in study() if one["kind"] == "trial"],
        study(("ce",), seeds=(0,)),
        study() + study(("ce", "vs"), suite="another"),
        [final(method, seed) for method in ("ce", OURS) for seed in (0, 1)],
        [final("ce", 0, recall=[None] * 5 + [0.5]), final(OURS, 0, recall=[0.5] * 5 + [None])],
        [final("ce", 0, 0.4, counts=[5] * 3), final(OURS, 0, 0.5, counts=[5] * 3, seconds_shared=None)],
        [final(f"m{place}", seed, 0.5 + place / 100) for place in range(30) for seed in (0, 1, 2)],
        [final("<script>alert(1)</script>", seed, 0.5, suite="a|b<i>") for seed in (0, 1)],
        [],
    ],
    ids=["trials", "one", "suites", "no trials", "null recall", "even", "many", "hostile", "none"],
)
def test_every_study_has_a_whole_page(records: Records) -> None:
    comparison = compare(records)
    page = Page(html := render_benchmark_html(comparison))
    assert len(page.ids) == len(set(page.ids))
    assert not [one for one in page.references if not one.startswith(("#", "data:"))]
    assert {one.removeprefix("#") for one in page.references if one.startswith("#")} <= set(page.ids)
    assert html.count("<script>") == 1
    assert not re.search(r"\bnan\b|\binf\b|None", " ".join(page.text.split()))
    markdown = render_benchmark_markdown(comparison)
    assert not re.search(r"\bnan\b|\binf\b|None", markdown)
    for suite in comparison.suites:
        for method in suite.methods:
            assert wording.named(method.name) in page.text
    assert (
        (headline_table(records), text(records)) == (NO_RECORDS, NO_RECORDS) if not records else headline_table(records)
    )


def test_suites_stand_side_by_side_and_apart() -> None:
    made = benchmark_report_of(compare(study() + losing(study(suite="another"))))
    assert [row.name for row in made.table.rows] == ["another", "short"]
    assert [row.cells[1].value for row in made.table.rows] == ["6th of 6", "first of 6"]
    anchors = [section.anchor for section in made.sections]
    assert len(anchors) == len(set(anchors))
    tables = headline_table(study() + losing(study(suite="another")))
    assert tables.index("**another**") < tables.index("**short**")


def test_the_protocol_is_shown() -> None:
    protocol = {"suite": "short", "data": "digits", "model": "small_cnn", "seeds": [0, 1, 2], "confirmation": True}
    seen = {"resize": 32, "crop": None, "mean": [0.5, 0.4, 0.25], "std": [0.2, 0.2, 0.2]}
    made = benchmark_report_of(compare(study(), protocol=protocol | seen))
    cells = cells_of(section_of(made, "protocol").table)  # type: ignore[arg-type]
    assert {name: cells[name]["value"][0] for name in ("resize", "mean")} == {"resize": "32", "mean": "0.5, 0.4, 0.25"}
    assert "crop" not in cells
    assert cells["data"]["value"][0] == "digits"
    assert cells["seeds"]["value"][0] == "0, 1, 2"
    assert cells["confirmation"]["value"][0] == "yes"
    assert any("This is a confirmation" in text for _, text in made.warnings)
    assert not [
        one
        for one in benchmark_report_of(compare(study(suite="x"), protocol=protocol)).sections
        if one.anchor == "protocol"
    ]


def test_every_point_of_a_cost_drawing_has_its_name() -> None:
    names = tuple(f"method_{place}" for place in range(12))
    even = (math.nan,) * 12
    y = tuple(0.6 + 0.002 * place for place in range(12))
    data = Against(
        label="accuracy", across="seconds", names=names, x=(100.0,) * 11 + (150.0,), y=y, low=even, high=even,
        marked=(False,) * 11 + (True,), kinds=("others", "ours"),
    )  # fmt: skip
    drawn = plots.draw(data, name="costs")
    assert all(f">{name}<" in drawn for name in (*names, "others", "ours"))
    assert drawn == plots.draw(data, name="costs")


def test_the_tables_of_the_documents_come_from_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import tables

    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    document = (
        "a\n<!-- study_x -->\nold\n<!-- end study_x -->\nb <!-- study_x_text --> <!-- end study_x_text --> <!-- c -->"
    )
    assert tables.filled(document).count(NO_RECORDS) == 2
    atomic.write_jsonl(tmp_path / "study_x.jsonl", study())
    atomic.write_json(tmp_path / "study_x.protocol.json", {"protocol": {"suite": "short", "data": "digits"}})
    made = tables.filled(document)
    assert headline_table(study()) in made
    assert "digits" in made
    assert made.startswith("a\n<!-- study_x -->\n| method |")
    assert made.endswith("<!-- c -->")
    assert tables.filled(made) == made


def test_the_command_makes_the_report_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "results.jsonl", tmp_path / "out"
    atomic.write_jsonl(path, study())
    assert run(["report", str(path), "--out", str(out)]) == 0
    assert (out / "report.html").read_text() == render_benchmark_html(compare(study()))
    assert (out / "report.md").read_text() == render_benchmark_markdown(compare(study()))
    record = atomic.read_json(out / "run.json", "run.json")
    assert record["of"] == {"path": str(path), "sha256": digests.sha256(path), "records": 36, "suites": ["short"]}
    capsys.readouterr()
    for file, content, message in (
        ("none.jsonl", None, "results.jsonl must be an existing file"),
        ("empty.jsonl", "", "must hold at least one record"),
        ("other.jsonl", '{"kind": "timing"}\n', "results.jsonl must hold records of a study, got line 1"),
    ):
        if content is not None:
            (tmp_path / file).write_text(content)
        assert run(["report", str(tmp_path / file), "--out", str(tmp_path / "not")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "not").exists()
    assert run(["report", str(path), "--out", str(tmp_path), "--overwrite"]) == 2
    assert "--out must not hold" in capsys.readouterr().err


# Metrics


def scored(metric: str, score: dict[str, float], records: Records) -> Records:
    """Return the records of a study by another metric: the score of a method, less in trials."""
    return [
        {**one, "metric": metric, "score": score[one["method"]] + 0.001 * one["seed"] - 0.05 * (one["kind"] == "trial")}
        for one in records
    ]


SCORE = {"ce": 0.9, "focal": 0.2, "vs": 0.5, "balanced_softmax": 0.55, "vs+images": 0.6, "diversify": 0.7}


def test_the_page_says_which_metric_it_shows() -> None:
    suite, made = told(scored("prior", SCORE, study()))
    cells = cells_of(made.table)
    assert next(iter(cells)) == "ce"
    assert cells["diversify"]["accuracy under the target prior"][0] == "70.1%"
    assert cells["diversify"]["balanced accuracy"][0] == wording.percent(
        suite.method(OURS).scores["balanced_accuracy"].mean
    )
    assert cells["diversify"]["over ce, points"][0] == "−20.0"
    assert made.headlines[0].value == "90.1%"
    assert "tuned and compared by accuracy under the target prior" in made.subtitle
    assert made.findings_note.startswith(
        "Methods are tuned on validation and compared on test by accuracy under the target prior"
    )
    assert made.definitions[0].title == "accuracy under the target prior"
    budget = section_of(made, "budget").table
    assert budget.caption.startswith("Values are accuracy under the target prior.")
    assert cells_of(budget)["diversify"]["validation, chosen parameters"][0] == "65.0%"
    (cost,) = section_of(made, "cost").charts
    assert cost.data.label == "accuracy under the target prior on test"
    page = render_benchmark_html(compare(scored("prior", SCORE, study())))
    assert "alanced test accuracy" not in page
    anchors = {heading.anchor for heading in made.table.headings if heading.anchor}
    assert anchors <= {one.anchor for one in made.definitions}
    assert headline_table(scored("prior", SCORE, study())).startswith("| method | accuracy under the target prior, % |")


def test_a_cost_is_no_percentage() -> None:
    score = {name: -value for name, value in SCORE.items()}
    records = scored("cost", score, study())
    _, made = told(records)
    cells = cells_of(made.table)
    assert next(iter(cells)) == "focal"
    assert cells["focal"]["negative expected cost"][0] == "−0.199"
    assert cells["focal"]["over ce, saved cost"] == ("+0.7", "[+0.7, +0.7]")
    assert "Gain over ce: +0.2 saved cost" in statement_of(made, "ranking").text
    (chart,) = section_of(made, "cost").charts
    assert not chart.data.percent
    assert plots.draw(chart.data, name="costs")
    assert "| **`diversify`** | −0.699 ± " in headline_table(records)
    assert "Gain over ce: +0.2 saved cost" in text(records)
    assert render_benchmark_html(compare(records))


def test_the_table_of_worst_classes_does_not_name_them_twice() -> None:
    _, made = told(scored("worst", SCORE, study()))
    titles = [heading.title for heading in made.table.headings]
    assert "recall of the worst class" in titles
    assert "worst class" not in titles


def test_suites_of_different_metrics_share_a_page() -> None:
    records = [*study(), *scored("macro-f1", SCORE, study(suite="other"))]
    made = benchmark_report_of(compare(records))
    assert "the metric of each suite (balanced accuracy, macro F1) on test" in made.table.caption
