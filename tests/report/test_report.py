import dataclasses
import itertools
import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest
import torch
from conftest import NAMES, repeated
from matplotlib.axes import Axes
from scipy.stats import t as student

from diversify.augment.leak import Leak
from diversify.diagnosis import catalogue, findings
from diversify.diagnosis.choose_exhibits import choose_exhibits
from diversify.diagnosis.exhibits import Exhibits
from diversify.diagnosis.findings import find
from diversify.diagnosis.model_comparison import ModelComparison
from diversify.diagnosis.result import Diagnosis
from diversify.functional import stats
from diversify.report import comparison as report_comparison
from diversify.report import diagnosis as report_diagnosis
from diversify.report import page as report_page
from diversify.report import plots, wording
from diversify.report.diagnosis import top_k
from diversify.report.plots.profile import draw_profile
from diversify.report.plots.rows import range_of
from diversify.report.plots.scatter import draw_by_count

RUN = {
    "data": {
        "spec": "cifar10",
        "imbalance": "exp:100",
        "tail_order": "canonical",
        "class_counts": [5000, 50],
        "splits": {"train": {"images": 12406, "origin": "train"}, "val": {"images": 2481}},
    },
    "model": {"name": "resnet32", "parameters": 464154},
    "view": {"mean": [0.5], "std": [0.25], "resize": None},
    "weights": {"path": "runs/ce/model.safetensors", "sha256": "0123456789abcdef" * 4},
    "heldout_split": "val",
    "seed": 123456,
    "versions": {"python": "3.11", "torch": "2.9"},
    "commit": "abc123+",
    "device": "cpu (2 threads)",
    "started": "2026-01-01T00:00:00+00:00",
}
HOSTILE = (
    "<script>alert(1)</script>",
    "a|b",
    "`code`",
    "two\nlines\r\n# heading",
    "*bold* _em_ ~~no~~",
    '" onload="x',
    "$x^2$",
    "\udcff\x00\u202e",
    "[link](javascript:x)",
    "猫 &lt; nan &amp;",
)
VOID = {"meta", "link", "br", "img", "hr", "input", "wbr"}


