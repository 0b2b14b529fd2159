"""Fit a classifier's head anew to where its loss is least: a class-balanced logistic regression on frozen features."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import must
from ..functional import counts
from ..functional.labels import in_class_order
from ..functional.logistic import fit_logistic
from ..network.embeddings import Embeddings, require_embeddings
from ..network.linear_head import LinearHead, read_head
from ..runtime.signals import stop_if_interrupted
from .candidate import Make, made_together
from .unseen import SHARE, require_share, require_unseen, unseen_chances

PENALTY = 0.03
PENALTIES = (0.1, 0.03, 0.01)  # that are compared
LARGEST = 1e9  # rows x features x classes; a larger regression takes minutes
_ITERATIONS = 200
_TOLERANCE = 1e-5
_BLOCK = 1 << 14  # rows that are held in float64


def refit_head(
    embeddings: Embeddings,
    head: nn.Module | LinearHead,
    *,
    unseen: Embeddings | None = None,
    unseen_share: float | Sequence[float] | Tensor = SHARE,
    penalty: float = PENALTY,
) -> LinearHead:
    """Return the head whose class-balanced loss is least: a logistic regression in which every class weighs the same.

    `retrain_head` takes some steps of stochastic gradient descent from the present head. On even draws they go down the same loss,
    but stop before its end. Here the present head plays no part, and nothing is random. `choose_head` chooses the penalty on
    held-out folds.

    With `unseen`, the share `unseen_share * m / (m + 10)` of the weight of a class lies on its m unseen rows, as in `retrain_head`;
    all of it where the class has no training rows. These rows must not judge the head afterwards.

    Args:
        embeddings: Features of the images that the backbone was trained on.
        head: The present head, which says whether there is a bias: a module, which is only read, or its numbers.
        unseen: Features of images that the backbone was not trained on, and that are not those of the test set.
        unseen_share: Share of a class's weight on its unseen rows where it has many, in [0, 1]; one number, or one for each class,
            for example more for a class whose training images are all alike.
        penalty: On half the squared weight, beside the sum of the loss over the effective number of rows, which is 1 / sum(w^2) for
            rows of weight w; 1 / C in scikit-learn's terms. It holds for features divided by the root of their mean squared
            distance from their mean (from 0, if the head has no bias), so that the same number fits features of any scale.

    Returns:
        The head, on the device of the present one.

    Raises:
        InputError: The numbers of classes or features differ, the head is a cosine head, there is no row, the unseen rows are the
            training rows, or a number is outside its range.

    References:
        Kang et al. 2020 (classifier retraining); Kirichenko, Izmailov and Wilson 2023 (unseen rows).

    See Also:
        retrain_head: The head trained further by a plan, which may augment features.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> def balanced_accuracy(head, rows):
        ...     right = head.logits(rows.features).argmax(1) == rows.labels  # as many images of every class
        ...     return round(float(right.float().mean()), 2)
        >>> balanced_accuracy(head, heldout), balanced_accuracy(dv.refit_head(train, head), heldout)
        (0.79, 0.92)

        With every second held-out image as an unseen row, the others judge:

        >>> odd = torch.arange(len(heldout)) % 2 == 1
        >>> balanced_accuracy(dv.refit_head(train, head, unseen=heldout.select(~odd)), heldout.select(odd))
        0.98
    """
    (found,) = refit_by_penalty(embeddings, head, [penalty], unseen=unseen, unseen_share=unseen_share)
    return found


def refit_by_penalty(
    embeddings: Embeddings,
    head: nn.Module | LinearHead,
    penalties: Sequence[float],
    *,
    unseen: Embeddings | None = None,
    unseen_share: float | Sequence[float] | Tensor = SHARE,
    bias: bool = True,
) -> list[LinearHead]:
    """Return the head of `refit_head` for each penalty; the search for each begins where that for the last one ended.

    Args:
        embeddings: See `refit_head`.
        head: The present head.
        penalties: Best from large to small.
        unseen: See `refit_head`.
        unseen_share: See `refit_head`.
        bias: Whether there is a bias; a head without one gets none.

    Example:
        >>> import diversify as dv
        >>> train, _, head = dv.make_embeddings()
        >>> [round(float(one.weight.norm()), 1) for one in refit_by_penalty(train, head, [1, 0.01])]
        [3.8, 13.5]
    """
    head = read_head(head)
    _require_fit(embeddings, head, penalties)
    share = _share_of_classes(unseen_share, head.num_classes)
    if unseen is not None:
        require_unseen(unseen, embeddings)
    bias = bias and head.has_bias
    rows, labels, weight = _weighted_rows(embeddings, unseen, share)
    centre, scale = _centre_and_scale(rows, centred=bias)
    for part in rows.split(_BLOCK):
        part.copy_((part.double() - centre) / scale)
    effective = 1 / float(weight.double().square().sum())
    folded = 2 if head.num_classes == 2 else 1  # the difference of two rows has twice their penalty
    found, start = [], None
    for penalty in penalties:
        stop_if_interrupted()
        start = fit_logistic(
            rows,
            labels,
            weight,
            head.num_classes,
            mass=folded * effective / penalty,
            iterations=_ITERATIONS,
            tolerance=_TOLERANCE,
            bias=bias,
            start=start,
        )
        found.append(_head_of(start, centre, scale, head))
    return found


def refitted_options(
    *, bias: bool, unseen: Embeddings | None = None, unseen_share: float | Tensor = SHARE
) -> dict[str, Make]:
    """Return the options of a candidate: a head for each of `PENALTIES`, all made at once.

    Args:
        bias: See `refit_by_penalty`.
        unseen: See `refit_head`.
        unseen_share: See `refit_head`.

    Example:
        >>> list(refitted_options(bias=True))
        ['penalty 0.1', 'penalty 0.03', 'penalty 0.01']
    """
    return made_together(
        [f"penalty {penalty:g}" for penalty in PENALTIES],
        lambda train, head, _: refit_by_penalty(
            train, head, PENALTIES, unseen=unseen, unseen_share=unseen_share, bias=bias
        ),
    )


def too_large(train: Embeddings) -> bool:
    """Return whether a regression on these rows would take minutes.

    Args:
        train: The training side.

    Example:
        >>> import diversify as dv
        >>> too_large(dv.make_embeddings()[0])
        False
    """
    return train.features.numel() * train.num_classes > LARGEST


def _weighted_rows(embeddings: Embeddings, unseen: Embeddings | None, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows that count, those of the training side first, as a float32 copy on the CPU; their labels; their weights."""
    sides = [embeddings] if unseen is None else [embeddings, unseen]
    features = torch.cat([side.features.detach().cpu().float() for side in sides])
    labels = torch.cat([side.labels.cpu() for side in sides])
    weight = _class_shares(embeddings, unseen, share)
    used = weight > 0
    if bool(used.all()):
        return features, labels, weight
    return features[used], labels[used], weight[used]


