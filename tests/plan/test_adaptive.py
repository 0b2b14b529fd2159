"""Adaptive plans: one step at a time, within bounds, with reasons, the same in every process and after a resume.

Run as a script it is one of two processes that train together: `RANK FILE`.
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diversify.augment.draw_key import DrawKey
from diversify.errors import InputError
from diversify.functional import draws
from diversify.plan.adaptive import AdaptivePlan
from diversify.plan.adaptive_rules import RULES, AdaptiveRule
from diversify.plan.plan import Plan
from diversify.plan.policies import ClassPlan, FeaturePolicy, ImagePolicy, Reason, Schedule
from diversify.runtime.signals import leave

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WHY = Reason(
    rule="by hand", choice="", measure="", value=None, low=None, high=None, compared_with=None, text="", source=""
)


def plan_of(strengths=(0.4, 0.2, 0.3), probability=0.5, names="abc", **fields):
    probabilities = probability if isinstance(probability, tuple) else (probability,) * len(strengths)
    classes = tuple(
        ClassPlan(
            name=name,
            count=20,
            draws=1 / len(strengths),
            image=ImagePolicy(operations=("rotate",), strength=strength, probability=share),
            features=(FeaturePolicy(method="magnitude", strength=0.5, share=0.5),),
            reasons=(WHY,),
        )
        for name, strength, share in zip(names, strengths, probabilities, strict=True)
    )
    return Plan(classes=classes, **fields)


class Follower:
    """A part that records the plans it gets."""

    def __init__(self):
        self.told = []

    def use(self, plan):
        self.told.append(plan)


def observe(adaptive, hits, seen=20):
    """`hits[c]` of `seen` images of each class are right."""
    labels = torch.repeat_interleave(torch.full((len(hits),), seen))
    right = torch.arange(seen).repeat(len(hits)) < torch.tensor(hits)[labels]
    adaptive.observe(labels, torch.where(right, labels, (labels + 1) % len(hits)))


def image_strengths(plan):
    return [one.image.strength for one in plan.classes]


def feature_strengths(plan):
    return [policy.strength for one in plan.classes for policy in one.features]


def without_strengths(plan):
    """Everything in a plan that must not change."""
    values = plan.model_dump()
    for one in values["classes"]:
        del one["reasons"], one["image"]["strength"]
        for policy in one["features"]:
            del policy["strength"]
    return values


# Evidence


def test_hits_above_the_mark_are_a_step_up_and_others_a_step_down():
    follower = Follower()
    adaptive = AdaptivePlan(plan_of(), parts=(follower,), step=0.1)
    observe(adaptive, (13, 12, 20))  # 0.6 itself is not above
    plan = adaptive.update(0)
    assert image_strengths(plan) == [0.5, 0.1, 0.4]
    assert feature_strengths(plan) == [0.5] * 3  # hits say nothing about them
    assert follower.told == [plan]
    assert adaptive.plan == plan
    reason = plan.classes[0].reasons[-1]
    assert (reason.rule, reason.choice) == ("adaptive: enough hits", "image strength 0.4 to 0.5")
    assert (reason.measure, reason.value, reason.compared_with) == ("hits", 0.65, 0.6)
    assert reason.low < 0.65 < reason.high
    assert "CUDA" in reason.source
    assert reason.text == "After epoch 0: 65% [43%, 82%] of its training views are classified correctly, more than 60%."
    assert plan.classes[1].reasons[-1].rule == "adaptive: too few hits"


def test_hits_that_fall_are_a_step_down_however_many_they_are():
    adaptive = AdaptivePlan(plan_of())
    observe(adaptive, (400, 390, 400), seen=400)
    adaptive.update(0)
    observe(adaptive, (330, 385, 400), seen=400)
    plan = adaptive.update(1)
    assert image_strengths(plan) == [0.4, 0.4, 0.5]
    assert plan.classes[0].reasons[-1].rule == "adaptive: hits fell"
    assert plan.classes[0].reasons[-1].high < 0


def test_a_class_waits_until_enough_of_it_was_seen():
    adaptive = AdaptivePlan(plan_of(), least_seen=10)
    labels = torch.tensor([0] * 9 + [1] * 10)
    adaptive.observe(labels, labels)
    assert image_strengths(adaptive.update(0)) == [0.4, 0.3, 0.3]
    adaptive.observe(torch.tensor([0]), torch.tensor([0]))  # its tenth
    assert image_strengths(adaptive.update(1)) == [0.5, 0.3, 0.3]
    assert image_strengths(adaptive.update(2)) == [0.5, 0.3, 0.3]  # spent


def test_hits_decide_at_chosen_epochs():
    adaptive = AdaptivePlan(plan_of(), every=3, first=5)
    assert [epoch for epoch in range(13) if adaptive.due(epoch)] == [5, 8, 11]
    changed = []
    for epoch in range(13):
        before = adaptive.plan
        observe(adaptive, (20, 20, 20))
        if adaptive.update(epoch) != before:
            changed.append(epoch)
    assert changed == [5, 8, 11]
    assert adaptive.history[0].reason.low == pytest.approx(
        0.839, abs=1e-3
    )  # of 20 images: those before `first` do not count
    assert adaptive.history[-1].reason.low > 0.93  # of 60


def test_hits_on_images_that_the_schedule_leaves_alone_decide_nothing():
    plan = plan_of(schedule=Schedule(start=0.5, stop=0.8))
    adaptive = AdaptivePlan(plan, epochs=10)
    assert [epoch for epoch in range(10) if adaptive.due(epoch)] == [5, 6, 7]
    for epoch in range(10):
        observe(adaptive, (20, 20, 20))
        adaptive.update(epoch)
    assert {change.epoch for change in adaptive.history} == {5, 6, 7}
    assert adaptive.history[0].reason.low == pytest.approx(0.839, abs=1e-3)  # of 20 images


def test_nothing_seen_changes_nothing_and_tells_nobody():
    follower = Follower()
    adaptive = AdaptivePlan(plan := plan_of(), parts=(follower,))
    assert adaptive.update(0) is plan
    assert follower.told == []
    assert adaptive.history == ()


def named(diagnosis, **changes):
    """The plan of a diagnosis's classes."""
    return plan_of((0.3,) * 10, names=diagnosis.class_names, **changes)


