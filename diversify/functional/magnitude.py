"""Measure which features carry a class, how strongly, how many are needed, and whether unseen images match.

The classification embedding (CE; `ce` in names of measures) of an example is its features times one row of the head,
elementwise; its sum plus the bias is that class's logit. Source: Dablain et al., "Understanding CNN fragility when learning
with imbalanced data", 2023.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..errors import must
from .blocks import joined
from .counts import class_counts
from .draws import integers

_BLOCK = 1 << 20  # numbers per float64 temporary: 8 MB
_FEW, _SHARE = 64, 8  # features that are added up first, to see how many a decision needs, or a share of all


def classification_embedding(features: Tensor, weight: Tensor, classes: Tensor) -> Tensor:
    """Multiply each row of `features` by the head's row of its class.

    Args:
        features: `(N, D)`.
        weight: The head's, `(C, D)`.
        classes: `(N,)`, the class whose row is used.

    Returns:
        `(N, D)`, in logit units.

    References:
        Dablain et al. 2023.

    Example:
        >>> weight = torch.tensor([[1.0, -1.0], [2.0, 0.0]])
        >>> classification_embedding(torch.tensor([[3.0, 1.0]]), weight, torch.tensor([1])).tolist()
        [[6.0, 0.0]]
    """
    return features * weight[classes]


def top_k(means: Tensor, k: int) -> Tensor:
    """Return the indices of the k largest values of each class's row, largest first; ties go to the lower index.

    Args:
        means: `(C, D)`, for example class means of CE on training data.
        k: In [1, D].

    Returns:
        `(C, K)` int64. A row with a NaN, as for an absent class, gives -1 throughout; the functions of this module give
        NaN for it.

    Raises:
        InputError: k lies outside [1, D].

    Example:
        >>> top_k(torch.tensor([[0.1, 0.9, 0.5], [torch.nan, 0.0, 0.0]]), 2).tolist()
        [[1, 2], [-1, -1]]
    """
    if not 1 <= k <= means.shape[1]:
        raise must("k", f"lie in [1, {means.shape[1]}], the number of features", k)
    return _largest(means, k).masked_fill(means.isnan().any(1, keepdim=True), -1)


def _largest(values: Tensor, k: int) -> Tensor:
    """The places of the k largest values of each row, `(..., k)`, largest first; ties go to the lower place."""
    if 4 * k > values.shape[1]:
        return values.sort(dim=1, descending=True, stable=True).indices[:, :k]
    more = values.topk(k + 1, dim=1)
    places = more.indices[:, :k].sort(dim=1).values
    order = values.gather(1, places).sort(dim=1, descending=True, stable=True).indices
    places = places.gather(1, order)
    tied = (~(more.values[:, k - 1] > more.values[:, k])).nonzero()[:, 0]  # ties for the last place, or NaN
    if len(tied):
        places[tied] = values[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return places


def _mask_absent(values: Tensor, indices: Tensor) -> Tensor:
    return values.masked_fill(indices[..., 0] < 0, torch.nan)


def top_k_share(means: Tensor, indices: Tensor) -> Tensor:
    """Return the share of a class's positive mean CE that its top K hold.

    The whole is the sum of the positive means, because the logit itself can be smaller than a part of it.

    Args:
        means: Class means of CE, `(C, D)`.
        indices: Top K per class, `(C, K)`.

    Returns:
        `(C,)` in [0, 1]; 1 at K = D. NaN for an absent class and where no mean is positive.

    Example:
        >>> means = torch.tensor([[3.0, 1.0, -5.0]])
        >>> top_k_share(means, top_k(means, 1)).tolist()
        [0.75]
    """
    positive = means.double().clamp(min=0)
    total = positive.sum(1)
    share = positive.gather(1, indices.clamp(min=0)).sum(1) / total
    return _mask_absent(share.clamp(max=1).where(total > 0, torch.nan), indices).to(means.dtype)


def top_k_magnitude(features: Tensor, weight: Tensor | None, labels: Tensor, indices: Tensor) -> Tensor:
    """Return, for each image, the mean contribution (feature x head weight) of its true class's K strongest features.

    The mean of a class over all rows, true positives or errors is `class_mean` of this.

    Args:
        features: `(N, D)`, training or held-out.
        weight: The head's, `(C, D)`; None averages the features themselves.
        labels: True classes, `(N,)`.
        indices: `(C, K)`, chosen on training data and used for training and held-out data alike.

    Returns:
        `(N,)` in logit units, or in feature units without `weight`; NaN where the class has no top K.

    Example:
        >>> features, weight = torch.tensor([[2.0, 1.0, 9.0]]), torch.tensor([[1.0, 3.0, 0.0]])
        >>> top_k_magnitude(features, weight, torch.tensor([0]), torch.tensor([[1, 0]])).tolist()
        [2.5]
    """
    size = max(1, _BLOCK // max(indices.shape[1], 1))
    parts = zip(features.split(size), labels.split(size), strict=True)
    return joined((_block_magnitude(rows, weight, own, indices) for rows, own in parts), len(features))


def _block_magnitude(features: Tensor, weight: Tensor | None, labels: Tensor, indices: Tensor) -> Tensor:
    chosen = indices[labels]  # (N, K)
    column = chosen.clamp(min=0)
    strength = features.gather(1, column).double()
    if weight is not None:
        strength = strength * weight[labels[:, None], column]
    return _mask_absent(strength.mean(1), chosen).to(features.dtype)


def magnitude_ratio(train: Tensor, heldout: Tensor) -> Tensor:
    """Divide held-out by training magnitudes; below 1, unseen images excite the top K less than training images.

    Args:
        train: `(C,)`.
        heldout: `(C,)`.

    Returns:
        `(C,)`; NaN where the training magnitude is not positive, and for a class absent from either side.

    Example:
        >>> magnitude_ratio(torch.tensor([2.0, 2.0]), torch.tensor([2.0, 1.0])).tolist()
        [1.0, 0.5]
    """
    return (heldout / train).where(train > 0, torch.nan)


def magnitude_gap(train: Tensor, heldout: Tensor) -> Tensor:
    """Subtract held-out from training magnitudes.

    Args:
        train: `(C,)`.
        heldout: `(C,)`.

    Returns:
        `(C,)` in the unit of the inputs; NaN for a class absent from either side.

    Example:
        >>> magnitude_gap(torch.tensor([2.0, 2.0]), torch.tensor([2.0, 0.5])).tolist()
        [0.0, 1.5]
    """
    return train - heldout


def _membership(indices: Tensor, num_features: int) -> Tensor:
    """1 where a feature is in the class's set and 0 elsewhere, `(C, D)` float64; all 0 for an absent class."""
    member = torch.zeros(len(indices), num_features, dtype=torch.float64, device=indices.device)
    return member.scatter_(1, indices.clamp(min=0), (indices >= 0).double())


