"""The claims of the paper that this library builds on, tested one by one: `benchmarks/results/paper_DATA.jsonl`.

    python -m benchmarks.paper digits --workers 2
    python -m benchmarks.paper cifar10 --root DATA --workers 2
    python -m benchmarks.paper cifar10 --root DATA --model resnet32 --epochs 200 --imbalance exp:100 --balanced none --out FILE

The paper is Dablain et al., "Understanding CNN fragility when learning with imbalanced data", 2023 (arXiv 2210.09465). For each loss
and seed, three networks begin with the same weights: one is trained on imbalanced data, one on balanced data, and one on the same
balanced data in another order. The third shows how much two networks differ where nothing but chance differs. Each seed permutes anew
which classes are rare. A record holds the measures of the three networks per class; `paper_claims.py` judges the claims by them. The
same command goes on where it was stopped, inside a network too, and prints the verdicts at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pydantic
import torch
from torch import Tensor

from benchmarks import records
from diversify.diagnosis.columns import global_centre
from diversify.diagnosis.measure import usual_top_k
from diversify.errors import InputError, must, unknown
from diversify.files.schema import refusal
from diversify.functional import counts, diversity, magnitude, metrics
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.network.split import split_head
from diversify.network.wrappers import evaluating
from diversify.runtime import provenance
from diversify.study.methods import losses as library
from diversify.study.protocol import Protocol
from diversify.study.task import RunImages, Task, default_device, load_task
from diversify.study.trial import Run

RESULTS = Path(__file__).parent / "results"
SUITE = "paper"
LOSSES = ("ce", "ldam_drw", "focal")
SEEDS = 5
FEWEST_SEEDS = 3
METHODS = {method.name: method for method in library.LOSSES if method.head_step is None}
NETWORKS = ("imbalanced", "balanced", "again")
OTHER_ORDER = 1 << 20  # added to the seed of the third network's batches; its initial weights stay the same
MATCHED = 20  # images of every class on which diversity is compared, or as many as the smallest class has
DIVERSITY_DRAWS = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """What is trained on one data set; records of one design are judged together.

    Attributes:
        data: The data set.
        imbalance: Class sizes of the imbalanced training set, as `load_data` takes them.
        balanced: Class sizes of the balanced one.
        model: Network.
        epochs: Passes over the training images.
        batch_size: Images per step.
        learning_rate: Peak learning rate; the schedule is cosine.
        weight_decay: Weight decay.
        warmup_epochs: Epochs of linear warm-up.
        precision: "fp32" or "bf16".
        resize: Shorter side of the images; None for what is usual for the data.
        crop: Side of the centre crop.
    """

    data: str
    imbalance: str
    balanced: str
    model: str = "small_cnn"
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    warmup_epochs: int = 2
    precision: str = "fp32"
    resize: int | None = None
    crop: int | None = None

    def record(self) -> dict[str, Any]:
        """Return what a record keeps."""
        return dataclasses.asdict(self)

    def protocol(self, imbalance: str, seed: int) -> Protocol:
        """Return the training set and budget in the terms of a study.

        Raises:
            InputError: A value is outside its range.
        """
        changes = {name: getattr(self, name) for name in ("data", "model", "epochs", "batch_size", "warmup_epochs")}
        changes |= {name: getattr(self, name) for name in ("precision", "resize", "crop")}
        rates = {name: (getattr(self, name),) * 3 for name in ("learning_rate", "weight_decay")}
        fixed = {"suite": SUITE, "methods": LOSSES, "imbalance": imbalance, "tail_orders": (str(seed),)}
        try:
            return Protocol(**changes, **rates, **fixed)
        except pydantic.ValidationError as error:
            raise refusal("design", error, Protocol.model_fields) from None


SMALL = {"imbalance": "exp:100:1000", "balanced": "exp:1:1000"}
LARGE = {"model": "resnet32", "epochs": 200, "learning_rate": 0.1, "weight_decay": 2e-4, "warmup_epochs": 5}
DESIGNS = {
    design.data: design
    for design in (
        Design(data="digits", imbalance="exp:20:100", balanced="exp:1:100", epochs=25, batch_size=32),
        Design(data="mnist", **SMALL),
        Design(data="fashion-mnist", **SMALL),
        Design(data="cifar10", **SMALL),
        Design(data="places365", imbalance="exp:100:3000", balanced="exp:1:3000", resize=72, crop=64, **LARGE),
        Design(data="inaturalist", imbalance="exp:10:50", balanced="exp:1:50", resize=72, crop=64, **LARGE),
    )
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A trained network: its head, and the embeddings of three sets of images.

    Attributes:
        head: The head.
        train: The images that it was trained on.
        shared: The training images of the imbalanced network, which the balanced ones were trained on too.
        test: Test images.
    """

    head: LinearHead
    train: Embeddings
    shared: Embeddings
    test: Embeddings

    @property
    def hits(self) -> Tensor:
        """`(M,)` True for the test images that the network recognises."""
        return self.test.logits.argmax(1) == self.test.labels

    def embedded(self, side: Embeddings, space: str) -> tuple[Tensor, Tensor | None]:
        """Return features `(N, D)`, and the weight rows that make CE of them; None for FE, `space` "fe"."""
        features, weight, _ = self.head.effective(side.features)
        return features, weight if space == "ce" else None

    def class_means(self, side: Embeddings, space: str) -> Tensor:
        """Return the class means of CE or FE, `(C, D)`."""
        features, weight = self.embedded(side, space)
        means = counts.class_mean(features, side.labels, self.head.num_classes)
        return means if weight is None else means * weight

    def top(self, side: Embeddings, space: str) -> Tensor:
        """Return the top-K of every class on these images, `(C, K)`."""
        return magnitude.top_k(self.class_means(side, space), usual_top_k(self.head.num_features))

    def strength(self, side: Embeddings, space: str, top: Tensor) -> Tensor:
        """Return the magnitude of the top-K of its class for each image, `(N,)`."""
        features, weight = self.embedded(side, space)
        return magnitude.top_k_magnitude(features, weight, side.labels, top)

    def mean(self, values: Tensor, labels: Tensor) -> Tensor:
        """Return the mean of each class, `(C,)`; NaN where there is none."""
        return counts.class_mean(values.double(), labels, self.head.num_classes)


