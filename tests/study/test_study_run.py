"""Running a study: exact counts, the same records after any number of kills, and several processes that share the work."""

import math
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import study_runner
import torch
from processes import wait_until
from studies import same_but_for_time
from tiny_study import protocol_of, write_data

from diversify.errors import InputError
from diversify.files import atomic
from diversify.files import locks as files_locks
from diversify.functional import draws
from diversify.runtime import provenance
from diversify.study import queue, tune, workers
from diversify.study import study as study_study
from diversify.study import trial as study_trial
from diversify.study.database import StorageError
from diversify.study.ledger import Step
from diversify.study.protocol import Protocol
from diversify.study.records import Record, append_record, read_records
from diversify.study.run import run_study
from diversify.study.study import Study
from diversify.training import resident


def study_of(results: Path, protocol: Protocol | None = None, **more: Any) -> Study:
    return Study(
        protocol=protocol or study_runner.protocol(), results=results, **{"runner": "study_runner:fake", **more}
    )


def records_of(study: Study) -> list[Record]:
    """Return all records of a study that is run to its end."""
    for _ in run_study(study):
        pass
    return read_records(study.results)


def counted(records: list[Record]) -> dict[tuple[str, str], list[int]]:
    """Return the numbers of the trials and the seeds of the final runs, per method."""
    found: dict[tuple[str, str], list[int]] = {}
    for one in records:
        found.setdefault((one.kind, one.method), []).append(one.key[-1])
    return {key: sorted(places) for key, places in found.items()}


def exact(protocol: Protocol) -> dict[tuple[str, str], list[int]]:
    trials = {("trial", name): list(range(protocol.trials)) for name in protocol.methods}
    return trials | {("final", name): sorted(protocol.seeds) for name in protocol.methods if name != "hopeless"}


def assert_same(one: list[Record], other: list[Record]) -> None:
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        assert same_but_for_time(first, second), (first, second)


