"""Plans that follow the evidence while a network trains: a step up or down, within the plan's bounds, each with its reason.

`RULES` is the whole of the judgement. Only strengths move: what a plan does not do for a class stays undone, and draws,
probabilities, shares and mixing stay as planned.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

import pydantic
import torch
from torch import Tensor

from ..diagnosis.result import Diagnosis
from ..errors import must
from ..functional.stats import wilson_interval
from .plan import Plan
from .policies import ClassPlan, Reason, exposures

_ADAPTIVE = "adaptive: "  # how the reasons of this file begin among those of a plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptiveRule:
    """If `measure` lies on the `side` of the mark, the class's strengths in `space` move a step in `direction`.

    The whole 95% interval must lie there, or the value alone where `by_value`. The mark is the fixed one, with
    `beside_mean` the mean of the classes; of both, the stricter. `text` may use {name}, {value}, {low}, {high} and {mark}.
    """

    name: str
    evidence: Literal["hits", "diagnosis", "leak"]
    measure: str
    side: Literal["low", "high"]
    mark: float | None = None
    beside_mean: bool = False
    by_value: bool = False
    space: Literal["image", "features"]
    direction: Literal[-1, 1]
    text: str
    source: str

    def mark_of(self, values: Tensor) -> float:
        """With what a class is compared, given the values of all, `(C,)`; NaN if nothing is to be compared with."""
        marks = [self.mark] if self.mark is not None else []
        if self.beside_mean:
            marks.append(float(values.nanmean()))
        if not marks:
            return math.nan
        return min(marks) if self.side == "low" else max(marks)

    def fires(self, value: float, low: float, high: float, mark: float) -> bool:
        """Whether the class moves; never on what is not known (NaN)."""
        if self.by_value:
            return value > mark if self.side == "high" else value <= mark
        return low > mark if self.side == "high" else high < mark


# For each class and space the first rule that fires decides: what speaks against an augmentation comes before what speaks
# for it. `hits` is the share of the observed training views that are right, `hits_change` what it gained since the
# decision before.
RULES: tuple[AdaptiveRule, ...] = (
    AdaptiveRule(
        name="its policy leaks",
        evidence="leak",
        measure="leak",
        side="high",
        mark=0.0,
        space="image",
        direction=-1,
        text="held-out images of other classes are called {name} {value:.1%} more often once its policy is applied to them"
        " (at least {low:.1%}).",
        source="leak guard: a class that alone is augmented is known by its artefacts",
    ),
    AdaptiveRule(
        name="hits fell",
        evidence="hits",
        measure="hits_change",
        side="low",
        mark=0.0,
        space="image",
        direction=-1,
        text="its training hits changed by {value:+.1%} [{low:+.1%}, {high:+.1%}] since the decision before.",
        source="DODA (ICLR 2024): down where the class's training hits fall",
    ),
    AdaptiveRule(
        name="too few hits",
        evidence="hits",
        measure="hits",
        side="low",
        mark=0.6,
        by_value=True,
        space="image",
        direction=-1,
        text="{value:.0%} [{low:.0%}, {high:.0%}] of its training views are right, not more than {mark:.0%}.",
        source="CUDA (ICLR 2023): a level down unless more than 0.6 are right",
    ),
    AdaptiveRule(
        name="little held-out diversity",
        evidence="diagnosis",
        measure="diversity_vendi_heldout",
        side="low",
        beside_mean=True,
        space="image",
        direction=1,
        text="its unseen images spread over {value:.2f} [{low:.2f}, {high:.2f}] effective directions"
        " (mean of the classes {mark:.2f}).",
        source="Dablain et al. 2023: latent diversity matters as much as the number of examples",
    ),
    AdaptiveRule(
        name="enough hits",
        evidence="hits",
        measure="hits",
        side="high",
        mark=0.6,
        by_value=True,
        space="image",
        direction=1,
        text="{value:.0%} [{low:.0%}, {high:.0%}] of its training views are right, more than {mark:.0%}.",
        source="CUDA (ICLR 2023): a level up when more than 0.6 are right",
    ),
    AdaptiveRule(
        name="top-K shrink on unseen images",
        evidence="diagnosis",
        measure="ce_magnitude_ratio",
        side="low",
        mark=1.0,
        beside_mean=True,
        space="features",
        direction=1,
        text="on unseen images its top-K features carry {value:.0%} [{low:.0%}, {high:.0%}] of their training magnitude"
        " (compared with {mark:.0%}).",
        source="Dablain et al. 2023: a class fails where its top-K magnitudes do not match training",
    ),
    AdaptiveRule(
        name="top-K hold on unseen images",
        evidence="diagnosis",
        measure="ce_magnitude_ratio",
        side="high",
        beside_mean=True,
        space="features",
        direction=-1,
        text="on unseen images its top-K features carry {value:.0%} [{low:.0%}, {high:.0%}] of their training magnitude,"
        " more than those of the other classes ({mark:.0%}).",
        source="the rule above, the other way",
    ),
)


class LeakLike(Protocol):
    """What a measured leak must show: `(C,)` the leak of each class's policy, and the low end of its 95% interval."""

    @property
    def leak(self) -> Tensor:
        """`(C,)` how much more often images of other classes are called c."""
        ...

    @property
    def leak_low(self) -> Tensor:
        """`(C,)` low end of its interval."""
        ...


