"""Embeddings of images with several labels each, and how they are read from a model and a loader."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from ..errors import must
from ..functional.multilabel import read_multilabels
from ..runtime.progress import Progress
from ..runtime.signals import stop_if_interrupted
from .batches import BatchForm, Collate, Key
from .embeddings import Reading, require_finite
from .extraction import taking, unchanged_randomness
from .linear_head import LinearHead
from .split import SplitModel
from .wrappers import evaluating


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
        rows = len(self.features) if isinstance(self.features, Tensor) and self.features.ndim else 0
        for name, values, ndim, dtype in (
            ("features", self.features, 2, torch.float32),
            ("labels", self.labels, 2, torch.bool),
            ("logits", self.logits, 2, torch.float32),
            ("indices", self.indices, 1, torch.int64),
        ):
            if not isinstance(values, Tensor):
                raise must(name, "be a tensor", type(values).__name__)
            if values.ndim != ndim or values.dtype != dtype:
                law = f"be {str(dtype).removeprefix('torch.')} of {ndim} dimension{'s' * (ndim > 1)}"
                got = f"{str(values.dtype).removeprefix('torch.')} of shape {tuple(values.shape)}"
                raise must(name, law, got)
            if len(values) != rows:
                raise must(name, f"have one row per image, {rows}", len(values))
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


def extract_multilabel(
    split: SplitModel,
    loader: Iterable[Any],
    *,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
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
        progress: Called as `progress(rows_done, rows)` after each batch; `rows` is None where it is unknown.
        image_key: Key or position of the images in a batch, if it is not a usual one.
        label_key: Key or position of the labels.

    Returns:
        The embeddings, on the CPU, in the order of the loader.

    Raises:
        InputError: Labels are not 0 or 1 for each output of the head, features are not finite, an image is visited twice,
            or the model does not accept the images.

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
    target = torch.device(device) if device is not None else split.device
    net = split if target == split.device else copy.deepcopy(split).to(target)
    form = BatchForm(image_key=image_key, label_key=label_key)
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    done = 0
    with unchanged_randomness(target, loader), evaluating(net):
        places = _places_of(loader)
        rows = None if places is None else sum(map(len, places))
        for number, (batch, chosen) in enumerate(_read(loader, places, form)):
            stop_if_interrupted()
            images = form.images(batch)
            name = "labels" if number == 0 else f"labels of batch {number}"
            labels = read_multilabels(name, form.labels(batch), rows=len(images))
            with torch.inference_mode():
                moved = images.to(target, net.dtype if images.is_floating_point() else None, non_blocking=True)
                with taking(moved) if number == 0 else contextlib.nullcontext():
                    features, logits = net(moved)
            if labels.shape != logits.shape:
                law = f"have one column per output of the head, {logits.shape[1]}"
                raise must(name, law, labels.shape[1])
            indices = torch.arange(done, done + len(labels)) if chosen is None else torch.tensor(chosen)
            parts.append((features.float().cpu(), labels, logits.float().cpu(), indices))
            done += len(labels)
            if progress is not None:
                progress(done, rows)
        net.finish_check()
    if not done:
        raise must("loader", "yield at least one image", 0)
    features, labels, logits, indices = (torch.cat(each).clone() for each in zip(*parts, strict=True))
    size = _size_of(loader)
    reading = Reading(
        indices_known=places is not None,
        left_out=0 if size is None else max(0, size - done),
        repeated=0 if size is None else max(0, done - size),
    )
    return MultilabelEmbeddings(features=features, labels=labels, logits=logits, indices=indices, reading=reading)


def _places_of(loader: object) -> list[list[int]] | None:
    """The data-set indices of every batch in the loader's order; None for a loader that does not work by index."""
    if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
        return None
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return None
    sampler: Any = loader.batch_sampler
    if type(sampler) is BatchSampler and sampler.drop_last:
        sampler = BatchSampler(sampler.sampler, sampler.batch_size, drop_last=False)
    seen: set[int] = set()
    batches = []
    for batch in sampler:
        if not all(isinstance(index, int | np.integer) or torch.is_tensor(index) for index in batch):
            return None
        batches.append([int(index) for index in batch])
        for index in batches[-1]:
            if index in seen:
                advice = "pass dv.clean_loader(loader), which reads each image of the data set once"
                raise must("loader", "visit each image at most once", f"index {index} twice", advice)
            seen.add(index)
    return batches


def _read(
    loader: Iterable[Any], places: list[list[int]] | None, form: BatchForm
) -> Iterator[tuple[Any, list[int] | None]]:
    """Each batch with the data-set indices of its images, read by a private copy of the loader; empty ones left out."""
    if places is None or not isinstance(loader, DataLoader):
        yield from ((batch, None) for batch in loader if form.rows(batch) != 0)
        return
    twin: DataLoader[Any] = DataLoader(
        loader.dataset,
        batch_sampler=places,
        num_workers=loader.num_workers,
        collate_fn=Collate(loader.collate_fn, form),
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
    )
    for indices, (batch, kept) in zip(places, twin, strict=True):
        if form.rows(batch) != 0:
            yield batch, indices if kept is None else [indices[place] for place in kept]


def _size_of(loader: object) -> int | None:
    dataset = getattr(loader, "dataset", None)
    try:
        return None if dataset is None or not hasattr(dataset, "__len__") else len(dataset)
    except (TypeError, NotImplementedError):  # a wrapper around a data set without a length
        return None
