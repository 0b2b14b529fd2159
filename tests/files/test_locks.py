"""A folder is written by one process at a time, and a lock ends with its process."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from diversify.errors import InputError
from diversify.files import atomic, locks
from diversify.files import locks as files_locks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def hold_with_a_child(folder: Path, pipe) -> None:
    """Hold the lock, with a child process that outlives this one."""
    with locks.folder_lock(folder):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        pipe.send(child.pid)
        time.sleep(60)


def test_the_lock_of_a_killed_process_is_free_even_if_its_child_lives_on(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    holder = context.Process(target=hold_with_a_child, args=(tmp_path, theirs))
    holder.start()
    child = ours.recv()
    try:
        message = f"out must not be in use by another run, got {tmp_path} (process {holder.pid}); "
        with pytest.raises(InputError) as error, locks.folder_lock(tmp_path):
            pass
        assert str(error.value).startswith(message)
        holder.kill()
        holder.join()
        os.kill(child, 0)  # it lives
        with locks.folder_lock(tmp_path):
            assert (tmp_path / locks.LOCK).read_text() == f"{os.getpid()}\n"
        assert list(tmp_path.iterdir()) == []
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_process_does_not_lock_a_folder_twice(tmp_path: Path) -> None:
    with locks.folder_lock(tmp_path):
        with pytest.raises(InputError, match="must not be in use"), locks.folder_lock(tmp_path, Path("shown")):
            pass
        atomic.write_text(tmp_path / "a", "still locked")
    with locks.folder_lock(tmp_path):
        pass


def test_a_folder_that_was_removed_and_made_again_is_not_written_to(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with locks.folder_lock(folder):
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        with pytest.raises(FileNotFoundError, match="removed while the run was writing to it"):
            atomic.write_text(folder / "a", "half a run")
    assert list(folder.iterdir()) == []


def hold(path: Path, name: str, ready: Any) -> None:
    with files_locks.Locks(path) as locks:
        assert locks.take(name)
        ready.set()
        time.sleep(60)


def test_locks_of_a_killed_process_are_gone(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    member = context.Process(target=hold, args=(tmp_path / "lock", "one", ready))
    member.start()
    assert ready.wait(10)
    with files_locks.Locks(tmp_path / "lock") as locks:
        assert locks.is_taken("one")
        assert not locks.take("one")
        assert locks.take("two")
        assert not locks.is_sole()
        member.kill()
        member.join()
        assert locks.is_sole()
        assert locks.take("one")
        assert not locks.take("one")
        locks.free("one")
        assert not locks.is_taken("one")
        with pytest.raises(InputError, match="results must not be in use by another run"):
            files_locks.Locks(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()


def test_a_lock_file_that_its_last_user_removes_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    make = os.open

    def removed_once(path: Any, *options: Any) -> int:
        descriptor = make(path, *options)
        if not opened:
            os.unlink(path)
        opened.append(path)
        return descriptor

    monkeypatch.setattr(os, "open", removed_once)
    with files_locks.Locks(tmp_path / "lock"):
        assert len(opened) == 2
        assert (tmp_path / "lock").exists()
