import math

import pytest
import torch
from reference import draws as plain_draws
from reference import geometry as plain
from reference import stats as plain_stats
from reference.compare import same

from diversify.functional import counts, draws, geometry

NAN = math.nan


def tensor(rows, dtype=torch.float64):
    return torch.tensor(rows, dtype=dtype)


@pytest.fixture(params=range(3))
def case(request):
    features, labels, num_classes = plain_draws.labelled(request.param)
    return features, labels, num_classes, plain_draws.normals(num_classes, 5, "head", request.param)


def simplex(classes, norm=3.0):
    """`(C, C)`: equal norms, equal and maximal angles."""
    return norm * (torch.eye(classes, dtype=torch.float64) - 1 / classes) + 7.0


def test_measures_are_the_plain_loops(case):
    features, labels, num_classes, weight = case
    rows, label = tensor(features), torch.tensor(labels)
    means = counts.class_mean(rows, label, num_classes)
    expected = plain_stats.class_mean_rows(features, labels, num_classes)
    assert same(
        geometry.scatter(rows, label, num_classes, means).tolist(),
        plain.scatter(features, labels, num_classes, expected),
    )
    collapse = geometry.nc1(rows, label, num_classes)
    assert same(collapse.tolist(), plain.nc1(features, labels, num_classes))
    assert collapse[4].isnan()
    assert collapse[5].isnan()  # one row has no scatter
    assert same(geometry.nc2(means), plain.nc2(expected))
    assert same(geometry.nc3(tensor(weight), means), plain.nc3(weight, expected))
    predictions = [plain_draws.integer(num_classes, "prediction", i) for i in range(len(labels))]
    assert same(geometry.nc4(rows, torch.tensor(predictions), means), plain.nc4(features, predictions, expected))
    assert same(geometry.head_norms(tensor(weight)).tolist(), [plain.norm(row) for row in weight])
    sizes = [9, 2, 7, 2, 0, 1]
    assert same(geometry.minority_cosine(tensor(weight), torch.tensor(sizes)), plain.minority_cosine(weight, sizes))


def test_blocks_change_nothing(case, monkeypatch):
    features, labels, num_classes, _ = case
    rows, label = tensor(features), torch.tensor(labels)
    means = counts.class_mean(rows, label, num_classes)
    before = geometry.scatter(rows, label, num_classes, means).tolist(), geometry.nc4(rows, label, means)
    monkeypatch.setattr(geometry, "_BLOCK", 20)
    assert same((geometry.scatter(rows, label, num_classes, means).tolist(), geometry.nc4(rows, label, means)), before)


def test_full_collapse():
    means = simplex(4)
    label = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    assert same(geometry.nc1(means[label], label, 4).tolist(), [0.0] * 4)
    assert same(geometry.nc2(means), (0.0, 0.0))
    assert same(geometry.nc3(5 * (means - 7), means), 0.0)
    assert same(geometry.nc3(-(means - 7), means), 2.0)
    assert geometry.nc4(means[label], label, means) == 1
    assert geometry.nc4(means[label], (label + 1) % 4, means) == 0
    means[0] += 1 * (means[0] - 7)
    assert geometry.nc2(means)[0] > 0.1
    assert geometry.nc2(means)[1] > 0.01


def test_collapse_is_about_directions_and_ratios(case):
    features, labels, num_classes, weight = case
    rows, label = tensor(features), torch.tensor(labels)
    means = counts.class_mean(rows, label, num_classes)
    moved = 4 * means + 3
    assert same(
        geometry.nc1(4 * rows + 3, label, num_classes).tolist(), geometry.nc1(rows, label, num_classes).tolist()
    )
    assert same(geometry.nc2(moved), geometry.nc2(means))
    assert same(geometry.nc3(2 * tensor(weight), moved), geometry.nc3(tensor(weight), means))
    names = torch.tensor([2, 5, 0, 4, 3, 1])
    renamed = geometry.nc1(rows, names[label], num_classes)
    assert same(renamed[names].tolist(), geometry.nc1(rows, label, num_classes).tolist())


