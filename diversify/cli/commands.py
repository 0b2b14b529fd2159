"""The commands, declared for typer. `diversify.commands` does the work; it is imported when a command is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import must
from ..runtime import signals
from .multilabel_tables import show_multilabel_choice, show_multilabel_diagnosis
from .options import (
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
    Workers,
    data_options,
    objective_given,
    recipe_from,
    threshold_given,
)
from .screen import counted, print_line, progress_bar, study_progress
from .tables import show_choice, show_comparison, show_diagnosis, show_outcome, show_plan

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Find the classes that an image classifier fails on, learn why, and repair it.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _commands() -> None:
    """Find the classes that an image classifier fails on, learn why, and repair it."""


@app.command()
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
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 128,
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
    print_line(f"wrote {directory / 'model.safetensors'}")


@app.command()
def diagnose(
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
    weights: Annotated[
        Path | None,
        typer.Option(help="The checkpoint: a .pt, .pth or .safetensors file.", metavar="FILE", readable=False),
    ] = None,
    features: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="Features instead of a model and data: .npz files or folders with features and labels.",
            metavar="TRAIN HELDOUT",
            readable=False,
        ),
    ] = None,
    weights_key: Annotated[
        str | None,
        typer.Option(
            help="Which weights of FILE, if it holds several: their key.", metavar="KEY", show_default="the raw"
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="Name of the head, if the network has several; with --features, its FILE.", metavar="NAME|FILE"
        ),
    ] = None,
    heldout: Annotated[
        str | None, typer.Option(help="val | test; a diagnosis on test is for reading only.", show_default="val")
    ] = None,
    multilabel: Annotated[
        bool,
        typer.Option(
            "--multilabel", help="Images have several labels each; --data is then also csv:FILE with a path column."
        ),
    ] = False,
    threshold: Annotated[
        str | None,
        typer.Option(
            help="With --multilabel: probability at which a label is predicted, or the thresholds.json of a remedy.",
            metavar="P|FILE",
            show_default="0.5",
        ),
    ] = None,
    top_k: Annotated[
        str, typer.Option(help="Number of strongest features per class: an integer, or a percentage of all features.")
    ] = "10",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 256,
    precision: Precision = "fp32",
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the resampling.")] = 0,
    workers: Workers = 0,
    directory: Out,
    overwrite: Overwrite = False,
) -> None:
    """Find the classes that a trained network fails on, and why, with confidence intervals.

    The data and model options default to the run.json beside the weights, if `train` or `remedy` left one.
    """
    from ..commands.diagnose import diagnose_run

    if threshold is not None and not multilabel:
        raise must("threshold", "be given with multilabel=True", threshold)
    if features is not None and multilabel:
        from ..commands.multilabel import diagnose_multilabel_features

        if any(each is not None for each in (data, model, weights, weights_key)):
            raise must("features", "stand in place of data, model and weights", "both")
        signals.begin_work()
        found, _ = diagnose_multilabel_features(
            features,
            head=None if head is None else Path(head),
            out=directory,
            heldout=heldout,
            top_k=top_k,
            threshold=threshold_given(threshold),
            seed=seed,
            overwrite=overwrite,
            say=print_line,
        )
        show_multilabel_diagnosis(found)
        print_line(f"report: {directory / 'report.html'}")
        return
    if features is not None:
        from ..commands.from_features import diagnose_features

        if any(each is not None for each in (data, model, weights, weights_key)):
            raise must("features", "stand in place of data, model and weights", "both")
        with progress_bar() as progress:
            diagnosis, _ = diagnose_features(
                features,
                head=None if head is None else Path(head),
                out=directory,
                heldout=heldout,
                top_k=top_k,
                seed=seed,
                overwrite=overwrite,
                say=print_line,
                progress=progress,
            )
        show_diagnosis(diagnosis)
        print_line(f"report: {directory / 'report.html'}")
        return
    if weights is None:
        raise must("weights", "be given", "none", "see `diversify diagnose --help`")
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
    if multilabel:
        from ..commands.multilabel import diagnose_multilabel_run

        with progress_bar() as progress:
            found, _ = diagnose_multilabel_run(
                options,
                model=model,
                weights=weights,
                weights_key=weights_key,
                out=directory,
                head=head,
                heldout=heldout,
                top_k=top_k,
                threshold=threshold_given(threshold),
                batch_size=batch_size,
                precision=precision,
                workers=workers,
                seed=seed,
                overwrite=overwrite,
                say=print_line,
                progress=progress,
            )
        show_multilabel_diagnosis(found)
        print_line(f"report: {directory / 'report.html'}")
        return
    with progress_bar() as progress:
        diagnosis, _ = diagnose_run(
            options,
            model=model,
            weights=weights,
            weights_key=weights_key,
            out=directory,
            head=head,
            heldout=heldout,
            top_k=top_k,
            batch_size=batch_size,
            precision=precision,
            workers=workers,
            seed=seed,
            overwrite=overwrite,
            say=print_line,
            progress=progress,
        )
    show_diagnosis(diagnosis)
    print_line(f"report: {directory / 'report.html'}")


@app.command()
def probe(
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
    backbone: Annotated[
        str, typer.Option(help="torchvision:NAME | timm:NAME | package.module:function", metavar="MODEL")
    ],
    weights: Annotated[
        Path | None, typer.Option(help="The checkpoint of the backbone.", metavar="FILE", readable=False)
    ] = None,
    weights_key: Annotated[
        str | None,
        typer.Option(
            help="Which weights of FILE, if it holds several: their key.", metavar="KEY", show_default="the raw"
        ),
    ] = None,
    heldout: Annotated[
        str | None, typer.Option(help="val | test; a diagnosis on test is for reading only.", show_default="val")
    ] = None,
    top_k: Annotated[
        str, typer.Option(help="Number of strongest features per class: an integer, or a percentage of all features.")
    ] = "10",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 256,
    precision: Precision = "fp32",
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the resampling.")] = 0,
    workers: Workers = 0,
    directory: Out,
    overwrite: Overwrite = False,
) -> None:
    """Fit a head on the features of a frozen backbone, and diagnose it; plan and remedy go on from there."""
    from ..commands.probe import probe_run

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
        diagnosis, _ = probe_run(
            options,
            backbone=backbone,
            weights=weights,
            weights_key=weights_key,
            out=directory,
            heldout=heldout,
            top_k=top_k,
            batch_size=batch_size,
            precision=precision,
            workers=workers,
            seed=seed,
            overwrite=overwrite,
            say=print_line,
            progress=progress,
        )
    show_diagnosis(diagnosis)
    print_line(f"report: {directory / 'report.html'}")


@app.command()
def plan(
    folder: Annotated[Path, typer.Argument(metavar="DIR", readable=False, help="A folder that diagnose wrote.")],
    *,
    file: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write, for example plan.json.", metavar="FILE", readable=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the plan in FILE.")] = False,
) -> None:
    """Plan each class's treatment, with reasons: how often it is drawn, and how its images and features are augmented."""
    from ..commands.plan import plan_run

    signals.begin_work()
    show_plan(plan_run(folder, out=file, overwrite=overwrite))
    print_line(
        f"plan: {file}"
        if file is not None
        else "to save this plan, so that you can edit it or train with it: --out plan.json"
    )


