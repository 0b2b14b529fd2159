"""One of several processes on the command line: which errors are its own, and what runs in one process."""

import pytest

from diversify.cli import launched as cli
from diversify.runtime import launched


class Together(launched.Launched):
    """A process whose others are never seen."""

    left: int | None = None

    def ends_first(self, code: int) -> bool:
        return True

    def leave_with(self, code: int) -> int:
        self.left = code
        return code


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Together:
    member = Together(0, 2, store=None)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(launched, "_launched", member)
    monkeypatch.setattr(launched, "join", lambda: member)
    return member


def test_an_error_that_only_names_a_socket_is_shown_whole_and_the_process_leaves_with_the_others(
    together: Together, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: object) -> int:
        raise RuntimeError("no nccl_socket.png in the folder of gloo")

    monkeypatch.setattr(cli, "_checked", fail)
    assert cli.run(["train"]) == 1
    assert together.left == 1
    errors = capfd.readouterr().err
    assert "Traceback" in errors
    assert "no nccl_socket.png in the folder of gloo" in errors
    assert "lost the connection" not in errors


def test_features_are_refused_in_several_processes_however_they_are_typed(
    together: Together, capfd: pytest.CaptureFixture[str]
) -> None:
    for typed in (["--features", "a.npz", "b.npz"], ["--features=a.npz", "b.npz"], ["--multilabel"]):
        assert cli.run(["diagnose", *typed, "--out", "run"]) == 2
        line = f"error: diversify diagnose {typed[0].split('=')[0]} must run in one process"
        assert line in capfd.readouterr().err
