"""Every image file that cannot be read is named before anything else."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import VIEW, message_of

from diversify.commands.options import DataOptions
from diversify.data import images
from diversify.data.decode import read_image
from diversify.data.images import ImageFiles, check_files
from diversify.data.load import load_data
from diversify.errors import InputError
from diversify.functional import draws
from diversify.runtime.progress import Ticker


def noise(*shape):
    return draws.integers(256, "noise", torch.arange(int(np.prod(shape)))).view(shape).to(torch.uint8).numpy()


def saved(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


# The check


def cut(path, size=400):
    path.write_bytes(path.read_bytes()[:size])


def tree(top, per_class=4):
    for name in "ab":
        for number in range(per_class):
            saved(top / name / f"{number}.png", Image.fromarray(noise(6, 6, 3) + number))
    return f"folder:{top}"


def test_everything_that_cannot_be_read_is_named_at_once(tmp_path):
    spec = tree(tmp_path)
    photo = saved(tmp_path / "a/cut.jpg", Image.fromarray(noise(64, 64, 3)), quality=95)
    cut(photo, photo.stat().st_size - 300)
    (tmp_path / "a/text.png").write_text("no image")
    (tmp_path / "b/empty.jpeg").touch()
    (tmp_path / "b/gone.png").symlink_to(tmp_path / "nowhere.png")
    saved(tmp_path / "b/x.tif", Image.new("F", (6, 6)))
    assert message_of(lambda: load_data(spec, **VIEW)) == (
        f"image files of {spec} must be readable images, got 5 that cannot be read: a/cut.jpg (damaged), "
        "a/text.png (no image), b/empty.jpeg (no image), b/gone.png (not there), "
        "b/x.tif (floating point, PIL mode F); pass skip_bad=True to leave them out"
    )


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    spec = tree(tmp_path)
    read = Path.read_bytes

    def locked(path):
        if path.name == "2.png":
            raise PermissionError(path)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", locked)
    assert "a/2.png (no permission), b/2.png (no permission)" in message_of(lambda: load_data(spec, **VIEW))
    monkeypatch.undo()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "b")
    assert (
        message_of(lambda: load_data(spec, **VIEW)) == f"image folder must be one that you may read, got {tmp_path}/b"
    )


@pytest.mark.slow
def test_of_many_the_first_ten_are_named(tmp_path):
    spec = tree(tmp_path)
    for number in range(1012):
        (tmp_path / f"a/bad{number:04}.png").touch()
    message = message_of(lambda: load_data(spec, **VIEW))
    assert "got 1,012 that cannot be read" in message
    assert "a/bad0009.png (no image) and 1,002 more; pass skip_bad=True" in message
    assert "bad0010" not in message
    record = load_data(spec, skip_bad=True, **VIEW).record()
    assert (len(record["skipped"]), record["skipped_count"]) == (1000, 1012)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "gif", "tif", "bmp"])
def test_the_check_finds_what_reading_would_find(tmp_path, ending):
    whole = saved(tmp_path / f"whole.{ending}", Image.fromarray(noise(64, 48, 3)))
    size = whole.stat().st_size
    paths = [whole]
    for place in range(1, 8):
        path = tmp_path / f"{place}.{ending}"
        path.write_bytes(whole.read_bytes()[: size * place // 8])
        paths.append(path)
    files = ImageFiles(paths, torch.zeros(len(paths), dtype=torch.int64))
    (bad,) = check_files([files])

    def readable(path):
        try:
            read_image(path)
        except InputError:
            return False
        return True

    assert sorted(bad) == [row for row, path in enumerate(paths) if not readable(path)]
    assert len(bad) == 7
    assert files.sizes[0] == (48, 64)


def test_progress_counts_every_file_of_every_split(tmp_path):
    for split in ("train", "val"):
        tree(tmp_path / split, per_class=40)
    seen = []
    load_data(f"folder:{tmp_path}", check_progress=lambda *state: seen.append(state), **VIEW)
    assert {what for what, _, _ in seen} == {"checking images"}
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1] == ("checking images", 160, 160)
    assert len(seen) > 1


def test_an_interruption_ends_the_check_early():
    begun = []

    def work(row):
        begun.append(row)
        threading.Event().wait(0.001)

    def interrupt(*state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images.in_threads(work, 100_000, Ticker(interrupt, 100_000))
    assert len(begun) < 50_000


def test_skipped_files_are_out_of_every_split_and_in_the_record(tmp_path):
    clean, dirty = tmp_path / "clean", tmp_path / "dirty"
    for top in (clean, dirty):
        tree(top / "train", 10)
        tree(top / "val", 3)
    for name in ("train/a/3.png", "train/b/9.png", "val/a/0.png"):
        cut(dirty / name, 60)
        (clean / name).unlink()
    spec = f"folder:{dirty}"
    loaded, expected = load_data(spec, skip_bad=True, **VIEW), load_data(f"folder:{clean}", **VIEW)
    for name in ("train", "val"):
        one, two = getattr(loaded, name), getattr(expected, name)
        assert one.labels.tolist() == two.labels.tolist()
        assert all(torch.equal(one.dataset[row][0], two.dataset[row][0]) for row in range(len(one)))
    assert loaded.skipped == ("train/a/3.png", "train/b/9.png", "val/a/0.png")
    assert loaded.notes == ("left out: 3 image files that cannot be read",)
    assert loaded.record()["skipped"] == list(loaded.skipped)
    assert loaded.record()["skipped_count"] == 3
    assert loaded.train.indices.tolist() == [row for row in range(20) if row not in (3, 19)]
    assert loaded.val.indices.tolist() == [1, 2, 3, 4, 5]
    assert load_data(spec, skip_bad=True, **VIEW).record() == loaded.record()
    assert "skipped" not in expected.record()
    assert load_data(f"folder:{clean}", skip_bad=True, **VIEW).record() == expected.record() | {
        "spec": f"folder:{clean}"
    }


def test_other_files_left_out_make_another_digest(tmp_path):
    digests = set()
    for name in ("train/a/3.png", "train/a/4.png"):
        top = tmp_path / Path(name).stem
        tree(top / "train", 10)
        cut(top / name, 60)
        loaded = load_data(f"folder:{top}", skip_bad=True, holdout=0, **VIEW)
        assert loaded.train.labels.tolist() == [0] * 9 + [1] * 10
        digests.add(loaded.train.digest())
    assert len(digests) == 2


def test_a_class_that_loses_every_image_is_named(tmp_path):
    spec = tree(tmp_path)
    for path in (tmp_path / "b").iterdir():
        path.write_text("no image")
    expected = "skip_bad must leave every class a training image, got none of b; repair their files"
    assert message_of(lambda: load_data(spec, skip_bad=True, **VIEW)) == expected
    for path in (tmp_path / "a").iterdir():
        path.write_text("no image")
    expected = "skip_bad must leave train an image, got none of 8 files"
    assert message_of(lambda: load_data(spec, skip_bad=True, **VIEW)) == expected


def test_a_training_record_brings_skip_bad_back(tmp_path):
    spec = tree(tmp_path)
    cut(tmp_path / "a/1.png", 60)
    trained = DataOptions(spec=spec, skip_bad=True, mean=(0.5,), std=(0.5,)).load(measure_view=True)
    record = {"data": trained.record(), "view": {"mean": [0.5], "std": [0.5], "resize": None, "crop": None}}
    options = DataOptions().filled_from(record)
    assert options.skip_bad
    assert options.load(measure_view=False).record() == trained.record()
    clean = {key: value for key, value in record["data"].items() if key != "skipped"}
    assert not DataOptions().filled_from(record | {"data": clean}).skip_bad
    assert DataOptions(skip_bad=True).filled_from(record | {"data": clean}).skip_bad
    assert not DataOptions(spec="digits").filled_from(record).skip_bad
