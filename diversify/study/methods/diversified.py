"""The method of this library, its ablations, and the controls that show what the diagnosis adds."""

from __future__ import annotations

import dataclasses
from functools import partial

from ...network.cosine_head import SCALE
from ...plan.adaptive import AdaptivePlan
from ...plan.default_recipe import recipe
from ...plan.make import make_plan
from ...plan.plan import Plan
from ...training.ingredients import Ingredients
from ..protocol import Choice, HeadStep, MakeIngredients, Method, Parameters, Setting, Space, Trained, number
from .heads import by_counts, diagnosed, planned
from .plans import GRADE, HEAD_SPACE, IMAGE_SPACE, MIX_SPACE, from_plan, image_plan

PERMUTATIONS = 5  # permuted diagnoses that the seeds of `plan_permuted` use in turn

_OURS: Space = {**IMAGE_SPACE, **MIX_SPACE}
_ADAPT: Space = {"adapt": Choice(values=("none", "hits"), default="none")}
_DIAGNOSED = planned(lambda _, diagnosis: make_plan(diagnosis))
_PERMUTED = planned(lambda variant, diagnosis: make_plan(diagnosis.permuted(variant)), variants=PERMUTATIONS)


def _diversified(*, images: bool = True, adaptive: bool = True) -> MakeIngredients:
    def ingredients(setting: Setting, parameters: Parameters) -> Ingredients:
        strength, mix = (number(parameters, name) if images else 0.0 for name in ("image_strength", "mix_probability"))
        plan = image_plan(setting, strength, grade=GRADE if images else 0.0, mix=mix)
        follows = adaptive and parameters.get("adapt") == "hits"
        # about twenty updates, which move a strength by at most half its range
        every = max(1, setting.epochs // 20)
        adapt = partial(AdaptivePlan, epochs=setting.epochs, every=every, step=0.025) if follows else None
        return from_plan(setting, plan, adapt)

    return ingredients


def _recipe(setting: Setting, parameters: Parameters) -> Ingredients:
    """Return the parts of the default recipe; a trial trains without augmentation, and so tells how far that overfits."""
    if setting.carried is None:
        plan = recipe(setting.class_names, setting.class_counts, augment=False)
    else:
        plan = Plan.from_dict(setting.carried["plan"]).for_counts(setting.class_counts)
    return from_plan(setting, plan)


def _recipe_step(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
    """Retrain the head by counts, half of the way, and pass on the recipe for what the validation set shows."""
    made, carry = by_counts(setting, parameters, trained), trained.carried
    if trained.heldout is not None:
        plan = recipe(setting.class_names, setting.class_counts, diagnosis=diagnosed(setting, trained, trained.heldout))
        carry = {"plan": plan.to_dict()}
    return dataclasses.replace(made, carry=carry)


DIVERSIFIED = (
    Method(
        name="recipe",
        meaning="The default recipe: the class prior corrected, on a cosine head; images augmented and mixed, every class alike, as far"
        " as the network of a trial overfits without; and the head retrained by a plan from counts",
        source="this library",
        space=HEAD_SPACE,
        ingredients=_recipe,
        cosine_head=SCALE,
        balances=1.0,
        head_step=_recipe_step,
    ),
    Method(
        name="diversify",
        meaning="Images augmented by class and mixed, the class prior corrected, and the head retrained by a plan from a"
        " diagnosis on the validation set",
        source="this library",
        space={**_OURS, **HEAD_SPACE, **_ADAPT},
        ingredients=_diversified(),
        balances=1.0,
        head_step=_DIAGNOSED,
    ),
    Method(
        name="diversify_static",
        meaning="diversify with augmentation strengths that never adapt",
        source="this library",
        space={**_OURS, **HEAD_SPACE},
        ingredients=_diversified(adaptive=False),
        balances=1.0,
        head_step=_DIAGNOSED,
    ),
    Method(
        name="diversify_images",
        meaning="diversify in image space alone",
        source="this library",
        space={**_OURS, **_ADAPT},
        ingredients=_diversified(),
        balances=1.0,
    ),
    Method(
        name="diversify_features",
        meaning="diversify in feature space alone: balanced softmax, and the head retrained by the plan",
        source="this library",
        space=HEAD_SPACE,
        ingredients=_diversified(images=False),
        balances=1.0,
        head_step=_DIAGNOSED,
    ),
    Method(
        name="plan_from_counts",
        meaning="diversify with a plan that knows only the class counts",
        source="control",
        space={**_OURS, **HEAD_SPACE, **_ADAPT},
        ingredients=_diversified(),
        balances=1.0,
        head_step=by_counts,
    ),
    Method(
        name="plan_permuted",
        meaning="diversify with a diagnosis whose classes are permuted",
        source="control",
        space={**_OURS, **HEAD_SPACE, **_ADAPT},
        ingredients=_diversified(),
        balances=1.0,
        head_step=_PERMUTED,
    ),
)
