"""Image augmentation and mixing of whole batches on their device, as a plan says for each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import must
from ..functional import draws, image_ops, mixing
from ..plan.plan import Plan
from ..plan.policies import ImagePolicy
from .draw_key import DrawKey

Augmentation = Callable[[Tensor, Tensor, DrawKey], tuple[Tensor, Tensor]]

_METHODS = ("none", "cutmix", "mixup", "remix")
_WHOLE = 1 << 30  # partner weights are integers that sum to about this: their sums do not depend on the order of adding


class BatchAugmenter(nn.Module):
    """Augments batches: `base` for every image, then its class's image policy, then its class's mixing.

    With a `DrawKey`, as `fit` passes one, the augmentation of an image depends on (seed, epoch, index, occurrence) and not
    on the batch that it is in, and mixing depends on (seed, epoch, step, row). Without a key the augmenter counts its own
    steps in place of indices; processes that train together then need different seeds. In `eval()` nothing is changed.

    Args:
        plan: The image policies and the mixing of every class.
        seed: Seed of the draws without a key.
        pool: Training images `(M, C, H, W)`, uint8 or of the type of the batches, and their labels `(M,)`. Partners for
            mixing are drawn from it: first the class, by the plan's `partner` weights, then one of its images; they go
            through `base`. The pool moves with `.to(device)`. Without a pool partners come from the augmented batch, with
            the same weights for the classes in it.
        base: Augmentation that is applied first, for example `CropFlip`.

    Raises:
        InputError: the pool has another form, or labels that are not classes of the plan.

    Example:
        >>> import torch, diversify as dv
        >>> plan = dv.Plan.from_counts(["cat", "newt"], [100, 10])
        >>> augment = dv.BatchAugmenter(plan, seed=0, base=dv.CropFlip(padding=1, mirror=True))
        >>> images, targets = augment(torch.rand(6, 3, 8, 8), torch.tensor([0, 0, 0, 0, 1, 1]))
        >>> images.shape, targets.shape  # class probabilities, since the plan mixes images
        (torch.Size([6, 3, 8, 8]), torch.Size([6, 2]))
    """

    _operations: Tensor
    _choices: Tensor
    _layers: Tensor
    _strength: Tensor
    _probability: Tensor
    _method: Tensor
    _mixed: Tensor
    _partner: Tensor
    _class_counts: Tensor
    _pool_images: Tensor | None
    _pool_order: Tensor
    _pool_counts: Tensor

    def __init__(
        self,
        plan: Plan,
        *,
        seed: int = 0,
        pool: tuple[Tensor, Tensor] | None = None,
        base: Augmentation | None = None,
    ) -> None:
        super().__init__()
        self.seed, self.base = seed, base
        self.epoch, self.step, self._epochs = 0, 0, cast(int | None, None)
        self._checked = False  # True once the values of a batch were checked
        images, labels = pool if pool is not None else (None, torch.empty(0, dtype=torch.int64))
        if images is not None:
            _check_pool(images, labels, plan.num_classes)
        order, counts = _by_class(labels, plan.num_classes)
        self.register_buffer("_pool_images", images, persistent=False)
        self.register_buffer("_pool_order", order, persistent=False)
        self.register_buffer("_pool_counts", counts, persistent=False)
        self._take(plan, labels.device)

    def use(self, plan: Plan) -> None:
        """Follow another plan of the same classes.

        Raises:
            InputError: the plan has other classes.
        """
        before, after = ([one.name for one in each.classes] for each in (self.plan, plan))
        if len(before) != len(after):
            raise must("plan", f"have the {len(before)} classes of the plan before it", len(after))
        for old, name in zip(before, after, strict=True):
            if old != name:
                raise must("plan", "have the classes of the plan before it", f"{name!r} for {old!r}")
        self._take(plan, self._strength.device)

    def set_epoch(self, epoch: int, epochs: int | None = None) -> None:
        """Set the epoch, and start counting steps from 0.

        Args:
            epoch: The epoch, counted from 0.
            epochs: Epochs in all; if given, the plan's schedule acts.

        Raises:
            InputError: a number is out of its range.
        """
        if epoch < 0:
            raise must("epoch", "not be negative", epoch)
        if epochs is not None and epochs < 1:
            raise must("epochs", "be at least 1", epochs)
        self.epoch, self.step, self._epochs = epoch, 0, epochs

    @property
    def factor(self) -> float:
        """The schedule's factor on strengths and probabilities in this epoch."""
        return 1.0 if self._epochs is None else self.plan.schedule.at(self.epoch, self._epochs)

    def forward(self, images: Tensor, targets: Tensor, key: DrawKey | None = None) -> tuple[Tensor, Tensor]:
        """Return the augmented batch.

        Args:
            images: `(N, C, H, W)` uint8, or floating point in [0, 1], not normalised yet.
            targets: Class indices `(N,)` or `(N, 1)`, or class probabilities `(N, C)`, one-hot or already mixed; the largest
                one counts as the class. Of two classes, floats or booleans `(N,)` are the probability of class 1, and become
                `(N, 2)`: column 1 is the target of a binary cross entropy.
            key: What the draws depend on; None for the augmenter's own seed, epoch and steps.

        Returns:
            Images of the same shape and type, and targets: class probabilities `(N, C)` float32 if the plan mixes images of
            any class (in all epochs alike), else the targets unchanged. Targets that are mixed already are mixed further.

        Raises:
            InputError: targets are not classes or class probabilities, images have another form or values outside [0, 1] (on an accelerator
                only the first batch is checked), or the pool's images have another shape.
        """
        if not self.training:
            return images, targets
        self._check_images(images)
        if isinstance(targets, Tensor) and targets.ndim == 2 and targets.shape[1] == 1 != self._classes:
            targets = targets[:, 0]
        targets = _of_two_classes(targets, self._classes)
        _check_targets(targets, len(images), self._classes)
        if key is None:
            rows = torch.arange(len(images), device=images.device)
            key = DrawKey(seed=self.seed, epoch=self.epoch, step=self.step, indices=rows + (self.step << 32))
            self.step += 1
        if self.base is not None:
            images, targets = self.base(images, targets, key)
        soft = targets.float() if targets.ndim == 2 else None
        classes = targets.long() if soft is None else soft.argmax(1)  # torch would read uint8 indices as a mask
        images = self._vary(images, classes, key)
        return self._mix(images, classes, key, soft) if self._mixes else (images, targets)

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
            raise must("images", "be (N, C, H, W), uint8 or floating point", f"{images.dtype} {tuple(images.shape)}")
        if not self._names or images.dtype == torch.uint8 or not images.numel():
            return
        if images.device.type != "cpu" and self._checked:  # every check waits for the device
            return
        self._checked = True
        low, high = (float(end) for end in images.aminmax())
        if not (low >= 0 and high <= 1):
            got = f"{images.dtype} from {low:.3g} to {high:.3g}"
            raise must("images", "be uint8, or float in [0, 1], to be augmented", got, "normalise them afterwards")

    def _vary(self, images: Tensor, targets: Tensor, key: DrawKey) -> Tensor:
        factor = self.factor
        if not self._names or not factor:
            return images
        views = key.views.to(images.device, non_blocking=True)
        acts = draws.uniform("image policy", key.seed, key.epoch, views) < self._probability[targets] * factor
        operation, draw = _draw(self._operations, self._choices, targets, self._most_layers, key, views)
        layer = torch.arange(self._most_layers, device=images.device)
        acts = acts[:, None] & (layer < self._layers[targets][:, None])
        strength = torch.where(acts, self._strength[targets][:, None] * factor, 0)
        return image_ops.apply_policy(images, operation, strength, draw, self._names)

    def _mix(self, images: Tensor, targets: Tensor, key: DrawKey, soft: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The images mixed with partners, and class probabilities; those that the targets already have are mixed too."""
        rows = torch.arange(len(images), device=images.device) if key.rows is None else key.rows

        def drawn(name: str) -> Tensor:
            return draws.uniform(name, key.seed, key.epoch, key.step, rows)

        partners, partner_targets, place, found = self._partners(images, targets, key, rows)
        method = self._method[targets]
        acts = found & (drawn("mix") < self._mixed[targets] * self.factor)
        share = drawn("mix share")  # Beta(1, 1)
        kept = torch.ones_like(share)
        if "cutmix" in self._mixes:
            chosen = torch.where(acts & (method == _METHODS.index("cutmix")), share, 1)
            places = drawn("mix vertical"), drawn("mix horizontal")
            boxes, kept = mixing.cutmix_boxes(chosen, *places, *images.shape[2:])
            images = mixing.cutmix(images, partners, boxes)
        if "mixup" in self._mixes or "remix" in self._mixes:
            blends = acts & (method >= _METHODS.index("mixup"))
            images = mixing.mixup(images, partners, torch.where(blends, share, 1))
            counts = self._class_counts[targets], self._class_counts[partner_targets]
            labels = torch.where(method == _METHODS.index("remix"), mixing.remix_shares(share, *counts), share)
            kept = torch.where(blends, labels, kept)
        if soft is None:
            return images, mixing.mix_targets(targets, partner_targets, kept, self._classes)
        hard = torch.nn.functional.one_hot(partner_targets, self._classes).float()
        share, others = kept.to(soft.dtype)[:, None], soft[place] if self._pool_images is None else hard
        return images, share * soft + (1 - share) * others

    def _partners(
        self, images: Tensor, targets: Tensor, key: DrawKey, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A partner image, its label and its place for every row, and if there is any partner at all, `()` bool."""
        pool = self._pool_images
        if pool is None:
            order, counts = _by_class(targets, self._classes)
        else:
            order, counts = self._pool_order, self._pool_counts
        ends = torch.where(counts > 0, self._partner, 0).cumsum(0)
        ticket = draws.integers(ends[-1], "mix class", key.seed, key.epoch, key.step, rows)
        classes = torch.searchsorted(ends, ticket, right=True).clamp(max=self._classes - 1)
        place = draws.integers(counts[classes], "mix partner", key.seed, key.epoch, key.step, rows)
        found = order[((counts.cumsum(0) - counts)[classes] + place).clamp(max=len(order) - 1)]
        if pool is None:
            return images.index_select(0, found), targets[found], found, ends[-1] > 0
        if pool.shape[1:] != images.shape[1:]:
            law = f"have the images' shape {tuple(images.shape[1:])}"
            raise must("images of the pool", law, tuple(pool.shape[1:]))
        if images.dtype == torch.uint8 and pool.dtype != torch.uint8:
            raise must("images of the pool", "be uint8 as the images are", pool.dtype)
        partners = pool.index_select(0, found)  # pool[found] takes ten times as long on the CPU
        if partners.dtype != images.dtype:
            partners = partners.to(images.dtype) / 255 if partners.dtype == torch.uint8 else partners.to(images.dtype)
        if self.base is not None:
            seed, places = draws.seed_for("mix base", key.seed), rows + (key.step << 32)
            base_key = DrawKey(seed=seed, epoch=key.epoch, step=key.step, indices=places, rows=rows)
            partners, _ = self.base(partners, classes, base_key)
        return partners, classes, found, ends[-1] > 0

    def _take(self, plan: Plan, device: torch.device) -> None:
        """Keep a plan's columns as buffers, which move with the module and are not part of its state."""
        self.plan, self._classes = plan, plan.num_classes
        acting = [one.image if one.image.amount > 0 else ImagePolicy() for one in plan.classes]
        self._names = tuple(dict.fromkeys(name for policy in acting for name in policy.operations))
        self._most_layers = max((policy.layers for policy in acting if policy.operations), default=0)
        mixes = [one.mixing.method if one.mixing.probability > 0 else "none" for one in plan.classes]
        self._mixes = frozenset(mixes) - {"none"}
        operations, choices = _operation_table([policy.operations for policy in acting], self._names)
        columns = {
            "_operations": operations,
            "_choices": choices,
            "_layers": torch.tensor([policy.layers for policy in acting]),
            "_strength": torch.tensor([policy.strength for policy in acting]),
            "_probability": torch.tensor([policy.probability for policy in acting]),
            "_method": torch.tensor([_METHODS.index(method) for method in mixes]),
            "_mixed": plan.mixing_column("probability"),
            "_partner": _whole(plan.mixing_column("partner")),
            "_class_counts": plan.class_counts,
        }
        for name, column in columns.items():
            self.register_buffer(name, column.to(device), persistent=False)


def show_policy(images: Tensor, policy: ImagePolicy, strengths: Sequence[float], seed: int = 0) -> Tensor:
    """Return images as a policy augments them at several strengths, to look at.

    Each image gets the same operations and draws at all strengths, so that only the effect of the strength shows.

    Args:
        images: `(N, C, H, W)` uint8, or floating point in [0, 1].
        policy: Its operations and layers are used; its own strength and probability are not.
        strengths: S strengths in [0, 1]; 0 shows the images themselves.
        seed: Seed of the draws.

    Returns:
        `(S, N, C, H, W)` images.

    Raises:
        InputError: a strength is outside [0, 1].

    Example:
        >>> import torch
        >>> from diversify.augment.batches import show_policy
        >>> from diversify.plan import ImagePolicy
        >>> show_policy(torch.rand(4, 3, 8, 8), ImagePolicy(operations=("rotate",)), [0.0, 0.5, 1.0]).shape
        torch.Size([3, 4, 3, 8, 8])
    """
    for strength in strengths:
        if not 0 <= strength <= 1:
            raise must("strength", "lie in [0, 1]", strength)
    if not policy.operations:
        return images.expand(len(strengths), *images.shape).clone()
    rows = torch.arange(len(images), device=images.device)
    operations, choices = _operation_table([policy.operations], policy.operations)
    table = operations.to(images.device), choices.to(images.device)
    key = DrawKey(seed=seed, epoch=0, step=0, indices=rows)
    operation, draw = _draw(*table, torch.zeros_like(rows), policy.layers, key, rows)
    shown = [
        image_ops.apply_policy(images, operation, torch.full_like(draw, strength), draw, policy.operations)
        for strength in strengths
    ]
    return torch.stack(shown)


def _draw(
    operations: Tensor, choices: Tensor, targets: Tensor, layers: int, key: DrawKey, views: Tensor
) -> tuple[Tensor, Tensor]:
    """The operation of every layer and its draw, both `(N, L)`."""
    places = (key.seed, key.epoch, views[:, None], torch.arange(layers, device=views.device))
    choice = draws.integers(choices[targets][:, None], "image operation", *places)
    return operations[targets].gather(1, choice), draws.uniform("image draw", *places)


def _operation_table(policies: Sequence[tuple[str, ...]], names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """The operations of every class as places in `names`, `(C, most)`, padded with 0, and their numbers `(C,)`."""
    most = max(1, *(len(policy) for policy in policies))
    rows = [[names.index(name) for name in policy] + [0] * (most - len(policy)) for policy in policies]
    return torch.tensor(rows), torch.tensor([max(1, len(policy)) for policy in policies])


def _by_class(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Places sorted by class, `(M,)`, and the number of each class, `(C,)`."""
    counts = torch.zeros(num_classes, dtype=torch.int64, device=labels.device)
    labels = labels.to(torch.int64)
    return labels.argsort(stable=True), counts.scatter_add_(0, labels, torch.ones_like(labels))


def _whole(weights: Tensor) -> Tensor:
    """Integers in proportion to the weights, at least 1 for every positive weight."""
    shares = weights.double() / weights.double().sum().clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(weights > 0, (shares * _WHOLE).round().clamp(min=1), 0).to(torch.int64)


def _of_two_classes(targets: Tensor, num_classes: int) -> Tensor:
    """Class probabilities `(N, 2)` where targets `(N,)` are the probability of class 1; others unchanged."""
    if num_classes != 2 or not isinstance(targets, Tensor) or targets.ndim != 1:
        return targets
    if not targets.is_floating_point() and targets.dtype != torch.bool:
        return targets
    return torch.stack([1 - targets.float(), targets.float()], dim=1)


def _check_targets(targets: Tensor, rows: int, num_classes: int) -> None:
    if not isinstance(targets, Tensor):
        raise must("targets", f"be a tensor of {rows} class indices", type(targets).__name__)
    if targets.shape == (rows, num_classes) and targets.dtype != torch.bool and not targets.is_complex():
        _check_probabilities(targets)
        return
    if targets.shape != (rows,) or targets.is_floating_point() or targets.dtype == torch.bool:
        law = f"be ({rows},) class indices, one for each image, or ({rows}, {num_classes}) class probabilities"
        raise must("targets", law, f"{targets.dtype} {tuple(targets.shape)}")
    if targets.device.type == "cpu" and rows and not 0 <= targets.min() <= targets.max() < num_classes:
        law = f"be classes of the plan, in [0, {num_classes - 1}]"
        raise must("targets", law, f"{int(targets.min())} to {int(targets.max())}")


def _check_probabilities(targets: Tensor) -> None:
    """An InputError if rows `(N, C)` are no class probabilities; not checked on other devices, which would have to wait."""
    if targets.device.type != "cpu" or not len(targets):
        return
    bad = (targets < 0).any(1) | ~((targets.double().sum(1) - 1).abs() < 0.01)
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        got = f"a smallest of {float(targets[row].min()):g} and a sum of {float(targets[row].sum()):g} at row {row}"
        raise must("targets of shape (N, C)", "be class probabilities, 0 or more, which sum to 1", got)


def _check_pool(images: Tensor, labels: Tensor, num_classes: int) -> None:
    if images.ndim != 4 or not len(images):
        raise must("images of the pool", "be (M, C, H, W) with M at least 1", tuple(images.shape))
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise must("labels of the pool", f"be ({len(images)},) class indices", f"{labels.dtype} {tuple(labels.shape)}")
    if labels.min() < 0 or labels.max() >= num_classes:
        law = f"be classes of the plan, in [0, {num_classes - 1}]"
        raise must("labels of the pool", law, f"{int(labels.min())} to {int(labels.max())}")
