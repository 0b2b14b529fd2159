"""Plans: their rules, their file, and their controls."""

import copy
import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import diversify as dv
from diversify.diagnosis.result import Diagnosis
from diversify.errors import InputError
from diversify.files import atomic
from diversify.functional import draws, image_ops
from diversify.plan.from_counts import rarity
from diversify.plan.make import make_plan
from diversify.plan.plan import Plan
from diversify.plan.policies import ClassPlan, FeaturePolicy, ImagePolicy, Mixing, PriorCorrection, Reason, Schedule
from diversify.plan.rules import PATHS, RULES, Rule, RunRule, pooled_value
from diversify.plan.strengths import Strengths

OF_CLASSES = tuple(rule for rule in RULES if isinstance(rule, Rule))
OF_ALL = tuple(rule for rule in RULES if isinstance(rule, RunRule))
NAMES = ("ant", "bee", "cat", "dog", "elk")
COUNTS = (1000, 300, 100, 30, 10)
NAMES_OF_TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WIDE = 1e3  # an interval that holds every mark


def as_untouched(one: ClassPlan) -> ClassPlan:
    """The class with its draws and reasons left out: what it gets."""
    return one.model_copy(update={"draws": 0.0, "reasons": ()})


def nothing(plan: Plan, c: int) -> bool:
    """True if a class gets nothing."""
    bare = Plan.untouched([one.name for one in plan.classes], plan.class_counts)
    return as_untouched(plan.classes[c]) == as_untouched(bare.classes[c])


def with_columns(diagnosis: Diagnosis, changed: dict[str, dict[int, float]]) -> Diagnosis:
    columns = {name: column.clone() for name, column in diagnosis.columns.items()}
    for name, values in changed.items():
        for c, value in values.items():
            columns[name][c] = value
    return dataclasses.replace(diagnosis, columns=columns)


@pytest.fixture(scope="module")
def quiet(diagnosis: Diagnosis) -> Diagnosis:
    """A diagnosis without clear findings: every interval contains every mark, and no class's magnitudes are measured.

    The network knows its training images by heart.
    """
    columns = {name: column.clone() for name, column in diagnosis.columns.items()}
    for name in columns:
        if name.endswith(("_low", "_high")):
            columns[name].fill_(-WIDE if name.endswith("_low") else WIDE)
            columns[name.rpartition("_")[0]].fill_(0.5)
    columns["ce_magnitude_ratio"].fill_(math.nan)
    columns["recall_train"].fill_(1.0)
    return dataclasses.replace(diagnosis, columns=columns, log_count={})


@pytest.fixture(scope="module")
def equal(quiet: Diagnosis) -> Diagnosis:
    """The same with equal class sizes."""
    columns = {**quiet.columns, "count": torch.full_like(quiet["count"], 50.0)}
    return dataclasses.replace(quiet, columns=columns)


# From the counts


@given(st.lists(st.integers(1, 100_000), min_size=2, max_size=30))
def test_rarity_is_0_for_the_largest_1_for_the_rarest_and_falls_with_count(counts: list[int]) -> None:
    values = rarity(counts)
    if min(counts) == max(counts):
        assert values == [0.0] * len(counts)
        return
    assert values[counts.index(max(counts))] == 0
    assert values[counts.index(min(counts))] == 1
    raw = [1 - math.log(n) / math.log(max(counts)) for n in counts]
    assert values == pytest.approx([one / max(raw) for one in raw])
    order = sorted(range(len(counts)), key=counts.__getitem__)
    assert [values[c] for c in order] == sorted(values, reverse=True)


