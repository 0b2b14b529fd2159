"""Nearest rows that are kept are those that a search finds."""

import pytest
import torch

from diversify.augment import known_neighbors
from diversify.augment.known_neighbors import KnownNeighbors
from diversify.functional.neighbors import nearest_others

FEATURES = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).round(decimals=1)


@pytest.mark.parametrize("most", [1 << 26, 50])  # numbers that are kept
def test_they_are_those_of_a_search_however_often_and_for_whatever_number_one_asks(monkeypatch, most: int) -> None:
    monkeypatch.setattr(known_neighbors, "_MOST", most)
    known = KnownNeighbors(FEATURES, at_least=5)
    for rows, k in (([3, 1, 3], 2), ([1, 7], 5), ([7, 30, 0], 9), ([1, 3], 1), (list(range(40)), 39)):
        asked = torch.tensor(rows)
        assert torch.equal(known(asked, k), nearest_others(FEATURES, asked, k))


def test_a_row_that_is_known_is_not_looked_up_again(monkeypatch) -> None:
    known, asked = KnownNeighbors(FEATURES, at_least=5), []

    def search(features: torch.Tensor, rows: torch.Tensor, k: int) -> torch.Tensor:
        asked.append((rows.tolist(), k))
        return nearest_others(features, rows, k)

    monkeypatch.setattr(known_neighbors, "nearest_others", search)
    for rows, k in (([3, 1], 2), ([1, 8], 4), ([8, 3], 5)):
        known(torch.tensor(rows), k)
    assert asked == [([1, 3], 5), ([8], 5)]
