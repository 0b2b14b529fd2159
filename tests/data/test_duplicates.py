"""Held-out images that are also in train are found, each image is read once, and nothing else counts as a copy."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from small_data import VIEW
from torch.utils.data import Dataset, Subset, TensorDataset

from diversify.cli import entry
from diversify.data.duplicates import duplicates_and_hashes, find_duplicates
from diversify.data.hashes import image_hashes
from diversify.data.images import ImageArray, ImageFiles, Relabelled
from diversify.data.load import load_data
from diversify.data.loader import Split
from diversify.data.tables import Table
from diversify.functional import draws


def noise(*shape, key=0):
    return draws.integers(256, "noise", key, torch.arange(int(np.prod(shape)))).view(shape).to(torch.uint8)


def split_of(dataset, labels=None):
    labels = torch.zeros(len(dataset), dtype=torch.int64) if labels is None else torch.as_tensor(labels)
    return Split(dataset=dataset, labels=labels, indices=torch.arange(len(labels)), origin="source", source="train")


def array_of(images):
    return ImageArray(images, torch.zeros(len(images), dtype=torch.int64))


def brute_force(train, heldout):
    """For each held-out image the first training image that is equal to it, by comparing every pair."""
    pairs = []
    for place in range(len(heldout)):
        for other in range(len(train)):
            if torch.equal(train[other], heldout[place]):
                pairs.append([other, place])
                break
    return pairs


def test_copies_are_those_that_comparing_every_pair_finds():
    values = draws.integers(4, "few values", torch.arange(60 * 2)).view(60, 1, 1, 2).to(torch.uint8)
    train, heldout = values[:25], values[25:]
    labels = torch.arange(60) % 2
    found = find_duplicates(split_of(array_of(train), labels[:25]), split_of(array_of(heldout), labels[25:]))
    expected = brute_force(train, heldout)
    assert found.pairs.tolist() == expected
    assert found.count == len(expected) > 0
    assert found.same_label == sum(int(labels[one] == labels[25 + other]) for one, other in expected)
    assert 0 < found.same_label < found.count


def test_without_copies_there_are_none():
    loaded = load_data("digits")
    none = find_duplicates(split_of(array_of(noise(5, 3, 4, 4))), split_of(array_of(noise(5, 3, 4, 4, key=1))))
    assert (none.count, none.same_label, tuple(none.pairs.shape)) == (0, 0, (0, 2))
    train, val = (part.dataset.images for part in (loaded.train, loaded.val))
    assert find_duplicates(loaded.train, loaded.val).pairs.tolist() == brute_force(train, val)


def test_one_bit_or_another_shape_or_type_is_no_copy():
    images = noise(1, 3, 4, 6)
    other = images.clone()
    other[0, 2, 3, 5] ^= 1
    train = split_of(array_of(images))
    for changed in (other, images.reshape(1, 3, 6, 4), images.reshape(1, 1, 12, 6), images.view(torch.int8)):
        assert find_duplicates(train, split_of(array_of(changed))).count == 0
    turned = images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)  # the same values in another order of memory
    assert not turned.is_contiguous()
    assert find_duplicates(train, split_of(array_of(turned))).pairs.tolist() == [[0, 0]]


def files_of(*paths):
    return ImageFiles(paths, torch.zeros(len(paths), dtype=torch.int64))


def test_a_picture_saved_again_is_a_copy(tmp_path):
    pixels = noise(5, 6, 3).numpy()
    note = PngInfo()
    note.add_text("Comment", "another file, the same picture")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.png", pnginfo=note, compress_level=0)
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "c.tif")
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels[::-1, ::-1].copy()).save(tmp_path / "d.png", exif=exif)
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(tmp_path / "e.png")
    train = split_of(files_of(tmp_path / "e.png", tmp_path / "a.png"))
    heldout = split_of(files_of(*(tmp_path / name for name in ("b.png", "c.tif", "d.png"))))
    assert find_duplicates(train, heldout).pairs.tolist() == [[1, 0], [1, 1], [1, 2]]
    seen = find_duplicates(split_of(train.dataset.shaped(lambda image: image[:, 1:2, 1:2])), heldout)
    assert seen.count == 3  # compared before any cropping


class Counting(Dataset):
    """Counts how often each image is read."""

    def __init__(self, images):
        self.images, self.reads = images, [0] * len(images)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.reads[index] += 1
        return self.images[index], 0


@pytest.mark.parametrize(
    "wrap", [lambda inner: inner, lambda inner: Relabelled(inner, torch.zeros(8, dtype=torch.int64))]
)
def test_each_image_is_read_once_even_where_the_splits_share_a_data_set(wrap):
    counting = Counting(noise(8, 1, 2, 2))
    dataset = wrap(counting)
    train, heldout = split_of(Subset(dataset, [0, 1, 2, 3, 3])), split_of(Subset(Subset(dataset, [5, 3, 6]), [2, 1]))
    assert find_duplicates(train, heldout).pairs.tolist() == [[3, 1]]
    assert counting.reads == [1, 1, 1, 1, 0, 0, 1, 0]


def test_digests_and_hashes_come_from_one_reading():
    pytest.importorskip("imagehash")
    counting = Counting(noise(6, 3, 24, 24))
    counting.images[5] = counting.images[1]
    train, heldout = split_of(Subset(counting, [0, 1, 2, 3])), split_of(Subset(counting, [4, 5, 1]))
    found, hashes = duplicates_and_hashes(train, heldout)
    assert found.pairs.tolist() == find_duplicates(train, heldout).pairs.tolist() == [[1, 1], [1, 2]]
    assert counting.reads == [2] * 6  # once by each of the two calls
    expected = image_hashes(counting)
    for side, rows in zip(hashes, ([0, 1, 2, 3], [4, 5, 1]), strict=True):
        assert torch.equal(side.packed, expected.packed[rows])
        assert bool(side.speaks.all())


def test_data_sets_of_your_own_and_of_dicts():
    images = torch.rand(6, 3, 2, 2)
    found = find_duplicates(
        split_of(TensorDataset(images[:4], torch.zeros(4))), split_of(TensorDataset(images[3:], torch.zeros(3)))
    )
    assert found.pairs.tolist() == [[3, 0]]
    rows = [{"image": Image.fromarray(noise(4, 4, 3, key=key).numpy())} for key in (0, 1, 0)]
    table = Table(rows, "image", torch.zeros(3, dtype=torch.int64))
    assert find_duplicates(split_of(Subset(table, [1, 2])), split_of(Subset(table, [0]))).pairs.tolist() == [[1, 0]]


def test_progress_reaches_the_whole(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(50)]
    for number, path in enumerate(paths):
        Image.fromarray(noise(3, 3, 3, key=number).numpy()).save(path)
    seen = []
    train, heldout = split_of(files_of(*paths[:40])), split_of(array_of(noise(10, 3, 3, 3)))
    find_duplicates(train, heldout, lambda *state: seen.append(state))
    assert {(what, total) for what, _, total in seen} == {("looking for copies", 50)}
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1] == 50


def test_a_subset_of_files_as_load_data_makes_it(tmp_path):
    for name in "ab":
        for number in range(10):
            (tmp_path / name).mkdir(exist_ok=True)
            picture = noise(4, 4, 3, key=number % 5 + 10 * (name == "b")).numpy()
            Image.fromarray(picture).save(tmp_path / name / f"{number}.png")
    loaded = load_data(f"folder:{tmp_path}", holdout=0.3, resize=2, crop=2, **VIEW)
    found = find_duplicates(loaded.train, loaded.val)
    files = loaded.train.dataset.dataset

    def decoded(split):
        return [files.read(int(row)) for row in split.indices]

    assert found.pairs.tolist() == brute_force(decoded(loaded.train), decoded(loaded.val))
    assert found.count == found.same_label > 0


# The command


def run(*arguments):
    return entry.run([str(argument) for argument in arguments])


@pytest.fixture
def with_copies(tmp_path):
    """An npz whose val has two training images, one under another label."""
    train, val = noise(12, 8, 8).numpy(), noise(4, 8, 8, key=1).numpy()
    val[1], val[3] = train[5], train[2]
    labels, val_labels = np.arange(12) % 2, np.array([0, 1, 0, 1])
    np.savez(tmp_path / "a.npz", train_images=train, train_labels=labels, val_images=val, val_labels=val_labels)
    return f"npz:{tmp_path}/a.npz"


TRAIN = ("--epochs", "1", "--batch-size", "4", "--warmup-epochs", "0", "--augment", "none", "--precision", "fp32")


@pytest.mark.slow
def test_train_says_and_records_copies(tmp_path, capsys, with_copies):
    assert run("train", "--data", with_copies, *TRAIN, "--out", tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert (
        "note: 2 of 4 val images are also in train (exact copies): recall on them is too high;"
        " 1 of them have another label there" in said
    )
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["duplicates"] == {"heldout": "val", "images": 4, "count": 2, "same_label": 1}
    assert run("train", "--data", "digits", "--holdout", "0", *TRAIN, "--out", tmp_path / "none") == 0
    assert "also in train" not in capsys.readouterr().out
    assert "duplicates" not in json.loads((tmp_path / "none/run.json").read_text())


def test_train_leaves_bad_files_out_when_told_and_says_so(tmp_path, capsys):
    for name in ("a", "b"):
        for number in range(5):
            (tmp_path / "tree" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise(8, 8, 3, key=number).numpy()).save(tmp_path / "tree" / name / f"{number}.png")
    (tmp_path / "tree/b/4.png").write_text("no image")
    arguments = ("train", "--data", f"folder:{tmp_path}/tree", *TRAIN, "--out", tmp_path / "run")
    assert run(*arguments) == 2
    assert "b/4.png (no image); pass --skip-bad to leave them out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert run(*arguments, "--skip-bad") == 0
    assert "note: left out: 1 image file that cannot be read" in capsys.readouterr().out
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["data"]["skipped"], record["data"]["skipped_count"]) == (["b/4.png"], 1)
    weights = tmp_path / "run/model.safetensors"
    assert run("diagnose", "--weights", weights, "--out", tmp_path / "diagnosis") == 0
    diagnosed = json.loads((tmp_path / "diagnosis/run.json").read_text())
    assert diagnosed["data"] == record["data"]


def test_a_pair_is_frozen():
    found = find_duplicates(split_of(array_of(noise(2, 1, 2, 2))), split_of(array_of(noise(2, 1, 2, 2))))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.same_label = 3
