"""Cost-sensitive losses: limits, reference values, gradients, input types, and their use in the loop."""

import math

import pytest
import torch
from reference import losses as reference
from reference.losses import balanced_softmax
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

import diversify
import diversify.training.losses
from diversify.errors import InputError
from diversify.functional import draws
from diversify.functional import losses as functional_losses
from diversify.functional.losses import prior_corrected_cross_entropy
from diversify.plan.plan import Plan
from diversify.plan.policies import ClassPlan
from diversify.training.ingredients import Ingredients
from diversify.training.loop import fit
from diversify.training.losses import (
    LDAM,
    RULES,
    Always,
    Asymmetric,
    BalancedSoftmax,
    Deferred,
    Focal,
    VectorScaling,
    Weighted,
    class_weights,
)
from diversify.training.recipe import Recipe

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
    """The loss of the Bayes logits of balanced classes is smallest when the drawn prior is added exactly once."""
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


# All losses. Each is a function of (logits, targets, weight), and its oracle one of (row, class).


COUNTS = [200, 45, 45, 3]
WEIGHT = torch.tensor([0.4, 0.8, 0.8, 2.0], dtype=torch.float64)
COLUMN = torch.tensor(COUNTS)
MARGINS = functional_losses.ldam_margins(COLUMN)
OFFSETS = 1.5 * functional_losses.log_prior_of(COLUMN)
LOSSES = {
    "cross entropy": (functional_losses.weighted_cross_entropy, reference.cross_entropy),
    "focal 0.5": (
        lambda z, t, w=None: functional_losses.focal_loss(z, t, 0.5, w),
        lambda row, c: reference.focal(row, c, 0.5),
    ),
    "focal 2": (
        lambda z, t, w=None: functional_losses.focal_loss(z, t, 2.0, w),
        lambda row, c: reference.focal(row, c, 2.0),
    ),
    "ldam": (
        lambda z, t, w=None: functional_losses.ldam_loss(z, t, MARGINS, 3.0, w),
        lambda row, c: reference.ldam(row, c, reference.margins(COUNTS, 0.5), 3.0),
    ),
    "vector scaling": (
        lambda z, t, w=None: functional_losses.vector_scaling_loss(
            z, t, functional_losses.scaling_factors(COLUMN, 0.3), OFFSETS, w
        ),
        lambda row, c: reference.vector_scaling(row, c, COUNTS, 0.3, 1.5),
    ),
    "asymmetric": (
        lambda z, t, w=None: functional_losses.asymmetric_loss(z, t, 1.0, 4.0, 0.1, w),
        lambda row, c: reference.asymmetric(row, c, 1.0, 4.0, 0.1),
    ),
    "asymmetric, powers below 1": (
        lambda z, t, w=None: functional_losses.asymmetric_loss(z, t, 0.5, 0.5, 0.2, w),
        lambda row, c: reference.asymmetric(row, c, 0.5, 0.5, 0.2),
    ),
}
WEIGHTS = [pytest.param(None, id="unweighted"), pytest.param(WEIGHT, id="weighted")]
each_loss = pytest.mark.parametrize("name", LOSSES)
each_target = pytest.mark.parametrize("targets", TARGETS)
each_weight = pytest.mark.parametrize("weight", WEIGHTS)
NOT_OF_DIFFERENCES = {"vector scaling"}  # logits are multiplied, each class's by another number


def close(one, other, tolerance=1e-12):
    one, other = float(one), float(other)
    return math.isfinite(other) and abs(one - other) <= tolerance * max(1.0, abs(other))


def test_the_comparison_can_fail():
    assert close(1.0, 1.0 + 1e-13)
    assert not close(1.0, 1.0 + 1e-9)
    assert not close(float("nan"), float("nan"))
    assert not close(1.0, float("inf"))
    assert not close(float("inf"), 1.0)


@each_loss
@each_target
@each_weight
def test_every_loss_is_what_plain_python_computes(name, targets, weight):
    loss, oracle = LOSSES[name]
    rows = functional.one_hot(HARD, C) if targets.ndim == 1 else targets
    weights = None if weight is None else weight.tolist()
    wanted = reference.expected(oracle, LOGITS.tolist(), rows.tolist(), weights)
    assert close(loss(LOGITS, targets, weight), wanted)


