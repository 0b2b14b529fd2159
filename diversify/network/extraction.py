"""Run a split model over a loader and return `Embeddings`, without changing the model, the loader or any random state.

`extract` is for one process; `read_all` and `read_share` are its parts where several processes share the work
(`shared_extraction.py`).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..data.clean import random_transforms
from ..data.labels import stored_labels
from ..errors import InputError, must, unknown
from ..files import digests
from ..functional.labels import ClassNames, names_in_order
from ..runtime.progress import Progress
from ..runtime.randomness import random_state_kept
from ..runtime.signals import stop_if_interrupted
from ..runtime.user_code import describe, is_passed_on
from .batches import Batch, BatchForm, Key
from .embeddings import BLOCK_ROWS, Embeddings
from .embeddings_folder import COLUMNS
from .exchange import Block, Exchange
from .loader_batches import check_indices, image_digests, index_batches, read_left, read_others
from .reading import Reading
from .resumable import Table, other_run
from .split import SplitModel
from .what_was_read import reading_of, with_unreadable
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
    net.expect(several=form.several)
    if out is not None or exchange is not None:
        origin["model"] = digests.digest_tensors(split.tensors())
    with unchanged_randomness(target, loader), evaluating(net):
        batches, last_batch = index_batches(loader) or (None, 0)
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
        reading = reading_of(loader, table, indices_known=known, last_batch=last_batch)
        reading = replace(reading, augmented_by=tuple(random_transforms(getattr(loader, "dataset", None))))
        return table.finish(with_unreadable(reading, loader, table.filled("logits").shape[1]))


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
        ConnectionError: Another process failed for another reason, or the first one is gone.
    """
    batches, turn, theirs = exchange.hear()
    with exchange.sending():
        net, target, precision, origin = _checked(split, loader, device, precision, fingerprint)
        net.expect(several=form.several)
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
            for number, batch in enumerate(read_others(self.loader, self.form)):
                block = self.embedded(batch, first=number == 0) | {"marks": torch.tensor(image_digests(batch.images))}
                self.net.finish_check()
                yield block
            return
        own, turns = self.exchange.own_turns(batches, turn)
        read = read_left(self.loader, own, self.form) if isinstance(self.loader, DataLoader) else iter(())
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
                    check_indices(block["indices"], known, None)
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


def _read_batches(
    loader: Iterable[Any], batches: list[list[int]] | None, table: Table, form: BatchForm
) -> Iterator[Batch]:
    """Images, labels and indices of every batch that is not finished yet; None for indices that are not known."""
    if batches is None or not isinstance(loader, DataLoader):
        yield from read_others(loader, form)
        return
    for _, batch in read_left(loader, _unfinished(batches, table), form):
        yield batch


def _unfinished(batches: list[list[int]], table: Table) -> list[list[int]]:
    """The batches without the images that are finished."""
    finished = set(table.columns["indices"][: table.done].tolist()) if table.done else set()
    left = [kept for batch in batches if (kept := [index for index in batch if index not in finished])]
    if table.done + sum(map(len, left)) != table.rows and table.folder is not None:
        raise other_run(table.folder, "other images")
    return left
