"""What ImageNet-LT and iNaturalist 2018 cost, from unit costs: the tables of `docs/results/large-plans.md`.

    python -m benchmarks.large_plan measure --folder DIR [--sets imagenet_lt inaturalist_2018] [--loading]

measures the unit costs that need no GPU, on features and images of these sizes, and adds them to
`benchmarks/results/large_plan.jsonl`. Everything else is computed from records, from counts that follow from the network alone, and
from `ASSUMED`, which holds published figures and assumptions, each with its source: `python -m benchmarks.tables` writes the tables.

Features for a diagnosis are made as in `benchmarks.scale`. Images for loading are two photographs, at the usual size of the set and at
the JPEG quality that gives files nearest to the set's; an image is decoded, cropped at random to 224 x 224 pixels and flipped by
torchvision, on one thread, and CPU seconds count.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks import scale
from benchmarks.scale import Size
from diversify.files import atomic
from diversify.runtime import provenance

RESULTS = Path(__file__).parent / "results" / "large_plan.jsonl"
GIB, GB = 2**30, 10**9


FEATURES = 2048  # of a ResNet-50
IMAGE = 224


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assumed:
    """A number that this project did not measure."""

    name: str
    value: float
    unit: str
    kind: str  # published, or assumption
    source: str


ASSUMED: Mapping[str, Assumed] = {
    one.name: one
    for one in (
        Assumed(
            name="train_1",
            value=2470,
            unit="images/s",
            kind="published",
            source="training a ResNet-50 v1.5 at 224 pixels on one A100 80GB, mixed precision: NVIDIA, DeepLearningExamples,"
            " `PyTorch/Classification/ConvNets/resnet50v1.5/README.md`",
        ),
        Assumed(
            name="train_8",
            value=16621,
            unit="images/s",
            kind="published",
            source="the same on eight A100 80GB of one machine",
        ),
        Assumed(
            name="forward",
            value=3,
            unit="times `train_1`",
            kind="assumption",
            source="a forward pass is a third of a training step, as the backward pass costs two; in the same README a V100 infers"
            " 3,382 images/s and trains 1,200",
        ),
        Assumed(
            name="cores",
            value=16,
            unit="cores for each GPU",
            kind="assumption",
            source="that decode and crop images beside each GPU",
        ),
        Assumed(
            name="imagenet_file",
            value=115,
            unit="kB",
            kind="published",
            source="`ILSVRC2012_img_train.tar` of ImageNet has 147.9 x 10^9 bytes and 1,281,167 images",
        ),
        Assumed(
            name="batch",
            value=256,
            unit="images on each GPU",
            kind="assumption",
            source="the batch whose memory is counted",
        ),
        Assumed(
            name="trials",
            value=10,
            unit="trials",
            kind="assumption",
            source="of each method of a study, all to their last epoch, on 80% of the training images",
        ),
        Assumed(
            name="seeds",
            value=3,
            unit="final runs",
            kind="assumption",
            source="of each method, on all training images",
        ),
    )
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Set:
    """A data set as its authors describe it.

    Attributes:
        title: Its name.
        train: Training images.
        heldout: Images of its validation set.
        classes: Classes.
        side: Width and height of a usual image, in pixels.
        bytes_per_image: Bytes of a usual image file.
        epochs: Epochs of the usual recipe.
    """

    title: str
    train: int
    heldout: int
    classes: int
    side: tuple[int, int]
    bytes_per_image: float
    epochs: int


SETS: Mapping[str, Set] = {
    "imagenet_lt": Set(
        title="ImageNet-LT",
        train=115_846,
        heldout=20_000,
        classes=1000,
        side=(500, 375),
        bytes_per_image=1000 * ASSUMED["imagenet_file"].value,
        epochs=90,
    ),
    "inaturalist_2018": Set(
        title="iNaturalist 2018",
        train=437_513,
        heldout=24_426,
        classes=8142,
        side=(800, 600),
        bytes_per_image=120e9 / (437_513 + 24_426),
        epochs=200,
    ),
}
"""ImageNet-LT: Liu et al., "Large-Scale Long-Tailed Recognition in an Open World", 2019. iNaturalist 2018: the README of
`visipedia/inat_comp`, where training and validation images are one archive of 120 GB. Epochs: Kang et al., "Decoupling Representation
and Classifier for Long-Tailed Recognition", 2020."""


