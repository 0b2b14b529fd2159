"""A data set without the images that cannot be read, and the list of those that were left out."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision.datasets import DatasetFolder
from torchvision.datasets.folder import default_loader

from ..errors import InputError, must
from ..runtime.progress import Progress, Ticker
from ..runtime.randomness import random_state_kept
from ..runtime.user_code import describe
from .decode import what_is_wrong
from .examples import IMAGE_KEYS, Key, require_map_style
from .images import in_threads
from .labels import shown_labels

_SHOWN = 3  # images named in the warning


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """An image that cannot be read.

    Attributes:
        index: Its place in the data set that was given.
        name: The path of its file, or "row N".
        label: Its class; None where the data set shows no labels.
        reason: Why it cannot be read.

    Example:
        >>> str(LeftOut(index=3, name="row 3", label=1, reason="damaged"))
        'row 3 (damaged)'
    """

    index: int
    name: str
    label: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


class Readable(Subset[Any]):
    """The examples of a data set that can be read, in their order; made by `skip_bad`.

    Attributes:
        left_out: The images that cannot be read.

    Example:
        >>> readable = Readable(["a", "b"], [1], [LeftOut(index=0, name="row 0", label=None, reason="damaged")])
        >>> list(readable), len(readable.left_out)
        (['b'], 1)
    """

    def __init__(self, dataset: Any, indices: Sequence[int], left_out: Sequence[LeftOut]) -> None:
        super().__init__(dataset, indices)
        self.left_out = tuple(left_out)

    @property
    def classes(self) -> Any:
        """The names of the classes, where the data set below has them."""
        return self.dataset.classes  # type: ignore[attr-defined]

    def left_out_by_class(self) -> dict[int | None, int]:
        """Return the number of images left out of each class; under None those whose class is not known."""
        return dict(
            sorted(Counter(each.label for each in self.left_out).items(), key=lambda one: (one[0] is None, one))
        )


def skip_bad(dataset: Dataset[Any], *, image_key: Key | None = None, progress: Progress | None = None) -> Readable:
    """Return a data set without the images that cannot be read; a warning and `left_out` name those.

    Every image is read once: the files of torchvision's `ImageFolder` by its own loader, without its transform, and the
    examples of any other data set as they are. An example cannot be read if that raises an error, or if it, or its image,
    is None. `labels_of`, `extract` and `DiversifySampler` take the data set as they take any other, and a diagnosis says
    how many images were left out, and of which classes.

    Args:
        dataset: Of map-style.
        image_key: Key of the image where examples are mappings; by default a usual one, such as `image`.
        progress: Called as `progress(images done, images in total)`.

    Returns:
        The images that can be read, in their order.

    Raises:
        InputError: The data set has no length and index, no example with this key, or no image that can be read.

    Warns:
        UserWarning: Images are left out.

    Example:
        >>> import torch, warnings, diversify as dv
        >>> class Photos(torch.utils.data.Dataset):
        ...     labels = [0, 1, 1]
        ...     def __len__(self):
        ...         return 3
        ...     def __getitem__(self, row):
        ...         if row == 1:
        ...             raise OSError("image file is truncated")
        ...         return torch.zeros(3, 8, 8), self.labels[row]
        >>> with warnings.catch_warnings(action="ignore"):
        ...     photos = dv.skip_bad(Photos())
        ...     len(photos), dv.labels_of(photos).tolist(), str(photos.left_out[0])
        (2, [0, 1], 'row 1 (OSError: image file is truncated)')
    """
    require_map_style(dataset)
    wrong = unreadable_rows(dataset, progress, image_key=image_key)
    rows = len(dataset)  # type: ignore[arg-type]
    if len(wrong) == rows:
        first = next(iter(wrong.values()), "it is empty")
        raise must("skip_bad", "leave the data set an image", f"none of {rows:,}", f"the first: {first}")
    labels = _labels_of(dataset) if wrong else None
    left_out = [
        LeftOut(index=row, name=_name(dataset, row), label=None if labels is None else labels[row], reason=reason)
        for row, reason in wrong.items()
    ]
    readable = Readable(dataset, [row for row in range(rows) if row not in wrong], left_out)
    if left_out:
        warnings.warn(_in_words(readable, rows), stacklevel=2)
    return readable


def left_out_below(dataset: Any) -> list[LeftOut]:
    """Return the images that `skip_bad` left out of a data set, or of the data sets that it is made from.

    Args:
        dataset: Any data set; those below it are in attributes `dataset` and `datasets`, as in `Subset` and `ConcatDataset`.

    Example:
        >>> bad = LeftOut(index=0, name="row 0", label=None, reason="damaged")
        >>> left_out_below(Subset(Readable(["a", "b"], [1], [bad]), [0])) == [bad]
        True
    """
    if isinstance(dataset, Readable):
        return [*dataset.left_out, *left_out_below(dataset.dataset)]
    parts = dataset.datasets if isinstance(dataset, ConcatDataset) else [getattr(dataset, "dataset", None)]
    return [each for part in parts if part is not None for each in left_out_below(part)]


def unreadable_rows(dataset: Any, progress: Progress | None = None, *, image_key: Key | None = None) -> dict[int, str]:
    """Return the rows of a data set that cannot be read, with the reason; no random state changes.

    Args:
        dataset: Of map-style.
        progress: Called as `progress(images done, images in total)`.
        image_key: Key of the image where examples are mappings.

    Example:
        >>> unreadable_rows([(0.5, 1), None])
        {1: 'no image'}
    """
    rows = len(dataset)
    tick = Ticker(progress, rows)
    plain = isinstance(dataset, DatasetFolder) and type(dataset).__getitem__ is DatasetFolder.__getitem__
    with random_state_kept(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        if plain and dataset.loader is default_loader:
            found = in_threads(lambda row: _failure(lambda: default_loader(dataset.samples[row][0])), rows, tick)
        else:
            found = []
            for row in range(rows):
                read = (lambda row: dataset.loader(dataset.samples[row][0])) if plain else dataset.__getitem__
                found.append(_failure(lambda row=row, read=read: read(row), image_key))  # type: ignore[misc]
                tick()
    return {row: reason for row, reason in enumerate(found) if reason is not None}


def _failure(read: Callable[[], Any], image_key: Key | None = None) -> str | None:
    """The reason why an example cannot be read; None if it can."""
    try:
        example = read()
    except MemoryError:
        raise
    except Exception as error:  # decoders and the user's data set may raise anything
        cause = error.__cause__ if isinstance(error, InputError) and isinstance(error.__cause__, Exception) else error
        return what_is_wrong(cause, describe(cause))
    if image_key is not None and isinstance(example, Mapping):
        if image_key not in example:
            return f"no entry {image_key!r} among {', '.join(map(str, example))}"
        image = example[image_key]
    elif isinstance(example, Mapping):
        image = next((example[key] for key in IMAGE_KEYS if key in example), example)
    else:
        image = example[0] if isinstance(example, tuple | list) and example else example
    return "no image" if image is None else None


def _name(dataset: Any, row: int) -> str:
    if type(dataset) is Subset:
        return _name(dataset.dataset, int(dataset.indices[row]))
    return str(dataset.samples[row][0]) if isinstance(dataset, DatasetFolder) else f"row {row}"


def _labels_of(dataset: Any) -> list[int] | None:
    """The labels of the data set; None if it shows none."""
    try:
        return [int(label) for label in shown_labels(dataset)[0]]
    except Exception:  # the user's data set may raise anything where it is asked for its labels
        return None


def _in_words(readable: Readable, rows: int) -> str:
    below: Any = readable.dataset
    names = getattr(below, "classes", None) if getattr(below, "target_transform", None) is None else None
    named = [
        f"{names[label] if isinstance(names, list | tuple) and label is not None else f'class {label}'} {number:,}"
        for label, number in readable.left_out_by_class().items()
        if label is not None
    ]
    shown = ", ".join(map(str, readable.left_out[:_SHOWN])) + ", ..." * (len(readable.left_out) > _SHOWN)
    of = f" ({', '.join(named)})" if named else ""
    number = len(readable.left_out)
    return f"left out: {number:,} of {rows:,} images that cannot be read{of}: {shown}"
