"""The measures of a diagnosis, in groups; each function puts the columns of one group into a `ClassTable`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..functional import ceiling, counts, diversity, draws, geometry, groups, magnitude, metrics, neighbors, stats
from ..functional.indexed_neighbors import NeighborSearch
from ..network.linear_head import LinearHead
from .beyond_size import MATCHED_N
from .class_table import BOOTSTRAPS, ClassTable
from .enemies import stored
from .sides import Side

DRAWS = 50  # draws of equally many rows of every class
NEIGHBOR_VARIANCE = 2.25  # variance of a share of safe rows relative to independent rows: rows share neighbours
ENEMY_NEIGHBORS = 10
FOLDS = 5  # of the refitted head; undefined for a class with fewer rows
NC4_ROWS = (
    20_000  # of each side at most, as each is compared with every class; the share has a standard error of 0.35 points
)


def put_recognition(table: ClassTable, train: Side, heldout: Side) -> None:
    """Put counts, recall, precision, margin and calibration, and which classes are fragile."""
    for name, side in (("train", train), ("heldout", heldout)):
        table.put("count" if name == "train" else "count_heldout", counts.class_counts(side.labels, table.num_classes))
        table.put_rate(f"recall_{name}", side.predictions == side.labels, side.labels, side.groups)
    table.put_rate("precision_heldout", heldout.predictions == heldout.labels, heldout.predictions, heldout.groups)
    recall = table.columns["recall_heldout"]
    table.put("fragile", (table.columns["recall_heldout_high"] < recall.nanmean()).double())
    group = heldout.groups_of(heldout.queries)
    table.put_mean("margin", heldout.margins, heldout.labels, heldout.queries, group)
    error = metrics.calibration_error_of(heldout.confidence, heldout.predictions, heldout.labels, table.num_classes)
    table.put("ece", error.to(heldout.margins.dtype))


def put_magnitudes(table: ClassTable, train: Side, heldout: Side, head: LinearHead, k: int) -> dict[str, Tensor]:
    """Put the measures of the top-K; return the `top_k_*` fields of a `Diagnosis`, each `(C, K)`.

    A class whose weights are all 0, as class 0 of a head with a single logit, has no top-K: like an absent class, it is
    NaN.
    """
    num_classes = head.num_classes
    _, weight, bias = head.effective(train.features[:1])
    silent = without_weights(weight)
    mean_train, mean_heldout = (
        (side.feature_means * weight).masked_fill(silent[:, None], torch.nan) for side in (train, heldout)
    )
    indices = magnitude.top_k(mean_train, k)
    _put_top_k_share(table, train, weight, mean_train, indices)
    _put_ratios(table, train, heldout, weight, indices)
    of_features = magnitude.top_k(train.raw_means, k)
    strength = [magnitude.top_k_magnitude(side.raw, None, side.labels, of_features) for side in (train, heldout)]
    _put_ratio(table, "fe_magnitude_ratio", train, heldout, strength)
    _put_identity_overlap(table, train, heldout, weight, mean_heldout, indices)
    needed, frequency = magnitude.needed_by_class(heldout.features, weight, bias, heldout.labels)
    _put_needed(table, heldout, weight, needed.double())

    hit = heldout.predictions == heldout.labels
    mean_hits, mean_misses = (
        counts.class_mean(heldout.features[chosen], heldout.labels[chosen], num_classes) * weight
        for chosen in (hit, ~hit)
    )
    means = {
        "top_k_train": mean_train,
        "top_k_heldout": mean_heldout,
        "top_k_heldout_tp": mean_hits,
        "top_k_heldout_fn": mean_misses,
        "top_k_frequency": frequency,
    }
    column, absent = indices.clamp(min=0), indices < 0
    return {"top_k_features": indices} | {
        name: values.gather(1, column).masked_fill(absent, torch.nan) for name, values in means.items()
    }


def without_weights(weight: Tensor) -> Tensor:
    """Return which rows of a head's weight `(C, D)` are all 0, `(C,)` bool: no feature speaks for such a class."""
    return ~weight.any(1)