@given(st.lists(st.integers(0, 5000), min_size=2, max_size=20).filter(any), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_draws_lie_between_natural_and_even(counts: list[int], exponent: float) -> None:
    names = [f"class {c}" for c in range(len(counts))]
    shares = Plan.from_counts(names, counts, strengths=Strengths(draws_exponent=exponent)).draws.tolist()
    weights = [n**exponent if n else 0.0 for n in counts]
    assert shares == pytest.approx([w / sum(weights) for w in weights], rel=1e-6)


def test_what_a_class_gets_from_counts_grows_with_rarity_and_is_bounded() -> None:
    strengths = Strengths(
        covariance=0.5, covariance_share=0.6, eos_share=0.2, image_least=0.2, image_most=0.8, image_probability=0.5
    )
    plan = Plan.from_counts(NAMES, COUNTS, strengths=strengths)
    for method, name in (("covariance", "strength"), ("covariance", "share"), ("eos", "share")):
        column = plan.feature_column(method, name)
        assert column[0] == 0
        assert bool((column.diff() > 0).all())
    strength = plan.image_column("strength")
    assert bool((strength.diff() > 0).all())
    assert strength[[0, -1]].tolist() == pytest.approx([0.2, 0.8])
    assert set(plan.image_column("probability").tolist()) == {0.5}
    rarest = {policy.method: policy for policy in plan.classes[-1].features}
    assert (rarest["covariance"].strength, rarest["covariance"].share, rarest["eos"].share) == (0.5, 0.6, 0.2)


def test_every_choice_from_counts_says_why() -> None:
    strengths = Strengths(draws_exponent=0.5, mixing=Mixing(method="cutmix", probability=0.5))
    plan = Plan.from_counts(NAMES, COUNTS, strengths=strengths)
    for one in plan.classes:
        choices = {"draws", "image", "mixing", *(f"features.{policy.method}" for policy in one.features)}
        assert {reason.choice for reason in one.reasons} == choices
        for reason in one.reasons:
            assert (reason.measure, reason.value, reason.compared_with) == ("count", one.count, 1000)
            assert reason.text.endswith(".")
            assert reason.source


@pytest.mark.parametrize("counts", [(50,) * 5, (1,) * 5, (0, 7, 7, 0, 7)])
def test_where_no_class_is_rare_nobody_gets_anything(counts: tuple[int, ...]) -> None:
    for plan in (Plan.from_counts(NAMES, counts), Plan.uniform(NAMES, counts)):
        assert all(nothing(plan, c) for c in range(5))
        assert plan.draws.tolist() == pytest.approx(Plan.untouched(NAMES, counts).draws.tolist())


def test_a_class_without_images_is_left_alone() -> None:
    for plan in (Plan.from_counts(NAMES, (100, 0, 10, 5, 0)), Plan.uniform(NAMES, (100, 0, 10, 5, 0))):
        assert [nothing(plan, c) for c in range(5)] == [False, True, False, False, True]
        assert plan.draws[[1, 4]].tolist() == [0, 0]
        assert not plan.classes[1].reasons


def test_a_uniform_plan_treats_every_class_alike() -> None:
    plan = Plan.uniform(NAMES, COUNTS)
    first = plan.classes[0]
    assert all(
        (one.image, one.mixing, one.features) == (first.image, first.mixing, first.features) for one in plan.classes
    )
    assert plan.feature_methods == ("covariance", "eos")
    assert (
        Plan.uniform(NAMES, COUNTS, level=1.0).classes[0].features
        == Plan.from_counts(NAMES, COUNTS).classes[-1].features
    )
    assert not Plan.uniform(NAMES, COUNTS, level=0.0).feature_methods


def test_the_controls_share_every_setting_of_the_run(diagnosis: Diagnosis) -> None:
    strengths = Strengths(
        prior_correction=PriorCorrection(training=0.5, after=0.5),
        schedule=Schedule(start=0.1, ramp=0.2, stop=0.9),
        images_per_epoch=123,
        largest_difference=0.2,
        draws_exponent=0.25,
    )
    names, counts = diagnosis.class_names, diagnosis["count"]
    plans = [
        Plan.from_counts(names, counts, strengths=strengths),
        Plan.uniform(names, counts, strengths=strengths),
        make_plan(diagnosis, strengths=strengths),
        make_plan(diagnosis.permuted(0), strengths=strengths),
    ]
    assert [plan.made_from for plan in plans] == ["counts", "uniform", "diagnosis", "permuted diagnosis"]
    shared = [plan.model_dump(exclude={"classes", "made_from"}) for plan in plans]
    assert all(one == shared[0] for one in shared)
    assert shared[0]["images_per_epoch"] == 123
    assert bool((plans[0].draws == plans[1].draws).all())


# From a diagnosis


def test_where_nothing_is_sure_the_counts_decide_alone(quiet: Diagnosis) -> None:
    base = Plan.from_counts(quiet.class_names, quiet["count"])
    assert base.diff(make_plan(quiet)) == ("made_from: counts -> diagnosis",)
    assert [one.reasons for one in make_plan(quiet).classes] == [one.reasons for one in base.classes]


def with_gap(diagnosis: Diagnosis, gap: float) -> Diagnosis:
    """Held-out recall is one half, and training recall is higher by this."""
    return with_columns(diagnosis, {"recall_train": dict.fromkeys(range(len(diagnosis.class_names)), 0.5 + gap)})


def test_images_are_varied_the_less_the_less_is_known_by_heart(quiet: Diagnosis) -> None:
    plans = [make_plan(with_gap(quiet, gap)) for gap in (-0.1, 0.08, 0.11, 0.125, 0.14, 0.2, 0.5)]
    amounts = [[one.image.amount for one in plan.classes] for plan in plans]
    mixed = [plan.mixing_column("probability").tolist() for plan in plans]
    for column in zip(*amounts, strict=True):
        assert list(column) == sorted(column)
        assert column[0] == column[1] == 0
        assert 0 < column[2] < column[3] < column[4] < column[5] == column[6]
    assert mixed[0] == mixed[1] == [0.0] * len(quiet.class_names)
    assert mixed[3] == pytest.approx([0.25] * len(quiet.class_names))
    assert mixed[5] == mixed[6] == [0.5] * len(quiet.class_names)
    counted = Plan.from_counts(quiet.class_names, quiet["count"])
    assert amounts[6] == [one.image.amount for one in counted.classes]
    for plan, told in zip(plans, (True, True, True, True, True, False, False), strict=True):
        reasons = [[one for one in each.reasons if one.rule == "little overfitting"] for each in plan.classes]
        assert [len(one) for one in reasons] == [int(told)] * len(quiet.class_names)
    told = plans[2].classes[0].reasons[0]
    assert (told.value, told.compared_with) == pytest.approx((0.61, 0.5))
    assert "61% on training images and 50% on held-out images" in told.text
    assert all(not one.image.operations and one.mixing == Mixing() for one in plans[0].classes)
    assert all([one.choice for one in each.reasons].count("mixing") == 0 for each in plans[0].classes)


def test_too_few_held_out_images_do_not_show_what_is_known_by_heart(quiet: Diagnosis) -> None:
    places = range(len(quiet.class_names))
    few, enough = (
        with_columns(with_gap(quiet, 0.0), {"count_heldout": dict.fromkeys(places, each)}) for each in (9.0, 10.0)
    )
    assert make_plan(few).diff(Plan.from_counts(quiet.class_names, quiet["count"])) == (
        "made_from: diagnosis -> counts",
    )
    assert all(not one.image.amount for one in make_plan(enough).classes)


def test_a_base_of_ones_own_keeps_its_images(quiet: Diagnosis) -> None:
    base = Plan.from_counts(quiet.class_names, quiet["count"])
    plan = make_plan(with_gap(quiet, 0.0), base=base)
    assert [one.image for one in plan.classes] == [one.image for one in base.classes]


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


def test_feature_policies_do_not_depend_on_what_is_known_by_heart(quiet: Diagnosis) -> None:
    one, other = (make_plan(with_gap(quiet, gap)) for gap in (0.0, 0.4))
    assert [each.features for each in one.classes] == [each.features for each in other.classes]
    assert torch.equal(one.draws, other.draws)


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


# Toward the enemies, where the magnitudes are measured


def with_ratio(diagnosis: Diagnosis, values: dict[int, float], **changes: Any) -> Diagnosis:
    """The diagnosis with the top-K magnitude ratio of some classes measured, each in an interval that holds 1."""
    ends = {"": values, "_low": dict.fromkeys(values, -WIDE), "_high": dict.fromkeys(values, WIDE)}
    told = with_columns(diagnosis, {f"ce_magnitude_ratio{end}": each for end, each in ends.items()})
    return dataclasses.replace(told, **changes)


def shares_of(enemies: torch.Tensor, c: int) -> torch.Tensor:
    """The shares of one class's enemies, those below 1% left out."""
    row = enemies[c].double().clone()
    row[c] = 0
    row = row.where(row >= 0.01 * row.sum(), 0)
    return row / row.sum()


def test_what_is_measured_takes_the_place_of_what_rarity_suggested(quiet: Diagnosis) -> None:
    rare, other = 9, 8
    base = Plan.from_counts(quiet.class_names, quiet["count"])
    assert {policy.method for policy in base.classes[rare].features} == {"covariance", "eos"}
    faded = make_plan(with_ratio(quiet, {rare: 0.8}))
    (policy,) = faded.classes[rare].features
    assert (policy.method, policy.strength, policy.share) == ("toward_enemies", pytest.approx(1.75 * 0.2), 1.0)
    assert faded.classes[other] == base.classes[other].model_copy(update={"draws": faded.classes[other].draws})
    choices = [reason.choice for reason in faded.classes[rare].reasons]
    assert not {"features.covariance", "features.eos"} & set(choices)
    reason = faded.classes[rare].reasons[choices.index("features.toward_enemies.strength")]
    assert "of their training magnitude. Pooled with what class size predicts, the estimate is 0.80." in reason.text
    assert "The partner classes are those that it is confused with. It gets interpolation toward the classes" in reason.text
    assert reason.rule == "magnitude gap"
    assert reason.text.endswith(
        "This measurement replaces the feature augmentation that class size suggests (covariance, eos)."
    )
    for ratio in (0.98, 1.0, 1.3):  # too little to be told from the choice of the top-K, or nothing lost
        assert make_plan(with_ratio(quiet, {rare: ratio})).classes[rare].features == ()
    for common in (0, 5):
        assert make_plan(with_ratio(quiet, {common: 0.8})).classes[common].features[0].method == "toward_enemies"


def test_a_class_without_errors_has_no_enemies_to_go_toward(quiet: Diagnosis) -> None:
    enemies = quiet.enemies.clone()
    enemies[9] = torch.nan
    found = {"recall_heldout": {9: 1.0}, "recall_heldout_low": {9: 0.6}, "recall_heldout_high": {9: 1.0}}
    one = make_plan(dataclasses.replace(with_ratio(with_columns(quiet, found), {9: 0.8}), enemies=enemies)).classes[9]
    assert one.features == ()
    (reason,) = (reason for reason in one.reasons if reason.rule == "magnitude gap")
    assert "It has no held-out errors that show with which classes it is confused." in reason.text


def test_a_class_found_well_goes_toward_its_enemies_too(quiet: Diagnosis) -> None:
    found = {"recall_heldout": {9: 1.0}, "recall_heldout_low": {9: 0.95}, "recall_heldout_high": {9: 1.0}}
    plan = make_plan(with_ratio(with_columns(quiet, found), {9: 0.8}))
    assert [(policy.method, policy.share) for policy in plan.classes[9].features] == [("toward_enemies", 1.0)]


def test_what_scaled_the_policies_that_were_replaced_is_not_told(quiet: Diagnosis) -> None:
    found = {"recall_heldout": {9: 0.99}, "recall_heldout_low": {9: 0.6}, "recall_heldout_high": {9: 1.0}}
    told = with_columns(quiet, found)
    assert "features.share" in [reason.choice for reason in make_plan(told).classes[9].reasons]
    replaced = make_plan(with_ratio(told, {9: 0.8}))
    assert [policy.method for policy in replaced.classes[9].features] == ["toward_enemies"]
    assert "features.share" not in [reason.choice for reason in replaced.classes[9].reasons]
    sent = replaced.classes[9].model_copy(update={"reasons": ()})
    base = replaced.model_copy(update={"classes": (*replaced.classes[:9], sent)})
    kept = make_plan(with_ratio(told, {9: 0.8}), base=base).classes[9]
    assert kept.features[0].share < 1
    assert "features.share" in [reason.choice for reason in kept.reasons]


def test_one_held_out_image_has_no_interval_and_still_counts(quiet: Diagnosis) -> None:
    line = {"slope": 0.0, "intercept": 0.8, "r_squared": 1.0, "scatter": 0.0}
    told = with_ratio(quiet, {9: 0.6})
    nothing = {f"ce_magnitude_ratio_{end}": {9: math.nan} for end in ("low", "high")}
    told = with_columns(told, {**nothing, "count_heldout": {9: 1.0}})
    one = make_plan(dataclasses.replace(told, log_count={"ce_magnitude_ratio": line})).classes[9]
    assert [policy.method for policy in one.features] == ["toward_enemies"]
    (reason,) = [reason for reason in one.reasons if reason.rule == "magnitude gap"]
    assert (reason.value, reason.low, reason.high) == (pytest.approx(0.6), None, None)
    assert reason.text.startswith("On held-out images its top-K features have 60% of their training magnitude.")
    absent = with_columns(told, {"ce_magnitude_ratio": {9: math.nan}})
    kept = make_plan(dataclasses.replace(absent, log_count={"ce_magnitude_ratio": line})).classes[9]
    assert {policy.method for policy in kept.features} == {"covariance", "eos"}, "nothing was measured"


def test_what_later_rules_measure_is_added(quiet: Diagnosis) -> None:
    unsafe = with_columns(quiet, {"safe": {5: 0.2}, "safe_low": {5: 0.1}, "safe_high": {5: 0.3}})
    plan = make_plan(with_ratio(unsafe, {5: 0.8}))
    assert {policy.method for policy in plan.classes[5].features} == {"toward_enemies", "eos"}
    assert sum(policy.share for policy in plan.classes[5].features) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("images", [0, 20, 180, 10**9])
def test_a_measured_magnitude_counts_the_more_the_more_held_out_images_it_is_from(
    images: int, quiet: Diagnosis
) -> None:
    c, slope, intercept = 5, 0.02, 0.8
    line = {"slope": slope, "intercept": intercept, "r_squared": 1.0, "scatter": 0.0}
    expected = intercept + slope * math.log(float(quiet["count"][c]))
    own = images / (images + 200)
    for value in (0.5, 0.7):
        counted = with_columns(with_ratio(quiet, {c: value}), {"count_heldout": {c: float(images)}})
        told = dataclasses.replace(counted, log_count={"ce_magnitude_ratio": line})
        pooled = own * value + (1 - own) * expected
        assert pooled_value("ce_magnitude_ratio", told, c) == pytest.approx(pooled)
        (policy,) = make_plan(told).classes[c].features
        assert policy.strength == pytest.approx(1.75 * (1 - pooled), abs=1e-4)
    without_line = with_ratio(quiet, {c: 0.5, 6: 0.9})
    mean = own * 0.5 + (1 - own) * (0.7 if images else 0.9)  # what was not seen says nothing of the others
    counted = with_columns(without_line, {"count_heldout": {c: float(images)}})
    assert pooled_value("ce_magnitude_ratio", counted, c) == pytest.approx(mean)


def test_a_class_goes_toward_the_classes_that_its_errors_lie_among(diagnosis: Diagnosis) -> None:
    counted = diagnosis.enemies.clone().fill_diagonal_(50)  # what lies among its own is no error
    told = with_ratio(diagnosis, dict.fromkeys(range(10), 0.5), enemies=counted)
    plan = make_plan(told)
    assert all(policy.method == "toward_enemies" for one in plan.classes for policy in one.features[:1])
    seen = 0
    for c, one in enumerate(plan.classes):
        for policy in (policy for policy in one.features if policy.method == "toward_enemies"):
            seen += 1
            assert math.fsum(policy.toward.values()) == pytest.approx(1, abs=1e-3)
            assert set(policy.toward) <= set(NAMES_OF_TEN) - {one.name}
            assert list(policy.toward.values()) == sorted(policy.toward.values(), reverse=True)
            assert torch.allclose(plan.enemies[c], shares_of(told.enemies, c), atol=1e-4)
    assert seen >= 5
    assert plan.enemies.diagonal().tolist() == [0.0] * 10
    assert Plan.from_json(plan.to_json()) == plan
    absent = with_columns(told, {"count": {3: 0.0}})
    assert not any("cat" in policy.toward for one in make_plan(absent).classes for policy in one.features)


def test_a_permuted_diagnosis_sends_classes_toward_others(diagnosis: Diagnosis) -> None:
    told = with_ratio(diagnosis, {c: 0.5 + c / 25 for c in range(10)})
    plan = make_plan(told)
    for seed in range(3):
        permuted = told.permuted(seed)
        control = make_plan(permuted)
        assert not torch.allclose(control.enemies, plan.enemies, atol=0.05)
        strengths = [one.feature_column("toward_enemies", "strength") for one in (plan, control)]
        assert not torch.equal(*strengths)
        for c in range(10):
            if float(control.enemies[c].sum()):
                assert torch.allclose(control.enemies[c], shares_of(permuted.enemies, c), atol=1e-4)


def test_a_class_without_errors_goes_nowhere_or_where_the_base_sends_it(quiet: Diagnosis) -> None:
    told = with_ratio(quiet, {5: 0.8}, enemies=torch.zeros_like(quiet.enemies))
    assert make_plan(told).classes[5].features == ()
    values = Plan.from_counts(quiet.class_names, quiet["count"].long()).to_dict()
    sent = {"method": "toward_enemies", "strength": 0.5, "share": 0.5, "toward": {"cat": 1.0}}
    values["classes"][5]["features"] = [sent]
    unlike = with_columns(told, {"identity_overlap_high": {5: 0.3}})
    one = make_plan(unlike, base=Plan.from_dict(values)).classes[5]
    assert one.image.strength > values["classes"][5]["image"]["strength"]
    assert [(policy.strength, policy.toward) for policy in one.features] == [(0.5, {"cat": 1.0})]


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


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 30), holes=st.floats(0, 0.5))
def test_whatever_was_measured_makes_a_valid_plan(quiet: Diagnosis, seed: int, holes: float) -> None:
    columns = {}
    for number, name in enumerate(quiet.columns):
        drawn = draws.uniform("measured", seed, number, torch.arange(10)).double() * 2 - 0.5
        gone = draws.uniform("gone", seed, number, torch.arange(10)) < holes
        columns[name] = drawn.masked_fill(gone, math.nan)
        if name in ("count", "count_heldout"):
            columns[name] = (drawn.clamp(min=0) * 300).round()
        elif name.endswith(("_low", "_high")):
            side = -1 if name.endswith("_low") else 1
            columns[name] = columns[name.rpartition("_")[0]] + side * drawn.abs() / 4
    told = dataclasses.replace(quiet, columns=columns)
    plan = make_plan(told)
    assert Plan.from_json(plan.to_json()) == plan
    for one in plan.classes:
        assert one.count or (one.draws == 0 and not one.features and not one.image.amount and not one.reasons)
    assert make_plan(told.permuted(seed)).num_classes == 10


