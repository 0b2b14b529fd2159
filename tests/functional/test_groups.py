"""Groups of rows: their numbers, intervals that cover the truth, and folds that split no group."""

import numpy as np
import pytest
import torch
from reference import near_copies as reference
from scipy.special import stdtrit

from diversify.errors import InputError
from diversify.functional import draws
from diversify.functional.ceiling import cross_fit, stratified_folds
from diversify.functional.groups import bootstrap_group_mean, cluster_share_interval, group_counts, group_numbers
from diversify.functional.stats import bootstrap_class_mean, interval, wilson_interval

TRIALS, GROUPS, SIZE = 400, 20, 6  # each trial is a class


def dependent(share, spread):
    """Hits of groups whose own shares differ: `share` on average."""
    labels = torch.arange(TRIALS).repeat_interleave(GROUPS * SIZE)
    groups = torch.arange(TRIALS * GROUPS).repeat_interleave(SIZE)
    up = draws.uniform("group", torch.arange(TRIALS * GROUPS))[groups] < 0.5
    own = share + torch.where(up, spread, -spread)
    return draws.uniform("row", torch.arange(len(labels))) < own, labels, groups


def coverage(low, high, truth):
    return float(((low <= truth) & (truth <= high)).double().mean())


@pytest.mark.parametrize(("share", "spread"), [(0.7, 0.3), (0.5, 0.4), (0.8, 0.0)])
def test_group_intervals_cover_the_truth_and_intervals_of_rows_do_not(share, spread):
    hits, labels, groups = dependent(share, spread)
    assert coverage(*cluster_share_interval(hits, labels, groups, TRIALS), share) > 0.91
    drawn = bootstrap_group_mean(hits.double(), labels, groups, TRIALS, seed=0, name="test")
    assert coverage(*interval(drawn), share) > 0.89
    rows = wilson_interval(torch.bincount(labels[hits], minlength=TRIALS), torch.bincount(labels))
    assert (coverage(*rows, share) > 0.9) == (spread == 0)


def test_groups_of_one_row_give_nearly_the_intervals_of_rows():
    hits, labels = torch.arange(200) % 5 > 0, torch.zeros(200, dtype=torch.int64)
    ends = torch.cat(cluster_share_interval(hits, labels, torch.arange(200), 1))
    assert torch.allclose(ends, torch.stack(wilson_interval(torch.tensor(160), torch.tensor(200))), atol=0.004)
    means = [
        make(hits.double(), labels, *own, 1, seed=0, name="same")
        for make, own in ((bootstrap_group_mean, [torch.arange(200)]), (bootstrap_class_mean, []))
    ]
    assert torch.allclose(means[0], means[1], atol=0.002)


def test_one_group_says_nothing_and_no_row_is_nan():
    hits, labels = torch.tensor([True, True, True, False]), torch.tensor([0, 0, 1, 1])
    low, high = cluster_share_interval(hits, labels, torch.tensor([3, 3, 4, 5]), 3)
    assert (float(low[0]), float(high[0])) == (0, 1)
    assert 0 <= float(low[1]) < 0.5 < float(high[1]) <= 1
    assert bool(low[2].isnan() and high[2].isnan())
    assert bool(
        bootstrap_group_mean(hits.double(), labels, torch.tensor([3, 3, 4, 5]), 3, seed=0, name="a")[:, 0].isnan().all()
    )


def test_groups_that_are_all_hits_count_as_rows():
    hits, groups = torch.ones(40, dtype=torch.bool), torch.arange(40) // 10
    low, _ = cluster_share_interval(hits, torch.zeros(40, dtype=torch.int64), groups, 1)
    assert float(low) < float(wilson_interval(torch.tensor(4), torch.tensor(4))[0])


@pytest.mark.parametrize(
    "values",
    [["a", "b", "a"], np.array(["a", "b", "a"]), [b"a", b"b", b"a"], [1.0, 2.0, 1.0], torch.tensor([[1], [2], [1]])],
    ids=["list", "array", "bytes", "floats", "column"],
)
def test_groups_are_numbered_by_their_values(values):
    numbers = group_numbers("groups", values, rows=3)
    assert numbers.dtype == torch.int64
    assert numbers[0] == numbers[2] != numbers[1]


@pytest.mark.parametrize("values", [[1.5, 2.0], ["a", ""], ["a", None], [[1, 2], [3, 4]], [1, 2, 3]])
def test_wrong_groups_are_refused_in_one_line(values):
    with pytest.raises(InputError, match=r"groups must be .*, got"):
        group_numbers("groups", values, rows=2)


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_never_split_a_group(folds):
    labels = draws.integers(4, "label", torch.arange(240))
    groups = draws.integers(30, "group", torch.arange(240))
    fold = stratified_folds(labels, folds, seed=1, name="test", groups=groups)
    assert all(len(fold[groups == group].unique()) == 1 for group in groups.unique())
    assert torch.equal(fold, stratified_folds(labels, folds, seed=1, name="test", groups=groups))
    assert not torch.equal(fold, stratified_folds(labels, folds, seed=2, name="test", groups=groups))
    assert torch.bincount(fold, minlength=folds).min() > 0.5 * 240 / folds


def test_a_refitted_head_does_not_profit_from_copies_in_its_group():
    """Noise with two copies of each row: a head fitted on the other copy knows the label, one without it does not."""
    rows = draws.normal("noise", torch.arange(60)[:, None], torch.arange(80)).repeat_interleave(2, 0)
    labels, groups = (torch.arange(60) % 2).repeat_interleave(2), torch.arange(60).repeat_interleave(2)
    by_row, by_group = (
        float((cross_fit(rows, labels, 2, seed=0, groups=own).predictions == labels).double().mean())
        for own in (None, groups)
    )
    assert by_row > 0.8
    assert by_group < 0.65
    with pytest.raises(InputError, match="groups must be at least 2"):
        cross_fit(rows, labels, 2, seed=0, groups=torch.zeros(120))
    assert group_counts(labels, groups, 3).tolist() == [30, 30, 0]


def test_the_interval_of_groups_is_that_of_a_plain_loop():
    hits, groups = draws.uniform("hit", torch.arange(60)) < 0.7, draws.integers(9, "group", torch.arange(60))
    low, high = cluster_share_interval(hits, torch.zeros(60, dtype=torch.int64), groups, 1)
    student = float(stdtrit(len(groups.unique()) - 1, 0.975))
    wanted = reference.share_interval([float(hit) for hit in hits], groups.tolist(), student)
    assert (float(low), float(high)) == pytest.approx(wanted)
