"""Drawings with one row per class or method: dot plots and stacked bars."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .canvas import CHARACTER, Style, add_legend, ink, new_figure, percent_label, value_range
from .data import Rows, Series, Stacked
from .text import NAME, shortened

# Colours of the bar's parts, and of the text on them
_PARTS = (("blue", "on-dark"), ("sky", "on-light"), ("orange", "on-light"), ("vermillion", "on-light"))


def draw_rows(data: Rows, width: float) -> Figure:
    """Draw a dot plot."""
    count = len(data.names)
    names = [
        f"{name} {sign}".rstrip() for name, sign in zip(shortened(data.names, data.longest), data.signs, strict=True)
    ]
    left = min(0.42 * width, 0.2 + max((len(name) for name in names), default=0) * CHARACTER / 72)
    several = len(data.series) > 1
    row, top, bottom = 0.32, 0.3, 0.34  # the same for all, so that drawings side by side are level
    figure, axes = new_figure(width, top + bottom + row * max(1, count), left, 0.15, bottom, top)
    low, high = range_of(data)
    axes.set_xlim(low, high)
    axes.set_ylim(max(1, count) - 0.5, -0.5)
    for place in range(0, count, 2):
        axes.axhspan(place - 0.5, place + 0.5, facecolor=ink("band"), edgecolor="none", zorder=0)
    if data.reference is not None:
        axes.axvline(data.reference, color=ink("muted"), linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
    axes.grid(axis="x", color=ink("line"), linewidth=0.7, zorder=0.5)
    axes.set_axisbelow(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    if data.percent:
        axes.xaxis.set_major_formatter(FuncFormatter(percent_label))
    if data.points:
        axes.xaxis.set_major_formatter(FuncFormatter(_in_points))
    axes.set_yticks(range(count), names, parse_math=False)
    axes.tick_params(axis="y", length=0)
    for label, sign in zip(axes.get_yticklabels(), data.signs, strict=True):
        label.set_fontweight("bold" if sign else "normal")
    handles = []
    if data.joined and several:
        for place, ends in enumerate(zip(data.series[0].values, data.series[-1].values, strict=True)):
            axes.plot(ends, [place, place], color=ink(data.series[-1].color), linewidth=1.6, alpha=0.5, zorder=2)
    for number, series in enumerate(data.series):
        offset = 0.0 if data.joined else 0.27 * (number - (len(data.series) - 1) / 2)
        handles.append(_marks(axes, series, offset, low, high))
    if several:
        add_legend(figure, handles, left / width)
    return figure


def _in_points(value: float, _: object) -> str:
    """Return the label of a difference of shares on an axis, in points."""
    points = round(100 * value, 6)
    return f"{points:+g}".replace("-", "−") if points else "0"


def _marks(axes: Axes, series: Series, offset: float, low: float, high: float) -> Line2D:
    """Draw one series, values outside the axis as arrows at its edge; return its legend entry."""
    face = "none" if series.hollow else ink(series.color)
    size: Style = {"markersize": 4.4, "markeredgewidth": 1.1}
    style: Style = {"color": ink(series.color), "markerfacecolor": face, "linestyle": "none", "zorder": 4, **size}
    groups: dict[str, list[tuple[float, float]]] = {}
    for place, (value, start, end) in enumerate(zip(series.values, series.low, series.high, strict=True)):
        if not math.isfinite(value):
            continue
        if math.isfinite(start) and math.isfinite(end) and start < high and end > low:
            ends = [max(start, low), min(end, high)]
            axes.plot(ends, [place + offset] * 2, color=ink(series.color), linewidth=1.2, alpha=0.75, zorder=3)
        marker = "<" if value < low else ">" if value > high else series.marker
        groups.setdefault(marker, []).append((min(max(value, low), high), place + offset))
    for marker, points in groups.items():
        axes.plot(*zip(*points, strict=True), marker=marker, clip_on=False, **style)
    return Line2D([], [], label=series.name, marker=series.marker, **style)


def range_of(data: Rows) -> tuple[float, float]:
    """Return the ends of the axis of a dot plot."""
    return value_range([(one.values, one.low, one.high) for one in data.series], data.reference, data.limits)


def draw_stacked(data: Stacked, width: float) -> Figure:
    """Draw stacked bars."""
    count = len(data.names)
    names = [f"{name} {sign}".rstrip() for name, sign in zip(shortened(data.names, NAME), data.signs, strict=True)]
    left = min(0.42 * width, 0.2 + max((len(name) for name in names), default=0) * CHARACTER / 72)
    figure, axes = new_figure(width, 0.3 + 0.34 + 0.32 * max(1, count), left, 0.25, 0.34, 0.3)
    axes.set_xlim(0, 1)
    axes.set_ylim(max(1, count) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.0f}%"))
    axes.set_yticks(range(count), names, parse_math=False)
    axes.tick_params(axis="y", length=0)
    for label, sign in zip(axes.get_yticklabels(), data.signs, strict=True):
        label.set_fontweight("bold" if sign else "normal")
    start = [0.0] * count
    handles = []
    room = 34 / (72 * (width - left - 0.25))  # of the axis, for a written percentage
    for (name, shares), (color, text) in zip(data.parts, _PARTS, strict=False):
        values = [share if math.isfinite(share) else 0.0 for share in shares]
        edge: Style = {"edgecolor": ink("paper"), "linewidth": 1.0}
        axes.barh(range(count), values, left=start, height=0.74, color=ink(color), **edge)
        for place, value in enumerate(values):
            if value >= room:
                where = (start[place] + value / 2, place)
                style: Style = {"ha": "center", "va": "center_baseline", "size": 8, "color": ink(text)}
                axes.text(*where, f"{value * 100:.0f}%", **style)
        start = [done + value for done, value in zip(start, values, strict=True)]
        handles.append(Line2D([], [], label=name, linestyle="none", marker="s", markersize=6.5, color=ink(color)))
    add_legend(figure, handles, left / width)
    return figure
