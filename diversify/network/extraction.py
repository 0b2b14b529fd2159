"""Run a split model over a loader and return `Embeddings`, without changing the model, the loader or any random state.

`extract` is for one process; `read_all` and `read_share` are its parts where several processes share the work
(`shared_extraction.py`).
"""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from ..data.clean import random_transforms
from ..data.labels import labels_of, stored_labels
from ..data.skip_bad import left_out_below
from ..errors import InputError, must, unknown
from ..files import digests
from ..functional import counts
from ..functional.labels import ClassNames, names_in_order
from ..runtime.progress import Progress
from ..runtime.randomness import random_state_kept
from ..runtime.signals import stop_if_interrupted
from ..runtime.user_code import describe, is_passed_on
from .batches import Batch, BatchForm, Collate, Key
from .embeddings import BLOCK_ROWS, Embeddings
from .embeddings_folder import COLUMNS
from .exchange import Block, Exchange
from .reading import Reading
from .resumable import Table, other_run
from .split import SplitModel
from .wrappers import evaluating

Precision = Literal["fp32", "bf16", "auto"]

PRECISIONS = ("fp32", "bf16", "auto")


@contextlib.contextmanager
def unchanged_randomness(device: torch.device, loader: object) -> Iterator[None]:
    """Restore, at the end of the block, every random state that reading a loader and running a model may advance."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    owners = (loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
    values = (value for owner in owners for value in getattr(owner, "__dict__", {}).values())
    generators = {value: value.get_state() for value in values if isinstance(value, torch.Generator)}
    with random_state_kept(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for generator, state in generators.items():
                generator.set_state(state)


def bf16_pays(device: torch.device) -> bool:
    """Return True if this device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and supported is not None and bool(supported())


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a precision: "bf16", "fp32" (none), or "auto" (bf16 if the hardware has it)."""
    enabled = compute_dtype(device, precision) == torch.bfloat16
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def compute_dtype(device: torch.device, precision: str) -> torch.dtype:
    """Return the dtype in which a network multiplies at this precision: bfloat16 or float32."""
    use = precision == "bf16" or (precision == "auto" and bf16_pays(device))
    return torch.bfloat16 if use else torch.float32


@contextlib.contextmanager
def taking(images: Tensor) -> Iterator[None]:
    """Turn an error of a model's first forward into an InputError: the model does not accept the images."""
    try:
        yield
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        if is_passed_on(error):
            raise
        shape = ", ".join(["N", *map(str, images.shape[1:])])
        advice = f"they have shape ({shape})"
        if "not implemented for 'Half'" in str(error):
            advice = "this device cannot run float16 weights: call model.float() first"
        raise must("model", "take these images", describe(error), advice) from error


