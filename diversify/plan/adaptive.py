"""Plans whose strengths change while a network trains: one step up or down at a time, each with its reason.

`RULES` decides. Only strengths change: draws, probabilities, shares and mixing stay as planned, and a class gets no
policy that the plan does not give it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol, runtime_checkable

import pydantic
import torch
from torch import Tensor

from ..diagnosis.result import Diagnosis
from ..errors import must
from ..files.schema import refusal
from ..runtime import group
from .adaptive_rules import RULES, AdaptiveRule
from .evidence import Evidence, LeakLike, evidence_of_diagnosis, evidence_of_hits, evidence_of_leak, require_classes
from .plan import Plan
from .policies import ClassPlan, Reason, exposures

_ADAPTIVE = "adaptive: "  # prefix of the rule names in this file's reasons


@runtime_checkable
class Part(Protocol):
    """A sampler, augmenter or data set that follows a plan."""

    def use(self, plan: Plan) -> Any:
        """Follow this plan of the same classes from now on."""


class Change(pydantic.BaseModel):
    """One strength that changed.

    Attributes:
        epoch: The epoch after which it changed.
        class_index: The class.
        policy: "image" for the class's image policy, else the name of the feature method.
        before: The strength before.
        after: The strength after.
        reason: Why.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epoch: int
    class_index: int
    policy: str
    before: float
    after: float
    reason: Reason


