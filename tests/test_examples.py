"""Every example runs, and ends with what it says it ends with."""

import functools
import importlib.util
import runpy
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


@pytest.mark.parametrize("name", ["diagnose", pytest.param("own_loop", marks=pytest.mark.slow)])
def test_an_example_that_ends_with_a_diagnosis(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = load(name).main()
    assert isinstance(result, Diagnosis)
    assert "balanced accuracy" in capsys.readouterr().out
    assert result.plan_ready


@pytest.mark.slow
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


@pytest.mark.slow
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


GALLERY = sorted((EXAMPLES / "gallery").glob("plot_*.py"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_a_page_of_the_gallery_runs_and_has_a_picture(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    monkeypatch.chdir(path.parent)  # where sphinx-gallery runs it
    monkeypatch.setattr(plt, "show", lambda: None)
    names = runpy.run_path(str(path), run_name="__main__")
    assert plt.get_fignums() or "drawing" in names
    plt.close("all")
    if path.stem == "plot_08_accelerate":
        assert names["sampler"].epoch == 5


def test_the_gallery_has_ten_pages_at_least() -> None:
    assert len(GALLERY) >= 10
    assert all(path.read_text().startswith('"""\n') for path in GALLERY)
