"""A PostgreSQL server of the tests' own: a private cluster on a free loopback port, run by a user who is not root."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

USER, PASSWORD = "owner", "s3cret-word"


def programs() -> Path | None:
    """The folder of PostgreSQL's server programs; Debian keeps them off the path."""
    found = shutil.which("pg_ctl")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda file: int(file.parts[-3]))
    return versions[-1].parent if versions else None


def why_not() -> str:
    """Why no server can be had here; empty if one can."""
    if programs() is None:
        return "PostgreSQL's server is not installed"
    if find_spec("psycopg") is None:
        return "psycopg is not installed"
    return "" if _user() is not None or os.geteuid() else "no user but root, which PostgreSQL refuses"


def _user() -> str | None:
    """Who runs the server where the tests are run by root."""
    if os.geteuid():
        return None
    known = {one.pw_name for one in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)


class Server:
    """A server with one database; `restart` and `stop` are those of `pg_ctl`."""

    def __init__(self, folder: Path) -> None:
        self._data, self._log = folder / "data", folder / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "password").write_text(PASSWORD)
        if user := _user():
            for path in (folder, folder / "password"):
                shutil.chown(path, user)
        login = ("--username", USER, "--pwfile", str(folder / "password"), "--auth", "scram-sha-256")
        self._do("initdb", "--pgdata", str(self._data), *login, "--encoding", "UTF8", "--no-locale")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._do("pg_ctl", "start", "-D", str(self._data), "-w", "-l", str(self._log), "-o", options)

    def stop(self, mode: str = "fast") -> None:
        self._do("pg_ctl", "stop", "-D", str(self._data), "-w", "-m", mode)

    def restart(self, mode: str) -> None:
        self._do("pg_ctl", "restart", "-D", str(self._data), "-w", "-l", str(self._log), "-m", mode)

    def rows(self, query: str) -> list[Any]:
        import sqlalchemy

        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            return list(connection.execute(sqlalchemy.text(query)))

    def execute(self, query: str) -> None:
        """Execute a query that returns no rows."""
        import sqlalchemy

        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(query))

    def _do(self, program: str, *arguments: str) -> None:
        folder = programs()
        assert folder is not None
        user = _user()
        who: dict[str, Any] = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
        # Not through pipes, which the server would inherit and keep open.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run([str(folder / program), *arguments], stdout=said, stderr=said, cwd="/", **who)
            said.seek(0)
            assert done.returncode == 0, said.read().decode()


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A server that is gone at the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    one = None
    try:
        one = Server(folder)
        yield one
    finally:
        if one is not None:
            with contextlib.suppress(AssertionError):  # it may be stopped
                one.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)
