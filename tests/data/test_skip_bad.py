"""Images that cannot be read are left out and named, whatever data set they are in."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import diversify as dv
from diversify.data import LeftOut
from diversify.diagnosis.notes import notes_of
from diversify.network.reading import Reading

TRANSFORM = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


@pytest.fixture
def top(tmp_path):
    random = np.random.default_rng(0)
    for name, count in {"ant": 12, "bee": 8, "cow": 6}.items():
        (tmp_path / name).mkdir()
        for number in range(count):
            pixels = random.integers(0, 256, (10, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number:02}.jpg", quality=95)
    whole = (tmp_path / "bee" / "03.jpg").read_bytes()
    (tmp_path / "bee" / "03.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cow" / "00.jpg").write_bytes(b"no image")
    (tmp_path / "cow" / "05.jpg").write_bytes(b"")
    return tmp_path


@pytest.fixture
def readable(top):
    with pytest.warns(
        UserWarning,
        match=r"left out: 3 of 26 images that cannot be read \(class 0 2, class 1 1\): .*bee/03.jpg \(OSError",
    ):
        return dv.skip_bad(ImageFolder(top, TRANSFORM, target_transform=lambda label: 2 - label))


class Own(Dataset):
    """Row 1 raises, row 3 is None, row 4 has no image."""

    labels = (0, 0, 1, 1, 2, 2)

    def __len__(self):
        return 6

    def __getitem__(self, row):
        if row == 1:
            raise OSError("image file is truncated")
        if row == 3:
            return None
        return None if row == 4 else torch.rand(3, 8, 8), self.labels[row]


def test_files_that_cannot_be_read_are_left_out_and_named(readable, top):
    assert len(readable) == 23
    assert [each.index for each in readable.left_out] == [15, 20, 25]
    assert [each.name for each in readable.left_out] == [
        str(top / name) for name in ("bee/03.jpg", "cow/00.jpg", "cow/05.jpg")
    ]
    assert [each.label for each in readable.left_out] == [1, 0, 0]  # as the target_transform numbers them
    assert readable.left_out_by_class() == {0: 2, 1: 1}
    assert readable.classes == ["ant", "bee", "cow"]
    labels = [int(readable[row][1]) for row in range(23)]
    assert dv.labels_of(readable).tolist() == labels == [2] * 12 + [1] * 7 + [0] * 4


def test_a_diagnosis_says_what_was_left_out(readable):
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 3))
    train, heldout = DataLoader(readable, 8), DataLoader(Subset(readable, range(0, 23, 2)), 8)
    split = dv.split_head(model)
    found = dv.extract(split, train)
    assert (found.reading.unreadable, found.reading.unreadable_by_class) == (3, (2, 1, 0))
    assert found.indices.tolist() == list(range(23))
    assert Reading.from_dict(found.reading.to_dict()) == found.reading
    diagnosis = dv.diagnose_model(model, train, heldout, class_names=["cow", "bee", "ant"])
    assert diagnosis.notes[0] == "The training data set is without 3 images that cannot be read: cow 2, bee 1."
    assert diagnosis["count"].tolist() == [4, 7, 12]
    assert dv.Diagnosis.from_json(diagnosis.to_json()).notes == diagnosis.notes


def test_an_older_reading_has_no_unreadable_images():
    old = {"indices_known": True, "left_out": 2, "left_out_by_class": [0, 2], "repeated": 0, "last_batch": 0}
    assert Reading.from_dict(old) == Reading(left_out=2, left_out_by_class=(0, 2))
    assert notes_of({"heldout": Reading(unreadable=1)}, ("a", "b")) == (
        "The held-out data set is without 1 image that cannot be read.",
    )


def test_a_data_set_of_ones_own_is_read_as_it_is():
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match="left out: 3 of 6 images"):
        readable = dv.skip_bad(Own())
    assert torch.equal(torch.get_rng_state(), before)
    assert readable.left_out == (
        LeftOut(index=1, name="row 1", label=0, reason="OSError: image file is truncated"),
        LeftOut(index=3, name="row 3", label=1, reason="no image"),
        LeftOut(index=4, name="row 4", label=2, reason="no image"),
    )
    assert [label for _, label in readable] == [0, 1, 2]


def test_classes_are_named_where_no_transform_renumbers_them(top):
    with pytest.warns(
        UserWarning, match=r"left out: 3 of 26 images that cannot be read \(bee 1, cow 2\): .*bee/03.jpg"
    ):
        assert dv.skip_bad(ImageFolder(top)).left_out[1].label == 2
    with pytest.warns(
        UserWarning, match=r"left out: 1 of 2 images that cannot be read \(class 1 1\): .*bee/03.jpg \(OSE"
    ):
        dv.skip_bad(Subset(ImageFolder(top), [14, 15]))


def test_wrappers_keep_what_was_left_out(readable):
    plan = dv.Plan.from_counts(["cow", "bee", "ant"], [4, 7, 12])
    both = ConcatDataset([dv.DiversifiedDataset(readable, plan), Subset(readable, [0])])
    loader = dv.clean_loader(DataLoader(both, 8, shuffle=True))
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 3))
    assert dv.extract(dv.split_head(model), loader).reading.unreadable == 6
    assert len(list(dv.DiversifySampler(dv.labels_of(readable), plan))) == 23


def test_nothing_is_left_out_without_need(top, recwarn):
    for name in ("bee/03.jpg", "cow/00.jpg", "cow/05.jpg"):
        (top / name).unlink()
    readable = dv.skip_bad(ImageFolder(top))
    assert (len(readable), readable.left_out, len(recwarn)) == (23, (), 0)


def test_the_image_may_have_a_key_of_its_own():
    rows = [{"scan": torch.rand(3, 8, 8), "label": 0}, {"scan": None, "label": 1}, {"label": 1}]
    with pytest.warns(
        UserWarning, match=r"left out: 2 of 3 .*row 1 \(no image\), row 2 \(no entry 'scan' among label\)"
    ):
        readable = dv.skip_bad(rows, image_key="scan")
    assert readable.indices == [0]


def test_what_cannot_work_ends_in_one_line():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(dv.InputError, match="data set must be map-style, with a length and an index, got Stream"):
        dv.skip_bad(Stream())
    with pytest.raises(
        dv.InputError, match="skip_bad must leave the data set an image, got none of 2; the first: no image"
    ):
        dv.skip_bad([None, None])


def test_load_data_leaves_them_out_of_a_data_set_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_photos.py").write_text("from test_skip_bad import Own\ndef data():\n    return {'train': Own()}\n")
    data = dv.load_data("own_photos:data", holdout=0, skip_bad=True)
    assert data.skipped == ("row 1 of train", "row 3 of train", "row 4 of train")
    assert data.train.labels.tolist() == [0, 1, 2]
    assert data.train.indices.tolist() == [0, 2, 5]
    assert data.record()["skipped_count"] == 3
    assert [int(data.train.dataset[row][1]) for row in range(3)] == [0, 1, 2]
