"""Compare the same classes in two networks: recall, and the number, magnitude and identity of the top-K features."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import pydantic
import torch
from torch import Tensor, nn

from ..errors import must
from ..files.schema import broken, refusal
from ..functional import counts, diversity, magnitude, metrics, stats
from ..functional.labels import ClassNames
from ..network.embeddings import Embeddings, require_embeddings
from ..network.linear_head import LinearHead, read_head
from .beyond_size import MATCHED_N
from .class_table import BOOTSTRAPS, ClassTable
from .columns import DRAWS, global_centre, without_weights
from .measure import class_names_of, parse_top_k
from .sides import QUERY_ROWS, query_rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """The measures of the same classes in two networks.

    Attributes:
        first_name: Name of the first network.
        second_name: Name of the second network.
        top_k: K, the number of features in the top-K of a class.
        num_features: D, the number of features.
        class_names: One name per class.
        matched_by: How the features of the two networks were identified with each other: "shared start" (the same initial
            weights) or "channels matched" (by correlation over the same images).
        columns: `(C,)` float64, with `_low` and `_high` (95%) where there is an interval. `recall`, `needed`, `magnitude`,
            `top_k_share` and `diversity_vendi` each have a column `_first` and a column `_second`. `recall_difference` is
            second minus first, `magnitude_ratio` second over first, `identity_overlap` the share of common top-K features.
            `forecast_difference`, where a forecast is on record, is the difference that was expected.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 10))
        >>> one = dv.Model(name="one", train=train, heldout=heldout, head=head)
        >>> comparison = dv.compare_models(one, one, shared_start=True)
        >>> comparison.columns["identity_overlap"].tolist(), comparison.identity_chance
        ([1.0, 1.0, 1.0, 1.0], 0.625)
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
        """The expected overlap of two random sets of K features, K / D."""
        return self.top_k / self.num_features

    @property
    def as_expected(self) -> Tensor | None:
        """Whether each class changed as was expected, `(C,)` float64: 1 or 0, and NaN where either is unknown.

        It did if 0 lies in the interval of the change minus the forecast. None without a forecast.
        """
        if "forecast_difference" not in self.columns:
            return None
        (expected, expected_low, expected_high), (real, real_low, real_high) = (
            [self.columns[f"{name}{end}"] for end in ("", "_low", "_high")]
            for name in ("forecast_difference", "recall_difference")
        )
        low, high = stats.difference_interval(expected, (expected_low, expected_high), real, (real_low, real_high))
        return torch.where(low.isnan(), torch.nan, ((low <= 0) & (high >= 0)).double())

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `comparison.json`: JSON values, with None for NaN."""
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
        """Return the content of `comparison.json` as text."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ModelComparison:
        """Return the comparison that `to_dict` was called on, to the precision of the file (6 digits).

        Raises:
            InputError: A field is missing or damaged, or the file has another version.
        """
        version = record.get("schema_version") if isinstance(record, Mapping) else None
        if version != 1:
            raise must("comparison", "have schema_version 1", version)
        try:
            file = _File.model_validate(record)
        except pydantic.ValidationError as error:
            raise refusal("comparison", error) from None
        columns = {
            name: torch.tensor([math.nan if value is None else value for value in column], dtype=torch.float64)
            for name, column in file.classes.items()
        }
        fields = file.model_dump(exclude={"classes", "class_names"})
        return cls(**fields, class_names=tuple(file.class_names), columns=columns)


_Size = Annotated[int, pydantic.Field(ge=1, le=1 << 53)]  # not every JSON reader keeps larger integers exact


