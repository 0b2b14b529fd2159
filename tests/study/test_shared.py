"""A study that machines share through a real PostgreSQL server: one folder stands for each machine."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import postgresql
import pytest
import study_runner
from processes import wait_until
from studies import same_but_for_time
from tiny_study import protocol_of, write_data

from diversify.cli.entry import run as run_command
from diversify.errors import InputError
from diversify.files.locks import Locks
from diversify.runtime import provenance
from diversify.study import shared, tune
from diversify.study.database import StorageError
from diversify.study.protocol import Protocol
from diversify.study.queue import Desk
from diversify.study.records import Record, read_records
from diversify.study.run import run_study
from diversify.study.study import Study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(postgresql.why_not()), reason=postgresql.why_not() or "a server can be had"),
]
STANDARD = "diversify.study.study:standard_runner"


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.Server]:
    with postgresql.server() as one:
        yield one


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim ends eight seconds after its process, not a minute."""
    monkeypatch.setattr(shared, "LEASE", 8.0)
    monkeypatch.setattr(shared, "BEAT", 0.5)
    monkeypatch.setattr(provenance, "commit", lambda: None)


def study_of(folder: Path, protocol: Protocol, server: postgresql.Server, name: str | None, **more: Any) -> Study:
    folder.mkdir(exist_ok=True)
    runner = {"runner": "study_runner:fake", **more}
    return Study(protocol=protocol, results=folder / "r.jsonl", storage=server.url, shared=name, **runner)


def worked(study: Study, most: int | None, pause: float) -> None:
    """What a worker process does; it makes so many runs at most, and then waits for its end."""
    study_runner.MOST, study_runner.MADE, study_runner.PAUSE = most, [], pause
    for _ in run_study(study):
        pass
    os._exit(0)


@contextlib.contextmanager
def workers(studies: list[tuple[Study, int | None]], pause: float = 0.0) -> Iterator[list[Any]]:
    context = multiprocessing.get_context("fork")
    members = [context.Process(target=worked, args=(study, most, pause)) for study, most in studies]
    try:
        for member in members:
            member.start()
        yield members
    finally:
        for member in members:
            member.kill()
            member.join()


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def by_run(records: list[Record]) -> list[Record]:
    return sorted(records, key=lambda one: one.key)


def assert_same(one: list[Record], other: list[Record]) -> None:
    assert [first.key for first in by_run(one)] == [second.key for second in by_run(other)]
    for first, second in zip(by_run(one), by_run(other), strict=True):
        assert same_but_for_time(first, second), (first, second)


def test_four_workers_on_two_machines_survive_a_kill_and_restarts_of_the_server(
    tmp_path: Path, server: postgresql.Server
) -> None:
    """Networks are trained. Five trials of a method are drawn by their number alone, so records are those of one process."""
    protocol = protocol_of(
        write_data(tmp_path / "tiny.npz"), methods=("ce", "focal"), trials=5, seeds=(0, 1), rungs=(), epochs=10
    )
    alone = Study(protocol=protocol, results=tmp_path / "alone.jsonl")
    for _ in run_study(alone):
        pass
    folders = [tmp_path / "first", tmp_path / "second"]
    studies = [study_of(folder, protocol, server, "tiny", runner=STANDARD) for folder in folders]
    with workers([(study, None) for study in studies * 2]) as members:
        wait_until(lambda: lines_in(studies[0].results) >= 2)
        members[0].kill()
        server.restart("immediate")
        before = lines_in(studies[1].results)
        wait_until(lambda: lines_in(studies[1].results) >= before + 3)
        server.stop("fast")
        time.sleep(3)
        server.start()
        for member in members:
            member.join(300)
        assert [member.exitcode for member in members] == [-signal.SIGKILL, 0, 0, 0]
    found = [read_records(study.results) for study in studies]
    assert studies[0].results.read_bytes() == studies[1].results.read_bytes()
    assert_same(found[0], read_records(alone.results))
    count = "SELECT count(*), count(DISTINCT run) FROM diversify_records WHERE study = 'tiny'"
    assert server.rows(count) == [(14, 14)]
    # The search follows the records, so a trial that was cut off late may be missing there, but none is there twice.
    twice = (
        "SELECT study_name, value_json FROM trials JOIN studies USING (study_id) JOIN trial_user_attributes USING (trial_id)"
        " WHERE key = 'number' AND state = 'COMPLETE' GROUP BY study_name, value_json HAVING count(*) > 1"
    )
    assert server.rows(twice) == []


