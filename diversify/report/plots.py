"""Drawings of numbers that are already made: frozen plot data in, SVG text out.

The SVG is for inlining in HTML: its colours are CSS variables with a light default, so that one drawing serves light
and dark pages, and its text stays text. Equal data gives equal text; matplotlib's settings and backend are not read.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

_FONT = 9.0  # points; the width of a character is taken to be 0.6 of it
_CHARACTER = 0.6 * _FONT
_NAME = 18  # characters of a class name that are drawn

# Drawn in a colour that nothing else has, then replaced by the variable. Light defaults: Okabe and Ito 2008.
_COLORS = {
    "ink": ("#010203", "#1c2128"),
    "muted": ("#010204", "#5b6570"),
    "line": ("#010205", "#d5dae0"),
    "band": ("#010206", "#f4f6f8"),
    "blue": ("#010207", "#0072b2"),
    "vermillion": ("#010208", "#d55e00"),
    "sky": ("#010209", "#56b4e9"),
    "orange": ("#01020a", "#e69f00"),
    "green": ("#01020b", "#009e73"),
    "purple": ("#01020c", "#cc79a7"),
    "paper": ("#01020d", "#ffffff"),
    "on-dark": ("#01020e", "#ffffff"),
    "on-light": ("#01020f", "#0d0f12"),
}
FRAGILE = "◆"
MOST_DOTS = 2000  # of the classes that a scatter plot does not name

Style = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByCount:
    """A measure, called `label`, against training images, one value per class.

    Classes with `shown` are drawn with their interval and, where there is room, their name; the others as pale dots.
    `line` is (slope, intercept) on the natural log of the count, None where undefined. `percent` is for shares of 1;
    `bad` is the end of the scale at which names are placed first.
    """

    label: str

    names: tuple[str, ...]
    count: tuple[float, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    fragile: tuple[bool, ...]
    shown: tuple[bool, ...]
    line: tuple[float, float] | None
    percent: bool = True
    bad: Literal["low", "high"] = "low"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """One value per row with its interval, NaN where there is none; `marker` and `color` are told apart in grey too."""

    name: str
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    color: str = "blue"
    marker: str = "o"
    hollow: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """One row per class, first at the top, with one mark per series; a sign ("" for none) stands behind its name.

    `percent` is for shares of 1, `points` for differences of shares.

    `reference` is where a vertical line is drawn. Values outside of `limits` are drawn at the edge, as an arrow. Where the
    series are `joined`, the marks of a row are level, on a line from the first to the last. Of a name, `longest` characters
    are drawn.
    """

    names: tuple[str, ...]
    signs: tuple[str, ...]
    series: tuple[Series, ...]
    reference: float | None = None
    limits: tuple[float, float] = (-math.inf, math.inf)
    percent: bool = False
    points: bool = False
    joined: bool = False
    longest: int = _NAME


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """A class's top-K features, strongest first, and per series the mean magnitude of each, in logits."""

    features: tuple[int, ...]
    series: tuple[Series, ...]
    top: float  # of the axis, the same for profiles that stand side by side


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stacked:
    """One bar per class, first at the top, cut into parts that add up to 1; NaN for a class that has none.

    `parts` are (name, shares), at most four: drawn from blue over sky and orange to vermillion.
    """

    names: tuple[str, ...]
    signs: tuple[str, ...]
    parts: tuple[tuple[str, tuple[float, ...]], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points:
    """Images on a map. `group` is an index into `groups`, told apart by colour and sign, or -1 for the pale rest.

    `missed` images are drawn hollow. `places` are names with the place where each is written.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    group: tuple[int, ...]
    missed: tuple[bool, ...]
    groups: tuple[str, ...]
    places: tuple[tuple[str, float, float], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Against:
    """A share of 1, called `label`, against what it costs, called `across`: one named point each, with its interval.

    `marked` points have a colour and a sign of their own; `kinds` are what those without and those with it are called.
    """

    label: str
    across: str
    names: tuple[str, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    marked: tuple[bool, ...]
    kinds: tuple[str, str]


Plot = ByCount | Rows | Profile | Stacked | Points | Against


def draw(data: Plot, *, name: str, width: float = 4.8) -> str:
    """The SVG element, `width` inches wide by its own measure; `name` keeps its ids apart from another drawing's."""
    settings = {key: value for key, value in matplotlib.rcParamsDefault.items() if "backend" not in key}
    ours = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": _FONT, "axes.linewidth": 0.8}
    with warnings.catch_warnings(), matplotlib.rc_context(settings | ours):
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's browser has the font
        return _svg(_drawn(data, width))


def _drawn(data: Plot, width: float) -> Figure:
    match data:
        case ByCount():
            return _scatter(data, width)
        case Rows():
            return _rows(data, width)
        case Profile():
            return _profile(data, width)
        case Stacked():
            return _stacked(data, width)
        case Points():
            return _points(data, width)
        case Against():
            return _against(data, width)


def cut(name: str, length: int) -> str:
    """`name`, its end left out where it is longer."""
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"


def shortened(names: Sequence[str], length: int) -> list[str]:
    """Names cut to a length at their end; where that leaves several the same, without the words they begin with."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(cut(name, length), []).append(name)
    found = []
    for name in names:
        group = groups[cut(name, length)]
        ends = zip(min(group), max(group), strict=False)
        shared = "".join(one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
        start = 1 + max(shared.rfind(mark) for mark in " _-/.") if len(set(group)) > 1 else 0
        found.append(cut(f"…{name[start:]}" if start else name, length))
    return found


def _ink(name: str) -> str:
    return _COLORS[name][0]


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", r"<svg \1>", text, count=1, flags=re.DOTALL)
    text = re.sub(r"<g id=\"[^\"]*\"", "<g", text)
    text = text.replace("<use xlink:href=", "<use href=")
    for variable, (drawn, light) in _COLORS.items():
        text = text.replace(f": {drawn}", f": var(--{variable}, {light})")
    return text


def _figure(width: float, height: float, left: float, right: float, bottom: float, top: float) -> tuple[Figure, Axes]:
    """A figure with one plain pair of axes; sizes and margins in inches."""
    figure = Figure(figsize=(width, height), dpi=72)
    place = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    axes = figure.add_axes(place)
    axes.patch.set_visible(False)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_ink("muted"))
    axes.tick_params(color=_ink("muted"), labelcolor=_ink("ink"), length=3, pad=3)
    return figure, axes


def _legend(figure: Figure, handles: Sequence[Line2D], left: float) -> None:
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(left, 1),
        ncols=len(handles),
        frameon=False,
        labelcolor=_ink("ink"),
        borderpad=0,
        borderaxespad=0,
        handlelength=1.6,
        handletextpad=0.5,
        columnspacing=1.4,
    )


def _scatter(data: ByCount, width: float) -> Figure:
    figure, axes = _figure(width, 3.7, 0.48, 0.15, 0.55, 0.5)
    placed = [c for c in range(len(data.names)) if data.count[c] > 0 and math.isfinite(data.value[c])]
    shown = [c for c in placed if data.shown[c]]
    counts = [data.count[c] for c in placed] or [1.0]
    room = max(1.15, (max(counts) / min(counts)) ** 0.08)
    axes.set_xscale("log")
    axes.set_xlim(min(counts) / room, max(counts) * room**1.8)  # room for the name of the largest
    axes.set_ylim(*_heights(data, placed))
    axes.xaxis.set_major_locator(FixedLocator(_count_ticks(min(counts), max(counts), room)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if data.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.0f}%"))
    axes.grid(axis="y", color=_ink("line"), linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("training images of the class (log scale)", color=_ink("ink"), labelpad=5)
    axes.text(0, 1.02, data.label, transform=axes.transAxes, color=_ink("muted"), ha="left", va="bottom")
    handles = []
    if data.line is not None:
        style: Style = {"color": _ink("muted"), "linewidth": 1.2, "linestyle": (0, (5, 3))}
        axes.plot(*zip(*_line(data, counts), strict=True), zorder=2, **style)
        handles.append(Line2D([], [], label="what log n predicts", **style))
    rest = [c for c in placed if not data.shown[c]]
    rest = rest[:: -(-len(rest) // MOST_DOTS)] if rest else []
    if rest:
        dots: Style = {"linestyle": "none", "marker": "o", "markersize": 2.4, "color": _ink("muted"), "alpha": 0.45}
        axes.plot([data.count[c] for c in rest], [data.value[c] for c in rest], zorder=2, **dots)
        handles.insert(0, Line2D([], [], label="others", **dots))
    for fragile, color, marker in ((False, "blue", "o"), (True, "vermillion", "D")):
        group = [c for c in shown if data.fragile[c] is fragile]
        if not group:
            continue
        count = [data.count[c] for c in group]
        low, high = [data.low[c] for c in group], [data.high[c] for c in group]  # NaN draws nothing
        axes.vlines(count, low, high, color=_ink(color), linewidth=1.3, alpha=0.75, zorder=3)
        style = {"linestyle": "none", "marker": marker, "markersize": 5.2, "color": _ink(color)}
        axes.plot(count, [data.value[c] for c in group], zorder=4, **style)
        handles.insert(0, Line2D([], [], label="fragile" if fragile else "not fragile", **style))
    _legend(figure, handles, 0.48 / width)
    _name_points(axes, data, placed, shown)
    return figure


_LOG_FROM = 5.0  # times the smallest cost: from there on the axis is logarithmic


def _against(data: Against, width: float) -> Figure:
    figure, axes = _figure(width, 3.7, 0.48, 0.15, 0.55, 0.5)
    every = range(len(data.names))
    placed = [i for i in every if math.isfinite(data.y[i]) and math.isfinite(data.x[i]) and data.x[i] > 0]
    costs = [data.x[i] for i in placed] or [1.0]
    least, most = min(costs), max(costs)
    if most > _LOG_FROM * least:
        room = (most / least) ** 0.08
        axes.set_xscale("log")
        axes.set_xlim(least / room, most * room**2)
        axes.xaxis.set_major_locator(FixedLocator(_count_ticks(least, most, room)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        room = 0.08 * ((most - least) or most)
        axes.set_xlim(least - room, most + 2 * room)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    series = Series(name="", values=data.y, low=data.low, high=data.high)
    axes.set_ylim(*_range(Rows(names=data.names, signs=(), series=(series,), limits=(-0.02, 1.02))))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(_percent))
    axes.grid(axis="y", color=_ink("line"), linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(data.across, color=_ink("ink"), labelpad=5)
    axes.text(0, 1.02, data.label, transform=axes.transAxes, color=_ink("muted"), ha="left", va="bottom")
    handles = []
    for marked, color, marker in ((False, "blue", "o"), (True, "vermillion", "D")):
        group = [i for i in placed if data.marked[i] is marked]
        if not group:
            continue
        x = [data.x[i] for i in group]
        ends = [data.low[i] for i in group], [data.high[i] for i in group]  # NaN draws nothing
        axes.vlines(x, *ends, color=_ink(color), linewidth=1.3, alpha=0.75, zorder=3)
        style: Style = {"linestyle": "none", "marker": marker, "markersize": 5.2, "color": _ink(color)}
        axes.plot(x, [data.y[i] for i in group], zorder=4, **style)
        handles.append(Line2D([], [], label=data.kinds[int(marked)], **style))
    _legend(figure, handles, 0.48 / width)
    _name_apart(axes, data, placed)
    return figure


_LONGEST = 24  # characters of a name beside a point


def _name_apart(axes: Axes, data: Against, placed: Sequence[int]) -> None:
    """Every name at the nearest free place, best first; with a thin line to its point where that is not beside it."""
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
        width, (x, y) = _CHARACTER * len(name), spots[i]
        places = [
            (x + across if side > 0 else x - across - width, y + lift, across)
            for across, lift in steps
            for side in (1, -1)
        ]
        for start, middle, across in places:
            box = (start - 1, middle - _FONT / 2, start + width + 1, middle + _FONT / 2)
            inside = box[0] >= left - 2 and box[2] <= right + 8 and box[1] >= bottom + 1 and box[3] <= top + 6
            if not inside or any(_meet(box, other) for other in taken):
                continue
            taken.append(box)
            place: Style = {"xycoords": "figure pixels", "va": "center_baseline", "annotation_clip": False}
            weight = "bold" if data.marked[i] else "normal"
            axes.annotate(name, (start, middle), color=_ink("ink"), weight=weight, parse_math=False, **place)
            if across > 7 or abs(middle - y) > _FONT:
                near = (start - 2 if start > x else start + width + 2, middle)
                ends_of_line = axes.transData.inverted().transform([(x, y), near])
                axes.plot(*zip(*ends_of_line.tolist(), strict=True), color=_ink("muted"), linewidth=0.6, zorder=2)
            break


def _count_ticks(low: float, high: float, room: float) -> list[float]:
    """1, 2 and 5 of every decade; with many decades only 1; where none falls inside, the counts themselves."""
    parts = (1, 2, 5) if high / low < 3e3 else (1,)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    ticks = [part * 10.0**decade for decade in decades for part in parts]
    inside = [tick for tick in ticks if tick >= 1 and low / room <= tick <= high * room]
    return inside if len(inside) > 1 else sorted({low, high})


def _heights(data: ByCount, placed: Sequence[int]) -> tuple[float, float]:
    """The ends of the axis: for shares up to 1; else around values and intervals that do not dwarf them."""
    if data.percent:
        floor = min((data.low[c] for c in placed if math.isfinite(data.low[c])), default=0.0)
        return max(-0.02, min(0.7, math.floor(floor * 10) / 10) - 0.02), 1.03
    series = Series(name="", values=data.value, low=data.low, high=data.high)
    return _range(Rows(names=data.names, signs=(), series=(series,), reference=0.0))


def _line(data: ByCount, counts: Sequence[float]) -> list[tuple[float, float]]:
    """(count, value) along it, over the range of the counts; a share stays in [0, 1]."""
    slope, intercept = data.line or (math.nan, math.nan)
    low, high = math.log(min(counts)), math.log(max(counts))
    logs = [low + (high - low) * step / 150 for step in range(151)]
    values = [slope * log + intercept for log in logs]
    if data.percent:
        values = [min(1.0, max(0.0, value)) for value in values]
    return [(math.exp(log), value) for log, value in zip(logs, values, strict=True)]


def _name_points(axes: Axes, data: ByCount, placed: Sequence[int], shown: Sequence[int]) -> None:
    """Names where there is room, off the line if possible: beside the point, else above or below; weakest first."""
    left, bottom, right, top = (float(v) for v in axes.bbox.extents)

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
    for c in sorted(shown, key=lambda c: data.value[c] if data.bad == "low" else -data.value[c]):
        name = cut(data.names[c], _NAME)
        width, height = _CHARACTER * len(name), _FONT
        x, y = spot(c, data.value[c])
        ends = (data.low[c], data.high[c]) if math.isfinite(data.low[c]) else (data.value[c], data.value[c])
        low, high = (spot(c, end)[1] for end in ends)
        beside = [(x + 6, y + lift) for lift in (0, 7, -7)] + [(x - 6 - width, y + lift) for lift in (0, 7, -7)]
        beyond = [(x - width / 2, low - 7), (x - width / 2, high + 7)]
        for avoided, (start, middle) in itertools.product(([*taken, *line], taken), (*beside, *beyond)):
            box = (start, middle - height / 2, start + width, middle + height / 2)
            inside = box[0] >= left - 2 and box[2] <= right + 8 and box[1] >= bottom + 1 and box[3] <= top + 6
            if inside and not any(_meet(box, other) for other in avoided):
                taken.append(box)
                weight = "bold" if data.fragile[c] else "normal"
                place: Style = {"xycoords": "figure pixels", "va": "center_baseline", "annotation_clip": False}
                axes.annotate(name, (start, middle), color=_ink("ink"), weight=weight, parse_math=False, **place)
                break


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _rows(data: Rows, width: float) -> Figure:
    count = len(data.names)
    names = [
        f"{name} {sign}".rstrip() for name, sign in zip(shortened(data.names, data.longest), data.signs, strict=True)
    ]
    left = min(0.42 * width, 0.2 + max((len(name) for name in names), default=0) * _CHARACTER / 72)
    several = len(data.series) > 1
    row, top, bottom = 0.32, 0.3, 0.34  # the same for all, so that drawings side by side are level
    figure, axes = _figure(width, top + bottom + row * max(1, count), left, 0.15, bottom, top)
    low, high = _range(data)
    axes.set_xlim(low, high)
    axes.set_ylim(max(1, count) - 0.5, -0.5)
    for place in range(0, count, 2):
        axes.axhspan(place - 0.5, place + 0.5, facecolor=_ink("band"), edgecolor="none", zorder=0)
    if data.reference is not None:
        axes.axvline(data.reference, color=_ink("muted"), linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
    axes.grid(axis="x", color=_ink("line"), linewidth=0.7, zorder=0.5)
    axes.set_axisbelow(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    if data.percent:
        axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    if data.points:
        axes.xaxis.set_major_formatter(FuncFormatter(_in_points))
    axes.set_yticks(range(count), names, parse_math=False)
    axes.tick_params(axis="y", length=0)
    for label, sign in zip(axes.get_yticklabels(), data.signs, strict=True):
        label.set_fontweight("bold" if sign else "normal")
    handles = []
    if data.joined and several:
        for place, ends in enumerate(zip(data.series[0].values, data.series[-1].values, strict=True)):
            axes.plot(ends, [place, place], color=_ink(data.series[-1].color), linewidth=1.6, alpha=0.5, zorder=2)
    for number, series in enumerate(data.series):
        offset = 0.0 if data.joined else 0.27 * (number - (len(data.series) - 1) / 2)
        handles.append(_marks(axes, series, offset, low, high))
    if several:
        _legend(figure, handles, left / width)
    return figure


def _in_points(value: float, _: object) -> str:
    points = round(100 * value, 6)
    return f"{points:+g}".replace("-", "−") if points else "0"


def _percent(value: float, _: object) -> str:
    return f"{value * 100:.0f}%".replace("-", "−") if value <= 1 + 1e-9 else ""


def _marks(axes: Axes, series: Series, offset: float, low: float, high: float) -> Line2D:
    face = "none" if series.hollow else _ink(series.color)
    size: Style = {"markersize": 4.4, "markeredgewidth": 1.1}
    style: Style = {"color": _ink(series.color), "markerfacecolor": face, "linestyle": "none", "zorder": 4, **size}
    groups: dict[str, list[tuple[float, float]]] = {}
    for place, (value, start, end) in enumerate(zip(series.values, series.low, series.high, strict=True)):
        if not math.isfinite(value):
            continue
        if math.isfinite(start) and math.isfinite(end) and start < high and end > low:
            ends = [max(start, low), min(end, high)]
            axes.plot(ends, [place + offset] * 2, color=_ink(series.color), linewidth=1.2, alpha=0.75, zorder=3)
        marker = "<" if value < low else ">" if value > high else series.marker
        groups.setdefault(marker, []).append((min(max(value, low), high), place + offset))
    for marker, points in groups.items():
        axes.plot(*zip(*points, strict=True), marker=marker, clip_on=False, **style)
    return Line2D([], [], label=series.name, marker=series.marker, **style)


def _range(data: Rows) -> tuple[float, float]:
    """The axis: values, reference, and intervals as far as they do not dwarf the values; within the limits."""
    values = [value for series in data.series for value in series.values if math.isfinite(value)]
    ends = [end for series in data.series for side in (series.low, series.high) for end in side if math.isfinite(end)]
    if data.reference is not None:
        values.append(data.reference)
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    span = (high - low) or max(abs(low), 1.0) * 0.5
    low, high = max(min([low, *ends]), low - span), min(max([high, *ends]), high + span)
    low, high = max(low, data.limits[0]), min(high, data.limits[1])
    pad = 0.04 * ((high - low) or span)
    return low - pad, high + pad


def _profile(data: Profile, width: float) -> Figure:
    figure, axes = _figure(width, 1.85, 0.38, 0.06, 0.42, 0.12)
    ranks = list(range(1, len(data.features) + 1))
    lows = [v for series in data.series for v in series.values if math.isfinite(v)]
    axes.set_ylim(min([0.0, *lows]) * 1.08, max(data.top, 1e-9) * 1.08)
    axes.set_xlim(0.6, max(len(ranks), 2) + 0.4)
    axes.grid(axis="y", color=_ink("line"), linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    marked = ranks if len(ranks) <= 12 else ranks[:: -(-len(ranks) // 6)]
    axes.set_xticks(marked, [str(data.features[rank - 1]) for rank in marked])
    axes.set_xlabel("feature, strongest in training first", color=_ink("muted"), labelpad=3)
    for series in data.series:
        style: Style = {"color": _ink(series.color), "linewidth": 1.3, "zorder": 3}
        face = _ink("paper") if series.hollow else _ink(series.color)
        style |= {"marker": series.marker, "markersize": 4.2, "markerfacecolor": face, "markeredgewidth": 1.1}
        style["markevery"] = -(-len(ranks) // 15)
        axes.plot(ranks, series.values, **style)
    return figure


_PARTS = (("blue", "on-dark"), ("sky", "on-light"), ("orange", "on-light"), ("vermillion", "on-light"))


def _stacked(data: Stacked, width: float) -> Figure:
    count = len(data.names)
    names = [f"{name} {sign}".rstrip() for name, sign in zip(shortened(data.names, _NAME), data.signs, strict=True)]
    left = min(0.42 * width, 0.2 + max((len(name) for name in names), default=0) * _CHARACTER / 72)
    figure, axes = _figure(width, 0.3 + 0.34 + 0.32 * max(1, count), left, 0.25, 0.34, 0.3)
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
        edge: Style = {"edgecolor": _ink("paper"), "linewidth": 1.0}
        axes.barh(range(count), values, left=start, height=0.74, color=_ink(color), **edge)
        for place, value in enumerate(values):
            if value >= room:
                where = (start[place] + value / 2, place)
                style: Style = {"ha": "center", "va": "center_baseline", "size": 8, "color": _ink(text)}
                axes.text(*where, f"{value * 100:.0f}%", **style)
        start = [done + value for done, value in zip(start, values, strict=True)]
        handles.append(Line2D([], [], label=name, linestyle="none", marker="s", markersize=6.5, color=_ink(color)))
    _legend(figure, handles, left / width)
    return figure


_GROUPS = (
    ("vermillion", "D"),
    ("blue", "o"),
    ("green", "^"),
    ("purple", "s"),
    ("orange", "v"),
    ("sky", "P"),
)
MAP_GROUPS = len(_GROUPS)


def _points(data: Points, width: float) -> Figure:
    figure, axes = _figure(width, 0.86 * width, 0.05, 0.05, 0.05, 0.32)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.03)
    handles = []
    for group in range(-1, len(data.groups)):
        color, marker = ("muted", "o") if group < 0 else _GROUPS[group % len(_GROUPS)]
        style: Style = {"linestyle": "none", "color": _ink(color), "alpha": 0.35 if group < 0 else 0.85}
        for missed in (False, True):  # hollow, in the sign and colour of their class
            members = [
                i
                for i, (one, wrong) in enumerate(zip(data.group, data.missed, strict=True))
                if one == group and wrong is missed
            ]
            size = (2.6 if missed else 2.2) if group < 0 else (4.2 if missed else 3.6)
            face = "none" if missed else _ink(color)
            sign: Style = {"marker": marker, "markersize": size, "markerfacecolor": face}
            sign["markeredgewidth"] = 0.9 if missed else 0.0
            axes.plot([data.x[i] for i in members], [data.y[i] for i in members], zorder=3 + group, **style, **sign)
        if group >= 0:
            name = cut(data.groups[group], _NAME)
            handles.append(
                Line2D([], [], linestyle="none", marker=marker, markersize=4.5, color=_ink(color), label=name)
            )
    hollow: Style = {"linestyle": "none", "marker": "o", "markersize": 4.5, "markerfacecolor": "none"}
    handles.append(Line2D([], [], color=_ink("muted"), label="hollow: missed", **hollow))
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, 1),
        ncols=max(2, int(width * 72 / 100)),
        frameon=False,
        labelcolor=_ink("ink"),
        borderpad=0,
        borderaxespad=0,
        handlelength=0.8,
        handletextpad=0.4,
        columnspacing=1.2,
    )
    for name, x, y in data.places:
        halo: Style = {
            "bbox": {"boxstyle": "round,pad=0.15", "facecolor": _ink("paper"), "edgecolor": "none", "alpha": 0.75}
        }
        axes.text(
            x,
            y,
            cut(name, _NAME),
            ha="center",
            va="center",
            size=8.5,
            color=_ink("ink"),
            zorder=20,
            parse_math=False,
            **halo,
        )
    return figure
