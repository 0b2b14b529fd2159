"""Time the library against the same work done by hand: `benchmarks/results/overhead.jsonl`.

    python -m benchmarks.overhead [extract] [diagnose] [report] [loop] [study]

Every comparison runs both versions in turn, in one process, on the same data. A ratio is taken per pair, and the median is
reported.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler

from diversify.augment.draw_key import CropFlip, DrawKey
from diversify.data.images import ImageArray
from diversify.data.loader import Split, collate, make_loader
from diversify.data.view import View
from diversify.diagnosis.choose_exhibits import choose_exhibits
from diversify.diagnosis.measure import diagnose
from diversify.files import atomic
from diversify.functional import counts, draws
from diversify.network.embeddings import Embeddings
from diversify.network.extraction import autocast, extract
from diversify.network.linear_head import LinearHead
from diversify.network.networks import build_model
from diversify.network.split import split_head
from diversify.report.diagnosis import render_html
from diversify.report.thumbnails import take_pictures
from diversify.runtime import provenance
from diversify.study.methods import method_named
from diversify.study.records import Record, read_records
from diversify.study.run import run_study
from diversify.study.study import Study
from diversify.study.suites import SUITES
from diversify.study.task import load_task
from diversify.study.trial import run_trial
from diversify.training.ingredients import Ingredients
from diversify.training.loop import fit
from diversify.training.recipe import Recipe

RESULTS = Path(__file__).parent / "results" / "overhead.jsonl"
LONG_TAIL = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
VIEW = View(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
PAIRS = 7


def seconds_of(work: Callable[[], Any]) -> float:
    """Return the wall-clock seconds of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def noise_images(count: int) -> ImageArray:
    """Return noise of CIFAR's size; the timed work does not depend on the content of an image."""
    pixels = draws.integers(256, "pixels", torch.arange(count * 3 * 32 * 32)).to(torch.uint8)
    return ImageArray(pixels.view(count, 3, 32, 32), torch.arange(count) % 10)


def paired(
    figure: str, what: str, ours: Callable[[], Any], bare: Callable[[], Any], *, faster: bool = False, **more: Any
) -> dict[str, Any]:
    """Time both versions in turn. The ratio is our seconds over the others', or theirs over ours with `faster`."""
    ours(), bare()  # warm up
    pairs = [(seconds_of(ours), seconds_of(bare)) for _ in range(PAIRS)]
    ratios = [other / one if faster else one / other for one, other in pairs]
    return {
        "figure": figure,
        "what": what,
        **more,
        "seconds_ours": [round(one, 4) for one, _ in pairs],
        "seconds_bare": [round(other, 4) for _, other in pairs],
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_lowest": round(min(ratios), 4),
        "ratio_highest": round(max(ratios), 4),
    }


def time_extract() -> dict[str, Any]:
    """Time `extract` against a bare forward loop with the same loader and precision."""
    data = noise_images(4096)
    split = Split(dataset=data, labels=data.targets, indices=torch.arange(len(data)), origin="source", source="train")
    loader = make_loader(split, VIEW)
    model = build_model("resnet32", 10).eval()
    parts = split_head(model)

    def bare() -> None:
        with torch.inference_mode():
            for images, _ in loader:
                model(images)

    return paired(
        "extract",
        "seconds of extract over a bare forward loop, fp32",
        lambda: extract(parts, loader),
        bare,
        images=len(data),
    )


def long_tailed() -> tuple[LinearHead, Embeddings, Embeddings]:
    """Return a head and 12,406 training and 10,000 held-out features with D = 64, as of a ResNet-32 on long-tailed CIFAR-10."""
    centre = draws.uniform("centre", torch.arange(640)).view(10, 64)

    def features(sizes: list[int], name: str) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.repeat_interleave(torch.arange(10), torch.tensor(sizes))
        cell = torch.arange(len(labels) * 64).view(-1, 64)
        noise = sum(draws.uniform(name, turn, cell) for turn in range(6)) - 3  # approximately normal
        return (centre[labels] + 0.6 * noise).relu(), labels

    (seen, seen_labels), (unseen, unseen_labels) = features(LONG_TAIL, "train"), features([1000] * 10, "heldout")
    means = counts.class_mean(seen, seen_labels, 10)
    weight = 4 * (means - means.mean(0))
    head = LinearHead(weight=weight, bias=-(weight * means).sum(1) / 2)
    sides = [
        Embeddings(features=rows, labels=labels, logits=head.logits(rows), indices=torch.arange(len(labels)))
        for rows, labels in ((seen, seen_labels), (unseen, unseen_labels))
    ]
    return head, sides[0], sides[1]


