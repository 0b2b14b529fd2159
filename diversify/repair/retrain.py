"""Retrain a classifier's head by a plan, on the embeddings of a frozen backbone; this takes seconds."""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..augment.features import FeatureAugmenter
from ..errors import must
from ..functional import counts, draws, oversample
from ..functional.losses import prior_corrected_cross_entropy
from ..network.embeddings import Embeddings, require_embeddings
from ..network.linear_head import LinearHead, read_head
from ..network.reading import Reading
from ..plan.plan import Plan
from ..runtime.progress import Progress
from ..runtime.signals import stop_if_interrupted
from .post_hoc import adjust_logits
from .unseen import SHARE, UnseenRows, require_share, require_unseen

_SQUARED_LENGTH = 64.0  # mean squared length of features for which learning rates are given
_BLOCK = 64  # most steps whose rows are drawn and augmented together
_TOGETHER = 1 << 20  # most numbers in these rows
_SMALL = 1 << 24  # multiply-adds of a step below which one thread is faster than several


@dataclass(frozen=True, kw_only=True)
class HeadRecipe:
    """The recipe of a retrained head: SGD with momentum and a cosine schedule, starting from the present head.

    Attributes:
        steps: Number of steps; 0 leaves the head unchanged, apart from the plan's correction after training.
        batch_size: Rows per step.
        learning_rate: For features with a mean squared length of 64, as a CIFAR ResNet gives them. For others it changes
            in inverse proportion, as the largest stable step does. Features with a mean length below 1 are stretched to
            length 1 for training and the head is scaled back, since the step would be too large for bias and decay.
        momentum: In [0, 1).
        weight_decay: Of the weight; the bias has none.
        bias: Whether the bias is trained; a head without one gets none.

    Raises:
        InputError: A value is outside its range.

    Example:
        >>> HeadRecipe(steps=100).batch_size
        256
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
    unseen: Embeddings | None = None,
    unseen_share: float = SHARE,
    seed: int = 0,
    steps: int = DEFAULT.steps,
    batch_size: int = DEFAULT.batch_size,
    learning_rate: float = DEFAULT.learning_rate,
    momentum: float = DEFAULT.momentum,
    weight_decay: float = DEFAULT.weight_decay,
    bias: bool = DEFAULT.bias,
    progress: Progress | None = None,
) -> LinearHead:
    """Return the head, trained further as the plan says on the features of the backbone's training images.

    A row is drawn by its class, with the frequencies `plan.draws`, and then evenly within the class. Features are
    augmented by the policies of their class. The loss corrects for `prior_correction.training` of the drawn log prior,
    and `prior_correction.after` is subtracted through the bias at the end. The plan's schedule counts training epochs
    and does not apply. A class that is never drawn stays in the loss as a class that is never the right one.

    With `unseen`, a share of every batch comes from rows that the backbone was not trained on (Kirichenko et al. 2023).
    Their features have the magnitudes that the head will meet, which those of training rows do not. Classes are drawn as
    before, and a row drawn for a class is replaced with the probability `unseen_share * m / (m + 10)`, where m is the
    number of its unseen rows: a class without unseen rows is trained as without them. Only training rows are augmented.
    These rows must not judge the head afterwards. `choose_head` with `unseen="heldout"` keeps fitting and judging apart.

    With `steps=0` the head is returned unchanged, apart from the `after` correction. The same seed gives the same head.
    The work is done on the device of the features.

    Args:
        embeddings: Features of the images that the backbone was trained on. Other images would make the head look
            several points better than it is in use; this function cannot tell the difference.
        head: The present head: a module, which is only read, or its numbers. A cosine head stays one, with its scale.
            `write_head` puts the result into a module.
        plan: A plan of the same classes; its image policies and mixing are ignored.
        unseen: Features of images that the backbone was not trained on, and that are not those of the test set.
        unseen_share: Share of a class's draws that come from its unseen rows where it has many, in [0, 1].
        seed: Seed of all draws.
        steps: See `HeadRecipe`, as for the five parameters that follow.
        batch_size: Rows per step.
        learning_rate: For features with a mean squared length of 64.
        momentum: In [0, 1).
        weight_decay: Of the weight.
        bias: Whether the bias is trained; a head without one gets none.
        progress: Called with (steps done, steps in total).

    Raises:
        InputError: The numbers of classes or features differ, a class is drawn that has no rows, an option is outside its
            range, the unseen rows are the training rows, or the training diverges.

    References:
        Kirichenko, Izmailov and Wilson 2023, "Last layer re-training is sufficient for robustness to spurious correlations".

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> plan = dv.make_plan(dv.diagnose(train, heldout, head=head))
        >>> repaired = dv.retrain_head(train, head, plan, steps=50)
        >>> def balanced_accuracy(head):
        ...     right = head.logits(heldout.features).argmax(1) == heldout.labels  # 50 images of every class
        ...     return round(float(right.float().mean()), 2)
        >>> balanced_accuracy(head), balanced_accuracy(repaired)
        (0.79, 0.95)

        With every second held-out image as an unseen row, the others judge:

        >>> odd = torch.arange(len(heldout)) % 2 == 1
        >>> repaired = dv.retrain_head(train, head, plan, unseen=heldout.select(~odd), steps=50)
        >>> right = repaired.logits(heldout.features[odd]).argmax(1) == heldout.labels[odd]
        >>> round(float(right.float().mean()), 2)
        0.99
    """
    recipe = HeadRecipe(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        bias=bias,
    )
    head = read_head(head)
    return retrain_with(
        embeddings, head, plan, recipe, unseen=unseen, unseen_share=unseen_share, seed=seed, progress=progress
    )


def retrain_with(
    embeddings: Embeddings,
    head: LinearHead,
    plan: Plan,
    recipe: HeadRecipe,
    *,
    unseen: Embeddings | None = None,
    unseen_share: float = SHARE,
    seed: int = 0,
    progress: Progress | None = None,
) -> LinearHead:
    """Return the head trained further, like `retrain_head`, with its options as one value.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> plan = dv.make_plan(dv.diagnose(train, heldout, head=head))
        >>> torch.equal(retrain_with(train, head, plan, HeadRecipe(steps=0)).weight, head.weight)
        True
    """
    _require_fit(embeddings, head, plan)
    require_share(unseen_share)
    if unseen is not None:
        require_unseen(unseen, embeddings)
    recipe = replace(recipe, bias=recipe.bias and head.has_bias)
    after = plan.prior_correction.after
    if after and not recipe.bias:
        advice = "add it to prior_correction.training, which needs none"
        raise must("prior_correction.after of the plan", "be 0 where the head has no bias", after, advice)
    home = head.weight.device
    if recipe.steps:
        with _threads_for(recipe.batch_size * head.weight.numel()):
            others = (
                None
                if unseen is None
                else UnseenRows(unseen, unseen_share, recipe.batch_size, seed, embeddings.features.device)
            )
            head = _trained(embeddings, head, plan, recipe, seed, progress, others or None)
    return _on(adjust_logits(head, plan.log_prior, after), home)


@contextlib.contextmanager
def _threads_for(work: int) -> Iterator[None]:
    """Use one thread within the block if a step is small; restore the number of threads afterwards."""
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
    require_embeddings("embeddings", embeddings, "use dv.repair_multilabel")
    if head.num_features != embeddings.num_features:
        raise must("head", f"have the embeddings' {embeddings.num_features} features", head.num_features)
    for name, value in (("head", head), ("plan", plan)):
        if value.num_classes != embeddings.num_classes:
            raise must(name, f"have the embeddings' {embeddings.num_classes} classes", value.num_classes)
    rows = counts.class_counts(embeddings.labels, embeddings.num_classes).cpu()
    missing = ((plan.draws > 0) & (rows == 0)).nonzero().flatten().tolist()
    if missing:
        one = plan.classes[missing[0]]
        raise must(f"draws of {one.name}", "be 0, since it has no rows in the embeddings", f"{one.draws:g}")


class _Rows:
    """Draws the rows of a step: first the class, by the plan's draws, then a row of the class."""

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
        """Return the rows of the steps `(S,)`, `(S, batch)`."""
        step = steps[:, None]
        place = torch.arange(self.batch_size, device=steps.device)
        at = torch.searchsorted(self.ends, draws.uniform("head class", self.seed, step, place), right=True)
        one = self.classes[at.clamp(max=len(self.classes) - 1)]
        return self.order[self.start[one] + draws.integers(self.rows[one], "head row", self.seed, step, place)]


