"""The records of a study that is made of many runs: read, and made one by one or in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from diversify.files import atomic


def kept(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file; none if it is not there."""
    return list(atomic.read_jsonl(path)) if path.exists() else []


def made(
    make: Callable[..., dict[str, Any]], jobs: Sequence[tuple[Any, ...]], path: Path, *, workers: int = 1
) -> Iterator[dict[str, Any]]:
    """Make one record per job, append it to the file, and yield it; with several workers, as they come."""
    if workers == 1:
        for job in jobs:
            record = make(*job)
            atomic.append_jsonl(path, record)
            yield record
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=one_thread) as pool:
        for future in as_completed([pool.submit(make, *job) for job in jobs]):
            record = future.result()
            atomic.append_jsonl(path, record)
            yield record


def one_thread() -> None:
    """Compute on one thread, as each of several processes does."""
    torch.set_num_threads(1)
