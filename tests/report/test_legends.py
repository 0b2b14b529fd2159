"""Legends above plots: they stay inside the figure."""

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diversify.report.plots.canvas import FONT, add_legend


@pytest.mark.parametrize(
    ("names", "left"), [(("held-out", "size"), 0.3), (("held-out recall", "size predicts", "both predict"), 0.138)]
)
def test_a_legend_that_is_too_long_begins_further_left(names: tuple[str, ...], left: float) -> None:
    figure = Figure(figsize=(4.8, 2), dpi=72)
    with rc_context({"font.size": FONT}):
        add_legend(figure, [Line2D([], [], label=name) for name in names], 0.3)
        figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_bbox_to_anchor().transformed(figure.transFigure.inverted())
    assert box.x0 == pytest.approx(left, abs=0.01)
    assert legend.get_window_extent().x1 <= figure.bbox.x1
