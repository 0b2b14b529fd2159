"""The consoles and the progress bars."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ..runtime import signals

if TYPE_CHECKING:
    from ..runtime.progress import Say, StageProgress
    from ..study.ledger import Step
    from ..study.records import Record


class NoReaderError(Exception):
    """The reader of the output is gone: its pipe is closed."""


STANDARD_OUTPUT = "standard output"


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        """Print nothing more, and end the command."""
        self.quiet = True
        raise NoReaderError

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does; an error of the system names the stream as its file."""
        try:
            super().print(*objects, **options)
        except OSError as error:
            error.filename = "standard error" if self.stderr else STANDARD_OUTPUT
            raise


PIPED_WIDTH = 140  # columns of output that is piped, unless COLUMNS is set
out = _Screen(
    highlight=False, emoji=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
)
err = _Screen(stderr=True, highlight=False, emoji=False)


def print_line(line: str) -> None:
    """Print one line without markup, never wrapped."""
    out.print(line, markup=False, soft_wrap=True)


@contextmanager
def progress_bar() -> Iterator[StageProgress]:
    """A `StageProgress` that draws one bar per stage, with the time left; it draws nothing unless stderr is a terminal.

    An interruption within the block keeps what is finished.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    signals.begin_work()
    still = not err.is_terminal or err.is_dumb_terminal
    with Progress(*columns, console=err, transient=True, disable=still) as bar:
        tasks: dict[str, Any] = {}

        def update(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield update


@contextmanager
def study_progress() -> Iterator[tuple[Say, Callable[[Step], None]]]:
    """A pair of functions: one prints a line, the other shows a step of a study.

    A step that brings a record prints it as a line; on a terminal there is also a bar per method. An interruption within
    the block keeps what is finished.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    signals.begin_work()
    still = not err.is_terminal or err.is_dumb_terminal
    with Progress(*columns, console=err, transient=True, disable=still) as bar:
        tasks: dict[str, Any] = {}
        steps: dict[str, Step] = {}

        def say(line: str) -> None:
            if still or not out.is_terminal:
                print_line(line)
            else:  # by the bars' own console: a second one on the terminal would write into the bars
                bar.console.print(line, markup=False, soft_wrap=True)

        def show(name: str, done: int, total: int, left: float | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total, left="")
            words = "" if left is None or done == total else f"{_duration(left)} left"
            bar.update(tasks[name], completed=done, total=total, left=words)

        def update(step: Step) -> None:
            steps[step.method] = step
            if step.record is not None:
                say(_record_line(step.record))
                show(step.method, step.done, step.total, step.seconds_left)
            every = steps.values()
            show("in all", sum(one.done for one in every), sum(one.total for one in every), step.seconds_left_in_all)

        yield say, update


def _record_line(record: Record) -> str:
    """One line that summarises a record."""
    run = f"final run, seed {record.seed}" if record.number is None else f"trial {record.number}"
    if record.state == "failed":
        return f"{record.method}, {run}: failed; {record.reason}"
    value = math.nan if record.value is None else record.value
    shown = f"{value:.3g}" if record.metric == "cost" else f"{value:.1%}"
    shown = shown if record.metric == "balanced" else f"{record.metric_title} {shown}"
    stopped = f"stopped after {record.epochs} epochs, " if record.state == "pruned" else ""
    return f"{record.method}, {run}: {stopped}{shown} on {record.split}, {_duration(record.seconds)}"


def counted(count: int, what: str) -> str:
    """A number and its noun, in the plural unless it is 1."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def _duration(seconds: float) -> str:
    """A duration in its two largest units, for example `3 h 20 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"
