"""The folder of one run: how it begins, goes on after an interruption, and leaves nothing behind on bad input."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import storage
from ..errors import InputError

SCHEMA_VERSION = 1


@contextlib.contextmanager
def run_folder(out: Path, record: dict[str, Any], *, overwrite: bool) -> Iterator[None]:
    """`out` as the folder of one run: an interrupted run of the same identity goes on, bad input leaves nothing behind."""
    new = not out.exists()
    goes_on = False
    if (out / "run.json").is_file() and not overwrite:
        goes_on = (
            unfinished(out, record["command"])
            and storage.read_json(out / "run.json", "run.json").get("identity") == record["identity"]
        )
    storage.ensure_available(out, overwrite or goes_on)
    if not goes_on:
        storage.clear(out)
    storage.write_json(out / "run.json", record)
    try:
        yield
    except InputError:
        discard(out, new)
        raise


def discard(out: Path, new: bool) -> None:
    """Remove what a run left, and its folder too where it is of this run's making."""
    storage.clear(out)
    if new and not any(out.iterdir()):
        out.rmdir()


def unfinished(out: Path, command: str) -> bool:
    """Whether `out` holds a run of this command that was stopped before its end."""
    if not storage.is_run(out):
        return False
    record = storage.read_json(out / "run.json", "run.json")
    return record["command"] == command and record.get("finished") is False
