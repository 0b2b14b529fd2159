"""The command line. The only file that prints; what the commands do is in `runs/`, imported when one is called."""

from __future__ import annotations

import difflib
import errno
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from . import process
from .errors import InputError, must, unknown

if TYPE_CHECKING:
    from .demo_report import Outcome
    from .diagnosis import Diagnosis
    from .head_choice import HeadChoice
    from .plan import ClassPlan, Plan
    from .runs import DataOptions
    from .study.records import Record
    from .study.run import Step

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Find out which classes a CNN fails on, why, and how sure we are.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _NoReaderError(Exception):
    """What reads the output is gone."""


STANDARD_OUTPUT = "standard output"


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        """Write nothing more, and stop: nobody reads it."""
        self.quiet = True
        raise _NoReaderError

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich has it; an error of the system names the stream."""
        try:
            super().print(*objects, **options)
        except OSError as error:
            error.filename = "standard error" if self.stderr else STANDARD_OUTPUT
            raise


NO_READER = 141  # as the shell counts a process that a closed pipe ended
PIPED_WIDTH = 140  # columns where nobody said how many there are
out = _Screen(
    highlight=False, emoji=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
)
err = _Screen(stderr=True, highlight=False, emoji=False)

Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="digits | cifar10 | cifar100 | svhn | mnist | fashion-mnist | places365 | inaturalist | npz:FILE | folder:DIR"
        " | package.module:function",
        rich_help_panel="Data",
        show_default="digits",
    ),
]
Root = Annotated[Path, typer.Option(help="Where data sets are kept.", readable=False, rich_help_panel="Data")]
ImbalanceOption = Annotated[
    str | None,
    typer.Option(
        "--imbalance", help="exp:RATIO[:NMAX] | step:RATIO:FRACTION | none", rich_help_panel="Data", show_default="none"
    ),
]
TailOrder = Annotated[
    str | None,
    typer.Option(
        help="canonical, or a seed that permutes which classes are rare.",
        rich_help_panel="Data",
        show_default="canonical",
    ),
]
Holdout = Annotated[
    float | None,
    typer.Option(
        help="Share of train cut off as val, when the source has none.", rich_help_panel="Data", show_default="0.2"
    ),
]
Mean = Annotated[
    str | None, typer.Option(help="Per channel, for images in [0, 1]: M or M,M,M.", rich_help_panel="Data")
]
Std = Annotated[str | None, typer.Option(help="Per channel: S or S,S,S.", rich_help_panel="Data")]
Resize = Annotated[int | None, typer.Option(help="Shorter side, in pixels.", rich_help_panel="Data")]
Crop = Annotated[int | None, typer.Option(help="Centre crop, in pixels.", rich_help_panel="Data")]
Download = Annotated[
    bool, typer.Option("--download", help="Fetch a public data set that is not under --root.", rich_help_panel="Data")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out image files that cannot be read.", rich_help_panel="Data")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="small_cnn | resnet20 | resnet32 | resnet56 | torchvision:NAME | timm:NAME | package.module:function",
        show_default="small_cnn",
    ),
]
Precision = Annotated[str, typer.Option(help="auto | fp32 | bf16; auto takes bf16 where the hardware has it.")]
Workers = Annotated[int, typer.Option(min=0, help="Loader processes.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run left in DIR.")]
Out = Annotated[Path, typer.Option("--out", help="The folder to write.", metavar="DIR", readable=False)]


def _numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise must(name, "be numbers separated by commas", repr(text)) from None


def _data_options(
    spec: str | None,
    root: Path,
    imbalance: str | None,
    tail_order: str | None,
    holdout: float | None,
    mean: str | None,
    std: str | None,
    resize: int | None,
    crop: int | None,
    download: bool,
    skip_bad: bool,
) -> DataOptions:
    from .runs import DataOptions

    return DataOptions(
        spec=spec,
        root=str(root),
        imbalance=imbalance,
        tail_order=tail_order,
        holdout=holdout,
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        resize=resize,
        crop=crop,
        download=download,
        skip_bad=skip_bad,
    )


def _say(line: str) -> None:
    out.print(line, markup=False, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Any]:
    """A callable `(what, done, in all)` that draws a bar with the time left, on a terminal; nothing where there is none.

    Within the block an interruption keeps what is finished.
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
    process.begin_work()
    still = not err.is_terminal or err.is_dumb_terminal
    with Progress(*columns, console=err, transient=True, disable=still) as bar:
        tasks: dict[str, Any] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield update


