"""The repair of a classifier's last layer on a frozen backbone: free fixes, and retraining by a plan in seconds."""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..augment.features import FeatureAugmenter
from ..errors import must
from ..functional import counts, draws, oversample
from ..functional.losses import prior_corrected_cross_entropy
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead, read_head
from ..plan.plan import Plan
from .post_hoc import adjust_logits

_SQUARED_LENGTH = 64.0  # of the features for which learning rates are given
_BLOCK = 64  # steps, at most, whose rows are drawn and varied at a time
_TOGETHER = 1 << 20  # numbers that these rows have
_SMALL = 1 << 24  # multiply-adds of a step, below which several threads wait for each other longer than they work

Progress = Callable[[int, int], None]


# Retraining


@dataclass(frozen=True, kw_only=True)
class HeadRecipe:
    """How a head is retrained: SGD with momentum on a cosine schedule, beginning at the old head.

    `learning_rate` is for features whose squared length is 64 on average, as those of a CIFAR ResNet are; for others it
    changes in inverse proportion, as the largest stable step does. Features shorter than 1 are trained on at length 1, and
    the head is scaled back: the steps that they ask for would be too large for the bias and for the decay. `weight_decay`
    spares the bias. Without `bias` the bias stays as it is, for a module that has none.
    """

    steps: int = 1500
    batch_size: int = 256
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    bias: bool = True

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise must(name, f"be an integer of at least {least}", value)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "float" and not (isinstance(value, numbers.Real) and 0 <= float(value) < math.inf):
                raise must(field.name, "not be negative, and finite", repr(value))
        if self.momentum >= 1:
            raise must("momentum", "be below 1", self.momentum)


DEFAULT = HeadRecipe()


def retrain_head(
    embeddings: Embeddings,
    head: nn.Module | LinearHead,
    plan: Plan,
    *,
    seed: int = 0,
    steps: int = DEFAULT.steps,
    batch_size: int = DEFAULT.batch_size,
    learning_rate: float = DEFAULT.learning_rate,
    momentum: float = DEFAULT.momentum,
    weight_decay: float = DEFAULT.weight_decay,
    bias: bool = DEFAULT.bias,
    progress: Progress | None = None,
) -> LinearHead:
    """The head, trained further on the features of the backbone's own training images, as the plan says.

    A row is drawn by its class, by `plan.draws`, and then within the class; features are varied as the plan says for
    their class; the loss takes out `prior_correction.training` of the drawn prior, and `after` is folded into the bias
    at the end. The plan's schedule is one of training epochs and does not apply. A class that is never drawn keeps its
    place in the loss as one that is never right.

    No step is the identity, but for `after`. The same seed gives the same head. Works where the features are.

    Args:
        embeddings: Features that the backbone gives for the images it was trained on: those of others are worth several
            points and would be gone in use. That cannot be seen here.
        head: Where training begins: the module, which is only read, or its numbers; a cosine head stays one, with its scale.
            `write_head` puts what is returned into a module.
        plan: Of the same classes; image policies and mixing have no meaning here.
        progress: Called with steps done and in all.

    Raises:
        InputError: another number of classes or features, a class is drawn that has no rows, or an option that has no
            meaning; see `HeadRecipe`.
    """
    recipe = HeadRecipe(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        bias=bias,
    )
    return retrain_with(embeddings, read_head(head), plan, recipe, seed=seed, progress=progress)


