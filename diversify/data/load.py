"""A data source as train / val / test, made imbalanced if asked, with what the model sees said out loud.

`load_data` does it all; `imbalance_indices` picks the long-tailed or step subset, `holdout_indices` cuts a stratified
hold-out, `make_loader` gives batches as the model sees them. The sources themselves are read in `sources.py` and
`named_sources.py`, images in `images.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Subset

from ..errors import must
from ..functional import counts, draws
from .decode import Size, as_image
from .images import ImageArray, ImageFiles, Images, Progress, Relabelled, check_files, content_digest
from .imbalance import Imbalance, holdout_indices, imbalance_indices
from .loader import Split
from .public import read_source
from .sources import Source, listed, on_one_line
from .tables import Table, check_tables
from .view import View

MOST_SKIPPED_NAMES = 1000  # in a record; the count says the rest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """A data source, split, with what the model sees; `view` is None when the source's images are used as they are."""

    spec: str
    imbalance: str
    tail_order: str
    holdout: float
    train: Split
    val: Split | None
    test: Split | None
    class_names: tuple[str, ...]
    view: View | None
    view_origin: str  # "given", "usual" for this source, "measured" on training images, "as the source gives them"
    mirror: bool  # whether an image and its mirror image show the same class
    label_numbers: tuple[int, ...] | None = None  # what the source calls each class, where its labels skip numbers
    skipped: tuple[str, ...] = ()  # files that cannot be read and were left out, as named in the tree
    notes: tuple[str, ...] = ()  # what a reader of the results should know, one line each

    @property
    def num_classes(self) -> int:
        """Classes of the source, present in training or not."""
        return len(self.class_names)

    def record(self) -> dict[str, object]:
        """What `run.json` keeps: enough to find the same images again, and to see that they are the same."""
        splits = {
            name: {
                "images": len(split),
                "origin": split.origin,
                "digest": split.digest(),
                "content": split.content,
            }
            for name, split in (("train", self.train), ("val", self.val), ("test", self.test))
            if split is not None
        }
        told: dict[str, object] = {}
        if self.label_numbers is not None:
            told["label_numbers"] = list(self.label_numbers)
        if self.skipped:
            told |= {"skipped": list(self.skipped[:MOST_SKIPPED_NAMES]), "skipped_count": len(self.skipped)}
        return {
            "spec": self.spec,
            "imbalance": self.imbalance,
            "tail_order": self.tail_order,
            "holdout": self.holdout,
            "class_names": list(self.class_names),
            "class_counts": counts.class_counts(self.train.labels, self.num_classes).tolist(),
            "splits": splits,
            **told,
        }


def load_data(
    spec: str = "digits",
    *,
    root: Path | str = "data",
    imbalance: Imbalance | str = "none",
    tail_order: str = "canonical",
    holdout: float = 0.2,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    crop: int | None = None,
    interpolation: str = "bilinear",
    download: bool = False,
    measure_view: bool = False,
    skip_bad: bool = False,
    relabel: bool = True,
    check_progress: Progress | None = None,
) -> Data:
    """A data source, made imbalanced, split into train / val / test.

    `spec` is one of `SOURCES`. The imbalance is applied to the training images; then, unless the source has a val of
    its own, `holdout` is cut from what is left. `measure_view` allows `mean` and `std` to be measured on the training
    images when neither the caller nor the source knows them (for training a new model; a trained one has its own).

    Image files, and PIL images in the columns of a data set, are decoded once before anything else, and those that cannot
    be read are named, all at once; `skip_bad` leaves them out instead. `relabel` makes classes 0, 1, ... of labels that
    skip numbers, where the source names no classes; without it they stay, and the numbers between are classes without
    images. Which images are taken is the same either way.

    Raises:
        InputError: the source is unknown, missing or damaged, or an option is out of range.
    """
    if not 0 <= holdout < 1:
        raise must("--holdout", "lie in [0, 1)", holdout)
    imbalance = Imbalance.parse(imbalance) if isinstance(imbalance, str) else imbalance
    source = read_source(spec, Path(root), download=download)
    source, positions, skipped = _readable(source, spec, skip_bad, check_progress)
    source = _with_test(source)
    renumbered, label_numbers = _relabelled(source)
    labels = renumbered.splits["train"][1]  # a profile is over the classes that there are
    source, label_numbers = (renumbered, label_numbers) if relabel else (source, None)
    num_classes = 1 + max(int(labels.max()) for _, labels in source.splits.values())
    names = [f"class {c}" for c in range(num_classes)] if source.class_names is None else source.class_names
    if len(names) < num_classes:
        raise must("class names", f"be as many as the classes, {num_classes}", len(names))
    view, view_origin = _choose_view(source, mean, std, resize, crop, measure_view)
    view = view and dataclasses.replace(view, interpolation=interpolation)
    _require_one_size(source, view)
    splits = {name: (_shaped(dataset, view), labels) for name, (dataset, labels) in source.splits.items()}

    kept = imbalance_indices(labels, imbalance, tail_order)
    held: Tensor | None = None
    if "val" not in splits:
        inner, outer = holdout_indices(labels[kept], holdout)
        kept, held = kept[inner], (kept[outer] if len(outer) else None)

    def whole(name: str) -> Split | None:
        if name not in splits:
            return None
        images, found = splits[name]
        indices = positions.get(name, torch.arange(len(found)))
        content = content_digest(images)
        return Split(dataset=images, labels=found, indices=indices, origin="source", source=name, content=content)

    def part(rows: Tensor, origin: str) -> Split:
        images, found = splits["train"]
        indices = positions["train"][rows] if "train" in positions else rows
        chosen = _subset(images, rows)
        return Split(
            dataset=chosen,
            labels=found[rows],
            indices=indices,
            origin=origin,
            source="train",
            content=content_digest(chosen),
        )

    return Data(
        spec=spec,
        imbalance=str(imbalance),
        tail_order=tail_order,
        holdout=0.0 if "val" in splits else holdout,
        train=part(kept, "source"),
        val=whole("val") if held is None else part(held, "cut"),
        test=whole("test"),
        class_names=tuple(on_one_line(str(name)) for name in names),
        view=view,
        view_origin=view_origin,
        mirror=source.mirror,
        label_numbers=label_numbers,
        skipped=skipped,
        notes=tuple(on_one_line(note) for note in source.notes),
    )


