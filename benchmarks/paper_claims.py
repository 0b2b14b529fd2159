"""The verdicts on the paper's claims from the records of `benchmarks.paper`, as tables.

They stand in `docs/results/paper.md` and come from `results/paper_DATA.jsonl`. The claims, their measures
and the rules by which they are judged stand in `diversify/study/experiments/paper_claims.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from benchmarks import paper
from diversify.files import atomic
from diversify.study.experiments.paper_claims import CLAIMS as CLAIMS
from diversify.study.experiments.paper_claims import DOES_NOT, HOLDS, NO_RECORDS, UNTOLD, Record, column
from diversify.study.experiments.paper_claims import by_loss as by_loss
from diversify.study.experiments.paper_claims import judged as judged
from diversify.study.experiments.paper_claims import overall as overall
from diversify.study.experiments.paper_claims import rare as rare
from diversify.study.experiments.paper_claims import rules as rules
from diversify.study.experiments.paper_claims import table as table
from diversify.study.experiments.paper_claims import verdicts as verdicts


def experiments(folder: Path = paper.RESULTS) -> Iterator[list[Record]]:
    """Yield the records of each data set and design."""
    for path in sorted(folder.glob("paper_*.jsonl")):
        found: dict[str, list[Record]] = {}
        for record in atomic.read_jsonl(path):
            found.setdefault(json.dumps(record["design"], sort_keys=True), []).append(record)
        yield from found.values()


def described(records: Sequence[Record]) -> str:
    """Return what was trained, in one line."""
    design, losses = records[0]["design"], by_loss(records)
    counts = column(records[0], "imbalanced", "count")
    balanced = column(records[0], "balanced", "count")
    accuracy = ", ".join(
        f"{loss} {_accuracy(own, 'imbalanced'):.0%} and {_accuracy(own, 'balanced'):.0%}"
        for loss, own in losses.items()
    )
    seeds = min(len(own) for own in losses.values())
    return (
        f"{design['data']}: {design['model']}, {design['epochs']} epochs, {seeds} seeds; {counts.max():.0f} to {counts.min():.0f} images a class"
        f" against {balanced.max():.0f} of every class; K = {records[0]['top_k']} of {records[0]['num_features']} features."
        f" Balanced test accuracy, imbalanced and balanced training: {accuracy}."
    )


def _accuracy(records: Sequence[Record], network: str) -> float:
    return fmean(float(column(record, network, "recall_test").nanmean()) for record in records)


def text() -> str:
    """Return how many claims hold on each data set, and which."""
    lines = []
    for records in experiments():
        found = verdicts(records)
        numbers = [sum(verdict == one for _, _, verdict in found) for one in (HOLDS, DOES_NOT, UNTOLD)]
        lines.append(
            f"- {described(records)} Of {len(found)} measured claims {numbers[0]} hold for every loss, {numbers[1]} for no loss, and of {numbers[2]} it cannot be told."
        )
    return "\n".join(lines) or NO_RECORDS


def tables() -> str:
    """Return the table of each data set under its name."""
    parts = [
        f"### {records[0]['design']['data']}, {records[0]['design']['model']}\n\n{table(records)}"
        for records in experiments()
    ]
    return "\n\n".join(parts) or NO_RECORDS


TABLES: Mapping[str, Callable[[], str]] = {"paper_text": text, "paper_rules": rules, "paper_claims": tables}