class Page(HTMLParser):
    """Check that tags are balanced; collect ids, references, text and headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.ids, self.references, self.attributes = [], [], [], [], []
        self.text, self.headings, self.rows = "", [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append(dict(attrs))
        for name, value in attrs:
            self.attributes.append((tag, name, value))
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href", "srcset", "action"):
                self.references.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open[-1:] == [tag], f"{tag} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def comparison(num_classes: int = 6) -> ModelComparison:
    place = torch.arange(num_classes, dtype=torch.float64) / num_classes
    columns = {}
    for name, values in {
        "recall_first": 0.4 + 0.5 * place,
        "recall_second": 0.9 - 0.5 * place,
        "recall_difference": 0.5 - place,
        "needed_first": 3 + place,
        "magnitude_ratio": 0.5 + place,
        "identity_overlap": place,
        "something_new": place,
    }.items():
        columns |= {name: values, f"{name}_low": values - 0.1, f"{name}_high": values + 0.1}
    columns["needed_first"][0] = math.nan
    return ModelComparison(
        first_name="plain <b>",
        second_name="balanced|softmax",
        top_k=10,
        num_features=64,
        class_names=tuple(f"class {c}" for c in range(num_classes)),
        matched_by="channels matched",
        columns=columns,
    )


def cells_of(line: str) -> list[str]:
    """Return the cells of a line of a Markdown table; an escaped bar is not a border."""
    return re.split(r"(?<!\\)\|", line)[1:-1]


def tables_of(markdown: str) -> list[list[str]]:
    return [block.split("\n") for block in markdown.split("\n\n") if block.startswith("|")]


@pytest.fixture(scope="module")
def exhibits(diagnosis: Diagnosis, sides) -> Exhibits:
    train, heldout, head = sides
    return choose_exhibits(train, heldout, head=head, diagnosis=diagnosis)


@pytest.fixture(scope="module")
def page(diagnosis: Diagnosis, exhibits: Exhibits) -> str:
    return report_diagnosis.render_html(diagnosis, RUN, exhibits)


def test_the_page_says_everything_in_order_and_is_whole(page: str, diagnosis: Diagnosis):
    parsed = Page(page)
    assert parsed.headings == [
        "Diagnosis of resnet32 on cifar10",
        "Findings",
        "Classes",
        "Size and diversity",
        "Class size",
        "Top-K features",
        "Latent diversity",
        "Neighbours",
        "Head",
        "Suspect labels",
        "Example images",
        report_page.BEYOND_SIZE,
        report_page.DEFINITIONS,
        report_page.ORIGIN,
    ]
    counted = Counter(parsed.tags)
    fragile = int(diagnosis["fragile"].sum())
    assert counted["figure"] == counted["svg"] == 13 + min(fragile, top_k.PROFILES - 1) + 1
    assert counted["table"] == 5
    assert counted["caption"] == 3  # the other two are heat maps with a note above
    assert counted["article"] == fragile + 2  # and the suspect labels of each side
    assert counted["script"] == 1
    assert counted["img"] == 0  # no pictures have been taken
    assert len(page) < 1_000_000
    for word in (
        *NAMES,
        "464,154 parameters",
        "exp:100",
        "train 12,406, val 2,481",
        "123456",
        "abc123+",
        "cpu (2 threads)",
        "2026-01-01",
    ):
        assert word in parsed.text
    assert "0123456789abcdef…" in parsed.text
    assert "5 of 16 features; two random sets of 5 share 31.2% by chance" in parsed.text
    assert "validation split" in parsed.text
    for measure in diagnosis.beyond_log_count:
        assert catalogue.MEASURES[measure].meaning in parsed.text


def test_the_page_stands_alone(page: str):
    parsed = Page(page)
    assert all(reference.startswith(("#", "data:")) for reference in parsed.references)
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    assert [value for tag, name, value in parsed.attributes if name.startswith("on")] == []
    doubled = [name for name, times in Counter(parsed.ids).items() if times > 1]
    assert doubled == []
    wanted = {reference[1:] for reference in parsed.references if reference.startswith("#")}
    assert wanted | set(re.findall(r"url\(#([^)]*)\)", page)) <= set(parsed.ids)


def test_tables_and_figures_can_be_read_without_seeing_them(page: str, diagnosis: Diagnosis):
    parsed = Page(page)
    headers = [dict(cell) for row in parsed.rows for cell in row if "scope" in cell]
    assert {cell["scope"] for cell in headers} == {"col", "row"}
    explained = [value for tag, name, value in parsed.attributes if tag == "a" and name == "title"]
    suspects = 2 * len(diagnosis.label_errors)  # counted and expected on each side
    assert len(explained) == len(report_diagnosis.CLASS_COLUMNS) + suspects + len(diagnosis.beyond_log_count)
    assert any("Dablain et al. 2023" in text for text in explained)  # with its source
    labels = [value for tag, name, value in parsed.attributes if tag == "div" and name == "aria-label"]
    assert len(labels) == Counter(parsed.tags)["svg"] + Counter(parsed.tags)["table"]
    assert all("Lowest: " in label or "Sums in logits: " in label for label in labels if " plot " in label)
    assert all(len(row) == 14 for row in parsed.rows[: 1 + len(NAMES)])
    assert all(len(row) == 5 for row in parsed.rows[-1 - len(diagnosis.beyond_log_count) :])


def test_findings_come_weakest_first_with_their_remedy(diagnosis: Diagnosis):
    made = report_diagnosis.report_of(diagnosis, RUN)
    recall = diagnosis["recall_heldout"]
    assert len(made.findings) == int(diagnosis["fragile"].sum()) > 1
    found = [float(recall[NAMES.index(one.title)]) for one in made.findings]
    assert found == sorted(found)
    assert all(one.label in findings.REMEDIES and one.label not in one.others for one in made.findings)
    assert all("Points to" not in one.text and one.advice for one in made.findings)
    marked = {row.name for row in made.table.rows if row.mark}
    assert marked == {one.title for one in made.findings}
    assert [row.name for row in made.table.rows] == [
        NAMES[c] for c in sorted(range(10), key=lambda c: float(recall[c]))
    ]
    for finding in diagnosis.findings:
        row = next(row for row in made.table.rows if row.name == finding.class_name)
        assert row.cells[0].value == ", ".join(diagnosis.troubles[finding.class_index])
        measured = zip(report_diagnosis.CLASS_COLUMNS, row.cells[1:], strict=True)
        strong = {column for column, cell in measured if cell.strong}
        assert strong == {one.measure for one in finding.evidence} & report_diagnosis.CLASS_COLUMNS.keys()


@pytest.mark.usefixtures("without_figures")
def test_a_model_without_fragile_classes_gets_one_sentence(diagnosis: Diagnosis):
    sound = dataclasses.replace(diagnosis, findings=(), columns={**diagnosis.columns, "fragile": torch.zeros(10)})
    for text in (report_diagnosis.render_html(sound, {}), report_diagnosis.render_markdown(sound, {})):
        assert "No class is fragile" in text
        assert plots.FRAGILE + " fragile" not in text


def test_classes_with_low_but_uncertain_recall_are_named(diagnosis: Diagnosis):
    recall = torch.tensor([1.0, 0.0, 0.1, *[0.6] * 7], dtype=torch.float64)
    columns = {**diagnosis.columns, "recall_heldout": recall, "count_heldout": torch.full((10,), 10.0)}
    few = dataclasses.replace(diagnosis, findings=(), columns=columns)
    told = wording.none_fragile(few, NAMES)
    assert told.endswith(
        f"Classes with less than half the mean recall: {NAMES[1]} 0 of 10, {NAMES[2]} 1 of 10 correct."
    )
    sound = dataclasses.replace(few, columns={**columns, "recall_heldout": torch.full((10,), 0.6)})
    assert "Too few held-out images" not in wording.none_fragile(sound, NAMES)
    none = dataclasses.replace(few, columns={**columns, "recall_heldout": torch.zeros(10)})
    assert wording.none_fragile(none, NAMES).endswith("No held-out image is predicted correctly.")


@pytest.mark.parametrize("start", ["2020. A", "7) A", "# A", "- A", "> A", "+ A", "= A"])
def test_no_line_of_a_markdown_paragraph_begins_a_block(start: str):
    filler = "x" * (report_page.PROSE - 1)
    second = report_page._wrapped(f"{filler} {start}").splitlines()[1]
    assert re.sub(r"\\(?=[^\w\s])", "", second) == start, "a backslash is invisible only before punctuation"
    assert not re.match(r"\d+[.)]\s|[#>+=-]", second)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.usefixtures("without_figures")
def test_a_diagnosis_of_the_test_split_warns_against_choosing_by_it(diagnosis: Diagnosis, split: str):
    made = dataclasses.replace(diagnosis, heldout_split=split)
    for text in (report_diagnosis.render_html(made, RUN), report_diagnosis.render_markdown(made, RUN)):
        assert ("This diagnosis reads the test split." in text) == (split == "test")


@pytest.mark.usefixtures("without_figures")
def test_entries_missing_from_run_json_are_not_shown(diagnosis: Diagnosis):
    made = report_diagnosis.report_of(diagnosis, {})
    assert made.title == "Diagnosis of a network"
    assert [label for label, _ in made.origin] == ["held-out images", "top-K", "seed of the diagnosis"]
    odd = {
        "model": None,
        "data": {"spec": None, "splits": 3},
        "versions": [],
        "view": {},
        "weights": {"path": "w.pt"},
        "seed": 0,
    }
    assert (
        dict(report_diagnosis.report_of(diagnosis, odd).origin).items()
        >= {"weights": "w.pt", "images": "3", "seed": "0"}.items()
    )
    Page(report_diagnosis.render_html(diagnosis, odd))


@pytest.mark.usefixtures("without_figures")
def test_a_certain_leak_is_a_warning_and_the_largest_leak_is_always_shown(diagnosis: Diagnosis):
    columns = {one.name: torch.zeros(10, dtype=torch.float64) for one in dataclasses.fields(Leak)[1:]}
    columns |= {"count": torch.full((10,), 200), "count_others": torch.full((10,), 1800)}
    for name, first in {"leak": (0, 0.031, 0.1), "leak_low": (0, 0.025, 0.01), "leak_high": (0, 0.04, 0.2)}.items():
        columns[name][:3] = torch.tensor(first)
    run = RUN | {"leak": Leak(class_names=tuple(NAMES[:10]), **columns).to_dict()}
    made = report_diagnosis.report_of(diagnosis, run)
    told = dict(made.warnings)["Augmentation makes the model predict the wrong class."]
    name, largest = NAMES[1], NAMES[2]
    assert told.endswith(f"by these percentage points: {name} +3.1 [+2.5, +4.0].")
    assert dict(made.origin)["largest leak of an image policy, points"] == (
        f"{largest} +10.0 [+1.0, +20.0], on 2,000 held-out images"
    )
    assert f"{name} +3.1" in Page(report_diagnosis.render_html(diagnosis, run)).text
    for odd in (
        {},
        3,
        {**run["leak"], "leak": ["a"] * 10},
        {**run["leak"], "leak": [None] * 10, "leak_low": [None] * 10},
    ):
        plain = report_diagnosis.report_of(diagnosis, RUN | {"leak": odd})
        assert "Augmentation makes the model predict the wrong class." not in dict(plain.warnings)
        assert "largest leak of an image policy, points" not in dict(plain.origin)


def test_hostile_names_stay_text(diagnosis: Diagnosis):
    made = repeated(diagnosis, list(range(10)), HOSTILE)
    run = {"model": {"name": "<img src=x>"}, "data": {"spec": "a|b\n# c"}, "versions": {"<i>": "`|"}}
    html, markdown = report_diagnosis.render_html(made, run), report_diagnosis.render_markdown(made, run)
    parsed = Page(html)
    assert not {"img", "i"} & set(parsed.tags)
    assert parsed.tags.count("script") == 1
    assert [name for _, name, _ in parsed.attributes if name.startswith("on")] == []
    assert "<script>alert(1)</script>" in parsed.text
    assert "猫 &lt; nan &amp;" in parsed.text
    for text in (html, markdown):
        text.encode("utf-8")
        assert "\x00" not in text
        assert "\u202e" not in text
    headings = [line for line in markdown.split("\n") if line.startswith("#")]
    assert len(headings) == 7 + 4
    for table in tables_of(markdown):
        assert len({len(cells_of(line)) for line in table}) == 1
    prose = re.sub(r"\\.", "", markdown)
    assert "<" not in prose
    assert "`code`" not in prose
    assert "](" not in prose


def test_markdown_tables_are_even(diagnosis: Diagnosis):
    tables = tables_of(
        report_diagnosis.render_markdown(repeated(diagnosis, list(range(10)), (*NAMES[:9], "猫" * 9)), RUN)
    )
    assert [len(table) for table in tables] == [12, 12, 12, 12, 12, 12, 19]
    for table in tables:
        assert len({len(cells_of(line)) for line in table}) == 1
        assert len({report_page._width(line) for line in table}) == 1


@pytest.mark.usefixtures("without_figures")
def test_undefined_is_a_dash_everywhere(diagnosis: Diagnosis):
    empty = {name: torch.full_like(column, torch.nan) for name, column in diagnosis.columns.items()}
    columns = {**empty, "count": torch.zeros(10), "count_heldout": torch.zeros(10), "fragile": torch.zeros(10)}
    nothing = dataclasses.replace(
        diagnosis,
        columns=columns,
        summary=dict.fromkeys(diagnosis.summary, math.nan),
        log_count={},
        beyond_log_count={name: dict.fromkeys(line, math.nan) for name, line in diagnosis.beyond_log_count.items()},
        findings=(),
    )
    for made in (nothing, diagnosis):
        for text in (report_diagnosis.render_html(made, {}), report_diagnosis.render_markdown(made, {})):
            said = Page(text).text if text.startswith("<!DOCTYPE") else text
            assert not re.search(r"\bNone\b", said)
            assert not re.search(r"\b(nan|inf)\b", said, re.IGNORECASE)
            assert not re.search(r"\b(nan|inf)\b", text, re.IGNORECASE)  # nor in a drawing
            assert wording.DASH in text


@pytest.mark.parametrize("num_classes", [1, 2, 41, *(pytest.param(n, marks=pytest.mark.slow) for n in (40, 60, 300))])
def test_any_number_of_classes(diagnosis: Diagnosis, num_classes: int):
    made = repeated(diagnosis, [place % 10 for place in range(num_classes)])
    built = report_diagnosis.report_of(made, RUN)
    shown = num_classes if num_classes <= 40 else 30
    assert len(built.table.rows) == shown
    assert built.table.left_out == num_classes - shown
    recall = [float(made["recall_heldout"][made.class_names.index(row.name)]) for row in built.table.rows]
    assert recall == sorted(recall)
    assert recall[0] == float(made["recall_heldout"].min())
    assert recall[-1] == float(made["recall_heldout"].max())
    html, markdown = report_diagnosis.render_html(made, RUN), report_diagnosis.render_markdown(made, RUN)
    assert (
        (f"{num_classes - 30} left out" in html) == (f"{num_classes - 30} left out" in markdown) == (num_classes > 40)
    )
    assert (f"{num_classes - 30} classes between these left out" in html) == (num_classes > 40)
    assert len(Page(html).rows) >= shown + 1
    assert len(html) < 2_000_000
    assert len(built.table.rest) == built.table.left_out
    assert html.count("<details") == (num_classes > 40) + (len(built.findings) > report_page.FINDINGS)
    charts = [chart for section in built.sections for chart in section.charts]
    for chart in charts:
        if isinstance(chart.data, plots.ByCount):
            assert len(chart.data.names) == num_classes
            assert sum(chart.data.shown) == shown
        elif isinstance(chart.data, plots.ByCoverage):
            assert len(chart.data.names) == num_classes
            assert shown <= sum(chart.data.shown) <= 60
        else:
            counts = [float(made["count"][made.class_names.index(name)]) for name in chart.data.names]
            assert counts == sorted(counts, reverse=True)
    grids = [grid for section in built.sections for grid in section.grids]
    assert all(len(grid.columns) <= top_k.GRID_FEATURES for grid in grids)
    assert all(len(cells) == len(grid.columns) for grid in grids for _, cells in grid.rows)
    assert ("Undefined: at least 4 classes" in html) == (num_classes < 4)


@pytest.mark.slow
def test_equal_counts_and_an_absent_class(diagnosis: Diagnosis):
    flat = dataclasses.replace(diagnosis, columns={**diagnosis.columns, "count": torch.full((10,), 7.0)}, log_count={})
    assert "No line is fitted" in report_diagnosis.render_html(flat, {})
    count = diagnosis["count"].clone()
    count[3] = 0
    columns = {**diagnosis.columns, "count": count}
    gone = dataclasses.replace(
        diagnosis, columns=columns, findings=find(columns, NAMES, diagnosis.enemies, diagnosis.log_count, top_k=5)
    )
    text = report_diagnosis.render_markdown(gone, {})
    assert find(columns, NAMES, diagnosis.enemies, diagnosis.log_count, top_k=5)[0].text.split(" Points to")[
        0
    ] in " ".join(text.split())
    assert "1 class without a training image not drawn" in report_diagnosis.render_html(gone, {})


def test_the_critical_correlation_is_exact_for_few_classes_and_the_t_test_s_for_many():
    for classes, given in ((10, 0), (11, 1), (100, 0)):
        r = stats.critical_correlation(classes, given)
        freedom = classes - 2 - given
        assert 2 * student.sf(r * math.sqrt(freedom / (1 - r * r)), freedom) == pytest.approx(0.05)
    assert stats.critical_correlation(11) == pytest.approx(0.602, abs=5e-4)
    for classes in (4, 5, 6, 7):
        found = []
        for order in itertools.permutations(range(classes)):
            distance = sum((place - rank) ** 2 for place, rank in enumerate(order))
            found.append(abs(1 - 6 * distance / (classes * (classes**2 - 1))))
        mark = stats.critical_correlation(classes)
        assert sum(value > mark for value in found) <= 0.05 * len(found)
        assert sum(value > mark - 1e-6 for value in found) > 0.05 * len(found)
        assert stats.critical_correlation(classes + 1, 1) == mark
    assert stats.critical_correlation(2) == stats.critical_correlation(3, 1) == 1.0


def test_bold_correlations_are_those_beyond_the_critical_value(diagnosis: Diagnosis):
    table = report_diagnosis.report_of(diagnosis, {}).beyond
    assert table is not None
    titles = {catalogue.MEASURES[name].title: line for name, line in diagnosis.beyond_log_count.items()}
    strengths = []
    for row in table.rows:
        line, classes = titles[row.name], int(row.cells[3].value)
        assert row.cells[0].strong == (
            abs(line["correlation_with_recall_given_count"]) > stats.critical_correlation(classes, 1)
        )
        assert row.cells[1].strong == (abs(line["correlation_with_recall"]) > stats.critical_correlation(classes))
        strengths.append(abs(line["correlation_with_recall_given_count"]))
    used = [int(row.cells[3].value) for row in table.rows]
    assert used == sorted(used, reverse=True)
    for classes in set(used):
        defined = [value for value, each in zip(strengths, used, strict=True) if each == classes and value == value]
        assert defined == sorted(defined, reverse=True)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.5, "share", "50%"),
        (0.0, "share", "0%"),
        (1.0, "share", "100%"),
        (0.997, "share", "99.7%"),
        (0.9999, "share", ">99.9%"),
        (0.0004, "share", "<0.1%"),
        (-0.25, "share", "−25%"),
        (0.123, "points", "+12"),
        (-0.004, "points", "0"),
        (-0.5, "points", "−50"),
        (0.1, "ratio", "0.10"),
        (-0.001, "ratio", "0.00"),
        (12345.0, "images", "12,345"),
        (13.26, "number", "13.3"),
        (math.nan, "share", "–"),
        (math.inf, "ratio", "–"),
    ],
)
def test_numbers_are_written_as_a_reader_expects(value: float, unit: str, text: str):
    assert wording.formatted(value, unit) == text


@pytest.mark.slow
def test_the_same_numbers_give_the_same_bytes_whatever_matplotlib_is_set_to(
    diagnosis: Diagnosis, exhibits: Exhibits, page: str
):
    settings = dict(matplotlib.rcParams)
    assert report_diagnosis.render_html(diagnosis, RUN, exhibits) == page
    assert dict(matplotlib.rcParams) == settings
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "svg.hashsalt": "other", "svg.fonttype": "path"}):
        assert report_diagnosis.render_html(diagnosis, RUN, exhibits) == page
    assert "Date" not in page
    assert "matplotlib" not in page.lower()


def test_colours_follow_the_page(page: str):
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    variables = re.findall(r"--([a-z-]+): #", page)
    assert drawings
    for drawing in drawings:
        used = set(re.findall(r"var\(--([a-z-]*), #[0-9a-f]{6}\)", drawing))
        assert {"ink", "blue"} & used
        assert used <= set(variables)
        assert set(re.findall(r": (#[0-9a-f]{6})", drawing)) == set()


def test_values_beyond_the_limits_are_drawn_at_the_edge():
    series = plots.Series(name="ratio", values=(1.0, 50.0, -50.0), low=(0.9, 40.0, -60.0), high=(1.1, 60.0, -40.0))
    rows = plots.Rows(names=("a", "b", "c"), signs=("", "", ""), series=(series,), reference=1.0, limits=(-1.0, 3.0))
    low, high = range_of(rows)
    assert -1.5 < low < -0.9
    assert 2.9 < high < 3.5
    text = plots.draw(rows, name="edge")
    numbers = [float(number) for number in re.findall(r" x=\"(-?[\d.]+)\"", text)]
    width = float(re.search(r"viewBox=\"0 0 ([\d.]+)", text).group(1))
    assert all(0 <= number <= width for number in numbers)


def test_long_names_stay_apart_when_they_are_cut():
    names = ["species number 17 of it", "species number 18 of it", "short", "another name that is long"]
    short = plots.shortened(names, 12)
    assert len(set(short)) == 4
    assert all(len(name) <= 12 for name in short)
    assert short == ["…17 of it", "…18 of it", "short", "another nam…"]


def test_small_classes_leave_no_empty_figure(diagnosis: Diagnosis):
    columns = {
        name: torch.full_like(column, torch.nan) if name.startswith("diversity_") else column
        for name, column in diagnosis.columns.items()
    }
    section = report_diagnosis.report_of(dataclasses.replace(diagnosis, columns=columns), {}).sections[3]
    assert section.charts == ()
    assert "nothing can be compared here" in section.note


def test_names_in_the_scatter_plot_do_not_meet(diagnosis: Diagnosis):
    wide = (
        report_diagnosis.report_of(repeated(diagnosis, [place % 10 for place in range(60)]), {})
        .sections[1]
        .charts[0]
        .data
    )
    figure = draw_by_count(wide, 4.8)
    written = figure.axes[0].texts
    boxes = [text.get_window_extent() for text in written]
    assert len(boxes) > 3
    for place, box in enumerate(boxes):
        for other in boxes[:place]:
            across = min(box.x1, other.x1) - max(box.x0, other.x0)
            up = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert across < 3 or up < 4  # boxes hold the space for accents and tails


def must_not_touch(axes: Axes) -> None:
    labels = [label for label in axes.get_xticklabels() if label.get_text()]
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: float(box.x0))
    assert len(boxes) > 2
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


@pytest.mark.parametrize(("least", "most"), [(2, 1726), (3, 40), (1, 90_000), (12_000, 2_000_000)])
def test_class_sizes_below_a_plot_do_not_touch(least: int, most: int):
    sizes = (float(least), (least * most) ** 0.5, float(most))
    none, false = (math.nan,) * 3, (False,) * 3
    data = plots.ByCount(
        label="recall", names=("a", "b", "c"), count=sizes, value=(0.1, 0.5, 0.9), low=none, high=none,
        fragile=false, shown=(True,) * 3, line=None,
    )  # fmt: skip
    must_not_touch(draw_by_count(data, 4.8).axes[0])


@pytest.mark.parametrize("largest", [7, 640, 2048, 99_999])
def test_numbers_of_features_below_a_profile_do_not_touch(largest: int):
    features = tuple(largest - place for place in range(7 if largest < 10 else 10))
    none = (math.nan,) * len(features)
    series = plots.Series(name="training", values=(1.0,) * len(features), low=none, high=none, color="blue", marker="o")
    must_not_touch(draw_profile(plots.Profile(features=features, series=(series,), top=1.0), 3.7).axes[0])


def test_a_refitted_head_that_is_surely_worse_is_no_ceiling():
    assert "optimistic" in wording.ceiling_in_words({"head_ceiling": -0.01, "head_ceiling_high": 0.02})
    assert "optimistic" in wording.ceiling_in_words({})
    assert "does worse" in wording.ceiling_in_words({"head_ceiling": -0.08, "head_ceiling_high": -0.03})


def test_two_models_are_compared_in_the_same_form():
    made = comparison()
    html, markdown = (
        report_comparison.render_comparison_html(made, RUN),
        report_comparison.render_comparison_markdown(made, RUN),
    )
    parsed = Page(html)
    assert parsed.headings[0] == "plain <b> and balanced|softmax, compared"
    assert Counter(parsed.tags)["figure"] == 4
    assert "channels matched" in parsed.text
    assert "15.6% by chance" in parsed.text
    assert "something new" in parsed.text
    assert not re.search(r"\bnan\b", html + markdown)
    (table,) = tables_of(markdown)
    assert len({len(cells_of(line)) for line in table}) == 1
    first_cells = [cells_of(line)[0].strip() for line in table[2:]]
    assert first_cells == ["▼ class 5", "▼ class 4", "class 3", "▲ class 2", "▲ class 1", "▲ class 0"]
    built = report_comparison.comparison_report_of(made, RUN)
    assert [(statement.title, statement.good) for statement in built.findings] == [
        ("balanced|softmax has lower recall on 2 classes", False),
        ("balanced|softmax has higher recall on 3 classes", True),
    ]
    assert report_comparison.render_comparison_html(made, RUN) == html


def test_a_comparison_shows_whichever_columns_there_are():
    whole = comparison()
    recalls = {
        name: column for name, column in whole.columns.items() if name.startswith(("recall_first", "recall_second"))
    }
    few = dataclasses.replace(whole, columns=recalls)
    assert "No class differs" in report_comparison.render_comparison_html(few, {})
    bare = dataclasses.replace(few, columns={"recall_first": few.columns["recall_first"]})
    Page(report_comparison.render_comparison_html(bare, {}))
    many = report_comparison.comparison_report_of(comparison(60), {})
    assert len(many.table.rows) == 30
    assert many.table.left_out == 30


# Colours

CSS = (Path(report_page.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")


def palettes() -> dict[str, dict[str, tuple[float, ...]]]:
    """Return the colours of each scheme as red, green, blue in [0, 1]; dark falls back on light."""

    def read(text: str) -> dict[str, tuple[float, ...]]:
        found = re.findall(r"--([a-z-]+): #([0-9a-f]{6}|[0-9a-f]{3});", text)
        digits = {name: code if len(code) == 6 else "".join(2 * mark for mark in code) for name, code in found}
        return {name: tuple(int(code[at : at + 2], 16) / 255 for at in (0, 2, 4)) for name, code in digits.items()}

    roots = [read(text) for text in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)]
    assert len(roots) == 3
    return {"light": roots[0], "dark": roots[0] | roots[1], "paper": roots[0] | roots[2]}


def linear(colour: tuple[float, ...]) -> list[float]:
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the contrast ratio of WCAG 2.2."""
    light = [sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear(each), strict=True)) for each in (one, other)]
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark", "paper"])
def test_text_can_be_read_on_its_ground(scheme: str):
    colours = palettes()[scheme]
    for text, ground in (
        *(("ink", ground) for ground in ("paper", "band", "mark")),
        *(("muted", ground) for ground in ("paper", "band")),
        *(("label", ground) for ground in ("paper", "mark")),
        ("blue", "paper"),
        ("on-light", "sky"),
        ("on-light", "orange"),
        ("on-dark", "blue"),
        ("on-light", "vermillion"),
    ):
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    shaded = tuple(0.55 * v + 0.45 * b for v, b in zip(colours["vermillion"], colours["band"], strict=True))
    assert contrast(colours["ink"], shaded) >= 4.5
    for mark in ("blue", "vermillion", "muted", "green", "purple"):
        assert contrast(colours[mark], colours["paper"]) >= 3  # of what is drawn, WCAG 1.4.11


