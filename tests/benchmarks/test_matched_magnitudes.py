"""Training rows whose strongest features are scaled to what unseen images have: `benchmarks.matched_magnitudes`."""

import dataclasses
import math

import pytest
import torch

from benchmarks import matched_magnitudes as bench
from benchmarks import matched_magnitudes_page as page
from benchmarks.unseen_rows import Bank, network
from diversify.files import atomic
from diversify.functional import counts
from diversify.network.embeddings import Embeddings
from diversify.network.synthetic import make_embeddings
from diversify.repair.retrain import HeadRecipe
from diversify.training.resident import ResidentImages


@pytest.fixture
def bank() -> Bank:
    train, heldout, head = make_embeddings((200, 80, 30, 12), shrink=0.7)
    odd = torch.arange(len(heldout)) % 2 == 1
    return Bank(
        data="cifar10",
        tail_order=7,
        half="confirmation",
        head=head,
        train=train,
        unseen=heldout.select(~odd),
        test=heldout.select(odd),
    )


def weaker(rows: Embeddings, factor: torch.Tensor) -> Embeddings:
    """The rows with the features of each class multiplied by a factor of its own."""
    return dataclasses.replace(rows, features=rows.features * factor[rows.labels][:, None])


def test_ratios_are_those_of_class_means_and_change_the_top_k_alone(bank) -> None:
    factor = torch.tensor([0.9, 0.8, 0.5, 0.25])
    found = bench.Ratios.between(bank, bank.train, weaker(bank.train, factor), k=3, few=0)
    assert torch.allclose(found.values, factor.double()[:, None].expand(4, 3), atol=1e-5)
    assert 0.25 < found.pooled < 0.9
    made = found.applied(bank)
    for c in range(4):
        own = bank.train.labels == c
        before, after = bank.train.features[own], made.features[own]
        top = torch.zeros(before.shape[1], dtype=torch.bool)
        top[found.features[c]] = True
        assert torch.allclose(after[:, top], before[:, top] * factor[c], atol=1e-5)
        assert torch.equal(after[:, ~top], before[:, ~top])
    assert torch.allclose(made.logits, bank.head.logits(made.features))


def test_few_unseen_rows_leave_the_pooled_ratio(bank) -> None:
    own, pooled, half = (bench.Ratios.between(bank, bank.train, bank.first(10), few=few) for few in (0, math.inf, 10))
    assert torch.allclose(pooled.values, torch.full_like(pooled.values, own.pooled))
    assert torch.allclose(half.values, (own.values + own.pooled) / 2)
    missing = bank.first(10)
    missing = missing.select(missing.labels != 2)
    found = bench.Ratios.between(bank, bank.train, missing)
    assert found.values[2].tolist() == pytest.approx([found.pooled] * found.values.shape[1])


def test_without_unseen_rows_nothing_changes(bank) -> None:
    found = bench.Ratios.between(bank, bank.train, bank.first(0))
    assert found.pooled == 1
    assert torch.equal(found.applied(bank).features, bank.train.features)


def test_other_classes_keep_no_ratio_of_their_own(bank) -> None:
    found = bench.Ratios.between(bank, bank.train, weaker(bank.train, torch.tensor([0.9, 0.8, 0.5, 0.25])), few=0)
    for seed in range(5):
        other = found.of_other_classes(seed).values[:, 0]
        assert other.sort().values.tolist() == pytest.approx([0.25, 0.5, 0.8, 0.9], abs=1e-5)
        assert not bool(torch.isclose(other, found.values[:, 0]).any())


def test_class_means_are_shifted_as_far_as_there_are_rows(bank) -> None:
    stand_ins = bench.StandIns(views=bank.train, out=bank.train, within=bank.train)
    made = {rows: bench.Matched(bank, stand_ins, rows).shifted() for rows in (0, 10)}
    assert torch.equal(made[0].features, bank.train.features)
    means = [counts.class_mean(one.features, one.labels, 4) for one in (bank.train, bank.first(10), made[10])]
    assert torch.allclose(means[2], (means[0] + means[1]) / 2, atol=1e-5)
    other = bench.Matched(bank, stand_ins, 10).shifted(permuted=True)
    turn = bench.other_classes(4, bank.tail_order)
    moved = counts.class_mean(other.features, other.labels, 4) - means[0]
    assert torch.allclose(moved, ((means[1] - means[0]) / 2)[turn], atol=1e-5)
    assert not bool((turn == torch.arange(4)).any())


def test_every_method_is_judged_at_every_number_of_rows(bank, tmp_path, monkeypatch) -> None:
    for module in (bench, page):
        monkeypatch.setattr(module, "ROWS", (0, 3))
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "records.jsonl")
    tables = (page.curve_table, page.difference_table, page.without_table, page.text)
    assert {table() for table in tables} == {"No records yet."}
    half = weaker(bank.train, torch.full((4,), 0.5))
    stand_ins = bench.StandIns(views=half, out=half, within=bank.train)
    records = list(bench.run(bank, stand_ins, set(), HeadRecipe(steps=3, batch_size=16)))
    made = {(one["method"], one["rows"]) for one in records}
    assert made == {(name, 3) for name in bench.METHODS} | {(name, 0) for name in bench.WITHOUT}
    assert len(records) == len(made)
    assert list(bench.run(bank, stand_ins, made)) == []
    assert records[-1]["pooled_ratio"]["augmented"] == records[-1]["pooled_ratio"]["out of fold"] == 0.5
    atomic.write_jsonl(bench.RESULTS, records)
    scores = {(one["method"], one["rows"]): 100 * one["balanced_accuracy"] for one in records}
    gain = scores["matched", 3] - scores["training rows", 3]
    found = page.gains("confirmation", "matched", "training rows", "balanced_accuracy", (3,))
    assert found == pytest.approx([gain])
    assert f"| `matched` | {scores['matched', 3]:.1f} |" in page.curve_table()
    assert "`out of fold: rows`" in page.without_table()
    assert "1 for confirmation" in page.text()


def test_out_of_fold_features_come_from_networks_trained_without_the_image(monkeypatch) -> None:
    monkeypatch.setattr(bench, "EPOCHS", 1)
    torch.manual_seed(0)
    model = network(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = ResidentImages(images=torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8), labels=torch.arange(60) % 10)

    def prepare(images: torch.Tensor) -> torch.Tensor:
        return images.float() / 255

    out, within = bench._out_of_fold(model, data, prepare, seed=0)
    assert out.shape == within.shape == (60, 64)
    assert not bool(torch.isclose(out, within).all(1).any())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    views, labels = bench._views(model.eval(), data, prepare)
    assert views.shape == (120, 64)
    assert torch.equal(labels, data.labels.repeat(2))
