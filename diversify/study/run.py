"""A study from its first trial to its last final run: who runs what, what is recorded, and how it goes on after an interruption.

The file of records is the truth. Whoever asks for work, under one lock, gets the first trial that is neither recorded nor
claimed, or a final run of a method whose trials are all recorded. A claim is a lock, gone with the process that holds it, so
that nothing is ever left to be cleared away, and every run is recorded once. A run of many minutes also keeps its state beside
the records, and goes on from it where the same code takes the same run up again.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import must
from ..files import locks
from .ledger import Ledger, Step, require_same
from .records import require_results_file
from .study import Study
from .tune import require_storage
from .workers import work_on, work_together

# The study


def run_study(study: Study) -> Iterator[Step]:
    """Run what is not recorded yet; yields how far each method is, then one step per record, written when it is yielded.

    It may be stopped at any moment and called again: with one worker the records are then the same as without a stop,
    times aside; with several their number is.

    Raises:
        InputError: the file holds records of another study, a method is unknown, the data cannot be had, the finals are of
            a trial that is no longer the best, or a final run ended in an error, when all others are recorded.
    """
    require_results_file(study.results)
    require_storage(study.storage)
    if study.workers < 1:
        raise must("--workers", "be at least 1", study.workers)
    if study.workers > 1 and not locks.KNOWS_LOCKS:
        raise must("--workers", "be 1 on a system without file locks", study.workers)
    ledger = Ledger(study)
    ledger.follower.look()
    study.methods  # noqa: B018 - said before anything is loaded
    require_same(study, ledger.follower)
    yield from map(ledger.step, study.protocol.methods)
    if not ledger.left():
        for error in filter(None, map(ledger.outdated, study.protocol.methods)):
            raise error
        return
    if study.workers > 1 and study.download:
        study.made.load(study.protocol, root=study.root, device=study.device, download=True)  # by one, before all
    made = work_on(study) if study.workers == 1 else work_together(study, ledger)
    for known, record in made:
        if record.method in study.protocol.methods:
            yield known.step(record.method, record)
