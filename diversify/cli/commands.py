"""The commands as typer declares them. What each does is in `diversify.commands`, imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..runtime import signals
from .options import (
    Crop,
    Data,
    Download,
    Holdout,
    ImbalanceOption,
    Mean,
    Model,
    Out,
    Overwrite,
    Precision,
    Resize,
    Root,
    SkipBad,
    Std,
    TailOrder,
    Workers,
    data_options,
)
from .screen import counted, out, progress_bar, study_progress, tell
from .tables import interval_text, percent, show_choice, show_diagnosis, show_outcome, show_plan, table_of

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Find out which classes a CNN fails on, why, and how sure we are.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    from ..commands.options import recipe_from
    from ..commands.train import train_run

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
    options = data_options(data, root, imbalance, tail_order, holdout, mean, std, resize, crop, download, skip_bad)
    with progress_bar() as progress:
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
            say=tell,
            progress=progress,
        )
    accuracy = record["balanced_accuracy_val"]
    tell(f"balanced accuracy on val: {'no val' if accuracy is None else f'{accuracy:.1%}'}; {record['seconds']:.0f} s")
    tell(f"wrote {directory / 'model.safetensors'}")


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
    from ..commands.diagnose import diagnose_run

    options = data_options(data, root, imbalance, tail_order, holdout, mean, std, resize, crop, download, skip_bad)
    with progress_bar() as progress:
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
            say=tell,
            progress=progress,
        )
    show_diagnosis(diagnosis)
    tell(f"report: {directory / 'report.html'}")


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
    from ..commands.plan import plan_run

    signals.begin_work()
    show_plan(plan_run(folder, out=file, overwrite=overwrite))
    tell(f"plan: {file}" if file is not None else "to keep this plan, to edit it and to train with it: --out plan.json")


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
    from ..commands.remedy import remedy_run

    with progress_bar() as progress:
        choice, record = remedy_run(
            folder, plan=plan, out=directory, seed=seed, overwrite=overwrite, say=tell, progress=progress
        )
    show_choice(choice, record["of"]["data"]["class_names"])
    tell(f"model: {directory / 'model.safetensors'}")
    tell(f"report: {directory / 'report.html'}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="DIR_A", readable=False, help="A folder that diagnose left.")],
    second: Annotated[Path, typer.Argument(metavar="DIR_B", readable=False, help="Another.")],
    *,
    directory: Out,
    overwrite: Overwrite = False,
) -> None:
    """Compare the same classes in two networks: number, magnitude and identity of their top-K features."""
    from ..commands.compare import compare_run

    signals.begin_work()
    comparison, _ = compare_run(first, second, out=directory, overwrite=overwrite, say=tell)
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
                percent(column["recall_first"]),
                percent(column["recall_second"]),
                interval_text(points, "recall_difference", "{:+z.0f}"),
                interval_text(column, "magnitude_ratio", "{:.2f}"),
                percent(column["identity_overlap"]),
            ]
        )
    out.print(table_of(titles, rows))
    tell(f"report: {directory / 'report.html'}")


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
    from ..commands.benchmark import benchmark_run

    with study_progress() as (say, progress):
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
    done = f"{counted(found.trials, 'trial')} and {counted(found.finals, 'final run')}"
    tell(f"{results}: {done}" if found.new else f"nothing to do: {results} holds all {done}")


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
    from ..commands.report import report_run

    signals.begin_work()
    report_run(source, out=directory, overwrite=overwrite)
    tell(f"report: {directory / 'report.html'}")


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
    from ..commands.demo import demo_run

    with progress_bar() as progress:
        shown, _ = demo_run(directory, seed=seed, overwrite=overwrite, say=tell, progress=progress)
    show_outcome(shown.outcome, shown.control)
    tell(f"{sum(shown.seconds.values()):.0f} s; report: {directory / 'report.html'}")
