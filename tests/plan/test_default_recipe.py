"""The default recipe: every class alike, less augmentation where the network has not overfitted, and clear errors."""

import dataclasses
from pathlib import Path

import pytest
import torch

import diversify as dv
from diversify.cli.entry import run
from diversify.commands.plan import plan_run
from diversify.files import atomic
from diversify.plan.strengths import STRENGTHS, Strengths

NAMES, COUNTS = ["cat", "dog", "newt"], [200, 80, 20]


@pytest.fixture(scope="module")
def diagnosis() -> dv.Diagnosis:
    train, heldout, head = dv.make_embeddings((200, 80, 20), heldout=50)
    return dv.diagnose(train, heldout, head=head, class_names=NAMES)


def overfitted_by(diagnosis: dv.Diagnosis, gap: float) -> dv.Diagnosis:
    columns = dict(diagnosis.columns)
    columns["recall_train"] = torch.full((3,), 0.9)
    columns["recall_heldout"] = columns["recall_train"] - gap
    return dataclasses.replace(diagnosis, columns=columns)


def test_every_class_is_treated_alike() -> None:
    plan = dv.recipe(NAMES, COUNTS)
    assert len({(one.image, one.mixing, one.features) for one in plan.classes}) == 1
    first = plan.classes[0]
    assert (first.image.strength, first.image.probability) == (0.6, STRENGTHS.image_probability)
    assert (first.mixing.method, first.mixing.partner, first.features) == ("cutmix", 1.0, ())
    assert plan.draws.tolist() == pytest.approx([count / 300 for count in COUNTS], abs=1e-6)
    assert plan.prior_correction.training == 1
    assert dv.Plan.from_json(plan.to_json()) == plan
    assert [reason.choice for reason in first.reasons] == ["image", "mixing"]


def test_equal_classes_are_augmented_too_and_an_absent_class_is_not() -> None:
    plan = dv.recipe(NAMES, [30, 30, 0])
    assert plan.classes[1].image.amount > 0
    assert plan.classes[2].image.amount == 0
    assert plan.classes[2].mixing.method == "none"
    assert plan.classes[2].reasons == ()


@pytest.mark.parametrize(("gap", "share"), [(0.05, 0.0), (0.125, 0.5), (0.3, 1.0)])
def test_a_network_that_has_barely_overfitted_gets_less(diagnosis: dv.Diagnosis, gap: float, share: float) -> None:
    plan = dv.recipe(NAMES, COUNTS, diagnosis=overfitted_by(diagnosis, gap))
    assert plan.classes[0].image.strength == pytest.approx(0.6 * share, abs=1e-3)
    assert plan.classes[0].mixing.probability == pytest.approx(0.5 * share, abs=1e-3)
    assert any(reason.measure == "recall_train" for reason in plan.classes[2].reasons) == (share < 1)


def test_without_augmentation_only_the_class_prior_is_corrected(diagnosis: dv.Diagnosis) -> None:
    plan = dv.recipe(NAMES, COUNTS, augment=False)
    assert {one.image.amount for one in plan.classes} == {0.0}
    assert {one.mixing.method for one in plan.classes} == {"none"}
    assert plan.prior_correction == dv.recipe(NAMES, COUNTS).prior_correction
    assert dv.recipe(NAMES, COUNTS, augment=False, diagnosis=overfitted_by(diagnosis, 0.5)).classes[0].image.amount == 0


def test_strengths_are_the_users(diagnosis: dv.Diagnosis) -> None:
    plan = dv.recipe(NAMES, COUNTS, strengths=Strengths(image_least=0.2, image_most=0.4, draws_exponent=0.0))
    assert plan.classes[0].image.strength == pytest.approx(0.3)
    assert plan.draws.tolist() == pytest.approx([1 / 3] * 3)


def test_errors_name_the_value(diagnosis: dv.Diagnosis) -> None:
    with pytest.raises(dv.InputError, match="diagnosis must have these class names and training counts"):
        dv.recipe(NAMES, [200, 80, 21], diagnosis=diagnosis)
    with pytest.raises(dv.InputError, match="diagnosis must be made on the validation set, got one made on test"):
        dv.recipe(NAMES, COUNTS, diagnosis=dataclasses.replace(diagnosis, heldout_split="test"))
    with pytest.raises(dv.InputError, match="class_counts must be one per class name"):
        dv.recipe(NAMES, [1, 2])


def test_the_command_makes_it_from_a_diagnosis(diagnosis: dv.Diagnosis, tmp_path: Path) -> None:
    (tmp_path / "diagnosis").mkdir()
    atomic.write_json(tmp_path / "diagnosis" / "diagnosis.json", diagnosis.to_dict())
    plan = plan_run(tmp_path / "diagnosis", alike=True, out=tmp_path / "plan.json")
    assert plan == dv.recipe(NAMES, COUNTS, diagnosis=diagnosis)
    assert dv.Plan.from_json((tmp_path / "plan.json").read_text()) == plan
    without = plan_run(tmp_path / "diagnosis", alike=True, augment=False)
    assert without == dv.recipe(NAMES, COUNTS, augment=False)


def test_no_augment_goes_with_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", str(tmp_path), "--no-augment"]) == 2
    assert capsys.readouterr().err == (
        "error: --no-augment must come with --alike, got a plan that grades classes; pass --alike too\n"
    )
