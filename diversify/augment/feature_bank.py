"""The training features that feature augmentation takes partners and covariances from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import must
from ..functional import counts, draws, magnitude, oversample
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead
from ..plan.plan import Plan
from .known_neighbors import KnownNeighbors

TOP_K = 10  # features of a class that "magnitude" shrinks


def keep(module: nn.Module, name: str, values: Tensor) -> None:
    """Keep a tensor in a module as a buffer that moves with it and is not part of its state."""
    module.register_buffer(name, values, persistent=False)


class FeatureBank(nn.Module):
    """Training features, with what depends on them alone: rows by class, class means, lowest value.

    Attributes:
        features: `(M, D)`.
        labels: `(M,)`.
        whole: True if the bank holds the whole training set, so that rows can be looked up by image.
    """

    features: Tensor
    labels: Tensor
    row_of_image: Tensor
    order: Tensor
    start: Tensor
    count: Tensor
    means: Tensor
    lowest: Tensor
    whole: bool

    def __init__(self, embeddings: Embeddings, known: KnownNeighbors | None = None) -> None:
        super().__init__()
        self._known = known
        self._nearest: tuple[Tensor, KnownNeighbors] | None = None
        self.fill(embeddings, embeddings.features.device)

    def fill(self, embeddings: Embeddings, device: torch.device) -> None:
        """Replace the rows; they are put on this device."""
        features, labels = embeddings.features.detach().to(device), embeddings.labels.to(device)
        indices = embeddings.indices.to(device)
        keep(self, "features", features)
        keep(self, "labels", labels)
        everything = torch.arange(len(indices), device=device)
        self.whole = embeddings.reading.indices_known and bool(torch.equal(indices.sort().values, everything))
        keep(self, "row_of_image", indices.argsort() if self.whole else everything[:0])
        for name, values in zip(
            ("order", "start", "count"), oversample.by_class(labels, embeddings.num_classes), strict=True
        ):
            keep(self, name, values)
        keep(self, "means", counts.class_mean(features, labels, embeddings.num_classes))
        keep(self, "lowest", torch.where((features >= 0).all(), 0.0, -torch.inf))
        self._checked = False
        own = self._known is not None and self._known.features is embeddings.features
        self._nearest = (features, self._known) if own and self._known is not None else None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def nearest(self) -> KnownNeighbors:
        """The nearest rows of the rows, where the rows are now."""
        if self._nearest is None or self._nearest[0] is not self.features:
            self._nearest = self.features, KnownNeighbors(self.features)
        return self._nearest[1]

    @property
    def by_class(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows sorted by class, and first place and number of each class, as `oversample.row_of` takes them."""
        return self.order, self.start, self.count

    def rows_of(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the rows `(N,)` of training images, given by their places in the training set.

        The first call after `fill` checks the images; later ones do not, since a check waits for the device.

        Raises:
            InputError: an image is not in the bank or has another label there.
        """
        indices = images.to(self.features.device)
        if not self._checked:
            advice = "extract the bank from the training set itself, or give no key"
            if bool((indices < 0).any() or (indices >= len(self)).any()):
                law = f"lie in [0, {len(self) - 1}], the rows of the bank"
                raise must("indices", law, int(indices.max()), advice)
            if targets.ndim == 1 and not torch.equal(self.labels[self.row_of_image[indices]], targets):
                raise must("indices", "name images with the labels of the bank", "other labels", advice)
            self._checked = True
        rows: Tensor = self.row_of_image[indices]
        return rows

    def strongest_features(self, head: LinearHead | None) -> Tensor:
        """Return which features are each class's top-K, `(C, D)` bool; none for classes without rows.

        Features are ranked by the mean classification embedding under `head`; by the mean feature without a head, and for a
        class whose weights are all 0, as class 0 of a head with a single logit.
        """
        means = self.means
        if head is not None:
            rows, weight, _ = head.effective(self.features.cpu())
            embedding = magnitude.classification_embedding(rows, weight, self.labels.cpu())
            weighed = counts.class_mean(embedding, self.labels.cpu(), len(weight)).to(self.features.device)
            means = weighed.where(weight.any(1, keepdim=True).to(weighed.device), means)
        best = magnitude.top_k(means, min(TOP_K, means.shape[1]))
        chosen = torch.zeros_like(means, dtype=torch.bool).scatter_(1, best.clamp(min=0), True)
        return chosen & ~means.isnan()


class ClassPartners(nn.Module):
    """Draws partners from the bank by class: of named classes for "toward_enemies", of all classes for mixing.

    Attributes:
        has_enemies: True for classes that the plan sends toward classes of which the bank has rows, `(C,)`.
    """

    partner_share: Tensor
    enemy_class: Tensor
    enemy_share: Tensor
    has_enemies: Tensor

    def __init__(self, bank: FeatureBank, plan: Plan) -> None:
        super().__init__()
        self.bank = bank
        present = bank.count > 0
        weight = plan.draws.to(present.device) * present
        anyone = torch.where(weight.sum() > 0, weight, present.double())[None]
        keep(self, "partner_share", anyone)
        enemy, share = _enemies(plan, present.tolist())
        keep(self, "has_enemies", (share.sum(1) > 0).to(present.device))
        keep(self, "enemy_class", enemy.to(present.device))
        keep(self, "enemy_share", share.where(share.sum(1, keepdim=True) > 0, 1.0).to(present.device))

    def enemy(self, classes: Tensor, key: tuple[str | int | Tensor, ...]) -> Tensor:
        """Draw rows of the bank `(N,)` from the classes that the plan sends each class toward; any rows where there are none."""
        place = oversample.class_of(self.enemy_share[classes], draws.uniform("enemy class", *key))
        label = self.enemy_class[classes].gather(1, place)
        return oversample.row_of(label, self.bank.by_class, draws.uniform("enemy row", *key))[:, 0]

    def anyone(self, key: tuple[str | int | Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Draw rows of the bank and their classes, both `(N,)`, with the class frequencies of the plan."""
        draw = draws.uniform("partner class", *key)  # (N, 1)
        label = oversample.class_of(self.partner_share.expand(len(draw), -1), draw)
        row = oversample.row_of(label, self.bank.by_class, draws.uniform("partner row", *key))
        return row[:, 0], label[:, 0]


def _enemies(plan: Plan, present: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """The classes with rows that each class is sent toward, in order, and their shares, both `(C, E)`; shares of 0 fill up."""
    number = {one.name: c for c, one in enumerate(plan.classes)}
    named = []
    for one in plan.classes:
        toward = {number[name]: share for policy in one.features for name, share in policy.toward.items()}
        named.append(sorted((c, share) for c, share in toward.items() if present[c] and share > 0))
    most, any_class = max(1, *map(len, named)), next((c for c, some in enumerate(present) if some), 0)
    filled = [row + [(any_class, 0.0)] * (most - len(row)) for row in named]
    enemy = torch.tensor([[c for c, _ in row] for row in filled])
    return enemy, torch.tensor([[share for _, share in row] for row in filled], dtype=torch.float64)
