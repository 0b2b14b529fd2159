"""A data set without its random augmentation, where that can be recognised."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from ..errors import InputError
from ..runtime.randomness import random_state_kept
from ..runtime.user_code import is_passed_on

READ_TWICE = 8  # examples, to see whether something random is left

_BY_CHANCE = {"RandomHorizontalFlip", "RandomVerticalFlip", "RandomGrayscale", "RandomInvert", "RandomPosterize"}
_BY_CHANCE |= {"RandomSolarize", "RandomAdjustSharpness", "RandomAutocontrast", "RandomEqualize"}
"""Transforms of torchvision that are random unless their probability is 0 or 1; the size of the image stays."""
_REMOVED = {"ColorJitter", "RandomAffine", "RandomPerspective", "RandomErasing", "RandomRotation", "ElasticTransform"}
_REMOVED |= {"AutoAugment", "RandAugment", "TrivialAugmentWide", "AugMix", "GaussianNoise", "RandomPhotometricDistort"}
_REMOVED |= {"RandomChannelPermutation"}
"""Transforms of torchvision that are always random; the size of the image stays."""
_KEPT_RANDOM = {"ScaleJitter", "CutMix", "MixUp"}  # beside all others whose name begins with Random
_CHOICES = {"RandomApply", "RandomChoice", "RandomOrder", "OneOf", "SomeOf", "Sequential", "OneOrOther"}

_PLAIN = {
    "Normalize",
    "Resize",
    "LongestMaxSize",
    "SmallestMaxSize",
    "CenterCrop",
    "PadIfNeeded",
    "Pad",
    "Crop",
    "NoOp",
}
_PLAIN |= {
    "ToTensorV2",
    "ToTensor3D",
    "ToFloat",
    "FromFloat",
    "CenterCrop3D",
    "Pad3D",
    "PadIfNeeded3D",
    "Lambda",
    "ToRGB",
}
"""Transforms of albumentations that do the same each time."""
_SURE_AT_1 = {"HorizontalFlip", "VerticalFlip", "Transpose", "ToGray", "Equalize", "InvertImg", "ToSepia"}
_RESIZING = ("Crop", "Resize", "RandomScale", "RandomGridShuffle", "Mosaic", "CropAndPad")


def without_augmentation(dataset: Any) -> tuple[Any, list[str]]:
    """Return a data set without the random transforms that can be recognised, and the names of those that stay.

    The data set itself is not changed: it is copied, not deeply, where a transform is replaced.

    Args:
        dataset: Transforms of torchvision (both versions) and albumentations are found in its attributes, and in those of
            the data sets below it. A method `without_augmentation()` of its own goes first.

    Example:
        >>> import torch
        >>> from torchvision import datasets
        >>> from torchvision.transforms import v2
        >>> from diversify.data.clean import without_augmentation
        >>> data = datasets.FakeData(4, transform=v2.Compose([v2.RandomHorizontalFlip(), v2.ToImage()]))
        >>> clean, kept = without_augmentation(data)
        >>> [type(each).__name__ for each in clean.transform.transforms], kept
        (['ToImage'], [])
    """
    own = getattr(dataset, "without_augmentation", None)
    if callable(own):
        return without_augmentation(own())
    changed: dict[str, Any] = {}
    kept: list[str] = []
    for name, value in getattr(dataset, "__dict__", {}).items():
        if isinstance(value, Dataset):
            new, more = without_augmentation(value)
        elif isinstance(value, list) and value and all(isinstance(each, Dataset) for each in value):
            pairs = [without_augmentation(each) for each in value]
            new, more = [each for each, _ in pairs], [each for _, names in pairs for each in names]
            new = value if all(one is other for one, other in zip(new, value, strict=True)) else new
        elif type(value).__name__ == "StandardTransform":
            new, more = _standard(value)
        elif _library(value):
            new, more = _cleaned(value)
            new = v2.Identity() if new is None else new
        else:
            continue
        kept += [each for each in more if each not in kept]
        if new is not value:
            changed[name] = new
    if not changed:
        return dataset, kept
    made = copy.copy(dataset)
    for name, value in changed.items():
        setattr(made, name, value)
    return made, kept


def random_transforms(dataset: Any) -> list[str]:
    """Return the names of the random transforms of a data set that can be recognised, each once; nothing is read.

    Args:
        dataset: Transforms of torchvision and albumentations are found as in `without_augmentation`. A data set with a method
            `without_augmentation()` of its own is named itself.

    Example:
        >>> from torchvision import datasets
        >>> from torchvision.transforms import v2
        >>> from diversify.data.clean import random_transforms
        >>> random_transforms(datasets.FakeData(4, transform=v2.Compose([v2.RandomHorizontalFlip(), v2.ToImage()])))
        ['RandomHorizontalFlip']
    """
    if callable(getattr(dataset, "without_augmentation", None)):
        return [type(dataset).__name__]
    found: list[str] = []
    for value in getattr(dataset, "__dict__", {}).values():
        if isinstance(value, Dataset):
            found += random_transforms(value)
        elif isinstance(value, list) and value and all(isinstance(each, Dataset) for each in value):
            found += [name for each in value for name in random_transforms(each)]
        else:
            found += _random_in(value.transform if type(value).__name__ == "StandardTransform" else value)
    return list(dict.fromkeys(found))


def _random_in(transform: Any) -> list[str]:
    """The names of the random transforms among the parts of a transform; none for one that is not recognised."""
    name = type(transform).__name__
    if not _library(transform) or getattr(transform, "p", None) == 0:
        return []
    if name == "Compose" or isinstance(transform, nn.Sequential):
        parts = transform if isinstance(transform, nn.Sequential) else transform.transforms
        return [each for part in parts for each in _random_in(part)]
    new, kept = _cleaned(transform)
    return [name] if new is not transform or kept else []


def differs_when_read_again(dataset: Any, rows: Iterable[int]) -> bool:
    """True if an example differs when it is read twice; False if they cannot be read. No random state changes.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from diversify.data.clean import differs_when_read_again
        >>> differs_when_read_again(TensorDataset(torch.zeros(3, 1)), range(3))
        False
    """
    with random_state_kept():
        try:
            return any(not _same(dataset[row], dataset[row]) for row in rows)
        except Exception as error:  # the user's data set may raise anything
            if is_passed_on(error) and not isinstance(error, InputError):
                raise
            return False


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(key in other and _same(value, other[key]) for key, value in one.items())
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, Tensor):
        return one.shape == other.shape and bool(torch.equal(one.nan_to_num(), other.nan_to_num()))
    if isinstance(one, np.ndarray) or hasattr(one, "getbands"):
        return np.array_equal(np.asarray(one), np.asarray(other))
    return True


def _library(transform: Any) -> str:
    """The library of a transform: "torchvision", "albumentations", "torch" for nn.Sequential, or ""."""
    library = type(transform).__module__.partition(".")[0]
    if isinstance(transform, nn.Sequential):
        return "torch" if any(_library(each) for each in transform) else ""
    if library == "torchvision" and ".transforms" in type(transform).__module__ and callable(transform):
        return library
    return library if library == "albumentations" and hasattr(transform, "p") else ""


def _standard(both: Any) -> tuple[Any, list[str]]:
    """torchvision's pair of a transform and a target transform."""
    if not _library(both.transform):
        return both, []
    new, kept = _cleaned(both.transform)
    if new is both.transform:
        return both, kept
    made = copy.copy(both)
    made.transform = v2.Identity() if new is None else new
    return made, kept


