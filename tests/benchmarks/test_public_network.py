"""Which images the published network was trained on, and the table of its repairs."""

import json

import pytest
import torch

from benchmarks import public_network
from diversify.functional import draws
from diversify.network.embeddings import Embeddings


def test_its_training_images_are_an_exponential_tail_of_each_class():
    labels = torch.arange(1000) % 10
    rows = public_network.training_rows(labels)
    assert torch.bincount(labels[rows]).tolist() == [100, 59, 35, 21, 12, 7, 4, 2, 1, 1]
    assert len(rows.unique()) == len(rows)
    assert rows.equal(public_network.training_rows(labels))


def test_the_table_has_intervals_over_draws(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setattr(public_network, "RESULTS", tmp_path / "results.jsonl")
    assert public_network.table() == "No records yet."
    found = [("untouched", 0.725, 0.5, 0.0), ("choose_head", 0.77, 0.6, 20.0), ("choose_head", 0.78, 0.62, 30.0)]
    lines = [
        {"method": name, "draw": draw, "balanced_accuracy": score, "worst": worst, "seconds": seconds}
        for draw, (name, score, worst, seconds) in enumerate(found)
    ]
    public_network.RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = public_network.table().splitlines()[2:]
    assert rows == ["| `untouched` | 72.5 | 50.0 | 0.0 |", "| `choose_head` | 77.5 ± 6.4 | 61.0 ± 12.7 | 25.0 |"]


def test_the_bound_is_of_heads_that_did_not_see_the_image_they_predict() -> None:
    """Features that tell each image from all others, and nothing of its class, give no more than chance."""
    labels = torch.arange(300) % 3
    noise = draws.normal("bound", torch.arange(300)[:, None], torch.arange(400))
    rows = Embeddings.from_arrays(noise, labels, logits=torch.zeros(300, 3))
    assert public_network.bound(rows)["balanced_accuracy"] < 0.5
    told = Embeddings.from_arrays(torch.nn.functional.one_hot(labels).float(), labels, logits=torch.zeros(300, 3))
    assert public_network.bound(told)["balanced_accuracy"] == 1
