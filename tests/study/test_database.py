"""The address of a study's database: errors of one line without the password, and patience while it does not answer."""

import importlib.util
import itertools
import time

import pytest
import sqlalchemy

from diversify.errors import InputError
from diversify.study import database
from diversify.study.shared import require_shared

SECRET = "s3cret"
no_psycopg = pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason="psycopg is not installed")


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ann:{SECRET}@host/studies",
        f"postgresql+psycopg://ann:{SECRET}@host:5432/studies?sslmode=require",
        f"postgresql://ann:1@{SECRET}@host/studies",
        f"postgresql://ann:{SECRET}/{SECRET}@host/studies",
        f"postgresql://host/studies?user=ann&password={SECRET}&sslmode=require",
        f"postgres://ann:{SECRET}@host/studies",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    assert SECRET not in database.shown(url)
    assert "host" in database.shown(url)


def test_errors_name_what_is_wrong_with_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError) as caught:
        database.require_storage(f"postgres://ann:{SECRET}@host/studies")
    assert str(caught.value).startswith("storage must be one of sqlite://..., postgresql://..., mysql://..., got 'pos")
    assert SECRET not in str(caught.value)
    for url in (f"postgresql://ann:a@{SECRET}@host/studies", f"postgresql://ann:{SECRET}@host:port/studies"):
        with pytest.raises(InputError, match="^storage must be an address of the form postgresql://USER") as caught:
            database.address(url)
        assert SECRET not in str(caught.value)
    with pytest.raises(InputError, match=r"^storage must name a driver that SQLAlchemy has, got 'postgresql\+psy://h"):
        database.address("postgresql+psy://host/studies")

    def missing() -> None:
        raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")

    from sqlalchemy.dialects.postgresql import psycopg

    monkeypatch.setattr(psycopg.dialect, "import_dbapi", staticmethod(missing))
    message = (
        r"^storage must have its driver installed, got 'postgresql\+psycopg://ann:\*\*\*@host/studies' \(no psycopg\);"
    )
    with pytest.raises(InputError, match=message) as caught:
        database.address(f"postgresql+psycopg://ann:{SECRET}@host/studies")
    assert str(caught.value).endswith("pip install 'diversify-imbalance[postgresql]'")


@no_psycopg
def test_the_driver_is_chosen_and_told_to_give_up_in_time() -> None:
    made = database.address("postgresql://ann@host/studies?connect_timeout=3")
    assert made.drivername == "postgresql+psycopg"
    options = database.engine_options(made)
    assert options["pool_pre_ping"]
    assert "connect_timeout" not in options["connect_args"]  # the address has one
    assert options["connect_args"]["keepalives_idle"] == 30


@no_psycopg
def test_a_server_that_is_down_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError) as caught:
        database.require_answer(f"postgresql://ann:{SECRET}@127.0.0.1:1/studies")
    message = str(caught.value)
    assert message.startswith(
        "storage must be a database that can be opened, got 'postgresql://ann:***@127.0.0.1:1/studies'; "
    )
    assert "refused" in message
    assert SECRET not in message


def lost() -> Exception:
    return sqlalchemy.exc.OperationalError("SELECT 1", {}, OSError("terminating connection"))


def test_an_action_is_repeated_until_the_database_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))

    def action() -> str:
        calls.append(clock[0])
        if len(calls) == 3:
            raise ValueError("what Optuna raises") from lost()
        if len(calls) < 9:
            raise lost()
        return "done"

    with pytest.warns(UserWarning, match=r"\*\*\*@host/x does not answer \(terminating connection\); trying again for"):
        assert database.persist(action, f"postgresql://ann:{SECRET}@host/x") == "done"
    waits = [round(after - before, 1) for before, after in itertools.pairwise(calls)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0]

    def never() -> None:
        raise lost()

    with pytest.warns(UserWarning, match="does not answer"), pytest.raises(InputError) as caught:
        database.persist(never, f"postgresql://ann:{SECRET}@host/x")
    assert str(caught.value) == (
        "storage postgresql://ann:***@host/x must answer within 600 seconds, got terminating connection;"
        " run the study again to resume it"
    )


@pytest.mark.parametrize("url", [None, "sqlite:///study.db", "postgresql://host/x"])
def test_an_error_that_waiting_does_not_mend_is_raised_at_once(url: str | None) -> None:
    calls = []

    def action() -> None:
        calls.append(1)
        raise lost() if url is None or url.startswith("sqlite") else sqlalchemy.exc.ProgrammingError("x", {}, OSError())

    raised = database.StorageError if url is not None and url.startswith("postgresql") else sqlalchemy.exc.DBAPIError
    with pytest.raises(raised):
        database.persist(action, url)
    assert len(calls) == 1


def test_what_is_shared_has_a_name_and_a_server() -> None:
    require_shared(None, None)
    require_shared("digits", "postgresql://host/x")
    for name in ("", " ", "a\nb", "a" * 101):
        with pytest.raises(InputError, match="^shared must be a name of 1 to 100 characters, got "):
            require_shared(name, "postgresql://host/x")
    for url, got in (
        (None, "none"),
        ("sqlite:///x", "'sqlite:///x'"),
        (f"mysql://a:{SECRET}@h/x", "'mysql://a:***@h/x'"),
    ):
        with pytest.raises(InputError) as caught:
            require_shared("digits", url)
        assert str(caught.value) == f"storage must be a PostgreSQL database for shared=digits, got {got}"
