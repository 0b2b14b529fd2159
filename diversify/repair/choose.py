"""Compare repairs of a head on held-out images, with each repair's options chosen on other folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..errors import must
from ..functional import counts, draws
from ..functional.blocks import joined_columns
from ..functional.ceiling import stratified_folds
from ..network.embeddings import Embeddings, require_embeddings
from ..network.linear_head import LinearHead, read_head
from ..runtime.progress import Progress, Ticker
from .candidate import UNTOUCHED, Candidate, Make
from .candidates import default_candidates
from .choice import CurvePoint, HeadChoice
from .comparison import compare_candidates
from .likeliest import MOST_LOGITS, tempered_losses
from .metric import Metric, Objective, metric_of, objective_of, plain_objective
from .post_hoc import adjust_logits, log_prior_of
from .writable import left_out_in_words, require_writable, without_bias

UNSEEN = ("heldout", "none")
PLAN_FOLDS = 3  # folds of the held-out rows for a plan that is made from them
GROUPED = (
    "The held-out images have groups, and no fold splits one. Intervals count images, so they are too narrow where images of a"
    " group are alike."
)
_BLOCK = 1 << 24  # logits that are computed at a time

_Answers = tuple[Tensor, Tensor | None]  # predicted class and loss of each row, `(O, N)` int32 and float64


def choose_head(
    train: Embeddings,
    heldout: Embeddings,
    head: nn.Module | LinearHead,
    candidates: Sequence[Candidate] | None = None,
    *,
    metric: str = "balanced",
    objective: Objective = "mean",
    target_prior: Sequence[float] | Tensor | None = None,
    cost: Sequence[Sequence[float]] | Tensor | None = None,
    unseen: str | None = None,
    folds: int = 5,
    repeats: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
) -> HeadChoice:
    """Compare repairs of a head on held-out rows and recommend one.

    A *candidate* is a method, such as logit adjustment. Its *options* are the settings that it is tried with, such as tau 1.

    The head of every option is made once, from training rows alone. The held-out rows only choose and judge: they are
    cut into stratified folds, `repeats` times, and each fold judges the option that is best by `metric` on the other
    folds. A candidate with `remade` makes its options from held-out rows; it makes them anew for each third of
    the rows from the other two.

    The best candidate by `metric` is recommended, the simpler one of equals. By `balanced` and `prior`, candidates and options
    whose accuracy is within one standard error of the highest are equals, and the one that gives the true classes the
    most probability is taken, after each head's logits are scaled by one fitted number: probabilities are known
    better than recalls. With more than two million held-out logits accuracy alone decides. If the untouched head is behind the
    most accurate one by at most one standard error of their difference on the same rows, and its loss above that of the best
    by at most one, the untouched head is recommended. It is always compared, and comes first.

    The lowest recalls are known from few rows, so the highest of many is mostly luck. By `worst` and `worst third`, candidates
    and options are therefore passed over if their mean recall is more than half a standard error behind the highest. By these
    and by a number, the untouched head is kept only if it is as good by the mean recall, too.

    Args:
        train: Embeddings of the backbone's own training images.
        heldout: Embeddings of images that the backbone was not trained on; not those of the test set.
        head: The present head: a module, which is only read, or its numbers.
        candidates: The candidates, the simplest first; None takes `default_candidates` without a plan.
            `default_candidates(..., unseen=heldout, offsets=True)` has those that learn from held-out rows.
        metric: What is chosen by: `balanced`, the mean recall; `prior`, the accuracy where classes have the shares of
            `target_prior`; `macro-f1`, the mean F1 score; `worst`, the lowest recall of a class, of equals the lowest
            third, then the mean; or `cost`, minus the expected `cost`. Classes without held-out rows do not count.
        objective: `mean` leaves the choice to the metric. `worst` chooses by the lowest recall of a class, `worst third` by
            the mean of the lowest third of recalls, and a number in [0, 1] by the mean recall and the lowest one, of which it
            is the weight. These three need the metric `balanced`.
        target_prior: Share of each class where the model will be used, `(C,)`. `prior` needs it, `macro-f1` and `cost` can
            use it. Every logit adjustment then aims at it: `tau * (log train prior - log target prior)` is subtracted,
            and a candidate that `balances` gets the whole log target prior with every tau. A class with share 0 is never
            predicted by these heads. Without it, adjustments aim at equal shares.
        cost: Cost of predicting a row of class i as class j, `(C, C)`, not negative; classes weigh equally unless
            `target_prior` is given. For `cost` alone.
        unseen: `heldout` adds repairs that learn from held-out rows, `none` adds none; None is `heldout` for an objective
            other than `mean`. Leave it out if you give candidates.
        folds: Number of folds; at most the number of groups, where the held-out embeddings have groups, which no fold
            splits.
        repeats: How many times the rows are cut into folds.
        seed: Seed of the folds and of the training of heads.
        progress: Called with (heads made, heads in total).

    Returns:
        The comparison of the candidates; its `head` is the recommended head, and `in_words()` says why.

    Raises:
        InputError: Sizes differ, a held-out class is not in the head, there are too few rows for the folds, `repeats` is
            below 1, two candidates have the same name, the metric is unknown or does not fit `target_prior` and `cost` (see
            `metric_of`), the objective is unknown or not of this metric, or `unseen` is given beside candidates.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> choice = choose_head(train, heldout, head, dv.default_candidates(train, head)[:3])
        >>> [round(value, 3) for value in choice.columns["balanced_accuracy"].tolist()]
        [0.785, 0.943, 0.792]

        Where the model meets nine images of the first class in ten, a repair hardly helps:

        >>> prior = [0.9, 0.05, 0.03, 0.02]
        >>> found = choose_head(train, heldout, head, dv.default_candidates(train, head)[:2], metric="prior", target_prior=prior)
        >>> [round(value, 3) for value in found.score.tolist()], found.names[found.recommended]
        ([0.943, 0.951], 'untouched')

        By the class that fares worst:

        >>> candidates = dv.default_candidates(train, head, recipe=dv.HeadRecipe(steps=50), unseen=heldout, offsets=True)
        >>> found = choose_head(train, heldout, head, candidates[:2] + candidates[-1:], objective="worst")
        >>> [round(value, 2) for value in found.score.tolist()], found.curve[-1].option
        ([0.4, 0.91, 0.9], '16 rounds')
    """
    for name, side in (("train", train), ("heldout", heldout)):
        require_embeddings(name, side, "use dv.repair_multilabel")
    head, objective = read_head(head), plain_objective(objective)
    _require_sides(train, heldout, head)
    if not 2 <= folds <= len(heldout):
        raise must("folds", f"lie in [2, {len(heldout)}], the number of held-out rows", folds)
    if heldout.groups is not None:
        folds = min(folds, _group_count(heldout.groups))
    if repeats < 1:
        raise must("repeats", "be at least 1", repeats)
    held = counts.class_counts(heldout.labels, heldout.num_classes)
    judge = metric_of(metric, target_prior=target_prior, cost=cost, heldout_counts=held)
    dialled = objective_of(metric, objective)
    by_default = candidates is None
    if candidates is None:
        rows = heldout if takes_heldout(unseen, dialled is not None) else None
        candidates = default_candidates(train, head, unseen=rows, offsets=rows is not None and dialled is not None)
    elif unseen is not None:
        advice = "make candidates with default_candidates(..., unseen=heldout)"
        raise must("unseen", "be left out where candidates are given", repr(unseen), advice)
    judge = judge if dialled is None else dialled
    left_out: list[str] = []
    if not head.has_bias:
        candidates, left_out = without_bias(candidates)
        left_out = [*_never_made(train, head), *left_out] if by_default else left_out
    listed = _listed(candidates, train, head)
    tick = Ticker(progress, sum(len(one.options) * (1 + PLAN_FOLDS * (one.remade is not None)) for one in listed))
    tick(0)
    weighs = judge.weighs_likelihood and len(heldout) * heldout.num_classes <= MOST_LOGITS
    heads, answers = [], []
    for one in listed:
        made = _made(one, one.options, train, head, judge, seed, tick)
        if one.remade is None:
            answers.append(_answers(made, heldout, judge, weighs))
        else:
            answers.append(_cross_fitted(one, one.remade, train, heldout, head, judge, seed, tick, weighs))
        heads += made
    predicted = torch.cat([each for each, _ in answers])
    losses = torch.cat([each for _, each in answers if each is not None]) if weighs else None
    family = torch.tensor([place for place, one in enumerate(listed) for _ in one.labels])
    found = compare_candidates(
        listed, heads, predicted, losses, family, train, heldout, judge, folds=folds, repeats=repeats, seed=seed
    )
    absent = (held == 0).nonzero()[:, 0].tolist()
    notes = [*left_out_in_words(left_out), *(one.note for one in listed if one.note)]
    if absent:
        listed_absent = ", ".join(map(str, absent[:20])) + ", ..." * (len(absent) > 20)
        notes.append(
            f"Means and choice are over the {len(held) - len(absent)} classes with held-out images; without any: class {listed_absent}."
        )
    found = replace(found, notes=(*notes, *(() if heldout.groups is None else (GROUPED,))))
    if dialled is None:
        return found
    return replace(found, objective=objective, curve=_curve(found, listed, predicted, heldout))


def _never_made(train: Embeddings, head: LinearHead) -> list[str]:
    """The names of the default candidates that a head without a bias does not get."""
    with_bias = default_candidates(train, replace(head, has_bias=True))
    _, names = without_bias(with_bias)
    return names


def takes_heldout(unseen: str | None, dialled: bool) -> bool:
    """Return whether repairs may learn from held-out rows: as `unseen` says, or if there is an objective beside the mean.

    Raises:
        InputError: `unseen` is neither `heldout` nor `none`.

    Example:
        >>> takes_heldout(None, False), takes_heldout(None, True), takes_heldout("none", True)
        (False, True, False)
    """
    if unseen is None:
        return dialled
    if unseen not in UNSEEN:
        raise must("unseen", f"be one of {', '.join(UNSEEN)}", repr(unseen))
    return unseen == "heldout"


def _curve(
    choice: HeadChoice, listed: Sequence[Candidate], predicted: Tensor, heldout: Embeddings
) -> tuple[CurvePoint, ...]:
    """Return the mean and the worst recall of the untouched head, and of each option of a candidate with a dial.

    Args:
        choice: The choice.
        listed: The candidates.
        predicted: The class that each option predicts for each row, `(O, N)`.
        heldout: The held-out rows.
    """
    labels, classes = heldout.labels.cpu(), heldout.num_classes
    metrics = [Metric(), Metric(name="worst third"), Metric(name="worst")]
    points, first = [], 0
    for place, one in enumerate(listed):
        for option, name in enumerate(one.labels):
            if one.dial or place == 0:
                row = predicted[first + option][None]
                mean, third, worst = (float(each.value(row, labels, classes)) for each in metrics)
                taken = place == choice.recommended and option == choice.final_option[place]
                points.append(
                    CurvePoint(candidate=one.name, option=name, mean=mean, worst_third=third, worst=worst, chosen=taken)
                )
        first += len(one.labels)
    return tuple(points)


def _group_count(groups: Tensor) -> int:
    """The number of held-out groups; an InputError if they cannot be cut into folds."""
    number = len(groups.unique())
    if number < 2:
        raise must("held-out groups", "be at least 2, to judge on a group that did not choose", number)
    return number


def _require_sides(train: Embeddings, heldout: Embeddings, head: LinearHead) -> None:
    for name, side in (("train", train), ("heldout", heldout)):
        if (side.num_features, side.num_classes) != (head.num_features, head.num_classes):
            law = f"have the head's {head.num_features} features and {head.num_classes} classes"
            raise must(f"{name} embeddings", law, f"{side.num_features} and {side.num_classes}")


def _listed(candidates: Sequence[Candidate], train: Embeddings, head: LinearHead) -> list[Candidate]:
    """Return the candidates with the untouched head first.

    Raises:
        InputError: One is not a `Candidate` or has no option, or two have the same name.
    """
    listed = list(candidates)
    for one in listed:
        if not isinstance(one, Candidate):
            raise must("candidates", "be instances of Candidate", repr(one)[:80])
    if all(one.name != UNTOUCHED for one in listed):
        listed.insert(0, default_candidates(train, head)[0])
    listed.sort(key=lambda one: one.name != UNTOUCHED)
    for place, one in enumerate(listed):
        if one.name in [other.name for other in listed[:place]]:
            raise must("candidates", "have different names", f"{one.name!r} twice")
        if not one.labels:
            raise must(f"candidate {one.name!r}", "have an option", "none")
    return listed


def _made(
    one: Candidate,
    options: Mapping[str, Make],
    train: Embeddings,
    head: LinearHead,
    judge: Metric,
    seed: int,
    tick: Ticker,
) -> list[LinearHead]:
    """Make a head for every option and tau, adjusted for the target prior."""
    prior = log_prior_of(counts.class_counts(train.labels, train.num_classes))
    target = judge.log_target
    if target is not None:
        target = target.to(prior.device)
    heads: list[LinearHead] = []
    for make in options.values():
        made = make(train, head, seed)
        if not isinstance(made, LinearHead):
            raise must("result of a candidate", "be a LinearHead", type(made).__name__)
        require_writable(made, head, one.name)
        if target is None:
            heads += [adjust_logits(made, prior, tau) for tau in one.taus]
        elif one.balances:
            heads += [adjust_logits(made, tau * prior - target, 1.0) for tau in one.taus]
        else:
            heads += [adjust_logits(made, prior - target, tau) for tau in one.taus]
        tick(1)
    return heads


def _cross_fitted(
    one: Candidate,
    remade: Callable[[Embeddings], Mapping[str, Make]],
    train: Embeddings,
    heldout: Embeddings,
    head: LinearHead,
    judge: Metric,
    seed: int,
    tick: Ticker,
    weighs: bool,
) -> _Answers:
    """Return what the options answer for each row.

    The options that predict a fold of the rows are made from the other folds.
    """
    folds = min(PLAN_FOLDS, len(heldout))
    fold_of = stratified_folds(
        heldout.labels, folds, seed=draws.seed_for("plan folds", seed), name="plan folds", groups=heldout.groups
    )
    number, classes = len(one.labels), heldout.num_classes
    predicted = torch.zeros(number, len(heldout), dtype=torch.int32)
    logits = torch.zeros(number, len(heldout), classes) if weighs else None
    for fold in range(folds):
        judged = fold_of == fold
        options = remade(heldout.select(~judged))
        if list(options) != list(one.options):
            raise must(f"remade options of {one.name!r}", f"be {list(one.options)}", list(options))
        side, rows = heldout.select(judged), judged.cpu()
        for place, each in enumerate(_made(one, options, train, head, judge, seed, tick)):
            named, whole = _predicted(each, side, weighs)
            predicted[place, rows] = named
            if logits is not None and whole is not None:
                logits[place, rows] = whole
    if logits is None:
        return predicted, None
    labels, share = heldout.labels.cpu(), judge.class_weights(counts.class_counts(heldout.labels, classes).cpu())
    return predicted, torch.stack([tempered_losses(each, labels, share) for each in logits])


def _answers(heads: Sequence[LinearHead], heldout: Embeddings, judge: Metric, weighs: bool) -> _Answers:
    """Return the class that each head predicts for each row, and the loss if it counts, on the CPU."""
    labels, predicted, losses = heldout.labels.cpu(), [], []
    share = judge.class_weights(counts.class_counts(labels, heldout.num_classes))
    for head in heads:
        named, logits = _predicted(head, heldout, weighs)
        predicted.append(named)
        if logits is not None:
            losses.append(tempered_losses(logits, labels, share))
    return torch.stack(predicted), torch.stack(losses) if weighs else None


def _predicted(head: LinearHead, heldout: Embeddings, weighs: bool) -> tuple[Tensor, Tensor | None]:
    """Return the class that the head predicts for each row, `(N,)` int32, and the logits if they count, on the CPU."""
    blocks = heldout.features.split(max(1, _BLOCK // head.num_classes))
    on = replace(head, weight=head.weight.to(blocks[0].device), bias=head.bias.to(blocks[0].device))

    def predicted(block: Tensor) -> tuple[Tensor, ...]:
        logits = on.logits(block)
        named = logits.argmax(1).int().cpu()
        return (named, logits.cpu()) if weighs else (named,)

    found = joined_columns(map(predicted, blocks), len(heldout))
    return found[0], found[1] if weighs else None
