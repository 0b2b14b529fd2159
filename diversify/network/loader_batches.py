"""The batches of a loader, read without touching it: by index where it works so, else in its own order, each image once."""

from __future__ import annotations

import errno
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from ..errors import InputError, must
from ..runtime.user_code import describe, is_passed_on
from .batches import Batch, BatchForm, Collate


def index_batches(loader: object) -> tuple[list[list[int]], int] | None:
    """The data-set indices of every batch, in the loader's own order, and how many of them `drop_last` would leave out.

    None for a loader that does not work by index. Drawing all of them first costs an integer per image. It gives the
    number of rows, allows a check before any image is read, and tells what is left to read on resuming.
    """
    if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
        return None
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return None
    sampler, dropped = loader.batch_sampler, 0
    if type(sampler) is BatchSampler and sampler.drop_last:
        sampler = BatchSampler(sampler.sampler, sampler.batch_size, drop_last=False)
    seen: set[int] = set()
    batches = []
    for batch in sampler:
        if not all(isinstance(index, int | np.integer) or torch.is_tensor(index) for index in batch):
            return None
        indices = [int(index) for index in batch]
        for index in indices:
            if index in seen:
                advice = "pass dv.clean_loader(loader), which reads each image of the data set once"
                raise must("loader", "visit each image at most once", f"index {index} twice", advice)
            seen.add(index)
        batches.append(indices)
    if sampler is not loader.batch_sampler and batches and len(batches[-1]) < int(loader.batch_sampler.batch_size):  # type: ignore[attr-defined]
        dropped = len(batches[-1])
    return batches, dropped


def read_left(loader: DataLoader[Any], left: list[list[int]], form: BatchForm) -> Iterator[tuple[int, Batch]]:
    """Number, images, labels and indices of each of these batches, without those that the loader leaves out whole."""
    read = zip(left, _readable(_twin_loader(loader, left, form)), strict=True)
    for number, (indices, (batch, kept)) in enumerate(read):
        if form.rows(batch) == 0:
            continue
        images, labels, named = form.read(batch, number)
        places = torch.tensor(indices if kept is None else [indices[place] for place in kept])
        if named is not None and not torch.equal(named, places):
            law = "name the images' places in the loader's own data set"
            raise must("index", law, f"{named.tolist()[:3]} for {places.tolist()[:3]}")
        yield number, Batch(images, labels, places)


def read_others(loader: Iterable[Any], form: BatchForm) -> Iterator[Batch]:
    """The batches of a loader that does not work by index; a stream that every worker repeats is refused."""
    workers = loader.num_workers if isinstance(loader, DataLoader) else 0
    is_stream = workers > 1 and isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset)
    size = length_of(loader)
    seen: set[int] = set()
    first: list[list[int]] = []
    times: Counter[int] = Counter()
    rows = 0
    for number, batch in enumerate(_readable(loader)):
        if form.rows(batch) == 0:
            continue
        found = form.read(batch, number)
        rows += len(found.labels)
        if is_stream:
            digests_of_batch = image_digests(found.images)
            times.update(digests_of_batch)
        if is_stream and len(first) < workers:
            first.append(digests_of_batch)
            if len(first) == workers and len(set(first[0])) > 1 and all(each == first[0] for each in first):
                raise _repeating(f"the same batch from each of {workers} workers")
        if found.indices is not None:
            check_indices(found.indices, seen, size)
        yield found
    if is_stream and size is not None and rows == workers * size:
        raise _repeating(f"{rows:,} rows of {size:,} images by {workers} workers")
    if len(times) > 1 and all(number % workers == 0 for number in times.values()):
        raise _repeating(f"each image {min(times.values())} times by {workers} workers")


def _readable(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches of a loader; an InputError where an image cannot be read."""
    iterator = iter(batches)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except OSError as error:  # of a decoder, and not of the system
            if is_passed_on(error) or error.errno not in (None, errno.ENOENT):
                raise
            got, advice = describe(error), "leave out those that are not: dv.skip_bad(dataset)"
            raise must("images of the loader", "be readable", got, advice) from error
        yield batch


def _repeating(got: str) -> InputError:
    law = "give each image once"
    return must("loader", law, got, "shard the stream by torch.utils.data.get_worker_info(), or use one worker")


def image_digests(images: Tensor) -> list[int]:
    """A number for each image, by which to tell that two are the same, in any process: a hash of at most 4096 values."""
    rows = images.detach().cpu().flatten(1) if images.ndim > 1 else images.detach().cpu()[:, None]
    rows = rows[:, :: max(1, rows.shape[1] // 4096)].float()
    values = (hashlib.blake2b(row.numpy().tobytes(), digest_size=8).digest() for row in rows.contiguous())
    return [int.from_bytes(value, signed=True) for value in values]


def check_indices(indices: Tensor, seen: set[int], size: int | None) -> None:
    """Raise an InputError if an index came before, or cannot be a place in the data set."""
    for index in indices.tolist():
        if index < 0 or (size is not None and index >= size):
            law = "name the images' places in the data set" + (f", in [0, {size - 1}]" if size else "")
            raise must("index", law, index)
        if index in seen:
            raise must("index", "name each image once", f"{index} twice", "read each image once")
        seen.add(index)


def length_of(loader: object) -> int | None:
    """The number of images in a loader's data set; None where it is not known."""
    if isinstance(loader, DataLoader) and loader.batch_size is None and loader.batch_sampler is None:
        return None  # the data set gives whole batches
    dataset = getattr(loader, "dataset", None)
    try:
        return None if dataset is None or not hasattr(dataset, "__len__") else len(dataset)
    except (TypeError, NotImplementedError):  # a wrapper around a data set without a length
        return None


def _twin_loader(loader: DataLoader[Any], batches: list[list[int]], form: BatchForm) -> DataLoader[Any]:
    """A private loader over the same data set, so that no iterator, worker or sampler of the user's is touched."""
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        num_workers=loader.num_workers,
        collate_fn=Collate(loader.collate_fn, form),
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
    )
