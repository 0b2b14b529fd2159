"""One run of a method: trained, its head step taken, and looked at, on val in a trial and on test in a final run."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..augment.batches import BatchAugmenter
from ..augment.draw_key import CropFlip
from ..augment.leak import MOST_IMAGES, evenly_spread, measure_leak
from ..data.imbalance import class_order
from ..data.load import Data, load_data
from ..data.loader import Split, collate, make_loader
from ..data.view import View
from ..diagnosis.measure import diagnose, usual_top_k
from ..errors import InputError, must, unknown
from ..functional import counts, metrics
from ..functional.ceiling import stratified_folds
from ..network.embeddings import Embeddings
from ..network.extraction import autocast, extract, taking
from ..network.linear_head import LinearHead, read_head
from ..network.networks import build_model
from ..network.split import SplitModel, split_head
from ..network.wrappers import evaluating
from ..repair.post_hoc import adjust_logits
from ..runtime.user_code import describe
from ..training.ingredients import Ingredients
from ..training.loop import Progress, fit
from ..training.recipe import Recipe, warmup_within
from ..training.resident import ResidentImages, features_of, fit_resident
from ..training.state import EpochRecord, read_state, saved_as
from .protocol import Method, Outcome, Parameters, Protocol, Report, Setting, TakeStep, Trained

RESIDENT_BYTES = 2 << 30  # of images on the device; larger data go through loaders
SAVE_EVERY = 60.0  # seconds between two states of a run
FOLDS = 5  # of val, where a head step makes something from it
INSIDE = {
    "magnitude_ratio": "ce_magnitude_ratio",
    "diversity_heldout": "diversity_vendi_heldout",
    "diversity_train": "diversity_vendi_train",
}


FLAG = re.compile(r"(?<!\S)--(data|resize|crop|mean|std|imbalance|tail-order|holdout|model)(?![\w-])")
ADVICE = {
    "pass --resize N --crop N": "set resize and crop in the protocol",
    "--skip-bad leaves them out": "mend them or take them away",
}


@contextmanager
def _naming_fields() -> Iterator[None]:
    """Within the block an InputError that names flags of `diversify train` names the fields of the protocol instead."""
    try:
        yield
    except InputError as error:
        raise InputError(_with_fields(str(error))) from error


def _with_fields(message: str) -> str:
    for before, after in ADVICE.items():
        message = message.replace(before, after)
    subject, law, rest = message.partition(" must ")
    named = _fields(subject)
    return (named if named == subject else f"{named} of the protocol") + law + _fields(rest)


def _fields(text: str) -> str:
    return FLAG.sub(lambda flag: "tail_orders" if flag[1] == "tail-order" else flag[1], text)


class CosineHead(nn.Module):
    """Cosines of features and weight rows, times `scale`: the head that LDAM asks for (Cao et al. 2019)."""

    def __init__(self, num_features: int, num_classes: int, scale: float, *, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        start = torch.empty(num_classes, num_features).uniform_(-1, 1, generator=generator)
        self.weight, self.scale = nn.Parameter(functional.normalize(start, dim=1)), scale

    def forward(self, features: Tensor) -> Tensor:
        """`(N, D)` to `(N, C)` logits in [-scale, scale]."""
        turned = functional.normalize(self.weight, dim=1)
        return self.scale * functional.linear(functional.normalize(features, dim=1), turned)


class _Answering(nn.Module):
    """A backbone with another head: the network as the head step leaves it, whose own module could not hold any head."""

    def __init__(self, split: SplitModel, head: LinearHead) -> None:
        super().__init__()
        self.split, self._head = split, head

    def forward(self, images: Tensor) -> Tensor:
        """`(N, C)` logits."""
        features = self.split.features(images).float()
        head = dataclasses.replace(
            self._head, weight=self._head.weight.to(features.device), bias=self._head.bias.to(features.device)
        )
        return head.logits(features)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sides:
    """The images that a run is trained on and those that it is judged by, on the device where they fit."""

    data: Data
    view: View
    train: ResidentImages | None  # None: too large, read by loaders
    judged: ResidentImages | None
    judged_split: Split
    class_counts: Tensor

    @property
    def judged_labels(self) -> Tensor:
        """`(M,)` on the CPU."""
        return self.judged_split.labels


class Task:
    """The data of a protocol, each part of it read once, and the device that trains."""

    def __init__(self, protocol: Protocol, *, root: str, device: torch.device, download: bool) -> None:
        self.protocol, self.root, self.device, self.download = protocol, root, device, download
        self._read: dict[tuple[str, str], _Sides] = {}

    def sides(self, tail_order: str, split: str) -> _Sides:
        """Training images less the hold-out and the hold-out for "val", all of them and the test images for "test"."""
        name = tail_order, split
        if name not in self._read:
            self._read = {}  # one at a time stays on the device
            with _naming_fields():
                self._read[name] = self._sides(tail_order, split)
        return self._read[name]

    def require_usable(self) -> None:
        """Nothing, when data, network and device can be had and fit; else the InputError that every run would end in."""
        protocol = self.protocol
        for split in ("val", "test"):
            recipe_of(protocol, {}, protocol.epochs_of(split), protocol.seeds[0])
        try:
            torch.zeros(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise must("device", "be there", repr(str(self.device)), describe(error)) from error
        sides = self.sides(protocol.tail_orders[0], "val")
        first = sides.data.train
        with _naming_fields():
            for tail_order in protocol.tail_orders:
                class_order(tail_order, sides.data.num_classes)
            images = sides.view.normalize(collate([first.dataset[row] for row in range(min(2, len(first)))])[0])
            model = build_model(protocol.model, sides.data.num_classes, channels=len(sides.view.mean)).to(self.device)
        read_head(split_head(model).head)
        with taking(images), evaluating(model), torch.inference_mode(), autocast(self.device, protocol.precision):
            logits = model(images.to(self.device))
        if not isinstance(logits, Tensor) or logits.shape[1:] != (sides.data.num_classes,):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise must(f"outputs of {protocol.model}", f"be (N, {sides.data.num_classes}) logits", got)

    def _sides(self, tail_order: str, split: str) -> _Sides:
        protocol = self.protocol
        data = load_data(
            protocol.data,
            root=self.root,
            imbalance=protocol.imbalance,
            tail_order=tail_order,
            holdout=protocol.holdout if split == "val" else 0.0,
            mean=protocol.mean,
            std=protocol.std,
            resize=protocol.resize,
            crop=protocol.crop,
            download=self.download,
            measure_view=True,
        )
        present = counts.class_counts(data.train.labels, data.num_classes)
        if int(present.min()) == 0:
            absent = ", ".join(data.class_names[c] for c in (present == 0).nonzero()[:, 0].tolist())
            raise must("every class", "have a training image", f"none of {absent}")
        judged = {"val": data.val, "test": data.test}
        for name in ("val", "test") if split == "val" else ("test",):  # a search without a test would be in vain
            if judged[name] is None:
                raise must("data of a study", f"have images for {name}", f"none in {protocol.data}")
        chosen = cast(Split, judged[split])
        if data.view is None:
            raise must("data of a study", "be images in [0, 1] with a mean and a std", protocol.data)
        train = _resident(data.train, self.device)
        if train is None and self.device.type != default_device().type:
            law = f"be {default_device().type}, where training goes, for images that are too many to stay on it"
            raise must("--device", law, self.device)
        return _Sides(
            data=data,
            view=data.view,
            train=train,
            judged=_resident(chosen, self.device),
            judged_split=chosen,
            class_counts=present,
        )


def default_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def load_task(protocol: Protocol, *, root: str = "data", device: str | None = None, download: bool = False) -> Task:
    """The data of a protocol, and where its runs are trained: on an accelerator if there is one, or on `device`.

    The images of the first trial are read and the network is built once, so that what no run could be made with is said
    here, and not by every trial.

    Raises:
        InputError: data, network, tail orders or device cannot be had, the data have no val or no test, or the network
            does not take their images.
    """
    try:
        where = torch.device(device) if device is not None else default_device()
    except RuntimeError as error:
        raise must("device", "be one that torch knows", repr(device), describe(error)) from error
    task = Task(protocol, root=root, device=where, download=download)
    task.require_usable()
    return task


def run_trial(
    task: Task,
    method: Method,
    parameters: Parameters,
    *,
    seed: int,
    split: str,
    carried: Any = None,
    report: Report | None = None,
    state: Path | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Train by a method and look at the images of `split`, once, after the last epoch.

    Args:
        seed: Of the start and of everything drawn; with several tail orders it also says which classes are rare.
        split: "val" trains without the hold-out and is judged by it; "test" trains on all and is judged by test. A head
            step that makes something from val is taken anew for each of five folds of it, without the fold that is judged.
        carried: What the head step of the chosen trial left, for a final run.
        report: Called after each of the protocol's rungs, with balanced accuracy on val; may raise `Stopped`.
        state: A file of this run alone, written about once a minute: if it is there, training goes on from it, to the same
            outcome. A trial that is looked at on the way, at rungs, leaves none.

    Raises:
        InputError: data that cannot be read or have no such split, or a loss that is not finite.
        Stopped: by `report`.
    """
    if split not in ("val", "test"):
        raise unknown("split", split, ("val", "test"))
    protocol = task.protocol
    orders = protocol.tail_orders
    sides = task.sides(orders[0] if split == "val" else protocol.tail_order_of(seed), split)
    started = time.perf_counter()
    _forget_peak(task.device)
    epochs = protocol.epochs_of(split)
    run = Run.begun(protocol, sides, method, parameters, epochs=epochs, seed=seed)
    if split == "val" and protocol.rungs:
        state = None
    before = run.seconds_in(state)
    curve, images = [], 0
    started, training = started - before, time.perf_counter() - before
    for record in run.train(progress, state):
        images += record.images
        if split == "val" and record.epoch + 1 in protocol.rungs:
            curve.append(run.balanced_accuracy())
            if report is not None:
                report(record.epoch + 1, curve[-1])
    training = time.perf_counter() - training
    return run.outcome(
        method, parameters, split, carried, curve=tuple(curve), started=started, images_per_second=images / training
    )


