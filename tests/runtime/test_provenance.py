"""The origin of a result: versions and commit."""

import errno
import shutil
import subprocess
from pathlib import Path

import pytest

from diversify.runtime import provenance


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_commit_is_marked_where_code_differs_from_it_and_not_for_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "diversify" / "runtime"
    package.mkdir(parents=True)
    code, records = package / "provenance.py", tmp_path / "records.jsonl"
    monkeypatch.setattr(provenance, "__file__", str(code))
    assert provenance.commit() is None, "not checked out"

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    code.write_text("a = 1\n")
    records.write_text("{}\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "all")
    clean = provenance.commit()
    assert clean is not None
    assert len(clean) >= 40
    records.write_text("{}\n{}\n")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert provenance.commit() == clean, "another user's checkout"
    code.write_text("a = 2\n")
    assert provenance.commit() == f"{clean}+"


def test_the_versions_are_those_of_the_libraries_that_change_pixels() -> None:
    import cv2
    import PIL

    found = provenance.versions()
    assert found["opencv-python-headless"].startswith(cv2.__version__)
    assert found["pillow"] == PIL.__version__


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (FileNotFoundError(errno.ENOENT, "no git"), False),
        (OSError(errno.EMFILE, "Too many open files"), True),
        (subprocess.CalledProcessError(128, "git", stderr="fatal: not a git repository"), False),
        (subprocess.CalledProcessError(128, "git", stderr="fatal: open: Too many open files"), True),
    ],
    ids=str,
)
def test_too_little_for_git_is_an_error_and_not_a_missing_commit(
    error: Exception, raised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "diversify" / "runtime" / "provenance.py"))
    monkeypatch.setattr(subprocess, "run", fail)
    if raised:
        with pytest.raises(OSError, match="(?i)too many open files"):
            provenance.commit()
    else:
        assert provenance.commit() is None
