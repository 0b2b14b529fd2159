"""The reference loop for images that stay on the device: the same ingredients, order and random draws as `fit`.

Many batches are made at a time, and on CUDA a step is captured once as a graph and then replayed, because small networks
otherwise spend more time starting kernels than running them. Loader workers, several processes and feature augmentation
are left to `fit`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..augment.draw_key import DrawKey, is_whole, occurrence_of
from ..augment.sampler import EpochSampler
from ..errors import must
from ..functional import allocate
from ..functional.blocks import joined
from ..network.extraction import autocast, compute_dtype
from ..network.output_check import class_logits
from ..runtime.progress import Progress
from ..runtime.signals import stop_if_interrupted
from .ingredients import Criterion, Ingredients
from .one_logit import require_defined, require_logit
from .recipe import Recipe
from .state import EpochRecord, load_state, save_state, saved_as

_CHUNK_ON_CPU = 1024  # rows that are augmented at a time, rounded down to whole batches
_CHUNK = 8192
_WARM_UP = 3  # steps before a graph is captured, as torch requires; their changes are undone


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidentImages:
    """All images of a split on one device.

    Attributes:
        images: `(N, C, H, W)` uint8, or floating point in [0, 1].
        labels: `(N,)` int64, on the same device.

    Raises:
        InputError: Shapes or types are others, or there is no image.

    Example:
        >>> data = ResidentImages(images=torch.zeros(4, 3, 8, 8), labels=torch.tensor([0, 0, 1, 1]))
        >>> len(data)
        4
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or not (self.images.dtype == torch.uint8 or self.images.is_floating_point()):
            got = f"{self.images.dtype} {tuple(self.images.shape)}"
            raise must("images", "be (N, C, H, W), uint8 or floating point", got)
        if self.labels.shape != self.images.shape[:1]:
            raise must("labels", f"be {len(self.images)}, one per image", tuple(self.labels.shape))
        if not len(self.images):
            raise must("images", "be one at least", 0)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> ResidentImages:
        """Return the same images on another device."""
        return ResidentImages(images=self.images.to(device), labels=self.labels.to(device))


def fit_resident(
    model: nn.Module,
    train: ResidentImages,
    *,
    recipe: Recipe,
    num_classes: int,
    ingredients: Ingredients | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
    compiled: bool = False,
    captured: bool | None = None,
    state: Path | str | None = None,
    identity: str = "",
    save_every: float = 0.0,
    progress: Progress | None = None,
) -> Iterator[EpochRecord]:
    """Train like `fit`, with all images on the device of `train`; yield a record after every epoch.

    The model sees the same images in the same order as in `fit`, and without mixing ends with the same weights up to
    rounding. There is no validation set. `ingredients.augment` receives many batches at a time, so its key has a step
    for every row. If steps are captured, `ingredients.criterion` must return the same object while the loss does not
    change and another object when it changes, because numbers that a loss object holds are captured with it.

    Args:
        model: Any classifier that returns `(N, C)` logits, or one logit of two classes; see `fit`.
        train: The training images.
        recipe: Epochs, optimizer, learning rates and seed.
        num_classes: C, the number of the model's outputs; 2 for one logit.
        ingredients: What a method adds to the loop; None is plain training.
        prepare: Turns images of `train` into images as the model takes them; runs after `ingredients.augment`.
        compiled: Compile the model with `torch.compile`, which takes tens of seconds once.
        captured: Capture each step as a CUDA graph; None captures on CUDA and nowhere else.
        state: File in which the run is saved. If it exists, the run resumes from it, and the records of its epochs are
            yielded again first.
        identity: Name of the data and the model; a state with another identity or recipe is refused.
        save_every: Least number of seconds between two writes of the state. The last epoch's state is not written.
        progress: Called with (batches done, batches in total) over the whole run.

    Raises:
        InputError: The ingredients ask for something that only `fit` does, the state belongs to another run or is
            damaged, a label is not a class, or the loss is not finite.

    Example:
        >>> data = ResidentImages(images=torch.eye(4).view(4, 1, 2, 2).repeat(8, 1, 1, 1), labels=torch.arange(32) % 4)
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
        >>> recipe = Recipe(epochs=30, batch_size=8, warmup_epochs=0)
        >>> list(fit_resident(model, data, recipe=recipe, num_classes=4))[-1].accuracy_train
        1.0
    """
    ingredients = ingredients or Ingredients()
    for name in ("wrap_dataset", "augment_features", "after"):
        if getattr(ingredients, name) is not None:
            raise must(f"ingredients.{name}", "be left to fit", "one with images that stay on the device")
    _check_labels(train.labels, num_classes)
    device = train.images.device
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ingredients.to(device)
    captured = device.type == "cuda" if captured is None else captured
    loop = _Loop(model, train, recipe, num_classes, ingredients, prepare, captured, compiled, progress)
    setters = ingredients.epoch_setters(cast(Any, train), recipe.epochs)
    if hasattr(loop.sampler, "set_epoch"):  # first, because another setter may change the sampler afterwards
        setters = (loop.sampler.set_epoch, *setters)
    history: list[EpochRecord] = []
    run = saved_as(recipe, identity)
    if state is not None and Path(state).exists():
        history = load_state(Path(state), model, loop.optimizer, ingredients, run)
        yield from history
    saved = time.perf_counter()
    for epoch in range(len(history), recipe.epochs):
        started = time.perf_counter()
        for set_epoch in setters:
            set_epoch(epoch)
        with _fastest_convolutions():
            loss, accuracy, rows = loop.run_epoch(epoch)
        record = EpochRecord(
            epoch=epoch,
            learning_rate=recipe.rate_at(epoch),
            loss=loss,
            accuracy_train=accuracy,
            balanced_accuracy_val=None,
            recall_val=None,
            images=rows,
            seconds=time.perf_counter() - started,
        )
        history.append(record)
        if state is not None and epoch + 1 < recipe.epochs and time.perf_counter() - saved >= save_every:
            save_state(Path(state), model, loop.optimizer, ingredients, run, history)
            saved = time.perf_counter()
        yield record


