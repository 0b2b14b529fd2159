"""Time a diagnosis of very many rows beside the physical limits: `benchmarks/results/scale.jsonl`.

    python -m benchmarks.scale --folder DIR [--banks 1m_512 100k_2048 ...] [--exact] [--sampled] [--repair]

A bank of features is made in `--folder` once and mapped into memory. Each diagnosis runs in a process of its own, which times
the diagnosis, then one pass over the map, and one matrix product of all training features with the head. `anonymous_gib` is the
largest memory that the process itself held, without the maps. `steps` are the seconds between two reports of progress. With
`--exact`, neighbours are looked up exactly. The banks of `LINE` differ in their rows only. With
`--repair`, the head of each bank is repaired instead, choosing included. With `--sampled`, each bank is diagnosed twice, with the rows
that costly measures use by default and with all rows, and the records say how far the measures lie apart.

Features are made as a network gives them: a mean per class, variation in 48 directions that all classes share, of decreasing
size, little noise in all directions, and a ReLU. Sizes of classes fall exponentially, by a factor of 100.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diversify.diagnosis import sides
from diversify.diagnosis.measure import diagnose
from diversify.files import atomic
from diversify.functional.indexed_neighbors import NeighborSearch
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.plan.plan import Plan
from diversify.repair.candidates import default_candidates
from diversify.repair.choose import choose_head
from diversify.runtime import provenance

RESULTS = Path(__file__).parent / "results" / "scale.jsonl"
SHARED, RATIO, BLOCK = 48, 100.0, 20_000
STEPS = ("recognition", "top-K", "diversity", "neighbours", "heads, labels, copies, coverage", "geometry", "findings")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """Rows, features and classes of a bank.

    Attributes:
        rows: Training rows.
        heldout: Held-out rows.
        features: Features of a row.
        classes: Classes.
        smallest: Training rows of the smallest class, at least.
        logits: Whether the logits are stored; if not, a diagnosis computes them from the features, a block at a time.
    """

    rows: int
    heldout: int
    features: int
    classes: int
    smallest: int = 2
    logits: bool = True


BANKS: Mapping[str, Size] = {
    "10k_512": Size(rows=10_000, heldout=5_000, features=512, classes=100),
    "100k_512": Size(rows=100_000, heldout=50_000, features=512, classes=1000),
    "1m_512": Size(rows=1_000_000, heldout=50_000, features=512, classes=1000),
    "100k_2048": Size(rows=100_000, heldout=20_000, features=2048, classes=100),
    "20k_64": Size(rows=20_000, heldout=20_000, features=64, classes=20),
}
LINE: Mapping[str, Size] = {
    f"{name}_64": Size(rows=rows, heldout=10_000, features=64, classes=100)
    for name, rows in (("10k", 10_000), ("100k", 100_000), ("1m", 1_000_000), ("10m", 10_000_000))
}
SIZES = {**BANKS, **LINE}
SAMPLED = ("margin", "safe", "border", "rare", "outlier", "recall_ceiling", "coverage_heldout", "effective_count")


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def class_sizes(size: Size) -> Tensor:
    """Return the number of training rows of each class, which fall exponentially."""
    share = RATIO ** (-torch.arange(size.classes) / (size.classes - 1))
    counts = (share / share.sum() * size.rows).long().clamp(min=size.smallest)
    counts[0] += size.rows - counts.sum()
    return counts


def make_bank(size: Size, folder: Path) -> None:
    """Write the features, labels and logits of a bank, a block at a time."""
    generator = torch.Generator().manual_seed(0)
    means = _normal(generator, size.classes, size.features)
    shared = _normal(generator, SHARED, size.features) / SHARED**0.5
    shared *= 3 * torch.arange(1, SHARED + 1)[:, None] ** -0.5
    weight = means / size.features**0.5 * 4
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "weight.npy", weight.numpy())
    for name, rows in (("train", size.rows), ("heldout", size.heldout)):
        long_tail = torch.arange(size.classes).repeat_interleave(class_sizes(size))
        labels = long_tail if name == "train" else torch.arange(rows) % size.classes
        del long_tail
        labels = labels[torch.randperm(rows, generator=generator)]
        forms = {"features": size.features} | ({"logits": size.classes} if size.logits else {})
        maps = {
            form: np.lib.format.open_memmap(folder / f"{name}_{form}.npy", "w+", np.float32, (rows, width))
            for form, width in forms.items()
        }
        for start in range(0, rows, BLOCK):
            own = labels[start : start + BLOCK]
            varied = _normal(generator, len(own), SHARED) @ shared + 0.3 * _normal(generator, len(own), size.features)
            features = (0.4 * means[own] + varied + 0.3).relu()
            maps["features"][start : start + BLOCK] = features.numpy()
            if size.logits:
                maps["logits"][start : start + BLOCK] = (features @ weight.T).numpy()
        np.save(folder / f"{name}_labels.npy", labels.numpy())  # last: the bank is then complete


def existing_bank(name: str, size: Size, parent: Path) -> Path:
    """Return the folder of a bank, which is made if it is not there."""
    folder = parent / name
    if not (folder / "heldout_labels.npy").exists():
        print(f"{name}: making the bank", file=sys.stderr)
        make_bank(size, folder)
    return folder


def read_bank(folder: Path) -> tuple[Embeddings, Embeddings, LinearHead]:
    """Return training and held-out embeddings, mapped into memory, and the head."""

    def column(name: str) -> Tensor:
        return torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c"))

    weight = torch.from_numpy(np.load(folder / "weight.npy"))
    sides = []
    for name in ("train", "heldout"):
        labels, features = column(f"{name}_labels"), column(f"{name}_features")
        stored = (folder / f"{name}_logits.npy").exists()
        # where none are stored: zeros, one in memory; they are not this head's, so that a diagnosis computes its own
        logits = column(f"{name}_logits") if stored else torch.zeros(()).expand(len(labels), len(weight))
        sides.append(Embeddings(features=features, labels=labels, logits=logits, indices=torch.arange(len(labels))))
    return sides[0], sides[1], LinearHead(weight=weight, bias=torch.zeros(len(weight)))


def anonymous_gib() -> float:
    """Return the memory that this process holds now, without files that are mapped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 2**20


