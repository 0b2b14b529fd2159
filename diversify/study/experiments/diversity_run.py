"""Class size and class diversity taken apart, in many small trainings.

Every run trains one small network on a training set in which class sizes and class diversity are set independently of each
other, and leaves one record: per class the number of images, the recall on test images and on held-out images that were chosen
as the training images were, the ratio of top-K magnitudes on both kinds of held-out images, how well the training images cover
them, the troubles that a diagnosis names, and every diversity measure that can be taken from the training images alone. Class
sizes and narrow classes are permuted over the classes anew in each assignment. The first half of the assignments is for
development, the other half for confirmation.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ...data.load import Data, load_data
from ...data.loader import Split, collate
from ...data.view import View
from ...diagnosis.measure import diagnose
from ...errors import must
from ...functional import counts, draws, metrics
from ...network.embeddings import Embeddings
from ...network.linear_head import LinearHead, read_head
from ...runtime import provenance
from ...training.ingredients import Ingredients
from ...training.recipe import Recipe
from ...training.resident import ResidentImages, fit_resident
from .diversity_designs import ASSIGNMENTS, HALVES, Design
from .diversity_measures import FEW_HELDOUT, OF_DIAGNOSIS, TOP_K, all_measures, coverage_of_few, magnitude_ratio
from .diversity_network import SmallNetwork, features_of
from .runs import claimed, kept_of, listed, made, on_one_thread

SUITE = "diversity"
NARROW = 0.5
TEST_IMAGES = 300  # of a class, at most
FIELDS = ("design", "sizes", "diversity", "assignment", "half")


def built(design: Design, data: Data, seed: int) -> SmallNetwork:
    """Return the untrained network of a seed; the global random state stays as it was."""
    image = collate([data.train.dataset[0]])[0]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return SmallNetwork(image.shape[1], design.widths, data.num_classes, image.shape[2])


def loaded(design: Design, sizes: str, form: str, assignment: int, root: str | Path, *, download: bool = False) -> Data:
    """Return the data of one run."""
    order = {"with": f"small:{assignment}", "against": f"large:{assignment}"}.get(sizes, str(assignment))
    narrowed: dict[str, Any] = {}
    if form != "none":
        narrowed = {"diversity": form, "narrow": NARROW, "narrow_order": order}
    return load_data(
        design.data,
        root=root,
        imbalance=design.equal if sizes == "equal" else design.unequal,
        tail_order=str(assignment),
        holdout=design.holdout,
        download=download,
        **narrowed,
    )


def images_of(split: Split, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return images and labels of a split in memory."""
    rows = torch.arange(len(split)) if rows is None else rows
    found: tuple[Tensor, Tensor] = collate(split.dataset.__getitems__(rows.tolist()))  # type: ignore[attr-defined]
    return found


def some_of(split: Split, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return at most `TEST_IMAGES` of every class of a split, the same in every run."""
    word = draws.bits("diversity test", torch.arange(len(split)))
    chosen = []
    for c in range(num_classes):
        rows = (split.labels == c).nonzero()[:, 0]
        chosen.append(rows[torch.argsort(word[rows])[:TEST_IMAGES]])
    return images_of(split, torch.cat(chosen))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A trained network with its head, and the untrained features of its training images.

    Attributes:
        model: The network.
        head: Its head.
        view: How it sees images.
        images: `(N, channels, height, width)`: the training images.
        labels: `(N,)`.
        untrained: `(N, D)`: features of the last layer before training.
    """

    model: SmallNetwork
    head: LinearHead
    view: View
    images: Tensor
    labels: Tensor
    untrained: Tensor

    def embedded(self, images: Tensor, labels: Tensor) -> Embeddings:
        """Return the embeddings of images."""
        features = features_of(self.model, images, self.view)["latent"]
        return Embeddings(
            features=features, labels=labels, logits=self.head.logits(features), indices=torch.arange(len(labels))
        )


def trained_on(
    design: Design,
    data: Data,
    view: View,
    seed: int,
    ingredients: Callable[[Tensor, Tensor], Ingredients] | None = None,
) -> Trained:
    """Train the network of a seed.

    Args:
        design: What is trained.
        data: The data of the run.
        view: How the network sees images.
        seed: Of the initial weights and all draws.
        ingredients: Makes the parts of a method from the training images `(N, channels, height, width)` and labels `(N,)`;
            None for plain training.
    """
    model = built(design, data, seed)
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
        seed=seed,
    )
    model.train()
    resident = ResidentImages(images=images, labels=labels)
    parts = None if ingredients is None else ingredients(images, labels)
    for _ in fit_resident(
        model, resident, recipe=recipe, num_classes=data.num_classes, ingredients=parts, prepare=view.normalize
    ):
        pass
    head = read_head(model.linear)
    return Trained(model=model, head=head, view=view, images=images, labels=labels, untrained=untrained)