ALL = study_runner.protocol(methods=tuple(study_runner.METHODS), trials=24)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The records of a study without interruption, with pruned and failed trials among them."""
    return records_of(study_of(tmp_path_factory.mktemp("study") / "results.jsonl", ALL))


def test_every_method_has_its_trials_and_every_seed_its_final_run(undisturbed: list[Record]) -> None:
    assert counted(undisturbed) == exact(ALL)
    assert {one.state for one in undisturbed} == {"complete", "pruned", "failed"}


def test_trials_are_judged_on_val_and_finals_on_test(undisturbed: list[Record]) -> None:
    for one in undisturbed:
        assert one.split == ("val" if one.kind == "trial" else "test")
        if one.kind == "trial":
            assert one.seed == ALL.seeds[0]


def test_the_first_trial_has_the_published_values(undisturbed: list[Record]) -> None:
    first = {one.method: one.params for one in undisturbed if one.number == 0}
    rates = {"learning_rate": 0.1, "weight_decay": 2e-4}
    assert first == {
        "plain": rates,
        "tuned": {**rates, "beta": 0.9, "layers": 2, "kind": "b"},
        "fragile": {**rates, "gamma": 0.9},
        "hopeless": rates,
    }


def test_parameters_lie_in_the_space_and_differ(undisturbed: list[Record]) -> None:
    tuned = [one.params for one in undisturbed if (one.kind, one.method) == ("trial", "tuned")]
    for params in tuned:
        assert 0.03 <= float(params["learning_rate"]) <= 0.3
        assert 0.5 <= float(params["beta"]) <= 1
        assert params["layers"] in (1, 2, 3, 4)
        assert isinstance(params["layers"], int)
        assert params["kind"] in ("a", "b", "c")
    assert len({str(params) for params in tuned}) == len(tuned)


def test_finals_have_the_parameters_of_the_best_complete_trial_and_what_it_carried(undisturbed: list[Record]) -> None:
    for name in ("plain", "tuned", "fragile"):
        complete = [one for one in undisturbed if (one.method, one.kind, one.state) == (name, "trial", "complete")]
        best = max(complete, key=lambda one: (one.balanced_accuracy or 0, -(one.number or 0)))
        for final in (one for one in undisturbed if (one.method, one.kind) == (name, "final")):
            assert final.params == best.params
            assert final.carried == {"given": best.carried}
            assert final.inside == {"leak": [0.1, None, 0.2]}


def test_pruned_trials_were_behind_the_median_and_failed_ones_say_why(undisturbed: list[Record]) -> None:
    for one in undisturbed:
        if one.state == "pruned":
            before = [
                dict(other.curve)[one.epochs]
                for other in undisturbed
                if (other.method, other.state) == (one.method, "complete") and (other.number or 0) < (one.number or 0)
                if other.kind == "trial"
            ]
            assert len(before) >= 4
            assert one.balanced_accuracy == one.curve[-1][1] < sorted(before)[len(before) // 2]
        if one.state == "failed":
            assert one.balanced_accuracy is None
            assert "nan" in one.reason
            assert one.params


def test_without_rungs_nothing_is_pruned(tmp_path: Path) -> None:
    records = records_of(study_of(tmp_path / "r.jsonl", study_runner.protocol(rungs=(), trials=12)))
    assert {one.state for one in records} == {"complete"}


def test_a_method_none_of_whose_trials_is_complete_has_no_final_run(undisturbed: list[Record]) -> None:
    assert ("final", "hopeless") not in counted(undisturbed)


def test_a_finished_study_does_nothing(tmp_path: Path) -> None:
    study = study_of(tmp_path / "r.jsonl", study_runner.protocol(methods=("plain", "hopeless")))
    records_of(study)
    before = study.results.read_bytes()
    steps = list(run_study(study))
    assert [(step.method, step.record, step.done, step.total) for step in steps] == [
        ("plain", None, 8, 8),
        ("hopeless", None, 6, 6),
    ]
    assert study.results.read_bytes() == before
    assert not study.lock.exists()


def test_records_of_another_user_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, asked = study_of(tmp_path / "r.jsonl", study_runner.protocol(methods=("plain",))), os.access
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != tmp_path and asked(place, mode))
    with pytest.raises(InputError, match="results must be writable"):
        list(run_study(study))
    assert list(tmp_path.iterdir()) == []


def test_steps_say_how_far_a_study_is(tmp_path: Path) -> None:
    steps = list(run_study(study_of(tmp_path / "r.jsonl", study_runner.protocol(methods=("plain",), rungs=()))))
    assert [step.done for step in steps] == list(range(9))
    assert all(step.total == 8 for step in steps)
    assert steps[0].seconds_left is None
    assert [step.seconds_left for step in steps[1:]] == [0.5 * left for left in range(7, -1, -1)]
    assert steps[-1] == Step(
        method="plain", record=steps[-1].record, done=8, total=8, seconds_left=0.0, seconds_left_in_all=0.0
    )


# Resuming


def test_a_study_goes_on_after_every_record(tmp_path: Path) -> None:
    whole = records_of(study_of(tmp_path / "whole.jsonl"))
    study = study_of(tmp_path / "r.jsonl")
    for _ in range(len(whole)):
        steps = run_study(study)
        next(step for step in steps if step.record is not None)
        steps.close()
    assert_same(read_records(study.results), whole)


def cut_off(monkeypatch: pytest.MonkeyPatch, *, after: int | None) -> list[int]:
    """Return the list of epochs trained from here on; with `after`, training is interrupted after so many."""
    trained: list[int] = []
    fit_resident = resident.fit_resident

    def fit(*args: Any, progress: Any = None, **options: Any) -> Iterator[Any]:
        def counted(done: int, total: int) -> None:
            if done * args_epochs % total == 0:
                trained.append(done * args_epochs // total)
            if after is not None and len(trained) > after:
                raise KeyboardInterrupt

        args_epochs = options["recipe"].epochs
        return fit_resident(*args, progress=counted, **options)

    monkeypatch.setattr(study_trial, "fit_resident", fit)
    return trained


@pytest.mark.slow
def test_a_long_run_goes_on_from_its_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_trial, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(provenance, "commit", lambda: "abc")
    protocol = protocol_of(write_data(tmp_path / "tiny.npz"), trials=1, seeds=(0, 1), rungs=())
    standard = {"runner": "diversify.study.study:standard_runner"}
    whole = records_of(study_of(tmp_path / "whole.jsonl", protocol, **standard))
    study = study_of(tmp_path / "r.jsonl", protocol, **standard)
    cut_off(monkeypatch, after=5)  # in the last epoch of the first final run
    with pytest.raises(KeyboardInterrupt):
        records_of(study)
    assert len(read_records(study.results)) == 1
    [state] = study.states.iterdir()
    (study.states / "of-another-commit.safetensors").write_bytes(b"")
    trained = cut_off(monkeypatch, after=None)
    assert_same(records_of(study), whole)
    assert trained == [3, 1, 2, 3], "the last epoch of the first final run, and all of the second"
    assert not study.states.exists()
    assert state.name != "of-another-commit.safetensors"


def test_changed_code_does_not_go_on_from_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_trial, "SAVE_EVERY", 0.0)
    protocol = protocol_of(write_data(tmp_path / "tiny.npz"), trials=1, seeds=(0,), rungs=())
    study = study_of(tmp_path / "r.jsonl", protocol, runner="diversify.study.study:standard_runner")
    for commit, left in (("abc", 1), ("def", 2), ("def+", 2)):
        monkeypatch.setattr(provenance, "commit", lambda commit=commit: commit)
        trained = cut_off(monkeypatch, after=2)
        with pytest.raises(KeyboardInterrupt):
            records_of(study)
        assert trained == [1, 2, 3], "from the beginning"
        assert len(list(study.states.iterdir())) == left
        monkeypatch.undo()
        monkeypatch.setattr(study_trial, "SAVE_EVERY", 0.0)


def stopped_between(monkeypatch: pytest.MonkeyPatch, study: Study, owner: Any, name: str, *, before: bool) -> None:
    """Stop the study at its fourth call of a function, before or after the call."""
    original, calls = getattr(owner, name), []

    def stopping(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if before and len(calls) == 4:
            raise KeyboardInterrupt
        result = original(*args, **kwargs)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stopping)
        with pytest.raises(KeyboardInterrupt):
            records_of(study)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    "place",
    ["run.append_record", "Search._tell", "Search.begin", "Search.settle", "Trial.stops", "Study.ask", "Trial.attr"],
)
def test_a_stop_between_two_writes_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, before: bool
) -> None:
    import optuna

    owners: dict[str, tuple[Any, str]] = {
        "run.append_record": (queue, "append_record"),
        "Search._tell": (tune.Search, "_tell"),
        "Search.begin": (tune.Search, "begin"),
        "Search.settle": (tune.Search, "settle"),
        "Trial.stops": (tune.Trial, "stops"),
        "Study.ask": (optuna.Study, "ask"),
        "Trial.attr": (optuna.Trial, "set_user_attr"),
    }
    whole = records_of(study_of(tmp_path / "whole.jsonl"))
    study = study_of(tmp_path / "r.jsonl")
    for _ in range(2):
        stopped_between(monkeypatch, study, *owners[place], before=before)
    assert_same(records_of(study), whole)


def test_a_trial_that_was_cut_off_is_run_again_with_its_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the sampler would now choose others, because another process has recorded a trial in the meantime."""
    study = study_of(tmp_path / "r.jsonl")
    stopped_between(monkeypatch, study, tune.Search, "begin", before=False)
    import optuna

    backend = optuna.storages.journal.JournalFileBackend(str(study.journal))
    kept = optuna.storages.JournalStorage(backend)
    (summary,) = optuna.get_all_study_summaries(kept)
    cut_off = optuna.load_study(study_name=summary.study_name, storage=kept).trials[-1]
    assert (cut_off.state.name, cut_off.user_attrs["number"]) == ("RUNNING", 3)
    with monkeypatch.context() as patch:
        patch.setattr("diversify.study.tune.draws.seed_for", lambda *key: 99)
        records = records_of(study)
    assert next(one for one in records if one.number == 3).params == cut_off.params
    trials = optuna.load_study(study_name=summary.study_name, storage=kept).trials
    states = [one.state.name for one in trials if one.user_attrs["number"] == 3]
    assert states[0] == "FAIL"
    assert len(states) == 2


