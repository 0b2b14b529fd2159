"""Features, labels, logits and indices of images as one value, in memory or mapped from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import must
from ..functional.groups import group_numbers
from ..functional.labels import ClassNames, read_labels
from ..functional.multilabel import require_one_label
from .embeddings_folder import COLUMNS, GROUPS, index_record, read_folder, read_groups, write_folder
from .linear_head import LinearHead, read_head
from .output_check import as_two_classes
from .reading import Reading

BLOCK_ROWS = 4096  # rows checked at a time, and rows gathered on a device before they are copied to the CPU

_COMPARED = 256  # rows whose logits are compared with a head's
_ROUNDING = 0.02  # largest difference relative to the size of the logits: bfloat16 needs this much


@dataclass(frozen=True, kw_only=True, eq=False)
class Embeddings:
    """Features, labels and logits of N images: one row per image, in the order of the loader.

    Attributes:
        features: `(N, D)` float32, the input of the head.
        labels: `(N,)` int64 in [0, C - 1].
        logits: `(N, C)` float32, the output of the head.
        indices: `(N,)` int64, each image's index in its data set, or its position in the loader where the index is
            unknown; `reading.indices_known` tells which.
        reading: How the loader gave the rows: what it left out or gave twice, and whether indices are known.
        groups: `(N,)` int64, equal for images that depend on each other: of one patient, camera or burst; `with_groups`
            makes them from any values. None if no groups are known.

    Raises:
        InputError: A tensor has another shape or dtype, a label is out of range, or a value is not finite.

    See Also:
        extract: Makes embeddings from a model and a loader.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> len(train), train.num_classes, train.num_features, train.select(train.labels == 3).features.shape
        (320, 4, 16, torch.Size([10, 16]))
    """

    features: Tensor
    labels: Tensor
    logits: Tensor
    indices: Tensor
    reading: Reading = field(default_factory=Reading)
    groups: Tensor | None = None

    def __post_init__(self) -> None:
        forms = {"features": _REAL, "logits": _REAL, "labels": _WHOLE, "indices": _WHOLE}
        require_forms(self, forms if self.groups is None else forms | {"groups": _WHOLE})
        require_labels(self.labels, self.num_classes)
        require_finite("features", self.features)
        require_finite("logits", self.logits)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """C: the number of outputs of the head, whether or not every class has images here."""
        return self.logits.shape[1]

    @property
    def num_features(self) -> int:
        """D: the number of inputs of the head."""
        return self.features.shape[1]

    def select(self, rows: Tensor) -> Self:
        """Return a copy of some rows.

        Args:
            rows: An int64 index, or a boolean mask `(N,)`.
        """
        return replace(
            self,
            features=self.features[rows],
            labels=self.labels[rows],
            logits=self.logits[rows],
            indices=self.indices[rows],
            groups=None if self.groups is None else self.groups[rows],
        )

    def with_groups(self, groups: Any) -> Self:
        """Return these embeddings with a group for each image: intervals and folds then count groups, not images.

        Args:
            groups: One value per image, integers or text, equal for images that depend on each other. Training and
                held-out images of one group have the same value. None leaves the groups out.

        Raises:
            InputError: There is not one value per image, or a value is neither an integer nor text.

        Example:
            >>> import diversify as dv
            >>> train, heldout, head = dv.make_embeddings((4, 2))
            >>> train.with_groups(["ann", "ann", "bob", "bob", "ann", "eve"]).groups.unique().shape
            torch.Size([3])
        """
        if groups is None:
            return replace(self, groups=None)
        return replace(self, groups=group_numbers("groups", groups, rows=len(self)).to(self.labels.device))

    def seen_by(self, head: LinearHead) -> Self:
        """Return these embeddings with the logits of `head`, on the features' device.

        The logits are recomputed only if a sample of rows disagrees with `head`. Logits of lower precision agree, and
        so are kept: with many classes, logits are most of the memory of embeddings.

        Args:
            head: The head whose logits are wanted.
        """
        if self.agrees_with(head):
            return self
        device = self.features.device
        on = replace(head, weight=head.weight.to(device), bias=head.bias.to(device))
        return replace(self, logits=on.logits(self.features))

    def agrees_with(self, head: LinearHead) -> bool:
        """Return True if the logits are those of `head`, up to the rounding of a lower precision, on a sample of the rows.

        Args:
            head: The head whose logits are wanted.
        """
        device = self.features.device
        on = replace(head, weight=head.weight.to(device), bias=head.bias.to(device))
        if self.logits.shape[1] != head.num_classes or not len(self):
            return False
        rows = torch.linspace(0, len(self) - 1, min(len(self), _COMPARED), device=device).long()
        own = self.logits[rows].to(device)
        differ = (on.logits(self.features[rows]) - own).square().mean(0).sqrt().max()
        return bool(differ <= _ROUNDING * own.square().mean().sqrt())

    @classmethod
    def from_arrays(
        cls,
        features: Any,
        labels: Any,
        *,
        head: LinearHead | None = None,
        logits: Any = None,
        num_classes: int | None = None,
        groups: Any = None,
        class_names: ClassNames | None = None,
    ) -> Self:
        """Return embeddings of features that were computed elsewhere.

        Args:
            features: `(N, D)` real numbers, the input of the head: an array or a tensor. Other floating-point types
                become float32.
            labels: One class per row: integers in [0, C - 1], whole floats, booleans, one-hot rows, or names of classes.
            head: The head, which gives the logits where there are none; `fit_head` fits one, and `head_from_logits` finds
                that of given logits.
            logits: `(N, C)` real numbers; `(N, 1)` or `(N,)` for a binary classifier with a single logit z, which becomes
                (0, z). Given with a head, they must be those of the head.
            num_classes: C, to check the head or the logits against.
            groups: One value per row, equal for rows that depend on each other; see `with_groups`.
            class_names: Name of each class, by which labels that are text are numbered.

        Raises:
            InputError: A shape, type or number of rows is wrong, a label is out of range, a value is not finite, there are
                neither logits nor a head, or they disagree.

        Example:
            >>> import numpy as np
            >>> import diversify as dv
            >>> features, labels = np.eye(3), np.array([0, 1, 1])
            >>> head = dv.LinearHead(weight=torch.ones(2, 3), bias=torch.zeros(2))
            >>> dv.Embeddings.from_arrays(features, labels, head=head).logits.shape
            torch.Size([3, 2])
        """
        rows = real_tensor("features", features, 2)
        numbers = class_indices("labels", labels, class_names)
        if len(numbers) != len(rows):
            raise must("labels", f"have one row per row of features, {len(rows)}", len(numbers))
        given = None if logits is None else logits_tensor(logits)
        if given is None and head is None:
            raise must("head", "be given where there are no logits", None, "dv.fit_head fits one")
        head = None if head is None else read_head(head)
        if head is not None and head.num_features != rows.shape[1]:
            raise must("head", f"have the {rows.shape[1]} features of the rows", head.num_features)
        outputs = head.num_classes if head is not None else given.shape[1] if given is not None else 0
        if num_classes is not None and outputs != num_classes:
            raise must("head" if head is not None else "logits", f"have {num_classes} classes", outputs)
        require_finite("features", rows)
        made = given if given is not None else head.logits(rows) if head is not None else rows
        found = cls(features=rows, labels=numbers, logits=made, indices=torch.arange(len(rows)))
        if head is not None and given is not None and found.seen_by(head) is not found:
            raise must("logits", "be those of the head", "others", "leave out one of the two")
        return found.with_groups(groups)

    def save(self, folder: Path, origin: Mapping[str, str] | None = None) -> None:
        """Write the embeddings into a folder: one `.npy` file per column and, last, `index.json`.

        Args:
            folder: A new or empty folder.
            origin: What the embeddings were made from, kept in the index.

        Raises:
            InputError: The folder is not empty.
        """
        sizes = self.num_features, self.num_classes
        index = index_record(len(self), len(self), *sizes, origin or {}, self.reading)
        columns = {name: getattr(self, name) for name in COLUMNS}
        write_folder(Path(folder), columns if self.groups is None else columns | {GROUPS: self.groups}, index)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the embeddings in a folder, mapped into memory: nothing is copied, and changes never reach the files.

        Args:
            folder: A folder that `save` or `extract(out=...)` wrote.

        Raises:
            InputError: The folder is missing, unfinished, truncated or inconsistent.
        """
        columns, index = read_folder(Path(folder))
        groups = read_groups(Path(folder), len(columns["labels"]))
        return cls(**columns, reading=Reading.from_dict(index.get("reading")), groups=groups)


