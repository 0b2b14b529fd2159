"""The benchmark command runs the experiments: it records each run once, goes on where it was stopped, and refuses what means nothing."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import default_signals, end, wait_until

from diversify.cli import entry
from diversify.commands.benchmark import benchmark_run
from diversify.errors import InputError
from diversify.files import atomic
from diversify.study.experiments import diversity_run, paper, runs, suites
from diversify.study.experiments.diversity_designs import Design
from diversify.study.experiments.suites import EXPERIMENTS, Diversity, Paper

TINY = Design(
    data="digits",
    equal="exp:1:20",
    unequal="exp:2:20",
    cells=(("with", "bursts:10"), ("equal", "none")),
    epochs=1,
    widths=(4, 6, 12),
    matched=8,
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experiments of seconds."""
    small = dataclasses.replace(paper.DESIGNS["digits"], imbalance="exp:2:6", balanced="exp:1:6", epochs=1)
    monkeypatch.setitem(EXPERIMENTS, "diversity_digits", Diversity(design=TINY, assignments=2))  # type: ignore[index]
    monkeypatch.setitem(EXPERIMENTS, "paper", Paper(design=small))  # type: ignore[index]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Runs of the experiment on diversity that cost nothing; the list holds those that were made."""
    made: list[tuple[Any, ...]] = []

    def run_one(design: Design, sizes: str, form: str, a: int, root: object, assignments: int) -> dict[str, Any]:
        made.append((sizes, form, a))
        kind = {"kind": "run", "suite": "diversity", "design": design.record(), "sizes": sizes, "diversity": form}
        recall = {"recall_test": [0.5, 0.75]}
        half = diversity_run.HALVES[a * 2 // assignments]
        return {**kind, "assignment": a, "half": half, "narrow": [True, False], "classes": recall, "seconds": 1.0}

    monkeypatch.setattr(diversity_run, "run_one", run_one)
    return made


def typed(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str]]:
    code = entry.run(["benchmark", *map(str, arguments)])
    shown = capsys.readouterr()
    return code, (shown.out + shown.err).splitlines()


