"""A head is trained further by a plan: nothing without steps, the same with the same seed, and draws as planned."""

import dataclasses

import pytest
import torch
from conftest import embeddings_of, synthetic, synthetic_head
from torch.nn import functional

from diversify.functional import counts
from diversify.functional.losses import prior_corrected_cross_entropy
from diversify.functional.metrics import balanced_accuracy
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.plan.plan import Plan
from diversify.plan.policies import FeaturePolicy, PriorCorrection
from diversify.repair.candidate import even_plan
from diversify.repair.candidates import scaled
from diversify.repair.head_steps import Descent, gradients, pull_of
from diversify.repair.post_hoc import adjust_logits
from diversify.repair.retrain import HeadRecipe, retrain_by_strength, retrain_head, retrain_with

Sides = tuple[Embeddings, Embeddings, LinearHead]


def cosine(head: LinearHead) -> LinearHead:
    return dataclasses.replace(head, bias=torch.zeros_like(head.bias), cosine=True, scale=8.0)


def plan_with(train: Embeddings, **correction: float) -> Plan:
    plan = even_plan(counts.class_counts(train.labels, train.num_classes))
    return plan.model_copy(update={"prior_correction": PriorCorrection(**correction)})


def equal(one: LinearHead, other: LinearHead) -> bool:
    return torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


def correct(head: LinearHead, side: Embeddings) -> float:
    return balanced_accuracy(side.labels, head.logits(side.features).argmax(1), side.num_classes)


def test_no_step_is_the_identity_but_for_what_is_taken_off_afterwards(sides: Sides) -> None:
    train, _, head = sides
    plan = plan_with(train, training=1.0)
    assert equal(retrain_head(train, head, plan, steps=0), head)
    plan = Plan.untouched(plan_names := [str(c) for c in range(10)], counts.class_counts(train.labels, 10).tolist())
    plan = plan.model_copy(update={"prior_correction": PriorCorrection(after=1.0)})
    assert len(plan_names) == plan.num_classes
    assert equal(retrain_head(train, head, plan, steps=0), adjust_logits(head, plan.log_prior, 1.0))


def test_the_same_seed_gives_the_same_head_with_any_number_of_threads(sides: Sides) -> None:
    train, _, head = sides
    plan = plan_with(train)
    first, second, other = (retrain_head(train, head, plan, seed=seed, steps=20) for seed in (0, 0, 1))
    assert equal(first, second)
    assert not equal(first, other)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert equal(retrain_head(train, head, plan, steps=20), first)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [lambda head: head, cosine], ids=["plain", "cosine"])
def test_even_draws_help_a_head_that_forgot_its_rare_classes(sides: Sides, shape) -> None:
    train, heldout, head = sides
    forgetful = shape(dataclasses.replace(head, weight=head.weight * torch.linspace(1, 0.2, 10)[:, None]))
    found = retrain_head(train, forgetful, plan_with(train), steps=300)
    assert correct(found, heldout) > correct(forgetful, heldout)
    assert (found.cosine, found.scale) == (forgetful.cosine, forgetful.scale)
    if found.cosine:
        assert torch.equal(found.bias, forgetful.bias)
        torch.testing.assert_close(found.weight.norm(dim=1), forgetful.weight.norm(dim=1))


def test_rows_are_drawn_as_the_plan_says(sides: Sides) -> None:
    from diversify.repair.retrain import _Rows

    train = sides[0]
    share = torch.tensor([0.0, 0.5, 0.5] + [0.0] * 7, dtype=torch.float64)
    plan = even_plan(counts.class_counts(train.labels, 10))
    classes = tuple(one.model_copy(update={"draws": float(s)}) for one, s in zip(plan.classes, share, strict=True))
    rows = _Rows(train, plan.model_copy(update={"classes": classes}), 256, 0)
    chosen = rows.of(torch.arange(20))
    drawn = train.labels[chosen]
    torch.testing.assert_close(
        counts.class_counts(drawn.flatten(), 10) / drawn.numel(), share.float(), atol=0.03, rtol=0
    )
    assert torch.equal(chosen[7:9], rows.of(torch.arange(7, 9)))
    assert len(chosen[drawn == 2].unique()) == 70


def test_the_learning_rate_follows_the_length_of_the_features(sides: Sides) -> None:
    """Features a hundred times as long, with a head a hundred times as short, give the same logits and predictions."""
    train, heldout, head = sides
    long = dataclasses.replace(train, features=100 * train.features)
    short = dataclasses.replace(head, weight=head.weight / 100)
    options = {"steps": 100, "weight_decay": 0.0, "bias": False}
    one = retrain_head(train, head, plan_with(train), **options)
    other = retrain_head(long, short, plan_with(train), **options)
    torch.testing.assert_close(other.logits(100 * heldout.features), one.logits(heldout.features), atol=1e-2, rtol=1e-3)


