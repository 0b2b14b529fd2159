"""The same classes in two networks: how many features they need, how strong their top-K are, and whether they are the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .diagnosis import MATCHED_N
from .embeddings import Embeddings
from .errors import must
from .functional import counts, diversity, magnitude, metrics, stats
from .heads import LinearHead, read_head
from .measuring import BOOTSTRAPS, DRAWS, QUERY_ROWS, global_centre, parse_top_k, query_rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """The same classes in two networks.

    `columns` are `(C,)` float64: for `recall`, `needed`, `magnitude`, `top_k_share` and `diversity_vendi` one column each for
    `_first` and `_second`; `recall_difference` (second less first), `magnitude_ratio` (second over first) and
    `identity_overlap`; with `_low` and `_high` where there is an interval. `matched_by` says how features of the two were
    identified: by "shared start", or by "channels matched" on the same images; `identity_chance` is K / D.
    """

    first_name: str
    second_name: str
    top_k: int
    num_features: int
    class_names: tuple[str, ...]
    matched_by: str
    columns: Mapping[str, Tensor]

    @property
    def identity_chance(self) -> float:
        """The overlap that two random sets of K features would have."""
        return self.top_k / self.num_features

    def to_dict(self) -> dict[str, Any]:
        """JSON values, NaN as None."""
        fields = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "columns"
        }
        columns = {
            name: [None if value != value else float(f"{value:.6g}") for value in column.tolist()]
            for name, column in self.columns.items()
        }
        return {
            "schema_version": 1,
            **fields,
            "class_names": list(self.class_names),
            "identity_chance": self.identity_chance,
            "classes": columns,
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """What a comparison needs of a network: embeddings of its training and of held-out images, and its head."""

    name: str
    train: Embeddings
    heldout: Embeddings
    head: nn.Module | LinearHead


def compare_models(
    first: Model,
    second: Model,
    *,
    class_names: Sequence[str] | None = None,
    shared_start: bool = False,
    top_k: int | str = 10,
    seed: int = 0,
) -> ModelComparison:
    """Number, magnitude and identity of each class's top-K in two networks, with 95% intervals.

    Top-K are ranked on each network's own training images. Features are the same where both networks began with the same
    weights (`shared_start`); otherwise the second's channels are matched to the first's by their correlation over the same
    held-out images. The recall difference is paired by image where both saw the same held-out images.

    Raises:
        InputError: the classes or the number of features differ, or channels are to be matched on different images.
    """
    heads = [read_head(model.head) for model in (first, second)]
    for what, one, two in (
        ("classes", heads[0].num_classes, heads[1].num_classes),
        ("features", heads[0].num_features, heads[1].num_features),
    ):
        if one != two:
            raise must(f"{what} of both models", "be as many", f"{one} and {two}")
    num_classes, num_features = heads[0].num_classes, heads[0].num_features
    names = tuple(class_names) if class_names is not None else tuple(f"class {c}" for c in range(num_classes))
    if len(names) != num_classes:
        raise must("class_names", f"be one per class of the head, {num_classes}", len(names))
    k = parse_top_k(top_k, num_features)
    same = torch.equal(first.heldout.indices, second.heldout.indices) and torch.equal(
        first.heldout.labels, second.heldout.labels
    )
    if not shared_start and not same:
        raise must(
            "held-out images of both models",
            "be the same, to match the channels of networks that began with different weights",
            f"{len(first.heldout)} and {len(second.heldout)} others",
        )
    columns: dict[str, Tensor] = {}
    drawn: dict[str, Tensor] = {}

    def put(name: str, values: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> None:
        columns[name] = values.double().cpu()
        if low is not None and high is not None:
            columns[f"{name}_low"], columns[f"{name}_high"] = low.double().cpu(), high.double().cpu()

    def resample(values: Tensor, labels: Tensor, name: str) -> Tensor:
        drawn = stats.bootstrap_class_mean(values.double(), labels, num_classes, BOOTSTRAPS, seed=seed, name=name)
        return drawn.where(counts.class_counts(labels, num_classes) > 1, torch.nan)

    tops = []
    for side, model, head in (("first", first, heads[0]), ("second", second, heads[1])):
        train_features, weight, bias = head.effective(model.train.features)
        heldout_features, _, _ = head.effective(model.heldout.features)
        labels = model.heldout.labels
        confusion = metrics.confusion_matrix(labels, model.heldout.logits.argmax(1), num_classes)
        put(f"recall_{side}", metrics.recall(confusion), *stats.wilson_interval(confusion.diagonal(), confusion.sum(1)))
        means = counts.class_mean(train_features, model.train.labels, num_classes) * weight
        indices = magnitude.top_k(means, k)
        tops.append(indices)
        put(f"top_k_share_{side}", magnitude.top_k_share(means, indices))
        strength = magnitude.top_k_magnitude(train_features, weight, model.train.labels, indices)
        needed = magnitude.number_needed(heldout_features, weight, bias)
        for name, values, groups in (("magnitude", strength, model.train.labels), ("needed", needed, labels)):
            drawn[f"{name}_{side}"] = resample(values, groups, f"{name}_{side}")
            mean = counts.class_mean(values.double(), groups, num_classes)
            put(f"{name}_{side}", mean, *stats.interval(drawn[f"{name}_{side}"]))
        rows = stats.matched_rows(labels, num_classes, MATCHED_N, DRAWS, seed=seed, name="diversity heldout")
        centre = global_centre(model.train.features, model.train.labels, num_classes)
        vendi = torch.full((DRAWS, num_classes), torch.nan, dtype=torch.float64)
        for c in (rows >= 0).flatten(1).any(1).nonzero().flatten().tolist():
            vendi[:, c] = diversity.vendi_score((model.heldout.features[rows[c]] - centre).double()).cpu()
        enough = counts.class_counts(labels, num_classes).cpu() >= 2 * MATCHED_N
        ends = (end.where(enough, torch.nan) for end in stats.interval(vendi))
        put(f"diversity_vendi_{side}", vendi.mean(0), *ends)

    ratio = magnitude.magnitude_ratio(columns["magnitude_first"], columns["magnitude_second"])
    put(
        "magnitude_ratio",
        ratio,
        *stats.interval(magnitude.magnitude_ratio(drawn["magnitude_first"], drawn["magnitude_second"])),
    )
    hits = [(m.heldout.logits.argmax(1) == m.heldout.labels).double() for m in (first, second)]
    if same:
        difference = resample(hits[1] - hits[0], first.heldout.labels, "recall difference")
    else:
        difference = resample(hits[1], second.heldout.labels, "recall second") - resample(
            hits[0], first.heldout.labels, "recall first"
        )
    put("recall_difference", columns["recall_second"] - columns["recall_first"], *stats.interval(difference))
    partner = (
        torch.arange(num_features)
        if shared_start
        else magnitude.match_channels(first.heldout.features, second.heldout.features).cpu()
    )
    place = torch.argsort(partner)  # where a channel of the second stands among those of the first
    moved = torch.where(tops[1] < 0, tops[1], place.to(tops[1].device)[tops[1].clamp(min=0)])
    overlap = magnitude.identity_overlap(tops[0], moved, num_features)
    rows = query_rows(second.train.labels, num_classes, QUERY_ROWS, seed=seed, name="queries identity")
    features, weight, _ = heads[1].effective(second.train.features[rows])
    wanted = torch.where(tops[0] < 0, tops[0], partner.to(tops[0].device)[tops[0].clamp(min=0)])
    resampled = magnitude.bootstrap_identity_overlap(
        features, weight, second.train.labels[rows], wanted, BOOTSTRAPS, seed=seed
    )
    low, high = stats.interval(resampled)
    put("identity_overlap", overlap, torch.minimum(low, overlap), torch.maximum(high, overlap))
    return ModelComparison(
        first_name=first.name,
        second_name=second.name,
        top_k=k,
        num_features=num_features,
        class_names=names,
        matched_by="shared start" if shared_start else "channels matched",
        columns=columns,
    )