# Machado, Oliveira and Fernandes 2009, severity 1, in linear RGB.
BLIND = {
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def lab(light: list[float]) -> list[float]:
    """Return CIE L*a*b* of linear RGB."""
    rows = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    white = (0.9505, 1.0, 1.089)
    xyz = [sum(a * b for a, b in zip(row, light, strict=True)) / w for row, w in zip(rows, white, strict=True)]
    f = [v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz]
    return [116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])]


@pytest.mark.parametrize("eye", [None, *BLIND])
@pytest.mark.parametrize("scheme", ["light", "dark", "paper"])
def test_colours_that_mean_something_are_told_apart_by_every_eye(scheme: str, eye: str | None):
    colours = palettes()[scheme]

    def seen(name: str) -> list[float]:
        light = linear(colours[name])
        if eye:
            light = [min(1, max(0, sum(a * b for a, b in zip(row, light, strict=True)))) for row in BLIND[eye]]
        return lab(light)

    def apart(one: str, other: str) -> float:
        return math.dist(seen(one), seen(other))

    assert apart("blue", "vermillion") > 30
    parts = ("blue", "sky", "orange", "vermillion")  # neighbours in a bar, with the ground's colour between
    assert all(apart(one, other) > 18 for one, other in itertools.pairwise(parts))


