"""Retrain a classifier's head by a plan, on the embeddings of a frozen backbone; this takes seconds."""

from __future__ import annotations

import contextlib
import copy
import math
import numbers
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..augment.features import FeatureAugmenter
from ..errors import must
from ..functional import counts, draws, oversample
from ..functional.losses import prior_corrected_cross_entropy
from ..functional.threads import made_ahead
from ..network.embeddings import Embeddings, require_embeddings
from ..network.linear_head import LinearHead, read_head
from ..plan.plan import Plan
from ..runtime.progress import Progress
from ..runtime.signals import stop_if_interrupted
from .head_steps import LARGE, Descent, gradients, pull_of
from .post_hoc import adjust_logits
from .shared_side import SharedSide
from .unseen import SHARE, UnseenRows, require_share, require_unseen

_SQUARED_LENGTH = 64.0  # mean squared length of features for which learning rates are given
_BLOCK = 64  # most steps whose rows are drawn and augmented together
_TOGETHER = 1 << 20  # most numbers in these rows


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
    shared: SharedSide | None = None,
    progress: Progress | None = None,
) -> LinearHead:
    """Return the head trained further, like `retrain_head`, with its options as one value.

    Args:
        embeddings: See `retrain_head`.
        head: The present head.
        plan: The plan.
        recipe: How the head is trained.
        unseen: See `retrain_head`.
        unseen_share: See `retrain_head`.
        seed: Seed of all draws.
        shared: Keeps what is found in the features for later calls with the same rows.
        progress: Called with (steps done, steps in total).

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> plan = dv.make_plan(dv.diagnose(train, heldout, head=head))
        >>> torch.equal(retrain_with(train, head, plan, HeadRecipe(steps=0)).weight, head.weight)
        True
    """
    (found,) = retrain_by_strength(
        embeddings,
        head,
        (plan,),
        recipe,
        unseen=unseen,
        unseen_share=unseen_share,
        seed=seed,
        shared=shared,
        progress=progress,
    )
    return found


def retrain_by_strength(
    embeddings: Embeddings,
    head: LinearHead,
    plans: Sequence[Plan],
    recipe: HeadRecipe,
    *,
    unseen: Embeddings | None = None,
    unseen_share: float = SHARE,
    seed: int = 0,
    shared: SharedSide | None = None,
    progress: Progress | None = None,
) -> list[LinearHead]:
    """Return a head for each of several plans that differ in nothing but the strengths of their feature policies.

    They are trained side by side, which is faster than one after the other: rows, draws, partners and noise are the same.

    Args:
        embeddings: See `retrain_head`.
        head: The present head.
        plans: The plans.
        recipe: How heads are trained.
        unseen: See `retrain_head`.
        unseen_share: See `retrain_head`.
        seed: Seed of all draws.
        shared: See `retrain_with`.
        progress: Called with (steps done, steps in total).

    Example:
        >>> import diversify as dv
        >>> from diversify.repair.candidates import scaled
        >>> train, heldout, head = dv.make_embeddings()
        >>> plan = dv.Plan.from_counts(list("abcd"), [200, 80, 30, 10])
        >>> recipe = HeadRecipe(steps=50)
        >>> plans = [scaled(plan, factor) for factor in (0.5, 1.0)]
        >>> together = retrain_by_strength(train, head, plans, recipe)
        >>> alone = retrain_with(train, head, plans[0], recipe)
        >>> torch.allclose(together[0].weight, alone.weight, atol=1e-4)
        True
    """
    for plan in plans:
        _require_fit(embeddings, head, plan)
    require_share(unseen_share)
    if unseen is not None:
        require_unseen(unseen, embeddings)
    recipe = replace(recipe, bias=recipe.bias and head.has_bias)
    after = plans[0].prior_correction.after
    if after and not recipe.bias:
        advice = "add it to prior_correction.training, which needs none"
        raise must("prior_correction.after of the plan", "be 0 where the head has no bias", after, advice)
    home, heads = head.weight.device, [head] * len(plans)
    if recipe.steps:
        with _threads_for(recipe.batch_size * head.weight.numel()) as threads:
            device = embeddings.features.device
            others = None if unseen is None else UnseenRows(unseen, unseen_share, recipe.batch_size, seed, device)
            augment = None
            if plans[0].feature_methods:
                augment = (shared or SharedSide()).augmenter(embeddings, head, plans[0], seed)
            batches = _Batches(embeddings, plans, augment, others or None, recipe, seed)
            if _by_hand(head, plans[0]):
                ahead = threads > 1 and device.type == "cpu"
                heads = _descended(made_ahead(batches) if ahead else batches, embeddings, head, plans, recipe, progress)
            else:
                heads = [_trained(batches.only(plan), head, plan, recipe, progress) for plan in plans]
    return [_on(adjust_logits(one, plans[0].log_prior, after), home) for one in heads]


