"""Records: one line each, read strictly, and compared without what depends on the machine."""

import json
from pathlib import Path
from typing import Any

import pytest
import study_runner
from studies import TIME_FIELDS, same_but_for_time

from diversify.errors import InputError
from diversify.files import atomic
from diversify.study.protocol import Protocol
from diversify.study.records import (
    FREE,
    OPTIONAL,
    Follower,
    Record,
    append_record,
    chosen,
    digest_of,
    read_records,
)


def record_of(**changes: Any) -> Record:
    """Return a complete trial with some fields changed."""
    values: dict[str, Any] = {
        "kind": "trial",
        "suite": "fake",
        "method": "plain",
        "number": 0,
        "seed": 0,
        "split": "val",
        "state": "complete",
        "balanced_accuracy": 0.5,
        "macro_f1": 0.5,
        "g_mean": None,
        "ece": 0.1,
        "recall": (0.25, None, 0.75),
        "class_counts": (10, 0, 1),
        "params": {"learning_rate": 0.1, "layers": 2, "kind": "a"},
        "epochs": 20,
        "curve": ((5, 0.25), (10, 0.375)),
        "inside": {"leak": [0.5, None, 0.25]},
        "carried": {"plan": [1, "two", None]},
        "tail_order": "canonical",
        "seconds": 2.0,
        "seconds_shared": 1.0,
        "images_per_second": 100.0,
        "peak_memory": 1 << 33,
        "workers": 2,
        "device": "cpu (1 thread)",
        "versions": {"torch": "2.6"},
        "commit": None,
        "started": "2026-01-01T00:00:00+00:00",
        "protocol": "a" * 64,
    }
    return Record.model_validate({**values, **changes})


def final_of(**changes: Any) -> Record:
    return record_of(**{"kind": "final", "number": None, "split": "test", "curve": (), **changes})


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    records = [
        record_of(),
        record_of(number=1, state="pruned", recall=(), epochs=10),
        record_of(number=2, state="failed", balanced_accuracy=None, recall=(), reason="no"),
        final_of(),
        final_of(seed=1),
        record_of(protocol="b" * 64, suite="other"),
    ]
    for record in records:
        append_record(tmp_path / "r.jsonl", record)
    assert read_records(tmp_path / "r.jsonl") == records
    lines = (tmp_path / "r.jsonl").read_text().splitlines()
    assert len(lines) == len(records)
    pinned = "kind suite method seed split balanced_accuracy recall params epochs seconds seconds_shared peak_memory"
    for line in lines:
        assert set(f"{pinned} device versions commit tail_order started".split()) <= json.loads(line).keys()
    assert json.loads(lines[0])["recall"] == [0.25, None, 0.75]


def test_a_torn_last_line_is_left_out_and_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    append_record(file, record_of())
    with file.open("ab") as handle:
        handle.write(b'{"kind": "tri')
    assert read_records(file) == [record_of()]
    append_record(file, final_of())
    assert read_records(file) == [record_of(), final_of()]


def test_a_follower_reads_what_came_since(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "r.jsonl")
    assert follower.look() == []
    append_record(follower.path, record_of())
    assert follower.look() == [record_of()]
    assert follower.look() == []
    append_record(follower.path, record_of(number=1))
    append_record(follower.path, final_of(seed=4))
    assert follower.look() == [record_of(number=1), final_of(seed=4)]
    assert list(follower.of("trial", "plain")) == [0, 1]
    assert follower.of("final", "plain") == {4: final_of(seed=4)}
    assert follower.of("final", "tuned") == {}


WRONG = {
    "balanced_accuracy of the {place} must be at most 1, got 1.5": {"balanced_accuracy": 1.5},
    "balanced_accuracy of the {place} must be a number, got '0.5'": {"balanced_accuracy": "0.5"},
    "balanced_accuracy of the {place} must be given in a complete run, got null": {"balanced_accuracy": None},
    "recall of the {place} must be given in a complete run, got none": {"recall": []},
    "recall.1 of the {place} must be at least 0, got -0.5": {"recall": [0.5, -0.5]},
    "split of the {place} must be val in a trial, got test": {"split": "test"},
    "number of the {place} must be given in a trial, got null": {"number": None},
    "number of the {place} must be null in a final, got 1": {"kind": "final", "split": "test"},
    "kind of the {place} must be 'trial' or 'final', got 'tria'": {"kind": "tria"},
    "epochs of the {place} must be an integer, got 2.5": {"epochs": 2.5},
    "seed of the {place} must be at least 0, got -1": {"seed": -1},
    "class_counts of the {place} must be as many as the recalls, 3, got 2": {"class_counts": [1, 2]},
    "methd of the {place} must not be there, got 'plain'; did you mean 'method'?": {"methd": "plain"},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, message: str) -> None:
    file = tmp_path / "r.jsonl"
    append_record(file, record_of())
    line = {**record_of(number=1).model_dump(mode="json"), **WRONG[message]}
    file.write_text(file.read_text() + json.dumps(line) + "\n")
    with pytest.raises(InputError) as caught:
        read_records(file)
    assert str(caught.value) == message.replace("{place}", f"record on line 2 of {file}")


