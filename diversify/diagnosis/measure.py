"""From the embeddings of training and held-out images to a `Diagnosis`: one column per measure, one row per class."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..errors import must
from ..files import digests
from ..functional import ceiling, counts, diversity, draws, geometry, magnitude, metrics, neighbors, stats
from ..network.embeddings import Embeddings
from ..network.extraction import extract
from ..network.linear_head import LinearHead, read_head
from ..network.split import split_head
from .beyond_size import MATCHED_N, lines_on_log_count, recall_of_groups
from .catalogue import MEASURES
from .class_table import BOOTSTRAPS, ClassTable
from .findings import find
from .result import Diagnosis

QUERY_ROWS = 10_000  # neighbours, ceilings and bootstraps use at most so many rows
DRAWS = 50
NEIGHBOR_VARIANCE = 2.25  # of a share of safe rows over that of independent ones: rows have neighbours in common
ENEMY_NEIGHBORS = 10
TOP_K = 10
FOLDS = 5  # of the refitted head; a class with fewer rows says nothing about it

Step = Callable[[int, int], None]


def usual_top_k(num_features: int) -> int:
    """10, or all features where there are fewer."""
    return min(TOP_K, num_features)


def parse_top_k(top_k: int | str, num_features: int) -> int:
    """K from an integer or from a percentage of D such as "10%" (rounded, at least 1)."""
    text = str(top_k).strip()
    share = text.endswith("%")
    try:
        number = float(text[:-1]) if share else float(int(text))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise must("top-K", "be an integer or a percentage of D", repr(top_k))
    k = max(1, round(number / 100 * num_features)) if share and number > 0 else int(number)
    if not 1 <= k <= num_features:
        raise must("top-K", f"lie in [1, {num_features}], the number of features", text)
    return k


def query_rows(labels: Tensor, num_classes: int, limit: int, *, seed: int, name: str) -> Tensor:
    """At most `limit` rows, ascending: small classes whole, large ones cut to one common size, drawn by hash."""
    if len(labels) <= limit:
        return torch.arange(len(labels), device=labels.device)
    size = counts.class_counts(labels, num_classes).sort().values
    left, cap = limit, 0
    for smaller, count in enumerate(size.tolist()):
        cap = left // (len(size) - smaller)
        if count > cap:
            break
        left -= count
    order = torch.argsort(draws.bits(name, seed, torch.arange(len(labels), device=labels.device)), stable=True)
    order = order[torch.argsort(labels[order], stable=True)]
    sizes = counts.class_counts(labels, num_classes)
    start = (sizes.cumsum(0) - sizes)[labels[order]]
    place = torch.arange(len(labels), device=labels.device) - start
    return order[place < cap].sort().values


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Side:
    """One split, ready to measure: `features` and `logits` are those in which CE are products with the head's rows."""

    raw: Tensor
    features: Tensor
    labels: Tensor
    predictions: Tensor
    logits: Tensor
    queries: Tensor


def _recognition(table: ClassTable, train: _Side, heldout: _Side, num_classes: int) -> None:
    confusions = [metrics.confusion_matrix(side.labels, side.predictions, num_classes) for side in (train, heldout)]
    table.put("count", confusions[0].sum(1))
    table.put("count_heldout", confusions[1].sum(1))
    for name, confusion in zip(("recall_train", "recall_heldout"), confusions, strict=True):
        table.put_share(name, confusion.diagonal(), confusion.sum(1))
    table.put_share("precision_heldout", confusions[1].diagonal(), confusions[1].sum(0))
    recall = table.columns["recall_heldout"]
    table.put("fragile", (table.columns["recall_heldout_high"] < recall.nanmean()).double())
    table.put_mean("margin", metrics.margin(heldout.logits, heldout.labels), heldout.labels, heldout.queries)
    table.put("ece", metrics.calibration_error(heldout.logits, heldout.labels))


