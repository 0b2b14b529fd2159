"""The choice between repairs is unbiased, and recommends what wins beyond chance."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import diversify as dv
from diversify.errors import InputError
from diversify.functional import counts, draws, stats
from diversify.functional.metrics import balanced_accuracy
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead, read_head
from diversify.plan.plan import Plan
from diversify.plan.policies import PriorCorrection
from diversify.repair.candidate import Candidate, Make, even_plan
from diversify.repair.candidates import default_candidates
from diversify.repair.choice import HeadChoice
from diversify.repair.choose import choose_head
from diversify.repair.post_hoc import adjust_logits, normalize_tau
from diversify.repair.retrain import HeadRecipe, retrain_head

Sides = tuple[Embeddings, Embeddings, LinearHead]


SHORT = HeadRecipe(steps=60, batch_size=64)


def plan_with(train: Embeddings, **correction: float) -> Plan:
    plan = even_plan(counts.class_counts(train.labels, train.num_classes))
    return plan.model_copy(update={"prior_correction": PriorCorrection(**correction)})


def equal(one: LinearHead, other: LinearHead) -> bool:
    return torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


def correct(head: LinearHead, side: Embeddings) -> float:
    return balanced_accuracy(side.labels, head.logits(side.features).argmax(1), side.num_classes)


def candidates(train: Embeddings, head: LinearHead) -> tuple[Candidate, ...]:
    names = [str(c) for c in range(10)]
    counted = Plan.from_counts(names, counts.class_counts(train.labels, 10))
    return default_candidates(train, head, counted=counted, plan=counted, recipe=SHORT)


@pytest.fixture(scope="module")
def choice(sides: Sides) -> HeadChoice:
    train, heldout, head = sides
    return choose_head(train, heldout, head, candidates(train, head), repeats=3)


def test_candidates_are_judged_by_options_chosen_elsewhere(sides: Sides) -> None:
    """Two options right on every other row of a class each: chosen on all rows one is right half of the time; a
    candidate that could see its judges would never be below."""
    heldout = sides[1]
    odd = torch.arange(len(heldout)) % 2 == 0
    heads = []
    for keep in (odd, ~odd):
        features = torch.cat([heldout.features, functional.one_hot(heldout.labels, 10) * keep[:, None]], 1).float()
        heads.append(features)
    wide = dataclasses.replace(heldout, features=torch.cat([heads[0], heads[1][:, 16:]], 1))

    def selecting(first: int) -> LinearHead:
        weight = torch.zeros(10, 36)
        weight[:, first : first + 10] = torch.eye(10)
        return LinearHead(weight=weight, bias=torch.tensor([1e-3] + [0.0] * 9))

    both = Candidate(name="both", meaning="", options={"a": lambda *_: selecting(16), "b": lambda *_: selecting(26)})
    found = choose_head(wide, wide, selecting(16), [both], repeats=4)
    accuracy = found.columns["balanced_accuracy"]
    assert float(accuracy[1]) <= float(accuracy[0]) + 1e-9  # chance, or worse: what is better elsewhere is worse here
    assert sum(found.times_chosen[1]) == 4 * 5


def test_what_is_made_from_held_out_rows_is_judged_on_others(sides: Sides) -> None:
    """Least squares fits forty rows of noise exactly, and predicts other rows by chance."""
    noise = draws.normal("noise", torch.arange(40 * 64)).view(40, 64).float()
    labels = torch.arange(40) % 10
    head = LinearHead(weight=torch.eye(10, 64), bias=torch.zeros(10))
    heldout = Embeddings(features=noise, labels=labels, logits=head.logits(noise), indices=torch.arange(40))

    def by_heart(rows: Embeddings) -> dict[str, Make]:
        weight = torch.linalg.lstsq(rows.features, functional.one_hot(rows.labels, 10).float()).solution.T
        made = LinearHead(weight=weight.contiguous(), bias=torch.zeros(10))
        return {"": lambda *_: made}

    said: list[tuple[int, int]] = []
    plain = Candidate(name="plain", meaning="", options=by_heart(heldout))
    honest = dataclasses.replace(plain, name="honest", remade=by_heart)
    found = choose_head(
        heldout, heldout, head, [plain, honest], repeats=1, progress=lambda *numbers: said.append(numbers)
    )
    accuracy = dict(zip(found.names, found.columns["balanced_accuracy"].tolist(), strict=True))
    assert accuracy["plain"] == 1
    assert accuracy["honest"] < 0.4
    assert equal(found.heads[1], found.heads[2])  # what is taken is made from all rows
    assert said == [(done, 6) for done in range(7)]  # untouched, two, and three folds of one
    other = dataclasses.replace(honest, remade=lambda rows: {"another": by_heart(rows)[""]})
    with pytest.raises(InputError, match=r"remade options of 'honest' must be \[''\], got \['another'\]"):
        choose_head(heldout, heldout, head, [other], repeats=1)


def test_a_plan_that_says_how_it_was_made_is_made_anew(sides: Sides) -> None:
    train, heldout, head = sides
    names = [str(c) for c in range(10)]
    counted = Plan.from_counts(names, counts.class_counts(train.labels, 10))
    seen: list[Tensor] = []

    def replan(rows: Embeddings) -> Plan:
        seen.append(rows.indices)
        return counted

    listed = default_candidates(train, head, plan=counted, replan=replan, recipe=SHORT)
    assert "made without it" in listed[-1].meaning
    assert all(one.remade is None for one in listed[:-1])
    found = choose_head(train, heldout, head, [listed[-1]], repeats=1)
    assert len(seen) == 3
    left_out = torch.cat([heldout.indices[~torch.isin(heldout.indices, one)] for one in seen])
    assert torch.equal(left_out.sort().values, heldout.indices.sort().values)
    same = choose_head(train, heldout, head, [dataclasses.replace(listed[-1], remade=None)], repeats=1)
    assert torch.equal(found.columns["balanced_accuracy"], same.columns["balanced_accuracy"])  # for it is the same plan


def test_the_untouched_head_is_scored_as_it_is(choice: HeadChoice, sides: Sides) -> None:
    _, heldout, head = sides
    assert float(choice.columns["balanced_accuracy"][0]) == pytest.approx(correct(head, heldout))
    assert [float(choice.columns[name][0]) for name in ("gain", "gain_low", "gain_high", "spread")] == [0.0] * 4
    assert equal(choice.heads[0], head)


def test_the_change_of_a_class_has_the_interval_of_a_paired_difference(sides: Sides) -> None:
    train, heldout, head = sides
    worse = dataclasses.replace(head, bias=head.bias - 30 * torch.eye(10)[4])
    made = Candidate(name="made", meaning="", options={"": lambda *_: worse})
    found = choose_head(train, heldout, head, [made], repeats=3)
    change = found.recall[1] - found.recall[0]
    assert bool(
        (
            (found.change_low <= found.recall - found.recall[0]) & (found.change_high >= found.recall - found.recall[0])
        ).all()
    )
    assert float(change[4]) < 0
    assert float(found.change_high[1, 4]) < 0
    assert bool((found.change_high[0] > found.change_low[0]).all()), "that nothing changed is of these rows alone"
    for c in range(10):
        rows = heldout.labels == c
        before, after = ((one.logits(heldout.features).argmax(1) == c)[rows] for one in (head, worse))
        sums = [value.sum() for value in (before, after, before & after, rows)]
        low, high = stats.paired_difference_interval(*sums)
        assert (float(found.change_low[1, c]), float(found.change_high[1, c])) == pytest.approx(
            (float(low), float(high))
        )


def test_what_wins_is_recommended(choice: HeadChoice) -> None:
    behind, error, loss = (choice.columns[name] for name in ("behind", "behind_error", "loss"))
    assert float(behind.min()) == 0
    assert bool((loss[behind <= error] >= loss[choice.best] - 1e-3).all())
    assert float(behind[choice.best]) <= float(behind[behind <= error].max())
    assert float(choice.columns["behind"][0]) > float(choice.columns["behind_error"][0])
    assert choice.recommended == choice.best
    assert equal(choice.head, choice.heads[choice.best])
    assert f"Recommended: {choice.names[choice.best]}" in choice.in_words()
    near = [
        place
        for place in range(1, choice.best)
        if choice.columns["behind"][place] <= choice.columns["behind_error"][place]
    ]
    assert choice.simpler == (near[0] if near else None)


def behind_by(rows: int, heldout: Embeddings, head: LinearHead) -> LinearHead:
    """The head, with the bias of its first class so low that this many more held-out rows of it are wrong."""
    logits = head.logits(heldout.features)[heldout.labels == 0]
    lead = (logits[:, 0] - logits[:, 1:].max(1).values).sort().values
    lead = lead[lead > 0]
    return dataclasses.replace(head, bias=head.bias - (lead[rows - 1] + lead[rows]) / 2 * torch.eye(10)[0])


def test_of_equals_the_simpler_one_is_recommended_and_what_comes_near_is_named(sides: Sides) -> None:
    train, heldout, head = sides
    forgetful = dataclasses.replace(head, bias=head.bias - torch.linspace(0, 40, 10))
    same = [Candidate(name=name, meaning="", options={"": lambda *_: head}) for name in ("first", "second")]
    found = choose_head(train, heldout, forgetful, same)
    assert found.names[found.recommended] == "first"
    assert found.simpler is None
    assert "simpler" not in found.in_words()
    near = dataclasses.replace(behind_by(3, heldout, head), weight=head.weight + 0.05 * head.weight.roll(1, 0))
    close = Candidate(name="close", meaning="", options={"": lambda *_: near})
    found = choose_head(train, heldout, forgetful, [close, same[0]])
    assert found.names[found.best] == found.names[found.recommended] == "first"
    assert found.simpler == found.names.index("close")
    behind, error = (f"{100 * float(found.columns[key][found.simpler]):.1f}" for key in ("behind", "behind_error"))
    assert found.in_words().endswith(
        f" Close is simpler and only {behind} points behind, at most one standard error ({error})."
    )
    assert "which gains +" in found.in_words()
    far = behind_by(12, heldout, head)
    found = choose_head(
        train, heldout, forgetful, [Candidate(name="far", meaning="", options={"": lambda *_: far}), same[0]]
    )
    assert found.names[found.recommended] == "first"
    assert found.simpler is None


def test_a_head_that_is_hardly_behind_is_left_as_it_is(sides: Sides) -> None:
    train, heldout, head = sides
    better = [Candidate(name="better", meaning="", options={"": lambda *_: head})]
    found = choose_head(train, heldout, behind_by(3, heldout, head), better)
    assert found.recommended == 0
    assert "leave the head as it is; better is only" in found.in_words()
    found = choose_head(train, heldout, behind_by(12, heldout, head), better)
    assert found.names[found.recommended] == "better"


def test_a_gain_is_a_hundred_points_at_most_and_a_module_is_read(sides: Sides) -> None:
    train, heldout, head = sides
    few = heldout.select(torch.tensor([int((heldout.labels == c).nonzero()[0, 0]) for c in range(3)]))
    wrong = nn.Linear(head.num_features, 10)
    with torch.no_grad():
        wrong.weight.zero_()
        wrong.bias.copy_(torch.eye(10)[9])
    better = Candidate(name="better", meaning="", options={"": lambda *_: head})
    found = choose_head(train, few, wrong, [better], folds=2)
    assert float(found.columns["gain_high"].max()) <= 1
    assert found.overall["gain_high"] <= 1
    assert equal(found.heads[0], read_head(wrong))
    assert default_candidates(train, wrong)[0].name == "untouched"


def test_nothing_is_recommended_where_nothing_helps(sides: Sides) -> None:
    train, heldout, head = sides
    worse = dataclasses.replace(head, weight=-head.weight)
    found = choose_head(train, heldout, head, [Candidate(name="worse", meaning="", options={"": lambda *_: worse})])
    assert found.names == ("untouched", "worse")
    assert found.recommended == 0
    assert "leave the head as it is" in found.in_words()


def test_a_choice_is_read_back_as_it_was_written(choice: HeadChoice) -> None:
    record = choice.to_dict()
    again = HeadChoice.from_dict(record)
    assert again.to_dict() == record
    assert again.in_words() == choice.in_words()
    with pytest.raises(InputError, match="^folds of the remedy must be above 0, got 0"):
        HeadChoice.from_dict({**record, "folds": 0})
    del record["recall"]
    with pytest.raises(InputError, match="^recall of the remedy must be "):
        HeadChoice.from_dict(record)
    with pytest.raises(InputError, match="schema_version"):
        HeadChoice.from_dict({"schema_version": 9})


def test_classes_without_held_out_rows_are_left_out(sides: Sides) -> None:
    train, heldout, head = sides
    found = choose_head(train, heldout.select(heldout.labels != 2), head, repeats=1, candidates=[])
    assert math.isnan(float(found.recall[0][2]))
    assert math.isfinite(float(found.columns["balanced_accuracy"][0]))


def test_without_a_bias_nothing_is_made_that_needs_one(sides: Sides) -> None:
    train, heldout, head = sides
    head = dataclasses.replace(head, bias=torch.zeros(10))
    listed = default_candidates(train, head, recipe=dataclasses.replace(SHORT, bias=False))
    found = choose_head(train, heldout, head, listed, repeats=1)
    assert "logit adjustment" not in found.names
    assert all(not bool(one.bias.any()) for one in found.heads)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, h, head: adjust_logits(head, torch.zeros(9), 1.0), r"log prior must have shape (10,), got (9,)"),
        (
            lambda t, h, head: adjust_logits(head, torch.full((10,), -math.inf), 1.0),
            "log prior must be finite, got nan or infinite values; give an absent class that of the rarest one",
        ),
        (lambda t, h, head: normalize_tau(head, -1.0), "tau must not be negative, and finite, got -1.0"),
        (lambda t, h, head: normalize_tau(head, "1"), "tau must not be negative, and finite, got '1'"),
        (lambda t, h, head: HeadRecipe(momentum="0.9"), "momentum must not be negative, and finite, got '0.9'"),
        (lambda t, h, head: HeadRecipe(steps=-1), "steps must be an integer of at least 0, got -1"),
        (
            lambda t, h, head: HeadRecipe(learning_rate=math.nan),
            "learning_rate must not be negative, and finite, got nan",
        ),
        (lambda t, h, head: HeadRecipe(momentum=1.0), "momentum must be below 1, got 1.0"),
        (
            lambda t, h, head: retrain_head(t, head, even_plan(torch.ones(3, dtype=torch.int64))),
            "plan must have the embeddings' 10 classes, got 3",
        ),
        (
            lambda t, h, head: retrain_head(t, dataclasses.replace(head, weight=head.weight[:, :8]), plan_with(t)),
            "head must have the embeddings' 16 features, got 8",
        ),
        (
            lambda t, h, head: retrain_head(t.select(t.labels != 2), head, plan_with(t)),
            "draws of 2 must be 0, since it has no rows in the embeddings, got 0.1",
        ),
        (
            lambda t, h, head: retrain_head(t, head, plan_with(t, after=1.0), bias=False),
            "prior_correction.after of the plan must be 0 where the head has no bias, got 1.0;"
            " add it to prior_correction.training, which needs none",
        ),
        (
            lambda t, h, head: retrain_head(t, head, plan_with(t), learning_rate=1e30, steps=50),
            "learning_rate must be small enough for the head to settle, got 1e+30",
        ),
        (
            lambda t, h, head: choose_head(t, h, head, folds=1),
            "folds must lie in [2, 500], the number of held-out rows, got 1",
        ),
        (lambda t, h, head: choose_head(t, h, head, repeats=0), "repeats must be at least 1, got 0"),
        (
            lambda t, h, head: choose_head(t, h, head, [Candidate(name="a", meaning="", options={})]),
            "candidate 'a' must have an option, got none",
        ),
        (
            lambda t, h, head: choose_head(t, h, dataclasses.replace(head, weight=head.weight[:, :8])),
            "train embeddings must have the head's 8 features and 10 classes, got 16 and 10",
        ),
    ],
)
def test_wrong_inputs(sides: Sides, call, message: str) -> None:
    with pytest.raises(InputError) as error:
        call(*sides)
    assert str(error.value) == message


def test_the_names_are_public() -> None:
    for name in (
        "retrain_head",
        "adjust_logits",
        "normalize_tau",
        "nearest_mean",
        "choose_head",
        "HeadRecipe",
        "write_head",
    ):
        assert callable(getattr(dv, name))


def test_what_a_large_training_side_leaves_out_is_said(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    train, heldout, head = sides
    assert not candidates(train, head)[0].note
    monkeypatch.setattr("diversify.repair.candidates.LARGEST_BANK", 1)
    monkeypatch.setattr("diversify.repair.candidates.LARGEST_SEARCH", 1.0)
    fewer = candidates(train, head)
    assert {one.name for one in fewer}.isdisjoint({"SMOTE", "EOS", "plan", "plan from counts"})
    (note,) = choose_head(train, heldout, head, fewer[:2]).notes
    assert all(name in note for name in ("SMOTE and EOS", "The plan from counts", "The plan is"))
