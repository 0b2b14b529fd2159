"""The method of this library, its ablations, and the controls that show what the diagnosis adds."""

from __future__ import annotations

from functools import partial

from ...network.cosine_head import SCALE
from ...plan.adaptive import AdaptivePlan
from ...plan.default_recipe import recipe
from ...plan.make import make_plan
from ...training.ingredients import Ingredients
from ..protocol import Choice, MakeIngredients, Method, Parameters, Setting, Space, number
from .heads import by_counts, planned
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
    plan = recipe(setting.class_names, setting.class_counts, augment=parameters["augment"] == "in full")
    return from_plan(setting, plan)


DIVERSIFIED = (
    Method(
        name="recipe",
        meaning="The default recipe: the class prior corrected, every class's images augmented and mixed alike, and the head retrained by"
        " a plan from counts; or, if the second trial is better on the validation set, a cosine head and no augmentation",
        source="this library",
        space={"augment": Choice(values=("in full", "none"), default="in full"), **HEAD_SPACE},
        first_trials=({"augment": "none"},),
        ingredients=_recipe,
        cosine_head=lambda parameters: 0.0 if parameters["augment"] == "in full" else SCALE,
        balances=1.0,
        head_step=by_counts,
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
