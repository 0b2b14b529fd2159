"""What training by a plan is expected to change: sane in recall and size, and silent where no record speaks."""

import dataclasses

import pytest
import torch

import diversify as dv
from diversify.errors import InputError
from diversify.plan.expected_gains import forecast, kind_of
from diversify.plan.gain_table import REMEDIES

COUNTS = torch.tensor([400.0, 100.0, 25.0])
NAMES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def diagnosis() -> dv.Diagnosis:
    train, heldout, head = dv.make_embeddings((400, 100, 25), spread=1.0)
    return dv.diagnose(train, heldout, head=head, class_names=NAMES)


@pytest.mark.parametrize("kind", REMEDIES)
def test_a_rarer_class_of_the_same_recall_gains_more(kind: str) -> None:
    heldout = torch.tensor([50.0, 50.0, 50.0])
    _, (gain, low, high), whole = forecast(REMEDIES[kind], COUNTS, heldout, torch.tensor([30.0, 30.0, 30.0]))
    assert gain.tolist() == sorted(gain.tolist())
    assert whole[0] == pytest.approx(float(gain.mean()))
    assert bool(((low < gain) & (gain < high)).all())


@pytest.mark.parametrize("kind", REMEDIES)
def test_a_class_with_higher_recall_ends_higher_and_gains_less(kind: str) -> None:
    heldout = torch.tensor([50.0, 50.0, 50.0])
    before, (gain, _, _), _ = forecast(REMEDIES[kind], torch.ones(3) * 50, heldout, torch.tensor([10.0, 25.0, 45.0]))
    assert gain.tolist() == sorted(gain.tolist(), reverse=True)
    assert (before + gain).tolist() == sorted((before + gain).tolist())


def test_few_heldout_images_widen_the_interval() -> None:
    ends = []
    for rows in (4.0, 400.0):
        _, (_, low, high), _ = forecast(REMEDIES["prior"], COUNTS, torch.full((3,), rows), torch.full((3,), rows / 2))
        ends.append(float((high - low).mean()))
    assert ends[0] > 1.2 * ends[1]


def test_a_class_without_images_has_no_forecast() -> None:
    heldout = torch.tensor([50.0, 50.0, 0.0])
    _, (gain, _, high), whole = forecast(REMEDIES["prior"], COUNTS, heldout, torch.tensor([30.0, 30.0, 0.0]))
    assert gain.isnan().tolist() == high.isnan().tolist() == [False, False, True]
    assert whole[0] == pytest.approx(float(gain[:2].mean()))


def test_plans_are_told_apart_by_what_they_do(diagnosis: dv.Diagnosis) -> None:
    plan = dv.recipe(NAMES, [400, 100, 25])
    still = tuple(one.model_copy(update={"image": dv.ImagePolicy(), "mixing": dv.Mixing()}) for one in plan.classes)
    prior = plan.model_copy(update={"classes": still})
    nothing = prior.model_copy(update={"prior_correction": dv.PriorCorrection()})
    assert [kind_of(one) for one in (plan, prior, nothing)] == ["images", "prior", None]
    found = dv.expected_gains(nothing, diagnosis)
    assert bool(found.gain.isnan().all())
    assert found.in_words().startswith("Nothing is known")
    assert "untested" in dv.expected_gains(plan, diagnosis).notes[0]  # the records are of ten classes
    assert dv.expected_gains(plan, diagnosis).to_dict()["overall"]["gain"] > 0


def test_a_forecast_needs_the_diagnosed_classes_and_a_validation_set(diagnosis: dv.Diagnosis) -> None:
    with pytest.raises(InputError, match="diagnosed 3 classes"):
        dv.expected_gains(dv.recipe(["ant"], [400]), diagnosis)
    with pytest.raises(InputError, match="validation set"):
        dv.expected_gains(dv.recipe(NAMES, [400, 100, 25]), dataclasses.replace(diagnosis, heldout_split="test"))