@app.callback()
def _commands() -> None:
    """Find out which classes a CNN fails on, why, and how sure we are."""


@app.command()
def train(
    *,
    data: Data = None,
    root: Root = Path("data"),
    imbalance: ImbalanceOption = None,
    tail_order: TailOrder = None,
    holdout: Holdout = None,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    crop: Crop = None,
    download: Download = False,
    skip_bad: SkipBad = False,
    model: Model = None,
    method: Annotated[str | None, typer.Option(help="ce: cross entropy.", show_default="ce")] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="A plan.json, instead of a method.", metavar="FILE", readable=False)
    ] = None,
    adapt: Annotated[
        str, typer.Option(help="none | hits: the plan's strengths follow how often training images are right.")
    ] = "none",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 200,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 128,
    optimizer: Annotated[str, typer.Option(help="sgd | adamw")] = "sgd",
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Of every parameter.")] = 2e-4,
    schedule: Annotated[str, typer.Option(help="steps | cosine | constant")] = "steps",
    warmup_epochs: Annotated[
        int | None,
        typer.Option(min=0, help="Linear warm-up.", show_default="5, at most a third of the epochs"),
    ] = None,
    augment: Annotated[str, typer.Option(help="auto | none | crop | crop-flip")] = "auto",
    precision: Precision = "auto",
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    workers: Workers = 0,
    directory: Out,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last whole epoch in DIR.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a network; the defaults are the classic recipe for long-tailed CIFAR."""
    from .runs import recipe_from, train_run

    recipe, notes = recipe_from(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        schedule=schedule,
        warmup_epochs=warmup_epochs,
        precision=precision,
        seed=seed,
    )
    options = _data_options(data, root, imbalance, tail_order, holdout, mean, std, resize, crop, download, skip_bad)
    with _progress() as progress:
        record = train_run(
            options,
            model=model or "small_cnn",
            method=method,
            plan=plan,
            adapt=adapt,
            recipe=recipe,
            notes=notes,
            out=directory,
            augment=augment,
            workers=workers,
            resume=resume,
            overwrite=overwrite,
            say=_say,
            progress=progress,
        )
    accuracy = record["balanced_accuracy_val"]
    _say(f"balanced accuracy on val: {'no val' if accuracy is None else f'{accuracy:.1%}'}; {record['seconds']:.0f} s")
    _say(f"wrote {directory / 'model.safetensors'}")


@app.command()
def diagnose(
    *,
    data: Data = None,
    root: Root = Path("data"),
    imbalance: ImbalanceOption = None,
    tail_order: TailOrder = None,
    holdout: Holdout = None,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    crop: Crop = None,
    download: Download = False,
    skip_bad: SkipBad = False,
    model: Model = None,
    weights: Annotated[
        Path, typer.Option(help="The checkpoint: .pt, .pth or .safetensors.", metavar="FILE", readable=False)
    ],
    head: Annotated[
        str | None, typer.Option(help="The head's name, where the network has several.", metavar="NAME")
    ] = None,
    heldout: Annotated[
        str | None, typer.Option(help="val, or test for a diagnosis that is only to be read.", show_default="val")
    ] = None,
    top_k: Annotated[str, typer.Option(help="Strongest features per class: K, or a percentage of D.")] = "10",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 256,
    precision: Precision = "fp32",
    seed: Annotated[int, typer.Option(min=0, help="Of resampling; same seed, same result.")] = 0,
    workers: Workers = 0,
    directory: Out,
    overwrite: Overwrite = False,
) -> None:
    """Say which classes a trained network fails on, why, and how sure we are.

    DATA and MODEL default to what the record beside the weights says, a training run's or a remedy's.
    """
    from .runs import diagnose_run

    options = _data_options(data, root, imbalance, tail_order, holdout, mean, std, resize, crop, download, skip_bad)
    with _progress() as progress:
        diagnosis, _ = diagnose_run(
            options,
            model=model,
            weights=weights,
            out=directory,
            head=head,
            heldout=heldout,
            top_k=top_k,
            batch_size=batch_size,
            precision=precision,
            workers=workers,
            seed=seed,
            overwrite=overwrite,
            say=_say,
            progress=progress,
        )
    _show(diagnosis)
    _say(f"report: {directory / 'report.html'}")


@app.command()
def plan(
    folder: Annotated[Path, typer.Argument(metavar="DIR", readable=False, help="A folder that diagnose left.")],
    *,
    file: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write, for example plan.json.", metavar="FILE", readable=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the plan in FILE.")] = False,
) -> None:
    """Say what to do for every class, and why: how often it is drawn, and how its images and features are varied."""
    from .runs import plan_run

    process.begin_work()
    _show_plan(plan_run(folder, out=file, overwrite=overwrite))
    _say(f"plan: {file}" if file is not None else "to keep this plan, to edit it and to train with it: --out plan.json")


@app.command()
def remedy(
    folder: Annotated[Path, typer.Argument(metavar="DIR", readable=False, help="A folder that diagnose left.")],
    *,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="The plan to compare.", metavar="FILE", readable=False, show_default="one made from the diagnosis"
        ),
    ] = None,
    directory: Out,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same result.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Repair the head of a diagnosed network: the plan beside the free fixes and others, and whichever wins on held-out folds."""
    from .runs import remedy_run

    with _progress() as progress:
        choice, record = remedy_run(
            folder, plan=plan, out=directory, seed=seed, overwrite=overwrite, say=_say, progress=progress
        )
    _show_choice(choice, record["of"]["data"]["class_names"])
    _say(f"model: {directory / 'model.safetensors'}")
    _say(f"report: {directory / 'report.html'}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="DIR_A", readable=False, help="A folder that diagnose left.")],
    second: Annotated[Path, typer.Argument(metavar="DIR_B", readable=False, help="Another.")],
    *,
    directory: Out,
    overwrite: Overwrite = False,
) -> None:
    """Compare the same classes in two networks: number, magnitude and identity of their top-K features."""
    from .runs import compare_run

    process.begin_work()
    comparison, _ = compare_run(first, second, out=directory, overwrite=overwrite, say=_say)
    chance = f"chance {comparison.identity_chance:.0%}"
    titles = (
        "class",
        f"recall {comparison.first_name}",
        comparison.second_name,
        "difference, points",
        "magnitude ratio",
        f"same top-K ({chance})",
    )
    rows = []
    for c, name in enumerate(comparison.class_names):
        column = {key: float(value[c]) for key, value in comparison.columns.items()}
        points = {key: 100 * value for key, value in column.items()}
        rows.append(
            [
                escape(name),
                _percent(column["recall_first"]),
                _percent(column["recall_second"]),
                _interval(points, "recall_difference", "{:+z.0f}"),
                _interval(column, "magnitude_ratio", "{:.2f}"),
                _percent(column["identity_overlap"]),
            ]
        )
    out.print(_table(titles, rows))
    _say(f"report: {directory / 'report.html'}")