def test_a_line_that_is_not_json_and_one_that_comes_twice_are_named(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text("# Results\n")
    with pytest.raises(InputError, match=r"^record on line 1 of .* must be a JSON object, got '# Results'$"):
        read_records(file)
    file.unlink()
    append_record(file, final_of())
    append_record(file, final_of())
    with pytest.raises(
        InputError, match=r"^record on line 2 of .* must be the only final 0 of plain, got a second one"
    ):
        read_records(file)
    with pytest.raises(InputError, match=r"^results must be an existing file, got "):
        read_records(tmp_path / "missing.jsonl")


def test_time_fields_and_only_they_may_differ() -> None:
    other: dict[str, Any] = {"seconds": 3.0, "seconds_shared": 3.0, "images_per_second": None, "peak_memory": None}
    other |= {"workers": 1, "device": "cuda", "versions": {}, "commit": "c", "started": "2027"}
    assert set(other) == set(TIME_FIELDS)
    assert same_but_for_time(record_of(), record_of(**other))
    for name, value in {"balanced_accuracy": 0.4, "number": 1, "carried": None, "curve": (), "inside": {}}.items():
        assert not same_but_for_time(record_of(), record_of(**{name: value}))


def test_the_best_complete_trial_is_chosen_and_the_first_of_equals() -> None:
    trials = [
        record_of(number=3, balanced_accuracy=0.7),
        record_of(number=1, balanced_accuracy=0.7),
        record_of(number=0, balanced_accuracy=0.6),
        record_of(number=2, state="pruned", balanced_accuracy=0.9, recall=()),
    ]
    assert chosen(trials) == trials[1]
    assert chosen(trials[3:]) is None


def test_the_digest_is_of_what_a_protocol_holds_fixed() -> None:
    digest = digest_of(study_runner.protocol())
    free: dict[str, Any] = {"note": "words", "methods": ("plain",), "trials": 3, "seeds": (0, 5)}
    assert set(free) == set(FREE)
    assert digest_of(study_runner.protocol(**free)) == digest
    for name, value in {"epochs": 21, "rungs": (5,), "imbalance": "exp:10", "learning_rate": (0.01, 0.1, 1.0)}.items():
        assert digest_of(study_runner.protocol(**{name: value})) != digest


def test_what_is_optional_counts_where_it_is_set() -> None:
    values: dict[str, Any] = {"resize": 16, "crop": 12, "mean": (0.5,), "std": (0.25,)}
    assert {*values, "metric", "target_prior", "cost"} == set(OPTIONAL)
    pair = {"mean": (0.4,), "std": (0.25,)}
    changed = [{"resize": 16}, {"resize": 15}, {"crop": 16}, {"mean": (0.5,), "std": (0.25,)}, pair]
    changed += [{"metric": "worst"}, {"metric": "macro-f1"}, {"metric": "macro-f1", "target_prior": (0.5, 0.5)}]
    changed += [{"metric": "prior", "target_prior": (0.5, 0.5)}, {"metric": "cost", "cost": ((0, 1), (2, 0))}]
    digests = {digest_of(study_runner.protocol(**one)) for one in [{}, *changed]}
    assert len(digests) == 1 + len(changed)
    assert digest_of(study_runner.protocol(**dict.fromkeys(values))) == digest_of(study_runner.protocol())
    assert digest_of(study_runner.protocol(metric="balanced")) == digest_of(study_runner.protocol())


KEPT = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*.protocol.json"))


@pytest.mark.parametrize("sidecar", KEPT, ids=lambda path: path.name.partition(".")[0])
def test_a_kept_protocol_has_the_digest_of_its_records(sidecar: Path) -> None:
    protocol = Protocol.model_validate(atomic.read_json(sidecar, "protocol")["protocol"])
    records = read_records(sidecar.with_name(sidecar.name.replace(".protocol.json", ".jsonl")))
    assert {one.protocol for one in records} == {digest_of(protocol)}


def test_every_kept_study_has_its_protocol_beside_it() -> None:
    kept = {path.name.partition(".")[0] for path in KEPT}
    assert kept == {path.stem for path in KEPT[0].parent.glob("study_*.jsonl")}
