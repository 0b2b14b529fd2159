"""Heads without a bias, and heads with a single logit, are repaired into a form that their module can hold."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import diversify as dv
from diversify import InputError, LinearHead, read_head, write_head
from diversify.functional import counts
from diversify.plan.plan import PriorCorrection
from diversify.repair.candidate import Candidate, even_plan

SHORT = dv.HeadRecipe(steps=20, batch_size=32)
Sides = tuple[dv.Embeddings, dv.Embeddings]


class Cosine(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1)))
        self.bias = nn.Parameter(torch.linspace(-1.0, 1.0, outputs)) if bias else None

    def forward(self, features: Tensor) -> Tensor:
        cosines = functional.linear(functional.normalize(features), functional.normalize(self.weight))
        return 8 * cosines if self.bias is None else 8 * cosines + self.bias


def module_of(head: LinearHead, *, bias: bool) -> nn.Linear:
    module = nn.Linear(head.num_features, head.num_classes, bias=bias)
    with torch.no_grad():
        module.weight.copy_(head.weight)
    return module


@pytest.fixture(scope="module")
def made() -> tuple[dv.Embeddings, dv.Embeddings, LinearHead]:
    return dv.make_embeddings((60, 24, 10), heldout=16, num_features=8)


def seen(made: tuple, module: nn.Module) -> Sides:
    head = read_head(module)
    return tuple(side.seen_by(head) for side in made[:2])


def plan_of(train: dv.Embeddings, **correction: float) -> dv.Plan:
    plan = even_plan(counts.class_counts(train.labels, train.num_classes))
    return plan.model_copy(update={"prior_correction": PriorCorrection(**correction)})


MODULES = {
    "linear": lambda head: module_of(head, bias=False),
    "weight norm": lambda head: nn.utils.parametrizations.weight_norm(module_of(head, bias=False)),
    "half": lambda head: module_of(head, bias=False).bfloat16(),
    "cosine": lambda head: Cosine(head.num_features, head.num_classes, bias=False),
}


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_a_module_without_a_bias_gets_a_head_that_it_can_hold(made, make):
    module = make(made[2])
    assert not read_head(module).has_bias
    train, heldout = seen(made, module)
    found = dv.retrain_head(train, module, plan_of(train), steps=20, batch_size=32)
    assert not found.bias.any()
    write_head(module, found)
    predicted = module(heldout.features.to(next(module.parameters()).dtype)).argmax(1)
    assert (predicted == found.logits(heldout.features).argmax(1)).float().mean() > 0.95


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_the_choice_leaves_out_what_needs_a_bias_and_says_so(made, make):
    module = make(made[2])
    train, heldout = seen(made, module)
    candidates = dv.default_candidates(train, module, recipe=SHORT)
    choice = dv.choose_head(train, heldout, module, candidates, repeats=1)
    assert "logit adjustment" not in choice.names
    assert all(not head.bias.any() for head in choice.heads)
    for head in choice.heads:
        write_head(module, head)
    assert dv.HeadChoice.from_dict(choice.to_dict()).notes == choice.notes


def test_the_note_of_a_choice_names_what_is_missing(made, monkeypatch):
    module = module_of(made[2], bias=False)
    train, heldout = seen(made, module)
    with_bias = dv.default_candidates(train, made[2], recipe=SHORT)[:5]
    found = dv.choose_head(train, heldout, module, with_bias, repeats=1)
    assert found.names == ("untouched", "tau-norm", "even draws")
    assert found.notes == (
        "The head has no bias, so what needs one is not compared: logit adjustment, nearest mean, even draws with a logit"
        " adjustment.",
    )
    from diversify.repair import candidates, choose

    short = dv.default_candidates
    monkeypatch.setattr(choose, "default_candidates", lambda *args, **named: short(*args, recipe=SHORT, **named)[:3])
    by_default = dv.choose_head(train, heldout, module, repeats=1)
    assert by_default.notes == ("The head has no bias, so what needs one is not compared: logit adjustment.",)
    assert candidates.UNTOUCHED in by_default.names
    assert dv.choose_head(train, heldout, made[2], repeats=1).notes == ()


def test_what_a_module_cannot_hold_is_refused_before_training(made, monkeypatch):
    module = module_of(made[2], bias=False)
    train, heldout = seen(made, module)
    from diversify.repair import retrain

    monkeypatch.setattr(retrain, "_trained", lambda *_: pytest.fail("it trained"))
    with pytest.raises(
        InputError, match=r"^prior_correction.after of the plan must be 0 where the head has no bias, got 1"
    ):
        dv.retrain_head(train, module, plan_of(train, after=1.0))
    shifts = Candidate(
        name="shift",
        meaning="A bias.",
        options={"": lambda _, head, __: dataclasses.replace(head, bias=torch.arange(3.0))},
    )
    with pytest.raises(InputError, match=r"^result of candidate 'shift' must have no bias where the head has none"):
        dv.choose_head(train, heldout, module, [shifts], repeats=1)


def test_a_cosine_head_with_a_bias_keeps_trains_and_gets_it_back(made):
    module = Cosine(8, 3, bias=True)
    head = read_head(module)
    assert head.cosine
    assert head.has_bias
    torch.testing.assert_close(head.bias * head.scale, module.bias.detach(), atol=1e-3, rtol=1e-3)
    train, heldout = seen(made, module)
    torch.testing.assert_close(head.logits(heldout.features), module(heldout.features).detach(), atol=1e-3, rtol=1e-3)
    found = dv.retrain_head(train, module, plan_of(train, after=0.5), steps=20, batch_size=32)
    assert not torch.allclose(found.bias, head.bias, atol=1e-3)
    write_head(module, found)
    torch.testing.assert_close(module(heldout.features).detach(), found.logits(heldout.features), atol=1e-2, rtol=1e-3)
    assert "logit adjustment" in dv.choose_head(train, heldout, module, dv.default_candidates(train, module)[:2]).names


@pytest.fixture(scope="module")
def binary() -> tuple[dv.Embeddings, dv.Embeddings, nn.Linear]:
    train, heldout, head = dv.make_embeddings((80, 12), heldout=30, num_features=6)
    module = nn.Linear(6, 1)
    write_head(module, head)
    pair = (side.seen_by(read_head(module)) for side in (train, heldout))
    return (*pair, module)


def test_a_single_logit_is_repaired_as_two_classes_and_written_as_one(binary):
    train, heldout, layer = binary
    module = nn.Linear(6, 1)
    module.load_state_dict(layer.state_dict())
    choice = dv.choose_head(train, heldout, module, dv.default_candidates(train, module, recipe=SHORT), repeats=1)
    assert {"logit adjustment", "nearest mean", "even draws"} <= set(choice.names)
    assert "tau-norm" not in choice.names
    for head in choice.heads:
        assert head.single_logit
        write_head(module, head)
        assert (module.weight.shape, module.bias.shape) == ((1, 6), (1,))
        predicted = (module(heldout.features)[:, 0] > 0).long()
        assert torch.equal(predicted, head.logits(heldout.features).argmax(1))


def test_the_repair_of_a_single_logit_is_that_of_two(binary):
    train, heldout, module = binary
    single = read_head(module)
    two = LinearHead(weight=single.weight, bias=single.bias)
    plan = plan_of(train, training=1.0)
    one, other = (dv.retrain_head(train, head, plan, steps=20, batch_size=32) for head in (single, two))
    torch.testing.assert_close(
        one.logits(heldout.features).softmax(1), other.logits(heldout.features).softmax(1), atol=1e-5, rtol=1e-4
    )