class _File(pydantic.BaseModel):
    """The form of `comparison.json`; unknown fields are ignored."""

    first_name: str
    second_name: str
    top_k: _Size
    num_features: _Size
    class_names: list[str]
    matched_by: str
    classes: dict[str, list[float | None]]

    @pydantic.model_validator(mode="after")
    def _one_number_per_class(self) -> Self:
        for name, column in self.classes.items():
            if len(column) != len(self.class_names):
                raise broken(f"have {len(self.class_names)} numbers", len(column), at=f"classes.{name}")
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A network to compare: the embeddings of its training images and of held-out images, and its head.

    Attributes:
        name: Name in reports.
        train: Embeddings of the images that it was trained on.
        heldout: Embeddings of images that it was not trained on.
        head: Its head.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> dv.Model(name="baseline", train=train, heldout=heldout, head=head).name
        'baseline'
    """

    name: str
    train: Embeddings
    heldout: Embeddings
    head: nn.Module | LinearHead


def compare_models(
    first: Model,
    second: Model,
    *,
    class_names: ClassNames | None = None,
    shared_start: bool = False,
    top_k: int | str = 10,
    seed: int = 0,
) -> ModelComparison:
    """Compare two networks class by class.

    It compares recall, how many features a class needs, how strong they are, and whether they are the same. The top-K, the
    strongest features of a class, are ranked on the network's own training images. The recall difference is paired by
    image if both networks have the same held-out images.

    Args:
        first: The first network.
        second: The second network.
        class_names: One name per class; "class 0", "class 1", ... by default.
        shared_start: True if both networks were initialised with the same weights, so that their features correspond. If
            not, the channels of the second are matched to those of the first by correlation over the same held-out images.
        top_k: Number of features that count as the strongest of a class: an integer, or a share of D such as "10%".
        seed: Seed of the draws at matched n and of the bootstraps.

    Returns:
        The comparison, with 95% intervals.

    Raises:
        InputError: The classes or the number of features differ, or channels are to be matched on different images.

    References:
        Li, Yosinski, Clune, Lipson and Hopcroft (2016), Convergent learning, arXiv:1511.07543 (matched channels).
        Newcombe (1998), Statistics in Medicine 17 (intervals of differences).

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 10))
        >>> first = dv.Model(name="first", train=train, heldout=heldout, head=head)
        >>> scaled = dv.LinearHead(weight=2 * head.weight, bias=2 * head.bias)
        >>> second = dv.Model(name="second", train=train, heldout=heldout, head=scaled)
        >>> dv.compare_models(first, second, shared_start=True).columns["magnitude_ratio"].tolist()
        [2.0, 2.0, 2.0, 2.0]
    """
    heads = _comparable_heads(first, second)
    num_classes, num_features = heads[0].num_classes, heads[0].num_features
    names = class_names_of(class_names, num_classes)
    k = parse_top_k(top_k, num_features)
    same = torch.equal(first.heldout.indices, second.heldout.indices) and torch.equal(
        first.heldout.labels, second.heldout.labels
    )
    if not shared_start and not same:
        raise must(
            "held-out images of both models",
            "be the same, to match the channels of networks that began with different weights",
            f"different ones, {len(first.heldout)} and {len(second.heldout)}",
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


def _comparable_heads(*models: Model) -> list[LinearHead]:
    """The heads of both models.

    Raises:
        InputError: The models have other numbers of classes or features, or images have several labels.
    """
    for model in models:
        if not isinstance(model, Model):
            raise must(
                "a model to compare", "be a Model", type(model).__name__, "dv.Model(name=, train=, heldout=, head=)"
            )
        for name, side in (("train", model.train), ("heldout", model.heldout)):
            require_embeddings(name, side, "compare two results of dv.diagnose_multilabel")
    heads = [read_head(model.head) for model in models]
    for what, one, two in (
        ("classes", heads[0].num_classes, heads[1].num_classes),
        ("features", heads[0].num_features, heads[1].num_features),
    ):
        if one != two:
            raise must(f"{what} of both models", "be as many", f"{one} and {two}")
    return heads


def _put_difference(table: ClassTable, models: Sequence[Model], *, paired: bool) -> None:
    """Put the recall of the second minus that of the first, with Newcombe's interval, paired by image if possible."""
    columns, num_classes = table.columns, table.num_classes
    difference = columns["recall_second"] - columns["recall_first"]
    if paired:
        labels = models[0].heldout.labels
        first, second = (model.heldout.logits.argmax(1) == labels for model in models)
        hits = [counts.class_counts(labels[those], num_classes) for those in (first, second, first & second)]
        total = counts.class_counts(labels, num_classes)
        table.put("recall_difference", difference, *stats.paired_difference_interval(hits[0], hits[1], hits[2], total))
        return
    shares = [columns[f"recall_{side}"] for side in _SIDES]
    ends = [(columns[f"recall_{side}_low"], columns[f"recall_{side}_high"]) for side in _SIDES]
    table.put("recall_difference", difference, *stats.difference_interval(shares[0], ends[0], shares[1], ends[1]))


def _measure(table: ClassTable, side: str, model: Model, head: LinearHead, k: int) -> tuple[Tensor, Tensor]:
    """Put the columns of one network; return its top-K `(C, K)` and the bootstrap draws of their magnitude."""
    train_features, weight, bias = head.effective(model.train.features)
    heldout_features, _, _ = head.effective(model.heldout.features)
    labels = model.heldout.labels
    confusion = metrics.confusion_matrix(labels, model.heldout.logits.argmax(1), table.num_classes)
    table.put_share(f"recall_{side}", confusion.diagonal(), confusion.sum(1))
    silent = without_weights(weight)  # classes without a top-K, as in a diagnosis
    means = counts.class_mean(train_features, model.train.labels, table.num_classes) * weight
    means = means.masked_fill(silent[:, None], torch.nan)
    indices = magnitude.top_k(means, k)
    table.put(f"top_k_share_{side}", magnitude.top_k_share(means, indices))
    strength = magnitude.top_k_magnitude(train_features, weight, model.train.labels, indices)
    needed = magnitude.number_needed(heldout_features, weight, bias)
    decided = ~silent[model.heldout.logits.argmax(1)]
    drawn = {}
    for name, values, groups in (
        ("magnitude", strength, model.train.labels),
        ("needed", needed[decided], labels[decided]),
    ):
        drawn[name] = table.bootstrap(values, groups, f"{name}_{side}")
        table.put_draws(f"{name}_{side}", table.means(values, groups), drawn[name])
    diversities = diversity.matched_diversity(
        model.heldout.features,
        labels,
        table.num_classes,
        centre=global_centre(counts.class_mean(model.train.features, model.train.labels, table.num_classes)),
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
    """Put the share of common top-K; `partner[i]` is the channel of the second network for channel i of the first."""
    place = torch.argsort(partner)  # the channel of the first for each channel of the second
    moved = torch.where(tops[1] < 0, tops[1], place[tops[1].clamp(min=0)])
    wanted = torch.where(tops[0] < 0, tops[0], partner[tops[0].clamp(min=0)])
    rows = query_rows(train.labels, table.num_classes, QUERY_ROWS, seed=table.seed, name="queries identity")
    features, weight, _ = head.effective(train.features[rows])
    drawn = magnitude.bootstrap_identity_overlap(
        features, weight, train.labels[rows], wanted, BOOTSTRAPS, seed=table.seed
    )
    table.put_draws("identity_overlap", magnitude.identity_overlap(tops[0], moved, len(partner)), drawn)
