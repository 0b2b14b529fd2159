"""The values that a comparison of methods consists of. `compare` makes them, and the benchmark report shows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from ..repair.metric import TITLES
from .estimates import Difference, Estimate, Network

BASELINE, OURS = "ce", "diversify"
REWEIGHTING = frozenset(
    {
        "inverse_frequency",
        "square_root",
        "effective_number",
        "focal",
        "cb_focal",
        "ldam",
        "ldam_drw",
        "ce_drw",
        "balanced_softmax",
        "logit_adjustment",
        "vs",
        "asymmetric",
        "class_balanced_sampling",
        "square_root_sampling",
        "crt",
        "tau_norm",
    }
)
"""The methods that change only weights, counts or margins. A control such as `vs+images` is not among them."""

SHOTS = ("many", "medium", "few")
THIRDS = ("largest_third", "middle_third", "smallest_third")
ACCURACIES = ("balanced_accuracy", *SHOTS, *THIRDS, "worst_class", "macro_f1", "g_mean")
COSTS = ("seconds", "seconds_shared", "peak_memory", "epochs")
SCORES = ("score", *ACCURACIES, "ece", *COSTS)
DIVERSITY = "diversity_heldout"

Role = Literal["baseline", "reweighting", "ours"]
Replicate = Literal["seed", "network"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """The search of a method: its trials, their cost, and the parameters it chose.

    Attributes:
        complete: Number of complete trials.
        pruned: Number of trials that were stopped early.
        failed: Number of trials that could not be trained.
        epochs: Epochs of all trials.
        seconds: Seconds of all trials, each with its share of the device.
        val_default: The metric on the validation set of trial 0, which has the published parameters; None if that
            trial is not complete.
        val: The same for the chosen trial, the best complete one; None without a complete trial.
        params: Parameters of the chosen trial; of the first final run if no trial is complete.
        kept: True if every final run used the parameters of the chosen trial.
    """

    complete: int
    pruned: int
    failed: int
    epochs: int
    seconds: float
    val_default: float | None
    val: float | None
    params: Mapping[str, Any]
    kept: bool

    @property
    def trials(self) -> int:
        """The number of all trials."""
        return self.complete + self.pruned + self.failed


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodResult:
    """The results of one method in a suite.

    Attributes:
        name: Name of the method.
        seeds: Seeds with a final run.
        missing: Seeds of the study without a final run.
        networks: The network of every seed.
        scores: Estimates by the names in `SCORES`. `score` is the metric of the study. Thirds and shot groups are mean
            recalls, NaN for a group without classes.
        recall: Mean recall over the networks by rank of class size, largest class first; NaN where unknown.
        budget: The search.
        inside: Diagnostics by column, averaged over the smallest third of the classes.
        inside_all: The same, averaged over all classes.
        importances: Importance of each parameter for the metric on the validation set; None if not asked for or not known.
    """

    name: str
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    networks: Mapping[int, Network]
    scores: Mapping[str, Estimate]
    recall: tuple[float, ...]
    budget: Budget
    inside: Mapping[str, Estimate]
    inside_all: Mapping[str, Estimate]
    importances: Mapping[str, float] | None

    @property
    def replicates(self) -> int:
        """The number of networks that the estimates are over."""
        return len(set(self.networks.values()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """A method that the others are compared with, and their differences to it.

    Attributes:
        role: Why it is a reference.
        name: The method; None if there is none, and `why` gives the reason.
        why: How it was chosen, or why it is missing.
        differences: Differences in the metric by method. Their p values form one family for Holm's method.
        others: Differences by score and method for the other accuracies and `ece`, without adjustment.
        inside: Differences by column of `MethodResult.inside` and method, also paired by class.
    """

    role: Role
    name: str | None
    why: str
    differences: Mapping[str, Difference]
    others: Mapping[str, Mapping[str, Difference]]
    inside: Mapping[str, Mapping[str, Difference]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteComparison:
    """The comparison of the methods of one suite under one protocol.

    Attributes:
        suite: Name of the suite.
        label: The suite, followed by the start of the digest if a file holds several protocols of it.
        digest: The sha256 of what the protocol holds fixed.
        protocol: What the study held fixed, as recorded beside the records; empty if unknown.
        counts: Training images per class, largest class first; empty if final runs differ in more than the order.
        seeds: Seeds of the study.
        tail_orders: Tail orders of the final runs.
        devices: Devices of all runs.
        commits: Commits of the library of all runs.
        versions: Library versions of the latest run.
        metric: What the study tunes and compares by; see `Protocol`.
        methods: The best by the metric first, methods without a final run last.
        references: The references by role.
        hindsight: The reweighting method that is best on the test set by the metric. It is reported and chooses nothing.
        reweighting: Names of the reweighting methods in the study.
        unfinished: What is missing, in words; empty if the study is complete.
        caveats: What limits the conclusions, in words.
    """

    suite: str
    label: str
    digest: str
    protocol: Mapping[str, Any]
    metric: str
    counts: tuple[int, ...]
    seeds: tuple[int, ...]
    tail_orders: tuple[str, ...]
    devices: tuple[str, ...]
    commits: tuple[str, ...]
    versions: Mapping[str, Any]
    methods: tuple[MethodResult, ...]
    references: Mapping[Role, Reference]
    hindsight: str | None
    reweighting: tuple[str, ...]
    unfinished: tuple[str, ...]
    caveats: tuple[str, ...]

    @property
    def metric_title(self) -> str:
        """The metric in words, for example "balanced accuracy"."""
        return TITLES[self.metric]

    @property
    def in_shares(self) -> bool:
        """True if the metric is a share of 1, so that differences are written in points; False for a cost."""
        return self.metric != "cost"

    @property
    def finished(self) -> tuple[MethodResult, ...]:
        """The methods with at least one final run."""
        return tuple(one for one in self.methods if one.seeds)

    @property
    def replicate(self) -> Replicate:
        """The unit that intervals are computed over: the seed, or the network if some seeds share one."""
        return replicate_of(self.methods)

    def method(self, name: str) -> MethodResult | None:
        """Return the results of a method; None if it has no record."""
        return next((one for one in self.methods if one.name == name), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparisons of all suites in a file of records.

    Attributes:
        suites: One comparison per suite and protocol, sorted by name.

    Example:
        >>> from diversify.study import compare
        >>> compare([])
        Comparison(suites=())
    """

    suites: tuple[SuiteComparison, ...]


def replicate_of(methods: Iterable[MethodResult]) -> Replicate:
    """Return "network" if some seeds of a method share a network, else "seed"."""
    return "network" if any(one.replicates < len(one.seeds) for one in methods) else "seed"
