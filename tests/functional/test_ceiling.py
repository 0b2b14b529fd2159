import pytest
import torch
from reference import ceiling as plain
from reference import draws as plain_draws

from diversify.errors import InputError
from diversify.functional import ceiling, metrics


def blobs(count, distance, key):
    labels = [0 if i % 6 < 3 else 1 + i % 2 for i in range(count)]  # class 0 is three times as large
    corners = [(0, 0), (distance, 0), (0, distance)]
    rows = [[value + plain_draws.normal(key, i, j) for j, value in enumerate(corners[c])] for i, c in enumerate(labels)]
    return rows, labels


@pytest.mark.parametrize("balance", [False, True])
def test_predictions_are_those_of_a_plain_head_per_fold(balance):
    rows, labels = blobs(36, 1.5, "plain")
    fold = ceiling.stratified_folds(torch.tensor(labels), 3, seed=4, name="head_ceiling").tolist()
    ours = ceiling.cross_fitted_predictions(
        torch.tensor(rows), torch.tensor(labels), 3, folds=3, seed=4, balance=balance
    )
    assert ours.dtype == torch.int64
    assert ours.tolist() == plain.cross_fitted(rows, labels, fold, balance)
    assert ours.tolist() != labels


def test_balance_helps_the_small_classes():
    rows, labels = blobs(120, 1.0, "balance")
    labels = torch.tensor(labels)
    score = [
        metrics.balanced_accuracy(
            labels, ceiling.cross_fitted_predictions(torch.tensor(rows), labels, 3, seed=0, balance=balance), 3
        )
        for balance in (False, True)
    ]
    assert score[1] > score[0] + 0.05


def test_separable_classes_reach_one_and_noise_stays_at_chance():
    rows, labels = blobs(60, 30.0, "separable")
    rows, labels = torch.tensor(rows, dtype=torch.float64), torch.tensor(labels)
    assert torch.equal(ceiling.cross_fitted_predictions(rows, labels, 3, seed=0), labels)
    assert torch.equal(ceiling.cross_fitted_predictions(1e3 * rows - 1e5, labels, 3, seed=0), labels)
    noise = torch.tensor(plain_draws.normals(60, 40, "noise"))  # a head that saw its own rows would fit these
    predictions = ceiling.cross_fitted_predictions(noise, labels, 3, seed=0)
    assert metrics.balanced_accuracy(labels, predictions, 3) < 0.55


def test_a_single_row_is_never_predicted_as_its_own_class():
    rows, labels = blobs(30, 30.0, "single")
    rows.append([50.0, 50.0])
    labels = torch.tensor([*labels, 4])  # class 3 is absent
    predictions = ceiling.cross_fitted_predictions(torch.tensor(rows), labels, 5, seed=0)
    assert predictions[-1] != 4
    assert torch.equal(predictions[:-1], labels[:-1])


def test_one_class_among_the_other_folds_is_what_is_predicted():
    rows = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    predictions = ceiling.cross_fitted_predictions(rows, torch.tensor([1, 1, 1, 2]), 3, folds=4, seed=0)
    assert predictions[3] == 1
    assert ceiling.cross_fitted_predictions(rows, torch.tensor([1, 1, 1, 1]), 3, folds=2, seed=0).tolist() == [1] * 4


def test_a_constant_feature_is_no_division_by_zero():
    rows, labels = blobs(30, 30.0, "constant")
    rows = torch.tensor([[*row, 3.0] for row in rows])
    assert ceiling.cross_fitted_predictions(rows, torch.tensor(labels), 3, seed=0).tolist() == labels


def test_folds_are_even_in_total_and_within_each_class():
    labels = torch.tensor(plain_draws.labelled("folds")[1])
    fold = ceiling.stratified_folds(labels, 4, seed=1, name="folds")
    for rows in (labels >= 0, *(labels == c for c in labels.unique())):
        sizes = torch.bincount(fold[rows], minlength=4)
        assert int(sizes.max() - sizes.min()) <= 1
    assert not torch.equal(fold, ceiling.stratified_folds(labels, 4, seed=2, name="folds"))
    assert torch.equal(fold, ceiling.stratified_folds(labels, 4, seed=1, name="folds"))


@pytest.mark.parametrize("folds", [1, 5])
def test_folds_out_of_range_are_refused(folds):
    with pytest.raises(InputError, match=rf"folds must lie in \[2, 4\], the number of rows, got {folds}"):
        ceiling.cross_fitted_predictions(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]), 2, folds=folds, seed=0)