@each_loss
@each_weight
def test_one_hot_probabilities_give_what_indices_give(name, weight):
    loss, _ = LOSSES[name]
    assert close(loss(LOGITS, functional.one_hot(HARD, C).double(), weight), loss(LOGITS, HARD, weight))


@each_loss
@each_target
@each_weight
def test_the_gradient_of_every_loss(name, targets, weight):
    loss, _ = LOSSES[name]
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, targets, weight), [logits])


@each_loss
@each_target
def test_a_constant_added_to_all_logits_changes_nothing(name, targets):
    loss, _ = LOSSES[name]
    assert close(loss(LOGITS + 3, targets), loss(LOGITS, targets)) == (name not in NOT_OF_DIFFERENCES)


@each_loss
@each_target
def test_equal_weights_change_nothing_and_others_do(name, targets):
    loss, _ = LOSSES[name]
    assert close(loss(LOGITS, targets, torch.full((C,), 0.3)), loss(LOGITS, targets))
    assert not close(loss(LOGITS, targets, WEIGHT), loss(LOGITS, targets), 1e-6)


@each_weight
def test_weighted_cross_entropy_is_that_of_torch(weight):
    wanted = functional.cross_entropy(LOGITS, HARD, weight=weight)
    assert close(functional_losses.weighted_cross_entropy(LOGITS, HARD, weight), wanted)


EVEN = torch.full((C,), 25)
ONES, ZEROS = torch.ones(C), torch.zeros(C)
PRIOR = functional_losses.log_prior_of(COLUMN)
LIMITS = {
    "focal, gamma 0": (
        lambda z, t, w: functional_losses.focal_loss(z, t, 0.0, w),
        functional_losses.weighted_cross_entropy,
    ),
    "ldam, no margin": (
        lambda z, t, w: functional_losses.ldam_loss(z, t, functional_losses.ldam_margins(COLUMN, 0.0), 3.0, w),
        lambda z, t, w: functional_losses.weighted_cross_entropy(3 * z, t, w),
    ),
    "ldam of a head that has the scale": (
        lambda z, t, w: functional_losses.ldam_loss(3 * z, t, 3 * MARGINS, 1.0, w),
        lambda z, t, w: functional_losses.ldam_loss(z, t, MARGINS, 3.0, w),
    ),
    "vector scaling, gamma 0 and tau 0": (
        lambda z, t, w: functional_losses.vector_scaling_loss(
            z, t, functional_losses.scaling_factors(COLUMN, 0.0), 0.0 * PRIOR, w
        ),
        functional_losses.weighted_cross_entropy,
    ),
    "vector scaling, equal counts": (
        lambda z, t, w: functional_losses.vector_scaling_loss(
            z, t, functional_losses.scaling_factors(EVEN, 0.7), functional_losses.log_prior_of(EVEN), w
        ),
        functional_losses.weighted_cross_entropy,
    ),
    "asymmetric, gammas 0": (
        lambda z, t, w: functional_losses.asymmetric_loss(z, t, 0.0, 0.0, 0.0, w),
        functional_losses.weighted_cross_entropy,
    ),
    "asymmetric, no smoothing": (
        lambda z, t, w: functional_losses.asymmetric_loss(z, t, 2.0, 4.0, 0.0, w),
        lambda z, t, w: functional_losses.focal_loss(z, t, 2.0, w),
    ),
}


@pytest.mark.parametrize("name", LIMITS)
@each_target
@each_weight
def test_limits(name, targets, weight):
    one, other = LIMITS[name]
    assert close(one(LOGITS, targets, weight), other(LOGITS, targets, weight))


@each_target
def test_vector_scaling_with_gamma_0_and_tau_1_is_balanced_softmax(targets):
    got = functional_losses.vector_scaling_loss(LOGITS, targets, functional_losses.scaling_factors(COLUMN, 0.0), PRIOR)
    assert close(got, prior_corrected_cross_entropy(LOGITS, targets, PRIOR, 1.0))
    assert not close(got, functional.cross_entropy(LOGITS, targets), 1e-3)