class Part(Protocol):
    """A sampler, augmenter or data set that works by a plan."""

    def use(self, plan: Plan) -> Any:
        """Work by this plan of the same classes from then on."""


class Change(pydantic.BaseModel):
    """One strength that moved: of the class's image policy ("image"), or of one of its feature methods, by its name."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epoch: int
    class_index: int
    policy: str
    before: float
    after: float
    reason: Reason


class AdaptivePlan:
    """A plan whose strengths move by a step at chosen epochs, as the evidence says, and the parts that follow it.

        adaptive = AdaptivePlan(plan, parts=(augmenter,), every=5)
        ...                                             # in the loop, after each forward pass:
        adaptive.observe(labels, logits.argmax(1))
        ...                                             # after each epoch, in every process:
        adaptive.update(epoch)

    Bounds: strengths stay in [0, 1], probabilities as they are (so clean views remain), and no two classes' image policies
    come to differ by more than `plan.largest_difference`; a step that would do so is cut, or not made.

    Attributes:
        plan: The plan in force; a class's reasons hold the latest one for each strength that has moved.
        history: Every change there was.

    Args:
        plan: Where the strengths start.
        parts: Told of every changed plan by `use(plan)`.
        every: Hits decide after so many epochs, and count from the decision before.
        step: By how much a strength moves at most at one update; 0.1 is one of CUDA's ten levels.
        first: The first epoch after which hits decide; earlier ones do not count.
        epochs: How many there will be. With it hits count only in epochs in which the plan's schedule lets augmentation act:
            those on clean images say nothing about a strength.
        least_seen: A class with fewer observed images waits until it has so many.
        rules: For each class and space the first one that fires decides.
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
            if not callable(getattr(part, "use", None)):
                raise must("parts", "each have use(plan)", type(part).__name__)
        self.plan, self.parts, self.rules = plan, tuple(parts), tuple(rules)
        self.every, self.step, self.first, self.least_seen = every, step, first, least_seen
        self.epochs = epochs
        self.history: tuple[Change, ...] = ()
        # images seen and right per class; one more column for labels that are no class
        self._observed = torch.zeros(
            2, plan.num_classes + 1, dtype=torch.int64
        )  # of this process, since the last update
        self._gathered = torch.zeros_like(self._observed)  # of all processes, up to the last update
        self._decided_on = torch.zeros_like(self._observed)  # what the decision before was made on

    def observe(self, labels: Tensor, predicted: Tensor) -> None:
        """Count the hits of a training batch, on its device and without waiting for it.

        Args:
            labels: `(N,)` integers, the classes of the views that the network saw; leave mixed images out.
            predicted: `(N,)` integers, what it said.
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
        """Whether hits decide after this epoch, counted from 0; also a time for a diagnosis or a leak, if wanted."""
        return self._counts(epoch) and (epoch + 1) % self.every == 0

    def update(self, epoch: int, *, diagnosis: Diagnosis | None = None, leak: LeakLike | None = None) -> Plan:
        """The plan after this epoch; where it changed, every part has been told.

        Hits decide when they are `due`; a diagnosis or a leak that is given decides at once. Where several processes
        train together each must call it after the same epoch with the same evidence: their hits are added up, so that
        all come to the same plan.

        Raises:
            InputError: the diagnosis was made on test, or the evidence is of other classes.
        """
        if epoch < 0:
            raise must("epoch", "not be negative", epoch)
        columns = self._checked_diagnosis(diagnosis) if diagnosis is not None else {}
        columns |= self._checked_leak(leak) if leak is not None else {}
        self._gather()
        if not self._counts(epoch):
            self._gathered.zero_()
        elif self.due(epoch):
            columns |= self._hits()
        changes = self._changes(epoch, columns)
        if changes:
            self.history += changes
            self.plan = _changed(self.plan, changes)
            self._tell()
        return self.plan

    def state_dict(self) -> dict[str, Any]:
        """JSON values: the plan, the counts and the history.

        Straight after an update the same in every process; within an epoch with this process's own counts.
        """
        return {
            "plan": self.plan.model_dump(mode="json"),
            "observed": self._observed.tolist(),
            "gathered": self._gathered.tolist(),
            "decided_on": self._decided_on.tolist(),
            "history": [change.model_dump(mode="json") for change in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the state was taken, and tell every part of its plan.

        Raises:
            InputError: a field is missing or wrong, or the plan is of other classes.
        """
        try:
            file = _State.model_validate(state)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            name = f"{place} of the adaptive plan's state" if place else "the adaptive plan's state"
            raise must(name, "be valid", first["msg"].removeprefix("Value error, ")) from None
        _check_classes("the adaptive plan's state", [one.name for one in file.plan.classes], self.plan)
        counts = []
        for name in ("observed", "gathered", "decided_on"):
            rows, width = getattr(file, name), self.plan.num_classes + 1
            if len(rows) != 2 or any(len(row) != width for row in rows):
                raise must(f"{name} of the adaptive plan's state", f"be 2 rows of {width}", f"{len(rows)} rows")
            counts.append(torch.tensor(rows, dtype=torch.int64))
        self._observed, self._gathered, self._decided_on = counts
        self.plan, self.history = file.plan, file.history
        self._tell()

    def _counts(self, epoch: int) -> bool:
        acts = self.epochs is None or self.plan.schedule.at(epoch, self.epochs) > 0
        return acts and epoch >= self.first

    def _tell(self) -> None:
        for part in self.parts:
            part.use(self.plan)

    def _gather(self) -> None:
        """Add the counts of all processes to those that wait for a decision."""
        observed = self._observed.clone()
        self._observed.zero_()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            device = {"nccl": "cuda", "gloo": "cpu"}.get(torch.distributed.get_backend(), observed.device)
            observed = observed.to(device)
            torch.distributed.all_reduce(observed)
        observed = observed.cpu()
        if int(observed[0, -1]):
            law = f"be classes of the plan, in [0, {self.plan.num_classes - 1}]"
            raise must("observed labels", law, f"{int(observed[0, -1])} others")
        self._gathered += observed

    def _hits(self) -> dict[str, _Column]:
        """Hits, and their change since the decision before; these counts are spent."""
        ready = self._gathered[0] >= self.least_seen
        seen, right = torch.where(ready, self._gathered, 0)
        seen_before, right_before = self._decided_on
        share, before = right / seen.double(), right_before / seen_before.double()
        (low, high), (low_before, high_before) = (
            wilson_interval(right, seen),
            wilson_interval(right_before, seen_before),
        )
        change = share - before  # its interval: MOVER, Newcombe 1998
        down = ((share - low).square() + (high_before - before).square()).sqrt()
        up = ((high - share).square() + (before - low_before).square()).sqrt()
        self._decided_on = torch.where(ready, self._gathered, self._decided_on)
        self._gathered = torch.where(ready, 0, self._gathered)
        return {
            "hits": _Column(value=share[:-1], low=low[:-1], high=high[:-1]),
            "hits_change": _Column(value=change[:-1], low=(change - down)[:-1], high=(change + up)[:-1]),
        }

    def _checked_diagnosis(self, diagnosis: Diagnosis) -> dict[str, _Column]:
        if not diagnosis.plan_ready:
            raise must("diagnosis", "be made on a split to choose on", diagnosis.heldout_split, "diagnose on val")
        _check_classes("diagnosis", diagnosis.class_names, self.plan)
        columns, unknown = {}, torch.full((self.plan.num_classes,), math.nan, dtype=torch.float64)
        for rule in self.rules:
            if rule.evidence != "diagnosis":
                continue
            if rule.measure not in diagnosis.columns:
                raise must(f"measure of the rule {rule.name!r}", "be a column of the diagnosis", repr(rule.measure))
            low, high = (diagnosis.columns.get(f"{rule.measure}_{end}", unknown) for end in ("low", "high"))
            columns[rule.measure] = _Column(value=diagnosis.columns[rule.measure], low=low, high=high)
        return columns

    def _checked_leak(self, leak: LeakLike) -> dict[str, _Column]:
        found = []
        for name in ("leak", "leak_low"):
            column = getattr(leak, name, None)
            if not isinstance(column, Tensor):
                raise must("leak", f"have {name}, one number per class", type(leak).__name__, "see measure_leak")
            if column.shape != (self.plan.num_classes,):
                raise must(f"{name} of the leak", f"have shape ({self.plan.num_classes},)", tuple(column.shape))
            found.append(column.detach().cpu().double())
        value, low = found
        return {"leak": _Column(value=value, low=low, high=torch.full_like(value, math.nan))}

    def _changes(self, epoch: int, columns: Mapping[str, _Column]) -> tuple[Change, ...]:
        """What moves: for each class and space by the first rule that fires, within the bounds."""
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

    def _firing(self, space: str, c: int, columns: Mapping[str, _Column]) -> _Firing | None:
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
        cut = abs(after - before) < self.step - 1e-9 and 0 < after < 1
        held = (
            f" Cut short: two classes' policies may differ by {self.plan.largest_difference:g} at most." if cut else ""
        )
        reason = Reason(
            rule=_ADAPTIVE + rule.name,
            choice=f"{policy} strength {before:g} to {after:g}",
            measure=rule.measure,
            value=_known(firing.value),
            low=_known(firing.low),
            high=_known(firing.high),
            compared_with=_known(firing.mark),
            text=f"After epoch {epoch}: {words}{held}",
            source=rule.source,
        )
        return Change(epoch=epoch, class_index=c, policy=policy, before=before, after=after, reason=reason)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Column:
    """A measure of every class with its 95% interval, each `(C,)`, NaN where it is not known."""

    value: Tensor
    low: Tensor
    high: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Firing:
    """A rule that fires for a class, and the numbers it fires on."""

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