def retrain_with(
    embeddings: Embeddings,
    head: LinearHead,
    plan: Plan,
    recipe: HeadRecipe,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> LinearHead:
    """`retrain_head` with its options as one value."""
    _require_fit(embeddings, head, plan)
    after = plan.prior_correction.after
    if after and not recipe.bias:
        raise must("prior_correction.after of the plan", "be 0 where the head has no bias", after)
    home = head.weight.device
    if recipe.steps:
        with _threads_for(recipe.batch_size * head.weight.numel()):
            head = _trained(embeddings, head, plan, recipe, seed, progress)
    return _on(adjust_logits(head, plan.log_prior, after), home)


@contextlib.contextmanager
def _threads_for(work: int) -> Iterator[None]:
    """One thread within the block where the work of a step is small; as many as before afterwards."""
    number = torch.get_num_threads()
    if work < _SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(number)


def _on(head: LinearHead, device: torch.device) -> LinearHead:
    return replace(head, weight=head.weight.to(device), bias=head.bias.to(device))


def _require_fit(embeddings: Embeddings, head: LinearHead, plan: Plan) -> None:
    if head.num_features != embeddings.num_features:
        raise must("head", f"have the embeddings' {embeddings.num_features} features", head.num_features)
    for name, value in (("head", head), ("plan", plan)):
        if value.num_classes != embeddings.num_classes:
            raise must(name, f"have the embeddings' {embeddings.num_classes} classes", value.num_classes)
    rows = counts.class_counts(embeddings.labels, embeddings.num_classes).cpu()
    missing = ((plan.draws > 0) & (rows == 0)).nonzero().flatten().tolist()
    if missing:
        one = plan.classes[missing[0]]
        raise must(f"draws of {one.name}", "be 0, for it has no rows in the embeddings", f"{one.draws:g}")


class _Rows:
    """Which rows a step sees: the class by the plan's draws, then one of its rows, each by its own number."""

    def __init__(self, embeddings: Embeddings, plan: Plan, batch_size: int, seed: int) -> None:
        labels = embeddings.labels
        rows = counts.class_counts(labels, embeddings.num_classes)
        self.order = labels.argsort(stable=True)
        self.rows, self.start = rows, rows.cumsum(0) - rows
        drawn = (plan.draws > 0).nonzero().flatten()
        self.classes = drawn.to(labels.device)
        self.ends = plan.draws[drawn].cumsum(0).float().to(labels.device)
        self.batch_size, self.seed = batch_size, seed

    def of(self, steps: Tensor) -> Tensor:
        """`(S, batch)` the rows of these steps."""
        step = steps[:, None]
        place = torch.arange(self.batch_size, device=steps.device)
        at = torch.searchsorted(self.ends, draws.uniform("head class", self.seed, step, place), right=True)
        one = self.classes[at.clamp(max=len(self.classes) - 1)]
        return self.order[self.start[one] + draws.integers(self.rows[one], "head row", self.seed, step, place)]


def _trained(
    embeddings: Embeddings, head: LinearHead, plan: Plan, recipe: HeadRecipe, seed: int, progress: Progress | None
) -> LinearHead:
    device = embeddings.features.device
    head = _on(head, device)
    squared = float(embeddings.features.norm(dim=1).double().square().mean())
    longer = 1.0 if head.cosine or squared >= 1 or squared == 0 else squared**-0.5
    augment = None
    if plan.feature_methods:
        bank = replace(
            embeddings, indices=torch.arange(len(embeddings), device=device)
        )  # rows are known by their place
        augment = FeatureAugmenter(plan, bank, seed=seed, head=head)
    lengths = head.weight.norm(dim=1, keepdim=True) if head.cosine else None
    begin = functional.normalize(head.weight, dim=1) if head.cosine else head.weight / longer
    weight, bias = (value.detach().clone().requires_grad_() for value in (begin, head.bias))
    free_bias = recipe.bias and not head.cosine
    optimizer = torch.optim.SGD(
        [
            {"params": [weight], "weight_decay": recipe.weight_decay},
            *([{"params": [bias], "weight_decay": 0.0}] if free_bias else []),
        ],
        lr=_learning_rate(squared * longer**2, head, recipe),
        momentum=recipe.momentum,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=recipe.steps)
    rows = _Rows(embeddings, plan, recipe.batch_size, seed)
    log_prior, strength = plan.log_prior.to(device), plan.prior_correction.training
    closed_form = augment is not None and "isda" in plan.feature_methods
    length = embeddings.features.norm(dim=1).mean().clamp(min=1e-12) if closed_form and head.cosine else 1.0
    size = _steps_at_a_time(embeddings, recipe)
    for step in range(recipe.steps):
        if step % size == 0:
            steps = torch.arange(step, min(step + size, recipe.steps), device=device)
            chosen = rows.of(steps)
            blocks = embeddings.features[chosen], embeddings.labels[chosen]
            if augment is not None:
                blocks = augment.vary_steps(blocks[0], seed, steps, chosen)
            if progress is not None:
                progress(step, recipe.steps)
        features, targets = (block[step % size] for block in blocks)
        with torch.enable_grad():
            if head.cosine:
                turned = functional.normalize(weight, dim=1)
                logits = head.scale * functional.linear(functional.normalize(features, dim=1), turned, bias)
            else:
                logits = functional.linear(longer * features, weight, bias)
            if closed_form and augment is not None:
                seen = head.scale / length * turned if head.cosine else longer * weight
                logits = augment.adjust_logits(logits, targets, seen)
            loss = prior_corrected_cross_entropy(logits, targets, log_prior, strength)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        schedule.step()
    if progress is not None:
        progress(recipe.steps, recipe.steps)
    found = longer * weight.detach()
    if not bool(found.isfinite().all()):
        raise must("learning_rate", "be small enough for the head to settle", recipe.learning_rate)
    if lengths is not None:
        found = functional.normalize(found, dim=1) * lengths
    return replace(head, weight=found, bias=bias.detach())


def _steps_at_a_time(embeddings: Embeddings, recipe: HeadRecipe) -> int:
    """How many steps' rows are drawn and varied together, so that they fit into a few tens of megabytes."""
    wide = embeddings.num_features > oversample.FACTORED
    width = max(embeddings.num_features * (oversample.RESIDUALS if wide else 1), 4 * embeddings.num_classes)
    return max(1, min(_BLOCK, _TOGETHER // (recipe.batch_size * width)))


def _learning_rate(squared: float, head: LinearHead, recipe: HeadRecipe) -> float:
    """In inverse proportion to the squared length of what the weight is multiplied with, of the features or a cosine head's."""
    if head.cosine:
        return recipe.learning_rate * _SQUARED_LENGTH / head.scale**2
    return recipe.learning_rate * _SQUARED_LENGTH / squared if squared > 0 else recipe.learning_rate
