"""The benchmark command: suites and files of one's own, what it says, and how it goes on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import study_runner
from processes import default_signals, wait_until

from diversify.cli import entry, screen
from diversify.commands.benchmark import Benchmarked, benchmark_run
from diversify.errors import InputError
from diversify.files.locks import Locks
from diversify.study import study as study_run
from diversify.study.records import read_records

DECLARED = """
import study_runner
from diversify.study.protocol import Method, Protocol
from neighbour import SUITE

METHODS = (Method(name="mine", meaning="m", source="s"), Method(name="yours", meaning="m", source="s"))
PROTOCOL = Protocol(suite=SUITE, data="none", methods=("mine", "plain"), trials=2, seeds=(0, 1), epochs=20)
"""


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    """A study in a Python file, which imports what lies beside it."""
    (tmp_path / "neighbour.py").write_text("SUITE = 'own'\n")
    (tmp_path / "own.py").write_text(DECLARED)
    return tmp_path / "own.py"


def run(suite: object, out: Path, **more: Any) -> tuple[Benchmarked, list[str]]:
    said: list[str] = []
    options = {"runner": "study_runner:fake", **more}
    return benchmark_run(str(suite), out=out, say=said.append, progress=lambda step: None, **options), said


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line with runs that cost nothing."""
    monkeypatch.setattr(study_run, "standard_runner", study_runner.fake)


def test_a_file_declares_a_study_and_its_methods(declared: Path, tmp_path: Path) -> None:
    found, said = run(declared, tmp_path / "r.jsonl")
    assert found == Benchmarked(trials=4, finals=4, new=8)
    assert said == [
        "own: none, exp:100; resnet32, 20 epochs; cpu",
        "methods: mine, plain",
        "each method: 2 trials, evaluated on the validation set; then one final run for each of the seeds 0, 1, on the test set",
    ]
    assert {one.method for one in read_records(tmp_path / "r.jsonl")} == {"mine", "plain"}
    assert run(declared, tmp_path / "r.jsonl")[0] == Benchmarked(trials=4, finals=4, new=0)


def test_flags_change_who_takes_part_and_how_often(declared: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    assert run(declared, out, methods="plain", trials=1, seeds="0")[0] == Benchmarked(trials=1, finals=1, new=2)
    assert run(declared, out, methods="yours, plain", trials=1, seeds="0, 3")[0] == Benchmarked(
        trials=2, finals=4, new=4
    )
    kept = json.loads((tmp_path / "r.protocol.json").read_text())
    assert kept["protocol"]["seeds"] == [0, 3]
    assert set(kept["spaces"]) == {"plain", "yours"}
    with pytest.raises(InputError, match="method must be one of plain, tuned, fragile, hopeless, got 'theirs'"):
        run(declared, out, methods="theirs")


def test_suites_are_known_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suites = ModuleType("diversify.study.suites")
    suites.SUITES = {"small": study_runner.protocol(methods=("hopeless",), trials=1)}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "diversify.study.suites", suites)
    found, said = run("small", tmp_path / "r.jsonl")
    assert found == Benchmarked(trials=1, finals=0, new=1)
    assert said[-1] == "note: no trial of hopeless was completed, so it has no final run"
    with pytest.raises(InputError, match="^suite must be one of small, FILE.py, got 'smal'; did you mean 'small'[?]$"):
        run("smal", tmp_path / "r.jsonl")


def test_the_command_tells_every_record(
    declared: Path, tmp_path: Path, fake: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.jsonl"
    command = ["benchmark", str(declared), "--out", str(out), "--methods", "fragile", "--trials", "3", "--seeds", "5"]
    assert entry.run(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].startswith("fragile, trial 0: 7")
    assert lines[3].endswith("% on val, 0.5 s")
    assert any("failed; training loss must stay finite" in line for line in lines) or "fragile, trial 2" in lines[5]
    assert lines[-2].startswith("fragile, final run, seed 5: ")
    assert lines[-1] == f"{out}: 3 trials and 1 final run"
    assert entry.run(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"nothing to do: {out} holds all 3 trials and 1 final run"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.9, "9.9 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (3725, "1 h 2 min"), (100000, "1 d 3 h")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert screen._duration(seconds) == words


PROGRAM = """
import sys
import study_runner
from diversify.runtime import signals
signals.open_streams()
signals.receive_signals()
import functools
from diversify.commands import benchmark
benchmark.benchmark_run = functools.partial(benchmark.benchmark_run, runner="study_runner:held")
from diversify.cli.entry import run
raise SystemExit(run(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_is_recorded_outlives_the_command_and_its_workers_do_not(
    declared: Path, tmp_path: Path, fake: None, number: int
) -> None:
    """Ctrl-C reaches the workers too, SIGKILL the command alone. Each worker is in its fourth run when it comes."""
    out = tmp_path / "r.jsonl"
    arguments = ["benchmark", str(declared), "--out", str(out), "--trials", "60"]
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    member = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments, "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        preexec_fn=default_signals,
    )
    wait_until(lambda: member.poll() is not None or (out.exists() and out.read_bytes().count(b"\n") == 6))
    if number == signal.SIGINT:
        os.killpg(member.pid, number)
    else:
        member.kill()
    _, errors = member.communicate(timeout=60)
    assert member.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert errors.strip() == ("interrupted; what was finished is kept" if number == signal.SIGINT else "")
    with Locks(tmp_path / ".r.jsonl.lock") as locks:
        wait_until(locks.is_sole)
    kept = read_records(out)
    assert len(kept) == 6
    assert entry.run(arguments) == 0
    assert len(read_records(out)) == 124
    assert read_records(out)[: len(kept)] == kept
