"""Names beside the points of a scatter plot, where there is room."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from .canvas import CHARACTER, FONT, Style, ink, overlap
from .text import NAME, cut

Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels


class Label(NamedTuple):
    """A name, the place of its point, and the box of the point's interval, in pixels."""

    name: str
    spot: tuple[float, float]
    ends: Box
    bold: bool = False


def write_names(axes: Axes, labels: Sequence[Label], taken: Sequence[Box], better_free: Sequence[Box] = ()) -> None:
    """Write names where there is room, the first label first: beside the point, or above or below it.

    Args:
        axes: The axes.
        labels: The names.
        taken: Boxes that no name may touch.
        better_free: Boxes that a name touches only where it has no other place.
    """
    left, bottom, right, top = (float(v) for v in axes.bbox.extents)
    taken = list(taken)
    for one in labels:
        name = cut(one.name, NAME)
        width, height = CHARACTER * len(name), FONT
        (x, y), (first, low, last, high) = one.spot, one.ends
        beside = [(last + 6, y + lift) for lift in (0, 7, -7)] + [(first - 6 - width, y + lift) for lift in (0, 7, -7)]
        beyond = [(x - width / 2, low - 7), (x - width / 2, high + 7)]
        for avoided, (start, middle) in itertools.product(([*taken, *better_free], taken), (*beside, *beyond)):
            box = (start, middle - height / 2, start + width, middle + height / 2)
            inside = box[0] >= left - 2 and box[2] <= right + 8 and box[1] >= bottom + 1 and box[3] <= top + 6
            if inside and not any(overlap(box, other) for other in avoided):
                taken.append(box)
                place: Style = {"xycoords": "figure pixels", "va": "center_baseline", "annotation_clip": False}
                weight = "bold" if one.bold else "normal"
                axes.annotate(name, (start, middle), color=ink("ink"), weight=weight, parse_math=False, **place)
                break
