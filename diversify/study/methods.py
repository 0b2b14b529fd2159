"""The methods that a study knows by name: `METHODS`, and any of them with `+images`, `+mix` and `+head` behind its name.

A method is a record: what it searches, what it puts into the slots of the loop, what it does to the head afterwards. The
suffixes are the controls: they give any method the image policy, the mixing and the head step that `diversify` has, without
its diagnosis, so that a difference to it is not one of augmentation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..augment.batches import BatchAugmenter
from ..augment.eos import balanced_by_eos
from ..diagnosis.measure import diagnose, usual_top_k
from ..diagnosis.result import Diagnosis
from ..errors import must, unknown
from ..network.linear_head import LinearHead
from ..plan.adaptive import RULES, AdaptivePlan, AdaptiveRule
from ..plan.make import make_plan
from ..plan.plan import Plan
from ..plan.policies import ClassPlan, FeaturePolicy, ImagePolicy, Mixing, PriorCorrection, Schedule
from ..plan.strengths import STRENGTHS, Strengths
from ..repair.post_hoc import adjust_logits, log_prior_of, normalize_tau
from ..repair.retrain import retrain_head
from ..training.ingredients import Criterion, Ingredients
from ..training.losses import (
    LDAM,
    Always,
    Asymmetric,
    BalancedSoftmax,
    Deferred,
    Focal,
    VectorScaling,
    Weighted,
    class_weights,
)
from .protocol import Choice, HeadStep, Method, Parameters, Range, Setting, Space, TakeStep, Trained

IMAGES, IMAGE_PROBABILITY = STRENGTHS.image_operations, STRENGTHS.image_probability
# how much more than usual the rarest class's images are varied, and the largest class's less
GRADE = (STRENGTHS.image_most - STRENGTHS.image_least) / 2
LDAM_SCALE = 30.0
DEFERRED_FROM = 0.8  # of the epochs: where the classic recipe lowers its rate first
CMO_UNMIXED = 3  # epochs at either end in which CMO mixes nothing
PERMUTATIONS = 5  # of the diagnosis, through which the seeds of `plan_permuted` go in turn

IMAGE_SPACE: Space = {"image_strength": Range(low=0.2, high=1.0, default=0.6)}
MIX_SPACE: Space = {"mix_probability": Range(low=0.0, high=1.0, default=0.5)}
HEAD_SPACE: Space = {"head_share": Range(low=0.0, high=1.0, default=0.5)}
BETA: Space = {"beta": Choice(values=(0.9, 0.99, 0.999, 0.9999), default=0.9999)}

Make = Callable[[Setting, Parameters], Ingredients]


def number(parameters: Parameters, name: str) -> float:
    """A parameter that is a number."""
    return float(parameters[name])


# Losses


def _with_loss(make: Callable[[Setting, Parameters], Criterion]) -> Make:
    """Plain training with another loss."""

    def ingredients(setting: Setting, parameters: Parameters) -> Ingredients:
        return Ingredients(augment=setting.base, criterion=Always(make(setting, parameters)))

    return ingredients


def _deferred(
    first: Callable[[Setting, Parameters], Criterion], then: Callable[[Setting, Parameters, Tensor], Criterion]
) -> Make:
    """Another loss, with effective-number weights, in the last fifth of the epochs: deferred reweighting."""

    def ingredients(setting: Setting, parameters: Parameters) -> Ingredients:
        weight = class_weights(setting.class_counts, "effective_number", beta=number(parameters, "beta"))
        start = round(DEFERRED_FROM * setting.epochs)
        criterion = Deferred(first(setting, parameters), then(setting, parameters, weight), start_epoch=start)
        return Ingredients(augment=setting.base, criterion=criterion)

    return ingredients


def _cross_entropy(setting: Setting, parameters: Parameters) -> Criterion:
    return torch.nn.functional.cross_entropy


def _weighted(setting: Setting, parameters: Parameters, weight: Tensor) -> Criterion:
    return Focal(gamma=0.0, weight=weight)


def _by_rule(rule: str) -> Make:
    return _with_loss(lambda setting, _: Weighted(setting.class_counts, rule=rule))


def _effective(setting: Setting, parameters: Parameters) -> Criterion:
    return Weighted(setting.class_counts, rule="effective_number", beta=number(parameters, "beta"))


def _class_balanced_focal(setting: Setting, parameters: Parameters) -> Criterion:
    weight = class_weights(setting.class_counts, "effective_number", beta=number(parameters, "beta"))
    return Focal(gamma=number(parameters, "gamma"), weight=weight)


def _ldam(setting: Setting, parameters: Parameters, weight: Tensor | None = None) -> Criterion:
    margin = LDAM_SCALE * number(parameters, "max_margin")  # the head has multiplied by the scale already
    return LDAM(setting.class_counts, max_margin=margin, scale=1.0, weight=weight)


def _balanced_softmax(setting: Setting, parameters: Parameters) -> Criterion:
    return BalancedSoftmax(setting.class_counts)


def _vector_scaling(setting: Setting, parameters: Parameters) -> Criterion:
    return VectorScaling(setting.class_counts, gamma=number(parameters, "gamma"), tau=number(parameters, "tau"))


def _asymmetric(setting: Setting, parameters: Parameters) -> Criterion:
    return Asymmetric(
        gamma_positive=number(parameters, "gamma_positive"),
        gamma_negative=number(parameters, "gamma_negative"),
        smoothing=0.1,
    )


# Which images, and how varied


def drawn_plan(setting: Setting, exponent: float) -> Plan:
    """Every class drawn in proportion to its images to the power of `exponent`, and nothing else."""
    weights = setting.class_counts.double() ** exponent
    shares = (weights / weights.sum()).tolist()
    listed = zip(setting.class_names, setting.class_counts.tolist(), shares, strict=True)
    return Plan(classes=tuple(ClassPlan(name=name, count=count, draws=draws) for name, count, draws in listed))


def _sampled(exponent: float) -> Make:
    return lambda setting, _: from_plan(setting, drawn_plan(setting, exponent))


def from_plan(setting: Setting, plan: Plan, adapt: Any = None) -> Ingredients:
    """What a plan brings to the loop; partners of what is mixed are drawn from all training images."""
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


def _mixing(setting: Setting, method: Any, probability: float, *, even: bool) -> tuple[Mixing, ...]:
    """One for every class: partners come evenly from the classes, or as often as their images do."""
    weights = [1.0 if even else float(count) for count in setting.class_counts.tolist()]
    return tuple(Mixing(method=method, probability=probability, partner=weight) for weight in weights)


def _mixed_plan(plan: Plan, mixing: tuple[Mixing, ...]) -> Plan:
    pairs = zip(plan.classes, mixing, strict=True)
    return plan.model_copy(update={"classes": tuple(one.model_copy(update={"mixing": mix}) for one, mix in pairs)})


def _mixed_and_deferred(method: str) -> Make:
    """mixup or Remix of every image, with deferred reweighting (Chou et al. 2020)."""
    deferred = _deferred(_cross_entropy, _weighted)

    def ingredients(setting: Setting, parameters: Parameters) -> Ingredients:
        plan = _mixed_plan(drawn_plan(setting, 1.0), _mixing(setting, method, 1.0, even=False))
        augment = from_plan(setting, plan).augment
        return dataclasses.replace(deferred(setting, parameters), augment=augment)

    return ingredients


def _foreground(setting: Setting, parameters: Parameters) -> Ingredients:
    """CutMix whose pasted boxes come evenly from the classes, with balanced softmax; not in the first and last epochs."""
    mixing = _mixing(setting, "cutmix", number(parameters, "mix_probability"), even=True)
    plan = _mixed_plan(drawn_plan(setting, 1.0), mixing)
    unmixed = min(CMO_UNMIXED, (setting.epochs - 1) // 2) / setting.epochs
    schedule = Schedule(start=unmixed, stop=1 - unmixed)
    return _balanced(setting, from_plan(setting, plan.model_copy(update={"schedule": schedule})))


def _balanced(setting: Setting, ingredients: Ingredients) -> Ingredients:
    return dataclasses.replace(ingredients, criterion=Always(BalancedSoftmax(setting.class_counts)))


def _levels(rules: tuple[str, ...]) -> Make:
    """Strengths of image policies that begin at 0 and follow each class's training hits, with balanced softmax."""
    chosen: tuple[AdaptiveRule, ...] = tuple(rule for rule in RULES if rule.name in rules)

    def ingredients(setting: Setting, parameters: Parameters) -> Ingredients:
        policy = ImagePolicy(operations=IMAGES, strength=0.0, probability=number(parameters, "image_probability"))
        plan = drawn_plan(setting, 1.0)
        classes = tuple(one.model_copy(update={"image": policy}) for one in plan.classes)
        adapt = partial(AdaptivePlan, epochs=setting.epochs, rules=chosen)
        made = from_plan(setting, plan.model_copy(update={"classes": classes, "largest_difference": 1.0}), adapt)
        return _balanced(setting, made)

    return ingredients