@contextlib.contextmanager
def _threads_for(work: int) -> Iterator[int]:
    """Use one thread within the block if a step is small; restore the number of threads afterwards, which is given."""
    number = torch.get_num_threads()
    if work < LARGE:
        torch.set_num_threads(1)
    try:
        yield number
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


_Batch = tuple[int, Tensor, Tensor, Tensor | None]


class _Batches:
    """The batches of several steps at a time: rows drawn, augmented by each plan, and some replaced by unseen rows."""

    def __init__(
        self,
        embeddings: Embeddings,
        plans: Sequence[Plan],
        augment: FeatureAugmenter | None,
        unseen: UnseenRows | None,
        recipe: HeadRecipe,
        seed: int,
    ) -> None:
        self.embeddings, self.augment, self.unseen, self.seed = embeddings, augment, unseen, seed
        self.rows = _Rows(embeddings, plans[0], recipe.batch_size, seed)
        self.strengths = None if augment is None else augment.strengths_of(plans)
        self.size, self.steps = _steps_at_a_time(embeddings, recipe), recipe.steps

    def only(self, plan: Plan) -> _Batches:
        """Return the batches of one of the plans, which the augmenter follows from then on."""
        one = copy.copy(self)
        one.strengths = None if self.augment is None else self.augment.use(plan).strengths_of((plan,))
        return one

    def __iter__(self) -> Iterator[_Batch]:
        """Yield the first of some steps, features `(V, S, B, D)`, targets, and which rows are unseen, `(S, B)`.

        Targets are classes `(V, S, B)` or class probabilities `(V, S, B, C)`. V is 1 where all plans have the same.
        """
        device = self.embeddings.features.device
        for first in range(0, self.steps, self.size):
            stop_if_interrupted()
            steps = torch.arange(first, min(first + self.size, self.steps), device=device)
            chosen = self.rows.of(steps)
            features, labels = self.embeddings.features[chosen], self.embeddings.labels[chosen]
            targets, taken = labels, None
            if self.augment is not None:
                features, targets = self.augment.vary_steps(features, self.seed, steps, chosen, self.strengths)
            else:
                features, targets = features[None], targets[None]
            if self.unseen is not None:
                made = [self.unseen.replace(*one, labels, steps) for one in zip(features, targets, strict=True)]
                features, targets = (torch.stack([one[part] for one in made]) for part in (0, 1))
                taken = made[0][2]
            yield first, features, targets if targets.ndim == 4 else targets[:1], taken


def _by_hand(head: LinearHead, plan: Plan) -> bool:
    """Whether the gradients of a head are known in a closed form."""
    return not head.cosine and "isda" not in plan.feature_methods


