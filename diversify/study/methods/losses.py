"""Methods that change the loss: class weights, focusing, margins, and the class prior in the logits."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from ...network.cosine_head import SCALE
from ...repair.post_hoc import adjust_logits, log_prior_of
from ...training.ingredients import Criterion, Ingredients
from ...training.losses import (
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
from ..protocol import Choice, HeadStep, MakeIngredients, Method, Parameters, Range, Setting, Space, Trained, number

DEFERRED_FROM = 0.8  # share of the epochs after which the published recipe reweights and lowers its learning rate

BETA: Space = {"beta": Choice(values=(0.9, 0.99, 0.999, 0.9999), default=0.9999)}
TAU: Space = {"tau": Range(low=0.25, high=2.5, default=1.0)}
_MARGIN: Space = {"max_margin": Range(low=0.2, high=0.8, default=0.5)}


def with_loss(make: Callable[[Setting, Parameters], Criterion]) -> MakeIngredients:
    """Return plain training with another loss."""

    def ingredients(setting: Setting, parameters: Parameters) -> Ingredients:
        return Ingredients(augment=setting.base, criterion=Always(make(setting, parameters)))

    return ingredients


def deferred(
    first: Callable[[Setting, Parameters], Criterion], then: Callable[[Setting, Parameters, Tensor], Criterion]
) -> MakeIngredients:
    """Return plain training with deferred reweighting: `then`, with effective-number weights, in the last fifth of the epochs."""

    def ingredients(setting: Setting, parameters: Parameters) -> Ingredients:
        weight = class_weights(setting.class_counts, "effective_number", beta=number(parameters, "beta"))
        start = round(DEFERRED_FROM * setting.epochs)
        criterion = Deferred(first(setting, parameters), then(setting, parameters, weight), start_epoch=start)
        return Ingredients(augment=setting.base, criterion=criterion)

    return ingredients


def cross_entropy(setting: Setting, parameters: Parameters) -> Criterion:
    """Return cross entropy."""
    return functional.cross_entropy


def weighted(setting: Setting, parameters: Parameters, weight: Tensor) -> Criterion:
    """Return cross entropy with class weights `(C,)`."""
    return Focal(gamma=0.0, weight=weight)


def _by_rule(rule: str) -> MakeIngredients:
    return with_loss(lambda setting, _: Weighted(setting.class_counts, rule=rule))


def _effective(setting: Setting, parameters: Parameters) -> Criterion:
    return Weighted(setting.class_counts, rule="effective_number", beta=number(parameters, "beta"))


def _class_balanced_focal(setting: Setting, parameters: Parameters) -> Criterion:
    weight = class_weights(setting.class_counts, "effective_number", beta=number(parameters, "beta"))
    return Focal(gamma=number(parameters, "gamma"), weight=weight)


def _ldam(setting: Setting, parameters: Parameters, weight: Tensor | None = None) -> Criterion:
    margin = SCALE * number(parameters, "max_margin")  # the cosine head has already multiplied by the scale
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


def balance_of_weights(setting: Setting, parameters: Parameters) -> float:
    """Return how far effective-number weights balance the classes: 1 if they fall like 1 / n, 0 if they are equal."""
    weight = class_weights(setting.class_counts, "effective_number", beta=number(parameters, "beta")).double().log()
    sizes = setting.class_counts.double().log()
    sizes, weight = sizes - sizes.mean(), weight - weight.mean()
    spread = float(sizes.square().sum())
    return min(1.0, max(0.0, -float((sizes * weight).sum()) / spread)) if spread > 0 else 0.0


def _adjusted(setting: Setting, parameters: Parameters, trained: Trained) -> HeadStep:
    """Subtract `tau` times the log prior from the logits."""
    tau = number(parameters, "tau")
    return HeadStep(head=adjust_logits(trained.head, log_prior_of(setting.class_counts), tau), balances=tau)


LOSSES = (
    Method(name="ce", meaning="Cross entropy", source="plain training"),
    Method(
        name="inverse_frequency",
        meaning="Cross entropy weighted by 1 / n",
        source="Huang et al. 2016",
        ingredients=_by_rule("inverse_frequency"),
        balances=1.0,
    ),
    Method(
        name="square_root",
        meaning="Cross entropy weighted by 1 / sqrt(n)",
        source="Mahajan et al. 2018",
        ingredients=_by_rule("square_root"),
        balances=0.5,
    ),
    Method(
        name="effective_number",
        meaning="Cross entropy weighted by the effective number of examples",
        source="Cui et al. 2019",
        space=BETA,
        ingredients=with_loss(_effective),
        balances=balance_of_weights,
    ),
    Method(
        name="focal",
        meaning="Focal loss",
        source="Lin et al. 2017",
        space={"gamma": Range(low=0.25, high=3.0, default=2.0)},
        ingredients=with_loss(lambda _, parameters: Focal(gamma=number(parameters, "gamma"))),
    ),
    Method(
        name="cb_focal",
        meaning="Focal loss weighted by the effective number of examples",
        source="Cui et al. 2019",
        space={"gamma": Range(low=0.25, high=3.0, default=1.0), **BETA},
        ingredients=with_loss(_class_balanced_focal),
        balances=balance_of_weights,
    ),
    Method(
        name="ldam",
        meaning="Label-distribution-aware margins on a cosine head",
        source="Cao et al. 2019",
        space=_MARGIN,
        ingredients=with_loss(_ldam),
        cosine_head=SCALE,
    ),
    Method(
        name="ldam_drw",
        meaning="Label-distribution-aware margins on a cosine head, reweighted in the last fifth of the epochs",
        source="Cao et al. 2019",
        space={**_MARGIN, **BETA},
        ingredients=deferred(_ldam, _ldam),
        cosine_head=SCALE,
        balances=balance_of_weights,
    ),
    Method(
        name="ce_drw",
        meaning="Cross entropy, reweighted in the last fifth of the epochs",
        source="Cao et al. 2019",
        space=BETA,
        ingredients=deferred(cross_entropy, weighted),
        balances=balance_of_weights,
    ),
    Method(
        name="balanced_softmax",
        meaning="Cross entropy with the log prior added to the logits",
        source="Ren et al. 2020",
        ingredients=with_loss(_balanced_softmax),
        balances=1.0,
    ),
    Method(
        name="logit_adjustment",
        meaning="Cross entropy; then tau times the log prior is subtracted from the logits",
        source="Menon et al. 2021",
        space=TAU,
        head_step=_adjusted,
    ),
    Method(
        name="vs",
        meaning="Vector-scaling loss: logits scaled and shifted by class",
        source="Kini et al. 2021",
        space={"gamma": Range(low=0.0, high=0.4, default=0.15), "tau": Range(low=0.5, high=2.0, default=1.25)},
        ingredients=with_loss(_vector_scaling),
        balances=lambda _, parameters: number(parameters, "tau"),
    ),
    Method(
        name="asymmetric",
        meaning="Asymmetric loss with one label per image",
        source="Ridnik et al. 2021",
        space={
            "gamma_positive": Range(low=0.0, high=2.0, default=0.0),
            "gamma_negative": Range(low=0.0, high=6.0, default=4.0),
        },
        ingredients=with_loss(_asymmetric),
    ),
)
