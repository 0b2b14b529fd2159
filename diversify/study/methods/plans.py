"""The plans that methods are built from, and the ingredients that a plan makes."""

from __future__ import annotations

from typing import Any

from ...plan.plan import Plan
from ...plan.policies import ClassPlan, Mixing, PriorCorrection
from ...plan.strengths import STRENGTHS, Strengths
from ...training.ingredients import Ingredients
from ..protocol import Range, Setting, Space

IMAGE_OPERATIONS, IMAGE_PROBABILITY = STRENGTHS.image_operations, STRENGTHS.image_probability
GRADE = (STRENGTHS.image_most - STRENGTHS.image_least) / 2
"""The image strength of the rarest class minus the mean strength, and of the mean minus that of the largest class."""

IMAGE_SPACE: Space = {"image_strength": Range(low=0.2, high=1.0, default=0.6)}
MIX_SPACE: Space = {"mix_probability": Range(low=0.0, high=1.0, default=0.5)}
HEAD_SPACE: Space = {"head_share": Range(low=0.0, high=1.0, default=0.5)}


def drawn_plan(setting: Setting, exponent: float) -> Plan:
    """Return a plan that draws each class in proportion to its size to the power of `exponent`, and does nothing else."""
    weights = setting.class_counts.double() ** exponent
    shares = (weights / weights.sum()).tolist()
    listed = zip(setting.class_names, setting.class_counts.tolist(), shares, strict=True)
    return Plan(classes=tuple(ClassPlan(name=name, count=count, draws=draws) for name, count, draws in listed))


def image_plan(setting: Setting, strength: float, *, grade: float = GRADE, mix: float = 0.0) -> Plan:
    """Return a plan from counts that augments images, mixes them and corrects for the class prior.

    Args:
        setting: The training images.
        strength: Mean strength of image augmentation, in [0, 1].
        grade: How much stronger the rarest class is augmented, and how much weaker the largest.
        mix: Probability of CutMix, with partners drawn evenly from the classes.
    """
    strengths = Strengths(
        image_operations=IMAGE_OPERATIONS,
        image_least=max(0.0, strength - grade),
        image_most=min(1.0, strength + grade),
        image_probability=IMAGE_PROBABILITY,
        mixing=Mixing(),
        prior_correction=PriorCorrection(training=1.0),
    )
    plan = Plan.from_counts(setting.class_names, setting.class_counts, strengths=strengths)
    return with_mixing(plan, mixing_of(setting, "cutmix", mix, even=True)) if mix > 0 else plan


def mixing_of(setting: Setting, method: Any, probability: float, *, even: bool) -> tuple[Mixing, ...]:
    """Return one mixing policy per class, whose partners come evenly from the classes or in proportion to their size."""
    weights = [1.0 if even else float(count) for count in setting.class_counts.tolist()]
    return tuple(Mixing(method=method, probability=probability, partner=weight) for weight in weights)


def with_mixing(plan: Plan, mixing: tuple[Mixing, ...]) -> Plan:
    """Return the plan with these mixing policies in place of its own."""
    pairs = zip(plan.classes, mixing, strict=True)
    return plan.model_copy(update={"classes": tuple(one.model_copy(update={"mixing": mix}) for one, mix in pairs)})


def from_plan(setting: Setting, plan: Plan, adapt: Any = None) -> Ingredients:
    """Return the ingredients that carry out a plan; mixing draws its partners from all training images."""
    pool = None if setting.images is None else (setting.images, setting.labels)
    return Ingredients.from_plan(
        plan,
        setting.labels.cpu(),
        seed=setting.seed,
        epochs=setting.epochs,
        base=setting.base,
        pool=pool if any(one.mixing.method != "none" for one in plan.classes) else None,
        adapt=adapt,
    )
