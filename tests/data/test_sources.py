"""Public data sets in their own layouts, MedMNIST files, trees, data sets of dicts, class names and labels of any kind."""

import hashlib
import json
import os
import pickle
import shutil
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Subset, TensorDataset

from diversify.cli import entry
from diversify.commands.options import DataOptions
from diversify.data.duplicates import find_duplicates
from diversify.data.imbalance import Imbalance, holdout_indices, imbalance_indices
from diversify.data.labels import labels_of
from diversify.data.load import load_data
from diversify.data.loader import collate, make_loader
from diversify.errors import InputError
from diversify.functional import draws

VIEW = {"mean": (0.5,), "std": (0.5,)}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def message_of(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def noise(*shape, key=0):
    return draws.integers(256, "noise", key, torch.arange(int(np.prod(shape)))).view(shape).to(torch.uint8).numpy()


def saved(path, size=(6, 5), key=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = noise(size[1], size[0], 3, key=key)
    Image.fromarray(pixels).save(path)
    return pixels


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def images_of(split):
    return torch.stack([split.dataset[row][0] for row in range(len(split))])


# What was read before is read the same


def test_the_digests_of_digits_are_what_checkpoints_have_recorded():
    loaded = load_data("digits")
    assert loaded.train.digest() == "b5d2a985926181c88b8cd4a8ecaa1c95c3fe35efa231f38b060a38e8b050df7c"
    assert loaded.val.digest() == "3a56d31cae29f5205fc0b9a8d8e0b02a6202c6d929fb22fbc6a227d12a692f27"
    assert loaded.test.digest() == "381897c94d82fa4772cc51d0ab00fd275061ebf14b06a0eecc91a4747424c5a9"
    tailed = load_data("digits", imbalance="exp:10", tail_order="3").train.digest()
    assert tailed == "7c6c15d1f51534fa21075e257fb3d86f6da3c8953811517916c4503d394c3f2a"
    assert not {"skipped", "skipped_count", "label_numbers"} & set(loaded.record())
    assert (loaded.notes, loaded.skipped, loaded.label_numbers) == ((), (), None)


# Public data sets


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """CIFAR-100 with 200 training and 100 test images, as torchvision unpacks it."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for key, (name, count) in enumerate((("train", 200), ("test", 100))):
        stored = {"data": noise(count, 3072, key=key), "fine_labels": [row % 100 for row in range(count)]}
        (folder / name).write_bytes(pickle.dumps(stored))
    names = [f"name{number:02}" for number in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    reader = torchvision.datasets.CIFAR100
    monkeypatch.setattr(reader, "train_list", [["train", md5(folder / "train")]])
    monkeypatch.setattr(reader, "test_list", [["test", md5(folder / "test")]])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": md5(folder / "meta")})
    return tmp_path


def test_cifar100(cifar100):
    loaded = load_data("cifar100", root=cifar100, holdout=0.5)
    assert [len(split) for split in (loaded.train, loaded.val, loaded.test)] == [100, 100, 100]
    assert torch.equal(images_of(loaded.test).flatten(1), torch.from_numpy(noise(100, 3072, key=1)))
    assert (loaded.view.mean, loaded.view.std) == ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    assert (loaded.view_origin, loaded.mirror, loaded.num_classes) == ("usual", True, 100)
    assert loaded.class_names[:2] == ("apple", "aquarium_fish")
    assert loaded.class_names[99] == "worm"
    assert len(set(loaded.class_names)) == 100
    assert list(loaded.class_names) == sorted(loaded.class_names)
    np.savez(cifar100 / "cifar100.npz", train_images=noise(100, 4, 4, 3), train_labels=np.arange(100))
    assert load_data("cifar100", root=cifar100, holdout=0).train.dataset.images.shape == (100, 3, 4, 4)


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """SVHN with 20 training and 10 test images; its files call the digit 0 "10"."""
    files = {}
    for key, (split, count) in enumerate((("train", 20), ("test", 10))):
        images = noise(count, 32, 32, 3, key=key).transpose(1, 2, 3, 0)
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", {"X": images, "y": labels})
        files[split] = ["", f"{split}_32x32.mat", md5(tmp_path / f"{split}_32x32.mat")]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", files)
    return tmp_path


def test_svhn(svhn):
    loaded = load_data("svhn", root=svhn, holdout=0)
    assert torch.equal(images_of(loaded.train).permute(0, 2, 3, 1), torch.from_numpy(noise(20, 32, 32, 3)))
    assert loaded.test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert loaded.class_names == tuple("0123456789")
    assert (loaded.view.mean, loaded.view.std) == ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
    assert not loaded.mirror


@pytest.fixture
def places365(tmp_path, monkeypatch):
    """Places365 with three categories, four training and three validation images."""
    lines = {
        "categories_places365.txt": ["/a/airfield 0", "/a/apartment_building/outdoor 1", "/b/bar 2"],
        "places365_train_standard.txt": [
            "/a/airfield/1.jpg 0",
            "/a/apartment_building/outdoor/1.jpg 1",
            "/b/bar/1.jpg 2",
            "/b/bar/2.jpg 2",
        ],
        "places365_val.txt": ["Places365_val_1.jpg 2", "Places365_val_2.jpg 0", "Places365_val_3.jpg 1"],
    }
    for name, content in lines.items():
        (tmp_path / name).write_text("\n".join(content) + "\n")
    for folder, name in (("data_256_standard", "places365_train_standard.txt"), ("val_256", "places365_val.txt")):
        for line in lines[name]:
            saved(tmp_path / folder / line.split()[0].strip("/"), size=(16, 16))
    reader = torchvision.datasets.Places365
    sums = {name: (name, md5(tmp_path / name)) for name in lines}
    monkeypatch.setattr(reader, "_CATEGORIES_META", sums["categories_places365.txt"])
    lists = {"train-standard": sums["places365_train_standard.txt"], "val": sums["places365_val.txt"]}
    monkeypatch.setattr(reader, "_FILE_LIST_META", lists)
    return tmp_path


def test_places365(places365):
    loaded = load_data("places365", root=places365, holdout=0.5)
    assert loaded.class_names == ("airfield", "apartment_building/outdoor", "bar")
    assert sorted(loaded.train.labels.tolist() + loaded.val.labels.tolist()) == [0, 1, 2, 2]
    assert loaded.test.labels.tolist() == [2, 0, 1]
    assert (loaded.val.origin, loaded.test.origin) == ("cut", "source")
    assert (loaded.view.mean, loaded.view.std) == IMAGENET
    assert images_of(loaded.test).shape == (3, 3, 16, 16)
    assert labels_of(loaded.test.dataset).tolist() == [2, 0, 1]


def species(number, name):
    return f"{number:05}_Animalia_Chordata_Aves_Passeriformes_Corvidae_Corvus_{name}"


@pytest.fixture
def inaturalist(tmp_path):
    """iNaturalist 2021 mini with three species and pictures of several sizes."""
    for number, name in enumerate(("corax", "corone", "frugilegus")):
        for picture in range(number + 1):
            saved(tmp_path / "2021_train_mini" / species(number, name) / f"{9 - picture}.jpg", size=(20 + number, 16))
        saved(tmp_path / "2021_valid" / species(number, name) / "v.jpg", size=(16, 20))
    return tmp_path


def test_inaturalist(inaturalist):
    loaded = load_data("inaturalist", root=inaturalist, holdout=0, resize=12, crop=8)
    assert loaded.class_names == (species(0, "corax"), species(1, "corone"), species(2, "frugilegus"))
    assert loaded.train.labels.tolist() == [0, 1, 1, 2, 2, 2]
    assert (loaded.test.labels.tolist(), loaded.val) == ([0, 1, 2], None)
    assert images_of(loaded.train).shape == (6, 3, 8, 8)
    names = [path.name for path in loaded.train.dataset.dataset.paths]
    assert names == ["9.jpg", "8.jpg", "9.jpg", "7.jpg", "8.jpg", "9.jpg"]  # sorted, whatever the folder's own order
    assert (loaded.view.mean, loaded.view.std) == IMAGENET
    assert "pass resize=N and crop=N" in message_of(lambda: load_data("inaturalist", root=inaturalist))
    saved(inaturalist / "2021_train" / species(0, "corax") / "1.jpg")
    for number, name in ((1, "corone"), (2, "frugilegus")):
        saved(inaturalist / "2021_train" / species(number, name) / "1.jpg")
    assert len(load_data("inaturalist", root=inaturalist, holdout=0, resize=12, crop=8).train) == 3
    (inaturalist / "2021_valid").rename(inaturalist / "kept")
    assert load_data("inaturalist", root=inaturalist, holdout=0, resize=12, crop=8).test is None


def test_large_sources_are_checked_and_skipped_like_a_tree(inaturalist, places365):
    (inaturalist / "2021_valid" / species(1, "corone") / "v.jpg").write_text("no image")
    named = f"2021_valid/{species(1, 'corone')}/v.jpg"
    shape = {"resize": 12, "crop": 8}
    assert f"{named} (no image)" in message_of(lambda: load_data("inaturalist", root=inaturalist, **shape))
    assert load_data("inaturalist", root=inaturalist, skip_bad=True, **shape).skipped == (named,)
    (places365 / "val_256" / "Places365_val_2.jpg").unlink()
    assert message_of(lambda: load_data("places365", root=places365)) == (
        "image files of places365 must be readable images, got 1 that cannot be read: "
        "val_256/Places365_val_2.jpg (not there); pass skip_bad=True to leave them out"
    )
    left = load_data("places365", root=places365, skip_bad=True).test
    assert (left.labels.tolist(), left.indices.tolist()) == ([2, 1], [0, 2])


def remove(*names):
    def change(root):
        for name in names:
            (root / name).rename(root / f"{name} gone")

    return change


def overwrite(name):
    return lambda root: (root / name).write_text("something else")


THERE = "must be there, got {root}; pass root=FOLDER or download=True"
WHOLE = "must be whole, got {root}; remove it and pass download=True"
DAMAGES = [
    ("cifar100", remove("cifar-100-python"), f"CIFAR100 under root {THERE}"),
    ("cifar100", overwrite("cifar-100-python/test"), f"CIFAR100 under root {WHOLE}"),
    ("svhn", remove("train_32x32.mat"), f"SVHN under root {THERE}"),
    ("svhn", remove("test_32x32.mat"), f"SVHN under root {THERE}"),
    ("svhn", overwrite("test_32x32.mat"), f"SVHN under root {WHOLE}"),
    ("places365", remove("categories_places365.txt"), f"Places365 under root {THERE}"),
    ("places365", overwrite("places365_val.txt"), f"Places365 under root {WHOLE}"),
    ("places365", remove("data_256_standard"), f"data_256_standard of Places365 under root {THERE}"),
    ("places365", remove("val_256"), f"val_256 of Places365 under root {THERE}"),
    (
        "inaturalist",
        remove("2021_train_mini"),
        f"2021_train or 2021_train_mini of iNaturalist under root {THERE}",
    ),
    ("inaturalist", overwrite("2021_valid/readme"), f"iNaturalist under root {WHOLE}"),
    (
        "inaturalist",
        lambda root: shutil.rmtree(root / "2021_valid" / species(0, "corax")),
        f"iNaturalist under root {WHOLE}",
    ),
]


@pytest.mark.parametrize(
    ("spec", "damage", "message"), DAMAGES, ids=[f"{spec} {number}" for number, (spec, *_) in enumerate(DAMAGES)]
)
def test_absence_and_damage_end_in_one_line(request, spec, damage, message):
    root = request.getfixturevalue(spec)
    damage(root)
    assert message_of(lambda: load_data(spec, root=root, resize=8, crop=8)) == message.format(root=root)


def test_species_that_differ_between_train_and_valid(inaturalist):
    last = inaturalist / "2021_valid" / species(2, "frugilegus")
    last.rename(last.with_name(species(2, "monedula")))
    assert message_of(lambda: load_data("inaturalist", root=inaturalist, resize=8, crop=8)) == (
        "iNaturalist under root must have the same species in 2021_train_mini and 2021_valid, got 3 and 3 that differ"
    )


@pytest.mark.parametrize("spec", ["svhn", "cifar100", "places365", "inaturalist"])
def test_a_root_that_is_not_there_is_not_made(tmp_path, spec):
    assert "pass root=FOLDER or download=True" in message_of(lambda: load_data(spec, root=tmp_path / "no"))
    assert not (tmp_path / "no").exists()


# MedMNIST


def medmnist(path, shape, labels, **more):
    arrays = {}
    for key, split in enumerate(("train", "val", "test")):
        arrays |= {f"{split}_images": noise(*shape, key=key), f"{split}_labels": labels}
    np.savez(path, **arrays, **more)
    return f"npz:{path}"


COLUMN = (np.arange(6) % 3)[:, None].astype(np.uint8)


@pytest.mark.parametrize("side", [28, 64])
@pytest.mark.parametrize("colour", [False, True])
def test_medmnist_in_grey_and_colour_and_every_size(tmp_path, side, colour):
    shape = (6, side, side, 3) if colour else (6, side, side)
    loaded = load_data(medmnist(tmp_path / "a.npz", shape, COLUMN), **VIEW)
    assert images_of(loaded.val).shape == (6, 3 if colour else 1, side, side)
    assert loaded.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert [split.origin for split in (loaded.train, loaded.val, loaded.test)] == ["source"] * 3


MANY = "for several labels per image (multi-label data), use dv.extract_multilabel and dv.diagnose_multilabel"
FORM = "train_images must have shape (N, H, W), (N, H, W, 1) or (N, H, W, 3), got"
LABELS_FORM = "labels of train_images must have shape (N,) or (N, 1), or be one-hot (N, C), got"
MEDMNIST_ERRORS = [
    (
        (6, 28, 28),
        noise(6, 14) % 2,
        f"{LABELS_FORM} (0, 0, 0, 0, 0, 1, ...) at row 0; {MANY}",
    ),
    (
        (6, 28, 28),
        np.eye(6, 4, dtype=int),
        f"{LABELS_FORM} (0, 0, 0, 0) at row 4; leave out the images without a label",
    ),
    (
        (6, 28, 28, 28),
        COLUMN,
        f"{FORM} (6, 28, 28, 28); volumes (3-D data) cannot be read: bring 2-D images, for example slices",
    ),
    (
        (6, 8, 8, 8, 3),
        COLUMN,
        f"{FORM} (6, 8, 8, 8, 3); volumes (3-D data) cannot be read: bring 2-D images, for example slices",
    ),
    ((6, 3, 28, 28), COLUMN, f"{FORM} (6, 3, 28, 28); put the channels last with .transpose(0, 2, 3, 1)"),
]


@pytest.mark.parametrize(
    ("shape", "labels", "message"), MEDMNIST_ERRORS, ids=[str(each[0]) for each in MEDMNIST_ERRORS]
)
def test_an_npz_of_another_kind_is_told_what_it_is(tmp_path, shape, labels, message):
    assert message_of(lambda: load_data(medmnist(tmp_path / "a.npz", shape, labels), **VIEW)) == message


# Trees


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
    for name in ("a/2.jfif", "a/3.JFIF", "b/4.avif", "b/5.txt", "b/.6.heic"):
        (tmp_path / name).write_bytes(b"")
    (note,) = load_data(f"folder:{tmp_path}", holdout=0, **VIEW).notes
    assert note.startswith("not read: images with other endings than .jpg .jpeg ")
    assert note.endswith(": 1 .avif, 2 .jfif")


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


# Class names


NAMES = [
    "قطة",
    "猫 と 犬",
    "🦓👩‍👩‍👧",
    "Å\u030a\u0323",
    'it\'s "quoted" & <b>',
    "a\u2215b\u2044c",
    "[bold]x",
    "%s {0} $HOME",
    " spaces ",
    "é" * 127 + "x",
    "-rf",
]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_class_names_of_any_script_pass_unharmed(tmp_path, form):
    names = sorted(name for name in (unicodedata.normalize(form, each) for each in NAMES) if len(name.encode()) < 256)
    for name in names:
        saved(tmp_path / "tree" / name / "1.png")
    assert list(load_data(f"folder:{tmp_path}/tree", holdout=0, **VIEW).class_names) == names
    arrays = {"train_images": noise(len(names), 3, 3), "train_labels": np.arange(len(names))}
    np.savez(tmp_path / "a.npz", class_names=np.array(names), **arrays)
    assert list(load_data(f"npz:{tmp_path}/a.npz", holdout=0, **VIEW).class_names) == names
    np.savez(tmp_path / "b.npz", class_names=np.array([name.encode() for name in names]), **arrays)
    assert list(load_data(f"npz:{tmp_path}/b.npz", holdout=0, **VIEW).class_names) == names
    np.savez(tmp_path / "c.npz", class_names=np.array([b"\xff"] * len(names)), **arrays)
    expected = r"class_names must be text in UTF-8, got b'\xff'"
    assert message_of(lambda: load_data(f"npz:{tmp_path}/c.npz", **VIEW)) == expected


def test_a_name_in_two_normal_forms_is_one_class_across_splits_and_an_error_within_one(tmp_path):
    composed, decomposed = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    for path in (f"train/{composed}/1.png", "train/b/1.png", f"test/{decomposed}/1.png"):
        saved(tmp_path / path)
    loaded = load_data(f"folder:{tmp_path}", holdout=0, **VIEW)
    assert loaded.class_names == ("b", composed)
    assert loaded.test.labels.tolist() == [1]
    saved(tmp_path / f"train/{decomposed}/1.png")
    assert "class folders must have names of their own, got two that read" in message_of(
        lambda: load_data(f"folder:{tmp_path}", **VIEW)
    )


def test_names_that_are_no_text_stay_printable(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    saved(folder / "1.png")
    (folder / os.fsdecode(b"\xe9.png")).write_text("no image")
    loaded = load_data(f"folder:{tmp_path}", holdout=0, skip_bad=True, **VIEW)
    assert loaded.class_names == ("caf\ufffd",)
    assert loaded.skipped == ("caf\ufffd/\ufffd.png",)
    message_of(lambda: load_data(f"folder:{tmp_path}", **VIEW)).encode()


def test_a_class_with_one_image_keeps_it(tmp_path):
    for path in ("a/1.png", *(f"b/{number}.png" for number in range(10))):
        saved(tmp_path / path)
    assert torch.bincount(load_data(f"folder:{tmp_path}", holdout=0.9, **VIEW).train.labels).tolist() == [1, 1]


class Elements(TorchDispatchMode):
    """Counts what every operation yields."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else [result]:
            self.count += each.numel() if isinstance(each, torch.Tensor) else 0
        return result


@pytest.mark.parametrize("num_classes", [1000, 4000])
def test_a_thousand_classes_take_no_quadratic_time(num_classes):
    labels = torch.arange(num_classes).repeat(3)
    with Elements() as elements:
        imbalance_indices(labels, Imbalance.parse("exp:3"))
        holdout_indices(labels, 0.4)
    assert len(labels) < elements.count < 60 * len(labels)


def test_a_thousand_classes_are_read(tmp_path):
    labels = np.arange(3000) % 1000
    np.savez(tmp_path / "a.npz", train_images=noise(3000, 2, 2), train_labels=labels)
    loaded = load_data(f"npz:{tmp_path}/a.npz", imbalance="exp:3", holdout=0.4, **VIEW)
    assert loaded.num_classes == 1000
    assert int(torch.bincount(loaded.train.labels).min()) == 1
    assert len(loaded.record()["class_counts"]) == 1000


# Labels that skip numbers


def skipping(path, **more):
    np.savez(
        path,
        train_images=noise(6, 3, 3),
        train_labels=np.array([7, 3, 3, 7, 3, 9]),
        test_images=noise(2, 3, 3, key=1),
        test_labels=np.array([9, 12]),
        **more,
    )
    return f"npz:{path}"


def test_numbers_that_no_split_has_are_no_classes(tmp_path):
    loaded = load_data(skipping(tmp_path / "a.npz"), holdout=0, **VIEW)
    assert loaded.class_names == ("class 3", "class 7", "class 9", "class 12")
    assert loaded.train.labels.tolist() == [1, 0, 0, 1, 0, 2]
    assert loaded.test.labels.tolist() == [2, 3]
    assert loaded.label_numbers == (3, 7, 9, 12)
    assert loaded.record()["label_numbers"] == [3, 7, 9, 12]
    assert loaded.notes == (
        "labels skip numbers: the 4 with images, of 0 to 12, are classes 0 to 3, named by their own numbers",
    )
    assert torch.equal(images_of(loaded.train)[:, 0], torch.from_numpy(noise(6, 3, 3)))
    _, labels = next(iter(make_loader(loaded.test, loaded.view)))
    assert labels.tolist() == [2, 3]
    tailed = load_data(skipping(tmp_path / "a.npz"), holdout=0.5, imbalance="none", **VIEW)
    assert labels_of(tailed.train.dataset).tolist() == tailed.train.labels.tolist()


def test_numbers_are_kept_on_request_and_under_names(tmp_path):
    spec = skipping(tmp_path / "a.npz")
    kept = DataOptions(spec=spec, holdout=0, relabel=False, **VIEW).load(measure_view=False)
    assert (kept.num_classes, kept.label_numbers, kept.notes) == (13, None, ())
    assert kept.train.labels.tolist() == [7, 3, 3, 7, 3, 9]
    assert DataOptions(spec=spec, holdout=0, **VIEW).load(measure_view=False).num_classes == 4
    names = np.array([f"n{number}" for number in range(14)])
    named = load_data(skipping(tmp_path / "b.npz", class_names=names), holdout=0, **VIEW)
    assert (named.num_classes, named.label_numbers) == (14, None)
    assert named.train.labels.tolist() == [7, 3, 3, 7, 3, 9]


def test_the_images_of_an_imbalance_do_not_depend_on_the_numbering(tmp_path):
    labels = np.repeat([1, 2, 5], 20)
    np.savez(tmp_path / "d.npz", train_images=noise(60, 4, 4), train_labels=labels)
    for options in ({"imbalance": "exp:4"}, {"imbalance": "exp:4", "tail_order": "3"}, {"imbalance": "step:5:0.4"}):
        found = [
            load_data(f"npz:{tmp_path / 'd.npz'}", relabel=relabel, **options, **VIEW) for relabel in (True, False)
        ]
        assert torch.equal(found[0].train.indices, found[1].train.indices)
        assert torch.equal(found[0].val.indices, found[1].val.indices)
        assert set(found[1].train.labels.tolist()) == {1, 2, 5}
        assert (found[0].num_classes, found[1].num_classes) == (3, 6)


def test_train_says_that_labels_skip_numbers_and_diagnose_finds_the_same_classes(tmp_path, capsys):
    labels = np.arange(20) % 2 * 4 + 3
    np.savez(tmp_path / "a.npz", train_images=noise(20, 8, 8), train_labels=labels)
    arguments = f"train --data npz:{tmp_path}/a.npz --epochs 1 --warmup-epochs 0 --augment none --out {tmp_path}/run"
    assert entry.run(arguments.split()) == 0
    expected = "note: labels skip numbers: the 2 with images, of 0 to 7, are classes 0 to 1, named by their own numbers"
    assert expected in capsys.readouterr().out
    assert entry.run(f"diagnose --weights {tmp_path}/run/model.safetensors --out {tmp_path}/diagnosis".split()) == 0
    trained, diagnosed = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("run", "diagnosis"))
    assert diagnosed["data"] == trained["data"]
    assert trained["data"]["label_numbers"] == [3, 7]
    assert trained["data"]["class_names"] == ["class 3", "class 7"]


def test_huge_numbers_are_classes_too(tmp_path):
    np.savez(tmp_path / "a.npz", train_images=noise(4, 3, 3), train_labels=np.array([10**15, 5, 5, 10**15]))
    loaded = load_data(f"npz:{tmp_path}/a.npz", holdout=0, **VIEW)
    assert loaded.class_names == ("class 5", "class 1000000000000000")


# Data sets of dicts


class Feature:
    def __init__(self, names=None):
        if names is not None:
            self.names = names


class Rows:
    """A data set as Hugging Face's look from outside; remembers which rows were read."""

    def __init__(self, names=None, **columns):
        self.columns, self.read = columns, []
        self.column_names = list(columns)
        self.features = {name: Feature(names if name in ("label", "kind") else None) for name in columns}

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        self.read.append(key)
        return {name: column[key] for name, column in self.columns.items()}


def pictures(count, mode="RGB", size=(6, 5)):
    made = [Image.fromarray(noise(size[1], size[0], 3, key=key)) for key in range(count)]
    return [image.convert(mode) for image in made]


@pytest.fixture
def returned(monkeypatch):
    """A module whose function returns what the test says, and its spec."""
    module = type(sys)("their_data")
    monkeypatch.setitem(sys.modules, "their_data", module)

    def spec_of(made):
        module.make = lambda: made
        return "their_data:make"

    return spec_of


def test_a_mapping_of_data_sets_of_dicts(returned):
    made = {
        "train": Rows(["cat", "dog"], image=pictures(4), label=[0, 1, 0, 1]),
        "validation": Rows(["cat", "dog"], image=pictures(2, "L"), label=[1, 0]),
        "test": Rows(["cat", "dog"], image=pictures(1, "RGBA"), label=[1]),
        "unsupervised": Rows(["cat", "dog"], image=pictures(1), label=[-1]),
    }
    loaded = load_data(returned(made), holdout=0, mean=(0.5,), std=(0.25,), resize=4, crop=3)
    assert loaded.class_names == ("cat", "dog")
    assert [split.labels.tolist() for split in (loaded.train, loaded.val, loaded.test)] == [[0, 1, 0, 1], [1, 0], [1]]
    assert loaded.notes == ("validation is read as val",)
    assert loaded.val.source == "val"
    for split in (loaded.train, loaded.val, loaded.test):
        assert images_of(split).shape[1:] == (3, 3, 3)
        images, labels = next(iter(make_loader(split, loaded.view)))
        assert torch.equal(labels, split.labels)
        assert images.dtype == torch.float32
    assert loaded.view_origin == "given"
    whole = load_data(returned(made), holdout=0, measure_view=True)
    assert whole.view_origin == "measured"
    assert torch.equal(images_of(whole.train)[2], torch.from_numpy(noise(5, 6, 3, key=2)).permute(2, 0, 1))
    expected = "mean and std must be those that the model was trained with, got nothing; pass mean=M and std=S"
    assert message_of(lambda: load_data(returned(made))) == expected


@pytest.mark.parametrize(
    ("columns", "labels"),
    [
        ({"img": pictures(3), "fine_label": [2, 0, 1], "coarse_label": [0, 0, 0]}, [2, 0, 1]),
        ({"id": ["x", "y", "z"], "photo": pictures(3), "labels": [1, 0, 2]}, [1, 0, 2]),
        ({"photo": pictures(3), "kind": [0, 2, 1], "size": [9, 9, 9]}, [0, 2, 1]),
        ({"image": pictures(3), "mask": pictures(3), "label": np.array([0, 1, 2])}, [0, 1, 2]),
        ({"image": pictures(3), "label": torch.tensor([0, 1, 2])}, [0, 1, 2]),
    ],
    ids=["cifar100", "only images", "only classes", "mask beside", "tensor"],
)
def test_the_columns_are_found_and_labels_read_without_an_image(returned, columns, labels):
    rows = Rows(["a", "b", "c"], **columns)
    assert labels_of(rows).tolist() == labels
    assert labels_of(Subset(rows, [1])).tolist() == labels[1:2]
    assert rows.read == []
    loaded = load_data(returned({"train": rows}), holdout=0, **VIEW)
    assert loaded.train.labels.tolist() == labels
    assert torch.equal(images_of(loaded.train)[1], torch.from_numpy(noise(5, 6, 3, key=1)).permute(2, 0, 1))


def test_dicts_of_tensors_are_as_the_model_sees_them(returned):
    rows = Rows(["a", "b"], image=list(torch.rand(4, 1, 3, 3)), label=[0, 1, 1, 0])
    loaded = load_data(returned({"train": rows}), holdout=0)
    assert (loaded.view, loaded.view_origin) == (None, "as the source gives them")
    assert "let the data set resize" in message_of(lambda: load_data(returned({"train": rows}), crop=2))
    assert "let the data set resize" in message_of(lambda: load_data(returned({"train": rows}), crop=2, **VIEW))


def test_labels_that_skip_numbers_in_data_sets_without_names(returned):
    rows = Rows(image=pictures(3), label=[5, 2, 5])
    loaded = load_data(returned({"train": rows}), holdout=0, resize=4, crop=4, **VIEW)
    assert loaded.class_names == ("class 2", "class 5")
    assert collate([loaded.train.dataset[row] for row in range(3)])[1].tolist() == [1, 0, 1]
    own = TensorDataset(torch.rand(3, 1, 2, 2), torch.tensor([4, 4, 1]))
    loaded = load_data(returned({"train": own}), holdout=0)
    assert loaded.label_numbers == (1, 4)
    images, labels = next(iter(DataLoader(loaded.train.dataset, batch_size=3, collate_fn=collate)))
    assert labels.tolist() == [1, 1, 0]
    assert torch.equal(images, own.tensors[0])


def broken():
    return Rows(["a"], image=[Image.new("F", (2, 2))], label=[0])


TABLE_ERRORS = [
    (
        lambda: {"train": Rows(["a"], photo=pictures(1), drawing=pictures(1), label=[0])},
        "data set must have its images in a column `image` or `img`, or in its only column of images, "
        "got columns photo, drawing, label",
    ),
    (
        lambda: {"train": Rows(image=pictures(1), kind=[0])},
        "data set must have its labels in a column `label`, `labels` or `fine_label`, or in its only column of classes, "
        "got columns image, kind",
    ),
    (
        lambda: {"train": Rows(image=pictures(2), label=["cat", "dog"])},
        "column label must hold integers, got 'cat'; dataset.class_encode_column('label') makes them",
    ),
    (
        lambda: {"train": Rows(image=pictures(2), label=[[0, 1], [1]])},
        f"labels of Rows must be one class per image, got lists of several lengths; {MANY}",
    ),
    (
        lambda: {"train": Rows(["a"], image=pictures(1), label=[0]), "test": Rows(["b"], image=pictures(1), label=[0])},
        "their_data:make() must name the same classes in every split, got names that differ",
    ),
    (
        lambda: {"train": Rows(["a"], image=pictures(1), label=[0]), "val": 1, "validation": 2},
        "their_data:make() must have one val split, got val and validation",
    ),
    (
        lambda: {"train": Rows(image=pictures(1), label=[0]), "test": Rows(image=pictures(2), label=[-1, -1])},
        "labels of Rows must not be negative, got -1 at row 0; "
        "leave this split out: -1 throughout means that it has no labels",
    ),
    (
        lambda: {"train": broken()},
        "images of their_data:make must be readable images, got 1 that cannot be read: "
        "row 0 of train (floating point, PIL mode F); pass skip_bad=True to leave them out",
    ),
]


@pytest.mark.parametrize(("make", "message"), TABLE_ERRORS, ids=[text[:50] for _, text in TABLE_ERRORS])
def test_data_sets_of_dicts_that_do_not_fit(returned, make, message):
    assert message_of(lambda: load_data(returned(make()), **VIEW)) == message


class Failing(TensorDataset):
    """Some rows cannot be had."""

    bad = (3,)

    def __getitem__(self, index):
        if index in self.bad:
            raise OSError("disk gone")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_data_set_of_ones_own_names_it_and_the_row(returned, workers):
    spec = returned({"train": Failing(torch.rand(6, 1, 4, 4), torch.arange(6) % 2)})
    loaded = load_data(spec, holdout=0)
    expected = f"train of {spec}() must give every example, got OSError: disk gone (at row 3)"
    assert message_of(lambda: list(make_loader(loaded.train, None, workers=workers))) == expected
    assert message_of(lambda: find_duplicates(loaded.train, loaded.train)) == expected
    assert loaded.train.content is None


def test_batches_that_a_data_set_of_ones_own_fetches_whole_stay_whole(returned):
    class Whole(TensorDataset):
        asked = ()

        def __getitems__(self, indices):
            self.asked = (*self.asked, indices)
            if 5 in indices:
                raise OSError("disk gone")
            return [self[index] for index in indices]

    own = Whole(torch.rand(6, 1, 4, 4), torch.arange(6) % 2)
    loaded = load_data(returned({"train": own}), holdout=0)
    images, _ = next(iter(make_loader(loaded.train, None, batch_size=4)))
    assert torch.equal(images, own.tensors[0][:4])
    assert own.asked == ([0, 1, 2, 3],)
    message = message_of(lambda: list(make_loader(loaded.train, None, batch_size=4)))
    assert message == (
        "train of their_data:make() must give every example, got OSError: disk gone (at one of the rows 4, 5)"
    )


class Raising(Rows):
    """Some rows cannot be had."""

    def __init__(self, *args, bad, **columns):
        super().__init__(*args, **columns)
        self.bad = bad

    def __getitem__(self, key):
        if key in self.bad:
            raise self.bad[key]
        return super().__getitem__(key)


def test_rows_that_cannot_be_decoded_are_named_at_once_and_left_out_on_request(returned):
    images = pictures(8)
    images[5] = None
    bad = {0: OSError("cannot identify image file"), 2: KeyError("colour")}
    spec = returned({"train": Raising(["a", "b"], image=images, label=[0, 1] * 4, bad=bad)})
    assert message_of(lambda: load_data(spec, **VIEW)) == (
        f"images of {spec} must be readable images, got 3 that cannot be read: row 0 of train (OSError: cannot identify "
        "image file), row 2 of train (KeyError: 'colour'), row 5 of train (no image); pass skip_bad=True to leave them out"
    )
    seen = []
    loaded = load_data(spec, skip_bad=True, holdout=0, check_progress=lambda *state: seen.append(state), **VIEW)
    assert loaded.skipped == ("row 0 of train", "row 2 of train", "row 5 of train")
    assert loaded.notes == ("left out: 3 images that cannot be read",)
    assert seen == [("checking images", 8, 8)]
    assert loaded.train.indices.tolist() == [1, 3, 4, 6, 7]
    assert loaded.train.labels.tolist() == [1, 1, 0, 0, 1]
    expected = [torch.from_numpy(noise(5, 6, 3, key=key)).permute(2, 0, 1) for key in (1, 3, 4, 6, 7)]
    assert torch.equal(images_of(loaded.train), torch.stack(expected))
    assert [int(loaded.train.dataset[row][1]) for row in range(5)] == [1, 1, 0, 0, 1]


def test_a_row_that_fails_later_is_named(returned):
    rows = Raising(["a"], image=pictures(3), label=[0, 0, 0], bad={})
    loaded = load_data(returned({"train": rows}), holdout=0, **VIEW)
    rows.bad = {1: OSError("disk gone")}
    expected = "an image of the data set must be a readable image, got OSError: disk gone (row 1)"
    assert message_of(lambda: loaded.train.dataset[1]) == expected


def test_rows_of_several_sizes_are_told_before_anything_starts(returned):
    made = {"train": Rows(["a"], image=[*pictures(2), *pictures(1, size=(6, 7))], label=[0, 0, 0])}
    expected = "images must have one size, got 6 x 5 in row 0 of train and 6 x 7 in row 2 of train"
    assert message_of(lambda: load_data(returned(made), **VIEW)) == f"{expected}; pass resize=N and crop=N"
    assert "and 6 x 7 in row 2" in message_of(lambda: load_data(returned(made), resize=16, **VIEW))
    loaded = load_data(returned(made), holdout=0, resize=4, crop=4, **VIEW)
    assert images_of(loaded.train).shape == (3, 3, 4, 4)


def test_hugging_face_data_sets(returned):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    parts = {
        name: datasets.Dataset.from_dict({"img": pictures(count), "label": [row % 2 for row in range(count)]}, features)
        for name, count in (("train", 6), ("validation", 3), ("test", 2))
    }
    loaded = load_data(returned(datasets.DatasetDict(parts)), holdout=0, resize=4, crop=4, **VIEW)
    assert loaded.class_names == ("cat", "dog")
    assert [split.labels.tolist() for split in (loaded.train, loaded.val, loaded.test)] == [
        [0, 1, 0, 1, 0, 1],
        [0, 1, 0],
        [0, 1],
    ]
    whole = load_data(returned(parts), holdout=0, **VIEW)
    assert torch.equal(images_of(whole.test)[1], torch.from_numpy(noise(5, 6, 3, key=1)).permute(2, 0, 1))
    assert labels_of(parts["train"].shuffle(seed=0).select(range(3))).shape == (3,)
    images, labels = next(iter(make_loader(loaded.train, loaded.view, batch_size=6, workers=1)))
    assert (images.shape, labels.tolist()) == ((6, 3, 4, 4), [0, 1, 0, 1, 0, 1])
