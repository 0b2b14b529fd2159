"""The command line as typer reads it: all commands, in the order in which `--help` lists them.

`diversify.commands` does the work; it is imported when a command is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from .. import __version__
from .diagnosis_commands import diagnose, probe
from .reading_commands import check, compare, report
from .repair_commands import collect, plan, remedy
from .screen import print_line
from .training_commands import benchmark, demo, train

COMMANDS: tuple[Callable[..., None], ...] = (
    train,
    diagnose,
    probe,
    plan,
    check,
    remedy,
    collect,
    compare,
    benchmark,
    report,
    demo,
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Find the classes that an image classifier fails on, learn why, and repair it.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print_line(f"diversify {__version__}")
        raise typer.Exit


@app.callback()
def _commands(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Find the classes that an image classifier fails on, learn why, and repair it."""


for _command in COMMANDS:
    app.command()(_command)
