"""Labels of every usual form become the same class indices, and what is none ends in one line."""

import numpy as np
import pandas as pd
import pytest
import torch

from diversify.errors import InputError
from diversify.functional.labels import in_class_order, read_labels

NAMES = ["ant", "bee", "cow"]
CLASSES = [2, 0, 1, 1]
WORDS = [NAMES[c] for c in CLASSES]
EYE = np.eye(3)[CLASSES]

FORMS = {
    "list": CLASSES,
    "tuple": tuple(CLASSES),
    "uint8": np.array(CLASSES, dtype=np.uint8),
    "uint64 tensor": torch.tensor(CLASSES, dtype=torch.uint64),
    "column": np.array(CLASSES)[:, None],
    "whole floats": np.array(CLASSES, dtype=float),
    "bfloat16": torch.tensor(CLASSES, dtype=torch.bfloat16),
    "float column": torch.tensor(CLASSES)[:, None].float(),
    "list of numpy integers": list(np.array(CLASSES, dtype=np.int16)),
    "list of 0-d tensors": list(torch.tensor(CLASSES)),
    "list of 0-d arrays and integers": [np.array(2), 0, np.array(1), 1],
    "list of tensors of one element": list(torch.tensor(CLASSES)[:, None]),
    "tensor that needs a gradient": torch.tensor(CLASSES, dtype=torch.float32, requires_grad=True),
    "objects": np.array(CLASSES, dtype=object),
    "object column": np.array(CLASSES, dtype=object)[:, None],
    "series with an index of its own": pd.Series(CLASSES, index=[9, 8, 7, 6]),
    "nullable series": pd.Series(CLASSES, dtype="Int64"),
    "categorical of numbers": pd.Categorical(CLASSES, categories=[1, 2, 0]),
    "data frame of one column": pd.DataFrame({"label": CLASSES}),
    "one-hot": EYE.astype(int),
    "float one-hot": torch.tensor(EYE, dtype=torch.float32),
    "bool one-hot": EYE.astype(bool),
    "list of one-hot rows": EYE.astype(int).tolist(),
    "list of one-hot tensors": list(torch.tensor(EYE)),
    "text": WORDS,
    "array of text": np.array(WORDS),
    "bytes": np.array(WORDS, dtype="S"),
    "column of text": np.array(WORDS)[:, None],
    "series of text": pd.Series(WORDS),
    "categorical of text": pd.Categorical(WORDS, categories=["cow", "bee", "ant"]),
    "text and numbers": ["cow", 0, "bee", 1],
}