def test_what_was_bounded_is_said(quiet: Diagnosis) -> None:
    changed = {"margin": {9: 0.2}, "margin_low": {9: 0.1}, "margin_high": {9: 0.3}}
    rule = dataclasses.replace(
        OF_CLASSES[0], measure="margin", marks=(0.5,), changes="image.strength", amount=lambda *_: 1.0, text="so"
    )
    plan = make_plan(with_columns(quiet, changed), rules=[rule], strengths=Strengths(largest_difference=0.2))
    assert plan.classes[9].image.strength == pytest.approx(0.5 + 0.2 / 0.9, abs=1e-4)
    assert plan.classes[9].reasons[-1].rule == "bounded"


def test_more_layers_count_as_more_where_classes_are_bounded(quiet: Diagnosis) -> None:
    counted = Plan.from_counts(quiet.class_names, quiet["count"])
    values = counted.to_dict()
    for one in values["classes"][:-1]:
        one["image"] |= {"layers": 1, "strength": 0.8}
    values["classes"][-1]["image"] |= {
        "layers": 4,
        "strength": 0.25,
    }  # as 1.0 against 0.8: as far apart as may be at 0.9
    base = Plan.from_dict(values | {"largest_difference": 0.2 * 0.9})
    changed = {"margin": {9: 0.2}, "margin_low": {9: 0.1}, "margin_high": {9: 0.3}}
    rule = dataclasses.replace(
        OF_CLASSES[0], measure="margin", marks=(0.5,), changes="image.strength", amount=lambda *_: 1.0, text="so"
    )
    plan = make_plan(with_columns(quiet, changed), base=base, rules=[rule])
    assert plan.classes[9].image == base.classes[9].image
    assert plan.classes[9].reasons[-1].rule == "bounded"
    values["classes"][-1]["image"]["strength"] = 0.26
    with pytest.raises(InputError, match="strength x probability x layers / fewest layers differ by at most"):
        Plan.from_dict(values | {"largest_difference": 0.2 * 0.9})


