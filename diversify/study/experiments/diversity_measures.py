"""What is measured in one run of the experiment that takes class size and class diversity apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...data.diversity import small_pixels
from ...data.load import Data
from ...data.loader import Split
from ...diagnosis.near_copies import find_near_copies
from ...errors import must
from ...functional import counts, diversity, magnitude, stats
from ...functional.coverage import class_coverage
from ...network.embeddings import Embeddings
from ...network.linear_head import LinearHead
from .diversity_designs import Design
from .diversity_network import SmallNetwork, features_of
from .runs import listed

TOP_K = 10
COMPONENTS = 30  # of the pixels
MOST_MATCHED = (
    100  # images of every class, at most, on which `distinct_most` is compared; else as many as the smallest has
)
FEW_HELDOUT = (5, 10, 20)  # images of a class on which coverage is measured, too
SPACES = {
    "pixels": "pixels",
    "untrained": "untrained network",
    "early": "first layer",
    "latent": "last layer",
}
KINDS = {
    "vendi": "Vendi score",
    "effective_rank": "effective rank",
    "hill": "features in use",
    "spread": "spread",
    "cosine": "mean cosine",
    "participation": "participation ratio",
    "distance": "mean distance",
    "nearest": "distance to the nearest",
    "copies": "share left after near copies",
    "distinct": "distinct images",
    "distinct_most": "distinct images, of more",
}
OF_DIAGNOSIS = (
    "top_k_share",
    "head_norm",
    "recall_train",
    "safe",
    "border",
    "rare",
    "outlier",
)  # from training images alone


def measures_of(
    features: Tensor, labels: Tensor, num_classes: int, *, n: int, weight: Tensor | None = None
) -> dict[str, Tensor]:
    """Return each measure of `KINDS` per class `(C,)`, on n images of every class; NaN for a class with fewer.

    All but `copies` are means over random draws of n images, `distinct_most` of as many as the smallest class has. `hill` counts
    the features among the strongest of each image.

    Args:
        features: `(N, D)`.
        labels: `(N,)`.
        num_classes: C.
        n: Images of a class.
        weight: `(C, D)`, of the head, for the last layer.
    """
    centre, k = features.mean(0), min(TOP_K, features.shape[1])
    options: dict[str, Any] = {"n": n, "draws": 30, "seed": 0, "name": "diversity measures"}
    matched = diversity.matched_diversity(features, labels, num_classes, centre=centre, weight=weight, k=k, **options)
    found = {name: draw.double().mean(0) for name, draw in matched.items()}
    rows = stats.matched_rows(labels, num_classes, **options)  # (C, draws, n)
    for name in ("participation", "distance", "nearest"):
        found[name] = torch.full((num_classes,), math.nan, dtype=torch.float64)
    for c in (rows >= 0).flatten(1).any(1).nonzero().flatten().tolist():
        chosen = features[rows[c]].double()
        spread = chosen - chosen.mean(1, keepdim=True)
        gram = spread @ spread.mT
        trace = gram.diagonal(dim1=1, dim2=2).sum(1)
        found["participation"][c] = (trace**2 / gram.square().sum((1, 2)).clamp(min=1e-30)).mean()
        distance = torch.cdist(chosen, chosen)
        found["distance"][c] = distance.sum((1, 2)).mean() / (n * (n - 1))
        found["nearest"][c] = (distance + torch.eye(n) * distance.amax()).amin(2).mean()
    smallest = int(counts.class_counts(labels, num_classes).min())
    for name, size in (("distinct", n), ("distinct_most", max(2, min(smallest, MOST_MATCHED)))):
        drawn = diversity.distinct_rows(
            features, labels, num_classes, n=size, draws=30, seed=0, name="diversity measures"
        )
        found[name] = drawn.mean(0)
    nothing = features.new_zeros(len(features), num_classes)
    embeddings = Embeddings(features=features, labels=labels, logits=nothing, indices=torch.arange(len(features)))
    found["copies"] = find_near_copies(embeddings).effective_count.double() / counts.class_counts(labels, num_classes)
    return found


def pixel_components(split: Split) -> Tensor:
    """Return `(N, 30)`: the first principal components of the pixels of the training images."""
    pixels = small_pixels(split.dataset, torch.arange(len(split)))
    spread = (pixels - pixels.mean(0)).double()
    axes: Tensor = torch.linalg.eigh(spread.T @ spread).eigenvectors[:, -COMPONENTS:]
    return (spread @ axes).float()


def magnitude_ratio(train: Embeddings, heldout: Embeddings, head: LinearHead) -> Tensor:
    """Return `(C,)`: top-K magnitude on held-out over training images."""
    weight = head.effective(train.features[:1])[1]
    means = counts.class_mean(train.features, train.labels, head.num_classes) * weight
    top = magnitude.top_k(means, TOP_K)
    sides = (magnitude.top_k_magnitude(one.features, weight, one.labels, top) for one in (train, heldout))
    labels = (train.labels, heldout.labels)
    on_train, on_heldout = (
        counts.class_mean(values[:, None], own, head.num_classes)[:, 0]
        for values, own in zip(sides, labels, strict=True)
    )
    return magnitude.magnitude_ratio(on_train, on_heldout)


def coverage_of_few(train: Embeddings, heldout: Embeddings, most: int) -> dict[str, list[float | None]]:
    """Return the coverage, and the ends of its interval, with the first held-out images of every class."""
    rows = torch.cat([(heldout.labels == c).nonzero()[:most, 0] for c in range(heldout.num_classes)])
    some = heldout.select(rows)
    found = class_coverage(train.features, train.labels, some.features, some.labels, heldout.num_classes)
    return {end: listed(values) for end, values in zip(("", "low", "high"), found, strict=True)}


def all_measures(
    design: Design,
    data: Data,
    model: SmallNetwork,
    images: Tensor,
    train: Embeddings,
    untrained: Tensor,
    head: LinearHead,
) -> dict[str, Tensor]:
    """Return each measure in each space, as `SPACE_KIND`, from training images alone."""
    if data.view is None:
        raise must("view", "be known", "none")
    spaces: Mapping[str, tuple[Tensor, Tensor | None]] = {
        "pixels": (pixel_components(data.train), None),
        "untrained": (untrained, None),
        "early": (features_of(model, images, data.view)["early"], None),
        "latent": (train.features, head.effective(train.features[:1])[1]),
    }
    return {
        f"{space}_{kind}": values
        for space, (features, weight) in spaces.items()
        for kind, values in measures_of(
            features, train.labels, data.num_classes, n=design.matched, weight=weight
        ).items()
    }