def identity_overlap(first: Tensor, second: Tensor, num_features: int) -> Tensor:
    """Return the share of a class's top K that is in both of two sets.

    By chance alone it is K / D. The features of two models correspond only if the models share an initialisation, or
    after `match_channels`.

    Args:
        first: `(C, K)`.
        second: `(C, K)`.
        num_features: D.

    Returns:
        `(C,)` float64 in [0, 1]; NaN where the class is absent from either set.

    Example:
        >>> identity_overlap(torch.tensor([[0, 1]]), torch.tensor([[1, 2]]), num_features=8).tolist()
        [0.5]
    """
    both = _membership(first, num_features) * _membership(second, num_features)
    return _mask_absent(_mask_absent(both.sum(1) / first.shape[1], first), second)


def identity_overlap_matrix(indices: Tensor, num_features: int) -> Tensor:
    """Return the overlap of top-K features between every two classes.

    Args:
        indices: `(C, K)`.
        num_features: D.

    Returns:
        `(C, C)` float64 in [0, 1] with diagonal 1; rows and columns of absent classes are NaN.

    Example:
        >>> identity_overlap_matrix(torch.tensor([[0, 1], [1, 2]]), num_features=8).tolist()
        [[1.0, 0.5], [0.5, 1.0]]
    """
    member = _membership(indices, num_features)
    absent = indices[:, 0] < 0
    return (member @ member.T / indices.shape[1]).masked_fill(absent[:, None] | absent, torch.nan)


