"""Every example runs, and ends with what it says it ends with."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from diversify.commands.benchmark import Benchmarked, benchmark_run
from diversify.diagnosis.result import Diagnosis
from diversify.repair.retrain import retrain_head
from diversify.study import methods
from diversify.study.comparison import Comparison
from diversify.study.records import read_records

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"diagnose", "own_loop", "own_method", "benchmark"}


@pytest.mark.parametrize("name", ["diagnose", "own_loop"])
def test_an_example_that_ends_with_a_diagnosis(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = load(name).main()
    assert isinstance(result, Diagnosis)
    assert "balanced accuracy" in capsys.readouterr().out
    assert result.plan_ready


def test_a_method_of_ones_own_is_compared_with_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, results = load("own_method"), tmp_path / "own_method.jsonl"
    table = module.main(results)
    assert all(f"| `{name}` |" in table for name in ("ce", "balanced_softmax", "smoothed_by_class"))
    assert table in capsys.readouterr().out
    assert {one.method for one in read_records(results) if "smoothing" in one.params} == {"smoothed_by_class"}
    # the same file, as the command takes it: the same study, so that nothing is left to be run
    said: list[str] = []
    found = benchmark_run(
        str(EXAMPLES / "own_method.py"), out=results, device="cpu", say=said.append, progress=lambda step: None
    )
    assert found == Benchmarked(trials=3, finals=6, new=0)
    assert said[1] == "methods: ce, balanced_softmax, smoothed_by_class"


def test_a_study_in_python(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods.heads, "retrain_head", functools.partial(retrain_head, steps=50))
    result = load("benchmark").main(tmp_path / "results.jsonl")
    assert isinstance(result, Comparison)
    (suite,) = result.suites
    assert {one.name for one in suite.finished} == {"ce", "balanced_softmax", "diversify"}
    assert not suite.unfinished
    said = capsys.readouterr().out
    assert "diversify: 3 of 3 runs" in said
    assert "diversify over ce, paired by seed: " in said