def test_a_killed_process_keeps_its_claim_for_a_while_and_the_others_finish(
    tmp_path: Path, server: postgresql.Server
) -> None:
    """Pruning and failures included; the machine of the killed process gets all records when it comes back."""
    protocol = study_runner.protocol(methods=("plain", "fragile"), trials=8)
    studies = [study_of(tmp_path / name, protocol, server, "killed") for name in ("first", "second")]
    with workers([(studies[0], 2), (studies[1], None)], pause=0.01) as (first, second):
        wait_until(lambda: lines_in(studies[0].results) >= 2)
        wait_until(lambda: server.rows("SELECT 1 FROM diversify_claims WHERE study = 'killed' AND run LIKE 'trial%'"))
        wait_until(lambda: second.is_alive() and lines_in(studies[1].results) >= 15)
        first.kill()
        second.join(120)
        assert second.exitcode == 0
    whole = read_records(studies[1].results)
    kinds = [(one.kind, one.method) for one in whole]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        (kind, method): number for method in protocol.methods for kind, number in (("trial", 8), ("final", 2))
    }
    assert all(step.record is None for step in run_study(studies[0])), "nothing is left to do"
    assert studies[0].results.read_bytes() == studies[1].results.read_bytes()


def test_a_lost_database_is_made_good_from_the_file_and_a_lost_file_from_the_database(
    tmp_path: Path, server: postgresql.Server
) -> None:
    protocol = study_runner.protocol(methods=("plain",), trials=3)
    study = study_of(tmp_path / "a", protocol, server, "lost")
    steps = run_study(study)
    for _ in range(4):
        next(steps)
    steps.close()
    server.execute("DELETE FROM diversify_records WHERE study = 'lost'")
    list(run_study(study))
    whole = read_records(study.results)
    assert len(whole) == 5
    study.results.unlink()
    assert all(step.record is None for step in run_study(study))
    assert read_records(study.results) == whole
    alone = Study(protocol=protocol, results=tmp_path / "alone.jsonl", runner="study_runner:fake")
    list(run_study(alone))
    assert_same(whole, read_records(alone.results))


def test_a_study_of_another_protocol_and_other_records_are_refused(tmp_path: Path, server: postgresql.Server) -> None:
    few = {"methods": ("plain",), "trials": 1, "seeds": (0,)}
    study = study_of(tmp_path / "a", study_runner.protocol(**few), server, "taken")
    list(run_study(study))
    other = study_of(tmp_path / "b", study_runner.protocol(epochs=30, **few), server, "taken")
    message = "study 'taken' in storage must belong to one protocol, got epochs 30, not 20; choose another name"
    with pytest.raises(InputError) as caught:
        list(run_study(other))
    assert str(caught.value) == message
    assert not other.results.exists()
    time.sleep(1.1)  # records hold the second in which they began
    own = study_of(tmp_path / "c", study_runner.protocol(**few), server, None, workers=1)
    list(run_study(own))  # the same database, and a study of its own
    copy = study_of(tmp_path / "c", study_runner.protocol(**few), server, "taken")
    with pytest.raises(
        InputError, match="^trial 0 of plain in .* must be that of study 'taken' in storage, got another"
    ):
        list(run_study(copy))


