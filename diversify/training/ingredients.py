"""What a method brings to the reference loop, by hand or as a plan asks for it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, Sampler

from ..augment.batches import BatchAugmenter
from ..augment.dataset import DiversifiedDataset
from ..augment.draw_key import DrawKey
from ..augment.rolling_features import RollingFeatureAugmenter
from ..augment.sampler import DiversifySampler
from ..errors import must, unknown
from ..functional.counts import class_counts
from ..functional.losses import prior_corrected_cross_entropy
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead
from ..plan.plan import Plan
from ..plan.policies import ImagePolicy

Criterion = Callable[[Tensor, Tensor], Tensor]
Augment = Callable[[Tensor, Tensor, DrawKey], tuple[Tensor, Tensor]]
IMAGE_SPACES = ("device", "workers")


def cross_entropy_at(epoch: int) -> Criterion:
    """Cross entropy, at every epoch; class indices or class probabilities as targets."""
    return functional.cross_entropy


class Adapting(Protocol):
    """What changes the other parts as training goes on."""

    def observe(self, labels: Tensor, predicted: Tensor) -> None:
        """At the end of an epoch: the labels of what this process saw in it and what was predicted then, on the device.

        Of images whose target is no longer their own label alone, as mixing makes it, nothing is shown.
        """

    def update(self, epoch: int) -> Any:
        """After that, in every process, and before the state of the run is saved."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ingredients:
    """What a method may bring to the loop; the defaults are plain training.

    Args:
        criterion: The loss of an epoch: `criterion(epoch)(logits (N, C), targets)` is a scalar.
        sampler: Which image, how often. Global: the launcher shards it.
        wrap_dataset: Image space, in loader workers: the training set in, a map-style data set of the same length out. It
            gets the sampler's indices as they are, `sampler.Drawn` where an image comes again.
        augment: Image space, on the device: `(images, targets, DrawKey)` to `(images, targets)`; targets may become
            class probabilities `(N, C)`. Images come as the data set gives them, before normalisation.
        augment_features: Feature space, between backbone and head: `(features, targets, DrawKey)` to the same; the
            number of rows may change. Where it has `remember(features, targets, indices)`, it is first given the
            features of all processes as they left the backbone, without gradient; where it has
            `adjust_logits(logits, targets, weight)` and the head is `nn.Linear`, the loss sees the logits that this
            returns.
        after: `(C,)`: what is subtracted from the logits of the finished network. It is folded into the bias of its
            head after the last epoch, and before that in every look at the val set.
        adapt: What changes the other parts as training goes on.

    `set_epoch` of every part, of the sampler and of the wrapped data set too, is called before an epoch where it exists,
    with the epoch and, if it takes two arguments, the number of epochs. A part that is a module is moved to the device.
    A part with `state_dict` and `load_state_dict` (JSON values and tensors) is saved and resumed with the run.
    """

    criterion: Callable[[int], Criterion] = cross_entropy_at
    sampler: Sampler[int] | None = None
    wrap_dataset: Callable[[Dataset[Any]], Dataset[Any]] | None = None
    augment: Augment | None = None
    augment_features: Augment | None = None
    after: Callable[[], Tensor] | None = None
    adapt: Adapting | None = None

    @classmethod
    def from_plan(
        cls,
        plan: Plan,
        labels: Tensor | Sequence[int],
        *,
        seed: int,
        epochs: int,
        base: Augment | None = None,
        pool: tuple[Tensor, Tensor] | None = None,
        embeddings: Embeddings | None = None,
        head: LinearHead | None = None,
        image_space: Literal["device", "workers"] = "device",
        adapt: Callable[..., Adapting] | None = None,
    ) -> Ingredients:
        """What the plan asks for, in every slot; a slot that it does not ask for stays as in plain training.

        Where images are drawn as they come and without a budget the sampler is the loop's own, so that a plan that changes
        nothing gives plain training, to the bit.

        Args:
            labels: `(N,)` of the training images, in the order of the data set.
            base: Augmentation that comes first, for example `CropFlip`.
            pool: Training images `(M, C, H, W)` and their labels, from which `BatchAugmenter` draws partners by the plan's
                weights; without it, partners are those in the batch.
            embeddings: Features with which the bank of `RollingFeatureAugmenter` begins; without them they are first
                augmented in the second epoch at the earliest.
            head: For feature methods that need one.
            image_space: "device" varies images in batches (`BatchAugmenter`), "workers" one by one in the loader's
                workers (`DiversifiedDataset`); what mixes images is done on the device either way.
            adapt: `adapt(plan, parts=parts)`, for example `partial(AdaptivePlan, epochs=epochs)`; the parts have `use(plan)`.

        Raises:
            InputError: a label is no class of the plan, or what a part says of the plan.
        """
        if image_space not in IMAGE_SPACES:
            raise unknown("image_space", image_space, IMAGE_SPACES)
        if epochs < 1:
            raise must("epochs", "be at least 1", epochs)
        labels = torch.as_tensor(labels).to(torch.int64)
        outside = (labels < 0) | (labels >= plan.num_classes)
        if outside.any():
            raise must("labels", f"be classes of the plan, in [0, {plan.num_classes - 1}]", int(labels[outside][0]))
        parts: list[Any] = []
        loss = PriorCorrectedLoss(plan)
        slots: dict[str, Any] = {}
        if plan.prior_correction.training > 0 or plan.prior_correction.after > 0:
            parts.append(loss)
            slots["criterion"] = loss
        if plan.prior_correction.after > 0:
            slots["after"] = loss.after
        if not draws_as_they_come(plan, labels):
            slots["sampler"] = DiversifySampler(labels, plan, seed=seed)
            parts.append(slots["sampler"])
        varies = any(one.image.amount > 0 or (adapt and can_vary(one.image)) for one in plan.classes)
        mixes = any(one.mixing.method != "none" and one.mixing.probability > 0 for one in plan.classes)
        slots["augment"] = base
        if mixes or (varies and image_space == "device"):
            kept = without_image_policies if image_space == "workers" else _whole
            augmenter = BatchAugmenter(kept(plan), seed=seed, pool=pool if mixes else None, base=base)
            slots["augment"] = augmenter
            parts.append(_Part(use=lambda plan: augmenter.use(kept(plan))))
        if varies and image_space == "workers":
            wrap = _Wrap(plan, labels, seed)
            slots["wrap_dataset"] = wrap
            parts.append(wrap)
        if plan.feature_methods and any(plan.schedule.features_at(epoch, epochs) for epoch in range(epochs)):
            slots["augment_features"] = RollingFeatureAugmenter(
                plan, labels, seed=seed, embeddings=embeddings, head=head
            )
            parts.append(slots["augment_features"])
        if adapt is not None:
            slots["adapt"] = adapt(plan, parts=tuple(parts))
        return cls(**slots)

    def state_dict(self) -> dict[str, Any]:
        """The state of every part that has one."""
        return {name: part.state_dict() for name, part in self._stateful()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hand every part its own state back."""
        for name, part in self._stateful():
            part.load_state_dict(state[name])

    def to(self, device: torch.device) -> None:
        """Move the parts that are modules."""
        for _, part in self._parts():
            if isinstance(part, nn.Module):
                part.to(device)

    def epoch_setters(self, dataset: Dataset[Any], epochs: int) -> tuple[Callable[[int], None], ...]:
        """What is to be told the epoch: of the parts and the data set, but for a sampler whose loader tells it all."""
        parts = [dataset, *(part for name, part in self._parts() if name != "wrap_dataset")]
        setters = [part.set_epoch for part in parts if hasattr(part, "set_epoch")]
        own = getattr(self.sampler, "set_epoch", None)
        return tuple(
            partial(_set_both, setter, epochs) if _takes_two(setter) else setter
            for setter in setters
            if setter != own or _takes_two(setter)
        )

    def require_head(self, head: nn.Module) -> None:
        """Nothing, when features before this head can be augmented as is asked for; else an InputError."""
        plan = getattr(self.augment_features, "plan", None)
        if "isda" in getattr(plan, "feature_methods", ()) and not isinstance(head, nn.Linear):
            raise must("head", "be a linear layer, for isda", type(head).__name__, "leave isda out of the plan")

    def _parts(self) -> list[tuple[str, Any]]:
        return [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)]

    def _stateful(self) -> list[tuple[str, Any]]:
        return [
            (name, part)
            for name, part in self._parts()
            if hasattr(part, "state_dict") and hasattr(part, "load_state_dict")
        ]


class PriorCorrectedLoss:
    """The slots `criterion` and `after` of a plan: cross entropy with the drawn prior taken out, then and afterwards."""

    def __init__(self, plan: Plan) -> None:
        self._after = plan.prior_correction.after
        self._loss = _PriorCorrected(plan.log_prior, plan.prior_correction.training)

    def use(self, plan: Plan) -> None:
        """Go on with another plan of the same classes."""
        made = _PriorCorrected(plan.log_prior, plan.prior_correction.training)
        self._after = plan.prior_correction.after
        if not made.is_that_of(self._loss):
            self._loss = made

    def __call__(self, epoch: int) -> Criterion:
        """The loss, the same object as long as it stays the same: a captured step is known by it."""
        return self._loss

    def after(self) -> Tensor:
        """`(C,)`: what is to be subtracted from the logits of the finished network."""
        return self._after * self._loss.log_prior


class _PriorCorrected:
    """Cross entropy with a multiple of this log prior taken out, on the device of what it is given."""

    def __init__(self, log_prior: Tensor, strength: float) -> None:
        self.log_prior, self.strength = log_prior, strength

    def is_that_of(self, other: _PriorCorrected) -> bool:
        return self.strength == other.strength and torch.equal(self.log_prior, other.log_prior.to(self.log_prior))

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.log_prior.device != logits.device:
            self.log_prior = self.log_prior.to(logits.device)
        return prior_corrected_cross_entropy(logits, targets, self.log_prior, self.strength)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """What an adaptive plan is handed on to."""

    use: Callable[[Plan], None]


class _Wrap:
    """The slot `wrap_dataset` of a plan; the data set that it made follows the plan."""

    def __init__(self, plan: Plan, labels: Tensor, seed: int) -> None:
        self.plan, self.labels, self.seed = plan, labels, seed
        self.made: DiversifiedDataset | None = None

    def __call__(self, dataset: Dataset[Any]) -> Dataset[Any]:
        self.made = DiversifiedDataset(dataset, self.plan, seed=self.seed, labels=self.labels)
        return self.made

    def use(self, plan: Plan) -> None:
        """Go on with another plan of the same classes."""
        self.plan = plan
        if self.made is not None:
            self.made.use(plan)


def draws_as_they_come(plan: Plan, labels: Tensor) -> bool:
    """Whether the plan draws every one of these images once an epoch, as plain training does."""
    natural = class_counts(labels, plan.num_classes).double() / len(labels)
    budget = plan.images_per_epoch
    return budget in (None, len(labels)) and torch.allclose(plan.draws, natural, rtol=0, atol=1e-8)


def can_vary(policy: ImagePolicy) -> bool:
    """Whether the policy would vary images if its strength were raised."""
    return bool(policy.operations) and policy.probability > 0


def without_image_policies(plan: Plan) -> Plan:
    """The plan with its mixing, and no image varied."""
    classes = tuple(one.model_copy(update={"image": ImagePolicy()}) for one in plan.classes)
    return plan.model_copy(update={"classes": classes})


def _whole(plan: Plan) -> Plan:
    return plan


def _takes_two(set_epoch: Callable[..., None]) -> bool:
    try:
        inspect.signature(set_epoch).bind(0, 1)
    except TypeError:
        return False
    return True


def _set_both(set_epoch: Callable[[int, int], None], epochs: int, epoch: int) -> None:
    set_epoch(epoch, epochs)
