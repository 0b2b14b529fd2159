"""The parts that a method adds to the reference loop, chosen by hand or by a plan."""

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
    """Return cross entropy, for every epoch; targets are class indices or class probabilities.

    Example:
        >>> round(float(cross_entropy_at(0)(torch.zeros(2, 4), torch.tensor([1, 3]))), 4)
        1.3863
    """
    return functional.cross_entropy


class Adapting(Protocol):
    """A part that changes the other parts during training."""

    def observe(self, labels: Tensor, predicted: Tensor) -> None:
        """Receive the labels of the epoch's images and the predictions made for them, at the end of the epoch.

        Both are `(N,)` on the device and cover the images of this process. Images that were mixed with an image of
        another class are left out.
        """

    def update(self, epoch: int) -> Any:
        """Change the other parts; called in every process after `observe` and before the state of the run is saved."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ingredients:
    """The parts that a method may add to the training loop; the defaults are plain training.

    `set_epoch` of every part, and of the wrapped data set, is called before an epoch if it exists, with the epoch and,
    if it takes two arguments, the number of epochs. A part that is a module is moved to the device. A part with
    `state_dict` and `load_state_dict` (JSON values and tensors) is saved and resumed with the run.

    Attributes:
        criterion: Gives the loss of an epoch: `criterion(epoch)(logits (N, C), targets)` is a scalar.
        sampler: Draws the training images. It is global; the launcher shards it.
        wrap_dataset: Image augmentation in loader workers: takes the training set, returns a map-style data set of the
            same length. Its indices are those of the sampler, `draw_key.Drawn` for an image drawn more than once.
        augment: Image augmentation on the device: `(images, targets, DrawKey)` to `(images, targets)`. Targets may
            become class probabilities `(N, C)`. Images come as the data set gives them, before normalisation.
        augment_features: Feature augmentation between backbone and head: `(features, targets, DrawKey)` to the same;
            the number of rows may change. If it has `remember(features, targets, indices)`, that is called first, with
            the features of all processes as they left the backbone, without gradient. If it has
            `adjust_logits(logits, targets, weight)` and the head is `nn.Linear`, the loss sees the logits that it returns.
        after: Gives the correction `(C,)` that is subtracted from the logits of the trained network. It is applied in
            every evaluation on the validation set, and is added to the head's bias for good after the last epoch.
        adapt: Changes the other parts during training.

    Example:
        >>> from diversify.training import BalancedSoftmax, Always
        >>> ingredients = Ingredients(criterion=Always(BalancedSoftmax([90, 10])))
        >>> type(ingredients.criterion(0)).__name__
        'BalancedSoftmax'
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
        """Return the parts that a plan asks for; parts that it does not ask for stay as in plain training.

        If the plan draws every image once an epoch, the loop's own sampler is used, so that a plan without changes gives
        exactly plain training.

        Args:
            plan: The plan.
            labels: Classes of the training images, `(N,)`, in the order of the data set.
            seed: Of all draws.
            epochs: Epochs of the training.
            base: Augmentation that runs first, for example `CropFlip`.
            pool: Training images `(M, C, H, W)` and their labels, from which partners for mixing are drawn by the plan's
                weights; without it, partners come from the batch.
            embeddings: Features with which the bank of `RollingFeatureAugmenter` begins; without them features are
                augmented from the second epoch on at the earliest.
            head: The head, for feature methods that need one.
            image_space: "device" augments images in batches (`BatchAugmenter`), "workers" one by one in the loader's
                workers (`DiversifiedDataset`). Mixing is done on the device in both cases.
            adapt: Makes the part `adapt` from `adapt(plan, parts=parts)`, for example
                `partial(AdaptivePlan, epochs=epochs)`; each of the parts has `use(plan)`.

        Raises:
            InputError: A label is not a class of the plan, or a part refuses the plan.

        Example:
            >>> import diversify as dv
            >>> train, heldout, head = dv.make_embeddings()
            >>> plan = dv.make_plan(dv.diagnose(train, heldout, head=head))
            >>> ingredients = Ingredients.from_plan(plan, train.labels, seed=0, epochs=10)
            >>> type(ingredients.sampler).__name__
            'DiversifySampler'
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
        augments = any(one.image.amount > 0 or (adapt and can_vary(one.image)) for one in plan.classes)
        mixes = any(one.mixing.method != "none" and one.mixing.probability > 0 for one in plan.classes)
        slots["augment"] = base
        if mixes or (augments and image_space == "device"):
            kept = without_image_policies if image_space == "workers" else _whole
            augmenter = BatchAugmenter(kept(plan), seed=seed, pool=pool if mixes else None, base=base)
            slots["augment"] = augmenter
            parts.append(_Part(use=lambda plan: augmenter.use(kept(plan))))
        if augments and image_space == "workers":
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
        """Return the state of every part that has one."""
        return {name: part.state_dict() for name, part in self._stateful()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of every part that has one."""
        for name, part in self._stateful():
            part.load_state_dict(state[name])

    def to(self, device: torch.device) -> None:
        """Move the parts that are modules to a device."""
        for _, part in self._parts():
            if isinstance(part, nn.Module):
                part.to(device)

    def epoch_setters(self, dataset: Dataset[Any], epochs: int) -> tuple[Callable[[int], None], ...]:
        """Return the `set_epoch` of the parts and the data set, each as a function of the epoch.

        A sampler whose `set_epoch` takes the epoch alone is left out, because the loader calls it.
        """
        parts = [dataset, *(part for name, part in self._parts() if name != "wrap_dataset")]
        setters = [part.set_epoch for part in parts if hasattr(part, "set_epoch")]
        own = getattr(self.sampler, "set_epoch", None)
        return tuple(
            partial(_set_both, setter, epochs) if _takes_two(setter) else setter
            for setter in setters
            if setter != own or _takes_two(setter)
        )

    def require_head(self, head: nn.Module) -> None:
        """Check that features before this head can be augmented as the plan asks.

        Raises:
            InputError: The plan uses `isda`, and the head is not a linear layer.
        """
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
    """The `criterion` and `after` of a plan: cross entropy corrected for the drawn class prior.

    `prior_correction.training` is the strength of the correction in the loss, `prior_correction.after` the strength of
    the correction after training.

    References:
        Menon et al. 2021, "Long-Tail Learning via Logit Adjustment", eq. 9 and 10.
    """

    def __init__(self, plan: Plan) -> None:
        self._after = plan.prior_correction.after
        self._loss = _PriorCorrected(plan.log_prior, plan.prior_correction.training)

    def use(self, plan: Plan) -> None:
        """Switch to another plan of the same classes."""
        made = _PriorCorrected(plan.log_prior, plan.prior_correction.training)
        self._after = plan.prior_correction.after
        if not made.equals(self._loss):
            self._loss = made

    def __call__(self, epoch: int) -> Criterion:
        """Return the loss; the same object while it does not change, since a captured CUDA step is tied to it."""
        return self._loss

    def after(self) -> Tensor:
        """Return the correction to subtract from the logits of the trained network, `(C,)`."""
        return self._after * self._loss.log_prior


