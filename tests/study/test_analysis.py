"""Comparisons from records: pairing by seed, intervals over networks, adjusted p values, and what is missing."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from studies import COUNTS, TEST, VAL, final, on_backbones, study, trial

from diversify.errors import InputError
from diversify.files import atomic
from diversify.functional.stats import holm
from diversify.study.analysis import compare
from diversify.study.comparison import OURS, REWEIGHTING, SuiteComparison
from diversify.study.estimates import difference
from diversify.study.read import load, load_protocol
from diversify.study.scores import scores_of

Records = list[dict[str, Any]]


def only(records: Records, **options: Any) -> SuiteComparison:
    (found,) = compare(records, **options).suites
    return found


def changed(records: Records, method: str, kind: str, **values: Any) -> Records:
    return [{**one, **values} if (one["method"], one["kind"]) == (method, kind) else one for one in records]


def test_the_order_of_the_records_changes_nothing() -> None:
    records = study(seeds=range(7)) + study(("ce", "diversify"), suite="other")
    told = repr(compare(records))
    for turn in range(3):
        assert (
            repr(compare([records[place] for place in np.random.default_rng(turn).permutation(len(records))])) == told
        )


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_a_method_beside_itself_does_not_differ(seeds: int) -> None:
    values = {seed: 0.5 + 0.01 * seed**2 for seed in range(seeds)}
    found = difference("one", "other", values, values)
    assert (found.paired.mean, found.paired.low, found.paired.high) == (0, 0, 0)
    assert found.verdict == "open"
    assert math.isnan(found.p) if seeds < 3 else found.p == 1


def test_a_seeds_own_effect_cancels() -> None:
    """An effect that a seed has on all methods changes no difference and no interval of a difference."""
    records = study()
    shifted = [
        {**one, "balanced_accuracy": one["balanced_accuracy"] + (0.0, 0.07, -0.1)[one["seed"]]}
        if one["kind"] == "final"
        else one
        for one in records
    ]
    before, after = only(records), only(shifted)
    assert before.method("ce").scores["balanced_accuracy"].half < 0.05  # type: ignore[union-attr]
    assert after.method("ce").scores["balanced_accuracy"].half > 0.1  # type: ignore[union-attr]
    for role, reference in before.references.items():
        assert set(reference.differences) == set(TEST) - {reference.name}
        for method, one in reference.differences.items():
            other = after.references[role].differences[method]
            assert other.paired.values == pytest.approx(one.paired.values)
            assert (other.paired.low, other.paired.high) == pytest.approx((one.paired.low, one.paired.high))
            assert other.p == pytest.approx(one.p)


def test_pairs_are_of_one_seed_and_only_of_seeds_that_both_have() -> None:
    one, other = {0: 0.9, 1: 0.5, 5: 0.4}, {5: 0.1, 1: 0.3, 2: 0.8}
    found = difference("one", "other", one, other)
    assert found.paired.seeds == (1, 5)
    assert found.paired.values == pytest.approx((0.2, 0.3))


@pytest.mark.parametrize("size", [2, 3, 5, 10])
def test_differences_have_the_paired_t_test_of_scipy(size: int) -> None:
    draw = np.random.default_rng(size)
    one, other = draw.normal(0.6, 0.05, size), draw.normal(0.55, 0.05, size)
    found = difference("one", "other", dict(enumerate(one.tolist())), dict(enumerate(other.tolist())))
    test = scipy.stats.ttest_rel(one, other)
    assert (found.paired.low, found.paired.high) == pytest.approx(tuple(test.confidence_interval()))
    if size < 3:
        assert math.isnan(found.p)
    else:
        assert found.p == pytest.approx(test.pvalue)


def test_one_seed_has_no_interval_and_two_no_p_value() -> None:
    assert math.isnan(difference("one", "other", {0: 0.1, 1: 0.3}, {0: 0.0, 1: 0.1}).p)
    found = only(study(seeds=(4,)))
    assert all(one.verdict == "open" for role in found.references.values() for one in role.differences.values())
    assert any("One seed" in one for one in found.caveats)
    assert any("Two seeds" in one for one in only(study(seeds=(0, 1))).caveats)
    assert not only(study()).caveats


def numbers(suite: SuiteComparison) -> list[Any]:
    """Return all numbers that are over replicates, whatever their seeds are called."""
    found: list[Any] = [one.recall for one in suite.methods]
    estimates = [
        each for one in suite.methods for of in (one.scores, one.inside, one.inside_all) for each in of.values()
    ]
    for reference in suite.references.values():
        for family in (reference.differences, *reference.others.values(), *reference.inside.values()):
            found += [(one.p, one.p_holm, one.bootstrap_low, one.bootstrap_high) for one in family.values()]
            estimates += [one.paired for one in family.values()]
    return found + [(*one.values, one.mean, one.low, one.high) for one in estimates]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 7])
def test_runs_on_one_backbone_again_change_no_number(size: int) -> None:
    """Only networks are independent: repeating records of a network does not narrow an interval."""
    records = study(seeds=range(size))
    for one in records:
        one["inside"] = {"leak": [0.01 * one["seed"], *[0.02] * 5]} if one["kind"] == "final" else {}
    once = numbers(only(records))
    assert repr(numbers(only(on_backbones(records, size)))) == repr(once), "networks of one seed each are those seeds"
    again = [{**one, "seed": one["seed"] + size} for one in records if one["kind"] == "final"]
    third = [{**one, "seed": 2 * size} for one in records if (one["kind"], one["seed"]) == ("final", 0)]
    for more in (again, third, again + third):
        found = only(on_backbones(records + more, size))
        assert found.replicate == "network"
        assert {one.replicates for one in found.methods} == {size}
        for before, after in zip(once, numbers(found), strict=True):
            assert after == pytest.approx(before, nan_ok=True)
    assert {one.replicates for one in only(records + again).methods} == {2 * size}, (
        "without a backbone all have their own"
    )


def test_what_seeds_of_one_backbone_agree_on_is_no_evidence() -> None:
    """By hand: the interval over five networks with two seeds each contains 0; over ten independent seeds it would not."""
    gains = (0.004, -0.002, 0.006, 0.005, 0.001)
    records = [final("ce", seed, 0.5 + 0.01 * seed) for seed in range(10)]
    records += [
        final("vs", seed, 0.5 + 0.01 * seed + gains[seed % 5] + (0.0005 if seed < 5 else -0.0005)) for seed in range(10)
    ]
    ten, five = (only(of).references["baseline"].differences["vs"] for of in (records, on_backbones(records, 5)))
    test = scipy.stats.ttest_1samp(gains, 0)
    assert five.paired.values == pytest.approx(gains)
    assert (five.paired.low, five.paired.high) == pytest.approx(tuple(test.confidence_interval()))
    assert five.p == pytest.approx(test.pvalue)
    assert five.paired.mean == pytest.approx(ten.paired.mean)
    assert (ten.verdict, five.verdict) == ("ahead", "open")
    assert math.isfinite(ten.bootstrap_low)
    assert math.isnan(five.bootstrap_low), "five networks are too few for it, however many seeds"


def test_pairs_are_matched_by_seed_before_backbones_are_averaged() -> None:
    """A method that lacks a seed of a backbone is compared on the other seeds."""
    accuracies = {"ce": {0: 0.5, 1: 0.4, 2: 0.8, 3: 0.6}, "vs": {0: 0.7, 1: 0.5, 3: 0.7}}
    records = [final(name, seed, value) for name, of in accuracies.items() for seed, value in of.items()]
    found = only(on_backbones(records, 2))
    assert found.method("ce").scores["balanced_accuracy"].values == pytest.approx((0.65, 0.5))  # type: ignore[union-attr]
    paired = found.references["baseline"].differences["vs"].paired
    assert paired.by_seed == pytest.approx({0: 0.2, 1: 0.1, 3: 0.1})
    assert paired.values == pytest.approx((0.2, 0.1))


def test_networks_are_those_of_the_runs() -> None:
    """A method that trains its own networks has one per seed; a pair with a method on shared backbones has as many as those."""

    def pairs(records: Records) -> int:
        return len(only(records).references["baseline"].differences["vs"].paired.values)

    frozen = on_backbones([final("ce", seed) for seed in range(6)], 3)
    whole = [final(name, seed) for name in ("focal", "vs") for seed in range(6)]
    tails = [{**one, "tail_order": str(one["seed"] % 2)} for one in whole]
    for others in (whole, tails):
        found = only(frozen + others)
        assert [found.method(name).replicates for name in ("ce", "focal", "vs")] == [3, 6, 6]  # type: ignore[union-attr]
        assert pairs(frozen + others) == 3
        assert pairs([final("ce", seed) for seed in range(6)] + others) == 6
    chained = [final("ce", seed, inside={"backbone": name}) for seed, name in enumerate("aabbc")]
    chained += [final("vs", seed, inside={"backbone": name}) for seed, name in enumerate("pqqrs")]
    assert pairs(chained) == 2


def test_a_backbone_is_no_measure() -> None:
    found = only(on_backbones(study(), 2))
    assert all(not one.inside for one in found.methods)
    told = " ".join(only(on_backbones(study(), 1)).caveats)
    assert "One network: there are no intervals" in told
    assert "Two networks" in " ".join(found.caveats)
    none = only([final("ce", seed, inside={"backbone": None}) for seed in range(2)]).methods[0]
    assert (none.replicates, none.inside) == (2, {})


def test_a_bootstrap_interval_needs_six_networks() -> None:
    values = dict(enumerate([0.031, 0.052, -0.004, 0.022, 0.047, 0.013]))
    nothing = dict.fromkeys(values, 0.0)
    few = difference("one", "other", {seed: values[seed] for seed in range(5)}, nothing)
    many = difference("one", "other", values, nothing)
    assert math.isnan(few.bootstrap_low)
    assert many.bootstrap_low < many.paired.mean < many.bootstrap_high


def test_a_family_is_one_reference_in_one_suite() -> None:
    found = only(study())
    for reference in found.references.values():
        raw = {name: one.p for name, one in reference.differences.items()}
        assert {name: one.p_holm for name, one in reference.differences.items()} == pytest.approx(holm(raw))


def test_groups_are_means_of_their_classes() -> None:
    recall = [0.9, 0.8, None, 0.6, 0.3, 0.2]
    found = scores_of(final("ce", 0, recall=recall))
    assert (found["many"], found["medium"], found["few"]) == pytest.approx((0.85, 0.6, 0.25))
    assert (found["largest_third"], found["middle_third"], found["smallest_third"]) == pytest.approx((0.85, 0.6, 0.25))
    assert found["worst_class"] == 0.2
    assert math.isnan(found["peak_memory"])
    none = scores_of(final("ce", 0, counts=[500, 400, 300]))
    assert math.isnan(none["few"])
    even = scores_of(final("ce", 0, counts=[50] * 6))
    assert math.isnan(even["smallest_third"])


def test_which_class_is_rare_changes_nothing_but_its_name() -> None:
    """Groups, ranks and diagnostics go by class size, whatever the tail order."""
    order = [3, 0, 5, 1, 4, 2]
    inside = {"diversity_heldout": [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]}

    def permuted(record: dict[str, Any]) -> dict[str, Any]:
        moved = {name: [record[name][c] for c in order] for name in ("recall", "class_counts")}
        columns = {name: [values[c] for c in order] for name, values in record["inside"].items()}
        return {**record, **moved, "inside": columns}

    records = [final(method, seed, inside=inside) for method in ("ce", OURS) for seed in (0, 1, 2)]
    before, after = only(records), only([permuted(one) if one["seed"] == 1 else one for one in records])
    assert repr(before) == repr(after)
    assert before.counts == tuple(COUNTS)
    recall = before.method("ce").recall  # type: ignore[union-attr]
    assert list(recall) == sorted(recall, reverse=True), "the largest class first"
    assert before.method("ce").inside["diversity_heldout"].mean == 1.5  # type: ignore[union-attr]
    assert before.method("ce").inside_all["diversity_heldout"].mean == 3.5  # type: ignore[union-attr]


def test_val_names_the_best_reweighting_and_test_has_no_say() -> None:
    found = only(study())
    assert found.references["reweighting"].name == "balanced_softmax"
    assert found.hindsight == "vs"
    better = changed(study(), "focal", "final", balanced_accuracy=0.99)
    assert only(better).references["reweighting"].name == "balanced_softmax"
    assert only(better).hindsight == "focal"
    assert only(changed(study(), "focal", "trial", balanced_accuracy=0.65)).references["reweighting"].name == "focal"
    assert "vs+images" not in found.reweighting, "a control varies images too"
    assert only(study(), reweighting={"vs"}).references["reweighting"].name == "vs"
    assert {"ce", OURS}.isdisjoint(REWEIGHTING)


def test_a_pruned_or_failed_trial_is_spent_and_never_chosen() -> None:
    failed = trial("ce", 3, None, state="failed", epochs=0, recall=None)
    found = only([*study(), failed]).method("ce")
    assert found is not None
    assert (found.budget.complete, found.budget.pruned, found.budget.failed, found.budget.trials) == (2, 1, 1, 4)
    assert found.budget.val == VAL["ce"]
    assert found.budget.val_default == pytest.approx(VAL["ce"] - 0.02)
    assert found.budget.params == {"learning_rate": 0.1}
    assert found.budget.epochs == 70


def test_finals_with_other_parameters_than_the_best_trial_are_named() -> None:
    assert not any("best trial" in one for one in only(study()).caveats)
    found = only(changed(study(), "vs", "final", params={"learning_rate": 0.2}))
    assert any("best trial" in one and "vs" in one for one in found.caveats)


def test_an_unfinished_study_says_what_is_missing() -> None:
    records = [
        one
        for one in study()
        if one["kind"] == "trial" or (one["method"] != "vs" and (one["method"], one["seed"]) != ("focal", 2))
    ]
    protocol = {"suite": "short", "seeds": [0, 1, 2], "trials": 4, "methods": [*TEST, "crt"]}
    found = only(records, protocol=protocol)
    told = " ".join(found.unfinished)
    assert "no final run yet of vs, crt" in told
    assert "focal (2)" in told
    assert "fewer than 4 trials" in told
    assert "crt (0)" in told
    assert found.method("focal").missing == (2,)  # type: ignore[union-attr]
    assert found.references["baseline"].differences["focal"].paired.seeds == (0, 1)
    assert [one.name for one in found.methods][-2:] == ["vs", "crt"]
    assert not only(study(), protocol={**protocol, "trials": 3, "methods": [*TEST]}).unfinished


def test_trials_alone_and_one_method_alone_are_a_study_too() -> None:
    trials = only([one for one in study() if one["kind"] == "trial"])
    assert trials.finished == ()
    assert all(not one.differences and one.why for one in trials.references.values())
    alone = only(study(("ce",)))
    assert [one.name for one in alone.finished] == ["ce"]
    assert alone.references["ours"].name is None
    assert "no method diversify" in alone.references["ours"].why
    assert compare([]).suites == ()


def test_the_best_reweighting_without_a_final_is_not_replaced_by_another() -> None:
    records = [one for one in study() if (one["method"], one["kind"]) != ("balanced_softmax", "final")]
    found = only(records).references["reweighting"]
    assert found.name == "balanced_softmax"
    assert found.differences == {}
    assert "balanced_softmax" in found.why


def test_suites_and_protocols_are_never_mixed() -> None:
    other = [{**one, "protocol": "another digest"} for one in study(("ce", "vs"), seeds=(0, 1))]
    elsewhere = study(("focal",), suite="a third")
    found = compare(study() + other + elsewhere).suites
    assert [one.suite for one in found] == ["a third", "short", "short"]
    assert len({one.label for one in found}) == 3
    alone = only(study())
    (same,) = [one for one in found if one.digest == alone.digest]
    assert repr(same.methods) == repr(alone.methods)


def test_twice_the_same_is_refused() -> None:
    with pytest.raises(
        InputError, match="results must hold one final of each method and seed, got 2 of vs, 1 in short"
    ):
        compare([*study(), final("vs", 1)])
    with pytest.raises(InputError, match="results must hold one complete trial of each method and number, got 2 of vs"):
        compare([*study(), trial("vs", 0, 0.3)])
    compare([*study(), trial("vs", 0, None, state="failed")])


def test_what_changed_inside_is_paired_by_class() -> None:
    """A class without a value in one of the two methods is in neither mean."""
    of = {"ce": [9.0, 9.0, 9.0, 9.0, 2.0, 4.0], OURS: [9.0, 9.0, 9.0, 9.0, None, 5.0]}
    records = [
        final(method, seed, inside={"diversity_heldout": values}) for method, values in of.items() for seed in (0, 1)
    ]
    moved = only(records).references["baseline"].inside["diversity_heldout"][OURS]
    assert moved.paired.values == (1.0, 1.0)
    plain = only([final(method, 0, inside={"leak": value}) for method, value in (("ce", 0.1), (OURS, 0.4))])
    assert plain.references["baseline"].inside["leak"][OURS].paired.mean == pytest.approx(0.3)
    nothing = only([final("ce", 0, inside={"leak": None}), final(OURS, 0)])
    assert math.isnan(nothing.references["baseline"].inside["leak"][OURS].paired.mean)


def test_importances_are_of_the_complete_trials() -> None:
    asked: list[tuple[int, list[str]]] = []

    def importances(trials: Any, names: Any) -> dict[str, float]:
        asked.append((len(trials), list(names)))
        return {"learning_rate": 1.0}

    found = only(study(("ce", "vs")), importances=importances)
    assert asked == [(2, ["learning_rate"])] * 2
    assert all(one.importances == {"learning_rate": 1.0} for one in found.methods)
    assert only(study(("ce",))).methods[0].importances is None


def test_records_come_back_from_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    atomic.write_jsonl(path, study())
    assert load(path) == study()
    assert load_protocol(path) == {}
    atomic.write_json(tmp_path / "results.protocol.json", {"protocol": {"suite": "short"}})
    assert load_protocol(path) == {"suite": "short"}
    assert load_protocol(str(path)) == {"suite": "short"}
    assert load(str(path)) == load(path)


@pytest.mark.parametrize(
    ("record", "wrong"),
    [
        ({"kind": "ceiling"}, "kind 'ceiling'"),
        ({**final("ce", 0), "suite": None}, "suite None"),
        ({**final("ce", 0), "seed": "a"}, "seed 'a'"),
        ({**final("ce", 0), "balanced_accuracy": None}, "balanced_accuracy None"),
        ({**final("ce", 0), "recall": None}, "recall None"),
        ({**final("ce", 0), "class_counts": [1, 2]}, r"class_counts \[1, 2\] for 6 recalls"),
        (trial("ce", 0, None), "balanced_accuracy None"),
        (final("ce", 0, inside={"backbone": 3}), "backbone 3"),
        ({**final("ce", 0), "inside": [1]}, r"inside \[1\]"),
    ],
)
def test_what_is_no_record_is_named_with_its_line(record: dict[str, Any], wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    atomic.write_jsonl(path, [final("ce", 1), record])
    with pytest.raises(InputError, match=f"results.jsonl must hold records of a study, got line 2 of .* with {wrong}"):
        load(path)


def test_two_differences_that_agree_by_chance_settle_nothing() -> None:
    two = difference("a", "b", {0: 0.526, 1: 0.626}, {0: 0.5, 1: 0.6})
    assert two.paired.low > 0
    assert two.verdict == "open"
    three = difference("a", "b", {0: 0.526, 1: 0.627, 2: 0.725}, {0: 0.5, 1: 0.6, 2: 0.7})
    assert three.verdict == "ahead"