def test_donors_are_similar_unless_said_and_rules_leave_them(quiet: Diagnosis) -> None:
    names, counts = quiet.class_names, quiet["count"].long()
    values = Plan.from_counts(names, counts).to_dict()
    written = copy.deepcopy(values)
    for one in values["classes"]:
        assert [policy.pop("donors") for policy in one["features"]] == ["similar"] * len(one["features"])
    assert Plan.from_dict(values).to_dict() == written
    values["classes"][9]["features"][0]["donors"] = "pooled"
    base = Plan.from_dict(values)
    assert Plan.from_json(base.to_json()) == base
    assert base.feature_column("covariance", "pooled").tolist() == [0.0] * 9 + [1.0]
    unfound = {"recall_heldout": {9: 0.01}, "recall_heldout_low": {9: 0.0}, "recall_heldout_high": {9: 0.02}}
    plan = make_plan(with_columns(quiet, unfound), base=base)
    assert plan.classes[9].features != base.classes[9].features
    assert plan.classes[9].features[0].donors == "pooled"
    assert Plan.from_dict(written).diff(base) == ("classes.truck.features.covariance.donors: similar -> pooled",)


def test_a_plan_of_ones_own_is_the_base(diagnosis: Diagnosis) -> None:
    names, counts = diagnosis.class_names, diagnosis["count"].long()
    values = Plan.untouched(names, counts).to_dict()
    values["classes"][0]["features"] = [{"method": "isda", "strength": 0.5, "share": 0.001, "neighbors": 3}]
    base = Plan.from_dict(values)
    plan = make_plan(diagnosis, base=base)
    assert make_plan(diagnosis, base=base, rules=()).classes == base.classes
    assert plan.prior_correction == base.prior_correction
    assert not any(reason.measure == "count" for one in plan.classes for reason in one.reasons)
    with pytest.raises(InputError, match="base must have the diagnosis's classes"):
        make_plan(diagnosis, base=Plan.untouched(names, counts.flip(0)))