def killed_study(study: Study, begun: Any, most: int | None = None) -> None:
    """The work of a process that is killed at some moment; it makes so many runs and then waits for its end."""
    study_runner.PAUSE = max(study_runner.PAUSE, 0.004)
    study_runner.MOST, study_runner.MADE = most, []
    provenance.commit = lambda: None
    begun.set()
    records_of(study)
    os._exit(0)


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_records_after_twenty_kills_are_those_of_a_study_without_one(tmp_path: Path, undisturbed: list[Record]) -> None:
    """SIGKILL at seeded moments. Processes are forked, so everything is imported already.

    Each makes five runs at most: however late it is killed, the study of 102 runs is not done after twenty.
    """
    context = multiprocessing.get_context("fork")
    study = study_of(tmp_path / "r.jsonl", ALL)
    for turn in range(20):
        begun = context.Event()
        member = context.Process(target=killed_study, args=(study, begun, 5))
        member.start()
        assert begun.wait(30)
        awaited = lines_in(study.results) + int(4 * draws.number("records", turn))
        while member.is_alive() and lines_in(study.results) < awaited:
            time.sleep(0.001)
        member.join((0.03 if turn % 4 == 0 else 0.012) * draws.number("moment", turn))
        member.kill()
        member.join()
        assert member.exitcode == -signal.SIGKILL
    assert 20 < lines_in(study.results) < len(undisturbed)
    assert_same(records_of(study), undisturbed)
    assert all(one.endswith(b"}") for one in study.results.read_bytes().splitlines())