def bootstrap_identity_overlap(
    features: Tensor, weight: Tensor, labels: Tensor, indices: Tensor, draws: int = 200, *, seed: int
) -> Tensor:
    """Return the overlap of each class's top K with the top K of resampled rows, a measure of how stable the choice is.

    Rows are drawn with replacement inside each class; the top K of a draw are those of its mean CE.

    Args:
        features: `(N, D)`.
        weight: The head's, `(C, D)`.
        labels: `(N,)`.
        indices: `(C, K)`.
        draws: Number of draws.
        seed: Seed of the draws.

    Returns:
        `(draws, C)` float64 in [0, 1]; NaN for a class without rows or without a top K.

    Example:
        >>> features, weight = torch.tensor([[3.0, 1.0], [2.0, 1.0]]), torch.ones(1, 2)
        >>> labels, indices = torch.zeros(2, dtype=torch.int64), torch.tensor([[0]])
        >>> bootstrap_identity_overlap(features, weight, labels, indices, draws=3, seed=0).flatten().tolist()
        [1.0, 1.0, 1.0]
    """
    num_classes, num_features = weight.shape
    result = features.new_full((draws, num_classes), torch.nan, dtype=torch.float64)
    draw = torch.arange(draws, device=features.device)[:, None]
    for index in range(num_classes):
        rows = (labels == index).nonzero().flatten()
        if len(rows) == 0 or int(indices[index, 0]) < 0:
            continue
        position = torch.arange(len(rows), device=features.device)
        chosen = integers(len(rows), "identity overlap", seed, index, draw, position)  # (draws, n)
        times = features.new_zeros(chosen.shape, dtype=torch.float64).scatter_add_(
            1, chosen, torch.ones_like(chosen, dtype=torch.float64)
        )
        drawn = top_k(times @ features[rows].double() * weight[index].double(), indices.shape[1])
        result[:, index] = identity_overlap(drawn, indices[index].expand_as(drawn), num_features)
    return result


