"""Time a diagnosis, its plan and its report with very many classes: figure "classes" of `benchmarks/results/scale.jsonl`.

    python -m benchmarks.many_classes --folder DIR [--banks 1k_classes 10k_classes]

A bank of features is made in `--folder` once, as in `benchmarks.scale`, but without logits, which would be most of it: the diagnosis
computes them from the features, a block at a time. The smallest classes have one training row. Everything runs in a process of its
own, one step after the other. `seconds` and `cpu_seconds` are those of the step; `gib` is the largest memory that the process held
during the step beyond what it held with the bank, without the maps; `megabytes` is the size of the text that the step gives.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks import scale
from benchmarks.scale import Size
from diversify.diagnosis.measure import diagnose
from diversify.diagnosis.result import Diagnosis
from diversify.files import atomic
from diversify.plan.make import make_plan
from diversify.plan.plan import Plan
from diversify.report.diagnosis import render_html, render_markdown
from diversify.runtime import provenance

BANKS: Mapping[str, Size] = {
    f"{name}_classes": Size(
        rows=20 * classes, heldout=5 * classes, features=64, classes=classes, smallest=1, logits=False
    )
    for name, classes in (("1k", 1000), ("10k", 10_000))
}
STEPS = {  # name in the record: what the table calls it
    "diagnose": "`diagnose`",
    "to_json": "`Diagnosis.to_json`",
    "from_json": "`Diagnosis.from_json`",
    "make_plan": "`make_plan`",
    "plan_to_json": "`Plan.to_json`",
    "plan_from_json": "`Plan.from_json`",
    "html": "`render_html`",
    "markdown": "`render_markdown`",
}
Made = TypeVar("Made")


class Steps:
    """The seconds, the memory and the megabytes of one step after the other."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}
        self._before = scale.anonymous_gib()

    def of(self, name: str, make: Callable[[], Made]) -> Made:
        """Do a step, and keep what it took."""
        with scale.Peak() as peak:
            started, busy = time.perf_counter(), time.process_time()
            made = make()
            seconds, busy = time.perf_counter() - started, time.process_time() - busy
        one = {
            "seconds": round(seconds, 2),
            "cpu_seconds": round(busy, 2),
            "gib": round(max(peak.gib, scale.anonymous_gib()) - self._before, 3),
        }
        if isinstance(made, str):
            one["megabytes"] = round(len(made.encode()) / 1e6, 2)
        self.found[name] = one
        print(f"{name}: {one}", file=sys.stderr, flush=True)
        return made


def measured(folder: Path) -> dict[str, Any]:
    """Return what the steps from a bank to the report took, and the balanced accuracy, findings and policies that they gave."""
    train, heldout, head = scale.read_bank(folder)
    steps = Steps()
    diagnosis = steps.of("diagnose", lambda: diagnose(train, heldout, head=head))
    text = steps.of("to_json", diagnosis.to_json)
    steps.of("from_json", lambda: Diagnosis.from_json(text))
    plan = steps.of("make_plan", lambda: make_plan(diagnosis))
    planned = steps.of("plan_to_json", plan.to_json)
    steps.of("plan_from_json", lambda: Plan.from_json(planned))
    steps.of("html", lambda: render_html(diagnosis))
    steps.of("markdown", lambda: render_markdown(diagnosis))
    return {
        "steps": steps.found,
        "balanced_accuracy": round(diagnosis.summary["balanced_accuracy_heldout"], 4),
        "findings": len(diagnosis.findings),
        "policies": sum(len(one.features) for one in plan.classes),
    }


def table() -> str:
    """Return the last record of each bank: a row for each step, the banks side by side."""
    latest = {str(record["bank"]): record for record in scale.records_of("classes")}
    banks = [latest[name] for name in BANKS if name in latest]
    if not banks:
        return "No records yet."
    heads = [f"{one['classes']:,} classes: {what}" for one in banks for what in ("seconds", "memory, GiB", "MB")]
    rows = [f"| | {' | '.join(heads)} |", f"|:--|{'--:|' * len(heads)}"]
    for step, title in STEPS.items():
        cells = []
        for one in banks:
            found = one["steps"][step]
            size = f"{found['megabytes']:.1f}" if "megabytes" in found else ""
            cells += [f"{found['seconds']:.1f}", f"{found['gib']:.2f}", size]
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_classes", description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--banks", nargs="+", choices=list(BANKS), default=list(BANKS))
    parser.add_argument("--out", type=Path, default=scale.RESULTS)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        print(json.dumps(measured(options.child)))
        return
    for name in options.banks:
        size = BANKS[name]
        folder = scale.existing_bank(name, size, options.folder)
        command = [sys.executable, "-m", "benchmarks.many_classes", "--folder", str(folder), "--child", str(folder)]
        started = provenance.now()
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        record = {"kind": "timing", "figure": "classes", "bank": name, **dataclasses.asdict(size), **found}
        record |= {"started": started, **provenance.origin(torch.device("cpu"))}
        atomic.append_jsonl(options.out, record)
        print(json.dumps(record))


if __name__ == "__main__":
    main()
