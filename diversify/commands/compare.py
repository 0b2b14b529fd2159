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
from ..runtime.progress import Say
from .diagnosed import load_diagnosed
from .folders import OWNED, SCHEMA_VERSION, alone, refuse_multilabel
from .forecast_on_record import forecast_on_record


@alone
def compare_run(
    first: Path, second: Path, *, out: Path, overwrite: bool = False, say: Say
) -> tuple[ModelComparison, dict[str, Any]]:
    """Compare the networks of two folders that `diagnose_run` wrote, class by class.

    Args:
        first: The first folder.
        second: The second folder, with a diagnosis of the same classes at the same `top_k`.
        out: Receives `comparison.json`, `report.html`, `report.md` and `run.json`, all or none.
        overwrite: Replace an earlier run in `out`.
        say: Called with a line on how features are matched.

    Returns:
        The comparison, and the record that `run.json` holds.

    Raises:
        InputError: The folders cannot be compared, or `out` cannot be written.
    """
    staging.ensure_available(out, overwrite, owned=OWNED, inputs=(first, second), beside=True)
    for name, place in (("first", first), ("second", second)):
        refuse_multilabel("compare", place, name)
    one, one_model, one_record = load_diagnosed(first, "first")
    two, two_model, two_record = load_diagnosed(second, "second")
    if one.class_names != two.class_names:
        differ = [f"{a} and {b}" for a, b in zip(one.class_names, two.class_names, strict=False) if a != b]
        raise must("both diagnoses", "have the same classes", (differ or ["different numbers of classes"])[0])
    if one.top_k != two.top_k:
        raise must(
            "both diagnoses", "have the same top-K", f"{one.top_k} and {two.top_k}", "diagnose both with the same top_k"
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
    expected = forecast_on_record(one, one_record, two_record)
    if expected is not None:
        comparison = dataclasses.replace(comparison, columns={**comparison.columns, **expected[1]})
        say(f"a forecast is on record: what {expected[0]} was expected to change")
    say(f"features of the two networks are matched by: {comparison.matched_by}")
    record = {
        "schema_version": SCHEMA_VERSION,
        "command": "compare",
        "started": provenance.now(),
        "first": {"path": str(first), **one_record},
        "second": {"path": str(second), **two_record},
        **({} if expected is None else {"forecast_of": expected[0]}),
        **provenance.origin(torch.device("cpu")),
    }
    with staging.staged_directory(out, overwrite=overwrite, owned=OWNED) as folder:
        atomic.write_json(folder / "comparison.json", comparison.to_dict())
        # Rounded as in the file, so that `report` gives the same page.
        kept = ModelComparison.from_dict(comparison.to_dict())
        atomic.write_text(folder / "report.html", render_comparison_html(kept, record))
        atomic.write_text(folder / "report.md", render_comparison_markdown(kept, record))
        atomic.write_json(folder / "run.json", record)
    return comparison, record
