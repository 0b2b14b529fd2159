"""Every kept record names its origin, and the tables built from records read what they should."""

import math
from pathlib import Path

import pytest
import torch

from diversify.files import atomic
from diversify.functional import draws, stats

RESULTS = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*.jsonl"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_records_carry_their_origin(path: Path) -> None:
    records = atomic.read_jsonl(path)
    assert records
    for record in records:
        assert {"kind", "versions", "commit", "device", "started"} <= set(record)
        assert record["versions"]["torch"] != "absent"
        assert record["commit"], "a record without a commit cannot be made again"


def test_a_pooled_estimate_keeps_a_classes_points_together() -> None:
    from benchmarks.cifar10_lt_diagnosis import _with_interval, spearman

    line = torch.arange(10.0)
    shown = _with_interval(spearman, [(line, line), (line + 0.5, line + 0.5)])
    assert shown == "+1.00 (+1.00 to +1.00)"
    assert _with_interval(spearman, [(line, -line)]).startswith("-1.00")


def test_many_samples_at_once_are_the_librarys_own_correlations() -> None:
    from benchmarks.cifar10_lt_diagnosis import partial_spearman, spearman

    values = draws.integers(7, "values", torch.arange(60)).double().view(3, 20)  # with ties
    assert float(spearman(*values[:2].numpy())) == pytest.approx(stats.spearman(values[0], values[1]))
    assert float(partial_spearman(*values.numpy())) == pytest.approx(stats.partial_spearman(*values))


def test_answers_come_from_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measure that follows log n in both networks shows it; a constant one shows nothing."""
    from benchmarks import cifar10_lt_diagnosis as study

    def network(order: list[int], tail: str) -> dict[str, object]:
        count = [1000 // (1 + 3 * place) for place in order]
        columns: dict[str, list[float | None]] = {name: [0.5] * 10 for name in study.ASKED}
        columns["ce_magnitude_ratio"] = [0.4 + 0.1 * math.log(n) for n in count]
        columns["recall_heldout"] = [0.1 * math.log(n) for n in count]
        return {"data": {"tail_order": tail}, "classes": {"name": list("abcdefghij"), "count": count, **columns}}

    lines = [network(list(range(10)), "canonical"), network([3, 1, 4, 0, 5, 9, 2, 6, 8, 7], "0")]
    monkeypatch.setattr(study, "latest", lambda: lines)
    found = {name: cells for name, *cells in study.answers()}
    assert found["ce_magnitude_ratio"][0] == "+1.00 (+1.00 to +1.00)"
    assert found["ce_magnitude_ratio"][1].startswith("+1.00")
    assert found["head_norm"][0] == "–"