def recall_of(side: Embeddings, num_classes: int) -> Tensor:
    """Return the recall of each class, `(C,)`."""
    return metrics.recall(metrics.confusion_matrix(side.labels, side.logits.argmax(1), num_classes))


def class_columns(network: Network, matched: int) -> dict[str, Tensor]:
    """Return the measures of one network, each `(C,)`.

    The top-K are chosen on the network's own training images. `share` is the part of the positive mean that the top-K hold, `needed`
    the number of CE that the decision for a recognised test image needs, `overlap_classes` the mean overlap of a class's top-K with
    those of another class, `overlap_spaces` that of its top-K CE with its top-K FE.
    """
    head, train, test = network.head, network.train, network.test
    features, weight, bias = head.effective(test.features)
    needed = magnitude.number_needed(features, weight, bias)
    found = {
        "count": counts.class_counts(train.labels, head.num_classes),
        "recall_train": recall_of(train, head.num_classes),
        "recall_test": recall_of(test, head.num_classes),
        "needed": network.mean(needed[network.hits], test.labels[network.hits]),
        "diversity": diversity_of(network, matched),
    }
    tops = {space: network.top(train, space) for space in ("ce", "fe")}
    for space, top in tops.items():
        between = magnitude.identity_overlap_matrix(top, head.num_features)
        strength = network.strength(test, space, top)
        found |= {
            f"share_{space}": magnitude.top_k_share(network.class_means(train, space), top),
            f"overlap_classes_{space}": between.fill_diagonal_(math.nan).nanmean(1),
            f"magnitude_{space}_train": network.mean(network.strength(train, space, top), train.labels),
            f"magnitude_{space}_test": network.mean(strength, test.labels),
            f"magnitude_{space}_hits": network.mean(strength[network.hits], test.labels[network.hits]),
            f"magnitude_{space}_misses": network.mean(strength[~network.hits], test.labels[~network.hits]),
        }
    found["overlap_spaces"] = magnitude.identity_overlap(tops["ce"], tops["fe"], head.num_features)
    return found


def diversity_of(network: Network, matched: int) -> Tensor:
    """Return the Vendi score of the training features at equally many images of every class, `(C,)`."""
    side, num_classes = network.train, network.head.num_classes
    centre = global_centre(side.features, side.labels, num_classes)
    found = diversity.matched_diversity(
        side.features,
        side.labels,
        num_classes,
        centre=centre,
        weight=None,
        k=1,
        n=matched,
        draws=DIVERSITY_DRAWS,
        seed=0,
        name="paper",
    )
    return found["vendi"].double().mean(0)


