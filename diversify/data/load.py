"""A data source as train / val / test, made imbalanced if asked, with the preprocessing and where it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import must
from ..functional import counts
from ..runtime.progress import StageProgress
from .choose_view import choose_view, require_view
from .diversity import Chosen, Diversity, choose_images, wide_rows, with_frames
from .grouping import groups_of_source, holdout_groups
from .images import Images, content_digest
from .imbalance import Imbalance, holdout_indices, imbalance_indices
from .kinds import joined_kinds
from .loader import Split
from .prepare import (
    readable,
    relabelled,
    require_one_size,
    require_one_size_of_some,
    shaped,
    subset,
    with_test,
)
from .public import read_source
from .sources import Source, on_one_line
from .view import View

MOST_SKIPPED_NAMES = 1000  # listed in a record; beyond, only their number is kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """A data source, split, with its preprocessing.

    Attributes:
        spec: The data source, as given to `load_data`.
        imbalance: The imbalance profile, as text.
        tail_order: "canonical", or the seed that permuted which classes are rare.
        holdout: Share of train that was split off as val; 0 if the source has a val of its own.
        train: The training split.
        val: The validation split; None if there is none.
        test: The test split; None if there is none.
        class_names: One name per class.
        view: The preprocessing; None if the images are used as the source gives them.
        view_origin: Where the preprocessing comes from: "given" by the caller, "usual" for this source, "measured" on
            training images, or "as the source gives them".
        mirror: True if an image and its mirror image show the same class.
        label_numbers: The source's own number of each class, if its labels skip numbers and were renumbered.
        skipped: Files that cannot be read and were left out, by their names in the tree.
        notes: Remarks for a reader of the results, one line each.
        diversity: What the training images of narrow classes are, as text; see `Diversity`.
        narrow: Share of the classes that are narrow; None if `diversity` is `none`.
        narrow_order: Which classes are narrow, as `load_data` takes it; None if `diversity` is `none`.
        narrow_classes: Numbers of the narrow classes.
        group: Where the groups of images come from: the name of a column or file, or "given"; "" if no groups are known.
        val_like_train: Held-out images that were chosen as the training images were, narrow in narrow classes: what a
            random split of the training images gives, where `val` holds random images of every class. None if `diversity`
            is `none`, or nothing was split off.

    Example:
        >>> import diversify as dv
        >>> data = dv.load_data("digits", imbalance="exp:10")
        >>> data.num_classes, data.view_origin, data.val.origin
        (10, 'usual', 'cut')
    """

    spec: str
    imbalance: str
    tail_order: str
    holdout: float
    train: Split
    val: Split | None
    test: Split | None
    class_names: tuple[str, ...]
    view: View | None
    view_origin: str
    mirror: bool
    label_numbers: tuple[int, ...] | None = None
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    diversity: str = "none"
    narrow: float | None = None
    narrow_order: str | None = None
    narrow_classes: tuple[int, ...] = ()
    val_like_train: Split | None = None
    group: str = ""

    @property
    def num_classes(self) -> int:
        """Number of classes of the source, with those that have no training images."""
        return len(self.class_names)

    def record(self) -> dict[str, object]:
        """Return what `run.json` keeps: enough to find the same images again and to check that they are the same."""
        splits = {
            name: {
                "images": len(split),
                "origin": split.origin,
                "digest": split.digest(),
                "content": split.content,
            }
            for name, split in (
                ("train", self.train),
                ("val", self.val),
                ("test", self.test),
                ("val_like_train", self.val_like_train),
            )
            if split is not None
        }
        optional: dict[str, object] = {}
        if self.label_numbers is not None:
            optional["label_numbers"] = list(self.label_numbers)
        if self.skipped:
            optional |= {"skipped": list(self.skipped[:MOST_SKIPPED_NAMES]), "skipped_count": len(self.skipped)}
        if self.group:
            optional["group"] = self.group
        if self.diversity != "none":
            optional |= {
                "diversity": self.diversity,
                "narrow": self.narrow,
                "narrow_order": self.narrow_order,
                "narrow_classes": list(self.narrow_classes),
            }
        return {
            "spec": self.spec,
            "imbalance": self.imbalance,
            "tail_order": self.tail_order,
            "holdout": self.holdout,
            "class_names": list(self.class_names),
            "class_counts": counts.class_counts(self.train.labels, self.num_classes).tolist(),
            "splits": splits,
            **optional,
        }


def load_data(
    spec: str = "digits",
    *,
    root: Path | str = "data",
    imbalance: Imbalance | str = "none",
    tail_order: str = "canonical",
    holdout: float = 0.2,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    resize: int | None = None,
    crop: int | None = None,
    interpolation: str = "bilinear",
    download: bool = False,
    measure_view: bool = False,
    skip_bad: bool = False,
    relabel: bool = True,
    check_progress: StageProgress | None = None,
    diversity: Diversity | str = "none",
    narrow: float | None = None,
    narrow_order: str | None = None,
    group: Any = None,
) -> Data:
    """Load a data source, make its training images imbalanced, and split it into train, val and test.

    The imbalance is applied first, then `diversity` replaces the images of narrow classes by as many less diverse ones; then
    `holdout` is split off as val, unless the source has a val of its own. With a `diversity`, val has random images of
    narrow classes, and what was split off is `val_like_train`. Image files,
    and PIL images in the columns of a table, are decoded once before anything else, so that all that cannot be read are
    named at once.

    Args:
        spec: The source: `digits`, `cifar10`, `cifar100`, `svhn`, `mnist`, `fashion-mnist`, `places365`, `inaturalist`,
            `npz:FILE`, `folder:DIR` (one folder of image files per class, or a data set of Hugging Face: what
            `save_to_disk` wrote, Parquet or Arrow files) or `package.module:function`.
        root: Folder of the public data sets.
        imbalance: An `Imbalance`, or `none`, `exp:RATIO[:NMAX]` or `step:RATIO:FRACTION`.
        tail_order: "canonical", or a seed that permutes which classes are rare.
        holdout: Share of each training class to split off as val, in [0, 1).
        mean: Mean per channel, or one number for all, for images in [0, 1]; by default the usual one of the source.
        std: Standard deviation per channel, or one number for all.
        resize: Length of the shorter side, in pixels.
        crop: Side of the centre crop, in pixels.
        interpolation: Of the resize, "bilinear" or "bicubic".
        download: Download a public data set that is missing.
        measure_view: Measure mean and standard deviation on training images if neither the caller nor the source gives
            them. For training a new model; a trained model needs those that it was trained with.
        skip_bad: Leave out images that cannot be read, instead of raising an error; `skipped` names them. So
            `load_data("folder:DIR", skip_bad=True, holdout=0, mean=M, std=S).train.dataset` is a data set for a loader of
            one's own, `(image, label)` with uint8 images `(3, H, W)` of all files that can be read.
        relabel: Number the classes without gaps if labels skip numbers and the source names no classes. If False, the
            numbers between are classes without images. The same images are taken either way.
        check_progress: Called with ("checking images", images done, images in total).
        diversity: A `Diversity`; or its form, `neighbours:S`, `kinds:K`, `bursts:M` or `none`. It chooses among more images than a
            class has in training: pass an imbalance with a count below that of the source, such as `exp:1:300` for 300
            images of every class.
        narrow: Share of the classes that are narrow; by default 0.5. Only beside a `diversity` that is text.
        narrow_order: Which classes are narrow: a seed, independent of that of `tail_order`, by default 0; or `small` or
            `large` for the smallest or largest classes, and `small:SEED` to choose other images. Only beside a
            `diversity` that is text.
        group: Which images depend on each other, because they show one patient or scene, or are of one burst: the hold-out
            then takes whole groups. The name of a column of a table; a `.txt` or `.csv` file with one value per line, or a
            `.npy` file, one value per training image of the source; for image files, a `.csv` file with the columns `path`
            and `group`; or these values. An `.npz` file brings its groups under the keys `train_groups`, `val_groups` and
            `test_groups`.

    Returns:
        The splits, class names and preprocessing.

    Raises:
        InputError: The source is unknown, missing or damaged, or an option is out of range.

    Example:
        >>> import diversify as dv
        >>> data = dv.load_data("digits", imbalance="exp:10", holdout=0.2)
        >>> data.train.labels.bincount().tolist()
        [100, 77, 59, 46, 35, 27, 21, 16, 13, 10]
        >>> len(data.train), len(data.val), len(data.test)
        (404, 101, 539)
        >>> data = dv.load_data("digits", imbalance="exp:1:50", diversity="neighbours:3", narrow=0.3)
        >>> data.narrow_classes, data.train.labels.bincount().unique().tolist(), len(data.val), len(data.val_like_train)
        ((1, 2, 6), [40], 100, 100)
    """
    if not 0 <= holdout < 1:
        raise must("holdout", "lie in [0, 1)", holdout)
    profile = Imbalance.parse(imbalance) if isinstance(imbalance, str) else imbalance
    diverse = _diversity(diversity, narrow, narrow_order)
    source = read_source(spec, Path(root), download=download)
    require_view(source, mean, std, resize, crop, measure_view)  # both before minutes of reading files
    require_one_size_of_some(source, resize, crop)
    groups = groups_of_source(source, group, spec, skip_bad=skip_bad)
    source, fine = joined_kinds(source, spec) if diverse.kind == "kinds" else (source, None)
    source, positions, skipped = readable(source, spec, skip_bad, check_progress)
    source = with_test(source)
    renumbered, label_numbers = relabelled(source)
    labels = renumbered.splits["train"][1]  # an imbalance profile is over the classes that have images
    source, label_numbers = (renumbered, label_numbers) if relabel else (source, None)
    names = _class_names(source)
    view, view_origin = choose_view(source, mean, std, resize, crop, measure_view)
    view = view and dataclasses.replace(view, interpolation=interpolation)
    require_one_size(source, view)
    kept = imbalance_indices(labels, profile, tail_order)
    split_off = 0.0 if "val" in source.splits else holdout
    chosen = choose_images(source.splits["train"][0], labels, kept, diverse, fine=fine, holdout=split_off)
    groups = {name: own[positions[name]] if name in positions else own for name, own in groups.items()}
    shapes = {name: (shaped(dataset, view), own) for name, (dataset, own) in source.splits.items()}
    cut = _Cut(shapes, positions, groups)
    train, val, like_train = cut.train_and_val(chosen, labels, holdout, diverse)
    own_labels = source.splits["train"][1]
    narrow_classes = tuple(int(own_labels[(labels == c).nonzero()[0, 0]]) for c in chosen.narrow)
    told = f"diversity {diverse}: narrow classes are {', '.join(names[c] for c in narrow_classes) or 'none'}"
    return Data(
        spec=spec,
        imbalance=str(profile),
        tail_order=tail_order,
        holdout=split_off,
        train=train,
        val=val,
        test=cut.whole("test"),
        class_names=names,
        view=view,
        view_origin=view_origin,
        mirror=source.mirror,
        label_numbers=label_numbers,
        skipped=skipped,
        notes=tuple(on_one_line(note) for note in (*source.notes, *([] if diverse.kind == "none" else [told]))),
        diversity=str(diverse),
        narrow=None if diverse.kind == "none" else diverse.narrow,
        narrow_order=None if diverse.kind == "none" else diverse.narrow_order,
        narrow_classes=narrow_classes,
        val_like_train=like_train,
        group="" if not groups else str(group) if isinstance(group, str | Path) else "given",
    )


def _diversity(diversity: Diversity | str, narrow: float | None, narrow_order: str | None) -> Diversity:
    if isinstance(diversity, str):
        return Diversity.parse(diversity, narrow, narrow_order)
    for name, value in (("narrow", narrow), ("narrow_order", narrow_order)):
        if value is not None:
            raise must(name, "be left out beside a Diversity, which has its own", value)
    return diversity


def _class_names(source: Source) -> tuple[str, ...]:
    num_classes = 1 + max(int(labels.max()) for _, labels in source.splits.values())
    names = [f"class {c}" for c in range(num_classes)] if source.class_names is None else source.class_names
    if len(names) < num_classes:
        raise must("class names", f"be as many as the classes, {num_classes}", len(names))
    return tuple(on_one_line(str(name)) for name in names)


@dataclasses.dataclass(frozen=True)
class _Cut:
    """Makes splits from those of the source; `positions` are the rows of a split in the source's list, if it lost some."""

    splits: Mapping[str, tuple[Images, Tensor]]
    positions: Mapping[str, Tensor]
    groups: Mapping[str, Tensor]

    def train_and_val(
        self, chosen: Chosen, classes: Tensor, holdout: float, diversity: Diversity
    ) -> tuple[Split, Split | None, Split | None]:
        """The chosen rows of train without the hold-out; val, that of the source or else the hold-out; and `val_like_train`.

        With a diversity, the hold-out is `val_like_train`, and val has random images of narrow classes in its place.
        """
        everything = torch.arange(len(chosen.rows))
        if "val" in self.splits:
            return self._part(chosen, everything, "source", diversity), self.whole("val"), None
        if "train" in self.groups and holdout > 0:
            inner, outer = holdout_groups(classes[chosen.rows], self.groups["train"][chosen.rows], holdout)
        else:
            inner, outer = holdout_indices(classes[chosen.rows], holdout)
        train = self._part(chosen, inner, "source", diversity)
        if not len(outer):
            return train, None, None
        like_train = self._part(chosen, outer, "cut", diversity)
        if diversity.kind == "none":
            return train, like_train, None
        rows = wide_rows(classes, chosen, outer)
        wide = dataclasses.replace(chosen, rows=rows, frames=torch.zeros_like(rows))
        return train, self._part(wide, torch.arange(len(rows)), "cut", diversity), like_train

    def whole(self, name: str) -> Split | None:
        """A split of the source as it is; None if there is none."""
        if name not in self.splits:
            return None
        images, labels = self.splits[name]
        indices = self.positions.get(name, torch.arange(len(labels)))
        content = content_digest(images)
        return Split(
            dataset=images,
            labels=labels,
            indices=indices,
            origin="source",
            source=name,
            content=content,
            groups=self.groups.get(name),
        )

    def _part(self, chosen: Chosen, places: Tensor, origin: str, diversity: Diversity) -> Split:
        images, labels = self.splits["train"]
        rows = chosen.rows[places]
        part = with_frames(subset(images, rows), rows, chosen.frames[places], diversity.seed)
        return Split(
            dataset=part,
            labels=labels[rows],
            indices=self.positions["train"][rows] if "train" in self.positions else rows,
            origin=origin,
            source="train",
            content=content_digest(part),
            groups=self.groups["train"][rows] if "train" in self.groups else None,
        )
