"""Write the folder of a run without ever replacing anything but an earlier run.

A folder is known to be a run by its `run.json`. Which other files belong to a run is for the caller to say: every
function takes their names as `owned`, and nothing else is ever removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from ..errors import InputError, must
from .atomic import read_json
from .locks import LOCK, folder_lock

MARKER = "run.json"
"""The file that marks a folder as an earlier run, which `overwrite` may replace."""


def is_temporary(name: str) -> bool:
    """Return whether this is the name of a lock file, or of a file that was being written when its process was killed.

    Example:
        >>> is_temporary(".metrics.jsonl.0a.tmp"), is_temporary("metrics.jsonl")
        (True, False)
    """
    return name == LOCK or (name.startswith(".") and name.endswith(".tmp"))


def is_run(folder: Path) -> bool:
    """Return whether the folder holds a run: a `run.json` with a schema version and a command.

    Example:
        >>> is_run(Path("missing"))
        False
    """
    try:
        record = read_json(Path(folder) / MARKER, MARKER)
    except InputError:
        return False
    return isinstance(record, dict) and {"schema_version", "command"} <= set(record)


def ensure_available(
    target: Path, overwrite: bool, *, owned: Collection[str], inputs: Iterable[Path] = (), beside: bool = False
) -> None:
    """Check, before long work starts, that a run may write to the folder `target`.

    The folder may be new or empty, or with `overwrite` an earlier run; it may hold nothing else.

    Args:
        target: The folder.
        overwrite: Whether an earlier run may be replaced.
        owned: Names of the files and folders that a run leaves in its folder.
        inputs: Files and folders that the command reads; `target` must not be one of them or contain one.
        beside: Whether the run is made beside `target` and then takes its place; see `staged_directory`.

    Raises:
        InputError: The run must not write there, for the reason in the message.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ensure_available(Path(folder) / "new", overwrite=False, owned=())
    """
    target = Path(target)
    _require_place(target)
    if beside and target.is_dir():
        _require_replaceable(target.resolve())
    for given in inputs:
        if target.resolve() in (given.resolve(), *given.resolve().parents):
            raise must("out", f"not hold {given}, which the command reads", target, "choose another folder")
    if target.is_dir():
        entries = sorted(entry.name for entry in target.iterdir() if not is_temporary(entry.name))
        if entries:
            if not overwrite:
                raise must("out", "be new or empty", target, "pass overwrite=True to replace it")
            if not is_run(target):
                raise must("out", f"be new, empty or an earlier run (with a {MARKER})", target, "choose another folder")
            foreign = [name for name in entries if name not in owned]
            if foreign:
                got = f"{target} with {foreign[0]}"
                raise must("out", "hold nothing but an earlier run", got, "choose another folder")
            _require_removable(target)


def _require_replaceable(target: Path) -> None:
    """Check that another folder can take the place of `target`, an existing one."""
    advice = "choose a folder within it"
    if os.path.ismount(target):
        raise must("out", "not be the place of a disk or a volume", target, advice)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise must("out", "lie in a folder that you may write to", target, advice)


def _require_removable(folder: Path) -> None:
    """Check that this user may remove everything in a folder, before the first file of it is removed."""
    for each in (folder, *(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())):
        if not os.access(each, os.W_OK | os.X_OK):
            law, advice = "hold only folders that you may write to", "choose another folder, or change permissions"
            raise must("out", law, each, advice)


def _require_place(target: Path) -> None:
    """Check that `target` is a writable folder, or can be made as one."""
    if not target.is_dir() and os.path.lexists(target):
        raise must("out", "be a folder", f"the file {target}")
    nearest = next(folder for folder in (target, *target.resolve().parents) if os.path.lexists(folder))
    if not nearest.is_dir():
        raise must("out", "lie in a folder", f"{target}, in the file {nearest}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise must("out", "be writable", target, "choose another folder, or change its permissions")


def require_appendable(file: Path, name: str) -> None:
    """Check, before long work starts, that this user may append to a file and write others beside it.

    Args:
        file: The file, which need not exist yet.
        name: The file as errors name it.

    Raises:
        InputError: The file, or the folder that it lies in, is not writable.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     require_appendable(Path(folder) / "new" / "records.jsonl", "results")
    """
    nearest = next(folder for folder in Path(file).resolve().parents if os.path.lexists(folder))
    for place, rights in ((nearest, os.W_OK | os.X_OK), (Path(file), os.R_OK | os.W_OK)):
        if place.exists() and not os.access(place, rights):
            raise must(name, "be writable", place, "choose another file, or change its permissions")


@contextlib.contextmanager
def claimed(target: Path, *, owned: Iterable[str] = ()) -> Iterator[None]:
    """Make this process the only one that writes to the folder `target` within the block.

    A missing folder is made, and removed afterwards if it is still empty. Files that a killed process left half-written
    are removed, and an earlier run that one was just replacing is put back. The lock ends with its process, so it is
    never stale; on a file system without locks the block runs without one. A folder that holds anything but a run is left
    alone, since `ensure_available` refuses it.

    Args:
        target: The folder.
        owned: Names of the folders in it that belong to a run, where half-written files are removed too.

    Raises:
        InputError: Another process writes to the folder, or nothing can be written there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, claimed(Path(folder) / "run"):
        ...     [path.name for path in (Path(folder) / "run").iterdir()]
        ['.lock']
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
        with folder_lock(folder, target):
            _recover(folder)
            _remove_leftovers(folder, owned)
            yield
    finally:
        for each in made:
            with contextlib.suppress(OSError):  # not empty, or gone
                each.rmdir()


