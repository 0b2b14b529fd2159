"""The gate: which classes are below a bar beyond their interval, and how the outcome is written."""

import dataclasses
import math
from xml.etree import ElementTree

import pytest
import torch

from diversify.diagnosis.check import check
from diversify.diagnosis.result import Diagnosis
from diversify.errors import InputError
from diversify.functional import stats


def with_recall(diagnosis: Diagnosis, hits: list[float], total: int, names: tuple[str, ...] | None = None) -> Diagnosis:
    """The diagnosis as if these images of each class were recognised; NaN for a class without held-out images."""
    share = torch.tensor(hits, dtype=torch.float64) / total
    low, high = stats.wilson_interval(torch.tensor(hits), torch.full((len(hits),), float(total)))
    columns = {**diagnosis.columns, "recall_heldout": share, "recall_heldout_low": low, "recall_heldout_high": high}
    return dataclasses.replace(diagnosis, columns=columns, class_names=names or diagnosis.class_names)


def test_only_a_whole_interval_below_the_bar_fails(diagnosis: Diagnosis) -> None:
    hits = [50, 50, 30, 25, 24, 10, 50, 50, 0, math.nan]
    outcome = check(with_recall(diagnosis, hits, 50), worst_recall=0.6)
    status = [one.status for one in outcome.classes]
    ends = stats.wilson_interval(torch.tensor([30.0, 25.0, 24.0, 10.0]), torch.full((4,), 50.0))[1]
    assert [bool(end < 0.6) for end in ends] == [False, False, False, True]
    assert status == ["passed"] * 5 + ["failed", "passed", "passed", "failed", "skipped"]
    assert not outcome.passed
    assert [one.class_name for one in outcome.skipped] == [diagnosis.class_names[9]]
    assert check(with_recall(diagnosis, [30.0] * 10, 50), worst_recall=0.6).passed


def test_the_magnitude_ratio_has_a_bar_of_its_own(diagnosis: Diagnosis) -> None:
    outcome = check(diagnosis, gap_ratio=0.8)
    high = diagnosis["ce_magnitude_ratio_high"].tolist()
    wanted = ["skipped" if math.isnan(end) else "failed" if end < 0.8 else "passed" for end in high]
    assert [one.status for one in outcome.classes] == wanted


def test_a_class_is_worse_than_before_only_beyond_the_interval_and_matched_by_name(diagnosis: Diagnosis) -> None:
    names = diagnosis.class_names
    before = with_recall(diagnosis, [40.0] * 10, 50, names[::-1])
    now = with_recall(diagnosis, [40, 38, 20, *([40] * 7)], 50)
    outcome = check(now, against=before)
    assert [one.class_name for one in outcome.failed] == [names[2]]
    assert outcome.failed[0].value == pytest.approx(-0.4)
    assert check(before, against=now).passed, "better is not worse"
    before = with_recall(diagnosis, [*([40.0] * 9), 20.0], 50, names[::-1])
    assert check(with_recall(diagnosis, [20.0, *([40.0] * 9)], 50), against=before).passed


def test_junit_and_markdown_hold_any_name(diagnosis: Diagnosis) -> None:
    names = ("<b>&\"'", "a|b", "new\nline", "nul\x00", "é", *diagnosis.class_names[5:])
    outcome = check(with_recall(diagnosis, [0.0] * 9 + [math.nan], 50, names), worst_recall=0.5)
    suite = ElementTree.fromstring(outcome.to_junit())  # noqa: S314 - our own text
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("10", "9", "1")
    assert suite[0].get("name") == names[0]
    assert suite[3].get("name") == "nul?"
    assert len(suite.findall("testcase/failure")) == 9
    rows = outcome.to_markdown().splitlines()
    assert rows[0] == "9 of 9 checks failed; 1 skipped"
    assert len(rows) == 4 + 10
    assert all(row.replace("\\|", "").count("|") == 7 for row in rows[2:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "check must have a bar, got none; pass worst_recall=R, gap_ratio=R or against=DIAGNOSIS"),
        ({"worst_recall": 1.5}, "worst_recall must lie in [0, 1], got 1.5"),
        ({"worst_recall": math.nan}, "worst_recall must lie in [0, 1], got nan"),
        ({"gap_ratio": 0.0}, "gap_ratio must be above 0 and finite, got 0.0"),
    ],
)
def test_wrong_bars_are_refused(diagnosis: Diagnosis, options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError) as error:
        check(diagnosis, **options)
    assert str(error.value) == message


def test_other_classes_are_refused(diagnosis: Diagnosis) -> None:
    other = dataclasses.replace(diagnosis, class_names=("zebra", *diagnosis.class_names[1:]))
    with pytest.raises(InputError, match="classes of against must be the 10 of the diagnosis, got 'airplane' in one"):
        check(diagnosis, against=other)
    twice = dataclasses.replace(diagnosis, class_names=("ship", *diagnosis.class_names[1:]))
    with pytest.raises(InputError, match="class names must differ"):
        check(diagnosis, against=twice)


def test_what_is_no_diagnosis_or_number_is_refused(diagnosis):
    for options, message in (
        ({"worst_recall": "0.6"}, "worst_recall must be a number, got '0.6'"),
        ({"gap_ratio": True}, "gap_ratio must be a number, got True"),
        ({"against": diagnosis.to_dict()}, "against must be a Diagnosis, got dict; Diagnosis.from_json reads one"),
    ):
        with pytest.raises(InputError) as caught:
            check(diagnosis, **options)
        assert str(caught.value) == message
