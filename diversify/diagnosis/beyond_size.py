"""The prediction of recall from class size alone, and what the measures of a diagnosis add to it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..functional import counts, stats
from .catalogue import EXPLANATIONS

FEWEST_ROWS = 5  # of a class; with fewer it has no bootstrap interval and is left out of the lines on log n
MATCHED_N = 20  # images of every class on which diversity, ranges and deviations are compared


def recall_of_groups(columns: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the mean held-out recall of each shot group and of each third of the classes by count; NaN if empty."""
    count, recall = columns["count"].long(), columns["recall_heldout"]
    groups = {
        "recall_many": counts.shot_groups(count) == 0,
        "recall_medium": counts.shot_groups(count) == 1,
        "recall_few": counts.shot_groups(count) == 2,
        "recall_largest_third": counts.count_thirds(count) == 0,
        "recall_middle_third": counts.count_thirds(count) == 1,
        "recall_smallest_third": counts.count_thirds(count) == 2,
    }
    return {name: float(recall[chosen].nanmean()) for name, chosen in groups.items()}


def lines_on_log_count(columns: dict[str, Tensor]) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Return the line on log n of each measure, and each measure's rank correlation with recall beyond class size.

    Also sets the column `recall_log_count`. Every class weighs the same in a line, so classes with fewer than `FEWEST_ROWS`
    images on either side are left out of the lines of the measures.

    Args:
        columns: The columns of a diagnosis, each `(C,)`.

    Returns:
        For each measure that has a line, its `slope`, `intercept`, `r_squared` and `scatter`; and for each measure in
        `EXPLANATIONS`, its rank correlations with recall, with the count, and with recall given the count.
    """
    count, recall = columns["count"], columns["recall_heldout"]
    lines = {}
    enough = (count >= FEWEST_ROWS) & (columns["count_heldout"] >= FEWEST_ROWS)
    fit = stats.fit_log_count(recall, count)
    columns["recall_log_count"] = torch.full_like(recall, torch.nan) if fit is None else fit.predicted.clamp(0, 1)
    for name in ("recall_heldout", *EXPLANATIONS):
        known = columns[name] if name == "recall_heldout" else columns[name].where(enough, torch.nan)
        line = stats.fit_log_count(known, count)
        if line is not None:
            fields = ("slope", "intercept", "r_squared", "scatter")
            lines[name] = {field: getattr(line, field) for field in fields}
    beyond = {
        name: {
            "correlation_with_recall": stats.spearman(columns[name], recall),
            "correlation_with_count": stats.spearman(columns[name], count),
            "correlation_with_recall_given_count": stats.partial_spearman(columns[name], recall, count),
        }
        for name in EXPLANATIONS
    }
    return lines, beyond
