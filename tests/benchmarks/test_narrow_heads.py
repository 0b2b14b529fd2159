"""Head repairs for narrow classes, and the objectives of `choose_head`: `benchmarks.narrow_heads` and `benchmarks.objective`."""

import dataclasses

import pytest
import torch

from benchmarks import narrow_heads as bench
from benchmarks import objective, tails
from benchmarks.unseen_rows import Bank, Heads, half_of
from diversify.files import atomic
from diversify.network.synthetic import make_embeddings
from diversify.repair.retrain import HeadRecipe


@pytest.fixture(scope="module")
def bank() -> Bank:
    """Six classes, of which class 2 has training rows close together."""
    train, heldout, head = make_embeddings((120, 120, 120, 60, 60, 60), heldout=60, spread=0.5)
    features, own = train.features.clone(), train.labels == 2
    features[own] = features[own].mean(0) + 0.1 * (features[own] - features[own].mean(0))
    train = dataclasses.replace(train, features=features, logits=head.logits(features))
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


def test_rules_act_on_narrow_classes_and_controls_on_others(bank: Bank) -> None:
    heads = bench.NarrowHeads(bank, 30, HeadRecipe(steps=3, batch_size=16))
    narrow, others = heads.narrow(), heads.narrow(permuted=True)
    assert narrow.tolist() == [False, False, True, False, False, False]
    assert others.sum() == 1
    assert not bool((narrow & others).any())
    drawn, control = heads.drawn_more(narrow), heads.drawn_more(others)
    assert not torch.equal(drawn.weight, control.weight)
    assert torch.equal(bench.turned(torch.arange(6), 0).sort().values, torch.arange(6))
    assert not bool((bench.turned(torch.arange(6), 0) == torch.arange(6)).any())


@pytest.mark.slow
def test_every_method_has_a_record_and_stands_in_the_table(bank: Bank, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "records.jsonl")
    assert bench.table() == bench.text() == "No records yet."
    truth = torch.tensor([False, False, True, False, False, False])
    records = list(bench.run(bank, truth, "equal", "neighbours:3"))
    assert [one["method"] for one in records] == list(bench.METHODS)
    atomic.write_jsonl(bench.RESULTS, records)
    lines = bench.table().splitlines()
    assert len(lines) == 2 + len(bench.METHODS)
    scores = {one["method"]: one for one in records}
    gain = 100 * (scores["fitted bias"]["balanced_accuracy"] - scores["fitted slope"]["balanced_accuracy"])
    assert f"| `fitted bias`: a bias per class, shrunk to the slope | {gain:+.1f} |" in bench.table()
    assert "called 1 of 1 narrow classes narrow, and 0 of 5 others" in bench.text()


def test_controls_of_the_objective_are_made_without_choosing(bank: Bank, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(objective, "RESULTS", tmp_path / "records.jsonl")
    assert objective.table() == objective.text() == "No records yet."
    records = list(objective.run(bank, tuple(objective.CONTROLS)))
    assert [one["chosen"] for one in records] == list(objective.CONTROLS)
    atomic.write_jsonl(objective.RESULTS, records)
    assert len(objective.table().splitlines()) == 2 + len(objective.CONTROLS)
    assert objective.table().splitlines()[3].startswith("| `fitted slope` | ")
    heads = Heads(bank, objective.ROWS)
    assert torch.equal(heads.biased(rounds=8).weight, heads.biased(rounds=8, permuted=True).weight)


def test_more_tails_left_the_first_ones_in_their_halves() -> None:
    for one in objective.SETS:
        halves = [half_of(one, order) for order in range(one.orders + one.added)]
        assert halves == ["development"] * 4 + ["confirmation"] * 4 + ["development"] * 6 + ["confirmation"] * 6
    recorded = {(one["tail_order"], one["half"]) for one in tails.records_in(objective.RESULTS)}
    assert recorded == {(order, half) for order, half in enumerate(halves)}
