"""Which repair of a head is worth having: candidates compared on held-out images, each by options chosen on other folds."""

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
from .candidates import UNTOUCHED, Candidate, Make, default_candidates
from .choice import HeadChoice
from .post_hoc import adjust_logits, log_prior_of

PLAN_FOLDS = 3  # of the held-out rows, where a plan is made from them
_BLOCK = 1 << 24  # logits at a time
Progress = Callable[[int, int], None]


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
    """The candidates compared on held-out rows, and which of them to take.

    Every option's head is made once, from training rows alone, but for a candidate that is `remade`: what it made from
    held-out rows is made anew for each third of them without that third. Otherwise the held-out rows only choose and judge:
    cut into stratified folds, `repeats` times, each fold judges the option that has the highest balanced accuracy on the others.
    Recommended is the candidate that does best, the simplest of equals as they are listed; but the head is left as it is
    where that is not behind by more than one standard error of their difference on the same rows. The untouched head is always
    compared, and comes first.

    Args:
        train: Features of the backbone's own training images.
        heldout: Features of images that it has not seen, and that are not the test set's.
        head: The head as it is: the module, which is only read, or its numbers.
        candidates: The simplest first; None takes `default_candidates` without a plan.
        progress: Called with heads made and in all.

    Raises:
        InputError: sizes that differ, a class that is held out and not in the head, too few rows for the folds, no repeat,
            or two candidates of one name.
    """
    head = read_head(head)
    _require_sides(train, heldout, head)
    if not 2 <= folds <= len(heldout):
        raise must("folds", f"lie in [2, {len(heldout)}], the number of held-out rows", folds)
    if repeats < 1:
        raise must("repeats", "be at least 1", repeats)
    listed = list(default_candidates(train, head) if candidates is None else candidates)
    for one in listed:
        if not isinstance(one, Candidate):
            raise must("candidates", "be instances of Candidate", repr(one)[:80])
    if all(one.name != UNTOUCHED for one in listed):
        listed.insert(0, default_candidates(train, head)[0])
    listed.sort(key=lambda one: one.name != UNTOUCHED)
    for place, one in enumerate(listed):
        if one.name in [other.name for other in listed[:place]]:
            raise must("candidates", "have names of their own", f"{one.name!r} twice")
        if not one.labels:
            raise must(f"candidate {one.name!r}", "have an option", "none")
    tick = _Ticker(listed, progress)
    heads = [made for one in listed for made in _made(one.options, one.taus, train, head, seed, tick)]
    right = torch.stack([_is_right(one, heldout) for one in heads])
    family = torch.tensor([place for place, one in enumerate(listed) for _ in one.labels])
    for place, one in enumerate(listed):
        if one.remade is not None:
            right[family == place] = _cross_fitted(one, one.remade, train, heldout, head, seed, tick)
    return _judged(listed, heads, right, family, train, heldout, folds=folds, repeats=repeats, seed=seed)


def _require_sides(train: Embeddings, heldout: Embeddings, head: LinearHead) -> None:
    for name, side in (("train", train), ("heldout", heldout)):
        if (side.num_features, side.num_classes) != (head.num_features, head.num_classes):
            law = f"have the head's {head.num_features} features and {head.num_classes} classes"
            raise must(f"{name} embeddings", law, f"{side.num_features} and {side.num_classes}")


class _Ticker:
    """Heads made, and in all."""

    def __init__(self, listed: Sequence[Candidate], progress: Progress | None) -> None:
        self.progress, self.done = progress, 0
        self.total = sum(len(one.options) * (1 + PLAN_FOLDS * (one.remade is not None)) for one in listed)
        self()

    def __call__(self, more: int = 0) -> None:
        self.done += more
        if self.progress is not None:
            self.progress(self.done, self.total)


def _made(
    options: Mapping[str, Make],
    taus: Sequence[float],
    train: Embeddings,
    head: LinearHead,
    seed: int,
    tick: Callable[[int], None],
) -> list[LinearHead]:
    """A head for every option and tau."""
    prior = log_prior_of(counts.class_counts(train.labels, train.num_classes))
    heads: list[LinearHead] = []
    for make in options.values():
        made = make(train, head, seed)
        if not isinstance(made, LinearHead):
            raise must("what a candidate makes", "be a LinearHead", type(made).__name__)
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
    tick: Callable[[int], None],
) -> Tensor:
    """`(O, N)` bool, on the CPU: what each option gets right, every fold of the rows by options made from the others."""
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
        right[:, judged.cpu()] = torch.stack([_is_right(each, side) for each in heads])
    return right


