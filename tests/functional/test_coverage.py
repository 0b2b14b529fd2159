"""Coverage is 0.5 for rows of the same kind, low for rows that training does not show, and its interval holds it."""

import math

import pytest
import torch

from diversify.functional.coverage import class_coverage, mann_whitney_interval


def rows(count, seed, width=4):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def plain_coverage(train, heldout):
    """The definition in loops, in the plain space; for rows of unit variance the whitened space differs little."""
    among = [min(float((a - b).norm()) for j, b in enumerate(train) if j != i) for i, a in enumerate(train)]
    onto = [min(float((a - b).norm()) for b in train) for a in heldout]
    pairs = [(onto_one < among_one) + 0.5 * (onto_one == among_one) for onto_one in onto for among_one in among]
    return sum(pairs) / len(pairs)


def test_it_is_the_share_of_pairs_of_the_definition():
    train = rows(40, 0)
    heldout = rows(15, 1) * 1.5
    spread = train - train.mean(0)
    values, vectors = torch.linalg.eigh((spread.T @ spread).double() / len(train))
    whiten = vectors / values.sqrt()
    labels, others = torch.zeros(40, dtype=torch.int64), torch.zeros(15, dtype=torch.int64)
    found, _, _ = class_coverage(train, labels, heldout, others, 1)
    assert float(found) == pytest.approx(plain_coverage(train.double() @ whiten, heldout.double() @ whiten))


def test_rows_of_the_same_kind_have_one_half_and_classes_do_not_touch_each_other():
    train, heldout = rows(300, 0), rows(300, 1)
    labels = torch.arange(300) % 3
    train[labels == 1] += 50  # far away
    heldout[labels == 1] += 50
    train[labels == 2] *= 0.5  # narrower than what is held out
    found, low, high = class_coverage(train, labels, heldout, labels, 3)
    assert bool(((low[:2] < 0.5) & (high[:2] > 0.5)).all())
    assert float(high[2]) < 0.4
    assert bool((low <= found).all() and (found <= high).all())


def test_copies_of_training_rows_have_more_than_one_half():
    train = rows(100, 0)
    labels = torch.zeros(100, dtype=torch.int64)
    found, low, _ = class_coverage(train, labels, train[:30] + 1e-4, labels[:30], 1)
    assert float(found) > 0.99
    assert float(low) > 0.9


def test_groups_are_left_out_as_a_whole():
    scenes = rows(30, 0).repeat_interleave(5, 0) + 1e-3 * rows(150, 1)
    labels, groups = torch.zeros(150, dtype=torch.int64), torch.arange(150) // 5
    heldout, others = rows(40, 2), torch.zeros(40, dtype=torch.int64)
    without, _, high = class_coverage(scenes, labels, heldout, others, 1)
    known, low_known, high_known = class_coverage(
        scenes, labels, heldout, others, 1, train_groups=groups, heldout_groups=torch.arange(40) // 2
    )
    assert float(high) < 0.1
    assert float(without) < 0.05
    assert float(low_known) < 0.5 < float(high_known)
    assert 0.3 < float(known) < 0.7


def test_what_cannot_be_measured_is_nan():
    train = rows(7, 0)
    labels = torch.tensor([0, 1, 1, 3, 3, 3, 3])
    heldout, others = rows(3, 1), torch.tensor([0, 2, 3])
    found, low, high = class_coverage(train, labels, heldout, others, 4)
    assert found.isnan().tolist() == [True, True, True, False]  # one row; none held out; none in training
    assert torch.equal(found.isnan(), low.isnan())
    assert torch.equal(found.isnan(), high.isnan())
    one_group, _, _ = class_coverage(train, labels, heldout, others, 4, train_groups=torch.zeros(7, dtype=torch.int64))
    assert bool(one_group.isnan().all())


@pytest.mark.parametrize(("shift", "first", "second"), [(0.0, 20, 5), (1.0, 60, 20), (2.5, 60, 20)])
def test_the_interval_holds_the_probability_in_about_95_of_100_samples(shift, first, second):
    generator = torch.Generator().manual_seed(0)
    low_values = torch.randn(800, second, generator=generator) + shift
    others = torch.randn(800, first, generator=generator)
    share = (low_values[:, :, None] < others[:, None]).double().mean((1, 2))
    low, high = mann_whitney_interval(share, torch.full_like(share, first), torch.full_like(share, second))
    truth = 0.5 * (1 + math.erf(-shift / 2))
    assert 0.93 <= float(((low <= truth) & (truth <= high)).double().mean()) <= 0.995


def test_the_interval_is_not_empty_at_the_ends():
    low, high = mann_whitney_interval(torch.tensor([0.0, 1.0]), torch.tensor([20, 20]), torch.tensor([5, 5]))
    assert low.tolist()[0] == 0
    assert high.tolist()[1] == 1
    assert 0.1 < float(high[0]) < 0.4
    assert float(low[1]) == pytest.approx(1 - float(high[0]))
