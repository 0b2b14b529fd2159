"""Data sources whose images have several labels each, as splits with `(N, C)` labels, and their loader."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from ..errors import must, unknown
from ..files import atomic
from ..functional.groups import group_numbers
from ..functional.multilabel import read_multilabels
from ..runtime.progress import StageProgress
from ..runtime.user_code import call_object, import_object
from .choose_view import choose_view
from .decode import as_image
from .grouping import groups_of_source
from .images import Batch, ImageFiles, Images, Own, check_files, content_digest
from .loader import Split
from .prepare import require_one_size, shaped, subset
from .sources import SPLITS, Source, as_spelled, listed, names_given, on_one_line, read_as, read_npz, split_of
from .stratify import multilabel_holdout
from .view import View

MULTILABEL_SOURCES = ("npz:FILE", "csv:FILE", "package.module:function")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultilabelData:
    """A data source with several labels per image, and its preprocessing.

    Attributes:
        spec: The data source.
        train: The training split; its labels are `(N, C)` bool.
        val: The validation split; None if there is none.
        test: The test split; None if there is none.
        label_names: One name per label.
        view: The preprocessing; None if the images are used as the source gives them.
        view_origin: Where the preprocessing comes from.
        notes: Remarks for a reader of the results, one line each.
        holdout: Share of train that was split off as val; 0 if nothing was.
        group: Where the groups of images come from, as `Data.group`; "" if no groups are known.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> arrays = {"train_images": np.zeros((2, 8, 8), np.uint8), "train_labels": [[0, 1], [1, 1]]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/a.npz", **arrays, class_names=["sky", "tree"])
        ...     load_multilabel_data(f"npz:{folder}/a.npz", mean=[0.5], std=[0.5]).label_names
        ('sky', 'tree')
    """

    spec: str
    train: Split
    val: Split | None
    test: Split | None
    label_names: tuple[str, ...]
    view: View | None
    view_origin: str
    notes: tuple[str, ...] = ()
    holdout: float = 0.0
    group: str = ""

    def record(self) -> dict[str, object]:
        """Return what `run.json` keeps: enough to check that the images are the same."""
        return {
            "spec": self.spec,
            "imbalance": "none",
            "tail_order": "canonical",
            "holdout": self.holdout,
            "class_names": list(self.label_names),
            "class_counts": self.train.labels.sum(0).tolist(),
            "splits": {
                name: {
                    "images": len(split),
                    "origin": split.origin,
                    "digest": split.digest(),
                    "content": split.content,
                }
                for name, split in (("train", self.train), ("val", self.val), ("test", self.test))
                if split is not None
            },
            **({"group": self.group} if self.group else {}),
        }


def load_multilabel_data(
    spec: str,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    crop: int | None = None,
    interpolation: str = "bilinear",
    check_progress: StageProgress | None = None,
    holdout: float = 0.0,
    group: Any = None,
) -> MultilabelData:
    """Load a data source whose images have several labels each.

    Args:
        spec: `npz:FILE` with `train_images` and `train_labels` `(N, C)` of 0 and 1, the same for val and test, and perhaps
            `class_names`; `csv:FILE` with a column `path`, a column of 0 and 1 for each label, and perhaps a column
            `split` of train, val and test; or `package.module:function`, which returns a mapping of data sets that show
            their labels as `targets` or `labels`.
        mean: Mean per channel that the model was trained with, for images in [0, 1].
        std: Standard deviation per channel.
        resize: Length of the shorter side, in pixels.
        crop: Side of the centre crop, in pixels.
        interpolation: Of the resize, "bilinear" or "bicubic".
        check_progress: Called with ("checking images", images done, images in total).
        holdout: Share of train to split off as val, in [0, 1), unless the source has a val of its own. Every label, and
            every pair of labels, is in proportion on both sides, and a label with two images has one on each side, as far
            as that is possible; see `multilabel_holdout`. Train the network on `train` alone.
        group: Which images depend on each other: the hold-out then takes whole groups. A `.txt`, `.csv` or `.npy` file with
            one value per training image; these values; or the name of a column of a `csv:FILE`, which is then no label. An
            `.npz` file brings its groups under the keys `train_groups`, `val_groups` and `test_groups`.

    Raises:
        InputError: The source is unknown, missing or damaged, its labels are not 0 or 1, or an option is out of range.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> images, labels = np.zeros((4, 8, 8), np.uint8), np.array([[0, 1], [1, 1], [0, 0], [1, 0]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/a.npz", train_images=images, train_labels=labels)
        ...     load_multilabel_data(f"npz:{folder}/a.npz", mean=[0.5], std=[0.5]).train.labels.sum(0).tolist()
        [2, 2]
        >>> labels = np.tile([[0, 1], [1, 0], [1, 1], [0, 0], [1, 0]], (4, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/a.npz", train_images=np.zeros((20, 8, 8), np.uint8), train_labels=labels)
        ...     data = load_multilabel_data(f"npz:{folder}/a.npz", mean=[0.5], std=[0.5], holdout=0.25)
        >>> data.train.labels.sum(0).tolist(), data.val.labels.sum(0).tolist()
        ([9, 6], [3, 2])
    """
    if not 0 <= holdout < 1:
        raise must("holdout", "lie in [0, 1)", holdout)
    source = _read(spec, check_progress, group)
    if "train" not in source.splits:
        raise must("data", "have a training split", spec)
    groups = groups_of_source(source, None if spec.startswith("csv:") and source.groups else group, spec)
    counts = {labels.shape[1] for _, labels in source.splits.values()}
    if len(counts) > 1:
        raise must("splits", "have the same labels", f"{' and '.join(map(str, sorted(counts)))} labels")
    (num_labels,) = counts
    if num_labels < 2:
        raise must("labels", "be at least 2 for several labels per image", num_labels)
    names = source.class_names or [f"label {c}" for c in range(num_labels)]
    if len(names) != num_labels:
        raise must("class_names", f"be one per label, {num_labels}", len(names))
    view, origin = choose_view(source, mean, std, resize, crop, False)
    view = view and dataclasses.replace(view, interpolation=interpolation)
    require_one_size(source, view)

    splits = {name: _split(source, name, view, groups.get(name)) for name in source.splits}
    cut = holdout if "val" not in splits else 0.0
    if cut:
        kept, held = multilabel_holdout(splits["train"].labels, cut, splits["train"].groups)
        if len(held):
            splits |= {"train": _part(splits["train"], kept, "source"), "val": _part(splits["train"], held, "cut")}
    return MultilabelData(
        spec=spec,
        train=splits["train"],
        val=splits.get("val"),
        test=splits.get("test"),
        label_names=tuple(on_one_line(str(name)) for name in names),
        view=view,
        view_origin=origin,
        notes=source.notes,
        holdout=cut,
        group="" if not groups else str(group) if isinstance(group, str | Path) else "given",
    )


def _split(source: Source, name: str, view: View | None, groups: Tensor | None) -> Split:
    """A split of the source as it is."""
    images, labels = source.splits[name]
    return Split(
        dataset=shaped(images, view),
        labels=labels,
        indices=torch.arange(len(labels)),
        origin="source",
        source=name,
        content=content_digest(images),
        groups=groups,
    )


def _part(split: Split, rows: Tensor, origin: str) -> Split:
    """Some rows of the training split."""
    dataset = subset(split.dataset, rows)
    return dataclasses.replace(
        split,
        dataset=dataset,
        labels=split.labels[rows],
        indices=rows,
        origin=origin,
        content=content_digest(dataset),
        groups=None if split.groups is None else split.groups[rows],
    )


def multilabel_loader(split: Split, view: View | None, *, batch_size: int = 256, workers: int = 0) -> DataLoader[Any]:
    """Return a loader of preprocessed batches `(images, labels (N, C))`, in the order of the split.

    Args:
        split: A split of `load_multilabel_data`.
        view: The preprocessing; None leaves images as they are.
        batch_size: Images per batch.
        workers: Processes that read images.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> arrays = {"train_images": np.zeros((2, 8, 8), np.uint8), "train_labels": [[0, 1], [1, 1]]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/a.npz", **arrays)
        ...     data = load_multilabel_data(f"npz:{folder}/a.npz", mean=[0.5], std=[0.5])
        >>> images, labels = next(iter(multilabel_loader(data.train, data.view)))
        >>> images.shape, labels.tolist()
        (torch.Size([2, 1, 8, 8]), [[False, True], [True, True]])
    """
    return DataLoader(split.dataset, batch_size=batch_size, num_workers=workers, collate_fn=_Collated(view))


class _Collated:
    """The collate function of the loader: images and labels stacked, then `view.normalize`."""

    def __init__(self, view: View | None) -> None:
        self.view = view

    def __call__(self, examples: Sequence[Any]) -> tuple[Tensor, Tensor]:
        if isinstance(examples, Batch):
            images, labels = examples.images, examples.labels
        else:
            single = [as_image(example[0]) for example in examples]
            for image in single:
                if image.shape != single[0].shape:
                    got = f"{tuple(single[0].shape)} and {tuple(image.shape)}"
                    raise must(
                        "images", "have one size", got, "resize them in the data set, or pass resize=N and crop=N"
                    )
            images = torch.stack(single)
            labels = torch.stack([torch.as_tensor(example[1]) for example in examples])
        return (images if self.view is None else self.view.normalize(images)), labels


def _read(spec: str, progress: StageProgress | None, group: Any) -> Source:
    kind, _, place = spec.partition(":")
    if not place or kind == "folder":
        raise unknown("data", spec, MULTILABEL_SOURCES)
    if kind == "npz":
        return read_npz(Path(place), several=True)
    return _read_csv(Path(place), progress, group) if kind == "csv" else _read_python(spec)


def _read_csv(path: Path, progress: StageProgress | None, group: Any) -> Source:
    """The image files that a table names, relative to its folder, with their labels; `group` may name one of its columns."""
    atomic.require_file(path, "csv file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = list(csv.reader(stream))
    except (UnicodeDecodeError, csv.Error):
        raise must("csv file", "be text in UTF-8 with commas", path) from None
    columns = [name.strip() for name in lines[0]] if lines else []
    if "path" not in columns:
        raise must("csv file", "have a column path", ", ".join(columns) or "nothing")
    if len(set(columns)) < len(columns):
        raise must("csv file", "name each column once", next(name for name in columns if columns.count(name) > 1))
    grouped = isinstance(group, str) and group in columns
    if grouped and group in ("path", "split"):
        raise must("group", f"name a column of {path} beside path and split", repr(group))
    names = [name for name in columns if name not in ("path", "split") and not (grouped and name == group)]
    rows: dict[str, list[tuple[Path, list[float]]]] = {}
    groups: dict[str, list[str]] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        if len(line) != len(columns):
            raise must(f"line {number} of {path}", f"have {len(columns)} fields", len(line))
        fields = dict(zip(columns, map(str.strip, line), strict=True))
        split = split_of(fields.get("split", "train"))
        if split is None:
            raise must(f"split in line {number} of {path}", f"be one of {', '.join(SPLITS)}", repr(fields["split"]))
        groups.setdefault(split, []).append(fields[group] if grouped else "")
        rows.setdefault(split, []).append(
            (path.parent / fields["path"], [_mark(fields[name], name, number, path) for name in names])
        )
    parts = {
        split: ImageFiles([file for file, _ in own], torch.tensor([marks for _, marks in own]).bool(), top=path.parent)
        for split, own in rows.items()
    }
    wrong = [
        f"{part.name(row)} ({why})"
        for part, found in zip(parts.values(), check_files(list(parts.values()), progress), strict=True)
        for row, why in found.items()
    ]
    if wrong:
        raise must(
            f"image files of {path}", "be readable images", f"{len(wrong):,} that cannot be read: {listed(wrong)}"
        )
    return Source(
        splits={split: (part, part.targets) for split, part in parts.items()},
        class_names=names,
        groups={split: group_numbers(f"column {group}", own) for split, own in groups.items()} if grouped else {},
    )


def _mark(text: str, name: str, number: int, path: Path) -> float:
    if text in ("0", "1", "0.0", "1.0"):
        return float(text)
    advice = "decide what an unknown label counts as before: leave its image out, or set it to 0"
    raise must(f"{name} in line {number} of {path}", "be 0 or 1", repr(text), advice)


def _read_python(spec: str) -> Source:
    law = "return a mapping with a data set under 'train'"
    made = call_object(spec, import_object(spec, "data"), law)
    if not isinstance(made, Mapping):
        raise must(f"{spec}()", law, type(made).__name__)
    spelled = as_spelled([name for name in made if isinstance(name, str) and made[name] is not None], f"{spec}()")
    if "train" not in spelled:
        raise must(f"{spec}()", law, f"one with {', '.join(map(str, made)) or 'nothing'}")
    splits: dict[str, tuple[Images, Tensor]] = {}
    for split, name in spelled.items():
        labels = read_multilabels(f"labels of {name}", _labels_in(made[name], name), rows=len(made[name]))
        splits[split] = (Own(made[name], f"{name} of {spec}()"), labels)
    return Source(splits=splits, class_names=names_given(made.get("class_names")), ready=True, notes=read_as(spelled))


def _labels_in(dataset: Any, name: str) -> Any:
    """The labels that a data set shows, without its images."""
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        return dataset.tensors[1]
    for attribute in ("targets", "labels", "y"):
        found = getattr(dataset, attribute, None)
        if found is not None and not callable(found):
            return found
    if isinstance(dataset, Subset):
        return torch.as_tensor(_labels_in(dataset.dataset, name))[torch.as_tensor(dataset.indices)]
    raise must(f"data set {name}", "show its labels, as an attribute `targets` or `labels`", type(dataset).__name__)