def _cleaned(transform: Any) -> tuple[Any, list[str]]:
    """The transform without chance, None where nothing is left of it, and the names of random ones that stay."""
    library, name = _library(transform), type(transform).__name__
    if name == "Compose" or isinstance(transform, nn.Sequential):
        return _composed(transform)
    if name in _CHOICES and library:
        parts = transform.transforms
        removable = all(_cleaned(each)[0] is None for each in parts)
        return (None, []) if removable else (transform, [name])
    if library == "torchvision":
        return _of_torchvision(transform, name)
    return _of_albumentations(transform, name) if library else (transform, [])


def _composed(transform: Any) -> tuple[Any, list[str]]:
    parts = list(transform) if isinstance(transform, nn.Sequential) else list(transform.transforms)
    pairs = [_cleaned(each) for each in parts]
    left = [each for each, _ in pairs if each is not None]
    kept = [each for _, names in pairs for each in names]
    if len(left) == len(parts) and all(one is other for one, other in zip(left, parts, strict=True)):
        return transform, kept
    if isinstance(transform, nn.Sequential):
        return nn.Sequential(*left), kept
    if _library(transform) == "torchvision" and not left:
        return None, kept
    made = copy.copy(transform)
    made.transforms = left
    return made, kept


def _of_torchvision(transform: Any, name: str) -> tuple[Any, list[str]]:
    if name == "RandomCrop":
        return CropOfSameSize(transform), []
    if name in _BY_CHANCE and getattr(transform, "p", 0.5) == 1:
        return transform, []
    if name == "GaussianBlur":
        low, high = transform.sigma
        return (transform, []) if low == high else (None, [])
    if (name in _BY_CHANCE or name in _REMOVED) and not getattr(transform, "expand", False):
        return None, []
    return transform, [name] if name.startswith("Random") or name in _KEPT_RANDOM else []


def _of_albumentations(transform: Any, name: str) -> tuple[Any, list[str]]:
    if name in _PLAIN or (name in _SURE_AT_1 and transform.p == 1):
        return (transform, []) if transform.p == 1 else (transform, [name])
    if any(part in name for part in _RESIZING):
        return transform, [name]
    return None, []


class CropOfSameSize:
    """Returns images that already have the size of a random crop as they are; others are cropped at random, as before.

    Args:
        crop: torchvision's `RandomCrop`.
    """

    def __init__(self, crop: Callable[..., Any]) -> None:
        self.crop = crop

    def __call__(self, *inputs: Any) -> Any:
        """Return the inputs, cropped if the first one has another size."""
        if list(tvf.get_size(inputs[0])) == [int(side) for side in self.crop.size]:  # type: ignore[attr-defined]
            return inputs[0] if len(inputs) == 1 else inputs
        return self.crop(*inputs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.crop})"
