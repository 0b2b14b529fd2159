"""The parts that all drawings share: colours, an empty figure, a legend, and the SVG text."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

FONT = 9.0  # points; a character is taken to be 0.6 of it wide
CHARACTER = 0.6 * FONT
_HANDLE, _PAD, _BETWEEN = (
    1.6,
    0.5,
    1.4,
)  # of a legend, in units of `FONT`: its signs, the gap to the text, and between entries

# Each colour is drawn in a value that nothing else has and then replaced by a CSS variable with the light default.
# The light defaults are those of Okabe and Ito 2008.
COLORS = {
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

Style = dict[str, Any]


def ink(name: str) -> str:
    """Return the colour to draw with."""
    return COLORS[name][0]


def new_figure(
    width: float, height: float, left: float, right: float, bottom: float, top: float
) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes; sizes and margins in inches."""
    figure = Figure(figsize=(width, height), dpi=72)
    place = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    axes = figure.add_axes(place)
    axes.patch.set_visible(False)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(ink("muted"))
    axes.tick_params(color=ink("muted"), labelcolor=ink("ink"), length=3, pad=3)
    return figure, axes


def add_legend(figure: Figure, handles: Sequence[Line2D], left: float) -> None:
    """Add a legend in one line above the axes, from `left` (a share of the width) on, or further left if it is too long."""
    texts = sum(CHARACTER * len(str(handle.get_label())) for handle in handles)
    length = texts + FONT * (_HANDLE + _PAD) * len(handles) + FONT * _BETWEEN * (len(handles) - 1)
    left = max(0.0, min(left, 1 - length / (72 * figure.get_figwidth())))
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(left, 1),
        ncols=len(handles),
        frameon=False,
        labelcolor=ink("ink"),
        borderpad=0,
        borderaxespad=0,
        handlelength=_HANDLE,
        handletextpad=_PAD,
        columnspacing=_BETWEEN,
    )


def value_range(
    series: Iterable[tuple[Sequence[float], Sequence[float], Sequence[float]]],
    reference: float | None = None,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float]:
    """Return the ends of an axis that holds all values, and intervals unless they dwarf the values.

    Args:
        series: Values, lower and upper ends of each series.
        reference: A further value to show.
        limits: The ends of the axis lie within these limits.
    """
    listed = list(series)
    values = [value for each, _, _ in listed for value in each if math.isfinite(value)]
    ends = [end for _, low, high in listed for side in (low, high) for end in side if math.isfinite(end)]
    if reference is not None:
        values.append(reference)
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    span = (high - low) or max(abs(low), 1.0) * 0.5
    low, high = max(min([low, *ends]), low - span), min(max([high, *ends]), high + span)
    low, high = max(low, limits[0]), min(high, limits[1])
    pad = 0.04 * ((high - low) or span)
    return low - pad, high + pad


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Return whether two boxes (left, bottom, right, top) overlap."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def percent_label(value: float, _: object) -> str:
    """Return the label of a share on an axis; "" above 100%."""
    return f"{value * 100:.0f}%".replace("-", "−") if value <= 1 + 1e-9 else ""


def svg_text(figure: Figure) -> str:
    """Return the figure as an SVG element whose colours are CSS variables."""
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
    for variable, (drawn, light) in COLORS.items():
        text = text.replace(f": {drawn}", f": var(--{variable}, {light})")
    return text
