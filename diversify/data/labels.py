"""Read the labels of a data set without loading its images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from ..errors import must
from .images import Images
from .tables import is_table, table_labels


def labels_of(dataset: Images) -> Tensor:
    """Return the labels `(N,)` int64 of a map-style data set without loading an image.

    Args:
        dataset: A data set with its labels in one of these places: an attribute `targets`, `labels`, `_labels` or `y`;
            `samples` or `imgs`, as in torchvision's `ImageFolder`; the second tensor of a `TensorDataset`; a column of a
            Hugging Face data set. `Subset` and `ConcatDataset` of such data sets work too.

    Raises:
        InputError: The data set shows no labels, or they are not one integer per example.

    Example:
        >>> import torch, diversify as dv
        >>> from torch.utils.data import Subset, TensorDataset
        >>> dataset = TensorDataset(torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 1, 2]))
        >>> dv.labels_of(Subset(dataset, [3, 1])).tolist()
        [2, 1]
    """
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset)[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        return torch.cat([labels_of(part) for part in dataset.datasets])
    name = type(dataset).__name__
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise must("data set", "be map-style, with a length and an index", name)
    found: object = None
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        found = dataset.tensors[1]
    for attribute in ("targets", "labels", "_labels", "y"):
        found = getattr(dataset, attribute, None) if found is None else found
    for attribute in ("samples", "imgs"):
        if found is None and hasattr(dataset, attribute):
            found = [example[1] for example in getattr(dataset, attribute)]
    if found is None and is_table(dataset):
        found = table_labels(dataset)
    if found is None:
        raise must("data set", "show its labels without loading images, as an attribute `targets` or `labels`", name)
    return check_labels(name, found, rows=len(dataset))


def check_labels(name: str, labels: object, *, rows: int | None = None) -> Tensor:
    """Return labels as an int64 tensor `(N,)` on the CPU, after checking that they are integers, one per image.

    Args:
        name: The data set, as errors name it.
        labels: A tensor, an array or a list, `(N,)` or `(N, 1)`.
        rows: Number of images; None if it is not known.

    Raises:
        InputError: They are not integers of 0 or more, have another shape, or are not as many as the images.

    Example:
        >>> from diversify.data import check_labels
        >>> check_labels("my data", [[0], [2], [1]], rows=3).tolist()
        [0, 2, 1]
    """
    if not isinstance(labels, Tensor) or labels.dtype == torch.uint64:
        try:
            array = np.asarray(labels)
        except ValueError:
            raise must(f"labels of {name}", "be one integer per image", "lists of several lengths") from None
        if array.dtype == object and array.ndim == 1:
            for row, label in enumerate(array.tolist()):
                if not isinstance(label, int | np.integer):
                    raise must(f"labels of {name}", "be integers", f"{label!r} at row {row}")
        if array.dtype == object or (array.dtype.kind == "u" and array.itemsize == 8):
            for row, label in enumerate(array.ravel().tolist()):
                if isinstance(label, int) and label >= 1 << 63:
                    raise must(f"labels of {name}", "be less than 2^63", f"{label} at row {row}")
        if array.dtype.kind not in "iub" and array.size:
            whole = array.dtype.kind == "f" and bool(np.all(np.isfinite(array) & (array == np.floor(array))))
            advice = "convert them with .astype(int)" if whole else ""
            raise must(f"labels of {name}", "be integers", array.dtype, advice)
        labels = torch.from_numpy(array.astype(np.int64))
    if labels.is_floating_point() or labels.is_complex():
        raise must(f"labels of {name}", "be integers", labels.dtype)
    labels = labels.detach().to("cpu", torch.int64)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        advice = _about_labels(labels) if labels.ndim == 2 else ""
        raise must(f"labels of {name}", "have shape (N,) or (N, 1)", tuple(labels.shape), advice)
    if rows is not None and len(labels) != rows:
        raise must(f"labels of {name}", f"be as many as its images, {rows}", len(labels))
    if len(labels) == 0:
        raise must(name, "have at least one image", 0)
    if (low := int(labels.min())) < 0:
        advice = "leave this split out: -1 throughout means that it has no labels" if bool((labels == -1).all()) else ""
        got = f"{low} at row {int((labels == low).nonzero()[0, 0])}"
        raise must(f"labels of {name}", "not be negative", got, advice)
    return labels


def _about_labels(labels: Tensor) -> str:
    one_hot = bool(((labels == 0) | (labels == 1)).all()) and bool((labels.sum(1) == 1).all())
    if one_hot and len(labels):
        return "convert one-hot labels with .argmax(1)"
    return "several labels per image (multi-label data) cannot be diagnosed: each image needs one class"