def _put_top_k_share(table: ClassTable, train: Side, weight: Tensor, means: Tensor, indices: Tensor) -> None:
    table.put("top_k_share", magnitude.top_k_share(means, indices))
    positive_weight = weight * (means > 0)
    rows = train.queries
    features, labels, group = train.features[rows], train.labels[rows], train.groups_of(rows)
    positive = (features * positive_weight[labels]).double().sum(1)
    strength = magnitude.top_k_magnitude(features, positive_weight, labels, indices).double()
    strength = strength * indices.shape[1]
    drawn = torch.stack([table.bootstrap(values, labels, "top_k_share", group) for values in (strength, positive)])
    centre = table.means(strength, labels) / table.means(positive, labels)
    table.put_draws("top_k_share", table.columns["top_k_share"], drawn[0] / drawn[1], centre)


def _put_identity_overlap(
    table: ClassTable, train: Side, heldout: Side, weight: Tensor, mean_heldout: Tensor, indices: Tensor
) -> None:
    overlap = magnitude.identity_overlap(indices, magnitude.top_k(mean_heldout, indices.shape[1]), weight.shape[1])
    drawn = magnitude.bootstrap_identity_overlap(
        heldout.features[heldout.queries], weight, heldout.labels[heldout.queries], indices, BOOTSTRAPS, seed=table.seed
    )
    rows = torch.stack([counts.class_counts(side.labels, table.num_classes) for side in (train, heldout)]).amin(0)
    enough = rows >= MATCHED_N  # with fewer, resampled rows can only lose top-K features, and the ranking is chance
    low, high = (end.where(enough, torch.nan) for end in stats.interval(drawn))
    table.put("identity_overlap", overlap, torch.minimum(low, overlap), torch.maximum(high, overlap))


def _put_needed(table: ClassTable, heldout: Side, weight: Tensor, needed: Tensor) -> None:
    hit = heldout.predictions == heldout.labels
    decided = ~without_weights(weight)[heldout.predictions]
    for name, chosen in (("needed_tp", hit & decided), ("needed_error", ~hit & decided)):
        queries = heldout.queries[chosen[heldout.queries]]
        drawn = table.bootstrap(needed[queries], heldout.labels[queries], name, heldout.groups_of(queries))
        centre = table.means(needed[queries], heldout.labels[queries])
        table.put_draws(name, table.means(needed[chosen], heldout.labels[chosen]), drawn, centre)


def _put_ratios(table: ClassTable, train: Side, heldout: Side, weight: Tensor, indices: Tensor) -> None:
    """Put the magnitude ratio of all held-out images, of the hits and of the misses, and the magnitude gap."""
    hit = heldout.predictions == heldout.labels
    strength = tuple(
        magnitude.top_k_magnitude(side.features, weight, side.labels, indices) for side in (train, heldout)
    )
    seen, unseen = _put_ratio(table, "ce_magnitude_ratio", train, heldout, strength)
    gap = magnitude.magnitude_gap(seen.mean, unseen.mean)
    table.put_draws("ce_magnitude_gap", gap, seen.drawn - unseen.drawn, seen.query_mean - unseen.query_mean)
    for name, chosen in (("ce_magnitude_ratio_tp", hit), ("ce_magnitude_ratio_fn", ~hit)):
        _put_ratio(table, name, train, heldout, strength, chosen)


class _Magnitude(NamedTuple):
    """Class means of the top-K magnitude on one side: over all rows, over the query rows, and bootstrapped."""

    mean: Tensor  # (C,)
    query_mean: Tensor  # (C,)
    drawn: Tensor  # (B, C)


def _put_ratio(
    table: ClassTable,
    name: str,
    train: Side,
    heldout: Side,
    strength: Sequence[Tensor],
    chosen: Tensor | None = None,
) -> tuple[_Magnitude, _Magnitude]:
    """Put held-out over train of the class means of the top-K magnitude; return both.

    Args:
        table: The columns.
        name: Name of the column.
        train: Training side.
        heldout: Held-out side.
        strength: The top-K magnitude of each row of train, and of held-out.
        chosen: `(N,)` bool, the held-out rows to use; all by default.
    """
    sides = []
    for key, side, values, keep in (("train", train, strength[0], None), ("heldout", heldout, strength[1], chosen)):
        rows = torch.arange(len(values), device=values.device) if keep is None else keep.nonzero()[:, 0]
        queries = side.queries if keep is None else side.queries[keep[side.queries]]
        sides.append(
            _Magnitude(
                mean=table.means(values[rows], side.labels[rows]),
                query_mean=table.means(values[queries], side.labels[queries]),
                drawn=table.bootstrap(values[queries], side.labels[queries], f"{name} {key}", side.groups_of(queries)),
            )
        )
    seen, unseen = sides
    ratio = magnitude.magnitude_ratio(seen.mean, unseen.mean)
    centre = magnitude.magnitude_ratio(seen.query_mean, unseen.query_mean)
    table.put_draws(name, ratio, magnitude.magnitude_ratio(seen.drawn, unseen.drawn), centre)
    return seen, unseen


