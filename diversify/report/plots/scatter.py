"""Scatter plots whose points have names: a measure against class size, and accuracy against cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from .canvas import CHARACTER, FONT, Style, add_legend, ink, new_figure, overlap, percent_label, value_range
from .data import Against, ByCount
from .names import Label, write_names
from .text import cut

MOST_DOTS = 1000  # pale dots that are drawn at most
_LOG_FROM = 5.0  # the cost axis is logarithmic if the largest cost is this many times the smallest
_LONGEST = 24  # characters of a method's name beside its point


def draw_by_count(data: ByCount, width: float) -> Figure:
    """Draw a measure against class size."""
    figure, axes = new_figure(width, 3.7, 0.48, 0.15, 0.55, 0.5)
    placed = [c for c in range(len(data.names)) if data.count[c] > 0 and math.isfinite(data.value[c])]
    shown = [c for c in placed if data.shown[c]]
    counts = [data.count[c] for c in placed] or [1.0]
    room = max(1.15, (max(counts) / min(counts)) ** 0.08)
    axes.set_ylim(*_heights(data, placed))
    log_counts(axes, min(counts), max(counts), room)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if data.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.0f}%"))
    axes.grid(axis="y", color=ink("line"), linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"training images of the {data.rows_are[0]} (log scale)", color=ink("ink"), labelpad=5)
    axes.text(0, 1.02, data.label, transform=axes.transAxes, color=ink("muted"), ha="left", va="bottom")
    handles = []
    if data.line is not None:
        style: Style = {"color": ink("muted"), "linewidth": 1.2, "linestyle": (0, (5, 3))}
        axes.plot(*zip(*_line(data, counts), strict=True), zorder=2, **style)
        handles.append(Line2D([], [], label="expected from class size", **style))
    rest = [c for c in placed if not data.shown[c]]
    rest = rest[:: -(-len(rest) // MOST_DOTS)] if rest else []
    if rest:
        dots: Style = {"linestyle": "none", "marker": "o", "markersize": 2.4, "color": ink("muted"), "alpha": 0.45}
        axes.plot([data.count[c] for c in rest], [data.value[c] for c in rest], zorder=2, **dots)
        handles.insert(0, Line2D([], [], label=f"other {data.rows_are[1]}", **dots))
    for fragile, color, marker in ((False, "blue", "o"), (True, "vermillion", "D")):
        group = [c for c in shown if data.fragile[c] is fragile]
        if not group:
            continue
        count = [data.count[c] for c in group]
        low, high = [data.low[c] for c in group], [data.high[c] for c in group]  # NaN draws nothing
        axes.vlines(count, low, high, color=ink(color), linewidth=1.3, alpha=0.75, zorder=3)
        style = {"linestyle": "none", "marker": marker, "markersize": 5.2, "color": ink(color)}
        axes.plot(count, [data.value[c] for c in group], zorder=4, **style)
        handles.insert(0, Line2D([], [], label="fragile" if fragile else "not fragile", **style))
    add_legend(figure, handles, 0.48 / width)
    _name_points(axes, data, placed, shown)
    return figure


def log_counts(axes: Axes, least: float, most: float, room: float) -> None:
    """Make the horizontal axis one of class sizes, on a log scale.

    Args:
        axes: The axes.
        least: The smallest class.
        most: The largest class.
        room: The axis starts at `least / room` and ends further beyond `most`, where the name of the largest class stands.
    """
    axes.set_xscale("log")
    axes.set_xlim(least / room, most * room**1.8)
    axes.xaxis.set_major_locator(FixedLocator(_apart(axes, _count_ticks(least, most, room), ",.0f")))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_against(data: Against, width: float) -> Figure:
    """Draw accuracy against cost."""
    figure, axes = new_figure(width, 3.7, 0.48, 0.15, 0.55, 0.5)
    every = range(len(data.names))
    placed = [i for i in every if math.isfinite(data.y[i]) and math.isfinite(data.x[i]) and data.x[i] > 0]
    costs = [data.x[i] for i in placed] or [1.0]
    least, most = min(costs), max(costs)
    if most > _LOG_FROM * least:
        room = (most / least) ** 0.08
        axes.set_xscale("log")
        axes.set_xlim(least / room, most * room**2)
        axes.xaxis.set_major_locator(FixedLocator(_apart(axes, _count_ticks(least, most, room), ",.4g")))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        room = 0.08 * ((most - least) or most)
        axes.set_xlim(least - room, most + 2 * room)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    limits = (-0.02, 1.02) if data.percent else (-math.inf, math.inf)
    axes.set_ylim(*value_range([(data.y, data.low, data.high)], limits=limits))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    if data.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(percent_label))
    axes.grid(axis="y", color=ink("line"), linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(data.across, color=ink("ink"), labelpad=5)
    axes.text(0, 1.02, data.label, transform=axes.transAxes, color=ink("muted"), ha="left", va="bottom")
    handles = []
    for marked, color, marker in ((False, "blue", "o"), (True, "vermillion", "D")):
        group = [i for i in placed if data.marked[i] is marked]
        if not group:
            continue
        x = [data.x[i] for i in group]
        ends = [data.low[i] for i in group], [data.high[i] for i in group]  # NaN draws nothing
        axes.vlines(x, *ends, color=ink(color), linewidth=1.3, alpha=0.75, zorder=3)
        style: Style = {"linestyle": "none", "marker": marker, "markersize": 5.2, "color": ink(color)}
        axes.plot(x, [data.y[i] for i in group], zorder=4, **style)
        handles.append(Line2D([], [], label=data.kinds[int(marked)], **style))
    add_legend(figure, handles, 0.48 / width)
    _name_apart(axes, data, placed)
    return figure


def _name_apart(axes: Axes, data: Against, placed: Sequence[int]) -> None:
    """Write every name at the nearest free place, best first, with a thin line to its point if that is not beside it."""
    left, bottom, right, top = (float(v) for v in axes.bbox.extents)
    spots = {i: tuple(map(float, axes.transData.transform((data.x[i], data.y[i])))) for i in placed}
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in spots.values()]
    for i in placed:
        ends = [end if math.isfinite(end) else data.y[i] for end in (data.low[i], data.high[i])]
        low, high = (float(axes.transData.transform((data.x[i], end))[1]) for end in ends)
        taken.append((spots[i][0] - 1, max(low, bottom), spots[i][0] + 1, min(high, top)))
    steps = [(across, lift) for across in (7, 22, 40, 60, 85, 115) for lift in range(-90, 91, 6)]
    steps.sort(key=lambda step: math.hypot(step[0], 1.6 * step[1]))
    for i in sorted(placed, key=lambda i: -data.y[i]):
        name = cut(data.names[i], _LONGEST)
        width, (x, y) = CHARACTER * len(name), spots[i]
        places = [
            (x + across if side > 0 else x - across - width, y + lift, across)
            for across, lift in steps
            for side in (1, -1)
        ]
        for start, middle, across in places:
            box = (start - 1, middle - FONT / 2, start + width + 1, middle + FONT / 2)
            inside = box[0] >= left - 2 and box[2] <= right + 8 and box[1] >= bottom + 1 and box[3] <= top + 6
            if not inside or any(overlap(box, other) for other in taken):
                continue
            taken.append(box)
            place: Style = {"xycoords": "figure pixels", "va": "center_baseline", "annotation_clip": False}
            weight = "bold" if data.marked[i] else "normal"
            axes.annotate(name, (start, middle), color=ink("ink"), weight=weight, parse_math=False, **place)
            if across > 7 or abs(middle - y) > FONT:
                near = (start - 2 if start > x else start + width + 2, middle)
                ends_of_line = axes.transData.inverted().transform([(x, y), near])
                axes.plot(*zip(*ends_of_line.tolist(), strict=True), color=ink("muted"), linewidth=0.6, zorder=2)
            break


def _count_ticks(low: float, high: float, room: float) -> list[float]:
    """Return ticks at 1, 2 and 5 of every decade, at 1 alone for many decades, or at the counts if none lies inside."""
    parts = (1, 2, 5) if high / low < 3e3 else (1,)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    ticks = [part * 10.0**decade for decade in decades for part in parts]
    inside = [tick for tick in ticks if tick >= 1 and low / room <= tick <= high * room]
    return inside if len(inside) > 1 else sorted({low, high})


def _apart(axes: Axes, ticks: Sequence[float], form: str) -> list[float]:
    """Return the ticks whose labels do not touch; of two that do, the rounder number stays, or else the larger."""
    kept: list[tuple[float, float, float]] = []
    for tick in sorted(ticks, key=lambda tick: (not math.log10(tick).is_integer(), -tick)):
        middle = float(axes.transData.transform((tick, 0.5))[0])
        half = CHARACTER * (len(f"{tick:{form}}") + 1) / 2
        if all(middle + half <= low or middle - half >= high for _, low, high in kept):
            kept.append((tick, middle - half, middle + half))
    return sorted(tick for tick, _, _ in kept)


def _heights(data: ByCount, placed: Sequence[int]) -> tuple[float, float]:
    """Return the ends of the vertical axis: up to 1 for shares; else around values and intervals."""
    if data.percent:
        floor = min((data.low[c] for c in placed if math.isfinite(data.low[c])), default=0.0)
        return max(-0.02, min(0.7, math.floor(floor * 10) / 10) - 0.02), 1.03
    return value_range([(data.value, data.low, data.high)], reference=0.0)


def _line(data: ByCount, counts: Sequence[float]) -> list[tuple[float, float]]:
    """Return points (count, value) of the line over the range of the counts; shares stay in [0, 1]."""
    slope, intercept = data.line or (math.nan, math.nan)
    low, high = math.log(min(counts)), math.log(max(counts))
    logs = [low + (high - low) * step / 150 for step in range(151)]
    values = [slope * log + intercept for log in logs]
    if data.percent:
        values = [min(1.0, max(0.0, value)) for value in values]
    return [(math.exp(log), value) for log, value in zip(logs, values, strict=True)]


def _name_points(axes: Axes, data: ByCount, placed: Sequence[int], shown: Sequence[int]) -> None:
    """Write names where there is room, weakest first, off the line if possible."""

    def spot(c: int, value: float) -> tuple[float, float]:
        x, y = axes.transData.transform((data.count[c], value))
        return float(x), float(y)

    line = []
    if data.line is not None and placed:
        spots = axes.transData.transform(_line(data, [data.count[c] for c in placed]))
        line = [(x - 2, y - 2, x + 2, y + 2) for x, y in spots.tolist()]
    taken = []
    for c in placed:
        x, y = spot(c, data.value[c])
        taken.append((x - 3, y - 3, x + 3, y + 3))
        if data.shown[c] and math.isfinite(data.low[c]):
            taken.append((x - 1, spot(c, data.low[c])[1], x + 1, spot(c, data.high[c])[1]))
    labels = []
    for c in sorted(shown, key=lambda c: data.value[c] if data.bad == "low" else -data.value[c]):
        x, y = spot(c, data.value[c])
        ends = (data.low[c], data.high[c]) if math.isfinite(data.low[c]) else (data.value[c], data.value[c])
        low, high = (spot(c, end)[1] for end in ends)
        labels.append(Label(data.names[c], (x, y), (x, low, x, high), bold=data.fragile[c]))
    write_names(axes, labels, taken, line)
