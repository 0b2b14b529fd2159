"""The one reference loop. Methods differ only in the `Ingredients` they put into it (`ingredients.py`).

`fit` yields a record per epoch. All chance in an epoch is a function of (seed, epoch), so a run that is killed and
resumed from its last whole epoch ends with the same weights, to the bit, as one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import time
from collections.abc import Callable, Iterator, Sized
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Dataset, default_collate

from ..augment.draw_key import DrawKey, is_whole
from ..augment.sampler import EpochSampler
from ..errors import must
from ..functional import draws, metrics
from ..network.extraction import autocast, taking
from ..network.output_check import describe_output
from ..network.split import ADAPTER, require_usable, split_head
from ..network.wrappers import evaluating
from ..runtime.user_code import describe, is_passed_on
from .ingredients import Ingredients
from .recipe import Recipe
from .state import EpochRecord, load_state, read_state, save_state, saved_as

Progress = Callable[[int, int], None]


class _Indexed(Dataset[Any]):
    """A data set whose batches, collated, also say which examples they are, and how often each came before in the epoch.

    `(images, labels (N,), indices (N,), occurrences (N,))`.
    """

    def __init__(self, dataset: Dataset[Any], collate: Callable[[Any], Any], num_classes: int) -> None:
        self.dataset, self.collate, self.num_classes = dataset, collate, num_classes

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        fetch = getattr(self.dataset, "__getitems__", None)
        try:
            examples = fetch(indices) if fetch else [self.dataset[index] for index in indices]
            images, labels = self.collate(examples)
        except Exception as error:  # whatever a data set of the user's raises
            if is_passed_on(error):
                raise
            raise must("training set", "give its images", describe(error)) from error
        occurrences = torch.tensor([getattr(index, "occurrence", 0) for index in indices])
        return images, _checked(labels, self.num_classes), torch.tensor(indices), occurrences


def _as_it_is(batch: Any) -> Any:
    return batch


def _checked(labels: Tensor, num_classes: int) -> Tensor:
    """Labels `(N,)` or `(N, 1)` of any integer type as `(N,)` int64, or an error when one is no class."""
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise must("labels", "be integers", str(labels.dtype).removeprefix("torch."))
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        raise must("labels", f"lie in [0, {num_classes - 1}]", int(labels[outside][0]))
    return labels.long()


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch, NumPy and Python draw from `seed` within the block; afterwards each goes on from where it was."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - users' data sets draw from it
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % (1 << 32))  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rows:
    """What reaches the loss of a batch, and the network's logits of the batch's own images."""

    logits: Tensor
    targets: Tensor
    own_logits: Tensor
    whole: Tensor  # `(N,)` bool: the images that are of their own label alone


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Loop:
    """One epoch of training, and what stays the same from step to step."""

    accelerator: Accelerator
    model: nn.Module
    frozen: tuple[nn.Module, ...]  # batch norms that stay in eval mode
    network: nn.Module  # the model, or its split into backbone and head; wrapped for several processes
    head: nn.Module | None  # where features are augmented
    epoch_setters: tuple[Callable[[int], None], ...]  # of the parts that are told the epoch
    optimizer: torch.optim.Optimizer
    loader: Any  # of accelerate's
    generator: torch.Generator  # of the loader: it seeds the worker processes
    dataset: Dataset[Any]
    recipe: Recipe
    ingredients: Ingredients
    num_classes: int
    prepare: Callable[[Tensor], Tensor] | None
    progress: Progress | None
    first_epoch: int  # 0, or the one at which a resumed run goes on

    def run_epoch(self, epoch: int) -> tuple[float, float, int]:
        """Trains; mean loss, accuracy and number of the rows that reached the loss, over all processes."""
        seed, process, device = self.recipe.seed, self.accelerator.process_index, self.accelerator.device
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate_at(epoch)
        self.loader.set_epoch(epoch)  # and its sampler's; accelerate would else count from 0 in a resumed run
        for set_epoch in self.epoch_setters:
            set_epoch(epoch)
        self.generator.manual_seed(draws.seed_for("workers", seed, epoch, process))
        criterion = self.ingredients.criterion(epoch)
        totals = torch.zeros(3, dtype=torch.float64, device=device)  # loss, right, rows
        views: list[tuple[Tensor, Tensor, Tensor]] = []  # label, prediction, whether it was mixed with no other image
        steps = len(self.loader)
        self.model.train()
        for module in self.frozen:
            module.eval()
        with _seeded(draws.seed_for("epoch", seed, epoch, process), device):
            for step, (images, labels, indices, occurrences) in enumerate(self.loader):
                place = step * self.accelerator.num_processes + process  # so that no two processes draw the same
                key = DrawKey(seed=seed, epoch=epoch, step=place, indices=indices, occurrences=occurrences)
                rows = self.forward(images, labels, key)
                logits, targets = rows.logits, rows.targets
                if step == 0:
                    _check_logits(logits, self.num_classes)
                loss = criterion(self.adjusted(logits.float(), targets), targets)
                self.accelerator.backward(loss)
                self.optimizer.step()
                self.optimizer.zero_grad()
                with torch.no_grad():
                    truth = targets if targets.ndim == 1 else targets.argmax(1)
                    right = (logits.argmax(1) == truth).sum()
                    totals += torch.stack([loss.detach() * len(logits), right, right.new_tensor(len(logits))]).double()
                    if self.ingredients.adapt is not None:
                        views.append((labels, rows.own_logits.argmax(1), rows.whole))
                if self.progress is not None:
                    self.progress(epoch * steps + step + 1, self.recipe.epochs * steps)
        loss_sum, right_sum, count = self.accelerator.reduce(totals).tolist()
        if not math.isfinite(loss_sum):
            raise must("training loss", "stay finite", f"{loss_sum} in epoch {epoch}", "lower the learning rate")
        if self.ingredients.adapt is not None:
            seen, predicted, whole = (torch.cat(column) for column in zip(*views, strict=True))
            self.ingredients.adapt.observe(seen[whole], predicted[whole])
            self.ingredients.adapt.update(epoch)
        return loss_sum / count, right_sum / count, int(count)

    def forward(self, images: Tensor, targets: Tensor, key: DrawKey) -> _Rows:
        """A batch through the augmentations on the device and the network."""
        part, labels = self.ingredients.augment_features, targets
        if self.ingredients.augment is not None:
            images, targets = self.ingredients.augment(images, targets, key)
        whole = is_whole(targets, labels)
        if self.prepare is not None:
            images = self.prepare(images)
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast(self.accelerator.device, self.recipe.precision):
            first = key.epoch == self.first_epoch and key.step < self.accelerator.num_processes
            outputs = self.try_network(images) if first else self.network(images)
            if part is None or self.head is None:
                return _Rows(logits=outputs, targets=targets, own_logits=outputs, whole=whole)
            features, own_logits = outputs
            if hasattr(part, "remember"):
                part.remember(*self.accelerator.gather((features.detach().float(), targets, key.indices)))
            features, targets = part(features, targets, key)
            return _Rows(logits=self.head(features), targets=targets, own_logits=own_logits, whole=whole)

    def adjusted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The logits that the loss sees, where the augmentation of features has a say in them."""
        adjust = getattr(self.ingredients.augment_features, "adjust_logits", None)
        if adjust is None or not isinstance(self.head, nn.Linear):
            return logits
        return adjust(logits, targets, self.head.weight)  # type: ignore[no-any-return]

    def try_network(self, images: Tensor) -> Any:
        """What the network gives; an InputError where it does not take such images."""
        with taking(images):
            return self.network(images)


