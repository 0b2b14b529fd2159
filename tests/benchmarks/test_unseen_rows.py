"""Held-out images in the head step, over their number: `benchmarks.unseen_rows`."""

import pytest
import torch

from benchmarks import unseen_rows as bench
from diversify.files import atomic
from diversify.functional import counts
from diversify.network.synthetic import make_embeddings
from diversify.repair.retrain import HeadRecipe


@pytest.fixture
def bank() -> bench.Bank:
    train, heldout, head = make_embeddings((200, 80, 30, 10))
    odd = torch.arange(len(heldout)) % 2 == 1
    return bench.Bank(
        data="cifar10",
        tail_order=7,
        half="confirmation",
        head=head,
        train=train,
        unseen=heldout.select(~odd),
        test=heldout.select(odd),
    )


def test_every_method_is_judged_at_every_number_of_rows(bank, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "ROWS", (0, 3))
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "records.jsonl")
    assert bench.curve_table() == bench.difference_table() == bench.text() == "No records yet."
    records = list(bench.run(bank, set(), HeadRecipe(steps=3, batch_size=16)))
    made = {(one["method"], one["rows"]) for one in records}
    assert len(made) == len(records) == 2 * len(bench.METHODS) - len(bench.SAME_FOR_ALL)
    assert {"versions", "commit", "device", "started"} <= set(records[0])
    assert list(bench.run(bank, made)) == []
    scores = {(one["method"], one["rows"]): one["balanced_accuracy"] for one in records}
    assert scores["fitted slope", 0] == scores["logit adjustment", 0] == scores["fitted bias", 0]
    assert scores["plan + unseen", 0] == scores["plan", 0]
    assert scores["unseen alone", 0] == scores["untouched", 0]
    for one in records:
        assert one["worst"] == min(one["recall"]) <= one["balanced_accuracy"]
    atomic.write_jsonl(bench.RESULTS, records)
    curve = bench.curve_table().splitlines()
    assert len(curve) == 2 + len(bench.METHODS)
    assert curve[2] == f"| `untouched` | {100 * scores['untouched', 0]:.1f} | {100 * scores['untouched', 0]:.1f} |"
    table = bench.difference_table(rows=3)
    gain = 100 * (scores["plan + unseen", 3] - scores["fitted slope", 3])
    assert f"| **`plan + unseen`** | {gain:+.1f} |" in table
    assert "1 networks" not in bench.text()


def test_permuted_offsets_are_those_of_other_classes(bank) -> None:
    heads = bench.Heads(bank, 10)
    own, other = (heads.biased(rounds=bench.DIAL, permuted=on) for on in (False, True))
    base = bench.slope_fitted(heads.unseen, bank.head, bank.log_prior)
    assert (own.bias - base.bias).sort().values.tolist() == pytest.approx(
        (other.bias - base.bias).sort().values.tolist(), abs=1e-5
    )
    assert not bool(torch.isclose(own.bias, other.bias, atol=1e-6).any())


def test_the_first_rows_are_part_of_the_next(bank) -> None:
    few, more = bank.first(3), bank.first(10)
    assert counts.class_counts(few.labels, 4).tolist() == [3, 3, 3, 3]
    assert set(few.indices.tolist()) < set(more.indices.tolist())


def test_unseen_images_are_left_out_by_the_tail() -> None:
    labels = torch.arange(40) % 4
    rows = bench._shuffled(labels, torch.arange(20, 40), 3)
    assert counts.class_counts(labels[rows], 4).tolist() == [3, 3, 3, 3]
    assert int(rows.min()) >= 20
    assert len(set(rows.tolist())) == 12


def test_halves_share_no_tail_order() -> None:
    for one in bench.SETS:
        halves = [bench.half_of(one, order) for order in range(one.orders)]
        assert halves == ["development"] * 4 + ["confirmation"] * 4
