"""The parameter search: what a trial tries, when it is stopped, and which parameters mattered. Only this file imports Optuna.

The file of records is the source of truth. Before every trial Optuna's storage is made to agree with it: trials that a killed
process left behind are repaired, and missing ones are added. With one process a trial therefore depends only on its number
and on the records before it.
"""

from __future__ import annotations

import contextlib
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import must
from ..files import atomic, locks
from ..functional import draws
from . import database
from .protocol import Choice, Parameter, Parameters, Range, Space
from .records import Record

if TYPE_CHECKING:
    import numpy as np
    import optuna


STARTUP_TRIALS = 10
"""Trials before the sampler models them. The first has the published values, those after it what the method's
`first_trials` change of them, and the others are drawn by their number alone."""

COMPARED_TRIALS = 4
"""Complete trials that must exist before a trial may be stopped, at a rung, for being below their median."""

FEWEST_FOR_IMPORTANCE = 4

_NUMBER, _PARAMETERS = "number", "parameters"  # attributes that identify a trial in the storage
_JOURNAL_LOCK = "journal"


def defaults(space: Space) -> dict[str, Parameter]:
    """Return the published value of every parameter."""
    return {name: _number(one, one.default) if isinstance(one, Range) else one.default for name, one in space.items()}


def describe_space(space: Space) -> dict[str, list[Parameter]]:
    """Return a space as JSON without its defaults, which may differ between two runs of the same search."""
    described: dict[str, list[Parameter]] = {}
    for name, one in space.items():
        if isinstance(one, Range):
            scale = "logarithmic" if one.log else "linear"
            described[name] = [_number(one, one.low), _number(one, one.high), scale]
        else:
            described[name] = list(one.values)
    return described


def read_space(described: Mapping[str, Sequence[Parameter]]) -> Space:
    """Return the space that `describe_space` wrote. Defaults are not written, so the first values replace them."""
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


def _weights(trials: int) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.concatenate([np.linspace(1 / max(trials, 1), 1, num=max(trials - 25, 0)), np.ones(min(trials, 25))])