def test_long_names_are_whole_where_they_are_searched(diagnosis: Diagnosis):
    names = tuple(f"0077{c}_Animalia_Arthropoda_Insecta_Lepidoptera_Nymphalidae_Species_number77{c}" for c in range(10))
    made = repeated(diagnosis, list(range(10)), names)
    built = report_diagnosis.report_of(made, {})
    assert {row.full_name for row in built.table.rows} == set(names)
    assert all(len(row.name) <= 48 for row in built.table.rows)
    assert len(set(plots.shortened(names, 18))) == 10
    html = report_diagnosis.render_html(made, {})
    assert all(f'title="{name}"' in html for name in names)


@pytest.mark.slow
def test_ten_thousand_classes_stay_below_five_megabytes(diagnosis: Diagnosis):
    names = tuple(f"{c:05} Animalia Arthropoda Insecta Lepidoptera Nymphalidae Species" for c in range(10_000))
    made = repeated(diagnosis, [place % 10 for place in range(10_000)], names)
    made = dataclasses.replace(made, enemies=torch.full((1, 1), torch.nan).expand(10_000, 10_000))
    html = report_diagnosis.render_html(made, {})
    assert len(html.encode()) < 4_000_000  # and a megabyte for pictures
    assert html.count("<li><header>") == report_page.FINDINGS + report_page.FOLDED
    assert "10,000 classes" in html


