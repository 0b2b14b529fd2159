"""What two ResNet-32 on long-tailed CIFAR-10 show, with other classes in the tail: `benchmarks/results/cifar10_lt_diagnosis.jsonl`.

    for tail in canonical 0; do
      diversify train --data cifar10 --root DATA --imbalance exp:100 --tail-order $tail --holdout 0 \\
        --model resnet32 --epochs 100 --out runs/resnet32-$tail
      diversify diagnose --root DATA --weights runs/resnet32-$tail/model.safetensors --heldout test \\
        --out runs/resnet32-$tail-diagnosis
    done
    python -m benchmarks.cifar10_lt_diagnosis runs/resnet32-canonical-diagnosis runs/resnet32-0-diagnosis

The last line appends one record per network; `python -m benchmarks.tables` makes the tables. The questions: does top-K
magnitude shrink toward the tail, is held-out diversity at matched n lower there, and what does each add to log n? Class
identity is confounded with class size within one network, so the same class is also compared between the two.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diversify import storage
from diversify.functional import draws, stats
from diversify.measures import MEASURES

RESULTS = Path(__file__).parent / "results" / "cifar10_lt_diagnosis.jsonl"
BOOTSTRAPS = 2000
ASKED = (
    "ce_magnitude_ratio",
    "ce_magnitude_ratio_tp",
    "ce_magnitude_gap",
    "fe_magnitude_ratio",
    "identity_overlap",
    "diversity_vendi_heldout",
    "diversity_effective_rank_heldout",
    "diversity_hill_heldout",
    "diversity_spread_heldout",
    "diversity_cosine_heldout",
    "diversity_vendi_train",
    "feature_deviation",
    "range_gap",
    "nc1",
    "nc1_heldout",
    "head_norm",
    "safe",
    "top_k_share",
    "needed_tp",
)


def record(folder: Path) -> dict[str, Any]:
    """One record from a folder that `diversify diagnose` left: every column, and where it comes from."""
    diagnosis = storage.read_json(folder / "diagnosis.json", "diagnosis.json")
    run = storage.read_json(folder / "run.json", "run.json")
    kept = (
        "data",
        "model",
        "training",
        "weights",
        "heldout_split",
        "top_k",
        "seed",
        "versions",
        "commit",
        "device",
        "started",
    )
    return {
        "kind": "diagnosis",
        **{name: run[name] for name in kept},
        "weights": {"sha256": run["weights"]["sha256"]},
        "summary": diagnosis["summary"],
        "classes": diagnosis["classes"],
        "enemies": diagnosis["enemies"],
    }


def latest() -> list[dict[str, Any]]:
    """The last record per tail order."""
    by_tail = {line["data"]["tail_order"]: line for line in storage.read_jsonl(RESULTS)}
    return list(by_tail.values())


def _column(line: dict[str, Any], name: str) -> Tensor:
    return torch.tensor([math.nan if value is None else value for value in line["classes"][name]], dtype=torch.float64)


def class_table() -> str:
    """Both networks, classes from the most to the fewest training images."""
    rows = [
        "| tail | class | images | recall | log n predicts | top-K magnitude, test / train | Vendi score of 20 test images | same, 20 training images |",
        "|:--|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for line in latest():
        count = _column(line, "count")
        for c in torch.argsort(count, descending=True).tolist():

            def cell(name: str, form: str, line: dict[str, Any] = line, c: int = c) -> str:
                value, low, high = (line["classes"].get(name + end, [None] * 10)[c] for end in ("", "_low", "_high"))
                if value is None:
                    return "–"
                return format(value, form) + (
                    f" ({format(low, form)} to {format(high, form)})" if low is not None else ""
                )

            rows.append(
                f"| {line['data']['tail_order']} | {line['classes']['name'][c]} | {int(count[c])} | {cell('recall_heldout', '.2f')} |"
                f" {cell('recall_log_count', '.2f')} | {cell('ce_magnitude_ratio', '.2f')} |"
                f" {cell('diversity_vendi_heldout', '.1f')} | {cell('diversity_vendi_train', '.1f')} |"
            )
    return "\n".join(rows)


def _interval(values: list[float]) -> tuple[float, float]:
    low, high = stats.interval(torch.tensor(values, dtype=torch.float64))
    return float(low), float(high)


def _with_interval(estimate: Any, points: list[tuple[Tensor, ...]]) -> str:
    """An estimate over the pooled points, and its 95% interval over classes drawn with replacement (a class's two points together)."""
    classes = len(points[0][0])

    def pooled(rows: Tensor) -> float:
        return float(
            estimate(*(torch.cat([network[part][rows] for network in points]) for part in range(len(points[0]))))
        )

    whole = pooled(torch.arange(classes))
    if math.isnan(whole):
        return "–"
    drawn = [pooled(draws.integers(classes, "classes", draw, torch.arange(classes))) for draw in range(BOOTSTRAPS)]
    low, high = _interval(drawn)
    return f"{whole:+.2f} ({low:+.2f} to {high:+.2f})"


def answers() -> list[tuple[str, str, str, str, str]]:
    """Per measure: rank correlation with log n, the same within a class, with recall, and with recall beyond log n."""
    lines = latest()
    counts = [_column(line, "count").log() for line in lines]
    recalls = [_column(line, "recall_heldout") for line in lines]
    found = []
    for name in ASKED:
        columns = [_column(line, name) for line in lines]
        with_count = _with_interval(stats.spearman, list(zip(columns, counts, strict=True)))
        beyond = _with_interval(stats.partial_spearman, list(zip(columns, recalls, counts, strict=True)))
        with_recall = _with_interval(stats.spearman, list(zip(columns, recalls, strict=True)))
        within = "–"
        if len(lines) == 2:
            within = _with_interval(stats.spearman, [(columns[1] - columns[0], counts[1] - counts[0])])
        found.append((name, with_count, within, with_recall, beyond))
    return found


def answer_table() -> str:
    """`answers` as a table."""
    rows = [
        "| measure | with log n | same class, between the networks | with test recall | with test recall beyond log n |",
        "|:--|--:|--:|--:|--:|",
    ]
    rows += [f"| {MEASURES[name].title} | {' | '.join(cells)} |" for name, *cells in answers()]
    return "\n".join(rows)


if __name__ == "__main__":
    for given in sys.argv[1:]:
        storage.append_jsonl(RESULTS, record(Path(given)))
    print(class_table(), answer_table(), sep="\n\n")