def _needed_blocks(
    features: Tensor, weight: Tensor, bias: Tensor, classes: Tensor | None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each block of rows: its first row, the number needed `(B,)`, and which features these are `(B, D)`."""
    num_classes, num_features = weight.shape
    head, offset = weight.double(), bias.double()
    start = 0
    for block in features.split(max(1, _BLOCK // max(num_classes, num_features))):
        row = block.double()
        logits = row @ head.T + offset
        chosen = logits.argmax(1) if classes is None else classes[start : start + len(row)]
        runner_up = logits.scatter(1, chosen[:, None], -torch.inf).amax(1)
        embedding = row * head[chosen]
        target = runner_up - offset[chosen] - embedding.clamp(max=0).sum(1)
        positive = embedding.clamp_(min=0)
        few = min(num_features, max(_FEW, num_features // _SHARE))
        count, mask = _reaching(positive, target, few)
        if num_features > few:  # few rows need more than these
            more = (count == few).nonzero()[:, 0]
            if len(more):
                count[more], mask[more] = _reaching(positive[more], target[more], num_features)
        yield start, count, mask
        start += len(row)


def _reaching(positive: Tensor, target: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """How many of the largest values `(B, D)`, at most `most`, add up to the target `(B,)`, and which, `(B, D)` bool."""
    order = _largest(positive, most)
    largest = positive.gather(1, order)
    count = (largest.cumsum(1) < target[:, None]).sum(1) + (target > 0)
    count = torch.minimum(count, (largest > 0).sum(1))
    rank = torch.arange(most, device=positive.device)
    return count, torch.zeros_like(positive, dtype=torch.bool).scatter_(1, order, rank < count[:, None])


def needed_features(
    features: Tensor, weight: Tensor, bias: Tensor, classes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return how many CE the decision needs, and which.

    The number needed is the smallest k >= 0 such that the k largest positive CE, the bias and all negative CE together
    reach the logit of the runner-up. If they cannot reach it, because of rounding or because the class in `classes`
    does not win, it is the number of positive CE. Among equal CE, the lower feature index counts first.

    Args:
        features: `(N, D)`.
        weight: The head's, `(C, D)`.
        bias: The head's, `(C,)`.
        classes: `(N,)`; None means the predicted classes.

    Returns:
        The number `(N,)` int64, and a mask `(N, D)` bool of the features that are needed.

    References:
        Dablain et al. 2023.

    See Also:
        number_needed: The first of these alone, with less memory.

    Example:
        >>> weight, bias = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 2.0]]), torch.zeros(2)
        >>> count, mask = needed_features(torch.tensor([[4.0, 2.0, 1.0]]), weight, bias)
        >>> count.tolist(), mask.tolist()
        ([1], [[True, False, False]])
    """
    count = torch.empty(len(features), dtype=torch.int64, device=features.device)
    mask = torch.empty(features.shape, dtype=torch.bool, device=features.device)
    for start, block_count, block_mask in _needed_blocks(features, weight, bias, classes):
        count[start : start + len(block_count)] = block_count
        mask[start : start + len(block_count)] = block_mask
    return count, mask


def number_needed(features: Tensor, weight: Tensor, bias: Tensor, classes: Tensor | None = None) -> Tensor:
    """Return how many CE the decision needs, without the mask of `needed_features` and its memory.

    Args:
        features: `(N, D)`.
        weight: The head's, `(C, D)`.
        bias: The head's, `(C,)`.
        classes: `(N,)`; None means the predicted classes.

    Returns:
        `(N,)` int64.

    References:
        Dablain et al. 2023.

    Example:
        >>> weight = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 6.0]])
        >>> number_needed(torch.tensor([[4.0, 3.0, 1.0]]), weight, torch.zeros(2)).tolist()
        [2]
    """
    return joined((count for _, count, _ in _needed_blocks(features, weight, bias, classes)), len(features))


def needed_frequency(features: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """Return how often each feature is among the needed ones, over the rows of each TRUE class.

    What is needed is decided for each row's predicted class.

    Args:
        features: `(N, D)`.
        weight: The head's, `(C, D)`.
        bias: The head's, `(C,)`.
        labels: `(N,)`.

    Returns:
        `(C, D)` in [0, 1]; NaN for an absent class.

    Example:
        >>> weight = torch.tensor([[1.0, 1.0], [0.0, 0.5]])
        >>> features, labels = torch.tensor([[4.0, 1.0], [1.0, 3.0]]), torch.tensor([0, 0])
        >>> needed_frequency(features, weight, torch.zeros(2), labels).tolist()
        [[0.5, 0.5], [nan, nan]]
    """
    return needed_by_class(features, weight, bias, labels)[1]


def needed_by_class(features: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return `number_needed` and `needed_frequency` in one pass over the rows.

    Args:
        features: `(N, D)`.
        weight: The head's, `(C, D)`.
        bias: The head's, `(C,)`.
        labels: `(N,)`.

    Returns:
        The number `(N,)` int64, and the frequency `(C, D)` in [0, 1]; NaN for an absent class.

    Example:
        >>> weight = torch.tensor([[1.0, 1.0], [0.0, 0.5]])
        >>> features, labels = torch.tensor([[4.0, 1.0], [1.0, 3.0]]), torch.tensor([0, 0])
        >>> number, frequency = needed_by_class(features, weight, torch.zeros(2), labels)
        >>> number.tolist(), frequency.tolist()
        ([1, 1], [[0.5, 0.5], [nan, nan]])
    """
    number = torch.empty(len(features), dtype=torch.int64, device=features.device)
    total = torch.zeros(weight.shape, dtype=torch.float64, device=features.device)
    for start, count, mask in _needed_blocks(features, weight, bias, None):
        number[start : start + len(count)] = count
        total.index_add_(0, labels[start : start + len(count)], mask.double())
    return number, (total / class_counts(labels, len(weight))[:, None]).to(features.dtype)


def match_channels(first: Tensor, second: Tensor) -> Tensor:
    """Match the features of two models by the correlation of their values on the same images.

    The permutation maximises the sum of correlations (Hungarian algorithm). A constant feature correlates 0 with
    everything.

    Args:
        first: `(N, D)`.
        second: `(N, D)`, on the same images.

    Returns:
        `(D,)` int64 permutation p: column p[i] of `second` matches column i of `first`.

    Raises:
        InputError: The shapes differ.

    References:
        Li et al., "Convergent learning: do different neural networks learn the same representations?", 2016.

    Example:
        >>> first = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 0.0]])
        >>> match_channels(first, first[:, [1, 0]]).tolist()
        [1, 0]
    """
    if first.shape != second.shape:
        raise must("second", f"have the shape of first, {tuple(first.shape)}", tuple(second.shape))
    means = [side.mean(0, dtype=torch.float64) for side in (first, second)]
    norms = [torch.zeros_like(mean) for mean in means]
    product = first.new_zeros((first.shape[1], first.shape[1]), dtype=torch.float64)
    size = max(1, _BLOCK // first.shape[1])
    for blocks in zip(first.split(size), second.split(size), strict=True):
        one, two = (block.double() - mean for block, mean in zip(blocks, means, strict=True))
        product += one.T @ two
        norms[0] += one.square().sum(0)
        norms[1] += two.square().sum(0)
    constant = [side.amax(0) == side.amin(0) for side in (first, second)]
    scale = torch.outer(norms[0], norms[1]).sqrt()
    correlation = (product / scale).masked_fill(constant[0][:, None] | constant[1] | (scale == 0), 0)
    _, partner = linear_sum_assignment(correlation.cpu().numpy(), maximize=True)
    return torch.as_tensor(partner, dtype=torch.int64, device=first.device)
