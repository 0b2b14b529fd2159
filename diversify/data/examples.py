"""Read the image and the label of one example, a pair or a mapping, and put another image in its place."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, must, unknown

IMAGE_KEYS = ("pixel_values", "image", "images", "img")
LABEL_KEYS = ("labels", "label", "target", "targets")

Key = int | str
"""A place in an example or in a batch: a position, or a key of a mapping."""


def require_map_style(dataset: object) -> None:
    """Raise an InputError unless a data set has a length and an index by number.

    Args:
        dataset: The data set.

    Raises:
        InputError: It is a stream, or holds several data sets by name, as `DatasetDict` of Hugging Face does.

    Example:
        >>> require_map_style([(0.5, 1)])
    """
    law, name = "be map-style, with a length and an index", type(dataset).__name__
    if isinstance(dataset, Mapping) and any(isinstance(key, str) for key in dataset):
        splits = [str(key) for key in dataset]
        raise must("data set", law, f"a {name} of {', '.join(splits)}", f"pass one of them, such as [{splits[0]!r}]")
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise must("data set", law, name)


@dataclass(frozen=True, kw_only=True)
class ExampleForm:
    """Where the examples of a data set hold their image and their label.

    Attributes:
        image_key: Key of the image in a mapping; None for the one among `IMAGE_KEYS`. The image of a pair comes first.
        label_key: Key of the label in a mapping; None for the one among `LABEL_KEYS` and `fine_label`.

    Example:
        >>> form = ExampleForm()
        >>> example = {"image": "pixels", "label": 3, "file": "a.png"}
        >>> form.image(example, 0), form.label(example, 0)
        ('pixels', 3)
        >>> form.with_image(example, "others")
        {'image': 'others', 'label': 3, 'file': 'a.png'}
    """

    image_key: Key | None = None
    label_key: Key | None = None

    def image(self, example: Any, row: int) -> Any:
        """Return the image of an example.

        Args:
            example: The example.
            row: Its place in the data set, for errors.

        Raises:
            InputError: It holds no image, or several entries may be meant.
        """
        return example[self._image_key(example, row)]

    def label(self, example: Any, row: int) -> Any:
        """Return the label of an example, in whatever form.

        Args:
            example: The example.
            row: Its place in the data set, for errors.

        Raises:
            InputError: It holds no label, or several entries may be meant.
        """
        if isinstance(example, Mapping):
            return example[_key(example, self.label_key, "label_key", (*LABEL_KEYS, "fine_label"), row)]
        return _pair(example, row)[1]

    def with_image(self, example: Any, image: Any, row: int = 0) -> Any:
        """Return the example with another image, and all else as it is; the example itself does not change.

        Args:
            example: The example.
            image: The image to put in.
            row: Its place in the data set, for errors.

        Raises:
            InputError: It holds no image, or several entries may be meant.
        """
        key = self._image_key(example, row)
        if isinstance(example, Mapping):
            made: Any = dict(example) if type(example) is dict else copy.copy(example)
            try:
                made[key] = image
            except TypeError:  # a mapping that cannot be written
                return {**example, key: image}
            return made
        others = [image, *example[1:]]
        return others if isinstance(example, list) else tuple(others)

    def _image_key(self, example: Any, row: int) -> Any:
        if isinstance(example, Mapping):
            return _key(example, self.image_key, "image_key", IMAGE_KEYS, row)
        _pair(example, row)
        return 0


def _key(example: Mapping[Any, Any], key: Key | None, name: str, usual: Sequence[str], row: int) -> Any:
    """The key that was given, or the one usual key that the example has."""
    if key is not None:
        if key not in example:
            raise InputError(f"{unknown(name, str(key), map(str, example))} (at row {int(row)})")
        return key
    found = [each for each in usual if each in example]
    if len(found) != 1:
        what = "image" if name == "image_key" else "label"
        got = f"{' and '.join(found) or ', '.join(map(str, example)) or 'nothing'} at row {int(row)}"
        law = f"hold its {what} under one of {', '.join(usual)}"
        raise must("an example of the data set", law, got, f"name the entry with {name}=KEY")
    return found[0]


def _pair(example: Any, row: int) -> Any:
    if not isinstance(example, tuple | list) or len(example) < 2:
        got = f"{type(example).__name__} at row {int(row)}"
        raise must("an example of the data set", "be a pair (image, label), or a mapping that holds both", got)
    return example
