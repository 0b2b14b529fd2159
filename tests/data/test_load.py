"""Data sources and their splits: images and labels are read as they were stored, and errors end in one line."""

import dataclasses
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

import diversify.data
from diversify.data.images import ImageArray
from diversify.data.labels import labels_of
from diversify.data.load import load_data
from diversify.data.loader import Split, collate, make_loader
from diversify.data.view import View
from diversify.errors import InputError
from diversify.functional import draws


def images_of(split):
    return torch.stack([image for image, _ in (split.dataset[i] for i in range(len(split)))])


def message_of(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_digits_split_the_same_every_time_and_never_twice():
    first, again = (load_data("digits", imbalance="exp:10", tail_order="3") for _ in range(2))
    assert first.record() == again.record()
    assert (first.train.origin, first.val.origin, first.test.origin) == ("source", "cut", "source")
    assert set(first.train.indices.tolist()).isdisjoint(first.val.indices.tolist())
    whole = load_data("digits", imbalance="exp:10", tail_order="3", holdout=0.0)
    assert whole.val is None
    assert set(whole.train.indices.tolist()) == {*first.train.indices.tolist(), *first.val.indices.tolist()}
    assert torch.equal(whole.test.labels, first.test.labels)
    balanced = load_data("digits", holdout=0.0)
    assert (len(balanced.train) + len(balanced.test), balanced.num_classes) == (1797, 10)
    assert torch.equal(images_of(whole.train), images_of(balanced.train)[whole.train.indices])
    assert torch.equal(labels_of(whole.train.dataset), whole.train.labels)
    assert not whole.mirror


def test_the_digest_changes_with_one_index_one_label_and_the_list():
    split = load_data("digits").train
    digests = [split.digest()]
    for name in ("indices", "labels"):
        other = getattr(split, name).clone()
        other[3] += 1
        digests.append(dataclasses.replace(split, **{name: other}).digest())
    digests.append(dataclasses.replace(split, source="test").digest())
    assert len(set(digests)) == 4
    assert dataclasses.replace(split, origin="cut").digest() == digests[0]


# npz


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def random_images(*shape, key=0):
    return draws.integers(256, "images", key, torch.arange(int(np.prod(shape)))).view(shape).to(torch.uint8).numpy()


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
VIEW = {"mean": (0.5,), "std": (0.5,)}
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


# Folders


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


# A data set of your own


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own_data.py").write_text(
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "images = torch.arange(48.).view(12, 1, 2, 2) / 48\n"
        "labels = torch.arange(12) % 3\n"
        "def make():\n"
        "    return {'train': TensorDataset(images, labels), 'test': TensorDataset(images, labels), 'val': None,\n"
        "            'class_names': ('a', 'b', 'c')}\n"
        "def whole_numbers():\n"
        "    return {'train': TensorDataset((images * 255).byte(), labels)}\n"
        "def nothing():\n"
        "    return {'test': 3}\n"
        "def raising():\n"
        "    raise OSError('no disk')\n"
        "def two_lines():\n"
        "    return {**make(), 'class_names': ('a\\nb', '\\x1b[31mred\\u2028', 'caf\u00e9 [x]')}\n"
        "def a_list():\n"
        "    return [images]\n"
    )
    yield
    sys.modules.pop("own_data", None)


@pytest.mark.usefixtures("own_module")
def test_a_function_of_your_own_gives_what_the_model_sees():
    path = list(sys.path)
    loaded = load_data("own_data:make", imbalance="exp:2", holdout=0.25)
    assert sys.path == path
    assert torch.bincount(loaded.train.labels).tolist() == [3, 2, 2]
    assert loaded.val.labels.tolist() == [0]
    assert loaded.class_names == ("a", "b", "c")
    assert (loaded.view, loaded.view_origin) == (None, "as the source gives them")
    images, labels = next(iter(make_loader(loaded.train, loaded.view)))
    own = sys.modules["own_data"]
    assert torch.equal(images, own.images[loaded.train.indices])
    assert torch.equal(labels, own.labels[loaded.train.indices])
    scaled = load_data("own_data:whole_numbers", holdout=0, mean=(0.5,), std=(0.25,))
    images, _ = next(iter(make_loader(scaled.train, scaled.view)))
    assert torch.equal(images, ((own.images * 255).byte().float() / 255 - 0.5) / 0.25)


@pytest.mark.usefixtures("own_module")
def test_control_characters_and_line_breaks_in_class_names_become_spaces():
    assert load_data("own_data:two_lines").class_names == ("a b", " [31mred ", "caf\u00e9 [x]")


