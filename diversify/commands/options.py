"""The DATA flags as a value, what the model sees of the data they name, and the recipe of the flags of `train`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ..augment.draw_key import CropFlip
from ..data.images import Progress
from ..data.imbalance import Imbalance
from ..data.load import Data, load_data
from ..data.loader import collate
from ..data.public import SOURCES
from ..data.published_view import count_outputs, published_view
from ..data.view import View
from ..errors import unknown
from ..files import checkpoints
from ..files.digests import sha256
from ..training.recipe import WARMUP_EPOCHS, Recipe, warmup_within

AUGMENTATIONS = ("auto", "none", "crop", "crop-flip")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The DATA flags of the command line; None where the user gave none."""

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
    relabel: bool = True  # False for a network trained elsewhere that has an output for every number up to the largest

    def load(self, *, measure_view: bool, progress: Progress | None = None) -> Data:
        """The data that these flags name, with the contract's defaults where they are silent."""
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
        )

    def inputs(self) -> list[Path]:
        """The file or folder that `--data` names, if it names one: never to be written over."""
        kind, _, place = (self.spec or "").partition(":")
        return [Path(place)] if kind in ("npz", "folder") and place else []

    def digests(self) -> dict[str, str]:
        """sha256 of the file that `--data npz:FILE` names: two files may have the same labels."""
        return {place.name: sha256(place) for place in self.inputs() if place.is_file()}

    def filled_from(self, record: dict[str, Any] | None) -> DataOptions:
        """The flags the user gave, and for the rest those that a training run recorded."""
        if record is None:
            return self
        data, view = record["data"], record.get("view") or {}
        if self.spec is not None and self.spec != data["spec"]:
            return self
        recorded = {name: data[name] for name in ("spec", "imbalance", "tail_order", "holdout")}
        if self.mean is None and self.std is None:
            recorded |= {name: tuple(view[name]) for name in ("mean", "std") if name in view}
        recorded |= {name: view[name] for name in ("resize", "crop", "interpolation") if view.get(name) is not None}
        given = {name: value for name, value in recorded.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **given, skip_bad=self.skip_bad or bool(data.get("skipped")))

    def with_published(self, model: str, weights: Path) -> tuple[DataOptions, str | None]:
        """These flags, and for the rest what the published weights in this file were evaluated with; whose they are.

        What a model sees is decided, flag by flag, in this order: the user's own flags; the training record beside the
        weights (`filled_from`); where there is none, the transform of the published weights; what is usual for the data
        source. If none of them gives a mean and a standard deviation, `load` asks for --mean and --std. Images of a data
        set of the user's own are what the model sees already: these flags are returned as they are, and None.
        """
        known = {choice.partition(":")[0] for choice in SOURCES}
        if (self.spec or "digits").partition(":")[0] not in known:
            return self, None
        tagged = not model.startswith("timm:") or "." in model
        outputs = None if tagged else count_outputs(model, checkpoints.load_checkpoint(weights))
        found = published_view(model, sha256(weights), outputs)
        if found is None:
            return self, None
        view, origin = found
        groups = (("mean", "std"), ("resize", "interpolation"), ("crop",))
        silent = [group for group in groups if all(getattr(self, name) is None for name in group)]
        given = {name: getattr(view, name) for group in silent for name in group}
        told = origin if len(silent) == len(groups) else f"given, the rest {origin}"
        return dataclasses.replace(self, **given), told if silent else None


def fit_channels(view: View | None, model: str) -> View | None:
    """Grey images are repeated for networks that are built for colour."""
    if view is not None and len(view.mean) == 1 and model.startswith(("torchvision:", "timm:")):
        return dataclasses.replace(view, mean=view.mean * 3, std=view.std * 3)
    return view


def channels_of(data: Data, view: View | None) -> int:
    """Channels of the images that the model sees."""
    return len(view.mean) if view is not None else int(collate([data.train.dataset[0]])[0].shape[1])


def augmentation_of(name: str, data: Data) -> CropFlip | None:
    """Zero-pad an eighth of the side and crop; mirror where a mirror image shows the same class."""
    if name not in AUGMENTATIONS:
        raise unknown("--augment", name, AUGMENTATIONS)
    if name == "none":
        return None
    side = min(collate([data.train.dataset[0]])[0].shape[2:])
    return CropFlip(padding=side // 8, mirror=data.mirror if name == "auto" else name == "crop-flip")


def recipe_from(*, epochs: int, warmup_epochs: int | None, **others: Any) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe of the flags of `train`, and what to note of its warm-up: without one given, the usual one, shortened
    where the epochs are few."""
    usual = warmup_epochs is None
    warmup = warmup_within(epochs) if warmup_epochs is None else warmup_epochs
    recipe = Recipe(epochs=epochs, warmup_epochs=warmup, **others)
    if usual and warmup < WARMUP_EPOCHS:
        chosen = f"over {warmup} of the {epochs} epochs, not {WARMUP_EPOCHS}" if warmup else f"none in {epochs} epochs"
        return recipe, (f"warm-up: {chosen}; --warmup-epochs sets it",)
    if warmup >= epochs:
        return recipe, (f"the warm-up of {warmup} epochs leaves none of {epochs} after it",)
    return recipe, ()
