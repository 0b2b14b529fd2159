"""The forecast of what a remedy changes, class by class."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch import Tensor

from ..files.json_values import json_value


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GainForecast:
    """The recall that each of C classes is expected to gain, with 95% intervals; shares of 1.

    Attributes:
        remedy: What is done.
        class_names: One name per class.
        count: `(C,)` int64, training images.
        count_heldout: `(C,)` int64, held-out images.
        before: `(C,)` the present recall, as the forecast takes it: the held-out recall, moved toward the mean where there are few
            images.
        gain: `(C,)` expected recall minus `before`; NaN for a class without training or held-out images.
        gain_low: `(C,)` low end of the 95% interval.
        gain_high: `(C,)` high end.
        overall: The same for the balanced accuracy: `gain`, `gain_low` and `gain_high`.
        notes: What the forecast does not cover, one sentence each.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings((200, 80, 30, 10))
        >>> diagnosis = dv.diagnose(train, heldout, head=head)
        >>> found = dv.expected_gains(dv.make_plan(diagnosis), diagnosis)
        >>> bool((found.gain_low < found.gain).all()), bool((found.gain < found.gain_high).all())
        (True, True)
    """

    remedy: str
    class_names: tuple[str, ...]
    count: Tensor
    count_heldout: Tensor
    before: Tensor
    gain: Tensor
    gain_low: Tensor
    gain_high: Tensor
    overall: dict[str, float]
    notes: tuple[str, ...] = ()

    @property
    def after(self) -> Tensor:
        """The recall to expect, `(C,)`."""
        return self.before + self.gain

    def in_words(self) -> str:
        """Return the gain in balanced accuracy, and the classes that are expected to gain or lose beyond their interval.

        Example:
            >>> import torch
            >>> nothing = torch.zeros(1)
            >>> GainForecast(
            ...     remedy="training", class_names=("newt",), count=nothing, count_heldout=nothing, before=nothing,
            ...     gain=nothing + 0.3, gain_low=nothing + 0.1, gain_high=nothing + 0.5,
            ...     overall={"gain": 0.3, "gain_low": 0.1, "gain_high": 0.5},
            ... ).in_words()
            'Expected of training: +30.0 points of balanced accuracy (95% interval +10.0 to +50.0); gains: newt +30 (+10 to +50).'
        """
        whole = [100 * self.overall[name] for name in ("gain", "gain_low", "gain_high")]
        if math.isnan(whole[0]):
            return f"Nothing is known of what {self.remedy} would change. {' '.join(self.notes)}".strip()
        text = f"Expected of {self.remedy}: {whole[0]:+.1f} points of balanced accuracy (95% interval {whole[1]:+.1f} to {whole[2]:+.1f})"
        for verb, sure in (("gains", self.gain_low > 0), ("loses", self.gain_high < 0)):
            found = sure.nonzero()[:, 0].tolist()
            found.sort(key=lambda c: -abs(float(self.gain[c])))
            listed = [f"{self.class_names[c]} {self._points(c)}" for c in found[:5]]
            if listed:
                text += f"; {verb}: {', '.join(listed)}{' …' if len(found) > 5 else ''}"
        return f"{text}."

    def _points(self, c: int) -> str:
        gain, low, high = (100 * float(values[c]) for values in (self.gain, self.gain_low, self.gain_high))
        return f"{gain:+.0f} ({low:+.0f} to {high:+.0f})"

    def to_dict(self) -> dict[str, Any]:
        """Return the forecast as JSON values, with NaN as None."""
        return {field.name: json_value(getattr(self, field.name)) for field in dataclasses.fields(self)}
