"""Whether a model takes a class's augmentation for the class itself, and a plan that takes it back.

    leak = measure_leak(model, plan, heldout_loader, prepare=view.normalize)
    plan = bounded(plan, leak, limit=0.02)

A network that has seen one class distorted more than the others may learn "distorted means this class". The leak of a
class says how much more often held-out images of the other classes are called by its name once its image policy is
applied to them.
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

Progress = Callable[[int], None]  # images done
Policies = dict[tuple[tuple[str, ...], int, float], list[int]]

LIMIT = 0.02  # of the share of other classes' images, from which on a leak matters
MOST_IMAGES = 2000  # held-out images that are enough to see one

_COUNTS = ("count", "count_others")


@dataclass(frozen=True, kw_only=True, eq=False)
class Leak:
    """What a class's image policy does to a model's answers on held-out images; columns `(C,)`, float64, NaN where undefined.

    Attributes:
        class_names: The C names.
        count: Held-out images of the class, int64.
        count_others: Held-out images of all other classes, int64.
        called_clean: The share of the other classes' images that the model calls this class, as they are.
        called_varied: The same once this class's policy is applied to each of them.
        leak: `called_varied - called_clean`; exactly 0 for a class without a policy. Its 95% interval is `leak_low` to
            `leak_high`, that of a paired difference of shares over the images.
        recall_clean: The share of the class's own images that are called by its name, as they are.
        recall_varied: The same under its policy.
        recall_change: The second less the first, with its interval `recall_change_low` to `recall_change_high`.
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
        """The leak of the class that leaks most; NaN where no class has one."""
        known = self.leak[~self.leak.isnan()]
        return float(known.max()) if len(known) else math.nan

    @property
    def largest_difference(self) -> float:
        """The leak of the class that leaks most less that of the one that leaks least; NaN where no class has one."""
        known = self.leak[~self.leak.isnan()]
        return float(known.max() - known.min()) if len(known) else math.nan

    @property
    def beyond_doubt(self) -> list[int]:
        """The classes whose leak is above `LIMIT` by more than its interval, the largest first."""
        found = (self.leak_low > LIMIT).nonzero().flatten().tolist()
        return sorted(found, key=lambda c: -float(self.leak[c]))

    def to_dict(self) -> dict[str, Any]:
        """JSON values, NaN as None; `from_dict` gives back the same numbers."""
        columns = {
            name: [None if isinstance(value, float) and math.isnan(value) else value for value in column]
            for name in self._columns()
            for column in [getattr(self, name).tolist()]
        }
        return {"schema_version": 1, "class_names": list(self.class_names), **columns}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Leak:
        """The leak that `to_dict` came from.

        Raises:
            InputError: a column is missing or has another form, or the values are of another version.
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


# The measure


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
    """How much more often images of other classes are called c once c's image policy is applied to them, for every c.

    The policy is applied to every image, at its full strength: `probability` and the schedule are about how many of the
    training images it meets. What is drawn for an image depends on (seed, its place in the held-out images, repeat) and
    not on the class, so that classes are compared on the same draws; classes with the same policy share their forward
    passes. Takes 1 + (different policies) x `repeats` passes over the images. No mode, gradient or random state of the
    model changes.

    Args:
        heldout: Batches of `(images, labels)`, or a data set of `(image, label)`, of images that the model was not trained
            on: uint8 or float in [0, 1], before any normalisation.
        prepare: Images as `heldout` gives them to images as the model sees them, as in `fit`.
        precision: `bf16` runs under autocast; `auto` does so where the hardware has it.
        repeats: How many draws each image is looked at under; shares are over all of them, intervals count images.
        progress: Called after each batch, with the number of images done.

    Raises:
        InputError: images that are no longer in [0, 1], labels that are no class of the plan, a model that does not take
            the images or gives other logits than `(N, C)`, or no image at all.
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
    called: list[Tensor] = []  # (1 + P x R, N): what each image is called, clean and then under each policy
    done = 0
    with unchanged_randomness(device, heldout), evaluating(model):
        for images, found in _batches(heldout):
            _check(images, found, plan.num_classes)
            images = images.to(device, non_blocking=True)
            rows = torch.arange(done, done + len(images), device=device)
            with torch.inference_mode(), autocast(device, precision):
                views = _views(images, rows, policies, seed, repeats)
                called.append(torch.stack([_called(model, view, prepare, plan.num_classes) for view in views]).cpu())
            labels.append(found.long().cpu())
            done += len(images)
            if progress is not None:
                progress(done)
    if not done:
        raise must("heldout", "have at least one image", 0)
    return _measured(plan, policies, torch.cat(labels), torch.cat(called, dim=1), repeats)


