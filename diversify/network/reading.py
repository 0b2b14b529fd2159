"""How a loader gave the rows of embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import must

_BY_CLASS = ("left_out_by_class", "unreadable_by_class", "other_labels_by_class")
_NUMBERS = ("left_out", "repeated", "last_batch", "unreadable", "shared", "other_labels")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The way in which a loader gave the rows of embeddings.

    Attributes:
        indices_known: True if `Embeddings.indices` are the images' places in the loader's data set; False if they only
            number the rows.
        left_out: How many images of the data set the loader did not give.
        left_out_by_class: The same for each class; None where the classes are not known.
        repeated: How many rows show an image that another row shows already.
        last_batch: How many images of an incomplete last batch were read although the loader has `drop_last=True`.
        unreadable: How many images `skip_bad` left out of the data set, because they cannot be read.
        unreadable_by_class: The same for each class; None where the classes are not known.
        augmented_by: Random transforms of the data set, as far as they can be recognised.
        other_labels: How many rows have another label than the data set shows for their image.
        other_labels_by_class: The same for each class that the data set shows; None where that is not known.
        shared: Of held-out rows, how many show a training image.

    Example:
        >>> Reading(left_out=3, left_out_by_class=(0, 3)).lost(1)
        3
    """

    indices_known: bool = True
    left_out: int = 0
    left_out_by_class: tuple[int, ...] | None = None
    repeated: int = 0
    last_batch: int = 0
    unreadable: int = 0
    unreadable_by_class: tuple[int, ...] | None = None
    augmented_by: tuple[str, ...] = ()
    shared: int = 0
    other_labels: int = 0
    other_labels_by_class: tuple[int, ...] | None = None

    def lost(self, label: int) -> int | None:
        """Return how many images of a class the loader left out; None where that is not known.

        Args:
            label: The class.
        """
        if not self.left_out:
            return 0
        return None if self.left_out_by_class is None else self.left_out_by_class[label]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        by_class = {name: getattr(self, name) for name in _BY_CLASS}
        lists = {name: None if each is None else list(each) for name, each in by_class.items()}
        return asdict(self) | lists | {"augmented_by": list(self.augmented_by)}

    @classmethod
    def from_dict(cls, record: object) -> Reading:
        """Return the reading that `to_dict` was called on; None, as in older files, gives the default.

        Raises:
            InputError: A field is missing or damaged.
        """
        if record is None:
            return cls()
        law, fields = "be one that this library wrote", _NUMBERS
        if not isinstance(record, Mapping):
            raise must("reading of embeddings", law, type(record).__name__)
        numbers = [record.get(name, 0) for name in fields]
        known = record.get("indices_known", True)
        by_class = {name: record.get(name) for name in _BY_CLASS}
        listed = [number for each in by_class.values() if isinstance(each, list) for number in each]
        names = record.get("augmented_by", [])
        named = isinstance(names, list) and all(isinstance(each, str) for each in names)
        if (
            not all(type(each) is int and each >= 0 for each in [*numbers, *listed])
            or type(known) is not bool
            or not named
            or not all(each is None or isinstance(each, list) for each in by_class.values())
        ):
            raise must("reading of embeddings", law, dict(record))
        lists: dict[str, Any] = {name: None if each is None else tuple(each) for name, each in by_class.items()}
        return cls(indices_known=known, augmented_by=tuple(names), **dict(zip(fields, numbers, strict=True)), **lists)
