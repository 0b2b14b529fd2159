"""Compare repairs of a head on held-out images, with each repair's options chosen on other folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist

import torch
from torch import Tensor, nn

from ..errors import must
from ..functional import counts, draws, stats
from ..functional.ceiling import stratified_folds
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead, read_head
from ..runtime.progress import Progress, Ticker
from .candidates import UNTOUCHED, Candidate, Make, default_candidates
from .choice import HeadChoice
from .post_hoc import adjust_logits, log_prior_of

PLAN_FOLDS = 3  # folds of the held-out rows for a plan that is made from them
_Z = NormalDist().inv_cdf(0.975)
_COLUMNS = (
    *("balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high", "spread"),
    *("gain", "gain_low", "gain_high", "behind", "behind_error"),
)
_BLOCK = 1 << 24  # logits that are computed at a time


def choose_head(
    train: Embeddings,
    heldout: Embeddings,
    head: nn.Module | LinearHead,
    candidates: Sequence[Candidate] | None = None,
    *,
    folds: int = 5,
    repeats: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
) -> HeadChoice:
    """Compare candidates on held-out rows and recommend one.

    The head of every option is made once, from training rows alone. The held-out rows only choose and judge: they are
    cut into stratified folds, `repeats` times, and each fold judges the option with the highest balanced accuracy on the
    other folds. A candidate with `remade` makes its options from held-out rows; it makes them anew for each third of
    the rows from the other two.

    The candidate with the highest balanced accuracy is recommended, the simpler one of equals. If the untouched head is
    behind it by at most one standard error of their difference on the same rows, the untouched head is recommended. The
    untouched head is always compared, and comes first.

    Args:
        train: Embeddings of the backbone's own training images.
        heldout: Embeddings of images that the backbone was not trained on; not those of the test set.
        head: The present head: a module, which is only read, or its numbers.
        candidates: The candidates, the simplest first; None takes `default_candidates` without a plan.
        folds: Number of folds.
        repeats: How many times the rows are cut into folds.
        seed: Seed of the folds and of the training of heads.
        progress: Called with (heads made, heads in total).

    Raises:
        InputError: Sizes differ, a held-out class is not in the head, there are too few rows for the folds, `repeats` is
            below 1, or two candidates have the same name.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> choice = choose_head(train, heldout, head, dv.default_candidates(train, head)[:3])
        >>> [round(value, 3) for value in choice.columns["balanced_accuracy"].tolist()]
        [0.785, 0.938, 0.792]
    """
    head = read_head(head)
    _require_sides(train, heldout, head)
    if not 2 <= folds <= len(heldout):
        raise must("folds", f"lie in [2, {len(heldout)}], the number of held-out rows", folds)
    if repeats < 1:
        raise must("repeats", "be at least 1", repeats)
    listed = _listed(default_candidates(train, head) if candidates is None else candidates, train, head)
    tick = Ticker(progress, sum(len(one.options) * (1 + PLAN_FOLDS * (one.remade is not None)) for one in listed))
    tick(0)
    heads = [made for one in listed for made in _made(one.options, one.taus, train, head, seed, tick)]
    right = torch.stack([_correct(one, heldout) for one in heads])
    family = torch.tensor([place for place, one in enumerate(listed) for _ in one.labels])
    for place, one in enumerate(listed):
        if one.remade is not None:
            right[family == place] = _cross_fitted(one, one.remade, train, heldout, head, seed, tick)
    return _compared(listed, heads, right, family, train, heldout, folds=folds, repeats=repeats, seed=seed)


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
    options: Mapping[str, Make],
    taus: Sequence[float],
    train: Embeddings,
    head: LinearHead,
    seed: int,
    tick: Ticker,
) -> list[LinearHead]:
    """Make a head for every option and tau."""
    prior = log_prior_of(counts.class_counts(train.labels, train.num_classes))
    heads: list[LinearHead] = []
    for make in options.values():
        made = make(train, head, seed)
        if not isinstance(made, LinearHead):
            raise must("result of a candidate", "be a LinearHead", type(made).__name__)
        heads += [adjust_logits(made, prior, tau) for tau in taus]
        tick(1)
    return heads


def _cross_fitted(
    one: Candidate,
    remade: Callable[[Embeddings], Mapping[str, Make]],
    train: Embeddings,
    heldout: Embeddings,
    head: LinearHead,
    seed: int,
    tick: Ticker,
) -> Tensor:
    """Return which rows each option predicts correctly, `(O, N)` bool on the CPU.

    The options that predict a fold of the rows are made from the other folds.
    """
    folds = min(PLAN_FOLDS, len(heldout))
    fold_of = stratified_folds(heldout.labels, folds, seed=draws.seed_for("plan folds", seed), name="plan folds")
    right = torch.zeros(len(one.labels), len(heldout), dtype=torch.bool)
    for fold in range(folds):
        judged = fold_of == fold
        options = remade(heldout.select(~judged))
        if list(options) != list(one.options):
            raise must(f"remade options of {one.name!r}", f"be {list(one.options)}", list(options))
        side = heldout.select(judged)
        heads = _made(options, one.taus, train, head, seed, tick)
        right[:, judged.cpu()] = torch.stack([_correct(each, side) for each in heads])
    return right


def _correct(head: LinearHead, heldout: Embeddings) -> Tensor:
    """Return which rows the head predicts correctly, `(N,)` bool on the CPU."""
    blocks = heldout.features.split(max(1, _BLOCK // head.num_classes))
    on = replace(head, weight=head.weight.to(blocks[0].device), bias=head.bias.to(blocks[0].device))
    return (torch.cat([on.logits(block).argmax(1) for block in blocks]) == heldout.labels).cpu()


def _compared(
    listed: Sequence[Candidate],
    heads: Sequence[LinearHead],
    right: Tensor,
    family: Tensor,
    train: Embeddings,
    heldout: Embeddings,
    *,
    folds: int,
    repeats: int,
    seed: int,
) -> HeadChoice:
    """Return the choice, from the rows that each option predicts correctly, `(O, N)`, and its candidate, `(O,)`."""
    labels, classes = heldout.labels.cpu(), heldout.num_classes
    places = [(family == place).nonzero().flatten().tolist() for place in range(len(listed))]
    chosen, scores, overall = _cross_validated(right, places, labels, classes, folds, repeats, seed)
    whole = _balanced(right, labels, classes).tolist()
    final = [_highest(options, whole) for options in places]
    mean = scores.mean(1)
    accuracy = _balanced(mean, labels, classes)
    best = _highest(list(range(len(listed))), accuracy.tolist())
    recall = torch.stack([counts.class_mean(one, labels, classes) for one in mean])
    held = counts.class_counts(labels, classes)
    low, high = stats.wilson_interval(recall.nan_to_num(0.0) * held, held.expand_as(recall))
    hits, both = (_sums(values, labels, classes) for values in (mean, mean * mean[0]))
    change = stats.paired_difference_interval(hits[:1].expand_as(hits), hits, both, held.expand_as(hits))
    columns = _intervals_of(accuracy, recall, low, high) | _differences(mean, best, labels, classes)
    spread = torch.stack([_balanced(one, labels, classes) for one in scores])
    columns["spread"] = spread.std(1, correction=1) if repeats > 1 else torch.full_like(accuracy, torch.nan)
    total, total_error = balanced_difference(overall.mean(0), mean[0], labels, classes)
    return HeadChoice(
        names=tuple(one.name for one in listed),
        meanings=tuple(one.meaning for one in listed),
        sources=tuple(one.source for one in listed),
        options=tuple(one.labels for one in listed),
        times_chosen=tuple(tuple(chosen[options].tolist()) for options in places),
        final_option=tuple(options.index(one) for options, one in zip(places, final, strict=True)),
        columns={name: columns[name] for name in _COLUMNS},
        recall=recall,
        recall_low=low,
        recall_high=high,
        change_low=change[0],
        change_high=change[1],
        class_counts=counts.class_counts(train.labels, classes).cpu(),
        heldout_counts=held,
        best=best,
        recommended=0 if float(columns["behind"][0]) <= float(columns["behind_error"][0]) else best,
        overall={
            "gain": total,
            "gain_low": max(total - _Z * total_error, -1.0),
            "gain_high": min(total + _Z * total_error, 1.0),
        },
        folds=folds,
        repeats=repeats,
        seed=seed,
        heads=tuple(heads[one] for one in final),
    )


def _cross_validated(
    right: Tensor, places: Sequence[Sequence[int]], labels: Tensor, classes: int, folds: int, repeats: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Judge each fold by the options that are best on the other folds.

    Args:
        right: Which rows each option predicts correctly, `(O, N)`.
        places: The options of each of the F candidates.
        labels: Classes of the rows, `(N,)`.
        classes: Number of classes.
        folds: Number of folds.
        repeats: How many times the rows are cut into folds.
        seed: Seed of the folds.

    Returns:
        How often each option was chosen, `(O,)`; which rows each candidate predicts correctly, `(F, repeats, N)`; and
        which rows the best option of all candidates predicts correctly, `(repeats, N)`.
    """
    everything = list(range(len(right)))
    chosen = torch.zeros(len(right), dtype=torch.int64)
    scores = torch.zeros(len(places), repeats, len(labels), dtype=torch.float64)
    overall = torch.zeros(repeats, len(labels), dtype=torch.float64)
    for turn in range(repeats):
        fold = stratified_folds(labels, folds, seed=draws.seed_for("head choice", seed, turn), name="head choice")
        for index in range(folds):
            judged = fold == index
            elsewhere = _balanced(right[:, ~judged], labels[~judged], classes).tolist()
            for place, options in enumerate(places):
                option = _highest(options, elsewhere)
                chosen[option] += 1
                scores[place, turn, judged] = right[option, judged].double()
            overall[turn, judged] = right[_highest(everything, elsewhere), judged].double()
    return chosen, scores, overall


