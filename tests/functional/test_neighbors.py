import math

import pytest
import torch
from reference import draws as plain_draws
from reference import neighbors as plain
from reference.compare import same
from sklearn.neighbors import NearestNeighbors

from diversify.errors import InputError
from diversify.functional import neighbors

NAN = math.nan


def tensor(rows, dtype=torch.float64):
    return torch.tensor(rows, dtype=dtype)


@pytest.mark.parametrize("key", range(2))
@pytest.mark.parametrize(("tile", "block"), [(4096, 1024), (3, 4), (5, 29), (1, 1)])
def test_neighbors_are_the_plain_loop_s_with_ties_and_duplicates(key, tile, block, monkeypatch):
    monkeypatch.setattr(neighbors, "_TILE", tile)
    monkeypatch.setattr(neighbors, "_GATHERED", 11)
    monkeypatch.setattr(neighbors, "_RAGGED", 8 * (tile > 3))
    features, _, _ = plain_draws.labelled(key)
    rows = tensor(features)
    everyone = range(len(features))
    found = [plain.nearest(row, features, 4, everyone) for row in features]
    distances, indices = neighbors.nearest_neighbors(rows, rows, 4, block=block)
    assert indices.tolist() == [index for _, index in found]
    assert same(distances.tolist(), [distance for distance, _ in found])
    found = [plain.nearest(row, features, 4, [r for r in everyone if r != own]) for own, row in enumerate(features)]
    distances, indices = neighbors.nearest_neighbors(rows, rows, 4, same=torch.arange(len(rows)), block=block)
    assert indices.tolist() == [index for _, index in found]
    assert same(distances.tolist(), [distance for distance, _ in found])


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbors_are_sklearn_s_brute_force_even_far_from_the_origin(offset, dtype):
    rows = tensor(plain_draws.normals(60, 7, "far"), dtype) + offset
    queries = tensor(plain_draws.normals(9, 7, "query"), dtype) + offset
    distances, indices = neighbors.nearest_neighbors(queries, rows, 6)
    direct = torch.linalg.vector_norm(queries[:, None].double() - rows.double(), dim=-1)  # (9, 60)
    expected = direct.sort(dim=1, stable=True)
    assert torch.equal(indices, expected.indices[:, :6])
    assert distances.dtype == dtype
    assert same(distances.tolist(), expected.values[:, :6].tolist(), 1e-6)
    brute = NearestNeighbors(n_neighbors=6, algorithm="brute", metric=lambda a, b: math.dist(a, b))
    assert (brute.fit(rows.double().numpy()).kneighbors(queries.double().numpy())[1] == indices.numpy()).all()


def test_many_duplicates_of_the_nearest_row_go_by_index():
    rows = torch.zeros(50, 3)
    rows[:5] = 9
    distances, indices = neighbors.nearest_neighbors(rows[10:11] + 0.1, rows, 4, same=torch.tensor([7]))
    assert indices.tolist() == [[5, 6, 8, 9]]
    assert same(distances.tolist(), [[0.1 * math.sqrt(3)] * 4], 1e-6)


def test_close_neighbors_in_a_wide_space_are_told_apart():
    """Differences of 1e-6 beside norms of 1e3: float32 products cannot see them, their differences can."""
    steps = torch.tensor([5.0, 3.0, 1.0, 4.0, 2.0], dtype=torch.float64) * 1e-6
    rows = torch.cat([torch.full((1, 4), -1e3, dtype=torch.float64), torch.full((5, 4), 1e3, dtype=torch.float64)])
    rows[1:, 0] += steps
    _, indices = neighbors.nearest_neighbors(torch.full((1, 4), 1e3, dtype=torch.float64), rows, 3)
    assert indices.tolist() == [[3, 5, 2]]


def test_rounding_of_products_loses_no_neighbor():
    """All differences are far below the rounding of the squared norms, so products alone would choose at random."""
    steps = torch.tensor([plain_draws.integer(1000, "step", i) for i in range(60)], dtype=torch.float64) * 1e-9
    rows = torch.cat([torch.full((60, 3), -1e4, dtype=torch.float64), torch.full((60, 3), 1e4, dtype=torch.float64)])
    rows[60:, 0] += steps
    queries = rows[60:66]
    expected = (queries[:, None, 0] - rows[None, 60:, 0]).abs().sort(dim=1, stable=True).indices + 60
    assert torch.equal(neighbors.nearest_neighbors(queries, rows, 5)[1], expected[:, :5])


@pytest.mark.parametrize("power", [-400, -100, -70, 0, 70, 120, 400])
def test_neighbors_do_not_depend_on_the_unit(power):
    """Squares of these would vanish or overflow in float32."""
    rows = tensor(plain_draws.normals(300, 4, "unit"))
    queries = tensor(plain_draws.normals(40, 4, "unit query"))
    expected = neighbors.nearest_neighbors(queries, rows, 3)[1]
    assert torch.equal(neighbors.nearest_neighbors(queries * 2.0**power, rows * 2.0**power, 3)[1], expected)
    far = neighbors.nearest_neighbors(queries * 2.0**120, rows, 3)[1]
    assert torch.equal(far, neighbors.nearest_neighbors(queries * 2.0**120, rows, 3, block=1)[1])