@each_target
def test_asymmetric_with_gammas_0_is_cross_entropy_with_smoothing(targets):
    wanted = functional.cross_entropy(LOGITS, targets, label_smoothing=0.2)
    assert close(functional_losses.asymmetric_loss(LOGITS, targets, 0.0, 0.0, 0.2), wanted)


def test_a_margin_makes_the_loss_larger_and_the_true_odds_have_to_grow_by_it():
    raised = LOGITS.clone()
    raised[torch.arange(N), HARD] += MARGINS[HARD]
    assert functional_losses.ldam_loss(LOGITS, HARD, MARGINS, 3.0) > functional.cross_entropy(3 * LOGITS, HARD)
    assert close(functional_losses.ldam_loss(raised, HARD, MARGINS, 3.0), functional.cross_entropy(3 * LOGITS, HARD))


def test_focal_of_a_sure_prediction_keeps_its_digits():
    """1 - p is 1e-9 here, of which float32 has nothing left beside a p near 1."""
    logits = torch.tensor([[math.log(1e9), 0.0]])
    got = float(functional_losses.focal_loss(logits, torch.tensor([0]), 1.0))
    assert got == pytest.approx(1e-18, rel=1e-3)


# Class weights, margins and the rest that is made of counts


@pytest.mark.parametrize("counts", [COUNTS, [5, 5, 5], [90, 0, 10], [1, 0, 0]])
@pytest.mark.parametrize("rule", RULES)
def test_class_weights(rule, counts):
    got = class_weights(counts, rule, beta=0.99)
    assert got.dtype == torch.float64
    assert got.tolist() == pytest.approx(reference.weights(counts, rule, 0.99), rel=1e-11)
    present = got[torch.tensor(counts) > 0]
    assert float(present.mean()) == pytest.approx(1)
    assert bool((present > 0).all())


def test_effective_number_weights_go_from_even_to_the_inverse_frequency():
    assert functional_losses.effective_number_weights(COLUMN, 0.0).tolist() == pytest.approx([1.0] * C)
    near = functional_losses.effective_number_weights(COLUMN, 1 - 1e-9)
    assert near.tolist() == pytest.approx(functional_losses.inverse_frequency_weights(COLUMN).tolist(), rel=1e-5)


def test_margins():
    assert functional_losses.ldam_margins(COLUMN, 0.3).tolist() == pytest.approx(reference.margins(COUNTS, 0.3))
    assert float(functional_losses.ldam_margins(COLUMN, 0.3).max()) == pytest.approx(0.3)


@pytest.mark.parametrize(
    "made",
    [
        functional_losses.ldam_margins,
        functional_losses.log_prior_of,
        lambda n: functional_losses.scaling_factors(n, 0.3),
    ],
)
def test_a_class_without_an_image_counts_as_the_rarest(made):
    got = made(torch.tensor([90, 0, 10]))
    assert got.isfinite().all()
    assert got[1] == got[2] != got[0]


# Modules


