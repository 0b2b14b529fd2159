"""Which image, how often: samplers whose order is a function of seed, epoch and plan, whatever was iterated before."""

from __future__ import annotations

import dataclasses
import math
import operator
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Self

import numpy as np
import pydantic
import torch
from torch import Tensor
from torch.utils.data import Sampler

from ..errors import must
from ..functional import allocate, draws
from ..functional.counts import class_counts
from ..plan.plan import Plan


class Drawn(int):
    """An index that a sampler hands out, which also says how often it came before in the epoch.

    An int like any other, equal to the plain one; what is computed from it is a plain int. `DiversifiedDataset` and `fit`
    read `occurrence` from it, so that an image that is drawn again is varied anew.
    """

    occurrence: int

    def __new__(cls, index: int, occurrence: int) -> Self:
        """The index at its `occurrence`, counted from 0."""
        self = super().__new__(cls, index)
        self.occurrence = occurrence
        return self

    def __reduce__(self) -> tuple[type[Drawn], tuple[int, int]]:
        return type(self), (int(self), self.occurrence)


def _drawn(index: int, occurrence: int) -> int:
    return Drawn(index, occurrence) if occurrence else index


class EpochSampler(Sampler[int]):
    """Every index once an epoch, shuffled; global, so that a launcher can shard it."""

    def __init__(self, length: int, *, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(self.order().tolist())

    def order(self) -> Tensor:
        """`(length,)` int64: every position of this epoch."""
        return draws.permutation(self.length, "order", self.seed, self.epoch)


class DiversifySampler(Sampler[int]):
    """Draws every class as often as the plan says, and its images without replacement until all of them have come.

    An epoch has `plan.images_per_epoch` positions, or as many as there are labels. A class gets its share of them to
    within one image; which classes are rounded up is drawn anew in every epoch.

    An epoch goes on with the images of a class where the one before it left off, so that after any number of epochs they
    have been drawn equally often, to within one. An image may then come twice in an epoch in which another does not come.

    The order is a function of (seed, epoch) and of the plan's draws and budget, whatever was iterated before: every epoch
    takes all earlier ones to have had its own draws and budget. Where `use` changes those, a class goes on wherever it
    would then have been, and some of its images may come again before the others have.

    Global by default: the same order in every process, for a launcher to shard, as accelerate and Lightning do with any
    sampler. In a loop of your own with `DistributedDataParallel` give `rank` and `world_size`: rank r then has positions
    r, r + W, r + 2W, ... and the order is filled up to a multiple of W with its own beginning. Never both: a rank-aware
    sampler that a launcher shards is cut twice.

    An image that comes again in an epoch comes as `Drawn`, an int with an `occurrence` that says how often it came before,
    so that it can be varied anew each time; it belongs to the position, so that it is the same for any number of workers
    and processes and after a resume. The positions with which ranks or launchers fill an epoch up are those of its
    beginning once more, with their occurrences.

    A position counts as handed out when the loader has taken it, which workers do ahead of training. Where that matters
    say in `state_dict(consumed=...)` how many images training has really seen.

    Args:
        labels: `(N,)` class of every training image, for example of `labels_of(dataset)`.
        plan: Of the same classes; only its draws and its budget are read.
        rank: This process, in [0, world_size).
        world_size: How many processes share an epoch.

    Raises:
        InputError: a label is no class of the plan, or the plan draws a class without a label.
    """

    def __init__(
        self,
        labels: Tensor | np.ndarray[Any, Any] | Sequence[int],
        plan: Plan,
        *,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if not isinstance(plan, Plan):
            raise must("plan", "be a Plan", type(plan).__name__, "Plan.from_dict makes one of JSON values")
        if not isinstance(seed, int) or not 0 <= seed < 1 << 63:
            raise must("seed", "be an integer in [0, 2^63 - 1]", seed)
        if (rank is None) != (world_size is None):
            raise must("rank and world_size", "be given together", f"rank={rank}, world_size={world_size}")
        if world_size is not None and world_size < 1:
            raise must("world_size", "be at least 1", world_size)
        if rank is not None and world_size is not None and not 0 <= rank < world_size:
            raise must("rank", f"lie in [0, {world_size - 1}]", rank)
        self.seed, self.epoch = seed, 0
        self.rank, self.world_size = rank or 0, world_size or 1
        self.labels = _checked(labels, plan.num_classes)
        self._classes = tuple(one.name for one in plan.classes)
        self._planned = self._under_way = self._shares_of(plan)
        self._start = self._began = 0  # where the next pass begins, and where the newest one began
        self._handed: Iterator[int] | None = None
        self._taken_up = 0  # positions of the newest pass, of this process
        self._past: _Past | None = None

    def use(self, plan: Plan) -> None:
        """Draw by another plan of the same classes, from the next pass on; one under way goes on as it began."""
        names = tuple(one.name for one in plan.classes)
        if len(names) != len(self._classes):
            raise must("plan", f"have {len(self._classes)} classes, as the one before", len(names))
        for name, before in zip(names, self._classes, strict=True):
            if name != before:
                raise must("plan", "have the classes of the one before, in their order", f"{name!r} for {before!r}")
        self._planned = self._shares_of(plan)

    def set_epoch(self, epoch: int, epochs: int | None = None) -> None:
        """Choose the order of this epoch, from its first position on; the epoch that is already set goes on unchanged.

        An epoch that does not follow the one before, as after a resume, first counts the draws of all earlier ones: time
        that grows with epochs times classes.

        `epochs` changes nothing here: the other parts of a plan take it, for its schedule.
        """
        if epoch < 0:
            raise must("epoch", "not be negative", epoch)
        if epoch != self.epoch:
            self.epoch, self._start, self._handed = epoch, 0, None

    def __len__(self) -> int:
        """Positions of a whole epoch: of all processes together, or of this rank with the fill where there is one."""
        return -(-self._next().images // self.world_size)

    def __iter__(self) -> Iterator[int]:
        self._under_way, self._began, self._start = self._next(), self._start, 0
        order = self._order_of(self._under_way)
        fill = -(len(order) - self._began) % self.world_size
        positions = torch.arange(self._began + self.rank, len(order) + fill, self.world_size) % len(order)
        self._handed, self._taken_up = iter(order[positions].tolist()), len(positions)
        return map(_drawn, self._handed, allocate.occurrences(order)[positions].tolist())

    def order(self) -> Tensor:
        """`(images_per_epoch,)` int64: every position of this epoch, for all processes together."""
        return self._order_of(self._next())

    @property
    def position(self) -> int:
        """Positions of this epoch that have been handed out, in all processes together if they keep step."""
        if self._handed is None:
            return self._start
        handed = (self._taken_up - operator.length_hint(self._handed)) * self.world_size
        return min(self._began + handed, self._under_way.images)

    def state_dict(self, *, consumed: int | None = None) -> dict[str, Any]:
        """JSON values with which `load_state_dict` goes on at the first position that has not been handed out.

        Args:
            consumed: Images of this epoch that training has seen, in all processes together, those before an earlier
                resume included: batches x batch size x processes. The state then goes on behind these; anything beyond
                the last position is the end of the epoch.
        """
        if consumed is not None and consumed < 0:
            raise must("consumed", "not be negative", consumed)
        shares = self._next() if self._handed is None else self._under_way
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self.position if consumed is None else min(consumed, shares.images),
            "draws": list(shares.draws),
            "images_per_epoch": shares.images,
            "next_draws": list(self._planned.draws),
            "next_images_per_epoch": self._planned.images,
            "labels": zlib.crc32(self.labels.numpy().tobytes()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the state was taken: the next pass gives exactly the rest of its epoch, with any world size.

        Seed and draws are those of the state. `set_epoch` with another epoch than that of the state begins that epoch:
        launchers count from 0 in a new process, so tell them, with `loader.set_epoch(sampler.epoch)` for accelerate. Several
        processes of Lightning resume whole epochs only, for Lightning lists an epoch before it shards it.

        Raises:
            InputError: a field is missing or wrong, or the state is that of other labels.
        """
        try:
            file = _State.model_validate(state)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            name = f"{place} of the sampler's state" if place else "the sampler's state"
            raise must(name, "be valid", first["msg"]) from None
        if file.labels != zlib.crc32(self.labels.numpy().tobytes()):
            raise must("the sampler's state", "be of the same labels", "one of others", "it belongs to other data")
        under_way = self._checked_shares(_Shares(draws=file.draws, images=file.images_per_epoch))
        planned = self._checked_shares(_Shares(draws=file.next_draws, images=file.next_images_per_epoch))
        if file.position > under_way.images:
            raise must("position of the sampler's state", f"lie in [0, {under_way.images}]", file.position)
        self._under_way, self._planned = under_way, planned
        self.seed, self.epoch, self._start, self._handed = file.seed, file.epoch, file.position, None

    def _next(self) -> _Shares:
        """By which shares the next pass draws: a pass that is taken up again goes on as it began."""
        return self._under_way if self._start else self._planned

    def _order_of(self, shares: _Shares) -> Tensor:
        planned = torch.tensor(shares.draws, dtype=torch.float64)
        before = self._drawn_before(shares, planned)
        return allocate.epoch_order(self.labels, planned, shares.images, self.seed, self.epoch, before)

    def _drawn_before(self, shares: _Shares, planned: Tensor) -> Tensor:
        """`(C,)` int64: draws of each class in all earlier epochs, had they had these shares."""
        past = self._past
        if past is None or (past.seed, past.shares) != (self.seed, shares) or past.epochs > self.epoch:
            past = _Past(seed=self.seed, shares=shares, epochs=0, drawn=torch.zeros(len(planned), dtype=torch.int64))
        since = allocate.apportioned(planned, shares.images, self.seed, range(past.epochs, self.epoch))
        self._past = dataclasses.replace(past, epochs=self.epoch, drawn=past.drawn + since)
        return self._past.drawn

    def _shares_of(self, plan: Plan) -> _Shares:
        images = len(self.labels) if plan.images_per_epoch is None else plan.images_per_epoch
        names = [one.name for one in plan.classes]
        return self._checked_shares(_Shares(draws=tuple(plan.draws.tolist()), images=images), names)

    def _checked_shares(self, shares: _Shares, names: Sequence[str] = ()) -> _Shares:
        names = names or self._classes
        if len(shares.draws) != len(names):
            raise must("draws of the sampler's state", f"be {len(names)}, one per class", len(shares.draws))
        total = math.fsum(shares.draws)
        if min(shares.draws) < 0 or abs(total - 1) > 0.01:
            raise must(
                "draws of the classes", "be shares that sum to 1", f"{min(shares.draws):g} at least, {total:g} in all"
            )
        for name, share, count in zip(names, shares.draws, class_counts(self.labels, len(names)).tolist(), strict=True):
            if share > 0 and count == 0:
                raise must("labels", f"hold {name}, which the plan draws", "none of it", "set its draws to 0")
        return shares


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shares:
    """How often each class is drawn in an epoch of so many images."""

    draws: tuple[float, ...]
    images: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Past:
    """How often each class was drawn in the first so many epochs, `(C,)`: kept, so that the next has one to add."""

    seed: int
    shares: _Shares
    epochs: int
    drawn: Tensor


class _State(pydantic.BaseModel):
    """The form of the sampler's state."""

    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)

    seed: Annotated[int, pydantic.Field(ge=0, lt=1 << 63)]
    epoch: pydantic.NonNegativeInt
    position: pydantic.NonNegativeInt
    draws: tuple[pydantic.NonNegativeFloat, ...]
    images_per_epoch: pydantic.PositiveInt
    next_draws: tuple[pydantic.NonNegativeFloat, ...]
    next_images_per_epoch: pydantic.PositiveInt
    labels: int

    @pydantic.field_validator("draws", "next_draws")
    @classmethod
    def _some(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not sum(shares) > 0:
            raise ValueError("some class must be drawn")
        return shares


def _checked(labels: Tensor | np.ndarray[Any, Any] | Sequence[int], num_classes: int) -> Tensor:
    """`(N,)` int64 on the CPU, a copy; raises where they are not one class of the plan per image."""
    if not isinstance(labels, Tensor | np.ndarray | Sequence) or isinstance(labels, str):
        got = type(labels).__name__
        raise must("labels", "be one integer per image", got, "dv.labels_of(dataset) reads them from a data set")
    try:
        found = torch.as_tensor(labels).detach().cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise must("labels", "be one integer per image", f"a {type(labels).__name__} of something else") from None
    if found.ndim != 1:
        raise must("labels", "be one integer per image", f"shape {tuple(found.shape)}")
    if len(found) == 0:
        raise must("labels", "hold at least one image", 0)
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise must("labels", "be one integer per image", f"values of {str(found.dtype).removeprefix('torch.')}")
    found = found.to(torch.int64, copy=True)
    outside = (found < 0) | (found >= num_classes)
    if outside.any():
        row = int(outside.nonzero()[0])
        law = f"be classes of the plan, in [0, {num_classes - 1}]"
        raise must("labels", law, f"{int(found[row])} at row {row}")
    return found
