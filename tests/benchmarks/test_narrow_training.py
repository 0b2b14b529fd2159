"""Training by a plan where classes are narrow: `benchmarks.narrow_training`."""

from pathlib import Path

import pytest
import torch

from benchmarks import narrow_training as bench
from diversify.files import atomic


def record(method: str, assignment: int, balanced: float, half: str = "confirmation") -> dict[str, object]:
    scores = {"balanced_accuracy": balanced, "worst": 0.2, "narrow_recall": 0.3, "before_head": balanced}
    return {
        "method": method,
        "sizes": "equal",
        "diversity": "bursts:10",
        "assignment": assignment,
        "half": half,
        **scores,
    }


def test_the_table_pairs_methods_by_their_training_set(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "records.jsonl")
    assert bench.table() == bench.text() == "No records yet."
    found = [record("ce", 4, 0.50), record("ce", 5, 0.60), record("recipe", 4, 0.56)]
    found += [
        record("plan", 4, 0.53),
        record("plan", 5, 0.61),
        record("plan_permuted", 5, 0.60),
        record("ce", 0, 0.9, "development"),
    ]
    atomic.write_jsonl(bench.RESULTS, found)
    rows = {line.split("`")[1]: line.split(" | ") for line in bench.table().splitlines()[2:]}
    assert list(rows) == ["ce", "recipe", "plan", "plan_permuted"]
    assert rows["ce"][1].startswith("55.0 ±")
    assert rows["recipe"][1::4] == ["+6.0", "– |"]
    assert rows["plan"][5] == "+1.0 (1 of 1) |"
    assert "`plan` is +1.0 points ahead of `plan_permuted`, and +0.0 in narrow classes" in bench.text()


@pytest.mark.slow
def test_methods_share_everything_but_what_they_change(monkeypatch) -> None:
    monkeypatch.setattr(bench, "EPOCHS", 2)
    networks = bench.Networks("digits", "equal", "bursts:10", 0, Path("unused"))
    made = {
        one["method"]: one
        for one in bench.run(
            networks, "equal", "bursts:10", ("ce", "plan_from_counts", "recipe", "plan", "recipe+unseen")
        )
    }
    # sizes are equal, so that a plan from counts trains as plain training does, and only the head step is left
    assert made["plan_from_counts"]["before_head"] == made["ce"]["balanced_accuracy"]
    assert made["recipe"]["before_head"] != made["ce"]["balanced_accuracy"]
    assert made["recipe+unseen"]["before_head"] == made["recipe"]["before_head"]  # the same network
    assert made["recipe+unseen"]["recall"] != made["recipe"]["recall"]
    assert sum(made["plan"]["narrow"]) == 5
    assert torch.tensor(made["plan"]["recall"]).mean() == pytest.approx(made["plan"]["balanced_accuracy"], abs=1e-3)
