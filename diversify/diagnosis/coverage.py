"""Narrow classes: the training images of a class do not show what its held-out images show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..functional.coverage import class_coverage
from .class_table import ClassTable
from .clusters import FailingCluster
from .findings import NARROW, REMEDIES, Evidence, Finding, narrow_classes, usual_coverage
from .sides import Side

FEWEST_CLASSES = 6  # for a prediction from size and coverage


def put_coverage(table: ClassTable, train: Side, heldout: Side) -> None:
    """Put how well the training images of each class cover its held-out images, from the rows that costly measures use."""
    seen, unseen = train.queries, heldout.queries
    ends = class_coverage(
        train.raw[seen],
        train.labels[seen],
        heldout.raw[unseen],
        heldout.labels[unseen],
        table.num_classes,
        train_groups=train.groups_of(seen),
        heldout_groups=heldout.groups_of(unseen),
        space=train.query_space,
    )
    table.put("coverage_heldout", *ends)


def without_suspects_where_known(columns: Mapping[str, Tensor], cleaned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the columns with the coverage that was measured without suspect labels, in the classes that have it.

    A wrong label can put a held-out image far from the training images of its class, which says nothing of what these show.

    Args:
        columns: The columns of a diagnosis.
        cleaned: Some of them, measured without suspects; NaN for classes without probably wrong labels.
    """
    names = [name for name in cleaned if name.startswith("coverage_heldout")]
    return {**columns, **{name: columns[name].where(cleaned[name].isnan(), cleaned[name]) for name in names}}


def put_size_and_diversity(columns: dict[str, Tensor]) -> None:
    """Put the recall that a plane on log n and coverage predicts; NaN where coverage is unknown or fewer than 6 classes have it.

    Args:
        columns: The columns of a diagnosis; gains `size_and_diversity_predict`.
    """
    count, recall, coverage = (columns[name] for name in ("count", "recall_heldout", "coverage_heldout"))
    known = (count > 0) & recall.isfinite() & coverage.isfinite()
    found = torch.full_like(recall, torch.nan)
    if int(known.sum()) >= FEWEST_CLASSES:
        rows = torch.stack([torch.ones_like(count), count.clamp(min=1).log(), coverage], 1)[known]
        centre = rows.mean(0)
        rows[:, 1:] -= centre[1:]
        # The least-norm solution: where all sizes are equal, log n has no slope and coverage alone predicts.
        slopes = torch.linalg.lstsq(rows, recall[known], driver="gelsd").solution
        found[known] = (rows @ slopes).clamp(0, 1)
    columns["size_and_diversity_predict"] = found


def coverage_findings(
    columns: Mapping[str, Tensor], class_names: Sequence[str], clusters: Sequence[FailingCluster] = ()
) -> tuple[Finding, ...]:
    """Return a finding for each narrow class.

    Args:
        columns: The columns of a diagnosis.
        class_names: One name per class.
        clusters: The failing clusters. Images of a class that nearly all look like one other class may have wrong labels,
            which features cannot tell from a kind of image that training lacks; the finding then says so.

    Example:
        >>> columns = {
        ...     "coverage_heldout": torch.tensor([0.1, 0.5]), "coverage_heldout_low": torch.tensor([0.06, 0.4]),
        ...     "coverage_heldout_high": torch.tensor([0.16, 0.6]), "count_heldout": torch.tensor([40.0, 40.0]),
        ... }
        >>> [(finding.class_name, finding.kind) for finding in coverage_findings(columns, ["ship", "car"])]
        [('ship', 'narrow')]
    """
    usual = usual_coverage(columns)
    doubtful: dict[int, FailingCluster] = {}
    for one in clusters:
        known = doubtful.get(one.class_index)
        if one.looks_like_one_class and (known is None or one.predicted_count > known.predicted_count):
            doubtful[one.class_index] = one
    found = []
    for c in narrow_classes(columns):
        value, low, high = (float(columns[f"coverage_heldout{end}"][c]) for end in ("", "_low", "_high"))
        name = class_names[c]
        text = (
            f"The training images of {name} do not show what its {float(columns['count_heldout'][c]):,.0f} held-out images show:"
            f" coverage is {value:.0%} (95% interval {low:.0%} to {high:.0%}); it would be 50% if both were drawn from the same"
            f" images, and the best-covered quarter of the classes reaches at least {usual:.0%}."
            f"{_or_wrong_labels(doubtful.get(c), class_names)} Points to: {REMEDIES['wider images']}."
        )
        found.append(
            Finding(
                class_index=c,
                class_name=name,
                text=text,
                evidence=(Evidence(measure="coverage_heldout", value=value, low=low, high=high, compared_with=usual),),
                causes=("wider images",),
                remedy="wider images",
                kind=NARROW,
                trouble=(NARROW,),
            )
        )
    return tuple(found)


def _of(number: int, size: int) -> str:
    return f"{f'All {size:,}' if number == size else f'{number:,} of {size:,}'} images of a failing cluster"


def _or_wrong_labels(cluster: FailingCluster | None, class_names: Sequence[str]) -> str:
    if cluster is None:
        return ""
    other, size = class_names[cluster.predicted], len(cluster.rows)
    return (
        f" {_of(cluster.predicted_count, size)} are predicted as {other}: look at them first. If these images show {other},"
        " their labels are wrong and the class may not be narrow."
    )
