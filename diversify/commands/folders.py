"""The folder of one run: it is locked, resumed after an interruption, and emptied again after wrong input."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ..errors import InputError, must
from ..files import atomic, staging
from ..runtime.launched import is_first

SCHEMA_VERSION = 1

OWNED = frozenset(
    {
        *("run.json", "model.safetensors", "state", "metrics.jsonl", "plan.json"),  # train
        *("diagnosis.json", "exhibits.json", "embeddings", "report.html", "report.md"),  # diagnose
        *("comparison.json", "train", "diagnosis"),  # compare, demo
        *("remedy.json", "lightning.ckpt", "thresholds.json"),  # remedy
        *("picks.csv", "picks.json"),  # collect
        *("digits.npz", "digits-both.npz", "seeds", "test.json"),  # demo
    }
)
"""The files and folders that commands leave in `out`; nothing else in it is ever removed."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def alone(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Make a command fail at once while another run writes to its `out`."""
    signature = inspect.signature(command)

    @functools.wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        out = signature.bind(*args, **kwargs).arguments["out"]
        with staging.claimed(out, owned=OWNED) if is_first() else contextlib.nullcontext():
            return command(*args, **kwargs)

    return run


@contextlib.contextmanager
def run_folder(out: Path, record: dict[str, Any], *, overwrite: bool) -> Iterator[None]:
    """Make `out` the folder of one run within the block.

    An interrupted run with the same identity is resumed. An InputError within the block removes what the run wrote.

    Args:
        out: The folder.
        record: The run's record, written to `run.json`; its `identity` tells runs apart.
        overwrite: Replace an earlier run.

    Raises:
        InputError: The folder holds an interrupted run with other settings, which stays, or anything else.
    """
    resumed = False
    if not overwrite and unfinished(out, record["command"]):
        earlier = atomic.read_json(out / "run.json", "run.json")
        resumed = earlier.get("identity") == record["identity"]
        if not resumed:
            raise _other_settings(out, earlier, record)
    staging.ensure_available(out, overwrite or resumed, owned=OWNED)
    if not resumed:
        staging.clear(out, owned=OWNED)
    atomic.write_json(out / "run.json", record)
    try:
        yield
    except InputError:
        staging.clear(out, owned=OWNED)
        raise


_SETTINGS = {  # options, and where a run's record has them
    "data": ("data", "spec"),
    **{each: ("data", each) for each in ("imbalance", "tail_order", "holdout", "diversity", "narrow", "narrow_order")},
    "group": ("data", "group"),
    **{each: ("view", each) for each in ("mean", "std", "resize", "crop", "interpolation")},
    "backbone": ("backbone", "name"),
    "model": ("model", "name"),
    "precision": ("precision",),
    "heldout": ("heldout_split",),
}


def _other_settings(out: Path, earlier: dict[str, Any], record: dict[str, Any]) -> InputError:
    """Return the error for an interrupted run that began with other settings; it names the first that differs."""
    advice = "choose another folder, or pass overwrite=True to start anew"
    record = json.loads(json.dumps(record))  # tuples as JSON has them
    for name, path in _SETTINGS.items():
        before, now = _at(earlier, path), _at(record, path)
        if before != now:
            return must(f"{name} of a resumed run", f"stay {_shown(before)}", _shown(now), advice)
    same = all(_at(earlier, ("data", each)) == _at(record, ("data", each)) for each in ("splits", "class_names"))
    name = "weights" if same and earlier.get("files") == record.get("files") else "images"
    return must(f"{name} of a resumed run", f"be those that the run in {out} began with", "others", advice)


def _at(record: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def unfinished(out: Path, command: str) -> bool:
    """Return whether `out` holds a run of this command that was interrupted."""
    if not staging.is_run(out):
        return False
    record = atomic.read_json(out / "run.json", "run.json")
    return record["command"] == command and record.get("finished") is False


def is_multilabel(folder: Path) -> bool:
    """Return whether a folder holds a diagnosis of several labels per image."""
    file = folder / "diagnosis.json"
    try:
        return file.is_file() and atomic.read_json(file, "diagnosis.json").get("kind") == "multilabel"
    except (InputError, AttributeError):  # damage is reported by the reader of the file
        return False


def refuse_multilabel(command: str, folder: Path, name: str = "folder") -> None:
    """Raise an InputError if a folder holds a diagnosis of several labels per image, for a command that cannot take it."""
    if is_multilabel(folder if folder.is_dir() else folder.parent):
        law = f"be of images with one label each for `diversify {command}`"
        advice = "diagnose, remedy and report take several labels"
        raise must(name, law, f"{folder}, of several labels per image", advice)