# Steps of the head


def _after_training(make: Callable[[Setting, Parameters, Trained], LinearHead]) -> TakeStep:
    return lambda setting, parameters, trained: HeadStep(head=make(setting, parameters, trained))


def _adjusted(setting: Setting, parameters: Parameters, trained: Trained) -> LinearHead:
    return adjust_logits(trained.head, log_prior_of(setting.class_counts), number(parameters, "tau"))


def _normalized(setting: Setting, parameters: Parameters, trained: Trained) -> LinearHead:
    return normalize_tau(trained.head, number(parameters, "tau"))


def _begun_anew(setting: Setting, parameters: Parameters, trained: Trained) -> LinearHead:
    """A head that has forgotten its training, trained on even draws."""
    empty = dataclasses.replace(
        trained.head, weight=torch.zeros_like(trained.head.weight), bias=torch.zeros_like(trained.head.bias)
    )
    return retrain_head(trained.train, empty, drawn_plan(setting, 0.0), seed=setting.seed)


def _evenly(setting: Setting, parameters: Parameters, trained: Trained) -> LinearHead:
    """Even draws of the rows that there are."""
    return retrain_head(trained.train, trained.head, drawn_plan(setting, 0.0), seed=setting.seed)


def _interpolated(setting: Setting, parameters: Parameters, trained: Trained) -> LinearHead:
    """Even draws, as many of a class's between two neighbours (SMOTE) as balance would need new rows."""
    most, neighbors = int(setting.class_counts.max()), int(number(parameters, "neighbors"))
    plan = drawn_plan(setting, 0.0)
    classes = []
    for one, count in zip(plan.classes, setting.class_counts.tolist(), strict=True):
        made = FeaturePolicy(method="smote", strength=1.0, share=1 - count / most, neighbors=neighbors)
        classes.append(one.model_copy(update={"features": (made,) if made.share > 0 else ()}))
    plan = plan.model_copy(update={"classes": tuple(classes)})
    return retrain_head(trained.train, trained.head, plan, seed=setting.seed)


