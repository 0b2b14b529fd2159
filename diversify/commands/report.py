"""The `report` command: the report of a folder, or of a study's records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..diagnosis.exhibits import Exhibits
from ..diagnosis.model_comparison import ModelComparison
from ..diagnosis.multilabel import MultilabelDiagnosis
from ..diagnosis.result import Diagnosis
from ..errors import must
from ..files import atomic, digests, staging
from ..plan.plan import Plan
from ..repair.choice import HeadChoice
from ..repair.multilabel_choice import MultilabelChoice
from ..report.benchmark.page import render_benchmark_html, render_benchmark_markdown
from ..report.comparison import render_comparison_html, render_comparison_markdown
from ..report.diagnosis import render_html, render_markdown
from ..report.multilabel import render_multilabel_remedy_html, render_multilabel_remedy_markdown
from ..report.remedy import render_remedy_html, render_remedy_markdown
from ..runtime import provenance
from ..study.analysis import compare
from ..study.read import load, load_protocol, load_spaces
from ..study.records import Record
from ..study.tune import importances, read_space
from .folders import OWNED, SCHEMA_VERSION, alone

RECORDS = ".jsonl"  # suffix of a study's records


@alone
def report_run(source: Path, *, out: Path, overwrite: bool = False) -> dict[str, Any]:
    """Write the report of a study's records, or rewrite that of a folder; needs neither the data nor the network.

    Args:
        source: A study's records, a file that ends in `.jsonl`; or a folder that `diagnose`, `compare` or `remedy` wrote.
        out: Receives `report.html`, `report.md` and `run.json`, all or none.
        overwrite: Replace an earlier run in `out`.

    Returns:
        The record that `run.json` holds.

    Raises:
        InputError: `source` holds nothing to report on, or `out` cannot be written.
    """
    staging.ensure_available(out, overwrite, owned=OWNED, inputs=[source], beside=True)
    study = source.suffix == RECORDS and not source.is_dir()
    of, texts = _of_study(source) if study else _of_folder(source)
    record = {
        "schema_version": SCHEMA_VERSION,
        "command": "report",
        "started": provenance.now(),
        "of": {"path": str(source), **of},
        **provenance.origin(torch.device("cpu")),
    }
    with staging.staged_directory(out, overwrite=overwrite, owned=OWNED) as staged:
        for name, text in zip(("report.html", "report.md"), texts, strict=True):
            atomic.write_text(staged / name, text)
        atomic.write_json(staged / "run.json", record)
    return record


def _of_study(path: Path) -> tuple[dict[str, Any], tuple[str, str]]:
    """The provenance of a study's records, and their report as HTML and as Markdown."""
    records = load(path)
    if not records:
        raise must("source", "hold at least one record", path)
    spaces = load_spaces(path)

    def importances_of(trials: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float] | None:
        space = spaces.get(str(trials[0]["method"]))
        if space is None:
            return None
        shares = importances([Record.model_validate_json(json.dumps(one)) for one in trials], read_space(space))
        known = {name: share for name, share in shares.items() if share is not None}
        return known or None

    comparison = compare(records, protocol=load_protocol(path), importances=importances_of)
    of = {"sha256": digests.sha256(path), "records": len(records), "suites": [one.label for one in comparison.suites]}
    return of, (render_benchmark_html(comparison), render_benchmark_markdown(comparison))


def _of_folder(folder: Path) -> tuple[dict[str, Any], tuple[str, str]]:
    """The record of a folder, and its report as HTML and as Markdown."""
    if not folder.is_dir() or not staging.is_run(folder):
        raise must(
            "source",
            "be a folder that `diversify diagnose`, `compare` or `remedy` wrote",
            folder,
            "" if folder.is_dir() else "the records of a study are a file that ends in .jsonl",
        )
    run = atomic.read_json(folder / "run.json", "run.json")
    if (folder / "comparison.json").is_file():
        comparison = ModelComparison.from_dict(atomic.read_json(folder / "comparison.json", "comparison.json"))
        texts = render_comparison_html(comparison, run), render_comparison_markdown(comparison, run)
    elif (folder / "remedy.json").is_file():
        remedy = atomic.read_json(folder / "remedy.json", "remedy.json")
        if isinstance(remedy, dict) and remedy.get("kind") == "multilabel":
            return run, _of_multilabel_remedy(remedy, run)
        plan = Plan.from_dict(atomic.read_json(folder / "plan.json", "plan.json"))
        try:
            names, choice = tuple(map(str, remedy["class_names"])), HeadChoice.from_dict(remedy["choice"])
        except (KeyError, TypeError):
            raise must("remedy.json", "hold class_names and choice", folder / "remedy.json") from None
        texts = render_remedy_html(choice, names, plan, run), render_remedy_markdown(choice, names, plan, run)
    elif (folder / "diagnosis.json").is_file():
        values = atomic.read_json(folder / "diagnosis.json", "diagnosis.json")
        if isinstance(values, dict) and values.get("kind") == "multilabel":
            several = MultilabelDiagnosis.from_dict(values)
            return run, (render_html(several, run), render_markdown(several, run))
        diagnosis = Diagnosis.from_dict(values)
        stored = folder / "exhibits.json"
        exhibits = Exhibits.from_dict(atomic.read_json(stored, "exhibits.json")) if stored.is_file() else None
        texts = render_html(diagnosis, run, exhibits), render_markdown(diagnosis, run, exhibits)
    else:
        raise must(
            "source",
            "hold a diagnosis.json, comparison.json or remedy.json",
            folder,
            "run `diversify diagnose` to its end",
        )
    return run, texts


def _of_multilabel_remedy(remedy: Mapping[str, Any], run: Mapping[str, Any]) -> tuple[str, str]:
    """The report on a repaired head for several labels, as HTML and as Markdown."""
    names, choice = remedy.get("label_names"), remedy.get("choice")
    if not isinstance(names, list) or not isinstance(choice, dict):
        raise must("remedy.json", "hold label_names and choice", ", ".join(remedy))
    found = MultilabelChoice.from_dict(choice)
    if len(names) != len(found.thresholds):
        raise must("label_names of remedy.json", f"be one per label, {len(found.thresholds)}", len(names))
    labels = [str(name) for name in names]
    return (
        render_multilabel_remedy_html(found, labels, run),
        render_multilabel_remedy_markdown(found, labels, run),
    )