@app.command()
def benchmark(
    suite: Annotated[
        str,
        typer.Argument(metavar="SUITE|FILE.py", help="A suite, or a Python file that declares PROTOCOL and METHODS."),
    ],
    *,
    results: Annotated[
        Path, typer.Option("--out", help="The records, one line per run.", metavar="FILE", readable=False)
    ],
    methods: Annotated[
        str | None, typer.Option(help="Only these, separated by commas.", show_default="those of the suite")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Of every method.", show_default="those of the suite")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Of the final runs: S,S,S.", show_default="those of the suite")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that run trials side by side.")] = 1,
    storage: Annotated[
        str | None,
        typer.Option(
            help="A database for the search, for example sqlite:///study.db.",
            metavar="URL",
            show_default="a journal beside the records",
        ),
    ] = None,
    root: Root = Path("data"),
    download: Download = False,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda | cuda:N")] = "auto",
) -> None:
    """Compare methods at equal budget: parameters chosen on val, then one final run per seed, judged on test.

    The same command again goes on where it was stopped.
    """
    from .runs import benchmark_run

    with _study_progress() as (say, progress):
        found = benchmark_run(
            suite,
            out=results,
            methods=methods,
            trials=trials,
            seeds=seeds,
            workers=workers,
            storage=storage,
            root=root,
            download=download,
            device=device,
            say=say,
            progress=progress,
        )
    done = f"{_counted(found.trials, 'trial')} and {_counted(found.finals, 'final run')}"
    _say(f"{results}: {done}" if found.new else f"nothing to do: {results} holds all {done}")