def with_column(diagnosis, name, value, low, high):
    columns = {f"{name}{end}": torch.as_tensor(v).double() for end, v in (("", value), ("_low", low), ("_high", high))}
    return dataclasses.replace(diagnosis, columns={**diagnosis.columns, **columns})


def test_a_diagnosis_moves_features_by_the_top_k_gap(diagnosis):
    ratio = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 0.6, math.nan, 1.2])
    found = with_column(diagnosis, "ce_magnitude_ratio", ratio, ratio - 0.1, ratio + 0.1)
    plan = AdaptivePlan(named(diagnosis)).update(0, diagnosis=found)
    assert feature_strengths(plan) == [0.5] * 7 + [0.6, 0.5, 0.4]  # the mean is 0.967; 0.9 might be as large
    reason = plan.classes[7].reasons[-1]
    assert reason.rule == "adaptive: top-K shrink on held-out images"
    assert reason.choice == "magnitude strength 0.5 to 0.6"
    assert reason.compared_with == pytest.approx(float(ratio.nanmean()))
    assert plan.classes[8].reasons[-1].rule != reason.rule


def test_a_diagnosis_moves_images_by_held_out_diversity(diagnosis):
    vendi = torch.tensor([5.0] * 8 + [3.0, math.nan])
    found = with_column(diagnosis, "diversity_vendi_heldout", vendi, vendi - 0.5, vendi + 0.5)
    adaptive = AdaptivePlan(named(diagnosis), every=100)  # a diagnosis that is given decides at once
    assert image_strengths(adaptive.update(0, diagnosis=found)) == [0.3] * 8 + [0.4, 0.3]
    observe(adaptive, (20,) * 8 + (2, 20))
    plan = adaptive.update(99, diagnosis=found)
    assert image_strengths(plan) == [0.4] * 8 + [0.3, 0.4]  # what is not even learned is not made harder


