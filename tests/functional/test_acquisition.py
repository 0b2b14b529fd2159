"""Which rows of a pool each method takes, against what can be said without it."""

import itertools

import pytest
import torch
from torch import Tensor

from diversify.functional import acquisition, draws
from diversify.functional.acquisition import METHODS, k_means, nearest_centre
from diversify.functional.pool import Pool, PoolCopies, Taken, fair_share


def a_pool(rows: int = 40, *, seed: int = 0) -> Pool:
    features = draws.normal("test pool", torch.arange(rows)[:, None], torch.arange(4))
    logits = draws.normal("test logits", torch.arange(rows)[:, None], torch.arange(3)).double()
    train = draws.normal("test train", torch.arange(30)[:, None], torch.arange(4))
    return Pool(
        features=features,
        probabilities=logits.softmax(1),
        train=train,
        labels=torch.arange(30) % 3,
        seed=seed,
    )


def taken_by(method: str, pool: Pool, wanted: int, **options: object) -> Taken:
    taken = Taken(wanted, torch.ones(len(pool.features), dtype=torch.bool), **options)  # type: ignore[arg-type]
    METHODS[method](pool, taken)
    return taken


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_as_many_different_rows_as_wanted_and_the_same_again(method: str) -> None:
    pool = a_pool()
    rows = taken_by(method, pool, 15).rows
    assert len(set(rows)) == len(rows) == 15
    assert taken_by(method, pool, 15).rows == rows
    assert sorted(taken_by(method, pool, 40).rows) == list(range(40))


@pytest.mark.parametrize("method", METHODS)
def test_rows_that_are_not_free_are_never_taken_and_groups_give_their_share(method: str) -> None:
    pool = a_pool()
    free = torch.arange(40) % 4 != 0
    groups = torch.arange(40) // 10
    taken = Taken(8, free, shares=(groups,))
    METHODS[method](pool, taken)
    assert all(bool(free[row]) for row in taken.rows)
    assert torch.bincount(groups[taken.rows]).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("method", METHODS)
def test_one_row_of_each_burst_is_taken(method: str) -> None:
    pool = a_pool(30)
    bursts = torch.arange(30) // 3
    taken = Taken(20, torch.ones(30, dtype=torch.bool), copies=lambda row: bursts == bursts[row])
    METHODS[method](pool, taken)
    assert sorted(bursts[taken.rows].tolist()) == list(range(10))


def test_a_share_grows_only_where_all_groups_with_free_rows_are_full() -> None:
    groups, bursts = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 1, 2, 3, 4, 4])
    taken = Taken(4, torch.ones(6, dtype=torch.bool), lambda row: bursts == bursts[row], shares=(groups,))
    taken.in_order(torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]))
    assert taken.rows == [0, 1, 4, 2]


@pytest.mark.parametrize(("sizes", "wanted"), list(itertools.product([[1], [5, 1], [2, 10, 10], [3, 3, 0]], [1, 4, 7])))
def test_the_fair_share_is_the_smallest_that_gives_enough(sizes: list[int], wanted: int) -> None:
    def given(share: int) -> int:
        return sum(min(size, share) for size in sizes)

    share = fair_share(torch.tensor(sizes), wanted)
    if sum(sizes) >= wanted:
        assert given(share) >= wanted
        assert share == 1 or given(share - 1) < wanted
    else:
        assert share == max(sizes)


def test_margin_and_entropy_rank_by_their_formulas() -> None:
    pool = a_pool()
    listed = pool.probabilities.tolist()
    two = [sorted(row)[-2:] for row in listed]
    margins = [1 - (high - low) for low, high in two]
    taken = taken_by("margin", pool, 5)
    assert taken.rows == sorted(range(40), key=lambda row: -margins[row])[:5]
    assert taken.scores == pytest.approx(sorted(margins, reverse=True)[:5])
    expected = -(pool.probabilities * pool.probabilities.log()).sum(1)
    assert taken_by("entropy", pool, 5).rows == expected.argsort(descending=True)[:5].tolist()


def test_k_center_takes_the_farthest_row_each_time() -> None:
    pool = a_pool()
    known: list[Tensor] = list(pool.train)
    expected = []
    for _ in range(6):
        distances = [min(float((row - one).norm()) for one in known) for row in pool.features]
        best = max(range(len(distances)), key=distances.__getitem__)
        expected.append(best)
        known.append(pool.features[best])
    assert taken_by("k-center", pool, 6).rows == expected


def test_badge_measures_the_distance_of_gradients() -> None:
    pool = a_pool()
    left = pool.probabilities - torch.nn.functional.one_hot(pool.predicted, 3)
    gradients = (left[:, :, None] * pool.features[:, None].double()).flatten(1)
    taken = taken_by("badge", pool, 6)
    assert taken.rows[0] == int(gradients.norm(dim=1).argmax())
    for place in range(1, 6):
        expected = min(float((gradients[taken.rows[place]] - gradients[one]).norm()) for one in taken.rows[:place])
        assert taken.scores[place] == pytest.approx(expected, abs=1e-5)


def test_coverage_takes_one_row_of_each_far_cluster() -> None:
    centres = 100 * torch.eye(4)
    features = torch.cat([a_pool().features[:10] + centre for centre in centres])
    pool = a_pool()
    pool = Pool(**{**vars(pool), "features": features})
    assert sorted(torch.tensor(taken_by("coverage", pool, 4).rows).div(10).long().tolist()) == [0, 1, 2, 3]


def test_typical_rows_lie_in_clusters_without_training_rows() -> None:
    spread = a_pool().features[:30]
    features = torch.cat([spread, 100 + spread / 2, 200 + spread[:4]])
    pool = Pool(**{**vars(a_pool()), "features": features, "probabilities": torch.full((64, 3), 1 / 3).double()})
    rows = taken_by("typical", pool, 3).rows
    assert all(row >= 30 for row in rows)  # the training rows lie among the first 30


def test_k_means_ends_where_no_mean_moves_and_weights_count_as_repeated_rows() -> None:
    pool = a_pool(60)
    weights = 1 + torch.arange(60) % 3
    centres = k_means(pool.features, weights, 4, seed=0)
    own = nearest_centre(pool.features, centres)[0]
    for k in range(4):
        rows = pool.features[own == k].repeat_interleave(weights[own == k], 0)
        torch.testing.assert_close(centres[k], rows.mean(0), atol=1e-4, rtol=1e-4)
    assert torch.equal(own, torch.cdist(pool.features, centres).argmin(1))
    assert len(k_means(torch.ones(5, 2), torch.ones(5), 3, seed=0)) == 1


def test_a_large_pool_is_clustered_by_rows_drawn_by_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acquisition, "_CLUSTERED", 20)
    rows = torch.arange(200.0)[:, None]
    weights = (torch.arange(200) < 30).double()
    assert float(k_means(rows, weights, 3, seed=0).max()) < 30


def test_near_copies_are_found_in_the_pool_and_against_training_rows() -> None:
    pool = a_pool()
    features = torch.cat([pool.features, pool.features[:2], pool.train[:3] + 1e-7])
    probabilities = torch.cat([pool.probabilities, pool.probabilities[2:4], pool.probabilities[:3]])
    pool = Pool(**{**vars(pool), "features": features, "probabilities": probabilities})
    copies = PoolCopies(pool)
    assert copies.of_known(pool.train, pool.labels).nonzero()[:, 0].tolist() == [42, 43, 44]
    assert bool(copies.of(0)[40])
    assert bool(copies.of(40)[0])
