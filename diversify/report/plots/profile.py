"""A line plot over the top-K features of one class."""

from __future__ import annotations

import math

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .canvas import FONT, Style, ink, new_figure
from .data import Profile


def draw_profile(data: Profile, width: float) -> Figure:
    """Draw the mean magnitude of each feature, one line per series."""
    figure, axes = new_figure(width, 1.85, 0.38, 0.06, 0.42, 0.12)
    ranks = list(range(1, len(data.features) + 1))
    lows = [v for series in data.series for v in series.values if math.isfinite(v)]
    axes.set_ylim(min([0.0, *lows]) * 1.08, max(data.top, 1e-9) * 1.08)
    axes.set_xlim(0.6, max(len(ranks), 2) + 0.4)
    axes.grid(axis="y", color=ink("line"), linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    marked = ranks if len(ranks) <= 12 else ranks[:: -(-len(ranks) // 6)]
    axes.set_xticks(marked, [str(data.features[rank - 1]) for rank in marked])
    between = axes.bbox.width / (max(len(ranks), 2) - 0.2) * (marked[1] - marked[0] if len(marked) > 1 else 1)
    longest = max((len(str(data.features[rank - 1])) for rank in marked), default=1)
    axes.tick_params(axis="x", labelsize=min(FONT, between / (0.6 * (longest + 0.7))))  # numbers that touch read as one
    axes.set_xlabel("feature, strongest in training first", color=ink("muted"), labelpad=3)
    for series in data.series:
        style: Style = {"color": ink(series.color), "linewidth": 1.3, "zorder": 3}
        face = ink("paper") if series.hollow else ink(series.color)
        style |= {"marker": series.marker, "markersize": 4.2, "markerfacecolor": face, "markeredgewidth": 1.1}
        style["markevery"] = -(-len(ranks) // 15)
        axes.plot(ranks, series.values, **style)
    return figure
