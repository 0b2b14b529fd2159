"""What the tests of commands leave out, because it takes seconds and has tests of its own: figures and feature maps."""

import pytest


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Let reports have empty figures and no map of the features."""
    patch.setattr("diversify.report.plots.draw", lambda *_, **__: "<svg></svg>")
    patch.setattr("diversify.functional.projection.two_dimensions", lambda *_, **__: None)
