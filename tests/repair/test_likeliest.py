"""Between heads that held-out rows cannot tell apart by accuracy, the likelihood decides."""

import dataclasses

import pytest
import torch
from torch.nn import functional

import diversify as dv
from diversify.repair.candidate import Candidate
from diversify.repair.choose import choose_head
from diversify.repair.likeliest import likeliest, tempered_losses

EVEN = torch.full((3,), 1 / 3)


@pytest.fixture(scope="module")
def noisy():
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    return 2.0 * functional.one_hot(labels, 3) + torch.randn(60, 3), labels


def test_the_factor_is_the_best_of_many(noisy):
    logits, labels = noisy
    found = float(tempered_losses(logits, labels, EVEN).mean())
    factors = torch.logspace(-2, 2, 2001, dtype=torch.float64)
    tried = [float(functional.cross_entropy(factor * logits.double(), labels)) for factor in factors]
    assert found == pytest.approx(min(tried), abs=1e-5)
    assert found <= min(tried) + 1e-9


def test_the_scale_of_logits_and_what_is_added_to_all_do_not_matter(noisy):
    logits, labels = noisy[0].double(), noisy[1]
    wanted = tempered_losses(logits, labels, EVEN)
    for factor in (1e-6, 1e4):
        torch.testing.assert_close(tempered_losses(factor * logits + 7.0, labels, EVEN), wanted, rtol=1e-5, atol=1e-5)


def test_classes_weigh_as_the_shares_say(noisy):
    logits, labels = noisy
    share = torch.tensor([0.8, 0.2, 0.0])
    weight = share[labels] / 20
    least = min(
        float((weight * functional.cross_entropy(factor * logits, labels, reduction="none")).sum())
        for factor in torch.logspace(-2, 2, 2001)
    )
    assert float((weight * tempered_losses(logits, labels, share)).sum()) == pytest.approx(least, abs=1e-4)


@pytest.mark.parametrize("logits", [torch.zeros(4, 2), torch.tensor([[9.0, 0.0], [8.0, 0.0], [0.0, 7.0], [0.0, 6.0]])])
def test_useless_and_perfect_logits_have_finite_losses(logits):
    losses = tempered_losses(logits, torch.tensor([0, 0, 1, 1]), torch.tensor([0.5, 0.5]))
    wanted = 2 * [float(torch.tensor(2.0).log())] + [0.0] if not bool(logits.any()) else [0.0]
    assert bool(losses.isfinite().all())
    torch.testing.assert_close(losses.mean(), torch.tensor(wanted[0], dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_class_that_is_never_predicted_hides_nothing():
    labels = torch.tensor([0, 1, 0, 1])
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.0], [0.0, 2.0, 0.0]])
    share = torch.tensor([0.5, 0.5, 0.0])
    never = logits - torch.tensor([0.0, 0.0, 1e30])
    wanted = tempered_losses(logits[:, :2], labels, share[:2])
    torch.testing.assert_close(tempered_losses(never, labels, share), wanted, atol=1e-3, rtol=0)


def test_what_is_surely_less_accurate_is_never_taken():
    labels = torch.arange(200) % 2
    right = torch.stack([torch.ones(200), (torch.arange(200) < 150).float()])
    losses = torch.stack([torch.full((200,), 3.0), torch.zeros(200)])
    assert likeliest(right, losses, labels, torch.tensor([0.5, 0.5])) == 0
    place = torch.arange(200)
    almost = torch.stack([(place >= 6).float(), (place < 193).float()])  # 6 and 7 wrong rows
    assert likeliest(almost, losses, labels, torch.tensor([0.5, 0.5])) == 1


def test_the_head_that_gives_true_classes_more_probability_is_recommended():
    train, heldout, head = dv.make_embeddings()
    blunt = dv.refit_head(train, head)
    noise = torch.zeros(len(head.weight), head.num_features)
    noise[:, :2] = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None]
    near = dataclasses.replace(blunt, weight=blunt.weight + 0.5 * noise)
    candidates = [
        Candidate(name=name, meaning="", options={"": lambda *_, one=one: one})
        for name, one in (("near", near), ("blunt", blunt))
    ]
    found = choose_head(train, heldout, head, candidates)
    loss = dict(zip(found.names, found.columns["loss"].tolist(), strict=True))
    assert loss["blunt"] < loss["near"] < loss["untouched"]
    assert found.names[found.recommended] == "blunt"


def test_where_the_likelihood_decides_against_a_higher_accuracy_the_text_says_so():
    train, heldout, head = dv.make_embeddings()
    same = [Candidate(name=name, meaning="", options={"": lambda *_: dv.refit_head(train, head)}) for name in "ab"]
    found = choose_head(train, heldout, head, same)
    found = dataclasses.replace(found, best=2, recommended=2)
    found.columns["behind"][1] = -0.004
    assert found.in_words().endswith(
        " A is simpler and 0.4 points ahead, less than one standard error, but gives the true classes less probability."
    )


@pytest.mark.parametrize("metric", ["macro-f1", "worst"])
def test_other_metrics_do_without(metric):
    train, heldout, head = dv.make_embeddings()
    found = choose_head(train, heldout, head, dv.default_candidates(train, head)[:2], metric=metric)
    assert "loss" not in found.columns
