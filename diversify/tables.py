"""Data sets whose examples are dicts with named columns, as Hugging Face's `datasets` has them, known by their look."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .errors import InputError, must
from .images import Images, Shape, as_rgb_image, is_pil
from .importing import describe, is_passed_on

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")


class Table(Images):
    """The images of one column, with their labels; Pillow's images are read as image files are, `(3, H, W)` uint8."""

    def __init__(self, rows: Any, column: str, labels: Tensor, shape: Shape | None = None) -> None:
        self.rows, self.column, self.targets, self.shape = rows, column, labels, shape

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.read(index)
        return (self.shape(image) if self.shape else image), self.targets[index]

    def read(self, index: int) -> Tensor:
        """The image as it is stored, neither resized nor cropped."""
        try:
            return as_rgb_image(self._stored(index))
        except InputError as error:
            raise InputError(f"{error} (row {index})") from error

    def _stored(self, index: int) -> Any:
        try:
            return self.rows[int(index)][self.column]
        except Exception as error:  # whatever decoding, or the user's own transform, raises
            if is_passed_on(error):
                raise
            raise must("an image of the data set", "be a readable image", describe(error)) from error

    def holds_pil(self) -> bool:
        """Whether the first image is Pillow's."""
        return is_pil(self._stored(0))

    def shaped(self, shape: Shape) -> Table:
        """The same images, each resized and cropped."""
        return Table(self.rows, self.column, self.targets, shape)

    def relabelled(self, labels: Tensor) -> Table:
        """The same images with other labels."""
        return Table(self.rows, self.column, labels, self.shape)


def is_table(dataset: object) -> bool:
    """Whether examples are dicts with named columns: it names its columns and what each holds, and can be indexed."""
    return all(hasattr(dataset, name) for name in ("column_names", "features", "__getitem__", "__len__"))


def image_column(rows: Any) -> str:
    """`image`, `img`, or the only column with Pillow's images."""
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
    """`label`, `labels`, `fine_label`, or the only column whose classes have names."""
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
    """The labels as the column has them, whole; no image is decoded."""
    name = label_column(rows)
    column = rows[name]
    labels = column[:] if hasattr(column, "__getitem__") else list(column)
    text = next((label for label in labels if isinstance(label, str)), None) if isinstance(labels, list) else None
    if text is not None:
        raise must(f"column {name}", "hold integers", repr(text), f"dataset.class_encode_column({name!r}) makes them")
    return labels


def table_class_names(rows: Any) -> list[str] | None:
    """The names of the classes, where the label column has them."""
    return _class_names(rows, label_column(rows))


def _class_names(rows: Any, column: str) -> list[str] | None:
    names = getattr((rows.features or {}).get(column), "names", None)
    return None if names is None else [str(name) for name in names]
