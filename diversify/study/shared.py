"""A study that several machines share through a PostgreSQL database: its records, its claims and its lock are there.

Each machine has a file of records of its own, which is a copy of the records in the database, in the same order. A claim is a
row that its process renews. The clock of the server decides when a claim has ended, so clocks of the machines do not matter,
and a restart of the server ends no claim.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from ..errors import must
from ..files import digests
from ..files.locks import Locks
from . import database
from .ledger import differences
from .records import Follower, Record, append_record, as_json, fixed_in, fixed_of, parse_record
from .study import Study

if TYPE_CHECKING:
    import sqlalchemy

LEASE = 60.0
"""Seconds after which a claim that is not renewed has ended, and another process may take the run."""

BEAT = 10.0  # seconds between two renewals
HANGS = 120  # seconds after which the server ends the connection of a process that holds the lock and does nothing
LONGEST_NAME = 100

_DESK = "desk"
_PRESENT = "process "  # with the owner: the row that says that a process works on the study

_TABLES = {
    "diversify_studies": "study text PRIMARY KEY, sidecar text NOT NULL",
    "diversify_records": "position bigserial, study text NOT NULL, run text NOT NULL, line text NOT NULL,"
    " PRIMARY KEY (study, run)",
    "diversify_claims": "study text NOT NULL, run text NOT NULL, owner text NOT NULL, beat timestamptz NOT NULL,"
    " PRIMARY KEY (study, run)",
}
_HOLDS = (  # is there if the session that answers has the lock
    "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted"
    " AND (CAST(classid AS bigint) << 32) + CAST(objid AS bigint) = :key AND objsubid = 1"
)
_ENDED = (  # after a restart of the server, processes have time to renew their claims
    "greatest({0}beat, pg_postmaster_start_time()) < clock_timestamp() - make_interval(secs => :lease)"
)


def require_shared(name: str | None, storage: str | None) -> None:
    """Check the name under which machines share a study, and that there is a database for it.

    Raises:
        InputError: The name is empty, too long or cannot be printed, or the storage is not a PostgreSQL database.

    Example:
        >>> require_shared("digits", "sqlite:///study.db")
        Traceback (most recent call last):
        diversify.errors.InputError: storage must be a PostgreSQL database for shared=digits, got 'sqlite:///study.db'
    """
    if name is None:
        return
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise must("shared", f"be a name of 1 to {LONGEST_NAME} characters", repr(name))
    if not database.is_postgresql(storage):
        got = "none" if storage is None else repr(database.shown(storage))
        raise must("storage", f"be a PostgreSQL database for shared={name}", got)


class Shared:
    """The part of a study that is in the database; it takes the place of `Locks` where machines share a study.

    Args:
        study: The study; its `shared` is the name in the database.
        local: The locks of the processes on this machine, which share the file of records.

    Raises:
        StorageError: The database refuses to keep the study.
    """

    def __init__(self, study: Study, local: Locks) -> None:
        require_shared(study.shared, study.storage)
        import sqlalchemy

        self._study, self._local, self._name = study, local, str(study.shared)
        made = database.address(str(study.storage))
        options = database.engine_options(made) | {"pool_pre_ping": False, "poolclass": sqlalchemy.NullPool}
        self._engine = sqlalchemy.create_engine(made, isolation_level="AUTOCOMMIT", **options)
        self._owner = secrets.token_hex(8)
        self._connection: sqlalchemy.Connection | None = None  # while this process holds the lock
        self._held: set[str] = set()
        self._others: set[str] = set()  # runs claimed by other processes, as of the moment when the lock was taken
        self._seen = 0  # the last position that was read
        self._ended = threading.Event()
        database.persist(self._prepare, study.storage)
        self._beats = threading.Thread(target=self._renew, name="claims", daemon=True)
        self._beats.start()

    def _prepare(self) -> None:
        with self._engine.connect() as connection:
            key = self._lock(connection, "diversify tables")
            with self._engine.connect() as other:
                if _execute(other, f"SELECT pg_advisory_unlock(:key) FROM ({_HOLDS}) AS held", key=key):
                    raise self._no_sessions()
            for table, columns in _TABLES.items():  # IF NOT EXISTS asks for the right to make tables that are there
                if not _execute(connection, "SELECT 1 WHERE to_regclass(:table) IS NOT NULL", table=table):
                    _execute(connection, f"CREATE TABLE {table} ({columns})")
        with self.alone(_DESK):
            ended = f"DELETE FROM diversify_claims WHERE study = :study AND {_ENDED.format('')}"
            self._run(ended, lease=LEASE)
            self.take(_PRESENT + self._owner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up all claims of this process."""
        self._ended.set()
        self._beats.join(database.LONGEST_PAUSE)
        with contextlib.suppress(Exception), self._engine.connect() as connection:  # else they end by themselves
            query = "DELETE FROM diversify_claims WHERE study = :study AND owner = :owner"
            self._run(query, on=connection, owner=self._owner)

    def _renew(self) -> None:
        """Renew all claims, and the row of this process, also where they ended and another process has removed them."""
        query = (
            "INSERT INTO diversify_claims AS old (study, run, owner, beat)"
            " SELECT :study, run, :owner, clock_timestamp() FROM unnest(CAST(:runs AS text[])) AS run"
            " ON CONFLICT (study, run) DO UPDATE SET beat = excluded.beat WHERE old.owner = excluded.owner"
        )
        while not self._ended.wait(BEAT):
            with contextlib.suppress(Exception), self._engine.connect() as connection:  # the next may succeed
                self._run(query, on=connection, owner=self._owner, runs=list(self._held))

    # The lock

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Wait until no other process of the study, on any machine, is in such a block, then run the block.

        The lock belongs to one connection, and everything that is written in the block goes through it: a process that has
        lost the lock cannot write.
        """
        with self._local.alone(name), self._engine.connect() as connection:
            self._lock(connection, f"diversify study {self._name}")
            self._connection = connection
            try:
                where = f"owner <> :owner AND NOT {_ENDED.format('')}"
                claims = self._run(
                    f"SELECT run FROM diversify_claims WHERE study = :study AND {where}",
                    owner=self._owner,
                    lease=LEASE,
                )
                self._others = {run for (run,) in claims}
                yield
            finally:
                self._connection = None

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Keep the lock while the block, within one of `alone`, asks the server much, but not through the lock's connection.

        The server would take such a process for one that hangs.
        """
        done = threading.Event()

        def tell(connection: sqlalchemy.Connection) -> None:
            while not done.wait(BEAT):
                with contextlib.suppress(Exception):  # the query after the block fails, too
                    _execute(connection, "SELECT 1")

        teller = threading.Thread(target=tell, args=[self._connection], name="lock", daemon=True)
        teller.start()
        try:
            yield
        finally:
            done.set()
            teller.join()
        self._run("SELECT 1")  # what was done without the lock is done again

    def _lock(self, connection: sqlalchemy.Connection, name: str) -> int:
        """Wait for an advisory lock, which ends with the connection, and return its number.

        The server soon ends a connection to a process that is gone.

        Raises:
            StorageError: The connection has no session of its own, so that the lock keeps nobody out.
        """
        settings = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
        settings["idle_session_timeout"] = HANGS * 1000  # PostgreSQL 14 and later; in milliseconds
        for setting, value in settings.items():
            query = "SELECT set_config(name, :value, false) FROM pg_settings WHERE name = :setting"
            _execute(connection, query, setting=setting, value=str(value))
        key = int(digests.digest_json(name)[:15], 16)
        _execute(connection, "SELECT pg_advisory_lock(:key)", key=key)
        if not _execute(connection, _HOLDS, key=key):
            raise self._no_sessions()
        return key

    def _no_sessions(self) -> database.StorageError:
        """Return the error for a pooler that gives the queries of one connection to several sessions of the server."""
        shown = database.shown(str(self._study.storage))
        law = "keep one session for each connection"
        advice = "a pooler must be in session mode; or give the address of the server itself"
        return database.storage_error("storage", law, f"another session for each query from {shown}", advice)

    def _run(self, query: str, *, on: sqlalchemy.Connection | None = None, **values: Any) -> list[Any]:
        """Execute a query within a block, or on a connection."""
        connection = on or self._connection
        assert connection is not None, "called outside of a block of `alone`"
        return _execute(connection, query, study=self._name, **values)

    # Claims, as in `Locks`; all but `close` are called within a block

    def take(self, name: str) -> bool:
        """Claim a run if it is free; return whether it was."""
        if name in self._held or name in self._others:
            return False
        taken = self._run(
            "INSERT INTO diversify_claims AS old (study, run, owner, beat)"
            " VALUES (:study, :run, :owner, clock_timestamp()) ON CONFLICT (study, run)"
            " DO UPDATE SET owner = excluded.owner, beat = excluded.beat"
            f" WHERE old.owner = excluded.owner OR {_ENDED.format('old.')} RETURNING run",
            run=name,
            owner=self._owner,
            lease=LEASE,
        )
        (self._held if taken else self._others).add(name)  # not taken: a late process has just renewed its claim
        return bool(taken)

    def free(self, name: str) -> None:
        """Give up a claim; one that another process has taken over stays."""
        self._held.discard(name)
        query = "DELETE FROM diversify_claims WHERE study = :study AND run = :run AND owner = :owner"
        self._run(query, run=name, owner=self._owner)

    def is_taken(self, name: str) -> bool:
        """Return whether some process, this one included, has the claim."""
        return name in self._held or name in self._others

    def is_sole(self) -> bool:
        """Return whether no other process works on the study."""
        return not any(run.startswith(_PRESENT) for run in self._others)

    # Records

    def receive(self, follower: Follower) -> None:
        """Append to the file the records that it lacks, before any work.

        Raises:
            InputError: The study in the database has another protocol, or another record of one run.
        """

        def receive() -> None:
            with self.alone(_DESK):
                if self.sidecar():
                    self.pull(follower)

        database.persist(receive, self._study.storage)

    def begin(self, follower: Follower) -> None:
        """Give the database the records of the file that it lacks, and the file those of the database.

        Raises:
            InputError: The file and the database have different records of one run.
        """
        self.pull(follower)
        query = "SELECT run FROM diversify_records WHERE study = :study"
        known = {run for (run,) in self._run(query)}
        for record in list(follower.records.values()):
            if _run_of(record) not in known:
                self.push(record)
        self.pull(follower)

    def push(self, record: Record) -> None:
        """Record a run in the database, once."""
        line = json.dumps(as_json(record), ensure_ascii=False, allow_nan=False)
        query = "INSERT INTO diversify_records (study, run, line) VALUES (:study, :run, :line) ON CONFLICT DO NOTHING"
        self._run(query, run=_run_of(record), line=line)

    def pull(self, follower: Follower) -> None:
        """Append to the file the records that it lacks, in their order.

        Raises:
            InputError: The file and the database have different records of one run.
        """
        follower.look()
        query = (
            "SELECT position, line FROM diversify_records WHERE study = :study AND position > :seen ORDER BY position"
        )
        for position, line in self._run(query, seen=self._seen):
            record = parse_record(line, f"record of study {self._name!r} in storage")
            there = follower.records.get(record.key)
            if there is None:
                append_record(follower.path, record)
            elif there != record:
                subject = f"{record.kind} {record.key[-1]} of {record.method} in {follower.path}"
                law = f"be that of study {self._name!r} in storage"
                raise must(subject, law, "another record", "choose another file, or another name")
            self._seen = position
        follower.look()

    def sidecar(self) -> dict[str, Any]:
        """Return what the file beside the records holds, as it is in the database; empty before the first run.

        Raises:
            InputError: The study in the database has another protocol, and records or other processes.
        """
        found = self._run("SELECT sidecar FROM diversify_studies WHERE study = :study")
        kept = dict(json.loads(found[0][0])) if found else {}
        then = kept.get("protocol")
        if then and fixed_in(then) != fixed_of(self._study.protocol):
            if self.is_sole() and not self._run("SELECT 1 FROM diversify_records WHERE study = :study LIMIT 1"):
                return {}
            differ = differences(self._study.protocol, then)
            law, advice = "belong to one protocol", "choose another name"
            raise must(f"study {self._name!r} in storage", law, differ, advice)
        return kept

    def keep(self, sidecar: Mapping[str, Any]) -> None:
        """Write what the file beside the records holds to the database."""
        query = (
            "INSERT INTO diversify_studies (study, sidecar) VALUES (:study, :sidecar)"
            " ON CONFLICT (study) DO UPDATE SET sidecar = excluded.sidecar"
        )
        self._run(query, sidecar=json.dumps(sidecar))


def _run_of(record: Record) -> str:
    return json.dumps(record.key)


def _execute(connection: sqlalchemy.Connection, query: str, **values: Any) -> list[Any]:
    import sqlalchemy

    found = connection.execute(sqlalchemy.text(query), values)
    return list(found) if found.returns_rows else []