@pytest.mark.slow
def test_a_lost_journal_and_a_lost_results_file_are_made_good(tmp_path: Path, undisturbed: list[Record]) -> None:
    study = study_of(tmp_path / "r.jsonl", ALL)
    steps = run_study(study)
    for _ in range(40):
        next(steps)
    steps.close()
    study.journal.unlink()
    assert_same(records_of(study), undisturbed)
    kept = study.results.read_bytes().splitlines(keepends=True)
    study.results.write_bytes(b"".join(kept[:20]) + kept[20][:10])  # the last line is incomplete
    assert_same(records_of(study), undisturbed)
    study.results.unlink()
    assert_same(records_of(study), undisturbed)


@pytest.mark.slow
def test_a_database_holds_a_search_as_well(tmp_path: Path, undisturbed: list[Record]) -> None:
    protocol = study_runner.protocol(methods=("tuned",), trials=12)
    study = study_of(tmp_path / "r.jsonl", protocol, storage=f"sqlite:///{tmp_path}/search.db")
    steps = run_study(study)
    for _ in range(6):
        next(steps)
    steps.close()
    assert_same(records_of(study), records_of(study_of(tmp_path / "other.jsonl", protocol)))
    assert (tmp_path / "search.db").exists()
    assert not study.journal.exists()


# Several processes


@pytest.mark.slow
def test_several_processes_share_a_study(tmp_path: Path) -> None:
    """Each process reads the file that declares methods."""
    file = tmp_path / "own.py"
    file.write_text("import study_runner\nMETHODS = (study_runner.Method(name='own', meaning='m', source='s'),)\n")
    protocol = study_runner.protocol(methods=("own", "tuned", "fragile"), trials=6)
    study = study_of(tmp_path / "r.jsonl", protocol, workers=2, declared=file, runner="study_runner:slow")
    steps = list(run_study(study))
    records = read_records(study.results)
    assert counted(records) == exact(protocol)
    assert [step.record for step in steps if step.record is not None] == records
    assert all((one.workers, one.seconds_shared) == (2, one.seconds / 2) for one in records)
    assert not study.lock.exists()
    assert all(step.record is None for step in run_study(study))