def extract(
    split: SplitModel,
    loader: Iterable[Any],
    *,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    out: Path | None = None,
    progress: Progress | None = None,
    fingerprint: str = "",
    image_key: Key | None = None,
    label_key: Key | None = None,
    index: Key | None = None,
    class_names: ClassNames | None = None,
) -> Embeddings:
    """Return features, logits, labels and indices of every image in a loader.

    No state of the model, the loader or a random generator changes.

    Args:
        split: From `split_head`.
        loader: A `DataLoader`, or any iterable of batches. A batch is a tuple `(images, labels, ...)`, or a mapping with
            `pixel_values`, `image`, `images` or `img`, and `labels`, `label`, `target` or `targets`. Labels are one class
            per image: integers, whole floats, booleans, one-hot rows, or names of classes. A batch that is None is left out. A `DataLoader`
            over a map-style data set is read in its own order by a private copy, which records every image's index and
            also reads the last batch that `drop_last=True` leaves out.
        device: Where to run; None means where the model is. On another device, a copy of the model runs. Images are
            moved to the device and cast to the dtype of the model's weights.
        precision: "bf16" runs under autocast; "auto" does so where the hardware supports it. Weights in float16 or
            bfloat16 run as they are. The result is float32.
        out: A folder for the arrays, which are then mapped into memory. An interrupted extraction resumes from there
            without reading finished images again, if model, precision, `fingerprint` and number of rows are the same.
            Needs a `DataLoader` over a map-style data set.
        progress: Called as `progress(rows_done, rows)` after each batch; `rows` is None where it is unknown.
        fingerprint: Identifies the data and its transform; kept in `out`.
        image_key: Key or position of the images in a batch, if it is not a usual one.
        label_key: Key or position of the labels.
        index: Key or position of the images' places in their data set. Only needed where the loader is no `DataLoader`
            over a map-style data set: without it, rows are numbered in order, and reports show no pictures.
        class_names: Name of each class, by which labels that are text are numbered.

    Returns:
        The embeddings, in the order of the loader. `Embeddings.reading` says what the loader left out or gave twice.

    Raises:
        InputError: Labels are not one class per image or out of range, features are not finite, an image is visited
            twice, every worker gives the whole stream, the model does not accept the images, the head is not called
            exactly once or its logits do not determine the model's output, or `out` holds something else.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> import diversify as dv
        >>> images, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> model = dv.build_model("small_cnn", num_classes=3, channels=3)
        >>> embeddings = dv.extract(dv.split_head(model), DataLoader(TensorDataset(images, labels), batch_size=4))
        >>> embeddings.features.shape, embeddings.logits.shape, embeddings.indices.tolist()
        (torch.Size([6, 64]), torch.Size([6, 3]), [0, 1, 2, 3, 4, 5])
    """
    names = None if class_names is None else names_in_order(class_names)
    form = BatchForm(image_key=image_key, label_key=label_key, index=index, class_names=names)
    columns, reading = read_all(
        split, loader, form, device=device, precision=precision, out=out, progress=progress, fingerprint=fingerprint
    )
    return Embeddings(**columns, reading=reading)


def read_all(
    split: SplitModel,
    loader: Iterable[Any],
    form: BatchForm,
    *,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    out: Path | None = None,
    progress: Progress | None = None,
    fingerprint: str = "",
    exchange: Exchange | None = None,
) -> tuple[dict[str, Tensor], Reading]:
    """Return the columns of embeddings and how the loader gave their rows; the arguments are those of `extract`.

    Args:
        split: From `split_head`.
        loader: A `DataLoader`, or any iterable of batches.
        form: Where a batch holds its images and labels, and whether an image has several labels.
        device: Where to run.
        precision: "fp32", "bf16" or "auto".
        out: A folder for the arrays, from which an interrupted extraction resumes.
        progress: Called after each batch.
        fingerprint: Identifies the data and its transform.
        exchange: The processes that share the work with this one, the first of them.

    Raises:
        InputError: As `extract`.
        ConnectionError: A process that shares the work is gone.
    """
    net, target, precision, origin = _checked(split, loader, device, precision, fingerprint)
    if out is not None or exchange is not None:
        origin["model"] = digests.digest_tensors(split.tensors())
    with unchanged_randomness(target, loader), evaluating(net):
        batches, last_batch = _index_batches(loader) or (None, 0)
        rows = None if batches is None else sum(map(len, batches))
        if rows is None and out is not None:
            law = "be a DataLoader over a map-style data set where out is given"
            raise must("loader", law, type(loader).__name__, "extract without out, then save the embeddings")
        table = Table(rows, None if out is None else Path(out), origin, several=form.several)
        try:
            if exchange is not None:
                work = _Work(net, loader, form, target, precision, exchange)
                _collect(table, work, batches, _told_apart(origin, loader), progress)
            elif not table.is_complete:
                _fill(table, net, _read_batches(loader, batches, table, form), target, precision, progress)
        except InputError:
            table.discard()
            raise
        except BaseException:
            table.record()
            raise
        if table.done == 0:
            raise must("loader", "yield at least one image", 0)
        known = batches is not None or form.index is not None
        reading = _reading_of(loader, table, indices_known=known, last_batch=last_batch)
        reading = replace(reading, augmented_by=tuple(random_transforms(getattr(loader, "dataset", None))))
        return table.finish(_with_unreadable(reading, loader, table.filled("logits").shape[1]))


