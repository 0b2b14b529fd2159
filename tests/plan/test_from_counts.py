"""Plans from class counts alone, and uniform ones."""

import math
from collections import Counter

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import COUNTS, NAMES, nothing

from diversify.diagnosis.result import Diagnosis
from diversify.plan.from_counts import rarity
from diversify.plan.make import make_plan
from diversify.plan.plan import Plan
from diversify.plan.policies import Mixing, PriorCorrection, Schedule
from diversify.plan.strengths import Strengths


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


def test_counts_by_class_in_any_order():
    labels = pd.Series(["owl"] * 30 + ["cat"] * 90 + ["emu"] * 5)
    names = ["cat", "owl", "emu"]
    wanted = Plan.from_counts(names, [90, 30, 5])
    for counts in (labels.value_counts(), labels.value_counts(ascending=True), Counter(labels), {1: 30, 2: 5, 0: 90}):
        assert Plan.from_counts(names, counts) == wanted
    assert Plan.from_counts(["cat", "owl", "fox"], {"owl": 3, "cat": 4}).class_counts.tolist() == [4, 3, 0]
