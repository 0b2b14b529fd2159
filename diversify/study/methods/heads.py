"""Head steps: what happens to the head after training, and the methods that consist of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from ...augment.eos import balanced_by_eos
from ...diagnosis.measure import diagnose, usual_top_k
from ...diagnosis.result import Diagnosis
from ...errors import must
from ...network.linear_head import LinearHead
from ...plan.plan import Plan
from ...plan.policies import FeaturePolicy
from ...repair.post_hoc import normalize_tau
from ...repair.retrain import retrain_head
from ..protocol import Choice, HeadStep, Method, Parameters, Setting, TakeStep, Trained, number
from .losses import TAU
from .plans import drawn_plan


def between(old: LinearHead, new: LinearHead, share: float) -> LinearHead:
    """Return the head on the line from `old` (`share=0`) to `new` (`share=1`)."""
    return dataclasses.replace(
        old,
        weight=(1 - share) * old.weight + share * new.weight,
        bias=(1 - share) * old.bias + share * new.bias,
    )


def step_of(make: Callable[[Setting, Parameters, Trained], LinearHead], balances: float = 0.0) -> TakeStep:
    """Return the head step of a function that uses no validation images; for `balances` see `HeadStep`."""
    return lambda setting, parameters, trained: HeadStep(head=make(setting, parameters, trained), balances=balances)


def _partly(trained: Trained, new: LinearHead, share: float, carry: Any = None) -> HeadStep:
    """Return the step that goes part of the way to a head that was retrained to treat classes alike."""
    balances = (1 - share) * trained.balances + share
    return HeadStep(head=between(trained.head, new, share), carry=carry, balances=balances)


def _normalized(setting: Setting, parameters: Parameters, trained: Trained) -> LinearHead:
    return normalize_tau(trained.head, number(parameters, "tau"))


def _from_zero(setting: Setting, parameters: Parameters, trained: Trained) -> LinearHead:
    """Train a head from zero weights on even draws of the classes."""
    empty = dataclasses.replace(
        trained.head, weight=torch.zeros_like(trained.head.weight), bias=torch.zeros_like(trained.head.bias)
    )
    return retrain_head(trained.train, empty, drawn_plan(setting, 0.0), seed=setting.seed)


def _evenly(setting: Setting, parameters: Parameters, trained: Trained) -> LinearHead:
    """Train the head further on even draws of the classes."""
    return retrain_head(trained.train, trained.head, drawn_plan(setting, 0.0), seed=setting.seed)


def _smote(setting: Setting, parameters: Parameters, trained: Trained) -> LinearHead:
    """Train the head further on even draws; SMOTE makes as large a share of a class's rows as it lacks to the largest."""
    most, neighbors = int(setting.class_counts.max()), int(number(parameters, "neighbors"))
    plan = drawn_plan(setting, 0.0)
    classes = []
    for one, count in zip(plan.classes, setting.class_counts.tolist(), strict=True):
        made = FeaturePolicy(method="smote", strength=1.0, share=1 - count / most, neighbors=neighbors)
        classes.append(one.model_copy(update={"features": (made,) if made.share > 0 else ()}))
    plan = plan.model_copy(update={"classes": tuple(classes)})
    return retrain_head(trained.train, trained.head, plan, seed=setting.seed)


def _eos(setting: Setting, parameters: Parameters, trained: Trained) -> LinearHead:
    """Train the head further on classes that EOS has filled up to the size of the largest."""
    bank = balanced_by_eos(trained.train, trained.head, k=int(number(parameters, "neighbors")), seed=setting.seed)
    return retrain_head(bank, trained.head, drawn_plan(setting, 0.0), seed=setting.seed)


def by_counts(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
    """Retrain the head by a plan from class counts, and go part of the way to it."""
    new = retrain_head(trained.train, trained.head, _plan_from_counts(setting), seed=setting.seed)
    return _partly(trained, new, number(parameters, "head_share"))


def _plan_from_counts(setting: Setting) -> Plan:
    return Plan.from_counts(setting.class_names, setting.class_counts)


def planned(make: Callable[[int, Diagnosis], Plan], variants: int = 1) -> TakeStep:
    """Return the head step that retrains the head by a plan from a diagnosis, and goes part of the way to it.

    A trial diagnoses the validation set and makes the plan. It passes the plan on to the final run, which has no
    validation set. Without a plan from a trial, a final run makes one from class counts.

    Args:
        make: Makes plan number `0 .. variants - 1` from the diagnosis.
        variants: Number of different plans. Seeds use them in turn.
    """

    def step(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
        variant = setting.seed % variants
        if trained.carried is not None:
            carry = trained.carried
            plan = Plan.from_dict(carry["plans"][variant] if variants > 1 else carry["plan"])
            _require_same_order(plan, setting)
        elif trained.heldout is not None:
            diagnosis = diagnose(
                trained.train,
                trained.heldout,
                head=trained.head,
                class_names=setting.class_names,
                top_k=usual_top_k(trained.head.num_features),
                seed=setting.seed,
            )
            plans = [make(one, diagnosis) for one in range(variants)]
            plan, carry = plans[variant], _carried(plans)
        else:
            plan = _plan_from_counts(setting)
            carry = _carried([plan])
        new = retrain_head(trained.train, trained.head, plan.for_counts(setting.class_counts), seed=setting.seed)
        return _partly(trained, new, number(parameters, "head_share"), carry)

    return step


def _carried(plans: list[Plan]) -> dict[str, Any]:
    return {"plans": [one.to_dict() for one in plans]} if len(plans) > 1 else {"plan": plans[0].to_dict()}


def _require_same_order(plan: Plan, setting: Setting) -> None:
    """Raise an InputError if other classes are rare than when the plan was made."""
    before = torch.tensor([one.count for one in plan.classes])
    if not torch.equal(before.argsort(stable=True), setting.class_counts.argsort(stable=True)):
        law = "have the classes in the order of size in which its plan was made"
        raise must("a final run", law, "another tail order", "give the protocol a single tail order")


HEADS = (
    Method(
        name="crt",
        meaning="Cross entropy; then a new head trained on evenly drawn classes",
        source="Kang et al. 2020",
        head_step=step_of(_from_zero, 1.0),
    ),
    Method(
        name="tau_norm",
        meaning="Cross entropy; then each weight row of the head divided by its norm to the power of tau",
        source="Kang et al. 2020",
        space=TAU,
        head_step=step_of(_normalized),
    ),
    Method(
        name="random_oversampling",
        meaning="Cross entropy; then the head trained further on features drawn evenly from the classes",
        source="Dablain et al. 2022, as its control",
        head_step=step_of(_evenly, 1.0),
    ),
    Method(
        name="smote",
        meaning="Cross entropy; then the head trained further with features between two neighbours of a class",
        source="Chawla et al. 2002",
        space={"neighbors": Choice(values=(5, 10, 50), default=5)},
        head_step=step_of(_smote, 1.0),
    ),
    Method(
        name="eos",
        meaning="Cross entropy; then the head trained further with features moved toward their nearest enemies",
        source="Dablain et al. 2022",
        space={"neighbors": Choice(values=(5, 10, 50), default=10)},
        head_step=step_of(_eos, 1.0),
    ),
)
