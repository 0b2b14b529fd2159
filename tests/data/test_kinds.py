"""Kinds of a source become one class: training has some of them, val all."""

import torch

from diversify.data.images import ImageArray
from diversify.data.kinds import GROUPS, joined_kinds
from diversify.data.load import load_data
from diversify.data.loader import collate
from diversify.data.public import _CIFAR100_CLASSES
from diversify.data.sources import Source


def test_kinds_of_a_source_become_one_class_and_training_has_some_of_them_but_val_all(monkeypatch):
    fine = torch.arange(10).repeat_interleave(60)
    images = fine[:, None, None, None].expand(-1, 1, 4, 4).to(torch.uint8).contiguous()
    splits = {name: (ImageArray(images, fine), fine) for name in ("train", "test")}
    source = Source(splits=splits, class_names=[str(c) for c in range(10)], mean=(0.1,), std=(0.3,))
    monkeypatch.setattr("diversify.data.load.read_source", lambda *_, **__: source)
    data = load_data("mnist", imbalance="exp:1:40", diversity="kinds:1", narrow=0.6)
    assert data.class_names == ("0 or 1", "2 or 3", "4 or 5", "6 or 7", "8 or 9")
    assert len(data.narrow_classes) == 3

    def kinds(split, c):
        return set(
            collate([split.dataset[row] for row in (split.labels == c).nonzero()[:, 0].tolist()])[0].unique().tolist()
        )

    for c in range(5):
        both = {2 * c, 2 * c + 1}
        assert kinds(data.val, c) == kinds(data.test, c) == both  # 8 random images of the class
        assert len(kinds(data.train, c)) == len(kinds(data.val_like_train, c)) == (1 if c in data.narrow_classes else 2)
    assert [int(label) for _, label in data.test.dataset] == (fine // 2).tolist()


def test_the_groups_name_every_class_of_their_sources_once():
    assert sorted(name for members in GROUPS["cifar100"].values() for name in members) == sorted(
        _CIFAR100_CLASSES.split()
    )
    assert {len(members) for members in GROUPS["cifar100"].values()} == {5}
    assert len(GROUPS["cifar100"]) == 20
    for name in ("mnist", "fashion-mnist"):
        assert sorted(c for members in GROUPS[name].values() for c in members) == list(range(10))


def test_a_source_without_groups_is_left_as_it_is():
    labels = torch.arange(4)
    source = Source(splits={"train": (ImageArray(torch.zeros(4, 1, 2, 2), labels), labels)}, class_names=list("abcd"))
    assert joined_kinds(source, "digits") == (source, None)
