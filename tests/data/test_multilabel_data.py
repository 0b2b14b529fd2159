"""Sources with several labels per image: images and labels stay together, and what is wrong with a source is said in one line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset

from diversify.data.loader import Split
from diversify.data.multilabel import load_multilabel_data, multilabel_loader
from diversify.errors import InputError

VIEW = {"mean": (0.5,), "std": (0.5,)}


def gray(path: Path, value: int, side: int = 4) -> None:
    Image.fromarray(np.full((side, side), value, np.uint8)).save(path)


def csv_of(folder: Path, text: str, *, encoding: str = "utf-8") -> str:
    for number in range(4):
        gray(folder / f"{number}.png", 10 * number)
    (folder / "t.csv").write_bytes(text.encode(encoding))
    return f"csv:{folder / 't.csv'}"


TABLE = "path, sky ,car,split\n0.png,1,0,train\n\n3.png,0,1.0,training\n1.png,0.0,0,valid\n2.png,1,1,test\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_each_row_of_a_table_goes_to_its_split_with_its_labels(tmp_path: Path, encoding: str) -> None:
    data = load_multilabel_data(csv_of(tmp_path, TABLE, encoding=encoding), **VIEW)
    assert data.label_names == ("sky", "car")
    assert (data.val is not None, data.test is not None) == (True, True)
    shown = {
        "train": [(0, [True, False]), (30, [False, True])],
        "val": [(10, [False, False])],
        "test": [(20, [True, True])],
    }
    for name, expected in shown.items():
        split = getattr(data, name)
        found = [
            (int(image[0, 0, 0]), label.tolist()) for image, label in (split.dataset[row] for row in range(len(split)))
        ]
        assert found == expected
        assert split.labels.tolist() == [labels for _, labels in expected]
    assert data.record()["class_counts"] == [1, 1]


WRONG = {
    "sky,car\n1,0\n": "csv file must have a column path, got sky, car",
    "": "csv file must have a column path, got nothing",
    "path,sky,sky\n0.png,1,0\n": "csv file must name each column once, got sky",
    "path,sky,car\n0.png,1\n": "line 2 of .* must have 3 fields, got 2",
    "path,sky,car\n0.png,1,0\n1.png,1,-1\n": "car in line 3 of .* must be 0 or 1, got '-1'; decide what an unknown label",
    "path,sky,car\n0.png,1,\n": "car in line 2 of .* must be 0 or 1, got ''",
    "path,sky,car,split\n0.png,1,0,late\n": "split in line 2 of .* must be one of train, val, test, got 'late'",
    "path,sky,car\n0.png,1,0\nnone.png,1,0\n": "image files of .* must be readable images, got 1 that cannot be read: none.png",
    "path,sky\n0.png,1\n": "labels must be at least 2 for several labels per image, got 1",
    "path,sky,car,split\n0.png,1,0,test\n": "data must have a training split",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_table_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=WRONG[text]):
        load_multilabel_data(csv_of(tmp_path, text), **VIEW)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"path,\xff\xfe\n")
    with pytest.raises(InputError, match="csv file must be text in UTF-8 with commas"):
        load_multilabel_data(f"csv:{tmp_path / 't.csv'}", **VIEW)
    with pytest.raises(InputError, match="csv file must be an existing file"):
        load_multilabel_data(f"csv:{tmp_path / 'none.csv'}", **VIEW)


@pytest.mark.parametrize("spec", ["digits", "folder:images", "npz:"])
def test_other_sources_are_refused(spec: str) -> None:
    with pytest.raises(InputError, match="data must be one of npz:FILE, csv:FILE, package.module:function"):
        load_multilabel_data(spec, **VIEW)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"class_names": ["sky"]}, "one|1"),
        ({"test_images": np.zeros((2, 4, 4), np.uint8), "test_labels": [[0, 1, 1], [1, 1, 0]]}, "2|same labels"),
        ({"train_labels": [[0, 2], [1, 1]]}, "0 or 1|0 and 1"),
        ({"train_labels": [[0, 1]]}, "2|one per image"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, more: dict[str, object], message: str) -> None:
    arrays = {"train_images": np.zeros((2, 4, 4), np.uint8), "train_labels": [[0, 1], [1, 1]], **more}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message) as raised:
        load_multilabel_data(f"npz:{tmp_path / 'a.npz'}", **VIEW)
    assert " must " in str(raised.value)


OWN = """
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 2, 2) / 10
labels = torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0], [0, 1], [1, 1]])


class Shown(Dataset):
    def __init__(self, rows):
        self.rows, self.targets = rows, labels[rows].tolist()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return images[self.rows[row]], self.targets[row]


class Hidden(Shown):
    def __init__(self, rows):
        self.rows = rows

    def __getitem__(self, row):
        return images[self.rows[row]], labels[self.rows[row]]


def good():
    train = Subset(TensorDataset(images, labels), [5, 0, 2])
    return {"train": train, "validation": Shown([1, 3]), "test": None, "class_names": ["sky", "car"]}


def hidden():
    return {"train": Hidden([0, 1])}


def alone():
    return Shown([0, 1])


def untrained():
    return {"test": Shown([0, 1])}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_labels_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return name


def batches(split: Split, **options: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*multilabel_loader(split, None, **options), strict=True)
    return torch.cat(images), torch.cat(labels)


def test_data_sets_of_ones_own_show_their_labels(own: str) -> None:
    data = load_multilabel_data(f"{own}:good")
    assert data.label_names == ("sky", "car")
    assert data.test is None
    assert data.notes == ("validation is read as val",)
    images, labels = batches(data.train, batch_size=2)
    assert torch.allclose(images[:, 0, 0, 0], torch.tensor([0.5, 0.0, 0.2]))
    assert labels.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert data.train.labels.tolist() == [[True, True], [False, True], [False, False]]
    assert data.val is not None
    assert data.val.labels.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hidden", "data set train must show its labels, as an attribute `targets` or `labels`, got Hidden"),
        ("alone", r"must return a mapping with a data set under 'train', got Shown"),
        ("untrained", r"must return a mapping with a data set under 'train', got one with test"),
    ],
)
def test_a_function_that_gives_something_else_is_refused(own: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_multilabel_data(f"{own}:{name}")


def test_images_of_two_sizes_are_not_one_batch() -> None:
    labels = torch.ones(2, 2, dtype=torch.bool)
    pairs = [(torch.zeros(1, 4, 4), labels[0]), (torch.zeros(1, 4, 5), labels[1])]
    split = Split(
        dataset=pairs, labels=labels, indices=torch.arange(2), origin="source", source="train", content="", groups=None
    )
    with pytest.raises(InputError, match=r"images must have one size, got \(1, 4, 4\) and \(1, 4, 5\); resize them"):
        next(iter(multilabel_loader(split, None)))


def test_the_labels_of_a_part_are_those_of_its_rows() -> None:
    from diversify.data.multilabel import _labels_in

    whole = TensorDataset(torch.zeros(3, 1), torch.tensor([[0, 1], [1, 0], [1, 1]]))
    part = Subset(Subset(whole, [2, 0]), [1])
    assert torch.as_tensor(_labels_in(part, "train")).tolist() == [[0, 1]]
