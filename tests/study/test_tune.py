"""The search: the arguments that Optuna gets, the trials it proposes, and the importance of parameters."""

import contextlib
import inspect
import logging
import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import study_runner
from test_records import record_of

from diversify.errors import InputError
from diversify.files import locks as files_locks
from diversify.functional import draws
from diversify.study import tune
from diversify.study.protocol import Choice, Method, Range, Space
from diversify.study.records import Record

SPACE: Space = {
    "rate": Range(low=0.01, high=1.0, default=0.1, log=True),
    "layers": Range(low=1, high=4, default=2, integer=True),
    "kind": Choice(values=("a", "b"), default="b"),
    "fixed": Choice(values=(3,), default=3),
}


@pytest.fixture
def search(tmp_path: Path) -> tune.Search:
    with files_locks.Locks(tmp_path / "lock") as locks:
        kept = tune.open_storage(None, journal=tmp_path / "journal", locks=locks)
        yield tune.Search(kept, name="fake plain", suite="fake", method="plain", space=SPACE)


def ended(trial: tune.Trial, value: float | None, state: str = "complete") -> Record:
    recall = (0.5,) if state == "complete" else ()
    return record_of(
        number=trial.number,
        params=trial.parameters,
        state=state,
        balanced_accuracy=value,
        recall=recall,
        class_counts=(),
        curve=(),
    )