def _recover(folder: Path) -> None:
    """Remove the staging folders of killed processes beside a folder, and put back the run that one had moved away."""
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{8}}\.partial(\.old)?")
    try:
        beside = list(folder.parent.iterdir())
    except OSError:  # not ours to list
        return
    found = [(path, match[1]) for path in beside if (match := pattern.fullmatch(path.name))]
    for path, moved in found:
        if moved and is_run(path) and not is_run(folder):
            for entry in sorted(path.iterdir(), key=lambda each: each.name == MARKER):  # the marker last
                if not is_temporary(entry.name):
                    entry.replace(folder / entry.name)
    for path, _ in found:
        shutil.rmtree(path, ignore_errors=True)


def _remove_leftovers(folder: Path, owned: Iterable[str]) -> None:
    """Remove the half-written files of killed processes from a run's folder and its own subfolders."""
    if is_run(folder):
        for path in [*folder.glob(".*.tmp"), *(path for name in owned for path in (folder / name).rglob(".*.tmp"))]:
            _remove(path)


@contextlib.contextmanager
def staged_directory(target: Path, *, overwrite: bool, owned: Collection[str]) -> Iterator[Path]:
    """Yield a new folder to fill; it becomes `target` if the block succeeds, and is removed if it fails.

    An earlier run at `target` is kept until the moment it is replaced.

    Args:
        target: The folder to write; it must be new or empty, or with `overwrite` an earlier run.
        overwrite: Whether an earlier run may be replaced.
        owned: Names of the files and folders that a run leaves in its folder.

    Raises:
        InputError: The run must not write there; see `ensure_available`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with staged_directory(Path(folder) / "run", overwrite=False, owned=()) as staging:
        ...         _ = (staging / "report.md").write_text("done")
        ...     [path.name for path in (Path(folder) / "run").iterdir()]
        ['report.md']
    """
    ensure_available(target, overwrite, owned=owned, beside=True)
    target = Path(target).resolve()
    made = [folder for folder in target.parents if not folder.exists()]  # innermost first
    staging = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        staging.mkdir(parents=True)
        yield staging
        ensure_available(target, overwrite, owned=owned, beside=True)  # again: the block may have taken hours
        _swap(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):  # not empty: another process uses it by now
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


def clear(target: Path, *, owned: Collection[str]) -> None:
    """Remove an earlier run from its folder; files that are not `owned`, and folders that are no run, stay.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "run.json").write_text('{"schema_version": 1, "command": "train"}')
        ...     _ = (Path(folder) / "notes.txt").write_text("mine")
        ...     clear(Path(folder), owned=("run.json", "metrics.jsonl"))
        ...     [path.name for path in Path(folder).iterdir()]
        ['notes.txt']
    """
    target = Path(target)
    if not is_run(target):
        return
    for entry in sorted(target.iterdir(), key=lambda path: path.name == MARKER):  # the marker last
        if entry.name in owned or (is_temporary(entry.name) and entry.name != LOCK):
            _remove(entry)


def _remove(entry: Path) -> None:
    """Remove a file, a link, or a folder and everything in it."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder and everything in it, if it exists.

    Example:
        >>> remove_folder(Path("missing"))
    """
    shutil.rmtree(folder, ignore_errors=True)
