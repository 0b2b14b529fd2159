"""Labels in any usual form, as class indices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import must, unknown

ClassNames = Sequence[str] | Mapping[int, str] | Mapping[str, int]
"""Names in the order of the classes, or a mapping between classes and names."""
_LAW = "be one class per image"
_TEXT = "pass class_names where the function takes it, or number them: [class_names.index(label) for label in labels]"
_SEVERAL = "for several labels per image (multi-label data), use dv.extract_multilabel and dv.diagnose_multilabel, or --multilabel"


def read_labels(
    name: str,
    labels: object,
    *,
    rows: int | None = None,
    class_names: ClassNames | None = None,
    num_classes: int | None = None,
    of: str = "",
) -> Tensor:
    """Return labels of any usual form as class indices `(N,)` int64 on the CPU.

    Args:
        name: What errors call the labels.
        labels: One class per image: integers of any type, whole floats, or booleans (False is class 0), `(N,)` or `(N, 1)`;
            one-hot rows `(N, C)`; or names of classes. A tensor, an array, a list of numbers or of tensors, a pandas Series
            or Categorical.
        rows: Number of images; None if it is not known.
        class_names: Name of each class, by which labels that are text are numbered; None if the classes have no names.
        num_classes: C; None for the number of `class_names`, or no limit where there are none.
        of: What the classes belong to, for errors: "the plan".

    Raises:
        InputError: They are not one class per image, hold no image, are not as many as the images, are missing or negative,
            or are not among the C classes; the message names the first row.

    Example:
        >>> from diversify.functional.labels import read_labels
        >>> read_labels("labels", ["newt", "cat", "newt"], class_names=["cat", "newt"]).tolist()
        [1, 0, 1]
        >>> read_labels("labels", [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).tolist()
        [1, 2]
    """
    names = None if class_names is None else [*names_in_order(class_names)]
    limit = len(names) if num_classes is None and names is not None else num_classes
    numbers = _numbers(name, labels, names)
    if numbers.ndim == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    if numbers.ndim == 2 and numbers.shape[1] > 1:
        numbers = _from_one_hot(name, numbers, limit)
    if numbers.ndim != 1:
        raise must(name, "have shape (N,) or (N, 1), or be one-hot (N, C)", tuple(numbers.shape))
    if rows is not None and len(numbers) != rows:
        raise must(name, f"be as many as the images, {rows}", len(numbers))
    if len(numbers) == 0:
        raise must(name, "hold at least one image", 0)
    found = _whole(name, numbers)
    _check_range(name, found, limit, of)
    return found


def in_class_order(
    name: str,
    values: object,
    num_classes: int,
    class_names: ClassNames | None = None,
    *,
    absent: float | None = None,
) -> object:
    """Return one value per class in the order of the classes; what is not given by class is returned as it is.

    Args:
        name: What errors call the values.
        values: A mapping, or a pandas Series, from classes to values, in any order; anything else is in order already.
            Classes are numbers, or names where these are known.
        num_classes: C.
        class_names: Name of each class; None if they are not known.
        absent: The value of a class that is not given; None if every class must be.

    Raises:
        InputError: A key is not a class, or a class is missing.

    Example:
        >>> in_class_order("counts", {"owl": 3, "cat": 9}, 2, ["cat", "owl"]), in_class_order("shares", {1: 0.3, 0: 0.7}, 2)
        ([9, 3], [0.7, 0.3])
    """
    if hasattr(values, "to_dict") and hasattr(values, "index") and not hasattr(values, "columns"):
        if len(set(values.index)) < len(values.index):
            raise must(name, "name each class once", "a class twice")
        values = values.to_dict()
    if not isinstance(values, Mapping):
        return values
    wanted: list[Any] = list(range(num_classes))
    if class_names is not None and any(isinstance(key, str) for key in values):
        wanted = [*names_in_order(class_names)]
    law = f"be in the order of the classes, or name each by its number in [0, {num_classes - 1}]"
    if class_names is not None:
        law = "be in the order of the classes, or name each by its name or number"
    odd = [key for key in values if key not in wanted]
    if odd:
        raise must(name, law, repr(odd[0]), "pass a list")
    missing = [key for key in wanted if key not in values]
    if missing and absent is None:
        raise must(name, "name every class", f"none for {missing[0]!r}")
    return [values.get(key, absent) for key in wanted]


def names_in_order(class_names: Any, num_classes: int | None = None) -> tuple[str, ...]:
    """Return the names in the order of the classes, whatever form they are given in.

    Args:
        class_names: The names in order; or a mapping of every class to its name (`id2label`), or of every name to its
            class (`label2id`, `class_to_idx`), in any order; or a pandas Series, whose index may name the classes.
        num_classes: C; None for as many as there are names.

    Raises:
        InputError: They have no order, as a set has none, or a mapping is neither of these.

    Example:
        >>> names_in_order({"owl": 1, "cat": 0}), names_in_order(["cat", "owl"])
        (('cat', 'owl'), ('cat', 'owl'))
    """
    size = len(class_names) if num_classes is None and hasattr(class_names, "__len__") else num_classes
    series = hasattr(class_names, "to_dict") and hasattr(class_names, "index")
    if series and list(class_names.index) != list(range(size or 0)):
        class_names = dict(class_names.to_dict())
    if isinstance(class_names, Mapping):
        return names_in_mapping(class_names, size or 0)
    if isinstance(class_names, str | bytes | Set):
        raise must("class_names", "be a list of names in the order of the classes", f"a {type(class_names).__name__}")
    return tuple(map(str, class_names))


def names_in_mapping(class_names: Mapping[Any, Any], num_classes: int) -> tuple[str, ...]:
    """Return the names, in the order of the classes, of a mapping from classes to names or from names to classes.

    Args:
        class_names: The mapping, in any order.
        num_classes: C.

    Raises:
        InputError: It is neither.

    Example:
        >>> names_in_mapping({"owl": 1, "cat": 0}, 2), names_in_mapping({1: "owl", 0: "cat"}, 2)
        (('cat', 'owl'), ('cat', 'owl'))
    """
    keys, values = list(class_names), list(class_names.values())
    wanted = list(range(num_classes))
    for classes, names in ((keys, values), (values, keys)):
        numbers = [_class_number(each, from_text=classes is keys) for each in classes]
        if sorted(-1 if each is None else each for each in numbers) == wanted:
            if any(_class_number(name, from_text=False) is not None for name in names):
                law = "map classes to names that are text"
                raise must("class_names", law, repr(dict(class_names))[:80], "pass a list of names in order")
            return tuple(
                str(name) for _, name in sorted(zip(numbers, names, strict=True), key=lambda pair: pair[0] or 0)
            )
    law = f"map each class in [0, {num_classes - 1}] to its name, or each name to its class"
    raise must("class_names", law, f"{len(keys)} entries, {repr(dict(class_names))[:80]}")


def _class_number(value: Any, *, from_text: bool) -> int | None:
    """A class as an integer; None if it is none. Keys of a JSON object are text: "0" is class 0."""
    if from_text and isinstance(value, str) and value.isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, Integral):
        return None
    return int(value)


def _numbers(name: str, labels: object, names: list[str] | None) -> Tensor:
    """The labels as a tensor of int64 or float64, in their own shape."""
    if isinstance(labels, Tensor) and labels.dtype != torch.uint64:
        if labels.is_complex():
            raise must(name, _LAW, f"values of {str(labels.dtype).removeprefix('torch.')}")
        values = labels.detach().as_subclass(Tensor).cpu()
        return values.to(torch.float64 if values.is_floating_point() else torch.int64)
    if isinstance(labels, str | bytes | Mapping | Set | Iterator):
        advice = "pass a list" if isinstance(labels, Set | Iterator) else ""
        raise must(name, _LAW, f"a {type(labels).__name__}", advice)
    if isinstance(labels, np.ma.MaskedArray) and np.ma.getmaskarray(labels).any():
        row = int(np.argwhere(np.ma.getmaskarray(labels))[0, 0])
        raise must(name, _LAW, f"a masked one at row {row}", "leave out the images without a label")
    if isinstance(labels, list | tuple) and any(isinstance(each, Tensor) for each in labels):
        labels = [each.tolist() if isinstance(each, Tensor) else each for each in labels]
    try:
        array = np.asarray(labels)
        if array.dtype.kind in "US" and isinstance(labels, list | tuple):
            array = np.array(labels, dtype=object)  # numbers among text stay numbers
    except ValueError:
        raise must(name, _LAW, "lists of several lengths", _SEVERAL) from None
    except (TypeError, RuntimeError):
        raise must(name, _LAW, f"a {type(labels).__name__}") from None
    if array.ndim == 0 and array.dtype.kind == "O":
        advice = "dv.labels_of(dataset) reads them from a data set" if hasattr(labels, "__getitem__") else ""
        raise must(name, _LAW, f"a {type(labels).__name__}", advice)
    return _from_array(name, array, names)


def _from_array(name: str, array: np.ndarray[Any, Any], names: list[str] | None) -> Tensor:
    kind = array.dtype.kind
    if kind == "u" and array.itemsize == 8 and array.size and int(array.max()) >= 1 << 63:
        row = int(np.argwhere(array >= 1 << 63)[0, 0])
        raise must(name, "be less than 2^63", f"{array.max()} at row {row}")
    if kind in "iub":
        return torch.from_numpy(array.astype(np.int64))
    if kind == "f" or not array.size:
        return torch.from_numpy(array.astype(np.float64))
    if kind not in "OUST":
        raise must(name, _LAW, f"values of {array.dtype}")
    if array.ndim > 2 or (array.ndim == 2 and array.shape[1] != 1 and kind != "O"):
        raise must(name, "have shape (N,) or (N, 1)", array.shape)
    width = array.shape[1] if array.ndim == 2 else 1
    places = {} if names is None else {each: number for number, each in enumerate(names)}
    single = np.array([_number(name, each, place // width, names, places) for place, each in enumerate(array.flat)])
    return torch.from_numpy(single.reshape(array.shape))


def _number(name: str, label: Any, row: int, names: list[str] | None, places: Mapping[str, int]) -> int | float:
    """The number of one label of an array of objects or of text."""
    if isinstance(label, bytes):
        label = label.decode(errors="replace")
    if isinstance(label, str):
        label = str(label)
        if names is None:
            raise must(name, "be class indices where no class names are known", f"{label!r} at row {row}", _TEXT)
        if label not in places:
            law, _, advice = str(unknown(name, label, names)).partition(" must ")[2].partition(f", got {label!r}")
            raise must(name, law, f"{label!r} at row {row}", advice.removeprefix("; "))
        if names.count(label) > 1:
            raise must("class_names", "differ where labels are text", f"{label!r} for several classes")
        return places[label]
    number = label.item() if hasattr(label, "item") and getattr(label, "ndim", None) == 0 else label
    if isinstance(number, int):
        if number >= 1 << 63:
            raise must(name, "be less than 2^63", f"{number} at row {row}")
        return max(int(number), -(1 << 62))
    if isinstance(number, float) and number == number:
        return number
    missing = number is None or type(number).__name__ in ("NAType", "NaTType", "float")
    raise must(name, _LAW, f"{label!r} at row {row}", "leave out the images without a label" if missing else "")


def _from_one_hot(name: str, values: Tensor, limit: int | None) -> Tensor:
    """The class of each one-hot row `(N, C)`."""
    one_hot = ((values == 0) | (values == 1)).all(1) & (values.sum(1) == 1)
    if not one_hot.all():
        several = (values.sum(1) > 1.001) & ~one_hot
        row = int((several if several.any() else ~one_hot).nonzero()[0, 0])
        total, shares = float(values[row].sum()), bool(((values[row] >= 0) & (values[row] <= 1)).all())
        advice = "take the labels from before the images were mixed" if shares and abs(total - 1) < 1e-3 else _SEVERAL
        if shares and total == 0:
            advice = "leave out the images without a label"
        shown = ", ".join(f"{value:.3g}" for value in values[row, :6].tolist()) + ", ..." * (values.shape[1] > 6)
        raise must(name, "have shape (N,) or (N, 1), or be one-hot (N, C)", f"({shown}) at row {row}", advice)
    if limit is not None and values.shape[1] != limit:
        raise must(name, f"have {limit} columns, one per class, where they are one-hot", values.shape[1])
    return values.argmax(1)


def _whole(name: str, values: Tensor) -> Tensor:
    """Numbers `(N,)` as int64."""
    if not values.is_floating_point():
        return values
    bad = ~((values == values.floor()) & (values.abs() < 2**63))
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        value = float(values[row])
        if value == value and abs(value) != float("inf") and value == int(value):
            raise must(name, "be less than 2^63", f"{value:g} at row {row}")
        advice = "leave out the images without a label" if value != value else ""
        raise must(name, "be whole numbers", f"{value:g} at row {row}", advice)
    return values.to(torch.int64)


def _check_range(name: str, found: Tensor, limit: int | None, of: str) -> None:
    low, high = (int(end) for end in found.aminmax())
    if low < 0:
        row, negative = int((found == low).nonzero()[0, 0]), int((found < 0).sum())
        advice = f"leave out the images without a label, {negative:,} of {len(found):,}"
        if negative == len(found):
            advice = f"leave this split out: {low} throughout means that it has no labels"
        raise must(name, "not be negative", f"{low} at row {row}", advice)
    if limit is None or high < limit:
        return
    row = int((found >= limit).nonzero()[0, 0])
    advice = "they seem to count from 1: subtract 1 from all" if low >= 1 and high == limit else ""
    law = f"be classes of {of}, in [0, {limit - 1}]" if of else f"be classes in [0, {limit - 1}]"
    raise must(name, law, f"{int(found[row])} at row {row}", advice)