def test_half_precision_products_are_not_relied_on():
    rows, queries = (tensor(plain_draws.normals(900, 8, name), torch.float32) for name in ("half", "half query"))
    expected = neighbors.nearest_neighbors(queries, rows, 4)[1]
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert not neighbors.float32_is_whole(rows.device)
        assert torch.equal(neighbors.nearest_neighbors(queries, rows, 4)[1], expected)
    finally:
        torch.set_float32_matmul_precision(before)


def test_minus_one_leaves_nothing_out_and_all_others_can_be_asked_for(monkeypatch):
    rows = torch.tensor([[0.0], [1.0], [3.0]])
    assert neighbors.nearest_neighbors(rows, rows, 3, same=torch.full((3,), -1))[1][0].tolist() == [0, 1, 2]
    for tile in (4096, 2):
        monkeypatch.setattr(neighbors, "_TILE", tile)
        assert neighbors.nearest_neighbors(rows, rows, 2, same=torch.arange(3))[1].tolist() == [[1, 2], [0, 2], [1, 0]]
        mixed = neighbors.nearest_neighbors(rows, rows, 2, same=torch.tensor([0, -1, 2]))[1]
        assert mixed.tolist() == [[1, 2], [1, 0], [1, 0]]


@pytest.mark.parametrize("tile", [4096, 1000])
def test_thousands_of_equal_rows_go_by_index(tile, monkeypatch):
    monkeypatch.setattr(neighbors, "_TILE", tile)
    rows = torch.full((3000, 8), 0.3)
    rows[[4, 2000]] = 0.7
    distances, indices = neighbors.nearest_neighbors(rows, rows, 3, same=torch.arange(3000))
    assert indices[[0, 1, 2, 3, 2999]].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2]]
    assert indices[[4, 2000]].tolist() == [[2000, 0, 1], [4, 0, 1]]
    assert same(distances[4].tolist(), [0.0] + [0.4 * math.sqrt(8)] * 2, 1e-6)
    assert (distances[5:2000] == 0).all()


@pytest.mark.parametrize("tile", [4096, 40])
def test_groups_of_equal_rows_are_ranked_as_direct_distances_are(tile, monkeypatch):
    monkeypatch.setattr(neighbors, "_TILE", tile)
    kinds = tensor(plain_draws.normals(5, 4, "kinds"))
    rows = kinds[torch.arange(200) * 7 % 5]
    rows[::3] = kinds[0]
    distances, indices = neighbors.nearest_neighbors(rows, rows, 6, same=torch.arange(200))
    direct = (rows[:, None] - rows).square().sum(-1).fill_diagonal_(math.inf)
    expected = direct.sort(dim=1, stable=True)
    assert torch.equal(indices, expected.indices[:, :6])
    assert torch.equal(distances, expected.values[:, :6].sqrt())


def test_too_many_neighbors_are_refused():
    rows = torch.zeros(3, 2)
    with pytest.raises(InputError, match=r"k must lie in \[1, 2\], the number of other rows, got 3"):
        neighbors.nearest_neighbors(rows, rows, 3, same=torch.arange(3))
    with pytest.raises(InputError, match=r"k must lie in \[1, 3\], the number of other rows, got 4"):
        neighbors.nearest_neighbors(rows, rows, 4)
    with pytest.raises(InputError, match="k must lie in"):
        neighbors.nearest_neighbors(rows, rows, 0)


def test_no_queries_have_no_neighbors():
    distances, indices = neighbors.nearest_neighbors(torch.zeros(0, 2), torch.zeros(3, 2), 2)
    assert distances.shape == indices.shape == (0, 2)


def test_archetypes_are_the_plain_loop_s():
    near = torch.tensor([[0] * count + [1, 2, 3, 4, 5][: 5 - count] for count in range(6)])
    labels = torch.zeros(6, dtype=torch.int64)
    kinds = neighbors.archetypes(near, labels)
    assert kinds.tolist() == [3, 2, 1, 1, 0, 0]
    assert kinds.tolist() == [plain.archetype(row, 0) for row in near.tolist()]
    fractions = neighbors.archetype_fractions(kinds, torch.tensor([0, 0, 0, 2, 2, 0]), 3)
    assert same(fractions.tolist(), [[0.25, 0.25, 0.25, 0.25], [NAN] * 4, [0.5, 0.5, 0.0, 0.0]])
    assert fractions.dtype == torch.float64
    with pytest.raises(InputError, match="neighbor_labels must have 5 columns, got 4"):
        neighbors.archetypes(near[:, :4], labels)


@pytest.mark.parametrize("key", range(2))
def test_the_matrix_of_enemies_is_the_plain_loop_s(key):
    features, labels, num_classes = plain_draws.labelled(key)
    rows, label = tensor(features), torch.tensor(labels)
    near = label[neighbors.nearest_neighbors(rows, rows, 4, same=torch.arange(len(rows)))[1]]
    matrix = neighbors.enemy_matrix(near, label, num_classes)
    assert same(matrix.tolist(), plain.enemy_matrix(near.tolist(), labels, num_classes))
    assert matrix[4].isnan().all()
    known = ~matrix.isnan().any(1)
    assert same(matrix[known].sum(1).tolist(), [1.0] * int(known.sum()))
    assert (matrix.diagonal()[known] == 0).all()


def test_a_class_among_its_own_has_no_enemies():
    matrix = neighbors.enemy_matrix(torch.tensor([[0, 0], [0, 2]]), torch.tensor([0, 1]), 3)
    assert same(matrix.tolist(), [[NAN] * 3, [0.5, 0.0, 0.5], [NAN] * 3])
