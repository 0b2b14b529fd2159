"""Class names in any form are read in the order of the classes, wherever a function takes them."""

from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import diversify as dv
from diversify.errors import InputError
from diversify.functional.labels import names_in_order, read_labels

NAMES = ["cat", "dog", "emu"]
LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
FORMS = {
    "label2id": {"dog": 1, "cat": 0, "emu": 2},
    "id2label": {2: "emu", 0: "cat", 1: "dog"},
    "keys of JSON": OrderedDict([("1", "dog"), ("0", "cat"), ("2", "emu")]),
    "a Series whose index names the classes": pd.Series([1, 0, 2], index=["dog", "cat", "emu"]),
    "a Series": pd.Series(NAMES),
    "an array": np.array(NAMES),
    "a list": NAMES,
}


class Named(Dataset):
    """Images with the names of their classes."""

    labels = tuple(NAMES[c] for c in LABELS)

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, row: int):
        return torch.full((4,), float(row)), self.labels[row]


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_every_function_numbers_text_by_the_same_order(form) -> None:
    assert names_in_order(form) == tuple(NAMES)
    assert torch.equal(read_labels("labels", Named.labels, class_names=form), LABELS)
    assert torch.equal(dv.labels_of(Named(), class_names=form), LABELS)
    split = dv.split_head(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))
    assert torch.equal(dv.extract(split, DataLoader(Named(), 4), class_names=form).labels, LABELS)
    found = dv.Embeddings.from_arrays(np.ones((6, 5)), Named.labels, logits=np.ones((6, 3)), class_names=form)
    assert torch.equal(found.labels, LABELS)
    train, heldout, head = dv.make_embeddings((120, 60, 30))
    assert dv.learning_curve(train, heldout, head, class_names=form).class_names == tuple(NAMES)


@pytest.mark.parametrize("form", [set(NAMES), frozenset(NAMES), "cat"], ids=["set", "frozenset", "text"])
def test_names_without_an_order_are_refused(form) -> None:
    law = r"^class_names must be a list of names in the order of the classes, got a (set|frozenset|str)"
    for ask in (
        lambda: names_in_order(form),
        lambda: dv.labels_of(Named(), class_names=form),
        lambda: dv.Embeddings.from_arrays(np.ones((6, 5)), Named.labels, logits=np.ones((6, 3)), class_names=form),
    ):
        with pytest.raises(InputError, match=law):
            ask()
