"""Plot data in, SVG text out.

The SVG is for inlining in HTML: its colours are CSS variables with light defaults, so that one drawing serves light and
dark pages, and its text stays text. Equal data gives equal SVG; matplotlib's settings and backend are not read.
"""

from __future__ import annotations

import warnings

import matplotlib
from matplotlib.figure import Figure

from .canvas import FONT, svg_text
from .coverage import draw_by_coverage
from .data import Against, ByCount, ByCoverage, Plot, Points, Profile, Rows, Stacked
from .feature_map import draw_points
from .profile import draw_profile
from .rows import draw_rows, draw_stacked
from .scatter import draw_against, draw_by_count


def draw(data: Plot, *, name: str, width: float = 4.8) -> str:
    """Return the drawing as an SVG element.

    Args:
        data: The numbers.
        name: Keeps the ids of this drawing apart from those of others on the page.
        width: Width in inches; the page scales the drawing.
    """
    settings = {key: value for key, value in matplotlib.rcParamsDefault.items() if "backend" not in key}
    ours = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": FONT, "axes.linewidth": 0.8}
    with warnings.catch_warnings(), matplotlib.rc_context(settings | ours):
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's browser has the font
        return svg_text(_drawn(data, width))


def _drawn(data: Plot, width: float) -> Figure:
    match data:
        case ByCount():
            return draw_by_count(data, width)
        case ByCoverage():
            return draw_by_coverage(data, width)
        case Rows():
            return draw_rows(data, width)
        case Profile():
            return draw_profile(data, width)
        case Stacked():
            return draw_stacked(data, width)
        case Points():
            return draw_points(data, width)
        case Against():
            return draw_against(data, width)
