"""What a diagnostic adds to class size: the statistic on simulated runs, the recording of runs, and the tables."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import tables, validity
from diversify.data.imbalance import class_order
from diversify.diagnosis import catalogue
from diversify.files import atomic
from diversify.report import wording

TAILS = [str(tail) for tail in range(8) for _ in range(2)]
PROFILE = [400, 240, 144, 86, 52, 31, 18, 11, 6, 4]


def sizes() -> np.ndarray:
    found = np.zeros((len(TAILS), 10))
    for row, tail in enumerate(TAILS):
        found[row, class_order(tail, 10)] = PROFILE
    return found


COUNTS = sizes()
LOG = np.log(COUNTS)


def noise(seed: int) -> np.ndarray:
    """Return one number per tail order and class, with a small deviation per seed."""
    generator = np.random.default_rng(seed)
    return np.repeat(generator.normal(size=(8, 10)), 2, axis=0) + 0.2 * generator.normal(size=(16, 10))


def test_a_diagnostic_that_is_class_size_and_noise_adds_nothing() -> None:
    gap = 5 - LOG + 0.7 * noise(1)
    said = [validity.association(LOG + 0.7 * noise(seed), gap, COUNTS, TAILS) for seed in range(2, 12)]
    assert sum(one.low <= 0 <= one.high for one in said) >= 9
    assert abs(float(np.mean([one.estimate for one in said]))) < 0.1
    alone = validity.association(LOG, gap, COUNTS, TAILS, given=False)
    assert alone.high < -0.5
    assert np.isnan(validity.association(LOG, gap, COUNTS, TAILS).estimate)  # no residual is left


def test_two_curves_in_class_size_say_nothing_to_each_other() -> None:
    """A floor in the tail is not a line in log n: the residuals of two such curves after a linear fit would correlate."""
    floor, flat = np.maximum(LOG, 3.0), np.maximum(LOG, 3.3)
    said = [
        validity.association(flat + 0.5 * noise(2 * k), 0.5 * noise(2 * k + 1) - floor, COUNTS, TAILS).estimate
        for k in range(10)
    ]
    assert abs(float(np.mean(said))) < 0.1


def test_a_diagnostic_that_carries_the_gap_adds_to_class_size() -> None:
    carried = noise(1)
    found = validity.association(LOG + carried, carried - LOG, COUNTS, TAILS)
    assert found.low > 0
    assert found.estimate > 0.6
    assert found.p < 0.005
    against = validity.association(LOG - carried, carried - LOG, COUNTS, TAILS)
    assert against.high < 0
    assert against.p < 0.005
    other = validity.association(LOG + noise(3), -LOG, COUNTS, TAILS)
    words = validity.verdicts({"gap": {"it": found, "other": other}})
    assert words["gap"] == {"it": "yes", "other": "not tested"}


def test_p_values_of_all_gains_are_adjusted_together() -> None:
    one = validity.Association(estimate=0.5, low=0.3, high=0.7, p=0.01)
    none = dataclasses.replace(one, p=0.9)
    columns = {
        outcome: {"a": one if place == 0 else none, "b": none} for place, outcome in enumerate(validity.GAIN_OUTCOMES)
    }
    assert validity.verdicts({"gap": {"a": one, "b": none}})["gap"]["a"] == "yes"
    first = next(iter(validity.GAIN_OUTCOMES))
    assert validity.verdicts(columns)[first]["a"] == "unsure", "0.06 of six"
    assert validity.verdicts({first: columns[first]})[first]["a"] == "yes", "0.02 of two"


def test_seeds_of_a_tail_order_do_not_narrow_the_interval() -> None:
    gap, measure = 5 - LOG + noise(1), LOG + noise(1) + noise(2)
    once = validity.association(measure, gap, COUNTS, TAILS)
    twice = validity.association(*(np.concatenate([v, v]) for v in (measure, gap, COUNTS)), [*TAILS, *TAILS])
    assert (twice.estimate, twice.low, twice.high) == pytest.approx((once.estimate, once.low, once.high))
    as_tails = [f"{tail}.{row}" for row, tail in enumerate([*TAILS, *TAILS])]
    narrow = validity.association(*(np.concatenate([v, v]) for v in (measure, gap, COUNTS)), as_tails)
    assert narrow.high - narrow.low < 0.8 * (once.high - once.low)


def test_a_coincidence_of_ten_classes_is_not_taken_for_a_law() -> None:
    """An effect that belongs to the class in every tail order has a narrow interval, and is not distinguished from chance."""
    generator = np.random.default_rng(0)
    p = [
        validity.association(*(LOG + 3 * generator.normal(size=(1, 10)) for _ in "xy"), COUNTS, TAILS).p
        for _ in range(12)
    ]
    assert sum(one < 0.05 for one in p) <= 3


def test_a_diagnostic_of_few_classes_or_tails_is_not_tested() -> None:
    gap, measure = noise(1), noise(1)
    few = np.where(PROFILE[4] <= COUNTS, measure, np.nan)
    assert np.isnan(validity.association(few, gap, COUNTS, TAILS).estimate)
    assert validity.association(few, gap, COUNTS, TAILS).classes == 5
    enough = np.where(PROFILE[5] <= COUNTS, measure, np.nan)
    assert validity.association(enough, gap, COUNTS, TAILS).estimate == pytest.approx(1)
    assert np.isnan(validity.association(measure[:6], gap[:6], COUNTS[:6], TAILS[:6]).estimate)  # three tail orders


def records(skip: str = "") -> list[dict[str, Any]]:
    """Return simulated runs whose margin drives the gap and whose head norm is class size; remedies gain where the gap is."""
    found, carried, other = [], noise(1), noise(2)
    for row, tail in enumerate(TAILS):
        for name, gain in ((validity.BASE, 0.0), *((name, 0.01) for name in validity.REMEDIES)):
            recall = 0.5 + 0.02 * LOG[row] - 0.05 * carried[row]
            found.append(
                {
                    "kind": "final",
                    "suite": "validity",
                    "method": name,
                    "seed": row % 2,
                    "tail_order": tail,
                    "balanced_accuracy": float(recall.mean()),
                    "recall": (recall + gain * carried[row]).tolist(),
                    "recall_train": [1.0] * 10,
                    "class_counts": COUNTS[row].astype(int).tolist(),
                    "design": {"data": "d", "imbalance": "i", "model": "m", "epochs": 3, "batch_size": 8},
                    "classes": {
                        "margin": (0.4 * LOG[row] - carried[row]).tolist(),
                        "head_norm": (LOG[row] + other[row]).tolist(),
                        "nc1": [None] * 10,
                    },
                }
            )
    return [one for one in found if one["method"] != skip]


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "validity.jsonl"
    atomic.write_jsonl(path, records())
    monkeypatch.setattr(validity, "RESULTS", path)
    return path


def test_tables_and_evidence_come_from_the_records(recorded: Path) -> None:
    gap, gain, text = (tables.made(name) for name in ("validity_gap", "validity_gain", "validity_text"))
    assert gap is not None
    assert gain is not None
    assert text is not None
    rows = {
        line.split(" | ")[0].lstrip("| "): line.split(" | ")[1:] for line in gap.splitlines() if line.count("|") > 3
    }
    assert rows["margin"][0].startswith("**-1.00")
    assert rows["margin"][1].startswith("**+1.00")
    assert not rows["head norm"][0].startswith("**")
    assert rows["collapse (NC1), training"][0] == "–"
    assert rows["log n alone, for comparison"][0].startswith("-")
    assert "16 networks, 8 tail orders, 2 seeds" in text
    assert "1 of 2 diagnostics add to the gap (margin;" in text
    said = validity.evidence()
    assert said["margin"] == "yes"
    assert said["nc1"] == "not tested"
    assert said["head_norm"] in ("no", "unsure")


def test_an_unfinished_run_is_left_out(recorded: Path) -> None:
    kept = [one for one in records() if not (one["tail_order"] == "3" and one["method"] == validity.HEAD)]
    atomic.write_jsonl(recorded, kept)
    (runs,) = validity.designs(validity.kept(recorded))
    assert len(runs.base) == 14
    assert "3" not in runs.tails
    atomic.write_jsonl(recorded, [one for one in kept if one["tail_order"] in "012"])
    assert "nothing is tested below 4 tail orders" in validity.text()
    assert set(validity.evidence().values()) == {"not tested"}


@pytest.mark.slow
def test_measures_say_what_the_records_say() -> None:
    """`python -m benchmarks.validity --evidence` prints what `catalogue.EVIDENCE` should hold."""
    assert validity.evidence() == catalogue.EVIDENCE
    for name, words in catalogue.EVIDENCE.items():
        assert catalogue.MEASURES[name].evidence == words
        assert wording.with_evidence(catalogue.MEASURES[name]).endswith(
            f"Informative beyond class size in validation runs: {words}."
        )
    assert set(catalogue.EXPLANATIONS) <= set(catalogue.EVIDENCE)


def options(path: Path, *more: str) -> argparse.Namespace:
    given = ["--data=digits", "--imbalance=exp:10", "--epochs=1", "--precision=fp32", "--tails=0", "--seeds=0"]
    return validity.build_parser().parse_args([*given, "--out", str(path), *more])


def run(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    return list(
        validity.run(
            validity.protocol_of(chosen), chosen.tails, chosen.seeds, root="data", device="cpu", path=chosen.out
        )
    )


@pytest.mark.slow
def test_runs_are_recorded_and_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "validity.jsonl"
    made = run(options(path))
    assert {one["method"] for one in made} == {validity.BASE, *validity.REMEDIES}
    base = next(one for one in made if one["method"] == validity.BASE)
    assert set(validity.ASKED) <= set(base["classes"])
    assert base["diagnosed_on"] == "val"
    assert base["classes"]["count"] == base["class_counts"]  # trained without the validation set, and diagnosed as such
    assert sum(base["classes"]["count_heldout"]) < sum(base["class_counts"])
    assert {"kind", "suite", "versions", "commit", "device", "started", "tail_order", "seed"} <= set(base)

    atomic.write_jsonl(path, [one for one in made if one["method"] not in (validity.BASE, "balanced_softmax")])
    trained = []
    before = validity.train
    monkeypatch.setattr(validity, "train", lambda *given: trained.append(given[1]) or before(*given))
    again = run(options(path))
    assert trained == [validity.BASE, "balanced_softmax"]
    assert {one["method"] for one in again} == {validity.BASE, "balanced_softmax"}
    assert next(one for one in again if one["method"] == validity.BASE)["recall"] == base["recall"]
    assert run(options(path)) == []
    assert len(atomic.read_jsonl(path)) == 4


def test_what_cannot_be_run_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="^error: .*none"):
        validity.main(["--data", "digits", "--imbalance", "none:1", "--out", str(tmp_path / "r.jsonl")])
