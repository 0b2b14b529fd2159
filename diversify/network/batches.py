"""Read images, labels and indices out of a loader's batches, whatever form the batches have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.examples import IMAGE_KEYS as IMAGE_KEYS
from ..data.examples import LABEL_KEYS
from ..data.examples import Key as Key
from ..errors import InputError, must, unknown
from ..functional.labels import read_labels
from ..functional.multilabel import read_multilabels


class Batch(NamedTuple):
    """One batch.

    Attributes:
        images: `(N, ...)`.
        labels: `(N,)` int64; `(N, C)` bool where images have several labels.
        indices: `(N,)` int64, the places of the images in their data set; None where they are not known.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor | None


@dataclass(frozen=True, kw_only=True)
class BatchForm:
    """The places of images, labels and indices in a batch.

    Attributes:
        image_key: Position or key of the images; None for the first entry, or for one of the usual names.
        label_key: Position or key of the labels; None for the second entry, or for one of the usual names.
        index: Position or key of the images' places in the data set; None if the batch has none.
        several: Whether images have several labels each: 0 or 1 for every label.
        class_names: Name of each class, by which labels that are text are numbered.

    Example:
        >>> form = BatchForm(image_key="x")
        >>> batch = form.read({"x": torch.zeros(2, 3, 8, 8), "label": torch.tensor([1, 0])})
        >>> batch.images.shape, batch.labels.tolist(), batch.indices
        (torch.Size([2, 3, 8, 8]), [1, 0], None)
    """

    image_key: Key | None = None
    label_key: Key | None = None
    index: Key | None = None
    several: bool = False
    class_names: tuple[str, ...] | None = None

    def images(self, batch: object) -> Tensor:
        """Return the images of a batch.

        Raises:
            InputError: It holds none, or they are no tensor.
        """
        images = _part(batch, self.image_key, "image_key", 0, IMAGE_KEYS)
        if not isinstance(images, Tensor) or images.ndim < 1:
            raise must("loader", "yield batches of images as a tensor (N, ...) with labels", _describe(batch))
        return images

    def labels(self, batch: object) -> object:
        """Return the labels of a batch as it holds them, in whatever form.

        Raises:
            InputError: It holds none.
        """
        return _part(batch, self.label_key, "label_key", 1, LABEL_KEYS)

    def rows(self, batch: object) -> int | None:
        """Return the number of images in a batch, 0 for None; None if the batch cannot be read."""
        try:
            return 0 if batch is None else len(self.images(batch))
        except InputError:
            return None

    def read(self, batch: object, number: int = 0) -> Batch:
        """Return images, labels and indices of a batch.

        Args:
            batch: A tuple, a list or a mapping.
            number: Number of the batch, for errors.

        Raises:
            InputError: The batch has another form, or its labels are not one class per image, or not 0 or 1 for each label.
        """
        images = self.images(batch)
        name, given = "labels" if number == 0 else f"labels of batch {number}", self.labels(batch)
        labels = (
            read_multilabels(name, given, rows=len(images))
            if self.several
            else _labels(name, given, len(images), self.class_names)
        )
        indices = None
        if self.index is not None:
            found = _part(batch, self.index, "index", None, ())
            indices = _indices(found, len(images))
        return Batch(images, labels, indices)


def _labels(name: str, given: object, rows: int, class_names: tuple[str, ...] | None) -> Tensor:
    """Labels `(N,)` int64; integers stay on their device, and their range is checked later."""
    if isinstance(given, Tensor) and not given.is_floating_point() and not given.is_complex():
        labels = given.squeeze(1) if given.ndim == 2 and given.shape[1] == 1 else given
        if labels.ndim == 1:
            if len(labels) != rows:
                raise must(name, f"have one row per image, {rows}", len(labels))
            return labels.long()
    text = isinstance(given, list | tuple) and any(isinstance(each, str | bytes) for each in given)
    return read_labels(name, given, rows=rows, class_names=class_names if text else None)


