"""Results of blocks of rows, written into tensors that are made once.

`torch.cat` of a list keeps a small result of each block until the last one is there. On a CPU it often lies in memory that the
block's large temporaries have just left, so that the next block cannot use this memory again: of ten million rows, blocks of
16 MB then hold tens of gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def joined(parts: Iterable[Tensor], rows: int) -> Tensor:
    """Return the results of all blocks as one tensor of `rows` rows; give a generator, so that each is made when it is needed.

    Args:
        parts: The result of each block, `(B, ...)`; all but their lengths are equal. There is at least one.
        rows: Rows in all.

    Example:
        >>> values = torch.arange(5.0)
        >>> joined((2 * part for part in values.split(2)), len(values)).tolist()
        [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    return joined_columns(((part,) for part in parts), rows)[0]


def joined_columns(parts: Iterable[Iterable[Tensor]], rows: int) -> tuple[Tensor, ...]:
    """Return the results of all blocks, several of each, as tensors of `rows` rows.

    Args:
        parts: The results of each block, as in `joined`.
        rows: Rows in all.

    Example:
        >>> values = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
        >>> [column.tolist() for column in joined_columns((part.max(1) for part in values.split(1)), 2)]
        [[3.0, 2.0], [0, 1]]
    """
    found: tuple[Tensor, ...] = ()
    start = 0
    for part in parts:
        columns = tuple(part)
        if not found:
            found = tuple(torch.empty((rows, *one.shape[1:]), dtype=one.dtype, device=one.device) for one in columns)
        end = start + len(columns[0])
        for whole, one in zip(found, columns, strict=True):
            if one.dtype != whole.dtype or one.shape != whole[start:end].shape:
                law = f"{whole.dtype} of shape {tuple(whole[start:end].shape)}"
                raise ValueError(f"a block must give {law}, got {one.dtype} of shape {tuple(one.shape)}")
            whole[start:end] = one
        start = end
    if not found or start != rows:
        raise ValueError(f"the blocks have {start} rows, not {rows}")
    return found
