"""A head chosen with held-out rows to learn from, and by its worst classes."""

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
from diversify.repair.choice import HeadChoice
from diversify.repair.metric import Metric, objective_of
from diversify.repair.retrain import HeadRecipe

SHORT = HeadRecipe(steps=20, batch_size=32)
LABELS = torch.arange(6).repeat_interleave(4)
PREDICTED = LABELS.clone()
PREDICTED[[0, 1, 2, 4, 5, 8]] = 5  # recalls of 1/4, 1/2, 3/4, 1, 1, 1


@pytest.fixture(scope="module")
def rows() -> tuple[Embeddings, Embeddings, LinearHead]:
    return dv.make_embeddings()


@pytest.fixture(scope="module")
def listed(rows) -> tuple[Candidate, ...]:
    train, heldout, head = rows
    plan = dv.Plan.from_counts(list("abcd"), [200, 80, 30, 10])
    return default_candidates(train, head, plan=plan, recipe=SHORT, unseen=heldout, offsets=True)


def test_objectives_are_what_they_say() -> None:
    mean = 4.5 / 6
    for objective, wanted in {"worst": 0.25, "worst third": 0.375, 0.2: 0.8 * mean + 0.2 * 0.25, 1: 0.25}.items():
        metric = objective_of("balanced", objective)
        assert metric is not None
        assert float(metric.value(PREDICTED[None], LABELS, 6)) == pytest.approx(wanted)
        low, high = metric.interval(PREDICTED[None], LABELS, 6)
        assert low < wanted < high
        assert metric.difference(PREDICTED[None], PREDICTED[None], LABELS, 6)[0] == 0
        gain, error = metric.difference(LABELS[None], PREDICTED[None], LABELS, 6)
        assert gain == pytest.approx(1 - wanted)
        assert 0 < error < 1
    assert objective_of("balanced", "mean") is None
    assert objective_of("macro-f1", 0.0) is None


def test_the_worst_class_is_as_it_was_as_a_metric() -> None:
    found, named = objective_of("balanced", "worst"), Metric(name="worst")
    assert found is not None
    assert found.name == "worst"
    assert float(named.value(PREDICTED[None], LABELS, 7)) == 0.25  # a seventh class without rows does not count


def test_the_objective_mean_changes_nothing(rows) -> None:
    train, heldout, head = rows
    some = default_candidates(train, head, recipe=SHORT)[:5]
    plain = dv.choose_head(train, heldout, head, some, repeats=1).to_dict()
    assert dv.choose_head(train, heldout, head, some, repeats=1, objective="mean").to_dict() == plain
    assert dv.choose_head(train, heldout, head, some, repeats=1, objective=0).to_dict() == plain


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


def test_the_curve_holds_every_round_and_comes_back(rows, listed) -> None:
    train, heldout, head = rows
    some = [one for one in listed if one.name in ("untouched", "class offsets")]
    found = dv.choose_head(train, heldout, head, some, objective="worst third", repeats=1)
    assert (found.metric, found.objective) == ("worst third", "worst third")
    assert [one.option for one in found.curve] == ["", "0 rounds", "2 rounds", "4 rounds", "8 rounds", "16 rounds"]
    assert sum(one.chosen for one in found.curve) == (found.recommended > 0)
    first = found.curve[0]
    assert first.mean == pytest.approx(
        float((head.logits(heldout.features).argmax(1) == heldout.labels).float().mean())
    )
    assert first.worst <= first.worst_third <= first.mean
    again = HeadChoice.from_dict(found.to_dict())
    assert again.to_dict() == found.to_dict()
    assert again.fitted_on_heldout is (found.recommended > 0)
    assert "worst third of classes" in found.in_words()


def test_an_older_record_has_no_curve(rows) -> None:
    train, heldout, head = rows
    record = dv.choose_head(train, heldout, head, default_candidates(train, head)[:2], repeats=1).to_dict()
    for name in ("objective", "curve", "fits_heldout"):
        del record[name]
    old = HeadChoice.from_dict(record)
    assert (old.objective, old.curve, old.fitted_on_heldout) == ("mean", (), False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"objective": "wurst"},
            r"^objective must be one of mean, worst, worst third, or a number in \[0, 1\], got 'wurst'$",
        ),
        ({"objective": 1.2}, r"^objective must be one of mean, worst, worst third, or a number in \[0, 1\], got 1\.2$"),
        ({"objective": True}, "^objective must be one of mean"),
        ({"objective": float("nan")}, "^objective must be one of mean"),
        (
            {"objective": "worst", "metric": "macro-f1"},
            "^objective must be mean for metric=macro-f1, got worst; use metric=balanced$",
        ),
        ({"unseen": "all"}, "^unseen must be one of heldout, none, got 'all'$"),
        (
            {"unseen": "heldout", "candidates": ()},
            r"^unseen must be left out where candidates are given, got 'heldout'; make candidates with ",
        ),
    ],
)
def test_what_cannot_be_is_refused(rows, given: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dv.choose_head(*rows, **given)


def test_offsets_need_held_out_rows(rows) -> None:
    with pytest.raises(InputError, match="^unseen must be given where offsets is True"):
        default_candidates(rows[0], rows[2], offsets=True)


def test_a_head_without_bias_is_offered_only_what_needs_none(rows) -> None:
    train, heldout, head = rows
    found = default_candidates(train, head, recipe=HeadRecipe(steps=5, bias=False), unseen=heldout, offsets=True)
    learning = [one.name for one in found if one.fits_heldout]
    assert learning == ["unseen alone", "even draws + unseen"]