PUBLIC = ["LDAM", "Always", "Asymmetric", "BalancedSoftmax", "Deferred", "Focal", "VectorScaling", "Weighted"]
MODULES = {
    "weighted": (
        lambda: Weighted(COUNTS, rule="square_root"),
        lambda z, t: functional_losses.weighted_cross_entropy(z, t, functional_losses.square_root_weights(COLUMN)),
    ),
    "focal": (lambda: Focal(gamma=1.5), lambda z, t: functional_losses.focal_loss(z, t, 1.5)),
    "weighted focal": (lambda: Focal(weight=WEIGHT), lambda z, t: functional_losses.focal_loss(z, t, 2.0, WEIGHT)),
    "ldam": (lambda: LDAM(COUNTS), lambda z, t: functional_losses.ldam_loss(z, t, MARGINS)),
    "weighted ldam": (
        lambda: LDAM(COLUMN, max_margin=0.2, scale=4, weight=WEIGHT),
        lambda z, t: functional_losses.ldam_loss(z, t, functional_losses.ldam_margins(COLUMN, 0.2), 4.0, WEIGHT),
    ),
    "balanced softmax": (
        lambda: BalancedSoftmax(COUNTS, tau=0.5),
        lambda z, t: prior_corrected_cross_entropy(z, t, PRIOR, 0.5),
    ),
    "vector scaling": (
        lambda: VectorScaling(COUNTS, gamma=0.2, tau=1.5, weight=WEIGHT.tolist()),
        lambda z, t: functional_losses.vector_scaling_loss(
            z, t, functional_losses.scaling_factors(COLUMN, 0.2), OFFSETS, WEIGHT
        ),
    ),
    "asymmetric": (lambda: Asymmetric(), lambda z, t: functional_losses.asymmetric_loss(z, t, 0.0, 4.0, 0.1)),
    "weighted asymmetric": (
        lambda: Asymmetric(gamma_positive=1, gamma_negative=2, smoothing=0.3, weight=WEIGHT),
        lambda z, t: functional_losses.asymmetric_loss(z, t, 1.0, 2.0, 0.3, WEIGHT),
    ),
}
each_module = pytest.mark.parametrize("name", MODULES)


@each_module
@each_target
def test_a_module_is_its_function(name, targets):
    make, function = MODULES[name]
    logits = LOGITS.float()
    assert close(make()(logits, targets), function(logits, targets), 1e-6)


@each_module
def test_what_a_module_keeps_moves_with_it_and_is_not_saved(name):
    module = MODULES[name][0]()
    assert module.state_dict() == {}
    assert not list(module.parameters())
    assert all(buffer.dtype == torch.float32 for buffer in module.buffers())
    assert all(buffer.device.type == "meta" for buffer in module.to("meta").buffers())


def test_what_a_module_keeps_is_its_own():
    counts, weight = torch.tensor(COUNTS).double(), WEIGHT.clone()
    module = LDAM(counts, weight=weight)
    before = module(LOGITS, HARD)
    counts.fill_(1)
    weight.fill_(1)
    assert torch.equal(module(LOGITS, HARD), before)


@each_module
@each_target
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_no_value_is_looked_at_and_the_type_is_kept(name, targets, dtype):
    """Tensors of the meta device have no values: code that would read one raises."""
    module = MODULES[name][0]().to("meta")
    logits = LOGITS.to("meta", dtype).requires_grad_()
    loss = module(logits, targets.to("meta"))
    loss.backward()
    assert loss.shape == ()
    assert loss.device.type == "meta"
    assert loss.dtype == (torch.float32 if dtype.itemsize == 2 else dtype)
    assert logits.grad.dtype == dtype


def one_sided(scale):
    """Logits that are certain of a class: the right one, a wrong one, and two at once."""
    logits = torch.zeros(4, C)
    logits[0, 0] = logits[1, 1] = logits[2, 0] = logits[2, 1] = scale
    logits[3, 0] = -scale
    return logits


@each_module
@pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("one_class", range(C))
def test_extreme_logits_and_batches_of_one_class_give_no_nan(name, scale, dtype, one_class):
    module = MODULES[name][0]()
    hard = torch.full((4,), one_class)
    for targets in (hard, functional.one_hot(hard, C).float(), torch.full((4, C), 1 / C)):
        logits = one_sided(scale).to(dtype).requires_grad_()
        loss = module(logits, targets)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0])
def test_powers_below_1_have_a_finite_gradient_where_a_prediction_is_certain(gamma):
    logits = one_sided(1e4).requires_grad_()
    loss = functional_losses.focal_loss(logits, HARD[:4], gamma) + functional_losses.asymmetric_loss(
        logits, HARD[:4], gamma, gamma, 0.1
    )
    loss.backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("targets", [torch.tensor([1, 1]), torch.tensor([[0.0, 1.0, 0.0]] * 2)])