def global_centre(means: Tensor) -> Tensor:
    """Return the mean `(D,)` of the class means `(C, D)` of training features, every class with the same weight.

    The mean of all rows lies near the largest classes. Centred on it, every small class would lie to one side, and would look
    uniform only because it is small.
    """
    return means.nanmean(0)


def put_diversities(table: ClassTable, sides: Mapping[str, Side], train: Side, head: LinearHead, k: int) -> None:
    """Put every diversity measure of these sides, `train` or `heldout` or both, at matched n."""
    _, weight, _ = head.effective(train.features[:1])
    centre = global_centre(train.raw_means)
    for name, side in sides.items():
        measured = diversity.matched_diversity(
            side.raw,
            side.labels,
            head.num_classes,
            centre=centre,
            weight=weight,
            k=k,
            n=MATCHED_N,
            draws=DRAWS,
            seed=table.seed,
            name=f"diversity {name}",
        )
        measured["hill"][:, without_weights(weight)] = torch.nan  # of the features as the head weighs them
        for measure, drawn in measured.items():
            table.put_matched(f"diversity_{measure}_{name}", drawn, side.labels)
        distinct = diversity.distinct_rows(
            side.raw,
            side.labels,
            head.num_classes,
            n=MATCHED_N,
            draws=DRAWS,
            seed=table.seed,
            name=f"diversity {name}",
            space=side.space,
        )
        table.put_matched(f"diversity_distinct_{name}", distinct, side.labels)


def put_archetypes(table: ClassTable, train: Side, search: NeighborSearch) -> None:
    """Put the shares of training rows that are safe, border, rare and outlier; NaN with 5 rows or fewer.

    `search` looks rows up among all training rows.
    """
    rows = train.queries
    if len(train.labels) > 5:
        near = search(train.raw[rows], 5, same=rows)[1]
        kinds = neighbors.archetypes(train.labels[near], train.labels[rows])
        fractions = neighbors.archetype_fractions(kinds, train.labels[rows], table.num_classes)
        total, safe = (
            counts.class_counts(labels, table.num_classes)
            for labels in (train.labels[rows], train.labels[rows][kinds == 0])
        )
        low, high = stats.wilson_interval(safe / NEIGHBOR_VARIANCE, total / NEIGHBOR_VARIANCE)
        table.put("safe", safe.double() / total, low, high)
    else:
        fractions = torch.full((table.num_classes, 4), torch.nan)
        table.put("safe", fractions[:, 0], fractions[:, 0], fractions[:, 0])
    for place, name in enumerate(("border", "rare", "outlier"), start=1):
        table.put(name, fractions[:, place])


def error_enemies(train: Side, heldout: Side, num_classes: int, search: NeighborSearch) -> Tensor:
    """Return `(C, C)`: the share of each other class among the training neighbours of a class's held-out errors.

    `search` looks rows up among all training rows. The matrix is on the CPU, sparse if there are many classes.
    """
    wrong = heldout.queries[(heldout.predictions != heldout.labels)[heldout.queries]]
    k = min(ENEMY_NEIGHBORS, len(train.labels))
    near = search(heldout.raw[wrong], k)[1]
    return stored(neighbors.enemy_rows(train.labels[near], heldout.labels[wrong], num_classes))


