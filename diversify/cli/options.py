"""The flags that several commands share, and the library's values that are made of flags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import must

if TYPE_CHECKING:
    from ..commands.options import DataOptions
    from ..training.recipe import Recipe


Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Data set: digits | cifar10 | cifar100 | svhn | mnist | fashion-mnist | places365 | inaturalist | npz:FILE | folder:DIR"
        " | package.module:function",
        rich_help_panel="Data",
        show_default="digits",
    ),
]
Root = Annotated[Path, typer.Option(help="Folder of the public data sets.", readable=False, rich_help_panel="Data")]
ImbalanceOption = Annotated[
    str | None,
    typer.Option(
        "--imbalance",
        help="Imbalance to apply: exp:RATIO[:NMAX] | step:RATIO:FRACTION | none",
        rich_help_panel="Data",
        show_default="none",
    ),
]
TailOrder = Annotated[
    str | None,
    typer.Option(
        help="canonical | a seed that permutes which classes are rare",
        rich_help_panel="Data",
        show_default="canonical",
    ),
]
DiversityOption = Annotated[
    str | None,
    typer.Option(
        "--diversity",
        help="Less diverse training images in narrow classes: neighbours:S (nearest to S images) | kinds:K (K kinds of the class)"
        " | bursts:M (M copies of an image) | none; neighbours:S:FILE.npy and kinds:K:FILE.npy look in an embedding",
        rich_help_panel="Data",
        show_default="none",
    ),
]
Narrow = Annotated[
    float | None,
    typer.Option(help="Share of the classes that are narrow.", rich_help_panel="Data", show_default="0.5"),
]
NarrowOrder = Annotated[
    str | None,
    typer.Option(
        help="Which classes are narrow: a seed | small | large, with a seed small:SEED | large:SEED",
        rich_help_panel="Data",
        show_default="0",
    ),
]
Holdout = Annotated[
    float | None,
    typer.Option(
        help="Share of the training set to split off as the validation set, if the data set has none.",
        rich_help_panel="Data",
        show_default="0.2",
    ),
]
TargetPrior = Annotated[
    Path | None,
    typer.Option(
        help="Share of each class where the model will be used: CSV with class,share, or JSON.",
        metavar="FILE",
        readable=False,
    ),
]
Cost = Annotated[
    Path | None,
    typer.Option(
        help="Cost of predicting a class (column) for an image of another (row): CSV with class names, or JSON.",
        metavar="FILE",
        readable=False,
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        help="Images that depend on each other (patient, scene, burst): a column of the table; a .txt, .csv or .npy file with one"
        " value per training image; or a .csv file with the columns path and group. The hold-out takes whole groups.",
        metavar="COLUMN|FILE",
        rich_help_panel="Data",
    ),
]
Mean = Annotated[
    str | None, typer.Option(help="Mean per channel, for images in [0, 1]: M or M,M,M.", rich_help_panel="Data")
]
Std = Annotated[str | None, typer.Option(help="Standard deviation per channel: S or S,S,S.", rich_help_panel="Data")]
Resize = Annotated[int | None, typer.Option(help="Resize the shorter side to so many pixels.", rich_help_panel="Data")]
Crop = Annotated[int | None, typer.Option(help="Crop the centre to so many pixels.", rich_help_panel="Data")]
Download = Annotated[
    bool, typer.Option("--download", help="Download a public data set that is not in --root.", rich_help_panel="Data")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out image files that cannot be read.", rich_help_panel="Data")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Network: small_cnn | resnet20 | resnet32 | resnet56 | torchvision:NAME | timm:NAME | package.module:function;"
        " NAME+cosine gives it a cosine head.",
        show_default="small_cnn",
    ),
]
Precision = Annotated[str, typer.Option(help="auto | fp32 | bf16; auto chooses bf16 where the hardware supports it.")]
Workers = Annotated[int, typer.Option(min=0, help="Number of data loader processes.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in DIR.")]
Out = Annotated[Path, typer.Option("--out", help="The folder to write to.", metavar="DIR", readable=False)]


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
    diversity: str | None = None,
    narrow: float | None = None,
    narrow_order: str | None = None,
    group: str | None = None,
) -> DataOptions:
    """The data flags as `DataOptions`."""
    from ..commands.options import DataOptions

    return DataOptions(
        spec=spec,
        root=str(root),
        imbalance=imbalance,
        tail_order=tail_order,
        holdout=holdout,
        mean=_numbers("mean", mean),
        std=_numbers("std", std),
        resize=resize,
        crop=crop,
        download=download,
        skip_bad=skip_bad,
        diversity=diversity,
        narrow=narrow,
        narrow_order=narrow_order,
        group=group,
    )


def recipe_from(*, epochs: int, warmup_epochs: int | None, **others: Any) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe flags of `train` as a `Recipe`, and notes on its warm-up.

    Without `warmup_epochs`, the warm-up has its usual length, or less where the epochs are few.
    """
    from ..training.recipe import WARMUP_EPOCHS, Recipe, warmup_within

    if warmup_epochs is not None:
        late = (f"the warm-up of {warmup_epochs} epochs leaves none of {epochs} after it",)
        recipe = Recipe(epochs=epochs, warmup_epochs=warmup_epochs, **others)
        return recipe, late if warmup_epochs >= epochs else ()
    warmup = warmup_within(epochs)
    recipe = Recipe(epochs=epochs, warmup_epochs=warmup, **others)
    if warmup >= WARMUP_EPOCHS:
        return recipe, ()
    chosen = f"over {warmup} of the {epochs} epochs, not {WARMUP_EPOCHS}" if warmup else f"none in {epochs} epochs"
    return recipe, (f"warm-up: {chosen}; --warmup-epochs sets it",)


def objective_given(text: str) -> str | float:
    """Return the objective as the library takes it: a number as one."""
    try:
        return float(text)
    except ValueError:
        return text


def threshold_given(text: str | None) -> float | Path:
    """The value of `--threshold`: a number, or the file that `remedy` wrote."""
    if text is None:
        return 0.5
    try:
        return float(text)
    except ValueError:
        return Path(text)
