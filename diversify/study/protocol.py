"""The values that all parts of a study share: what is fixed for every method, and what a method may fill in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
import torch
from torch import Tensor

from ..errors import InputError, must
from ..files.schema import Value, broken
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead
from ..repair.metric import Metric, metric_of
from ..training.ingredients import Augment, Ingredients

Parameter = float | int | str
Parameters = Mapping[str, Parameter]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """The range in which a numeric parameter is searched.

    Attributes:
        low: Smallest value.
        high: Largest value.
        default: The published value, which the first trial of every search uses.
        log: True to search on a logarithmic scale.
        integer: True for whole numbers only.

    Raises:
        InputError: the ends are not finite and rising, `default` lies outside them, or `low` is not positive on a
            logarithmic scale.

    Example:
        >>> Range(low=0.01, high=1.0, default=0.1, log=True).default
        0.1
    """

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
    """The values among which a categorical parameter is searched.

    Attributes:
        values: All values that may be tried.
        default: The published value, which the first trial of every search uses.

    Raises:
        InputError: `default` is not among `values`.

    Example:
        >>> Choice(values=(5, 10, 50), default=10).values
        (5, 10, 50)
    """

    values: tuple[Parameter, ...]
    default: Parameter

    def __post_init__(self) -> None:
        if self.default not in self.values:
            raise must("default of a choice", f"be one of {', '.join(map(str, self.values))}", self.default)


Space = Mapping[str, Range | Choice]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """The facts of a run that a method may use: the training images, but never the images it is evaluated on.

    Attributes:
        images: `(N, C, H, W)` uint8 on the training device, from which mixing draws its partners; None if they are
            too large to stay there.
        labels: `(N,)` int64, on the same device.
        class_counts: `(C,)` int64, on the CPU.
        class_names: Names of the C classes.
        epochs: Epochs of the run.
        seed: Seed of the run.
        base: The augmentation that every method starts from, for example `CropFlip`.

    Example:
        >>> import torch
        >>> setting = Setting(images=None, labels=torch.tensor([0, 0, 1]), class_counts=torch.tensor([2, 1]),
        ...                   class_names=("cat", "dog"), epochs=20, seed=0, base=None)
        >>> setting.num_classes
        2
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
        """The number of classes."""
        return len(self.class_names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """The input of a head step: the trained network's embeddings and head.

    Attributes:
        train: Embeddings of the training images, without augmentation.
        heldout: Embeddings of the validation set in a trial; None in a final run, which has none.
        head: The trained head.
        balances: How far training alone makes the head's logits treat classes alike; see `HeadStep`.
        carried: What the head step of the chosen trial passed on to the final run (JSON), for example a plan; None in
            a trial.
    """

    train: Embeddings
    heldout: Embeddings | None
    head: LinearHead
    balances: float = 0.0
    carried: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadStep:
    """The result of a head step.

    Attributes:
        head: The new head.
        carry: What the step derived from the validation set for the final run (JSON), for example a plan; None if it
            used no validation images. A trial whose step carries something is cross-validated: for each fold, the step
            is repeated without that fold.
        balances: How far the logits of `head` treat classes alike, whatever their shares in training: 0 as after plain
            training, 1 in full. Where the protocol has a target prior, this many times its logarithm is added to them.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> HeadStep(head=dv.normalize_tau(head, 1.0)).carry is None
        True
    """

    head: LinearHead
    carry: Any = None
    balances: float = 0.0


def plain(setting: Setting, parameters: Parameters) -> Ingredients:
    """Return the ingredients of plain training: base augmentation and cross entropy."""
    return Ingredients(augment=setting.base)


MakeIngredients = Callable[[Setting, Parameters], Ingredients]
"""Makes the ingredients of a run from its training images and the parameters of the trial."""

TakeStep = Callable[[Setting, Parameters, Trained], HeadStep]
"""Makes a new head after training."""


Balances = float | Callable[[Setting, Parameters], float]
"""How far training makes logits treat classes alike, or a function of the trial that says it; see `HeadStep`."""


def number(parameters: Parameters, name: str) -> float:
    """Return a parameter that is a number, as a float."""
    return float(parameters[name])


def _require_in_space(subject: str, changes: Parameters, space: Space) -> None:
    """Raise an InputError unless these are parameters of the space, with values in it."""
    if not isinstance(changes, Mapping):
        raise must(subject, "be a tuple of mappings, one per trial", f"{type(changes).__name__} in it")
    for name, value in changes.items():
        one = space.get(name)
        if one is None:
            raise must(subject, "hold parameters of its space", name)
        if isinstance(one, Choice) and value not in one.values:
            raise must(f"{name} in the {subject}", f"be one of {', '.join(map(str, one.values))}", repr(value))
        if isinstance(one, Range):
            kinds = int if one.integer else (int, float)
            if not isinstance(value, kinds) or isinstance(value, bool) or not one.low <= value <= one.high:
                law = f"{'be an integer' if one.integer else 'lie'} in [{one.low:g}, {one.high:g}]"
                raise must(f"{name} in the {subject}", law, repr(value))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """A method of a study: what it puts into the slots of the shared training loop.

    All methods share the loop, so a difference between two of them can only come from a slot.

    Attributes:
        name: One word without commas and slashes.
        meaning: One line for readers.
        source: The paper it comes from.
        space: Parameters that are searched. Learning rate and weight decay are added by the protocol.
        ingredients: Makes the slots from the training images and the parameters of a trial.
        head_step: Makes a new head after training; None keeps the trained one.
        cosine_head: Scale of the cosine head, or a function of the trial that gives it; 0 for a linear head.
        first_trials: Changes of the published values that are tried right after these, one trial each, before any values are
            drawn. Fewer trials try fewer of them.
        balances: How far training makes the logits treat classes alike, whatever their shares in training: 0 as cross
            entropy, 1 as balanced softmax, or a function of the trial. Where the protocol has a target prior, this many
            times its logarithm is added to the logits. A head step says it for the head that it makes.

    Raises:
        InputError: the name is not one word, the space holds the protocol's parameters or something that is neither
            a `Range` nor a `Choice`, or `first_trials` holds something outside the space.

    Example:
        >>> from diversify.training.ingredients import Ingredients
        >>> from diversify.training.losses import Always, Focal
        >>> focal = Method(
        ...     name="my_focal", meaning="Focal loss", source="Lin et al. 2017",
        ...     space={"gamma": Range(low=0.5, high=3.0, default=2.0)},
        ...     ingredients=lambda setting, parameters: Ingredients(
        ...         augment=setting.base, criterion=Always(Focal(gamma=float(parameters["gamma"])))),
        ... )
        >>> sorted(focal.space)
        ['gamma']
    """

    name: str
    meaning: str
    source: str
    space: Space = dataclasses.field(default_factory=dict)
    ingredients: MakeIngredients = plain
    head_step: TakeStep | None = None
    cosine_head: float | Callable[[Parameters], float] = 0.0
    first_trials: tuple[Parameters, ...] = ()
    balances: Balances = 0.0

    def __post_init__(self) -> None:
        if not self.name or any(mark in self.name for mark in ", \n/"):
            raise must("name of a method", "be one word without commas and slashes", repr(self.name))
        for name, one in self.space.items():
            if name in ("learning_rate", "weight_decay"):
                raise must(f"space of {self.name}", f"leave {name} to the protocol", name)
            if not isinstance(one, Range | Choice):
                raise must(f"{name} in the space of {self.name}", "be a Range or a Choice", repr(one))
        if not isinstance(self.first_trials, tuple | list):
            raise must(
                f"first_trials of {self.name}",
                "be a tuple of mappings, one per trial",
                type(self.first_trials).__name__,
            )
        for changes in self.first_trials:
            _require_in_space(f"first_trials of {self.name}", changes, self.space)

    def cosine_scale(self, parameters: Parameters) -> float:
        """Return the scale of the cosine head with these parameters; 0 for a linear head."""
        return float(self.cosine_head(parameters) if callable(self.cosine_head) else self.cosine_head)

    def balances_in(self, setting: Setting, parameters: Parameters) -> float:
        """Return how far training with these parameters makes the logits treat classes alike."""
        return float(self.balances(setting, parameters) if callable(self.balances) else self.balances)


class Protocol(Value):
    """The part of a study that is the same for every method: data, network, training budget and search.

    Each method gets `trials` trials. They are trained without the validation set, a share `holdout` of the long-tailed
    training set, and choose the method's parameters on it. The method is then trained with these parameters on the whole
    training set, once per seed, and each of these final runs reads the test set once.

    Attributes:
        suite: Name of the study.
        data: Data set, as `load_data` takes it.
        resize: Shorter side of the images in pixels; None for what is usual for the data, as in the next three.
        crop: Side of the centre crop in pixels.
        mean: Mean per channel, for images in [0, 1].
        std: Standard deviation per channel.
        imbalance: How the training set is thinned out, as `load_data` takes it.
        tail_orders: Which classes become rare, as `load_data` takes it. Final runs use the entries in turn, trials the
            first.
        holdout: Share of the training set that becomes the validation set of trials, in (0, 1).
        model: Network, as `build_model` takes it.
        epochs: Epochs of a final run.
        trial_epochs: Epochs of a trial; None for as many as a final run has.
        batch_size: Images per step.
        schedule: How the learning rate falls.
        warmup_epochs: Epochs of linear warm-up; at most a third of a run's epochs is used.
        precision: Arithmetic of the forward pass.
        learning_rate: Lowest, default and highest value of the search, which is logarithmic.
        weight_decay: The same for the weight decay.
        methods: Names of the methods.
        trials: Trials per method.
        seeds: One final run per seed. A seed sets the initial weights, the order of the images and all draws.
        rungs: Epochs after which a trial that is behind the others may be stopped, by the same rule for every method.
        confirmation: True if rules and defaults were frozen before the study was run.
        metric: What a trial maximises on the validation set and what methods are compared by: `balanced`, the mean recall,
            `prior`, `macro-f1`, `worst` or `cost`, as in `choose_head`.
        target_prior: Share of each class where the model will be used, in the order of the classes. `prior` needs it,
            `macro-f1` and `cost` can use it. Methods that correct for the class prior then aim at it.
        cost: Cost of predicting an image of class i as class j, for `cost` alone.
        note: Free text.

    Raises:
        pydantic.ValidationError: a field breaks its rule.

    Example:
        >>> protocol = Protocol(suite="mine", data="digits", methods=("ce", "vs"), epochs=20, trials=2, seeds=(0, 1, 2))
        >>> protocol.holdout, protocol.epochs_of("val")
        (0.2, 20)
    """

    suite: Annotated[str, pydantic.Field(min_length=1)]
    data: str
    resize: Annotated[int, pydantic.Field(strict=True, ge=1)] | None = None
    crop: Annotated[int, pydantic.Field(strict=True, ge=1)] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    imbalance: str = "exp:100"
    tail_orders: tuple[str, ...] = ("canonical",)
    holdout: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.2
    model: str = "resnet32"
    epochs: Annotated[int, pydantic.Field(strict=True, ge=1)] = 200
    trial_epochs: Annotated[int, pydantic.Field(strict=True, ge=1)] | None = None
    batch_size: Annotated[int, pydantic.Field(strict=True, ge=1)] = 128
    schedule: Literal["steps", "cosine"] = "cosine"
    warmup_epochs: Annotated[int, pydantic.Field(strict=True, ge=0)] = 5
    precision: Literal["fp32", "bf16"] = "bf16"
    learning_rate: tuple[float, float, float] = (0.03, 0.1, 0.3)
    weight_decay: tuple[float, float, float] = (1e-4, 2e-4, 2e-3)
    methods: tuple[str, ...]
    trials: Annotated[int, pydantic.Field(strict=True, ge=1)] = 4
    seeds: tuple[int, ...] = (0, 1, 2)
    rungs: tuple[int, ...] = ()
    confirmation: bool = False
    metric: Literal["balanced", "prior", "macro-f1", "worst", "cost"] = "balanced"
    target_prior: tuple[float, ...] | None = None
    cost: tuple[tuple[float, ...], ...] | None = None
    note: str = ""

    @pydantic.model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise broken("name every method once", ", ".join(self.methods) or "none", at="methods")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise broken("be different numbers, not negative", str(list(self.seeds)), at="seeds")
        if not self.tail_orders:
            raise broken("name at least one", "none", at="tail_orders")
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
        try:
            self.metric_on(torch.ones(len(self.target_prior or self.cost or ()), dtype=torch.int64))
        except InputError as error:
            name, law, got, advice = error.parts or ("metric", "be valid", str(error), "")
            raise broken(law, "; ".join(filter(None, (got, advice))), at=name) from None
        return self

    def metric_on(self, evaluation_counts: Tensor) -> Metric:
        """Return the metric for images that an evaluation has so many of per class, `(C,)`.

        Raises:
            InputError: The target prior or the cost does not fit the classes, or the target prior gives a share to one
                without images.

        Example:
            >>> import torch
            >>> protocol = Protocol(suite="mine", data="digits", methods=("ce",), metric="prior", target_prior=(0.9, 0.1))
            >>> protocol.metric_on(torch.tensor([5, 5])).title
            'accuracy under the target prior'
        """
        return metric_of(self.metric, target_prior=self.target_prior, cost=self.cost, heldout_counts=evaluation_counts)

    def epochs_of(self, split: str) -> int:
        """Return the epochs of a trial ("val") or of a final run ("test")."""
        return self.epochs if split == "test" or self.trial_epochs is None else self.trial_epochs

    def tail_order_of(self, seed: int) -> str:
        """Return the tail order of the final run with this seed; the first one for a seed that is not listed."""
        return (
            self.tail_orders[self.seeds.index(seed) % len(self.tail_orders)]
            if seed in self.seeds
            else self.tail_orders[0]
        )

    def space_of(self, method: Method) -> Space:
        """Return all parameters that are searched for a method: learning rate, weight decay and its own."""
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
    """The result of one run: of a trial on the validation set, or of a final run on the test set.

    Attributes:
        recall: Recall of every class; None for a class without images in the split.
        balanced_accuracy: Mean recall of the classes that have images.
        macro_f1: Mean F1 score of the same classes.
        g_mean: Geometric mean of the recalls.
        ece: Expected calibration error.
        class_counts: Training images per class.
        epochs: Epochs trained.
        seconds: Wall-clock time from the first step to the last prediction.
        images_per_second: Training images per second.
        peak_memory: Largest memory in use on the device, in bytes; None on a CPU.
        curve: The protocol's metric after each rung of a trial.
        inside: Diagnostics of a final run, per class or as one number: top-K magnitude ratio, held-out diversity at
            matched n, leak. They are reported and choose nothing. A run on a frozen network gives the network's name as
            `backbone`, since runs that share one are not independent.
        carried: What the head step passes on to the final run (JSON).
        score: The protocol's metric; None stands for the balanced accuracy.
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
    score: float | None = None


class Stopped(Exception):  # noqa: N818 - it is no error
    """Raised by the `report` callback to end a trial early. It is not an error."""


Report = Callable[[int, float], None]
"""Called with (epochs done, the protocol's metric on the validation set) at each rung; may raise `Stopped`."""
