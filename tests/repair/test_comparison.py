"""Scores outside a fold, from sums inside it."""

import torch

from diversify.repair.comparison import _mean_recalls_elsewhere
from diversify.repair.metric import Metric


def test_recalls_outside_a_fold_are_those_of_its_other_rows_to_the_last_bit():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (97,), generator=generator)  # class 4 of 5 has no row
    fold = torch.randint(3, (97,), generator=generator)
    fold[labels == 3] = 2  # so that class 3 has no row outside this fold
    predicted = torch.randint(5, (6, 97), generator=generator)
    got = _mean_recalls_elsewhere(predicted == labels, labels, 5, fold, 3)
    for index in range(3):
        kept = fold != index
        assert got[index] == Metric().ranked(predicted[:, None, kept], labels[kept], 5)
