"""The commands that diagnose a network, declared for typer: `diagnose` and `probe`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import must
from .multilabel_tables import show_multilabel_diagnosis
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
    threshold_given,
)
from .screen import print_line, progress_bar
from .tables import show_diagnosis

if TYPE_CHECKING:
    from ..commands.options import DataOptions


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
        typer.Option(
            help="The checkpoint: a .pt, .pth or .safetensors file, or the folder that save_pretrained wrote.",
            metavar="FILE",
            readable=False,
        ),
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

    With --data for images of your own, give --mean and --std again: those of the run.json are not used.
    """
    if threshold is not None and not multilabel:
        raise must("threshold", "be given with multilabel=True", threshold)
    shared: dict[str, Any] = {
        "out": directory,
        "heldout": heldout,
        "top_k": top_k,
        "seed": seed,
        "overwrite": overwrite,
        "say": print_line,
    }
    if multilabel:
        shared["threshold"] = threshold_given(threshold)
    if features is not None:
        if any(each is not None for each in (data, model, weights, weights_key)):
            raise must("features", "stand in place of data, model and weights", "both")
        _diagnose_features(features, head, shared, multilabel=multilabel)
    else:
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
        shared |= {"model": model, "weights": weights, "weights_key": weights_key, "head": head}
        shared |= {"batch_size": batch_size, "precision": precision, "workers": workers}
        _diagnose_network(options, shared, multilabel=multilabel)
    print_line(f"report: {directory / 'report.html'}")


def _diagnose_features(
    features: tuple[Path, Path], head: str | None, shared: dict[str, Any], *, multilabel: bool
) -> None:
    """Diagnose features from files, and print the table."""
    file = None if head is None else Path(head)
    with progress_bar() as progress:
        if multilabel:
            from ..commands.multilabel import diagnose_multilabel_features

            labels, _ = diagnose_multilabel_features(features, head=file, **shared)
        else:
            from ..commands.from_features import diagnose_features

            classes, _ = diagnose_features(features, head=file, progress=progress, **shared)
    if multilabel:
        show_multilabel_diagnosis(labels)
    else:
        show_diagnosis(classes)


def _diagnose_network(options: DataOptions, shared: dict[str, Any], *, multilabel: bool) -> None:
    """Diagnose a checkpoint on data, and print the table."""
    with progress_bar() as progress:
        if multilabel:
            from ..commands.multilabel import diagnose_multilabel_run

            labels, _ = diagnose_multilabel_run(options, progress=progress, **shared)
        else:
            from ..commands.diagnose import diagnose_run

            classes, _ = diagnose_run(options, progress=progress, **shared)
    if multilabel:
        show_multilabel_diagnosis(labels)
    else:
        show_diagnosis(classes)


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
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted probe in DIR; without it, refuse to start.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Fit a head on the features of a frozen backbone, and diagnose it; plan and remedy go on from there.

    Run the same command again to resume it: images that were read are not read again.
    """
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
            resume=resume,
            overwrite=overwrite,
            say=print_line,
            progress=progress,
        )
    show_diagnosis(diagnosis)
    print_line(f"report: {directory / 'report.html'}")
