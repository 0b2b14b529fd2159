"""The measures of every label, each computed into named columns `(C,)`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...functional import diversity, magnitude, multilabel, stats
from ...network.linear_head import LinearHead
from ...network.multilabel import MultilabelEmbeddings
from ..beyond_size import FEWEST_ROWS, MATCHED_N

BOOTSTRAPS = 200
DRAWS = 50  # draws of equally many positives of every label
FOLDS = 5
_BLOCK = 1 << 22  # bootstrap weights at a time: 32 MB


class Side(NamedTuple):
    """One side on the CPU: features as the head sees them and as they are, labels, logits, and decisions."""

    features: Tensor
    raw: Tensor
    labels: Tensor
    logits: Tensor
    predicted: Tensor


def side_of(embeddings: MultilabelEmbeddings, head: LinearHead, thresholds: Tensor) -> Side:
    """Return one side, with the decisions of a head at its thresholds."""
    raw = embeddings.features.cpu()
    logits = head.logits(raw).double()
    return Side(head.effective(raw)[0], raw, embeddings.labels.cpu(), logits, logits >= thresholds.logit())


def _put_share(columns: dict[str, Tensor], name: str, hits: Tensor, totals: Tensor) -> None:
    low, high = stats.wilson_interval(hits, totals)
    columns |= {name: hits.double() / totals, f"{name}_low": low, f"{name}_high": high}


def put_recognition(columns: dict[str, Tensor], train: Side, heldout: Side, thresholds: Tensor) -> None:
    """Put counts, recall, precision and calibration, as predicted and after the prior is removed."""
    for end, side in (("", train), ("_heldout", heldout)):
        columns[f"count{end}"] = side.labels.sum(0).double()
        columns[f"prevalence{end}"] = side.labels.double().mean(0)
    hits, positives, called = multilabel.decision_counts(train.labels, train.predicted)
    _put_share(columns, "recall_train", hits, positives)
    hits, positives, called = multilabel.decision_counts(heldout.labels, heldout.predicted)
    _put_share(columns, "recall_heldout", hits, positives)
    _put_share(columns, "precision_heldout", hits, called)
    columns["average_precision_train"] = multilabel.average_precision(train.logits, train.labels)
    columns["ece"] = multilabel.binary_calibration_error(heldout.logits, heldout.labels)
    columns["calibration_bias"] = heldout.logits.sigmoid().mean(0) - columns["prevalence_heldout"]
    columns["threshold"] = thresholds
    prior = multilabel.prior_log_odds(train.labels.sum(0), len(train.labels))
    corrected = heldout.logits - prior >= thresholds.logit()
    hits, positives, called = multilabel.decision_counts(heldout.labels, corrected)
    _put_share(columns, "recall_corrected", hits, positives)
    _put_share(columns, "precision_corrected", hits, called)
    columns["f1_corrected"] = multilabel.f1_of_counts(hits, positives, called)


def put_gains(columns: dict[str, Tensor], train: Side, heldout: Side, thresholds: Tensor, seed: int) -> None:
    """Put average precision and F1, of this head and of what is fitted on other folds, with bootstraps over images."""
    labels, rows = heldout.labels, len(heldout.labels)
    fold = multilabel.label_folds(labels, FOLDS, seed=seed)
    fitted = (fold >= 0).all(0)
    decided = multilabel.cross_fitted_decisions(heldout.logits, labels, fold)
    refitted = multilabel.cross_fitted_scores(heldout.raw, labels, fold).nan_to_num(0.0)

    def measured(times: Tensor | None) -> dict[str, Tensor]:
        weights = torch.ones(1, rows, dtype=torch.float64) if times is None else times
        positives = weights @ labels.double()
        found = {}
        for name, chosen in (("f1_heldout", heldout.predicted), ("f1_best_threshold", decided)):
            hits, called = weights @ (chosen & labels).double(), weights @ chosen.double()
            found[name] = multilabel.f1_of_counts(hits, positives, called)
        found["average_precision"] = multilabel.average_precision(heldout.logits, labels, weights)
        found["ap_refitted"] = multilabel.average_precision(refitted, labels, weights)
        for name in ("f1_best_threshold", "ap_refitted"):
            found[name] = found[name].where(fitted, torch.nan)
        found["f1_gain"] = found["f1_best_threshold"] - found["f1_heldout"]
        found["ap_gain"] = found["ap_refitted"] - found["average_precision"]
        return found

    blocks = [
        measured(multilabel.bootstrap_weights(rows, block, seed=seed, name="multilabel bootstrap"))
        for block in torch.arange(BOOTSTRAPS).split(max(1, _BLOCK // rows))
    ]
    enough = labels.sum(0) >= FEWEST_ROWS
    hit = {
        "f1_heldout": (labels & heldout.predicted).any(0)
    }  # without a hit every draw is 0, which says nothing of its spread
    for name, value in measured(None).items():
        ends = stats.interval(torch.cat([block[name] for block in blocks]))
        columns[name] = value[0]
        columns[f"{name}_low"], columns[f"{name}_high"] = (
            end.where(enough & hit.get(name, enough), torch.nan) for end in ends
        )
    columns["threshold_best"] = multilabel.best_thresholds(heldout.logits, labels).sigmoid()


def put_magnitudes(
    columns: dict[str, Tensor], train: Side, heldout: Side, head: LinearHead, k: int, seed: int
) -> Tensor:
    """Put ratio and gap of the top-K magnitude of the positives; return the top-K `(C, K)`."""
    _, weight, _ = head.effective(train.features[:1])
    count = head.num_classes
    means = torch.stack([train.features[train.labels[:, c]].double().mean(0) for c in range(count)]) * weight
    indices = magnitude.top_k(means, k)
    names = [f"ce_magnitude_{kind}{end}" for kind in ("ratio", "gap") for end in ("", "_low", "_high")]
    columns |= {name: torch.full((count,), torch.nan, dtype=torch.float64) for name in names}
    for c in range(count):
        if int(indices[c, 0]) < 0:
            continue
        mean, drawn = [], []
        for name, side in (("train", train), ("heldout", heldout)):
            chosen = side.features[side.labels[:, c]][:, indices[c]].double() * weight[c, indices[c]]
            values, zeros = chosen.mean(1), torch.zeros(len(chosen), dtype=torch.int64)
            mean.append(values.mean()[None])
            key = f"multilabel magnitude {name} {c}"
            draws = stats.bootstrap_class_mean(values, zeros, 1, BOOTSTRAPS, seed=seed, name=key)[:, 0]
            drawn.append(draws if len(values) >= FEWEST_ROWS else torch.full_like(draws, torch.nan))
        for kind, measure in (("ratio", magnitude.magnitude_ratio), ("gap", magnitude.magnitude_gap)):
            low, high = stats.interval(measure(*drawn))
            columns[f"ce_magnitude_{kind}"][c] = measure(*mean)[0]
            columns[f"ce_magnitude_{kind}_low"][c], columns[f"ce_magnitude_{kind}_high"][c] = low, high
    return indices


def put_diversity(columns: dict[str, Tensor], train: Side, heldout: Side, head: LinearHead, k: int, seed: int) -> None:
    """Put the Vendi score of the positives at matched n; no interval below 2n, where draws share most of their rows."""
    _, weight, _ = head.effective(train.features[:1])
    count = head.num_classes
    centre = torch.stack([train.raw[train.labels[:, c]].double().mean(0) for c in range(count)]).nanmean(0)
    centre = centre.where(centre.isfinite(), train.raw.double().mean(0))  # no training image has a label
    for name, side in (("train", train), ("heldout", heldout)):
        drawn = torch.full((DRAWS, count), torch.nan, dtype=torch.float64)
        for c in range(count):
            rows = side.raw[side.labels[:, c]]
            if len(rows) >= MATCHED_N:
                drawn[:, c] = diversity.matched_diversity(
                    rows,
                    torch.zeros(len(rows), dtype=torch.int64),
                    1,
                    centre=centre,
                    weight=weight[c : c + 1],
                    k=k,
                    n=MATCHED_N,
                    draws=DRAWS,
                    seed=seed,
                    name=f"multilabel diversity {name}",
                )["vendi"][:, 0]
        enough = side.labels.sum(0) >= 2 * MATCHED_N
        column = f"diversity_vendi_{name}"
        columns[column] = drawn.nanmean(0)
        columns[f"{column}_low"], columns[f"{column}_high"] = (
            end.where(enough, torch.nan) for end in stats.interval(drawn)
        )
