import math

import pytest
import torch
from reference import diversity as plain
from reference import draws as plain_draws
from reference.compare import same

from diversify.functional import diversity

NAN = math.nan
PLAIN = {
    "vendi": (diversity.vendi_score, plain.vendi),
    "effective_rank": (diversity.effective_rank, plain.effective_rank),
    "spread": (diversity.within_class_spread, plain.spread),
    "cosine": (diversity.mean_cosine, plain.mean_cosine),
}


def tensor(rows, dtype=torch.float64):
    return torch.tensor(rows, dtype=dtype)


def test_jacobi_s_rotations_find_eigenvalues():
    rows = plain_draws.normals(5, 5, "jacobi")
    matrix = [[plain.dot(one, two) for two in rows] for one in rows]
    expected = torch.linalg.eigvalsh(tensor(matrix)).tolist()
    assert same(sorted(plain.eigenvalues(matrix)), expected)
    assert not same(sorted(plain.eigenvalues(rows)), expected)


@pytest.mark.parametrize("measure", PLAIN)
@pytest.mark.parametrize(("rows", "columns"), [(6, 4), (3, 7), (5, 5), (1, 3)])
def test_measures_are_the_plain_loops(measure, rows, columns):
    ours, theirs = PLAIN[measure]
    batch = [plain_draws.normals(rows, columns, measure, key) for key in range(2)]
    batch.append([list(batch[0][0])] * rows)  # identical rows
    batch.append([[0.0] * columns, *batch[1][1:]])  # an all-zero row
    assert same(ours(tensor(batch)).tolist(), [theirs(item) for item in batch], 1e-6)
    assert ours(tensor(batch)[:, None]).shape == (4, 1)
    for dtype in (torch.float32, torch.float64):
        assert ours(tensor(batch, dtype)).dtype == dtype


@pytest.mark.parametrize("measure", PLAIN)
@pytest.mark.parametrize("zeros", [0, 2])
def test_repeating_every_row_changes_nothing(measure, zeros):
    rows = tensor(plain_draws.normals(6, 4, "repeat"))
    rows[:zeros] = 0
    for times in (2, 5):
        assert same(PLAIN[measure][0](rows.repeat(times, 1)).item(), PLAIN[measure][0](rows).item(), 1e-6)


@pytest.mark.parametrize("measure", PLAIN)
def test_the_order_of_rows_and_features_and_a_rotation_change_nothing(measure):
    rows = tensor(plain_draws.normals(6, 4, "order"))
    rotation, _ = torch.linalg.qr(tensor(plain_draws.normals(4, 4, "rotation")))
    expected = PLAIN[measure][0](rows).item()
    for same_rows in (rows.flip(0), rows.flip(1), rows @ rotation):
        assert same(PLAIN[measure][0](same_rows).item(), expected, 1e-7)


def test_identical_rows_have_one_direction():
    rows = tensor([[1.0, -2.0, 3.0]]).repeat(5, 1) * tensor([[1.0], [2.0], [3.0], [4.0], [5.0]])
    assert same(diversity.vendi_score(rows).item(), 1.0)
    assert same(diversity.effective_rank(rows).item(), 1.0)
    assert same(diversity.mean_cosine(rows).item(), 1.0)
    assert same(diversity.within_class_spread(rows[:1].repeat(4, 1)).item(), 0.0)


@pytest.mark.parametrize("columns", [5, 9])
def test_orthonormal_rows_have_n_directions(columns):
    rows, _ = torch.linalg.qr(tensor(plain_draws.normals(columns, 5, "orthonormal")))
    rows = rows.T
    assert same(diversity.vendi_score(rows).item(), 5.0)
    assert same(diversity.effective_rank(rows).item(), 5.0)
    assert same(diversity.mean_cosine(rows).item(), 0.2)
    assert same(diversity.within_class_spread(rows).item(), 0.8)


def test_scale_matters_to_the_spread_and_row_lengths_to_the_effective_rank_only():
    rows = tensor(plain_draws.normals(6, 4, "scale"))
    lengths = tensor([[1.0], [9.0], [2.0], [5.0], [0.1], [3.0]])
    assert same(diversity.vendi_score(rows * lengths).item(), diversity.vendi_score(rows).item())
    assert same(diversity.mean_cosine(rows * lengths).item(), diversity.mean_cosine(rows).item())
    assert same(diversity.effective_rank(3 * rows).item(), diversity.effective_rank(rows).item())
    assert not same(diversity.effective_rank(rows * lengths).item(), diversity.effective_rank(rows).item(), 1e-2)
    assert same(diversity.within_class_spread(3 * rows).item(), 9 * diversity.within_class_spread(rows).item())


def test_all_zero_rows_are_one_direction_of_their_own():
    zeros = torch.zeros(4, 3, dtype=torch.float64)
    assert same(diversity.vendi_score(zeros).item(), 1.0)
    assert same(diversity.mean_cosine(zeros).item(), 1.0)
    assert diversity.effective_rank(zeros).isnan()
    zeros[:2, 0] = 1
    assert same(diversity.vendi_score(zeros).item(), 2.0)
    assert same(diversity.mean_cosine(zeros).item(), 0.5)


