"""What rules compare the measures of a class with; what is the same for all classes is computed once."""

from __future__ import annotations

import functools
import math

import torch

from ..diagnosis.beyond_size import FEWEST_ROWS
from ..diagnosis.catalogue import MEASURES
from ..diagnosis.result import Diagnosis
from .rules import POOLED_WITH, Rule


class Marks:
    """The measures of a diagnosis as numbers by class, and the marks that rules compare them with.

    Args:
        diagnosis: The diagnosis.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 10))
        >>> marks = Marks(dv.diagnose(train, heldout, head=head))
        >>> marks.at("count", 1), marks.expected_of_size("recall_heldout", 1) == marks.mean("recall_heldout")
        (80.0, True)
    """

    def __init__(self, diagnosis: Diagnosis) -> None:
        self.diagnosis = diagnosis
        self.present = diagnosis["count"].nan_to_num(0.0) >= 1
        self._listed = functools.cache(lambda name: diagnosis[name].tolist())
        self.mean = functools.cache(self._mean)
        self._without_line = functools.cache(self._mean_of_measured)

    def at(self, column: str, c: int) -> float:
        """Return the value of a column for class `c`."""
        return float(self._listed(column)[c])

    def of(self, rule: Rule, c: int) -> float:
        """Return the strictest of the rule's marks for class `c`; NaN if one of them is not defined."""
        marks = []
        for mark in rule.marks:
            if isinstance(mark, (int, float)):
                marks.append(float(mark))
            elif mark == "size" and rule.measure in self.diagnosis.log_count:
                marks.append(self.expected_of_size(rule.measure, c))
            else:
                marks.append(self.mean(rule.measure))
        if any(math.isnan(mark) for mark in marks):
            return math.nan
        return min(marks) if rule.side == "low" else max(marks)

    def expected_of_size(self, measure: str, c: int) -> float:
        """Return the value that the regression on log n predicts for class `c`; the class mean if there is no regression."""
        line = self.diagnosis.log_count.get(measure)
        if line is None:
            return self._without_line(measure)
        slope, intercept = line.get("slope", math.nan), line.get("intercept", math.nan)
        value = intercept + slope * math.log(self.at("count", c))
        share = measure in MEASURES and MEASURES[measure].unit == "share"
        return min(max(value, 0.0), 1.0) if share else value

    def pooled(self, measure: str, c: int) -> float:
        """Return the weighted mean of the class's value and of what its size predicts; NaN if the class has no value."""
        value, expected = self.at(measure, c), self.expected_of_size(measure, c)
        if math.isnan(expected):
            return value
        images = self.at("count_heldout", c)
        own = images / (images + POOLED_WITH)
        return own * value + (1 - own) * expected

    def _mean(self, column: str) -> float:
        return float(self.diagnosis[column].double().nanmean())

    def _mean_of_measured(self, measure: str) -> float:
        """The mean over the classes with enough images to measure it, or over all classes if there are none."""
        values = self.diagnosis[measure].double()
        count = torch.minimum(self.diagnosis["count"], self.diagnosis["count_heldout"])
        seen = values[count >= FEWEST_ROWS]
        return float((values if bool(seen.isnan().all()) else seen).nanmean())