def read_share(
    split: SplitModel,
    loader: Iterable[Any],
    form: BatchForm,
    exchange: Exchange,
    *,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    fingerprint: str = "",
) -> None:
    """Read the share of this process, which is not the first, and send its rows to the first.

    Args:
        split: From `split_head`.
        loader: As in `read_all`, in every process.
        form: Where a batch holds its images and labels.
        exchange: The processes that share the work.
        device: Where to run.
        precision: "fp32", "bf16" or "auto".
        fingerprint: Identifies the data and its transform.

    Raises:
        InputError: As `extract`; the first process raises it too.
        ConnectionError: The first process is gone.
    """
    batches, turn, theirs = exchange.hear()
    with exchange.sending():
        net, target, precision, origin = _checked(split, loader, device, precision, fingerprint)
        origin["model"] = digests.digest_tensors(split.tensors())
        for name, own, other in zip(("model", "data set"), _told_apart(origin, loader), theirs, strict=True):
            if own != other:
                got = f"another in process {exchange.rank} than in process 0"
                raise must(name, "be the same in all processes", got, "give each process the same")
        with unchanged_randomness(target, loader), evaluating(net):
            for block in _Work(net, loader, form, target, precision, exchange).blocks(batches, turn):
                exchange.send(block)


def _told_apart(origin: dict[str, str], loader: object) -> tuple[str, str]:
    """The digests by which processes tell that they have the same model, and the same images in the same order."""
    model = digests.digest_json({name: origin[name] for name in ("head", "model", "precision")})
    data: list[Any] = [origin["fingerprint"]]
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        data.append(len(cast(Sized, loader.dataset)))
        with contextlib.suppress(InputError):  # of several labels per image
            data += [digests.digest_tensors({"labels": each}) for each in stored_labels(loader.dataset)]
    return model, digests.digest_json(data)


def _checked(
    split: SplitModel, loader: object, device: torch.device | str | None, precision: Precision, fingerprint: str
) -> tuple[SplitModel, torch.device, Precision, dict[str, str]]:
    """The model on the device, the device, the precision, and what the rows are made from."""
    if isinstance(loader, Dataset) and not hasattr(loader, "__iter__"):
        got, advice = f"the data set {type(loader).__name__}", "pass DataLoader(dataset, batch_size=64)"
        raise must("loader", "give batches", got, advice)
    if precision not in PRECISIONS:
        raise unknown("precision", str(precision), PRECISIONS)
    target = torch.device(device) if device is not None else split.device
    if precision == "auto":
        precision = "bf16" if bf16_pays(target) else "fp32"
    origin = {"head": split.head_name, "precision": precision, "fingerprint": fingerprint}
    net = split if target == split.device else copy.deepcopy(split).to(target)
    return net, target, precision, origin


@dataclass(frozen=True)
class _Work:
    """What a process of a shared extraction runs its batches through."""

    net: SplitModel
    loader: Iterable[Any]
    form: BatchForm
    device: torch.device
    precision: Precision
    exchange: Exchange

    def blocks(self, batches: list[list[int]] | None, turn: int) -> Iterator[Block | None]:
        """The rows of every turn of this process; None for a turn without rows.

        Args:
            batches: Indices of all batches, of all processes; None for a stream, of which every batch is a turn.
            turn: Number of batches in a turn.
        """
        if batches is None:
            for number, batch in enumerate(_read_others(self.loader, self.form)):
                block = self.embedded(batch, first=number == 0) | {"marks": torch.tensor(_digests(batch.images))}
                self.net.finish_check()
                yield block
            return
        own, turns = self.exchange.own_turns(batches, turn)
        read = _read_left(self.loader, own, self.form) if isinstance(self.loader, DataLoader) else iter(())
        ahead = next(read, None)
        for number in range(turns):
            done: list[Block] = []
            while ahead is not None and ahead[0] // turn == number:
                done.append(self.embedded(ahead[1], first=number == 0 and not done))
                ahead = next(read, None)
            self.net.finish_check()
            yield {name: torch.cat([each[name] for each in done]) for name in COLUMNS} if done else None

    def embedded(self, batch: Batch, *, first: bool) -> Block:
        """The rows of a batch; without places in their data set, their indices are 0."""
        stop_if_interrupted()
        images, labels, indices = batch
        features, logits = _embed(self.net, images, self.device, self.precision, is_first=first)
        indices = torch.zeros(len(labels), dtype=torch.int64) if indices is None else indices
        _require_rows(images, features, labels, indices)
        return {"features": features, "logits": logits, "labels": labels, "indices": indices}


