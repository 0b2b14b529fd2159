"""One run of a method: training, the head step, and the evaluation on the validation set (trial) or test set (final run)."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..augment.batches import BatchAugmenter
from ..augment.draw_key import CropFlip
from ..augment.leak import MOST_IMAGES, evenly_spread, measure_leak
from ..data.loader import collate, make_loader
from ..diagnosis.measure import diagnose, usual_top_k
from ..errors import InputError, must, unknown
from ..functional import counts, metrics
from ..functional.ceiling import stratified_folds
from ..network.cosine_head import with_cosine_head
from ..network.embeddings import Embeddings
from ..network.extraction import extract
from ..network.linear_head import LinearHead, read_head
from ..network.networks import build_model
from ..network.split import SplitModel, split_head
from ..network.wrappers import evaluating
from ..repair.metric import Metric
from ..repair.post_hoc import adjust_logits
from ..runtime.progress import Progress
from ..training.ingredients import Ingredients
from ..training.loop import fit
from ..training.recipe import Recipe
from ..training.resident import features_of, fit_resident
from ..training.state import EpochRecord, read_state, saved_as
from .protocol import HeadStep, Method, Outcome, Parameters, Protocol, Report, Setting, TakeStep, Trained
from .task import RunImages, Task, recipe_of

SAVE_EVERY = 60.0  # seconds between two saves of a run's state
FOLDS = 5  # of the validation set, for a head step that uses it
INSIDE = {
    "magnitude_ratio": "ce_magnitude_ratio",
    "diversity_heldout": "diversity_vendi_heldout",
    "diversity_train": "diversity_vendi_train",
}
"""Measures of a diagnosis that a final run records, by the name in the record."""


class _WithHead(nn.Module):
    """A backbone with another head. The network's own head module may not be able to hold its weights."""

    def __init__(self, split: SplitModel, head: LinearHead) -> None:
        super().__init__()
        self.split, self._head = split, head

    def forward(self, images: Tensor) -> Tensor:
        """Return `(N, C)` logits."""
        features = self.split.features(images).float()
        head = dataclasses.replace(
            self._head, weight=self._head.weight.to(features.device), bias=self._head.bias.to(features.device)
        )
        return head.logits(features)


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
    """Train with a method, and evaluate once after the last epoch.

    Args:
        task: Data and device.
        method: The method.
        parameters: Values of all parameters that are searched.
        seed: Sets the initial weights and all draws. With several tail orders it also decides which classes are rare.
        split: "val" trains without the validation set and evaluates on it. "test" trains on all training images and
            evaluates on the test set. A head step that uses the validation set is repeated for each of five folds,
            without the fold it is evaluated on.
        carried: What the head step of the chosen trial passed on, for a final run.
        report: Called after each of the protocol's rungs with its metric on the validation set. It may raise
            `Stopped`.
        state: File in which the state of this run is saved about once a minute. If it exists, training resumes from it,
            with the same outcome. Trials with rungs save no state.
        progress: Called with the steps done and the steps in all.

    Raises:
        InputError: the data cannot be read or lack the split, or the loss is not finite.
        Stopped: raised by `report`.
    """
    if split not in ("val", "test"):
        raise unknown("split", split, ("val", "test"))
    protocol = task.protocol
    images = task.images(protocol.tail_orders[0] if split == "val" else protocol.tail_order_of(seed), split)
    started = time.perf_counter()
    _reset_peak_memory(task.device)
    run = Run.start(protocol, images, method, parameters, epochs=protocol.epochs_of(split), seed=seed)
    if split == "val" and protocol.rungs:
        state = None
    before = run.seconds_in(state)
    curve, seen = [], 0
    started, training = started - before, time.perf_counter() - before
    for record in run.train(progress, state):
        seen += record.images
        if split == "val" and record.epoch + 1 in protocol.rungs:
            curve.append(run.value())
            if report is not None:
                report(record.epoch + 1, curve[-1])
    training = time.perf_counter() - training
    return run.outcome(
        method, parameters, split, carried, curve=tuple(curve), started=started, images_per_second=seen / training
    )


