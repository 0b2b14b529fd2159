"""Trees of images: splits, classes, links and leftovers."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import VIEW, images_of, message_of, noise, random_images, saved

from diversify.data.load import load_data
from diversify.data.loader import make_loader


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
def test_val_may_have_any_of_its_names(tmp_path, name):
    for path in ("train/a/1.png", "train/b/1.png", f"{name}/b/1.png", "test/a/1.png"):
        saved(tmp_path / path)
    loaded = load_data(f"folder:{tmp_path}", **VIEW)
    assert [split.labels.tolist() for split in (loaded.train, loaded.val, loaded.test)] == [[0, 1], [1], [0]]
    assert loaded.notes == (() if name == "val" else (f"folder {name} is read as val",))
    assert loaded.val.source == "val"


def test_a_tree_with_only_train_and_test_and_one_without_splits(tmp_path):
    for split in ("train", "test"):
        for number in range(10):
            saved(tmp_path / f"{split}/a/{number}.png")
    loaded = load_data(f"folder:{tmp_path}", **VIEW)
    assert [(len(split), split.origin) for split in (loaded.train, loaded.val, loaded.test)] == [
        (8, "source"),
        (2, "cut"),
        (10, "source"),
    ]
    alone = load_data(f"folder:{tmp_path / 'train'}", **VIEW)
    assert (len(alone.train), len(alone.val), alone.test) == (8, 2, None)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("Train", "Validation", "Test"), ("TRAIN", "Val", "Testing"), ("training", "x", "testing")],
)
def test_splits_are_known_in_capitals_and_by_their_longer_names(tmp_path, train, val, test):
    for name in (train, val, test):
        saved(tmp_path / name / "a" / "1.png")
        saved(tmp_path / name / "b" / "1.png")
    loaded = load_data(f"folder:{tmp_path}", holdout=0, **VIEW)
    assert loaded.class_names == ("a", "b")
    assert (len(loaded.train), len(loaded.test)) == (2, 2)
    assert (loaded.val is None) == (val == "x")
    assert f"folder {test} is read as test" in loaded.notes
    assert f"folder {train} is read as train" in loaded.notes


def test_leftovers_of_archives_and_hidden_folders_are_no_images(tmp_path):
    for name in ("a/1.png", "b/1.png", "__MACOSX/a/9.png", ".git/9.png", "a/.ipynb_checkpoints/1-checkpoint.png"):
        saved(tmp_path / name)
    for name in ("a/below/.cache/deep/9.png", "a/__MACOSX/9.png", "a/.9.png", "b/below/2.png"):
        saved(tmp_path / name)
    loaded = load_data(f"folder:{tmp_path}", holdout=0, **VIEW)
    assert loaded.class_names == ("a", "b")
    assert [path.name for path in loaded.train.dataset.dataset.paths] == ["1.png", "1.png", "2.png"]
    assert loaded.notes == (f"not read: __MACOSX in {tmp_path}",)


def test_links_to_folders_are_followed_and_no_image_is_read_twice(tmp_path):
    top, store = tmp_path / "tree", tmp_path / "store"
    for path in (top / "a/1.png", top / "b/1.png", top / "b/real/2.png", store / "3.png", store / "deep/4.png"):
        saved(path)
    (top / "c").symlink_to(store)
    (top / "b/linked").symlink_to(store)
    (top / "b/again").symlink_to(top / "b/real")
    (top / "b/same").symlink_to(store / "deep")
    (top / "b/real/loop").symlink_to(top / "b")
    (top / "b/all").symlink_to(top)
    (store / "deep/loop").symlink_to(store)
    loaded = load_data(f"folder:{top}", holdout=0, **VIEW)
    files = loaded.train.dataset.dataset
    names = [files.name(row) for row in range(len(files))]
    assert names[0] == "a/1.png"
    assert [name for name in names if name.startswith("c")] == ["c/3.png", "c/deep/4.png"]
    within = [(top / name).resolve() for name in names if name.startswith("b")]
    stored = {store / "3.png", store / "deep/4.png"}
    assert sorted(within) == sorted({top / "b/1.png", top / "b/real/2.png"} | stored)


def test_images_with_endings_that_are_not_read_are_counted(tmp_path):
    for name in ("a/1.png", "b/1.png"):
        saved(tmp_path / name)
    for name in ("a/2.jfif", "a/3.JFIF", "b/4.avif", "b/5.txt", "b/.6.heic", "b/7.svg", "b/8.nef"):
        (tmp_path / name).write_bytes(b"")
    (note,) = load_data(f"folder:{tmp_path}", holdout=0, **VIEW).notes
    assert note.startswith("not read: images with other endings than .jpg .jpeg ")
    assert note.endswith(": 1 .avif, 2 .jfif, 1 .nef, 1 .svg")


def test_splits_of_several_sizes_are_told_and_may_be_made_one(tmp_path):
    arrays = {f"{name}_images": noise(4, side, side) for name, side in (("train", 8), ("val", 16))}
    labels = {f"{name}_labels": np.arange(4) % 2 for name in ("train", "val")}
    np.savez(tmp_path / "d.npz", **arrays, **labels)
    spec = f"npz:{tmp_path / 'd.npz'}"
    expected = "images must have one size, got 8 x 8 in train and 16 x 16 in val; pass resize=N and crop=N"
    assert message_of(lambda: load_data(spec, **VIEW)) == expected
    loaded = load_data(spec, resize=8, **VIEW)
    assert images_of(loaded.val).shape[1:] == images_of(loaded.train).shape[1:] == (1, 8, 8)
    assert images_of(load_data(spec, crop=12, **VIEW).val).shape[1:] == (1, 12, 12)
    saved(tmp_path / "tree/train/a/1.png", size=(6, 5))
    saved(tmp_path / "tree/test/a/1.png", size=(5, 6))
    assert "got 6 x 5 in" in message_of(lambda: load_data(f"folder:{tmp_path / 'tree'}", **VIEW))


def test_two_folders_for_val_are_one_too_many(tmp_path):
    for name in ("train", "val", "valid"):
        saved(tmp_path / f"{name}/a/1.png")
    expected = "image folder must have one val split, got val and valid"
    assert message_of(lambda: load_data(f"folder:{tmp_path}", **VIEW)) == expected
    (tmp_path / "train").rename(tmp_path / ".train")
    expected = "image folder must have a folder train beside val and test, got val, valid"
    assert message_of(lambda: load_data(f"folder:{tmp_path}", **VIEW)) == expected


def test_a_class_may_be_called_train_and_folders_beside_the_splits_are_told(tmp_path):
    for path in ("train/1.png", "bus/1.png", "test/1.png"):
        saved(tmp_path / "vehicles" / path)
    loaded = load_data(f"folder:{tmp_path}/vehicles", holdout=0, **VIEW)
    assert (loaded.class_names, loaded.test) == (("bus", "test", "train"), None)
    for path in ("train/a/1.png", "test/a/1.png", "extra/a/1.png"):
        saved(tmp_path / "splits" / path)
    loaded = load_data(f"folder:{tmp_path}/splits", holdout=0, **VIEW)
    assert loaded.class_names == ("a",)
    assert loaded.notes == (f"not read: extra, beside train in {tmp_path}/splits",)


def write_image(path, mode="RGB", size=(6, 5), key=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = random_images(size[1], size[0], 3, key=key)
    image = Image.fromarray(pixels if mode == "RGB" else pixels[..., 0])
    (image if mode in ("RGB", "L") else image.convert(mode)).save(path)
    return pixels


def test_a_folder_with_a_folder_per_class(tmp_path):
    pixels = {
        name: write_image(tmp_path / name, key=key) for key, name in enumerate(("b/2.png", "b/10.PNG", "a/x/1.bmp"))
    }
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README").touch()
    loaded = load_data(f"folder:{tmp_path}", holdout=0, **VIEW)
    assert loaded.class_names == ("a", "b")
    assert loaded.train.labels.tolist() == [0, 1, 1]
    order = ("a/x/1.bmp", "b/10.PNG", "b/2.png")
    assert torch.equal(
        images_of(loaded.train).permute(0, 2, 3, 1), torch.from_numpy(np.stack([pixels[n] for n in order]))
    )
    assert (loaded.val, loaded.test) == (None, None)


def test_a_folder_with_train_val_and_test(tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "train/b/2.png", "val/b/1.png", "test/c/1.png"):
        write_image(tmp_path / name)
    loaded = load_data(f"folder:{tmp_path}", **VIEW)
    assert loaded.class_names == ("a", "b", "c")
    assert [split.labels.tolist() for split in (loaded.train, loaded.val, loaded.test)] == [[0, 1, 1], [1], [2]]
    assert loaded.val.origin == "source"


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA", "CMYK"])
def test_other_image_modes_are_read_as_rgb(tmp_path, mode):
    path = tmp_path / "a" / ("1.tif" if mode == "CMYK" else "1.png")
    write_image(path, mode)
    image = images_of(load_data(f"folder:{tmp_path}", holdout=0, **VIEW).train)[0]
    with Image.open(path) as stored:
        assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(np.array(stored.convert("RGB"))))
    assert image.shape == (3, 5, 6)


def test_resize_and_crop_make_images_of_several_sizes_one(tmp_path):
    write_image(tmp_path / "a/1.png", size=(12, 8))
    write_image(tmp_path / "a/2.png", size=(5, 9))
    loaded = load_data(f"folder:{tmp_path}", holdout=0, resize=6, crop=4, **VIEW)
    assert images_of(loaded.train).shape == (2, 3, 4, 4)
    images, labels = next(iter(make_loader(loaded.train, loaded.view)))
    assert images.shape == (2, 3, 4, 4)
    assert labels.tolist() == [0, 0]
    assert str(loaded.view) == "mean 0.5,0.5,0.5, std 0.5,0.5,0.5, resize 6, crop 4"


def several_sizes(top):
    write_image(top / "a/1.png", size=(6, 5))
    write_image(top / "b/2.png", size=(6, 5))
    write_image(top / "b/3.png", size=(7, 4))
    write_image(top / "b/4.png", size=(9, 9))


def cut_short(top):
    write_image(top / "a/1.png")
    path = top / "a/2.png"
    write_image(path, size=(40, 40))
    path.write_bytes(path.read_bytes()[:200])
    assert Image.open(path).size == (40, 40)  # the header is whole


def bare(top):
    (top / "a").mkdir()


FOLDER_ERRORS = [
    (lambda top: top.rmdir(), {}, "image folder must be an existing folder, got {top}"),
    (lambda top: (top / "x.png").touch(), {}, "image folder must have one folder per class, got none in {top}"),
    (bare, {}, "image folder {top} must have at least one image, got 0"),
    (
        lambda top: (write_image(top / "val/a/1.png"), write_image(top / "test/a/1.png")),
        {},
        "image folder must have a folder train beside val and test, got test, val",
    ),
    (
        several_sizes,
        {},
        "image files must have one size, got 6 x 5 in {top}/a/1.png and 7 x 4 in {top}/b/3.png; pass resize=N and crop=N",
    ),
    (
        several_sizes,
        {"resize": 8},
        "image files must have one size, got 6 x 5 in {top}/a/1.png and 7 x 4 in {top}/b/3.png; pass resize=N and crop=N",
    ),
    (
        cut_short,
        {"resize": 4, "crop": 4},
        "image files of folder:{top} must be readable images, got 1 that cannot be read: a/2.png (damaged); "
        "pass skip_bad=True to leave them out",
    ),
]


@pytest.mark.parametrize(("make", "view", "message"), FOLDER_ERRORS, ids=[text[:60] for *_, text in FOLDER_ERRORS])
def test_a_folder_that_cannot_be_read(tmp_path, make, view, message):
    make(tmp_path)

    def read():
        loaded = load_data(f"folder:{tmp_path}", holdout=0, **view, **VIEW)
        list(make_loader(loaded.train, loaded.view))

    assert message_of(read) == message.format(top=tmp_path)


def test_an_error_in_a_worker_process_is_the_same_one_line(tmp_path):
    write_image(tmp_path / "a/1.png")
    write_image(tmp_path / "a/2.png", size=(40, 40))
    loaded = load_data(f"folder:{tmp_path}", holdout=0, resize=4, crop=4, **VIEW)
    cut_short(tmp_path)
    loader = make_loader(loaded.train, loaded.view, workers=1)
    assert message_of(lambda: list(loader)) == f"image file must be a readable image, got {tmp_path}/a/2.png"
