"""The `report` command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .. import origin, storage
from ..comparison import ModelComparison
from ..comparison_report import render_comparison_html, render_comparison_markdown
from ..diagnosis import Diagnosis
from ..errors import must
from ..exhibits import Exhibits
from ..head_choice import HeadChoice
from ..plan import Plan
from ..remedy_report import render_remedy_html, render_remedy_markdown
from ..report import render_html, render_markdown
from .folders import SCHEMA_VERSION, alone


@alone
def report_run(folder: Path, *, out: Path, overwrite: bool = False) -> dict[str, Any]:
    """The report of a folder that `diagnose`, `compare` or `remedy` left, made again from its numbers; returns the record.

    Leaves `report.html`, `report.md` and `run.json` in `out`; neither the data nor the network is needed.
    """
    storage.ensure_available(out, overwrite, inputs=[folder])
    if not folder.is_dir() or not storage.is_run(folder):
        raise must("DIR", "be a folder that `diversify diagnose`, `compare` or `remedy` left", folder)
    run = storage.read_json(folder / "run.json", "run.json")
    if (folder / "comparison.json").is_file():
        comparison = ModelComparison.from_dict(storage.read_json(folder / "comparison.json", "comparison.json"))
        texts = render_comparison_html(comparison, run), render_comparison_markdown(comparison, run)
    elif (folder / "remedy.json").is_file():
        remedy = storage.read_json(folder / "remedy.json", "remedy.json")
        plan = Plan.from_dict(storage.read_json(folder / "plan.json", "plan.json"))
        try:
            names, choice = tuple(map(str, remedy["class_names"])), HeadChoice.from_dict(remedy["choice"])
        except (KeyError, TypeError):
            raise must("remedy.json", "hold class_names and choice", folder / "remedy.json") from None
        texts = render_remedy_html(choice, names, plan, run), render_remedy_markdown(choice, names, plan, run)
    elif (folder / "diagnosis.json").is_file():
        diagnosis = Diagnosis.from_dict(storage.read_json(folder / "diagnosis.json", "diagnosis.json"))
        stored = folder / "exhibits.json"
        exhibits = Exhibits.from_dict(storage.read_json(stored, "exhibits.json")) if stored.is_file() else None
        texts = render_html(diagnosis, run, exhibits), render_markdown(diagnosis, run, exhibits)
    else:
        raise must(
            "DIR",
            "hold a diagnosis.json, comparison.json or remedy.json",
            folder,
            "run `diversify diagnose` to its end",
        )
    record = {
        "schema_version": SCHEMA_VERSION,
        "command": "report",
        "started": origin.now(),
        "of": {"path": str(folder), **run},
        **origin.origin(torch.device("cpu")),
    }
    with storage.staged_directory(out, overwrite=overwrite) as staged:
        for name, text in zip(("report.html", "report.md"), texts, strict=True):
            storage.write_text(staged / name, text)
        storage.write_json(staged / "run.json", record)
    return record