@torch.inference_mode()
def features_of(
    backbone: Callable[[Tensor], Tensor],
    split: ResidentImages,
    *,
    prepare: Callable[[Tensor], Tensor] | None = None,
    precision: str = "fp32",
    batch_size: int = 2048,
) -> Tensor:
    """Return the features of all images without augmentation, `(N, D)` float32, on their device.

    The caller sets the model to eval mode.

    Example:
        >>> data = ResidentImages(images=torch.ones(4, 3, 2, 2), labels=torch.arange(4))
        >>> features_of(nn.Flatten(), data).shape
        torch.Size([4, 12])
    """

    def features(images: Tensor) -> Tensor:
        shown = (images if prepare is None else prepare(images)).contiguous(memory_format=torch.channels_last)
        with autocast(images.device, precision):
            made: Tensor = backbone(shown).float()
        return made

    return joined(map(features, split.images.split(batch_size)), len(split.images))


@contextlib.contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Let cuDNN try which of its kernels is fastest for each shape; there are few shapes, and they repeat."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _check_labels(labels: Tensor, num_classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise must("labels", f"lie in [0, {num_classes - 1}]", low if low < 0 else high)


class _Loop:
    """Everything that stays the same from step to step, and the methods that run an epoch."""

    def __init__(
        self,
        model: nn.Module,
        train: ResidentImages,
        recipe: Recipe,
        num_classes: int,
        ingredients: Ingredients,
        prepare: Callable[[Tensor], Tensor] | None,
        captured: bool,
        compiled: bool,
        progress: Progress | None,
    ) -> None:
        self.model, self.train, self.recipe, self.num_classes = model, train, recipe, num_classes
        self.ingredients, self.prepare, self.progress = ingredients, prepare, progress
        self.device = train.images.device
        self.sampler = ingredients.sampler or EpochSampler(len(train), seed=recipe.seed)
        size = recipe.batch_size
        self.chunk = max(1, (_CHUNK_ON_CPU if self.device.type == "cpu" else _CHUNK) // size) * size
        self.optimizer = build_optimizer(recipe, model, captured=captured)
        self.single: bool | None = None  # whether the model has one logit; known from its first batch
        self.step = (_Captured if captured else _Eager)(
            torch.compile(model, dynamic=False) if compiled else model, self.optimizer, recipe, num_classes, self.device
        )

    def run_epoch(self, epoch: int) -> tuple[float, float, int]:
        """Train for one epoch; return mean loss, accuracy and number of the rows that reached the loss."""
        recipe, adapt = self.recipe, self.ingredients.adapt
        order, occurrences = _order_of(self.sampler)
        order, occurrences = order.to(self.device), occurrences.to(self.device)
        criterion = self.ingredients.criterion(epoch)
        self.step.begin(recipe.rate_at(epoch))
        self.model.train()
        steps = -(-len(order) // recipe.batch_size)
        seen: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in range(0, len(order), self.chunk):
            stop_if_interrupted()
            rows = order[start : start + self.chunk]
            images, targets = self.make(rows, occurrences[start : start + self.chunk], epoch, start)
            if self.single is None and self.num_classes == 2:
                self.single = require_logit(self.model, images[: recipe.batch_size].permute(0, 3, 1, 2))
            if self.single and start == 0:
                require_defined(criterion)
            predicted = self.step.run(images, targets, criterion)
            if adapt is not None:
                labels = self.train.labels[rows]
                seen.append((labels, predicted.clone(), is_whole(targets, labels)))
            if self.progress is not None:
                done = min(len(order), start + self.chunk)
                self.progress(epoch * steps + -(-done // recipe.batch_size), recipe.epochs * steps)
        loss_sum, right = self.step.totals.tolist()
        if not math.isfinite(loss_sum):
            raise must("training loss", "stay finite", f"{loss_sum} in epoch {epoch}", "lower the learning rate")
        if adapt is not None:
            labels, predicted, whole = (torch.cat(column) for column in zip(*seen, strict=True))
            adapt.observe(labels[whole], predicted[whole])
            adapt.update(epoch)
        return loss_sum / len(order), right / len(order), len(order)

    def make(self, rows: Tensor, occurrences: Tensor, epoch: int, start: int) -> tuple[Tensor, Tensor]:
        """Return images as the model takes them, but with channels last, `(R, H, W, C)`, and their targets."""
        images, targets = self.train.images[rows], self.train.labels[rows]
        if self.ingredients.augment is not None:
            place = torch.arange(start, start + len(rows), device=self.device)
            key = DrawKey(
                seed=self.recipe.seed,
                epoch=epoch,
                step=place // self.recipe.batch_size,
                rows=place % self.recipe.batch_size,
                indices=rows,
                occurrences=occurrences,
            )
            images, targets = self.ingredients.augment(images, targets, key)
        if self.prepare is not None:
            images = self.prepare(images)
        return images.permute(0, 2, 3, 1), targets


def _order_of(sampler: Any) -> tuple[Tensor, Tensor]:
    """Return the rows of an epoch, `(R,)`, and how often each came before, `(R,)`."""
    if hasattr(sampler, "order"):
        order = sampler.order()
        return order, allocate.occurrences(order)
    drawn = list(sampler)
    return torch.tensor([int(row) for row in drawn]), torch.tensor([occurrence_of(row) for row in drawn])


def build_optimizer(recipe: Recipe, model: nn.Module, *, captured: bool) -> torch.optim.Optimizer:
    """Return the recipe's optimizer; for captured steps its learning rate is a tensor, which can be changed later.

    Example:
        >>> optimizer = build_optimizer(Recipe(learning_rate=0.5), nn.Linear(2, 2), captured=False)
        >>> optimizer.param_groups[0]["lr"]
        0.5
    """
    if not captured:
        return recipe.build_optimizer(model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate = torch.tensor(recipe.learning_rate, device=parameters[0].device)
    if recipe.optimizer == "adamw":
        decay = recipe.weight_decay
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True, capturable=True)
    return torch.optim.SGD(parameters, lr=rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True)


class _Eager:
    """Steps run one after the other by Python."""

    def __init__(
        self, model: Any, optimizer: torch.optim.Optimizer, recipe: Recipe, num_classes: int, device: torch.device
    ) -> None:
        self.model, self.optimizer, self.recipe, self.device = model, optimizer, recipe, device
        self.num_classes = num_classes
        self.totals = torch.zeros(2, dtype=torch.float64, device=device)

    def begin(self, rate: float) -> None:
        """Begin an epoch with this learning rate."""
        self.totals.zero_()
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def run(self, images: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
        """Take a step for every batch of these rows; return the predicted classes, `(R,)`."""
        size = self.recipe.batch_size
        batches = zip(images.split(size), targets.split(size), strict=True)
        return torch.cat([self.take(batch, wanted, criterion) for batch, wanted in batches])

    def take(self, images: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
        """Take one step on images `(B, H, W, C)`; return the classes predicted before it, `(B,)`."""
        with autocast(self.device, self.recipe.precision):
            logits = class_logits(self.model(images.permute(0, 3, 1, 2)), self.num_classes)
        loss = criterion(logits.float(), targets)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            predicted = logits.argmax(1)
            truth = targets if targets.ndim == 1 else targets.argmax(1)
            self.totals += torch.stack([loss.detach().double() * len(images), (predicted == truth).sum().double()])
        return cast(Tensor, predicted)


class _Captured(_Eager):
    """Steps captured as CUDA graphs, one for each loss and number of rows.

    A graph reads its rows from fixed buffers at a position on the device, which each replay advances.
    """

    def __init__(
        self, model: Any, optimizer: torch.optim.Optimizer, recipe: Recipe, num_classes: int, device: torch.device
    ) -> None:
        super().__init__(model, optimizer, recipe, num_classes, device)
        self.place = torch.zeros((), dtype=torch.int64, device=device)
        self.graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Criterion]] = {}
        self.images = self.targets = self.predicted = torch.empty(0)
        self.pool: Any = None

    def begin(self, rate: float) -> None:
        """Begin an epoch with this learning rate."""
        self.totals.zero_()
        for group in self.optimizer.param_groups:
            group["lr"].fill_(rate)

    def run(self, images: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
        """Take a step for every batch of these rows; return the predicted classes, `(R,)`."""
        rows, size = len(images), self.recipe.batch_size
        self.hold(images, targets)
        self.place.zero_()
        for start in range(0, rows, size):
            self.graph(criterion, min(size, rows - start)).replay()
        return self.predicted[:rows]

    def hold(self, images: Tensor, targets: Tensor) -> None:
        """Copy the rows into the buffers, which are made for the first chunk, the largest."""
        rows = len(images)
        if not len(self.images):
            dtype = compute_dtype(self.device, self.recipe.precision)
            self.images = torch.empty(images.shape, dtype=dtype, device=self.device)
            self.targets = torch.empty_like(targets)
            self.predicted = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self.images[:rows].copy_(images)
        self.targets[:rows].copy_(targets)

    def graph(self, criterion: Criterion, rows: int) -> torch.cuda.CUDAGraph:
        """Return the graph of a step with this loss on so many rows; it is captured on first use."""
        name = id(criterion), rows
        if name not in self.graphs:
            self.graphs[name] = self.capture(criterion, rows), criterion  # kept alive, so that its id stays unique
        return self.graphs[name][0]

    def step_in_place(self, criterion: Criterion, rows: int) -> None:
        """Take one step on the next rows of the buffers."""
        taken = self.place + torch.arange(rows, device=self.device)
        predicted = self.take(self.images.index_select(0, taken), self.targets.index_select(0, taken), criterion)
        self.predicted.index_copy_(0, taken, predicted)
        self.place += rows

    def capture(self, criterion: Criterion, rows: int) -> torch.cuda.CUDAGraph:
        """Capture one step as a graph; weights, statistics and momentum are restored afterwards."""
        before = self.everything()
        kept = {name: value.clone() for name, value in before.items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self.place.zero_()
                self.step_in_place(criterion, rows)
        torch.cuda.current_stream().wait_stream(stream)
        self.place.zero_()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            self.step_in_place(criterion, rows)
        self.pool = self.pool or graph.pool()
        for name, value in self.everything().items():
            if name in kept:
                value.copy_(kept[name])
            else:
                value.zero_()  # momentum does not exist before the first step
        return graph

    def everything(self) -> dict[str, Tensor]:
        """Return every tensor that a step changes."""
        model = getattr(self.model, "_orig_mod", self.model)
        kept = (*model.named_parameters(), *model.named_buffers())
        found = {f"model.{name}": value.detach() for name, value in kept}
        for place, state in enumerate(self.optimizer.state.values()):
            found |= {f"optimizer.{place}.{name}": v for name, v in state.items() if isinstance(v, Tensor)}
        return found | {"totals": self.totals, "place": self.place, "predicted": self.predicted}