def test_a_diagnosis_on_test_is_a_dead_end(diagnosis: Diagnosis) -> None:
    tested = dataclasses.replace(diagnosis, heldout_split="test")
    for one in (tested, tested.permuted(3)):
        with pytest.raises(InputError, match="diagnosis must be made on the validation set to make a plan from, got one made on test"):
            make_plan(one)


def test_the_same_diagnosis_from_its_file_gives_the_same_plan(diagnosis: Diagnosis) -> None:
    kept = Diagnosis.from_json(diagnosis.to_json())
    again = Diagnosis.from_json(kept.to_json())
    assert make_plan(kept) == make_plan(again) == make_plan(again)


# The permuted diagnosis


@pytest.mark.parametrize("seed", range(5))
def test_a_permuted_diagnosis_gives_each_class_the_measures_of_another(diagnosis: Diagnosis, seed: int) -> None:
    permuted = diagnosis.permuted(seed)
    recall = diagnosis["feature_deviation"].nan_to_num(-1) + 1000 * diagnosis["margin"]  # tells every class apart
    moved = permuted["feature_deviation"].nan_to_num(-1) + 1000 * permuted["margin"]
    source = [int((recall == value).nonzero()) for value in moved]
    assert sorted(source) == list(range(10))
    assert all(old != new for new, old in enumerate(source))
    assert permuted.class_names == diagnosis.class_names
    assert permuted["count"].equal(diagnosis["count"])
    for name, column in diagnosis.columns.items():
        if name not in ("count", "recall_log_count"):
            assert permuted[name].equal(column[source]) or bool(column.isnan().any())
            assert torch.allclose(permuted[name], column[source], equal_nan=True)
    for field in dataclasses.fields(diagnosis):
        if field.name.startswith("top_k_"):
            assert getattr(permuted, field.name).equal(getattr(diagnosis, field.name)[source])
    for one in range(10):
        for other in range(10):
            assert permuted.enemies[one, other].equal(diagnosis.enemies[source[one], source[other]])
    for finding in permuted.findings:
        recall_of = next(one for one in finding.evidence if one.measure == "recall_heldout")
        assert recall_of.value == float(permuted["recall_heldout"][finding.class_index])
        assert finding.class_name in finding.text
    assert len(permuted.findings) == len(diagnosis.findings)
    assert permuted.to_json() == diagnosis.permuted(seed).to_json()
    assert Diagnosis.from_json(permuted.to_json()).permuted_by == seed


def test_permutations_differ_by_seed_and_leave_absent_classes(diagnosis: Diagnosis) -> None:
    assert len({diagnosis.permuted(seed).to_json().replace(f'"permuted_by": {seed}', "") for seed in range(6)}) == 6
    empty = with_columns(diagnosis, {"count": {0: 0.0, 5: 0.0}, "margin": {0: math.nan, 5: math.nan}})
    margins = empty.permuted(1)["margin"]
    assert margins.isnan().nonzero().view(-1).tolist() == [0, 5]
    one = with_columns(diagnosis, {"count": dict.fromkeys(range(1, 10), 0.0)})
    with pytest.raises(InputError, match="at least two classes with training images"):
        one.permuted(0)


