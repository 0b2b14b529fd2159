"""The prior-corrected loss: its two ends, its oracle, its gradient, and the types it is given."""

import pytest
import torch
from reference.losses import balanced_softmax
from torch.nn import functional

from diversify.errors import InputError
from diversify.functional import draws
from diversify.functional.losses import prior_corrected_cross_entropy
from diversify.plan import ClassPlan, Plan

N, C = 7, 4
PRIORS = [0.7, 0.2, 0.07, 0.03]
LOG_PRIOR = torch.tensor(PRIORS, dtype=torch.float64).log()
LOGITS = 8 * draws.uniform("logits", torch.arange(N * C)).view(N, C).double() - 4
HARD = draws.integers(C, "labels", torch.arange(N))
SOFT = draws.uniform("soft", torch.arange(N * C)).view(N, C).double().softmax(1)
TARGETS = [pytest.param(HARD, id="hard"), pytest.param(SOFT, id="soft")]


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strength_0_is_cross_entropy_to_the_bit(targets, dtype):
    logits = LOGITS.to(dtype)
    wanted = functional.cross_entropy(logits, targets.to(dtype) if targets.ndim == 2 else targets)
    assert torch.equal(prior_corrected_cross_entropy(logits, targets, LOG_PRIOR, 0.0), wanted)


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.5])
def test_it_is_what_plain_python_computes(targets, strength):
    rows = functional.one_hot(HARD, C) if targets.ndim == 1 else targets
    wanted = balanced_softmax(LOGITS.tolist(), rows.tolist(), PRIORS, strength)
    got = prior_corrected_cross_entropy(LOGITS, targets, LOG_PRIOR, strength)
    assert float(got) == pytest.approx(wanted, rel=1e-12)


def test_a_network_that_knows_the_balanced_classes_is_at_its_best_with_strength_1():
    """The loss of the Bayes logits of balanced classes is smallest where the prior that is drawn is put in once."""
    balanced = SOFT.log()
    drawn = torch.softmax(balanced + LOG_PRIOR, 1)
    losses = [float(prior_corrected_cross_entropy(balanced, drawn, LOG_PRIOR, s)) for s in (0.0, 0.5, 1.0, 1.5)]
    assert min(losses) == losses[2]


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_its_gradient(targets, strength):
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: prior_corrected_cross_entropy(z, targets, LOG_PRIOR, strength), [logits])


def test_a_constant_added_to_the_prior_changes_nothing():
    one, other = (prior_corrected_cross_entropy(LOGITS, HARD, LOG_PRIOR + c, 1.0) for c in (0.0, 5.0))
    assert float(one) == pytest.approx(float(other), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("targets", TARGETS)
def test_half_precision_is_summed_in_float32(dtype, targets):
    logits = (1e4 * LOGITS).to(dtype).requires_grad_()
    loss = prior_corrected_cross_entropy(logits, targets, LOG_PRIOR, 1.0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert logits.grad.dtype == dtype
    wide = prior_corrected_cross_entropy(logits.detach().float(), targets, LOG_PRIOR, 1.0)
    assert torch.equal(loss.detach(), wide)


def test_a_class_that_is_never_drawn_gives_no_nan():
    counts = (90, 10, 0)
    classes = [ClassPlan(name=f"{c}", count=n, draws=n / 100) for c, n in enumerate(counts)]
    plan = Plan(classes=tuple(classes))
    logits = LOGITS[:, :3].clone().requires_grad_()
    loss = prior_corrected_cross_entropy(logits, HARD % 2, plan.log_prior, 4.0)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_what_is_refused():
    with pytest.raises(InputError, match=r"^log prior must have shape \(4,\), got \(3,\)$"):
        prior_corrected_cross_entropy(LOGITS, HARD, LOG_PRIOR[:3], 1.0)
    with pytest.raises(InputError, match=r"^strength of the prior correction must not be negative, and finite, got -1"):
        prior_corrected_cross_entropy(LOGITS, HARD, LOG_PRIOR, -1.0)
    with pytest.raises(InputError, match="nan"):
        prior_corrected_cross_entropy(LOGITS, HARD, LOG_PRIOR, float("nan"))
