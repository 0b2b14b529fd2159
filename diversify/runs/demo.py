"""The `demo` command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from .. import origin, storage
from ..diagnosis import Diagnosis
from ..training import Recipe
from .diagnose import diagnose_run
from .folders import SCHEMA_VERSION, alone
from .options import DataOptions
from .train import Progress, Say, train_run

DEMO_RECIPE = Recipe(epochs=60, batch_size=32, learning_rate=0.05, schedule="cosine", warmup_epochs=3, precision="fp32")


@alone
def demo_run(
    out: Path, *, seed: int = 0, overwrite: bool = False, say: Say, progress: Progress | None = None
) -> tuple[Diagnosis, dict[str, Any]]:
    """Train `small_cnn` on long-tailed digits and diagnose it on their test images; `out/diagnosis/report.html` shows it."""
    recipe = dataclasses.replace(DEMO_RECIPE, seed=seed)
    storage.ensure_available(out, overwrite)
    storage.clear(out)
    record = {
        "schema_version": SCHEMA_VERSION,
        "command": "demo",
        "finished": False,
        "seed": seed,
        "started": origin.now(),
        **origin.origin(torch.device("cpu")),
    }
    storage.write_json(out / "run.json", record)
    options = DataOptions(spec="digits", imbalance="exp:20:100", holdout=0.0)
    trained = out / "train"
    train_run(options, model="small_cnn", recipe=recipe, out=trained, say=say, progress=progress)
    found = diagnose_run(
        DataOptions(),
        model=None,
        weights=trained / "model.safetensors",
        heldout="test",
        out=out / "diagnosis",
        seed=seed,
        say=say,
        progress=progress,
    )
    storage.write_json(out / "run.json", record | {"finished": True, "parts": ["train", "diagnosis"]})
    return found
