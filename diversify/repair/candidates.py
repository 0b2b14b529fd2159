"""The head repairs that `choose_head` compares, each with its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from ..functional import counts
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead, read_head
from ..plan.plan import Plan
from ..plan.policies import ClassPlan
from .post_hoc import nearest_mean, normalize_tau
from .retrain import DEFAULT, HeadRecipe, retrain_with

TAUS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
MORE_TAUS = (0.0, 0.25, 0.5, 1.0, 1.5)  # of a logit adjustment after retraining
SCALES = (0.5, 1.0, 1.5)
LARGEST_BANK = 1 << 28  # numbers in a training set balanced by made rows, beyond which none is made

Make = Callable[[Embeddings, LinearHead, int], LinearHead]
MakePlan = Callable[[Embeddings], Plan]

UNTOUCHED = "untouched"


# Candidates


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way to repair a head.

    Attributes:
        name: Short, for tables.
        meaning: What it does, in a sentence or two.
        options: By what they are called, the mildest first: how the head is made, from training embeddings, the old head
            and a seed. One option where there is nothing to choose.
        taus: Logit adjustments that every option is also tried with: the head is made once for all of them.
        source: Where it comes from.
        needs_bias: Whether the head it makes has a bias of its own.
        remade: Where the options came from held-out rows: the same options from others of them, so that no row is judged by
            what was made from it.
    """

    name: str
    meaning: str
    options: Mapping[str, Make]
    taus: tuple[float, ...] = (0.0,)
    source: str = ""
    needs_bias: bool = False
    remade: Callable[[Embeddings], Mapping[str, Make]] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """What each option is called with each tau, in the order of the heads that `make` gives."""
        taus = [f"tau {tau:g}" if tau else "" for tau in self.taus]
        return tuple(", ".join(part for part in (name, tau) if part) for name in self.options for tau in taus)


def default_candidates(
    train: Embeddings,
    head: nn.Module | LinearHead,
    *,
    plan: Plan | None = None,
    counted: Plan | None = None,
    replan: MakePlan | None = None,
    recipe: HeadRecipe = DEFAULT,
) -> tuple[Candidate, ...]:
    """The simplest first: untouched, the free fixes, even draws, SMOTE, EOS, a plan made from counts, and the plan.

    `replan` is how the plan was made from held-out embeddings, for example `lambda rows: make_plan(diagnose(train, rows,
    head=head))`: then each third of them is judged by a plan made from the others. Without it a plan that was made from the
    rows it is judged on looks somewhat better than it is. A plan that is not given is left out, and so is what would make
    more rows than fit into memory. Where the recipe has no bias, those that need one are left out. Whatever trains the head
    may also take off a part of the log prior afterwards, as the plan may: that is free, so none is credited for what it does
    alone.
    """
    head = read_head(head)
    rows = counts.class_counts(train.labels, train.num_classes)
    more = MORE_TAUS if recipe.bias else (0.0,)
    found = [
        Candidate(name=UNTOUCHED, meaning="The head as it is.", options={"": lambda _, old, __: old}),
        Candidate(
            name="logit adjustment",
            meaning="tau times the logarithm of each class's share of the training images, taken off its logit.",
            options={"": lambda _, old, __: old},
            taus=TAUS,
            source="Menon et al. 2021",
            needs_bias=True,
        ),
        Candidate(
            name="tau-norm",
            meaning="Each class's logit divided by its weight's norm to the power of tau.",
            options={f"tau {tau:g}": _normalized(tau) for tau in TAUS},
            source="Kang et al. 2020",
        ),
        Candidate(
            name="nearest mean",
            meaning="The class whose mean training feature is nearest.",
            options={"": lambda bank, old, _: nearest_mean(bank, like=old)},
            source="Kang et al. 2020",
            needs_bias=not head.cosine or bool((rows == 0).any()),
        ),
        Candidate(
            name="even draws",
            meaning="The head trained further, every class drawn equally often (random oversampling).",
            options={f"{steps:,} steps": _evenly(replace(recipe, steps=steps)) for steps in _lengths(recipe)},
            taus=more,
            source="Kang et al. 2020 (classifier retraining)",
        ),
    ]
    if _balanced_size(train) <= LARGEST_BANK:
        found += [
            Candidate(
                name="SMOTE",
                meaning="Even draws from classes filled up with rows between two neighbours of the class.",
                options={f"{k} neighbors": _oversampled("smote", k, recipe) for k in (5, 10)},
                taus=more,
                source="Chawla et al. 2002",
            ),
            Candidate(
                name="EOS",
                meaning="Even draws from classes filled up with rows between a row and its nearest enemies.",
                options={f"{k} neighbors": _oversampled("eos", k, recipe) for k in (10, 100)},
                taus=more,
                source="Dablain et al. 2022 (expansive over-sampling)",
            ),
        ]
    meanings = {
        "plan from counts": "The head trained further by a plan that knows only how many images each class has.",
        "plan": "The head trained further by the plan.",
    }
    if replan is not None:
        meanings["plan"] += " Each third of the held-out images is judged by a plan made without it."
    for (name, meaning), one in zip(meanings.items(), (counted, plan), strict=True):
        if one is not None:
            scales = SCALES if one.feature_methods else ()
            found.append(
                Candidate(
                    name=name,
                    meaning=f"{meaning} The option multiplies the strengths of its feature policies.",
                    options=_planned_options(one, scales, recipe),
                    taus=more,
                    needs_bias=one.prior_correction.after > 0,
                    remade=partial(_replanned, replan, scales, recipe) if name == "plan" and replan else None,
                )
            )
    return tuple(one for one in found if recipe.bias or not one.needs_bias)