OWN_ERRORS = [
    (
        {"spec": "own_data:whole_numbers"},
        "images of a data set of your own must be floating point, as the model takes them, got torch.uint8; "
        "scale them there, or pass mean=M and std=S",
    ),
    (
        {"spec": "own_data:nothing"},
        "own_data:nothing() must return a mapping with a data set under 'train', got one with test",
    ),
    ({"spec": "own_data:a_list"}, "own_data:a_list() must return a mapping with a data set under 'train', got list"),
    ({"spec": "own_data:images"}, "own_data:images must be callable, got Tensor"),
    ({"spec": "os:path"}, "os:path must be callable, got module"),
    (
        {"spec": "own_data:raising"},
        "own_data:raising() must return a mapping with a data set under 'train', got OSError: no disk",
    ),
    (
        {"spec": "own_data:made"},
        "data must name something that can be imported, got 'own_data:made'; module 'own_data' has no attribute 'made'",
    ),
    (
        {"spec": "no_such:made"},
        "data must name something that can be imported, got 'no_such:made'; No module named 'no_such'",
    ),
    ({"spec": "own-data:make"}, "data must be package.module:function, got 'own-data:make'"),
    (
        {"spec": "own_data:make", "crop": 3},
        "resize and crop must be left out for a data set of your own, got crop 3; let the data set resize",
    ),
    (
        {"spec": "own_data:make", "crop": 3, **VIEW},
        "resize and crop must be left out for a data set of your own, got mean 0.5, std 0.5, crop 3; "
        "let the data set resize",
    ),
]


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(("arguments", "message"), OWN_ERRORS, ids=[text[:60] for _, text in OWN_ERRORS])
def test_a_function_of_your_own_that_does_not_fit(arguments, message):
    assert message_of(lambda: load_data(**arguments)) == message


# Named sources


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


# What the model sees


def test_normalize_is_scale_less_mean_over_std():
    pixels = torch.from_numpy(random_images(2, 3, 4, 4))
    view = View(mean=(0.5, 0.25, 0.125), std=(0.5, 0.25, 2.0))
    expected = torch.empty(2, 3, 4, 4)
    for c in range(3):
        expected[:, c] = (pixels[:, c].float() / 255 - view.mean[c]) / view.std[c]
    assert torch.equal(view.normalize(pixels), expected)
    assert torch.equal(view.normalize(pixels.float() / 255), expected)
    assert view.normalize((pixels / 255).double()).dtype == torch.float32
    grey = view.normalize(pixels[:, :1])
    assert grey.shape == (2, 3, 4, 4)
    assert torch.equal(grey[:, 1], (pixels[:, 0].float() / 255 - 0.25) / 0.25)


def test_resize_takes_the_shorter_side_and_crop_the_centre():
    images = torch.from_numpy(random_images(2, 1, 8, 12))
    assert View(mean=(0,), std=(1,), resize=4).shape(images).shape == (2, 1, 4, 6)
    assert torch.equal(View(mean=(0,), std=(1,), crop=4).shape(images), images[:, :, 2:6, 4:8])
    assert View(mean=(0,), std=(1,)).shape(images) is images


@pytest.mark.parametrize("colour", [False, True])
def test_one_mean_is_repeated_for_every_channel(tmp_path, colour):
    images = random_images(4, 3, 3, 3) if colour else IMAGES
    spec = write_npz(tmp_path / "a.npz", train_images=images, train_labels=FOUR)
    channels = 3 if colour else 1
    assert load_data(spec, **VIEW).view == View(mean=(0.5,) * channels, std=(0.5,) * channels)
    three = {"mean": (0.1, 0.2, 0.3), "std": (1, 2, 3)}
    seen, _ = next(iter(make_loader(load_data(spec, holdout=0, **three).train, load_data(spec, **three).view)))
    assert seen.shape == (4, 3, 3, 3)


def test_mean_and_std_are_measured_only_when_asked(tmp_path):
    images = random_images(40, 5, 5, 3)
    spec = write_npz(tmp_path / "a.npz", train_images=images, train_labels=np.arange(40) % 2)
    expected = "mean and std must be those that the model was trained with, got nothing; pass mean=M and std=S"
    assert message_of(lambda: load_data(spec)) == expected
    loaded = load_data(spec, measure_view=True, crop=3)
    seen = images[:, 1:4, 1:4].reshape(-1, 3) / 255
    assert loaded.view_origin == "measured"
    assert loaded.view.mean == tuple(seen.mean(0).round(4))
    assert loaded.view.std == tuple(seen.std(0, ddof=1).round(4))
    assert load_data(spec, measure_view=True, **VIEW).view_origin == "given"
    assert load_data("digits", measure_view=True).view_origin == "usual"


def of_two_channels():
    return load_data("digits", mean=(0.1, 0.2), std=(1, 1))


VIEW_ERRORS = [
    (lambda: View(mean=(1, 2), std=(1,)), "mean and std must have the same length, got 2 and 1"),
    (lambda: View(mean=(0,), std=(0,)), "std must be positive, got 0"),
    (lambda: View(mean=(0,), std=(-1,)), "std must be positive, got -1"),
    (lambda: View(mean=(0, 0), std=(1, float("nan"))), "mean and std must be finite, got 0,0 and 1,nan"),
    (lambda: View(mean=(float("-inf"),), std=(1,)), "mean and std must be finite, got -inf and 1"),
    (lambda: View(mean=(0,), std=(float("inf"),)), "mean and std must be finite, got 0 and inf"),
    (lambda: View(mean=(0,), std=(1,), resize=0), "resize must be at least 1 pixel, got 0"),
    (lambda: View(mean=(0,), std=(1,), crop=-1), "crop must be at least 1 pixel, got -1"),
    (lambda: load_data("digits", mean=(0.5,)), "mean and std must be given together, got only one of them"),
    (of_two_channels, "mean and std must have one number, or one per channel, 1, got 2"),
    (
        lambda: View(mean=(0, 0), std=(1, 1)).normalize(torch.zeros(1, 3, 2, 2)),
        "images must have as many channels as mean has numbers, 2, got 3",
    ),
    (
        lambda: View(mean=(0,), std=(1,)).normalize(torch.zeros(1, 1, 2, 2, dtype=torch.int64)),
        "images must be uint8, or float in [0, 1], got torch.int64",
    ),
]


