"""Suffixes of a method's name: controls that add the augmentation, mixing or head step of `diversify` to any method.

They use no diagnosis, so a difference between `diversify` and a method with all three suffixes is not one of augmentation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ...augment.batches import BatchAugmenter
from ...errors import must, unknown
from ...plan.adaptive import AdaptivePlan
from ...plan.plan import Plan
from ...plan.policies import ImagePolicy
from ...training.ingredients import Ingredients
from ..protocol import HeadStep, MakeIngredients, Method, Parameters, Setting, Space, Trained, number
from .heads import by_counts
from .plans import (
    HEAD_SPACE,
    IMAGE_OPERATIONS,
    IMAGE_PROBABILITY,
    IMAGE_SPACE,
    MIX_SPACE,
    drawn_plan,
    from_plan,
    mixing_of,
    with_mixing,
)


def with_images(method: Method) -> Method:
    """Return the method with image augmentation of equal strength for every class, in place of policies of its own."""

    def ingredients(setting: Setting, parameters: Parameters) -> Ingredients:
        own = method.ingredients(setting, parameters)
        plan = _plan_of(own, setting)
        strength = number(parameters, "image_strength")
        policy = ImagePolicy(operations=IMAGE_OPERATIONS, strength=strength, probability=IMAGE_PROBABILITY)
        classes = tuple(one.model_copy(update={"image": policy}) for one in plan.classes)
        made = from_plan(setting, plan.model_copy(update={"classes": classes}))
        return dataclasses.replace(own, augment=made.augment, adapt=None)

    return _with(method, "images", "images augmented, every class alike", IMAGE_SPACE, ingredients)


def with_mix(method: Method) -> Method:
    """Return the method with CutMix from evenly drawn classes, as in `diversify`, in place of mixing of its own."""

    def ingredients(setting: Setting, parameters: Parameters) -> Ingredients:
        own = method.ingredients(setting, parameters)
        mixing = mixing_of(setting, "cutmix", number(parameters, "mix_probability"), even=True)
        made = from_plan(setting, with_mixing(_plan_of(own, setting), mixing), _same_adapt(own))
        return dataclasses.replace(own, augment=made.augment, adapt=made.adapt)

    return _with(method, "mix", "CutMix with partners drawn evenly from the classes", MIX_SPACE, ingredients)


def with_head(method: Method) -> Method:
    """Return the method with the head retrained by a plan from counts, after the method's own head step."""

    def step(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
        own = None if method.head_step is None else method.head_step(setting, parameters, trained)
        if own is not None:
            trained = dataclasses.replace(trained, head=own.head, balances=own.balances)
        new = by_counts(setting, parameters, trained)
        return dataclasses.replace(new, carry=None if own is None else own.carry)

    made = _with(method, "head", "the head retrained by a plan from counts", HEAD_SPACE, method.ingredients)
    return dataclasses.replace(made, head_step=step)


SUFFIXES: Mapping[str, Callable[[Method], Method]] = {"images": with_images, "mix": with_mix, "head": with_head}


def with_suffixes(method: Method, suffixes: Sequence[str]) -> Method:
    """Return the method with each suffix applied, from left to right.

    Raises:
        InputError: there is no such suffix.
    """
    whole = "+".join((method.name, *suffixes))
    for suffix in suffixes:
        if suffix not in SUFFIXES:
            raise unknown(f"suffix of {whole}", suffix, SUFFIXES)
        method = SUFFIXES[suffix](method)
    return method


def _plan_of(own: Ingredients, setting: Setting) -> Plan:
    """Return the plan of the slot `augment`; for the base augmentation alone, a plan that changes nothing."""
    if own.augment is setting.base:
        return drawn_plan(setting, 1.0)
    if not isinstance(own.augment, BatchAugmenter):
        law = "be the base augmentation or a BatchAugmenter, for +images and +mix"
        raise must("augment of the method", law, type(own.augment).__name__)
    return own.augment.plan


def _same_adapt(own: Ingredients) -> Any:
    """Return a factory that rebuilds the slot `adapt` for another augmenter; None if nothing adapts."""
    before = own.adapt
    if not isinstance(before, AdaptivePlan):
        return None
    kept = ("every", "step", "first", "epochs", "least_seen", "rules")
    return partial(AdaptivePlan, **{name: getattr(before, name) for name in kept})


def _with(method: Method, suffix: str, meaning: str, space: Space, ingredients: MakeIngredients) -> Method:
    return dataclasses.replace(
        method,
        name=f"{method.name}+{suffix}",
        meaning=f"{method.meaning}; {meaning}",
        space={**method.space, **space},
        ingredients=ingredients,
    )