def _readable(
    source: Source, spec: str, skip_bad: bool, progress: Progress | None
) -> tuple[Source, dict[str, Tensor], tuple[str, ...]]:
    """The source without the images that cannot be read, where each one left stands in the source's own list of its
    split, and the names of those left out; an InputError that names them unless `skip_bad`."""
    files = {name: part for name, (part, _) in source.splits.items() if isinstance(part, ImageFiles)}
    tables = {name: part for name, (part, _) in source.splits.items() if isinstance(part, Table) and part.holds_pil()}
    parts: dict[str, ImageFiles | Table] = {**files, **tables}
    wrong = dict(zip(files, check_files(list(files.values()), progress), strict=True)) if files else {}
    wrong |= zip(tables, check_tables(list(tables.values()), progress), strict=True)
    named = [
        (on_one_line(part.name(row) + (f" of {split}" if split in tables else "")), why)
        for split, part in parts.items()
        for row, why in wrong[split].items()
    ]
    if not named:
        return source, {}, ()
    kind = "image file" if files else "image"
    if not skip_bad:
        got = f"{len(named):,} that cannot be read: {listed([f'{name} ({why})' for name, why in named])}"
        raise must(f"{kind}s of {spec}", "be readable images", got, "--skip-bad leaves them out")
    splits = dict(source.splits)
    positions = {}
    for split, part in parts.items():
        kept = torch.tensor([row for row in range(len(part)) if row not in wrong[split]], dtype=torch.int64)
        if not len(kept):
            raise must("--skip-bad", f"leave {split} an image", f"none of {len(part):,} {kind.split()[-1]}s")
        positions[split] = kept
        splits[split] = (part.chosen(kept.tolist()), part.targets[kept])
    if lost := sorted(set(source.splits["train"][1].tolist()) - set(splits["train"][1].tolist())):
        names = source.class_names or {c: f"class {c}" for c in lost}
        law = "leave every class a training image"
        raise must(
            "--skip-bad",
            law,
            f"none of {listed([on_one_line(str(names[c])) for c in lost])}",
            f"mend their {kind.split()[-1]}s",
        )
    note = f"left out: {len(named):,} {kind}{'s' * (len(named) > 1)} that cannot be read"
    source = dataclasses.replace(source, splits=splits, notes=(*source.notes, note))
    return source, positions, tuple(name for name, _ in named)


def _relabelled(source: Source) -> tuple[Source, tuple[int, ...] | None]:
    """The source with labels 0, 1, ... in the order of the numbers it uses, and these, where it skips any."""
    if source.class_names is not None:
        return source, None
    present = torch.unique(torch.cat([labels for _, labels in source.splits.values()]))
    numbers = tuple(present.tolist())
    if len(numbers) == numbers[-1] + 1:
        return source, None
    splits = {}
    for name, (dataset, labels) in source.splits.items():
        renumbered = torch.searchsorted(present, labels)
        splits[name] = (_with_labels(dataset, renumbered), renumbered)
    note = (
        f"labels skip numbers: the {len(numbers):,} with images, of 0 to {numbers[-1]:,}, are classes 0 to"
        f" {len(numbers) - 1:,}, named by their own numbers"
    )
    names = [f"class {number}" for number in numbers]
    return dataclasses.replace(source, splits=splits, class_names=names, notes=(*source.notes, note)), numbers


def _with_labels(dataset: Images, labels: Tensor) -> Images:
    if isinstance(dataset, ImageArray):
        return ImageArray(dataset.images, labels, dataset.shape)
    return dataset.relabelled(labels) if isinstance(dataset, Table) else Relabelled(dataset, labels)


