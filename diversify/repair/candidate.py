"""A repair of a head with its options, as `choose_head` compares it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead
from ..plan.plan import Plan
from ..plan.policies import ClassPlan

MORE_TAUS = (0.0, 0.25, 0.5, 1.0, 1.5)  # of the logit adjustment after retraining
UNTOUCHED = "untouched"

Make = Callable[[Embeddings, LinearHead, int], LinearHead]
MakePlan = Callable[[Embeddings], Plan]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way to repair a head, with one or more options between which `choose_head` chooses.

    Attributes:
        name: Short name, for tables.
        meaning: What it does, in a sentence or two.
        options: By name, the mildest first, a function that makes the head of an option from training embeddings, the
            present head and a seed. A candidate without a choice has one option.
        taus: Strengths of the logit adjustment with which each option is tried; the head is made once for all of them.
        source: The paper that it comes from.
        needs_bias: Whether the head that it makes has a bias of its own.
        balances: Whether the head that it makes is trained so that its logits treat classes alike, whatever their shares
            in training. Where `choose_head` is given a target prior, its logarithm is then added to the logits with every
            tau. The head needs a bias for that.
        remade: Makes the same options from other held-out rows. For a candidate whose options depend on held-out rows,
            so that no row judges an option that was made from it.
        fits_heldout: Whether heads are fitted on held-out rows, so that these rows cannot judge the finished head.
        dial: Whether the options lead, in their order, from the best mean to the best worst class; the report draws them.
        note: A sentence about the comparison that `choose_head` is to pass on, such as what was left out.

    Example:
        >>> import diversify as dv
        >>> sharper = dv.Candidate(
        ...     name="sharper",
        ...     meaning="All weights doubled.",
        ...     options={"x 2": lambda train, head, seed: replace(head, weight=2 * head.weight)},
        ...     taus=(0.0, 1.0),
        ... )
        >>> sharper.labels
        ('x 2', 'x 2, tau 1')
    """

    name: str
    meaning: str
    options: Mapping[str, Make]
    taus: tuple[float, ...] = (0.0,)
    source: str = ""
    needs_bias: bool = False
    balances: bool = False
    remade: Callable[[Embeddings], Mapping[str, Make]] | None = None
    fits_heldout: bool = False
    dial: bool = False
    note: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each option with each tau, in the order in which `choose_head` makes the heads."""
        taus = [f"tau {tau:g}" if tau else "" for tau in self.taus]
        return tuple(", ".join(part for part in (name, tau) if part) for name in self.options for tau in taus)


def made_together(
    names: Sequence[str], make: Callable[[Embeddings, LinearHead, int], Sequence[LinearHead]]
) -> dict[str, Make]:
    """Return an option for each name; the heads of all are made at once when the first is asked for.

    Args:
        names: Of the options.
        make: Makes one head for each name.

    Example:
        >>> import diversify as dv
        >>> import torch
        >>> from dataclasses import replace
        >>> train, _, head = dv.make_embeddings()
        >>> options = made_together(["a", "b"], lambda train, head, seed: [head, replace(head, weight=2 * head.weight)])
        >>> torch.equal(options["b"](train, head, 0).weight, 2 * head.weight)
        True
    """
    kept: list[tuple[Embeddings, LinearHead, int, Sequence[LinearHead]]] = []

    def heads(train: Embeddings, head: LinearHead, seed: int) -> Sequence[LinearHead]:
        if not kept or kept[0][0] is not train or kept[0][1] is not head or kept[0][2] != seed:
            kept[:] = [(train, head, seed, make(train, head, seed))]
        return kept[0][3]

    def of(place: int) -> Make:
        return lambda train, head, seed: heads(train, head, seed)[place]

    return {name: of(place) for place, name in enumerate(names)}


def even_plan(class_counts: Tensor) -> Plan:
    """Return a plan that draws every class with rows equally often, and does nothing else.

    Example:
        >>> import torch
        >>> [one.draws for one in even_plan(torch.tensor([90, 10, 0])).classes]
        [0.5, 0.5, 0.0]
    """
    listed = class_counts.tolist()
    share = 1 / max(1, sum(count > 0 for count in listed))
    classes = tuple(
        ClassPlan(name=str(c), count=count, draws=share if count else 0.0) for c, count in enumerate(listed)
    )
    return Plan(classes=classes)


def evened(plan: Plan, share: float) -> Plan:
    """Return the plan with its draws moved toward even draws of the classes that it draws at all.

    Args:
        plan: The plan.
        share: 0 leaves the draws as they are; 1 makes them even.

    Example:
        >>> import torch
        >>> plan = even_plan(torch.tensor([9, 9]))
        >>> classes = tuple(one.model_copy(update={"draws": draws}) for one, draws in zip(plan.classes, (0.75, 0.25)))
        >>> [one.draws for one in evened(plan.model_copy(update={"classes": classes}), 0.5).classes]
        [0.625, 0.375]
    """
    even = 1 / max(1, sum(one.draws > 0 for one in plan.classes))
    classes = tuple(
        one.model_copy(update={"draws": (1 - share) * one.draws + share * even}) if one.draws > 0 else one
        for one in plan.classes
    )
    return plan.model_copy(update={"classes": classes})
