"""The experiments of the `benchmark` command: `paper` and `diversity_digits`, and both on other data sets."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import must, unknown
from ..runtime.progress import Say
from ..study.experiments.paper import FEWEST_SEEDS, METHODS
from ..study.experiments.suites import EXPERIMENTS, Experiment, Paper
from ..study.ledger import Step
from ..study.records import require_results_file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experimented:
    """What the file of an experiment holds at the end.

    Attributes:
        runs: Runs of the experiment.
        new: Records that this call added.
        summary: What all records show, as a table.
    """

    runs: int
    new: int
    summary: str


def experiment_run(
    name: str,
    *,
    out: Path,
    given: Mapping[str, Any],
    workers: int = 1,
    root: Path = Path("data"),
    download: bool = False,
    say: Say,
    progress: Callable[[Step], None],
) -> Experimented:
    """Run an experiment; runs that `out` already records are not repeated.

    Args:
        name: One of `EXPERIMENTS`.
        out: The records, a file that ends in `.jsonl`.
        given: The other options of the command that were given: `methods`, `seeds` and `device` for the paper's claims, and
            `assignments` for diversity.
        workers: Processes, each with one thread.
        root: Folder of the public data sets.
        download: Download a public data set that is missing.
        say: Called with one line for the user, for each run.
        progress: Called with the progress.

    Raises:
        InputError: An option is wrong or means nothing for this experiment, the data are missing, or `out` holds other records.
    """
    experiment = _with(name, EXPERIMENTS[name], given)
    require_results_file(out)
    missing = experiment.missing(out)
    say(f"{name}: {experiment.says()}")
    done, begun = experiment.total - missing, time.perf_counter()
    if done and missing:
        say(f"{done} of {experiment.total} runs are recorded in {out}")
    progress(_step(name, done, experiment.total, None))
    new = 0
    for record in experiment.run(out, root=root, workers=workers, download=download):
        new += 1
        say(f"{done + new} of {experiment.total}: {experiment.line(record)}")
        left = (time.perf_counter() - begun) / new * (missing - new)
        progress(_step(name, done + new, experiment.total, left))
    return Experimented(runs=experiment.total, new=new, summary=experiment.summary(out))


def _step(name: str, done: int, total: int, left: float | None) -> Step:
    return Step(method=name, record=None, done=done, total=total, seconds_left=left, seconds_left_in_all=left)


def _with(name: str, experiment: Experiment, given: Mapping[str, Any]) -> Experiment:
    """The experiment with the options that were given."""
    takes = ("methods", "seeds", "device") if isinstance(experiment, Paper) else ("assignments", "device")
    for option, value in given.items():
        if option not in takes:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise must(option, f"be left out for {name}", shown, "it takes none")
    if isinstance(experiment, Paper):
        return _paper(experiment, given)
    device = given.get("device", "cpu")
    if device != "cpu":
        raise must("device", f"be auto or cpu for {name}", device, "its small networks are trained on the CPU")
    return dataclasses.replace(experiment, assignments=given.get("assignments", experiment.assignments))


def _paper(experiment: Paper, given: Mapping[str, Any]) -> Paper:
    """The claims of the paper with other losses, seeds or device, where given."""
    losses, seeds = given.get("methods", experiment.losses), given.get("seeds", experiment.seeds)
    for loss in losses:
        if loss not in METHODS:
            raise unknown("method", loss, METHODS)
    if len(seeds) < FEWEST_SEEDS:
        raise must(
            "seeds", f"be at least {FEWEST_SEEDS} numbers", repr(",".join(map(str, seeds))), "a verdict needs so many"
        )
    return dataclasses.replace(experiment, losses=losses, seeds=seeds, device=given.get("device"))