def _with_test(source: Source) -> Source:
    """The source with a test set, cut from train where it has none and names a share for it."""
    if not source.test_share:
        return source
    images, labels = source.splits["train"]
    rows = dict(zip(("train", "test"), holdout_indices(labels, source.test_share), strict=True))
    splits = {name: (_subset(images, chosen), labels[chosen]) for name, chosen in rows.items()}
    return dataclasses.replace(source, splits=splits)


def _subset(dataset: Images, rows: Tensor) -> Images:
    if isinstance(dataset, ImageArray):
        return ImageArray(dataset.images[rows], dataset.targets[rows], dataset.shape)
    return Subset(dataset, rows.tolist())


def _require_one_size(source: Source, view: View | None) -> None:
    """An InputError that names the first two sizes that differ in what the model would see, unless there is one size.

    Known are the sizes of images in memory, and those of files and of PIL images once they are checked.
    """
    view = view or View(mean=(), std=())
    first: tuple[Size, str] | None = None
    for split, (dataset, _) in source.splits.items():
        for size, row in _sizes(dataset).items():
            if first is not None and view.size_after(*size) != view.size_after(*first[0]):
                place = _place(dataset, row, split)
                got = f"{first[0][0]} x {first[0][1]} in {first[1]} and {size[0]} x {size[1]} in {place}"
                what = "image files" if isinstance(dataset, ImageFiles) else "images"
                raise must(what, "have one size", got, "pass --resize N --crop N")
            first = first or (size, _place(dataset, row, split))


def _sizes(dataset: Images) -> dict[Size, int]:
    """The sizes that occur, as far as they are known, and the first row of each."""
    if isinstance(dataset, ImageArray):
        return {(dataset.images.shape[3], dataset.images.shape[2]): 0}
    found: dict[Size, int] = {}
    for row, size in enumerate((dataset.sizes or ()) if isinstance(dataset, ImageFiles | Table) else ()):
        if size is not None:
            found.setdefault(size, row)
    return found


def _place(dataset: Images, row: int, split: str) -> str:
    if isinstance(dataset, ImageFiles):
        return str(dataset.paths[row])
    return f"{dataset.name(row)} of {split}" if isinstance(dataset, Table) else split


def _shaped(dataset: Images, view: View | None) -> Images:
    if view is None or (view.resize is None and view.crop is None):
        return dataset
    if isinstance(dataset, ImageArray | ImageFiles) or (isinstance(dataset, Table) and dataset.holds_pil()):
        return dataset.shaped(view.shape)
    raise must("--resize and --crop", "be left out for a data set of your own", view, "let the data set resize")


def _choose_view(
    source: Source,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    resize: int | None,
    crop: int | None,
    measure: bool,
) -> tuple[View | None, str]:
    dataset, labels = source.splits["train"]
    if (mean is None) != (std is None):
        raise must("--mean and --std", "be given together", "only one of them")
    if mean is not None and std is not None:
        view = View(mean=tuple(mean), std=tuple(std), resize=resize, crop=crop)
        channels = len(_first_image(dataset))
        if len(view.mean) == 1:
            view = dataclasses.replace(view, mean=view.mean * channels, std=view.std * channels)
        if len(view.mean) != channels and (channels, len(view.mean)) != (1, 3):
            raise must("--mean and --std", f"have one number, or one per channel, {channels}", len(view.mean))
        return view, "given"
    if source.ready:
        if resize is not None or crop is not None:
            got = f"--resize {resize}" if resize is not None else f"--crop {crop}"
            raise must("--resize and --crop", "be left out for a data set of your own", got, "let the data set resize")
        if not (image := _first_image(dataset)).is_floating_point():
            law, advice = "be floating point, as the model sees them", "scale them there, or give --mean and --std"
            raise must("images of a data set of your own", law, image.dtype, advice)
        return None, "as the source gives them"
    if source.mean is not None and source.std is not None:
        return View(mean=source.mean, std=source.std, resize=resize, crop=crop), "usual"
    if not measure:
        advice = "for example --mean 0.5 --std 0.5"
        raise must("--mean and --std", "say what the model was trained with", "nothing", advice)
    view = View(mean=(0.0,), std=(1.0,), resize=resize, crop=crop)
    rows = draws.permutation(len(labels), "measure view")[:1000].tolist()
    pixels = [view.shape(as_image(dataset[row][0])) for row in rows]
    flat = torch.cat([(p / 255 if p.dtype == torch.uint8 else p).flatten(1).double() for p in pixels], dim=1)
    measured = [tuple(round(float(v), 4) for v in value) for value in (flat.mean(1), flat.std(1).clamp_min(1e-3))]
    return dataclasses.replace(view, mean=measured[0], std=measured[1]), "measured"


def _first_image(dataset: Images) -> Tensor:
    example = dataset[0]
    if not isinstance(example, tuple | list) or len(example) < 2:
        raise must("an example of the data set", "be (image, label)", type(example).__name__)
    return as_image(example[0])
