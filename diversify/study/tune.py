"""Which parameters a trial tries, which trial is stopped, and which choices mattered: Optuna, here only.

The records are the truth, and a storage of Optuna's is brought to say what they say before every trial: what a killed
process left there is repaired, what is missing is added. With one process a trial then depends on the records before it and
on its number, and on nothing else.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import must
from ..files import atomic, locks
from ..functional import draws
from .protocol import Choice, Parameter, Parameters, Range, Space
from .records import Record

if TYPE_CHECKING:
    import numpy as np
    import optuna


STARTUP_TRIALS = 10
"""Trials that end before the sampler models them; the first of all has the published values, the others are random."""

COMPARED_TRIALS = 4
"""Complete trials that a trial is compared with, at least, before it may be stopped: at a rung, below their median."""

DATABASES = ("sqlite", "postgresql", "mysql")
FEWEST_FOR_IMPORTANCE = 4

_NUMBER, _PARAMETERS = "number", "parameters"  # what trials in a storage are known by
_JOURNAL_LOCK = "journal"


# What is searched


def defaults(space: Space) -> dict[str, Parameter]:
    """The published values."""
    return {name: _number(one, one.default) if isinstance(one, Range) else one.default for name, one in space.items()}


def describe_space(space: Space) -> dict[str, list[Parameter]]:
    """A space as JSON, its defaults left out: what two searches of one name must share."""
    described: dict[str, list[Parameter]] = {}
    for name, one in space.items():
        if isinstance(one, Range):
            scale = "logarithmic" if one.log else "linear"
            described[name] = [_number(one, one.low), _number(one, one.high), scale]
        else:
            described[name] = list(one.values)
    return described


def read_space(described: Mapping[str, Sequence[Parameter]]) -> Space:
    """A space from what `describe_space` made of it; the defaults, which that leaves out, are the first values."""
    space: dict[str, Range | Choice] = {}
    for name, values in described.items():
        if values[-1] in ("logarithmic", "linear") and len(values) == 3:
            low, high = float(values[0]), float(values[1])
            whole = isinstance(values[0], int) and isinstance(values[1], int)
            space[name] = Range(low=low, high=high, default=low, log=values[-1] == "logarithmic", integer=whole)
        else:
            space[name] = Choice(values=tuple(values), default=values[0])
    return space


def _number(one: Range, value: float) -> float | int:
    return round(value) if one.integer else float(value)


def _distributions(space: Space) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def distribution(one: Range | Choice) -> Any:
        if isinstance(one, Choice):
            return CategoricalDistribution(one.values)
        if one.integer:
            return IntDistribution(round(one.low), round(one.high), log=one.log, step=1)
        return FloatDistribution(float(one.low), float(one.high), log=one.log, step=None)

    return {name: distribution(one) for name, one in space.items()}


# How it is searched


def _weights(trials: int) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.concatenate([np.linspace(1 / max(trials, 1), 1, num=max(trials - 25, 0)), np.ones(min(trials, 25))])


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    """Tree-structured Parzen estimators, as Optuna 5.0 sets them: named one by one, for 4.4 has others."""
    from optuna.samplers import TPESampler

    return TPESampler(
        prior_weight=1.0,
        consider_magic_clip=True,
        consider_endpoints=False,
        n_startup_trials=STARTUP_TRIALS,
        n_ei_candidates=24,
        gamma=lambda trials: min(math.ceil(0.1 * trials), 25),
        weights=_weights,
        seed=seed & 0xFFFFFFFF,
        multivariate=True,
        group=False,
        warn_independent_sampling=False,
        constant_liar=True,
        constraints_func=None,
    )


def _pruner() -> optuna.pruners.BasePruner:
    from optuna.pruners import MedianPruner

    return MedianPruner(
        n_startup_trials=COMPARED_TRIALS, n_warmup_steps=0, interval_steps=1, n_min_trials=COMPARED_TRIALS
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna says nothing in the block, and what it says elsewhere is as before."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):  # that an argument which is named will be gone some day
            yield
    finally:
        optuna.logging.set_verbosity(level)


# Where it is kept


def require_storage(url: str | None) -> None:
    """Say when `url` is no database that a search can be kept in."""
    if url is not None and (url.partition(":")[0].partition("+")[0] not in DATABASES or "://" not in url):
        choices = ", ".join(f"{name}://..." for name in DATABASES)
        advice = "for example sqlite:///study.db; leave it out for a journal beside the results"
        raise must("--storage", f"be one of {choices}", repr(url), advice)


class _JournalLock:
    """What Optuna's journal locks its file with; its own locks outlive a killed process by half a minute."""

    def __init__(self, locks: locks.Locks, journal: Path) -> None:
        self._locks, self._journal = locks, journal
        self._held = contextlib.ExitStack()

    def acquire(self) -> bool:
        self._held.enter_context(self._locks.alone(_JOURNAL_LOCK))
        atomic.cut_torn_line(self._journal)
        return True

    def release(self) -> None:
        self._held.close()


