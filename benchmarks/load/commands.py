"""The command line in forked processes: everything is imported once, and each command then starts at once."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diversify.errors import InputError
from diversify.files import atomic, staging

PRELOADED = (
    *("accelerate", "matplotlib.backends.backend_svg", "matplotlib.figure", "optuna", "PIL.Image", "rich.progress"),
    *(
        "scipy.optimize",
        "scipy.stats",
        "sklearn.datasets",
        "sklearn.linear_model",
        "torchvision",
        "diversify.cli.entry",
        "diversify.__main__",
    ),
    *(
        "diversify.commands.options",
        "diversify.commands.train",
        "diversify.commands.diagnose",
        "diversify.commands.remedy",
    ),
    *("diversify.commands.benchmark", "diversify.study.trial", "diversify.study.task", "diversify.study.workers"),
)
TIMED = {"seconds", "seconds_shared", "images_per_second", "peak_memory", "started", "sha256", "search"}
"""Fields that differ between two runs of the same command: times, digests of files that hold times, and the name of a search."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended: its exit code (negative for a signal), seconds, and what it wrote to stderr."""

    code: int
    seconds: float
    errors: str
    process: int


def is_clear(ended: Ended) -> bool:
    """Return whether a command succeeded without a traceback, or ended with exit code 2 and one line."""
    lines = [line for line in ended.errors.splitlines() if line.strip()]
    if ended.code == 0:
        return not any("Traceback" in line for line in lines)
    return ended.code == 2 and len(lines) == 1 and lines[0].startswith("error: ")


def preload() -> None:
    """Import what the commands import, so that forked ones need not."""
    torch.set_num_threads(1)
    for name in PRELOADED:
        importlib.import_module(name)
    _shorten()


def _shorten() -> None:
    """Leave out what takes seconds and writes nothing: figures, the map of the features, long searches for heads."""
    remedy_command = importlib.import_module("diversify.commands.remedy")
    recipe = remedy_command.HeadRecipe
    for module, name, value in (
        ("diversify.commands.remedy", "REPEATS", 1),
        ("diversify.commands.remedy", "HeadRecipe", lambda **options: recipe(steps=5, batch_size=16, **options)),
        ("diversify.report.plots", "draw", lambda *_, **__: "<svg></svg>"),
        ("diversify.functional.projection", "two_dimensions", lambda *_, **__: None),
    ):
        setattr(importlib.import_module(module), name, value)