class Peak:
    """The largest anonymous memory, looked at twenty times a second."""

    def __init__(self) -> None:
        self.gib, self._ends = anonymous_gib(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._ends.wait(0.05):
            self.gib = max(self.gib, anonymous_gib())

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()


def measured(folder: Path) -> dict[str, Any]:
    """Return the seconds of a diagnosis of a bank, of its steps, and of the physical limits."""
    train, heldout, head = read_bank(folder)
    marks, memory = [time.perf_counter()], []

    def progress(done: int, _: int | None) -> None:
        if done:
            marks.append(time.perf_counter())
            memory.append(peak.gib)

    with Peak() as peak:
        busy = time.process_time()
        found = diagnose(train, heldout, head=head, progress=progress)
        seconds, busy = time.perf_counter() - marks[0], time.process_time() - busy
    blocks = train.features.split(BLOCK)
    started = time.perf_counter()
    for block in blocks:
        block.sum()
    read = time.perf_counter() - started
    for block in blocks:
        block @ head.weight.T
    product = time.perf_counter() - started - read
    steps = [round(after - before, 2) for before, after in pairwise(marks)]
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(busy, 2),
        "anonymous_gib": round(peak.gib, 2),
        "steps": dict(zip(STEPS, steps, strict=True)),
        "anonymous_gib_until": dict(zip(STEPS, [round(gib, 2) for gib in memory], strict=True)),
        "seconds_of_reading": round(read, 2),
        "seconds_of_product": round(product, 2),
        "neighbour_recall": found.queries["train"].get("neighbour_recall"),
        **{f"mean_{name}": round(float(found[name].nanmean()), 4) for name in ("safe", "border", "rare", "outlier")},
        "balanced_accuracy": round(found.summary["balanced_accuracy_heldout"], 4),
    }


