"""The metrics that a head is chosen by: their values, their errors, and where the correction aims."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score
from torch import Tensor

from diversify.errors import InputError
from diversify.functional import counts, draws
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.repair.candidate import Candidate
from diversify.repair.candidates import default_candidates
from diversify.repair.choice import HeadChoice
from diversify.repair.choose import choose_head
from diversify.repair.metric import TITLES, Metric, balanced_difference, metric_of, objective_of
from diversify.repair.post_hoc import log_prior_of

Sides = tuple[Embeddings, Embeddings, LinearHead]

ROWS = torch.tensor([60, 30, 12, 5])
LABELS = torch.repeat_interleave(torch.arange(4), ROWS)
PRIOR = torch.tensor([0.7, 0.2, 0.1, 0.0], dtype=torch.float64)
COST = torch.tensor([[0, 1, 2, 1], [3, 0, 1, 1], [9, 1, 0, 2], [4, 4, 4, 0]], dtype=torch.float64)
METRICS = {
    "balanced": Metric(),
    "prior": Metric(name="prior", target_prior=PRIOR),
    "macro-f1": Metric(name="macro-f1"),
    "macro-f1 under a prior": Metric(name="macro-f1", target_prior=PRIOR),
    "worst": Metric(name="worst"),
    "cost": Metric(name="cost", cost=COST),
    "cost under a prior": Metric(name="cost", cost=COST, target_prior=PRIOR),
}


def predictions(name: str, repeats: int = 1, wrong: float = 0.3) -> Tensor:
    """Predictions of which a share is replaced by any class, `(R, N)`."""
    cell = torch.arange(repeats * len(LABELS)).view(repeats, -1)
    other = draws.integers(torch.tensor(4), f"{name} class", cell)
    return torch.where(draws.uniform(name, cell) < wrong, other, LABELS).int()


def plain(name: str, predicted: list[int], labels: list[int]) -> float:
    """The metric in plain Python, row by row."""
    classes = sorted(set(labels))
    rows = {c: [p for p, y in zip(predicted, labels, strict=True) if y == c] for c in classes}
    recall = {c: sum(p == c for p in rows[c]) / len(rows[c]) for c in classes}
    if name == "balanced":
        return sum(recall.values()) / len(classes)
    if name == "worst":
        return min(recall.values())
    if name == "prior":
        return sum(float(PRIOR[c]) * recall[c] for c in classes)
    paid = {c: sum(float(COST[c][p]) for p in rows[c]) / len(rows[c]) for c in classes}
    if name == "cost":
        return -sum(paid.values()) / len(classes)
    if name == "cost under a prior":
        return -sum(float(PRIOR[c]) * paid[c] for c in classes)
    if name == "macro-f1":
        return float(f1_score(labels, predicted, average="macro", labels=classes))
    weight = [float(PRIOR[y]) / len(rows[y]) for y in labels]
    present = [c for c in classes if PRIOR[c] > 0]
    return float(f1_score(labels, predicted, average="macro", labels=present, sample_weight=weight))


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_what_its_definition_says(name: str) -> None:
    batch = torch.stack([predictions("a"), predictions("b")])
    found = METRICS[name].value(batch, LABELS, 4)
    wanted = [plain(name, one[0].tolist(), LABELS.tolist()) for one in batch]
    assert found.tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("name", METRICS)
def test_a_class_without_held_out_rows_does_not_count(name: str) -> None:
    kept = LABELS != 3
    predicted, labels = predictions("a")[:, kept], LABELS[kept]
    found = float(METRICS[name].value(predicted, labels, 4))
    assert found == pytest.approx(plain(name, predicted[0].tolist(), labels.tolist()))


@pytest.mark.parametrize("name", METRICS)
def test_the_standard_error_is_that_of_rows_drawn_again(name: str) -> None:
    """On many rows, beside which the two that are added vanish, against a bootstrap within classes."""
    metric, times = METRICS[name], 8
    one, other = (torch.cat([predictions(f"{key} {turn}") for turn in range(times)], 1) for key in "ab")
    labels = LABELS.repeat(times)
    _, error = metric.difference(one, other, labels, 4)
    drawn = []
    members = [(labels == c).nonzero().flatten() for c in range(4)]
    for turn in range(200):
        again = torch.cat(
            [rows[draws.integers(torch.tensor(len(rows)), "again", turn, torch.arange(len(rows)))] for rows in members]
        )
        values = (metric.value(side[:, again], labels[again], 4) for side in (one, other))
        drawn.append(next(values) - next(values))
    spread = float(torch.stack(drawn).std())
    assert spread * 0.8 < error < spread * (1.6 if name == "worst" else 1.35)


@pytest.mark.parametrize("name", METRICS)
def test_the_interval_holds_the_value_and_is_never_of_width_zero(name: str) -> None:
    metric = METRICS[name]
    for wrong in (0.0, 0.3, 1.0):
        predicted = predictions("a", 2, wrong)
        low, high = metric.interval(predicted, LABELS, 4)
        value = float(metric.value(predicted, LABELS, 4))
        assert low <= value + 1e-9
        assert high >= value - 1e-9
        assert high > low
    perfect = LABELS[None].int()
    _, error = metric.difference(perfect, perfect, LABELS, 4)
    assert error > 0


def test_a_cost_of_one_for_every_mistake_is_one_less_the_balanced_accuracy() -> None:
    metric = Metric(name="cost", cost=1 - torch.eye(4, dtype=torch.float64))
    one, other = predictions("a", 2), predictions("b", 2)
    assert float(metric.value(one, LABELS, 4)) == pytest.approx(float(Metric().value(one, LABELS, 4)) - 1)
    right = [(each == LABELS).double().mean(0) for each in (one, other)]
    wanted = balanced_difference(*right, LABELS, 4)
    assert metric.difference(one, other, LABELS, 4) == pytest.approx(wanted)
    even = Metric(name="prior", target_prior=torch.full((4,), 0.25, dtype=torch.float64))
    assert even.difference(one, other, LABELS, 4) == pytest.approx(wanted)
    assert even.interval(one, LABELS, 4) == pytest.approx(Metric().interval(one, LABELS, 4))


# Choosing by them


@pytest.fixture(scope="module")
def small(sides: Sides) -> tuple[Candidate, ...]:
    train, _, head = sides
    return default_candidates(train, head)[:3]


def test_equal_shares_choose_as_the_balanced_accuracy_does(sides: Sides) -> None:
    train, heldout, head = sides
    small = [Candidate(name="adjusted", meaning="", options={"": lambda *_: head}, taus=(1.0,))]
    found = choose_head(train, heldout, head, small, metric="prior", target_prior=[0.1] * 10)
    plainly = choose_head(train, heldout, head, small)
    assert found.times_chosen == plainly.times_chosen
    torch.testing.assert_close(found.score, plainly.columns["balanced_accuracy"])
    for name, values in plainly.columns.items():
        torch.testing.assert_close(found.columns[name], values, equal_nan=True)


def test_the_correction_aims_at_the_target_prior(sides: Sides) -> None:
    train, heldout, head = sides
    target = torch.tensor([0.3, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.0], dtype=torch.float64)
    keep = {"": lambda *_: head}
    listed = [
        Candidate(name="adjusted", meaning="", options=keep, taus=(0.5,)),
        Candidate(name="even", meaning="", options=keep, taus=(0.5,), balances=True),
    ]
    found = choose_head(train, heldout, head, listed, metric="prior", target_prior=target, repeats=1)
    prior, share = log_prior_of(counts.class_counts(train.labels, 10))[:9], target[:9].float().log()
    moved = [(one.bias - head.bias)[:9] for one in found.heads]
    wanted = [torch.zeros(9), -0.5 * (prior - share), -0.5 * prior + share]
    for one, other in zip(moved, wanted, strict=True):  # but for what is added to every logit alike
        torch.testing.assert_close(one - one[0], other - other[0], atol=1e-4, rtol=1e-4)
    for one in found.heads[1:]:
        assert bool(one.bias.isfinite().all())
        assert 9 not in one.logits(heldout.features).argmax(1), "a class that never occurs is never predicted"


def test_the_training_shares_as_target_leave_the_head_as_it_is(sides: Sides, small: tuple[Candidate, ...]) -> None:
    """A class counts as much as it did in training: the adjustment takes nothing off."""
    train, heldout, head = sides
    share = counts.class_counts(train.labels, 10).double() / len(train)
    found = choose_head(train, heldout, head, small, metric="prior", target_prior=share)
    assert float(found.columns["gain"][1]) == 0.0
    torch.testing.assert_close(found.heads[1].bias - found.heads[1].bias[0], head.bias - head.bias[0])


def test_each_metric_is_chosen_by_kept_and_named(sides: Sides) -> None:
    train, heldout, head = sides
    head = dataclasses.replace(head, bias=head.bias + 2 * log_prior_of(counts.class_counts(train.labels, 10)))
    small = default_candidates(train, head)[:3]
    options = {
        "prior": {"target_prior": [0.55] + [0.05] * 9},
        "macro-f1": {},
        "worst": {},
        "cost": {"cost": 10 * (1 - torch.eye(10))},
    }
    for name, more in options.items():
        found = choose_head(train, heldout, head, small, metric=name, repeats=1, **more)
        assert found.best == int(found.score.argmax())
        assert bool((found.score_low <= found.score).all() and (found.score <= found.score_high).all())
        again = HeadChoice.from_dict(found.to_dict())
        assert (again.metric, again.target_prior, again.cost) == (name, found.target_prior, found.cost)
        torch.testing.assert_close(again.score, found.score, atol=1e-5, rtol=1e-5)
        assert again.in_words() == HeadChoice.from_dict(again.to_dict()).in_words()
        if found.recommended and name != "cost":
            assert TITLES[name] in found.in_words()
    assert found.in_words().startswith("Recommended: logit adjustment")
    assert "saves" in found.in_words()
    assert float(found.columns["gain"][1]) > 1, "a cost is not a share"
    assert torch.equal(
        found.columns["balanced_accuracy"], (found.recall.nanmean(1)) if found.repeats == 1 else found.score
    )


def test_an_old_record_was_chosen_by_balanced_accuracy(sides: Sides, small: tuple[Candidate, ...]) -> None:
    train, heldout, head = sides
    record = choose_head(train, heldout, head, small, repeats=1).to_dict()
    for name in ("metric", "target_prior", "cost"):
        del record[name]
    old = HeadChoice.from_dict(record)
    assert (old.metric, old.metric_title, old.target_prior, old.cost) == ("balanced", "balanced accuracy", (), ())
    assert torch.equal(old.score, old.columns["balanced_accuracy"])
    with pytest.raises(InputError, match=r"^metric of the remedy must be "):
        HeadChoice.from_dict(record | {"metric": "luck"})


WRONG = {
    "metric must be one of balanced, prior, macro-f1, worst, cost, got 'wurst'; did you mean 'worst'?": {
        "metric": "wurst"
    },
    "target_prior must be given for metric=prior, got none": {"metric": "prior"},
    "cost must be given for metric=cost, got none": {"metric": "cost"},
    "target_prior must be left out for metric=worst, which does not use it, got one; use metric=prior": {
        "metric": "worst",
        "target_prior": [0.5, 0.5],
    },
    "cost must be left out for metric=prior, which does not use it, got one; use metric=cost": {
        "metric": "prior",
        "target_prior": [0.5, 0.5],
        "cost": [[0, 1], [1, 0]],
    },
    "target_prior must sum to 1 within 0.001, got 0.99": {"metric": "prior", "target_prior": [0.5, 0.49]},
    "target_prior must hold finite numbers that are not negative, got -0.5": {
        "metric": "prior",
        "target_prior": [1.5, -0.5],
    },
    "target_prior must hold finite numbers that are not negative, got nan": {
        "metric": "prior",
        "target_prior": [1.0, float("nan")],
    },
    "target_prior must hold a share for each of the 2 classes, got 3": {
        "metric": "prior",
        "target_prior": [0.5, 0.25, 0.25],
    },
    "target_prior must hold numbers, in rows of one length, got ['a', 'b']": {
        "metric": "prior",
        "target_prior": ["a", "b"],
    },
    "cost must have 2 rows of 2 numbers, one for each class, got 2": {"metric": "cost", "cost": [0, 1]},
    "cost must hold numbers, in rows of one length, got [[0, 1], [1]]": {"metric": "cost", "cost": [[0, 1], [1]]},
    "cost must depend on what is predicted, got rows of equal numbers": {"metric": "cost", "cost": [[1, 1], [2, 2]]},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_metric_that_cannot_be_is_refused(message: str) -> None:
    options = dict(WRONG[message])
    with pytest.raises(InputError) as caught:
        metric_of(options.pop("metric"), heldout_counts=torch.tensor([3, 3]), **options)
    assert str(caught.value) == message


def test_a_share_for_a_class_that_nothing_is_known_of_is_refused(sides: Sides) -> None:
    train, heldout, head = sides
    seen = heldout.select(heldout.labels != 3)
    law = r"target_prior must give a share only to classes with held-out rows, .* got 0.1 for class 3, which has none"
    with pytest.raises(InputError, match=law):
        choose_head(train, seen, head, [], metric="prior", target_prior=[0.1] * 10)
    rounded = metric_of("prior", target_prior=[0.3333, 0.3333, 0.3333], heldout_counts=torch.ones(3))
    assert rounded.target_prior is not None
    assert float(rounded.target_prior.sum()) == pytest.approx(1)
    assert dataclasses.is_dataclass(rounded)


# How much the worst classes count

SIX = torch.arange(6).repeat_interleave(4)
PREDICTED_SIX = SIX.clone()
PREDICTED_SIX[[0, 1, 2, 4, 5, 8]] = 5  # recalls of 1/4, 1/2, 3/4, 1, 1, 1


def test_objectives_are_what_they_say() -> None:
    mean = 4.5 / 6
    for objective, wanted in {"worst": 0.25, "worst third": 0.375, 0.2: 0.8 * mean + 0.2 * 0.25, 1: 0.25}.items():
        metric = objective_of("balanced", objective)
        assert metric is not None
        assert float(metric.value(PREDICTED_SIX[None], SIX, 6)) == pytest.approx(wanted)
        low, high = metric.interval(PREDICTED_SIX[None], SIX, 6)
        assert low < wanted < high
        assert metric.difference(PREDICTED_SIX[None], PREDICTED_SIX[None], SIX, 6)[0] == 0
        gain, error = metric.difference(SIX[None], PREDICTED_SIX[None], SIX, 6)
        assert gain == pytest.approx(1 - wanted)
        assert 0 < error < 1
    assert objective_of("balanced", "mean") is None
    assert objective_of("macro-f1", 0.0) is None


def test_the_worst_class_is_as_it_was_as_a_metric() -> None:
    found, named = objective_of("balanced", "worst"), Metric(name="worst")
    assert found is not None
    assert found.name == "worst"
    assert float(named.value(PREDICTED_SIX[None], SIX, 7)) == 0.25  # a seventh class without rows does not count


def test_a_prior_and_costs_given_by_class_are_put_in_order() -> None:
    held, shares = torch.tensor([5, 5, 5]), [0.7, 0.2, 0.1]
    for given in (shares, {2: 0.1, 0: 0.7, 1: 0.2}, pd.Series([0.1, 0.7, 0.2], index=[2, 0, 1]), np.array(shares)):
        found = metric_of("prior", target_prior=given, heldout_counts=held).target_prior
        assert found is not None
        assert found.tolist() == pytest.approx(shares)
    with pytest.raises(
        InputError, match="target_prior must be in the order of the classes, or name each by its number"
    ):
        metric_of("prior", target_prior={"cat": 0.7, "owl": 0.2, "emu": 0.1}, heldout_counts=held)
    costs = pd.DataFrame([[0, 1, 2], [3, 0, 4], [5, 6, 0]])
    for frame in (costs, costs.loc[[2, 0, 1], [1, 0, 2]]):
        found = metric_of("cost", cost=frame, heldout_counts=held).cost
        assert found is not None
        assert found.tolist() == costs.to_numpy().tolist()
    with pytest.raises(InputError, match=r"cost must have the classes' numbers in \[0, 2\] as index and columns"):
        metric_of("cost", cost=costs.set_axis(list("abc")), heldout_counts=held)
