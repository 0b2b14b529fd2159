"""The demo: every step in order, chosen on val, with test read once and in one report."""

import dataclasses
import functools
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from diversify.cli.entry import run
from diversify.commands import demo
from diversify.data.load import load_data
from diversify.files import atomic, digests
from diversify.functional.counts import exponential_profile
from diversify.repair.retrain import HeadRecipe, retrain_head

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("reports_without_figures")]


@pytest.fixture(scope="module")
def quick() -> pytest.MonkeyPatch:
    """Two epochs, one seed, and heads that few folds compare."""
    with pytest.MonkeyPatch.context() as patch:
        recipe = dataclasses.replace(demo.DEMO_RECIPE, epochs=2, warmup_epochs=0)
        patch.setattr(demo, "DEMO_RECIPE", recipe)
        patch.setattr(demo, "SEEDS", 1)
        patch.setattr(demo, "WORKERS", 1)  # what is patched here holds in this process only
        patch.setattr("diversify.commands.remedy.REPEATS", 1)
        head = lambda **options: HeadRecipe(steps=5, batch_size=16, **options)  # noqa: E731
        patch.setattr("diversify.commands.remedy.HeadRecipe", head)
        patch.setattr(demo, "retrain_head", functools.partial(retrain_head, steps=5, batch_size=16))
        yield patch


@pytest.fixture(scope="module")
def shown(quick: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    assert run(["demo", "--out", str(out), "--seed", "3"]) == 0
    return out


def test_the_data_is_a_file_of_three_disjoint_balanced_splits(shown: Path) -> None:
    whole = load_data(f"npz:{shown / 'digits.npz'}", measure_view=True)
    assert whole.val is not None
    assert whole.test is not None
    assert whole.val.origin == "source"
    parts = [torch.bincount(part.labels, minlength=10) for part in (whole.train, whole.val, whole.test)]
    assert int(parts[0].min()) >= 100
    for part in parts[1:]:
        assert int(part.max()) - int(part.min()) <= 2
    assert int(sum(parts).sum()) == 1797  # every digit of scikit-learn's, once


def test_heads_repaired_with_validation_images_have_a_control_that_is_trained_on_them(shown: Path) -> None:
    data, both = (
        load_data(f"npz:{shown / name}", holdout=0.0, measure_view=True) for name in ("digits.npz", demo.BOTH_DATA)
    )
    assert both.val is None
    assert data.val is not None
    before = atomic.read_json(shown / "seeds" / "3" / "before" / "run.json", "run.json")
    assert len(both.train) == before["data"]["splits"]["train"]["images"] + len(data.val)
    assert both.test is not None
    assert torch.equal(both.test.labels, data.test.labels)  # type: ignore[union-attr]
    found = atomic.read_json(shown / "test.json", "test.json")["outcome"]
    places = {name: place for place, name in enumerate(found["names"])}
    assert [found["accuracy_val"][places[name]] for name in (demo.UNSEEN, demo.BOTH)] == [None, None]
    heads = [
        atomic.read_tensors(shown / "seeds" / "3" / name / "model.safetensors")[0] for name in ("head", "head-unseen")
    ]
    different = {name for name in heads[0] if not torch.equal(heads[0][name], heads[1][name])}
    assert different == {"linear.weight", "linear.bias"}


def test_the_record_says_what_was_run_and_judged_on_what(shown: Path) -> None:
    record = atomic.read_json(shown / "run.json", "run.json")
    assert record["finished"] is True
    assert record["seeds"] == [3]
    assert {"versions", "commit", "device", "started"} <= set(record)
    assert {name: len(values) for name, values in record["balanced_accuracy_val"].items()} == dict.fromkeys(
        ("before", "head", "balanced", "planned"), 1
    )
    for name in ("diagnosis", "diagnosis-after"):
        assert atomic.read_json(shown / "seeds" / "3" / name / "diagnosis.json", "d")["heldout_split"] == "val"


def test_the_report_shows_before_and_after_and_the_images(shown: Path) -> None:
    page = (shown / "report.html").read_text()
    text = (shown / "report.md").read_text()
    for name in demo.WAYS:
        assert name in page
        assert name in text
    strengths, pictures = 5, 3
    counts = exponential_profile(10, 20, 40)
    assert demo.IMBALANCE == "exp:20:40"
    assert min(counts) < pictures, "a class with fewer images than are shown"
    assert page.count('<img src="data:image/png') == strengths * sum(min(count, pictures) for count in counts)
    assert "diversify train --data" in text


def test_the_commands_of_the_report_are_commands(shown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    block = re.search(r"```console\n(.*?)```", (shown / "report.md").read_text(), re.DOTALL)
    assert block is not None
    lines = block[1].splitlines()
    assert len(lines) == 8
    for line in (lines[0], lines[5], lines[6]):
        assert run(shlex.split(line)[1:]) == 0, capsys.readouterr().err
    again, mine = shown.parent / "demo-again", shown / "seeds" / "3"
    for name in ("before", "planned", "both"):
        assert digests.sha256(again / name / "model.safetensors") == digests.sha256(mine / name / "model.safetensors")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(quick: pytest.MonkeyPatch, shown: Path, tmp_path: Path) -> None:
    first = (shown / "test.json").read_bytes()
    copy = tmp_path / "demo"
    shutil.copytree(shown, copy)
    assert run(["demo", "--out", str(copy), "--seed", "3"]) == 2
    assert (copy / "test.json").read_bytes() == first
    (copy / "test.json").unlink()
    assert run(["demo", "--out", str(copy), "--seed", "3", "--overwrite"]) == 0
    assert (copy / "test.json").read_bytes() == first