def sampled(folder: Path) -> dict[str, Any]:
    """Return how far measures of the rows that are used by default lie from those of all rows, over the classes."""
    train, heldout, head = read_bank(folder)
    found = {}
    for rows in (sides.QUERY_ROWS, len(train) + len(heldout)):
        sides.QUERY_ROWS = rows
        found[rows] = diagnose(train, heldout, head=head)
    some, every = found.values()
    measures = {}
    for name in SAMPLED:
        apart = (some[name] - every[name]).abs()
        low, high = (some.columns.get(f"{name}_{end}") for end in ("low", "high"))
        inside = None
        if low is not None and high is not None:
            known = low.isfinite() & every[name].isfinite()
            inside = float(((low <= every[name]) & (every[name] <= high))[known].double().mean())
        measures[name] = {
            "mean": float(every[name].nanmean()),
            "median_apart": float(apart.nanmedian()),
            "most_apart": float(apart.nan_to_num(0).max()),
            "inside": inside,
        }
    return {"rows_used": {name: one["rows"] for name, one in some.queries.items()}, "measures": measures}


def repaired(folder: Path) -> dict[str, Any]:
    """Return the seconds of a head repair of a bank, of each candidate, and what was compared and what was not."""
    train, heldout, head = read_bank(folder)
    rows = torch.bincount(train.labels, minlength=head.num_classes)
    plan = Plan.from_counts([str(c) for c in range(head.num_classes)], rows)
    marks: list[float] = []
    with Peak() as peak:
        started, busy = time.perf_counter(), time.process_time()
        candidates = default_candidates(train, head, counted=plan)
        choice = choose_head(
            train, heldout, head, candidates, progress=lambda done, _: marks.append(time.perf_counter())
        )
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
    options = [one for one in candidates for _ in one.options]
    spent: dict[str, float] = {}
    for one, (before, after) in zip(options, pairwise(marks), strict=True):
        spent[one.name] = round(spent.get(one.name, 0.0) + after - before, 2)
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(busy, 2),
        "anonymous_gib": round(peak.gib, 2),
        "seconds_of_heads": spent,
        "seconds_of_choosing": round(seconds - (marks[-1] - started), 2),
        "compared": {one.name: len(one.labels) for one in candidates},
        "notes": list(choice.notes),
        "recommended": " ".join((choice.names[choice.recommended], choice.option(choice.recommended))).strip(),
        "balanced_accuracy_before": round(float(choice.columns["balanced_accuracy"][0]), 4),
        "balanced_accuracy_after": round(float(choice.columns["balanced_accuracy"][choice.recommended]), 4),
    }


def records_of(figure: str) -> list[Mapping[str, Any]]:
    """Return the records of a figure, "scale", "sampled", "classes" or "repair", the oldest first."""
    records = atomic.read_jsonl(RESULTS) if RESULTS.exists() else []
    return [record for record in records if record["figure"] == figure]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--banks", nargs="+", choices=list(SIZES), default=list(BANKS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--sampled", action="store_true")
    parser.add_argument("--repair", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.exact:
        NeighborSearch.__init__.__kwdefaults__["work"] = math.inf
    if options.child is not None:
        what = repaired if options.repair else sampled if options.sampled else measured
        print(json.dumps(what(options.child)))
        return
    for name in options.banks:
        size = SIZES[name]
        folder = existing_bank(name, size, options.folder)
        command = [sys.executable, "-m", "benchmarks.scale", "--folder", str(options.folder), "--child", str(folder)]
        command += ["--exact"] * options.exact + ["--sampled"] * options.sampled + ["--repair"] * options.repair
        started = provenance.now()
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        record = {
            "kind": "timing",
            "figure": "repair" if options.repair else "sampled" if options.sampled else "scale",
            "bank": name,
            **dataclasses.asdict(size),
            "index": not options.exact,
            **found,
        }
        record |= {"started": started, **provenance.origin(torch.device("cpu"))}
        atomic.append_jsonl(options.out, record)
        print(json.dumps(record))


if __name__ == "__main__":
    main()
