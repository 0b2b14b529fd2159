"""The commands that act on a diagnosis, declared for typer: `plan`, `remedy` and `collect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import must
from ..runtime import signals
from .multilabel_tables import show_multilabel_choice
from .options import Cost, Out, Overwrite, Root, SkipBad, TargetPrior, Workers, objective_given
from .screen import print_line, progress_bar
from .tables import show_choice, show_plan


def plan(
    folder: Annotated[Path, typer.Argument(metavar="DIR", readable=False, help="A folder that diagnose wrote.")],
    *,
    file: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write, for example plan.json.", metavar="FILE", readable=False),
    ] = None,
    alike: Annotated[
        bool,
        typer.Option(
            "--alike",
            help="Treat every class alike: images augmented and mixed, class prior corrected, by how far the model overfits.",
        ),
    ] = False,
    no_augment: Annotated[
        bool,
        typer.Option(
            "--no-augment",
            help="With --alike: correct the class prior alone; meant for a cosine head (`train --model NAME+cosine`).",
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the plan in FILE.")] = False,
) -> None:
    """Plan each class's treatment, with reasons: how often it is drawn, and how its images and features are augmented."""
    from ..commands.plan import expected_of, plan_run

    signals.begin_work()
    made = plan_run(folder, out=file, alike=alike, augment=not no_augment, overwrite=overwrite)
    show_plan(made, expected_of(folder, made))
    print_line(
        f"plan: {file}"
        if file is not None
        else "to save this plan, so that you can edit it or train with it: --out plan.json"
    )


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
            help="Whether repairs may learn from held-out images; each of these is judged by heads fitted without it."
            " If one that did is saved, only test can judge it.",
            metavar="heldout|none",
            show_default="none; heldout with an --objective other than mean",
        ),
    ] = None,
    target_prior: TargetPrior = None,
    cost: Cost = None,
    directory: Out,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; the same seed gives the same result.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Repair the head of a diagnosed network with whichever candidate wins on held-out folds: the plan, adjusted logits and others."""
    from ..commands.folders import is_multilabel
    from ..commands.remedy import remedy_run

    if is_multilabel(folder):
        usual = (plan, metric, objective, unseen, target_prior, cost) == (None, "balanced", "mean", None, None, None)
        if not usual:
            law = "be repaired without plan, metric, objective, unseen, target_prior and cost"
            raise must("a diagnosis of several labels per image", law, "one of these")
        _remedy_multilabel(folder, directory, seed=seed, overwrite=overwrite)
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


def _remedy_multilabel(folder: Path, directory: Path, *, seed: int, overwrite: bool) -> None:
    """Repair the head of a network with several labels per image, and print the table."""
    from ..commands.multilabel_remedy import remedy_multilabel_run

    with progress_bar() as progress:
        choice, _ = remedy_multilabel_run(
            folder, out=directory, seed=seed, overwrite=overwrite, say=print_line, progress=progress
        )
    show_multilabel_choice(choice)
    print_line(f"model: {directory / 'model.safetensors'}")
    print_line(f"thresholds: {directory / 'thresholds.json'}")
    print_line(f"report: {directory / 'report.html'}")


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
    budget: Annotated[
        int, typer.Option(help="Number of images to suggest, at most as many as the pool has.", metavar="N")
    ],
    method: Annotated[
        str | None,
        typer.Option(
            help="coverage | margin | entropy | random | k-center | badge | typical; `balanced ` before any gives every predicted"
            " class at most its fair share.",
            show_default="coverage",
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
    """Suggest which images of an unlabelled pool to label first, and forecast what labels add for fragile classes."""
    from ..commands.collect import collect_run
    from ..plan.suggest_images import DEFAULT

    with progress_bar() as progress:
        found, record = collect_run(
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
    expected = (record["learning_curve"] or {}).get("text", ())
    if expected:
        print_line("expected on new images, with a head refitted so that all classes weigh the same (95% intervals):")
    for sentence in expected:
        print_line(f"  {sentence}")
    print_line(f"list: {directory / 'picks.csv'}")
    print_line(f"report: {directory / 'report.html'}")
