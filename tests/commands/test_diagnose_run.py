"""`diversify diagnose` on data and checkpoints that people bring: what it finds out by itself, says and records."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diversify.cli.entry import run
from diversify.commands import diagnose as module
from diversify.commands import options
from diversify.data.load import load_data
from diversify.data.published_view import published_view
from diversify.files import atomic
from diversify.functional import draws
from diversify.network.networks import build_model

pytestmark = pytest.mark.usefixtures("reports_without_figures")

VIEW = "--mean .5 --std .5"
FEW = "--imbalance exp:5:20"  # of the digits


def pixels(rows: int, name: str, side: int = 8) -> np.ndarray:
    cells = torch.arange(rows * side * side).view(rows, side, side)
    return (draws.uniform(name, cells) * 255).to(torch.uint8).numpy()


def npz(path: Path, labels: list[int], *, copies: int = 0, **more: object) -> Path:
    """Training images with these labels, and as many held-out ones, of which the first `copies` are training images."""
    train, val = pixels(len(labels), "train"), pixels(len(labels), "val")
    val[:copies] = train[:copies]
    found = np.array(labels)
    np.savez(path, train_images=train, train_labels=found, val_images=val, val_labels=np.roll(found, 1), **more)
    return path


def weights(path: Path, classes: int, model: str = "small_cnn", channels: int = 1) -> Path:
    atomic.write_tensors(path, build_model(model, classes, channels=channels).state_dict())
    return path


def diagnosed(tmp_path: Path, *arguments: object) -> tuple[dict, dict]:
    out = tmp_path / "out"
    assert run(["diagnose", *map(str, arguments), "--out", str(out)]) == 0
    return atomic.read_json(out / "run.json", "run.json"), atomic.read_json(out / "diagnosis.json", "diagnosis.json")


def test_copies_between_the_splits_are_said_recorded_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = npz(tmp_path / "d.npz", [0, 1] * 10, copies=3)
    record, _ = diagnosed(
        tmp_path,
        "--data",
        f"npz:{data}",
        "--weights",
        weights(tmp_path / "w.safetensors", 2),
        "--mean",
        ".5",
        "--std",
        ".5",
    )
    assert record["duplicates"] == {"heldout": "val", "images": 20, "count": 3, "same_label": 0}
    said = capsys.readouterr().out
    assert "3 of 20 val images are also in train (exact copies)" in said
    assert "3 of them have another label there" in said
    assert record["notes"] == []  # what `duplicates` says is kept once
    assert all(f"note: {caveat}" in said for caveat in record["caveats"])
    assert record["caveats"] == [
        "there is no training record beside the weights: it is assumed that train holds the images that the network was trained on"
    ]
    for name in ("report.html", "report.md"):
        assert "3 held-out images are also in the training set." in (tmp_path / "out" / name).read_text(
            encoding="utf-8"
        )


@pytest.mark.parametrize(("outputs", "names", "absent"), [(2, ["class 1", "class 3"], []), (4, None, [0, 2])])
def test_labels_that_skip_numbers_follow_the_checkpoint(
    tmp_path: Path, outputs: int, names: list[str] | None, absent: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    data = npz(tmp_path / "d.npz", [1, 3] * 10)
    file = weights(tmp_path / "w.safetensors", outputs)
    _, found = diagnosed(tmp_path, "--data", f"npz:{data}", "--weights", file, "--mean", ".5", "--std", ".5")
    classes = found["classes"]
    assert classes["name"] == (names or [f"class {c}" for c in range(4)])
    assert [c for c, count in enumerate(classes["count"]) if count == 0] == absent
    assert [c for c, recall in enumerate(classes["recall_heldout"]) if recall is None] == absent
    assert ("labels skip numbers" in capsys.readouterr().out) == (not absent)


def test_huge_numbers_are_no_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = npz(tmp_path / "d.npz", [1, 10**12] * 10)
    arguments = ["--data", f"npz:{data}", *VIEW.split(), "--weights", str(weights(tmp_path / "w.safetensors", 3))]
    assert run(["diagnose", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert "they are for 3 classes and the model has 2" in capsys.readouterr().err


def test_an_imbalance_is_over_the_classes_that_there_are(tmp_path: Path) -> None:
    """In a checkpoint with an output for every number too: the images are those that `train` takes."""
    data = npz(tmp_path / "d.npz", [1, 3] * 10)
    file = weights(tmp_path / "w.safetensors", 4)
    _, found = diagnosed(tmp_path, "--data", f"npz:{data}", "--weights", file, *VIEW.split(), "--imbalance", "exp:2")
    assert found["classes"]["count"] == [0, 10, 0, 5]


def test_a_head_that_fits_neither_numbering_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = npz(tmp_path / "d.npz", [1, 3] * 10)
    file = weights(tmp_path / "w.safetensors", 3)
    arguments = ["--data", f"npz:{data}", "--weights", str(file), "--mean", ".5", "--std", ".5"]
    assert run(["diagnose", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert "they are for 3 classes and the model has 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_files_are_named_in_the_report_and_bad_ones_left_out_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        for label, name in enumerate(("猫", "dog")):
            folder = tmp_path / "tree" / split / name
            folder.mkdir(parents=True)
            for row, image in enumerate(pixels(6, f"{split} {label}")):
                Image.fromarray(image).save(folder / f"{row}.png")
    broken = tmp_path / "tree" / "train" / "dog" / "2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    arguments = [
        "--data",
        f"folder:{tmp_path / 'tree'}",
        "--model",
        "small_cnn",
        "--mean",
        ".5,.5,.5",
        "--std",
        ".5,.5,.5",
    ]
    arguments += ["--weights", str(weights(tmp_path / "w.safetensors", 2, channels=3))]
    assert run(["diagnose", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert "dog/2.png (damaged); pass --skip-bad to leave them out" in capsys.readouterr().err
    record, _ = diagnosed(tmp_path, *arguments, "--skip-bad")
    assert "1 image file" in capsys.readouterr().out
    assert record["data"]["splits"]["train"]["images"] == 11
    assert record["notes"] == ["left out: 1 image file that cannot be read"]
    assert record["caveats"][-1] == "1 image that cannot be read was left out on request"
    shown = atomic.read_json(tmp_path / "out" / "exhibits.json", "exhibits.json")["examples"]
    names = [each["name"] for one in shown for kind in ("typical", "errors") for each in one[kind]]
    assert all((tmp_path / "tree" / name).is_file() and name != "train/dog/2.png" for name in names)


def test_copies_and_caveats_are_there_when_the_report_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    trained = tmp_path / "trained"
    recipe = ["--epochs", "1", "--batch-size", "16", "--precision", "fp32", "--warmup-epochs", "0"]
    data = npz(tmp_path / "d.npz", [0, 1] * 10)
    assert run(["train", "--data", f"npz:{data}", *VIEW.split(), *recipe, "--out", str(trained)]) == 0
    given: list[dict] = []
    render = module.render_html
    monkeypatch.setattr(module, "render_html", lambda *rest: (given.append(dict(rest[1])), render(*rest))[1])
    file = trained / "model.safetensors"
    record, _ = diagnosed(tmp_path, "--weights", file)
    assert (record["caveats"], record["duplicates"]["count"]) == ([], 0)
    npz(data, [0, 1] * 10, copies=2)  # other images of val, the same of train
    other = np.load(data)["train_images"] ^ 1
    np.savez(data, **{**np.load(data), "train_images": other, "val_images": other})
    record, _ = diagnosed(tmp_path, "--weights", file, "--overwrite")
    assert record["caveats"] == ["these training images are not those that the checkpoint's record names"]
    assert record["duplicates"]["count"] == 20
    shown = [(each["duplicates"]["count"], each["caveats"]) for each in given]
    assert shown == [(0, []), (20, record["caveats"])]


@pytest.mark.slow
def test_what_published_weights_see_is_found_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torchvision had published the checkpoint at hand."""

    found = published_view("torchvision:resnet18", "f37072fd" + "0" * 56)
    assert found is not None
    monkeypatch.setattr(options, "published_view", lambda *_, **__: found)
    data = npz(tmp_path / "d.npz", [0, 1] * 4)
    file = weights(tmp_path / "w.safetensors", 2, "torchvision:resnet18", channels=3)
    record, _ = diagnosed(tmp_path, "--data", f"npz:{data}", "--model", "torchvision:resnet18", "--weights", file)
    assert record["view_origin"] == "torchvision's ResNet18_Weights.IMAGENET1K_V1"
    assert record["view"]["crop"] == 224
    assert record["view"]["resize"] == 256
    assert record["view"]["mean"] == [0.485, 0.456, 0.406]