def build_setting(images: RunImages, epochs: int, seed: int) -> Setting:
    """Return the facts of a run on these images that a method may use."""
    side = min(collate([images.data.train.dataset[0]])[0].shape[2:])
    return Setting(
        images=None if images.train is None else images.train.images,
        labels=images.data.train.labels if images.train is None else images.train.labels,
        class_counts=images.class_counts,
        class_names=images.data.class_names,
        epochs=epochs,
        seed=seed,
        base=CropFlip(padding=side // 8, mirror=images.data.mirror),
    )


def network_of(protocol: Protocol, images: RunImages, method: Method, parameters: Parameters, seed: int) -> nn.Module:
    """Return the protocol's network with initial weights and the head that the method needs."""
    model = build_model(protocol.model, images.data.num_classes, channels=len(images.view.mean), seed=seed)
    scale = method.cosine_scale(parameters)
    if not scale:
        return model
    try:
        return with_cosine_head(model, scale=scale, seed=seed)
    except InputError as error:
        name, law, got, _ = error.parts or ("", "be nn.Linear", type(model).__name__, "")
        if name != "head":
            raise
        raise must(f"head of {protocol.model}, for {method.name},", law, got, "leave the method out") from None


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A network that is trained with a method, and its evaluation."""

    images: RunImages
    model: nn.Module
    recipe: Recipe
    ingredients: Ingredients
    setting: Setting
    metric: Metric
    balances: float  # how far training makes the logits treat classes alike

    @classmethod
    def start(
        cls, protocol: Protocol, images: RunImages, method: Method, parameters: Parameters, *, epochs: int, seed: int
    ) -> Run:
        """Return a run with initial weights and the ingredients of the method."""
        setting = build_setting(images, epochs, seed)
        return cls(
            images=images,
            model=network_of(protocol, images, method, parameters, seed),
            recipe=recipe_of(protocol, parameters, epochs, seed),
            ingredients=method.ingredients(setting, parameters),
            setting=setting,
            metric=protocol.metric_on(counts.class_counts(images.evaluation_labels, setting.num_classes)),
            balances=method.balances_in(setting, parameters),
        )

    @property
    def on_device(self) -> bool:
        """True if images stay on the device. Ingredients that only `fit` supports need loaders."""
        own = ("wrap_dataset", "augment_features")
        return self.images.train is not None and all(getattr(self.ingredients, name) is None for name in own)

    def seconds_in(self, state: Path | None) -> float:
        """Return the training seconds in a saved state; a state that cannot be resumed from is deleted."""
        if state is None or not state.exists():
            return 0.0
        try:
            return sum(record.seconds for record in read_state(state, saved_as(self.recipe))[2])
        except InputError:
            state.unlink()
            return 0.0

    def train(self, progress: Progress | None = None, state: Path | None = None) -> Iterator[EpochRecord]:
        """Train and yield one record per epoch. The ingredient `after` is applied later, by `outcome`."""
        train, num_classes = self.images.train, self.setting.num_classes
        ingredients = dataclasses.replace(self.ingredients, after=None)
        if self.on_device and train is not None:
            return fit_resident(
                self.model,
                train,
                recipe=self.recipe,
                num_classes=num_classes,
                ingredients=ingredients,
                prepare=self.images.view.normalize,
                state=state,
                save_every=SAVE_EVERY,
                progress=progress,
            )
        return fit(
            self.model,
            self.images.data.train.dataset,
            recipe=self.recipe,
            num_classes=num_classes,
            ingredients=ingredients,
            collate=collate,
            prepare=self.images.view.normalize,
            state=state,
            progress=progress,
        )

    def value(self) -> float:
        """Return the metric of the network as it stands, on the evaluation images."""
        split = split_head(self.model)
        with evaluating(self.model):
            head, features = self.aimed(self.head(split), self.balances), self.features(split, evaluation=True)
        return self.measured(head.logits(features).argmax(1))

    def measured(self, predicted: Tensor) -> float:
        """Return the metric of the predicted classes `(M,)` of the evaluation images."""
        labels, num_classes = self.images.evaluation_labels, self.setting.num_classes
        if self.metric.name == "balanced":
            return metrics.balanced_accuracy(labels, predicted, num_classes)
        value = float(self.metric.value(predicted[None], labels, num_classes))
        return (
            value if self.metric.name == "cost" else min(1.0, value)
        )  # weights of a prior may sum to a little more than 1

    def aimed(self, head: LinearHead, balances: float) -> LinearHead:
        """Return the head with `balances` times the logarithm of the target prior added to its logits, if there is one."""
        target = self.metric.log_target
        return head if target is None else adjust_logits(head, -target, balances)

    def head(self, split: SplitModel) -> LinearHead:
        """Return the head on the CPU, with the ingredients' slot `after` subtracted from its logits."""
        found = read_head(split.head)
        found = dataclasses.replace(found, weight=found.weight.cpu().clone(), bias=found.bias.cpu().clone())
        return found if self.ingredients.after is None else adjust_logits(found, self.ingredients.after().cpu(), 1.0)

    def features(self, split: SplitModel, *, evaluation: bool) -> Tensor:
        """Return `(N, D)` features on the CPU, of the evaluation images or of the training images."""
        found, precision = self.images, self.recipe.precision
        images = found.evaluation if evaluation else found.train
        if images is not None:
            return features_of(split.features, images, prepare=found.view.normalize, precision=precision).cpu().clone()
        loader = make_loader(found.evaluation_split if evaluation else found.data.train, found.view)
        return extract(split, loader, precision="bf16" if precision == "bf16" else "fp32").features

    def embeddings(self, split: SplitModel, head: LinearHead, *, evaluation: bool) -> Embeddings:
        """Return the same features with labels and the logits of `head`."""
        features = self.features(split, evaluation=evaluation)
        labels = self.images.evaluation_labels if evaluation else self.images.data.train.labels
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
        """Apply the head step and evaluate the result."""
        device = next(self.model.parameters()).device
        split = split_head(self.model)
        with evaluating(self.model):
            head = self.head(split)
            evaluation = self.embeddings(split, head, evaluation=True)
            needs_train = method.head_step or split_name == "test"
            train = self.embeddings(split, head, evaluation=False) if needs_train else None
        made, logits = HeadStep(head=head, balances=self.balances), None
        if method.head_step is not None and train is not None:
            heldout = evaluation if split_name == "val" else None
            trained = Trained(train=train, heldout=heldout, head=head, balances=self.balances, carried=carried)
            made = method.head_step(self.setting, parameters, trained)
            if heldout is not None and made.carry is not None and len(heldout) > 1:
                logits = self.cross_validated_logits(method.head_step, parameters, trained, heldout)
        head = self.aimed(made.head, made.balances)
        logits = head.logits(evaluation.features) if logits is None else logits
        predicted = logits.argmax(1)
        confusion = metrics.confusion_matrix(evaluation.labels, predicted, self.setting.num_classes)
        recall = metrics.recall(confusion)
        seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        inside = self.inside(split, train, evaluation, head) if split_name == "test" and train is not None else {}
        return Outcome(
            recall=tuple(None if math.isnan(value) else value for value in recall.tolist()),
            balanced_accuracy=float(recall.nanmean()),
            macro_f1=float(metrics.f1(confusion).nanmean()),
            g_mean=metrics.geometric_mean_recall(confusion),
            ece=metrics.overall_calibration_error(logits, evaluation.labels),
            class_counts=tuple(self.images.class_counts.tolist()),
            epochs=self.recipe.epochs,
            seconds=seconds,
            images_per_second=images_per_second,
            peak_memory=peak,
            curve=curve,
            inside=inside,
            carried=made.carry,
            score=None if self.metric.name == "balanced" else self.measured(predicted),
        )

    def cross_validated_logits(
        self, step: TakeStep, parameters: Parameters, trained: Trained, heldout: Embeddings
    ) -> Tensor:
        """Return `(M, C)` logits of the validation set, where each fold's head was made without that fold."""
        fold_of = stratified_folds(heldout.labels, min(FOLDS, len(heldout)), seed=self.setting.seed, name="head step")
        logits = torch.empty(len(heldout), trained.head.num_classes)
        for fold in range(int(fold_of.max()) + 1):
            rows = fold_of == fold
            others = heldout.select(~rows)
            made = step(self.setting, parameters, dataclasses.replace(trained, heldout=others))
            logits[rows] = self.aimed(made.head, made.balances).logits(heldout.features[rows])
        return logits

    def inside(
        self, split: SplitModel, train: Embeddings, evaluation: Embeddings, head: LinearHead
    ) -> Mapping[str, Any]:
        """Return diagnostics per class. They read the test set, so they are reported and choose nothing."""
        with_head = [one.seen_by(head) for one in (train, evaluation)]
        diagnosis = diagnose(
            *with_head,
            head=head,
            class_names=self.setting.class_names,
            heldout_split="test",
            top_k=usual_top_k(head.num_features),
            seed=self.recipe.seed,
        )
        found: dict[str, Any] = {name: _nullable(diagnosis[column]) for name, column in INSIDE.items()}
        augment, images = self.ingredients.augment, self.images.evaluation
        if isinstance(augment, BatchAugmenter) and images is not None:
            chosen = evenly_spread(evaluation.labels, MOST_IMAGES)
            pixels = images.images[chosen.to(images.images.device)].cpu()
            sample = torch.utils.data.TensorDataset(pixels, evaluation.labels[chosen])
            leak = measure_leak(
                _WithHead(split, head),
                augment.plan,
                torch.utils.data.DataLoader(sample, batch_size=512),
                prepare=self.images.view.normalize,
                precision=self.recipe.precision,
            )
            found["leak"] = _nullable(leak.leak)
        return found


def _nullable(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
