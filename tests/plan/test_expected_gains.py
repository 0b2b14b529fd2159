"""What training by a plan is expected to change: sane in recall and size, and silent where no record speaks."""

import dataclasses

import pytest
import torch

import diversify as dv
from diversify.errors import InputError
from diversify.plan.expected_gains import forecast, kind_of
from diversify.plan.gain_table import REMEDIES
from diversify.plan.policies import ImagePolicy, Mixing, PriorCorrection

COUNTS = torch.tensor([400.0, 100.0, 25.0], dtype=torch.float64)
NAMES = ["ant", "bee", "cat"]


def _column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(scope="module")
def diagnosis() -> dv.Diagnosis:
    train, heldout, head = dv.make_embeddings((400, 100, 25), spread=1.0)
    return dv.diagnose(train, heldout, head=head, class_names=NAMES)


@pytest.mark.parametrize("kind", REMEDIES)
def test_a_rarer_class_of_the_same_recall_gains_more(kind: str) -> None:
    heldout = _column(50, 50, 50)
    _, (gain, low, high), whole = forecast(REMEDIES[kind], COUNTS, heldout, _column(30, 30, 30))
    assert gain.tolist() == sorted(gain.tolist())
    assert whole[0] == pytest.approx(float(gain.mean()))
    assert bool(((low < gain) & (gain < high)).all())


@pytest.mark.parametrize("kind", REMEDIES)
def test_a_class_with_higher_recall_ends_higher_and_gains_less(kind: str) -> None:
    heldout = _column(50, 50, 50)
    before, (gain, _, _), _ = forecast(REMEDIES[kind], _column(50, 50, 50), heldout, _column(10, 25, 45))
    assert gain.tolist() == sorted(gain.tolist(), reverse=True)
    assert (before + gain).tolist() == sorted((before + gain).tolist())


def test_few_heldout_images_widen_the_interval() -> None:
    ends = []
    for rows in (4.0, 400.0):
        _, (_, low, high), _ = forecast(REMEDIES["prior"], COUNTS, _column(rows, rows, rows), _column(*(rows / 2,) * 3))
        ends.append(float((high - low).mean()))
    assert ends[0] > 1.2 * ends[1]


def test_a_class_without_images_has_no_forecast() -> None:
    heldout = _column(50, 50, 0)
    _, (gain, _, high), whole = forecast(REMEDIES["prior"], COUNTS, heldout, _column(30, 30, 0))
    assert gain.isnan().tolist() == high.isnan().tolist() == [False, False, True]
    assert whole[0] == pytest.approx(float(gain[:2].mean()))


def test_plans_are_told_apart_by_what_they_do(diagnosis: dv.Diagnosis) -> None:
    plan = dv.recipe(NAMES, [400, 100, 25])
    still = tuple(one.model_copy(update={"image": ImagePolicy(), "mixing": Mixing()}) for one in plan.classes)
    prior = plan.model_copy(update={"classes": still})
    nothing = prior.model_copy(update={"prior_correction": PriorCorrection()})
    assert [kind_of(one) for one in (plan, prior, nothing)] == ["images", "prior", None]
    found = dv.expected_gains(nothing, diagnosis)
    assert bool(found.gain.isnan().all())
    assert found.in_words().startswith("Nothing is known")
    columns = {**diagnosis.columns, "recall_train": diagnosis["recall_heldout"] + 0.05}
    fits = dataclasses.replace(diagnosis, columns=columns)
    assert "did harm" in dv.expected_gains(plan, fits).in_words()  # the network has barely overfitted
    known = dv.expected_gains(prior, fits)
    assert "untested" in known.notes[0]  # the records are of ten classes
    assert known.overall["gain"] == pytest.approx(float(known.gain.mean()))
    assert known.in_words().startswith("Expected of training with the class prior corrected")


def test_a_forecast_needs_the_diagnosed_classes_and_a_validation_set(diagnosis: dv.Diagnosis) -> None:
    with pytest.raises(InputError, match="diagnosed 3 classes"):
        dv.expected_gains(dv.recipe(["ant"], [400]), diagnosis)
    with pytest.raises(InputError, match="validation set"):
        dv.expected_gains(dv.recipe(NAMES, [400, 100, 25]), dataclasses.replace(diagnosis, heldout_split="test"))