def shared_columns(network: Network, common: Tensor) -> dict[str, Tensor]:
    """Return the measures that are taken on the same images in all three networks, each `(C,)`.

    Magnitudes are those of the top-K on the images of `shared`; the number needed is over the test images in `common`.
    """
    features, weight, bias = network.head.effective(network.test.features[common])
    needed = magnitude.number_needed(features, weight, bias)
    found = {"needed_shared": network.mean(needed, network.test.labels[common])}
    for space in ("ce", "fe"):
        strength = network.strength(network.shared, space, network.top(network.shared, space))
        found[f"magnitude_{space}_shared"] = network.mean(strength, network.shared.labels)
    return found


def pair_columns(first: Network, second: Network, common: Tensor) -> dict[str, Tensor]:
    """Return how the same classes differ between two networks, each `(C,)`.

    `identity` is the overlap of the top-K on the images of `shared`. `frequency` is the distance, in [0, 1], between the distributions
    over features of the CE that are needed, for the test images in `common`. The channels of the second network are matched to those
    of the first by their correlation on test images.
    """
    partner = magnitude.match_channels(first.test.features, second.test.features)
    place = torch.argsort(partner)
    found = {}
    for space in ("ce", "fe"):
        one, two = (network.top(network.shared, space) for network in (first, second))
        moved = torch.where(two < 0, two, place[two.clamp(min=0)])
        found[f"identity_{space}"] = magnitude.identity_overlap(one, moved, first.head.num_features)
    used = []
    for network in (first, second):
        features, weight, bias = network.head.effective(network.test.features[common])
        frequency = magnitude.needed_frequency(features, weight, bias, network.test.labels[common]).double()
        used.append(frequency / frequency.sum(1, keepdim=True))
    return found | {"frequency": (used[0] - used[1][:, partner]).abs().sum(1) / 2}


def record_of(networks: Mapping[str, Network], matched: int) -> dict[str, Any]:
    """Return the measures of the three networks of `NETWORKS`, as a record holds them."""
    common = torch.stack([network.hits for network in networks.values()]).all(0)
    return {
        "networks": {
            name: listed(class_columns(network, matched) | shared_columns(network, common))
            for name, network in networks.items()
        },
        "against_balanced": {
            name: listed(pair_columns(networks["balanced"], networks[name], common)) for name in ("imbalanced", "again")
        },
    }


def listed(columns: Mapping[str, Tensor]) -> dict[str, list[float | None]]:
    """Return numbers with six digits, null where undefined."""
    return {
        name: [float(f"{value:.6g}") if math.isfinite(value) else None for value in column.double().tolist()]
        for name, column in columns.items()
    }


def trained(
    design: Design, images: RunImages, shared: RunImages, loss: str, seed: int, other_order: bool, state: Path
) -> Network:
    """Train one network, or go on with the one in `state`."""
    method = METHODS[loss]
    parameters = {name: one.default for name, one in method.space.items()}
    protocol = design.protocol(design.balanced, seed)
    run = Run.start(protocol, images, method, parameters, epochs=design.epochs, seed=seed)
    if other_order:
        run = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, seed=seed + OTHER_ORDER))
    for _ in run.train(state=state):
        pass
    split = split_head(run.model)
    same_view = dataclasses.replace(shared, view=images.view)
    with evaluating(run.model):
        head = run.head(split)
        return Network(
            head=head,
            train=run.embeddings(split, head, evaluation=False),
            shared=dataclasses.replace(run, images=same_view).embeddings(split, head, evaluation=False),
            test=run.embeddings(split, head, evaluation=True),
        )


def run_one(design: Design, loss: str, seed: int, root: str, device: str | None, states: Path) -> dict[str, Any]:
    """Train the three networks of a loss and a seed and return their record. States are kept in `states` until then."""
    started, begun = provenance.now(), time.perf_counter()
    where = default_device() if device is None else torch.device(device)
    sets = {
        name: Task(design.protocol(imbalance, seed), root=root, device=where, download=False).images(str(seed), "test")
        for name, imbalance in (("imbalanced", design.imbalance), ("balanced", design.balanced))
    }
    shared = sets["imbalanced"]
    require_part(shared, sets["balanced"])
    name = hashlib.sha256(json.dumps([design.record(), loss, seed]).encode()).hexdigest()[:16]
    files = {network: states / f"paper_{name}_{network}.state" for network in NETWORKS}
    networks = {
        network: trained(
            design, sets.get(network, sets["balanced"]), shared, loss, seed, network == "again", files[network]
        )
        for network in NETWORKS
    }
    head = networks["balanced"].head
    matched = min(MATCHED, int(shared.class_counts.min()))
    record = {
        "kind": "run",
        "suite": SUITE,
        "design": design.record(),
        "loss": loss,
        "seed": seed,
        "class_names": list(shared.data.class_names),
        "top_k": usual_top_k(head.num_features),
        "num_features": head.num_features,
        "matched": matched,
        **record_of(networks, matched),
        "seconds": round(time.perf_counter() - begun, 2),
        "started": started,
        **provenance.origin(where),
    }
    for file in files.values():
        file.unlink(missing_ok=True)
    return record