def _resident(split: Split, device: torch.device) -> ResidentImages | None:
    """All images of a split on the device; None where they are too large for that."""
    first = collate([split.dataset[0]])[0]
    if first.nbytes * len(split) > RESIDENT_BYTES:
        return None
    blocks = torch.arange(len(split)).split(1024)
    images = torch.cat([collate([split.dataset[row] for row in block.tolist()])[0] for block in blocks])
    return ResidentImages(images=images.to(device), labels=split.labels.to(device))


def build_setting(sides: _Sides, epochs: int, seed: int) -> Setting:
    """What a method may know of a run on these images."""
    side = min(collate([sides.data.train.dataset[0]])[0].shape[2:])
    return Setting(
        images=None if sides.train is None else sides.train.images,
        labels=sides.data.train.labels if sides.train is None else sides.train.labels,
        class_counts=sides.class_counts,
        class_names=sides.data.class_names,
        epochs=epochs,
        seed=seed,
        base=CropFlip(padding=side // 8, mirror=sides.data.mirror),
    )


def recipe_of(protocol: Protocol, parameters: Parameters, epochs: int, seed: int) -> Recipe:
    """How a run is trained, by its parameters or else the protocol's own."""
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


def network_of(protocol: Protocol, sides: _Sides, method: Method, seed: int) -> nn.Module:
    """The protocol's network with fresh weights, with the head that the method asks for."""
    model = build_model(protocol.model, sides.data.num_classes, channels=len(sides.view.mean), seed=seed)
    if not method.cosine_head:
        return model
    split = split_head(model)
    head = split.head
    if not isinstance(head, nn.Linear):
        raise must(f"head of {protocol.model}", f"be nn.Linear for {method.name}", type(head).__name__)
    cosine = CosineHead(head.in_features, head.out_features, method.cosine_head, seed=seed)
    parent, _, name = split.head_name.rpartition(".")
    setattr(model.get_submodule(parent), name, cosine)
    return model


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A network being trained by a method, and how it is looked at."""

    sides: _Sides
    model: nn.Module
    recipe: Recipe
    ingredients: Ingredients
    setting: Setting

    @classmethod
    def begun(
        cls, protocol: Protocol, sides: _Sides, method: Method, parameters: Parameters, *, epochs: int, seed: int
    ) -> Run:
        """With fresh weights, and what the method brings to the loop."""
        setting = build_setting(sides, epochs, seed)
        return cls(
            sides=sides,
            model=network_of(protocol, sides, method, seed),
            recipe=recipe_of(protocol, parameters, epochs, seed),
            ingredients=method.ingredients(setting, parameters),
            setting=setting,
        )

    @property
    def on_device(self) -> bool:
        """Whether images stay on the device, and the ingredients do not ask for what only `fit` does."""
        own = ("wrap_dataset", "augment_features")
        return self.sides.train is not None and all(getattr(self.ingredients, name) is None for name in own)

    def seconds_in(self, state: Path | None) -> float:
        """Seconds of the epochs that a state holds; one that cannot be gone on from is removed."""
        if state is None or not state.exists():
            return 0.0
        try:
            return sum(record.seconds for record in read_state(state, saved_as(self.recipe))[2])
        except InputError:
            state.unlink()
            return 0.0

    def train(self, progress: Progress | None = None, state: Path | None = None) -> Iterator[EpochRecord]:
        """Epoch records; what is subtracted from the logits afterwards is left to `outcome`."""
        sides, num_classes = self.sides, self.setting.num_classes
        ingredients = dataclasses.replace(self.ingredients, after=None)
        if self.on_device and sides.train is not None:
            return fit_resident(
                self.model,
                sides.train,
                recipe=self.recipe,
                num_classes=num_classes,
                ingredients=ingredients,
                prepare=sides.view.normalize,
                state=state,
                save_every=SAVE_EVERY,
                progress=progress,
            )
        return fit(
            self.model,
            sides.data.train.dataset,
            recipe=self.recipe,
            num_classes=num_classes,
            ingredients=ingredients,
            collate=collate,
            prepare=sides.view.normalize,
            state=state,
            progress=progress,
        )

    def balanced_accuracy(self) -> float:
        """On the images it is judged by, as the network stands."""
        split = split_head(self.model)
        with evaluating(self.model):
            head, features = self.head(split), self.features(split, judged=True)
        predicted = head.logits(features).argmax(1)
        return metrics.balanced_accuracy(self.sides.judged_labels, predicted, self.setting.num_classes)

    def head(self, split: SplitModel) -> LinearHead:
        """The head's numbers, with what the ingredients subtract from its logits."""
        found = read_head(split.head)
        found = dataclasses.replace(found, weight=found.weight.cpu().clone(), bias=found.bias.cpu().clone())
        return found if self.ingredients.after is None else adjust_logits(found, self.ingredients.after().cpu(), 1.0)

    def features(self, split: SplitModel, *, judged: bool) -> Tensor:
        """`(N, D)` on the CPU, of the images it is judged by or of its training images."""
        sides, precision = self.sides, self.recipe.precision
        images = sides.judged if judged else sides.train
        if images is not None:
            return features_of(split.features, images, prepare=sides.view.normalize, precision=precision).cpu().clone()
        loader = make_loader(sides.judged_split if judged else sides.data.train, sides.view)
        return extract(split, loader, precision="bf16" if precision == "bf16" else "fp32").features

    def embeddings(self, split: SplitModel, head: LinearHead, *, judged: bool) -> Embeddings:
        """The same with labels and logits."""
        features = self.features(split, judged=judged)
        labels = self.sides.judged_labels if judged else self.sides.data.train.labels
        logits, indices = head.logits(features), torch.arange(len(labels))
        return Embeddings(features=features, labels=labels, logits=logits, indices=indices)

    def outcome(
        self,
        method: Method,
        parameters: Parameters,
        split_name: str,
        carried: Any,
        *,
        curve: tuple[float, ...],
        started: float,
        images_per_second: float,
    ) -> Outcome:
        """The head step taken, and what the images it is judged by then say."""
        sides, device = self.sides, next(self.model.parameters()).device
        split = split_head(self.model)
        with evaluating(self.model):
            head = self.head(split)
            judged = self.embeddings(split, head, judged=True)
            train = self.embeddings(split, head, judged=False) if method.head_step or split_name == "test" else None
        carry, logits = None, head.logits(judged.features)
        if method.head_step is not None and train is not None:
            heldout = judged if split_name == "val" else None
            trained = Trained(train=train, heldout=heldout, head=head, carried=carried)
            step = method.head_step(self.setting, parameters, trained)
            head, carry = step.head, step.carry
            logits = head.logits(judged.features)
            if heldout is not None and carry is not None and len(heldout) > 1:
                logits = self.by_folds(method.head_step, parameters, trained, heldout)
        confusion = metrics.confusion_matrix(judged.labels, logits.argmax(1), self.setting.num_classes)
        recall = metrics.recall(confusion)
        seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        inside = self.inside(split, train, judged, head) if split_name == "test" and train is not None else {}
        return Outcome(
            recall=tuple(None if math.isnan(value) else value for value in recall.tolist()),
            balanced_accuracy=float(recall.nanmean()),
            macro_f1=float(metrics.f1(confusion).nanmean()),
            g_mean=metrics.geometric_mean_recall(confusion),
            ece=metrics.overall_calibration_error(logits, judged.labels),
            class_counts=tuple(sides.class_counts.tolist()),
            epochs=self.recipe.epochs,
            seconds=seconds,
            images_per_second=images_per_second,
            peak_memory=peak,
            curve=curve,
            inside=inside,
            carried=carry,
        )

    def by_folds(self, step: TakeStep, parameters: Parameters, trained: Trained, heldout: Embeddings) -> Tensor:
        """`(M, C)` logits of val: of every fold by a head whose step was taken without it."""
        fold_of = stratified_folds(heldout.labels, min(FOLDS, len(heldout)), seed=self.setting.seed, name="head step")
        logits = torch.empty(len(heldout), trained.head.num_classes)
        for fold in range(int(fold_of.max()) + 1):
            judged = fold_of == fold
            others = heldout.select(~judged)
            made = step(self.setting, parameters, dataclasses.replace(trained, heldout=others))
            logits[judged] = made.head.logits(heldout.features[judged])
        return logits

    def inside(self, split: SplitModel, train: Embeddings, judged: Embeddings, head: LinearHead) -> Mapping[str, Any]:
        """What changed in the network, per class; read from test and to be read only."""
        with_head = [one.seen_by(head) for one in (train, judged)]
        names = self.setting.class_names
        found = diagnose(
            *with_head,
            head=head,
            class_names=names,
            heldout_split="test",
            top_k=usual_top_k(head.num_features),
            seed=self.recipe.seed,
        )
        told: dict[str, Any] = {name: _nullable(found[column]) for name, column in INSIDE.items()}
        augment = self.ingredients.augment
        if isinstance(augment, BatchAugmenter) and self.sides.judged is not None:
            chosen = evenly_spread(judged.labels, MOST_IMAGES)
            images = self.sides.judged.images[chosen.to(self.sides.judged.images.device)].cpu()
            seen = torch.utils.data.TensorDataset(images, judged.labels[chosen])
            leak = measure_leak(
                _Answering(split, head),
                augment.plan,
                torch.utils.data.DataLoader(seen, batch_size=512),
                prepare=self.sides.view.normalize,
                precision=self.recipe.precision,
            )
            told["leak"] = _nullable(leak.leak)
        return told


def _nullable(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