def test_a_data_set_of_ones_own_is_shown_too(tmp_path: Path) -> None:
    file = weights(tmp_path / "w.safetensors", 10)
    options = ["--data", "test_diagnose_run:own", "--weights", file, "--heldout", "test", "--batch-size", "16"]
    record, _ = diagnosed(tmp_path, *options)
    assert record["view"] is None
    assert "data:image/png" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def own() -> dict[str, object]:
    """Digits as the network sees them."""
    data = load_data("digits", imbalance="exp:10:40", holdout=0.0)

    def whole(split) -> torch.utils.data.TensorDataset:
        rows = range(0, len(split), 2)
        images = torch.stack([split.dataset[row][0] for row in rows])
        return torch.utils.data.TensorDataset(images / 255 - 0.3, split.labels[::2])

    assert data.test is not None
    return {"train": whole(data.train), "test": whole(data.test)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a network that was trained on images of 16 pixels, cut out of 20."""
    folder = tmp_path_factory.mktemp("view")
    recipe = ["--epochs", "1", "--batch-size", "16", "--precision", "fp32", "--warmup-epochs", "0"]
    data = npz(folder / "d.npz", [0, 1] * 10)
    shape = ["--resize", "20", "--crop", "16"]
    assert run(["train", "--data", f"npz:{data}", *VIEW.split(), *shape, *recipe, "--out", str(folder / "run")]) == 0
    return folder / "run" / "model.safetensors"


CONTRADICTION = "the given options contradict the record beside the weights: "


@pytest.mark.parametrize(
    ("flags", "origin", "against"),
    [
        ("", "recorded", ""),
        (
            "--resize 10 --crop 8",
            "resize, crop given; mean, std recorded",
            "resize 10 (recorded: 20), crop 8 (recorded: 16)",
        ),
        (
            "--mean .5 --std .25 --crop 16",
            "mean, std, crop given; resize recorded",
            "std 0.25 (recorded: 0.5)",
        ),
        (f"{VIEW} --resize 20 --crop 16", "given", ""),
        (f"{VIEW} --resize 20 --crop 12", "given", "crop 12 (recorded: 16)"),
    ],
)
def test_what_is_given_and_what_is_recorded_of_the_view_is_told_apart(
    tmp_path: Path, trained: Path, flags: str, origin: str, against: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record, _ = diagnosed(tmp_path, "--weights", trained, *flags.split())
    said = " ".join(capsys.readouterr().out.split())
    assert record["view_origin"] == origin
    assert f"({origin})" in said
    assert record["notes"] == ([CONTRADICTION + against] if against else [])
    assert (CONTRADICTION in said) is bool(against)
    if against:
        assert f"note: {CONTRADICTION}{against}" in said
        assert against in " ".join((tmp_path / "out" / "report.md").read_text(encoding="utf-8").split())


def test_flags_without_a_record_are_given(tmp_path: Path) -> None:
    file = weights(tmp_path / "w.safetensors", 10)
    record, _ = diagnosed(tmp_path, "--weights", file, "--heldout", "test", "--resize", "8", *FEW.split())
    assert record["view_origin"] == "resize given; mean, std usual"
    assert record["notes"] == []