def assumed(name: str) -> float:
    """Return the value of an assumption."""
    return ASSUMED[name].value


# Counted: what follows from the network alone


def network(classes: int) -> nn.Module:
    """Return a ResNet-50 without weights in memory."""
    from torchvision.models import resnet50

    with torch.device("meta"):
        made: nn.Module = resnet50(num_classes=classes)
    return made


@cache
def parameters(classes: int) -> int:
    """Return the number of parameters of a ResNet-50 with so many classes."""
    return sum(one.numel() for one in network(classes).parameters())


@cache
def multiply_adds() -> float:
    """Return the multiply-adds of a forward pass of one image, in 10^9."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        network(1000)(torch.zeros(1, 3, IMAGE, IMAGE))
    return counter.get_total_flops() / 2 / 1e9


@cache
def saved_for_backward() -> float:
    """Return the bytes that the forward pass of one image keeps for the backward pass, in bfloat16 autocast."""
    net, kept = network(1000), dict[int, int]()
    images = 4
    weights = {id(one.untyped_storage()) for one in net.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if isinstance(tensor, nn.Parameter) or id(storage) in weights or not tensor.ndim or len(tensor) != images:
            return tensor
        kept[id(tensor)] = tensor.numel() * tensor.element_size()
        alive.append(tensor)
        return tensor

    alive: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made = net(torch.zeros(images, 3, IMAGE, IMAGE, device="meta"))
    del made
    # Counted in float32, as the meta device knows no autocast; bfloat16 needs half.
    return sum(kept.values()) / images / 2


def training_memory(classes: int) -> float:
    """Return the GiB on a GPU for training: weights, gradients and momentum in float32, and what the backward pass needs."""
    return (12 * parameters(classes) + assumed("batch") * saved_for_backward()) / GIB


# Measured: records


def latest() -> dict[str, Mapping[str, Any]]:
    """Return the last record of each figure and set."""
    found: dict[str, Mapping[str, Any]] = {}
    for record in atomic.read_jsonl(RESULTS) if RESULTS.exists() else []:
        found[f"{record['figure']} {record['set']}"] = record
    return found


def overhead(figure: str) -> float:
    """Return the median ratio of a figure of `overhead.jsonl`, over its last three records."""
    records = [one for one in atomic.read_jsonl(RESULTS.with_name("overhead.jsonl")) if one["figure"] == figure]
    ratios = [
        ours / bare for one in records[-3:] for ours, bare in zip(one["seconds_ours"], one["seconds_bare"], strict=True)
    ]
    return median(ratios)


def per_core(name: str) -> float:
    """Return the images a second that one core decodes and crops."""
    return float(latest()[f"loading {name}"]["images_per_cpu_second"])


# Computed


def rate(name: str, gpus: int, *, forward: bool = False) -> tuple[float, str]:
    """Return images a second, and what limits them: "GPU" or "loading"."""
    device = assumed("train_1") if gpus == 1 else assumed("train_8")
    device *= (assumed("forward") / overhead("extract")) if forward else 1 / overhead("loop")
    loading = gpus * assumed("cores") * per_core(name)
    return (device, "GPU") if device <= loading else (loading, "loading")


def training_hours(name: str, gpus: int, share: float = 1.0) -> float:
    """Return the hours of a training run."""
    one = SETS[name]
    return one.epochs * one.train * share / rate(name, gpus)[0] / 3600


def study_hours(name: str, gpus: int) -> float:
    """Return the hours of one method of a study, each GPU with runs of its own."""
    return (assumed("trials") * training_hours(name, 1, 0.8) + assumed("seeds") * training_hours(name, 1)) / gpus


def diagnosis_minutes(name: str) -> str:
    """Return the measured minutes of a diagnosis."""
    one = latest().get(f"diagnosis {name}")
    return "not measured" if one is None else f"{one['seconds'] / 60:.1f}"


def embeddings_gb(name: str) -> tuple[float, float]:
    """Return the GB of features, and of logits, of all training and held-out images, in float32."""
    one = SETS[name]
    rows = one.train + one.heldout
    return rows * FEATURES * 4 / GB, rows * one.classes * 4 / GB


def assumptions_table() -> str:
    """Return every number that was not measured, with its source."""
    rows = ["| name | value | kind | what it is, and its source |", "|:--|--:|:--|:--|"]
    rows += [f"| `{one.name}` | {one.value:,.0f} {one.unit} | {one.kind} | {one.source} |" for one in ASSUMED.values()]
    return "\n".join(rows)


def units_table() -> str:
    """Return every number that was measured or counted."""
    rows = ["| unit cost | value | kind | on |", "|:--|--:|:--|:--|"]
    for name, one in SETS.items():
        loading = latest()[f"loading {name}"]
        width, height = one.side
        what = f"a JPEG of {width} x {height} pixels and {loading['bytes_per_image'] / 1e3:.0f} kB, decoded, cropped to {IMAGE} and flipped"
        value = f"{loading['images_per_cpu_second']:,.0f} images/s a core"
        rows.append(f"| {what} | {value} | measured | {loading['device']} |")
    for name, one in SETS.items():
        diagnosis = latest().get(f"diagnosis {name}")
        what = f"diagnosis of {one.train:,} x {FEATURES:,} and {one.heldout:,} held-out rows, {one.classes:,} classes"
        if diagnosis is None:
            rows.append(f"| {what} | not measured | | |")
            continue
        value = f"{diagnosis['seconds']:,.0f} s, {diagnosis['cpu_seconds']:,.0f} s of CPU, {diagnosis['anonymous_gib']:.1f} GiB"
        rows.append(f"| {what} | {value} | measured | {diagnosis['device']} |")
    for figure, what in (("loop", "`fit` over a bare loop"), ("extract", "`extract` over a bare forward loop")):
        rows.append(f"| {what} | {overhead(figure):.3f} times | measured, with small images | cpu (2 threads) |")
    rows.append(f"| forward pass of a ResNet-50 at {IMAGE} | {multiply_adds():.2f} x 10^9 multiply-adds | counted | |")
    kept = f"{saved_for_backward() / 2**20:.0f} MiB an image"
    rows.append(f"| what its backward pass needs, in bfloat16 | {kept} | counted, without workspace | |")
    return "\n".join(rows)


def plan_table() -> str:
    """Return hours, memory and disk of both sets, on one GPU and on eight."""
    head = (
        "| | "
        + " | ".join(f"{one.title}, {gpus} GPU{'s' * (gpus > 1)}" for one in SETS.values() for gpus in (1, 8))
        + " |"
    )
    cells: dict[str, list[str]] = {}
    for name, one in SETS.items():
        diagnosis = latest().get(f"diagnosis {name}")
        features, logits = embeddings_gb(name)
        for gpus in (1, 8):
            training, limit = rate(name, gpus)
            forward, forward_limit = rate(name, gpus, forward=True)
            checkpoint = 8 * parameters(one.classes) / GB
            column = {
                "training, images/s (what limits)": f"{training:,.0f} ({limit})",
                f"training, {' or '.join(str(each.epochs) for each in SETS.values())} epochs, hours": f"{training_hours(name, gpus):.1f}",
                f"GPU memory, batches of {assumed('batch'):.0f} a GPU, GiB": f"{training_memory(one.classes):.0f} each",
                "extraction, images/s (what limits)": f"{forward:,.0f} ({forward_limit})",
                "extraction of all images, minutes": f"{(one.train + one.heldout) / forward / 60:.1f}",
                "diagnosis on two CPU cores, minutes": diagnosis_minutes(name),
                "diagnosis, memory beside the maps, GiB": "not measured"
                if diagnosis is None
                else f"{diagnosis['anonymous_gib']:.1f}",
                "a study, each method, hours": f"{study_hours(name, gpus):,.0f}",
                "disk: images, GB": f"{(one.train + one.heldout) * one.bytes_per_image / GB:.0f}",
                "disk: features, GB": f"{features:.1f}",
                "disk: logits, GB": f"{logits:.1f}",
                "disk: a checkpoint with its momentum, GB": f"{checkpoint:.2f}",
            }
            for what, value in column.items():
                cells.setdefault(what, []).append(value)
    rows = [head, "|:--|" + "--:|" * 4]
    return "\n".join([*rows, *(f"| {what} | {' | '.join(values)} |" for what, values in cells.items())])


# Measuring


def loading(name: str, images: int = 200) -> dict[str, Any]:
    """Return the images that one thread decodes and crops in a CPU second: the median of seven turns."""
    from PIL import Image
    from sklearn.datasets import load_sample_images
    from torchvision.transforms import v2

    photographs = [Image.fromarray(one).resize(SETS[name].side) for one in load_sample_images().images]

    def written(quality: int) -> list[bytes]:
        files = [io.BytesIO() for _ in photographs]
        for photograph, file in zip(photographs, files, strict=True):
            photograph.save(file, "JPEG", quality=quality)
        return [file.getvalue() for file in files]

    def off(quality: int) -> float:
        return abs(sum(map(len, written(quality))) / len(photographs) - SETS[name].bytes_per_image)

    quality = min(range(75, 101), key=off)
    files = written(quality)
    steps = v2.Compose(
        [
            v2.RandomResizedCrop(IMAGE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    torch.set_num_threads(1)
    seconds: list[float] = []
    for turn in range(8):
        begun = time.process_time()
        for place in range(images):
            steps(Image.open(io.BytesIO(files[place % len(files)])).convert("RGB"))
        if turn:
            seconds.append(time.process_time() - begun)
    return {
        "quality": quality,
        "bytes_per_image": sum(map(len, files)) / len(files),
        "images": images,
        "cpu_seconds": [round(one, 3) for one in seconds],
        "images_per_cpu_second": round(images / median(seconds), 1),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_plan", description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=("measure",))
    parser.add_argument(
        "--folder", type=Path, required=True, help="where features are made; 30 GB for iNaturalist 2018"
    )
    parser.add_argument("--sets", nargs="*", choices=list(SETS), default=list(SETS))
    parser.add_argument("--loading", action="store_true", help="loading alone, without the diagnoses")
    options = parser.parse_args(arguments)
    for name in options.sets:
        one, started = SETS[name], provenance.now()
        if options.loading:
            threads = torch.get_num_threads()
            _keep("loading", name, started, loading(name), provenance.origin(torch.device("cpu")))
            torch.set_num_threads(threads)
            continue
        folder = options.folder / name
        size = Size(rows=one.train, heldout=one.heldout, features=FEATURES, classes=one.classes)
        if not (folder / "heldout_labels.npy").exists():
            print(f"{name}: making features", file=sys.stderr)
            scale.make_bank(size, folder)
        command = [sys.executable, "-m", "benchmarks.scale", "--folder", str(folder), "--child", str(folder)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        _keep("diagnosis", name, started, dataclasses.asdict(size) | found, provenance.origin(torch.device("cpu")))


def _keep(figure: str, name: str, started: str, found: Mapping[str, Any], origin: Mapping[str, Any]) -> None:
    record = {"kind": "timing", "figure": figure, "set": name, **found, "started": started, **origin}
    atomic.append_jsonl(RESULTS, record)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
