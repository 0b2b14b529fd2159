"""Which images to label next, method against method: `benchmarks.collect`."""

import dataclasses

import pytest
import torch

from benchmarks import collect as bench
from diversify.data.images import ImageArray
from diversify.files import atomic
from diversify.functional import counts, draws
from diversify.network.synthetic import make_embeddings


@pytest.fixture
def bank() -> bench.Bank:
    train, heldout, head = make_embeddings((60, 30, 10))
    pool, _, _ = make_embeddings((40, 40, 40), seed=0)
    return bench.Bank(
        setting="tail",
        assignment=14,
        weak=(1, 2),
        head=head,
        train=train,
        heldout=heldout,
        pool=dataclasses.replace(pool, logits=head.logits(pool.features)),
        test=heldout,
    )


def test_every_method_is_judged_at_every_budget(bank, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "BUDGETS", (2, 5))
    monkeypatch.setattr(bench, "COMPARED", ("random", "margin", "coverage"))
    monkeypatch.setattr(bench, "DRAWN", {"random": 2})
    monkeypatch.setattr(bench, "ROUNDS", 5)
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "records.jsonl")
    assert bench.table("tail", "confirmation") == "No records yet."
    records = list(bench.run(bank, set()))
    made = {(one["method"], one["budget"], one["method_seed"]) for one in records}
    assert len(made) == len(records) == 1 + 2 * (2 + 1 + 1)
    assert {"versions", "commit", "device", "started"} <= set(records[0])
    assert all(sum(one["labelled"]) == one["budget"] for one in records)
    assert list(bench.run(bank, made)) == []
    atomic.write_jsonl(bench.RESULTS, records)
    lines = bench.table("tail", "confirmation").splitlines()
    gain = {(one["method"], one["budget"]): 100 * one["balanced_accuracy"] for one in records}
    assert (
        lines[3] == "| `margin` | " + " | ".join(f"{gain['margin', k] - gain['none', 0]:+.1f}" for k in (2, 5)) + " |"
    )
    assert lines[4].startswith("| **`coverage`** |")
    assert bench.table("tail", "development") == "No records yet."


def test_new_rows_of_a_class_count_for_more_the_more_there_are(bank) -> None:
    """Rows that all lie in one place move the head toward themselves."""
    start = bench.refitted(bank.head, bank.train)
    place = bank.pool.select(torch.zeros(40, dtype=torch.int64))
    place = dataclasses.replace(place, labels=torch.full((40,), 2))
    chance = [
        float(
            bench.refitted(start, bank.train, place.select(torch.arange(k))).logits(place.features[:1]).softmax(1)[0, 2]
        )
        for k in (1, 10, 40)
    ]
    assert chance == sorted(chance)


@pytest.mark.parametrize("setting", bench.SETTINGS)
def test_training_heldout_and_pool_images_are_different_ones(setting, monkeypatch) -> None:
    monkeypatch.setattr(bench, "SETTINGS", {"narrow": ("exp:1:20", "neighbours:3"), "tail": ("exp:10:30", "none")})
    monkeypatch.setattr(bench, "HELDOUT", 5)
    monkeypatch.setattr(bench, "POOL", 100)
    labels = torch.arange(600) % 10
    images = (draws.uniform("collect test", torch.arange(600 * 16).view(600, 1, 4, 4)) * 255).to(torch.uint8)
    rows, weak = bench.rows_of(setting, 1, ImageArray(images, labels), labels)
    every = torch.cat(list(rows.values()))
    assert len(every.unique()) == len(every)
    assert len(rows["pool"]) == 100
    assert counts.class_counts(labels[rows["heldout"]], 10).tolist() == [5] * 10
    assert len(weak) == 5
    if setting == "tail":
        sizes = counts.class_counts(labels[rows["train"]], 10)
        assert int(sizes[weak].max()) <= int(sizes[[c for c in range(10) if c not in weak.tolist()]].min())


def test_halves_share_no_assignment(bank) -> None:
    halves = [dataclasses.replace(bank, assignment=k).half for k in range(bench.ASSIGNMENTS)]
    assert halves == ["development"] * 12 + ["confirmation"] * 9
    assert not set(bench.RETRAINED) & set(range(bench.DEVELOPMENT))


def test_networks_trained_anew_see_the_new_images(monkeypatch) -> None:
    """The images of the only class that training lacks are in the pool: with them, the class is recognised."""
    labels = torch.arange(200) % 10
    images = torch.zeros(200, 1, 8, 8, dtype=torch.uint8)
    images[torch.arange(200), 0, labels % 8, labels // 8] = 255
    source = bench.InMemory(
        train=ImageArray(images, labels),
        labels=labels,
        test=bench.ResidentImages(images=images, labels=labels),
        centre=torch.zeros(1, 1, 1),
        spread=torch.ones(1, 1, 1),
    )
    lacking = torch.cat([(labels == c).nonzero()[:8, 0] for c in range(9)])
    rows = {"train": lacking, "pool": (labels == 9).nonzero()[:, 0]}
    monkeypatch.setattr(bench, "rows_of", lambda *_: (rows, torch.tensor([9])))
    bank = _bank_of(source, rows)
    without, with_all = (bench.retrained(bank, source, torch.arange(k))["recall"][9] for k in (0, 20))
    assert without == 0
    assert with_all == 1


def _bank_of(source, rows) -> bench.Bank:
    split = bench.train_network(source, source.side(rows["train"]), 0)
    head = bench.read_head(split.head)
    side = source.side(rows["train"])
    train = bench.Embeddings.from_arrays(bench.read_by_head(source, split, side), side.labels, head=head)
    return bench.Bank(
        setting="tail", assignment=3, weak=(9,), head=head, train=train, heldout=train, pool=train, test=train
    )


def test_labels_to_reach_a_gain_lie_on_the_lines_between_mean_gains() -> None:
    budgets, curve = (20, 50, 100), (2.0, 1.0, 4.0)  # the second counts as 2
    assert [bench.labels_to_reach(gain, budgets, curve) for gain in (-1.0, 1.0, 2.0, 3.0, 4.0)] == [0, 10, 20, 75, 100]
    assert bench.labels_to_reach(4.1, budgets, curve) == float("inf")


def test_the_table_of_labels_compares_the_default_with_the_others(monkeypatch, tmp_path) -> None:
    """Random images gain a point with 20 labels, the default two: random needs 40, were its gains to go on along a line."""
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "records.jsonl")
    assert bench.labels_table() == "No records yet."
    steps = {"none": {0: 0}, bench.DEFAULT: dict.fromkeys(bench.BUDGETS, 2), "margin": dict.fromkeys(bench.BUDGETS, 1)}
    steps["random"] = {k: k / 20 for k in bench.BUDGETS}
    lines = [
        {"setting": setting, "assignment": k, "method": method, "budget": budget, "half": "confirmation"}
        | {"balanced_accuracy": 0.5 + gain / 100, "recall_weak": 0.5 + gain / 100}
        for setting in bench.SETTINGS
        for k in (12, 13)
        for method, own in steps.items()
        for budget, gain in own.items()
    ]
    atomic.write_jsonl(bench.RESULTS, lines)
    rows = bench.labels_table().splitlines()[2:]
    assert len(rows) == 4 * (len(bench.BUDGETS) - 1)
    assert rows[0].endswith("| 20 | 40 (40 to 40) | more than 200 (more than 200 to more than 200) |")
    atomic.write_jsonl(bench.RESULTS, lines[:1])
    assert bench.labels_table() == "No records yet."
