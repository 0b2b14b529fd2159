"""Evaluation on training images that a long tail leaves out: `benchmarks.cifar10_lt_unused`."""

import pytest
import torch

from benchmarks import cifar10_lt_unused as bench
from diversify.data.load import load_data
from diversify.files import atomic
from diversify.functional import draws
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.study.suites import DIGITS
from diversify.study.task import load_task


def digests(images: torch.Tensor) -> list[bytes]:
    return [bytes(one.flatten().tolist()) for one in images]


def test_unused_images_are_neither_train_nor_val() -> None:
    task = load_task(DIGITS, device="cpu")
    others = bench.unused(task, "canonical")
    sides = task.images("canonical", "val")
    assert sides.train is not None
    assert sides.evaluation is not None
    whole = load_data("digits", imbalance="none", holdout=0.0).train
    taken = torch.bincount(torch.cat([sides.train.labels, sides.evaluation.labels]))
    assert torch.equal(torch.bincount(others.labels) + taken, torch.bincount(whole.labels))
    seen = {*digests(sides.train.images), *digests(sides.evaluation.images)}
    assert not seen & set(digests(others.images))
    images = torch.stack([whole.dataset[row][0] for row in range(len(whole))])
    whole_of = dict(zip(digests(images), whole.labels.tolist(), strict=True))
    assert [whole_of[one] for one in digests(others.images)] == others.labels.tolist()


def bank(name: str, seed: int) -> bench.Bank:
    """Return features around the means of ten classes, with none of class 0 among the unused images."""
    head = LinearHead(weight=2 * torch.eye(10), bias=torch.zeros(10))

    def side(counts: list[int], which: str) -> Embeddings:
        labels = torch.repeat_interleave(torch.arange(10), torch.tensor(counts))
        noise = draws.uniform(which, seed, torch.arange(len(labels) * 10)).view(-1, 10)
        features = (torch.eye(10)[labels] + 1.2 * noise).float()
        return Embeddings(
            features=features, labels=labels, logits=head.logits(features), indices=torch.arange(len(labels))
        )

    sides = {
        "train": side([200, 150, 100, 80, 60, 40, 30, 20, 15, 10], "train"),
        "val": side([40, 30, 20, 16, 12, 8, 6, 4, 3, 2], "val"),
        "unused": side([0, *[50] * 9], "unused"),
    }
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    method, epochs, number = name.rsplit(":", 2)
    return bench.Bank(
        name=name, method=method, seed=int(number), epochs=int(epochs), head=head, sides=sides, class_names=names
    )


@pytest.mark.slow
def test_every_network_is_judged_with_every_head() -> None:
    banks = [bank("diversify:30:0", 0), bank("ce:30:1", 1)]
    records = list(bench.judge(banks))
    heads = [(one["params"]["head"], one["params"]["head_share"]) for one in records if one["method"] == "ce"]
    assert len(set(heads)) == len(heads) == 1 + 2 * 5
    assert ("retrained by the diagnosis of diversify:30:0", 0.5) in heads
    assert len(records) == 2 * len(heads)
    first = next(one for one in records if one["params"]["head"] == "as trained")
    for c, recall in enumerate(first["recall"]):
        side = banks[0].sides["unused" if c else "val"]
        own = side.labels == c
        assert recall == float((side.logits[own].argmax(1) == c).double().mean())
    assert first["balanced_accuracy"] == sum(first["recall"]) / 10
    whole = [
        one["balanced_accuracy"] for one in records if one["params"]["head_share"] == 1.0 and one["method"] == "ce"
    ]
    assert any(one != first["balanced_accuracy"] for one in whole)


@pytest.mark.slow
def test_the_table_has_every_network_beside_every_head(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "records.jsonl")
    assert bench.table() == "No records yet."
    records = list(bench.judge([bank("diversify:30:0", 0), bank("ce:30:1", 1)]))
    atomic.write_jsonl(bench.RESULTS, records)
    rows = bench.table().splitlines()
    assert rows[0] == "| head | share | `diversify:30:0` | `ce:30:1` |"
    assert len(rows) == 2 + 11
    counted = [100 * one["balanced_accuracy"] for one in records if one["params"]["head"] == "retrained by counts"]
    assert f"| retrained by counts | 1 | {counted[1]:.1f} | {counted[3]:.1f} |" in rows


def test_a_bank_comes_back_as_it_was_kept(tmp_path) -> None:
    task = load_task(DIGITS.model_copy(update={"epochs": 2, "warmup_epochs": 1}), device="cpu")
    bench.make_bank(task, "ce:2:0", tmp_path / "bank.safetensors")
    found = bench.read_bank("ce:2:0", tmp_path / "bank.safetensors")
    assert {name: len(one) > 0 for name, one in found.sides.items()} == dict.fromkeys(bench.SIDES, True)
    assert found.class_names == tuple("0123456789")
    assert torch.equal(found.head.logits(found.sides["val"].features), found.sides["val"].logits)
