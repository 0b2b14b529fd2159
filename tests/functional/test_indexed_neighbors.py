"""An index finds nearly the neighbours that an exact search finds, says how many, and gives way where it is of no use."""

import math

import pytest
import torch

import diversify as dv
from diversify.functional import draws, indexed_neighbors
from diversify.functional.indexed_neighbors import NeighborSearch
from diversify.functional.neighbors import nearest_neighbors

ROWS, QUERIES = 8_000, torch.arange(0, 8_000, 25)


def rows(shared=6):
    """Classes apart from each other that vary in a few directions."""
    labels = torch.arange(ROWS) % 50
    means = 3 * draws.normal("means", torch.arange(50 * 24)).view(50, 24)
    directions = draws.normal("directions", torch.arange(shared * 24)).view(shared, 24)
    return means[labels] + draws.normal("rows", torch.arange(ROWS * shared)).view(ROWS, shared) @ directions


def test_an_index_finds_nearly_all_and_never_the_query_itself():
    reference = rows()
    search = NeighborSearch(reference, work=0, seed=3)
    distances, indices = search(reference[QUERIES], 5, same=QUERIES)
    true_distances, true = nearest_neighbors(reference[QUERIES], reference, 5, same=QUERIES)
    hits = (indices[:, :, None] == true[:, None]).any(2).double().mean()
    assert 0.9 <= search.recall < 1
    assert abs(float(hits) - search.recall) < 0.03  # the estimate is that of queries which did not choose the cells
    assert bool((indices != QUERIES[:, None]).all())
    assert torch.allclose(distances, (reference[QUERIES][:, None] - reference[indices]).norm(dim=2), atol=1e-5)
    assert bool((distances >= true_distances - 1e-6).all())
    again = NeighborSearch(reference, work=0, seed=3)(reference[QUERIES], 5, same=QUERIES)
    assert torch.equal(again[1], indices)


def test_an_index_that_finds_too_few_gives_way_to_the_exact_search():
    reference = draws.normal("alike", torch.arange(4000 * 64)).view(
        4000, 64
    )  # every direction alike: cells say nothing
    search = NeighborSearch(reference, work=0)
    found = search(reference[:30], 5)
    assert math.isnan(search.recall)
    assert torch.equal(found[1], nearest_neighbors(reference[:30], reference, 5)[1])


def test_searches_of_little_work_are_exact():
    reference = rows()
    true = nearest_neighbors(reference[QUERIES], reference, 5, same=QUERIES)[1]
    search = NeighborSearch(reference)
    assert torch.equal(search(reference[QUERIES], 5, same=QUERIES)[1], true)
    assert math.isnan(search.recall)


def test_classes_far_apart_do_not_blur_the_neighbours_in_a_class():
    labels = torch.arange(ROWS) % 50
    means = 1e4 * draws.normal("far", torch.arange(50 * 24)).view(50, 24)
    reference = means[labels] + draws.normal("near", torch.arange(ROWS * 24)).view(ROWS, 24)
    search = NeighborSearch(reference, work=0)
    found = search(reference[QUERIES], 5, same=QUERIES)[1]
    true = nearest_neighbors(reference[QUERIES], reference, 5, same=QUERIES)[1]
    hits = float((found[:, :, None] == true[:, None]).any(2).double().mean())
    assert math.isnan(search.recall) or abs(hits - search.recall) < 0.03
    assert hits >= 0.9


def test_every_search_is_judged_by_its_own_queries():
    reference = rows()
    search = NeighborSearch(reference, work=0)
    search(reference[QUERIES], 5, same=QUERIES)
    between = (reference[QUERIES] + reference[QUERIES + 1]) / 2
    found, true = search(between, 10)[1], nearest_neighbors(between, reference, 10)[1]
    hits = float((found[:, :, None] == true[:, None]).any(2).double().mean())
    assert hits >= min(search.recall, 0.95) - 0.03


@pytest.mark.slow
def test_a_diagnosis_says_how_many_neighbours_its_index_found(monkeypatch):
    train, heldout, head = dv.make_embeddings((2000, 1500, 900, 600), spread=0.6)
    exact = dv.diagnose(train, heldout, head=head)
    assert "neighbour_recall" not in exact.queries["train"]
    assert not any("index" in note for note in exact.notes)
    monkeypatch.setattr(indexed_neighbors, "_ROWS", 40)  # as many cells as more rows would have
    monkeypatch.setattr(NeighborSearch.__init__, "__kwdefaults__", {"seed": 0, "work": 0.0})
    found = dv.diagnose(train, heldout, head=head)
    recall = found.queries["train"]["neighbour_recall"]
    assert 0.9 <= recall < 1
    assert f"an index, which finds about {recall:.0%} of them" in found.notes[-1]
    assert torch.allclose(found["safe"], exact["safe"], atol=0.03)
