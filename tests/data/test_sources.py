"""What a source gives: images as they were stored, and class names of any kind."""

import os
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from small_data import VIEW, images_of, message_of, noise, random_images, saved, write_npz
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset, StackDataset, Subset

from diversify.data import sources
from diversify.data.imbalance import Imbalance, holdout_indices, imbalance_indices
from diversify.data.load import load_data
from diversify.errors import InputError

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


@pytest.mark.parametrize(
    ("shape", "channels"), [((6, 4, 5), 1), ((6, 4, 5, 1), 1), ((6, 4, 5, 3), 3)], ids=["NHW", "NHW1", "NHW3"]
)
@pytest.mark.parametrize("kind", ["uint8", "float64", "float16"])
def test_npz_images_come_out_as_they_went_in(tmp_path, shape, channels, kind):
    images = random_images(*shape)
    stored = images if kind == "uint8" else (images / 255).astype(kind)
    spec = write_npz(
        tmp_path / "a.npz",
        train_images=stored,
        train_labels=np.array([[0], [1], [0], [2], [0], [1]], dtype=np.uint8),
        class_names=np.array(["é", "b", "c", "never seen"]),
    )
    loaded = load_data(spec, holdout=0.0, mean=(0.5,), std=(0.25,))
    got = images_of(loaded.train)
    assert got.shape == (6, channels, 4, 5)
    assert got.dtype == (torch.uint8 if kind == "uint8" else torch.float32)
    expected = torch.from_numpy(np.asarray(stored, dtype=got.numpy().dtype).reshape(6, 4, 5, channels)).permute(
        0, 3, 1, 2
    )
    assert torch.equal(got, expected)
    assert loaded.train.labels.tolist() == [0, 1, 0, 2, 0, 1]
    assert loaded.class_names == ("é", "b", "c", "never seen")
    assert (loaded.val, loaded.test) == (None, None)


def test_a_val_of_the_source_is_used_and_train_is_not_cut(tmp_path):
    labels = np.repeat(np.arange(3), 10)
    arrays = {
        f"{split}_{part}": value
        for key, split in enumerate(("train", "val", "test"))
        for part, value in (("images", random_images(30, 4, 4, key=key)), ("labels", labels))
    }
    loaded = load_data(write_npz(tmp_path / "a.npz", **arrays), holdout=0.5, mean=(0.5,), std=(0.5,))
    assert [len(split) for split in (loaded.train, loaded.val, loaded.test)] == [30, 30, 30]
    assert [split.origin for split in (loaded.train, loaded.val, loaded.test)] == ["source"] * 3
    assert loaded.holdout == 0.0
    for name in ("train", "val", "test"):
        assert torch.equal(images_of(getattr(loaded, name))[:, 0], torch.from_numpy(arrays[f"{name}_images"]))
    assert loaded.class_names == ("class 0", "class 1", "class 2")
    tailed = load_data(write_npz(tmp_path / "a.npz", **arrays), imbalance="exp:10", mean=(0.5,), std=(0.5,))
    assert torch.bincount(tailed.train.labels).tolist() == [10, 3, 1]
    assert torch.bincount(tailed.val.labels).tolist() == [10, 10, 10]


IMAGES = random_images(4, 3, 3)
FOUR = np.array([0, 1, 0, 1])
FORM = "must have shape (N, H, W), (N, H, W, 1) or (N, H, W, 3), got"
NPZ_ERRORS = [
    ({"train_labels": FOUR}, "npz file must have train_images and train_labels, got train_labels"),
    ({"images": IMAGES, "labels": FOUR}, "npz file must have train_images and train_labels, got images, labels"),
    ({}, "npz file must have train_images and train_labels, got nothing"),
    ({"train_images": IMAGES}, "npz file must have train_labels beside train_images, got train_images"),
    (
        {"train_images": IMAGES, "train_labels": FOUR[:3]},
        "labels of train_images must be as many as the images, 4, got 3",
    ),
    (
        {"train_images": IMAGES, "train_labels": FOUR - 1},
        "labels of train_images must not be negative, got -1 at row 0; leave out the images without a label, 2 of 4",
    ),
    (
        {"train_images": IMAGES, "train_labels": FOUR + 0.5},
        f"labels of train_images must be whole numbers, got {FOUR[0] + 0.5} at row 0",
    ),
    (
        {"train_images": IMAGES, "train_labels": np.eye(4, 2, dtype=int)},
        "labels of train_images must have shape (N,) or (N, 1), or be one-hot (N, C), got (0, 0) at row 2; "
        "leave out the images without a label",
    ),
    ({"train_images": IMAGES[0], "train_labels": FOUR}, f"train_images {FORM} (3, 3)"),
    ({"train_images": random_images(4, 3, 3, 4), "train_labels": FOUR}, f"train_images {FORM} (4, 3, 3, 4)"),
    (
        {"train_images": IMAGES.astype(int), "train_labels": FOUR},
        "train_images must be uint8, or float in [0, 1], got int64",
    ),
    (
        {"train_images": IMAGES * 2.0, "train_labels": FOUR},
        f"train_images must be uint8, or float in [0, 1], got float64 from {2.0 * IMAGES.min():g} to {2.0 * IMAGES.max():g}",
    ),
    (
        {"train_images": np.where(IMAGES > 100, np.nan, 0.5), "train_labels": FOUR},
        "train_images must be uint8, or float in [0, 1], got float64 from nan to nan",
    ),
    ({"train_images": IMAGES[:0], "train_labels": FOUR[:0]}, "train_images must have at least one image, got 0"),
    (
        {"train_images": IMAGES, "train_labels": FOUR, "test_images": random_images(4, 3, 3, 3), "test_labels": FOUR},
        "npz file must have images of one number of channels, got 1 in train, 3 in test",
    ),
    (
        {"train_images": IMAGES, "train_labels": FOUR, "class_names": np.array(["a"])},
        "class names must be as many as the classes, 2, got 1",
    ),
    (
        {"train_images": IMAGES, "train_labels": FOUR, "class_names": np.arange(2)},
        "class_names must be a list of names, got int64 of shape (2,)",
    ),
]


