"""A table with one column per measure and one row per class, and the intervals of its columns."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import counts, groups, stats
from .beyond_size import FEWEST_ROWS, MATCHED_N

BOOTSTRAPS = 200


class ClassTable:
    """Collects columns `(C,)` and the ends of their 95% intervals.

    Args:
        num_classes: Number of classes, C.
        seed: Seed of the bootstraps.
    """

    def __init__(self, num_classes: int, seed: int) -> None:
        self.num_classes, self.seed = num_classes, seed
        self.columns: dict[str, Tensor] = {}

    def put(self, name: str, values: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> None:
        """Add a column, and its interval if both ends are given."""
        self.columns[name] = values.double().cpu()
        if low is not None and high is not None:
            self.columns[f"{name}_low"], self.columns[f"{name}_high"] = low.double().cpu(), high.double().cpu()

    def put_draws(self, name: str, values: Tensor | None, drawn: Tensor, centre: Tensor | None = None) -> None:
        """Add a column whose interval comes from bootstrap draws.

        Args:
            name: Name of the column.
            values: `(C,)`; by default the mean of the draws.
            drawn: `(B, C)`.
            centre: `(C,)`, the value on the rows that were resampled, where those are not all rows: the interval is shifted
                from there to `values`.
        """
        low, high = stats.interval(drawn.double())
        if values is None:
            values = drawn.double().nanmean(0)
        elif centre is not None:
            low, high = (end + values.double() - centre.double() for end in (low, high))
        self.put(name, values, torch.minimum(low, values), torch.maximum(high, values))

    def put_matched(self, name: str, drawn: Tensor, *labels: Tensor) -> None:
        """Add the mean of draws at matched n; no interval below 2n rows, because such draws share most of their rows."""
        rows = torch.stack([counts.class_counts(each, self.num_classes) for each in labels]).amin(0).cpu()
        low, high = (end.cpu().where(rows >= 2 * MATCHED_N, torch.nan) for end in stats.interval(drawn.double()))
        values = drawn.double().nanmean(0).cpu()
        self.put(name, values, torch.minimum(low, values), torch.maximum(high, values))

    def put_share(self, name: str, hits: Tensor, totals: Tensor) -> None:
        """Add a proportion with its Wilson interval."""
        self.put(name, hits.double() / totals.double(), *stats.wilson_interval(hits, totals))

    def put_rate(self, name: str, hits: Tensor, labels: Tensor, group: Tensor | None = None) -> None:
        """Add the share of hits in each class, with an interval.

        Args:
            name: Name of the column.
            hits: `(N,)` bool.
            labels: `(N,)`, the class that each row counts for.
            group: `(N,)`, the group of each row, if rows of a group depend on each other.
        """
        hit, total = (counts.class_counts(each, self.num_classes) for each in (labels[hits], labels))
        if group is None:
            self.put_share(name, hit, total)
        else:
            ends = groups.cluster_share_interval(hits, labels, group, self.num_classes)
            self.put(name, hit.double() / total.double(), *ends)

    def means(self, values: Tensor, labels: Tensor) -> Tensor:
        """Return the class means `(C,)` in float64."""
        return counts.class_mean(values.double(), labels, self.num_classes)

    def bootstrap(self, values: Tensor, labels: Tensor, name: str, group: Tensor | None = None) -> Tensor:
        """Return the class means `(B, C)` of resampled rows, or groups; NaN for a class with too few to resample."""
        if group is not None:
            drawn = groups.bootstrap_group_mean(
                values, labels, group, self.num_classes, BOOTSTRAPS, seed=self.seed, name=name
            )
            return drawn.where(groups.group_counts(labels, group, self.num_classes) >= FEWEST_ROWS, torch.nan)
        drawn = stats.bootstrap_class_mean(values, labels, self.num_classes, BOOTSTRAPS, seed=self.seed, name=name)
        return drawn.where(counts.class_counts(labels, self.num_classes) >= FEWEST_ROWS, torch.nan)

    def put_mean(self, name: str, values: Tensor, labels: Tensor, queries: Tensor, group: Tensor | None = None) -> None:
        """Add the class means of one value per row, with a bootstrap interval over the query rows (of these groups)."""
        drawn = self.bootstrap(values[queries], labels[queries], name, group)
        self.put_draws(name, self.means(values, labels), drawn, self.means(values[queries], labels[queries]))