def _toward_enemies(setting: Setting, parameters: Parameters, trained: Trained) -> LinearHead:
    """Even draws of classes that EOS has filled up until all have as many rows."""
    bank = balanced_by_eos(trained.train, trained.head, k=int(number(parameters, "neighbors")), seed=setting.seed)
    return retrain_head(bank, trained.head, drawn_plan(setting, 0.0), seed=setting.seed)


def between(old: LinearHead, new: LinearHead, share: float) -> LinearHead:
    """The head `share` of the way from one to the other: 0 is the old one, 1 the new."""
    return dataclasses.replace(
        old,
        weight=(1 - share) * old.weight + share * new.weight,
        bias=(1 - share) * old.bias + share * new.bias,
    )


def _planned(make: Callable[[int, Diagnosis], Plan], kinds: int = 1) -> TakeStep:
    """The head retrained by a plan, part of the way. A trial makes the plan on val; the final run is given it.

    With several kinds of plans, `make(0, ...)` and so on, a seed has its own, again from the first where seeds are more.
    """

    def step(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
        kind = setting.seed % kinds
        if trained.carried is not None:
            plan = Plan.from_dict(trained.carried["plans"][kind] if kinds > 1 else trained.carried["plan"])
            carry = trained.carried
            before = torch.tensor([one.count for one in plan.classes])
            if not torch.equal(before.argsort(stable=True), setting.class_counts.argsort(stable=True)):
                law = "have the classes in the order of size in which its plan was made"
                raise must("a final run", law, "another tail order", "leave the protocol one tail order")
        elif trained.heldout is not None:
            names = setting.class_names
            found = diagnose(
                trained.train,
                trained.heldout,
                head=trained.head,
                class_names=names,
                top_k=usual_top_k(trained.head.num_features),
                seed=setting.seed,
            )
            plans = [make(one, found) for one in range(kinds)]
            plan = plans[kind]
            carry = {"plans": [one.to_dict() for one in plans]} if kinds > 1 else {"plan": plan.to_dict()}
        else:
            plan = _counted(setting)
            carry = {"plan": plan.to_dict()}
        new = retrain_head(trained.train, trained.head, plan.for_counts(setting.class_counts), seed=setting.seed)
        head = between(trained.head, new, number(parameters, "head_share"))
        return HeadStep(head=head, carry=carry)

    return step


def _counted(setting: Setting) -> Plan:
    return Plan.from_counts(setting.class_names, setting.class_counts)


_DIAGNOSED = _planned(lambda _, diagnosis: make_plan(diagnosis))
_PERMUTED = _planned(lambda kind, diagnosis: make_plan(diagnosis.permuted(kind)), kinds=PERMUTATIONS)


def _by_counts(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
    """The head retrained by the plan that knows only how many images each class has, part of the way."""
    new = retrain_head(trained.train, trained.head, _counted(setting), seed=setting.seed)
    return HeadStep(head=between(trained.head, new, number(parameters, "head_share")))


# Diversifying, and its controls


def image_plan(setting: Setting, strength: float, *, grade: float = GRADE, mix: float = 0.0) -> Plan:
    """Images varied about `strength`, the rarer the class the more; partners from the classes evenly; the prior taken out."""
    strengths = Strengths(
        image_operations=IMAGES,
        image_least=max(0.0, strength - grade),
        image_most=min(1.0, strength + grade),
        image_probability=IMAGE_PROBABILITY,
        mixing=Mixing(),
        prior_correction=PriorCorrection(training=1.0),
    )
    plan = Plan.from_counts(setting.class_names, setting.class_counts, strengths=strengths)
    return _mixed_plan(plan, _mixing(setting, "cutmix", mix, even=True)) if mix > 0 else plan


def _diversified(*, images: bool = True, adaptive: bool = True) -> Make:
    def ingredients(setting: Setting, parameters: Parameters) -> Ingredients:
        strength, mix = (number(parameters, name) if images else 0.0 for name in ("image_strength", "mix_probability"))
        plan = image_plan(setting, strength, grade=GRADE if images else 0.0, mix=mix)
        follows = adaptive and parameters.get("adapt") == "hits"
        # twenty looks, and half the range at most from where the strengths began
        every = max(1, setting.epochs // 20)
        adapt = partial(AdaptivePlan, epochs=setting.epochs, every=every, step=0.025) if follows else None
        return from_plan(setting, plan, adapt)

    return ingredients


def with_images(method: Method) -> Method:
    """The method with images varied as `diversify` does, every class alike, in place of policies of its own."""

    def ingredients(setting: Setting, parameters: Parameters) -> Ingredients:
        own = method.ingredients(setting, parameters)
        plan = _plan_of(own, setting)
        strength = number(parameters, "image_strength")
        policy = ImagePolicy(operations=IMAGES, strength=strength, probability=IMAGE_PROBABILITY)
        classes = tuple(one.model_copy(update={"image": policy}) for one in plan.classes)
        made = from_plan(setting, plan.model_copy(update={"classes": classes}))
        return dataclasses.replace(own, augment=made.augment, adapt=None)

    return _with(method, "images", "images varied, every class alike", IMAGE_SPACE, ingredients)


def with_mix(method: Method) -> Method:
    """The method with CutMix from evenly drawn classes, as `diversify` has, in place of mixing of its own."""

    def ingredients(setting: Setting, parameters: Parameters) -> Ingredients:
        own = method.ingredients(setting, parameters)
        mixing = _mixing(setting, "cutmix", number(parameters, "mix_probability"), even=True)
        made = from_plan(setting, _mixed_plan(_plan_of(own, setting), mixing), _begun_again(own))
        return dataclasses.replace(own, augment=made.augment, adapt=made.adapt)

    return _with(method, "mix", "CutMix with partners drawn evenly from the classes", MIX_SPACE, ingredients)


def with_head(method: Method) -> Method:
    """The method with the head retrained by the plan from counts, after whatever it does to the head itself."""

    def step(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
        own = None if method.head_step is None else method.head_step(setting, parameters, trained)
        head = trained.head if own is None else own.head
        found = _by_counts(setting, parameters, dataclasses.replace(trained, head=head))
        return HeadStep(head=found.head, carry=None if own is None else own.carry)

    made = _with(method, "head", "the head retrained by a plan from counts", HEAD_SPACE, method.ingredients)
    return dataclasses.replace(made, head_step=step)


SUFFIXES: Mapping[str, Callable[[Method], Method]] = {"images": with_images, "mix": with_mix, "head": with_head}


def _plan_of(own: Ingredients, setting: Setting) -> Plan:
    """The plan that the slot `augment` works by; where it only has the base augmentation, one that changes nothing."""
    if own.augment is setting.base:
        return drawn_plan(setting, 1.0)
    if not isinstance(own.augment, BatchAugmenter):
        law = "be the base augmentation or a BatchAugmenter, for +images and +mix"
        raise must("augment of the method", law, type(own.augment).__name__)
    return own.augment.plan


def _begun_again(own: Ingredients) -> Any:
    """What makes the slot `adapt` anew, so that it follows another augmenter; None where nothing adapts."""
    before = own.adapt
    if not isinstance(before, AdaptivePlan):
        return None
    kept = ("every", "step", "first", "epochs", "least_seen", "rules")
    return partial(AdaptivePlan, **{name: getattr(before, name) for name in kept})


def _with(method: Method, suffix: str, meaning: str, space: Space, ingredients: Make) -> Method:
    return dataclasses.replace(
        method,
        name=f"{method.name}+{suffix}",
        meaning=f"{method.meaning}; {meaning}",
        space={**method.space, **space},
        ingredients=ingredients,
    )


def _method(name: str, meaning: str, source: str, **slots: Any) -> Method:
    return Method(name=name, meaning=meaning, source=source, **slots)


_OURS: Space = {**IMAGE_SPACE, **MIX_SPACE}
_ADAPT: Space = {"adapt": Choice(values=("none", "hits"), default="none")}
_NEIGHBORS: Space = {"neighbors": Choice(values=(5, 10, 50), default=10)}
_LDAM_SPACE: Space = {"max_margin": Range(low=0.2, high=0.8, default=0.5)}
_TAU: Space = {"tau": Range(low=0.25, high=2.5, default=1.0)}
_LISTED = (
    _method("ce", "Cross entropy", "plain training"),
    _method(
        "inverse_frequency",
        "Cross entropy weighted by 1 / n",
        "Huang et al. 2016",
        ingredients=_by_rule("inverse_frequency"),
    ),
    _method(
        "square_root",
        "Cross entropy weighted by 1 / sqrt(n)",
        "Mahajan et al. 2018",
        ingredients=_by_rule("square_root"),
    ),
    _method(
        "effective_number",
        "Cross entropy weighted by the effective number of examples",
        "Cui et al. 2019",
        space=BETA,
        ingredients=_with_loss(_effective),
    ),
    _method(
        "focal",
        "Focal loss",
        "Lin et al. 2017",
        space={"gamma": Range(low=0.25, high=3.0, default=2.0)},
        ingredients=_with_loss(lambda _, parameters: Focal(gamma=number(parameters, "gamma"))),
    ),
    _method(
        "cb_focal",
        "Focal loss weighted by the effective number of examples",
        "Cui et al. 2019",
        space={"gamma": Range(low=0.25, high=3.0, default=1.0), **BETA},
        ingredients=_with_loss(_class_balanced_focal),
    ),
    _method(
        "ldam",
        "Label-distribution-aware margins on a cosine head",
        "Cao et al. 2019",
        space=_LDAM_SPACE,
        ingredients=_with_loss(_ldam),
        cosine_head=LDAM_SCALE,
    ),
    _method(
        "ldam_drw",
        "The same, reweighted in the last fifth of the epochs",
        "Cao et al. 2019",
        space={**_LDAM_SPACE, **BETA},
        ingredients=_deferred(_ldam, _ldam),
        cosine_head=LDAM_SCALE,
    ),
    _method(
        "ce_drw",
        "Cross entropy, reweighted in the last fifth of the epochs",
        "Cao et al. 2019",
        space=BETA,
        ingredients=_deferred(_cross_entropy, _weighted),
    ),
    _method(
        "balanced_softmax",
        "Cross entropy with the class prior in the logits",
        "Ren et al. 2020",
        ingredients=_with_loss(_balanced_softmax),
    ),
    _method(
        "logit_adjustment",
        "Cross entropy; tau times the log prior off the logits afterwards",
        "Menon et al. 2021",
        space=_TAU,
        head_step=_after_training(_adjusted),
    ),
    _method(
        "vs",
        "Vector-scaling loss: logits scaled and shifted by class",
        "Kini et al. 2021",
        space={"gamma": Range(low=0.0, high=0.4, default=0.15), "tau": Range(low=0.5, high=2.0, default=1.25)},
        ingredients=_with_loss(_vector_scaling),
    ),
    _method(
        "asymmetric",
        "Asymmetric loss, one label an image",
        "Ridnik et al. 2021",
        space={
            "gamma_positive": Range(low=0.0, high=2.0, default=0.0),
            "gamma_negative": Range(low=0.0, high=6.0, default=4.0),
        },
        ingredients=_with_loss(_asymmetric),
    ),
    _method(
        "class_balanced_sampling", "Every class drawn equally often", "Kang et al. 2020", ingredients=_sampled(0.0)
    ),
    _method(
        "square_root_sampling", "Classes drawn by the root of their size", "Kang et al. 2020", ingredients=_sampled(0.5)
    ),
    _method(
        "crt",
        "Cross entropy; then a head begun anew on evenly drawn classes",
        "Kang et al. 2020",
        head_step=_after_training(_begun_anew),
    ),
    _method(
        "tau_norm",
        "Cross entropy; then weights of the head divided by their norm to the power of tau",
        "Kang et al. 2020",
        space=_TAU,
        head_step=_after_training(_normalized),
    ),
    _method(
        "random_oversampling",
        "Cross entropy; then the head trained further on features drawn again and again",
        "Dablain et al. 2022, as its control",
        head_step=_after_training(_evenly),
    ),
    _method(
        "smote",
        "Cross entropy; then the head on features between two neighbours of a class",
        "Chawla et al. 2002",
        space={"neighbors": Choice(values=(5, 10, 50), default=5)},
        head_step=_after_training(_interpolated),
    ),
    _method(
        "eos",
        "Cross entropy; then the head on features toward nearest enemies",
        "Dablain et al. 2022",
        space=_NEIGHBORS,
        head_step=_after_training(_toward_enemies),
    ),
    _method(
        "mixup_drw",
        "mixup of every image; reweighted in the last fifth of the epochs",
        "Zhang et al. 2018, Cao et al. 2019",
        space=BETA,
        ingredients=_mixed_and_deferred("mixup"),
    ),
    _method(
        "remix_drw",
        "Remix of every image; reweighted in the last fifth of the epochs",
        "Chou et al. 2020",
        space=BETA,
        ingredients=_mixed_and_deferred("remix"),
    ),
    _method(
        "cmo",
        "CutMix that pastes evenly drawn classes, with balanced softmax",
        "Park et al. 2022",
        space=MIX_SPACE,
        ingredients=_foreground,
    ),
    _method(
        "cuda",
        "Image strengths that follow training hits, in the style of CUDA, with balanced softmax",
        "Ahn et al. 2023",
        space={"image_probability": Range(low=0.2, high=0.9, default=0.5)},
        ingredients=_levels(("too few hits", "enough hits")),
    ),
    _method(
        "doda",
        "Image strengths that follow the change of training hits, in the style of DODA, with balanced softmax",
        "Wang et al. 2024",
        space={"image_probability": Range(low=0.2, high=0.9, default=0.5)},
        ingredients=_levels(("hits fell", "enough hits")),
    ),
    _method(
        "diversify",
        "Images varied by class and mixed, the prior taken out, and the head retrained by a plan from a diagnosis on val",
        "this library",
        space={**_OURS, **HEAD_SPACE, **_ADAPT},
        ingredients=_diversified(),
        head_step=_DIAGNOSED,
    ),
    _method(
        "diversify_static",
        "diversify whose image strengths do not follow training hits",
        "this library",
        space={**_OURS, **HEAD_SPACE},
        ingredients=_diversified(adaptive=False),
        head_step=_DIAGNOSED,
    ),
    _method(
        "diversify_images",
        "diversify in image space alone",
        "this library",
        space={**_OURS, **_ADAPT},
        ingredients=_diversified(),
    ),
    _method(
        "diversify_features",
        "diversify in feature space alone: balanced softmax, and the head retrained by the plan",
        "this library",
        space=HEAD_SPACE,
        ingredients=_diversified(images=False),
        head_step=_DIAGNOSED,
    ),
    _method(
        "plan_from_counts",
        "diversify whose head step knows only how many images each class has",
        "control",
        space={**_OURS, **HEAD_SPACE, **_ADAPT},
        ingredients=_diversified(),
        head_step=_by_counts,
    ),
    _method(
        "plan_permuted",
        "diversify whose diagnosis belongs to other classes",
        "control",
        space={**_OURS, **HEAD_SPACE, **_ADAPT},
        ingredients=_diversified(),
        head_step=_PERMUTED,
    ),
)
METHODS: Mapping[str, Method] = {method.name: method for method in _LISTED}


def method_named(name: str) -> Method:
    """The method of this name, with its suffixes.

    Raises:
        InputError: there is none of this name, or no such suffix.
    """
    first, *suffixes = name.split("+")
    if first not in METHODS:
        raise unknown("method", first, METHODS)
    return with_suffixes(METHODS[first], suffixes)


def with_suffixes(method: Method, suffixes: Sequence[str]) -> Method:
    """The method with what each suffix adds, from left to right.

    Raises:
        InputError: there is no such suffix.
    """
    whole = "+".join((method.name, *suffixes))
    for suffix in suffixes:
        if suffix not in SUFFIXES:
            raise unknown(f"suffix of {whole}", suffix, SUFFIXES)
        method = SUFFIXES[suffix](method)
    return method
