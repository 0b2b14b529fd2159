"""Class size and class diversity taken apart, in many small trainings: `benchmarks/results/diversity_DATA.jsonl`.

    python -m benchmarks.diversity digits
    python -m benchmarks.diversity fashion-mnist --root DATA --workers 2
    python -m benchmarks.diversity cifar10 --root DATA --workers 2
    python -m benchmarks.diversity mnist --root DATA --workers 2

Every run trains one small network on a training set in which class sizes and class diversity are set independently of each other,
and writes one record: per class the number of images, the recall on test images and on held-out images that were chosen as the
training images were, the ratio of top-K magnitudes on both kinds of held-out images, how well the training images cover them, the
troubles that a diagnosis names, and every diversity measure that can be taken from the training images alone. Class sizes and narrow classes are permuted over the classes anew in each assignment. The first half
of the assignments is for development, the other half for confirmation. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diversify.data.diversity import small_pixels
from diversify.data.load import Data, load_data
from diversify.data.loader import Split, collate
from diversify.data.view import View
from diversify.diagnosis.measure import diagnose
from diversify.diagnosis.near_copies import find_near_copies
from diversify.errors import InputError, must, unknown
from diversify.files import atomic
from diversify.functional import counts, diversity, draws, magnitude, metrics, stats
from diversify.functional.coverage import class_coverage
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead, read_head
from diversify.runtime import provenance
from diversify.training.recipe import Recipe
from diversify.training.resident import ResidentImages, fit_resident

RESULTS = Path(__file__).parent / "results"
SUITE = "diversity"
ASSIGNMENTS = 8
NARROW = 0.5
TOP_K = 10
TEST_IMAGES = 300  # of a class, at most
COMPONENTS = 30  # of the pixels
HALVES = ("development", "confirmation")
MOST_MATCHED = (
    100  # images of every class on which `distinct_most` is compared, at most; as many as the smallest class has
)
FEW_HELDOUT = (5, 10, 20)  # images of a class on which coverage is measured, too
SPACES = {
    "pixels": "pixels",
    "untrained": "untrained network",
    "early": "first layer",
    "latent": "last layer",
}
KINDS = {
    "vendi": "Vendi score",
    "effective_rank": "effective rank",
    "hill": "features in use",
    "spread": "spread",
    "cosine": "mean cosine",
    "participation": "participation ratio",
    "distance": "mean distance",
    "nearest": "distance to the nearest",
    "copies": "share left after near copies",
    "distinct": "distinct images",
    "distinct_most": "distinct images, of more",
}
OF_DIAGNOSIS = (
    "top_k_share",
    "head_norm",
    "recall_train",
    "safe",
    "border",
    "rare",
    "outlier",
)  # from training images alone


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """What is trained on one data set; records of one design are analysed together.

    Attributes:
        data: The data set.
        equal: Imbalance of the runs with equal class sizes.
        unequal: Imbalance of the others.
        cells: Pairs of sizes and diversity. Sizes are "equal"; "independent" of diversity; "with" it, where the smallest classes
            are narrow; or "against" it, where the largest are.
        epochs: Passes over the training images.
        widths: Channels of the three convolutions.
        matched: Images of every class on which measures are compared.
        holdout: Share of the training images that is held out.
        batch_size: Images per step.
        learning_rate: Peak learning rate; the schedule is cosine.
    """

    data: str
    equal: str
    unequal: str
    cells: tuple[tuple[str, str], ...]
    epochs: int
    widths: tuple[int, int, int]
    matched: int = 20
    holdout: float = 0.2
    batch_size: int = 64
    learning_rate: float = 0.05

    def record(self) -> dict[str, Any]:
        """Return what a record keeps; cells may be added to a design."""
        kept = {name: value for name, value in dataclasses.asdict(self).items() if name != "cells"}
        return kept | {"widths": list(self.widths)}


SIZES = ("equal", "independent", "with", "against")


def _cells(levels: Sequence[str], everywhere: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return every size with each form of `everywhere`; equal sizes with the other levels too; and runs without narrow classes."""
    crossed = [(sizes, form) for form in everywhere for sizes in SIZES]
    others = [("equal", form) for form in levels if form not in everywhere]
    return (*crossed, *others, ("equal", "none"), ("independent", "none"))


