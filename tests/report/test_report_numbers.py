"""Every number that a report draws or prints is looked up at its origin by the name of its class.

Classes are not ordered by size, rows are not ordered by class, and an image's index in its data set is not its row: a number
taken from a wrong place differs from the right one.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

import pytest
import torch
from conftest import NAMES, embeddings_of, repeated, synthetic, synthetic_head

from diversify.diagnosis.catalogue import MEASURES
from diversify.diagnosis.choose_exhibits import EACH, choose_exhibits
from diversify.diagnosis.exhibits import ClassExamples, Exhibits
from diversify.diagnosis.measure import diagnose
from diversify.diagnosis.model_comparison import Model, ModelComparison, compare_models
from diversify.diagnosis.result import Diagnosis
from diversify.functional import draws
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.report import diagnosis as report_diagnosis
from diversify.report import plots, wording
from diversify.report.comparison import COMPARISON_COLUMNS, comparison_report_of
from diversify.report.diagnosis.top_k import PROFILES
from diversify.report.record import Chart, Grid, Picture, Report, Section, Table

TRAIN = [20, 200, 3, 70, 30, 8, 120, 25, 40, 22]
HELDOUT = [50, 41, 55, 43, 52, 44, 47, 53, 42, 49]
DECIMAL = r"[+−-]?\d[\d,]*\.?\d*"

Sides = tuple[Embeddings, Embeddings, LinearHead]


def shuffled(side: Embeddings, name: str) -> Embeddings:
    """Return the rows in another order, with indices that differ from all row numbers."""
    found = side.select(draws.permutation(len(side), name, "rows"))
    return dataclasses.replace(found, indices=1000 + 3 * draws.permutation(len(side), name, "indices"))


@pytest.fixture(scope="module")
def sides() -> Sides:
    seen, seen_labels = synthetic(TRAIN, "train numbers")
    unseen, unseen_labels = synthetic(HELDOUT, "heldout numbers", spread=0.8)
    head = synthetic_head(seen, seen_labels, 10)
    train, heldout = embeddings_of(seen, seen_labels, head), embeddings_of(unseen, unseen_labels, head)
    return shuffled(train, "train"), shuffled(heldout, "heldout"), head


@pytest.fixture(scope="module")
def diagnosis(sides: Sides) -> Diagnosis:
    train, heldout, head = sides
    return diagnose(train, heldout, head=head, class_names=NAMES, top_k=5)


@pytest.fixture(scope="module")
def exhibits(sides: Sides, diagnosis: Diagnosis) -> Exhibits:
    train, heldout, head = sides
    return choose_exhibits(train, heldout, head=head, diagnosis=diagnosis)


@pytest.fixture(scope="module", params=["every class", "some of the classes"])
def told(request: pytest.FixtureRequest, diagnosis: Diagnosis, exhibits: Exhibits) -> tuple[Diagnosis, Report]:
    """A diagnosis and its report; once with so many classes that some are left out."""
    if request.param == "every class":
        return diagnosis, report_diagnosis.report_of(diagnosis, {}, exhibits)
    wide = repeated(diagnosis, [(7 * place + place // 10) % 10 for place in range(60)])
    return wide, report_diagnosis.report_of(wide, {})


@pytest.fixture(scope="module")
def built(diagnosis: Diagnosis, exhibits: Exhibits) -> Report:
    return report_diagnosis.report_of(diagnosis, {}, exhibits)


def section_of(made: Report, anchor: str) -> Section:
    (found,) = [section for section in made.sections if section.anchor == anchor]
    return found


def row_charts(section: Section, *series: str) -> list[Chart]:
    """Return the dot plots of a section that have these series."""
    return [
        chart
        for chart in section.charts
        if isinstance(chart.data, plots.Rows) and {one.name for one in chart.data.series} == set(series)
    ]


def column_of(columns: dict[str, torch.Tensor], column: str, places: Sequence[int]) -> list[float]:
    return [float(columns[column][c]) if column in columns else math.nan for c in places]


def same(drawn: Sequence[float], wanted: Sequence[float]) -> bool:
    return list(drawn) == pytest.approx(list(wanted), nan_ok=True, abs=1e-12)


def must_draw(chart: Chart, found: Diagnosis | ModelComparison, wanted: dict[str, str]) -> None:
    """Check that each series of a dot plot holds the wanted column and its interval, class by class."""
    places = [found.class_names.index(name) for name in chart.data.names]
    assert {one.name for one in chart.data.series} == set(wanted)
    for one in chart.data.series:
        for drawn, end in ((one.values, ""), (one.low, "_low"), (one.high, "_high")):
            assert same(drawn, column_of(found.columns, wanted[one.name] + end, places)), one.name + end


def must_say_the_extremes(chart: Chart, found: Diagnosis | ModelComparison, column: str, unit: str) -> None:
    """Check that the text for screen readers names the classes with the lowest and highest value of a column."""
    defined = found.columns[column][found.columns[column].isfinite()]
    said = re.search(r"Lowest: (.*?), (\S+); highest: (.*?), (\S+)\.(?: |$)", chart.alt)
    assert said is not None
    for name, text, end in ((*said.groups()[:2], defined.min()), (*said.groups()[2:], defined.max())):
        assert text == wording.formatted(float(end), unit)
        assert float(found.columns[column][found.class_names.index(name)]) == float(end)


def number(text: str) -> float:
    """Return the number that a text shows."""
    return float(text.replace("−", "-").replace(",", ""))


def unmarked(name: str) -> str:
    return name.removesuffix(f" {plots.FRAGILE}")


def test_a_number_from_a_wrong_place_differs_from_the_right_one(sides: Sides, diagnosis: Diagnosis) -> None:
    for side in sides[:2]:
        assert len(set(side.indices.tolist())) == len(side)
        assert int(side.indices.min()) >= len(side)
    apart = [
        *("recall_train", "recall_heldout", "recall_ceiling"),
        *("ce_magnitude_ratio", "ce_magnitude_ratio_tp", "ce_magnitude_ratio_fn"),
        *("safe", "border", "rare", "outlier"),
    ]
    for place, one in enumerate(apart):
        assert all(not same(diagnosis[one].tolist(), diagnosis[other].tolist()) for other in apart[:place])
    assert not torch.equal(diagnosis.enemies, diagnosis.enemies.T)
    assert diagnosis["count"].tolist() == TRAIN
    assert diagnosis["count_heldout"].tolist() == HELDOUT


def test_marks_and_names_are_those_of_the_class(told: tuple[Diagnosis, Report]) -> None:
    found, made = told
    seen = 0
    for section in made.sections:
        for chart in section.charts:
            if isinstance(chart.data, plots.Points):
                continue
            fragile = [float(found["fragile"][found.class_names.index(name)]) > 0 for name in chart.data.names]
            if isinstance(chart.data, plots.ByCount | plots.ByCoverage):
                assert chart.data.fragile == tuple(fragile)
            else:
                assert [sign == plots.FRAGILE for sign in chart.data.signs] == fragile
            seen += any(fragile) and not all(fragile)
    assert seen >= 7


def test_charts_against_class_size_show_the_named_measures(told: tuple[Diagnosis, Report]) -> None:
    found, made = told
    charts = [chart for chart in section_of(made, "size").charts if isinstance(chart.data, plots.ByCount)]
    by_unit = {chart.data.percent: chart for chart in charts}
    assert len(charts) == len(by_unit) == 2
    for percent, measure in ((True, "recall_heldout"), (False, "ce_magnitude_gap")):
        chart = by_unit[percent]
        places = [found.class_names.index(name) for name in chart.data.names]
        assert sorted(places) == list(range(len(found.class_names)))
        for drawn, column in (
            (chart.data.count, "count"),
            (chart.data.value, measure),
            (chart.data.low, f"{measure}_low"),
            (chart.data.high, f"{measure}_high"),
        ):
            assert same(drawn, column_of(found.columns, column, places))
        line = found.log_count[measure]
        assert chart.data.line == (line["slope"], line["intercept"])
        assert chart.data.bad == MEASURES[measure].bad
        must_say_the_extremes(chart, found, measure, MEASURES[measure].unit)
        assert MEASURES[measure].title in chart.alt


def test_magnitudes_of_hits_and_of_misses(told: tuple[Diagnosis, Report]) -> None:
    found, made = told
    (chart,) = row_charts(section_of(made, "top-k"), "hits", "all images", "misses")
    wanted = {
        "hits": "ce_magnitude_ratio_tp",
        "all images": "ce_magnitude_ratio",
        "misses": "ce_magnitude_ratio_fn",
    }
    must_draw(chart, found, wanted)
    assert chart.data.reference == 1
    must_say_the_extremes(chart, found, "ce_magnitude_ratio", "ratio")


def test_the_magnitude_of_hits_is_that_of_the_images_that_are_found(built: Report, sides: Sides) -> None:
    train, heldout, head = sides
    (chart,) = row_charts(section_of(built, "top-k"), "hits", "all images", "misses")
    ratios = {one.name: one.values for one in chart.data.series}
    for place, name in enumerate(chart.data.names):
        c = NAMES.index(name)
        seen = train.features[train.labels == c].double().mean(0) * head.weight[c]
        top = seen.topk(5).indices
        hit = heldout.logits.argmax(1) == c
        for kind, chosen in (("hits", hit), ("misses", ~hit)):
            mean = heldout.features[(heldout.labels == c) & chosen].double().mean(0) * head.weight[c]
            assert ratios[kind][place] == pytest.approx(float(mean[top].sum() / seen[top].sum()), rel=1e-4, nan_ok=True)


def test_identity_overlap_is_drawn_with_its_chance_level(told: tuple[Diagnosis, Report]) -> None:
    found, made = told
    (chart,) = row_charts(section_of(made, "top-k"), "")
    must_draw(chart, found, {"": "identity_overlap"})
    assert chart.data.reference == 5 / 16
    must_say_the_extremes(chart, found, "identity_overlap", "share")


def test_profiles_are_of_the_class_and_of_the_side_they_name(told: tuple[Diagnosis, Report]) -> None:
    found, made = told
    recall = found["recall_heldout"].tolist()
    weakest = sorted(range(len(recall)), key=lambda c: (recall[c], c))
    fragile = [c for c in weakest if float(found["fragile"][c]) > 0][: PROFILES - 1]
    charts = section_of(made, "top-k").small
    assert [chart.mark for chart in charts] == [plots.FRAGILE] * len(fragile) + [""]
    places = [found.class_names.index(chart.title) for chart in charts]
    assert places[:-1] == fragile
    assert recall[places[-1]] == max(recall)
    sides = {"training": found.top_k_train, "hits": found.top_k_heldout_tp, "misses": found.top_k_heldout_fn}
    told_apart = 0
    for c, chart in zip(places, charts, strict=True):
        assert list(chart.data.features) == found.top_k_features[c].tolist()
        drawn = {one.name: one.values for one in chart.data.series}
        assert drawn.keys() == {name for name, of in sides.items() if bool(of[c].isfinite().any())}
        assert all(same(values, sides[name][c].tolist()) for name, values in drawn.items())
        sums = {name: wording.formatted(sum(values), "number") for name, values in drawn.items()}
        assert all(f"{name} {text}" in chart.alt for name, text in sums.items())
        assert max(max(values) for values in drawn.values()) <= chart.data.top
        told_apart += len(set(sums.values())) == 3
    assert told_apart > 1


def test_diversity_charts_show_the_named_measures(told: tuple[Diagnosis, Report]) -> None:
    found, made = told
    charts = row_charts(section_of(made, "diversity"), "held-out", "training")
    assert len(charts) == 3
    for chart in charts:
        (kind,) = [
            kind for kind in ("distinct", "vendi", "spread") if MEASURES[f"diversity_{kind}_heldout"].title in chart.alt
        ]
        must_draw(chart, found, {"held-out": f"diversity_{kind}_heldout", "training": f"diversity_{kind}_train"})
        must_say_the_extremes(chart, found, f"diversity_{kind}_heldout", "number")


def test_archetypes_go_from_safe_to_outlier(told: tuple[Diagnosis, Report]) -> None:
    found, made = told
    (chart,) = [chart for chart in section_of(made, "neighbors").charts if isinstance(chart.data, plots.Stacked)]
    assert [name for name, _ in chart.data.parts] == ["safe", "border", "rare", "outlier"]
    places = [found.class_names.index(name) for name in chart.data.names]
    for name, shares in chart.data.parts:
        assert same(shares, column_of(found.columns, name, places))
    assert same([sum(shares) for shares in zip(*(of for _, of in chart.data.parts), strict=True)], [1.0] * len(places))
    must_say_the_extremes(chart, found, "safe", "share")


def test_the_archetype_of_an_image_is_counted_in_its_neighbours(built: Report, sides: Sides) -> None:
    train = sides[0]
    (chart,) = [chart for chart in section_of(built, "neighbors").charts if isinstance(chart.data, plots.Stacked)]
    parts = {name: dict(zip(chart.data.names, shares, strict=True)) for name, shares in chart.data.parts}
    alike = own_neighbours(train)
    for c, name in enumerate(NAMES):
        counted = [alike[row] for row in range(len(train)) if int(train.labels[row]) == c]
        for part, kinds in (("safe", (4, 5)), ("border", (2, 3)), ("rare", (1,)), ("outlier", (0,))):
            share = sum(number in kinds for number in counted) / len(counted)
            assert parts[part][name] == pytest.approx(share, abs=1e-6)


def test_the_head_today_and_refitted(told: tuple[Diagnosis, Report]) -> None:
    found, made = told
    section = section_of(made, "head")
    (norms,) = row_charts(section, "")
    must_draw(norms, found, {"": "head_norm"})
    must_say_the_extremes(norms, found, "head_norm", "number")
    (recalls,) = row_charts(section, "current head", "refitted head")
    must_draw(recalls, found, {"current head": "recall_heldout", "refitted head": "recall_ceiling"})
    must_say_the_extremes(recalls, found, "ceiling_gain", "points")


def test_the_map_shows_each_image_as_what_it_is(built: Report, exhibits: Exhibits, sides: Sides) -> None:
    heldout = sides[1]
    (chart,) = [chart for chart in section_of(built, "neighbors").charts if isinstance(chart.data, plots.Points)]
    shown, placed = chart.data, exhibits.feature_map
    assert placed is not None
    assert shown.x == placed.x
    assert shown.y == placed.y
    labels = [int(heldout.labels[row]) for row in placed.rows]
    assert [bool(one) for one in shown.missed] == [
        int(heldout.logits[row].argmax()) != label for row, label in zip(placed.rows, labels, strict=True)
    ]
    assert 0 < sum(shown.missed) < len(shown.missed)
    groups = [shown.groups[group] if group >= 0 else "" for group in shown.group]
    assert groups == [NAMES[label] if NAMES[label] in shown.groups else "" for label in labels]
    assert set(groups) >= set(shown.groups)


def test_the_map_colours_the_weakest_fragile_classes(built: Report, diagnosis: Diagnosis) -> None:
    (chart,) = [chart for chart in section_of(built, "neighbors").charts if isinstance(chart.data, plots.Points)]
    recall = diagnosis["recall_heldout"].tolist()
    fragile = sorted((c for c in range(10) if float(diagnosis["fragile"][c]) > 0), key=recall.__getitem__)
    assert list(chart.data.groups) == [NAMES[c] for c in fragile[: plots.MAP_GROUPS]]
    assert len(chart.data.groups) > 1


def test_without_a_fragile_class_the_map_colours_the_lowest_recall(diagnosis: Diagnosis, exhibits: Exhibits) -> None:
    none = torch.zeros_like(diagnosis["fragile"])
    found = dataclasses.replace(diagnosis, columns={**diagnosis.columns, "fragile": none}, findings=())
    section = section_of(report_diagnosis.report_of(found, {}, exhibits), "neighbors")
    (chart,) = [chart for chart in section.charts if isinstance(chart.data, plots.Points)]
    recall = diagnosis["recall_heldout"].tolist()
    lowest = sorted(range(10), key=recall.__getitem__)
    assert list(chart.data.groups) == [NAMES[c] for c in lowest if recall[c] < sum(recall) / 10][: plots.MAP_GROUPS]
    assert "No class is fragile" in chart.caption


def test_a_name_on_the_map_stands_on_an_image_of_its_class(built: Report, exhibits: Exhibits) -> None:
    (chart,) = [chart for chart in section_of(built, "neighbors").charts if isinstance(chart.data, plots.Points)]
    placed = exhibits.feature_map
    assert placed is not None
    assert {name for name, _, _ in chart.data.places} == set(NAMES)
    for name, x, y in chart.data.places:
        found = [
            place
            for place in range(len(placed.rows))
            if (placed.x[place], placed.y[place]) == pytest.approx((x, y), abs=1e-4)
        ]
        assert NAMES.index(name) in {placed.labels[place] for place in found}


def grid_of(made: Report, anchor: str) -> Grid:
    (found,) = section_of(made, anchor).grids
    return found


def test_a_feature_is_shaded_by_what_it_gives_the_class(told: tuple[Diagnosis, Report]) -> None:
    found, made = told
    grid = grid_of(made, "top-k")
    strongest = float(found.top_k_train.max())
    shaded = 0
    for name, cells in grid.rows:
        c = found.class_names.index(unmarked(name))
        assert (name != unmarked(name)) == (float(found["fragile"][c]) > 0)
        ranks = {feature: rank for rank, feature in enumerate(found.top_k_features[c].tolist())}
        assert {int(column) for column, cell in zip(grid.columns, cells, strict=True) if cell} == set(ranks)
        for column, cell in zip(grid.columns, cells, strict=True):
            if cell is None:
                continue
            rank = ranks[int(column)]
            assert cell.value == pytest.approx(max(0.06, float(found.top_k_train[c, rank]) / strongest))
            said = cell.title.removeprefix(f"{unmarked(name)}, feature {column}: ")
            assert said != cell.title
            assert re.findall(rf"[<>]?{DECIMAL}%?", said) == [
                wording.formatted(float(found.top_k_train[c, rank]), "logits"),
                wording.formatted(float(found.top_k_heldout[c, rank]), "logits"),
                wording.formatted(float(found.top_k_frequency[c, rank]), "share"),
            ]
            shaded += 1
    assert shaded == 5 * len(grid.rows) > 0


def test_the_enemy_map_has_errors_as_rows_and_enemies_as_columns(told: tuple[Diagnosis, Report]) -> None:
    found, made = told
    grid = grid_of(made, "neighbors")
    for name, cells in grid.rows:
        c = found.class_names.index(unmarked(name))
        assert (name != unmarked(name)) == (float(found["fragile"][c]) > 0)
        for column, cell in zip(grid.columns, cells, strict=True):
            enemy = found.class_names.index(column)
            assert (cell is None) == (c == enemy)
            if cell is None:
                continue
            share = float(found.enemies[c, enemy])
            assert cell.value == share
            assert wording.share(share) in cell.title
            assert f"{found.class_names[c]}'s errors" in cell.title
            assert column in cell.title
            if cell.text:
                assert number(cell.text) == pytest.approx(100 * share, abs=0.51)
    assert {found.class_names.index(unmarked(name)) for name, _ in grid.rows} <= {
        c for c in range(len(found.class_names)) if float(found.enemies[c].nan_to_num(0).sum()) > 0
    }


def test_enemies_are_counted_around_the_errors_of_the_row(built: Report, sides: Sides) -> None:
    train, heldout, _ = sides
    grid = grid_of(built, "neighbors")
    distances = torch.cdist(heldout.features.double(), train.features.double())
    for name, cells in grid.rows:
        c = NAMES.index(unmarked(name))
        wrong = ((heldout.labels == c) & (heldout.logits.argmax(1) != c)).nonzero()[:, 0]
        near = train.labels[distances[wrong].argsort(dim=1)[:, :10]].flatten().tolist()
        others = [label for label in near if label != c]
        for column, cell in zip(grid.columns, cells, strict=True):
            if cell is not None:
                share = others.count(NAMES.index(column)) / len(others)
                assert cell.value == pytest.approx(share, abs=1e-6)


SUMMARIES = {
    "top-k": {
        "magnitude ratio": "ce_magnitude_ratio",
        "hits": "ce_magnitude_ratio_tp",
        "misses": "ce_magnitude_ratio_fn",
        "identity overlap": "identity_overlap",
    },
    "diversity": {
        "distinct, training": "diversity_distinct_train",
        "distinct, held-out": "diversity_distinct_heldout",
        "Vendi, held-out": "diversity_vendi_heldout",
        "Vendi, training": "diversity_vendi_train",
        "effective rank, held-out": "diversity_effective_rank_heldout",
        "spread, held-out": "diversity_spread_heldout",
    },
    "neighbors": {kind: kind for kind in ("safe", "border", "rare", "outlier")},
    "head": {
        "head norm": "head_norm",
        "recall, current head": "recall_heldout",
        "recall, refitted head": "recall_ceiling",
    },
}


def must_say(table: Table, found: Diagnosis | ModelComparison, wanted: dict[str, str], units: dict[str, str]) -> None:
    """Check that the cells under each heading hold the wanted column, class by class."""
    places = {heading.title: place - 1 for place, heading in enumerate(table.headings)}
    for row in table.rows:
        c = found.class_names.index(row.name)
        for heading, column in wanted.items():
            value = float(found.columns[column][c])
            assert row.cells[places[heading]].value == wording.formatted(value, units[column]), (row.name, heading)


def test_tables_show_the_measures_of_their_headings(told: tuple[Diagnosis, Report]) -> None:
    found, made = told
    units = {name: measure.unit for name, measure in MEASURES.items()}
    for anchor, wanted in SUMMARIES.items():
        table = section_of(made, anchor).summary
        assert table is not None
        must_say(table, found, wanted, units)
    wanted = {heading: column for column, heading in report_diagnosis.CLASS_COLUMNS.items()}
    must_say(made.table, found, wanted, {**units, "ceiling_gain": "points"})


def own_neighbours(side: Embeddings) -> list[int]:
    """Return per row how many of the 5 nearest other rows have its label."""
    distances = torch.cdist(side.features.double(), side.features.double()).fill_diagonal_(torch.inf)
    near = side.labels[distances.argsort(dim=1)[:, :5]]
    return (near == side.labels[:, None]).sum(1).tolist()


def kinds_of(one: ClassExamples) -> dict[str, tuple]:
    return {"typical": one.typical, "border": one.border, "outlier": one.outlier}


def test_training_images_are_shown_in_the_stated_order(exhibits: Exhibits, sides: Sides) -> None:
    train = sides[0]
    alike = own_neighbours(train)
    tried = dict.fromkeys(("typical", "border", "outlier"), 0)
    for one in exhibits.examples:
        rows = [row for row in range(len(train)) if int(train.labels[row]) == one.class_index]
        mean = sum(train.features[row].double() for row in rows) / len(rows)
        distance = {row: float((train.features[row].double() - mean).norm()) for row in rows}
        margin = {
            row: float(train.logits[row, one.class_index])
            - max(float(value) for c, value in enumerate(train.logits[row]) if c != one.class_index)
            for row in rows
        }
        wanted = {
            "typical": sorted(rows, key=lambda row, of=distance: of[row]),
            "border": sorted((row for row in rows if alike[row] in (2, 3)), key=lambda row, of=margin: of[row]),
            "outlier": sorted((row for row in rows if alike[row] == 0), key=lambda row, of=distance: -of[row]),
        }
        for kind, found in kinds_of(one).items():
            assert [each.row for each in found] == wanted[kind][:EACH], kind
            assert [each.margin for each in found] == pytest.approx([margin[each.row] for each in found], abs=1e-4)
            tried[kind] += len(wanted[kind]) > EACH
    assert all(tried.values())  # of each kind there was something to choose and to order


def test_an_image_is_known_by_its_index_in_its_data_set(exhibits: Exhibits, sides: Sides) -> None:
    train, heldout, _ = sides
    for one in exhibits.examples:
        for found, side in (*((each, train) for each in kinds_of(one).values()), (one.errors, heldout)):
            for each in found:
                assert each.index == int(side.indices[each.row])
                assert int(side.labels[each.row]) == one.class_index
                assert each.predicted == int(side.logits[each.row].argmax())


def row_of(picture: Picture, side: Embeddings, split: str) -> int:
    """Return the row of the image that a picture names."""
    said = re.search(rf"\b{split} (\d+)\b", picture.alt)
    assert said is not None
    return side.indices.tolist().index(int(said.group(1)))


def test_pictures_name_their_image_and_its_predicted_class(built: Report, exhibits: Exhibits, sides: Sides) -> None:
    train, heldout, head = sides
    galleries = section_of(built, "images").galleries
    assert [gallery.title for gallery in galleries] == [NAMES[one.class_index] for one in exhibits.examples]
    mistaken = 0
    for gallery in galleries:
        c = NAMES.index(gallery.title)
        *seen, errors = gallery.albums
        for picture in (picture for album in seen for picture in album.pictures):
            row = row_of(picture, train, "train")
            assert picture.alt.startswith(gallery.title)
            assert int(train.labels[row]) == c
            predicted = int(train.logits[row].argmax())
            mentioned = {name for name in NAMES if re.search(rf"\b{name}\b", picture.alt)}
            assert mentioned == {NAMES[c], NAMES[predicted]}
            mistaken += predicted != c
        for picture in errors.pictures:
            row = row_of(picture, heldout, "held-out")
            assert picture.alt.startswith(gallery.title)
            assert int(heldout.labels[row]) == c
            predicted = int(heldout.logits[row].argmax())
            assert f"predicted as {NAMES[predicted]}" in picture.alt
            assert NAMES[predicted] in picture.caption
            lead = float(heldout.logits[row, predicted] - heldout.logits[row, c])
            said = re.search(rf"by ({DECIMAL}) logits", picture.alt)
            assert said is not None
            assert lead > 0
            assert number(said.group(1)) == pytest.approx(lead, abs=0.006)
            pulls = [re.match(rf"feature (\d+) ({DECIMAL})", detail) for detail in picture.details]
            for feature, logits in (pull.groups() for pull in pulls if pull):
                part = heldout.features[row] * (head.weight[predicted] - head.weight[c])
                assert number(logits) == pytest.approx(float(part[int(feature)]), abs=0.051)
    assert mistaken > 0


def test_galleries_count_what_they_show(built: Report, exhibits: Exhibits, sides: Sides) -> None:
    heldout = sides[1]
    galleries = section_of(built, "images").galleries
    for gallery, one in zip(galleries, exhibits.examples, strict=True):
        c = NAMES.index(gallery.title)
        wrong = int(((heldout.labels == c) & (heldout.logits.argmax(1) != c)).sum())
        found = wording.formatted(1 - wrong / HELDOUT[c], "share")
        assert [number(text) for text in re.findall(rf"{DECIMAL}", gallery.text.replace("%", ""))] == [
            *(TRAIN[c], number(found.removesuffix("%"))),
            HELDOUT[c],
        ]
        typical, border, outliers, errors = gallery.albums
        assert len(errors.pictures) == len(one.errors)
        assert re.match(DECIMAL, errors.note).group() == str(wrong)
        for album, images in ((border, one.borders), (outliers, one.outliers)):
            assert len(album.pictures) == min(EACH, images)
            assert images == 0 or f"{images} image" in album.note
        assert len(typical.pictures) == min(EACH, TRAIN[c])


@pytest.fixture(scope="module")
def models(sides: Sides) -> tuple[Model, Model]:
    train, heldout, head = sides
    tilt = draws.uniform("tilt", torch.arange(160)).view(10, 16)
    other = LinearHead(weight=0.5 * head.weight + 0.8 * (tilt - tilt.mean(0)), bias=0.5 * head.bias)
    keep = torch.arange(16) // 2 * 2  # the second network knows half of the features
    seconds = [
        dataclasses.replace(side, features=side.features[:, keep], logits=other.logits(side.features[:, keep]))
        for side in (train, heldout)
    ]
    return (
        Model(name="one", train=train, heldout=heldout, head=head),
        Model(name="two", train=seconds[0], heldout=seconds[1], head=other),
    )


@pytest.fixture(scope="module")
def comparison(models: tuple[Model, Model]) -> ModelComparison:
    return compare_models(*models, class_names=NAMES, shared_start=True, top_k=5)


def test_each_network_is_drawn_as_itself(comparison: ModelComparison) -> None:
    made = comparison_report_of(comparison, {})
    for anchor, column in (("recall", "recall"), ("top-k", "needed"), ("diversity", "diversity_vendi")):
        assert not same(comparison.columns[f"{column}_first"].tolist(), comparison.columns[f"{column}_second"].tolist())
        (chart,) = row_charts(section_of(made, anchor), "first", "second")
        must_draw(chart, comparison, {"first": f"{column}_first", "second": f"{column}_second"})
        assert [one.name for one in chart.data.series] == ["first", "second"]


def test_differences_between_two_networks_are_drawn_with_a_line_at_no_difference(comparison: ModelComparison) -> None:
    made = comparison_report_of(comparison, {})
    (difference,) = row_charts(section_of(made, "recall"), "")
    must_draw(difference, comparison, {"": "recall_difference"})
    assert difference.data.reference == 0
    by_reference = {chart.data.reference: chart for chart in row_charts(section_of(made, "top-k"), "")}
    assert by_reference.keys() == {1.0, 5 / 16}
    must_draw(by_reference[1.0], comparison, {"": "magnitude_ratio"})
    must_draw(by_reference[5 / 16], comparison, {"": "identity_overlap"})


def test_recalls_of_two_networks_are_counted_in_their_own_predictions(
    comparison: ModelComparison, models: tuple[Model, Model]
) -> None:
    made = comparison_report_of(comparison, {})
    (both,) = row_charts(section_of(made, "recall"), "first", "second")
    (difference,) = row_charts(section_of(made, "recall"), "")
    counted = [
        [float((model.heldout.logits.argmax(1) == c)[model.heldout.labels == c].double().mean()) for c in range(10)]
        for model in models
    ]
    for one, recall in zip(both.data.series, counted, strict=True):
        assert same(one.values, [recall[NAMES.index(name)] for name in both.data.names])
    gained = [counted[1][NAMES.index(name)] - counted[0][NAMES.index(name)] for name in difference.data.names]
    assert same(difference.data.series[0].values, gained)
    assert gained == sorted(gained)
    low, high = (comparison.columns[f"recall_difference_{end}"] for end in ("low", "high"))
    surely = {name: ("▲" if low[c] > 0 else "▼" if high[c] < 0 else "") for c, name in enumerate(NAMES)}
    for chart in (both, difference):
        assert dict(zip(chart.data.names, chart.data.signs, strict=True)) == surely
    assert {row.name: row.mark[:1] for row in made.table.rows} == surely
    assert "▼" in surely.values()


def test_the_table_of_two_networks_shows_the_columns_of_its_headings(comparison: ModelComparison) -> None:
    forecast = {
        f"forecast_difference{end}": comparison.columns[f"recall_difference{end}"] for end in ("", "_low", "_high")
    }
    comparison = dataclasses.replace(comparison, columns={**comparison.columns, **forecast})
    table = comparison_report_of(comparison, {}).table
    wanted = {heading: column for column, (heading, _, _) in COMPARISON_COLUMNS.items()}
    must_say(table, comparison, wanted, {column: unit for column, (_, _, unit) in COMPARISON_COLUMNS.items()})
