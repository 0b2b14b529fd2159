"""What is measured in the networks of the experiment on the paper's claims."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...diagnosis.columns import global_centre
from ...diagnosis.measure import usual_top_k
from ...functional import counts, diversity, magnitude, metrics
from ...network.embeddings import Embeddings
from ...network.linear_head import LinearHead
from . import runs

DIVERSITY_DRAWS = 50


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A trained network: its head, and the embeddings of three sets of images.

    Attributes:
        head: The head.
        train: The images that it was trained on.
        shared: The training images of the imbalanced network, which the balanced ones were trained on too.
        test: Test images.
    """

    head: LinearHead
    train: Embeddings
    shared: Embeddings
    test: Embeddings

    @property
    def hits(self) -> Tensor:
        """`(M,)` True for the test images that the network recognises."""
        return self.test.logits.argmax(1) == self.test.labels

    def embedded(self, side: Embeddings, space: str) -> tuple[Tensor, Tensor | None]:
        """Return features `(N, D)`, and the weight rows that make CE of them; None for FE, `space` "fe"."""
        features, weight, _ = self.head.effective(side.features)
        return features, weight if space == "ce" else None

    def class_means(self, side: Embeddings, space: str) -> Tensor:
        """Return the class means of CE or FE, `(C, D)`."""
        features, weight = self.embedded(side, space)
        means = counts.class_mean(features, side.labels, self.head.num_classes)
        return means if weight is None else means * weight

    def top(self, side: Embeddings, space: str) -> Tensor:
        """Return the top-K of every class on these images, `(C, K)`."""
        return magnitude.top_k(self.class_means(side, space), usual_top_k(self.head.num_features))

    def strength(self, side: Embeddings, space: str, top: Tensor) -> Tensor:
        """Return the magnitude of the top-K of its class for each image, `(N,)`."""
        features, weight = self.embedded(side, space)
        return magnitude.top_k_magnitude(features, weight, side.labels, top)

    def mean(self, values: Tensor, labels: Tensor) -> Tensor:
        """Return the mean of each class, `(C,)`; NaN where there is none."""
        return counts.class_mean(values.double(), labels, self.head.num_classes)


def recall_of(side: Embeddings, num_classes: int) -> Tensor:
    """Return the recall of each class, `(C,)`."""
    return metrics.recall(metrics.confusion_matrix(side.labels, side.logits.argmax(1), num_classes))


def class_columns(network: Network, matched: int) -> dict[str, Tensor]:
    """Return the measures of one network, each `(C,)`.

    The top-K are chosen on the network's own training images. `share` is the part of the positive mean that the top-K hold, `needed`
    the number of CE that the decision for a recognised test image needs, `overlap_classes` the mean overlap of a class's top-K with
    those of another class, `overlap_spaces` that of its top-K CE with its top-K FE.
    """
    head, train, test = network.head, network.train, network.test
    features, weight, bias = head.effective(test.features)
    needed = magnitude.number_needed(features, weight, bias)
    found = {
        "count": counts.class_counts(train.labels, head.num_classes),
        "recall_train": recall_of(train, head.num_classes),
        "recall_test": recall_of(test, head.num_classes),
        "needed": network.mean(needed[network.hits], test.labels[network.hits]),
        "diversity": diversity_of(network, matched),
    }
    tops = {space: network.top(train, space) for space in ("ce", "fe")}
    for space, top in tops.items():
        between = magnitude.identity_overlap_matrix(top, head.num_features)
        strength = network.strength(test, space, top)
        found |= {
            f"share_{space}": magnitude.top_k_share(network.class_means(train, space), top),
            f"overlap_classes_{space}": between.fill_diagonal_(math.nan).nanmean(1),
            f"magnitude_{space}_train": network.mean(network.strength(train, space, top), train.labels),
            f"magnitude_{space}_test": network.mean(strength, test.labels),
            f"magnitude_{space}_hits": network.mean(strength[network.hits], test.labels[network.hits]),
            f"magnitude_{space}_misses": network.mean(strength[~network.hits], test.labels[~network.hits]),
        }
    found["overlap_spaces"] = magnitude.identity_overlap(tops["ce"], tops["fe"], head.num_features)
    return found


def diversity_of(network: Network, matched: int) -> Tensor:
    """Return the Vendi score of the training features at equally many images of every class, `(C,)`."""
    side, num_classes = network.train, network.head.num_classes
    centre = global_centre(counts.class_mean(side.features, side.labels, num_classes))
    found = diversity.matched_diversity(
        side.features,
        side.labels,
        num_classes,
        centre=centre,
        weight=None,
        k=1,
        n=matched,
        draws=DIVERSITY_DRAWS,
        seed=0,
        name="paper",
    )
    return found["vendi"].double().mean(0)


def shared_columns(network: Network, common: Tensor) -> dict[str, Tensor]:
    """Return the measures that are taken on the same images in all three networks, each `(C,)`.

    Magnitudes are those of the top-K on the images of `shared`; the number needed is over the test images in `common`.
    """
    features, weight, bias = network.head.effective(network.test.features[common])
    needed = magnitude.number_needed(features, weight, bias)
    found = {"needed_shared": network.mean(needed, network.test.labels[common])}
    for space in ("ce", "fe"):
        strength = network.strength(network.shared, space, network.top(network.shared, space))
        found[f"magnitude_{space}_shared"] = network.mean(strength, network.shared.labels)
    return found


def pair_columns(first: Network, second: Network, common: Tensor) -> dict[str, Tensor]:
    """Return how the same classes differ between two networks, each `(C,)`.

    `identity` is the overlap of the top-K on the images of `shared`. `frequency` is the distance, in [0, 1], between the distributions
    over features of the CE that are needed, for the test images in `common`. The channels of the second network are matched to those
    of the first by their correlation on test images.
    """
    partner = magnitude.match_channels(first.test.features, second.test.features)
    place = torch.argsort(partner)
    found: dict[str, Tensor] = {}
    for space in ("ce", "fe"):
        one, two = (network.top(network.shared, space) for network in (first, second))
        moved = torch.where(two < 0, two, place[two.clamp(min=0)])
        found[f"identity_{space}"] = magnitude.identity_overlap(one, moved, first.head.num_features)
    used = []
    for network in (first, second):
        features, weight, bias = network.head.effective(network.test.features[common])
        frequency = magnitude.needed_frequency(features, weight, bias, network.test.labels[common]).double()
        used.append(frequency / frequency.sum(1, keepdim=True))
    return found | {"frequency": (used[0] - used[1][:, partner]).abs().sum(1) / 2}


def record_of(networks: Mapping[str, Network], matched: int) -> dict[str, Any]:
    """Return the measures of the three networks of `NETWORKS`, as a record holds them."""
    common = torch.stack([network.hits for network in networks.values()]).all(0)
    return {
        "networks": {
            name: listed(class_columns(network, matched) | shared_columns(network, common))
            for name, network in networks.items()
        },
        "against_balanced": {
            name: listed(pair_columns(networks["balanced"], networks[name], common)) for name in ("imbalanced", "again")
        },
    }


def listed(columns: Mapping[str, Tensor]) -> dict[str, list[float | None]]:
    """Return numbers with six digits, null where undefined."""
    return {name: runs.listed(column.double()) for name, column in columns.items()}
