"""What the system does not give ends in one line."""

import errno

import pytest

from diversify.cli import entry


@pytest.mark.parametrize(
    ("error", "start"),
    [
        (MemoryError(), "memory must be enough for the command, got no more from the system"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "memory must be"),
        (ImportError("libx.so: failed to map segment from shared object"), "memory must be"),
        (
            RuntimeError("could not create a primitive"),
            "memory must be enough for the command, got `could not create a pr",
        ),
        (RuntimeError("can't start new thread"), "threads must be as many as the command needs"),
        (OSError(errno.EMFILE, "Too many open files", "a"), "a: Too many open files"),
    ],
    ids=str,
)
def test_the_line(
    error: Exception, start: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(entry, "app", fail)
    assert entry.run(["demo"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {start}")
    assert shown.count("\n") == 1


def test_other_errors_are_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(entry, "app", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        entry.run(["demo"])
