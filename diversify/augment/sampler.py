"""Samplers whose order is a function of seed, epoch and plan, and does not depend on what was iterated before."""

from __future__ import annotations

import dataclasses
import math
import operator
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import pydantic
import torch
from torch import Tensor
from torch.utils.data import Sampler

from ..errors import must
from ..files.schema import broken, refusal
from ..functional import allocate, draws
from ..functional.counts import class_counts
from ..plan.plan import Plan
from .draw_key import Drawn
from .loader_check import require_data_set_of_loader
from .plan_labels import plan_labels


def _drawn(index: int, occurrence: int) -> int:
    return Drawn(index, occurrence) if occurrence else index


class EpochSampler(Sampler[int]):
    """Draws every index once per epoch in random order, the same in all processes, so that a launcher can shard it.

    Args:
        length: Number of indices.
        seed: Seed of the order.

    Example:
        >>> from diversify.augment import EpochSampler
        >>> sampler = EpochSampler(5, seed=0)
        >>> sampler.set_epoch(1)
        >>> sorted(sampler)
        [0, 1, 2, 3, 4]
    """

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
        """Return the indices of this epoch in their order, `(length,)` int64."""
        return draws.permutation(self.length, "order", self.seed, self.epoch)


class DiversifySampler(Sampler[int]):
    """Draws each class as often as a plan says, and the images of a class without replacement.

    An epoch has `plan.images_per_epoch` positions, or as many as there are labels. Each class gets its share of them, to
    within one image; which classes are rounded up changes from epoch to epoch. Each epoch continues with the images of a
    class where the previous one stopped. So after any number of epochs they have been drawn equally often, to within one,
    but an image may come twice in an epoch while another does not come at all.

    The order depends on (seed, epoch) and on the plan's draws and budget, not on what was iterated before: every epoch
    assumes that all earlier epochs had the same draws and budget. After `use` has changed them, some images of a class may
    come again before others have come.

    By default the order is the same in every process, and a launcher (accelerate, Lightning) shards it as it does with any
    sampler. In your own loop with `DistributedDataParallel`, pass `rank` and `world_size`: rank r gets the positions r,
    r + W, r + 2W, ..., and the order is filled up to a multiple of W with its own beginning. Do not do both, or the epoch
    is sharded twice.

    An image that comes again in an epoch comes as a `Drawn`, an integer with an `occurrence`, so that it can be augmented
    differently each time. The occurrence belongs to the position: it is the same for any number of workers and processes,
    and after a resume.

    Loader workers take positions ahead of training. If an exact resume within an epoch matters, pass the number of images
    that training has seen to `state_dict(consumed=...)`.

    Args:
        labels: The data set that the loader draws from, or the class of each of its images, `(N,)`: integers, one-hot rows,
            or names of the plan's classes, in a tensor, an array, a list or a pandas Series. Where the loader draws from a
            subset, pass the subset.
        plan: Of the same classes; only its draws and its budget are used.
        seed: Seed of the order, in [0, 2^63 - 1].
        rank: This process, in [0, world_size - 1].
        world_size: Number of processes that share an epoch.

    Raises:
        InputError: a label is not a class of the plan, the plan draws a class that has no label, or a data set shows no
            labels; and, when a loader asks for indices, if its data set has another number of images.

    Warns:
        UserWarning: a class has another count than in the plan, beyond what another split of the same data explains.

    Example:
        >>> import diversify as dv
        >>> from diversify.plan import Strengths
        >>> labels = [0] * 90 + [1] * 10
        >>> plan = dv.Plan.from_counts(["cat", "newt"], [90, 10], strengths=Strengths(draws_exponent=0.0))
        >>> sampler = dv.DiversifySampler(labels, plan, seed=0)
        >>> sum(labels[index] for index in sampler)  # newts in an epoch of 100 draws
        50
    """

    def __init__(
        self,
        labels: Any,
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
        self.labels = plan_labels(labels, plan)
        self._classes = tuple(one.name for one in plan.classes)
        self._planned = self._under_way = self._shares_of(plan)
        self._start = self._began = 0  # where the next pass begins, and where the newest one began
        self._handed: Iterator[int] | None = None
        self._taken_up = 0  # positions of the newest pass, of this process
        self._past: _Past | None = None

    def use(self, plan: Plan) -> None:
        """Follow another plan of the same classes from the next pass on; a pass that has begun is not changed.

        Raises:
            InputError: the plan has other classes, or draws a class that has no label.
        """
        names = tuple(one.name for one in plan.classes)
        if len(names) != len(self._classes):
            raise must("plan", f"have {len(self._classes)} classes, as the one before", len(names))
        for name, before in zip(names, self._classes, strict=True):
            if name != before:
                raise must("plan", "have the classes of the one before, in their order", f"{name!r} for {before!r}")
        self._planned = self._shares_of(plan)

    def set_epoch(self, epoch: int, epochs: int | None = None) -> None:
        """Choose the epoch; its first position comes next. Setting the current epoch again changes nothing.

        If the epoch does not follow the previous one, as after a resume, the draws of all earlier epochs are counted first,
        which takes time proportional to epochs times classes.

        Args:
            epoch: The epoch, counted from 0.
            epochs: Not used here; other parts of a plan need it for the schedule.

        Raises:
            InputError: the epoch is negative.
        """
        if epoch < 0:
            raise must("epoch", "not be negative", epoch)
        if epoch != self.epoch:
            self.epoch, self._start, self._handed = epoch, 0, None

    def __len__(self) -> int:
        """Return the positions of a whole epoch: of all processes together, or of this rank, including its filling."""
        return -(-self._next().images // self.world_size)

    def __iter__(self) -> Iterator[int]:
        require_data_set_of_loader(len(self.labels), "DiversifySampler")
        self._under_way, self._began, self._start = self._next(), self._start, 0
        order = self._order_of(self._under_way)
        fill = -(len(order) - self._began) % self.world_size
        positions = torch.arange(self._began + self.rank, len(order) + fill, self.world_size) % len(order)
        self._handed, self._taken_up = iter(order[positions].tolist()), len(positions)
        return map(_drawn, self._handed, allocate.occurrences(order)[positions].tolist())

    def order(self) -> Tensor:
        """Return the indices of this epoch in their order, for all processes together, `(images_per_epoch,)` int64."""
        return self._order_of(self._next())

    @property
    def position(self) -> int:
        """Positions of this epoch that have been handed out, over all processes, which are assumed to keep step."""
        if self._handed is None:
            return self._start
        handed = (self._taken_up - operator.length_hint(self._handed)) * self.world_size
        return min(self._began + handed, self._under_way.images)

    def state_dict(self, *, consumed: int | None = None) -> dict[str, Any]:
        """Return JSON values with which `load_state_dict` resumes at the first position that was not handed out.

        Args:
            consumed: Images of this epoch that training has seen, over all processes and including those before an
                earlier resume: batches x batch size x processes. The resumed sampler then continues after these.
                A number beyond the last position means the end of the epoch.

        Raises:
            InputError: `consumed` is negative.
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
        """Resume where the state was taken: the next pass is exactly the rest of its epoch, for any world size.

        Seed and draws are those of the state. Calling `set_epoch` with another epoch starts that epoch instead. Launchers
        count epochs from 0 in a new process, so tell them the epoch, with `loader.set_epoch(sampler.epoch)` for accelerate.
        Several processes of Lightning can only resume whole epochs, because Lightning lists an epoch before it shards it.

        Raises:
            InputError: a field is missing or wrong, or the state belongs to other labels.
        """
        try:
            file = _State.model_validate(state)
        except pydantic.ValidationError as error:
            raise refusal("sampler's state", error, _State.model_fields) from None
        if file.labels != zlib.crc32(self.labels.numpy().tobytes()):
            raise must("sampler's state", "be of the same labels", "other labels", "it belongs to other data")
        under_way = self._checked_shares(_Shares(draws=file.draws, images=file.images_per_epoch))
        planned = self._checked_shares(_Shares(draws=file.next_draws, images=file.next_images_per_epoch))
        if file.position > under_way.images:
            raise must("position of the sampler's state", f"lie in [0, {under_way.images}]", file.position)
        self._under_way, self._planned = under_way, planned
        self.seed, self.epoch, self._start, self._handed = file.seed, file.epoch, file.position, None

    def _next(self) -> _Shares:
        """The shares of the next pass; a resumed pass keeps those that it began with."""
        return self._under_way if self._start else self._planned

    def _order_of(self, shares: _Shares) -> Tensor:
        planned = torch.tensor(shares.draws, dtype=torch.float64)
        before = self._drawn_before(shares, planned)
        return allocate.epoch_order(self.labels, planned, shares.images, self.seed, self.epoch, before)

    def _drawn_before(self, shares: _Shares, planned: Tensor) -> Tensor:
        """Draws of each class in all earlier epochs if they had these shares, `(C,)` int64."""
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
                "draws of the classes",
                "be shares that sum to 1",
                f"a smallest of {min(shares.draws):g} and a sum of {total:g}",
            )
        for name, share, count in zip(names, shares.draws, class_counts(self.labels, len(names)).tolist(), strict=True):
            if share > 0 and count == 0:
                raise must("labels", f"hold {name}, which the plan draws", "none of it", "set its draws to 0")
        return shares


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shares:
    """The share of the draws of each class, and the draws of an epoch."""

    draws: tuple[float, ...]
    images: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Past:
    """Return the draws of each class in the first epochs, `(C,)`; they are kept, so that the next epoch only has to add one."""

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
            raise broken("draw at least one class", "zeros only")
        return shares