def require_part(part: RunImages, whole: RunImages) -> None:
    """Raise an error if an imbalanced training image is not in the balanced training set."""
    rows = [one.data.train.indices for one in (part, whole)]
    outside = int((~torch.isin(*rows)).sum())
    if outside:
        law = "have no class that is larger than in the balanced one"
        raise must("imbalanced training set", law, f"{outside} images more", "raise the sizes of the balanced one")


def key_of(record: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return what no two records share."""
    return json.dumps(record["design"], sort_keys=True), record["loss"], record["seed"]


def path_of(data: str) -> Path:
    """Return the file of the records of a data set."""
    return RESULTS / f"paper_{data.replace('-', '_')}.jsonl"


def run(
    design: Design,
    *,
    losses: Sequence[str] = LOSSES,
    seeds: int = SEEDS,
    root: str = "data",
    workers: int = 1,
    device: str | None = None,
    path: Path,
) -> Iterator[dict[str, Any]]:
    """Make the runs that are not recorded, append a line for each, and yield it.

    Seeds come one after the other, so that a stopped experiment is complete for the first ones.

    Raises:
        InputError: There are too few seeds, a loss is unknown or named twice, or the data or the network cannot be had.
    """
    if seeds < FEWEST_SEEDS:
        raise must("seeds", f"be at least {FEWEST_SEEDS}", seeds)
    if len(set(losses)) < len(losses):
        raise must("losses", "be different", ", ".join(losses))
    for loss in losses:
        if loss not in METHODS:
            raise unknown("loss", loss, METHODS)
    done = {key_of(one) for one in records.kept(path)}
    planned = {"design": design.record()}
    jobs = [(loss, seed) for seed in range(seeds) for loss in losses]
    missing = [(loss, seed) for loss, seed in jobs if key_of({**planned, "loss": loss, "seed": seed}) not in done]
    if missing:
        load_task(design.protocol(design.imbalance, 0), root=root, device=device)  # finds what would stop every run
    path.parent.mkdir(parents=True, exist_ok=True)
    make = partial(run_one, design, root=root, device=device, states=path.parent)
    yield from records.made(make, missing, path, workers=workers)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help=", ".join(DESIGNS))
    parser.add_argument("--root", default="data", help="folder of the data sets")
    parser.add_argument("--losses", default=",".join(LOSSES))
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"number of seeds, at least {FEWEST_SEEDS}")
    for field in dataclasses.fields(Design)[1:]:
        number = {"int": int, "float": float, "int | None": int}.get(str(field.type), str)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=number)
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one thread")
    parser.add_argument("--device", help="cpu or cuda; by default the accelerator if there is one")
    parser.add_argument("--out", type=Path, help="the records, a file that ends in .jsonl")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing, print a line for each run, and then the verdicts."""
    from benchmarks import paper_claims

    options = _parser().parse_args(arguments)
    if options.workers == 1:
        records.one_thread()
    try:
        if options.data not in DESIGNS:
            raise unknown("data", options.data, DESIGNS)
        names = [field.name for field in dataclasses.fields(Design)[1:]]
        given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
        design, path = dataclasses.replace(DESIGNS[options.data], **given), options.out or path_of(options.data)
        losses = tuple(options.losses.split(","))
        made = run(
            design,
            losses=losses,
            seeds=options.seeds,
            root=options.root,
            workers=options.workers,
            device=options.device,
            path=path,
        )
        for number, one in enumerate(made, 1):
            recall = {name: paper_claims.column(one, name, "recall_test").nanmean() for name in NETWORKS}
            shown = ", ".join(f"{name} {float(value):.1%}" for name, value in recall.items())
            line = f"{number}: {one['loss']}, seed {one['seed']}: balanced accuracy {shown}; {one['seconds']:.1f} s"
            print(line, flush=True)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    print(paper_claims.table([one for one in records.kept(path) if one["design"] == design.record()]))


if __name__ == "__main__":
    main()
