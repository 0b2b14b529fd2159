"""Which axis fails: how well each class is covered, against its size, filled by its recall."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .canvas import CHARACTER, FONT, Style, add_legend, ink, new_figure, percent_label, value_range
from .data import ByCoverage
from .names import Box, Label, write_names
from .scatter import MOST_DOTS, log_counts

_LEVELS = 5  # of recall; the lowest is filled, the highest hollow
_ROOM = 0.12  # of coverage, below the line of narrow classes, for the name of the region
_WORDS: Style = {"color": ink("muted"), "style": "italic", "parse_math": False}


def draw_by_coverage(data: ByCoverage, width: float) -> Figure:
    """Draw coverage against class size, or recall against coverage if all classes are equally large."""
    figure, axes = new_figure(width, 3.7, 0.48, 0.15, 0.55, 0.5)
    axes.tick_params(axis="y", length=0)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(percent_label))
    axes.set_axisbelow(True)
    across = data.equal_counts
    words = _with_recall(axes, data) if across else _with_counts(axes, data)
    add_legend(figure, _draw_dots(axes, data, across=across), 0.48 / width)
    _name_classes(axes, data, words, across=across)
    return figure


def _coverages(data: ByCoverage) -> tuple[float, float]:
    """Return the ends of the axis of coverage, with room for the names of regions on both sides of the limit."""
    placed = data.placed
    parts = [tuple(column[c] for c in placed) for column in (data.coverage, data.low, data.high)]
    limit = data.narrow_below if math.isfinite(data.narrow_below) else None
    low, high = value_range([(parts[0], parts[1], parts[2])], reference=limit, limits=(0.0, 1.0))
    if limit is not None:
        low, high = min(low, limit - _ROOM), max(high, limit + _ROOM)
    return max(low, -0.03), min(high, 1.03)


def _with_counts(axes: Axes, data: ByCoverage) -> list[Box]:
    """Set up coverage against class size, with the regions of small and narrow classes; return where their names stand."""
    counts = [data.count[c] for c in data.placed] or [1.0, 10.0]
    room = max(1.15, (max(counts) / min(counts)) ** 0.08)
    bottom, top = _coverages(data)
    axes.set_ylim(bottom, top + 0.08 * (top - bottom))  # room for the name of the upper region
    log_counts(axes, min(counts), max(counts), room)
    axes.grid(axis="y", color=ink("line"), linewidth=0.7)
    axes.set_xlabel("training images of the class (log scale)", color=ink("ink"), labelpad=5)
    axes.text(
        0, 1.02, "coverage of held-out images", transform=axes.transAxes, color=ink("muted"), ha="left", va="bottom"
    )
    first, last = axes.get_xlim()
    small = data.small_below if first < data.small_below < last else math.nan
    narrow = math.isfinite(data.narrow_below)
    style: Style = {"color": ink("muted"), "linewidth": 1.1, "linestyle": (0, (5, 3)), "zorder": 1}
    shade: Style = {"facecolor": ink("band"), "edgecolor": "none", "zorder": 0}
    if narrow:
        axes.axhspan(bottom, data.narrow_below, **shade)
        axes.axhline(data.narrow_below, **style)
    if math.isfinite(small):
        axes.axvspan(first, small, **shade)
        axes.axvline(small, **style)
    boxes = [_word(axes, "narrow", right=True, low=True)] if narrow else []
    if math.isfinite(small):
        boxes.append(_word(axes, "small", right=False, low=False))
        boxes += [_word(axes, "small and narrow", right=False, low=True)] if narrow else []
    return boxes


def _with_recall(axes: Axes, data: ByCoverage) -> list[Box]:
    """Set up recall against coverage, with the region of narrow classes; return where its name stands."""
    recall = tuple(data.recall[c] for c in data.placed)
    nothing = (math.nan,) * len(recall)
    axes.set_xlim(*_coverages(data))
    low, high = value_range([(recall, nothing, nothing)], limits=(0.0, 1.0))
    axes.set_ylim(low - 0.1 * (high - low), high + 0.04 * (high - low))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(percent_label))
    axes.grid(axis="y", color=ink("line"), linewidth=0.7)
    axes.set_xlabel("coverage of held-out images", color=ink("ink"), labelpad=5)
    axes.text(0, 1.02, "held-out recall", transform=axes.transAxes, color=ink("muted"), ha="left", va="bottom")
    if not math.isfinite(data.narrow_below):
        return []
    axes.axvspan(axes.get_xlim()[0], data.narrow_below, facecolor=ink("band"), edgecolor="none", zorder=0)
    axes.axvline(data.narrow_below, color=ink("muted"), linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
    return [_word(axes, "narrow", right=False, low=True)]


def _word(axes: Axes, text: str, *, right: bool, low: bool) -> Box:
    """Write the name of a region into its corner of the axes; return its box."""
    left, bottom, end, top = (float(v) for v in axes.bbox.extents)
    width = CHARACTER * len(text)
    start = end - width - 3 if right else left + 3
    middle = bottom + FONT if low else top - FONT
    place: Style = {"xycoords": "figure pixels", "va": "center_baseline", "ha": "right" if right else "left"}
    axes.annotate(text, (start + width if right else start, middle), annotation_clip=False, **place, **_WORDS)
    return start, middle - FONT / 2, start + width, middle + FONT / 2


def _draw_dots(axes: Axes, data: ByCoverage, *, across: bool) -> list[Line2D]:
    """Draw the classes, filled by recall, and the intervals of coverage; return the legend."""
    placed = data.placed
    if not placed:
        return []
    shown = [c for c in placed if data.shown[c]]
    rest = [c for c in placed if not data.shown[c]]
    rest = rest[:: -(-len(rest) // MOST_DOTS)] if rest else []
    bars: Style = {"color": ink("blue"), "linewidth": 1.0, "alpha": 0.6, "zorder": 2}
    ends = [data.low[c] for c in shown], [data.high[c] for c in shown]  # NaN draws nothing
    (axes.hlines if across else axes.vlines)(
        [data.recall[c] if across else data.count[c] for c in shown], *ends, **bars
    )
    least, most = (end([data.recall[c] for c in placed]) for end in (min, max))
    groups: dict[tuple[int, str, float], list[int]] = {}
    for classes, sized in ((rest, 0.5), (shown, 1.0)):
        for c in classes:
            sign = "D" if data.fragile[c] else "o"
            groups.setdefault((_level(data.recall[c], least, most), sign, sized), []).append(c)
    for (level, sign, sized), group in groups.items():
        x, y = zip(*(_place(data, c, across=across) for c in group), strict=True)
        order = 3 + sized
        if sized == 1:  # hides what lies below
            axes.plot(x, y, marker=sign, **_mark(0, sized, face=ink("paper")), zorder=order)
        axes.plot(x, y, marker=sign, **_mark(level, sized), zorder=order)
    levels = {0: least, _LEVELS // 2: (least + most) / 2, _LEVELS - 1: most} if most > least else {0: least}
    legend = [
        Line2D([], [], marker="o", label=f"{'' if level else 'recall '}{value:.0%}", **_mark(level, 1.0))
        for level, value in levels.items()
    ]
    if any(data.fragile[c] for c in placed):
        legend.append(Line2D([], [], marker="D", label="fragile", **_mark(_LEVELS // 2, 1.0)))
    return legend


def _level(recall: float, least: float, most: float) -> int:
    """Return the step of the scale of recall, 0 for the lowest."""
    return min(_LEVELS - 1, int(_LEVELS * (recall - least) / (most - least))) if most > least else 0


def _mark(level: int, sized: float, face: str = "") -> Style:
    """Return the style of a dot: the lower its recall, the fuller."""
    share = 1 - level / (_LEVELS - 1)
    fill = face or ((ink("blue"), share) if share else "none")
    edge: Style = {"markeredgecolor": ink("blue"), "markeredgewidth": 1.1 * sized, "color": ink("blue")}
    return {"linestyle": "none", "markersize": 6.2 * sized, "markerfacecolor": fill, **edge}


def _place(data: ByCoverage, c: int, *, across: bool) -> tuple[float, float]:
    return (data.coverage[c], data.recall[c]) if across else (data.count[c], data.coverage[c])


def _name_classes(axes: Axes, data: ByCoverage, words: Sequence[Box], *, across: bool) -> None:
    """Write the names of classes where there is room, lowest recall first."""

    def pixels(x: float, y: float) -> tuple[float, float]:
        spot = axes.transData.transform((x, y))
        return float(spot[0]), float(spot[1])

    taken, labels = list(words), []
    for c in sorted(data.placed, key=lambda c: data.recall[c]):
        x, y = pixels(*_place(data, c, across=across))
        taken.append((x - 5, y - 5, x + 5, y + 5))
        ends = (x - 2, y, x + 2, y)
        if data.shown[c] and math.isfinite(data.low[c]):
            low, high = (
                (end, data.recall[c]) if across else (data.count[c], end) for end in (data.low[c], data.high[c])
            )
            left, bottom, right, top = *pixels(*low), *pixels(*high)
            taken.append((left - 1, bottom - 1, right + 1, top + 1))
            ends = (min(left, x - 2), bottom, max(right, x + 2), top)
        if data.named[c]:
            labels.append(Label(data.names[c], (x, y), ends, bold=data.fragile[c]))
    write_names(axes, labels, taken)