@pytest.mark.parametrize("column", ["count", "recall_heldout", "recall_heldout_low"])
def test_a_diagnosis_without_what_plans_need_is_refused(diagnosis: Diagnosis, column: str) -> None:
    columns = {name: values for name, values in diagnosis.columns.items() if name != column}
    with pytest.raises(InputError, match=f"diagnosis must have the column {column}, got none; diagnose again"):
        make_plan(dataclasses.replace(diagnosis, columns=columns))


def test_a_true_diagnosis_does_not_say_that_it_is_permuted(diagnosis: Diagnosis) -> None:
    assert "permuted_by" not in diagnosis.to_dict()
    assert Diagnosis.from_dict(diagnosis.to_dict()).permuted_by is None


# The file

numbers = st.floats(0, 1, allow_nan=False)
texts = st.text(st.characters(codec="utf-8"), max_size=12)
optional = st.none() | st.floats(allow_nan=False, allow_infinity=False)
reasons = st.builds(
    Reason, rule=texts, choice=texts, measure=texts, value=optional, low=optional, high=optional,
    compared_with=optional, text=texts, source=texts,
)  # fmt: skip
images = st.builds(
    ImagePolicy,
    operations=st.lists(st.sampled_from(image_ops.OPERATIONS), unique=True, max_size=3).map(tuple),
    layers=st.integers(1, 8),
    strength=numbers,
    probability=st.floats(0, 0.9),
)
mixings = st.builds(
    Mixing, method=st.sampled_from(["none", "cutmix", "mixup", "remix"]), probability=numbers, partner=st.floats(0, 1e9)
)


@st.composite
def feature_policies(draw: st.DrawFn, others: list[str]) -> tuple[FeaturePolicy, ...]:
    known = ["eos", "smote", "covariance", "isda", *(["toward_enemies"] if others else [])]
    methods = draw(st.lists(st.sampled_from(known), unique=True, max_size=3))
    enemies = draw(st.lists(st.sampled_from(others), unique=True, min_size=1)) if others else []
    weights = [draw(st.floats(0.01, 1)) for _ in enemies]
    toward = {name: weight / math.fsum(weights) for name, weight in zip(enemies, weights, strict=True)}
    return tuple(
        FeaturePolicy(
            method=method,
            strength=draw(numbers),
            share=draw(st.floats(0, 1 / 3)),
            neighbors=draw(st.integers(1, 1 << 20)),
            toward=toward if method == "toward_enemies" else {},
            donors=draw(st.sampled_from(["similar", "pooled"])) if method in ("covariance", "isda") else "similar",
        )
        for method in methods
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    names = draw(st.lists(texts, min_size=1, max_size=4, unique=True))
    weights = [draw(st.floats(0.01, 1)) for _ in names]
    stops = sorted((draw(numbers), draw(numbers)))
    return Plan(
        made_from=draw(texts),
        classes=tuple(
            ClassPlan(
                name=name,
                count=draw(st.integers(1, 1 << 53)),
                draws=weight / math.fsum(weights),
                image=draw(images),
                mixing=draw(mixings),
                features=draw(feature_policies([other for other in names if other != name])),
                reasons=tuple(draw(st.lists(reasons, max_size=2))),
            )
            for name, weight in zip(names, weights, strict=True)
        ),
        prior_correction=PriorCorrection(training=draw(st.floats(0, 4)), after=draw(st.floats(0, 4))),
        schedule=Schedule(start=stops[0], ramp=draw(numbers), stop=stops[1]),
        images_per_epoch=draw(st.none() | st.integers(1, 1 << 53)),
        largest_difference=1.0,
        reasons=tuple(draw(st.lists(reasons, max_size=1))),
    )


def plan_or_line(call: Callable[[], Plan]) -> Plan | str:
    """The plan that was read, or the error message if it was refused; any other exception is raised."""
    try:
        return call()
    except InputError as error:
        return str(error)


fast = settings(max_examples=60, deadline=None)


@fast
@given(plans())
def test_a_plan_comes_back_from_its_file_exactly(plan: Plan) -> None:
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan.from_json(plan.to_json()).to_json() == plan.to_json()
    assert plan.diff(plan) == ()


@fast
@given(plans(), st.data())
def test_a_damaged_file_is_a_plan_or_one_clear_line(plan: Plan, data: st.DataObject) -> None:
    text = plan.to_json()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    damaged = text[:start] + data.draw(st.text(max_size=3) | st.sampled_from('{}[],:0-9.e"')) + text[end:]
    again = plan_or_line(lambda: Plan.from_json(damaged))
    if isinstance(again, Plan):
        assert Plan.from_json(again.to_json()) == again
    else:
        assert re.fullmatch(r"\S.* must .*, got .*", again), again


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, one in inner for place in places(one, (*path, name)))]


@settings(max_examples=150, deadline=None)
@given(plans(), junk, st.data())
def test_a_wrong_value_is_named_by_its_path(plan: Plan, wrong: Any, data: st.DataObject) -> None:
    values = plan.to_dict()
    place = data.draw(st.sampled_from([place for place in places(values) if place]))
    *above, last = place
    holder = values
    for name in above:
        holder = holder[name]
    holder[last] = wrong
    line = plan_or_line(lambda: Plan.from_dict(values))
    if isinstance(line, str) and not isinstance(wrong, (dict, list)):
        named, path = line.split(" must ")[0].removesuffix(" of the plan"), ".".join(map(str, place))
        # A value of the right type may break a law of what holds it.
        assert named.startswith(path) or path.startswith(named.split(".")[0]), line


