"""What a study holds fixed for every method, and what a method may fill: the values that everything here agrees on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from torch import Tensor

from ..errors import must
from ..files.schema import Value, broken
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead
from ..training.ingredients import Augment, Ingredients

Parameter = float | int | str
Parameters = Mapping[str, Parameter]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """A number that is searched for: `default` is the published value, with which every search begins."""

    low: float
    high: float
    default: float
    log: bool = False
    integer: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise must("range", "have a low end below its high end, both finite", f"{self.low:g} to {self.high:g}")
        if not self.low <= self.default <= self.high:
            raise must("default of a range", f"lie in [{self.low:g}, {self.high:g}]", f"{self.default:g}")
        if self.log and self.low <= 0:
            raise must("low end of a logarithmic range", "be positive", f"{self.low:g}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several values; `default` is the published one."""

    values: tuple[Parameter, ...]
    default: Parameter

    def __post_init__(self) -> None:
        if self.default not in self.values:
            raise must("default of a choice", f"be one of {', '.join(map(str, self.values))}", self.default)


Space = Mapping[str, Range | Choice]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What a method may know of the run that it is part of: training images alone, never those it is judged by.

    Attributes:
        images: `(N, C, H, W)` uint8 on the device that trains; partners of what is mixed come from here. None
            where they are too large for that.
        labels: `(N,)` int64, on the same device.
        class_counts: `(C,)` int64, on the CPU.
        base: The augmentation that every method begins with, for example `CropFlip`.
    """

    images: Tensor | None
    labels: Tensor
    class_counts: Tensor
    class_names: tuple[str, ...]
    epochs: int
    seed: int
    base: Augment | None

    @property
    def num_classes(self) -> int:
        """Classes of the data."""
        return len(self.class_names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What a head step works on, after training.

    Attributes:
        train: Features of the training images, not augmented.
        heldout: Those of val in a trial; None in a final run, which has none.
        head: The head as trained.
        carried: What the step of the chosen trial left for the final run (JSON), for example a plan; None in a trial.
    """

    train: Embeddings
    heldout: Embeddings | None
    head: LinearHead
    carried: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadStep:
    """The head that a step leaves, and what it made from val for the final run (JSON), if anything.

    A trial whose step carries something is judged fold by fold: the step is taken again without the fold.
    """

    head: LinearHead
    carry: Any = None


def plain(setting: Setting, parameters: Parameters) -> Ingredients:
    """Plain training: the base augmentation and cross entropy."""
    return Ingredients(augment=setting.base)


