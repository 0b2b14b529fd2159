"""The shares of enemies of many classes: in memory, in files of the new and the old form, and in plans."""

import dataclasses
import json

import pytest
import torch

from diversify.diagnosis import enemies as stored
from diversify.diagnosis.json_form import json_rows
from diversify.diagnosis.result import Diagnosis
from diversify.errors import InputError
from diversify.functional.sparse_rows import SparseRows
from diversify.plan.make import make_plan

CLASSES = 10


@pytest.fixture
def wide(diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch) -> Diagnosis:
    """A diagnosis whose classes count as many."""
    monkeypatch.setattr(stored, "DENSE_CLASSES", CLASSES - 1)
    return diagnosis


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one.clone(), other.clone(), atol=1e-6, equal_nan=True)


def test_a_file_holds_the_shares_that_are_not_0_and_the_old_form_is_read(wide: Diagnosis):
    text = wide.to_json()
    record = json.loads(text)
    assert "enemies" not in record
    assert len(record["enemy_shares"]) == CLASSES
    assert all(row is None or 0 not in row.values() for row in record["enemy_shares"])
    again = Diagnosis.from_json(text)
    assert isinstance(again.enemies, SparseRows)
    assert same(again.enemies, wide.enemies)
    assert again.to_json() == text
    del record["enemy_shares"]
    old = Diagnosis.from_dict({**record, "enemies": json_rows(wide.enemies)})
    assert isinstance(old.enemies, SparseRows)
    assert old.to_json() == text


def test_plans_and_controls_are_those_of_the_whole_matrix(wide: Diagnosis):
    sparse = dataclasses.replace(wide, enemies=stored.stored(wide.enemies))
    assert make_plan(sparse) == make_plan(wide)
    assert same(sparse.permuted(3).enemies, wide.permuted(3).enemies)
    assert isinstance(sparse.permuted(3).enemies, SparseRows)
    assert sparse.permuted(3).findings == wide.permuted(3).findings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("enemy_shares"), "enemies of the diagnosis must be given, got nothing"),
        (
            lambda r: r["enemy_shares"].pop(),
            f"enemy_shares of the diagnosis must be {CLASSES} objects, one per class, got {CLASSES - 1} values",
        ),
        (
            lambda r: r["enemy_shares"].__setitem__(2, {str(CLASSES): 1.0}),
            f"enemy_shares.2 of the diagnosis must name classes below {CLASSES}, got {CLASSES}",
        ),
        (lambda r: r["enemy_shares"].__setitem__(1, []), "enemy_shares.1 of the diagnosis must be an object, got []"),
    ],
)
def test_damaged_shares_are_named(wide: Diagnosis, change: object, message: str):
    record = json.loads(wide.to_json())
    change(record)
    with pytest.raises(InputError) as caught:
        Diagnosis.from_dict(record)
    assert str(caught.value).startswith(message)