def _intervals_of(accuracy: Tensor, recall: Tensor, low: Tensor, high: Tensor) -> dict[str, Tensor]:
    """Return the balanced accuracy of each candidate with its interval, from the intervals of the recalls."""
    ends = [stats.mean_share_interval(*one) for one in zip(recall, low, high, strict=True)]
    return {
        "balanced_accuracy": accuracy,
        "balanced_accuracy_low": torch.tensor([one[0] for one in ends], dtype=torch.float64),
        "balanced_accuracy_high": torch.tensor([one[1] for one in ends], dtype=torch.float64),
    }


def _differences(mean: Tensor, best: int, labels: Tensor, classes: int) -> dict[str, Tensor]:
    """Return each candidate's gain over the untouched head, and its distance to the best one."""
    gains = [balanced_difference(one, mean[0], labels, classes) for one in mean]
    behinds = [balanced_difference(mean[best], one, labels, classes) for one in mean]
    behind, error = (torch.tensor([one[key] for one in behinds], dtype=torch.float64) for key in (0, 1))
    error[best] = 0.0
    gain, gain_error = (torch.tensor([one[key] for one in gains], dtype=torch.float64) for key in (0, 1))
    gain_error[0] = 0.0
    return {
        "gain": gain,
        "gain_low": (gain - _Z * gain_error).clamp(min=-1),
        "gain_high": (gain + _Z * gain_error).clamp(max=1),
        "behind": behind,
        "behind_error": error,
    }


