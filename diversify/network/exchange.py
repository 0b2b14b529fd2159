"""What the processes of a shared extraction send each other: the batches to read, the rows that came out, and errors.

Each message of a process with rows is answered by the first process before the next one is sent. So an error of any process
reaches all of them: that of another process comes to the first in place of rows, and that of the first process to the others
in place of an answer. An InputError is raised in all as it is; of any other error, the others raise a ProcessFailedError that
names the process and the cause. An interruption is not told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, distributed

from ..errors import InputError
from ..runtime import group
from ..runtime.group import ProcessLostError, connected_to

_BLOCK, _END, _FAILURE = 0, 1, 2
_STREAM, _REFUSED = -1, -2  # in place of a number of batches
_ANSWER, _WORDS = 8, 9  # tags of an answer: how many bytes of an error follow, and these

Block = dict[str, Tensor]
"""Columns of consecutive rows: features `(N, D)`, logits `(N, C)`, labels `(N,)` or `(N, C)`, indices and marks `(N,)`."""


class Exchange:
    """This process among those of `torch.distributed` that share an extraction; the first one collects the rows.

    Everything is sent from and to the memory of the CPU.

    Args:
        rank: Number of this process.
        size: Number of processes.
        members: The process group; None for the default one.
    """

    def __init__(self, rank: int, size: int, members: Any = None) -> None:
        self.rank, self.size, self._group = rank, size, members
        self._sent: dict[int, list[tuple[Any, Tensor]]] = {}  # to each process; a tensor lives until it is sent
        self._answer: tuple[Any, Tensor] | None = None  # of the first process, to what this one sent last
        self._refused = False  # by the first process
        self._announced = False
        self._marked = False
        self._unanswered: set[int] = set()  # processes that have sent something
        self._failed: set[int] = set()  # processes that have sent an error, and wait for no answer
        self._halfway: set[int] = set()  # processes whose message has been taken in part

    @classmethod
    def of_this_process(cls) -> Self | None:
        """Return the exchange of this process; None where it is the only one. Every process calls it at the same time."""
        place = group.place()
        if place is None or place[1] < 2:
            return None
        return cls(*place, None if group.has_cpu() else distributed.new_group(backend="gloo"))

    @property
    def is_first(self) -> bool:
        """Whether this process collects the rows."""
        return self.rank == 0

    def announce(self, batches: Sequence[Sequence[int]] | None, turn: int, origin: Sequence[str]) -> None:
        """Tell the others what is to be read; called by the first process.

        Args:
            batches: Indices of every batch; None for a stream.
            turn: Number of consecutive batches that a process reads at a time.
            origin: Two digests, of the model and of the data, which must be the same in all processes.
        """
        sizes = [] if batches is None else [len(batch) for batch in batches]
        messages = [
            torch.tensor([_STREAM if batches is None else len(sizes), turn, sum(sizes)]),
            torch.tensor(list(bytes.fromhex("".join(origin))), dtype=torch.uint8),
        ]
        if sizes and batches is not None:
            messages += [torch.tensor(sizes), torch.tensor([index for batch in batches for index in batch])]
        self._announced, self._marked = True, batches is None  # what fails before this is told by a broadcast
        for message in messages:
            self._broadcast(message)

    def hear(self) -> tuple[list[list[int]] | None, int, list[str]]:
        """Return the batches to be read, the turn and the two digests, as the first process announced them.

        Raises:
            InputError: The first process could not begin.
            ConnectionError: The first process failed for another reason, or is gone.
        """
        number, turn, rows = self._broadcast(torch.zeros(3, dtype=torch.int64)).tolist()
        if number == _REFUSED:
            raise group.from_words(self._broadcast(torch.zeros(turn, dtype=torch.uint8)))
        origin = bytes(self._broadcast(torch.zeros(64, dtype=torch.uint8)).tolist()).hex()
        digests = [origin[:64], origin[64:]]
        if number < 1:
            return (None if number == _STREAM else []), turn, digests
        sizes = self._broadcast(torch.zeros(number, dtype=torch.int64)).tolist()
        indices = self._broadcast(torch.zeros(rows, dtype=torch.int64))
        return [part.tolist() for part in indices.split(sizes)], turn, digests

    def own_turns(self, batches: Sequence[list[int]], turn: int) -> tuple[list[list[int]], int]:
        """Return the batches of this process, and how many turns they make: turn t is that of process t mod size."""
        turns = [batches[start : start + turn] for start in range(0, len(batches), turn)][self.rank :: self.size]
        return [batch for own in turns for batch in own], len(turns)

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Send the rows of this process within the block; an error in it ends the other processes too.

        Raises:
            InputError: It is raised in the block, or in another process.
            ConnectionError: Another process failed for another reason, or the first one is gone.
        """
        try:
            yield
            self._take_answer()
            self._post(torch.tensor([_END, 0, 0, 0, 0]), 0)
            self._expect_answer()
            self._take_answer()
        except Exception as error:
            if not (self._refused or isinstance(error, ProcessLostError)):
                self._fail(error)
            raise

    def send(self, block: Block | None) -> None:
        """Send the rows of a turn to the first process; None for a turn without rows.

        Raises:
            InputError: Another process had one.
            ConnectionError: Another process failed for another reason, or the first one is gone.
        """
        self._take_answer()
        if block is None:
            self._post(torch.zeros(5, dtype=torch.int64), 0)
        else:
            labels = block["labels"]
            columns = {name: values.cpu().contiguous() for name, values in block.items()}
            width = labels.shape[1] if labels.ndim == 2 else 0
            widths = [columns["features"].shape[1], columns["logits"].shape[1], width]
            self._post(torch.tensor([_BLOCK, len(labels), *widths]), 0)
            columns["labels"] = columns["labels"].to(torch.int64)
            for tag, name in enumerate(sorted(columns), start=1):
                self._post(columns[name], tag)
        self._expect_answer()

    def _expect_answer(self) -> None:
        length = torch.zeros(1, dtype=torch.int64)
        with connected_to("process 0"):
            self._answer = distributed.irecv(length, 0, group=self._group, tag=_ANSWER), length

    def _take_answer(self) -> None:
        """Wait until the first process has taken what this one sent last.

        Raises:
            InputError: It refuses to go on.
            ConnectionError: A process failed for another reason, or the first one is gone.
        """
        self._flush()
        if self._answer is None:
            return
        (work, length), self._answer = self._answer, None
        with connected_to("process 0"):
            work.wait()
        if int(length):
            self._refused = True
            raise group.from_words(self._take(torch.zeros(int(length), dtype=torch.uint8), 0, _WORDS))

    def _fail(self, error: Exception) -> None:
        """Tell the first process why this one has no rows to send, unless it has failed itself or is gone."""
        with contextlib.suppress(InputError, ProcessLostError):
            self._take_answer()
            words = group.in_words(error)
            self._post(torch.tensor([_FAILURE, len(words), 0, 0, 0]), 0)
            self._post(words, 1)
            self._flush()

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect the rows of all processes within the block, then release the others; an error in it ends them too.

        Raises:
            InputError: It is raised in the block, or was in another process.
            ConnectionError: Another process failed for another reason, or is gone.
        """
        try:
            yield
        except Exception as error:
            self._end_others(group.in_words(error))
            raise
        self._release()

    def receive(self, rank: int) -> Block | None:
        """Return the rows that a process sends next; a block without columns for a turn without rows, None at its end.

        Args:
            rank: The process.

        Raises:
            InputError: The process could not read its images.
            ConnectionError: The process failed for another reason, or is gone.
        """
        self._halfway.add(rank)
        kind, rows, *widths = self._take(torch.zeros(5, dtype=torch.int64), rank, 0).tolist()
        if kind == _FAILURE:
            self._failed.add(rank)
            raise group.from_words(self._take(torch.zeros(rows, dtype=torch.uint8), rank, 1))
        columns = self._columns(rank, rows, widths) if kind == _BLOCK and rows else {}
        self._halfway.discard(rank)
        self._unanswered.add(rank)
        return None if kind == _END else columns

    def _columns(self, rank: int, rows: int, widths: Sequence[int]) -> Block:
        """Take the columns of a process's rows."""
        columns = {
            "features": torch.empty(rows, widths[0]),
            "indices": torch.empty(rows, dtype=torch.int64),
            "labels": torch.empty((rows, widths[2]) if widths[2] else (rows,), dtype=torch.int64),
            "logits": torch.empty(rows, widths[1]),
        }
        if self._marked:
            columns["marks"] = torch.empty(rows, dtype=torch.int64)
        for tag, name in enumerate(sorted(columns), start=1):
            self._take(columns[name], rank, tag)
        if widths[2]:
            columns["labels"] = columns["labels"].bool()
        return columns

    def answer(self, rank: int, words: Tensor | None = None) -> None:
        """Tell a process that its rows have arrived; what it sends at its end is answered when all is collected.

        Args:
            rank: The process.
            words: The error that ends it, as bytes; none lets it go on.
        """
        self._unanswered.discard(rank)
        self._flush(rank)  # it has been taken: the process has sent something since
        self._post(torch.tensor([0 if words is None else len(words)]), _ANSWER, rank)
        if words is not None:
            self._post(words, _WORDS, rank)

    def _release(self) -> None:
        """Answer what each process sent at its end."""
        for rank in range(1, self.size):
            self.answer(rank)
        for rank in range(1, self.size):
            self._flush(rank)

    def _end_others(self, words: Tensor) -> None:
        """Tell every process that is left the error that ends it."""
        if not self._announced:
            with contextlib.suppress(ProcessLostError):
                self._broadcast(torch.tensor([_REFUSED, len(words), 0]))
                self._broadcast(words)
            return
        # a process whose message was taken in part waits in its sending: it ends when this one does
        whole = [rank for rank in range(1, self.size) if rank not in self._halfway - self._failed]
        for rank in whole:
            with contextlib.suppress(Exception):  # the first error is the one that all hear
                if rank not in self._unanswered | self._failed:
                    self.receive(rank)
                if rank not in self._failed:
                    self.answer(rank, words)
        for rank in whole:
            with contextlib.suppress(ProcessLostError):
                self._flush(rank)

    def _broadcast(self, values: Tensor) -> Tensor:
        with connected_to("process 0" if self.rank else "another process"):
            distributed.broadcast(values, 0, group=self._group)
        return values

    def _post(self, values: Tensor, tag: int, rank: int = 0) -> None:
        with connected_to(f"process {rank}"):
            work = distributed.isend(values, rank, group=self._group, tag=tag)
        self._sent.setdefault(rank, []).append((work, values))

    def _flush(self, rank: int = 0) -> None:
        """Wait until everything is sent to a process."""
        with connected_to(f"process {rank}"):
            for work, _ in self._sent.pop(rank, []):
                work.wait()

    def _take(self, values: Tensor, rank: int, tag: int) -> Tensor:
        with connected_to(f"process {rank}"):
            distributed.recv(values, rank, group=self._group, tag=tag)
        return values
