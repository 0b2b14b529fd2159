"""Which files of a folder are one data set of Hugging Face, and which split each is of, by their names alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from diversify.data import saved_tables
from diversify.errors import InputError


def folder(top: Path, *names: str) -> Path:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(b"")
    return top


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of the files in place of their rows."""
    monkeypatch.setattr(saved_tables, "_joined", lambda _, files: [path.name for path in files])


@pytest.mark.parametrize(
    ("names", "saved"),
    [
        (("state.json",), True),
        (("dataset_dict.json",), True),
        (("train.parquet",), True),
        (("data/train.ARROW",), True),
        ((".train.parquet",), False),
        (("notes.txt",), False),
        (("metadata.parquet", "ant/a.png"), False),
        (("deep/down/there/train.parquet",), False),
    ],
)
def test_a_saved_data_set_is_known_by_its_files(tmp_path: Path, names: tuple[str, ...], saved: bool) -> None:
    assert saved_tables.is_saved(folder(tmp_path, *names)) is saved


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("b.parquet", "a.parquet"), {"train": ["a.parquet", "b.parquet"]}),
        (("train-1-of-2.parquet", "train-0-of-2.parquet"), {"train": ["train-0-of-2.parquet", "train-1-of-2.parquet"]}),
        (("train.arrow", "validation.arrow"), {"train": ["train.arrow"], "validation": ["validation.arrow"]}),
        (("train/0.parquet", "test/0.parquet"), {"test": ["0.parquet"], "train": ["0.parquet"]}),
        (("data/train_0.parquet", "data/test_0.parquet"), {"train": ["train_0.parquet"], "test": ["test_0.parquet"]}),
    ],
)
@pytest.mark.usefixtures("joined")
def test_files_go_to_the_split_that_they_name(tmp_path: Path, names: tuple[str, ...], splits: dict[str, Any]) -> None:
    assert saved_tables._from_files(None, folder(tmp_path, *names)) == splits


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train-test.parquet",), "must name one split each, got train-test.parquet"),
        (("test/train.parquet",), "must name one split each, got train.parquet"),
        (("train.parquet", "more.parquet"), "must name their split, as train-0.parquet does, got more.parquet"),
        (
            ("large/train.parquet", "small/train.parquet"),
            "must hold one data set, in files of one kind, got .*large and .*small",
        ),
        (("train.parquet", "train.arrow"), "must hold one data set, in files of one kind"),
    ],
)
@pytest.mark.usefixtures("joined")
def test_files_that_are_no_one_data_set_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        saved_tables._from_files(None, folder(tmp_path, *names))


def test_the_splits_of_a_saved_folder_are_those_it_lists(tmp_path: Path) -> None:
    class Hub:
        @staticmethod
        def load_from_disk(place: str) -> str:
            return Path(place).name

    assert saved_tables._saved_to_disk(Hub, tmp_path) == {}
    (tmp_path / "state.json").write_text("{}")
    assert saved_tables._saved_to_disk(Hub, tmp_path) == {"train": tmp_path.name}
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    assert saved_tables._saved_to_disk(Hub, tmp_path) == {"train": "train", "test": "test"}


def test_without_the_package_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(saved_tables.importlib, "import_module", missing)
    message = "datasets must be installed for a folder with a Hugging Face data set, got no such package; pip install datasets"
    with pytest.raises(InputError, match=message):
        saved_tables.read_saved(tmp_path)
