import math

import pytest
import torch
from reference import draws as plain_draws
from reference import stats as plain
from reference.compare import same

from diversify.errors import InputError
from diversify.functional import counts


def test_class_mean_is_the_plain_loop_s():
    features, labels, num_classes = plain_draws.labelled(0)
    means = counts.class_mean(torch.tensor(features, dtype=torch.float64), torch.tensor(labels), num_classes)
    assert same(means.tolist(), plain.class_mean_rows(features, labels, num_classes))
    assert means[4].isnan().all()
    column = [row[0] for row in features]
    means = counts.class_mean(torch.tensor(column), torch.tensor(labels), num_classes)
    assert means.dtype == torch.float32
    assert same(means.tolist(), plain.class_mean(column, labels, num_classes), 1e-6)


def test_class_mean_of_many_rows_and_blocks_does_not_drift():
    values = torch.full((200_000,), 0.1)
    means = counts.class_mean(values, torch.zeros(200_000, dtype=torch.int64), 1)
    assert means.item() == values[0].item()


def test_class_mean_of_whole_numbers_and_truths_is_a_float():
    assert counts.class_mean(torch.tensor([True, False, True]), torch.tensor([0, 0, 1]), 2).tolist() == [0.5, 1.0]
    assert counts.class_mean(torch.tensor([1, 2, 4]), torch.tensor([0, 0, 1]), 2).tolist() == [1.5, 4.0]


def test_counts_include_absent_classes():
    assert counts.class_counts(torch.tensor([3, 0, 3]), 5).tolist() == [1, 0, 0, 2, 0]
    assert counts.imbalance_ratio(torch.tensor([10, 0, 4])) == 2.5


def test_the_long_tailed_profile_of_cifar_10():
    assert counts.exponential_profile(10, 100, 5000) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert counts.exponential_profile(1, 100, 7) == [7]
    assert counts.exponential_profile(3, 1, 7) == [7, 7, 7]


def test_the_step_profile():
    assert counts.step_profile(4, 10, 0.5, 100) == [100, 100, 10, 10]
    assert counts.step_profile(5, 3, 0.2, 10) == [10, 10, 10, 10, 3]


def test_profiles_refuse_what_is_no_imbalance():
    with pytest.raises(InputError, match=r"imbalance ratio must be at least 1, got 0.01"):
        counts.exponential_profile(10, 0.01, 5000)
    with pytest.raises(InputError, match=r"imbalance ratio must be at least 1, got 0.5"):
        counts.step_profile(10, 0.5, 0.5, 5000)
    with pytest.raises(InputError, match="step fraction must lie strictly between 0 and 1, got 1"):
        counts.step_profile(10, 2, 1, 5000)


def test_effective_number_is_the_geometric_sum():
    expected = [sum(0.9**power for power in range(n)) for n in (0, 1, 5, 60)]
    assert same(counts.effective_number(torch.tensor([0, 1, 5, 60]), 0.9).tolist(), expected)


def test_shot_groups_at_their_borders():
    assert counts.shot_groups(torch.tensor([101, 100, 20, 19, 0])).tolist() == [0, 1, 1, 2, 2]


def test_thirds_go_by_count_and_do_not_part_equal_classes():
    assert counts.count_thirds(torch.tensor([1, 50, 7, 50, 3, 2])).tolist() == [2, 0, 1, 0, 1, 2]
    assert counts.count_thirds(torch.tensor([5, 5, 5])).tolist() == [-1, -1, -1]
    assert counts.count_thirds(torch.tensor([9, 5, 5, 5, 2, 1])).tolist() == [*[0, -1, -1, -1, 2, 2]]
    assert counts.count_thirds(torch.tensor([60, 6])).tolist() == [-1, -1]
    assert counts.count_thirds(torch.tensor([], dtype=torch.int64)).tolist() == []
    sizes = torch.bincount(counts.count_thirds(torch.arange(11)), minlength=3)
    assert int(sizes.max() - sizes.min()) <= 1


def test_effective_number_limits():
    assert same(counts.effective_number(torch.tensor([4]), 1 - 1e-12).tolist(), [4.0], 1e-3)
    assert math.isclose(counts.effective_number(torch.tensor([4]), 0.0).item(), 1.0)


OLD = torch.tensor([100, 40, 9, 3])
NEW = torch.tensor([125, 51, 11, 4])


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 0.5, 1.0])
def test_shares_that_follow_a_power_of_the_counts_follow_that_of_others(exponent):
    before, after = (sizes.double() ** exponent for sizes in (OLD, NEW))
    found = counts.shares_for_counts(before / before.sum(), OLD, NEW)
    assert torch.allclose(found, after / after.sum(), rtol=1e-12)


def test_shares_stay_where_every_count_changes_by_one_factor():
    shares = torch.tensor([0.5, 0.1, 0.3, 0.1], dtype=torch.float64)
    assert torch.allclose(counts.shares_for_counts(shares, OLD, 7 * OLD), shares)
    assert torch.allclose(counts.shares_for_counts(shares, OLD, OLD), shares)


def test_a_class_has_a_share_where_it_has_images_and_was_not_left_out():
    shares = torch.tensor([0.6, 0.0, 0.4, 0.0], dtype=torch.float64)
    sizes = torch.tensor([60, 30, 40, 0])
    found = counts.shares_for_counts(shares, sizes, torch.tensor([60, 30, 0, 20]))
    assert torch.allclose(found, torch.tensor([0.75, 0, 0, 0.25], dtype=torch.float64))
    equal = counts.shares_for_counts(torch.full((2,), 0.5), torch.tensor([9, 9]), torch.tensor([30, 10]))
    assert torch.allclose(equal, torch.tensor([0.75, 0.25], dtype=torch.float64))


def test_blocks_of_rows_change_no_mean(monkeypatch):
    values, labels = torch.linspace(-3, 7, 84).view(12, 7), torch.arange(12) % 3
    whole = counts.class_mean(values, labels, 4)
    monkeypatch.setattr(counts, "_BLOCK", 20)  # two rows at a time
    assert torch.equal(counts.class_mean(values, labels, 4)[:3], whole[:3])
    assert bool(whole[3].isnan().all())
    assert counts.class_mean(values[:0], labels[:0], 2).shape == (2, 7)


def test_moments_are_the_means_and_the_squared_distances_to_them():
    features, labels, num_classes = plain_draws.labelled(0)
    rows, label = torch.tensor(features, dtype=torch.float64) + 1e6, torch.tensor(labels)
    kept = rows.clone()
    means, squares = counts.class_moments(rows, label, num_classes)
    assert torch.equal(rows, kept)
    torch.testing.assert_close(means, counts.class_mean(rows, label, num_classes), equal_nan=True)
    away = (rows - counts.class_mean(rows, label, num_classes)[label]).square().sum(1)
    torch.testing.assert_close(squares, counts.class_mean(away, label, num_classes), equal_nan=True)
