"""Leak: if a model predicts a class because of the class's augmentation; and a plan that reduces it.

    leak = measure_leak(model, plan, heldout_loader, prepare=view.normalize)
    plan = bounded(plan, leak, limit=0.02)

A network whose rare classes are augmented more than others may learn that augmented means rare. The leak of a class is how
much more often held-out images of other classes are predicted as this class when its image policy is applied to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..data.loader import collate
from ..errors import must, unknown
from ..functional import counts, draws, image_ops, stats
from ..network.extraction import PRECISIONS, autocast, taking, unchanged_randomness
from ..network.output_check import describe_output
from ..network.split import ADAPTER, require_usable
from ..network.wrappers import evaluating
from ..plan.plan import Plan
from ..plan.policies import ClassPlan, ImagePolicy, Reason, exposures
from ..runtime.progress import Progress

Policies = dict[tuple[tuple[str, ...], int, float], list[int]]

LIMIT = 0.02  # leak above which it matters, as a share of the other classes' images
MOST_IMAGES = 2000  # held-out images that suffice to detect a leak

_COUNTS = ("count", "count_others")


@dataclass(frozen=True, kw_only=True, eq=False)
class Leak:
    """The change of a model's predictions on held-out images when a class's image policy is applied to them.

    All columns are `(C,)` float64, NaN where undefined. Intervals are 95% intervals of a paired difference of shares.

    Attributes:
        class_names: Names of the C classes.
        count: Held-out images of the class, int64.
        count_others: Held-out images of all other classes, int64.
        called_clean: Share of the other classes' images that are predicted as this class, without augmentation.
        called_varied: The same with this class's policy applied to each of them.
        leak: `called_varied - called_clean`; exactly 0 for a class without a policy.
        leak_low: Lower end of its interval.
        leak_high: Upper end of its interval.
        recall_clean: Recall of the class without augmentation.
        recall_varied: Recall of the class with its policy applied to its own images.
        recall_change: `recall_varied - recall_clean`.
        recall_change_low: Lower end of its interval.
        recall_change_high: Upper end of its interval.

    Raises:
        InputError: a column does not have one number per class.

    See Also:
        `measure_leak` makes it; `bounded` lowers the strengths of a plan by it.

    Example:
        >>> import torch
        >>> from diversify.augment import Leak
        >>> zero = [0.0, 0.0]
        >>> names = ("called_clean", "called_varied", "leak", "leak_low", "leak_high", "recall_clean", "recall_varied",
        ...          "recall_change", "recall_change_low", "recall_change_high")
        >>> columns = {**dict.fromkeys(names, zero), "leak": [0.05, 0.0], "leak_low": [0.03, 0.0]}
        >>> leak = Leak(class_names=("cat", "newt"), count=torch.tensor([50, 50]), count_others=torch.tensor([50, 50]),
        ...             **{name: torch.tensor(column) for name, column in columns.items()})
        >>> leak.beyond_doubt
        [0]
    """

    class_names: tuple[str, ...]
    count: Tensor
    count_others: Tensor
    called_clean: Tensor
    called_varied: Tensor
    leak: Tensor
    leak_low: Tensor
    leak_high: Tensor
    recall_clean: Tensor
    recall_varied: Tensor
    recall_change: Tensor
    recall_change_low: Tensor
    recall_change_high: Tensor

    def __post_init__(self) -> None:
        for name in self._columns():
            if (shape := tuple(getattr(self, name).shape)) != (len(self.class_names),):
                raise must(f"{name} of the leak", f"have shape ({len(self.class_names)},)", shape)

    @classmethod
    def _columns(cls) -> list[str]:
        return [field.name for field in fields(cls) if field.name != "class_names"]

    @property
    def largest(self) -> float:
        """The largest leak of any class; NaN if no class has one."""
        known = self.leak[~self.leak.isnan()]
        return float(known.max()) if len(known) else math.nan

    @property
    def largest_difference(self) -> float:
        """The largest leak minus the smallest; NaN if no class has one."""
        known = self.leak[~self.leak.isnan()]
        return float(known.max() - known.min()) if len(known) else math.nan

    @property
    def beyond_doubt(self) -> list[int]:
        """The classes whose leak is above `LIMIT` with its whole interval, largest leak first."""
        found = (self.leak_low > LIMIT).nonzero().flatten().tolist()
        return sorted(found, key=lambda c: -float(self.leak[c]))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, NaN as None; `from_dict` gives back the same numbers."""
        columns = {
            name: [None if isinstance(value, float) and math.isnan(value) else value for value in column]
            for name in self._columns()
            for column in [getattr(self, name).tolist()]
        }
        return {"schema_version": 1, "class_names": list(self.class_names), **columns}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Leak:
        """Return the leak that values from `to_dict` hold.

        Raises:
            InputError: a column is missing or has another form, or the values have another version.
        """
        version = values.get("schema_version") if isinstance(values, Mapping) else None
        if version != 1:
            raise must("leak", "have schema_version 1", version)
        names = values.get("class_names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise must("class_names of the leak", "be a list of names", repr(names)[:80])
        columns = {name: _column(name, values.get(name)) for name in cls._columns()}
        return cls(class_names=tuple(names), **columns)


def _column(name: str, values: object) -> Tensor:
    kinds = (int,) if name in _COUNTS else (int, float, type(None))
    if not isinstance(values, list) or not all(isinstance(v, kinds) and not isinstance(v, bool) for v in values):
        raise must(f"{name} of the leak", "be a list of numbers", repr(values)[:80])
    if name in _COUNTS:
        return torch.tensor(values, dtype=torch.int64)
    return torch.tensor([math.nan if value is None else value for value in values], dtype=torch.float64)


def measure_leak(
    model: nn.Module,
    plan: Plan,
    heldout: DataLoader[Any] | Dataset[Any],
    *,
    seed: int = 0,
    prepare: Callable[[Tensor], Tensor] | None = None,
    precision: str = "fp32",
    repeats: int = 1,
    progress: Progress | None = None,
) -> Leak:
    """Test if applying a class's augmentation to other classes' images makes the model predict that class.

    Every policy is applied to every image at its full strength; `probability` and the schedule only decide how many training
    images it is applied to. The draws for an image depend on (seed, place of the image, repeat) and not on the class, so
    classes are compared on the same draws, and classes with the same policy share forward passes. This takes
    1 + (number of different policies) x `repeats` passes over the images. Mode, gradients and random state of the model do
    not change.

    Args:
        model: Takes prepared images, returns logits `(N, C)`.
        plan: The image policies.
        heldout: A loader of `(images, labels)` or a data set of `(image, label)`, of images that the model was not trained
            on: uint8 or float in [0, 1], not normalised yet.
        seed: Seed of the draws.
        prepare: Turns images from `heldout` into the model's input, for example `view.normalize`.
        precision: "fp32", "bf16" for autocast, or "auto" for "bf16" where the hardware supports it.
        repeats: Draws per image. Shares are over all draws; intervals count images.
        progress: Called after each batch with (images done, images in total).

    Returns:
        The leak of every class, with intervals.

    Raises:
        InputError: images outside [0, 1], labels that are not classes of the plan, a model that does not take the images
            or returns something else than logits `(N, C)`, or no image at all.

    Example:
        A model that takes dark images for newts, and a plan that augments newts, which darkens some images:

        >>> import torch, diversify as dv
        >>> images, labels = torch.full((40, 3, 8, 8), 0.9), torch.tensor([0, 1] * 20)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> model[1].load_state_dict({"weight": torch.ones(2, 192) * torch.tensor([[1.0], [0.0]]),
        ...                           "bias": torch.tensor([0.0, 150.0])})
        <All keys matched successfully>
        >>> plan = dv.Plan.from_counts(["cat", "newt"], [100, 10])
        >>> leak = dv.measure_leak(model, plan, torch.utils.data.TensorDataset(images, labels))
        >>> [round(value, 2) for value in leak.leak.tolist()]
        [0.0, 0.15]
    """
    require_usable(model)
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if repeats < 1:
        raise must("repeats", "be at least 1", repeats)
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    policies = _policies(plan)
    labels: list[Tensor] = []
    predictions: list[Tensor] = []  # (1 + P x R, N) predictions of each batch, clean and then under each policy
    done, total = 0, _number_of_images(heldout)
    with unchanged_randomness(device, heldout), evaluating(model):
        for images, found in _batches(heldout):
            _check(images, found, plan.num_classes)
            images = images.to(device, non_blocking=True)
            rows = torch.arange(done, done + len(images), device=device)
            with torch.inference_mode(), autocast(device, precision):
                views = _views(images, rows, policies, seed, repeats)
                predictions.append(
                    torch.stack([_predicted(model, view, prepare, plan.num_classes) for view in views]).cpu()
                )
            labels.append(found.long().cpu())
            done += len(images)
            if progress is not None:
                progress(done, total)
    if not done:
        raise must("heldout", "have at least one image", 0)
    return _measured(plan, policies, torch.cat(labels), torch.cat(predictions, dim=1), repeats)


def _policies(plan: Plan) -> Policies:
    """The different policies that augment images, (operations, layers, strength), each with its classes."""
    found: Policies = {}
    for number, one in enumerate(plan.classes):
        if one.image.amount > 0:
            found.setdefault((one.image.operations, one.image.layers, one.image.strength), []).append(number)
    return found


def different_policies(plan: Plan) -> int:
    """Return the number of different image policies: the passes over the images that `measure_leak` adds per repeat.

    Example:
        >>> from diversify.augment.leak import different_policies
        >>> from diversify.plan import Plan
        >>> different_policies(Plan.from_counts(["cat", "newt", "toad"], [100, 10, 10]))
        2
    """
    return len(_policies(plan))


def evenly_spread(labels: Tensor, most: int) -> Tensor:
    """Return at most `most` rows, spread evenly within every class, to measure a leak on in bounded time.

    Example:
        >>> import torch
        >>> from diversify.augment.leak import evenly_spread
        >>> evenly_spread(torch.tensor([0, 0, 0, 0, 1, 1]), 3).tolist()
        [0, 2, 5]
    """
    if len(labels) <= most:
        return torch.arange(len(labels))
    order = labels.argsort(stable=True)
    return order[torch.linspace(0, len(order) - 1, most).long()]


def _number_of_images(heldout: Any) -> int | None:
    """The number of images, None if it is unknown."""
    images: Any = heldout.sampler if isinstance(heldout, DataLoader) else heldout
    try:
        return len(images)
    except TypeError:  # of a stream, or of an iterable of batches
        return None


def _batches(heldout: Any) -> Iterator[tuple[Tensor, Tensor]]:
    loader: Iterable[Any] = heldout
    if not isinstance(heldout, DataLoader) and hasattr(heldout, "__getitem__"):
        loader = DataLoader(heldout, batch_size=256, collate_fn=collate)
    for batch in loader:
        if not isinstance(batch, list | tuple) or len(batch) < 2 or not all(map(torch.is_tensor, batch[:2])):
            raise must("heldout", "yield (images, labels), both tensors", f"a {type(batch).__name__}")
        images, labels = batch[:2]
        yield images, labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _check(images: Tensor, labels: Tensor, num_classes: int) -> None:
    if images.ndim != 4:
        raise must("heldout images", "have shape (N, C, H, W)", tuple(images.shape))
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise must("labels of heldout", f"be {len(images)} integers", f"{labels.dtype} of shape {tuple(labels.shape)}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        wrong = labels[(labels < 0) | (labels >= num_classes)][0]
        raise must("labels of heldout", f"be classes of the plan, in [0, {num_classes - 1}]", int(wrong))
    if images.dtype == torch.uint8 or not images.numel():
        return
    got = str(images.dtype)
    if images.is_floating_point():
        low, high = float(images.min()), float(images.max())
        if low >= 0 and high <= 1:
            return
        got = f"{got} from {low:.3g} to {high:.3g}"
    advice = "pass images before normalisation, and prepare=NORMALIZE"
    raise must("heldout images", "be uint8, or float in [0, 1]", got, advice)


def _views(images: Tensor, rows: Tensor, policies: Policies, seed: int, repeats: int) -> Iterator[Tensor]:
    """The images without augmentation, then under each policy, `repeats` times."""
    yield images
    for operations, layers, strength in policies:
        layer = torch.arange(layers, device=images.device)
        for repeat in range(repeats):
            key = (seed, repeat, rows[:, None], layer)
            chosen = draws.integers(len(operations), "leak operation", *key)
            strengths = torch.full(chosen.shape, strength, device=images.device)
            draw = draws.uniform("leak draw", *key)
            yield image_ops.apply_policy(images, chosen, strengths, draw, operations)


def _predicted(
    model: nn.Module, images: Tensor, prepare: Callable[[Tensor], Tensor] | None, num_classes: int
) -> Tensor:
    """The predicted classes `(N,)`."""
    images = images if prepare is None else prepare(images)
    with taking(images):
        logits = model(images)
    if not isinstance(logits, Tensor):
        raise must("model", "return one tensor of logits", describe_output(logits), ADAPTER)
    if logits.shape != (len(images), num_classes):
        raise must(
            "model", f"return logits of shape (N, {num_classes}), one per class of the plan", tuple(logits.shape)
        )
    return logits.argmax(1)


def _measured(plan: Plan, policies: Policies, labels: Tensor, predictions: Tensor, repeats: int) -> Leak:
    """The leak, from the predictions `(1 + P x R, N)` for all images."""
    num_classes = plan.num_classes
    columns = {
        name: torch.full((num_classes,), math.nan, dtype=torch.float64)
        for name in Leak._columns()
        if name not in _COUNTS
    }
    views = {number: [0] for number in range(num_classes)}
    for place, classes in enumerate(policies.values()):
        first = 1 + place * repeats
        views |= {number: list(range(first, first + repeats)) for number in classes}
    count = counts.class_counts(labels, num_classes)
    for number in range(num_classes):
        clean = (predictions[0] == number).double()
        augmented = (predictions[views[number]] == number).double().mean(0)
        sides = (
            ("called_clean", "called_varied", "leak", labels != number),
            ("recall_clean", "recall_varied", "recall_change", labels == number),
        )
        for before, after, change, chosen in sides:
            total = chosen.sum().double()
            one, two, both = clean[chosen].sum(), augmented[chosen].sum(), (clean * augmented)[chosen].sum()
            low, high = stats.paired_difference_interval(one, two, both, total)
            if views[number] == [0]:
                low, high = (two - one) / total, (two - one) / total
            found = {before: one / total, after: two / total, change: (two - one) / total}
            for name, value in {**found, f"{change}_low": low, f"{change}_high": high}.items():
                columns[name][number] = value
    names = tuple(one.name for one in plan.classes)
    return Leak(class_names=names, count=count, count_others=len(labels) - count, **columns)


def bounded(plan: Plan, leak: Leak, limit: float = LIMIT) -> Plan:
    """Return the plan with lower image strengths for classes that leak.

    A class whose whole leak interval lies above the limit gets its strength multiplied by `limit / leak`, and a reason. The
    plan's bound on the difference between classes still holds: no class gets further below the class with the largest
    policy than the bound allows. Measure the leak again on a model that was trained with the new plan.

    On twelve networks with long tails, trained by a plan that augments all classes alike, this left balanced accuracy
    as it was: 0.1 points lower on average (`docs/results/pairs_and_leak.md`). Use it where you do not want the leak, not to raise accuracy.

    Args:
        plan: The plan that the model was trained with.
        leak: Measured on that model.
        limit: Largest acceptable leak, in (0, 1].

    Raises:
        InputError: the leak has other classes, or `limit` is not in (0, 1].
    """
    if not 0 < limit <= 1:
        raise must("limit", "lie in (0, 1]", limit)
    names = tuple(one.name for one in plan.classes)
    if names != leak.class_names:
        raise must("leak", "have the plan's classes", ", ".join(leak.class_names[:5]) or "none")
    beyond = (leak.leak_low > limit).tolist()  # False where it is NaN
    lowered = [
        _weakened(one.image, limit / float(leak.leak[number])) if beyond[number] else one.image
        for number, one in enumerate(plan.classes)
    ]
    exposed = exposures([one.image if one.count else ImagePolicy() for one in plan.classes])
    amounts = [policy.strength * exposure for policy, exposure in zip(lowered, exposed, strict=True)]
    least = max(amounts) - plan.bound
    classes = list(plan.classes)
    for number, (one, policy) in enumerate(zip(plan.classes, lowered, strict=True)):
        if policy is one.image:
            continue
        if one.count and amounts[number] < least:
            policy = policy.model_copy(update={"strength": min(one.image.strength, least / exposed[number])})
        if policy.strength < one.image.strength:
            reason = _reason(one, policy, leak, number, limit)
            classes[number] = one.model_copy(update={"image": policy, "reasons": (*one.reasons, reason)})
    return Plan.model_validate(plan.model_copy(update={"classes": tuple(classes)}).model_dump())


def _weakened(policy: ImagePolicy, factor: float) -> ImagePolicy:
    return policy.model_copy(update={"strength": policy.strength * factor}) if policy.amount > 0 else policy


def _reason(one: ClassPlan, policy: ImagePolicy, leak: Leak, number: int, limit: float) -> Reason:
    value, low, high = (float(column[number]) for column in (leak.leak, leak.leak_low, leak.leak_high))
    return Reason(
        rule="leak",
        choice=f"image strength {policy.strength:.3g} instead of {one.image.strength:.3g}",
        measure="leak",
        value=value,
        low=low,
        high=high,
        compared_with=limit,
        text=f"Applying this class's image augmentation to held-out images of other classes makes the network predict {one.name}"
        f" {100 * value:.1f} percentage points more often, above the limit of {100 * limit:.1f}.",
        source="measured on held-out images",
    )