def _check_classes(what: str, names: Sequence[str], plan: Plan) -> None:
    if len(names) != plan.num_classes:
        raise must(what, f"be of the plan's {plan.num_classes} classes", len(names))
    for name, one in zip(names, plan.classes, strict=True):
        if name != one.name:
            raise must(what, "be of the plan's classes, in their order", f"{name!r} for {one.name!r}")


def _moved(strength: float, direction: int, step: float) -> float:
    return round(min(max(strength + direction * step, 0.0), 1.0), 10)  # 0.1 + 0.2 is to be read as 0.3


def _bounded_moves(plan: Plan, directions: Mapping[int, int], step: float) -> dict[int, float]:
    """Where the image strengths of these classes go, so that no two amounts of the plan differ by more than they may.

    First those that go down, none below the largest amount that is left less the bound; then those that go up, none above
    the smallest amount less the bound. So nobody moves who was not asked to, nobody further than a step.
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
    """The plan with these strengths, validated anew."""
    classes = list(plan.classes)
    for c in {change.class_index for change in changes}:
        classes[c] = _changed_class(classes[c], [change for change in changes if change.class_index == c])
    return Plan(**{**dict(plan), "classes": tuple(classes)})


def _changed_class(one: ClassPlan, changes: Sequence[Change]) -> ClassPlan:
    """With the new strengths; their reasons take the place of those for the same policies before."""
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
