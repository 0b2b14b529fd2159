"""The analysis of size and diversity finds what made-up records hold, and a run's record has what the analysis reads."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import diversity, diversity_analysis, diversity_page
from diversify.files import atomic
from diversify.functional import draws

CLASSES = 10


def made_record(assignment, sizes, form, recall_of, measures_of=lambda n, narrow: {}, *, assignments=8):
    """A record whose recall is a function of (n, narrow, class); class sizes and narrow classes are permuted."""
    rank = draws.permutation(CLASSES, "test sizes", assignment).tolist()
    order = draws.permutation(CLASSES, "test narrow", assignment).tolist()
    count = [300 if sizes == "equal" else 600 // (1 + rank[c]) for c in range(CLASSES)]
    narrow = [form != "none" and order[c] < 5 for c in range(CLASSES)]
    recall = [recall_of(n, thin, c) for n, thin, c in zip(count, narrow, range(CLASSES), strict=True)]
    columns = {"count": count, "recall_test": recall, "recall_like": recall, "recall_wide": recall}
    measures = [measures_of(n, thin) for n, thin in zip(count, narrow, strict=True)]
    return {
        "design": {"data": "digits"},
        "sizes": sizes,
        "diversity": form,
        "assignment": assignment,
        "half": diversity.HALVES[assignment * 2 // assignments],
        "narrow": narrow,
        "classes": columns,
        "measures": {name: [one[name] for one in measures] for name in measures[0]},
    }


def made_table(recall_of, measures_of=lambda n, narrow: {}, sizes=("equal", "independent")):
    records = [made_record(a, each, "bursts:10", recall_of, measures_of) for a in range(8) for each in sizes]
    return diversity_analysis.table_of(records)


def noise(n, narrow, c=0):
    return float(draws.uniform("test noise", torch.tensor([int(n) * 2 + narrow]), c)[0])


def test_size_alone_and_diversity_alone_are_told_apart():
    size = diversity_analysis.shares_explained(made_table(lambda n, narrow, c: 0.1 * math.log(n) + 0.03 * c))
    assert size["size"].value == pytest.approx(1)
    assert size["diversity beyond size"].value == pytest.approx(0, abs=1e-9)
    assert size["size beyond diversity"].low > 0.5
    thin = diversity_analysis.shares_explained(made_table(lambda n, narrow, c: 0.9 - 0.5 * narrow + 0.01 * c))
    assert thin["diversity"].value == pytest.approx(1)
    assert thin["size beyond diversity"].value == pytest.approx(0, abs=1e-9)
    both = diversity_analysis.shares_explained(made_table(lambda n, narrow, c: 0.1 * math.log(n) - 0.3 * narrow))
    assert both["both"].value == pytest.approx(1)
    assert both["size"].value < 0.7


def test_shares_are_those_of_a_regression_by_hand():
    table = made_table(lambda n, narrow, c: 0.08 * math.log(n) - 0.2 * narrow + 0.3 * noise(n, narrow, c))
    identity = np.eye(CLASSES)[table.label]
    recall = table.columns["recall_test"]

    def left(*columns):
        matrix = np.column_stack([identity, *columns])
        return float(np.square(recall - matrix @ np.linalg.lstsq(matrix, recall, rcond=None)[0]).sum())

    share = diversity_analysis.shares_explained(table)
    assert share["size"].value == pytest.approx(1 - left(table.log_n) / left())
    assert share["diversity"].value == pytest.approx(1 - left(table.narrow) / left())
    assert share["both"].low < share["both"].value < share["both"].high


@pytest.mark.parametrize("worth", [1.0, 4.0, 20.0])
def test_the_exchange_rate_is_the_factor_by_which_a_narrow_class_would_have_to_grow(worth):
    def recall(n, narrow, c):
        effective = n / worth if narrow else n
        return 1 / (1 + math.exp(-(0.8 * math.log(effective) - 3 + 0.1 * c)))

    table = made_table(recall, sizes=("independent",))
    assert diversity_analysis.exchange_rate(table, "bursts:10").value == pytest.approx(worth, rel=1e-6)


def test_no_number_of_narrow_images_is_worth_a_diverse_one_where_more_of_them_do_not_help():
    table = made_table(lambda n, narrow, c: 0.3 - 0.01 * math.log(n) if narrow else 0.7, sizes=("independent",))
    assert diversity_analysis.exchange_rate(table, "bursts:10").value == math.inf


def test_a_measure_is_judged_beyond_size_and_by_how_it_tells_narrow_classes():
    def recall(n, narrow, c):
        return 0.1 * math.log(n) - 0.3 * narrow + 0.001 * c

    def measures(n, narrow):
        return {
            "pixels_vendi": 5.0 - narrow + 0.01 * noise(n, narrow),
            "pixels_cosine": 0.2 + 0.1 * narrow,
            "latent_vendi": math.log(n),
            "latent_hill": 3.0,
            "early_vendi": None if n < 100 else 5.0 - narrow,
        }

    table = made_table(recall, measures)
    assert diversity_analysis.narrow_auc(table, "pixels_vendi").value == 1
    assert diversity_analysis.narrow_auc(table, "pixels_cosine").value == 0
    assert diversity_analysis.narrow_auc(table, "latent_hill").value == 0.5
    assert diversity_analysis.narrow_auc(table, "early_vendi").value == 1
    assert diversity_analysis.rank_correlation(table, "pixels_cosine").value < -0.7
    assert diversity_analysis.rank_correlation(table, "pixels_cosine", ("size", "diversity")).shown() == "–"
    assert diversity_analysis.rank_correlation(table, "latent_vendi", ()).value > 0.2
    assert math.isnan(diversity_analysis.rank_correlation(table, "latent_vendi").value)  # it is log n itself
    assert math.isnan(diversity_analysis.rank_correlation(table, "latent_hill").value)
    names = [one.name for one in diversity_analysis.judged((table,))]
    assert set(names[:3]) == {"pixels_vendi", "pixels_cosine", "early_vendi"}
    development, confirmation = diversity_analysis.halves(table)
    assert set(development.assignment) == {0, 1, 2, 3}
    assert set(confirmation.assignment) == {4, 5, 6, 7}


def test_a_rank_correlation_within_runs_is_that_of_scipy_where_there_is_one_run():
    from scipy.stats import spearmanr

    table = made_table(
        lambda n, narrow, c: noise(n, narrow, c), lambda n, narrow: {"pixels_vendi": noise(n + 1, narrow)}
    )
    one = table.where(table.run == 3)
    found = diversity_analysis.rank_correlation(one, "pixels_vendi", ()).value
    assert found == pytest.approx(spearmanr(one.columns["pixels_vendi"], one.columns["recall_test"]).statistic)


def test_intervals_draw_whole_assignments():
    constant = diversity_analysis.narrow_auc(
        made_table(lambda n, narrow, c: 0.5, lambda n, narrow: {"pixels_vendi": -narrow}), "pixels_vendi"
    )
    assert (constant.low, constant.high) == (1, 1)
    weights = diversity_analysis.weights_of(4)
    assert (weights.sum(1) == 4).all()
    assert weights[0].tolist() == [1, 1, 1, 1]
    assert math.isnan(diversity_analysis.estimate_of(np.ones(5), 1).low)


def test_the_finding_is_judged_against_what_was_made_narrow(monkeypatch, tmp_path):
    """Four of five narrow classes have little coverage, and one wide class in half of the runs; with 5 images, two have."""

    def record(a, form):
        one = made_record(a, "equal", form, lambda n, narrow, c: 0.8 - 0.3 * narrow)
        narrow = [c for c in range(CLASSES) if one["narrow"][c]]
        wide = [c for c in range(CLASSES) if not one["narrow"][c]]
        named = {*narrow[:4], *(wide[:1] if a % 2 and form != "none" else [])}
        one["trouble"] = {"wide": [["narrow"] if c in named else [] for c in range(CLASSES)], "like": [[]] * CLASSES}

        def covered(few):
            value = [0.1 if c in few else 0.5 for c in range(CLASSES)]
            return {"": value, "low": [v - 0.05 for v in value], "high": [v + 0.05 for v in value]}

        ends = covered(narrow[:2])
        one["coverage"] = {"wide": covered(named), "like": covered(()), "5": ends, "10": ends, "20": ends}
        one["design"] = {"data": "fashion-mnist", "holdout": 0.2}
        return one

    filled(monkeypatch, tmp_path, [record(a, form) for a in range(8) for form in ("bursts:10", "none")])
    tables = {name: make() for name, make in diversity_page.TABLES.items() if name in FOUND}
    line = tables["diversity_findings"].splitlines()[2]
    assert line.startswith("| fashion-mnist, development | 75 | 89% (")  # 16 of 18
    assert " | 80% (80% to 80%) | 0.0% (" in line
    assert line.endswith("| 0.0% (0.0% to 0.0%) |")
    assert "| fashion-mnist | 100% (100% to 100%), 40% (40% to 40%) |" in tables["diversity_few"]
    assert "| fashion-mnist | narrow | 80% (80% to 80%) | 80% (80% to 80%) | 3% (" in tables["diversity_troubles"]


FOUND = ("diversity_findings", "diversity_few", "diversity_troubles")


def filled(monkeypatch, folder, listed):
    monkeypatch.setattr(diversity, "RESULTS", folder)
    monkeypatch.setattr(diversity_page, "DOCS", folder)
    for record in listed:
        atomic.append_jsonl(diversity.path_of(record["design"]["data"]), record)


def test_without_records_every_table_says_so(monkeypatch, tmp_path):
    filled(monkeypatch, tmp_path, [])
    assert {make() for make in diversity_page.TABLES.values()} == {diversity_page.NO_RECORDS}
    assert diversity_page.draw_figures(tmp_path) == []


def test_the_page_is_made_from_records_alone_and_is_the_same_every_time(monkeypatch, tmp_path):
    def record(a, sizes, form):
        one = made_record(
            a,
            sizes,
            form,
            lambda n, narrow, c: 0.1 * math.log(n) - 0.3 * narrow,
            lambda n, narrow: {"pixels_vendi": 5.0 - narrow, "top_k_share": None},
            assignments=4,
        )
        ratio = [0.6 if narrow else 0.9 for narrow in one["narrow"]]
        one["classes"] |= {"ratio_wide": ratio, "ratio_like": [0.95] * CLASSES}
        return one

    filled(
        monkeypatch,
        tmp_path,
        [
            record(a, sizes, form)
            for a in range(4)
            for sizes in ("equal", "independent")
            for form in ("bursts:10", "none")
        ],
    )
    monkeypatch.setattr(diversity_analysis, "BOOTSTRAPS", 100)
    drawn = diversity_page.draw_figures(tmp_path)
    assert [path.name for path in drawn] == list(diversity_page.FIGURES.values())
    before = [path.read_bytes() for path in drawn]
    assert [path.read_bytes() for path in diversity_page.draw_figures(tmp_path)] == before
    tables = {name: make() for name, make in diversity_page.TABLES.items()}
    assert "**Vendi score, pixels**" in tables["diversity_text"]
    assert "| digits, sizes independent |" in tables["diversity_size"]
    assert "| digits | bursts:10 |" in tables["diversity_exchange"]
    assert "none" not in tables["diversity_exchange"]
    assert "| Vendi score, pixels | 1.00, 1.00" in tables["diversity_measures"]
    assert "| top k share | –, – |" in tables["diversity_measures"]
    assert "| top k share | –, – |" in tables["diversity_correlations"]
    assert "0.60, 0.90" in tables["diversity_ratio"]
    assert tables["diversity_size"].startswith("![")


def test_measures_at_matched_n_are_those_written_by_hand():
    features = draws.normal("test features", torch.arange(2 * 12)[:, None], torch.arange(6))
    features[12:] *= 0.1
    labels = torch.arange(2).repeat_interleave(12)
    found = diversity.measures_of(features, labels, 3, n=12)
    spread = features[:12].double() - features[:12].double().mean(0)
    eigenvalues = torch.linalg.eigvalsh(spread.T @ spread)
    assert float(found["participation"][0]) == pytest.approx(float(eigenvalues.sum() ** 2 / eigenvalues.square().sum()))
    distance = torch.cdist(features[:12].double(), features[:12].double())
    assert float(found["distance"][0]) == pytest.approx(float(distance.sum() / (12 * 11)), rel=1e-5)
    nearest = (distance + 100 * torch.eye(12)).amin(1).mean()
    assert float(found["nearest"][0]) == pytest.approx(float(nearest), rel=1e-5)
    assert float(found["distance"][1]) < 0.2 * float(found["distance"][0])
    assert all(math.isnan(float(values[2])) for values in found.values())


@pytest.mark.slow
def test_a_run_leaves_a_record_with_all_that_the_analysis_reads(monkeypatch, tmp_path):
    cells = (("with", "bursts:10"), ("equal", "none"))
    design = diversity.Design(
        data="digits", equal="exp:1:20", unequal="exp:2:20", cells=cells, epochs=1, widths=(4, 6, 12), matched=8
    )
    path = tmp_path / "diversity_digits.jsonl"
    records = list(diversity.run(design, assignments=2, path=path))
    assert [(one["sizes"], one["half"]) for one in records] == [
        ("with", "development"),
        ("equal", "development"),
        ("with", "confirmation"),
        ("equal", "confirmation"),
    ]
    assert list(diversity.run(design, assignments=2, path=path)) == []  # nothing is left to do
    first = records[0]
    assert atomic.read_jsonl(path)[0] == json.loads(json.dumps(first))
    assert {"kind", "versions", "commit", "device", "started"} <= set(first)
    counted, narrow = np.array(first["classes"]["count"]), np.array(first["narrow"])
    assert counted[narrow].max() <= counted[~narrow].min()  # the smallest classes are narrow
    distinct = np.array(first["classes"]["distinct"])
    assert (distinct[~narrow] == counted[~narrow]).all()
    assert (distinct[narrow] <= 2).all()
    assert not any(records[1]["narrow"])
    assert records[1]["classes"]["recall_like"] == records[1]["classes"]["recall_wide"]
    measures = {f"{space}_{kind}" for space in diversity.SPACES for kind in diversity.KINDS}
    assert measures | {"top_k_share", "head_norm"} <= set(first["measures"])
    assert {"wide", "like", "5", "10", "20"} == set(first["coverage"])
    assert [len(first["trouble"][side]) for side in ("wide", "like")] == [10, 10]
    assert records[1]["coverage"]["wide"] == records[1]["coverage"]["like"]
    table = diversity_analysis.table_of(records)
    assert {"coverage_wide", "narrow wide", "narrow 5", "small like"} <= set(table.columns)
    assert set(table.form.tolist()) == {"wide", "bursts:10"}
    assert len(table) == 40


def test_the_network_has_no_global_randomness():
    class _Data:
        train = type("Train", (), {"dataset": [(torch.zeros(1, 8, 8), 0)]})
        num_classes = 10

    state = torch.random.get_rng_state()
    one, two = (diversity.built(diversity.DESIGNS["digits"], _Data, 3) for _ in range(2))
    assert all((a == b).all() for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert (torch.random.get_rng_state() == state).all()
    assert isinstance(one, nn.Module)
