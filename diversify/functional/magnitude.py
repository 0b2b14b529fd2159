"""Which features carry a class, how strongly, how many of them are needed, and whether unseen images match.

The classification embedding (CE) of an example is its features times one row of the head, elementwise; its sum plus
the bias is that class's logit. Source: Dablain et al. 2023, "Understanding CNN fragility when learning with
imbalanced data".
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..errors import must
from .counts import class_counts
from .draws import integers

_BLOCK = 1 << 20  # numbers per float64 temporary: 8 MB


def classification_embedding(features: Tensor, weight: Tensor, classes: Tensor) -> Tensor:
    """`(N, D)` in logit units: each row of `features` times the head's row of its class."""
    return features * weight[classes]


def top_k(means: Tensor, k: int) -> Tensor:
    """`(C, K)` int64: the k largest of each row of `means` `(C, D)`, strongest first; ties go to the lower index.

    A row with a NaN, as of an absent class, gives -1 throughout, which every function below reads as NaN.

    Raises:
        InputError: k is outside [1, D].
    """
    if not 1 <= k <= means.shape[1]:
        raise must("k", f"lie in [1, {means.shape[1]}], the number of features", k)
    indices = means.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return indices.masked_fill(means.isnan().any(1, keepdim=True), -1)


def _mask_absent(values: Tensor, indices: Tensor) -> Tensor:
    return values.masked_fill(indices[..., 0] < 0, torch.nan)


def top_k_share(means: Tensor, indices: Tensor) -> Tensor:
    """`(C,)` in [0, 1]: what part of a class's positive mean CE its top-K hold; 1 at K = D.

    NaN for an absent class and where no mean is positive. The positive sum is the whole, because the logit itself can
    be smaller than a part of it.
    """
    positive = means.double().clamp(min=0)
    total = positive.sum(1)
    share = positive.gather(1, indices.clamp(min=0)).sum(1) / total
    return _mask_absent(share.clamp(max=1).where(total > 0, torch.nan), indices).to(means.dtype)


def top_k_magnitude(features: Tensor, weight: Tensor | None, labels: Tensor, indices: Tensor) -> Tensor:
    """`(N,)`: per example, the mean over its TRUE class's top-K of its CE, or of its features where `weight` is None.

    In logit units (or feature units). `indices` `(C, K)` is chosen on training data and read here on either side; NaN
    where the class has none. The mean per class over all rows, true positives or errors is `class_mean` of this.
    """
    chosen = indices[labels]  # (N, K)
    column = chosen.clamp(min=0)
    strength = features.gather(1, column).double()
    if weight is not None:
        strength = strength * weight[labels[:, None], column]
    return _mask_absent(strength.mean(1), chosen).to(features.dtype)


def magnitude_ratio(train: Tensor, heldout: Tensor) -> Tensor:
    """`(C,)`: held-out over train; 1 where they match, below 1 where unseen images excite the top-K less.

    NaN where the training magnitude is not positive, and for a class absent from either side.
    """
    return (heldout / train).where(train > 0, torch.nan)


def magnitude_gap(train: Tensor, heldout: Tensor) -> Tensor:
    """`(C,)`: train minus held-out, in the unit of the inputs; NaN for a class absent from either side."""
    return train - heldout


def _membership(indices: Tensor, num_features: int) -> Tensor:
    """`(C, D)` float64: 1 where a feature is in the class's set; zeros for an absent class."""
    member = torch.zeros(len(indices), num_features, dtype=torch.float64, device=indices.device)
    return member.scatter_(1, indices.clamp(min=0), (indices >= 0).double())


def identity_overlap(first: Tensor, second: Tensor, num_features: int) -> Tensor:
    """`(C,)` float64 in [0, 1]: the share of a class's top-K that is in both sets `(C, K)`; K / D by chance alone.

    NaN where either class is absent. Two models share identities only if they share initialisation, or after
    `match_channels`.
    """
    both = _membership(first, num_features) * _membership(second, num_features)
    return _mask_absent(_mask_absent(both.sum(1) / first.shape[1], first), second)


def identity_overlap_matrix(indices: Tensor, num_features: int) -> Tensor:
    """`(C, C)` float64 in [0, 1]: the same between every two classes; diagonal 1, NaN rows and columns when absent."""
    member = _membership(indices, num_features)
    absent = indices[:, 0] < 0
    return (member @ member.T / indices.shape[1]).masked_fill(absent[:, None] | absent, torch.nan)


def bootstrap_identity_overlap(
    features: Tensor, weight: Tensor, labels: Tensor, indices: Tensor, draws: int = 200, *, seed: int
) -> Tensor:
    """`(draws, C)` float64 in [0, 1]: the overlap of `indices` `(C, K)` with the top-K of resampled rows of each class.

    Rows are drawn with replacement inside each class; the top-K of a draw are those of its mean CE. NaN for a class
    without rows or without a top-K.
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
    """Per block of rows: its start, the number needed `(B,)` and which they are `(B, D)`."""
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
        positive, order = embedding.clamp(min=0).sort(dim=1, descending=True, stable=True)
        reached = positive.cumsum(1)
        count = (reached < target[:, None]).sum(1) + (target > 0)
        count = torch.minimum(count, (positive > 0).sum(1))
        rank = torch.arange(num_features, device=features.device)
        mask = torch.zeros_like(positive, dtype=torch.bool).scatter_(1, order, rank < count[:, None])
        yield start, count, mask
        start += len(row)


def needed_features(
    features: Tensor, weight: Tensor, bias: Tensor, classes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """How many CE the decision needs, `(N,)` int64, and which, `(N, D)` bool.

    The smallest k >= 0 such that the k largest positive CE, the bias and all negative CE together reach the
    runner-up's logit; between 0 and the number of positive CE, which it also is where rounding, or a class in
    `classes` that does not win, leaves the runner-up out of reach. `classes` `(N,)` defaults to the predicted class.
    Among equal CE the lower feature index counts first.
    """
    count = torch.empty(len(features), dtype=torch.int64, device=features.device)
    mask = torch.empty(features.shape, dtype=torch.bool, device=features.device)
    for start, block_count, block_mask in _needed_blocks(features, weight, bias, classes):
        count[start : start + len(block_count)] = block_count
        mask[start : start + len(block_count)] = block_mask
    return count, mask


def number_needed(features: Tensor, weight: Tensor, bias: Tensor, classes: Tensor | None = None) -> Tensor:
    """`(N,)` int64: the first value of `needed_features`, without the memory of the second."""
    counts = [count for _, count, _ in _needed_blocks(features, weight, bias, classes)]
    return torch.cat(counts) if counts else torch.empty(0, dtype=torch.int64, device=features.device)


def needed_frequency(features: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """`(C, D)` in [0, 1]: how often a feature is among the needed ones, over the rows with that TRUE label.

    What is needed is decided for each row's predicted class. NaN for an absent class.
    """
    total = torch.zeros(weight.shape, dtype=torch.float64, device=features.device)
    for start, count, mask in _needed_blocks(features, weight, bias, None):
        total.index_add_(0, labels[start : start + len(count)], mask.double())
    return (total / class_counts(labels, len(weight))[:, None]).to(features.dtype)


def match_channels(first: Tensor, second: Tensor) -> Tensor:
    """`(D,)` int64 permutation p: column p[i] of `second` is the partner of column i of `first`.

    Chosen for the largest sum of correlations over the same images `(N, D)` (Hungarian algorithm; Li et al. 2016,
    "Convergent learning"). A constant channel correlates 0 with everything.
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
