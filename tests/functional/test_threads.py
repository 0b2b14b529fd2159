"""What another thread makes ahead is what one thread makes, and the number of threads stays as it was."""

import pytest
import torch

from diversify.functional.threads import made_ahead


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


def test_values_are_made_ahead_and_errors_reach_the_reader(threads: int) -> None:
    assert list(made_ahead(range(4))) == [0, 1, 2, 3]
    values = made_ahead(1 / one for one in (1, 2, 0))
    assert [next(values), next(values)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(values)
    stopped = made_ahead(iter(range(1000)))
    assert next(stopped) == 0
    stopped.close()