def test_short_features_with_a_long_head_are_trained_as_well_as_any(sides: Sides) -> None:
    """Features shorter than 1 do not make the steps too large for the bias or the decay."""
    train, heldout, head = sides
    policies = (FeaturePolicy(method="isda", strength=1.0, share=0.5),)
    even = plan_with(train)
    plan = even.model_copy(
        update={"classes": tuple(one.model_copy(update={"features": policies}) for one in even.classes)}
    )
    unit = float(train.features.norm(dim=1).double().square().mean()) ** -0.5
    found = []
    for factor in (unit, unit / 100, unit / 10_000):
        short = dataclasses.replace(train, features=factor * train.features)
        long = dataclasses.replace(head, weight=head.weight / factor)
        found.append(retrain_head(short, long, plan, steps=100).logits(factor * heldout.features))
    for logits in found[1:]:
        torch.testing.assert_close(logits, found[0], atol=1e-2, rtol=1e-2)


def test_every_feature_method_trains_to_finite_numbers(sides: Sides) -> None:
    train, _, head = sides
    kept = train.select((train.labels != 9) | (torch.arange(len(train)) == len(train) - 1))  # one row of the rarest
    plan = even_plan(counts.class_counts(kept.labels, 10))
    for method in ("eos", "covariance", "magnitude", "manifold_mixup", "isda"):
        features = (FeaturePolicy(method=method, strength=1.0, share=1.0),)
        classes = tuple(one.model_copy(update={"features": features}) for one in plan.classes)
        varied = plan.model_copy(update={"classes": classes})
        for start in (head, cosine(head)):
            found = retrain_head(kept, start, varied, steps=5)
            assert bool(found.weight.isfinite().all()), method
            assert not equal(found, retrain_head(kept, start, plan, steps=5)), method
            nothing = retrain_head(kept, start, scaled(varied, 0.0), steps=5)
            if method != "manifold_mixup":
                torch.testing.assert_close(nothing.weight, retrain_head(kept, start, plan, steps=5).weight)


def test_embeddings_are_left_alone(sides: Sides) -> None:
    features, labels = synthetic([30, 10, 4], "small")
    head = synthetic_head(features, labels, 3)
    side = embeddings_of(features.clone(), labels, head)
    retrain_head(side, head, even_plan(torch.tensor([30, 10, 4])), steps=3)
    assert torch.equal(side.features, features)
    assert equal(head, synthetic_head(features, labels, 3))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_are_those_of_torch_to_the_last_bit(momentum: float) -> None:
    features, labels = torch.randn(30, 8, 5), torch.randint(3, (30, 8))
    head = LinearHead(weight=torch.randn(3, 5), bias=torch.randn(3))
    pairs = [[value.clone().requires_grad_() for value in (head.weight, head.bias)] for _ in range(2)]
    groups = [{"params": pairs[0][:1], "weight_decay": 1e-3}, {"params": pairs[0][1:], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.3, momentum=momentum, foreach=False)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    descent = Descent(pairs[1], [1e-3, 0.0], 0.3, momentum=momentum, steps=30)
    for rows, targets in zip(features, labels, strict=True):
        optimizer.zero_grad()
        functional.cross_entropy(functional.linear(rows, *pairs[0]), targets).backward()
        optimizer.step()
        schedule.step()
        loss = functional.cross_entropy(functional.linear(rows, *pairs[1]), targets)
        descent.down(torch.autograd.grad(loss, pairs[1]))
    assert all(torch.equal(one, other) for one, other in zip(*pairs, strict=True))
    assert not torch.equal(pairs[0][0], head.weight)


@pytest.mark.parametrize("strength", [0.0, 0.7])
@pytest.mark.parametrize("shared", [False, True])
def test_gradients_are_those_of_autograd(strength: float, shared: bool) -> None:
    """Of two heads side by side, which see other features, and where labels are mixed other targets."""
    features, labels = torch.randn(2, 40, 7), torch.randint(3, (1, 40))
    targets = torch.rand(2, 40, 3).softmax(2) if shared else labels
    weight, bias, log_prior = torch.randn(2, 3, 7), torch.randn(2, 3), torch.tensor([0.7, 0.2, 0.1]).log()
    pull = pull_of(targets[:, None], weight)[:, 0]
    got = gradients(weight, bias, features, pull, strength * log_prior if strength else None)
    for place in range(2):
        learned = [value[place].clone().requires_grad_() for value in (weight, bias)]
        logits = functional.linear(features[place], *learned)
        loss = prior_corrected_cross_entropy(logits, targets[place if shared else 0], log_prior, strength)
        for one, other in zip(got, torch.autograd.grad(loss, learned), strict=True):
            torch.testing.assert_close(one[place], other)


@pytest.mark.parametrize("method", ["eos", "manifold_mixup", "isda"])
def test_heads_side_by_side_are_those_of_one_after_the_other(sides: Sides, method: str) -> None:
    train, _, head = sides
    plan = plan_with(train, training=0.5)
    features = (FeaturePolicy(method=method, strength=0.6, share=0.5),)
    classes = tuple(one.model_copy(update={"features": features}) for one in plan.classes)
    plans = [scaled(plan.model_copy(update={"classes": classes}), factor) for factor in (0.0, 0.5, 1.5)]
    recipe = HeadRecipe(steps=66, batch_size=32)
    together = retrain_by_strength(train, head, plans, recipe)
    for one, found in zip(plans, together, strict=True):
        torch.testing.assert_close(found.weight, retrain_with(train, head, one, recipe).weight, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together[0].weight, together[2].weight, atol=1e-3)
