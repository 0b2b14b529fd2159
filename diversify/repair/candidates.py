"""The repairs that `choose_head` compares, each with its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from ..augment.feature_neighbors import BETWEEN_NEIGHBORS
from ..errors import must
from ..functional import counts
from ..network.embeddings import Embeddings, require_embeddings
from ..network.linear_head import LinearHead, read_head
from ..plan.plan import Plan
from .candidate import MORE_TAUS, UNTOUCHED, Candidate, Make, MakePlan, even_plan, made_together
from .post_hoc import nearest_mean, normalize_tau
from .refit import LARGEST, refitted_options, too_large
from .retrain import DEFAULT, HeadRecipe, retrain_by_strength, retrain_with
from .shared_side import SharedSide
from .unseen_candidates import heldout_candidates

TAUS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
SCALES = (0.5, 1.0, 1.5)
SIBLINGS, ENEMIES = (5, 10), (10, 100)  # neighbours of SMOTE and EOS
LARGEST_BANK = 1 << 28  # numbers in an oversampled training set; a larger one is not made
LARGEST_SEARCH = 1e13  # multiply-adds of a search for neighbours; a plan that needs a longer one is not tried
TAU_NORM = "tau-norm"


def default_candidates(
    train: Embeddings,
    head: nn.Module | LinearHead,
    *,
    plan: Plan | None = None,
    counted: Plan | None = None,
    replan: MakePlan | None = None,
    recipe: HeadRecipe = DEFAULT,
    unseen: Embeddings | None = None,
    offsets: bool = False,
) -> tuple[Candidate, ...]:
    """Return the repairs to compare, the simplest first.

    They are the untouched head, the post-hoc repairs, retraining with even draws, a class-balanced logistic regression,
    retraining with SMOTE and with EOS, a plan made from class counts, and the plan. Each repair that trains the head is
    also tried with a logit adjustment afterwards, so that a plan gets no credit for a correction that costs nothing.

    With `unseen` they are joined by repairs that learn from these held-out rows: a slope in log n, a bias per class, and a
    temperature with a bias, each fitted by likelihood; even draws and the plan with unseen rows in every batch; a logistic
    regression on both; the unseen rows alone; and, where these rows show that classes are narrow, draws that favour these, and
    a regression in which most of their weight lies on unseen rows. A cosine head gets no regression. `choose_head` judges each by heads
    that were fitted without the rows that it predicts.

    Args:
        train: Embeddings of the backbone's own training images.
        head: The present head.
        plan: The plan; None leaves it out.
        counted: A plan made from class counts alone; None leaves it out.
        replan: How the plan was made from held-out embeddings, for example
            `lambda rows: make_plan(diagnose(train, rows, head=head))`. Each third of the held-out rows is then judged by
            a plan made from the other two. Without it, a plan made from the rows on which it is judged looks somewhat
            better than it is.
        recipe: How heads are trained. Where it or the head has no bias, repairs that need one are left out.
        unseen: The held-out rows on which `choose_head` will judge; None leaves out what learns from them.
        offsets: Add biases per class that move, step by step, toward the classes that fare worst. They need `unseen`.

    Returns:
        The candidates. SMOTE and EOS are left out if their rows would not fit into memory, and a regression or a plan if it would
        take minutes; `HeadChoice.notes` then says so.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> [one.name for one in dv.default_candidates(train, head)[:4]]
        ['untouched', 'logit adjustment', 'tau-norm', 'nearest mean']
    """
    require_embeddings("train", train, "use dv.repair_multilabel")
    head = read_head(head)
    recipe = replace(recipe, bias=recipe.bias and head.has_bias)
    more = MORE_TAUS if recipe.bias else (0.0,)
    shared = SharedSide(max(ENEMIES) if _balanced_size(train) <= LARGEST_BANK else 1)
    plans = {"plan from counts": counted, "plan": plan}
    left_out = {name: work for name, one in plans.items() if (work := _search_work(train, one)) > LARGEST_SEARCH}
    counted, plan = (None if name in left_out else one for name, one in plans.items())
    found = [
        *_post_hoc_candidates(train, head),
        *_resampling_candidates(train, recipe, more, shared, cosine=head.cosine),
        *_plan_candidates(plan, counted, replan, recipe, more, shared),
    ]
    if unseen is not None:
        found += heldout_candidates(
            train, unseen, plan=plan, replan=replan, recipe=recipe, offsets=offsets, cosine=head.cosine
        )
    elif offsets:
        raise must("unseen", "be given where offsets is True, since offsets are fitted on held-out rows", "none")
    found[0] = replace(found[0], note=_left_out_in_words(train, left_out, cosine=head.cosine))
    found = [one for one in found if recipe.bias or not one.needs_bias]
    return tuple(one for one in found if one.name != TAU_NORM or not head.single_logit)  # it changes no single logit


def _post_hoc_candidates(train: Embeddings, head: LinearHead) -> list[Candidate]:
    rows = counts.class_counts(train.labels, train.num_classes)
    return [
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
            name=TAU_NORM,
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
    ]


def _resampling_candidates(
    train: Embeddings, recipe: HeadRecipe, taus: tuple[float, ...], shared: SharedSide, *, cosine: bool
) -> list[Candidate]:
    found = [
        Candidate(
            name="even draws",
            meaning="The head trained further, every class drawn equally often (random oversampling).",
            options={f"{steps:,} steps": _evenly(replace(recipe, steps=steps)) for steps in _lengths(recipe)},
            taus=taus,
            balances=recipe.bias,
            source="Kang et al. 2020 (classifier retraining)",
        )
    ]
    if not cosine and not too_large(train):
        found.append(
            Candidate(
                name="logistic regression",
                meaning="The head fitted anew to where its loss is least, every class with the same weight.",
                options=refitted_options(bias=recipe.bias),
                taus=taus,
                balances=recipe.bias,
                source="Kang et al. 2020 (classifier retraining)",
            )
        )
    if _balanced_size(train) <= LARGEST_BANK:
        found += [
            Candidate(
                name="SMOTE",
                meaning="Even draws from classes filled up with rows between two neighbours of the class.",
                options={f"{k} neighbors": _oversampled("smote", k, recipe, shared) for k in SIBLINGS},
                taus=taus,
                balances=recipe.bias,
                source="Chawla et al. 2002",
            ),
            Candidate(
                name="EOS",
                meaning="Even draws from classes filled up with rows between a row and its nearest enemies.",
                options={f"{k} neighbors": _oversampled("eos", k, recipe, shared) for k in ENEMIES},
                taus=taus,
                balances=recipe.bias,
                source="Dablain et al. 2022 (expansive over-sampling)",
            ),
        ]
    return found


def _plan_candidates(
    plan: Plan | None,
    counted: Plan | None,
    replan: MakePlan | None,
    recipe: HeadRecipe,
    taus: tuple[float, ...],
    shared: SharedSide,
) -> list[Candidate]:
    meanings = {
        "plan from counts": "The head trained further by a plan that knows only how many images each class has.",
        "plan": "The head trained further by the plan.",
    }
    if replan is not None:
        meanings["plan"] += " Each third of the held-out images is judged by a plan made without it."
    found = []
    for (name, meaning), one in zip(meanings.items(), (counted, plan), strict=True):
        if one is not None:
            scales = SCALES if one.feature_methods else ()
            found.append(
                Candidate(
                    name=name,
                    meaning=f"{meaning} The option multiplies the strengths of its feature policies.",
                    options=_planned_options(one, scales, recipe, shared),
                    taus=taus,
                    balances=recipe.bias,
                    needs_bias=one.prior_correction.after > 0,
                    remade=partial(_replanned, replan, scales, recipe, shared) if name == "plan" and replan else None,
                )
            )
    return found


def _lengths(recipe: HeadRecipe) -> tuple[int, ...]:
    return tuple(dict.fromkeys((max(1, recipe.steps // 5), recipe.steps)))


def scaled(plan: Plan, factor: float) -> Plan:
    """Return the plan with the strength of every feature policy multiplied by `factor`, and at most 1.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> plan = dv.make_plan(dv.diagnose(train, heldout, head=head))
        >>> {policy.strength for one in scaled(plan, 0.0).classes for policy in one.features}
        {0.0}
    """
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


def _normalized(tau: float) -> Make:
    return lambda _, head, __: normalize_tau(head, tau)


def _evenly(recipe: HeadRecipe) -> Make:
    def make(train: Embeddings, head: LinearHead, seed: int) -> LinearHead:
        plan = even_plan(counts.class_counts(train.labels, train.num_classes))
        return retrain_with(train, head, plan, recipe, seed=seed)

    return make


def _planned_options(plan: Plan, scales: Sequence[float], recipe: HeadRecipe, shared: SharedSide) -> dict[str, Make]:
    plans = [scaled(plan, scale) for scale in scales] or [plan]
    return made_together(
        [f"strength x {scale:g}" for scale in scales] or [""],
        lambda train, head, seed: retrain_by_strength(train, head, plans, recipe, seed=seed, shared=shared),
    )


def _replanned(
    replan: MakePlan, scales: Sequence[float], recipe: HeadRecipe, shared: SharedSide, heldout: Embeddings
) -> Mapping[str, Make]:
    return _planned_options(replan(heldout), scales, recipe, shared)


def _oversampled(method: str, neighbors: int, recipe: HeadRecipe, shared: SharedSide) -> Make:
    def make(train: Embeddings, head: LinearHead, seed: int) -> LinearHead:
        from ..augment.oversampler import balanced  # imports imbalanced-learn, which only these heads need

        bank = balanced(train, head, method, k_neighbors=neighbors, seed=seed, known=shared.known(train))
        return _evenly(recipe)(bank, head, seed)

    return make


def _search_work(train: Embeddings, plan: Plan | None) -> float:
    """The multiply-adds of the search for the neighbours that a plan needs."""
    if plan is None or not any(method in BETWEEN_NEIGHBORS for method in plan.feature_methods):
        return 0.0
    users = torch.stack([plan.feature_column(method, "share") > 0 for method in BETWEEN_NEIGHBORS]).any(0)
    rows = counts.class_counts(train.labels, train.num_classes).cpu()
    return float(rows[users].sum()) * len(train) * train.num_features


def _left_out_in_words(train: Embeddings, searches: Mapping[str, float], *, cosine: bool) -> str:
    """What is left out because the training side is large, in sentences; empty if nothing is."""
    found, numbers = [], _balanced_size(train)
    if numbers > LARGEST_BANK:
        found.append(
            f"SMOTE and EOS are not compared: classes filled up to the largest would be {4 * numbers / 2**30:,.0f} GiB of features,"
            f" and at most {4 * LARGEST_BANK / 2**30:,.0f} GiB are made."
        )
    if too_large(train) and not cosine:
        size = train.features.numel() * train.num_classes
        found.append(
            f"Logistic regression is not compared: it has {size:,} rows x features x classes, and at most {LARGEST:,.0f} are fitted."
        )
    for name, work in searches.items():
        found.append(
            f"The {name} is not compared: the nearest neighbours that it needs would take {work:.0e} multiply-adds to find, and at"
            f" most {LARGEST_SEARCH:.0e} are spent."
        )
    return " ".join(found)


def _balanced_size(train: Embeddings) -> int:
    rows = counts.class_counts(train.labels, train.num_classes)
    return int(rows.max()) * int((rows > 0).sum()) * train.num_features
