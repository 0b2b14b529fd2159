"""Results of blocks are those of the whole, and blocks leave no memory behind."""

import subprocess
import sys

import pytest
import torch

from diversify.functional.blocks import joined, joined_columns

MEMORY = """
import resource
import torch
from diversify.functional.indexed_neighbors import _nearest_place

rows, places = torch.rand(1_500_000, 4), torch.rand(1024, 4)
held = torch.empty(6 << 20)  # 24 MB that are given back: from then on, blocks of 16 MB come from the heap
del held
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
_nearest_place(rows, places)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(("rows", "size"), [(7, 3), (6, 3), (2, 5), (0, 2)])
def test_blocks_give_what_the_whole_gives(rows: int, size: int) -> None:
    values = torch.arange(2 * rows, dtype=torch.float64).view(rows, 2)
    assert torch.equal(joined((2 * part for part in values.split(size)), rows), 2 * values)
    largest, place = joined_columns((part.max(1) for part in values.split(size)), rows)
    assert torch.equal(largest, values.max(1).values)
    assert torch.equal(place, values.max(1).indices)
    assert place.dtype == torch.int64


@pytest.mark.parametrize("rows", [1, 4])
def test_rows_that_do_not_add_up_are_an_error(rows: int) -> None:
    with pytest.raises(ValueError, match="must give|have 3 rows"):
        joined(torch.zeros(3).split(2), rows)
    with pytest.raises(ValueError, match="0 rows"):
        joined([], rows)


@pytest.mark.parametrize("other", [torch.ones(2, 1), torch.ones(2, 3, dtype=torch.float64), torch.ones(2)])
def test_blocks_that_differ_are_an_error_and_not_repeated_or_rounded(other: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="a block must give torch.float32 of shape"):
        joined([torch.zeros(2, 3), other], 4)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the memory as Linux counts it")
def test_memory_does_not_grow_with_the_number_of_blocks() -> None:
    """Blocks of 16 MB, of 1.5 million rows, have 6 GB in all."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, timeout=300)
    assert int(done.stdout) < 300