@app.command()
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


@app.command()
def remedy(
    folder: Annotated[Path, typer.Argument(metavar="DIR", readable=False, help="A folder that diagnose wrote.")],
    *,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="The plan to compare.", metavar="FILE", readable=False, show_default="made from the diagnosis"
        ),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            help="What the head is chosen by: the mean recall, the accuracy under --target-prior, the mean F1 score, the"
            " lowest recall of a class, or the expected --cost.",
            metavar="balanced|prior|macro-f1|worst|cost",
        ),
    ] = "balanced",
    objective: Annotated[
        str,
        typer.Option(
            help="How much the worst classes count: the mean recall, the lowest recall, the mean of the lowest third, or the weight"
            " of the lowest recall beside the mean.",
            metavar="mean|worst|worst-third|0..1",
        ),
    ] = "mean",
    unseen: Annotated[
        str | None,
        typer.Option(
            help="Whether repairs may learn from held-out images; each of these is judged by heads fitted without it.",
            metavar="heldout|none",
            show_default="none; heldout with an --objective other than mean",
        ),
    ] = None,
    target_prior: Annotated[
        Path | None,
        typer.Option(
            help="Share of each class where the model will be used: CSV with class,share, or JSON.",
            metavar="FILE",
            readable=False,
        ),
    ] = None,
    cost: Annotated[
        Path | None,
        typer.Option(
            help="Cost of predicting a class (column) for an image of another (row): CSV with class names, or JSON.",
            metavar="FILE",
            readable=False,
        ),
    ] = None,
    directory: Out,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; the same seed gives the same result.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Repair the head of a diagnosed network with whichever candidate wins on held-out folds: the plan, post-hoc fixes and others."""
    from ..commands.folders import is_multilabel
    from ..commands.remedy import remedy_run

    if is_multilabel(folder):
        from ..commands.multilabel_remedy import remedy_multilabel_run

        usual = (plan, metric, objective, unseen, target_prior, cost) == (None, "balanced", "mean", None, None, None)
        if not usual:
            law = "be repaired without plan, metric, objective, unseen, target_prior and cost"
            raise must("a diagnosis of several labels per image", law, "one of these")
        with progress_bar() as progress:
            several, _ = remedy_multilabel_run(
                folder, out=directory, seed=seed, overwrite=overwrite, say=print_line, progress=progress
            )
        show_multilabel_choice(several)
        print_line(f"model: {directory / 'model.safetensors'}")
        print_line(f"thresholds: {directory / 'thresholds.json'}")
        print_line(f"report: {directory / 'report.html'}")
        return
    with progress_bar() as progress:
        choice, record = remedy_run(
            folder,
            plan=plan,
            metric=metric,
            objective=objective_given(objective),
            target_prior=target_prior,
            cost=cost,
            unseen=unseen,
            out=directory,
            seed=seed,
            overwrite=overwrite,
            say=print_line,
            progress=progress,
        )
    show_choice(choice, record["of"]["data"]["class_names"])
    print_line(f"model: {directory / 'model.safetensors'}")
    print_line(f"report: {directory / 'report.html'}")


@app.command()
def collect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", readable=False, help="A folder that diagnose wrote.")],
    *,
    pool: Annotated[
        str | None,
        typer.Option(
            help="The images to choose from: folder:DIR, npz:FILE with images, or another data set, whose labels are not used.",
            metavar="DATA",
        ),
    ] = None,
    pool_features: Annotated[
        Path | None,
        typer.Option(
            help="Their features instead: a .npz file or folder with features, and if wanted logits, groups and paths.",
            metavar="FILE",
            readable=False,
        ),
    ] = None,
    budget: Annotated[int, typer.Option(help="Number of images to suggest.", metavar="N")],
    method: Annotated[
        str | None,
        typer.Option(
            help="coverage | margin | entropy | random | k-center | badge | typical, with `needed ` before coverage, margin or badge"
            " to favour classes with low recall, or `balanced ` before any for equal shares.",
            show_default="needed coverage",
        ),
    ] = None,
    root: Root = Path("data"),
    skip_bad: SkipBad = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 256,
    workers: Workers = 0,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; the same seed gives the same result.")] = 0,
    directory: Out,
    overwrite: Overwrite = False,
) -> None:
    """Suggest which images of a pool to label next: those that the diagnosed network would learn the most from."""
    from ..commands.collect import collect_run
    from ..plan.suggest_images import DEFAULT

    with progress_bar() as progress:
        found, _ = collect_run(
            folder,
            pool=pool,
            pool_features=pool_features,
            budget=budget,
            method=method or DEFAULT,
            root=str(root),
            out=directory,
            batch_size=batch_size,
            workers=workers,
            skip_bad=skip_bad,
            seed=seed,
            overwrite=overwrite,
            say=print_line,
            progress=progress,
        )
    print_line(found.in_words())
    print_line(f"list: {directory / 'picks.csv'}")
    print_line(f"report: {directory / 'report.html'}")


@app.command()
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


@app.command()
def benchmark(
    suite: Annotated[
        str,
        typer.Argument(
            metavar="SUITE|FILE.py", help="Name of a suite, or a Python file that declares PROTOCOL and METHODS."
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
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that run trials in parallel.")] = 1,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Database of the search, for example sqlite:///study.db.",
            metavar="URL",
            show_default="a journal beside the records",
        ),
    ] = None,
    root: Root = Path("data"),
    download: Download = False,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda | cuda:N")] = "auto",
) -> None:
    """Compare methods at equal budget: choose parameters on the validation set, then evaluate one final run per seed on test.

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
            workers=workers,
            storage=storage,
            root=root,
            download=download,
            device=device,
            say=say,
            progress=progress,
        )
    done = f"{counted(found.trials, 'trial')} and {counted(found.finals, 'final run')}"
    print_line(f"{results}: {done}" if found.new else f"nothing to do: {results} holds all {done}")


@app.command()
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


@app.command()
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
