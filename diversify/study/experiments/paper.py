"""The claims of the paper that this library builds on, tested one by one.

The paper is Dablain et al., "Understanding CNN fragility when learning with imbalanced data", 2023 (arXiv 2210.09465). For each
loss and seed, three networks begin with the same weights: one is trained on imbalanced data, one on balanced data, and one on
the same balanced data in another order. The third shows how much two networks differ where nothing but chance differs. Each
seed permutes anew which classes are rare. A record holds the measures of the three networks per class; `paper_claims.py` judges
the claims by them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pydantic
import torch

from ...diagnosis.measure import usual_top_k
from ...errors import must, unknown
from ...files.schema import refusal
from ...network.split import split_head
from ...network.wrappers import evaluating
from ...runtime import provenance
from ..methods import losses as library
from ..protocol import Protocol
from ..task import RunImages, Task, default_device, load_task
from ..trial import Run
from .paper_networks import Network, record_of
from .runs import claimed, kept_of, made, on_one_thread

SUITE = "paper"
LOSSES = ("ce", "ldam_drw", "focal")
SEEDS = 5
FEWEST_SEEDS = 3
METHODS = {method.name: method for method in library.LOSSES if method.head_step is None}
NETWORKS = ("imbalanced", "balanced", "again")
OTHER_ORDER = 1 << 20  # added to the seed of the third network's batches; its initial weights stay the same
MATCHED = 20  # images of every class on which diversity is compared, or as many as the smallest class has
FIELDS = ("design", "loss", "seed")


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
        changes: dict[str, Any] = {
            name: getattr(self, name) for name in ("data", "model", "epochs", "batch_size", "warmup_epochs")
        }
        changes |= {name: getattr(self, name) for name in ("precision", "resize", "crop")}
        rates: dict[str, Any] = {name: (getattr(self, name),) * 3 for name in ("learning_rate", "weight_decay")}
        fixed: dict[str, Any] = {"suite": SUITE, "methods": LOSSES, "imbalance": imbalance, "tail_orders": (str(seed),)}
        try:
            return Protocol(**changes, **rates, **fixed)
        except pydantic.ValidationError as error:
            raise refusal("design", error, Protocol.model_fields) from None


SMALL: dict[str, Any] = {"imbalance": "exp:100:1000", "balanced": "exp:1:1000"}
LARGE: dict[str, Any] = {
    "model": "resnet32",
    "epochs": 200,
    "learning_rate": 0.1,
    "weight_decay": 2e-4,
    "warmup_epochs": 5,
}
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


def run_one(design: Design, loss: str, seed: int, root: str | Path, device: str | None, states: Path) -> dict[str, Any]:
    """Train the three networks of a loss and a seed and return their record. States are kept in `states` until then."""
    started, begun = provenance.now(), time.perf_counter()
    where = default_device() if device is None else torch.device(device)
    with on_one_thread():
        sets = {
            name: Task(design.protocol(imbalance, seed), root=str(root), device=where, download=False).images(
                str(seed), "test"
            )
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
        measured = record_of(networks, matched)
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
        **measured,
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


def run(
    design: Design,
    *,
    losses: Sequence[str] = LOSSES,
    seeds: int | Sequence[int] = SEEDS,
    root: str | Path = "data",
    workers: int = 1,
    device: str | None = None,
    download: bool = False,
    path: Path,
) -> Iterator[dict[str, Any]]:
    """Make the runs that are not recorded, append a line for each, and yield it.

    Seeds come one after the other, so that a stopped experiment is complete for the first ones.

    Args:
        design: What is trained.
        losses: Names of losses of the library.
        seeds: The seeds, or their number.
        root: Folder of the data sets.
        workers: Processes, each with one thread.
        device: Training device; None for the accelerator if there is one.
        download: True to download a public data set that is missing.
        path: The records, a file that ends in `.jsonl`; it is created if needed, and states of unfinished networks lie beside it.

    Yields:
        One record per loss and seed, which is already written.

    Raises:
        InputError: There are too few seeds, a loss is unknown or named twice, or the data or the network cannot be had; or `path`
            holds other records or is in use.
    """
    if isinstance(seeds, int):
        if seeds < FEWEST_SEEDS:
            raise must("seeds", f"be at least {FEWEST_SEEDS}", seeds)
        seeds = range(seeds)
    if len(seeds) < FEWEST_SEEDS:
        raise must("seeds", f"be at least {FEWEST_SEEDS} numbers", ",".join(map(str, seeds)))
    if len(set(losses)) < len(losses):
        raise must("losses", "be different", ", ".join(losses))
    for loss in losses:
        if loss not in METHODS:
            raise unknown("loss", loss, METHODS)
    if not missing_of(design, losses, seeds, path):
        return
    load_task(
        design.protocol(design.imbalance, 0), root=str(root), device=device, download=download
    )  # finds what would stop every run
    make = partial(run_one, design, root=root, device=device, states=path.parent)
    with claimed(path):
        yield from made(make, missing_of(design, losses, seeds, path), path, workers=workers)


def records_of(design: Design, path: Path) -> list[dict[str, Any]]:
    """Return the records of a design in a file; none if the file is not there.

    Raises:
        InputError: The file holds other records.
    """
    return [one for one in kept_of(SUITE, path, FIELDS) if one["design"] == design.record()]


def missing_of(design: Design, losses: Sequence[str], seeds: Sequence[int], path: Path) -> list[tuple[str, int]]:
    """Return loss and seed of the runs that are not recorded.

    Raises:
        InputError: The file holds other records.
    """
    done = {key_of(one) for one in records_of(design, path)}
    planned = {"design": design.record()}
    jobs = [(loss, seed) for seed in seeds for loss in losses]
    return [(loss, seed) for loss, seed in jobs if key_of({**planned, "loss": loss, "seed": seed}) not in done]