LEVELS = ("neighbours:1", "neighbours:3", "neighbours:10", "bursts:10")
DESIGNS = {
    design.data: design
    for design in (
        Design(
            data="digits",
            equal="exp:1:25",
            unequal="exp:4:40",
            cells=_cells(("neighbours:1", "neighbours:3", "kinds:2", "bursts:10"), ("neighbours:1", "bursts:10")),
            epochs=25,
            widths=(24, 32, 48),
            matched=8,
            batch_size=32,
        ),
        Design(
            data="fashion-mnist",
            equal="exp:1:300",
            unequal="exp:10:600",
            cells=_cells(LEVELS, ("neighbours:3", "bursts:10")),
            epochs=12,
            widths=(16, 32, 64),
        ),
        Design(
            data="cifar10",
            equal="exp:1:300",
            unequal="exp:10:600",
            cells=_cells(LEVELS, ("neighbours:3", "bursts:10")),
            epochs=12,
            widths=(16, 32, 64),
        ),
        Design(  # five pairs of digits, each a class; without runs of other classes
            data="mnist",
            equal="exp:1:300",
            unequal="exp:10:600",
            cells=tuple((sizes, "kinds:1") for sizes in SIZES),
            epochs=12,
            widths=(16, 32, 64),
        ),
    )
}


