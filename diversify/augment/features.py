"""Features of a batch varied on their device, as a plan says for each class."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from ..errors import must
from ..functional import counts, draws, magnitude, mixing, oversample
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead
from ..plan.plan import Plan
from .draw_key import DrawKey, is_whole

TOP_K = 10  # features of a class that magnitude matching shrinks
DANGER_NEIGHBORS = 10  # among which borderline_smote looks for enemies
ISDA_ROWS = 64  # that stand for a class's covariance above 256 features
_BETWEEN_NEIGHBORS = ("eos", "smote", "borderline_smote")
_MIXED_LABELS = ("manifold_mixup", "remix")


class FeatureAugmenter(nn.Module):
    """Sends each row of a batch through at most one of its class's feature methods; one line before the head.

        features, targets = augment(features, targets)      # in training; in eval() nothing is changed
        logits = augment.adjust_logits(head(features), targets, head.weight)

    The base is the row itself, so that gradients reach the backbone. Everything else comes from the bank, the training
    `embeddings` it was made with, and carries no gradient: neighbours, donors of covariance, and the partners of
    `manifold_mixup` and `remix`, whose classes are drawn as the plan draws them and whose labels the targets are mixed
    with. Targets become `(N, C)` float32 where some class of the plan mixes labels, and stay as they are otherwise.

    `toward_enemies` goes toward a row of another class, drawn as the plan's `toward` says, and leaves a class alone of whose
    partners the bank holds none. `eos` goes toward an enemy among the row's k nearest neighbours, toward one of its k
    nearest rows of the same class where there is none, and leaves the only row of a class as it is. `borderline_smote`
    leaves rows as they are that are not in danger. Neighbours are those of the row's image in the bank, found once, where
    the bank holds the whole training set (its `indices` are 0 to M - 1) and the key says which images these are; else they
    are looked up for the features as they come, at about the cost of one product of batch and bank, and the row's own
    place in the bank may be among them. `magnitude` shrinks the 10 features that are the class's strongest in the mean
    classification embedding of the bank, with `head`, or in the mean feature without one. `isda` changes no features but
    logits, in `adjust_logits`.

    Every draw is a function of (seed, epoch, step, row): an image that is drawn several times in an epoch is varied each
    time anew. Without a key the seed is this one's own, the epoch is that of `set_epoch`, and steps are counted from it.
    The bank lies in buffers that move with `.to(device)` and are not part of the `state_dict`.

    Raises:
        InputError: plan and embeddings are of different numbers of classes, or the embeddings hold no row.
    """

    bank: Tensor
    bank_labels: Tensor
    _row_of_image: Tensor
    _order: Tensor
    _start: Tensor
    _count: Tensor
    _means: Tensor
    _lowest: Tensor
    _share: Tensor
    _strength: Tensor
    _neighbors: Tensor
    _class_counts: Tensor
    _partner_share: Tensor
    _enemy_share: Tensor
    _has_enemies: Tensor
    _covariance_donors: Tensor
    _strongest: Tensor
    _covariance_place: Tensor
    _covariance_factors: Tensor
    _isda_factors: Tensor
    _isda_classes: Tensor

    def __init__(self, plan: Plan, embeddings: Embeddings, *, seed: int = 0, head: LinearHead | None = None) -> None:
        super().__init__()
        if not isinstance(plan, Plan):
            raise must("plan", "be a Plan", type(plan).__name__, "Plan.from_dict makes one of JSON values")
        if not isinstance(embeddings, Embeddings):
            raise must("embeddings", "be Embeddings", type(embeddings).__name__, "extract makes them")
        self.seed, self.epoch, self.step = seed, 0, 0
        self.head = head
        self.factor = 1.0
        self._epochs: int | None = None
        self._require_classes(plan, embeddings.num_classes)
        if head is not None and head.weight.shape != (embeddings.num_classes, embeddings.num_features):
            law = f"have weights of shape {(embeddings.num_classes, embeddings.num_features)}, as the embeddings"
            raise must("head", law, tuple(head.weight.shape))
        self.plan = plan
        self.refresh(embeddings)

    # What it is made of

    def refresh(self, embeddings: Embeddings) -> None:
        """Take another bank, extracted after some epochs; neighbours, covariances and top-K are those of it."""
        self._require_classes(self.plan, embeddings.num_classes)
        if not len(embeddings):
            raise must("embeddings", "hold at least one row", 0)
        if self._buffers and embeddings.num_features != self.bank.shape[1]:
            raise must("embeddings", f"have {self.bank.shape[1]} features, as before", embeddings.num_features)
        device = self.bank.device if self._buffers else embeddings.features.device
        features, labels = embeddings.features.detach().to(device), embeddings.labels.to(device)
        indices = embeddings.indices.to(device)
        self._keep("bank", features)
        self._keep("bank_labels", labels)
        everything = torch.arange(len(indices), device=device)
        self.whole = bool(torch.equal(indices.sort().values, everything))
        self._keep("_row_of_image", indices.argsort() if self.whole else everything[:0])
        order, start, count = oversample.by_class(labels, embeddings.num_classes)
        for name, values in (("_order", order), ("_start", start), ("_count", count)):
            self._keep(name, values)
        self._keep("_means", counts.class_mean(features, labels, embeddings.num_classes))
        self._keep("_lowest", torch.where((features >= 0).all(), 0.0, -torch.inf))
        self._partners: dict[tuple[str, int, int], tuple[Tensor, Tensor, Tensor]] = {}
        self.use(self.plan)

    def use(self, plan: Plan) -> Self:
        """Follow another plan of the same classes from the next batch on."""
        self._require_classes(plan, len(self._count))
        self.plan = plan
        self.methods = plan.feature_methods
        device = self.bank.device
        for name in ("share", "strength", "neighbors"):
            columns = [plan.feature_column(method, name) for method in self.methods]
            values = torch.stack(columns, 1) if columns else torch.zeros(plan.num_classes, 0)
            self._keep(f"_{name}", values.to(device))
        self._neighbors.clamp_(max=len(self.bank))
        self._widest = [int(column.max()) for column in self._neighbors.T]
        self._keep("_class_counts", plan.class_counts.to(device))
        present = self._count > 0
        weight = plan.draws.to(device) * present
        anyone = torch.where(weight.sum() > 0, weight, present.double())[None]
        self._keep("_partner_share", anyone)
        enemies = plan.enemies.to(device) * present
        self._keep("_has_enemies", enemies.sum(1) > 0)
        self._keep("_enemy_share", torch.where(self._has_enemies[:, None], enemies, anyone))
        self._checked = False
        if self.whole:
            for method in self.methods:
                if method in _BETWEEN_NEIGHBORS:
                    self._prepare_partners(method)
        if "magnitude" in self.methods:
            self._keep("_strongest", self._top_k())
        for method in {"covariance", "isda"} & set(self.methods):
            self._prepare_covariance(method)
        self._schedule()
        return self

    def set_epoch(self, epoch: int, epochs: int | None = None) -> None:
        """The epoch of draws without a key, counted from 0; with `epochs`, also the plan's schedule at this one."""
        self.epoch, self.step, self._epochs = epoch, 0, epochs
        self._schedule()

    def _schedule(self) -> None:
        self.factor = 1.0 if self._epochs is None else self.plan.schedule.features_at(self.epoch, self._epochs)

    def _keep(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values, persistent=False)

    def _require_classes(self, plan: Plan, num_classes: int) -> None:
        if plan.num_classes != num_classes:
            raise must("plan", f"have {num_classes} classes, as the embeddings", plan.num_classes)

    def _users(self, method: str) -> list[int]:
        """The classes that use a method."""
        column = self._share[:, self.methods.index(method)] > 0
        return [int(index) for index in (column & (self._count > 0)).nonzero().flatten().tolist()]

    def _prepare_partners(self, method: str) -> None:
        """For every row of the bank whose class uses the method: possible partners `(M, k)`, and how many, `(M,)`."""
        place = self.methods.index(method)
        table = self._order.new_zeros(len(self.bank), self._widest[place])
        count = self._order.new_zeros(len(self.bank))
        for index in self._users(method):
            k = int(self._neighbors[index, place])
            rows, partners, found = self._partners_of(method, index, k)
            table[rows, : partners.shape[1]] = partners
            count[rows] = found
        self._keep(f"_{method}_table", table)
        self._keep(f"_{method}_count", count)

    def _partners_of(self, method: str, index: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
        if (method, index, k) not in self._partners:
            rows = (self.bank_labels == index).nonzero().flatten()
            table, count = oversample.siblings(self.bank, self.bank_labels, rows, k)
            if method == "borderline_smote":
                m = min(DANGER_NEIGHBORS, len(self.bank) - 1)
                enemies = oversample.eos_partners(self.bank, self.bank_labels, rows, m)[1]
                count = count * oversample.in_danger(enemies, m)
            elif method == "eos":
                enemies, found = oversample.eos_partners(self.bank, self.bank_labels, rows, k)
                width = enemies.shape[1]
                table[:, :width] = torch.where(found[:, None] > 0, enemies, table[:, :width])
                count = torch.where(found > 0, found, count)
            self._partners[method, index, k] = rows, table, count
        return self._partners[method, index, k]

    def _top_k(self) -> Tensor:
        """`(C, D)` bool: the strongest features of each class; none of an absent one."""
        means = self._means
        if self.head is not None:
            rows, weight, _ = self.head.effective(self.bank.cpu())
            embedding = magnitude.classification_embedding(rows, weight, self.bank_labels.cpu())
            means = counts.class_mean(embedding, self.bank_labels.cpu(), len(weight)).to(self.bank.device)
        best = magnitude.top_k(means, min(TOP_K, means.shape[1]))
        chosen = torch.zeros_like(means, dtype=torch.bool).scatter_(1, best.clamp(min=0), True)
        return chosen & ~means.isnan()

    def _prepare_covariance(self, method: str) -> None:
        """`(U, M, D)` factors of the covariances that the method's classes use, and each class's place among them."""
        column = self._share[:, self.methods.index(method)] > 0
        users = column.nonzero().flatten()
        pooled = self.plan.feature_column(method, "pooled").to(column.device) > 0
        similar = oversample.similar_donors(self._means, self._count)
        donors = torch.where(pooled[:, None], oversample.pooled_donors(self._count), similar)
        self._keep(f"_{method}_donors", donors)
        self._keep(f"_{method}_place", (column.cumsum(0) - 1).clamp(min=0))
        self._keep(f"_{method}_classes", users)
        if self.bank.shape[1] <= oversample.FACTORED:
            covariance = oversample.donor_covariance(self.bank, self.bank_labels, donors, users)
            self._keep(f"_{method}_factors", oversample.factor(covariance).float())
        elif method == "isda":
            key = self.seed, users[:, None], torch.arange(ISDA_ROWS, device=users.device)
            drawn = draws.uniform("isda donor", *key), draws.uniform("isda row", *key)
            rows = oversample.donor_residuals(self.bank, self._means, donors[users], self._grouped(), drawn)
            self._keep(f"_{method}_factors", rows / ISDA_ROWS**0.5)

    def _grouped(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._order, self._start, self._count

    # In the loop

    def forward(self, features: Tensor, targets: Tensor, key: DrawKey | None = None) -> tuple[Tensor, Tensor]:
        """The batch, varied: `(N, D)` features and the targets they have.

        Args:
            features: `(N, D)` of any floating type, on the device of this module.
            targets: Classes `(N,)`, or label distributions `(N, C)`, whose largest share is taken for the class.
            key: Where these images are in the training set, and what the draws depend on.
        """
        if not self.training or not self.methods:
            return features, targets
        self._require_rows(features, targets)
        row = torch.arange(len(features), device=features.device)
        if key is None:
            origin: tuple[Any, ...] = (self.seed, self.epoch, self.step, row)
            indices = None
            self.step += 1
        else:
            origin, indices = (key.seed, key.epoch, key.step, row), self._rows_of(key.indices, targets)
        return self._vary(features, targets, origin, indices)

    def vary_steps(self, features: Tensor, seed: int, step: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Batches of several steps in one go, of a bank that holds the whole training set and does not change between them.

        The draws are those of `forward` with `DrawKey(seed=seed, epoch=0, step=step[i], indices=indices[i])` for every i.

        Args:
            features: `(S, B, D)`.
            seed: Of the draws.
            step: `(S,)`.
            indices: `(S, B)` as in a key.

        Returns:
            `(S, B, D)` features and `(S, B)` or `(S, B, C)` targets.
        """
        number, batch = indices.shape
        rows = torch.arange(batch, device=features.device).repeat(number)
        targets = self.bank_labels[self._row_of_image[indices.flatten()]]
        if not self.training or not self.methods:
            return features, targets.view(number, batch)
        origin = (seed, 0, step.repeat_interleave(batch), rows)
        made, targets = self._vary(features.flatten(0, 1), targets, origin, self._rows_of(indices.flatten(), targets))
        return made.view_as(features), targets.unflatten(0, (number, batch))

    def _vary(
        self, features: Tensor, targets: Tensor, origin: tuple[Any, ...], indices: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The rows varied by draws of `origin`: seed, epoch, step and `(N,)` rows, and `indices` `(N,)` into the bank."""
        classes = targets if targets.ndim == 1 else targets.argmax(1)
        ends = (self.factor * self._share).cumsum(1)[classes]
        method_of = (draws.uniform("feature method", *origin)[:, None] >= ends).sum(1)
        if any(method in _MIXED_LABELS for method in self.methods):
            targets = self._soft(targets)
        base = features
        for place, method in enumerate(self.methods):
            if method == "isda":
                continue
            strength = self.factor * self._strength[classes, place]
            chosen = (method_of == place) & (strength > 0)
            draw = draws.uniform(method, *origin)
            key_of = (method, *(part[:, None] if isinstance(part, Tensor) else part for part in origin))
            if method in _BETWEEN_NEIGHBORS:
                pick = draws.uniform(method, "partner", *origin)
                made, chosen = self._toward(method, base, classes, indices, chosen, draw, pick, strength)
            elif method == "toward_enemies":
                partner = self._enemy(classes, key_of)
                made = oversample.interpolate(base, self.bank[partner].to(base.dtype), draw, strength)
                chosen = chosen & self._has_enemies[classes]
            elif method == "covariance":
                noise = self._noise(classes, chosen, key_of)
                made = oversample.add_noise(base, noise, strength, self._lowest)
            elif method == "magnitude":
                made = oversample.shrink(base, self._strongest[classes], draw, strength)
            else:
                partner, label = self._anyone(key_of)
                made = oversample.interpolate(base, self.bank[partner].to(base.dtype), draw, strength)
                share = strength * draw
                if method == "remix":
                    counted = self._class_counts[classes], self._class_counts[label]
                    share = 1 - mixing.remix_shares(1 - share, *counted)
                others = nn.functional.one_hot(label, self.plan.num_classes)
                targets = torch.where(chosen[:, None], oversample.mix_labels(targets, others, share), targets)
            features = torch.where(chosen[:, None], made, features)
        return features, targets

    def adjust_logits(self, logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        """ISDA's closed form: the logits whose cross entropy bounds that over Gaussian features, `(N, C)`.

        lambda is strength times share, times the schedule's factor (Wang et al. 2019 let it grow linearly), and the covariance
        of a class is that of its policy's `donors`, as for `covariance`. The logits themselves in `eval()`, where no class uses
        "isda", and of a row whose label is shared between classes: the bound is of one.

        Args:
            logits: `(N, C)`, of the features as they are.
            targets: `(N,)` or `(N, C)`, as `forward` gives them.
            weight: The head's `(C, D)` parameter; gradients flow into it.
        """
        if not self.training or "isda" not in self.methods:
            return logits
        if weight.shape != self._means.shape:
            raise must("weight", f"have shape {tuple(self._means.shape)}", tuple(weight.shape))
        place = self.methods.index("isda")
        strength = self.factor * self._strength[:, place] * self._share[:, place]
        classes = targets if targets.ndim == 1 else targets.argmax(1)
        raised = oversample.isda_logits(logits, classes, weight, self._isda_factors, self._isda_classes, strength)
        return torch.where(is_whole(targets, classes)[:, None], raised, logits)

    def _require_rows(self, features: Tensor, targets: Tensor) -> None:
        if features.ndim != 2 or features.shape[1] != self.bank.shape[1]:
            raise must("features", f"have shape (N, {self.bank.shape[1]})", tuple(features.shape))
        if targets.shape not in (features.shape[:1], (len(features), self.plan.num_classes)):
            law = f"have shape ({len(features)},) or ({len(features)}, {self.plan.num_classes})"
            raise must("targets", law, tuple(targets.shape))
        if targets.ndim == 1 and targets.device.type == "cpu":  # elsewhere it would have to be waited for
            outside = (targets < 0) | (targets >= self.plan.num_classes)
            if bool(outside.any()):
                law = f"lie in [0, {self.plan.num_classes - 1}], the classes of the plan"
                raise must("targets", law, int(targets[outside][0]))

    def _rows_of(self, images: Tensor, targets: Tensor) -> Tensor | None:
        """`(N,)` the places of these images in the bank, where it holds the whole training set."""
        if not self.whole or not any(method in _BETWEEN_NEIGHBORS for method in self.methods):
            return None
        indices = images.to(self.bank.device)
        if not self._checked:  # once per bank, for it has to wait for the device
            advice = "extract the bank from the training set itself, or give no key"
            if bool((indices < 0).any() or (indices >= len(self.bank)).any()):
                raise must(
                    "indices", f"lie in [0, {len(self.bank) - 1}], the rows of the bank", int(indices.max()), advice
                )
            if targets.ndim == 1 and not torch.equal(self.bank_labels[self._row_of_image[indices]], targets):
                raise must("indices", "name images with the labels of the bank", "other labels", advice)
            self._checked = True
        rows: Tensor = self._row_of_image[indices]
        return rows

    def _soft(self, targets: Tensor) -> Tensor:
        if targets.ndim == 2:
            return targets.float()
        return nn.functional.one_hot(targets, self.plan.num_classes).float()

    def _toward(
        self,
        method: str,
        base: Tensor,
        classes: Tensor,
        indices: Tensor | None,
        chosen: Tensor,
        draw: Tensor,
        pick: Tensor,
        strength: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Rows on the way to a neighbour, and which rows have one."""
        if indices is not None:
            table, count = getattr(self, f"_{method}_table")[indices], getattr(self, f"_{method}_count")[indices]
            partner = oversample.pick(table, count, pick)
            made = oversample.interpolate(base, self.bank[partner].to(base.dtype), draw, strength)
            return made, chosen & (count > 0)
        rows = chosen.nonzero().flatten()
        table, count = self._look_up(method, base[rows].detach().to(self.bank.dtype), classes[rows])
        partner = oversample.pick(table, count, pick[rows])
        step = torch.where(count > 0, draw[rows], 0)
        near = oversample.interpolate(base[rows], self.bank[partner].to(base.dtype), step, strength[rows])
        return base.index_copy(0, rows, near), chosen

    def _look_up(self, method: str, rows: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Possible partners in the bank `(R, k)` of features that have no row in it, and how many, `(R,)`."""
        place = self.methods.index(method)
        limit = self._neighbors[classes, place].long()[:, None]
        width = min(max(int(self._widest[place]), DANGER_NEIGHBORS), len(self.bank))
        rank = torch.arange(width, device=rows.device)
        distance = torch.cdist(rows, self.bank)  # (R, M)
        other = self.bank_labels != classes[:, None]
        near = distance.topk(width, dim=1, largest=False).indices
        enemy = other.gather(1, near)
        near_siblings = distance.masked_fill(other, torch.inf).topk(width, dim=1, largest=False)
        found = ((near_siblings.values < torch.inf) & (rank < limit)).sum(1)
        if method == "smote":
            return near_siblings.indices, found
        if method == "borderline_smote":
            m = min(DANGER_NEIGHBORS, width)
            return near_siblings.indices, found * oversample.in_danger(enemy[:, :m].sum(1), m)
        enemy &= rank < limit
        enemies = near.gather(1, enemy.to(torch.uint8).argsort(dim=1, descending=True, stable=True))
        count = enemy.sum(1)
        table = torch.where(count[:, None] > 0, enemies, near_siblings.indices)
        return table, torch.where(count > 0, count, found)

    def _noise(self, classes: Tensor, chosen: Tensor, key: tuple[str | int | Tensor, ...]) -> Tensor:
        """`(N, D)` noise for the chosen rows; on the CPU none for the others, elsewhere for all: nothing waits for it."""
        if classes.device.type != "cpu":
            return self._noise_of(classes, key)
        picked = chosen.nonzero().flatten()
        noise = self.bank.new_zeros(len(classes), self.bank.shape[1])
        if not len(picked):
            return noise
        picked = picked[classes[picked].argsort(stable=True)]
        of_picked = tuple(part[picked] if isinstance(part, Tensor) else part for part in key)
        return noise.index_copy_(0, picked, self._noise_of(classes[picked], of_picked).to(noise))

    def _noise_of(self, classes: Tensor, key: tuple[str | int | Tensor, ...]) -> Tensor:
        """`(N, D)`; on the CPU the rows of a class lie together, and go through its factor as one product."""
        num_features = self.bank.shape[1]
        if num_features <= oversample.FACTORED:
            noise = draws.normal(*key, torch.arange(num_features, device=classes.device))
            if classes.device.type != "cpu":
                return oversample.factored_noise(noise, self._covariance_factors[self._covariance_place[classes]])
            present, sizes = classes.unique_consecutive(return_counts=True)
            factors = self._covariance_factors[self._covariance_place[present]]
            return torch.cat([part @ one for part, one in zip(noise.split(sizes.tolist()), factors, strict=True)])
        column = torch.arange(oversample.RESIDUALS, device=classes.device)
        drawn = draws.uniform("donor", *key, column), draws.uniform("donor row", *key, column)
        residuals = oversample.donor_residuals(
            self.bank, self._means, self._covariance_donors[classes], self._grouped(), drawn
        )
        return oversample.combined_noise(draws.normal(*key, column), residuals)

    def _enemy(self, classes: Tensor, key: tuple[str | int | Tensor, ...]) -> Tensor:
        """`(N,)` rows of the bank, of the classes that the plan sends each class toward."""
        label = oversample.class_of(self._enemy_share[classes], draws.uniform("enemy class", *key))
        return oversample.row_of(label, self._grouped(), draws.uniform("enemy row", *key))[:, 0]

    def _anyone(self, key: tuple[str | int | Tensor, ...]) -> tuple[Tensor, Tensor]:
        """`(N,)` rows of the bank and their classes, the classes drawn as the plan draws them."""
        draw = draws.uniform("partner class", *key)  # (N, 1)
        label = oversample.class_of(self._partner_share.expand(len(draw), -1), draw)
        row = oversample.row_of(label, self._grouped(), draws.uniform("partner row", *key))
        return row[:, 0], label[:, 0]
