"""The commands that train networks, declared for typer: `train`, `benchmark` and `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    Cost,
    Crop,
    Data,
    DiversityOption,
    Download,
    Group,
    Holdout,
    ImbalanceOption,
    Mean,
    Model,
    Narrow,
    NarrowOrder,
    Out,
    Overwrite,
    Precision,
    Resize,
    Root,
    SkipBad,
    Std,
    TailOrder,
    TargetPrior,
    Workers,
    data_options,
    recipe_from,
)
from .screen import counted, print_line, progress_bar, study_progress
from .tables import show_outcome


def train(
    *,
    data: Data = None,
    root: Root = Path("data"),
    imbalance: ImbalanceOption = None,
    tail_order: TailOrder = None,
    diversity: DiversityOption = None,
    narrow: Narrow = None,
    narrow_order: NarrowOrder = None,
    group: Group = None,
    holdout: Holdout = None,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    crop: Crop = None,
    download: Download = False,
    skip_bad: SkipBad = False,
    model: Model = None,
    method: Annotated[str | None, typer.Option(help="The loss; ce: cross entropy.", show_default="ce")] = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", help="A plan.json to train by, instead of a method.", metavar="FILE", readable=False),
    ] = None,
    adapt: Annotated[
        str, typer.Option(help="none | hits; hits adapts the plan's strengths to the accuracy on training images.")
    ] = "none",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 200,
    batch_size: Annotated[int, typer.Option(help="Images per step, of all processes together.")] = 128,
    optimizer: Annotated[str, typer.Option(help="sgd | adamw")] = "sgd",
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of every parameter.")] = 2e-4,
    schedule: Annotated[str, typer.Option(help="Learning-rate schedule: steps | cosine | constant")] = "steps",
    warmup_epochs: Annotated[
        int | None,
        typer.Option(min=0, help="Epochs of linear warm-up.", show_default="5, at most a third of the epochs"),
    ] = None,
    augment: Annotated[str, typer.Option(help="Basic augmentation: auto | none | crop | crop-flip")] = "auto",
    precision: Precision = "auto",
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same result.")] = 0,
    workers: Workers = 0,
    directory: Out,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in DIR from its last complete epoch.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a network. The defaults are the standard recipe for long-tailed CIFAR."""
    from ..commands.train import AT_CHANCE, at_chance, train_run

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
    options = data_options(
        data,
        root,
        imbalance,
        tail_order,
        holdout,
        mean,
        std,
        resize,
        crop,
        download,
        skip_bad,
        diversity,
        narrow,
        narrow_order,
        group,
    )
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
            say=print_line,
            progress=progress,
        )
    accuracy = record["balanced_accuracy_val"]
    print_line(
        f"balanced accuracy on the validation set: {'there is none' if accuracy is None else f'{accuracy:.1%}'}; {record['seconds']:.0f} s"
    )
    if accuracy is not None and at_chance(accuracy, len(record["data"]["class_counts"])):
        print_line(f"note: {AT_CHANCE}")
    print_line(f"wrote {directory / 'model.safetensors'}")


def benchmark(
    suite: Annotated[
        str,
        typer.Argument(
            metavar="SUITE|FILE.py",
            help="Name of a suite or of an experiment (paper, diversity_digits, ...), or a Python file that declares PROTOCOL and METHODS.",
        ),
    ],
    *,
    results: Annotated[
        Path,
        typer.Option("--out", help="The records, as JSON Lines: one line per run.", metavar="FILE", readable=False),
    ],
    methods: Annotated[
        str | None, typer.Option(help="Compare only these methods: A,B.", show_default="those of the suite")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials of each method.", show_default="those of the suite")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of the final runs: S,S,S.", show_default="those of the suite")
    ] = None,
    assignments: Annotated[
        int | None,
        typer.Option(min=2, help="Permutations of the classes, of the experiments diversity_...", show_default="8"),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="What methods are tuned and compared by: the mean recall, the accuracy under --target-prior, the mean F1 score,"
            " the lowest recall of a class, or the expected --cost.",
            metavar="balanced|prior|macro-f1|worst|cost",
            show_default="that of the suite",
        ),
    ] = None,
    target_prior: TargetPrior = None,
    cost: Cost = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that run trials in parallel.")] = 1,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Database of the search, for example sqlite:///study.db or postgresql://USER@HOST/DATABASE.",
            metavar="URL",
            show_default="a journal beside the records",
        ),
    ] = None,
    shared: Annotated[
        str | None,
        typer.Option(
            help="Share the study with other machines that give the same name and --storage, a PostgreSQL database; each has"
            " its own --out, which receives all records.",
            metavar="NAME",
            show_default="all processes share --out",
        ),
    ] = None,
    root: Root = Path("data"),
    download: Download = False,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda | cuda:N")] = "auto",
) -> None:
    """Compare methods at equal budget: choose parameters on the validation set, then evaluate one final run per seed on test.

    Or run an experiment: paper tests the claims of the paper by rules stated before; diversity_digits, diversity_fashion,
    diversity_cifar10 and diversity_mnist set class size and class diversity independently of each other.

    Run the same command again to resume it.
    """
    from ..commands.benchmark import benchmark_run

    with study_progress() as (say, progress):
        found = benchmark_run(
            suite,
            out=results,
            methods=methods,
            trials=trials,
            seeds=seeds,
            assignments=assignments,
            metric=metric,
            target_prior=target_prior,
            cost=cost,
            workers=workers,
            storage=storage,
            shared=shared,
            root=root,
            download=download,
            device=device,
            say=say,
            progress=progress,
        )
    if found.summary:
        print_line(found.summary)
        done = counted(found.finals, "run")
    else:
        done = f"{counted(found.trials, 'trial')} and {counted(found.finals, 'final run')}"
    print_line(f"{results}: {done}" if found.new else f"nothing to do: {results} holds all {done}")


def demo(
    *,
    directory: Annotated[
        Path, typer.Option("--out", help="The folder to write to.", metavar="DIR", readable=False)
    ] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same result.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Run every step on long-tailed digits: train, diagnose, plan, repair the head, train with the plan. Takes minutes."""
    from ..commands.demo import demo_run

    with progress_bar() as progress:
        shown, _ = demo_run(directory, seed=seed, overwrite=overwrite, say=print_line, progress=progress)
    show_outcome(shown.outcome, shown.control)
    print_line(f"{sum(shown.seconds.values()):.0f} s; report: {directory / 'report.html'}")
