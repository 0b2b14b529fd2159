"""The repairs that learn from held-out rows: fitted corrections of logits, and unseen rows in the head step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor

from ..functional import counts
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead
from ..plan.plan import Plan
from .candidate import MORE_TAUS, Candidate, Make, MakePlan, even_plan, evened, made_together
from .fitted import ROUNDS, bias_fitted, slope_fitted
from .narrow import find_narrow_classes, narrow_plan, narrow_shares
from .post_hoc import log_prior_of
from .refit import refitted_options, too_large
from .retrain import HeadRecipe, retrain_with
from .unseen import SHARE

SHARES = (SHARE, 1.0)  # of a class's draws that come from its unseen rows where it has many
NARROW = "narrow drawn more + unseen"
NARROW_BY_UNSEEN = "narrow by unseen rows"
EVENED = {"draws of the plan": 0.0, "half way to even draws": 0.5}
_FROM_HELDOUT = " It is fitted on held-out images; each third of them is predicted by one fitted without that third."
_REWEIGHTED = "Kirichenko et al. 2023 (deep feature reweighting)"
_OFFSETS = (
    "moved toward the classes that fare worst, as far as their likelihood says. The option is the number of rounds."
)

_Options = Callable[[Embeddings], Mapping[str, Make]]


def heldout_candidates(
    train: Embeddings,
    unseen: Embeddings,
    *,
    plan: Plan | None,
    replan: MakePlan | None,
    recipe: HeadRecipe,
    offsets: bool,
    cosine: bool = False,
) -> list[Candidate]:
    """Return the repairs that learn from held-out rows; see `default_candidates`.

    Example:
        >>> import diversify as dv
        >>> train, heldout, _ = dv.make_embeddings()
        >>> recipe = dv.HeadRecipe(steps=50)
        >>> found = heldout_candidates(train, heldout, plan=None, replan=None, recipe=recipe, offsets=False)
        >>> [one.name for one in found][:3]
        ['fitted slope', 'fitted bias', 'temperature + bias']
    """
    prior = log_prior_of(counts.class_counts(train.labels, train.num_classes)).cpu()
    taus = MORE_TAUS if recipe.bias else (0.0,)
    fitted = partial(_fitted_on, unseen)

    def mixed(name: str, meaning: str, options: _Options, source: str = "") -> Candidate:
        found = fitted(name, meaning, options, source=source)
        return replace(found, taus=taus, needs_bias=False, balances=recipe.bias)

    found = [
        fitted(
            "fitted slope",
            "tau times the log share of training images, taken off the logits; one number, fitted by likelihood.",
            partial(_sloped, prior),
        ),
        fitted("fitted bias", "A bias per class beside the fitted slope.", partial(_biased, prior, False)),
        fitted(
            "temperature + bias",
            "A temperature and a bias per class beside the fitted slope.",
            partial(_biased, prior, True),
        ),
        mixed(
            "unseen alone", "The head trained further on even draws of held-out rows alone.", partial(_alone, recipe)
        ),
        mixed(
            "even draws + unseen",
            "Even draws, with held-out rows in every batch. The option is their share.",
            partial(_mixed, lambda _: even_plan(counts.class_counts(train.labels, train.num_classes)), recipe),
            _REWEIGHTED,
        ),
    ]
    regression = not cosine and not too_large(train)
    if regression:
        found.append(
            mixed(
                "logistic regression + unseen",
                "The head fitted anew to where its loss is least, on training and held-out rows, every class with the same weight.",
                partial(_regressed, recipe),
                _REWEIGHTED,
            )
        )
    if bool(find_narrow_classes(train, unseen).any()):
        found.append(
            mixed(
                NARROW,
                "Even draws, but narrow classes are drawn twice as often, with held-out rows in every batch. Training images of a"
                " narrow class do not show what its held-out images show.",
                partial(_narrow_drawn_more, train, recipe),
            )
        )
        if regression:
            found.append(
                mixed(
                    NARROW_BY_UNSEEN,
                    "Logistic regression, with most of the weight of narrow classes on their held-out rows.",
                    partial(_regressed_by_unseen, train, recipe),
                )
            )
    make_plan = replan if replan is not None else (lambda _: plan) if plan is not None else None
    if plan is not None and make_plan is not None:
        needs_bias = plan.prior_correction.after > 0
        one = mixed(
            "plan + unseen",
            "The head trained further by the plan, with held-out rows in every batch. The option is how classes are drawn: even"
            " draws show the held-out rows of rare classes more often.",
            partial(_planned, make_plan, recipe),
            _REWEIGHTED,
        )
        found.append(replace(one, needs_bias=needs_bias))
    if offsets:
        found.append(
            fitted(
                "class offsets", f"A bias per class, {_OFFSETS}", partial(_dialled, prior, _as_it_is, 1.0), dial=True
            )
        )
        if plan is not None and make_plan is not None:
            found.append(
                fitted(
                    "plan + class offsets",
                    f"The head trained further by the plan, then a bias per class, {_OFFSETS}",
                    partial(_planned_and_dialled, prior, make_plan, recipe),
                    dial=True,
                )
            )
    return found


def _fitted_on(
    unseen: Embeddings, name: str, meaning: str, options: _Options, *, dial: bool = False, source: str = ""
) -> Candidate:
    """Return a candidate that is fitted on the held-out rows, and anew on each two thirds of them to be judged."""
    return Candidate(
        name=name,
        meaning=f"{meaning}{_FROM_HELDOUT}",
        options=options(unseen),
        source=source,
        needs_bias=True,
        balances=True,
        remade=options,
        fits_heldout=True,
        dial=dial,
    )


def _as_it_is(train: Embeddings, head: LinearHead, seed: int) -> LinearHead:
    return head


def _sloped(prior: Tensor, rows: Embeddings) -> dict[str, Make]:
    return {"": lambda _, head, __: slope_fitted(rows, head, prior)}


def _biased(prior: Tensor, temperature: bool, rows: Embeddings) -> dict[str, Make]:
    return {"": lambda _, head, __: bias_fitted(rows, head, prior, temperature=temperature)[0]}


def _alone(recipe: HeadRecipe, rows: Embeddings) -> dict[str, Make]:
    plan = even_plan(counts.class_counts(rows.labels, rows.num_classes))
    return {"": lambda _, head, seed: retrain_with(rows, head, plan, recipe, seed=seed)}


def _mixed(make_plan: MakePlan, recipe: HeadRecipe, rows: Embeddings) -> dict[str, Make]:
    plan = make_plan(rows)

    def of(share: float) -> Make:
        return lambda train, head, seed: retrain_with(
            train, head, plan, recipe, unseen=rows, unseen_share=share, seed=seed
        )

    return {f"share {share:g}": of(share) for share in SHARES}


def _regressed(recipe: HeadRecipe, rows: Embeddings) -> dict[str, Make]:
    return refitted_options(bias=recipe.bias, unseen=rows)


def _regressed_by_unseen(train: Embeddings, recipe: HeadRecipe, rows: Embeddings) -> dict[str, Make]:
    share = narrow_shares(find_narrow_classes(train, rows))
    return refitted_options(bias=recipe.bias, unseen=rows, unseen_share=share)


def _narrow_drawn_more(train: Embeddings, recipe: HeadRecipe, rows: Embeddings) -> dict[str, Make]:
    plan = narrow_plan(train, find_narrow_classes(train, rows))
    return {"": lambda seen, head, seed: retrain_with(seen, head, plan, recipe, unseen=rows, seed=seed)}


def _planned(make_plan: MakePlan, recipe: HeadRecipe, rows: Embeddings) -> dict[str, Make]:
    plan = make_plan(rows)

    def of(share: float) -> Make:
        drawn = evened(plan, share)
        return lambda train, head, seed: retrain_with(train, head, drawn, recipe, unseen=rows, seed=seed)

    return {name: of(share) for name, share in EVENED.items()}


def _planned_and_dialled(prior: Tensor, make_plan: MakePlan, recipe: HeadRecipe, rows: Embeddings) -> dict[str, Make]:
    plan = make_plan(rows)
    return _dialled(prior, lambda train, head, seed: retrain_with(train, head, plan, recipe, seed=seed), 0.0, rows)


def _dialled(prior: Tensor, base: Make, usual: float, rows: Embeddings) -> dict[str, Make]:
    """Return one option for each number of rounds; the base head and all rounds are made once for all options."""
    return made_together(
        [f"{rounds} rounds" for rounds in ROUNDS],
        lambda train, head, seed: bias_fitted(rows, base(train, head, seed), prior, rounds=ROUNDS, usual=usual),
    )
