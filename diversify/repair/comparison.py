"""Compare candidates by what their heads predict on held-out rows: cross-validation, intervals, and which one wins."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import NormalDist

import torch
from torch import Tensor

from ..functional import counts, draws, stats
from ..functional.ceiling import stratified_folds
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead
from .candidate import Candidate
from .choice import NEAR, PASSES_OVER, HeadChoice
from .forecast import head_forecast, hit_sums
from .likeliest import as_likely, likeliest
from .metric import Metric, class_sums

_Z = NormalDist().inv_cdf(0.975)
_TOGETHER = 1 << 20  # predictions that are counted at a time
_COLUMNS = (
    *("balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high", "spread"),
    *("gain", "gain_low", "gain_high", "behind", "behind_error"),
)


def compare_candidates(
    listed: Sequence[Candidate],
    heads: Sequence[LinearHead],
    predicted: Tensor,
    losses: Tensor | None,
    family: Tensor,
    train: Embeddings,
    heldout: Embeddings,
    judge: Metric,
    *,
    folds: int,
    repeats: int,
    seed: int,
) -> HeadChoice:
    """Return the choice.

    Args:
        listed: The F candidates.
        heads: The head of each of the O options.
        predicted: The class that each option predicts for each row, `(O, N)`.
        losses: The loss of each option on each row, `(O, N)`, which decides between those of about equal accuracy; None where
            accuracy alone decides.
        family: The candidate of each option, `(O,)`.
        train: The training side.
        heldout: The held-out rows.
        judge: What is best.
        folds: Number of folds.
        repeats: How many times the rows are cut into folds.
        seed: Seed of the folds.
    """
    labels, classes = heldout.labels.cpu(), heldout.num_classes
    places = [(family == place).nonzero().flatten().tolist() for place in range(len(listed))]
    groups = None if heldout.groups is None else heldout.groups.cpu()
    chosen, taken, weighed, overall = _cross_validated(
        predicted, losses, places, labels, classes, judge, folds, repeats, seed, groups
    )
    final = [_best(options, predicted[:, None], losses, labels, classes, judge) for options in places]
    score = judge.value(taken, labels, classes)
    leader = best = _best(range(len(listed)), taken, None, labels, classes, judge)
    stays = _as_good(taken, leader, labels, classes, judge)
    held = counts.class_counts(labels, classes)
    if weighed is not None:
        best = _best(range(0 if stays else 1, len(listed)), taken, weighed, labels, classes, judge)
        stays = stays and as_likely(weighed[0], weighed[best], labels, judge.class_weights(held))
    recalls = _recalls(taken, labels, classes, held)
    columns = _accuracies(taken, recalls["recall"], recalls["recall_low"], recalls["recall_high"], labels, classes)
    columns |= _differences(taken, leader, labels, classes, judge)
    spread = judge.value(taken[:, :, None], labels, classes)
    columns["spread"] = spread.std(1, correction=1) if repeats > 1 else torch.full_like(score, torch.nan)
    columns = {name: columns[name] for name in _COLUMNS}
    if weighed is not None:
        share = judge.class_weights(held)
        columns["loss"] = (class_sums(weighed, labels, classes) / held.clamp(min=1)) @ share
    if judge.name != "balanced":
        columns |= _scores(score, taken, labels, classes, judge)
    if judge.looks_at_lowest:
        columns |= _mean_recalls(taken, labels, classes)
    total, total_error = judge.difference(overall, taken[0], labels, classes)
    most = judge.largest_difference
    recommended = 0 if stays else best
    before, after, nested = ((one == labels).double().mean(0) for one in (taken[0], taken[recommended], overall))
    forecast, forecast_overall = head_forecast(
        hit_sums(before, after, nested, labels, classes), untouched=recommended == 0
    )
    return HeadChoice(
        names=tuple(one.name for one in listed),
        meanings=tuple(one.meaning for one in listed),
        sources=tuple(one.source for one in listed),
        options=tuple(one.labels for one in listed),
        times_chosen=tuple(tuple(chosen[options].tolist()) for options in places),
        final_option=tuple(options.index(one) for options, one in zip(places, final, strict=True)),
        columns=columns,
        recall=recalls["recall"],
        recall_low=recalls["recall_low"],
        recall_high=recalls["recall_high"],
        change_low=recalls["change_low"],
        change_high=recalls["change_high"],
        class_counts=counts.class_counts(train.labels, classes).cpu(),
        heldout_counts=held,
        best=best,
        recommended=recommended,
        forecast=forecast,
        forecast_overall=forecast_overall,
        overall={
            "gain": total,
            "gain_low": max(total - _Z * total_error, -most),
            "gain_high": min(total + _Z * total_error, most),
        },
        folds=folds,
        repeats=repeats,
        seed=seed,
        metric=judge.name,
        target_prior=() if judge.target_prior is None else tuple(judge.target_prior.tolist()),
        cost=() if judge.cost is None else tuple(map(tuple, judge.cost.tolist())),
        fits_heldout=tuple(one.fits_heldout for one in listed),
        heads=tuple(heads[one] for one in final),
    )


def _best(
    places: Sequence[int], taken: Tensor, losses: Tensor | None, labels: Tensor, classes: int, judge: Metric
) -> int:
    """The best of some candidates or options, which predict `taken`, `(X, R, N)`, with `losses`, `(X, N)`; the first of equals.

    The lowest recalls are of few rows. The highest of many such numbers is mostly luck, and would often cost mean recall. So
    where they decide, only those compete whose mean recall is at most half a standard error behind the highest one. How near
    it has to be was settled on the development splits of open clip art (`benchmarks.real_sets`).
    """
    chosen = taken[list(places)]
    if losses is not None:
        right = (chosen == labels).double().mean(1)
        share = judge.class_weights(counts.class_counts(labels, classes))
        return places[likeliest(right, losses[list(places)], labels, share)]
    if judge.name in PASSES_OVER:
        behind, error = _behind_highest_mean(chosen, labels, classes)
        kept = (behind <= NEAR * error).nonzero()[:, 0].tolist()
        places, chosen = [places[one] for one in kept], chosen[kept]
    return places[highest(range(len(places)), judge.ranked(chosen, labels, classes))]


def _behind_highest_mean(taken: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """How far the mean recall of each is behind the highest one, and the standard error of that, `(X,)` each."""
    means = Metric().ranked(taken, labels, classes)
    most = taken[highest(range(len(taken)), means)]
    differences = [Metric().difference(most, one, labels, classes) for one in taken]
    behind, error = torch.tensor(differences, dtype=torch.float64).T
    return behind, error


def _mean_recalls(taken: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
    """The gain in mean recall over the untouched head, and how far it is behind the highest one, with its standard error."""
    behind, error = _behind_highest_mean(taken, labels, classes)
    gain = torch.tensor([Metric().difference(one, taken[0], labels, classes)[0] for one in taken], dtype=torch.float64)
    return {"mean_gain": gain, "mean_behind": behind, "mean_behind_error": error}


def _as_good(taken: Tensor, best: int, labels: Tensor, classes: int, judge: Metric) -> bool:
    """Whether the untouched head is behind the best candidate by at most one standard error.

    The lowest recalls are of few rows, so that their standard error is large. Where the metric depends on them, the untouched
    head must also be as good by the mean recall.
    """
    metrics = [judge, *([Metric()] if judge.looks_at_lowest else [])]
    behind = (metric.difference(taken[best], taken[0], labels, classes) for metric in metrics)
    return all(value <= error for value, error in behind)


def _recalls(taken: Tensor, labels: Tensor, classes: int, held: Tensor) -> dict[str, Tensor]:
    """Return each candidate's recall of each class with its interval, and the interval of its change."""
    mean = (taken == labels).double().mean(1)
    recall = torch.stack([counts.class_mean(one, labels, classes) for one in mean])
    low, high = stats.wilson_interval(recall.nan_to_num(0.0) * held, held.expand_as(recall))
    hits, both = (class_sums(values, labels, classes) for values in (mean, mean * mean[0]))
    change = stats.paired_difference_interval(hits[:1].expand_as(hits), hits, both, held.expand_as(hits))
    ends = {"recall_low": low, "recall_high": high, "change_low": change[0], "change_high": change[1]}
    return {"recall": recall} | ends


