"""Measures for several labels per image, against plain Python and scikit-learn."""

import math

import pytest
import torch
from reference import draws as plain_draws
from reference import multilabel as plain
from reference.compare import same
from sklearn.metrics import average_precision_score

from diversify.errors import InputError
from diversify.functional import multilabel

SCORES = (torch.tensor(plain_draws.normals(30, 4, "scores")) * 2).round() / 2  # with ties
LABELS = torch.tensor([[plain_draws.integer(3, "label", n, c) == 0 for c in range(4)] for n in range(30)])
LABELS[:, 3] = False


def columns(function):
    return [function(SCORES[:, c].tolist(), LABELS[:, c].int().tolist()) for c in range(4)]


def test_average_precision_is_that_of_plain_python_and_scikit_learn():
    found = multilabel.average_precision(SCORES, LABELS)
    assert same(found.tolist(), columns(plain.average_precision))
    assert found[3].isnan()
    assert float(found[0]) == pytest.approx(average_precision_score(LABELS[:, 0].numpy(), SCORES[:, 0].numpy()))


def test_weights_count_images_several_times():
    weights = multilabel.bootstrap_weights(30, torch.arange(3), seed=1, name="weights")
    found = multilabel.average_precision(SCORES, LABELS, weights)
    for draw, times in enumerate(weights):
        rows = torch.repeat_interleave(torch.arange(30), times.long())
        assert same(found[draw].tolist(), multilabel.average_precision(SCORES[rows], LABELS[rows]).tolist())
        wanted = average_precision_score(LABELS[:, 1].numpy(), SCORES[:, 1].numpy(), sample_weight=times.numpy())
        assert float(found[draw, 1]) == pytest.approx(wanted)


def test_scores_without_information_have_the_prevalence():
    labels = torch.tensor([[1], [0], [0], [1], [0]]).bool()
    assert float(multilabel.average_precision(torch.zeros(5, 1), labels)) == pytest.approx(0.4)


def test_no_threshold_has_a_larger_f1_than_the_best():
    found = multilabel.best_thresholds(SCORES, LABELS)
    for c in range(3):
        scores, labels = SCORES[:, c].tolist(), LABELS[:, c].int().tolist()
        best = max(plain.f1_at(scores, labels, threshold) for threshold in [*scores, -99.0, 99.0])
        assert plain.f1_at(scores, labels, float(found[c])) == pytest.approx(best)
    assert found[3].isnan()


def test_cooccurrence_and_calibration_are_the_plain_ones():
    assert same(multilabel.cooccurrence(LABELS).tolist(), plain.cooccurrence(LABELS.int().tolist()))
    for bins in (1, 4, 15):
        wanted = columns(lambda scores, labels, bins=bins: plain.calibration_error(scores, labels, bins))
        assert same(multilabel.binary_calibration_error(SCORES, LABELS, bins).tolist(), wanted, 1e-9)


def test_a_decision_depends_on_no_label_of_its_own_fold():
    fold = multilabel.label_folds(LABELS, 3, seed=0)
    assert fold[:, 3].tolist() == [-1] * 30
    before = multilabel.cross_fitted_decisions(SCORES, LABELS, fold)
    changed = LABELS.clone()
    held = fold[:, 0] == 1
    changed[held, 0] = ~changed[held, 0]
    after = multilabel.cross_fitted_decisions(SCORES, changed, fold)
    assert torch.equal(before[held, 0], after[held, 0])
    features = torch.cat([SCORES, LABELS.float() * 3], dim=1)
    one, other = (multilabel.cross_fitted_scores(features, labels, fold) for labels in (LABELS, changed))
    assert torch.equal(one[held, 0], other[held, 0])
    assert one[:, 3].isnan().all()
    assert float(multilabel.average_precision(one[:, :1], LABELS[:, :1])) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], "shape (2,); for one label per image, use dv.extract"),
        ([[0, 0.5]], "0.5 at row 0, label 1; take the labels from before"),
        ([[0, 1], [-1, 0]], "-1 at row 1, label 0; decide what an unknown label counts as"),
        ([[0, math.nan]], "nan at row 0, label 1; decide"),
        ([["a"]], "that is no table of numbers"),
    ],
)
def test_labels_that_are_not_0_or_1_are_refused(labels, message):
    with pytest.raises(InputError, match=r"labels must be 0 or 1") as caught:
        multilabel.read_multilabels("labels", labels)
    assert message in str(caught.value)


def test_a_label_that_no_or_every_image_has_keeps_finite_log_odds():
    assert multilabel.prior_log_odds(torch.tensor([0, 5, 10]), 10).isfinite().all()