def put_geometry(table: ClassTable, train: Side, heldout: Side, head: LinearHead) -> dict[str, float]:
    """Put deviation, range gap, head norm and NC1; return neural collapse and head numbers of the whole model."""
    num_classes = head.num_classes
    pair = (train.raw, train.labels, heldout.raw, heldout.labels, num_classes, MATCHED_N, DRAWS)
    for name, measure in (("feature_deviation", geometry.feature_deviation), ("range_gap", geometry.range_gap)):
        table.put_matched(name, measure(*pair, seed=table.seed), train.labels, heldout.labels)
    table.put("head_norm", geometry.head_norms(head.weight))
    for name, side in (("nc1", train), ("nc1_heldout", heldout)):
        table.put(name, geometry.nc1(side.raw, side.labels, num_classes, moments=side.moments))
    means = train.raw_means
    count = table.columns["count"]
    norms, angles = geometry.nc2(means)
    return {
        "nc2_norms": norms,
        "nc2_angles": angles,
        "nc3": geometry.nc3(head.weight.to(means.device), means),
        "nc4_train": _nc4(train, means, table.seed, "train"),
        "nc4_heldout": _nc4(heldout, means, table.seed, "heldout"),
        "head_norm_count_correlation": stats.spearman(table.columns["head_norm"], count),
        "minority_cosine": geometry.minority_cosine(head.weight, count.long()),
    }


def _nc4(side: Side, means: Tensor, seed: int, name: str) -> float:
    """NC4 of the rows of a side, or of `NC4_ROWS` drawn from them."""
    count = len(side.labels)
    if count <= NC4_ROWS:
        return geometry.nc4(side.raw, side.predictions, means)
    rows = draws.permutation(count, "nc4", name, seed, device=side.labels.device)[:NC4_ROWS].sort().values
    return geometry.nc4(side.raw[rows], side.predictions[rows], means)


def put_ceiling(table: ClassTable, heldout: Side, fitted: ceiling.CrossFit | None) -> dict[str, float]:
    """Put the recall of a refitted head and what it gains; return the mean gain with its interval.

    `fitted` is what heads fitted on the other folds say of the query rows; None if there are too few of them.
    """
    rows = heldout.queries
    labels, num_classes = heldout.labels[rows], table.num_classes
    enough = counts.class_counts(labels, num_classes) >= FOLDS
    if fitted is None:
        nothing = torch.full((num_classes,), torch.nan)
        table.put("recall_ceiling", nothing)
        table.put("ceiling_gain", nothing, nothing, nothing)
        return dict.fromkeys(("head_ceiling", "head_ceiling_low", "head_ceiling_high"), math.nan)
    before, after = heldout.predictions[rows] == labels, fitted.predictions == labels
    total = counts.class_counts(labels, num_classes).where(enough, 0)
    hits_before, hits_after, hits_both = (
        counts.class_counts(labels[those], num_classes).where(enough, 0) for those in (before, after, before & after)
    )
    table.put("recall_ceiling", hits_after.double() / total)
    gain = (hits_after - hits_before).double() / total
    ends = stats.paired_difference_interval(hits_before, hits_after, hits_both, total)
    table.put("ceiling_gain", gain, *ends)
    low, high = stats.mean_share_interval(gain, *ends, least=-1.0)
    return {"head_ceiling": float(gain.nanmean()), "head_ceiling_low": low, "head_ceiling_high": high}


def put_groups(table: ClassTable, train: Side, heldout: Side) -> None:
    """Put the number of groups on each side, and the share of held-out images whose group is also in training."""
    nothing = torch.full((table.num_classes,), torch.nan)
    for name, side in (("train", train), ("heldout", heldout)):
        number = None if side.groups is None else groups.group_counts(side.labels, side.groups, table.num_classes)
        table.put(f"groups_{name}", nothing if number is None else number)
    shared = nothing
    if train.groups is not None and heldout.groups is not None:
        shared = table.means(torch.isin(heldout.groups, train.groups).double(), heldout.labels)
    table.put("groups_shared", shared)


def balanced_accuracy(columns: Mapping[str, Tensor], name: str) -> dict[str, float]:
    """Return the mean recall over the classes on side `name`, and the interval that follows from those of the classes."""
    recall, low, high = (columns[f"recall_{name}{end}"] for end in ("", "_low", "_high"))
    ends = stats.mean_share_interval(recall, low, high)
    return {
        f"balanced_accuracy_{name}": float(recall.nanmean()),
        f"balanced_accuracy_{name}_low": ends[0],
        f"balanced_accuracy_{name}_high": ends[1],
    }
