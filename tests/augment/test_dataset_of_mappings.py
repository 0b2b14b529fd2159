"""Data sets whose examples are mappings are augmented by the plan, and all but the image comes back as it was."""

from collections import UserDict

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import diversify as dv

COUNTS = (8, 2)
LABELS = torch.tensor([0] * 8 + [1] * 2)
IMAGES = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Examples(Dataset):
    def __init__(self, make):
        self.made = [make(row) for row in range(10)]

    def __len__(self):
        return 10

    def __getitem__(self, row):
        return self.made[row]


def usual(row):
    return {"pixel_values": IMAGES[row], "labels": int(LABELS[row]), "file": f"{row}.png"}


@pytest.fixture
def plan():
    return dv.Plan.from_counts(["cat", "newt"], COUNTS)


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("kind", [dict, UserDict])
def test_only_the_image_of_a_mapping_changes_as_the_image_of_a_pair_would(plan, labels, kind):
    dataset = Examples(lambda row: kind(usual(row)))
    pairs = torch.utils.data.TensorDataset(IMAGES, LABELS)
    augmented = dv.DiversifiedDataset(dataset, plan, labels=labels, backend="torch", seed=3)
    wanted = dv.DiversifiedDataset(pairs, plan, labels=LABELS, backend="torch", seed=3)
    for row in range(10):
        for example in (augmented[row], augmented.__getitems__([row])[0]):
            assert type(example) is kind
            assert torch.equal(example["pixel_values"], wanted[row][0])
            assert (example["labels"], example["file"]) == (int(LABELS[row]), f"{row}.png")
    assert any(not torch.equal(augmented[row]["pixel_values"], IMAGES[row]) for row in range(10))
    assert all(torch.equal(dataset.made[row]["pixel_values"], IMAGES[row]) for row in range(10))


@pytest.mark.parametrize(("image", "label"), [("image", "label"), ("img", "fine_label"), ("images", "target")])
def test_usual_keys_are_found(plan, image, label):
    dataset = Examples(lambda row: {image: IMAGES[row], label: LABELS[row]})
    batch = next(iter(DataLoader(dv.DiversifiedDataset(dataset, plan, backend="torch"), 10)))
    assert batch[label].tolist() == LABELS.tolist()
    assert not torch.equal(batch[image], IMAGES)


def test_named_keys_go_first(plan):
    other = torch.zeros(3, 8, 8)
    dataset = Examples(lambda row: {"image": other, "x": IMAGES[row], "label": 7, "y": int(LABELS[row])})
    augmented = dv.DiversifiedDataset(dataset, plan, backend="torch", image_key="x", label_key="y")
    example = augmented[9]
    assert example["image"] is other
    assert example["label"] == 7
    assert not torch.equal(example["x"], IMAGES[9])


@pytest.mark.parametrize(
    ("example", "options", "said"),
    [
        ({"pixel_values": 0, "image": 0, "label": 1}, {}, "got pixel_values and image at row 9; name the entry with image_key=KEY"),
        ({"image": 0, "label": 1, "labels": 1}, {}, "got labels and label at row 9; name the entry with label_key=KEY"),
        ({"x": 0, "label": 1}, {}, "hold its image under one of pixel_values, image, images, img, got x, label at row 9"),
        ({"image": 0, "label": 1}, {"image_key": "imgs"}, "image_key must be one of image, label, got 'imgs'; did you mean 'image'? (at row 9)"),
        (3, {}, "an example of the data set must be a pair (image, label), or a mapping that holds both, got int at row 9"),
    ],
)  # fmt: skip
def test_an_uncertain_entry_is_asked_for(plan, example, options, said):
    augmented = dv.DiversifiedDataset(Examples(lambda _: example), plan, backend="torch", **options)
    with pytest.raises(dv.InputError) as error:
        augmented[9]
    assert said in str(error.value)


@pytest.mark.parametrize("use", [dv.labels_of, dv.skip_bad, lambda splits: dv.DiversifiedDataset(splits, None)])
def test_several_data_sets_by_name_are_not_one(use):
    law = "data set must be map-style, with a length and an index, got a dict of train, test; pass one of them, such as"
    with pytest.raises(dv.InputError, match=rf"{law} \['train'\]"):
        use({"train": Examples(usual), "test": Examples(usual)})


def test_a_stream_of_mappings_gives_mappings(plan):
    source = [usual(row) for row in range(10)]
    stream = dv.DiversifyStream(source, plan, backend="torch", seed=1)
    examples = list(stream)
    assert {example["labels"] for example in examples} == {0, 1}
    assert all(
        torch.equal(IMAGES[int(one["file"][0])], source[int(one["file"][0])]["pixel_values"]) for one in examples
    )
    assert any(not torch.equal(one["pixel_values"], IMAGES[int(one["file"][0])]) for one in examples)