_REAL, _WHOLE = (2, torch.float32), (1, torch.int64)


def require_embeddings(name: str, value: object, several: str = "") -> None:
    """Raise an InputError unless a value is `Embeddings`, of images with one label each.

    Args:
        name: The parameter.
        value: What was given.
        several: What to use instead for `MultilabelEmbeddings`.

    Raises:
        InputError: The value is something else, such as an array of features or a loader.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> require_embeddings("train", train)
    """
    require_one_label(name, value, several)
    if not isinstance(value, Embeddings):
        advice = "extract makes them of a model and a loader, Embeddings.from_arrays of features and labels"
        raise must(name, "be Embeddings", type(value).__name__, advice)


def require_forms(embeddings: object, forms: Mapping[str, tuple[int, torch.dtype]]) -> None:
    """Raise an InputError unless each named column is a tensor of this number of dimensions and dtype, with a row per image."""
    features = getattr(embeddings, "features", None)
    rows = len(features) if isinstance(features, Tensor) and features.ndim else 0
    for name, (ndim, dtype) in forms.items():
        values = getattr(embeddings, name)
        if not isinstance(values, Tensor):
            raise must(name, "be a tensor", type(values).__name__)
        if values.ndim != ndim:
            raise must(name, f"have {ndim} dimension{'s' * (ndim > 1)}", f"shape {tuple(values.shape)}")
        if values.dtype != dtype:
            raise must(name, f"be {str(dtype).removeprefix('torch.')}", str(values.dtype).removeprefix("torch."))
        if len(values) != rows:
            raise must(name, f"have one row per image, {rows}", len(values))


