"""Images without labels: a folder of files, an array, or the training images of a data source."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from ..errors import must
from ..files import arrays
from ..functional.groups import group_numbers
from ..runtime.progress import StageProgress
from .image_folder import files_below
from .images import IMAGE_ENDINGS, ImageArray, ImageFiles, Images
from .loader import Split
from .prepare import readable, require_one_size, shaped, with_labels, with_test
from .public import read_source
from .saved_tables import is_saved
from .sources import Source, image_array, on_one_line
from .view import View


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolImages:
    """Images to choose from.

    Attributes:
        split: The images, with 0 in place of every label; `indices` count the images of the source, and `groups` are those
            that it gives.
        names: The path of each image, "" if it has none.
        skipped: Files that cannot be read and were left out.
    """

    split: Split
    names: tuple[str, ...]
    skipped: tuple[str, ...] = ()


def read_pool(
    spec: str,
    view: View | None,
    *,
    root: Path | str = "data",
    skip_bad: bool = False,
    progress: StageProgress | None = None,
) -> PoolImages:
    """Read images without labels, resized and cropped as a network sees them.

    Args:
        spec: `folder:DIR`, every image file in the folder and its subfolders; `npz:FILE`, the array `images`, and `groups` if
            there is one (without `images`, `train_images` and `train_groups`); or another data source of `load_data`, whose
            training images are taken and whose labels are not used.
        view: The preprocessing; None leaves images as the source gives them.
        root: Folder of the public data sets.
        skip_bad: Leave out images that cannot be read.
        progress: Called with ("checking images", images done, images in total).

    Raises:
        InputError: The source is unknown, missing or damaged, or has no images.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/pool.npz", images=np.zeros((5, 8, 8), np.uint8))
        ...     len(read_pool(f"npz:{folder}/pool.npz", None).split)
        5
    """
    source, groups = _source(spec, Path(root))
    source, positions, skipped = readable(source, spec, skip_bad, progress)
    require_one_size(source, view, "bring images of one size, or diagnose the model with resize=N and crop=N")
    dataset, _ = source.splits["train"]
    if not len(dataset):  # type: ignore[arg-type]
        raise must("pool", "have images", f"none in {spec}")
    names = tuple(_name(dataset, row) for row in range(len(dataset)))  # type: ignore[arg-type]
    labels = torch.zeros(len(names), dtype=torch.int64)
    indices = positions.get("train", torch.arange(len(names)))
    split = Split(
        dataset=with_labels(shaped(dataset, view), labels),
        labels=labels,
        indices=indices,
        origin="source",
        source="pool",
        groups=None if groups is None else groups[indices],
    )
    return PoolImages(split=split, names=names, skipped=skipped)


def _source(spec: str, root: Path) -> tuple[Source, Tensor | None]:
    kind, _, place = spec.partition(":")
    if kind == "folder" and place and not is_saved(Path(place)):
        return _files(Path(place)), None
    if kind == "npz" and place:
        return _array(Path(place))
    source = with_test(read_source(spec, root, name="pool"))
    dataset, labels = source.splits["train"]
    unlabelled = dataclasses.replace(source, splits={"train": (dataset, torch.zeros_like(labels))}, groups={})
    return unlabelled, source.groups.get("train")


def _files(top: Path) -> Source:
    """The image files below a folder."""
    if not top.is_dir():
        raise must("pool", "be an existing folder", top)
    paths = [path for path in files_below(top) if path.suffix.lower() in IMAGE_ENDINGS]
    if not paths:
        raise must("pool", f"have image files ({' '.join(IMAGE_ENDINGS)})", f"none in {top}")
    return _unlabelled(ImageFiles(paths, torch.zeros(len(paths), dtype=torch.int64), top=top))


def _array(path: Path) -> tuple[Source, Tensor | None]:
    """The array `images` or `train_images` of a file, and its groups."""
    found = arrays.read_columns(path, ("images", "groups", "train_images", "train_groups"), "pool")
    before = "" if "images" in found else "train_"
    if f"{before}images" not in found:
        raise must("pool", "hold the array images", f"none in {path}")
    images = image_array(f"{before}images", found[f"{before}images"])
    own = found.get(f"{before}groups")
    groups = None if own is None else group_numbers(f"{before}groups", own, rows=len(images))
    return _unlabelled(ImageArray(images, torch.zeros(len(images), dtype=torch.int64))), groups


def _unlabelled(dataset: Images) -> Source:
    return Source(splits={"train": (dataset, torch.zeros(len(dataset), dtype=torch.int64))})  # type: ignore[arg-type]


def _name(dataset: Images, row: int) -> str:
    return on_one_line(dataset.name(row)) if isinstance(dataset, ImageFiles) else ""
