"""Class names as a list, or as a mapping in either direction and in any order."""

import pandas as pd
import pytest

from diversify.diagnosis.measure import class_names_of
from diversify.errors import InputError
from diversify.plan.plan import Plan

NAMES = ("cat", "dog", "emu")


@pytest.mark.parametrize(
    "given",
    [
        list(NAMES),
        {0: "cat", 1: "dog", 2: "emu"},
        {2: "emu", 0: "cat", 1: "dog"},
        {"2": "emu", "0": "cat", "1": "dog"},
        {"emu": 2, "cat": 0, "dog": 1},
    ],
)
def test_names_in_every_form(given):
    assert class_names_of(given, 3) == NAMES
    assert [one.name for one in Plan.from_counts(given, [5, 3, 2]).classes] == list(NAMES)


def test_names_of_digits_are_names():
    assert class_names_of({"7": 0, "1": 1}, 2) == ("7", "1")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({0: "cat", 2: "emu"}, "map each class in [0, 2] to its name, or each name to its class, got 2 entries"),
        ({1: "cat", 2: "dog", 3: "emu"}, "map each class in [0, 2] to its name, or each name to its class"),
        ({"cat": 0, "dog": 0, "emu": 1}, "map each class in [0, 2] to its name, or each name to its class"),
        ({0: 1, 1: 2, 2: 0}, "map classes to names that are text, got {0: 1, 1: 2, 2: 0}"),
        ("cde", "be a list of names in the order of the classes, got a str"),
        ({"cat", "dog", "emu"}, "be a list of names in the order of the classes, got a set"),
        (["cat"], "be one per class of the head, 3, got 1"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(InputError) as caught:
        class_names_of(given, 3)
    assert f"class_names must {message}" in str(caught.value)


def test_the_index_of_a_series_names_the_classes():
    assert class_names_of(pd.Series(["d", "a", "b"], index=[2, 0, 1]), 3) == ("a", "b", "d")
    assert class_names_of(pd.Series({"d": 2, "a": 0, "b": 1}), 3) == ("a", "b", "d")
    assert class_names_of(pd.Series(["a", "b", "d"]), 3) == ("a", "b", "d")
