"""The files that say where a model will be used."""

from pathlib import Path

import pytest

from diversify.commands.deployment import cost_from, target_prior_from
from diversify.errors import InputError

NAMES = ("cat", "dog", "red, fox")

PRIORS = {
    "a.csv": 'class,share\ndog,0.25\n"red, fox", 0.125\n\ncat,0.625\n',
    "b.csv": '\ufeffdog,0.25\r\n"red, fox",0.125\r\ncat,0.625\r\n',
    "a.json": '{"dog": 0.25, "red, fox": 0.125, "cat": 0.625}',
    "b.json": "[0.625, 0.25, 0.125]",
}


@pytest.mark.parametrize("name", PRIORS)
def test_shares_are_read_in_the_order_of_the_classes(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(PRIORS[name], encoding="utf-8", newline="")
    assert target_prior_from(path, NAMES) == [0.625, 0.25, 0.125]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'true,"red, fox",cat,dog\ndog,1,2,0\ncat,3,0,4\n"red, fox",0,5,6\n'),
        ("a.json", "[[0, 4, 3], [2, 0, 1], [5, 6, 0]]"),
    ],
)
def test_costs_are_read_in_the_order_of_the_classes(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert cost_from(path, NAMES) == [[0, 4, 3], [2, 0, 1], [5, 6, 0]]


WRONG_PRIORS = {
    "class of target_prior must be one of the classes, got 'dig'; did you mean 'dog'?": "cat,0.5\ndig,0.5\n",
    "target_prior must name each class once, got 'cat' twice": "cat,0.5\ncat,0.5\n",
    "target_prior must name every class, got none of 'red, fox'": "cat,0.5\ndog,0.5\n",
    "target_prior must hold a class and its share in each row, got cat": "cat\n",
    "target_prior must hold numbers, got 'half'": 'cat,half\ndog,0\n"red, fox",0\n',
}


@pytest.mark.parametrize("message", WRONG_PRIORS)
def test_a_file_of_shares_that_is_wrong_is_refused(message: str, tmp_path: Path) -> None:
    path = tmp_path / "prior.csv"
    path.write_text(WRONG_PRIORS[message], encoding="utf-8")
    with pytest.raises(InputError) as caught:
        target_prior_from(path, NAMES)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "law"),
    [
        ("3", "target_prior must be a list of shares, or an object of shares by class, got int"),
        ("[true, 0, 0]", "target_prior must hold numbers, got True"),
        ('{"cat": 1, "cat": 0}', "target_prior must be whole, valid JSON"),
        ("", "target_prior must not be empty"),
    ],
)
def test_json_of_shares_that_is_wrong_is_refused(text: str, law: str, tmp_path: Path) -> None:
    (tmp_path / "prior.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=law):
        target_prior_from(tmp_path / "prior.json", NAMES)


def test_a_file_of_costs_that_is_wrong_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cost.csv"
    for text, law in (
        ("true,cat,dog\ncat,0\n", "cost must have 3 columns in each row, as in the first, got 2 in one"),
        ('true,cat,dog,"red, fox"\ncat,0,1,1\ndog,1,0,1\n', "cost must name every class, got none of 'red, fox'"),
        ("", "cost must not be empty"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=law):
            cost_from(path, NAMES)
    path.write_bytes(b"true,\xff\n")
    with pytest.raises(InputError, match=r"cost must be valid CSV in UTF-8"):
        cost_from(path, NAMES)