def _centre_and_scale(rows: Tensor, *, centred: bool) -> tuple[Tensor, float]:
    """The mean of the rows, `(D,)` float64, or 0, and the root of their mean squared distance from it; 1 for equal rows."""
    blocks = rows.split(_BLOCK)
    centre = torch.zeros(rows.shape[1], dtype=torch.float64)
    if centred:
        centre = torch.stack([block.sum(0, dtype=torch.float64) for block in blocks]).sum(0) / len(rows)
    squares = sum(float((block.double() - centre).square().sum()) for block in blocks)
    return centre, (squares / len(rows)) ** 0.5 or 1.0


def _head_of(coefficients: Tensor, centre: Tensor, scale: float, head: LinearHead) -> LinearHead:
    """The head in the form and on the device of the present one."""
    weight = coefficients[:, :-1].double() / scale
    bias = coefficients[:, -1] - weight @ centre
    if head.num_classes == 2:
        weight, bias = (torch.stack([torch.zeros_like(rows[0]), rows[0]]) for rows in (weight, bias))
    weight, bias = weight.to(head.weight), bias.to(head.bias)
    if not bool(weight.isfinite().all() and bias.isfinite().all()):
        law = "have a size at which the numbers of a head fit into float32"
        raise must("features", law, f"a distance of {scale:.1e} from their mean")
    return replace(head, weight=weight, bias=bias)


def _share_of_classes(share: float | Sequence[float] | Tensor, num_classes: int) -> Tensor:
    """The share of each class, `(C,)` float64."""
    given: Any = in_class_order("unseen_share", share, num_classes)
    each = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(each, (list, tuple)):
        require_share(each)
        return torch.full((num_classes,), float(each), dtype=torch.float64)
    if len(each) != num_classes:
        raise must("unseen_share", f"be one number, or {num_classes}, one for each class", len(each))
    for one in each:
        require_share(one)
    return torch.tensor(each, dtype=torch.float64)


def _class_shares(embeddings: Embeddings, unseen: Embeddings | None, share: Tensor) -> Tensor:
    """The weight of each row, those of the training side first: 1 in all, the same for every class that has rows."""
    seen = counts.class_counts(embeddings.labels, embeddings.num_classes).cpu()
    others = torch.zeros_like(seen) if unseen is None else counts.class_counts(unseen.labels, unseen.num_classes).cpu()
    on_unseen = unseen_chances(others, share).masked_fill((seen == 0) & (others > 0), 1.0)
    each = 1 / ((seen > 0) | (others > 0)).sum().clamp(min=1).double()
    weight = (each * (1 - on_unseen) / seen.clamp(min=1))[embeddings.labels.cpu()]
    if unseen is not None:
        weight = torch.cat([weight, (each * on_unseen / others.clamp(min=1))[unseen.labels.cpu()]])
    return weight.float()


def _require_fit(embeddings: Embeddings, head: LinearHead, penalties: Sequence[float]) -> None:
    require_embeddings("embeddings", embeddings, "use dv.fit_multilabel_head")
    for what in ("features", "classes"):
        wanted, got = (getattr(side, f"num_{what}") for side in (embeddings, head))
        if wanted != got:
            raise must("head", f"have the embeddings' {wanted} {what}", got)
    if head.cosine:
        raise must("head", "be linear", "a cosine head", "use dv.retrain_head, which takes both")
    if not len(embeddings):
        raise must("embeddings", "have a row", 0)
    for penalty in penalties:
        real = isinstance(penalty, numbers.Real) and not isinstance(penalty, bool)
        if not real or not (0 < penalty <= sys.float_info.max):
            raise must("penalty", "be above 0, and finite", repr(penalty))
