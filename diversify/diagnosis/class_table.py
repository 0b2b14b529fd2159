"""Columns of one number per class, with bootstrap intervals."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import counts, stats
from .beyond_size import FEWEST_ROWS, MATCHED_N

BOOTSTRAPS = 200


class ClassTable:
    """Collects the columns: a value per class, and the interval that goes with it."""

    def __init__(self, num_classes: int, seed: int) -> None:
        self.num_classes, self.seed = num_classes, seed
        self.columns: dict[str, Tensor] = {}

    def put(self, name: str, values: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> None:
        """A column, and its interval where it has one."""
        self.columns[name] = values.double().cpu()
        if low is not None and high is not None:
            self.columns[f"{name}_low"], self.columns[f"{name}_high"] = low.double().cpu(), high.double().cpu()

    def put_draws(self, name: str, values: Tensor | None, drawn: Tensor, centre: Tensor | None = None) -> None:
        """A column from draws `(B, C)`: their mean, or `values`, to which the draws' spread about `centre` is added."""
        low, high = stats.interval(drawn.double())
        if values is None:
            values = drawn.double().nanmean(0)
        elif centre is not None:
            low, high = (end + values.double() - centre.double() for end in (low, high))
        self.put(name, values, torch.minimum(low, values), torch.maximum(high, values))

    def put_matched(self, name: str, drawn: Tensor, *labels: Tensor) -> None:
        """A column from draws at matched n; no interval below 2n rows, where the draws share most of theirs."""
        rows = torch.stack([counts.class_counts(each, self.num_classes) for each in labels]).amin(0).cpu()
        low, high = (end.cpu().where(rows >= 2 * MATCHED_N, torch.nan) for end in stats.interval(drawn.double()))
        values = drawn.double().nanmean(0).cpu()
        self.put(name, values, torch.minimum(low, values), torch.maximum(high, values))

    def put_share(self, name: str, hits: Tensor, totals: Tensor) -> None:
        """A proportion with its Wilson interval."""
        self.put(name, hits.double() / totals.double(), *stats.wilson_interval(hits, totals))

    def means(self, values: Tensor, labels: Tensor) -> Tensor:
        """`(C,)` class means in float64."""
        return counts.class_mean(values.double(), labels, self.num_classes)

    def bootstrap(self, values: Tensor, labels: Tensor, name: str) -> Tensor:
        """`(B, C)` class means of resampled rows; NaN for a class of so few that resampling says little."""
        drawn = stats.bootstrap_class_mean(values, labels, self.num_classes, BOOTSTRAPS, seed=self.seed, name=name)
        return drawn.where(counts.class_counts(labels, self.num_classes) >= FEWEST_ROWS, torch.nan)

    def put_mean(self, name: str, values: Tensor, labels: Tensor, queries: Tensor) -> None:
        """The class means of one value per row, with a bootstrap interval over the query rows."""
        drawn = self.bootstrap(values[queries], labels[queries], name)
        self.put_draws(name, self.means(values, labels), drawn, self.means(values[queries], labels[queries]))
