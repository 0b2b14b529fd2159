"""Data sets whose rows are mappings, as those of Hugging Face."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import VIEW, images_of, message_of, noise
from torch.utils.data import DataLoader, Subset, TensorDataset

from diversify.data.duplicates import find_duplicates
from diversify.data.labels import labels_of
from diversify.data.load import load_data
from diversify.data.loader import collate, make_loader

MANY = "for several labels per image (multi-label data), use dv.extract_multilabel and dv.diagnose_multilabel, or --multilabel"


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