def _learned(
    embeddings: Embeddings, head: LinearHead, recipe: HeadRecipe, copies: int = 1
) -> tuple[Tensor, Tensor, Descent, float]:
    """Return the weight and the bias that the training starts from, their descent, and the stretch of the features."""
    squared = float(embeddings.features.norm(dim=1).double().square().mean())
    stretch = 1.0 if head.cosine or squared >= 1 or squared == 0 else squared**-0.5
    begin = functional.normalize(head.weight, dim=1) if head.cosine else head.weight / stretch
    weight, bias = begin.detach().clone(), head.bias.detach().clone()
    learns_bias = recipe.bias and (not head.cosine or bool(bias.any()))  # most cosine heads have none
    if copies:
        weight, bias = (value.repeat(copies, *[1] * value.ndim) for value in (weight, bias))
    else:
        weight, bias = weight.requires_grad_(), bias.requires_grad_()
    descent = Descent(
        [weight, bias] if learns_bias else [weight],
        [recipe.weight_decay, 0.0],
        _learning_rate(squared * stretch**2, head, recipe),
        momentum=recipe.momentum,
        steps=recipe.steps,
    )
    return weight, bias, descent, stretch


def _descended(
    batches: Iterable[_Batch],
    embeddings: Embeddings,
    head: LinearHead,
    plans: Sequence[Plan],
    recipe: HeadRecipe,
    progress: Progress | None,
) -> list[LinearHead]:
    """Return the heads of all plans, trained side by side."""
    device = embeddings.features.device
    head = _on(head, device)
    weight, bias, descent, stretch = _learned(embeddings, head, recipe, len(plans))
    strength = plans[0].prior_correction.training
    prior = strength * plans[0].log_prior.to(device).to(weight) if strength else None
    for first, features, targets, _ in batches:
        if progress is not None:
            progress(first, recipe.steps)
        features = (features if stretch == 1 else stretch * features).expand(len(plans), *features.shape[1:])
        pull = pull_of(targets, weight)
        for place in range(features.shape[1]):
            descent.down(gradients(weight, bias, features[:, place], pull[:, place], prior))
    if progress is not None:
        progress(recipe.steps, recipe.steps)
    found = stretch * weight
    _require_finite(found, recipe)
    return [replace(head, weight=one, bias=other) for one, other in zip(found.unbind(), bias.unbind(), strict=True)]


def _trained(
    batches: _Batches, head: LinearHead, plan: Plan, recipe: HeadRecipe, progress: Progress | None
) -> LinearHead:
    """Return the head of one plan, trained with the gradients of autograd."""
    embeddings, augment = batches.embeddings, batches.augment
    device = embeddings.features.device
    head = _on(head, device)
    weight, bias, descent, stretch = _learned(embeddings, head, recipe, copies=0)
    log_prior, strength = plan.log_prior.to(device), plan.prior_correction.training
    adjusting = augment if "isda" in plan.feature_methods else None
    length = embeddings.features.norm(dim=1).mean().clamp(min=1e-12) if adjusting and head.cosine else 1.0
    for first, features, targets, taken in batches:
        if progress is not None:
            progress(first, recipe.steps)
        for place in range(features.shape[1]):
            aims = targets[0, place]
            with torch.enable_grad():
                logits, seen = _logits(head, weight, bias, features[0, place], stretch, length)
                if adjusting is not None:
                    raised = adjusting.adjust_logits(logits, aims, seen)
                    logits = raised if taken is None else torch.where(taken[place][:, None], logits, raised)
                loss = prior_corrected_cross_entropy(logits, aims, log_prior, strength)
            descent.down(torch.autograd.grad(loss, descent.learned))
    if progress is not None:
        progress(recipe.steps, recipe.steps)
    found = stretch * weight.detach()
    _require_finite(found, recipe)
    if head.cosine:
        found = functional.normalize(found, dim=1) * head.weight.norm(dim=1, keepdim=True)
    return replace(head, weight=found, bias=bias.detach())


def _require_finite(weight: Tensor, recipe: HeadRecipe) -> None:
    if not bool(weight.isfinite().all()):
        raise must("learning_rate", "be small enough for the head to settle", recipe.learning_rate)


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