def test_a_claim_that_another_process_took_over_gives_no_second_record(
    tmp_path: Path, server: postgresql.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process had stopped for a while: its claims ended, and it goes on."""
    monkeypatch.setattr(shared, "BEAT", 3600.0)
    protocol = study_runner.protocol(methods=("plain",), trials=1, seeds=(0,), rungs=())
    studies = [study_of(tmp_path / name, protocol, server, "stopped") for name in ("a", "b")]
    with contextlib.ExitStack() as held:
        desks = []
        for study in studies:
            local = held.enter_context(Locks(study.lock))
            desks.append(Desk(study, local, held.enter_context(shared.Shared(study, local))))
        job = desks[0].next()
        assert job is not None
        assert desks[1].next() is None
        query = "UPDATE diversify_claims SET beat = beat - interval '1 hour' WHERE study = 'stopped'"
        server.execute(query)
        monkeypatch.setattr(shared, "_ENDED", "{0}beat < clock_timestamp() - make_interval(secs => :lease)")
        second = desks[1].next()
        assert second is not None
        assert second.parameters == job.parameters
        record = made(studies[0], job)
        assert desks[0].hand_in(job, record) == record
        later = record.model_copy(update={"seconds": 99.0})
        assert desks[1].hand_in(second, later) == record
        assert desks[0].next().kind == "final"
    assert server.rows("SELECT count(*) FROM diversify_records WHERE study = 'stopped'") == [(1,)]
    assert read_records(studies[1].results) == [record]


def test_a_claim_that_is_renewed_at_the_last_moment_is_not_taken(
    tmp_path: Path, server: postgresql.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late process renews its claim after another has read that it ended, and before that one takes it."""
    monkeypatch.setattr(shared, "BEAT", 3600.0)
    monkeypatch.setattr(shared, "_ENDED", "{0}beat < clock_timestamp() - make_interval(secs => :lease)")
    protocol = study_runner.protocol(methods=("plain",), trials=2, seeds=(0,), rungs=())
    studies = [study_of(tmp_path / name, protocol, server, "late") for name in ("a", "b")]
    with contextlib.ExitStack() as held:
        desks, ends = [], []
        for study in studies:
            local = held.enter_context(Locks(study.lock))
            ends.append(held.enter_context(shared.Shared(study, local)))
            desks.append(Desk(study, local, ends[-1]))
        assert desks[0].next().place == 0
        moved = (
            "UPDATE diversify_claims SET beat = beat {} interval '1 hour' WHERE study = 'late' AND run LIKE 'trial 0%'"
        )
        server.execute(moved.format("-"))
        take = ends[1].take

        def late(name: str) -> bool:
            if name == "trial 0 of plain":
                server.execute(moved.format("+"))
            return take(name)

        monkeypatch.setattr(ends[1], "take", late)
        assert desks[1].next().place == 1
    owners = "SELECT count(DISTINCT trial_id) FROM trials JOIN studies USING (study_id) WHERE state = 'RUNNING'"
    assert server.rows(owners + " AND study_name LIKE '% late plain'") == [(2,)]


def test_a_process_that_slept_too_long_is_there_again_with_its_claims(
    tmp_path: Path, server: postgresql.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process removed its rows, for they had ended."""
    monkeypatch.setattr(shared, "LEASE", 60.0)
    protocol = study_runner.protocol(methods=("plain",), trials=2, seeds=(0,), rungs=())
    studies = [study_of(tmp_path / name, protocol, server, "asleep") for name in ("a", "b")]
    rows = "SELECT run FROM diversify_claims WHERE study = 'asleep'"
    with contextlib.ExitStack() as held:
        ends = []
        for study in studies:
            local = held.enter_context(Locks(study.lock))
            ends.append(held.enter_context(shared.Shared(study, local)))
        with ends[0].alone("desk"):
            assert ends[0].take("trial 0 of plain")
            assert ends[0].take("trial 1 of plain")
            ends[0].free("trial 1 of plain")
        before = server.rows(rows)
        server.execute(f"DELETE FROM diversify_claims WHERE study = 'asleep' AND owner = '{ends[0]._owner}'")
        assert len(server.rows(rows)) == 1
        wait_until(lambda: len(server.rows(rows)) >= 3, seconds=60)
        assert sorted(server.rows(rows)) == sorted(before)
        with ends[1].alone("desk"):
            assert not ends[1].is_sole()
            assert not ends[1].take("trial 0 of plain")
            assert ends[1].take("trial 1 of plain")


def test_the_lock_is_kept_however_long_the_search_takes(
    tmp_path: Path, server: postgresql.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends the connection of a process that holds the lock and hangs; a slow line is no such process."""
    monkeypatch.setattr(shared, "HANGS", 1)
    monkeypatch.setattr(shared, "BEAT", 0.1)
    slow = {"settle": 0, "end": 0}
    for name in slow:
        real = getattr(tune.Search, name)

        def work(*given: Any, name: str = name, real: Any = real) -> Any:
            time.sleep(2)
            held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            assert server.rows(held) == [(1,)], "the lock is lost"
            slow[name] += 1
            return real(*given)

        monkeypatch.setattr(tune.Search, name, work)
    protocol = study_runner.protocol(methods=("plain",), trials=1, seeds=(0,), rungs=())
    list(run_study(study_of(tmp_path / "a", protocol, server, "slow")))
    assert slow == {"settle": 1, "end": 1}


@pytest.mark.skipif(postgresql.pgbouncer() is None, reason="pgbouncer is not installed")
def test_a_pooler_without_sessions_is_refused(tmp_path: Path, server: postgresql.Server) -> None:
    protocol = study_runner.protocol(methods=("plain",), trials=1, seeds=(0,), rungs=())
    study = study_of(tmp_path / "a", protocol, server, "pooled")
    with postgresql.pooler(server, "transaction") as url, pytest.raises(StorageError) as caught:
        list(run_study(dataclasses.replace(study, storage=url)))
    message = (
        "storage must keep one session for each connection, got another session for each query from postgresql+psyc"
    )
    assert str(caught.value).startswith(message)
    assert postgresql.PASSWORD not in str(caught.value)
    assert server.rows("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []
    with postgresql.pooler(server, "session") as url:
        list(run_study(dataclasses.replace(study, storage=url)))
    assert len(read_records(study.results)) == 2


def test_a_user_who_may_make_no_tables_works_on_those_that_are_there(tmp_path: Path, server: postgresql.Server) -> None:
    """Also a user without any rights, and one whose rights end during the study: an error of one line."""
    protocol = study_runner.protocol(methods=("plain",), trials=1, seeds=(0, 1), rungs=())
    list(run_study(study_of(tmp_path / "owner", protocol, server, "the owner's")))
    server.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # as PostgreSQL 15 has it from the start
    server.execute(f"CREATE ROLE guest LOGIN PASSWORD '{postgresql.PASSWORD}'")
    url = server.url.replace(f"//{postgresql.USER}:", "//guest:")

    def study(name: str) -> Study:
        return dataclasses.replace(study_of(tmp_path / name, protocol, server, name), storage=url)

    message = (
        r"^storage must be a database that can keep a study, got .*//guest:\*\*\*@.*; permission denied for table div"
    )
    with pytest.raises(StorageError, match=message):
        list(run_study(study("without")))
    server.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO guest")
    server.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO guest")
    list(run_study(study("with")))
    assert len(read_records(study("with").results)) == 3
    steps = run_study(study("until then"))
    assert [next(steps).done for _ in range(2)] == [0, 1]
    server.execute("REVOKE INSERT ON ALL TABLES IN SCHEMA public FROM guest")
    with pytest.raises(StorageError, match=message):
        list(steps)
    server.execute("DROP OWNED BY guest")
    server.execute("DROP ROLE guest")


def made(study: Study, job: Any) -> Record:
    import torch

    from diversify.study import workers as study_workers

    found, _ = study_workers._run(study, study.protocol, job, provenance.origin(torch.device("cpu")))
    assert found is not None
    return found


def test_errors_of_the_server_are_one_line_without_the_password(
    tmp_path: Path, server: postgresql.Server, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong = server.url, server.url.replace(postgresql.PASSWORD, "not-the-word")
    down = right.replace(f":{server.port}/", ":1/")
    for url, said in (
        (wrong, 'password authentication failed for user "owner"'),
        (down, "Connection refused"),
        (right + "nowhere", 'database "postgresnowhere" does not exist'),
    ):
        for more in ([], ["--shared", "digits"]):
            assert (
                run_command(["benchmark", "digits", "--out", str(tmp_path / "r.jsonl"), "--storage", url, *more]) == 2
            )
            message = capsys.readouterr().err.strip()
            assert said in message
            assert message.count("\n") == 0
            assert ":***@" in message
            assert "word" not in message.replace("password", "")
