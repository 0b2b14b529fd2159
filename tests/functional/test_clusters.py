import math

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances, silhouette_score

from diversify.errors import InputError
from diversify.functional import clusters, draws


def noise(rows: int, features: int, key: str) -> torch.Tensor:
    return draws.uniform(key, torch.arange(rows * features)).view(rows, features)


def test_separate_groups_are_the_clusters() -> None:
    features = noise(60, 3, "groups")
    features[20:40] += 5
    features[40:] -= 5
    labels, silhouette = clusters.clusters_of(features, seed=1)
    assert [len(set(labels[start : start + 20].tolist())) for start in (0, 20, 40)] == [1, 1, 1]
    assert len(set(labels.tolist())) == 3
    assert silhouette > 0.8
    again, _ = clusters.clusters_of(features, seed=1)
    assert torch.equal(labels, again)


def test_small_clusters_are_not_taken() -> None:
    features = noise(40, 2, "small")
    features[:4] += 50
    assert (
        clusters.clusters_of(features, least=10, seed=0) is None
        or min(torch.bincount(clusters.clusters_of(features, least=10, seed=0)[0]).tolist()) >= 10
    )
    assert clusters.clusters_of(features, least=4, most=2, seed=0)[0][:4].unique().numel() == 1


@pytest.mark.parametrize("features", [torch.zeros(40, 2), torch.rand(19, 2)])
def test_equal_or_few_rows_have_no_clusters(features: torch.Tensor) -> None:
    assert clusters.clusters_of(features, seed=0) is None


@pytest.mark.parametrize(("name", "more"), [("most", {"most": 1}), ("least", {"least": 0})])
def test_numbers_out_of_range_are_refused(name: str, more: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{name} must be at least"):
        clusters.clusters_of(torch.rand(40, 2), seed=0, **more)


@pytest.mark.parametrize(
    ("hits", "total", "other_hits", "other_total"), [(4, 20, 50, 60), (9, 10, 8, 10), (0, 10, 3, 30)]
)
def test_the_p_value_sums_the_hypergeometric_chances(hits: int, total: int, other_hits: int, other_total: int) -> None:
    drawn, every = hits + other_hits, total + other_total
    ways = [
        math.comb(total, k) * math.comb(other_total, drawn - k) for k in range(hits + 1) if drawn - k <= other_total
    ]
    expected = sum(ways) / math.comb(every, drawn)
    assert clusters.lower_share_p(hits, total, other_hits, other_total) == pytest.approx(expected)


def test_the_silhouette_is_that_of_scikit_learn():
    rows = draws.normal("silhouette", torch.arange(30)[:, None], torch.arange(4)).numpy()
    labels = np.minimum(np.arange(30) // 9, 2).astype(np.int32)
    distances = pairwise_distances(rows).astype(np.float64)
    for own in (labels, np.array([3, *labels[1:]], dtype=np.int32)):
        wanted = silhouette_score(distances, own, metric="precomputed")
        assert abs(clusters._silhouette(distances, own) - wanted) < 1e-12
