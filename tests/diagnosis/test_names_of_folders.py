"""Class names that the data sets of the loaders show."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import diversify as dv
from diversify.data.labels import shown_class_names
from diversify.errors import InputError

TO_TENSOR = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


def folder(place: Path, names: tuple[str, ...]) -> ImageFolder:
    for shade, name in enumerate(names):
        (place / name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (8, 8), (40 * shade, 10 * number, 90)).save(place / name / f"{number}.png")
    return ImageFolder(place, TO_TENSOR)


@pytest.fixture
def train(tmp_path: Path) -> ImageFolder:
    return folder(tmp_path / "train", ("ant", "bee", "cow"))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 3))


def diagnosed(train: object, heldout: object, **options: object) -> dv.Diagnosis:
    loaders = DataLoader(train, 8), DataLoader(heldout, 8)  # type: ignore[type-var]
    return dv.diagnose_model(network(), *loaders, top_k=2, **options)  # type: ignore[arg-type]


def test_folders_name_their_classes(train: ImageFolder, tmp_path: Path) -> None:
    val = folder(tmp_path / "val", ("ant", "bee", "cow"))
    some = Subset(train, range(0, 18, 2))
    assert diagnosed(some, dv.skip_bad(val)).class_names == ("ant", "bee", "cow")
    assert diagnosed(train, val, class_names=["x", "y", "z"]).class_names == ("x", "y", "z")
    images = torch.stack([val[row][0] for row in range(18)])
    plain = torch.utils.data.TensorDataset(images, torch.tensor(val.targets))
    assert diagnosed(plain, plain).class_names == ("class 0", "class 1", "class 2")
    assert diagnosed(plain, val).class_names == ("ant", "bee", "cow")


def test_labels_that_are_changed_have_no_certain_names(train: ImageFolder) -> None:
    class Turned(ImageFolder):
        def __getitem__(self, row: int):
            image, label = super().__getitem__(row)
            return image, 2 - label

    assert shown_class_names(train) == ("ant", "bee", "cow")
    assert shown_class_names(Turned(train.root, TO_TENSOR)) is None
    assert shown_class_names(ImageFolder(train.root, TO_TENSOR, target_transform=lambda label: 2 - label)) is None


def test_folders_that_number_classes_differently_are_refused(train: ImageFolder, tmp_path: Path) -> None:
    val = folder(tmp_path / "val", ("ant", "cow"))
    law = "^heldout_loader must number the classes as train_loader does, got 'cow' for class 1, which is 'bee' there"
    with pytest.raises(InputError, match=law):
        diagnosed(train, val)
    fewer = folder(tmp_path / "fewer", ("ant", "bee"))
    assert diagnosed(train, fewer).class_names == ("ant", "bee", "cow")


def test_names_in_another_order_than_the_folders_are_refused(train: ImageFolder) -> None:
    law = (
        "^class_names must be in the order of the classes of train_loader, got 'bee' for class 0, which is 'ant' there$"
    )
    with pytest.raises(InputError, match=law):
        diagnosed(train, train, class_names=["bee", "ant", "cow"])
    assert diagnosed(train, train, class_names=train.class_to_idx).class_names == ("ant", "bee", "cow")