def test_the_synthetic_diagnosis_moves_what_it_says(diagnosis):
    adaptive = AdaptivePlan(named(diagnosis))
    adaptive.update(0, diagnosis=diagnosis)
    assert adaptive.history
    for change in adaptive.history:
        rule = next(rule for rule in RULES if "adaptive: " + rule.name == change.reason.rule)
        column = diagnosis[rule.measure]
        side = "_high" if rule.side == "low" else "_low"
        end = float(diagnosis[rule.measure + side][change.class_index])
        assert (end < float(column.nanmean())) == (rule.side == "low")
        assert math.copysign(1, change.after - change.before) == rule.direction


def leak_of(*low):
    return SimpleNamespace(leak=torch.tensor(low) + 0.01, leak_low=torch.tensor(low))


def test_a_leak_comes_before_everything_else():
    adaptive = AdaptivePlan(plan_of())
    observe(adaptive, (20, 20, 20))
    plan = adaptive.update(0, leak=leak_of(0.02, -0.02, math.nan))
    assert image_strengths(plan) == [0.3, 0.3, 0.4]
    reason = plan.classes[0].reasons[-1]
    assert (reason.rule, reason.high) == ("adaptive: its policy leaks", None)
    assert reason.text.endswith(
        "3.0% more held-out images of other classes are predicted as a when they are augmented as a is (95% interval from 2.0%)."
    )


def test_rules_of_ones_own(diagnosis):
    rule = AdaptiveRule(
        name="few are found",
        evidence="diagnosis",
        measure="recall_heldout",
        side="low",
        mark=0.999,
        space="image",
        direction=1,
        text="{name} is found in {value:.0%}.",
        source="by hand",
    )
    plan = AdaptivePlan(named(diagnosis), rules=(rule,)).update(0, diagnosis=diagnosis)
    expected = [0.4 if high < 0.999 else 0.3 for high in diagnosis["recall_heldout_high"].tolist()]
    assert image_strengths(plan) == expected
    assert 0.4 in expected
    unknown = AdaptivePlan(named(diagnosis), rules=(dataclasses.replace(rule, measure="recall"),))
    with pytest.raises(
        InputError, match=r"^measure of the rule 'few are found' must be a column of the diagnosis, got 'recall'$"
    ):
        unknown.update(0, diagnosis=diagnosis)


def test_observing_counts_on_any_integers_and_any_batches():
    one, other = AdaptivePlan(plan_of()), AdaptivePlan(plan_of())
    labels = draws.integers(3, "labels", torch.arange(300))
    predicted = draws.integers(3, "predicted", torch.arange(300))
    one.observe(labels, predicted)
    for batch, said in zip(labels.split(7), predicted.split(7), strict=True):
        other.observe(batch.to(torch.uint8), said.to(torch.int32))
    assert one.state_dict() == other.state_dict()
    seen, right = one.state_dict()["observed"]
    assert seen[:3] == torch.bincount(labels).tolist()
    assert right[:3] == torch.bincount(labels[labels == predicted]).tolist()


def test_observing_never_waits_for_the_device():
    """On tensors without values, where reading one would be an error."""
    adaptive = AdaptivePlan(plan_of())
    adaptive.observe(*torch.zeros(2, 5, dtype=torch.int64, device="meta"))
    assert adaptive._observed.device.type == "meta"


def test_the_mark_itself_is_neither_above_nor_a_reason_without_numbers():
    up = next(rule for rule in RULES if rule.name == "enough hits")
    down = next(rule for rule in RULES if rule.name == "too few hits")
    for value, expected in ((0.6, (False, True)), (0.61, (True, False)), (math.nan, (False, False))):
        assert (up.fires(value, 0, 1, 0.6), down.fires(value, 0, 1, 0.6)) == expected
    fell = next(rule for rule in RULES if rule.name == "hits fell")
    assert not fell.fires(-0.1, -0.2, 0.0, 0.0)
    assert fell.fires(-0.1, -0.2, -0.01, 0.0)


