"""What the tests of commands leave out, because it takes seconds and has tests of its own: figures, feature maps, long searches."""

import pytest


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Let reports have empty figures and no map of the features."""
    patch.setattr("diversify.report.plots.draw", lambda *_, **__: "<svg></svg>")
    patch.setattr("diversify.functional.projection.two_dimensions", lambda *_, **__: None)


def judge_once(patch: pytest.MonkeyPatch) -> None:
    """Let `remedy` make heads in five steps, and judge them on one cut into folds."""
    from diversify.repair.retrain import HeadRecipe

    patch.setattr("diversify.commands.remedy.REPEATS", 1)
    patch.setattr(
        "diversify.commands.remedy.HeadRecipe", lambda **options: HeadRecipe(steps=5, batch_size=16, **options)
    )