class SmallNetwork(nn.Module):
    """Three convolutions; the head `linear` gets non-negative features, and `early` are those of the first convolution."""

    def __init__(self, channels: int, widths: Sequence[int], num_classes: int, side: int) -> None:
        super().__init__()

        def layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
            convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

        one, two, three = widths
        self.first = layer(channels, one, 1 if side < 16 else 2)
        self.rest = nn.Sequential(
            layer(one, two), nn.MaxPool2d(2), layer(two, three), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.linear = nn.Linear(three, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(N, C)`."""
        found: Tensor = self.linear(self.rest(self.first(images)))
        return found


@torch.inference_mode()
def features_of(model: SmallNetwork, images: Tensor, view: View) -> dict[str, Tensor]:
    """Return the features of the first layer, averaged over a grid of 4 x 4, and of the last layer, in evaluation mode."""
    model.eval()
    parts = []
    for part in images.split(512):
        first = model.first(view.normalize(part))
        grid = nn.functional.adaptive_avg_pool2d(first, 4).flatten(1)
        parts.append((grid, model.rest(first)))
    return {"early": torch.cat([grid for grid, _ in parts]), "latent": torch.cat([last for _, last in parts])}


def built(design: Design, data: Data, seed: int) -> SmallNetwork:
    """Return the untrained network of a seed; the global random state stays as it was."""
    image = collate([data.train.dataset[0]])[0]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return SmallNetwork(image.shape[1], design.widths, data.num_classes, image.shape[2])


def loaded(design: Design, sizes: str, form: str, assignment: int, root: str) -> Data:
    """Return the data of one run."""
    order = {"with": f"small:{assignment}", "against": f"large:{assignment}"}.get(sizes, str(assignment))
    narrowed = {} if form == "none" else {"diversity": form, "narrow": NARROW, "narrow_order": order}
    imbalance = design.equal if sizes == "equal" else design.unequal
    return load_data(
        design.data, root=root, imbalance=imbalance, tail_order=str(assignment), holdout=design.holdout, **narrowed
    )


def images_of(split: Split, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return images and labels of a split in memory."""
    rows = torch.arange(len(split)) if rows is None else rows
    return collate(split.dataset.__getitems__(rows.tolist()))  # type: ignore[attr-defined]


def some_of(split: Split, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return at most `TEST_IMAGES` of every class of a split, the same in every run."""
    word = draws.bits("diversity test", torch.arange(len(split)))
    chosen = []
    for c in range(num_classes):
        rows = (split.labels == c).nonzero()[:, 0]
        chosen.append(rows[torch.argsort(word[rows])[:TEST_IMAGES]])
    return images_of(split, torch.cat(chosen))


def measures_of(
    features: Tensor, labels: Tensor, num_classes: int, *, n: int, weight: Tensor | None = None
) -> dict[str, Tensor]:
    """Return each measure of `KINDS` per class `(C,)`, on n images of every class; NaN for a class with fewer.

    All but `copies` are means over random draws of n images, `distinct_most` of as many as the smallest class has. `hill` counts
    the features among the strongest of each image.

    Args:
        features: `(N, D)`.
        labels: `(N,)`.
        num_classes: C.
        n: Images of a class.
        weight: `(C, D)`, of the head, for the last layer.
    """
    centre, k = features.mean(0), min(TOP_K, features.shape[1])
    options = {"n": n, "draws": 30, "seed": 0, "name": "diversity measures"}
    matched = diversity.matched_diversity(features, labels, num_classes, centre=centre, weight=weight, k=k, **options)
    found = {name: draw.double().mean(0) for name, draw in matched.items()}
    rows = stats.matched_rows(labels, num_classes, **options)  # (C, draws, n)
    for name in ("participation", "distance", "nearest"):
        found[name] = torch.full((num_classes,), math.nan, dtype=torch.float64)
    for c in (rows >= 0).flatten(1).any(1).nonzero().flatten().tolist():
        chosen = features[rows[c]].double()
        spread = chosen - chosen.mean(1, keepdim=True)
        gram = spread @ spread.mT
        trace = gram.diagonal(dim1=1, dim2=2).sum(1)
        found["participation"][c] = (trace**2 / gram.square().sum((1, 2)).clamp(min=1e-30)).mean()
        distance = torch.cdist(chosen, chosen)
        found["distance"][c] = distance.sum((1, 2)).mean() / (n * (n - 1))
        found["nearest"][c] = (distance + torch.eye(n) * distance.amax()).amin(2).mean()
    smallest = int(counts.class_counts(labels, num_classes).min())
    for name, size in (("distinct", n), ("distinct_most", max(2, min(smallest, MOST_MATCHED)))):
        drawn = diversity.distinct_rows(
            features, labels, num_classes, n=size, draws=30, seed=0, name="diversity measures"
        )
        found[name] = drawn.mean(0)
    nothing = features.new_zeros(len(features), num_classes)
    embeddings = Embeddings(features=features, labels=labels, logits=nothing, indices=torch.arange(len(features)))
    found["copies"] = find_near_copies(embeddings).effective_count.double() / counts.class_counts(labels, num_classes)
    return found


def pixel_components(split: Split) -> Tensor:
    """Return `(N, 30)`: the first principal components of the pixels of the training images."""
    pixels = small_pixels(split.dataset, torch.arange(len(split)))
    spread = (pixels - pixels.mean(0)).double()
    return (spread @ torch.linalg.eigh(spread.T @ spread).eigenvectors[:, -COMPONENTS:]).float()


def magnitude_ratio(train: Embeddings, heldout: Embeddings, head: LinearHead) -> Tensor:
    """Return `(C,)`: top-K magnitude on held-out over training images."""
    weight = head.effective(train.features[:1])[1]
    means = counts.class_mean(train.features, train.labels, head.num_classes) * weight
    top = magnitude.top_k(means, TOP_K)
    sides = (magnitude.top_k_magnitude(one.features, weight, one.labels, top) for one in (train, heldout))
    labels = (train.labels, heldout.labels)
    on_train, on_heldout = (
        counts.class_mean(values[:, None], own, head.num_classes)[:, 0]
        for values, own in zip(sides, labels, strict=True)
    )
    return magnitude.magnitude_ratio(on_train, on_heldout)


def listed(values: Tensor) -> list[float | None]:
    """Return numbers as a record holds them: six digits, null where undefined."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]


def run_one(design: Design, sizes: str, form: str, assignment: int, root: str, assignments: int) -> dict[str, Any]:
    """Train one network and return its record."""
    started, begun = provenance.now(), time.perf_counter()
    data = loaded(design, sizes, form, assignment, root)
    num_classes, view = data.num_classes, data.view
    if view is None or data.val is None or data.test is None:
        raise must(f"data {design.data}", "have a val and a test split", "none")
    model = built(design, data, assignment)
    images, labels = images_of(data.train)
    untrained = features_of(model, images, view)["latent"]
    recipe = Recipe(
        epochs=design.epochs,
        batch_size=design.batch_size,
        learning_rate=design.learning_rate,
        weight_decay=5e-4,
        schedule="cosine",
        warmup_epochs=1,
        precision="fp32",
        seed=assignment,
    )
    model.train()
    resident = ResidentImages(images=images, labels=labels)
    for _ in fit_resident(model, resident, recipe=recipe, num_classes=num_classes, prepare=view.normalize):
        pass
    trained = time.perf_counter()
    head = read_head(model.linear)

    def embedded(images: Tensor, labels: Tensor) -> Embeddings:
        features = features_of(model, images, view)["latent"]
        return Embeddings(
            features=features, labels=labels, logits=head.logits(features), indices=torch.arange(len(labels))
        )

    def recall(side: Embeddings) -> Tensor:
        return metrics.recall(metrics.confusion_matrix(side.labels, side.logits.argmax(1), num_classes))

    train, wide = embedded(images, labels), embedded(*images_of(data.val))
    like = wide if data.val_like_train is None else embedded(*images_of(data.val_like_train))
    test = embedded(*some_of(data.test, num_classes))
    measures = _all_measures(design, data, model, images, train, untrained, head)
    diagnoses = {
        name: diagnose(train, side, head=head, class_names=data.class_names, top_k=TOP_K)
        for name, side in (("wide", wide), ("like", like))
    }
    found = diagnoses["like"]
    measures |= {name: found[name] for name in OF_DIAGNOSIS if name in found.columns}
    distinct = torch.stack(
        [data.train.indices[labels == c].unique().numel() + torch.zeros(()) for c in range(num_classes)]
    )
    classes = {
        "count": counts.class_counts(labels, num_classes),
        "distinct": distinct,
        "recall_test": recall(test),
        "recall_wide": recall(wide),
        "recall_like": recall(like),
        "ratio_wide": magnitude_ratio(train, wide, head),
        "ratio_like": magnitude_ratio(train, like, head),
        "ratio_test": magnitude_ratio(train, test, head),
    }
    return {
        "kind": "run",
        "suite": SUITE,
        "design": design.record(),
        "sizes": sizes,
        "diversity": form,
        "assignment": assignment,
        "half": HALVES[assignment * 2 // assignments],
        "class_names": list(data.class_names),
        "narrow": [c in data.narrow_classes for c in range(num_classes)],
        "classes": {name: listed(values.double()) for name, values in classes.items()},
        "measures": {name: listed(values.double()) for name, values in measures.items()},
        "coverage": {
            side: {
                end: listed(one[f"coverage_heldout_{end}" if end else "coverage_heldout"])
                for end in ("", "low", "high")
            }
            for side, one in diagnoses.items()
        }
        | {str(most): coverage_of_few(train, wide, most) for most in FEW_HELDOUT},
        "trouble": {side: [list(each) for each in one.troubles] for side, one in diagnoses.items()},
        "seconds": round(time.perf_counter() - begun, 2),
        "seconds_of_training": round(trained - begun, 2),
        "started": started,
        **provenance.origin(torch.device("cpu")),
    }


def coverage_of_few(train: Embeddings, heldout: Embeddings, most: int) -> dict[str, list[float | None]]:
    """Return the coverage, and the ends of its interval, with the first held-out images of every class."""
    rows = torch.cat([(heldout.labels == c).nonzero()[:most, 0] for c in range(heldout.num_classes)])
    some = heldout.select(rows)
    found = class_coverage(train.features, train.labels, some.features, some.labels, heldout.num_classes)
    return {end: listed(values) for end, values in zip(("", "low", "high"), found, strict=True)}


def _all_measures(
    design: Design,
    data: Data,
    model: SmallNetwork,
    images: Tensor,
    train: Embeddings,
    untrained: Tensor,
    head: LinearHead,
) -> dict[str, Tensor]:
    """Return each measure in each space, as `SPACE_KIND`, from training images alone."""
    if data.view is None:
        raise must("view", "be known", "none")
    spaces: Mapping[str, tuple[Tensor, Tensor | None]] = {
        "pixels": (pixel_components(data.train), None),
        "untrained": (untrained, None),
        "early": (features_of(model, images, data.view)["early"], None),
        "latent": (train.features, head.effective(train.features[:1])[1]),
    }
    return {
        f"{space}_{kind}": values
        for space, (features, weight) in spaces.items()
        for kind, values in measures_of(
            features, train.labels, data.num_classes, n=design.matched, weight=weight
        ).items()
    }


def key_of(record: Mapping[str, Any]) -> tuple[str, str, str, int]:
    """Return what no two records share."""
    return str(sorted(record["design"].items())), record["sizes"], record["diversity"], record["assignment"]


def path_of(data: str) -> Path:
    """Return the file of the records of a data set."""
    return RESULTS / f"diversity_{data.replace('-', '_')}.jsonl"


def kept(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file; none if it is not there."""
    return list(atomic.read_jsonl(path)) if path.exists() else []


def _one_thread() -> None:
    torch.set_num_threads(1)


def run(
    design: Design, *, assignments: int = ASSIGNMENTS, root: str = "data", workers: int = 1, path: Path
) -> Iterator[dict[str, Any]]:
    """Make the runs that are not recorded, append a line for each, and yield it.

    Assignments come one after the other, so that a stopped experiment is complete for the first ones.
    """
    jobs = [(sizes, form, a) for a in range(assignments) for sizes, form in design.cells]
    planned = {"design": design.record()}
    done = {key_of(one) for one in kept(path)}
    missing = [
        (sizes, form, a)
        for sizes, form, a in jobs
        if key_of({**planned, "sizes": sizes, "diversity": form, "assignment": a}) not in done
    ]
    make = partial(run_one, design, root=root, assignments=assignments)
    if workers == 1:
        for job in missing:
            record = make(*job)
            atomic.append_jsonl(path, record)
            yield record
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        for future in as_completed([pool.submit(make, *job) for job in missing]):
            record = future.result()
            atomic.append_jsonl(path, record)
            yield record


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing and print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help=", ".join(DESIGNS))
    parser.add_argument("--root", default="data")
    parser.add_argument("--assignments", type=int, default=ASSIGNMENTS, help="permutations of the classes")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one thread")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if options.workers == 1:
        _one_thread()
    try:
        if options.data not in DESIGNS:
            raise unknown("data", options.data, DESIGNS)
        if options.assignments < 2 or options.assignments % 2:
            raise must("assignments", "be an even number of at least 2", options.assignments)
        design, path = DESIGNS[options.data], options.out or path_of(options.data)
        made = run(design, assignments=options.assignments, root=options.root, workers=options.workers, path=path)
        for number, one in enumerate(made, 1):
            narrow = torch.tensor(one["narrow"])
            recall = torch.tensor(one["classes"]["recall_test"])
            shown = ", ".join(
                f"{name} {float(recall[of].mean()):.0%}"
                for name, of in (("narrow", narrow), ("wide", ~narrow))
                if of.any()
            )
            print(
                f"{number}: assignment {one['assignment']}, sizes {one['sizes']}, {one['diversity']}: recall {shown}; {one['seconds']:.1f} s",
                flush=True,
            )
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