class _PriorCorrected:
    """Cross entropy of logits plus a multiple of the log prior, on the device of the logits."""

    def __init__(self, log_prior: Tensor, strength: float) -> None:
        self.log_prior, self.strength = log_prior, strength

    def equals(self, other: _PriorCorrected) -> bool:
        return self.strength == other.strength and torch.equal(self.log_prior, other.log_prior.to(self.log_prior))

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.log_prior.device != logits.device:
            self.log_prior = self.log_prior.to(logits.device)
        return prior_corrected_cross_entropy(logits, targets, self.log_prior, self.strength)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """A part that follows an adaptive plan."""

    use: Callable[[Plan], None]


class _Wrap:
    """The `wrap_dataset` of a plan; the data set that it makes follows the plan."""

    def __init__(self, plan: Plan, labels: Tensor, seed: int) -> None:
        self.plan, self.labels, self.seed = plan, labels, seed
        self.made: DiversifiedDataset | None = None

    def __call__(self, dataset: Dataset[Any]) -> Dataset[Any]:
        self.made = DiversifiedDataset(dataset, self.plan, seed=self.seed, labels=self.labels)
        return self.made

    def use(self, plan: Plan) -> None:
        """Switch to another plan of the same classes."""
        self.plan = plan
        if self.made is not None:
            self.made.use(plan)


def draws_as_they_come(plan: Plan, labels: Tensor) -> bool:
    """Return whether the plan draws each of these images once an epoch, as plain training does."""
    natural = class_counts(labels, plan.num_classes).double() / len(labels)
    budget = plan.images_per_epoch
    return budget in (None, len(labels)) and torch.allclose(plan.draws, natural, rtol=0, atol=1e-8)


def can_vary(policy: ImagePolicy) -> bool:
    """Return whether the policy would augment images if its strength were raised."""
    return bool(policy.operations) and policy.probability > 0


def without_image_policies(plan: Plan) -> Plan:
    """Return the plan with its mixing and without its other image policies."""
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
