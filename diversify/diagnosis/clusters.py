"""Groups of similar held-out images inside a class that the model recognises less often than the rest of the class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import pydantic
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from ..files.schema import Value
from ..functional import clusters, counts, draws, stats
from ..network.embeddings import Embeddings, require_embeddings
from ..network.linear_head import LinearHead, read_head
from .class_table import ClassTable
from .findings import COUNTS_IMAGES, REMEDIES, Evidence, Finding

KIND = "failing cluster"
REMEDY = "look at the cluster"
COLUMN = "cluster_recall"
LEVEL = 0.05  # of the tests over all clusters
MOST, LEAST = 4, 10  # clusters of a class, rows of a cluster
ROWS = 500  # held-out rows of a class that are divided, drawn at random
CLASSES = 100  # classes that are divided, those with the most errors
DIFFERENCE = 0.2  # between the recall of a failing cluster and of the rest of its class, at least
FEWEST_ERRORS = 5  # of a class that is divided; with fewer, no cluster can stand out
_ONE_CLASS = 0.8  # of the images of a cluster that are predicted as one wrong class

_Share = Annotated[float, pydantic.Field(ge=0, le=1)]


class FailingCluster(Value):
    """A cluster of a class's held-out images whose recall is surely below that of the rest of the class.

    Attributes:
        class_index: The class.
        rows: Rows of the held-out embeddings, those nearest to the centre of the cluster first.
        hits: How many of them are predicted correctly.
        recall: Their recall.
        low: Lower end of its 95% interval (Wilson).
        high: Upper end.
        rest: How many other images of the class were looked at.
        rest_hits: How many of these are predicted correctly.
        predicted: The wrong class that images of the cluster are most often predicted as.
        predicted_count: How often.
        clusters: How many clusters the class was divided into.
        silhouette: How well they are separated, in [-1, 1].
        p_value: P value of the exact test, adjusted for all clusters of the diagnosis (Holm).

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 6))
        >>> dv.find_failing_clusters(heldout)
        ()
    """

    class_index: Annotated[int, pydantic.Field(ge=0)]
    rows: tuple[int, ...]
    hits: int
    recall: _Share
    low: _Share
    high: _Share
    rest: int
    rest_hits: int
    predicted: Annotated[int, pydantic.Field(ge=0)]
    predicted_count: int
    clusters: int
    silhouette: float
    p_value: _Share

    @property
    def looks_like_one_class(self) -> bool:
        """Whether the images may show another class than their labels say: most are predicted as one and the same."""
        return self.predicted_count >= _ONE_CLASS * len(self.rows)

    @property
    def rest_recall(self) -> float:
        """The recall of the other images of the class."""
        return self.rest_hits / self.rest


def find_failing_clusters(
    heldout: Embeddings, *, head: nn.Module | LinearHead | None = None, seed: int = 0
) -> tuple[FailingCluster, ...]:
    """Find groups of similar held-out images whose recall is surely below that of the rest of their class.

    The held-out features of each class are divided into 2 to 4 clusters by k-means; the number with the largest
    silhouette is taken, with at least 10 images in every cluster. Predictions play no part in this. Then Fisher's exact
    test compares the recall of each cluster with that of the rest of the class, adjusted for all clusters (Holm).

    Args:
        heldout: Embeddings of images that the model was not trained on.
        head: The head whose predictions count; by default those of the embeddings' logits.
        seed: Seed of k-means, and of the draw of 500 images of a larger class.

    Returns:
        The clusters that are surely worse, at the 5% level, and by at least 20 points; lowest recall first. Classes with at
        least 5 errors are divided; of more than 100 such classes, those with the most errors.

    See Also:
        `diagnose`, which finds them for the report.

    Example:
        >>> import torch, diversify as dv
        >>> train, heldout, head = dv.make_embeddings((100, 100), heldout=80, spread=0.2)
        >>> features, shifted = heldout.features.clone(), heldout.features[80:100]
        >>> features[:20] = shifted  # 20 of the 80 images of class 0 look like class 1
        >>> found = dv.find_failing_clusters(dv.Embeddings.from_arrays(features, heldout.labels, head=head))
        >>> [(one.class_index, len(one.rows), one.recall, one.rest_recall) for one in found]
        [(0, 20, 0.0, 1.0)]
    """
    require_embeddings("heldout", heldout, "it is defined for one label per image")
    if head is not None:
        heldout = heldout.seen_by(read_head(head))
    rows = torch.arange(len(heldout))
    return failing_clusters(
        heldout.features, heldout.labels, heldout.logits.argmax(1), rows, heldout.num_classes, seed=seed
    )


def failing_clusters(
    features: Tensor, labels: Tensor, predictions: Tensor, queries: Tensor, num_classes: int, *, seed: int
) -> tuple[FailingCluster, ...]:
    """Return the failing clusters among the query rows; see `find_failing_clusters`.

    Args:
        features: `(N, D)`.
        labels: `(N,)`, the true classes.
        predictions: `(N,)`, the predicted classes.
        queries: The rows to look at.
        num_classes: C.
        seed: Seed of k-means and of the draw of rows.
    """
    found = []
    with threadpool_limits(1):  # k-means then sums in one order, so that a run repeats exactly
        for c in _divided_classes(labels[queries], predictions[queries], num_classes):
            found += _clusters_of_class(features, labels, predictions, queries, c, seed)
    adjusted = stats.holm({str(place): one.p_value for place, one in enumerate(found)})
    sure = [
        one.model_copy(update={"p_value": p})
        for one, p in zip(found, adjusted.values(), strict=True)
        if p < LEVEL and one.rest_recall - one.recall >= DIFFERENCE
    ]
    return tuple(sorted(sure, key=lambda one: (one.recall, one.class_index)))


def _divided_classes(labels: Tensor, predictions: Tensor, num_classes: int) -> list[int]:
    """The classes in which a cluster could stand out, by their numbers of hits and errors alone."""
    total = counts.class_counts(labels, num_classes)
    errors = counts.class_counts(labels[predictions != labels], num_classes)
    possible = (total >= 2 * LEAST) & (errors >= FEWEST_ERRORS) & (total - errors >= 1)
    order = errors.where(possible, -1).argsort(descending=True, stable=True)
    return order[: min(CLASSES, int(possible.sum()))].tolist()


def _clusters_of_class(
    features: Tensor, labels: Tensor, predictions: Tensor, queries: Tensor, c: int, seed: int
) -> list[FailingCluster]:
    """Every cluster of a class, failing or not, with the raw p value; nothing if the class cannot be divided."""
    rows = queries[labels[queries] == c]
    if len(rows) > ROWS:
        rows = rows[draws.permutation(len(rows), "clusters", seed, c)[:ROWS].to(rows.device)].sort().values
    divided = clusters.clusters_of(features[rows], most=MOST, least=LEAST, seed=seed)
    if divided is None:
        return []
    places, silhouette = divided
    places = places.to(rows.device)
    number = int(places.max()) + 1
    return [_cluster(features, predictions, rows, places == k, c, number, silhouette) for k in range(number)]


def _cluster(
    features: Tensor, predictions: Tensor, rows: Tensor, inside: Tensor, c: int, number: int, silhouette: float
) -> FailingCluster:
    members, hit = rows[inside], predictions[rows] == c
    hits, total, rest_hits = int(hit[inside].sum()), len(members), int(hit[~inside].sum())
    low, high = (float(end) for end in stats.wilson_interval(torch.tensor(hits), torch.tensor(total)))
    wrong = predictions[members][predictions[members] != c]
    most = torch.bincount(wrong) if len(wrong) else torch.zeros(1)
    chosen = features[members].double()
    near = (chosen - chosen.mean(0)).norm(dim=1).argsort(stable=True)
    return FailingCluster(
        class_index=c,
        rows=tuple(members[near].tolist()),
        hits=hits,
        recall=hits / total,
        low=low,
        high=high,
        rest=len(rows) - total,
        rest_hits=rest_hits,
        predicted=int(most.argmax()),
        predicted_count=int(most.max()),
        clusters=number,
        silhouette=round(silhouette, 4),
        p_value=min(1.0, clusters.lower_share_p(hits, total, rest_hits, len(rows) - total)),
    )


def put_clusters(table: ClassTable, found: Sequence[FailingCluster]) -> None:
    """Put the recall of each class's failing cluster, the lowest if it has several; NaN for a class without one."""
    value, low, high = (torch.full((table.num_classes,), torch.nan, dtype=torch.float64) for _ in range(3))
    for one in reversed(found):  # lowest recall last
        value[one.class_index], low[one.class_index], high[one.class_index] = one.recall, one.low, one.high
    table.put(COLUMN, value, low, high)


