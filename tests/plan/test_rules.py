"""The rules that change a plan by a diagnosis: when they fire, and by how much."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import OF_CLASSES, nothing, with_columns, with_gap

from diversify.diagnosis.result import Diagnosis
from diversify.errors import InputError
from diversify.plan.make import make_plan
from diversify.plan.plan import Plan
from diversify.plan.policies import ImagePolicy, Mixing
from diversify.plan.rules import PATHS, RULES, Rule, RunRule
from diversify.plan.strengths import Strengths

OF_ALL = tuple(rule for rule in RULES if isinstance(rule, RunRule))


@pytest.fixture(scope="module")
def equal(quiet: Diagnosis) -> Diagnosis:
    """The same with equal class sizes."""
    columns = {**quiet.columns, "count": torch.full_like(quiet["count"], 50.0)}
    return dataclasses.replace(quiet, columns=columns)


def test_what_holds_for_every_class_is_a_rule_that_can_be_left_out_or_replaced(quiet: Diagnosis) -> None:
    counted = Plan.from_counts(quiet.class_names, quiet["count"])
    known = with_gap(quiet, 0.0)
    assert make_plan(known, rules=OF_CLASSES).diff(counted) == ("made_from: diagnosis -> counts",)
    (ruled,) = OF_ALL
    own = dataclasses.replace(
        ruled,
        name="mine",
        mark="precision_heldout",
        amount=lambda ahead, _: 0.5 if ahead < 1 else 1.0,
        text="{value:.2f} of {mark:.2f}",
    )
    told = with_columns(known, {"precision_heldout": {2: 0.25, 3: math.nan}})
    plan = make_plan(told, rules=(own,))
    most = max(one.image.strength for one in counted.classes)
    assert max(one.image.strength for one in plan.classes) == pytest.approx(most / 2)
    reason = plan.classes[0].reasons[0]
    values = told["precision_heldout"]
    assert reason.compared_with == pytest.approx(float(values[~values.isnan()].mean()), abs=1e-4)
    assert reason.text.startswith(f"0.50 of {reason.compared_with:.2f}: images are augmented in 45% of the draws")
    both = make_plan(told, rules=(own, dataclasses.replace(own, name="again")))
    assert max(one.image.strength for one in both.classes) == pytest.approx(most / 4)
    gone = {name: column for name, column in told.columns.items() if name != "precision_heldout"}
    assert make_plan(dataclasses.replace(told, columns=gone), rules=(own,)).diff(counted) == (
        "made_from: diagnosis -> counts",
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"measure": "recal_train"}, "measure of the rule 'little overfitting' must be one of"),
        ({"mark": "mean"}, "mark of the rule 'little overfitting' must be one of"),
        ({"changes": "draws"}, "changes of the rule 'little overfitting' must be image, got 'draws'"),
        ({"amount": lambda *_: 1.5}, "amount of the rule 'little overfitting' must lie in [0, 1], got 1.5"),
        ({"amount": lambda *_: math.nan}, "amount of the rule 'little overfitting' must lie in [0, 1], got nan"),
        ({"text": "{low}"}, "text of the rule 'little overfitting' must use only {value} and {mark}, as numbers"),
    ],
)  # fmt: skip
def test_rules_of_all_classes_are_checked(fields: dict[str, Any], message: str, quiet: Diagnosis) -> None:
    with pytest.raises(InputError) as error:
        make_plan(with_gap(quiet, 0.12), rules=[dataclasses.replace(OF_ALL[0], **fields)])
    assert message in str(error.value)


def firing(rule: Rule, diagnosis: Diagnosis, c: int, by: float) -> tuple[Diagnosis, float]:
    """The diagnosis with one class `by` beyond the strictest mark of a rule, and that mark."""
    fixed = [mark for mark in rule.marks if isinstance(mark, float)]
    others = float(diagnosis[rule.measure][0])
    for _ in range(200):  # the class's own value moves the mean of the classes
        column = diagnosis[rule.measure]
        mean = float(column.nanmean())
        marks = [*fixed, *([mean] if {"mean", "size"} & set(rule.marks) else [])]
        mark = min(marks) if rule.side == "low" else max(marks)
        width = 0.01 * abs(others) if math.isfinite(others) else 0.01
        near = mark - by if rule.side == "low" else mark + by
        low, high = (near - 2 * width, near) if rule.side == "low" else (near, near + 2 * width)
        value = near if rule.pooled else (low + high) / 2  # without values of other classes it is drawn toward itself
        changed = {rule.measure: value, f"{rule.measure}_low": low, f"{rule.measure}_high": high}
        diagnosis = with_columns(diagnosis, {name: {c: value} for name, value in changed.items()})
    return diagnosis, mark


@pytest.mark.parametrize("rule", OF_CLASSES, ids=lambda rule: f"{rule.name}-{rule.changes}")
def test_every_rule_moves_its_class_alone_by_what_is_beyond_doubt(rule: Rule, quiet: Diagnosis) -> None:
    c = 5
    before = make_plan(quiet, rules=[rule])
    sizes = []
    for by in (-1e-6, 0.04, 0.08):
        told, mark = firing(rule, quiet, c, by)
        plan = make_plan(told, rules=[rule])
        changed = {
            line.split(".")[1] for line in before.diff(plan) if line.startswith("classes.") and ".draws:" not in line
        }
        reasons = [reason for reason in plan.classes[c].reasons if reason.measure != "count"]
        if by < 0 and rule.instead:  # measured, and found to need nothing
            assert plan.classes[c].features == ()
            assert changed == {quiet.class_names[c]}
            continue
        if by < 0:
            assert plan == before
            continue
        assert changed <= {quiet.class_names[c]}
        others = torch.arange(10) != c
        ratio = (plan.draws / before.draws)[others]
        assert float(ratio.max() - ratio.min()) < 1e-6
        reason = next(reason for reason in reasons if reason.rule == rule.name)
        assert reason.compared_with == pytest.approx(mark)
        assert (reason.measure, reason.choice, reason.source) == (rule.measure, rule.changes, rule.source)
        assert (reason.low, reason.high) == tuple(float(told[f"{rule.measure}_{end}"][c]) for end in ("low", "high"))
        sizes.append(size_of(plan, rule.changes, c) - size_of(before, rule.changes, c))
    assert sizes[1] == sizes[0] != 0 if rule.changes == "image.extra" else abs(sizes[1]) > abs(sizes[0]) > 0
    assert (sizes[0] < 0) == (rule.name == "already recognised")


def test_a_class_that_needs_nothing_gets_what_all_get_and_no_more(quiet: Diagnosis) -> None:
    found = {
        name: {7: value}
        for name, value in (("recall_heldout", 0.99), ("recall_heldout_low", 0.98), ("recall_heldout_high", 1.0))
    }
    named = quiet.class_names, quiet["count"]
    counted = Plan.from_counts(*named)
    before, after = counted.classes[7], make_plan(with_columns(quiet, found)).classes[7]
    assert before.features
    assert before.image.strength > counted.classes[0].image.strength
    assert after.features == ()
    assert after.image == counted.classes[0].image
    assert after.mixing == counted.classes[0].mixing
    assert after.draws == before.draws
    assert [one.choice for one in after.reasons if one.rule == "already recognised"] == [
        "features.share",
        "image.extra",
    ]
    low = Strengths(image_least=0.0, image_most=0.3)
    bare = make_plan(with_columns(quiet, found), strengths=low).classes[7]
    assert bare.image == ImagePolicy()
    even = Plan.uniform(quiet.class_names, quiet["count"], strengths=Strengths(image_least=0.1, image_most=0.2))
    kept = make_plan(with_columns(quiet, found), base=even)
    assert [one.image for one in kept.classes] == [one.image for one in even.classes]


def size_of(plan: Plan, path: str, c: int) -> float:
    one = plan.classes[c]
    if path == "draws":
        return one.draws
    if path == "image.extra":
        return one.image.strength
    if path == "features.share":
        return sum(policy.share for policy in one.features)
    kind, *method, name = path.split(".")
    return float(plan.feature_column(method[0], name)[c]) if kind == "features" else float(getattr(one.image, name))


@settings(max_examples=40, deadline=None)
@given(value=st.floats(0.1, 0.9), half=st.floats(0.001, 0.4), more=st.floats(0.001, 0.4))
def test_a_class_is_never_moved_further_for_being_less_certain(
    quiet: Diagnosis, value: float, half: float, more: float
) -> None:
    rule = Rule(
        name="magnitude",
        measure="ce_magnitude_ratio",
        side="low",
        marks=(0.95,),
        changes="features.magnitude.strength",
        amount=lambda beyond, strengths: beyond,
        text="so",
        source="so",
    )
    strengths = []
    for width in (half, half + more):
        column = {"ce_magnitude_ratio": value, "ce_magnitude_ratio_low": value - width}
        column["ce_magnitude_ratio_high"] = value + width
        plan = make_plan(
            with_columns(quiet, {name: {9: each} for name, each in column.items()}), rules=(*OF_CLASSES[1:], rule)
        )
        strengths.append(float(plan.feature_column("magnitude", "strength")[9]))
    assert strengths[1] <= strengths[0] <= max(0.0, 0.95 - value)
    assert strengths[0] == pytest.approx(max(0.0, 0.95 - value - half), abs=0.006)


def test_a_class_that_needs_nothing_gets_nothing(equal: Diagnosis) -> None:
    """One of several equal classes has a problem; the others stay as they are, except for rules about recognised classes."""
    hurt, found = 4, 2
    changed = {
        "safe_high": {hurt: 0.3, found: 0.3},
        "identity_overlap_high": {hurt: 0.3, found: 0.3},
        "recall_train_high": {hurt: 0.3},
        "recall_heldout": {hurt: 0.1, found: 0.9},
        "recall_heldout_low": {hurt: 0.0, found: 0.8},
        "recall_heldout_high": {hurt: 0.2, found: 1.0},
    }
    plan = make_plan(with_columns(equal, changed))
    assert [nothing(plan, c) for c in range(10)] == [c != hurt for c in range(10)]
    assert plan.classes[hurt].image.amount > 0
    assert {policy.method for policy in plan.classes[hurt].features} == {"covariance", "eos"}
    assert float(plan.draws[hurt]) > 0.1
    rest = plan.draws[torch.arange(10) != hurt]
    assert float(rest.max() - rest.min()) < 1e-9


def test_a_class_found_well_gives_up_what_its_size_suggested(quiet: Diagnosis) -> None:
    changed = {"recall_heldout": {9: 1.0}, "recall_heldout_low": {9: 0.95}, "recall_heldout_high": {9: 1.0}}
    plan = make_plan(with_columns(quiet, changed))
    assert Plan.from_counts(quiet.class_names, quiet["count"]).classes[9].features
    assert not plan.classes[9].features
    assert plan.classes[8].features


def test_the_size_of_a_class_is_what_the_line_on_its_count_predicts(quiet: Diagnosis) -> None:
    """A measure that is low because the class is small is no evidence beyond its size, although it lies below the mean."""
    low = {name: {9: value} for name, value in zip(("safe", "safe_low", "safe_high"), (0.3, 0.2, 0.4), strict=True)}
    told = with_columns(quiet, low)
    line = {"slope": 0.0, "intercept": 0.35, "r_squared": 1.0, "scatter": 0.0}
    expected = dataclasses.replace(told, log_count={"safe": line})
    rule = next(rule for rule in OF_CLASSES if rule.measure == "safe")
    rules = (dataclasses.replace(rule, least_count=1),)
    assert float(make_plan(told, rules=rules).feature_column("eos", "share")[9]) > 0.3
    assert float(make_plan(expected, rules=rules).feature_column("eos", "share")[9]) == pytest.approx(0.3)
    assert make_plan(told, rules=(dataclasses.replace(rule, least_count=4),)) == make_plan(told, rules=())


def test_a_rule_of_ones_own(quiet: Diagnosis) -> None:
    mine = Rule(
        name="confused",
        measure="precision_heldout",
        side="low",
        marks=(0.5,),
        changes="features.manifold_mixup.strength",
        amount=lambda beyond, strengths: 2 * beyond,
        text="Only {value:.0%} of what it is given is right.",
        source="Verma et al. 2019",
    )
    changed = {"precision_heldout": {3: 0.2}, "precision_heldout_low": {3: 0.1}, "precision_heldout_high": {3: 0.3}}
    told = with_columns(quiet, changed)
    assert make_plan(told).feature_methods == ("covariance", "eos")
    plan = make_plan(told, rules=(*RULES, mine))
    policy = next(policy for policy in plan.classes[3].features if policy.method == "manifold_mixup")
    assert policy.strength == pytest.approx(0.4)
    assert policy.share > 0
    assert plan.classes[3].reasons[-1].text.startswith("Only 20% of what it is given is right.")
    assert sum(one.method == "manifold_mixup" for each in plan.classes for one in each.features) == 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("amount", [-1e6, -0.3, 0.3, 1e6])
def test_no_rule_can_make_a_plan_that_is_not_valid(path: str, amount: float, quiet: Diagnosis) -> None:
    changed = {"margin": {3: 0.2, 9: 0.2}, "margin_low": {3: 0.1, 9: 0.1}, "margin_high": {3: 0.3, 9: 0.3}}
    rule = dataclasses.replace(
        OF_CLASSES[0], measure="margin", marks=(0.5,), changes=path, amount=lambda beyond, strengths: amount, text="so"
    )
    for strengths in (
        Strengths(),
        Strengths(mixing=Mixing(method="cutmix", probability=0.5), image_least=0.0, image_most=0.3),
    ):
        plan = make_plan(with_columns(quiet, changed), rules=[rule], strengths=strengths)
        assert Plan.from_json(plan.to_json()) == plan
        amounts = [one.image.amount for one in plan.classes]
        assert max(amounts) - min(amounts) <= plan.largest_difference + 1e-9


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"changes": "image.strenght"}, "did you mean 'image.strength'?"),
        ({"measure": "recal_heldout"}, "did you mean 'recall_heldout'?"),
        ({"measure": "head_norm"}, "measure of the rule 'not learned' must be one of"),
        ({"side": "under"}, "side of the rule 'not learned' must be one of low, high, got 'under'"),
        ({"marks": ()}, "marks of the rule 'not learned' must hold at least one, got none"),
        ({"marks": ("median",)}, "marks of the rule 'not learned' must be numbers, 'mean' or 'size', got 'median'"),
        ({"amount": lambda *_: math.nan}, "amount of the rule 'not learned' must be a finite number, got nan"),
        ({"text": "{valeu}"}, "text of the rule 'not learned' must use only {value}, {low}, {high} and {mark}"),
    ],
)  # fmt: skip
def test_rules_are_checked(fields: dict[str, Any], message: str, quiet: Diagnosis) -> None:
    told, _ = firing(OF_CLASSES[0], quiet, 5, 0.1)
    with pytest.raises(InputError) as error:
        make_plan(told, rules=[dataclasses.replace(OF_CLASSES[0], **fields)])
    assert message in str(error.value)
    with pytest.raises(InputError, match=r"rules must be of diversify\.plan\.Rule or RunRule, got str"):
        make_plan(told, rules="rule")  # type: ignore[arg-type]
