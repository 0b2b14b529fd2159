"""Work that another thread does ahead of its use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")


def made_ahead(values: Iterable[Item]) -> Iterator[Item]:
    """Yield the values; each is made by another thread while the one before is in use.

    Args:
        values: What makes the values; torch uses one thread for that.

    Example:
        >>> list(made_ahead(number**2 for number in range(3)))
        [0, 1, 4]
    """
    number, end, source = torch.get_num_threads(), object(), iter(values)
    try:
        with ThreadPoolExecutor(1, initializer=partial(torch.set_num_threads, 1)) as pool:
            coming: Future[Any] = pool.submit(next, source, end)
            while (value := coming.result()) is not end:
                coming = pool.submit(next, source, end)
                yield value
    finally:
        torch.set_num_threads(number)