def open_storage(url: str | None, *, journal: Path, locks: locks.Locks) -> optuna.storages.BaseStorage:
    """The database at `url`, or a journal that all who share `locks` may write to."""
    require_storage(url)
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    with _quiet():
        if url is None:
            lock: Any = _JournalLock(locks, journal)
            try:
                return JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))
            except (ValueError, KeyError) as error:  # not JSON, or not what Optuna writes
                advice = "move it away: the search is made again from the records"
                raise must("journal", "be one that Optuna wrote", f"{journal} ({error})", advice) from None
        waiting = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
        try:
            return RDBStorage(url, engine_kwargs=waiting)
        except Exception as error:  # whatever SQLAlchemy and the driver make of the address
            reason = str(error.__cause__ or error).strip().splitlines()
            raise must(
                "--storage", "be a database that can be opened", repr(url), reason[0] if reason else ""
            ) from None


# The search


class Search:
    """The search of one method; every call but `stops` needs the study's bookkeeping to itself."""

    def __init__(
        self, storage: optuna.storages.BaseStorage, *, name: str, suite: str, method: str, space: Space
    ) -> None:
        with _quiet():
            self._distributions = _distributions(space)
        self._storage, self._name, self._suite, self._method = storage, name, suite, method
        self._space = space
        self._open()

    def _open(self) -> None:
        import optuna

        with _quiet():
            self._study = optuna.create_study(
                storage=self._storage,
                sampler=_sampler(0),
                pruner=_pruner(),
                study_name=self._name,
                direction="maximize",
                load_if_exists=True,
            )

    def settle(self, records: Mapping[int, Record], runs: Callable[[int], bool]) -> None:
        """Make the storage say what the records of the trials say; `runs` tells whether a trial is at work somewhere.

        A trial that no process runs any more failed; its parameters are kept for the next trial of its number. One that a
        process recorded and could not tell any more is added from its record.
        """
        from optuna.trial import TrialState

        with _quiet():
            while any(one.state == TrialState.WAITING for one in self._study.get_trials(deepcopy=False)):
                self._study.tell(self._study.ask(), state=TrialState.FAIL)
            told: set[int] = set()
            unknown = busy = False
            for one in self._study.get_trials(deepcopy=False):
                number = int(one.user_attrs.get(_NUMBER, -1))
                record = records.get(number)
                agrees = record is not None and number not in told and self._parameters(one) == record.params
                if one.state == TrialState.RUNNING:
                    if record is None and number >= 0 and runs(number):
                        busy = True
                    else:
                        self._study.tell(one.number, state=TrialState.FAIL)
                elif one.state in (TrialState.COMPLETE, TrialState.PRUNED):
                    unknown = unknown or not agrees
                    told.add(number)
            if unknown:
                self._begin_again(busy)
                told.clear()
            self._add(record for number, record in sorted(records.items()) if number not in told)

    def _begin_again(self, busy: bool) -> None:
        """The storage holds what the records do not: begin it anew."""
        import optuna

        if busy:
            advice = "wait until these are done, and run the command again"
            law = f"hold all trials of {self._method} that its storage does, while other processes work on it"
            raise must("results", law, "fewer", advice)
        optuna.delete_study(study_name=self._name, storage=self._storage)
        self._open()

    def _add(self, records: Iterator[Record]) -> None:
        for record in records:
            if record.state != "failed":  # which tell neither the sampler nor the pruner anything
                self._study.add_trial(_as_trial(record, self._distributions, pruned=record.state == "pruned"))

    def _tell(self, trial: optuna.Trial, record: Record) -> None:
        from optuna.trial import TrialState

        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        value = record.balanced_accuracy if record.state == "complete" else None
        self._study.tell(trial, value, state=states[record.state])

    def begin(self, number: int) -> Trial:
        """A trial of this number: with the parameters it had if it was begun before, with the published ones if it is the first."""
        with _quiet():
            kept = self._kept(number)
            self._study.sampler = _sampler(draws.seed_for("study", self._suite, number))
            if kept is not None:
                self._study.enqueue_trial(kept, user_attrs={_NUMBER: number, _PARAMETERS: kept}, skip_if_exists=False)
            trial = self._study.ask(fixed_distributions=self._distributions)
            if kept is None:  # at last: one that has it has all its parameters
                trial.set_user_attr(_NUMBER, number)
        return Trial(trial=trial, number=number, parameters={name: trial.params[name] for name in self._space})

    def _kept(self, number: int) -> dict[str, Parameter] | None:
        for one in self._study.get_trials(deepcopy=False):
            if one.user_attrs.get(_NUMBER) == number and self._parameters(one).keys() == self._space.keys():
                return self._parameters(one)
        return defaults(self._space) if number == 0 else None

    def _parameters(self, one: optuna.trial.FrozenTrial) -> dict[str, Parameter]:
        return dict(one.user_attrs.get(_PARAMETERS, one.params))

    def end(self, trial: Trial, record: Record) -> None:
        """Tell the storage what a record says."""
        with _quiet():
            self._tell(trial.trial, record)


