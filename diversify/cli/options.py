"""The flags that several commands share: data, model, workers and output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import must

if TYPE_CHECKING:
    from ..commands.options import DataOptions


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


def data_options(
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
    """The data flags of a command as one value."""
    from ..commands.options import DataOptions

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
