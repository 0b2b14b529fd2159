"""Plans made from a diagnosis: its rules put together, the base, and the permuted diagnosis."""

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import OF_CLASSES, WIDE, with_columns, with_gap

from diversify.diagnosis.result import Diagnosis
from diversify.errors import InputError
from diversify.functional import draws
from diversify.plan.make import make_plan
from diversify.plan.marks import Marks
from diversify.plan.plan import Plan
from diversify.plan.policies import Mixing
from diversify.plan.strengths import Strengths

NAMES_OF_TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def test_where_nothing_is_sure_the_counts_decide_alone(quiet: Diagnosis) -> None:
    base = Plan.from_counts(quiet.class_names, quiet["count"])
    assert base.diff(make_plan(quiet)) == ("made_from: counts -> diagnosis",)
    assert [one.reasons for one in make_plan(quiet).classes] == [one.reasons for one in base.classes]


def test_the_less_a_network_overfits_the_less_its_images_are_augmented(quiet: Diagnosis) -> None:
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


def test_too_few_held_out_images_do_not_show_overfitting(quiet: Diagnosis) -> None:
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


def test_feature_policies_do_not_depend_on_overfitting(quiet: Diagnosis) -> None:
    one, other = (make_plan(with_gap(quiet, gap)) for gap in (0.0, 0.4))
    assert [each.features for each in one.classes] == [each.features for each in other.classes]
    assert torch.equal(one.draws, other.draws)


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
    assert (
        "The partner classes are those that it is confused with. It gets interpolation toward the classes"
        in reason.text
    )
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
        assert Marks(told).pooled("ce_magnitude_ratio", c) == pytest.approx(pooled)
        (policy,) = make_plan(told).classes[c].features
        assert policy.strength == pytest.approx(1.75 * (1 - pooled), abs=1e-4)
    without_line = with_ratio(quiet, {c: 0.5, 6: 0.9})
    mean = own * 0.5 + (1 - own) * (0.7 if images else 0.9)  # what was not seen says nothing of the others
    counted = with_columns(without_line, {"count_heldout": {c: float(images)}})
    assert Marks(counted).pooled("ce_magnitude_ratio", c) == pytest.approx(mean)


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


@pytest.mark.slow
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
        with pytest.raises(
            InputError, match="diagnosis must be made on the validation set to make a plan from, got one made on test"
        ):
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
