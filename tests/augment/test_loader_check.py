"""A sampler that was made for another data set than its loader has ends in one line, and not in other images."""

import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

import diversify as dv
from diversify.augment import MultilabelSampler

LABELS = torch.arange(30) % 3
WHOLE = TensorDataset(torch.arange(30.0)[:, None], LABELS)
SUBSET = Subset(WHOLE, range(12))
PLAN = dv.Plan.from_counts(list("abc"), [10, 10, 10])


@pytest.mark.parametrize("options", [{"batch_size": 4}, {"batch_size": None}])
def test_a_sampler_of_the_whole_set_is_refused_by_the_loader_of_a_subset(options):
    sampler = dv.DiversifySampler(LABELS, PLAN)
    message = (
        "^DiversifySampler must be made for the data set of its loader, which has 12 images, got labels of 30;"
        " make it for loader.dataset$"
    )
    with pytest.raises(dv.InputError, match=message):
        list(DataLoader(SUBSET, sampler=sampler, **options))
    assert sum(len(batch[1]) for batch in DataLoader(WHOLE, batch_size=4, sampler=sampler)) == 30
    assert len(list(sampler)) == 30  # without a loader there is nothing to compare with


def test_indices_that_exist_by_chance_are_refused_too():
    sampler = dv.DiversifySampler(SUBSET, PLAN)
    with pytest.raises(dv.InputError, match="which has 30 images, got labels of 12"):
        next(iter(DataLoader(WHOLE, batch_size=4, sampler=sampler)))


def test_a_sampler_over_several_labels_is_compared_too():
    several = torch.nn.functional.one_hot(LABELS, 3)
    sampler = MultilabelSampler(several)
    with pytest.raises(dv.InputError, match="MultilabelSampler must be made for the data set of its loader"):
        next(iter(DataLoader(SUBSET, batch_size=4, sampler=sampler)))
    assert len(list(DataLoader(WHOLE, batch_size=None, sampler=sampler))) == 30


@pytest.mark.slow
def test_worker_processes_ask_as_the_loader_itself():
    sampler = dv.DiversifySampler(LABELS, PLAN)
    with pytest.raises(dv.InputError, match="which has 12 images"):
        list(DataLoader(SUBSET, batch_size=4, sampler=sampler, num_workers=2))
    assert len(list(DataLoader(WHOLE, batch_size=3, sampler=sampler, num_workers=2))) == 10
