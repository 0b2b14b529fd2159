"""Fit a head on features for which there is none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import must
from ..network.embeddings import class_indices, real_tensor, require_finite, require_labels
from ..network.linear_head import LinearHead

WEIGHT_DECAY = 5e-4  # on the weight, for features of mean squared length 1 per dimension
STEPS = 200


def fit_head(features: Any, labels: Any, num_classes: int) -> LinearHead:
    """Return a linear head fitted on features by plain cross entropy: no class is weighted.

    The whole of the features is used in every step (L-BFGS from zeros, at most 200 steps, weight decay 5e-4 on features
    scaled to a mean square of 1), so nothing is random.

    Args:
        features: `(N, D)` of the training images, a tensor or an array.
        labels: One class per row: integers in [0, C - 1], whole floats or one-hot rows; a tensor, an array, a list or a
            pandas Series.
        num_classes: C.

    Raises:
        InputError: There are no rows, the rows differ in number, a label is out of range, or a value is not finite.

    Example:
        >>> import diversify as dv
        >>> train, heldout, _ = dv.make_embeddings()
        >>> head = dv.fit_head(train.features, train.labels, train.num_classes)
        >>> round(float((head.logits(heldout.features).argmax(1) == heldout.labels).float().mean()), 1)
        0.8
    """
    if not isinstance(features, Tensor):
        features = real_tensor("features", features, 2)
    if features.ndim != 2 or not len(features):
        raise must("features", "have shape (N, D) with at least one row", tuple(features.shape))
    labels = class_indices("labels", labels).to(features.device)
    if labels.shape != features.shape[:1]:
        raise must("labels", f"have one label per row, {len(features)}", tuple(labels.shape))
    features = features.detach().float()
    require_labels(labels, num_classes)
    require_finite("features", features)
    scale = float(features.double().square().mean().sqrt()) or 1.0
    rows = features / scale
    weight = torch.zeros(num_classes, features.shape[1], device=rows.device, requires_grad=True)
    bias = torch.zeros(num_classes, device=rows.device, requires_grad=True)
    search = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        loss = functional.cross_entropy(functional.linear(rows, weight, bias), labels)
        loss = loss + 0.5 * WEIGHT_DECAY * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        search.step(closure)
    return LinearHead(weight=(weight.detach() / scale).cpu(), bias=bias.detach().cpu())
