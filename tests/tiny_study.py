"""A study of four classes of 8 x 8 noise around four patterns, small enough to run every method."""

from pathlib import Path
from typing import Any

import numpy as np

from diversify.study.protocol import Method, Outcome, Protocol
from diversify.study.task import Task
from diversify.study.trial import run_trial

COUNTS = (48, 24, 12, 6)


def write_data(file: Path, *, counts: tuple[int, ...] = COUNTS, with_val: bool = False, **rolled: int) -> Path:
    """Write an `npz:` file; `test=1` or `val=1` shifts the labels of that split by one class."""
    random = np.random.default_rng(0)
    patterns = random.integers(40, 216, (len(counts), 8, 8))
    arrays: dict[str, Any] = {}
    splits = {"train": counts, "test": (10,) * len(counts)} | ({"val": (8,) * len(counts)} if with_val else {})
    for split, sizes in splits.items():
        labels = np.repeat(np.arange(len(sizes)), sizes)
        images = patterns[labels] + random.normal(0, 60, (len(labels), 8, 8))
        arrays[f"{split}_images"] = images.clip(0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = (labels + rolled.get(split, 0)) % len(sizes)
    np.savez(file, **arrays)
    return file


def protocol_of(file: Path, **changes: Any) -> Protocol:
    values: dict[str, Any] = {
        "suite": "tiny",
        "data": f"npz:{file}",
        "imbalance": "none",
        "holdout": 0.25,
        "model": "small_cnn",
        "epochs": 3,
        "warmup_epochs": 1,
        "batch_size": 16,
        "precision": "fp32",
        "methods": ("ce",),
        "rungs": (1, 2),
    }
    return Protocol.model_validate({**values, **changes})


def run(task: Task, method: Method, split: str = "val", *, seed: int = 0, **more: Any) -> Outcome:
    """Carry out a run with default parameters, except those in `changed`."""
    defaults = {name: each.default for name, each in task.protocol.space_of(method).items()}
    return run_trial(task, method, defaults | more.pop("changed", {}), seed=seed, split=split, **more)


def but_for_time(outcome: Outcome) -> dict[str, Any]:
    """Return what is the same in two runs with the same inputs."""
    timed = ("seconds", "images_per_second", "peak_memory")
    return {name: value for name, value in vars(outcome).items() if name not in timed}