def _magnitudes(table: ClassTable, train: _Side, heldout: _Side, head: LinearHead, k: int) -> dict[str, Tensor]:
    """Top-K of the classification embedding: which, how strong on either side, how many are needed."""
    num_classes, num_features = head.num_classes, head.num_features
    _, weight, bias = head.effective(train.features[:1])
    mean_train = counts.class_mean(train.features, train.labels, num_classes) * weight
    mean_heldout = counts.class_mean(heldout.features, heldout.labels, num_classes) * weight
    hit = heldout.predictions == heldout.labels
    mean_hits, mean_misses = (
        counts.class_mean(heldout.features[chosen], heldout.labels[chosen], num_classes) * weight
        for chosen in (hit, ~hit)
    )
    indices = magnitude.top_k(mean_train, k)

    table.put("top_k_share", magnitude.top_k_share(mean_train, indices))
    positive = (train.features * (weight * (mean_train > 0))[train.labels]).double().sum(1)
    strength = magnitude.top_k_magnitude(train.features, weight * (mean_train > 0), train.labels, indices).double() * k
    rows, labels = train.queries, train.labels[train.queries]
    both = torch.stack([table.bootstrap(values[rows], labels, "top_k_share") for values in (strength, positive)])
    centre = table.means(strength[rows], labels) / table.means(positive[rows], labels)
    table.put_draws("top_k_share", table.columns["top_k_share"], both[0] / both[1], centre)

    _ratios(table, train, heldout, weight, indices)
    feature_means = counts.class_mean(train.raw, train.labels, num_classes)
    _ratio(table, "fe_magnitude_ratio", train, heldout, None, magnitude.top_k(feature_means, k))

    overlap = magnitude.identity_overlap(indices, magnitude.top_k(mean_heldout, k), num_features)
    drawn = magnitude.bootstrap_identity_overlap(
        heldout.features[heldout.queries], weight, heldout.labels[heldout.queries], indices, BOOTSTRAPS, seed=table.seed
    )
    rows = torch.stack([counts.class_counts(side.labels, num_classes) for side in (train, heldout)]).amin(0)
    # with fewer, resampled rows can only lose of the top-K, and the ranking itself is chance
    enough = rows >= MATCHED_N
    ends = [end.where(enough, torch.nan) for end in stats.interval(drawn)]
    table.put("identity_overlap", overlap, torch.minimum(ends[0], overlap), torch.maximum(ends[1], overlap))

    needed = magnitude.number_needed(heldout.features, weight, bias).double()
    for name, chosen in (("needed_tp", hit), ("needed_error", ~hit)):
        queries = heldout.queries[chosen[heldout.queries]]
        drawn = table.bootstrap(needed[queries], heldout.labels[queries], name)
        centre = table.means(needed[queries], heldout.labels[queries])
        table.put_draws(name, table.means(needed[chosen], heldout.labels[chosen]), drawn, centre)
    frequency = magnitude.needed_frequency(heldout.features, weight, bias, heldout.labels)
    column = indices.clamp(min=0)
    absent = indices < 0
    return {
        "top_k_features": indices,
        "top_k_train": mean_train.gather(1, column).masked_fill(absent, torch.nan),
        "top_k_heldout": mean_heldout.gather(1, column).masked_fill(absent, torch.nan),
        "top_k_heldout_tp": mean_hits.gather(1, column).masked_fill(absent, torch.nan),
        "top_k_heldout_fn": mean_misses.gather(1, column).masked_fill(absent, torch.nan),
        "top_k_frequency": frequency.gather(1, column).masked_fill(absent, torch.nan),
    }


def _ratios(table: ClassTable, train: _Side, heldout: _Side, weight: Tensor, indices: Tensor) -> None:
    hit = heldout.predictions == heldout.labels
    train_mean, heldout_mean, train_draws, heldout_draws = _ratio(
        table, "ce_magnitude_ratio", train, heldout, weight, indices
    )
    gap = magnitude.magnitude_gap(train_mean[0], heldout_mean[0])
    table.put_draws("ce_magnitude_gap", gap, train_draws - heldout_draws, train_mean[1] - heldout_mean[1])
    for name, chosen in (("ce_magnitude_ratio_tp", hit), ("ce_magnitude_ratio_fn", ~hit)):
        _ratio(table, name, train, heldout, weight, indices, chosen)