def _indices(found: object, rows: int) -> Tensor:
    """Indices `(N,)` int64 on the CPU."""
    values = found if isinstance(found, Tensor) else torch.as_tensor(found) if _are_integers(found) else None
    if values is None or values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        kind = type(found).__name__ if values is None else str(values.dtype).removeprefix("torch.")
        raise must("index", "name integers, the images' places in the data set", kind)
    if values.shape not in ((rows,), (rows, 1)):
        raise must("index", f"name one integer per image, {rows}", f"shape {tuple(values.shape)}")
    return values.reshape(-1).cpu().long()


def _are_integers(found: object) -> bool:
    return isinstance(found, list | tuple) and all(isinstance(each, int) for each in found)


def _part(batch: object, key: Key | None, name: str, place: int | None, usual: Sequence[str]) -> object:
    """The entry of a batch under a key, at its usual place, or under one of the usual names."""
    if isinstance(batch, Mapping):
        if key is not None:
            if key not in batch:
                raise unknown(name, str(key), map(str, batch))
            return batch[key]
        found = [each for each in usual if each in batch]
        what = "images" if name == "image_key" else "labels"
        if len(found) > 1 and name == "image_key":  # decoded images may stand beside those that the model takes
            found = [each for each in found if isinstance(batch[each], Tensor)][:1] or found
        if len(found) > 1 and not all(_are_equal(batch[found[0]], batch[each]) for each in found[1:]):
            got = f"{what} that differ under {' and '.join(found)}"
            raise must("loader", f"yield {what} under one key", got, f"name the entry with {name}=KEY")
        if found:
            return batch[found[0]]
        got = f"a batch of {', '.join(map(str, batch)) or 'nothing'}"
        raise must("loader", f"yield {what} as {' or '.join(usual)}", got, f"name the entry with {name}=KEY")
    where = place if key is None else key
    if not isinstance(batch, list | tuple) or len(batch) < 2:
        raise must("loader", "yield (images, labels), or a mapping that holds both", _describe(batch))
    if not isinstance(where, int) or isinstance(where, bool) or not -len(batch) <= where < len(batch):
        raise must(name, f"be a position in the batch, below {len(batch)}", repr(where))
    return batch[where]


def _are_equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool((one == other).all())
    return one is other or (
        isinstance(one, list | tuple) and isinstance(other, list | tuple) and list(one) == list(other)
    )


def _describe(batch: object) -> str:
    if isinstance(batch, Mapping):
        return "a mapping of " + ", ".join(f"{key} ({type(part).__name__})" for key, part in batch.items())
    if isinstance(batch, list | tuple):
        return f"a {type(batch).__name__} of {', '.join(type(part).__name__ for part in batch) or 'nothing'}"
    return f"a {type(batch).__name__}"


class Collate:
    """A collate function that also says which of its examples are in the batch.

    Where the batch is smaller than the list of examples, each example is collated alone: it was left out if that gives
    None, an empty batch or an error.

    Args:
        collate: The loader's own function.
        form: Where a batch holds its images.
    """

    def __init__(self, collate: Callable[[Any], Any], form: BatchForm) -> None:
        self.collate, self.form = collate, form

    def __call__(self, examples: Sequence[Any]) -> tuple[Any, list[int] | None]:
        """Return the batch, and the places of the examples in it; None where all are."""
        given = list(examples)
        batch = self.collate(examples)
        rows = self.form.rows(batch)
        if rows is None or rows >= len(given):
            return batch, None
        kept = [place for place, example in enumerate(given) if rows and self._keeps(example)]
        if len(kept) != rows:
            law = "give one row per image, or leave out the same images when it gets them alone"
            raise must("collate_fn of the loader", law, f"{rows} rows of {len(given)} images")
        return batch, kept

    def _keeps(self, example: Any) -> bool:
        try:
            return bool(self.form.rows(self.collate([example])))
        except Exception:  # a collate function may raise anything about an empty list
            return False