def test_first_trials_come_after_the_published_values(tmp_path: Path) -> None:
    changed = ({"kind": "a"}, {"rate": 0.5, "layers": 4})
    with files_locks.Locks(tmp_path / "lock") as locks:
        kept = tune.open_storage(None, journal=tmp_path / "journal", locks=locks)
        one, other = (
            tune.Search(kept, name=name, suite="fake", method="plain", space=SPACE, first_trials=its)
            for name, its in (("with", changed), ("without", ()))
        )
        first = {"rate": 0.1, "layers": 2, "kind": "b", "fixed": 3}
        assert [one.begin(number).parameters for number in range(3)] == [first, *(first | start for start in changed)]
        assert one.begin(3).parameters == other.begin(3).parameters  # drawn by its number
        assert other.begin(1).parameters != first | changed[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.1}, "first_trials of mine must hold parameters of its space, got learning_rate"),
        ({"kind": "z"}, "kind in the first_trials of mine must be one of a, b, got 'z'"),
        ({"rate": 7.0}, r"rate in the first_trials of mine must lie in \[0.01, 1\], got 7.0"),
        ("kind", "first_trials of mine must be a tuple of mappings, one per trial, got str in it"),
        ({"layers": 2.5}, r"layers in the first_trials of mine must be an integer in \[1, 4\], got 2.5"),
        ({"rate": True}, r"rate in the first_trials of mine must lie in \[0.01, 1\], got True"),
    ],
)
def test_first_trials_lie_in_the_space(changes: object, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        Method(name="mine", meaning="", source="", space=SPACE, first_trials=(changes,))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["TPESampler", "MedianPruner", "FanovaImportanceEvaluator"])
def test_every_default_of_optuna_is_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Another version may have other defaults. Deprecated arguments, and those that are None in every version, are exempt."""
    home = next(part for part in (optuna.samplers, optuna.pruners, optuna.importance) if hasattr(part, name))
    given: list[dict[str, object]] = []

    class Kept(getattr(home, name)):  # type: ignore[misc]
        def __init__(self, **options: object) -> None:
            given.append(options)
            super().__init__(**options)

    known = set(inspect.signature(getattr(home, name).__init__).parameters)
    known -= {"self", "consider_prior", "categorical_distance_func"}
    monkeypatch.setattr(home, name, Kept)
    with tune._quiet():
        tune._sampler(1)
        tune._pruner()
        tune.importances([trial_of(n, rate=0.01 * (n + 1), value=0.1 * n) for n in range(5)], SPACE)
    assert set(given[0]) == known


def test_published_values_are_as_they_are_recorded() -> None:
    assert tune.defaults(SPACE) == {"rate": 0.1, "layers": 2, "kind": "b", "fixed": 3}
    assert isinstance(tune.defaults(SPACE)["layers"], int)
    assert tune.describe_space(SPACE) == {
        "rate": [0.01, 1.0, "logarithmic"],
        "layers": [1, 4, "linear"],
        "kind": ["a", "b"],
        "fixed": [3],
    }


@pytest.mark.slow
def test_a_trial_depends_on_its_number_and_on_the_records_alone(search: tune.Search, tmp_path: Path) -> None:
    records: dict[int, Record] = {}
    for number in range(25):
        search.settle(records, lambda number: False)
        trial = search.begin(number)
        records[number] = ended(trial, 1 / (1 + abs(math.log10(float(trial.parameters["rate"])) + 0.5)))
        search.end(trial, records[number])
    assert len({str(record.params) for record in records.values()}) == 25
    with files_locks.Locks(tmp_path / "other.lock") as locks:
        kept = tune.open_storage(f"sqlite:///{tmp_path}/other.db", journal=tmp_path / "none", locks=locks)
        other = tune.Search(kept, name="another name", suite="fake", method="plain", space=SPACE)
        for number in (0, 1, 5, 12, 20, 24):
            other.settle({key: record for key, record in records.items() if key < number}, lambda number: False)
            assert other.begin(number).parameters == records[number].params
    late = [abs(math.log10(float(records[number].params["rate"])) + 0.5) for number in range(12, 25)]
    early = [abs(math.log10(float(records[number].params["rate"])) + 0.5) for number in range(12)]
    assert sorted(late)[6] < sorted(early)[6]  # the sampler has learned where the optimum is


def test_methods_are_tried_at_the_same_rates_while_the_search_is_random(search: tune.Search) -> None:
    others = []
    for method, more in (("plain", {}), ("tuned", {"tau": Range(low=0.0, high=2.0, default=1.0)})):
        kept = optuna.storages.InMemoryStorage()
        one = tune.Search(kept, name="s", suite="fake", method=method, space={**SPACE, **more})
        others.append([one.begin(number).parameters for number in range(4)])
    shared = [{name: trial[name] for name in SPACE} for trial in others[1]]
    assert shared == others[0]
    assert len({trial["tau"] for trial in others[1]}) == 4
    kept = optuna.storages.InMemoryStorage()
    elsewhere = tune.Search(kept, name="s", suite="another", method="plain", space=SPACE)
    assert [elsewhere.begin(number).parameters for number in range(4)][1:] != others[0][1:]


def test_a_trial_below_the_median_of_four_is_stopped(search: tune.Search) -> None:
    for number, value in enumerate((0.1, 0.2, 0.3, 0.4)):
        trial = search.begin(number)
        assert not trial.stops(5, value)  # there are too few trials to compare it with
        search.end(trial, ended(trial, value))
    assert search.begin(4).stops(5, 0.24)
    assert not search.begin(5).stops(5, 0.26)
    assert not search.begin(6).stops(7, 0.0)  # no such trial exists


def test_a_running_trial_of_another_process_is_left_alone(search: tune.Search) -> None:
    search.begin(0)
    running = search.begin(1)
    search.settle({}, lambda number: number == 1)
    assert not running.stops(5, 0.5)
    states = [one.state.name for one in search._study.trials]
    assert states == ["FAIL", "RUNNING"]
    search.settle({}, lambda number: False)
    again = search.begin(1)
    assert again.parameters == running.parameters
    assert [one.state.name for one in search._study.trials] == ["FAIL", "FAIL", "RUNNING"]


def test_a_storage_with_trials_that_have_no_record_is_begun_anew(search: tune.Search) -> None:
    trials = [search.begin(number) for number in range(3)]
    records = {trial.number: ended(trial, 0.5) for trial in trials}
    for trial in trials:
        search.end(trial, records[trial.number])
    del records[1]
    search.settle(records, lambda number: False)
    assert [one.user_attrs["number"] for one in search._study.trials] == [0, 2]
    records[0] = records[0].model_copy(update={"params": {**records[0].params, "rate": 0.5}})
    search.settle(records, lambda number: False)
    assert search._study.trials[0].params["rate"] == 0.5
    del records[2]
    search.begin(3)
    with pytest.raises(InputError, match="results must hold all trials of plain that its storage does"):
        search.settle(records, lambda number: True)


def test_a_torn_and_a_foreign_journal(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with files_locks.Locks(tmp_path / "lock") as locks:
        kept = tune.open_storage(None, journal=journal, locks=locks)
        tune.Search(kept, name="s", suite="fake", method="plain", space=SPACE).begin(0)
        with journal.open("ab") as file:
            file.write(b'{"op_code": 4, "wor')
        kept = tune.open_storage(None, journal=journal, locks=locks)
        search = tune.Search(kept, name="s", suite="fake", method="plain", space=SPACE)
        search.settle({}, lambda number: False)
        search.begin(0)
        assert [one.state.name for one in search._study.trials] == ["FAIL", "RUNNING"]
        journal.write_text("notes\n" * 3)
        with pytest.raises(InputError, match="journal must be one that Optuna wrote, got .*; move it away"):
            tune.open_storage(None, journal=journal, locks=locks)


def test_optuna_is_quiet_and_left_as_it_was(search: tune.Search, capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trial = search.begin(0)
        search.end(trial, ended(trial, 0.5))
    assert optuna.logging.get_verbosity() == before == logging.INFO
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_optuna_is_imported_when_a_study_is_run_and_not_before() -> None:
    program = (
        "import sys; import diversify, diversify.study.run, diversify.commands.options; from diversify.cli.entry import run;"
        " run(['--help']); run(['benchmark', '--help']); print('optuna' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip().endswith("False")


# Importance


def trial_of(number: int, *, value: float, **params: float | int | str) -> Record:
    full = {"rate": 0.1, "layers": 2, "kind": "b", "fixed": 3, **params}
    return record_of(number=number, params=full, balanced_accuracy=value)


def many(count: int = 30) -> list[Record]:
    records = []
    for number in range(count):
        rate = 10 ** (-2 * draws.number("rate", number))
        layers = 1 + int(4 * draws.number("layers", number))
        kind = "ab"[draws.number("kind", number) < 0.5]
        value = 0.3 + 0.2 * (2 + math.log10(rate)) + 0.02 * layers
        records.append(trial_of(number, value=value, rate=rate, layers=layers, kind=kind))
    return records


def test_the_parameter_that_decides_has_the_largest_share() -> None:
    shares = tune.importances(many(), SPACE)
    assert shares["fixed"] is None
    numbers = [share for share in shares.values() if share is not None]
    assert sum(numbers) == pytest.approx(1)
    assert shares["rate"] == max(numbers) > 0.8
    assert tune.importances(list(reversed(many())), SPACE) == shares


def test_shares_are_none_where_nothing_can_be_said() -> None:
    none = dict.fromkeys(SPACE)
    assert tune.importances(many(3), SPACE) == none
    assert tune.importances([], SPACE) == none
    assert tune.importances([trial_of(n, value=0.5, rate=0.01 * (n + 1)) for n in range(6)], SPACE) == none
    assert tune.importances([trial_of(n, value=0.1 * n) for n in range(6)], SPACE) == none
    stopped = [record_of(number=9, state="pruned", recall=(), params=many()[0].params)]
    assert tune.importances(many(3) + stopped, SPACE) == none


def test_importances_are_of_one_method() -> None:
    other = [one.model_copy(update={"method": "tuned"}) for one in many()]
    with pytest.raises(InputError, match="records must be of one method under one protocol, got plain, tuned"):
        tune.importances(many() + other, SPACE)


def test_spaces_of_a_protocol_can_be_searched() -> None:
    protocol = study_runner.protocol()
    for method in study_runner.METHODS.values():
        space = protocol.space_of(method)
        kept = optuna.storages.InMemoryStorage()
        search = tune.Search(kept, name="s", suite="fake", method=method.name, space=space)
        assert search.begin(0).parameters == tune.defaults(space)


def test_a_journal_that_cannot_be_opened_is_not_kept_locked(tmp_path: Path) -> None:
    taken: list[bool] = []

    class Watched(files_locks.Locks):
        @contextlib.contextmanager
        def alone(self, name: str) -> Iterator[None]:
            taken.append(True)
            try:
                yield
            finally:
                taken.append(False)

    with Watched(tmp_path / "lock") as locks:
        lock = tune._JournalLock(locks, tmp_path)  # a folder
        with pytest.raises(IsADirectoryError):
            lock.acquire()
        assert taken == [True, False]
