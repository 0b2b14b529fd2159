"""The library asks no other machine: not when it is imported, and not while it diagnoses, plans, repairs, trains and reports."""

import functools
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import offline
import pytest


def isolated() -> list[str]:
    """The words that start a command without a network, where the system allows it."""
    words = ["unshare", "--map-root-user", "--net"]
    try:
        works = subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        works = False
    return words if works else []


def test_an_attempt_is_refused_and_kept() -> None:
    try:
        for ask in (
            functools.partial(socket.create_connection, ("192.0.2.1", 80)),
            functools.partial(socket.getaddrinfo, "example.org", 80),
        ):
            with pytest.raises(offline.OtherMachineError):
                ask()
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen("https://example.org")
        assert len(offline.attempts) == 3
    finally:
        offline.attempts.clear()


def test_this_machine_may_be_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        assert not offline.attempts


@pytest.mark.slow
def test_a_whole_flow_needs_no_network(tmp_path: Path) -> None:
    environment, log = offline.offline_environment(tmp_path)
    environment.pop("NO_ALBUMENTATIONS_UPDATE", None)
    command = [*isolated(), sys.executable, str(Path(__file__).parent / "offline_flow.py"), str(tmp_path)]
    flow = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert not log.exists(), log.read_text()
    assert flow.returncode == 0, flow.stderr[-3000:]
    assert (tmp_path / "done").exists()
    assert all((tmp_path / name).exists() for name in ("plan.json", "remedy", "report", "network", "again"))


@pytest.mark.slow
def test_a_process_that_asks_is_found_even_if_it_hides_the_error(tmp_path: Path) -> None:
    environment, log = offline.offline_environment(tmp_path)
    hidden = "try: urllib.request.urlopen('https://example.org')\nexcept OSError: pass"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {'import urllib.request' + chr(10) + hidden!r}], check=True)"
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert "example.org" in log.read_text()
