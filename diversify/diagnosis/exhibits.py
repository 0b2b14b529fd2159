"""Which images a report shows, and why: examples of each fragile class, and a map of the held-out features.

exhibits = choose_exhibits(train, heldout, head=split.head, diagnosis=diagnosis)
exhibits = take_pictures(exhibits, train_dataset, heldout_dataset)      # of `thumbnails.py`
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Self

import pydantic
import torch
from torch import Tensor, nn

from ..errors import must
from ..functional import draws, metrics, neighbors, projection
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead, read_head
from .measure import query_rows
from .result import Diagnosis

SCHEMA_VERSION = 1
CLASSES = 10  # of the fragile ones, the weakest
EACH = 4  # training images of a kind
ERRORS, PER_ENEMY = 8, 3  # held-out errors of a class, and of those the most that went to one class
PULLS = 3  # features named per error
CANDIDATES = 1000  # training images of a class among which examples are looked for
MAP_ROWS = 1200
SAFE, BORDER, OUTLIER = 0, 1, 3  # of `neighbors.archetypes`


class _Value(pydantic.BaseModel):
    """A frozen value that goes to the disk as JSON."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Pull(_Value):
    """A feature that speaks for the class an image went to: by how many logits more than for its own.

    `top_k` is whether it is among the top-K of the class it went to.
    """

    feature: int
    logits: float
    top_k: bool


class Example(_Value):
    """One image of a class.

    `row` is its row in the embeddings, `index` its index in the data set, `margin` its true class's logit less the best
    other. `pulls` is empty unless it is a held-out error. `picture` is a `data:` address, `name` a file's name; both are
    empty until `take_pictures` has looked.
    """

    row: int
    index: int
    predicted: int
    margin: float
    pulls: tuple[Pull, ...] = ()
    picture: Annotated[str, pydantic.Field(pattern=r"^(data:image/(png|jpeg);base64,[A-Za-z0-9+/=]*)?$")] = ""
    name: str = ""


class ClassExamples(_Value):
    """Examples of one class, and how many there are of each kind: training images of `candidates`, held-out of all.

    `borders` and `outliers` are None where nothing has 5 neighbours.
    """

    class_index: int
    typical: tuple[Example, ...]
    border: tuple[Example, ...]
    outlier: tuple[Example, ...]
    errors: tuple[Example, ...]
    candidates: int
    borders: int | None
    outliers: int | None
    misses: int


