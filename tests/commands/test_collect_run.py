"""`diversify collect`: a list of the images to label next, and a page that shows them."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diversify as dv
from diversify.cli.entry import run
from diversify.commands.collect import _notes
from diversify.commands.diagnosed import load_diagnosed
from diversify.files import atomic
from diversify.functional import draws
from diversify.plan.suggest_images import SuggestedImage

pytestmark = pytest.mark.usefixtures("reports_without_figures")


def pixels(rows: int, name: str) -> np.ndarray:
    cells = torch.arange(rows * 64).view(rows, 8, 8)
    return (draws.uniform(name, cells) * 255).to(torch.uint8).numpy()


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("collect")
    labels = np.tile(np.arange(3), 10)
    arrays = {
        "train_images": pixels(30, "train"),
        "train_labels": labels,
        "class_names": np.array(["cat", "dog", "owl"]),
    }
    np.savez(top / "d.npz", **arrays, val_images=pixels(30, "val"), val_labels=labels)
    network = dv.build_model("small_cnn", 3, channels=1)
    atomic.write_tensors(top / "w.safetensors", network.state_dict())
    arguments = [
        "--data",
        f"npz:{top / 'd.npz'}",
        "--mean",
        ".5",
        "--std",
        ".5",
        "--weights",
        str(top / "w.safetensors"),
    ]
    assert run(["diagnose", *arguments, "--out", str(top / "diagnosis")]) == 0
    return top / "diagnosis"


def listed(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "picks.csv").read_text(encoding="utf-8").splitlines()))


def test_images_of_an_array_are_listed_and_shown(
    diagnosed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = np.load(diagnosed.parent / "d.npz")["train_images"]
    images = np.concatenate([pixels(12, "pool"), train[:4]])
    np.savez(tmp_path / "pool.npz", images=images, groups=np.arange(16) // 2)
    out = tmp_path / "out"
    arguments = ["collect", str(diagnosed), "--pool", f"npz:{tmp_path / 'pool.npz'}", "--budget", "5"]
    assert run([*arguments, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "5 of 16 images to label; predicted" in printed
    assert "images are near copies of training or held-out images and were left out" in printed
    lines = listed(out)
    rows = [int(line["index"]) for line in lines]
    assert len(set(rows)) == 5
    assert max(rows) < 12
    assert len({row // 2 for row in rows}) == 5
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64") == 5
    assert all(f"image {row}" in page for row in rows)
    record = json.loads((out / "run.json").read_text())
    assert (record["command"], record["pool"]["images"]) == ("collect", 16)
    found = json.loads((out / "picks.json").read_text())
    assert [one["index"] for one in found["images"]] == rows

    # the same as from Python, with features that the network gives
    diagnosis, model, _ = load_diagnosed(diagnosed)
    network = dv.build_model("small_cnn", 3, channels=1).eval()
    features = network.features(torch.from_numpy(images)[:, None].float().div(255).sub(0.5).div(0.5)).detach()
    pool = dv.Embeddings.from_arrays(features, np.zeros(16), head=model.head, groups=np.arange(16) // 2)
    again = dv.suggest_images(diagnosis, model.train, pool, budget=5, heldout=model.heldout)
    assert again.indices.tolist() == rows

    np.savez(
        tmp_path / "features.npz",
        features=features.numpy(),
        groups=np.arange(16) // 2,
        paths=[f"p{k}" for k in range(16)],
    )
    arguments = ["collect", str(diagnosed), "--pool-features", str(tmp_path / "features.npz"), "--budget", "5"]
    assert run([*arguments, "--out", str(tmp_path / "other")]) == 0
    assert [line["path"] for line in listed(tmp_path / "other")] == [f"p{row}" for row in rows]


def test_files_anywhere_in_a_folder_are_a_pool(
    diagnosed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = tmp_path / "pool"
    (pool / "day 1").mkdir(parents=True)
    for row, image in enumerate(pixels(6, "files")):
        Image.fromarray(image).convert("RGB").save(pool / ("day 1" if row % 2 else "") / f"{row}.png")
    (pool / "broken.png").write_bytes(b"no image")
    arguments = ["collect", str(diagnosed), "--pool", f"folder:{pool}", "--budget", "3", "--out", str(tmp_path / "out")]
    assert run(arguments) == 2
    assert "pass --skip-bad to leave them out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run([*arguments, "--skip-bad"]) == 2  # three channels for a network of grey images
    assert "channels" in capsys.readouterr().err


def test_a_folder_for_a_network_of_colour_images(tmp_path: Path) -> None:
    labels = np.tile(np.arange(2), 10)
    colour = np.repeat(pixels(20, "colour")[..., None], 3, 3)
    np.savez(tmp_path / "d.npz", train_images=colour, train_labels=labels, val_images=colour[::-1], val_labels=labels)
    atomic.write_tensors(tmp_path / "w.safetensors", dv.build_model("small_cnn", 2, channels=3).state_dict())
    arguments = ["--data", f"npz:{tmp_path / 'd.npz'}", "--mean", ".5,.5,.5", "--std", ".5,.5,.5"]
    arguments += ["--weights", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / "diagnosis")]
    assert run(["diagnose", *arguments]) == 0
    pool = tmp_path / "pool"
    (pool / "day 1").mkdir(parents=True)
    for row, image in enumerate(pixels(6, "files")):
        Image.fromarray(image).convert("RGB").save(pool / ("day 1" if row % 2 else "") / f"{row}.png")
    (pool / "broken.png").write_bytes(b"no image")
    arguments = ["collect", str(tmp_path / "diagnosis"), "--pool", f"folder:{pool}", "--skip-bad", "--budget", "3"]
    assert run([*arguments, "--method", "random", "--out", str(tmp_path / "out")]) == 0
    lines = listed(tmp_path / "out")
    assert len(lines) == 3
    assert {line["path"] for line in lines} <= {"0.png", "2.png", "4.png", "day 1/1.png", "day 1/3.png", "day 1/5.png"}
    paths = sorted(str(path.relative_to(pool)) for path in pool.rglob("*.png"))
    assert all(paths[int(line["index"])] == line["path"] for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--pool must be one set of images or features, got none; pass --pool DATA or --pool-features FILE"),
        (["--pool", "npz:none.npz"], "--pool must be an existing file, got none.npz"),
        (["--pool", "folder:none"], "--pool must be an existing folder, got none"),
        (["--pool", "folder:{empty}"], "--pool must have image files (.jpg"),
        (["--pool", "npz:{features}"], "--pool must hold the array images, got none in "),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    diagnosed: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "features.npz", features=np.eye(3))
    places = {"empty": tmp_path / "empty", "features": tmp_path / "features.npz"}
    arguments = [one.format(**places) for one in arguments]
    assert run(["collect", str(diagnosed), *arguments, "--budget", "3", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.strip().startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


def test_weights_that_changed_are_refused(diagnosed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "pool.npz", images=pixels(5, "pool"))
    weights = diagnosed.parent / "w.safetensors"
    content = weights.read_bytes()
    atomic.write_tensors(weights, dv.build_model("small_cnn", 3, channels=1, seed=1).state_dict())
    arguments = ["--pool", f"npz:{tmp_path / 'pool.npz'}", "--budget", "3", "--out", str(tmp_path / "out")]
    assert run(["collect", str(diagnosed), *arguments]) == 2
    assert "weights must be those that were diagnosed" in capsys.readouterr().err
    weights.write_bytes(content)


def test_a_frozen_backbone_reads_the_pool_with_the_head_that_was_fitted(tmp_path: Path) -> None:
    labels = np.tile(np.arange(3), 10)
    images = (pixels(30, "probe") // 4 + 60 * labels[:, None, None]).astype(np.uint8)
    np.savez(
        tmp_path / "d.npz", train_images=images, train_labels=labels, val_images=images[::-1], val_labels=labels[::-1]
    )
    backbone = dv.build_model("small_cnn", 7, channels=1)
    atomic.write_tensors(tmp_path / "b.safetensors", backbone.state_dict())
    arguments = ["--data", f"npz:{tmp_path / 'd.npz'}", "--mean", ".5", "--std", ".5", "--backbone", "small_cnn"]
    arguments += ["--weights", str(tmp_path / "b.safetensors"), "--out", str(tmp_path / "probe")]
    assert run(["probe", *arguments]) == 0
    pool = pixels(8, "other")
    np.savez(tmp_path / "pool.npz", images=pool)
    arguments = ["collect", str(tmp_path / "probe"), "--pool", f"npz:{tmp_path / 'pool.npz'}", "--budget", "3"]
    assert run([*arguments, "--out", str(tmp_path / "out")]) == 0
    diagnosis, model, _ = load_diagnosed(tmp_path / "probe")
    features = backbone.eval().features(torch.from_numpy(pool)[:, None].float().div(255).sub(0.5).div(0.5)).detach()
    expected = dv.suggest_images(
        diagnosis,
        model.train,
        dv.Embeddings.from_arrays(features, np.zeros(8), head=model.head),
        budget=3,
        heldout=model.heldout,
    )
    assert [int(line["index"]) for line in listed(tmp_path / "out")] == expected.indices.tolist()


def test_features_need_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, heldout, _ = dv.make_embeddings((20, 10, 5))
    for name, side in (("a", train), ("b", heldout)):
        np.savez(tmp_path / f"{name}.npz", features=side.features.numpy(), labels=side.labels.numpy())
    files = [str(tmp_path / "a.npz"), str(tmp_path / "b.npz")]
    assert run(["diagnose", "--features", *files, "--out", str(tmp_path / "diagnosis")]) == 0
    arguments = ["collect", str(tmp_path / "diagnosis"), "--budget", "3", "--out", str(tmp_path / "out")]
    assert run([*arguments, "--pool", f"npz:{files[0]}"]) == 2
    assert capsys.readouterr().err == (
        "error: --pool must be features for a diagnosis of features, got images; compute them as those of the training images,"
        " and pass --pool-features FILE\n"
    )
    pool, _, _ = dv.make_embeddings((5, 5, 5), seed=4)
    np.savez(tmp_path / "c.npz", features=pool.features.numpy())
    assert run([*arguments, "--pool-features", str(tmp_path / "c.npz")]) == 0
    assert len(listed(tmp_path / "out")) == 3


def test_it_says_what_more_labels_of_a_fragile_class_are_expected_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, heldout, _ = dv.make_embeddings((90, 40, 6), heldout=20, spread=1.0)
    for name, side in (("a", train), ("b", heldout)):
        np.savez(tmp_path / f"{name}.npz", features=side.features.numpy(), labels=side.labels.numpy())
    files = [str(tmp_path / "a.npz"), str(tmp_path / "b.npz")]
    assert run(["diagnose", "--features", *files, "--out", str(tmp_path / "diagnosis")]) == 0
    diagnosis, model, _ = load_diagnosed(tmp_path / "diagnosis")
    assert diagnosis["fragile"].tolist() == [0, 1, 0]
    pool, _, _ = dv.make_embeddings((5, 5, 5), seed=4)
    np.savez(tmp_path / "c.npz", features=pool.features.numpy())
    arguments = ["collect", str(tmp_path / "diagnosis"), "--pool-features", str(tmp_path / "c.npz"), "--budget", "3"]
    capsys.readouterr()
    assert run([*arguments, "--out", str(tmp_path / "out")]) == 0
    curve = dv.learning_curve(
        model.train, model.heldout, model.head, more=[3, 10, 20, 40], classes=[1], class_names=diagnosis.class_names
    )
    (sentence,) = curve.sentences()
    assert sentence.startswith("40 more images of ")
    assert f"  {sentence}\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "run.json").read_text())["learning_curve"] == curve.to_dict()
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "How many labels" in page
    assert all(f"{more} more" in page for more in (3, 10, 20, 40))


def test_a_page_without_a_forecast_has_no_section_on_labels(diagnosed: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "pool.npz", images=pixels(5, "pool"))
    arguments = ["--pool", f"npz:{tmp_path / 'pool.npz'}", "--budget", "2", "--out", str(tmp_path / "out")]
    assert run(["collect", str(diagnosed), *arguments]) == 0
    assert "How many labels" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_needy_class_that_no_image_is_predicted_as_is_named() -> None:
    one = SuggestedImage(row=0, index=0, predicted=0, predicted_class="cat", probability=0.9, score=1.0, reason="")
    found = dv.Suggestion(
        images=(one,),
        class_names=("cat", "dog", "owl"),
        need=(1.6, 0.2, 1.9),
        method="random",
        budget=1,
        pool=9,
        copies=0,
        seed=0,
    )
    (note,) = _notes(found, None)
    assert note == (
        "no suggested image is predicted as owl, which the model recognises worse than most classes: try a larger budget, or look for such images by"
        " other means"
    )
    assert _notes(dataclasses.replace(found, need=(1.6, 0.2, 1.2)), None) == []
