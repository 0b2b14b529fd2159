"""The signatures by which long work reports its progress, declared once for the whole library."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int | None], None]
"""Called with (steps done, steps in total); the total is None where it is unknown."""

StageProgress = Callable[[str, int, int | None], None]
"""Called with (name of the stage, steps done, steps in total)."""

Say = Callable[[str], None]
"""Called with one line of text for the user."""


class Ticker:
    """Count the steps of one piece of work and report each.

    Args:
        progress: Called after each step; None reports nothing.
        total: Steps in total.

    Example:
        >>> tick = Ticker(lambda done, total: print(f"{done} of {total}"), total=2)
        >>> tick()
        1 of 2
        >>> tick()
        2 of 2
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, steps: int = 1) -> None:
        """Count so many more steps and report."""
        self.done += steps
        if self.progress is not None:
            self.progress(self.done, self.total)


def stage(progress: StageProgress | None, name: str) -> Progress | None:
    """Return the progress of one stage, for a function that has no stages of its own.

    Example:
        >>> report = stage(lambda name, done, total: print(name, done, total), "reading")
        >>> report(3, 10)
        reading 3 10
    """
    if progress is None:
        return None
    report = progress
    return lambda done, total: report(name, done, total)