class FeatureMap(_Value):
    """Held-out images in two dimensions, one entry per image; `rows` are rows of the embeddings."""

    method: str
    rows: tuple[int, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    labels: tuple[int, ...]
    predicted: tuple[int, ...]

    @pydantic.model_validator(mode="after")
    def _one_entry_per_image(self) -> Self:
        if len({len(each) for each in (self.rows, self.x, self.y, self.labels, self.predicted)}) > 1:
            raise ValueError("rows, x, y, labels and predicted are not equally long")
        return self


class Exhibits(_Value):
    """What a report shows beside the numbers of a diagnosis; of `fragile` classes the weakest have examples."""

    schema_version: int = SCHEMA_VERSION
    fragile: int
    examples: tuple[ClassExamples, ...]
    feature_map: FeatureMap | None

    def require_of(self, diagnosis: Diagnosis) -> None:
        """An InputError unless every class and feature it speaks of is one of the diagnosis."""
        classes = {each.class_index for each in self.examples}
        shown = [each for one in self.examples for each in (*one.typical, *one.border, *one.outlier, *one.errors)]
        classes |= {each.predicted for each in shown}
        if self.feature_map is not None:
            classes |= {*self.feature_map.labels, *self.feature_map.predicted}
        last = len(diagnosis.class_names) - 1
        if classes and not 0 <= min(classes) <= max(classes) <= last:
            raise must(
                "exhibits", f"be of the diagnosis's classes, 0 to {last}", max(classes, key=lambda c: abs(c - last / 2))
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON values, in the form of `exhibits.json`."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The exhibits that `to_dict` came from.

        Raises:
            InputError: a field is missing or has another form, or the file is of another version.
        """
        version = record.get("schema_version") if isinstance(record, Mapping) else None
        if version != SCHEMA_VERSION:
            raise must("exhibits", f"have schema_version {SCHEMA_VERSION}", version)
        try:
            return cls.model_validate(record)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "exhibits"
            raise must(f"exhibits field {place}", f"be valid ({first['msg']})", repr(first["input"])[:80]) from None


def choose_exhibits(
    train: Embeddings, heldout: Embeddings, *, head: nn.Module | LinearHead, diagnosis: Diagnosis
) -> Exhibits:
    """The images worth looking at, by rules that do not depend on how they look.

    For each of the `CLASSES` weakest fragile classes: its most typical training images (nearest to the mean of the class's
    features), border ones (2 or 3 of 5 neighbours of their class, least margin first), outliers (no neighbour of their
    class, farthest from the mean first), and held-out errors (from the classes that most went to, the surest first), each
    with the features that pulled it there: those whose product with the difference of the two head rows is largest.

    Args:
        train: The embeddings that the diagnosis was made from.
        heldout: Those of the unseen images.
        head: The network's head.
        diagnosis: What was found.

    Raises:
        InputError: the embeddings have other classes than the diagnosis.
    """
    numbers, device = read_head(head), heldout.features.device
    numbers = dataclasses.replace(numbers, weight=numbers.weight.to(device), bias=numbers.bias.to(device))
    for name, side in (("train", train), ("heldout", heldout)):
        if side.num_classes != len(diagnosis.class_names):
            raise must(
                f"{name} embeddings", f"have the diagnosis's {len(diagnosis.class_names)} classes", side.num_classes
            )
    train, heldout = train.seen_by(numbers), heldout.seen_by(numbers)
    recall = diagnosis["recall_heldout"]
    fragile = (diagnosis["fragile"] > 0).nonzero()[:, 0].tolist()
    fragile.sort(key=lambda c: float(recall[c]))
    return Exhibits(
        fragile=len(fragile),
        examples=tuple(_examples(train, heldout, numbers, diagnosis, c) for c in fragile[:CLASSES]),
        feature_map=_feature_map(heldout, diagnosis.seed),
    )


def _examples(train: Embeddings, heldout: Embeddings, head: LinearHead, diagnosis: Diagnosis, c: int) -> ClassExamples:
    rows = (train.labels == c).nonzero()[:, 0]
    mean = train.features[rows].double().mean(0)  # NaN for a class without rows, which has nothing to rank
    if len(rows) > CANDIDATES:
        rows = rows[draws.permutation(len(rows), "examples", diagnosis.seed, c)[:CANDIDATES]].sort().values
    distance = (train.features[rows].double() - mean).norm(dim=1)
    margin = metrics.margin(train.logits[rows], train.labels[rows])
    if len(train) > 5 and len(rows):
        near = neighbors.nearest_neighbors(train.features[rows], train.features, 5, same=rows)[1]
        kinds = neighbors.archetypes(train.labels[near], train.labels[rows])
    else:
        kinds = torch.full_like(rows, SAFE)

    def pick(chosen: Tensor, ranking: Tensor) -> tuple[Example, ...]:
        places = chosen.nonzero()[:, 0]
        places = places[ranking[places].argsort(stable=True)][:EACH]
        return tuple(_example(train, int(rows[place]), margin=float(margin[place])) for place in places.tolist())

    return ClassExamples(
        class_index=c,
        typical=pick(kinds >= SAFE, distance),
        border=pick(kinds == BORDER, margin),
        outlier=pick(kinds == OUTLIER, -distance),
        errors=_errors(heldout, head, diagnosis, c),
        candidates=len(rows),
        borders=int((kinds == BORDER).sum()) if len(train) > 5 else None,
        outliers=int((kinds == OUTLIER).sum()) if len(train) > 5 else None,
        misses=int(((heldout.labels == c) & (heldout.logits.argmax(1) != c)).sum()),
    )


def _example(side: Embeddings, row: int, *, margin: float, pulls: tuple[Pull, ...] = ()) -> Example:
    predicted = int(side.logits[row].argmax())
    return Example(row=row, index=int(side.indices[row]), predicted=predicted, margin=round(margin, 4), pulls=pulls)


def _errors(heldout: Embeddings, head: LinearHead, diagnosis: Diagnosis, c: int) -> tuple[Example, ...]:
    """From the classes that most of the errors went to, the surest errors first; at most `PER_ENEMY` of each."""
    rows = ((heldout.labels == c) & (heldout.logits.argmax(1) != c)).nonzero()[:, 0]
    if not len(rows):
        return ()
    margin = metrics.margin(heldout.logits[rows], heldout.labels[rows])
    went_to = heldout.logits[rows].argmax(1)
    counted = torch.bincount(went_to, minlength=heldout.num_classes)
    chosen = []
    for enemy in counted.argsort(descending=True, stable=True).tolist():
        places = (went_to == enemy).nonzero()[:, 0]
        chosen += places[margin[places].argsort(stable=True)][:PER_ENEMY].tolist()
    features, weight, _ = head.effective(heldout.features[rows])
    examples = []
    for place in chosen[:ERRORS]:
        enemy = int(went_to[place])
        difference = head.scale * features[place] * (weight[enemy] - weight[c])
        most = difference.topk(min(PULLS, len(difference)))
        strongest = set(diagnosis.top_k_features[enemy].tolist())
        pulls = tuple(
            Pull(feature=feature, logits=round(value, 4), top_k=feature in strongest)
            for value, feature in zip(most.values.tolist(), most.indices.tolist(), strict=True)
            if value > 0
        )
        examples.append(_example(heldout, int(rows[place]), margin=float(margin[place]), pulls=pulls))
    return tuple(examples)


def _feature_map(heldout: Embeddings, seed: int) -> FeatureMap | None:
    rows = query_rows(heldout.labels, heldout.num_classes, MAP_ROWS, seed=seed, name="feature map")
    places = projection.two_dimensions(heldout.features[rows], seed=seed)
    if places is None:
        return None
    return FeatureMap(
        method=projection.METHOD,
        rows=tuple(rows.tolist()),
        x=tuple(round(value, 3) for value in places[:, 0].tolist()),
        y=tuple(round(value, 3) for value in places[:, 1].tolist()),
        labels=tuple(heldout.labels[rows].tolist()),
        predicted=tuple(heldout.logits[rows].argmax(1).tolist()),
    )
