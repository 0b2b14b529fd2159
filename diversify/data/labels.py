"""Read the labels of a data set as its examples have them, without loading all its images."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torchvision.datasets import DatasetFolder

from ..errors import InputError, must
from ..functional.labels import ClassNames, names_in_order, read_labels
from ..runtime.randomness import random_state_kept
from ..runtime.user_code import describe, is_passed_on
from .examples import require_map_style
from .images import Images
from .tables import LABEL_COLUMNS, is_table, is_transformed, table_class_names, table_labels

COMPARED = 32  # examples whose label is compared with the one that the data set shows
_SECONDS = 2.0  # after which no further example is read
_ATTRIBUTES = ("targets", "labels", "_labels", "y")
_LISTS = ("samples", "imgs", "_samples")
_KEYS = (*LABEL_COLUMNS, "target", "targets")
_PASS = "pass labels=, one class per image"


def labels_of(dataset: Images, *, class_names: ClassNames | None = None) -> Tensor:
    """Return the labels `(N,)` int64 of a map-style data set, as its examples have them.

    A `target_transform` is applied. For data sets of the user's own, whose `__getitem__` may change labels, up to 32
    examples, spread over the classes, are read for at most two seconds and compared. Otherwise no image is loaded.

    Args:
        dataset: A data set with its labels in one of these places: an attribute `targets`, `labels`, `_labels` or `y`;
            a method `get_labels()`; `samples` or `imgs`, as in torchvision's `ImageFolder`; the second tensor of a
            `TensorDataset`; a column of a Hugging Face data set. `Subset` and `ConcatDataset` of such data sets work too.
        class_names: Numbers labels that are text; by default the data set's attribute `classes`.

    Raises:
        InputError: The data set shows no labels, they are not one class per example, or they are not those of its examples.

    Warns:
        UserWarning: An example cannot be read, so that its label cannot be compared.

    Example:
        >>> import torch, diversify as dv
        >>> from torch.utils.data import Subset, TensorDataset
        >>> dataset = TensorDataset(torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 1, 2]))
        >>> dv.labels_of(Subset(dataset, [3, 1])).tolist()
        [2, 1]
    """
    labels, note = shown_labels(dataset, class_names)
    if note:
        warnings.warn(note, stacklevel=2)
    return labels


def shown_labels(dataset: Any, class_names: ClassNames | None = None) -> tuple[Tensor, str]:
    """Return what `labels_of` returns, and in one line why it could not be compared with the examples, or "".

    Raises:
        InputError: As `labels_of`.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from diversify.data.labels import shown_labels
        >>> shown_labels(TensorDataset(torch.zeros(2, 1), torch.tensor([0, 1])))
        (tensor([0, 1]), '')
    """
    name, note = type(dataset).__name__, ""
    class_names = None if class_names is None else names_in_order(class_names)
    require_map_style(dataset)
    found = _found(dataset)
    if found is not None:
        candidates = _candidates(dataset, found, class_names)
    elif isinstance(dataset, Subset):
        whole, note = shown_labels(dataset.dataset, class_names)
        candidates = [whole[torch.as_tensor(dataset.indices, dtype=torch.int64)]]
    elif isinstance(dataset, ConcatDataset):
        parts, notes = zip(*(shown_labels(part, class_names) for part in dataset.datasets), strict=True)
        candidates, note = [torch.cat(parts)], next(filter(None, notes), "")
    elif _is_ours(dataset) and hasattr(dataset, "dataset"):  # it changes images alone
        return shown_labels(dataset.dataset, class_names)
    else:
        law = "show its labels, as an attribute `targets` or `labels`"
        raise must("data set", law, name, _PASS)
    if note or _is_plain(dataset):
        return candidates[0], note
    return _compared(dataset, name, candidates, class_names)


def shown_class_names(dataset: Any) -> tuple[str, ...] | None:
    """Return the names that a data set of torchvision gives its classes, in order; None where they are not certain.

    They are certain where labels come as torchvision numbers them: from one of its own classes, such as `ImageFolder`,
    without a `target_transform`, or from plain subsets of it.

    Args:
        dataset: The data set of a loader.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> from diversify.data.labels import shown_class_names
        >>> shown_class_names(TensorDataset(torch.zeros(2, 1), torch.tensor([0, 1]))) is None
        True
    """
    while type(dataset) is Subset or (_is_ours(dataset) and hasattr(dataset, "dataset")):
        dataset = dataset.dataset
    names, numbers = (getattr(dataset, name, None) for name in ("classes", "class_to_idx"))
    if not type(dataset).__module__.startswith("torchvision.datasets.") or not isinstance(numbers, Mapping):
        return None
    if getattr(dataset, "target_transform", None) is not None or not isinstance(names, list | tuple):
        return None
    whole = [numbers.get(name) for name in names] == list(range(len(names)))
    return tuple(map(str, names)) if whole and names else None


def stored_labels(dataset: Any) -> list[Tensor]:
    """Return the labels that a map-style data set shows, in each way in which they may be meant; no example is read.

    `labels_of` chooses among them by the examples.

    Args:
        dataset: As for `labels_of`.

    Returns:
        One `(N,)` int64 or more; nothing if it shows none.

    Raises:
        InputError: What it shows is not one class per example.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> stored_labels(TensorDataset(torch.zeros(2, 1), torch.tensor([0, 1])))
        [tensor([0, 1])]
    """
    found = _found(dataset)
    if found is not None:
        return _candidates(dataset, found, None)
    if isinstance(dataset, Subset):
        return [each[torch.as_tensor(dataset.indices, dtype=torch.int64)] for each in stored_labels(dataset.dataset)]
    if isinstance(dataset, ConcatDataset):
        parts = [stored_labels(part) for part in dataset.datasets]
        return [torch.cat([part[0] for part in parts])] if all(len(part) == 1 for part in parts) else []
    return stored_labels(dataset.dataset) if _is_ours(dataset) and hasattr(dataset, "dataset") else []


def shows_text(dataset: Any) -> bool:
    """Return whether a map-style data set shows its labels as text; no example is read.

    Args:
        dataset: As for `labels_of`.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> shows_text(TensorDataset(torch.zeros(2, 1), torch.tensor([0, 1])))
        False
    """
    found = _found(dataset)
    if found is None:
        parts = dataset.datasets if isinstance(dataset, ConcatDataset) else [getattr(dataset, "dataset", None)]
        return any(shows_text(part) for part in parts if part is not None)
    return _is_text(found)


def _is_text(labels: Any) -> bool:
    return not isinstance(labels, Tensor) and any(isinstance(each, str | bytes) for each in list(labels)[:COMPARED])


def check_labels(
    name: str, labels: object, *, rows: int | None = None, class_names: ClassNames | None = None
) -> Tensor:
    """Return labels of any usual form as an int64 tensor `(N,)` on the CPU, after checking that there is one per image.

    Args:
        name: The data set, as errors name it.
        labels: As for `functional.labels.read_labels`.
        rows: Number of images; None if it is not known.
        class_names: Numbers labels that are text.

    Raises:
        InputError: They are not classes of 0 or more, have another shape, or are not as many as the images.

    Example:
        >>> from diversify.data import check_labels
        >>> check_labels("my data", [[0], [2], [1]], rows=3).tolist()
        [0, 2, 1]
    """
    if hasattr(labels, "__len__") and getattr(labels, "ndim", None) != 0 and len(labels) == 0 and not rows:
        raise must(name, "have at least one image", 0)
    return read_labels(f"labels of {name}", labels, rows=rows, class_names=class_names)


def _found(dataset: Any) -> Any:
    """The labels as the data set stores them; None if it shows none."""
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        return dataset.tensors[1]
    if _is_plain_folder(dataset):  # its examples are those of `samples`, also where its `targets` were changed
        return [label for _, label in dataset.samples]
    left = None
    for attribute in _ATTRIBUTES:
        found = getattr(dataset, attribute, None)
        if found is None or callable(found):
            continue
        if not hasattr(found, "__len__") or len(found) == len(dataset):
            return found
        left = (
            found if left is None else left
        )  # the names of the classes, perhaps: another attribute may hold the labels
    if callable(own := getattr(dataset, "get_labels", None)):
        return own()
    for attribute in _LISTS:
        if getattr(dataset, attribute, None) is not None:
            return [example[1] for example in getattr(dataset, attribute)]
    if left is None:
        return table_labels(dataset) if is_table(dataset) else None
    raise must(f"labels of {type(dataset).__name__}", f"be as many as the images, {len(dataset)}", len(left), _PASS)


def _is_plain_folder(dataset: Any) -> bool:
    return isinstance(dataset, DatasetFolder) and type(dataset).__getitem__ is DatasetFolder.__getitem__


def _candidates(dataset: Any, found: Any, class_names: ClassNames | None) -> list[Tensor]:
    """The labels that the examples may have, the likeliest first: after the `target_transform`, and as they are stored."""
    name = type(dataset).__name__
    change = getattr(dataset, "target_transform", None)
    if not callable(change):
        return [_read(dataset, found, class_names)]
    try:
        changed = _read(dataset, _each(found, change), class_names)
    except Exception as error:  # the user's function may raise anything
        if is_passed_on(error):
            raise
        got = describe(error)
        raise must(
            f"target_transform of {name}", "take the labels", got, "pass labels= as training sees them"
        ) from error
    try:
        return [changed, _read(dataset, found, class_names)]
    except InputError:  # only the transform makes classes of them
        return [changed]


def _read(dataset: Any, found: Any, class_names: ClassNames | None) -> Tensor:
    names = class_names
    if names is None and isinstance(own := getattr(dataset, "classes", None), list | tuple):
        names = [str(each) for each in own]
    if names is None and is_table(dataset):
        names = table_class_names(dataset)
    text = _is_text(found)
    return check_labels(type(dataset).__name__, found, rows=len(dataset), class_names=names if text else None)


def _each(found: Any, change: Callable[[Any], Any]) -> list[Any]:
    """The changed labels; the change is called once for each different label."""
    seen: dict[Any, Any] = {}

    def changed(label: Any) -> Any:
        label = label.item() if hasattr(label, "item") and getattr(label, "ndim", 1) == 0 else label
        if isinstance(label, int | str | float):
            if label not in seen:
                seen[label] = change(label)
            return seen[label]
        return change(label)

    return [changed(label) for label in (found.tolist() if getattr(found, "ndim", 0) == 1 else found)]


def _is_plain(dataset: Any) -> bool:
    """True if data sets of this class always give the labels that `_candidates` puts first, so that no example is read."""
    kind = type(dataset)
    if isinstance(dataset, Subset):
        return kind.__getitem__ is Subset.__getitem__ and kind.__getitems__ is Subset.__getitems__
    if isinstance(dataset, ConcatDataset | TensorDataset):
        return kind.__getitem__ in (ConcatDataset.__getitem__, TensorDataset.__getitem__)
    module = kind.__module__.partition(".")[0]
    if module == "torchvision":
        joint = type(getattr(dataset, "transforms", None)).__name__ in ("NoneType", "StandardTransform")
        return joint and not any(hasattr(dataset, each) for each in ("target_type", "_target_types"))
    return _is_ours(dataset) or (is_table(dataset) and not is_transformed(dataset))


def _is_ours(dataset: Any) -> bool:
    return type(dataset).__module__.partition(".")[0] == "diversify"


def _compared(dataset: Any, name: str, candidates: list[Tensor], class_names: ClassNames | None) -> tuple[Tensor, str]:
    """The first candidate that agrees with the examples, and a note if no example could be read."""
    seen: dict[int, int] = {}
    note, end = "", time.monotonic() + _SECONDS
    names = class_names if class_names is not None else getattr(dataset, "classes", None)
    names = names if isinstance(names, list | tuple) else None
    with random_state_kept():
        for row in _spread(candidates[0]):
            if time.monotonic() > end:
                break
            try:
                label = _label_of(dataset[row])
                text = isinstance(label, str | bytes)
                seen[row] = int(read_labels("label", [label], class_names=names if text else None)[0])
            except Exception as error:  # the user's data set may raise anything
                if is_passed_on(error) and not isinstance(error, InputError):
                    raise
                note = f"labels of {name} are not compared with its examples: example {row} gives {describe(error)}"
                break
    for labels in candidates:
        if all(int(labels[row]) == label for row, label in seen.items()):
            return labels, note
    row = next(row for row, label in seen.items() if int(candidates[0][row]) != label)
    got = f"{int(candidates[0][row])} for example {row}, whose label is {seen[row]}"
    raise must(
        f"labels of {name}", "be those of its examples", got, "pass labels=, one class per image as training sees it"
    )


def _label_of(example: Any) -> Any:
    """The label of an example `(image, label)` or `{"image": ..., "label": ...}`."""
    if isinstance(example, Mapping):
        for key in _KEYS:
            if key in example:
                return example[key]
    elif isinstance(example, tuple | list) and len(example) > 1:
        return example[1]
    raise must("an example of the data set", "be (image, label)", type(example).__name__)


def _spread(labels: Tensor) -> list[int]:
    """At most `COMPARED` rows, from as many classes as possible."""
    classes = labels.unique()
    if len(classes) > COMPARED:
        classes = classes[torch.linspace(0, len(classes) - 1, COMPARED).long()]
    each = COMPARED // len(classes)
    rows: set[int] = set()
    for number in classes.tolist():
        own = (labels == number).nonzero().flatten()
        rows.update(own[torch.linspace(0, len(own) - 1, each).long()].tolist())
    return sorted(rows)
