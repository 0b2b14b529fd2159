"""Time an epoch of `cifar10_lt`, alone and with other processes on the device: `benchmarks/results/resident.jsonl`.

    python -m benchmarks.resident --root DATA [--epochs 20] [--beside 8]

Plain cross entropy on long-tailed CIFAR-10 (12,406 images, ResNet-32, batches of 128, bf16) on one device. First one process
trains alone. Then several processes train side by side, and all start the clock once each has trained two epochs. A run takes 200
times the median epoch. The time before the first step (reading data, capturing the step) is recorded separately. On CUDA start the
multi-process service first (`nvidia-cuda-mps-control -d`): without it processes take turns.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from diversify.files import atomic
from diversify.runtime import provenance
from diversify.study.methods import method_named
from diversify.study.protocol import Setting
from diversify.study.suites import CIFAR10_LT
from diversify.study.task import load_task
from diversify.study.trial import build_setting, network_of
from diversify.training.recipe import Recipe
from diversify.training.resident import fit_resident

RESULTS = Path(__file__).parent / "results" / "resident.jsonl"
WARM_UP = 2  # epochs before the clock starts


def epochs_of(root: str, epochs: int, barrier: Any, told: Any) -> None:
    """Train, and send the seconds before the third epoch and those of each later epoch."""
    torch.set_num_threads(1)
    begun = time.perf_counter()
    task = load_task(CIFAR10_LT, root=root)
    sides = task.images("canonical", "test")
    setting: Setting = build_setting(sides, epochs + WARM_UP, 0)
    method = method_named("ce")
    recipe = Recipe(epochs=epochs + WARM_UP, schedule="cosine", precision="bf16")
    seconds: list[float] = []
    for record in fit_resident(
        network_of(CIFAR10_LT, sides, method, {}, 0),
        sides.train,
        recipe=recipe,
        num_classes=10,
        ingredients=method.ingredients(setting, {}),
        prepare=sides.view.normalize,
    ):
        if record.epoch == WARM_UP - 1:
            before = time.perf_counter() - begun
            barrier.wait()
        elif record.epoch >= WARM_UP:
            seconds.append(record.seconds)
    told.put((before, seconds, len(sides.train)))


def together(processes: int, root: str, epochs: int) -> tuple[float, float, int]:
    """Return the median seconds of an epoch and of the start of these processes, and the images in an epoch."""
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(processes), context.Queue()
    members = [context.Process(target=epochs_of, args=(root, epochs, barrier, told)) for _ in range(processes)]
    for member in members:
        member.start()
    found = [told.get() for _ in members]
    for member in members:
        member.join()
    return median(one for _, seconds, _ in found for one in seconds), median(one[0] for one in found), found[0][2]


def table() -> str:
    """Return the last record of each figure as a table."""
    records = atomic.read_jsonl(RESULTS) if RESULTS.exists() else []
    if not records:
        return "No records yet."
    rows = [
        "| processes on one device | 200 epochs, s | images a second, all | over one alone | on |",
        "|--:|--:|--:|--:|:--|",
    ]
    for one in {str(record["figure"]): record for record in records}.values():
        numbers = (
            f"{one['seconds_200_epochs']:.0f} | {one['images_per_second']:,.0f} | {one['throughput_over_alone']:.2f}"
        )
        rows.append(f"| {one['processes']} | {numbers} | {one['device']} |")
    return "\n".join(rows)


def main() -> None:
    """Time both, and append a record of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--beside", type=int, default=8)
    options = parser.parse_args()
    device = load_task(CIFAR10_LT, root=options.root).device
    alone: float | None = None
    for processes in (1, options.beside):
        epoch, before, images = together(processes, options.root, options.epochs)
        alone = alone or epoch
        record = {
            "kind": "timing",
            "figure": "alone" if processes == 1 else "beside",
            "what": "cross entropy on long-tailed CIFAR-10, ResNet-32, batches of 128, bf16",
            "processes": processes,
            "seconds_per_epoch": epoch,
            "seconds_200_epochs": 200 * epoch,
            "seconds_before": before,
            "images_per_second": processes * images / epoch,
            "throughput_over_alone": processes * alone / epoch,
            "epochs": options.epochs,
            "started": provenance.now(),
            **provenance.origin(device),
        }
        atomic.append_jsonl(RESULTS, record)
        told = f"{200 * epoch:.1f} s for 200 epochs, {record['images_per_second']:.0f} images a second in all"
        print(f"{processes} at once: {told}, {record['throughput_over_alone']:.2f} times alone", flush=True)


if __name__ == "__main__":
    main()
