"""What the images are is part of a record: other images under the same names and numbers are other images."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diversify.cli.entry import run
from diversify.commands import copies as module
from diversify.commands.heldout import choose_heldout, trained_on
from diversify.commands.options import DataOptions
from diversify.data.images import ImageArray, ImageFiles, check_files
from diversify.data.load import Data, load_data
from diversify.errors import InputError
from diversify.files import atomic
from diversify.functional import draws
from diversify.network.networks import build_model

pytestmark = pytest.mark.usefixtures("reports_without_figures")

VIEW = {"mean": (0.5,), "std": (0.5,)}
RECIPE = ["--batch-size", "16", "--precision", "fp32", "--warmup-epochs", "0", "--mean", ".5", "--std", ".5"]


def noise(*shape: int, key: int = 0) -> np.ndarray:
    cells = torch.arange(int(np.prod(shape))).view(shape)
    return draws.integers(256, "noise", cells, key).to(torch.uint8).numpy()


def tree(top: Path, per_class: int = 6) -> Path:
    for label, name in enumerate("ab"):
        (top / name).mkdir(parents=True)
        for number in range(per_class):
            Image.fromarray(noise(8, 8, 3, key=10 * label + number)).save(top / name / f"{number}.png")
    return top


def contents(loaded: Data) -> dict[str, str | None]:
    splits = loaded.record()["splits"]
    assert isinstance(splits, dict)
    return {name: split["content"] for name, split in splits.items()}


def replaced(top: Path) -> None:
    Image.fromarray(noise(8, 8, 3, key=99)).save(top / "a" / "3.png")


def swapped(top: Path) -> None:
    one, two, aside = (top / "a" / name for name in ("1.png", "2.png", "aside"))
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


@pytest.mark.parametrize("change", [replaced, swapped, lambda top: (top / "b/0.png").rename(top / "b/00.png")])
def test_other_files_of_the_same_number_are_other_images(tmp_path: Path, change: object) -> None:
    spec = f"folder:{tree(tmp_path / 'tree')}"
    before = load_data(spec, holdout=0, **VIEW)
    change(tmp_path / "tree")  # type: ignore[operator]
    after = load_data(spec, holdout=0, **VIEW)
    assert after.train.digest() == before.train.digest()
    assert after.train.content != before.train.content


def test_the_place_of_a_tree_and_what_is_seen_of_it_do_not_count(tmp_path: Path) -> None:
    tree(tmp_path / "tree")
    shutil.copytree(tmp_path / "tree", tmp_path / "elsewhere")
    expected = contents(load_data(f"folder:{tmp_path / 'tree'}", **VIEW))
    assert contents(load_data(f"folder:{tmp_path / 'elsewhere'}", resize=4, crop=3, **VIEW)) == expected
    assert len(set(expected.values())) == len(expected) == 2
    assert None not in expected.values()


def test_only_the_images_that_are_chosen_count(tmp_path: Path) -> None:
    images, labels = noise(20, 8, 8), np.arange(20) % 2
    spec = f"npz:{tmp_path / 'd.npz'}"
    found = []
    for row in (None, 0, 1):
        changed = images.copy()
        if row is not None:
            changed[row] ^= 1
        np.savez(tmp_path / "d.npz", train_images=changed, train_labels=labels)
        loaded = load_data(spec, imbalance="exp:2:8", resize=4, crop=4, **VIEW)
        assert loaded.val is not None
        rows = {name: split.indices.tolist() for name, split in (("train", loaded.train), ("val", loaded.val))}
        found.append((row, rows, contents(loaded)))
    _, _, first = found[0]
    for row, rows, content in found[1:]:
        assert {name for name in content if content[name] != first[name]} == {n for n, r in rows.items() if row in r}


def test_each_file_is_opened_once_to_be_checked_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted(tree(tmp_path / "tree").glob("*/*.png"))
    read: list[Path] = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path), path.open("rb").read())[1])
    files = ImageFiles(paths, torch.zeros(len(paths), dtype=torch.int64))
    check_files([files])
    assert sorted(read) == paths
    assert files.digests is not None
    assert len(set(files.digests)) == len(paths)


def trained_record(loaded: Data, **more: object) -> dict[str, object]:
    return {"data": loaded.record(), "files": {}, **more}


def without_content(record: dict[str, object]) -> dict[str, object]:
    earlier = copy.deepcopy(record)
    for split in earlier["data"]["splits"].values():  # type: ignore[index]
        del split["content"]
    return earlier


def test_a_cut_is_held_out_only_of_the_images_that_the_model_learned_from(tmp_path: Path) -> None:
    """And a record that says nothing of what the images were is believed, as before."""
    options = DataOptions(spec=f"folder:{tree(tmp_path / 'tree')}", **VIEW)
    record = trained_record(options.load(measure_view=True))
    same = options.load(measure_view=False)
    assert trained_on(record, same, {})
    replaced(tmp_path / "tree")
    swapped(tmp_path / "tree")
    other = options.load(measure_view=False)
    assert not trained_on(record, other, {})
    with pytest.raises(InputError, match="be images that the model was not trained on"):
        choose_heldout(other, None, record, {})
    assert trained_on(without_content(record), same, {})
    assert choose_heldout(same, None, without_content(record), {}) == ("val", same.val)


def npz(path: Path, key: int = 0) -> Path:
    np.savez(path, train_images=noise(40, 8, 8, key=key), train_labels=np.arange(40) % 2)
    return path


def interrupted_training(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    """Trains one epoch of two."""
    write = atomic.write_tensors

    def stop(path: Path, *rest: object, **more: object) -> None:
        write(path, *rest, **more)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "write_tensors", stop)
    assert run(arguments) == 130
    monkeypatch.undo()


@pytest.mark.parametrize("earlier", [False, True], ids=["as it is written", "as it was written before"])
def test_a_training_goes_on_with_the_images_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], earlier: bool
) -> None:
    from diversify.commands.train import _Training

    data, out = npz(tmp_path / "d.npz"), tmp_path / "out"
    arguments = ["train", "--data", f"npz:{data}", *RECIPE, "--epochs", "2", "--out", str(out)]
    with monkeypatch.context() as patched:
        if earlier:
            patched.setattr(_Training, "identity", _Training.earlier_identity)
        interrupted_training(patched, arguments)
    assert (out / "state" / "state.safetensors").is_file()
    if not earlier:
        npz(data, key=1)
        assert run([*arguments, "--resume"]) == 2
        assert "must have the data and the model it began with" in capsys.readouterr().err
        npz(data)
    assert run([*arguments, "--resume"]) == 0
    assert atomic.read_json(out / "run.json", "run.json")["finished"]
    assert len(atomic.read_jsonl(out / "metrics.jsonl")) == 2


def test_an_interrupted_diagnosis_does_not_go_on_with_other_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        tree(tmp_path / "tree" / split)
    weights, out = tmp_path / "w.safetensors", tmp_path / "out"
    atomic.write_tensors(weights, build_model("small_cnn", 2, channels=3).state_dict())
    arguments = ["diagnose", "--data", f"folder:{tmp_path / 'tree'}", "--weights", str(weights), "--out", str(out)]
    arguments += ["--mean", ".5", "--std", ".5"]

    def stop(*_: object) -> None:
        raise OSError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(module, "find_duplicates", stop)
        assert run(arguments) == 2
    swapped(tmp_path / "tree" / "train")
    capsys.readouterr()
    assert run(arguments) == 2
    assert "images of a resumed run must be those that the run in" in capsys.readouterr().err
    swapped(tmp_path / "tree" / "train")
    assert run(arguments) == 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("floating", [False, True])
def test_images_in_memory_are_resized_when_fetched_to_the_same_values(channels: int, floating: bool) -> None:
    images = torch.from_numpy(noise(7, channels, 11, 9))
    images = images / 255 if floating else images
    view = load_data("digits", resize=6, crop=5).view
    assert view is not None
    array = ImageArray(images, torch.arange(7)).shaped(view.shape)
    whole = view.shape(images)
    assert whole.shape == (7, channels, 5, 5)
    assert array.images is images
    assert torch.equal(array.__getitems__([4, 0, 6]).images, whole[[4, 0, 6]])
    assert all(torch.equal(array[row][0], whole[row]) for row in range(7))


def test_the_size_after_is_the_size_that_comes_out() -> None:
    for resize, crop in ((None, None), (6, None), (7, 5), (None, 4)):
        view = load_data("digits", resize=resize, crop=crop).view
        assert view is not None
        for width, height in ((5, 9), (9, 5), (8, 8), (13, 7)):
            shaped = view.shape(torch.zeros(1, 3, height, width))
            assert view.size_after(width, height) == (shaped.shape[3], shaped.shape[2])
