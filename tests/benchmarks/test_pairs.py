"""Pairs of classes in the head step, and weaker augmentation of classes that absorb: `benchmarks.pairs`, `benchmarks.absorbing`."""

import pytest
import torch

from benchmarks import absorbing, pairs
from benchmarks.unseen_rows import Bank, Set
from diversify.files import atomic
from diversify.network.synthetic import make_embeddings
from diversify.repair.retrain import HeadRecipe
from diversify.training.resident import ResidentImages

QUICK = HeadRecipe(steps=4, batch_size=32)
CONFUSION = torch.tensor([[0, 0.3, 0.1, 0], [0.2, 0, 0, 0.1], [0, 0.05, 0, 0.4], [0.1, 0.2, 0.3, 0]]).double()


@pytest.fixture(scope="module")
def bank() -> Bank:
    train, heldout, head = make_embeddings((200, 80, 30, 10), heldout=60, spread=0.6)
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


def test_without_margins_and_partners_the_head_is_that_of_the_library(bank: Bank) -> None:
    heads = pairs.PairHeads(bank, 30, QUICK)
    ours, theirs = heads.acted(pairs.InPairs()), pairs.head_of(heads, (pairs.BASE, "", 0.0))
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-5)
    assert torch.allclose(ours.bias, theirs.bias, atol=1e-5)
    still = heads.acted(pairs.InPairs(partners=CONFUSION, strength=0.0))
    assert torch.allclose(still.weight, theirs.weight, atol=1e-5)


def test_a_margin_separates_its_pair_and_mixing_softens_it(bank: Bank) -> None:
    heads = pairs.PairHeads(bank, 30, HeadRecipe(steps=100, batch_size=64))
    own = bank.test.features[bank.test.labels == 0]
    only = torch.zeros(4, 4)
    only[0, 1] = 1.0

    def gap(head) -> float:
        logits = head.logits(own)
        return float((logits[:, 0] - logits[:, 1]).mean())

    base = gap(heads.acted(pairs.InPairs()))
    assert gap(heads.acted(pairs.InPairs(margins=2 * only))) > base + 0.5
    partners = 0.01 + 0.97 * only
    partners = partners / partners.sum(1, keepdim=True)
    for how in ({}, {"all_rows": True}, {"all_rows": True, "labels_only": True}):
        assert gap(heads.acted(pairs.InPairs(partners=partners, strength=1.0, **how))) < base - 0.5


def test_controls_keep_the_amounts_and_exchange_the_pairs() -> None:
    partners, classes, both, even = (pairs.KINDS[kind][1](CONFUSION, 3) for kind in pairs.CONTROLS)
    off = ~torch.eye(4, dtype=torch.bool)
    for control in (partners, classes, both, even):
        assert not control.diagonal().any()
        assert float(control.sum()) == pytest.approx(float(CONFUSION.sum()))
    assert torch.allclose(partners.sum(1), CONFUSION.sum(1))
    distinct = torch.arange(16.0).view(4, 4)
    assert not bool((pairs.other_partners(distinct, 3) == distinct)[off].any())
    assert torch.equal(classes.flatten().sort().values, CONFUSION.flatten().sort().values)
    assert len(even[off].unique()) == 1
    assert torch.allclose(both.sum(1), CONFUSION.sum(1), atol=1e-3)
    assert torch.allclose(both.sum(0), CONFUSION.sum(0), atol=1e-3)
    assert not torch.allclose(both, CONFUSION, atol=0.05)


def test_softer_targets_are_class_probabilities() -> None:
    scaled = CONFUSION / 0.15
    for found in (pairs.softened(scaled, 0.25), pairs.by_confusion(scaled, 0.15, 1.0)):
        assert torch.allclose(found.sum(1), torch.ones(4).double())
        assert bool((found >= 0).all())
    assert torch.allclose(pairs.softened(scaled, 0.25).diagonal(), torch.full((4,), 0.75).double())
    assert torch.allclose(pairs.off_diagonal(pairs.by_confusion(scaled, 0.15, 1.0)), CONFUSION)


