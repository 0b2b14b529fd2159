"""The `plan` command: what it prints, what it writes, and what it refuses."""

import dataclasses
from pathlib import Path

import pytest

from diversify.cli.entry import run
from diversify.cli.screen import out
from diversify.diagnosis.result import Diagnosis
from diversify.files import atomic
from diversify.plan.make import make_plan
from diversify.plan.plan import Plan
from tests.conftest import repeated


def diagnosed(folder: Path, diagnosis: Diagnosis) -> str:
    """A folder with nothing but the diagnosis."""
    atomic.write_json(folder / "diagnosis.json", diagnosis.to_dict())
    return str(folder)


@pytest.fixture
def folder(tmp_path: Path, diagnosis: Diagnosis) -> str:
    return diagnosed(tmp_path / "diagnosed", diagnosis)


def test_the_file_is_the_plan_of_the_diagnosis_and_is_kept(
    folder: str, tmp_path: Path, diagnosis: Diagnosis, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "plan.json"
    assert run(["plan", folder, "--out", str(file)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.rstrip().endswith(f"plan: {file}")
    plan = make_plan(Diagnosis.from_dict(diagnosis.to_dict()))
    assert Plan.from_json(file.read_text()) == plan
    before = file.read_bytes()
    assert run(["plan", folder, "--out", str(file)]) == 2
    assert "pass --overwrite to replace it" in capsys.readouterr().err
    file.write_text('{"classes": []}')
    assert run(["plan", folder, "--out", str(file), "--overwrite"]) == 0
    assert file.read_bytes() == before
    assert [entry.name for entry in file.parent.iterdir()] == ["plan.json"]


def test_without_a_file_it_only_prints(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert run(["plan", folder]) == 0
    assert "--out plan.json" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("width", [50, 80, 120, 200])
def test_every_class_and_every_reason_of_a_measure_is_shown(
    folder: str,
    width: int,
    diagnosis: Diagnosis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(out, "_width", width)
    assert run(["plan", folder]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= width for line in lines if line.startswith("  "))
    assert not any(line != line.rstrip() for line in lines if line.startswith("  "))
    words = " ".join(" ".join(lines).split())
    plan = make_plan(Diagnosis.from_dict(diagnosis.to_dict()))
    told = [reason for one in plan.classes for reason in one.reasons if reason.measure != "count"]
    assert told
    for one in plan.classes:
        assert f"{one.name} " in words
        assert f" {one.count:,} " in words
    for reason in told:
        assert f"{reason.rule}: {reason.text} {reason.source}".strip() in words
    if width >= 100:
        for one in plan.classes:
            line = next(line for line in lines if line.startswith(f"{one.name} "))
            for policy in one.features:
                assert f"{policy.strength:.2f} on {policy.share:.0%}" in line


def test_many_classes_with_names_that_look_like_markup(
    tmp_path: Path, diagnosis: Diagnosis, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("[bold]", ":cat:", "[/]", *(f"class {c}" for c in range(3, 60)))
    many = repeated(diagnosis, [place % 10 for place in range(60)], names)
    assert run(["plan", diagnosed(tmp_path, many)]) == 0
    shown = capsys.readouterr().out
    assert "(20 classes with more images are in the plan)" in shown
    few = repeated(diagnosis, list(range(10)), ("[bold]", ":cat:", "[/]", *map(str, range(7))))
    assert run(["plan", diagnosed(tmp_path, few)]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name} " in shown for name in ("[bold]", ":cat:", "[/]"))


def test_a_diagnosis_on_test_is_refused(
    tmp_path: Path, diagnosis: Diagnosis, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = diagnosed(tmp_path / "tested", dataclasses.replace(diagnosis, heldout_split="test"))
    assert run(["plan", folder, "--out", str(tmp_path / "plan.json")]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert (
        "diagnosis must be made on the validation set to make a plan from, got one made on test; bring a validation set"
        in shown.err
    )
    assert not (tmp_path / "plan.json").exists()


def test_nothing_is_written_over_but_a_plan(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diagnosis = Path(folder) / "diagnosis.json"
    kept = diagnosis.read_bytes()
    (tmp_path / "thesis.tex").write_text("x")
    (tmp_path / "link.json").symlink_to(tmp_path / "nowhere.json")
    for file in (diagnosis, tmp_path / "thesis.tex", tmp_path / "link.json"):
        assert run(["plan", folder, "--out", str(file), "--overwrite"]) == 2
        assert "--out must be new or a plan" in capsys.readouterr().err
    assert diagnosis.read_bytes() == kept


def test_the_plan_of_a_permuted_diagnosis_says_so(tmp_path: Path, diagnosis: Diagnosis) -> None:
    folder = diagnosed(tmp_path / "permuted", diagnosis.permuted(1))
    assert run(["plan", folder, "--out", str(tmp_path / "plan.json")]) == 0
    assert Plan.from_json((tmp_path / "plan.json").read_text()).made_from == "permuted diagnosis"
