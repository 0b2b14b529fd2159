"""The reference training loop; methods differ only in the `Ingredients` that they put into it (`ingredients.py`).

`fit` yields a record per epoch. All randomness of an epoch depends on (seed, epoch) alone, so a run that is killed and
resumed from its last complete epoch ends with exactly the weights of an uninterrupted run.
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
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from ..augment.draw_key import DrawKey, is_whole, occurrence_of
from ..augment.protocols import AdjustsLogits, RemembersFeatures
from ..augment.sampler import EpochSampler
from ..errors import must
from ..functional import draws, metrics
from ..network.extraction import autocast, taking
from ..network.output_check import class_logits, describe_output
from ..network.split import ADAPTER, require_usable, split_head
from ..network.wrappers import evaluating
from ..runtime.launched import require_all_of_launcher
from ..runtime.progress import Progress
from ..runtime.signals import stop_if_interrupted
from ..runtime.user_code import describe, is_passed_on
from .ingredients import Ingredients
from .joined_norms import JoinedNorms, require_joinable
from .one_logit import require_defined, require_logit
from .recipe import Recipe
from .slices import GlobalBatch, Slice, SlicedBatches, require_global
from .state import EpochRecord, load_state, read_state, require_same_start, save_state, saved_as


class _Indexed(Dataset[Any]):
    """A data set whose collated batches are `(images, labels (N,), indices (N,), occurrences (N,), start, total)`.

    An example's occurrence is the number of times that it came before in the epoch. `start` and `total` say which slice of
    the global batch it is (`Slice`).
    """

    def __init__(self, dataset: Dataset[Any], collate: Callable[[Any], Any], num_classes: int) -> None:
        self.dataset, self.collate, self.num_classes = dataset, collate, num_classes

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitems__(self, indices: Slice) -> tuple[Tensor, Tensor, Tensor, Tensor, int, int]:
        fetch = getattr(self.dataset, "__getitems__", None)
        try:
            examples = fetch(indices) if fetch else [self.dataset[index] for index in indices]
            images, labels = self.collate(examples)
        except Exception as error:  # the user's data set may raise anything
            if is_passed_on(error):
                raise
            raise must("training set", "give its images", describe(error)) from error
        occurrences = torch.tensor([occurrence_of(index) for index in indices])
        checked = _checked(labels, self.num_classes)
        return images, checked, torch.tensor(indices), occurrences, indices.start, indices.total


def _collated_already(batch: Any) -> Any:
    return batch


def _checked(labels: Tensor, num_classes: int) -> Tensor:
    """Return labels `(N,)` or `(N, 1)` of any integer type as `(N,)` int64.

    Of two classes, booleans and the numbers 0.0 and 1.0 are taken too, as they are for `BCEWithLogitsLoss`.

    Raises:
        InputError: The labels are not integers, or one is outside `[0, num_classes - 1]`.
    """
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if num_classes == 2 and labels.ndim == 1 and bool(((labels == 0) | (labels == 1)).all()):
        labels = labels.long()
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise must("labels", "be integers", str(labels.dtype).removeprefix("torch."))
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        raise must("labels", f"lie in [0, {num_classes - 1}]", int(labels[outside][0]))
    return labels.long()


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generators of torch, NumPy and Python within the block, and restore their states afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - users' data sets use it
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
    """The rows of a batch that reach the loss, and the network's logits for the batch's own images."""

    logits: Tensor
    targets: Tensor
    own_logits: Tensor
    whole: Tensor  # `(N,)` bool: images that were not mixed with an image of another class
    single: bool = False  # the network has one logit z; the logits are (0, z)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Loop:
    """Everything that stays the same from step to step, and the methods that run an epoch."""

    accelerator: Accelerator
    model: nn.Module
    frozen: tuple[nn.Module, ...]  # batch norms that stay in eval mode
    network: nn.Module  # the model, or its split into backbone and head; wrapped for several processes
    head: nn.Module | None  # set if features are augmented
    corrected: nn.Linear | None  # the head whose bias takes the prior correction after training
    epoch_setters: tuple[Callable[[int], None], ...]  # `set_epoch` of the parts that have one
    optimizer: torch.optim.Optimizer
    loader: Any  # prepared by accelerate
    generator: torch.Generator  # of the loader: it seeds the worker processes
    recipe: Recipe
    ingredients: Ingredients
    num_classes: int
    prepare: Callable[[Tensor], Tensor] | None
    progress: Progress | None
    first_epoch: int = 0  # above 0 in a resumed run

    def run_epoch(self, epoch: int) -> tuple[float, float, int]:
        """Train for one epoch; return mean loss, accuracy and number of the rows that reached the loss.

        All three are over all processes.
        """
        seed, process, device = self.recipe.seed, self.accelerator.process_index, self.accelerator.device
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate_at(epoch)
        self.loader.set_epoch(epoch)  # and its sampler's; otherwise accelerate counts from 0 in a resumed run
        for set_epoch in self.epoch_setters:
            set_epoch(epoch)
        self.generator.manual_seed(draws.seed_for("workers", seed, epoch, process))
        criterion = self.ingredients.criterion(epoch)
        totals = torch.zeros(3, dtype=torch.float64, device=device)  # loss, right, rows
        views: list[tuple[Tensor, Tensor, Tensor]] = []  # label, prediction, whether the image is whole
        steps = len(self.loader)
        self.model.train()
        for module in self.frozen:
            module.eval()
        norms = JoinedNorms(several=self.accelerator.num_processes > 1)
        with _seeded(draws.seed_for("epoch", seed, epoch, process), device), norms.joined():
            for step, (images, labels, indices, occurrences, start, total) in enumerate(self.loader):
                stop_if_interrupted()
                batch = norms.batch = GlobalBatch(process, self.accelerator.num_processes, total)
                places = None if batch.is_whole else start + torch.arange(len(images), device=device)
                key = DrawKey(seed=seed, epoch=epoch, step=step, indices=indices, occurrences=occurrences, rows=places)
                rows = self.forward(images, labels, key, batch)
                logits, targets = rows.logits, rows.targets
                if step == 0:
                    _check_logits(logits, self.num_classes)
                    if rows.single:
                        require_defined(criterion)
                adjusted = self.adjusted(logits.float(), targets)
                sizes = batch.sizes(len(logits), may_change=self.ingredients.augment_features is not None)
                loss = criterion(batch.joined(adjusted, sizes), batch.joined(targets, sizes))
                self.accelerator.backward(batch.summed(loss, adjusted))
                self.optimizer.step()
                self.optimizer.zero_grad()
                with torch.no_grad():
                    own = sizes[process]
                    truth = targets if targets.ndim == 1 else targets.argmax(1)
                    right = (logits.argmax(1) == truth)[:own].sum()
                    totals += torch.stack([loss.detach() * own, right, right.new_tensor(own)]).double()
                    if self.ingredients.adapt is not None:
                        real = slice(batch.own)
                        views.append((labels[real], rows.own_logits.argmax(1)[real], rows.whole[real]))
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

    def forward(self, images: Tensor, targets: Tensor, key: DrawKey, batch: GlobalBatch) -> _Rows:
        """Run a batch through the augmentations on the device and through the network."""
        part, labels = self.ingredients.augment_features, targets
        if self.ingredients.augment is not None:
            images, targets = self.ingredients.augment(images, targets, key)
            targets = batch.of_one_form(targets, self.num_classes)
        whole = is_whole(targets, labels)
        if self.prepare is not None:
            images = self.prepare(images)
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast(self.accelerator.device, self.recipe.precision):
            first = key.epoch == self.first_epoch and key.step == 0
            outputs = self.try_network(images) if first else self.network(images)
            if part is None or self.head is None:
                logits = class_logits(outputs, self.num_classes)
                if first and logits is not outputs:
                    require_logit(self.model, images)
                return _Rows(
                    logits=logits, targets=targets, own_logits=logits, whole=whole, single=logits is not outputs
                )
            features, own_logits = outputs
            if isinstance(part, RemembersFeatures):
                seen = (features.detach().float(), targets, key.indices)
                part.remember(*(batch.joined(column, batch.expected) for column in seen))
            features, targets = part(features, targets, key)
            targets = batch.of_one_form(targets, self.num_classes)
            outputs = self.head(features)
            logits = class_logits(outputs, self.num_classes)
            return _Rows(
                logits=logits, targets=targets, own_logits=own_logits, whole=whole, single=logits is not outputs
            )

    def adjusted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the logits that the loss sees: changed by the feature augmentation if it adjusts logits."""
        part = self.ingredients.augment_features
        if not isinstance(part, AdjustsLogits) or not isinstance(self.head, nn.Linear):
            return logits
        weight = self.head.weight
        if len(weight) == 1:  # one logit z, read as (0, z)
            weight = torch.cat([torch.zeros_like(weight), weight])
        return part.adjust_logits(logits, targets, weight)

    def try_network(self, images: Tensor) -> Any:
        """Return the network's output.

        Raises:
            InputError: The network does not take such images.
        """
        with taking(images):
            return self.network(images)

    def recall_on(self, val: DataLoader[Any] | None, *, last: bool) -> Tensor | None:
        """Return the recall per class on the validation set, with the prior correction applied; None without one.

        After the last epoch the correction stays in the head.
        """
        with _bias_lowered(self.corrected, self.ingredients.after, keep=last):
            if val is None:
                return None
            return evaluate(self.model, val, num_classes=self.num_classes, precision=self.recipe.precision)


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
    """Train `model` in place; yield a record after every epoch.

    A batch norm that the user froze stays frozen: it stays in eval mode with its running statistics unchanged. It
    counts as frozen if it is in eval mode at the start while the model is in training mode, or if it is in eval mode
    with a weight and a bias that require no gradient.

    A model with one logit z, `(N, 1)` or `(N,)`, has two classes with the logits (0, z): cross entropy is then binary
    cross entropy of z, and everything that acts per class acts as with two outputs. Its labels may be 0.0 and 1.0.

    Under a launcher of several processes (torchrun, accelerate), each step has the batch of one process: every process
    takes a slice of it, and the loss, its gradient and the batch norms are those of the whole batch. So the trained network
    is that of one process to floating-point order, and a run may be resumed with another number of processes. What depends
    on the slice differs: dropout and transforms of the data set that draw from torch, NumPy or `random` draw other numbers,
    and where partners for mixing come from the batch, they come from the slice.

    Args:
        model: Any classifier that returns `(N, C)` logits, or one logit of two classes.
        train: Map-style data set of `(image, label)`.
        recipe: Epochs, optimizer, learning rates and seed.
        num_classes: C, the number of the model's outputs; 2 for one logit.
        ingredients: What a method adds to the loop; None is plain training.
        val: Batches of `(images, labels)` as the model takes them, for `balanced_accuracy_val`; never the test set.
        collate: Makes `(images, labels)` of a list of examples, or of the result of the data set's `__getitems__`.
        prepare: Turns images as the data set gives them into images as the model takes them; runs after
            `ingredients.augment`.
        workers: Worker processes that load images.
        state: File in which the run is saved after every epoch. If it exists, the run resumes from it, and the records
            of its epochs are yielded again first.
        identity: Name of the data and the model; a state with another identity or recipe is refused.
        progress: Called with (batches done, batches in total) over the whole run.

    Raises:
        InputError: The state belongs to another run or is damaged, the loss is not finite, a label is not a class, the
            data set fails, no parameter requires a gradient, or the model does not take the images or does not return
            `(N, C)` logits. Or the model has one logit and returns its sigmoid, or the loss is `VectorScaling`, whose
            factors per class one logit does not define.

    See Also:
        `fit_resident`, which is faster when all images fit on the device.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> data = TensorDataset(torch.eye(6).repeat(4, 1), torch.arange(6).repeat(4))
        >>> recipe = Recipe(epochs=20, batch_size=8, warmup_epochs=0)
        >>> records = list(fit(nn.Linear(6, 6), data, recipe=recipe, num_classes=6))
        >>> len(records), records[-1].accuracy_train
        (20, 1.0)
    """
    ingredients = ingredients or Ingredients()
    loop = _prepared(model, train, recipe, num_classes, ingredients, collate, prepare, workers, progress)
    history: list[EpochRecord] = []
    run = saved_as(recipe, identity)
    if state is not None and Path(state).exists():
        history = load_state(Path(state), model, loop.optimizer, ingredients, run)
    if loop.accelerator.num_processes > 1:
        require_same_start(history, model, len(cast(Sized, train)), run)
    yield from history

    loop = dataclasses.replace(loop, first_epoch=len(history))
    for epoch in range(len(history), recipe.epochs):
        started = time.perf_counter()
        loss, accuracy, rows = loop.run_epoch(epoch)
        recall = loop.recall_on(val, last=epoch == recipe.epochs - 1)
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
        if state is not None and loop.accelerator.is_main_process:
            save_state(Path(state), model, loop.optimizer, ingredients, run, history)
        yield record


