"""The commands that read results again, declared for typer: `check`, `compare` and `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..runtime import signals
from .options import Out, Overwrite
from .screen import print_line
from .tables import show_comparison


def check(
    diagnosis: Annotated[
        Path,
        typer.Argument(
            metavar="DIAGNOSIS", readable=False, help="A folder that diagnose wrote, or its diagnosis.json."
        ),
    ],
    *,
    worst_recall: Annotated[
        float | None, typer.Option(help="Smallest held-out recall of a class.", metavar="R")
    ] = None,
    gap_ratio: Annotated[
        float | None, typer.Option(help="Smallest held-out / training top-K magnitude of a class.", metavar="R")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="An older diagnosis; a class must not be worse.", metavar="DIAGNOSIS", readable=False),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML.", metavar="FILE", readable=False)] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Write a Markdown table.", metavar="FILE", readable=False)
    ] = None,
) -> None:
    """Exit with 1 if a class is below a bar, or worse than in an older diagnosis, beyond its 95% interval."""
    from ..commands.check import check_run

    signals.begin_work()
    outcome = check_run(
        diagnosis, worst_recall=worst_recall, gap_ratio=gap_ratio, against=against, junit=junit, markdown=markdown
    )
    for line in outcome.in_words().splitlines():
        print_line(line)
    if not outcome.passed:
        raise typer.Exit(1)


def compare(
    first: Annotated[Path, typer.Argument(metavar="DIR_A", readable=False, help="A folder that diagnose wrote.")],
    second: Annotated[Path, typer.Argument(metavar="DIR_B", readable=False, help="Another such folder.")],
    *,
    directory: Out,
    overwrite: Overwrite = False,
) -> None:
    """Compare the classes of two diagnosed networks: recall, and magnitude and identity of their top-K features."""
    from ..commands.compare import compare_run

    signals.begin_work()
    comparison, _ = compare_run(first, second, out=directory, overwrite=overwrite, say=print_line)
    show_comparison(comparison)
    print_line(f"report: {directory / 'report.html'}")


def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="results.jsonl|DIR",
            readable=False,
            help="The records of a benchmark, or a folder that diagnose, compare or remedy wrote.",
        ),
    ],
    *,
    directory: Out,
    overwrite: Overwrite = False,
) -> None:
    """Write the report of a benchmark, or rewrite that of a folder. Needs neither the data nor the network."""
    from ..commands.report import report_run

    signals.begin_work()
    report_run(source, out=directory, overwrite=overwrite)
    print_line(f"report: {directory / 'report.html'}")
