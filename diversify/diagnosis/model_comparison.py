"""The same classes in two networks: how many features they need, how strong their top-K are, and whether they are the same."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic
import torch
from torch import Tensor, nn

from ..errors import must
from ..functional import counts, diversity, magnitude, metrics, stats
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead, read_head
from .beyond_size import MATCHED_N
from .class_table import BOOTSTRAPS, ClassTable
from .measure import DRAWS, QUERY_ROWS, global_centre, parse_top_k, query_rows


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

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ModelComparison:
        """The comparison that `to_dict` came from, to the precision of the file.

        Raises:
            InputError: a field is missing or has another form (it is named), or the file is of another version.
        """
        version = record.get("schema_version") if isinstance(record, Mapping) else None
        if version != 1:
            raise must("comparison", "have schema_version 1", version)
        try:
            file = _File.model_validate(record)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "comparison"
            raise must(f"comparison field {place}", f"be valid ({first['msg']})", repr(first["input"])[:80]) from None
        for name, column in file.classes.items():
            if len(column) != len(file.class_names):
                raise must(f"comparison field classes.{name}", f"have {len(file.class_names)} numbers", len(column))
        columns = {
            name: torch.tensor([math.nan if value is None else value for value in column], dtype=torch.float64)
            for name, column in file.classes.items()
        }
        fields = file.model_dump(exclude={"classes", "class_names"})
        return cls(**fields, class_names=tuple(file.class_names), columns=columns)


class _File(pydantic.BaseModel):
    """The form of `comparison.json`, for reading one back."""

    first_name: str
    second_name: str
    top_k: pydantic.PositiveInt
    num_features: pydantic.PositiveInt
    class_names: list[str]
    matched_by: str
    classes: dict[str, list[float | None]]


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
    first, second = (
        dataclasses.replace(model, heldout=model.heldout.seen_by(head))
        for model, head in zip((first, second), heads, strict=True)
    )
    table = ClassTable(num_classes, seed)
    tops, magnitudes = zip(
        *(
            _measure(table, side, model, head, k)
            for side, model, head in zip(_SIDES, (first, second), heads, strict=True)
        ),
        strict=True,
    )
    columns = table.columns
    ratio = magnitude.magnitude_ratio(columns["magnitude_first"], columns["magnitude_second"])
    table.put_draws("magnitude_ratio", ratio, magnitude.magnitude_ratio(*magnitudes))
    _put_difference(table, (first, second), paired=same)
    partner = (
        torch.arange(num_features)
        if shared_start
        else magnitude.match_channels(first.heldout.features, second.heldout.features)
    )
    _put_overlap(table, tops, partner.to(tops[0].device), second.train, heads[1])
    return ModelComparison(
        first_name=first.name,
        second_name=second.name,
        top_k=k,
        num_features=num_features,
        class_names=names,
        matched_by="shared start" if shared_start else "channels matched",
        columns=columns,
    )


_SIDES = ("first", "second")


def _put_difference(table: ClassTable, models: Sequence[Model], *, paired: bool) -> None:
    """Recall of the second less that of the first, with Newcombe's interval: of pairs where both saw the same images."""
    columns, num_classes = table.columns, table.num_classes
    difference = columns["recall_second"] - columns["recall_first"]
    if paired:
        labels = models[0].heldout.labels
        first, second = (model.heldout.logits.argmax(1) == labels for model in models)
        hits = [counts.class_counts(labels[those], num_classes) for those in (first, second, first & second)]
        total = counts.class_counts(labels, num_classes)
        table.put("recall_difference", difference, *stats.paired_difference_interval(hits[0], hits[1], hits[2], total))
        return
    down, up = (
        [(columns[f"recall_{side}{end}"] - columns[f"recall_{side}"]).square() for side in _SIDES]
        for end in ("_low", "_high")
    )
    low, high = difference - (down[1] + up[0]).sqrt(), difference + (up[1] + down[0]).sqrt()
    table.put("recall_difference", difference, low.clamp(-1, 1), high.clamp(-1, 1))


def _measure(table: ClassTable, side: str, model: Model, head: LinearHead, k: int) -> tuple[Tensor, Tensor]:
    """Puts the columns of one network; returns its top-K `(C, K)` and the draws of their magnitude."""
    train_features, weight, bias = head.effective(model.train.features)
    heldout_features, _, _ = head.effective(model.heldout.features)
    labels = model.heldout.labels
    confusion = metrics.confusion_matrix(labels, model.heldout.logits.argmax(1), table.num_classes)
    table.put_share(f"recall_{side}", confusion.diagonal(), confusion.sum(1))
    means = counts.class_mean(train_features, model.train.labels, table.num_classes) * weight
    indices = magnitude.top_k(means, k)
    table.put(f"top_k_share_{side}", magnitude.top_k_share(means, indices))
    strength = magnitude.top_k_magnitude(train_features, weight, model.train.labels, indices)
    needed = magnitude.number_needed(heldout_features, weight, bias)
    drawn = {}
    for name, values, groups in (("magnitude", strength, model.train.labels), ("needed", needed, labels)):
        drawn[name] = table.bootstrap(values, groups, f"{name}_{side}")
        table.put_draws(f"{name}_{side}", table.means(values, groups), drawn[name])
    diversities = diversity.matched_diversity(
        model.heldout.features,
        labels,
        table.num_classes,
        centre=global_centre(model.train.features, model.train.labels, table.num_classes),
        weight=weight,
        k=k,
        n=MATCHED_N,
        draws=DRAWS,
        seed=table.seed,
        name="diversity heldout",
    )
    table.put_matched(f"diversity_vendi_{side}", diversities["vendi"], labels)
    return indices, drawn["magnitude"]


def _put_overlap(
    table: ClassTable, tops: Sequence[Tensor], partner: Tensor, train: Embeddings, head: LinearHead
) -> None:
    """The share of top-K that are the same; `partner[i]` is the second network's channel for channel i of the first."""
    place = torch.argsort(partner)  # where a channel of the second stands among those of the first
    moved = torch.where(tops[1] < 0, tops[1], place[tops[1].clamp(min=0)])
    wanted = torch.where(tops[0] < 0, tops[0], partner[tops[0].clamp(min=0)])
    rows = query_rows(train.labels, table.num_classes, QUERY_ROWS, seed=table.seed, name="queries identity")
    features, weight, _ = head.effective(train.features[rows])
    drawn = magnitude.bootstrap_identity_overlap(
        features, weight, train.labels[rows], wanted, BOOTSTRAPS, seed=table.seed
    )
    table.put_draws("identity_overlap", magnitude.identity_overlap(tops[0], moved, len(partner)), drawn)