def _prepared(
    model: nn.Module,
    train: Dataset[Any],
    recipe: Recipe,
    num_classes: int,
    ingredients: Ingredients,
    collate: Callable[[Any], Any],
    prepare: Callable[[Tensor], Tensor] | None,
    workers: int,
    progress: Progress | None,
) -> _Loop:
    """Check the parts of a run and move them to the device."""
    require_usable(model)
    if num_classes < 2:
        raise must("num_classes", "be at least 2", num_classes, "a model with one logit has the classes 0 and 1")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        advice = "unfreeze some with requires_grad_(True)"
        raise must("model", "have a parameter that requires a gradient", "none", advice)
    frozen = _frozen_norms(model)
    corrected = None if ingredients.after is None else _with_bias(split_head(model).head)
    if ingredients.wrap_dataset is not None:
        train = ingredients.wrap_dataset(train)
    if len(cast(Sized, train)) == 0:
        raise must("training set", "have at least one image", 0)
    require_all_of_launcher()
    # Without cpu=True, processes that torchrun starts on a machine without an accelerator would not find each other.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    if accelerator.mixed_precision != "no":
        raise must("mixed precision of accelerate", "be no", accelerator.mixed_precision, "the recipe has a precision")
    if accelerator.num_processes > 1:
        require_joinable(model)
    indexed = _Indexed(train, collate, num_classes)
    loader = _sliced(indexed, ingredients.sampler, recipe, accelerator, workers)
    model.to(device=accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ingredients.to(accelerator.device)
    split = split_head(model) if ingredients.augment_features is not None else None
    if split is not None:
        ingredients.require_head(split.head)
    network, optimizer = accelerator.prepare(split or model, recipe.build_optimizer(model))
    vars(model).pop("_is_accelerate_prepared", None)  # leave no trace on the user's model
    return _Loop(
        accelerator=accelerator,
        model=model,
        frozen=frozen,
        network=network,
        head=None if split is None else split.head,
        corrected=corrected,
        epoch_setters=ingredients.epoch_setters(train, recipe.epochs),
        optimizer=optimizer,
        loader=prepare_data_loader(  # it is sharded already
            loader, accelerator.device, num_processes=1, process_index=0, put_on_device=True
        ),
        generator=loader.generator,
        recipe=recipe,
        ingredients=ingredients,
        num_classes=num_classes,
        prepare=prepare,
        progress=progress,
    )


def _sliced(
    indexed: _Indexed, sampler: Sampler[int] | None, recipe: Recipe, accelerator: Accelerator, workers: int
) -> DataLoader[Any]:
    """Return the loader of this process's slice of every batch."""
    sampler = sampler or EpochSampler(len(indexed), seed=recipe.seed)
    require_global(sampler)
    slices = SlicedBatches(
        sampler, recipe.batch_size, process=accelerator.process_index, processes=accelerator.num_processes
    )
    return DataLoader(
        indexed,
        batch_sampler=slices,
        num_workers=workers,
        collate_fn=_collated_already,
        generator=torch.Generator(),
    )


def _frozen_norms(model: nn.Module) -> tuple[nn.Module, ...]:
    """Return the batch norms that stay in eval mode; `fit` documents which."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and not module.training]
    own = {norm: list(norm.parameters(recurse=False)) for norm in norms}
    return tuple(
        norm for norm in norms if model.training or (own[norm] and not any(p.requires_grad for p in own[norm]))
    )


def _with_bias(head: nn.Module) -> nn.Linear:
    """Return the head if a prior correction can be folded into its bias.

    Raises:
        InputError: It is not a linear layer with a bias.
    """
    if isinstance(head, nn.Linear) and head.bias is not None:
        return head
    kind = "one without a bias" if isinstance(head, nn.Linear) else type(head).__name__
    advice = "leave the correction after training out, and correct in training instead"
    raise must("head", "be a linear layer with a bias, for a prior correction after training", kind, advice)


@contextlib.contextmanager
def _bias_lowered(head: nn.Linear | None, after: Callable[[], Tensor] | None, *, keep: bool) -> Iterator[None]:
    """Subtract `after()` from the head's bias within the block; afterwards restore it exactly, unless `keep`."""
    if head is None or after is None:
        yield
        return
    before = head.bias.detach().clone()
    done = False
    try:
        correction = after().to(head.bias)
        with torch.no_grad():
            head.bias.sub_(correction if len(head.bias) > 1 else correction[1:] - correction[:1])
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
    """Return the recall per class, `(C,)` float64; NaN for a class without examples.

    The modes of the model's modules and the states of the random generators are restored afterwards. A loader that
    draws random numbers draws the same ones in every call.

    Args:
        model: A classifier that returns `(N, C)` logits, or one logit of two classes.
        loader: Batches of `(images, labels)` as the model takes them.
        num_classes: C, the number of the model's outputs; 2 for one logit.
        precision: "fp32", "bf16" or "auto".

    Raises:
        InputError: A label is not a class, or the model does not return `(N, C)` logits.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> data = TensorDataset(torch.eye(3)[[0, 0, 1, 2]], torch.tensor([0, 1, 1, 1]))
        >>> model = nn.Linear(3, 3, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(3))
        >>> [round(value, 2) for value in evaluate(model, DataLoader(data), num_classes=3).tolist()]
        [1.0, 0.33, nan]
    """
    device = next(model.parameters()).device
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    with _seeded(0, device), evaluating(model), torch.inference_mode(), autocast(device, precision):
        for images, labels in loader:
            images = images.to(device)
            if images.ndim == 4:
                images = images.contiguous(memory_format=torch.channels_last)
            logits = class_logits(model(images), num_classes)
            _check_logits(logits, num_classes)
            confusion += metrics.confusion_matrix(_checked(labels, num_classes), logits.argmax(1).cpu(), num_classes)
    return metrics.recall(confusion)


def require_resumable(state: Path | str, *, recipe: Recipe, identity: str = "") -> None:
    """Check that `fit` can resume from a saved state.

    Args:
        state: The file that `fit` wrote.
        recipe: The recipe that the run is to be resumed with.
        identity: The identity that the run is to be resumed with.

    Raises:
        InputError: The state belongs to another run, or is damaged.

    Example:
        >>> import tempfile
        >>> from torch.utils.data import TensorDataset
        >>> recipe, data = Recipe(epochs=1, warmup_epochs=0), TensorDataset(torch.eye(2), torch.arange(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     state = Path(folder) / "state.safetensors"
        ...     _ = list(fit(nn.Linear(2, 2), data, recipe=recipe, num_classes=2, state=state))
        ...     require_resumable(state, recipe=recipe)
    """
    read_state(Path(state), saved_as(recipe, identity))
