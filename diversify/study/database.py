"""The database of a study: its address, errors of one line without the password, and patience while it does not answer."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import InputError, must
from ..runtime import signals

if TYPE_CHECKING:
    import sqlalchemy

DATABASES = ("sqlite", "postgresql", "mysql")

PATIENCE = 600.0
"""Seconds for which a process tries again to reach a database that answered before."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds between two tries
SILENT = 2.0  # seconds without an answer before a warning says so

POSTGRESQL_DRIVERS = ("psycopg", "psycopg2")  # those that use libpq; the first that is installed is taken
INSTALL = "pip install 'diversify-imbalance[postgresql]'"

_LIBPQ = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""What libpq is told, so that a connection to a machine that is gone ends within a minute (in seconds, the last in ms)."""

_Result = TypeVar("_Result")


class StorageError(InputError):
    """The database of a study does not answer any more, or refuses what a study asks for; no run is to blame."""


def shown(url: str) -> str:
    """Return the address of a database without its password, for an error.

    Example:
        >>> shown("postgresql://ann:secret@db.example.org/studies")
        'postgresql://ann:***@db.example.org/studies'
    """
    hidden = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)([?&]password=)[^&]*", r"\1***", hidden)


def is_postgresql(url: str | None) -> bool:
    """Return True for the address of a PostgreSQL database, with any driver.

    Example:
        >>> is_postgresql("postgresql+psycopg://ann@db.example.org/studies"), is_postgresql("sqlite:///study.db")
        (True, False)
    """
    return url is not None and url.partition("://")[0].partition("+")[0] == "postgresql"


def require_storage(url: str | None) -> None:
    """Check the address of a database, without connecting to it.

    Raises:
        InputError: `url` is not the address of a supported database.

    Example:
        >>> require_storage("redis://here")
        Traceback (most recent call last):
        diversify.errors.InputError: storage must be one of sqlite://..., postgresql://..., mysql://..., got \