def fit(
    model: nn.Module,
    train: Dataset[Any],
    *,
    recipe: Recipe,
    num_classes: int,
    ingredients: Ingredients | None = None,
    val: DataLoader[Any] | None = None,
    collate: Callable[[Any], Any] = default_collate,
    prepare: Callable[[Tensor], Tensor] | None = None,
    workers: int = 0,
    state: Path | str | None = None,
    identity: str = "",
    progress: Progress | None = None,
) -> Iterator[EpochRecord]:
    """Train `model` in place; yields a record after every epoch.

    A batch norm that its owner froze stays frozen: in eval mode, its running statistics as they are. It counts as frozen
    when it is in eval mode at the start while the model is in training mode, or in eval mode with a weight and a bias of
    which none requires a gradient.

    Args:
        train: Map-style data set of `(image, label)`.
        num_classes: Outputs of the model.
        val: Batches of `(images, labels)` as the model sees them, for `balanced_accuracy_val`; never the test set.
        collate: Makes `(images, labels)` of a list of examples (or of what the data set's `__getitems__` returns).
        prepare: Images as the data set gives them to images as the model sees them, after `ingredients.augment`.
        state: A file that keeps the run: written whole after every epoch. If it is there, the run goes on from it, and
            the records of the epochs it holds are yielded again first.
        identity: What the run is about (data, model); a state of another identity or recipe is refused.
        progress: Called with (batches done, batches in all) over the whole run.

    Raises:
        InputError: the state belongs to another run or is damaged, the loss is not finite, a label is no class, the
            data set fails, no parameter requires a gradient, or the model does not take its images or does not return
            `(N, C)` logits.
    """
    require_usable(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        advice = "unfreeze some with requires_grad_(True)"
        raise must("model", "have a parameter that requires a gradient", "none", advice)
    frozen = _frozen_norms(model)
    ingredients = ingredients or Ingredients()
    adjusted = None if ingredients.after is None else _with_bias(split_head(model).head)
    if ingredients.wrap_dataset is not None:
        train = ingredients.wrap_dataset(train)
    if len(cast(Sized, train)) == 0:
        raise must("training set", "have at least one image", 0)
    # without cpu=True, processes that torchrun starts on a machine without an accelerator would not find each other
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    if accelerator.mixed_precision != "no":
        raise must("mixed precision of accelerate", "be no", accelerator.mixed_precision, "the recipe has a precision")
    generator = torch.Generator()
    loader = DataLoader(
        _Indexed(train, collate, num_classes),
        batch_size=recipe.batch_size,
        sampler=ingredients.sampler or EpochSampler(len(cast(Sized, train)), seed=recipe.seed),
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=generator,
    )
    model.to(device=accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ingredients.to(accelerator.device)
    split = split_head(model) if ingredients.augment_features is not None else None
    if split is not None:
        ingredients.require_head(split.head)
    network, optimizer, loader = accelerator.prepare(split or model, recipe.build_optimizer(model), loader)
    vars(model).pop("_is_accelerate_prepared", None)  # leave no trace

    history: list[EpochRecord] = []
    run = saved_as(recipe, identity)
    if state is not None and Path(state).exists():
        history = load_state(Path(state), model, optimizer, ingredients, run)
        yield from history

    loop = _Loop(
        accelerator=accelerator,
        model=model,
        frozen=frozen,
        network=network,
        head=None if split is None else split.head,
        epoch_setters=ingredients.epoch_setters(train, recipe.epochs),
        optimizer=optimizer,
        loader=loader,
        generator=generator,
        dataset=train,
        recipe=recipe,
        ingredients=ingredients,
        num_classes=num_classes,
        prepare=prepare,
        progress=progress,
        first_epoch=len(history),
    )
    for epoch in range(len(history), recipe.epochs):
        started = time.perf_counter()
        loss, accuracy, rows = loop.run_epoch(epoch)
        with _less(adjusted, ingredients.after, keep=epoch == recipe.epochs - 1):
            recall = None if val is None else evaluate(model, val, num_classes=num_classes, precision=recipe.precision)
        record = EpochRecord(
            epoch=epoch,
            learning_rate=recipe.rate_at(epoch),
            loss=loss,
            accuracy_train=accuracy,
            balanced_accuracy_val=None if recall is None else _or_none(float(recall.nanmean())),
            recall_val=None if recall is None else [_or_none(value) for value in recall.tolist()],
            images=rows,
            seconds=time.perf_counter() - started,
        )
        history.append(record)
        if state is not None and accelerator.is_main_process:
            save_state(Path(state), model, optimizer, ingredients, run, history)
        yield record


def _frozen_norms(model: nn.Module) -> tuple[nn.Module, ...]:
    """The batch norms that are to stay in eval mode, as the docstring of `fit` says."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and not module.training]
    own = {norm: list(norm.parameters(recurse=False)) for norm in norms}
    return tuple(
        norm for norm in norms if model.training or (own[norm] and not any(p.requires_grad for p in own[norm]))
    )


def _with_bias(head: nn.Module) -> nn.Linear:
    """The head, if what is subtracted from its logits can be folded into it."""
    if isinstance(head, nn.Linear) and head.bias is not None:
        return head
    kind = "one without a bias" if isinstance(head, nn.Linear) else type(head).__name__
    advice = "leave the correction after training out, and correct in training instead"
    raise must("head", "be a linear layer with a bias, for a prior correction after training", kind, advice)


@contextlib.contextmanager
def _less(head: nn.Linear | None, after: Callable[[], Tensor] | None, *, keep: bool) -> Iterator[None]:
    """The head's bias less `after()` within the block, and with `keep` from then on; else it is put back, to the bit."""
    if head is None or after is None:
        yield
        return
    before = head.bias.detach().clone()
    done = False
    try:
        with torch.no_grad():
            head.bias.sub_(after().to(head.bias))
        yield
        done = True
    finally:
        if not (done and keep):
            with torch.no_grad():
                head.bias.copy_(before)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _check_logits(logits: object, num_classes: int) -> None:
    if not isinstance(logits, Tensor):
        raise must("model", "return one tensor of logits", describe_output(logits), ADAPTER)
    if logits.ndim != 2 or logits.shape[1] != num_classes:
        raise must("model", f"return logits of shape (N, {num_classes})", tuple(logits.shape))


def evaluate(model: nn.Module, loader: DataLoader[Any], *, num_classes: int, precision: str = "fp32") -> Tensor:
    """`(C,)` float64: recall per class, NaN for a class without examples.

    The model's own modes are restored, and so is the state of chance; a loader that draws draws the same every time.
    """
    device = next(model.parameters()).device
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    with _seeded(0, device), evaluating(model), torch.inference_mode(), autocast(device, precision):
        for images, labels in loader:
            images = images.to(device)
            if images.ndim == 4:
                images = images.contiguous(memory_format=torch.channels_last)
            logits = model(images)
            _check_logits(logits, num_classes)
            confusion += metrics.confusion_matrix(_checked(labels, num_classes), logits.argmax(1).cpu(), num_classes)
    return metrics.recall(confusion)


def require_resumable(state: Path | str, *, recipe: Recipe, identity: str = "") -> None:
    """Nothing, when `fit` would go on from this state; else the InputError that it would raise."""
    read_state(Path(state), saved_as(recipe, identity))