def _lengths(recipe: HeadRecipe) -> tuple[int, ...]:
    return tuple(dict.fromkeys((max(1, recipe.steps // 5), recipe.steps)))


def scaled(plan: Plan, factor: float) -> Plan:
    """The plan with the strength of every feature policy multiplied, and 1 at most."""
    classes = tuple(
        one.model_copy(
            update={
                "features": tuple(
                    policy.model_copy(update={"strength": min(1.0, factor * policy.strength)})
                    for policy in one.features
                )
            }
        )
        for one in plan.classes
    )
    return plan.model_copy(update={"classes": classes})


def even_plan(class_counts: Tensor) -> Plan:
    """Every class that has rows drawn equally often, and nothing else."""
    listed = class_counts.tolist()
    share = 1 / max(1, sum(count > 0 for count in listed))
    classes = tuple(
        ClassPlan(name=str(c), count=count, draws=share if count else 0.0) for c, count in enumerate(listed)
    )
    return Plan(classes=classes)


def _normalized(tau: float) -> Make:
    return lambda _, head, __: normalize_tau(head, tau)


def _evenly(recipe: HeadRecipe) -> Make:
    def make(train: Embeddings, head: LinearHead, seed: int) -> LinearHead:
        plan = even_plan(counts.class_counts(train.labels, train.num_classes))
        return retrain_with(train, head, plan, recipe, seed=seed)

    return make


def _planned(plan: Plan, recipe: HeadRecipe) -> Make:
    return lambda train, head, seed: retrain_with(train, head, plan, recipe, seed=seed)


def _planned_options(plan: Plan, scales: Sequence[float], recipe: HeadRecipe) -> dict[str, Make]:
    if not scales:
        return {"": _planned(plan, recipe)}
    return {f"strength x {scale:g}": _planned(scaled(plan, scale), recipe) for scale in scales}


def _replanned(
    replan: MakePlan, scales: Sequence[float], recipe: HeadRecipe, heldout: Embeddings
) -> Mapping[str, Make]:
    return _planned_options(replan(heldout), scales, recipe)


def _oversampled(method: str, neighbors: int, recipe: HeadRecipe) -> Make:
    def make(train: Embeddings, head: LinearHead, seed: int) -> LinearHead:
        from ..augment.oversampler import balanced  # it brings imbalanced-learn, which only these heads need

        bank = balanced(train, head, method, k_neighbors=neighbors, seed=seed)
        return _evenly(recipe)(bank, head, seed)

    return make


def _balanced_size(train: Embeddings) -> int:
    rows = counts.class_counts(train.labels, train.num_classes)
    return int(rows.max()) * int((rows > 0).sum()) * train.num_features