def _cross_validated(
    predicted: Tensor,
    losses: Tensor | None,
    places: Sequence[Sequence[int]],
    labels: Tensor,
    classes: int,
    judge: Metric,
    folds: int,
    repeats: int,
    seed: int,
    groups: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Judge each fold by the options that are best on the other folds.

    Args:
        predicted: The class that each option predicts for each row, `(O, N)`.
        losses: The loss of each option on each row, `(O, N)`; None where accuracy alone decides.
        places: The options of each of the F candidates.
        labels: Classes of the rows, `(N,)`.
        classes: Number of classes.
        judge: What is best.
        folds: Number of folds.
        repeats: How many times the rows are cut into folds.
        seed: Seed of the folds.
        groups: The group of each row, `(N,)`, which no fold splits; None if no groups are known.

    Returns:
        How often each option was chosen, `(O,)`; the classes that each candidate predicts, `(F, repeats, N)`, and its losses as
        means over repeats, `(F, N)`; and the classes that the best option of all candidates predicts, `(repeats, N)`.
    """
    everything = list(range(len(predicted)))
    right = predicted == labels if judge.name == "balanced" and losses is None else None
    chosen = torch.zeros(len(predicted), dtype=torch.int64)
    taken = torch.zeros(len(places), repeats, len(labels), dtype=predicted.dtype)
    weighed = None if losses is None else torch.zeros(len(places), len(labels), dtype=losses.dtype)
    overall = torch.zeros(repeats, len(labels), dtype=predicted.dtype)
    for turn in range(repeats):
        fold = stratified_folds(
            labels, folds, seed=draws.seed_for("head choice", seed, turn), name="head choice", groups=groups
        )
        scores = _mean_recalls_elsewhere(right, labels, classes, fold, folds) if right is not None else None
        for index in range(folds):
            judged = fold == index
            if scores is None:
                known = None if losses is None else losses[:, ~judged]
                best_of = partial(
                    _best,
                    taken=predicted[:, None, ~judged],
                    losses=known,
                    labels=labels[~judged],
                    classes=classes,
                    judge=judge,
                )
            else:
                best_of = partial(highest, values=scores[index])
            for place, options in enumerate(places):
                option = best_of(options)
                chosen[option] += 1
                taken[place, turn, judged] = predicted[option, judged]
                if losses is not None and weighed is not None:
                    weighed[place, judged] += losses[option, judged] / repeats
            overall[turn, judged] = predicted[best_of(everything), judged]
    return chosen, taken, weighed, overall


def _mean_recalls_elsewhere(
    right: Tensor, labels: Tensor, classes: int, fold: Tensor, folds: int
) -> list[list[tuple[float, ...]]]:
    """The mean recall of each option outside each fold, number for number what `Metric.ranked` gives for these rows.

    Args:
        right: Whether each option predicts each row correctly, `(O, N)` bool.
        labels: `(N,)`.
        classes: Number of classes.
        fold: The fold of each row, `(N,)`.
        folds: Number of folds.
    """
    cell = fold * classes + labels
    parts = right.split(max(1, _TOGETHER // max(len(labels), 1)))
    hits = torch.cat([class_sums(part, cell, folds * classes) for part in parts]).unflatten(1, (folds, classes))
    rows = torch.bincount(cell, minlength=folds * classes).view(folds, classes).double()
    recall = (hits.sum(1, keepdim=True) - hits) / (rows.sum(0) - rows)
    return [[(value,) for value in one] for one in recall.nanmean(2).T.tolist()]


def _accuracies(
    taken: Tensor, recall: Tensor, low: Tensor, high: Tensor, labels: Tensor, classes: int
) -> dict[str, Tensor]:
    """Return the balanced accuracy of each candidate with its interval, from the intervals of the recalls."""
    ends = [stats.mean_share_interval(*one) for one in zip(recall, low, high, strict=True)]
    return {"balanced_accuracy": Metric().value(taken, labels, classes)} | _ends_of("balanced_accuracy", ends)


def _scores(score: Tensor, taken: Tensor, labels: Tensor, classes: int, judge: Metric) -> dict[str, Tensor]:
    """Return the metric of each candidate with its interval."""
    return {"score": score} | _ends_of("score", [judge.interval(one, labels, classes) for one in taken])


def _ends_of(name: str, ends: Sequence[tuple[float, float]]) -> dict[str, Tensor]:
    low, high = (torch.tensor([one[key] for one in ends], dtype=torch.float64) for key in (0, 1))
    return {f"{name}_low": low, f"{name}_high": high}


def _differences(taken: Tensor, leader: int, labels: Tensor, classes: int, judge: Metric) -> dict[str, Tensor]:
    """Return each candidate's gain over the untouched head, and its distance to the one in front."""
    gains = [judge.difference(one, taken[0], labels, classes) for one in taken]
    behinds = [judge.difference(taken[leader], one, labels, classes) for one in taken]
    behind, error = (torch.tensor([one[key] for one in behinds], dtype=torch.float64) for key in (0, 1))
    error[leader] = 0.0
    gain, gain_error = (torch.tensor([one[key] for one in gains], dtype=torch.float64) for key in (0, 1))
    gain_error[0] = 0.0
    return {
        "gain": gain,
        "gain_low": (gain - _Z * gain_error).clamp(min=-judge.largest_difference),
        "gain_high": (gain + _Z * gain_error).clamp(max=judge.largest_difference),
        "behind": behind,
        "behind_error": error,
    }


def highest(options: Sequence[int], values: Sequence[tuple[float, ...]]) -> int:
    """Return the first of the options with the highest value."""
    return max(options, key=lambda one: values[one])
