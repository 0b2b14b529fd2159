"""Data sets of Hugging Face on disk are read as folders of images are, without a network."""

import numpy as np
import pytest
import torch
from hugging_face import COUNTS, LABELS, NAMES, package, pixels, table

import diversify as dv

pytestmark = pytest.mark.slow  # importing the package takes seconds


@pytest.fixture(scope="module")
def datasets():
    return package("datasets")


@pytest.fixture(scope="module")
def rows(datasets):
    return table(datasets)


def load(place, **options):
    return dv.load_data(f"folder:{place}", holdout=0, mean=(0.5,) * 3, std=(0.5,) * 3, **options)


def write(datasets, rows, kind, place):
    if kind == "one data set":
        rows.save_to_disk(place)
    elif kind == "splits":
        datasets.DatasetDict({"train": rows, "validation": rows.select([0, 20, 30])}).save_to_disk(place)
    elif kind == "parquet":
        (place / "data").mkdir(parents=True)
        rows.select(range(20)).to_parquet(place / "data" / "train-00000-of-00002.parquet")
        rows.select(range(20, 36)).to_parquet(place / "data" / "train-00001-of-00002.parquet")
        rows.select([0, 20, 30]).to_parquet(place / "data" / "validation-00000-of-00001.parquet")
    else:
        rows.save_to_disk(place / "whole")
        (place / "train.arrow").write_bytes(next((place / "whole").glob("*.arrow")).read_bytes())
        for each in (place / "whole").iterdir():
            each.unlink()
        (place / "whole").rmdir()


@pytest.mark.parametrize("kind", ["one data set", "splits", "parquet", "arrow"])
def test_images_labels_and_names_are_those_of_the_rows(datasets, rows, kind, tmp_path):
    write(datasets, rows, kind, tmp_path / "it")
    data = load(tmp_path / "it")
    assert data.class_names == tuple(NAMES)
    assert data.train.labels.tolist() == LABELS
    for row in (0, 25, 35):
        assert torch.equal(data.train.dataset[row][0], torch.from_numpy(pixels(row)).permute(2, 0, 1))
    if kind in ("splits", "parquet"):
        assert data.val.labels.tolist() == [0, 1, 2]
        assert data.notes == ("split validation is read as val",)


def test_labels_that_are_text_are_numbered_by_the_alphabet(datasets, rows, tmp_path):
    named = rows.cast_column("label", datasets.Value("string"))
    named = named.remove_columns("label").add_column("label", ["zoe"] * 20 + ["amy"] * 10 + ["bob"] * 6)
    named.to_parquet(tmp_path / "train.parquet")
    data = load(tmp_path)
    assert data.class_names == ("amy", "bob", "zoe")
    assert data.train.labels.tolist() == [2] * 20 + [0] * 10 + [1] * 6


def test_a_test_set_without_labels_is_left_out(datasets, rows, tmp_path):
    kept_back = rows.remove_columns("label").add_column("label", [-1] * 36).cast_column("label", rows.features["label"])
    datasets.DatasetDict({"train": rows, "test": kept_back}).save_to_disk(tmp_path / "it")
    data = load(tmp_path / "it")
    assert data.test is None
    assert data.notes == (f"not read: test in {tmp_path / 'it'}, which has no labels",)


def test_images_that_cannot_be_read_are_named_or_left_out(datasets, rows, tmp_path):
    encoded = rows.cast_column("image", datasets.Image(decode=False))
    broken = encoded.to_list()
    broken[3]["image"]["bytes"] = broken[3]["image"]["bytes"][:60]
    broken[4]["image"]["bytes"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"  # a program, which is not run
    broken[5]["image"] = None
    datasets.Dataset.from_list(broken, features=encoded.features).cast_column("image", datasets.Image()).save_to_disk(
        tmp_path / "it"
    )
    with pytest.raises(
        dv.InputError, match=r"got 3 that cannot be read: row 3 of train .*, row 4 .*, row 5 of train \(no image\)"
    ):
        load(tmp_path / "it")
    data = load(tmp_path / "it", skip_bad=True)
    assert data.skipped == tuple(f"row {row} of train" for row in (3, 4, 5))
    assert data.train.labels.bincount().tolist() == [COUNTS[0] - 3, *COUNTS[1:]]
    assert torch.equal(data.train.dataset[3][0], torch.from_numpy(np.ascontiguousarray(pixels(6))).permute(2, 0, 1))


def test_several_data_sets_in_a_folder_are_not_joined(rows, tmp_path):
    for name in ("large", "small"):
        (tmp_path / name).mkdir()
        rows.select([0, 20, 30]).to_parquet(tmp_path / name / "train.parquet")
    with pytest.raises(
        dv.InputError, match=r"must hold one data set, in files of one kind, got .*large and .*small; pass"
    ):
        load(tmp_path)


def test_a_damaged_file_ends_in_one_line(datasets, tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"hello")
    with pytest.raises(dv.InputError, match="must be one that Hugging Face's datasets reads, got ArrowInvalid"):
        load(tmp_path)


def test_a_folder_of_images_with_a_table_beside_them_is_a_folder_of_images(datasets, rows, tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        rows[0]["image"].save(tmp_path / name / "a.png")
    rows.to_parquet(tmp_path / "metadata.parquet")
    assert load(tmp_path).class_names == ("ant", "bee")


def test_a_function_may_return_a_data_set_with_a_transform(datasets, rows, tmp_path, monkeypatch):
    (tmp_path / "own_table.py").write_text(
        "import numpy as np, torch, datasets\nfrom hugging_face import table\n"
        "def change(batch):\n"
        "    images = [torch.from_numpy(np.array(each)).permute(2, 0, 1) / 510 for each in batch['image']]\n"
        "    return {'pixel_values': images, 'labels': batch['label']}\n"
        "def data():\n    return {'train': table(datasets).with_transform(change)}\n"
    )
    monkeypatch.chdir(tmp_path)
    data = dv.load_data("own_table:data", holdout=0)
    image, label = data.train.dataset[30]
    assert data.class_names == tuple(NAMES)
    assert (data.train.labels.tolist(), label) == (LABELS, 2)
    assert torch.equal(image, torch.from_numpy(pixels(30)).permute(2, 0, 1) / 510)


def test_labels_that_a_transform_changes_are_refused(datasets, rows):
    changed = rows.with_transform(
        lambda batch: {"image": batch["image"], "label": [2 - label for label in batch["label"]]}
    )
    with pytest.raises(
        dv.InputError, match="labels of Dataset must be those of its examples, got 0 for example 0, whose label is 2"
    ):
        dv.labels_of(changed)
    assert dv.DiversifiedDataset(changed, dv.Plan.from_counts(NAMES, COUNTS[::-1])).targets is None
