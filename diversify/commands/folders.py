"""The folder of one run: how it begins, goes on after an interruption, and leaves nothing behind on bad input."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ..errors import InputError
from ..files import atomic, staging

SCHEMA_VERSION = 1

OWNED = frozenset(
    {
        *("run.json", "model.safetensors", "state", "metrics.jsonl", "plan.json"),  # train
        *("diagnosis.json", "exhibits.json", "embeddings", "report.html", "report.md"),  # diagnose
        *("comparison.json", "train", "diagnosis"),  # compare, demo
        "remedy.json",  # remedy
        *("digits.npz", "seeds", "test.json"),  # demo
    }
)
"""The files and folders that commands leave in `out`; nothing else in it is ever removed."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def is_first() -> bool:
    """Whether this process checks, writes and speaks; the others that a launcher started beside it only compute."""
    return os.environ.get("RANK", "0") == "0"


def alone(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The command, refused at once while another run writes to its `out`."""
    signature = inspect.signature(command)

    @functools.wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        out = signature.bind(*args, **kwargs).arguments["out"]
        with staging.claimed(out, owned=OWNED) if is_first() else contextlib.nullcontext():
            return command(*args, **kwargs)

    return run


@contextlib.contextmanager
def run_folder(out: Path, record: dict[str, Any], *, overwrite: bool) -> Iterator[None]:
    """`out` as the folder of one run: an interrupted run of the same identity goes on, bad input leaves nothing behind."""
    goes_on = False
    if (out / "run.json").is_file() and not overwrite:
        goes_on = (
            unfinished(out, record["command"])
            and atomic.read_json(out / "run.json", "run.json").get("identity") == record["identity"]
        )
    staging.ensure_available(out, overwrite or goes_on, owned=OWNED)
    if not goes_on:
        staging.clear(out, owned=OWNED)
    atomic.write_json(out / "run.json", record)
    try:
        yield
    except InputError:
        staging.clear(out, owned=OWNED)
        raise


def unfinished(out: Path, command: str) -> bool:
    """Whether `out` holds a run of this command that was stopped before its end."""
    if not staging.is_run(out):
        return False
    record = atomic.read_json(out / "run.json", "run.json")
    return record["command"] == command and record.get("finished") is False