def test_text_that_is_no_plan() -> None:
    for text in ("", "[]", "3", "null", '"plan"', "{}", "[" * 100_000, "1" * 5000, '{"classes": NaN}', "\ufeff{}"):
        with pytest.raises(InputError, match=r"^(\S+ of the )?plan must "):
            Plan.from_json(text)


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    text = Plan.untouched(["a"], [3]).to_json().replace('"draws": 1.0', '"draws": 0.5, "draws": 1.0')
    with pytest.raises(InputError, match=r"^plan must be whole, valid JSON, got 'draws' twice in one object$"):
        Plan.from_json(text)
    file = tmp_path / "plan.json"
    for damaged in (text, "[" * 100_000):
        file.write_text(damaged, encoding="utf-8")
        with pytest.raises(InputError, match=r"^--plan must be whole, valid JSON, got "):
            atomic.read_json(file, "--plan")


def edited(path: str, value: Any) -> dict[str, Any]:
    """A plan's values with one replaced, or removed if it is `...`."""
    values: Any = Plan.from_counts(NAMES, COUNTS).to_dict()
    *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    holder = values
    for name in above:
        holder = holder[name]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return dict(values)


MESSAGES: list[tuple[str, Any, str]] = [
    ("classes.3.draws", ..., "classes.3.draws of the plan must be given, got nothing"),
    ("classes", ..., "classes of the plan must be given, got nothing"),
    ("classes.0.imgae", {}, "classes.0.imgae of the plan must not be there, got {}; did you mean 'image'?"),
    ("classes.4.image.strength", 2, "classes.4.image.strength of the plan must be at most 1, got 2"),
    ("classes.4.image.strength", -0.5, "classes.4.image.strength of the plan must be at least 0, got -0.5"),
    ("classes.4.image.strength", "0.5", "classes.4.image.strength of the plan must be a number, got '0.5'"),
    ("classes.4.image.strength", True, "classes.4.image.strength of the plan must be a number, got True"),
    ("classes.4.image.strength", math.nan, "classes.4.image.strength of the plan must be finite, got nan"),
    ("classes.4.image.probability", 0.95, "classes.4.image.probability of the plan must be at most 0.9, got 0.95"),
    ("classes.4.image.layers", 9, "classes.4.image.layers of the plan must be at most 8, got 9"),
    ("classes.4.image.layers", 1.5, "classes.4.image.layers of the plan must be an integer, got 1.5"),
    (
        "classes.4.image.operations",
        ["flip", "flip"],
        "classes.4.image.operations of the plan must be named once each, got 'flip' 2 times",
    ),
    (
        "classes.4.image.operations",
        ["flop"],
        f"classes.4.image.operations of the plan must be among {', '.join(image_ops.OPERATIONS)}, got 'flop'",
    ),
    (
        "classes.4.mixing.method",
        "cutmax",
        "classes.4.mixing.method of the plan must be 'none', 'cutmix', 'mixup' or 'remix', got 'cutmax'",
    ),
    ("classes.4.mixing.partner", -1, "classes.4.mixing.partner of the plan must be at least 0, got -1"),
    (
        "classes.4.features.0.share",
        0.9,
        "classes.4.features of the plan must have shares that sum to at most 1, got 1.2",
    ),
    (
        "classes.4.features.1.method",
        "covariance",
        "classes.4.features of the plan must have different methods, got 'covariance' 2 times",
    ),
    *(
        ("classes.4.features.0", {"method": method, "strength": 0.5, "share": 0.5, "toward": toward}, message)
        for method, toward, message in (
            ("toward_enemies", {}, "classes.4.features.0.toward of the plan must have shares that sum to 1, got 0"),
            (
                "toward_enemies",
                {"ant": 0.5, "bee": 0.25},
                "classes.4.features.0.toward of the plan must have shares that sum to 1, got 0.75",
            ),
            (
                "toward_enemies",
                {"ant": 0.5, "owl": 0.5},
                "classes.4.features.0.toward of the plan must name other classes of the plan, got 'owl'",
            ),
            (
                "toward_enemies",
                {"elk": 1.0},
                "classes.4.features.0.toward of the plan must name other classes of the plan, got 'elk'",
            ),
            (
                "toward_enemies",
                {"ant": 1.5},
                "classes.4.features.0.toward.ant of the plan must be at most 1, got 1.5",
            ),
            (
                "toward_enemies",
                {"ant": "all"},
                "classes.4.features.0.toward.ant of the plan must be a number, got 'all'",
            ),
            ("toward_enemies", [], "classes.4.features.0.toward of the plan must be an object, got []"),
            (
                "smote",
                {"ant": 0.5, "bee": 0.5},
                "classes.4.features.0.toward of the plan must be left out unless method is toward_enemies, got ant, bee",
            ),
        )
    ),
    *(
        ("classes.4.features", [{"method": method, "strength": 1.0, "share": 0.5, "donors": donors}], message)
        for method, donors, message in (
            (
                "eos",
                "pooled",
                "classes.4.features.0.donors of the plan must be left out unless method is covariance or isda, got pooled",
            ),
            ("isda", "all", "classes.4.features.0.donors of the plan must be 'similar' or 'pooled', got 'all'"),
        )
    ),
    ("classes.4.features", {}, "classes.4.features of the plan must be a list, got {}"),
    ("classes.4", [], "classes.4 of the plan must be an object, got []"),
    ("classes.1.name", "ant", "classes.1.name of the plan must differ from that of class 0, got 'ant'"),
    ("classes.1.name", 7, "classes.1.name of the plan must be text, got 7"),
    ("classes.1.count", 0, "classes.1.draws of the plan must be 0 for a class without training images, got 0.208333"),
    ("classes.1.draws", 0.5, "classes of the plan must have draws that sum to 1, got 1.29167"),
    (
        "classes.0.image.strength",
        0,
        "classes of the plan must have image policies whose strength x probability differ by at most largest_difference"
        " (0.2), got 0.63",
    ),
    (
        "classes.0.image.layers",
        8,
        "classes of the plan must have image policies whose strength x probability x layers / fewest layers differ by at most"
        " largest_difference (0.2), got 3.1",
    ),
    ("classes", [], "classes of the plan must hold at least one class, got none"),
    ("schedule.start", 1.0, "schedule.start of the plan must not be larger than stop (0.5), got 1"),
    ("prior_correction.training", 5, "prior_correction.training of the plan must be at most 4, got 5"),
    ("images_per_epoch", 0, "images_per_epoch of the plan must be at least 1, got 0"),
    ("schema_version", 2, "schema_version of the plan must be 1, got 2"),
    ("epochs", 3, "epochs of the plan must not be there, got 3"),
]