def real_tensor(name: str, values: Any, ndim: int) -> Tensor:
    """Return an array or tensor of real numbers as float32, or raise an InputError."""
    array = values if isinstance(values, Tensor) else np.asarray(values)
    law = f"be real numbers in {ndim} dimensions"
    if isinstance(array, np.ndarray):
        if array.dtype.kind not in "fiu":
            raise must(name, law, f"{array.dtype} of shape {array.shape}")
        array = torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
    if array.ndim != ndim or array.is_complex() or array.dtype == torch.bool:
        raise must(name, law, f"{str(array.dtype).removeprefix('torch.')} of shape {tuple(array.shape)}")
    return array.detach().cpu().float()


def logits_tensor(logits: Any, *, two_classes: bool = True) -> Tensor:
    """Return logits `(N, C)` as float32, or raise an InputError.

    Args:
        logits: An array or a tensor, `(N, C)`; `(N,)` or `(N, 1)` for a single logit.
        two_classes: Return a single logit z as the two columns (0, z).

    Example:
        >>> logits_tensor(torch.tensor([2.0, -1.0])).tolist()
        [[0.0, 2.0], [0.0, -1.0]]
    """
    flat = logits if isinstance(logits, Tensor) else np.asarray(logits)
    values = real_tensor("logits", flat[:, None] if flat.ndim == 1 else flat, 2)
    return as_two_classes(values) if two_classes else values


def integer_tensor(name: str, values: Any) -> Tensor:
    """Return an array or tensor of integers `(N,)` or `(N, 1)` as int64, or raise an InputError.

    Booleans are 0 and 1, and whole floats are integers.
    """
    array = values if isinstance(values, Tensor) else np.asarray(values)
    if isinstance(array, np.ndarray):
        if array.dtype.kind == "b" or (array.dtype.kind == "f" and bool((array == np.trunc(array)).all())):
            array = array.astype(np.int64) if bool((np.abs(array) < 2**53).all()) else array
        if array.dtype.kind not in "iu":
            raise must(name, "be integers in 1 dimension", f"{array.dtype} of shape {array.shape}")
        array = torch.from_numpy(np.require(array, np.int64, ["C", "W"]))
    elif array.dtype == torch.bool or (array.is_floating_point() and bool((array == array.trunc()).all())):
        array = array.long() if bool((array.double().abs() < 2**53).all()) else array
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1 or array.is_floating_point() or array.is_complex() or array.dtype == torch.bool:
        raise must(
            name,
            "be integers in 1 dimension",
            f"{str(array.dtype).removeprefix('torch.')} of shape {tuple(array.shape)}",
        )
    return array.detach().cpu().long()


def class_indices(name: str, labels: Any, class_names: ClassNames | None = None) -> Tensor:
    """Return labels of any usual form as class indices `(N,)` int64 on the CPU, or raise an InputError.

    Args:
        name: What errors call the labels.
        labels: As for `functional.labels.read_labels`.
        class_names: Numbers labels that are text.

    Example:
        >>> class_indices("labels", ["owl", "cat"], ["cat", "owl"]).tolist(), class_indices("labels", [[1.0], [0.0]]).tolist()
        ([1, 0], [1, 0])
    """
    array = labels if isinstance(labels, Tensor) else np.asarray(labels)
    numeric = isinstance(array, Tensor) or array.dtype.kind in "biuf"
    if numeric and (array.ndim < 2 or array.shape[1] == 1):
        return integer_tensor(name, array)
    return read_labels(name, labels, class_names=None if numeric else class_names)


def require_labels(labels: Tensor, num_classes: int, first_row: int = 0) -> None:
    """Raise an InputError unless all labels lie in [0, C)."""
    wrong = (labels < 0) | (labels >= num_classes)
    if bool(wrong.any()):
        row = int(wrong.int().argmax())
        got = f"{int(labels[row])} at row {first_row + row}"
        raise must("labels", f"lie in [0, C - 1 = {num_classes - 1}]", got)


def require_finite(name: str, values: Tensor, first_row: int = 0) -> None:
    """Raise an InputError that names the row unless all values are finite."""
    for start in range(0, len(values), BLOCK_ROWS):
        block = values[start : start + BLOCK_ROWS]
        if block.numel() and not torch.stack(torch.aminmax(block)).isfinite().all():
            row, column = (int(index) for index in (~block.isfinite()).nonzero()[0])
            what = {"features": "feature", "logits": "class"}[name]
            got = f"{float(block[row, column])} at row {first_row + start + row}, {what} {column}"
            raise must(name, "be finite", got)
