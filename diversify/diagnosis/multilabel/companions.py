"""Labels that are recognised less often where another label is missing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ...functional import stats
from .columns import Side

FEWEST_TOGETHER = 5  # held-out positives with, and without, another label, below which the two are not compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class Companion:
    """A label without which another label is recognised less often.

    Attributes:
        label: The label whose recall is compared.
        other: The label that comes with it.
        recall_with: Held-out recall over the positives that also have `other`.
        recall_without: The same over those that do not.
        low: Low end of the interval of `recall_without - recall_with`, corrected for the number of pairs compared.
        high: High end.
        share_train: P(other | label) in training.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_multilabel_embeddings()
        >>> [(one.label, one.other) for one in dv.diagnose_multilabel(train, heldout, head=head).companions]
        [(2, 0)]
    """

    label: int
    other: int
    recall_with: float
    recall_without: float
    low: float
    high: float
    share_train: float


def companions_of(heldout: Side, together: Tensor, columns: Mapping[str, Tensor]) -> tuple[Companion, ...]:
    """Return the other label, if any, without which each label's recall is lower, beyond the intervals of all pairs."""
    labels = heldout.labels.double()
    hits = (heldout.labels & heldout.predicted).double()
    with_both, hits_both = labels.T @ labels, hits.T @ labels
    without, hits_without = labels.sum(0)[:, None] - with_both, hits.sum(0)[:, None] - hits_both
    compared = (with_both >= FEWEST_TOGETHER) & (without >= FEWEST_TOGETHER)
    compared &= together > columns["prevalence"]  # only labels that come together more often than by chance
    compared.fill_diagonal_(False)
    pairs = int(compared.sum())
    if not pairs:
        return ()
    confidence = 1 - 0.05 / pairs
    shares = hits_both / with_both, hits_without / without
    ends = (
        stats.wilson_interval(hits_both, with_both, confidence),
        stats.wilson_interval(hits_without, without, confidence),
    )
    low, high = stats.difference_interval(shares[0], ends[0], shares[1], ends[1])
    lower = high.masked_fill(~compared | ~(high < 0), torch.inf)
    found = []
    for c in range(len(lower)):
        other = int(lower[c].argmin())
        if math.isfinite(float(lower[c, other])):
            found.append(
                Companion(
                    label=c,
                    other=other,
                    recall_with=float(shares[0][c, other]),
                    recall_without=float(shares[1][c, other]),
                    low=float(low[c, other]),
                    high=float(high[c, other]),
                    share_train=float(together[c, other]),
                )
            )
    return tuple(found)
