"""Splits of a data source, and data sets of your own; errors end in one line."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from small_data import VIEW, images_of, message_of, saved

from diversify.data.labels import labels_of
from diversify.data.load import load_data
from diversify.data.loader import make_loader


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


@pytest.mark.parametrize(("options", "told"), [({}, "mean and std must be"), (VIEW, "image files must have one size")])
def test_an_option_that_is_missing_is_told_before_all_files_are_read(tmp_path, monkeypatch, options, told):
    for number in range(4):
        saved(tmp_path / f"a/{number}.png", size=(6 + number, 5))

    def read_all(*_):
        raise AssertionError

    monkeypatch.setattr("diversify.data.prepare.check_files", read_all)
    assert message_of(lambda: load_data(f"folder:{tmp_path}", **options)).startswith(told)


def test_a_damaged_file_of_another_size_is_left_out_and_asks_for_no_resize(tmp_path):
    for number in range(4):
        saved(tmp_path / f"a/{number}.png")
    saved(tmp_path / "a/9.png", size=(60, 50))
    whole = (tmp_path / "a/9.png").read_bytes()
    (tmp_path / "a/9.png").write_bytes(whole[: len(whole) // 2])
    loaded = load_data(f"folder:{tmp_path}", holdout=0, skip_bad=True, **VIEW)
    assert (len(loaded.train), loaded.skipped) == (4, ("a/9.png",))
