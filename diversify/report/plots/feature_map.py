"""A map of images in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .canvas import Style, ink, new_figure
from .data import Points
from .text import NAME, cut

# Colour and marker of each group
_GROUPS = (
    ("vermillion", "D"),
    ("blue", "o"),
    ("green", "^"),
    ("purple", "s"),
    ("orange", "v"),
    ("sky", "P"),
)
MAP_GROUPS = len(_GROUPS)


def draw_points(data: Points, width: float) -> Figure:
    """Draw the images, their groups and the names of the classes."""
    figure, axes = new_figure(width, 0.86 * width, 0.05, 0.05, 0.05, 0.32)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.03)
    handles = []
    for group in range(-1, len(data.groups)):
        color, marker = ("muted", "o") if group < 0 else _GROUPS[group % len(_GROUPS)]
        style: Style = {"linestyle": "none", "color": ink(color), "alpha": 0.35 if group < 0 else 0.85}
        for missed in (False, True):  # hollow, in the sign and colour of their class
            members = [
                i
                for i, (one, wrong) in enumerate(zip(data.group, data.missed, strict=True))
                if one == group and wrong is missed
            ]
            size = (2.6 if missed else 2.2) if group < 0 else (4.2 if missed else 3.6)
            face = "none" if missed else ink(color)
            sign: Style = {"marker": marker, "markersize": size, "markerfacecolor": face}
            sign["markeredgewidth"] = 0.9 if missed else 0.0
            axes.plot([data.x[i] for i in members], [data.y[i] for i in members], zorder=3 + group, **style, **sign)
        if group >= 0:
            name = cut(data.groups[group], NAME)
            handles.append(
                Line2D([], [], linestyle="none", marker=marker, markersize=4.5, color=ink(color), label=name)
            )
    hollow: Style = {"linestyle": "none", "marker": "o", "markersize": 4.5, "markerfacecolor": "none"}
    handles.append(Line2D([], [], color=ink("muted"), label="hollow: missed", **hollow))
    _add_legend(figure, handles, width)
    for name, x, y in data.places:
        _write_name(axes, name, x, y)
    return figure


def _add_legend(figure: Figure, handles: Sequence[Line2D], width: float) -> None:
    """Add a legend above the map, in as many columns as fit."""
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, 1),
        ncols=max(2, int(width * 72 / 100)),
        frameon=False,
        labelcolor=ink("ink"),
        borderpad=0,
        borderaxespad=0,
        handlelength=0.8,
        handletextpad=0.4,
        columnspacing=1.2,
    )


def _write_name(axes: Axes, name: str, x: float, y: float) -> None:
    """Write the name of a class on a ground that lets images shine through."""
    ground: Style = {
        "bbox": {"boxstyle": "round,pad=0.15", "facecolor": ink("paper"), "edgecolor": "none", "alpha": 0.75}
    }
    style: Style = {"ha": "center", "va": "center", "size": 8.5, "color": ink("ink"), "zorder": 20}
    axes.text(x, y, cut(name, NAME), parse_math=False, **style, **ground)