@pytest.mark.parametrize(("arrays", "message"), NPZ_ERRORS, ids=[text[:60] for _, text in NPZ_ERRORS])
def test_an_npz_that_holds_the_wrong_thing(tmp_path, arrays, message):
    assert message_of(lambda: load_data(write_npz(tmp_path / "a.npz", **arrays), **VIEW)) == message


def truncated(path):
    np.savez(path, train_images=random_images(64, 8, 8), train_labels=np.arange(64))
    path.write_bytes(path.read_bytes()[:-300])


def corrupted(path):
    np.savez_compressed(path, train_images=random_images(64, 8, 8), train_labels=np.arange(64))
    content = bytearray(path.read_bytes())
    content[600:700] = bytes(100)
    path.write_bytes(content)


def zip_of_text(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_images.npy", "no array")


BROKEN = {
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_text("images, labels\n"),
    "truncated": truncated,
    "corrupted": corrupted,
    "zip of text": zip_of_text,
    "objects": lambda path: np.savez(path, train_images=np.array([{}, 1], dtype=object), train_labels=[0, 1]),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_no_whole_npz(tmp_path, kind):
    path = tmp_path / "a.npz"
    BROKEN[kind](path)
    expected = f"npz file must be a whole NumPy .npz without Python objects, got {path}"
    assert message_of(lambda: load_data(f"npz:{path}", **VIEW)) == expected


def test_an_npz_that_is_not_there_or_is_one_array(tmp_path):
    assert (
        message_of(lambda: load_data(f"npz:{tmp_path}/no.npz"))
        == f"npz file must be an existing file, got {tmp_path}/no.npz"
    )
    assert message_of(lambda: load_data(f"npz:{tmp_path}")) == f"npz file must be a file, got the folder {tmp_path}"
    np.save(tmp_path / "a.npy", IMAGES)
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    expected = f"npz file must hold named arrays, got a single array in {tmp_path}/a.npz; save it with numpy.savez"
    assert message_of(lambda: load_data(f"npz:{tmp_path}/a.npz")) == expected


def test_objects_under_names_that_are_not_ours_are_never_read(tmp_path):
    spec = write_npz(tmp_path / "a.npz", train_images=IMAGES, train_labels=FOUR, extra=np.array([{}], dtype=object))
    assert len(load_data(spec, holdout=0, **VIEW).train) == 4


def test_cifar10_is_read_from_an_npz_under_the_root(tmp_path):
    write_npz(tmp_path / "cifar10.npz", train_images=random_images(20, 4, 4, 3), train_labels=np.arange(20) % 10)
    loaded = load_data("cifar10", root=tmp_path, holdout=0)
    assert loaded.class_names[9] == "truck"
    assert (loaded.view.mean, loaded.view_origin) == ((0.4914, 0.4822, 0.4465), "usual")
    assert loaded.mirror


class Named(Dataset):
    """Images whose labels are names."""

    def __init__(self, names):
        self.targets = names

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return {"image": torch.zeros(1, 2, 2), "label": self.targets[index]}


@pytest.mark.parametrize("names", [["owl", "ant"], {"ant": 1, "owl": 0}, {1: "ant", 0: "owl"}])
def test_names_as_labels_and_a_mapping_as_class_names(monkeypatch, names):
    made = {"train": Named(["ant", "owl", "ant"]), "val": Subset(Named(["ant", "owl"]), [1]), "class_names": names}
    monkeypatch.setattr(sources, "import_object", lambda *_: lambda: made)
    source = sources.read_python("mine:data")
    assert list(source.class_names) == ["owl", "ant"]
    assert source.splits["train"][1].tolist() == [1, 0, 1]
    assert [int(source.splits[split][0][0][1]) for split in ("train", "val")] == [1, 0]
    assert [int(label) for _, label in source.splits["train"][0].__getitems__([0, 1])] == [1, 0]


def test_a_data_set_without_labels_is_told_what_it_needs(monkeypatch):
    monkeypatch.setattr(sources, "import_object", lambda *_: lambda: {"train": StackDataset(torch.zeros(2))})
    message = (
        "data set must show its labels, as an attribute `targets` or `labels`, got StackDataset; give it an attribute `targets`,"
        " one class per image"
    )
    with pytest.raises(InputError) as caught:
        sources.read_python("mine:data")
    assert str(caught.value) == message