def repeated(figure: str, what: str, work: Callable[[], Any]) -> dict[str, Any]:
    """Time five runs after a warm-up."""
    work()  # warm up
    seconds = [seconds_of(work) for _ in range(5)]
    return {
        "figure": figure,
        "what": what,
        "seconds": [round(value, 3) for value in seconds],
        "seconds_median": round(statistics.median(seconds), 3),
    }


def time_diagnose() -> dict[str, Any]:
    """Time `diagnose` on the features of a ResNet-32 on long-tailed CIFAR-10."""
    head, *sides = long_tailed()
    what = "seconds of diagnose on 12,406 x 64 training and 10,000 x 64 held-out features"
    return repeated("diagnose", what, lambda: diagnose(*sides, head=head))


def time_report() -> dict[str, Any]:
    """Time everything from a diagnosis to its page: choosing images, the map, pictures, drawing."""
    head, *sides = long_tailed()
    found = diagnose(*sides, head=head)
    data = [noise_images(len(side)) for side in sides]

    def work() -> None:
        exhibits = take_pictures(choose_exhibits(*sides, head=head, diagnosis=found), *data)
        render_html(found, {}, exhibits)

    return repeated("report", "seconds from that diagnosis to its HTML page, pictures and map included", work)


def time_loop() -> dict[str, Any]:
    """Time `fit` against a bare bf16 loop with the same augmentation: one epoch of ResNet-32 each."""
    data = noise_images(4096)
    augment = CropFlip(padding=4, mirror=True)
    recipe = Recipe(epochs=1, precision="bf16", warmup_epochs=0)
    networks = [build_model("resnet32", 10) for _ in range(2)]
    bare_model = networks[1].to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def ours() -> None:
        parts = Ingredients(augment=augment)
        for _ in fit(
            networks[0], data, recipe=recipe, num_classes=10, ingredients=parts, collate=collate, prepare=VIEW.normalize
        ):
            pass

    def bare() -> None:
        optimizer = torch.optim.SGD(bare_model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
        generator = torch.Generator().manual_seed(0)
        loader = DataLoader(data, batch_size=128, sampler=RandomSampler(data, generator=generator), collate_fn=collate)
        bare_model.train()
        for step, (images, labels) in enumerate(loader):
            key = DrawKey(seed=0, epoch=0, step=step, indices=torch.arange(len(labels)) + 128 * step)
            images = VIEW.normalize(augment(images, labels, key)[0]).contiguous(memory_format=torch.channels_last)
            with autocast(torch.device("cpu"), "bf16"):
                logits = bare_model(images)
            torch.nn.functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    return paired(
        "loop", "seconds of fit over a bare bf16 loop with the same augmentation", ours, bare, images=len(data)
    )


def time_study() -> dict[str, Any]:
    """Time a study of eight runs on digits against the same eight runs called one after the other."""
    protocol = SUITES["digits"].model_copy(update={"methods": ("ce", "focal"), "trials": 3, "seeds": (0,)})
    task = load_task(protocol, device="cpu")
    runs: list[Record] = []

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            results = Path(folder) / "study.jsonl"
            for _ in run_study(Study(protocol=protocol, results=results)):
                pass
            runs[:] = read_records(results)

    def bare() -> None:
        for one in runs:
            run_trial(task, method_named(one.method), one.params, seed=one.seed, split=one.split)

    what = (
        "seconds of a study of eight runs on digits, its data read, searched, locked and recorded, over the bare runs"
    )
    return paired("study", what, ours, bare, runs=8)


FIGURES = {
    "extract": time_extract,
    "diagnose": time_diagnose,
    "report": time_report,
    "loop": time_loop,
    "study": time_study,
}


def keep(figures: Mapping[str, Callable[[], dict[str, Any]]], names: list[str], results: Path) -> None:
    """Time the named figures (all by default), print each record and append it."""
    for name in names or list(figures):
        record = {
            "kind": "timing",
            **figures[name](),
            "started": provenance.now(),
            **provenance.origin(torch.device("cpu")),
        }
        print(record)
        atomic.append_jsonl(results, record)


if __name__ == "__main__":
    keep(FIGURES, sys.argv[1:], RESULTS)