@pytest.mark.parametrize(
    "start", ["# nine", "1. nine", "- nine", "+ nine", "> nine", "= nine", "12) nine", "--- nine", "| nine"]
)
def test_no_name_begins_a_block_of_markdown(diagnosis: Diagnosis, start: str):
    made = repeated(diagnosis, list(range(10)), (start, *NAMES[1:]))
    lines = report_diagnosis.render_markdown(made, {}).split("\n")
    assert not [line for line in lines if line.lstrip().startswith(start)]
    assert all(len(line) <= report_page.PROSE + 20 for line in lines if not line.startswith("|"))


@pytest.mark.usefixtures("without_figures")
def test_caveats_and_notes_of_the_record_are_shown(diagnosis: Diagnosis):
    run = {
        "caveats": ["that train holds the images it learned from is taken on trust"],
        "notes": ["valid is read as val"],
    }
    for text in (report_diagnosis.render_html(diagnosis, run), report_diagnosis.render_markdown(diagnosis, run)):
        assert "taken on trust." in text
        assert "valid is read as val" in text


def test_a_comparison_says_what_else_differs():
    def side(split: str, train: str, heldout: str, copies: int) -> dict[str, object]:
        splits = {"train": {"digest": train}, "val": {"digest": heldout}, "test": {"digest": heldout}}
        data = {"spec": "cifar10", "class_counts": [10, 9, 8, 7, 6, 5], "splits": splits}
        return {"heldout_split": split, "data": data, "duplicates": {"count": copies}, "seed": 3}

    def titles(first: dict[str, object], second: dict[str, object]) -> list[str]:
        return [
            title
            for title, _ in report_comparison.comparison_report_of(
                comparison(), {"first": first, "second": second}
            ).warnings
        ]

    same = side("val", "a", "b", 0)
    assert titles(same, same) == []
    assert titles(side("test", "a", "b", 0), side("test", "a", "b", 0)) == ["This comparison reads the test split."]
    assert titles(same, side("val", "c", "b", 0)) == ["The training images differ."]
    assert titles(same, side("val", "a", "c", 0)) == ["The held-out images differ."]
    assert titles(same, side("test", "a", "b", 0)) == [
        "This comparison reads the test split.",
        "The held-out images differ.",
    ]
    assert titles(same, side("val", "a", "b", 2)) == ["Held-out images were trained on."]
    built = report_comparison.comparison_report_of(comparison(), {"first": same, "second": same})
    assert [heading.title for heading in built.table.headings][1:3] == ["images, first", "images, second"]
    assert [row.cells[0].value for row in built.table.rows] == ["5", "6", "7", "8", "9", "10"]
    assert ("first: data", "cifar10") in built.origin
    assert ("second: seed", "3") in built.origin
    assert all(meaning.anchor for meaning in built.definitions)