def _ratio(
    table: ClassTable,
    name: str,
    train: _Side,
    heldout: _Side,
    weight: Tensor | None,
    indices: Tensor,
    chosen: Tensor | None = None,
) -> tuple[Any, Any, Tensor, Tensor]:
    """Held-out over train of the class means of the top-K magnitude; returns both means (all rows, query rows) and draws."""
    means, drawn = [], []
    for side, keep in ((train, None), (heldout, chosen)):
        features = side.raw if weight is None else side.features
        values = magnitude.top_k_magnitude(features, weight, side.labels, indices)
        rows = torch.arange(len(values), device=values.device) if keep is None else keep.nonzero()[:, 0]
        queries = side.queries if keep is None else side.queries[keep[side.queries]]
        means.append((table.means(values[rows], side.labels[rows]), table.means(values[queries], side.labels[queries])))
        drawn.append(
            table.bootstrap(values[queries], side.labels[queries], f"{name} {'train' if side is train else 'heldout'}")
        )
    ratio = magnitude.magnitude_ratio(means[0][0], means[1][0])
    centre = magnitude.magnitude_ratio(means[0][1], means[1][1])
    table.put_draws(name, ratio, magnitude.magnitude_ratio(drawn[0], drawn[1]), centre)
    return means[0], means[1], drawn[0], drawn[1]


