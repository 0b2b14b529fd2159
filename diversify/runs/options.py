"""The DATA flags as a value, and what the model sees of the data they name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from .. import storage
from ..augment import CropFlip
from ..data import Data, Imbalance, View, collate, load_data
from ..errors import unknown

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
    download: bool = False

    def load(self, *, measure_view: bool) -> Data:
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
            download=self.download,
            measure_view=measure_view,
        )

    def inputs(self) -> list[Path]:
        """The file or folder that `--data` names, if it names one: never to be written over."""
        kind, _, place = (self.spec or "").partition(":")
        return [Path(place)] if kind in ("npz", "folder") and place else []

    def digests(self) -> dict[str, str]:
        """sha256 of the file that `--data npz:FILE` names: two files may have the same labels."""
        return {place.name: storage.sha256(place) for place in self.inputs() if place.is_file()}

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
        recorded |= {name: view[name] for name in ("resize", "crop") if view.get(name) is not None}
        return dataclasses.replace(self, **{k: v for k, v in recorded.items() if getattr(self, k) is None})


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
