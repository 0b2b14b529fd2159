"""One of several processes on the command line: which errors are its own, and what runs in one process."""

import pytest

from diversify.cli import entry
from diversify.cli import launched as cli
from diversify.runtime import group, launched


class Together(launched.Launched):
    """A process whose others are never seen."""

    left: int | None = None
    of_other: int | None = None

    def code(self) -> int | None:
        return self.of_other

    def _wait_for(self, key: str, seconds: float | None) -> None:
        assert (key, seconds) == ("code", launched._TELLING_SECONDS)

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


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [(None, 0, ""), (7, 7, ""), ("no licence", 1, "no licence\n")],
    ids=["none", "code", "text"],
)
def test_an_end_that_the_users_code_asks_for_is_that_of_all(
    asked: object,
    code: int,
    said: str,
    together: Together,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(arguments: object) -> int:
        raise SystemExit(asked)

    monkeypatch.setattr(cli, "_checked", fail)
    assert cli.run(["train"]) == code
    assert together.left == code
    assert capfd.readouterr().err == said


@pytest.mark.parametrize(("code", "said"), [(1, ""), (None, "error: process 1 failed (ValueError: no such bird)\n")])
def test_a_process_that_was_told_of_an_error_leaves_it_to_the_one_that_failed(
    code: int | None,
    said: str,
    together: Together,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(*arguments: object, **options: object) -> int:
        raise group.ProcessFailedError("process 1 failed (ValueError: no such bird)")

    together.of_other = code
    monkeypatch.setattr(entry, "app", fail)
    monkeypatch.setattr(cli, "_checked", entry.run)
    assert cli.run(["train"]) == together.left == (code or 2)
    assert capfd.readouterr().err == said


def test_an_error_that_keeps_one_process_from_the_others_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def fail() -> Together:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(launched, "join", fail)
    monkeypatch.setattr(cli.signals, "keep_silent", lambda: said.append("silent"))
    monkeypatch.setattr(cli.signals, "speak_again", lambda: said.append("speaks"))
    with pytest.raises(RuntimeError, match="CUDA error"):
        cli.run(["train"])
    assert said == ["silent", "speaks"]