def run_one(
    design: Design, sizes: str, form: str, assignment: int, root: str | Path, assignments: int
) -> dict[str, Any]:
    """Train one network and return its record.

    Args:
        design: What is trained.
        sizes: How class sizes go with diversity, one of `SIZES`.
        form: How narrow classes are less diverse; "none" for none.
        assignment: The permutation of the classes, and the seed.
        root: Folder of the data sets.
        assignments: Number of assignments, which says whether this one is for development.

    Raises:
        InputError: The data are missing, or have no held-out or test images.
    """
    started, begun = provenance.now(), time.perf_counter()
    with on_one_thread():
        data = loaded(design, sizes, form, assignment, root)
        if data.view is None or data.val is None or data.test is None:
            raise must(f"data {design.data}", "have a val and a test split", "none")
        network = trained_on(design, data, data.view, assignment)
        trained = time.perf_counter()
        found = _measured(design, data, network, data.val, data.test)
    return {
        "kind": "run",
        "suite": SUITE,
        "design": design.record(),
        "sizes": sizes,
        "diversity": form,
        "assignment": assignment,
        "half": HALVES[assignment * 2 // assignments],
        "class_names": list(data.class_names),
        "narrow": [c in data.narrow_classes for c in range(data.num_classes)],
        **found,
        "seconds": round(time.perf_counter() - begun, 2),
        "seconds_of_training": round(trained - begun, 2),
        "started": started,
        **provenance.origin(torch.device("cpu")),
    }


def _measured(design: Design, data: Data, network: Trained, val: Split, test: Split) -> dict[str, Any]:
    """Return the measures of a run, as its record holds them."""
    num_classes, head, labels = data.num_classes, network.head, network.labels
    train, wide = network.embedded(network.images, labels), network.embedded(*images_of(val))
    like = wide if data.val_like_train is None else network.embedded(*images_of(data.val_like_train))
    shown = network.embedded(*some_of(test, num_classes))
    measures = all_measures(design, data, network.model, network.images, train, network.untrained, head)
    diagnoses = {
        name: diagnose(train, side, head=head, class_names=data.class_names, top_k=TOP_K)
        for name, side in (("wide", wide), ("like", like))
    }
    found = diagnoses["like"]
    measures |= {name: found[name] for name in OF_DIAGNOSIS if name in found.columns}
    distinct = [data.train.indices[labels == c].unique().numel() for c in range(num_classes)]
    classes = {
        "count": counts.class_counts(labels, num_classes),
        "distinct": torch.tensor(distinct),
        "recall_test": _recall(shown, num_classes),
        "recall_wide": _recall(wide, num_classes),
        "recall_like": _recall(like, num_classes),
        "ratio_wide": magnitude_ratio(train, wide, head),
        "ratio_like": magnitude_ratio(train, like, head),
        "ratio_test": magnitude_ratio(train, shown, head),
    }
    covered = {
        side: {
            end: listed(one[f"coverage_heldout_{end}" if end else "coverage_heldout"]) for end in ("", "low", "high")
        }
        for side, one in diagnoses.items()
    }
    return {
        "classes": {name: listed(values.double()) for name, values in classes.items()},
        "measures": {name: listed(values.double()) for name, values in measures.items()},
        "coverage": covered | {str(most): coverage_of_few(train, wide, most) for most in FEW_HELDOUT},
        "trouble": {side: [list(each) for each in one.troubles] for side, one in diagnoses.items()},
    }


def _recall(side: Embeddings, num_classes: int) -> Tensor:
    return metrics.recall(metrics.confusion_matrix(side.labels, side.logits.argmax(1), num_classes))


def key_of(record: Mapping[str, Any]) -> tuple[str, str, str, int]:
    """Return what no two records share."""
    return str(sorted(record["design"].items())), record["sizes"], record["diversity"], record["assignment"]


def run(
    design: Design,
    *,
    assignments: int = ASSIGNMENTS,
    root: str | Path = "data",
    workers: int = 1,
    download: bool = False,
    path: Path,
) -> Iterator[dict[str, Any]]:
    """Make the runs that are not recorded, append a line for each, and yield it.

    Assignments come one after the other, so that a stopped experiment is complete for the first ones.

    Args:
        design: What is trained.
        assignments: Permutations of the classes, an even number.
        root: Folder of the data sets.
        workers: Processes, each with one thread.
        download: True to download a public data set that is missing.
        path: The records, a file that ends in `.jsonl`; it is created if needed.

    Yields:
        One record per run, which is already written.

    Raises:
        InputError: `assignments` is odd, or not what the records in `path` were made with; `path` holds other records or is in
            use; or the data are missing.
    """
    if assignments < 2 or assignments % 2:
        raise must("assignments", "be an even number of at least 2", assignments)
    if not missing_of(design, assignments, path):
        return
    loaded(design, "equal", "none", 0, root, download=download)  # finds what would stop every run
    make = partial(run_one, design, root=root, assignments=assignments)
    with claimed(path):
        yield from made(make, missing_of(design, assignments, path), path, workers=workers)


def records_of(design: Design, path: Path) -> list[dict[str, Any]]:
    """Return the records of a design in a file; none if the file is not there.

    Raises:
        InputError: The file holds other records.
    """
    return [one for one in kept_of(SUITE, path, FIELDS) if one["design"] == design.record()]


def missing_of(design: Design, assignments: int, path: Path) -> list[tuple[str, str, int]]:
    """Return sizes, diversity and assignment of the runs that are not recorded.

    Raises:
        InputError: The file holds other records, or records that were made with another number of assignments.
    """
    known = records_of(design, path)
    for one in known:
        place = one["assignment"] * 2 // assignments
        if place >= len(HALVES) or one["half"] != HALVES[place]:
            got = f"{assignments}, by which assignment {one['assignment']} of {path} is not for {one['half']}"
            raise must("assignments", "be the number that the records were made with", got, "choose another file")
    done = {key_of(one) for one in known}
    planned = {"design": design.record()}
    return [
        (sizes, form, assignment)
        for assignment in range(assignments)
        for sizes, form in design.cells
        if key_of({**planned, "sizes": sizes, "diversity": form, "assignment": assignment}) not in done
    ]


def line_of(record: Mapping[str, Any]) -> str:
    """Return one line that says what a run shows."""
    cell = f"assignment {record['assignment']}, sizes {record['sizes']}, {record['diversity']}"
    return f"{cell}: test recall {_recalls([record])}; {record['seconds']:.1f} s"


def summary_of(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the mean test recall of narrow and of wide classes for each kind of run; the records are of one design.

    Example:
        >>> one = {"sizes": "equal", "diversity": "bursts:10", "narrow": [True, False], "classes": {"recall_test": [0.5, 0.75]}}
        >>> print(summary_of([one]))
        | class sizes | diversity | runs | test recall |
        |:--|:--|--:|:--|
        | equal | bursts:10 | 1 | narrow 50%, wide 75% |
    """
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in records:
        cells.setdefault((one["sizes"], one["diversity"]), []).append(one)
    rows = ["| class sizes | diversity | runs | test recall |", "|:--|:--|--:|:--|"]
    rows += [f"| {sizes} | {form} | {len(own)} | {_recalls(own)} |" for (sizes, form), own in sorted(cells.items())]
    return "\n".join(rows)


def _recalls(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the mean test recall of narrow and of wide classes in words."""
    recall: dict[str, list[float]] = {"narrow": [], "wide": []}
    for one in records:
        for narrow, value in zip(one["narrow"], one["classes"]["recall_test"], strict=True):
            if value is not None:
                recall["narrow" if narrow else "wide"].append(value)
    return ", ".join(f"{name} {fmean(values):.0%}" for name, values in recall.items() if values)