# Bounds


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_evidence_leaves_the_bounds(data):
    number = data.draw(st.integers(2, 6))
    share = st.floats(0, 1)
    largest = data.draw(st.floats(0, 0.5))
    probability = tuple(data.draw(st.floats(0, 0.9)) for _ in range(number))
    level = data.draw(st.floats(0, 1))
    strengths = [0.0 if p == 0 else min(1.0, data.draw(st.floats(0, 1)) * largest / p) for p in probability]
    plan = plan_of(tuple(strengths), probability, names="abcdefgh"[:number], largest_difference=largest)
    step = data.draw(st.floats(0.01, 1))
    adaptive = AdaptivePlan(plan, step=step)
    for epoch in range(8):
        before = adaptive.plan
        observe(adaptive, [int(20 * data.draw(share)) for _ in range(number)])
        leak = leak_of(*(data.draw(st.sampled_from([-0.1, 0.1])) for _ in range(number))) if level < 0.3 else None
        after = adaptive.update(epoch, leak=leak)  # a plan outside its bounds is not a Plan
        assert without_strengths(after) == without_strengths(plan)
        for one, other in zip(image_strengths(before), image_strengths(after), strict=True):
            assert abs(other - one) <= step + 1e-9
        told = {change.class_index for change in adaptive.history if change.epoch == epoch}
        moved = [c for c in range(number) if image_strengths(before)[c] != image_strengths(after)[c]]
        assert sorted(told) == moved
    assert Plan.from_json(adaptive.plan.to_json()) == adaptive.plan


def test_the_bound_between_classes_holds_who_would_leave_it():
    adaptive = AdaptivePlan(plan_of((0.7, 0.1, 0.4), probability=0.5, largest_difference=0.35))
    observe(adaptive, (20, 2, 20))
    assert image_strengths(adaptive.update(0)) == [0.7, 0.0, 0.5]  # first down, then up as far as there is room
    observe(adaptive, (20, 20, 20))
    plan = adaptive.update(1)
    assert image_strengths(plan) == [0.8, 0.1, 0.6]
    adaptive = AdaptivePlan(plan_of((0.65, 0.0, 0.4), probability=0.5, largest_difference=0.35))
    observe(adaptive, (20, 2, 2))
    plan = adaptive.update(0)
    assert image_strengths(plan) == [0.7, 0.0, 0.3]
    assert (
        plan.classes[0]
        .reasons[-1]
        .text.endswith("The step was shortened: image policies of two classes may differ by at most 0.35.")
    )
    assert "shortened" not in plan.classes[2].reasons[-1].text


def test_nobody_is_left_behind_further_than_the_bound():
    adaptive = AdaptivePlan(plan_of((0.8, 0.15, 0.4), probability=0.5, largest_difference=0.35))
    observe(adaptive, (20, 2, 2))
    plan = adaptive.update(0)
    assert image_strengths(plan) == [0.8, 0.1, 0.3]  # b goes half a step, and so a cannot go up
    assert plan.classes[1].reasons[-1].text.endswith("may differ by at most 0.35.")
    assert plan.classes[0].reasons == (WHY,)


def test_more_layers_count_as_more_against_the_bound():
    plan = plan_of((0.6, 0.5, 0.5), probability=0.5)
    deep = plan.classes[0].image.model_copy(update={"layers": 2})
    classes = (plan.classes[0].model_copy(update={"image": deep}), *plan.classes[1:])
    adaptive = AdaptivePlan(Plan(classes=classes, largest_difference=0.37))
    observe(adaptive, (20, 2, 20))
    assert image_strengths(adaptive.update(0)) == [0.6, 0.46, 0.6]  # 0.6 and 0.23: as far apart as may be