@contextmanager
def _study_progress() -> Iterator[tuple[Any, Any]]:
    """A callable for lines, and one for the steps of a study: a line per record, and on a terminal a bar per method.

    Within the block an interruption keeps what is finished.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    process.begin_work()
    still = not err.is_terminal or err.is_dumb_terminal
    with Progress(*columns, console=err, transient=True, disable=still) as bar:
        tasks: dict[str, Any] = {}
        steps: dict[str, Step] = {}

        def say(line: str) -> None:
            if still or not out.is_terminal:
                _say(line)
            else:  # above the bars: two consoles on one terminal would write into each other's lines
                bar.console.print(line, markup=False, soft_wrap=True)

        def show(name: str, done: int, total: int, left: float | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total, left="")
            words = "" if left is None or done == total else f"{_duration(left)} left"
            bar.update(tasks[name], completed=done, total=total, left=words)

        def update(step: Step) -> None:
            steps[step.method] = step
            if step.record is not None:
                say(_told(step.record))
                show(step.method, step.done, step.total, step.seconds_left)
            every = steps.values()
            show("in all", sum(one.done for one in every), sum(one.total for one in every), step.seconds_left_in_all)

        yield say, update


def _told(record: Record) -> str:
    """A record in a line."""
    run = f"final run, seed {record.seed}" if record.number is None else f"trial {record.number}"
    if record.state == "failed":
        return f"{record.method}, {run}: failed; {record.reason}"
    accuracy = math.nan if record.balanced_accuracy is None else record.balanced_accuracy
    stopped = f"stopped after {record.epochs} epochs, " if record.state == "pruned" else ""
    return f"{record.method}, {run}: {stopped}{accuracy:.1%} on {record.split}, {_duration(record.seconds)}"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _duration(seconds: float) -> str:
    """Seconds in the two largest units that they have."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"


@app.command()
def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="results.jsonl|DIR",
            readable=False,
            help="The records of a benchmark, or a folder that diagnose, compare or remedy left.",
        ),
    ],
    *,
    directory: Out,
    overwrite: Overwrite = False,
) -> None:
    """Make a report from numbers: of a benchmark's records, or again of a folder; neither data nor network are needed."""
    from .runs import report_run

    process.begin_work()
    report_run(source, out=directory, overwrite=overwrite)
    _say(f"report: {directory / 'report.html'}")