def cluster_findings(
    found: Sequence[FailingCluster], class_names: Sequence[str], *, grouped: bool = False
) -> tuple[Finding, ...]:
    """Return a finding for each failing cluster, in their order.

    Args:
        found: The clusters.
        class_names: One name per class.
        grouped: Whether the held-out images have groups, which the test does not know.
    """
    return tuple(_finding(one, class_names, grouped=grouped) for one in found)


def _or_wrong_labels(one: FailingCluster, class_names: Sequence[str]) -> str:
    other = class_names[one.predicted]
    return f" Look at them first: if they show {other}, their labels are wrong." if one.looks_like_one_class else ""


def _finding(one: FailingCluster, class_names: Sequence[str], *, grouped: bool) -> Finding:
    name, size = class_names[one.class_index], len(one.rows)
    rest_low, rest_high = (
        float(end) for end in stats.wilson_interval(torch.tensor(one.rest_hits), torch.tensor(one.rest))
    )
    chance = "p below 0.001" if one.p_value < 0.001 else f"p = {one.p_value:.3f}"
    text = (
        f"{size:,} of {size + one.rest:,} held-out images of {name} form a cluster with recall {one.recall:.0%} (95% interval"
        f" {one.low:.0%} to {one.high:.0%}); recall of the other {one.rest:,} is {one.rest_recall:.0%} (95% interval"
        f" {rest_low:.0%} to {rest_high:.0%}). Of its {size - one.hits:,} errors, {one.predicted_count:,} are predicted as"
        f" {class_names[one.predicted]}.{_or_wrong_labels(one, class_names)} The cluster was found from the features alone; the"
        f" difference is beyond chance (exact test, adjusted for all clusters: {chance}).{COUNTS_IMAGES if grouped else ''}"
        f" Points to: {REMEDIES[REMEDY]}."
    )
    evidence = Evidence(measure=COLUMN, value=one.recall, low=one.low, high=one.high, compared_with=one.rest_recall)
    return Finding(
        class_index=one.class_index,
        class_name=name,
        text=text,
        evidence=(evidence,),
        causes=(REMEDY,),
        remedy=REMEDY,
        kind=KIND,
    )