def test_what_a_plan_does_not_do_stays_undone(diagnosis):
    classes = tuple(ClassPlan(name=name, count=20, draws=1 / 3) for name in "abc")
    adaptive = AdaptivePlan(Plan(classes=classes))
    observe(adaptive, (20, 20, 0))
    assert adaptive.update(0, leak=leak_of(0.1, 0.1, 0.1)) == Plan(classes=classes)
    assert adaptive.history == ()
    unused = FeaturePolicy(method="eos", strength=0.5, share=0.0)
    classes = tuple(one.model_copy(update={"features": (unused,)}) for one in named(diagnosis).classes)
    ratio = torch.linspace(0.1, 1.2, 10)
    found = with_column(diagnosis, "ce_magnitude_ratio", ratio, ratio, ratio)
    plan = AdaptivePlan(Plan(classes=classes)).update(0, diagnosis=found)
    assert feature_strengths(plan) == [0.5] * 10


def test_strengths_stop_at_their_ends():
    adaptive = AdaptivePlan(plan_of((0.95, 1.0, 0.05), probability=0.3))
    observe(adaptive, (20, 20, 0))
    plan = adaptive.update(0)
    assert image_strengths(plan) == [1.0, 1.0, 0.0]
    assert [change.class_index for change in adaptive.history] == [0, 2]
    assert not any("shortened" in change.reason.text for change in adaptive.history)


def test_a_plan_keeps_its_reasons_and_the_latest_of_each_strength():
    adaptive = AdaptivePlan(plan_of())
    for epoch in range(4):
        observe(adaptive, (20, 20, 20))
        plan = adaptive.update(epoch)
    for one in plan.classes:
        assert one.reasons[0] == WHY
        assert len(one.reasons) == 2
        assert one.reasons[1].text.startswith("After epoch 3: ")
    assert len(adaptive.history) == 12
    for c in range(3):
        mine = [change for change in adaptive.history if change.class_index == c]
        assert [change.after for change in mine[:-1]] == [change.before for change in mine[1:]]


# State


def run(adaptive, epochs, stop=None):
    """Some epochs of evidence; `stop` saves within that epoch and resumes with another object."""
    for epoch in epochs:
        hits = [draws.integers(21, "hits", epoch, torch.arange(3)).tolist() for _ in range(2)]
        observe(adaptive, hits[0])
        if epoch == stop:
            state = json.loads(json.dumps(adaptive.state_dict()))
            follower = Follower()
            adaptive = AdaptivePlan(plan_of((0.0, 0.0, 0.0)), parts=(follower,), every=2)
            adaptive.load_state_dict(state)
            assert adaptive.state_dict() == state
            assert follower.told == [adaptive.plan]
        observe(adaptive, hits[1])
        adaptive.update(epoch, leak=leak_of(0.1, -0.1, -0.1) if epoch == 4 else None)
    return adaptive


@pytest.mark.parametrize("stop", range(8))
def test_a_saved_one_goes_on_exactly(stop):
    whole = run(AdaptivePlan(plan_of(), every=2), range(8))
    resumed = run(AdaptivePlan(plan_of(), every=2), range(8), stop)
    assert resumed.state_dict() == whole.state_dict()
    assert resumed.plan == whole.plan
    assert resumed.history == whole.history != ()


def be_one_of_two(rank, folder):
    """Rows 0, 2, 4, ... or 1, 3, 5, ... of the same evidence."""
    store = torch.distributed.FileStore(str(Path(folder, "store")), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    adaptive = AdaptivePlan(plan_of(), every=2)
    for epoch in range(4):
        adaptive.observe(*(column[rank::2] for column in rows_of(epoch)))
        adaptive.update(epoch)
    Path(folder, f"{rank}.json").write_text(json.dumps(adaptive.state_dict()))
    leave(0)


def rows_of(epoch):
    rows = torch.arange(90)
    labels = rows % 3
    wrong = draws.uniform("wrong", epoch, rows) < 0.2 + 0.3 * (labels == 1)
    return labels, torch.where(wrong, (labels + 1) % 3, labels)


@pytest.mark.slow
def test_two_processes_come_to_the_plan_of_one(tmp_path):
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    started = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], env=environment) for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=240) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
            process.wait()
    alone = AdaptivePlan(plan_of(), every=2)
    for epoch in range(4):
        alone.observe(*rows_of(epoch))
        alone.update(epoch)
    assert alone.history
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == alone.state_dict()


