"""What a study tunes and compares by: the metric of its protocol, in the search, in records and in comparisons."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pydantic
import pytest
import study_runner
import torch
from studies import final, trial
from tiny_study import COUNTS, protocol_of, run, write_data

from diversify.errors import InputError
from diversify.files.schema import refusal
from diversify.study.analysis import compare
from diversify.study.methods import METHODS, method_named
from diversify.study.protocol import HeadStep, Method, Parameters, Protocol, Setting, Trained
from diversify.study.read import load
from diversify.study.records import Record, append_record, chosen, read_records
from diversify.study.run import run_study
from diversify.study.study import Study
from diversify.study.task import load_task
from diversify.study.trial import Run

LAST = {"metric": "prior", "target_prior": (0.0, 0.0, 0.0, 1.0)}
CE = METHODS["ce"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "tiny.npz")


def study_of(results: Path, runner: str = "measuring", **changes: Any) -> Study:
    protocol = study_runner.protocol(**{"methods": ("tuned",), "trials": 5, "seeds": (0,), "rungs": (), **changes})
    return Study(protocol=protocol, results=results, runner=f"study_runner:{runner}")


def records_of(study: Study) -> list[Record]:
    for _ in run_study(study):
        pass
    return read_records(study.results)


# The protocol

REFUSED: dict[str, dict[str, Any]] = {
    "target_prior of the protocol must be given for metric=prior, got none": {"metric": "prior"},
    "cost of the protocol must be given for metric=cost, got none": {"metric": "cost"},
    "target_prior of the protocol must be left out for metric=balanced, which does not use it, got one; use metric=prior": {
        "target_prior": (0.5, 0.5)
    },
    "target_prior of the protocol must sum to 1 within 0.001, got 0.9": {"metric": "prior", "target_prior": (0.5, 0.4)},
    "cost of the protocol must have 2 rows of 2 numbers, one for each class, got 2 x 3": {
        "metric": "cost",
        "cost": ((0, 1, 1), (1, 0, 1)),
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_metric_without_its_numbers_is_refused(message: str) -> None:
    with pytest.raises(pydantic.ValidationError) as raised:
        Protocol(suite="mine", data="digits", methods=("ce",), **REFUSED[message])
    assert str(refusal("protocol", raised.value)) == message


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ((0.5, 0.5), r"target_prior must hold a share for each of the 4 classes, got 2"),
        ((0.7, 0.1, 0.1, 0.1), r"target_prior must give a share only to classes with held-out rows, .* for class 3"),
    ],
)
def test_numbers_that_do_not_fit_the_data_are_refused_before_any_run(
    tmp_path: Path, prior: tuple[float, ...], message: str
) -> None:
    few = write_data(tmp_path / "few.npz", counts=(12, 8, 4, 1))
    with pytest.raises(InputError, match=message):
        load_task(protocol_of(few, metric="prior", target_prior=prior), device="cpu")


# One run


def test_the_score_is_the_metric_on_the_evaluation_images(file: Path) -> None:
    prior, cost = (0.7, 0.1, 0.1, 0.1), tuple(tuple(3.0 * (i > j) + 1.0 * (i < j) for j in range(4)) for i in range(4))
    kinds: list[dict[str, Any]] = [
        {"metric": "prior", "target_prior": prior},
        {"metric": "worst"},
        {"metric": "macro-f1"},
    ]
    usual = run(load_task(protocol_of(file), device="cpu"), CE)
    assert usual.score is None
    weighted, worst, f1 = (run(load_task(protocol_of(file, **kind), device="cpu"), CE) for kind in kinds)
    assert usual.recall == weighted.recall == worst.recall  # the metric changes nothing about training
    assert weighted.score == pytest.approx(math.fsum(p * r for p, r in zip(prior, usual.recall, strict=True)))
    assert worst.score == min(usual.recall)
    assert worst.curve != usual.curve
    assert f1.score == pytest.approx(f1.macro_f1)
    costly = run(load_task(protocol_of(file, metric="cost", cost=cost), device="cpu"), CE)
    assert costly.score < 0
    assert all(value <= 0 for value in costly.curve)


@pytest.mark.slow
def test_what_treats_classes_alike_aims_at_the_target_prior(file: Path) -> None:
    task = load_task(protocol_of(file, **LAST), device="cpu")
    plain = run(load_task(protocol_of(file), device="cpu"), CE)
    assert run(task, CE).recall == plain.recall  # plain training corrects for no prior
    for name in ("balanced_softmax", "logit_adjustment", "crt", "diversify_features"):
        outcome = run(task, method_named(name), changed={"head_share": 1.0} if name == "diversify_features" else {})
        assert outcome.recall == (0.0, 0.0, 0.0, 1.0)
        assert outcome.score == 1.0
    assert set(run(task, method_named("balanced_softmax")).curve) == {1.0}


def test_a_step_says_how_far_it_aims(file: Path) -> None:
    """The bias moves by `balances` times the log of the target share over an equal share."""
    prior = torch.tensor([0.4, 0.3, 0.2, 0.1])
    protocol = protocol_of(file, metric="prior", target_prior=tuple(prior.tolist()), rungs=())
    seen = []

    def step(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
        seen.append((trained.balances, trained.head))
        return HeadStep(head=trained.head, balances=0.5)

    method = Method(
        name="half", meaning="m", source="s", head_step=step, balances=lambda setting, _: 1 / setting.num_classes
    )
    outcome = run(load_task(protocol, device="cpu"), method)
    (balances, head) = seen[0]
    assert balances == 0.25
    assert outcome.score is not None
    task = load_task(protocol, device="cpu")
    rows = task.images("canonical", "val")
    started = Run.start(protocol, rows, method, {}, epochs=1, seed=0)
    moved = started.aimed(head, 0.5).bias - head.bias
    assert torch.allclose(moved, 0.5 * (4 * prior).log(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "ce": 0.0,
        "focal": 0.0,
        "tau_norm": 0.0,
        "square_root": 0.5,
        "square_root_sampling": 0.5,
        "inverse_frequency": 1.0,
        "balanced_softmax": 1.0,
        "diversify": 1.0,
        "plan_from_counts": 1.0,
        "balanced_softmax+images+mix+head": 1.0,
        "vs": 1.25,
        "cb_focal": 0.992,
    }.items(),
)
def test_how_far_training_balances_the_classes(name: str, expected: float) -> None:
    method, counts = method_named(name), torch.tensor(COUNTS)
    defaults = {each: one.default for each, one in method.space.items()}
    names = tuple("abcd")
    labels = torch.arange(4).repeat_interleave(counts)
    setting = Setting(images=None, labels=labels, class_counts=counts, class_names=names, epochs=1, seed=0, base=None)
    assert method.balances_in(setting, defaults) == pytest.approx(expected, abs=0.01)
    same = dataclasses.replace(setting, class_counts=torch.full((4,), 9))
    assert 0 <= method.balances_in(same, defaults) <= 1.25


@pytest.mark.slow
def test_the_head_after_another_step_keeps_what_that_step_balances(file: Path) -> None:
    task = load_task(protocol_of(file, **LAST, rungs=()), device="cpu")
    halves = {"head_share": 0.0}
    assert run(task, method_named("crt+head"), changed=halves).recall == (0.0, 0.0, 0.0, 1.0)
    assert run(task, method_named("ce+head"), changed=halves).recall == run(task, CE).recall


# The search and the records


def test_the_search_chooses_by_the_metric(tmp_path: Path) -> None:
    by = {name: records_of(study_of(tmp_path / f"{name}.jsonl", metric=name)) for name in ("balanced", "worst")}
    for name, records in by.items():
        trials = [one for one in records if one.kind == "trial"]
        best = max(trials, key=lambda one: one.balanced_accuracy if name == "balanced" else -one.balanced_accuracy)
        assert {json.dumps(one.params) for one in records if one.kind == "final"} == {json.dumps(best.params)}
        assert chosen(trials) == best
        assert all(one.metric == name for one in records)
    usual, other = (by[name][0] for name in ("balanced", "worst"))
    assert usual.score is None
    assert other.value == other.score == pytest.approx(1 - other.balanced_accuracy)
    assert by["balanced"][0].params == by["worst"][0].params
    assert by["balanced"][-1].params != by["worst"][-1].params
    stored = [json.loads(line) for line in (tmp_path / "balanced.jsonl").read_text().splitlines()]
    assert all("metric" not in line and "score" not in line for line in stored)  # the lines are as they were


def test_a_trial_that_is_stopped_keeps_the_metric_of_its_last_rung(tmp_path: Path) -> None:
    records = records_of(study_of(tmp_path / "r.jsonl", metric="worst", trials=12, rungs=(5, 10)))
    stopped = [one for one in records if one.state == "pruned"]
    assert stopped
    assert all(one.balanced_accuracy is None and one.score == one.curve[-1][1] for one in stopped)


def test_records_of_another_metric_are_refused(tmp_path: Path) -> None:
    records_of(study_of(tmp_path / "r.jsonl", trials=1))
    for changes, differs in (
        ({"metric": "worst"}, "metric worst, not balanced"),
        ({"metric": "prior", "target_prior": (0.5, 0.5)}, "metric prior, not balanced; target_prior"),
    ):
        with pytest.raises(InputError, match=rf"must belong to one protocol, got {differs}.*; choose another file"):
            records_of(study_of(tmp_path / "r.jsonl", trials=1, **changes))


def test_a_file_from_before_there_were_metrics_goes_on(tmp_path: Path) -> None:
    study = study_of(tmp_path / "r.jsonl", trials=2)
    before = records_of(study)
    kept = json.loads(study.sidecar.read_text())
    for name in ("metric", "target_prior", "cost"):
        del kept["protocol"][name]
    study.sidecar.write_text(json.dumps(kept))
    lines = study.results.read_bytes()
    assert records_of(study) == before
    assert study.results.read_bytes() == lines
    assert len(records_of(study_of(tmp_path / "r.jsonl", trials=2, seeds=(0, 1)))) == len(before) + 1
    with pytest.raises(InputError, match="metric worst, not balanced"):
        records_of(study_of(tmp_path / "r.jsonl", trials=2, metric="worst"))


def test_a_runner_that_measures_nothing_else_is_refused(tmp_path: Path) -> None:
    message = "metric must be balanced with this runner, which measures nothing else, got worst"
    with pytest.raises(InputError, match=message):
        records_of(study_of(tmp_path / "r.jsonl", runner="fake", metric="worst"))
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": 0.5}, "score of the record must be left out where the metric is balanced"),
        ({"metric": "worst"}, "score of the record must be given in a complete run where the metric is worst"),
        ({"metric": "worst", "score": 1.5}, "score of the record must be at most 1, got 1.5"),
        ({"metric": "cost", "score": 0.5}, "score of the record must be at most 0, got 0.5"),
        ({"curve": ((5, 1.5),)}, "curve of the record must be at most 1, got 1.5"),
        ({"metric": "area"}, "metric of the record must be "),
    ],
)
def test_a_record_with_an_impossible_score_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    record = records_of(study_of(tmp_path / "r.jsonl", trials=1))[0]
    with pytest.raises(pydantic.ValidationError) as raised:
        Record.model_validate({**record.model_dump(), **changes})
    assert str(refusal("record", raised.value)).startswith(message)


def test_a_record_of_another_metric_comes_back_as_it_was(tmp_path: Path) -> None:
    record = records_of(study_of(tmp_path / "r.jsonl", trials=1))[0]
    costly = record.model_copy(update={"metric": "cost", "score": -2.5})
    append_record(tmp_path / "other.jsonl", costly)
    assert read_records(tmp_path / "other.jsonl") == [costly]
    assert load(tmp_path / "other.jsonl")[0]["score"] == -2.5
    broken = json.loads((tmp_path / "other.jsonl").read_text()) | {"score": None}
    (tmp_path / "broken.jsonl").write_text(json.dumps(broken) + "\n")
    with pytest.raises(
        InputError, match=r"results.jsonl must hold records of a study, got line 1 of .* with score None"
    ):
        load(tmp_path / "broken.jsonl")


# Comparisons


def scored(metric: str, score: float, record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "metric": metric, "score": score}


def test_methods_are_compared_by_the_metric() -> None:
    records = []
    for method, score in (("ce", 0.9), ("vs", 0.2), ("diversify", 0.5)):
        records += [scored("worst", score - 0.1, trial(method, 0, 0.5)), scored("worst", score, trial(method, 1, 0.4))]
        records += [scored("worst", score + 0.01 * seed, final(method, seed)) for seed in range(3)]
    suite = compare(records).suites[0]
    assert (suite.metric, suite.metric_title) == ("worst", "recall of the worst class")
    assert [one.name for one in suite.finished] == ["ce", "diversify", "vs"]  # the other way round by balanced accuracy
    ours = suite.method("diversify")
    assert (ours.budget.val, ours.budget.val_default) == (0.5, 0.4)
    assert ours.budget.params == {"learning_rate": 0.1}
    gain = suite.references["baseline"].differences["diversify"]
    assert gain.paired.mean == pytest.approx(-0.4)
    assert gain.verdict == "behind"
    assert suite.references["baseline"].others["balanced_accuracy"]["diversify"].verdict == "ahead"
    with pytest.raises(InputError, match="results must hold one metric under one protocol, got balanced and worst"):
        compare([*records, final("focal", 0)])


def test_the_interval_of_a_cost_does_not_reach_beyond_no_cost() -> None:
    records = [scored("cost", -score, final("ce", seed)) for seed, score in enumerate((0.1, 2.0, 0.4))]
    records += [scored("cost", -1.0, trial("vs", 0, 0.5)), scored("cost", -0.5, trial("vs", 1, 0.4))]
    suite = compare(records).suites[0]
    score = suite.method("ce").scores["score"]
    assert score.low < -1
    assert score.high == 0.0
    assert suite.method("vs").budget.val == -0.5
    assert not suite.in_shares


def test_records_without_a_metric_are_compared_by_balanced_accuracy() -> None:
    suite = compare([final("ce", seed) for seed in range(3)]).suites[0]
    assert suite.metric == "balanced"
    assert suite.method("ce").scores["score"] == suite.method("ce").scores["balanced_accuracy"]
    assert "balanced_accuracy" not in suite.references["baseline"].others
