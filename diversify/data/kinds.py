"""The kinds that a class is made of: fine classes of a public data set, or clusters of a class's images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..functional import draws
from .prepare import with_labels
from .sources import Source

CLUSTERS = 5  # kinds of a class whose source names none

_CIFAR100 = {
    "aquatic mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food containers": "bottle bowl can cup plate",
    "fruit and vegetables": "apple mushroom orange pear sweet_pepper",
    "household electrical devices": "clock keyboard lamp telephone television",
    "household furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large carnivores": "bear leopard lion tiger wolf",
    "large man-made outdoor things": "bridge castle house road skyscraper",
    "large natural outdoor scenes": "cloud forest mountain plain sea",
    "large omnivores and herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium-sized mammals": "fox porcupine possum raccoon skunk",
    "non-insect invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles 1": "bicycle bus motorcycle pickup_truck train",
    "vehicles 2": "lawn_mower rocket streetcar tank tractor",
}
GROUPS: Mapping[str, Mapping[str, Sequence[int | str]]] = {  # of a source: the kinds of each class, by number or name
    "cifar100": {name: members.split() for name, members in _CIFAR100.items()},
    "fashion-mnist": {
        "T-shirt or shirt": (0, 6),
        "pullover or coat": (2, 4),
        "trouser or dress": (1, 3),
        "sandal or sneaker": (5, 7),
        "bag or ankle boot": (8, 9),
    },
    "mnist": {f"{digit} or {digit + 1}": (digit, digit + 1) for digit in range(0, 10, 2)},
}


def joined_kinds(source: Source, spec: str) -> tuple[Source, Tensor | None]:
    """Return the source with the fine classes of `GROUPS` joined, and the fine class of each training image.

    A source that has no groups is returned as it is, with None: its kinds are clusters, see `cluster_kinds`.

    Args:
        source: The source.
        spec: Its name.

    Example:
        >>> sorted(GROUPS["mnist"])
        ['0 or 1', '2 or 3', '4 or 5', '6 or 7', '8 or 9']
    """
    if spec not in GROUPS or source.class_names is None:
        return source, None
    number = {name: fine for fine, name in enumerate(source.class_names)}
    class_of = torch.empty(len(source.class_names), dtype=torch.int64)
    for c, members in enumerate(GROUPS[spec].values()):
        class_of[[number[each] if isinstance(each, str) else each for each in members]] = c
    splits = {
        name: (with_labels(dataset, class_of[labels]), class_of[labels])
        for name, (dataset, labels) in source.splits.items()
    }
    note = f"the {len(class_of)} classes of {spec} are the kinds of {len(GROUPS[spec])} classes"
    joined = dataclasses.replace(
        source, splits=splits, class_names=tuple(GROUPS[spec]), notes=(*source.notes, note), mirror=source.mirror
    )
    return joined, source.splits["train"][1]


def cluster_kinds(features: Tensor, seed: int, name: int) -> Tensor:
    """Return the cluster `(N,)` of each image of a class, by k-means.

    Args:
        features: `(N, D)`, see `diversity.pixel_components`.
        seed: Seed of the first centres.
        name: Number of the class, part of the key of the draw.

    Example:
        >>> groups = torch.eye(5).repeat_interleave(4, 0) * 9
        >>> cluster_kinds(groups, 0, 0).view(5, 4).unique(dim=1).numel()
        5
    """
    from sklearn.cluster import KMeans

    clusters = min(CLUSTERS, len(features))
    state = draws.seed_for("diversity clusters", seed, name) % 2**32
    found = KMeans(clusters, n_init=4, random_state=state).fit(features.numpy())
    return torch.from_numpy(found.labels_.astype("int64"))
