"""The images that a report shows: examples of each fragile class, and a map of the held-out features."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Self

import pydantic
import torch
from torch import Tensor, nn

from ..errors import must
from ..files.schema import Value, broken, refusal
from ..functional import draws, metrics, neighbors, projection
from ..functional.multilabel import require_one_label
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead, read_head
from .near_copies import copies_of_embeddings, largest_groups
from .result import Diagnosis
from .sides import query_rows

SCHEMA_VERSION = 1
CLASSES = 10  # fragile classes with examples
EACH = 4  # training images of each kind per class
ERRORS, PER_ENEMY = 8, 3  # held-out errors per class, and per wrong class
PULLS = 3  # features named per error
CANDIDATES = 1000  # training images of a class that examples are chosen from
MAP_ROWS = 1200
SUSPECTS = 16  # images with suspect labels, per side
IN_CLUSTER, OUTSIDE = 8, 4  # images per failing cluster, and of the rest of its class
CLUSTERS = 6  # failing clusters with pictures
COPY_CLASSES, COPIES = 6, 6  # classes with a group of near copies, and images of it on either side
_PICTURE = r"^(data:image/(png|jpeg);base64,[A-Za-z0-9+/=]*)?$"
SAFE, BORDER, OUTLIER = 0, 1, 3  # of `neighbors.archetypes`


class Pull(Value):
    """A feature that made the model predict the wrong class.

    Attributes:
        feature: Index of the feature.
        logits: How many logits more it adds to the predicted class than to the true class.
        top_k: True if it is among the top-K of the predicted class.
    """

    feature: int
    logits: float
    top_k: bool


class Example(Value):
    """One image of a class.

    Attributes:
        row: Its row in the embeddings.
        index: Its index in the data set; its row where the index is not known.
        predicted: The predicted class.
        margin: The logit of the true class minus the largest other logit.
        pulls: The features that caused a held-out error; empty for other images.
        picture: A small picture as a `data:` address; empty until `take_pictures` fills it in.
        name: The file's name; empty until `take_pictures` fills it in, and for images without a file.
    """

    row: int
    index: int
    predicted: int
    margin: float
    pulls: tuple[Pull, ...] = ()
    picture: Annotated[str, pydantic.Field(pattern=_PICTURE)] = ""
    name: str = ""


class ClassExamples(Value):
    """Examples of one class, and how many images of each kind there are.

    Attributes:
        class_index: The class.
        typical: Training images nearest to the mean of the class.
        border: Training images with 2 or 3 of 5 neighbours of the class.
        outlier: Training images with no neighbour of the class among 5.
        errors: Held-out images that are predicted as another class.
        candidates: How many training images the examples were chosen from.
        borders: How many of the candidates are border; None if there are too few images to have 5 neighbours.
        outliers: How many of the candidates are outliers; None likewise.
        misses: How many held-out images are predicted as another class.
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


class Suspect(Value):
    """An image whose label is suspect.

    Attributes:
        row: Its row in the embeddings.
        index: Its index in the data set; its row where the index is not known.
        given: Its label.
        suggested: The class that it rather belongs to.
        score: How much more probable the most probable other class is than the label.
        picture: A small picture as a `data:` address; empty until `take_pictures` fills it in.
        name: The file's name; empty until `take_pictures` fills it in, and for images without a file.
    """

    row: int
    index: int
    given: int
    suggested: int
    score: float
    picture: Annotated[str, pydantic.Field(pattern=_PICTURE)] = ""
    name: str = ""


class CopyExamples(Value):
    """The largest group of near copies of a class.

    Attributes:
        class_index: The class.
        train: Training images of the group, some of them.
        heldout: Held-out images that are near copies of them, some of them.
        in_train: How many training images the group has.
        in_heldout: How many held-out images are near copies of them.
    """

    class_index: int
    train: tuple[Example, ...]
    heldout: tuple[Example, ...]
    in_train: int
    in_heldout: int


class ClusterExamples(Value):
    """Images of one failing cluster, and of the rest of its class.

    Attributes:
        place: The place of the cluster among the failing clusters of the diagnosis.
        class_index: The class.
        inside: Images of the cluster, nearest to its centre first.
        outside: Other held-out images of the class, nearest to their centre first.
    """

    place: int
    class_index: int
    inside: tuple[Example, ...]
    outside: tuple[Example, ...]


