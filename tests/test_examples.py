"""Every example runs, and ends with what it says it ends with."""

import importlib.util
from pathlib import Path

import pytest

from diversify.diagnosis import Diagnosis

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = module.main()
    assert isinstance(result, Diagnosis)
    assert "balanced accuracy" in capsys.readouterr().out
    assert result.plan_ready
