"""Run a split model over a loader and return `Embeddings`, without changing the model, the loader or any random state.

split = split_head(model) train = extract(split, train_loader) heldout = extract(split, heldout_loader)
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..errors import InputError, must, unknown
from ..files import digests
from ..runtime.progress import Progress
from ..runtime.signals import stop_if_interrupted
from ..runtime.user_code import describe, is_passed_on
from .embeddings import BLOCK_ROWS, COLUMNS, Embeddings
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
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - a user's transform may draw from it
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for generator, state in generators.items():
                generator.set_state(state)
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


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
    loader: Iterable[Sequence[Any]],
    *,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    out: Path | None = None,
    progress: Progress | None = None,
    fingerprint: str = "",
) -> Embeddings:
    """Return features, logits, labels and indices of every image in a loader.

    No state of the model, the loader or a random generator changes.

    Args:
        split: From `split_head`.
        loader: A `DataLoader`, or any iterable of `(images, labels)` or `(images, labels, indices)`. A `DataLoader`
            over a map-style data set is read in its own order by a private copy, which records every image's index.
        device: Where to run; None means where the model is. On another device, a copy of the model runs. Images are
            moved to the device and cast to the dtype of the model's weights.
        precision: "bf16" runs under autocast; "auto" does so where the hardware supports it. Weights in float16 or
            bfloat16 run as they are. The result is float32.
        out: A folder for the arrays, which are then mapped into memory. An interrupted extraction resumes from there
            without reading finished images again, if model, precision, `fingerprint` and number of rows are the same.
            Needs a `DataLoader` over a map-style data set.
        progress: Called as `progress(rows_done, rows)` after each batch; `rows` is None where it is unknown.
        fingerprint: Identifies the data and its transform; kept in `out`.

    Returns:
        The embeddings, in the order of the loader.

    Raises:
        InputError: Labels are not integers or out of range, features are not finite, an image is visited twice, the
            model does not accept the images, the head is not called exactly once or its logits do not determine the
            model's output, or `out` holds something else.

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
    if precision not in PRECISIONS:
        raise unknown("precision", str(precision), PRECISIONS)
    target = torch.device(device) if device is not None else split.device
    if precision == "auto":
        precision = "bf16" if bf16_pays(target) else "fp32"
    origin = {"head": split.head_name, "precision": precision, "fingerprint": fingerprint}
    if out is not None:
        origin["model"] = digests.digest_tensors(split.tensors())
    net = split if target == split.device else copy.deepcopy(split).to(target)
    with unchanged_randomness(target, loader), evaluating(net):
        batches = _index_batches(loader)
        rows = None if batches is None else sum(map(len, batches))
        if rows is None and out is not None:
            law = "be a DataLoader over a map-style data set where out is given"
            raise must("loader", law, type(loader).__name__, "extract without out, then save the embeddings")
        table = Table(rows, None if out is None else Path(out), origin)
        try:
            if rows is None or table.done < rows:
                _fill(table, net, _read_batches(loader, batches, table), target, precision, progress)
        except InputError:
            table.discard()
            raise
        except BaseException:
            table.record()
            raise
        if table.done == 0:
            raise must("loader", "yield at least one image", 0)
        return table.finish()


def _fill(
    table: Table,
    net: SplitModel,
    batches: Iterator[tuple[Tensor, Tensor, Tensor | None]],
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
            if not len(images) == len(features) == len(labels) == len(indices):
                got = f"{len(images)} images, {len(features)} features, {len(labels)} labels, {len(indices)} indices"
                raise must("a batch", "have one row per image", got)
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


def _index_batches(loader: object) -> list[list[int]] | None:
    """The data-set indices of every batch, in the loader's own order; None for a loader that does not work by index.

    Drawing all of them first costs an integer per image. It gives the number of rows, allows a check before any image
    is read, and tells what is left to read on resuming.
    """
    if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
        return None
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return None
    seen: set[int] = set()
    batches = []
    for batch in loader.batch_sampler:
        if not all(isinstance(index, int | np.integer) or torch.is_tensor(index) for index in batch):
            return None
        indices = [int(index) for index in batch]
        for index in indices:
            if index in seen:
                raise must("loader", "visit each image at most once", f"index {index} twice")
            seen.add(index)
        batches.append(indices)
    return batches


def _read_batches(
    loader: Iterable[Sequence[Any]], batches: list[list[int]] | None, table: Table
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Images, labels and indices of every batch that is not finished yet; None for indices that are not known."""
    if batches is None or not isinstance(loader, DataLoader):
        for batch in loader:
            yield _read_batch(batch, own_indices=True)
        return
    finished = set(table.columns["indices"][: table.done].tolist()) if table.done else set()
    left = [kept for batch in batches if (kept := [index for index in batch if index not in finished])]
    if table.done + sum(map(len, left)) != table.rows and table.folder is not None:
        raise other_run(table.folder, "other images")
    for indices, batch in zip(left, _twin_loader(loader, left), strict=True):
        images, labels, _ = _read_batch(batch, own_indices=False)
        yield images, labels, torch.tensor(indices)


def _twin_loader(loader: DataLoader[Any], batches: list[list[int]]) -> DataLoader[Any]:
    """A private loader over the same data set, so that no iterator, worker or sampler of the user's is touched."""
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
    )


def _read_batch(batch: object, *, own_indices: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    if not isinstance(batch, list | tuple) or len(batch) < 2 or not all(map(torch.is_tensor, batch[:2])):
        kinds = ", ".join(type(part).__name__ for part in batch) if isinstance(batch, list | tuple) else ""
        got = f"a {type(batch).__name__}" + (f" of {kinds}" if kinds else "")
        raise must("loader", "yield (images, labels), both tensors", got)
    images, labels = batch[:2]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.squeeze(1)
    if labels.ndim != 1:
        raise must("labels", "have shape (N,) or (N, 1)", tuple(labels.shape))
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise must("labels", "be integers", str(labels.dtype).removeprefix("torch."))
    if len(labels) != len(images):
        raise must("labels", f"have one row per image, {len(images)}", len(labels))
    indices = batch[2].long() if own_indices and len(batch) > 2 and torch.is_tensor(batch[2]) else None
    return images, labels.long(), indices
