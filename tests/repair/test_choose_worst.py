"""A head chosen by its worst classes."""

import dataclasses

import pytest
import torch

import diversify as dv
from diversify.errors import InputError
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.repair.candidate import Candidate
from diversify.repair.candidates import default_candidates
from diversify.repair.choice import HeadChoice
from diversify.repair.comparison import _as_good, _best
from diversify.repair.metric import Metric, objective_of
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


def test_the_objective_mean_changes_nothing(rows) -> None:
    train, heldout, head = rows
    some = default_candidates(train, head, recipe=SHORT)[:5]
    plain = dv.choose_head(train, heldout, head, some, repeats=1).to_dict()
    assert dv.choose_head(train, heldout, head, some, repeats=1, objective="mean").to_dict() == plain
    assert dv.choose_head(train, heldout, head, some, repeats=1, objective=0).to_dict() == plain


@pytest.mark.parametrize(("frequent", "kept"), [(0.43, False), (0.38, True)])
def test_a_worst_class_of_few_rows_does_not_hide_a_better_mean(frequent, kept) -> None:
    labels = torch.arange(3).repeat_interleave(torch.tensor([400, 400, 4]))

    def predicted(recalls):
        hit = torch.cat([torch.arange(n) < round(n * share) for n, share in zip((400, 400, 4), recalls, strict=True)])
        return torch.where(hit, labels, (labels + 1) % 3)[None]

    taken = torch.stack([predicted((0.4, 0.4, 0.25)), predicted((frequent, frequent, 0.5))])
    behind, error = Metric(name="worst").difference(taken[1], taken[0], labels, 3)
    assert 0 < behind <= error  # the worst class alone cannot tell
    assert _as_good(taken, 1, labels, 3, Metric(name="worst")) is kept


def _predictions(*recalls):
    """Of 500, 500, 500 and 6 rows of four classes, these shares are right."""
    sizes = (500, 500, 500, 6)
    labels = torch.arange(4).repeat_interleave(torch.tensor(sizes))
    hit = torch.cat([torch.arange(n) < round(n * share) for n, share in zip(sizes, recalls, strict=True)])
    return labels, torch.where(hit, labels, (labels + 1) % 4)


def test_by_the_worst_class_a_lucky_lowest_recall_does_not_pay_for_a_low_mean() -> None:
    labels, even = _predictions(0.9, 0.9, 0.9, 0.0)
    taken = torch.stack([even, _predictions(0.9, 0.88, 0.9, 0.17)[1], _predictions(0.4, 0.4, 0.4, 0.33)[1]])[:, None]
    assert Metric(name="worst").ranked(taken, labels, 4)[2] > Metric(name="worst").ranked(taken, labels, 4)[1]
    assert _best([0, 1, 2], taken, None, labels, 4, Metric(name="worst")) == 1  # the mean of 2 is surely lower
    assert _best([0, 2], taken, None, labels, 4, Metric(name="worst third")) == 0
    assert _best([0, 1, 2], taken, None, labels, 4, Metric(name="mean and worst", toward_worst=1.0)) == 2


def test_options_are_passed_over_as_candidates_are() -> None:
    """Logits are the features, so that a head with weight 1 predicts what the features say, and a bias moves it."""
    labels = torch.arange(3).repeat_interleave(torch.tensor([200, 200, 40]))
    features = torch.zeros(440, 6)
    for column, recalls in ((0, (0.9, 0.9, 0.3)), (3, (0.58, 0.58, 0.58))):
        hit = torch.cat([torch.arange(n) < round(n * r) for n, r in zip((200, 200, 40), recalls, strict=True)])
        features[torch.arange(440), column + torch.where(hit, labels, (labels + 1) % 3)] = 1.0

    def head(good: float, even: float) -> LinearHead:
        return LinearHead(weight=torch.cat([good * torch.eye(3), even * torch.eye(3)], 1), bias=torch.zeros(3))

    untouched = head(0.5, 0.49)
    sides = [
        Embeddings(features=features, labels=labels, logits=untouched.logits(features), indices=torch.arange(440))
        for _ in range(2)
    ]
    options = {"good": lambda *_: head(1.0, 0.0), "lucky": lambda *_: head(0.0, 1.0)}
    one = Candidate(name="one", meaning="", source="", options=options)
    found = dv.choose_head(*sides, untouched, [one], objective="worst")
    assert found.option(1) == "good"
    assert found.names == ("untouched", "one")
    assert abs(found.overall["gain"]) < 0.05  # what was recommended, not the lucky head
    two = [Candidate(name=name, meaning="", source="", options={"": make}) for name, make in options.items()]
    found = dv.choose_head(*sides, untouched, two, objective="worst")
    assert [found.names[place] for place in found.passed_over] == ["lucky"]
    assert found.ranking[-1] == found.names.index("lucky")
    assert "lucky" not in found.in_words().partition("Passed over")[0]


def test_equal_lowest_recalls_are_told_apart_by_the_lowest_third() -> None:
    labels = torch.arange(6).repeat_interleave(2)
    nothing, half = labels.clone(), labels.clone()
    nothing[:4], half[:2], half[2] = 5, 5, 5  # class 0 is never right in both; class 1 never and half of the time
    ranked = Metric(name="worst").ranked(torch.stack([nothing, half])[:, None], labels, 6)
    assert ranked[0][0] == ranked[1][0] == 0
    assert ranked[1] > ranked[0]
    assert _best([0, 1], torch.stack([nothing, half])[:, None], None, labels, 6, Metric(name="worst")) == 1


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
    learned = dataclasses.replace(found, recommended=1)
    assert learned.fitted_on_heldout
    assert learned.in_words().endswith("This head has learned from all of these held-out images: judge it on others.")
    assert "has learned" not in dataclasses.replace(found, recommended=0).in_words()


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


def test_a_hyphen_in_the_objective_is_read_as_on_the_command_line() -> None:
    found = objective_of("balanced", "worst-third")
    assert found is not None
    assert found.name == "worst third"
