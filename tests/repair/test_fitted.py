"""What is fitted on held-out rows by likelihood: a slope, a bias per class, a temperature, and rounds toward the worst class."""

import dataclasses

import pytest
import torch
from torch import Tensor

import diversify as dv
from diversify.functional import counts, draws
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.repair.fitted import bias_fitted, fit_slope, slope_fitted
from diversify.repair.post_hoc import adjust_logits, log_prior_of

COUNTS = (200, 80, 30, 10)


@pytest.fixture(scope="module")
def rows() -> tuple[Embeddings, Embeddings, LinearHead]:
    return dv.make_embeddings(COUNTS)


def equal(one: LinearHead, other: LinearHead) -> bool:
    return torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


def of_logits(logits: Tensor, labels: Tensor) -> tuple[Embeddings, LinearHead]:
    """Embeddings whose features are their logits, and the head that passes them on."""
    classes = logits.shape[1]
    rows = Embeddings(features=logits, labels=labels, logits=logits, indices=torch.arange(len(labels)))
    return rows, LinearHead(weight=torch.eye(classes), bias=torch.zeros(classes))


def drawn(classes: int, number: int, tau: float, prior: Tensor, scale: float = 1.0) -> tuple[Embeddings, LinearHead]:
    """Rows of equally frequent classes; their logits are `scale` times true ones that are off by `tau` log priors."""
    labels = torch.arange(classes).repeat(number)
    noise = draws.normal("drawn", torch.arange(len(labels) * classes)).view(-1, classes)
    true = 3.0 * (1.5 * torch.nn.functional.one_hot(labels, classes) + noise) / 2.0
    return of_logits((scale * (true + tau * prior)).float(), labels)


def test_the_slope_is_found() -> None:
    prior = log_prior_of(torch.tensor([1000, 300, 100, 30, 10]))
    for tau in (0.0, 0.7, 1.6):
        rows, head = drawn(5, 400, tau, prior)
        assert fit_slope(rows, head, prior) == pytest.approx(tau, abs=0.12)
        found = slope_fitted(rows, head, prior)
        assert torch.equal(found.bias, adjust_logits(head, prior, fit_slope(rows, head, prior)).bias)


def test_the_slope_does_not_go_by_how_often_classes_are_held_out() -> None:
    prior = log_prior_of(torch.tensor([1000, 100, 10]))
    rows, head = drawn(3, 400, 1.0, prior)
    often = torch.cat([torch.arange(len(rows)), *[(rows.labels == 0).nonzero()[:, 0]] * 5])
    assert fit_slope(rows.select(often), head, prior) == pytest.approx(fit_slope(rows, head, prior), abs=1e-3)


def test_without_rows_everything_fitted_is_logit_adjustment() -> None:
    prior = log_prior_of(torch.tensor([1000, 100, 10]))
    rows, head = drawn(3, 5, 1.0, prior)
    none, wanted = rows.select(torch.arange(0)), adjust_logits(head, prior, 1.0)
    found = bias_fitted(none, head, prior, temperature=True, rounds=(0, 2))
    assert all(equal(one, wanted) for one in [slope_fitted(none, head, prior), *found])


def test_a_bias_is_pulled_to_the_slope_where_rows_are_few() -> None:
    prior = torch.zeros(4)
    rows, head = drawn(4, 200, 0.0, prior)
    off = torch.tensor([2.0, 0.0, 0.0, -2.0])
    rows, head = of_logits(rows.features - off, rows.labels)

    def spread(number: int) -> float:
        (found,) = bias_fitted(rows.select(torch.arange(4 * number)), head, prior)
        return float(found.bias[0] - found.bias[3])

    assert 0 < spread(1) < spread(5) < spread(200)
    assert spread(200) == pytest.approx(4.0, abs=0.5)


def test_a_temperature_is_found() -> None:
    rows, head = drawn(4, 400, 0.0, torch.zeros(4), scale=3.0)
    (cool,), (warm,) = (bias_fitted(rows, head, torch.zeros(4), temperature=on) for on in (False, True))
    assert equal(dataclasses.replace(cool, bias=head.bias), head)
    assert float(warm.weight[0, 0]) == pytest.approx(1 / 3, abs=0.08)


def test_rounds_move_toward_the_class_that_fares_worst() -> None:
    """Class 2 lies between the others and loses to both; the others have room to give."""
    labels = torch.arange(3).repeat(200)
    noise = draws.normal("hard", torch.arange(len(labels) * 3)).view(-1, 3)
    logits = 2 * torch.tensor([[2.0, 0, 0.5], [0, 2.0, 0.5], [0.5, 0.5, 0.9]])[labels] + 1.2 * noise
    rows, head = of_logits(logits.float(), labels)

    def recalls(found: LinearHead) -> Tensor:
        right = found.logits(rows.features).argmax(1) == labels
        return counts.class_mean(right.double(), labels, 3)

    made = [recalls(one) for one in bias_fitted(rows, head, torch.zeros(3), rounds=(0, 4, 16))]
    worst = [float(one.min()) for one in made]
    assert worst[0] < worst[1] < worst[2]
    assert float(made[2].mean()) > float(made[0].mean()) - 0.08


def test_a_cosine_head_gets_the_same_logits() -> None:
    _, heldout, plain = dv.make_embeddings(COUNTS)
    head = dataclasses.replace(plain, bias=torch.zeros(4), cosine=True, scale=8.0)
    prior = log_prior_of(torch.tensor(COUNTS))
    (found,) = bias_fitted(heldout, head, prior, temperature=True)
    moved = found.logits(heldout.features) - (found.scale / head.scale) * head.logits(heldout.features)
    assert float((moved - moved[0]).abs().max()) < 1e-4


def test_very_many_rows_are_thinned_class_by_class(monkeypatch: pytest.MonkeyPatch) -> None:
    from diversify.repair import fitted

    monkeypatch.setattr(fitted, "_MOST_ROWS", 40)
    labels = torch.cat([torch.zeros(100), torch.ones(3), torch.full((50,), 2), torch.full((7,), 3)]).long()
    kept = fitted._some_of_each(labels, 4)
    assert counts.class_counts(labels[kept], 4).tolist() == [10, 3, 10, 7]
