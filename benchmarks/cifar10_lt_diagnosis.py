"""Two ResNet-32 on long-tailed CIFAR-10 with different classes in the tail: `benchmarks/results/cifar10_lt_diagnosis.jsonl`.

    for tail in canonical 0; do
      diversify train --data cifar10 --root DATA --imbalance exp:100 --tail-order $tail --holdout 0 \
        --model resnet32 --epochs 100 --out runs/resnet32-$tail
      diversify diagnose --root DATA --weights runs/resnet32-$tail/model.safetensors --heldout test \
        --out runs/resnet32-$tail-diagnosis
    done
    python -m benchmarks.cifar10_lt_diagnosis runs/resnet32-canonical-diagnosis runs/resnet32-0-diagnosis

The last line appends one record per network; `python -m benchmarks.tables` makes the tables. The questions: does the top-K
magnitude shrink toward the tail, is held-out diversity at matched n lower there, and what does each add to log n? Within one
network class identity is confounded with class size, so each class is also compared between the two networks.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from diversify.commands.diagnosed import load_diagnosed
from diversify.diagnosis.catalogue import MEASURES
from diversify.files import atomic
from diversify.functional import diversity, draws, stats

Array = NDArray[np.float64]
RESULTS = Path(__file__).parent / "results" / "cifar10_lt_diagnosis.jsonl"
BOOTSTRAPS = 2000
ROW_CENTRED = "diversity_vendi_heldout_row_centred"  # in this benchmark only: see `row_centred`
ASKED = (
    "ce_magnitude_ratio",
    "ce_magnitude_ratio_tp",
    "ce_magnitude_gap",
    "fe_magnitude_ratio",
    "identity_overlap",
    "diversity_vendi_heldout",
    ROW_CENTRED,
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
    """Return one record from a folder of `diversify diagnose`: every column, and its origin."""
    diagnosis = atomic.read_json(folder / "diagnosis.json", "diagnosis.json")
    run = atomic.read_json(folder / "run.json", "run.json")
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
    diagnosis["classes"][ROW_CENTRED] = row_centred(folder)
    return {
        "kind": "diagnosis",
        **{name: run[name] for name in kept},
        "weights": {"sha256": run["weights"]["sha256"]},
        "summary": diagnosis["summary"],
        "classes": diagnosis["classes"],
        "enemies": diagnosis["enemies"],
    }


def latest() -> list[dict[str, Any]]:
    """Return the last record per tail order."""
    by_tail = {line["data"]["tail_order"]: line for line in atomic.read_jsonl(RESULTS)}
    return list(by_tail.values())


def row_centred(folder: Path) -> list[float | None]:
    """Return held-out Vendi scores of features centred on the mean of all training rows, which the largest classes dominate.

    The diagnosis centres on the mean of the class means. This score is kept beside it to show what the choice changes.
    """
    found, model, _ = load_diagnosed(folder)
    drawn = diversity.matched_diversity(
        model.heldout.features,
        model.heldout.labels,
        len(found.class_names),
        centre=model.train.features.mean(0),
        weight=None,
        k=found.top_k,
        seed=found.seed,
        name="diversity heldout",
    )
    return [None if math.isnan(value) else round(value, 6) for value in drawn["vendi"].double().mean(0).tolist()]


def _column(line: dict[str, Any], name: str) -> Tensor:
    return torch.tensor([math.nan if value is None else value for value in line["classes"][name]], dtype=torch.float64)


def class_table() -> str:
    """Return a table of both networks, with classes from the most to the fewest training images."""
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


Estimate = Callable[..., Array]


def _ranks(values: Array) -> Array:
    """Return centred ranks along the last dimension; equal values share their mean rank."""
    ranks = rankdata(values, axis=-1)
    return ranks - ranks.mean(-1, keepdims=True)


def _correlation(first: Array, second: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return (first * second).sum(-1) / np.sqrt((first**2).sum(-1) * (second**2).sum(-1))


def spearman(first: Array, second: Array) -> Array:
    """Return rank correlations along the last dimension: `stats.spearman` for many samples at once."""
    return _correlation(_ranks(first), _ranks(second))


def partial_spearman(first: Array, second: Array, given: Array) -> Array:
    """Return the same with the ranks of `given` removed from both: `stats.partial_spearman` for many samples at once."""
    one, two, known = (_ranks(values) for values in (first, second, given))
    between, with_one, with_two = _correlation(one, two), _correlation(one, known), _correlation(two, known)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (between - with_one * with_two) / np.sqrt((1 - with_one**2) * (1 - with_two**2))


def _with_interval(estimate: Estimate, points: list[tuple[Tensor, ...]]) -> str:
    """Return an estimate over the pooled points and its 95% interval over classes drawn with replacement.

    The points of a class in all networks are drawn together.
    """
    parts = [np.stack([network[part].double().numpy() for network in points], -1) for part in range(len(points[0]))]
    classes = len(parts[0])
    whole = float(estimate(*(values.reshape(-1) for values in parts)))
    if math.isnan(whole):
        return "–"
    chosen = draws.integers(classes, "classes", torch.arange(BOOTSTRAPS)[:, None], torch.arange(classes)).numpy()
    drawn = estimate(*(values[chosen].reshape(BOOTSTRAPS, -1) for values in parts))
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return f"{whole:+.2f} ({low:+.2f} to {high:+.2f})"


def answers() -> list[tuple[str, str, str, str, str]]:
    """Return per measure the rank correlation with log n, the same within a class, with recall, and with recall beyond log n."""
    lines = latest()
    counts = [_column(line, "count").log() for line in lines]
    recalls = [_column(line, "recall_heldout") for line in lines]
    found = []
    for name in ASKED:
        columns = [_column(line, name) for line in lines]
        with_count = _with_interval(spearman, list(zip(columns, counts, strict=True)))
        beyond = _with_interval(partial_spearman, list(zip(columns, recalls, counts, strict=True)))
        with_recall = _with_interval(spearman, list(zip(columns, recalls, strict=True)))
        within = "–"
        if len(lines) == 2:
            within = _with_interval(spearman, [(columns[1] - columns[0], counts[1] - counts[0])])
        found.append((name, with_count, within, with_recall, beyond))
    return found


def _title(name: str) -> str:
    return "Vendi score, held-out, centred on all rows" if name == ROW_CENTRED else MEASURES[name].title


def _says(estimate: str, *, up: str, down: str) -> str:
    """Return an estimate in words: `up` or `down` if its interval excludes 0, else that it is open."""
    low, high = (float(end) for end in estimate.split("(")[1].rstrip(")").split(" to "))
    word = up if low > 0 else down if high < 0 else "no trend that ten classes could show"
    return f"{word}, {estimate}"


def text() -> str:
    """Return the answers of the two networks, in words that the intervals choose."""
    lines = latest()
    found = {name: cells for name, *cells in answers()}
    accuracy = " and ".join(
        f"{100 * line['summary']['balanced_accuracy_heldout']:.1f}% ({_tail(line)})" for line in lines
    )
    fits = " and ".join(f"{stats_fit(line):.2f}" for line in lines)
    ceilings = " and ".join(f"{100 * line['summary']['head_ceiling']:.1f}" for line in lines)
    epochs = lines[0]["training"]["recipe"]["epochs"]
    magnitude, vendi, rows = (found[name] for name in ("ce_magnitude_ratio", "diversity_vendi_heldout", ROW_CENTRED))
    train = found["diversity_vendi_train"]
    paragraphs = [
        f"Two ResNet-32, cross entropy, ratio 100, the classic recipe at {epochs} epochs (it is made for 200), last epoch, one seed"
        f" each; the second with other classes in the tail. Balanced test accuracy: {accuracy}. Read on the test split, to be read"
        " only. Intervals are over classes drawn with replacement, with a class's points in both networks kept together: ten"
        " classes are few, and these are two runs.",
        f"**Does top-K magnitude shrink toward the tail?** Rank correlation of the test / train ratio with log n:"
        f" {_says(magnitude[0], up='yes', down='no, it grows')}; for the same class between the two networks, which takes the"
        f" identity of the class out: {magnitude[1]}.",
        f"**Is held-out diversity at matched n lower there?** Vendi score with log n:"
        f" {_says(vendi[0], up='yes, lower', down='no, higher')}; the same class between the networks:"
        f" {_says(vendi[1], up='less diverse where it has fewer images', down='MORE diverse where it has fewer images')}. In"
        f" training features: {_says(train[0], up='lower in the tail', down='higher in the tail')}; same class:"
        f" {_says(train[1], up='less diverse where it has fewer images', down='more diverse where it has fewer images')}."
        f" The centre matters: about the mean of all training rows, where the large classes are, held-out diversity goes"
        f" with log n by {rows[0]}, and for the same class by {rows[1]}.",
        f"**What do they add to log n?** Log n alone explains recall with R² {fits}. With recall, after log n is taken out:"
        f" top-K magnitude: {_says(magnitude[3], up='stronger on unseen images, found more', down='stronger, found less')};"
        f" held-out diversity: {_says(vendi[3], up='more diverse, found more', down='more diverse, found LESS')}.",
        f"A head refitted on balanced test features would gain {ceilings} points of balanced accuracy.",
    ]
    return "\n\n".join(paragraphs)


def _tail(line: dict[str, Any]) -> str:
    order = line["data"]["tail_order"]
    return "canonical tail" if order == "canonical" else f"tail permuted by seed {order}"


def stats_fit(line: dict[str, Any]) -> float:
    """Return R² of recall on log n."""
    fit = stats.fit_log_count(_column(line, "recall_heldout"), _column(line, "count"))
    return math.nan if fit is None else fit.r_squared


def answer_table() -> str:
    """Return `answers` as a table."""
    rows = [
        "| measure | with log n | same class, between the networks | with test recall | with test recall beyond log n |",
        "|:--|--:|--:|--:|--:|",
    ]
    rows += [f"| {_title(name)} | {' | '.join(cells)} |" for name, *cells in answers()]
    return "\n".join(rows)


if __name__ == "__main__":
    for given in sys.argv[1:]:
        atomic.append_jsonl(RESULTS, record(Path(given)))
    print(class_table(), answer_table(), sep="\n\n")
