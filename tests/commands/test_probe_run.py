"""`diversify probe`: a frozen backbone, a head fitted here, and what `diagnose` leaves."""

from pathlib import Path

import numpy as np
import pytest
import torch

import diversify as dv
from diversify.cli.entry import run
from diversify.commands import remedy as module
from diversify.commands.diagnosed import load_diagnosed
from diversify.files import atomic

pytestmark = pytest.mark.usefixtures("reports_without_figures")


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    labels = np.tile(np.arange(3), 10)
    images = (np.arange(30 * 64).reshape(30, 8, 8) * 7 % 200 + 20 * labels[:, None, None]).astype(np.uint8)
    arrays = {"train_images": images, "train_labels": labels, "val_images": images[::-1], "val_labels": labels[::-1]}
    np.savez(tmp_path / "d.npz", **arrays)
    return ["--data", f"npz:{tmp_path / 'd.npz'}", "--mean", ".5", "--std", ".5"]


def test_the_head_is_fitted_said_and_repaired(
    tmp_path: Path, data: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The backbone was trained for another number of classes, and is only read."""
    from diversify.repair.retrain import HeadRecipe

    monkeypatch.setattr(module, "REPEATS", 1)
    monkeypatch.setattr(module, "HeadRecipe", lambda **options: HeadRecipe(steps=5, batch_size=16, **options))
    backbone = dv.build_model("small_cnn", 7, channels=1)
    torch.save({"state_dict": {f"model.{k}": v for k, v in backbone.state_dict().items()}}, tmp_path / "b.ckpt")
    out = tmp_path / "out"
    arguments = ["probe", *data, "--backbone", "small_cnn", "--weights", str(tmp_path / "b.ckpt")]
    state = torch.get_rng_state()
    assert run([*arguments, "--out", str(out)]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert "the head was fitted here" in capsys.readouterr().out
    assert "the head was fitted here" in (out / "report.md").read_text(encoding="utf-8").replace("\n", " ")
    record = atomic.read_json(out / "run.json", "run.json")
    assert record["head_fitted"]["loss"] == "cross entropy"
    assert record["backbone"]["prefix"] == "model."
    _, model, _ = load_diagnosed(out)
    images = torch.from_numpy(np.load(tmp_path / "d.npz")["train_images"]).float().div(255).sub(0.5).div(0.5)
    features = backbone.eval().features(images[:, None]).detach()
    torch.testing.assert_close(torch.as_tensor(model.train.features)[model.train.indices.argsort()], features)
    assert torch.equal(model.head.weight, dv.fit_head(model.train.features, model.train.labels, 3).weight)
    assert run(["plan", str(out)]) == 0
    assert run(["remedy", str(out), "--out", str(tmp_path / "remedy")]) == 0
    assert "it is assumed" not in capsys.readouterr().out
    shapes = {n: tuple(t.shape) for n, t in atomic.read_tensors(tmp_path / "remedy" / "model.safetensors")[0].items()}
    assert shapes == {"weight": (3, 64), "bias": (3,)}


@pytest.mark.parametrize("backbone", ["torchvision:resnet18", "timm:resnet18", "small_cnn"])
def test_a_backbone_without_weights_is_refused(
    tmp_path: Path, data: list[str], backbone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["probe", *data, "--backbone", backbone, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        f"error: --weights must be given for --backbone {backbone}, got none; pass --weights FILE\n"
    )
    assert not (tmp_path / "out").exists()


def test_weights_of_another_network_are_refused(
    tmp_path: Path, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(dv.build_model("resnet20", 7, channels=1).state_dict(), tmp_path / "b.pt")
    arguments = ["--backbone", "small_cnn", "--weights", str(tmp_path / "b.pt"), "--out", str(tmp_path / "out")]
    assert run(["probe", *data, *arguments]) == 2
    assert "must fit the model" in capsys.readouterr().err
