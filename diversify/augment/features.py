"""Feature augmentation of batches on their device, as a plan says for each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..errors import must
from ..functional import draws, mixing, oversample
from ..network.embeddings import Embeddings, require_embeddings
from ..network.linear_head import LinearHead
from ..plan.plan import Plan
from .draw_key import DrawKey, is_whole
from .feature_bank import ClassPartners, FeatureBank, keep
from .feature_neighbors import BETWEEN_NEIGHBORS, NeighborPartners
from .feature_noise import BorrowedCovariance
from .known_neighbors import KnownNeighbors

_MIXED_LABELS = ("manifold_mixup", "remix")
_Change = Callable[[Tensor], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Batch:
    """Rows to augment: features `(N, D)`, targets, classes `(N,)`, rows in the bank if known, and what draws depend on."""

    features: Tensor
    targets: Tensor
    classes: Tensor
    rows: Tensor | None
    origin: tuple[Any, ...]

    def select(self, picked: Tensor) -> _Batch:
        """Return some of the rows, with their draws."""
        return _Batch(
            features=self.features[picked],
            targets=self.targets[picked],
            classes=self.classes[picked],
            rows=None if self.rows is None else self.rows[picked],
            origin=tuple(part[picked] if isinstance(part, Tensor) else part for part in self.origin),
        )


def _put(values: Tensor, made: Tensor, taken: Tensor, picked: Tensor | None) -> Tensor:
    """Return values `(N, ...)` with those rows that are taken replaced; `made` has only the picked rows, if some are."""
    if picked is None:
        return torch.where(taken[:, None], made, values)
    if not bool(taken.all()):
        made, picked = made[taken], picked[taken]
    return values.index_copy(0, picked, made)


class FeatureAugmenter(nn.Module):
    """Augments each row of a batch by at most one of its class's feature methods; one line between backbone and head.

    The row itself is the base, so gradients reach the backbone. Partners, neighbours and covariances come from the *bank*,
    the training embeddings that the augmenter was made with, and carry no gradient. The methods:

    - "toward_enemies" moves the row toward a row of another class, drawn with the shares in the plan's `toward`. A class
      whose partner classes have no row in the bank is left unchanged.
    - "eos" moves the row toward a row of another class among its k nearest neighbours; if there is none, toward one of
      its k nearest neighbours in its own class (Dablain et al. 2022). The only row of a class is left unchanged.
    - "smote" moves it toward one of its k nearest neighbours in its own class (Chawla et al. 2002).
    - "borderline_smote" does so only for rows of which at least half, but not all, of the 10 nearest neighbours belong
      to other classes (Han et al. 2005).
    - "covariance" adds Gaussian noise with a covariance borrowed from frequent classes (Yin et al. 2019).
    - "magnitude" shrinks the class's 10 strongest features: those with the largest mean classification embedding under
      `head`, or the largest mean feature without a head.
    - "manifold_mixup" and "remix" mix the row with one of any class, drawn as the plan draws classes, and mix the targets
      too (Verma et al. 2019, Chou et al. 2020). If any class uses them, targets become `(N, C)` float32.
    - "isda" changes no features, only logits, in `adjust_logits` (Wang et al. 2019).

    If you pass a `DrawKey` with the images of the batch and the bank covers the whole training set (its `indices` are 0 to
    M - 1), neighbours are computed once. Otherwise they are computed for every batch, which is slower (about one product
    of batch and bank), and a row may be its own neighbour.

    Every draw is a function of (seed, epoch, step, row), so an image that is drawn several times in an epoch is augmented
    differently each time. Without a key the augmenter uses its own seed, the epoch of `set_epoch`, and counts the steps.
    The bank moves with `.to(device)` and is not part of the `state_dict`. In `eval()` nothing is changed.

    Args:
        plan: Which methods each class uses.
        embeddings: The bank.
        seed: Seed of the draws without a key.
        head: For "magnitude".
        known: The nearest rows of these embeddings that are known already; "eos" and "borderline_smote" need them.

    Raises:
        InputError: plan and embeddings have different numbers of classes, or the embeddings hold no row.

    See Also:
        `RollingFeatureAugmenter` builds its bank during training.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 10))
        >>> augment = dv.FeatureAugmenter(dv.Plan.from_counts(list("abcd"), [200, 80, 30, 10]), train)
        >>> features, targets = augment(train.features, train.labels)
        >>> changed = (features != train.features).any(1)
        >>> [round(float(changed[train.labels == c].float().mean()), 1) for c in range(4)]
        [0.0, 0.3, 0.7, 1.0]
    """

    _share: Tensor  # (C, number of methods in use)
    _strength: Tensor  # (C, number of methods in use)
    _class_counts: Tensor
    _strongest: Tensor
    _bank: FeatureBank
    _neighbors: NeighborPartners
    _partners: ClassPartners
    _covariance: BorrowedCovariance | None
    _isda: BorrowedCovariance | None

    def __init__(
        self,
        plan: Plan,
        embeddings: Embeddings,
        *,
        seed: int = 0,
        head: LinearHead | None = None,
        known: KnownNeighbors | None = None,
    ) -> None:
        super().__init__()
        _require_fitting(plan, embeddings, head)
        self.seed, self.epoch, self.step, self.head = seed, 0, 0, head
        self._epochs: int | None = None
        self._bank = FeatureBank(embeddings, known)
        self._neighbors = NeighborPartners(self._bank)
        self.use(plan)

    @property
    def bank(self) -> Tensor:
        """The training features that partners come from, `(M, D)`."""
        return self._bank.features

    @property
    def whole(self) -> bool:
        """True if the bank holds the whole training set."""
        return self._bank.whole

    def refresh(self, embeddings: Embeddings) -> None:
        """Replace the bank, for example by embeddings extracted after some epochs.

        Args:
            embeddings: Of the same classes, with as many features as before.

        Raises:
            InputError: the numbers of classes or features differ, or the embeddings hold no row.
        """
        _require_classes(self.plan, embeddings.num_classes)
        _require_rows(embeddings)
        if embeddings.num_features != self.bank.shape[1]:
            raise must("embeddings", f"have {self.bank.shape[1]} features, as before", embeddings.num_features)
        self._bank.fill(embeddings, self.bank.device)
        self._neighbors.forget()
        self.use(self.plan)

    def use(self, plan: Plan) -> Self:
        """Follow another plan of the same classes from the next batch on.

        Raises:
            InputError: the plan has another number of classes.
        """
        _require_classes(plan, len(self._bank.count))
        self.plan = plan
        self.methods = plan.feature_methods
        device = self.bank.device
        for name in ("share", "strength"):
            columns = [plan.feature_column(method, name) for method in self.methods]
            values = torch.stack(columns, 1) if columns else torch.zeros(plan.num_classes, 0)
            keep(self, f"_{name}", values.to(device))
        keep(self, "_class_counts", plan.class_counts.to(device))
        self._neighbors.follow(plan)
        self._partners = ClassPartners(self._bank, plan)
        if "magnitude" in self.methods:
            keep(self, "_strongest", self._bank.strongest_features(self.head))
        self._covariance, self._isda = (
            BorrowedCovariance(self._bank, plan, method, self.seed) if method in self.methods else None
            for method in ("covariance", "isda")
        )
        return self

    def set_epoch(self, epoch: int, epochs: int | None = None) -> None:
        """Set the epoch for draws without a key, and start counting steps from 0.

        Args:
            epoch: The epoch, counted from 0.
            epochs: Epochs in all; if given, the plan's schedule acts.
        """
        self.epoch, self.step, self._epochs = epoch, 0, epochs

    @property
    def factor(self) -> float:
        """The schedule's factor on shares and strengths in this epoch."""
        return 1.0 if self._epochs is None else self.plan.schedule.features_at(self.epoch, self._epochs)

    def forward(self, features: Tensor, targets: Tensor, key: DrawKey | None = None) -> tuple[Tensor, Tensor]:
        """Return the augmented features `(N, D)` and their targets.

        Args:
            features: `(N, D)` of any floating type, on the device of this module.
            targets: Classes `(N,)`, or class probabilities `(N, C)`; the largest one counts as the class.
            key: The training images of the batch, and the key of the draws.

        Raises:
            InputError: features or targets have another form, or the key names images that are not in the bank.
        """
        if not self.training or not self.methods:
            return features, targets
        _check_batch(features, targets, self.bank.shape[1], self.plan.num_classes)
        row = torch.arange(len(features), device=features.device)
        if key is not None and key.rows is not None:
            row = key.rows.to(features.device)
        if key is None:
            origin: tuple[Any, ...] = (self.seed, self.epoch, self.step, row)
            rows = None
            self.step += 1
        else:
            origin, rows = (key.seed, key.epoch, key.step, row), self._rows_of(key.indices, targets)
        made, labels = self._augmented(features, targets, origin, rows, self._strength[None])
        return made[0], labels[0]

    def vary_steps(
        self, features: Tensor, seed: int, step: Tensor, indices: Tensor, strengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the augmented batches of several steps at once; the bank must hold the whole training set.

        The draws are those of `forward` with `DrawKey(seed=seed, epoch=0, step=step[i], indices=indices[i])` for every i.

        Args:
            features: `(S, B, D)`.
            seed: Seed of the draws.
            step: The steps, `(S,)`.
            indices: Places of the images in the training set, `(S, B)`.
            strengths: `(V, C, number of methods)`, from `strengths_of`: the batches are augmented V times with the same
                draws. None for the strengths of the plan.

        Returns:
            `(S, B, D)` features and `(S, B)` or `(S, B, C)` targets; with `strengths`, `(V, S, B, ...)` of both.
        """
        number, batch = indices.shape
        row = torch.arange(batch, device=features.device).repeat(number)
        targets = self._bank.labels[self._bank.row_of_image[indices.flatten()]]
        wanted = self._strength[None] if strengths is None else strengths
        made, found = [features] * len(wanted), [targets.view(number, batch)] * len(wanted)
        if self.training and self.methods:
            origin = (seed, 0, step.repeat_interleave(batch), row)
            rows = self._rows_of(indices.flatten(), targets)
            flat, labels = self._augmented(features.flatten(0, 1), targets, origin, rows, wanted)
            made = [one.view_as(features) for one in flat]
            found = [one.unflatten(0, (number, batch)) for one in labels]
        return (made[0], found[0]) if strengths is None else (torch.stack(made), torch.stack(found))

    def strengths_of(self, plans: Sequence[Plan]) -> Tensor:
        """Return the strengths `(V, C, number of methods)` of plans that differ from this one in nothing else."""
        empty = torch.zeros(self.plan.num_classes, 0)
        columns = [[plan.feature_column(method, "strength") for method in self.methods] for plan in plans]
        return torch.stack([torch.stack(one, 1) if one else empty for one in columns]).to(self.bank.device)

    def _augmented(
        self,
        features: Tensor,
        targets: Tensor,
        origin: tuple[Any, ...],
        rows: Tensor | None,
        strengths: Tensor,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The augmented features and their targets, once for each of V strengths.

        Args:
            features: `(N, D)`.
            targets: `(N,)` or `(N, C)`.
            origin: What the draws depend on: seed, epoch, step and `(N,)` places in the batch.
            rows: Rows of these images in the bank, `(N,)`; None if unknown.
            strengths: `(V, C, number of methods)`.
        """
        classes = targets if targets.ndim == 1 else targets.argmax(1)
        ends = (self.factor * self._share).cumsum(1)[classes]
        method_of = (draws.uniform("feature method", *origin)[:, None] >= ends).sum(1)
        if any(method in _MIXED_LABELS for method in self.methods):
            targets = targets if targets.ndim == 2 else nn.functional.one_hot(targets, self.plan.num_classes)
            targets = targets.float()
        whole = _Batch(features=features, targets=targets, classes=classes, rows=rows, origin=origin)
        varied, labels = [features for _ in strengths], [targets for _ in strengths]
        for place, method in enumerate(self.methods):
            if method == "isda":
                continue
            strength = self.factor * strengths[:, classes, place]  # (V, N)
            chosen = (method_of == place) & (strength > 0)
            batch, picked = whole, None
            if features.device.type == "cpu" or (rows is None and method in BETWEEN_NEIGHBORS):
                picked = chosen.any(0).nonzero().flatten()  # on other devices this would wait for the device
                if not len(picked):
                    continue
                batch, strength, chosen = whole.select(picked), strength[:, picked], chosen[:, picked]
            change, changed = self._change(method, batch)
            for one, (amount, taken) in enumerate(zip(strength, chosen & changed, strict=True)):
                made, mixed = change(amount)
                varied[one] = _put(varied[one], made, taken, picked)
                labels[one] = labels[one] if mixed is None else _put(labels[one], mixed, taken, picked)
        return varied, labels

    def _change(self, method: str, batch: _Batch) -> tuple[_Change, Tensor]:
        """What a method makes of a batch as a function of the strength `(N,)`, and which rows it can change, `(N,)` bool."""
        base, classes = batch.features, batch.classes
        draw = draws.uniform(method, *batch.origin)
        key = (method, *(part[:, None] if isinstance(part, Tensor) else part for part in batch.origin))
        every = torch.ones_like(classes, dtype=torch.bool)
        if method in BETWEEN_NEIGHBORS:
            pick = draws.uniform(method, "partner", *batch.origin)
            partner, some = self._neighbors.partners(method, base, classes, batch.rows, pick)
            return self._toward(partner, base, draw), some
        if method == "toward_enemies":
            partner = self._partners.enemy(classes, key)
            return self._toward(partner, base, draw), self._partners.has_enemies[classes]
        if method == "covariance" and self._covariance is not None:
            noise = self._covariance.noise(classes, key)
            return lambda strength: (oversample.add_noise(base, noise, strength, self._bank.lowest), None), every
        if method == "magnitude":
            return lambda strength: (oversample.shrink(base, self._strongest[classes], draw, strength), None), every
        partner, label = self._partners.anyone(key)
        others = nn.functional.one_hot(label, self.plan.num_classes)
        moved = self._toward(partner, base, draw)

        def mixed(strength: Tensor) -> tuple[Tensor, Tensor]:
            share = strength * draw
            if method == "remix":
                sizes = self._class_counts
                share = 1 - mixing.remix_shares(1 - share, sizes[classes], sizes[label])
            return moved(strength)[0], oversample.mix_labels(batch.targets, others, share)

        return mixed, every

    def _toward(self, partner: Tensor, base: Tensor, draw: Tensor) -> _Change:
        """The base moved toward rows of the bank."""
        rows = self.bank[partner].to(base.dtype)
        return lambda strength: (oversample.interpolate(base, rows, draw, strength), None)

    def adjust_logits(self, logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        """Return the logits of ISDA `(N, C)`, whose cross entropy is an upper bound on that over Gaussian features.

        lambda is strength times share times the schedule's factor (Wang et al. 2019 let it grow linearly), and each class
        has the covariance of its policy's `donors`, as for "covariance". Logits are returned unchanged in `eval()`, if no
        class uses "isda", and for rows whose label is shared between classes, since the bound is for one label.

        Args:
            logits: Of the features without noise, `(N, C)`.
            targets: `(N,)` or `(N, C)`, as `forward` returns them.
            weight: Weight of the head, `(C, D)`; gradients flow into it.

        Raises:
            InputError: the weight has another shape.

        References:
            Wang et al. (2019), Implicit semantic data augmentation for deep networks, eq. 8.
        """
        if not self.training or self._isda is None:
            return logits
        if weight.shape != self._bank.means.shape:
            raise must("weight", f"have shape {tuple(self._bank.means.shape)}", tuple(weight.shape))
        place = self.methods.index("isda")
        strength = self.factor * self._strength[:, place] * self._share[:, place]
        classes = targets if targets.ndim == 1 else targets.argmax(1)
        raised = oversample.isda_logits(logits, classes, weight, self._isda.factors, self._isda.classes, strength)
        return torch.where(is_whole(targets, classes)[:, None], raised, logits)

    def _rows_of(self, images: Tensor, targets: Tensor) -> Tensor | None:
        """Rows of these images in the bank `(N,)`, if a method needs them and the bank holds all images."""
        if not self.whole or not any(method in BETWEEN_NEIGHBORS for method in self.methods):
            return None
        return self._bank.rows_of(images, targets)


def _require_fitting(plan: Plan, embeddings: Embeddings, head: LinearHead | None) -> None:
    if not isinstance(plan, Plan):
        raise must("plan", "be a Plan", type(plan).__name__, "Plan.from_dict makes one of JSON values")
    require_embeddings("embeddings", embeddings)
    _require_classes(plan, embeddings.num_classes)
    if head is not None and head.weight.shape != (embeddings.num_classes, embeddings.num_features):
        law = f"have weights of shape {(embeddings.num_classes, embeddings.num_features)}, as the embeddings"
        raise must("head", law, tuple(head.weight.shape))
    _require_rows(embeddings)


def _require_classes(plan: Plan, num_classes: int) -> None:
    if plan.num_classes != num_classes:
        raise must("plan", f"have {num_classes} classes, as the embeddings", plan.num_classes)


def _require_rows(embeddings: Embeddings) -> None:
    if not len(embeddings):
        raise must("embeddings", "hold at least one row", 0)


def _check_batch(features: Tensor, targets: Tensor, num_features: int, num_classes: int) -> None:
    if features.ndim != 2 or features.shape[1] != num_features:
        raise must("features", f"have shape (N, {num_features})", tuple(features.shape))
    if targets.shape not in (features.shape[:1], (len(features), num_classes)):
        law = f"have shape ({len(features)},) or ({len(features)}, {num_classes})"
        raise must("targets", law, tuple(targets.shape))
    if targets.ndim == 1 and targets.device.type == "cpu":  # on other devices a check would wait for the device
        outside = (targets < 0) | (targets >= num_classes)
        if bool(outside.any()):
            law = f"lie in [0, {num_classes - 1}], the classes of the plan"
            raise must("targets", law, int(targets[outside][0]))