# Wrong input


def loaded(**changes):
    adaptive = AdaptivePlan(plan_of())
    adaptive.load_state_dict({**adaptive.state_dict(), **changes})


def other_labels():
    adaptive = AdaptivePlan(plan_of())
    adaptive.observe(torch.tensor([0, 3, -1]), torch.tensor([0, 0, 0]))
    adaptive.update(0)


MESSAGES = {
    "every must be at least 1, got 0": lambda: AdaptivePlan(plan_of(), every=0),
    "least_seen must be at least 1, got 0": lambda: AdaptivePlan(plan_of(), least_seen=0),
    "epochs must be at least 1, got 0": lambda: AdaptivePlan(plan_of(), epochs=0),
    "first must not be negative, got -1": lambda: AdaptivePlan(plan_of(), first=-1),
    "step must lie in (0, 1], got 0": lambda: AdaptivePlan(plan_of(), step=0),
    "step must lie in (0, 1], got nan": lambda: AdaptivePlan(plan_of(), step=math.nan),
    "parts must each have use(plan), got DrawKey": lambda: AdaptivePlan(
        plan_of(), parts=(DrawKey(seed=0, epoch=0, step=0, indices=torch.arange(1)),)
    ),
    "epoch must not be negative, got -1": lambda: AdaptivePlan(plan_of()).update(-1),
    "predicted must be one integer per image, got shape (2, 3) of float32": lambda: AdaptivePlan(plan_of()).observe(
        torch.tensor([0, 1]), torch.zeros(2, 3)
    ),
    "predicted must have one entry per label, 2, got 1": lambda: AdaptivePlan(plan_of()).observe(
        torch.tensor([0, 1]), torch.tensor([0])
    ),
    "observed labels must be classes of the plan, in [0, 2], got 2 others": other_labels,
    "leak must have leak, one number per class, got float; see measure_leak": lambda: AdaptivePlan(plan_of()).update(
        0, leak=0.3
    ),
    "leak of the leak must have shape (3,), got (2,)": lambda: AdaptivePlan(plan_of()).update(
        0, leak=leak_of(0.0, 0.1)
    ),
    "history of the adaptive plan's state must be given, got nothing": lambda: AdaptivePlan(plan_of()).load_state_dict(
        {name: value for name, value in AdaptivePlan(plan_of()).state_dict().items() if name != "history"}
    ),
    "plan.classes of the adaptive plan's state must be given, got nothing": lambda: loaded(plan={}),
    "observed of the adaptive plan's state must be 2 rows of 4, got 1 rows": lambda: loaded(observed=[[0, 0, 0, 0]]),
    "adaptive plan's state must have the plan's classes, in their order, got 'c' for 'a'": lambda: loaded(
        plan=plan_of(names="cab").model_dump(mode="json")
    ),
    "adaptive plan's state must have the plan's 3 classes, got 2": lambda: loaded(
        plan=plan_of((0.1, 0.1), names="ab").model_dump(mode="json")
    ),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_a_wrong_call_says_what_must_hold(message):
    with pytest.raises(InputError) as error:
        MESSAGES[message]()
    assert str(error.value) == message


def test_a_diagnosis_on_test_is_refused_and_so_is_one_of_other_classes(diagnosis):
    adaptive = AdaptivePlan(plan := named(diagnosis))
    with pytest.raises(InputError) as error:
        adaptive.update(0, diagnosis=dataclasses.replace(diagnosis, heldout_split="test"))
    assert (
        str(error.value)
        == "diagnosis must be made on a validation split, got test; test is evaluated once, after choosing"
    )
    with pytest.raises(InputError, match=r"^diagnosis must have the plan's 3 classes, got 10$"):
        AdaptivePlan(plan_of()).update(0, diagnosis=diagnosis)
    assert adaptive.plan == plan


if __name__ == "__main__":
    be_one_of_two(int(sys.argv[1]), sys.argv[2])
