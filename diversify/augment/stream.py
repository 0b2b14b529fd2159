"""A plan's draws and augmentation for a stream of examples, which has no index and no length."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ..data.examples import Key
from ..errors import must, unknown
from ..functional import draws
from ..plan.plan import Plan
from ..runtime.launched import place_of_process
from .dataset import Backend, DiversifiedDataset, Named
from .draw_key import Drawn

Frequencies = Literal["plan", "observed"]


class DiversifyStream(IterableDataset[Any]):
    """A stream of `(image, label)` whose classes come as often as a plan says, with their images augmented.

    Each example of the source is passed on w times on average, where w is the plan's share of draws of its class divided by
    the class's frequency in the source: a rare class comes several times, each time augmented differently, and part of a
    frequent one is left out. Then a buffer mixes the order. One pass has about as many examples as the source.

    What a stream cannot hold: the number of examples per class in an epoch is right on average, not exactly, and an image of
    a rare class may come twice before another has come once, which `DiversifySampler` excludes. Examples are mixed only
    within the buffer: a source in the order of its classes needs shuffled shards, and a class whose w is near the size of the
    buffer comes in runs.

    A pass is a function of the source, (seed, epoch), the number of processes and workers, and the plan. Each loader worker of
    each process of a launcher (torchrun) reads a source of its own: one that gives each its own part, as WebDataset does with
    `nodesplitter=webdataset.split_by_node`, is used as it is. For any other, set `split_workers` and `split_processes`, or
    every worker and every process gives every example. With both set, and `frequencies="plan"`, an example is drawn and
    augmented alike, however many workers and processes there are; with "observed", how often it comes depends on what its
    worker has seen before. Parts differ in length: end an epoch of a distributed training after a fixed number of
    steps, or use `torch.distributed.algorithms.Join`.

    Args:
        stream: An iterable of pairs `(image, label)` or of mappings that can be iterated again for each epoch; images and
            labels as for `DiversifiedDataset`. From WebDataset, `.decode("pil").to_tuple("jpg", "cls")` makes such pairs.
        plan: Its draws and its image policies are used.
        seed: Seed of the draws.
        buffer: Examples that are kept to mix their order; the memory that the stream takes.
        frequencies: "plan" takes each class's frequency from the plan's counts; "observed" estimates it from the labels that
            the pass, in this worker, has seen so far, for a source of other or unknown counts.
        split_workers: In worker i of W, use only the examples i, i + W, i + 2W, ... of the source.
        split_processes: In process i of P, use only the examples i, i + P, i + 2P, ... of the source, before its workers.
        backend: As for `DiversifiedDataset`.
        image_key: Key of the image where examples are mappings, as for `DiversifiedDataset`.
        label_key: Key of the label there.

    Raises:
        InputError: the stream cannot be iterated again, or an option is out of its range; later, a label is not a class of
            the plan.

    See Also:
        `DiversifySampler` and `DiversifiedDataset`, for data sets with an index.

    Example:
        >>> import torch, diversify as dv
        >>> from diversify.plan import Strengths
        >>> source = [(torch.rand(3, 8, 8), int(row % 10 == 0)) for row in range(500)]
        >>> plan = dv.Plan.from_counts(["cat", "newt"], [450, 50], strengths=Strengths(draws_exponent=0.0))
        >>> stream = dv.DiversifyStream(source, plan, buffer=100, backend="torch")
        >>> stream.set_epoch(1)
        >>> newts = sum(label for image, label in stream)
        >>> 200 < newts < 300  # half of about 500
        True
    """

    def __init__(
        self,
        stream: Iterable[Any],
        plan: Plan,
        *,
        seed: int = 0,
        buffer: int = 1000,
        frequencies: Frequencies = "plan",
        split_workers: bool = False,
        split_processes: bool = False,
        backend: Named | Backend = "albumentations",
        image_key: Key | None = None,
        label_key: Key | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(stream, Iterable) and not hasattr(stream, "__getitem__"):
            raise must("stream", "be an iterable of (image, label)", type(stream).__name__)
        if isinstance(stream, Iterator):
            advice = "pass an object whose __iter__ starts it anew"
            raise must("stream", "be iterable again for each epoch", f"a {type(stream).__name__}", advice)
        if not isinstance(buffer, int) or buffer < 1:
            raise must("buffer", "be at least 1 example", buffer)
        if frequencies not in get_args(Frequencies):
            raise unknown("frequencies", str(frequencies), get_args(Frequencies))
        self.stream, self.seed, self.buffer = stream, seed, buffer
        self.frequencies, self.split_workers, self.split_processes = frequencies, split_workers, split_processes
        self._process = place_of_process()
        self._augment = DiversifiedDataset(
            _Nothing(), plan, seed=seed, backend=backend, image_key=image_key, label_key=label_key
        )

    @property
    def plan(self) -> Plan:
        """The plan that is followed."""
        return self._augment.plan

    def use(self, plan: Plan) -> None:
        """Follow another plan of the same classes from the next pass on; persistent workers keep the draws of the one before.

        Raises:
            InputError: the plan has other classes.
        """
        self._augment.use(plan)

    def set_epoch(self, epoch: int, epochs: int | None = None) -> None:
        """Choose the draws of an epoch; persistent workers take it over when the next pass begins.

        Args:
            epoch: The epoch, counted from 0.
            epochs: Epochs in all; if given, the plan's schedule acts on the augmentation.

        Raises:
            InputError: a number is out of its range.
        """
        self._augment.set_epoch(epoch, epochs)

    def _place(self) -> tuple[int, int]:
        """Return the number of this process, and of all; a worker that was not forked knows only what it was sent."""
        found = place_of_process()
        return found if found[1] > 1 else self._process

    def __getstate__(self) -> dict[str, Any]:
        """Send the place among the processes that this one has now, which may have met the others after it made the stream."""
        return self.__dict__ | {"_process": self._place()}

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker = (0, 1) if info is None else (info.id, info.num_workers)
        process = self._place()
        place = process[0] * worker[1] + worker[0]
        key = draws.seed_for("stream order", self.seed, self._augment.epoch, place)
        kept: list[tuple[int, Any]] = []
        for number, drawn in enumerate(self._drawn(process, worker)):
            if len(kept) < self.buffer:
                kept.append(drawn)
                continue
            chosen = int(draws.number(key, number) * self.buffer)
            index, example = kept[chosen]
            kept[chosen] = drawn
            yield self._augment.augmented(index, example)
        while kept:
            chosen = int(draws.number(key, len(kept), 1) * len(kept))
            kept[chosen], kept[-1] = kept[-1], kept[chosen]
            yield self._augment.augmented(*kept.pop())

    def _drawn(self, process: tuple[int, int], worker: tuple[int, int]) -> Iterator[tuple[int, Any]]:
        """Each example of the source as often as it is drawn, with an index of its own and how often it came before.

        Args:
            process: Number of this process, and of all.
            worker: Number of this worker, and of all of the process.
        """
        key = draws.seed_for("stream draws", self.seed, self._augment.epoch)
        shares, counts = self.plan.draws.tolist(), self.plan.class_counts.tolist()
        seen, total = [1] * len(shares), len(shares)
        planned = sum(counts)
        source: Iterator[tuple[int, Any]] = enumerate(self.stream)
        if self.split_processes:
            source = itertools.islice(source, process[0], None, process[1])
        if self.split_workers:
            source = itertools.islice(source, worker[0], None, worker[1])
        for position, example in source:
            index = position if self.split_workers else position * worker[1] + worker[0]
            index = index if self.split_processes else index * process[1] + process[0]
            number = self._augment.class_of(index, example)
            seen[number] += 1
            total += 1
            if self.frequencies == "observed":
                times = shares[number] * total / seen[number]
            else:
                times = shares[number] * planned / counts[number] if shares[number] else 0.0
            whole = int(times)
            for occurrence in range(whole + (draws.number(key, index) < times - whole)):
                yield (Drawn(index, occurrence) if occurrence else index), example


class _Nothing(Dataset[Any]):
    """The data set below an augmenter of examples that come from elsewhere."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Any:
        raise IndexError(index)
