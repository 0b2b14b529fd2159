"""How long work reports its progress: one signature for the whole library."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int | None], None]
"""Called with (steps done, steps in all); the second is None where the number of steps is unknown."""

StageProgress = Callable[[str, int, int | None], None]
"""The same with the name of the stage in front."""


class Ticker:
    """Counts the steps of one piece of work and reports each.

    Args:
        progress: Called after each step; None reports nothing.
        total: Steps in all.

    Example:
        >>> tick = Ticker(lambda done, total: print(f"{done} of {total}"), total=2)
        >>> tick(), tick()
        1 of 2
        2 of 2
        (None, None)
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, steps: int = 1) -> None:
        """Count `steps` more."""
        self.done += steps
        if self.progress is not None:
            self.progress(self.done, self.total)


def stage(progress: StageProgress | None, name: str) -> Progress | None:
    """The progress of one stage, for a function that knows nothing of stages."""
    if progress is None:
        return None
    report = progress
    return lambda done, total: report(name, done, total)
