"""The head repairs that `benchmarks.head_study` compares: what each searches, and how it changes a trained head.

Every head that is trained starts with the same recipe: 1,500 steps at the library's own rates. A logistic regression is fitted to its
end instead. Both may also subtract a part of the log prior afterwards (`tau`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from diversify.augment.oversampler import balanced
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.plan.plan import Plan
from diversify.plan.strengths import Strengths
from diversify.repair.candidates import scaled
from diversify.repair.post_hoc import adjust_logits, log_prior_of, nearest_mean, normalize_tau
from diversify.repair.refit import PENALTY, refit_head
from diversify.repair.retrain import HeadRecipe, retrain_with
from diversify.study.methods import drawn_plan
from diversify.study.protocol import Choice, HeadStep, Method, Parameters, Range, Setting, Space, Trained

STEPS = 1500
OURS = "diversify"
SLOPE = "fitted_slope"


def _number(parameters: Parameters, name: str) -> float:
    return float(parameters[name])


def _retrained(
    trained: Trained,
    head: LinearHead,
    plan: Plan,
    setting: Setting,
    parameters: Parameters,
    bank: Embeddings | None = None,
) -> HeadStep:
    """Train the head further by a plan at the learning rate of the trial, then subtract a part of the log prior."""
    recipe = HeadRecipe(
        steps=STEPS,
        learning_rate=_number(parameters, "learning_rate"),
        weight_decay=_number(parameters, "weight_decay"),
    )
    found = retrain_with(trained.train if bank is None else bank, head, plan, recipe, seed=setting.seed)
    return HeadStep(head=adjust_logits(found, log_prior_of(setting.class_counts), _number(parameters, "tau")))


def _adjusted(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
    return HeadStep(head=adjust_logits(trained.head, log_prior_of(setting.class_counts), _number(parameters, "tau")))


def _sloped(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
    """Subtract the log prior as often as the runner passes on, fitted on a validation set that the head is not evaluated on."""
    return HeadStep(head=adjust_logits(trained.head, log_prior_of(setting.class_counts), float(trained.carried)))


def _normalized(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
    return HeadStep(head=normalize_tau(trained.head, _number(parameters, "tau")))


def _nearest(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
    return HeadStep(head=nearest_mean(trained.train, like=trained.head))


def _evenly(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
    return _retrained(trained, trained.head, drawn_plan(setting, 0.0), setting, parameters)


def _anew(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
    weight, bias = torch.zeros_like(trained.head.weight), torch.zeros_like(trained.head.bias)
    empty = dataclasses.replace(trained.head, weight=weight, bias=bias)
    return _retrained(trained, empty, drawn_plan(setting, 0.0), setting, parameters)


def _fitted(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
    found = refit_head(trained.train, trained.head, penalty=_number(parameters, "penalty"))
    return HeadStep(head=adjust_logits(found, log_prior_of(setting.class_counts), _number(parameters, "tau")))


def _corrected(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
    plain = Strengths(covariance=0.0, covariance_share=0.0, eos_share=0.0)
    plan = Plan.from_counts(setting.class_names, setting.class_counts, strengths=plain)
    return _retrained(trained, trained.head, plan, setting, parameters)


def _oversampled(method: Any) -> Callable[[Setting, Parameters, Trained], HeadStep]:
    """Fill up all classes to the same size with synthetic rows, then draw evenly."""

    def step(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
        k_neighbors = int(_number(parameters, "neighbors"))
        bank = balanced(trained.train, trained.head, method, k_neighbors=k_neighbors, seed=setting.seed)
        return _retrained(trained, trained.head, drawn_plan(setting, 0.0), setting, parameters, bank)

    return step


def _counted(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
    plan = Plan.from_counts(setting.class_names, setting.class_counts)
    return _retrained(trained, trained.head, scaled(plan, _number(parameters, "strength")), setting, parameters)


def _planned(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
    """Retrain by the plan that the runner passes on, from a diagnosis of a validation set that the head is not evaluated on."""
    plan = trained.carried.for_counts(setting.class_counts)
    return _retrained(trained, trained.head, scaled(plan, _number(parameters, "strength")), setting, parameters)


_TAU: Space = {"tau": Range(low=0.0, high=3.0, default=0.0)}
_FREE_TAU: Space = {"tau": Range(low=0.0, high=3.0, default=1.0)}
_NEIGHBORS = (5, 10, 50, 100, 300)
_STRENGTH: Space = {"strength": Range(low=0.25, high=1.75, default=1.0), **_TAU}

METHODS = (
    Method(name="ce", meaning="The head as it is", source="plain training"),
    Method(name="nearest_mean", meaning="The nearest class mean", source="Kang et al. 2020", head_step=_nearest),
    Method(
        name="logit_adjustment",
        meaning="tau times the log prior subtracted from the logits",
        source="Menon et al. 2021",
        space=_FREE_TAU,
        head_step=_adjusted,
    ),
    Method(
        name=SLOPE,
        meaning="tau times the log prior subtracted, with tau fitted by likelihood on the validation set",
        source="control",
        head_step=_sloped,
    ),
    Method(
        name="tau_norm",
        meaning="Weights divided by their norm to the power of tau",
        source="Kang et al. 2020",
        space=_FREE_TAU,
        head_step=_normalized,
    ),
    Method(
        name="crt", meaning="A new head trained on even draws", source="Kang et al. 2020", space=_TAU, head_step=_anew
    ),
    Method(
        name="random_oversampling",
        meaning="The head trained further on even draws",
        source="Dablain et al. 2022, as its control",
        space=_TAU,
        head_step=_evenly,
    ),
    Method(
        name="logistic_regression",
        meaning="A new head with the least class-balanced loss, and a penalty on its weight",
        source="Kang et al. 2020, fitted to its end",
        space={"penalty": Range(low=1e-3, high=10.0, default=PENALTY, log=True), **_TAU},
        head_step=_fitted,
    ),
    Method(
        name="smote",
        meaning="Even draws of classes filled up by interpolation between neighbours",
        source="Chawla et al. 2002",
        space={"neighbors": Choice(values=_NEIGHBORS, default=5), **_TAU},
        head_step=_oversampled("smote"),
    ),
    Method(
        name="eos",
        meaning="Even draws of classes filled up toward nearest enemies",
        source="Dablain et al. 2022",
        space={"neighbors": Choice(values=_NEIGHBORS, default=10), **_TAU},
        head_step=_oversampled("eos"),
    ),
    Method(
        name="balanced_softmax",
        meaning="The head trained further on unweighted draws, with the class prior in the loss",
        source="Ren et al. 2020",
        space=_TAU,
        head_step=_corrected,
    ),
    Method(
        name="plan_from_counts",
        meaning="The head trained further by a plan that knows only the class sizes",
        source="control",
        space=_STRENGTH,
        head_step=_counted,
    ),
    Method(
        name="plan_permuted",
        meaning="The head trained further by a plan from a diagnosis with permuted classes",
        source="control",
        space=_STRENGTH,
        head_step=_planned,
    ),
    Method(
        name=OURS,
        meaning="The same by a plan from the diagnosis",
        source="this library",
        space=_STRENGTH,
        head_step=_planned,
    ),
)
PLANNED = (OURS, "plan_permuted")
LEARNING = (*PLANNED, SLOPE)  # these use the validation set
BY_NAME = {method.name: method for method in METHODS}