class Trial:
    """A trial at work: its number, its parameters, and whether it is to be stopped."""

    def __init__(self, *, trial: optuna.Trial, number: int, parameters: Parameters) -> None:
        self.trial, self.number, self.parameters = trial, number, dict(parameters)

    def stops(self, epoch: int, value: float) -> bool:
        """Whether a trial with this balanced accuracy after this epoch is behind the others; by one rule for every method."""
        with _quiet():
            self.trial.report(value, epoch)
            return self.trial.should_prune()


def _as_trial(record: Record, distributions: Mapping[str, Any], *, pruned: bool) -> optuna.trial.FrozenTrial:
    from optuna.trial import TrialState, create_trial

    return create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=record.balanced_accuracy,
        params={name: record.params[name] for name in distributions},
        distributions=dict(distributions),
        user_attrs={_NUMBER: record.number},
        intermediate_values=dict(record.curve),
    )


# Which choices mattered


def importances(records: Sequence[Record], space: Space) -> dict[str, float | None]:
    """Share of the variance of balanced accuracy on val that each parameter of a method explains, among all that do: fANOVA.

    The shares add up to 1. None for a parameter that had one value in all complete trials; None for all where fewer than
    four trials are complete, or all of them found the same. With few trials the shares are rough.

    Source: Hutter, Hoos, Leyton-Brown, "An efficient approach for assessing hyperparameter importance", 2014.
    """
    trials = sorted((one for one in records if one.kind == "trial"), key=lambda one: one.number or 0)
    if len({(one.protocol, one.method) for one in trials}) > 1:
        names = ", ".join(sorted({one.method for one in trials}))
        raise must("records", "be of one method under one protocol", names)
    complete = [one for one in trials if one.state == "complete" and space.keys() <= one.params.keys()]
    shares: dict[str, float | None] = dict.fromkeys(space)
    varied = [name for name in space if len({one.params[name] for one in complete}) > 1]
    if len(complete) < FEWEST_FOR_IMPORTANCE or len({one.balanced_accuracy for one in complete}) < 2 or not varied:
        return shares
    import optuna

    with _quiet():
        distributions = _distributions(space)
        study = optuna.create_study(
            storage=optuna.storages.InMemoryStorage(), sampler=_sampler(0), pruner=_pruner(), direction="maximize"
        )
        for one in complete:
            study.add_trial(_as_trial(one, distributions, pruned=False))
        seed = draws.seed_for("importances", complete[0].suite, complete[0].method) & 0xFFFFFFFF
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=64, max_depth=64, seed=seed)
        found = optuna.importance.get_param_importances(
            study, evaluator=evaluator, params=varied, target=None, normalize=True
        )
    return shares | {name: float(found[name]) for name in varied}