TakeStep = Callable[[Setting, Parameters, Trained], HeadStep]
"""What happens to the head after training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """What fills the slots of the one loop; a difference in a table can come from nothing else.

    Attributes:
        space: What is searched beside learning rate and weight decay, which are in every space.
        ingredients: The slots, from the training images and the parameters of a trial.
        head_step: What happens to the head after training; None for nothing.
        cosine_head: Whether the head is a cosine head (LDAM), with this scale; 0 for a linear one.
    """

    name: str
    meaning: str
    source: str
    space: Space = dataclasses.field(default_factory=dict)
    ingredients: Callable[[Setting, Parameters], Ingredients] = plain
    head_step: TakeStep | None = None
    cosine_head: float = 0.0

    def __post_init__(self) -> None:
        if not self.name or any(mark in self.name for mark in ", \n/"):
            raise must("name of a method", "be one word without commas and slashes", repr(self.name))
        for name, one in self.space.items():
            if name in ("learning_rate", "weight_decay"):
                raise must(f"space of {self.name}", f"leave {name} to the protocol", name)
            if not isinstance(one, Range | Choice):
                raise must(f"{name} in the space of {self.name}", "be a Range or a Choice", repr(one))


class Protocol(Value):
    """What is the same for every method: data, network, budget, and how it is chosen.

    `trials` runs per method, of `trial_epochs` where final runs are too long for a search, choose its parameters on val, a
    part of `holdout` of the long-tailed training set; then the method is trained on all of the training set once per seed,
    with what was chosen, and test is read once for each. After `rungs` epochs a trial that is behind may be stopped, by the
    same rule for every method. A seed means another start and another order of the images; with `tail_orders` the seeds go
    through them in turn, so that another class is rare.

    `resize`, `crop`, `mean` and `std` are what the flags of `diversify train` are: None for what is usual for the data. The
    warm-up of a run takes a third of its epochs at most.
    """

    suite: Annotated[str, pydantic.Field(min_length=1)]
    data: str
    resize: Annotated[int, pydantic.Field(strict=True, ge=1)] | None = None  # shorter side, in pixels
    crop: Annotated[int, pydantic.Field(strict=True, ge=1)] | None = None  # centre crop, in pixels
    mean: tuple[float, ...] | None = None  # per channel, for images in [0, 1]
    std: tuple[float, ...] | None = None
    imbalance: str = "exp:100"
    tail_orders: tuple[str, ...] = ("canonical",)
    holdout: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.2
    model: str = "resnet32"
    epochs: Annotated[int, pydantic.Field(strict=True, ge=1)] = 200
    trial_epochs: Annotated[int, pydantic.Field(strict=True, ge=1)] | None = None  # None: as many
    batch_size: Annotated[int, pydantic.Field(strict=True, ge=1)] = 128
    schedule: Literal["steps", "cosine"] = "cosine"
    warmup_epochs: Annotated[int, pydantic.Field(strict=True, ge=0)] = 5
    precision: Literal["fp32", "bf16"] = "bf16"
    learning_rate: tuple[float, float, float] = (0.03, 0.1, 0.3)  # lowest, default, highest; searched by its logarithm
    weight_decay: tuple[float, float, float] = (1e-4, 2e-4, 2e-3)
    methods: tuple[str, ...]
    trials: Annotated[int, pydantic.Field(strict=True, ge=1)] = 4
    seeds: tuple[int, ...] = (0, 1, 2)
    rungs: tuple[int, ...] = ()
    confirmation: bool = False  # rules and defaults were frozen before it was run
    note: str = ""

    @pydantic.model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise broken("name every method once", ", ".join(self.methods) or "none", at="methods")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise broken("be different numbers, not negative", str(list(self.seeds)), at="seeds")
        if not self.tail_orders:
            raise broken("name one at least", "none", at="tail_orders")
        last = self.epochs_of("val")
        if list(self.rungs) != sorted(set(self.rungs)) or any(not 0 < rung < last for rung in self.rungs):
            raise broken(f"be rising epochs in [1, {last - 1}]", str(list(self.rungs)), at="rungs")
        for name in ("learning_rate", "weight_decay"):
            low, default, high = getattr(self, name)
            if not 0 < low <= default <= high:
                raise broken("be lowest, default and highest, positive", str(getattr(self, name)), at=name)
        mean, std = self.mean or (), self.std or ()
        if len(mean) != len(std):
            raise broken("have as many numbers as mean", f"{len(std)} for {len(mean)}", at="std")
        if min(std, default=1) <= 0:
            raise broken("be positive", str(std), at="std")
        return self

    def epochs_of(self, split: str) -> int:
        """Epochs of a trial ("val") or of a final run ("test")."""
        return self.epochs if split == "test" or self.trial_epochs is None else self.trial_epochs

    def tail_order_of(self, seed: int) -> str:
        """Which classes are rare in the final run of this seed; trials use the first."""
        return (
            self.tail_orders[self.seeds.index(seed) % len(self.tail_orders)]
            if seed in self.seeds
            else self.tail_orders[0]
        )

    def space_of(self, method: Method) -> Space:
        """All that is searched for a method: learning rate, weight decay, and its own."""
        rates = {
            name: Range(low=low, default=default, high=high, log=True)
            for name, (low, default, high) in (
                ("learning_rate", self.learning_rate),
                ("weight_decay", self.weight_decay),
            )
            if low < high
        }
        return {**rates, **method.space}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one run found: of a trial on val, of a final run on test.

    Attributes:
        recall: Of every class; None for one without images to be judged by.
        curve: Balanced accuracy after each rung, of a trial.
        inside: Per class, or one number: top-K gap, held-out diversity at matched n, leak; read only. Empty in a trial. Of a run on
            a frozen network its name as `backbone`: runs that share one are no independent replicates.
        carried: For the final run: what the head step left (JSON).
        seconds: Of the run, from its first step to its last look at the images it is judged by.
        peak_memory: Bytes on the device; None on a CPU.
    """

    recall: tuple[float | None, ...]
    balanced_accuracy: float
    macro_f1: float
    g_mean: float
    ece: float
    class_counts: tuple[int, ...]
    epochs: int
    seconds: float
    images_per_second: float
    peak_memory: int | None
    curve: tuple[float, ...] = ()
    inside: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    carried: Any = None


class Stopped(Exception):  # noqa: N818 - it is no error
    """Raised by the `report` of a run to end it: a pruned trial. Not an error."""


Report = Callable[[int, float], None]
"""Called with (epochs done, balanced accuracy on val) at each rung; may raise `Stopped`."""
