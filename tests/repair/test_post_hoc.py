"""Repairs without training: logit adjustment, tau normalisation and class means, and their limits."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from diversify.errors import InputError
from diversify.functional import counts
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.repair.post_hoc import adjust_logits, log_prior_of, nearest_mean, normalize_tau

Sides = tuple[Embeddings, Embeddings, LinearHead]


def cosine(head: LinearHead) -> LinearHead:
    return dataclasses.replace(head, bias=torch.zeros_like(head.bias), cosine=True, scale=8.0)


def equal(one: LinearHead, other: LinearHead) -> bool:
    return torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


@pytest.mark.parametrize("shape", [lambda head: head, cosine], ids=["plain", "cosine"])
def test_an_adjusted_head_gives_the_logits_less_the_log_prior(sides: Sides, shape) -> None:
    train, heldout, head = sides
    head, prior = shape(head), log_prior_of(counts.class_counts(train.labels, 10))
    found = adjust_logits(head, prior, 1.5).logits(heldout.features)
    torch.testing.assert_close(found, head.logits(heldout.features) - 1.5 * prior, atol=1e-4, rtol=1e-5)
    assert equal(adjust_logits(head, prior, 0.0), head)


def test_a_class_without_images_has_the_prior_of_the_rarest() -> None:
    prior = log_prior_of(torch.tensor([6, 0, 2]))
    torch.testing.assert_close(prior.exp(), torch.tensor([0.75, 0.25, 0.25]))
    with pytest.raises(InputError, match="at least one image"):
        log_prior_of(torch.zeros(3, dtype=torch.int64))


def test_tau_norm_makes_the_rows_equally_long_and_leaves_their_directions(sides: Sides) -> None:
    head = sides[2]
    found = normalize_tau(head, 1.0)
    norms = found.weight.norm(dim=1)
    torch.testing.assert_close(norms, norms.mean().expand(10))
    torch.testing.assert_close(norms.log().mean(), head.weight.norm(dim=1).log().mean())
    torch.testing.assert_close(functional.normalize(found.weight), functional.normalize(head.weight))
    assert equal(normalize_tau(head, 0.0), head)
    assert equal(normalize_tau(cosine(head), 2.0), cosine(head))


def test_tau_norm_leaves_a_row_of_zeros() -> None:
    head = LinearHead(weight=torch.tensor([[0.0, 0.0], [3.0, 4.0]]), bias=torch.tensor([1.0, 2.0]))
    found = normalize_tau(head, 1.0)
    assert bool(found.weight.isfinite().all())
    assert float(found.bias[0]) == 1.0


@pytest.mark.parametrize("like", [None, "cosine"])
def test_the_nearest_mean_is_the_one_by_distance_or_angle(sides: Sides, like: str | None) -> None:
    train, heldout, head = sides
    kept = train.select(train.labels != 4)
    found = nearest_mean(kept, like=cosine(head) if like else None)
    predicted = found.logits(heldout.features).argmax(1)
    rows = [functional.normalize(side.features) if like else side.features for side in (kept, heldout)]
    means = torch.stack([rows[0][kept.labels == c].mean(0) for c in range(10) if c != 4])
    near = rows[1] @ functional.normalize(means).T if like else -torch.cdist(rows[1], means)
    classes = torch.tensor([c for c in range(10) if c != 4])
    assert torch.equal(predicted, classes[near.argmax(1)])


def test_a_class_without_rows_is_never_the_nearest() -> None:
    features = torch.tensor([[-5.0, 0.0], [-6.0, 0.0], [-7.0, 1.0]])
    labels = torch.tensor([0, 0, 1])
    side = Embeddings(features=features, labels=labels, logits=torch.zeros(3, 3), indices=torch.arange(3))
    for like in (None, cosine(LinearHead(weight=torch.ones(3, 2), bias=torch.zeros(3)))):
        assert (
            int(
                nearest_mean(side, like=like)
                .logits(1e6 * torch.randn(64, 2, generator=torch.Generator()))
                .argmax(1)
                .max()
            )
            < 2
        )