def test_what_cannot_be_said_is_nan():
    one = tensor([[1.0, 2.0], [3.0, 2.0]])
    label = torch.zeros(2, dtype=torch.int64)
    assert geometry.nc1(one, label, 2).isnan().all()
    assert same(geometry.nc2(tensor([[1.0, 2.0], [NAN, NAN]])), (NAN, NAN))
    assert math.isnan(geometry.nc3(torch.zeros(2, 2, dtype=torch.float64), one))
    assert math.isnan(geometry.nc4(one[:0], label[:0], one))
    assert math.isnan(geometry.minority_cosine(one, torch.tensor([5, 4])))
    assert same(geometry.scatter(one, label, 2, counts.class_mean(one, label, 2)).tolist(), [1.0, NAN])


def test_minority_collapse_is_a_cosine_of_one():
    weight = tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, -1.0], [1.0, 1.0], [3.0, 3.0]])
    assert same(geometry.minority_cosine(weight, torch.tensor([90, 80, 70, 60, 2, 1])), 1.0)
    assert same(geometry.minority_cosine(weight, torch.tensor([90, 2, 70, 1, 60, 50])), -1.0)


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("feature_deviation", geometry.feature_deviation, plain.deviation),
        ("range_gap", geometry.range_gap, plain.range_gap),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matched_comparisons_are_the_plain_loops(name, ours, theirs, dtype):
    train, train_labels, num_classes = plain_draws.labelled("train")
    heldout, heldout_labels, _ = plain_draws.labelled("heldout")
    heldout_labels = [0 if label == 3 else label for label in heldout_labels]  # class 3 is absent there
    result = ours(
        tensor(train, dtype),
        torch.tensor(train_labels),
        tensor(heldout, dtype),
        torch.tensor(heldout_labels),
        num_classes,
        4,
        3,
        seed=5,
    )
    expected = plain.matched(theirs, name, train, train_labels, heldout, heldout_labels, num_classes, 4, 3, 5)
    assert result.dtype == dtype
    assert same(result.tolist(), expected, 1e-6)
    assert result[:, 3:].isnan().all()
    assert result[:, :3].isfinite().all()


def test_a_shift_is_seen_and_a_range_inside_is_no_gap():
    rows = tensor(plain_draws.normals(40, 3, "shift"))
    label = torch.zeros(40, dtype=torch.int64)
    shift = tensor([30.0, -40.0, 0.0])
    arguments = (label, 1, 40, 2)
    assert same(geometry.feature_deviation(rows, label, rows + shift, *arguments, seed=0).tolist(), [[50.0]] * 2)
    assert same(geometry.range_gap(rows, label, rows + shift, *arguments, seed=0).tolist(), [[70.0]] * 2)
    middle = rows.mean(0)
    assert same(
        geometry.range_gap(rows, label, middle + 0.5 * (rows - middle), *arguments, seed=0).tolist(), [[0.0]] * 2
    )
    reach = (rows.amax(0) - rows.amin(0)).sum().item()
    wider = geometry.range_gap(rows, label, middle + 2 * (rows - middle), *arguments, seed=0)
    assert same(wider.tolist(), [[reach]] * 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_input(case, dtype):
    features, labels, num_classes, weight = case
    rows, label = tensor(features, dtype), torch.tensor(labels)
    means = counts.class_mean(rows, label, num_classes)
    assert geometry.scatter(rows, label, num_classes, means).dtype == dtype
    assert geometry.nc1(rows, label, num_classes).dtype == dtype
    assert geometry.head_norms(tensor(weight, dtype)).dtype == dtype


def test_nearest_means_are_those_of_float64_where_float32_cannot_tell() -> None:
    means = draws.normal("means", torch.arange(30 * 16)).view(30, 16)
    means[7] = means[3] + 1e-6  # nearly the same mean: float32 cannot tell them apart
    rows = means[torch.arange(600) % 30] + 0.5 * draws.normal("rows", torch.arange(600 * 16)).view(600, 16)
    far = 1e4 + rows  # a common shift, which the centre takes away
    for features, centres in ((rows, means), (far, 1e4 + means)):
        known = centres.double() - centres.double().mean(0)
        exact = torch.cdist(features.double() - centres.double().mean(0), known).argmin(1)
        assert geometry.nc4(features, exact, centres) == 1.0


def test_pairs_of_many_classes_are_compared_in_blocks(monkeypatch):
    means = torch.randn(23, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts_of = torch.arange(23, 0, -1)
    whole = geometry.nc2(means), geometry.minority_cosine(means, counts_of)
    monkeypatch.setattr(geometry, "_TOGETHER", 5)
    assert geometry.nc2(means) == pytest.approx(whole[0])
    assert geometry.minority_cosine(means, counts_of) == pytest.approx(whole[1])
