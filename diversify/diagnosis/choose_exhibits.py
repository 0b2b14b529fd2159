"""The choice of the images that a report shows: examples of each fragile class, and a map of the held-out features."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ..errors import must
from ..functional import draws, metrics, neighbors, projection
from ..functional.multilabel import require_one_label
from ..network.embeddings import Embeddings, require_embeddings
from ..network.linear_head import LinearHead, read_head
from .copy_pairs import Pair, least_alike
from .exhibits import (
    ClassExamples,
    ClusterExamples,
    CopyExamples,
    CopyPair,
    Example,
    Exhibits,
    FeatureMap,
    Pull,
    Suspect,
)
from .near_copies import NearCopies, copies_of_embeddings, joined_copies, largest_groups, of_embeddings
from .result import Diagnosis
from .sides import query_rows

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
SAFE, BORDER, OUTLIER = 0, 1, 3  # of `neighbors.archetypes`


def choose_exhibits(
    train: Embeddings,
    heldout: Embeddings,
    *,
    head: nn.Module | LinearHead,
    diagnosis: Diagnosis,
    image_copies: NearCopies | None = None,
) -> Exhibits:
    """Choose the images that a report shows, by fixed rules.

    For each of the 10 fragile classes with the lowest recall, it chooses

    - typical training images: nearest to the mean of the class's features;
    - border images: 2 or 3 of 5 neighbours of the class, smallest margin first;
    - outliers: no neighbour of the class among 5, farthest from the mean first;
    - held-out errors: from the most frequent wrong predictions, the most confident first, each with the features that
      caused it (largest product with the difference between the two rows of the head).

    It also chooses the 16 most suspect labels of each side, those of classes with probably wrong labels first, and images of
    the failing clusters.

    Args:
        train: The training embeddings that the diagnosis was made from.
        heldout: The held-out embeddings that it was made from.
        head: The head of the network.
        diagnosis: The diagnosis.
        image_copies: The near copies among the images, as they were given to `diagnose`.

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
    several = "archetypes and wrong classes are not defined for several labels"
    for name, value in (("train", train), ("heldout", heldout)):
        require_embeddings(name, value, several)
    require_one_label("diagnosis", diagnosis, several)
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
    copies, pairs = _near_copies(train, heldout, diagnosis, image_copies)
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
        near_copies=copies,
        copy_pairs=pairs,
        images_compared=image_copies is not None,
    )


def _near_copies(
    train: Embeddings, heldout: Embeddings, diagnosis: Diagnosis, image_copies: NearCopies | None
) -> tuple[tuple[CopyExamples, ...], tuple[CopyPair, ...]]:
    """The largest groups and some pairs of near copies, where the diagnosis has found near copies."""
    columns = diagnosis.columns
    if "effective_count" not in columns or not (
        bool((columns["effective_count"] < columns["count"]).any())
        or bool((columns.get("near_copies_heldout", columns["count"] * 0) > 0).any())
    ):
        return (), ()
    images = None if image_copies is None else of_embeddings(image_copies, train, heldout)
    in_features = copies_of_embeddings(train, heldout, seed=diagnosis.seed, pairs=True)
    found = joined_copies(in_features, images, train.labels)

    def some(side: Embeddings, rows: Tensor) -> tuple[Example, ...]:
        rows = rows[:COPIES]
        margin = metrics.margin(side.logits[rows], side.labels[rows])
        return tuple(_example(side, row, margin=one) for row, one in zip(rows.tolist(), margin.tolist(), strict=True))

    def pair(one: Pair) -> CopyPair:
        image = some(heldout if one.heldout else train, torch.tensor([one.row]))[0]
        copy_of = some(train, torch.tensor([one.copy_of]))[0]
        distance = None if one.distance is None else round(one.distance, 4)
        return CopyPair(
            class_index=one.class_index,
            heldout=one.heldout,
            image=image,
            copy_of=copy_of,
            bits=one.bits,
            distance=distance,
        )

    groups = tuple(
        CopyExamples(
            class_index=c,
            train=some(train, seen),
            heldout=some(heldout, unseen),
            in_train=len(seen),
            in_heldout=len(unseen),
        )
        for c, seen, unseen in largest_groups(found, train.labels, COPY_CLASSES)
    )
    return groups, tuple(map(pair, least_alike(found, train.labels, heldout.labels)))


def _require_rows(rows: Tensor, side: Embeddings, name: str) -> None:
    if len(rows) and int(rows.max()) >= len(side):
        raise must(f"{name} embeddings", "be those that the diagnosis was made from", f"{len(side):,} rows")


def _suspects(side: Embeddings, diagnosis: Diagnosis, name: str) -> tuple[Suspect, ...]:
    """The most suspect labels of a side; those of classes with probably wrong labels first."""
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
