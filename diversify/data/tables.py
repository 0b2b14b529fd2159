"""Data sets whose examples are dicts with named columns, as in Hugging Face's `datasets`; recognised by their attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, must
from ..runtime.progress import StageProgress, Ticker, stage
from ..runtime.user_code import describe, is_passed_on
from .decode import Size, as_rgb_image, check_pil, is_pil, what_is_wrong
from .images import Images, Shape

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")


class Table(Images):
    """The images of one column, with their labels; PIL images are read as image files are, `(3, H, W)` uint8.

    `check_tables` sets `sizes`, the (width, height) of each image.

    Args:
        rows: The user's data set.
        column: The column of images.
        labels: `(N,)` int64.
        shape: Resizes and crops each image; None leaves it as it is stored.
        positions: The rows of the user's data set to use; all by default.
    """

    def __init__(
        self,
        rows: Any,
        column: str,
        labels: Tensor,
        shape: Shape | None = None,
        *,
        positions: Sequence[int] | None = None,
    ) -> None:
        self.rows, self.column, self.targets, self.shape, self.positions = rows, column, labels, shape, positions
        self.sizes: list[Size | None] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.read(index)
        return (self.shape(image) if self.shape else image), self.targets[index]

    def read(self, index: int) -> Tensor:
        """Return an image without resize or crop."""
        try:
            return as_rgb_image(self._stored(index))
        except InputError as error:
            raise InputError(f"{error} ({self.name(index)})") from error

    def name(self, index: int) -> str:
        """Return "row N" of the user's data set."""
        return f"row {self._position(index)}"

    def _position(self, index: int) -> int:
        return int(index) if self.positions is None else self.positions[int(index)]

    def _stored(self, index: int) -> Any:
        try:
            return self.rows[self._position(index)][self.column]
        except Exception as error:  # decoders and the user's transform may raise anything
            if is_passed_on(error):
                raise
            raise must("an image of the data set", "be a readable image", describe(error)) from error

    def holds_pil(self) -> bool:
        """True if the first image that can be read is a PIL image."""
        for index in range(len(self)):
            try:
                stored = self._stored(index)
            except InputError:
                continue
            if stored is not None:
                return is_pil(stored)
        return True  # none can be read, which `check_tables` reports

    def look(self, index: int) -> tuple[Size | None, str | None]:
        """Return the (width, height) of an image, or the reason why it cannot be read."""
        try:
            stored = self.rows[self._position(index)][self.column]
            if is_pil(stored):
                return check_pil(stored), None
            if stored is None:
                return None, "no image"
            image = as_rgb_image(stored)
        except InputError as error:
            return None, str(error).rpartition(", got ")[2]
        except Exception as error:  # decoders and the user's transform may raise anything
            if is_passed_on(error):
                raise
            return None, what_is_wrong(error, describe(error))
        return (image.shape[2], image.shape[1]), None

    def shaped(self, shape: Shape) -> Table:
        """Return the same images, resized and cropped by `shape`."""
        return self._with(shape=shape)

    def relabelled(self, labels: Tensor) -> Table:
        """Return the same images with other labels."""
        return self._with(labels=labels)

    def chosen(self, rows: Sequence[int]) -> Table:
        """Return some of the images, in this order."""
        table = Table(
            self.rows,
            self.column,
            self.targets[torch.as_tensor(rows)],
            self.shape,
            positions=[self._position(row) for row in rows],
        )
        table.sizes = None if self.sizes is None else [self.sizes[row] for row in rows]
        return table

    def _with(self, *, labels: Tensor | None = None, shape: Shape | None = None) -> Table:
        table = Table(
            self.rows,
            self.column,
            self.targets if labels is None else labels,
            shape or self.shape,
            positions=self.positions,
        )
        table.sizes = self.sizes
        return table


def check_tables(parts: Sequence[Table], progress: StageProgress | None = None) -> list[dict[int, str]]:
    """Read every image once, and return for each table the rows that cannot be read, with the reason.

    Sets `sizes` of every table. Images are read one after the other, because the user's own code may run for each.

    Args:
        parts: The tables to check.
        progress: Called with ("checking images", images done, images in total).
    """
    tick = Ticker(stage(progress, "checking images"), sum(map(len, parts)))
    bad = []
    for part in parts:
        seen = []
        for start in range(0, len(part), 100):
            rows = range(start, min(start + 100, len(part)))
            seen += [part.look(index) for index in rows]
            tick(len(rows))
        part.sizes = [size for size, _ in seen]
        bad.append({row: wrong for row, (_, wrong) in enumerate(seen) if wrong is not None})
    return bad


def is_table(dataset: object) -> bool:
    """True if the examples are dicts with named columns: the data set names its columns and their types, and has an index."""
    return all(hasattr(dataset, name) for name in ("column_names", "features", "__getitem__", "__len__"))


def is_transformed(rows: Any) -> bool:
    """True if a function of the user's own changes the examples when they are read, as `set_transform` of Hugging Face does."""
    form = getattr(rows, "format", None)
    return isinstance(form, Mapping) and form.get("type") == "custom"


def stored(rows: Any) -> Any:
    """Return the data set without such a function, and without another format of its examples."""
    return rows.with_format(None) if callable(getattr(rows, "with_format", None)) else rows


def image_column(rows: Any) -> str:
    """Return the column of images: `image`, `img`, or the only column with PIL images."""
    names = list(rows.column_names)
    for name in IMAGE_COLUMNS:
        if name in names:
            return name
    first = rows[0]
    found = [name for name in names if is_pil(first[name])]
    if len(found) != 1:
        law = "have its images in a column `image` or `img`, or in its only column of images"
        raise must("data set", law, f"columns {', '.join(names)}")
    return str(found[0])


def label_column(rows: Any) -> str:
    """Return the column of labels: `label`, `labels`, `fine_label`, or the only column whose classes have names."""
    names = list(rows.column_names)
    for name in LABEL_COLUMNS:
        if name in names:
            return name
    found = [name for name in names if _class_names(rows, name) is not None]
    if len(found) != 1:
        law = "have its labels in a column `label`, `labels` or `fine_label`, or in its only column of classes"
        raise must("data set", law, f"columns {', '.join(names)}")
    return str(found[0])


def table_labels(rows: Any) -> Any:
    """Return the labels as the column stores them; no image is decoded, and no transform of the user's is called."""
    name = label_column(rows)
    column = stored(rows)[name]
    labels = column[:] if hasattr(column, "__getitem__") else list(column)
    text = next((label for label in labels if isinstance(label, str)), None) if isinstance(labels, list) else None
    if text is not None:
        raise must(f"column {name}", "hold integers", repr(text), f"dataset.class_encode_column({name!r}) makes them")
    return labels


def table_class_names(rows: Any) -> list[str] | None:
    """Return the names of the classes; None if the label column has none."""
    return _class_names(rows, label_column(rows))


def _class_names(rows: Any, column: str) -> list[str] | None:
    names = getattr((rows.features or {}).get(column), "names", None)
    return None if names is None else [str(name) for name in names]
