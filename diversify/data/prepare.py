"""Steps between a `Source` and its splits: unreadable images, label numbers, a test set, and one image size."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.utils.data import Subset

from ..errors import InputError, must
from ..runtime.progress import StageProgress, stage
from .decode import Size
from .images import ImageArray, ImageFiles, Images, Own, Relabelled, check_files, with_some_sizes
from .imbalance import holdout_indices
from .skip_bad import unreadable_rows
from .sources import Source, listed, on_one_line
from .tables import Table, check_tables
from .view import View

_FIRST = 64  # files whose size is looked at before all are read


def readable(
    source: Source, spec: str, skip_bad: bool, progress: StageProgress | None
) -> tuple[Source, dict[str, Tensor], tuple[str, ...]]:
    """Check every image file and PIL image, and leave out those that cannot be read if `skip_bad`.

    Data sets of the user's own are only read here, example by example, if `skip_bad`.

    Returns:
        The source with the readable images; for each split that was checked and lost images, the row in the source's list
        of each image that is left; and the names of the images left out.

    Raises:
        InputError: Images cannot be read and `skip_bad` is False, or a class would have no training image left.
    """
    files = {name: part for name, (part, _) in source.splits.items() if isinstance(part, ImageFiles)}
    tables = {name: part for name, (part, _) in source.splits.items() if isinstance(part, Table) and part.holds_pil()}
    own = {name: part for name, (part, _) in source.splits.items() if skip_bad and isinstance(part, Own)}
    parts: dict[str, ImageFiles | Table | Own] = {**files, **tables, **own}
    wrong = dict(zip(files, check_files(list(files.values()), progress), strict=True)) if files else {}
    wrong |= zip(tables, check_tables(list(tables.values()), progress), strict=True)
    wrong |= {name: unreadable_rows(part, stage(progress, "checking images")) for name, part in own.items()}
    named = [
        (on_one_line(_row_name(part, row) + (f" of {split}" if split not in files else "")), why)
        for split, part in parts.items()
        for row, why in wrong[split].items()
    ]
    if not named:
        return source, {}, ()
    kind = "image file" if files else "image"
    if not skip_bad:
        got = f"{len(named):,} that cannot be read: {listed([f'{name} ({why})' for name, why in named])}"
        raise must(f"{kind}s of {spec}", "be readable images", got, "pass skip_bad=True to leave them out")
    splits = dict(source.splits)
    positions = {}
    for split, part in parts.items():
        kept = torch.tensor([row for row in range(len(part)) if row not in wrong[split]], dtype=torch.int64)
        if not len(kept):
            raise must("skip_bad", f"leave {split} an image", f"none of {len(part):,} {kind.split()[-1]}s")
        positions[split] = kept
        chosen = Subset(part, kept.tolist()) if isinstance(part, Own) else part.chosen(kept.tolist())
        splits[split] = (chosen, source.splits[split][1][kept])
    if lost := sorted(set(source.splits["train"][1].tolist()) - set(splits["train"][1].tolist())):
        raise _no_image_left(source, lost, kind)
    note = f"left out: {len(named):,} {kind}{'s' * (len(named) > 1)} that cannot be read"
    source = dataclasses.replace(source, splits=splits, notes=(*source.notes, note))
    return source, positions, tuple(name for name, _ in named)


def _row_name(part: ImageFiles | Table | Own, row: int) -> str:
    return f"row {row}" if isinstance(part, Own) else part.name(row)


def _no_image_left(source: Source, classes: list[int], kind: str) -> InputError:
    names = source.class_names or {c: f"class {c}" for c in classes}
    got = f"none of {listed([on_one_line(str(names[c])) for c in classes])}"
    return must("skip_bad", "leave every class a training image", got, f"repair their {kind.split()[-1]}s")


def relabelled(source: Source) -> tuple[Source, tuple[int, ...] | None]:
    """Return the source with labels 0, 1, ... and the numbers that these replace.

    Labels keep their order. A source that names its classes or skips no number is returned as it is, with None.
    """
    if source.class_names is not None:
        return source, None
    present = torch.unique(torch.cat([labels for _, labels in source.splits.values()]))
    numbers = tuple(present.tolist())
    if len(numbers) == numbers[-1] + 1:
        return source, None
    splits = {}
    for name, (dataset, labels) in source.splits.items():
        renumbered = torch.searchsorted(present, labels)
        splits[name] = (with_labels(dataset, renumbered), renumbered)
    note = (
        f"labels skip numbers: the {len(numbers):,} with images, of 0 to {numbers[-1]:,}, are classes 0 to"
        f" {len(numbers) - 1:,}, named by their own numbers"
    )
    names = [f"class {number}" for number in numbers]
    return dataclasses.replace(source, splits=splits, class_names=names, notes=(*source.notes, note)), numbers


def with_labels(dataset: Images, labels: Tensor) -> Images:
    """Return the data set with other labels in place of its own."""
    if isinstance(dataset, ImageArray):
        return ImageArray(dataset.images, labels, dataset.shape)
    return dataset.relabelled(labels) if isinstance(dataset, Table) else Relabelled(dataset, labels)


def with_test(source: Source) -> Source:
    """Return the source with a test set split off from train, if the source asks for one."""
    if not source.test_share:
        return source
    images, labels = source.splits["train"]
    rows = dict(zip(("train", "test"), holdout_indices(labels, source.test_share), strict=True))
    splits = {name: (subset(images, chosen), labels[chosen]) for name, chosen in rows.items()}
    return dataclasses.replace(source, splits=splits)


def subset(dataset: Images, rows: Tensor) -> Images:
    """Return some rows of a data set; images in memory stay in memory."""
    if isinstance(dataset, ImageArray):
        return ImageArray(dataset.images[rows], dataset.targets[rows], dataset.shape)
    return Subset(dataset, rows.tolist())


def require_one_size_of_some(source: Source, resize: int | None, crop: int | None) -> None:
    """Check some image files first, so that a missing resize is not told only after minutes of reading all of them.

    Args:
        source: The data source; data sets other than image files are not looked at.
        resize: Length of the shorter side, in pixels.
        crop: Side of the centre crop, in pixels.

    Raises:
        InputError: Two of the files differ in size after resize and crop; the message names both.
    """
    files = {name: part for name, (part, _) in source.splits.items() if isinstance(part, ImageFiles)}
    if crop is not None or not files:
        return
    splits = {name: (with_some_sizes(part, _FIRST), source.splits[name][1]) for name, part in files.items()}
    require_one_size(dataclasses.replace(source, splits=splits), View(mean=(), std=(), resize=resize))


def require_one_size(source: Source, view: View | None, advice: str = "pass resize=N and crop=N") -> None:
    """Check that all images have one size after resize and crop.

    The sizes of images in memory are known, and those of files and PIL images that were checked; others are not tested.

    Raises:
        InputError: Two images differ in size; the message names both.
    """
    view = view or View(mean=(), std=())
    first: tuple[Size, str] | None = None
    for split, (dataset, _) in source.splits.items():
        for size, row in _sizes(dataset).items():
            if first is not None and view.size_after(*size) != view.size_after(*first[0]):
                place = _place(dataset, row, split)
                got = f"{first[0][0]} x {first[0][1]} in {first[1]} and {size[0]} x {size[1]} in {place}"
                what = "image files" if isinstance(dataset, ImageFiles) else "images"
                raise must(what, "have one size", got, advice)
            first = first or (size, _place(dataset, row, split))


def _sizes(dataset: Images) -> dict[Size, int]:
    """The image sizes that occur for certain, and the first row of each."""
    if isinstance(dataset, ImageArray):
        return {(dataset.images.shape[3], dataset.images.shape[2]): 0}
    first_rows: dict[Size, int] = {}
    for row, size in enumerate((dataset.sizes or ()) if isinstance(dataset, ImageFiles | Table) else ()):
        if size is not None:
            first_rows.setdefault(size, row)
    return first_rows


def _place(dataset: Images, row: int, split: str) -> str:
    if isinstance(dataset, ImageFiles):
        return str(dataset.paths[row])
    return f"{dataset.name(row)} of {split}" if isinstance(dataset, Table) else split


def shaped(dataset: Images, view: View | None) -> Images:
    """Return the data set with each image resized and cropped as the view says.

    Raises:
        InputError: The data set is one of the user's own, which has to resize by itself.
    """
    if view is None or (view.resize is None and view.crop is None):
        return dataset
    if isinstance(dataset, ImageArray | ImageFiles) or (isinstance(dataset, Table) and dataset.holds_pil()):
        return dataset.shaped(view.shape)
    raise must("resize and crop", "be left out for a data set of your own", view, "let the data set resize")