def _policies(plan: Plan) -> Policies:
    """The different policies that vary an image, (operations, layers, strength), each with its classes."""
    found: Policies = {}
    for number, one in enumerate(plan.classes):
        if one.image.amount > 0:
            found.setdefault((one.image.operations, one.image.layers, one.image.strength), []).append(number)
    return found


def different_policies(plan: Plan) -> int:
    """How many passes over the images `measure_leak` takes beside the first, for each repeat."""
    return len(_policies(plan))


def evenly_spread(labels: Tensor, most: int) -> Tensor:
    """At most so many rows, spread evenly over every class's own: images that a leak can be measured on in bounded time."""
    if len(labels) <= most:
        return torch.arange(len(labels))
    order = labels.argsort(stable=True)
    return order[torch.linspace(0, len(order) - 1, most).long()]


def _batches(heldout: Any) -> Iterator[tuple[Tensor, Tensor]]:
    loader: Iterable[Any] = heldout
    if not isinstance(heldout, DataLoader) and hasattr(heldout, "__getitem__"):
        loader = DataLoader(heldout, batch_size=256, collate_fn=collate)
    for batch in loader:
        if not isinstance(batch, list | tuple) or len(batch) < 2 or not all(map(torch.is_tensor, batch[:2])):
            raise must("heldout", "give (images, labels), both tensors", f"a {type(batch).__name__}")
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
    advice = "bring them as they are before normalisation, and that as prepare"
    raise must("heldout images", "be uint8, or float in [0, 1]", got, advice)


def _views(images: Tensor, rows: Tensor, policies: Policies, seed: int, repeats: int) -> Iterator[Tensor]:
    """The images as they are, then under each policy, `repeats` times."""
    yield images
    for operations, layers, strength in policies:
        layer = torch.arange(layers, device=images.device)
        for repeat in range(repeats):
            key = (seed, repeat, rows[:, None], layer)
            chosen = draws.integers(len(operations), "leak operation", *key)
            strengths = torch.full(chosen.shape, strength, device=images.device)
            draw = draws.uniform("leak draw", *key)
            yield image_ops.apply_policy(images, chosen, strengths, draw, operations)


def _called(model: nn.Module, images: Tensor, prepare: Callable[[Tensor], Tensor] | None, num_classes: int) -> Tensor:
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


def _measured(plan: Plan, policies: Policies, labels: Tensor, called: Tensor, repeats: int) -> Leak:
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
        clean = (called[0] == number).double()
        varied = (called[views[number]] == number).double().mean(0)
        sides = (
            ("called_clean", "called_varied", "leak", labels != number),
            ("recall_clean", "recall_varied", "recall_change", labels == number),
        )
        for before, after, change, chosen in sides:
            total = chosen.sum().double()
            one, two, both = clean[chosen].sum(), varied[chosen].sum(), (clean * varied)[chosen].sum()
            low, high = stats.paired_difference_interval(one, two, both, total)
            if views[number] == [0]:
                low, high = (two - one) / total, (two - one) / total
            found = {before: one / total, after: two / total, change: (two - one) / total}
            for name, value in {**found, f"{change}_low": low, f"{change}_high": high}.items():
                columns[name][number] = value
    names = tuple(one.name for one in plan.classes)
    return Leak(class_names=names, count=count, count_others=len(labels) - count, **columns)


# What to do about it


def bounded(plan: Plan, leak: Leak, limit: float = LIMIT) -> Plan:
    """The plan with the strength lowered of each class that leaks more than `limit`, by more than its interval.

    A class whose interval begins above the limit gets its strength times `limit / leak`, and a reason beside it. The
    plan's bound on the difference between classes still holds: no class is lowered further than that below the class
    with the largest policy. Measure again on a model that was trained with the result.

    Raises:
        InputError: the leak is of other classes, or `limit` is not in (0, 1].
    """
    if not 0 < limit <= 1:
        raise must("limit", "lie in (0, 1]", limit)
    names = tuple(one.name for one in plan.classes)
    if names != leak.class_names:
        raise must("leak", "be of the plan's classes", ", ".join(leak.class_names[:5]) or "none")
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
        text=f"images of other classes under this policy are called {one.name} {100 * value:.1f} points more often than clean ones",
        source="measured on held-out images",
    )