def test_a_batch_of_a_class_without_weight_has_loss_0_and_no_gradient(targets):
    logits = LOGITS[:2, :3].clone().requires_grad_()
    for module in (Weighted([90, 0, 10]), Focal(weight=class_weights([90, 0, 10], "square_root"))):
        loss = module(logits, targets)
        loss.backward()
        assert float(loss.detach()) == 0
        assert not logits.grad.any()


# The slot of the loop


def test_deferred_and_always_give_the_same_object_as_long_as_nothing_changes():
    first, then = LDAM(COUNTS), LDAM(COUNTS, weight=WEIGHT)
    slot = Deferred(first, then, 2)
    assert [slot(epoch) is first for epoch in range(4)] == [True, True, False, False]
    assert [slot(epoch) is then for epoch in range(4)] == [False, False, True, True]
    assert Deferred(first, then, 0)(0) is then
    always = Always(functional.cross_entropy)
    assert always(0) is always(7) is functional.cross_entropy


def test_slots_move_with_the_ingredients_and_nothing_of_them_is_saved():
    for slot in (Always(LDAM(COUNTS)), Deferred(functional.cross_entropy, Weighted(COUNTS), 1)):
        ingredients = Ingredients(criterion=slot)
        ingredients.to(torch.device("meta"))
        assert [buffer.device.type for buffer in slot(1).buffers()] == ["meta"]
        assert ingredients.state_dict() == {"criterion": {}}


class Rows(Dataset):
    """Two features that determine the labels."""

    def __init__(self):
        self.labels = torch.arange(20) % 3
        self.features = draws.uniform("rows", torch.arange(40)).view(20, 2) + self.labels[:, None]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.features[index], self.labels[index]


