"""Imbalanced subsets are those of the published code, and the hold-out is stratified."""

import numpy as np
import pytest
import torch
from small_data import message_of

from diversify.data.imbalance import Imbalance, class_order, holdout_indices, imbalance_indices
from diversify.data.load import load_data
from diversify.functional import draws


def cao(targets, imbalance_type, factor):
    """Cao et al. 2019, LDAM-DRW, imbalance_cifar.py: rand_number = 0, counts, then `gen_imbalanced_data`."""
    np.random.seed(0)  # noqa: NPY002 - as published
    class_count = len(np.unique(targets))
    maximum = len(targets) / class_count
    if imbalance_type == "exp":
        numbers = [int(maximum * (factor ** (index / (class_count - 1.0)))) for index in range(class_count)]
    else:
        numbers = [int(maximum)] * (class_count // 2) + [int(maximum * factor)] * (class_count // 2)
    chosen = []
    for each, number in zip(np.unique(targets), numbers, strict=True):
        indices = np.where(targets == each)[0]
        np.random.shuffle(indices)  # noqa: NPY002 - as published
        chosen.extend(indices[:number].tolist())
    return chosen


def fake_labels(num_classes, per_class):
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    return labels[draws.permutation(len(labels), "fake labels")]


@pytest.mark.parametrize(
    ("num_classes", "per_class", "totals"),
    [(10, 5000, {100: 12406, 50: 13996, 10: 20431}), (100, 500, {100: 10847, 50: 12608, 10: 19573})],
)
def test_the_long_tailed_cifar_subsets_are_those_of_cao_et_al_index_for_index(num_classes, per_class, totals):
    labels = fake_labels(num_classes, per_class)
    for ratio, total in totals.items():
        expected = cao(labels.numpy(), "exp", 1 / ratio)
        assert len(expected) == total
        state = np.random.get_state()[1].tolist()  # noqa: NPY002
        assert imbalance_indices(labels, Imbalance.parse(f"exp:{ratio}")).tolist() == expected
        assert imbalance_indices(labels, Imbalance.parse(f"exp:{ratio}:{per_class}")).tolist() == expected
        assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
    assert imbalance_indices(labels, Imbalance.parse("step:100:0.5")).tolist() == cao(labels.numpy(), "step", 0.01)


def test_a_permuted_tail_is_the_same_profile_with_the_same_shuffles():
    labels = fake_labels(10, 500)
    canonical = imbalance_indices(labels, Imbalance.parse("exp:50"))
    whole = imbalance_indices(labels, Imbalance.parse("exp:1"))
    orders = [class_order(seed, 10) for seed in ("0", "1", "17")]
    assert len({tuple(order) for order in orders}) == 3
    for seed, order in zip(("0", "1", "17"), orders, strict=True):
        assert sorted(order) == list(range(10))
        permuted = imbalance_indices(labels, Imbalance.parse("exp:50"), seed)
        sizes = torch.bincount(labels[permuted], minlength=10)
        assert sizes[order].tolist() == torch.bincount(labels[canonical], minlength=10).tolist()
        for c in range(10):
            of_class = permuted[labels[permuted] == c]
            assert of_class.tolist() == whole[labels[whole] == c][: len(of_class)].tolist()


def linear_n_max(available, profile):
    best = 1
    for candidate in range(1, max(available) + 1):
        if all(want <= have for want, have in zip(profile(candidate), available, strict=True)):
            best = candidate
    return best


@pytest.mark.parametrize("text", ["exp:10", "exp:3", "exp:1", "step:4:0.4", "step:2:0.8"])
@pytest.mark.parametrize(
    "available", [[60, 50, 40, 30, 20], [20, 90, 70, 31, 44], [41, 41, 41, 41, 41], [97, 3, 9, 8, 50]]
)
def test_nmax_defaults_to_the_largest_count_that_every_class_can_meet(text, available):
    labels = torch.arange(5).repeat_interleave(torch.tensor(available))
    imbalance = Imbalance.parse(text)
    n_max = linear_n_max(available, lambda n: imbalance.profile(5, n))
    sizes = imbalance.profile(5, n_max)
    if min(sizes) < 1:
        assert "must keep at least one image" in message_of(lambda: imbalance_indices(labels, imbalance))
        return
    chosen = imbalance_indices(labels, imbalance)
    assert torch.bincount(labels[chosen]).tolist() == sizes
    assert len(set(chosen.tolist())) == len(chosen)


def test_nmax_given_and_no_imbalance():
    labels = fake_labels(4, 30)
    assert torch.bincount(labels[imbalance_indices(labels, Imbalance.parse("exp:8:16"))]).tolist() == [16, 8, 4, 2]
    assert imbalance_indices(labels, Imbalance()).tolist() == list(range(120))


@pytest.mark.parametrize("text", ["none", "exp:100", "exp:12.5:40", "step:10:0.25"])
def test_an_imbalance_is_written_as_it_is_read(text):
    assert str(Imbalance.parse(text)) == text


IMBALANCE_FORM = "imbalance must be exp:RATIO[:NMAX], step:RATIO:FRACTION or none, got"
IMBALANCE_ERRORS = [
    (lambda: Imbalance.parse("exp"), f"{IMBALANCE_FORM} 'exp'"),
    (lambda: Imbalance.parse("linear:3"), f"{IMBALANCE_FORM} 'linear:3'"),
    (lambda: Imbalance.parse("exp:ten"), f"{IMBALANCE_FORM} 'exp:ten'"),
    (lambda: Imbalance.parse("exp:10:2.5"), f"{IMBALANCE_FORM} 'exp:10:2.5'"),
    (lambda: Imbalance.parse("step:10"), f"{IMBALANCE_FORM} 'step:10'"),
    (lambda: Imbalance.parse("exp:0.5"), "ratio of imbalance must be at least 1 and finite, got 0.5"),
    (lambda: Imbalance.parse("exp:nan"), "ratio of imbalance must be at least 1 and finite, got nan"),
    (lambda: Imbalance.parse("step:inf:0.5"), "ratio of imbalance must be at least 1 and finite, got inf"),
    (lambda: Imbalance.parse("step:5:1"), "fraction of imbalance must lie strictly between 0 and 1, got 1.0"),
    (lambda: Imbalance.parse("exp:5:0"), "n_max of imbalance must be at least 1, got 0"),
    (
        lambda: Imbalance(kind="steps"),
        "kind of imbalance must be one of none, exp, step, got 'steps'; did you mean 'step'?",
    ),
    (
        lambda: imbalance_indices(fake_labels(3, 5), Imbalance.parse("exp:2:9")),
        "class 0 must have the 9 images that exp:2:9 needs, got 5; lower n_max",
    ),
    (
        lambda: imbalance_indices(fake_labels(3, 5), Imbalance.parse("exp:100")),
        "class 1 must keep at least one image, got 0; lower the ratio of exp:100 or raise n_max",
    ),
    (lambda: class_order("first", 3), "tail_order must be canonical or a seed, got 'first'"),
    (lambda: class_order("²", 3), "tail_order must be canonical or a seed, got '²'"),
    (lambda: class_order("-1", 3), "tail_order must be canonical or a seed, got '-1'"),
    (lambda: holdout_indices(torch.tensor([0]), 1.0), "holdout must lie in [0, 1), got 1.0"),
    (lambda: holdout_indices(torch.tensor([0]), float("nan")), "holdout must lie in [0, 1), got nan"),
    (lambda: load_data("digits", holdout=-0.1), "holdout must lie in [0, 1), got -0.1"),
]


@pytest.mark.parametrize(("call", "message"), IMBALANCE_ERRORS, ids=[text for _, text in IMBALANCE_ERRORS])
def test_an_imbalance_or_a_holdout_out_of_range(call, message):
    assert message_of(call) == message


def test_the_holdout_is_stratified_disjoint_and_leaves_every_class_an_image():
    labels = torch.tensor([0] * 100 + [1] * 10 + [2] * 2 + [4])[draws.permutation(113, "holdout test")]
    kept, held = holdout_indices(labels, 0.2)
    assert sorted(kept.tolist() + held.tolist()) == list(range(113))
    assert kept.tolist() == sorted(kept.tolist())
    assert torch.bincount(labels[held], minlength=5).tolist() == [20, 2, 0, 0, 0]
    kept, _ = holdout_indices(labels, 0.99)
    assert torch.bincount(labels[kept], minlength=5).tolist() == [1, 1, 1, 0, 1]
    assert holdout_indices(labels, 0.0)[1].tolist() == []
    half = holdout_indices(torch.zeros(1000, dtype=torch.int64), 0.5)[1]
    assert 200 < int((half < 500).sum()) < 300  # from everywhere, not from one end
