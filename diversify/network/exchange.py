"""What the processes of a shared extraction send each other: the batches to read, and the rows that came out of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, distributed

from ..errors import InputError, must
from ..runtime.launched import lost

_BLOCK, _END, _FAILURE = 0, 1, 2
_STREAM = -1  # in place of a number of batches

Block = dict[str, Tensor]
"""Columns of consecutive rows: features `(N, D)`, logits `(N, C)`, labels `(N,)` or `(N, C)`, indices and marks `(N,)`."""


class Exchange:
    """This process among those of `torch.distributed` that share an extraction; the first one collects the rows.

    Everything is sent from and to the memory of the CPU.

    Args:
        rank: Number of this process.
        size: Number of processes.
        group: The process group; None for the default one.
    """

    def __init__(self, rank: int, size: int, group: Any = None) -> None:
        self.rank, self.size, self._group = rank, size, group
        self._sent: list[tuple[Any, Tensor]] = []  # a tensor lives until it is sent

    @classmethod
    def of_this_process(cls) -> Self | None:
        """Return the exchange of this process; None where it is the only one. Every process calls it at the same time."""
        if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() < 2:
            return None
        on_cpu = "cpu:gloo" in str(distributed.get_backend_config())
        group = None if on_cpu else distributed.new_group(backend="gloo")
        return cls(distributed.get_rank(), distributed.get_world_size(), group)

    @property
    def is_first(self) -> bool:
        """Whether this process collects the rows."""
        return self.rank == 0

    def announce(self, batches: Sequence[Sequence[int]] | None, turn: int, origin: str) -> None:
        """Tell the others what is to be read; called by the first process.

        Args:
            batches: Indices of every batch; None for a stream.
            turn: Number of consecutive batches that a process reads at a time.
            origin: Digest of the model and the data, which must be the same in all processes.
        """
        sizes = [] if batches is None else [len(batch) for batch in batches]
        self._broadcast(torch.tensor([_STREAM if batches is None else len(sizes), turn, sum(sizes)]))
        self._broadcast(torch.tensor(list(bytes.fromhex(origin)), dtype=torch.uint8))
        if sizes and batches is not None:
            self._broadcast(torch.tensor(sizes))
            self._broadcast(torch.tensor([index for batch in batches for index in batch]))

    def hear(self, origin: str) -> tuple[list[list[int]] | None, int]:
        """Return the batches to be read and the turn, as the first process announced them.

        Raises:
            InputError: The first process has another model or other data.
            ConnectionError: The first process is gone.
        """
        number, turn, rows = self._broadcast(torch.zeros(3, dtype=torch.int64)).tolist()
        theirs = bytes(self._broadcast(torch.zeros(len(origin) // 2, dtype=torch.uint8)).tolist()).hex()
        if theirs != origin:
            law = "be the same in all processes"
            raise must("model and data", law, f"others in process {self.rank} than in process 0")
        if number == _STREAM:
            return None, turn
        if not number:
            return [], turn
        sizes = self._broadcast(torch.zeros(number, dtype=torch.int64)).tolist()
        indices = self._broadcast(torch.zeros(rows, dtype=torch.int64))
        return [part.tolist() for part in indices.split(sizes)], turn

    def own_turns(self, batches: Sequence[list[int]], turn: int) -> tuple[list[list[int]], int]:
        """Return the batches of this process, and how many turns they make: turn t is that of process t mod size."""
        turns = [batches[start : start + turn] for start in range(0, len(batches), turn)][self.rank :: self.size]
        return [batch for own in turns for batch in own], len(turns)

    def send(self, block: Block | None) -> None:
        """Send the rows of a turn to the first process; None for a turn without rows."""
        self.flush()
        if block is None:
            self._post(torch.zeros(5, dtype=torch.int64), 0)
            return
        labels = block["labels"]
        columns = {name: values.cpu().contiguous() for name, values in block.items()}
        width = labels.shape[1] if labels.ndim == 2 else 0
        widths = [columns["features"].shape[1], columns["logits"].shape[1], width]
        self._post(torch.tensor([_BLOCK, len(labels), *widths]), 0)
        columns["labels"] = columns["labels"].to(torch.int64)
        for tag, name in enumerate(sorted(columns), start=1):
            self._post(columns[name], tag)

    def end(self) -> None:
        """Tell the first process that no rows follow."""
        self.flush()
        self._post(torch.tensor([_END, 0, 0, 0, 0]), 0)
        self.flush()

    def fail(self, error: InputError) -> None:
        """Tell the first process why this one has no rows to send."""
        self.flush()
        words = torch.tensor(list(str(error).encode()), dtype=torch.uint8)
        self._post(torch.tensor([_FAILURE, len(words), 0, 0, 0]), 0)
        self._post(words, 1)
        self.flush()

    def flush(self) -> None:
        """Wait until everything is sent.

        Raises:
            ConnectionError: The first process is gone.
        """
        try:
            for work, _ in self._sent:
                work.wait()
        except RuntimeError as error:
            raise lost("process 0") from error
        finally:
            self._sent.clear()

    def receive(self, rank: int, *, marked: bool) -> Block | None:
        """Return the rows that a process sends next; a block without columns for a turn without rows, None at its end.

        Args:
            rank: The process.
            marked: Whether its rows have marks.

        Raises:
            InputError: The process could not read its images.
            ConnectionError: The process is gone.
        """
        kind, rows, *widths = self._take(torch.zeros(5, dtype=torch.int64), rank, 0).tolist()
        if kind == _END:
            return None
        if kind == _FAILURE:
            words = self._take(torch.zeros(rows, dtype=torch.uint8), rank, 1)
            raise InputError(bytes(words.tolist()).decode())
        if not rows:
            return {}
        columns = {
            "features": torch.empty(rows, widths[0]),
            "indices": torch.empty(rows, dtype=torch.int64),
            "labels": torch.empty((rows, widths[2]) if widths[2] else (rows,), dtype=torch.int64),
            "logits": torch.empty(rows, widths[1]),
        }
        if marked:
            columns["marks"] = torch.empty(rows, dtype=torch.int64)
        for tag, name in enumerate(sorted(columns), start=1):
            self._take(columns[name], rank, tag)
        if widths[2]:
            columns["labels"] = columns["labels"].bool()
        return columns

    def _broadcast(self, values: Tensor) -> Tensor:
        try:
            distributed.broadcast(values, 0, group=self._group)
        except RuntimeError as error:
            raise lost("process 0" if self.rank else "another process") from error
        return values

    def _post(self, values: Tensor, tag: int) -> None:
        try:
            self._sent.append((distributed.isend(values, 0, group=self._group, tag=tag), values))
        except RuntimeError as error:
            raise lost("process 0") from error

    def _take(self, values: Tensor, rank: int, tag: int) -> Tensor:
        try:
            distributed.recv(values, rank, group=self._group, tag=tag)
        except RuntimeError as error:
            raise lost(f"process {rank}") from error
        return values
