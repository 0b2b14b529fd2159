"""Write the folder of a run beside its target, and swap it in when it is complete."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import InputError, must
from .atomic import read_json
from .locks import LOCK, claimed_folders, inode_of, locked

MARKER = "run.json"
"""The file by which a folder is known to be an earlier run of ours, which `--overwrite` may replace."""


def is_temporary(name: str) -> bool:
    """Whether a file of this name is a run's lock, or was being written when its process was killed."""
    return name == LOCK or (name.startswith(".") and name.endswith(".tmp"))


# Folders


# What runs leave in their folders; nothing else is ever removed.
OWNED = (
    *("run.json", "model.safetensors", "state", "metrics.jsonl", "plan.json"),  # train
    *("diagnosis.json", "exhibits.json", "embeddings", "report.html", "report.md"),  # diagnose
    *("comparison.json", "train", "diagnosis"),  # compare, demo
    *("plan.json", "remedy.json"),  # plan, remedy
    *("digits.npz", "seeds", "test.json"),  # demo
)


def is_run(folder: Path) -> bool:
    """Whether a run left this folder: a `run.json` that says so."""
    try:
        record = read_json(Path(folder) / MARKER, MARKER)
    except InputError:
        return False
    return isinstance(record, dict) and {"schema_version", "command"} <= set(record)


def ensure_available(target: Path, overwrite: bool, *, inputs: Iterable[Path] = ()) -> None:
    """Say early, before long work, that a run could not write to `target`.

    It may be new or empty, or with `overwrite` what an earlier run left; never a folder that holds anything else, or one
    of the `inputs` of the command.
    """
    target = Path(target)
    _require_place(target)
    for given in inputs:
        if target.resolve() in (given.resolve(), *given.resolve().parents):
            raise must("DIR", f"not hold {given}, which the command reads", target, "choose another folder")
    if target.is_dir():
        entries = sorted(entry.name for entry in target.iterdir() if not is_temporary(entry.name))
        if entries:
            if not overwrite:
                raise must("DIR", "be new or empty", target, "pass --overwrite to replace it")
            if not is_run(target):
                raise must("DIR", f"be new, empty or an earlier run (with a {MARKER})", target, "choose another folder")
            foreign = [name for name in entries if name not in OWNED]
            if foreign:
                raise must(
                    "DIR", "hold nothing but an earlier run", f"{target} with {foreign[0]}", "choose another folder"
                )


def _require_place(target: Path) -> None:
    """Say when nothing can be written to `target`, or no folder of that name can be made."""
    if not target.is_dir() and os.path.lexists(target):
        raise must("DIR", "be a folder", f"the file {target}")
    nearest = next(folder for folder in (target, *target.resolve().parents) if os.path.lexists(folder))
    if not nearest.is_dir():
        raise must("DIR", "lie in a folder", f"{target}, in the file {nearest}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise must("DIR", "be writable", target, "choose another folder, or change its permissions")


@contextlib.contextmanager
def claimed(target: Path) -> Iterator[None]:
    """Let nobody else write to the folder `target` within the block; an InputError at once where somebody does.

    The folder is made where it is missing, and removed afterwards if it is still empty. What a killed process was
    writing there is removed. A lock dies with its process, so none is ever stale; where the file system knows no locks,
    the block goes on without. A folder that holds anything but a run is left alone: `ensure_available` refuses it.
    """
    target = Path(target)
    _require_place(target)
    if target.is_dir() and not is_run(target) and any(not is_temporary(entry.name) for entry in target.iterdir()):
        yield
        return
    folder = target.resolve()
    made = [each for each in (folder, *folder.parents) if not each.exists()]  # innermost first
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = locked(target, folder / LOCK)
        try:
            inode = os.fstat(descriptor).st_ino
            claimed_folders[folder] = descriptor, inode
            _remove_leftovers(folder)
            yield
        finally:
            claimed_folders.pop(folder, None)
            if inode_of(folder / LOCK) == inode:
                (folder / LOCK).unlink(missing_ok=True)
            os.close(descriptor)
    finally:
        for each in made:
            with contextlib.suppress(OSError):  # not empty, or gone
                each.rmdir()


def _remove_leftovers(folder: Path) -> None:
    """Remove the half-written files of processes that were killed, from a run's folder and what belongs to it."""
    if is_run(folder):
        for path in [*folder.glob(".*.tmp"), *(path for name in OWNED for path in (folder / name).rglob(".*.tmp"))]:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_directory(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A new folder to fill, which becomes `target` when the block ends well, and is removed when it does not.

    A target that is there must be empty, or, with `overwrite`, an earlier run, kept until the moment it is replaced.
    """
    ensure_available(target, overwrite)
    target = Path(target).resolve()
    made = [folder for folder in target.parents if not folder.exists()]  # innermost first
    staging = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        staging.mkdir(parents=True)
        yield staging
        ensure_available(target, overwrite)  # again: the block may have taken hours
        _swap(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):  # not empty: somebody else's by now
                folder.rmdir()
        raise


def _swap(staging: Path, target: Path) -> None:
    earlier = target.with_name(f"{staging.name}.old")
    try:
        if target.exists():
            target.rename(earlier)
        staging.rename(target)
    except BaseException:
        if earlier.exists() and not target.exists():
            earlier.rename(target)
        raise
    finally:
        if target.exists():
            shutil.rmtree(earlier, ignore_errors=True)


def clear(target: Path) -> None:
    """Remove what an earlier run left in a folder, known by its `run.json`; anything else in it is left alone."""
    target = Path(target)
    if not is_run(target):
        return
    for entry in sorted(target.iterdir(), key=lambda path: path.name == MARKER):  # the marker last
        if entry.name in OWNED or (is_temporary(entry.name) and entry.name != LOCK):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def remove_folder(folder: Path) -> None:
    """Remove a folder of ours and all that is in it, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