def test_the_others_finish_what_a_killed_process_had(tmp_path: Path) -> None:
    """One of three processes that share a file is killed in the middle of a trial."""
    context = multiprocessing.get_context("fork")
    protocol = study_runner.protocol(trials=10)
    study = study_of(tmp_path / "r.jsonl", protocol)
    members = [context.Process(target=killed_study, args=(study, context.Event(), most)) for most in (2, None, None)]
    members[0].start()
    wait_until(lambda: lines_in(study.results) == 2)
    with files_locks.Locks(study.lock) as locks:
        wait_until(lambda: locks.is_taken("trial 2 of plain"))
    for member in members[1:]:
        member.start()
    wait_until(lambda: lines_in(study.results) == 21)  # all but its trial and the final runs of that method
    assert members[0].is_alive()
    members[0].kill()
    for member in members:
        member.join(30)
    assert [member.exitcode for member in members] == [-signal.SIGKILL, 0, 0]
    assert counted(read_records(study.results)) == exact(protocol)


def waiting_run(*args: Any, **kwargs: Any) -> Any:
    time.sleep(60)


def waiting_study(study: Study) -> None:
    study_runner.run = waiting_run
    records_of(study)


def test_a_process_without_work_waits_for_that_of_others(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    study = study_of(tmp_path / "r.jsonl", study_runner.protocol(methods=("plain",), trials=1, seeds=(0,)))
    first = context.Process(target=waiting_study, args=(study,))
    first.start()
    with files_locks.Locks(study.lock) as locks:
        wait_until(lambda: locks.is_taken("trial 0 of plain"))
    begun = context.Event()
    second = context.Process(target=killed_study, args=(study, begun))
    second.start()
    assert begun.wait(60)
    second.join(0.3)
    assert second.is_alive()
    first.kill()
    second.join(30)
    assert second.exitcode == 0
    assert counted(read_records(study.results)) == exact(study.protocol)


def test_finals_wait_for_all_trials_of_their_method(tmp_path: Path) -> None:
    study = study_of(tmp_path / "r.jsonl", study_runner.protocol(trials=3))
    with files_locks.Locks(study.lock) as locks:
        desk = queue.Desk(study, locks)
        jobs = list(iter(desk.next, None))
        assert [(job.kind, job.method.name, job.place) for job in jobs] == [
            ("trial", name, number) for name in ("plain", "tuned") for number in range(3)
        ]
        for job in jobs[:2]:
            record, _ = workers._run(study, study.protocol, job, provenance.origin(torch.device("cpu")))
            assert record is not None
            desk.hand_in(job, record)
        assert desk.next() is None
        assert not desk.is_done()
    assert counted(records_of(study)) == exact(study.protocol)


def test_a_database_that_is_lost_makes_no_failed_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(*given: Any) -> bool:
        raise StorageError("storage must answer within 600 seconds, got nothing")

    monkeypatch.setattr(tune.Trial, "stops", stops)
    study = study_of(tmp_path / "r.jsonl")
    with pytest.raises(StorageError, match="within 600 seconds"):
        list(run_study(study))
    assert not study.results.exists()


def test_a_run_that_somebody_else_recorded_is_not_recorded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This can happen on a file system whose locks do not reach from one machine to another."""
    whole = records_of(study_of(tmp_path / "whole.jsonl"))
    study = study_of(tmp_path / "r.jsonl")

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        if not study.results.exists():
            append_record(study.results, whole[0])
        return study_runner.run(*args, **kwargs)

    runner = study_study.Runner(load=study_runner.load, run=overtaken, method=study_runner.method_named)
    monkeypatch.setattr(study_runner, "fake", lambda: runner)
    assert_same(records_of(study), whole)


@pytest.mark.slow
def test_errors_of_worker_processes_are_told(tmp_path: Path) -> None:
    study = study_of(tmp_path / "r.jsonl", workers=2, root="missing")
    with pytest.raises(InputError, match=r"^data under --root must be there, got missing$"):
        list(run_study(study))
    assert list(tmp_path.iterdir()) == []


# Refusals: one line, and nothing is lost


def refused(study: Study, message: str) -> None:
    before = {path: path.read_bytes() for path in study.results.parent.iterdir()}
    with pytest.raises(InputError) as caught:
        list(run_study(study))
    assert str(caught.value) == message.replace("{r}", str(study.results))
    assert {path: path.read_bytes() for path in study.results.parent.iterdir()} == before


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    results = tmp_path / "r.jsonl"
    records_of(study_of(results))
    return results


def test_records_of_another_protocol_are_refused(finished: Path) -> None:
    message = "records in {r} must belong to one protocol, got model resnet20, not resnet32; epochs 30, not 20; choose another file"
    refused(study_of(finished, study_runner.protocol(epochs=30, model="resnet20")), message)
    message = "records in {r} must belong to one protocol, got resize 32, not None; choose another file"
    refused(study_of(finished, study_runner.protocol(resize=32)), message)
    message = "records in {r} must belong to one protocol, got suite other, not fake; choose another file"
    refused(study_of(finished, study_runner.protocol(suite="other")), message)
    finished.with_suffix(".protocol.json").unlink()
    message = "records in {r} must belong to one protocol, got another protocol; choose another file"
    refused(study_of(finished, study_runner.protocol(epochs=30)), message)


def test_more_methods_and_seeds_may_come_later(finished: Path) -> None:
    before = read_records(finished)
    more = study_runner.protocol(methods=("fragile", "plain", "tuned"), seeds=(0, 1, 2), note="words")
    records = records_of(study_of(finished, more))
    assert records[: len(before)] == before
    assert counted(records) == exact(more)
    alone = study_of(finished, study_runner.protocol(methods=("hopeless",)))  # the other methods stay listed
    records_of(alone)
    listed = atomic.read_json(alone.sidecar, "protocol")["protocol"]["methods"]
    assert set(listed) == {one.method for one in read_records(finished)}


def test_other_seeds_are_refused_where_records_would_not_fit(tmp_path: Path) -> None:
    results, orders = tmp_path / "r.jsonl", {"tail_orders": ("canonical", "1", "2")}
    records = records_of(study_of(results, study_runner.protocol(**orders)))
    assert [one.tail_order for one in records if one.method == "plain" and one.kind == "final"] == ["canonical", "1"]
    advice = "list the recorded seeds first, in their order"
    message = f"seeds must start with 0, the seed of the trials in {{r}}, got 1; {advice}"
    refused(study_of(results, study_runner.protocol(seeds=(1, 0), **orders)), message)
    message = f"seeds must leave seed 1 its tail order 1, got 2; {advice}"
    refused(study_of(results, study_runner.protocol(seeds=(0, 2, 1), **orders)), message)


def test_more_trials_may_come_later_but_finals_of_another_trial_are_refused(tmp_path: Path) -> None:
    results = tmp_path / "r.jsonl"
    few = study_runner.protocol(methods=("tuned",), trials=1, rungs=())
    many = study_runner.protocol(methods=("tuned",), trials=40, rungs=())
    finals = records_of(study_of(results, few))[1:]
    with pytest.raises(InputError, match="finals of tuned in .* must be of its best trial of 40, trial"):
        records_of(study_of(results, many))
    assert len(read_records(results)) == 42  # the trials are not lost
    best = max(read_records(results), key=lambda one: (one.kind == "trial", one.balanced_accuracy)).number
    message = (
        f"finals of tuned in {{r}} must be of its best trial of 40, trial {best}, got those of another trial;"
        " delete their lines to run them again, or keep the earlier number of trials"
    )
    refused(study_of(results, many), message)
    assert all(step.record is None for step in run_study(study_of(results, few)))
    lines = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join(line for line in lines if b'"kind": "trial"' in line))
    records = records_of(study_of(results, many))
    assert counted(records) == exact(many)
    assert records[-1].params != finals[-1].params


def test_another_search_space_is_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    tuned = study_runner.METHODS["tuned"]
    other = {**tuned.space, "kind": study_runner.Choice(values=("a", "b"), default="a")}
    monkeypatch.setitem(study_runner.METHODS, "tuned", dataclasses.replace(tuned, space=other))
    message = "search space of tuned must be those of the trials in {r}, got another kind; choose another file"
    refused(study_of(finished), message.replace("must be those", "must be that"))


def test_what_cannot_be_is_refused(finished: Path, tmp_path: Path) -> None:
    refused(
        study_of(finished, study_runner.protocol(methods=("plan",))),
        "method must be one of plain, tuned, fragile, hopeless, got 'plan'; did you mean 'plain'?",
    )
    refused(
        study_of(finished, storage="redis://here"),
        "storage must be one of sqlite://..., postgresql://..., mysql://..., got 'redis://here';"
        " for example sqlite:///study.db; leave it out for a journal beside the results",
    )
    refused(study_of(finished, workers=0), "workers must be at least 1, got 0")
    folder = tmp_path / "folder"
    with pytest.raises(InputError, match="results must be a file that ends in .jsonl, got "):
        list(run_study(study_of(folder)))
    (tmp_path / "d.jsonl").mkdir()
    with pytest.raises(InputError, match="results must be a file, got the folder "):
        list(run_study(study_of(tmp_path / "d.jsonl")))


def test_a_database_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    study = study_of(tmp_path / "r.jsonl", storage=f"sqlite:///{tmp_path}/missing/search.db")
    with pytest.raises(InputError, match="storage must be a database that can be opened, got 'sqlite:"):
        list(run_study(study))


def test_a_final_run_that_fails_leaves_the_others_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        if kwargs["split"] == "test" and kwargs["seed"] == 0 and args[1].name == "plain":
            raise FloatingPointError("loss of nan")
        return study_runner.run(*args, **kwargs)

    runner = study_study.Runner(load=study_runner.load, run=failing, method=study_runner.method_named)
    monkeypatch.setattr(study_runner, "fake", lambda: runner)
    study = study_of(tmp_path / "r.jsonl")
    message = (
        "final run of plain with seed 0 must succeed, got FloatingPointError: loss of nan; the other runs are recorded"
    )
    with pytest.raises(InputError, match=f"^{message}$"):
        records_of(study)
    expected = {**exact(study.protocol), ("final", "plain"): [1]}
    assert counted(read_records(study.results)) == expected
    monkeypatch.undo()
    assert counted(records_of(study_of(study.results))) == exact(study.protocol)


def test_a_rung_without_a_number_is_a_failed_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(*args: Any, report: Any, **kwargs: Any) -> Any:
        report(5, 0.25)
        report(10, math.nan)

    runner = study_study.Runner(load=study_runner.load, run=diverging, method=study_runner.method_named)
    monkeypatch.setattr(study_runner, "fake", lambda: runner)
    records = records_of(study_of(tmp_path / "r.jsonl", study_runner.protocol(trials=2)))
    assert {(one.kind, one.state, one.epochs, one.curve) for one in records} == {("trial", "failed", 5, ((5, 0.25),))}
    assert {one.reason for one in records} == {"FloatingPointError: balanced accuracy of nan after epoch 10"}


def test_an_error_of_a_method_ends_the_study_and_takes_nothing_from_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise TypeError("a slip")

    with monkeypatch.context() as patch:
        runner = study_study.Runner(load=study_runner.load, run=broken, method=study_runner.method_named)
        patch.setattr(study_runner, "fake", lambda: runner)
        with pytest.raises(TypeError, match="a slip"):
            records_of(study_of(tmp_path / "r.jsonl"))
    study = study_of(tmp_path / "r.jsonl")
    assert counted(records_of(study)) == exact(study.protocol)
