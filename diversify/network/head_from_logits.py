"""Find the head that turns given features into given logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import must
from .embeddings import logits_tensor, real_tensor, require_finite
from .linear_head import LinearHead

LARGEST_RESIDUAL = 5e-3  # relative to the spread of the logits: bfloat16 rounds them by 1e-3
_SPARE = 10  # rows beyond those that any logits would fit
_MOST = 4  # rows that are fitted per feature; all rows are compared
_ADVICE = "pass head=FILE, or leave out the logits"


def head_from_logits(features: Any, logits: Any) -> LinearHead:
    """Return the head `W f + b` that gives the logits of these features; it is solved for and then compared.

    W and b are the least-squares solution on at most four rows per feature, in float64. A feature with the same value in
    every row gets the weight 0.

    Args:
        features: `(N, D)` real numbers.
        logits: `(N, C)` real numbers; `(N, 1)` or `(N,)` for a binary classifier with a single logit.

    Returns:
        The head.

    Raises:
        InputError: There are too few rows, several heads give the logits because features depend on each other, or no
            head does, since the logits are no affine function of the features.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> found = dv.head_from_logits(train.features, train.logits)
        >>> bool(torch.allclose(found.weight, head.weight, atol=1e-4))
        True
    """
    rows, wanted = _checked(features, logits)
    used = rows.std(0) > 0 if len(rows) > 1 else torch.zeros(rows.shape[1], dtype=torch.bool)
    needed = int(used.sum()) + 1 + _SPARE
    if len(rows) < needed:
        raise must("features", f"have at least {needed:,} rows to find the head of the logits", len(rows), _ADVICE)
    few = torch.linspace(0, len(rows) - 1, min(len(rows), _MOST * needed)).long()
    weight, bias, rank = _solved(rows[few], wanted[few], used)
    if rank < int(used.sum()) and len(few) < len(rows):
        weight, bias, rank = _solved(rows, wanted, used)
    if rank < int(used.sum()):
        got = f"{rank:,} of {int(used.sum()):,} that do not depend on others"
        raise must("features", "determine the head of the logits", got, _ADVICE)
    residual = _residual(rows @ weight.T + bias, wanted, needed - _SPARE)
    if not residual <= LARGEST_RESIDUAL:
        law = "be W f + b of the features where no head is given"
        raise must("logits", law, f"others, which differ from the nearest by {residual:.1%} of their spread", _ADVICE)
    single = wanted.shape[1] == 1
    return LinearHead(weight=weight.float(), bias=bias.float(), single_logit=single)


def _solved(rows: Tensor, logits: Tensor, used: Tensor) -> tuple[Tensor, Tensor, int]:
    """The least-squares weight `(C, D)` and bias `(C,)`, and how many of the used features are independent."""
    centre, spread, level = rows.mean(0), rows.std(0).where(used, 1.0).clamp(min=1e-30), logits.mean(0)
    design = ((rows - centre) / spread)[:, used]
    found = torch.linalg.lstsq(design, logits - level, rcond=1e-7, driver="gelsd")
    weight = torch.zeros(logits.shape[1], rows.shape[1], dtype=torch.float64)
    weight[:, used] = (found.solution / spread[used, None]).T
    return weight, level - weight @ centre, int(found.rank)


def _checked(features: Any, logits: Any) -> tuple[Tensor, Tensor]:
    """Features `(N, D)` and logits `(N, C)` in float64."""
    rows, wanted = real_tensor("features", features, 2), logits_tensor(logits, two_classes=False)
    if len(rows) != len(wanted):
        raise must("logits", f"have one row per row of features, {len(rows)}", len(wanted))
    require_finite("features", rows)
    require_finite("logits", wanted)
    if len(wanted) and bool((wanted == wanted[0]).all()):
        raise must("logits", "differ from row to row", "the same in every row", _ADVICE)
    return rows.double(), wanted.double()


def _residual(found: Tensor, wanted: Tensor, parameters: int) -> float:
    """The root mean square difference per degree of freedom, relative to that of the logits from their mean."""
    squared = (found - wanted).square().sum(0) / max(1, len(wanted) - parameters)
    spread = (wanted - wanted.mean(0)).square().sum(0) / max(1, len(wanted) - 1)
    return float((squared / spread.where(spread > 0, spread.max())).max().sqrt())
