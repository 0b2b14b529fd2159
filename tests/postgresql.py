"""A PostgreSQL server of the tests' own: a private cluster on a free loopback port, run by a user who is not root."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
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


def pgbouncer() -> str | None:
    """The program of the pooler; Debian keeps it where only root looks."""
    return shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")


def _user() -> str | None:
    """Who runs the server where the tests are run by root."""
    if os.geteuid():
        return None
    known = {one.pw_name for one in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)


def _who() -> dict[str, Any]:
    user = _user()
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _folder() -> Path:
    """A new folder that belongs to whoever runs the server."""
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    if user := _user():
        shutil.chown(folder, user)
    return folder


class Server:
    """A server with one database; `restart` and `stop` are those of `pg_ctl`."""

    def __init__(self, folder: Path) -> None:
        self._data, self._log = folder / "data", folder / "log"
        self.port = _free_port()
        (folder / "password").write_text(PASSWORD)
        if user := _user():
            shutil.chown(folder / "password", user)
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
        # Not through pipes, which the server would inherit and keep open.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run([str(folder / program), *arguments], stdout=said, stderr=said, cwd="/", **_who())
            said.seek(0)
            assert done.returncode == 0, said.read().decode()


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A server that is gone at the end of the block."""
    folder = _folder()
    one = None
    try:
        one = Server(folder)
        yield one
    finally:
        if one is not None:
            with contextlib.suppress(AssertionError):  # it may be stopped
                one.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def pooler(server: Server, mode: str) -> Iterator[str]:
    """The address of a pgbouncer in front of a server, in its session or transaction mode."""
    program, folder, port = pgbouncer(), _folder(), _free_port()
    assert program is not None
    (folder / "users").write_text(f'"{USER}" "{PASSWORD}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\npostgres = host=127.0.0.1 port={server.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\npool_mode = {mode}\n"
        f"auth_type = scram-sha-256\nauth_file = {folder / 'users'}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "pgbouncer.ini")], stdout=log, stderr=log, cwd="/", **_who())
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield server.url.replace(f":{server.port}/", f":{port}/")
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