@pytest.mark.parametrize(("call", "message"), VIEW_ERRORS, ids=[text for _, text in VIEW_ERRORS])
def test_a_view_out_of_range(call, message):
    assert message_of(call) == message


# Loading


def test_a_loader_yields_normalised_batches_in_the_order_of_the_split():
    loaded = load_data("digits", imbalance="exp:5")
    for workers in (0, 2):
        batches = list(make_loader(loaded.val, loaded.view, batch_size=16, workers=workers))
        assert [len(labels) for _, labels in batches[:-1]] == [16] * (len(batches) - 1)
        assert torch.equal(torch.cat([labels for _, labels in batches]), loaded.val.labels)
        images = torch.cat([images for images, _ in batches])
        assert torch.equal(images, (images_of(loaded.val).float() / 255 - 0.3053) / 0.3762)


def test_an_array_of_images_is_a_data_set_for_any_loader():
    images, labels = torch.from_numpy(random_images(5, 1, 3, 3)), torch.tensor([4, 3, 2, 1, 0])
    dataset = ImageArray(images, labels)
    (got, found), (rest, _) = DataLoader(dataset, batch_size=3)
    assert torch.equal(torch.cat([got, rest]), images)
    assert found.tolist() == [4, 3, 2]
    assert torch.equal(collate(Subset(dataset, [4, 1]).__getitems__([1, 0]))[0], images[[1, 4]])
    assert [int(label) for _, label in dataset.__getitems__([0, 2])] == [4, 2]
    assert len(dataset.__getitems__([0, 2])) == 2


def test_examples_of_any_kind_are_collated():
    pixels = random_images(2, 3, 3)
    examples = [
        (Image.fromarray(pixels), np.array([3])),
        (pixels, 1),
        (pixels.transpose(2, 0, 1), torch.tensor([2])),
        (torch.from_numpy(pixels).permute(2, 0, 1), np.int64(0)),
    ]
    images, labels = collate([examples[0], examples[1], examples[3]])
    assert torch.equal(images, torch.from_numpy(pixels).permute(2, 0, 1).expand(3, 3, 2, 3))
    assert labels.tolist() == [3, 1, 0]
    assert collate([(pixels[..., 0], 1), (Image.fromarray(pixels[..., 0]), 2)])[0].shape == (2, 1, 2, 3)
    assert collate([(Image.fromarray(pixels[..., 0]).convert("P"), 1)])[0].shape == (1, 3, 2, 3)


EXAMPLE_ERRORS = [
    ([("a.png", 1)], "an image of the data set must be a tensor, a numpy array or a PIL image, got str"),
    (
        [(np.zeros((3, 32, 32)), 1)],
        "an image of the data set must have shape (H, W) or (H, W, C) as a numpy array, got (3, 32, 32)",
    ),
    ([(torch.zeros(7), 1)], "an image of the data set must have shape (C, H, W) or (H, W), got (7,)"),
    (
        [(Image.new("F", (2, 2)), 1)],
        "an image of the data set must have whole numbers for pixels, got floating point, PIL mode F",
    ),
    (
        [(torch.zeros(1, 2, 2), 1), (torch.zeros(1, 2, 2), 1), (torch.zeros(1, 2, 3), 1)],
        "images must have one size, got (1, 2, 2) and (1, 2, 3); "
        "resize them in the data set, or pass resize=N and crop=N",
    ),
]


@pytest.mark.parametrize(("examples", "message"), EXAMPLE_ERRORS, ids=[text[:50] for _, text in EXAMPLE_ERRORS])
def test_examples_that_are_no_images(examples, message):
    assert message_of(lambda: collate(examples)) == message


def test_everything_public_is_importable_from_data():
    assert all(hasattr(diversify.data, name) for name in diversify.data.__all__)
    assert dataclasses.is_dataclass(Split)


def test_a_loader_of_ones_own_reads_a_folder_without_the_files_that_are_damaged(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / label / f"{number}.png")
    (tmp_path / "a" / "damaged.png").write_bytes(b"no image")
    data = load_data(f"folder:{tmp_path}", skip_bad=True, holdout=0, mean=[0.5], std=[0.5])
    images, labels = next(iter(DataLoader(data.train.dataset, batch_size=9)))
    assert (images.shape, images.dtype) == ((6, 3, 8, 8), torch.uint8)
    assert labels.tolist() == labels_of(data.train.dataset).tolist() == [0, 0, 0, 1, 1, 1]
    assert data.skipped == ("a/damaged.png",)