def _trained(
    embeddings: Embeddings,
    head: LinearHead,
    plan: Plan,
    recipe: HeadRecipe,
    seed: int,
    progress: Progress | None,
    unseen: UnseenRows | None,
) -> LinearHead:
    device = embeddings.features.device
    head = _on(head, device)
    squared = float(embeddings.features.norm(dim=1).double().square().mean())
    stretch = 1.0 if head.cosine or squared >= 1 or squared == 0 else squared**-0.5
    augment = None
    if plan.feature_methods:
        places = torch.arange(len(embeddings), device=device)
        bank = replace(embeddings, indices=places, reading=Reading())  # rows are identified by their place
        augment = FeatureAugmenter(plan, bank, seed=seed, head=head)
    begin = functional.normalize(head.weight, dim=1) if head.cosine else head.weight / stretch
    rows = _Rows(embeddings, plan, recipe.batch_size, seed)
    log_prior, strength = plan.log_prior.to(device), plan.prior_correction.training
    adjusting = augment if "isda" in plan.feature_methods else None
    by_hand = adjusting is None and not head.cosine
    weight, bias = (value.detach().clone().requires_grad_(not by_hand) for value in (begin, head.bias))
    descent = _Descent(weight, bias, _learning_rate(squared * stretch**2, head, recipe), head, recipe)
    length = embeddings.features.norm(dim=1).mean().clamp(min=1e-12) if adjusting and head.cosine else 1.0
    prior = strength * log_prior.to(weight) if strength else None
    taken = None
    size = _steps_at_a_time(embeddings, recipe)
    for step in range(recipe.steps):
        if step % size == 0:
            stop_if_interrupted()
            steps = torch.arange(step, min(step + size, recipe.steps), device=device)
            chosen = rows.of(steps)
            blocks = embeddings.features[chosen], embeddings.labels[chosen]
            if augment is not None:
                blocks = augment.vary_steps(blocks[0], seed, steps, chosen)
            if unseen is not None:
                made, aims, taken = unseen.replace(*blocks, embeddings.labels[chosen], steps)
                blocks = made, aims
            if by_hand:
                blocks = stretch * blocks[0], _pull(blocks[1], weight)
            if progress is not None:
                progress(step, recipe.steps)
        features, targets = (block[step % size] for block in blocks)
        if by_hand:
            descent.down(_gradients(weight, bias, features, targets, prior))
            continue
        with torch.enable_grad():
            logits, seen = _logits(head, weight, bias, features, stretch, length)
            if adjusting is not None:
                raised = adjusting.adjust_logits(logits, targets, seen)
                logits = raised if taken is None else torch.where(taken[step % size][:, None], logits, raised)
            loss = prior_corrected_cross_entropy(logits, targets, log_prior, strength)
        descent.down(torch.autograd.grad(loss, descent.learned))
    if progress is not None:
        progress(recipe.steps, recipe.steps)
    found = stretch * weight.detach()
    if not bool(found.isfinite().all()):
        raise must("learning_rate", "be small enough for the head to settle", recipe.learning_rate)
    if head.cosine:
        found = functional.normalize(found, dim=1) * head.weight.norm(dim=1, keepdim=True)
    return replace(head, weight=found, bias=bias.detach())


