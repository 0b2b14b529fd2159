"""A network of the user's own with one logit: trained, diagnosed, planned for, trained by the plan and repaired."""

from pathlib import Path

import numpy as np
import pytest

from diversify.cli.entry import run
from diversify.files import atomic

pytestmark = pytest.mark.usefixtures("reports_without_figures")

NETWORK = """
from torch import nn


def logit():
    return nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 1))


def probability():
    return nn.Sequential(*logit(), nn.Sigmoid())
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "networks_of_mine.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    labels = np.repeat([0, 1], [24, 8])
    images = (np.arange(32 * 64).reshape(32, 8, 8) * 7 % 150 + 90 * labels[:, None, None]).astype(np.uint8)
    arrays = {"train_images": images, "train_labels": labels, "val_images": images[::-1], "val_labels": labels[::-1]}
    np.savez(tmp_path / "d.npz", **arrays)
    return ["--data", f"npz:{tmp_path / 'd.npz'}", "--mean", ".5", "--std", ".5"]


def train(data: list[str], out: Path, network: str = "logit", *more: str) -> int:
    recipe = ["--epochs", "2", "--batch-size", "16", "--precision", "fp32", "--out", str(out), *more]
    return run(["train", *data, "--model", f"networks_of_mine:{network}", *recipe])


def test_the_checkpoint_has_one_logit_and_goes_all_the_way(tmp_path: Path, data: list[str]) -> None:
    assert train(data, tmp_path / "first") == 0
    weights = tmp_path / "first" / "model.safetensors"
    assert atomic.read_tensors(weights)[0]["4.weight"].shape == (1, 12)
    assert len(atomic.read_jsonl(tmp_path / "first" / "metrics.jsonl")[-1]["recall_val"]) == 2
    assert run(["diagnose", "--weights", str(weights), "--out", str(tmp_path / "diagnosis")]) == 0
    plan = tmp_path / "plan.json"
    assert run(["plan", str(tmp_path / "diagnosis"), "--out", str(plan)]) == 0
    values = atomic.read_json(plan, "plan")
    values["prior_correction"]["after"] = 0.5
    atomic.write_json(plan, values)
    assert train(data, tmp_path / "second", "logit", "--plan", str(plan)) == 0
    second = atomic.read_tensors(tmp_path / "second" / "model.safetensors")[0]
    assert (second["4.weight"].shape, second["4.bias"].shape) == ((1, 12), (1,))


def test_probabilities_are_refused_and_leave_nothing(
    tmp_path: Path, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(data, tmp_path / "out", "probability") == 2
    assert "--model must return its logit for training, got the sigmoid of it" in capsys.readouterr().err
    assert not (tmp_path / "out" / "run.json").exists()
