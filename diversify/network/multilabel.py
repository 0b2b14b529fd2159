"""Embeddings of images with several labels each, and how they are read from a model and a loader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..errors import must
from ..functional.multilabel import read_multilabels
from ..runtime.progress import Progress
from .batches import BatchForm, Key
from .embeddings import real_tensor, require_finite, require_forms
from .embeddings_folder import COLUMNS, index_record, read_folder, write_folder
from .extraction import Precision, read_all
from .linear_head import LinearHead, read_head
from .reading import Reading
from .split import SplitModel


@dataclass(frozen=True, kw_only=True, eq=False)
class MultilabelEmbeddings:
    """What a model computes for N images that have any number of labels each.

    Attributes:
        features: `(N, D)` float32, the input of the head.
        labels: `(N, C)` bool: which labels each image has.
        logits: `(N, C)` float32, the output of the head; its sigmoid is the probability of each label.
        indices: `(N,)` int64, each image's index in its data set; its position where the index is unknown.
        reading: How the loader gave the rows.

    Raises:
        InputError: A tensor has another shape or dtype, or a value is not finite.

    See Also:
        `extract_multilabel`, which makes them from a model and a loader.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_multilabel_embeddings()
        >>> len(train), train.num_labels, train.num_features, train.labels.sum(1).max().item() > 1
        (600, 4, 16, True)
    """

    features: Tensor
    labels: Tensor
    logits: Tensor
    indices: Tensor
    reading: Reading = field(default_factory=Reading)

    several_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        real, whole, marks = (2, torch.float32), (1, torch.int64), (2, torch.bool)
        require_forms(self, {"features": real, "labels": marks, "logits": real, "indices": whole})
        if self.labels.shape != self.logits.shape:
            raise must("labels", f"have the shape of the logits, {tuple(self.logits.shape)}", tuple(self.labels.shape))
        require_finite("features", self.features)
        require_finite("logits", self.logits)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_labels(self) -> int:
        """C: the number of labels, whether or not an image here has each of them."""
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
        )

    def seen_by(self, head: LinearHead) -> Self:
        """Return these embeddings with the logits of `head`.

        Args:
            head: The head whose logits are wanted, on the features' device.
        """
        return replace(self, logits=head.logits(self.features).float())

    @classmethod
    def from_arrays(cls, features: Any, labels: Any, *, head: LinearHead | None = None, logits: Any = None) -> Self:
        """Return embeddings of features that were computed elsewhere.

        Args:
            features: `(N, D)` real numbers, the input of the head: an array or a tensor.
            labels: `(N, C)`, 0 or 1 for every label.
            head: The head, which gives the logits where there are none.
            logits: `(N, C)` real numbers; not needed with a head.

        Raises:
            InputError: A shape, type or number of rows is wrong, a value is not finite, or there are neither logits nor a
                head.

        Example:
            >>> import numpy as np
            >>> import diversify as dv
            >>> head = dv.LinearHead(weight=torch.ones(2, 3), bias=torch.zeros(2))
            >>> dv.MultilabelEmbeddings.from_arrays(np.eye(3), [[0, 1], [1, 1], [0, 0]], head=head).logits.shape
            torch.Size([3, 2])
        """
        rows = real_tensor("features", features, 2)
        require_finite("features", rows)
        marks = read_multilabels("labels", labels, rows=len(rows))
        if logits is None and head is None:
            raise must("head", "be given where there are no logits", None)
        if head is not None and (head.num_features, head.num_classes) != (rows.shape[1], marks.shape[1]):
            law = f"have the {rows.shape[1]} features and {marks.shape[1]} labels of the rows"
            raise must("head", law, f"{head.num_features} features and {head.num_classes} labels")
        given = None if logits is None else real_tensor("logits", logits, 2)
        made = head.logits(rows).float() if given is None and head is not None else given
        assert made is not None
        return cls(features=rows, labels=marks, logits=made, indices=torch.arange(len(rows)))

    def save(self, folder: Path | str, origin: Mapping[str, str] | None = None) -> None:
        """Write the embeddings into a folder: one `.npy` file per column and, last, `index.json`.

        Args:
            folder: A new or empty folder.
            origin: What the embeddings were made from, kept in the index.

        Raises:
            InputError: The folder is not empty.
        """
        sizes = self.num_features, self.num_labels
        index = index_record(len(self), len(self), *sizes, origin or {}, self.reading, several=True)
        write_folder(Path(folder), {name: getattr(self, name) for name in COLUMNS}, index)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Return the embeddings in a folder, mapped into memory: nothing is copied, and changes never reach the files.

        Args:
            folder: A folder that `save` wrote.

        Raises:
            InputError: The folder is missing, unfinished, truncated or inconsistent, or has one label per image.

        Example:
            >>> import tempfile
            >>> import diversify as dv
            >>> train, _, _ = dv.make_multilabel_embeddings()
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     train.save(f"{folder}/train")
            ...     bool((dv.MultilabelEmbeddings.load(f"{folder}/train").labels == train.labels).all())
            True
        """
        columns, index = read_folder(Path(folder), several=True)
        return cls(**columns, reading=Reading.from_dict(index.get("reading")))


def extract_multilabel(
    split: SplitModel,
    loader: Iterable[Any],
    *,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    out: Path | None = None,
    progress: Progress | None = None,
    fingerprint: str = "",
    image_key: Key | None = None,
    label_key: Key | None = None,
) -> MultilabelEmbeddings:
    """Return features, logits and multi-hot labels of every image in a loader.

    No state of the model, the loader or a random generator changes.

    Args:
        split: From `split_head`; the head has one output per label, and the model returns its logits or their sigmoid.
        loader: A `DataLoader`, or any iterable of batches `(images, labels)` or mappings, as in `extract`; labels are 0
            or 1, `(N, C)`.
        device: Where to run; None means where the model is. On another device, a copy of the model runs.
        precision: "fp32", "bf16" or "auto", as in `extract`.
        out: A folder for the arrays, from which an interrupted extraction resumes, as in `extract`.
        progress: Called as `progress(rows_done, rows)` after each batch; `rows` is None where it is unknown.
        fingerprint: Identifies the data and its transform; kept in `out`.
        image_key: Key or position of the images in a batch, if it is not a usual one.
        label_key: Key or position of the labels.

    Returns:
        The embeddings, on the CPU, in the order of the loader.

    Raises:
        InputError: Labels are not 0 or 1 for each output of the head, features are not finite, an image is visited twice,
            the model returns a softmax, or it does not accept the images.

    See Also:
        `extract`, for one label per image.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> import diversify as dv
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])
        >>> model = dv.build_model("small_cnn", num_classes=3, channels=3)
        >>> loader = DataLoader(TensorDataset(images, labels), batch_size=2)
        >>> dv.extract_multilabel(dv.split_head(model), loader).labels.sum(1).tolist()
        [2, 0, 1, 3]
    """
    if read_head(split.head).single_logit:
        raise must("head", "have one output for each of several labels", 1, "use dv.extract for a binary classifier")
    form = BatchForm(image_key=image_key, label_key=label_key, several=True)
    columns, reading = read_all(
        split, loader, form, device=device, precision=precision, out=out, progress=progress, fingerprint=fingerprint
    )
    return MultilabelEmbeddings(**columns, reading=reading)
