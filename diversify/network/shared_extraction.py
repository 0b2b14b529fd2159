"""Extract features with several processes, each of which reads a part of the images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..functional.labels import ClassNames, names_in_order
from ..runtime.progress import Progress
from .batches import BatchForm, Key
from .embeddings import Embeddings
from .exchange import Exchange
from .extraction import Precision, extract, read_all, read_share
from .split import SplitModel


def extract_shared(
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
) -> Embeddings | None:
    """Return what `extract` returns, with the work shared by the processes of `torch.distributed`; None in all but the first.

    Every process calls it with the same model and a loader over the same data; in a single process it is `extract`. A
    loader over a map-style data set is read in the order that it has in the first process: each batch is read by one
    process, and the rows come in the order of one process. Of a stream, each process reads what its own loader gives: a
    stream must be split between the processes, as WebDataset does with `nodesplitter=webdataset.split_by_node`.

    The first process holds all rows, and alone writes to `out`, in the same form as `extract`: an extraction that was
    interrupted resumes with any number of processes.

    Args:
        split: From `split_head`, the same model in every process.
        loader: As in `extract`.
        device: Where this process runs; None means where its model is.
        precision: "fp32", "bf16" or "auto".
        out: A folder for the arrays; used by the first process alone.
        progress: Called as `progress(rows_done, rows)` in the first process.
        fingerprint: Identifies the data and its transform.
        image_key: As in `extract`.
        label_key: As in `extract`.
        index: As in `extract`.
        class_names: As in `extract`.

    Raises:
        InputError: As `extract`, in all processes; or the processes have different models or data sets, or each gives the
            same images of a stream.
        ConnectionError: Another process failed for another reason, and the message names it and the cause, or is gone; what
            was finished is kept in `out`.

    See Also:
        `extract`; `torchrun -m diversify diagnose`, which calls this.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> import diversify as dv
        >>> loader = DataLoader(TensorDataset(torch.rand(6, 3, 8, 8), torch.arange(6) % 3), batch_size=4)
        >>> split = dv.split_head(dv.build_model("small_cnn", num_classes=3, channels=3))
        >>> embeddings = dv.extract_shared(split, loader)  # under torchrun: None in all processes but the first
        >>> len(embeddings)
        6
    """
    names = None if class_names is None else names_in_order(class_names)
    form = BatchForm(image_key=image_key, label_key=label_key, index=index, class_names=names)
    exchange = Exchange.of_this_process()
    if exchange is None:
        return extract(
            split,
            loader,
            device=device,
            precision=precision,
            out=out,
            progress=progress,
            fingerprint=fingerprint,
            image_key=image_key,
            label_key=label_key,
            index=index,
            class_names=class_names,
        )
    if not exchange.is_first:
        read_share(split, loader, form, exchange, device=device, precision=precision, fingerprint=fingerprint)
        return None
    with exchange.collecting():
        columns, reading = read_all(
            split,
            loader,
            form,
            device=device,
            precision=precision,
            out=out,
            progress=progress,
            fingerprint=fingerprint,
            exchange=exchange,
        )
        return Embeddings(**columns, reading=reading)
