"""Candidates that learn from held-out rows: none is judged on a row that it was fitted on."""

import dataclasses

import pytest
import torch

import diversify as dv
from diversify.errors import InputError
from diversify.functional import draws
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.repair.candidate import Candidate
from diversify.repair.candidates import default_candidates
from diversify.repair.retrain import HeadRecipe

SHORT = HeadRecipe(steps=20, batch_size=32)


@pytest.fixture(scope="module")
def rows() -> tuple[Embeddings, Embeddings, LinearHead]:
    return dv.make_embeddings()


@pytest.fixture(scope="module")
def listed(rows) -> tuple[Candidate, ...]:
    train, heldout, head = rows
    plan = dv.Plan.from_counts(list("abcd"), [200, 80, 30, 10])
    return default_candidates(train, head, plan=plan, recipe=SHORT, unseen=heldout, offsets=True)


def test_others_keep_their_numbers_beside_what_learns_from_held_out_rows(rows, listed) -> None:
    train, heldout, head = rows
    usual = [one for one in listed if not one.fits_heldout]
    assert [one.name for one in usual] == [one.name for one in listed[: len(usual)]]
    some, more = [*usual[:2], usual[-1]], [one for one in listed if one.name in ("fitted slope", "fitted bias")]
    plain = dv.choose_head(train, heldout, head, some, repeats=1)
    joined = dv.choose_head(train, heldout, head, [*some, *more], repeats=1)
    assert torch.equal(joined.columns["balanced_accuracy"][: len(some)], plain.columns["balanced_accuracy"])
    assert joined.fits_heldout == (False,) * 3 + (True,) * 2


def test_no_row_is_judged_by_a_head_that_was_fitted_on_it() -> None:
    """Features and labels of held-out rows have nothing to do with each other, so who is right learned them by heart."""
    train = dv.make_embeddings()[0]
    noise = draws.normal("noise", torch.arange(80 * 64)).view(80, 64).float()
    labels = torch.arange(80) % 4
    head = LinearHead(weight=draws.normal("w", torch.arange(256)).view(4, 64).float(), bias=torch.zeros(4))
    side = Embeddings(features=noise, labels=labels, logits=head.logits(noise), indices=torch.arange(80))
    more = draws.normal("train", torch.arange(80 * 64)).view(80, 64).float()
    train = dataclasses.replace(side, features=more, logits=head.logits(more))
    candidates = default_candidates(train, head, recipe=HeadRecipe(steps=100, batch_size=64), unseen=side)
    some = [one for one in candidates if one.name in ("unseen alone", "even draws + unseen", "temperature + bias")]
    found = dv.choose_head(train, side, head, some, repeats=1)
    assert float(found.columns["balanced_accuracy"].max()) < 0.45
    alone = found.heads[found.names.index("unseen alone")]
    assert float((alone.logits(noise).argmax(1) == labels).float().mean()) > 0.9  # so the final head does know them


def test_offsets_need_held_out_rows(rows) -> None:
    with pytest.raises(InputError, match="^unseen must be given where offsets is True"):
        default_candidates(rows[0], rows[2], offsets=True)


def test_a_head_without_bias_is_offered_only_what_needs_none(rows) -> None:
    train, heldout, head = rows
    found = default_candidates(train, head, recipe=HeadRecipe(steps=5, bias=False), unseen=heldout, offsets=True)
    learning = [one.name for one in found if one.fits_heldout]
    assert learning == ["unseen alone", "even draws + unseen", "logistic regression + unseen"]
