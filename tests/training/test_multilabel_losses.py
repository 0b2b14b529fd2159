"""Losses for several labels per image: plain Python, limits, gradients, extreme logits."""

import pytest
import torch
from reference import multilabel as plain
from torch.nn import functional as F  # noqa: N812

from diversify.errors import InputError
from diversify.functional import draws, multilabel_losses
from diversify.training.multilabel_losses import (
    DistributionBalanced,
    MultilabelAsymmetric,
    MultilabelCrossEntropy,
    MultilabelFocal,
)

LOGITS = 6 * draws.uniform("logits", torch.arange(15)).view(5, 3).double() - 3
TARGETS = (draws.uniform("targets", torch.arange(15)).view(5, 3) < 0.4).double()
TARGETS[0] = 0  # an image without labels
SOFT = draws.uniform("soft", torch.arange(15)).view(5, 3).double()
COUNTS, IMAGES = [40, 10, 2], 60
WEIGHT = torch.tensor([1.0, 3.0, 7.0], dtype=torch.float64)

LOSSES = {
    "cross entropy": lambda z, y: multilabel_losses.binary_cross_entropy(z, y, WEIGHT),
    "focal": lambda z, y: multilabel_losses.binary_focal_loss(z, y, 1.5, WEIGHT),
    "asymmetric": multilabel_losses.multilabel_asymmetric_loss,
    "asymmetric, no clip": lambda z, y: multilabel_losses.multilabel_asymmetric_loss(z, y, 1.0, 2.0, 0.0),
    "distribution-balanced": lambda z, y: multilabel_losses.distribution_balanced_loss(
        z, y, torch.tensor(COUNTS), IMAGES
    ),
}
PLAIN = {
    "cross entropy": lambda z, y: plain.focal(z, y, 0, WEIGHT.tolist()),
    "focal": lambda z, y: plain.focal(z, y, 1.5, WEIGHT.tolist()),
    "asymmetric": lambda z, y: plain.asymmetric(z, y, 0, 4, 0.05),
    "asymmetric, no clip": lambda z, y: plain.asymmetric(z, y, 1, 2, 0),
    "distribution-balanced": lambda z, y: plain.distribution_balanced(z, y, COUNTS, IMAGES, 0.1, 10, 0.2, 2, 0.05),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("targets", [TARGETS, SOFT], ids=["hard", "soft"])
def test_a_loss_is_what_plain_python_computes(name, targets):
    wanted = PLAIN[name](LOGITS.tolist(), targets.tolist())
    assert float(LOSSES[name](LOGITS, targets)) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_right(name):
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, TARGETS), (logits,))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_extreme_logits_give_finite_losses_and_gradients(name, dtype):
    logits = torch.tensor([[200.0, -200.0, 0.0]] * 2, dtype=dtype, requires_grad=True)
    loss = LOSSES[name](logits, torch.tensor([[0, 1, 0], [1, 0, 1]], dtype=torch.bool))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_limits_are_binary_cross_entropy():
    wanted = float(F.binary_cross_entropy_with_logits(LOGITS, TARGETS))
    close = pytest.approx(wanted, rel=1e-9)
    assert float(MultilabelCrossEntropy()(LOGITS, TARGETS)) == close
    assert float(MultilabelFocal(gamma=0.0)(LOGITS, TARGETS)) == close
    assert float(MultilabelAsymmetric(gamma_negative=0.0, clip=0.0)(LOGITS, TARGETS)) == close
    flat = DistributionBalanced(COUNTS, images=IMAGES, alpha=0.5, beta=0.0, negative_scale=1.0, kappa=0.0)
    own = TARGETS.sum(1) > 0  # an image without labels has the largest weight
    wanted = float(F.binary_cross_entropy_with_logits(LOGITS[own], TARGETS[own]))
    assert float(flat(LOGITS[own], TARGETS[own])) == pytest.approx(wanted, rel=1e-9)


def test_positive_weights_balance_the_two_sides_and_are_bounded():
    loss = MultilabelCrossEntropy([500, 1, 0, 1000], images=1000, most=50)
    assert loss.pos_weight.tolist() == [1.0, 50.0, 1.0, 1.0]
    assert loss.state_dict() == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultilabelCrossEntropy([5, 5]), "images must be the number of training images"),
        (lambda: MultilabelCrossEntropy([5, 11], images=10), r"positives must lie in \[0, 10\]"),
        (lambda: MultilabelFocal(gamma=-1.0), "gamma of the focal loss must not be negative"),
        (lambda: MultilabelAsymmetric(clip=1.0), r"clip must lie in \[0, 1\)"),
        (lambda: DistributionBalanced([1, 2], images=5, negative_scale=0.0), "negative_scale must be positive"),
        (lambda: MultilabelCrossEntropy()(LOGITS, torch.tensor([0, 1, 2, 0, 1])), "for one label per image"),
        (lambda: DistributionBalanced([1, 2], images=5)(LOGITS, TARGETS), r"positives must have shape \(3,\)"),
    ],
)
def test_wrong_numbers_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
