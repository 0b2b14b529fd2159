"""Labels are read from every kind of data set without loading an image, and wrong labels end in one line."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import message_of
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

from diversify.data.labels import labels_of, stored_labels


class Unreadable(Dataset):
    """Labels under one attribute; an image that is loaded is an error."""

    def __init__(self, count=0, **attributes):
        self.count = count
        vars(self).update(attributes)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        raise AssertionError("an image was loaded")


class Given(Dataset):
    """Examples with these labels, whatever the attributes show."""

    def __init__(self, labels, images=None, **attributes):
        self.given, self.read = labels, []
        vars(self).update(attributes)

    def __len__(self):
        return len(self.given)

    def __getitem__(self, index):
        self.read.append(index)
        torch.rand(1)
        return 0, self.given[index]


class Bare(Given):
    def __getitem__(self, index):
        return "image"


class Silent(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise AssertionError("an image was loaded")


LABELS = [3, 0, 1, 1]
PASS = "pass labels=, one class per image"
NOT_COMPARED = (
    "labels of Unreadable are not compared with its examples: example . gives AssertionError: an image was loaded"
)


def test_a_target_transform_is_applied_and_the_examples_decide():
    shift = {"targets": [0, 1, 2], "target_transform": lambda label: label + 1}
    assert labels_of(Given([1, 2, 3], **shift)).tolist() == [1, 2, 3]
    assert labels_of(Given([0, 1, 2], **shift)).tolist() == [0, 1, 2]  # the targets are those after the transform
    assert labels_of(Subset(Given([1, 2, 3], **shift), [2, 0])).tolist() == [3, 1]
    assert labels_of(ConcatDataset([Given([1, 2, 3], **shift), Given([5], y=[5])])).tolist() == [1, 2, 3, 5]
    named = Given([1, 0], targets=["dog", "cat"], target_transform={"dog": 1, "cat": 0}.get)
    assert labels_of(named).tolist() == [1, 0]
    tensors = Given([torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])], targets=[1, 0])
    assert labels_of(tensors).tolist() == [1, 0]


def test_a_torchvision_folder_is_read_without_its_images(tmp_path):
    for name in ("ant", "bee", "cow"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").touch()
    folder = ImageFolder(str(tmp_path), target_transform=lambda label: 2 - label)
    assert labels_of(folder).tolist() == [2, 1, 0]
    assert labels_of(Subset(folder, [0])).tolist() == [2]


def test_a_folder_whose_targets_or_samples_were_changed_has_the_labels_of_its_examples(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    folder = ImageFolder(str(tmp_path))
    folder.targets = [1 - label for label in folder.targets]  # without effect on the examples
    assert labels_of(folder).tolist() == [folder[row][1] for row in range(2)] == [0, 1]
    folder.samples = [(path, 1 - label) for path, label in folder.samples]
    assert labels_of(folder).tolist() == [folder[row][1] for row in range(2)] == [1, 0]
    folder.samples = folder.samples[1:]
    assert labels_of(folder).tolist() == [0]


def test_names_of_classes_under_an_attribute_of_labels_are_not_the_labels():
    examples = [1, 0, 2, 1]
    for shown in ({"y": examples}, {"samples": [(0, label) for label in examples]}):
        dataset = Given(examples, **shown)
        dataset.labels = ["ant", "bee", "cow"]
        assert labels_of(dataset).tolist() == examples
    dataset = Given(examples)
    dataset.labels = ["ant", "bee", "cow"]
    message = f"labels of Given must be as many as the images, 4, got 3; {PASS}"
    assert message_of(lambda: labels_of(dataset)) == message


def test_stored_labels_are_read_without_an_example():
    shift = {"targets": [0, 1, 2], "target_transform": lambda label: label + 1}
    found = stored_labels(Subset(Unreadable(3, **shift), [2, 0]))
    assert [each.tolist() for each in found] == [[3, 1], [2, 0]]
    plain = TensorDataset(torch.zeros(2, 1), torch.tensor([1, 0]))
    assert [each.tolist() for each in stored_labels(ConcatDataset([plain, Subset(plain, [0])]))] == [[1, 0, 1]]
    assert stored_labels(Silent()) == []


def test_at_most_32_examples_of_all_classes_are_compared_and_the_random_state_stays():
    labels = [c for c in range(100) for _ in range(50)]
    dataset = Given(labels, targets=labels)
    before = torch.get_rng_state()
    assert labels_of(dataset).tolist() == labels
    assert torch.equal(before, torch.get_rng_state())
    assert len(dataset.read) == len({labels[row] for row in dataset.read}) == 32
    few = Given(labels[:150], targets=labels[:150])
    labels_of(few)
    assert {labels[row] for row in few.read} == {0, 1, 2}
    assert len(few.read) <= 32


def test_text_is_numbered_by_the_classes_of_the_data_set_or_of_the_caller():
    dataset = Given(["b", "a"], targets=["b", "a"], classes=["a", "b"])
    assert labels_of(dataset).tolist() == [1, 0]
    assert labels_of(dataset, class_names=["b", "a"]).tolist() == [0, 1]


def test_a_method_gives_the_labels():
    dataset = Given([1, 0])
    dataset.get_labels = lambda: [1, 0]
    assert labels_of(dataset).tolist() == [1, 0]


def test_a_subclass_that_changes_labels_is_found_out():
    class Shifted(Subset):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image, label + 1

        def __getitems__(self, indices):
            return [self[index] for index in indices]

    base = TensorDataset(torch.zeros(3, 1), torch.tensor([0, 1, 2]))
    message = f"labels of Shifted must be those of its examples, got 0 for example 0, whose label is 1; {PASS} as training sees it"
    assert message_of(lambda: labels_of(Shifted(base, [0, 1]))) == message


def test_examples_that_cannot_be_read_are_said():
    with pytest.warns(UserWarning, match=NOT_COMPARED):
        assert labels_of(Unreadable(2, targets=[0, 1])).tolist() == [0, 1]
    with pytest.warns(UserWarning, match="example 0 gives InputError: an example of the data set must be"):
        labels_of(Bare([0, 1], targets=[0, 1]))


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
@pytest.mark.filterwarnings("ignore:labels of Unreadable are not compared")
@pytest.mark.parametrize("attribute", ["targets", "labels", "_labels", "y"])
def test_labels_are_found_in_any_form_and_place_without_an_image(attribute, labels):
    found = labels_of(Unreadable(4, **{attribute: labels}))
    assert found.dtype == torch.int64
    assert found.tolist() == LABELS


@pytest.mark.filterwarnings("ignore:labels of Unreadable are not compared")
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


@pytest.mark.filterwarnings("ignore:labels of Unreadable are not compared")
def test_targets_go_before_other_names():
    assert labels_of(Unreadable(1, y=[1], labels=[2], targets=[3], samples=[("a", 4)])).tolist() == [3]


class Stream(IterableDataset):
    targets = (0, 1)

    def __iter__(self):
        yield 0


LABEL_ERRORS = [
    (Silent(), f"data set must show its labels, as an attribute `targets` or `labels`, got Silent; {PASS}"),
    (
        Subset(Silent(), [0]),
        f"data set must show its labels, as an attribute `targets` or `labels`, got Silent; {PASS}",
    ),
    (Stream(), "data set must be map-style, with a length and an index, got Stream"),
    (Unreadable(2, targets=[0.5, 1.0]), "labels of Unreadable must be whole numbers, got 0.5 at row 0"),
    (Unreadable(3, targets=[0, 1]), f"labels of Unreadable must be as many as the images, 3, got 2; {PASS}"),
    (
        Unreadable(3, targets=[0, -1, -100]),
        "labels of Unreadable must not be negative, got -100 at row 2; leave out the images without a label, 2 of 3",
    ),
    (Unreadable(0, targets=[]), "Unreadable must have at least one image, got 0"),
    (
        Given(["cat"] * 2, [0, 0], targets=["cat", "dog"]),
        "labels of Given must be class indices where no class names are known, got 'cat' at row 0; "
        "pass class_names where the function takes it, or number them: [class_names.index(label) for label in labels]",
    ),
    (
        Given([1, 0, 2], [0, 0, 0], targets=[0, 1, 2]),
        f"labels of Given must be those of its examples, got 0 for example 0, whose label is 1; {PASS} as training sees it",
    ),
    (
        Given([0, 1], [0, 0], targets=[0, 1], target_transform=lambda label: {}[label]),
        "target_transform of Given must take the labels, got KeyError: 0; pass labels= as training sees them",
    ),
]


@pytest.mark.parametrize(("dataset", "message"), LABEL_ERRORS, ids=[text[:50] for _, text in LABEL_ERRORS])
def test_labels_that_are_none(dataset, message):
    assert message_of(lambda: labels_of(dataset)) == message
