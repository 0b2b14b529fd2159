"""Labels are read from every kind of data set without loading an image, and wrong labels end in one line."""

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from diversify.data.labels import labels_of
from diversify.errors import InputError


class Unreadable(Dataset):
    """Labels under one attribute; an image that is loaded is an error."""

    def __init__(self, count=0, **attributes):
        self.count = count
        vars(self).update(attributes)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        raise AssertionError("an image was loaded")


def message_of(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


LABELS = [3, 0, 1, 1]


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        tuple(LABELS),
        np.array(LABELS, dtype=np.uint8),
        np.array(LABELS)[:, None],
        torch.tensor(LABELS),
        torch.tensor(LABELS, dtype=torch.int16)[:, None],
        [torch.tensor(label) for label in LABELS],
    ],
    ids=["list", "tuple", "uint8", "column", "tensor", "int16 column", "list of tensors"],
)
@pytest.mark.parametrize("attribute", ["targets", "labels", "_labels", "y"])
def test_labels_are_found_in_any_form_and_place_without_an_image(attribute, labels):
    found = labels_of(Unreadable(4, **{attribute: labels}))
    assert found.dtype == torch.int64
    assert found.tolist() == LABELS


def test_labels_are_found_through_wrappers_without_an_image():
    base = Unreadable(4, targets=LABELS)
    folder = Unreadable(2, samples=[("a.png", 7), ("b.png", 5)])
    old_folder = Unreadable(1, targets=None, imgs=[("c.png", 2)])
    tensors = TensorDataset(torch.zeros(2, 3), torch.tensor([8, 9]))
    assert labels_of(folder).tolist() == [7, 5]
    assert labels_of(Subset(base, [2, 0])).tolist() == [1, 3]
    assert labels_of(Subset(base, np.array([0]))).tolist() == [3]
    nested = Subset(ConcatDataset([Subset(base, [3, 0]), folder, old_folder, tensors]), [0, 2, 4, 6, 1])
    assert labels_of(nested).tolist() == [1, 7, 2, 9, 3]


def test_targets_go_before_other_names():
    assert labels_of(Unreadable(1, y=[1], labels=[2], targets=[3], samples=[("a", 4)])).tolist() == [3]


class Stream(IterableDataset):
    targets = (0, 1)

    def __iter__(self):
        yield 0


LABEL_ERRORS = [
    (
        Unreadable(2),
        "data set must show its labels without loading images, as an attribute `targets` or `labels`, got Unreadable",
    ),
    (Stream(), "data set must be map-style, with a length and an index, got Stream"),
    (
        Unreadable(2, targets=[0.0, 1.0]),
        "labels of Unreadable must be integers, got float64; convert them with .astype(int)",
    ),
    (Unreadable(2, targets=[0.5, 1.0]), "labels of Unreadable must be integers, got float64"),
    (Unreadable(2, targets=[0.0, float("nan")]), "labels of Unreadable must be integers, got float64"),
    (Unreadable(2, targets=torch.zeros(2)), "labels of Unreadable must be integers, got torch.float32"),
    (Unreadable(2, targets=["cat", "dog"]), "labels of Unreadable must be integers, got <U3"),
    (Unreadable(2, targets=[1, None]), "labels of Unreadable must be integers, got None at row 1"),
    (
        Unreadable(2, targets=np.array([1, 2**63 + 5], dtype=np.uint64)),
        "labels of Unreadable must be less than 2^63, got 9223372036854775813 at row 1",
    ),
    (
        Unreadable(2, targets=torch.tensor([1, 2**63 + 5], dtype=torch.uint64)),
        "labels of Unreadable must be less than 2^63, got 9223372036854775813 at row 1",
    ),
    (
        Unreadable(2, targets=[0, 2**70]),
        "labels of Unreadable must be less than 2^63, got 1180591620717411303424 at row 1",
    ),
    (Unreadable(2, targets=[None, 1]), "labels of Unreadable must be integers, got None at row 0"),
    (
        Unreadable(2, targets=[[0], [0, 1]]),
        "labels of Unreadable must be one integer per image, got lists of several lengths",
    ),
    (
        Unreadable(2, targets=np.eye(2, dtype=int)),
        "labels of Unreadable must have shape (N,) or (N, 1), got (2, 2); convert one-hot labels with .argmax(1)",
    ),
    (
        Unreadable(2, targets=[[1, 1], [0, 1]]),
        "labels of Unreadable must have shape (N,) or (N, 1), got (2, 2); "
        "several labels per image (multi-label data) cannot be diagnosed: each image needs one class",
    ),
    (
        Unreadable(2, targets=np.zeros((2, 1, 1), dtype=int)),
        "labels of Unreadable must have shape (N,) or (N, 1), got (2, 1, 1)",
    ),
    (Unreadable(3, targets=[0, 1]), "labels of Unreadable must be as many as its images, 3, got 2"),
    (Unreadable(3, targets=[0, -1, -100]), "labels of Unreadable must not be negative, got -100 at row 2"),
    (Unreadable(0, targets=[]), "Unreadable must have at least one image, got 0"),
]


@pytest.mark.parametrize(("dataset", "message"), LABEL_ERRORS, ids=[text[:50] for _, text in LABEL_ERRORS])
def test_labels_that_are_none(dataset, message):
    assert message_of(lambda: labels_of(dataset)) == message
