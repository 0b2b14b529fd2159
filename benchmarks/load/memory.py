"""Diagnoses repeated in one process, and the memory that it holds after each: a line is fitted to the second half."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.scale import anonymous_gib
from diversify.diagnosis.measure import diagnose
from diversify.diagnosis.result import Diagnosis
from diversify.network.extraction import extract
from diversify.network.networks import build_model
from diversify.network.split import split_head
from diversify.plan.make import make_plan
from diversify.report.diagnosis import render_markdown

GROWTH = 4.0  # MiB over the second half that count as growth


def data(classes: tuple[int, ...], seed: int) -> DataLoader[Any]:
    """Return a loader of noise, so many images per class."""
    random = np.random.default_rng(seed)
    labels = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor(classes))
    images = torch.from_numpy(random.random((len(labels), 3, 8, 8), dtype=np.float32)) + labels[:, None, None, None] / 4
    return DataLoader(TensorDataset(images, labels), batch_size=16)


def one(model: torch.nn.Module, train: DataLoader[Any], heldout: DataLoader[Any], seed: int) -> float:
    """Extract, diagnose, plan and report once; return the balanced accuracy."""
    split = split_head(model)
    found = diagnose(extract(split, train), extract(split, heldout), head=split.head, top_k=5, seed=seed)
    make_plan(found)
    render_markdown(Diagnosis.from_json(found.to_json()))
    return found.summary["balanced_accuracy_heldout"]


def slope(values: list[float]) -> tuple[float, float]:
    """Return the slope of a line through the values, per value, and its standard error."""
    place = np.arange(len(values)) - (len(values) - 1) / 2
    level = np.array(values) - np.mean(values)
    found = float(place @ level / (place @ place))
    error = float(np.sqrt(((level - found * place) ** 2).sum() / (len(values) - 2) / (place @ place)))
    return found, error


def open_things() -> tuple[int, int]:
    """Return how many files and how many threads this process has open."""
    return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir()))


def repeat(minutes: float) -> dict[str, Any]:
    """Diagnose for so many minutes; return what happened, for the record."""
    model = build_model("small_cnn", 3).eval()
    train, heldout = data((16, 10, 6), 0), data((8, 8, 8), 1)
    started, busy = time.monotonic(), time.process_time()
    held, scores, first = list[float](), set[float](), (0, 0)
    while time.monotonic() - started < 60 * minutes or len(held) < 20:
        scores.add(one(model, train, heldout, 0))
        gc.collect()
        held.append(anonymous_gib() * 1024)
        first = first if len(held) > 1 else open_things()
    half = held[len(held) // 2 :]
    per, error = slope(half)
    grown = per * len(half)
    last = open_things()
    leaks = [now > before for now, before in zip(last, first, strict=True)]
    return {
        "figure": "memory",
        "what": "diagnoses in one process (extraction, measures, plan, report) without growth",
        "tried": len(held),
        "lost": int(grown - 2 * error * len(half) > GROWTH) + (len(scores) != 1) + sum(leaks),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "cpu_minutes": round((time.process_time() - busy) / 60, 1),
        "mib_after_the_first": round(held[0], 1),
        "mib_at_half": round(half[0], 1),
        "mib_at_the_end": round(held[-1], 1),
        "kib_per_diagnosis": round(per * 1024, 3),
        "kib_per_diagnosis_error": round(error * 1024, 3),
        "open_files": last[0],
        "open_files_after_the_first": first[0],
        "threads": last[1],
        "threads_after_the_first": first[1],
    }