def start(
    arguments: list[str],
    errors: Path,
    *,
    prepare: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Start `diversify` with these arguments in a forked process that leads a group of its own; return its number.

    Args:
        arguments: What follows `diversify`.
        errors: The file that stderr goes to.
        prepare: Called in the new process first.
        environment: Variables to set in it.
    """
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):
            os.setpgid(child, child)
        return child
    os.setpgid(0, 0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    told = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.dup2(told, 2)
    os.closerange(3, 256)  # as many open files as a new process has
    os.environ.update(environment or {})
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    code = 70
    try:
        prepare()
        from diversify.__main__ import main

        sys.argv = ["diversify", *arguments]
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        multiprocessing_end()
        os._exit(code)


def multiprocessing_end() -> None:
    """End what the process's own exit would end: its daemons and its pools."""
    import multiprocessing.util

    with contextlib.suppress(Exception):
        multiprocessing.util._exit_function()


def wait(child: int, errors: Path, started: float, *, longest: float = 900) -> Ended:
    """Wait for a command to end."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - started > longest:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise RuntimeError(f"a command took longer than {longest:g} s: {errors.read_text()[:500]}")
        time.sleep(0.002)
    return Ended(
        code=os.waitstatus_to_exitcode(status),
        seconds=time.monotonic() - started,
        errors=errors.read_text(errors="replace"),
        process=child,
    )


def run(arguments: list[str], errors: Path, **options: Any) -> Ended:
    """Run a command to its end."""
    started = time.monotonic()
    return wait(start(arguments, errors, **options), errors, started)


def material(folder: Path) -> None:
    """Make the data, and a trained and a diagnosed network, that the commands work on."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.repeat([0, 1, 2], [14, 9, 6])
    noise = np.random.default_rng(0).random((29, 8, 8))
    images = (noise * 90 + labels[:, None, None] * 60).astype(np.uint8)
    both = {
        f"{split}_{part}": values
        for split in ("val", "test")
        for part, values in (("images", images[::2]), ("labels", labels[::2]))
    }
    np.savez(folder / "tiny.npz", train_images=images, train_labels=labels, **both)
    (folder / "study.py").write_text(
        "from diversify.study.protocol import Protocol\n\n"
        f"PROTOCOL = Protocol(suite='tiny', data='npz:{folder / 'tiny.npz'}', imbalance='none', model='small_cnn', epochs=2,"
        " warmup_epochs=1, batch_size=8, precision='fp32', methods=('ce', 'focal'), trials=1, seeds=(0,), rungs=())\n"
    )
    for arguments in (train(folder, folder / "trained", epochs=2), diagnose(folder, folder / "diagnosed")):
        ended = run(arguments, folder / "errors")
        if ended.code:
            raise RuntimeError(f"{arguments}: {ended.errors}")


def train(folder: Path, out: Path, *, epochs: int = 12) -> list[str]:
    """Return the arguments of a short training run."""
    recipe = ["--epochs", str(epochs), "--batch-size", "8", "--warmup-epochs", "0", "--precision", "fp32"]
    return ["train", "--data", f"npz:{folder / 'tiny.npz'}", *recipe, "--out", str(out)]


def diagnose(folder: Path, out: Path) -> list[str]:
    """Return the arguments of a diagnosis of the trained network."""
    return ["diagnose", "--weights", str(folder / "trained" / "model.safetensors"), "--top-k", "5", "--out", str(out)]


def remedy(folder: Path, out: Path) -> list[str]:
    """Return the arguments of a repair of the diagnosed network."""
    return ["remedy", str(folder / "diagnosed"), "--out", str(out)]


def benchmark(folder: Path, out: Path) -> list[str]:
    """Return the arguments of a study of four runs; `out` is its folder."""
    return ["benchmark", str(folder / "study.py"), "--out", str(out / "study.jsonl")]


COMMANDS: Mapping[str, Callable[[Path, Path], list[str]]] = {
    "train": train,
    "diagnose": diagnose,
    "remedy": remedy,
    "benchmark": benchmark,
}


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untimed(each) for key, each in value.items() if key not in TIMED}
    return [_untimed(each) for each in value] if isinstance(value, list) else value


def content(folder: Path) -> dict[str, Any]:
    """Return what a folder holds, by the names of its files: JSON without timings, other files as bytes."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        name, data = str(path.relative_to(folder)), path.read_bytes()
        if path.suffix == ".json":
            found[name] = _untimed(json.loads(data))
        elif path.suffix == ".jsonl":
            lines = [_untimed(json.loads(line)) for line in data.splitlines()]
            found[name] = sorted(lines, key=json.dumps) if "study" in name else lines
        elif path.suffix in (".html", ".md"):
            found[name] = _MOMENT.sub("", data.decode())
        elif path.suffix == ".safetensors":  # the header's entries have no order, and that of a state holds seconds
            tensors, header = atomic.read_tensors(path)
            read = {key: _untimed(json.loads(value)) if key == "state" else value for key, value in header.items()}
            found[name] = {key: (str(tensor.dtype), tensor.tolist()) for key, tensor in tensors.items()}, read
        elif path.suffix != ".journal":  # the search's own notes, with times
            found[name] = data
    return found


def differences(whole: Mapping[str, Any], folder: Path) -> list[str]:
    """Return which files of a folder are not as in `whole`, which `content` returned; files of either alone count."""
    left = content(folder)
    names = sorted(whole.keys() | left.keys())
    return [f"{file} differs" for file in names if whole.get(file) != left.get(file)]


_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:\+\d\d:\d\d)?")


def unreadable(folder: Path) -> list[str]:
    """Read every file of a folder as the library does; return those that cannot be read, with the reason.

    Files that were being written when a process ended are left out: they have names of their own.
    """
    wrong = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or any(staging.is_temporary(part) or part.endswith(".partial") for part in path.parts):
            continue
        try:
            match path.suffix:
                case ".json":
                    atomic.read_json(path, "file")
                case ".jsonl":
                    atomic.read_jsonl(path)
                case ".npy":
                    atomic.open_array(path, "array")
                case ".safetensors":
                    atomic.read_tensors(path)
                case ".html" | ".md":
                    if not path.read_text().strip():
                        raise InputError("empty")
        except (InputError, UnicodeDecodeError) as error:
            wrong.append(f"{path.name}: {error}")
    return wrong


def clear(folder: Path) -> None:
    """Remove a folder."""
    shutil.rmtree(folder, ignore_errors=True)
