import math

import pytest
import torch
from reference import label_errors as plain
from sklearn.datasets import load_digits

from diversify.functional import ceiling, counts, draws, label_errors
from diversify.network.synthetic import make_embeddings


def chances(rows: int, classes: int, key: str, sharpness: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random probabilities, and labels that are draws from them."""
    scores = draws.uniform(key, torch.arange(rows * classes)).view(rows, classes)
    probabilities = (sharpness * scores).softmax(1)
    points = draws.uniform(key, "labels", torch.arange(rows)).double()
    return probabilities, (probabilities.double().cumsum(1) < points[:, None]).sum(1).clamp(max=classes - 1)


def flipped(labels: torch.Tensor, classes: int, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The labels with a share of them moved to another class, and which were."""
    rows = torch.arange(len(labels))
    wrong = draws.uniform("wrong", seed, rows) < share
    other = (labels + 1 + (draws.uniform("other", seed, rows) * (classes - 1)).long()) % classes
    return torch.where(wrong, other, labels), wrong


def judged(features: torch.Tensor, labels: torch.Tensor, classes: int) -> tuple[label_errors.Suspects, torch.Tensor]:
    """The suspects of cross-fitted features, and the p value of each class."""
    probabilities = ceiling.cross_fit(features, labels, classes, seed=0).probabilities
    found = label_errors.suspect_labels(probabilities, labels)
    total, suspects = (counts.class_counts(each, classes) for each in (labels, labels[found.rows]))
    expected = label_errors.expected_suspects(probabilities, labels).share
    return found, label_errors.too_many_suspects(suspects, total, expected)


@pytest.mark.parametrize("sharpness", [1.0, 4.0, 12.0])
def test_suspects_are_those_of_plain_python(sharpness: float) -> None:
    probabilities, labels = chances(80, 4, "plain", sharpness)
    limit = label_errors.class_thresholds(probabilities, labels)
    assert limit.tolist() == pytest.approx(plain.thresholds(probabilities.tolist(), labels.tolist()))
    found = label_errors.suspect_labels(probabilities, labels)
    expected = plain.suspects(probabilities.tolist(), labels.tolist())
    assert list(zip(found.rows.tolist(), found.suggested.tolist(), strict=True)) == [one[:2] for one in expected]
    assert found.score.tolist() == pytest.approx([one[2] for one in expected], abs=1e-6)
    assert 0 < len(expected) < 80


def test_a_class_without_rows_is_never_suggested() -> None:
    probabilities = torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3]])
    found = label_errors.suspect_labels(probabilities, torch.tensor([0, 0, 1]))
    assert label_errors.class_thresholds(probabilities, torch.tensor([0, 0, 1]))[2].isnan()
    assert 2 not in found.suggested.tolist()
    assert label_errors.expected_suspects(probabilities, torch.tensor([0, 0, 1])).share[2].isnan()


def test_the_expected_share_is_that_of_plain_python() -> None:
    probabilities, labels = chances(120, 3, "expected")
    ours = label_errors.expected_suspects(probabilities, labels)
    calibrated = label_errors.calibrate(probabilities, labels).probabilities
    wanted = plain.expected_shares(probabilities.tolist(), calibrated.tolist(), labels.tolist())
    assert ours.share.tolist() == pytest.approx(wanted)


def test_calibration_recovers_probabilities_and_the_share_of_random_labels() -> None:
    true, labels = chances(3000, 5, "calibration", 6.0)
    too_sure = (true.log() * 2).softmax(1)
    found = label_errors.calibrate(too_sure, labels)
    assert float((found.probabilities - true).abs().mean()) < 0.03
    assert found.noise < 0.02
    rows = torch.arange(len(labels))
    noisy = torch.where(draws.uniform("noise", rows) < 0.2, (draws.uniform("any", rows) * 5).long(), labels)
    found = label_errors.calibrate(too_sure, noisy)
    assert found.noise == pytest.approx(0.2, abs=0.06)
    assert float((found.probabilities - true).abs().mean()) < 0.05


@pytest.mark.parametrize(("spread", "counts"), [(0.6, (60,) * 5), (1.2, (80,) * 5), (1.0, (200, 100, 60, 40, 25))])
def test_right_labels_of_easy_and_hard_classes_raise_no_alarm(spread: float, counts: tuple[int, ...]) -> None:
    alarms = 0
    for seed in range(4):
        train, _, _ = make_embeddings(counts, heldout=1, num_features=24, spread=spread, seed=seed)
        _, p_values = judged(train.features, train.labels, 5)
        alarms += bool((p_values < 0.05).any())
    assert alarms == 0


def test_wrong_labels_of_synthetic_features_are_found() -> None:
    train, _, _ = make_embeddings((200,) * 4, heldout=1, num_features=32, spread=0.5)
    labels, wrong = flipped(train.labels, 4, 0.1, seed=1)
    found, p_values = judged(train.features, labels, 4)
    assert float(wrong[found.rows].double().mean()) > 0.9  # precision
    assert int(wrong[found.rows].sum()) > 0.7 * int(wrong.sum())  # recall
    right = found.suggested == train.labels[found.rows]
    assert float(right[wrong[found.rows]].double().mean()) > 0.95
    assert int((p_values < 0.05).sum()) >= 3


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_wrong_labels_of_digits_are_found(share: float) -> None:
    images, digits = load_digits(return_X_y=True)
    features, truth = torch.tensor(images[:900], dtype=torch.float32), torch.tensor(digits[:900], dtype=torch.int64)
    labels, wrong = flipped(truth, 10, share, seed=0)
    found, p_values = judged(features, labels, 10)
    if share == 0:
        assert len(found.rows) < 15
        assert not bool((p_values < 0.05).any())
        return
    assert float(wrong[found.rows].double().mean()) > 0.7
    assert int(wrong[found.rows].sum()) > 0.7 * int(wrong.sum())
    assert int((p_values < 0.05).sum()) >= 4


@pytest.mark.parametrize(("rows", "width", "classes"), [(60, 4, 2), (90, 16, 3)])
def test_no_label_is_surely_wrong_where_features_do_not_tell_the_classes(rows: int, width: int, classes: int) -> None:
    labels = torch.arange(rows) % classes
    for seed in range(10):
        features = torch.rand(rows, width, generator=torch.Generator().manual_seed(seed))
        _, p_values = judged(features, labels, classes)
        assert not bool((p_values < 0.05).any())


def test_p_values_are_exact_binomial_ones_adjusted_by_holm() -> None:
    suspects, totals = torch.tensor([6, 1, 5]), torch.tensor([40, 40, 10])
    p_values = label_errors.too_many_suspects(suspects, totals, torch.tensor([0.02, 0.02, 0.02]))
    share = 1.1 * 0.02 + 0.01
    tails = [sum(math.comb(40, k) * share**k * (1 - share) ** (40 - k) for k in range(low, 41)) for low in (6, 1)]
    assert p_values[:2].tolist() == pytest.approx([2 * tails[0], tails[1]])
    assert p_values[2].isnan()  # fewer than 20 rows
