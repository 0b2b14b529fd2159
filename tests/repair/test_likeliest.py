"""Between heads that held-out rows cannot tell apart by accuracy, the likelihood decides."""

import dataclasses

import pytest
import torch
from torch.nn import functional

import diversify as dv
from diversify.repair.candidate import Candidate
from diversify.repair.choose import choose_head
from diversify.repair.likeliest import as_likely, likeliest, tempered_losses

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
    for factor in (1e-6, 1e4, 1e8):
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
    found.columns["behind"][2], found.columns["behind"][1], found.columns["behind_error"][2] = 0.004, 0.0, 0.006
    said = " A is only 0.4 points ahead, within one standard error (0.6), but "
    assert found.in_words().endswith(f"{said}is not simpler.")
    found.columns["loss"][1] += 0.01
    assert found.in_words().endswith(f"{said}gives the true classes less probability.")


def test_a_surely_better_head_is_not_given_up_because_a_likelier_one_is_hardly_better() -> None:
    labels = torch.arange(400) % 4
    train, _, _ = dv.make_embeddings((100, 100, 100, 100))
    order = torch.arange(400)
    wrong = {"before": order >= 340, "high": order >= 360, "likely": (order < 4) | (order >= 352)}
    answers = {name: torch.where(each, (labels + 1) % 4, labels) for name, each in wrong.items()}
    sure = {"before": 2.0, "high": 2.5, "likely": 3.0}
    one = torch.eye(4)
    rows = torch.cat([sure[name] * one[answers[name]] for name in wrong], 1)
    rows[wrong["likely"], 8:] = 0.1 * one[answers["likely"][wrong["likely"]]]  # unsure where it is wrong
    rows = torch.cat([rows, torch.zeros(400, 4)], 1)
    heldout = dv.Embeddings(features=rows, labels=labels, logits=torch.zeros(400, 4), indices=torch.arange(400))
    heads = [
        dv.LinearHead(weight=torch.cat([one if place == at else 0 * one for at in range(4)], 1), bias=torch.zeros(4))
        for place in range(3)
    ]
    candidates = [
        Candidate(name=name, meaning="", options={"": lambda *_, made=made: made})
        for name, made in zip(("high", "likely"), heads[1:], strict=True)
    ]
    found = choose_head(train, heldout, heads[0], candidates)
    accuracy = found.columns["balanced_accuracy"].tolist()
    assert accuracy == pytest.approx([0.85, 0.9, 0.87])
    loss = found.columns["loss"]
    assert int(loss.argmin()) == 2
    assert found.recommended != 0
    assert "leave the head" not in found.in_words()


@pytest.mark.parametrize("unsure", [1, 40])
def test_equal_accuracy_keeps_the_untouched_head_only_where_its_loss_is_not_surely_higher(unsure: int) -> None:
    """Both heads are wrong on the same 40 of 400 rows; the other is less sure on some of these, and on one where it is right."""
    labels = torch.arange(400) % 4
    order, one = torch.arange(400), torch.eye(4)
    named = torch.where(order % 10 == 9, (labels + 1) % 4, labels)
    less = (order % 10 == 9) & (order < 10 * unsure) | (order == 0)
    humble = torch.where(less[:, None], 0.1 * one[named], 3 * one[named])
    features = torch.cat([3 * one[named], humble], 1)
    heldout = dv.Embeddings(features=features, labels=labels, logits=torch.zeros(400, 4), indices=order)
    train = dv.Embeddings(features=features, labels=labels, logits=torch.zeros(400, 4), indices=order + 400)
    heads = [
        dv.LinearHead(weight=torch.cat([one * (place == at) for at in range(2)], 1), bias=torch.zeros(4))
        for place in range(2)
    ]
    other = Candidate(name="humble", meaning="", options={"": lambda *_: heads[1]})
    found = choose_head(train, heldout, heads[0], [other])
    assert found.columns["gain"].tolist() == [0.0, 0.0]
    assert float(found.columns["loss"][1]) < float(found.columns["loss"][0])
    assert found.names[found.recommended] == ("humble" if unsure == 40 else "untouched")
    assert ("its loss is lower than the untouched head's by more than one standard error" in found.in_words()) == (
        unsure == 40
    )
    assert ("leave the head as it is" in found.in_words()) == (unsure == 1)


def test_losses_are_compared_by_the_rows_that_count_and_to_three_digits() -> None:
    labels, share = torch.tensor([0, 0, 1, 1]), torch.tensor([0.5, 0.5])
    endless = torch.tensor([0.1, torch.inf, 0.1, 0.1])
    assert as_likely(endless, endless, labels, share)
    assert as_likely(torch.full((4,), 0.1), endless, labels, share)
    assert not as_likely(endless, torch.full((4,), 0.1), labels, share)
    assert as_likely(endless, torch.full((4,), 9.0), labels, torch.tensor([0.0, 1.0]))
    assert as_likely(torch.full((4,), 0.1004), torch.full((4,), 0.1), labels, share)
    assert not as_likely(torch.full((4,), 0.101), torch.full((4,), 0.1), labels, share)


def test_what_beats_another_in_accuracy_and_loss_is_never_passed_over_for_it() -> None:
    labels = torch.arange(400) % 2
    place = torch.arange(400)
    right = torch.stack([(place >= 20), (place >= 25), (place < 374)]).float()
    losses = torch.stack([torch.full((400,), value) for value in (0.199, 0.05, 0.074)])
    share = torch.tensor([0.5, 0.5])
    taken = likeliest(right, losses, labels, share)
    assert taken == 1
    assert right[taken].mean() >= right[2].mean()


def test_losses_that_are_equal_in_three_digits_leave_it_to_the_order_and_nan_never_wins() -> None:
    labels = torch.arange(40) % 2
    right = torch.ones(3, 40)
    share = torch.tensor([0.5, 0.5])
    assert likeliest(right, torch.tensor([0.5, 0.3004, 0.3001])[:, None].expand(3, 40), labels, share) == 1
    assert likeliest(right, torch.tensor([torch.nan, 0.9, torch.nan])[:, None].expand(3, 40), labels, share) == 1


def test_the_factor_is_that_of_all_rows() -> None:
    torch.manual_seed(1)
    labels = torch.arange(10_000) % 10
    logits = 8.0 * functional.one_hot(labels, 10) + torch.randn(10_000, 10)
    for row in (3, 5003):  # two wrong rows, which a part of the rows need not contain
        logits[row] = logits[row].roll(1)
    found = float(tempered_losses(logits, labels, torch.full((10,), 0.1)).mean())
    factors = torch.logspace(-2, 1, 601, dtype=torch.float64)
    least = min(float(functional.cross_entropy(factor * logits.double(), labels)) for factor in factors)
    assert found == pytest.approx(least, rel=1e-3)


@pytest.mark.parametrize("metric", ["macro-f1", "worst"])
def test_other_metrics_do_without(metric):
    train, heldout, head = dv.make_embeddings()
    found = choose_head(train, heldout, head, dv.default_candidates(train, head)[:2], metric=metric)
    assert "loss" not in found.columns
