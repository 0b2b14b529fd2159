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
from tiny_study import protocol_of, write_data

from diversify.cli import entry, screen
from diversify.commands import benchmark
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
    with pytest.raises(
        InputError, match="^suite must be one of small, paper, .*, FILE.py, got 'smal'; did you mean 'small'[?]$"
    ):
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


# The metric


PRIOR = "class,share\n0,0.55\n" + "".join(f"{digit},0.05\n" for digit in range(1, 10))


def judged(tmp_path: Path, **more: Any) -> tuple[Benchmarked, list[str]]:
    """Runs of the suite of digits that cost nothing."""
    options = {"methods": "plain", "trials": 1, "seeds": "0", "runner": "study_runner:measuring", **more}
    return run("digits", tmp_path / "r.jsonl", **options)


def test_a_metric_is_part_of_the_protocol(tmp_path: Path) -> None:
    (tmp_path / "prior.csv").write_text(PRIOR)
    _, said = judged(tmp_path, metric="prior", target_prior=tmp_path / "prior.csv")
    assert said[-1] == "methods are tuned and compared by accuracy under the target prior"
    kept = json.loads((tmp_path / "r.protocol.json").read_text())["protocol"]
    assert (kept["metric"], kept["target_prior"], kept["cost"]) == ("prior", [0.55, *[0.05] * 9], None)
    assert {one.metric for one in read_records(tmp_path / "r.jsonl")} == {"prior"}
    assert judged(tmp_path, metric="prior", target_prior=tmp_path / "prior.csv")[0].new == 0
    for metric in (None, "worst"):
        differs = f"metric {metric or 'balanced'}, not prior; target_prior None, not"
        with pytest.raises(InputError, match=f"must belong to one protocol, got {differs}"):
            judged(tmp_path, metric=metric)


def test_a_cost_is_read_by_the_names_of_the_classes(tmp_path: Path) -> None:
    rows = [[3.0 * (i < j) + 1.0 * (i > j) for j in range(10)] for i in range(10)]
    (tmp_path / "cost.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match="cost must be left out for metric=worst, which does not use it"):
        judged(tmp_path, metric="worst", cost=tmp_path / "cost.json")
    assert not (tmp_path / "r.jsonl").exists()
    (tmp_path / "own.py").write_text(
        "from diversify.study.protocol import Protocol\n"
        "PROTOCOL = Protocol(suite='own', data='digits', methods=('plain',), metric='prior', target_prior=(0.1,) * 10)\n"
    )
    own = str(tmp_path / "own.py")
    changed = benchmark._judged(
        benchmark._declared_protocol(Path(own)), "cost", None, tmp_path / "cost.json", root=Path("data"), download=False
    )
    assert (changed.metric, changed.target_prior) == ("cost", None)  # the suite's own prior belonged to its own metric
    assert changed.cost is not None
    assert changed.cost[0][1] == 3.0


def test_classes_are_known_for_data_whose_preprocessing_is_measured(tmp_path: Path) -> None:
    (tmp_path / "prior.json").write_text("[0.1, 0.7, 0.1, 0.1]")
    protocol = protocol_of(write_data(tmp_path / "tiny.npz"))
    found = benchmark._judged(protocol, "prior", tmp_path / "prior.json", None, root=Path("data"), download=False)
    assert found.target_prior == (0.1, 0.7, 0.1, 0.1)


def test_a_wrong_metric_is_refused_by_its_flag(tmp_path: Path, fake: None, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prior.csv").write_text(PRIOR.replace("0.55", "0.5"))
    (tmp_path / "names.csv").write_text(PRIOR.replace("9,", "ten,"))
    command = ["benchmark", "digits", "--out", str(tmp_path / "r.jsonl"), "--methods", "plain"]
    refused = {
        ("--metric", "area"): "--metric must be one of balanced, prior, macro-f1, worst, cost, got 'area'",
        ("--metric", "prior"): "--target-prior must be given for --metric prior, got none",
        ("--metric", "prior", "--target-prior", "prior.csv"): "--target-prior must sum to 1 within 0.001, got 0.95",
        (
            "--metric",
            "prior",
            "--target-prior",
            "names.csv",
        ): "class of --target-prior must be one of the classes, got 'ten'",
        (
            "--target-prior",
            "prior.csv",
        ): "--target-prior must be left out for --metric balanced, which does not use it, got one",
        ("--metric", "worst"): "--metric must be balanced with this runner, which measures nothing else, got worst",
    }
    for flags, message in refused.items():
        given = [str(tmp_path / each) if each.endswith(".csv") else each for each in flags]
        assert entry.run([*command, *given]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "r.jsonl").exists()


def test_a_record_is_told_in_its_metric(tmp_path: Path) -> None:
    judged(tmp_path, metric="macro-f1")
    first = read_records(tmp_path / "r.jsonl")[0]
    assert screen._record_line(first).startswith("plain, trial 0: macro F1 ")
    costly = first.model_copy(update={"metric": "cost", "score": -1.25})
    assert screen._record_line(costly).startswith("plain, trial 0: negative expected cost -1.25 on val")


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