def test_confusion_is_the_mean_probability_of_the_other_classes() -> None:
    probabilities = torch.tensor([[0.6, 0.4], [0.8, 0.2], [0.5, 0.5]])
    found = pairs.confusion_of(probabilities, torch.tensor([0, 0, 1]))
    assert torch.allclose(found, torch.tensor([[0.0, 0.3], [0.5, 0.0]]).double())


def test_records_of_pairs_become_a_table(bank: Bank, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pairs, "RESULTS", tmp_path / "records.jsonl")
    assert pairs.table() == pairs.text() == "No records yet."
    cells = [(pairs.BASE, "", 0.0), *(("margins", kind, 0.1) for kind in pairs.KINDS)]
    monkeypatch.setattr(pairs, "cells", lambda half: cells)
    records = list(pairs.run(bank, {cells[1]}, QUICK))
    assert [pairs.cell_of(one) for one in records] == [cells[0], *cells[2:]]
    records += list(pairs.run(bank, set(cells) - {cells[1]}, QUICK))
    atomic.write_jsonl(pairs.RESULTS, records)
    lines = pairs.table().splitlines()
    assert len(lines) == 2 + 1 + 5
    scores = {one["pairs"]: 100 * one["balanced_accuracy"] for one in records}
    assert lines[3].split(" | ")[2] == f"{scores['confused'] - scores['']:+.1f}"
    assert lines[7].split(" | ")[2] == f"{scores['confused'] - scores['alike']:+.1f}"


@pytest.fixture
def trainings(monkeypatch) -> absorbing.Trainings:
    def side(number: int) -> ResidentImages:
        labels = torch.arange(number) % 10
        images = (25 * labels).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).to(torch.uint8).contiguous()
        return ResidentImages(images=images, labels=labels)

    found = absorbing.Images(
        train=side(60), heldout=side(40), test=side(40), prepare=lambda images: images.float() / 255
    )
    monkeypatch.setattr(absorbing, "images_of", lambda *_: found)
    return absorbing.Trainings(Set(data="cifar10", imbalance="exp:2:10", epochs=1, orders=6), 4, None)


def test_the_same_weakening_for_other_classes_and_for_all(trainings, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(absorbing, "RESULTS", tmp_path / "records.jsonl")
    assert absorbing.table() == absorbing.text() == "No records yet."
    records = list(absorbing.run(trainings, [cell for cell in absorbing.CELLS if cell[0] != "leak"]))
    atomic.write_jsonl(absorbing.RESULTS, records)
    uniform, measured, other, alike = (torch.tensor(one["strengths"]) for one in records)
    assert len(uniform.unique()) == len(alike.unique()) == 1
    absorbing_classes = torch.tensor(records[0]["absorbed"]).argsort(descending=True)[: absorbing.ABSORBING]
    assert torch.allclose(measured[absorbing_classes], 0.5 * uniform[0])
    assert int((measured < uniform).sum()) == int((other < uniform).sum()) == absorbing.ABSORBING
    assert not torch.equal(measured, other)
    assert torch.allclose(alike.mean(), measured.mean(), atol=1e-4)
    assert len(absorbing.table().splitlines()) == 2 + 1 + 3


def test_leaking_classes_are_weakened_by_the_rule_of_the_library(trainings) -> None:
    plan = trainings.plan
    columns = {name: torch.zeros(10, dtype=torch.float64) for name in absorbing.Leak._columns()}
    columns["leak"][2], columns["leak_low"][2] = 0.04, 0.03
    leak = absorbing.Leak(class_names=tuple(one.name for one in plan.classes), **columns)
    weaker = absorbing.weaker_by_leak(plan, leak, torch.zeros(10))
    assert weaker[2] == pytest.approx(plan.classes[2].image.strength / 2)
    assert int((weaker < absorbing.strengths_of(plan)).sum()) == 1


def test_absorbed_images_are_counted_among_those_of_other_classes() -> None:
    found = absorbing.absorbed(torch.tensor([0, 0, 1, 0]), torch.tensor([0, 1, 1, 2]), 3)
    assert found.tolist() == [2 / 3, 0, 0]