def global_centre(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """`(D,)`: the mean of the class means of training features, each class weighing the same.

    Centred on the mean of all rows, which is where the largest classes are, every small class would lie to one side, and
    look uniform for being small.
    """
    return counts.class_mean(features, labels, num_classes).nanmean(0)


def _diversities(table: ClassTable, train: _Side, heldout: _Side, head: LinearHead, k: int) -> None:
    _, weight, _ = head.effective(train.features[:1])
    centre = global_centre(train.raw, train.labels, head.num_classes)
    for name, side in (("train", train), ("heldout", heldout)):
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
        for measure, drawn in measured.items():
            table.put_matched(f"diversity_{measure}_{name}", drawn, side.labels)


def _places(table: ClassTable, train: _Side, heldout: _Side, num_classes: int) -> Tensor:
    """Archetypes of the training rows; returns the enemy matrix of the held-out errors."""
    rows = train.queries
    if len(train.labels) > 5:
        near = neighbors.nearest_neighbors(train.raw[rows], train.raw, 5, same=rows)[1]
        kinds = neighbors.archetypes(train.labels[near], train.labels[rows])
        fractions = neighbors.archetype_fractions(kinds, train.labels[rows], num_classes)
        total, safe = (
            counts.class_counts(labels, num_classes) for labels in (train.labels[rows], train.labels[rows][kinds == 0])
        )
        low, high = stats.wilson_interval(safe / NEIGHBOR_VARIANCE, total / NEIGHBOR_VARIANCE)
        table.put("safe", safe.double() / total, low, high)
    else:
        fractions = torch.full((num_classes, 4), torch.nan)
        table.put("safe", fractions[:, 0], fractions[:, 0], fractions[:, 0])
    for place, name in enumerate(("border", "rare", "outlier"), start=1):
        table.put(name, fractions[:, place])
    wrong = heldout.queries[(heldout.predictions != heldout.labels)[heldout.queries]]
    k = min(ENEMY_NEIGHBORS, len(train.labels))
    near = neighbors.nearest_neighbors(heldout.raw[wrong], train.raw, k)[1]
    return neighbors.enemy_matrix(train.labels[near], heldout.labels[wrong], num_classes)


def _geometry(table: ClassTable, train: _Side, heldout: _Side, head: LinearHead) -> dict[str, float]:
    num_classes = head.num_classes
    pair = (train.raw, train.labels, heldout.raw, heldout.labels, num_classes, MATCHED_N, DRAWS)
    for name, measure in (("feature_deviation", geometry.feature_deviation), ("range_gap", geometry.range_gap)):
        table.put_matched(name, measure(*pair, seed=table.seed), train.labels, heldout.labels)
    table.put("head_norm", geometry.head_norms(head.weight))
    table.put("nc1", geometry.nc1(train.raw, train.labels, num_classes))
    table.put("nc1_heldout", geometry.nc1(heldout.raw, heldout.labels, num_classes))
    means = counts.class_mean(train.raw, train.labels, num_classes)
    present = table.columns["count"]
    norms, angles = geometry.nc2(means)
    return {
        "nc2_norms": norms,
        "nc2_angles": angles,
        "nc3": geometry.nc3(head.weight.to(means.device), means),
        "nc4_train": geometry.nc4(train.raw, train.predictions, means),
        "nc4_heldout": geometry.nc4(heldout.raw, heldout.predictions, means),
        "head_norm_count_correlation": stats.spearman(table.columns["head_norm"], present),
        "minority_cosine": geometry.minority_cosine(head.weight, present.long()),
    }


def _ceiling(table: ClassTable, heldout: _Side, num_classes: int) -> dict[str, float]:
    rows = heldout.queries
    labels = heldout.labels[rows]
    enough = counts.class_counts(labels, num_classes) >= FOLDS
    if int(enough.sum()) < 2:
        nothing = torch.full((num_classes,), torch.nan)
        table.put("recall_ceiling", nothing)
        table.put("ceiling_gain", nothing, nothing, nothing)
        return dict.fromkeys(("head_ceiling", "head_ceiling_low", "head_ceiling_high"), math.nan)
    refitted = ceiling.cross_fitted_predictions(heldout.raw[rows], labels, num_classes, folds=FOLDS, seed=table.seed)
    before, after = heldout.predictions[rows] == labels, refitted == labels
    total = counts.class_counts(labels, num_classes).where(enough, 0)
    found, would, both = (
        counts.class_counts(labels[those], num_classes).where(enough, 0) for those in (before, after, before & after)
    )
    table.put("recall_ceiling", would.double() / total)
    gain = (would - found).double() / total
    ends = stats.paired_difference_interval(found, would, both, total)
    table.put("ceiling_gain", gain, *ends)
    low, high = stats.mean_share_interval(gain, *ends, least=-1.0)
    return {"head_ceiling": float(gain.nanmean()), "head_ceiling_low": low, "head_ceiling_high": high}


def _balanced(columns: Mapping[str, Tensor], name: str) -> dict[str, float]:
    """Mean recall over the classes, with the interval that follows from theirs."""
    recall, low, high = (columns[f"recall_{name}{end}"] for end in ("", "_low", "_high"))
    ends = stats.mean_share_interval(recall, low, high)
    return {
        f"balanced_accuracy_{name}": float(recall.nanmean()),
        f"balanced_accuracy_{name}_low": ends[0],
        f"balanced_accuracy_{name}_high": ends[1],
    }


def diagnose(
    train: Embeddings,
    heldout: Embeddings,
    *,
    head: nn.Module | LinearHead,
    class_names: Sequence[str] | None = None,
    heldout_split: str = "val",
    top_k: int | str = TOP_K,
    seed: int = 0,
    progress: Step | None = None,
) -> Diagnosis:
    """Diagnose a network from the embeddings of its own training images and of images it did not learn from.

    Args:
        train: Embeddings of the images the network was trained on, without augmentation.
        heldout: Embeddings of unseen images. "test" as `heldout_split` makes a diagnosis that is only to be read.
        head: The network's head, or what `read_head` made of it; or another for the same features, a repaired one. What is
            found is by its logits, not by those of the embeddings.
        class_names: One name per class; "class 0" and so on by default.
        top_k: How many features count as a class's strongest: an integer, or a share of D such as "10%".
        seed: Of matched-n draws, bootstraps and folds.
        progress: Called with (steps done, steps in all).

    Returns:
        The diagnosis; the measures are defined in `MEASURES`. Every value is on CPU.

    Raises:
        InputError: the embeddings and the head do not fit each other, K is above D, or the names are not one per class.
    """
    head = read_head(head)
    device = train.features.device
    head = dataclasses.replace(head, weight=head.weight.to(device), bias=head.bias.to(device))
    num_classes = head.num_classes
    for name, side in (("train", train), ("heldout", heldout)):
        if (side.num_features, side.num_classes) != (head.num_features, num_classes):
            got = f"{side.num_features} features and {side.num_classes} classes"
            raise must(
                f"{name} embeddings", f"have the head's {head.num_features} features and {num_classes} classes", got
            )
    if heldout_split not in ("val", "test"):
        raise must("heldout_split", "be val or test", repr(heldout_split))
    names = tuple(map(str, class_names if class_names is not None else (f"class {c}" for c in range(num_classes))))
    if len(names) != num_classes:
        raise must("class_names", f"be one per class of the head, {num_classes}", len(names))
    k = parse_top_k(top_k, head.num_features)
    table = ClassTable(num_classes, seed)
    sides = [_side(embeddings, head, seed, name) for name, embeddings in (("train", train), ("heldout", heldout))]
    seen, unseen = sides

    tick = _Ticker(progress, 7)
    _recognition(table, seen, unseen, num_classes)
    tick()
    top = _magnitudes(table, seen, unseen, head, k)
    tick()
    _diversities(table, seen, unseen, head, k)
    tick()
    enemies = _places(table, seen, unseen, num_classes)
    tick()
    summary = _balanced(table.columns, "train") | _balanced(table.columns, "heldout")
    summary |= _ceiling(table, unseen, num_classes)
    tick()
    summary |= _geometry(table, seen, unseen, head)
    tick()
    columns = table.columns
    lines, beyond = lines_on_log_count(columns)
    summary |= recall_of_groups(columns) | {
        "imbalance_ratio": counts.imbalance_ratio(columns["count"]),
        "identity_chance": k / head.num_features,
        "fragile_classes": float(columns["fragile"].sum()),
    }
    kinds = [f"diversity_{measure}_heldout" for measure in diversity.DIVERSITY_MEASURES]
    agreement = {one: {other: stats.spearman(columns[one], columns[other]) for other in kinds} for one in kinds}
    findings = find(columns, names, enemies.cpu(), lines, top_k=k)
    tick()
    order = [
        "count",
        "count_heldout",
        "fragile",
        *(name for name in MEASURES if name not in ("count", "count_heldout")),
    ]
    ordered = [n + end for n in order for end in ("", "_low", "_high") if n + end in columns]
    return Diagnosis(
        heldout_split=heldout_split,
        top_k=k,
        num_features=head.num_features,
        class_names=names,
        columns={name: columns[name] for name in ordered},
        **{name: value.cpu() for name, value in top.items()},  # type: ignore[arg-type]
        enemies=enemies.cpu(),
        summary=summary,
        log_count=lines,
        beyond_log_count=beyond,
        diversity_agreement=agreement,
        findings=findings,
        queries={
            name: {
                "rows": len(side.queries),
                "of": len(side.labels),
                "rule": f"at most {QUERY_ROWS}, the large classes cut to one size",
                "digest": digests.digest_tensors({"rows": side.queries}),
            }
            for name, side in (("train", seen), ("heldout", unseen))
        },
        seed=seed,
    )


def _side(embeddings: Embeddings, head: LinearHead, seed: int, name: str) -> _Side:
    features, _, _ = head.effective(embeddings.features)
    logits = embeddings.seen_by(head).logits  # its own may be those of another head: the one before a repair
    return _Side(
        raw=embeddings.features,
        features=features,
        labels=embeddings.labels,
        predictions=logits.argmax(1),
        logits=logits,
        queries=query_rows(embeddings.labels, head.num_classes, QUERY_ROWS, seed=seed, name=f"queries {name}"),
    )


class _Ticker:
    def __init__(self, progress: Step | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


def diagnose_model(
    model: nn.Module,
    train_loader: DataLoader[Any],
    heldout_loader: DataLoader[Any],
    *,
    class_names: Sequence[str] | None = None,
    head: str | None = None,
    heldout_split: str = "val",
    top_k: int | str = TOP_K,
    seed: int = 0,
) -> Diagnosis:
    """`split_head`, `extract` twice and `diagnose`, for a model in hand; the model is left as it was.

    `train_loader` has to give the model's own training images, without augmentation; `heldout_loader` images that it did
    not learn from. Both give `(images, labels)` as the model sees them.
    """
    split = split_head(model, head)
    train, heldout = extract(split, train_loader), extract(split, heldout_loader)
    return diagnose(
        train, heldout, head=split.head, class_names=class_names, heldout_split=heldout_split, top_k=top_k, seed=seed
    )
