"""The order of the findings in reports and on the screen, and findings of one kind that many classes have."""

import dataclasses
import math

import pytest
import torch

import diversify as dv
from diversify.diagnosis.findings import REMEDIES, Evidence, Finding
from diversify.report.diagnosis.findings import MOST_NAMED, in_order, text_of
from diversify.report.diagnosis.page import report_of

KINDS = {"low recall": "head repair", "narrow": "wider images", "failing cluster": "look at the cluster"}
KINDS |= {"suspect labels": "check labels", "near copies": "different images"}
KINDS |= {"held-out too like training": "new held-out images", "of a later version": "more images"}


def finding(kind: str, c: int, value: float = 0.2, compared_with: float = 0.5) -> Finding:
    measure = "suspect_labels_train" if kind == "suspect labels" else "recall_heldout"
    evidence = Evidence(measure=measure, value=value, low=0.1, high=0.3, compared_with=compared_with)
    return Finding(
        class_index=c,
        class_name=f"class {c}",
        text=f"{kind} of class {c}. Points to: {KINDS[kind]}.",
        evidence=(evidence,),
        causes=(KINDS[kind],),
        remedy=KINDS[kind],
        kind=kind,
    )


@pytest.fixture(scope="module")
def plain() -> dv.Diagnosis:
    train, heldout, head = dv.make_embeddings((30,) * 6)
    return dv.diagnose(train, heldout, head=head)


def of(plain: dv.Diagnosis, *findings: Finding, clean: tuple[float, ...] = (1.0,) * 6) -> dv.Diagnosis:
    columns = {
        **plain.columns,
        "recall_heldout": torch.ones(6, dtype=torch.float64),
        "recall_heldout_clean": torch.tensor(clean, dtype=torch.float64),
    }
    return dataclasses.replace(plain, findings=findings, columns=columns)


def test_what_fails_comes_before_leaks_and_unknown_kinds_come_last(plain: dv.Diagnosis) -> None:
    made = of(plain, *(finding(kind, 2) for kind in reversed(KINDS)))
    assert [group[0].kind for group in in_order(made)] == list(KINDS)
    assert [one.title for one in report_of(made, {}).findings][:2] == ["class 2", "class 2: narrow"]


def test_largest_effects_come_first(plain: dv.Diagnosis) -> None:
    leaks = [finding("held-out too like training", c) for c in range(3)]
    ordered = in_order(of(plain, *leaks, clean=(1.0, math.nan, 0.4, 1, 1, 1)))
    assert [group[0].class_index for group in ordered] == [1, 2, 0]
    narrow = [finding("narrow", c, value) for c, value in enumerate((0.3, 0.1, 0.2))]
    assert [group[0].class_index for group in in_order(of(plain, *narrow))] == [1, 2, 0]


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("narrow", "class 0 20% (10% to 30%); class 1 20% (10% to 30%)"),
        ("failing cluster", "class 0 20%, the rest 50%; "),
        ("suspect labels", "class 0 7 training images where 2 are expected; "),
        ("near copies", "class 0 7 of 30; "),
        (
            "held-out too like training",
            "class 1 20%, recall 100% with them, 40% without; class 0 20%, recall 100% with them, 100%",
        ),
        ("of a later version", "4 classes have a finding of this kind: class 0; class 1; class 2; class 3."),
    ],
)
def test_a_kind_of_more_than_three_classes_is_one_finding(plain: dv.Diagnosis, kind: str, line: str) -> None:
    value = {"suspect labels": (7.0, 2.0), "near copies": (7.0, 30.0)}.get(kind, (0.2, 0.5))
    found = [finding(kind, c, *value) for c in range(4)]
    assert len(in_order(of(plain, *found[:3]))) == 3
    made = of(plain, *found, clean=(1.0, 0.4, 1, 1, 1, 1))
    (group,) = in_order(made)
    text = text_of(group, made)
    assert line in text
    assert text.endswith(f" Points to: {REMEDIES[KINDS[kind]]}.")
    (shown,) = report_of(made, {}).findings
    assert shown.title == f"4 classes: {kind}"
    assert "Points to" not in shown.text
    assert all(f"class {c}" in shown.text for c in range(4))
    assert made.to_dict()["findings"] == of(plain, *found).to_dict()["findings"]


def test_low_recall_is_told_class_by_class(plain: dv.Diagnosis) -> None:
    found = [finding("low recall", c) for c in range(6)]
    assert in_order(of(plain, *found)) == tuple((one,) for one in found)


def test_of_very_many_classes_some_are_named(plain: dv.Diagnosis) -> None:
    found = [finding("near copies", c, 7, 30) for c in range(MOST_NAMED + 4)]
    text = text_of(found, plain)
    assert f"class {MOST_NAMED - 1} 7 of 30; and 4 more in diagnosis.json. Points to" in text
    assert f"class {MOST_NAMED} " not in text
