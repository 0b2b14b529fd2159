"""The labels that a plan acts on: of the plan's classes, numbered as in the plan, and about as many as it says."""

import warnings

import pytest
import torch
from torch.utils.data import TensorDataset

import diversify as dv
from diversify.augment.plan_labels import plan_labels
from diversify.errors import InputError

PLAN = dv.Plan.from_counts(["cat", "newt", "owl"], [60, 30, 10])
LABELS = torch.arange(3).repeat_interleave(torch.tensor([60, 30, 10]))


def test_numbers_names_and_a_data_set_give_the_same_in_a_tensor_of_its_own():
    names = [["cat", "newt", "owl"][c] for c in LABELS.tolist()]
    for form in (LABELS, LABELS.numpy(), names, TensorDataset(torch.zeros(100, 1, 2, 2), LABELS)):
        found = plan_labels(form, PLAN)
        assert torch.equal(found, LABELS)
        assert found.data_ptr() != LABELS.data_ptr()


@pytest.mark.parametrize(
    ("counts", "noted"),
    [
        ([60, 30, 10], False),
        ([54, 33, 13], False),  # another split of the same data
        ([6, 3, 1], False),  # a tenth of it
        ([10, 30, 60], True),  # classes in another order
        ([30, 60, 10], True),
    ],
)
def test_counts_that_another_split_does_not_explain_are_told(counts, noted):
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan_labels(labels, PLAN)
    assert [str(one.message).count("in the plan's order") for one in caught] == [1] * noted


@pytest.mark.parametrize("labels", [[0, 1, 3], ["cat", "eft"], [0.5]])
def test_labels_that_are_no_classes_of_the_plan_are_refused(labels):
    with pytest.raises(InputError, match="labels"):
        plan_labels(labels, PLAN)