def _sampler(seed: int, *, models: bool = True) -> optuna.samplers.BaseSampler:
    """Return a TPE sampler with the defaults of Optuna 5.0, spelled out because those of 4.4 differ.

    Without `models` it draws at random, however many trials there are.
    """
    from optuna.samplers import TPESampler

    return TPESampler(
        prior_weight=1.0,
        consider_magic_clip=True,
        consider_endpoints=False,
        n_startup_trials=STARTUP_TRIALS if models else sys.maxsize,
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
    """Silence Optuna's log and warnings within the block."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):  # deprecated arguments are passed on purpose
            yield
    finally:
        optuna.logging.set_verbosity(level)


class _JournalLock:
    """The lock of Optuna's journal. Optuna's own locks outlive a killed process by half a minute."""

    def __init__(self, locks: locks.Locks, journal: Path) -> None:
        self._locks, self._journal = locks, journal
        self._held = contextlib.ExitStack()

    def acquire(self) -> bool:
        with contextlib.ExitStack() as held:
            held.enter_context(self._locks.alone(_JOURNAL_LOCK))
            atomic.cut_torn_line(self._journal)
            self._held = held.pop_all()
        return True

    def release(self) -> None:
        self._held.close()


def open_storage(url: str | None, *, journal: Path, locks: locks.Locks) -> optuna.storages.BaseStorage:
    """Return the database at `url`, or a journal that all processes with the same `locks` may write to."""
    database.require_storage(url)
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    with _quiet():
        if url is None:
            lock: Any = _JournalLock(locks, journal)
            try:
                return JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))
            except (ValueError, KeyError) as error:  # not JSON, or not what Optuna writes
                advice = "move it away: it is written again from the records"
                raise must("journal", "be one that Optuna wrote", f"{journal} ({error})", advice) from None
        made = database.address(url)
        try:
            # The options are copied: Optuna changes those for MySQL.
            return RDBStorage(made.render_as_string(hide_password=False), engine_kwargs=database.engine_options(made))
        except Exception as error:  # SQLAlchemy and the driver raise errors of many types
            if database.is_lost(error) and not url.startswith("sqlite"):
                raise  # the caller tries again
            raise database.cannot_open(url, error) from None


class Search:
    """The search of one method. Callers hold the lock of the study for every call except `Trial.stops`.

    Where the database, at `url`, does not answer, `Trial.stops` tries again; all other calls raise, and may be repeated.
    """

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
        *,
        name: str,
        suite: str,
        method: str,
        space: Space,
        first_trials: Sequence[Parameters] = (),
        url: str | None = None,
    ) -> None:
        with _quiet():
            self._distributions = _distributions(space)
        self._storage, self._name, self._suite, self._method = storage, name, suite, method
        self._space, self._first_trials, self._url = space, first_trials, url
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
        """Make the storage agree with the records.

        A trial that no process runs any more is marked as failed, and the next trial with its number gets its parameters.
        A trial that was recorded but not stored is added from its record.

        Args:
            records: The records of the method's trials, by number.
            runs: Returns True if a process runs the trial with this number.
        """
        from optuna.trial import TrialState

        with _quiet():
            self._find()
            while any(one.state == TrialState.WAITING for one in self._study.get_trials(deepcopy=False)):
                self._study.tell(self._study.ask(), state=TrialState.FAIL)
            known: set[int] = set()
            unknown = busy = False
            for one in self._study.get_trials(deepcopy=False):
                number = int(one.user_attrs.get(_NUMBER, -1))
                record = records.get(number)
                agrees = record is not None and number not in known and self._parameters(one) == record.params
                if one.state == TrialState.RUNNING:
                    if record is None and number >= 0 and runs(number):
                        busy = True
                    else:
                        self._study.tell(one.number, state=TrialState.FAIL)
                elif one.state in (TrialState.COMPLETE, TrialState.PRUNED):
                    unknown = unknown or not agrees
                    known.add(number)
            if unknown:
                self._restart(busy)
                known.clear()
            self._add(record for number, record in sorted(records.items()) if number not in known)

    def _find(self) -> None:
        """Open the search again if another process has restarted it."""
        try:
            self._study.get_trials(deepcopy=False)
        except KeyError:
            self._open()

    def _restart(self, busy: bool) -> None:
        """Empty the storage, because it holds trials that are not recorded."""
        import optuna

        if busy:
            advice = "wait until they are done and run the study again"
            law = f"hold all trials of {self._method} that its storage does, while other processes work on it"
            raise must("results", law, "fewer", advice)
        optuna.delete_study(study_name=self._name, storage=self._storage)
        self._open()

    def _add(self, records: Iterator[Record]) -> None:
        for record in records:
            if record.state != "failed":  # failed trials inform neither the sampler nor the pruner
                self._study.add_trial(_as_trial(record, self._distributions, pruned=record.state == "pruned"))

    def _tell(self, trial: optuna.Trial, record: Record) -> None:
        from optuna.trial import TrialState

        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        value = record.value if record.state == "complete" else None
        with contextlib.suppress(KeyError):  # another process has restarted the search, and `settle` adds the record
            self._study.tell(trial, value, state=states[record.state], skip_if_finished=True)

    def begin(self, number: int) -> Trial:
        """Start the trial with this number; it keeps its parameters if it was started before.

        Trial 0 has the published values, and those after it the same with what `first_trials` changes.
        """
        with _quiet():
            kept = self._kept(number)
            seed = draws.seed_for("study", self._suite, number)
            self._study.sampler = _sampler(seed, models=number >= STARTUP_TRIALS)
            if kept is not None:
                self._study.enqueue_trial(kept, user_attrs={_NUMBER: number, _PARAMETERS: kept}, skip_if_exists=False)
            trial = self._study.ask(fixed_distributions=self._distributions)
            if kept is None:  # set last, so that a trial with a number has all its parameters
                trial.set_user_attr(_NUMBER, number)
        parameters = {name: trial.params[name] for name in self._space}
        return Trial(trial=trial, number=number, parameters=parameters, url=self._url)

    def _kept(self, number: int) -> dict[str, Parameter] | None:
        for one in self._study.get_trials(deepcopy=False):
            if one.user_attrs.get(_NUMBER) == number and self._parameters(one).keys() == self._space.keys():
                return self._parameters(one)
        first: tuple[Parameters, ...] = ({}, *self._first_trials)
        return defaults(self._space) | dict(first[number]) if number < len(first) else None

    def _parameters(self, one: optuna.trial.FrozenTrial) -> dict[str, Parameter]:
        return dict(one.user_attrs.get(_PARAMETERS, one.params))

    def end(self, trial: Trial, record: Record) -> None:
        """Store the result of a trial."""
        with _quiet():
            self._tell(trial.trial, record)


class Trial:
    """A running trial: its number, its parameters, and the decision to stop it."""

    def __init__(self, *, trial: optuna.Trial, number: int, parameters: Parameters, url: str | None = None) -> None:
        self.trial, self.number, self.parameters, self._url = trial, number, dict(parameters), url

    def stops(self, epoch: int, value: float) -> bool:
        """Return True if a trial with this value of the metric after this epoch should stop. Every method has the same rule."""
        return database.persist(
            lambda: self._stops(epoch, value), self._url, reset=self.trial.study._storage.remove_session
        )

    def _stops(self, epoch: int, value: float) -> bool:
        from optuna.exceptions import UpdateFinishedTrialError

        with _quiet():
            try:
                self.trial.report(value, epoch)
                return self.trial.should_prune()
            except (UpdateFinishedTrialError, KeyError):  # its claim has ended, and another process runs it too
                return False


def _as_trial(record: Record, distributions: Mapping[str, Any], *, pruned: bool) -> optuna.trial.FrozenTrial:
    from optuna.trial import TrialState, create_trial

    return create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=record.value,
        params={name: record.params[name] for name in distributions},
        distributions=dict(distributions),
        user_attrs={_NUMBER: record.number},
        intermediate_values=dict(record.curve),
    )


def importances(records: Sequence[Record], space: Space) -> dict[str, float | None]:
    """Return the importance of each parameter of a method, by fANOVA.

    Args:
        records: The records of one method under one protocol.
        space: Its search space.

    Returns:
        The share of the explained variance of the metric on the validation set, by parameter; shares add up to
        1. None for a parameter that had the same value in all complete trials; None for all parameters if fewer than four
        trials are complete or all have the same value. With few trials the shares are rough.

    Raises:
        InputError: the records belong to several methods or protocols.

    References:
        Hutter, Hoos, Leyton-Brown, "An efficient approach for assessing hyperparameter importance", 2014.
    """
    trials = sorted((one for one in records if one.kind == "trial"), key=lambda one: one.number or 0)
    if len({(one.protocol, one.method) for one in trials}) > 1:
        names = ", ".join(sorted({one.method for one in trials}))
        raise must("records", "be of one method under one protocol", names)
    complete = [one for one in trials if one.state == "complete" and space.keys() <= one.params.keys()]
    shares: dict[str, float | None] = dict.fromkeys(space)
    varied = [name for name in space if len({one.params[name] for one in complete}) > 1]
    if len(complete) < FEWEST_FOR_IMPORTANCE or len({one.value for one in complete}) < 2 or not varied:
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