@pytest.mark.slow
def test_a_run_through_the_command_line_leaves_records_that_the_analysis_reads(
    tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "r.jsonl"
    code, lines = typed(capsys, "diversity_digits", "--out", out)
    assert code == 0
    assert lines[0].startswith("diversity_digits: digits: 2 pairs of class sizes and diversity, 2 assignments")
    assert lines[1].startswith("1 of 4: assignment 0, sizes with, bursts:10: test recall narrow ")
    assert lines[4].startswith("4 of 4: assignment 1, sizes equal, none: test recall wide ")
    assert lines[5] == "| class sizes | diversity | runs | test recall |"
    assert lines[-1] == f"{out}: 4 runs"
    records = atomic.read_jsonl(out)
    assert [(one["sizes"], one["half"]) for one in records[1:3]] == [("equal", "development"), ("with", "confirmation")]
    assert {"measures", "coverage", "trouble", "versions", "commit", "device"} <= set(records[0])
    assert [path.name for path in out.parent.iterdir()] == ["r.jsonl"]  # no lock is left


def test_what_is_recorded_is_not_made_again(
    tiny: None, free: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.jsonl"
    assert typed(capsys, "diversity_digits", "--out", out)[0] == 0
    before = out.read_bytes().splitlines(keepends=True)
    assert free == [("with", "bursts:10", 0), ("equal", "none", 0), ("with", "bursts:10", 1), ("equal", "none", 1)]
    out.write_bytes(before[0] + before[2] + before[3][:30])  # a killed process lost a line, and left another one torn
    code, lines = typed(capsys, "diversity_digits", "--out", out)
    assert code == 0
    assert lines[1] == f"2 of 4 runs are recorded in {out}"
    assert free[4:] == [("equal", "none", 0), ("equal", "none", 1)]
    assert sorted(out.read_bytes().splitlines(keepends=True)) == sorted(before)
    code, lines = typed(capsys, "diversity_digits", "--out", out)
    assert lines[-1] == f"nothing to do: {out} holds all 4 runs"
    assert "| with | bursts:10 | 2 | narrow 50%, wide 75% |" in lines
    assert len(free) == 6


def test_halves_of_another_number_of_assignments_are_not_mixed(
    tiny: None, free: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.jsonl"
    typed(capsys, "diversity_digits", "--out", out)
    code, lines = typed(capsys, "diversity_digits", "--out", out, "--assignments", 4)
    assert code == 2
    told = "by which assignment 1 of"
    assert lines[-1].startswith("error: --assignments must be the number that the records were made with, got 4, ")
    assert told in lines[-1]
    assert lines[-1].endswith("is not for confirmation; choose another file")
    assert len(free) == 4


def test_the_paper_ends_with_its_verdicts(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.jsonl"
    design = EXPERIMENTS["paper"].design
    one = paper.run_one(design, "focal", 1, "data", "cpu", tmp_path)
    monkeypatch.setattr(paper, "run_one", lambda design, loss, seed, **_: {**one, "loss": loss, "seed": seed})
    code, lines = typed(capsys, "paper", "--out", out, "--methods", "focal", "--seeds", "0,1,4", "--device", "cpu")
    assert code == 0
    assert lines[1].startswith("1 of 3: focal, seed 0: balanced accuracy imbalanced ")
    assert lines[4] == "| claim, as measured | what the paper says | what is seen | verdict |"
    assert lines[-1] == f"{out}: 3 runs"
    assert typed(capsys, "paper", "--out", out, "--methods", "focal", "--seeds", "0,1,4")[1][-1].startswith("nothing")


WRONG = {
    "diversity_digits --trials 3": "--trials must be left out for diversity_digits, got 3; it takes none",
    "diversity_digits --seeds 1,2": "--seeds must be left out for diversity_digits, got 1,2; it takes none",
    "diversity_digits --methods ce": "--methods must be left out for diversity_digits, got ce; it takes none",
    "diversity_digits --assignments 3": "--assignments must be an even number of at least 2, got 3",
    "diversity_digits --assignments 1": "--assignments must be at least 2, got '1'",
    "diversity_digits --device cuda:9": "--device must ",
    "diversity_digits --storage sqlite:///a.db": "--storage must be left out for diversity_digits",
    "diversity_cifar10 --root {dir}/void": "CIFAR10 under --root must be there, got {dir}/void; ",
    "paper_cifar10 --root {dir}/void": "CIFAR10 under --root must be there, got {dir}/void; ",
    "paper --metric worst": "--metric must be left out for paper, got worst; it takes none",
    "paper --assignments 8": "--assignments must be left out for paper, got 8; it takes none",
    "paper --seeds 0,1": "--seeds must be at least 3 numbers, got '0,1'; a verdict needs so many",
    "paper --methods plan": "method must be one of ce, ",
    "paper --methods ce,ce": "--methods must be different names separated by commas, got 'ce,ce'",
    "digits --assignments 8": "--assignments must be left out for a comparison of methods, got 8",
    "diversity_digit": "SUITE|FILE.py must be one of digits, cifar10_lt_short, ",
}


@pytest.mark.parametrize("line", WRONG)
def test_options_that_mean_nothing_are_refused_in_one_line(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "r.jsonl"
    code, lines = typed(capsys, *line.format(dir=tmp_path).split(), "--out", out)
    assert code == 2
    assert lines[-1].startswith("error: " + WRONG[line].format(dir=tmp_path))
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"kind": "run", "suite": "paper", "design": {}}, "another record on line 1 of {out}, of 'paper'"),
        ({"kind": "trial", "suite": "digits"}, "another record on line 1 of {out}, of 'digits'"),
        ({"kind": "run", "suite": "diversity"}, "another record on line 1 of {out}"),
    ],
)
def test_a_file_of_other_records_is_refused(
    record: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.jsonl"
    atomic.append_jsonl(out, record)
    before = out.read_bytes()
    code, lines = typed(capsys, "diversity_digits", "--out", out)
    law = "error: --out must hold only records of the suite 'diversity', got "
    assert (code, lines) == (2, [law + told.format(out=out) + "; choose another file"])
    assert out.read_bytes() == before


def test_a_file_without_its_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="results must be a file that ends in .jsonl, got .*/r.json"):
        benchmark_run("paper", out=tmp_path / "r.json", say=print, progress=print)


def test_every_experiment_says_what_it_trains() -> None:
    assert {"paper", "diversity_digits", "diversity_fashion", "diversity_cifar10", "diversity_mnist"} <= set(
        EXPERIMENTS
    )
    totals = {name: one.total for name, one in EXPERIMENTS.items()}
    assert totals["diversity_digits"] == 96
    assert totals["diversity_mnist"] == 32
    assert totals["paper"] == 15
    assert all(one.design.data in one.says() for one in EXPERIMENTS.values())
    assert isinstance(suites.EXPERIMENTS["paper_cifar10"], Paper)


HELD = """
import time
from diversify.study.experiments import diversity_run

def run_one(design, sizes, form, a, root, assignments):
    if a == 1:
        time.sleep(600)
    half = diversity_run.HALVES[a * 2 // assignments]
    return {"kind": "run", "suite": "diversity", "design": design.record(), "sizes": sizes, "diversity": form,
            "assignment": a, "half": half, "narrow": [True], "classes": {"recall_test": [0.5]}, "seconds": 1.0}
"""
PROGRAM = """
import sys
from diversify.runtime import signals
signals.open_streams()
signals.receive_signals()
import held
from diversify.study.experiments import diversity_run
from diversify.study.experiments.suites import EXPERIMENTS, Diversity
from test_experiment_run import TINY
diversity_run.run_one = held.run_one
EXPERIMENTS["diversity_digits"] = Diversity(design=TINY, assignments=2)
from diversify.cli.entry import run
raise SystemExit(run(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_is_recorded_outlives_the_command_and_its_workers_do_not(tmp_path: Path, number: int) -> None:
    """Ctrl-C reaches the workers too, SIGKILL the command alone. Both workers are in the second assignment when it comes."""
    (tmp_path / "held.py").write_text(HELD)
    out = tmp_path / "r.jsonl"
    here = Path(__file__)
    paths = os.pathsep.join(map(str, (tmp_path, here.parent, here.parents[1], here.parents[2])))
    member = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "benchmark", "diversity_digits", "--out", str(out), "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        preexec_fn=default_signals,
    )
    try:
        wait_until(lambda: member.poll() is not None or (out.exists() and out.read_bytes().count(b"\n") == 2))
        if number == signal.SIGINT:
            os.killpg(member.pid, number)
        else:
            member.kill()
        _, errors = member.communicate(timeout=60)  # returns when no worker holds the pipes
    finally:
        end(member)
    assert member.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert errors.strip() == ("interrupted; what was finished is kept" if number == signal.SIGINT else "")
    assert [one["assignment"] for one in atomic.read_jsonl(out)] == [0, 0]
    with runs.claimed(out):  # nobody else holds it
        assert len(diversity_run.missing_of(TINY, 2, out)) == 2
