"""`diversify check`: exit codes, and the files it writes."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from diversify.cli.entry import run
from diversify.diagnosis.result import Diagnosis
from diversify.files import atomic


def test_the_exit_code_and_files_say_whether_a_class_is_below_its_bar(
    diagnosis: Diagnosis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    atomic.write_text(folder / "diagnosis.json", diagnosis.to_json())
    junit, table = tmp_path / "ci" / "junit.xml", tmp_path / "check.md"
    bars = ["--worst-recall", "1", "--junit", str(junit), "--markdown", str(table)]
    assert run(["check", str(folder), *bars]) == 1
    assert "checks failed" in capsys.readouterr().out
    assert ElementTree.parse(junit).getroot().get("tests") == "10"  # noqa: S314 - our own file
    assert "checks failed" in table.read_text()
    assert run(["check", str(folder / "diagnosis.json"), "--worst-recall", "0"]) == 0
    assert run(["check", str(folder), "--against", str(folder)]) == 0
    assert run(["check", str(folder)]) == 2
    assert capsys.readouterr().err == (
        "error: check must have a bar, got none; pass --worst-recall R, --gap-ratio R or --against DIAGNOSIS\n"
    )
    assert run(["check", str(tmp_path), "--worst-recall", "0.5"]) == 2
    assert run(["check", str(folder), "--worst-recall", "0.5", "--against", str(tmp_path)]) == 2
    assert "--against must be a folder" in capsys.readouterr().err