def _pull(targets: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the mean cross entropy of each step by the log probabilities, `(S, B, C)`.

    Args:
        targets: `(S, B)` classes or `(S, B, C)` class probabilities.
        weight: `(C, D)`, of the floating type that is trained.
    """
    each = -1 / targets.shape[1]
    if targets.ndim == 3:
        return targets.to(weight.dtype) * each
    return weight.new_zeros(*targets.shape, len(weight)).scatter_(2, targets[..., None], each)


def _gradients(
    weight: Tensor, bias: Tensor, features: Tensor, pull: Tensor, prior: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `prior_corrected_cross_entropy` of a linear head by its weight and bias.

    They are those of autograd, bit for bit, in about a third of the time: a small head's step is mostly the work of keeping
    track of it.

    Args:
        weight: `(C, D)`.
        bias: `(C,)`.
        features: `(B, D)`.
        pull: From `_pull`, `(B, C)`.
        prior: What is added to the logits, `(C,)`.
    """
    logits = torch.addmm(bias, features, weight.T)
    if prior is not None:
        logits += prior
    pushed = torch._log_softmax_backward_data(pull, logits.log_softmax(1), 1, logits.dtype)
    return pushed.T.mm(features), pushed.sum(0)


class _Descent:
    """Stochastic gradient descent with momentum and a cosine schedule, in place.

    The steps are those of `torch.optim.SGD` with `CosineAnnealingLR`, bit for bit. What these two objects do besides would be
    most of the time of a small head's step.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, learning_rate: float, head: LinearHead, recipe: HeadRecipe
    ) -> None:
        self.learned, self.decays = [weight], [recipe.weight_decay]
        if recipe.bias and (not head.cosine or bool(bias.any())):  # most cosine heads have none
            self.learned.append(bias)
            self.decays.append(0.0)
        self.learning_rate, self.recipe, self.step = learning_rate, recipe, 0
        self.momenta: list[Tensor] = []

    @torch.no_grad()
    def down(self, gradients: Sequence[Tensor]) -> None:
        """Take one step down the gradients by the weight and the bias; that by the bias is ignored if it is not trained."""
        made = zip(self.learned, self.decays, gradients, strict=False)
        steps = [gradient.add(value, alpha=decay) if decay else gradient for value, decay, gradient in made]
        if self.recipe.momentum:
            if not self.momenta:
                self.momenta = [step.clone() for step in steps]
            else:
                for momentum, step in zip(self.momenta, steps, strict=True):
                    momentum.mul_(self.recipe.momentum).add_(step)
            steps = self.momenta
        for value, step in zip(self.learned, steps, strict=True):
            value.add_(step, alpha=-self.learning_rate)
        self.step += 1
        now, before = (1 + math.cos(math.pi * step / self.recipe.steps) for step in (self.step, self.step - 1))
        self.learning_rate *= now / before


def _logits(
    head: LinearHead, weight: Tensor, bias: Tensor, features: Tensor, stretch: float, length: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Return the logits in training, `(N, C)`, and the weight by which features of mean `length` are multiplied."""
    if not head.cosine:
        return functional.linear(stretch * features, weight, bias), stretch * weight
    turned = functional.normalize(weight, dim=1)
    logits = head.scale * functional.linear(functional.normalize(features, dim=1), turned, bias)
    return logits, head.scale / length * turned


def _steps_at_a_time(embeddings: Embeddings, recipe: HeadRecipe) -> int:
    """Return the number of steps whose rows are drawn and augmented together; they fit into some tens of megabytes."""
    wide = embeddings.num_features > oversample.FACTORED
    width = max(embeddings.num_features * (oversample.RESIDUALS if wide else 1), 4 * embeddings.num_classes)
    return max(1, min(_BLOCK, _TOGETHER // (recipe.batch_size * width)))


def _learning_rate(squared: float, head: LinearHead, recipe: HeadRecipe) -> float:
    """Return the learning rate, in inverse proportion to the squared length of the inputs of the weight."""
    if head.cosine:
        return recipe.learning_rate * _SQUARED_LENGTH / head.scale**2
    return recipe.learning_rate * _SQUARED_LENGTH / squared if squared > 0 else recipe.learning_rate
