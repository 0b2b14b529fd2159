"""Forecasts of recall with more labels against what came out: `benchmarks.learning_curve`."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import learning_curve as bench
from diversify.errors import InputError
from diversify.files import atomic
from diversify.network.synthetic import make_embeddings


@pytest.fixture
def bank() -> bench.Bank:
    train, both, head = make_embeddings((60, 30, 8), heldout=60, num_features=6, spread=1.0)
    unseen = torch.arange(len(both)) % 60 < 30
    return bench.Bank(
        setting="cifar10",
        order=7,
        half=bench.half_of("cifar10", 7),
        weak=(2, 1),
        head=head,
        train=train,
        unseen=both.select(unseen),
        test=both.select(~unseen),
    )


def test_each_network_belongs_to_one_half() -> None:
    assert [bench.half_of("cifar10", order) for order in (3, 4)] == list(bench.HALVES)
    assert [bench.half_of(bench.NARROW, order) for order in (2, 3)] == list(bench.HALVES)


def test_no_image_is_both_forecast_from_and_added() -> None:
    labels = torch.tensor([1, 0, 0, 1, 1, 0, 1])
    first, rest = bench.parts_of(labels, 2)
    assert sorted(first.tolist()) == [0, 1, 2, 3]
    assert sorted(rest.tolist()) == [4, 5, 6]


def test_every_forecast_stands_beside_what_came_out(
    bank: bench.Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "HELDOUT", (12,))
    monkeypatch.setattr(bench, "MORE", (5, 15))
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "records.jsonl")
    assert bench.table() == bench.setting_table() == bench.text() == "No records yet."
    (record,) = bench.run(bank, set())
    assert list(bench.run(bank, {12})) == []
    json.dumps(record, allow_nan=False)
    assert {"versions", "commit", "device", "started"} <= set(record)
    assert record["count"] == [8, 30]
    assert torch.tensor(record["came_out"]).shape == (2, 2, bench.DRAWS)
    for made in record["methods"].values():
        low, value, high = (torch.tensor(made[end]) for end in ("low", "value", "high"))
        assert low.shape == (2, 2)
        assert bool(((low < value) & (value < high)).all())
    stays = torch.tensor(record["methods"]["recall stays"]["value"])
    assert torch.equal(stays[:, 0], stays[:, 1])
    made = list(bench.cases([record], bench.OURS))
    assert len(made) == 2 * 2 * bench.DRAWS
    one, real = made[0], record["came_out"][0][0][0]
    assert one["error"] == pytest.approx(abs(record["methods"][bench.OURS]["value"][0][0] - real))
    assert one["real"] == pytest.approx(real - record["recall_test"][0])
    assert all(one["gain"] == 0 for one in bench.cases([record], "recall stays"))
    atomic.write_jsonl(bench.RESULTS, [record])
    assert len(bench.table().splitlines()) == 2 + len(bench.METHODS)
    covered = 100 * sum(one["covered"] for one in made) / len(made)
    assert f"contain {covered:.1f}% of what came out ({len(made)} forecasts" in bench.text()
    assert bench.setting_table().splitlines()[2].startswith("| CIFAR-10, long tail | 1 | 5 |")
    assert bench.table(bench.HALVES[0]) == "No records yet."


def test_a_network_that_is_not_there_is_made_from_the_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = []
    monkeypatch.setattr(bench.InMemory, "read", lambda *source: source)
    monkeypatch.setattr(bench.collect, "make_bank", lambda *arguments: made.append(arguments))
    with pytest.raises(InputError, match="learning-curve-narrow-0"):  # nothing was written in its place
        bench.bank_of(bench.NARROW, 0, tmp_path, root=tmp_path / "data")
    path = tmp_path / f"learning-curve-{bench.NARROW}-0.safetensors"
    assert made == [(bench.NARROW, 0, path, ("fashion-mnist", tmp_path / "data"))]