def trained(criterion, *, epochs=4, until=4, state=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(2, 3)
    recipe = Recipe(epochs=epochs, batch_size=8, learning_rate=0.1, warmup_epochs=0, precision="fp32")
    loop = fit(model, Rows(), recipe=recipe, num_classes=3, ingredients=Ingredients(criterion=criterion), state=state)
    for _, _record in zip(range(until), loop, strict=False):
        pass
    loop.close()
    return model.cpu().weight.detach()


def deferred_ldam(start=2):
    counts = [7, 7, 6]
    return Deferred(LDAM(counts, scale=3), LDAM(counts, scale=3, weight=[0.1, 1.0, 3.0]), start)


@pytest.mark.parametrize("until", [1, 2, 3])
def test_a_run_with_a_deferred_loss_is_resumed_to_the_bit(tmp_path, until):
    whole = trained(deferred_ldam())
    assert not torch.equal(whole, trained(deferred_ldam(start=4)))
    trained(deferred_ldam(), until=until, state=tmp_path / "state")
    assert torch.equal(trained(deferred_ldam(), state=tmp_path / "state"), whole)


# What is refused


REFUSED_BY_FUNCTIONS = [
    (
        lambda: functional_losses.focal_loss(LOGITS[0], HARD, 1.0),
        "logits must have shape (N, C), of two classes at least, got (4,)",
    ),
    (
        lambda: functional_losses.focal_loss(LOGITS[:, :1], HARD, 1.0),
        "logits must have shape (N, C), of two classes at least, got (7, 1);"
        " pass one logit z as torch.cat([torch.zeros_like(z), z], 1)",
    ),
    (
        lambda: functional_losses.weighted_cross_entropy(LOGITS, HARD[:3], None),
        "targets must be class indices (7,) or class probabilities (7, 4), got (3,) of int64",
    ),
    (
        lambda: functional_losses.ldam_loss(LOGITS, HARD.float(), MARGINS),
        "targets must be class indices (7,) or class probabilities (7, 4), got (7,) of float32",
    ),
    (
        lambda: functional_losses.asymmetric_loss(LOGITS, SOFT.long(), 0.0, 0.0, 0.0),
        "targets must be class indices (7,) or class probabilities (7, 4), got (7, 4) of int64",
    ),
    (
        lambda: functional_losses.weighted_cross_entropy(LOGITS, HARD, WEIGHT[:3]),
        "weight must have shape (4,), got (3,)",
    ),
    (lambda: functional_losses.ldam_loss(LOGITS, HARD, MARGINS[:3]), "margins must have shape (4,), got (3,)"),
    (
        lambda: functional_losses.vector_scaling_loss(LOGITS, HARD, ONES[:1], ZEROS),
        "factors must have shape (4,), got (1,)",
    ),
    (
        lambda: functional_losses.vector_scaling_loss(LOGITS, HARD, ONES, ZEROS[None]),
        "offsets must have shape (4,), got (1, 4)",
    ),
    (lambda: functional_losses.ldam_loss(LOGITS, HARD, MARGINS, 0.0), "scale must be positive and finite, got 0.0"),
    (
        lambda: functional_losses.focal_loss(LOGITS, HARD, -1.0),
        "gamma of the focal loss must not be negative, and finite, got -1.0",
    ),
    (
        lambda: functional_losses.asymmetric_loss(LOGITS, HARD, 0.0, float("nan"), 0.0),
        "gamma_negative must not be negative, and finite, got nan",
    ),
    (lambda: functional_losses.asymmetric_loss(LOGITS, HARD, 0.0, 0.0, 1.0), "smoothing must lie in [0, 1), got 1.0"),
    (
        lambda: functional_losses.effective_number_weights(COLUMN, 1.0),
        "beta of the effective number must lie in [0, 1), got 1.0",
    ),
    (
        lambda: functional_losses.scaling_factors(COLUMN, -0.1),
        "gamma of the vector scaling must not be negative, and finite, got -0.1",
    ),
]
REFUSED_BY_MODULES = [
    (lambda: LDAM([]), "class counts must be one number per class, of two classes at least, got shape (0,)"),
    (lambda: LDAM([[1, 2]]), "class counts must be one number per class, of two classes at least, got shape (1, 2)"),
    (lambda: BalancedSoftmax([5, -1]), "class counts must not be negative, and finite, got -1"),
    (lambda: VectorScaling([5, float("nan")]), "class counts must not be negative, and finite, got nan"),
    (lambda: Weighted([0, 0]), "class counts must not all be 0, got 2 zeros"),
    (
        lambda: Weighted([5, 1], rule="inverse_frequncy"),
        "rule must be one of inverse_frequency, square_root, effective_number, got 'inverse_frequncy'; "
        "did you mean 'inverse_frequency'?",
    ),
    (lambda: Weighted([5, 1], beta=1.0), "beta of the effective number must lie in [0, 1), got 1.0"),
    (lambda: Focal(weight=[1.0, float("inf")]), "class weights must not be negative, and finite, got inf"),
    (lambda: Focal(weight=[0.0, 0.0]), "class weights must not all be 0, got 2 zeros"),
    (lambda: Focal(gamma=-1), "gamma of the focal loss must not be negative, and finite, got -1"),
    (lambda: LDAM([5, 1], weight=[1.0, 1.0, 1.0]), "class weights must be 2, one per class, got 3"),
    (lambda: LDAM([5, 1], max_margin=-0.5), "max_margin must not be negative, and finite, got -0.5"),
    (lambda: LDAM([5, 1], scale=0), "scale must be positive and finite, got 0"),
    (lambda: BalancedSoftmax([5, 1], tau=-1), "tau must not be negative, and finite, got -1"),
    (
        lambda: VectorScaling([5, 1], gamma=float("inf")),
        "gamma of the vector scaling must not be negative, and finite, got inf",
    ),
    (lambda: VectorScaling([5, 1], tau=-2), "tau must not be negative, and finite, got -2"),
    (lambda: Asymmetric(gamma_positive=-1), "gamma_positive must not be negative, and finite, got -1"),
    (lambda: Asymmetric(smoothing=1.5), "smoothing must lie in [0, 1), got 1.5"),
    (lambda: Deferred(Focal(), Focal(), -1), "start_epoch must not be negative, got -1"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED_BY_FUNCTIONS + REFUSED_BY_MODULES)
def test_what_losses_refuse(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message


def test_the_public_names():
    assert all(getattr(diversify, name) is getattr(diversify.training.losses, name) for name in PUBLIC)