def _collect(
    table: Table, work: _Work, batches: list[list[int]] | None, origin: Sequence[str], progress: Progress | None
) -> None:
    """Fill the table with the rows of all processes: those of a data set in the order of one process.

    Raises:
        InputError: An index of a stream comes twice, or all processes give the same images.
    """
    exchange, stream = work.exchange, batches is None
    left = [] if batches is None or table.is_complete else _unfinished(batches, table)
    turn = 1
    if work.device.type != "cpu" and left:  # fewer copies to the CPU, and still about four turns for each process
        rows_of_turn = min(BLOCK_ROWS, sum(map(len, left)) // (4 * exchange.size))
        turn = max(1, rows_of_turn // max(map(len, left)))
    exchange.announce(None if stream else left, turn, origin)
    own, turns = work.blocks(None if stream else left, turn), -(-len(left) // turn)
    given = [_Given() for _ in range(exchange.size)]
    known: set[int] = set()
    going = list(range(exchange.size))
    number = 0
    while going and (stream or number < turns):
        for rank in going[: None if stream else turns - number]:
            number += 1
            block = next(own, None) if rank == 0 else exchange.receive(rank)
            if stream and block is None:
                going = [each for each in going if each != rank]
                continue
            if rank and not block:
                exchange.answer(rank)
            if not block:
                continue
            if stream:
                given[rank].add(block.pop("marks"))
                if work.form.index is None:
                    block["indices"] = torch.arange(table.done, table.done + len(block["labels"]))
                else:
                    _check_indices(block["indices"], known, None)
            table.add(block)
            if rank:
                exchange.answer(rank)
            if progress is not None:
                progress(table.done, table.rows)
    for rank in range(1, 1 if stream else exchange.size):
        exchange.receive(rank)  # its end
    if given[0].differ and all(each == given[0] for each in given):
        got = f"the same {given[0].number:,} images in each of {exchange.size} processes"
        advice = "give each process its own part (WebDataset: nodesplitter=webdataset.split_by_node)"
        raise must("loader", "give each image once", got, advice)


@dataclass
class _Given:
    """What a process gave of a stream; equal if two gave the same images, in any order."""

    number: int = 0
    total: int = 0  # of the digests
    first: int | None = None
    differ: bool = False  # not all images are the same

    def add(self, marks: Tensor) -> None:
        for mark in marks.tolist():
            if self.first is None:
                self.first = mark
            self.differ |= mark != self.first
            self.number, self.total = self.number + 1, self.total + mark

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Given) and (self.number, self.total) == (other.number, other.total)


def _fill(
    table: Table,
    net: SplitModel,
    batches: Iterator[Batch],
    device: torch.device,
    precision: Precision,
    progress: Progress | None,
) -> None:
    """Run the batches through the network and add their rows to the table.

    On an accelerator, rows are gathered first, because a copy to the CPU after every batch would make it wait each
    time. Only the model runs in inference mode: tensors that a data set creates and keeps must stay usable for
    training.
    """
    pending: list[dict[str, Tensor]] = []
    waiting = 0

    def hand_over() -> None:
        nonlocal waiting
        net.finish_check()
        if pending:
            block = {name: torch.cat([each[name] for each in pending]) for name in COLUMNS}
            pending.clear()
            waiting = 0
            table.add(block)

    position = table.done
    try:
        for images, labels, indices in batches:
            stop_if_interrupted()
            if indices is None:
                indices = torch.arange(position, position + len(labels))
            features, logits = _embed(net, images, device, precision, is_first=position == 0)
            _require_rows(images, features, labels, indices)
            pending.append({"features": features, "logits": logits, "labels": labels, "indices": indices})
            position += len(labels)
            waiting += len(labels)
            if device.type == "cpu" or waiting >= BLOCK_ROWS:
                hand_over()
            if progress is not None:
                progress(position, table.rows)
    except InputError:
        raise
    except BaseException:
        if table.folder is not None:
            with contextlib.suppress(RuntimeError):  # the rows of a failed device are lost
                hand_over()
        raise
    hand_over()


def _require_rows(images: Tensor, features: Tensor, labels: Tensor, indices: Tensor) -> None:
    if not len(images) == len(features) == len(labels) == len(indices):
        got = f"{len(images)} images, {len(features)} features, {len(labels)} labels, {len(indices)} indices"
        raise must("a batch", "have one row per image", got)


def _embed(
    net: SplitModel, images: Tensor, device: torch.device, precision: Precision, *, is_first: bool
) -> tuple[Tensor, Tensor]:
    """Features and logits of one batch in float32.

    An error in the first batch becomes an InputError: the model does not accept the images.
    """
    half = net.dtype in (torch.float16, torch.bfloat16)
    with torch.inference_mode(), autocast(device, "fp32" if half else precision):
        images = images.to(device, net.dtype if images.is_floating_point() else None, non_blocking=True)
        if precision == "bf16" and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        with taking(images) if is_first else contextlib.nullcontext():
            features, logits = net(images)
        return features.float(), logits.float()


def _index_batches(loader: object) -> tuple[list[list[int]], int] | None:
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


def _read_batches(
    loader: Iterable[Any], batches: list[list[int]] | None, table: Table, form: BatchForm
) -> Iterator[Batch]:
    """Images, labels and indices of every batch that is not finished yet; None for indices that are not known."""
    if batches is None or not isinstance(loader, DataLoader):
        yield from _read_others(loader, form)
        return
    for _, batch in _read_left(loader, _unfinished(batches, table), form):
        yield batch


def _unfinished(batches: list[list[int]], table: Table) -> list[list[int]]:
    """The batches without the images that are finished."""
    finished = set(table.columns["indices"][: table.done].tolist()) if table.done else set()
    left = [kept for batch in batches if (kept := [index for index in batch if index not in finished])]
    if table.done + sum(map(len, left)) != table.rows and table.folder is not None:
        raise other_run(table.folder, "other images")
    return left


def _read_left(loader: DataLoader[Any], left: list[list[int]], form: BatchForm) -> Iterator[tuple[int, Batch]]:
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


def _read_others(loader: Iterable[Any], form: BatchForm) -> Iterator[Batch]:
    """The batches of a loader that does not work by index; a stream that every worker repeats is refused."""
    workers = loader.num_workers if isinstance(loader, DataLoader) else 0
    is_stream = workers > 1 and isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset)
    size = _length_of(loader)
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
            digests_of_batch = _digests(found.images)
            times.update(digests_of_batch)
        if is_stream and len(first) < workers:
            first.append(digests_of_batch)
            if len(first) == workers and len(set(first[0])) > 1 and all(each == first[0] for each in first):
                raise _repeating(f"the same batch from each of {workers} workers")
        if found.indices is not None:
            _check_indices(found.indices, seen, size)
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


def _digests(images: Tensor) -> list[int]:
    """A number for each image, by which to tell that two are the same, in any process: a hash of at most 4096 values."""
    rows = images.detach().cpu().flatten(1) if images.ndim > 1 else images.detach().cpu()[:, None]
    rows = rows[:, :: max(1, rows.shape[1] // 4096)].float()
    values = (hashlib.blake2b(row.numpy().tobytes(), digest_size=8).digest() for row in rows.contiguous())
    return [int.from_bytes(value, signed=True) for value in values]


def _check_indices(indices: Tensor, seen: set[int], size: int | None) -> None:
    """Raise an InputError if an index came before, or cannot be a place in the data set."""
    for index in indices.tolist():
        if index < 0 or (size is not None and index >= size):
            law = "name the images' places in the data set" + (f", in [0, {size - 1}]" if size else "")
            raise must("index", law, index)
        if index in seen:
            raise must("index", "name each image once", f"{index} twice", "read each image once")
        seen.add(index)


def _length_of(loader: object) -> int | None:
    """The number of images in a loader's data set; None where it is not known."""
    if isinstance(loader, DataLoader) and loader.batch_size is None and loader.batch_sampler is None:
        return None  # the data set gives whole batches
    dataset = getattr(loader, "dataset", None)
    try:
        return None if dataset is None or not hasattr(dataset, "__len__") else len(dataset)
    except (TypeError, NotImplementedError):  # a wrapper around a data set without a length
        return None


def _reading_of(loader: object, table: Table, *, indices_known: bool, last_batch: int) -> Reading:
    """What the loader left out and gave twice, by its data set's length and labels."""
    size, labels = _length_of(loader), table.filled("labels")
    if size is None:
        return Reading(indices_known=indices_known, last_batch=last_batch)
    reading = Reading(
        indices_known=indices_known,
        left_out=max(0, size - len(labels)),
        repeated=max(0, len(labels) - size),
        last_batch=last_batch,
    )
    if table.several:
        return reading
    num_classes = table.filled("logits").shape[1]
    if size == len(labels):
        return _compared(reading, loader, table, num_classes)
    known = _labels_of(loader, size, num_classes)
    if known is None or (indices_known and not torch.equal(known[table.filled("indices")], labels)):
        return reading
    difference = counts.class_counts(known, num_classes) - counts.class_counts(labels, num_classes)
    if bool((difference < 0).any()):
        return reading
    return replace(reading, left_out_by_class=tuple(difference.tolist()))


def _compared(reading: Reading, loader: object, table: Table, num_classes: int) -> Reading:
    """The reading of as many rows as images, with the labels that are others than those of the data set.

    Where it is not known which image a row shows, other class counts mean that images came again in place of others.
    """
    labels = table.filled("labels")
    shown = [each for each in _stored_labels(loader) if len(each) == len(labels)]
    if not shown:
        return reading
    if reading.indices_known:
        nearest = min((each[table.filled("indices")] for each in shown), key=lambda each: int((each != labels).sum()))
        other = nearest[(nearest != labels) & (nearest < num_classes)]
        by_class = tuple(counts.class_counts(other, num_classes).tolist()) if len(other) else None
        return replace(reading, other_labels=int((nearest != labels).sum()), other_labels_by_class=by_class)
    read = counts.class_counts(labels, num_classes)
    if any(torch.equal(each.sort().values, labels.sort().values) for each in shown):
        return reading
    known = _labels_of(loader, len(labels), num_classes)
    if known is None:
        return reading
    difference = counts.class_counts(known, num_classes) - read
    lost = difference.clamp(min=0)
    number = int(lost.sum())
    return replace(reading, left_out=number, left_out_by_class=tuple(lost.tolist()), repeated=number)


def _stored_labels(loader: object) -> list[Tensor]:
    """The labels that a loader's data set shows, without its examples; nothing where it shows none."""
    try:
        return stored_labels(loader.dataset)  # type: ignore[attr-defined]
    except Exception as error:  # the user's data set may raise anything where it is asked for its labels
        if is_passed_on(error) and not isinstance(error, InputError):
            raise
        return []


def _with_unreadable(reading: Reading, loader: object, num_classes: int) -> Reading:
    """The reading with the images that `skip_bad` left out of the data set."""
    found = left_out_below(getattr(loader, "dataset", None))
    labels = [each.label for each in found if each.label is not None and each.label < num_classes]
    if len(labels) < len(found) or not found:
        return replace(reading, unreadable=len(found))
    numbers = counts.class_counts(torch.tensor(labels), num_classes)
    return replace(reading, unreadable=len(found), unreadable_by_class=tuple(numbers.tolist()))


def _labels_of(loader: object, size: int, num_classes: int) -> Tensor | None:
    """The labels of a loader's data set, read without its images; None where that cannot be done."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # examples that cannot be compared: `_reading_of` compares the rows
            labels = labels_of(loader.dataset)  # type: ignore[attr-defined]
    except Exception as error:  # the user's data set may raise anything where it is asked for its labels
        if is_passed_on(error):
            raise
        return None
    return labels if len(labels) == size and int(labels.max()) < num_classes else None


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
