"""Methods that change the training images: which are drawn, how they are mixed, and how strongly they are augmented."""

from __future__ import annotations

import dataclasses
from functools import partial

from ...plan.adaptive import AdaptivePlan
from ...plan.adaptive_rules import RULES, AdaptiveRule
from ...plan.policies import ImagePolicy, Schedule
from ...training.ingredients import Ingredients
from ...training.losses import Always, BalancedSoftmax
from ..protocol import MakeIngredients, Method, Parameters, Range, Setting, number
from .losses import BETA, balance_of_weights, cross_entropy, deferred, weighted
from .plans import IMAGE_OPERATIONS, MIX_SPACE, drawn_plan, from_plan, mixing_of, with_mixing

CMO_UNMIXED = 3  # epochs at the beginning and at the end in which CMO mixes nothing


def _sampled(exponent: float) -> MakeIngredients:
    return lambda setting, _: from_plan(setting, drawn_plan(setting, exponent))


def _mixed_and_deferred(method: str) -> MakeIngredients:
    """Return mixup or Remix of every image with deferred reweighting (Chou et al. 2020)."""
    reweighted = deferred(cross_entropy, weighted)

    def ingredients(setting: Setting, parameters: Parameters) -> Ingredients:
        plan = with_mixing(drawn_plan(setting, 1.0), mixing_of(setting, method, 1.0, even=False))
        augment = from_plan(setting, plan).augment
        return dataclasses.replace(reweighted(setting, parameters), augment=augment)

    return ingredients


def _context_rich_minority(setting: Setting, parameters: Parameters) -> Ingredients:
    """Return CutMix that pastes evenly drawn classes, except in the first and last epochs, with balanced softmax."""
    mixing = mixing_of(setting, "cutmix", number(parameters, "mix_probability"), even=True)
    plan = with_mixing(drawn_plan(setting, 1.0), mixing)
    unmixed = min(CMO_UNMIXED, (setting.epochs - 1) // 2) / setting.epochs
    schedule = Schedule(start=unmixed, stop=1 - unmixed)
    return _balanced(setting, from_plan(setting, plan.model_copy(update={"schedule": schedule})))


def _balanced(setting: Setting, ingredients: Ingredients) -> Ingredients:
    return dataclasses.replace(ingredients, criterion=Always(BalancedSoftmax(setting.class_counts)))


def _adaptive_strength(rules: tuple[str, ...]) -> MakeIngredients:
    """Return image augmentation whose strength starts at 0 and follows each class's training recall, with balanced softmax."""
    chosen: tuple[AdaptiveRule, ...] = tuple(rule for rule in RULES if rule.name in rules)

    def ingredients(setting: Setting, parameters: Parameters) -> Ingredients:
        probability = number(parameters, "image_probability")
        policy = ImagePolicy(operations=IMAGE_OPERATIONS, strength=0.0, probability=probability)
        plan = drawn_plan(setting, 1.0)
        classes = tuple(one.model_copy(update={"image": policy}) for one in plan.classes)
        adapt = partial(AdaptivePlan, epochs=setting.epochs, rules=chosen)
        made = from_plan(setting, plan.model_copy(update={"classes": classes, "largest_difference": 1.0}), adapt)
        return _balanced(setting, made)

    return ingredients


SAMPLING = (
    Method(
        name="class_balanced_sampling",
        meaning="Every class drawn equally often",
        source="Kang et al. 2020",
        ingredients=_sampled(0.0),
        balances=1.0,
    ),
    Method(
        name="square_root_sampling",
        meaning="Classes drawn in proportion to the square root of their size",
        source="Kang et al. 2020",
        ingredients=_sampled(0.5),
        balances=0.5,
    ),
)
IMAGES = (
    Method(
        name="mixup_drw",
        meaning="mixup of every image; reweighted in the last fifth of the epochs",
        source="Zhang et al. 2018, Cao et al. 2019",
        space=BETA,
        ingredients=_mixed_and_deferred("mixup"),
        balances=balance_of_weights,
    ),
    Method(
        name="remix_drw",
        meaning="Remix of every image; reweighted in the last fifth of the epochs",
        source="Chou et al. 2020",
        space=BETA,
        ingredients=_mixed_and_deferred("remix"),
        balances=balance_of_weights,
    ),
    Method(
        name="cmo",
        meaning="CutMix that pastes evenly drawn classes, with balanced softmax",
        source="Park et al. 2022",
        space=MIX_SPACE,
        ingredients=_context_rich_minority,
        balances=1.0,
    ),
    Method(
        name="cuda",
        meaning="Augmentation strength follows training recall, in the style of CUDA, with balanced softmax",
        source="Ahn et al. 2023",
        space={"image_probability": Range(low=0.2, high=0.9, default=0.5)},
        ingredients=_adaptive_strength(("too few hits", "enough hits")),
        balances=1.0,
    ),
    Method(
        name="doda",
        meaning="Augmentation strength follows the change of training recall, in the style of DODA, with balanced softmax",
        source="Wang et al. 2024",
        space={"image_probability": Range(low=0.2, high=0.9, default=0.5)},
        ingredients=_adaptive_strength(("hits fell", "enough hits")),
        balances=1.0,
    ),
)