class AdaptivePlan:
    """A plan whose strengths follow the evidence during training, and the samplers and augmenters that follow it.

    In a training loop, call `observe(labels, predicted)` after each forward pass and `update(epoch)` after each epoch. A
    *hit* is an observed training view that is classified correctly.

    Strengths stay in [0, 1] and probabilities do not change, so some images stay unaugmented. Two classes' image policies never
    differ by more than `plan.largest_difference`: a step that would exceed it is shortened or not made.

    Args:
        plan: Where the strengths start.
        parts: Objects with `use(plan)`, which get every changed plan.
        every: Decide on hits after this many epochs, with the hits since the previous decision.
        step: Largest change of a strength in one update; 0.1 is one of the ten levels of the
            augmentation method CUDA (Ahn et al. 2023; not NVIDIA's CUDA).
        first: First epoch whose hits count.
        epochs: Epochs in all. If given, hits count only in epochs in which the plan's schedule lets augmentation act, since
            hits on clean images say nothing about a strength.
        least_seen: A class is decided on once this many of its images were observed.
        rules: For each class and space, the first rule that fires decides.

    Attributes:
        plan: The current plan; a class's reasons hold the latest one for each strength that has changed.
        history: All changes so far.

    Raises:
        InputError: an argument is out of its range, or a part has no `use`.

    Example:
        >>> import torch, diversify as dv
        >>> adaptive = dv.AdaptivePlan(dv.Plan.from_counts(["cat", "newt"], [100, 10]))
        >>> labels = torch.tensor([0] * 20 + [1] * 20)
        >>> adaptive.observe(labels, torch.zeros_like(labels))  # every cat is a hit, no newt is
        >>> [round(one.image.strength, 1) for one in adaptive.update(0).classes]
        [0.6, 0.6]
    """

    def __init__(
        self,
        plan: Plan,
        parts: Sequence[Part] = (),
        *,
        every: int = 1,
        step: float = 0.1,
        first: int = 0,
        epochs: int | None = None,
        least_seen: int = 10,
        rules: Sequence[AdaptiveRule] = RULES,
    ) -> None:
        for name, value in (("every", every), ("least_seen", least_seen)):
            if value < 1:
                raise must(name, "be at least 1", value)
        if first < 0:
            raise must("first", "not be negative", first)
        if epochs is not None and epochs < 1:
            raise must("epochs", "be at least 1", epochs)
        if not 0 < step <= 1:
            raise must("step", "lie in (0, 1]", step)
        for part in parts:
            if not isinstance(part, Part):
                raise must("parts", "each have use(plan)", type(part).__name__)
        self.plan, self.parts, self.rules = plan, tuple(parts), tuple(rules)
        self.every, self.step, self.first, self.least_seen = every, step, first, least_seen
        self.epochs = epochs
        self.history: tuple[Change, ...] = ()
        # Images seen (row 0) and hits (row 1) per class; the last column counts labels outside the classes.
        counts = torch.zeros(2, plan.num_classes + 1, dtype=torch.int64)
        self._observed = counts  # of this process, since the last update
        self._gathered = counts.clone()  # of all processes, up to the last update
        self._decided_on = counts.clone()  # those that the previous decision was made on

    def observe(self, labels: Tensor, predicted: Tensor) -> None:
        """Count the hits of a training batch, on its device and without synchronising with it.

        Args:
            labels: Classes of the views that the network saw, `(N,)` integers; leave mixed images out.
            predicted: Classes that it predicted, `(N,)` integers.

        Raises:
            InputError: one of them is not one integer per image.
        """
        for name, values in (("labels", labels), ("predicted", predicted)):
            if values.ndim != 1 or values.is_floating_point() or values.is_complex():
                got = f"shape {tuple(values.shape)} of {str(values.dtype).removeprefix('torch.')}"
                raise must(name, "be one integer per image", got)
        if len(labels) != len(predicted):
            raise must("predicted", f"have one entry per label, {len(labels)}", len(predicted))
        if self._observed.device != predicted.device:
            self._observed = self._observed.to(predicted.device)
        labels, classes = labels.to(predicted.device).long(), self.plan.num_classes
        column = torch.where((labels >= 0) & (labels < classes), labels, classes)
        self._observed[0].index_add_(0, column, torch.ones_like(column))
        self._observed[1].index_add_(0, column, (labels == predicted).long())

    def due(self, epoch: int) -> bool:
        """Return True if `update` decides on hits after this epoch, counted from 0.

        It is also a good time to measure a diagnosis or a leak, if you want to pass one.
        """
        return self._counts(epoch) and (epoch + 1) % self.every == 0

    def update(self, epoch: int, *, diagnosis: Diagnosis | None = None, leak: LeakLike | None = None) -> Plan:
        """Return the plan after this epoch, and hand it to all parts if it changed.

        Hits decide when they are `due`; a diagnosis or a leak decides at once. If several processes train together, each
        must call this after the same epoch with the same evidence. Their hits are added up, so that all get the same plan.

        Args:
            epoch: The epoch that has ended, counted from 0.
            diagnosis: Evidence on a validation split.
            leak: Evidence from `measure_leak`.

        Raises:
            InputError: the diagnosis was made on test, or the evidence has other classes.
        """
        if epoch < 0:
            raise must("epoch", "not be negative", epoch)
        columns = evidence_of_diagnosis(diagnosis, self.plan, self.rules) if diagnosis is not None else {}
        columns |= evidence_of_leak(leak, self.plan) if leak is not None else {}
        self._gather()
        if not self._counts(epoch):
            self._gathered.zero_()
        elif self.due(epoch):
            columns |= self._hits()
        changes = self._changes(epoch, columns)
        if changes:
            self.history += changes
            self.plan = _changed(self.plan, changes)
            self._notify_parts()
        return self.plan

    def state_dict(self) -> dict[str, Any]:
        """Return the plan, the counts and the history as JSON values.

        Directly after an update they are the same in every process; within an epoch the counts are those of this process.
        """
        return {
            "plan": self.plan.model_dump(mode="json"),
            "observed": self._observed.tolist(),
            "gathered": self._gathered.tolist(),
            "decided_on": self._decided_on.tolist(),
            "history": [change.model_dump(mode="json") for change in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where the state was taken, and hand its plan to all parts.

        Raises:
            InputError: a field is missing or wrong, or the plan has other classes.
        """
        try:
            file = _State.model_validate(state)
        except pydantic.ValidationError as error:
            raise refusal("adaptive plan's state", error, _State.model_fields) from None
        require_classes("adaptive plan's state", [one.name for one in file.plan.classes], self.plan)
        counts = []
        for name in ("observed", "gathered", "decided_on"):
            rows, width = getattr(file, name), self.plan.num_classes + 1
            if len(rows) != 2 or any(len(row) != width for row in rows):
                raise must(f"{name} of the adaptive plan's state", f"be 2 rows of {width}", f"{len(rows)} rows")
            counts.append(torch.tensor(rows, dtype=torch.int64))
        self._observed, self._gathered, self._decided_on = counts
        self.plan, self.history = file.plan, file.history
        self._notify_parts()

    def _counts(self, epoch: int) -> bool:
        """True if the hits of this epoch count."""
        acts = self.epochs is None or self.plan.schedule.at(epoch, self.epochs) > 0
        return acts and epoch >= self.first

    def _notify_parts(self) -> None:
        for part in self.parts:
            part.use(self.plan)

    def _gather(self) -> None:
        """Add the counts of all processes to those that the next decision is made on."""
        observed = self._observed.clone()
        self._observed.zero_()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            observed = observed.to(group.device())
            torch.distributed.all_reduce(observed)
        observed = observed.cpu()
        if int(observed[0, -1]):
            law = f"be classes of the plan, in [0, {self.plan.num_classes - 1}]"
            raise must("observed labels", law, f"{int(observed[0, -1])} others")
        self._gathered += observed

    def _hits(self) -> dict[str, Evidence]:
        """The hits and their change since the previous decision; the counts of decided classes start again."""
        ready = self._gathered[0] >= self.least_seen
        evidence = evidence_of_hits(torch.where(ready, self._gathered, 0)[:, :-1], self._decided_on[:, :-1])
        self._decided_on = torch.where(ready, self._gathered, self._decided_on)
        self._gathered = torch.where(ready, 0, self._gathered)
        return evidence

    def _changes(self, epoch: int, columns: Mapping[str, Evidence]) -> tuple[Change, ...]:
        """The strengths that change: for each class and space by the first rule that fires, within the bounds."""
        image = {c: firing for c in range(self.plan.num_classes) if (firing := self._firing("image", c, columns))}
        moved = _bounded_moves(self.plan, {c: firing.rule.direction for c, firing in image.items()}, self.step)
        changes = []
        for c, one in enumerate(self.plan.classes):
            if c in moved and moved[c] != one.image.strength:
                changes.append(self._change(epoch, c, "image", one.image.strength, moved[c], image[c]))
            firing = self._firing("features", c, columns)
            if firing is None:
                continue
            for policy in one.features:
                after = _moved(policy.strength, firing.rule.direction, self.step)
                if policy.share > 0 and after != policy.strength:
                    changes.append(self._change(epoch, c, policy.method, policy.strength, after, firing))
        return tuple(changes)

    def _firing(self, space: str, c: int, columns: Mapping[str, Evidence]) -> _Firing | None:
        for rule in self.rules:
            if rule.space != space or rule.measure not in columns:
                continue
            column = columns[rule.measure]
            mark = rule.mark_of(column.value)
            value, low, high = (float(values[c]) for values in (column.value, column.low, column.high))
            if rule.fires(value, low, high, mark):
                return _Firing(rule=rule, value=value, low=low, high=high, mark=mark)
        return None

    def _change(self, epoch: int, c: int, policy: str, before: float, after: float, firing: _Firing) -> Change:
        name, rule = self.plan.classes[c].name, firing.rule
        words = rule.text.format(name=name, value=firing.value, low=firing.low, high=firing.high, mark=firing.mark)
        shortened = abs(after - before) < self.step - 1e-9 and 0 < after < 1
        bound = f" The step was shortened: image policies of two classes may differ by at most {self.plan.largest_difference:g}."
        reason = Reason(
            rule=_ADAPTIVE + rule.name,
            choice=f"{policy} strength {before:g} to {after:g}",
            measure=rule.measure,
            value=_known(firing.value),
            low=_known(firing.low),
            high=_known(firing.high),
            compared_with=_known(firing.mark),
            text=f"After epoch {epoch}: {words}{bound if shortened else ''}",
            source=rule.source,
        )
        return Change(epoch=epoch, class_index=c, policy=policy, before=before, after=after, reason=reason)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Firing:
    """A rule that fires for a class, and the numbers that make it fire."""

    rule: AdaptiveRule
    value: float
    low: float
    high: float
    mark: float


class _State(pydantic.BaseModel):
    """The form of the adaptive plan's state."""

    model_config = pydantic.ConfigDict(extra="forbid")

    plan: Plan
    observed: list[list[Annotated[int, pydantic.Field(ge=0)]]]
    gathered: list[list[Annotated[int, pydantic.Field(ge=0)]]]
    decided_on: list[list[Annotated[int, pydantic.Field(ge=0)]]]
    history: tuple[Change, ...]


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _moved(strength: float, direction: int, step: float) -> float:
    return round(min(max(strength + direction * step, 0.0), 1.0), 10)  # so that 0.1 + 0.2 is 0.3


def _bounded_moves(plan: Plan, directions: Mapping[int, int], step: float) -> dict[int, float]:
    """The new image strengths of these classes, such that no two amounts of the plan differ by more than its bound.

    First the classes that go down move, but not below the largest remaining amount minus the bound. Then those that go up
    move, but not above the smallest amount plus the bound. So no other class moves, and none moves by more than a step.
    """
    present = {c: one.image for c, one in enumerate(plan.classes) if one.count}
    exposed = dict(zip(present, exposures(list(present.values())), strict=True))
    amounts = {c: policy.strength * exposed[c] for c, policy in present.items()}
    moves = {c: way for c, way in directions.items() if exposed.get(c)}
    strengths = {c: plan.classes[c].image.strength for c in moves}
    for direction in (-1, 1):
        going = [c for c, way in moves.items() if way == direction]
        wanted = {c: _moved(strengths[c], direction, step) for c in going}
        after = amounts | {c: wanted[c] * exposed[c] for c in going}
        for c in going:
            if direction < 0:
                amount = max(after[c], min(amounts[c], max(after.values()) - plan.bound))
            else:
                amount = min(after[c], max(amounts[c], min(after.values()) + plan.bound))
            if amount != after[c]:
                held = round(amount / exposed[c], 10)
                wanted[c] = held if abs(held - strengths[c]) > 1e-9 else strengths[c]
        strengths |= wanted
        amounts |= {c: wanted[c] * exposed[c] for c in going}
    return strengths


def _changed(plan: Plan, changes: Sequence[Change]) -> Plan:
    """The plan with these strengths, validated again."""
    classes = list(plan.classes)
    for c in {change.class_index for change in changes}:
        classes[c] = _changed_class(classes[c], [change for change in changes if change.class_index == c])
    return Plan(**{**dict(plan), "classes": tuple(classes)})


def _changed_class(one: ClassPlan, changes: Sequence[Change]) -> ClassPlan:
    """The class with the new strengths; their reasons replace the earlier ones for the same policies."""
    after = {(change.policy, change.before): change.after for change in changes}
    image = one.image.model_copy(update={"strength": after.get(("image", one.image.strength), one.image.strength)})
    features = tuple(
        policy.model_copy(update={"strength": after.get((policy.method, policy.strength), policy.strength)})
        for policy in one.features
    )
    stale = tuple(f"{change.policy} strength " for change in changes)
    kept = [
        reason for reason in one.reasons if not (reason.rule.startswith(_ADAPTIVE) and reason.choice.startswith(stale))
    ]
    reasons = (*kept, *(change.reason for change in changes))
    return ClassPlan(**{**dict(one), "image": image, "features": features, "reasons": reasons})