def _is_right(head: LinearHead, heldout: Embeddings) -> Tensor:
    """`(N,)` bool, on the CPU."""
    blocks = heldout.features.split(max(1, _BLOCK // head.num_classes))
    on = replace(head, weight=head.weight.to(blocks[0].device), bias=head.bias.to(blocks[0].device))
    return (torch.cat([on.logits(block).argmax(1) for block in blocks]) == heldout.labels).cpu()


def _judged(
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
    """The choice, from which rows each option's head gets right, `(O, N)` bool, and whose option it is, `(O,)`."""
    labels, classes = heldout.labels.cpu(), heldout.num_classes
    places = [(family == place).nonzero().flatten().tolist() for place in range(len(listed))]
    everything = list(range(len(right)))
    chosen = torch.zeros(len(right), dtype=torch.int64)
    scores = torch.zeros(len(listed), repeats, len(labels), dtype=torch.float64)
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
    whole = _balanced(right, labels, classes).tolist()
    final = [_highest(options, whole) for options in places]
    mean = scores.mean(1)
    accuracy = _balanced(mean, labels, classes)
    best = _highest(list(range(len(listed))), accuracy.tolist())
    recall = torch.stack([counts.class_mean(one, labels, classes) for one in mean])
    held = counts.class_counts(labels, classes)
    low, high = stats.wilson_interval(recall.nan_to_num(0.0) * held, held.expand_as(recall))
    ends = [stats.mean_share_interval(*one) for one in zip(recall, low, high, strict=True)]
    hits, both = (_sums(values, labels, classes) for values in (mean, mean * mean[0]))
    change = stats.paired_difference_interval(hits[:1].expand_as(hits), hits, both, held.expand_as(hits))
    spread = torch.stack([_balanced(one, labels, classes) for one in scores])
    gains = [balanced_difference(one, mean[0], labels, classes) for one in mean]
    behinds = [balanced_difference(mean[best], one, labels, classes) for one in mean]
    behind, error = (torch.tensor([one[key] for one in behinds], dtype=torch.float64) for key in (0, 1))
    error[best] = 0.0
    z = NormalDist().inv_cdf(0.975)
    gain, gain_error = (torch.tensor([one[key] for one in gains], dtype=torch.float64) for key in (0, 1))
    gain_error[0] = 0.0
    total, total_error = balanced_difference(overall.mean(0), mean[0], labels, classes)
    return HeadChoice(
        names=tuple(one.name for one in listed),
        meanings=tuple(one.meaning for one in listed),
        sources=tuple(one.source for one in listed),
        options=tuple(one.labels for one in listed),
        times_chosen=tuple(tuple(chosen[options].tolist()) for options in places),
        final_option=tuple(options.index(one) for options, one in zip(places, final, strict=True)),
        columns={
            "balanced_accuracy": accuracy,
            "balanced_accuracy_low": torch.tensor([one[0] for one in ends], dtype=torch.float64),
            "balanced_accuracy_high": torch.tensor([one[1] for one in ends], dtype=torch.float64),
            "spread": spread.std(1, correction=1) if repeats > 1 else torch.full_like(accuracy, torch.nan),
            "gain": gain,
            "gain_low": (gain - z * gain_error).clamp(min=-1),
            "gain_high": (gain + z * gain_error).clamp(max=1),
            "behind": behind,
            "behind_error": error,
        },
        recall=recall,
        recall_low=low,
        recall_high=high,
        change_low=change[0],
        change_high=change[1],
        class_counts=counts.class_counts(train.labels, classes).cpu(),
        heldout_counts=held,
        best=best,
        recommended=0 if float(behind[0]) <= float(error[0]) else best,
        overall={
            "gain": total,
            "gain_low": max(total - z * total_error, -1.0),
            "gain_high": min(total + z * total_error, 1.0),
        },
        folds=folds,
        repeats=repeats,
        seed=seed,
        heads=tuple(heads[one] for one in final),
    )


def _highest(options: Sequence[int], values: Sequence[float]) -> int:
    """The first of the options with the highest value."""
    return max(options, key=lambda one: values[one])


def _balanced(right: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """`(...)` float64 mean recall over the classes that are there, of rows `(..., N)` that are right or not."""
    return (_sums(right, labels, num_classes) / counts.class_counts(labels, num_classes)).nanmean(-1)


def _sums(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """`(..., C)` float64 sums over the rows of each class, of values `(..., N)`."""
    sums = torch.zeros(*values.shape[:-1], num_classes, dtype=torch.float64)
    return sums.index_add_(-1, labels, values.double())


def balanced_difference(one: Tensor, other: Tensor, labels: Tensor, num_classes: int) -> tuple[float, float]:
    """Balanced accuracy of one less that of another on the same rows, and its standard error.

    Within each class the error is that of a paired difference of proportions with one more row for and one against
    (Agresti and Min 2005), so that a class of few rows that all stay as they were is not taken for settled.
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
