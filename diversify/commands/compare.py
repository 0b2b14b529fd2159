"""The `compare` command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from ..diagnosis.model_comparison import ModelComparison, compare_models
from ..errors import must
from ..files import atomic, staging
from ..report.comparison import render_comparison_html, render_comparison_markdown
from ..runtime import provenance
from .diagnose import load_diagnosed
from .folders import OWNED, SCHEMA_VERSION, alone
from .train import Say


@alone
def compare_run(
    first: Path, second: Path, *, out: Path, overwrite: bool = False, say: Say
) -> tuple[ModelComparison, dict[str, Any]]:
    """Compare two folders of `diagnose_run`; leaves `comparison.json`, `report.html`, `report.md`, `run.json` in `out`."""
    staging.ensure_available(out, overwrite, owned=OWNED, inputs=(first, second))
    (one, one_model, one_record), (two, two_model, two_record) = load_diagnosed(first), load_diagnosed(second)
    if one.class_names != two.class_names:
        differ = [f"{a} and {b}" for a, b in zip(one.class_names, two.class_names, strict=False) if a != b]
        raise must("both diagnoses", "have the same classes", (differ or ["another number of them"])[0])
    if one.top_k != two.top_k:
        raise must(
            "both diagnoses", "have the same top-K", f"{one.top_k} and {two.top_k}", "diagnose again with one --top-k"
        )
    starts = [(record.get("training") or {}).get("initial_weights") for record in (one_record, two_record)]
    if one_model.name == two_model.name:
        one_model, two_model = (
            dataclasses.replace(model, name=str(folder)) for model, folder in ((one_model, first), (two_model, second))
        )
    comparison = compare_models(
        one_model,
        two_model,
        class_names=one.class_names,
        shared_start=starts[0] is not None and starts[0] == starts[1],
        top_k=one.top_k,
        seed=one.seed,
    )
    say(f"features of the two are identified by: {comparison.matched_by}")
    record = {
        "schema_version": SCHEMA_VERSION,
        "command": "compare",
        "started": provenance.now(),
        "first": {"path": str(first), **one_record},
        "second": {"path": str(second), **two_record},
        **provenance.origin(torch.device("cpu")),
    }
    with staging.staged_directory(out, overwrite=overwrite, owned=OWNED) as folder:
        atomic.write_json(folder / "comparison.json", comparison.to_dict())
        # To the digits of the file, so that `report` gives the same.
        kept = ModelComparison.from_dict(comparison.to_dict())
        atomic.write_text(folder / "report.html", render_comparison_html(kept, record))
        atomic.write_text(folder / "report.md", render_comparison_markdown(kept, record))
        atomic.write_json(folder / "run.json", record)
    return comparison, record
