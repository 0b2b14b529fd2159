"""Unseen rows in the head step, and what is fitted on held-out rows by likelihood."""

import dataclasses

import pytest
import torch
from torch import Tensor

import diversify as dv
from diversify.augment.features import FeatureAugmenter
from diversify.errors import InputError
from diversify.functional import counts, draws
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.plan.policies import FeaturePolicy
from diversify.repair import unseen as unseen_module
from diversify.repair.candidate import even_plan
from diversify.repair.fitted import bias_fitted, fit_slope, slope_fitted
from diversify.repair.post_hoc import adjust_logits, log_prior_of
from diversify.repair.unseen import UnseenRows, unseen_chances

COUNTS = (200, 80, 30, 10)


@pytest.fixture(scope="module")
def rows() -> tuple[Embeddings, Embeddings, LinearHead]:
    return dv.make_embeddings(COUNTS)


def equal(one: LinearHead, other: LinearHead) -> bool:
    return torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


def plan_of(train: Embeddings) -> dv.Plan:
    return dv.Plan.from_counts(list("abcd"), list(COUNTS))


def test_without_rows_or_share_the_head_is_that_of_the_training_rows(rows) -> None:
    train, heldout, head = rows
    plan = plan_of(train)
    plain = dv.retrain_head(train, head, plan, steps=20)
    none = heldout.select(torch.arange(0))
    assert equal(dv.retrain_head(train, head, plan, unseen=none, steps=20), plain)
    assert equal(dv.retrain_head(train, head, plan, unseen=heldout, unseen_share=0.0, steps=20), plain)
    assert not equal(dv.retrain_head(train, head, plan, unseen=heldout, steps=20), plain)
    again = dv.retrain_head(train, head, plan, unseen=heldout, steps=20)
    assert equal(again, dv.retrain_head(train, head, plan, unseen=heldout, steps=20))


def test_the_share_of_a_class_goes_by_how_many_rows_it_has() -> None:
    assert unseen_chances(torch.tensor([0, 10, 90]), 0.5).tolist() == pytest.approx([0.0, 0.25, 0.45])


@pytest.mark.parametrize("soft", [False, True])
def test_rows_are_replaced_within_their_class(rows, soft: bool) -> None:
    _, heldout, _ = rows
    some = heldout.select((heldout.labels != 1) & ((heldout.labels != 2) | (torch.arange(len(heldout)) % 10 == 0)))
    held = counts.class_counts(some.labels, 4)
    unseen = UnseenRows(some, 1.0, 64, 3, torch.device("cpu"))
    steps = torch.arange(40)
    classes = draws.integers(4, "classes", steps[:, None], torch.arange(64))
    features, targets = torch.full((40, 64, some.num_features), -1.0), classes
    if soft:
        targets = torch.full((40, 64, 4), 0.25)
    made, aims, taken = unseen.replace(features, targets, classes, steps)
    place = {tuple(row.tolist()): int(label) for row, label in zip(some.features, some.labels, strict=True)}
    for c in range(4):
        chance = float(taken[classes == c].float().mean())
        assert chance == pytest.approx(float(held[c] / (held[c] + 10)), abs=0.07 if held[c] else 0.0)
    assert bool((made[~taken] == -1).all())
    assert [place[tuple(row.tolist())] for row in made[taken]] == classes[taken].tolist()
    if soft:
        assert torch.equal(aims[taken].argmax(1), classes[taken])
        assert bool((aims[taken].amax(1) == 1).all())
        assert bool((aims[~taken] == 0.25).all())
    else:
        assert torch.equal(aims, classes)


def test_unseen_rows_mend_magnitudes_that_training_rows_do_not_have(rows) -> None:
    """The training rows of the rarest class are twice as long as those that will be met."""
    train, heldout, head = rows
    longer = torch.where((train.labels == 3)[:, None], 3 * train.features, train.features)
    train = dataclasses.replace(train, features=longer, logits=head.logits(longer))
    odd = torch.arange(len(heldout)) % 2 == 1
    unseen, judged = heldout.select(~odd), heldout.select(odd)
    plan = even_plan(counts.class_counts(train.labels, 4))

    def recall(found: LinearHead) -> float:
        right = found.logits(judged.features).argmax(1) == judged.labels
        return float(counts.class_mean(right.double(), judged.labels, 4).mean())

    without = recall(dv.retrain_head(train, head, plan, steps=60))
    assert recall(dv.retrain_head(train, head, plan, unseen=unseen, steps=60)) > without + 0.03


def test_isda_leaves_the_logits_of_unseen_rows(rows, monkeypatch: pytest.MonkeyPatch) -> None:
    train, heldout, head = rows
    plan = plan_of(train)
    policy = FeaturePolicy(method="isda", strength=1.0, share=1.0)
    classes = tuple(one.model_copy(update={"features": (policy,)}) for one in plan.classes)
    plan = plan.model_copy(update={"classes": classes})
    raised: list[int] = []
    usual = FeatureAugmenter.adjust_logits

    def noted(self: FeatureAugmenter, logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        found = usual(self, logits, targets, weight)
        raised.append(int((found != logits).any(1).sum()))
        return found + torch.nan  # so that a row that takes them shows

    monkeypatch.setattr(FeatureAugmenter, "adjust_logits", noted)
    monkeypatch.setattr(unseen_module, "FEW", 0)
    assert bool(dv.retrain_head(train, head, plan, unseen=heldout, unseen_share=1.0, steps=3).weight.isfinite().all())
    assert max(raised) > 0
    with pytest.raises(InputError, match="^learning_rate must be small enough"):
        dv.retrain_head(train, head, plan, steps=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda train, held: {"unseen": held, "unseen_share": 1.5}, r"^unseen_share must lie in \[0, 1\], got 1\.5$"),
        (lambda train, held: {"unseen_share": True}, r"^unseen_share must lie in \[0, 1\], got True$"),
        (lambda train, held: {"unseen": held.features}, "^unseen must be Embeddings, got Tensor; extract makes them$"),
        (
            lambda train, held: {"unseen": dv.make_embeddings((9, 9, 9))[0]},
            "^unseen must have the embeddings' ",
        ),
        (
            lambda train, held: {"unseen": train},
            "^unseen must be images that the backbone was not trained on, got the training rows themselves$",
        ),
    ],
)
def test_unseen_rows_that_cannot_be_are_refused(rows, change, message: str) -> None:
    train, heldout, head = rows
    with pytest.raises(InputError, match=message):
        dv.retrain_head(train, head, plan_of(train), steps=1, **change(train, heldout))


# What is fitted by likelihood


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
