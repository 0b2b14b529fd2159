"""Work on several threads gives what the work of one gives, and leaves the number of threads as it was."""

import threading

import pytest
import torch

from diversify.functional import neighbors, stats
from diversify.functional.threads import in_threads, made_ahead


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


def test_results_come_in_order_and_torch_uses_one_thread_within(threads: int) -> None:
    main = threading.get_ident()
    found = in_threads(lambda item: (item, threading.get_ident() != main, torch.get_num_threads()), [3, 1, 2])
    assert found == [(item, threads > 1, 1) for item in (3, 1, 2)]
    assert in_threads(str, []) == []
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda item: 1 / item, [1, 0])


def test_values_are_made_ahead_and_errors_reach_the_reader(threads: int) -> None:
    assert list(made_ahead(range(4))) == [0, 1, 2, 3]
    values = made_ahead(1 / one for one in (1, 2, 0))
    assert [next(values), next(values)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(values)
    stopped = made_ahead(iter(range(1000)))
    assert next(stopped) == 0
    stopped.close()


def test_neighbours_and_bootstraps_do_not_depend_on_threads(threads: int, monkeypatch) -> None:
    monkeypatch.setattr(neighbors, "_WORK", 1)
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)).round()
    same = torch.arange(50)
    found = neighbors.nearest_neighbors(rows, rows, 3, same=same, block=8)
    alone = neighbors._nearest(rows, rows, 3, same, 8)
    assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))
    monkeypatch.setattr(stats, "_CACHED", 70)
    drawn = stats.bootstrap_class_mean(rows[:, 0], rows[:, 1].long().abs(), 5, 7, seed=0, name="a")
    monkeypatch.undo()
    assert torch.equal(
        drawn.nan_to_num(),
        stats.bootstrap_class_mean(rows[:, 0], rows[:, 1].long().abs(), 5, 7, seed=0, name="a").nan_to_num(),
    )
