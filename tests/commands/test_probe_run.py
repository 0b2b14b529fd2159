"""`diversify probe`: a frozen backbone, a head fitted here, and what `diagnose` leaves."""

from pathlib import Path

import numpy as np
import pytest
import torch

import diversify as dv
from diversify.cli.entry import run
from diversify.commands import from_features, probe
from diversify.commands import remedy as module
from diversify.commands.diagnosed import load_diagnosed
from diversify.data.loader import Loaded
from diversify.files import atomic, digests

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("reports_without_figures")]


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


def test_a_checkpoint_without_a_head_gives_the_same_probe(
    tmp_path: Path, data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    state = dv.build_model("small_cnn", 3, channels=1).state_dict()
    bare = {f"backbone.{name}": value for name, value in state.items() if not name.startswith("linear.")}
    for name, tensors in (("whole", state), ("bare", bare)):
        torch.save(tensors, tmp_path / f"{name}.pt")
        weights = ["--backbone", "small_cnn", "--weights", str(tmp_path / f"{name}.pt")]
        assert run(["probe", *data, *weights, "--out", str(tmp_path / name)]) == 0
    assert "the checkpoint has no weights for the head linear, which is fitted here" in capsys.readouterr().out
    sides = [load_diagnosed(tmp_path / name)[1].train.features for name in ("whole", "bare")]
    assert torch.equal(*map(torch.as_tensor, sides))
    torch.save({name: value for name, value in bare.items() if "weight" in name}, tmp_path / "odd.pt")
    weights = ["--backbone", "small_cnn", "--weights", str(tmp_path / "odd.pt")]
    assert run(["probe", *data, *weights, "--out", str(tmp_path / "odd")]) == 2
    assert "must fit the model" in capsys.readouterr().err


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


def test_weights_that_do_not_fit_are_told_before_any_image_is_read(
    tmp_path: Path, data: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("diversify.commands.options.load_data", load)
    torch.save({"_conv_stem.weight": torch.zeros(4, 3, 3, 3), "_fc.weight": torch.zeros(5, 4)}, tmp_path / "b.pt")
    arguments = ["--backbone", "torchvision:squeezenet1_1", "--weights", str(tmp_path / "b.pt")]
    assert run(["probe", *data, *arguments, "--out", str(tmp_path / "out")]) == 2
    assert "must fit the model" in capsys.readouterr().err


def test_held_out_images_that_are_also_in_train_are_said(
    probed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The held-out images are the training images in another order, with the labels of other images."""
    assert run([*probed, "--out", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "30 of 30 val images are also in train (exact copies): recall on them is too high" in said
    record = atomic.read_json(tmp_path / "out" / "run.json", "run.json")
    assert record["duplicates"]["count"] == 30
    assert "also in the training set" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def _files(folder: Path) -> dict[str, bytes]:
    """The content of every file but of the record and the pages, which have times."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    head = folder / "embeddings" / "head.safetensors"
    heads = {"head": digests.digest_tensors(atomic.read_tensors(head)[0]).encode()} if head.exists() else {}
    left_out = ("run.json", "report.html", "report.md", "embeddings/head.safetensors")
    return heads | {name: content for name, content in found.items() if name not in left_out}


@pytest.fixture
def probed(tmp_path: Path, data: list[str]) -> list[str]:
    torch.save(dv.build_model("small_cnn", 7, channels=1).state_dict(), tmp_path / "b.pt")
    return ["probe", *data, "--backbone", "small_cnn", "--weights", str(tmp_path / "b.pt"), "--batch-size", "7"]


def _interrupted(probed: list[str], out: Path, monkeypatch: pytest.MonkeyPatch, side: str, image: int) -> None:
    """Run until so many images of a side are read."""

    def stop(done: int, total: int | None) -> None:
        if done >= image:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(probe, "stage", lambda _, name: stop if name == f"reading {side}" else None)
        assert run([*probed, "--out", str(out)]) == 130


@pytest.mark.parametrize(("side", "image", "left"), [("train", 14, (16, 30)), ("heldout", 7, (0, 23))])
def test_an_interrupted_probe_goes_on_to_the_same_result(
    tmp_path: Path,
    probed: list[str],
    side: str,
    image: int,
    left: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run([*probed, "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "out"
    _interrupted(probed, out, monkeypatch, side, image)
    assert atomic.read_json(out / "run.json", "run.json")["finished"] is False
    for command in ("remedy", "plan", "report"):
        assert run([command, str(out), "--out", str(tmp_path / "none")]) == 2
    read: list[tuple[int, int | None]] = []
    loaded = Loaded.__call__
    seen = []
    monkeypatch.setattr(Loaded, "__call__", lambda self, rows: seen.append(len(rows)) or loaded(self, rows))
    monkeypatch.setattr(probe, "stage", lambda _, name: (lambda *at: read.append(at)) if "reading" in name else None)
    assert run([*probed, "--out", str(out), "--resume"]) == 0
    assert sum(seen) == sum(left)
    assert read[0] == ((21, 30) if side == "train" else (14, 30))  # progress counts the images of before
    assert _files(out) == _files(tmp_path / "whole")
    assert not (out / "state").exists()
    records = [atomic.read_json(each / "run.json", "run.json") for each in (out, tmp_path / "whole")]
    for record in records:  # the metadata of the head's file have no order, so its digest may differ
        del record["started"], record["weights"]["sha256"]
    assert records[0] == records[1]


def test_a_probe_that_was_stopped_while_it_wrote_goes_on(
    tmp_path: Path, probed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run([*probed, "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(from_features, "choose_exhibits", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
        assert run([*probed, "--out", str(out)]) == 2
    assert (out / "embeddings" / "train" / "index.json").exists()
    assert run([*probed, "--out", str(out)]) == 0
    assert _files(out) == _files(tmp_path / "whole")


OTHERS = {
    "--precision bf16": "--precision of a resumed run must stay fp32, got bf16",
    "--imbalance step:2:0.5": "--imbalance of a resumed run must stay none, got step:2:0.5",
    "--heldout test": "--heldout of a resumed run must stay val, got test",
    "--std .25": "--std of a resumed run must stay 0.5, got 0.25",
    "--backbone resnet20 --weights {dir}/c.pt": "--backbone of a resumed run must stay small_cnn, got resnet20",
    "--weights {dir}/d.pt": "--weights of a resumed run must be those that the run in {dir}/out began with, got others",
}


def test_an_interrupted_probe_does_not_go_on_with_other_settings(
    tmp_path: Path, probed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "d.npz"
    arrays = dict(np.load(file))
    np.savez(file, **arrays, test_images=arrays["val_images"], test_labels=arrays["val_labels"])
    torch.save(dv.build_model("resnet20", 3, channels=1).state_dict(), tmp_path / "c.pt")
    torch.save(dv.build_model("small_cnn", 7, channels=1, seed=1).state_dict(), tmp_path / "d.pt")
    out = tmp_path / "out"
    _interrupted(probed, out, monkeypatch, "train", 14)
    kept = _files(out)
    advice = "; choose another folder, or pass --overwrite to start anew"
    capsys.readouterr()
    for options, message in OTHERS.items():
        given = options.format(dir=tmp_path).split()
        for resume in ([], ["--resume"]):
            assert run([*probed, *given, "--out", str(out), *resume]) == 2
            assert capsys.readouterr().err == f"error: {message.format(dir=tmp_path)}{advice}\n"
    np.savez(file, **(arrays | {"train_images": arrays["train_images"][::-1]}))
    assert run([*probed, "--out", str(out)]) == 2
    assert f"images of a resumed run must be those that the run in {out} began with" in capsys.readouterr().err
    assert _files(out) == kept


def test_resume_needs_an_interrupted_probe(
    tmp_path: Path, probed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run([*probed, "--out", str(out), "--resume"]) == 2
    assert capsys.readouterr().err == (
        f"error: --resume must find an interrupted probe, got none in {out}; start a new one without --resume\n"
    )
    assert not out.exists()
    assert run([*probed, "--out", str(out)]) == 0
    for more in ([], ["--overwrite"]):
        assert run([*probed, "--out", str(out), "--resume", *more]) == 2
    assert (out / "diagnosis.json").exists()