class FeatureMap(Value):
    """The held-out features in two dimensions; every field but `method` has one entry per image.

    Attributes:
        method: How the two dimensions were computed.
        rows: Rows of the embeddings.
        x: First coordinates.
        y: Second coordinates.
        labels: True classes.
        predicted: Predicted classes.
    """

    method: str
    rows: tuple[int, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    labels: tuple[int, ...]
    predicted: tuple[int, ...]

    @pydantic.model_validator(mode="after")
    def _one_entry_per_image(self) -> Self:
        if len({len(each) for each in (self.rows, self.x, self.y, self.labels, self.predicted)}) > 1:
            raise broken("have as many rows, x, y, labels and predicted", "different numbers")
        return self


class Exhibits(Value):
    """The images that a report shows beside the numbers of a diagnosis.

    Attributes:
        schema_version: Version of the JSON form.
        fragile: Number of fragile classes.
        examples: Examples of the fragile classes with the lowest recall.
        feature_map: The held-out features in two dimensions; None if they cannot be laid out.
        train_indices_known: False if it is not known which images of the data set the training examples are.
        heldout_indices_known: The same for held-out examples.
        suspects_train: Training images whose label is suspect, the most suspect first.
        suspects_heldout: The same for held-out images.
        clusters: Images of the failing clusters with the lowest recall.
        near_copies: The largest group of near copies of some classes.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 6), spread=1.2)
        >>> diagnosis = dv.diagnose(train, heldout, head=head)
        >>> exhibits = dv.choose_exhibits(train, heldout, head=head, diagnosis=diagnosis)
        >>> exhibits.fragile, dv.Exhibits.from_dict(exhibits.to_dict()) == exhibits
        (1, True)
    """

    schema_version: int = SCHEMA_VERSION
    fragile: int
    examples: tuple[ClassExamples, ...]
    feature_map: FeatureMap | None
    train_indices_known: bool = True
    heldout_indices_known: bool = True
    suspects_train: tuple[Suspect, ...] = ()
    suspects_heldout: tuple[Suspect, ...] = ()
    clusters: tuple[ClusterExamples, ...] = ()
    near_copies: tuple[CopyExamples, ...] = ()

    def require_of(self, diagnosis: Diagnosis) -> None:
        """Check that the exhibits belong to the diagnosis.

        Raises:
            InputError: A class of the exhibits is none of the diagnosis.
        """
        classes = {each.class_index for each in self.examples}
        shown = [each for one in self.examples for each in (*one.typical, *one.border, *one.outlier, *one.errors)]
        classes |= {each.predicted for each in shown}
        classes |= {c for each in (*self.suspects_train, *self.suspects_heldout) for c in (each.given, each.suggested)}
        for cluster in self.clusters:
            classes |= {cluster.class_index, *(each.predicted for each in (*cluster.inside, *cluster.outside))}
        for group in self.near_copies:
            classes |= {group.class_index, *(each.predicted for each in (*group.train, *group.heldout))}
        if self.feature_map is not None:
            classes |= {*self.feature_map.labels, *self.feature_map.predicted}
        last = len(diagnosis.class_names) - 1
        if classes and not 0 <= min(classes) <= max(classes) <= last:
            raise must(
                "exhibits", f"be of the diagnosis's classes, 0 to {last}", max(classes, key=lambda c: abs(c - last / 2))
            )
        clusters, known = {each.place for each in self.clusters}, len(diagnosis.failing_clusters)
        if clusters and not 0 <= min(clusters) <= max(clusters) < known:
            raise must("exhibits", f"be of the diagnosis's {known} failing clusters", max(clusters))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `exhibits.json`, as JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the exhibits that `to_dict` was called on.

        Raises:
            InputError: A field is missing or damaged, or the file has another version.
        """
        version = record.get("schema_version") if isinstance(record, Mapping) else None
        if version != SCHEMA_VERSION:
            raise must("exhibits", f"have schema_version {SCHEMA_VERSION}", version)
        try:
            return cls.model_validate(record)
        except pydantic.ValidationError as error:
            raise refusal("exhibits", error, cls.model_fields) from None


def choose_exhibits(
    train: Embeddings, heldout: Embeddings, *, head: nn.Module | LinearHead, diagnosis: Diagnosis
) -> Exhibits:
    """Choose the images that a report shows, by fixed rules.

    For each of the 10 fragile classes with the lowest recall, it chooses

    - typical training images: nearest to the mean of the class's features;
    - border images: 2 or 3 of 5 neighbours of the class, smallest margin first;
    - outliers: no neighbour of the class among 5, farthest from the mean first;
    - held-out errors: from the most frequent wrong predictions, the most confident first, each with the features that
      caused it (largest product with the difference between the two rows of the head).

    It also chooses the 16 most suspect labels of each side, those of classes with surely wrong labels first, and images of
    the failing clusters.

    Args:
        train: The training embeddings that the diagnosis was made from.
        heldout: The held-out embeddings that it was made from.
        head: The head of the network.
        diagnosis: The diagnosis.

    Returns:
        The exhibits, without pictures; `take_pictures` adds them.

    Raises:
        InputError: The embeddings have other classes than the diagnosis.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 6), spread=1.2)
        >>> diagnosis = dv.diagnose(train, heldout, head=head)
        >>> exhibits = dv.choose_exhibits(train, heldout, head=head, diagnosis=diagnosis)
        >>> [(one.class_index, one.misses) for one in exhibits.examples]
        [(3, 48)]
    """
    for name, value in (("train", train), ("heldout", heldout), ("diagnosis", diagnosis)):
        require_one_label(name, value, "archetypes and wrong classes are not defined for several labels")
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
        train_indices_known=train.reading.indices_known,
        heldout_indices_known=heldout.reading.indices_known,
        suspects_train=_suspects(train, diagnosis, "train"),
        suspects_heldout=_suspects(heldout, diagnosis, "heldout"),
        clusters=tuple(
            _cluster(heldout, diagnosis, place) for place in range(min(CLUSTERS, len(diagnosis.failing_clusters)))
        ),
        near_copies=_near_copies(train, heldout, diagnosis),
    )


def _near_copies(train: Embeddings, heldout: Embeddings, diagnosis: Diagnosis) -> tuple[CopyExamples, ...]:
    """The largest groups of near copies, where the diagnosis has found near copies."""
    columns = diagnosis.columns
    if "effective_count" not in columns or not (
        bool((columns["effective_count"] < columns["count"]).any())
        or bool((columns.get("near_copies_heldout", columns["count"] * 0) > 0).any())
    ):
        return ()
    found = copies_of_embeddings(train, heldout, seed=diagnosis.seed)

    def some(side: Embeddings, rows: Tensor) -> tuple[Example, ...]:
        rows = rows[:COPIES]
        margin = metrics.margin(side.logits[rows], side.labels[rows])
        return tuple(_example(side, row, margin=one) for row, one in zip(rows.tolist(), margin.tolist(), strict=True))

    return tuple(
        CopyExamples(
            class_index=c,
            train=some(train, seen),
            heldout=some(heldout, unseen),
            in_train=len(seen),
            in_heldout=len(unseen),
        )
        for c, seen, unseen in largest_groups(found, train.labels, COPY_CLASSES)
    )


def _require_rows(rows: Tensor, side: Embeddings, name: str) -> None:
    if len(rows) and int(rows.max()) >= len(side):
        raise must(f"{name} embeddings", "be those that the diagnosis was made from", f"{len(side):,} rows")


def _suspects(side: Embeddings, diagnosis: Diagnosis, name: str) -> tuple[Suspect, ...]:
    """The most suspect labels of a side; those of classes with surely wrong labels first."""
    errors = diagnosis.label_errors.get(name)
    if errors is None:
        return ()
    _require_rows(errors.rows, side, name)
    wrong = torch.isin(errors.given, torch.tensor(errors.wrong_classes, dtype=torch.int64))
    order = torch.cat([wrong.nonzero()[:, 0], (~wrong).nonzero()[:, 0]])[:SUSPECTS]
    return tuple(
        Suspect(
            row=int(errors.rows[place]),
            index=int(errors.indices[place]),
            given=int(errors.given[place]),
            suggested=int(errors.suggested[place]),
            score=round(float(errors.score[place]), 4),
        )
        for place in order.tolist()
    )


def _cluster(heldout: Embeddings, diagnosis: Diagnosis, place: int) -> ClusterExamples:
    """Images nearest to the centre of a failing cluster, and nearest to the centre of the rest of its class."""
    found = diagnosis.failing_clusters[place]
    inside = torch.tensor(found.rows, dtype=torch.int64)
    _require_rows(inside, heldout, "heldout")
    outside = heldout.labels.cpu() == found.class_index
    outside[inside] = False
    rest = outside.nonzero()[:, 0]
    features = heldout.features[rest.to(heldout.features.device)].double()
    near = rest[(features - features.mean(0)).norm(dim=1).argsort(stable=True).cpu()]

    def examples(rows: Tensor) -> tuple[Example, ...]:
        margin = metrics.margin(heldout.logits[rows], heldout.labels[rows])
        pairs = zip(rows.tolist(), margin.tolist(), strict=True)
        return tuple(_example(heldout, row, margin=value) for row, value in pairs)

    return ClusterExamples(
        place=place,
        class_index=found.class_index,
        inside=examples(inside[:IN_CLUSTER]),
        outside=examples(near[:OUTSIDE]),
    )


def _examples(train: Embeddings, heldout: Embeddings, head: LinearHead, diagnosis: Diagnosis, c: int) -> ClassExamples:
    rows = (train.labels == c).nonzero()[:, 0]
    mean = train.features[rows].double().mean(0)  # NaN for a class without rows, where nothing is ranked
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
    """Held-out errors, from the most frequent wrong class on, the most confident first; at most `PER_ENEMY` of each."""
    rows = ((heldout.labels == c) & (heldout.logits.argmax(1) != c)).nonzero()[:, 0]
    if not len(rows):
        return ()
    margin = metrics.margin(heldout.logits[rows], heldout.labels[rows])
    wrong_class = heldout.logits[rows].argmax(1)
    counted = torch.bincount(wrong_class, minlength=heldout.num_classes)
    chosen = []
    for enemy in counted.argsort(descending=True, stable=True).tolist():
        places = (wrong_class == enemy).nonzero()[:, 0]
        chosen += places[margin[places].argsort(stable=True)][:PER_ENEMY].tolist()
    features, weight, _ = head.effective(heldout.features[rows])
    examples = []
    for place in chosen[:ERRORS]:
        enemy = int(wrong_class[place])
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