@pytest.mark.parametrize("labels", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_classes(labels):
    found = read_labels("labels", labels, rows=4, class_names=NAMES)
    assert found.dtype == torch.int64
    assert found.tolist() == CLASSES


def test_booleans_are_two_classes_and_an_array_is_not_aliased():
    assert read_labels("labels", np.array([True, False])).tolist() == [1, 0]
    array = np.array([0, 1])
    found = read_labels("labels", array)
    array[0] = 7
    assert found.tolist() == [0, 1]


SEVERAL = "for several labels per image (multi-label data), use dv.extract_multilabel and dv.diagnose_multilabel, or --multilabel"
MISSING = "leave out the images without a label"
SHAPE = "labels must have shape (N,) or (N, 1), or be one-hot (N, C), got "

NULLABLE = pd.Series([1, None], dtype="Int64")
GAP = (
    "one class per image, got <NA>" if np.asarray(NULLABLE).dtype == object else "whole numbers, got nan"
)  # pandas 2.1
REFUSED = [
    ([1, 2, 3], "labels must be classes in [0, 2], got 3 at row 2; they seem to count from 1: subtract 1 from all"),
    ([0, 3, 5], "labels must be classes in [0, 2], got 3 at row 1"),
    ([0, -1, 2], f"labels must not be negative, got -1 at row 1; {MISSING}, 1 of 3"),
    (
        [-1, -1],
        "labels must not be negative, got -1 at row 0; leave this split out: -1 throughout means that it has no labels",
    ),
    ([0.5, 1.0], "labels must be whole numbers, got 0.5 at row 0"),
    ([0.0, float("nan")], f"labels must be whole numbers, got nan at row 1; {MISSING}"),
    ([0.0, float("inf")], "labels must be whole numbers, got inf at row 1"),
    ([0.0, 1e30], "labels must be less than 2^63, got 1e+30 at row 1"),
    ([0, 2**70], "labels must be less than 2^63, got 1180591620717411303424 at row 1"),
    (np.array([1, 2**63 + 5], dtype=np.uint64), "labels must be less than 2^63, got 9223372036854775813 at row 1"),
    ([0, None], f"labels must be one class per image, got None at row 1; {MISSING}"),
    (NULLABLE, f"labels must be {GAP} at row 1; {MISSING}"),
    (pd.Categorical(["ant", None]), f"labels must be one class per image, got nan at row 1; {MISSING}"),
    (
        np.ma.array([0, 1], mask=[False, True]),
        f"labels must be one class per image, got a masked one at row 1; {MISSING}",
    ),
    (["ant", "bea"], "labels must be one of ant, bee, cow, got 'bea' at row 1; did you mean 'bee'?"),
    (["1", "0"], "labels must be one of ant, bee, cow, got '1' at row 0"),
    ([[0], [0, 1]], f"labels must be one class per image, got lists of several lengths; {SEVERAL}"),
    ([[1, 1, 0], [0, 1, 0]], f"{SHAPE}(1, 1, 0) at row 0; {SEVERAL}"),
    (
        torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0]]),
        f"{SHAPE}(0.25, 0.75, 0) at row 1; take the labels from before the images were mixed",
    ),
    ([[0, 1], [1, 0]], "labels must have 3 columns, one per class, where they are one-hot, got 2"),
    (np.zeros((2, 1, 1), dtype=int), f"{SHAPE}(2, 1, 1)"),
    (3, f"{SHAPE}()"),
    ([], "labels must hold at least one image, got 0"),
    ("ant", "labels must be one class per image, got a str"),
    ({0: 1}, "labels must be one class per image, got a dict"),
    (iter([0]), "labels must be one class per image, got a list_iterator; pass a list"),
    (np.array([1j]), "labels must be one class per image, got values of complex128"),
    (torch.tensor([1j]), "labels must be one class per image, got values of complex64"),
    (np.array(["2020-01-01"], dtype="M8[D]"), "labels must be one class per image, got values of datetime64[D]"),
    (object(), "labels must be one class per image, got a object"),
]


@pytest.mark.parametrize(("labels", "message"), REFUSED, ids=[text[12:60] for _, text in REFUSED])
def test_what_is_no_label_ends_in_one_line(labels, message):
    with pytest.raises(InputError) as caught:
        read_labels("labels", labels, class_names=NAMES)
    assert str(caught.value) == message


def test_text_needs_class_names_that_differ():
    advice = (
        "pass class_names where the function takes it, or number them: [class_names.index(label) for label in labels]"
    )
    with pytest.raises(
        InputError, match="^labels must be class indices where no class names are known, got 'cat'"
    ) as caught:
        read_labels("labels", ["cat"])
    assert str(caught.value).endswith(advice)
    with pytest.raises(
        InputError, match="^class_names must differ where labels are text, got 'cat' for several classes"
    ):
        read_labels("labels", ["cat"], class_names=["cat", "cat"])


def test_the_number_of_rows_and_the_owner_of_the_classes_are_named():
    with pytest.raises(InputError, match="^labels must be as many as the images, 3, got 2$"):
        read_labels("labels", [0, 1], rows=3)
    with pytest.raises(InputError, match=r"^labels must be classes of the plan, in \[0, 1\], got 2 at row 1$"):
        read_labels("labels", [0, 2], num_classes=2, of="the plan")


def test_values_by_class_are_put_in_order():
    names = ["cat", "owl", "emu"]
    for values in ({"owl": 2, "cat": 1, "emu": 3}, {2: 3, 0: 1, 1: 2}, pd.Series([3, 1, 2], index=[2, 0, 1])):
        assert in_class_order("counts", values, 3, names) == [1, 2, 3]
    assert in_class_order("counts", {"owl": 2}, 3, names, absent=0) == [0, 2, 0]
    assert in_class_order("counts", [3, 1, 2], 3, names) == [3, 1, 2]
    for values, message in (
        (
            {"dog": 1},
            "counts must be in the order of the classes, or name each by its name or number, got 'dog'; pass a list",
        ),
        ({"owl": 2}, "counts must name every class, got none for 'cat'"),
        (pd.Series([1, 2], index=["owl", "owl"]), "counts must name each class once, got a class twice"),
    ):
        with pytest.raises(InputError) as caught:
            in_class_order("counts", values, 3, names)
        assert str(caught.value) == message
    with pytest.raises(InputError, match=r"or name each by its number in \[0, 2\], got 'owl'; pass a list"):
        in_class_order("shares", {"owl": 1.0}, 3)
