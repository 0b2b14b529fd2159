import math

import pytest
import torch
from reference import draws as plain_draws
from reference import metrics as plain
from reference.compare import same

from diversify.functional import metrics

LABELS = [plain_draws.integer(4, "label", i) for i in range(40)] + [5]  # class 4 is absent, class 5 has one row
PREDICTIONS = [plain_draws.integer(5, "prediction", i) for i in range(40)] + [5]


def test_recall_and_precision_are_the_plain_ones():
    confusion = metrics.confusion_matrix(torch.tensor(LABELS), torch.tensor(PREDICTIONS), 6)
    assert confusion.dtype == torch.int64
    assert confusion.tolist() == plain.confusion(LABELS, PREDICTIONS, 6)
    recall = plain.recall(LABELS, PREDICTIONS, 6)
    assert same(metrics.recall(confusion).tolist(), recall)
    assert same(metrics.precision(confusion).tolist(), plain.precision(LABELS, PREDICTIONS, 6))
    assert math.isnan(recall[4])
    balanced = metrics.balanced_accuracy(torch.tensor(LABELS), torch.tensor(PREDICTIONS), 6)
    assert same(balanced, sum(value for value in recall if not math.isnan(value)) / 5)


def test_a_class_never_predicted_has_no_precision():
    confusion = metrics.confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 0]), 2)
    assert same(metrics.precision(confusion).tolist(), [0.5, math.nan])
    assert same(metrics.recall(confusion).tolist(), [1.0, 0.0])


def test_balanced_accuracy_without_rows_is_nan():
    nothing = torch.zeros(0, dtype=torch.int64)
    assert math.isnan(metrics.balanced_accuracy(nothing, nothing, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_margin_and_calibration_are_the_plain_ones(dtype):
    logits = torch.tensor(plain_draws.normals(41, 6, "logits"), dtype=dtype)
    logits[:, 4] = -9  # never predicted
    labels = torch.tensor(LABELS)
    margin = metrics.margin(logits, labels)
    assert margin.dtype == dtype
    assert same(margin.tolist(), plain.margin(logits.tolist(), LABELS), 1e-6)
    assert torch.equal(margin > 0, logits.argmax(1) == labels)
    for bins in (1, 3, 15):
        error = metrics.calibration_error(logits, labels, bins)
        assert error.dtype == dtype
        assert same(error.tolist(), plain.calibration_error(logits.tolist(), LABELS, bins), 1e-6)
        assert error[4].isnan()


def test_calibration_error_of_known_cases():
    sure = torch.tensor([[60.0, 0.0], [60.0, 0.0], [0.0, 60.0]])
    assert same(metrics.calibration_error(sure, torch.tensor([0, 0, 1])).tolist(), [0.0, 0.0])
    assert same(metrics.calibration_error(sure, torch.tensor([0, 1, 0])).tolist(), [0.5, 1.0])


def test_bins_are_closed_on_the_right():
    """Confidence 0.5, wrong, is in the first of two bins and 0.9, right, in the second: (0.5 + 0.1) / 2."""
    logits = torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64).log()
    assert same(metrics.calibration_error(logits, torch.tensor([1, 0]), 2).tolist(), [0.3, math.nan])


def test_margin_of_a_single_class_is_infinite():
    assert metrics.margin(torch.tensor([[3.0]]), torch.tensor([0])).item() == math.inf


def test_f1_and_the_geometric_mean_are_the_plain_ones():
    confusion = metrics.confusion_matrix(torch.tensor(LABELS), torch.tensor(PREDICTIONS), 7)
    f1 = plain.f1(LABELS, PREDICTIONS, 7)
    assert same(metrics.f1(confusion).tolist(), f1)
    assert f1[4] == 0, "absent, but predicted"
    assert math.isnan(f1[6]), "absent and never predicted"
    mean = plain.geometric_mean_recall(LABELS, PREDICTIONS, 7)
    assert mean > 0
    assert same(metrics.geometric_mean_recall(confusion), mean)


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    confusion = metrics.confusion_matrix(torch.tensor(LABELS), torch.tensor(PREDICTIONS), 6)
    recall, precision = metrics.recall(confusion), metrics.precision(confusion)
    both = ~(recall.isnan() | precision.isnan())
    assert both.sum() > 3
    torch.testing.assert_close(metrics.f1(confusion)[both], (2 / (1 / recall + 1 / precision))[both])


def test_the_geometric_mean_is_0_where_a_class_is_never_found_and_nan_without_rows():
    found = metrics.confusion_matrix(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0]), 2)
    assert metrics.geometric_mean_recall(found) == 0
    assert math.isnan(metrics.geometric_mean_recall(torch.zeros(2, 2, dtype=torch.int64)))
    even = metrics.confusion_matrix(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 0]), 3)
    assert same(metrics.geometric_mean_recall(even), 0.5)
    assert same(float(metrics.f1(even).nanmean()), 0.5)


def test_the_overall_calibration_error_is_the_plain_one():
    logits = torch.tensor(plain_draws.normals(41, 6, "logits"), dtype=torch.float64)
    labels = torch.tensor(LABELS)
    for bins in (1, 3, 15):
        error = metrics.overall_calibration_error(logits, labels, bins)
        assert same(error, plain.overall_calibration_error(logits.tolist(), LABELS, bins), 1e-9)
        per_class = metrics.calibration_error(logits, labels, bins)
        share = torch.bincount(logits.argmax(1), minlength=6) / len(labels)
        assert error <= float((per_class.nan_to_num(0) * share).sum()) + 1e-6, "opposite errors of two classes cancel"
    one_bin = metrics.overall_calibration_error(logits, labels, 1)
    confidence, predicted = logits.softmax(1).max(1)
    assert same(one_bin, abs(float(confidence.mean() - (predicted == labels).double().mean())), 1e-9)
    assert math.isnan(metrics.overall_calibration_error(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)))