def test_the_hill_number_of_used_features_is_the_entropy_of_their_frequencies():
    used = tensor([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])  # the top 2 of every row
    found = diversity.matched_diversity(
        used,
        torch.zeros(4, dtype=torch.int64),
        1,
        centre=used.mean(0),
        weight=None,
        k=2,
        n=4,
        draws=1,
        seed=0,
        name="x",
    )
    entropy = -sum(share * math.log(share) for share in (4 / 8, 3 / 8, 1 / 8))
    assert same(found["hill"].item(), math.exp(entropy))


@pytest.fixture
def case():
    features, labels, num_classes = plain_draws.labelled("diversity")
    centre = [sum(column) / len(column) for column in zip(*features, strict=True)]
    weight = plain_draws.normals(num_classes, 5, "diversity weight")
    return features, labels, num_classes, centre, weight


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("head", [False, True])
def test_matched_diversity_is_the_plain_loop_s(case, k, head):
    features, labels, num_classes, centre, weight = case
    weight = weight if head else None
    ours = diversity.matched_diversity(
        tensor(features),
        torch.tensor(labels),
        num_classes,
        centre=tensor(centre),
        weight=None if weight is None else tensor(weight),
        k=k,
        n=4,
        draws=3,
        seed=1,
        name="train",
    )
    expected = plain.matched(features, labels, num_classes, centre, weight, k, 4, 3, 1, "train")
    assert tuple(ours) == diversity.DIVERSITY_MEASURES
    for measure, values in ours.items():
        assert values.shape == (3, num_classes)
        assert values[:, 4:].isnan().all()
        assert same(values.tolist(), expected[measure], 1e-6), measure


def test_matched_diversity_keeps_float32_and_ignores_other_classes(case):
    features, labels, num_classes, centre, weight = case
    features, labels = tensor(features, torch.float32), torch.tensor(labels)
    arguments = {"centre": tensor(centre, torch.float32), "k": 2, "n": 4, "draws": 3, "seed": 1, "name": "train"}
    whole = diversity.matched_diversity(
        features, labels, num_classes, weight=tensor(weight, torch.float32), **arguments
    )
    own = labels == 2
    alone = diversity.matched_diversity(
        features[own], labels[own] - 2, 1, weight=tensor(weight[2:3], torch.float32), **arguments
    )
    for measure in diversity.DIVERSITY_MEASURES:
        assert whole[measure].dtype == torch.float32
        assert same(alone[measure][:, 0].tolist(), whole[measure][:, 2].tolist(), 1e-6)


def test_diversity_grows_with_n_so_that_matching_it_matters():
    rows = tensor(plain_draws.normals(200, 16, "n"))
    arguments = {"centre": rows.mean(0), "weight": None, "k": 2, "draws": 5, "seed": 0, "name": "n"}
    labels = (torch.arange(200) >= 20).long()  # one distribution; 20 rows of class 0, 180 of class 1
    matched = diversity.matched_diversity(rows, labels, 2, n=20, **arguments)["vendi"].mean(0)
    raw = [diversity.vendi_score(rows[labels == c] - rows.mean(0)).item() for c in range(2)]
    assert raw[1] > 1.2 * raw[0]
    assert abs(float(matched[1] / matched[0]) - 1) < 0.08


def test_distinct_rows_count_groups_of_copies_once():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 4
    rows = torch.randn(240, 5, generator=generator)
    for c, copies in ((1, 2), (2, 4)):
        own = (labels == c).nonzero()[:, 0]
        rows[own] = rows[own[::copies]].repeat_interleave(copies, 0)
    found = diversity.distinct_rows(rows, labels, 4, n=60, draws=2, seed=0, name="test").mean(0)
    assert found[1].item() == pytest.approx(30, abs=1)
    assert found[2].item() == pytest.approx(15, abs=1)
    assert bool((found[[0, 3]] > 55).all())


def test_distinct_rows_lie_between_1_and_n_and_need_n_rows():
    rows = torch.cat([torch.zeros(20, 3), torch.randn(25, 3, generator=torch.Generator().manual_seed(0))])
    labels = torch.tensor([0] * 20 + [1] * 20 + [2] * 5)
    found = diversity.distinct_rows(rows, labels, 3, n=20, draws=3, seed=0, name="test")
    assert found[:, 0].tolist() == [1.0] * 3
    assert bool(((found[:, 1] > 1) & (found[:, 1] <= 20)).all())
    assert bool(found[:, 2].isnan().all())


def test_more_features_than_rows_are_measured_by_their_products():
    rows = torch.randn(30, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[3], rows[4] = 0, rows[5]
    place = torch.tensor([[0, 3, 4, 5, 9], [7, 3, 12, 29, 1]])
    found = diversity._centred_measures(rows, place)
    assert same(found["vendi"].tolist(), diversity.vendi_score(rows[place]).tolist())
    assert same(found["effective_rank"].tolist(), diversity.effective_rank(rows[place]).tolist())
    assert same(found["spread"].tolist(), diversity.within_class_spread(rows[place]).tolist())
    assert same(found["cosine"].tolist(), diversity.mean_cosine(rows[place]).tolist())
