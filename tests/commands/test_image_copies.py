"""`diversify diagnose` compares the images, too: pairs with pictures, counts and recall without them, and one line without imagehash."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from diversify.cli.entry import run
from diversify.commands import copies as module
from diversify.files import atomic
from diversify.functional import draws
from diversify.network.networks import build_model

pytestmark = pytest.mark.usefixtures("reports_without_figures")


def detailed(number: int, key: str) -> torch.Tensor:
    coarse = draws.normal(key, torch.arange(number * 14 * 14)).view(number, 1, 14, 14)
    return functional.interpolate(coarse, size=32, mode="bicubic").sigmoid()[:, 0]


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Two classes of 30 training and 30 held-out images; four held-out images of class 1 are darker training images."""
    train, val = detailed(60, "train"), detailed(60, "val")
    val[41:45] = train[41:45] * 0.8
    train[59] = train[58] * 0.9
    labels = np.arange(60) // 30
    images = ((one * 255).round().to(torch.uint8).numpy() for one in (train, val))
    names = ("train_images", "val_images")
    np.savez(tmp_path / "a.npz", train_labels=labels, val_labels=labels, **dict(zip(names, images, strict=True)))
    torch.manual_seed(0)
    network = build_model("small_cnn", 2, channels=1)
    atomic.write_tensors(tmp_path / "w.safetensors", network.state_dict())
    data = ["--data", f"npz:{tmp_path}/a.npz", "--mean", ".5", "--std", ".5"]
    return ["diagnose", *data, "--weights", f"{tmp_path}/w.safetensors"]


def test_pairs_counts_and_recall_are_shown(arguments: list[str], tmp_path: Path) -> None:
    pytest.importorskip("imagehash")
    out = tmp_path / "out"
    assert run([*arguments, "--out", str(out)]) == 0
    diagnosis = atomic.read_json(out / "diagnosis.json", "diagnosis.json")
    assert diagnosis["classes"]["effective_count"] == [30, 29]
    assert diagnosis["classes"]["near_copies_heldout"] == pytest.approx([0, 4 / 30], abs=1e-4)
    assert any("are near copies of training images" in one["text"] for one in diagnosis["findings"])
    exhibits = atomic.read_json(out / "exhibits.json", "exhibits.json")
    pairs = exhibits["copy_pairs"]
    assert sorted((one["heldout"], one["class_index"]) for one in pairs) == [(False, 1), (True, 1), (True, 1)]
    assert all(one["bits"] <= 32 for one in pairs)
    assert all(one[side]["picture"].startswith("data:image/png") for one in pairs for side in ("image", "copy_of"))
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert "Pairs of near copies" in page
    assert pairs[0]["copy_of"]["picture"] in page
    assert "by a perceptual hash of 256 bits" in page
    assert f"image hash, {pairs[0]['bits']} of 256 bits differ" in text
    assert run(["report", str(out), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "report.html").read_text() == page


def test_without_imagehash_one_line_says_what_to_install(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "can_hash", lambda: False)
    out = tmp_path / "out"
    assert run([*arguments, "--out", str(out)]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "pip install" in line]
    assert said == [
        "note: near copies are looked for in features alone; `pip install 'diversify-imbalance[hash]'` compares the images, too"
    ]
    assert not atomic.read_json(out / "exhibits.json", "exhibits.json")["images_compared"]
    assert "perceptual hash" not in (out / "report.html").read_text()
