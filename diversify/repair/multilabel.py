"""Repair a head with one sigmoid output per label: retrain it, remove priors, choose thresholds; judged on other rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import must, unknown
from ..functional import multilabel, multilabel_losses
from ..network.linear_head import LinearHead, read_head
from ..network.multilabel import MultilabelEmbeddings
from ..runtime.signals import stop_if_interrupted

PRIORS = ("keep", "remove")


@dataclass(frozen=True, kw_only=True, eq=False)
class MultilabelRepair:
    """A repaired head, its thresholds, and what both gain on held-out images.

    Attributes:
        head: The head, one output per label.
        thresholds: `(C,)` float64, the probability at and above which each label is predicted; fitted on all held-out
            images, and 0.5 for a label with too few to fit and judge one.
        fitted: `(C,)` bool, whether the threshold was fitted.
        f1_before: `(C,)` float64, F1 on the held-out images of the head that came in, at 0.5; NaN without positives.
        f1_after: `(C,)`, F1 of the repaired head where each image is decided by thresholds from the other folds.
        average_precision_before: `(C,)` of the head that came in.
        average_precision_after: `(C,)` of the repaired head; the same where it was not retrained.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_multilabel_embeddings()
        >>> repair = dv.repair_multilabel(train, head, heldout=heldout)
        >>> bool(repair.f1_after[3] > repair.f1_before[3]), repair.predict(heldout.features).shape
        (True, torch.Size([400, 4]))
    """

    head: LinearHead
    thresholds: Tensor
    fitted: Tensor
    f1_before: Tensor
    f1_after: Tensor
    average_precision_before: Tensor
    average_precision_after: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """Return which labels images have, `(N, C)` bool.

        Args:
            features: `(N, D)`.
        """
        return _logits(self.head, features) >= self.thresholds.logit()


def repair_multilabel(
    train: MultilabelEmbeddings,
    head: nn.Module | LinearHead,
    *,
    heldout: MultilabelEmbeddings,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    prior: str = "keep",
    steps: int = 100,
    weight_decay: float = 1e-4,
    folds: int = 5,
    seed: int = 0,
) -> MultilabelRepair:
    """Repair a sigmoid head: optionally retrain it on frozen features, remove priors, and fit one threshold per label.

    The head is trained on training embeddings alone. Thresholds are fitted on the held-out images: those that are
    returned on all of them, those that are judged in `f1_after` on the other folds only.

    Args:
        train: Embeddings of the training images.
        head: The head to repair.
        heldout: Embeddings of images that neither network nor head was trained on.
        loss: A loss of logits and targets `(N, C)`, such as `DistributionBalanced`, to retrain the head with; None keeps
            its weights.
        prior: "keep", or "remove" to subtract each label's log odds in the training set from its logits. With fitted
            thresholds this only matters for probabilities and for labels with too few held-out positives.
        steps: Iterations of the training, by L-BFGS on all rows; it starts from the head that came in.
        weight_decay: L2 penalty on the weight in training.
        folds: Folds of the held-out images.
        seed: Seed of the folds.

    Returns:
        The head with its thresholds.

    Raises:
        InputError: The embeddings do not fit the head, an argument is out of its range, or the training diverges.

    References:
        Lipton et al. 2014 for thresholds; Menon et al. 2021 for the prior.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_multilabel_embeddings()
        >>> loss = dv.DistributionBalanced(train.labels.sum(0), images=len(train))
        >>> repair = dv.repair_multilabel(train, head, heldout=heldout, loss=loss, steps=20)
        >>> repair.head.num_classes, bool(((repair.thresholds > 0) & (repair.thresholds < 1)).all())
        (4, True)
    """
    head = read_head(head)
    for name, side in (("train", train), ("heldout", heldout)):
        if not isinstance(side, MultilabelEmbeddings):
            raise must(
                name, "be MultilabelEmbeddings", type(side).__name__, "for one label per image, use dv.choose_head"
            )
        if (side.num_features, side.num_labels) != (head.num_features, head.num_classes):
            law = f"have the head's {head.num_features} features and {head.num_classes} labels"
            raise must(f"{name} embeddings", law, f"{side.num_features} features and {side.num_labels} labels")
        if not len(side):
            raise must(f"{name} embeddings", "hold at least one image", 0)
    if prior not in PRIORS:
        raise unknown("prior", str(prior), PRIORS)
    if prior == "remove" and not head.has_bias:
        raise must("prior", "be keep for a head without a bias", prior, "fitted thresholds do the same for decisions")
    if folds < 2:
        raise must("folds", "be at least 2", folds)
    if steps < 1:
        raise must("steps", "be at least 1", steps)
    if not 0 <= weight_decay < float("inf"):
        raise must("weight_decay", "not be negative, and finite", weight_decay)
    before = replace(head, weight=head.weight.cpu(), bias=head.bias.cpu())
    after = before if loss is None else _trained(train, before, loss, steps, weight_decay)
    if prior == "remove":
        odds = multilabel.prior_log_odds(train.labels.cpu().sum(0), len(train))
        after = replace(after, bias=(after.bias - odds.float() / after.scale).contiguous())
    labels = heldout.labels.cpu()
    scores = [_logits(one, heldout.features) for one in (before, after)]
    fold = multilabel.label_folds(labels, folds, seed=seed)
    fitted = (fold >= 0).all(0)
    best = multilabel.best_thresholds(scores[1], labels)
    thresholds = best.sigmoid().clamp(1e-12, 1 - 1e-12).where(fitted, 0.5)
    decided = multilabel.cross_fitted_decisions(scores[1], labels, fold).where(fitted, scores[1] >= 0)
    f1 = [
        multilabel.f1_of_counts(*multilabel.decision_counts(labels, predicted))
        for predicted in (scores[0] >= 0, decided)
    ]
    precision = [multilabel.average_precision(each, labels) for each in scores]
    home = head.weight.device
    return MultilabelRepair(
        head=replace(after, weight=after.weight.to(home), bias=after.bias.to(home)),
        thresholds=thresholds,
        fitted=fitted,
        f1_before=f1[0],
        f1_after=f1[1],
        average_precision_before=precision[0],
        average_precision_after=precision[1],
    )


def fit_multilabel_head(
    features: Tensor, labels: Tensor, *, steps: int = 100, weight_decay: float = 1e-4
) -> LinearHead:
    """Return a head fitted to frozen features by binary cross entropy, one output per label.

    Args:
        features: `(N, D)`.
        labels: `(N, C)` of 0 and 1, at least 2 labels.
        steps: Iterations of L-BFGS.
        weight_decay: L2 penalty on the weight.

    Raises:
        InputError: The features are not finite, or the labels are not 0 or 1 for each row.

    See Also:
        `fit_head`, for one label per image.

    Example:
        >>> import diversify as dv
        >>> train, heldout, _ = dv.make_multilabel_embeddings()
        >>> head = dv.fit_multilabel_head(train.features, train.labels, steps=20)
        >>> head.logits(heldout.features).shape
        torch.Size([400, 4])
    """
    marks = multilabel.read_multilabels("labels", labels, rows=len(features))
    count = marks.shape[1]
    start = LinearHead(weight=torch.zeros(count, features.shape[1]), bias=torch.zeros(count))
    rows = MultilabelEmbeddings.from_arrays(features, marks, head=start)
    return _trained(rows, start, multilabel_losses.binary_cross_entropy, steps, weight_decay)


def _logits(head: LinearHead, features: Tensor) -> Tensor:
    return head.logits(features.to(head.weight.device)).double().cpu()


def _trained(
    train: MultilabelEmbeddings,
    head: LinearHead,
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    weight_decay: float,
) -> LinearHead:
    """The head after L-BFGS on all rows, in float64, on standardised features so that one step size fits all."""
    features = head.effective(train.features.cpu())[0].double()
    targets = train.labels.cpu().double()
    deviation = features.std(dim=0, correction=0)
    scale = deviation.where(deviation > 0, 1.0)
    begin = head.effective(train.features[:1].cpu())[1].double()
    weight, bias = (value.clone().requires_grad_() for value in (begin * scale, head.bias.double()))
    rows = features / scale
    trainable = [weight, bias] if head.has_bias and not head.cosine else [weight]
    optimizer = torch.optim.LBFGS(trainable, max_iter=steps, line_search_fn="strong_wolfe")

    def turned() -> Tensor:
        return functional.normalize(weight / scale, dim=1) * scale if head.cosine else weight

    def closure() -> Tensor:
        stop_if_interrupted()
        optimizer.zero_grad()
        value = loss(head.scale * functional.linear(rows, turned(), bias), targets)
        value = value + weight_decay / 2 * turned().square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
        found = (turned() / scale).detach().float().contiguous()
    if not bool(found.isfinite().all()):
        raise must("loss", "be one that the head can be trained with", "weights that are not finite")
    if head.cosine:
        found = found * head.weight.norm(dim=1, keepdim=True)
    return replace(head, weight=found, bias=bias.detach().float().contiguous())
