"""A diagnosis as a file: its fields, reading it back, and damaged files."""

import json
import math

import pytest
import torch
from conftest import NAMES

from diversify.diagnosis.catalogue import MEASURES
from diversify.diagnosis.result import Diagnosis
from diversify.errors import InputError

CONTRACT = """name, count, count_heldout, recall_train, recall_heldout, precision_heldout, top_k_share, needed_tp, needed_error,
ce_magnitude_ratio, ce_magnitude_ratio_tp, ce_magnitude_ratio_fn, ce_magnitude_gap, fe_magnitude_ratio, identity_overlap,
feature_deviation, range_gap, safe, border, rare, outlier, head_norm, nc1, margin, ece"""


def test_the_file_has_every_field_of_the_contract(diagnosis: Diagnosis) -> None:
    record = json.loads(diagnosis.to_json())
    classes = record["classes"]
    for name in CONTRACT.replace("\n", " ").split(", "):
        assert len(classes[name.strip()]) == 10
    for name in (name for name in MEASURES if name.startswith("diversity_")):
        assert {name, f"{name}_low", f"{name}_high"} <= set(classes)
    for field in (
        "schema_version",
        "heldout_split",
        "top_k",
        "enemies",
        "top_k_features",
        "head_ceiling",
        "findings",
        "plan_ready",
    ):
        assert field in record
    assert torch.tensor(record["top_k_features"]).shape == (10, 5)
    assert len(record["enemies"]) == len(record["enemies"][0]) == 10
    assert classes["diversity_vendi_train"][9] is None  # three images: NaN as null


def test_it_is_written_and_read_back(diagnosis: Diagnosis) -> None:
    again = Diagnosis.from_json(diagnosis.to_json())
    assert again.to_json() == diagnosis.to_json()
    assert again.findings == Diagnosis.from_json(again.to_json()).findings
    assert again.class_names == NAMES
    assert diagnosis.to_dataframe().loc["cat", "count"] == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: r["classes"].update(recall_train=[0.5]),
            "classes.recall_train of the diagnosis must be 10 numbers, one per class, got 1 values",
        ),
        (
            lambda r: r["classes"].pop("name"),
            "classes.name of the diagnosis must be given, got nothing",
        ),
        (
            lambda r: r["enemies"].pop(),
            "enemies of the diagnosis must be 10 rows of 10, got 9 rows",
        ),
        (lambda r: r["findings"][0].pop("text"), "findings.0.text of the diagnosis must be given, got nothing"),
        (
            lambda r: r["classes"]["recall_train"].__setitem__(1, math.inf),
            "classes.recall_train.1 of the diagnosis must be ",
        ),
        (lambda r: r.update(top_k="many"), "top_k of the diagnosis must be valid ("),
    ],
)
def test_a_damaged_file_is_named_by_its_field(diagnosis: Diagnosis, change: object, message: str) -> None:
    record = json.loads(diagnosis.to_json())
    change(record)
    with pytest.raises(InputError) as caught:
        Diagnosis.from_dict(record)
    assert str(caught.value).startswith(message)
