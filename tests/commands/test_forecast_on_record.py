"""Which forecast stands beside what came out when two diagnoses are compared."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import diversify as dv
from diversify.commands.forecast_on_record import forecast_on_record
from diversify.files import digests
from diversify.report.comparison import render_comparison_markdown

NAMES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def sides() -> Any:
    return dv.make_embeddings((200, 80, 20), spread=1.0)


@pytest.fixture(scope="module")
def diagnosis(sides: Any) -> dv.Diagnosis:
    return dv.diagnose(sides[0], sides[1], head=sides[2], class_names=NAMES)


def _record(path: Path, sha256: str, **training: Any) -> dict[str, Any]:
    return {"weights": {"path": str(path), "sha256": sha256}, "training": training or None}


def test_a_repaired_head_has_the_forecast_of_its_remedy(sides: Any, diagnosis: dv.Diagnosis, tmp_path: Path) -> None:
    choice = dv.choose_head(*sides, dv.default_candidates(sides[0], sides[2])[:2])
    (tmp_path / "remedy.json").write_text(json.dumps({"choice": choice.to_dict()}))
    run = {"weights": {"sha256": "b"}, "of": {"weights": {"sha256": "a"}}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    repaired = _record(tmp_path / "model.safetensors", "b")
    found = forecast_on_record(diagnosis, _record(Path("first.pt"), "a"), repaired)
    assert found is not None
    assert torch.allclose(found[1]["forecast_difference"], choice.forecast["gain"], atol=1e-4)
    assert (
        forecast_on_record(diagnosis, _record(Path("first.pt"), "c"), repaired) is None
    )  # another network was repaired


def test_a_network_trained_by_a_plan_has_the_forecast_of_the_plan(diagnosis: dv.Diagnosis, tmp_path: Path) -> None:
    plan = dv.make_plan(diagnosis)
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    of_plan = {"path": str(path), "digest": digests.digest_json(json.loads(plan.to_json()))}
    trained = _record(tmp_path / "model.safetensors", "b", method="plan", plan=of_plan)
    plain = _record(Path("first.pt"), "a", method="ce")
    found = forecast_on_record(diagnosis, plain, trained)
    assert found is not None
    assert torch.equal(found[1]["forecast_difference_low"], dv.expected_gains(plan, diagnosis).gain_low)
    reweighted = _record(Path("first.pt"), "a", method="balanced_softmax")
    assert forecast_on_record(diagnosis, reweighted, trained) is None
    path.write_text(plan.to_json().replace("ant", "gnu"))
    assert forecast_on_record(diagnosis, plain, trained) is None  # the plan was changed since


def test_a_comparison_tells_which_classes_changed_as_expected(sides: Any) -> None:
    train, heldout, head = sides
    one = dv.Model(name="one", train=train, heldout=heldout, head=head)
    found = dv.compare_models(one, dataclasses.replace(one, name="two"), class_names=NAMES, shared_start=True)
    assert found.as_expected is None
    ends = {"": [0.0, 0.9, torch.nan], "_low": [-0.1, 0.8, torch.nan], "_high": [0.1, 1.0, torch.nan]}
    columns = {f"forecast_difference{end}": torch.tensor(values).double() for end, values in ends.items()}
    found = dataclasses.replace(found, columns={**found.columns, **columns})
    assert found.as_expected is not None
    assert found.as_expected[:2].tolist() == [1.0, 0.0]
    assert bool(found.as_expected[2].isnan())
    page = render_comparison_markdown(found, {})
    assert "expected, points" in page
    assert "1 of 2" in page
