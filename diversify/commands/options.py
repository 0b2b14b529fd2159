"""The data options of a command, the preprocessing they lead to, and the basic augmentation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ..augment.draw_key import CropFlip
from ..data.imbalance import Imbalance
from ..data.load import Data, load_data
from ..data.loader import collate
from ..data.public import SOURCES
from ..data.published_view import count_outputs, published_view
from ..data.view import View
from ..errors import unknown
from ..files import checkpoints
from ..files.digests import sha256
from ..files.shards import digest_checkpoint
from ..runtime import launched
from ..runtime.progress import StageProgress

AUGMENTATIONS = ("auto", "none", "crop", "crop-flip")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The options that say which data to use; None where the user gave none.

    Attributes:
        spec: The data set, for example `digits`, `npz:FILE` or `folder:DIR`.
        root: Folder of the public data sets.
        imbalance: `exp:RATIO[:NMAX]`, `step:RATIO:FRACTION` or `none`.
        tail_order: `canonical`, or a seed that permutes which classes are rare.
        holdout: Share of the training set to split off as the validation set.
        mean: Per channel, for images in [0, 1].
        std: Per channel.
        resize: Shorter side, in pixels.
        crop: Centre crop, in pixels.
        interpolation: Of the resize.
        download: Download a public data set that is missing.
        skip_bad: Leave out image files that cannot be read.
        relabel: Number the classes without gaps. False for a network trained elsewhere that has an output for every
            number up to the largest label.
        diversity: `neighbours:S`, `kinds:K`, `bursts:M` or `none`: less diverse training images in narrow classes.
        narrow: Share of the classes that are narrow.
        narrow_order: A seed, `small` or `large`: which classes are narrow.
        group: A column or a file that says which images depend on each other.
    """

    spec: str | None = None
    root: str = "data"
    imbalance: str | None = None
    tail_order: str | None = None
    holdout: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | None = None
    crop: int | None = None
    interpolation: str | None = None
    download: bool = False
    skip_bad: bool = False
    relabel: bool = True
    diversity: str | None = None
    narrow: float | None = None
    narrow_order: str | None = None
    group: str | None = None

    def load(self, *, measure_view: bool, progress: StageProgress | None = None) -> Data:
        """Load the data, with the defaults in place of options that are None.

        Args:
            measure_view: Measure mean and standard deviation on train if nothing gives them.
            progress: Called while files are checked.
        """
        if not self.download:
            return self._loaded(measure_view, progress)
        with launched.first_goes_ahead():  # of several processes, one downloads
            return self._loaded(measure_view, progress)

    def _loaded(self, measure_view: bool, progress: StageProgress | None) -> Data:
        return load_data(
            self.spec or "digits",
            root=self.root,
            imbalance=Imbalance.parse(self.imbalance or "none"),
            tail_order=self.tail_order or "canonical",
            holdout=0.2 if self.holdout is None else self.holdout,
            mean=self.mean,
            std=self.std,
            resize=self.resize,
            crop=self.crop,
            interpolation=self.interpolation or "bilinear",
            download=self.download,
            measure_view=measure_view,
            skip_bad=self.skip_bad,
            relabel=self.relabel,
            check_progress=progress,
            diversity=self.diversity or "none",
            narrow=self.narrow,
            narrow_order=self.narrow_order,
            group=self.group,
        )

    def inputs(self) -> list[Path]:
        """The file or folder that `spec` names, if it names one; a command never writes to it."""
        kind, _, place = (self.spec or "").partition(":")
        files = [Path(self.group)] if self.group is not None and Path(self.group).is_file() else []
        return ([Path(place)] if kind in ("npz", "folder") and place else []) + files

    def digests(self) -> dict[str, str]:
        """The sha256 of an `npz:` file, by its name; empty for other data sets."""
        return {place.name: sha256(place) for place in self.inputs() if place.is_file()}

    def filled_from(self, record: dict[str, Any] | None) -> DataOptions:
        """These options, completed from the record of a training run on the same data set."""
        if record is None:
            return self
        data, view = record["data"], record.get("view") or {}
        if self.spec is not None and self.spec != data["spec"]:
            return self
        recorded = {name: data[name] for name in ("spec", "imbalance", "tail_order", "holdout")}
        if self.mean is None and self.std is None:
            recorded |= {name: tuple(view[name]) for name in ("mean", "std") if name in view}
        recorded |= {name: view[name] for name in ("resize", "crop", "interpolation") if view.get(name) is not None}
        if self.diversity in (None, data.get("diversity")):  # a share of classes belongs to its form
            recorded |= {name: data[name] for name in ("diversity", "narrow", "narrow_order") if name in data}
        if data.get("group", "given") != "given":
            recorded["group"] = data["group"]
        given = {name: value for name, value in recorded.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **given, skip_bad=self.skip_bad or bool(data.get("skipped")))

    def with_published(
        self, model: str, weights: Path, weights_key: str | None = None
    ) -> tuple[DataOptions, str | None]:
        """These options, completed with the preprocessing that published weights were evaluated with.

        Each part of the preprocessing comes from the first of these that gives it: the user's options; the training
        record beside the weights (`filled_from`); without such a record, the transform of the published weights; the
        default of the data source. If none of them gives a mean and a standard deviation, `load` asks for them.

        Returns:
            The options, and the origin of the parts that were added. The options are unchanged and the origin is None if
            the file holds no published weights, or if the data set is the user's own and does its own preprocessing.
        """
        known = {choice.partition(":")[0] for choice in SOURCES}
        if (self.spec or "digits").partition(":")[0] not in known:
            return self, None
        tagged = not model.startswith("timm:") or "." in model
        outputs = (
            None if tagged else count_outputs(model, checkpoints.load_checkpoint(weights, weights_key=weights_key))
        )
        found = published_view(model, digest_checkpoint(weights), outputs)
        if found is None:
            return self, None
        view, origin = found
        groups = (("mean", "std"), ("resize", "interpolation"), ("crop",))
        silent = [group for group in groups if all(getattr(self, name) is None for name in group)]
        given = {name: getattr(view, name) for group in silent for name in group}
        source = origin if len(silent) == len(groups) else f"given, the rest {origin}"
        return dataclasses.replace(self, **given), source if silent else None


def fit_channels(view: View | None, model: str) -> View | None:
    """The view with three channels where a network built for colour images is given grey ones."""
    if view is not None and len(view.mean) == 1 and model.startswith(("torchvision:", "timm:")):
        return dataclasses.replace(view, mean=view.mean * 3, std=view.std * 3)
    return view


def channels_of(data: Data, view: View | None) -> int:
    """The number of channels of the images that the network receives."""
    return len(view.mean) if view is not None else int(collate([data.train.dataset[0]])[0].shape[1])


def augmentation_of(name: str, data: Data) -> CropFlip | None:
    """The basic augmentation of this name; None for `none`.

    Images are zero-padded by an eighth of their side and cropped at random. `crop-flip` also mirrors half of them; `auto`
    does so if a mirror image shows the same class.
    """
    if name not in AUGMENTATIONS:
        raise unknown("augment", name, AUGMENTATIONS)
    if name == "none":
        return None
    side = min(collate([data.train.dataset[0]])[0].shape[2:])
    return CropFlip(padding=side // 8, mirror=data.mirror if name == "auto" else name == "crop-flip")
