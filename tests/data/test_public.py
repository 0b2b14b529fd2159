"""Public data sets in their own layouts, and MedMNIST files; absence and damage end in one line."""

import hashlib
import pickle
import shutil

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets
from small_data import VIEW, images_of, message_of, noise, random_images, saved

from diversify.data.labels import labels_of
from diversify.data.load import load_data

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


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


MANY = "for several labels per image (multi-label data), use dv.extract_multilabel and dv.diagnose_multilabel, or --multilabel"
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


CHOICES = "digits, cifar10, cifar100, svhn, mnist, fashion-mnist, places365, inaturalist, npz:FILE, folder:DIR, package.module:function"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cifar01", f"data must be one of {CHOICES}, got 'cifar01'; did you mean 'cifar10'?"),
        ("digits:3", f"data must be one of {CHOICES}, got 'digits:3'; did you mean 'digits'?"),
        ("npz", f"data must be one of {CHOICES}, got 'npz'"),
        ("", f"data must be one of {CHOICES}, got ''"),
        ("cifar10", "CIFAR10 under root must be there, got {root}; pass root=FOLDER or download=True"),
        ("mnist", "MNIST under root must be there, got {root}; pass root=FOLDER or download=True"),
    ],
)
def test_a_source_that_is_unknown_or_not_there(tmp_path, spec, message):
    assert message_of(lambda: load_data(spec, root=tmp_path)) == message.format(root=tmp_path)


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


@pytest.mark.parametrize(("spec", "name"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_mnist_files_are_read_and_damaged_ones_are_named(tmp_path, spec, name):
    raw = tmp_path / name / "raw"
    for prefix in ("train", "t10k"):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", random_images(20, 28, 28))
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", (np.arange(20) % 10).astype(np.uint8))
    loaded = load_data(spec, root=tmp_path, holdout=0.5)
    assert torch.equal(images_of(loaded.test)[:, 0], torch.from_numpy(random_images(20, 28, 28)))
    assert (len(loaded.train), len(loaded.val), loaded.mirror) == (10, 10, spec == "fashion-mnist")
    images = raw / "t10k-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:500])
    expected = f"{name} under root must be whole, got {tmp_path}; remove it and pass download=True"
    assert message_of(lambda: load_data(spec, root=tmp_path)) == expected
