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
