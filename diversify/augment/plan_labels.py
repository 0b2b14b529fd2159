"""The labels that a plan acts on: read in any usual form, and compared with the plan's classes and counts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from ..data.labels import labels_of
from ..data.tables import is_table
from ..errors import must
from ..functional.counts import class_counts
from ..functional.labels import read_labels
from ..plan.plan import Plan

_DEVIATIONS = 3  # standard deviations of a class count between random splits


def plan_labels(labels: Any, plan: Plan, *, name: str = "labels", rows: int | None = None) -> Tensor:
    """Return the class of every image, `(N,)` int64, as a new tensor on the CPU.

    Args:
        labels: As for `functional.labels.read_labels`; text is numbered by the plan's class names. Or a map-style data set,
            whose labels `labels_of` finds.
        plan: Of the same classes.
        name: What errors call the labels.
        rows: Number of images; None if it is not known.

    Raises:
        InputError: The labels are not classes of the plan, or a data set shows none or numbers the classes otherwise.

    Warns:
        UserWarning: A class has more or fewer images than the plan says, beyond what another split of the same data explains.

    Example:
        >>> import diversify as dv
        >>> from diversify.augment.plan_labels import plan_labels
        >>> plan_labels(["newt", "cat", "cat"], dv.Plan.from_counts(["cat", "newt"], [20, 10])).tolist()
        [1, 0, 0]
    """
    names = [one.name for one in plan.classes]
    if _is_dataset(labels):
        _check_numbering(labels, names)
        name, labels = f"labels of {type(labels).__name__}", labels_of(labels, class_names=names)
    found = read_labels(name, labels, rows=rows, class_names=names, of="the plan").clone()
    if note := _note_on_counts(name, names, plan.class_counts, class_counts(found, len(names))):
        warnings.warn(note, stacklevel=3)
    return found


def _is_dataset(labels: Any) -> bool:
    if isinstance(labels, Dataset) or is_table(labels):
        return True
    plain = isinstance(labels, Tensor | np.ndarray | Sequence | Mapping) or hasattr(labels, "__array__")
    return not plain and hasattr(labels, "__len__") and hasattr(labels, "__getitem__")


def _check_numbering(dataset: Any, names: list[str]) -> None:
    """An InputError if an image folder numbers the plan's classes in another order."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    numbers = getattr(dataset, "class_to_idx", None)
    ours = type(dataset).__module__.startswith("torchvision.") and getattr(dataset, "target_transform", None) is None
    if not ours or not isinstance(numbers, Mapping) or set(numbers) != set(names):
        return
    for place, each in enumerate(names):
        if numbers[each] != place:
            got = f"{each} as {numbers[each]} where the plan has it as {place}"
            advice = "make the plan with class_names=dataset.classes, or give the data set a target_transform"
            raise must(f"classes of {type(dataset).__name__}", "be numbered as in the plan", got, advice)


def _note_on_counts(name: str, names: list[str], planned: Tensor, found: Tensor) -> str:
    """Return the first class whose count is not the plan's, in one line; "" if another split of the same data explains all."""
    if torch.equal(planned, found) or not planned.sum():
        return ""
    factor = float(found.sum()) / float(planned.sum())
    expected = planned.double() * factor
    tolerance = 1 + _DEVIATIONS * (expected * max(1.0, factor)).sqrt()
    off = (found - expected).abs() > tolerance
    if torch.equal(planned.sort().values, found.sort().values):
        off = found != planned
    if not off.any():
        return ""
    place = int(off.nonzero()[0, 0])
    was, now = (int(each[place]) for each in (planned, found))
    return (
        f"{name}: {names[place]} has {now:,} of {int(found.sum()):,} images, and in the plan {was:,} of "
        f"{int(planned.sum()):,}; make sure that these are the labels of the images that are drawn, in the plan's order "
        "of classes"
    )