@app.command()
def demo(
    *,
    directory: Annotated[
        Path, typer.Option("--out", help="The folder to write.", metavar="DIR", readable=False)
    ] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """All the way on long-tailed digits: train, diagnose, plan, repair the head, train with the plan; minutes."""
    from .runs import demo_run

    with _progress() as progress:
        shown, _ = demo_run(directory, seed=seed, overwrite=overwrite, say=_say, progress=progress)
    _show_outcome(shown.outcome, shown.control)
    _say(f"{sum(shown.seconds.values()):.0f} s; report: {directory / 'report.html'}")


def _show_outcome(outcome: Outcome, control: int) -> None:
    """The ways of the demo on test, and what each gains over the first and over the control."""
    rows = []
    for place, name in enumerate(outcome.names):

        def gain(other: int, place: int = place) -> str:
            columns = {"gain": outcome.gain, "gain_low": outcome.gain_low, "gain_high": outcome.gain_high}
            points = {key: 100 * float(value[place, other]) for key, value in columns.items()}
            return "–" if place == other else _interval(points, "gain", "{:+z.1f}", bare=out.width < NARROWEST)

        accuracy = {
            "test": 100 * float(outcome.balanced_accuracy[place]),
            "test_low": 100 * float(outcome.low[place]),
            "test_high": 100 * float(outcome.high[place]),
        }
        row = {
            "way": escape(name),
            "val, %": f"{100 * float(outcome.accuracy_val[place].mean()):.1f}",
            "test, %": _interval(accuracy, "test", "{:.1f}", bare=out.width < NARROW),
            "by seed": " ".join(f"{100 * float(value):.1f}" for value in outcome.accuracy[place]),
            f"over {outcome.names[0]}, points": gain(0),
            f"over {outcome.names[control]}": gain(control),
        }
        left_out = ("by seed", "val, %") if out.width < NARROW else ()
        rows.append({title: cell for title, cell in row.items() if title not in left_out})
    out.print()
    out.print(_table(list(rows[0]), [list(row.values()) for row in rows]))
    out.print("[dim]balanced accuracy; 95% intervals over test images, which were read once, at the end[/]")
    out.print()


MOST_ROWS = 40
NARROW, NARROWEST = 100, 60  # widths of a terminal below which columns are left out


def _show(diagnosis: Diagnosis) -> None:
    """The classes as a table, weakest first where there are too many to list, and the findings."""
    from .wording import none_fragile

    recall = diagnosis["recall_heldout"]
    order = list(range(len(diagnosis.class_names)))
    if len(order) > MOST_ROWS:
        order = recall.nan_to_num(2.0).argsort().tolist()[:MOST_ROWS]
    rows = []
    for c in order:
        column = {name: float(values[c]) for name, values in diagnosis.columns.items()}
        name = escape(diagnosis.class_names[c])
        row = {
            "class": f"[bold red]{name} ![/]" if column["fragile"] else name,
            "images" if out.width < NARROWEST else "train images": str(int(column["count"])),
            "recall train": _percent(column["recall_train"]),
            "recall" if out.width < NARROWEST else "recall held-out": _interval(column, "recall_heldout", "{:.0%}"),
            "log n predicts": _percent(column["recall_log_count"]),
            "top-K magnitude": _interval(column, "ce_magnitude_ratio", "{:.2f}", bare=out.width < NARROW),
            "diversity": _interval(column, "diversity_vendi_heldout", "{:.1f}"),
        }
        left_out = ["recall train", "diversity"] if out.width < NARROW else []
        left_out += ["log n predicts", "top-K magnitude"] if out.width < NARROWEST else []
        rows.append({title: cell for title, cell in row.items() if title not in left_out})
    out.print(_table(list(rows[0]), [list(row.values()) for row in rows]))
    hidden = len(diagnosis.class_names) - len(order)
    if hidden:
        _say(f"({hidden} classes of higher recall are in the report)")
    summary = diagnosis.summary
    _say(
        f"balanced accuracy, held out: {_plain(summary, 'balanced_accuracy_heldout', '{:.1%}')};"
        f" a refitted head would add {_plain(summary, 'head_ceiling', '{:+.1%}')}"
    )
    if not diagnosis.findings:
        _say(none_fragile(diagnosis, diagnosis.class_names))
    for finding in diagnosis.findings:
        out.print()
        out.print(escape(finding.text))
    if not diagnosis.plan_ready:
        out.print()
        _say("Made on the test split: to be read only, not to choose a remedy from.")


def _show_plan(plan: Plan) -> None:
    """The classes as a table, rarest first where there are too many to list; what holds for all; the evidence."""
    shown = list(plan.classes)
    if len(shown) > MOST_ROWS:
        shown = sorted(shown, key=lambda one: one.count)[:MOST_ROWS]
    images = sum(one.count for one in plan.classes)
    mixed = any(one.mixing.method != "none" for one in plan.classes)
    narrow = out.width < NARROWEST
    rows = []
    for one in shown:
        row = {
            "class": escape(one.name),
            "images" if narrow else "train images": f"{one.count:,}",
            "draws": _drawn(one, images),
            "varied" if narrow else "images varied": _policy(
                one.image.strength, one.image.amount and one.image.probability
            ),
        }
        if mixed and not narrow:
            row["mixed"] = _percent(one.mixing.probability) if one.mixing.method != "none" else "–"
        for method in () if narrow else plan.feature_methods:
            policy = next((policy for policy in one.features if policy.method == method), None)
            row[method.replace("_", " ")] = _policy(policy.strength, policy.share) if policy else "–"
        if narrow:
            row["features"] = _percent(math.fsum(policy.share for policy in one.features)) if one.features else "–"
        rows.append(row)
    out.print(_table(list(rows[0]), [list(row.values()) for row in rows]))
    if len(plan.classes) > len(shown):
        _say(f"({len(plan.classes) - len(shown):,} classes with more images are in the plan)")
    if out.width >= NARROW:
        out.print(
            "[dim]×: times as often as its images come; then strength, and the share of its draws that it acts on[/]"
        )
    elif not narrow:
        out.print("[dim]strength, and the share of the class's draws that it acts on[/]")
    out.print()
    for line in _of_the_run(plan):
        _say(line)
    evidence = [(one, [reason for reason in one.reasons if reason.measure != "count"]) for one in shown]
    if not any(reasons for _, reasons in evidence):
        out.print()
        _say("No measure shows that a class needs more or less than its size suggests.")
    for one, reasons in evidence:
        if reasons:
            out.print()
            out.print(f"[bold]{escape(one.name)}[/]")
        for reason in reasons:
            _hang(f"[bold]{escape(reason.rule)}:[/] {escape(reason.text)} [dim]{escape(reason.source)}[/]")
    out.print()


def _show_choice(choice: HeadChoice, class_names: Sequence[str]) -> None:
    """The candidates as a table, the classes before and after, and what is recommended."""
    groups = {name: values for name, values in choice.groups().items() if name in ("many", "medium", "few")}
    if "few" not in groups:
        groups |= {name: values for name, values in choice.groups().items() if name == "smallest third"}
    rows = []
    for place, name in enumerate(choice.names):
        column = {key: 100 * float(values[place]) for key, values in choice.columns.items()}
        row = {
            "candidate": f"[bold]{escape(name)}[/]" if place == choice.recommended else escape(name),
            "balanced accuracy, %": f"{column['balanced_accuracy']:.1f}",
            "gain, points": _interval(column, "gain", "{:+z.1f}", bare=out.width < NARROWEST),
        }
        if out.width >= NARROW:
            row["spread"] = "–" if math.isnan(column["spread"]) else f"{column['spread']:.1f}"
            row |= {group: _percent(float(values[place])) for group, values in groups.items()}
        if out.width >= NARROWEST:
            row["option"] = escape(choice.option(place)) or "–"
        rows.append(row)
    out.print(_table(list(rows[0]), [list(row.values()) for row in rows]))
    out.print(
        f"[dim]each by options chosen on the other of {choice.folds} folds of the held-out images;"
        f" spread over {choice.repeats} cuts into folds[/]",
        soft_wrap=True,
    )
    out.print()
    if choice.recommended:
        _show_change(choice, class_names)
        out.print()
    _say(choice.in_words())


def _show_change(choice: HeadChoice, class_names: Sequence[str]) -> None:
    """Recall before and after, class by class; those that change most where there are too many to list."""
    order = list(range(len(class_names)))
    if len(order) > MOST_ROWS:
        change = (choice.recall[choice.recommended] - choice.recall[0]).abs().nan_to_num(-1.0)
        order = change.argsort(descending=True).tolist()[:MOST_ROWS]
    lines = []
    for c in order:
        before, after = (float(choice.recall[place][c]) for place in (0, choice.recommended))
        points = "–" if math.isnan(before) else f"{100 * (after - before):+z.0f}"
        counted = f"{int(choice.class_counts[c]):,}", f"{int(choice.heldout_counts[c]):,}"
        lines.append([escape(class_names[c]), *counted, _percent(before), _percent(after), points])
    out.print(_table(("class", "train images", "held out", "recall before", "after", "points"), lines))
    if len(class_names) > len(order):
        _say(f"({len(class_names) - len(order):,} classes that change less are in the report)")


def _hang(markup: str) -> None:
    """A paragraph, every line of it indented."""
    for line in Text.from_markup(markup, emoji=False).wrap(out, max(out.width - 2, NARROWEST // 2)):
        line.rstrip()
        out.print(Text("  ") + line)


def _drawn(one: ClassPlan, images: int) -> str:
    """The share of the draws, and what multiple of its share of the images that is."""
    times = one.draws * images / one.count if one.count else math.nan
    multiple = "" if out.width < NARROW or math.isnan(times) else f" [dim]×{times:.3g}[/]"
    return f"{100 * one.draws:.3g}%{multiple}"


def _policy(strength: float, share: float) -> str:
    on = "" if out.width < NARROWEST else f" [dim]on[/] {share:.0%}"
    return f"{strength:.2f}{on}" if share else "–"


def _of_the_run(plan: Plan) -> list[str]:
    """What a plan says for all classes, a line each."""
    correction, schedule = plan.prior_correction, plan.schedule
    lines = []
    kinds = list(dict.fromkeys((one.image.operations, one.image.layers) for one in plan.classes if one.image.amount))
    for operations, layers in kinds[:3]:
        lines.append(f"images: {layers} of {', '.join(operations)}")
    methods = dict.fromkeys(one.mixing.method for one in plan.classes if one.mixing.method != "none")
    lines += [f"mixing: {method}" for method in methods]
    if correction.training or correction.after:
        lines.append(f"class prior taken out: {correction.training:g} in the loss, {correction.after:g} afterwards")
    if (schedule.start, schedule.ramp, schedule.stop) != (0, 0, 1):
        lines.append(
            f"augmentation from {schedule.start:.0%} to {schedule.stop:.0%} of the epochs, growing over {schedule.ramp:.0%}"
        )
    if plan.feature_methods:
        later = "" if schedule.features >= 1 else f", and in training from {schedule.features:.0%} of the epochs on"
        lines.append(f"features are made in the head step{later}")
    if plan.images_per_epoch is not None:
        lines.append(f"draws per epoch: {plan.images_per_epoch:,}")
    if any(reason.rule == "rarity" for one in plan.classes for reason in one.reasons):
        lines.append("graded by rarity, 1 - log n / log n_max; moved where a measure shows more or less:")
    return lines


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table as wide as the terminal allows: titles are wrapped between words, and the first column takes the rest."""
    lines = [[Text.from_markup(cell, emoji=False) for cell in row] for row in rows]  # `:cat:` is a name, not a picture
    cells = [max((cell.cell_len for cell in column), default=0) for column in zip(*lines, strict=True)]
    whole = [max(cell, Text(title).cell_len) for cell, title in zip(cells, titles, strict=True)]
    words = [max(Text(word).cell_len for word in title.split() or [""]) for title in titles]
    least = [max(cell, word) for cell, word in zip(cells, words, strict=True)]
    gaps = 2 * (len(titles) - 1)
    wrapped = sum(whole) + gaps > out.width >= sum(least[1:]) + words[0] + gaps
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, title in enumerate(titles):
        width = least[place] if wrapped and place else None
        table.add_column(Text(title), justify="right" if place else "left", overflow="fold", width=width)
    for line in lines:
        table.add_row(*line)
    return table


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"


def _plain(values: Mapping[str, float], name: str, form: str) -> str:
    return _interval(values, name, form).replace("[dim]", "").replace("[/]", "")


def _interval(values: Mapping[str, float], name: str, form: str, *, bare: bool = False) -> str:
    value, low, high = (values.get(name + end, math.nan) for end in ("", "_low", "_high"))
    if math.isnan(value):
        return "–"
    return form.format(value) + (
        "" if bare or math.isnan(low) else f" [dim]({form.format(low)} to {form.format(high)})[/]"
    )


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code: 0 done, 2 the user's input, 130 interrupted."""
    try:
        code = _run(arguments)
    except (KeyboardInterrupt, typer.Abort):
        code = process.INTERRUPTED
    except _NoReaderError:
        return NO_READER
    except SystemExit as error:  # rich and the parser end the process where the help has no reader
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        return NO_READER
    except Exception:
        if not process.was_interrupted():
            raise
        code = process.INTERRUPTED
    if code == process.INTERRUPTED or (code and process.was_interrupted()):
        with suppress(_NoReaderError, OSError):
            err.print(process.INTERRUPTED_LINE, soft_wrap=True)
        return process.INTERRUPTED
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        code = app(list(arguments), standalone_mode=False, prog_name="diversify")
    except InputError as error:
        return _refuse(_with_flags(str(error), arguments))
    except OSError as error:  # a full disk, a folder that is gone or not ours: what the system said
        if {"-h", "--help"} & set(arguments):  # which the parser prints
            error.filename = STANDARD_OUTPUT
        return _refuse(_system_error(error))
    except (KeyboardInterrupt, typer.Abort):
        raise
    except Exception as error:
        if not hasattr(error, "format_message"):  # a usage error of the command-line parser has it, whichever it is
            raise
        message = _usage_error(error, arguments)
        return _refuse(message) if message else 2  # the parser has none where it printed the help instead
    return code if isinstance(code, int) else 0


def _options(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command that is called, as typed before its options, and the options it has."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    name = next((each for each in arguments if not each.startswith("-")), "")
    if name not in commands:
        return "diversify", ["--help"]
    return f"diversify {name}", [option for each in commands[name].params for option in each.opts if option[:2] == "--"]


def _with_flags(message: str, arguments: Sequence[str]) -> str:
    """An error that begins with a parameter's name says the option that was typed for it."""
    name, rest = re.match(r"([\w-]*)(.*)", message).groups()  # type: ignore[union-attr]
    option = f"--{name.lower().replace('_', '-')}"
    about = rest.startswith((" must ", " of a resumed run must ")) or name == "weights"
    named = about and option in _options(arguments)[1]
    return f"{option}{rest}" if named else message


_VALUES = {  # what the parser's messages about a value have in common, in all its versions
    r"valid integer": "be an integer",
    r"valid (number|float)": "be a number",
    r"(?:greater than or equal to|range [a-z]*>=) ?(-?\d+)": r"be at least \1",
}


def _usage_error(error: Any, arguments: Sequence[str]) -> str:
    """A usage error of the parser in the form of all our errors; its own words where it says something else."""
    message = " ".join(error.format_message().split())
    command, options = _options(arguments)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    advice = f"see `{command} --help`"
    if "NoSuchOption" in kinds:
        near = difflib.get_close_matches(error.option_name, options, n=1)
        advice = f"did you mean {near[0]}?" if near else advice
        return str(must("option", f"be one that `{command}` has", error.option_name, advice))
    if "BadOptionUsage" in kinds:
        law, got = ("be followed by a value", "none") if "requires" in message else ("stand alone", "a value")
        return str(must(error.option_name, law, got, advice))
    opts = getattr(getattr(error, "param", None), "opts", ())
    name = str(opts[0] if opts and opts[0].startswith("-") else getattr(getattr(error, "param", None), "metavar", ""))
    if "MissingParameter" in kinds:
        return str(must(name, "be given", "none", advice))
    given = [part for each in arguments for part in each.split("=", 1)]
    values = [value for option, value in pairwise(given) if option in opts]
    for pattern, law in _VALUES.items():
        if values and (found := re.search(pattern, message)):
            return str(must(name, found.expand(law), repr(values[-1])))
    if message.startswith("No such command"):
        return str(unknown("command", arguments[0], [each.callback.__name__ for each in app.registered_commands]))  # type: ignore[union-attr]
    if found := re.search(r"unexpected extra arguments?(?:\(s\))? \((.*)\)", message):
        return str(must("command line", f"hold only what `{command}` takes", found[1], advice))
    return message


def _refuse(message: str) -> int:
    if not process.was_interrupted():
        with suppress(OSError):  # the exit code says it too
            err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    return 2


def _system_error(error: OSError) -> str:
    """`FILE: reason`, and what to do where that is plain."""
    text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    if error.filename == STANDARD_OUTPUT:
        text += "; what was finished is kept"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        text += "; make room and run the command again"
    return " ".join(text.split())


__all__ = ["run"]
