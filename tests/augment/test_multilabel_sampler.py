"""The sampler for several labels: shares, determinism, resuming, refusals."""

import pytest
import torch

import diversify as dv
from diversify.errors import InputError

LABELS = torch.zeros(120, 4, dtype=torch.bool)
LABELS[:80, 0] = LABELS[70:90, 1] = LABELS[88:90, 2] = True  # 30 images without labels; label 3 has none


@pytest.mark.parametrize("shares", ["even", "sqrt"])
def test_labels_are_seen_as_often_as_expected_and_unlabelled_images_keep_their_share(shares):
    sampler = dv.MultilabelSampler(LABELS, shares=shares, length=6000, seed=1)
    order = sampler.order()
    seen = LABELS[order].sum(0)
    assert torch.allclose(seen.double(), sampler.expected_counts(), rtol=0.1)
    assert float((~LABELS[order].any(1)).double().mean()) == pytest.approx(30 / 120, abs=0.03)
    assert float(sampler.expected_counts()[2]) / 6000 > 2 / 120
    assert seen[3] == 0


def test_the_order_depends_on_seed_and_epoch_alone():
    one, other = dv.MultilabelSampler(LABELS, seed=3), dv.MultilabelSampler(LABELS.float(), seed=3)
    first = list(one)
    one.set_epoch(2)
    other.set_epoch(2)
    assert list(one) == list(other) != first
    assert first != list(dv.MultilabelSampler(LABELS, seed=4))


def test_a_resumed_epoch_is_the_rest():
    whole = list(dv.MultilabelSampler(LABELS, seed=5))
    sampler = dv.MultilabelSampler(LABELS, seed=5)
    handed = iter(sampler)
    assert [next(handed) for _ in range(50)] == whole[:50]
    again = dv.MultilabelSampler(LABELS, seed=0)
    again.load_state_dict(sampler.state_dict())
    assert list(again) == whole[50:]
    again.load_state_dict(sampler.state_dict(consumed=20))
    assert list(again) == whole[20:]


def test_only_images_without_labels_are_drawn_as_they_are():
    assert set(dv.MultilabelSampler(torch.zeros(5, 2), seed=0)) <= set(range(5))


def test_wrong_arguments_and_foreign_states_are_refused():
    with pytest.raises(InputError, match="shares must be one of even, sqrt"):
        dv.MultilabelSampler(LABELS, shares="square")
    with pytest.raises(InputError, match="for one label per image"):
        dv.MultilabelSampler([0, 1, 2])
    state = dv.MultilabelSampler(LABELS[:50]).state_dict()
    with pytest.raises(InputError, match="labels of the sampler's state"):
        dv.MultilabelSampler(LABELS, length=50).load_state_dict(state)