'redis://here'; for example sqlite:///study.db; leave it out for a journal beside the results
    """
    if url is not None and (url.partition(":")[0].partition("+")[0] not in DATABASES or "://" not in url):
        choices = ", ".join(f"{name}://..." for name in DATABASES)
        advice = "for example sqlite:///study.db; leave it out for a journal beside the results"
        raise must("storage", f"be one of {choices}", repr(shown(url)), advice)


def address(url: str) -> sqlalchemy.URL:
    """Return the address as SQLAlchemy takes it, with the driver for PostgreSQL that is installed.

    Raises:
        InputError: The address cannot be read, or its driver is unknown or not installed.
    """
    import sqlalchemy.exc

    require_storage(url)
    try:
        made = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        made = None
    if made is None or "@" in (made.host or ""):  # an error of the driver would show what follows the @
        advice = "write @ and / in a password as %40 and %2F"
        raise must(
            "storage",
            "be an address of the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
            repr(shown(url)),
            advice,
        )
    names: tuple[str, ...] = (made.drivername,)
    if made.drivername == "postgresql":
        names = tuple(f"postgresql+{driver}" for driver in POSTGRESQL_DRIVERS)
    missing: list[str] = []
    for name in names:
        one = made.set(drivername=name)
        try:
            one.get_dialect().import_dbapi()
        except sqlalchemy.exc.NoSuchModuleError:
            raise must(
                "storage", "name a driver that SQLAlchemy has", repr(shown(url)), "for example postgresql+psycopg"
            ) from None
        except ImportError as error:
            missing.append(error.name or str(error).splitlines()[0])
        else:
            return one
    advice = INSTALL if is_postgresql(url) else f"pip install {missing[0]}"
    raise must("storage", "have its driver installed", f"{shown(url)!r} (no {' and no '.join(missing)})", advice)


def engine_options(made: sqlalchemy.URL) -> dict[str, Any]:
    """Return the options of an engine that notices lost connections, and gives up on a machine that is gone."""
    if made.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": 60}}
    libpq = made.get_backend_name() == "postgresql" and made.get_driver_name() in POSTGRESQL_DRIVERS
    given = {name: value for name, value in _LIBPQ.items() if name not in made.query} if libpq else {}
    return {"pool_pre_ping": True, "connect_args": given}


def reason_of(error: BaseException) -> str:
    """Return the words of the driver for an error of the database, in one line."""
    found: BaseException | None = error
    while found is not None and not hasattr(found, "orig"):
        found = found.__cause__
    lines = str(getattr(found, "orig", None) or error).strip().splitlines()
    lines = [line.strip(" -\t") for line in lines if line.strip()]
    return next((line for line in lines if not line.endswith(":")), lines[0] if lines else type(error).__name__)


def cannot_open(url: str, error: BaseException) -> InputError:
    """Return the error for a database that cannot be opened, with the words of its driver."""
    return must("storage", "be a database that can be opened", repr(shown(url)), reason_of(error))


def cannot_keep(url: str, error: BaseException) -> StorageError:
    """Return the error for a database that answers, but refuses a query of a study, with the words of its driver.

    Example:
        >>> import sqlalchemy.exc
        >>> denied = sqlalchemy.exc.ProgrammingError("SELECT 1", {}, Exception("permission denied for table trials"))
        >>> str(cannot_keep("postgresql://ann:secret@host/x", denied)).partition(", got ")[2]
        "'postgresql://ann:***@host/x'; permission denied for table trials"
    """
    return storage_error("storage", "be a database that can keep a study", repr(shown(url)), reason_of(error))


def storage_error(*parts: str) -> StorageError:
    """Return the error with the message that `must` makes of these parts."""
    made = must(*parts)
    error = StorageError(str(made))
    error.parts = made.parts
    return error


def require_answer(url: str | None) -> None:
    """Connect once to a database on a server, so that a wrong address or password is found before any work.

    Raises:
        InputError: The database cannot be opened.
    """
    if url is None or url.startswith("sqlite"):
        return
    import sqlalchemy.exc

    made = address(url)
    engine = sqlalchemy.create_engine(made, **engine_options(made), poolclass=sqlalchemy.NullPool)
    try:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
    except (sqlalchemy.exc.SQLAlchemyError, UnicodeError) as error:
        raise cannot_open(url, error) from None


def is_lost(error: BaseException) -> bool:
    """Return True if an error, or what caused it, is that the database did not answer or ended the connection."""
    import sqlalchemy.exc

    found = _of_database(error)
    if isinstance(found, sqlalchemy.exc.DBAPIError):
        kinds = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)
        return found.connection_invalidated or isinstance(found, kinds)
    return found is not None  # its connection was lost in an earlier step


def _of_database(error: BaseException | None) -> sqlalchemy.exc.SQLAlchemyError | None:
    """Return the first of an error and its causes that tells what the database said; None if none does."""
    import sqlalchemy.exc

    while error is not None:
        if isinstance(error, sqlalchemy.exc.PendingRollbackError | sqlalchemy.exc.DBAPIError):
            return error
        error = error.__cause__
    return None


def persist(action: Callable[[], _Result], url: str | None, *, reset: Callable[[], None] | None = None) -> _Result:
    """Return the result of an action, which is repeated while the database does not answer.

    Args:
        action: What is done; a part of it may be done already when it is called again.
        url: The database. Without one, and with SQLite, the action is called once.
        reset: Gives up what is left of a lost connection, before the action is repeated.

    Raises:
        StorageError: The database did not answer for `PATIENCE` seconds, or it refused a query.
    """
    if url is None or url.startswith("sqlite"):
        return action()
    begun, pause, told = 0.0, SHORTEST_PAUSE, False
    while True:
        try:
            return action()
        except Exception as error:
            if _of_database(error) is None:
                raise
            if not is_lost(error):
                raise cannot_keep(url, error) from error
            now, reason = time.monotonic(), reason_of(error)
            begun = begun or now
            if now - begun > PATIENCE:
                law, advice = f"answer within {PATIENCE:.0f} seconds", "run the study again to resume it"
                raise storage_error(f"storage {shown(url)}", law, reason, advice) from None
        if not told and now - begun > SILENT:
            told = True
            note = f"storage {shown(url)} does not answer ({reason}); trying again for {PATIENCE / 60:.0f} minutes"
            warnings.warn(note, stacklevel=2)
        signals.stop_if_interrupted()
        time.sleep(pause)
        if reset is not None:
            reset()
        pause = min(2 * pause, LONGEST_PAUSE)