def _highest(options: Sequence[int], values: Sequence[float]) -> int:
    """Return the first of the options with the highest value."""
    return max(options, key=lambda one: values[one])


def _balanced(right: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the mean recall over classes that have rows, `(...)` float64, of rows `(..., N)` that are right or not."""
    return (_sums(right, labels, num_classes) / counts.class_counts(labels, num_classes)).nanmean(-1)


def _sums(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Sum values `(..., N)` over the rows of each class; `(..., C)` float64."""
    sums = torch.zeros(*values.shape[:-1], num_classes, dtype=torch.float64)
    return sums.index_add_(-1, labels, values.double())


def balanced_difference(one: Tensor, other: Tensor, labels: Tensor, num_classes: int) -> tuple[float, float]:
    """Return the difference of two balanced accuracies on the same rows, and its standard error.

    The error within a class is that of a paired difference of proportions with one row added on each side, so that it
    does not vanish for a class of few rows that both predict alike.

    Args:
        one: Share of repeats in which each row is predicted correctly, `(N,)`.
        other: The same for the other classifier, `(N,)`.
        labels: Classes of the rows, `(N,)`.
        num_classes: Number of classes.

    Returns:
        `one` minus `other`, and the standard error.

    References:
        Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions".

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> one, other = torch.ones(6), torch.tensor([1.0, 1, 1, 0, 1, 0])
        >>> [round(value, 3) for value in balanced_difference(one.double(), other.double(), labels, 2)]
        [0.375, 0.2]
    """
    difference = one - other
    rows = counts.class_counts(labels, num_classes).double()
    held = rows > 0
    total, squares = (
        torch.zeros(num_classes, dtype=torch.float64).index_add_(0, labels, values)
        for values in (difference, difference.square())
    )
    more = rows + 2
    variance = ((squares + 1) / more - (total / more).square()) / more
    number = int(held.sum())
    return float((total / rows)[held].mean()), float(variance[held].sum().sqrt()) / number
