"""The images of a study: which a run is trained on, and which it is evaluated on."""

from __future__ import annotations

import dataclasses
from typing import cast

import torch
from torch import Tensor

from ..data.imbalance import class_order
from ..data.load import Data, load_data
from ..data.loader import Split, collate
from ..data.view import View
from ..errors import must
from ..functional import counts
from ..network.extraction import autocast, taking
from ..network.linear_head import read_head
from ..network.networks import build_model
from ..network.split import split_head
from ..network.wrappers import evaluating
from ..runtime.user_code import describe
from ..training.recipe import Recipe, warmup_within
from ..training.resident import ResidentImages
from .protocol import Parameters, Protocol

RESIDENT_BYTES = 2 << 30  # images above this size stay off the device and go through loaders


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunImages:
    """The images that a run is trained and evaluated on.

    Attributes:
        data: The splits, as loaded.
        view: Preprocessing.
        train: Training images on the device; None if they are too large and go through loaders.
        evaluation: Images of the validation or test set on the device; None in the same case.
        evaluation_split: The validation set of a trial, or the test set of a final run.
        class_counts: `(C,)` training images per class, on the CPU.
    """

    data: Data
    view: View
    train: ResidentImages | None
    evaluation: ResidentImages | None
    evaluation_split: Split
    class_counts: Tensor

    @property
    def evaluation_labels(self) -> Tensor:
        """`(M,)` on the CPU."""
        return self.evaluation_split.labels


class Task:
    """The data of a protocol and the training device. Each part of the data is read once."""

    def __init__(self, protocol: Protocol, *, root: str, device: torch.device, download: bool) -> None:
        self.protocol, self.root, self.device, self.download = protocol, root, device, download
        self._read: dict[tuple[str, str], RunImages] = {}

    def images(self, tail_order: str, split: str) -> RunImages:
        """Return the images of a run.

        Args:
            tail_order: Which classes are rare.
            split: "val" trains without the validation set and evaluates on it; "test" trains on all training images and
                evaluates on the test set.
        """
        name = tail_order, split
        if name not in self._read:
            self._read = {}  # only one of them stays on the device
            self._read[name] = self._load(tail_order, split)
        return self._read[name]

    def require_usable(self) -> None:
        """Check data, network and device once, before any run.

        Raises:
            InputError: something is missing or does not fit, so that every run would fail; a target prior or cost that does
                not fit the classes of the data is one.
        """
        protocol = self.protocol
        for split in ("val", "test"):
            recipe_of(protocol, {}, protocol.epochs_of(split), protocol.seeds[0])
        try:
            torch.zeros(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise must("device", "be available", repr(str(self.device)), describe(error)) from error
        found = self.images(protocol.tail_orders[0], "val")
        for part in (found.data.val, found.data.test):
            if part is not None:
                protocol.metric_on(counts.class_counts(part.labels, found.data.num_classes))
        first, num_classes = found.data.train, found.data.num_classes
        for tail_order in protocol.tail_orders:
            class_order(tail_order, num_classes)
        images = found.view.normalize(collate([first.dataset[row] for row in range(min(2, len(first)))])[0])
        model = build_model(protocol.model, num_classes, channels=len(found.view.mean)).to(self.device)
        read_head(split_head(model).head)
        with taking(images), evaluating(model), torch.inference_mode(), autocast(self.device, protocol.precision):
            logits = model(images.to(self.device))
        if not isinstance(logits, Tensor) or logits.shape[1:] != (num_classes,):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise must(f"outputs of {protocol.model}", f"be (N, {num_classes}) logits", got)

    def _load(self, tail_order: str, split: str) -> RunImages:
        protocol = self.protocol
        holdout = protocol.holdout if split == "val" else 0.0
        data = data_of(protocol, root=self.root, tail_order=tail_order, holdout=holdout, download=self.download)
        present = counts.class_counts(data.train.labels, data.num_classes)
        if int(present.min()) == 0:
            absent = ", ".join(data.class_names[c] for c in (present == 0).nonzero()[:, 0].tolist())
            raise must("every class", "have a training image", f"none of {absent}")
        candidates = {"val": data.val, "test": data.test}
        for name in ("val", "test") if split == "val" else ("test",):  # a search is pointless without a test set
            if candidates[name] is None:
                raise must("data of a study", f"have images for {name}", f"none in {protocol.data}")
        evaluation = cast(Split, candidates[split])
        if data.view is None:
            raise must("data of a study", "be images in [0, 1] with a mean and a std", protocol.data)
        train = _resident(data.train, self.device)
        if train is None and self.device.type != default_device().type:
            usual = default_device().type
            raise must("device", f"be {usual}, where images too large for the device are trained on", self.device)
        return RunImages(
            data=data,
            view=data.view,
            train=train,
            evaluation=_resident(evaluation, self.device),
            evaluation_split=evaluation,
            class_counts=present,
        )


def data_of(protocol: Protocol, *, root: str, tail_order: str, holdout: float, download: bool) -> Data:
    """Return the data of a protocol for one tail order, with a share `holdout` of the training images as the validation set.

    Raises:
        InputError: The data are unknown, missing or damaged, or an option is out of range.
    """
    return load_data(
        protocol.data,
        root=root,
        imbalance=protocol.imbalance,
        tail_order=tail_order,
        holdout=holdout,
        mean=protocol.mean,
        std=protocol.std,
        resize=protocol.resize,
        crop=protocol.crop,
        download=download,
        measure_view=True,
    )


def _resident(split: Split, device: torch.device) -> ResidentImages | None:
    """Return all images of a split on the device; None if they are too large."""
    first = collate([split.dataset[0]])[0]
    if first.nbytes * len(split) > RESIDENT_BYTES:
        return None
    blocks = torch.arange(len(split)).split(1024)
    images = torch.cat([collate([split.dataset[row] for row in block.tolist()])[0] for block in blocks])
    return ResidentImages(images=images.to(device), labels=split.labels.to(device))


def default_device() -> torch.device:
    """Return the accelerator if there is one, else the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def load_task(protocol: Protocol, *, root: str = "data", device: str | None = None, download: bool = False) -> Task:
    """Return the data of a protocol, ready to be trained on.

    The images of the first trial are read and the network is built once, so that problems that every run would have are
    found here.

    Args:
        protocol: What the study holds fixed.
        root: Folder of the data sets.
        device: Training device; None for the accelerator if there is one.
        download: True to download a public data set that is missing.

    Raises:
        InputError: data, network, tail orders or device are not available, the data have no validation or no test
            images, or the network does not take the images.
    """
    try:
        where = torch.device(device) if device is not None else default_device()
    except RuntimeError as error:
        raise must("device", "be one that torch knows", repr(device), describe(error)) from error
    task = Task(protocol, root=root, device=where, download=download)
    task.require_usable()
    return task


def recipe_of(protocol: Protocol, parameters: Parameters, epochs: int, seed: int) -> Recipe:
    """Return the training recipe of a run. Parameters of the trial replace the protocol's defaults."""
    return Recipe(
        epochs=epochs,
        batch_size=protocol.batch_size,
        learning_rate=float(parameters.get("learning_rate", protocol.learning_rate[1])),
        weight_decay=float(parameters.get("weight_decay", protocol.weight_decay[1])),
        schedule=protocol.schedule,
        warmup_epochs=warmup_within(epochs, protocol.warmup_epochs),
        precision=protocol.precision,
        seed=seed,
    )
