"""Run a study, from its first trial to its last final run, with any number of interruptions.

The file of records is the only source of truth. A process that asks for work, under one lock, gets the first trial that is
neither recorded nor claimed, or a final run of a method whose trials are all recorded. A claim is a lock that disappears with
its process, so nothing has to be cleaned up, and every run is recorded once. A long run also saves its state beside the
records, and is resumed from it if the same code runs it again. Where machines share a study through a database, the records and
the claims are there, and the file is a copy: see `shared.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import must
from ..files import locks, staging
from .database import require_answer, require_storage
from .ledger import Ledger, Step, require_same
from .records import require_results_file
from .shared import Shared, require_shared
from .study import Study
from .workers import work_on, work_together


def run_study(study: Study) -> Iterator[Step]:
    """Run all trials and final runs that are not recorded yet.

    The study may be stopped at any time and resumed by another call. With one worker the records are then the same as
    without a stop, except for times; with several workers their number is the same.

    Args:
        study: The study.

    Yields:
        One step per method with its progress so far, then one step per new record, which is already written.

    Raises:
        InputError: the file holds records of another study, a method is unknown, the runner does not measure the metric,
            the data are not available or do not fit the metric, final runs
            belong to a trial that is no longer the best, a final run failed (raised after all others are recorded), or the
            database cannot be opened or does not answer any more.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from diversify.study import Protocol, Study, run_study
        >>> protocol = Protocol(suite="mine", data="digits", methods=("ce",))
        >>> steps = run_study(Study(protocol=protocol, results=Path(tempfile.mkdtemp()) / "results.jsonl"))
        >>> first = next(steps)  # nothing has been trained yet
        >>> first.method, first.done, first.total
        ('ce', 0, 7)
    """
    require_results_file(study.results)
    require_storage(study.storage)
    require_shared(study.shared, study.storage)
    if study.workers < 1:
        raise must("workers", "be at least 1", study.workers)
    if study.workers > 1 and not locks.KNOWS_LOCKS:
        raise must("workers", "be 1 on a system without file locks", study.workers)
    ledger = Ledger(study)
    ledger.follower.look()
    if study.protocol.metric != "balanced" and not study.made.measures:
        raise must("metric", "be balanced with this runner, which measures nothing else", study.protocol.metric)
    study.methods  # noqa: B018 - an unknown method is an error before anything is loaded
    require_same(study, ledger.follower)
    if study.shared is not None:
        require_answer(study.storage)
        with locks.Locks(study.lock) as local, Shared(study, local) as shared:
            shared.receive(ledger.follower)
        require_same(study, ledger.follower)
    yield from map(ledger.step, study.protocol.methods)
    if not ledger.left():
        for error in filter(None, map(ledger.outdated, study.protocol.methods)):
            raise error
        return
    staging.require_appendable(study.results, "results")
    if study.shared is None:
        require_answer(study.storage)
    if study.workers > 1 and study.download:
        study.made.load(study.protocol, root=study.root, device=study.device, download=True)  # once, before all workers
    made = work_on(study) if study.workers == 1 else work_together(study, ledger)
    for known, record in made:
        if record.method in study.protocol.methods:
            yield known.step(record.method, record)