@pytest.mark.parametrize(("path", "value", "message"), MESSAGES)
def test_what_is_said_of_a_wrong_field(path: str, value: Any, message: str) -> None:
    values = edited(path, value if not isinstance(value, (dict, list)) else json.loads(json.dumps(value)))
    if "largest_difference" in message:
        values["largest_difference"] = 0.2
    if path == "schedule.start":
        values["schedule"]["stop"] = 0.5
    with pytest.raises(InputError) as error:
        Plan.from_dict(values)
    assert str(error.value) == message


# What one plan does otherwise


def test_a_difference_is_one_line_per_field() -> None:
    plan = Plan.from_counts(NAMES, COUNTS)
    values = plan.to_dict()
    values["classes"][4]["image"]["strength"] = 0.5
    values["classes"][4]["features"] = values["classes"][4]["features"][:1]
    values["classes"][3]["mixing"]["method"] = "mixup"
    values["images_per_epoch"] = 900
    values["classes"][2]["image"]["operations"] = ["flip"]
    values["classes"][1]["reasons"] = []
    other = Plan.from_dict(values)
    assert plan.diff(other) == (
        "images_per_epoch: none -> 900",
        f"classes.cat.image.operations: {', '.join(Strengths().image_operations)} -> flip",
        "classes.dog.mixing.method: cutmix -> mixup",
        "classes.elk.features.eos.strength: 1 -> none",
        "classes.elk.features.eos.share: 0.3 -> none",
        "classes.elk.features.eos.neighbors: 10 -> none",
        "classes.elk.features.eos.donors: similar -> none",
        "classes.elk.image.strength: 0.7 -> 0.5",
    )
    backward = {" -> ".join(reversed(line.partition(": ")[2].split(" -> "))) for line in plan.diff(other)}
    assert backward == {line.partition(": ")[2] for line in other.diff(plan)}


def test_a_difference_names_the_enemies() -> None:
    names = ("ant", "bee", "reasons")

    def plan(*, strength: float = 0.5, **toward: float) -> Plan:
        values = Plan.untouched(names, (3, 2, 1)).to_dict()
        policy = {"method": "toward_enemies", "strength": strength, "share": 1.0, "toward": toward}
        values["classes"][1]["features"] = [policy] if toward else []
        return Plan.from_dict(values)

    one = plan(ant=0.25, reasons=0.75)
    assert one.diff(plan(ant=0.5, reasons=0.5)) == (
        "classes.bee.features.toward_enemies.toward.ant: 0.25 -> 0.5",
        "classes.bee.features.toward_enemies.toward.reasons: 0.75 -> 0.5",
    )
    assert one.diff(plan(strength=1.0, ant=1.0)) == (
        "classes.bee.features.toward_enemies.strength: 0.5 -> 1",
        "classes.bee.features.toward_enemies.toward.ant: 0.25 -> 1",
        "classes.bee.features.toward_enemies.toward.reasons: 0.75 -> none",
    )
    assert "classes.bee.features.toward_enemies.toward.ant: none -> 0.25" in plan().diff(one)


@fast
@given(plans(), plans())
def test_plans_without_a_difference_are_equal_but_for_their_reasons(one: Plan, other: Plan) -> None:
    def bare(plan: Plan) -> Plan:
        classes = tuple(each.model_copy(update={"reasons": ()}) for each in plan.classes)
        return plan.model_copy(update={"classes": classes, "reasons": ()})

    if bare(one) == bare(other):
        assert one.diff(other) == ()
    elif len(one.classes) == len(other.classes) == 1 or one.num_classes != other.num_classes:
        assert one.diff(other)


def test_a_difference_too_small_for_six_digits_is_shown_in_full() -> None:
    plan = Plan.from_counts(NAMES, COUNTS)
    values = plan.to_dict()
    values["classes"][4]["image"]["strength"] = 0.6999999999
    assert plan.diff(Plan.from_dict(values)) == ("classes.elk.image.strength: 0.7 -> 0.6999999999",)


# Wrong strengths and rules


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"covariance": 1.5}, "covariance must lie in [0, 1], got 1.5"),
        ({"eos_share": math.nan}, "eos_share must be a finite number, got nan"),
        ({"image_gain": -1}, "image_gain must not be negative, got -1"),
        ({"covariance_share": 0.8}, "covariance_share and eos_share must sum to at most 1, got 1.1"),
        ({"image_least": 0.8}, "image_least must not be larger than image_most (0.7), got 0.8"),
        (
            {"largest_difference": 0.1},
            "(image_most - image_least) * image_probability must be at most largest_difference (0.1), got 0.18",
        ),
        ({"image_layers": 20}, "layers of the strengths must be at most 8, got 20"),
        ({"image_operations": ("spin",)}, f"operations of the strengths must be among {', '.join(image_ops.OPERATIONS)}, got 'spin'"),
        ({"neighbors": 0}, "neighbors of the strengths must be at least 1, got 0"),
        ({"images_per_epoch": 0}, "images_per_epoch must be an integer of at least 1, got 0"),
        ({"images_per_epoch": "9"}, "images_per_epoch must be an integer of at least 1, got '9'"),
    ],
)  # fmt: skip
def test_strengths_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        Strengths(**fields)
    assert str(error.value) == message


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


def test_the_public_names() -> None:
    assert dv.Plan is Plan
    assert dv.make_plan is make_plan


def test_the_old_module_of_policies_still_has_its_names() -> None:
    from diversify import policies

    assert policies.Strengths is Strengths
    assert policies.ImagePolicy is ImagePolicy
    assert all(hasattr(policies, name) for name in policies.__all__)
