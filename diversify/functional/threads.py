"""Work on several threads at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return `work(item)` of each item, in order, on as many threads as torch uses here.

    It is for work of many small operations, which torch's own threads hardly speed up. Within `work` torch uses one thread.

    Args:
        work: What to do; it must not depend on what is done with the other items.
        items: The items, the largest first.

    Example:
        >>> in_threads(lambda number: number**2, [3, 2, 1])
        [9, 4, 1]
    """
    number = torch.get_num_threads()
    if number == 1 or len(items) < 2:
        return [work(item) for item in items]
    try:
        with ThreadPoolExecutor(min(number, len(items)), initializer=partial(torch.set_num_threads, 1)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(number)  # threads that are started later follow the last call


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
