"""The slices of a batch that the processes of a training take, and what makes one batch of them again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, distributed
from torch.utils.data import BatchSampler, Sampler

from ..errors import must
from ..runtime import group

_TYPES = (
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
)
_INTEGERS = 5  # of them


def slice_sizes(total: int, processes: int) -> list[int]:
    """Return how many rows of a batch each process takes; they differ by at most 1.

    Example:
        >>> slice_sizes(10, 4)
        [3, 3, 2, 2]
    """
    whole, more = divmod(total, processes)
    return [whole + (process < more) for process in range(processes)]


class Slice(list[int]):
    """Indices of a slice of a batch; a process for which no row is left gets the first one, which does not count.

    Attributes:
        start: The place of its first row in the batch.
        total: Number of rows of the batch.
    """

    start: int
    total: int


class SlicedBatches(BatchSampler):
    """The slice of every batch that is a process's: slices of consecutive rows, in the order of the processes.

    Args:
        sampler: Global: the same order in all processes.
        batch_size: Rows of a batch, in all processes together.
        process: Number of this process.
        processes: Number of processes.

    Example:
        >>> slices = [SlicedBatches(range(7), 5, process=process, processes=2) for process in range(2)]
        >>> [[list(one) for one in each] for each in slices]
        [[[0, 1, 2], [5]], [[3, 4], [6]]]
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, *, process: int, processes: int) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self.process, self.processes = process, processes

    def __iter__(self) -> Iterator[list[int]]:
        for batch in super().__iter__():
            sizes = slice_sizes(len(batch), self.processes)
            start = sum(sizes[: self.process])
            own = Slice(batch[start : start + sizes[self.process]] or batch[:1])
            own.start, own.total = start, len(batch)
            yield own


@dataclass(frozen=True)
class GlobalBatch:
    """A batch of which every process has a slice.

    Attributes:
        process: Number of this process.
        processes: Number of processes.
        total: Rows of the batch.
    """

    process: int
    processes: int
    total: int

    @property
    def is_whole(self) -> bool:
        """Whether this process has all rows."""
        return self.processes == 1

    @property
    def expected(self) -> list[int]:
        """Rows of each process."""
        return slice_sizes(self.total, self.processes)

    @property
    def own(self) -> int:
        """Rows of this process that count."""
        return self.expected[self.process]

    def sizes(self, rows: int, *, may_change: bool) -> list[int]:
        """Return how many rows of each process reach the loss.

        Args:
            rows: The rows of this process.
            may_change: Whether a part of the loop may have changed their number; then the processes tell each other.
        """
        if self.is_whole:
            return [rows]
        if not may_change:
            return self.expected
        return [int(size) for size in group.gathered(torch.tensor(rows if self.own else 0))]

    def of_one_form(self, targets: Tensor, num_classes: int) -> Tensor:
        """Return the targets of this process in the form that those of all processes have.

        An augmentation that mixes some batches and not others gives classes in one process and probabilities in another.
        Then the classes become probabilities.

        Args:
            targets: Classes `(N,)`, or class probabilities `(N, C)`.
            num_classes: C.

        Raises:
            InputError: The probabilities of two processes differ in their type or width; all processes raise it.
        """
        if self.is_whole:
            return targets
        number = _TYPES.index(targets.dtype) if targets.dtype in _TYPES else -1
        found = group.gathered(torch.tensor([targets.ndim, number, *targets.shape[1:], 0][:3])).tolist()
        if all(form == found[0] for form in found):
            return targets
        soft = [form for form in found if form[0] == 2 and form[1] >= 0]
        classes = [form for form in found if form[0] == 1 and 0 <= form[1] < _INTEGERS]
        if len(soft) + len(classes) < len(found) or any(each != [2, soft[0][1], num_classes] for each in soft):
            law = f"give classes (N,), or probabilities (N, {num_classes}) of one type in all processes"
            raise must("augmentation", law, " and ".join(dict.fromkeys(map(_form_in_words, found))))
        if targets.ndim == 2 or not soft:
            return targets.long() if targets.ndim == 1 else targets
        return torch.nn.functional.one_hot(targets.long(), num_classes).to(_TYPES[soft[0][1]])

    def joined(self, own: Tensor, sizes: list[int]) -> Tensor:
        """Return the rows of all processes in their order; only those of this process carry a gradient.

        Args:
            own: The rows of this process, of which the first `sizes[process]` count.
            sizes: Rows of each process.
        """
        if self.is_whole:
            return own
        most = max(sizes)
        padded = own.detach().new_zeros(most, *own.shape[1:])
        padded[: sizes[self.process]] = own.detach()[: sizes[self.process]]
        parts = [torch.empty_like(padded) for _ in range(self.processes)]
        distributed.all_gather(parts, padded)
        rows = [part[:size] for part, size in zip(parts, sizes, strict=True)]
        rows[self.process] = own[: sizes[self.process]]
        return torch.cat(rows)

    def summed(self, loss: Tensor, own: Tensor) -> Tensor:
        """Return the tensor on which to call `backward`, so that the gradients' mean over the processes is the gradient of the loss.

        Args:
            loss: The loss of the whole batch.
            own: The logits of this process, which are part of the result even where none of them counts.
        """
        return loss if self.is_whole else loss * self.processes + 0 * own.sum()


def _form_in_words(form: list[int]) -> str:
    dimensions, number, width = form
    shape = "(N,)" if dimensions == 1 else f"(N, {width})" if dimensions == 2 else f"{dimensions} dimensions"
    return f"{shape} {'of another type' if number < 0 else str(_TYPES[number]).removeprefix('torch.')}"


def require_global(sampler: object) -> None:
    """Raise an InputError if a sampler gives only the part of one process, since the loop itself takes the slices."""
    for name in ("world_size", "num_replicas"):
        number = getattr(sampler, name, None)
        if isinstance(number, int) and number > 1:
            law = "be global: the same in all processes, of which each then takes a slice"
            raise must("sampler", law, f"{type(sampler).__name__} with {name}={number}", f"leave out rank and {name}")
